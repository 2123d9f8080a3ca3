//! Devices: whose they are, where they are connected, letting them in, and taking their access away.

use super::{
    ask::{Api, Refused, send},
    flows::{FLOW_COLUMNS, flow_rows, recent},
    form::{ASKED_BEFORE, Posted, trouble},
    lists::{self, Listing, Wanted, filter},
    look::{
        Row, badge, card, card_with_room, empty, facts, head, icon, parsed, plain_badge, said, table, time,
        typed,
    },
    names::{Names, member_page, pop_name},
    shell::{Here, Viewer},
    strikes::buttons,
    things::{Thing, done_note, nothing_there},
};
use crate::flows::FlowQuery;
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use std::collections::BTreeMap;
use store::{Device, DeviceState};
use trust::{RevokedSubject, Subject, UnixMs};
use wire::DeviceId;

/// How a device is, as people say it: what its row says of its access comes before what was revoked, and that before
/// where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Attached,
    Away,
    Revoked,
    Blocked,
    Archived,
}

impl State {
    /// Its word in an address, and in the list of states.
    const ALL: [(Self, &'static str, &'static str); 6] = [
        (Self::Waiting, "waiting", "Waits for approval"),
        (Self::Attached, "attached", "Attached now"),
        (Self::Away, "away", "Not attached"),
        (Self::Revoked, "revoked", "Revoked"),
        (Self::Blocked, "blocked", "Blocked"),
        (Self::Archived, "archived", "Archived"),
    ];

    /// Nothing passes from it, and giving access back is a word of its own.
    const fn is_out(self) -> bool {
        matches!(self, Self::Revoked | Self::Blocked | Self::Archived)
    }
}

/// Whether it enrolled and nobody has let it in yet. What is struck meanwhile waits for nobody.
fn is_waiting(viewer: &Viewer, row: &Device) -> bool {
    row.state == DeviceState::Pending && !is_struck(viewer, row)
}

fn is_struck(viewer: &Viewer, row: &Device) -> bool {
    viewer.core.strikes.set().is_struck(RevokedSubject::Device(row.id), row.generation)
}

fn state_of(viewer: &Viewer, row: &Device) -> (State, Option<UnixMs>) {
    let seen =
        viewer.core.presence().of(Subject::Device(row.id)).map(|seen| (!seen.attached.is_empty(), seen.last));
    let state = match (row.state, seen) {
        (DeviceState::Archived, _) => State::Archived,
        (DeviceState::Blocked, _) => State::Blocked,
        _ if is_struck(viewer, row) => State::Revoked,
        (DeviceState::Pending, _) => State::Waiting,
        (DeviceState::Active, Some((true, _))) => State::Attached,
        (DeviceState::Active, _) => State::Away,
    };
    (state, seen.map(|(_, last)| last))
}

fn state_badge(state: State) -> Markup {
    match state {
        State::Waiting => badge("warn", "clock", "waits for approval"),
        State::Attached => badge("fresh", "fresh", "attached"),
        State::Away => plain_badge("not attached"),
        State::Revoked => badge("denied", "strike", "revoked"),
        State::Blocked => badge("denied", "strike", "blocked"),
        State::Archived => plain_badge("archived"),
    }
}

fn last(viewer: &Viewer, last: Option<UnixMs>) -> Markup {
    last.map_or_else(
        || html! { span class="quiet" { "not since this controller started" } },
        |last| time(last, viewer.now),
    )
}

