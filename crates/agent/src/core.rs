//! The agent: its state, its beginning, and its verbs.

use crate::{
    clock::{Clock, FLOOR_INTERVAL, Freshness, Machine},
    control::Pending,
    documents::Renewals,
    jitter::Jitter,
    kind::AgentSlice,
    links::{Link, Place},
    opens::PendingOpen,
    output::{AgentEvent, AgentStats, Output, Persisted},
    stored::{StartError, StoredState},
    strikes::Strikes,
};
use session::{Dialler, LocalIdentity, SessionId};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use trust::{
    Beacon, Certificate, Grant, Identity, KeyId, RevocationSet, RootHash, SigningKey, Slice, SliceVersion,
    TrustBundle, TrustChain, UnixMs,
};
use wire::PopId;

/// The agent on a device.
pub type ClientAgent = Agent<policy::ClientSlice>;
/// The agent in a site.
pub type ConnectorAgent = Agent<policy::ConnectorSlice>;

/// An agent's common core; `B` is the body of its slice.
pub struct Agent<B> {
    pub(crate) identity_key: SigningKey,
    pub(crate) root: RootHash,
    pub(crate) chain_text: String,
    pub(crate) bundle: TrustBundle,
    pub(crate) certificate: Certificate,
    pub(crate) grant: Option<Grant>,
    pub(crate) grant_text: Option<String>,
    pub(crate) slice: Option<Slice<B>>,
    pub(crate) beacon: Option<Beacon>,
    /// The key that signed the slice has left the bundle: what it allows counts for nothing, and only the way to a
    /// PoP is still taken from it.
    pub(crate) is_slice_void: bool,
    pub(crate) slice_signer: Option<KeyId>,
    pub(crate) strikes: Strikes,
    pub(crate) renewals: Renewals,
    pub(crate) asked_version: SliceVersion,

    pub(crate) dialler: Dialler,
    pub(crate) clock: Clock,
    pub(crate) jitter: Jitter,
    pub(crate) places: BTreeMap<PopId, Place>,
    pub(crate) links: BTreeMap<SessionId, Link>,
    pub(crate) hold_until: Instant,
    /// Nothing is dialled before this, whatever happens.
    pub(crate) start_at: Instant,
    /// When PoPs were last seen to.
    pub(crate) maintained_at: Instant,
    /// The reconnect window that the disk has.
    pub(crate) told_window: Duration,
    /// Which session a request tries first: the next one, after a PoP has refused for itself.
    pub(crate) first_way: usize,
    /// TCP was the one that worked in this network: it is tried at once, beside UDP.
    pub(crate) tcp_first: bool,
    /// The newest streams: which address stands for each, and where it leads.
    pub(crate) streams: VecDeque<(SocketAddr, SocketAddr)>,
    pub(crate) next_stream: u64,
    pub(crate) opens: BTreeMap<u64, PendingOpen>,
    pub(crate) next_open: u64,
    pub(crate) pending: BTreeMap<u64, Pending>,
    pub(crate) next_request: u64,
    pub(crate) retry_tenths: u32,
    pub(crate) stats: AgentStats,
    pub(crate) last_lost: Option<session::LostReason>,
    pub(crate) last_control_refusal: Option<wire::Refusal>,
    told_freshness: Freshness,
    floor_at: Instant,
    pub(crate) is_stopping: bool,
    pub(crate) out: VecDeque<Output>,
}

/// A first attempt is spread over no more than this, whatever a PoP said last: a person waits for it. What comes beyond that, a
/// PoP's admission spreads.
const START_WINDOW: Duration = Duration::from_secs(2);

