//! The whole connector without its sockets: the agent core, the relay channels, the deciding core and the
//! shipping of the flow log, tied together. Sans-IO like its parts.

use crate::core::{
    ConnectorCore, Contact, CoreStatus, DatagramNews, DatagramRequest, DialFault, Ending, Knowledge,
    Output as CoreOutput, PassageId, SliceRules, TimeWord,
};
use crate::record::FlowRecord;
use crate::ship::{Shipper, Step};
use crate::status::StrictState;
use crate::tell::{Teller, Way};
use agent::{
    AgentEvent, ConnectorAgent, Freshness, Output as AgentOutput, Persisted, RelayInput, RelayLinks,
    RequestSeq, Transport,
};
use flow::FlowId;
use session::SessionId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use trust::UnixMs;
use tunnel::{LocalAddress, Path, Surroundings};
use wire::{
    Bounded, ChannelId, ControlReply, ControlRequest, DatagramKind, DeviceId, FromAgent, PopId, Refusal,
    Refuse, ShipFlows, classify,
};

/// How long running flows of strict resources go on in isolation (architecture: 15 min by default).
const STRICT_GRACE: Duration = Duration::from_secs(15 * 60);

/// How often sessions that nothing goes through are looked for.
const TIDY: Duration = Duration::from_secs(60);
/// The wall clock moved further than the other one by more than this: everybody is judged again.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// One thing for the shell to do.
#[derive(Debug)]
pub enum Output {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// Write a document to the state directory.
    Persist {
        /// Which.
        what: Persisted,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// Look up a PoP's `HOST:PORT`.
    ResolvePop {
        /// Whose.
        pop: PopId,
        /// What to look up.
        name: String,
    },
    /// Resolve a name in the site.
    Resolve {
        /// For which flow.
        flow: FlowId,
        /// The name.
        host: String,
    },
    /// Connect to a target.
    Dial {
        /// For which flow.
        flow: FlowId,
        /// To one of these.
        addresses: Vec<SocketAddr>,
    },
    /// Move what a client sent.
    Readable(FlowId),
    /// Move what a target sent.
    Writable(FlowId),
    /// Drop the connection to a target.
    Ended {
        /// Of which flow.
        flow: FlowId,
        /// How it ended.
        ending: Ending,
    },
    /// Something of a UDP or ICMP conversation; [`Node::datagram_news`] takes what becomes of it.
    Datagrams(DatagramRequest),
    /// Resolve a name in the site for a passage; [`Node::passage_resolved`] takes the answer.
    ResolvePassage {
        /// For which.
        passage: PassageId,
        /// The name.
        host: String,
    },
    /// Hand a packet to this machine's kernel.
    ToSite(Vec<u8>),
    /// Put a record into the spool.
    Record {
        /// The record.
        record: Box<FlowRecord>,
        /// Its time.
        wall: UnixMs,
    },
    /// Read the oldest batch from the spool, then call [`Node::batch_read`].
    ReadBatch,
    /// A controller has a batch.
    ForgetBatch(u64),
    /// Nothing more before `at`.
    Timeout {
        /// When to call [`Node::handle_timeout`].
        at: Instant,
        /// Why.
        reason: &'static str,
    },
}

/// See the module.
pub struct Node {
    agent: ConnectorAgent,
    core: ConnectorCore,
    links: RelayLinks,
    /// Registered sessions: which PoP each is to.
    pops: BTreeMap<SessionId, PopId>,
    /// Channels: through which PoP each goes.
    channels: BTreeMap<ChannelId, PopId>,
    /// Introductions under way: which channel each would take.
    introductions: BTreeMap<(PopId, u64), ChannelId>,
    shipper: Shipper,
    shipping: Option<RequestSeq>,
    teller: Teller,
    telling: Option<RequestSeq>,
    /// Another number in each connector: what all would do in the same moment is spread by it.
    spread: u64,
    isolated_since: Option<Instant>,
    recheck_at: Option<Instant>,
    /// When sessions that nothing goes through are looked for.
    tidy_at: Instant,
    /// Where this machine stands; `observed` is put together from the sessions.
    around: Surroundings,
    observed: BTreeMap<SessionId, SocketAddr>,
    core_due: Option<(Instant, &'static str)>,
    out: VecDeque<Output>,
    stats: NodeStats,
}

/// What went no further before it reached a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct NodeStats {
    /// Datagrams of nobody.
    pub foreign_datagrams: u64,
    /// Relay frames that were dropped.
    pub relay_frames_refused: u64,
}

fn rules(agent: &ConnectorAgent, wall: UnixMs) -> Option<SliceRules<'_>> {
    agent.slice().filter(|slice| slice.header.exp > wall).map(|slice| SliceRules(&slice.body))
}

