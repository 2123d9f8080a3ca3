//! The resolver: each query is answered here or passed on.

use crate::{
    Names, Pool,
    answer::{self, Answer},
    question::{self, About, Asked, Question, Transport},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Questions that wait for an upstream server at once. Each holds a socket of the shell and at most one
/// datagram here.
const MAX_FORWARDS: usize = 512;
/// The largest message we pass on: what one datagram carries, and what TCP's length can say.
const MAX_MESSAGE: usize = 65_535;

/// Who asked, for the shell: the answer goes back by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// How.
    pub transport: Transport,
    /// The shell's own number.
    pub number: u64,
}

impl Origin {
    /// A datagram.
    #[must_use]
    pub const fn udp(number: u64) -> Self {
        Self { transport: Transport::Udp, number }
    }

    /// A message of a connection.
    #[must_use]
    pub const fn tcp(number: u64) -> Self {
        Self { transport: Transport::Tcp, number }
    }
}

/// One question under way to an upstream server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId(u64);

/// How foreign questions are passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The servers that the machine used before, in its order.
    pub upstreams: Vec<SocketAddr>,
    /// How long one server may take before the next is asked as well. The machine's own resolver asks again
    /// after 5 s (resolv.conf(5)): all servers get their turn before that.
    pub patience: Duration,
    /// How long a question may take altogether.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            patience: Duration::from_millis(1_200),
            deadline: Duration::from_secs(6),
        }
    }
}

/// Why the resolver wants to be woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeoutReason {
    /// An upstream server takes long.
    Patience,
    /// Nobody answered.
    Deadline,
}

/// When to call [`Resolver::handle_timeout`] at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: TimeoutReason,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Give this to who asked.
    Reply {
        /// Who asked.
        to: Origin,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Send this from a port of its own (RFC 5452 section 9.2), and what comes back from there to
    /// [`Resolver::handle_upstream`].
    Forward {
        /// Whose answer it will be.
        id: ForwardId,
        /// The server.
        server: SocketAddr,
        /// How.
        transport: Transport,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Nothing will be asked under this number any more: its sockets can be closed.
    Done(ForwardId),
    /// Nothing now.
    Timeout(Option<Timeout>),
}

/// What has happened, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Questions about private names answered.
    pub private: u64,
    /// Questions passed on.
    pub forwarded: u64,
    /// Questions that nobody answered in time.
    pub unanswered: u64,
    /// Questions refused for lack of room.
    pub full: u64,
    /// Bytes that were no query.
    pub malformed: u64,
    /// Answers that did not fit their question.
    pub mismatched: u64,
}

#[derive(Debug)]
struct Forward {
    origin: Origin,
    /// The id that the asker chose.
    asked_id: u16,
    /// The id that the server sees.
    sent_id: u16,
    query: Vec<u8>,
    /// Which server was the first.
    first: usize,
    /// How many of the servers have been asked, or passed over.
    asked: usize,
    /// How many of them cannot be reached.
    unreachable: usize,
    next: Instant,
    deadline: Instant,
}

/// Split DNS. See the crate's documentation.
#[derive(Debug)]
pub struct Resolver {
    settings: Settings,
    names: Names,
    pool: Pool,
    forwards: BTreeMap<ForwardId, Forward>,
    next_forward: u64,
    seed: [u8; 32],
    output: VecDeque<Output>,
    counters: Counters,
}

impl Resolver {
    /// Knows no private name yet. `seed` decides the message ids: 32 random bytes.
    #[must_use]
    pub const fn new(settings: Settings, pool: Pool, seed: [u8; 32]) -> Self {
        Self {
            settings,
            names: Names::EMPTY,
            pool,
            forwards: BTreeMap::new(),
            next_forward: 0,
            seed,
            output: VecDeque::new(),
            counters: Counters {
                private: 0,
                forwarded: 0,
                unanswered: 0,
                full: 0,
                malformed: 0,
                mismatched: 0,
            },
        }
    }

