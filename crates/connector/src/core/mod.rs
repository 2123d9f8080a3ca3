//! The connector's decisions, sans-IO: who is let in, where a flow may go, when access ends, what the log
//! says.
//!
//! Everything that arrives is judged against a [`Knowledge`] that the caller keeps current and passes in;
//! the core remembers what it let in, and [`ConnectorCore::recheck`] judges that again whenever something
//! in the knowledge changed.

mod bindings;
mod datagrams;
mod flows;
mod introduction;
mod lookups;
mod output;
mod packets;
mod passages;
mod ranges;
mod rules;
mod session;
mod slice;

#[cfg(test)]
pub(crate) mod tests;

pub use datagrams::{DatagramFault, DatagramId, DatagramKind, DatagramNews, DatagramRequest, OpenFault};
pub use output::{CoreStatus, DialFault, Ending, Output, Timeout};
pub use passages::{PassageId, SiteSide};
pub use rules::{Contact, Knowledge, Rules, TimeWord};

#[cfg(test)]
pub(crate) use rules::Target;
#[cfg(test)]
use rules::{Question, ResourceName, Ruling};
pub use slice::SliceRules;

use crate::record::{FlowRecord, Verdict};
use datagrams::Datagrams;
use flow::{FlowId, FlowLimits, Flows, LinkId};
use introduction::Doorkeeper;
use lookups::Lookups;
use output::ByPath;
use passages::Passages;
use session::{Active, Session, Stage, Wanted};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use trust::{Identity, OpenKey, UnixMs};
use tunnel::{Path, PeerId, Surroundings, TunnelError, Tunnels, WireGuardPrivateKey};
use wire::{
    Accept, Bounded, ChannelId, CloseChannel, DeviceId, FromAgent, Introduce, PopId, Refusal, Refuse,
};

/// Sessions of one device at once: its client's, one that it replaces, and a few that crashed.
const SESSIONS_PER_DEVICE: usize = 8;
/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// When a client that found this connector full, or without a policy, is told to come back.
const RETRY_LATER_MS: u32 = 2_000;

/// See the module.
pub struct ConnectorCore {
    doorkeeper: Doorkeeper,
    tunnels: Tunnels,
    flows: Flows,
    sessions: BTreeMap<PeerId, Session>,
    by_link: BTreeMap<LinkId, PeerId>,
    deadlines: BTreeSet<(Instant, PeerId)>,
    active: BTreeMap<FlowId, Active>,
    datagrams: Datagrams,
    passages: Passages,
    lookups: Lookups,
    outputs: VecDeque<Output>,
    own_listeners: Vec<SocketAddr>,
    /// What the machine has: where a listener is that is bound to no address.
    own_addresses: BTreeSet<IpAddr>,
    /// The UDP port of this process, at each of the machine's addresses.
    own_port: Vec<SocketAddr>,
    run: u64,
    /// How many of those flows each device has, through all of its tunnels.
    flows_of: BTreeMap<DeviceId, usize>,
    flows_per_device: usize,
    flows_most: usize,
    next_record: u64,
    status: CoreStatus,
}

/// The identity in the state directory is not a connector's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state directory does not belong to a connector; enrol with a connector's key")]
pub struct NotAConnector;

/// What a connector is made of.
pub struct Parts {
    /// Its name.
    pub identity: Identity,
    /// Opens what clients seal to it.
    pub open_key: OpenKey,
    /// Its durable WireGuard key.
    pub wireguard_key: WireGuardPrivateKey,
    /// Where this process itself listens, as it was bound: no target of a name or a range.
    pub own_listeners: Vec<SocketAddr>,
    /// Bounds of the flows.
    pub limits: FlowLimits,
    /// What the kernel knows this connector by, where flows pass through it.
    pub site: Option<SiteSide>,
}

