//! Two sides of a tunnel on a virtual clock.

#![allow(
    clippy::disallowed_methods,
    reason = "a test reads the clock once, as the start of its virtual time"
)]

use proptest::prelude::*;
use std::time::{Duration, Instant};
use tunnel::{
    BindMessage, BoundPair, DropReason, Event, MAX_QUEUED_PACKETS, Output, Path, PeerId, SealError,
    TimeoutReason, Transmit, TunnelError, Tunnels, WireGuardPrivateKey,
};
use wire::{ChannelId, PopId, RELAY_HEADER_LEN};

fn relay(channel: u64) -> Path {
    Path::relay(PopId::from_bytes([9; 16]), ChannelId::from_random(channel))
}

fn ip_packet(length: u16, fill: u8) -> Vec<u8> {
    let mut packet = vec![fill; usize::from(length)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// What one side wants, until its timeout.
#[derive(Default)]
struct Drained {
    transmits: Vec<Transmit>,
    inner: Vec<Vec<u8>>,
    events: Vec<Event>,
    binds: Vec<BindMessage>,
    timeout: Option<tunnel::Timeout>,
}

fn drain(side: &mut Tunnels) -> Drained {
    let mut drained = Drained::default();
    loop {
        match side.poll_output() {
            Output::Transmit(transmit) => drained.transmits.push(transmit),
            Output::Inner { packet, .. } => drained.inner.push(packet),
            Output::Event(event) => drained.events.push(event),
            Output::Bind { message, .. } => drained.binds.push(message),
            Output::Timeout(timeout) => {
                drained.timeout = timeout;
                return drained;
            }
        }
    }
}

/// A client, a connector, and the PoP between them, which knows the client's channel as 1 and the
/// connector's as 2.
struct Pair {
    client: Tunnels,
    connector: Tunnels,
    to_connector: PeerId,
    to_client: PeerId,
    now: Instant,
}

const CLIENT_PATH: u64 = 1;
const CONNECTOR_PATH: u64 = 2;

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let mut client = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
        let mut connector = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
        let (to_connector, initiation) = client.connect(now, connector.public_key()).expect("room");
        let accepted = connector
            .accept_initiation(now, client.public_key(), &initiation, relay(CONNECTOR_PATH))
            .expect("a true initiation");
        client
            .accept_response(now, to_connector, &accepted.response, relay(CLIENT_PATH))
            .expect("a true response");
        Self { client, connector, to_connector, to_client: accepted.peer, now }
    }

    fn proven() -> Self {
        let mut pair = Self::new();
        pair.exchange();
        pair
    }

    /// Carries datagrams both ways until nobody has any. Returns (client's, connector's) outputs.
    fn exchange(&mut self) -> (Drained, Drained) {
        let mut seen = (Drained::default(), Drained::default());
        loop {
            let from_client = drain(&mut self.client);
            let from_connector = drain(&mut self.connector);
            let quiet = from_client.transmits.is_empty() && from_connector.transmits.is_empty();
            for transmit in &from_client.transmits {
                let path = self.other_end(transmit.path);
                self.connector.handle_input(self.now, path, &transmit.bytes[RELAY_HEADER_LEN..]);
            }
            for transmit in &from_connector.transmits {
                let path = self.other_end(transmit.path);
                self.client.handle_input(self.now, path, &transmit.bytes[RELAY_HEADER_LEN..]);
            }
            for (sum, part) in [(&mut seen.0, from_client), (&mut seen.1, from_connector)] {
                sum.transmits.extend(part.transmits);
                sum.inner.extend(part.inner);
                sum.events.extend(part.events);
                sum.binds.extend(part.binds);
                sum.timeout = part.timeout;
            }
            if quiet {
                return seen;
            }
        }
    }

    fn other_end(&self, path: Path) -> Path {
        let Path::Relay { channel, .. } = path else { panic!("only relays here") };
        relay(channel.bits() ^ 3)
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.client.handle_timeout(self.now);
        self.connector.handle_timeout(self.now);
    }

    /// A packet each way, which arrive.
    fn assert_data_flows(&mut self) {
        self.client.seal(self.now, self.to_connector, &ip_packet(100, 7)).expect("taken");
        self.connector.seal(self.now, self.to_client, &ip_packet(1280, 8)).expect("taken");
        let (client, connector) = self.exchange();
        assert_eq!(connector.inner, [ip_packet(100, 7)]);
        assert_eq!(client.inner, [ip_packet(1280, 8)]);
    }
}

