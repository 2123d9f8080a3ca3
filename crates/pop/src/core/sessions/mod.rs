//! Sessions: registration by certificate, introductions, and everything controllers and agents tell
//! each other through this PoP.
//!
//! Owns the QUIC [`Acceptor`]. It believes what the trust bundle's keys have signed, cannot read
//! what is sealed, and keeps nothing that another PoP would need.

mod counters;
mod drain;
mod introduce;
pub mod limits;
mod register;
mod renewal;
mod signers;
mod slice;
#[cfg(test)]
mod tests;

pub use counters::{SessionCounters, SessionsStatus, Tally};

use crate::core::{
    admission::Sketch,
    bucket::Bucket,
    random::{Random, Seed},
    relay::{OwnerId, RelayCommand},
};
use introduce::Introduction;
use renewal::Renewal;
use session::{Acceptor, AcceptorLimits, CloseCode, Event, IdentityError, LocalIdentity, Output, SessionId};
use signers::{Beacons, Revocations};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use trust::{
    Certificate, CertificateError, ChainError, Identity, Role, RootHash, SigningKey, Subject, TrustBundle,
    TrustChain, UnixMs,
};
use wire::{ControllerId, FromAgent, FromSigner, OrganizationId, Refusal, ToAgent, ToSigner};

/// What a PoP starts from: all of it was verified or will be here.
#[derive(Debug)]
pub struct PopMaterial {
    /// The identity key.
    pub key: SigningKey,
    /// The certificate for it (DER).
    pub certificate: Vec<u8>,
    /// The pinned root.
    pub root: RootHash,
    /// The newest trust chain held.
    pub chain: String,
    /// The texts of the revocation entries held, as [`Record::Revocations`] gave them.
    pub revocations: Vec<String>,
}

/// Why a PoP cannot start from its material.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// The trust chain is not believed.
    #[error("the trust chain in the state directory is not believed; join this PoP again")]
    Chain(#[from] ChainError),
    /// Key and certificate cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate is not believed.
    #[error("this PoP's own certificate is not believed: {0}; join this PoP again")]
    Certificate(CertificateError),
    /// The certificate is another role's.
    #[error("the state directory is a {}'s, not a PoP's", .0.word())]
    Role(Role),
    /// The chain is longer than a message.
    #[error("the trust chain is longer than a message may be")]
    ChainTooLong,
}

/// What a datagram was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Took {
    /// It began a handshake with a source that has proven its address.
    Handshake,
    /// Anything else.
    Packet,
}

/// Names one write, so that its end can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriteId(u64);

/// Something to write to disk, whole, replacing what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// All revocation entries held.
    Revocations(Vec<String>),
    /// The trust chain.
    Chain(String),
    /// The PoP's own certificate, DER.
    Certificate(Vec<u8>),
    /// The PoP's own slice, for [`Sessions::restore_slice`].
    Slice(String),
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is on disk, synced.
    Durable,
    /// It is not.
    Failed,
}

/// What the session core wants from its shell.
#[derive(Debug)]
pub enum SessionsOutput {
    /// Send a datagram.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        payload: Vec<u8>,
    },
    /// The session by this stream ([`wire::is_stream_address`]) is registered: whoever is there is an agent.
    RegisteredBy {
        /// What stands for the stream.
        stream: SocketAddr,
    },
    /// Tell the relay; before any datagram that comes after this.
    Relay(RelayCommand),
    /// Write, then call [`Sessions::handle_written`].
    Persist {
        /// Which write.
        id: WriteId,
        /// What.
        record: Record,
    },
    /// Nothing more until then, or until input.
    Timeout {
        /// When to call `handle_timeout`.
        at: Instant,
        /// Why.
        reason: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Hello(SessionId),
    Introduction(u64),
    Stayed(SessionId),
    Beacons,
    Presence,
    Attached(SessionId),
    Renewal,
    Drain,
    Rewrite,
}

