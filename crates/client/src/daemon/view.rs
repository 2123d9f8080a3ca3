//! What `status`, `resources` and `why` show of a node.

use crate::{
    control::{
        ConnectorView, NetcheckAnswer, PathCounts, PathView, PingAnswer, PopView, ProxyStatus, Reachable,
        ResourceStatus, SliceStatus, Status, TriedView, WhyAnswer, WhySource,
    },
    core::{ClientNode, DialFault, LinkReport, PingReport, link_of},
};
use agent::Freshness;
use policy::{ClientResource, ClientSlice, Explanation, Mode, Step, StepOutcome, explain_client};
use session::{CloseCode, LostReason};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use trust::UnixMs;
use tunnel::{PairReport, Path};
use wire::{PopId, Refusal};

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The quick bursts after which an address that answers nothing is not one of the next seconds any more (ADR 0006).
const ASKED_ENOUGH: u64 = 4;

/// The TLS alert `certificate_revoked` (RFC 8446 section 6).
const CERTIFICATE_REVOKED: u8 = 44;

pub(super) fn status(
    node: &ClientNode,
    now: Instant,
    proxy: &ProxyStatus,
    flows: usize,
    streams: net::StreamTotals,
) -> Status {
    let agent = node.agent();
    let slice = node.slice();
    let wall = agent.wall(now);
    let pops = pop_views(node);
    let is_registered = pops.iter().any(|pop| pop.session == "registered");
    Status {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        identity: agent.identity(),
        device_name: agent.grant().map(|grant| grant.device_name.clone()),
        owner: agent.grant().map(|grant| grant.owner_name.clone()),
        organization: slice.organization_name.clone(),
        freshness: agent.freshness(now).label().to_owned(),
        control_last_heard_ms: agent.control_last_heard(now).map(millis),
        access_until: agent.access_until(),
        access_expired: agent.access_until() <= wall,
        now: wall,
        slice: agent.slice().map(|slice| SliceStatus {
            version: slice.header.version.to_string(),
            made: slice.header.iat,
            expires: slice.header.exp,
        }),
        revoked: is_revoked(node),
        last_session_problem: agent.last_lost().filter(|_| !is_registered).map(|reason| reason.to_string()),
        pops,
        proxy: proxy.clone(),
        forwards: Vec::new(),
        resources: resources(node, now),
        flows,
        streams,
        paths: path_counts(node),
        moves: node.moves(),
        traffic: node.traffic().into(),
        tun: None,
    }
}

fn pop_views(node: &ClientNode) -> Vec<PopView> {
    let view = |entry: &policy::PopEntry| {
        let known = node.agent().pops().find(|known| known.pop == entry.id);
        PopView {
            id: entry.id,
            address: entry.address.clone(),
            region: entry.region.clone(),
            session: known.map_or("idle", |known| known.phase.label()).to_owned(),
            transport: known
                .filter(|known| known.phase == agent::PopPhaseWord::Registered)
                .and_then(|known| known.transport)
                .map(|transport| transport.label().to_owned()),
            observed: known.and_then(|known| known.observed),
            failures: known.map_or(0, |known| known.failures),
        }
    };
    node.slice().pops.iter().map(view).collect()
}

pub(super) fn resources(node: &ClientNode, now: Instant) -> Vec<ResourceStatus> {
    let slice = node.slice();
    let links = node.links();
    let until = node.agent().access_until();
    let pops = pop_views(node);
    let is_isolated = node.agent().freshness(now) == Freshness::Isolated;
    let mut resources: Vec<ResourceStatus> = slice
        .resources
        .iter()
        .map(|resource| resource_status(slice, resource, &links, until, (&pops, is_isolated), now))
        .collect();
    resources.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    resources
}

fn resource_status(
    slice: &ClientSlice,
    resource: &ClientResource,
    links: &[LinkReport],
    access_until: UnixMs,
    (pops, is_isolated): (&[PopView], bool),
    now: Instant,
) -> ResourceStatus {
    let site = slice.sites.iter().find(|site| site.id == resource.site);
    let link = link_of(links, slice, resource.id);
    let (reachable, reason) = match &link {
        Some(link) if link.way.is_some() => (Reachable::Yes, None),
        Some(LinkReport { refusal: Some(refusal), .. }) => (Reachable::No, Some(refusal.to_string())),
        _ if site.is_none_or(|site| site.connectors.is_empty()) => {
            (Reachable::No, Some("no connector is enrolled in its site".to_owned()))
        }
        _ => (Reachable::Untried, None),
    };
    ResourceStatus {
        id: resource.id,
        name: resource.name.clone(),
        alias: resource.alias.clone(),
        address: resource.address.to_string(),
        ports: resource.ports.iter().map(ToString::to_string).collect(),
        site: site.map(|site| site.name.clone()).unwrap_or_default(),
        mode: resource.mode,
        closed_by_isolation: is_isolated && resource.mode == Mode::Strict,
        reachable,
        reason,
        connector: link.as_ref().map(|link| link.connector),
        path: link.as_ref().and_then(|link| path_view(now, pops, link)),
        round_trip_ms: link.and_then(|link| link.direct_round_trip.or(link.round_trip)).map(fine_millis),
        access_until,
    }
}

