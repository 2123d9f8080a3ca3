//! The overview: is everything all right, and what is there.

use super::{STYLE_PATH, render, session};
use crate::{
    api::{self, types},
    clock,
    issue::grants_end,
    parts::Core,
    signer::{RootKeyPlace, root_key_place},
    snapshot::SnapshotSource,
};
use askama::Template;
use axum::{
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use trust::UnixMs;

/// Rows of a table; beyond it the page says how many more there are.
const MAX_ROWS: usize = 200;

struct SiteRow {
    name: String,
    prefixes: String,
    attached: usize,
    connectors: usize,
    resources: usize,
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage<'a> {
    style: &'a str,
    theme: &'a str,
    form_token: &'a str,
    who: &'a str,
    initials: String,
    organization: &'a str,
    healthy: bool,
    sentence: String,
    details: String,
    banner: String,
    now: String,
    snapshot_age: String,
    version: u64,
    devices_attached: usize,
    connectors_attached: usize,
    pops_attached: usize,
    sites: Vec<SiteRow>,
    connectors: Vec<types::Connector>,
    pops: Vec<types::Pop>,
    resources: Vec<types::Resource>,
    devices: Vec<types::Device>,
    site_names: std::collections::BTreeMap<wire::SiteId, String>,
    site_count: usize,
    connector_count: usize,
    pop_count: usize,
    resource_count: usize,
    device_count: usize,
    root_here: bool,
    root_exported: bool,
    grants_end: String,
    grant_hours: u64,
}

impl OverviewPage<'_> {
    fn site_name(&self, id: &wire::SiteId) -> &str {
        self.site_names.get(id).map_or("", String::as_str)
    }

    fn seen(&self, live: &types::Live) -> String {
        live.last_seen.as_deref().map_or_else(|| "not since this controller started".to_owned(), short)
    }

    fn more(&self, shown: usize, all: usize) -> usize {
        all.saturating_sub(shown)
    }
}

/// `2026-11-21T16:42:05.123Z` as `21 Nov 16:42 UTC`: the server does not know the reader's zone.
fn short(rfc3339: &str) -> String {
    let time = rfc3339.parse::<jiff::Timestamp>().map(|time| time.strftime("%-d %b %H:%M UTC").to_string());
    time.unwrap_or_else(|_| rfc3339.to_owned())
}

fn plain_age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn initials(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter_map(|word| word.chars().next());
    words.take(2).flat_map(char::to_uppercase).collect()
}

fn counted(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

pub(super) async fn page(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    let Some(who) = core.console.sessions.of(&headers) else {
        return Redirect::to("/signin").into_response();
    };
    let snapshot = core.snapshot();
    let Some(data) = snapshot.dataset.organizations.first() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let wall = clock::wall();
    let views = api::Views::new(&core, data);
    let connectors: Vec<_> = data.connectors.iter().map(|row| views.connector(row)).collect();
    let devices: Vec<_> = data.devices.iter().map(|row| views.device(row)).collect();
    let pops: Vec<_> = snapshot.dataset.pops.iter().map(|row| views.pop(row)).collect();
    let resources: Vec<_> = data.resources.iter().map(|row| views.resource(row)).collect();
    drop(views);
    let connectors_attached = connectors.iter().filter(|row| row.live.attached).count();
    let devices_attached = devices.iter().filter(|row| row.live.attached).count();
    let pops_attached = pops.iter().filter(|row| row.attached).count();
    let sites: Vec<SiteRow> = data
        .sites
        .iter()
        .map(|site| {
            let of_site = || connectors.iter().filter(|row| row.site == site.id && !row.struck);
            SiteRow {
                name: site.name.clone(),
                prefixes: site.prefixes.join(", "),
                attached: of_site().filter(|row| row.live.attached).count(),
                connectors: of_site().count(),
                resources: data.resources.iter().filter(|row| row.site == site.id).count(),
            }
        })
        .collect();
    let dark_sites = sites.iter().filter(|site| site.resources > 0 && site.attached == 0).count();
    let (healthy, sentence) = match (pops.len(), pops_attached, resources.len(), dark_sites) {
        (0, ..) => (true, "Nothing can be reached yet.".to_owned()),
        (_, 0, ..) => (false, "No PoP is attached to this controller.".to_owned()),
        (_, _, 0, _) => (true, "Ready for the first resource.".to_owned()),
        (.., 0) => (true, "Every site has a connector attached.".to_owned()),
        (.., n) => (false, format!("{} no connector attached.", counted(n, "site has", "sites have"))),
    };
    let details = format!(
        "{connectors_attached} of {} attached, {pops_attached} of {}, {devices_attached} of {}. What attached agents \
         hold goes on without this controller.",
        counted(connectors.len(), "connector", "connectors"),
        counted(pops.len(), "PoP", "PoPs"),
        counted(devices.len(), "device", "devices"),
    );
    let trouble = core.database.trouble().map(|trouble| {
        let copy = match snapshot.source {
            SnapshotSource::Database => "what you see is in memory",
            SnapshotSource::DiskCopy => "what you see is a copy from disk",
        };
        format!("Access works. Changes have to wait: {trouble}; {copy}.")
    });
    let fenced =
        core.signer.signing_time().err().map(|error| format!("This controller signs nothing: {error}."));
    let withheld = core.withheld().map(|why| format!("This controller issues nothing: {why}."));
    let stopped = fenced.or(withheld);
    let counts = (sites.len(), connectors.len(), pops.len(), resources.len(), devices.len());
    fn first<T>(mut rows: Vec<T>) -> Vec<T> {
        rows.truncate(MAX_ROWS);
        rows
    }
    let root = root_key_place(&core.state);
    let page = OverviewPage {
        style: &STYLE_PATH,
        theme: session::theme(&headers),
        form_token: &who.form_token,
        who: &who.name,
        initials: initials(&who.name),
        organization: &data.organization.name,
        healthy: healthy && stopped.is_none(),
        sentence,
        details,
        banner: stopped.or(trouble).unwrap_or_default(),
        now: short(&api::rfc3339(wall)),
        snapshot_age: plain_age(age(wall, core.snapshots.verified_at())),
        version: data.organization.version.version,
        devices_attached,
        connectors_attached,
        pops_attached,
        sites: first(sites),
        connectors: first(connectors),
        pops: first(pops),
        resources: first(resources),
        devices: first(devices),
        site_names: data.sites.iter().map(|site| (site.id, site.name.clone())).collect(),
        site_count: counts.0,
        connector_count: counts.1,
        pop_count: counts.2,
        resource_count: counts.3,
        device_count: counts.4,
        root_here: root != RootKeyPlace::Away,
        root_exported: root == RootKeyPlace::ExportedAndOnThisHost,
        grants_end: short(&api::rfc3339(grants_end(data, wall))),
        grant_hours: data.organization.grant_life_ms / 3_600_000,
    };
    render(StatusCode::OK, &page, &[])
}

fn age(wall: UnixMs, then: UnixMs) -> u64 {
    u64::try_from(wall.since(then).as_millis()).unwrap_or(u64::MAX)
}