#[test]
fn a_handshake_carries_data_both_ways() {
    let mut pair = Pair::new();
    let (_, connector) = pair.exchange();
    assert_eq!(
        connector.events,
        [Event::Proven { peer: pair.to_client, path: relay(CONNECTOR_PATH), replaced: None }]
    );
    pair.assert_data_flows();
}

#[test]
fn nothing_is_sent_towards_a_peer_before_its_first_packet() {
    let mut pair = Pair::new();
    drain(&mut pair.client);
    pair.connector.seal(pair.now, pair.to_client, &ip_packet(60, 1)).expect("waits");
    let drained = drain(&mut pair.connector);
    assert!(drained.transmits.is_empty() && drained.events.is_empty());
    assert_eq!(pair.connector.path_of(pair.to_client), None);
    // The client's first packet frees it.
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(60, 2)).expect("taken");
    let (client, _) = pair.exchange();
    assert_eq!(client.inner, [ip_packet(60, 1)]);
}

#[test]
fn a_peer_that_never_proves_its_key_is_removed() {
    let mut pair = Pair::new();
    drain(&mut pair.client);
    pair.advance(Duration::from_secs(14));
    assert_eq!(pair.connector.len(), 1);
    pair.advance(Duration::from_secs(2));
    assert!(pair.connector.is_empty());
    let drained = drain(&mut pair.connector);
    assert!(
        matches!(drained.events[..], [Event::Unused { .. }, Event::Removed { .. }]),
        "{:?}",
        drained.events
    );
    assert_eq!(drained.timeout, None);
}

#[test]
fn an_initiation_made_with_another_key_is_refused() {
    let now = Instant::now();
    let mut mallory = Tunnels::new(&WireGuardPrivateKey::from_bytes([6; 32]), 1, now);
    let client = WireGuardPrivateKey::from_bytes([1; 32]).public_key();
    let mut connector = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
    let (_, initiation) = mallory.connect(now, connector.public_key()).expect("room");
    let refused = connector.accept_initiation(now, client, &initiation, relay(2));
    assert_eq!(refused, Err(TunnelError::WrongKey));
    assert!(connector.is_empty());
}

#[test]
fn an_initiation_changed_at_any_byte_is_refused() {
    let now = Instant::now();
    let mut client = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
    let mut connector = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
    let (_, initiation) = client.connect(now, connector.public_key()).expect("room");
    // The last 16 bytes are the second MAC, which only means something under load
    // (white paper, section 5.4.7).
    for byte in 0..132 {
        let mut forged = initiation;
        forged[byte] ^= 1;
        let refused = connector.accept_initiation(now, client.public_key(), &forged, relay(2));
        assert!(refused.is_err(), "byte {byte}");
    }
    for length in [0, 147] {
        let refused = connector.accept_initiation(now, client.public_key(), &initiation[..length], relay(2));
        assert_eq!(refused, Err(TunnelError::Malformed));
    }
    assert!(connector.is_empty());
}

#[test]
fn a_replayed_initiation_leaves_the_live_session_alone() {
    let now = Instant::now();
    let mut client = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
    let mut connector = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
    let (to_connector, initiation) = client.connect(now, connector.public_key()).expect("room");
    let key = client.public_key();
    let accepted = connector.accept_initiation(now, key, &initiation, relay(CONNECTOR_PATH)).expect("true");
    client.accept_response(now, to_connector, &accepted.response, relay(CLIENT_PATH)).expect("true");
    let mut pair = Pair { client, connector, to_connector, to_client: accepted.peer, now };
    pair.exchange();

    let replay = pair.connector.accept_initiation(now, key, &initiation, relay(77));
    assert_eq!(replay, Err(TunnelError::Replayed));
    pair.connector.handle_input(now, relay(CONNECTOR_PATH), &initiation);
    assert_eq!(pair.connector.drops().get(&DropReason::Replayed), Some(&1));
    assert_eq!(pair.connector.path_of(pair.to_client), Some(relay(CONNECTOR_PATH)));
    pair.assert_data_flows();
}

