//! The picture of who is connected and how: devices, PoPs, sites, and between them only what was reported.

use super::{
    access::escaped,
    look::{Path, Row, badge, card, counted, empty, exact_time, head, table, thin, typed},
    names::{Names, pop_name},
    resources::live_sites,
    shell::{Here, Viewer},
};
use crate::paths::{ConnectorSide, Reported, Way};
use axum::response::Response;
use maud::{Markup, PreEscaped, html};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};
use store::Member;
use trust::Subject;
use wire::{DeviceId, PopId, SiteId};

/// Boxes of a column: beyond it, devices are counted by kind and sites by the rest.
const BOXES: usize = 8;
/// Rows of each of the page's tables: it is rendered anew with every event.
const ROWS: usize = 200;
const TOP: usize = 106;

/// A box on the left: one device, or many of a kind.
struct Client {
    name: String,
    sub: String,
    href: String,
    devices: BTreeSet<DeviceId>,
}

/// A site, its name, and its connectors with whether each is there.
struct SiteHere {
    id: SiteId,
    name: String,
    connectors: Vec<(String, bool)>,
}

/// What the picture shows.
pub(super) struct Topology {
    clients: Vec<Client>,
    pops: Vec<(PopId, String, String, bool)>,
    more_pops: usize,
    /// PoPs that this controller hears, drawn or not.
    pops_here: usize,
    sites: Vec<SiteHere>,
    more_sites: usize,
    pub(super) live: Vec<Reported>,
}

fn attached(viewer: &Viewer) -> Vec<&store::Device> {
    let presence = viewer.core.presence();
    let rows = viewer.data().devices.iter();
    rows.filter(|row| presence.of(Subject::Device(row.id)).is_some_and(|seen| !seen.attached.is_empty()))
        .collect()
}

fn clients(viewer: &Viewer, names: &Names<'_>) -> Vec<Client> {
    let all = attached(viewer);
    if all.len() <= BOXES {
        return all
            .iter()
            .map(|row| Client {
                name: row.name.clone(),
                sub: names.member(row.owner).to_owned(),
                href: format!("/devices/{}", row.id),
                devices: BTreeSet::from([row.id]),
            })
            .collect();
    }
    let kind = |person: bool| {
        all.iter()
            .filter(|row| matches!(row.owner, Member::User(_)) == person)
            .map(|row| row.id)
            .collect::<BTreeSet<_>>()
    };
    [("People’s devices", kind(true)), ("Service accounts", kind(false))]
        .into_iter()
        .filter(|(_, devices)| !devices.is_empty())
        .map(|(name, devices)| Client {
            name: name.to_owned(),
            sub: counted(devices.len(), "device", "devices"),
            href: "/devices?state=attached".to_owned(),
            devices,
        })
        .collect()
}

pub(super) fn topology(viewer: &Viewer) -> Topology {
    let names = Names::of(viewer.data());
    let clients = clients(viewer, &names);
    let presence = viewer.core.presence();
    let there = |id| presence.of(Subject::Connector(id)).is_some_and(|seen| !seen.attached.is_empty());
    let mut sites: Vec<SiteHere> = viewer
        .data()
        .sites
        .iter()
        .map(|site| {
            let connectors = viewer.data().connectors.iter().filter(|row| row.site == site.id);
            SiteHere {
                id: site.id,
                name: site.name.clone(),
                connectors: connectors.map(|row| (row.name.clone(), there(row.id))).collect(),
            }
        })
        .collect();
    drop(presence);
    sites.sort_by_key(|site| (site.connectors.is_empty(), site.name.to_lowercase()));
    let more_sites = sites.len().saturating_sub(BOXES);
    sites.truncate(BOXES);
    // Only of devices and connectors that are there now and of this organization, whatever was reported.
    let devices: BTreeSet<DeviceId> = attached(viewer).iter().map(|row| row.id).collect();
    let (presence, paths) = (viewer.core.presence(), viewer.core.paths());
    let connectors = viewer.data().connectors.iter().map(|row| row.id);
    let connectors = connectors
        .filter(|id| presence.of(Subject::Connector(*id)).is_some_and(|seen| !seen.attached.is_empty()));
    let live = connectors.flat_map(|id| paths.of_connector(id, &presence, viewer.now));
    let live: Vec<Reported> = live.filter(|one| devices.contains(&one.device)).collect();
    let attached_pops = presence.attached_pops();
    drop((paths, presence));
    let carries =
        |pop: PopId| live.iter().any(|one| matches!(one.way, Way::Relay(by) | Way::Tcp(by) if by == pop));
    let all = &viewer.snapshot.dataset.pops;
    let mut pops: Vec<_> = all
        .iter()
        .map(|pop| (pop.id, pop.name.clone(), pop.zone.clone(), attached_pops.contains(&pop.id)))
        .collect();
    // Where there is no room for all, those that carry something are drawn.
    pops.sort_by_cached_key(|(id, name, _, hears)| (!carries(*id), !hears, name.to_lowercase()));
    let pops_here = pops.iter().filter(|(.., hears)| *hears).count();
    let more_pops = pops.len().saturating_sub(BOXES);
    pops.truncate(BOXES);
    Topology { clients, pops, more_pops, pops_here, sites, more_sites, live }
}

