//! The whole client without its sockets: the agent that is attached to PoPs, and the tunnels it opens.

use super::{
    ClientCore, DialFault, DialId, Ending, LinkReport, OpenToken, Output, PacketDrop, PingReport, PingToken,
    Timeout, address_changes::AddressChanges,
};
use crate::target::{Host, Target};
use agent::{
    AgentEvent, ClientAgent, OpenError, Output as AgentOutput, Persisted, RelayInput, RelayLinks,
    RequestError, RequestSeq, StartError, StoredState,
};
use flow::{FlowError, FlowId, Read};
use policy::ClientSlice;
use session::{CloseCode, LostReason, SessionId};
use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{SliceVersion, UnixMs};
use tunnel::{Candidate, LocalAddress, Path, Surroundings, Traffic, WireGuardPrivateKey};
use wire::{ChannelId, ControlReply, ControlRequest, DatagramKind, PopId, Refusal, classify};

/// The body of a slice, shared with whoever shows it.
pub type SharedSlice = Arc<ClientSlice>;

/// What a node is made of.
#[derive(Debug)]
pub struct NodeParts {
    /// What the state directory holds.
    pub state: StoredState,
    /// The WireGuard key of this run.
    pub wireguard_key: WireGuardPrivateKey,
    /// Randomness for everything that has no key.
    pub seed: [u8; 32],
}

/// Why a node did not start.
pub type Unstartable = StartError;

/// What the node wants done.
#[derive(Debug)]
pub enum NodeOutput {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Give this packet to the machine's own stack.
    Packet(Vec<u8>),
    /// Write this to the state directory, atomically.
    Persist {
        /// Which document.
        what: Persisted,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Look up `HOST:PORT` and answer by [`ClientNode::handle_resolved`].
    Resolve {
        /// Whose address.
        pop: PopId,
        /// What to look up.
        name: String,
    },
    /// Something happened.
    Event(NodeEvent),
    /// Nothing more until then, or until something comes in.
    Timeout(Timeout),
}

/// Something that somebody waits for.
#[derive(Debug)]
pub enum NodeEvent {
    /// A dial came to its end.
    Dialled {
        /// Which.
        dial: DialId,
        /// The flow, or why there is none.
        result: Result<FlowId, DialFault>,
    },
    /// A ping came to its end.
    Pinged {
        /// Which.
        token: PingToken,
        /// How long it took, or why there is no way.
        result: Result<PingReport, DialFault>,
    },
    /// There is something to read.
    Readable(FlowId),
    /// There is room to write again.
    Writable(FlowId),
    /// The flow is over.
    Ended {
        /// Which.
        flow: FlowId,
        /// How.
        ending: Ending,
    },
    /// A controller answered, or nobody did.
    Answered {
        /// The request.
        request: RequestSeq,
        /// The answer.
        result: Result<ControlReply, Refusal>,
    },
    /// Something that `status` shows is different.
    Changed,
}

/// How often sessions that nothing goes through are looked for.
const TIDY: Duration = Duration::from_secs(60);

/// See the module.
pub struct ClientNode {
    agent: ClientAgent,
    core: ClientCore,
    relay: RelayLinks,
    /// Which PoP a session is to, and since when `Registered` said so.
    sessions: BTreeMap<SessionId, PopId>,
    paths: BTreeMap<ChannelId, Path>,
    tokens: BTreeMap<u64, OpenToken>,
    slice_version: Option<SliceVersion>,
    /// When sessions that nothing goes through are looked for.
    tidy_at: Instant,
    /// Where this machine stands; `observed` is put together from the sessions.
    around: Surroundings,
    observed: BTreeMap<SessionId, SocketAddr>,
    changes: AddressChanges,
    outputs: VecDeque<NodeOutput>,
}

impl ClientNode {
    /// Starts from what is on disk; nobody is needed for it.
    ///
    /// # Errors
    /// What of the stored state cannot be used.
    pub fn new(parts: NodeParts, now: Instant, wall: UnixMs) -> Result<Self, Unstartable> {
        let identity = parts.state.identity_key.clone();
        let agent = ClientAgent::new(parts.state, now, wall, parts.seed)?;
        let seed = trust::sha256(&[b"tidegate/client-seed/1", &parts.seed]);
        let seed = u64::from_be_bytes(*seed.first_chunk().expect("32 bytes hold 8"));
        let core = ClientCore::new(identity, &parts.wireguard_key, seed, now);
        let mut node = Self {
            agent,
            core,
            relay: RelayLinks::new(),
            sessions: BTreeMap::new(),
            paths: BTreeMap::new(),
            tokens: BTreeMap::new(),
            slice_version: None,
            tidy_at: now + TIDY,
            around: Surroundings::default(),
            observed: BTreeMap::new(),
            changes: AddressChanges::default(),
            outputs: VecDeque::new(),
        };
        node.take_grant(now);
        node.take_slice(now);
        node.settle(now);
        Ok(node)
    }

