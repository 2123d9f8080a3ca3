//! The overview: is everything all right, and if not, what goes on and what waits?

use super::{
    flows::{FLOW_COLUMNS, flow_rows, recent},
    look::{badge, card, card_with_room, counted, icon, said, sized_icon, table, thin, wave},
    resources::live_sites,
    shell::{Here, Viewer},
    sites::connector_state,
    topology::{PathCounts, topology},
};
use crate::{
    flows::FlowQuery,
    issue::grants_end,
    signer::{RootKeyPlace, root_key_place},
};
use axum::response::Response;
use maud::{Markup, PreEscaped, html};
use serde_json::Value;
use store::DeviceState;
use trust::{RevokedSubject, Subject};

/// Newest records that the tile about denials counts in.
const RECENT: usize = 500;

/// How the whole is, in one sentence, and what proves it.
struct Health {
    class: &'static str,
    water: &'static str,
    gate: &'static str,
    sentence: String,
    proof: String,
}

struct Counts {
    devices: usize,
    devices_there: usize,
    /// Enrolled, and let in by nobody yet.
    devices_waiting: usize,
    connectors: usize,
    connectors_there: usize,
    pops: usize,
    pops_there: usize,
    dark: Vec<(String, String)>,
    unfinished: Vec<(String, String)>,
}

fn counts(viewer: &Viewer) -> Counts {
    let data = viewer.data();
    let live = live_sites(viewer);
    let struck = viewer.core.strikes.set();
    let (mut devices, mut devices_there, mut devices_waiting) = (0, 0, 0);
    {
        let presence = viewer.core.presence();
        for row in &data.devices {
            if struck.is_struck(RevokedSubject::Device(row.id), row.generation) {
                continue;
            }
            match row.state {
                DeviceState::Active => {}
                DeviceState::Pending => {
                    devices_waiting += 1;
                    continue;
                }
                DeviceState::Blocked | DeviceState::Archived => continue,
            }
            devices += 1;
            devices_there += usize::from(
                presence.of(Subject::Device(row.id)).is_some_and(|seen| !seen.attached.is_empty()),
            );
        }
    }
    let connectors_there = data.connectors.iter().filter(|row| connector_state(viewer, row).1).count();
    let with_resources: std::collections::BTreeSet<_> = data.resources.iter().map(|row| row.site).collect();
    // A site that never had a connector is not broken: it is not finished, and stands in the list of what to do.
    let begun: std::collections::BTreeSet<_> = data.connectors.iter().map(|row| row.site).collect();
    let named = |fits: &dyn Fn(&store::Site) -> bool| -> Vec<(String, String)> {
        let sites = data.sites.iter().filter(|site| with_resources.contains(&site.id) && fits(site));
        sites.map(|site| (site.id.to_string(), site.name.clone())).collect()
    };
    let dark = named(&|site| begun.contains(&site.id) && !live.contains(&site.id));
    let unfinished = named(&|site| !begun.contains(&site.id));
    Counts {
        devices,
        devices_there,
        devices_waiting,
        connectors: data
            .connectors
            .iter()
            .filter(|row| !struck.is_struck(RevokedSubject::Connector(row.id), row.generation))
            .count(),
        connectors_there,
        pops: viewer.snapshot.dataset.pops.len(),
        pops_there: viewer.core.presence().attached_pops().len(),
        dark,
        unfinished,
    }
}

