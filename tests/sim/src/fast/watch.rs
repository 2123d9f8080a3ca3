//! Who watches the world: what was sent where, which decisions were made, and what must never be sent.

use super::engine::inner_of;
use crate::world::Time;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};
use tunnel::{Event, MoveReason, Path, PathMessage, Transmit};
use wire::RELAY_HEADER_LEN;

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
    /// Where to.
    pub to: SocketAddr,
    /// By which way.
    pub path: Path,
    /// What.
    pub kind: Kind,
}

/// Data takes another way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// When.
    pub at: Time,
    /// Whose data.
    pub agent: u16,
    /// For whom.
    pub other: Option<u16>,
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
    /// Every other way that data took.
    pub moves: Vec<Move>,
    /// The decisions.
    pub trace: Trace,
    /// How many packets of each kind.
    pub counts: BTreeMap<Kind, u64>,
    /// The first that went where nothing may go.
    pub forbidden: Option<(Time, u16, SocketAddr)>,
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

fn kind_of(transmit: &Transmit) -> Kind {
    let message = match transmit.path {
        Path::Relay { .. } => transmit.bytes.get(RELAY_HEADER_LEN..).unwrap_or_default(),
        _ => &transmit.bytes,
    };
    match inner_of(message) {
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
            moves: Vec::new(),
            trace: Trace { hash: 0xcbf2_9ce4_8422_2325, decisions: 0 },
            counts: BTreeMap::new(),
            forbidden: None,
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
            self.sent.push(Sent { at, agent, other, to, path: transmit.path, kind });
        }
    }

    pub(super) fn moved(&mut self, moved: Move) {
        self.trace.add(&format!("{moved:?}"));
        self.moves.push(moved);
    }

    pub(super) fn happened(&mut self, now: Time, agent: u16, event: &Event) {
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
