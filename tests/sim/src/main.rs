//! `sim`: runs scenarios over many seeds, replays one, and measures how fast virtual time passes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures how long runs take by the real clock")]

use anyhow::{Result, bail, ensure};
use clap::Parser;
use serde_json::json;
use sim::scenarios::{self, Scenario};
use sim::{stack::Datagram, throughput};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// Seeded virtual networks that run the production cores.
#[derive(Debug, Parser)]
struct Options {
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 52)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// This seed alone.
    #[arg(long, conflicts_with_all = ["seeds", "hours", "first"])]
    seed: Option<u64>,
    /// This scenario alone.
    #[arg(long)]
    scenario: Option<String>,
    /// Goes on with further seeds for so long.
    #[arg(long)]
    hours: Option<f64>,
    /// Measures how fast virtual time passes instead.
    #[arg(long)]
    throughput: bool,
    /// Prints what whole nodes sent before it says what came of it.
    #[arg(long, requires = "seed", conflicts_with = "json")]
    datagrams: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// How often a long run says where it is.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Failures shown before the run gives up.
const SHOWN: usize = 10;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.throughput {
        return measure(options.json);
    }
    let chosen: Vec<&Scenario> = match &options.scenario {
        None => scenarios::ALL.iter().chain([&scenarios::WHOLE]).collect(),
        Some(name) => match scenarios::named(name) {
            Some(scenario) => vec![scenario],
            None => {
                let all = scenarios::ALL.iter().chain([&scenarios::WHOLE]);
                let names: Vec<&str> = all.map(|scenario| scenario.name).collect();
                bail!("there is no scenario {name:?}; there are {}", names.join(", "));
            }
        },
    };
    let began = Instant::now();
    let end = options.hours.map(|hours| began + Duration::from_secs_f64(hours * 3600.0));
    let mut seeds = match options.seed {
        Some(seed) => seed..seed + 1,
        None => options.first..options.first + options.seeds,
    };
    if end.is_some() {
        seeds = options.first..u64::MAX;
    }
    let (mut runs, mut virtual_time, mut failures, mut said) = (0_u64, Duration::ZERO, Vec::new(), began);
    for seed in seeds {
        if end.is_some_and(|end| Instant::now() >= end) || failures.len() >= SHOWN {
            break;
        }
        for scenario in &chosen {
            runs += 1;
            if options.datagrams {
                for sent in (scenario.run)(seed).sent {
                    let Datagram { at, by, to, kind, length, first } = sent;
                    println!("{:10.4} {by:9} -> {to} {kind:?} {length} ({first:02x})", at.as_secs_f64());
                }
            }
            match scenario.check(seed) {
                Ok(report) => {
                    virtual_time += report.time;
                    if options.seed.is_some() && !options.json {
                        let (trace, time) = (report.trace, report.time);
                        println!(
                            "{}: holds; {time:?}, {} decisions, trace {:016x}",
                            scenario.name, trace.decisions, trace.hash
                        );
                    }
                }
                Err(wrong) => {
                    if !options.json {
                        println!("FAILED {} (seed {seed}): {wrong}", scenario.name);
                    }
                    failures.push(json!({ "scenario": scenario.name, "seed": seed, "wrong": wrong }));
                }
            }
            if !options.json && said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                let hours = virtual_time.as_secs_f64() / 3600.0;
                println!(
                    "{runs} runs, {hours:.1} virtual hours, {} failures, at seed {seed}",
                    failures.len()
                );
            }
        }
    }
    let (hours, took) = (virtual_time.as_secs_f64() / 3600.0, began.elapsed().as_secs_f64());
    let failed = failures.len();
    if options.json {
        println!(
            "{}",
            json!({ "runs": runs, "virtual_hours": hours, "seconds": took, "failures": failures })
        );
    } else {
        println!("{runs} runs, {hours:.1} virtual hours in {took:.1} s, {failed} failures");
    }
    ensure!(runs > 0, "no seed was run");
    ensure!(failed == 0, "{failed} of {runs} runs did not hold");
    Ok(())
}

fn measure(as_json: bool) -> Result<()> {
    let figures = [
        ("clients send", throughput::measure(sim::fast::Echo::Never, 240)),
        ("clients send, connector a packet a second", throughput::measure(sim::fast::Echo::Seldom, 240)),
        ("clients send, connector answers each", throughput::measure(sim::fast::Echo::Each, 240)),
    ];
    for (what, figure) in &figures {
        ensure!(figure.arrived > 0, "nothing arrived, so nothing was measured");
        if as_json {
            println!(
                "{}",
                json!({
                    "what": what,
                    "simulated_minutes": figure.minutes,
                    "seconds": figure.seconds,
                    "processor_seconds": figure.processor,
                    "minutes_per_second": figure.minutes / figure.seconds,
                    "minutes_per_processor_second": figure.minutes / figure.processor,
                    "packets": figure.arrived,
                    "debug_build": cfg!(debug_assertions),
                })
            );
        } else {
            println!(
                "{what}: {:.0} simulated minutes in {:.2} s: {:.0} a second, {:.0} a second of one core's time ({} data \
                 packets arrived)",
                figure.minutes,
                figure.seconds,
                figure.minutes / figure.seconds,
                figure.minutes / figure.processor,
                figure.arrived
            );
        }
    }
    Ok(())
}
