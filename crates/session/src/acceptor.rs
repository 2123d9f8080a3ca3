//! The side that takes sessions: a PoP.

use crate::{
    close::CloseCode,
    connection_id::KeyedConnectionIds,
    engine::{Engine, Side},
    first_contact::{FirstPacket, Retries, TokenKey},
    output::{Event, Output, SendError, SessionId},
    tls::{IdentityError, LocalIdentity, acceptor_config},
    transport::{End, QUIC_V1, TokenClock, transport},
    vetting::{Expected, PeerRefused, Vetting},
};
use aws_lc_rs::hmac;
use quinn_proto::{Endpoint, EndpointConfig, Incoming, ServerConfig, ValidationTokenConfig};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{Certificate, RevocationSet, SigningKey, TrustBundle, UnixMs};

/// A source that has proven its address has this long for the rest of the handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A handshake that is not done after this may be given up for a new one when there is no room: it needs one round trip,
/// and whoever is farther away comes again when there is room.
const MAY_BE_GIVEN_UP_AFTER: Duration = Duration::from_millis(300);
/// How long a Retry may be answered: a round trip of a second each way, lost three times with QUIC's
/// back-off (1 + 2 + 4 s).
const TOKEN_LIFETIME: Duration = Duration::from_secs(10);
/// RFC 9000 section 14.1: an Initial's datagram has at least this many bytes.
const SMALLEST_INITIAL: usize = 1200;
/// Sessions judged again in one call after the bundle changed: 64 × 50 µs keep a loop's pause near
/// 3 ms.
const RECHECKS_IN_A_ROW: usize = 64;

/// How many sessions an acceptor takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptorLimits {
    /// Sessions in all, those in the handshake and those that drain included.
    pub sessions: usize,
    /// Handshakes under way.
    pub handshakes: usize,
}

impl Default for AcceptorLimits {
    /// 30 kB a session and 1.5 kB of handshake messages each: below 1 GB at the worst. Handshakes: what a core does in
    /// a second, and as many again that wait for their peer.
    fn default() -> Self {
        Self { sessions: 30_000, handshakes: 5_000 }
    }
}

/// What an acceptor did. Counts since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AcceptorStats {
    /// Retry packets sent to unproven sources.
    pub retries: u64,
    /// Long-header datagrams shorter than an Initial may be, dropped unanswered.
    pub short: u64,
    /// Handshakes begun by proven sources.
    pub accepted: u64,
    /// Proven sources turned away because a limit was reached.
    pub full: u64,
    /// Handshakes given up for newer ones.
    pub given_up: u64,
    /// First packets of proven sources that QUIC refused.
    pub broken: u64,
}

/// Takes sessions of devices, connectors and controllers.
pub struct Acceptor {
    engine: Engine,
    vetting: Arc<Vetting>,
    server: ServerConfig,
    retries: Box<Retries>,
    clock: Arc<TokenClock>,
    limits: AcceptorLimits,
    stats: AcceptorStats,
    expiries: BTreeSet<(UnixMs, SessionId)>,
    expiry_of: BTreeMap<SessionId, UnixMs>,
    rechecks: VecDeque<SessionId>,
}

