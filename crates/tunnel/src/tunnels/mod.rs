//! The core: peers by key and by path, in and out.

mod event;
mod paths;

pub use event::{
    Accepted, Count, DropReason, Event, Output, PingId, SealError, Timeout, Traffic, Transmit, TunnelError,
};

use crate::bind::BindMessage;
use crate::direct::{Candidate, Direct, Ledger, Part, PathMessage, Surroundings};
use crate::engine::{Engine, LocalIndex, OpenError};
use crate::inner::{pad, trim};
use crate::peer::{Origin, Peer, PeerId, PeerState, Pending, Side};
use crate::timers::{
    INITIATION_INTERVAL, MAX_JITTER, PATHLESS_LIFETIME, REKEY_ATTEMPT_TIME, REKEY_TIMEOUT, TimeoutReason,
    UNPROVEN_LIFETIME,
};
use crate::{GotatunEngine, Path, WireGuardPrivateKey, WireGuardPublicKey};
use aws_lc_rs::hmac;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use wire::{WG_INITIATION_LEN, WG_RESPONSE_LEN};

/// Most peers: 8,192 × 18.3 kB (measured on the reference machine, November 2026) is 150 MB.
pub const MAX_PEERS: usize = 8_192;
/// Most inner packets that wait for one peer's session: 64 × 1,280 bytes is one window of slow start.
pub const MAX_QUEUED_PACKETS: usize = 64;
/// Most outputs that wait for the driver, who drains after each call: a few batches.
pub const MAX_PENDING_OUTPUTS: usize = 4_096;
/// Longest inner packet taken: a 1,500-byte link less WireGuard (32), UDP (8), IPv6 (40).
pub const MAX_INNER_PACKET: usize = 1_420;

/// WireGuard's message types (white paper, section 5.4).
const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const DATA: u8 = 4;
/// Header and tag of a transport packet.
const DATA_OVERHEAD: usize = 32;
/// Messages about paths that are taken of one batch: a burst and its answers.
const MAX_SAID: usize = 64;

/// All WireGuard peers of one static key.
pub struct Tunnels<E: Engine = GotatunEngine> {
    engine: E,
    peers: BTreeMap<PeerId, Peer<E::Peer>>,
    by_key: BTreeMap<WireGuardPublicKey, PeerId>,
    by_path: BTreeMap<Path, PeerId>,
    next_peer: u64,
    schedule: BTreeMap<(Instant, PeerId), TimeoutReason>,
    outputs: VecDeque<Output>,
    drops: BTreeMap<DropReason, u64>,
    jitter: u64,
    secret: hmac::Key,
    by_index: BTreeMap<LocalIndex, PeerId>,
    by_remote: BTreeMap<SocketAddr, PeerId>,
    surroundings: Surroundings,
    own: Vec<Candidate>,
    ledger: Ledger,
    traffic: Traffic,
}

impl Tunnels {
    /// Tunnels of one static key, on the kept engine.
    #[must_use]
    pub fn new(key: &WireGuardPrivateKey, seed: u64, now: Instant) -> Self {
        let mut secret = [0; 40];
        secret[..8].copy_from_slice(&seed.to_be_bytes());
        secret[8..].copy_from_slice(key.expose());
        let mut tunnels = Self::with_engine(GotatunEngine::new(key), seed, now);
        tunnels.secret = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        tunnels
    }
}

impl<E: Engine> Tunnels<E> {
    /// Tunnels on an engine of the caller's.
    #[must_use]
    pub fn with_engine(engine: E, seed: u64, _now: Instant) -> Self {
        Self {
            engine,
            peers: BTreeMap::new(),
            by_key: BTreeMap::new(),
            by_path: BTreeMap::new(),
            next_peer: 0,
            schedule: BTreeMap::new(),
            outputs: VecDeque::new(),
            drops: BTreeMap::new(),
            jitter: seed,
            secret: hmac::Key::new(hmac::HMAC_SHA256, &seed.to_be_bytes()),
            by_index: BTreeMap::new(),
            by_remote: BTreeMap::new(),
            surroundings: Surroundings::default(),
            own: Vec::new(),
            ledger: Ledger::default(),
            traffic: Traffic::default(),
        }
    }

