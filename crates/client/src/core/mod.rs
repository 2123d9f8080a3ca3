//! The client's decisions, sans-IO: which resource is meant, which connector leads there, when a tunnel is
//! opened, shared, opened again and given up.
//!
//! PoPs are the agent's business: this core asks for an introduction with [`Output::Open`] and is told by
//! [`ClientCore::opened`] or [`ClientCore::open_refused`] what came of it.

mod link;
mod lookup;
mod node;
mod output;
mod ping;

#[cfg(test)]
mod tests;

pub use lookup::{NoRoute, Route, find, route};
pub use node::{ClientNode, NodeEvent, NodeOutput, NodeParts, SharedSlice, Unstartable};
pub use output::{DialFault, DialId, Ending, LinkReport, OpenToken, Output, Timeout, link_of};
pub use ping::{PingReport, PingToken};

use crate::target::Target;
use flow::{CloseReason, FlowError, FlowId, FlowLimits, Flows, LinkId, Read, Unreachable};
use link::{Inner, Link, Stage};
use policy::{ClientConnector, ClientSlice};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{SealKey, SigningKey, seal_open, sign_open};
use tunnel::{Path, PeerId, Surroundings, Traffic, Tunnels, WireGuardPrivateKey, WireGuardPublicKey};
use wire::{Bounded, ConnectorId, OpenBody, Refusal, RefusalClass, SiteId};

/// Most connections that are being made at once.
pub const MAX_DIALS: usize = 1_024;
/// How long a connection may take to come about. A connector gives a target 10 s; the rest is for finding
/// another PoP and another connector.
const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// The agent answers within 10 s; later, the question was lost.
const OPEN_DEADLINE: Duration = Duration::from_secs(12);
/// Tries to open a tunnel again for flows that wait: with pauses of 0.5 s doubled up to 2 s, two and a half
/// minutes.
const MAX_REOPENS: u32 = 75;
/// A device with many tunnels shows a newer grant to four connectors a second, below what PoPs take from one device.
const RENEW_PACE: Duration = Duration::from_millis(250);
/// A renewal that failed for now is tried again after this: hours are left.
const RENEW_AGAIN: Duration = Duration::from_secs(15);
/// Local ports tried before a dial is given up: a port is taken for as long as its last flow lingers.
const PORT_TRIES: usize = 64;

struct Dialling {
    route: Route,
    /// Connectors still to be tried.
    rest: VecDeque<ConnectorId>,
    stage: DialStage,
    fault: Option<DialFault>,
    deadline: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum DialStage {
    Link(ConnectorId),
    Flow(FlowId),
}

struct FlowEntry {
    connector: ConnectorId,
    dial: Option<DialId>,
}

/// See the module.
pub struct ClientCore {
    identity: SigningKey,
    grant: Option<Vec<u8>>,
    /// Counts grants, so that each tunnel knows which one its connector was shown.
    grant_number: u64,
    /// Connectors that were shown an older grant, and when the next of them is shown the newer one.
    to_renew: BTreeSet<ConnectorId>,
    renew_at: Option<Instant>,
    slice: Arc<ClientSlice>,
    public_key: WireGuardPublicKey,
    tunnels: Tunnels,
    flows: Flows,
    links: BTreeMap<ConnectorId, Link>,
    by_peer: BTreeMap<PeerId, ConnectorId>,
    by_token: BTreeMap<OpenToken, ConnectorId>,
    by_path: BTreeMap<Path, ConnectorId>,
    dials: BTreeMap<DialId, Dialling>,
    deadlines: BTreeSet<(Instant, DialId)>,
    entries: BTreeMap<FlowId, FlowEntry>,
    next_dial: u64,
    next_token: u64,
    pings: Vec<ping::Waiting>,
    next_ping: u64,
    /// Reads and writes that were not flushed, and when the last was.
    unflushed: Option<Instant>,
    outputs: VecDeque<Output>,
}

/// What a client may reach who has no slice.
fn no_slice() -> ClientSlice {
    ClientSlice { organization_name: String::new(), resources: vec![], sites: vec![], pops: vec![] }
}

impl ClientCore {
    /// A core with a WireGuard key of this run.
    #[must_use]
    pub fn new(identity: SigningKey, key: &WireGuardPrivateKey, seed: u64, now: Instant) -> Self {
        Self {
            identity,
            grant: None,
            grant_number: 0,
            to_renew: BTreeSet::new(),
            renew_at: None,
            slice: Arc::new(no_slice()),
            public_key: key.public_key(),
            tunnels: Tunnels::new(key, seed, now),
            flows: Flows::new(FlowLimits::DEFAULT, seed.wrapping_add(1), now),
            links: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            by_token: BTreeMap::new(),
            by_path: BTreeMap::new(),
            dials: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            entries: BTreeMap::new(),
            next_dial: 0,
            next_token: 0,
            pings: Vec::new(),
            next_ping: 0,
            unflushed: None,
            outputs: VecDeque::new(),
        }
    }

