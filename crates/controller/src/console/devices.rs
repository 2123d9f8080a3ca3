//! Devices: whose they are, where they are connected, and taking their access away.

use super::{
    ask::Refused,
    flows::{FLOW_COLUMNS, flow_rows, recent},
    lists::{self, Listing, Wanted, filter},
    look::{Row, badge, card, card_with_room, empty, facts, head, parsed, said, table, time, typed},
    names::{Names, member_page, pop_name},
    shell::{Here, Viewer},
    strikes::buttons,
    things::{Thing, done_note, nothing_there},
};
use crate::flows::FlowQuery;
use axum::{
    extract::{Path, Query},
    response::Response,
};
use maud::{Markup, html};
use std::collections::BTreeMap;
use store::Device;
use trust::{RevokedSubject, Subject, UnixMs};
use wire::DeviceId;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Revoked,
    Attached,
    Away,
}

fn state_of(viewer: &Viewer, row: &Device) -> (State, Option<UnixMs>) {
    let seen =
        viewer.core.presence().of(Subject::Device(row.id)).map(|seen| (!seen.attached.is_empty(), seen.last));
    let struck = viewer.core.strikes.set().is_struck(RevokedSubject::Device(row.id), row.generation);
    let state = match (struck, seen) {
        (true, _) => State::Revoked,
        (false, Some((true, _))) => State::Attached,
        _ => State::Away,
    };
    (state, seen.map(|(_, last)| last))
}

fn state_badge(state: State) -> Markup {
    match state {
        State::Revoked => badge("denied", "strike", "revoked"),
        State::Attached => badge("fresh", "fresh", "attached"),
        State::Away => html! { span class="badge badge--plain" { "not attached" } },
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
        .filter(|(_, state, _)| match kind {
            "attached" => *state == State::Attached,
            "away" => *state == State::Away,
            "revoked" => *state == State::Revoked,
            _ => true,
        })
        .collect();
    rows.sort_by_cached_key(|(row, ..)| row.name.to_lowercase());
    let states =
        [("", "Every state"), ("attached", "Attached now"), ("away", "Not attached"), ("revoked", "Revoked")]
            .map(|(value, text)| (value.to_owned(), text.to_owned()));
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
                html! { @if *state != State::Revoked { div { (viewer.danger_link(&format!("/devices/{}/revoke", row.id), "Revoke", Some(&row.name))) } } },
            ],
        )
    })
}

pub(super) async fn one(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let found = id.parse::<DeviceId>().ok();
    let Some(row) = found.and_then(|id| viewer.data().devices.iter().find(|row| row.id == id)) else {
        return nothing_there(&viewer, Thing::Device, &Refused { status: 404, ..Refused::default() });
    };
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
                State::Revoked => "Nothing passes from it. Giving access back needs the database, and the device enrols again.",
            }
        }, html! {
            (viewer.link_button(&format!("/why?who={id}"), "why", "Why can / can’t…"))
            (viewer.link_button(&format!("/devices/{id}/edit"), "edit", "Rename"))
            (buttons(&viewer, "/devices", &id, view.struck))
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
            }
        }
    };
    viewer.page(Here::Devices, &row.name, body)
}