#[test]
fn a_replayed_packet_is_delivered_once() {
    let mut pair = Pair::proven();
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(40, 3)).expect("taken");
    let drained = drain(&mut pair.client);
    for _ in 0..2 {
        pair.connector.handle_input(
            pair.now,
            relay(CONNECTOR_PATH),
            &drained.transmits[0].bytes[RELAY_HEADER_LEN..],
        );
    }
    assert_eq!(drain(&mut pair.connector).inner.len(), 1);
    assert_eq!(pair.connector.drops().get(&DropReason::Replayed), Some(&1));
}

#[test]
fn the_same_open_through_a_second_pop_gets_the_same_answer_until_one_is_used() {
    let now = Instant::now();
    let mut client = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
    let mut connector = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
    let (to_connector, initiation) = client.connect(now, connector.public_key()).expect("room");
    let key = client.public_key();
    let first = connector.accept_initiation(now, key, &initiation, relay(7)).expect("true");
    let second = connector.accept_initiation(now, key, &initiation, relay(CONNECTOR_PATH)).expect("again");
    assert_eq!(first, second);
    // The first PoP's answer was lost; the second's is used.
    client.accept_response(now, to_connector, &second.response, relay(CLIENT_PATH)).expect("true");
    let mut pair = Pair { client, connector, to_connector, to_client: first.peer, now };
    let (_, seen) = pair.exchange();
    let peer = pair.to_client;
    assert_eq!(
        seen.events,
        [
            Event::Unused { peer, path: relay(7) },
            Event::Proven { peer, path: relay(CONNECTOR_PATH), replaced: None }
        ]
    );
    let replay = pair.connector.accept_initiation(now, key, &initiation, relay(8));
    assert_eq!(replay, Err(TunnelError::Replayed));
    pair.assert_data_flows();
}

#[test]
fn a_packet_of_one_peer_on_the_path_of_another_is_dropped() {
    let mut pair = Pair::proven();
    let mut other = Tunnels::new(&WireGuardPrivateKey::from_bytes([3; 32]), 3, pair.now);
    let (_, initiation) = other.connect(pair.now, pair.connector.public_key()).expect("room");
    pair.connector
        .accept_initiation(pair.now, other.public_key(), &initiation, relay(50))
        .expect("a second peer");
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(40, 3)).expect("taken");
    let drained = drain(&mut pair.client);
    pair.connector.handle_input(pair.now, relay(50), &drained.transmits[0].bytes[RELAY_HEADER_LEN..]);
    assert!(drain(&mut pair.connector).inner.is_empty());
    assert_eq!(pair.connector.drops().get(&DropReason::UnknownSession), Some(&1));
}

#[test]
fn a_path_that_belongs_to_one_peer_is_not_given_to_another() {
    let mut pair = Pair::proven();
    let mut other = Tunnels::new(&WireGuardPrivateKey::from_bytes([3; 32]), 3, pair.now);
    let (_, initiation) = other.connect(pair.now, pair.connector.public_key()).expect("room");
    let taken =
        pair.connector.accept_initiation(pair.now, other.public_key(), &initiation, relay(CONNECTOR_PATH));
    assert_eq!(taken, Err(TunnelError::PathTaken));
}

