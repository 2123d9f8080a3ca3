//! Packets of the machine's own network stack: which tunnel each belongs to.
//!
//! In TUN mode the machine's kernel speaks TCP and UDP itself; this core only says through which connector a
//! conversation goes, holds its first packets while the tunnel is opened, and answers what leads nowhere with
//! the ICMP error that a router would send. A conversation stays with its connector, which knows it.

use super::{
    ClientCore, Output,
    bound::{BoundName, Meaning},
    find, find_named,
    lookup::has_port,
};
use crate::target::Host;
use dns::Pool;
use flow::{
    Unreachable,
    ip::{FiveTuple, IpError, IpPacket, Protocol},
    unreachable,
};
use policy::Address;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};
use tunnel::{BindMessage, BoundPair, PeerId};
use wire::{ConnectorId, SiteId};

/// The longest first packet of TCP: IPv6 and 60 bytes of header, and no data.
const MAX_OPENING: usize = 100;
/// Conversations at once. An entry is about 300 bytes: 5 MB.
const MAX_CONVERSATIONS: usize = 16_384;
/// Packets of one conversation that wait for its tunnel: a TCP handshake sends one, a resolver some.
const HELD_PACKETS: usize = 8;
/// Packets that wait for tunnels altogether: 5 MB of the longest.
const MAX_HELD: usize = 4_096;
/// A conversation without a packet for so long is forgotten. Its next packet finds a connector anew, and it is the same one
/// as long as that one's tunnel stands. UDP: RFC 4787 REQ-5 wants 2 minutes at least and recommends 5.
const UDP_IDLE: Duration = Duration::from_secs(5 * 60);
/// TCP: RFC 5382 REQ-5.
const TCP_IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// A conversation keeps its tunnel open for so long after its last packet; then a lost tunnel is opened again by its
/// next packet and not before.
const ACTIVE: Duration = Duration::from_secs(60);
/// A connection that is over is remembered for its last segments; for a shorter while when others need the room.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_WHEN_FULL: Duration = Duration::from_secs(1);
/// A conversation without a connection stays with a connector that was heard within this: it may be this machine's own
/// network that is away, and another connector is another source to whoever is spoken to.
const LOYAL: Duration = Duration::from_secs(5);
/// How often forgotten conversations are looked for.
const SWEEP: Duration = Duration::from_secs(60);

/// Why a packet of the machine went nowhere. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum PacketDrop {
    /// Not a packet.
    #[error("{0}")]
    Malformed(IpError),
    /// Neither TCP nor UDP nor an ICMP echo.
    #[error("neither TCP nor UDP nor an ICMP echo")]
    Protocol,
    /// Not from one of this device's own addresses inside tunnels.
    #[error("not from this device's address in the tunnel")]
    Source,
    /// No resource that a policy gives this device.
    #[error("no resource that a policy gives this device")]
    NoResource,
    /// No connector lets this device in.
    #[error("no connector of the site can be reached")]
    NoConnector,
    /// Too much waits already.
    #[error("too many packets or conversations wait")]
    Full,
}

impl PacketDrop {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed(error) => error.label(),
            Self::Protocol => "protocol",
            Self::Source => "source",
            Self::NoResource => "no_resource",
            Self::NoConnector => "no_connector",
            Self::Full => "full",
        }
    }
}

#[derive(Debug)]
struct Conversation {
    connector: ConnectorId,
    site: SiteId,
    /// The site's other connectors, to be tried when this one cannot be reached.
    rest: VecDeque<ConnectorId>,
    /// When its connector last sent anything back.
    heard: Option<Instant>,
    /// The two directions' ends as TCP says them, and whether it is over.
    ends: [bool; 2],
    is_over: bool,
    /// What opened it, for another connector should this one not answer. TCP alone: the machine sends it again, but
    /// later.
    opening: Option<Vec<u8>>,
    /// What its destination stands for, unless it is the address itself.
    meaning: Option<Meaning>,
    used: Instant,
    held: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    There,
    Here,
}

impl Conversation {
    /// What TCP says about the end of a connection (RFC 9293 section 3.6).
    fn notice(&mut self, packet: &IpPacket<'_>, direction: Direction) {
        let Ok(segment) = packet.tcp() else { return };
        self.ends[usize::from(direction == Direction::Here)] |= segment.flags.fin();
        self.is_over |= segment.flags.rst() || self.ends == [true, true];
    }
}

