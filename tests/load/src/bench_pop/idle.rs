//! What sessions cost that do nothing but their keepalives.

use crate::{
    Bench, Figure, Goal,
    registrations::{FIRST, register},
};
use anyhow::{Result, ensure};
use load_rig::{AgentKind, Crowd};
use std::time::Duration;

/// Handshakes leave timers and buffers behind that go within seconds.
const SETTLE: Duration = Duration::from_secs(12);
/// One interval of the production keepalive: each session sends one.
const INTERVAL: Duration = Duration::from_secs(25);

pub fn measure(bench: &Bench, sessions: usize) -> Result<Vec<Figure>> {
    let agents = bench.installation.agents(AgentKind::Devices, sessions)?;
    let pop = bench.start_pop()?;
    let mut crowd = Crowd::new(&bench.installation, agents, FIRST, pop.address(), 2)?;
    let empty = pop.cost()?;
    let took = register(&mut crowd, 0, sessions, 64)?;
    eprintln!("{sessions} sessions after {:.1} s; they idle", took.as_secs_f64());
    crowd.turn(SETTLE)?;
    let (mut memory, mut share) = (Vec::new(), Vec::new());
    for _ in 0..bench.options.runs {
        let before = pop.cost()?;
        crowd.turn(INTERVAL)?;
        let after = pop.cost()?;
        let kib = after.rss.saturating_sub(empty.rss) as f64 / 1024.0 / sessions as f64;
        let percent = (after.cpu - before.cpu).as_secs_f64() * 100.0 / INTERVAL.as_secs_f64();
        eprintln!("{kib:.1} KiB a session; {percent:.2} % of a core");
        memory.push(kib);
        share.push(percent);
    }
    ensure!(crowd.up() == sessions, "{} of {sessions} sessions are left", crowd.up());
    let keepalives = pop.status()?["sessions"]["counters"]["messages"]["Keepalive"].as_u64().unwrap_or(0);
    ensure!(keepalives >= sessions as u64, "only {keepalives} keepalives came of {sessions} sessions");
    Ok(vec![
        Figure {
            name: format!("memory of an idle session, {sessions} of them"),
            unit: "KiB",
            goal: Some(Goal::AtMost(32.0)),
            runs: memory,
            remark: format!("; {:.0} MiB resident before the first", empty.rss as f64 / 1024.0 / 1024.0),
        },
        Figure {
            name: format!("{sessions} idle sessions, a keepalive every 25 s"),
            unit: "% of a core",
            goal: (sessions >= 20_000).then_some(Goal::AtMost(3.0)),
            runs: share,
            remark: String::new(),
        },
    ])
}