    /// This side's public key.
    pub fn public_key(&self) -> WireGuardPublicKey {
        self.engine.public_key()
    }

    /// How many peers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is no peer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// The peer with this key.
    #[must_use]
    pub fn peer_of(&self, key: WireGuardPublicKey) -> Option<PeerId> {
        self.by_key.get(&key).copied()
    }

    /// The key of a peer.
    #[must_use]
    pub fn key_of(&self, peer: PeerId) -> Option<WireGuardPublicKey> {
        Some(self.peers.get(&peer)?.state.key)
    }

    /// The relay path to a peer; none before it is proven and after it was lost.
    #[must_use]
    pub fn path_of(&self, peer: PeerId) -> Option<Path> {
        self.peers.get(&peer)?.state.path
    }

    /// What went and came by each kind of path.
    #[must_use]
    pub const fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// What came in and went no further, by reason.
    #[must_use]
    pub const fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    /// A fresh initiation for an `Open` to this peer, who is added if new. A peer that is connected stays
    /// so, on its old session and path, until the answer is accepted.
    ///
    /// # Errors
    /// [`TunnelError::Full`].
    pub fn connect(
        &mut self,
        now: Instant,
        key: WireGuardPublicKey,
    ) -> Result<(PeerId, [u8; WG_INITIATION_LEN]), TunnelError> {
        let id = match self.by_key.get(&key) {
            Some(id) => *id,
            None => {
                let noise = self.new_peer(key)?;
                let direct = Direct::new(Part::Asker, &self.next_secret(), now);
                self.insert(key, Peer { noise, state: PeerState::new(key, Origin::Ours, direct, now) })
            }
        };
        let peer = self.peers.get_mut(&id).expect("the key's peer is in the table");
        Ok((id, self.engine.initiate(&mut peer.noise).bytes))
    }

    /// Takes the answer to [`Self::connect`]: the peer is reachable by `path` from now on. Says which path
    /// it was reachable by before.
    ///
    /// # Errors
    /// The answer does not verify, or the path is another peer's. Nothing has changed then.
    pub fn accept_response(
        &mut self,
        now: Instant,
        id: PeerId,
        response: &[u8],
        path: Path,
    ) -> Result<Option<Path>, TunnelError> {
        self.path_is_free(path, id)?;
        let peer = self.peers.get_mut(&id).ok_or(TunnelError::UnknownPeer)?;
        let index = self.engine.finish(&mut peer.noise, response)?;
        peer.state.add_session(now, index, Side::Initiator);
        self.index(id, index);
        let peer = self.peers.get_mut(&id).expect("just looked up");
        peer.state.pathless_since = None;
        let replaced = peer.state.path.replace(path).filter(|old| *old != path);
        peer.state.is_relay_new = true;
        let candidates = std::mem::take(&mut peer.state.candidates);
        let unused = candidates.into_iter().map(|candidate| candidate.path).filter(|unused| *unused != path);
        for old in replaced.into_iter().chain(unused) {
            self.by_path.remove(&old);
        }
        self.by_path.insert(path, id);
        peer.state.direct.relay_changed();
        // The first packet on the new channel proves our key to the other side, by that channel.
        if self.way_of(id) == Some(path) {
            self.flush_or_keepalive(now, id);
        } else {
            self.keepalive(now, id, path);
            self.flush(now, id);
        }
        self.open_direct(now, id);
        self.reschedule(id);
        Ok(replaced)
    }