    /// The agent, for what `status` shows.
    #[must_use]
    pub const fn agent(&self) -> &ClientAgent {
        &self.agent
    }

    /// The slice in use.
    #[must_use]
    pub const fn slice(&self) -> &SharedSlice {
        self.core.slice()
    }

    /// How connectors are reached.
    #[must_use]
    pub fn links(&self) -> Vec<LinkReport> {
        self.core.links().collect()
    }

    /// How often packets took another way.
    #[must_use]
    pub const fn moves(&self) -> super::Moves {
        self.core.moves()
    }

    /// The machine's wall clock, about once a second.
    pub fn set_wall(&mut self, now: Instant, wall: UnixMs) {
        self.agent.set_wall(now, wall);
    }

    /// The machine's own addresses, and the port that everything leaves by.
    pub fn set_local(&mut self, now: Instant, port: u16, local: Vec<LocalAddress>) {
        self.around.port = port;
        self.around.local = local;
        self.tell_surroundings(now);
    }

    /// What routers map to this machine's port.
    pub fn set_mapped(&mut self, now: Instant, mapped: Vec<SocketAddr>) {
        self.around.mapped = mapped;
        self.tell_surroundings(now);
    }

    /// Whether a PoP sees this machine under an address that is none of its own: then there is a NAT, and a router to
    /// ask for a mapping.
    #[must_use]
    pub fn is_behind_nat(&self) -> bool {
        self.observed.values().any(|seen| {
            let ip = seen.ip();
            !wire::is_stream_address(*seen)
                && !ip.is_loopback()
                && self.around.local.iter().all(|local| local.ip != ip)
        })
    }

    /// The machine may be in another network: sessions and paths are asked before they are relied on.
    pub fn network_changed(&mut self, now: Instant) {
        self.agent.network_changed(now);
        self.core.network_changed(now);
        self.settle(now);
    }

    /// Somebody asks how fresh the control plane's word is: if it is older than it may be, PoPs are asked for their
    /// newest beacon. Says whether an answer is on its way, which [`Agent::awaits_pop`](agent::Agent::awaits_pop) ends.
    pub fn ask_beacon(&mut self, now: Instant) -> agent::Asked {
        let asked = self.agent.ask_beacon(now);
        if asked == agent::Asked::Yes {
            self.agent.handle_timeout(now);
            self.settle(now);
        }
        asked
    }

    /// The machine was asleep, and `now` counts it: it may have woken up in another network, too.
    pub fn resumed(&mut self, now: Instant) {
        self.agent.resumed(now);
        self.core.network_changed(now);
        self.settle(now);
    }

    fn tell_surroundings(&mut self, now: Instant) {
        let mut around = self.around.clone();
        around.observed = self.observed.values().copied().collect();
        around.observed.sort_unstable();
        around.observed.dedup();
        self.core.set_surroundings(now, around);
        self.settle(now);
    }

    /// Takes datagrams as they came from the socket, in order.
    pub fn handle_input<'a>(
        &mut self,
        now: Instant,
        datagrams: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) {
        let mut run: Vec<&[u8]> = Vec::new();
        let mut of: Option<Path> = None;
        for (from, datagram) in datagrams {
            match classify(datagram) {
                DatagramKind::Quic => self.agent.handle_input(now, from, datagram),
                DatagramKind::Relay => match self.relay.handle_input(from, datagram) {
                    Ok(RelayInput::Data { channel, packet }) => {
                        let Some(path) = self.paths.get(&channel).copied() else { continue };
                        if of != Some(path) {
                            if let Some(path) = of.replace(path) {
                                self.core.handle_input(now, path, &run);
                            }
                            run.clear();
                        }
                        run.push(packet);
                    }
                    Ok(RelayInput::Answer { channel, to, payload }) => {
                        self.outputs.push_back(NodeOutput::Transmit { to, payload });
                        if let Some(path) = self.paths.get(&channel).copied() {
                            self.core.asked_about(now, path);
                        }
                    }
                    Err(refused) => tracing::trace!(reason = refused.label(), "a relay frame was dropped"),
                },
                DatagramKind::WireGuard => {
                    let path = Path::direct(from);
                    if of != Some(path) {
                        if let Some(path) = of.replace(path) {
                            self.core.handle_input(now, path, &run);
                        }
                        run.clear();
                    }
                    run.push(datagram);
                }
                DatagramKind::Stun | DatagramKind::Foreign => {}
            }
        }
        if let Some(path) = of {
            self.core.handle_input(now, path, &run);
        }
        self.settle(now);
    }