    /// The grant to show to connectors from now on. Those that let this device in by an older one are shown it too:
    /// what runs there goes on until this one ends.
    pub fn set_grant(&mut self, now: Instant, text: &str) {
        if self.grant.as_deref() == Some(text.as_bytes()) {
            return;
        }
        self.grant = Some(text.as_bytes().to_vec());
        self.grant_number += 1;
        self.to_renew = self.links.keys().copied().collect();
        self.renew_at = (!self.to_renew.is_empty()).then_some(now);
    }

    /// No grant is shown to connectors any more.
    pub fn clear_grant(&mut self) {
        self.grant = None;
    }

    /// The slice that counts from now on. Tunnels to connectors that are not in it end.
    pub fn set_slice(&mut self, now: Instant, slice: Arc<ClientSlice>) {
        let known: BTreeMap<ConnectorId, &ClientConnector> = slice
            .sites
            .iter()
            .flat_map(|site| &site.connectors)
            .map(|connector| (connector.id, connector))
            .collect();
        let gone: Vec<ConnectorId> = self
            .links
            .iter()
            .filter(|(id, link)| known.get(id).is_none_or(|connector| **connector != link.connector))
            .map(|(id, _)| *id)
            .collect();
        self.slice = slice.clone();
        for connector in gone {
            self.remove_link(now, connector);
        }
        self.pump(now);
    }

    /// The slice in use.
    #[must_use]
    pub const fn slice(&self) -> &Arc<ClientSlice> {
        &self.slice
    }

    /// How the connectors that were needed are reached.
    pub fn links(&self) -> impl Iterator<Item = LinkReport> {
        self.links.iter().map(|(id, link)| LinkReport {
            connector: *id,
            connector_name: link.connector.name.clone(),
            site: link.site,
            pop: match link.stage {
                Stage::Up { path: Path::Relay { pop, .. } } => Some(pop),
                _ => None,
            },
            way: self.way_of(link),
            moved: link.moved,
            round_trip: link.round_trip,
            direct_round_trip: link.peer.and_then(|peer| self.tunnels.round_trip_of(peer)),
            pairs: link.peer.map(|peer| self.tunnels.pairs_of(peer)).unwrap_or_default(),
            refusal: link.refusal,
            flows: self.entries.values().filter(|entry| entry.connector == *id).count(),
        })
    }

    /// Begins a connection; [`Output::Dialled`] follows.
    pub fn dial(&mut self, now: Instant, target: &Target) -> DialId {
        let dial = DialId(self.next_dial);
        self.next_dial += 1;
        match self.begin(now, target) {
            Ok(dialling) => {
                self.deadlines.insert((dialling.deadline, dial));
                self.dials.insert(dial, dialling);
                self.advance_dial(now, dial);
            }
            Err(fault) => self.outputs.push_back(Output::Dialled { dial, result: Err(fault) }),
        }
        self.pump(now);
        dial
    }

    fn begin(&self, now: Instant, target: &Target) -> Result<Dialling, DialFault> {
        if self.dials.len() >= MAX_DIALS {
            return Err(DialFault {
                retry_after: Some(Duration::from_secs(1)),
                detail: format!("{MAX_DIALS} connections are being made already"),
                ..DialFault::new(Refusal::Full)
            });
        }
        let route = route(&self.slice, target).map_err(|none| DialFault {
            reason: none.reason,
            detail: none.detail,
            retry_after: None,
        })?;
        let mut rest = VecDeque::from(self.connectors_of(route.site));
        let Some(first) = rest.pop_front() else {
            return Err(DialFault {
                detail: "no connector is enrolled in the resource's site".into(),
                ..DialFault::new(Refusal::NotAttached)
            });
        };
        let stage = DialStage::Link(first);
        Ok(Dialling { route, rest, stage, fault: None, deadline: now + DIAL_DEADLINE })
    }

