//! Downloads that go on while the network changes under them.

mod idle;
mod mapping;
mod move_about;
mod odd;
mod path_quality;
mod restart;

use super::{
    super::report::{Form, Outcome, Report, Seen, whole_ms},
    bench::{Bench, PACED, Pair},
    document::{self, ScenarioRow},
    kind::{Kind, Path},
    watch::{Watch, Watched},
};
use crate::process::Interrupt;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use std::time::{Duration, Instant};

/// Which scenarios to run.
#[derive(Debug, Args)]
pub struct ScenarioOptions {
    /// Only those whose name has this in it.
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// Writes what was seen to docs/nat-matrix.md.
    #[arg(long)]
    write: bool,
}

/// Figure to reach: a roam, a router's reboot or a PoP's restart interrupts a download this long at most.
const GAP: Duration = Duration::from_secs(3);
/// A direct path is found within this, or the scenario has not begun.
const DIRECT: Duration = Duration::from_secs(10);
/// Bytes that are there when the network changes: three seconds' worth.
const BEFORE: usize = 15_000_000;
/// No download of ten seconds takes longer, also when it was interrupted.
const DOWNLOAD_DEADLINE: Duration = Duration::from_secs(60);

/// What a scenario measured, in the words of its line.
type Figures = Vec<(&'static str, serde_json::Value)>;

/// What happens to the network: a sentence, and what does it.
struct Scenario {
    name: &'static str,
    run: fn(&mut Bench) -> Result<Figures>,
}

/// Every scenario, in the order of issue and document.
fn all() -> Vec<Scenario> {
    let parts: [&[Scenario]; 6] = [
        move_about::SCENARIOS,
        restart::SCENARIOS,
        path_quality::SCENARIOS,
        idle::SCENARIOS,
        mapping::SCENARIOS,
        odd::SCENARIOS,
    ];
    parts.into_iter().flatten().map(|scenario| Scenario { ..*scenario }).collect()
}

/// Runs them.
///
/// # Errors
/// The document cannot be written. Failed scenarios are counted in the outcome.
pub fn run(options: &ScenarioOptions, form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let chosen: Vec<Scenario> = all()
        .into_iter()
        .filter(|scenario| options.only.as_ref().is_none_or(|word| scenario.name.contains(word)))
        .collect();
    ensure!(!chosen.is_empty(), "no scenario has that in its name");
    let mut report = Report::new(form);
    let bench = Bench::create(&mut report, interrupt);
    if let Some(mut bench) = report.ended(bench) {
        let mut rows = Vec::new();
        for scenario in chosen {
            interrupt.check()?;
            let done = report.step(scenario.name, || {
                let figures = (scenario.run)(&mut bench)?;
                let words: Vec<String> =
                    figures.iter().map(|(name, value)| format!("{name} {value}")).collect();
                let seen = Seen::new(words.join(", ").replace('"', ""));
                Ok(figures.into_iter().fold(seen, |seen, (name, value)| seen.with(name, value)))
            });
            let passed = done.is_ok();
            let seen = done.unwrap_or_else(|error| format!("{error:#}"));
            rows.push(ScenarioRow { name: scenario.name.to_owned(), seen, passed });
        }
        if options.write {
            document::write_scenarios(&rows, all().iter().map(|scenario| scenario.name), interrupt)?;
        }
    }
    Ok(report.finish())
}

/// A pair whose path is what the scenario needs.
fn pair(bench: &mut Bench, client: Kind, connector: Kind, path: Path) -> Result<Pair> {
    let pair = bench.apart(client, connector)?;
    bench.page(&pair).context("the first page")?;
    match path {
        Path::Direct => {
            bench.wait_direct(&pair, DIRECT)?;
        }
        Path::Relay | Path::Tcp => {
            let says = bench.path()?;
            ensure!(says == Some(path), "the client says {says:?}, the scenario needs {path}");
        }
    }
    Ok(pair)
}

/// A paced download during which something happens. It must go on over its one TCP connection, be whole,
/// and be silent for `limit` at most.
fn during_download(
    bench: &mut Bench,
    pair: &mut Pair,
    limit: Duration,
    event: impl FnOnce(&mut Bench, &mut Pair) -> Result<()>,
) -> Result<Watched> {
    let mut watch = Watch::start(&bench.fleet, &pair.client.host, PACED, &bench.interrupt)?;
    watch.wait_bytes(BEFORE, DOWNLOAD_DEADLINE)?;
    let at = Instant::now();
    event(bench, pair)?;
    let watched = watch.finish(at, DOWNLOAD_DEADLINE, &bench.big)?;
    ensure!(
        watched.gap <= limit,
        "interrupted for {:.2} s, to reach: {:.2} s (all of it took {:.1} s)",
        watched.gap.as_secs_f64(),
        limit.as_secs_f64(),
        watched.took.as_secs_f64()
    );
    Ok(watched)
}

/// The figures of a watched download.
fn gaps(watched: Watched) -> Figures {
    vec![
        ("longest_silence_ms", whole_ms(watched.gap).into()),
        ("usual_silence_ms", whole_ms(watched.usual_gap).into()),
        ("took_s", ((watched.took.as_secs_f64() * 10.0).round() / 10.0).into()),
    ]
}
