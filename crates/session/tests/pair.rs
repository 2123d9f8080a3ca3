//! A dialler and an acceptor over a network made of a queue.

mod support;

use proptest::prelude::*;
use session::{
    Acceptor, AcceptorLimits, CloseCode, Dialler, Event, IDLE_TIMEOUT, LocalIdentity, LostReason, Output,
    SendError, SessionId,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use support::{DAY, Installation, WALL};
use trust::{Identity, Revocation, RevocationSet, RevokedSubject, SigningKey, Subject};
use wire::PopId;

const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 4000);
const SERVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1)), 443);
const POP: PopId = PopId::from_bytes([8; 16]);

#[expect(clippy::disallowed_methods, reason = "an Instant has no other beginning")]
fn start() -> Instant {
    Instant::now()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Client,
    Server,
}

struct Pair {
    now: Instant,
    client: Dialler,
    server: Acceptor,
    /// In flight: when it arrives, in which order it was sent, who gets it, what.
    wire: BTreeMap<(Instant, u64), (End, SocketAddr, Vec<u8>)>,
    sent: u64,
    client_address: SocketAddr,
    client_events: Vec<Event>,
    server_events: Vec<Event>,
    to_client: Vec<usize>,
    to_server: Vec<usize>,
    loss_percent: u64,
    noise: u64,
}

fn local(installation: &Installation, identity: Identity) -> (LocalIdentity, SigningKey) {
    let key = SigningKey::generate();
    let certificate = installation.certificate(identity, &key);
    (LocalIdentity::new(&certificate, &key).expect("belongs together"), key)
}

impl Pair {
    fn new(installation: &Installation, caller: Identity) -> Self {
        let (client, _) = local(installation, caller);
        Self::with_client(installation, client)
    }

    fn with_client(installation: &Installation, client: LocalIdentity) -> Self {
        Self::between(installation, installation, client, installation.pop(8), AcceptorLimits::default())
    }

    fn between(
        clients: &Installation,
        servers: &Installation,
        client: LocalIdentity,
        server: Identity,
        limits: AcceptorLimits,
    ) -> Self {
        let now = start();
        let (server, key) = local(servers, server);
        let server = Acceptor::new(&server, &key, servers.bundle.clone(), limits, now, WALL, [1; 32])
            .expect("an acceptor");
        Self {
            now,
            client: Dialler::new(client, clients.bundle.clone(), WALL, [2; 32]),
            server,
            wire: BTreeMap::new(),
            sent: 0,
            client_address: CLIENT,
            client_events: Vec::new(),
            server_events: Vec::new(),
            to_client: Vec::new(),
            to_server: Vec::new(),
            loss_percent: 0,
            noise: 12345,
        }
    }

    fn post(&mut self, to: End, from: SocketAddr, payload: Vec<u8>) {
        self.sent += 1;
        self.noise =
            self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (self.noise >> 33) % 100 < self.loss_percent {
            return;
        }
        let at = self.now + Duration::from_millis(10);
        self.wire.insert((at, self.sent), (to, from, payload));
    }

    /// Drains both sides; gives the earliest timeout.
    fn drain(&mut self) -> Instant {
        let client_at = loop {
            match self.client.poll_output(self.now) {
                Output::Transmit { to, payload } => {
                    assert_eq!(to, SERVER);
                    self.to_server.push(payload.len());
                    self.post(End::Server, self.client_address, payload);
                }
                Output::Event(event) => self.client_events.push(event),
                Output::Timeout { at, .. } => break at,
            }
        };
        let server_at = loop {
            match self.server.poll_output(self.now) {
                Output::Transmit { to, payload } => {
                    self.to_client.push(payload.len());
                    if to == self.client_address {
                        self.post(End::Client, SERVER, payload);
                    }
                }
                Output::Event(event) => self.server_events.push(event),
                Output::Timeout { at, .. } => break at,
            }
        };
        client_at.min(server_at)
    }

