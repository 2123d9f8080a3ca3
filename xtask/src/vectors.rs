//! The golden vectors: written by the tests of the `policy` crate, judged by a decoder that shares no line with it.

use crate::{
    process::{Interrupt, run as run_program},
    python,
};
use anyhow::Result;
use std::{process::Command, time::Duration};

/// Runs the judge; says what it said.
///
/// # Errors
/// The tools cannot be had, or a vector does not hold.
pub fn run(interrupt: &Interrupt) -> Result<String> {
    let python = python::environment("vectors", interrupt)?;
    let mut judge = Command::new(&python);
    judge.arg(crate::repository().join("tests/vectors/judge.py"));
    let said =
        run_program(&mut judge, Duration::from_secs(60), interrupt)?.success("tests/vectors/judge.py")?;
    Ok(said.stdout.trim().to_owned())
}
