//! Taking access away, and the honest count as the answer.

use super::{
    ask::{Api, Refused, send},
    form::{Posted, trouble},
    look::{card_with_room, counted, facts, head, icon, parsed, said, time, typed},
    shell::{Here, Viewer, encode},
    things::{Thing, nothing_there},
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

/// How access is taken away from a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By a strike alone.
    Revoke,
    /// A device, which is kept as blocked.
    Block,
    /// A device, which is kept for the record.
    Archive,
}

impl Way {
    /// What there is for a thing; nothing where it cannot be struck.
    pub(super) const fn of(thing: Thing) -> &'static [Self] {
        match thing {
            Thing::Device => &[Self::Revoke, Self::Block, Self::Archive],
            Thing::User | Thing::ServiceAccount | Thing::Connector | Thing::Pop => &[Self::Revoke],
            _ => &[],
        }
    }

    /// Its place in the console and in the API.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Revoke => "revoke",
            Self::Block => "block",
            Self::Archive => "archive",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Revoke => "Revoke",
            Self::Block => "Block",
            Self::Archive => "Archive",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Revoke => "revoked",
            Self::Block => "blocked",
            Self::Archive => "archived",
        }
    }

    /// What follows from it, before it is done.
    const fn lede(self) -> &'static str {
        match self {
            Self::Revoke => {
                "Its sessions end within 5 s at every connector that hears a controller. It works without the database. Access can be given back: it then enrols again."
            }
            Self::Block => {
                "Its sessions end within 5 s at every connector that hears a controller, also without the database. It stays in the list as blocked until somebody gives access back: it then enrols again."
            }
            Self::Archive => {
                "Its sessions end within 5 s at every connector that hears a controller, also without the database. It is kept for the record, with its flows and its place in the audit log."
            }
        }
    }

    /// What the API is asked.
    fn request(self, id: &str) -> (String, Option<Value>) {
        match self {
            Self::Revoke => ("/strikes".to_owned(), Some(json!({"subject": id}))),
            Self::Block | Self::Archive => (format!("/devices/{}/{}", encode(id), self.word()), None),
        }
    }
}

/// What a thing that can be struck is called; of another kind there is none by this id.
fn name_of(viewer: &Viewer, thing: Thing, id: &str) -> Option<String> {
    let data = viewer.data();
    let find = |mut all: Box<dyn Iterator<Item = (String, &String)> + '_>| {
        all.find(|(found, _)| found == id).map(|(_, name)| name.clone())
    };
    match thing {
        Thing::Device => find(Box::new(data.devices.iter().map(|row| (row.id.to_string(), &row.name)))),
        Thing::User => find(Box::new(data.users.iter().map(|row| (row.id.to_string(), &row.name)))),
        Thing::ServiceAccount => {
            find(Box::new(data.service_accounts.iter().map(|row| (row.id.to_string(), &row.name))))
        }
        Thing::Connector => find(Box::new(data.connectors.iter().map(|row| (row.id.to_string(), &row.name)))),
        Thing::Pop => {
            find(Box::new(viewer.snapshot.dataset.pops.iter().map(|row| (row.id.to_string(), &row.name))))
        }
        _ => None,
    }
}

fn gone(viewer: &Viewer, thing: Thing) -> Response {
    nothing_there(viewer, thing, &Refused { status: 404, ..Refused::default() })
}

/// Asks before access goes.
pub(super) async fn ask_page(thing: Thing, way: Way, viewer: Viewer, Path(id): Path<String>) -> Response {
    match name_of(&viewer, thing, &id) {
        Some(name) => ask(&viewer, thing, way, &id, &name, None),
        None => gone(&viewer, thing),
    }
}

fn ask(viewer: &Viewer, thing: Thing, way: Way, id: &str, name: &str, refused: Option<&Refused>) -> Response {
    let back = format!("{}/{id}", thing.page());
    let title = format!("{} {name}?", way.title());
    let body = html! {
        (head(&[(&back, name)], html! { (way.title()) " " (typed(name)) "?" }, way.lede(), html! {}))
        (trouble(&format!("Nothing was {}.", way.done()), refused.map(Refused::sentence).as_deref()))
        form class="card" method="post" action={ (back) "/" (way.word()) } {
            (viewer.token())
            div class="card-foot" {
                a class="btn" href=(back) { "Keep it" }
                button class="btn btn--danger" type="submit" { (way.title()) " the " (thing.word()) }
            }
        }
    };
    let status = refused.map_or(StatusCode::OK, Refused::http_status);
    viewer.page_with(status, thing.here(), &title, html! {}, body)
}

/// Takes access away. A form that is not of this session never comes here: it was asked about before.
pub(super) async fn strike(
    thing: Thing,
    way: Way,
    api: Extension<Api>,
    Path(id): Path<String>,
    posted: Posted,
) -> Response {
    let viewer = &posted.viewer;
    let Some(name) = name_of(viewer, thing, &id) else { return gone(viewer, thing) };
    if !posted.is_genuine() {
        return ask(viewer, thing, way, &id, &name, None);
    }
    let (path, body) = way.request(&id);
    match send(&api, viewer, Method::POST, &path, body.as_ref(), None).await {
        Ok(done) => {
            let back = format!("{}/{id}", thing.page());
            struck_page(viewer, thing.here(), &format!("{name} was {}", way.done()), &done.body, &back)
        }
        Err(refused) => ask(viewer, thing, way, &id, &name, Some(&refused)),
    }
}

/// Gives access back: a new generation, with which it enrols again.
pub(super) async fn restore(
    thing: Thing,
    api: Extension<Api>,
    Path(id): Path<String>,
    posted: Posted,
) -> Response {
    let viewer = &posted.viewer;
    let Some(name) = name_of(viewer, thing, &id) else { return gone(viewer, thing) };
    let back = format!("{}/{id}", thing.page());
    if !posted.is_genuine() {
        return Redirect::to(&back).into_response();
    }
    match send(&api, viewer, Method::POST, "/restores", Some(&json!({"subject": id})), None).await {
        Ok(_) => Redirect::to(&format!("{back}?saved=1")).into_response(),
        Err(refused) => {
            let body = html! {
                (head(&[(thing.page(), "Back")], html! { (typed(&name)) " stays as it is." }, refused.sentence(), html! { a class="btn" href=(back) { "Back" } }))
            };
            viewer.page_with(refused.http_status(), thing.here(), "Not given back", html! {}, body)
        }
    }
}

/// The buttons of a page about something that can be revoked.
pub(super) fn buttons(viewer: &Viewer, page: &str, id: &str, struck: bool) -> Markup {
    let waits = viewer.changes_wait();
    html! {
        @if struck && !viewer.offers(&format!("{page}/{id}/restore")) {
            // Whoever may not give it back is offered nothing.
        } @else if struck {
            form method="post" action={ (page) "/" (id) "/restore" } { (viewer.token()) button class="btn" type="submit" disabled[waits.is_some()] { "Give access back" } }
            @if let Some(why) = &waits { span class="sm" { "Giving it back waits: " (why) "." } }
        } @else {
            (viewer.danger_link(&format!("{page}/{id}/revoke"), "Revoke", None))
        }
    }
}