#[test]
fn a_client_that_lost_its_channel_opens_again_and_keeps_its_number() {
    let mut pair = Pair::proven();
    pair.connector.drop_path(pair.now, relay(CONNECTOR_PATH));
    pair.client.drop_path(pair.now, relay(CLIENT_PATH));
    pair.connector.seal(pair.now, pair.to_client, &ip_packet(90, 4)).expect("waits for the client");
    assert!(drain(&mut pair.connector).transmits.is_empty());
    pair.advance(Duration::from_secs(20));

    let connector_key = pair.connector.public_key();
    let (again, initiation) = pair.client.connect(pair.now, connector_key).expect("known");
    assert_eq!(again, pair.to_connector);
    // Channels 4 and 7: `other_end` flips the two low bits.
    let accepted = pair
        .connector
        .accept_initiation(pair.now, pair.client.public_key(), &initiation, relay(7))
        .expect("a newer initiation");
    assert_eq!(accepted.peer, pair.to_client);
    pair.client.accept_response(pair.now, again, &accepted.response, relay(4)).expect("true");
    let (client, connector) = pair.exchange();
    assert_eq!(client.inner, [ip_packet(90, 4)]);
    assert_eq!(connector.events, [Event::Proven { peer: pair.to_client, path: relay(7), replaced: None }]);
    pair.assert_data_flows();
}

#[test]
fn a_new_channel_is_used_only_after_a_packet_came_by_it() {
    let mut pair = Pair::proven();
    let (_, initiation) = pair.client.connect(pair.now, pair.connector.public_key()).expect("known");
    let accepted = pair
        .connector
        .accept_initiation(pair.now, pair.client.public_key(), &initiation, relay(7))
        .expect("a newer initiation");
    // The answer is still under way: everything goes on as before.
    pair.assert_data_flows();
    assert_eq!(pair.connector.path_of(pair.to_client), Some(relay(CONNECTOR_PATH)));
    let replaced =
        pair.client.accept_response(pair.now, pair.to_connector, &accepted.response, relay(4)).expect("true");
    assert_eq!(replaced, Some(relay(CLIENT_PATH)));
    let (_, mut connector) = pair.exchange();
    connector.events.retain(|event| !matches!(event, Event::Mtu { .. }));
    let moved = Event::Proven { peer: pair.to_client, path: relay(7), replaced: Some(relay(CONNECTOR_PATH)) };
    assert_eq!(connector.events, [moved]);
    pair.assert_data_flows();
    // What still comes by the old channel belongs to nobody.
    pair.connector.handle_input(pair.now, relay(CONNECTOR_PATH), &[4; 64]);
    assert_eq!(pair.connector.drops().get(&DropReason::UnknownPath), Some(&1));
}

#[test]
fn what_proves_a_new_channel_goes_out_again_when_its_pop_asks_where_we_are_and_not_once_it_has_carried_something()
 {
    let mut pair = Pair::new();
    drain(&mut pair.client);
    // The PoP took nothing from there: it asks first.
    pair.client.asked_about(pair.now, relay(CLIENT_PATH));
    assert_eq!(drain(&mut pair.client).transmits.len(), 1);
    pair.client.asked_about(pair.now, relay(4));
    assert_eq!(drain(&mut pair.client).transmits.len(), 0, "another channel");
    let mut pair = Pair::proven();
    pair.assert_data_flows();
    pair.client.asked_about(pair.now, relay(CLIENT_PATH));
    assert_eq!(drain(&mut pair.client).transmits.len(), 0, "it carries");
}

#[test]
fn a_peer_that_lost_its_path_and_never_came_back_is_removed() {
    let mut pair = Pair::proven();
    pair.connector.drop_path(pair.now, relay(CONNECTOR_PATH));
    pair.advance(Duration::from_secs(179));
    assert_eq!(pair.connector.len(), 1);
    pair.advance(Duration::from_secs(2));
    assert!(pair.connector.is_empty());
}

#[test]
fn a_peer_that_comes_back_at_the_last_moment_is_kept_until_its_answer_is_used_or_never_was() {
    for is_used in [true, false] {
        let mut pair = Pair::proven();
        pair.connector.drop_path(pair.now, relay(CONNECTOR_PATH));
        pair.client.drop_path(pair.now, relay(CLIENT_PATH));
        pair.advance(Duration::from_secs(178));
        let (_, initiation) = pair.client.connect(pair.now, pair.connector.public_key()).expect("known");
        let accepted = pair
            .connector
            .accept_initiation(pair.now, pair.client.public_key(), &initiation, relay(7))
            .expect("a newer initiation");
        // Its time without a path is over, and the answer is still under way.
        pair.advance(Duration::from_secs(3));
        assert_eq!(pair.connector.len(), 1);
        let timeout = drain(&mut pair.connector).timeout.expect("it may never be used");
        assert!(timeout.at > pair.now, "{:?} is due all the time", timeout.reason);
        if is_used {
            pair.client
                .accept_response(pair.now, pair.to_connector, &accepted.response, relay(4))
                .expect("true");
            pair.exchange();
            pair.assert_data_flows();
        } else {
            pair.advance(Duration::from_secs(13));
            assert!(pair.connector.is_empty(), "nobody came");
        }
    }
}

