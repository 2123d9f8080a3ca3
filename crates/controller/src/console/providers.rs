//! Sign-in providers (OpenID Connect): what there is, and forms that make, change and remove one.

use super::{
    ask::{Api, Done, Refused, send},
    form::{
        ASKED_BEFORE, Errors, Field, FormPage, Kind, OTHER_SESSION, Posted, Values, conflict, show, trouble,
    },
    lists::Wanted,
    look::{Row, card, card_with_room, code, counted, empty, facts, head, note, plain_badge, table, typed},
    people::not_done,
    shell::{Here, Viewer, encode},
    things::done_note,
};
use crate::api::is_unchanged;
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const LIST: &str = "/settings/providers";
const FIELDS: &[&str] = &[
    "name",
    "title",
    "issuer",
    "client_id",
    "client_secret",
    "scopes",
    "groups_claim",
    "group_map",
    "domains",
    "new_users",
    "ca_pem",
];

/// Every provider.
pub(super) async fn list(
    api: Extension<Api>,
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let answer = match send(&api, &viewer, Method::GET, "/oidc-providers", None, None).await {
        Ok(done) => done.body,
        Err(refused) => return not_done(&viewer, "Providers cannot be read", &refused, "/settings"),
    };
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |item: &Value, member: &str| item[member].as_str().unwrap_or_default().to_owned();
    let rows: Vec<Row> = items
        .iter()
        .map(|item| {
            let name = text(item, "name");
            let domains: Vec<&str> =
                item["domains"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            Row::new(
                html! { (typed(&text(item, "title"))) span class="sub" { (typed(&name)) } },
                vec![
                    html! { code class="wrap-any" { (text(item, "issuer")) } },
                    html! { @if domains.is_empty() { span class="quiet" { "none" } } @else { (typed(&domains.join(", "))) } },
                    plain_badge(if item["new_users"] == "make" { "become users" } else { "are refused" }),
                    html! { div class="inline" {
                        (viewer.link_button(&format!("{LIST}/{name}/edit"), "edit", "Edit"))
                        (viewer.danger_link(&format!("{LIST}/{name}/remove"), "Remove", Some(&format!("the provider {name}"))))
                    } },
                ],
            )
        })
        .collect();
    let add = viewer.primary_link(&format!("{LIST}/new"), "plus", "Add a provider");
    let redirect = items.first().map(|item| text(item, "redirect_uri"));
    let redirect = redirect.unwrap_or_else(|| crate::signin::redirect_uri(&viewer.core));
    let body = html! {
        (head(&[("/settings", "Settings")], "Sign-in providers", "Who else may say who somebody is. Passphrases and passkeys go on working beside them.", add.clone()))
        (done_note(&viewer, &Wanted(wanted)))
        div class="stack" {
            (card("providers", "Providers", html! { span class="sub" { (rows.len()) } }, if rows.is_empty() {
                empty("No provider yet", "With one, people sign in by the account that they have anyway.", add)
            } else {
                table("Sign-in providers", &[("Provider", ""), ("Issuer", ""), ("Speaks for", "low"), ("Unknown people", ""), ("Actions", "row-actions")], &rows)
            }))
            (redirect_card(&redirect))
        }
    };
    viewer.page(Here::Settings, "Sign-in providers", body)
}

/// The one address that a provider has to know.
fn redirect_card(address: &str) -> Markup {
    card_with_room(
        "redirect",
        "Redirect URI",
        html! {
            p { "Where people come back to. Register it at the provider as it is." }
            div class="mt-2" { (code("Redirect URI to register at a provider", html! { (address) })) }
        },
    )
}

/// What becomes of people whom nobody knows.
fn unknown() -> [(String, String); 2] {
    [("refuse", "are not let in"), ("make", "become users without any right")]
        .map(|(value, text)| (value.to_owned(), text.to_owned()))
}

/// The form's fields; one that there is keeps its name.
fn fields(unknown: &[(String, String)], has_name: bool) -> Vec<Field<'_>> {
    let field = |name, label, kind, hint, optional| Field { name, label, kind, hint, optional };
    let mut fields = vec![
        field("title", "What the button says", Kind::Text, "For example the name of the company.", false),
        field("issuer", "Issuer", Kind::Text, "https://…, exactly as the provider writes it.", false),
        field("client_id", "Client id", Kind::Text, "Who this installation is there.", false),
        field(
            "client_secret",
            "Client secret",
            Kind::Secret,
            "It is sealed and never shown again, also not here: type it again when something else was wrong. Empty: the one that \
             is held stays, or there is none.",
            true,
        ),
        field(
            "domains",
            "Domains whose addresses it speaks for",
            Kind::Area,
            "One a line. Its verified word about such an address is believed: that person is the user with the address.",
            true,
        ),
        field("new_users", "People whom nobody knows", Kind::Choice(unknown), "", false),
        field(
            "groups_claim",
            "Claim that lists groups",
            Kind::Text,
            "groups, unless the provider calls it otherwise.",
            true,
        ),
        field(
            "group_map",
            "Groups",
            Kind::Area,
            "One a line: value of the claim = name of a group here. People join and leave these groups with the claim.",
            true,
        ),
        field(
            "scopes",
            "What is asked for besides openid",
            Kind::Text,
            "profile, email unless something else is named.",
            true,
        ),
        field(
            "ca_pem",
            "CAs that its server may be signed by",
            Kind::Area,
            "Certificates in PEM, besides those of the machine.",
            true,
        ),
    ];
    if !has_name {
        fields.insert(
            0,
            field(
                "name",
                "Name",
                Kind::Text,
                "1 to 32 of a-z, 0-9 and -; part of its address, and never changed.",
                false,
            ),
        );
    }
    fields
}

