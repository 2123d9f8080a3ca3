//! `cargo xtask lab`: real processes in network namespaces. Needs root.

mod daemon;
mod first_bytes;
mod fleet;
mod namespace;
mod nat;
pub mod outage;
mod probe;
mod report;
mod router;
mod self_check;
pub mod services;
pub mod throughput;
mod topology;
mod whole_network;

use crate::process::Interrupt;
use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use std::{net::SocketAddr, process::Command};

/// How to print.
#[derive(Debug, Args)]
pub struct Output {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Output {
    fn form(&self) -> report::Form {
        if self.json { report::Form::Json } else { report::Form::Text }
    }
}

/// What to run in the lab.
#[derive(Debug, Subcommand)]
pub enum Lab {
    /// The lab's own networks, without Tidegate.
    SelfCheck {
        #[command(flatten)]
        output: Output,
    },
    /// Serve, connector and client in three networks; a real web server and a real PostgreSQL.
    FirstBytes {
        #[command(flatten)]
        output: Output,
    },
    /// A client in TUN mode: programs that nobody here wrote reach real servers by name, and the machine is afterwards as
    /// it was.
    WholeNetwork {
        #[command(flatten)]
        options: whole_network::Options,
        #[command(flatten)]
        output: Output,
    },
    /// Which path is found between which networks, against docs/nat-expected.md.
    Nat {
        #[command(flatten)]
        options: nat::MatrixOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Downloads that go on while the network changes under them.
    NatScenarios {
        #[command(flatten)]
        options: nat::ScenarioOptions,
        #[command(flatten)]
        output: Output,
    },
    /// What each outage of a one-host installation does to access, against docs/outage-expected.md.
    Outage {
        #[command(flatten)]
        options: outage::Options,
        #[command(flatten)]
        output: Output,
    },
    /// Controller and database gone for an hour, while clients and connectors restart, roam and connect.
    LongOutage {
        #[command(flatten)]
        options: outage::LongOptions,
        #[command(flatten)]
        output: Output,
    },
    /// Removes what a killed lab left behind.
    Clean,
    /// Inside a namespace: answers datagrams with the address they came from.
    #[command(hide = true)]
    UdpEcho {
        #[arg(long)]
        listen: SocketAddr,
        /// An echo to ask first, from the same port.
        #[arg(long)]
        greet: Option<SocketAddr>,
    },
    /// Inside a namespace: asks a STUN server.
    #[command(hide = true)]
    StunAsk {
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        server: SocketAddr,
    },
    /// Inside a namespace: asks a resolver, often.
    #[command(hide = true)]
    DnsAsk {
        #[arg(long)]
        server: std::net::IpAddr,
        #[arg(long)]
        name: String,
        #[arg(long)]
        times: usize,
    },
    /// Inside a namespace: answers each HTTP request with a body that never ends.
    #[command(hide = true)]
    Ticker {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Inside a namespace: sends each line back.
    #[command(hide = true)]
    LineEcho {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Inside a namespace: a TCP proxy that delays, trickles or says nothing, as a file says.
    #[command(hide = true)]
    FaultProxy {
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        mode_file: std::path::PathBuf,
    },
    /// Inside a namespace: answers what comes with bytes that mean nothing.
    #[command(hide = true)]
    Garbage {
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Inside a namespace: passes frames between two interfaces, and loses some.
    #[command(hide = true)]
    LossyLink(nat::LossyLink),
    /// Inside a namespace: asks echoes.
    #[command(hide = true)]
    UdpAsk {
        #[arg(long)]
        from: SocketAddr,
        echoes: Vec<SocketAddr>,
    },
}

/// Runs one.
///
/// # Errors
/// The machine cannot hold a lab, or a step failed.
pub fn run(lab: Lab, interrupt: &Interrupt) -> Result<()> {
    let outcome = match lab {
        Lab::SelfCheck { output } => {
            require_root()?;
            self_check::run(output.form(), interrupt)?
        }
        Lab::FirstBytes { output } => {
            require_root()?;
            first_bytes::run(output.form(), interrupt)?
        }
        Lab::WholeNetwork { options, output } => {
            require_root()?;
            whole_network::run(&options, output.form(), interrupt)?
        }
        Lab::Nat { options, output } => {
            require_root()?;
            nat::matrix(&options, output.form(), interrupt)?
        }
        Lab::NatScenarios { options, output } => {
            require_root()?;
            nat::scenarios(&options, output.form(), interrupt)?
        }
        Lab::Outage { options, output } => {
            require_root()?;
            outage::run(&options, output.form(), interrupt)?
        }
        Lab::LongOutage { options, output } => {
            require_root()?;
            outage::run_long(&options, output.form(), interrupt)?
        }
        Lab::LineEcho { listen } => return outage::line_echo(listen, interrupt),
        Lab::FaultProxy { listen, to, mode_file } => {
            return outage::fault_proxy(listen, to, &mode_file, interrupt);
        }
        Lab::Garbage { listen } => return outage::garbage(listen, interrupt),
        Lab::Ticker { listen } => return outage::ticker(listen, interrupt),
        Lab::DnsAsk { server, name, times } => return probe::dns(server, &name, times),
        Lab::StunAsk { from, server } => return probe::stun(from, server),
        Lab::LossyLink(link) => return nat::lossy_link(&link, interrupt),
        Lab::Clean => {
            require_root()?;
            for place in outage::clean_leftovers(namespace::is_orphan)? {
                println!("unmounted {place}");
            }
            for name in namespace::clean_leftovers()? {
                println!("removed {name}");
            }
            return Ok(());
        }
        Lab::UdpEcho { listen, greet } => return probe::echo(listen, greet, interrupt),
        Lab::UdpAsk { from, echoes } => return probe::ask(from, &echoes),
    };
    interrupt.check()?;
    ensure!(outcome.failed == 0, "{} steps failed", outcome.failed);
    Ok(())
}

/// Whether this process may make network namespaces.
pub fn is_root() -> bool {
    // Asked of the system rather than by an unsafe call.
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|said| said.stdout.trim_ascii() == b"0")
}

fn require_root() -> Result<()> {
    ensure!(is_root(), "the lab makes network namespaces: run it as root (sudo -E cargo xtask lab …)");
    Ok(())
}

/// A directory for the lab's files that every user can pass through: PostgreSQL does not run as root.
fn directory() -> Result<tempfile::TempDir> {
    let directory = tempfile::Builder::new()
        .prefix(&format!("{}{}-", namespace::PREFIX, std::process::id()))
        .tempdir()
        .context("cannot make a temporary directory")?;
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open)?;
    Ok(directory)
}
