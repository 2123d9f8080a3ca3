//! One process full of clients (`tidegate load-worker`), told what to do by lines of JSON.

use crate::process::{describe, signal_group};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::Duration,
};

/// What a worker's clients are there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They hold a session and a running connection.
    Flows,
    /// They hold a session.
    Held,
    /// They come for one connection each.
    Visitors,
}

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    /// What its clients are there for.
    pub kind: Kind,
    /// How many there are.
    pub members: usize,
    /// Sessions, as it said last.
    pub up: usize,
    /// Open connections, as it said last.
    pub open: usize,
    child: Child,
    input: ChildStdin,
    reports: Receiver<Value>,
}

impl Worker {
    /// Starts one; all its clients are off.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, kind: Kind, members: usize, log: &Path) -> Result<Self> {
        let what = describe(&command);
        let log = File::options().create(true).append(true).open(log)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let input = child.stdin.take().context("the worker's input")?;
        let output = child.stdout.take().context("the worker's output")?;
        let (sender, reports) = mpsc::channel();
        // Ends with the pipe.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                if value.get("held").is_some() && sender.send(value).is_err() {
                    return;
                }
            }
        });
        Ok(Self { kind, members, up: 0, open: 0, child, input, reports })
    }

    /// Tells it something.
    ///
    /// # Errors
    /// It has ended.
    pub fn order(&mut self, order: &Value) -> Result<()> {
        writeln!(self.input, "{order}").context("a load worker has ended")
    }

    /// What it has seen since the last call.
    ///
    /// # Errors
    /// It has ended.
    pub fn take(&mut self) -> Result<Vec<Value>> {
        let mut seen = Vec::new();
        loop {
            match self.reports.try_recv() {
                Ok(report) => {
                    let count = |name: &str| usize::try_from(report[name].as_u64().unwrap_or(0)).unwrap_or(0);
                    (self.up, self.open) = (count("up"), count("flows_open"));
                    seen.push(report);
                }
                Err(TryRecvError::Empty) => return Ok(seen),
                Err(TryRecvError::Disconnected) => {
                    bail!("a load worker has ended; its words are in load.log")
                }
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        signal_group(&self.child, libc::SIGTERM);
        thread::sleep(Duration::from_millis(100));
        signal_group(&self.child, libc::SIGKILL);
        let _ = self.child.wait();
    }
}
