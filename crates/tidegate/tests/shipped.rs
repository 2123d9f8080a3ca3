//! What a shipped binary does not have: clocks that can be set, and bugs on purpose.
#![cfg(not(feature = "test-clock"))]

use std::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_tidegate");

fn contains(binary: &[u8], word: &str) -> bool {
    binary.windows(word.len()).any(|window| window == word.as_bytes())
}

#[test]
fn no_environment_variable_sets_the_clocks_of_a_shipped_binary_or_plants_a_bug_in_it() {
    let binary = std::fs::read(BINARY).expect("the binary was built for this test");
    assert!(contains(&binary, "TIDEGATE_JOIN"), "a variable that is read is found by this search");
    for word in ["TIDEGATE_TEST_CLOCK", "TIDEGATE_PLANTED", "widest-resource-decides"] {
        assert!(!contains(&binary, word), "{word}");
    }
}

#[test]
fn a_shipped_binary_says_which_build_a_clock_jump_needs() {
    let output = Command::new(BINARY).args(["drill", "clock-jump"]).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--features test-clock"), "{said}");
}
