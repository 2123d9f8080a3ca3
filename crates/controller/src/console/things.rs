//! Making and changing what an organization has: one way for all of them, through the API.

use super::{
    ask::{Api, Refused, send},
    form::{Errors, Field, FormPage, Kind, MOST_OPTIONS, Posted, Values, called, chosen, conflict, show},
    lists::Wanted,
    look::{card_with_room, head, note},
    shell::{Here, Viewer},
};
use crate::api::is_unchanged;
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What can be made and changed by a form. Policies have a page of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thing {
    Site,
    Resource,
    Group,
    User,
    ServiceAccount,
    Pop,
    Device,
    Connector,
    Policy,
    Key,
}

impl Thing {
    /// Where it is in the API.
    pub(super) const fn api(self) -> &'static str {
        match self {
            Self::Site => "/sites",
            Self::Resource => "/resources",
            Self::Group => "/groups",
            Self::User => "/users",
            Self::ServiceAccount => "/service-accounts",
            Self::Pop => "/pops",
            Self::Device => "/devices",
            Self::Connector => "/connectors",
            Self::Policy => "/policies",
            Self::Key => "/enrolment-keys",
        }
    }

    /// Where it is in the console.
    pub(super) const fn page(self) -> &'static str {
        match self {
            Self::User => "/people",
            Self::Key => "/keys",
            other => other.api(),
        }
    }

    pub(super) const fn list(self) -> &'static str {
        match self {
            Self::Group => "/people",
            Self::Connector => "/sites",
            other => other.page(),
        }
    }

    pub(super) const fn here(self) -> Here {
        match self {
            Self::Site | Self::Connector => Here::Sites,
            Self::Resource => Here::Resources,
            Self::Group | Self::User => Here::People,
            Self::ServiceAccount => Here::ServiceAccounts,
            Self::Pop => Here::Pops,
            Self::Device => Here::Devices,
            Self::Policy => Here::Policies,
            Self::Key => Here::Keys,
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Resource => "resource",
            Self::Group => "group",
            Self::User => "person",
            Self::ServiceAccount => "service account",
            Self::Pop => "PoP",
            Self::Device => "device",
            Self::Connector => "connector",
            Self::Policy => "policy",
            Self::Key => "enrolment key",
        }
    }

    pub(super) const fn many(self) -> &'static str {
        match self {
            Self::Site => "Sites",
            Self::Resource => "Resources",
            Self::Group | Self::User => "People and groups",
            Self::ServiceAccount => "Service accounts",
            Self::Pop => "PoPs",
            Self::Device => "Devices",
            Self::Connector => "Sites",
            Self::Policy => "Policies",
            Self::Key => "Enrolment keys",
        }
    }

    /// What its forms have.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Site => &["name", "prefixes", "regions"],
            Self::Resource => &["name", "site", "address", "ports", "alias", "mode"],
            Self::User => &["name", "email"],
            Self::Pop => &["address", "region", "zone"],
            _ => &["name"],
        }
    }

    /// What removing it means, before it is done.
    pub(super) const fn removal(self) -> &'static str {
        match self {
            Self::Site => "A site can be removed when it has no connectors and no resources.",
            Self::Resource => {
                "Running connections to it end within 5 s. Policies that name it stay, without it."
            }
            Self::Group => {
                "Its members lose what its policies give them, within 5 s. The people themselves stay."
            }
            Self::User => {
                "Their access ends now on every device, also without the database. Their devices are removed with them."
            }
            Self::ServiceAccount => {
                "Its access ends now, also without the database. Its devices are removed with it."
            }
            Self::Pop => {
                "It is revoked at once: agents that use it go to the next one. If it is the only one, relayed access ends."
            }
            Self::Device => {
                "Its access ends now, also without the database; its running sessions end. Its owner can enrol it again with a new key."
            }
            Self::Connector => {
                "It is revoked at once. Sessions through it go to the site’s next connector; with none left, the site’s resources cannot be reached."
            }
            Self::Policy => {
                "Whoever reached something through it alone loses that, within 5 s. Running connections end."
            }
            Self::Key => "Nobody can enrol with it any more. What was enrolled with it stays.",
        }
    }
}

fn lines(values: Vec<String>) -> Value {
    Value::from(values)
}

