//! Counting what a step's program ran, from what it printed.

/// Passed and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Passed.
    pub passed: u32,
    /// Failed.
    pub failed: u32,
}

impl Count {
    /// A step that counts as one.
    pub const ONE_PASSED: Self = Self { passed: 1, failed: 0 };
    /// A step that counts as one and failed.
    pub const ONE_FAILED: Self = Self { passed: 0, failed: 1 };

    /// Both added.
    pub const fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }
}

/// Nextest's summary: `Summary [ 1.2s] 9 tests run: 5 passed (1 slow), 3 failed, 1 timed out, 2 skipped`.
/// What did not pass and was not skipped has failed.
pub fn nextest(said: &str) -> Option<Count> {
    let line = said.lines().rev().find(|line| line.trim_start().starts_with("Summary ["))?;
    let (_, rest) = line.split_once(']')?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    // After an early end nextest says `7/9 tests run`: what did not run did not pass.
    let total: u32 = words.first()?.rsplit('/').next()?.parse().ok()?;
    let position = words.iter().position(|word| word.trim_end_matches(',') == "passed")?;
    let passed: u32 = words.get(position.checked_sub(1)?)?.parse().ok()?;
    Some(Count { passed, failed: total.saturating_sub(passed) })
}

/// Every `test result: ok. 3 passed; 1 failed; …` of libtest, added.
pub fn libtest(said: &str) -> Option<Count> {
    let mut sum = None;
    for line in said.lines().filter(|line| line.starts_with("test result:")) {
        let number = |what: &str| -> Option<u32> {
            let before = line.split(what).next()?;
            before.split_whitespace().last()?.parse().ok()
        };
        let count = Count { passed: number(" passed;")?, failed: number(" failed;")? };
        sum = Some(sum.unwrap_or_default());
        sum = sum.map(|sum: Count| sum.plus(count));
    }
    sum
}

/// A last line of our own programs: `…: 8 steps passed, 0 failed in …` or `12 passed, 0 failed`.
pub fn plain(said: &str) -> Option<Count> {
    said.lines().rev().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number_before = |what: &str| {
            let position = words.iter().position(|word| word.trim_end_matches(',') == what)?;
            words[..position].iter().rev().take(2).find_map(|word| word.parse::<u32>().ok())
        };
        Some(Count { passed: number_before("passed")?, failed: number_before("failed")? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nextest_summary_counts_everything_that_did_not_pass() {
        let said = "    Finished\n     Summary [   1.234s] 9 tests run: 5 passed (1 slow), 3 failed, 1 timed out, 2 skipped\n        FAIL x\n";
        assert_eq!(nextest(said), Some(Count { passed: 5, failed: 4 }));
        let cut = "     Summary [   1.234s] 7/9 tests run: 7 passed, 0 skipped\n";
        assert_eq!(nextest(cut), Some(Count { passed: 7, failed: 2 }));
        assert_eq!(nextest("error: could not compile"), None);
    }

    #[test]
    fn doctest_results_are_added() {
        let said = "test result: ok. 3 passed; 0 failed; 0 ignored; finished\ntest result: FAILED. 1 passed; 2 failed; 0 ignored\n";
        assert_eq!(libtest(said), Some(Count { passed: 4, failed: 2 }));
        assert_eq!(libtest("nothing"), None);
    }

    #[test]
    fn our_own_summaries_are_read() {
        assert_eq!(plain("lab: 8 steps passed, 1 failed in 2.1 s\n"), Some(Count { passed: 8, failed: 1 }));
        assert_eq!(plain("12 passed, 0 failed\n"), Some(Count { passed: 12, failed: 0 }));
        assert_eq!(plain("killed"), None);
    }
}
