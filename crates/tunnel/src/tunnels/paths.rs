//! Direct paths: what the tunnels tell the choice of each peer, and what they do of what it wants.

use super::{
    DATA, DATA_OVERHEAD, DropReason, Event, INITIATION, MAX_PENDING_OUTPUTS, Output, RESPONSE, Tunnels,
};
use super::{by_index_at, push_transmit};
use crate::direct::{CandidateRefused, Outcome, Owner, PathMessage, Route, Surroundings};
use crate::engine::{Engine, LocalIndex};
use crate::inner::pad;
use crate::peer::{Origin, PeerId};
use crate::{PairReport, Path, PingId};
use aws_lc_rs::hmac;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use wire::{DeviceId, WG_INITIATION_LEN, WG_RESPONSE_LEN};

/// Indices that lead to one peer: eight sessions, and handshakes under way.
const MAX_INDICES: usize = 16;

impl<E: Engine> Tunnels<E> {
    /// By which way data for a peer goes now.
    #[must_use]
    pub fn way_of(&self, peer: PeerId) -> Option<Path> {
        self.peers.get(&peer)?.state.way()
    }

    /// The round trip of the direct path in use.
    #[must_use]
    pub fn round_trip_of(&self, peer: PeerId) -> Option<Duration> {
        self.peers.get(&peer)?.state.direct.round_trip()
    }

    /// The longest inner packet that goes by the way that data for a peer takes now.
    #[must_use]
    pub fn mtu_of(&self, peer: PeerId) -> Option<usize> {
        Some(self.peers.get(&peer)?.state.mtu())
    }

    /// The addresses of a peer that are or were tried.
    pub fn pairs_of(&self, peer: PeerId) -> Vec<PairReport> {
        self.peers.get(&peer).map(|peer| peer.state.direct.pairs().collect()).unwrap_or_default()
    }

    /// Candidates of a peer that are not tried, by reason.
    #[must_use]
    pub fn refused_candidates_of(&self, peer: PeerId) -> Option<&BTreeMap<CandidateRefused, u64>> {
        Some(self.peers.get(&peer)?.state.direct.refused())
    }