/// The conversations of the machine's own stack.
#[derive(Debug, Default)]
pub(super) struct Packets {
    /// By the ends as this machine sends them.
    conversations: BTreeMap<FiveTuple, Conversation>,
    held: usize,
    sweep: Option<Instant>,
    drops: BTreeMap<PacketDrop, u64>,
}

impl Packets {
    pub(super) fn is_wanted(&self, connector: ConnectorId, now: Instant) -> bool {
        self.conversations.values().any(|conversation| {
            conversation.connector == connector
                && !conversation.is_over
                && (!conversation.held.is_empty()
                    || now.saturating_duration_since(conversation.used) < ACTIVE)
        })
    }

    /// Whether a packet from a connector belongs to the machine's stack; the rest belongs to the flows here.
    pub(super) fn claims(&mut self, now: Instant, connector: ConnectorId, packet: &IpPacket<'_>) -> bool {
        let Some(tuple) = ends(packet).or_else(|| quoted(packet)) else { return false };
        let sent = FiveTuple { protocol: tuple.protocol, src: tuple.dst, dst: tuple.src };
        let Some(conversation) = self.conversations.get_mut(&sent) else { return false };
        if conversation.connector != connector {
            return false;
        }
        conversation.used = now;
        conversation.heard = Some(now);
        conversation.opening = None;
        conversation.notice(packet, Direction::Here);
        true
    }

    pub(super) const fn sweep_at(&self) -> Option<Instant> {
        self.sweep
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        if self.sweep.is_none_or(|at| at > now) {
            return;
        }
        self.conversations.retain(|tuple, conversation| {
            let idle = match tuple.protocol {
                _ if conversation.is_over => LINGER,
                Protocol::Tcp => TCP_IDLE,
                _ => UDP_IDLE,
            };
            !conversation.held.is_empty() || now.saturating_duration_since(conversation.used) < idle
        });
        self.sweep = (!self.conversations.is_empty()).then_some(now + SWEEP);
    }

    fn make_room(&mut self, now: Instant) -> bool {
        if self.conversations.len() < MAX_CONVERSATIONS {
            return true;
        }
        // Those that are over, else the one that was quiet for longest, if it is quiet at all: a flood of new ones ends no
        // running one.
        let before = self.conversations.len();
        let has_lingered = |conversation: &Conversation| {
            conversation.is_over && now.saturating_duration_since(conversation.used) >= LINGER_WHEN_FULL
        };
        self.conversations
            .retain(|_, conversation| !conversation.held.is_empty() || !has_lingered(conversation));
        if self.conversations.len() < before {
            return true;
        }
        let oldest = self
            .conversations
            .iter()
            .filter(|(_, conversation)| conversation.held.is_empty())
            .min_by_key(|(_, conversation)| conversation.used)
            .map(|(tuple, conversation)| (*tuple, conversation.used));
        match oldest {
            Some((tuple, used)) if now.saturating_duration_since(used) >= ACTIVE => {
                self.conversations.remove(&tuple);
                true
            }
            _ => false,
        }
    }

    fn forget(&mut self, tuple: &FiveTuple) {
        if let Some(gone) = self.conversations.remove(tuple) {
            self.held -= gone.held.len();
        }
    }
}

/// Every connector gives this device the same addresses: the interface has them before any tunnel stands.
pub(super) fn is_own(own_v6: Option<Ipv6Addr>, source: IpAddr) -> bool {
    match source {
        IpAddr::V4(v4) => v4 == policy::INNER_V4,
        IpAddr::V6(v6) => own_v6.is_none_or(|own| own == v6),
    }
}

/// The two ends of a conversation as a packet says them. Echoes of one program share their identifier: it stands for a
/// port at the asking end.
fn ends(packet: &IpPacket<'_>) -> Option<FiveTuple> {
    if packet.protocol != Protocol::Icmp {
        return packet.tuple();
    }
    let [kind, 0, _, _, high, low] = *packet.payload.first_chunk::<6>()? else { return None };
    let (asks, answers) = match packet.src {
        IpAddr::V4(_) => (8, 0),
        IpAddr::V6(_) => (128, 129),
    };
    let identifier = u16::from_be_bytes([high, low]);
    let (from, to) = match kind {
        _ if kind == asks => (identifier, 0),
        _ if kind == answers => (0, identifier),
        _ => return None,
    };
    let (src, dst) = (SocketAddr::new(packet.src, from), SocketAddr::new(packet.dst, to));
    Some(FiveTuple { protocol: Protocol::Icmp, src, dst })
}

