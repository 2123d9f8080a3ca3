//! Who watches the world: what was sent where, which decisions were made, and what must never be sent.

use super::engine::inner_of;
use crate::world::Time;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tunnel::{Event, MoveReason, Path, PathMessage, Transmit};
use wire::{DatagramKind, RELAY_HEADER_LEN, classify};

/// Whether every packet is kept for the properties, or only counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Kept.
    All,
    /// Counted.
    Counts,
}

/// What a packet of a tunnel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An inner packet.
    Data,
    /// Nothing inside.
    Keepalive,
    /// Where the sender may be reached.
    Candidates,
    /// That this was heard.
    Heard,
    /// A question by a path.
    Probe,
    /// Its answer.
    Proof,
    /// A handshake.
    Handshake,
}

/// A packet of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Time,
    /// By whom.
    pub agent: u16,
    /// For whom.
    pub other: Option<u16>,
    /// By which of the agent's tunnels: an agent that comes with another key has another.
    pub tunnel: u64,
    /// Where to.
    pub to: SocketAddr,
    /// By which way.
    pub path: Path,
    /// What.
    pub kind: Kind,
    /// Whether a probe or proof came from there in the same instant: then it is no burst of the sender's own.
    pub is_prompted: bool,
}

/// What one agent asked of one address, and what came back: the watch's own judgement of what is proven.
#[derive(Debug, Default)]
struct Asked {
    /// Probes without an answer, oldest first.
    open: VecDeque<u64>,
    proofs: u32,
    came_at: Option<Time>,
}

/// A list of addresses that an agent told another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    /// When.
    pub at: Time,
    /// By whom.
    pub agent: u16,
    /// To whom.
    pub other: Option<u16>,
    /// Its number: the same one is the same list, said again.
    pub sequence: u32,
}

/// Proofs before anything but probes and proofs may go to an address (ADR 0006).
const PROOFS: u32 = 2;
/// Probes to one address whose answers are awaited.
const MAX_OPEN: usize = 64;

/// Data takes another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// When.
    pub at: Time,
    /// Whose data.
    pub agent: u16,
    /// For whom.
    pub other: Option<u16>,
    /// Of which of the agent's tunnels.
    pub tunnel: u64,
    /// Which way.
    pub path: Option<Path>,
    /// Why.
    pub reason: MoveReason,
}

/// The decisions of a run as one number (FNV-1a); what a cipher would make of them is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// The hash.
    pub hash: u64,
    /// Of how many decisions.
    pub decisions: u64,
}

