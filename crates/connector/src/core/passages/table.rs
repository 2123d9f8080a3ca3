//! The passages, their ends on both sides, and what their packets say about how far they have come.

use crate::core::datagrams::Ends;
use crate::core::rules::{ResourceName, Target};
use crate::core::session::Wanted;
use flow::Reassembly;
use flow::ip::{IpPacket, TcpSegment};
use policy::Protocol;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use trust::UnixMs;
use wire::DeviceId;

/// A UDP conversation, one with a resolver, and echoes without a packet either way: as in userspace.
const UDP_IDLE: Duration = Duration::from_secs(5 * 60);
const DNS_IDLE: Duration = Duration::from_secs(30);
const DNS: u16 = 53;
const ECHO_IDLE: Duration = Duration::from_secs(60);
/// A TCP connection that stands (RFC 5382 REQ-5: not below 2 h 4 min), one that does not yet, and one that is over, for
/// its last segments.
const TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
const TCP_OPENING: Duration = Duration::from_secs(60);
const TCP_LINGER: Duration = Duration::from_secs(10);
/// SYNs that one address may leave unanswered while there is another: the second comes after a second, the third after two
/// more.
const SYNS_AN_ADDRESS: u8 = 3;
/// Packets that wait for a name's address.
pub(super) const WAITING: usize = 8;
/// Bytes that wait altogether.
const MAX_WAITING_BYTES: usize = 4 << 20;
/// Ports that flows leave by; what is below is for services (RFC 6056 section 3.2).
const FIRST_PORT: u16 = 1_024;

/// A passage's number; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassageId(u64);

impl PassageId {
    /// The number, for a log line.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Which addresses the kernel knows this connector's side by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SiteSide {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6, where the kernel forwards that.
    pub v6: Option<Ipv6Addr>,
}

impl SiteSide {
    pub(super) fn towards(self, target: IpAddr) -> Option<IpAddr> {
        match target {
            IpAddr::V4(_) => Some(self.v4.into()),
            IpAddr::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    pub(super) fn is_own(self, ip: IpAddr) -> bool {
        ip == IpAddr::V4(self.v4) || self.v6.is_some_and(|v6| ip == IpAddr::V6(v6))
    }
}

/// The two ends on the site's side. An echo's identifier stands for the port, and its target has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outside {
    pub protocol: Protocol,
    pub port: u16,
    pub target: SocketAddr,
}

pub(super) enum Stage {
    /// The name is being resolved in the site.
    Resolving(VecDeque<Vec<u8>>),
    /// Packets go both ways.
    Open(Outside),
}

/// Which side a packet comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Client,
    Site,
}

/// What the segments of a connection said so far.
#[derive(Debug, Default)]
pub(super) struct Connection {
    /// What comes behind the last segment of each side, client first; none before its first.
    next: [Option<u32>; 2],
    fin: [bool; 2],
    /// The target has answered the SYN with one.
    pub is_answered: bool,
    /// What a name's next address would be tried with.
    pub opening: Option<Vec<u8>>,
    unanswered: u8,
}

/// What a segment means for its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    Nothing,
    /// This side ended it.
    Reset,
    /// Both sides have said that they have no more to send.
    Finished,
}