    /// The private names from now on. Addresses of names that are gone keep leading to them: what was
    /// answered may be remembered.
    pub fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    /// The servers from now on: the machine is on another network.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>) {
        self.settings.upstreams = upstreams;
    }

    /// The private names.
    #[must_use]
    pub const fn names(&self) -> &Names {
        &self.names
    }

    /// The synthetic addresses.
    pub const fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// What has happened.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// A query came.
    pub fn handle_query(&mut self, now: Instant, origin: Origin, bytes: &[u8]) {
        match question::read(bytes) {
            Asked::One(question) => match self.own_answer(now, &question) {
                Some(Own::Addresses(v4, v6)) => {
                    self.reply(origin, &question, bytes, Answer::Addresses(v4, v6));
                }
                Some(Own::Pointer(host)) => self.reply(origin, &question, bytes, Answer::Pointer(&host)),
                Some(Own::Plain(answer)) => self.reply(origin, &question, bytes, answer),
                None => self.forward(now, origin, bytes),
            },
            Asked::Foreign(Some(question)) if self.is_private(&question) => {
                self.counters.private += 1;
                let bytes = answer::error(question.id, ResponseCode::Refused);
                self.output.push_back(Output::Reply { to: origin, bytes });
            }
            Asked::Foreign(_) => self.forward(now, origin, bytes),
            Asked::Malformed(id) => {
                self.counters.malformed += 1;
                let bytes = answer::error(id, ResponseCode::FormErr);
                self.output.push_back(Output::Reply { to: origin, bytes });
            }
            Asked::Silence => self.counters.malformed += 1,
        }
    }

    /// A server said something under `id`. What does not fit the question is dropped, and the question
    /// goes on waiting: a forger who guesses wrong ends nothing (RFC 5452 section 9.1).
    pub fn handle_upstream(&mut self, id: ForwardId, bytes: &[u8]) {
        let Some(forward) = self.forwards.get(&id) else { return };
        if !answers(&forward.query, forward.sent_id, bytes) {
            self.counters.mismatched += 1;
            return;
        }
        let mut reply = bytes.to_vec();
        set_id(&mut reply, forward.asked_id);
        self.output.push_back(Output::Reply { to: forward.origin, bytes: reply });
        self.end(id);
    }

    /// A server cannot be reached at all: the next one's turn has come.
    pub fn handle_unreachable(&mut self, now: Instant, id: ForwardId) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        forward.unreachable += 1;
        forward.next = now;
        if forward.unreachable >= self.settings.upstreams.len().saturating_sub(forward.first) {
            // Nobody is left who could answer: the program is told now, as it was when it asked the servers itself.
            forward.deadline = now;
        }
        self.handle_timeout(now);
    }

    /// Who asked has gone.
    pub fn handle_gone(&mut self, origin: Origin) {
        let gone: Vec<ForwardId> =
            self.forwards.iter().filter(|(_, forward)| forward.origin == origin).map(|(id, _)| *id).collect();
        for id in gone {
            self.end(id);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<ForwardId> = self
            .forwards
            .iter()
            .filter(|(_, forward)| forward.next <= now || forward.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.ask_next(now, id);
        }
    }

    /// What to do next; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.output.pop_front() {
            return output;
        }
        let next = self.forwards.values().map(|forward| {
            let reason = if forward.deadline <= forward.next {
                TimeoutReason::Deadline
            } else {
                TimeoutReason::Patience
            };
            Timeout { at: forward.next.min(forward.deadline), reason }
        });
        Output::Timeout(next.min_by_key(|timeout| timeout.at))
    }

    fn is_private(&self, question: &Question) -> bool {
        match &question.about {
            About::Name(name) => self.names.covers(name),
            About::Odd(parent) => parent.as_ref().is_some_and(|parent| self.names.owns_odd(parent)),
            About::Reverse(prefix) => self.pool.holds(*prefix),
        }
    }

    /// The answer that is ours to give; `None` when the question is nothing of ours.
    fn own_answer(&mut self, now: Instant, question: &Question) -> Option<Own> {
        let transfer = matches!(question.kind(), RecordType::AXFR | RecordType::IXFR);
        match &question.about {
            About::Name(name) if self.names.has(name) => {
                if transfer {
                    return Some(Own::Plain(Answer::Refused));
                }
                // An address is taken at any question about the name, so that a full pool shows early.
                Some(match self.pool.assign(now, name) {
                    Some((v4, v6)) => Own::Addresses(v4, v6),
                    None => {
                        self.counters.full += 1;
                        Own::Plain(Answer::Failed)
                    }
                })
            }
            About::Name(name) if self.names.covers(name) => Some(Own::Plain(Answer::NoData)),
            About::Odd(Some(parent)) if self.names.owns_odd(parent) => Some(Own::Plain(Answer::NoName)),
            About::Reverse(prefix) if self.pool.holds(*prefix) => {
                let one = self.pool.name(prefix.address()).filter(|_| self.pool.is_host(*prefix)).cloned();
                Some(match one {
                    Some(name) => Own::Pointer(name),
                    // Nodes between the range and its addresses exist (RFC 8020).
                    None if !self.pool.is_host(*prefix) => Own::Plain(Answer::NoData),
                    None => Own::Plain(Answer::NoName),
                })
            }
            About::Name(_) | About::Odd(_) | About::Reverse(_) => None,
        }
    }

    fn reply(&mut self, to: Origin, question: &Question, query: &[u8], answer: Answer<'_>) {
        self.counters.private += 1;
        let bytes = answer::write(question, to.transport, query, answer);
        self.output.push_back(Output::Reply { to, bytes });
    }

    fn forward(&mut self, now: Instant, origin: Origin, query: &[u8]) {
        let asked_id = id_of(query);
        if self.forwards.len() >= MAX_FORWARDS
            || self.settings.upstreams.is_empty()
            || query.len() > MAX_MESSAGE
        {
            self.counters.full += 1;
            let bytes = answer::error(asked_id, ResponseCode::ServFail);
            self.output.push_back(Output::Reply { to: origin, bytes });
            return;
        }
        self.counters.forwarded += 1;
        let id = ForwardId(self.next_forward);
        self.next_forward += 1;
        let sent_id = self.message_id(id);
        let mut query = query.to_vec();
        set_id(&mut query, sent_id);
        let deadline = now + self.settings.deadline;
        let first = self.first_server(&query);
        let forward = Forward {
            origin,
            asked_id,
            sent_id,
            query,
            first,
            asked: first,
            unreachable: 0,
            next: now,
            deadline,
        };
        self.forwards.insert(id, forward);
        self.ask_next(now, id);
    }

    /// Who is asked first: the first server, but for a question that is under way already the next one. Either a program
    /// asks again, because that server takes long; or the server asks us what we have asked it (a forwarder on this
    /// machine that takes its own servers from the file that names us), and would wait for itself.
    fn first_server(&self, query: &[u8]) -> usize {
        let length = question_length(query);
        let Some(question) = query.get(12..12 + length).filter(|_| length > 0) else { return 0 };
        let under_way = self.forwards.values().filter(|forward| {
            forward.query.get(12..12 + length).is_some_and(|other| other.eq_ignore_ascii_case(question))
        });
        let next = under_way.map(|forward| forward.asked).max().unwrap_or(0);
        if next < self.settings.upstreams.len() { next } else { 0 }
    }

    /// Asks the next server, or gives up. Servers that were asked before may still answer.
    fn ask_next(&mut self, now: Instant, id: ForwardId) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        if forward.deadline <= now {
            self.counters.unanswered += 1;
            let bytes = answer::error(forward.asked_id, ResponseCode::ServFail);
            self.output.push_back(Output::Reply { to: forward.origin, bytes });
            self.end(id);
            return;
        }
        let Some(server) = self.settings.upstreams.get(forward.asked) else {
            // All were asked; one of them may still answer.
            forward.next = forward.deadline;
            return;
        };
        forward.asked += 1;
        forward.next = now + self.settings.patience;
        self.output.push_back(Output::Forward {
            id,
            server: *server,
            transport: forward.origin.transport,
            bytes: forward.query.clone(),
        });
    }

    fn end(&mut self, id: ForwardId) {
        self.forwards.remove(&id);
        self.output.push_back(Output::Done(id));
    }

    /// Nobody who sees other ids can tell the next.
    fn message_id(&self, id: ForwardId) -> u16 {
        let digest = trust::sha256(&[b"tidegate/dns-id/1", &self.seed, &id.0.to_be_bytes()]);
        u16::from_be_bytes([digest[0], digest[1]])
    }
}

