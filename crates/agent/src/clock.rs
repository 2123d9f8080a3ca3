//! The agent's time, and the age of the control plane's word.
//!
//! Three sources, none of which is believed alone:
//!
//! - **Controllers**, by their beacons and by the nonces that they sign. Each has a line of its own: its clock
//!   as this agent reconstructs it. A beacon says only that the controller's clock was *at least* there when it
//!   came, for a PoP may have held it back; a signed nonce says where it *is*, to within a round trip.
//! - **The machine's wall clock**, which anybody with a root shell or a dead battery sets.
//! - **The floor**: what was believed before, written every 10 minutes, plus what has passed since.
//!
//! What passes is measured by the caller's `now`, which has to count the time that the machine was asleep.
//!
//! One controller leads by at most [`MOST_AHEAD`] from where two witnesses last put the time, however often it
//! steps: two controllers agree, or one and the machine's clock. While controllers are heard, time is their
//! line. When none is, it is the later of floor and machine: a wrong clock can close access on this one node,
//! and lengthens no lease.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use trust::UnixMs;
use wire::ControllerId;

/// How old the newest beacon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Freshness {
    /// At most 15 s.
    Fresh,
    /// Older, or no controller has signed the time for this agent yet. Not unhealthy.
    Stale,
    /// Older than 60 s, or none came yet.
    Isolated,
}

impl Freshness {
    /// The word for people and metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Isolated => "isolated",
        }
    }
}

const FRESH: Duration = Duration::from_secs(15);
const ISOLATED: Duration = Duration::from_secs(60);
/// One controller moves time by at most this much: no single one can expire everything.
pub(crate) const MOST_AHEAD: Duration = Duration::from_secs(300);
/// How old a floor on disk may be by itself: that often it is written.
pub(crate) const FLOOR_INTERVAL: Duration = Duration::from_secs(600);
/// Two clocks agree within this: each is off by up to 60 s "always".
const AGREE: Duration = Duration::from_secs(120);
/// Nothing that is further back than this against what is known is taken for the present.
const SKEW: Duration = Duration::from_secs(60);
/// An anchor is as good as new for this long: it is asked for hourly, and may be missed once.
const ANCHOR_LASTS: Duration = Duration::from_secs(2 * 3600);
/// The crystal of a machine: 200 ppm, one part in 5,000, is twice what is sold.
const DRIFT: u32 = 5_000;
/// What another controller said this long ago still says something about the time.
const WITNESS_LASTS: Duration = Duration::from_secs(3600);
/// A controller that spoke within this is there, and may contradict.
const CONTRADICTS: Duration = Duration::from_secs(60);
/// Controllers remembered; a bundle has fewer.
const MAX_CONTROLLERS: usize = 16;
/// A step of the machine's clock.
const STEP: Duration = Duration::from_secs(2);
/// While nobody has said what time it is and two clocks disagree by far, each of them gets its turn.
const REACH_TURN: Duration = Duration::from_secs(10);
/// Nobody has run this program before: a floor that is older is none (UTC 2024-01-01).
const BEGINNING: UnixMs = UnixMs::from_millis(1_704_067_200_000);
/// No certificate of an agent or of a PoP lives longer.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// A point on the monotonic clock and the wall time it had.
#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    wall: UnixMs,
}

impl Mark {
    /// Zero says that nothing is known, and no time that passes makes a date of that.
    fn read(self, now: Instant) -> UnixMs {
        if self.wall.as_millis() == 0 {
            return self.wall;
        }
        self.wall.plus(now.saturating_duration_since(self.at))
    }
}

fn apart(one: UnixMs, other: UnixMs) -> Duration {
    one.since(other).max(other.since(one))
}

/// What is known of one controller's clock.
#[derive(Debug, Clone, Copy)]
struct Line {
    /// Its clock, as reconstructed.
    mark: Mark,
    /// Whether it signed a nonce: then `mark` is exact to a round trip, else it may be behind.
    is_anchored: bool,
    /// The newest of its beacons that was believed.
    newest: Option<UnixMs>,
    /// What it said last, believed or not.
    claim: Mark,
}

/// The agent's time.
#[derive(Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// The machine's wall clock, as last told.
    machine: Mark,
    /// Time was at least this, and never goes back.
    floor: Mark,
    /// Time by the controllers that are believed.
    line: Mark,
    /// Where two witnesses last put the line, or where this run began.
    base: Mark,
    /// How far ahead of the base one controller may lead.
    room: Duration,
    controllers: BTreeMap<ControllerId, Line>,
    anchored_at: Option<Instant>,
    /// The machine slept, or its clock stepped, since then.
    is_unsettled: bool,
}