#[test]
fn sending_on_a_session_of_two_minutes_renews_it_over_the_path() {
    let mut pair = Pair::proven();
    pair.assert_data_flows();
    pair.advance(Duration::from_secs(121));
    pair.exchange();
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(40, 1)).expect("taken");
    let drained = drain(&mut pair.client);
    let kinds: Vec<u8> = drained.transmits.iter().map(|transmit| transmit.bytes[RELAY_HEADER_LEN]).collect();
    assert_eq!(kinds, [4, 1], "the packet on the old session, then an initiation");
    for transmit in &drained.transmits {
        pair.connector.handle_input(pair.now, relay(CONNECTOR_PATH), &transmit.bytes[RELAY_HEADER_LEN..]);
    }
    pair.exchange();
    // Past the end of the first session, data flows on the second.
    pair.advance(Duration::from_secs(100));
    pair.exchange();
    pair.assert_data_flows();
    assert_eq!(pair.connector.drops().get(&DropReason::UnknownSession), None);
}

#[test]
fn a_long_transfer_never_uses_a_session_past_its_life() {
    let mut pair = Pair::proven();
    for second in 0..1_000_u32 {
        pair.advance(Duration::from_secs(1));
        pair.exchange();
        // Mostly down: the connector never renews by age, the client does.
        pair.connector.seal(pair.now, pair.to_client, &ip_packet(1280, 5)).expect("taken");
        if second % 3 == 0 {
            pair.client.seal(pair.now, pair.to_connector, &ip_packet(40, 6)).expect("taken");
        }
        let (client, _) = pair.exchange();
        assert_eq!(client.inner.len(), 1, "second {second}");
    }
    assert!(pair.client.drops().is_empty() && pair.connector.drops().is_empty());
}

#[test]
fn an_idle_tunnel_falls_silent_and_wakes_on_the_next_packet() {
    let mut pair = Pair::proven();
    pair.assert_data_flows();
    let mut datagrams = 0;
    for _ in 0..3_600 {
        pair.advance(Duration::from_secs(1));
        let (client, connector) = pair.exchange();
        datagrams += client.transmits.len() + connector.transmits.len();
    }
    assert!(datagrams <= 2, "one passive keepalive a side at most, got {datagrams}");
    let (client, connector) = pair.exchange();
    assert_eq!((client.timeout, connector.timeout), (None, None), "nothing is scheduled");
    pair.assert_data_flows_after_idle();
}

impl Pair {
    fn assert_data_flows_after_idle(&mut self) {
        self.client.seal(self.now, self.to_connector, &ip_packet(100, 7)).expect("taken");
        let (_, connector) = self.exchange();
        assert_eq!(connector.inner, [ip_packet(100, 7)]);
        self.assert_data_flows();
    }
}

#[test]
fn silence_after_data_is_noticed_and_given_up_on_in_the_end() {
    let mut pair = Pair::proven();
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(40, 1)).expect("taken");
    let mut events = Vec::new();
    let mut initiations = 0;
    for _ in 0..120 {
        pair.advance(Duration::from_secs(1));
        let drained = drain(&mut pair.client);
        initiations += drained.transmits.iter().filter(|sent| sent.bytes[RELAY_HEADER_LEN] == 1).count();
        events.extend(drained.events.into_iter().filter(|event| !matches!(event, Event::Quiet { .. })));
    }
    assert_eq!(events.first(), Some(&Event::Unanswered { peer: pair.to_connector }));
    assert_eq!(events.last(), Some(&Event::GaveUp { peer: pair.to_connector }));
    assert!((14..=19).contains(&initiations), "every five seconds for ninety, got {initiations}");
}