/// How many paths there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PathCounts {
    pub(super) direct: usize,
    pub(super) relay: usize,
    pub(super) tcp: usize,
}

/// The kinds of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Line {
    Direct,
    /// Through the PoP at this place of the picture.
    Relay(usize),
    Tcp(usize),
}

impl Topology {
    /// How many of the paths are of which kind.
    pub(super) fn counts(&self) -> PathCounts {
        let mut counts = PathCounts::default();
        for one in &self.live {
            match one.way {
                Way::Direct => counts.direct += 1,
                Way::Relay(_) => counts.relay += 1,
                Way::Tcp(_) => counts.tcp += 1,
            }
        }
        counts
    }

    /// How many paths go from a box to a site, and as which line.
    fn bundles(&self, viewer: &Viewer) -> BTreeMap<(usize, usize, Line), usize> {
        let site_of: BTreeMap<_, _> = viewer.data().connectors.iter().map(|row| (row.id, row.site)).collect();
        let place = |pop: PopId| self.pops.iter().position(|(id, ..)| *id == pop);
        let mut bundles = BTreeMap::new();
        for one in &self.live {
            let client = self.clients.iter().position(|client| client.devices.contains(&one.device));
            let site = site_of
                .get(&one.connector)
                .and_then(|site| self.sites.iter().position(|here| here.id == *site));
            // One that the picture has no room for is not drawn as something else.
            let line = match one.way {
                Way::Direct => Some(Line::Direct),
                Way::Relay(pop) => place(pop).map(Line::Relay),
                Way::Tcp(pop) => place(pop).map(Line::Tcp),
            };
            let Some(line) = line else { continue };
            if let (Some(client), Some(site)) = (client, site) {
                *bundles.entry((client, site, line)).or_insert(0) += 1;
            }
        }
        bundles
    }