/// What a beacon did to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    /// It is its controller's newest.
    Newest,
    /// It is too far ahead to be believed.
    Ahead,
    /// One as new was here before.
    No,
}

/// Whether the machine's clock went on as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    Steady,
    Stepped,
}

impl Clock {
    pub(crate) fn new(now: Instant, machine: UnixMs, floor: Option<UnixMs>) -> Self {
        let machine = Mark { at: now, wall: machine };
        // Versions of before wrote how long they had run, as a date in 1970, where nobody had told them the time.
        let floor = floor.filter(|floor| *floor >= BEGINNING).unwrap_or_default();
        let floor = Mark { at: now, wall: floor };
        Self {
            started: now,
            machine,
            floor,
            line: floor,
            base: floor,
            // As old as it is when it is read, and the step that one controller may make.
            room: MOST_AHEAD + FLOOR_INTERVAL,
            controllers: BTreeMap::new(),
            anchored_at: None,
            is_unsettled: false,
        }
    }

    /// Without a floor: when a controller made what this agent holds. No floor, for one controller's clock
    /// says so alone; but where its signed nonces may begin.
    pub(crate) const fn begin_at(&mut self, made: UnixMs) {
        if self.floor.wall.as_millis() == 0 {
            self.line.wall = made;
            self.base.wall = made;
        }
    }

    pub(crate) fn set_machine(&mut self, now: Instant, wall: UnixMs) -> Machine {
        let stepped = apart(self.machine.read(now), wall) > STEP;
        self.machine = Mark { at: now, wall };
        if stepped { Machine::Stepped } else { Machine::Steady }
    }

    /// The time: the controllers' while they are heard, else the later of floor and machine.
    pub(crate) fn wall(&self, now: Instant) -> UnixMs {
        if self.anchored_at.is_some() && self.freshness(now) != Freshness::Isolated {
            self.line.read(now)
        } else {
            self.alone(now)
        }
    }

    fn alone(&self, now: Instant) -> UnixMs {
        self.machine.read(now).max(self.floor.read(now))
    }

    /// What would be written as the floor now; zero when nothing is known that could be.
    pub(crate) fn floor(&self, now: Instant) -> UnixMs {
        self.floor.read(now)
    }

    /// The time by which certificates and keys on the way to a controller are judged. What it opens is the way
    /// to somebody who is not believed; but with a machine's clock that is off by years it is the only way to
    /// hear what time it is. So while nobody has said, each of two clocks far apart gets its turn.
    pub(crate) fn reach(&self, now: Instant) -> UnixMs {
        if self.anchored_at.is_some() {
            return self.line.read(now);
        }
        let (machine, line) = (self.machine.read(now), self.line.read(now));
        let turn = now.saturating_duration_since(self.started).as_secs() / REACH_TURN.as_secs();
        // By a clock so far ahead of what was written down here this agent's own certificate has ended: nobody would let it
        // in if that clock were right.
        let first = u64::from(machine.since(line) > CERTIFICATE_LIFE);
        if line.as_millis() == 0 || apart(machine, line) <= AGREE {
            self.alone(now)
        } else if (turn + first).is_multiple_of(2) {
            machine.max(line)
        } else {
            machine.min(line).max(self.floor.read(now))
        }
    }

    /// How far one controller may lead, now.
    fn limit(&self, now: Instant) -> UnixMs {
        let drift = now.saturating_duration_since(self.base.at) / DRIFT;
        self.base.read(now).plus(self.room + drift)
    }

    /// Whether somebody else says so too: another controller, or the machine's clock unless another controller that
    /// is there contradicts.
    fn is_witnessed(&self, now: Instant, by: ControllerId, time: UnixMs) -> bool {
        let age = |line: &Line| now.saturating_duration_since(line.claim.at);
        let mut others = self
            .controllers
            .iter()
            .filter(|(id, _)| **id != by)
            .map(|(_, line)| line)
            .filter(|line| age(line) <= WITNESS_LASTS);
        let agrees = |line: &Line| apart(line.claim.read(now), time) <= AGREE;
        if others.clone().any(agrees) {
            return true;
        }
        let contradicts = |line: &Line| {
            age(line) <= CONTRADICTS && apart(line.claim.read(now), self.line.read(now)) <= AGREE
        };
        apart(self.machine.read(now), time) <= AGREE && !others.any(contradicts)
    }