/// The conversation that an ICMP error is about, turned so that it reads like a packet from there.
fn quoted(packet: &IpPacket<'_>) -> Option<FiveTuple> {
    if packet.protocol != Protocol::Icmp {
        return None;
    }
    let (_, quoted) = packet.payload.split_at_checked(8)?;
    let tuple = ends(&IpPacket::quoted(quoted)?)?;
    Some(FiveTuple { protocol: tuple.protocol, src: tuple.dst, dst: tuple.src })
}

/// The conversation, as this machine sends it, whose target a connector says that it cannot reach: "host unreachable" (RFC 792
/// code 1), "address unreachable" (RFC 4443 section 3.1 code 3). A port that nobody listens at, and a refusal by policy, are
/// answers.
fn host_unreachable(packet: &IpPacket<'_>) -> Option<FiveTuple> {
    let is_unreachable = packet.protocol == Protocol::Icmp
        && matches!((packet.payload, packet.src.is_ipv4()), ([3, 1, ..], true) | ([1, 3, ..], false));
    let about = if is_unreachable { quoted(packet)? } else { return None };
    Some(FiveTuple { protocol: about.protocol, src: about.dst, dst: about.src })
}

impl ClientCore {
    pub(super) fn handle_whole(&mut self, now: Instant, pool: &mut Pool, bytes: &[u8]) {
        let packet = match IpPacket::parse(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.drop_packet(PacketDrop::Malformed(error)),
        };
        if !is_own(self.own_v6, packet.src) {
            return self.drop_packet(PacketDrop::Source);
        }
        let Some(tuple) = ends(&packet) else { return self.drop_packet(PacketDrop::Protocol) };
        if let Err(why) = self.packet(now, pool, tuple, &packet) {
            self.drop_packet(why);
            let icmp = match why {
                PacketDrop::NoResource => unreachable(&packet, Unreachable::Prohibited),
                PacketDrop::NoConnector => unreachable(&packet, Unreachable::Host),
                _ => None,
            };
            self.outputs.extend(icmp.map(Output::Packet));
        }
    }

    /// What of the machine's packets went nowhere, by reason.
    pub fn packet_drops(&self) -> impl Iterator<Item = (PacketDrop, u64)> {
        self.packets.drops.iter().map(|(why, count)| (*why, *count))
    }

    pub(super) fn drop_packet(&mut self, why: PacketDrop) {
        *self.packets.drops.entry(why).or_default() += 1;
    }

    /// The site behind a destination, and what it stands for there.
    fn meaning(
        &self,
        now: Instant,
        pool: &mut Pool,
        tuple: FiveTuple,
    ) -> Result<(SiteId, Option<Meaning>), PacketDrop> {
        let destination = tuple.dst.ip();
        let protocol = match tuple.protocol {
            Protocol::Tcp => policy::Protocol::Tcp,
            Protocol::Udp => policy::Protocol::Udp,
            Protocol::Icmp => policy::Protocol::Icmp,
            Protocol::Other(_) => return Err(PacketDrop::Protocol),
        };
        let port = (protocol, tuple.dst.port());
        if !pool.contains(destination) {
            let resource = find(&self.slice, &Host::Ip(destination), Some(port))
                .filter(|resource| has_port(resource, port));
            return Ok((resource.ok_or(PacketDrop::NoResource)?.site, None));
        }
        let (v4, v6, name) = pool.meaning(now, destination).ok_or(PacketDrop::NoResource)?;
        let resource = find_named(&self.slice, name, port).ok_or(PacketDrop::NoResource)?;
        let name = match &resource.address {
            Address::Host(host) => BoundName::Host(host.clone()),
            Address::Ip(address) => BoundName::Address(*address),
            Address::Wildcard(_) => BoundName::Host(name.clone()),
            Address::Cidr(_) => return Err(PacketDrop::NoResource),
        };
        Ok((resource.site, Some(Meaning { pair: BoundPair { v4, v6 }, name })))
    }

