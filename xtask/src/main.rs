//! The project's own commands: `cargo xtask layers`, `test`, `lab`, `sim`, `planted`, `judges`,
//! `screenshots`, `vectors`, `bench`, `outage-matrix`, `tools`, `openapi`, `roles`.
//!
//! This crate owns how the project is checked and measured. It refuses to know any crate of the
//! product: it judges the built programs and the dependency graph from outside.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

mod artifacts;
mod judges;
mod lab;
mod layers;
mod npm;
mod planted;
mod process;
mod python;
mod screenshots;
mod sim;
mod test;
mod tools;
mod vectors;
mod weather;

use clap::{Parser, Subcommand};
use process::Interrupt;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Checks, tests and measurements of this repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The direction of imports, from the dependency graph.
    Layers,
    /// Everything that must hold; the last line is the count.
    Test(test::Options),
    /// Installs what the checks and labs need of this machine (as root, else it says what is missing); `test` begins with it.
    Tools,
    /// The golden vectors, judged by a decoder that nobody here wrote.
    Vectors,
    /// Writes docs/openapi.json and docs/roles.md from the code.
    Openapi,
    /// Who may do what: writes docs/roles.md (and docs/openapi.json) from the code and prints it.
    Roles,
    /// Judges that nobody here wrote: schemathesis against a real controller, redocly on the API's document, Kubernetes' schemas
    /// on what a cluster is given.
    Judges {
        /// The built program.
        #[arg(long, value_name = "FILE")]
        tidegate: Option<std::path::PathBuf>,
        /// Many examples of every operation: a quarter of an hour.
        #[arg(long)]
        long: bool,
        /// This path of the document alone.
        #[arg(long, value_name = "PATH")]
        only: Option<String>,
    },
    /// Measurements; never part of `test`.
    #[command(subcommand)]
    Bench(Bench),
    /// Real processes in network namespaces (root).
    #[command(subcommand)]
    Lab(lab::Lab),
    /// Plants a bug for each drill and demands that it goes red.
    Planted(planted::Options),
    /// What each outage of a one-host installation does to access (`lab outage`; root).
    OutageMatrix {
        #[command(flatten)]
        options: lab::outage::Options,
        #[command(flatten)]
        output: lab::Output,
    },
    /// Every page of the console, light and dark, desktop and phone, judged by axe-core.
    Screenshots(screenshots::Options),
    /// The seeded simulation: many seeds, hours, one seed again, planted bugs.
    Sim(sim::Options),
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What idle registered clients cost the database: it must be nothing.
    Idle {
        #[arg(long, default_value_t = 1000)]
        clients: u32,
        #[arg(long, default_value_t = 10.0)]
        minutes: f64,
        #[arg(long)]
        json: bool,
    },
    /// What one core of a PoP carries: registrations beside bare QUIC handshakes, idle sessions, a relay flood.
    Pop {
        /// Options of the bench; `-- --help` names them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// What a PoP does while it is flooded with spoofed, malformed and replayed datagrams (root).
    Floods {
        /// Options of the bench; `-- --help` names them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Strikes at a thousand connectors with the database alive, locked and gone; a controller with 10,000 devices and
    /// no database.
    Weather(weather::Options),
    /// What a tunnel into a site carries, beside plain forwarding and other programs' tunnels (root).
    Tunnel(lab::throughput::Options),
    /// The REST API under an open load: reads, lists and writes of a real controller with ten thousand resources and as
    /// many devices.
    Api {
        /// Options of the bench; `-- --help` names them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
}

/// Runs a bench of `tests/load` against the release build.
fn bench_load(program: &str, options: &[String]) -> anyhow::Result<()> {
    bench_program("load-rig", program, options)
}

/// Runs a program of a package of benches against the release build.
fn bench_program(package: &str, program: &str, options: &[String]) -> anyhow::Result<()> {
    let status = std::process::Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--package", "tidegate", "--package", package])
        .status()?;
    anyhow::ensure!(status.success(), "cargo build: {status}");
    let release = target_directory().join("release");
    let status = std::process::Command::new(release.join(program))
        .arg("--tidegate")
        .arg(release.join("tidegate"))
        .args(options)
        .status()?;
    anyhow::ensure!(status.success(), "{program}: {status}");
    Ok(())
}

fn bench_idle(clients: u32, minutes: f64, json: bool) -> anyhow::Result<()> {
    let cargo = |arguments: &[&str]| {
        let status = std::process::Command::new(env!("CARGO")).args(arguments).status()?;
        anyhow::ensure!(status.success(), "cargo {arguments:?}: {status}");
        anyhow::Ok(())
    };
    cargo(&["build", "--release", "--locked", "--package", "tidegate", "--package", "bench"])?;
    let release = target_directory().join("release");
    let mut bench = std::process::Command::new(release.join("bench-idle"));
    bench.arg("--tidegate").arg(release.join("tidegate"));
    bench.args(["--clients", &clients.to_string(), "--minutes", &minutes.to_string()]);
    if json {
        bench.arg("--json");
    }
    let status = bench.status()?;
    anyhow::ensure!(status.success(), "the bench did not hold: {status}");
    Ok(())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = Interrupt::install().and_then(|interrupt| match cli.command {
        Command::Layers => layers::run(),
        Command::Test(options) => test::run(options, &interrupt),
        Command::Tools => tools::ensure_all(tools::For::Lab, &interrupt).map(|said| println!("{said}")),
        Command::Vectors => vectors::run(&interrupt).map(|said| println!("{said}")),
        Command::Openapi => openapi(),
        Command::Roles => openapi().and_then(|()| {
            println!("{}", std::fs::read_to_string(repository().join("docs/roles.md"))?);
            Ok(())
        }),
        Command::Judges { tidegate, long, only } => {
            let depth = if long { judges::Depth::Long } else { judges::Depth::Short };
            judges::redocly(&interrupt).and_then(|said| {
                println!("redocly: {said}");
                println!("kubernetes: {}", judges::kubernetes(&interrupt)?);
                let tidegate = tidegate.map_or_else(test::fresh_release_binary, Ok)?;
                let said = judges::schemathesis(&tidegate, depth, only.as_deref(), &interrupt)?;
                println!("schemathesis: {said}");
                Ok(())
            })
        }
        Command::Bench(Bench::Idle { clients, minutes, json }) => bench_idle(clients, minutes, json),
        Command::Bench(Bench::Pop { options }) => bench_load("bench-pop", &options),
        Command::Bench(Bench::Floods { options }) => bench_load("load-floods", &options),
        Command::Bench(Bench::Weather(options)) => weather::bench(&options),
        Command::Bench(Bench::Tunnel(options)) => lab::throughput::bench(&options, &interrupt),
        Command::Bench(Bench::Api { options }) => bench_program("bench", "bench-api", &options),
        Command::Lab(lab) => lab::run(lab, &interrupt),
        Command::Planted(options) => planted::run(&options, &interrupt),
        Command::OutageMatrix { options, output } => {
            lab::run(lab::Lab::Outage { options, output }, &interrupt)
        }
        Command::Screenshots(options) => screenshots::make(&options, &interrupt),
        Command::Sim(options) => sim::run(&options),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where cargo builds: the directory that this very program was built in.
fn target_directory() -> std::path::PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    // target/debug/xtask
    program.ancestors().nth(2).map_or_else(|| "target".into(), std::path::Path::to_path_buf)
}

/// The root of the repository.
fn repository() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The golden file's own test writes it when asked to.
fn openapi() -> anyhow::Result<()> {
    let status = std::process::Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--package", "controller", "golden_file"])
        .env("TIDEGATE_WRITE_OPENAPI", "1")
        .status()?;
    anyhow::ensure!(status.success(), "the OpenAPI document was not written");
    println!("docs/openapi.json docs/roles.md docs/connector.yaml");
    Ok(())
}
