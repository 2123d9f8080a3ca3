//! How many failures an address may make: a bounded table of counts.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

/// Address blocks that are remembered at once; when it is full the strangers share one count.
const MAX_BLOCKS: usize = 4096;

/// The part of an address that one party usually holds: an IPv4 /24 or an IPv6 /64 (libraries.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Block {
    V4([u8; 3]),
    V6([u8; 8]),
    Others,
}

impl Block {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, c, _] = v4.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(v6) => Self::V6(v6.octets()[..8].try_into().expect("8 of 16 bytes")),
        }
    }
}

/// Counts failures in windows of fixed length.
#[derive(Debug)]
pub(crate) struct FailureLimit {
    most: u32,
    window: Duration,
    counts: Mutex<BTreeMap<Block, (Instant, u32)>>,
}

impl FailureLimit {
    pub(crate) const fn new(most: u32, window: Duration) -> Self {
        Self { most, window, counts: Mutex::new(BTreeMap::new()) }
    }

    /// Whether another try may be made; when not, how long to wait.
    pub(crate) fn check(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let counts = self.counts.lock().expect("nothing panics while it holds the counts");
        let block = Block::of(from);
        let count =
            counts.get(&block).or_else(|| counts.get(&Block::Others).filter(|_| counts.len() >= MAX_BLOCKS));
        match count {
            Some((since, failures)) if *failures >= self.most => {
                match self.window.checked_sub(now.saturating_duration_since(*since)) {
                    Some(wait) if !wait.is_zero() => Err(wait),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, from: IpAddr, now: Instant) {
        let mut counts = self.counts.lock().expect("nothing panics while it holds the counts");
        let mut block = Block::of(from);
        if counts.len() >= MAX_BLOCKS && !counts.contains_key(&block) {
            counts.retain(|_, (since, _)| now.saturating_duration_since(*since) < self.window);
            if counts.len() >= MAX_BLOCKS {
                block = Block::Others;
            }
        }
        let count = counts.entry(block).or_insert((now, 0));
        if now.saturating_duration_since(count.0) >= self.window {
            *count = (now, 0);
        }
        count.1 = count.1.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_one_block_stop_that_block_for_the_rest_of_the_window() {
        let limit = FailureLimit::new(3, Duration::from_secs(60));
        let start = crate::clock::now();
        let here: IpAddr = "203.0.113.7".parse().unwrap();
        for _ in 0..3 {
            assert_eq!(limit.check(here, start), Ok(()));
            limit.failed(here, start);
        }
        let later = start + Duration::from_secs(20);
        assert_eq!(limit.check("203.0.113.8".parse().unwrap(), later), Err(Duration::from_secs(40)));
        assert_eq!(limit.check("198.51.100.1".parse().unwrap(), later), Ok(()));
        assert_eq!(limit.check(here, start + Duration::from_secs(60)), Ok(()));
    }

    #[test]
    fn the_table_is_bounded_whoever_tries() {
        let limit = FailureLimit::new(3, Duration::from_secs(60));
        let now = crate::clock::now();
        for index in 0..10_000_u32 {
            limit.failed(IpAddr::from((index << 8).to_be_bytes()), now);
        }
        assert!(limit.counts.lock().unwrap().len() <= MAX_BLOCKS + 1);
        assert!(limit.check("255.1.1.1".parse().unwrap(), now).is_err());
    }
}