impl Acceptor {
    /// An acceptor that shows `local`. `key` is the PoP's identity key: what outlives a restart (how
    /// connection ids are recognised, stateless resets) is derived from it, so that peers of a restarted
    /// PoP learn at their next packet that it has forgotten them. `seed` is fresh randomness; retry
    /// tokens live and die with it.
    ///
    /// # Errors
    /// The identity cannot be used.
    pub fn new(
        local: &LocalIdentity,
        key: &SigningKey,
        bundle: TrustBundle,
        limits: AcceptorLimits,
        now: Instant,
        wall: UnixMs,
        seed: [u8; 32],
    ) -> Result<Self, IdentityError> {
        let vetting = Arc::new(Vetting::new(bundle, wall));
        let clock = Arc::new(TokenClock::new(now));
        let token_key =
            Arc::new(TokenKey::new(if planted::is("one-token-key-for-all") { &[0; 32] } else { &seed }));
        let server = server_config(local, &vetting, &clock, Arc::clone(&token_key))?;
        // Other ids than the library draws: the same key recognises them, another seed chooses them.
        let ids_seed = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &seed), b"tidegate/pop/retry-id/1");
        let ids = KeyedConnectionIds::new(connection_id_key(key, &seed).as_ref(), ids_seed.as_ref());
        let retries = Box::new(Retries::new(token_key, ids, Arc::clone(&clock)));
        let endpoint =
            Endpoint::new(Arc::new(endpoint_config(key, seed)), Some(Arc::new(server.clone())), false, None);
        let engine = Engine::new(Side::Acceptor, endpoint, Arc::clone(&vetting));
        Ok(Self {
            engine,
            vetting,
            server,
            retries,
            clock,
            limits,
            stats: AcceptorStats::default(),
            expiries: BTreeSet::new(),
            expiry_of: BTreeMap::new(),
            rechecks: VecDeque::new(),
        })
    }

    /// The wall clock for judging certificates; ends sessions whose certificate has expired. Call it
    /// about once a second.
    pub fn set_wall(&mut self, now: Instant, wall: UnixMs) {
        self.vetting.set_wall(wall);
        while let Some(&(at, id)) = self.expiries.first()
            && at <= wall
        {
            self.expiries.pop_first();
            if self.engine.peer(id).is_some() {
                self.engine.close(now, id, CloseCode::Expired, None);
            }
        }
    }

    /// Believes another bundle from now on, also in handshakes under way; running sessions are judged
    /// again, a few at each [`poll_output`](Self::poll_output).
    pub fn set_bundle(&mut self, bundle: TrustBundle) {
        self.vetting.set_bundle(bundle);
        self.rechecks = self.engine.up().map(|(id, _)| id).collect();
    }

    /// Refuses whom these strike, from now on, and ends their sessions.
    pub fn set_revocations(&mut self, now: Instant, revocations: Arc<RevocationSet>) {
        self.vetting.set_revocations(revocations);
        let struck: Vec<SessionId> = self
            .engine
            .up()
            .filter(|(_, peer)| self.vetting.is_struck(peer).is_err())
            .map(|(id, _)| id)
            .collect();
        for id in struck {
            self.engine.close(now, id, CloseCode::Struck, None);
        }
    }

    /// Takes so many sessions from now on; who is here stays.
    pub const fn set_most_sessions(&mut self, sessions: usize) {
        self.limits.sessions = sessions;
    }

    /// Shows another certificate in handshakes from now on.
    ///
    /// # Errors
    /// The identity cannot be used; the one before stays.
    pub fn set_identity(&mut self, local: &LocalIdentity) -> Result<(), IdentityError> {
        self.server.crypto = acceptor_config(local, &self.vetting)?;
        self.engine.endpoint().set_server_config(Some(Arc::new(self.server.clone())));
        Ok(())
    }

    /// Queues a frame. The stream is the dialler's: until its first frame has come, frames wait.
    ///
    /// # Errors
    /// The session is not up, or its queue is full.
    pub fn send(&mut self, id: SessionId, frame_type: u16, body: &[u8]) -> Result<(), SendError> {
        self.engine.send(id, frame_type, body)
    }

    /// Ends a session. [`Event::Lost`](crate::Event::Lost) follows.
    pub fn close(&mut self, now: Instant, id: SessionId, code: CloseCode) {
        self.engine.close(now, id, code, None);
    }

    /// The same, and says when to come back. [`Event::Lost`](crate::Event::Lost) has it at the other end.
    pub fn close_for(&mut self, now: Instant, id: SessionId, code: CloseCode, retry_after: Duration) {
        self.engine.close(now, id, code, Some(retry_after));
    }

    /// The peer of a session that is up.
    #[must_use]
    pub fn peer(&self, id: SessionId) -> Option<&Certificate> {
        self.engine.peer(id)
    }

    /// Where the peer of a session is.
    #[must_use]
    pub fn remote(&self, id: SessionId) -> Option<SocketAddr> {
        self.engine.remote(id)
    }

    /// Sessions in QUIC's tables: up, in the handshake, draining. An unproven source is none of these.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.engine.endpoint_ref().open_connections()
    }

    /// Whether a handshake with this source is under way: its packets complete what was begun.
    #[must_use]
    pub fn is_handshaking(&self, remote: SocketAddr) -> bool {
        self.engine.is_handshaking(remote)
    }

    /// Bytes held for sources that are not accepted yet; always 0 between calls.
    #[must_use]
    pub fn incoming_buffer_bytes(&self) -> u64 {
        self.engine.endpoint_ref().incoming_buffer_bytes()
    }

    /// What was done so far.
    #[must_use]
    pub const fn stats(&self) -> AcceptorStats {
        self.stats
    }

    /// Takes one datagram (one GRO segment) that [`wire::classify`] calls QUIC.
    pub fn handle_input(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        // The cheapest test first: whoever asks for an answer has paid for it with a full datagram.
        if is_short_first_packet(datagram) {
            self.stats.short += 1;
            return;
        }
        self.clock.advance(now);
        if let Some(packet) = FirstPacket::read(datagram)
            && !planted::is("unproven-source-admitted")
        {
            self.stats.retries += 1;
            let answer = self.retries.answer(&*self.server.crypto, from, packet);
            return self.engine.answer(from, answer);
        }
        if let Some(incoming) = self.engine.handle_input(now, from, datagram) {
            self.admit(now, incoming);
        }
    }

    /// Decides about a first packet at once: nothing about it is kept unless its source is proven.
    fn admit(&mut self, now: Instant, incoming: Incoming) {
        if !incoming.remote_address_validated() && !planted::is("unproven-source-admitted") {
            self.stats.retries += 1;
            self.engine.reply(|endpoint, buffer| match endpoint.retry(incoming, buffer) {
                Ok(retry) => (Some(retry), ()),
                Err(error) => {
                    // QUIC gives a Retry to every source that is not proven; if it will not, the source gets
                    // nothing.
                    endpoint.ignore(error.into_incoming());
                    (None, ())
                }
            });
            return;
        }
        // A full table turns itself around as the queues in front of it do: who began long ago and is not done makes
        // room for who is here now.
        let is_full = self.engine.handshakes() >= self.limits.handshakes;
        let has_room = !is_full
            || now.checked_sub(MAY_BE_GIVEN_UP_AFTER).is_some_and(|before| {
                let given_up = self.engine.give_up_oldest(now, before);
                self.stats.given_up += u64::from(given_up);
                given_up
            });
        let is_crowded =
            self.engine.sessions() >= self.limits.sessions && !planted::is("sessions-without-end");
        if is_crowded || !has_room {
            self.stats.full += 1;
            self.engine.reply(|endpoint, buffer| (Some(endpoint.refuse(incoming, buffer)), ()));
            return;
        }
        let accepted =
            self.engine.reply(|endpoint, buffer| match endpoint.accept(incoming, now, buffer, None) {
                Ok(pair) => (None, Some(pair)),
                Err(error) => (error.response, None),
            });
        match accepted {
            Some((handle, connection)) => {
                self.stats.accepted += 1;
                self.engine.add(handle, connection, Expected::Callers, now, now + HANDSHAKE_TIMEOUT);
            }
            None => self.stats.broken += 1,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.clock.advance(now);
        self.engine.handle_timeout(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.recheck(now);
        match self.engine.poll(now) {
            Some(output) => {
                match &output {
                    Output::Event(Event::Connected { id, peer, .. }) => {
                        self.expiries.insert((peer.not_after(), *id));
                        self.expiry_of.insert(*id, peer.not_after());
                    }
                    Output::Event(Event::Lost { id, .. }) => {
                        if let Some(at) = self.expiry_of.remove(id) {
                            self.expiries.remove(&(at, *id));
                        }
                    }
                    _ => {}
                }
                output
            }
            None if !self.rechecks.is_empty() => {
                Output::Timeout { at: now, reason: "sessions to judge under the new bundle" }
            }
            None => self.engine.next_timeout(now),
        }
    }

    fn recheck(&mut self, now: Instant) {
        let count = self.rechecks.len().min(RECHECKS_IN_A_ROW);
        for id in self.rechecks.drain(..count).collect::<Vec<_>>() {
            let verdict = self.engine.peer(id).map(|peer| self.vetting.judge(peer.der(), Expected::Callers));
            let code = match verdict {
                None | Some(Ok(_)) => continue,
                Some(Err(PeerRefused::Struck)) => CloseCode::Struck,
                Some(Err(_)) => CloseCode::NotTrusted,
            };
            self.engine.close(now, id, code, None);
        }
    }
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acceptor({} sessions, wall {})", self.engine.sessions(), self.vetting.wall())
    }
}