    /// Lets time pass until `done` or for `limit`; says whether it was done.
    fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            let timer = self.drain();
            if done(self) {
                return true;
            }
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let next = arrival.map_or(timer, |at| at.min(timer));
            if next > end {
                self.now = end;
                return false;
            }
            self.now = self.now.max(next);
            while let Some(entry) = self.wire.first_entry()
                && entry.key().0 <= self.now
            {
                let (to, from, payload) = entry.remove();
                match to {
                    End::Client => self.client.handle_input(self.now, from, &payload),
                    End::Server => self.server.handle_input(self.now, from, &payload),
                }
                self.drain();
            }
            self.client.handle_timeout(self.now);
            self.server.handle_timeout(self.now);
        }
    }

    fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    fn dial(&mut self) -> SessionId {
        self.client.dial(self.now, POP, SERVER).expect("dials")
    }

    fn server_session(&self) -> Option<SessionId> {
        self.server_events.iter().rev().find_map(|event| match event {
            Event::Connected { id, .. } => Some(*id),
            _ => None,
        })
    }

    /// Dials and waits until both sides are up.
    fn connect(&mut self) -> (SessionId, SessionId) {
        let id = self.dial();
        assert!(
            self.run_until(Duration::from_secs(9), |pair| pair.server_session().is_some()),
            "connects; client saw {:?}",
            self.client_events
        );
        (id, self.server_session().expect("connected"))
    }

    fn client_lost(&self) -> Option<LostReason> {
        lost(&self.client_events)
    }

    fn server_lost(&self) -> Option<LostReason> {
        lost(&self.server_events)
    }

    fn server_frames(&self) -> Vec<(u16, usize)> {
        frames(&self.server_events)
    }
}

fn lost(events: &[Event]) -> Option<LostReason> {
    events.iter().find_map(|event| match event {
        Event::Lost { reason, .. } => Some(*reason),
        _ => None,
    })
}

fn frames(events: &[Event]) -> Vec<(u16, usize)> {
    events
        .iter()
        .filter_map(|event| match event {
            Event::Frame { frame_type, body, .. } => Some((*frame_type, body.len())),
            _ => None,
        })
        .collect()
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn devices_connectors_and_controllers_register_and_frames_go_both_ways() {
    let installation = Installation::new(1);
    for caller in [installation.device(1), installation.connector(2), installation.controller()] {
        let mut pair = Pair::new(&installation, caller);
        let (client, server) = pair.connect();
        let Some(Event::Connected { peer, remote, .. }) = pair.server_events.first() else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!((peer.identity(), *remote), (caller, CLIENT));
        assert_eq!(pair.client.peer(client).expect("up").identity(), installation.pop(8));
        pair.client.send(client, 1, b"hello").expect("queued");
        pair.server.send(server, 32, &[0; 300_000]).expect("queued");
        pair.run(SECOND * 3);
        assert_eq!(pair.server_frames(), [(1, 5)]);
        assert_eq!(frames(&pair.client_events), [(32, 300_000)]);
        pair.client.close(pair.now, client, CloseCode::Done);
        pair.run(SECOND * 10);
        assert_eq!(pair.client_lost(), Some(LostReason::ClosedHere(CloseCode::Done)));
        assert_eq!(pair.server_lost(), Some(LostReason::ClosedByPeer(CloseCode::Done)));
        assert_eq!(pair.server.open_connections(), 0, "nothing stays behind");
        assert_eq!(pair.client.send(client, 1, b""), Err(SendError::NoSession));
    }
}

#[test]
fn the_first_contact_is_always_answered_by_one_small_retry() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.dial();
    pair.drain();
    let asked: usize = pair.to_server.iter().sum();
    let deadline = pair.now + Duration::from_millis(10);
    pair.run_until(Duration::from_millis(10), |_| false);
    assert_eq!(pair.now, deadline);
    let answered: usize = pair.to_client.iter().sum();
    assert_eq!(pair.server.stats().retries, u64::try_from(pair.to_client.len()).expect("few"));
    assert!(pair.to_client.iter().all(|len| *len < 150), "{:?}", pair.to_client);
    assert!(answered < asked, "{answered} of {asked}");
    assert_eq!((pair.server.open_connections(), pair.server.stats().accepted), (0, 0));
    assert!(pair.run_until(SECOND * 5, |pair| pair.server_session().is_some()));
    assert_eq!(pair.server.stats().accepted, 1);
    // A second session of the same client from the same address is a first contact again.
    let retries = pair.server.stats().retries;
    pair.dial();
    pair.run(SECOND * 2);
    assert!(pair.server.stats().retries > retries);
}

