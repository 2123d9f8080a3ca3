//! Full registrations a core-second, beside bare QUIC handshakes in the same run.

use crate::{
    Bench, Figure, Goal,
    bare::{Bare, Kind, write_certificates},
};
use anyhow::{Result, ensure};
use load_rig::{AgentKind, Crowd, Outcome, PopProcess, cost_of, median};
use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

/// Before the first is counted: page faults, caches, the kernel's tables.
const WARM: usize = 500;
/// In one run.
const COUNTED: usize = 2_000;
/// At a time: enough that the server always has something to do.
const AT_ONCE: usize = 64;
const DEADLINE: Duration = Duration::from_secs(300);
/// Addresses of the agents.
pub const FIRST: Ipv4Addr = Ipv4Addr::new(127, 16, 0, 1);

/// Registers members `from..to`, some at a time; how long it took. Whoever fails comes again, and is told of.
pub fn register(crowd: &mut Crowd, from: usize, to: usize, at_once: usize) -> Result<Duration> {
    let began = Instant::now();
    let (mut next, mut done) = (from, from);
    while done < to {
        while next < to && next - done < at_once {
            crowd.register(next);
            next += 1;
        }
        crowd.turn(Duration::from_millis(1))?;
        for (number, outcome) in crowd.take().outcomes {
            match outcome {
                Outcome::Registered(_) => done += 1,
                Outcome::Failed(reason) => {
                    eprintln!("agent {number} failed ({reason}) and comes again");
                    crowd.register(number);
                }
            }
        }
        ensure!(
            began.elapsed() < DEADLINE,
            "{} of {} registered within five minutes",
            done - from,
            to - from
        );
    }
    Ok(began.elapsed())
}

struct Row {
    name: &'static str,
    goal: Option<Goal>,
    micros: Vec<f64>,
    seconds: Vec<f64>,
}

impl Row {
    const fn new(name: &'static str, goal: Option<Goal>) -> Self {
        Self { name, goal, micros: Vec::new(), seconds: Vec::new() }
    }

    fn add(&mut self, cpu: Duration, took: Duration) {
        let micros = cpu.as_secs_f64() * 1e6 / COUNTED as f64;
        eprintln!(
            "{}: {micros:.0} µs each, {:.0} a second in passing",
            self.name,
            COUNTED as f64 / took.as_secs_f64()
        );
        self.micros.push(micros);
        self.seconds.push(took.as_secs_f64());
    }

    fn figure(&self) -> Figure {
        let (micros, ..) = median(&self.micros);
        let (seconds, ..) = median(&self.seconds);
        Figure {
            name: self.name.to_owned(),
            unit: "a core-second",
            goal: self.goal,
            runs: self.micros.iter().map(|micros| 1e6 / micros).collect(),
            remark: format!(
                "; {micros:.0} µs each; {:.0} a second on the clock, its load on the other core",
                COUNTED as f64 / seconds
            ),
        }
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let runs = bench.options.runs;
    let agents = bench.installation.agents(AgentKind::Devices, WARM + runs * COUNTED)?;
    let pop = bench.start_pop()?;
    let mut crowd = Crowd::new(&bench.installation, agents, FIRST, pop.address(), 1)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let place = tempfile::tempdir()?;
    let mut bares = Vec::new();
    for (kind, name) in [
        (Kind::P256, "bare QUIC handshakes (P-256 under a CA, X25519)"),
        (Kind::Ed25519, "bare QUIC handshakes (Ed25519 under a CA, X25519MLKEM768)"),
    ] {
        let certificates = place.path().join(name);
        std::fs::create_dir(&certificates)?;
        write_certificates(kind, &certificates)?;
        let entered = runtime.enter();
        let mut bare = Bare::start(kind, &certificates, &bench.pop_place())?;
        drop(entered);
        runtime.block_on(bare.register(WARM, AT_ONCE))?;
        bares.push((bare, Row::new(name, None)));
    }
    register(&mut crowd, 0, WARM, AT_ONCE)?;
    let mut row = Row::new("registrations through the production PoP", Some(Goal::AtLeast(2_700.0)));
    for run in 0..runs {
        let from = WARM + run * COUNTED;
        let before = pop.cost()?;
        let took = register(&mut crowd, from, from + COUNTED, AT_ONCE)?;
        row.add(pop.cost()?.cpu - before.cpu, took);
        for (bare, row) in &mut bares {
            let (before, began) = (cost_of(bare.id())?, Instant::now());
            runtime.block_on(bare.register(COUNTED, AT_ONCE))?;
            row.add(cost_of(bare.id())?.cpu - before.cpu, began.elapsed());
        }
    }
    let registered = registered(&pop)?;
    ensure!(registered == crowd.up() as u64, "the PoP counts {registered}, {} are up", crowd.up());
    let mut figures = vec![row.figure()];
    figures.extend(bares.iter().map(|(_, row)| row.figure()));
    Ok(figures)
}

/// What the PoP itself counted.
pub fn registered(pop: &PopProcess) -> Result<u64> {
    Ok(pop.status()?["sessions"]["counters"]["registered"].as_u64().unwrap_or_default())
}
