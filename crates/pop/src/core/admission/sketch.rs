//! How often a source has come, in memory that does not grow with the number of sources.

use crate::core::random::{Random, Seed};
use aws_lc_rs::hmac;
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

/// Counters in a row. Four rows of them, two windows: 128 KiB whatever comes.
const WIDTH: usize = 8_192;
const ROWS: usize = 4;
/// A count is of this window and the one before.
const WINDOW: Duration = Duration::from_secs(10);

/// A count-min sketch (Cormode, Muthukrishnan 2005) over two windows: never below the truth, and above it only for
/// who shares all four counters with somebody busier. Its places are keyed: nobody outside can aim at a neighbour.
pub(crate) struct Sketch {
    key: hmac::Key,
    windows: [Vec<u16>; 2],
    began: Instant,
}

impl std::fmt::Debug for Sketch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sketch(…)")
    }
}

impl Sketch {
    pub(crate) fn new(seed: &Seed, purpose: &'static str, now: Instant) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &Random::new(seed, purpose).block());
        Self { key, windows: [vec![0; WIDTH * ROWS], vec![0; WIDTH * ROWS]], began: now }
    }

    fn places(&self, of: &[u8]) -> [usize; ROWS] {
        let tag = hmac::sign(&self.key, of);
        let mut places = [0; ROWS];
        for ((row, place), bytes) in places.iter_mut().enumerate().zip(tag.as_ref().chunks_exact(8)) {
            let bits = u64::from_be_bytes(bytes.try_into().expect("chunks of 8 have 8 bytes"));
            *place = row * WIDTH + usize::try_from(bits % WIDTH as u64).expect("below 8,192");
        }
        places
    }

    fn turn(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.began);
        if passed < WINDOW {
            return;
        }
        self.windows.swap(0, 1);
        self.windows[0].fill(0);
        if passed >= 2 * WINDOW {
            self.windows[1].fill(0);
        }
        self.began = now;
    }

    /// Counts one more.
    pub(crate) fn add(&mut self, now: Instant, of: &[u8]) {
        self.turn(now);
        for place in self.places(of) {
            let count = &mut self.windows[0][place];
            *count = count.saturating_add(1);
        }
    }

    /// How often, in the last ten to twenty seconds.
    pub(crate) fn count(&mut self, now: Instant, of: &[u8]) -> u32 {
        self.turn(now);
        let [new, old] = &self.windows;
        let counts = self.places(of).into_iter().map(|place| u32::from(new[place]) + u32::from(old[place]));
        counts.min().unwrap_or_default()
    }
}

/// What one subscriber has: an IPv4 address, or an IPv6 /56 (RFC 6177 section 2).
pub(crate) fn prefix_of(source: IpAddr) -> [u8; 8] {
    let mut prefix = [0; 8];
    match source.to_canonical() {
        IpAddr::V4(ip) => {
            prefix[0] = 4;
            prefix[1..5].copy_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            prefix[0] = 6;
            prefix[1..].copy_from_slice(&ip.octets()[..7]);
        }
    }
    prefix
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    use super::*;

    fn sketch(now: Instant) -> Sketch {
        Sketch::new(&Seed::from_random([7; 32]), "test", now)
    }

    #[test]
    fn what_came_often_is_told_from_what_came_once_among_ten_thousand() {
        let now = Instant::now();
        let mut sketch = sketch(now);
        for number in 0_u32..10_000 {
            sketch.add(now, &number.to_be_bytes());
        }
        for _ in 0..100 {
            sketch.add(now, b"busy");
        }
        assert!(sketch.count(now, b"busy") >= 100);
        let wrong = (0_u32..10_000).filter(|number| sketch.count(now, &number.to_be_bytes()) > 6).count();
        assert!(wrong < 100, "{wrong} of 10,000 that came once are taken for busy");
    }

    #[test]
    fn a_count_is_forgotten_after_two_windows() {
        let now = Instant::now();
        let mut sketch = sketch(now);
        sketch.add(now, b"a");
        assert_eq!(sketch.count(now + Duration::from_secs(11), b"a"), 1);
        assert_eq!(sketch.count(now + Duration::from_secs(22), b"a"), 0);
    }

    #[test]
    fn addresses_of_one_household_are_one_source() {
        let same = |a: &str, b: &str| prefix_of(a.parse().expect("ip")) == prefix_of(b.parse().expect("ip"));
        assert!(same("2001:db8:0:100::1", "2001:db8:0:1ff::2"));
        assert!(!same("2001:db8:0:100::1", "2001:db8:0:200::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
    }
}