fn form(
    viewer: &Viewer,
    name: Option<&str>,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
) -> Response {
    form_beside(viewer, name, values, errors, status, html! {})
}

/// The form with something beside it.
fn form_beside(
    viewer: &Viewer,
    name: Option<&str>,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
    beside: Markup,
) -> Response {
    let unknown = unknown();
    let title = if name.is_some() { "Edit the provider" } else { "Add a provider" };
    let action = name.map_or_else(|| format!("{LIST}/new"), |name| format!("{LIST}/{name}/edit"));
    let lede = "Whoever controls a provider signs in as the people whom it speaks for: name only domains that it may speak for.";
    let page = FormPage {
        here: Here::Settings,
        head: head(&[("/settings", "Settings"), (LIST, "Sign-in providers")], title, lede, html! {}),
        title,
        action: &action,
        fields: fields(&unknown, name.is_some()),
        save: "Save",
        back: LIST,
        more: html! {},
        aside: html! {
            (beside)
            (redirect_card(&crate::signin::redirect_uri(&viewer.core)))
        },
    };
    show(viewer, &page, values, errors, status)
}

pub(super) async fn new_page(viewer: Viewer) -> Response {
    let mut values = Values::default();
    values.set("new_users", "refuse");
    form(&viewer, None, &values, &Errors::default(), StatusCode::OK)
}

fn path(name: &str) -> String {
    format!("/oidc-providers/{}", encode(name).replace('/', "%2F"))
}

pub(super) async fn edit_page(api: Extension<Api>, viewer: Viewer, Path(name): Path<String>) -> Response {
    match send(&api, &viewer, Method::GET, &path(&name), None, None).await {
        Ok(held) => {
            let mut values = stored(&viewer, &held.body);
            values.set("version", held.version);
            form(&viewer, Some(&name), &values, &Errors::default(), StatusCode::OK)
        }
        Err(refused) => not_done(&viewer, "There is no such provider", &refused, LIST),
    }
}

/// What the form shows of one that there is.
fn stored(viewer: &Viewer, held: &Value) -> Values {
    let mut values = Values::default();
    for member in ["title", "issuer", "client_id", "groups_claim", "new_users", "ca_pem"] {
        values.set(member, held[member].as_str().unwrap_or_default());
    }
    let lines = |member: &str, between: &str, leave: &str| {
        let all = held[member].as_array().into_iter().flatten().filter_map(Value::as_str);
        all.filter(|one| *one != leave).collect::<Vec<_>>().join(between)
    };
    values.set("domains", lines("domains", "\n", ""));
    values.set("scopes", lines("scopes", ", ", "openid"));
    let groups = &viewer.data().groups;
    let named =
        |id: &str| groups.iter().find(|group| group.id.to_string() == id).map(|group| group.name.clone());
    let map = held["group_map"].as_object().into_iter().flatten();
    let map = map.filter_map(|(value, id)| {
        let id = id.as_str()?;
        Some(format!("{value} = {}", named(id).unwrap_or_else(|| id.to_owned())))
    });
    values.set("group_map", map.collect::<Vec<_>>().join("\n"));
    values
}

