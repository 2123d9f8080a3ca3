//! Many agents' sessions in one thread.

use crate::{Agents, Installation, WideSender, WideSocket, wall};
use anyhow::Result;
use session::{CloseCode, Dialler, Event, LostReason, Output, SessionId};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};
use wire::{
    Accept, Bounded, FromAgent, Hello, Introduce, Keepalive, Open, Opened, PopId, ToAgent, WG_RESPONSE_LEN,
};

/// Batches of the socket before timers are looked at.
const RECEIVE_ROUNDS: usize = 8;

enum Phase {
    Off,
    /// Asked for then; from then on it is dialling or waits for `Welcome`.
    Coming {
        since: Instant,
        session: SessionId,
    },
    Up {
        session: SessionId,
    },
}

struct Member {
    dialler: Dialler,
    phase: Phase,
    keepalive: Option<(Duration, Instant)>,
    due: Option<Instant>,
}

/// How an attempt to register ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// `Welcome` came after this.
    Registered(Duration),
    /// The session was lost before.
    Failed(&'static str),
}

/// What a crowd has seen since it was asked last.
#[derive(Debug, Default)]
pub struct Tally {
    /// Attempts that ended, by member.
    pub outcomes: Vec<(usize, Outcome)>,
    /// Registered sessions that were lost, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// Introductions that connectors were told of, by member.
    pub introduced: Vec<(usize, Introduce)>,
    /// Channels that clients got, by member.
    pub opened: Vec<(usize, Opened)>,
    /// Relay frames that came.
    pub relayed: u64,
    /// Datagrams that the kernel did not take.
    pub not_sent: u64,
}

/// Sessions of many agents with one PoP.
pub struct Crowd {
    socket: WideSocket,
    pop: PopId,
    to: SocketAddr,
    members: Vec<Member>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    up: usize,
    tally: Tally,
    recorded: Option<Vec<Vec<u8>>>,
}

