//! A WireGuard engine without cryptography: the same messages, indices, counters and replay rules, and tags that
//! only say which session a packet belongs to. What it replaces has tests of its own.

use std::cell::Cell;
use tunnel::{
    Engine, Initiation, LocalIndex, OpenError, OpenSink, Response, TunnelError, WireGuardPublicKey,
};
use wire::{WG_INITIATION_LEN, WG_RESPONSE_LEN};

/// How far behind the newest a counter may be; WireGuard's window is of this order.
const WINDOW: u64 = 2_048;
const WORDS: usize = 32;
const MAX_SESSIONS: usize = 8;

/// See the module.
#[derive(Debug)]
pub struct SimEngine {
    key: WireGuardPublicKey,
    next_index: Cell<u32>,
    clock: Cell<u64>,
}

impl SimEngine {
    /// An engine for one key. `start` makes the indices of one engine differ from another's.
    #[must_use]
    pub const fn new(key: [u8; 32], start: u32) -> Self {
        Self { key: WireGuardPublicKey::from_bytes(key), next_index: Cell::new(start), clock: Cell::new(0) }
    }

    fn index(&self) -> u32 {
        self.next_index.set(self.next_index.get().wrapping_add(1));
        self.next_index.get()
    }
}

#[derive(Debug)]
struct Session {
    local: u32,
    remote: u32,
    next: u64,
    window: Window,
}

/// Which of the last counters have been seen: a ring of bits.
#[derive(Debug, Clone)]
struct Window {
    /// One more than the newest.
    end: u64,
    bits: [u64; WORDS],
}

impl Window {
    const fn new() -> Self {
        Self { end: 0, bits: [0; WORDS] }
    }

    fn place(counter: u64) -> (usize, u64) {
        let at = usize::try_from(counter % WINDOW).unwrap_or(0);
        (at / 64, 1 << (at % 64))
    }

    /// Whether a counter is new; it is not the next time.
    fn take(&mut self, counter: u64) -> bool {
        if counter + WINDOW < self.end {
            return false;
        }
        let from = self.end.max((counter + 1).saturating_sub(WINDOW));
        for skipped in from..=counter {
            let (word, bit) = Self::place(skipped);
            self.bits[word] &= !bit;
        }
        self.end = self.end.max(counter + 1);
        let (word, bit) = Self::place(counter);
        let is_new = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        is_new
    }
}

/// What the engine keeps for one peer.
#[derive(Debug)]
pub struct SimPeer {
    key: WireGuardPublicKey,
    sessions: Vec<Session>,
    /// The session that seals.
    current: Option<u32>,
    asked: Vec<u32>,
    newest_initiation: u64,
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}

impl SimPeer {
    fn add(&mut self, local: u32, remote: u32) {
        if self.sessions.len() == MAX_SESSIONS {
            self.sessions.remove(0);
        }
        self.sessions.push(Session { local, remote, next: 0, window: Window::new() });
    }
}

impl Engine for SimEngine {
    type Peer = SimPeer;

    fn public_key(&self) -> WireGuardPublicKey {
        self.key
    }

    fn new_peer(&self, key: &WireGuardPublicKey) -> SimPeer {
        SimPeer { key: *key, sessions: vec![], current: None, asked: vec![], newest_initiation: 0 }
    }

    fn initiate(&self, peer: &mut SimPeer) -> Initiation {
        let index = self.index();
        self.clock.set(self.clock.get() + 1);
        let mut bytes = [0; WG_INITIATION_LEN];
        bytes[0] = 1;
        bytes[4..8].copy_from_slice(&index.to_le_bytes());
        bytes[8..40].copy_from_slice(self.key.as_bytes());
        bytes[40..72].copy_from_slice(peer.key.as_bytes());
        bytes[72..80].copy_from_slice(&self.clock.get().to_le_bytes());
        if peer.asked.len() == 2 {
            peer.asked.remove(0);
        }
        peer.asked.push(index);
        Initiation { bytes, index: LocalIndex(index) }
    }