    /// The relay of a path asked where this side is: it did not take what came from there before. What proves our key by a
    /// path that has carried nothing yet goes out once more.
    pub fn asked_about(&mut self, now: Instant, path: Path) {
        let Some(id) = self.by_path.get(&path).copied() else { return };
        if self.peers.get(&id).is_some_and(|peer| peer.state.path == Some(path) && peer.state.is_relay_new) {
            self.keepalive(now, id, path);
        }
    }

    /// Answers an initiation that an introduction brought, if it was really made with `key`. Nothing but
    /// the answer goes to the peer before its first packet proves the key; a peer that was here before
    /// keeps its old session and path until then.
    ///
    /// # Errors
    /// Not by this key, replayed, forged or malformed; the table is full; the path is another peer's.
    /// Nothing has changed then.
    pub fn accept_initiation(
        &mut self,
        now: Instant,
        key: WireGuardPublicKey,
        initiation: &[u8],
        path: Path,
    ) -> Result<Accepted, TunnelError> {
        let known = self.by_key.get(&key).copied();
        match known {
            Some(id) => self.path_is_free(path, id)?,
            None if self.by_path.contains_key(&path) => return Err(TunnelError::PathTaken),
            None => {}
        }
        let (id, response) = match known {
            Some(id) => {
                let peer = self.peers.get_mut(&id).expect("the key's peer is in the table");
                // The same `Open` through another PoP, before the client has used either answer: the same
                // answer again. Anything older is a replay.
                match &peer.state.answered {
                    Some(same) if same.initiation == initiation => (id, same.response),
                    _ => {
                        let response = self.engine.respond(&mut peer.noise, initiation)?;
                        peer.state.answer(now, initiation, &response);
                        (id, response.bytes)
                    }
                }
            }
            None => {
                let mut noise = self.new_peer(key)?;
                let response = self.engine.respond(&mut noise, initiation)?;
                let direct = Direct::new(Part::Answerer, &self.next_secret(), now);
                let mut state = PeerState::new(key, Origin::Theirs, direct, now);
                state.answer(now, initiation, &response);
                (self.insert(key, Peer { noise, state }), response.bytes)
            }
        };
        let state = &mut self.peers.get_mut(&id).expect("just looked up or inserted").state;
        let answered = state.answered.as_ref().map(|answered| answered.index);
        let oldest = state.add_candidate(now, path);
        if let Some(index) = answered {
            self.index(id, index);
        }
        self.by_path.insert(path, id);
        self.unused(id, oldest);
        self.reschedule(id);
        Ok(Accepted { peer: id, response })
    }

    /// Seals one inner packet. See [`Self::seal_batch`].
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn seal(&mut self, now: Instant, id: PeerId, packet: &[u8]) -> Result<(), SealError> {
        self.seal_batch(now, id, &[packet])
    }

    /// Seals inner packets for a peer, in order. Without a session they wait, at most
    /// [`MAX_QUEUED_PACKETS`], and a handshake begins if there is a path for it.
    ///
    /// # Errors
    /// The first thing that was wrong; the packets that could be taken were taken.
    pub fn seal_batch(&mut self, now: Instant, id: PeerId, packets: &[&[u8]]) -> Result<(), SealError> {
        let peer = self.peers.get_mut(&id).ok_or(SealError::UnknownPeer)?;
        let longest = packets.iter().map(|packet| packet.len()).max().unwrap_or_default();
        let outcome = peer.state.direct.data_sent(now, longest);
        self.apply(now, id, outcome);
        let peer = self.peers.get_mut(&id).ok_or(SealError::UnknownPeer)?;
        let mut result = Ok(());
        let mut padded = Vec::with_capacity(packets.len());
        for packet in packets {
            if packet.is_empty() || packet.len() > MAX_INNER_PACKET {
                result = Err(SealError::Length);
                continue;
            }
            if self.outputs.len() + padded.len() >= MAX_PENDING_OUTPUTS {
                result = Err(SealError::Full);
                break;
            }
            let mut packet = packet.to_vec();
            pad(&mut packet);
            padded.push(packet);
        }
        let mut rest = padded.as_slice();
        let mut renew = false;
        if let (Some(path), true) = (peer.state.way(), peer.state.can_seal(now)) {
            let (sealed, due) = seal_on(&self.engine, peer, now, id, path, rest, &mut self.outputs);
            rest = &rest[sealed..];
            renew = due;
        }
        for packet in rest {
            if peer.state.queue.len() >= MAX_QUEUED_PACKETS {
                result = Err(SealError::Full);
                break;
            }
            peer.state.queue.push_back(packet.clone());
        }
        if renew || !peer.state.queue.is_empty() {
            self.begin_handshake(now, id);
        }
        self.reschedule(id);
        result
    }