    /// The connectors of a site in the order in which they are tried.
    fn connectors_of(&self, site: SiteId) -> Vec<ConnectorId> {
        let site = self.slice.sites.iter().find(|known| known.id == site);
        let mut rest: Vec<ConnectorId> =
            site.into_iter().flat_map(|site| &site.connectors).map(|connector| connector.id).collect();
        // A tunnel that stands is shared; else devices spread over the connectors by their own keys, and one
        // that was refused last goes to the end.
        let own = self.identity.verifying_key();
        rest.sort_by_cached_key(|id| {
            let link = self.links.get(id);
            let is_up = link.is_some_and(|link| self.way_of(link).is_some());
            let was_refused = link.is_some_and(|link| link.refusal.is_some());
            (
                !is_up,
                was_refused,
                trust::sha256(&[b"tidegate/connector-choice/1", own.as_bytes(), id.as_bytes()]),
            )
        });
        rest
    }

    /// Nobody waits for this dial any more.
    pub fn cancel(&mut self, now: Instant, dial: DialId) {
        if let Some(dialling) = self.take_dial(dial)
            && let DialStage::Flow(flow) = dialling.stage
        {
            self.entries.remove(&flow);
            let _ = self.flows.abort(now, flow);
        }
        self.pump(now);
    }

    fn take_dial(&mut self, dial: DialId) -> Option<Dialling> {
        let dialling = self.dials.remove(&dial)?;
        self.deadlines.remove(&(dialling.deadline, dial));
        Some(dialling)
    }

    fn finish_dial(&mut self, dial: DialId, result: Result<FlowId, DialFault>) {
        if self.take_dial(dial).is_some() {
            self.outputs.push_back(Output::Dialled { dial, result });
        }
    }

    /// Takes a dial as far as it goes without waiting.
    fn advance_dial(&mut self, now: Instant, dial: DialId) {
        let Some(dialling) = self.dials.get(&dial) else { return };
        let DialStage::Link(connector) = dialling.stage else { return };
        let route = dialling.route;
        self.ensure_link(now, connector);
        let Some(link) = self.links.get(&connector) else {
            return self.next_connector(now, dial, DialFault::new(Refusal::NoResource));
        };
        let (Some(_), Some(peer), Some(inner)) = (self.way_of(link), link.peer, link.inner) else {
            return;
        };
        let source = inner.for_family_of(route.destination.ip());
        for _ in 0..PORT_TRIES {
            let Some(link) = self.links.get_mut(&connector) else { return };
            let source = SocketAddr::new(source, link.take_port());
            match self.flows.dial(now, LinkId(peer.number()), source, route.destination) {
                Ok(flow) => {
                    self.entries.insert(flow, FlowEntry { connector, dial: Some(dial) });
                    if let Some(dialling) = self.dials.get_mut(&dial) {
                        dialling.stage = DialStage::Flow(flow);
                    }
                    return;
                }
                Err(FlowError::Address) => {}
                Err(_) => break,
            }
        }
        let fault = DialFault { retry_after: Some(Duration::from_secs(1)), ..DialFault::new(Refusal::Full) };
        self.finish_dial(dial, Err(fault));
    }

    /// Begins opening the link to a connector. There is none when the slice has no such connector.
    fn ensure_link(&mut self, now: Instant, id: ConnectorId) {
        if !self.links.contains_key(&id) {
            let known = self.slice.sites.iter().find_map(|site| {
                let connector = site.connectors.iter().find(|connector| connector.id == id)?;
                Some((site.id, connector.clone()))
            });
            let Some((site, connector)) = known else { return };
            self.links.insert(id, Link::new(connector, site));
        }
        if self.links.get(&id).is_some_and(|link| matches!(link.stage, Stage::Idle | Stage::Backoff { .. })) {
            self.open_link(now, id);
        }
    }

    /// By which way packets go to a connector that let this device in; none while there is no way.
    fn way_of(&self, link: &Link) -> Option<Path> {
        link.inner?;
        self.tunnels.way_of(link.peer?)
    }

    /// Where this machine stands: told to every peer that changes by it.
    pub fn set_surroundings(&mut self, now: Instant, surroundings: Surroundings) {
        self.tunnels.set_surroundings(now, surroundings);
        self.pump(now);
    }

    /// What went and came by each kind of path.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.tunnels.traffic()
    }

    /// This machine may be in another network now.
    pub fn network_changed(&mut self, now: Instant) {
        self.tunnels.network_changed(now);
        self.pump(now);
    }