#[test]
fn spoofed_initials_leave_nothing_behind_and_get_less_than_they_sent() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.dial();
    let mut initials = Vec::new();
    while let Output::Transmit { payload, .. } = pair.client.poll_output(pair.now) {
        initials.push(payload);
    }
    let mut bytes_in = 0;
    for number in 0..2_000_u32 {
        let from = SocketAddr::from((number.to_be_bytes(), 9));
        for initial in &initials {
            bytes_in += initial.len();
            pair.server.handle_input(pair.now, from, initial);
            assert_eq!((pair.server.open_connections(), pair.server.incoming_buffer_bytes()), (0, 0));
        }
    }
    let mut bytes_out = 0;
    while let Output::Transmit { payload, .. } = pair.server.poll_output(pair.now) {
        bytes_out += payload.len();
    }
    assert!(bytes_out * 5 < bytes_in, "{bytes_out} out for {bytes_in} in");
    assert_eq!((pair.server.open_connections(), pair.server.incoming_buffer_bytes()), (0, 0));
    // And the flood took nobody's place.
    let mut initials = initials.into_iter();
    pair.server.handle_input(pair.now, CLIENT, &initials.next().expect("one"));
    pair.run(SECOND * 5);
    assert!(pair.server_session().is_some());
}

#[test]
fn a_short_initial_and_a_short_unknown_version_get_silence() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.dial();
    let Output::Transmit { payload: initial, .. } = pair.client.poll_output(pair.now) else {
        panic!("sends")
    };
    pair.server.handle_input(pair.now, CLIENT, &initial[..1199]);
    let mut unknown = initial.clone();
    unknown[1..5].copy_from_slice(&0x0a0a_0a0a_u32.to_be_bytes());
    pair.server.handle_input(pair.now, CLIENT, &unknown[..1199]);
    assert_eq!(pair.server.stats().short, 2);
    assert!(matches!(pair.server.poll_output(pair.now), Output::Timeout { .. }));
    // At full length an unknown version learns which one is spoken, in fewer bytes than it sent.
    pair.server.handle_input(pair.now, CLIENT, &unknown);
    let Output::Transmit { payload, .. } = pair.server.poll_output(pair.now) else { panic!("answers") };
    assert!(payload.len() < 100);
}

#[test]
fn a_retry_token_of_another_address_opens_nothing() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.dial();
    // The client answers the Retry; then its packets come from somewhere else.
    pair.run_until(Duration::from_millis(15), |_| false);
    assert!(pair.server.stats().retries > 0);
    let stranger = SocketAddr::from(([198, 51, 100, 9], 1));
    let flight: Vec<_> = std::mem::take(&mut pair.wire).into_values().collect();
    for (to, _, payload) in flight {
        if to == End::Client {
            pair.client.handle_input(pair.now, SERVER, &payload);
        }
    }
    while let Output::Transmit { payload, .. } = pair.client.poll_output(pair.now) {
        pair.server.handle_input(pair.now, stranger, &payload);
    }
    assert_eq!((pair.server.open_connections(), pair.server.stats().accepted), (0, 0));
}

fn refused_by_server(pair: &mut Pair) -> Option<LostReason> {
    pair.dial();
    pair.run_until(SECOND * 9, |pair| pair.client_lost().is_some());
    assert!(pair.server_events.is_empty(), "the owner hears nothing: {:?}", pair.server_events);
    pair.client_lost()
}

#[test]
fn a_pop_may_not_call_a_pop() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.pop(5));
    assert_eq!(refused_by_server(&mut pair), Some(LostReason::RefusedByPeer(49)));
}

#[test]
fn another_installations_device_is_refused_on_both_sides() {
    let (ours, theirs) = (Installation::new(1), Installation::new(2));
    let (client, _) = local(&theirs, theirs.device(1));
    // It would believe our PoP if it could: give it our bundle, so that the server has to refuse.
    let mut pair = Pair::between(&ours, &ours, client, ours.pop(8), AcceptorLimits::default());
    assert_eq!(refused_by_server(&mut pair), Some(LostReason::RefusedByPeer(48)));
    // And an agent of ours does not talk to their PoP.
    let (client, _) = local(&ours, ours.device(1));
    let mut pair = Pair::between(&ours, &theirs, client, theirs.pop(8), AcceptorLimits::default());
    pair.dial();
    pair.run_until(SECOND * 9, |pair| pair.client_lost().is_some());
    assert_eq!(pair.client_lost(), Some(LostReason::PeerRefusedHere(48)));
}

