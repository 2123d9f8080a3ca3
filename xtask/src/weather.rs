//! `cargo xtask bench weather`: builds the program and its bench, and runs it (tests/bench/src/weather.rs).

use anyhow::{Result, ensure};
use clap::Args;
use std::{path::PathBuf, process::Command};

/// How much of it.
#[derive(Debug, Args)]
pub struct Options {
    /// How many connectors.
    #[arg(long, default_value_t = 1000)]
    connectors: usize,
    /// Strikes in each state of the database.
    #[arg(long, default_value_t = 20)]
    strikes: usize,
    /// Devices in the copy that a controller starts from.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// The program under test; built when absent.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// It cannot be built, or a figure is not reached.
pub fn bench(options: &Options) -> Result<()> {
    let mut packages = vec!["--package", "bench", "--bin", "bench-weather"];
    if options.binary.is_none() {
        packages.extend(["--package", "tidegate", "--bin", "tidegate"]);
    }
    let built =
        Command::new(env!("CARGO")).args(["build", "--release", "--locked"]).args(&packages).status()?;
    ensure!(built.success(), "cargo build: {built}");
    let release = crate::target_directory().join("release");
    let binary = options.binary.clone().unwrap_or_else(|| release.join("tidegate"));
    let mut bench = Command::new(release.join("bench-weather"));
    bench.arg("--tidegate").arg(binary);
    bench.args(["--connectors", &options.connectors.to_string(), "--strikes", &options.strikes.to_string()]);
    bench.args(["--devices", &options.devices.to_string()]);
    if options.json {
        bench.arg("--json");
    }
    let status = bench.status()?;
    ensure!(status.success(), "the bench did not hold: {status}");
    Ok(())
}
