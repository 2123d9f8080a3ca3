//! `bench-pop`: what one core of a PoP carries.
//!
//! The production PoP process on a core of its own, its load on another, on loopback. Processor time is what the
//! PoP's threads were charged for; everything is measured at least three times, and the middle is told with the least
//! and the greatest.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

mod bare;
mod idle;
mod registrations;
mod relay;

use anyhow::Result;
use bare::Kind;
use clap::{Parser, Subcommand, ValueEnum};
pub(crate) use load_rig::{Figure, Goal};
use load_rig::{Installation, Place, PopProcess};
use serde_json::{Value, json};
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
};

/// What one core of a PoP carries.
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    role: Option<Role>,
    /// The program under test.
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// What to measure; everything by default.
    #[arg(long)]
    only: Vec<Part>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The core of the PoP.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Sessions at which the memory of one is measured.
    #[arg(long, default_values_t = [5_000, 20_000])]
    sessions: Vec<usize>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Full registrations, beside bare QUIC handshakes.
    Registrations,
    /// Memory and processor time of idle sessions.
    Idle,
    /// Registrations while the relay is flooded.
    Relay,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// A PoP made of the same crate as `tidegate pop`, for quick comparisons: `--tidegate` takes this program.
    #[command(hide = true)]
    Pop {
        #[arg(long)]
        state: PathBuf,
        #[arg(long)]
        listen: SocketAddr,
        #[arg(long)]
        no_tcp: bool,
    },
    /// The bare QUIC server (started by the bench itself).
    #[command(hide = true)]
    BareServer {
        #[arg(long)]
        kind: Kind,
        #[arg(long)]
        certificates: PathBuf,
    },
}

/// What every part gets.
struct Bench {
    options: Options,
    installation: Installation,
}

impl Bench {
    fn pop_place(&self) -> Place {
        Place { core: Some(self.options.core), namespace: None }
    }

    fn start_pop(&self) -> Result<PopProcess> {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        PopProcess::start(&self.options.tidegate, &self.installation, &self.pop_place(), listen)
    }

    fn is_wanted(&self, part: Part) -> bool {
        self.options.only.is_empty() || self.options.only.contains(&part)
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    match &options.role {
        Some(Role::BareServer { kind, certificates }) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            return runtime.block_on(bare::serve(*kind, certificates));
        }
        Some(Role::Pop { state, listen, .. }) => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            return runtime.block_on(async {
                let pop = pop::Pop::open(pop::PopOptions::new(state.clone(), *listen))?;
                println!("{}", json!({"event": "ready"}));
                Ok(Box::pin(pop.run(std::future::pending())).await?)
            });
        }
        None => {}
    }
    let mine = load_rig::keep_off(options.core)?;
    eprintln!(
        "The PoP runs on core {}, its load on core {mine}; both are shared with whatever else this machine does.",
        options.core
    );
    let bench = Bench { installation: Installation::new()?, options };
    let mut figures = Vec::new();
    let mut tell = |new: Vec<Figure>| {
        for figure in new {
            if !bench.options.json {
                println!("{}", figure.line());
            }
            figures.push(figure);
        }
    };
    if bench.is_wanted(Part::Registrations) {
        tell(registrations::measure(&bench)?);
    }
    if bench.is_wanted(Part::Idle) {
        for sessions in bench.options.sessions.clone() {
            tell(idle::measure(&bench, sessions)?);
        }
    }
    if bench.is_wanted(Part::Relay) {
        tell(relay::measure(&bench)?);
    }
    if bench.options.json {
        let all: Vec<Value> = figures.iter().map(Figure::json).collect();
        println!("{}", json!({"bench": "pop", "figures": all}));
    }
    Ok(())
}
