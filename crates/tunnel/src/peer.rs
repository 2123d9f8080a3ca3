//! One peer: its sessions, its paths, what waits for it, and when it wants attention.

use crate::direct::{BASE_MTU, Direct, Owner, Route};
use crate::engine::{LocalIndex, Response};
use crate::timers::{
    KEEPALIVE_TIMEOUT, PATHLESS_LIFETIME, QUIET, QUIET_LAST, REJECT_AFTER_TIME, REKEY_AFTER_TIME,
    REKEY_ON_RECEIVE, SILENCE, TimeoutReason, UNPROVEN_LIFETIME,
};
use crate::{Path, WireGuardPublicKey};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use wire::WG_RESPONSE_LEN;

/// A peer's number inside one [`crate::Tunnels`]; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub(crate) u64);

impl PeerId {
    /// The number, to name a link or a log line by.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Who began: only the initiator of a session renews it by age (white paper, section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Initiator,
    Responder,
}

/// Whose wish a peer is: ours stay until removed, theirs go when they never prove or lose their path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Ours,
    Theirs,
}

#[derive(Debug, Clone, Copy)]
struct Session {
    index: LocalIndex,
    established: Instant,
    side: Side,
}

/// Sessions an engine keeps at most (gotatun's ring); older ones are forgotten here too.
const MAX_SESSIONS: usize = 8;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub path: Path,
    pub since: Instant,
}

/// Ways by which one answer may have gone: a client asks through at most four PoPs in turn.
pub(crate) const MAX_CANDIDATES: usize = 4;

/// An initiation and its answer.
#[derive(Clone)]
pub(crate) struct Answered {
    pub initiation: Vec<u8>,
    pub response: [u8; WG_RESPONSE_LEN],
    pub index: LocalIndex,
}

/// A handshake over the path that waits for its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub first: Instant,
    pub retry_at: Instant,
    pub tries: u32,
    pub path: Path,
}

/// What a valid packet changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Authentic {
    /// A path was proven; the one it took the place of.
    pub proven: Option<Proven>,
    /// The newest session may seal from now on.
    pub session_confirmed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Proven {
    pub path: Path,
    pub replaced: Option<Path>,
}

pub(crate) struct Peer<P> {
    pub noise: P,
    pub state: PeerState,
}

pub(crate) struct PeerState {
    pub key: WireGuardPublicKey,
    pub origin: Origin,
    /// The relay. Set only when a packet or response from there proved the peer's key.
    pub path: Option<Path>,
    /// We chose the relay's channel, and nothing has come by it yet.
    pub is_relay_new: bool,
    /// Whether data goes by it, or straight to the peer.
    pub direct: Direct,
    /// Who pays for what `direct` asks.
    pub owner: Owner,
    /// The address that `direct` uses or asks, as the table of addresses has it.
    pub remote: Option<SocketAddr>,
    /// The longest inner packet that the owner was told of.
    pub told_mtu: usize,
    /// Indices by which the peer's packets find it, the newest last.
    pub indices: Vec<LocalIndex>,
    /// Data went by the relay, and nothing came back by it: since when.
    pub relay_unheard: Option<Instant>,
    /// When that may be told again, and how long the pause after it.
    quiet_from: Option<Instant>,
    quiet_pause: Duration,
    /// Where an answer went; nothing else goes there before it is proven.
    pub candidates: Vec<Candidate>,
    /// The newest initiation that was answered, until a packet proves its session.
    pub answered: Option<Answered>,
    pub pathless_since: Option<Instant>,
    sessions: Vec<Session>,
    /// The session that seals; always one of `sessions`.
    current: Option<LocalIndex>,
    pub pending: Option<Pending>,
    /// Inner packets, already padded, that wait for a session.
    pub queue: VecDeque<Vec<u8>>,
    keepalive_at: Option<Instant>,
    silent_at: Option<Instant>,
    pub next_initiation: Instant,
    pub scheduled: Option<Instant>,
}

