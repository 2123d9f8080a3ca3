//! TUN mode: the guardian's process, what it starts, and `tidegate cleanup`.

use crate::{
    cli::{TunWhen, UpArgs},
    client_commands::common_arguments,
    output::{CommandResult, Failure, Format, Outcome},
    process,
};
use anyhow::Context as _;
use client::{TunState, TunStatus};
use machine::{Cleaned, DnsMode, Ended, Options, Prepared, Unavailable};
use serde_json::json;
use std::{
    ffi::OsString,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
};

/// Names the directory of journal and lock, for several network namespaces with resolver files of their own on one file
/// system.
const MACHINE_DIR: &str = "TIDEGATE_MACHINE_DIR";

fn usual_options(interface: &str) -> Options {
    let mut options = Options::new(interface, policy::INNER_V4);
    options.journal = machine_dir();
    options
}

/// Where the machine's journals are; a connector's lie beside it.
pub fn machine_dir() -> PathBuf {
    match std::env::var_os(MACHINE_DIR).filter(|dir| !dir.is_empty()) {
        Some(dir) => dir.into(),
        None => Options::new("", policy::INNER_V4).journal,
    }
}

fn options(args: &UpArgs) -> Options {
    let mut options = usual_options(&args.interface);
    if let Some(range) = args.synthetic_v4 {
        options.synthetic_v4 = vec![range];
    }
    if let Some(range) = args.synthetic_v6 {
        options.synthetic_v6 = vec![range];
    }
    options
}

/// What a process that was told these arguments is to be told again.
pub fn arguments(args: &UpArgs) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = Vec::new();
    let when = match args.tun {
        None => return arguments,
        Some(TunWhen::On) => "--tun=on",
        Some(TunWhen::Auto) => "--tun=auto",
    };
    arguments.extend([when.into(), "--interface".into(), (&args.interface).into()]);
    if let Some(range) = args.synthetic_v4 {
        arguments.extend(["--synthetic-v4".into(), range.to_string().into()]);
    }
    if let Some(range) = args.synthetic_v6 {
        arguments.extend(["--synthetic-v6".into(), range.to_string().into()]);
    }
    for domain in &args.search {
        arguments.extend(["--search".into(), domain.as_str().into()]);
    }
    arguments
}

/// A worker gives up every privilege, a guardian what it does not need. While there is one thread: they are a thread's.
pub fn give_up_privileges(args: &UpArgs) -> std::io::Result<()> {
    match args {
        UpArgs { seat: true, .. } => machine::confine(),
        UpArgs { tun: Some(_), foreground: true, .. } => machine::restrain(),
        _ => Ok(()),
    }
}

/// Where a client in the background logs. Root writes nothing into a directory of another user, who could have made
/// that name a link to anything.
pub fn log_file(args: &UpArgs, state: &Path) -> std::io::Result<PathBuf> {
    let is_foreign =
        args.tun.is_some() && rustix::process::geteuid().is_root() && std::fs::metadata(state)?.uid() != 0;
    if !is_foreign {
        return Ok(state.join("client.log"));
    }
    let dir = options(args).journal;
    machine::private_directory(&dir)?;
    Ok(dir.join("client.log"))
}

/// Makes the interface.
pub async fn prepare(args: &UpArgs) -> Result<Prepared, Unavailable> {
    machine::prepare(options(args)).await
}

/// Runs this process as guardian: starts the client as a worker without privileges, and puts everything back when it
/// has ended, however it did.
pub async fn guard(prepared: Prepared, args: &UpArgs, state: &Path, format: Format) -> CommandResult {
    let mut stop = Stop::listen()?;
    if prepared.cleaned() == Cleaned::Restored {
        tracing::warn!(
            "an earlier client was killed and had left its resolver settings behind; they were put back"
        );
    }
    let worker = worker(args, state, format)?;
    match prepared.run(worker, stop.asked()).await {
        Ok(Ended::Asked | Ended::Worker(Some(0))) => Ok(Outcome::Done),
        // It has said why.
        Ok(Ended::Worker(Some(code))) => Ok(outcome(code)),
        Ok(Ended::Worker(None)) => Err(Failure::say(
            Outcome::Failed,
            "the client was killed; routes and resolver settings are as they were",
        )),
        Err(error) => Err(Failure::new(Outcome::Failed, error)),
    }
}

/// What a worker's exit code says.
pub const fn outcome(code: i32) -> Outcome {
    match code {
        2 => Outcome::Usage,
        3 => Outcome::NotRunning,
        4 => Outcome::Denied,
        5 => Outcome::Later,
        _ => Outcome::Failed,
    }
}

