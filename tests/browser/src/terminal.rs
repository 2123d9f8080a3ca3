//! A terminal that signs a device in by a code.

use crate::{Stage, binary};
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
};

/// `tidegate login ADDRESS`, which waits for somebody who confirms its code. It ends when dropped.
pub struct Terminal {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Terminal {
    /// Starts it for a device of this name; `believe` says by what it knows the installation.
    ///
    /// # Errors
    /// It does not start.
    pub fn login(stage: &Stage, name: &str, believe: &[&str]) -> Result<Self> {
        let mut child = Command::new(binary()?)
            .args(["--json", "login", &stage.url, "--name", name, "--state"])
            .arg(stage.directory().join(name))
            .args(believe)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("tidegate login")?;
        let lines = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, lines })
    }

    /// Its next line.
    ///
    /// # Errors
    /// It ended, or said something else than JSON.
    pub fn says(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the terminal said {line:?}"))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The system's.
    pub fn ends(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("waiting for a terminal")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
