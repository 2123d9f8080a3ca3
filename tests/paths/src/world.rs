//! Hosts, boxes, links and one queue of events.

use crate::{
    engine::SimEngine,
    nat::{Behaviour, Nat},
    random::Random,
};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tunnel::{
    Event as TunnelEvent, LocalAddress, MoveReason, Output, Path, PathMessage, PeerId, Surroundings, Tunnels,
};
use wire::{ChannelId, PopId, RELAY_HEADER_LEN};

/// Where the PoP is.
const POP_V4: &str = "203.0.113.250:443";
const POP_V6: &str = "[2001:db8:ffff::1]:443";
/// How often a session says something to its PoP.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// From a change of network to the session's first packet from there: the kernel's word, and a turn of the loop.
const NOTICE: Duration = Duration::from_millis(60);

/// A host's number; the connector is 0.
pub type HostId = usize;

/// How the network behaves.
#[derive(Debug, Clone, Copy)]
pub struct Links {
    /// Lost of a thousand.
    pub loss: u64,
    /// Sent twice, of a thousand.
    pub twice: u64,
    /// Each packet takes up to this much longer: what is later sent may come earlier.
    pub jitter: Duration,
}

impl Links {
    /// Nothing happens to packets.
    pub const GOOD: Self = Self { loss: 0, twice: 0, jitter: Duration::ZERO };
}

/// Where a host is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its own address.
    pub inside: SocketAddr,
    /// The box in front of it.
    pub nearest: Option<usize>,
    /// Whether UDP goes out.
    pub udp: bool,
    /// One way to the middle of the internet.
    pub delay: Duration,
}

struct Host {
    tunnels: Tunnels<SimEngine>,
    place: Place,
    peers: BTreeMap<PeerId, HostId>,
    observed: Option<SocketAddr>,
    timer: Option<Instant>,
    /// Answers to probes that came from there.
    proofs: BTreeMap<SocketAddr, u32>,
    suspended: bool,
}

/// One client's channel.
struct Relay {
    up: bool,
    /// Where the PoP has proven each side: client, connector.
    proven: [Option<SocketAddr>; 2],
    asking: [bool; 2],
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Deliver { to: HostId, from: Option<SocketAddr>, channel: u64, bytes: Vec<u8> },
    Wake(HostId),
    Talk { client: HostId, every: Duration },
    Keepalive(HostId),
    Proven { client: HostId, side: usize, address: SocketAddr },
    Open(HostId),
}

type Queued = Reverse<(Instant, u64, What)>;

/// What happened.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// Data packets that clients sent, and answers they got.
    pub asked: BTreeMap<HostId, u64>,
    /// When each client got answers.
    pub answers: BTreeMap<HostId, Vec<Instant>>,
    /// Moves of a host's way.
    pub moves: Vec<(Instant, HostId, Option<Path>, MoveReason)>,
    /// Lists of candidates that were said: when and by whom.
    pub lists: Vec<(Instant, HostId)>,
    /// Probes: when, by whom, where to.
    pub probes: Vec<(Instant, HostId, SocketAddr)>,
    /// Datagrams that a host sent, of any kind.
    pub sent: BTreeMap<HostId, u64>,
    /// What must never be: in a sentence each.
    pub faults: BTreeSet<String>,
    /// Events handled.
    pub events: u64,
}

/// The world.
pub struct World {
    /// When it began.
    pub start: Instant,
    /// Now.
    pub now: Instant,
    /// What happened.
    pub seen: Seen,
    /// How links behave.
    pub links: Links,
    /// Pairs of hosts whose direct packets get lost, from and to.
    pub one_way: BTreeSet<(HostId, HostId)>,
    random: Random,
    hosts: Vec<Host>,
    boxes: Vec<(Nat, Option<usize>)>,
    relays: BTreeMap<HostId, Relay>,
    queue: BinaryHeap<Queued>,
    order: u64,
    trace: u64,
    keeps_records: bool,
}

/// Whether a world remembers what happened, for properties, or only counts, for speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Records {
    /// Everything.
    Kept,
    /// Counts.
    Counted,
}

