//! The program that replays the corpus, from outside. That it is tested here also has `cargo xtask test` build it with the
//! other tests.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn a_target_that_is_not_there_is_refused_with_the_names_of_those_that_are() {
    let replay = Command::new(env!("CARGO_BIN_EXE_replay")).args(["--target", "nothing"]).output().unwrap();
    assert!(!replay.status.success());
    let said = String::from_utf8(replay.stderr).unwrap();
    assert!(said.contains("no such target; there are:"), "{said}");
    for (name, _) in fuzz_targets::TARGETS {
        assert!(said.contains(name), "{name} is missing in: {said}");
    }
}