impl Connection {
    pub fn notice(&mut self, segment: &TcpSegment, from: From) -> Notice {
        let side = usize::from(from == From::Site);
        if segment.flags.rst() {
            return Notice::Reset;
        }
        let end = segment.seq.wrapping_add(segment.sequence_len());
        // Sequence numbers go round (RFC 9293 section 3.4).
        let is_ahead = self.next[side].is_none_or(|next| end.wrapping_sub(next) < 1 << 31);
        if is_ahead {
            self.next[side] = Some(end);
        }
        if from == From::Site && segment.flags.syn() {
            self.is_answered = true;
            self.opening = None;
        }
        if from == From::Client && segment.flags.opens() {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        let before = self.fin;
        self.fin[side] |= segment.flags.fin();
        if self.fin == [true, true] && before != self.fin { Notice::Finished } else { Notice::Nothing }
    }

    /// Whether an address has had its chance.
    pub const fn is_ignored(&self) -> bool {
        !self.is_answered && self.unanswered >= SYNS_AN_ADDRESS
    }

    /// Another address is tried.
    pub const fn begin_again(&mut self) {
        self.unanswered = 1;
    }

    /// What a side expects next of the other.
    pub fn expected_by(&self, side: From) -> Option<u32> {
        self.next[usize::from(side == From::Client)]
    }
}

pub(super) struct Passage {
    pub ends: Ends,
    pub device: DeviceId,
    pub wanted: Wanted,
    pub resource: Option<ResourceName>,
    /// What the policy named.
    pub target: Target,
    pub stage: Stage,
    /// A name's other addresses.
    pub rest: VecDeque<SocketAddr>,
    pub connection: Connection,
    pub started: UnixMs,
    pub used: Instant,
    due: Instant,
    /// Its record is written, and it is no flow any more: its last segments pass.
    pub is_over: bool,
    /// Nobody listened at the target, and nobody answered since.
    pub is_refused: bool,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

impl Passage {
    #[expect(clippy::too_many_arguments, reason = "what a passage is made of, said once")]
    pub fn new(
        now: Instant,
        started: UnixMs,
        ends: Ends,
        device: DeviceId,
        wanted: Wanted,
        resource: Option<ResourceName>,
        target: Target,
        stage: Stage,
    ) -> Self {
        Self {
            ends,
            device,
            wanted,
            resource,
            target,
            stage,
            rest: VecDeque::new(),
            connection: Connection::default(),
            started,
            used: now,
            due: now,
            is_over: false,
            is_refused: false,
            bytes_up: 0,
            bytes_down: 0,
        }
    }

    /// How long nothing may pass.
    pub fn idle(&self) -> Duration {
        match self.ends.protocol {
            Protocol::Tcp if self.is_over => TCP_LINGER,
            Protocol::Tcp if self.connection.is_answered => TCP_IDLE,
            Protocol::Tcp => TCP_OPENING,
            Protocol::Icmp => ECHO_IDLE,
            Protocol::Udp if self.ends.resource.port() == DNS => DNS_IDLE,
            Protocol::Udp => UDP_IDLE,
        }
    }

    /// Where it leads, once that is known.
    pub const fn open(&self) -> Option<SocketAddr> {
        match self.stage {
            Stage::Open(outside) => Some(outside.target),
            Stage::Resolving(_) => None,
        }
    }

    /// Counts a packet, and says what it means.
    pub fn notice(&mut self, now: Instant, packet: &IpPacket<'_>, from: From) -> Notice {
        self.used = now;
        let (data, notice) = match self.ends.protocol {
            Protocol::Tcp => match packet.tcp() {
                Ok(segment) => (segment.data_len, self.connection.notice(&segment, from)),
                Err(_) => (0, Notice::Nothing),
            },
            Protocol::Udp | Protocol::Icmp => {
                self.is_refused &= from == From::Client;
                (packet.payload.len().saturating_sub(8), Notice::Nothing)
            }
        };
        let data = u64::try_from(data).unwrap_or(0);
        match from {
            From::Client => self.bytes_up += data,
            From::Site => self.bytes_down += data,
        }
        notice
    }
}

/// All passages of a connector.
pub(in crate::core) struct Passages {
    pub side: Option<SiteSide>,
    pub(super) passages: BTreeMap<PassageId, Passage>,
    by_ends: BTreeMap<Ends, PassageId>,
    by_outside: BTreeMap<Outside, PassageId>,
    due: BTreeSet<(Instant, PassageId)>,
    next: u64,
    waiting_bytes: usize,
    /// Packets of the site in pieces.
    pub(super) pieces: Reassembly,
    /// How many are over and pass their last segments.
    over: usize,
    /// Packets from the site that belonged to nothing.
    pub strays: u64,
    /// Packets that nobody reads, or whose hops were used up.
    pub unusable: u64,
}

impl Passages {
    pub fn new(side: Option<SiteSide>) -> Self {
        Self {
            side,
            passages: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            by_outside: BTreeMap::new(),
            due: BTreeSet::new(),
            next: 0,
            waiting_bytes: 0,
            pieces: Reassembly::new(),
            over: 0,
            strays: 0,
            unusable: 0,
        }
    }

    /// Those that are not over.
    pub fn len(&self) -> usize {
        self.passages.len() - self.over
    }

    /// How many of those are TCP's.
    pub fn streams(&self) -> usize {
        let is_stream = |passage: &&Passage| passage.ends.protocol == Protocol::Tcp && !passage.is_over;
        self.passages.values().filter(is_stream).count()
    }

    pub fn deadline(&self) -> Option<Instant> {
        let idle = self.due.first().map(|(at, _)| *at);
        idle.into_iter().chain(self.pieces.deadline()).min()
    }

