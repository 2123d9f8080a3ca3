//! The relay: WireGuard packets between two proven addresses.
//!
//! A channel has two sides. Each side knows the channel by an id of its own, told to it alone
//! inside its session, and the relay forwards a frame when it comes from the address that side has
//! proven. Everything else is counted and charges nobody.
//!
//! **Moving a side.** A frame with a valid id from an unknown address makes the relay ask both
//! addresses: the new one, and the old one. Only an answer with the session's secret counts. While
//! the old address still answers, nothing moves: somebody on the path who captures frames and
//! sends them from elsewhere can forward our challenge too, but cannot make the true owner fall
//! silent (the same reasoning as RFC 9000 section 9.3.3). Once the old address has been silent for
//! [`OLD_ADDRESS_WINDOW`] and the new one has answered, the side moves.
//!
//! **An agent that registered anew** has shown who it is, at its new address, in a handshake whose token is good for that
//! address alone: no captured frame does that. Its sides move with their answer, and the window runs after it: an old
//! address that answers in it takes the side back.
//!
//! **No amplification.** An address that has proven nothing gets a challenge only when the frames
//! it sent are at least as long as the challenge.

mod channel;
mod counters;
mod proof;
#[cfg(test)]
mod tests;

pub use channel::{ChannelSpec, OwnerId, SideSpec};
pub use counters::{DropReason, RelayCounters};
pub use proof::{ChallengeFrame, answer_of};

use crate::core::{
    bucket::{Allowance, Bucket},
    random::{Random, Seed},
};
use channel::{Cause, Channel, Probe, Trial, Which};
use proof::{CHALLENGE_FRAME_LEN, ProofError, ProofKey};
use slab::Slab;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{ChannelId, Refusal, RelayKind};

/// How long the old address may stay silent before a side moves to a new one that has answered.
/// One second is the round trip of a geostationary path with room to spare; the price is that a
/// roaming agent hears the relay again after this time (the pass level is 5 s).
pub const OLD_ADDRESS_WINDOW: Duration = Duration::from_secs(1);
/// How often the old address is asked in that time: with 30 % loss on the way (the failure model),
/// four questions all stay unanswered in 0.51⁴ = 7 % of the cases, and then the next frame asks again.
const TRIAL_INTERVAL: Duration = Duration::from_millis(250);
/// Least time between two rounds of challenges of one side: bounds what a flood of captured frames
/// makes us send to 2 × 28 bytes per 200 ms and side, and once more for each question to an agent that moved.
pub const CHALLENGE_INTERVAL: Duration = Duration::from_millis(200);
/// How long a channel may carry nothing before it is taken back. WireGuard forgets a session after
/// 180 s (white paper section 6.1), so nothing that still lives is lost.
pub const IDLE_AFTER: Duration = Duration::from_secs(600);
/// Most channels of a relay. The arithmetic is at [`WORST_CASE_MEMORY`].
pub const MAX_CHANNELS: usize = 65_536;

/// How often a side is asked when its agent came back with a new session, and how far apart.
const PROBE_ATTEMPTS: u8 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(400);
/// A connector that comes back may own thousands of channels: 32 challenges per 5 ms keep below
/// the 212,992 bytes of a default Linux receive buffer (about 270 small datagrams).
const PROBE_BATCH: u32 = 32;
/// So long a proof on one channel of an agent counts for a new one.
const PROOF_IS_FRESH: Duration = Duration::from_secs(5);
const PROBE_BATCH_INTERVAL: Duration = Duration::from_millis(5);
/// Frames that wait to be sent at once; more are dropped and asked again later.
const MAX_QUEUED_FRAMES: usize = 1024;

/// Upper bound of a relay's tables: each channel, twice its index entry, and its at most five
/// deadlines; B-trees are at worst half full.
pub const WORST_CASE_MEMORY: usize = MAX_CHANNELS
    * (size_of::<Channel>() + 2 * 2 * size_of::<(ChannelId, Position)>() + 5 * 2 * size_of::<Deadline>());
const _: () = assert!(WORST_CASE_MEMORY <= 80 * 1024 * 1024, "the relay's tables stay below 80 MiB");

/// Where a channel id leads.
type Position = (usize, Which);
/// When to look at something. A type of its own would only repeat these names.
type Deadline = (Instant, Due, usize, Which);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Trial,
    Probe,
    Idle,
}

