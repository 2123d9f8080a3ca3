//! Randomness for spreading load. Not for secrets.

use std::time::Duration;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Anything from nothing to `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX - 1);
        Duration::from_millis(self.bits() % (millis + 1))
    }

    /// `around` ± a quarter.
    pub(crate) fn quarter(&mut self, around: Duration) -> Duration {
        around * 3 / 4 + self.up_to(around / 2)
    }

    /// Full jitter: anything up to `base` · 2^failures, at most `cap`.
    pub(crate) fn backoff(&mut self, base: Duration, failures: u32, cap: Duration) -> Duration {
        let most = base.saturating_mul(1 << failures.min(16)).min(cap);
        if planted::is("everybody-retries-at-once") {
            return most;
        }
        self.up_to(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_stay_in_their_bounds_and_differ() {
        let mut jitter = Jitter::new(1);
        let second = Duration::from_secs(1);
        let mut seen = std::collections::BTreeSet::new();
        for failures in 0..100 {
            assert!(jitter.backoff(second, failures, second * 60) <= second * 60);
            let quarter = jitter.quarter(second * 4);
            assert!(quarter >= second * 3 && quarter <= second * 5);
            seen.insert(quarter);
        }
        assert!(seen.len() > 90);
        // Those that failed as often, at the same time, do not come back at the same time: not the first time either.
        for failures in [0, 3] {
            let waits = (0..100).map(|_| jitter.backoff(second, failures, second * 60));
            let different: std::collections::BTreeSet<_> = waits.collect();
            assert!(different.len() > 80, "{failures}: {} of 100", different.len());
        }
    }
}