    /// The answer to [`NodeOutput::Resolve`].
    pub fn handle_resolved(&mut self, now: Instant, pop: PopId, addresses: Vec<SocketAddr>) {
        self.agent.handle_resolved(now, pop, addresses);
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        if now >= self.tidy_at {
            self.tidy_at = now + TIDY;
            self.agent.close_unused(now, &self.relay.sessions());
        }
        self.core.handle_timeout(now);
        self.settle(now);
    }

    /// Takes packets of the machine's own stack, in order; `pool` says which names their addresses stand for.
    pub fn handle_packets<'a>(
        &mut self,
        now: Instant,
        pool: &mut dns::Pool,
        packets: impl Iterator<Item = &'a [u8]>,
    ) {
        for packet in packets {
            self.core.handle_packet(now, pool, packet);
        }
        self.settle(now);
    }

    /// What of the machine's packets went nowhere, by reason.
    pub fn packet_drops(&self) -> impl Iterator<Item = (PacketDrop, u64)> {
        self.core.packet_drops()
    }

    /// Begins a connection; [`NodeEvent::Dialled`] follows.
    pub fn dial(&mut self, now: Instant, target: &Target) -> DialId {
        let dial = self.core.dial(now, target);
        self.settle(now);
        dial
    }

    /// Asks the connector of a resource for an answer; [`NodeEvent::Pinged`] follows.
    pub fn ping(&mut self, now: Instant, host: &Host) -> PingToken {
        let token = self.core.ping(now, host);
        self.settle(now);
        token
    }

    /// What went and came by each kind of path.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.core.traffic()
    }

    /// What this machine tells its peers about where it is.
    #[must_use]
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut around = self.around.clone();
        around.observed = self.observed.values().copied().collect();
        around.candidates()
    }

    /// How often in the last minute PoPs have seen this device at another address than before.
    #[must_use]
    pub fn address_changes(&self, now: Instant) -> usize {
        self.changes.in_a_minute(now)
    }

    /// The addresses of this machine's interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = IpAddr> {
        self.around.local.iter().map(|local| local.ip)
    }

    /// Nobody waits for this dial any more.
    pub fn cancel(&mut self, now: Instant, dial: DialId) {
        self.core.cancel(now, dial);
        self.settle(now);
    }

    /// Reads what came in on a flow. Call [`Self::flush`] after a batch.
    ///
    /// # Errors
    /// The flow is over.
    pub fn read(&mut self, now: Instant, flow: FlowId, buffer: &mut [u8]) -> Result<Read, FlowError> {
        self.core.read(now, flow, buffer)
    }

    /// Writes what fits. Call [`Self::flush`] after a batch.
    ///
    /// # Errors
    /// The flow is over.
    pub fn write(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> Result<usize, FlowError> {
        self.core.write(now, flow, data)
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// The flow is over.
    pub fn shutdown_write(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowError> {
        self.core.shutdown_write(now, flow)
    }

    /// Ends a flow at once.
    pub fn abort(&mut self, now: Instant, flow: FlowId) {
        self.core.abort(now, flow);
    }

    /// Sends what reads and writes caused.
    pub fn flush(&mut self, now: Instant) {
        self.core.flush(now);
        self.settle(now);
    }

    /// Asks a controller; [`NodeEvent::Answered`] follows.
    ///
    /// # Errors
    /// Too much is asked at once.
    pub fn request(&mut self, now: Instant, request: ControlRequest) -> Result<RequestSeq, RequestError> {
        let request = self.agent.request(now, request)?;
        self.settle(now);
        Ok(request)
    }

    /// Asks for a new grant and certificate now.
    pub fn force_renew(&mut self, now: Instant) {
        self.agent.force_renew(now);
        self.settle(now);
    }

    /// Ends every session; poll a last time afterwards.
    pub fn shutdown(&mut self, now: Instant) {
        self.agent.shutdown(now);
        self.settle(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now: Instant) -> NodeOutput {
        // The agent may have something of its own, such as a packet that QUIC repeats.
        if self.outputs.is_empty() {
            self.settle(now);
        }
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        let own = match self.core.poll_output() {
            Output::Timeout(timeout) => timeout,
            // `settle` took everything.
            _ => Some(Timeout { at: now, reason: "an output that was not taken" }),
        };
        let agent = match self.agent.poll_output(now) {
            AgentOutput::Timeout { at, reason } => Timeout { at, reason },
            _ => Timeout { at: now, reason: "an output that was not taken" },
        };
        NodeOutput::Timeout(match own {
            Some(own) if own.at < agent.at => own,
            _ => agent,
        })
    }

    /// Carries outputs between agent and core until both only wait.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut moved = false;
            loop {
                match self.agent.poll_output(now) {
                    AgentOutput::Transmit { to, payload } => {
                        self.outputs.push_back(NodeOutput::Transmit { to, payload });
                    }
                    AgentOutput::Persist { what, bytes } => {
                        self.outputs.push_back(NodeOutput::Persist { what, bytes });
                    }
                    AgentOutput::Resolve { pop, name } => {
                        self.outputs.push_back(NodeOutput::Resolve { pop, name });
                    }
                    AgentOutput::Event(event) => {
                        moved = true;
                        self.agent_event(now, event);
                    }
                    AgentOutput::Timeout { .. } => break,
                }
            }
            loop {
                match self.core.poll_output() {
                    Output::Timeout(_) => break,
                    output => {
                        moved = true;
                        self.core_output(now, output);
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn tell(&mut self, event: NodeEvent) {
        self.outputs.push_back(NodeOutput::Event(event));
    }

    fn core_output(&mut self, now: Instant, output: Output) {
        match output {
            Output::Open { token, connector, site, sealed, initiation } => {
                match self.agent.open(now, site, connector, sealed, initiation) {
                    Ok(seq) => {
                        self.tokens.insert(seq, token);
                    }
                    Err(error) => {
                        let reason = match error {
                            OpenError::NoPop => Refusal::NotAttached,
                            OpenError::Full => Refusal::Full,
                            OpenError::TooLong => Refusal::Malformed,
                        };
                        self.core.open_refused(now, token, reason, Duration::from_secs(1));
                    }
                }
            }
            Output::GiveBack(Path::Relay { channel, .. }) => {
                self.paths.remove(&channel);
                if let Some(session) = self.relay.remove(channel) {
                    self.agent.close_channel(now, session, channel);
                }
            }
            Output::Transmit { path: Path::Relay { channel, .. }, bytes } => {
                // Without an address the channel was lost a moment ago: the packet is, too.
                if let Some(to) = self.relay.pop_of(channel) {
                    self.outputs.push_back(NodeOutput::Transmit { to, payload: bytes });
                }
            }
            Output::Transmit { path: Path::Direct { remote }, bytes } => {
                self.outputs.push_back(NodeOutput::Transmit { to: remote, payload: bytes });
            }
            Output::Packet(bytes) => self.outputs.push_back(NodeOutput::Packet(bytes)),
            Output::RelayQuiet(_) => self.agent.probe(now),
            Output::Pinged { token, result } => self.tell(NodeEvent::Pinged { token, result }),
            Output::Dialled { dial, result } => self.tell(NodeEvent::Dialled { dial, result }),
            Output::Readable(flow) => self.tell(NodeEvent::Readable(flow)),
            Output::Writable(flow) => self.tell(NodeEvent::Writable(flow)),
            Output::Ended { flow, ending } => self.tell(NodeEvent::Ended { flow, ending }),
            // Paths of a kind that this version does not make.
            Output::GiveBack(_) | Output::Transmit { .. } | Output::Timeout(_) => {}
        }
    }

    fn agent_event(&mut self, now: Instant, event: AgentEvent) {
        match event {
            AgentEvent::Registered { session, pop, observed } => {
                self.sessions.insert(session, pop);
                self.changes.seen(now, observed);
                self.observed.insert(session, observed);
                self.tell_surroundings(now);
                self.tell(NodeEvent::Changed);
            }
            AgentEvent::ObservedChanged { session, observed, .. } => {
                self.changes.seen(now, observed);
                self.observed.insert(session, observed);
                self.tell_surroundings(now);
                // Told from the new address, so that the PoP challenges it there.
                for (to, payload) in self.relay.hellos(session) {
                    self.outputs.push_back(NodeOutput::Transmit { to, payload });
                }
            }
            AgentEvent::Switched { from, to, relay, .. } => {
                self.relay.move_session(from, to, relay);
                for (to, payload) in self.relay.hellos(to) {
                    self.outputs.push_back(NodeOutput::Transmit { to, payload });
                }
                self.tell(NodeEvent::Changed);
            }
            AgentEvent::Doubted { session, .. } => {
                for channel in self.relay.channels_of(session) {
                    if let Some(path) = self.paths.get(&channel) {
                        self.core.path_doubted(now, *path);
                    }
                }
            }
            AgentEvent::Lost { session, reason, .. } => {
                self.sessions.remove(&session);
                self.observed.remove(&session);
                self.tell_surroundings(now);
                // A revoked device's flows end now, not when their peers fall silent. A PoP that only says so
                // can end no more than it could by dropping the packets.
                let refusal = match reason {
                    LostReason::ClosedByPeer(CloseCode::Struck) => Refusal::Struck,
                    _ => Refusal::SessionLost,
                };
                for channel in self.relay.remove_session(session) {
                    if let Some(path) = self.paths.remove(&channel) {
                        self.core.path_lost(now, path, refusal);
                    }
                }
                self.tell(NodeEvent::Changed);
            }
            AgentEvent::Opened { session, relay, opened } => self.opened(now, session, relay, &opened),
            AgentEvent::OpenRefused { seq, reason, retry_after_ms } => {
                if let Some(token) = self.tokens.remove(&seq) {
                    let after = Duration::from_millis(retry_after_ms.into());
                    self.core.open_refused(now, token, reason, after);
                }
            }
            AgentEvent::ChannelClosed { channel, reason, .. } => {
                self.relay.remove(channel);
                if let Some(path) = self.paths.remove(&channel) {
                    self.core.path_lost(now, path, reason);
                }
            }
            AgentEvent::ControlReply { seq, reply } => {
                self.tell(NodeEvent::Answered { request: seq, result: Ok(reply) });
            }
            AgentEvent::RequestFailed { seq, reason, .. } => {
                self.tell(NodeEvent::Answered { request: seq, result: Err(reason) });
            }
            AgentEvent::GrantChanged => {
                self.take_grant(now);
                self.tell(NodeEvent::Changed);
            }
            AgentEvent::SliceChanged => {
                self.take_slice(now);
                if self.gives_more_than_the_grant_shows() {
                    self.agent.want_grant(now);
                }
                self.tell(NodeEvent::Changed);
            }
            AgentEvent::BundleChanged => {
                // A key was taken away: what it signed leads nowhere any more until there is something newer.
                if self.agent.grant().is_none() {
                    self.core.clear_grant();
                }
                if self.agent.slice().is_none() {
                    self.slice_version = None;
                    self.core.set_slice(now, Arc::new(super::no_slice()));
                }
                self.tell(NodeEvent::Changed);
            }
            AgentEvent::RevocationsChanged | AgentEvent::TimeAnchored | AgentEvent::FreshnessChanged(_) => {
                self.tell(NodeEvent::Changed);
            }
            // Nobody is introduced to a client.
            AgentEvent::Introduce { .. } => {}
        }
    }

    fn opened(&mut self, now: Instant, session: SessionId, relay: SocketAddr, opened: &wire::Opened) {
        let token = self.tokens.remove(&opened.seq);
        let pop = self.sessions.get(&session).copied();
        let (Some(token), Some(pop)) = (token, pop) else {
            return self.agent.close_channel(now, session, opened.channel);
        };
        if !self.relay.insert(opened.channel, session, relay, opened.secret.clone()) {
            self.agent.close_channel(now, session, opened.channel);
            return self.core.open_refused(now, token, Refusal::Full, Duration::from_secs(1));
        }
        let path = Path::relay(pop, opened.channel);
        self.paths.insert(opened.channel, path);
        let inner = (opened.inner_v4, opened.inner_v6);
        self.core.opened(now, token, path, opened.response.as_slice(), inner);
        self.core.introduced_from(now, path, opened.connector_seen);
    }

    fn take_grant(&mut self, now: Instant) {
        if let Some(text) = self.agent.grant_text() {
            self.core.set_grant(now, text);
        }
    }

    /// Whether the slice has a resource by groups alone that the grant does not name.
    fn gives_more_than_the_grant_shows(&self) -> bool {
        let (Some(slice), Some(grant)) = (self.agent.slice(), self.agent.grant()) else { return false };
        let is_shown = |group| grant.groups.iter().any(|shown| shown.id == group);
        slice
            .body
            .resources
            .iter()
            .any(|resource| !resource.allow.is_empty() && !resource.allow.iter().any(|by| is_shown(by.group)))
    }

    fn take_slice(&mut self, now: Instant) {
        let Some(slice) = self.agent.slice() else { return };
        if self.slice_version != Some(slice.header.version) {
            self.slice_version = Some(slice.header.version);
            self.core.set_slice(now, Arc::new(slice.body.clone()));
        }
    }
}