fn knowledge<'a>(
    agent: &'a ConnectorAgent,
    rules: Option<&'a SliceRules<'a>>,
    wall: UnixMs,
    contact: Contact,
) -> Knowledge<'a, SliceRules<'a>> {
    let time = if agent.is_settling() { TimeWord::Awaited } else { TimeWord::Known };
    Knowledge { bundle: agent.bundle(), revocations: agent.revocations(), rules, wall, time, contact }
}

impl Node {
    /// A connector that nobody has reached yet.
    pub fn new(agent: ConnectorAgent, core: ConnectorCore, now: Instant) -> Self {
        let id = trust::sha256(&[agent.identity().to_string().as_bytes()]);
        let mut node = Self {
            spread: id.iter().take(4).fold(0, |all, byte| all << 8 | u64::from(*byte)),
            agent,
            core,
            links: RelayLinks::new(),
            pops: BTreeMap::new(),
            channels: BTreeMap::new(),
            introductions: BTreeMap::new(),
            shipper: Shipper::new(now),
            shipping: None,
            teller: Teller::new(now),
            telling: None,
            // Nobody was heard yet.
            isolated_since: Some(now),
            recheck_at: None,
            tidy_at: now + TIDY,
            around: Surroundings::default(),
            observed: BTreeMap::new(),
            core_due: None,
            out: VecDeque::new(),
            stats: NodeStats::default(),
        };
        node.plan_recheck(now);
        node
    }

    /// The agent.
    pub const fn agent(&self) -> &ConnectorAgent {
        &self.agent
    }

    /// The core, for moving bytes.
    pub const fn core(&mut self) -> &mut ConnectorCore {
        &mut self.core
    }

    /// By which way packets to each session go.
    pub fn ways(&self) -> impl Iterator<Item = Path> {
        self.core.ways()
    }

    /// What went by each kind of path.
    pub fn traffic(&self) -> crate::status::TrafficReport {
        self.core.traffic()
    }

    /// What people may see of the core.
    pub fn core_status(&self) -> CoreStatus {
        self.core.status()
    }

    /// What went no further before it reached a core.
    pub const fn stats(&self) -> NodeStats {
        self.stats
    }

    /// Batches of flow records that a controller has.
    pub const fn batches_shipped(&self) -> u64 {
        self.shipper.shipped()
    }

    /// The time, as far as it is known.
    pub fn wall(&self, now: Instant) -> UnixMs {
        self.agent.wall(now)
    }

    /// The machine's wall clock, about once a second. Ways are looked at then: nobody has to wake up for it.
    pub fn set_wall(&mut self, now: Instant, wall: UnixMs) {
        self.tell_ways(now);
        let before = self.agent.wall(now);
        self.agent.set_wall(now, wall);
        // A step of the clock, or a machine that slept: what ends by the wall clock may have ended.
        if self.agent.wall(now).since(before) > CLOCK_STEP {
            self.recheck(now);
        }
    }

    /// The machine was asleep, and `now` counts it: what ended meanwhile ends now.
    pub fn resumed(&mut self, now: Instant) {
        self.agent.resumed(now);
        self.core.network_changed(now);
        self.recheck(now);
    }

    /// What isolation does to strict resources now.
    pub fn strict(&self, now: Instant) -> StrictState {
        match self.contact(now) {
            Contact::Connected => StrictState::Open,
            Contact::Isolated => StrictState::NoNewFlows,
            Contact::IsolatedBeyondGrace => StrictState::Closed,
        }
    }

    /// When strict resources close to what runs too.
    pub fn strict_closes_at(&self, now: Instant) -> Option<Instant> {
        self.isolated_since.map(|since| since + STRICT_GRACE).filter(|at| *at > now)
    }