    /// The picture. The control plane stands above the water line, access below it.
    pub(super) fn picture(&self, viewer: &Viewer) -> Markup {
        let rows = (self.clients.len() * 70).max(self.pops.len() * 84).max(self.sites.len() * 92).max(92);
        let height = TOP + rows + 10;
        let trouble = viewer.core.database.trouble();
        let mut svg = format!(
            "<svg class=\"topo\" viewBox=\"0 0 780 {height}\" role=\"group\" aria-labelledby=\"tp-t tp-d\"><title id=\"tp-t\">Topology: control plane above the water line, access below it</title><desc id=\"tp-d\">{}</desc><rect class=\"sea\" x=\"0\" y=\"85\" width=\"780\" height=\"{}\"/><svg x=\"0\" y=\"79\" width=\"780\" height=\"12\"><use class=\"wl\" href=\"#wave\" width=\"2000\" height=\"12\"/></svg><text class=\"t-sub\" x=\"8\" y=\"22\">Control plane</text><text class=\"t-sub\" x=\"8\" y=\"38\">decides and signs</text>",
            escaped(&self.sentence(), 300),
            height - 85
        );
        self.control_plane(&mut svg, trouble.is_some());
        let middle = |index: usize, step: usize, size: usize| TOP + index * step + size / 2;
        for ((client, site, line), count) in self.bundles(viewer) {
            let (y1, y2) = (middle(client, 70, 54), middle(site, 92, 76));
            let (class, wide, path) = match line {
                Line::Direct => {
                    let wide = 2.0 + (count as f64).ln_1p() * 1.6;
                    // Beside the PoPs, never behind one: it does not go through any.
                    let gap = (usize::midpoint(y1, y2) - TOP) / 84;
                    let lane = TOP + 66 + gap.min(self.pops.len().max(1) - 1) * 84 + (client + site) % 4 * 4;
                    (
                        "p--direct",
                        wide,
                        format!("M166 {y1}C256 {y1} 250 {lane} 330 {lane}H450C520 {lane} 512 {y2} 582 {y2}"),
                    )
                }
                Line::Relay(pop) | Line::Tcp(pop) => {
                    let by_tcp = matches!(line, Line::Tcp(_));
                    // Beside each other where both go through one PoP.
                    let beside = if by_tcp { 6 } else { 0 };
                    let (y, from, to) = (middle(pop, 84, 56) + beside, y1 + 6 + beside, y2 + 8 + beside);
                    (
                        if by_tcp { "p--tcp" } else { "p--relay" },
                        if by_tcp { 3.0 } else { 2.0 },
                        format!("M166 {from}C256 {from} 240 {y} 330 {y}M450 {y}C510 {y} 522 {to} 582 {to}"),
                    )
                }
            };
            let _ = write!(svg, "<path class=\"p {class}\" stroke-width=\"{wide:.1}\" d=\"{path}\"/>");
            let _ = write!(svg, "<path class=\"flow\" pathLength=\"100\" d=\"{path}\"/>");
        }
        for (index, client) in self.clients.iter().enumerate() {
            let y = TOP + index * 70;
            let _ = write!(
                svg,
                "<a href=\"{}\"><rect class=\"box\" x=\"8\" y=\"{y}\" width=\"158\" height=\"54\" rx=\"6\"/><text class=\"t-name\" x=\"22\" y=\"{}\">{}</text><text class=\"t-sub\" x=\"22\" y=\"{}\">{}</text></a>",
                client.href,
                y + 23,
                escaped(&client.name, 18),
                y + 40,
                escaped(&client.sub, 20)
            );
        }
        for (index, (id, name, zone, hears)) in self.pops.iter().enumerate() {
            let y = TOP + index * 84;
            let state = if *hears { format!("zone {zone}") } else { "does not hear us".to_owned() };
            let _ = write!(
                svg,
                "<a href=\"/pops/{id}\"><rect class=\"pop\" x=\"330\" y=\"{y}\" width=\"120\" height=\"56\" rx=\"6\"/><rect class=\"pop-bar\" x=\"343\" y=\"{b}\" width=\"3\" height=\"26\" rx=\"1.5\"/><rect class=\"pop-bar\" x=\"350\" y=\"{b}\" width=\"3\" height=\"26\" rx=\"1.5\"/><rect class=\"pop-bar\" x=\"357\" y=\"{b}\" width=\"3\" height=\"26\" rx=\"1.5\"/><text class=\"pop-text\" x=\"370\" y=\"{}\">{}</text><text class=\"pop-sub\" x=\"370\" y=\"{}\">{}</text></a>",
                y + 25,
                escaped(name, 10),
                y + 41,
                escaped(&state, 15),
                b = y + 15
            );
        }
        let of_site = self.live_by_site(viewer);
        for (index, SiteHere { id, name, connectors }) in self.sites.iter().enumerate() {
            let y = TOP + index * 92;
            let live = of_site.get(id).copied().unwrap_or(0);
            let _ = write!(
                svg,
                "<a href=\"/sites/{id}\"><rect class=\"box\" x=\"582\" y=\"{y}\" width=\"190\" height=\"76\" rx=\"6\"/><text class=\"t-name\" x=\"596\" y=\"{}\">{}</text><text class=\"t-sub\" x=\"596\" y=\"{}\">{}</text>",
                y + 23,
                escaped(name, 22),
                y + 40,
                counted(live, "path", "paths")
            );
            for (place, (name, there)) in connectors.iter().take(3).enumerate() {
                let x = 600 + place * 58;
                let lamp = if *there { "lamp--fresh" } else { "lamp--isolated" };
                let _ = write!(
                    svg,
                    "<circle class=\"{lamp}\" cx=\"{x}\" cy=\"{}\" r=\"3.5\"/><text class=\"t-sub\" x=\"{}\" y=\"{}\">{}</text>",
                    y + 59,
                    x + 8,
                    y + 63,
                    escaped(name, 7)
                );
            }
            if connectors.is_empty() {
                let _ =
                    write!(svg, "<text class=\"t-sub\" x=\"596\" y=\"{}\">no connector yet</text>", y + 63);
            }
            svg.push_str("</a>");
        }
        svg.push_str("</svg>");
        html! { div class="scroll-x" { (PreEscaped(svg)) } }
    }

