//! A connector or a client of the fast worlds: the production tunnels and channel ends, and a session of a few lines.

use super::{
    control::{ControlEnd, Message, Word},
    engine::SimEngine,
    pop::{id, split_seen},
};
use crate::world::{HostId, Time};
use ::agent::{RelayInput, RelayLinks};
use session::SessionId;
use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};
use tunnel::{
    Event, LocalAddress, Output, Path, PeerId, Surroundings, Transmit, Tunnels, WireGuardPublicKey,
};
use wire::{ChannelId, ChannelSecret, DatagramKind, DeviceId, PopId, classify};

/// The PoP of the world.
pub const POP: PopId = PopId::from_bytes([8; 16]);
/// The session's keepalive, as a PoP asks for it.
const CLIENT_ALIVE: Time = Time::from_secs(25);
const CONNECTOR_ALIVE: Time = Time::from_secs(2);
/// Between two introductions of one client.
const OPEN_EVERY: Time = Time::from_secs(1);
/// An introduction that nobody answered.
const OPEN_WITHIN: Time = Time::from_secs(5);
/// As in the client's core.
const NEAR_AFTER: Time = Time::from_secs(2);
const NEAR_EVERY: Time = Time::from_secs(30);
const SESSION: SessionId = SessionId::from_u64(1);

/// An agent's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It takes introductions and answers data.
    Connector,
    /// It asks for introductions.
    Client,
}

/// Whether a connector sends data back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Echo {
    /// Every packet.
    Each,
    /// The first one of each second, whoever it is from.
    Seldom,
    /// None.
    Never,
}

/// How long an agent's data packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// As short as they can be.
    Least,
    /// As long as its tunnel says they may be.
    Most,
}

/// What a client's program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// A packet this often; never when none.
    pub every: Option<Time>,
}

/// What came of the program.
#[derive(Debug, Clone, Default)]
pub struct Experience {
    /// Packets sent.
    pub sent: u64,
    /// Packets that came here, of the other side's program.
    pub came: u64,
    /// When the first came.
    pub first: Option<Time>,
    /// When the last came.
    pub last: Option<Time>,
    /// The longest time without, and when it ended.
    pub longest: (Time, Time),
}

