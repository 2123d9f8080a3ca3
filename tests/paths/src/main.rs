//! Runs scenarios over many seeds, one after the other, and says what does not hold.

use anyhow::{Result, bail};
use clap::Parser;
use sim::scenarios::{SCENARIOS, Scenario, throughput};
use std::{
    ops::ControlFlow,
    process::ExitCode,
    time::{Duration, Instant},
};

/// A seeded virtual network around the production path core.
#[derive(Debug, Parser)]
struct Arguments {
    /// One scenario; all of them otherwise.
    #[arg(long)]
    scenario: Option<String>,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Goes on for this long instead, with ever new seeds.
    #[arg(long, conflicts_with = "seeds")]
    hours: Option<f64>,
    /// Measures how fast simulated time passes.
    #[arg(long, conflicts_with_all = ["scenario", "hours"])]
    throughput: bool,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

struct Run {
    json: bool,
    passed: u64,
    failed: u64,
    said: Instant,
}

#[expect(clippy::print_stdout, reason = "this program is the report")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::disallowed_methods, reason = "progress is shown by the clock")]
fn now() -> Instant {
    Instant::now()
}

impl Run {
    fn one(&mut self, (name, scenario): Scenario, seed: u64) {
        match scenario(seed) {
            Ok(()) => self.passed += 1,
            Err(why) => {
                self.failed += 1;
                if self.json {
                    let failure = serde_json::json!({"scenario": name, "seed": seed, "why": why});
                    say(&failure.to_string());
                } else {
                    say(&format!(
                        "{name} {seed}: {why}\nreplay: cargo xtask sim --scenario {name} --seed {seed}"
                    ));
                }
            }
        }
    }

    /// A line every five seconds.
    fn progress(&mut self, at: &str) {
        if self.said.elapsed() >= Duration::from_secs(5) {
            self.said = now();
            if !self.json {
                say(&format!("{at}: {} held, {} did not", self.passed, self.failed));
            }
        }
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.throughput {
        return measure(&arguments);
    }
    let wanted = |name: &str| arguments.scenario.as_deref().is_none_or(|only| only == name);
    let scenarios: Vec<Scenario> = SCENARIOS.iter().copied().filter(|(name, _)| wanted(name)).collect();
    if scenarios.is_empty() {
        let names: Vec<&str> = SCENARIOS.iter().map(|(name, _)| *name).collect();
        bail!("expected one of {}, got {:?}", names.join(", "), arguments.scenario);
    }
    let began = now();
    let until = arguments.hours.map(|hours| began + Duration::from_secs_f64(hours * 3600.0));
    let mut run = Run { json: arguments.json, passed: 0, failed: 0, said: began };
    let mut seed = arguments.seed;
    loop {
        let flow = match until {
            Some(until) if now() >= until => ControlFlow::Break(()),
            None if seed >= arguments.seed + arguments.seeds => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        };
        if flow.is_break() {
            break;
        }
        for scenario in &scenarios {
            run.one(*scenario, seed);
            run.progress(&format!("seed {seed}, {:.0} s", began.elapsed().as_secs_f64()));
        }
        seed += 1;
    }
    let took = began.elapsed().as_secs_f64();
    if arguments.json {
        let summary = serde_json::json!({
            "passed": run.passed, "failed": run.failed, "seeds": seed - arguments.seed, "seconds": took,
        });
        say(&summary.to_string());
    } else {
        say(&format!("{} passed, {} failed", run.passed, run.failed));
        say(&format!("seeds {} to {}, {took:.1} s", arguments.seed, seed.saturating_sub(1)));
    }
    Ok(if run.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let mut rates = Vec::new();
    for round in 0..5 {
        let seen = throughput(arguments.seed + round, Duration::from_secs(24 * 3600));
        let rate = seen.simulated.as_secs_f64() / 60.0 / seen.took.as_secs_f64();
        rates.push(rate);
        let events = seen.events as f64 / seen.took.as_secs_f64();
        if arguments.json {
            say(&serde_json::json!({"minutes_per_second": rate, "events_per_second": events}).to_string());
        } else {
            say(&format!("{rate:.0} simulated minutes a second, {events:.0} events a second"));
        }
    }
    rates.sort_by(f64::total_cmp);
    if !arguments.json {
        say(&format!("median {:.0} simulated minutes a second (to reach: 1000)", rates[rates.len() / 2]));
    }
    Ok(ExitCode::SUCCESS)
}
