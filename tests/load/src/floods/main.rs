//! `load-floods`: what a PoP does while it is flooded.
//!
//! The production PoP process in a network namespace of its own, on a core of its own; spoofed, malformed and replayed
//! floods and honest agents in another. Bytes are counted at the PoP's edge by the kernel. Needs root.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

mod honest;
mod packets;

use anyhow::{Result, ensure};
use clap::Parser;
use honest::{Honest, TRIES};
use load_rig::{
    AgentKind, Cost, Crowd, Figure, Flood, FloodPlan, Goal, Installation, Place, PopProcess,
    lab::{HONEST, INSIDE, Lab, SPOOFED},
};
use serde_json::{Value, json};
use std::{
    net::{SocketAddr, SocketAddrV4},
    path::PathBuf,
    time::{Duration, Instant},
};

const PORT: u16 = 4_433;
/// Addresses that the floods come from.
const SOURCES: u32 = 60_000;
/// Honest agents that hold a session throughout.
const HELD: usize = 500;
/// The flood at which real registrations are counted (issue 4).
const STEADY: u64 = 40_000;
/// Honest agents that come in a second while success is measured.
const COMING: u32 = 60;

/// What a PoP does while it is flooded.
#[derive(Debug, Parser)]
struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// How long each flood lasts, in seconds.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// The core of the PoP.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

struct Floods {
    options: Options,
    lab: Lab,
    installation: Installation,
    pop: PopProcess,
    crowd: Crowd,
    /// The next agent that has not come yet.
    next: usize,
    initials: Vec<Vec<u8>>,
    figures: Vec<Figure>,
}

/// What one flood did to the PoP.
struct Effect {
    seconds: f64,
    sent: u64,
    before: Cost,
    after: Cost,
    status_before: Value,
    status_after: Value,
    /// Resident memory and descriptors, each half second.
    samples: Vec<(f64, f64)>,
}

impl Effect {
    fn core_seconds(&self) -> f64 {
        (self.after.cpu - self.before.cpu).as_secs_f64()
    }

    fn retries(&self) -> f64 {
        let of = |status: &Value| status["sessions"]["retries"].as_f64().unwrap_or_default();
        of(&self.status_after) - of(&self.status_before)
    }

    /// Growth a second over the second half of the flood, by least squares: KiB and descriptors. The first half touches
    /// the bounded queues' pages for the first time.
    fn slopes(&self) -> (f64, f64) {
        let late = &self.samples[self.samples.len() / 2..];
        let slope = |of: fn(&(f64, f64)) -> f64| {
            let count = late.len() as f64;
            let middle = (count - 1.0) / 2.0;
            let mean = late.iter().map(of).sum::<f64>() / count;
            let (mut over, mut under) = (0.0, 0.0);
            for (place, sample) in late.iter().enumerate() {
                let away = place as f64 - middle;
                over += away * (of(sample) - mean);
                under += away * away;
            }
            // Two samples a second.
            2.0 * over / under
        };
        (slope(|sample| sample.0 / 1024.0), slope(|sample| sample.1))
    }
}

fn figure(name: &str, unit: &'static str, goal: Option<Goal>, runs: Vec<f64>, remark: String) -> Figure {
    Figure { name: name.to_owned(), unit, goal, runs, remark }
}

impl Floods {
    fn plan(&self, datagrams: Vec<Vec<u8>>, sources: u32, per_second: Option<u64>) -> FloodPlan {
        FloodPlan { datagrams, first: SPOOFED, sources, to: SocketAddrV4::new(INSIDE, PORT), per_second }
    }

    /// Floods while `meanwhile` goes on in steps of half a second.
    fn flood(
        &mut self,
        plan: FloodPlan,
        mut meanwhile: impl FnMut(&mut Crowd, Duration) -> Result<()>,
    ) -> Result<Effect> {
        let flood = Flood::start(plan)?;
        self.crowd.turn(Duration::from_millis(500))?;
        let (status_before, before, sent) = (self.pop.status()?, self.pop.cost()?, flood.sent());
        let began = Instant::now();
        let mut samples = Vec::new();
        while began.elapsed() < Duration::from_secs(self.options.seconds) {
            meanwhile(&mut self.crowd, Duration::from_millis(500))?;
            let cost = self.pop.cost()?;
            samples.push((cost.rss as f64, cost.descriptors as f64));
            self.pop.check()?;
        }
        let (after, seconds) = (self.pop.cost()?, began.elapsed().as_secs_f64());
        let sent = flood.sent() - sent;
        flood.stop()?;
        let status_after = self.pop.status()?;
        // What waits in buffers goes before the next one begins.
        self.crowd.turn(Duration::from_millis(700))?;
        Ok(Effect { seconds, sent, before, after, status_before, status_after, samples })
    }

    fn tell(&mut self, figure: Figure) {
        if !self.options.json {
            println!("{}", figure.line());
        }
        self.figures.push(figure);
    }

