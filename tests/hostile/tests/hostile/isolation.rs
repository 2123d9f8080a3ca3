//! Nothing crosses organizations at a PoP: random installations, everybody says whatever may lead to somebody else's.
//!
//! Keeps: the comparison of organizations in `Sessions::introduce`; the owner in `RelayCommand::Close`; the source of relay
//! frames; the session of an introduction in `answered_by`; the route of a reply. Red with
//! `introduction-crosses-organizations`, `anybody-answers`, `anybody-closes-channels`,
//! `tells-of-other-organizations-connectors`.

use hostile::installation::{
    INSTALLATION, SECOND, connector_id, connector_key, device_id, device_key, organization,
};
use hostile::world::{Packet, Plan, Tenant, World, pop_address, raw_address};
use session::SessionId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use trust::control::{PendingReply, seal_request};
use trust::{Identity, SigningKey};
use wire::{
    Anchor, Bounded, ChannelId, CloseChannel, ControlReply, ControlRequest, FromAgent, Open, RelayKind,
    ToAgent, ToController,
};

/// A stream of a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's constants (MMIX).
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).expect("small")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Device,
    Connector,
}

struct Agent {
    raw: usize,
    organization: usize,
    kind: Kind,
    key: SigningKey,
    certificate: Vec<u8>,
    session: SessionId,
    /// Channels it was told of.
    channels: BTreeSet<ChannelId>,
    /// Introductions it was asked for and has not answered.
    asked: Vec<u64>,
    pending: BTreeMap<u64, (PendingReply, [u8; 16])>,
    /// How much of what it was told was looked at.
    read: usize,
    heard: usize,
    answers: usize,
}

/// What is in a sealed body, a response or a packet: who made it.
fn marked(length: usize, organization: usize, who: usize) -> Vec<u8> {
    let mut bytes = vec![0xEE; length];
    bytes[12] = u8::try_from(organization).expect("few");
    bytes[13] = u8::try_from(who).expect("few");
    bytes
}

