#![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]

mod allowance;
mod renewal;
mod strikes;
mod two_controllers;
mod whereabouts;

use super::*;
use crate::{
    core::relay::{Handled, Relay, RelayLimits, RelayOutput},
    fixture::{Installation, connector, controller, controller_id, device, document, pop_id},
};
use proptest::prelude::*;
use session::{Dialler, LostReason};
use std::time::Duration;
use trust::{KeyRole, RevokedSubject};
use wire::{
    Accept, Bounded, ChannelId, CloseChannel, ConnectorId, DeviceId, GetRevocations, Hello, Keepalive, Open,
    PublishBeacon, PublishBundle, Refuse, RelayKind, Reply, SignerHello, Strike, ToController,
    WG_INITIATION_LEN, WG_RESPONSE_LEN,
};

const POP: &str = "203.0.113.1:443";

/// One agent or controller at the other end of the in-memory network.
struct End {
    dialler: Dialler,
    address: SocketAddr,
    id: SessionId,
    agent_inbox: Vec<ToAgent>,
    signer_inbox: Vec<ToSigner>,
    lost: Option<LostReason>,
    /// What it was told of when to come back.
    told_after: Option<Duration>,
}

struct World {
    installation: Installation,
    sessions: Sessions,
    relay: Relay,
    now: Instant,
    ends: Vec<End>,
    writes: Vec<(WriteId, Record)>,
    commands: Vec<RelayCommand>,
}

impl World {
    fn new() -> Self {
        let installation = Installation::new(UnixMs::from_millis(1_800_000_000_000));
        let now = Instant::now();
        let seed = Seed::from_random([42; 32]);
        let limits = AcceptorLimits::default();
        let sessions =
            Sessions::new(installation.pop(), limits, 1024, now, installation.wall, &seed).expect("material");
        let relay = Relay::new(RelayLimits::default(), now, &seed);
        Self { installation, sessions, relay, now, ends: vec![], writes: vec![], commands: vec![] }
    }

    fn dial(&mut self, identity: Identity, address: &str) -> usize {
        let local = self.installation.local(identity);
        let number = u8::try_from(self.ends.len()).expect("few ends");
        let bundle = self.installation.bundle.clone();
        let mut dialler = Dialler::new(local, bundle, self.installation.wall, [number; 32]);
        let id = dialler.dial(self.now, pop_id(), POP.parse().expect("address")).expect("dials");
        let address = address.parse().expect("address");
        self.ends.push(End {
            dialler,
            address,
            id,
            agent_inbox: vec![],
            signer_inbox: vec![],
            lost: None,
            told_after: None,
        });
        self.settle();
        self.ends.len() - 1
    }

    fn agent(&mut self, identity: Identity, address: &str) -> usize {
        let end = self.dial(identity, address);
        self.say(end, &FromAgent::from(hello()));
        assert!(matches!(self.ends[end].agent_inbox[..], [ToAgent::Welcome(_), ToAgent::BundlePush(_), ..]));
        end
    }

    fn signer(&mut self) -> usize {
        let end = self.dial(controller(), "192.0.2.9:7000");
        self.say_signer(end, &SignerHello { oldest: 1, newest: 1 }.into());
        end
    }

    fn say(&mut self, end: usize, message: &FromAgent) {
        self.say_raw(end, message.frame_type(), &message.encode_body());
    }

    fn say_signer(&mut self, end: usize, message: &FromSigner) {
        self.say_raw(end, message.frame_type(), &message.encode_body());
    }

    fn say_raw(&mut self, end: usize, frame_type: u16, body: &[u8]) {
        let id = self.ends[end].id;
        let _ = self.ends[end].dialler.send(id, frame_type, body);
        self.settle();
    }