impl Crowd {
    /// These agents, all off. Their addresses count from `first`.
    ///
    /// # Errors
    /// The kernel gives no socket.
    pub fn new(
        installation: &Installation,
        agents: Agents,
        first: Ipv4Addr,
        to: SocketAddr,
        seed: u64,
    ) -> Result<Self> {
        let members = agents
            .identities
            .into_iter()
            .zip(0_u64..)
            .map(|(local, number)| {
                let seed = trust::sha256(&[b"load-rig", &seed.to_be_bytes(), &number.to_be_bytes()]);
                let dialler = Dialler::new(local, installation.bundle(), wall(), seed);
                Member { dialler, phase: Phase::Off, keepalive: None, due: None }
            })
            .collect();
        Ok(Self {
            socket: WideSocket::new(first)?,
            pop: installation.pop(),
            to,
            members,
            timers: BinaryHeap::new(),
            up: 0,
            tally: Tally::default(),
            recorded: None,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many are registered.
    #[must_use]
    pub const fn up(&self) -> usize {
        self.up
    }

    /// Keeps what is sent from now on, for floods that replay it.
    pub fn record(&mut self) {
        self.recorded = Some(Vec::new());
    }

    /// What was sent since [`Self::record`].
    pub fn recorded(&mut self) -> Vec<Vec<u8>> {
        self.recorded.take().unwrap_or_default()
    }

    /// What was seen since the last call.
    pub fn take(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Lets a member register, over a new session. Nothing happens when it is at that already or registered.
    pub fn register(&mut self, number: usize) {
        let now = Instant::now();
        let (pop, to) = (self.pop, self.to);
        let member = &mut self.members[number];
        if !matches!(member.phase, Phase::Off) {
            return;
        }
        member.dialler.set_wall(wall());
        match member.dialler.dial(now, pop, to) {
            Ok(session) => member.phase = Phase::Coming { since: now, session },
            Err(_) => self.tally.outcomes.push((number, Outcome::Failed("not_dialled"))),
        }
        self.drain(now, number);
    }

    /// Ends what a member has, without waiting for anything.
    pub fn leave(&mut self, number: usize) {
        let now = Instant::now();
        let member = &mut self.members[number];
        let session = match std::mem::replace(&mut member.phase, Phase::Off) {
            Phase::Off => return,
            Phase::Coming { session, .. } => session,
            Phase::Up { session } => {
                self.up -= 1;
                session
            }
        };
        member.keepalive = None;
        member.dialler.close(now, session, CloseCode::Done);
        self.drain(now, number);
    }

    /// Says something on a member's session.
    pub fn say(&mut self, number: usize, message: &FromAgent) {
        let member = &mut self.members[number];
        if let Phase::Up { session } = member.phase {
            // A full queue loses it: the tally of answers shows that.
            let _ = member.dialler.send(session, message.frame_type(), &message.encode_body());
            self.drain(Instant::now(), number);
        }
    }

    /// A client asks for a channel to a connector.
    pub fn open(&mut self, number: usize, connector: wire::ConnectorId) {
        let sealed = Bounded::new(vec![1; 600]).expect("short");
        let initiation = Bounded::new(vec![2; wire::WG_INITIATION_LEN]).expect("its length");
        self.say(number, &Open { seq: 1, connector, sealed, initiation }.into());
    }

    /// A connector lets one in.
    pub fn accept(&mut self, number: usize, introduce: &Introduce) {
        let accept = Accept {
            intro: introduce.intro,
            response: Bounded::new(vec![3; WG_RESPONSE_LEN]).expect("its length"),
            inner_v4: Ipv4Addr::LOCALHOST,
            inner_v6: std::net::Ipv6Addr::LOCALHOST,
        };
        self.say(number, &accept.into());
    }

    /// Sends a datagram of the test's own from a member's address.
    pub fn send_raw(&mut self, number: usize, payload: &[u8]) {
        if !self.socket.send(number, self.to, payload) {
            self.tally.not_sent += 1;
        }
    }

    /// Sends from the members' addresses in another thread.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sender(&self) -> Result<WideSender> {
        self.socket.sender()
    }

    /// Carries everything for so long.
    ///
    /// # Errors
    /// The socket fails.
    pub fn turn(&mut self, longest: Duration) -> Result<()> {
        let end = Instant::now() + longest;
        loop {
            self.run_timers();
            let mut more = true;
            for _ in 0..RECEIVE_ROUNDS {
                more = self.receive()?;
                if !more {
                    break;
                }
            }
            let now = Instant::now();
            if now >= end {
                return Ok(());
            }
            if !more {
                let timer = self.timers.peek().map_or(end, |Reverse((at, _))| (*at).min(end));
                self.socket.wait(timer.saturating_duration_since(now));
            }
        }
    }

    fn receive(&mut self) -> Result<bool> {
        let now = Instant::now();
        let Self { socket, members, tally, .. } = self;
        let mut touched = Vec::new();
        let any = socket.receive(|arrived| {
            let Some(member) = members.get_mut(arrived.number) else { return };
            if wire::classify(arrived.payload) == wire::DatagramKind::Relay {
                tally.relayed += 1;
                return;
            }
            member.dialler.handle_input(now, arrived.from, arrived.payload);
            if touched.last() != Some(&arrived.number) {
                touched.push(arrived.number);
            }
        })?;
        for number in touched {
            self.drain(now, number);
        }
        Ok(any)
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some(&Reverse((at, number))) = self.timers.peek() {
            if at > now {
                return;
            }
            self.timers.pop();
            let member = &mut self.members[number];
            if member.due != Some(at) {
                continue;
            }
            member.due = None;
            member.dialler.handle_timeout(now);
            if let (Phase::Up { session }, Some((every, next))) = (&member.phase, &mut member.keepalive)
                && *next <= now
            {
                *next = now + *every;
                let message = FromAgent::from(Keepalive {});
                let _ = member.dialler.send(*session, message.frame_type(), &message.encode_body());
            }
            self.drain(now, number);
        }
    }

    fn drain(&mut self, now: Instant, number: usize) {
        let Self { socket, members, tally, timers, up, recorded, .. } = self;
        let member = &mut members[number];
        let quic_due = loop {
            match member.dialler.poll_output(now) {
                Output::Transmit { to, payload } => {
                    if !socket.send(number, to, &payload) {
                        tally.not_sent += 1;
                    }
                    if let Some(recorded) = recorded {
                        recorded.push(payload);
                    }
                }
                Output::Event(Event::Connected { id, .. }) => {
                    let hello = FromAgent::from(Hello {
                        oldest: wire::OLDEST_PROTOCOL_VERSION,
                        newest: wire::PROTOCOL_VERSION,
                        build: Bounded::default(),
                    });
                    let _ = member.dialler.send(id, hello.frame_type(), &hello.encode_body());
                }
                Output::Event(Event::Frame { id, frame_type, body }) => {
                    let Ok(Some(message)) = ToAgent::decode_body(frame_type, &body) else { continue };
                    match (message, &member.phase) {
                        (ToAgent::Welcome(welcome), Phase::Coming { since, session }) if *session == id => {
                            let took = now.saturating_duration_since(*since);
                            tally.outcomes.push((number, Outcome::Registered(took)));
                            *up += 1;
                            member.phase = Phase::Up { session: id };
                            let every = Duration::from_millis(welcome.keepalive_ms.into());
                            // As agents do: the first one anywhere within the interval.
                            let share = u32::try_from(number % 1_000).unwrap_or_default();
                            member.keepalive = Some((every, now + every * share / 1_000));
                        }
                        (ToAgent::Introduce(introduce), _) => tally.introduced.push((number, introduce)),
                        (ToAgent::Opened(opened), _) => tally.opened.push((number, opened)),
                        _ => {}
                    }
                }
                Output::Event(Event::Lost { id, reason, .. }) => {
                    let label = match reason {
                        LostReason::ClosedHere(code) | LostReason::ClosedByPeer(code) => code.label(),
                        other => other.label(),
                    };
                    match member.phase {
                        Phase::Coming { session, .. } if session == id => {
                            member.phase = Phase::Off;
                            tally.outcomes.push((number, Outcome::Failed(label)));
                        }
                        Phase::Up { session } if session == id => {
                            member.phase = Phase::Off;
                            member.keepalive = None;
                            *up -= 1;
                            *tally.lost.entry(label).or_default() += 1;
                        }
                        _ => {}
                    }
                }
                Output::Event(Event::AddressChanged { .. }) => {}
                Output::Timeout { at, .. } => break at,
            }
        };
        let due = member.keepalive.map_or(quic_due, |(_, next)| next.min(quic_due));
        if member.due != Some(due) {
            member.due = Some(due);
            timers.push(Reverse((due, number)));
        }
    }
}