    /// As many spoofed first packets as one core sends; the answers a second at which the PoP is saturated, and the
    /// processor time of one.
    fn saturate(&mut self) -> Result<(f64, f64)> {
        let (mut per_core, mut answered, mut offered, mut memory, mut descriptors, mut amplified) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.options.runs {
            let plan = self.plan(self.initials.clone(), SOURCES, None);
            let (came, went) = self.lab.edge_bytes()?;
            let effect = self.flood(plan, |crowd, time| crowd.turn(time))?;
            let (came_after, went_after) = self.lab.edge_bytes()?;
            per_core.push(effect.retries() / effect.core_seconds());
            answered.push(effect.retries() / effect.seconds);
            offered.push(effect.sent as f64 / effect.seconds);
            let (kib, opened) = effect.slopes();
            memory.push(kib);
            descriptors.push(opened);
            amplified.push((went_after - went) as f64 / (came_after - came) as f64);
            eprintln!(
                "{:.0} a second offered, {:.0} answered, the PoP used {:.2} of a core; memory {kib:+.1} KiB/s",
                effect.sent as f64 / effect.seconds,
                effect.retries() / effect.seconds,
                effect.core_seconds() / effect.seconds
            );
        }
        let saturated = load_rig::median(&answered).0;
        let offered = load_rig::median(&offered).0;
        let each = load_rig::median(&per_core).0;
        self.tell(figure(
            "Retry answers to spoofed first packets",
            "a core-second",
            Some(Goal::AtLeast(70_000.0)),
            per_core,
            format!("; {saturated:.0} a second on the clock with {offered:.0} offered"),
        ));
        self.tell(figure("bytes out for a byte in", "", Some(Goal::AtMost(1.0)), amplified, String::new()));
        self.growth("the flood at the machine's limit", memory, descriptors);
        Ok((saturated, 1.0 / each))
    }

    fn growth(&mut self, during: &str, memory: Vec<f64>, descriptors: Vec<f64>) {
        let name = format!("memory of the PoP during {during}, second half");
        // A page a second is the kernel's accounting, not growth: 60,000 sources a second would be megabytes.
        self.tell(figure(&name, "KiB/s", Some(Goal::AtMost(4.0)), memory, String::new()));
        let name = format!("descriptors of the PoP during {during}, second half");
        self.tell(figure(&name, "a second", Some(Goal::AtMost(0.0)), descriptors, String::new()));
    }

    /// Real registrations, as many as can, while 40,000 spoofed first packets come in a second.
    fn register_meanwhile(&mut self, retry: f64) -> Result<()> {
        let (mut rates, mut failed, mut per_core, mut capable) = (Vec::new(), 0, Vec::new(), Vec::new());
        for _ in 0..self.options.runs {
            let plan = self.plan(self.initials.clone(), SOURCES, Some(STEADY));
            let mut honest = Honest::new(self.next);
            let effect = self.flood(plan, |crowd, time| honest.as_many_as_can(crowd, time))?;
            self.next = honest.next();
            let registered = honest.registered();
            failed += honest.failed();
            rates.push(registered as f64 / effect.seconds);
            per_core.push(effect.core_seconds() / effect.seconds);
            // What is left of a core beside 40,000 Retries, at what a registration cost here.
            let each = (effect.core_seconds() - effect.retries() * retry) / registered as f64;
            capable.push((1.0 - STEADY as f64 * retry) / each);
            eprintln!(
                "{:.0} registrations a second, {} failed, {:.0} spoofed answered; the PoP used {:.2} of a core",
                registered as f64 / effect.seconds,
                honest.failed(),
                effect.retries() / effect.seconds,
                effect.core_seconds() / effect.seconds
            );
            honest.leave_all(&mut self.crowd)?;
        }
        let used = load_rig::median(&per_core).0;
        self.tell(figure(
            "real registrations during 40,000 spoofed first packets a second",
            "a second",
            Some(Goal::AtLeast(1_800.0)),
            rates,
            format!(
                "; {failed} failed; the PoP used {used:.2} of its core, flood and agents share the other"
            ),
        ));
        Ok(())
    }