impl ConnectorCore {
    /// A connector that nobody has reached yet.
    ///
    /// # Errors
    /// [`NotAConnector`].
    pub fn new(parts: Parts, seed: u64, now: Instant, wall: UnixMs) -> Result<Self, NotAConnector> {
        let Parts { identity, open_key, wireguard_key, own_listeners, limits, site } = parts;
        Ok(Self {
            doorkeeper: Doorkeeper::new(identity, open_key).ok_or(NotAConnector)?,
            tunnels: Tunnels::new(&wireguard_key, seed, now),
            flows: Flows::new(limits, seed.rotate_left(32), now),
            sessions: BTreeMap::new(),
            by_link: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            active: BTreeMap::new(),
            datagrams: Datagrams::new(limits.flows),
            passages: Passages::new(site),
            lookups: Lookups::default(),
            outputs: VecDeque::new(),
            flows_of: BTreeMap::new(),
            // A link has its own bound, and each process of a client is a link: of two devices one has half at the most,
            // also while the flows of a process that was killed are still here.
            flows_per_device: limits.flows / 2,
            flows_most: limits.flows,
            own_listeners,
            own_addresses: BTreeSet::new(),
            own_port: Vec::new(),
            run: wall.as_millis(),
            next_record: 0,
            status: CoreStatus::default(),
        })
    }

    /// What people may see.
    #[must_use]
    pub fn status(&self) -> CoreStatus {
        let is_direct = |peer: &&PeerId| matches!(self.tunnels.way_of(**peer), Some(Path::Direct { .. }));
        CoreStatus {
            sessions: self.sessions.len(),
            flows: self.active.len() + self.passages.streams(),
            datagram_flows: self.datagrams.len() + self.passages.len() - self.passages.streams(),
            kernel_flows: self.passages.len(),
            site_strays: self.passages.strays,
            site_unusable: self.passages.unusable,
            datagrams_no_room: self.datagrams.no_room,
            fragments_dropped: self.datagrams.fragments.drops().values().sum(),
            direct: self.sessions.keys().filter(is_direct).count(),
            packets: ByPath::of(self.tunnels.traffic(), |count| count.packets),
            bytes: ByPath::of(self.tunnels.traffic(), |count| count.bytes),
            ..self.status
        }
    }

    /// How many sessions' packets go straight, and by the relays of which PoPs the others' go.
    pub fn ways(&self) -> impl Iterator<Item = Path> {
        self.sessions.keys().filter_map(|peer| self.tunnels.way_of(*peer))
    }

    /// What went by each kind of path.
    pub fn traffic(&self) -> crate::status::TrafficReport {
        crate::status::TrafficReport::new(self.tunnels.traffic(), self.tunnels.probes_over_budget())
    }

    /// The same with the device, older sessions first.
    pub fn ways_of_devices(&self) -> impl Iterator<Item = (DeviceId, Path)> {
        let sessions = self.sessions.iter();
        sessions.filter_map(|(peer, session)| Some((session.grant.device, self.tunnels.way_of(*peer)?)))
    }