#[test]
fn what_waits_for_a_peer_is_bounded() {
    let now = Instant::now();
    let mut client = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
    let (peer, _) = client.connect(now, WireGuardPrivateKey::from_bytes([2; 32]).public_key()).expect("room");
    for _ in 0..MAX_QUEUED_PACKETS {
        client.seal(now, peer, &ip_packet(40, 1)).expect("waits");
    }
    assert_eq!(client.seal(now, peer, &ip_packet(40, 1)), Err(SealError::Full));
    assert_eq!(client.seal(now, peer, &[]), Err(SealError::Length));
    assert_eq!(client.seal(now, peer, &[0; 1_421]), Err(SealError::Length));
}

#[test]
fn a_removed_peer_leaves_nothing_behind() {
    let mut pair = Pair::proven();
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(40, 1)).expect("taken");
    let (paths, sealed) = pair.client.remove(pair.to_connector);
    assert_eq!((paths, sealed.len()), (vec![relay(CLIENT_PATH)], 1));
    let drained = drain(&mut pair.client);
    assert!(drained.transmits.is_empty() && drained.timeout.is_none());
    assert_eq!(pair.client.seal(pair.now, pair.to_connector, &[1]), Err(SealError::UnknownPeer));
}

#[test]
fn handshakes_over_a_path_are_limited() {
    let mut pair = Pair::proven();
    let key = pair.connector.public_key();
    for _ in 0..10 {
        let (_, initiation) = pair.client.connect(pair.now, key).expect("known");
        pair.connector.handle_input(pair.now, relay(CONNECTOR_PATH), &initiation);
    }
    assert_eq!(pair.connector.drops().get(&DropReason::HandshakeTooOften), Some(&9));
}

#[test]
fn a_timeout_says_why() {
    let pair = &mut Pair::new();
    let timeout = drain(&mut pair.connector).timeout.expect("an unproven peer");
    assert_eq!(timeout.reason, TimeoutReason::Unproven);
    assert_eq!(timeout.at, pair.now + Duration::from_secs(15));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_bytes_panic_the_tunnels_or_end_the_session(
        messages in proptest::collection::vec(
            (0_u8..6, proptest::collection::vec(any::<u8>(), 0..200)), 1..20),
    ) {
        let mut pair = Pair::proven();
        for (kind, body) in &messages {
            let mut message = vec![*kind, 0, 0, 0];
            message.extend_from_slice(body);
            pair.connector.handle_input(pair.now, relay(CONNECTOR_PATH), &message);
            let key = pair.client.public_key();
            prop_assert!(pair.connector.accept_initiation(pair.now, key, &message, relay(8)).is_err());
            let peer = pair.to_connector;
            prop_assert!(pair.client.accept_response(pair.now, peer, &message, relay(CLIENT_PATH)).is_err());
        }
        pair.exchange();
        pair.assert_data_flows();
    }
}

#[test]
fn what_an_address_means_reaches_the_peer_beside_its_packets_and_a_bent_message_is_counted() {
    let mut pair = Pair::proven();
    let addresses = BoundPair { v4: [100, 97, 0, 9].into(), v6: "fd7a:7467:6e61::9".parse().expect("one") };
    let bind = BindMessage::Bind { pair: addresses, name: b"db.example".to_vec() };
    pair.client.send_bind(pair.now, pair.to_connector, &bind).expect("taken");
    let mut bent = bind.encode();
    bent[1] = 1;
    pair.client.seal(pair.now, pair.to_connector, &bent).expect("taken");
    pair.client.seal(pair.now, pair.to_connector, &ip_packet(60, 3)).expect("taken");
    let (_, connector) = pair.exchange();
    assert_eq!(connector.binds, [bind]);
    assert_eq!(connector.inner, [ip_packet(60, 3)]);
    assert_eq!(pair.connector.drops().get(&DropReason::Malformed), Some(&1));
}