/// A long header in a datagram that is too short for an Initial, and that is no later packet of a known
/// connection either: those may be short, so only the Initial and the unknown version are held to
/// it (RFC 9000 sections 5.2.2, 14.1, 17.2).
fn is_short_first_packet(datagram: &[u8]) -> bool {
    const LONG_HEADER: u8 = 0x80;
    const TYPE: u8 = 0x30;
    const INITIAL: u8 = 0x00;
    let Some((first, rest)) = datagram.split_first() else { return true };
    if first & LONG_HEADER == 0 || datagram.len() >= SMALLEST_INITIAL {
        return false;
    }
    match rest.first_chunk::<4>().map(|version| u32::from_be_bytes(*version)) {
        // A client pads each datagram with an Initial in it, but acknowledges the server's Initial in one that
        // may hold a Handshake packet behind it: both count into the 1200.
        Some(QUIC_V1) => first & TYPE == INITIAL,
        _ => true,
    }
}

/// What outlives a restart: one secret, several uses, told apart by their labels (NIST SP 800-108: key derivation by
/// HMAC).
fn derive(key: &SigningKey, seed: &[u8; 32], label: &[u8]) -> hmac::Tag {
    // Planted: a key that dies with the process: after a restart nobody learns that they were forgotten.
    let secret = if planted::is("forgets-its-reset-key") { seed } else { key.expose_seed() };
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), label)
}

