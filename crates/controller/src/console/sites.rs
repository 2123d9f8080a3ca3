//! Sites and their connectors, and the page that waits for a new one.

use super::{
    ask::{Api, Refused, send},
    connect,
    form::{ASKED_BEFORE, Posted, trouble},
    lists::{self, Listing, Wanted},
    look::{
        Row, badge, card, card_with_room, code, counted, empty, facts, head, icon, note, parsed, said, table,
        time, typed,
    },
    shell::{Here, Viewer},
    strikes::buttons,
    things::{Thing, done_note, nothing_there},
};
use axum::{
    Extension,
    extract::{Path, Query},
    response::Response,
};
use http::{HeaderValue, Method, StatusCode, header};
use maud::{Markup, PreEscaped, html};
use serde_json::json;
use std::collections::BTreeMap;
use store::{Connector, EnrolmentTarget, Site};
use trust::{RevokedSubject, Subject, UnixMs};
use wire::{ConnectorId, EnrolmentKeyId, SiteId};

/// How long a connector's key works: long enough to open another terminal, short enough to forget about it.
const KEY_LIFE_S: u64 = 3600;

/// How a connector is, as people say it.
pub(super) fn connector_state(viewer: &Viewer, row: &Connector) -> (Markup, bool) {
    if viewer.core.strikes.set().is_struck(RevokedSubject::Connector(row.id), row.generation) {
        return (badge("denied", "strike", "revoked"), false);
    }
    let attached =
        viewer.core.presence().of(Subject::Connector(row.id)).is_some_and(|seen| !seen.attached.is_empty());
    if attached {
        (badge("fresh", "fresh", "fresh"), true)
    } else {
        (badge("isolated", "isolated", "not attached"), false)
    }
}

fn of_site(viewer: &Viewer, site: SiteId) -> impl Iterator<Item = &Connector> {
    viewer.data().connectors.iter().filter(move |row| row.site == site)
}

fn site_state(viewer: &Viewer, site: SiteId) -> Markup {
    let (mut all, mut there) = (0, 0);
    for row in of_site(viewer, site) {
        all += 1;
        there += usize::from(connector_state(viewer, row).1);
    }
    match (all, there) {
        (0, _) => html! { span class="badge badge--plain" { "no connector yet" } },
        (_, 0) => badge("isolated", "isolated", "no connector attached"),
        (all, there) => badge("fresh", "fresh", format!("{there} of {all} attached")),
    }
}

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, search) = (viewer.data(), wanted.search());
    let mut rows: Vec<&Site> = data
        .sites
        .iter()
        .filter(|row| {
            search.is_empty()
                || row.name.to_lowercase().contains(&search)
                || row.prefixes.iter().any(|p| p.contains(&search))
        })
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let add = viewer.primary_link("/sites/new", "plus", "Add a site");
    let listing = Listing {
        here: Here::Sites,
        title: "Sites",
        lede: "A site is a private network. Its connectors dial out only; two keep access on when one goes down.",
        path: "/sites",
        actions: add.clone(),
        above: done_note(&viewer, &wanted),
        search: "Name or prefix",
        filters: html! {},
        columns: &[
            ("Site", ""),
            ("State", ""),
            ("Resources", "num"),
            ("Prefixes", "low"),
            ("Actions", "row-actions"),
        ],
        one: "site",
        many: "sites",
        nothing: empty(
            "No sites yet",
            "A site is a private network. Name it, start a connector in it with one command, and say what is in it.",
            add,
        ),
    };
    let mut resources: BTreeMap<SiteId, usize> = BTreeMap::new();
    data.resources.iter().for_each(|row| *resources.entry(row.site).or_default() += 1);
    lists::page(&viewer, &wanted, &listing, data.sites.len(), &rows, |row| {
        Row::new(
            html! { a href={ "/sites/" (row.id) } { (typed(&row.name)) } },
            vec![
                site_state(&viewer, row.id),
                html! { (resources.get(&row.id).copied().unwrap_or(0)) },
                html! { span class="mono wrap-any" { (row.prefixes.join(", ")) } @if row.prefixes.is_empty() { span class="quiet" { "none" } } },
                html! { @if viewer.offers(&format!("/sites/{}/connect", row.id)) { div { a class="btn btn--sm" href={ "/sites/" (row.id) "/connect" } { "Add a connector" } } } },
            ],
        )
    })
}

