//! Resources: what can be reached, who reaches it and why, and what is running.

use super::{
    ask::{Api, Refused},
    flows::{FLOW_COLUMNS, flow_rows, recent},
    form::chosen,
    lists::{self, Listing, Wanted, filter},
    look::{
        Row, badge, card, card_with_room, chips, counted, empty, facts, head, icon, plain_badge, table, typed,
    },
    names::Names,
    shell::{Here, Viewer},
    things::{Thing, done_note, nothing_there, site_choices},
};
use crate::flows::FlowQuery;
use axum::{
    Extension,
    extract::{Path, Query},
    response::Response,
};
use maud::{Markup, html};
use policy::{Destination, resolve_resource};
use std::collections::{BTreeMap, BTreeSet};
use store::{DeviceState, Resource, ResourceMode};
use trust::{RevokedSubject, Subject};
use wire::{GroupId, ResourceId, SiteId};

/// Which groups some policy lets reach a resource.
fn groups_of(viewer: &Viewer) -> BTreeMap<ResourceId, BTreeSet<GroupId>> {
    let mut all: BTreeMap<ResourceId, BTreeSet<GroupId>> = BTreeMap::new();
    for policy in &viewer.data().policies {
        for resource in &policy.resources {
            all.entry(*resource).or_default().extend(&policy.groups);
        }
    }
    all
}

/// Sites that have a connector with a session at a PoP now.
pub(super) fn live_sites(viewer: &Viewer) -> BTreeSet<SiteId> {
    viewer.scene().live_sites()
}

fn fits(resource: &Resource, search: &str) -> bool {
    search.is_empty()
        || [Some(&resource.name), Some(&resource.address), resource.alias.as_ref()]
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(search))
}

fn state(live: &BTreeSet<SiteId>, site: SiteId) -> Markup {
    if live.contains(&site) {
        badge("fresh", "fresh", "connector attached")
    } else {
        badge("isolated", "isolated", "no connector")
    }
}

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let data = viewer.data();
    let (names, groups, live) = (Names::of(data), groups_of(&viewer), live_sites(&viewer));
    let search = wanted.search();
    let sites = site_choices(&viewer);
    let site = chosen(&sites, wanted.get("site"));
    let mut rows: Vec<&Resource> = data
        .resources
        .iter()
        .filter(|row| fits(row, &search))
        .filter(|row| site.is_empty() || row.site.to_string() == site)
        .filter(|row| match wanted.get("mode") {
            "strict" => row.mode == ResourceMode::Strict,
            "standard" => row.mode == ResourceMode::Standard,
            "closed" => !groups.contains_key(&row.id),
            _ => true,
        })
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let choices: Vec<(String, String)> =
        std::iter::once((String::new(), "All sites".to_owned())).chain(sites.iter().cloned()).collect();
    let modes = [
        ("", "Standard and strict"),
        ("standard", "Standard"),
        ("strict", "Strict"),
        ("closed", "Nobody may reach"),
    ]
    .map(|(value, text)| (value.to_owned(), text.to_owned()));
    let add = if data.sites.is_empty() {
        viewer.primary_link("/sites/new", "plus", "Add a site first")
    } else {
        viewer.primary_link("/resources/new", "plus", "Add a resource")
    };
    let listing = Listing {
        here: Here::Resources,
        title: "Resources",
        lede: "What people and machines may reach, and in which site it lives. A resource that no policy names is closed.",
        path: "/resources",
        actions: html! { (viewer.link_button("/why", "why", "Why?")) (add) },
        above: done_note(&viewer, &wanted),
        search: "Name, alias or address",
        filters: html! { (filter("site", "Site", site, &choices)) (filter("mode", "Kind", wanted.get("mode"), &modes)) },
        columns: &[
            ("Name", ""),
            ("Site", ""),
            ("Address", ""),
            ("Ports", "low"),
            ("Who", ""),
            ("When isolated", "low"),
            ("State", ""),
        ],
        one: "resource",
        many: "resources",
        nothing: empty(
            "No resources yet",
            "A resource is something people may reach: a name, an address or a network, with its ports.",
            add.clone(),
        ),
    };
    let cells = |row: &&Resource| {
        let who: Vec<(String, String)> = groups
            .get(&row.id)
            .into_iter()
            .flatten()
            .map(|group| (format!("/groups/{group}"), names.group(*group).to_owned()))
            .collect();
        Row::new(
            html! { a href={ "/resources/" (row.id) } { (typed(&row.name)) } @if let Some(alias) = &row.alias { span class="sub" { "alias " (typed(alias)) } } },
            vec![
                html! { a href={ "/sites/" (row.site) } { (typed(names.site(row.site))) } },
                html! { span class="mono wrap-any" { (row.address) } },
                html! { span class="mono wrap-any" { (ports(row)) } },
                if who.is_empty() {
                    html! { span class="quiet" { "nobody yet" } }
                } else {
                    chips(&who, 3)
                },
                mode(row.mode),
                state(&live, row.site),
            ],
        )
    };
    lists::page(&viewer, &wanted, &listing, data.resources.len(), &rows, cells)
}