    /// Says to a peer what addresses inside the tunnel mean. Like any inner packet it may be lost.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn send_bind(&mut self, now: Instant, id: PeerId, message: &BindMessage) -> Result<(), SealError> {
        self.seal(now, id, &message.encode())
    }

    /// Takes one WireGuard message that came by a path. See [`Self::handle_batch`].
    pub fn handle_input(&mut self, now: Instant, path: Path, message: &[u8]) {
        self.handle_batch(now, path, &[message]);
    }

    /// Takes WireGuard messages that came by a path, without the path's header. What is wrong with one is
    /// counted and touches no other.
    pub fn handle_batch(&mut self, now: Instant, path: Path, messages: &[&[u8]]) {
        if let Path::Direct { remote } = path {
            return self.handle_direct(now, remote, messages);
        }
        let Some(id) = self.by_path.get(&path).copied() else {
            self.count(DropReason::UnknownPath, messages.len());
            return;
        };
        let mut run: Vec<(&[u8], LocalIndex)> = Vec::with_capacity(messages.len());
        for message in messages {
            match (message.first(), message.len()) {
                (Some(&DATA), DATA_OVERHEAD..) => {
                    run.push((*message, by_index_at(message, 4)));
                }
                (Some(&INITIATION), WG_INITIATION_LEN) => {
                    self.open_run(now, id, path, &mut run);
                    self.answer_over_path(now, id, path, message);
                }
                (Some(&RESPONSE), WG_RESPONSE_LEN) => {
                    self.open_run(now, id, path, &mut run);
                    self.finish_over_path(now, id, path, message);
                }
                // Nobody here sends cookies: admission happens before the handshake.
                (Some(&COOKIE), _) => self.count(DropReason::Handshake, 1),
                _ => self.count(DropReason::Malformed, 1),
            }
        }
        self.open_run(now, id, path, &mut run);
        self.reschedule(id);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        // Each peer once: one that were due again at once would cost its own processor time, and not everybody's packets.
        let mut due = Vec::new();
        while let Some(first) = self.schedule.first_entry().filter(|first| first.key().0 <= now) {
            due.push(first.remove_entry().0.1);
        }
        for id in due {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.state.scheduled = None;
                self.due(now, id);
                self.reschedule(id);
            }
        }
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        if let Some(Output::Transmit(transmit)) = self.outputs.front() {
            match transmit.path {
                Path::Relay { .. } => self.traffic.relay_sent.add(transmit.bytes.len()),
                Path::Direct { .. } => self.traffic.direct_sent.add(transmit.bytes.len()),
            }
        }
        self.outputs.pop_front().unwrap_or_else(|| {
            Output::Timeout(
                self.schedule.first_key_value().map(|((at, _), reason)| Timeout { at: *at, reason: *reason }),
            )
        })
    }

    /// Takes a path away, because the PoP closed the channel. The peer stays: ours until removed, theirs
    /// for as long as a session lives, so that a roaming client finds its flows again.
    pub fn drop_path(&mut self, now: Instant, path: Path) -> Option<PeerId> {
        let id = self.by_path.remove(&path)?;
        let state = &mut self.peers.get_mut(&id).expect("a path's peer is in the table").state;
        if state.path == Some(path) {
            state.path = None;
            state.pending = None;
            state.relay_unheard = None;
            state.direct.relay_changed();
            if state.origin == Origin::Theirs {
                state.pathless_since = Some(now);
            }
        }
        state.candidates.retain(|candidate| candidate.path != path);
        if state.origin == Origin::Theirs && state.path.is_none() && state.candidates.is_empty() {
            state.pathless_since.get_or_insert(now);
        }
        self.tell_mtu(id);
        self.reschedule(id);
        Some(id)
    }

    /// Forgets a peer and everything that waits for it or came from it. Gives which paths it had, and what was
    /// sealed for it already.
    pub fn remove(&mut self, id: PeerId) -> (Vec<Path>, Vec<Transmit>) {
        let Some(peer) = self.peers.remove(&id) else {
            return (Vec::new(), Vec::new());
        };
        self.by_key.remove(&peer.state.key);
        if let Some(at) = peer.state.scheduled {
            self.schedule.remove(&(at, id));
        }
        let mut sealed = Vec::new();
        let mut others = VecDeque::with_capacity(self.outputs.len());
        for output in self.outputs.drain(..) {
            match output {
                Output::Transmit(transmit) if transmit.peer == id => sealed.push(transmit),
                output if output.peer() == Some(id) => {}
                output => others.push_back(output),
            }
        }
        self.outputs = others;
        for index in &peer.state.indices {
            self.by_index.remove(index);
        }
        if let Some(remote) = peer.state.remote
            && self.by_remote.get(&remote) == Some(&id)
        {
            self.by_remote.remove(&remote);
        }
        let candidates = peer.state.candidates.iter().map(|candidate| candidate.path);
        let paths: Vec<Path> = peer.state.path.into_iter().chain(candidates).collect();
        for path in &paths {
            self.by_path.remove(path);
        }
        (paths, sealed)
    }

    // ---- below: details --------------------------------------------------------------------------

    fn new_peer(&self, key: WireGuardPublicKey) -> Result<E::Peer, TunnelError> {
        if self.peers.len() >= MAX_PEERS {
            return Err(TunnelError::Full);
        }
        Ok(self.engine.new_peer(&key))
    }

    fn insert(&mut self, key: WireGuardPublicKey, peer: Peer<E::Peer>) -> PeerId {
        let id = PeerId(self.next_peer);
        self.next_peer += 1;
        self.by_key.insert(key, id);
        self.peers.insert(id, peer);
        id
    }

    fn path_is_free(&self, path: Path, id: PeerId) -> Result<(), TunnelError> {
        match self.by_path.get(&path) {
            Some(owner) if *owner != id => Err(TunnelError::PathTaken),
            _ => Ok(()),
        }
    }

    fn count(&mut self, reason: DropReason, packets: usize) {
        *self.drops.entry(reason).or_default() += u64::try_from(packets).unwrap_or(u64::MAX);
    }

    /// Opens a run of transport packets as one batch.
    fn open_run(&mut self, now: Instant, id: PeerId, path: Path, run: &mut Vec<(&[u8], LocalIndex)>) {
        if run.is_empty() {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let before = run.len();
        run.retain(|(_, index)| peer.state.opens(now, *index));
        let unknown = before - run.len();
        let packets: Vec<&[u8]> = run.iter().map(|(packet, _)| *packet).collect();
        for packet in &packets {
            match path {
                Path::Relay { .. } => self.traffic.relay_received.add(path.headroom() + packet.len()),
                Path::Direct { .. } => self.traffic.direct_received.add(packet.len()),
            }
        }

        let Peer { noise, state } = peer;
        let (outputs, drops, by_path) = (&mut self.outputs, &mut self.drops, &mut self.by_path);
        let mut count = |reason: DropReason| *drops.entry(reason).or_default() += 1;
        let mut indices = run.iter().map(|(_, index)| *index);
        let mut flush = false;
        let mut renew = false;
        let mut is_proven = false;
        let mut has_data = false;
        let mut said = Vec::new();
        let from = match path {
            Path::Direct { remote } => Some(remote),
            Path::Relay { .. } => None,
        };
        self.engine.open(noise, &packets, &mut |opened| {
            let index = indices.next().expect("an engine reports each packet once");
            let inner = match opened {
                Ok(inner) => inner,
                Err(OpenError::Forged) => return count(DropReason::Forged),
                Err(OpenError::Replayed) => return count(DropReason::Replayed),
                Err(OpenError::NoSession) => return count(DropReason::UnknownSession),
            };
            let change = state.on_authentic(index, path);
            match from {
                Some(from) => state.direct.heard(now, from),
                None => state.relay_heard(),
            }
            is_proven |= change.proven.is_some();
            flush |= change.session_confirmed || change.proven.is_some();
            if let Some(proven) = change.proven {
                state.direct.relay_changed();
                if let Some(old) = proven.replaced {
                    by_path.remove(&old);
                }
                for unused in std::mem::take(&mut state.candidates) {
                    if unused.path != proven.path {
                        by_path.remove(&unused.path);
                        outputs.push_back(Output::Event(Event::Unused { peer: id, path: unused.path }));
                    }
                }
                outputs.push_back(Output::Event(Event::Proven {
                    peer: id,
                    path: proven.path,
                    replaced: proven.replaced,
                }));
            }
            if inner.is_empty() {
                return;
            }
            if PathMessage::is_claimed_by(inner) {
                match PathMessage::parse(inner) {
                    Ok(message) if said.len() < MAX_SAID => said.push(message),
                    Ok(_) => count(DropReason::Full),
                    Err(_) => count(DropReason::Malformed),
                }
                return;
            }
            has_data = true;
            renew |= state.on_data_received(now);
            if BindMessage::is_claimed_by(inner) {
                match BindMessage::parse(inner) {
                    Ok(_) if outputs.len() >= MAX_PENDING_OUTPUTS => count(DropReason::Full),
                    Ok(message) => outputs.push_back(Output::Bind { peer: id, message }),
                    Err(_) => count(DropReason::Malformed),
                }
                return;
            }
            if !trim(inner) {
                return count(DropReason::NotIp);
            }
            if outputs.len() >= MAX_PENDING_OUTPUTS {
                return count(DropReason::Full);
            }
            outputs.push_back(Output::Inner { peer: id, packet: std::mem::take(inner) });
        });
        run.clear();
        if unknown > 0 {
            self.count(DropReason::UnknownSession, unknown);
        }
        if is_proven {
            self.open_direct(now, id);
        }
        for message in said {
            self.said(now, id, from, &message);
        }
        if has_data && let Some(peer) = self.peers.get_mut(&id) {
            let outcome = peer.state.direct.data_received(now, from);
            self.apply(now, id, outcome);
        }
        if flush {
            self.flush(now, id);
        }
        if renew {
            self.begin_handshake(now, id);
        }
    }

    /// A handshake that the peer began over its proven path.
    fn answer_over_path(&mut self, now: Instant, id: PeerId, path: Path, message: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if !peer.state.has_proven(path) {
            return self.count(DropReason::Handshake, 1);
        }
        if now < peer.state.next_initiation {
            return self.count(DropReason::HandshakeTooOften, 1);
        }
        peer.state.next_initiation = now + INITIATION_INTERVAL;
        match self.engine.respond(&mut peer.noise, message) {
            Ok(response) => {
                peer.state.add_session(now, response.index, Side::Responder);
                peer.state.on_sent();
                push_transmit(&mut self.outputs, id, path, &response.bytes);
                self.index(id, response.index);
            }
            Err(TunnelError::Replayed) => self.count(DropReason::Replayed, 1),
            Err(TunnelError::Malformed) => self.count(DropReason::Malformed, 1),
            Err(_) => self.count(DropReason::Forged, 1),
        }
    }

    /// The answer to a handshake of ours over the path.
    fn finish_over_path(&mut self, now: Instant, id: PeerId, path: Path, message: &[u8]) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if !peer.state.has_proven(path) || peer.state.pending.is_none() {
            return self.count(DropReason::Handshake, 1);
        }
        match self.engine.finish(&mut peer.noise, message) {
            Ok(index) => {
                peer.state.add_session(now, index, Side::Initiator);
                self.index(id, index);
                self.flush_or_keepalive(now, id);
            }
            Err(TunnelError::NotAwaited) => self.count(DropReason::Handshake, 1),
            Err(TunnelError::Malformed) => self.count(DropReason::Malformed, 1),
            Err(_) => self.count(DropReason::Forged, 1),
        }
    }

    /// Begins a handshake over the path unless one is under way; without a path the owner must `Open`.
    fn begin_handshake(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.state.pending.is_none() && peer.state.way().is_some() {
            self.initiate(now, id, now, 0);
        }
    }

    /// Handshakes go by the relay, which is always warm; every second one by the address in use, in case the relay
    /// is what has gone.
    fn initiate(&mut self, now: Instant, id: PeerId, first: Instant, tries: u32) {
        let retry_at = now + REKEY_TIMEOUT + self.next_jitter();
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let direct = peer.state.direct.fallback().map(Path::direct);
        let Some(path) =
            (if tries.is_multiple_of(2) { peer.state.path.or(direct) } else { direct.or(peer.state.path) })
        else {
            // Every way has gone since the last try. One may come back; to be due all that time would be a loop.
            if let Some(pending) = &mut peer.state.pending {
                (pending.retry_at, pending.tries) = (retry_at, tries);
            }
            return;
        };
        let initiation = self.engine.initiate(&mut peer.noise);
        peer.state.pending = Some(Pending { first, retry_at, tries, path });
        peer.state.on_sent();
        push_transmit(&mut self.outputs, id, path, &initiation.bytes);
        self.index(id, initiation.index);
    }

    /// Sends what waited for a session.
    fn flush(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let (Some(path), true) = (peer.state.way(), peer.state.can_seal(now)) else {
            return;
        };
        let waiting = Vec::from(std::mem::take(&mut peer.state.queue));
        let (sealed, _) = seal_on(&self.engine, peer, now, id, path, &waiting, &mut self.outputs);
        peer.state.queue.extend(waiting.into_iter().skip(sealed));
    }

    /// After a handshake of ours: the first packet proves our key to the other side, whatever it is.
    fn flush_or_keepalive(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get(&id) else { return };
        if let (true, Some(way)) = (peer.state.queue.is_empty(), peer.state.way()) {
            self.keepalive(now, id, way);
        } else {
            self.flush(now, id);
        }
    }

    fn keepalive(&mut self, now: Instant, id: PeerId, path: Path) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if peer.state.can_seal(now) {
            peer.state.on_sent();
            let outputs = &mut self.outputs;
            self.engine.seal(&mut peer.noise, &[&[]], &mut |sealed| push_transmit(outputs, id, path, sealed));
        }
    }

    fn due(&mut self, now: Instant, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let state = &mut peer.state;
        let late: Vec<Path> = state
            .candidates
            .extract_if(.., |candidate| now >= candidate.since + UNPROVEN_LIFETIME)
            .map(|candidate| candidate.path)
            .collect();
        if state.candidates.is_empty() {
            state.answered = None;
        }
        let never_proven = state.path.is_none() && state.pathless_since.is_none();
        if state.pathless_since.is_some() && state.direct.fallback().is_some() {
            // Its relay went and its address did not: it is still here.
            state.pathless_since = Some(now);
        }
        let gave_up = state.pathless_since.is_some_and(|since| now >= since + PATHLESS_LIFETIME);
        let is_over =
            state.origin == Origin::Theirs && state.candidates.is_empty() && (never_proven || gave_up);
        self.unused(id, late);
        if is_over {
            return self.remove_theirs(id);
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        let state = &mut peer.state;
        state.expire_sessions(now);
        if let Some(pending) = state.pending.filter(|pending| now >= pending.retry_at) {
            if now >= pending.first + REKEY_ATTEMPT_TIME {
                state.pending = None;
                let lost = std::mem::take(&mut state.queue).len();
                self.count(DropReason::GaveUp, lost);
                self.outputs.push_back(Output::Event(Event::GaveUp { peer: id }));
            } else {
                if matches!(pending.path, Path::Relay { .. }) {
                    self.outputs.push_back(Output::Event(Event::Unanswered { peer: id }));
                }
                self.initiate(now, id, pending.first, pending.tries + 1);
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        if let Some(path) = peer.state.take_quiet(now) {
            self.outputs.push_back(Output::Event(Event::Quiet { peer: id, path }));
        }
        let way = peer.state.way();
        if peer.state.take_silence(now) {
            self.begin_handshake(now, id);
        } else if let (true, Some(way)) = (peer.state.take_keepalive(now), way) {
            self.keepalive(now, id, way);
        }
        self.direct_due(now, id);
    }

    /// Gives up paths that were never proven.
    fn unused(&mut self, id: PeerId, paths: impl IntoIterator<Item = Path>) {
        for path in paths {
            self.by_path.remove(&path);
            self.outputs.push_back(Output::Event(Event::Unused { peer: id, path }));
        }
    }

    fn remove_theirs(&mut self, id: PeerId) {
        if let Some(key) = self.peers.get(&id).map(|peer| peer.state.key) {
            self.remove(id);
            self.outputs.push_back(Output::Event(Event::Removed { peer: id, key }));
        }
    }

    /// Keeps one entry a peer. A deadline that moved away stays until it fires and is looked at again, so
    /// that a packet does not cost a change of the schedule.
    fn reschedule(&mut self, id: PeerId) {
        let Some(state) = self.peers.get_mut(&id).map(|peer| &mut peer.state) else {
            return;
        };
        let Some((at, reason)) = state.deadline() else {
            return;
        };
        match state.scheduled {
            Some(scheduled) if scheduled <= at => return,
            Some(scheduled) => {
                self.schedule.remove(&(scheduled, id));
            }
            None => {}
        }
        state.scheduled = Some(at);
        self.schedule.insert((at, id), reason);
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): spread for retries, not for secrets.
    fn next_jitter(&mut self) -> Duration {
        self.jitter = self.jitter.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.jitter;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        Duration::from_nanos(z % u64::try_from(MAX_JITTER.as_nanos()).expect("a third of a second fits"))
    }
}

/// Seals padded packets on a path. Says how many, and whether the session is to be renewed.
fn seal_on<E: Engine>(
    engine: &E,
    peer: &mut Peer<E::Peer>,
    now: Instant,
    id: PeerId,
    path: Path,
    packets: &[Vec<u8>],
    outputs: &mut VecDeque<Output>,
) -> (usize, bool) {
    if packets.is_empty() {
        return (0, false);
    }
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let sealed =
        engine.seal(&mut peer.noise, &packets, &mut |sealed| push_transmit(outputs, id, path, sealed));
    let renew = sealed > 0 && peer.state.on_data_sent(now);
    if sealed > 0 && matches!(path, Path::Relay { .. }) {
        peer.state.on_relayed(now);
    }
    (sealed, renew)
}

/// The receiver index of a message, little-endian (white paper, section 5.4). The caller has checked the length.
fn by_index_at(message: &[u8], at: usize) -> LocalIndex {
    LocalIndex(u32::from_le_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]))
}

fn push_transmit(outputs: &mut VecDeque<Output>, peer: PeerId, path: Path, wireguard: &[u8]) {
    outputs.push_back(Output::Transmit(Transmit { peer, path, bytes: path.frame(wireguard) }));
}
