//! Many connectors' cores in one thread, each with a socket, and when each knew of a strike.

use agent::{ConnectorAgent, Freshness, Output, StoredState};
use anyhow::{Context as _, Result};
use mio::{Events, Interest, Poll, Token, net::UdpSocket};
use state::{StateDir, names};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    net::Ipv4Addr,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use trust::{RevokedSubject, Role, SigningKey, UnixMs};

const TURN: Duration = Duration::from_millis(20);
const WALL_EVERY: Duration = Duration::from_secs(1);
const LARGEST: usize = 2048;

/// A connector's core has a strike.
#[derive(Debug, Clone, Copy)]
pub struct Enforced {
    /// Whose.
    pub subject: RevokedSubject,
    /// Since when.
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    /// What is looked for from now on.
    watched: Mutex<Vec<RevokedSubject>>,
    seen: Mutex<Vec<Enforced>>,
    fresh: AtomicUsize,
    stop: AtomicBool,
}

/// Connectors that run until dropped.
pub struct Fleet {
    count: usize,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Member {
    agent: ConnectorAgent,
    socket: UdpSocket,
    due: Option<Instant>,
    /// Of the watched ones it has so many; they come in order, and a late one is looked for again.
    has: Vec<bool>,
}

fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMs::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// What enrolment wrote.
fn stored(state: &StateDir) -> Result<StoredState> {
    let text = |name: &str| -> Result<Option<String>> {
        state.read(name)?.map(String::from_utf8).transpose().context("a text")
    };
    let generation = |name: &str| -> Result<Option<String>> {
        let newest = state.read_generations(name)?.into_iter().next();
        newest.map(String::from_utf8).transpose().context("a text")
    };
    Ok(StoredState {
        identity_key: SigningKey::from_seed(&state.require_secret(names::IDENTITY_KEY)?),
        root: state.of().root,
        chain: text(names::CHAIN)?.context("a chain")?,
        certificate: state.require(names::CERTIFICATE)?,
        grant: None,
        slice: generation(names::SLICE)?,
        revocations: None,
        time_floor: None,
        reconnect_window: Duration::ZERO,
    })
}

impl Fleet {
    /// Starts `k0`, `k1`, … of a directory.
    pub fn start(place: &Path, count: usize) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let poll = Poll::new()?;
        let mut members = Vec::with_capacity(count);
        for number in 0..count {
            let state = StateDir::open(&place.join(format!("k{number}")), Role::Connector)?;
            let seed = trust::sha256(&[b"bench/connector", &u64::try_from(number)?.to_be_bytes()]);
            let agent = ConnectorAgent::new(stored(&state)?, Instant::now(), wall(), seed)
                .with_context(|| format!("connector {number}"))?;
            let mut socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0).into())?;
            poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
            members.push(Member { agent, socket, due: Some(Instant::now()), has: Vec::new() });
        }
        let told = Arc::clone(&shared);
        let thread = thread::Builder::new().name("connectors".to_owned()).spawn(move || {
            if let Err(error) = carry(poll, members, &told) {
                eprintln!("the connectors' thread ended: {error:#}");
            }
        })?;
        Ok(Self { count, shared, thread: Some(thread) })
    }

    /// How many there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// How many hear fresh beacons.
    pub fn fresh(&self) -> usize {
        self.shared.fresh.load(Ordering::Relaxed)
    }

    /// From now on it is noted who has this one.
    pub fn watch(&self, subject: RevokedSubject) {
        self.shared.watched.lock().unwrap_or_else(PoisonError::into_inner).push(subject);
    }

    /// Who has what since the last call.
    pub fn take(&self) -> Vec<Enforced> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn carry(mut poll: Poll, mut members: Vec<Member>, shared: &Shared) -> Result<()> {
    let mut events = Events::with_capacity(1024);
    let mut timers: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    for index in 0..members.len() {
        timers.push(Reverse((Instant::now(), index)));
    }
    let mut wall_at = Instant::now();
    let mut buffer = [0; LARGEST];
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        if now >= wall_at {
            wall_at = now + WALL_EVERY;
            let wall = wall();
            let mut fresh = 0;
            for member in &mut members {
                member.agent.set_wall(now, wall);
                fresh += usize::from(member.agent.freshness(now) == Freshness::Fresh);
            }
            shared.fresh.store(fresh, Ordering::Relaxed);
        }
        while let Some(&Reverse((at, index))) = timers.peek() {
            if at > Instant::now() {
                break;
            }
            timers.pop();
            if members[index].due == Some(at) || members[index].due.is_none_or(|due| due <= at) {
                members[index].agent.handle_timeout(Instant::now());
                drain(&mut members[index], index, &mut timers, shared);
            }
        }
        let next =
            timers.peek().map_or(TURN, |Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        match poll.poll(&mut events, Some(next.min(TURN))) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        for event in &events {
            let index = event.token().0;
            let member = &mut members[index];
            while let Ok((length, from)) = member.socket.recv_from(&mut buffer) {
                member.agent.handle_input(Instant::now(), from, &buffer[..length]);
            }
            drain(member, index, &mut timers, shared);
        }
    }
    Ok(())
}

/// Takes everything that a core says, and looks whether it has what is watched.
fn drain(
    member: &mut Member,
    index: usize,
    timers: &mut BinaryHeap<Reverse<(Instant, usize)>>,
    shared: &Shared,
) {
    loop {
        let now = Instant::now();
        match member.agent.poll_output(now) {
            Output::Transmit { to, payload } => {
                // No TCP here: what would go there is not sent, as on a network that blocks it.
                if !wire::is_stream_address(to) {
                    let _ = member.socket.send_to(&payload, to);
                }
            }
            Output::Resolve { pop, name } => {
                member.agent.handle_resolved(now, pop, name.parse().into_iter().collect());
            }
            // Nothing restarts from its disk here.
            Output::Event(_) | Output::Persist { .. } => {}
            Output::Timeout { at, .. } => {
                if member.due != Some(at) {
                    member.due = Some(at);
                    timers.push(Reverse((at, index)));
                }
                break;
            }
        }
    }
    let watched = shared.watched.lock().unwrap_or_else(PoisonError::into_inner);
    member.has.resize(watched.len(), false);
    for (subject, has) in watched.iter().zip(&mut member.has) {
        if !*has && member.agent.revocations().is_struck(*subject, 1) {
            *has = true;
            let enforced = Enforced { subject: *subject, at: Instant::now() };
            shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(enforced);
        }
    }
}
