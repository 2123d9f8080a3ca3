//! The PoP of the fast worlds: the production relay, and a session core of a few lines.

use super::control::{ControlEnd, Message, Word};
use crate::world::{Random, Time};
use pop::core::Seed;
use pop::core::relay::{
    ChannelSpec, Handled, OwnerId, Relay, RelayCommand, RelayLimits, RelayOutput, SideSpec,
};
use std::{collections::BTreeMap, net::SocketAddr, time::Instant};
use wire::{ChannelId, ChannelSecret, DatagramKind, Refusal, classify};

#[derive(Debug)]
struct Session {
    address: SocketAddr,
    epoch: u32,
    control: ControlEnd,
}

/// An introduction under way: the client's number for it, and the channel's sides, client's first.
#[derive(Debug)]
struct Introduction {
    agents: [u16; 2],
    token: [u8; 4],
    channels: [(ChannelId, ChannelSecret); 2],
}

/// See the module.
#[derive(Debug)]
pub struct PopModel {
    relay: Relay,
    epoch: u32,
    sessions: BTreeMap<u16, Session>,
    introductions: BTreeMap<u64, Introduction>,
    next: u64,
    random: Random,
    base: Instant,
    out: Vec<(SocketAddr, Vec<u8>)>,
}

fn number(agent: OwnerId, of: &BTreeMap<u16, Session>) -> Option<u16> {
    of.keys().copied().find(|id| owner(*id) == agent)
}

fn owner(agent: u16) -> OwnerId {
    OwnerId::from_number(u64::from(agent) + 1)
}