impl Due {
    const fn reason(self) -> &'static str {
        match self {
            Self::Trial => "relay: the old address had its time to answer",
            Self::Probe => "relay: ask a side whose agent came back",
            Self::Idle => "relay: a channel may be idle",
        }
    }
}

/// What the relay allows. The PoP's slice may lower these later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Most channels, at most [`MAX_CHANNELS`].
    pub channels: usize,
    /// Bytes each agent may have forwarded.
    pub bytes: Allowance,
}

impl Default for RelayLimits {
    fn default() -> Self {
        // 2 Gbit/s an agent: a third of what one core of the reference machine relays
        // (performance.md, "Relay", 6.1 Gbit/s), so that one agent never takes a relay thread.
        Self { channels: MAX_CHANNELS, bytes: Allowance { per_second: 250_000_000, burst: 64 << 20 } }
    }
}

/// What the session core tells the relay.
#[derive(Debug, Clone)]
pub enum RelayCommand {
    /// A connector accepted an introduction.
    Install(Box<ChannelSpec>),
    /// Somebody gives a channel back. Ignored when `owner` does not own the side called `channel`.
    Close {
        /// The owner's own id of the channel.
        channel: ChannelId,
        /// Who asks.
        owner: OwnerId,
        /// Told to the other side.
        reason: Refusal,
    },
    /// All channels of an agent end.
    CloseOwner {
        /// Whose.
        owner: OwnerId,
        /// Told to the other sides.
        reason: Refusal,
    },
    /// The agent's session moved to another address: ask its sides there.
    AddressChanged {
        /// Whose session.
        owner: OwnerId,
        /// Where the session is now.
        address: SocketAddr,
    },
    /// The agent has a new session, and may be a new process that knows nothing of its channels:
    /// sides that answer nowhere are closed.
    Reattached {
        /// Whose session.
        owner: OwnerId,
        /// Where it is, by its handshake.
        address: SocketAddr,
    },
    /// The agent has no session any more, and may be gone: sides that answer nowhere are closed.
    Detached {
        /// Whose session.
        owner: OwnerId,
        /// Where it was.
        address: SocketAddr,
    },
}

/// What the relay tells the session core: each installed channel ends with exactly one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelEnded {
    /// Both sides: who, and by which id it knew the channel.
    pub sides: [(OwnerId, ChannelId); 2],
    /// Why.
    pub reason: Refusal,
    /// Bytes forwarded, both ways.
    pub bytes: u64,
}

/// What became of one datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handled {
    /// Its channel id was replaced: send it on to this address.
    Forward(SocketAddr),
    /// It was for the relay itself.
    Consumed,
    /// Counted by reason.
    Dropped(DropReason),
}

/// What the relay wants from its shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayOutput {
    /// Send this frame.
    Transmit {
        /// Where to.
        to: SocketAddr,
        /// What.
        frame: ChallengeFrame,
    },
    /// Tell the session core.
    Ended(ChannelEnded),
    /// Tell the session core: an agent holds the secret of a channel and receives at this address, and where it was before
    /// nobody has answered for as long as that takes.
    Proven {
        /// Which agent.
        owner: OwnerId,
        /// Where it is.
        address: SocketAddr,
    },
    /// Nothing more until then, or until input.
    Timeout {
        /// When to call `handle_timeout`; `None` is never.
        at: Option<Instant>,
        /// Why.
        reason: &'static str,
    },
}

#[derive(Debug)]
struct Owner {
    id: OwnerId,
    budget: Bucket,
    sides: BTreeSet<Position>,
    proof: Option<Proof>,
}

/// Where one side of an agent was last shown to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Proof {
    address: SocketAddr,
    at: Instant,
    /// The address before has until then to object.
    trial_until: Option<Instant>,
}

/// The relay core.
#[derive(Debug)]
pub struct Relay {
    limits: RelayLimits,
    proof: ProofKey,
    channels: Slab<Channel>,
    ids: BTreeMap<ChannelId, Position>,
    owners: Slab<Owner>,
    owner_ids: BTreeMap<OwnerId, usize>,
    deadlines: BTreeSet<Deadline>,
    frames: VecDeque<(SocketAddr, ChallengeFrame)>,
    ended: VecDeque<ChannelEnded>,
    proven: VecDeque<(OwnerId, SocketAddr)>,
    counters: RelayCounters,
}