impl Due {
    const fn reason(self) -> &'static str {
        match self {
            Self::Hello(_) => "sessions: a first message is due",
            Self::Introduction(_) => "sessions: a connector's answer is due",
            Self::Stayed(_) => "sessions: a new address has stayed",
            Self::Beacons => "sessions: beacons for connectors",
            Self::Presence => "sessions: presence for controllers",
            Self::Attached(_) => "sessions: more of who is here for a controller",
            Self::Renewal => "sessions: the own certificate is due",
            Self::Rewrite => "sessions: strikes that are not on the disk",
            Self::Drain => "sessions: more agents to ask to leave",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until its first message, or until then.
    AwaitingHello(Instant),
    Registered,
}

#[derive(Debug)]
struct Session {
    identity: Identity,
    generation: u64,
    stage: Stage,
    /// Proven: by the handshake, or by an answer to the relay.
    proven: SocketAddr,
    /// Where QUIC has moved since, and when.
    moved: Option<(SocketAddr, Instant)>,
    /// A deadline for that is set: one a session, however often it moves.
    is_settling: bool,
    frames: Bucket,
    /// Frames over budget, less those within it since: what is left of patience.
    over_budget: u32,
}

impl Session {
    fn observed(&self) -> SocketAddr {
        self.moved.map_or(self.proven, |(address, _)| address)
    }

    /// Where others may be told that it is: nowhere, while all that is known is the source of some packets. What is said here
    /// decides whom a peer knocks at.
    fn seen_at(&self) -> Option<SocketAddr> {
        if planted::is("pop-repeats-what-it-was-told") {
            return Some(self.observed());
        }
        self.moved.is_none().then_some(self.proven)
    }
}

/// A device or connector with a session or channels here.
#[derive(Debug)]
struct Agent {
    generation: u64,
    owner: OwnerId,
    session: Option<SessionId>,
    channels: usize,
    introductions: usize,
}

/// The session core.
pub struct Sessions {
    acceptor: Acceptor,
    max_channels: usize,
    random: Random,
    /// Routes that controllers see are session numbers under this mask: a reply to a session of an
    /// earlier process finds nobody.
    route_mask: u64,
    root: RootHash,
    bundle: TrustBundle,
    chain: wire::Document,
    wall: UnixMs,
    revocations: Revocations,
    beacons: Beacons,
    sessions: BTreeMap<SessionId, Session>,
    agents: BTreeMap<Subject, Agent>,
    owners: BTreeMap<OwnerId, Subject>,
    last_owner: u64,
    signers: BTreeMap<ControllerId, SessionId>,
    /// Agents of which a controller that attached was not told yet.
    untold: BTreeMap<SessionId, Vec<Identity>>,
    introductions: BTreeMap<u64, Introduction>,
    last_introduction: u64,
    channels: usize,
    came: BTreeSet<Identity>,
    went: BTreeSet<Identity>,
    presence_at: Option<Instant>,
    deadlines: BTreeSet<(Instant, Due)>,
    renewal: Renewal,
    out: VecDeque<SessionsOutput>,
    /// How often each subject has registered lately.
    registrations: Sketch,
    /// What each organization's clients may still ask of connectors.
    introducing: BTreeMap<OrganizationId, Bucket>,
    /// How many devices and connectors of each organization are registered.
    registered: BTreeMap<OrganizationId, usize>,
    allowed: slice::Allowed,
    draining: Option<drain::Draining>,
    counters: SessionCounters,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sessions({} up, {} channels)", self.sessions.len(), self.channels)
    }
}

