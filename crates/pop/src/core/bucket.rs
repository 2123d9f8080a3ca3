//! A token bucket on injected time.

use std::time::{Duration, Instant};

/// What a bucket allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Units a second, over any long time.
    pub per_second: u64,
    /// Units at once after a pause.
    pub burst: u64,
}

/// The state of one bucket, in billionths of a unit, so that slow rates lose nothing to rounding.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    nano_units: u128,
    filled_at: Instant,
}

const NANO: u128 = 1_000_000_000;

impl Bucket {
    pub(crate) fn full(allowance: Allowance, now: Instant) -> Self {
        Self { nano_units: u128::from(allowance.burst) * NANO, filled_at: now }
    }

    /// Takes `units` if they are there.
    pub(crate) fn take(&mut self, allowance: Allowance, now: Instant, units: u64) -> Result<(), Empty> {
        let passed = now.saturating_duration_since(self.filled_at).as_nanos();
        if passed > 0 {
            let gained = passed.saturating_mul(u128::from(allowance.per_second));
            self.nano_units = self.nano_units.saturating_add(gained).min(u128::from(allowance.burst) * NANO);
            self.filled_at = now;
        }
        let cost = u128::from(units) * NANO;
        match self.nano_units.checked_sub(cost) {
            Some(rest) => {
                self.nano_units = rest;
                Ok(())
            }
            None => Err(Empty { missing_nano: cost - self.nano_units }),
        }
    }

    /// Whether nothing was taken for so long that it is as it was at the beginning.
    pub(crate) fn is_full(&mut self, allowance: Allowance, now: Instant) -> bool {
        self.take(allowance, now, 0).is_ok() && self.nano_units >= u128::from(allowance.burst) * NANO
    }
}

/// The bucket does not hold enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Empty {
    missing_nano: u128,
}

impl Empty {
    /// When the same request would pass, if nobody else takes.
    pub(crate) fn wait(self, allowance: Allowance) -> Duration {
        let rate = u128::from(allowance.per_second.max(1));
        Duration::from_nanos(u64::try_from(self.missing_nano.div_ceil(rate)).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let allowance = Allowance { per_second: 10, burst: 3 };
        let mut bucket = Bucket::full(allowance, start);
        for _ in 0..3 {
            assert!(bucket.take(allowance, start, 1).is_ok());
        }
        let empty = bucket.take(allowance, start, 1).expect_err("burst used");
        assert_eq!(empty.wait(allowance), Duration::from_millis(100));
        assert!(bucket.take(allowance, start + Duration::from_millis(99), 1).is_err());
        assert!(bucket.take(allowance, start + Duration::from_millis(101), 1).is_ok());
    }
}
