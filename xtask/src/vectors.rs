//! The golden vectors: written by the `trust` crate, judged by a decoder that shares no line with it.

use crate::process::{Interrupt, run as run_program};
use anyhow::Result;
use std::{path::PathBuf, process::Command, time::Duration};

const INSTALL: Duration = Duration::from_secs(5 * 60);

fn environment() -> PathBuf {
    crate::target_directory().join("vectors-venv")
}

/// Runs the judge; says what it said.
///
/// # Errors
/// The tools cannot be had, or a vector does not hold.
pub fn run(interrupt: &Interrupt) -> Result<String> {
    let venv = environment();
    let python = venv.join("bin/python");
    let requirements = crate::repository().join("tests/vectors/requirements.txt");
    if !venv.join("complete").is_file() {
        run_program(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), INSTALL, interrupt)?
            .success("python3 -m venv")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
            .arg(&requirements);
        run_program(&mut pip, INSTALL, interrupt)?.success("pip install")?;
        // An interrupted installation is made again.
        std::fs::write(venv.join("complete"), "")?;
    }
    let mut judge = Command::new(&python);
    judge.arg(crate::repository().join("tests/vectors/judge.py"));
    let said =
        run_program(&mut judge, Duration::from_secs(60), interrupt)?.success("tests/vectors/judge.py")?;
    Ok(said.stdout.trim().to_owned())
}