    /// A client wants in. Answers the PoP with `Accept` or `Refuse`.
    pub fn introduce<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        pop: PopId,
        introduce: &Introduce,
    ) {
        let message = match self.admit(now, knowledge, pop, introduce) {
            Ok(accept) => {
                self.status.introductions_accepted += 1;
                FromAgent::from(accept)
            }
            Err(reason) => {
                self.status.introductions_refused += 1;
                let later = reason.class() == wire::RefusalClass::Later;
                let retry_after_ms = if later { RETRY_LATER_MS } else { 0 };
                FromAgent::from(Refuse { intro: introduce.intro, reason, retry_after_ms })
            }
        };
        self.outputs.push_back(Output::ToPop { pop, message });
    }

    fn admit<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        pop: PopId,
        introduce: &Introduce,
    ) -> Result<Accept, Refusal> {
        let initiation = introduce.initiation.as_slice();
        let admitted = self.doorkeeper.verify(
            knowledge.bundle,
            knowledge.revocations,
            knowledge.wall,
            introduce.sealed.as_slice(),
            initiation,
        );
        let admitted = match (admitted, knowledge.time) {
            // By a clock that nobody has set right yet: come back in a moment.
            (Err(Refusal::GrantExpired | Refusal::GrantNotYetValid), TimeWord::Awaited) => {
                return Err(Refusal::Settling);
            }
            (admitted, _) => admitted?,
        };
        if knowledge.rules.is_none() {
            return Err(Refusal::NoSlice);
        }
        // A WireGuard key is one device's: another device cannot take over its session.
        let known = self.tunnels.peer_of(admitted.key).and_then(|peer| self.sessions.get(&peer));
        if known.is_some_and(|session| session.grant.device != admitted.grant.device) {
            return Err(Refusal::KeyNotProven);
        }
        let path = Path::relay(pop, introduce.channel);
        let accepted = self.tunnels.accept_initiation(now, admitted.key, initiation, path).map_err(
            |error| match error {
                TunnelError::Full => Refusal::Full,
                TunnelError::PathTaken => Refusal::Malformed,
                _ => Refusal::HandshakeInvalid,
            },
        )?;
        self.tunnels.belongs_to(accepted.peer, admitted.grant.device);
        self.tunnels.introduced_from(now, accepted.peer, introduce.client_seen);
        let deadline = now + admitted.grant.exp.since(knowledge.wall);
        let is_known = self.sessions.contains_key(&accepted.peer);
        if !is_known {
            self.make_room_for(now, knowledge.wall, admitted.grant.device);
        }
        let inner_v6 = match self.sessions.get_mut(&accepted.peer) {
            Some(session) => {
                // An older grant, replayed by a PoP, cannot get here: its initiation is older too.
                session.grant = admitted.grant;
                session.signer = admitted.signer;
                session.pop = pop;
                session.inner_v6
            }
            None => {
                let session = Session::new(accepted.peer, admitted, pop, deadline, now);
                let inner_v6 = session.inner_v6;
                self.by_link.insert(session.link(), accepted.peer);
                self.sessions.insert(accepted.peer, session);
                inner_v6
            }
        };
        self.set_deadline(accepted.peer, deadline);
        if is_known {
            // The newer grant may allow less than the one before.
            self.recheck(now, knowledge);
        }
        let response = Bounded::new(accepted.response.to_vec()).expect("a response has its length");
        Ok(Accept { intro: introduce.intro, response, inner_v4: policy::INNER_V4, inner_v6 })
    }

    /// A device has a WireGuard key for each process of its client. Of many the oldest goes: no device fills the
    /// connector.
    fn make_room_for(&mut self, now: Instant, wall: UnixMs, device: DeviceId) {
        let of_device: Vec<PeerId> = self
            .sessions
            .values()
            .filter(|session| session.grant.device == device)
            .map(|session| session.peer)
            .collect();
        if of_device.len() >= SESSIONS_PER_DEVICE
            && let Some(oldest) = of_device.into_iter().min()
        {
            self.end_session(now, wall, oldest, Refusal::SessionLost);
        }
    }

    /// Takes WireGuard messages that came by a path.
    pub fn handle_input(&mut self, now: Instant, path: Path, messages: &[&[u8]]) {
        self.tunnels.handle_batch(now, path, messages);
    }

    /// Where this machine stands: told to every client that changes by it.
    pub fn set_surroundings(&mut self, now: Instant, surroundings: Surroundings) {
        let at = |ip| SocketAddr::new(ip, surroundings.port);
        self.own_port = surroundings.local.iter().map(|local| at(local.ip)).collect();
        self.tunnels.set_surroundings(now, surroundings);
    }

    /// Every address that this machine has.
    pub fn set_own_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.own_addresses = addresses;
    }

    /// This machine may be in another network now.
    pub fn network_changed(&mut self, now: Instant) {
        self.tunnels.network_changed(now);
    }

    /// The PoP closed a channel, or our session to it ended.
    pub fn channel_closed(&mut self, now: Instant, pop: PopId, channel: ChannelId) {
        self.tunnels.drop_path(now, Path::relay(pop, channel));
    }

    /// Judges everybody and every flow again: a strike, a new slice, contact lost or found, time.
    pub fn recheck<R: Rules>(&mut self, now: Instant, knowledge: &Knowledge<'_, R>) {
        let faults: Vec<(PeerId, Refusal)> = self
            .sessions
            .values()
            .filter_map(|session| Some((session.peer, session.fault(knowledge)?)))
            .collect();
        for (peer, refusal) in faults {
            self.end_session(now, knowledge.wall, peer, refusal);
        }
        let mut rulings = BTreeMap::new();
        let faults: Vec<(FlowId, Refusal, String)> = self
            .active
            .iter()
            .filter_map(|(flow, active)| {
                let open = match active.stage {
                    Stage::Open { target } => Some(target),
                    Stage::Resolving { .. } | Stage::Dialling { .. } => None,
                };
                let Active { peer, wanted, target, .. } = active;
                let (refusal, explanation) =
                    self.flow_fault(knowledge, &mut rulings, (*peer, wanted), target, open)?;
                Some((*flow, refusal, explanation))
            })
            .collect();
        for (flow, refusal, explanation) in faults {
            let _ = self.flows.abort(now, flow);
            self.end_flow(flow, knowledge.wall, Verdict::Withdrawn, refusal.label(), &explanation);
            self.outputs.push_back(Output::Ended { flow, ending: Ending::Cut });
        }
        self.recheck_datagrams(now, knowledge, &mut rulings);
        self.recheck_passages(now, knowledge, &mut rulings);
        // The clocks may have moved apart since the grants were verified.
        let deadlines: Vec<(PeerId, Instant)> = self
            .sessions
            .values()
            .map(|session| (session.peer, now + session.grant.exp.since(knowledge.wall)))
            .collect();
        for (peer, deadline) in deadlines {
            self.set_deadline(peer, deadline);
        }
    }

    /// Ends everything: flows are reset and logged, peers forgotten. Drain once more after it.
    pub fn shut_down(&mut self, now: Instant, wall: UnixMs) {
        let peers: Vec<PeerId> = self.sessions.keys().copied().collect();
        for peer in peers {
            self.end_session(now, wall, peer, Refusal::ShuttingDown);
        }
    }

    /// Does what is due.
    pub fn handle_timeout<R: Rules>(&mut self, now: Instant, knowledge: &Knowledge<'_, R>) {
        self.end_overdue(now, knowledge);
        self.tunnels.handle_timeout(now);
        self.flows.handle_timeout(now);
        self.datagrams_due(now, knowledge.wall);
        self.passages_due(now, knowledge.wall);
    }

    fn end_overdue<R: Rules>(&mut self, now: Instant, knowledge: &Knowledge<'_, R>) {
        if self.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            self.recheck(now, knowledge);
        }
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output<R: Rules>(&mut self, now: Instant, knowledge: &Knowledge<'_, R>) -> Output {
        // Before anything that came in is carried on: it may have come too late.
        self.end_overdue(now, knowledge);
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            let tunnels = match self.tunnels.poll_output() {
                tunnel::Output::Transmit(transmit) => {
                    return Output::Transmit { path: transmit.path, bytes: transmit.bytes };
                }
                tunnel::Output::Inner { peer, packet } => {
                    self.inner_packet(now, knowledge, peer, &packet);
                    continue;
                }
                tunnel::Output::Bind { peer, message } => {
                    self.bind(now, knowledge.wall, peer, &message);
                    continue;
                }
                tunnel::Output::Event(event) => {
                    self.tunnel_event(now, knowledge.wall, event);
                    continue;
                }
                tunnel::Output::Timeout(timeout) => timeout,
            };
            let flows = match self.flows.poll_output() {
                flow::Output::Packet { link, bytes } => {
                    if let Some(peer) = self.by_link.get(&link).copied() {
                        // A full queue is a lossy link; TCP sends again.
                        let _ = self.tunnels.seal(now, peer, &bytes);
                    }
                    continue;
                }
                flow::Output::Event { link, flow, event } => {
                    self.flow_event(now, knowledge, link, flow, event);
                    continue;
                }
                flow::Output::Timeout(timeout) => timeout,
            };
            let tunnels = tunnels.map(|due| Timeout { at: due.at, reason: due.reason.label() });
            let flows = flows.map(|due| Timeout { at: due.at, reason: due.reason.label() });
            let grants = self.deadlines.first().map(|(at, _)| Timeout { at: *at, reason: "grant_end" });
            let datagrams = self.datagrams.deadline().map(|at| Timeout { at, reason: "idle_datagrams" });
            let passages = self.passages.deadline().map(|at| Timeout { at, reason: "idle_passages" });
            let all = [tunnels, flows, grants, datagrams, passages];
            return Output::Timeout(all.into_iter().flatten().min_by_key(|due| due.at));
        }
    }

    // ---- below: details --------------------------------------------------------------------------

    fn set_deadline(&mut self, peer: PeerId, deadline: Instant) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            self.deadlines.remove(&(session.deadline, peer));
            session.deadline = deadline;
            self.deadlines.insert((deadline, peer));
        }
    }

    fn tunnel_event(&mut self, now: Instant, wall: UnixMs, event: tunnel::Event) {
        match event {
            tunnel::Event::Proven { peer, replaced, .. } => {
                if replaced.is_some() {
                    // What was sent by the way before may be lost: it does not wait for its timers.
                    self.flows.link_moved(now, LinkId(peer.number()));
                }
                self.close_channels(replaced);
            }
            tunnel::Event::Unused { path, .. } => self.close_channels(Some(path)),
            tunnel::Event::Removed { peer, .. } => self.end_session(now, wall, peer, Refusal::SessionLost),
            tunnel::Event::Moved { peer, path, reason } => {
                self.flows.link_moved(now, LinkId(peer.number()));
                match path {
                    Some(Path::Direct { .. }) => self.status.moves.to_direct += 1,
                    _ => self.status.moves.to_relay += 1,
                }
                tracing::debug!(?path, reason = reason.label(), "packets take another way");
            }
            tunnel::Event::Mtu { peer, mtu } => {
                self.flows.set_link_mtu(now, LinkId(peer.number()), mtu);
                self.datagrams.set_link_mtu(LinkId(peer.number()), mtu);
            }
            // A connector asks nobody.
            tunnel::Event::Pong { .. } => {}
            tunnel::Event::Quiet { .. } => self.outputs.push_back(Output::RelayQuiet),
            // The client opens again when its path is gone; until then its flows wait.
            tunnel::Event::Unanswered { .. } | tunnel::Event::GaveUp { .. } => {}
        }
    }

    /// Ends a device's access here: its flows, its tunnel, its addresses, its channels.
    fn end_session(&mut self, now: Instant, wall: UnixMs, peer: PeerId, refusal: Refusal) {
        let Some(session) = self.sessions.get(&peer) else {
            return;
        };
        let (link, deadline) = (session.link(), session.deadline);
        let (flows, datagrams) = (session.flows.clone(), session.datagrams.clone());
        for id in session.passages.clone() {
            let how = (wall, Verdict::Withdrawn);
            self.cut_passage(now, id, how, refusal.label(), &refusal.to_string());
        }
        for id in datagrams {
            self.end_datagrams(id, wall, Verdict::Withdrawn, refusal.label(), &refusal.to_string());
        }
        for flow in flows {
            let _ = self.flows.abort(now, flow);
            self.end_flow(flow, wall, Verdict::Withdrawn, refusal.label(), &refusal.to_string());
            self.outputs.push_back(Output::Ended { flow, ending: Ending::Cut });
        }
        // The resets go out before the tunnel ends, so that the client's programs learn of it at once.
        for reset in self.flows.take_packets(link) {
            let _ = self.tunnels.seal(now, peer, &reset);
        }
        self.flows.drop_link(link);
        self.datagrams.drop_link(link);
        self.sessions.remove(&peer);
        self.by_link.remove(&link);
        self.deadlines.remove(&(deadline, peer));
        let (paths, last) = self.tunnels.remove(peer);
        self.outputs
            .extend(last.into_iter().map(|sent| Output::Transmit { path: sent.path, bytes: sent.bytes }));
        for path in paths {
            self.close_channels(Some(path));
        }
    }

    fn close_channels(&mut self, path: Option<Path>) {
        if let Some(Path::Relay { pop, channel }) = path {
            self.outputs.push_back(Output::ToPop { pop, message: FromAgent::from(CloseChannel { channel }) });
        }
    }

    /// The part of a record that is the same for every flow of a device.
    fn record(
        &mut self,
        peer: PeerId,
        wanted: &Wanted,
        wall: UnixMs,
        verdict: Verdict,
        reason: &str,
        explanation: &str,
    ) -> Option<FlowRecord> {
        let session = self.sessions.get(&peer)?;
        let grant = &session.grant;
        self.next_record += 1;
        Some(FlowRecord {
            id: format!("{}-{}", self.run, self.next_record),
            organization: grant.organization,
            connector: self.doorkeeper.connector,
            device: grant.device,
            device_name: grant.device_name.clone(),
            owner: grant.owner,
            owner_name: grant.owner_name.clone(),
            resource: None,
            resource_name: None,
            protocol: wanted.protocol.label().to_owned(),
            destination: wanted.address,
            name: wanted.meaning.as_ref().and_then(|meaning| meaning.name()).map(ToString::to_string),
            target: None,
            relay: match self.tunnels.way_of(peer) {
                Some(Path::Direct { .. }) => None,
                _ => Some(session.pop),
            },
            verdict,
            reason: reason.to_owned(),
            explanation: explanation.to_owned(),
            bytes_up: 0,
            bytes_down: 0,
            started: wall,
            ended: wall,
        })
    }

    fn log(&mut self, record: Option<FlowRecord>) {
        self.outputs.extend(record.map(|record| Output::Record(Box::new(record))));
    }
}
