//! Enrolment keys: what they make, how often, until when. A secret is shown in one answer.

use super::{
    ask::{Api, send},
    form::{ASKED_BEFORE, Errors, Field, Kind, Posted, Values, field, summary, trouble},
    lists::{self, Listing, Wanted},
    look::{
        Row, badge, card_with_room, code, empty, facts, head, icon, note, parsed, plain_badge, said, time,
        typed,
    },
    members::without_link,
    names::{Names, member_page},
    people::missing,
    shell::{Here, Viewer},
    things::{Thing, done_note},
};
use axum::{Extension, extract::Query, response::Response};
use http::{HeaderValue, Method, StatusCode, header};
use maud::{Markup, html};
use serde_json::json;
use std::collections::BTreeMap;
use store::{EnrolmentKey, EnrolmentTarget, Member};
use trust::UnixMs;

/// A link for a device works as long as it takes to read a message.
const DEVICE_LIFE_S: u64 = 24 * 3600;
const POP_LIFE_S: u64 = 3600;

/// What tells it from others: its name, or the end of its id.
pub(super) fn called(key: &EnrolmentKey) -> String {
    if !key.name.is_empty() {
        return key.name.clone();
    }
    let id = key.id.to_string();
    format!("without a name, …{}", &id[id.len().saturating_sub(6)..])
}

fn state(key: &EnrolmentKey, now: UnixMs) -> Markup {
    if key.uses >= key.cap {
        plain_badge("used")
    } else if key.expires_ms <= now.as_millis() {
        plain_badge("expired")
    } else {
        badge("ok", "key", "can be used")
    }
}

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, names, search) = (viewer.data(), Names::of(viewer.data()), wanted.search());
    let for_what = |key: &EnrolmentKey| match &key.target {
        EnrolmentTarget::Pop { region, zone } => ("PoP", format!("{region}/{zone}"), "/pops".to_owned()),
        EnrolmentTarget::Connector { site } => {
            ("connector", names.site(*site).to_owned(), format!("/sites/{site}"))
        }
        EnrolmentTarget::Device { owner } => ("device", names.member(*owner).to_owned(), member_page(*owner)),
    };
    // What concerns the whole installation is for who may change that.
    let for_operator = viewer.caller.may(crate::api::Permission::Installation);
    let of_installation: &[EnrolmentKey] =
        if for_operator { &viewer.snapshot.dataset.enrolment_keys } else { &[] };
    let mut rows: Vec<&EnrolmentKey> = data
        .enrolment_keys
        .iter()
        .chain(of_installation)
        .filter(|key| {
            search.is_empty()
                || key.name.to_lowercase().contains(&search)
                || for_what(key).1.to_lowercase().contains(&search)
        })
        .collect();
    rows.sort_by_key(|key| std::cmp::Reverse(key.created_ms));
    let all = data.enrolment_keys.len() + of_installation.len();
    let listing = Listing {
        here: Here::Keys,
        title: "Enrolment keys",
        lede: "Each was shown once and is kept as a hash. Removing one does not touch what was enrolled with it.",
        path: "/keys",
        actions: html! {},
        above: html! { (done_note(&viewer, &wanted)) },
        search: "Name, site or owner",
        filters: html! {},
        columns: &[
            ("Key", ""),
            ("State", ""),
            ("For", ""),
            ("Used", "num"),
            ("Until", "nowrap"),
            ("Actions", "row-actions"),
        ],
        one: "key",
        many: "keys",
        nothing: empty(
            "No enrolment keys",
            "They are made where they are needed: for a connector at its site, for a device at its owner, for a PoP at the PoPs.",
            html! {},
        ),
    };
    lists::page(&viewer, &wanted, &listing, all, &rows, |key| {
        let (kind, what, page) = for_what(key);
        Row::new(
            html! { (typed(&called(key))) span class="sub" { (kind) } },
            vec![
                state(key, viewer.now),
                html! { a href=(page) { (typed(&what)) } },
                html! { (key.uses) " of " (key.cap) },
                time(UnixMs::from_millis(key.expires_ms), viewer.now),
                html! { div { (viewer.danger_link(&format!("/keys/{}/remove", key.id), "Remove", Some(&format!("the key {}", called(key))))) } },
            ],
        )
    })
}

/// The form that makes a link for a device; `why` none was made when it was asked for.
pub(super) fn device_key_form(viewer: &Viewer, member: Member, why: Option<&str>) -> Markup {
    if !viewer.offers("/keys/device") {
        return html! {};
    }
    let waits = viewer.changes_wait();
    html! {
        @if why.is_some() { div class="card-body card-body--top" { (trouble("No link was made.", why)) } }
        form class="card-foot" method="post" action="/keys/device" {
            (viewer.token())
            input type="hidden" name="owner" value=(member.to_string());
            button class="btn btn--primary" type="submit" disabled[waits.is_some()] { (icon("key")) "Make a link for a new device" }
            @if let Some(why) = &waits { span { "Enrolling waits: " (why) "." } }
        }
    }
}