/// Rows about devices of one owner.
pub(super) fn device_rows<'a>(viewer: &Viewer, devices: impl Iterator<Item = &'a Device>) -> Vec<Row> {
    devices
        .map(|row| {
            let (state, seen) = state_of(viewer, row);
            Row::new(
                html! { a href={ "/devices/" (row.id) } { (typed(&row.name)) } },
                vec![state_badge(state), last(viewer, seen)],
            )
        })
        .collect()
}

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, names, search) = (viewer.data(), Names::of(viewer.data()), wanted.search());
    let kind = wanted.get("state");
    let only = State::ALL.into_iter().find(|(_, word, _)| *word == kind).map(|(state, ..)| state);
    let mut rows: Vec<(&Device, State, Option<UnixMs>)> = data
        .devices
        .iter()
        .filter(|row| {
            search.is_empty()
                || row.name.to_lowercase().contains(&search)
                || names.member(row.owner).to_lowercase().contains(&search)
        })
        .map(|row| {
            let (state, seen) = state_of(&viewer, row);
            (row, state, seen)
        })
        .filter(|(_, state, _)| only.is_none_or(|only| *state == only))
        .collect();
    rows.sort_by_cached_key(|(row, ..)| row.name.to_lowercase());
    let states: Vec<(String, String)> = [("", "Every state")]
        .into_iter()
        .chain(State::ALL.map(|(_, word, text)| (word, text)))
        .map(|(value, text)| (value.to_owned(), text.to_owned()))
        .collect();
    let listing = Listing {
        here: Here::Devices,
        title: "Devices",
        lede: "Enrolled machines of people and service accounts. Revoking one works also without the database.",
        path: "/devices",
        actions: html! {},
        above: done_note(&viewer, &wanted),
        search: "Device or owner",
        filters: filter("state", "State", kind, &states),
        columns: &[
            ("Device", ""),
            ("State", ""),
            ("Owner", ""),
            ("Last heard of", "nowrap low"),
            ("Actions", "row-actions"),
        ],
        one: "device",
        many: "devices",
        nothing: empty(
            "No devices yet",
            "Open a person, make a link that works once, and open it on the device: tidegate login LINK.",
            viewer.link_button("/people", "people", "People"),
        ),
    };
    lists::page(&viewer, &wanted, &listing, data.devices.len(), &rows, |(row, state, seen)| {
        Row::new(
            html! { a href={ "/devices/" (row.id) } { (typed(&row.name)) } },
            vec![
                state_badge(*state),
                html! { a href=(member_page(row.owner)) { (typed(names.member(row.owner))) } },
                last(&viewer, *seen),
                html! { @match state {
                    State::Waiting => div { (approve_link(&viewer, row)) },
                    state if state.is_out() => {},
                    _ => div { (viewer.danger_link(&format!("/devices/{}/revoke", row.id), "Revoke", Some(&row.name))) },
                } },
            ],
        )
    })
}

/// In a list, to the page that says what is let in.
fn approve_link(viewer: &Viewer, row: &Device) -> Markup {
    let place = format!("/devices/{}/approve", row.id);
    html! {
        @if viewer.offers(&place) { a class="btn btn--sm" href=(place) aria-label={ "Approve " (row.name) } { (icon("check")) "Approve" } }
    }
}

/// What takes its access away and keeps it in the list; removing it stands at the head of its page.
fn keep_card(viewer: &Viewer, id: &str, state: State) -> Markup {
    let ways = [
        (
            State::Blocked,
            "block",
            "strike",
            "Block it",
            "Its access ends now, and it stays in the list as blocked: lost, stolen, or of somebody who left.",
        ),
        (
            State::Archived,
            "archive",
            "db",
            "Archive it",
            "The same for one that nobody uses any more: it is kept for the record.",
        ),
    ];
    let offered: Vec<_> = ways
        .into_iter()
        .filter(|(into, ..)| *into != state && state != State::Archived)
        .map(|(_, way, sign, text, why)| (format!("/devices/{id}/{way}"), sign, text, why))
        .filter(|(place, ..)| viewer.offers(place))
        .collect();
    if offered.is_empty() {
        return html! {};
    }
    card(
        "keep",
        "Without access, but kept",
        html! {},
        html! {
            ul class="todo" { @for (place, sign, text, why) in &offered { li { (icon(sign)) div { a href=(place) { (text) } span { (why) } } } } }
        },
    )
}

fn find<'a>(viewer: &'a Viewer, id: &str) -> Option<&'a Device> {
    let id: DeviceId = id.parse().ok()?;
    viewer.data().devices.iter().find(|row| row.id == id)
}

fn missing(viewer: &Viewer) -> Response {
    nothing_there(viewer, Thing::Device, &Refused { status: 404, ..Refused::default() })
}

/// Asks before a device is let in: whose it is, and by which key it will be known.
pub(super) async fn approve_page(viewer: Viewer, Path(id): Path<String>) -> Response {
    match find(&viewer, &id) {
        Some(row) => ask_to_approve(&viewer, row, StatusCode::OK, None),
        None => missing(&viewer),
    }
}

fn ask_to_approve(viewer: &Viewer, row: &Device, status: StatusCode, why: Option<&str>) -> Response {
    let names = Names::of(viewer.data());
    let (back, waits) = (format!("/devices/{}", row.id), viewer.changes_wait());
    let view = viewer.views().device(row);
    let waiting = is_waiting(viewer, row);
    let lede = if waiting {
        "It reaches what its owner’s groups reach as soon as it asks again. Compare its identity key with what the device shows."
    } else {
        "It waits for nobody: it was approved before, or its access was taken away."
    };
    let body = html! {
        (head(&[("/devices", "Devices"), (&back, &row.name)], html! { "Approve " (typed(&row.name)) "?" }, lede, html! {}))
        (trouble("It was not approved.", why))
        form class="card" method="post" action={ (back) "/approve" } {
            (viewer.token())
            div class="card-body card-body--top" {
                (facts(&[
                    ("Owner", html! { a href=(member_page(row.owner)) { (typed(names.member(row.owner))) } }),
                    ("Enrolled", time(UnixMs::from_millis(row.created_ms), viewer.now)),
                    ("Identity key", html! { code { (view.identity_key) } }),
                ]))
            }
            div class="card-foot" {
                @if waiting {
                    button class="btn btn--primary" type="submit" disabled[waits.is_some()] { (icon("check")) "Approve the device" }
                    a class="btn" href=(back) { "Not now" }
                } @else {
                    a class="btn" href=(back) { "Back to the device" }
                }
                @if let Some(why) = &waits { span { "Approving waits: " (why) "." } }
            }
        }
    };
    viewer.page_with(status, Here::Devices, &format!("Approve {}?", row.name), html! {}, body)
}