    /// Of honest agents that come on a clock of their own, how many register within three attempts and ten seconds.
    fn success(&mut self, name: &str, plan: FloodPlan, goal: f64) -> Result<()> {
        let (mut rates, mut held, mut waits) = (Vec::new(), Vec::new(), Vec::new());
        let (mut memory, mut descriptors) = (Vec::new(), Vec::new());
        for _ in 0..self.options.runs {
            let up = self.crowd.up();
            let mut honest = Honest::new(self.next);
            let effect = self.flood(plan.clone(), |crowd, time| honest.on_a_clock(crowd, time, COMING))?;
            // Those who came last have their ten seconds, with the flood still on.
            let flood = Flood::start(plan.clone())?;
            let began = Instant::now();
            while honest.under_way() > 0 && began.elapsed() < Duration::from_secs(11) {
                honest.on_a_clock(&mut self.crowd, Duration::from_millis(200), 0)?;
            }
            flood.stop()?;
            self.next = honest.next();
            let (kib, opened) = effect.slopes();
            memory.push(kib);
            descriptors.push(opened);
            rates.push(honest.percent());
            waits.push(honest.p99().as_secs_f64() * 1e3);
            honest.leave_all(&mut self.crowd)?;
            held.push(up.saturating_sub(self.crowd.up()) as f64);
            eprintln!(
                "{name}: {:.2} % of {} registered, p99 {:.0} ms; {:.0} a second offered, the PoP used {:.2} of a core",
                honest.percent(),
                honest.came(),
                honest.p99().as_secs_f64() * 1e3,
                effect.sent as f64 / effect.seconds,
                effect.core_seconds() / effect.seconds
            );
        }
        let wait = load_rig::median(&waits).0;
        self.tell(figure(
            &format!("registered within {TRIES} attempts and 10 s during {name}"),
            "%",
            Some(Goal::AtLeast(goal)),
            rates,
            format!("; 99 of 100 within {wait:.0} ms"),
        ));
        let name_held = format!("sessions lost during {name}");
        self.tell(figure(&name_held, "", Some(Goal::AtMost(0.0)), held, String::new()));
        self.growth(name, memory, descriptors);
        Ok(())
    }

    /// The greatest ratio of bytes to an address and bytes from it.
    fn ratios(&mut self) -> Result<()> {
        let mut most = Vec::new();
        let mut addresses = 0;
        for run in 0..self.options.runs {
            let mut all = self.initials.clone();
            all.extend(packets::malformed(&self.initials, 4_096, run as u64));
            self.lab.count_sources()?;
            let plan = self.plan(all, 5_003, Some(10_000));
            self.flood(plan, |crowd, time| crowd.turn(time))?;
            let counted = self.lab.sources()?;
            let spoofed = u32::from(SPOOFED);
            let worst = counted
                .iter()
                .filter(|(address, _)| match address {
                    std::net::IpAddr::V4(ip) => (spoofed..spoofed + SOURCES).contains(&u32::from(*ip)),
                    std::net::IpAddr::V6(_) => false,
                })
                .map(|(_, (came, went))| {
                    addresses += 1;
                    *went as f64 / (*came).max(1) as f64
                })
                .fold(0.0, f64::max);
            most.push(worst);
        }
        ensure!(addresses > 5_000, "only {addresses} addresses were counted");
        let remark =
            format!("; {addresses} addresses, first packets and malformed ones, counted by the kernel");
        self.tell(figure("bytes out for a byte in, worst source", "", Some(Goal::AtMost(1.0)), most, remark));
        Ok(())
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let lab = Lab::enter()?;
    let mine = load_rig::keep_off(options.core)?;
    eprintln!("The PoP runs on core {}, floods and honest agents on core {mine}.", options.core);
    let installation = Installation::new()?;
    let place = Place { core: Some(options.core), namespace: Some(lab.inside().to_owned()) };
    let listen = SocketAddr::from((INSIDE, PORT));
    let pop = PopProcess::start(&options.tidegate, &installation, &place, listen)?;
    // Those who stay, and those who come: 2,500 a second in some runs.
    let runs = options.runs * usize::try_from(options.seconds)?;
    let coming = runs * 2_600 + runs * 5 * usize::try_from(COMING)?;
    let agents = installation.agents(AgentKind::Devices, HELD + coming)?;
    let crowd = Crowd::new(&installation, agents, HONEST, listen, 7)?;
    let initials = packets::initials(&installation, 1_024)?;
    let mut floods =
        Floods { options, lab, installation, pop, crowd, next: HELD, initials, figures: Vec::new() };
    for number in 0..HELD {
        floods.crowd.register(number);
        floods.crowd.turn(Duration::from_millis(1))?;
    }
    floods.crowd.turn(Duration::from_secs(2))?;
    ensure!(floods.crowd.up() == HELD, "{} of {HELD} registered before any flood", floods.crowd.up());
    let (saturated, retry) = floods.saturate()?;
    floods.register_meanwhile(retry)?;
    let (half, full) = ((saturated / 2.0) as u64, saturated as u64);
    let plan = floods.plan(floods.initials.clone(), SOURCES, Some(half));
    floods.success("spoofed first packets at half saturation", plan, 99.0)?;
    let plan = floods.plan(floods.initials.clone(), SOURCES, Some(full));
    floods.success("spoofed first packets at saturation", plan, 90.0)?;
    let malformed = packets::malformed(&floods.initials, 8_192, 11);
    let plan = floods.plan(malformed, SOURCES, Some(full));
    floods.success("a malformed flood at the same rate", plan, 90.0)?;
    let replayed = packets::recorded(&floods.installation, listen)?;
    eprintln!("{} datagrams of a real registration are replayed", replayed.len());
    let plan = floods.plan(replayed, SOURCES, Some(full));
    floods.success("a replayed flood at the same rate", plan, 90.0)?;
    floods.ratios()?;
    let Floods { options, figures, .. } = floods;
    if options.json {
        let all: Vec<Value> = figures.iter().map(Figure::json).collect();
        println!("{}", json!({"bench": "floods", "figures": all}));
    }
    Ok(())
}