    /// Shows the newer grant to the next connector that has not seen it. Packets go on as they go meanwhile.
    fn renew_next(&mut self, now: Instant) {
        while let Some(id) = self.to_renew.pop_first() {
            let number = self.grant_number;
            let Some(link) = self.links.get_mut(&id).filter(|link| link.shown < number) else { continue };
            // One that is being opened by the older grant comes again when it is up; whoever is not let in is shown
            // the newer one when somebody wants in.
            if matches!(link.stage, Stage::Up { .. }) {
                self.renew(now, id);
                break;
            }
        }
        self.renew_at = (!self.to_renew.is_empty()).then_some(now + RENEW_PACE);
    }

    /// Is introduced to a connector once more; packets go on as they go meanwhile.
    fn renew(&mut self, now: Instant, id: ConnectorId) {
        if let Some(link) = self.links.get_mut(&id)
            && let Stage::Up { path } = link.stage
        {
            link.renewing = Some(path);
            self.open_link(now, id);
        }
    }

    /// An introduction that was to renew failed for now: what runs by the older grant goes on running, and it is tried
    /// again. Whether that is what it was.
    fn renewal_failed(&mut self, now: Instant, id: ConnectorId, reason: Refusal, after: Duration) -> bool {
        let is_up = self.links.get(&id).is_some_and(|link| self.way_of(link).is_some());
        let Some(link) = self.links.get_mut(&id) else { return false };
        let Some(path) = link.renewing.take() else { return false };
        if reason.class() != RefusalClass::Later || !is_up || !self.by_path.contains_key(&path) {
            return false;
        }
        link.stage = Stage::Up { path };
        link.shown = 0;
        self.to_renew.insert(id);
        let again = now + RENEW_AGAIN.max(after.min(link::LONGEST_PAUSE));
        self.renew_at = Some(self.renew_at.map_or(again, |at| at.max(again)));
        true
    }

    fn open_link(&mut self, now: Instant, id: ConnectorId) {
        let Some(link) = self.links.get(&id) else { return };
        let (site, seal_key) = (link.site, link.connector.seal_key);
        let key = WireGuardPublicKey::from_bytes(*link.connector.wireguard_key.as_bytes());
        let Ok((peer, initiation)) = self.tunnels.connect(now, key) else {
            return self.link_failed(now, id, Refusal::Full, Duration::from_secs(1));
        };
        self.by_peer.insert(peer, id);
        let Some(sealed) = self.sealed_body(id, &seal_key, &initiation) else {
            return self.link_failed(now, id, Refusal::GrantInvalid, Duration::ZERO);
        };
        let token = OpenToken(self.next_token);
        self.next_token += 1;
        self.by_token.insert(token, id);
        let initiation = initiation.to_vec();
        self.outputs.push_back(Output::Open { token, connector: id, site, sealed, initiation });
        if let Some(link) = self.links.get_mut(&id) {
            link.peer = Some(peer);
            link.shown = self.grant_number;
            link.stage = Stage::Opening { token, peer, sent: now, until: now + OPEN_DEADLINE };
        }
    }

    /// The grant and the proof of its key, for the connector's eyes; `None` without a grant.
    fn sealed_body(&self, id: ConnectorId, to: &SealKey, initiation: &[u8]) -> Option<Vec<u8>> {
        let grant = Bounded::new(self.grant.clone()?).ok()?;
        let client_key = *self.public_key.as_bytes();
        let signature = sign_open(&self.identity, id, &client_key, initiation);
        let body = OpenBody { grant, client_key, signature };
        let body = minicbor::to_vec(&body).expect("writing CBOR to a Vec does not fail");
        seal_open(to, id, &body).ok()
    }

    /// No PoP leads to the connector, or it said no.
    fn link_failed(&mut self, now: Instant, id: ConnectorId, reason: Refusal, after: Duration) {
        if self.renewal_failed(now, id, reason, after) {
            return;
        }
        let has_flows = self.entries.values().any(|entry| entry.connector == id);
        // While packets go straight to the connector, the relay is wanted back and nobody waits for it; and a
        // PoP's word ends nothing that does not pass it. A connector that has really let go falls silent.
        let way = self.links.get(&id).and_then(|link| self.way_of(link));
        let is_direct = matches!(way, Some(Path::Direct { .. }));
        let Some(link) = self.links.get_mut(&id) else { return };
        link.refusal = Some(reason);
        link.stage = Stage::Idle;
        let is_denied = reason.class() == RefusalClass::Denied && !is_direct;
        let mut cut = is_denied;
        if has_flows && !cut {
            match link.pause(after) {
                Some(pause) => link.stage = Stage::Backoff { until: now + pause },
                None if is_direct => link.stage = Stage::Backoff { until: now + link::LONGEST_PAUSE },
                None => cut = true,
            }
        }
        if cut {
            self.cut_flows(now, id);
        }
        if is_denied {
            self.forget_tunnel(id);
        }
        let fault = DialFault { retry_after: (!after.is_zero()).then_some(after), ..DialFault::new(reason) };
        self.fail_pings(id, &fault);
        for dial in self.waiting_for(id) {
            self.next_connector(now, dial, fault.clone());
        }
    }

