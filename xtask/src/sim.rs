//! `cargo xtask sim`: the seeded simulation over many seeds or hours, one seed again, and whether it finds the bugs
//! that were planted for it.

use crate::artifacts::{self, Of};
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use clap::Args;
use std::{
    process::{Command, Stdio},
    sync::Mutex,
};

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

/// The bugs, by their names in the sources, each with the scenarios that are there for it: what another one makes of it shows
/// nothing.
const PLANTED: [(&str, &[&str]); 7] = [
    ("no-hysteresis", &["steady", "better"]),
    ("echo-on-change", &["roam"]),
    ("probe-loopback", &["hostile-peer"]),
    ("unvalidated-relay-move", &["thief"]),
    ("peer-says-where-it-is", &["hostile-peer"]),
    ("budget-of-a-key", &["reopening-liar"]),
    ("never-better", &["better"]),
];
/// Seeds that each planted bug gets: every pair of the simulation's networks once.
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

/// The scenarios that have to find a bug.
fn finders(bug: &str) -> Result<&'static [&'static str]> {
    let found = PLANTED.iter().find(|(name, _)| *name == bug);
    found.map(|(_, scenarios)| *scenarios).with_context(|| format!("no scenario is there for {bug}"))
}

/// The first failure, with this bug in it, of a scenario that is there for it, as `(scenario and seed, what was wrong)`; none
/// when none of them found it.
///
/// # Errors
/// It cannot be built or run, or no scenario is there for the bug.
pub fn seek(bug: &str) -> Result<Option<(String, String)>> {
    for scenario in finders(bug)? {
        let report = run_with(Some(bug), Some(scenario), PLANTED_SEEDS)?;
        if let Some(first) = report["failures"].as_array().context("no failures in its report")?.first() {
            return Ok(Some(said(first)));
        }
    }
    Ok(None)
}

/// Where a failure was, and its first line.
fn said(failure: &serde_json::Value) -> (String, String) {
    let wrong = failure["wrong"].as_str().unwrap_or_default().lines().next().unwrap_or_default();
    let at = format!("{} at seed {}", failure["scenario"].as_str().unwrap_or_default(), failure["seed"]);
    (at, wrong.to_owned())
}

/// The simulation with every bug in it, built once for this process; the environment says which is there.
///
/// All of the workspace is named, or cargo compiles crates of others again for the features that the simulation alone wants.
fn with_bugs() -> Result<Command> {
    static BUILT: Mutex<bool> = Mutex::new(false);
    let mut built = BUILT.lock().map_err(|_| anyhow!("the build before this one panicked"))?;
    if !*built {
        artifacts::write_settings()?;
        let arguments = ["--quiet", "--locked", "--workspace", "--bin", "sim", "--features", "planted/bugs"];
        let status = Of::PlantedBugs.cargo(&["build"], &arguments).status().context("starting cargo")?;
        ensure!(status.success(), "the simulation with planted bugs was not built: {status}");
        *built = true;
    }
    Ok(Command::new(Of::PlantedBugs.program("sim")))
}

fn run_with(bug: Option<&str>, scenario: Option<&str>, seeds: u64) -> Result<serde_json::Value> {
    let mut arguments = vec!["--json".to_owned(), "--seeds".to_owned(), seeds.to_string()];
    arguments.extend(scenario.iter().flat_map(|name| ["--scenario".to_owned(), (*name).to_owned()]));
    let mut command = with_bugs()?;
    command.args(&arguments).current_dir(crate::repository());
    command.env("TIDEGATE_PLANTED", bug.unwrap_or_default()).stderr(Stdio::inherit());
    let output = command.output().context("starting the simulation with planted bugs")?;
    let last = String::from_utf8_lossy(&output.stdout);
    let report: serde_json::Value = serde_json::from_str(last.trim())
        .with_context(|| format!("the simulation with {bug:?} said {last:?}"))?;
    Ok(report)
}

fn planted(options: &Options) -> Result<()> {
    let seeds = options.seeds.unwrap_or(PLANTED_SEEDS);
    let mut found = serde_json::Map::new();
    // Without a bug each of these scenarios holds, or what follows would show nothing.
    let mut sound: Vec<&str> = PLANTED.iter().flat_map(|(_, scenarios)| scenarios.iter().copied()).collect();
    sound.sort_unstable();
    sound.dedup();
    for scenario in sound {
        let report = run_with(None, Some(scenario), seeds)?;
        match report["failures"].as_array().context("no failures in its report")?.first() {
            Some(wrong) => bail!("nothing is planted, and this does not hold: {wrong}"),
            None if options.json => {}
            None => println!("nothing planted: {} runs of {scenario} hold", report["runs"]),
        }
    }
    for (bug, scenarios) in PLANTED {
        let mut finders = Vec::new();
        for scenario in scenarios {
            let report = run_with(Some(bug), Some(scenario), seeds)?;
            let failures = report["failures"].as_array().context("no failures in its report")?;
            finders.extend(failures.first().cloned());
        }
        let Some(first) = finders.first() else { bail!("{bug} was found by none of {scenarios:?}") };
        if !options.json {
            let (at, wrong) = said(first);
            println!("{bug}: found by {at}: {wrong}");
        }
        found.insert(bug.to_owned(), first.clone());
    }
    if options.json {
        println!("{}", serde_json::Value::Object(found));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_of_the_table_has_a_scenario_that_is_there_for_it() {
        for bug in crate::planted::of_the_simulation() {
            assert!(!finders(bug).expect("a scenario").is_empty(), "{bug}");
        }
        assert!(finders("no-such-bug").is_err());
    }
}