    /// Where this machine stands: its interfaces, and what PoPs and routers say. Every open tunnel's peer is told
    /// when that gives other candidates than before.
    pub fn set_surroundings(&mut self, now: Instant, surroundings: Surroundings) {
        self.own = surroundings.candidates();
        self.surroundings = surroundings;
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&id) {
                let outcome = peer.state.direct.set_own(now, &self.surroundings, &self.own);
                self.apply(now, id, outcome);
                self.reschedule(id);
            }
        }
    }

    /// Who introduced a peer says where it is seen, or nothing. Only by that is it looked for in our own networks.
    pub fn introduced_from(&mut self, now: Instant, id: PeerId, seen: Option<SocketAddr>) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let outcome = peer.state.direct.introduced_from(now, &self.surroundings, seen);
            self.apply(now, id, outcome);
            self.reschedule(id);
        }
    }

    /// Whose key a peer's is: what a device makes us ask is counted by device, with all its keys, and not forgotten with one.
    pub fn belongs_to(&mut self, id: PeerId, device: DeviceId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.state.owner = Owner::Device(device);
        }
    }

    /// Whether a peer names an address on our own link, and another introduction may show that it is there.
    #[must_use]
    pub fn may_be_near(&self, id: PeerId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.state.direct.lacks_a_word(&self.surroundings))
    }

    /// Probes that were not sent because a device or an address had its share.
    #[must_use]
    pub const fn probes_over_budget(&self) -> u64 {
        self.ledger.refused()
    }

    /// The machine may be in another network: every direct path is asked before it carries more.
    pub fn network_changed(&mut self, now: Instant) {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            if let Some(peer) = self.peers.get_mut(&id) {
                let outcome = peer.state.direct.network_changed(now);
                self.apply(now, id, outcome);
                self.reschedule(id);
            }
        }
    }

    /// Takes WireGuard messages that came straight from an address. Whose they are is found by the receiver index
    /// and shown by the cipher; where they came from decides nothing.
    pub fn handle_direct(&mut self, now: Instant, from: SocketAddr, messages: &[&[u8]]) {
        let path = Path::direct(from);
        let mut run: Vec<(&[u8], LocalIndex)> = Vec::with_capacity(messages.len());
        let mut of: Option<PeerId> = None;
        for message in messages {
            let id = match (message.first(), message.len()) {
                (Some(&DATA), DATA_OVERHEAD..) => self.by_index.get(&by_index_at(message, 4)).copied(),
                (Some(&RESPONSE), WG_RESPONSE_LEN) => self.by_index.get(&by_index_at(message, 8)).copied(),
                // An initiation names nobody; it is taken from addresses in use alone.
                (Some(&INITIATION), WG_INITIATION_LEN) => self.by_remote.get(&from).copied(),
                _ => {
                    self.count(DropReason::Malformed, 1);
                    continue;
                }
            };
            let Some(id) = id else {
                self.count(DropReason::UnknownSession, 1);
                continue;
            };
            if of != Some(id) {
                self.end_direct_run(now, of, path, &mut run);
                of = Some(id);
            }
            match message[0] {
                DATA => run.push((*message, by_index_at(message, 4))),
                kind => {
                    self.open_run(now, id, path, &mut run);
                    match kind {
                        INITIATION => self.answer_over_path(now, id, path, message),
                        _ => self.finish_over_path(now, id, path, message),
                    }
                }
            }
        }
        self.end_direct_run(now, of, path, &mut run);
    }

    fn end_direct_run(
        &mut self,
        now: Instant,
        of: Option<PeerId>,
        path: Path,
        run: &mut Vec<(&[u8], LocalIndex)>,
    ) {
        if let Some(id) = of {
            self.open_run(now, id, path, run);
            self.reschedule(id);
        }
        run.clear();
    }

    /// A peer has proven its key: it is told where we are.
    pub(super) fn open_direct(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let outcome = peer.state.direct.opened(now, &self.own);
            self.apply(now, id, outcome);
        }
    }

    /// A peer said something about paths.
    pub(super) fn said(&mut self, now: Instant, id: PeerId, from: Option<SocketAddr>, message: &PathMessage) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let outcome = peer.state.direct.handle_message(now, &self.surroundings, from, message);
            self.apply(now, id, outcome);
        }
    }

    /// What the choice of a peer has due.
    pub(super) fn direct_due(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let outcome = peer.state.direct.handle_timeout(now);
            self.apply(now, id, outcome);
        }
    }

    /// Does what a choice wants: messages sealed and sent, the new way told.
    pub(super) fn apply(&mut self, now: Instant, id: PeerId, outcome: Outcome) {
        let Outcome { say, moved, pong, is_quiet } = outcome;
        if let Some((ping, round_trip)) = pong {
            self.outputs.push_back(Output::Event(Event::Pong { peer: id, ping: PingId(ping), round_trip }));
        }
        if is_quiet && let Some(path) = self.path_of(id) {
            self.outputs.push_back(Output::Event(Event::Quiet { peer: id, path }));
        }
        for said in say {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let path = match said.route {
                Route::Direct(remote) => Some(Path::direct(remote)),
                Route::Relay => peer.state.path.or_else(|| peer.state.direct.fallback().map(Path::direct)),
            };
            // Without a session it is not said; what matters is said again.
            let (Some(path), true) = (path, peer.state.can_seal(now)) else { continue };
            if let Route::Direct(to) = said.route
                && !self.ledger.charge(now, peer.state.owner, id, to, said.cause)
            {
                continue;
            }
            if self.outputs.len() >= MAX_PENDING_OUTPUTS {
                self.count(DropReason::Full, 1);
                continue;
            }
            let mut packet = said.message.encode();
            pad(&mut packet);
            peer.state.on_sent();
            let outputs = &mut self.outputs;
            self.engine
                .seal(&mut peer.noise, &[&packet], &mut |sealed| push_transmit(outputs, id, path, sealed));
        }
        if let Some((_, reason)) = moved {
            let Some(peer) = self.peers.get_mut(&id) else { return };
            let path = peer.state.way();
            let fallback = peer.state.direct.fallback();
            if fallback.is_none() && peer.state.path.is_none() && peer.state.origin == Origin::Theirs {
                peer.state.pathless_since.get_or_insert(now);
            }
            let before = std::mem::replace(&mut peer.state.remote, fallback);
            if before != fallback {
                if let Some(before) = before
                    && self.by_remote.get(&before) == Some(&id)
                {
                    self.by_remote.remove(&before);
                }
                if let Some(remote) = fallback {
                    self.by_remote.insert(remote, id);
                }
            }
            self.outputs.push_back(Output::Event(Event::Moved { peer: id, path, reason }));
        }
        self.tell_mtu(id);
    }

    /// Tells the owner how long packets may be, when that is another length than it was told.
    pub(super) fn tell_mtu(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let mtu = peer.state.mtu();
        if std::mem::replace(&mut peer.state.told_mtu, mtu) != mtu {
            self.outputs.push_back(Output::Event(Event::Mtu { peer: id, mtu }));
        }
    }

    /// Asks a peer for an answer by the way that data takes now; [`Event::Pong`] follows if one comes. `None` when
    /// there is no way.
    pub fn ping(&mut self, now: Instant, id: PeerId) -> Option<PingId> {
        let peer = self.peers.get_mut(&id)?;
        peer.state.way().filter(|_| peer.state.can_seal(now))?;
        let (ping, outcome) = peer.state.direct.ping(now);
        self.apply(now, id, outcome);
        self.reschedule(id);
        Some(PingId(ping))
    }

    /// Remembers by which index a peer's packets come.
    pub(super) fn index(&mut self, id: PeerId, index: LocalIndex) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let indices = &mut peer.state.indices;
        if indices.contains(&index) {
            return;
        }
        if indices.len() == MAX_INDICES {
            let oldest = indices.remove(0);
            if self.by_index.get(&oldest) == Some(&id) {
                self.by_index.remove(&oldest);
            }
        }
        indices.push(index);
        self.by_index.insert(index, id);
    }

    /// What a peer's probes are numbered with; nobody but this process can guess it, and a peer that comes again
    /// gets another.
    pub(super) fn next_secret(&self) -> [u8; 32] {
        let tag = hmac::sign(&self.secret, &self.next_peer.to_be_bytes());
        *tag.as_ref().first_chunk().expect("a tag has 32 bytes")
    }
}
