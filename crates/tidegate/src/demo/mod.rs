//! `tidegate demo`: the whole system on one machine, to look at (`demo`) or as a proof (`demo --check`).

mod check;
pub(crate) mod fetch;
mod ports;
mod socks;
pub(crate) mod stage;

use crate::{
    cli::DemoArgs,
    output::{CommandResult, Failure, Format, Outcome, note, print_line},
    process,
};
use anyhow::Context as _;
use serde_json::json;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

/// A directory that is gone when the demo is.
enum Place {
    Temporary(tempfile::TempDir),
    Named(PathBuf),
}

impl Place {
    fn make(named: Option<&Path>) -> Result<Self, Failure> {
        let Some(named) = named else {
            return Ok(Self::Temporary(tempfile::Builder::new().prefix("tidegate-demo-").tempdir()?));
        };
        // Only a directory that this run made may be removed by it.
        std::fs::create_dir(named).with_context(|| {
            format!(
                "--dir {}: expected a directory that does not exist yet; it is removed at the end",
                named.display()
            )
        })?;
        Ok(Self::Named(std::path::absolute(named)?))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Named(path) => path,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Named(path) = self {
            let _ = std::fs::remove_dir_all(path);
        }
    }
}

/// Runs the demo. Whenever it is interrupted, what was started goes with its handle, and then its directory, which has
/// keys in it.
pub async fn run(args: &DemoArgs, format: Format, exec: Instant) -> CommandResult {
    let mut shutdown = process::Shutdown::listen();
    let place = Place::make(args.dir.as_deref())?;
    let download = place.path().join("cargo-manifest.bin");
    write_random_file(&download, args.download)?;
    let interrupted = |signal| Err(Failure::say(Outcome::Failed, format_args!("ended by {signal}")));
    if args.check {
        return tokio::select! {
            checked = check::run(place.path(), &download, format, exec) => checked,
            signal = shutdown.asked() => interrupted(signal),
        };
    }
    let shown = tokio::select! {
        shown = show(place.path(), &download, format, exec) => shown,
        signal = shutdown.asked() => return interrupted(signal),
    };
    let (stage, device) = shown?;
    shutdown.asked().await;
    note("Ending…");
    stage.end(vec![device]).await;
    Ok(Outcome::Done)
}

/// Fresh random bytes: nothing between the two ends can have seen or compress them.
fn write_random_file(path: &Path, mebibytes: u32) -> Result<(), Failure> {
    let mut file = std::fs::File::create_new(path)?;
    let mut block = vec![0; 1024 * 1024];
    for _ in 0..mebibytes {
        aws_lc_rs::rand::fill(&mut block)
            .map_err(|_| Failure::say(Outcome::Failed, "the random source failed"))?;
        file.write_all(&block)?;
    }
    Ok(())
}

/// Sets everything up and says where it is.
async fn show(
    dir: &Path,
    download: &Path,
    format: Format,
    exec: Instant,
) -> Result<(stage::Stage, stage::Device), Failure> {
    note("Starting a controller, a PoP, a private web site, its connector and a client: six processes…");
    let stage = stage::Stage::build(dir, download).await.map_err(|error| with_logs(error, dir))?;
    let mut device = stage.enrol("alice").await?;
    device.start().await?;
    let fetched = fetch::page(&device, stage.web).await.map_err(|error| with_logs(error, dir))?;
    let elapsed = exec.elapsed();
    let proxy = device.state().join("proxy-url");
    let state = dir.join("controller");
    let value = json!({
        "event": "ready", "role": "demo", "console": stage.url, "owner_link": stage.owner_link,
        "web": stage.web, "echo": stage.echo, "proxy_url_file": proxy, "first_byte_ms": elapsed.as_millis(),
        "fetched_with": fetched.with, "client_state": device.state(), "controller_state": state,
    });
    format.print(&value, || {
        format!(
            "A page came through the tunnel {:.1} s after the start ({} bytes, fetched with {}).\n\n\
             Look at the console (its certificate is the demo's own):\n    {}\n\n\
             Try, in another terminal:\n    \
             echo \"proxy = $(cat {})\" | curl -K - http://{}/\n    \
             tidegate status --state {}\n    \
             tidegate admin --state {} list devices\n\n\
             Then stop the control plane and try again: access goes on.\n    kill -9 {}\n\n\
             Ctrl-C ends everything and removes {}.",
            elapsed.as_secs_f64(),
            fetched.bytes,
            fetched.with,
            stage.owner_link,
            proxy.display(),
            stage.web,
            device.state().display(),
            state.display(),
            stage.controller_pid().unwrap_or_default(),
            dir.display(),
        )
    });
    Ok((stage, device))
}

/// The demo's directory goes away: what the processes logged has to be said now.
pub(crate) fn with_logs(error: anyhow::Error, dir: &Path) -> Failure {
    for name in ["controller", "pop-1", "pop-2", "connector", "site", "load", "alice", "bob"] {
        if let Ok(text) = std::fs::read_to_string(dir.join(format!("{name}.log")))
            && !text.trim().is_empty()
        {
            let tail: Vec<&str> = text.lines().rev().take(20).collect();
            note(&format!("--- {name} said:"));
            tail.iter().rev().for_each(|line| note(line));
        }
    }
    Failure::new(Outcome::Failed, error)
}

/// One line of a check.
pub(crate) struct Line<'a> {
    pub(crate) step: usize,
    pub(crate) what: &'a str,
    pub(crate) outcome: Result<String, String>,
    pub(crate) elapsed: std::time::Duration,
}

impl Line<'_> {
    pub(crate) fn print(&self, format: Format) {
        let (word, detail) = match &self.outcome {
            Ok(detail) => ("ok", detail),
            Err(detail) => ("FAILED", detail),
        };
        let ms = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX);
        match format {
            Format::Json => print_line(
                &json!({"step": self.step, "what": self.what, "ok": self.outcome.is_ok(), "detail": detail, "ms": ms})
                    .to_string(),
            ),
            Format::Text => print_line(&format!("{:>2}  {word:<6}  {:>6} ms  {}: {detail}", self.step, ms, self.what)),
        }
    }
}
