//! Sessions and flows: who reached what, by which path, and who was refused and why.

use super::{
    lists::{Wanted, filter, log_foot},
    look::{Column, Path, Row, badge, bytes, counted, empty, exact_time, head, table, typed},
    names::pop_name,
    shell::{Here, Viewer, encode},
};
use crate::{
    flows::FlowQuery,
    segments::{Page, Place},
};
use axum::{
    extract::Query,
    response::{Html, Response},
};
use maud::{Markup, html};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use trust::UnixMs;

/// Rows of a page.
const SHOWN: usize = 100;

pub(super) const FLOW_COLUMNS: &[Column] = &[
    ("Time", "nowrap"),
    ("Who", ""),
    ("Wanted", ""),
    ("Verdict", ""),
    ("Because of", ""),
    ("Path", "low"),
    ("Bytes", "num low"),
    ("Why", "row-actions"),
];

/// The newest records that fit.
pub(super) async fn recent(viewer: &Viewer, query: FlowQuery) -> Result<Vec<Value>, String> {
    read(viewer, query).await.map(|page| page.items)
}

async fn read(viewer: &Viewer, mut query: FlowQuery) -> Result<Page<Value>, String> {
    if !viewer.reads("/flows") {
        return Err("Your role does not read the flow log.".to_owned());
    }
    let (core, organization) = (Arc::clone(&viewer.core), viewer.organization);
    query.from = query.from.max(core.flows_kept_from(organization));
    let read = tokio::task::spawn_blocking(move || core.flows.read(organization, &query)).await;
    match read {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(format!("The flow log cannot be read: {error}.")),
        Err(error) => Err(format!("The flow log cannot be read: {error}.")),
    }
}

fn text<'a>(record: &'a Value, name: &str) -> &'a str {
    record[name].as_str().unwrap_or_default()
}

/// The path that the record's connector reported.
pub(super) fn path_of(viewer: &Viewer, record: &Value) -> Path {
    match (text(record, "verdict"), record["relay"].as_str()) {
        ("denied", _) => Path::Unknown,
        (_, Some(pop)) => Path::Relay(
            pop.parse().map_or_else(|_| pop.to_owned(), |id| pop_name(&viewer.snapshot.dataset, &id)),
        ),
        (_, None) => Path::Direct,
    }
}

fn verdict(record: &Value) -> Markup {
    match text(record, "verdict") {
        "allowed" => badge("ok", "check", "allowed"),
        "denied" => badge("denied", "cross", "denied"),
        "withdrawn" => badge("denied", "strike", "cut off"),
        "failed" => badge("warn", "warn", "no answer"),
        other => html! { (other) },
    }
}

pub(super) fn flow_rows(viewer: &Viewer, records: &[Value]) -> Vec<Row> {
    records.iter().map(|record| flow_row(viewer, record)).collect()
}

fn flow_row(viewer: &Viewer, record: &Value) -> Row {
    let at = UnixMs::from_millis(record["ended"].as_u64().unwrap_or(0));
    let (device, owner) = (text(record, "device"), text(record, "owner_name"));
    let (protocol, destination) = (text(record, "protocol"), text(record, "destination"));
    let port = destination.rsplit_once(':').map_or("", |(_, port)| port);
    let on = if port.is_empty() || port == "0" { protocol.to_owned() } else { format!("{protocol} {port}") };
    let wanted = record["resource_name"].as_str().or(record["name"].as_str()).unwrap_or(destination);
    let moved = record["bytes_up"].as_u64().unwrap_or(0) + record["bytes_down"].as_u64().unwrap_or(0);
    let denied = matches!(text(record, "verdict"), "denied" | "withdrawn");
    let ask = match record["resource"].as_str() {
        Some(resource) => format!("/why?who={}&to={}&on={}", encode(device), encode(resource), encode(&on)),
        None => format!(
            "/why?who={}&to={}&on={}",
            encode(device),
            encode(destination.rsplit_once(':').map_or(destination, |(host, _)| host)),
            encode(&on)
        ),
    };
    Row {
        name: exact_time(at, viewer.now),
        cells: vec![
            html! { a href={ "/devices/" (device) } { (typed(owner)) } span class="sub" { (typed(text(record, "device_name"))) } },
            html! {
                @if let Some(resource) = record["resource"].as_str() { a href={ "/resources/" (resource) } { (typed(wanted)) } } @else { span class="wrap-any" { (typed(wanted)) } }
                span class="sub" { (on) }
            },
            verdict(record),
            html! { span class="wrap-any" { (text(record, "explanation")) } },
            if denied {
                html! { span class="quiet" { "none" } }
            } else {
                path_of(viewer, record).show()
            },
            html! { (bytes(moved)) },
            html! { div { a class="btn btn--sm" href=(ask) { "Why?" } } },
        ],
        class: if denied { "row--denied" } else { "" },
    }
}

