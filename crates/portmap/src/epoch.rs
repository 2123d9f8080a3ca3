//! Whether a gateway forgot its mappings, told from the seconds it counts since it began.

use std::time::{Duration, Instant};

/// What an epoch says about the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The gateway went on.
    Continued,
    /// The gateway lost its state: every mapping has to be asked for again.
    Reset,
}

/// The last epoch that a gateway told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch {
    seconds: u32,
    heard: Instant,
}

impl Epoch {
    /// Remembers what was heard at `now`.
    pub const fn new(seconds: u32, now: Instant) -> Self {
        Self { seconds, heard: now }
    }

    /// RFC 6887, section 8.5: both sides' clocks may differ by a sixteenth and two seconds.
    pub fn judge_pcp(self, seconds: u32, now: Instant) -> Verdict {
        if self.seconds > seconds.saturating_add(1) {
            return Verdict::Reset;
        }
        let client = now.saturating_duration_since(self.heard).as_secs();
        let server = u64::from(seconds.saturating_sub(self.seconds));
        let apart = client + 2 < server - server / 16 || server + 2 < client - client / 16;
        if apart { Verdict::Reset } else { Verdict::Continued }
    }

    /// RFC 6886, section 3.6: less than seven eighths of the time that passed, less two seconds, is a reboot.
    pub fn judge_natpmp(self, seconds: u32, now: Instant) -> Verdict {
        let passed = now.saturating_duration_since(self.heard).min(Duration::from_secs(u32::MAX.into()));
        let expected = u64::from(self.seconds) + passed.as_secs() * 7 / 8;
        if u64::from(seconds) + 2 < expected { Verdict::Reset } else { Verdict::Continued }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_goes_on_is_no_reboot() {
        let start = Instant::now();
        let epoch = Epoch::new(1000, start);
        let later = start + Duration::from_secs(600);
        assert_eq!(epoch.judge_pcp(1600, later), Verdict::Continued);
        assert_eq!(epoch.judge_pcp(1565, later), Verdict::Continued, "a sixteenth slow");
        assert_eq!(epoch.judge_natpmp(1600, later), Verdict::Continued);
        assert_eq!(epoch.judge_natpmp(1525, later), Verdict::Continued, "an eighth slow");
    }

    #[test]
    fn a_clock_that_began_again_is_a_reboot() {
        let start = Instant::now();
        let epoch = Epoch::new(1000, start);
        let later = start + Duration::from_secs(600);
        assert_eq!(epoch.judge_pcp(3, later), Verdict::Reset);
        assert_eq!(epoch.judge_pcp(1200, later), Verdict::Reset, "counted on, yet too little");
        assert_eq!(epoch.judge_pcp(9000, later), Verdict::Reset, "another clock");
        assert_eq!(epoch.judge_natpmp(3, later), Verdict::Reset);
        assert_eq!(epoch.judge_natpmp(1500, later), Verdict::Reset);
    }
}