impl Experience {
    fn heard(&mut self, now: Time) {
        let gap = now.saturating_sub(self.last.unwrap_or(now));
        if gap > self.longest.0 {
            self.longest = (gap, now);
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
        self.came += 1;
    }

    /// Forgets the longest gap.
    pub fn start_over(&mut self, now: Time) {
        self.longest = (Time::ZERO, now);
    }
}

/// A connector that a client wants.
#[derive(Debug)]
struct Wanted {
    number: u16,
    key: WireGuardPublicKey,
    peer: Option<PeerId>,
    asked_at: Option<Time>,
    token: u32,
    ask_at: Option<Time>,
}

/// See the module.
pub struct Agent {
    /// Its number, which the PoP knows it by.
    pub number: u16,
    /// Its host.
    pub host: HostId,
    /// What came of its program.
    pub experience: Experience,
    /// What it does.
    pub program: Program,
    /// Whether it answers data.
    pub echo: Echo,
    /// Before this, nothing is answered.
    answers_at: Time,
    /// How long its packets are.
    pub length: Length,
    part: Part,
    key: WireGuardPublicKey,
    seed: u64,
    epoch: u32,
    base: Instant,
    tunnels: Tunnels<SimEngine>,
    links: RelayLinks,
    control: ControlEnd,
    pop: SocketAddr,
    pop_epoch: Option<u32>,
    around: Surroundings,
    alive_at: Time,
    next_data: Time,
    wanted: Option<Wanted>,
    tokens: u32,
    asked_near: Option<Time>,
    /// Where the PoP said that others are, to be told to the watch.
    told_of: Vec<SocketAddr>,
    /// Its keys before this one.
    rekeyed: u16,
    out: Vec<(SocketAddr, Vec<u8>)>,
    events: Vec<Event>,
    sealed: Vec<Transmit>,
}

/// The key of an agent's number.
#[must_use]
pub fn key_of(number: u16) -> WireGuardPublicKey {
    nth_key_of(number, 0)
}

/// The key that an agent has after it took so many others.
fn nth_key_of(number: u16, nth: u16) -> WireGuardPublicKey {
    let mut key = [0x5a; 32];
    key[..2].copy_from_slice(&number.to_le_bytes());
    key[2..4].copy_from_slice(&nth.to_le_bytes());
    WireGuardPublicKey::from_bytes(key)
}

/// The device that an agent proves to be with every key.
const fn device_of(number: u16) -> DeviceId {
    let [low, high] = number.to_le_bytes();
    DeviceId::from_bytes([low, high, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
}

fn tunnels(key: WireGuardPublicKey, seed: u64, epoch: u32, now: Instant) -> Tunnels<SimEngine> {
    Tunnels::with_engine(SimEngine::new(key, epoch), seed.wrapping_add(epoch.into()), now)
}

impl Agent {
    /// An agent that starts now.
    #[must_use]
    pub fn new(
        part: Part,
        number: u16,
        host: HostId,
        pop: SocketAddr,
        seed: u64,
        base: Instant,
        now: Time,
    ) -> Self {
        let key = key_of(number);
        let seed = crate::world::Random::new(seed, "agent").bits() ^ u64::from(number);
        Self {
            number,
            host,
            experience: Experience::default(),
            program: Program { every: None },
            echo: Echo::Each,
            answers_at: Time::ZERO,
            length: Length::Least,
            part,
            key,
            seed,
            epoch: 1,
            base,
            tunnels: tunnels(key, seed, 1, base + now),
            links: RelayLinks::new(),
            control: ControlEnd::default(),
            pop,
            pop_epoch: None,
            around: Surroundings::default(),
            alive_at: now,
            next_data: now,
            wanted: None,
            tokens: 0,
            asked_near: None,
            told_of: Vec::new(),
            rekeyed: 0,
            out: Vec::new(),
            events: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// Its part.
    #[must_use]
    pub const fn part(&self) -> Part {
        self.part
    }

    /// The production tunnels.
    pub const fn tunnels(&mut self) -> &mut Tunnels<SimEngine> {
        &mut self.tunnels
    }

    /// By which way its packets for another agent go.
    #[must_use]
    pub fn way_to(&self, other: u16) -> Option<Path> {
        self.tunnels.way_of(self.tunnels.peer_of(key_of(other))?)
    }

    /// How long a packet for another agent may be now, as its tunnel says.
    #[must_use]
    pub fn mtu_to(&self, other: u16) -> Option<usize> {
        self.tunnels.mtu_of(self.tunnels.peer_of(key_of(other))?)
    }

    /// The other agent's number of a peer.
    #[must_use]
    pub fn number_of(&self, peer: PeerId, agents: u16) -> Option<u16> {
        let key = self.tunnels.key_of(peer)?;
        let number = u16::from_le_bytes(*key.as_bytes().first_chunk::<2>().expect("a key has 32 bytes"));
        (number < agents).then_some(number)
    }

    /// It opens its tunnel again with another key, as a new process of a device does, or one that wants a new budget.
    pub fn take_another_key(&mut self, now: Time) {
        self.rekeyed += 1;
        self.key = nth_key_of(self.number, self.rekeyed);
        self.tunnels =
            tunnels(self.key, self.seed.wrapping_add(u64::from(self.rekeyed)), self.epoch, self.base + now);
        self.tunnels.set_surroundings(self.base + now, self.around.clone());
        for channel in self.links.remove_session(SESSION) {
            self.say(now, Word::Close, channel.bits().to_le_bytes().to_vec());
        }
        if let Some(wanted) = &mut self.wanted {
            (wanted.peer, wanted.asked_at, wanted.ask_at) = (None, None, Some(now));
        }
    }

    /// From now on it wants a tunnel to this connector.
    pub fn want(&mut self, now: Time, connector: u16) {
        let key = key_of(connector);
        self.wanted =
            Some(Wanted { number: connector, key, peer: None, asked_at: None, token: 0, ask_at: Some(now) });
    }

    /// Its program sends so often from now on.
    pub fn set_program(&mut self, now: Time, program: Program) {
        self.program = program;
        self.next_data = now;
    }

    /// Its interfaces are these now.
    pub fn set_addresses(&mut self, now: Time, port: u16, addresses: &[IpAddr], pop: SocketAddr) {
        let local = |ip: &IpAddr| LocalAddress { ip: *ip, prefix: if ip.is_ipv4() { 24 } else { 64 } };
        let is_other = !self.around.local.is_empty();
        self.around.port = port;
        self.around.local = addresses.iter().map(local).collect();
        if std::mem::replace(&mut self.pop, pop) != pop && is_other {
            // Another family: the session is another one, and its channels are given back.
            for channel in self.links.remove_session(SESSION) {
                self.say(now, Word::Close, channel.bits().to_le_bytes().to_vec());
                self.lost(now, channel);
            }
        }
        self.tunnels.set_surroundings(self.base + now, self.around.clone());
        if is_other {
            self.tunnels.network_changed(self.base + now);
            self.alive_at = now;
            self.control.hurry(now);
        }
    }

    /// The process ends and starts again: everything but its key is forgotten.
    pub fn restart(&mut self, now: Time) {
        self.epoch += 1;
        self.tunnels = tunnels(self.key, self.seed, self.epoch, self.base + now);
        self.links = RelayLinks::new();
        self.control = ControlEnd::default();
        self.pop_epoch = None;
        self.around.observed.clear();
        self.tunnels.set_surroundings(self.base + now, self.around.clone());
        self.alive_at = now;
        self.out.clear();
        if let Some(wanted) = &mut self.wanted {
            wanted.peer = None;
            wanted.asked_at = None;
            wanted.ask_at = Some(now);
        }
    }

    /// Takes a datagram.
    pub fn handle_input(&mut self, now: Time, from: SocketAddr, datagram: &[u8]) {
        let at = self.base + now;
        match classify(datagram) {
            DatagramKind::Quic => {
                if let Some(message) = Message::parse(datagram).filter(|message| message.agent == self.number)
                {
                    self.message(now, message);
                }
            }
            DatagramKind::Relay => match self.links.handle_input(from, datagram) {
                Ok(RelayInput::Data { channel, packet }) => {
                    self.tunnels.handle_input(at, Path::relay(POP, channel), packet);
                }
                Ok(RelayInput::Answer { channel, to, payload }) => {
                    self.out.push((to, payload));
                    self.tunnels.asked_about(at, Path::relay(POP, channel));
                }
                Err(_) => {}
            },
            DatagramKind::WireGuard => self.tunnels.handle_direct(at, from, &[datagram]),
            DatagramKind::Stun | DatagramKind::Foreign => {}
        }
    }

    fn message(&mut self, now: Time, message: Message) {
        let Message { word, epoch, sequence, body, .. } = message;
        if self.pop_epoch.is_some_and(|known| known > epoch) {
            return;
        }
        if self.pop_epoch.replace(epoch).is_some_and(|known| known < epoch) {
            self.pop_restarted(now);
        }
        if word == Word::Ack {
            self.control.acknowledged(sequence);
            let seen = std::str::from_utf8(&body).ok().and_then(|text| text.parse().ok());
            if let Some(seen) = seen {
                self.observed(now, seen);
            }
            return;
        }
        let ack =
            Message { word: Word::Ack, agent: self.number, epoch: self.epoch, sequence, body: Vec::new() };
        self.out.push((self.pop, ack.encode()));
        if !self.control.is_new(sequence) {
            return;
        }
        match word {
            Word::Introduce => self.introduced(now, &body),
            Word::Opened => self.opened(now, &body),
            Word::NotOpened => self.ask_again(now),
            Word::Closed => {
                if let Some(channel) = id(&body) {
                    self.links.remove(channel);
                    self.lost(now, channel);
                }
            }
            _ => {}
        }
    }

    fn observed(&mut self, now: Time, seen: SocketAddr) {
        if self.around.observed != [seen] {
            let is_elsewhere = self.around.observed.first().is_some_and(|before| before.ip() != seen.ip());
            self.around.observed = vec![seen];
            self.tunnels.set_surroundings(self.base + now, self.around.clone());
            self.out.extend(self.links.hellos(SESSION));
            let peer = self.wanted.as_ref().and_then(|wanted| wanted.peer);
            if is_elsewhere && peer.is_some_and(|peer| self.tunnels.may_be_near(peer)) {
                // As the client's core does: another introduction says whether the connector is near.
                let at = self.asked_near.map_or(now, |asked| now.max(asked + NEAR_EVERY)) + NEAR_AFTER;
                self.asked_near = Some(at);
                if let Some(wanted) = self.wanted.as_mut().filter(|wanted| wanted.asked_at.is_none()) {
                    wanted.ask_at.get_or_insert(at);
                }
            }
        }
    }

    fn pop_restarted(&mut self, now: Time) {
        self.control = ControlEnd::default();
        self.alive_at = now;
        for channel in self.links.remove_session(SESSION) {
            self.lost(now, channel);
        }
        self.ask_again(now);
    }

    fn lost(&mut self, now: Time, channel: ChannelId) {
        if self.tunnels.drop_path(self.base + now, Path::relay(POP, channel)).is_some() {
            self.ask_again(now);
        }
    }

    fn say(&mut self, now: Time, word: Word, body: Vec<u8>) {
        let datagram = self.control.say(now, word, self.number, self.epoch, body);
        self.out.push((self.pop, datagram));
    }

    fn ask_again(&mut self, now: Time) {
        if let Some(wanted) = &mut self.wanted {
            let at = wanted.asked_at.take().map_or(now, |asked| now.max(asked + OPEN_EVERY));
            wanted.ask_at = Some(at);
        }
    }

    fn ask(&mut self, now: Time) {
        let Some(wanted) = &mut self.wanted else { return };
        wanted.ask_at = None;
        wanted.asked_at = Some(now);
        self.tokens += 1;
        wanted.token = self.tokens;
        let Ok((peer, initiation)) = self.tunnels.connect(self.base + now, wanted.key) else { return };
        wanted.peer = Some(peer);
        let mut body = wanted.token.to_le_bytes().to_vec();
        body.extend_from_slice(&wanted.number.to_le_bytes());
        body.extend_from_slice(self.key.as_bytes());
        body.extend_from_slice(&initiation);
        self.say(now, Word::Open, body);
    }

    /// Introduction (8) | channel (8) | secret (32) | client (2) | where it is seen | key (32) | initiation.
    fn introduced(&mut self, now: Time, body: &[u8]) {
        let Some((introduction, rest)) = body.split_first_chunk::<8>() else { return };
        let (Some(channel), Some((_, rest))) = (id(rest), rest.split_first_chunk::<8>()) else { return };
        let Some((secret, rest)) = rest.split_first_chunk::<32>() else { return };
        let Some((client, rest)) = rest.split_first_chunk::<2>() else { return };
        let Some((seen, rest)) = split_seen(rest) else { return };
        let Some((key, initiation)) = rest.split_first_chunk::<32>() else { return };
        let path = Path::relay(POP, channel);
        let key = WireGuardPublicKey::from_bytes(*key);
        let mut body = introduction.to_vec();
        match self.tunnels.accept_initiation(self.base + now, key, initiation, path) {
            Ok(accepted)
                if self.links.insert(channel, SESSION, self.pop, ChannelSecret::from_random(*secret)) =>
            {
                self.tunnels.belongs_to(accepted.peer, device_of(u16::from_le_bytes(*client)));
                self.told_of.extend(seen);
                self.tunnels.introduced_from(self.base + now, accepted.peer, seen);
                body.extend_from_slice(&accepted.response);
                self.say(now, Word::Accept, body);
            }
            _ => self.say(now, Word::Refuse, body),
        }
    }

    /// Token (4) | channel (8) | secret (32) | where the connector is seen | response.
    fn opened(&mut self, now: Time, body: &[u8]) {
        let Some((token, rest)) = body.split_first_chunk::<4>() else { return };
        let (Some(channel), Some((_, rest))) = (id(rest), rest.split_first_chunk::<8>()) else { return };
        let Some((secret, rest)) = rest.split_first_chunk::<32>() else { return };
        let Some((seen, response)) = split_seen(rest) else { return };
        let awaited = self.wanted.as_ref().filter(|wanted| wanted.token.to_le_bytes() == *token);
        let Some(peer) = awaited.and_then(|wanted| wanted.peer) else {
            return self.say(now, Word::Close, channel.bits().to_le_bytes().to_vec());
        };
        if !self.links.insert(channel, SESSION, self.pop, ChannelSecret::from_random(*secret)) {
            return;
        }
        match self.tunnels.accept_response(self.base + now, peer, response, Path::relay(POP, channel)) {
            Ok(replaced) => {
                if let Some(wanted) = &mut self.wanted {
                    wanted.asked_at = None;
                }
                self.told_of.extend(seen);
                self.tunnels.introduced_from(self.base + now, peer, seen);
                self.give_back(now, replaced);
            }
            Err(_) => {
                self.links.remove(channel);
                self.say(now, Word::Close, channel.bits().to_le_bytes().to_vec());
                self.ask_again(now);
            }
        }
    }

    fn give_back(&mut self, now: Time, path: Option<Path>) {
        if let Some(Path::Relay { channel, .. }) = path
            && self.links.remove(channel).is_some()
        {
            self.say(now, Word::Close, channel.bits().to_le_bytes().to_vec());
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Time) {
        self.tunnels.handle_timeout(self.base + now);
        if self.alive_at <= now {
            self.alive_at = now
                + match self.part {
                    Part::Client => CLIENT_ALIVE,
                    Part::Connector => CONNECTOR_ALIVE,
                };
            // One that waits is said again anyway.
            if self.control.is_quiet() {
                self.say(now, Word::Alive, Vec::new());
            }
        }
        let again = self.control.due(now);
        self.out.extend(again.into_iter().map(|datagram| (self.pop, datagram)));
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| wanted.asked_at.is_some_and(|at| at + OPEN_WITHIN <= now))
        {
            self.ask_again(now);
        }
        if self.wanted.as_ref().is_some_and(|wanted| wanted.ask_at.is_some_and(|at| at <= now)) {
            self.ask(now);
        }
        if let (Some(every), Some(peer)) =
            (self.program.every, self.wanted.as_ref().and_then(|wanted| wanted.peer))
            && self.next_data <= now
        {
            self.next_data = now + every;
            self.experience.sent += 1;
            let packet = data(self.number, self.experience.sent, self.data_len(peer));
            // A full queue loses it, as the real one would.
            let _ = self.tunnels.seal(self.base + now, peer, &packet);
        }
    }

    fn data_len(&self, peer: PeerId) -> usize {
        match self.length {
            Length::Least => DATA_LEN,
            Length::Most => self.tunnels.mtu_of(peer).unwrap_or(DATA_LEN),
        }
    }

    /// Seals whatever for the wanted peer: how a hostile client speaks.
    pub fn seal_anything(&mut self, now: Time, inner: &[u8]) {
        if let Some(peer) = self.wanted.as_ref().and_then(|wanted| wanted.peer) {
            let _ = self.tunnels.seal(self.base + now, peer, inner);
        }
    }

    /// Takes everything out: what is to be sent by the session, by the tunnels, and what happened.
    pub fn drain(&mut self, now: Time) -> Drained {
        loop {
            match self.tunnels.poll_output() {
                Output::Transmit(transmit) => self.sealed.push(transmit),
                Output::Inner { peer, packet } => {
                    self.experience.heard(now);
                    if self.part == Part::Connector && self.answers(now) {
                        let sequence = sequence_of(&packet);
                        let packet = data(self.number, sequence, self.data_len(peer));
                        let _ = self.tunnels.seal(self.base + now, peer, &packet);
                    }
                }
                // Here the packets inside are numbers: no name is bound to any.
                Output::Bind { .. } => {}
                Output::Event(event) => {
                    self.events.push(event);
                    self.event(now, event);
                }
                Output::Timeout(timeout) => {
                    let tunnels = timeout.map(|timeout| timeout.at.saturating_duration_since(self.base));
                    let wanted = self.wanted.as_ref();
                    let ask = wanted.and_then(|wanted| wanted.ask_at);
                    let patience = wanted.and_then(|wanted| wanted.asked_at).map(|at| at + OPEN_WITHIN);
                    let is_ready = wanted.is_some_and(|wanted| wanted.peer.is_some());
                    let data = self.program.every.filter(|_| is_ready).map(|_| self.next_data);
                    let due = [tunnels, ask, patience, data, self.control.deadline(), Some(self.alive_at)];
                    let sealed = std::mem::take(&mut self.sealed);
                    let sealed = sealed.into_iter().filter_map(|transmit| self.address(transmit)).collect();
                    return Drained {
                        sealed,
                        session: std::mem::take(&mut self.out),
                        told_of: std::mem::take(&mut self.told_of),
                        events: std::mem::take(&mut self.events),
                        due: due.into_iter().flatten().min().unwrap_or(Time::MAX),
                    };
                }
            }
        }
    }

    /// Whether a packet that came is answered.
    fn answers(&mut self, now: Time) -> bool {
        match self.echo {
            Echo::Each => true,
            Echo::Never => false,
            Echo::Seldom if now < self.answers_at => false,
            Echo::Seldom => {
                self.answers_at = now + Time::from_secs(1);
                true
            }
        }
    }

    fn address(&self, transmit: Transmit) -> Option<(SocketAddr, Transmit)> {
        let to = match transmit.path {
            Path::Relay { channel, .. } => self.links.pop_of(channel)?,
            Path::Direct { remote } => remote,
            _ => return None,
        };
        Some((to, transmit))
    }

    fn event(&mut self, now: Time, event: Event) {
        match event {
            Event::Proven { replaced, .. } => self.give_back(now, replaced),
            Event::Unused { path, .. } => self.give_back(now, Some(path)),
            Event::Unanswered { .. } | Event::GaveUp { .. } => self.ask_again(now),
            // A question to the PoP, out of turn.
            Event::Quiet { .. } => self.alive_at = now,
            Event::Moved { .. } | Event::Mtu { .. } | Event::Pong { .. } | Event::Removed { .. } => {}
        }
    }
}

/// What an agent wants done.
pub struct Drained {
    /// Tunnel packets and where they go.
    pub sealed: Vec<(SocketAddr, Transmit)>,
    /// Datagrams of the session and the relay's questions.
    pub session: Vec<(SocketAddr, Vec<u8>)>,
    /// Where the PoP said that others are.
    pub told_of: Vec<SocketAddr>,
    /// What happened.
    pub events: Vec<Event>,
    /// When to call again.
    pub due: Time,
}

/// The shortest packet of a program: IPv4's header and a number.
const DATA_LEN: usize = 28;

/// An IPv4 packet of a program.
fn data(agent: u16, sequence: u64, length: usize) -> Vec<u8> {
    let mut packet = vec![0; length.max(DATA_LEN)];
    let length = u16::try_from(packet.len()).expect("no longer than a tunnel takes");
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[12..14].copy_from_slice(&agent.to_be_bytes());
    packet[20..28].copy_from_slice(&sequence.to_be_bytes());
    packet
}

fn sequence_of(packet: &[u8]) -> u64 {
    packet.get(20..28).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}
