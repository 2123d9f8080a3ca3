//! The client's decisions, sans-IO: which resource is meant, which connector leads there, when a tunnel is
//! opened, shared, opened again and given up.
//!
//! PoPs are the agent's business: this core asks for an introduction with [`Output::Open`] and is told by
//! [`ClientCore::opened`] or [`ClientCore::open_refused`] what came of it.

mod address_changes;
mod bound;
mod dials;
mod failover;
mod link;
mod links;
mod lookup;
mod names;
mod node;
mod output;
mod packets;
mod pieces;
mod ping;

#[cfg(test)]
mod tests;

pub use lookup::{NoRoute, Route, find, find_named, route};
pub use names::names_of;
pub use node::{ClientNode, NodeEvent, NodeOutput, NodeParts, SharedSlice, Unstartable};
pub use output::{DialFault, DialId, Ending, LinkReport, Moves, OpenToken, Output, Timeout, link_of};
pub use packets::PacketDrop;
pub use ping::{PingReport, PingToken};

use dials::{DialStage, Dialling};
use flow::{CloseReason, FlowError, FlowId, FlowLimits, Flows, LinkId, Read, Unreachable};
use link::{Link, Stage};
use policy::{ClientConnector, ClientSlice};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use trust::SigningKey;
use tunnel::{Path, PeerId, Surroundings, Traffic, Tunnels, WireGuardPrivateKey, WireGuardPublicKey};
use wire::{ConnectorId, Refusal};

/// Most connections that are being made at once.
pub const MAX_DIALS: usize = 1_024;
/// Tries to open a tunnel again for flows that wait: with pauses of 0.5 s doubled up to 2 s, two and a half
/// minutes.
const MAX_REOPENS: u32 = 75;