    pub fn at(&self, ends: &Ends) -> Option<PassageId> {
        self.by_ends.get(ends).copied()
    }

    pub(super) fn behind(&self, outside: &Outside) -> Option<PassageId> {
        self.by_outside.get(outside).copied()
    }

    pub(super) fn insert(&mut self, passage: Passage) -> PassageId {
        let id = PassageId(self.next);
        self.next += 1;
        self.by_ends.insert(passage.ends, id);
        if let Stage::Open(outside) = passage.stage {
            self.by_outside.insert(outside, id);
        }
        let due = passage.used + passage.idle();
        self.due.insert((due, id));
        self.passages.insert(id, Passage { due, ..passage });
        id
    }

    pub(super) fn remove(&mut self, id: PassageId) -> Option<Passage> {
        let passage = self.passages.remove(&id)?;
        self.by_ends.remove(&passage.ends);
        self.due.remove(&(passage.due, id));
        self.over -= usize::from(passage.is_over);
        match &passage.stage {
            Stage::Open(outside) => {
                self.by_outside.remove(outside);
            }
            Stage::Resolving(waiting) => {
                self.waiting_bytes -= waiting.iter().map(Vec::len).sum::<usize>();
            }
        }
        Some(passage)
    }

    /// A packet waits for the name's address; whether there was room.
    pub(super) fn wait(&mut self, id: PassageId, packet: &[u8]) -> bool {
        let Some(Passage { stage: Stage::Resolving(waiting), .. }) = self.passages.get_mut(&id) else {
            return false;
        };
        let fits = waiting.len() < WAITING && self.waiting_bytes + packet.len() <= MAX_WAITING_BYTES;
        if fits {
            self.waiting_bytes += packet.len();
            waiting.push_back(packet.to_vec());
        }
        fits
    }

    /// Leads a passage to a target from now on; what waited for it. None where every port to it is taken.
    pub(super) fn lead(&mut self, id: PassageId, target: SocketAddr) -> Option<VecDeque<Vec<u8>>> {
        let ends = self.passages.get(&id)?.ends;
        let outside = self.outside(ends, target)?;
        let passage = self.passages.get_mut(&id)?;
        let before = std::mem::replace(&mut passage.stage, Stage::Open(outside));
        self.by_outside.insert(outside, id);
        Some(match before {
            Stage::Open(before) => {
                self.by_outside.remove(&before);
                VecDeque::new()
            }
            Stage::Resolving(waiting) => {
                self.waiting_bytes -= waiting.iter().map(Vec::len).sum::<usize>();
                waiting
            }
        })
    }

    /// The ends of a flow to a target: the client's own port, or the next one that no other flow has there. There are
    /// far fewer flows than ports, so the search ends soon.
    pub(super) fn outside(&self, ends: Ends, target: SocketAddr) -> Option<Outside> {
        let at = |port: u16| Outside { protocol: ends.protocol, port, target };
        let own = ends.client.port().max(FIRST_PORT);
        let others = (own..=u16::MAX).chain(FIRST_PORT..own);
        others.map(at).find(|outside| !self.by_outside.contains_key(outside))
    }

    /// It is no flow any more, and its last segments pass.
    pub(super) fn is_over_now(&mut self, now: Instant, id: PassageId) {
        if let Some(passage) = self.passages.get_mut(&id).filter(|passage| !passage.is_over) {
            passage.is_over = true;
            self.over += 1;
            self.due.remove(&(passage.due, id));
            passage.due = now + passage.idle();
            self.due.insert((passage.due, id));
        }
    }

    /// A connection stands now: it may be quiet for longer.
    pub(super) fn due_again(&mut self, now: Instant, id: PassageId) {
        if let Some(passage) = self.passages.get_mut(&id) {
            self.due.remove(&(passage.due, id));
            passage.due = now + passage.idle();
            self.due.insert((passage.due, id));
        }
    }

    /// Those that nothing passed for too long.
    pub(super) fn idle(&mut self, now: Instant) -> Vec<PassageId> {
        let mut idle = Vec::new();
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.remove(&(at, id));
            let Some(passage) = self.passages.get_mut(&id) else { continue };
            let end = passage.used + passage.idle();
            if end <= now {
                idle.push(id);
            } else {
                passage.due = end;
                self.due.insert((end, id));
            }
        }
        idle
    }
}