impl PeerState {
    pub fn new(key: WireGuardPublicKey, origin: Origin, direct: Direct, now: Instant) -> Self {
        Self {
            key,
            origin,
            path: None,
            is_relay_new: false,
            direct,
            owner: Owner::Key(key),
            remote: None,
            told_mtu: BASE_MTU,
            indices: Vec::new(),
            relay_unheard: None,
            quiet_from: None,
            quiet_pause: QUIET,
            candidates: Vec::new(),
            answered: None,
            pathless_since: None,
            sessions: Vec::new(),
            current: None,
            pending: None,
            queue: VecDeque::new(),
            keepalive_at: None,
            silent_at: None,
            next_initiation: now,
            scheduled: None,
        }
    }

    /// By which way data goes now: straight to the peer, or by the relay. A doubtful address is better than
    /// nothing.
    pub fn way(&self) -> Option<Path> {
        let fallback = self.direct.fallback().map(Path::direct);
        match self.direct.route() {
            Route::Direct(remote) => Some(Path::direct(remote)),
            Route::Relay => self.path.or(fallback),
        }
    }

    /// The longest inner packet that goes that way.
    pub fn mtu(&self) -> usize {
        match (self.direct.route(), self.way()) {
            // A doubtful address in the relay's place.
            (Route::Relay, Some(Path::Direct { .. })) => BASE_MTU,
            _ => self.direct.mtu(),
        }
    }

    /// Whether the peer has proven that it is there.
    pub fn has_proven(&self, path: Path) -> bool {
        match path {
            Path::Relay { .. } => self.path == Some(path),
            Path::Direct { remote } => self.direct.is_proven(remote),
        }
    }

    /// Notes that data went by the relay.
    pub fn on_relayed(&mut self, now: Instant) {
        self.relay_unheard.get_or_insert(now);
    }

    /// Notes that the relay carried something here.
    pub const fn relay_heard(&mut self) {
        self.is_relay_new = false;
        self.relay_unheard = None;
        self.quiet_from = None;
        self.quiet_pause = QUIET;
    }

    /// When the relay has been quiet for too long. What is asked about is what went out last, so a pause before it does
    /// not count; and between two questions there is more and more time.
    fn quiet_at(&self) -> Option<Instant> {
        let told = self.relay_unheard? + QUIET;
        Some(self.quiet_from.map_or(told, |from| from.max(told)))
    }

    /// Whether the relay has been quiet for too long; told once, and then after twice the pause.
    pub fn take_quiet(&mut self, now: Instant) -> Option<Path> {
        if now < self.quiet_at()? {
            return None;
        }
        self.relay_unheard = None;
        self.quiet_from = Some(now + self.quiet_pause);
        self.quiet_pause = (self.quiet_pause * 2).min(QUIET_LAST);
        self.path
    }

    /// Notes a session that a handshake made. An initiator seals with it at once; a responder after the
    /// first packet on it (white paper, section 5.4.5).
    pub fn add_session(&mut self, now: Instant, index: LocalIndex, side: Side) {
        if self.sessions.len() == MAX_SESSIONS {
            self.sessions.remove(0);
        }
        self.sessions.push(Session { index, established: now, side });
        if side == Side::Initiator {
            self.current = Some(index);
            self.pending = None;
            self.silent_at = None;
        }
    }

    /// Notes an answer to an initiation that came in an introduction.
    pub fn answer(&mut self, now: Instant, initiation: &[u8], response: &Response) {
        self.add_session(now, response.index, Side::Responder);
        let (bytes, index) = (response.bytes, response.index);
        self.answered = Some(Answered { initiation: initiation.to_vec(), response: bytes, index });
    }

    /// Whether a packet for this index may be opened.
    pub fn opens(&self, now: Instant, index: LocalIndex) -> bool {
        self.sessions
            .iter()
            .any(|session| session.index == index && now < session.established + REJECT_AFTER_TIME)
    }

    fn current(&self, now: Instant) -> Option<&Session> {
        let index = self.current?;
        self.sessions
            .iter()
            .find(|session| session.index == index && now < session.established + REJECT_AFTER_TIME)
    }

    /// Whether there is a session to seal with.
    pub fn can_seal(&self, now: Instant) -> bool {
        self.current(now).is_some()
    }