    /// Carries datagrams until nobody has any more to send.
    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            loop {
                match self.sessions.poll_output(self.now) {
                    SessionsOutput::Transmit { to, payload } => {
                        quiet = false;
                        for end in self.ends.iter_mut().filter(|end| end.address == to) {
                            end.dialler.handle_input(self.now, POP.parse().expect("address"), &payload);
                        }
                    }
                    SessionsOutput::Relay(command) => {
                        quiet = false;
                        self.commands.push(command.clone());
                        self.relay.handle_command(self.now, command);
                    }
                    SessionsOutput::Persist { id, record } => self.writes.push((id, record)),
                    SessionsOutput::RegisteredBy { .. } => {}
                    SessionsOutput::Timeout { .. } => break,
                }
            }
            loop {
                match self.relay.poll_output() {
                    RelayOutput::Ended(ended) => {
                        quiet = false;
                        self.sessions.handle_channel_ended(self.now, ended);
                    }
                    RelayOutput::Proven { owner, address } => {
                        quiet = false;
                        self.sessions.handle_side_proven(owner, address);
                    }
                    RelayOutput::Transmit { .. } => {}
                    RelayOutput::Timeout { .. } => break,
                }
            }
            for end in &mut self.ends {
                loop {
                    match end.dialler.poll_output(self.now) {
                        Output::Transmit { payload, .. } => {
                            quiet = false;
                            self.sessions.handle_input(self.now, end.address, &payload);
                        }
                        Output::Event(Event::Frame { frame_type, body, .. }) => {
                            if let Some(message) = ToAgent::decode_body(frame_type, &body).expect("valid") {
                                end.agent_inbox.push(message);
                            } else if let Some(message) =
                                ToSigner::decode_body(frame_type, &body).expect("valid")
                            {
                                end.signer_inbox.push(message);
                            }
                        }
                        Output::Event(Event::Lost { reason, retry_after, .. }) => {
                            (end.lost, end.told_after) = (Some(reason), retry_after);
                        }
                        Output::Event(_) => {}
                        Output::Timeout { .. } => break,
                    }
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = end.min(self.now + Duration::from_millis(100));
            self.sessions.handle_timeout(self.now);
            self.relay.handle_timeout(self.now);
            for end in &mut self.ends {
                end.dialler.handle_timeout(self.now);
            }
            self.settle();
        }
    }

    fn open(&mut self, client: usize, connector: ConnectorId) {
        self.say(client, &open(connector).into());
    }

    fn introduced(&self, connector: usize) -> Option<&wire::Introduce> {
        self.ends[connector].agent_inbox.iter().rev().find_map(|message| match message {
            ToAgent::Introduce(introduce) => Some(introduce),
            _ => None,
        })
    }

    fn open_refused(&self, client: usize) -> Option<Refusal> {
        self.ends[client].agent_inbox.iter().rev().find_map(|message| match message {
            ToAgent::OpenRefused(refused) => Some(refused.reason),
            _ => None,
        })
    }

    fn closed_with(&self, end: usize) -> Option<LostReason> {
        self.ends[end].lost
    }

    /// A device, a connector and a channel between them: (client, connector, client's id, connector's).
    fn channel(&mut self) -> (usize, usize, ChannelId, ChannelId) {
        let connector = self.agent(connector(1, 20), CONNECTOR);
        let client = self.agent(device(1, 10), CLIENT);
        self.open(client, connector_id(20));
        let introduce = self.introduced(connector).expect("introduced").clone();
        self.say(connector, &accept(introduce.intro).into());
        let opened = self.ends[client].agent_inbox.iter().find_map(|message| match message {
            ToAgent::Opened(opened) => Some(opened.channel),
            _ => None,
        });
        (client, connector, opened.expect("opened"), introduce.channel)
    }
}

const CLIENT: &str = "198.51.100.1:4000";
const CONNECTOR: &str = "198.51.100.2:5000";

fn connector_id(byte: u8) -> ConnectorId {
    ConnectorId::from_bytes([byte; 16])
}

fn hello() -> Hello {
    Hello { oldest: 1, newest: 1, build: Bounded::default() }
}

fn open(connector: ConnectorId) -> Open {
    Open {
        seq: 77,
        connector,
        sealed: Bounded::new(vec![1; 700]).expect("short"),
        initiation: Bounded::new(vec![2; WG_INITIATION_LEN]).expect("fits"),
    }
}