    fn contact(&self, now: Instant) -> Contact {
        match self.isolated_since {
            None => Contact::Connected,
            Some(since) if now < since + STRICT_GRACE => Contact::Isolated,
            Some(_) => Contact::IsolatedBeyondGrace,
        }
    }

    /// Calls the core with what is known now.
    fn with_core<T>(
        &mut self,
        now: Instant,
        call: impl FnOnce(&mut ConnectorCore, &Knowledge<'_, SliceRules<'_>>) -> T,
    ) -> T {
        let (wall, contact) = (self.agent.wall(now), self.contact(now));
        let rules = rules(&self.agent, wall);
        call(&mut self.core, &knowledge(&self.agent, rules.as_ref(), wall, contact))
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
    }
    fn tell_surroundings(&mut self, now: Instant) {
        let mut around = self.around.clone();
        around.observed = self.observed.values().copied().collect();
        around.observed.sort_unstable();
        around.observed.dedup();
        self.core.set_surroundings(now, around);
    }

    /// Takes datagrams in the order they came. Packets that follow each other on one channel go on as one
    /// batch.
    pub fn handle_datagrams<'d>(
        &mut self,
        now: Instant,
        datagrams: impl Iterator<Item = (SocketAddr, &'d [u8])>,
        answers: &mut Vec<(SocketAddr, Vec<u8>)>,
    ) {
        let mut run: Vec<&[u8]> = Vec::new();
        let mut of: Option<Path> = None;
        for (from, datagram) in datagrams {
            match classify(datagram) {
                DatagramKind::Quic => self.agent.handle_input(now, from, datagram),
                DatagramKind::Relay => match self.links.handle_input(from, datagram) {
                    Ok(RelayInput::Data { channel, packet }) => {
                        let next = self.channels.get(&channel).map(|pop| Path::relay(*pop, channel));
                        if next != of {
                            Self::flush(&mut self.core, now, of, &mut run);
                            of = next;
                        }
                        run.push(packet);
                    }
                    Ok(RelayInput::Answer { to, payload, .. }) => answers.push((to, payload)),
                    Err(_) => self.stats.relay_frames_refused += 1,
                },
                DatagramKind::WireGuard => {
                    let next = Some(Path::direct(from));
                    if next != of {
                        Self::flush(&mut self.core, now, of, &mut run);
                        of = next;
                    }
                    run.push(datagram);
                }
                DatagramKind::Stun | DatagramKind::Foreign => self.stats.foreign_datagrams += 1,
            }
        }
        Self::flush(&mut self.core, now, of, &mut run);
    }

    fn flush(core: &mut ConnectorCore, now: Instant, of: Option<Path>, run: &mut Vec<&[u8]>) {
        if let (Some(path), false) = (of, run.is_empty()) {
            core.handle_input(now, path, run);
        }
        run.clear();
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        if now >= self.tidy_at {
            self.tidy_at = now + TIDY;
            self.agent.close_unused(now, &self.links.sessions());
        }
        self.with_core(now, |core, knowledge| core.handle_timeout(now, knowledge));
        if self.recheck_at.is_some_and(|at| at <= now) {
            self.recheck(now);
        }
    }

    /// The shell's answer to [`Output::ResolvePop`].
    pub fn pop_resolved(&mut self, now: Instant, pop: PopId, addresses: Vec<SocketAddr>) {
        self.agent.handle_resolved(now, pop, addresses);
    }

    /// The shell's answer to [`Output::Resolve`].
    pub fn resolved(&mut self, now: Instant, flow: FlowId, addresses: &[IpAddr]) {
        self.with_core(now, |core, knowledge| core.resolved(now, knowledge, flow, addresses));
    }

    /// [`Output::Resolve`] takes too long; its answer follows all the same.
    pub fn look_up_overdue(&mut self, now: Instant, flow: FlowId) {
        let wall = self.agent.wall(now);
        self.core.look_up_overdue(now, wall, flow);
    }

    /// The shell's answer to [`Output::Dial`]; whether the flow goes on.
    pub fn dialled(&mut self, now: Instant, flow: FlowId, result: Result<SocketAddr, DialFault>) -> bool {
        self.with_core(now, |core, knowledge| core.dialled(now, knowledge, flow, result))
    }

    /// The shell's answer to [`Output::Datagrams`].
    pub fn datagram_news(&mut self, now: Instant, news: DatagramNews) {
        self.with_core(now, |core, knowledge| core.datagram_news(now, knowledge, news));
    }