    /// Notes a packet that verified: it proves the session, and the path it came by.
    pub fn on_authentic(&mut self, index: LocalIndex, path: Path) -> Authentic {
        let mut change = Authentic::default();
        self.silent_at = None;
        let position = |wanted: LocalIndex| self.sessions.iter().position(|session| session.index == wanted);
        if self.current.and_then(position) < position(index) {
            self.current = Some(index);
            change.session_confirmed = true;
        }
        if self.answered.as_ref().is_some_and(|answered| answered.index == index) {
            self.answered = None;
        }
        if self.candidates.iter().any(|candidate| candidate.path == path) {
            change.proven = Some(Proven { path, replaced: self.path.replace(path) });
            self.pathless_since = None;
        }
        change
    }

    /// Notes that data came in on a session; whether the session is to be renewed for it.
    pub fn on_data_received(&mut self, now: Instant) -> bool {
        self.keepalive_at.get_or_insert(now + KEEPALIVE_TIMEOUT);
        self.initiator_older_than(now, REKEY_ON_RECEIVE)
    }

    /// Notes that data went out; whether the session is to be renewed for it.
    pub fn on_data_sent(&mut self, now: Instant) -> bool {
        self.silent_at.get_or_insert(now + SILENCE);
        self.on_sent();
        self.initiator_older_than(now, REKEY_AFTER_TIME)
    }

    /// Notes that anything went out.
    pub fn on_sent(&mut self) {
        self.keepalive_at = None;
    }

    fn initiator_older_than(&self, now: Instant, age: Duration) -> bool {
        self.current(now)
            .is_some_and(|session| session.side == Side::Initiator && now >= session.established + age)
    }

    /// Forgets sessions past their life.
    pub fn expire_sessions(&mut self, now: Instant) {
        self.sessions.retain(|session| now < session.established + REJECT_AFTER_TIME);
        if self.current(now).is_none() {
            self.current = None;
            // Without a session there is nobody to keep alive and nobody whose silence means anything;
            // the next packet begins a handshake.
            self.keepalive_at = None;
            self.silent_at = None;
        }
    }

    /// Whether the silence deadline has passed; it fires once per silence.
    pub fn take_silence(&mut self, now: Instant) -> bool {
        self.silent_at.is_some_and(|at| now >= at) && self.silent_at.take().is_some()
    }

    /// Whether a keepalive is due; it fires once.
    pub fn take_keepalive(&mut self, now: Instant) -> bool {
        self.keepalive_at.is_some_and(|at| now >= at) && self.keepalive_at.take().is_some()
    }

    /// Notes that an answer went by a path. Says which one it took the place of, when there are too many.
    pub fn add_candidate(&mut self, now: Instant, path: Path) -> Option<Path> {
        if self.path == Some(path) {
            return None;
        }
        if let Some(known) = self.candidates.iter_mut().find(|candidate| candidate.path == path) {
            known.since = now;
            return None;
        }
        let oldest = (self.candidates.len() == MAX_CANDIDATES).then(|| self.candidates.remove(0).path);
        self.candidates.push(Candidate { path, since: now });
        oldest
    }

    /// The next time this peer wants attention. An idle peer without a session wants none.
    pub fn deadline(&self) -> Option<(Instant, TimeoutReason)> {
        let oldest = self.sessions.iter().map(|session| session.established + REJECT_AFTER_TIME).min();
        // While an answer may still be used the peer is not given up, and to be due for it all that time would be a loop.
        let given_up = self.pathless_since.filter(|_| self.candidates.is_empty());
        [
            (
                self.candidates.iter().map(|candidate| candidate.since + UNPROVEN_LIFETIME).min(),
                TimeoutReason::Unproven,
            ),
            (given_up.map(|since| since + PATHLESS_LIFETIME), TimeoutReason::Pathless),
            (self.pending.map(|pending| pending.retry_at), TimeoutReason::HandshakeRetry),
            (self.keepalive_at, TimeoutReason::Keepalive),
            (self.silent_at, TimeoutReason::Silence),
            (self.quiet_at(), TimeoutReason::RelayQuiet),
            (self.direct.deadline(), TimeoutReason::Direct),
            (oldest, TimeoutReason::SessionEnd),
        ]
        .into_iter()
        .filter_map(|(at, reason)| at.map(|at| (at, reason)))
        .min()
    }
}