/// Who has just come into another network is introduced anew after this, when it has an address there, and no more often
/// than this.
const NEAR_AFTER: Duration = Duration::from_secs(2);
const NEAR_EVERY: Duration = Duration::from_secs(30);

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
    /// Where PoPs see this device, and when somebody was last asked for because of that.
    seen_at: BTreeSet<IpAddr>,
    moves: Moves,
    asked_near: Option<Instant>,
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
    packets: packets::Packets,
    pieces: pieces::Pieces,
    /// What connectors were told about addresses, for those packets and for flows alike.
    bound: bound::Bound,
    proxy_names: bound::ProxyNames,
    failover: failover::Failover,
    /// This device's IPv6 address inside tunnels, once a connector has told it.
    own_v6: Option<Ipv6Addr>,
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
            seen_at: BTreeSet::new(),
            moves: Moves::default(),
            asked_near: None,
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
            packets: packets::Packets::default(),
            pieces: pieces::Pieces::default(),
            bound: bound::Bound::default(),
            proxy_names: bound::ProxyNames::default(),
            failover: failover::Failover::default(),
            own_v6: None,
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
            up_since: link.up_since,
            moved: link.moved,
            round_trip: link.round_trip,
            direct_round_trip: link.peer.and_then(|peer| self.tunnels.round_trip_of(peer)),
            pairs: link.peer.map(|peer| self.tunnels.pairs_of(peer)).unwrap_or_default(),
            refusal: link.refusal,
            flows: self.entries.values().filter(|entry| entry.connector == *id).count(),
        })
    }

    /// Where this machine stands: told to every peer that changes by it.
    pub fn set_surroundings(&mut self, now: Instant, surroundings: Surroundings) {
        let seen_at: BTreeSet<IpAddr> = surroundings.observed.iter().map(|seen| seen.ip()).collect();
        self.tunnels.set_surroundings(now, surroundings);
        if std::mem::replace(&mut self.seen_at, seen_at.clone()) != seen_at && !seen_at.is_empty() {
            self.ask_who_is_near(now);
        }
        self.pump(now);
    }

    /// A PoP sees this device at another address than before: a connector that names addresses on our link may stand in the
    /// network that we came into, and a PoP that introduces the two once more says whether it does.
    fn ask_who_is_near(&mut self, now: Instant) {
        let is_near = |link: &Link| link.peer.is_some_and(|peer| self.tunnels.may_be_near(peer));
        let near: Vec<ConnectorId> =
            self.links.iter().filter(|(_, link)| is_near(link)).map(|(id, _)| *id).collect();
        if near.is_empty() {
            return;
        }
        let at = self.asked_near.map_or(now, |asked| now.max(asked + NEAR_EVERY)) + NEAR_AFTER;
        self.asked_near = Some(at);
        for id in near {
            if let Some(link) = self.links.get_mut(&id) {
                link.shown = 0;
                self.to_renew.insert(id);
            }
        }
        self.renew_at.get_or_insert(at);
    }

    /// Where the PoP of a path sees the connector that it leads to.
    pub fn introduced_from(&mut self, now: Instant, path: Path, seen: Option<SocketAddr>) {
        let link = self.by_path.get(&path).and_then(|id| self.links.get(id));
        if let Some(peer) = link.and_then(|link| link.peer) {
            self.tunnels.introduced_from(now, peer, seen);
            self.pump(now);
        }
    }

    /// How often packets took another way.
    #[must_use]
    pub const fn moves(&self) -> Moves {
        self.moves
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

    /// A flow is no more: its dial ends with the fault, its owner hears how it ended.
    fn flow_ended(&mut self, now: Instant, flow: FlowId, result: Result<(), DialFault>) {
        let Some(entry) = self.entries.remove(&flow) else { return };
        match (entry.dial, result) {
            // What this connector cannot reach, another of the site may.
            (Some(dial), Err(fault)) if fault.reason == Refusal::TargetUnreachable => {
                self.next_connector(now, dial, fault);
            }
            (Some(dial), Err(fault)) => self.finish_dial(dial, Err(fault)),
            (Some(dial), Ok(())) => self.finish_dial(dial, Err(DialFault::new(Refusal::TargetRefused))),
            (None, Ok(())) => self.outputs.push_back(Output::Ended { flow, ending: Ending::Finished }),
            (None, Err(_)) => self.outputs.push_back(Output::Ended { flow, ending: Ending::Cut }),
        }
    }

    // ---- what the agent hears --------------------------------------------------------------------

    /// Takes WireGuard messages that came by a path, in order.
    pub fn handle_input(&mut self, now: Instant, path: Path, messages: &[&[u8]]) {
        self.tunnels.handle_batch(now, path, messages);
        self.pump(now);
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
        self.packets.sweep(now);
        self.failover_due(now);
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
        let packets = self.packets.sweep_at().map(|at| (at, "quiet conversations"));
        let failover = self.failover_at().map(|at| (at, "a connector that does not answer"));
        let next = [tunnels, flows, dials, links, pings, renew, packets, failover]
            .into_iter()
            .flatten()
            .min_by_key(|(at, _)| *at);
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
                        self.inner_packet(now, peer, packet);
                    }
                    tunnel::Output::Bind { peer, message } => self.bind_answered(peer, &message),
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

    fn heard(&mut self, peer: PeerId) {
        if let Some(connector) = self.by_peer.get(&peer) {
            self.failover.heard(*connector);
        }
    }

    /// Whether somebody waits for what comes from a connector.
    fn is_wanted(&self, now: Instant, id: ConnectorId) -> bool {
        self.entries.values().any(|entry| entry.connector == id) || self.packets.is_wanted(id, now)
    }

    fn seal(&mut self, now: Instant, link: Option<LinkId>, packets: &[Vec<u8>]) {
        let Some(link) = link else { return };
        let peer = self.by_peer.iter().find(|(peer, _)| peer.number() == link.0);
        if let Some((peer, connector)) = peer.map(|(peer, connector)| (*peer, *connector)) {
            let meant = packets.iter().filter_map(|packet| self.proxy_names.meaning(now, packet));
            let mut told: Vec<_> = meant.filter_map(|meaning| self.bound.tell(connector, &meaning)).collect();
            told.dedup();
            let packets: Vec<&[u8]> = told.iter().chain(packets).map(Vec::as_slice).collect();
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
                    match path {
                        Some(Path::Direct { .. }) => self.moves.to_direct += 1,
                        Some(_) => self.moves.to_relay += 1,
                        None => {}
                    }
                    tracing::debug!(
                        connector = %link.connector.name,
                        ?path,
                        reason = reason.label(),
                        "packets take another way"
                    );
                }
                let waits = |id: ConnectorId| {
                    self.links.get(&id).is_some_and(|link| link.stage == Stage::Idle)
                        && self.is_wanted(now, id)
                };
                if path.is_none()
                    && let Some(id) = self.by_peer.get(&peer).copied().filter(|id| waits(*id))
                {
                    self.open_link(now, id);
                }
            }
            tunnel::Event::Mtu { peer, mtu } => self.flows.set_link_mtu(now, LinkId(peer.number()), mtu),
            tunnel::Event::Pong { peer, ping, round_trip } => {
                self.heard(peer);
                self.pong(peer, ping, round_trip);
            }
            tunnel::Event::Quiet { peer, path } => {
                self.outputs.push_back(Output::RelayQuiet(path));
                self.doubt(now, peer);
            }
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
        CloseReason::Refused | CloseReason::Reset | CloseReason::Unreachable(Unreachable::Port) => {
            Refusal::TargetRefused
        }
        CloseReason::Unreachable(Unreachable::Host) => {
            let detail =
                "the target does not answer the connector, or its name does not resolve in the site; the \
                          connector's flow log says which"
                    .to_owned();
            return Err(DialFault { reason: Refusal::TargetUnreachable, detail, retry_after: None });
        }
        CloseReason::Unreachable(Unreachable::Prohibited) => {
            let detail = "the connector does not allow it: its policy says no, the name leads outside its site, or the resource is strict and the connector has not heard from a controller; its flow log has the reason".to_owned();
            return Err(DialFault { reason: Refusal::NoPolicy, detail, retry_after: None });
        }
        CloseReason::TimedOut => Refusal::Timeout,
    };
    Err(DialFault::new(reason))
}