fn relay_path(channel: u64) -> Path {
    Path::relay(PopId::from_bytes([7; 16]), ChannelId::from_random(channel))
}

impl World {
    /// An empty world.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "one reading of the clock, as the start of virtual time")]
    pub fn new(seed: u64, links: Links, records: Records) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            seen: Seen::default(),
            links,
            one_way: BTreeSet::new(),
            random: Random::new(seed),
            hosts: Vec::new(),
            boxes: Vec::new(),
            relays: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            trace: 0xCBF2_9CE4_8422_2325,
            keeps_records: records == Records::Kept,
        }
    }

    /// Adds a box; `parent` is the one between it and the internet.
    pub fn add_box(&mut self, behaviour: Behaviour, outside: IpAddr, parent: Option<usize>) -> usize {
        let seed = self.random.bits();
        self.boxes.push((Nat::new(behaviour, outside, seed), parent));
        self.boxes.len() - 1
    }

    /// Adds a host; the first is the connector.
    pub fn add_host(&mut self, place: Place) -> HostId {
        let id = self.hosts.len();
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(u64::try_from(id).unwrap_or(0) + 1).to_le_bytes());
        let start = u32::try_from(self.random.below(1 << 31)).unwrap_or(0);
        let tunnels = Tunnels::with_engine(SimEngine::new(key, start), self.random.bits(), self.now);
        self.hosts.push(Host {
            tunnels,
            place,
            peers: BTreeMap::new(),
            observed: None,
            timer: None,
            proofs: BTreeMap::new(),
            suspended: false,
        });
        let first = self.random.between(Duration::from_secs(1), KEEPALIVE);
        self.plan(first, What::Keepalive(id));
        id
    }

    /// A client opens its tunnel and talks from then on, a packet each `every`.
    pub fn open(&mut self, client: HostId, every: Option<Duration>) {
        self.relays.insert(client, Relay { up: true, proven: [None; 2], asking: [false; 2] });
        for host in [client, 0] {
            self.register(host);
        }
        self.introduce(client);
        if let Some(every) = every {
            self.plan(every, What::Talk { client, every });
        }
    }

    fn introduce(&mut self, client: HostId) {
        let now = self.now;
        let number = u64::try_from(client).unwrap_or(0);
        let connector_key = self.hosts[0].tunnels.public_key();
        let client_key = self.hosts[client].tunnels.public_key();
        let Ok((to_connector, initiation)) = self.hosts[client].tunnels.connect(now, connector_key) else {
            self.fault("a client could not begin a tunnel");
            return;
        };
        let answer =
            self.hosts[0].tunnels.accept_initiation(now, client_key, &initiation, relay_path(2 * number + 1));
        let Ok(accepted) = answer else {
            self.fault("a connector refused a true initiation");
            return;
        };
        // Whoever was forgotten comes back under another number.
        self.hosts[0].peers.retain(|_, known| *known != client);
        self.hosts[0].peers.insert(accepted.peer, client);
        self.hosts[client].peers.insert(to_connector, 0);
        let path = relay_path(2 * number);
        if self.hosts[client].tunnels.accept_response(now, to_connector, &accepted.response, path).is_err() {
            self.fault("a client refused a true answer");
        }
        self.settle(client);
        self.settle(0);
    }

    fn pop_for(&self, host: HostId) -> SocketAddr {
        let pop = if self.hosts[host].place.inside.is_ipv4() { POP_V4 } else { POP_V6 };
        pop.parse().expect("a constant")
    }

    /// The session's handshake: the PoP sees and proves where a host is.
    fn register(&mut self, host: HostId) {
        let pop = self.pop_for(host);
        let seen = self.outward(host, pop);
        for (client, relay) in &mut self.relays {
            let side = usize::from(host == 0);
            if host == 0 || *client == host {
                relay.proven[side] = seen;
                relay.asking[side] = false;
            }
        }
        self.observe(host, seen);
    }

    fn observe(&mut self, host: HostId, seen: Option<SocketAddr>) {
        self.hosts[host].observed = seen;
        self.tell(host);
    }

    fn tell(&mut self, host: HostId) {
        let (now, known) = (self.now, &self.hosts[host]);
        let inside = known.place.inside;
        let surroundings = Surroundings {
            port: inside.port(),
            local: vec![
                LocalAddress { ip: inside.ip(), prefix: if inside.is_ipv4() { 24 } else { 64 } },
                LocalAddress { ip: IpAddr::from([127, 0, 0, 1]), prefix: 8 },
            ],
            observed: known.observed.filter(|_| known.place.udp).into_iter().collect(),
            mapped: vec![],
        };
        self.hosts[host].tunnels.set_surroundings(now, surroundings);
        self.settle(host);
    }

    // ---- changes -------------------------------------------------------------------------------------

    /// A host is plugged in elsewhere.
    pub fn roam(&mut self, host: HostId, place: Place) {
        self.hosts[host].place = place;
        let now = self.now;
        self.hosts[host].tunnels.network_changed(now);
        self.observe(host, None);
        self.plan(NOTICE, What::Keepalive(host));
    }

    /// A box loses its mappings.
    pub fn reboot(&mut self, number: usize) {
        self.boxes[number].0.reboot();
    }

    /// The PoP is gone for a while, and with it every channel; sessions open again when it is back.
    pub fn restart_pop(&mut self, back_after: Duration) {
        let now = self.now;
        for client in self.relays.keys().copied().collect::<Vec<_>>() {
            let number = u64::try_from(client).unwrap_or(0);
            if let Some(relay) = self.relays.get_mut(&client) {
                relay.up = false;
            }
            self.hosts[client].tunnels.drop_path(now, relay_path(2 * number));
            self.hosts[0].tunnels.drop_path(now, relay_path(2 * number + 1));
            self.settle(client);
            self.settle(0);
            let spread = self.random.between(Duration::ZERO, Duration::from_millis(300));
            self.plan(back_after + spread, What::Open(client));
        }
    }

    /// A host stops running, and goes on later; its clock does not stop.
    pub fn suspend(&mut self, host: HostId, suspended: bool) {
        self.hosts[host].suspended = suspended;
        if !suspended {
            self.plan(NOTICE, What::Keepalive(host));
            let now = self.now;
            self.hosts[host].tunnels.handle_timeout(now);
            self.settle(host);
        }
    }

    /// By which way a host's data goes to another.
    #[must_use]
    pub fn way(&self, from: HostId, to: HostId) -> Option<Path> {
        let peer = self.hosts[from].peers.iter().find(|(_, other)| **other == to)?;
        self.hosts[from].tunnels.way_of(*peer.0)
    }

    /// Whether data goes straight between a client and the connector, both ways.
    #[must_use]
    pub fn is_direct(&self, client: HostId) -> bool {
        [(client, 0), (0, client)]
            .into_iter()
            .all(|(from, to)| matches!(self.way(from, to), Some(Path::Direct { .. })))
    }

    /// The decisions so far, as one number.
    #[must_use]
    pub const fn trace(&self) -> u64 {
        self.trace
    }

    /// The longest time within a span in which a client got no answer.
    #[must_use]
    pub fn longest_gap(&self, client: HostId, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in self.seen.answers.get(&client).into_iter().flatten().filter(|at| **at > from && **at <= to)
        {
            longest = longest.max(*at - last);
            last = *at;
        }
        longest.max(to - last)
    }

    // ---- time ----------------------------------------------------------------------------------------

    /// Lets time pass.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= end) {
            let Some(Reverse((at, _, what))) = self.queue.pop() else { break };
            self.now = at;
            self.seen.events += 1;
            self.handle(what);
        }
        self.now = end;
    }

    fn plan(&mut self, after: Duration, what: What) {
        self.order += 1;
        self.queue.push(Reverse((self.now + after, self.order, what)));
    }

    fn handle(&mut self, what: What) {
        let now = self.now;
        match what {
            What::Deliver { to, .. } if self.hosts[to].suspended => {}
            What::Deliver { to, from, channel, bytes } => {
                self.note_proof(to, from, &bytes);
                let host = &mut self.hosts[to];
                match from {
                    Some(from) => host.tunnels.handle_direct(now, from, &[&bytes]),
                    None => host.tunnels.handle_input(now, relay_path(channel), &bytes),
                }
                self.settle(to);
            }
            What::Wake(host) => {
                if self.hosts[host].timer.is_some_and(|at| at <= now) {
                    self.hosts[host].timer = None;
                    // Who sleeps hears no clock.
                    if !self.hosts[host].suspended {
                        self.hosts[host].tunnels.handle_timeout(now);
                        self.settle(host);
                    }
                }
            }
            What::Talk { client, every } => {
                if !self.hosts[client].suspended {
                    self.say(client, 0);
                    *self.seen.asked.entry(client).or_default() += 1;
                }
                self.plan(every, What::Talk { client, every });
            }
            What::Keepalive(host) => {
                if !self.hosts[host].suspended {
                    self.keepalive(host);
                }
                self.plan(KEEPALIVE, What::Keepalive(host));
            }
            What::Proven { client, side, address } => {
                let host = if side == 0 { client } else { 0 };
                if let Some(relay) = self.relays.get_mut(&client) {
                    relay.asking[side] = false;
                    relay.proven[side] = Some(address);
                }
                if self.hosts[host].observed != Some(address) {
                    self.observe(host, Some(address));
                }
            }
            What::Open(client) => {
                if let Some(relay) = self.relays.get_mut(&client) {
                    relay.up = true;
                }
                self.register(client);
                self.register(0);
                self.introduce(client);
            }
        }
    }

    /// A session's packet to the PoP: keeps the mapping, and shows where the host is now.
    fn keepalive(&mut self, host: HostId) {
        let pop = self.pop_for(host);
        let Some(seen) = self.outward(host, pop) else { return };
        let clients: Vec<HostId> =
            self.relays.keys().copied().filter(|client| host == 0 || *client == host).collect();
        for client in clients {
            self.knock(client, usize::from(host == 0), seen);
        }
    }

    /// The PoP sees one side of a channel at an address: another one than before is asked for a proof first.
    fn knock(&mut self, client: HostId, side: usize, seen: SocketAddr) -> bool {
        let host = if side == 0 { client } else { 0 };
        let Some(relay) = self.relays.get_mut(&client) else { return false };
        if relay.proven[side] == Some(seen) {
            return true;
        }
        if !relay.asking[side] {
            relay.asking[side] = true;
            let round_trip = self.hosts[host].place.delay * 2;
            self.plan(round_trip, What::Proven { client, side, address: seen });
        }
        false
    }

    fn say(&mut self, from: HostId, to: HostId) {
        let now = self.now;
        let Some(peer) =
            self.hosts[from].peers.iter().find(|(_, other)| **other == to).map(|(peer, _)| *peer)
        else {
            return;
        };
        let mut packet = [0; 96];
        packet[0] = 0x45;
        packet[3] = 96;
        let _ = self.hosts[from].tunnels.seal(now, peer, &packet);
        self.settle(from);
    }

    /// Does what a host wants until it only waits.
    fn settle(&mut self, host: HostId) {
        loop {
            match self.hosts[host].tunnels.poll_output() {
                Output::Transmit(transmit) => match transmit.path {
                    Path::Direct { remote } => self.send_direct(host, remote, transmit.bytes),
                    Path::Relay { channel, .. } => self.send_relayed(host, channel.bits(), &transmit.bytes),
                    other => self.fault(&format!("an unknown kind of path: {other:?}")),
                },
                Output::Inner { peer, .. } => {
                    let Some(from) = self.hosts[host].peers.get(&peer).copied() else { continue };
                    if host == 0 {
                        self.say(0, from);
                    } else if self.keeps_records {
                        self.seen.answers.entry(host).or_default().push(self.now);
                    } else {
                        self.seen.answers.entry(host).or_default();
                    }
                }
                Output::Event(event) => self.event(host, event),
                Output::Timeout(due) => {
                    if let Some(due) = due
                        && self.hosts[host].timer.is_none_or(|at| due.at < at)
                    {
                        let at = due.at.max(self.now);
                        self.hosts[host].timer = Some(at);
                        self.plan(at - self.now, What::Wake(host));
                    }
                    return;
                }
            }
        }
    }

    fn event(&mut self, host: HostId, event: TunnelEvent) {
        if let TunnelEvent::Moved { path, reason, .. } = event {
            self.mix(&(self.now - self.start, host, path, reason));
            if self.keeps_records {
                self.seen.moves.push((self.now, host, path, reason));
            }
        }
    }

    fn mix(&mut self, what: &impl std::fmt::Debug) {
        // FNV-1a: a name for the trace, not a secret.
        for byte in format!("{what:?}").bytes() {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn fault(&mut self, what: &str) {
        if self.seen.faults.len() < 100 {
            self.seen
                .faults
                .insert(format!("{what} ({} ms after the start)", (self.now - self.start).as_millis()));
        }
    }

    // ---- packets -------------------------------------------------------------------------------------

    /// What a data packet of the simulation's engine carries.
    fn inner(wireguard: &[u8]) -> Option<&[u8]> {
        (wireguard.first() == Some(&4)).then(|| wireguard.get(16..wireguard.len().checked_sub(16)?))?
    }

    fn note(&mut self, host: HostId, remote: Option<SocketAddr>, wireguard: &[u8]) {
        *self.seen.sent.entry(host).or_default() += 1;
        if !self.keeps_records {
            return;
        }
        let Some(inner) = Self::inner(wireguard).filter(|inner| !inner.is_empty()) else { return };
        if PathMessage::is_claimed_by(inner) {
            match (PathMessage::parse(inner), remote) {
                (Ok(PathMessage::Candidates { .. }), _) => self.seen.lists.push((self.now, host)),
                (Ok(PathMessage::Probe { .. }), Some(remote)) => {
                    self.seen.probes.push((self.now, host, remote))
                }
                (Ok(_), _) => {}
                (Err(error), _) => self.fault(&format!("a path message of our own does not parse: {error}")),
            }
        } else if let Some(remote) = remote
            && self.hosts[host].proofs.get(&remote).is_none_or(|proofs| *proofs < 2)
        {
            self.fault("data went to an address without two proofs");
        }
    }

    fn note_proof(&mut self, host: HostId, from: Option<SocketAddr>, wireguard: &[u8]) {
        if self.keeps_records
            && let (Some(from), Some(inner)) = (from, Self::inner(wireguard))
            && let Ok(PathMessage::Proof { .. }) = PathMessage::parse(inner)
        {
            *self.hosts[host].proofs.entry(from).or_default() += 1;
        }
    }

    fn send_direct(&mut self, host: HostId, remote: SocketAddr, bytes: Vec<u8>) {
        self.mix_send(host, remote, bytes.len());
        self.note(host, Some(remote), &bytes);
        let forbidden = match remote.ip() {
            IpAddr::V4(ip) => {
                ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified()
            }
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast() || ip.is_unspecified(),
        };
        if forbidden {
            self.fault(&format!("a packet was sent to {}", remote.ip()));
        }
        let Some((to, from)) = self.route(host, remote) else { return };
        if self.one_way.contains(&(host, to)) {
            return;
        }
        self.carry(host, to, Some(from), 0, bytes);
    }

    fn mix_send(&mut self, host: HostId, remote: SocketAddr, length: usize) {
        if self.keeps_records {
            self.mix(&(self.now - self.start, host, remote, length));
        }
    }

    fn send_relayed(&mut self, host: HostId, channel: u64, frame: &[u8]) {
        let bytes = &frame[RELAY_HEADER_LEN..];
        self.note(host, None, bytes);
        let client = usize::try_from(channel / 2).unwrap_or(0);
        let side = usize::from(host == 0);
        let other = if side == 0 { 0 } else { client };
        if !self.relays.get(&client).is_some_and(|relay| relay.up) {
            return;
        }
        // Without UDP the session goes by TCP 443, which no box translates into trouble.
        if self.hosts[host].place.udp {
            let pop = self.pop_for(host);
            let Some(seen) = self.outward(host, pop) else { return };
            if !self.knock(client, side, seen) {
                return;
            }
        }
        if self.hosts[other].place.udp {
            let pop = self.pop_for(other);
            let Some(address) = self.relays.get(&client).and_then(|relay| relay.proven[1 - side]) else {
                return;
            };
            if self.inward(address, pop) != Some(other) {
                return;
            }
        }
        self.carry(host, other, None, channel ^ 1, bytes.to_vec());
    }

    /// Puts a packet on its way, with what the links do to it.
    fn carry(&mut self, from: HostId, to: HostId, source: Option<SocketAddr>, channel: u64, bytes: Vec<u8>) {
        let same_lan = source.is_some_and(|source| source == self.hosts[from].place.inside)
            && self.hosts[from].place.nearest.is_some()
            && self.hosts[from].place.nearest == self.hosts[to].place.nearest;
        let base = if same_lan {
            Duration::from_micros(300)
        } else {
            self.hosts[from].place.delay + self.hosts[to].place.delay
        };
        let copies = if self.random.in_thousand(self.links.twice) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.in_thousand(self.links.loss) {
                continue;
            }
            let jitter = self.random.between(Duration::ZERO, self.links.jitter.max(Duration::from_micros(1)));
            self.plan(base + jitter, What::Deliver { to, from: source, channel, bytes: bytes.clone() });
        }
    }

    /// From where a host's packet to `to` seems to come on the internet.
    fn outward(&mut self, host: HostId, to: SocketAddr) -> Option<SocketAddr> {
        let mut source = self.hosts[host].place.inside;
        let mut at = self.hosts[host].place.nearest;
        while let Some(number) = at {
            let (nat, parent) = self.boxes.get_mut(number)?;
            source = nat.outward(self.now, source, to)?;
            at = *parent;
        }
        Some(source)
    }

    /// Who gets a packet that comes from the internet.
    fn inward(&self, to: SocketAddr, from: SocketAddr) -> Option<HostId> {
        let is_at = |host: &Host, address: SocketAddr, nearest: Option<usize>| {
            host.place.inside == address && host.place.nearest == nearest
        };
        if let Some(host) = self.hosts.iter().position(|host| is_at(host, to, None)) {
            return Some(host);
        }
        // A firewall has no address of its own.
        let behind = |host: &Host| {
            let nearest = host.place.nearest?;
            let (nat, _) = self.boxes.get(nearest)?;
            (nat.behaviour.mapping.is_none() && host.place.inside == to).then_some(nearest)
        };
        if let Some((host, nearest)) =
            self.hosts.iter().enumerate().find_map(|(id, host)| Some((id, behind(host)?)))
        {
            return self.boxes[nearest].0.inward(self.now, to, from).map(|_| host);
        }
        let mut number =
            self.boxes.iter().position(|(nat, parent)| parent.is_none() && nat.outside == to.ip())?;
        let mut to = to;
        loop {
            to = self.boxes[number].0.inward(self.now, to, from)?;
            if let Some(host) = self.hosts.iter().position(|host| is_at(host, to, Some(number))) {
                return Some(host);
            }
            number = self
                .boxes
                .iter()
                .position(|(nat, parent)| *parent == Some(number) && nat.outside == to.ip())?;
        }
    }

    /// Who gets a host's packet, and from where it seems to come.
    fn route(&mut self, host: HostId, to: SocketAddr) -> Option<(HostId, SocketAddr)> {
        let place = self.hosts[host].place.clone();
        if place.inside.is_ipv4() != to.is_ipv4() {
            return None;
        }
        // On one LAN no router is asked.
        if place.nearest.is_some()
            && let Some(beside) = self
                .hosts
                .iter()
                .position(|other| other.place.inside == to && other.place.nearest == place.nearest)
        {
            return Some((beside, place.inside));
        }
        if !place.udp {
            return None;
        }
        let source = self.outward(host, to)?;
        let nearest = place.nearest.and_then(|nearest| self.boxes.get(nearest));
        if let Some((nat, _)) = nearest
            && nat.behaviour.mapping.is_some()
            && nat.outside == to.ip()
        {
            if !nat.behaviour.hairpin {
                return None;
            }
            return self.inward(to, source).map(|host| (host, source));
        }
        let target = self.inward(to, source)?;
        self.hosts[target].place.udp.then_some((target, source))
    }
}
