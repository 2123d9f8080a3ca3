//! The loop that carries everything of a fleet: sockets, timers, schedules.

use crate::{
    errand::Errand,
    member::{Goodbye, Member, Seen, Task, VISIT_DEADLINE, wall},
    order::{LONG_WAIT_MS, Order, Report, Silences, Visit},
};
use client::Target;
use mio::{Events, Poll, Token};
use net::clock;
use state::{StateDir, StateError};
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    net::Ipv4Addr,
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};
use trust::Role;

const WALL_INTERVAL: Duration = Duration::from_secs(1);
/// Waits kept between two reports for their median: beyond that the newest are counted and not kept.
const MAX_WAITS: usize = 65_536;
/// Members of one fleet: their sockets fit below the usual limit of 20,000 descriptors.
pub const MAX_MEMBERS: usize = 15_000;

/// A fleet cannot be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A member's state directory.
    #[error("member {member}: {error}")]
    State {
        /// Which.
        member: usize,
        /// Why.
        error: StateError,
    },
    /// Too many.
    #[error("expected at most {MAX_MEMBERS} members in one process, got {0}; use several")]
    TooMany(usize),
    /// Polling.
    #[error("the fleet's sockets: {0}")]
    Io(#[from] io::Error),
}

/// Something that happens on a clock of its own, whatever becomes of it.
struct Schedule {
    what: What,
    next: Instant,
    every: Duration,
}

enum What {
    Start { members: Range<usize> },
    Visit { members: Range<usize>, cursor: usize },
    Roam { members: Range<usize>, cursor: usize },
}

/// Many clients. See the crate.
pub struct Fleet {
    poll: Poll,
    events: Events,
    members: Vec<Member>,
    target: Target,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    schedules: Vec<Schedule>,
    wall_at: Instant,
    asleep: Duration,
    scratch: Vec<u8>,
    report: Report,
    waits: Vec<u32>,
    counted: (u64, u64, u64),
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fleet({} members, {} up)", self.members.len(), self.up())
    }
}

/// A loopback address of its own for each member, as machines have: 127.16.0.0 and up.
fn source_of(number: usize) -> Ipv4Addr {
    let low = u32::try_from(number).unwrap_or(u32::MAX) & 0x003F_FFFF;
    // .0 and .255 are no hosts to some filters.
    Ipv4Addr::from(0x7F10_0000_u32 + (low / 250) * 256 + low % 250 + 2)
}

impl Fleet {
    /// A fleet of the members `numbers`, whose state directories are `states/c<number>`; all off. They connect to
    /// `target`, a service that sends back each line.
    ///
    /// # Errors
    /// [`FleetError`]: a directory is not a device's, or the machine does not let us poll.
    pub fn open(states: &Path, numbers: Range<usize>, target: Target, seed: u64) -> Result<Self, FleetError> {
        if numbers.len() > MAX_MEMBERS {
            return Err(FleetError::TooMany(numbers.len()));
        }
        let mut members = Vec::with_capacity(numbers.len());
        for (index, number) in numbers.enumerate() {
            let error = |error| FleetError::State { member: number, error };
            let state = StateDir::open(&states.join(format!("c{number}")), Role::Device).map_err(error)?;
            let stored = client::stored_state(&state, wall()).map_err(error)?;
            let number_bytes = u64::try_from(number).unwrap_or(u64::MAX).to_be_bytes();
            let member_seed = trust::sha256(&[b"load/member", &seed.to_be_bytes(), &number_bytes]);
            members.push(Member::new(Token(index), source_of(number), member_seed, stored));
        }
        Ok(Self {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            members,
            target,
            timers: BinaryHeap::new(),
            schedules: Vec::new(),
            wall_at: clock::now(),
            asleep: clock::asleep(),
            scratch: vec![0; 64 * 1024],
            report: Report::default(),
            waits: Vec::new(),
            counted: (0, 0, 0),
        })
    }

    /// Members that hold a session and shall.
    #[must_use]
    pub fn up(&self) -> usize {
        let held = |member: &&Member| matches!(member.task, Task::Hold | Task::Flow { .. });
        self.members.iter().filter(held).filter(|member| member.is_up()).count()
    }