impl PopModel {
    /// A PoP that has just started.
    #[must_use]
    pub fn new(seed: u64, epoch: u32, base: Instant, now: Time) -> Self {
        let mut random = Random::new(seed.wrapping_add(epoch.into()), "pop");
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&random.bits().to_le_bytes());
        Self {
            relay: Relay::new(RelayLimits::default(), base + now, &Seed::from_random(bytes)),
            epoch,
            sessions: BTreeMap::new(),
            introductions: BTreeMap::new(),
            next: 0,
            random,
            base,
            out: Vec::new(),
        }
    }

    /// The production relay, for its counters.
    #[must_use]
    pub const fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Takes a datagram.
    pub fn handle_input(&mut self, now: Time, from: SocketAddr, mut datagram: Vec<u8>) {
        match classify(&datagram) {
            DatagramKind::Relay => {
                if let Handled::Forward(to) = self.relay.handle_input(self.base + now, from, &mut datagram) {
                    self.out.push((to, datagram));
                }
            }
            DatagramKind::Quic => {
                if let Some(message) = Message::parse(&datagram) {
                    self.message(now, from, message);
                }
            }
            _ => {}
        }
    }

    fn message(&mut self, now: Time, from: SocketAddr, message: Message) {
        let Message { word, agent, epoch, sequence, body } = message;
        let at = self.base + now;
        let session = self.sessions.entry(agent).or_insert_with(|| Session {
            address: from,
            epoch,
            control: ControlEnd::default(),
        });
        if session.epoch > epoch {
            return;
        }
        if session.epoch < epoch {
            // Another process, which knows nothing of its channels.
            *session = Session { address: from, epoch, control: ControlEnd::default() };
            self.relay.handle_command(at, RelayCommand::Reattached { owner: owner(agent), address: from });
        }
        let Some(session) = self.sessions.get_mut(&agent) else { return };
        if session.address != from {
            session.address = from;
            self.relay
                .handle_command(at, RelayCommand::AddressChanged { owner: owner(agent), address: from });
        }
        let Some(session) = self.sessions.get_mut(&agent) else { return };
        if word == Word::Ack {
            session.control.acknowledged(sequence);
            return;
        }
        let observed = from.to_string().into_bytes();
        let ack = Message { word: Word::Ack, agent, epoch: self.epoch, sequence, body: observed };
        self.out.push((from, ack.encode()));
        if !session.control.is_new(sequence) {
            return;
        }
        match word {
            Word::Open => self.open(now, agent, &body),
            Word::Accept | Word::Refuse => self.answered(now, word, agent, &body),
            Word::Close => {
                if let Some(channel) = id(&body) {
                    let (owner, reason) = (owner(agent), Refusal::SessionLost);
                    self.relay.handle_command(at, RelayCommand::Close { channel, owner, reason });
                }
            }
            _ => {}
        }
    }

    fn tell(&mut self, now: Time, agent: u16, word: Word, body: Vec<u8>) {
        if let Some(session) = self.sessions.get_mut(&agent) {
            let datagram = session.control.say(now, word, agent, self.epoch, body);
            self.out.push((session.address, datagram));
        }
    }

    fn channel(&mut self) -> (ChannelId, ChannelSecret) {
        let mut secret = [0; 32];
        for chunk in secret.chunks_mut(8) {
            chunk.copy_from_slice(&self.random.bits().to_le_bytes());
        }
        (ChannelId::from_random(self.random.bits()), ChannelSecret::from_random(secret))
    }

    /// Where an agent is seen: a length (1) and the address.
    fn seen(&self, agent: u16) -> Vec<u8> {
        let text = self.sessions.get(&agent).map(|session| session.address.to_string()).unwrap_or_default();
        let mut bytes = vec![u8::try_from(text.len()).expect("an address is short")];
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    /// `Open`: token (4) | connector (2) | the client's key (32) | initiation.
    fn open(&mut self, now: Time, client: u16, body: &[u8]) {
        let Some((token, rest)) = body.split_first_chunk::<4>() else { return };
        let Some((connector, rest)) = rest.split_first_chunk::<2>() else { return };
        let connector = u16::from_le_bytes(*connector);
        if !self.sessions.contains_key(&connector) {
            return self.tell(now, client, Word::NotOpened, token.to_vec());
        }
        let channels = [self.channel(), self.channel()];
        let introduction = self.next;
        self.next += 1;
        let mut told = introduction.to_le_bytes().to_vec();
        told.extend_from_slice(&channels[1].0.bits().to_le_bytes());
        told.extend_from_slice(channels[1].1.expose());
        told.extend_from_slice(&client.to_le_bytes());
        told.extend(self.seen(client));
        told.extend_from_slice(rest);
        let agents = [client, connector];
        self.introductions.insert(introduction, Introduction { agents, token: *token, channels });
        self.tell(now, connector, Word::Introduce, told);
    }

    /// `Accept`: introduction (8) | response.
    fn answered(&mut self, now: Time, word: Word, connector: u16, body: &[u8]) {
        let Some((introduction, response)) = body.split_first_chunk::<8>() else { return };
        let Some(introduction) = self.introductions.remove(&u64::from_le_bytes(*introduction)) else {
            return;
        };
        let Introduction { agents, token, channels } = introduction;
        let addresses = agents.map(|agent| self.sessions.get(&agent).map(|session| session.address));
        let ([Some(client), Some(far)], true) = (addresses, agents[1] == connector && word == Word::Accept)
        else {
            return self.tell(now, agents[0], Word::NotOpened, token.to_vec());
        };
        let side = |index: usize, address| SideSpec {
            id: channels[index].0,
            secret: channels[index].1.clone(),
            address,
            moved: None,
            owner: owner(agents[index]),
        };
        let spec = ChannelSpec { sides: [side(0, client), side(1, far)] };
        self.relay.handle_command(self.base + now, RelayCommand::Install(Box::new(spec)));
        let mut told = token.to_vec();
        told.extend_from_slice(&channels[0].0.bits().to_le_bytes());
        told.extend_from_slice(channels[0].1.expose());
        told.extend(self.seen(connector));
        told.extend_from_slice(response);
        self.tell(now, agents[0], Word::Opened, told);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.relay.handle_timeout(self.base + now);
        for session in self.sessions.values_mut() {
            let again = session.control.due(now);
            self.out.extend(again.into_iter().map(|datagram| (session.address, datagram)));
        }
    }

    /// What is to be sent now, and when the PoP wants to be woken.
    pub fn drain(&mut self, now: Time) -> (Vec<(SocketAddr, Vec<u8>)>, Option<Time>) {
        let due = loop {
            match self.relay.poll_output() {
                RelayOutput::Transmit { to, frame } => self.out.push((to, frame.to_vec())),
                RelayOutput::Ended(ended) => {
                    for (agent, channel) in ended.sides {
                        if let Some(agent) = number(agent, &self.sessions) {
                            self.tell(now, agent, Word::Closed, channel.bits().to_le_bytes().to_vec());
                        }
                    }
                }
                // This model takes every source for proven.
                RelayOutput::Proven { .. } => {}
                RelayOutput::Timeout { at, .. } => break at,
            }
        };
        let relay = due.map(|at| at.saturating_duration_since(self.base));
        let control = self.sessions.values().filter_map(|session| session.control.deadline()).min();
        (std::mem::take(&mut self.out), relay.into_iter().chain(control).min())
    }
}

/// Where somebody is seen, as [`PopModel::seen`] writes it, and what follows.
pub fn split_seen(body: &[u8]) -> Option<(Option<SocketAddr>, &[u8])> {
    let (length, rest) = body.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()), rest))
}

/// A channel id at the front.
#[must_use]
pub fn id(body: &[u8]) -> Option<ChannelId> {
    body.first_chunk::<8>().map(|bytes| ChannelId::from_random(u64::from_le_bytes(*bytes)))
}