fn health(viewer: &Viewer, counts: &Counts) -> Health {
    let good = |sentence: &str, proof: String| Health {
        class: "health",
        water: "waterline",
        gate: "gate-open",
        sentence: sentence.to_owned(),
        proof,
    };
    let bad = |sentence: String, proof: String| Health {
        class: "health health--bad",
        water: "waterline",
        gate: "gate-shut",
        sentence,
        proof,
    };
    let stale = |sentence: &str, proof: String| Health {
        class: "health health--stale",
        water: "waterline waterline--stale",
        gate: "gate-open",
        sentence: sentence.to_owned(),
        proof,
    };
    let said_counts = format!(
        "{} of {} attached, {} of {}, {} of {}.",
        thin(counts.connectors_there as u64),
        counted(counts.connectors, "connector", "connectors"),
        thin(counts.pops_there as u64),
        counted(counts.pops, "PoP", "PoPs"),
        thin(counts.devices_there as u64),
        counted(counts.devices, "device", "devices"),
    );
    let resources = viewer.data().resources.len();
    if viewer.core.signer.signing_time().is_err() || viewer.core.withheld().is_some() {
        return bad(
            "Running access goes on. Renewals wait.".into(),
            format!("This controller signs or issues nothing right now; the banner says why. {said_counts}"),
        );
    }
    if counts.pops > 0 && counts.pops_there == 0 {
        return bad(
            "No PoP hears this controller.".into(),
            format!(
                "What agents hold goes on until it ends; nobody can be revoked from here until a PoP is back. {said_counts}"
            ),
        );
    }
    if !counts.dark.is_empty() {
        return bad(
            format!("{} cannot be reached.", counted(counts.dark.len(), "site", "sites")),
            format!(
                "What is in {} has no connector with a session. {said_counts}",
                if counts.dark.len() == 1 { "it" } else { "them" }
            ),
        );
    }
    if viewer.core.database.trouble().is_some() {
        return stale(
            "Access works. Changes have to wait.",
            format!(
                "People reach every resource; sign-in of known devices, renewals and revocation go on. Nothing can be saved until the database answers. {said_counts}"
            ),
        );
    }
    if resources == 0 {
        return good(
            if viewer.data().sites.is_empty() {
                "Nothing can be reached yet."
            } else {
                "Ready for the first resource."
            },
            "What people may reach, and who, is yours to say. Start below.".to_owned(),
        );
    }
    if counts.unfinished.is_empty() {
        return good("Every site can be reached.", said_counts);
    }
    let waiting = counted(counts.unfinished.len(), "site waits for its", "sites wait for their");
    good("Every connected site can be reached.", format!("{waiting} first connector. {said_counts}"))
}

fn tile(href: &str, label: &str, value: Markup, middle: Markup, meta: impl maud::Render) -> Markup {
    html! { a class="tile" href=(href) { span class="tile-label" { (label) } span class="tile-value" { (value) } (middle) span class="tile-meta" { (meta) } } }
}

fn split(direct: usize, relay: usize) -> Markup {
    let all = direct + relay;
    if all == 0 {
        return html! {};
    }
    PreEscaped(format!(
        "<svg class=\"splitbar\" viewBox=\"0 0 {all} 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><rect class=\"fill-direct\" width=\"{direct}\" height=\"8\"/><rect class=\"fill-relay\" x=\"{direct}\" width=\"{relay}\" height=\"8\"/></svg>"
    ))
}

/// The first steps, until they are done.
fn first_steps(viewer: &Viewer, counts: &Counts) -> Markup {
    let data = viewer.data();
    let site = data.sites.first().map(|site| site.id.to_string()).unwrap_or_default();
    let steps = [
        (
            !data.sites.is_empty(),
            "Add a site",
            "A private network that people should reach.",
            "/sites/new".to_owned(),
        ),
        (
            !data.connectors.is_empty(),
            "Connect it",
            "One command in that network; it dials out only.",
            if site.is_empty() { "/sites/new".to_owned() } else { format!("/sites/{site}/connect") },
        ),
        (
            !data.resources.is_empty(),
            "Add a resource",
            "A name, an address or a network, with its ports.",
            "/resources/new".to_owned(),
        ),
        (
            !data.users.is_empty(),
            "Add a person",
            "They get a link that enrols their device.",
            "/people/new".to_owned(),
        ),
        (
            !data.groups.is_empty() && !data.memberships.is_empty(),
            "Put them into a group",
            "Policies name groups.",
            if data.groups.is_empty() { "/groups/new".to_owned() } else { "/people".to_owned() },
        ),
        (
            !data.policies.is_empty(),
            "Write a policy",
            "With a preview of who gains access.",
            "/policies/new".to_owned(),
        ),
        (
            counts.devices + counts.devices_waiting > 0,
            "Enrol a device",
            "Make a link at the person’s page and open it on the device.",
            "/people".to_owned(),
        ),
    ];
    let left = steps.iter().filter(|(done, ..)| !done).count();
    if left == 0 {
        return html! {};
    }
    let next = steps.iter().position(|(done, _, _, href)| !done && viewer.offers(href));
    html! {
        div class="mb-4" {
            (card("first", "From nothing to the first resource", html! { span class="sub" { (left) " to go" } }, html! {
                ol class="todo" {
                    @for (index, (done, what, why, href)) in steps.iter().enumerate() {
                        li {
                            (sized_icon(if *done { "icon icon--ok" } else { "icon" }, if *done { "check" } else { "plus" }))
                            div {
                                @if Some(index) == next { a class="btn btn--primary btn--sm" href=(href) { (what) } }
                                @else if *done || !viewer.offers(href) { strong { (what) } }
                                @else { a href=(href) { (what) } }
                                span { (why) }
                            }
                        }
                    }
                }
            }))
        }
    }
}