/// The client's process: as the owner of the state directory, whoever started this one.
fn worker(args: &UpArgs, state: &Path, format: Format) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = Command::new(program);
    if format == Format::Json {
        command.arg("--json");
    }
    command.args(common_arguments(args, state)).arg("--seat");
    for domain in &args.search {
        command.args(["--search", domain.as_str()]);
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

/// The signals that ask a guardian to end; without these handlers it would die and leave everything as it is.
pub struct Stop([tokio::signal::unix::Signal; 4]);

impl Stop {
    /// Listens from now on.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
            signal(SignalKind::quit())?,
        ]))
    }

    /// Resolves when this process is asked to end.
    pub async fn asked(&mut self) {
        let [interrupt, terminate, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}

/// A client without an interface starts: if one with an interface was killed before, its resolver settings go first.
/// Where this is not root's process, or another client runs, they are not ours to touch.
pub fn put_back_leftovers() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    match machine::cleanup(&usual_options("")) {
        Ok(Cleaned::Restored) => tracing::warn!(
            "an earlier client was killed and had left its resolver settings behind; they were put back"
        ),
        Err(error @ (Unavailable::Untrusted { .. } | Unavailable::LeftOver(_))) => tracing::warn!(%error),
        Ok(_) | Err(_) => {}
    }
}

/// `tidegate cleanup`.
pub fn cleanup(format: Format) -> CommandResult {
    let options = usual_options("");
    let failed = |error| Failure::new(Outcome::Failed, error);
    let sites = machine::cleanup_sites(&machine_dir()).map_err(failed)?;
    let cleaned = match machine::cleanup(&options) {
        // A client that runs has left nothing behind; what a connector had left is gone.
        Err(Unavailable::Running) if sites == Cleaned::Restored => Cleaned::Nothing,
        cleaned => cleaned.map_err(failed)?,
    };
    let (word, text) = match cleaned {
        Cleaned::Nothing => ("nothing", "Nothing was left behind."),
        Cleaned::Restored => ("restored", "The resolver settings are as they were before the client."),
        Cleaned::Foreign => {
            ("foreign", "Another program has written the resolver settings since; they stay as they are.")
        }
    };
    let site = if sites == Cleaned::Restored { "restored" } else { "nothing" };
    format.print(&json!({"event": "cleanup", "resolver": word, "site": site}), || match sites {
        Cleaned::Restored => {
            format!("{text}\nA connector's table and forwarding are as they were before it.")
        }
        _ => text.to_owned(),
    });
    Ok(Outcome::Done)
}

/// How TUN mode stands, in lines.
pub fn status_text(tun: &TunStatus) -> String {
    let mut text = String::new();
    let joined = |items: Vec<String>| items.join(", ");
    match tun.state {
        TunState::Unavailable => {
            let reason = tun.reason.as_deref().unwrap_or("unknown");
            return format!("No interface, the proxy alone: {reason}\n");
        }
        TunState::Starting => text.push_str("The interface is being set up.\n"),
        TunState::On => {}
    }
    let addresses = joined(tun.addresses.iter().map(ToString::to_string).collect());
    let routes = joined(tun.routes.iter().map(ToString::to_string).collect());
    text.push_str(&format!("Interface {}: {addresses}\n", tun.interface.as_deref().unwrap_or("?")));
    text.push_str(&format!("Routes into it: {routes}\n"));
    for conflict in &tun.conflicts {
        let word = if conflict.routed { "In part" } else { "Not" };
        text.push_str(&format!("{word} routed: {}: {}\n", conflict.prefix, conflict.why));
    }
    if let Some(dns) = &tun.dns {
        let how = match dns.mode {
            DnsMode::Resolved => "asked by systemd-resolved for private domains",
            DnsMode::File => "asked by every program through /etc/resolv.conf",
            DnsMode::Off => "not asked by anybody",
        };
        let upstreams = joined(dns.upstreams.iter().map(ToString::to_string).collect());
        text.push_str(&format!("Names at {}: {how}; all others from {upstreams}\n", dns.address));
        if let Some(note) = &dns.note {
            text.push_str(&format!("{note}\n"));
        }
    }
    if let Some(privileges) = &tun.privileges {
        let capabilities =
            if privileges.capabilities { "with capabilities" } else { "without any capability" };
        let owns = if privileges.uid == 0 {
            " (it still owns root's files; a state directory of another user avoids that)"
        } else {
            ""
        };
        text.push_str(&format!("The client runs as user {}, {capabilities}{owns}\n", privileges.uid));
    }
    for note in &tun.notes {
        text.push_str(&format!("{note}\n"));
    }
    text
}
