//! The audit log: who changed what, when, from where. History is the database's.

use super::{
    ask::{Api, send},
    form::chosen,
    lists::{Wanted, log_foot},
    look::{Row, counted, empty, exact_time, head, parsed, table, thin, typed},
    shell::{Here, Viewer, encode},
};
use axum::{Extension, extract::Query, response::Response};
use http::Method;
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;
use wire::{ConnectorId, DeviceId, GroupId, PolicyId, PopId, ResourceId, SiteId, UserId};

/// Entries of a page.
const PER_PAGE: usize = 200;
const PATH: &str = "/audit";

/// The page of what an entry is about, if it has one.
fn place(subject: &str) -> Option<String> {
    let is = |page: &str, fits: bool| fits.then(|| format!("{page}/{subject}"));
    is("/devices", subject.parse::<DeviceId>().is_ok())
        .or_else(|| is("/resources", subject.parse::<ResourceId>().is_ok()))
        .or_else(|| is("/sites", subject.parse::<SiteId>().is_ok()))
        .or_else(|| is("/groups", subject.parse::<GroupId>().is_ok()))
        .or_else(|| is("/people", subject.parse::<UserId>().is_ok()))
        .or_else(|| is("/policies", subject.parse::<PolicyId>().is_ok()))
        .or_else(|| is("/pops", subject.parse::<PopId>().is_ok()))
        .or_else(|| is("/connectors", subject.parse::<ConnectorId>().is_ok()))
}

fn brief(value: &Value) -> String {
    let text = match value {
        Value::Null => return String::new(),
        Value::Object(fields) if fields.is_empty() => return String::new(),
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| format!("{key}: {}", short(value)))
            .collect::<Vec<_>>()
            .join(" · "),
        other => short(other),
    };
    text.chars().take(300).collect()
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(all) if all.len() > 3 => format!("{} entries", all.len()),
        other => other.to_string(),
    }
}

fn row(viewer: &Viewer, entry: &Value) -> Row {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let at = parsed(text("at")).unwrap_or(viewer.now);
    let subject = text("subject");
    let before_after = |name: &str| -> Markup {
        let said = brief(&entry[name]);
        html! { @if !said.is_empty() { span class="sub wrap-any" { (name) ": " (typed(&said)) } } }
    };
    Row::new(
        exact_time(at, viewer.now),
        vec![
            html! {
                (typed(text("actor")))
                @if !text("source").is_empty() { span class="sub" { "from " (text("source")) } }
                @if !text("request").is_empty() { span class="sub wrap-any" { "request " code { (typed(text("request"))) } } }
            },
            html! { a href={ (PATH) "?action=" (encode(text("action"))) } { (text("action")) } },
            html! {
                @if let Some(place) = place(subject) { a class="wrap-any" href=(place) { code { (subject) } } } @else { span class="wrap-any" { (typed(subject)) } }
            },
            html! { span class="wrap-any sm" { (typed(&brief(&entry["detail"]))) } (before_after("before")) (before_after("after")) },
            html! { (entry["version"].as_u64().map(thin).unwrap_or_default()) },
        ],
    )
}

/// The two logs of what people did here, side by side.
pub(super) fn tabs(viewer: &Viewer, here: &str) -> Markup {
    let tab = |path: &str, text: &str| {
        html! { a href=(path) aria-current=[(here == path).then_some("page")] { (text) } }
    };
    html! {
        nav class="tabs mb-4" aria-label="Logs" {
            (tab(PATH, "Changes"))
            @if viewer.reads("/authentication-log") { (tab(super::sign_ins::PATH, "Sign-ins")) }
        }
    }
}

/// The id of what somebody typed the name of; what is no name is looked for as it stands.
fn subject(viewer: &Viewer, typed: &str) -> String {
    let data = viewer.data();
    let named = |id: String, name: &str| (id, name.to_owned());
    let all: Vec<(String, String)> = data
        .users
        .iter()
        .flat_map(|row| [named(row.id.to_string(), &row.name), named(row.id.to_string(), &row.email)])
        .chain(data.resources.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(data.policies.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(data.groups.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(data.devices.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(data.sites.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(data.connectors.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(data.service_accounts.iter().map(|row| named(row.id.to_string(), &row.name)))
        .chain(viewer.snapshot.dataset.pops.iter().map(|row| named(row.id.to_string(), &row.name)))
        .collect();
    chosen(&all, typed).to_owned()
}

/// One part of the question.
fn part(wanted: &Wanted, name: &str, label: &str) -> Markup {
    html! { input class="input" type="search" name=(name) value=(wanted.get(name)) placeholder=(label) aria-label=(label) dir="auto" maxlength="200"; }
}

pub(super) async fn page(
    api: Extension<Api>,
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let about = match wanted.get("subject") {
        "" => String::new(),
        typed => subject(&viewer, typed),
    };
    let mut path = format!("/audit?limit={PER_PAGE}");
    let asked = [
        ("actor", wanted.get("actor")),
        ("action", wanted.get("action")),
        ("subject", &about),
        ("after", wanted.get("after")),
    ];
    for (name, value) in asked.into_iter().filter(|(_, value)| !value.is_empty()) {
        path.push_str(&format!("&{name}={}", encode(value)));
    }
    let read = send(&api, &viewer, Method::GET, &path, None, None).await;
    let filtered = wanted.narrows(&["after"]);
    let body = html! {
        (head(&[], "Audit log", "Every change, newest first: who, what, when, and which version it made. It is read from the database.", html! {}))
        (tabs(&viewer, PATH))
        section class="card card--clip" aria-label="Audit log" {
            form class="filters" action=(PATH) role="search" {
                (part(&wanted, "actor", "Who: a part of it"))
                (part(&wanted, "action", "What, as in: create site"))
                (part(&wanted, "subject", "About: a name or an id"))
                button class="btn btn--sm" type="submit" { "Filter" }
                @if filtered { a class="btn btn--quiet btn--sm" href=(PATH) { "Clear" } }
                @if about != wanted.get("subject") { span class="count" { "About " code { (about) } } }
            }
            @match &read {
                Err(refused) => (empty("The history cannot be read right now", refused.sentence_of_read(), html! {})),
                Ok(done) => {
                    @let rows: Vec<Row> = done.body["items"].as_array().into_iter().flatten().map(|entry| row(&viewer, entry)).collect();
                    @if rows.is_empty() {
                        @if filtered || !wanted.get("after").is_empty() {
                            (empty("Nothing fits", "No change of the whole log is by this one, of this kind and about this object. Each “What” in the log is a link that shows its kind alone.", html! { a class="btn" href=(PATH) { "Show all" } }))
                        } @else {
                            (empty("Nothing was changed yet", "Each change is here as soon as it is made.", html! {}))
                        }
                    } @else {
                        (table("Audit log", &[("Time", "nowrap"), ("Who", ""), ("What", ""), ("About", ""), ("Details", ""), ("Version", "num low")], &rows))
                        (log_foot(&wanted, PATH, &counted(rows.len(), "entry", "entries"), done.body["next"].as_str()))
                    }
                },
            }
        }
    };
    viewer.page(Here::Audit, "Audit log", body)
}
