//! One client of a fleet: its disk in memory, its socket, and what it is up to.

use crate::errand::{Errand, Step};
use agent::{Persisted, PopPhaseWord, StoredState};
use client::{
    Target,
    core::{ClientNode, NodeOutput, NodeParts},
};
use mio::{Interest, Registry, Token, net::UdpSocket};
use session::LostReason;
use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use trust::UnixMs;
use tunnel::WireGuardPrivateKey;

/// Datagrams read before others get their turn.
const RECEIVE_BATCH: usize = 64;
const LARGEST_DATAGRAM: usize = 2048;
/// A visit that takes longer has failed.
pub(crate) const VISIT_DEADLINE: Duration = Duration::from_secs(10);
/// What a broken member waits between two looks at its clock when nothing else is due.
const FOREVER: Duration = Duration::from_secs(3600);

pub(crate) fn wall() -> UnixMs {
    UnixMs::from_millis(net::clock::wall_millis())
}

/// What a member shall do.
#[derive(Debug)]
pub(crate) enum Task {
    Off,
    Hold,
    Flow { errand: Errand, period: Duration, next: Instant },
    Visit { errand: Errand, asked: Instant, registered_ms: Option<u32> },
    Surge { errand: Errand, period: Duration, next: Instant },
}

/// What happened to a member; the fleet counts.
#[derive(Debug)]
pub(crate) enum Seen {
    Registered,
    Lost(&'static str),
    Opened,
    Answered(Duration),
    RelayedAnswered(Duration),
    Cut,
    Roamed,
    RoamAnswered(Duration),
    RoamCut,
    VisitEnded { registered_ms: Option<u32>, first_byte_ms: Option<u32>, failed: Option<String> },
    Surged,
    SurgeRegistered,
    Renewed,
    NotSent,
}

struct Life {
    node: ClientNode,
    socket: UdpSocket,
    is_up: bool,
    grant: Option<String>,
    node_due: Instant,
}

/// See the module.
pub(crate) struct Member {
    token: Token,
    source: Ipv4Addr,
    seed: [u8; 32],
    stored: StoredState,
    lives: u64,
    life: Option<Life>,
    pub(crate) task: Task,
    /// When the fleet is to call [`Self::handle_timeout`]; earlier entries of its queue are void.
    pub(crate) due: Option<Instant>,
    /// Counts of lives that have ended.
    past: (u64, u64, u64),
    /// How often it changed its network.
    moves: u32,
    /// Since then its running connection has not been answered.
    moved_at: Option<Instant>,
    /// Its network lets nothing through but what goes to PoPs and comes from them.
    only_pops: bool,
    /// Where they are. PoPs of a drill have literal addresses.
    pops: BTreeSet<SocketAddr>,
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

impl Member {
    pub(crate) fn new(token: Token, source: Ipv4Addr, seed: [u8; 32], stored: StoredState) -> Self {
        Self {
            token,
            source,
            seed,
            stored,
            lives: 0,
            life: None,
            task: Task::Off,
            due: None,
            past: (0, 0, 0),
            moves: 0,
            moved_at: None,
            only_pops: false,
            pops: BTreeSet::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.is_up)
    }

    pub(crate) const fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// Sessions dialled, control requests, and control requests sent again, since the beginning.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let now = self.life.as_ref().map(|life| life.node.agent().stats()).unwrap_or_default();
        (self.past.0 + now.dials, self.past.1 + now.requests, self.past.2 + now.retries)
    }

    /// Starts the client from its disk.
    pub(crate) fn start(&mut self, now: Instant, registry: &Registry) -> io::Result<()> {
        self.end(now, Goodbye::None);
        let mut socket = UdpSocket::bind(SocketAddr::from((self.source, 0)))?;
        registry.register(&mut socket, self.token, Interest::READABLE)?;
        self.lives += 1;
        let derive = |label: &[u8]| trust::sha256(&[label, &self.seed, &self.lives.to_be_bytes()]);
        let parts = NodeParts {
            state: self.stored.clone(),
            wireguard_key: WireGuardPrivateKey::from_bytes(derive(b"load/wireguard")),
            seed: derive(b"load/seed"),
        };
        let node = ClientNode::new(parts, now, wall()).map_err(io::Error::other)?;
        let grant = self.stored.grant.clone();
        self.life = Some(Life { node, socket, is_up: false, grant, node_due: now });
        Ok(())
    }