    /// Goes on with the next connector of the site, or ends with the refusal that says most.
    fn next_connector(&mut self, now: Instant, dial: DialId, fault: DialFault) {
        let Some(dialling) = self.dials.get_mut(&dial) else { return };
        // A "no" says more than a "not now" of another connector.
        let denied = |fault: &DialFault| fault.reason.class() == RefusalClass::Denied;
        if !dialling.fault.as_ref().is_some_and(denied) || denied(&fault) {
            dialling.fault = Some(fault);
        }
        match dialling.rest.pop_front() {
            Some(next) => {
                dialling.stage = DialStage::Link(next);
                self.advance_dial(now, dial);
            }
            None => {
                let fault = dialling.fault.take().unwrap_or_else(|| DialFault::new(Refusal::NotAttached));
                self.finish_dial(dial, Err(fault));
            }
        }
    }

    /// Ends every flow of a connector.
    fn cut_flows(&mut self, now: Instant, id: ConnectorId) {
        let flows: Vec<FlowId> =
            self.entries.iter().filter(|(_, entry)| entry.connector == id).map(|(flow, _)| *flow).collect();
        for flow in flows {
            let _ = self.flows.abort(now, flow);
            self.flow_ended(now, flow, Err(DialFault::new(Refusal::SessionLost)));
        }
    }

    /// A flow is no more: its dial ends with the fault, its owner hears how it ended.
    fn flow_ended(&mut self, _now: Instant, flow: FlowId, result: Result<(), DialFault>) {
        let Some(entry) = self.entries.remove(&flow) else { return };
        match (entry.dial, result) {
            (Some(dial), Err(fault)) => self.finish_dial(dial, Err(fault)),
            (Some(dial), Ok(())) => self.finish_dial(dial, Err(DialFault::new(Refusal::TargetRefused))),
            (None, Ok(())) => self.outputs.push_back(Output::Ended { flow, ending: Ending::Finished }),
            (None, Err(_)) => self.outputs.push_back(Output::Ended { flow, ending: Ending::Cut }),
        }
    }

    fn remove_link(&mut self, now: Instant, id: ConnectorId) {
        self.cut_flows(now, id);
        self.forget_tunnel(id);
        self.link_failed(now, id, Refusal::NoResource, Duration::ZERO);
        self.links.remove(&id);
        self.by_token.retain(|_, connector| *connector != id);
    }

    /// The connector does not let this device in: no way leads there, not even one that worked a moment ago.
    fn forget_tunnel(&mut self, id: ConnectorId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.inner = None;
        let Some(peer) = link.peer.take() else { return };
        self.by_peer.remove(&peer);
        self.flows.drop_link(LinkId(peer.number()));
        let (paths, _) = self.tunnels.remove(peer);
        for path in paths {
            self.give_back(path);
        }
    }

    fn give_back(&mut self, path: Path) {
        self.by_path.remove(&path);
        self.outputs.push_back(Output::GiveBack(path));
    }

    // ---- what the agent hears --------------------------------------------------------------------

    /// The connector accepted: it is reachable by `path`, and these are this device's addresses there.
    pub fn opened(
        &mut self,
        now: Instant,
        token: OpenToken,
        path: Path,
        response: &[u8],
        inner: (Ipv4Addr, Ipv6Addr),
    ) {
        let awaited = self.by_token.remove(&token).filter(|id| self.is_opening(*id, token));
        let Some((id, Stage::Opening { peer, sent, .. })) =
            awaited.and_then(|id| Some((id, self.take_stage(id)?)))
        else {
            // Too late: nobody waits for it.
            self.give_back(path);
            return self.pump(now);
        };
        match self.tunnels.accept_response(now, peer, response, path) {
            Ok(replaced) => {
                self.by_path.insert(path, id);
                if let Some(old) = replaced {
                    self.give_back(old);
                    // What was sent by the way before may be lost: it does not wait for its timers.
                    self.flows.link_moved(now, LinkId(peer.number()));
                }
                self.link_up(now, id, path, Inner { v4: inner.0, v6: inner.1 }, sent);
            }
            Err(error) => {
                tracing::debug!(reason = error.label(), "a connector's handshake response was not taken");
                self.give_back(path);
                self.link_failed(now, id, Refusal::HandshakeInvalid, Duration::ZERO);
            }
        }
        self.pump(now);
    }