fn accept(intro: u64) -> Accept {
    Accept {
        intro,
        response: Bounded::new(vec![3; WG_RESPONSE_LEN]).expect("fits"),
        inner_v4: std::net::Ipv4Addr::new(100, 64, 0, 2),
        inner_v6: std::net::Ipv6Addr::LOCALHOST,
    }
}

fn data(channel: ChannelId) -> Vec<u8> {
    let mut frame = wire::encode_relay_header(RelayKind::Data, channel).to_vec();
    frame.extend_from_slice(&[4; 64]);
    frame
}

#[test]
fn registration_says_what_an_agent_needs() {
    let mut world = World::new();
    let signer = world.signer();
    let beacon = world.installation.beacon(world.installation.wall);
    world.say_signer(signer, &PublishBeacon { beacon: beacon.clone() }.into());
    let client = world.agent(device(1, 10), CLIENT);
    let ToAgent::Welcome(welcome) = &world.ends[client].agent_inbox[0] else { panic!("welcome first") };
    assert_eq!((welcome.version, welcome.keepalive_ms), (1, 25_000));
    assert_eq!(welcome.observed, CLIENT.parse().expect("address"));
    assert_eq!(welcome.beacon, Some(beacon));
    world.say(client, &Keepalive {}.into());
    let Some(ToAgent::Alive(alive)) = world.ends[client].agent_inbox.last() else { panic!("alive") };
    assert!(alive.beacon.is_some());
}

#[test]
fn an_introduction_is_one_round_trip_and_ends_in_a_working_channel() {
    let mut world = World::new();
    let (_, _, client_channel, connector_channel) = world.channel();
    let mut frame = data(client_channel);
    let handled = world.relay.handle_input(world.now, CLIENT.parse().expect("address"), &mut frame);
    assert_eq!(handled, Handled::Forward(CONNECTOR.parse().expect("address")));
    assert_eq!(frame, data(connector_channel));
    assert_eq!(world.sessions.status().channels, 1);
}