fn fine_millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// The word for a way, and where it leads when it is direct.
fn kind_of(way: Path, pops: &[PopView]) -> (&'static str, Option<SocketAddr>) {
    let by_tcp =
        |pop: PopId| pops.iter().any(|view| view.id == pop && view.transport.as_deref() == Some("tcp"));
    match way {
        Path::Direct { remote } => ("direct", Some(remote)),
        Path::Relay { pop, .. } if by_tcp(pop) => ("tcp", None),
        _ => ("relay", None),
    }
}

fn path_counts(node: &ClientNode) -> PathCounts {
    let (pops, mut counts) = (pop_views(node), PathCounts::default());
    for way in node.links().into_iter().filter_map(|link| link.way) {
        match kind_of(way, &pops).0 {
            "direct" => counts.direct += 1,
            "tcp" => counts.tcp += 1,
            _ => counts.relay += 1,
        }
    }
    counts
}

/// Why packets that never left the relay are there.
fn why_relayed(pairs: &[PairReport]) -> &'static str {
    if pairs.is_empty() {
        "no_candidates"
    } else if pairs.iter().any(|pair| pair.one_way.is_some()) {
        "one_way"
    } else if pairs.iter().any(|pair| pair.probes < ASKED_ENOUGH) {
        "looking"
    } else {
        "unanswered"
    }
}

fn path_view(now: Instant, pops: &[PopView], link: &LinkReport) -> Option<PathView> {
    let (kind, remote) = kind_of(link.way?, pops);
    let tried = link.pairs.iter().map(|pair| TriedView {
        address: pair.address,
        told: pair.told,
        probes: pair.probes,
        proofs: pair.proofs,
        round_trip_ms: pair.round_trip.map(fine_millis),
        heard_ms: pair.heard.map(|at| millis(now.saturating_duration_since(at))),
        one_way: pair.one_way.map(|way| way.label().to_owned()),
    });
    let since = link.moved.map(|(at, _)| at).or(link.up_since);
    let why = link.moved.map_or_else(|| why_relayed(&link.pairs), |(_, reason)| reason.label());
    Some(PathView {
        kind: kind.to_owned(),
        pop: link.pop,
        remote,
        since_ms: since.map(|at| millis(now.saturating_duration_since(at))),
        why: Some(why.to_owned()),
        tried: tried.collect(),
    })
}

pub(super) fn ping(node: &ClientNode, result: Result<PingReport, DialFault>) -> PingAnswer {
    match result {
        Ok(report) => {
            let (kind, remote) = kind_of(report.way, &pop_views(node));
            PingAnswer {
                connector: report.connector_name,
                kind: Some(kind.to_owned()),
                remote,
                round_trip_ms: report.round_trip.map(fine_millis),
                fault: None,
            }
        }
        Err(fault) => PingAnswer {
            connector: String::new(),
            kind: None,
            remote: None,
            round_trip_ms: None,
            fault: Some(fault.detail),
        },
    }
}

pub(super) fn netcheck(node: &ClientNode, now: Instant, local: SocketAddr) -> NetcheckAnswer {
    let pops = pop_views(node);
    let connectors = node.links().into_iter().map(|link| {
        let mut sees: Vec<SocketAddr> =
            link.pairs.iter().filter(|pair| pair.proofs > 0).filter_map(|pair| pair.seen).collect();
        sees.sort_unstable();
        sees.dedup();
        ConnectorView { name: link.connector_name.clone(), path: path_view(now, &pops, &link), sees }
    });
    let candidates = node.candidates().into_iter();
    NetcheckAnswer {
        local,
        interfaces: node.interfaces().collect(),
        address_changes: node.address_changes(now),
        candidates: candidates.map(|told| (told.kind.label().to_owned(), told.address)).collect(),
        connectors: connectors.collect(),
        traffic: node.traffic().into(),
        pops,
    }
}