struct Run {
    seed: u64,
    world: World,
    dice: Dice,
    agents: Vec<Agent>,
    /// Every channel id that anybody was told: known to whoever listens everywhere.
    known: Vec<ChannelId>,
    carried: usize,
    opened: usize,
    /// Channels that their owners gave back.
    given_back: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let mut world = Plan::new(seed).tenants(&[Tenant { connectors: 0, clients: 0 }]).build();
        world.pass(SECOND * 2);
        let organizations = 2 + dice.below(3);
        let mut agents = Vec::new();
        for of in 0..organizations {
            for (kind, count) in [(Kind::Connector, 1 + dice.below(2)), (Kind::Device, 1 + dice.below(3))] {
                for _ in 0..count {
                    let number = agents.len();
                    let (identity, key) = match kind {
                        Kind::Device => (
                            Identity::device(INSTALLATION, organization(of), device_id(number)),
                            device_key(number),
                        ),
                        Kind::Connector => (
                            Identity::connector(INSTALLATION, organization(of), connector_id(number)),
                            connector_key(number),
                        ),
                    };
                    let raw = world.add_raw(identity, &key);
                    let session = world.register_raw(raw, 0);
                    agents.push(Agent {
                        raw,
                        organization: of,
                        kind,
                        certificate: world.installation.certificate(identity, &key),
                        key,
                        session,
                        channels: BTreeSet::new(),
                        asked: Vec::new(),
                        pending: BTreeMap::new(),
                        read: 0,
                        heard: 0,
                        answers: 0,
                    });
                }
            }
        }
        Self { seed, world, dice, agents, known: Vec::new(), carried: 0, opened: 0, given_back: 0 }
    }

    fn say(&mut self, who: usize, message: FromAgent) {
        let (raw, session) = (self.agents[who].raw, self.agents[who].session);
        let _ = self.world.with_raw(raw, |raw, _| raw.say(session, &message));
    }

    /// Somebody does something.
    fn act(&mut self, number: u64) {
        let who = self.dice.below(self.agents.len());
        let (of, kind) = (self.agents[who].organization, self.agents[who].kind);
        match (self.dice.below(8), kind) {
            (0..3, Kind::Device) => {
                // To any connector of any organization.
                let connectors: Vec<usize> = (0..self.agents.len())
                    .filter(|other| self.agents[*other].kind == Kind::Connector)
                    .collect();
                let to = connectors[self.dice.below(connectors.len())];
                let sealed = Bounded::new(marked(300, of, who)).expect("fits");
                let initiation = Bounded::new(marked(wire::WG_INITIATION_LEN, of, who)).expect("fits");
                self.say(who, Open { seq: number, connector: connector_id(to), sealed, initiation }.into());
            }
            (0..3, Kind::Connector) => {
                // Its own introductions mostly, and anybody's.
                let own = self.agents[who].asked.pop();
                let guessed = u64::try_from(self.dice.below(200)).expect("small");
                let intro = if self.dice.below(4) == 0 { guessed } else { own.unwrap_or(guessed) };
                let response = Bounded::new(marked(wire::WG_RESPONSE_LEN, of, who)).expect("fits");
                let accept = wire::Accept {
                    intro,
                    response,
                    inner_v4: Ipv4Addr::new(10, 0, 0, 1),
                    inner_v6: Ipv6Addr::LOCALHOST,
                };
                self.say(who, accept.into());
            }
            (3, _) => {
                // Gives back a channel that may be another's.
                if !self.known.is_empty() {
                    let channel = self.known[self.dice.below(self.known.len())];
                    if self.dice.below(4) == 0 || !self.agents[who].channels.contains(&channel) {
                        self.say(who, CloseChannel { channel }.into());
                        self.given_back += u64::from(self.agents[who].channels.remove(&channel));
                    }
                }
            }
            (4..7, _) => {
                // Sends on a channel that may be another's, and says by what it sends who it is.
                let own: Vec<ChannelId> = self.agents[who].channels.iter().copied().collect();
                let pool = if self.dice.below(3) == 0 || own.is_empty() { &self.known } else { &own };
                if pool.is_empty() {
                    return;
                }
                let channel = pool[self.dice.below(pool.len())];
                let mut payload = wire::encode_relay_header(RelayKind::Data, channel).to_vec();
                payload.extend_from_slice(&marked(120, of, who)[12..]);
                let from = raw_address(self.agents[who].raw);
                self.world.inject(Packet { from, to: pop_address(0), payload });
            }
            _ => {
                let mut nonce = [0; 16];
                nonce[..8].copy_from_slice(&number.to_be_bytes());
                nonce[8] = u8::try_from(who).expect("few");
                let agent = &self.agents[who];
                let request = ControlRequest::from(Anchor { nonce });
                let bundle = &self.world.installation.bundle;
                let (sealed, pending) =
                    seal_request(&agent.key, &agent.certificate, bundle, self.world.wall(), number, &request)
                        .expect("seals");
                self.agents[who].pending.insert(number, (pending, nonce));
                let sealed = Bounded::new(sealed).expect("fits");
                self.say(who, ToController { seq: number, sealed }.into());
            }
        }
    }

    /// Whatever came to anybody is its organization's.
    fn check(&mut self) {
        for who in 0..self.agents.len() {
            let seed = self.seed;
            let raw = &self.world.raws[self.agents[who].raw];
            let told: Vec<ToAgent> =
                raw.told.iter().skip(self.agents[who].read).map(|(_, told)| told.clone()).collect();
            let heard: Vec<Vec<u8>> =
                raw.heard.iter().skip(self.agents[who].heard).map(|(_, heard)| heard.clone()).collect();
            self.agents[who].read += told.len();
            self.agents[who].heard += heard.len();
            let own = self.agents[who].organization;
            for message in told {
                match message {
                    ToAgent::Introduce(introduce) => {
                        for bytes in [introduce.sealed.as_slice(), introduce.initiation.as_slice()] {
                            assert_eq!(usize::from(bytes[12]), own, "seed {seed}: introduced to {who}");
                        }
                        self.known.push(introduce.channel);
                        self.agents[who].channels.insert(introduce.channel);
                        self.agents[who].asked.push(introduce.intro);
                    }
                    ToAgent::Opened(opened) => {
                        let by = opened.response.as_slice();
                        assert_eq!(usize::from(by[12]), own, "seed {seed}: opened for {who}");
                        self.known.push(opened.channel);
                        self.agents[who].channels.insert(opened.channel);
                        self.opened += 1;
                    }
                    ToAgent::ChannelClosed(closed) => {
                        assert!(self.known.contains(&closed.channel), "seed {seed}");
                    }
                    ToAgent::FromController(reply) => {
                        let (pending, nonce) =
                            self.agents[who].pending.remove(&reply.seq).expect("it asked, seed {seed}");
                        match pending.open(reply.sealed.as_slice()) {
                            Ok(ControlReply::Anchored(anchored)) => {
                                let text = String::from_utf8_lossy(anchored.beacon.as_slice()).into_owned();
                                let beacon = trust::Unverified::<trust::Beacon>::parse(&text)
                                    .and_then(|beacon| {
                                        beacon.verify_at_any_time(&self.world.installation.bundle)
                                    })
                                    .expect("signed");
                                assert_eq!(beacon.nonce, Some(nonce), "seed {seed}");
                            }
                            other => panic!("seed {seed}: {who} got {other:?}"),
                        }
                        self.agents[who].answers += 1;
                    }
                    _ => {}
                }
            }
            for packet in heard {
                let Ok(frame) = wire::parse_relay(&packet) else { continue };
                if frame.kind != RelayKind::Data {
                    continue;
                }
                assert!(self.known.contains(&frame.channel), "seed {seed}: a channel nobody was told of");
                assert_eq!(usize::from(packet[12]), own, "seed {seed}: a packet for {who}");
                let from = &self.agents[usize::from(packet[13])];
                assert!(from.kind != self.agents[who].kind, "seed {seed}: between two of one kind");
                self.carried += 1;
            }
        }
    }
}

#[test]
fn no_introduction_channel_packet_or_answer_crosses_organizations() {
    let (mut carried, mut opened, mut answers) = (0, 0, 0);
    for seed in 500..524 {
        let mut run = Run::new(seed);
        for number in 0..400 {
            run.act(number);
            if number % 4 == 0 {
                run.world.pass(SECOND / 5);
                run.check();
            }
        }
        run.world.pass(SECOND * 2);
        run.check();
        let ended = run.world.pops[0].sessions.status().counters.channels_ended.get("session_lost");
        assert!(ended <= run.given_back, "seed {seed}: {ended} ended, {} given back", run.given_back);
        carried += run.carried;
        opened += run.opened;
        answers += run.agents.iter().map(|agent| agent.answers).sum::<usize>();
        // And nobody is told that another organization has such a connector.
        for agent in run.agents.iter().filter(|agent| agent.kind == Kind::Device) {
            for (_, told) in &run.world.raws[agent.raw].told {
                if let ToAgent::OpenRefused(refused) = told {
                    assert_ne!(refused.reason, wire::Refusal::OtherOrganization, "seed {seed}");
                }
            }
        }
    }
    assert!(
        carried > 200 && opened > 100 && answers > 200,
        "{carried}, {opened}, {answers}: little was tried"
    );
}
