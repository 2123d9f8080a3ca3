//! `tidegate run -- COMMAND`: one program and what it starts reach resources by a proxy of their own, without privileges
//! and without an interface: for containers, timers and build machines.

use crate::{
    agents,
    cli::RunArgs,
    output::{CommandResult, Failure, Outcome, note},
    places,
    process::Shutdown,
};
use anyhow::Context as _;
use client::{Client, ClientOptions, ControlClient};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::IsTerminal as _,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
};
use tokio::process::Command;
use trust::Role;

/// Hosts that a program never asks a proxy for.
const DIRECT: &str = "localhost,127.0.0.1,::1";

/// Runs the command and gives its exit code.
pub async fn run(args: &RunArgs) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    enrol_once(args, &state).await?;
    // A client that runs already is used, and goes on afterwards.
    let (client, url_file) = match ControlClient::in_run_dir(&state).status().await {
        Ok(status) => (None, status.proxy.url_file),
        Err(_) => {
            let client = start(args, &state).await?;
            let url_file = client.proxy().url_file.clone();
            (Some(client), url_file)
        }
    };
    let status = command(args, &url_file).await;
    if let Some(client) = client {
        client.wait(std::future::ready(())).await;
    }
    Ok(outcome(status?))
}

/// Enrols, where nobody has and a key is there. A container that starts again with its state goes on as the device that
/// it is.
async fn enrol_once(args: &RunArgs, state: &Path) -> Result<(), Failure> {
    let Some(file) = &args.key_file else {
        return Ok(state::StateDir::expect(state, Role::Device)?);
    };
    if state::StateDir::expect(state, Role::Device).is_ok() {
        return Ok(());
    }
    let key = places::login_key(None, Some(file))?;
    let enrolled = agents::enrol_device(&key, state, args.name.clone()).await?;
    // Standard output is the command's.
    note(&format!("This device is {} of {}.", enrolled.name, enrolled.belongs_to));
    Ok(())
}

async fn start(args: &RunArgs, state: &Path) -> Result<Client, Failure> {
    let options = ClientOptions {
        state: state.to_owned(),
        run_dir: state.to_owned(),
        proxy: std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 0)),
        forwards: Vec::new(),
        port_mapping: places::port_mapping(args.no_port_mapping),
    };
    Ok(Client::start(options).await?)
}

async fn command(args: &RunArgs, url_file: &Path) -> anyhow::Result<ExitStatus> {
    let mut shutdown = Shutdown::listen();
    let url = std::fs::read_to_string(url_file).with_context(|| url_file.display().to_string())?;
    let url = url.trim();
    // Names are for the proxy to resolve.
    let socks = url.replacen("http://", "socks5h://", 1);
    let (program, rest) = args.command.split_first().context("a command")?;
    let mut command = Command::new(program);
    command.args(rest);
    for (name, value) in
        [("http_proxy", url), ("https_proxy", url), ("all_proxy", socks.as_str()), ("no_proxy", DIRECT)]
    {
        // curl reads the small ones, others the large ones.
        command.env(name, value).env(name.to_uppercase(), value);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}: is it installed?", PathBuf::from(program).display()))?;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(status?),
            asked = shutdown.asked() => {
                // Ctrl-C reaches the command from the terminal itself.
                if asked == "SIGINT" && std::io::stdin().is_terminal() {
                    continue;
                }
                // Passed on; the command decides what becomes of it.
                let signal = if asked == "SIGINT" { Signal::INT } else { Signal::TERM };
                if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)) {
                    let _ = kill_process(pid, signal);
                }
            }
        }
    }
}

/// The command's own exit code; that of a killed one as shells give it.
fn outcome(status: ExitStatus) -> Outcome {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    match code.and_then(|code| u8::try_from(code).ok()) {
        Some(0) => Outcome::Done,
        Some(code) => Outcome::Command(code),
        None => Outcome::Failed,
    }
}
