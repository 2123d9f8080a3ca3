//! Agents that come while there is a flood.

use anyhow::Result;
use load_rig::{Crowd, Outcome};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// Attempts of one agent.
pub const TRIES: u32 = 3;
/// From its first packet on.
const DEADLINE: Duration = Duration::from_secs(10);
/// After which an attempt is given up for the next: three of them fit into the deadline.
const ATTEMPT: Duration = Duration::from_millis(3_300);
const AT_ONCE: usize = 64;

struct Coming {
    since: Instant,
    attempt_since: Instant,
    tries: u32,
}

/// Those who have come since this was made.
pub struct Honest {
    first: usize,
    next: usize,
    under_way: BTreeMap<usize, Coming>,
    waits: Vec<Duration>,
    failed: usize,
    came: usize,
    due: Option<Instant>,
}

impl Honest {
    pub const fn new(first: usize) -> Self {
        Self {
            first,
            next: first,
            under_way: BTreeMap::new(),
            waits: Vec::new(),
            failed: 0,
            came: 0,
            due: None,
        }
    }

    pub const fn next(&self) -> usize {
        self.next
    }

    pub const fn came(&self) -> usize {
        self.came
    }

    pub const fn failed(&self) -> usize {
        self.failed
    }

    pub const fn registered(&self) -> usize {
        self.waits.len()
    }

    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Of those whose time is over, how many registered.
    pub fn percent(&self) -> f64 {
        self.registered() as f64 * 100.0 / (self.registered() + self.failed + self.under_way()).max(1) as f64
    }

    pub fn p99(&self) -> Duration {
        let mut waits = self.waits.clone();
        waits.sort_unstable();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or_default()
    }

    fn come(&mut self, crowd: &mut Crowd, now: Instant) {
        if self.next < crowd.len() {
            let coming = Coming { since: now, attempt_since: now, tries: 1 };
            self.under_way.insert(self.next, coming);
            crowd.register(self.next);
            self.next += 1;
            self.came += 1;
        }
    }

    fn hear(&mut self, crowd: &mut Crowd) {
        let now = Instant::now();
        for (number, outcome) in crowd.take().outcomes {
            let Some(coming) = self.under_way.get_mut(&number) else { continue };
            match outcome {
                Outcome::Registered(_) => {
                    self.waits.push(now.saturating_duration_since(coming.since));
                    self.under_way.remove(&number);
                }
                // Its next attempt is due at once.
                Outcome::Failed(_) => coming.attempt_since = now.checked_sub(ATTEMPT).unwrap_or(now),
            }
        }
        let late: Vec<usize> = self
            .under_way
            .iter()
            .filter(|(_, coming)| now.saturating_duration_since(coming.attempt_since) >= ATTEMPT)
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            let Some(coming) = self.under_way.get_mut(&number) else { continue };
            crowd.leave(number);
            if coming.tries == TRIES || now.saturating_duration_since(coming.since) >= DEADLINE {
                self.under_way.remove(&number);
                self.failed += 1;
            } else {
                coming.tries += 1;
                coming.attempt_since = now;
                crowd.register(number);
            }
        }
    }

    /// As many as the machine can, some at a time.
    pub fn as_many_as_can(&mut self, crowd: &mut Crowd, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            while self.under_way.len() < AT_ONCE && self.next < crowd.len() {
                self.come(crowd, Instant::now());
            }
            crowd.turn(Duration::from_millis(1))?;
            self.hear(crowd);
        }
        Ok(())
    }

    /// So many a second, whatever becomes of those before.
    pub fn on_a_clock(&mut self, crowd: &mut Crowd, time: Duration, per_second: u32) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let now = Instant::now();
            if per_second > 0 {
                let mut due = self.due.unwrap_or(now);
                while due <= now {
                    self.come(crowd, now);
                    due += Duration::from_secs(1) / per_second;
                }
                self.due = Some(due);
            }
            crowd.turn(Duration::from_millis(2))?;
            self.hear(crowd);
        }
        Ok(())
    }

    /// Everybody who came goes.
    pub fn leave_all(&mut self, crowd: &mut Crowd) -> Result<()> {
        for number in self.first..self.next {
            crowd.leave(number);
            if number % 64 == 0 {
                crowd.turn(Duration::from_millis(1))?;
            }
        }
        crowd.turn(Duration::from_secs(1))?;
        crowd.take();
        Ok(())
    }
}
