//! Taking access away, and the honest count as the answer.

use super::{
    ask::{Api, send},
    form::Posted,
    look::{card_with_room, counted, facts, head, icon, parsed, said, time, typed},
    shell::{Here, Viewer},
};
use axum::{
    Extension,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::{Value, json};

fn number(report: &Value, name: &str) -> usize {
    report[name].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// What a strike did, in one sentence.
fn sentence(report: &Value, viewer: &Viewer) -> String {
    let (enforced, stale, isolated) =
        (number(report, "enforced"), number(report, "stale"), number(report, "isolated"));
    let all = enforced + stale + isolated;
    let until = parsed(report["latest_possible_end"].as_str().unwrap_or_default());
    let until = until.map(|until| said(until, viewer.now)).unwrap_or_default();
    let mut text = match all {
        0 => "No connector is enrolled that could still let it in.".to_owned(),
        _ => format!("Enforced at {enforced} of {}.", counted(all, "connector", "connectors")),
    };
    if stale > 0 {
        text.push_str(&format!(
            " {} with the next beacon, within 15 s.",
            counted(stale, "hears of it", "hear of it")
        ));
    }
    if isolated > 0 {
        let verb = if isolated == 1 { "is isolated: it closes" } else { "are isolated: they close" };
        text.push_str(&format!(" {isolated} {verb} by {until} at the latest."));
    }
    text
}

/// The page after a strike.
pub(super) fn struck_page(viewer: &Viewer, here: Here, title: &str, report: &Value, back: &str) -> Response {
    let durable = report["durable"].as_str().unwrap_or_default();
    let held = report["held"].as_str().unwrap_or_default();
    let at = parsed(report["at"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let end = parsed(report["latest_possible_end"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let body = html! {
        (head(&[(back, "Back")], html! { (typed(title)) "." }, "Access was taken away by a strike: it does not wait for the database.", html! {}))
        div class="mb-4" role="status" {
            div class="note" { (icon("check")) p { strong { "Revoked. " (sentence(report, viewer)) } " Held by " (held) "." } }
        }
        @if durable != "two holders" {
            div class="mb-4" { div class="note note--warn" { (icon("warn")) p {
                strong { "Durable: " (durable) "." } " Until a second holder has it, losing this one could bring the access back; the strike goes on being sent."
            } } }
        }
        (card_with_room("report", "What was done", facts(&[
            ("Subject", html! { code { (report["subject"].as_str().unwrap_or_default()) } }),
            ("Generation", html! { (report["generation"].as_u64().unwrap_or_default()) " and older" }),
            ("At", time(at, viewer.now)),
            ("Enforced at", html! { (counted(number(report, "enforced"), "connector", "connectors")) }),
            ("Stale", html! { (counted(number(report, "stale"), "connector", "connectors")) }),
            ("Isolated", html! { (counted(number(report, "isolated"), "connector", "connectors")) }),
            ("PoPs that hold it", html! { (number(report, "held_by_pops")) " of " (number(report, "pops_attached")) " that hear this controller" }),
            ("Nothing passes after", time(end, viewer.now)),
        ])))
        div class="actions mt-4" { a class="btn" href=(back) { "Back" } a class="btn" href="/audit" { "Audit log" } }
    };
    viewer.page(here, title, body)
}

/// What can be struck from a page: a kind in the address, and where its page is.
fn place(kind: &str) -> Option<(Here, &'static str, &'static str)> {
    match kind {
        "devices" => Some((Here::Devices, "/devices", "device")),
        "people" => Some((Here::People, "/people", "person")),
        "service-accounts" => Some((Here::ServiceAccounts, "/service-accounts", "service account")),
        "connectors" => Some((Here::Sites, "/connectors", "connector")),
        "pops" => Some((Here::Pops, "/pops", "PoP")),
        _ => None,
    }
}

fn name_of(viewer: &Viewer, id: &str) -> Option<String> {
    let data = viewer.data();
    let devices = data.devices.iter().map(|row| (row.id.to_string(), &row.name));
    let users = data.users.iter().map(|row| (row.id.to_string(), &row.name));
    let accounts = data.service_accounts.iter().map(|row| (row.id.to_string(), &row.name));
    let connectors = data.connectors.iter().map(|row| (row.id.to_string(), &row.name));
    let pops = viewer.snapshot.dataset.pops.iter().map(|row| (row.id.to_string(), &row.name));
    let mut all = devices.chain(users).chain(accounts).chain(connectors).chain(pops);
    all.find(|(found, _)| found == id).map(|(_, name)| name.clone())
}

fn gone() -> Response {
    (StatusCode::NOT_FOUND, "There is nothing here that could be revoked.").into_response()
}

/// Asks before access goes.
pub(super) async fn revoke_page(viewer: Viewer, Path((kind, id)): Path<(String, String)>) -> Response {
    match (place(&kind), name_of(&viewer, &id)) {
        (Some(place), Some(name)) => ask(&viewer, place, &id, &name, html! {}),
        _ => gone(),
    }
}

fn ask(
    viewer: &Viewer,
    (here, page, word): (Here, &'static str, &'static str),
    id: &str,
    name: &str,
    error: Markup,
) -> Response {
    let back = format!("{page}/{id}");
    let title = format!("Revoke {name}?");
    let body = html! {
        (head(&[(&back, name)], html! { "Revoke " (typed(name)) "?" },
            "Its sessions end within 5 s at every connector that hears a controller. It works without the database. Access can be given back: it then enrols again.", html! {}))
        (error)
        form class="card" method="post" action={ (page) "/" (id) "/revoke" } {
            (viewer.token())
            div class="card-foot" {
                a class="btn" href=(back) { "Keep it" }
                button class="btn btn--danger" type="submit" { "Revoke the " (word) }
            }
        }
    };
    viewer.page(here, &title, body)
}

/// Takes access away.
pub(super) async fn revoke(
    api: Extension<Api>,
    Path((kind, id)): Path<(String, String)>,
    posted: Posted,
) -> Response {
    let viewer = &posted.viewer;
    let (Some(place), Some(name)) = (place(&kind), name_of(viewer, &id)) else { return gone() };
    if !posted.is_genuine() {
        return ask(viewer, place, &id, &name, html! {});
    }
    match send(&api, viewer, Method::POST, "/strikes", Some(&json!({"subject": id})), None).await {
        Ok(done) => struck_page(
            viewer,
            place.0,
            &format!("{name} was revoked"),
            &done.body,
            &format!("{}/{id}", place.1),
        ),
        Err(refused) => {
            let error = html! { div class="note note--bad mb-4" role="alert" { (icon("warn")) p { strong { "Nothing was revoked. " } (refused.sentence()) } } };
            ask(viewer, place, &id, &name, error)
        }
    }
}

/// Gives access back: a new generation, with which it enrols again.
pub(super) async fn restore(
    api: Extension<Api>,
    Path((kind, id)): Path<(String, String)>,
    posted: Posted,
) -> Response {
    let viewer = &posted.viewer;
    let (Some(place), Some(name)) = (place(&kind), name_of(viewer, &id)) else { return gone() };
    if !posted.is_genuine() {
        return Redirect::to(&format!("{}/{id}", place.1)).into_response();
    }
    match send(&api, viewer, Method::POST, "/restores", Some(&json!({"subject": id})), None).await {
        Ok(_) => Redirect::to(&format!("{}/{id}?saved=1", place.1)).into_response(),
        Err(refused) => {
            let body = html! {
                (head(&[(place.1, "Back")], html! { (typed(&name)) " stays revoked." }, refused.sentence(), html! { a class="btn" href={ (place.1) "/" (id) } { "Back" } }))
            };
            viewer.page_with(refused.http_status(), place.0, "Not given back", html! {}, body)
        }
    }
}

/// The buttons of a page about something that can be revoked.
pub(super) fn buttons(viewer: &Viewer, page: &str, id: &str, struck: bool) -> Markup {
    html! {
        @if struck && !viewer.offers(&format!("{page}/{id}/restore")) {
            // Whoever may not give it back is offered nothing.
        } @else if struck {
            form method="post" action={ (page) "/" (id) "/restore" } { (viewer.token()) button class="btn" type="submit" { "Give access back" } }
        } @else {
            (viewer.danger_link(&format!("{page}/{id}/revoke"), "Revoke", None))
        }
    }
}