/// Somebody else saved first: what was typed stays, beside what is stored. A secret is shown on neither side.
fn outdated(viewer: &Viewer, name: &str, now: &Done, typed: &Values) -> Response {
    let stored = stored(viewer, &now.body);
    let unknown = unknown();
    let rows: Vec<_> = fields(&unknown, true)
        .iter()
        .filter(|field| !matches!(field.kind, Kind::Secret))
        .map(|field| (field.label, stored.one(field.name).to_owned(), typed.one(field.name).to_owned()))
        .collect();
    let mut kept = typed.clone();
    kept.set("version", now.version.clone());
    let mut errors = Errors::default();
    errors.add("", "Somebody changed this while you were editing. Both versions are beside the form.");
    form_beside(viewer, Some(name), &kept, &errors, StatusCode::PRECONDITION_FAILED, conflict(&rows))
}

/// What the API is asked for; a line of the map that is none is an error at its field.
fn body(viewer: &Viewer, values: &Values, errors: &mut Errors) -> Value {
    let mut groups = Map::new();
    for line in values.one("group_map").lines().map(str::trim).filter(|line| !line.is_empty()) {
        let shown: String = line.chars().take(80).collect();
        let Some((value, group)) = line.rsplit_once('=').map(|(value, group)| (value.trim(), group.trim()))
        else {
            errors.add(
                "group_map",
                format!("Expected: a value of the claim = the name of a group; got “{shown}”."),
            );
            continue;
        };
        let known = viewer.data().groups.iter().find(|row| row.name == group || row.id.to_string() == group);
        match known {
            Some(row) => {
                groups.insert(value.to_owned(), row.id.to_string().into());
            }
            None => errors
                .add("group_map", format!("Expected: the name of a group that there is; got “{shown}”.")),
        }
    }
    let mut body = json!({
        "title": values.one("title"),
        "issuer": values.one("issuer"),
        "client_id": values.one("client_id"),
        "group_map": groups,
        "domains": values.list("domains"),
        "new_users": values.one("new_users"),
        "ca_pem": values.one("ca_pem"),
    });
    let scopes = values.list("scopes");
    if !scopes.is_empty() {
        body["scopes"] = scopes.into();
    }
    for member in ["client_secret", "groups_claim"] {
        if !values.one(member).is_empty() {
            body[member] = values.one(member).into();
        }
    }
    body
}