/// What goes on, what is from memory, what waits: the row of the outage matrix that applies.
fn works() -> Markup {
    html! {
        section class="card card--clip mb-4" aria-labelledby="works" {
            div class="card-head" { h2 id="works" { "What works now" } span class="sub" { "as the outage matrix promises" } }
            div class="works" {
                div class="w-on" { h3 { (icon("check")) "As always" } ul {
                    li { "Running and new connections" } li { "Client and connector restarts, roaming" }
                    li { "Sign-in of known devices, grant renewal" } li { "Strict resources" }
                    li { "Revoking a device or person " span { "enforced within 5 s" } }
                    li { "Taking a person out of a group " span { "access ends now, the membership is written later" } }
                } }
                div class="w-stale" { h3 { (icon("stale")) "From memory" } ul {
                    li { "This console and API reads " span { "sessions and paths are current" } }
                    li { "Policies, people and devices " span { "as they were saved last" } }
                } }
                div class="w-off" { h3 { (icon("clock")) "Paused" } ul {
                    li { "Saving anything else " span { "forms keep what you typed" } }
                    li { "Tightening a policy " span { "revoke a person or device instead" } }
                    li { "Enrolling new devices and people" } li { "The audit log" }
                } }
            }
        }
    }
}

fn worth_a_look(viewer: &Viewer, counts: &Counts) -> Markup {
    let mut all: Vec<(&'static str, Markup, String)> = Vec::new();
    if counts.devices_waiting > 0 {
        let text = counted(counts.devices_waiting, "device waits", "devices wait");
        all.push((
            "device",
            html! { a href="/devices?state=waiting" { (text) " for approval" } },
            "Nothing can be reached from there until somebody approves it.".into(),
        ));
    }
    for (id, name) in counts.unfinished.iter().take(5) {
        all.push((
            "site",
            viewer.link_or_words(
                &format!("/sites/{id}/connect"),
                &html! { "Connect " (super::look::typed(name)) },
            ),
            "Has resources and no connector yet.".into(),
        ));
    }
    for (id, name) in counts.dark.iter().take(5) {
        all.push((
            "site",
            html! { a href={ "/sites/" (id) } { (super::look::typed(name)) } },
            "Has resources and no connector with a session.".into(),
        ));
    }
    if counts.connectors_there < counts.connectors {
        all.push(("isolated", html! { a href="/sites" { (counted(counts.connectors - counts.connectors_there, "connector is", "connectors are")) " away" } }, "Their sites go on with the others, if there are any.".into()));
    }
    match root_key_place(&viewer.core.state) {
        RootKeyPlace::Away => {}
        place => {
            let exported = place == RootKeyPlace::ExportedAndOnThisHost;
            let text = if exported { "Remove the root key from this host" } else { "Export the root key" };
            all.push((
                "key",
                html! { a href="/settings" { (text) } },
                "It is needed to replace signing keys and nothing else: keep it offline.".into(),
            ));
        }
    }
    if let Some(alarm) = viewer.core.signer.keys_end().1 {
        all.push(("warn", html! { a href="/settings" { "Signing keys" } }, alarm.to_string()));
    }
    if let Some(alarm) = viewer.core.snapshots.alarms().current {
        all.push(("warn", html! { a href="/audit" { "A newer configuration was not taken" } }, alarm));
    }
    if counts.pops == 1 {
        all.push((
            "map",
            html! { a href="/pops" { "There is one PoP" } },
            "With a second one, relayed access survives its loss.".into(),
        ));
    }
    let closed = {
        let named: std::collections::BTreeSet<_> =
            viewer.data().policies.iter().flat_map(|policy| policy.resources.iter()).collect();
        viewer.data().resources.iter().filter(|row| !named.contains(&row.id)).count()
    };
    if closed > 0 {
        all.push(("lock", html! { a href="/resources?mode=closed" { (counted(closed, "resource is", "resources are")) " closed for everybody" } }, "No policy names them.".into()));
    }
    if all.is_empty() {
        return html! {};
    }
    card(
        "look",
        "Worth a look",
        html! { span class="sub" { (all.len()) } },
        html! {
            ul class="todo" { @for (sign, what, why) in &all { li { (icon(sign)) div { (what) span { (why) } } } } }
        },
    )
}

pub(super) async fn page(viewer: Viewer) -> Response {
    let flows =
        recent(&viewer, FlowQuery { limit: RECENT, ..FlowQuery::default() }).await.unwrap_or_default();
    let denied: Vec<Value> =
        flows.iter().filter(|record| record["verdict"] == "denied").take(5).cloned().collect();
    let day_ago = viewer.now.as_millis().saturating_sub(86_400_000);
    let denied_day = flows
        .iter()
        .filter(|record| record["verdict"] == "denied" && record["ended"].as_u64().unwrap_or(0) >= day_ago)
        .count();
    let all_seen = flows.len() < RECENT
        || flows.last().is_some_and(|record| record["ended"].as_u64().unwrap_or(0) < day_ago);
    let counts = counts(&viewer);
    let health = health(&viewer, &counts);
    let shown = topology(&viewer);
    let PathCounts { direct, relay, tcp } = shown.counts();
    let degraded = viewer.core.database.trouble().is_some();
    let grants = said(grants_end(viewer.data(), viewer.now), viewer.now);
    let hours = viewer.data().organization.grant_life_ms / 3_600_000;
    let body = html! {
        div id="overview" data-live hx-get="/" hx-select="#overview" hx-trigger="live from:body" hx-swap="outerHTML" {
            div class=(health.class) { (sized_icon("health-gate", health.gate)) div { h1 { (health.sentence) } p { (health.proof) } } }
            (wave(health.water, "wave"))
            div class="tiles" {
                (tile("/devices?state=attached", "Devices attached", html! { (thin(counts.devices_there as u64)) " " small class="long" { "of " (thin(counts.devices as u64)) " enrolled" } }, html! {}, "now"))
                (tile("/topology", "Paths now", html! { (thin(shown.live.len() as u64)) }, split(direct, relay + tcp),
                    if shown.live.is_empty() { "no device has a tunnel".to_owned() } else { format!("{direct} direct · {relay} relay · {tcp} TCP") }))
                (tile("/sites", "Connectors fresh", html! { (thin(counts.connectors_there as u64)) " " small class="long" { "of " (thin(counts.connectors as u64)) " enrolled" } }, html! {}, counted(viewer.data().sites.len(), "site", "sites")))
                (tile("/flows?verdict=denied", "Denied flows, 24 h", html! { (thin(denied_day as u64)) @if !all_seen { " " small { "or more" } } }, html! {}, "as connectors reported them"))
            }
            @if degraded { (works()) }
            (first_steps(&viewer, &counts))
            div class="grid" {
                div class="stack col-8" {
                    section class="card card--clip" aria-labelledby="who" {
                        div class="card-head" { h2 id="who" { "Who is connected, and how" } a href="/topology" { "Open topology" } }
                        (shown.picture(&viewer))
                        (shown.legend())
                        p class="card-foot" { (shown.sentence()) " " a href="/topology" { "The same as a table" } }
                    }
                    @if !denied.is_empty() {
                        (card("denials", "Recent denials", html! { a href="/flows?verdict=denied" { "All" } }, table("Recent denials", FLOW_COLUMNS, &flow_rows(&viewer, &denied))))
                    }
                }
                div class="stack stack--side col-4" {
                    (worth_a_look(&viewer, &counts))
                    (card_with_room("stopped", "If every controller stopped now", html! {
                        p { "Attached devices would keep access to standard resources. A grant that was issued now would last until " strong { (grants) } "." }
                        p class="sm quiet mt-2" { "Grants live " (hours) " h. Nobody would be disconnected." }
                    }))
                    (card_with_room("tally", "Connectors", html! {
                        div class="tally" {
                            div { b { (counts.connectors_there) } (badge("fresh", "fresh", "fresh")) }
                            div { b { (counts.connectors - counts.connectors_there) } (badge("isolated", "isolated", "away")) }
                            div { a href="/sites" { "All" } }
                        }
                    }))
                }
            }
        }
    };
    viewer.page(Here::Overview, "Overview", body)
}
