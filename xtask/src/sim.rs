//! `cargo xtask sim`: the seeded simulation over many seeds or hours, one seed again, and whether it finds the bugs
//! that were planted for it.

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use std::process::{Command, Stdio};

/// What to run.
#[derive(Debug, Args)]
pub struct Options {
    /// How many seeds of each scenario.
    #[arg(long)]
    seeds: Option<u64>,
    /// Goes on with further seeds for so long.
    #[arg(long)]
    hours: Option<f64>,
    /// The first seed.
    #[arg(long)]
    first: Option<u64>,
    /// This seed alone, with what it decided.
    #[arg(long, conflicts_with_all = ["seeds", "hours", "first"])]
    seed: Option<u64>,
    /// This scenario alone.
    #[arg(long)]
    scenario: Option<String>,
    /// Runs the simulation with each planted bug and demands that it is found.
    #[arg(long, conflicts_with_all = ["hours", "seed", "scenario", "throughput", "first"])]
    planted: bool,
    /// Measures, in release mode, how fast virtual time passes.
    #[arg(long, conflicts_with_all = ["seeds", "hours", "seed", "scenario", "first"])]
    throughput: bool,
    /// Prints what whole nodes sent before it says what came of it.
    #[arg(long, requires = "seed", conflicts_with = "json")]
    datagrams: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// The bugs, by their names in the sources.
const PLANTED: [&str; 4] = ["no-hysteresis", "echo-on-change", "probe-loopback", "unvalidated-relay-move"];
/// One build has all of them; the environment says which is there.
const WITH_BUGS: &[&str] = &["--features", "planted/bugs"];
/// Seeds that each planted bug gets: every cell of the expected table once.
const PLANTED_SEEDS: u64 = 52;

fn sim(build: &[&str], arguments: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(crate::repository()).args(["run", "--quiet", "--locked", "--package", "sim"]);
    command.args(build).arg("--").args(arguments);
    command
}

/// Runs it.
///
/// # Errors
/// A property does not hold, or a planted bug is not found.
pub fn run(options: &Options) -> Result<()> {
    if options.planted {
        return planted(options);
    }
    let mut arguments = Vec::new();
    let mut pass = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            arguments.push(format!("--{name}"));
            arguments.push(value);
        }
    };
    pass("seeds", options.seeds.map(|value| value.to_string()));
    pass("hours", options.hours.map(|value| value.to_string()));
    pass("first", options.first.map(|value| value.to_string()));
    pass("seed", options.seed.map(|value| value.to_string()));
    pass("scenario", options.scenario.clone());
    arguments.extend(options.datagrams.then(|| "--datagrams".to_owned()));
    arguments.extend(options.json.then(|| "--json".to_owned()));
    arguments.extend(options.throughput.then(|| "--throughput".to_owned()));
    let build: &[&str] = if options.throughput { &["--release"] } else { &[] };
    let status = sim(build, &arguments).status().context("starting cargo")?;
    ensure!(status.success(), "the simulation did not hold: {status}");
    Ok(())
}

/// The first failure of the simulation with this bug in it, as `(scenario and seed, what was wrong)`; none when it was not
/// found.
///
/// # Errors
/// It cannot be built or run.
pub fn seek(bug: &str) -> Result<Option<(String, String)>> {
    let arguments = ["--json".to_owned(), "--seeds".to_owned(), PLANTED_SEEDS.to_string()];
    let output = sim(WITH_BUGS, &arguments).env("TIDEGATE_PLANTED", bug).stderr(Stdio::inherit()).output();
    let output = output.context("starting cargo")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = serde_json::from_str(said.trim())
        .with_context(|| format!("the simulation with {bug} said {said:?}"))?;
    let failures = report["failures"].as_array().context("no failures in its report")?;
    Ok(failures.first().map(|first| {
        let wrong = first["wrong"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
        (
            format!("{} at seed {}", first["scenario"].as_str().unwrap_or_default(), first["seed"]),
            wrong.to_owned(),
        )
    }))
}

fn planted(options: &Options) -> Result<()> {
    let seeds = options.seeds.unwrap_or(PLANTED_SEEDS);
    let arguments = ["--json".to_owned(), "--seeds".to_owned(), seeds.to_string()];
    let mut found = serde_json::Map::new();
    // Without a bug all of it holds, or what follows would show nothing.
    for bug in [None].into_iter().chain(PLANTED.map(Some)) {
        let mut command = sim(WITH_BUGS, &arguments);
        command.env("TIDEGATE_PLANTED", bug.unwrap_or_default()).stderr(Stdio::inherit());
        let output = command.output().context("starting cargo")?;
        let last = String::from_utf8_lossy(&output.stdout);
        let report: serde_json::Value = serde_json::from_str(last.trim())
            .with_context(|| format!("the simulation with {bug:?} said {last:?}"))?;
        let failures = report["failures"].as_array().context("no failures in its report")?;
        let first = failures.first();
        match (bug, first) {
            (None, None) => {
                if !options.json {
                    println!("nothing planted: {} runs hold", report["runs"]);
                }
            }
            (None, Some(wrong)) => bail!("nothing is planted, and this does not hold: {wrong}"),
            (Some(bug), None) => bail!("{bug} was not found in {} runs", report["runs"]),
            (Some(bug), Some(wrong)) => {
                if !options.json {
                    let said = wrong["wrong"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
                    println!("{bug}: found by {} at seed {}: {said}", wrong["scenario"], wrong["seed"]);
                }
                found.insert(bug.to_owned(), wrong.clone());
            }
        }
    }
    if options.json {
        println!("{}", serde_json::Value::Object(found));
    }
    Ok(())
}
