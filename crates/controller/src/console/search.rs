//! One search over everything that has a page.

use super::{
    lists::Wanted,
    look::{empty, head, icon, typed},
    shell::{Here, Viewer},
};
use axum::{extract::Query, response::Response};
use maud::html;
use std::collections::BTreeMap;

/// Hits of one kind.
const EACH: usize = 8;

struct Hit<'a> {
    href: String,
    sign: &'static str,
    name: &'a str,
    kind: &'static str,
}

fn find<'a>(viewer: &'a Viewer, search: &str) -> Vec<Hit<'a>> {
    let data = viewer.data();
    let mut hits = Vec::new();
    let mut add = |kind: &'static str,
                   sign: &'static str,
                   found: &mut dyn Iterator<Item = (String, &'a str, Vec<&'a str>)>| {
        let fits = |texts: &[&str]| texts.iter().any(|text| text.to_lowercase().contains(search));
        let fitting =
            found.filter(|(href, name, more)| fits(&[name]) || fits(more) || href.ends_with(search));
        hits.extend(fitting.take(EACH).map(|(href, name, _)| Hit { href, sign, name, kind }));
    };
    add(
        "resource",
        "resource",
        &mut data.resources.iter().map(|row| {
            (
                format!("/resources/{}", row.id),
                row.name.as_str(),
                vec![row.address.as_str(), row.alias.as_deref().unwrap_or_default()],
            )
        }),
    );
    add(
        "person",
        "people",
        &mut data
            .users
            .iter()
            .map(|row| (format!("/people/{}", row.id), row.name.as_str(), vec![row.email.as_str()])),
    );
    add(
        "device",
        "device",
        &mut data.devices.iter().map(|row| (format!("/devices/{}", row.id), row.name.as_str(), vec![])),
    );
    add(
        "group",
        "people",
        &mut data.groups.iter().map(|row| (format!("/groups/{}", row.id), row.name.as_str(), vec![])),
    );
    add(
        "policy",
        "policy",
        &mut data.policies.iter().map(|row| (format!("/policies/{}", row.id), row.name.as_str(), vec![])),
    );
    add(
        "site",
        "site",
        &mut data.sites.iter().map(|row| {
            (
                format!("/sites/{}", row.id),
                row.name.as_str(),
                row.prefixes.iter().map(String::as_str).collect(),
            )
        }),
    );
    add(
        "connector",
        "site",
        &mut data.connectors.iter().map(|row| (format!("/connectors/{}", row.id), row.name.as_str(), vec![])),
    );
    add(
        "service account",
        "gear",
        &mut data
            .service_accounts
            .iter()
            .map(|row| (format!("/service-accounts/{}", row.id), row.name.as_str(), vec![])),
    );
    add(
        "PoP",
        "map",
        &mut viewer
            .snapshot
            .dataset
            .pops
            .iter()
            .map(|row| (format!("/pops/{}", row.id), row.name.as_str(), vec![row.address.as_str()])),
    );
    hits
}

pub(super) async fn page(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let search = wanted.search();
    let hits = if search.is_empty() { Vec::new() } else { find(&viewer, &search) };
    let body = html! {
        (head(&[], "Search", html! { @if search.is_empty() { "Type a name, an address, a person or a device." } @else { "For “" (typed(wanted.get("q"))) "”" } }, html! {}))
        form class="card card-body card-body--top mb-4" action="/search" role="search" {
            div class="inline" {
                input class="input wide" type="search" name="q" value=(wanted.get("q")) aria-label="Search" dir="auto" maxlength="200" placeholder="Name, address, person, device…";
                button class="btn btn--primary" type="submit" { "Search" }
            }
        }
        @if !search.is_empty() {
            section class="card palette-list" aria-label="Found" {
                div id="found" {
                    @if hits.is_empty() {
                        (empty("Nothing is called so", "Neither a resource nor a person, device, group, policy, site, connector or PoP.", html! {}))
                    } @else {
                        h3 { "Go to" }
                        ul { @for hit in &hits { li { a href=(hit.href) { (icon(hit.sign)) (typed(hit.name)) span { (hit.kind) } } } } }
                    }
                }
            }
        }
    };
    viewer.page(Here::Elsewhere, "Search", body)
}