/// What a form says, as the API wants it.
fn body(thing: Thing, viewer: &Viewer, values: &Values) -> Value {
    match thing {
        Thing::Site => json!({
            "name": values.one("name"), "prefixes": lines(values.list("prefixes")),
            "regions": lines(values.list("regions")),
        }),
        Thing::Resource => {
            let alias = values.one("alias");
            let sites = site_choices(viewer);
            json!({
                "name": values.one("name"), "site": chosen(&sites, values.one("site")), "address": values.one("address"),
                "ports": lines(values.list("ports")), "mode": values.one("mode"),
                "alias": if alias.is_empty() { Value::Null } else { alias.into() },
            })
        }
        Thing::User => json!({"name": values.one("name"), "email": values.one("email")}),
        Thing::Pop => {
            json!({"address": values.one("address"), "region": values.one("region"), "zone": values.one("zone")})
        }
        _ => json!({"name": values.one("name")}),
    }
}

/// One value of a document as a form shows it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join("\n"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn stored(thing: Thing, document: &Value) -> Values {
    Values::new(thing.names().iter().map(|name| ((*name).to_owned(), text(&document[*name]))).collect())
}

/// The sites by id and name.
pub(super) fn site_choices(viewer: &Viewer) -> Vec<(String, String)> {
    viewer.data().sites.iter().map(|site| (site.id.to_string(), site.name.clone())).collect()
}

struct Words {
    sites: Vec<(String, String)>,
    modes: Vec<(String, String)>,
}

impl Words {
    fn of(viewer: &Viewer) -> Self {
        Self {
            sites: site_choices(viewer),
            modes: vec![
                ("standard".into(), "standard: goes on until the grant ends".into()),
                ("strict".into(), "strict: closes when its connector is isolated".into()),
            ],
        }
    }

    fn fields(&self, thing: Thing) -> Vec<Field<'_>> {
        let text = |name, label, hint| Field { name, label, kind: Kind::Text, hint, optional: false };
        match thing {
            Thing::Site => vec![
                text("name", "Name", "What people call this network: Hamburg DC, Office Gdańsk."),
                Field {
                    name: "prefixes",
                    label: "Prefixes",
                    kind: Kind::Area,
                    hint: "Networks that names of this site may resolve to, one a line: 10.20.0.0/16. Names reach nothing outside them.",
                    optional: true,
                },
                Field {
                    name: "regions",
                    label: "Regions of PoPs",
                    kind: Kind::Text,
                    hint: "In order of preference, with commas between. Empty: any PoP.",
                    optional: true,
                },
            ],
            Thing::Resource => vec![
                text("name", "Name", "What people look for: Order database."),
                Field {
                    name: "site",
                    label: "Site",
                    kind: Kind::Choice(&self.sites),
                    hint: "Where it is.",
                    optional: false,
                },
                text(
                    "address",
                    "Address",
                    "A host name, *.name, an IP address or a network: orders-db.example.com, 10.20.14.31, 10.40.7.0/24.",
                ),
                text("ports", "Ports", "With commas between: 443, 8000-8999, udp/53, icmp."),
                Field {
                    name: "alias",
                    label: "Alias",
                    kind: Kind::Text,
                    hint: "A short name that people can type instead.",
                    optional: true,
                },
                Field {
                    name: "mode",
                    label: "When its connector hears no controller for 70 s",
                    kind: Kind::Choice(&self.modes),
                    hint: "",
                    optional: false,
                },
            ],
            Thing::User => vec![
                text("name", "Name", ""),
                text("email", "E-mail", "Unique in the organization. Nothing is sent to it."),
            ],
            Thing::Pop => vec![
                text("address", "Address", "HOST:PORT that agents dial."),
                text("region", "Region", "Lower-case letters, digits and dashes."),
                text("zone", "Zone", "Lower-case letters, digits and dashes."),
            ],
            _ => vec![text("name", "Name", "")],
        }
    }
}

fn form(
    viewer: &Viewer,
    thing: Thing,
    id: Option<&str>,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
    aside: Markup,
) -> Response {
    let words = Words::of(viewer);
    let title = match id {
        None => format!("Add a {}", thing.word()),
        Some(_) => format!("Edit {}", thing.word()),
    };
    let (action, back) = match id {
        None => (format!("{}/new", thing.page()), thing.list().to_owned()),
        Some(id) => (format!("{}/{id}/edit", thing.page()), format!("{}/{id}", thing.page())),
    };
    let lede = match id {
        None => "Nothing can be reached through it until a policy says so.",
        Some(_) => {
            "Connectors enforce a change within 5 s, devices hear of it within 30 s. Nobody has to sign in again."
        }
    };
    let head = head(&[(thing.list(), thing.many())], title.as_str(), lede, html! {});
    let page = FormPage {
        here: thing.here(),
        head,
        title: &title,
        action: &action,
        fields: words.fields(thing),
        save: if id.is_none() { "Save" } else { "Save changes" },
        back: &back,
        more: html! {},
        aside,
    };
    show(viewer, &page, values, errors, status)
}

