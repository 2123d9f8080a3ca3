//! Bugs on purpose, so that the tests can be tested.
//!
//! This crate owns one question: is this bug planted? In every build but a test build the answer is `false` at compile
//! time, and neither the bug nor its name is in the binary. A test build (`--features planted/bugs`) asks the environment
//! variable `TIDEGATE_PLANTED` once, so that one build serves every bug. It refuses to know what the bugs are:
//! `cargo xtask planted` lists them with the invariant that each breaks and the test that must go red.
//!
//! ```
//! // A build without bugs has none, whatever it is asked.
//! assert!(!planted::is("anything"));
//! ```

/// Whether this bug is planted: never.
#[cfg(not(feature = "bugs"))]
#[must_use]
#[inline(always)]
pub const fn is(_bug: &str) -> bool {
    false
}

/// Whether this bug is planted: by the environment, read once.
#[cfg(feature = "bugs")]
#[must_use]
pub fn is(bug: &str) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<String> = OnceLock::new();
    PLANTED.get_or_init(|| std::env::var("TIDEGATE_PLANTED").unwrap_or_default()) == bug
}