impl Sessions {
    /// A core without sessions. `max_channels` is the relay's.
    ///
    /// # Errors
    /// The material is not usable.
    pub fn new(
        material: PopMaterial,
        acceptor: AcceptorLimits,
        max_channels: usize,
        now: Instant,
        wall: UnixMs,
        seed: &Seed,
    ) -> Result<Self, MaterialError> {
        let bundle = TrustChain::parse(&material.chain)?.verify(&material.root, wall)?;
        let chain =
            wire::Bounded::new(material.chain.into_bytes()).map_err(|_| MaterialError::ChainTooLong)?;
        // An expired or future certificate is due at once.
        let mut due = limits::RENEWAL_RETRY;
        match Certificate::verify(&material.certificate, &bundle, wall) {
            Ok(own) if own.identity().role() == Role::Pop => due = renewal::due_after(&own, wall).max(due),
            Ok(own) => return Err(MaterialError::Role(own.identity().role())),
            // The clock here may be off by a day; peers judge by theirs.
            Err(CertificateError::Expired | CertificateError::NotYetValid) => {}
            Err(error) => return Err(MaterialError::Certificate(error)),
        }
        let local = LocalIdentity::new(&material.certificate, &material.key)?;
        let mut random = Random::new(seed, "sessions");
        let mut counters = SessionCounters::default();
        let revocations = Revocations::load(&material.revocations, &bundle, &mut counters);
        let acceptor_seed = random.block();
        let allowed = slice::Allowed::without_slice(acceptor.sessions);
        let key = &material.key;
        let mut acceptor = Acceptor::new(&local, key, bundle.clone(), acceptor, now, wall, acceptor_seed)?;
        acceptor.set_revocations(now, revocations.set());
        Ok(Self {
            acceptor,
            max_channels,
            route_mask: random.bits(),
            random,
            // The chain may lead on from the root that was pinned: that one is retired here.
            root: bundle.root(),
            bundle,
            chain,
            wall,
            revocations,
            beacons: Beacons::default(),
            sessions: BTreeMap::new(),
            agents: BTreeMap::new(),
            owners: BTreeMap::new(),
            last_owner: 0,
            signers: BTreeMap::new(),
            untold: BTreeMap::new(),
            introductions: BTreeMap::new(),
            last_introduction: 0,
            channels: 0,
            came: BTreeSet::new(),
            went: BTreeSet::new(),
            presence_at: None,
            deadlines: BTreeSet::from([
                (now + limits::BEACON_INTERVAL, Due::Beacons),
                (now + due, Due::Renewal),
            ]),
            renewal: Renewal::new(material.key, material.certificate),
            out: VecDeque::new(),
            registrations: Sketch::new(seed, "sessions/registrations", now),
            introducing: BTreeMap::new(),
            registered: BTreeMap::new(),
            allowed,
            draining: None,
            counters,
        })
    }

    /// What there is and what happened.
    #[must_use]
    pub fn status(&self) -> SessionsStatus {
        let attached = |is: fn(&Subject) -> bool| {
            self.agents.iter().filter(|(subject, agent)| agent.session.is_some() && is(subject)).count()
        };
        let stats = self.acceptor.stats();
        SessionsStatus {
            sessions: self.sessions.len(),
            devices: attached(|subject| matches!(subject, Subject::Device(_))),
            connectors: attached(|subject| matches!(subject, Subject::Connector(_))),
            controllers: self.signers.len(),
            channels: self.channels,
            introductions: self.introductions.len(),
            bundle: (self.bundle.epoch(), self.bundle.serial()),
            revocations: self.revocations.len(),
            slice: self.allowed.version().map(|version| (version.incarnation, version.version)),
            draining: self.is_draining(),
            newest_beacon_ms: self.beacons.newest_time().map(|(time, _)| time.as_millis()),
            retries: stats.retries,
            turned_away: stats.full,
            given_up: stats.given_up,
            counters: self.counters.clone(),
        }
    }

    /// The wall clock, for judging certificates; about once a second. A clock that is behind what a controller has
    /// signed is set right by it, so that certificates made today are not refused as made tomorrow; by two days at
    /// most, so that no controller alone can make a fleet's certificates expire. One that is ahead by more than two days
    /// of what was signed is not followed any further, and one that has not reached the beginning of this PoP's own
    /// certificate is wrong for sure, and does not count.
    pub fn set_wall(&mut self, now: Instant, wall: UnixMs) {
        let wall = self.believed(now, wall);
        self.renew_after_sleep(now, wall);
        self.wall = wall;
        self.acceptor.set_wall(now, wall);
        self.revocations.forget_old(wall);
    }