#[test]
fn the_channel_is_installed_before_the_client_is_told() {
    let mut world = World::new();
    let connector = world.agent(connector(1, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    let intro = world.introduced(connector).expect("introduced").intro;
    let message = FromAgent::from(accept(intro));
    let id = world.ends[connector].id;
    world.ends[connector].dialler.send(id, message.frame_type(), &message.encode_body()).expect("sent");
    while let Output::Transmit { payload, .. } = world.ends[connector].dialler.poll_output(world.now) {
        world.sessions.handle_input(world.now, CONNECTOR.parse().expect("address"), &payload);
    }
    let to_client = loop {
        match world.sessions.poll_output(world.now) {
            SessionsOutput::Relay(RelayCommand::Install(_)) => break "install first",
            SessionsOutput::Transmit { to, .. } if to == CLIENT.parse().expect("address") => {
                break "told first";
            }
            SessionsOutput::Timeout { .. } => break "nothing",
            _ => {}
        }
    };
    assert_eq!(to_client, "install first");
}

#[test]
fn a_connector_of_another_organization_is_refused() {
    let mut world = World::new();
    let connector = world.agent(connector(2, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    // As if it were not here at all.
    assert_eq!(world.open_refused(client), Some(Refusal::NotAttached));
    assert_eq!(world.sessions.status().counters.refused.get("other_organization"), 1);
    assert!(world.introduced(connector).is_none());
}

#[test]
fn a_connector_that_is_not_here_is_said_to_be_not_attached() {
    let mut world = World::new();
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    assert_eq!(world.open_refused(client), Some(Refusal::NotAttached));
}

#[test]
fn a_connectors_refusal_reaches_the_client_with_its_reason() {
    let mut world = World::new();
    let connector = world.agent(connector(1, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    let intro = world.introduced(connector).expect("introduced").intro;
    let refuse = Refuse { intro, reason: Refusal::NoPolicy, retry_after_ms: 0 };
    world.say(connector, &refuse.into());
    assert_eq!(world.open_refused(client), Some(Refusal::NoPolicy));
    // The same answer again finds nothing.
    world.say(connector, &accept(intro).into());
    assert_eq!(world.sessions.status().counters.refused.get("no_such_introduction"), 1);
    assert_eq!(world.sessions.status().channels, 0);
}

#[test]
fn a_connector_cannot_answer_for_another() {
    let mut world = World::new();
    let right = world.agent(connector(1, 20), CONNECTOR);
    let wrong = world.agent(connector(1, 21), "198.51.100.3:5000");
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    let intro = world.introduced(right).expect("introduced").intro;
    world.say(wrong, &accept(intro).into());
    assert_eq!(world.sessions.status().channels, 0);
    world.say(right, &accept(intro).into());
    assert_eq!(world.sessions.status().channels, 1);
}

#[test]
fn a_silent_connector_costs_the_client_five_seconds_and_both_are_told() {
    let mut world = World::new();
    let connector = world.agent(connector(1, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    world.pass(limits::INTRODUCTION_TIMEOUT - Duration::from_millis(200));
    assert_eq!(world.open_refused(client), None);
    world.pass(Duration::from_millis(400));
    assert_eq!(world.open_refused(client), Some(Refusal::Timeout));
    assert!(matches!(world.ends[connector].agent_inbox.last(), Some(ToAgent::ChannelClosed(_))));
    assert_eq!(world.sessions.status().introductions, 0);
}

#[test]
fn without_a_controller_an_agent_is_told_when_to_come_back() {
    let mut world = World::new();
    let client = world.agent(device(1, 10), CLIENT);
    let request = ToController { seq: 5, sealed: Bounded::new(vec![0; 64]).expect("short") };
    world.say(client, &request.into());
    let Some(ToAgent::ControllerUnavailable(answer)) = world.ends[client].agent_inbox.last() else {
        panic!("an answer")
    };
    assert_eq!((answer.seq, answer.reason), (5, Refusal::NoController));
    assert!(answer.retry_after_ms > 0);
}

#[test]
fn a_sealed_frame_goes_to_the_controller_that_can_open_it_and_back() {
    let mut world = World::new();
    let signer = world.signer();
    let client = world.agent(device(1, 10), CLIENT);
    let mut sealed = world.installation.seal.seal_key().key_id().as_bytes().to_vec();
    sealed.extend_from_slice(&[7; 100]);
    world.say(client, &ToController { seq: 5, sealed: Bounded::new(sealed.clone()).expect("short") }.into());
    let forward = world.ends[signer].signer_inbox.iter().find_map(|message| match message {
        ToSigner::Forward(forward) => Some(forward.clone()),
        _ => None,
    });
    let forward = forward.expect("forwarded");
    assert_eq!(forward.sealed.as_slice(), sealed);
    let answer = Bounded::new(vec![8; 200_000]).expect("fits");
    let reply = Reply { route: forward.route, seq: forward.seq, sealed: answer.clone() };
    world.say_signer(signer, &reply.clone().into());
    let back = world.ends[client].agent_inbox.last();
    assert!(matches!(back, Some(ToAgent::FromController(f)) if f.seq == 5 && f.sealed == answer));
    world.say_signer(signer, &Reply { route: forward.route ^ 1, ..reply }.into());
    assert_eq!(world.sessions.status().counters.refused.get("no_such_route"), 1);
}

#[test]
fn the_newer_session_of_an_agent_wins() {
    let mut world = World::new();
    let first = world.agent(connector(1, 20), CONNECTOR);
    let second = world.agent(connector(1, 20), "198.51.100.8:5001");
    assert_eq!(world.closed_with(first), Some(LostReason::ClosedByPeer(CloseCode::Replaced)));
    assert_eq!(world.closed_with(second), None);
    let client = world.agent(device(1, 10), CLIENT);
    world.open(client, connector_id(20));
    assert!(world.introduced(second).is_some());
    assert_eq!(world.sessions.status().connectors, 1);
}

#[test]
fn a_restarted_connectors_clients_learn_that_their_channel_is_gone() {
    let mut world = World::new();
    let (client, ..) = world.channel();
    world.agent(connector(1, 20), "198.51.100.8:5001");
    world.pass(Duration::from_secs(2));
    let closed = world.ends[client].agent_inbox.last();
    assert!(
        matches!(closed, Some(ToAgent::ChannelClosed(c)) if c.reason == Refusal::SessionLost),
        "{closed:?}"
    );
    assert_eq!(world.sessions.status().channels, 0);
}

#[test]
fn an_agent_that_registers_all_the_time_is_closed_with_a_code_and_others_are_not() {
    let mut world = World::new();
    let mut last = 0;
    for number in 0..=limits::MAX_REGISTRATIONS {
        last = world.dial(device(1, 10), &format!("198.51.100.1:{}", 4000 + number));
        world.say(last, &FromAgent::from(hello()));
        world.pass(Duration::from_millis(100));
    }
    assert_eq!(world.closed_with(last), Some(LostReason::ClosedByPeer(CloseCode::TooOften)));
    let after = world.ends[last].told_after.expect("when to come back");
    assert!((limits::REFUSED_FOR..limits::REFUSED_FOR * 2).contains(&after), "{after:?}");
    world.agent(device(1, 11), "198.51.100.7:4000");
    world.pass(Duration::from_secs(25));
    world.agent(device(1, 10), "198.51.100.1:3999");
}

#[test]
fn one_organization_cannot_ask_for_more_introductions_than_its_share() {
    let mut world = World::new();
    world.agent(connector(1, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    world.agent(connector(2, 21), "198.51.100.3:5000");
    let other = world.agent(device(2, 11), "198.51.100.4:4000");
    let allowance = limits::ORGANIZATION_INTRODUCTIONS;
    let busy = world.sessions.introducing.entry(crate::fixture::organization(1));
    let now = world.now;
    let taken = busy.or_insert_with(|| Bucket::full(allowance, now)).take(allowance, now, allowance.burst);
    assert!(taken.is_ok());
    world.open(client, connector_id(20));
    assert_eq!(world.open_refused(client), Some(Refusal::Budget));
    world.open(other, connector_id(21));
    assert_eq!(world.open_refused(other), None);
    world.pass(Duration::from_millis(100));
    world.open(client, connector_id(20));
    assert!(world.introduced(0).is_some(), "the share is there again with time");
}

#[test]
fn a_closed_channel_is_gone_for_both() {
    let mut world = World::new();
    let (client, connector, channel, connector_channel) = world.channel();
    world.say(client, &CloseChannel { channel: connector_channel }.into());
    assert_eq!(world.sessions.status().channels, 1, "not the sender's own id");
    world.say(client, &CloseChannel { channel }.into());
    let told = world.ends[connector].agent_inbox.last();
    assert!(matches!(told, Some(ToAgent::ChannelClosed(c)) if c.channel == connector_channel));
    assert_eq!(world.sessions.status().channels, 0);
}

#[test]
fn messages_of_another_role_close_the_session() {
    let accept = FromAgent::from(accept(1));
    let strike = FromSigner::from(Strike { entries: vec![] });
    let keepalive = FromAgent::from(Keepalive {});
    for (frame_type, body) in [
        (accept.frame_type(), accept.encode_body()),
        (strike.frame_type(), strike.encode_body()),
        (FromAgent::from(hello()).frame_type(), FromAgent::from(hello()).encode_body()),
    ] {
        let mut world = World::new();
        let client = world.agent(device(1, 10), CLIENT);
        world.say_raw(client, frame_type, &body);
        assert_eq!(world.closed_with(client), Some(LostReason::ClosedByPeer(CloseCode::WrongRole)));
        assert_eq!(world.sessions.status().counters.refused.get("wrong_role"), 1);
    }
    let mut world = World::new();
    let silent = world.dial(device(1, 10), CLIENT);
    world.say(silent, &keepalive);
    assert_eq!(world.closed_with(silent), Some(LostReason::ClosedByPeer(CloseCode::WrongRole)));
}

#[test]
fn who_says_nothing_after_the_handshake_is_closed() {
    let mut world = World::new();
    let silent = world.dial(device(1, 10), CLIENT);
    world.pass(limits::HELLO_TIMEOUT + Duration::from_secs(1));
    assert_eq!(world.closed_with(silent), Some(LostReason::ClosedByPeer(CloseCode::Silent)));
}

#[test]
fn a_version_nobody_shares_is_said_so() {
    let mut world = World::new();
    let future = world.dial(device(1, 10), CLIENT);
    world.say(future, &Hello { oldest: 900, newest: 901, build: Bounded::default() }.into());
    assert_eq!(world.closed_with(future), Some(LostReason::ClosedByPeer(CloseCode::Version)));
}

#[test]
fn a_flood_of_opens_gets_refusals_with_a_time_and_nothing_more() {
    let mut world = World::new();
    let connector = world.agent(connector(1, 20), CONNECTOR);
    let client = world.agent(device(1, 10), CLIENT);
    for _ in 0..300 {
        world.open(client, connector_id(20));
    }
    let introduced = world.ends[connector].agent_inbox.iter().filter(|m| matches!(m, ToAgent::Introduce(_)));
    assert_eq!(introduced.count(), limits::MAX_INTRODUCTIONS_PER_CLIENT);
    let Some(ToAgent::OpenRefused(last)) = world.ends[client].agent_inbox.last() else { panic!("refused") };
    assert_eq!(last.reason, Refusal::Budget);
    assert!(last.retry_after_ms > 0);
}

#[test]
fn beacons_reach_connectors_every_five_seconds_and_a_forged_one_nobody() {
    let mut world = World::new();
    let connector = world.agent(connector(1, 20), CONNECTOR);
    let signer = world.signer();
    let wall = world.installation.wall;
    let beacon = world.installation.beacon(wall);
    world.say_signer(signer, &PublishBeacon { beacon }.into());
    let mut forged = world.installation.beacon(wall.plus(Duration::from_secs(1))).into_vec();
    let last = forged.len() / 2;
    forged[last] ^= 1;
    let forged = Bounded::new(forged).expect("short");
    world.say_signer(signer, &PublishBeacon { beacon: forged.clone() }.into());
    world.pass(limits::BEACON_INTERVAL * 2 + Duration::from_secs(1));
    let pushed: Vec<_> = world.ends[connector]
        .agent_inbox
        .iter()
        .filter_map(|message| match message {
            ToAgent::BeaconPush(push) => Some(push.beacon.clone()),
            _ => None,
        })
        .collect();
    assert!(pushed.len() >= 3, "{}", pushed.len());
    assert!(!pushed.contains(&forged));
}

#[test]
fn a_newer_trust_chain_is_written_and_pushed_and_an_older_one_refused() {
    let mut world = World::new();
    let client = world.agent(device(1, 10), CLIENT);
    let signer = world.signer();
    let newer = world.installation.chain_with_serial(3);
    let older = world.installation.chain_with_serial(2);
    world.say_signer(signer, &PublishBundle { chain: document(&newer) }.into());
    assert!(matches!(&world.writes[..], [(_, Record::Chain(text))] if *text == newer));
    let pushed = world.ends[client].agent_inbox.last();
    assert!(matches!(pushed, Some(ToAgent::BundlePush(push)) if push.chain.as_slice() == newer.as_bytes()));
    world.say_signer(signer, &PublishBundle { chain: document(&older) }.into());
    assert_eq!(world.sessions.status().bundle, (1, 3));
    assert_eq!(world.sessions.status().counters.refused.get("chain"), 1);
}

#[test]
fn a_controller_learns_who_is_here_and_who_comes_and_goes() {
    let mut world = World::new();
    world.agent(connector(1, 20), CONNECTOR);
    let signer = world.signer();
    let Some(ToSigner::SignerWelcome(welcome)) = world.ends[signer].signer_inbox.first() else {
        panic!("welcome")
    };
    assert_eq!(welcome.attached.len(), 1);
    let client = world.agent(device(1, 10), CLIENT);
    world.pass(limits::PRESENCE_INTERVAL + Duration::from_millis(200));
    let id = world.ends[client].id;
    let now = world.now;
    world.ends[client].dialler.close(now, id, CloseCode::Done);
    world.settle();
    world.pass(limits::PRESENCE_INTERVAL + Duration::from_millis(200));
    let presence: Vec<_> = world.ends[signer]
        .signer_inbox
        .iter()
        .filter_map(|message| match message {
            ToSigner::Presence(presence) => Some((presence.attached.len(), presence.detached.len())),
            _ => None,
        })
        .collect();
    assert_eq!(presence, [(1, 0), (0, 1)]);
}

#[test]
fn a_clock_that_falls_a_day_behind_refuses_nobody_whom_a_controller_has_just_certified() {
    let mut world = World::new();
    let signer = world.signer();
    let beacon = world.installation.beacon(world.installation.wall);
    world.say_signer(signer, &PublishBeacon { beacon }.into());
    let day = Duration::from_secs(24 * 3600);
    let now = world.now;
    world.sessions.set_wall(now, world.installation.wall.minus(day + day / 2));
    world.agent(device(1, 10), CLIENT);
    // Ten days ahead in one word of one controller: the clock here follows for two.
    let far = world.installation.wall.plus(day * 10);
    let beacon = world.installation.beacon(far);
    world.say_signer(signer, &PublishBeacon { beacon }.into());
    world.sessions.set_wall(now, world.installation.wall);
    assert_eq!(world.sessions.wall, world.installation.wall.plus(limits::MOST_BEHIND));
}

#[test]
fn a_clock_that_is_off_by_ten_years_expires_nobody_while_a_controller_has_signed_the_time() {
    let mut world = World::new();
    let (now, true_wall) = (world.now, world.installation.wall);
    let years = Duration::from_secs(3_652 * 24 * 3600);
    let device_at_home = world.agent(device(1, 10), CLIENT);
    let signer = world.signer();
    let beacon = world.installation.beacon(true_wall);
    world.say_signer(signer, &PublishBeacon { beacon }.into());
    for wrong in [true_wall.plus(years), true_wall.minus(years)] {
        world.sessions.set_wall(now, wrong);
        world.settle();
        assert_eq!(world.closed_with(device_at_home), None, "{wrong}");
        let newcomer = world.agent(device(1, 11), "192.0.2.77:5000");
        assert_eq!(world.closed_with(newcomer), None, "{wrong}");
    }
    // Nobody has signed anything since for a month: what this PoP counts itself has gone on.
    let month = Duration::from_secs(30 * 24 * 3600);
    world.sessions.set_wall(now + month, true_wall.plus(years));
    assert_eq!(world.sessions.wall, true_wall.plus(month).plus(limits::MOST_AHEAD));
}

#[test]
fn a_controller_that_comes_late_is_told_of_everybody_in_pages() {
    let mut world = World::new();
    let agents = 7_u8;
    for number in 0..agents {
        world.agent(device(1, 30 + number), &format!("198.51.100.{}:4000", 10 + number));
    }
    let signer = world.signer();
    world.pass(Duration::from_millis(500));
    let pages: Vec<usize> = world.ends[signer]
        .signer_inbox
        .iter()
        .filter_map(|message| match message {
            ToSigner::SignerWelcome(welcome) => Some(welcome.attached.len()),
            ToSigner::Presence(presence) => Some(presence.attached.len()),
            _ => None,
        })
        .collect();
    assert_eq!(pages.iter().sum::<usize>(), usize::from(agents), "{pages:?}");
    assert!(pages.iter().all(|page| *page <= limits::PRESENCE_PAGE), "{pages:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a registered peer of any role says, the PoP neither panics nor forgets the others.
    #[test]
    fn no_message_of_a_peer_panics_the_pop(
        role in 0_u8..3,
        frames in proptest::collection::vec(
            (0_u16..110, proptest::collection::vec(any::<u8>(), 0..200)), 1..12,
        ),
    ) {
        let mut world = World::new();
        let honest = world.agent(device(1, 11), "198.51.100.77:4000");
        let hostile = match role {
            0 => world.agent(device(1, 10), CLIENT),
            1 => world.agent(connector(1, 20), CONNECTOR),
            _ => world.signer(),
        };
        for (frame_type, body) in frames {
            world.say_raw(hostile, frame_type, &body);
        }
        world.say(honest, &Keepalive {}.into());
        prop_assert!(matches!(world.ends[honest].agent_inbox.last(), Some(ToAgent::Alive(_))));
    }
}