    /// Does as it is told, from now on.
    pub fn order(&mut self, order: Order) {
        let now = clock::now();
        let clamp = |range: Range<usize>, len: usize| range.start.min(len)..range.end.min(len);
        let len = self.members.len();
        match order {
            Order::Hold { from, to, per_second } => {
                let every = Duration::from_secs(1) / per_second.max(1);
                let what = What::Start { members: clamp(from..to, len) };
                self.schedules.push(Schedule { what, next: now, every });
            }
            Order::Flow { from, to, period_ms } => {
                let period = Duration::from_millis(u64::from(period_ms.max(1)));
                for index in clamp(from..to, len) {
                    self.members[index].task = Task::Flow { errand: Errand::new(now), period, next: now };
                    self.after(now, index, |_, _, _, _, _| {});
                }
            }
            Order::Visit { from, to, per_second } => {
                self.schedules.retain(|schedule| !matches!(schedule.what, What::Visit { .. }));
                let members = clamp(from..to, len);
                if per_second > 0 && !members.is_empty() {
                    let every = Duration::from_secs(1) / per_second;
                    let what = What::Visit { cursor: members.start, members };
                    self.schedules.push(Schedule { what, next: now, every });
                }
            }
            Order::Roam { from, to, per_second } => {
                self.schedules.retain(|schedule| !matches!(schedule.what, What::Roam { .. }));
                let members = clamp(from..to, len);
                if per_second > 0.0 && !members.is_empty() {
                    let every = Duration::from_secs_f64(1.0 / per_second);
                    let what = What::Roam { cursor: members.start, members };
                    self.schedules.push(Schedule { what, next: now + every, every });
                }
            }
            Order::Surge { from, to, period_ms } => {
                let period = Duration::from_millis(u64::from(period_ms.max(1)));
                let members = clamp(from..to, len);
                let count = u32::try_from(members.len().max(1)).unwrap_or(u32::MAX);
                for (place, index) in (0_u32..).zip(members) {
                    // Spread over the first period: the rate is what matters, not a drum beat.
                    let next = now + period / count * place;
                    self.members[index].task = Task::Surge { errand: Errand::new(now), period, next };
                    self.note(index, Some(next));
                }
            }
            Order::Relay { from, to } => {
                for index in clamp(from..to, len) {
                    self.members[index].let_only_pops_through();
                }
            }
            Order::Notice { from, to } => {
                for index in clamp(from..to, len) {
                    self.after(clock::now(), index, |member, now, _, _, _| member.notice(now));
                }
            }
            Order::Calm => {
                for index in 0..len {
                    if matches!(self.members[index].task, Task::Surge { .. }) {
                        self.members[index].task = Task::Hold;
                        if !self.members[index].is_alive() {
                            self.start(now, index);
                        }
                        self.after(now, index, |_, _, _, _, _| {});
                    }
                }
            }
            Order::Stop => {
                self.schedules.clear();
                self.timers.clear();
                for member in &mut self.members {
                    member.task = Task::Off;
                    member.end(now, Goodbye::Said);
                }
            }
        }
    }

    fn note(&mut self, index: usize, due: Option<Instant>) {
        let member = &mut self.members[index];
        member.due = due;
        if let Some(at) = due {
            self.timers.push(Reverse((at, index)));
        }
    }

    fn start(&mut self, now: Instant, index: usize) {
        if self.members[index].start(now, self.poll.registry()).is_err() {
            self.report.not_sent += 1;
        }
    }

    /// Lets a member do something, takes what follows, and notes when it is due next.
    fn after(
        &mut self,
        now: Instant,
        index: usize,
        act: impl FnOnce(&mut Member, Instant, &mio::Registry, &Target, &mut Vec<Seen>),
    ) {
        let mut seen = Vec::new();
        let member = &mut self.members[index];
        let before = member.due;
        act(member, now, self.poll.registry(), &self.target, &mut seen);
        member.go_on(now, &self.target, &mut seen);
        let due = member.due;
        if due != before || due.is_some_and(|at| at <= now) {
            self.note(index, due);
        }
        for seen in seen {
            self.count(seen);
        }
    }

    fn count(&mut self, seen: Seen) {
        let report = &mut self.report;
        match seen {
            Seen::Registered => report.registered += 1,
            Seen::Lost(reason) => *report.lost.entry(reason.to_owned()).or_default() += 1,
            Seen::Opened => {}
            Seen::Answered(wait) => {
                report.silences.answered += 1;
                let wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
                if self.waits.len() < MAX_WAITS {
                    self.waits.push(wait);
                }
                if wait > LONG_WAIT_MS && report.long_waits.len() < MAX_WAITS {
                    report.long_waits.push(wait);
                }
            }
            Seen::RelayedAnswered(wait) => report.relayed_waits.add(wait),
            Seen::Cut => report.flows_cut += 1,
            Seen::Roamed => report.roamed += 1,
            Seen::RoamCut => report.roams_cut += 1,
            Seen::RoamAnswered(wait) => {
                report.roam_answers.push(u32::try_from(wait.as_millis()).unwrap_or(u32::MAX));
            }
            Seen::VisitEnded { registered_ms, first_byte_ms, failed } => {
                report.visits.push(Visit { registered_ms, first_byte_ms, failed });
            }
            Seen::Surged => report.surged += 1,
            Seen::SurgeRegistered => report.surge_registered += 1,
            Seen::Renewed => report.renewed += 1,
            Seen::NotSent => report.not_sent += 1,
        }
    }