    /// The shell's answer to [`Output::ResolvePassage`].
    pub fn passage_resolved(&mut self, now: Instant, passage: PassageId, addresses: &[IpAddr]) {
        self.with_core(now, |core, knowledge| core.passage_resolved(now, knowledge, passage, addresses));
    }

    /// [`Output::ResolvePassage`] takes too long; its answer follows all the same.
    pub fn passage_overdue(&mut self, now: Instant, passage: PassageId) {
        let wall = self.agent.wall(now);
        self.core.passage_overdue(now, wall, passage);
    }

    /// Takes packets that the kernel has for this connector.
    pub fn from_site<'p>(&mut self, now: Instant, packets: impl Iterator<Item = &'p [u8]>) {
        let wall = self.agent.wall(now);
        self.core.from_site(now, wall, packets);
    }

    /// The shell's answer to [`Output::ReadBatch`].
    pub fn batch_read(&mut self, now: Instant, batch: Option<(u64, Vec<u8>)>) {
        let Some((batch, lines)) = batch else {
            return self.shipper.read(now, None);
        };
        self.shipper.read(now, Some(batch));
        let request = Bounded::new(lines).ok().and_then(|ndjson| {
            self.agent.request(now, ControlRequest::ShipFlows(ShipFlows { batch, ndjson })).ok()
        });
        if request.is_none() {
            self.shipper.failed(now, Duration::ZERO);
        }
        self.shipping = request;
    }

    /// The spool could not be read now.
    pub fn batch_not_read(&mut self, now: Instant) {
        self.shipper.failed(now, Duration::ZERO);
    }

    /// Ends everything, politely. Drain once more after it.
    pub fn shut_down(&mut self, now: Instant) {
        let wall = self.agent.wall(now);
        self.core.shut_down(now, wall);
        // Resets and closed channels first, then the goodbyes.
        while let Some(output) = self.next_of_core(now) {
            self.out.push_back(output);
        }
        self.agent.shutdown(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now: Instant) -> Output {
        loop {
            if let Some(output) = self.out.pop_front() {
                return output;
            }
            if let Some(output) = self.next_of_core(now) {
                return output;
            }
            let agent = match self.agent.poll_output(now) {
                AgentOutput::Transmit { to, payload } => return Output::Transmit { to, payload },
                AgentOutput::Persist { what, bytes } => return Output::Persist { what, bytes },
                AgentOutput::Resolve { pop, name } => return Output::ResolvePop { pop, name },
                AgentOutput::Event(event) => {
                    self.agent_event(now, event);
                    continue;
                }
                AgentOutput::Timeout { at, reason } => (at, reason),
            };
            let ship = match self.shipper.step(now) {
                Step::Read => return Output::ReadBatch,
                Step::WaitUntil(at) => Some((at, "the flow log is to be shipped")),
                Step::Idle => None,
            };
            let recheck = self.recheck_at.map(|at| (at, "policy or isolation reaches an end"));
            let (at, reason) = [self.core_due, ship, recheck]
                .into_iter()
                .flatten()
                .fold(agent, |first, next| first.min(next));
            return Output::Timeout { at, reason };
        }
    }

    // ---- below: details --------------------------------------------------------------------------

    fn next_of_core(&mut self, now: Instant) -> Option<Output> {
        loop {
            let output = self.with_core(now, |core, knowledge| core.poll_output(now, knowledge));
            return Some(match output {
                CoreOutput::Transmit { path, bytes } => match self.address_of(path) {
                    Some(to) => Output::Transmit { to, payload: bytes },
                    // The channel went in the same moment.
                    None => continue,
                },
                CoreOutput::ToPop { pop, message } => {
                    self.tell(now, pop, message);
                    continue;
                }
                CoreOutput::RelayQuiet => {
                    self.agent.probe(now);
                    continue;
                }
                CoreOutput::Resolve { flow, host } => Output::Resolve { flow, host },
                CoreOutput::Dial { flow, addresses } => Output::Dial { flow, addresses },
                CoreOutput::Readable(flow) => Output::Readable(flow),
                CoreOutput::Writable(flow) => Output::Writable(flow),
                CoreOutput::Ended { flow, ending } => Output::Ended { flow, ending },
                CoreOutput::Datagrams(request) => Output::Datagrams(request),
                CoreOutput::ResolvePassage { passage, host } => Output::ResolvePassage { passage, host },
                CoreOutput::ToSite(packet) => Output::ToSite(packet),
                CoreOutput::Record(record) => {
                    self.shipper.recorded(now);
                    Output::Record { record, wall: self.agent.wall(now) }
                }
                CoreOutput::Timeout(due) => {
                    self.core_due = due.map(|due| (due.at, due.reason));
                    return None;
                }
            });
        }
    }

    fn address_of(&self, path: Path) -> Option<SocketAddr> {
        match path {
            Path::Relay { channel, .. } => self.links.pop_of(channel),
            Path::Direct { remote } => Some(remote),
            _ => None,
        }
    }

    /// By which way packets to each device go, as people are told.
    fn ways_of_devices(&self) -> BTreeMap<DeviceId, Way> {
        let by_stream: BTreeSet<PopId> = self
            .agent
            .pops()
            .filter(|pop| pop.session.is_some() && pop.transport == Some(Transport::Tcp))
            .map(|pop| pop.pop)
            .collect();
        // A device with several tunnels is shown by the newest.
        self.core
            .ways_of_devices()
            .map(|(device, path)| match path {
                Path::Relay { pop, .. } if by_stream.contains(&pop) => (device, Way::Stream(pop)),
                Path::Relay { pop, .. } => (device, Way::Relay(pop)),
                _ => (device, Way::Direct),
            })
            .collect()
    }

    fn tell_ways(&mut self, now: Instant) {
        if self.pops.is_empty() {
            return;
        }
        let mut teller = std::mem::replace(&mut self.teller, Teller::new(now));
        if let Some(report) = teller.report(now, || self.ways_of_devices()) {
            match self.agent.request_once(now, ControlRequest::TellPaths(report)) {
                Ok(seq) => self.telling = Some(seq),
                Err(_) => teller.failed(now, Duration::ZERO),
            }
        }
        self.teller = teller;
    }

    fn session_to(&self, pop: PopId) -> Option<SessionId> {
        self.pops.iter().find(|(_, of)| **of == pop).map(|(session, _)| *session)
    }

    /// What the core says to a PoP.
    fn tell(&mut self, now: Instant, pop: PopId, message: FromAgent) {
        match message {
            FromAgent::Accept(accept) => {
                self.introductions.remove(&(pop, accept.intro));
                if let Some(session) = self.session_to(pop) {
                    self.agent.accept(now, session, accept);
                }
            }
            FromAgent::Refuse(refuse) => {
                if let Some(channel) = self.introductions.remove(&(pop, refuse.intro)) {
                    self.forget_channel(channel);
                }
                if let Some(session) = self.session_to(pop) {
                    self.agent.refuse(now, session, refuse);
                }
            }
            FromAgent::CloseChannel(close) => {
                if let Some(session) = self.forget_channel(close.channel) {
                    self.agent.close_channel(now, session, close.channel);
                }
            }
            // The core says nothing else.
            _ => {}
        }
    }

    fn forget_channel(&mut self, channel: ChannelId) -> Option<SessionId> {
        self.channels.remove(&channel);
        self.links.remove(channel)
    }

    fn agent_event(&mut self, now: Instant, event: AgentEvent) {
        match event {
            AgentEvent::Registered { session, pop, observed } => {
                tracing::info!(%pop, %observed, "registered");
                self.pops.insert(session, pop);
                self.observed.insert(session, observed);
                self.tell_surroundings(now);
                self.shipper.reachable(now);
            }
            AgentEvent::ObservedChanged { session, observed, .. } => {
                self.observed.insert(session, observed);
                self.tell_surroundings(now);
                let hellos = self.links.hellos(session);
                self.out.extend(hellos.map(|(to, payload)| Output::Transmit { to, payload }));
            }
            AgentEvent::Switched { from, to, relay, .. } => {
                self.links.move_session(from, to, relay);
                self.pops.remove(&from);
                let hellos = self.links.hellos(to);
                self.out.extend(hellos.map(|(to, payload)| Output::Transmit { to, payload }));
            }
            // Clients find another way by themselves.
            AgentEvent::Doubted { .. } => {}
            AgentEvent::Lost { session, pop, reason } => {
                tracing::info!(%pop, ?reason, "no session to this PoP any more");
                self.pops.remove(&session);
                self.observed.remove(&session);
                self.tell_surroundings(now);
                self.introductions.retain(|(of, _), _| *of != pop);
                for channel in self.links.remove_session(session) {
                    self.channels.remove(&channel);
                    self.core.channel_closed(now, pop, channel);
                }
            }
            AgentEvent::Introduce { session, relay, introduce } => {
                self.introduce(now, session, relay, introduce)
            }
            AgentEvent::ChannelClosed { channel, .. } => {
                if let Some(pop) = self.channels.get(&channel).copied() {
                    self.forget_channel(channel);
                    self.core.channel_closed(now, pop, channel);
                }
            }
            AgentEvent::ControlReply { seq, reply } => {
                if self.telling == Some(seq) {
                    self.telling = None;
                    return match reply {
                        ControlReply::PathsTaken(taken) => self.teller.taken(now, taken.held),
                        _ => self.teller.failed(now, Duration::ZERO),
                    };
                }
                if self.shipping == Some(seq) {
                    self.shipping = None;
                    match reply {
                        ControlReply::FlowsTaken(taken) if self.shipper.taken(now, taken.batch) => {
                            self.out.push_back(Output::ForgetBatch(taken.batch));
                        }
                        _ => self.shipper.failed(now, Duration::ZERO),
                    }
                }
            }
            AgentEvent::RequestFailed { seq, retry_after, .. } if self.telling == Some(seq) => {
                self.telling = None;
                self.teller.failed(now, retry_after);
            }
            AgentEvent::RequestFailed { seq, reason, retry_after } => {
                if self.shipping == Some(seq) {
                    tracing::debug!(%reason, "no controller took the flow records; they wait");
                    self.shipping = None;
                    self.shipper.failed(now, retry_after);
                }
            }
            AgentEvent::SliceChanged
            | AgentEvent::RevocationsChanged
            | AgentEvent::BundleChanged
            | AgentEvent::TimeAnchored => self.recheck(now),
            AgentEvent::FreshnessChanged(freshness) => {
                if freshness == Freshness::Fresh {
                    self.teller.reachable(now, self.spread);
                }
                self.isolated_since = match (freshness, self.isolated_since) {
                    (Freshness::Fresh | Freshness::Stale, _) => None,
                    (Freshness::Isolated, since) => Some(since.unwrap_or(now)),
                };
                self.recheck(now);
            }
            AgentEvent::GrantChanged | AgentEvent::Opened { .. } | AgentEvent::OpenRefused { .. } => {}
        }
    }

    fn introduce(&mut self, now: Instant, session: SessionId, relay: SocketAddr, introduce: wire::Introduce) {
        let Some(pop) = self.pops.get(&session).copied() else {
            return;
        };
        let (intro, channel) = (introduce.intro, introduce.channel);
        // A PoP that gives out a channel twice would take it from the one who has it.
        let refusal = if self.channels.contains_key(&channel) {
            Some(Refusal::Malformed)
        } else if !self.links.insert(channel, session, relay, introduce.secret.clone()) {
            Some(Refusal::Full)
        } else {
            None
        };
        if let Some(reason) = refusal {
            let retry_after_ms = if reason == Refusal::Full { 1_000 } else { 0 };
            return self.agent.refuse(now, session, Refuse { intro, reason, retry_after_ms });
        }
        self.channels.insert(channel, pop);
        self.introductions.insert((pop, intro), channel);
        self.with_core(now, |core, knowledge| core.introduce(now, knowledge, pop, &introduce));
    }

    fn recheck(&mut self, now: Instant) {
        self.with_core(now, |core, knowledge| core.recheck(now, knowledge));
        self.plan_recheck(now);
    }

    /// What changes without anybody saying so: the slice's end, and the end of the grace of strict flows.
    fn plan_recheck(&mut self, now: Instant) {
        let wall = self.agent.wall(now);
        let slice_end = self
            .agent
            .slice()
            .map(|slice| slice.header.exp)
            .filter(|end| *end > wall)
            .map(|end| now + end.since(wall));
        let grace_end = self.isolated_since.map(|since| since + STRICT_GRACE).filter(|end| *end > now);
        self.recheck_at = slice_end.into_iter().chain(grace_end).min();
    }
}