    fn is_opening(&self, id: ConnectorId, token: OpenToken) -> bool {
        let stage = self.links.get(&id).map(|link| &link.stage);
        matches!(stage, Some(Stage::Opening { token: awaited, .. }) if *awaited == token)
    }

    fn link_up(&mut self, now: Instant, id: ConnectorId, path: Path, inner: Inner, sent: Instant) {
        let moved = self.links.get(&id).is_some_and(|link| link.inner.is_some_and(|old| old != inner));
        if moved {
            // The connector gave other addresses: it does not know the flows of the old ones.
            self.cut_flows(now, id);
        }
        if let Some(link) = self.links.get_mut(&id) {
            link.stage = Stage::Up { path };
            link.inner = Some(inner);
            link.round_trip = Some(now.saturating_duration_since(sent));
            link.refusal = None;
            link.renewing = None;
            link.attempts = 0;
            if link.shown < self.grant_number {
                // A newer one came while this was being opened.
                self.to_renew.insert(id);
                self.renew_at.get_or_insert(now + RENEW_PACE);
            }
        }
        self.send_pings(now, id);
        for dial in self.waiting_for(id) {
            self.advance_dial(now, dial);
        }
    }

    fn waiting_for(&self, id: ConnectorId) -> Vec<DialId> {
        let waits = |dialling: &Dialling| dialling.stage == DialStage::Link(id);
        self.dials.iter().filter(|(_, dialling)| waits(dialling)).map(|(dial, _)| *dial).collect()
    }

    /// There will be no introduction.
    pub fn open_refused(&mut self, now: Instant, token: OpenToken, reason: Refusal, retry_after: Duration) {
        if let Some(id) = self.by_token.remove(&token).filter(|id| self.is_opening(*id, token)) {
            let is_first = self.links.get(&id).is_some_and(|link| link.refusal.is_none());
            if reason == Refusal::HandshakeInvalid && is_first {
                // The same initiation may have reached the connector by two PoPs, and the answer to the first was
                // lost: once more with a fresh one.
                if let Some(link) = self.links.get_mut(&id) {
                    link.refusal = Some(reason);
                }
                self.open_link(now, id);
            } else {
                self.link_failed(now, id, reason, retry_after);
            }
        }
        self.pump(now);
    }

    /// A channel is gone, because its session is or its PoP said so.
    pub fn path_lost(&mut self, now: Instant, path: Path, reason: Refusal) {
        if let Some(id) = self.by_path.remove(&path) {
            self.tunnels.drop_path(now, path);
            self.link_lost(now, id, path, reason);
        }
        self.pump(now);
    }

    /// Nothing comes back by a channel, and its PoP does not answer: another way is asked for while this one is still
    /// held on to.
    pub fn path_doubted(&mut self, now: Instant, path: Path) {
        let Some(id) = self.by_path.get(&path).copied() else { return };
        let is_by_it = self.links.get(&id).is_some_and(|link| self.way_of(link) == Some(path));
        if is_by_it && self.entries.values().any(|entry| entry.connector == id) {
            self.renew(now, id);
        }
        self.pump(now);
    }

