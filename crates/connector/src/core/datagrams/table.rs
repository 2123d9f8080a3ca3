//! The conversations, their ends and when they are over.

use super::words::{DatagramId, DatagramKind};
use crate::core::rules::{ResourceName, Target};
use crate::core::session::Wanted;
use flow::{Echo, EchoKind, LinkId, Reassembly, split, udp};
use policy::Protocol;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use trust::UnixMs;
use tunnel::PeerId;
use wire::DeviceId;

/// A UDP conversation without a packet either way (RFC 4787 REQ-5: not below 2 min, 5 min recommended).
const UDP_IDLE: Duration = Duration::from_secs(5 * 60);
/// One with a resolver: a question, an answer, and the same port hardly ever again (RFC 4787 REQ-5 c allows less for
/// well-known ports).
const DNS_IDLE: Duration = Duration::from_secs(30);
const DNS: u16 = 53;
/// Echoes (RFC 5508 REQ-2: not below 60 s).
const ECHO_IDLE: Duration = Duration::from_secs(60);
/// Datagrams of one conversation that wait for its socket: a QUIC client's first flight, a resolver's retries.
const WAITING: usize = 8;
/// Bytes that wait for sockets altogether.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// The two ends inside a tunnel, and whose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::core) struct Ends {
    pub peer: PeerId,
    pub protocol: Protocol,
    pub client: SocketAddr,
    pub resource: SocketAddr,
}

/// One datagram; the number is an echo's, 0 for UDP.
pub(super) struct Item {
    pub sequence: u16,
    pub data: Vec<u8>,
}

pub(super) enum Stage {
    /// The name is being resolved in the site.
    Resolving(VecDeque<Item>),
    /// A socket is being opened.
    Opening { targets: Vec<SocketAddr>, waiting: VecDeque<Item> },
    /// It goes both ways.
    Open(SocketAddr),
}

