//! Packets in pieces: the machine's kernel cuts a datagram that is longer than the interface takes, and a connector one that
//! is longer than the way to here. A piece has no ports, so nothing could be decided about it: pieces are put together first
//! and cut again for the way that they take.

use super::{ClientCore, Output, packets::PacketDrop};
use flow::{Fragment, LinkId, Reassembly, ip::IpPacket};
use std::{net::IpAddr, time::Instant};
use tunnel::PeerId;

/// The machine is no link of the flows: their numbers are those of peers, which begin far below.
const MACHINE: LinkId = LinkId(u64::MAX);

/// What waits for its other pieces, and how those are numbered that are cut here.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    waiting: Reassembly,
    next: u32,
}

/// What a packet is.
pub(super) enum Whole<'a> {
    /// As it came.
    AsItCame(&'a [u8]),
    /// Put together from its pieces.
    Joined(Vec<u8>),
    /// A piece; the others have not come.
    Waits,
}

impl Pieces {
    /// `None` for what is no packet.
    pub(super) fn join<'a>(
        &mut self,
        now: Instant,
        from: Option<PeerId>,
        bytes: &'a [u8],
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Option<Whole<'a>> {
        let Some(piece) = Fragment::parse(bytes).ok()? else { return Some(Whole::AsItCame(bytes)) };
        if !is_own(piece.src) {
            return None;
        }
        let link = from.map_or(MACHINE, |peer| LinkId(peer.number()));
        Some(self.waiting.push(now, link, &piece).map_or(Whole::Waits, Whole::Joined))
    }

    fn cut(&mut self, packet: Vec<u8>, longest: usize) -> Vec<Vec<u8>> {
        self.next = self.next.wrapping_add(1);
        flow::split(packet, longest, self.next)
    }
}

impl ClientCore {
    /// Takes a packet of the machine's own stack; `pool` says which names its addresses stand for. What it cannot reach
    /// is answered by [`Output::Packet`] as a router would.
    pub fn handle_packet(&mut self, now: Instant, pool: &mut dns::Pool, bytes: &[u8]) {
        let own_v6 = self.own_v6;
        match self.pieces.join(now, None, bytes, |source| super::packets::is_own(own_v6, source)) {
            Some(Whole::AsItCame(bytes)) => self.handle_whole(now, pool, bytes),
            Some(Whole::Joined(whole)) => self.handle_whole(now, pool, &whole),
            Some(Whole::Waits) => {}
            // Said by who reads it: not a packet, or a stranger's.
            None => match IpPacket::parse(bytes) {
                Err(error) if error != flow::ip::IpError::Fragment => {
                    self.drop_packet(PacketDrop::Malformed(error));
                }
                _ => self.drop_packet(PacketDrop::Source),
            },
        }
        self.pump(now);
    }

    /// A packet as the way to a peer takes it.
    pub(super) fn fit(&mut self, peer: PeerId, packet: &[u8]) -> Vec<Vec<u8>> {
        let longest = self.tunnels.mtu_of(peer).unwrap_or(tunnel::BASE_MTU);
        self.pieces.cut(packet.to_vec(), longest)
    }

    /// A packet came out of a tunnel: the machine's stack or a flow here waits for it. Flows send and get no pieces.
    pub(super) fn inner_packet(&mut self, now: Instant, peer: PeerId, packet: Vec<u8>) {
        self.heard(peer);
        let joined = match self.pieces.join(now, Some(peer), &packet, |_| true) {
            Some(Whole::Waits) => return,
            Some(Whole::Joined(whole)) => Some(whole),
            Some(Whole::AsItCame(_)) | None => None,
        };
        let whole = joined.unwrap_or(packet);
        if self.goes_elsewhere(now, peer, &whole) {
            return;
        }
        let is_the_machines = self.by_peer.get(&peer).copied().is_some_and(|connector| {
            IpPacket::parse(&whole).is_ok_and(|packet| self.packets.claims(now, connector, &packet))
        });
        if is_the_machines {
            self.outputs.push_back(Output::Packet(whole));
        } else {
            // A packet that does not parse comes from a connector that is broken; TCP sends again.
            let _ = self.flows.handle_input(now, LinkId(peer.number()), &whole);
        }
    }
}