enum Own {
    Addresses(std::net::Ipv4Addr, std::net::Ipv6Addr),
    Pointer(policy::HostName),
    Plain(Answer<'static>),
}

fn id_of(message: &[u8]) -> u16 {
    match message {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}

fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// Whether `reply` answers `query`: a response with its id that repeats its question (RFC 5452 section 9.1).
/// A server that gives up early may leave the question out (an error's bare header).
fn answers(query: &[u8], id: u16, reply: &[u8]) -> bool {
    let [_, _, flags, code, high, low, ..] = reply else { return false };
    if reply.len() < 12 || id_of(reply) != id || flags & 0x80 == 0 {
        return false;
    }
    let questions = u16::from_be_bytes([*high, *low]);
    if questions == 0 {
        return code & 0x0f != 0;
    }
    let length = question_length(query);
    length > 0
        && reply
            .get(12..12 + length)
            .zip(query.get(12..12 + length))
            .is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
}

/// Bytes of the first question: its labels, type and class. Zero when there is no whole one.
fn question_length(query: &[u8]) -> usize {
    let mut at = 12;
    while let Some(length) = query.get(at) {
        match length {
            0 => return if query.len() >= at + 5 { at + 5 - 12 } else { 0 },
            1..=63 => at += usize::from(*length) + 1,
            _ => return 0,
        }
    }
    0
}

#[cfg(test)]
mod tests;
