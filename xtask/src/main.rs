//! The project's own commands: `cargo xtask layers`, `test`, `lab`, `fuzz`, `vectors`, `bench`.
//!
//! This crate owns how the project is checked and measured. It refuses to know any crate of the
//! product: it judges the built programs and the dependency graph from outside.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

mod lab;
mod layers;
mod process;

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
    /// Real processes in network namespaces (root).
    #[command(subcommand)]
    Lab(lab::Lab),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = Interrupt::install().and_then(|interrupt| match cli.command {
        Command::Layers => layers::run(),
        Command::Lab(lab) => lab::run(lab, &interrupt),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
