//! When flow records are shipped to a controller, sans-IO: soon after they were made, one batch at a time,
//! again after a pause when no controller took them, never while there is nothing.

use std::time::{Duration, Instant};

/// How long the first record waits for company: a batch for a busy connector, soon enough for somebody
/// who looks at the log while trying something.
const GATHER: Duration = Duration::from_secs(1);
/// How long the answer may take. The agent core tries three times in 33 s and says when it gives up; this is
/// for an answer that never comes in either form.
const ANSWER: Duration = Duration::from_secs(40);
/// First pause after a failure; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause: a controller that comes back has the log within a minute.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing to ship.
    Empty,
    /// To be read from the spool then.
    Waiting { until: Instant },
    /// The spool was asked.
    Reading { more: More },
    /// A controller was asked.
    Shipping { batch: u64, until: Instant },
}

/// Whether a record came while the spool was being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Came,
    None,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read the oldest batch from the spool.
    Read,
    /// Nothing before then.
    WaitUntil(Instant),
    /// Nothing until a record or an answer comes.
    Idle,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Shipper {
    stage: Stage,
    pause: Duration,
    shipped: u64,
}

impl Shipper {
    /// Begins with what an earlier process may have left.
    pub const fn new(now: Instant) -> Self {
        Self { stage: Stage::Waiting { until: now }, pause: FIRST_PAUSE, shipped: 0 }
    }

    /// Batches that a controller has.
    pub const fn shipped(&self) -> u64 {
        self.shipped
    }

    /// A record went to the spool.
    pub fn recorded(&mut self, now: Instant) {
        match &mut self.stage {
            Stage::Empty => self.stage = Stage::Waiting { until: now + GATHER },
            Stage::Reading { more } => *more = More::Came,
            Stage::Waiting { .. } | Stage::Shipping { .. } => {}
        }
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Instant) -> Step {
        if let Stage::Shipping { until, .. } = self.stage
            && now >= until
        {
            self.failed(now, Duration::ZERO);
        }
        match self.stage {
            Stage::Empty | Stage::Reading { .. } => Step::Idle,
            Stage::Waiting { until } if now >= until => {
                self.stage = Stage::Reading { more: More::None };
                Step::Read
            }
            Stage::Waiting { until } | Stage::Shipping { until, .. } => Step::WaitUntil(until),
        }
    }

    /// The spool gave a batch, which is on its way to a controller now; or had none.
    pub fn read(&mut self, now: Instant, batch: Option<u64>) {
        self.stage = match (batch, self.stage) {
            (Some(batch), _) => Stage::Shipping { batch, until: now + ANSWER },
            (None, Stage::Reading { more: More::Came }) => Stage::Waiting { until: now + GATHER },
            (None, _) => Stage::Empty,
        };
    }

    /// A controller has a batch. Whether it is the one that was asked about, and may be forgotten.
    pub fn taken(&mut self, now: Instant, taken: u64) -> bool {
        match self.stage {
            Stage::Shipping { batch, .. } if batch == taken => {
                self.pause = FIRST_PAUSE;
                self.shipped += 1;
                // Whether there is more is the spool's to say.
                self.stage = Stage::Waiting { until: now };
                true
            }
            _ => false,
        }
    }

    /// No controller took it; `retry_after` is what it said.
    pub fn failed(&mut self, now: Instant, retry_after: Duration) {
        if matches!(self.stage, Stage::Shipping { .. } | Stage::Reading { .. }) {
            self.stage = Stage::Waiting { until: now + self.pause.max(retry_after.min(LONGEST_PAUSE)) };
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A controller can be reached again: no need to wait.
    pub fn reachable(&mut self, now: Instant) {
        if let Stage::Waiting { until } = &mut self.stage {
            *until = (*until).min(now + GATHER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> (Shipper, Instant) {
        #[allow(clippy::disallowed_methods, reason = "the start of a virtual clock")]
        let now = Instant::now();
        (Shipper::new(now), now)
    }

    #[test]
    fn an_empty_spool_is_asked_once_and_then_left_alone() {
        let (mut shipper, now) = start();
        assert_eq!(shipper.step(now), Step::Read);
        shipper.read(now, None);
        assert_eq!(shipper.step(now + Duration::from_secs(3_600)), Step::Idle);
    }

    #[test]
    fn a_record_made_while_the_spool_was_read_is_not_forgotten() {
        let (mut shipper, now) = start();
        shipper.step(now);
        shipper.recorded(now);
        shipper.read(now, None);
        assert_eq!(shipper.step(now), Step::WaitUntil(now + GATHER));
    }

    #[test]
    fn records_gather_for_a_second_and_go_batch_by_batch() {
        let (mut shipper, now) = start();
        shipper.step(now);
        shipper.read(now, None);
        shipper.recorded(now);
        shipper.recorded(now);
        assert_eq!(shipper.step(now), Step::WaitUntil(now + GATHER));
        let now = now + GATHER;
        assert_eq!(shipper.step(now), Step::Read);
        shipper.read(now, Some(7));
        assert!(!shipper.taken(now, 6), "an answer about another batch");
        assert!(shipper.taken(now, 7));
        assert_eq!(shipper.step(now), Step::Read, "there may be more");
        assert_eq!(shipper.shipped(), 1);
    }

    #[test]
    fn without_an_answer_it_tries_again_at_growing_intervals() {
        let (mut shipper, mut now) = start();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(shipper.step(now), Step::Read);
            shipper.read(now, Some(7));
            now += ANSWER;
            let Step::WaitUntil(until) = shipper.step(now) else { panic!("a pause") };
            pauses.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
        shipper.step(now);
        shipper.read(now, Some(7));
        shipper.failed(now, Duration::ZERO);
        shipper.reachable(now);
        assert_eq!(shipper.step(now), Step::WaitUntil(now + GATHER));
    }
}