    fn packet(
        &mut self,
        now: Instant,
        pool: &mut Pool,
        tuple: FiveTuple,
        packet: &IpPacket<'_>,
    ) -> Result<(), PacketDrop> {
        let begins_anew = packet.tcp().is_ok_and(|segment| segment.flags.opens());
        if let Some(old) = self.packets.conversations.get(&tuple) {
            // The same ends again are another connection; and who has no connection to lose leaves a connector that is
            // silent.
            let is_another = begins_anew && (old.heard.is_some() || old.is_over);
            let is_deserted = tuple.protocol != Protocol::Tcp
                && old.heard.is_some_and(|heard| now.saturating_duration_since(heard) >= LOYAL)
                && self.failover.is_suspect(old.connector);
            if is_another || is_deserted {
                self.packets.forget(&tuple);
            }
        }
        if !self.packets.conversations.contains_key(&tuple) {
            let (site, meaning) = self.meaning(now, pool, tuple)?;
            let mut rest = VecDeque::from(self.connectors_of(site));
            let connector = rest.pop_front().ok_or(PacketDrop::NoConnector)?;
            if !self.packets.make_room(now) {
                return Err(PacketDrop::Full);
            }
            let opening = begins_anew && packet.bytes.len() <= MAX_OPENING;
            let conversation = Conversation {
                connector,
                site,
                rest,
                heard: None,
                ends: [false; 2],
                is_over: false,
                opening: opening.then(|| packet.bytes.to_vec()),
                meaning,
                used: now,
                held: Vec::new(),
            };
            self.packets.conversations.insert(tuple, conversation);
            self.packets.sweep.get_or_insert(now + SWEEP);
        }
        let Some(conversation) = self.packets.conversations.get_mut(&tuple) else {
            return Err(PacketDrop::Full);
        };
        conversation.used = now;
        conversation.notice(packet, Direction::There);
        let connector = conversation.connector;
        if let Some(meaning) = &conversation.meaning {
            pool.touch(now, meaning.pair.v4.into());
        }
        let conversation = self.packets.conversations.get(&tuple).ok_or(PacketDrop::Full)?;
        if let Some(peer) =
            self.links.get(&connector).filter(|link| self.way_of(link).is_some()).and_then(|link| link.peer)
        {
            let bind = conversation.meaning.as_ref().and_then(|meaning| self.bound.tell(connector, meaning));
            let pieces =
                if packet.bytes.len() > tunnel::BASE_MTU { self.fit(peer, packet.bytes) } else { Vec::new() };
            let whole = pieces.is_empty().then_some(packet.bytes);
            let parts = pieces.iter().map(Vec::as_slice).chain(whole);
            let packets: Vec<&[u8]> = bind.as_deref().into_iter().chain(parts).collect();
            // What does not fit is lost, as on any full path.
            let _ = self.tunnels.seal_batch(now, peer, &packets);
            return Ok(());
        }
        let conversation = self.packets.conversations.get_mut(&tuple).ok_or(PacketDrop::Full)?;
        let is_long = packet.bytes.len() > tunnel::BASE_MTU;
        if is_long || conversation.held.len() >= HELD_PACKETS || self.packets.held >= MAX_HELD {
            if is_long {
                self.ensure_link(now, connector);
            }
            return Err(PacketDrop::Full);
        }
        conversation.held.push(packet.bytes.to_vec());
        self.packets.held += 1;
        self.ensure_link(now, connector);
        Ok(())
    }

    /// The way to a connector stands: what waited for it goes.
    pub(super) fn release_packets(&mut self, now: Instant, id: ConnectorId) {
        let Some(peer) = self.links.get(&id).and_then(|link| link.peer) else { return };
        let waiting = self
            .packets
            .conversations
            .values_mut()
            .filter(|conversation| conversation.connector == id && !conversation.held.is_empty());
        let mut held: Vec<Vec<u8>> = Vec::new();
        for conversation in waiting {
            held.extend(conversation.meaning.as_ref().and_then(|meaning| self.bound.tell(id, meaning)));
            self.packets.held -= conversation.held.len();
            held.append(&mut conversation.held);
        }
        for batch in held.chunks(64) {
            let packets: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
            let _ = self.tunnels.seal_batch(now, peer, &packets);
        }
    }

    /// A connector says what it knows about addresses inside the tunnel.
    pub(super) fn bind_answered(&mut self, peer: PeerId, message: &BindMessage) {
        let Some(connector) = self.by_peer.get(&peer).copied() else { return };
        match message {
            // Only clients bind.
            BindMessage::Bind { .. } => {}
            BindMessage::Unbound(pair) => self.bound.unbound(connector, *pair),
            BindMessage::Bound(pair) => self.bound.answered(connector, *pair),
        }
    }