async fn save(api: Extension<Api>, name: Option<String>, posted: Posted) -> Response {
    let Posted { viewer, values, .. } = &posted;
    let mut errors = Errors::default();
    if !posted.is_genuine() {
        errors.add("", OTHER_SESSION);
        return form(viewer, name.as_deref(), values, &errors, StatusCode::CONFLICT);
    }
    let body = body(viewer, values, &mut errors);
    if name.is_none() && values.one("name").is_empty() {
        errors.add("name", "Expected: 1 to 32 of a-z, 0-9 and -.");
    }
    if !errors.is_empty() {
        return form(viewer, name.as_deref(), values, &errors, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let place = path(name.as_deref().unwrap_or_else(|| values.one("name")));
    let mut version = None;
    if let Some(name) = &name {
        let now = match send(&api, viewer, Method::GET, &place, None, None).await {
            Ok(now) => now,
            Err(refused) => return not_done(viewer, "There is no such provider", &refused, LIST),
        };
        // The form's version decides: what somebody saved meanwhile is seen before it is replaced.
        if !is_unchanged(values.one("version"), &now.version) {
            return outdated(viewer, name, &now, values);
        }
        version = Some(now.version);
    } else {
        // What is there under this name is changed where it is shown.
        match send(&api, viewer, Method::GET, &place, None, None).await {
            Ok(_) => {
                errors.add("name", "Something else already has this. Choose another.");
                return form(viewer, None, values, &errors, StatusCode::CONFLICT);
            }
            Err(refused) if refused.status == 404 => {}
            Err(refused) => {
                return form(viewer, None, values, &Errors::refused(&refused, FIELDS), refused.http_status());
            }
        }
    }
    match send(&api, viewer, Method::PUT, &place, Some(&body), version.as_deref()).await {
        Ok(_) => Redirect::to(&format!("{LIST}?saved=1")).into_response(),
        Err(refused) => {
            // The API calls its name `id`.
            let field =
                refused.field.clone().map(|field| if field == "id" { "name".to_owned() } else { field });
            let refused = Refused { field, ..refused };
            let errors = Errors::refused(&refused, FIELDS);
            form(viewer, name.as_deref(), values, &errors, refused.http_status())
        }
    }
}

pub(super) async fn create(api: Extension<Api>, posted: Posted) -> Response {
    save(api, None, posted).await
}

pub(super) async fn replace(api: Extension<Api>, Path(name): Path<String>, posted: Posted) -> Response {
    save(api, Some(name), posted).await
}

/// Whom a provider lets in: how many, and who of them has no other way.
fn signs_in<'a>(viewer: &'a Viewer, provider: &str) -> (usize, Vec<&'a store::User>) {
    let data = viewer.data();
    let sign_in = &data.sign_in;
    let by = |named: bool| {
        let all = sign_in.identities.iter().filter(move |row| (row.provider == provider) == named);
        all.map(|row| row.account).collect::<BTreeSet<_>>()
    };
    let (known, by_others) = (by(true), by(false));
    let passphrases = sign_in.accounts.iter().filter(|row| row.passphrase_hash.is_some()).map(|row| row.id);
    let passkeys = sign_in.passkeys.iter().map(|row| row.account);
    let another: BTreeSet<_> = passphrases.chain(passkeys).chain(by_others).collect();
    let out = data.users.iter().filter(|row| known.contains(&row.id) && !another.contains(&row.id));
    (known.len(), out.collect())
}

/// People who are named on the page that asks.
const NAMED: usize = 10;

/// Asks before a provider goes: who does not get in any more.
pub(super) async fn remove_page(api: Extension<Api>, viewer: Viewer, Path(name): Path<String>) -> Response {
    match send(&api, &viewer, Method::GET, &path(&name), None, None).await {
        Ok(held) => ask_to_remove(&viewer, &name, &held, StatusCode::OK, None),
        Err(refused) => not_done(&viewer, "There is no such provider", &refused, LIST),
    }
}

fn ask_to_remove(
    viewer: &Viewer,
    name: &str,
    held: &Done,
    status: StatusCode,
    why: Option<&str>,
) -> Response {
    let waits = viewer.changes_wait();
    let title = held.body["title"].as_str().unwrap_or(name);
    let (known, out) = signs_in(viewer, name);
    let body = html! {
        (head(&[("/settings", "Settings"), (LIST, "Sign-in providers")], html! { "Remove " (typed(title)) "?" },
            "Its button goes from the sign-in page. Sessions that there are go on until they end; accounts, groups and devices stay.", html! {}))
        (trouble("Nothing was removed.", why))
        form class="card" method="post" action={ (LIST) "/" (encode(name)) "/remove" } {
            (viewer.token())
            div class="card-body card-body--top" {
                (facts(&[
                    ("Issuer", html! { code { (held.body["issuer"].as_str().unwrap_or_default()) } }),
                    ("Has signed in", html! { (counted(known, "person", "people")) }),
                    ("Of them without another way in", html! {
                        @if out.is_empty() { "nobody" } @else {
                            (counted(out.len(), "person", "people")) ": "
                            @for (index, user) in out.iter().take(NAMED).enumerate() {
                                @if index > 0 { ", " }
                                a href={ "/people/" (user.id) } { (typed(&user.name)) }
                            }
                            @if out.len() > NAMED { " and " (out.len() - NAMED) " more" }
                        }
                    }),
                ]))
                @if !out.is_empty() {
                    div class="mt-4" { (note("note--warn", "warn", html! { "They need a link that sets a passphrase: it is made on each person’s page, under “Signing in”." })) }
                }
            }
            div class="card-foot" {
                a class="btn" href=(LIST) { "Keep it" }
                button class="btn btn--danger" type="submit" disabled[waits.is_some()] { "Remove the provider" }
                @if let Some(why) = &waits { span { "Removing waits: " (why) "." } }
            }
        }
    };
    viewer.page_with(status, Here::Settings, &format!("Remove {title}?"), html! {}, body)
}

pub(super) async fn remove(api: Extension<Api>, Path(name): Path<String>, posted: Posted) -> Response {
    let viewer = &posted.viewer;
    let held = match send(&api, viewer, Method::GET, &path(&name), None, None).await {
        Ok(held) => held,
        Err(refused) => return not_done(viewer, "There is no such provider", &refused, LIST),
    };
    if !posted.is_genuine() {
        return ask_to_remove(viewer, &name, &held, StatusCode::CONFLICT, Some(ASKED_BEFORE));
    }
    match send(&api, viewer, Method::DELETE, &path(&name), None, None).await {
        Ok(_) => Redirect::to(&format!("{LIST}?removed=1")).into_response(),
        Err(refused) => ask_to_remove(viewer, &name, &held, refused.http_status(), Some(&refused.sentence())),
    }
}