#[test]
fn an_expired_and_a_future_certificate_are_refused_with_a_hint_at_the_clock() {
    let installation = Installation::new(1);
    let key = SigningKey::generate();
    for (from, to) in [(WALL.minus(DAY * 10), WALL.minus(SECOND)), (WALL.plus(DAY), WALL.plus(DAY * 2))] {
        let der = installation.certificate_between(installation.device(1), &key, from, to);
        let client = LocalIdentity::new(&der, &key).expect("belongs together");
        let mut pair = Pair::with_client(&installation, client);
        let reason = refused_by_server(&mut pair).expect("refused");
        assert_eq!(reason, LostReason::RefusedByPeer(45));
        assert!(reason.to_string().contains("clock"), "{reason}");
    }
}

#[test]
fn the_pop_that_answers_must_be_the_pop_that_was_dialled() {
    let installation = Installation::new(1);
    let (client, _) = local(&installation, installation.device(1));
    for server in [installation.pop(9), installation.controller(), installation.device(8)] {
        let limits = AcceptorLimits::default();
        let mut pair = Pair::between(&installation, &installation, client.clone(), server, limits);
        pair.dial();
        pair.run_until(SECOND * 9, |pair| pair.client_lost().is_some());
        assert_eq!(pair.client_lost(), Some(LostReason::PeerRefusedHere(49)), "{server}");
    }
}

fn strike(installation: &Installation, identity: Identity) -> Arc<RevocationSet> {
    let entry = Revocation {
        installation: installation.id,
        signer: support::CONTROLLER,
        seq: 1,
        previous: [0; 32],
        at: WALL,
        subject: RevokedSubject::of(identity.subject()),
        generation: 1,
        keep_until: WALL.plus(DAY * 31),
        ext: None,
    };
    let mut set = RevocationSet::new();
    let _ = set.insert(&entry);
    Arc::new(set)
}

#[test]
fn a_struck_device_loses_its_session_and_gets_no_other() {
    let installation = Installation::new(1);
    let device = installation.device(1);
    assert!(matches!(device.subject(), Subject::Device(_)));
    let mut pair = Pair::new(&installation, device);
    pair.connect();
    pair.server.set_revocations(pair.now, strike(&installation, device));
    pair.run(SECOND);
    assert_eq!(pair.server_lost(), Some(LostReason::ClosedHere(CloseCode::Struck)));
    assert_eq!(pair.client_lost(), Some(LostReason::ClosedByPeer(CloseCode::Struck)));
    pair.client_events.clear();
    pair.server_events.clear();
    assert_eq!(refused_by_server(&mut pair), Some(LostReason::RefusedByPeer(44)));
}

#[test]
fn a_session_ends_when_its_certificate_does() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.connector(1));
    pair.connect();
    pair.server.set_wall(pair.now, WALL.plus(DAY * 28));
    pair.run(SECOND);
    assert_eq!(pair.server_lost(), None);
    pair.server.set_wall(pair.now, WALL.plus(DAY * 29));
    pair.run(SECOND);
    assert_eq!(pair.client_lost(), Some(LostReason::ClosedByPeer(CloseCode::Expired)));
}

#[test]
fn a_new_bundle_without_the_issuer_ends_its_sessions() {
    let (installation, other) = (Installation::new(1), Installation::new(2));
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.connect();
    pair.server
        .set_bundle(installation.chain_with_serial(2).verify(&installation.root_hash(), WALL).expect("own"));
    pair.run(SECOND);
    assert_eq!(pair.server_lost(), None, "the same keys under a later serial");
    pair.server.set_bundle(other.bundle.clone());
    pair.run(SECOND);
    assert_eq!(pair.client_lost(), Some(LostReason::ClosedByPeer(CloseCode::NotTrusted)));
}