/// An empty form; the address may fill some of it.
pub(super) async fn new_page(
    thing: Thing,
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    if thing == Thing::Resource && viewer.data().sites.is_empty() {
        return Redirect::to("/sites/new").into_response();
    }
    let known = wanted.into_iter().filter(|(key, _)| thing.names().contains(&key.as_str()));
    form(
        &viewer,
        thing,
        None,
        &Values::new(known.collect()),
        &Errors::default(),
        StatusCode::OK,
        aside(thing),
    )
}

fn aside(thing: Thing) -> Markup {
    match thing {
        Thing::Site => card_with_room(
            "next",
            "What comes next",
            html! {
                p class="sm" { "A site is a private network. After saving you get the command that starts its connector: it dials out only, nothing has to be opened." }
            },
        ),
        Thing::Resource => card_with_room(
            "next",
            "What comes next",
            html! {
                p class="sm" { "A resource that no policy names is closed for everybody. After saving you can write the policy that opens it." }
            },
        ),
        Thing::User => card_with_room(
            "next",
            "What comes next",
            html! {
                p class="sm" { "Put the person into a group, then make a link that enrols their device. What they reach follows from their groups." }
            },
        ),
        _ => html! {},
    }
}

/// What was typed as a site's name and is none. The API would ask for an id, which nobody types.
fn unknown_site(thing: Thing, viewer: &Viewer, values: &Values) -> Option<Errors> {
    let sites = site_choices(viewer);
    let typed = values.one("site");
    let found = chosen(&sites, typed);
    let is_typed = thing == Thing::Resource && sites.len() > MOST_OPTIONS;
    if !is_typed || sites.iter().any(|(id, _)| id == found) {
        return None;
    }
    let typed: String = typed.chars().take(80).collect();
    let mut errors = Errors::default();
    errors.add(
        "site",
        if typed.is_empty() {
            "Expected the name of a site.".to_owned()
        } else {
            format!("Expected the name of a site; none is called “{typed}”.")
        },
    );
    Some(errors)
}

/// Makes one.
pub(super) async fn create(thing: Thing, api: Extension<Api>, posted: Posted) -> Response {
    let Posted { viewer, values, .. } = &posted;
    if !posted.is_genuine() {
        return form(
            viewer,
            thing,
            None,
            values,
            &Errors::other_session(),
            StatusCode::CONFLICT,
            aside(thing),
        );
    }
    if let Some(errors) = unknown_site(thing, viewer, values) {
        return form(viewer, thing, None, values, &errors, StatusCode::UNPROCESSABLE_ENTITY, aside(thing));
    }
    match send(&api, viewer, Method::POST, thing.api(), Some(&body(thing, viewer, values)), None).await {
        Ok(done) => {
            let id = done.body["id"].as_str().unwrap_or_default();
            Redirect::to(&format!("{}/{id}?saved=1", thing.page())).into_response()
        }
        Err(refused) => {
            let errors = Errors::refused(&refused, thing.names());
            form(viewer, thing, None, values, &errors, refused.http_status(), aside(thing))
        }
    }
}