/// Lets it in.
pub(super) async fn approve(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let viewer = &posted.viewer;
    let Some(row) = find(viewer, &id) else { return missing(viewer) };
    if !posted.is_genuine() {
        return ask_to_approve(viewer, row, StatusCode::CONFLICT, Some(ASKED_BEFORE));
    }
    match send(&api, viewer, Method::POST, &format!("/devices/{id}/approve"), None, None).await {
        Ok(_) => Redirect::to(&format!("/devices/{id}?approved=1")).into_response(),
        Err(refused) => ask_to_approve(viewer, row, refused.http_status(), Some(&refused.sentence())),
    }
}

pub(super) async fn one(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let Some(row) = find(&viewer, &id) else { return missing(&viewer) };
    let flows =
        recent(&viewer, FlowQuery { limit: 20, device: Some(id.clone()), ..FlowQuery::default() }).await;
    let names = Names::of(viewer.data());
    let view = viewer.views().device(row);
    let (state, seen) = state_of(&viewer, row);
    let pops: Vec<String> =
        view.live.pops.iter().map(|pop| pop_name(&viewer.snapshot.dataset, pop)).collect();
    let ends = said(crate::issue::grants_end(viewer.data(), viewer.now), viewer.now);
    let body = html! {
        (head(&[("/devices", "Devices"), (&member_page(row.owner), names.member(row.owner))], typed(&row.name), html! {
            (state_badge(state)) " "
            @match state {
                State::Attached => { "Connected at " (pops.join(", ")) ". A grant renewed now would last until " (ends) "." },
                State::Away => "It has no session at a PoP now.",
                State::Waiting => "It enrolled and reaches nothing until somebody approves it.",
                State::Revoked => "Nothing passes from it. Giving access back needs the database, and the device enrols again.",
                State::Blocked => "Its access was taken away, and it is kept. Giving access back needs the database, and the device enrols again.",
                State::Archived => "It is kept for the record and reaches nothing.",
            }
        }, html! {
            @if state == State::Waiting { (viewer.primary_link(&format!("/devices/{id}/approve"), "check", "Approve…")) }
            (viewer.link_button(&format!("/why?who={id}"), "why", "Why can / can’t…"))
            (viewer.link_button(&format!("/devices/{id}/edit"), "edit", "Rename"))
            (buttons(&viewer, "/devices", &id, state.is_out()))
            (viewer.danger_link(&format!("/devices/{id}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        div class="grid" {
            div class="stack col-8" {
                (card("fl", "Flows", html! { a href={ "/flows?device=" (id) } { "All" } }, match &flows {
                    Ok(flows) if flows.is_empty() => empty("No flow yet", "Connectors report each connection when it ends, and each that was denied at once.", html! {}),
                    Ok(flows) => table("Flows", FLOW_COLUMNS, &flow_rows(&viewer, flows)),
                    Err(error) => html! { p class="card-body" { (error) } },
                }))
            }
            div class="stack stack--side col-4" {
                div id="live" data-live hx-get={ "/devices/" (id) } hx-select="#live" hx-trigger="live from:body" hx-swap="outerHTML" {
                    (card_with_room("facts", "Facts", facts(&[
                        ("State", state_badge(state)),
                        ("At PoPs", html! { @if pops.is_empty() { span class="quiet" { "none" } } @else { (pops.join(", ")) } }),
                        ("Owner", html! { a href=(member_page(row.owner)) { (typed(names.member(row.owner))) } }),
                        ("Last heard of", last(&viewer, seen)),
                        ("Enrolled", parsed(&view.created).map_or_else(|| html! {}, |at| time(at, viewer.now))),
                        ("Generation", html! { (row.generation) }),
                        ("Identity key", html! { code { (view.identity_key) } }),
                        ("Id", html! { code { (id) } }),
                    ])))
                }
                (keep_card(&viewer, &id, state))
            }
        }
    };
    viewer.page(Here::Devices, &row.name, body)
}