    /// Carries everything that is to be carried, for at most `longest`.
    ///
    /// # Errors
    /// The machine does not let us poll.
    pub fn turn(&mut self, longest: Duration) -> Result<(), FleetError> {
        let end = clock::now() + longest;
        loop {
            let now = clock::now();
            self.run_schedules(now);
            self.run_timers();
            let now = clock::now();
            if now >= self.wall_at {
                self.wall_at = now + WALL_INTERVAL;
                let wall = wall();
                for member in &mut self.members {
                    member.set_wall(now, wall);
                }
            }
            if now >= end {
                return Ok(());
            }
            let timer = self.timers.peek().map(|Reverse((at, _))| *at);
            let scheduled = self.schedules.iter().map(|schedule| schedule.next).min();
            let until = timer.into_iter().chain(scheduled).chain([end, self.wall_at]).min().unwrap_or(end);
            let wait = until.saturating_duration_since(clock::now());
            match self.poll.poll(&mut self.events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            let ready: Vec<usize> = self.events.iter().map(|event| event.token().0).collect();
            let mut scratch = std::mem::take(&mut self.scratch);
            for index in ready {
                let mut more = true;
                // Edge-triggered: what is left in a socket tells nobody.
                while more {
                    more = false;
                    let again = &mut more;
                    let buffer = &mut scratch;
                    self.after(clock::now(), index, |member, now, _, _, _| {
                        *again = member.receive(now, buffer)
                    });
                }
            }
            self.scratch = scratch;
        }
    }

    /// What was scheduled for a night asleep is not made up for in the morning.
    fn skip_sleep(&mut self) {
        let asleep = clock::asleep();
        let slept = asleep.saturating_sub(self.asleep);
        self.asleep = asleep;
        for schedule in &mut self.schedules {
            schedule.next += slept;
        }
    }

    fn run_schedules(&mut self, now: Instant) {
        self.skip_sleep();
        let mut schedules = std::mem::take(&mut self.schedules);
        for schedule in &mut schedules {
            while schedule.next <= now {
                let at = schedule.next;
                schedule.next += schedule.every;
                match &mut schedule.what {
                    What::Start { members } => {
                        let Some(index) = members.next() else { break };
                        self.members[index].task = Task::Hold;
                        self.start(now, index);
                        self.after(now, index, |_, _, _, _, _| {});
                    }
                    What::Visit { members, cursor } => {
                        // In turn; who is still out on a visit is passed over.
                        let behind = *cursor..members.end;
                        let is_free = |index: &usize| matches!(self.members[*index].task, Task::Off);
                        let free = behind.chain(members.start..*cursor).find(is_free);
                        let index = free.unwrap_or(*cursor);
                        *cursor = if index + 1 < members.end { index + 1 } else { members.start };
                        self.visit(now, index, at);
                    }
                    What::Roam { members, cursor } => {
                        let index = *cursor;
                        *cursor = if index + 1 < members.end { index + 1 } else { members.start };
                        self.after(now, index, |member, now, registry, _, seen| {
                            member.roam(now, registry, seen);
                        });
                    }
                }
            }
        }
        schedules.retain(|schedule| !matches!(&schedule.what, What::Start { members } if members.is_empty()));
        schedules.append(&mut self.schedules);
        self.schedules = schedules;
    }

    /// `asked` is when it should have begun: a late beginning counts as waiting.
    fn visit(&mut self, now: Instant, index: usize, asked: Instant) {
        if !matches!(self.members[index].task, Task::Off) {
            // More visits a deadline than there are members: said, never skipped silently.
            let failed = Some(format!("no member free within {} s", VISIT_DEADLINE.as_secs()));
            self.report.visits.push(Visit { registered_ms: None, first_byte_ms: None, failed });
            return;
        }
        self.members[index].task = Task::Visit { errand: Errand::new(now), asked, registered_ms: None };
        self.start(now, index);
        self.after(now, index, |_, _, _, _, _| {});
    }

    fn run_timers(&mut self) {
        // What becomes due meanwhile has its turn after the sockets.
        let until = clock::now();
        loop {
            let now = clock::now();
            let Some(&Reverse((at, index))) = self.timers.peek() else { return };
            if at > until {
                return;
            }
            self.timers.pop();
            if self.members[index].due == Some(at) {
                self.members[index].due = None;
                self.after(now, index, Member::handle_timeout);
            }
        }
    }

    /// What was seen since the last report.
    pub fn report(&mut self) -> Report {
        let now = clock::now();
        let mut report = std::mem::take(&mut self.report);
        let mut counts = (0, 0, 0);
        let mut waiting = 0;
        for member in &self.members {
            if matches!(member.task, Task::Hold | Task::Flow { .. }) {
                let (dials, requests, retries) = member.counts();
                counts = (counts.0 + dials, counts.1 + requests, counts.2 + retries);
                report.held += 1;
                report.up += usize::from(member.is_up());
            }
            if matches!(member.task, Task::Flow { .. }) {
                report.flows += 1;
                report.flows_open += usize::from(member.has_open_flow());
                let wait = member.waits_since().map(|since| now.saturating_duration_since(since));
                waiting =
                    waiting.max(wait.map_or(0, |wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)));
            }
        }
        report.dials = counts.0.saturating_sub(self.counted.0);
        report.requests = counts.1.saturating_sub(self.counted.1);
        report.retries = counts.2.saturating_sub(self.counted.2);
        self.counted = counts;
        let mut waits = std::mem::take(&mut self.waits);
        waits.sort_unstable();
        let at =
            |part: usize| waits.get((waits.len() * part / 100).min(waits.len().saturating_sub(1))).copied();
        report.silences = Silences {
            answered: report.silences.answered,
            longest_ms: waits.last().copied().unwrap_or_default().max(waiting),
            median_ms: at(50).unwrap_or_default(),
            p99_ms: at(99).unwrap_or_default(),
        };
        report
    }
}