fn find<'a>(viewer: &'a Viewer, id: &str) -> Option<&'a Site> {
    let id: SiteId = id.parse().ok()?;
    viewer.data().sites.iter().find(|row| row.id == id)
}

fn missing(viewer: &Viewer, thing: Thing) -> Response {
    nothing_there(viewer, thing, &Refused { status: 404, ..Refused::default() })
}

fn connector_rows(viewer: &Viewer, site: SiteId) -> Vec<Row> {
    of_site(viewer, site)
        .map(|row| {
            let last = viewer.core.presence().of(Subject::Connector(row.id)).map(|seen| seen.last);
            Row::new(
                html! { a href={ "/connectors/" (row.id) } { (typed(&row.name)) } },
                vec![
                    connector_state(viewer, row).0,
                    last.map_or_else(
                        || html! { span class="quiet" { "not since this controller started" } },
                        |last| time(last, viewer.now),
                    ),
                ],
            )
        })
        .collect()
}

const CONNECTOR_COLUMNS: &[super::look::Column] = &[("Connector", ""), ("State", ""), ("Last heard of", "")];

pub(super) async fn one(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let Some(site) = find(&viewer, &id) else { return missing(&viewer, Thing::Site) };
    let resources: Vec<_> = viewer.data().resources.iter().filter(|row| row.site == site.id).collect();
    let rows: Vec<Row> = resources
        .iter()
        .take(50)
        .map(|row| {
            Row::new(
                html! { a href={ "/resources/" (row.id) } { (typed(&row.name)) } },
                vec![
                    html! { span class="mono wrap-any" { (row.address) } },
                    html! { span class="mono" { (super::resources::ports(row)) } },
                ],
            )
        })
        .collect();
    let connect = format!("/sites/{id}/connect");
    let connectors = connector_rows(&viewer, site.id);
    let first = wanted.get("saved") == "1" && connectors.is_empty();
    let body = html! {
        (head(&[("/sites", "Sites")], typed(&site.name), html! { (site_state(&viewer, site.id)) }, html! {
            (viewer.primary_link(&connect, "plus", "Add a connector"))
            (viewer.link_button(&format!("/sites/{id}/edit"), "edit", "Edit"))
            (viewer.danger_link(&format!("/sites/{id}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        @if first && viewer.offers(&connect) { div class="mb-4" { (note("", "info", html! { strong { "Next: start its connector. " } a href=(connect) { "Get the command" } })) } }
        div class="grid" {
            div class="stack col-8" id="live" data-live hx-get={ "/sites/" (id) } hx-select="#live" hx-trigger="live from:body" hx-swap="outerHTML" {
                (card("con", "Connectors", html! { span class="sub" { (connectors.len()) } }, if connectors.is_empty() {
                    empty("No connector yet", "A connector runs in this network and dials out. One command starts it.", viewer.primary_link(&connect, "plus", "Add a connector"))
                } else { table("Connectors", CONNECTOR_COLUMNS, &connectors) }))
                (card("res", "Resources here", html! { a href={ "/resources?site=" (id) } { "All " (resources.len()) } }, if rows.is_empty() {
                    empty("No resources here yet", "Say what people may reach in this network.", viewer.primary_link(&format!("/resources/new?site={id}"), "plus", "Add a resource"))
                } else { table("Resources", &[("Name", ""), ("Address", ""), ("Ports", "")], &rows) }))
            }
            div class="stack stack--side col-4" {
                (card_with_room("facts", "Facts", facts(&[
                    ("Prefixes", html! { @if site.prefixes.is_empty() { span class="quiet" { "none: its names reach nothing" } } @else { code { (site.prefixes.join(", ")) } } }),
                    ("Regions", html! { @if site.regions.is_empty() { "any" } @else { (site.regions.join(", ")) } }),
                    ("Made", time(UnixMs::from_millis(site.created_ms), viewer.now)),
                    ("Id", html! { code { (id) } }),
                ])))
            }
        }
    };
    viewer.page(Here::Sites, &site.name, body)
}

pub(super) async fn connector(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let found = id.parse::<ConnectorId>().ok();
    let Some(row) = found.and_then(|id| viewer.data().connectors.iter().find(|row| row.id == id)) else {
        return missing(&viewer, Thing::Connector);
    };
    let view = viewer.views().connector(row);
    let site = viewer.data().sites.iter().find(|site| site.id == row.site);
    let pops: Vec<String> =
        view.live.pops.iter().map(|pop| super::names::pop_name(&viewer.snapshot.dataset, pop)).collect();
    let sites = format!("/sites/{}", row.site);
    let body = html! {
        (head(&[("/sites", "Sites"), (&sites, site.map_or("removed", |site| &site.name))], typed(&row.name), html! { (connector_state(&viewer, row).0) }, html! {
            (buttons(&viewer, "/connectors", &id, view.struck))
            (viewer.link_button(&format!("/connectors/{id}/edit"), "edit", "Rename"))
            (viewer.danger_link(&format!("/connectors/{id}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        div id="live" data-live hx-get={ "/connectors/" (id) } hx-select="#live" hx-trigger="live from:body" hx-swap="outerHTML" {
            (card_with_room("facts", "Facts", facts(&[
                ("Site", html! { a href=(sites) { (typed(site.map_or("removed", |site| &site.name))) } }),
                ("At PoPs", html! { @if pops.is_empty() { span class="quiet" { "none" } } @else { (pops.join(", ")) } }),
                ("Last heard of", view.live.last_seen.as_deref().and_then(parsed).map_or_else(|| html! { span class="quiet" { "not since this controller started" } }, |at| time(at, viewer.now))),
                ("Generation", html! { (row.generation) }),
                ("Enrolled", time(UnixMs::from_millis(row.created_ms), viewer.now)),
                ("Identity key", html! { code { (view.identity_key) } }),
                ("Id", html! { code { (id) } }),
            ])))
        }
        div class="actions mt-4" { a class="btn" href={ "/flows?connector=" (id) } { (icon("flow")) "Its flows" } }
    };
    viewer.page(Here::Sites, &row.name, body)
}

/// Before a key is made: nothing happens by looking at a page.
pub(super) async fn connect_page(viewer: Viewer, Path(id): Path<String>) -> Response {
    match find(&viewer, &id) {
        Some(site) => ask_to_connect(&viewer, site, StatusCode::OK, None),
        None => missing(&viewer, Thing::Site),
    }
}

fn ask_to_connect(viewer: &Viewer, site: &Site, status: StatusCode, why: Option<&str>) -> Response {
    let waits = viewer.changes_wait();
    let back = format!("/sites/{}", site.id);
    let body = html! {
        (head(&[("/sites", "Sites"), (&back, &site.name)], html! { "Add a connector to " (typed(&site.name)) },
            "A connector dials out only; nothing in this network has to be opened. Two in different racks keep access on when one goes down.", html! {}))
        (trouble("No key was made.", why))
        form class="card" method="post" action={ (back) "/connect" } {
            (viewer.token())
            div class="card-body card-body--top" {
                p { "You get an enrolment key that enrols one connector, once, within an hour, and the command that starts it. The key is shown once." }
            }
            div class="card-foot" {
                button class="btn btn--primary" type="submit" disabled[waits.is_some()] { (icon("key")) "Make the key and show the commands" }
                a class="btn btn--quiet" href=(back) { "Back" }
                @if let Some(why) = &waits { span { "Enrolling waits: " (why) "." } }
            }
        }
    };
    viewer.page_with(status, Here::Sites, "Add a connector", html! {}, body)
}

/// Makes the key, and shows it and the commands in this one answer.
pub(super) async fn connect(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let viewer = posted.viewer;
    let Some(site) = find(&viewer, &id) else { return missing(&viewer, Thing::Site) };
    if !genuine {
        return ask_to_connect(&viewer, site, StatusCode::CONFLICT, Some(ASKED_BEFORE));
    }
    let body = json!({"kind": "connector", "site": id, "lifetime_seconds": KEY_LIFE_S});
    let made = match send(&api, &viewer, Method::POST, "/enrolment-keys", Some(&body), None).await {
        Ok(made) => made.body,
        Err(refused) => {
            return ask_to_connect(&viewer, site, refused.http_status(), Some(&refused.sentence()));
        }
    };
    let viewer = viewer.refreshed();
    let Some(site) = find(&viewer, &id) else { return missing(&viewer, Thing::Site) };
    let key_id = made["key"]["id"].as_str().unwrap_or_default();
    let key = made["join_key"].as_str().unwrap_or_default();
    let until = parsed(made["key"]["expires"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let back = format!("/sites/{id}");
    let taken = of_site(&viewer, site.id).count() + 1;
    let name = format!("{}-{taken}", connect::slug(&site.name));
    let pops: Vec<String> =
        viewer.snapshot.dataset.pops.iter().take(6).map(|pop| pop.address.clone()).collect();
    let page = html! {
        (head(&[("/sites", "Sites"), (&back, &site.name)], html! { "Add a connector to " (typed(&site.name)) },
            "A connector dials out only; nothing in this network has to be opened.", html! {}))
        div class="grid" {
            section class="card card-body card-body--top col-8" aria-label="Steps" {
                ol class="steps" {
                    li {
                        h2 { "Take the enrolment key" }
                        p { "It enrols one connector, once, until " (said(until, viewer.now)) ". It is shown only now; store it where the connector will run." }
                        (code("Enrolment key", html! { (key) }))
                    }
                    li {
                        h2 { "Save it to a file" }
                        p { "The command asks for the key, so that it stays out of the shell’s history and out of the list of processes." }
                        (code("Command that stores the key", html! { "(umask 077; printf 'Enrolment key: '; read -r k; printf %s \"$k\" > join.key)" }))
                    }
                    li {
                        h2 { "Start the connector" }
                        (connect::commands(&name, viewer.core.connector_image.as_ref()))
                    }
                    li {
                        h2 { "Watch it arrive" }
                        (waiting(&viewer, &id, key_id))
                    }
                }
            }
            div class="stack stack--side col-4" {
                (card_with_room("needs", "What it needs", facts(&[
                    ("Out, UDP", html! { "to " @for (index, pop) in pops.iter().enumerate() { @if index > 0 { ", " } code { (pop) } } }),
                    ("Out, TCP", html! { "the same, where UDP is blocked" }),
                    ("Out, HTTPS", html! { "once, to " code { (viewer.core.url) } }),
                    ("In", html! { "nothing" }),
                ])))
                (card("already", "Already here", html! {}, {
                    let rows = connector_rows(&viewer, site.id);
                    if rows.is_empty() { html! { p class="card-body sm quiet" { "It will be the first." } } } else { table("Connectors", CONNECTOR_COLUMNS, &rows) }
                }))
            }
        }
    };
    let mut answer = viewer.page(Here::Sites, "Add a connector", page);
    // A secret is in this one answer.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// What enrolled with a key.
fn enrolled<'a>(viewer: &'a Viewer, key: &str) -> Option<&'a Connector> {
    let key: EnrolmentKeyId = key.parse().ok()?;
    viewer.data().connectors.iter().find(|row| row.enrolled_by == key)
}

fn key_end(viewer: &Viewer, key: &str) -> Option<UnixMs> {
    let key: EnrolmentKeyId = key.parse().ok()?;
    let row = viewer.data().enrolment_keys.iter().find(|row| row.id == key)?;
    matches!(row.target, EnrolmentTarget::Connector { .. }).then(|| UnixMs::from_millis(row.expires_ms))
}

fn waiting(viewer: &Viewer, site: &str, key: &str) -> Markup {
    let there = enrolled(viewer, key);
    let presence = there.and_then(|row| viewer.core.presence().of(Subject::Connector(row.id)).cloned());
    let attached = presence.as_ref().is_some_and(|seen| !seen.attached.is_empty());
    let pops = presence.map(|seen| seen.attached.len()).unwrap_or(0);
    let step = |done: bool, now: bool, text: String, state: &str| {
        html! {
            li class=[if done { Some("done") } else if now { Some("now") } else { None }] {
                (icon(if done { "check" } else if now { "clock" } else { "minus" })) span { (text) } span { (state) }
            }
        }
    };
    html! {
        div class=(if attached { "arrive arrive--there" } else { "arrive" }) id="arrive" role="status" data-live
            hx-get={ "/sites/" (site) "/waiting/" (key) } hx-select="#arrive" hx-trigger=[(!attached).then_some("live from:body, every 2s")] hx-swap="outerHTML" {
            div class="arrive-head" {
                (PreEscaped(BEAT))
                div {
                    h3 { @match (there, attached) {
                        (Some(row), true) => { (typed(&row.name)) " is connected." },
                        (Some(row), false) => { (typed(&row.name)) " has enrolled. Waiting for its session…" },
                        (None, _) => "Waiting for the connector…",
                    } }
                    p { @if attached { "The site can be reached. Say what is in it, and who may reach it." }
                        @else { "This turns green by itself. You can also leave" @if let Some(end) = key_end(viewer, key) { "; the key works until " (said(end, viewer.now)) } "." } }
                }
            }
            ol {
                (step(there.is_some(), there.is_none(), "Key accepted, certificate issued".into(), if there.is_some() { "done" } else { "waiting" }))
                (step(attached, there.is_some() && !attached, if pops > 0 { format!("Registered at {}", counted(pops, "PoP", "PoPs")) } else { "Registered at a PoP".into() }, if attached { "done" } else if there.is_some() { "waiting" } else { "" }))
            }
            @if attached {
                div class="card-foot" {
                    (viewer.primary_link(&format!("/resources/new?site={site}"), "plus", "Add a resource here"))
                    a class="btn" href={ "/sites/" (site) } { "Look at the site" }
                }
            } @else {
                noscript { div class="card-foot" { a class="btn" href={ "/sites/" (site) "/waiting/" (key) } { "Look whether it has arrived" } } }
            }
        }
    }
}

const BEAT: &str = r#"<svg class="beat" viewBox="0 0 36 36" aria-hidden="true"><rect x="4" y="6" width="4" height="24" rx="2"/><rect x="12" y="6" width="4" height="24" rx="2"/><rect x="20" y="6" width="4" height="24" rx="2"/><rect x="28" y="6" width="4" height="24" rx="2"/></svg>"#;

/// The waiting part as a page of its own: it refreshes itself where there is no script.
pub(super) async fn waiting_page(viewer: Viewer, Path((id, key)): Path<(String, String)>) -> Response {
    let Some(site) = find(&viewer, &id) else { return missing(&viewer, Thing::Site) };
    let back = format!("/sites/{id}");
    let attached = enrolled(&viewer, &key).is_some_and(|row| connector_state(&viewer, row).1);
    let body = html! {
        (head(&[("/sites", "Sites"), (&back, &site.name)], html! { "A connector for " (typed(&site.name)) }, "It is started where the network is, with the key that was shown.", html! {}))
        (waiting(&viewer, &id, &key))
        @if !attached { div class="actions mt-4" { a class="btn" href=(back) { "Back to the site" } } }
    };
    let refresh = if attached {
        html! {}
    } else {
        html! { noscript { meta http-equiv="refresh" content="3"; } }
    };
    viewer.page_with(StatusCode::OK, Here::Sites, "Waiting for a connector", refresh, body)
}