    /// Ends the client.
    pub(crate) fn end(&mut self, now: Instant, goodbye: Goodbye) {
        self.past = self.counts();
        let Some(mut life) = self.life.take() else { return };
        if goodbye == Goodbye::Said {
            life.node.shutdown(now);
            loop {
                match life.node.poll_output(now) {
                    NodeOutput::Transmit { to, payload } => drop(life.socket.send_to(&payload, to)),
                    NodeOutput::Persist { what, bytes } => self.persist(what, bytes),
                    NodeOutput::Timeout(_) => break,
                    _ => {}
                }
            }
        }
    }

    /// It is in another network: its socket has another address, and whatever comes to the old one is lost. Its
    /// machine tells it so, as a real one's does.
    pub(crate) fn roam(&mut self, now: Instant, registry: &Registry, seen: &mut Vec<Seen>) {
        let Some(life) = &mut self.life else { return };
        self.moves += 1;
        // Two networks by turns, each with other members' addresses far away.
        let shift = if self.moves % 2 == 1 { 0x0040_0000 } else { 0 };
        let source = Ipv4Addr::from(u32::from(self.source) + shift);
        let moved = UdpSocket::bind(SocketAddr::from((source, 0))).and_then(|mut socket| {
            registry.register(&mut socket, self.token, Interest::READABLE)?;
            Ok(socket)
        });
        let Ok(socket) = moved else {
            seen.push(Seen::NotSent);
            return;
        };
        life.socket = socket;
        life.node.network_changed(now);
        life.node_due = now;
        if self.has_open_flow() {
            self.moved_at = Some(now);
            seen.push(Seen::Roamed);
        }
    }

    /// From now on its network lets nothing through but what goes to PoPs that it knows of now, and comes from them.
    pub(crate) fn let_only_pops_through(&mut self) {
        let known = self.life.iter().flat_map(|life| life.node.agent().pop_names());
        self.pops = known.filter_map(|name| name.parse().ok()).collect();
        self.only_pops = true;
    }

    /// Its machine says that the network changed, and it has not. Whoever knows already that its PoP is gone waits for its
    /// part of the window, as it would.
    pub(crate) fn notice(&mut self, now: Instant) {
        if let Some(life) = self.life.as_mut().filter(|life| life.is_up) {
            life.node.network_changed(now);
            life.node_due = now;
        }
    }

    pub(crate) fn set_wall(&mut self, now: Instant, wall: UnixMs) {
        if let Some(life) = &mut self.life {
            life.node.set_wall(now, wall);
        }
    }