    fn control_plane(&self, svg: &mut String, trouble: bool) {
        let (lamp, boxed, text, sub) = if trouble {
            ("lamp--stale", "box box--warn", "t-name t-warn", "cannot be used")
        } else {
            ("lamp--fresh", "box", "t-name", "answers")
        };
        let _ = write!(
            svg,
            "<g><rect class=\"{boxed}\" x=\"180\" y=\"10\" width=\"196\" height=\"46\" rx=\"6\"/><circle class=\"{lamp}\" cx=\"196\" cy=\"33\" r=\"3.5\"/><text class=\"{text}\" x=\"208\" y=\"30\">Database</text><text class=\"t-sub\" x=\"208\" y=\"45\">{sub}</text></g>"
        );
        svg.push_str(if trouble { "<path class=\"cut\" d=\"M376 33H390M406 33H420\"/><path class=\"cut cut--x\" d=\"M393 28l10 10M403 28l-10 10\"/>" } else { "<path class=\"ctl\" d=\"M376 33H420\"/>" });
        let hears = self.pops_here;
        let _ = write!(
            svg,
            "<g><rect class=\"box\" x=\"420\" y=\"10\" width=\"214\" height=\"46\" rx=\"6\"/><circle class=\"lamp--fresh\" cx=\"436\" cy=\"33\" r=\"3.5\"/><text class=\"t-name\" x=\"448\" y=\"30\">This controller</text><text class=\"t-sub\" x=\"448\" y=\"45\">{} it</text></g>",
            counted(hears, "PoP hears", "PoPs hear")
        );
        if hears > 0 {
            let _ = write!(svg, "<path class=\"ctl\" d=\"M527 56V74H390V{TOP}\"/>");
        }
        svg.push_str("<text class=\"t-sub\" x=\"772\" y=\"76\" text-anchor=\"end\">access does not cross this line</text>");
    }

    fn live_by_site(&self, viewer: &Viewer) -> BTreeMap<SiteId, usize> {
        let site_of: BTreeMap<_, _> = viewer.data().connectors.iter().map(|row| (row.id, row.site)).collect();
        let mut all = BTreeMap::new();
        for one in &self.live {
            if let Some(site) = site_of.get(&one.connector) {
                *all.entry(*site).or_insert(0) += 1;
            }
        }
        all
    }

    /// The picture in words.
    pub(super) fn sentence(&self) -> String {
        let devices: usize = self.clients.iter().map(|client| client.devices.len()).sum();
        let PathCounts { direct, relay, tcp } = self.counts();
        let paths = match self.live.len() {
            0 => "No connector says that a device has a tunnel to it.".to_owned(),
            n => format!(
                "Of {}, {direct} direct, {relay} through a relay and {tcp} through a relay by TCP 443.",
                counted(n, "path", "paths")
            ),
        };
        format!(
            "{} at {}. {paths}",
            counted(devices, "device has a session", "devices have sessions"),
            counted(self.pops.len() + self.more_pops, "PoP", "PoPs")
        )
    }

    pub(super) fn legend(&self) -> Markup {
        let counts = self.counts();
        html! {
            div class="card-foot legend" {
                span class="path path--direct" { (PreEscaped("<svg aria-hidden=\"true\"><use href=\"#p-direct\"/></svg>")) span { (thin(counts.direct as u64)) " direct" } }
                span class="path path--relay" { (PreEscaped("<svg aria-hidden=\"true\"><use href=\"#p-relay\"/></svg>")) span { (thin(counts.relay as u64)) " through a relay" } }
                span class="path path--tcp" { (PreEscaped("<svg aria-hidden=\"true\"><use href=\"#p-tcp\"/></svg>")) span { (thin(counts.tcp as u64)) " by TCP 443" } }
                @if self.more_pops > 0 { span { "and " (counted(self.more_pops, "more PoP", "more PoPs")) } }
                @if self.more_sites > 0 { span { "and " (counted(self.more_sites, "more site", "more sites")) } }
            }
        }
    }
}