fn query(wanted: &Wanted) -> FlowQuery {
    let only = |name: &str| Some(wanted.get(name)).filter(|value| !value.is_empty()).map(str::to_owned);
    FlowQuery {
        limit: SHOWN,
        device: only("device"),
        connector: only("connector"),
        resource: only("resource"),
        verdict: only("verdict"),
        q: Some(wanted.search()).filter(|text| !text.is_empty()),
        // A place that is none is the newest.
        after: wanted.get("after").parse::<Place>().ok(),
        ..FlowQuery::default()
    }
}

/// How many came since a page was loaded that begins with the record `first`: it asks every ten seconds, and moves nothing.
/// The rows stay where they are until somebody wants the others.
fn newer(wanted: &Wanted, came: Option<usize>) -> Markup {
    html! {
        span class="sub" id="newer" role="status" hx-get=(wanted.with("/flows/newer", "connected", "")) hx-trigger="every 10s" hx-swap="outerHTML" {
            @match came {
                None | Some(0) => "as connectors reported them",
                Some(count) => a href=(wanted.with("/flows", "first", "")) {
                    @if count >= SHOWN { "100 or more came since: show them" } @else { (counted(count, "came", "came")) " since: show them" }
                },
            }
        }
    }
}

/// The same, asked by a page that is open.
pub(super) async fn newer_than(
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Html<String> {
    let wanted = Wanted(wanted);
    let first = wanted.get("first");
    let came = read(&viewer, query(&wanted)).await.ok().map(|page| {
        let is_first = |record: &Value| text(record, "id") == first;
        page.items.iter().position(is_first).unwrap_or(page.items.len())
    });
    Html(newer(&wanted, came).into_string())
}

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let read = read(&viewer, query(&wanted)).await;
    let sessions = super::sessions::card_of(&viewer, &wanted);
    let verdicts = [
        ("", "Every verdict"),
        ("allowed", "Allowed"),
        ("denied", "Denied"),
        ("withdrawn", "Cut off"),
        ("failed", "No answer"),
    ]
    .map(|(value, text)| (value.to_owned(), text.to_owned()));
    let filtered = wanted.narrows(&["after", "connected"]);
    let is_later = !wanted.get("after").is_empty();
    let body = html! {
        (head(&[], "Sessions and flows", "Who is connected now, and every connection that ended or was refused, newest first.", html! {}))
        (sessions)
        section class="card card--clip" aria-labelledby="flows" {
            div class="card-head" {
                h2 id="flows" { "Flows" }
                @match &read {
                    Ok(page) if !is_later && !filtered => {
                        @let first = page.items.first().map_or("", |record| text(record, "id"));
                        (newer(&wanted.and("first", first), None))
                    },
                    _ => span class="sub" { "as connectors reported them" },
                }
            }
            form class="filters" action="/flows" role="search" {
                input class="input" type="search" name="q" value=(wanted.get("q")) placeholder="Person, device, resource or address" aria-label="Person, device, resource or address" dir="auto" maxlength="200";
                (filter("verdict", "Verdict", wanted.get("verdict"), &verdicts))
                @for kept in ["device", "connector", "resource"] {
                    @if !wanted.get(kept).is_empty() { input type="hidden" name=(kept) value=(wanted.get(kept)); }
                }
                button class="btn btn--sm" type="submit" { "Filter" }
                @if filtered { a class="btn btn--quiet btn--sm" href="/flows" { "Clear" } }
            }
            @match &read {
                Err(error) => p class="card-body card-body--top" { (error) },
                Ok(page) => {
                    @if page.items.is_empty() {
                        @if filtered || is_later {
                            (empty("Nothing fits", "No connection that connectors reported is like this. One that is open is reported when it ends.", html! { a class="btn" href="/flows" { "Show all" } }))
                        } @else {
                            (empty("No flow yet", "Connectors report each connection when it ends, and each that was denied at once.",
                                html! { a class="btn" href="/why" { "Why can or can’t someone reach…" } }))
                        }
                    } @else {
                        (table("Flows", FLOW_COLUMNS, &flow_rows(&viewer, &page.items)))
                    }
                    @if !page.items.is_empty() || is_later {
                        (log_foot(&wanted, "/flows", &counted(page.items.len(), "record", "records"), page.next.map(|place| place.to_string()).as_deref()))
                    }
                },
            }
        }
    };
    viewer.page(Here::Flows, "Sessions and flows", body)
}
