//! The audit log: who changed what, when, from where. History is the database's.

use super::{
    ask::{Api, send},
    lists::Wanted,
    look::{Row, counted, empty, exact_time, head, parsed, table, thin, typed},
    shell::{Here, Viewer, encode},
};
use axum::{Extension, extract::Query, response::Response};
use http::Method;
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;
use wire::{ConnectorId, DeviceId, GroupId, PolicyId, PopId, ResourceId, SiteId, UserId};

/// Entries that are read for a page.
const READ: usize = 200;

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
            html! { (typed(text("actor"))) @if !text("source").is_empty() { span class="sub" { "from " (text("source")) } } },
            html! { (text("action")) },
            html! {
                @if let Some(place) = place(subject) { a class="wrap-any" href=(place) { code { (subject) } } } @else { span class="wrap-any" { (typed(subject)) } }
            },
            html! { span class="wrap-any sm" { (typed(&brief(&entry["detail"]))) } (before_after("before")) (before_after("after")) },
            html! { (entry["version"].as_u64().map(thin).unwrap_or_default()) },
        ],
    )
}

pub(super) async fn page(
    api: Extension<Api>,
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let before = wanted.get("before");
    let path = if before.is_empty() || before.parse::<u64>().is_err() {
        format!("/audit?limit={READ}")
    } else {
        format!("/audit?limit={READ}&before_ms={before}")
    };
    let search = wanted.search();
    let read = send(&api, &viewer, Method::GET, &path, None, None).await;
    let body = html! {
        (head(&[], "Audit log", "Every change, newest first: who, what, when, and which version it made. It is read from the database.", html! {}))
        section class="card card--clip" aria-label="Audit log" {
            form class="filters" action="/audit" role="search" {
                input class="input" type="search" name="q" value=(wanted.get("q")) placeholder="Who, what or about what" aria-label="Who, what or about what" dir="auto" maxlength="200";
                button class="btn btn--sm" type="submit" { "Filter" }
                @if !search.is_empty() { a class="btn btn--quiet btn--sm" href="/audit" { "Clear" } }
            }
            @match &read {
                Err(refused) => (empty("The history cannot be read right now", refused.sentence(), html! {})),
                Ok(done) => {
                    @let items: Vec<&Value> = done.body["items"].as_array().into_iter().flatten().collect();
                    @let fitting: Vec<Row> = items.iter().filter(|entry| search.is_empty() || entry.to_string().to_lowercase().contains(&search)).map(|entry| row(&viewer, entry)).collect();
                    @let oldest = items.last().and_then(|entry| parsed(entry["at"].as_str().unwrap_or_default()));
                    @if fitting.is_empty() {
                        (empty(if items.is_empty() { "Nothing was changed yet" } else { "Nothing fits" }, "Of what is on this page of the log.", html! {}))
                    } @else {
                        (table("Audit log", &[("Time", "nowrap"), ("Who", ""), ("What", ""), ("About", ""), ("Details", ""), ("Version", "num low")], &fitting))
                    }
                    @if let (true, Some(oldest)) = (items.len() == READ, oldest) {
                        div class="card-foot" {
                            span { (counted(fitting.len(), "entry", "entries")) }
                            nav class="pager" aria-label="Pages" { a class="btn btn--sm" rel="next" href={ "/audit?before=" (oldest.as_millis()) "&q=" (encode(wanted.get("q"))) } { "Older" } }
                        }
                    }
                },
            }
        }
    };
    viewer.page(Here::Audit, "Audit log", body)
}