#[test]
fn an_agents_frame_above_its_bound_ends_the_session_and_a_controllers_does_not() {
    let installation = Installation::new(1);
    let body = vec![0; wire::MAX_AGENT_MESSAGE - 1];
    let mut pair = Pair::new(&installation, installation.device(1));
    let (client, _) = pair.connect();
    pair.client.send(client, 1, &body[1..]).expect("queued");
    pair.client.send(client, 1, &body).expect("queued");
    pair.run(SECOND * 5);
    assert_eq!(pair.server_frames(), [(1, wire::MAX_AGENT_MESSAGE - 2)]);
    assert_eq!(pair.server_lost(), Some(LostReason::ClosedHere(CloseCode::TooLong)));
    assert_eq!(pair.client_lost(), Some(LostReason::ClosedByPeer(CloseCode::TooLong)));
    let mut pair = Pair::new(&installation, installation.controller());
    let (client, _) = pair.connect();
    pair.client.send(client, 66, &body).expect("queued");
    pair.run(SECOND * 5);
    assert_eq!(pair.server_frames(), [(66, body.len())]);
}

#[test]
fn a_full_queue_is_an_error_and_a_frame_beyond_the_protocol_too() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    let (client, server) = pair.connect();
    // The stream is the dialler's: until it has spoken, the acceptor's frames wait.
    pair.client.send(client, 1, b"hello").expect("queued");
    assert_eq!(pair.server.send(server, 1, &vec![0; wire::MAX_CONTROLLER_MESSAGE]), Err(SendError::TooLong));
    let chunk = vec![0; 100_000];
    let mut queued = 0;
    while pair.server.send(server, 1, &chunk).is_ok() {
        queued += chunk.len();
        assert!(queued <= 2 * wire::MAX_SEALED_REPLY, "the queue is bounded");
    }
    assert_eq!(pair.server.send(server, 1, &chunk), Err(SendError::Full));
    pair.run(SECOND * 20);
    assert_eq!(frames(&pair.client_events).len() * chunk.len(), queued);
    assert_eq!(pair.server.send(server, 1, &chunk), Ok(()));
}

#[test]
fn a_full_acceptor_says_so() {
    let installation = Installation::new(1);
    let (client, _) = local(&installation, installation.device(1));
    let limits = AcceptorLimits { sessions: 1, handshakes: 1 };
    let mut pair = Pair::between(&installation, &installation, client, installation.pop(8), limits);
    pair.connect();
    pair.dial();
    pair.run_until(SECOND * 9, |pair| pair.client_lost().is_some());
    assert_eq!(pair.client_lost(), Some(LostReason::Busy));
    // A post-quantum first flight is two datagrams; each that arrives is refused.
    assert!(pair.server.stats().full >= 1);
}

#[test]
fn silence_ends_a_session_after_the_idle_time_and_a_dead_pop_a_dial_sooner() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.connect();
    pair.run(IDLE_TIMEOUT + SECOND * 5);
    assert_eq!(pair.client_lost(), Some(LostReason::TimedOut));
    assert_eq!(pair.server_lost(), Some(LostReason::TimedOut));
    let mut pair = Pair::new(&installation, installation.device(1));
    pair.loss_percent = 100;
    pair.dial();
    assert!(pair.run_until(session::DIAL_TIMEOUT + SECOND, |pair| pair.client_lost().is_some()));
    assert_eq!(pair.client_lost(), Some(LostReason::TimedOut));
}

#[test]
fn a_restarted_pop_tells_its_sessions_at_their_next_packet() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    let (server, key) = local(&installation, installation.pop(8));
    let fresh = |now, seed| {
        let limits = AcceptorLimits::default();
        Acceptor::new(&server, &key, installation.bundle.clone(), limits, now, WALL, [seed; 32])
            .expect("an acceptor")
    };
    pair.server = fresh(pair.now, 1);
    let (client, _) = pair.connect();
    pair.run(SECOND);
    pair.server = fresh(pair.now, 2);
    pair.client.send(client, 2, b"keepalive").expect("queued");
    assert!(pair.run_until(SECOND, |pair| pair.client_lost().is_some()));
    assert_eq!(pair.client_lost(), Some(LostReason::Reset));
}

