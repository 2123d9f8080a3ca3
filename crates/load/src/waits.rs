//! How long many waited, in a fixed room: counts by length, each a twentieth longer than the one before.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Between two lengths that are told apart.
const STEP: f64 = 1.05;

/// Waits, counted by their length: 5 % apart from a microsecond on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Waits(BTreeMap<u16, u64>);

impl Waits {
    /// One more.
    pub fn add(&mut self, wait: Duration) {
        let micros = wait.as_secs_f64() * 1e6;
        // Of a u64 of nanoseconds it is below 600.
        let step = micros.max(1.0).log(STEP).round() as u16;
        *self.0.entry(step).or_default() += 1;
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The length that `part` of them (0 to 1) did not exceed, to 5 %; none of none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (self.count() as f64 * part.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        let step = self.0.iter().find_map(|(step, count)| {
            seen += count;
            (seen >= rank).then_some(*step)
        })?;
        Some(Duration::from_secs_f64(STEP.powi(i32::from(step)) / 1e6))
    }

    /// Those of another, too.
    pub fn join(&mut self, other: &Self) {
        for (step, count) in &other.0 {
            *self.0.entry(*step).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_right_to_five_percent_wherever_it_was_counted() {
        let (mut one, mut other) = (Waits::default(), Waits::default());
        assert_eq!(one.quantile(0.5), None);
        for ms in 1..=1_000_u64 {
            let half = if ms % 2 == 0 { &mut one } else { &mut other };
            half.add(Duration::from_millis(ms));
        }
        one.join(&other);
        assert_eq!(one.count(), 1_000);
        for (part, expected) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1_000.0)] {
            let found = one.quantile(part).expect("there are some").as_secs_f64() * 1e3;
            assert!((found / expected - 1.0).abs() < 0.05, "{part}: {found} ms and not {expected} ms");
        }
        let text = serde_json::to_string(&one).expect("json");
        assert_eq!(serde_json::from_str::<Waits>(&text).expect("json"), one);
    }

    #[test]
    fn no_wait_is_too_short_or_too_long_to_be_counted() {
        let mut waits = Waits::default();
        waits.add(Duration::ZERO);
        waits.add(Duration::from_secs(u64::from(u32::MAX)));
        assert_eq!(waits.count(), 2);
        assert_eq!(waits.quantile(0.0), Some(Duration::from_micros(1)));
    }
}