/// Reports of several fleets as one.
impl std::iter::Sum for Report {
    fn sum<I: Iterator<Item = Self>>(reports: I) -> Self {
        reports.fold(Self::default(), |mut sum, report| {
            sum.held += report.held;
            sum.up += report.up;
            sum.flows += report.flows;
            sum.flows_open += report.flows_open;
            sum.flows_cut += report.flows_cut;
            let (mine, other) = (sum.silences, report.silences);
            sum.silences = Silences {
                answered: mine.answered + other.answered,
                longest_ms: mine.longest_ms.max(other.longest_ms),
                // Of several fleets the worst: a median of medians is no median.
                median_ms: mine.median_ms.max(other.median_ms),
                p99_ms: mine.p99_ms.max(other.p99_ms),
            };
            sum.long_waits.extend(report.long_waits);
            sum.relayed_waits.join(&report.relayed_waits);
            for (reason, count) in report.lost {
                *sum.lost.entry(reason).or_insert(0) += count;
            }
            sum.registered += report.registered;
            sum.dials += report.dials;
            sum.renewed += report.renewed;
            sum.requests += report.requests;
            sum.retries += report.retries;
            sum.visits.extend(report.visits);
            sum.roamed += report.roamed;
            sum.roams_cut += report.roams_cut;
            sum.roam_answers.extend(report.roam_answers);
            sum.surged += report.surged;
            sum.surge_registered += report.surge_registered;
            sum.not_sent += report.not_sent;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn members_have_addresses_of_their_own_in_loopback() {
        let addresses: std::collections::BTreeSet<_> = (0..40_000).map(source_of).collect();
        assert_eq!(addresses.len(), 40_000);
        assert!(
            addresses.iter().all(|address| address.is_loopback() && ![0, 255].contains(&address.octets()[3]))
        );
    }

    #[test]
    fn orders_and_reports_survive_their_way_as_json() {
        let order = Order::Visit { from: 3, to: 9, per_second: 4 };
        let text = serde_json::to_string(&order).expect("json");
        assert_eq!(text, r#"{"order":"visit","from":3,"to":9,"per_second":4}"#);
        assert_eq!(serde_json::from_str::<Order>(&text).expect("json"), order);
        let lost = BTreeMap::from([("idle".to_owned(), 2)]);
        let report = Report { up: 7, lost, ..Report::default() };
        let text = serde_json::to_string(&report).expect("json");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("json"), report);
    }
}
