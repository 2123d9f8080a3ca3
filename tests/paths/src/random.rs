//! The one source of chance: SplitMix64 (Steele, Lea, Flood 2014).

use std::time::Duration;

/// Chance from a seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed, the same numbers.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below a bound, which is not zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.bits() % bound
    }

    /// True this often in a thousand.
    pub const fn in_thousand(&mut self, times: u64) -> bool {
        self.below(1000) < times
    }

    /// Between two times.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX).max(1);
        least + Duration::from_micros(self.below(span))
    }
}