    fn believed(&self, now: Instant, wall: UnixMs) -> UnixMs {
        let Some((signed, heard)) = self.beacons.newest_time() else { return wall };
        let own = Certificate::verify_at_any_time(self.renewal.certificate(), &self.bundle);
        let began = own.map(|own| own.not_before()).unwrap_or_default();
        if wall.plus(limits::MOST_BEHIND) < began {
            return signed.max(began);
        }
        let wall = wall.max(signed.min(wall.plus(limits::MOST_BEHIND)));
        let is_followed = signed.plus(now.saturating_duration_since(heard)).plus(limits::MOST_AHEAD);
        if planted::is("pop-follows-its-clock-anywhere") { wall } else { wall.min(is_followed) }
    }

    /// Takes one datagram that [`wire::classify`] calls QUIC.
    pub fn handle_input(&mut self, now: Instant, source: SocketAddr, datagram: &[u8]) -> Took {
        let before = self.acceptor.stats().accepted;
        self.acceptor.handle_input(now, source, datagram);
        if self.acceptor.stats().accepted > before { Took::Handshake } else { Took::Packet }
    }

    /// Whether a handshake with this source is under way.
    #[must_use]
    pub fn is_handshaking(&self, source: SocketAddr) -> bool {
        self.acceptor.is_handshaking(source)
    }

