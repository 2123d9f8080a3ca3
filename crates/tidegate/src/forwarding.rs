//! Kernel mode of a connector: the guardian's process, and what it starts.

use crate::{
    cli::{ConnectorArgs, ForwardingMode},
    output::{Failure, Format, Outcome},
    process, tun,
};
use anyhow::Context as _;
use connector::Forwarding;
use machine::{Cleaned, Ended, PreparedSite, SiteOptions, Unavailable, prepare_site};
use std::{os::unix::fs::MetadataExt as _, path::Path};
use tokio::process::Command;

/// What this process is.
pub enum Chosen {
    /// The connector.
    Worker(Forwarding),
    /// A guardian, whose worker has ended.
    Guardian(Outcome),
}

/// A worker gives up every privilege, a guardian what it does not need. While there is one thread: they are a thread's.
pub fn give_up_privileges(args: &ConnectorArgs) -> std::io::Result<()> {
    match args.mode {
        _ if args.seat => machine::confine(),
        ForwardingMode::Kernel | ForwardingMode::Auto => machine::restrain(),
        ForwardingMode::Userspace => Ok(()),
    }
}

/// Takes the seat that a guardian offers; or is that guardian, for as long as its worker runs; or neither.
pub async fn choose(args: &ConnectorArgs, state: &Path, format: Format) -> Result<Chosen, Failure> {
    if args.seat {
        let seat = machine::take_site_seat().await.context("the guardian's interface")?;
        return Ok(Chosen::Worker(Forwarding::Kernel(Box::new(seat))));
    }
    if args.mode == ForwardingMode::Userspace {
        put_back_leftovers();
        return Ok(Chosen::Worker(Forwarding::Userspace { reason: None }));
    }
    let mut options = SiteOptions::new(&args.interface, &tun::machine_dir());
    if let Some(range) = args.site_range {
        options.ranges_v4 = vec![range];
    }
    match prepare_site(&options).await {
        Ok(prepared) => guard(prepared, args, state, format).await.map(Chosen::Guardian),
        Err(error) if args.mode == ForwardingMode::Auto => {
            tracing::warn!(%error, "flows are carried in userspace");
            Ok(Chosen::Worker(Forwarding::Userspace { reason: Some(error.to_string()) }))
        }
        Err(error) => Err(Failure::new(Outcome::Failed, error)),
    }
}

/// A connector without an interface starts: what one with an interface left behind goes first, where that is ours to do.
fn put_back_leftovers() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    match machine::cleanup_sites(&tun::machine_dir()) {
        Ok(Cleaned::Restored) => {
            tracing::warn!("an earlier connector was killed and had left its table behind; it was taken out");
        }
        Err(error @ Unavailable::SiteJournal(_)) => tracing::warn!(%error),
        Ok(_) | Err(_) => {}
    }
}

async fn guard(
    prepared: PreparedSite,
    args: &ConnectorArgs,
    state: &Path,
    format: Format,
) -> Result<Outcome, Failure> {
    let mut stop = tun::Stop::listen()?;
    if prepared.cleaned() == Cleaned::Restored {
        tracing::warn!("an earlier connector was killed and had left its table behind; it was taken out");
    }
    let worker = worker(args, state, format)?;
    match prepared.run(worker, stop.asked()).await {
        Ok(Ended::Asked | Ended::Worker(Some(0))) => Ok(Outcome::Done),
        // It has said why.
        Ok(Ended::Worker(Some(code))) => Ok(tun::outcome(code)),
        Ok(Ended::Worker(None)) => Err(Failure::say(
            Outcome::Failed,
            "the connector was killed; the machine's tables and forwarding are as they were",
        )),
        Err(error) => Err(Failure::new(Outcome::Failed, error)),
    }
}

/// The connector's process: as the owner of the state directory, whoever started this one.
fn worker(args: &ConnectorArgs, state: &Path, format: Format) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(program);
    if format == Format::Json {
        command.arg("--json");
    }
    command.args(["connector", "--seat", "--mode", "kernel", "--state"]).arg(state);
    if args.no_port_mapping {
        command.arg("--no-port-mapping");
    }
    if let Some(address) = args.diagnostics {
        command.args(["--diagnostics", &address.to_string()]);
    }
    let owner = std::fs::metadata(state).with_context(|| format!("{}", state.display()))?;
    if owner.uid() != 0 && rustix::process::geteuid().is_root() {
        // Changing to another user takes every capability and every other group away.
        command.uid(owner.uid()).gid(owner.gid());
    }
    // A group of its own: Ctrl-C reaches the guardian, which ends the worker in order.
    command.process_group(0).env(process::PARENT, std::process::id().to_string());
    Ok(command)
}