/// The form of one that there is.
pub(super) async fn edit_page(
    thing: Thing,
    api: Extension<Api>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Response {
    match send(&api, &viewer, Method::GET, &one(thing, &id), None, None).await {
        Ok(done) => {
            let mut values = stored(thing, &done.body);
            values.set("version", done.version);
            form(&viewer, thing, Some(&id), &values, &Errors::default(), StatusCode::OK, html! {})
        }
        Err(refused) => nothing_there(&viewer, thing, &refused),
    }
}

/// A path of the API, whatever was in the address.
pub(super) fn one(thing: Thing, id: &str) -> String {
    format!("{}/{}", thing.api(), super::shell::encode(id).replace('/', "%2F"))
}

/// What stands where something was looked for that is not there.
pub(super) fn nothing_there(viewer: &Viewer, thing: Thing, refused: &Refused) -> Response {
    let status = refused.http_status();
    let there = status == StatusCode::NOT_FOUND || status == StatusCode::BAD_REQUEST;
    let title = if there { format!("There is no such {}", thing.word()) } else { refused.title.clone() };
    let body = html! {
        (head(&[(thing.list(), thing.many())], title.as_str(), html! {
            @if there { "It may have been removed meanwhile. The audit log knows." } @else { (refused.sentence()) }
        }, html! { a class="btn" href=(thing.list()) { "Back to the list" } a class="btn" href="/audit" { "Audit log" } }))
    };
    viewer.page_with(if there { StatusCode::NOT_FOUND } else { status }, thing.here(), &title, html! {}, body)
}

/// Changes one.
pub(super) async fn replace(
    thing: Thing,
    api: Extension<Api>,
    Path(id): Path<String>,
    posted: Posted,
) -> Response {
    let Posted { viewer, values, .. } = &posted;
    if !posted.is_genuine() {
        return form(
            viewer,
            thing,
            Some(&id),
            values,
            &Errors::other_session(),
            StatusCode::CONFLICT,
            html! {},
        );
    }
    let now = match send(&api, viewer, Method::GET, &one(thing, &id), None, None).await {
        Ok(now) => now,
        Err(refused) => return nothing_there(viewer, thing, &refused),
    };
    if let Some(errors) = unknown_site(thing, viewer, values) {
        return form(viewer, thing, Some(&id), values, &errors, StatusCode::UNPROCESSABLE_ENTITY, html! {});
    }
    let outdated = || {
        let stored = stored(thing, &now.body);
        let words = Words::of(viewer);
        let fields = words.fields(thing);
        let rows: Vec<_> = fields
            .iter()
            .map(|field| match (field.name, &field.kind) {
                ("site", Kind::Choice(sites)) => {
                    let name = |value| called(sites, chosen(sites, value)).to_owned();
                    (field.label, name(stored.one("site")), name(values.one("site")))
                }
                (name, _) => (field.label, stored.list(name).join(", "), values.list(name).join(", ")),
            })
            .collect();
        let mut kept = values.clone();
        kept.set("version", now.version.clone());
        let mut errors = Errors::default();
        errors.add("", "Somebody changed this while you were editing. Both versions are beside the form.");
        form(viewer, thing, Some(&id), &kept, &errors, StatusCode::PRECONDITION_FAILED, conflict(&rows))
    };
    if !is_unchanged(values.one("version"), &now.version) {
        return outdated();
    }
    match send(
        &api,
        viewer,
        Method::PUT,
        &one(thing, &id),
        Some(&body(thing, viewer, values)),
        Some(&now.version),
    )
    .await
    {
        Ok(_) => Redirect::to(&format!("{}/{id}?saved=1", thing.page())).into_response(),
        Err(refused) if refused.is_outdated() => outdated(),
        Err(refused) => {
            let errors = Errors::refused(&refused, thing.names());
            form(viewer, thing, Some(&id), values, &errors, refused.http_status(), html! {})
        }
    }
}

/// What was done a moment ago, above a page.
pub(super) fn done_note(viewer: &Viewer, wanted: &Wanted) -> Markup {
    let version = super::look::thin(viewer.data().organization.version.version);
    if !wanted.get("saved").is_empty() {
        return html! { div class="mb-4" role="status" { (note("", "check", html! { strong { "Saved." } " Version " (version) ": connectors enforce it within 5 s, devices hear of it within 30 s." })) } };
    }
    if !wanted.get("removed").is_empty() {
        return html! { div class="mb-4" role="status" { (note("", "check", html! { strong { "Removed." } " Version " (version) "." })) } };
    }
    if !wanted.get("over").is_empty() {
        return html! { div class="mb-4" role="status" { (note("", "check", html! { strong { "The token ended." } " Whoever asks with it is refused from now on. Remove it when changes can be saved again." })) } };
    }
    if !wanted.get("approved").is_empty() {
        return html! { div class="mb-4" role="status" { (note("", "check", html! { strong { "Approved." } " It gets its certificate when it asks again: tell its owner to run the same command once more." })) } };
    }
    if !wanted.get("ended").is_empty() {
        return html! { div class="mb-4" role="status" { (note("", "check", html! { strong { "Signed out everywhere." } " Each of their browsers asks for a sign-in again. What their devices reach goes on." })) } };
    }
    html! {}
}