/// A reported way as a drawn line with its word.
fn shown_way(viewer: &Viewer, one: &Reported) -> Markup {
    match one.way {
        Way::Direct => Path::Direct,
        Way::Relay(pop) => Path::Relay(pop_name(&viewer.snapshot.dataset, &pop)),
        Way::Tcp(pop) => Path::Tcp(pop_name(&viewer.snapshot.dataset, &pop)),
    }
    .show()
}

/// What stands below a table that has not room for all, with the page that is searched.
fn cut(rows: usize, all: usize, one: &str, many: &str, href: &str, title: &str) -> Markup {
    html! {
        @if rows < all {
            p class="card-foot" { (thin(rows as u64)) " of " (counted(all, one, many)) ". The others are found at " a href=(href) { (title) } "." }
        }
    }
}

pub(super) async fn page(viewer: Viewer) -> Response {
    let shown = topology(&viewer);
    let names = Names::of(viewer.data());
    let devices: BTreeMap<DeviceId, &store::Device> =
        viewer.data().devices.iter().map(|row| (row.id, row)).collect();
    let paths: Vec<Row> = shown
        .live
        .iter()
        .take(ROWS)
        .filter_map(|one| {
            let device = devices.get(&one.device)?;
            let connector = names.connectors.get(&one.connector)?;
            Some(Row::new(
                html! { a href={ "/devices/" (device.id) } { (typed(&device.name)) } span class="sub" { (typed(names.member(device.owner))) } },
                vec![
                    html! {
                        (shown_way(&viewer, one))
                        @if one.connector_side == Some(ConnectorSide::Tcp) { span class="sub" { "the connector reaches the relay by TCP 443" } }
                    },
                    html! { a href={ "/connectors/" (connector.id) } { (typed(&connector.name)) } },
                    html! { a href={ "/sites/" (connector.site) } { (typed(names.site(connector.site))) } },
                    exact_time(one.at, viewer.now),
                ],
            ))
        })
        .collect();
    let live = live_sites(&viewer);
    let sites: Vec<Row> = viewer
        .data()
        .sites
        .iter()
        .take(ROWS)
        .map(|site| {
            let connectors = viewer.data().connectors.iter().filter(|row| row.site == site.id).count();
            Row::new(
                html! { a href={ "/sites/" (site.id) } { (typed(&site.name)) } },
                vec![
                    if live.contains(&site.id) {
                        badge("fresh", "fresh", "connector attached")
                    } else {
                        badge("isolated", "isolated", "no connector")
                    },
                    html! { (connectors) },
                ],
            )
        })
        .collect();
    let body = html! {
        (head(&[], "Topology", "Who is connected, and by which way packets go. Only what PoPs and connectors say is drawn, within seconds after it changes.", html! {}))
        div class="stack" id="topology" data-live hx-get="/topology" hx-select="#topology" hx-trigger="live from:body" hx-swap="outerHTML" {
            section class="card card--clip" aria-label="Picture" { (shown.picture(&viewer)) (shown.legend()) }
            (card("paths", "Paths", html! { span class="sub" { (shown.sentence()) } }, if paths.is_empty() {
                empty("No device has a tunnel to a connector",
                    "A device opens one when somebody asks for a resource. Its connector tells within seconds by which way packets go; tidegate status on the device says the same.", html! {})
            } else {
                html! {
                    (table("Paths", &[("Device", ""), ("Path", ""), ("Connector", ""), ("Site", "low"), ("Since", "nowrap")], &paths))
                    (cut(paths.len(), shown.live.len(), "path", "paths", "/flows", "Sessions and flows"))
                }
            }))
            @if !sites.is_empty() {
                (card("sites", "Sites", html! {}, html! {
                    (table("Sites", &[("Site", ""), ("State", ""), ("Connectors", "num")], &sites))
                    (cut(sites.len(), viewer.data().sites.len(), "site", "sites", "/sites", "Sites"))
                }))
            }
        }
    };
    viewer.page(Here::Topology, "Topology", body)
}