pub(super) struct Conversation {
    pub ends: Ends,
    pub device: DeviceId,
    pub wanted: Wanted,
    pub resource: Option<ResourceName>,
    pub target: Target,
    pub kind: DatagramKind,
    pub stage: Stage,
    pub started: UnixMs,
    pub used: Instant,
    /// When the end is looked at: a packet changes `used` alone.
    pub due: Instant,
    /// Nobody listened, and nobody answered since.
    pub refused: bool,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl Conversation {
    pub fn idle(&self) -> Duration {
        match self.ends.protocol {
            Protocol::Icmp => ECHO_IDLE,
            Protocol::Udp if self.ends.resource.port() == DNS => DNS_IDLE,
            Protocol::Udp | Protocol::Tcp => UDP_IDLE,
        }
    }

    pub const fn open(&self) -> Option<SocketAddr> {
        match self.stage {
            Stage::Open(target) => Some(target),
            Stage::Resolving(_) | Stage::Opening { .. } => None,
        }
    }

    /// A packet as the client sent it, for an error to quote.
    pub fn question(&self) -> Option<Vec<u8>> {
        let (from, to) = (self.ends.client, self.ends.resource);
        match self.ends.protocol {
            Protocol::Icmp => {
                let (kind, identifier) = (EchoKind::Request, from.port());
                Echo { kind, identifier, sequence: 0, data: &[] }.packet(from.ip(), to.ip())
            }
            Protocol::Udp | Protocol::Tcp => udp(from, to, &[]),
        }
    }
}

/// All conversations of a connector.
pub(in crate::core) struct Datagrams {
    pub(super) conversations: BTreeMap<DatagramId, Conversation>,
    pub(super) by_ends: BTreeMap<Ends, DatagramId>,
    /// Of echoes: two conversations with one would hear each other's answers where the kernel does not keep them apart.
    identifiers: BTreeSet<u16>,
    next_identifier: u16,
    due: BTreeSet<(Instant, DatagramId)>,
    next: u64,
    pub(super) waiting_bytes: usize,
    pub(super) most: usize,
    pub fragments: Reassembly,
    next_fragment: u32,
    /// Links that carry more than every link does.
    mtu: BTreeMap<LinkId, usize>,
    /// Packets that there was no room for.
    pub no_room: u64,
}

impl Datagrams {
    pub fn new(most: usize) -> Self {
        Self {
            conversations: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            identifiers: BTreeSet::new(),
            next_identifier: 0,
            due: BTreeSet::new(),
            next: 0,
            waiting_bytes: 0,
            most,
            fragments: Reassembly::new(),
            next_fragment: 0,
            mtu: BTreeMap::new(),
            no_room: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.conversations.len()
    }

    /// When something here is due.
    pub fn deadline(&self) -> Option<Instant> {
        let idle = self.due.first().map(|(at, _)| *at);
        idle.into_iter().chain(self.fragments.deadline()).min()
    }

    pub fn set_link_mtu(&mut self, link: LinkId, mtu: usize) {
        if mtu > flow::INNER_MTU {
            self.mtu.insert(link, mtu);
        } else {
            self.mtu.remove(&link);
        }
    }

    pub fn drop_link(&mut self, link: LinkId) {
        self.mtu.remove(&link);
        self.fragments.drop_link(link);
    }

    /// The longest packet that a link carries.
    pub fn link_mtu(&self, link: LinkId) -> usize {
        self.mtu.get(&link).copied().unwrap_or(flow::INNER_MTU)
    }

    /// Cuts a packet to what a link carries.
    pub fn fit(&mut self, link: LinkId, packet: Vec<u8>) -> Vec<Vec<u8>> {
        self.pieces(packet, self.link_mtu(link))
    }

    /// Cuts a packet to a length.
    pub fn pieces(&mut self, packet: Vec<u8>, mtu: usize) -> Vec<Vec<u8>> {
        self.next_fragment = self.next_fragment.wrapping_add(1);
        split(packet, mtu, self.next_fragment)
    }

    /// The conversation between two ends.
    pub fn at(&self, ends: &Ends) -> Option<DatagramId> {
        self.by_ends.get(ends).copied()
    }

    /// Whether it was taken.
    pub(super) fn wait(waiting: &mut VecDeque<Item>, bytes: &mut usize, item: Item) -> bool {
        let fits = waiting.len() < WAITING && *bytes + item.data.len() <= MAX_WAITING_BYTES;
        if fits {
            *bytes += item.data.len();
            waiting.push_back(item);
        }
        fits
    }

    /// Which socket a new conversation gets.
    pub fn kind(&mut self, protocol: Protocol) -> DatagramKind {
        if protocol != Protocol::Icmp {
            return DatagramKind::Udp;
        }
        // Far fewer conversations than identifiers: the search ends.
        while !self.identifiers.insert(self.next_identifier) {
            self.next_identifier = self.next_identifier.wrapping_add(1);
        }
        let identifier = self.next_identifier;
        self.next_identifier = identifier.wrapping_add(1);
        DatagramKind::Echo { identifier }
    }

    pub(super) fn insert(&mut self, now: Instant, conversation: Conversation) -> DatagramId {
        let id = DatagramId(self.next);
        self.next += 1;
        self.by_ends.insert(conversation.ends, id);
        let due = now + conversation.idle();
        self.due.insert((due, id));
        self.conversations.insert(id, Conversation { due, ..conversation });
        id
    }

    pub(super) fn remove(&mut self, id: DatagramId) -> Option<Conversation> {
        let conversation = self.conversations.remove(&id)?;
        self.by_ends.remove(&conversation.ends);
        self.due.remove(&(conversation.due, id));
        if let DatagramKind::Echo { identifier } = conversation.kind {
            self.identifiers.remove(&identifier);
        }
        if let Stage::Resolving(waiting) | Stage::Opening { waiting, .. } = &conversation.stage {
            self.waiting_bytes -= waiting.iter().map(|item| item.data.len()).sum::<usize>();
        }
        Some(conversation)
    }

    /// Those that nothing was sent in for too long.
    pub fn idle(&mut self, now: Instant) -> Vec<DatagramId> {
        let mut idle = Vec::new();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.remove(&(at, id));
            let Some(conversation) = self.conversations.get_mut(&id) else { continue };
            let end = conversation.used + conversation.idle();
            if end <= now {
                idle.push(id);
            } else {
                conversation.due = end;
                self.due.insert((end, id));
            }
        }
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_conversations_have_one_identifier_however_often_they_were_given_out() {
        let mut datagrams = Datagrams::new(1);
        let DatagramKind::Echo { identifier: first } = datagrams.kind(Protocol::Icmp) else {
            panic!("an echo")
        };
        for _ in 0..u16::MAX {
            let DatagramKind::Echo { identifier } = datagrams.kind(Protocol::Icmp) else { panic!("an echo") };
            assert_ne!(identifier, first);
            datagrams.identifiers.remove(&identifier);
        }
        let DatagramKind::Echo { identifier } = datagrams.kind(Protocol::Icmp) else { panic!("an echo") };
        assert_ne!(identifier, first, "the numbers have begun again");
        assert_eq!(datagrams.kind(Protocol::Udp), DatagramKind::Udp);
    }
}