    /// Notes what a controller says, believed or not: others are held against it.
    fn claimed(&mut self, by: ControllerId, claim: Mark) -> &mut Line {
        if !self.controllers.contains_key(&by) && self.controllers.len() >= MAX_CONTROLLERS {
            let oldest = self.controllers.iter().min_by_key(|(_, line)| line.claim.at).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.controllers.remove(&oldest);
            }
        }
        let new = Line { mark: claim, is_anchored: false, newest: None, claim };
        let line = self.controllers.entry(by).or_insert(new);
        line.claim = claim;
        line
    }

    fn settle(&mut self, now: Instant, line: Mark, is_witnessed: bool) {
        self.line = line;
        if is_witnessed {
            self.base = line;
            self.room = MOST_AHEAD;
        }
        if line.read(now) > self.floor.read(now) {
            self.floor = line;
        }
    }

    /// A beacon came.
    pub(crate) fn heard(&mut self, now: Instant, by: ControllerId, time: UnixMs) -> Moved {
        if self.controllers.get(&by).and_then(|line| line.newest).is_some_and(|newest| time <= newest) {
            return Moved::No;
        }
        let arrived = Mark { at: now, wall: time };
        let is_witnessed = self.is_witnessed(now, by, time);
        let is_believed =
            is_witnessed || time <= self.limit(now) || planted::is("one-controller-sets-the-time");
        let line = self.claimed(by, arrived);
        if !is_believed {
            // Its clock is off, or ours; what it says is no sign of the present until somebody agrees.
            return Moved::Ahead;
        }
        if line.newest.is_none() || line.mark.read(now) < time {
            line.mark = arrived;
        }
        line.newest = Some(time);
        // Forward only: a PoP may have held it back.
        if time > self.line.read(now) {
            self.settle(now, arrived, is_witnessed);
        }
        Moved::Newest
    }

    /// A controller signed a nonce of ours that was sent at `sent`. Says whether it is believed.
    pub(crate) fn anchored(&mut self, sent: Instant, now: Instant, by: ControllerId, time: UnixMs) -> bool {
        // It was signed after it was sent: by this reading nothing lasts longer than it should.
        let told = Mark { at: sent, wall: time };
        let read = told.read(now);
        let is_witnessed = self.is_witnessed(now, by, read);
        let most = self.floor.read(now).max(self.base.read(now));
        let is_near = read <= self.limit(now) && read.plus(SKEW) >= most;
        // Back, further than clocks differ: only with a witness, and never behind what one controller could
        // have led by.
        let is_set_right = is_witnessed && read.plus(MOST_AHEAD) >= most;
        let line = self.claimed(by, told);
        if !(is_near || is_set_right) {
            return false;
        }
        *line = Line { mark: told, is_anchored: true, newest: Some(time), claim: told };
        self.anchored_at = Some(now);
        self.is_unsettled = false;
        self.settle(now, told, is_witnessed);
        true
    }

    /// The machine slept, or its clock stepped: the anchor is to be renewed.
    pub(crate) const fn unsettle(&mut self) {
        self.is_unsettled = true;
    }

    fn is_anchor_current(&self, now: Instant) -> bool {
        !self.is_unsettled
            && self.anchored_at.is_some_and(|at| now.saturating_duration_since(at) <= ANCHOR_LASTS)
    }

    /// Whether a controller's clock is known by a nonce that it signed itself.
    pub(crate) fn is_known(&self, by: ControllerId) -> bool {
        self.controllers.get(&by).is_some_and(|line| line.is_anchored)
    }

    /// How long ago a controller made the newest beacon; `None` before the first.
    pub(crate) fn age(&self, now: Instant) -> Option<Duration> {
        let age = |line: &Line| {
            let newest = line.newest?;
            if planted::is("a-beacon-is-as-old-as-its-arrival") {
                return Some(now.saturating_duration_since(line.claim.at));
            }
            let own = line.mark.read(now);
            let reference = if line.is_anchored {
                own
            } else if self.anchored_at.is_some() {
                own.max(self.line.read(now))
            } else {
                // Held against the floor: what was heard before a restart is not the present after it.
                own.max(self.alone(now))
            };
            Some(reference.since(newest))
        };
        self.controllers.values().filter_map(age).min()
    }

    pub(crate) fn freshness(&self, now: Instant) -> Freshness {
        match self.age(now) {
            Some(_) if planted::is("always-fresh") => Freshness::Fresh,
            Some(age) if age <= FRESH && self.is_anchor_current(now) => Freshness::Fresh,
            Some(age) if age <= ISOLATED => Freshness::Stale,
            _ => Freshness::Isolated,
        }
    }

    /// When freshness changes next if nothing comes.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        let age = self.age(now)?;
        let after = |bound: Duration| now + bound.saturating_sub(age);
        let at = match self.freshness(now) {
            Freshness::Fresh => {
                let anchor = self.anchored_at.map(|at| at + ANCHOR_LASTS);
                after(FRESH).min(anchor.unwrap_or(now))
            }
            Freshness::Stale => after(ISOLATED),
            Freshness::Isolated => return None,
        };
        // One millisecond behind the bound, where it is true.
        Some(at + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests;