impl Relay {
    /// An empty relay.
    #[must_use]
    pub fn new(limits: RelayLimits, now: Instant, seed: &Seed) -> Self {
        let mut random = Random::new(seed, "relay");
        Self {
            limits: RelayLimits { channels: limits.channels.min(MAX_CHANNELS), ..limits },
            proof: ProofKey::new(&mut random, now),
            channels: Slab::new(),
            ids: BTreeMap::new(),
            owners: Slab::new(),
            owner_ids: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            frames: VecDeque::new(),
            ended: VecDeque::new(),
            proven: VecDeque::new(),
            counters: RelayCounters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> RelayCounters {
        RelayCounters { channels: self.channels.len(), ..self.counters }
    }

    /// Takes one datagram whose first byte is in the relay range. A frame to forward is changed in
    /// place; nothing is allocated on that path.
    pub fn handle_input(&mut self, now: Instant, source: SocketAddr, datagram: &mut [u8]) -> Handled {
        let handled = self.route(now, source, datagram).unwrap_or_else(Handled::Dropped);
        match handled {
            Handled::Forward(to) => {
                self.counters.forwarded_frames += 1;
                self.counters.forwarded_bytes += datagram.len() as u64;
                if wire::is_stream_address(to) {
                    self.counters.stream_frames += 1;
                    self.counters.stream_bytes += datagram.len() as u64;
                }
            }
            Handled::Consumed => {}
            Handled::Dropped(reason) => self.counters.dropped.add(reason),
        }
        handled
    }

    fn route(
        &mut self,
        now: Instant,
        source: SocketAddr,
        datagram: &mut [u8],
    ) -> Result<Handled, DropReason> {
        let frame = wire::parse_relay(datagram)?;
        let position = *self.ids.get(&frame.channel).ok_or(DropReason::UnknownChannel)?;
        let (index, which) = position;
        let channel = self.channels.get_mut(index).ok_or(DropReason::UnknownChannel)?;
        match frame.kind {
            // The planted bug of the simulation: a frame is believed where it says it comes from.
            RelayKind::Data | RelayKind::Hello
                if planted::is("unvalidated-relay-move") && channel.side(which).address != source =>
            {
                channel.side_mut(which).move_to(source);
                Ok(Handled::Consumed)
            }
            RelayKind::Data | RelayKind::Hello if !channel.side(which).may_send_from(source) => {
                self.ask_newcomer(now, position, source, datagram.len());
                Err(DropReason::UnprovenSource)
            }
            RelayKind::Data => {
                let [own, other] = channel.sides_mut(which);
                let owner = self.owners.get_mut(own.owner).ok_or(DropReason::UnknownChannel)?;
                let length = datagram.len() as u64;
                if owner.budget.take(self.limits.bytes, now, length).is_err() {
                    return Err(DropReason::Budget);
                }
                let (to, id) = (other.address, other.id);
                channel.last_used = now;
                channel.bytes = channel.bytes.saturating_add(length);
                wire::rewrite_channel(datagram, id);
                Ok(Handled::Forward(to))
            }
            RelayKind::Hello => {
                channel.last_used = now;
                Ok(Handled::Consumed)
            }
            RelayKind::Answer => {
                let side = channel.side(which);
                self.proof.check(now, side.id, source, &side.secret, frame.body)?;
                self.answered(now, position, source)
            }
            // Only a PoP asks.
            RelayKind::Challenge => Err(DropReason::ChallengeFromAgent),
        }
    }

    /// A frame with a valid id came from an address that this side has not proven.
    fn ask_newcomer(&mut self, now: Instant, (index, which): Position, source: SocketAddr, received: usize) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let side = channel.side_mut(which);
        // A question that was sent there before may have come before it knew the channel.
        let credit = side.credit(source, received);
        let is_due = !side.asked_within(now, CHALLENGE_INTERVAL);
        if credit < CHALLENGE_FRAME_LEN || !is_due && !side.is_first_from_where_awaited(source) {
            return;
        }
        // Counted before the queue is asked for room: a full queue must not give credit back.
        side.spend_credit(CHALLENGE_FRAME_LEN);
        side.asked_at = Some(now);
        let (id, old) = (side.id, side.address);
        self.challenge(now, id, source);
        self.challenge(now, id, old);
    }

    fn challenge(&mut self, now: Instant, id: ChannelId, to: SocketAddr) {
        if self.frames.len() >= MAX_QUEUED_FRAMES {
            self.counters.challenges_not_queued += 1;
            return;
        }
        self.counters.challenges += 1;
        self.frames.push_back((to, self.proof.challenge(now, id, to)));
    }

    /// A side proved that it holds its secret and receives at `source`.
    fn answered(
        &mut self,
        now: Instant,
        (index, which): Position,
        source: SocketAddr,
    ) -> Result<Handled, DropReason> {
        let channel = self.channels.get_mut(index).ok_or(DropReason::UnknownChannel)?;
        channel.last_used = now;
        let side = channel.side_mut(which);
        let mut has_registered = false;
        if let Some(probe) = side.probe.take() {
            self.deadlines.remove(&(probe.at, Due::Probe, index, which));
            has_registered = probe.cause == Cause::Registered && probe.address == source;
        }
        if let Some(trial) = side.trial.take_if(|trial| trial.old == source) {
            self.deadlines.remove(&(trial.at, Due::Trial, index, which));
            self.counters.moves_refused += 1;
            if let Some(owner) = self.owners.get_mut(side.owner) {
                owner.proof = None;
            }
            if side.address != source {
                side.move_to(source);
                self.counters.moves_undone += 1;
            }
        }
        if source == side.address {
            side.old_alive_at = Some(now);
            return Ok(Handled::Consumed);
        }
        let alive =
            side.old_alive_at.is_some_and(|at| now.saturating_duration_since(at) < OLD_ADDRESS_WINDOW);
        if alive {
            self.counters.moves_refused += 1;
            return Err(DropReason::OldAddressLives);
        }
        if side.trial.is_some() {
            // One candidate at a time; the first that answered has it.
            return Ok(Handled::Consumed);
        }
        let old = side.address;
        if has_registered {
            side.move_to(source);
            self.counters.moves += 1;
        }
        // The time runs from here, and the old address is asked all through it: one lost challenge
        // must not look like silence.
        let until = now + OLD_ADDRESS_WINDOW;
        side.trial = Some(Trial { candidate: source, old, at: now, until });
        if let Some(owner) = self.owners.get_mut(side.owner) {
            owner.proof = Some(Proof { address: source, at: now, trial_until: Some(until) });
        }
        self.deadlines.insert((now, Due::Trial, index, which));
        Ok(Handled::Consumed)
    }

    /// Takes one command of the session core.
    pub fn handle_command(&mut self, now: Instant, command: RelayCommand) {
        match command {
            RelayCommand::Install(spec) => self.install(now, &spec),
            RelayCommand::Close { channel, owner, reason } => {
                let Some(&(index, which)) = self.ids.get(&channel) else { return };
                let owns = self
                    .channels
                    .get(index)
                    .and_then(|channel| self.owners.get(channel.side(which).owner))
                    .is_some_and(|found| found.id == owner || planted::is("anybody-closes-channels"));
                if owns {
                    self.close(index, reason);
                }
            }
            RelayCommand::CloseOwner { owner, reason } => {
                for (index, _) in self.sides_of(owner) {
                    self.close(index, reason);
                }
            }
            RelayCommand::AddressChanged { owner, address } => {
                self.probe_owner(now, owner, address, Cause::Moved);
            }
            RelayCommand::Reattached { owner, address } => {
                self.probe_owner(now, owner, address, Cause::Registered);
            }
            RelayCommand::Detached { owner, address } => {
                self.probe_owner(now, owner, address, Cause::Lost);
            }
        }
    }

    fn sides_of(&self, owner: OwnerId) -> Vec<Position> {
        let owner = self.owner_ids.get(&owner).and_then(|index| self.owners.get(*index));
        owner.map(|owner| owner.sides.iter().copied().collect()).unwrap_or_default()
    }

    fn install(&mut self, now: Instant, spec: &ChannelSpec) {
        let [a, b] = &spec.sides;
        let full = self.channels.len() >= self.limits.channels;
        if full || a.id == b.id || self.ids.contains_key(&a.id) || self.ids.contains_key(&b.id) {
            let sides = [(a.owner, a.id), (b.owner, b.id)];
            self.ended.push_back(ChannelEnded { sides, reason: Refusal::Full, bytes: 0 });
            return;
        }
        let owners = [self.owner_index(now, a.owner), self.owner_index(now, b.owner)];
        let channel = Channel::new(now, spec, owners);
        let index = self.channels.insert(channel);
        for (which, side) in [(Which::A, a), (Which::B, b)] {
            self.ids.insert(side.id, (index, which));
        }
        for (which, owner) in [(Which::A, owners[0]), (Which::B, owners[1])] {
            if let Some(owner) = self.owners.get_mut(owner) {
                owner.sides.insert((index, which));
            }
        }
        self.deadlines.insert((now + IDLE_AFTER, Due::Idle, index, Which::A));
        for (which, side) in [(Which::A, a), (Which::B, b)] {
            if let Some(moved) = side.moved.filter(|moved| *moved != side.address) {
                self.begin_elsewhere(now, (index, which), moved);
            }
        }
    }

    /// A new side of an agent whose session has just moved. Where another of its channels has just proven the new address, this
    /// one is there too, on the same trial; otherwise it is asked.
    fn begin_elsewhere(&mut self, now: Instant, position: Position, moved: SocketAddr) {
        let (index, which) = position;
        let Some(side) = self.channels.get_mut(index).map(|channel| channel.side_mut(which)) else { return };
        let proof = self.owners.get(side.owner).and_then(|owner| owner.proof);
        let fresh = proof.filter(|proof| {
            let is_fresh = now.saturating_duration_since(proof.at) < PROOF_IS_FRESH;
            proof.address == moved && (is_fresh || planted::is("a-proof-is-for-ever"))
        });
        match fresh {
            Some(Proof { trial_until: None, .. }) => side.move_to(moved),
            Some(Proof { trial_until: Some(until), .. }) => {
                // Never so short that the old address cannot object.
                let until = until.max(now + TRIAL_INTERVAL * 2);
                side.trial = Some(Trial { candidate: moved, old: side.address, at: now, until });
                self.deadlines.insert((now, Due::Trial, index, which));
            }
            None => self.probe_side(now, position, moved, Cause::Moved),
        }
    }

    fn owner_index(&mut self, now: Instant, id: OwnerId) -> usize {
        if let Some(index) = self.owner_ids.get(&id) {
            return *index;
        }
        let owner =
            Owner { id, budget: Bucket::full(self.limits.bytes, now), sides: BTreeSet::new(), proof: None };
        let index = self.owners.insert(owner);
        self.owner_ids.insert(id, index);
        index
    }

    fn close(&mut self, index: usize, reason: Refusal) {
        let Some(channel) = self.channels.try_remove(index) else { return };
        self.deadlines.remove(&(channel.idle_at, Due::Idle, index, Which::A));
        let mut sides = [(OwnerId::NOBODY, ChannelId::from_random(0)); 2];
        for (out, which) in sides.iter_mut().zip([Which::A, Which::B]) {
            let side = channel.side(which);
            self.ids.remove(&side.id);
            if let Some(trial) = &side.trial {
                self.deadlines.remove(&(trial.at, Due::Trial, index, which));
            }
            if let Some(probe) = &side.probe {
                self.deadlines.remove(&(probe.at, Due::Probe, index, which));
            }
            let Some(owner) = self.owners.get_mut(side.owner) else { continue };
            *out = (owner.id, side.id);
            owner.sides.remove(&(index, which));
        }
        // Looked at after both sides: an agent may own both.
        for which in [Which::A, Which::B] {
            let owner = channel.side(which).owner;
            if self.owners.get(owner).is_some_and(|owner| owner.sides.is_empty()) {
                let gone = self.owners.remove(owner);
                self.owner_ids.remove(&gone.id);
            }
        }
        self.ended.push_back(ChannelEnded { sides, reason, bytes: channel.bytes });
    }

    fn probe_owner(&mut self, now: Instant, owner: OwnerId, address: SocketAddr, cause: Cause) {
        let mut at = now;
        for (position, (index, which)) in (0_u32..).zip(self.sides_of(owner)) {
            if position > 0 && position % PROBE_BATCH == 0 {
                at += PROBE_BATCH_INTERVAL;
            }
            self.probe_side(at, (index, which), address, cause);
        }
    }

    fn probe_side(&mut self, at: Instant, (index, which): Position, address: SocketAddr, cause: Cause) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let side = channel.side_mut(which);
        if cause == Cause::Moved && side.address == address {
            return;
        }
        let cause = match side.probe.take() {
            Some(old) => {
                self.deadlines.remove(&(old.at, Due::Probe, index, which));
                old.cause.followed_by(cause)
            }
            None => cause,
        };
        side.probe = Some(Probe { address, attempts: 0, at, cause, was_heard: false });
        self.deadlines.insert((at, Due::Probe, index, which));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&deadline) = self.deadlines.first() {
            let (at, due, index, which) = deadline;
            if at > now {
                break;
            }
            self.deadlines.remove(&deadline);
            match due {
                Due::Trial => self.settle_trial(now, index, which),
                Due::Probe => self.probe(now, index, which),
                Due::Idle => self.check_idle(now, index),
            }
        }
    }

    fn settle_trial(&mut self, now: Instant, index: usize, which: Which) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let side = channel.side_mut(which);
        let Some(trial) = side.trial.as_mut() else { return };
        if trial.until <= now {
            let candidate = trial.candidate;
            side.trial = None;
            if side.address != candidate {
                side.move_to(candidate);
                self.counters.moves += 1;
            }
            if let Some(owner) = self.owners.get_mut(side.owner) {
                let is_news =
                    owner.proof.is_none_or(|proof| proof.address != candidate || proof.trial_until.is_some());
                owner.proof = Some(Proof { address: candidate, at: now, trial_until: None });
                if is_news {
                    self.proven.push_back((owner.id, candidate));
                }
            }
            return;
        }
        trial.at = (now + TRIAL_INTERVAL).min(trial.until);
        let (at, old, id) = (trial.at, trial.old, side.id);
        self.deadlines.insert((at, Due::Trial, index, which));
        self.challenge(now, id, old);
    }

    fn probe(&mut self, now: Instant, index: usize, which: Which) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let side = channel.side_mut(which);
        let Some(probe) = side.probe.as_mut() else { return };
        if probe.attempts == PROBE_ATTEMPTS {
            let closes = probe.cause.closes();
            side.probe = None;
            if closes {
                self.close(index, Refusal::SessionLost);
            }
            return;
        }
        probe.attempts += 1;
        probe.at = now + PROBE_INTERVAL;
        let (at, address) = (probe.at, probe.address);
        side.asked_at = Some(now);
        let (id, old) = (side.id, side.address);
        self.deadlines.insert((at, Due::Probe, index, which));
        self.challenge(now, id, old);
        if address != old {
            self.challenge(now, id, address);
        }
    }

    fn check_idle(&mut self, now: Instant, index: usize) {
        let Some(channel) = self.channels.get_mut(index) else { return };
        let at = channel.last_used + IDLE_AFTER;
        if at <= now {
            self.close(index, Refusal::Timeout);
        } else {
            channel.idle_at = at;
            self.deadlines.insert((at, Due::Idle, index, Which::A));
        }
    }

    /// What to do next; call until it gives a timeout.
    pub fn poll_output(&mut self) -> RelayOutput {
        if let Some((to, frame)) = self.frames.pop_front() {
            return RelayOutput::Transmit { to, frame };
        }
        if let Some(ended) = self.ended.pop_front() {
            return RelayOutput::Ended(ended);
        }
        if let Some((owner, address)) = self.proven.pop_front() {
            return RelayOutput::Proven { owner, address };
        }
        match self.deadlines.first() {
            Some((at, due, ..)) => RelayOutput::Timeout { at: Some(*at), reason: due.reason() },
            None => RelayOutput::Timeout { at: None, reason: "relay: no channels" },
        }
    }
}

impl From<ProofError> for DropReason {
    fn from(error: ProofError) -> Self {
        match error {
            ProofError::NotOurToken => Self::NotOurToken,
            ProofError::WrongSecret => Self::WrongSecret,
        }
    }
}

#[cfg(test)]
impl Relay {
    fn side_of(&self, id: ChannelId) -> &channel::Side {
        let (index, which) = self.ids[&id];
        self.channels[index].side(which)
    }
}
