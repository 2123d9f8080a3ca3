//! A WireGuard engine without ciphers: the handshake, the order of its timestamps, the sessions, the counters
//! and the replay window are real; tags are numbers, and bodies can be read by who watches the world.

use std::{cell::Cell, collections::VecDeque};
use tunnel::{
    Engine, Initiation, LocalIndex, OpenError, OpenSink, Response, TunnelError, WireGuardPublicKey,
};
use wire::{WG_INITIATION_LEN, WG_RESPONSE_LEN};

/// Type, reserved, receiver index, counter.
pub const HEADER_LEN: usize = 16;
const TAG_LEN: usize = 16;
/// Sessions kept, as the real engine does.
const SESSIONS: usize = 8;
/// Counters remembered behind the highest.
const WINDOW: u64 = 128;

/// See the module.
#[derive(Debug)]
pub struct SimEngine {
    key: WireGuardPublicKey,
    /// Indices and timestamps of this process: each is used once.
    next: Cell<u32>,
    /// Where the timestamps of this process begin: later than those of the process before.
    born: u64,
}

impl SimEngine {
    /// An engine of one key. `generation` counts the process's restarts.
    #[must_use]
    pub fn new(key: WireGuardPublicKey, generation: u32) -> Self {
        let born = u64::from(generation) << 32;
        // Another range of indices for each process, so that old packets find nothing.
        Self { key, next: Cell::new(1 + (generation << 20)), born }
    }

    fn take(&self) -> u32 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        number
    }
}

#[derive(Debug)]
struct Session {
    local: u32,
    remote: u32,
    secret: u64,
    sent: u64,
    highest: u64,
    seen: u128,
    is_confirmed: bool,
}