    fn respond(&self, peer: &mut SimPeer, initiation: &[u8]) -> Result<Response, TunnelError> {
        if initiation.len() != WG_INITIATION_LEN || initiation[0] != 1 {
            return Err(TunnelError::Malformed);
        }
        if initiation[8..40] != peer.key.as_bytes()[..] || initiation[40..72] != self.key.as_bytes()[..] {
            return Err(TunnelError::WrongKey);
        }
        let time = long(initiation, 72);
        if time <= peer.newest_initiation {
            return Err(TunnelError::Replayed);
        }
        peer.newest_initiation = time;
        let (local, remote) = (self.index(), number(initiation, 4));
        peer.add(local, remote);
        let mut bytes = [0; WG_RESPONSE_LEN];
        bytes[0] = 2;
        bytes[4..8].copy_from_slice(&local.to_le_bytes());
        bytes[8..12].copy_from_slice(&remote.to_le_bytes());
        bytes[12..44].copy_from_slice(self.key.as_bytes());
        Ok(Response { bytes, index: LocalIndex(local) })
    }

    fn finish(&self, peer: &mut SimPeer, response: &[u8]) -> Result<LocalIndex, TunnelError> {
        if response.len() != WG_RESPONSE_LEN || response[0] != 2 {
            return Err(TunnelError::Malformed);
        }
        let (remote, local) = (number(response, 4), number(response, 8));
        if response[12..44] != peer.key.as_bytes()[..] {
            return Err(TunnelError::Forged);
        }
        let Some(at) = peer.asked.iter().position(|asked| *asked == local) else {
            return Err(TunnelError::NotAwaited);
        };
        peer.asked.remove(at);
        peer.add(local, remote);
        peer.current = Some(local);
        Ok(LocalIndex(local))
    }

    fn seal(&self, peer: &mut SimPeer, packets: &[&[u8]], out: &mut dyn FnMut(&[u8])) -> usize {
        let Some(current) = peer.current else { return 0 };
        let Some(session) = peer.sessions.iter_mut().find(|session| session.local == current) else {
            return 0;
        };
        for packet in packets {
            let mut sealed = Vec::with_capacity(packet.len() + 32);
            sealed.extend_from_slice(&[4, 0, 0, 0]);
            sealed.extend_from_slice(&session.remote.to_le_bytes());
            sealed.extend_from_slice(&session.next.to_le_bytes());
            sealed.extend_from_slice(packet);
            // In place of a tag: whose session it is.
            sealed.extend_from_slice(&session.local.to_le_bytes());
            sealed.extend_from_slice(&[0xA5; 12]);
            session.next += 1;
            out(&sealed);
        }
        packets.len()
    }

    fn open(&self, peer: &mut SimPeer, packets: &[&[u8]], out: &mut OpenSink<'_>) {
        let mut inner = Vec::new();
        for packet in packets {
            let local = number(packet, 4);
            let Some(session) = peer.sessions.iter_mut().find(|session| session.local == local) else {
                out(Err(OpenError::NoSession));
                continue;
            };
            let tag = packet.len() - 16;
            if number(packet, tag) != session.remote || packet[tag + 4..] != [0xA5; 12] {
                out(Err(OpenError::Forged));
                continue;
            }
            let counter = long(packet, 8);
            if !session.window.take(counter) {
                out(Err(OpenError::Replayed));
                continue;
            }
            let newer = |local: u32| peer.sessions.iter().position(|session| session.local == local);
            if peer.current.and_then(newer) < newer(local) {
                peer.current = Some(local);
            }
            inner.clear();
            inner.extend_from_slice(&packet[16..tag]);
            out(Ok(&mut inner));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_taken_once_and_not_when_it_is_too_old() {
        let mut window = Window::new();
        assert!(window.take(0) && window.take(5) && window.take(3));
        assert!(!window.take(5) && !window.take(0));
        assert!(window.take(10_000));
        assert!(!window.take(5_000) && window.take(9_000));
    }
}