fn connection_id_key(key: &SigningKey, seed: &[u8; 32]) -> hmac::Tag {
    derive(key, seed, b"tidegate/pop/connection-id/1")
}

fn endpoint_config(key: &SigningKey, seed: [u8; 32]) -> EndpointConfig {
    let reset = derive(key, &seed, b"tidegate/pop/stateless-reset/1");
    let reset = hmac::Key::new(hmac::HMAC_SHA256, reset.as_ref());
    let id = connection_id_key(key, &seed);
    let mut config = EndpointConfig::new(Arc::new(reset));
    config
        .cid_generator(move || Box::new(KeyedConnectionIds::new(id.as_ref(), &seed)))
        // One for each packet of a forgotten session: after a restart everybody is to learn of it. It is shorter than
        // what it answers (RFC 9000 section 10.3.3), so that nobody is flooded by it and two ends do not go on for ever.
        .min_reset_interval(Duration::ZERO)
        .grease_quic_bit(false)
        .supported_versions(vec![QUIC_V1])
        .rng_seed(Some(seed));
    config
}

fn server_config(
    local: &LocalIdentity,
    vetting: &Arc<Vetting>,
    clock: &Arc<TokenClock>,
    token_key: Arc<TokenKey>,
) -> Result<ServerConfig, IdentityError> {
    let mut server = ServerConfig::new(acceptor_config(local, vetting)?, token_key);
    // Tokens only from Retry: a later contact is a first contact again.
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    server
        .transport_config(transport(End::Acceptor))
        .validation_token_config(tokens)
        .retry_token_lifetime(if planted::is("tokens-for-ever") {
            TOKEN_LIFETIME * 1_000
        } else {
            TOKEN_LIFETIME
        })
        .time_source(Arc::clone(clock) as Arc<dyn quinn_proto::TimeSource>)
        .migration(true)
        // Each first packet is decided in the call that brings it: none waits, none is buffered.
        .max_incoming(1)
        .incoming_buffer_size(0)
        .incoming_buffer_size_total(0);
    Ok(server)
}