impl Trace {
    fn add(&mut self, text: &str) {
        self.decisions += 1;
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Watch {
    /// Every packet of a tunnel, when they are kept.
    pub sent: Vec<Sent>,
    /// Every list of addresses, when packets are kept.
    pub lists: Vec<List>,
    /// Every other way that data took.
    pub moves: Vec<Move>,
    /// The decisions.
    pub trace: Trace,
    /// How many packets of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// The first that went where nothing may go.
    pub forbidden: Option<(Time, u16, SocketAddr)>,
    /// The first but a probe or proof that went to an address which had not proven itself.
    pub unproven: Option<(Time, u16, SocketAddr, Kind)>,
    /// When an agent's process began anew.
    pub fresh: Vec<(Time, u16)>,
    /// When an agent forgot a tunnel to another: what it uses is gone with it, what it spent is not.
    pub forgotten: Vec<(Time, u16, u64)>,
    /// Where the PoP said to an agent that its peers are.
    pub introduced: BTreeSet<(u16, SocketAddr)>,
    asked: BTreeMap<(u16, SocketAddr), Asked>,
    record: Record,
}

/// Where nothing is ever to be sent, whoever says that a peer is there.
#[must_use]
pub fn is_forbidden(to: SocketAddr) -> bool {
    const METADATA: [IpAddr; 3] = [
        IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
        IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    ];
    let ip = to.ip().to_canonical();
    METADATA.contains(&ip)
        || match ip {
            IpAddr::V4(v4) => {
                v4.is_loopback()
                    || v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || v4.is_unspecified()
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
            }
        }
}

fn message_of(transmit: &Transmit) -> &[u8] {
    match transmit.path {
        Path::Relay { .. } => transmit.bytes.get(RELAY_HEADER_LEN..).unwrap_or_default(),
        _ => &transmit.bytes,
    }
}

fn kind_of(transmit: &Transmit) -> Kind {
    match inner_of(message_of(transmit)) {
        None => Kind::Handshake,
        Some([]) => Kind::Keepalive,
        Some(inner) if PathMessage::is_claimed_by(inner) => match inner[0] {
            1 => Kind::Candidates,
            2 => Kind::Heard,
            3 => Kind::Probe,
            _ => Kind::Proof,
        },
        Some(_) => Kind::Data,
    }
}

impl Watch {
    pub(super) fn new(record: Record) -> Self {
        Self {
            sent: Vec::new(),
            lists: Vec::new(),
            moves: Vec::new(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, decisions: 0 },
            counts: BTreeMap::new(),
            forbidden: None,
            unproven: None,
            fresh: Vec::new(),
            forgotten: Vec::new(),
            introduced: BTreeSet::new(),
            asked: BTreeMap::new(),
            record,
        }
    }

    fn check(&mut self, now: Time, agent: u16, to: SocketAddr) {
        if is_forbidden(to) {
            self.forbidden.get_or_insert((now, agent, to));
        }
    }

    pub(super) fn session(&mut self, now: Time, agent: u16, to: SocketAddr) {
        self.check(now, agent, to);
    }

    pub(super) fn sealed(
        &mut self,
        at: Time,
        agent: u16,
        other: Option<u16>,
        to: SocketAddr,
        transmit: &Transmit,
    ) {
        self.check(at, agent, to);
        let kind = kind_of(transmit);
        *self.counts.entry(kind).or_default() += 1;
        if self.record == Record::All {
            if matches!(kind, Kind::Probe | Kind::Candidates | Kind::Handshake) {
                self.trace.add(&format!("{at:?} {agent} {other:?} {to} {kind:?}"));
            }
            if kind == Kind::Candidates {
                let inner = inner_of(message_of(transmit)).map(PathMessage::parse);
                if let Some(Ok(PathMessage::Candidates { sequence, .. })) = inner {
                    self.lists.push(List { at, agent, other, sequence });
                }
            }
            let is_prompted = self.direct(at, agent, to, kind, transmit);
            let tunnel = transmit.peer.number();
            self.sent.push(Sent { at, agent, other, tunnel, to, path: transmit.path, kind, is_prompted });
        }
    }

    /// Keeps what a direct packet asks, and sees whether it may go there. Says whether something came from there just
    /// now.
    fn direct(&mut self, at: Time, agent: u16, to: SocketAddr, kind: Kind, transmit: &Transmit) -> bool {
        let Path::Direct { .. } = transmit.path else { return false };
        let asked = self.asked.entry((agent, to)).or_default();
        match inner_of(&transmit.bytes).map(PathMessage::parse) {
            Some(Ok(PathMessage::Probe { id, .. })) => {
                if asked.open.len() == MAX_OPEN {
                    asked.open.pop_front();
                }
                asked.open.push_back(id);
            }
            Some(Ok(PathMessage::Proof { .. })) => {}
            _ if asked.proofs < PROOFS => {
                self.unproven.get_or_insert((at, agent, to, kind));
            }
            _ => {}
        }
        asked.came_at == Some(at)
    }

    /// A datagram reached an agent.
    pub(super) fn arrived(&mut self, now: Time, agent: u16, from: SocketAddr, datagram: &[u8]) {
        if self.record == Record::Counts || classify(datagram) != DatagramKind::WireGuard {
            return;
        }
        match inner_of(datagram).map(PathMessage::parse) {
            Some(Ok(PathMessage::Probe { .. })) => {
                self.asked.entry((agent, from)).or_default().came_at = Some(now);
            }
            Some(Ok(PathMessage::Proof { id, .. })) => {
                let asked = self.asked.entry((agent, from)).or_default();
                asked.came_at = Some(now);
                if let Some(index) = asked.open.iter().position(|open| *open == id) {
                    asked.open.remove(index);
                    asked.proofs += 1;
                }
            }
            _ => {}
        }
    }

    /// An agent's process began anew: nothing is proven to it, and its budgets are whole.
    pub(super) fn restarted(&mut self, now: Time, agent: u16) {
        self.fresh.push((now, agent));
        self.asked.retain(|(of, _), _| *of != agent);
    }

    pub(super) fn moved(&mut self, moved: Move) {
        self.trace.add(&format!("{moved:?}"));
        self.moves.push(moved);
    }

    pub(super) fn happened(&mut self, now: Time, agent: u16, event: &Event) {
        if let Event::Removed { peer, .. } = event {
            self.forgotten.push((now, agent, peer.number()));
        }
        self.trace.add(&format!("{now:?} {agent} {event:?}"));
    }

    /// Packets of one kind that went from one agent to another since then.
    #[must_use]
    pub fn count(&self, since: Time, agent: u16, other: u16, kind: Kind) -> usize {
        let of = |sent: &&Sent| {
            sent.at >= since && sent.agent == agent && sent.other == Some(other) && sent.kind == kind
        };
        self.sent.iter().filter(of).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunnel::{PeerId, Tunnels, WireGuardPrivateKey};

    const TO: &str = "203.0.113.7:40000";

    fn peer() -> PeerId {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]
        let now = std::time::Instant::now();
        let key = |byte| WireGuardPrivateKey::from_bytes([byte; 32]);
        let mut tunnels = Tunnels::new(&key(1), 1, now);
        tunnels.connect(now, key(2).public_key()).expect("room").0
    }

    /// A transport packet as the engine without ciphers makes it.
    fn sealed(inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![4, 0, 0, 0];
        bytes.resize(16, 0);
        bytes.extend_from_slice(inner);
        bytes.resize(bytes.len() + 16, 0);
        bytes
    }

    fn send(watch: &mut Watch, inner: &[u8]) {
        let to: SocketAddr = TO.parse().expect("an address");
        let transmit = Transmit { peer: peer(), path: Path::direct(to), bytes: sealed(inner) };
        watch.sealed(Time::from_secs(1), 0, Some(1), to, &transmit);
    }

    fn prove(watch: &mut Watch, asked: u64, answered: u64) {
        send(watch, &PathMessage::Probe { id: asked, length: tunnel::MIN_PROBE_LEN }.encode());
        let to: SocketAddr = TO.parse().expect("an address");
        let proof = PathMessage::Proof { id: answered, seen: to };
        watch.arrived(Time::from_secs(2), 0, to, &sealed(&proof.encode()));
    }

    const DATA: [u8; 20] = [0x45; 20];

    #[test]
    fn data_before_the_second_proof_is_told_and_after_it_is_not() {
        let mut watch = Watch::new(Record::All);
        prove(&mut watch, 1, 1);
        prove(&mut watch, 2, 2);
        send(&mut watch, &DATA);
        assert_eq!(watch.unproven, None);
        let mut watch = Watch::new(Record::All);
        prove(&mut watch, 1, 1);
        send(&mut watch, &DATA);
        assert!(matches!(watch.unproven, Some((_, 0, _, Kind::Data))));
    }

    #[test]
    fn an_answer_to_nothing_and_a_second_answer_prove_nothing() {
        let mut watch = Watch::new(Record::All);
        prove(&mut watch, 1, 9);
        prove(&mut watch, 2, 2);
        prove(&mut watch, 3, 2);
        send(&mut watch, &DATA);
        assert!(watch.unproven.is_some());
    }

    #[test]
    fn a_process_that_began_anew_has_proven_nothing() {
        let mut watch = Watch::new(Record::All);
        prove(&mut watch, 1, 1);
        prove(&mut watch, 2, 2);
        watch.restarted(Time::from_secs(3), 0);
        send(&mut watch, &DATA);
        assert!(watch.unproven.is_some());
    }
}