    /// No way leads to a connector for now: what waits for it goes by the site's next one, or is told.
    pub(super) fn packets_refused(&mut self, now: Instant, id: ConnectorId) {
        let waiting: Vec<FiveTuple> = self
            .packets
            .conversations
            .iter()
            .filter(|(_, held)| held.connector == id && !held.held.is_empty())
            .map(|(tuple, _)| *tuple)
            .collect();
        let mut next_links = BTreeSet::new();
        for tuple in waiting {
            let Some(conversation) = self.packets.conversations.get_mut(&tuple) else { continue };
            if let Some(next) = conversation.rest.pop_front() {
                conversation.connector = next;
                next_links.insert(next);
                continue;
            }
            let Some(gone) = self.packets.conversations.remove(&tuple) else { continue };
            self.packets.held -= gone.held.len();
            for bytes in &gone.held {
                self.drop_packet(PacketDrop::NoConnector);
                let told =
                    IpPacket::parse(bytes).ok().and_then(|packet| unreachable(&packet, Unreachable::Host));
                self.outputs.extend(told.map(Output::Packet));
            }
        }
        for next in next_links {
            match self.links.get(&next) {
                Some(link) if self.way_of(link).is_some() => self.release_packets(now, next),
                _ => self.ensure_link(now, next),
            }
        }
    }

    /// Whether a packet says that a connector cannot reach what a conversation of the machine is for, and another of the
    /// site is asked now. A connection has to be one that nobody has answered; who has none asks again by itself.
    pub(super) fn goes_elsewhere(&mut self, now: Instant, peer: PeerId, bytes: &[u8]) -> bool {
        let Some(id) = self.by_peer.get(&peer).copied() else { return false };
        let Ok(packet) = IpPacket::parse(bytes) else { return false };
        let Some(tuple) = host_unreachable(&packet) else { return false };
        let Some(conversation) = self.packets.conversations.get_mut(&tuple) else { return false };
        let is_open = tuple.protocol == Protocol::Tcp && conversation.opening.is_none();
        if conversation.connector != id || conversation.heard.is_some() || is_open {
            return false;
        }
        let Some(next) = conversation.rest.pop_front() else { return false };
        tracing::debug!(connector = %id, "it cannot reach a resource: another one of its site is asked");
        conversation.connector = next;
        conversation.used = now;
        if let Some(opening) = &conversation.opening
            && conversation.held.is_empty()
            && self.packets.held < MAX_HELD
        {
            conversation.held.push(opening.clone());
            self.packets.held += 1;
        }
        match self.links.get(&next) {
            Some(link) if self.way_of(link).is_some() => self.release_packets(now, next),
            _ => self.ensure_link(now, next),
        }
        true
    }

    /// A connector does not answer: what it has not answered yet goes by another.
    pub(super) fn move_conversations(&mut self, now: Instant, id: ConnectorId) {
        let may_move =
            |conversation: &Conversation| conversation.connector == id && conversation.heard.is_none();
        let conversations = self.packets.conversations.values();
        let sites: BTreeSet<SiteId> = conversations
            .filter(|conversation| may_move(conversation))
            .map(|conversation| conversation.site)
            .collect();
        let next: BTreeMap<SiteId, ConnectorId> = sites
            .into_iter()
            .filter_map(|site| {
                let mut others = self.connectors_of(site).into_iter();
                Some((site, others.find(|other| *other != id && !self.failover.is_suspect(*other))?))
            })
            .collect();
        for conversation in self.packets.conversations.values_mut() {
            let Some(next) = next.get(&conversation.site).filter(|_| may_move(conversation)) else {
                continue;
            };
            conversation.connector = *next;
            conversation.rest.retain(|other| other != next);
            if let Some(opening) = &conversation.opening
                && conversation.held.is_empty()
                && self.packets.held < MAX_HELD
            {
                conversation.held.push(opening.clone());
                self.packets.held += 1;
            }
        }
        for next in next.into_values().collect::<BTreeSet<_>>() {
            match self.links.get(&next) {
                Some(link) if self.way_of(link).is_some() => self.release_packets(now, next),
                _ => self.ensure_link(now, next),
            }
        }
    }

    /// Conversations that cannot go on: their connector does not know them any more. Their next packets find a way, and a
    /// reset, by themselves.
    pub(super) fn forget_conversations(&mut self, id: ConnectorId) {
        self.packets.conversations.retain(|_, held| held.connector != id || !held.held.is_empty());
    }
}