    fn link_lost(&mut self, now: Instant, id: ConnectorId, path: Path, reason: Refusal) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.stage != (Stage::Up { path }) {
            return;
        }
        link.stage = Stage::Idle;
        if reason.class() == RefusalClass::Denied {
            self.link_failed(now, id, reason, Duration::ZERO);
        } else if self.entries.values().any(|entry| entry.connector == id) {
            self.open_link(now, id);
        }
    }

    /// Takes WireGuard messages that came by a path, in order.
    pub fn handle_input(&mut self, now: Instant, path: Path, messages: &[&[u8]]) {
        self.tunnels.handle_batch(now, path, messages);
        self.pump(now);
    }

    fn take_stage(&mut self, id: ConnectorId) -> Option<Stage> {
        Some(std::mem::replace(&mut self.links.get_mut(&id)?.stage, Stage::Idle))
    }

    // ---- flows -----------------------------------------------------------------------------------

    /// Reads what came in on a flow.
    ///
    /// # Errors
    /// The flow is over.
    pub fn read(&mut self, now: Instant, flow: FlowId, buffer: &mut [u8]) -> Result<Read, FlowError> {
        self.unflushed = Some(now);
        self.flows.read(now, flow, buffer)
    }

    /// Writes what fits; [`Output::Writable`] follows when less was taken than given.
    ///
    /// # Errors
    /// The flow is over.
    pub fn write(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> Result<usize, FlowError> {
        self.unflushed = Some(now);
        self.flows.write(now, flow, data)
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The flow is over.
    pub fn shutdown_write(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowError> {
        self.unflushed = Some(now);
        self.flows.shutdown_write(now, flow)
    }

    /// Ends a flow at once; no [`Output::Ended`] follows.
    pub fn abort(&mut self, now: Instant, flow: FlowId) {
        if self.entries.remove(&flow).is_some() {
            self.unflushed = Some(now);
            let _ = self.flows.abort(now, flow);
        }
    }

    /// Sends what reads and writes caused. Call after a batch of them.
    pub fn flush(&mut self, now: Instant) {
        self.pump(now);
    }

    // ---- time ------------------------------------------------------------------------------------

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tunnels.handle_timeout(now);
        self.flows.handle_timeout(now);
        while let Some((deadline, dial)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(deadline, dial));
            if let Some(dialling) = self.dials.remove(&dial) {
                if let DialStage::Flow(flow) = dialling.stage {
                    self.entries.remove(&flow);
                    let _ = self.flows.abort(now, flow);
                }
                let fault = dialling.fault.unwrap_or_else(|| DialFault::new(Refusal::Timeout));
                self.outputs.push_back(Output::Dialled { dial, result: Err(fault) });
            }
        }
        self.expire_pings(now);
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_next(now);
        }
        let due: Vec<ConnectorId> = self
            .links
            .iter()
            .filter(|(_, link)| link.deadline().is_some_and(|(at, _)| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            match self.take_stage(id) {
                Some(Stage::Opening { token, .. }) => {
                    self.by_token.remove(&token);
                    self.link_failed(now, id, Refusal::Timeout, Duration::from_secs(1));
                }
                Some(Stage::Backoff { .. }) => self.open_link(now, id),
                Some(stage @ (Stage::Up { .. } | Stage::Idle)) => {
                    if let Some(link) = self.links.get_mut(&id) {
                        link.stage = stage;
                    }
                }
                None => {}
            }
        }
        self.pump(now);
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        if let Some(now) = self.unflushed {
            self.pump(now);
        }
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let tunnels = match self.tunnels.poll_output() {
            tunnel::Output::Timeout(timeout) => timeout.map(|timeout| (timeout.at, "a WireGuard timer")),
            // Everything else was taken by the last pump.
            _ => None,
        };
        let flows = match self.flows.poll_output() {
            flow::Output::Timeout(timeout) => timeout.map(|timeout| (timeout.at, timeout.reason.label())),
            _ => None,
        };
        let dials = self.deadlines.first().map(|(at, _)| (*at, "a dial's deadline"));
        let links = self.links.values().filter_map(Link::deadline).min();
        let pings = self.next_ping_timeout().map(|at| (at, "a ping's answer"));
        let renew = self.renew_at.map(|at| (at, "a connector is shown the newer grant"));
        let next =
            [tunnels, flows, dials, links, pings, renew].into_iter().flatten().min_by_key(|(at, _)| *at);
        Output::Timeout(next.map(|(at, reason)| Timeout { at, reason }))
    }

    /// Moves packets between tunnels and flows until both are quiet.
    fn pump(&mut self, now: Instant) {
        self.unflushed = None;
        loop {
            let mut moved = false;
            loop {
                match self.tunnels.poll_output() {
                    tunnel::Output::Transmit(transmit) => {
                        self.outputs
                            .push_back(Output::Transmit { path: transmit.path, bytes: transmit.bytes });
                    }
                    tunnel::Output::Inner { peer, packet } => {
                        moved = true;
                        // A packet that does not parse comes from a connector that is broken; TCP sends again.
                        let _ = self.flows.handle_input(now, LinkId(peer.number()), &packet);
                    }
                    tunnel::Output::Event(event) => self.tunnel_event(now, event),
                    tunnel::Output::Timeout(_) => break,
                }
            }
            let mut packets: Vec<Vec<u8>> = Vec::new();
            let mut of = None;
            loop {
                match self.flows.poll_output() {
                    flow::Output::Packet { link, bytes } => {
                        moved = true;
                        if of != Some(link) {
                            self.seal(now, of, &packets);
                            packets.clear();
                            of = Some(link);
                        }
                        packets.push(bytes);
                    }
                    flow::Output::Event { flow, event, .. } => self.flow_event(now, flow, event),
                    flow::Output::Timeout(_) => break,
                }
            }
            self.seal(now, of, &packets);
            if !moved {
                return;
            }
        }
    }

    fn seal(&mut self, now: Instant, link: Option<LinkId>, packets: &[Vec<u8>]) {
        let Some(link) = link else { return };
        let peer = self.by_peer.keys().find(|peer| peer.number() == link.0).copied();
        if let Some(peer) = peer {
            let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
            // What does not fit is lost, as on any full path; TCP sends it again.
            let _ = self.tunnels.seal_batch(now, peer, &packets);
        }
    }

    fn tunnel_event(&mut self, now: Instant, event: tunnel::Event) {
        match event {
            tunnel::Event::Proven { replaced, .. } => {
                if let Some(old) = replaced {
                    self.give_back(old);
                }
            }
            tunnel::Event::Unanswered { peer } | tunnel::Event::GaveUp { peer } => {
                let Some(id) = self.by_peer.get(&peer).copied() else { return };
                let Some(Stage::Up { path }) = self.links.get(&id).map(|link| link.stage.clone()) else {
                    return;
                };
                // The channel leads nowhere: it is given back, and a new one is asked for if anybody waits.
                self.give_back(path);
                self.tunnels.drop_path(now, path);
                self.link_lost(now, id, path, Refusal::Timeout);
            }
            tunnel::Event::Unused { path, .. } => self.give_back(path),
            tunnel::Event::Moved { peer, path, reason } => {
                self.flows.link_moved(now, LinkId(peer.number()));
                if let Some(link) = self.by_peer.get(&peer).and_then(|id| self.links.get_mut(id)) {
                    link.moved = Some((now, reason));
                    tracing::debug!(
                        connector = %link.connector.name,
                        ?path,
                        reason = reason.label(),
                        "packets take another way"
                    );
                }
                let waits = |id: ConnectorId| {
                    self.links.get(&id).is_some_and(|link| link.stage == Stage::Idle)
                        && self.entries.values().any(|entry| entry.connector == id)
                };
                if path.is_none()
                    && let Some(id) = self.by_peer.get(&peer).copied().filter(|id| waits(*id))
                {
                    self.open_link(now, id);
                }
            }
            tunnel::Event::Mtu { peer, mtu } => self.flows.set_link_mtu(now, LinkId(peer.number()), mtu),
            tunnel::Event::Pong { peer, ping, round_trip } => self.pong(peer, ping, round_trip),
            tunnel::Event::Quiet { path, .. } => self.outputs.push_back(Output::RelayQuiet(path)),
            tunnel::Event::Removed { peer, .. } => {
                self.by_peer.remove(&peer);
            }
        }
    }

    fn flow_event(&mut self, now: Instant, flow: FlowId, event: flow::Event) {
        match event {
            flow::Event::Established => {
                if let Some(dial) = self.entries.get_mut(&flow).and_then(|entry| entry.dial.take()) {
                    self.finish_dial(dial, Ok(flow));
                }
            }
            flow::Event::Readable => self.outputs.push_back(Output::Readable(flow)),
            flow::Event::Writable => self.outputs.push_back(Output::Writable(flow)),
            flow::Event::Closed(reason) => self.flow_ended(now, flow, ending_of(reason)),
            // A connector never dials a client.
            flow::Event::Incoming { .. } => {
                let _ = self.flows.reject_reset(now, flow);
            }
        }
    }
}

/// What the end of a flow means to whoever dialled or used it.
fn ending_of(reason: CloseReason) -> Result<(), DialFault> {
    let reason = match reason {
        CloseReason::Finished => return Ok(()),
        CloseReason::Refused | CloseReason::Reset => Refusal::TargetRefused,
        CloseReason::Unreachable(Unreachable::Host) => Refusal::TargetUnreachable,
        CloseReason::Unreachable(Unreachable::Prohibited) => {
            let detail = "the connector does not allow it: its policy says no, the name leads outside its site, or the resource is strict and the connector has not heard from a controller; its flow log has the reason".to_owned();
            return Err(DialFault { reason: Refusal::NoPolicy, detail, retry_after: None });
        }
        CloseReason::TimedOut => Refusal::Timeout,
    };
    Err(DialFault::new(reason))
}