impl<B: AgentSlice> Agent<B> {
    /// Starts from what is on disk. Grants, slices and revocations that do not verify are left out and
    /// counted; without a chain and a certificate there is no agent. No controller and no PoP is needed.
    ///
    /// # Errors
    /// Says what of the stored state cannot be used.
    pub fn new(state: StoredState, now: Instant, wall: UnixMs, seed: [u8; 32]) -> Result<Self, StartError> {
        let mut clock = Clock::new(now, wall, state.time_floor);
        let chain = TrustChain::parse(&state.chain).map_err(StartError::Chain)?;
        // A machine's clock that is off by years is no reason not to start either: the floor knows better.
        let at = |time: UnixMs| chain.verify(&state.root, time);
        let bundle = at(clock.wall(now))
            .or_else(|error| at(clock.floor(now)).map_err(|_| error))
            .map_err(StartError::Chain)?;
        // An expired certificate is no reason not to start: the clock may be off, and what to do about it is
        // said better by a running agent.
        let certificate =
            Certificate::verify_at_any_time(&state.certificate, &bundle).map_err(StartError::Certificate)?;
        let role = certificate.identity().role();
        if role != B::ROLE {
            return Err(StartError::Role { expected: B::ROLE, got: role });
        }
        let local =
            LocalIdentity::new(&state.certificate, &state.identity_key).map_err(StartError::Identity)?;
        let seed_for = |label: &[u8]| trust::sha256(&[b"tidegate/agent-seed/1", label, &seed]);
        clock.begin_at(certificate.not_before());
        let dialler = Dialler::new(local, bundle.clone(), clock.reach(now), seed_for(b"sessions"));
        let jitter = seed_for(b"jitter");
        let mut jitter = Jitter::new(u64::from_be_bytes(*jitter.first_chunk().expect("32 bytes hold 8")));
        // After a power failure everybody starts in one moment: the first attempt is spread as well.
        let window = state.reconnect_window.min(START_WINDOW);
        let start_spread = if window.is_zero() { window } else { jitter.up_to(window) };
        let mut agent = Self {
            identity_key: state.identity_key,
            // The chain may lead on from the root that was pinned at enrolment: that one is retired here.
            root: bundle.root(),
            chain_text: state.chain,
            bundle,
            certificate,
            grant: None,
            grant_text: None,
            slice: None,
            beacon: None,
            is_slice_void: false,
            slice_signer: None,
            strikes: Strikes::default(),
            renewals: Renewals::default(),
            asked_version: SliceVersion::default(),
            dialler,
            clock,
            jitter,
            places: BTreeMap::new(),
            links: BTreeMap::new(),
            hold_until: now + start_spread,
            start_at: now + start_spread,
            maintained_at: now,
            told_window: state.reconnect_window,
            first_way: 0,
            tcp_first: false,
            streams: VecDeque::new(),
            next_stream: 0,
            opens: BTreeMap::new(),
            next_open: 1,
            pending: BTreeMap::new(),
            next_request: 1,
            retry_tenths: crate::control::FIRST_RETRIES_TENTHS,
            stats: AgentStats::default(),
            last_lost: None,
            last_control_refusal: None,
            told_freshness: Freshness::Isolated,
            floor_at: now + FLOOR_INTERVAL,
            is_stopping: false,
            out: VecDeque::new(),
        };
        agent.load(now, state.grant, state.slice, state.revocations.as_deref());
        agent.maintain(now);
        Ok(agent)
    }

    /// The machine's wall clock. Call it about once a second, and at once after a resume.
    pub fn set_wall(&mut self, now: Instant, wall: UnixMs) {
        if self.clock.set_machine(now, wall) == Machine::Stepped {
            self.unsettle(now);
        }
        self.dialler.set_wall(self.clock.reach(now));
    }

    /// The machine was asleep, and `now` counts it: time is asked for, sessions whether they still live, and it may have
    /// woken up in another network. What ended meanwhile ends first: this machine lost it by itself, and waits for no crowd.
    pub fn resumed(&mut self, now: Instant) {
        self.dialler.handle_timeout(now);
        self.take_from_sessions(now);
        self.unsettle(now);
        self.network_changed(now);
    }

    /// Takes one datagram (one GRO segment) that [`wire::classify`] calls QUIC.
    pub fn handle_input(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.dialler.handle_input(now, from, datagram);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.dialler.handle_timeout(now);
        // Which sessions have ended, before anything is asked through them: after a sleep it is all of them.
        self.take_from_sessions(now);
        self.tick_links(now);
        self.tick_opens(now);
        self.tick_control(now);
        self.tick_renewals(now);
        if self.floor_at <= now {
            self.floor_at = now + FLOOR_INTERVAL;
            self.persist_floor(now);
            self.keep_window();
        }
        self.tell_freshness(now);
    }