    /// Ends all sessions because the process ends: agents go to the next PoP of their order.
    pub fn shut_down(&mut self, now: Instant) {
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.close(now, id, CloseCode::ShuttingDown);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.acceptor.handle_timeout(now);
        while let Some(&(at, due)) = self.deadlines.first() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            match due {
                Due::Hello(id) => {
                    if self.sessions.get(&id).is_some_and(|s| matches!(s.stage, Stage::AwaitingHello(_))) {
                        self.close(now, id, CloseCode::Silent);
                    }
                }
                Due::Introduction(number) => self.introduction_timed_out(now, number),
                Due::Stayed(id) => self.stayed(now, id),
                Due::Beacons => {
                    self.deadlines.insert((now + limits::BEACON_INTERVAL, Due::Beacons));
                    self.push_beacons(now);
                }
                Due::Presence => self.tell_presence(now),
                Due::Attached(id) => self.tell_attached(now, id),
                Due::Renewal => self.renewal_due(now),
                Due::Drain => self.drain_on(now),
                Due::Rewrite => self.rewrite(now),
            }
        }
    }

    /// What to do next; call until it gives a timeout.
    pub fn poll_output(&mut self, now: Instant) -> SessionsOutput {
        loop {
            // Relay commands and writes leave before the datagrams that tell of them.
            if let Some(output) = self.out.pop_front() {
                return output;
            }
            match self.acceptor.poll_output(now) {
                Output::Transmit { to, payload } => return SessionsOutput::Transmit { to, payload },
                Output::Event(event) => self.handle_event(now, event),
                Output::Timeout { at, reason } => {
                    return match self.deadlines.first() {
                        Some(&(due_at, due)) if due_at < at => {
                            SessionsOutput::Timeout { at: due_at, reason: due.reason() }
                        }
                        _ => SessionsOutput::Timeout { at, reason },
                    };
                }
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected { id, peer, remote } => self.connected(now, id, &peer, remote),
            Event::Frame { id, frame_type, body } => self.handle_frame(now, id, frame_type, &body),
            Event::AddressChanged { id, remote } => self.address_changed(now, id, remote),
            Event::Lost { id, reason, .. } => self.lost(now, id, reason),
        }
    }

    fn handle_frame(&mut self, now: Instant, id: SessionId, frame_type: u16, body: &[u8]) {
        let Some(session) = self.sessions.get(&id) else { return };
        match session.identity.subject() {
            Subject::Device(_) | Subject::Connector(_) => match frame_type {
                // The numbers of `FromAgent`; what comes behind 255 is of a later version.
                0..32 | 256.. => match FromAgent::decode_body(frame_type, body) {
                    Ok(Some(message)) => {
                        self.counters.messages.add(message.name());
                        self.hear_agent(now, id, message);
                    }
                    Ok(None) => self.hear_unknown(now, id),
                    Err(_) => self.refuse_peer(now, id, "malformed", CloseCode::Malformed),
                },
                32..256 if planted::is("agents-say-what-they-like") => {}
                32..256 => self.refuse_peer(now, id, "wrong_role", CloseCode::WrongRole),
            },
            Subject::Controller(controller) => match frame_type {
                64..96 | 256.. => match FromSigner::decode_body(frame_type, body) {
                    Ok(Some(message)) => {
                        self.counters.messages.add(message.name());
                        self.hear_signer(now, id, controller, message);
                    }
                    Ok(None) => self.counters.refused.add("unknown_type"),
                    Err(_) => self.refuse_peer(now, id, "malformed", CloseCode::Malformed),
                },
                0..64 | 96..256 => self.refuse_peer(now, id, "wrong_role", CloseCode::WrongRole),
            },
            // The acceptor takes no PoPs.
            Subject::Pop(_) => self.refuse_peer(now, id, "wrong_role", CloseCode::WrongRole),
        }
    }

    fn refuse_peer(&mut self, now: Instant, id: SessionId, label: &'static str, code: CloseCode) {
        self.counters.refused.add(label);
        self.close(now, id, code);
    }

    /// The same for who may come back, and is told when.
    fn refuse_for_now(&mut self, now: Instant, id: SessionId, label: &'static str, code: CloseCode) {
        self.counters.refused.add(label);
        self.counters.closed.add(code.label());
        // Some come a little later than others: they were refused together.
        let jitter = self.random.bits() % u64::from(limits::millis(limits::REFUSED_FOR)).max(1);
        let after = limits::REFUSED_FOR + Duration::from_millis(jitter);
        self.acceptor.close_for(now, id, code, after);
    }

    fn close(&mut self, now: Instant, id: SessionId, code: CloseCode) {
        self.counters.closed.add(code.label());
        self.acceptor.close(now, id, code);
    }

    fn send(&mut self, now: Instant, id: SessionId, message: &ToAgent) {
        self.send_frame(now, id, message.frame_type(), &message.encode_body());
    }

    fn send_signer(&mut self, now: Instant, id: SessionId, message: &ToSigner) {
        self.send_frame(now, id, message.frame_type(), &message.encode_body());
    }

    fn send_frame(&mut self, now: Instant, id: SessionId, frame_type: u16, body: &[u8]) {
        if let Err(error) = self.acceptor.send(id, frame_type, body) {
            self.counters.not_sent.add(error.label());
            // A peer that does not read is not there: what it misses, it learns when it registers.
            if error == session::SendError::Full {
                self.close(now, id, CloseCode::TooSlow);
            }
        }
    }

    fn agent_of(&mut self, session: SessionId) -> Option<&mut Agent> {
        let subject = self.sessions.get(&session)?.identity.subject();
        self.agents.get_mut(&subject)
    }

    /// Forgets an agent that has neither session nor channels.
    fn forget_if_gone(&mut self, subject: Subject) {
        let gone = |agent: &Agent| agent.session.is_none() && agent.channels == 0 && agent.introductions == 0;
        if self.agents.get(&subject).is_some_and(gone)
            && let Some(agent) = self.agents.remove(&subject)
        {
            self.owners.remove(&agent.owner);
        }
    }

    fn relay(&mut self, command: RelayCommand) {
        self.out.push_back(SessionsOutput::Relay(command));
    }

    fn close_channels(&mut self, owner: OwnerId, reason: Refusal) {
        self.relay(RelayCommand::CloseOwner { owner, reason });
    }
}