/// A page with a secret, which is in this one answer and kept nowhere.
pub(super) fn once(viewer: &Viewer, here: Here, title: &str, body: Markup) -> Response {
    let mut answer = viewer.page(here, title, body);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) async fn device(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let (viewer, values) = (posted.viewer, posted.values);
    let Ok(owner) = values.one("owner").parse::<Member>() else { return missing(&viewer, Thing::User) };
    let back = member_page(owner);
    if !genuine {
        return without_link(&viewer, owner, ASKED_BEFORE, StatusCode::CONFLICT);
    }
    let body = json!({"kind": "device", "owner": owner.to_string(), "lifetime_seconds": DEVICE_LIFE_S});
    let made = match send(&api, &viewer, Method::POST, "/enrolment-keys", Some(&body), None).await {
        Ok(made) => made.body,
        Err(refused) => return without_link(&viewer, owner, &refused.sentence(), refused.http_status()),
    };
    let viewer = viewer.refreshed();
    let name = viewer.views().member_name(owner);
    let link = made["link"].as_str().or(made["join_key"].as_str()).unwrap_or_default();
    let until = parsed(made["key"]["expires"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let page = html! {
        (head(&[("/people", "People and groups"), (&back, &name)], html! { "A link for a device of " (typed(&name)) }, html! {
            "It enrols one device, once, until " (said(until, viewer.now)) ". It is shown only now: send it to its owner."
        }, html! {}))
        section class="card card-body card-body--top" aria-label="Steps" {
            ol class="steps" {
                li { h2 { "Send the link to its owner" } (code("Link", html! { (link) })) p class="hint mt-2" { "What stands behind # is the key. Browsers do not send it to any server." } }
                li { h2 { "On the device" } p { "The link is asked for, so that it stays out of the shell’s history." } (code("Command on the device", html! { "tidegate login    # asks for the link" })) }
                li { h2 { "Connect" } (code("Command that connects", html! { "tidegate up" })) p class="hint mt-2" { "It prints what this device can reach. " a href=(back) { "Back to " (typed(&name)) } } }
            }
        }
    };
    once(&viewer, Here::People, "A link for a device", page)
}

fn pop_fields() -> [Field<'static>; 2] {
    [
        Field {
            name: "region",
            label: "Region",
            kind: Kind::Text,
            hint: "Lower-case letters, digits and dashes. Sites prefer PoPs by it.",
            optional: false,
        },
        Field {
            name: "zone",
            label: "Zone",
            kind: Kind::Text,
            hint: "Where in the region: what may fail by itself.",
            optional: true,
        },
    ]
}

fn pop_form(viewer: &Viewer, values: &Values, errors: &Errors) -> Markup {
    if !viewer.offers("/keys/pop") {
        return html! {};
    }
    let (fields, waits) = (pop_fields(), viewer.changes_wait());
    let labels: Vec<(&'static str, &str)> = fields.iter().map(|field| (field.name, field.label)).collect();
    html! {
        form class="card" method="post" action="/keys/pop" novalidate {
            (viewer.token())
            div class="card-head" { h2 { "Add a PoP" } }
            div class="card-body" {
                (summary(errors, &labels))
                @for each in &fields { (field(each, values, errors)) }
            }
            div class="card-foot" {
                button class="btn btn--primary" type="submit" disabled[waits.is_some()] { (icon("key")) "Make its key" }
                @if let Some(why) = &waits { span { "Enrolling waits: " (why) ". What you typed stays here." } }
            }
        }
    }
}

pub(super) async fn pop(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let (viewer, values) = (posted.viewer, posted.values);
    let again = |errors: &Errors, status| pops_answer(&viewer, &Wanted::default(), &values, errors, status);
    if !genuine {
        return again(&Errors::other_session(), StatusCode::CONFLICT);
    }
    let mut body = json!({"kind": "pop", "region": values.one("region"), "lifetime_seconds": POP_LIFE_S});
    if !values.one("zone").is_empty() {
        body["zone"] = values.one("zone").into();
    }
    let made = match send(&api, &viewer, Method::POST, "/enrolment-keys", Some(&body), None).await {
        Ok(made) => made.body,
        Err(refused) => {
            return again(&Errors::refused(&refused, &["region", "zone"]), refused.http_status());
        }
    };
    let until = parsed(made["key"]["expires"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let page = html! {
        (head(&[("/pops", "PoPs")], "A key for a PoP", html! { "It enrols one PoP, once, until " (said(until, viewer.now)) ". It is shown only now." }, html! {}))
        section class="card card-body card-body--top" aria-label="Steps" {
            ol class="steps" {
                li { h2 { "Save the key to a file on the PoP’s host" } (code("Enrolment key", html! { (made["join_key"].as_str().unwrap_or_default()) })) }
                li { h2 { "Start it" } (code("Command", html! { "tidegate pop --join-file join.key --advertise HOST:443" })) p class="hint mt-2" { "It waits to be dialled by this controller; UDP and TCP 443 must reach it." } }
            }
        }
    };
    once(&viewer, Here::Pops, "A key for a PoP", page)
}

/// The PoPs, and the form for one more.
pub(super) async fn pops(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let mut values = Values::default();
    values.set("region", "main");
    pops_answer(&viewer, &Wanted(wanted), &values, &Errors::default(), StatusCode::OK)
}

fn pops_answer(
    viewer: &Viewer,
    wanted: &Wanted,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
) -> Response {
    let search = wanted.search();
    let all = &viewer.snapshot.dataset.pops;
    let mut rows: Vec<&store::Pop> = all
        .iter()
        .filter(|row| {
            search.is_empty()
                || row.name.to_lowercase().contains(&search)
                || row.address.contains(&search)
                || row.region.contains(&search)
        })
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let listing = Listing {
        here: Here::Pops,
        title: "PoPs",
        lede: "They prove addresses, introduce and relay. They hold no truth: kill one at any time, and agents use the next.",
        path: "/pops",
        actions: html! {},
        above: done_note(viewer, wanted),
        search: "Name, address or region",
        filters: html! {},
        columns: &[
            ("PoP", ""),
            ("State", ""),
            ("Address", ""),
            ("Region and zone", ""),
            ("Last heard of", "nowrap low"),
        ],
        one: "PoP",
        many: "PoPs",
        nothing: empty("No PoPs yet", "tidegate serve brings one; more join with a key.", html! {}),
    };
    let table = lists::table_of(wanted, &listing, all.len(), &rows, |row| {
        let (there, last) = pop_state(viewer, row);
        Row::new(
            html! { a href={ "/pops/" (row.id) } { (typed(&row.name)) } },
            vec![
                there,
                html! { span class="mono wrap-any" { (row.address) } },
                html! { (row.region) "/" (row.zone) },
                last,
            ],
        )
    });
    let body = html! {
        (head(&[], listing.title, listing.lede, html! {}))
        (listing.above)
        div class="grid" { div class="col-8" { (table) } div class="stack stack--side col-4" { (pop_form(viewer, values, errors)) } }
    };
    let title = if errors.is_empty() { "PoPs" } else { "Error: PoPs" };
    viewer.page_with(status, Here::Pops, title, html! {}, body)
}

pub(super) fn pop_state(viewer: &Viewer, row: &store::Pop) -> (Markup, Markup) {
    let view = viewer.views().pop(row);
    let state = if view.struck {
        badge("denied", "strike", "revoked")
    } else if view.attached {
        badge("fresh", "fresh", "hears this controller")
    } else {
        badge("isolated", "isolated", "does not hear this controller")
    };
    let last = view.last_seen.as_deref().and_then(parsed);
    (
        state,
        last.map_or_else(
            || html! { span class="quiet" { "not since this controller started" } },
            |last| time(last, viewer.now),
        ),
    )
}

pub(super) async fn one_pop(
    viewer: Viewer,
    axum::extract::Path(id): axum::extract::Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let Some(row) = viewer.snapshot.dataset.pops.iter().find(|row| row.id.to_string() == id) else {
        let refused = super::ask::Refused { status: 404, ..Default::default() };
        return super::things::nothing_there(&viewer, Thing::Pop, &refused);
    };
    let struck = viewer.views().pop(row).struck;
    let (state, last) = pop_state(&viewer, row);
    let body = html! {
        (head(&[("/pops", "PoPs")], typed(&row.name), html! { (state) }, html! {
            (viewer.link_button(&format!("/pops/{id}/edit"), "edit", "Edit"))
            (super::strikes::buttons(&viewer, "/pops", &id, struck))
            (viewer.danger_link(&format!("/pops/{id}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        (card_with_room("facts", "Facts", facts(&[
            ("Address", html! { code { (row.address) } }),
            ("Region and zone", html! { (row.region) "/" (row.zone) }),
            ("Last heard of", last),
            ("Generation", html! { (row.generation) }),
            ("Joined", time(UnixMs::from_millis(row.created_ms), viewer.now)),
            ("Id", html! { code { (id) } }),
        ])))
        @if viewer.snapshot.dataset.pops.len() == 1 {
            div class="mt-4" { (note("note--warn", "warn", html! { strong { "It is the only one." } " Without it nobody is introduced and nothing is relayed; direct connections go on." })) }
        }
    };
    viewer.page(Here::Pops, &row.name, body)
}