    /// Takes what the sessions have to say; what they send waits in its order.
    fn take_from_sessions(&mut self, now: Instant) {
        loop {
            match self.dialler.poll_output(now) {
                session::Output::Transmit { to, payload } => {
                    self.out.push_back(Output::Transmit { to, payload })
                }
                session::Output::Event(event) => self.handle_session_event(now, event),
                session::Output::Timeout { .. } => return,
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now: Instant) -> Output {
        loop {
            if let Some(output) = self.out.pop_front() {
                return output;
            }
            match self.dialler.poll_output(now) {
                session::Output::Transmit { to, payload } => return Output::Transmit { to, payload },
                session::Output::Event(event) => self.handle_session_event(now, event),
                session::Output::Timeout { at, reason } => {
                    return self.own_timeouts(now).into_iter().flatten().chain([(at, reason)]).min().map_or(
                        Output::Timeout { at, reason },
                        |(at, reason)| Output::Timeout { at, reason },
                    );
                }
            }
        }
    }

    fn own_timeouts(&self, now: Instant) -> [Option<(Instant, &'static str)>; 7] {
        [
            self.next_link_timeout(now),
            self.next_open_timeout(),
            self.next_control_timeout(),
            self.renewals.next(),
            Some((self.floor_at, "the time floor is to be written")),
            // A device's word on it is worked out when somebody asks: it wakes for nothing between keepalives.
            (B::ROLE != trust::Role::Device)
                .then(|| self.clock.next_change(now))
                .flatten()
                .map(|at| (at, "the newest beacon is getting old")),
            self.renewals.next_withheld(now).map(|at| (at, "a strike does not come")),
        ]
    }

    pub(crate) fn event(&mut self, event: AgentEvent) {
        self.out.push_back(Output::Event(event));
    }

    pub(crate) fn persist(&mut self, what: Persisted, bytes: Vec<u8>) {
        self.out.push_back(Output::Persist { what, bytes });
    }

    pub(crate) fn persist_floor(&mut self, now: Instant) {
        let floor = self.clock.floor(now).as_millis();
        if floor > 0 {
            self.persist(Persisted::TimeFloor, floor.to_string().into_bytes());
        }
    }

    pub(crate) fn tell_freshness(&mut self, now: Instant) {
        if B::ROLE == trust::Role::Device {
            return;
        }
        let freshness = self.freshness(now);
        if freshness != self.told_freshness {
            self.told_freshness = freshness;
            self.event(AgentEvent::FreshnessChanged(freshness));
        }
    }

    /// Ends every session. Call `poll_output` a last time afterwards to send the goodbyes and to write the
    /// time floor.
    pub fn shutdown(&mut self, now: Instant) {
        self.is_stopping = true;
        self.keep_window();
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.dialler.close(now, id, session::CloseCode::ShuttingDown);
        }
        self.persist_floor(now);
    }

    /// Who this agent is.
    #[must_use]
    pub const fn identity(&self) -> Identity {
        self.certificate.identity()
    }

    /// The identity key.
    #[must_use]
    pub const fn identity_key(&self) -> &SigningKey {
        &self.identity_key
    }

    /// The certificate in force.
    #[must_use]
    pub const fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The trust bundle in force.
    #[must_use]
    pub const fn bundle(&self) -> &TrustBundle {
        &self.bundle
    }

    /// The trust chain's text.
    #[must_use]
    pub fn chain_text(&self) -> &str {
        &self.chain_text
    }

    /// The newest grant, whether or not it is still valid.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        self.grant.as_ref()
    }

    /// The newest grant as it travels.
    #[must_use]
    pub fn grant_text(&self) -> Option<&str> {
        self.grant_text.as_deref()
    }

    /// The newest slice, whether or not it is still valid; none when the key that signed it was taken away.
    #[must_use]
    pub const fn slice(&self) -> Option<&Slice<B>> {
        if self.is_slice_void { None } else { self.slice.as_ref() }
    }

    /// The newest beacon.
    #[must_use]
    pub const fn beacon(&self) -> Option<&Beacon> {
        self.beacon.as_ref()
    }

    /// Everything that is struck.
    #[must_use]
    pub fn revocations(&self) -> &RevocationSet {
        self.strikes.set()
    }

    /// What this agent takes for the time: the machine's clock, and never behind the newest believed beacon.
    #[must_use]
    pub fn wall(&self, now: Instant) -> UnixMs {
        self.clock.wall(now)
    }

    /// How fresh the control plane's word is, by the age of the newest beacon that came. A client hears one with each
    /// keepalive: whoever asks it for this asks [`Self::ask_beacon`] first.
    ///
    /// What a beacon says of strikes has to be here too: a PoP that hands out beacons and holds strikes back makes
    /// nobody fresh.
    #[must_use]
    pub fn freshness(&self, now: Instant) -> Freshness {
        self.clock.freshness(now).max(self.renewals.withheld(now))
    }

    /// How long ago a controller made the newest beacon that came; `None` before the first of this run.
    #[must_use]
    pub fn control_last_heard(&self, now: Instant) -> Option<Duration> {
        self.clock.age(now)
    }

    /// Until when this agent's standing lasts if no controller is heard again: the earlier of grant (devices)
    /// and certificate.
    #[must_use]
    pub fn access_until(&self) -> UnixMs {
        let certificate = self.certificate.not_after();
        self.grant.as_ref().map_or(certificate, |grant| grant.exp.min(certificate))
    }

    /// Why the last session ended or could not be had.
    #[must_use]
    pub const fn last_lost(&self) -> Option<session::LostReason> {
        self.last_lost
    }

    /// Why the last renewal or slice was not had; `None` once one was.
    #[must_use]
    pub const fn last_control_refusal(&self) -> Option<wire::Refusal> {
        self.last_control_refusal
    }

    /// What was done and refused so far.
    #[must_use]
    pub const fn stats(&self) -> AgentStats {
        self.stats
    }
}

impl<B> std::fmt::Debug for Agent<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Agent({})", self.certificate.identity())
    }
}