#[test]
fn a_client_that_moves_keeps_its_session_and_the_owner_hears_of_it() {
    let installation = Installation::new(1);
    let mut pair = Pair::new(&installation, installation.device(1));
    let (client, server) = pair.connect();
    pair.run(SECOND);
    pair.client_address = SocketAddr::from(([192, 0, 2, 77], 5000));
    pair.client.send(client, 2, b"from elsewhere").expect("queued");
    pair.run(SECOND * 3);
    let moved = pair.server_events.iter().any(|event| {
        matches!(event, Event::AddressChanged { id, remote } if *id == server && *remote == pair.client_address)
    });
    assert!(moved, "{:?}", pair.server_events);
    assert_eq!(pair.server_frames(), [(2, 14)]);
    pair.server.send(server, 33, b"there").expect("queued");
    pair.run(SECOND);
    assert_eq!(frames(&pair.client_events), [(33, 5)]);
}

#[test]
fn thirty_percent_loss_delays_and_loses_nothing() {
    let installation = Installation::new(1);
    for noise in 0..8 {
        let mut pair = Pair::new(&installation, installation.device(1));
        pair.noise = noise * 7919 + 1;
        pair.loss_percent = 30;
        let mut ends = None;
        // A dial may fail under such loss; agents dial again, and so does this.
        for _ in 0..5 {
            let id = pair.dial();
            let known = pair.server_events.len();
            if pair.run_until(session::DIAL_TIMEOUT + SECOND, |pair| {
                pair.client.peer(id).is_some()
                    && pair.server_events[known..]
                        .iter()
                        .any(|event| matches!(event, Event::Connected { .. }))
            }) {
                ends = pair.server_session().map(|server| (id, server));
                break;
            }
        }
        let (client, server) = ends.expect("connects in five dials");
        for number in 0..20_u16 {
            pair.client.send(client, number, &vec![1; 1000]).expect("queued");
            pair.server.send(server, number, &vec![1; 5000]).expect("queued");
        }
        let all = |events: &[Event], len| {
            let expected: Vec<(u16, usize)> = (0..20).map(|number| (number, len)).collect();
            frames(events) == expected
        };
        assert!(
            pair.run_until(IDLE_TIMEOUT, |pair| all(&pair.server_events, 1000)
                && all(&pair.client_events, 5000)),
            "seed {noise}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn garbage_panics_nobody_and_leaves_nothing(
        datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 1..20),
    ) {
        let installation = Installation::new(1);
        let mut pair = Pair::new(&installation, installation.device(1));
        for datagram in &datagrams {
            pair.server.handle_input(pair.now, CLIENT, datagram);
            pair.client.handle_input(pair.now, SERVER, datagram);
            let mut initial_like = datagram.clone();
            if let Some(head) = initial_like.first_chunk_mut::<5>() {
                *head = [0xC0 | (head[0] & 0x0F), 0, 0, 0, 1];
            }
            initial_like.resize(1200, 0);
            pair.server.handle_input(pair.now, CLIENT, &initial_like);
            pair.drain();
        }
        prop_assert_eq!((pair.server.open_connections(), pair.server.incoming_buffer_bytes()), (0, 0));
    }

    #[test]
    fn a_changed_bit_in_any_packet_of_a_handshake_costs_at_most_that_packet(
        at in 0_usize..1200, bit in 0_u8..8, packet in 0_u64..8,
    ) {
        let installation = Installation::new(1);
        let mut pair = Pair::new(&installation, installation.device(1));
        pair.dial();
        let mut broken = None;
        let done = pair.run_until(Duration::from_secs(9), |pair| {
            if broken.is_none()
                && let Some(mut entry) = pair.wire.last_entry()
                && entry.key().1 > packet
            {
                let payload = &mut entry.get_mut().2;
                let index = at % payload.len();
                payload[index] ^= 1 << bit;
                broken = Some(index);
            }
            pair.server_session().is_some() || pair.client_lost().is_some()
        });
        // A packet that a bit turned into an invalid token may be refused outright; all else goes on.
        prop_assert!(done, "{:?} {:?}", pair.client_events, broken);
    }
}

#[test]
fn a_key_of_another_certificate_is_no_identity() {
    let installation = Installation::new(1);
    let der = installation.certificate(installation.device(1), &SigningKey::generate());
    let error = LocalIdentity::new(&der, &SigningKey::generate()).expect_err("another key");
    assert_eq!(error, session::IdentityError::OtherKey);
    assert_eq!(
        LocalIdentity::new(b"no certificate", &SigningKey::generate()).expect_err("no certificate"),
        session::IdentityError::Certificate
    );
}