impl Session {
    fn accepts(&mut self, counter: u64) -> bool {
        let position = counter + 1;
        if position > self.highest {
            let shift = position - self.highest;
            self.seen = if shift >= WINDOW { 0 } else { self.seen << shift };
            self.seen |= 1;
            self.highest = position;
            return true;
        }
        let behind = self.highest - position;
        if behind >= WINDOW || self.seen & (1 << behind) != 0 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// What the engine keeps for one peer.
#[derive(Debug)]
pub struct SimPeer {
    key: WireGuardPublicKey,
    sessions: VecDeque<Session>,
    /// The last two initiations of ours: index and timestamp.
    asked: VecDeque<(u32, u64)>,
    newest: u64,
}

fn number32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn number64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// What both sides of a handshake know in the end.
fn secret_of(initiator: u32, responder: u32, stamp: u64) -> u64 {
    (u64::from(initiator) << 32 | u64::from(responder)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stamp
}

impl SimPeer {
    fn add(&mut self, session: Session) {
        if self.sessions.len() == SESSIONS {
            self.sessions.pop_front();
        }
        self.sessions.push_back(session);
    }
}

fn session(local: u32, remote: u32, secret: u64, is_confirmed: bool) -> Session {
    Session { local, remote, secret, sent: 0, highest: 0, seen: 0, is_confirmed }
}

impl Engine for SimEngine {
    type Peer = SimPeer;

    fn public_key(&self) -> WireGuardPublicKey {
        self.key
    }

    fn new_peer(&self, key: &WireGuardPublicKey) -> SimPeer {
        SimPeer { key: *key, sessions: VecDeque::new(), asked: VecDeque::new(), newest: 0 }
    }

    fn initiate(&self, peer: &mut SimPeer) -> Initiation {
        let index = self.take();
        let stamp = self.born + u64::from(index);
        if peer.asked.len() == 2 {
            peer.asked.pop_front();
        }
        peer.asked.push_back((index, stamp));
        let mut bytes = [0; WG_INITIATION_LEN];
        bytes[0] = 1;
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        bytes[8..40].copy_from_slice(self.key.as_bytes());
        bytes[40..72].copy_from_slice(peer.key.as_bytes());
        bytes[72..80].copy_from_slice(&stamp.to_le_bytes());
        Initiation { bytes, index: LocalIndex(index) }
    }

    fn respond(&self, peer: &mut SimPeer, initiation: &[u8]) -> Result<Response, TunnelError> {
        if initiation.len() != WG_INITIATION_LEN || initiation[0] != 1 {
            return Err(TunnelError::Malformed);
        }
        if initiation[8..40] != peer.key.as_bytes()[..] || initiation[40..72] != self.key.as_bytes()[..] {
            return Err(TunnelError::WrongKey);
        }
        let (theirs, stamp) = (number32(initiation, 4), number64(initiation, 72));
        if stamp <= peer.newest {
            return Err(TunnelError::Replayed);
        }
        peer.newest = stamp;
        let index = self.take();
        let secret = secret_of(theirs, index, stamp);
        peer.add(session(index, theirs, secret, false));
        let mut bytes = [0; WG_RESPONSE_LEN];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        bytes[8..12].copy_from_slice(&theirs.to_le_bytes());
        bytes[12..20].copy_from_slice(&secret.to_le_bytes());
        Ok(Response { bytes, index: LocalIndex(index) })
    }

    fn finish(&self, peer: &mut SimPeer, response: &[u8]) -> Result<LocalIndex, TunnelError> {
        if response.len() != WG_RESPONSE_LEN || response[0] != 2 {
            return Err(TunnelError::Malformed);
        }
        let (theirs, own, secret) = (number32(response, 4), number32(response, 8), number64(response, 12));
        let at = peer.asked.iter().position(|(index, _)| *index == own).ok_or(TunnelError::NotAwaited)?;
        if secret != secret_of(own, theirs, peer.asked[at].1) {
            return Err(TunnelError::Forged);
        }
        peer.asked.remove(at);
        peer.add(session(own, theirs, secret, true));
        Ok(LocalIndex(own))
    }

    fn seal(&self, peer: &mut SimPeer, packets: &[&[u8]], out: &mut dyn FnMut(&[u8])) -> usize {
        let Some(session) = peer.sessions.iter_mut().rev().find(|session| session.is_confirmed) else {
            return 0;
        };
        let longest = packets.iter().map(|packet| packet.len()).max().unwrap_or_default();
        let mut sealed = Vec::with_capacity(HEADER_LEN + longest + TAG_LEN);
        for packet in packets {
            sealed.clear();
            sealed.extend_from_slice(&[4, 0, 0, 0]);
            sealed.extend_from_slice(&session.remote.to_le_bytes());
            sealed.extend_from_slice(&session.sent.to_le_bytes());
            sealed.extend_from_slice(packet);
            sealed.extend_from_slice(&session.secret.to_le_bytes());
            sealed.extend_from_slice(&[0; TAG_LEN - 8]);
            session.sent += 1;
            out(&sealed);
        }
        packets.len()
    }

    fn open(&self, peer: &mut SimPeer, packets: &[&[u8]], out: &mut OpenSink<'_>) {
        for packet in packets {
            let index = number32(packet, 4);
            let Some(session) = peer.sessions.iter_mut().find(|session| session.local == index) else {
                out(Err(OpenError::NoSession));
                continue;
            };
            let tag = packet.len().saturating_sub(TAG_LEN);
            if tag < HEADER_LEN || number64(packet, tag) != session.secret {
                out(Err(OpenError::Forged));
                continue;
            }
            if !session.accepts(number64(packet, 8)) {
                out(Err(OpenError::Replayed));
                continue;
            }
            session.is_confirmed = true;
            out(Ok(&mut packet[HEADER_LEN..tag].to_vec()));
        }
    }
}

/// The inner packet of a sealed one, for who watches the world.
#[must_use]
pub fn inner_of(message: &[u8]) -> Option<&[u8]> {
    (message.first() == Some(&4)).then(|| message.get(HEADER_LEN..message.len().checked_sub(TAG_LEN)?))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> WireGuardPublicKey {
        WireGuardPublicKey::from_bytes([byte; 32])
    }

    struct Pair {
        engines: [SimEngine; 2],
        peers: [SimPeer; 2],
    }

    fn pair() -> Pair {
        let engines = [SimEngine::new(key(1), 0), SimEngine::new(key(2), 0)];
        let peers = [engines[0].new_peer(&key(2)), engines[1].new_peer(&key(1))];
        Pair { engines, peers }
    }

    fn shaken() -> Pair {
        let mut pair = pair();
        let initiation = pair.engines[0].initiate(&mut pair.peers[0]);
        let response = pair.engines[1].respond(&mut pair.peers[1], &initiation.bytes).expect("taken");
        pair.engines[0].finish(&mut pair.peers[0], &response.bytes).expect("taken");
        pair
    }

    fn seal(pair: &mut Pair, side: usize) -> Option<Vec<u8>> {
        let mut sealed = None;
        pair.engines[side]
            .seal(&mut pair.peers[side], &[b"hello"], &mut |bytes| sealed = Some(bytes.to_vec()));
        sealed
    }

    fn open(pair: &mut Pair, side: usize, packet: &[u8]) -> Result<Vec<u8>, OpenError> {
        let mut opened = Err(OpenError::NoSession);
        pair.engines[side].open(&mut pair.peers[side], &[packet], &mut |result| {
            opened = result.map(|inner| inner.clone());
        });
        opened
    }

    #[test]
    fn the_responder_seals_only_after_the_initiators_first_packet() {
        let mut pair = shaken();
        assert_eq!(seal(&mut pair, 1), None);
        let first = seal(&mut pair, 0).expect("the initiator may");
        assert_eq!(open(&mut pair, 1, &first).as_deref(), Ok(&b"hello"[..]));
        let back = seal(&mut pair, 1).expect("confirmed");
        assert_eq!(open(&mut pair, 0, &back).as_deref(), Ok(&b"hello"[..]));
    }

    #[test]
    fn an_initiation_and_a_packet_count_once() {
        let mut pair = shaken();
        let first = seal(&mut pair, 0).expect("sealed");
        let second = seal(&mut pair, 0).expect("sealed");
        assert!(open(&mut pair, 1, &second).is_ok());
        assert!(open(&mut pair, 1, &first).is_ok(), "a late one is not a replay");
        assert_eq!(open(&mut pair, 1, &first), Err(OpenError::Replayed));
        let initiation = pair.engines[0].initiate(&mut pair.peers[0]);
        assert!(pair.engines[1].respond(&mut pair.peers[1], &initiation.bytes).is_ok());
        let again = pair.engines[1].respond(&mut pair.peers[1], &initiation.bytes);
        assert_eq!(again, Err(TunnelError::Replayed));
    }

    #[test]
    fn another_key_and_a_changed_tag_are_refused() {
        let mut pair = shaken();
        let stranger = SimEngine::new(key(3), 0);
        let initiation = stranger.initiate(&mut stranger.new_peer(&key(2)));
        assert_eq!(
            pair.engines[1].respond(&mut pair.peers[1], &initiation.bytes),
            Err(TunnelError::WrongKey)
        );
        let mut forged = seal(&mut pair, 0).expect("sealed");
        let tag = forged.len() - TAG_LEN;
        forged[tag] ^= 1;
        assert_eq!(open(&mut pair, 1, &forged), Err(OpenError::Forged));
    }
}