    /// Reads what came, a batch at most; says whether there may be more.
    pub(crate) fn receive(&mut self, now: Instant, scratch: &mut [u8]) -> bool {
        let Some(life) = &mut self.life else { return false };
        for _ in 0..RECEIVE_BATCH {
            match life.socket.recv_from(&mut scratch[..LARGEST_DATAGRAM]) {
                Ok((count, from)) => {
                    if self.only_pops && !self.pops.contains(&from) {
                        continue;
                    }
                    let datagram = scratch.get(..count).unwrap_or_default();
                    life.node.handle_input(now, std::iter::once((from, datagram)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // A port that refuses is told by the next call; the client's own timers judge.
                Err(_) => {}
            }
        }
        true
    }

    /// Does what is due, then everything that follows.
    pub(crate) fn handle_timeout(
        &mut self,
        now: Instant,
        registry: &Registry,
        target: &Target,
        seen: &mut Vec<Seen>,
    ) {
        if let Task::Surge { errand, period, next } = &mut self.task
            && *next <= now
        {
            *next += *period;
            // Late by more than a period: a broken client is broken, not patient, but one start is one start.
            *next = (*next).max(now);
            *errand = Errand::new(now);
            seen.push(Seen::Surged);
            // What is broken spreads nothing.
            self.stored.reconnect_window = Duration::ZERO;
            if self.start(now, registry).is_err() {
                seen.push(Seen::NotSent);
            }
        }
        if let Some(life) = &mut self.life
            && life.node_due <= now
        {
            life.node.handle_timeout(now);
        }
        self.go_on(now, target, seen);
    }

    /// Takes everything that the node says, lets the task act on it, and notes when something is due next.
    pub(crate) fn go_on(&mut self, now: Instant, target: &Target, seen: &mut Vec<Seen>) {
        self.drain(now, seen);
        self.act(now, target);
        self.drain(now, seen);
        if let Task::Visit { asked, registered_ms, .. } = &self.task
            && now >= *asked + VISIT_DEADLINE
        {
            let failed =
                Some(if registered_ms.is_some() { "no_first_byte" } else { "not_registered" }.to_owned());
            seen.push(Seen::VisitEnded { registered_ms: *registered_ms, first_byte_ms: None, failed });
            self.leave(now);
        }
        self.due = self.next_due(now);
    }

    fn leave(&mut self, now: Instant) {
        self.task = Task::Off;
        self.end(now, Goodbye::Said);
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let node = self.life.as_ref().map(|life| life.node_due);
        let task = match &self.task {
            Task::Off | Task::Hold => None,
            Task::Flow { errand, next, .. } if errand.is_open() => Some(*next),
            Task::Flow { errand, .. } => errand.due().filter(|_| self.is_up()),
            Task::Visit { errand, asked, .. } => {
                let deadline = *asked + VISIT_DEADLINE;
                Some(errand.due().filter(|_| self.is_up()).map_or(deadline, |due| due.min(deadline)))
            }
            Task::Surge { errand, next, .. } => {
                Some(errand.due().filter(|_| self.is_up()).map_or(*next, |due| due.min(*next)))
            }
        };
        let soonest = node.into_iter().chain(task).min()?;
        Some(soonest.max(now).min(now + FOREVER))
    }

    fn act(&mut self, now: Instant, target: &Target) {
        let Some(life) = &mut self.life else { return };
        if !life.is_up {
            return;
        }
        match &mut self.task {
            Task::Off | Task::Hold => {}
            Task::Flow { errand, period, next } => {
                errand.begin(now, &mut life.node, target);
                if errand.is_open() && *next <= now {
                    errand.ask(now, &mut life.node);
                    while *next <= now {
                        *next += *period;
                    }
                }
            }
            Task::Visit { errand, .. } | Task::Surge { errand, .. } => {
                errand.begin(now, &mut life.node, target);
            }
        }
    }

    fn drain(&mut self, now: Instant, seen: &mut Vec<Seen>) {
        let mut has_left = false;
        while let Some(life) = &mut self.life {
            match life.node.poll_output(now) {
                NodeOutput::Transmit { to, payload } => {
                    if self.only_pops && !self.pops.contains(&to) {
                        // Lost on the way, as to a machine behind somebody else's NAT.
                        continue;
                    }
                    // The fleet has no TCP: what would go there is not sent, as on a network that blocks it.
                    if wire::is_stream_address(to) || life.socket.send_to(&payload, to).is_err() {
                        seen.push(Seen::NotSent);
                    }
                }
                NodeOutput::Persist { what, bytes } => self.persist(what, bytes),
                NodeOutput::Resolve { pop, name } => {
                    // PoPs of a drill have literal addresses.
                    life.node.handle_resolved(now, pop, name.parse().into_iter().collect());
                }
                NodeOutput::Event(event) => {
                    Self::note_session(life, &mut self.task, now, seen);
                    let errand = match &mut self.task {
                        Task::Flow { errand, .. }
                        | Task::Visit { errand, .. }
                        | Task::Surge { errand, .. } => errand,
                        Task::Off | Task::Hold => continue,
                    };
                    let step = errand.hear(now, &mut life.node, &event);
                    has_left |= self.take(now, step, seen);
                }
                // Nobody here is a machine with a network stack of its own.
                NodeOutput::Packet(_) => {}
                NodeOutput::Timeout(timeout) => {
                    life.node_due = timeout.at;
                    break;
                }
            }
            if has_left {
                self.leave(now);
                break;
            }
        }
    }

    /// Whether a visit is over.
    fn take(&mut self, now: Instant, step: Step, seen: &mut Vec<Seen>) -> bool {
        let Some(life) = &mut self.life else { return false };
        match (&mut self.task, step) {
            (_, Step::Nothing) => {}
            (Task::Visit { errand, .. }, Step::Opened) => errand.ask(now, &mut life.node),
            (Task::Flow { .. }, Step::Opened) => seen.push(Seen::Opened),
            (Task::Flow { .. }, Step::Answered(wait)) => {
                seen.push(Seen::Answered(wait));
                if self.only_pops {
                    seen.push(Seen::RelayedAnswered(wait));
                }
                if let Some(at) = self.moved_at.take() {
                    seen.push(Seen::RoamAnswered(now.saturating_duration_since(at)));
                }
            }
            (Task::Flow { .. }, Step::Cut) => {
                if self.moved_at.take().is_some() {
                    seen.push(Seen::RoamCut);
                }
                seen.push(Seen::Cut);
            }
            (Task::Visit { asked, registered_ms, .. }, Step::Answered(_)) => {
                let first_byte_ms = Some(millis(now.saturating_duration_since(*asked)));
                seen.push(Seen::VisitEnded { registered_ms: *registered_ms, first_byte_ms, failed: None });
                return true;
            }
            (Task::Visit { registered_ms, .. }, Step::Failed(reason)) => {
                let registered_ms = *registered_ms;
                seen.push(Seen::VisitEnded { registered_ms, first_byte_ms: None, failed: Some(reason) });
                return true;
            }
            (Task::Visit { registered_ms, .. }, Step::Cut) => {
                let registered_ms = *registered_ms;
                let failed = Some("cut".to_owned());
                seen.push(Seen::VisitEnded { registered_ms, first_byte_ms: None, failed });
                return true;
            }
            // A flow dials again by itself; what a broken member reaches is its own affair.
            _ => {}
        }
        false
    }

    fn note_session(life: &mut Life, task: &mut Task, now: Instant, seen: &mut Vec<Seen>) {
        let is_up = life.node.agent().pops().any(|pop| pop.phase == PopPhaseWord::Registered);
        if is_up != life.is_up {
            life.is_up = is_up;
            match task {
                Task::Off => {}
                Task::Hold | Task::Flow { .. } if is_up => seen.push(Seen::Registered),
                Task::Hold | Task::Flow { .. } => {
                    seen.push(Seen::Lost(match life.node.agent().last_lost() {
                        Some(LostReason::ClosedHere(code) | LostReason::ClosedByPeer(code)) => code.label(),
                        Some(other) => other.label(),
                        None => "unknown",
                    }));
                }
                Task::Visit { asked, registered_ms, .. } => {
                    if is_up && registered_ms.is_none() {
                        *registered_ms = Some(millis(now.saturating_duration_since(*asked)));
                    }
                }
                Task::Surge { .. } => {
                    if is_up {
                        seen.push(Seen::SurgeRegistered);
                    }
                }
            }
        }
        if life.node.agent().grant_text() != life.grant.as_deref() {
            life.grant = life.node.agent().grant_text().map(str::to_owned);
            if matches!(task, Task::Hold | Task::Flow { .. }) {
                seen.push(Seen::Renewed);
            }
        }
    }

    fn persist(&mut self, what: Persisted, bytes: Vec<u8>) {
        if what == Persisted::Certificate {
            self.stored.certificate = bytes;
            return;
        }
        let Ok(text) = String::from_utf8(bytes) else { return };
        match what {
            Persisted::Chain => self.stored.chain = text,
            Persisted::Grant => self.stored.grant = Some(text),
            Persisted::Slice => self.stored.slice = Some(text),
            Persisted::Revocations => self.stored.revocations = Some(text),
            Persisted::ReconnectWindow => {
                let window = text.trim().parse().map(Duration::from_millis);
                self.stored.reconnect_window = window.unwrap_or_default();
            }
            Persisted::TimeFloor => {
                self.stored.time_floor = text.trim().parse().ok().map(UnixMs::from_millis)
            }
            _ => {}
        }
    }

    /// Since when a running connection waits for an answer.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        match &self.task {
            Task::Flow { errand, .. } => errand.asked(),
            _ => None,
        }
    }

    pub(crate) fn has_open_flow(&self) -> bool {
        matches!(&self.task, Task::Flow { errand, .. } if errand.is_open())
    }
}

/// Whether the PoP is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Said,
    None,
}