/// Protocols and ports in words.
pub(super) fn ports(resource: &Resource) -> String {
    let words = resource.ports.iter().map(|ports| match crate::snapshot::port_range(*ports) {
        Ok(range) => range.to_string(),
        // No snapshot with these is ever served.
        Err(_) => format!("{}-{}", ports.first, ports.last),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn mode(mode: ResourceMode) -> Markup {
    match mode {
        ResourceMode::Strict => html! { span class="chip" { (icon("lock")) "strict" } },
        ResourceMode::Standard => html! { "standard" },
    }
}

/// One resource: who can reach it and why, what runs, what it hides.
pub(super) async fn one(
    _api: Extension<Api>,
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let found = id.parse::<ResourceId>().ok();
    let Some(row) = found.and_then(|id| viewer.data().resources.iter().find(|row| row.id == id)) else {
        return nothing_there(&viewer, Thing::Resource, &Refused { status: 404, ..Refused::default() });
    };
    let query = FlowQuery { limit: 20, resource: Some(id.clone()), ..FlowQuery::default() };
    let flows = recent(&viewer, query).await;
    let names = Names::of(viewer.data());
    let live = live_sites(&viewer);
    let body = html! {
        (head(&[("/resources", "Resources"), (&format!("/sites/{}", row.site), names.site(row.site))], typed(&row.name), html! {
            (state(&live, row.site)) " "
            @if row.mode == ResourceMode::Strict { (plain_badge("strict when isolated")) " " }
            @match names_count(&viewer, &names, row.id) {
                0 => "Nobody may reach it: no policy names it.",
                n => { (counted(n, "person or service account", "people and service accounts")) " may reach it." }
            }
        }, html! {
            (viewer.link_button(&format!("/why?to={id}"), "why", "Why can / can’t…"))
            (viewer.link_button(&format!("/resources/{id}/edit"), "edit", "Edit"))
            (viewer.danger_link(&format!("/resources/{id}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        div class="grid" {
            div class="stack col-8" {
                (who_reaches(&viewer, &names, row))
                (card("fl", "Recent flows", html! { a href={ "/flows?resource=" (id) } { "All" } }, match &flows {
                    Ok(flows) if flows.is_empty() => empty("No flow yet", "Connectors report each connection when it ends, and each that was denied at once.", html! {}),
                    Ok(flows) => table("Recent flows", FLOW_COLUMNS, &flow_rows(&viewer, flows)),
                    Err(error) => html! { p class="card-body" { (error) } },
                }))
            }
            div class="stack stack--side col-4" {
                (card_with_room("facts", "Facts", facts(&[
                    ("Site", html! { a href={ "/sites/" (row.site) } { (typed(names.site(row.site))) } }),
                    ("Address", html! { code { (row.address) } }),
                    ("Ports", html! { code { (ports(row)) } }),
                    ("Alias", row.alias.as_ref().map_or_else(|| html! { span class="quiet" { "none" } }, |alias| html! { code { (alias) } })),
                    ("When isolated", match row.mode {
                        ResourceMode::Strict => html! { "strict: closes within 70 s, running sessions 15 min later" },
                        ResourceMode::Standard => html! { "standard: goes on until the grant ends" },
                    }),
                    ("Id", html! { code { (id) } }),
                ])))
                (also_matches(&viewer, row))
            }
        }
    };
    viewer.page(Here::Resources, &row.name, body)
}

fn names_count(viewer: &Viewer, names: &Names<'_>, id: ResourceId) -> usize {
    let policies = viewer.data().policies.iter().filter(|policy| policy.resources.contains(&id));
    names.people(policies.flat_map(|policy| &policy.groups)).len()
}

fn who_reaches(viewer: &Viewer, names: &Names<'_>, row: &Resource) -> Markup {
    let data = viewer.data();
    let presence = viewer.core.presence();
    let struck = viewer.core.strikes.set();
    // One that waits, or whose access was taken, reaches nothing.
    let works = |device: &store::Device| {
        device.state == DeviceState::Active
            && !struck.is_struck(RevokedSubject::Device(device.id), device.generation)
    };
    let policies: Vec<_> = data.policies.iter().filter(|policy| policy.resources.contains(&row.id)).collect();
    let lines: Vec<Markup> = policies
        .iter()
        .map(|policy| {
            let people = names.people(&policy.groups);
            let devices = data.devices.iter().filter(|device| people.contains(&device.owner) && works(device));
            let devices: Vec<_> = devices.collect();
            let attached = devices
                .iter()
                .filter(|device| presence.of(Subject::Device(device.id)).is_some_and(|seen| !seen.attached.is_empty()))
                .count();
            html! {
                li class=[people.is_empty().then_some("closed")] {
                    div {
                        b { @for (index, group) in policy.groups.iter().enumerate() {
                            @if index > 0 { ", " }
                            a href={ "/groups/" (group) } { (typed(names.group(*group))) }
                        } }
                        span class="sub" { (counted(policy.groups.len(), "group", "groups")) " · " (counted(people.len(), "member", "members")) }
                    }
                    span class="wire" aria-hidden="true" {}
                    div { b { a href={ "/policies/" (policy.id) } { (typed(&policy.name)) } } span class="sub" { "policy" } }
                    span class="wire" aria-hidden="true" {}
                    div { b { (counted(devices.len(), "device", "devices")) } span class="sub" { (attached) " attached now" } }
                }
            }
        })
        .collect();
    let body = if lines.is_empty() {
        empty(
            "Closed for everybody",
            "No policy names this resource. A policy says which groups may reach it.",
            viewer.primary_link(&format!("/policies/new?resource={}", row.id), "plus", "Write a policy"),
        )
    } else {
        html! { ul class="reach" { @for line in &lines { (line) } } }
    };
    card(
        "reach",
        "Who can reach it",
        html! { span class="sub" { (counted(lines.len(), "policy", "policies")) } },
        body,
    )
}

/// The most specific resource wins: what this one hides, or what hides it, at its own address.
fn also_matches(viewer: &Viewer, row: &Resource) -> Markup {
    let model = viewer.model();
    let Some(resource) = model.resources.get(&row.id) else { return html! {} };
    let Some(slice) = policy::site_slice(model, row.site, &[]) else { return html! {} };
    let Some((place, protocol, port)) = crate::access::place_of(resource) else { return html! {} };
    let to = Destination { place: place.as_place(), protocol, port };
    let wins = resolve_resource(&slice, to).map(|found| found.id);
    let mut alone = policy::ConnectorSlice { resources: Vec::new(), prefixes: Vec::new(), ..slice.clone() };
    let mut others = Vec::new();
    for other in slice.resources.iter().filter(|other| other.id != row.id) {
        alone.resources = vec![other.clone()];
        if resolve_resource(&alone, to).is_some() {
            others.push(other);
            if others.len() == 8 {
                break;
            }
        }
    }
    if others.is_empty() {
        return html! {};
    }
    card_with_room(
        "also",
        "Also matches",
        html! {
            p class="sm quiet mb-2" { "The most specific resource wins." }
            (facts(&others.iter().map(|other| {
                let has_port = other.ports.iter().any(|range| range.contains(protocol, port));
                let word = if wins == Some(other.id) {
                    "wins"
                } else if other.address == resource.address && !has_port {
                    // Of two at one address that which has the port is meant: neither hides the other.
                    "at its own ports"
                } else {
                    "hidden by it"
                };
                (word, html! { a href={ "/resources/" (other.id) } { (other.name) } " " code { (other.address.to_string()) } })
            }).collect::<Vec<_>>()))
        },
    )
}