/// What the own slice says; `None` when nothing in it is meant.
pub(super) fn why_here(node: &ClientNode, now: Instant, asked: &str) -> Option<WhyAnswer> {
    let mut explanation = explain_client(node.slice(), asked)?;
    explanation.steps.push(grant_step(node, now));
    explanation.steps.push(session_step(node));
    let host = asked.trim().parse().ok();
    let resource = host.and_then(|host| crate::core::find(node.slice(), &host, None));
    if let Some(link) = resource.and_then(|resource| link_of(&node.links(), node.slice(), resource.id)) {
        let what = format!("connector {} let this device in", link.connector_name);
        explanation.steps.push(match (link.way, link.refusal) {
            (Some(Path::Direct { remote }), _) => {
                Step::new(what, StepOutcome::Held, format!("directly at {remote}"))
            }
            (Some(Path::Relay { pop, .. }), _) => {
                Step::new(what, StepOutcome::Held, format!("through {pop}"))
            }
            (_, Some(refusal)) => Step::new(what, StepOutcome::Failed, refusal.to_string()),
            (_, None) => Step::new(what, StepOutcome::Unknown, "nothing is open to it right now"),
        });
    }
    Some(WhyAnswer {
        asked: asked.to_owned(),
        source: WhySource::Slice,
        holds: !explanation.steps.iter().any(|step| step.outcome == StepOutcome::Failed),
        explanation,
        controller: None,
    })
}

/// What can be said without a controller about something that the own slice does not have.
pub(super) fn why_without_controller(
    node: &ClientNode,
    now: Instant,
    asked: &str,
    refusal: Refusal,
) -> WhyAnswer {
    let known = match node.agent().slice() {
        Some(slice) => format!(
            "the list of this device's resources is version {}, {} s old; it has {} resources, and this is none of them",
            slice.header.version,
            node.agent().wall(now).since(slice.header.iat).as_secs(),
            slice.body.resources.len()
        ),
        None => "this device holds no list of resources yet".to_owned(),
    };
    let steps = vec![
        Step::new(
            format!("{asked} is a resource that a policy gives this device"),
            StepOutcome::Failed,
            known,
        ),
        grant_step(node, now),
        session_step(node),
        Step::new("a controller explains more", StepOutcome::Unknown, refusal.to_string()),
    ];
    WhyAnswer {
        asked: asked.to_owned(),
        source: WhySource::Local,
        holds: false,
        explanation: Explanation::new(steps),
        controller: Some(refusal),
    }
}

fn grant_step(node: &ClientNode, now: Instant) -> Step {
    let what = "this device's grant is valid";
    match node.agent().grant() {
        None => Step::new(what, StepOutcome::Failed, "there is none; sign in again with `tidegate login`"),
        Some(grant) => {
            let left = grant.exp.since(node.agent().wall(now)).as_secs();
            let detail =
                format!("of {} on {}, {left} s left without a renewal", grant.owner_name, grant.device_name);
            match left {
                0 => Step::new(what, StepOutcome::Failed, detail),
                _ if is_revoked(node) => Step::new(
                    what,
                    StepOutcome::Failed,
                    format!("it would be: {detail}; but access was revoked"),
                ),
                _ => Step::new(what, StepOutcome::Held, detail),
            }
        }
    }
}

/// Whether the last word of a PoP is that this device's access was revoked.
fn is_revoked(node: &ClientNode) -> bool {
    let is_registered = node.agent().pops().any(|pop| pop.phase == agent::PopPhaseWord::Registered);
    !is_registered
        && node.agent().last_lost().is_some_and(|reason| {
            matches!(
                reason,
                LostReason::ClosedByPeer(CloseCode::Struck) | LostReason::RefusedByPeer(CERTIFICATE_REVOKED)
            )
        })
}

fn session_step(node: &ClientNode) -> Step {
    let what = "this device is registered at a PoP";
    if is_revoked(node) {
        return Step::new(what, StepOutcome::Failed, "its access was revoked; ask your administrator");
    }
    let registered = node.agent().pops().find(|pop| pop.phase == agent::PopPhaseWord::Registered);
    match (registered, node.agent().last_lost()) {
        (Some(pop), _) => Step::new(what, StepOutcome::Held, pop.pop.to_string()),
        (None, Some(reason)) => Step::new(what, StepOutcome::Failed, reason.to_string()),
        (None, None) => Step::new(what, StepOutcome::Unknown, "a session is being opened"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel::OneWay;

    fn pair(probes: u64, one_way: Option<OneWay>) -> PairReport {
        let address = "203.0.113.7:4000".parse().expect("an address");
        PairReport {
            address,
            told: true,
            round_trip: None,
            probes,
            proofs: 0,
            heard: None,
            one_way,
            seen: None,
        }
    }

    #[test]
    fn who_never_left_the_relay_is_told_why() {
        assert_eq!(why_relayed(&[]), "no_candidates");
        assert_eq!(why_relayed(&[pair(1, None)]), "looking");
        assert_eq!(why_relayed(&[pair(4, None), pair(9, None)]), "unanswered");
        assert_eq!(why_relayed(&[pair(4, None), pair(9, Some(OneWay::ToHere))]), "one_way");
    }
}
