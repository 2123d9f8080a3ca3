//! `black-hole-relay`: a PoP accepts TCP connections and says nothing any more, by any protocol.

use super::{
    api::Writes,
    brownout::because,
    run::{Databases, Needs, Run, Visits, Weather},
};
use crate::process::Frozen;
use anyhow::Context as _;
use std::time::Duration;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 2, writes: Writes::No, databases: Databases::File };

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    run.enter("as always, two PoPs", Weather::Fair);
    run.go_on(run.part(0.2)).await?;
    // The one that most clients are at.
    let mut busiest = (0, 0);
    for (index, pop) in run.stage.pops().iter().enumerate() {
        let devices = pop.status().await?["sessions"]["devices"].as_u64().unwrap_or_default();
        if devices >= busiest.1 {
            busiest = (index, devices);
        }
    }
    let (index, devices) = busiest;
    let frozen = run.stage.pops().get_mut(index).context("a PoP")?;
    let name = frozen.name.clone();
    // A stopped process: the kernel still accepts TCP for it, and nothing answers.
    frozen.role()?.freeze(Frozen::Yes)?;
    run.enter(&format!("{name}, with {devices} clients, takes packets and answers none"), Weather::Fault);
    let held = run.crowd.held;
    run.go_on(Duration::from_secs(2)).await?;
    let back =
        run.until(run.part(0.5).max(Duration::from_secs(40)), |phase| phase.clients.up >= held).await?;
    run.go_on(run.part(0.15)).await?;
    let fault = |phase: &super::run::Phase| phase.weather == Weather::Fault;
    let waits = run.seen(fault).long_waits();
    run.enter("it goes on", Weather::Fair);
    run.stage.pops().get_mut(index).context("a PoP")?.role()?.freeze(Frozen::No)?;
    run.go_on(run.part(0.15)).await?;

    let at = |part: usize| waits.get((waits.len() * part / 100).min(waits.len().saturating_sub(1))).copied();
    let open = run.seen(fault).longest_wait_ms();
    let text = match (at(50), at(99)) {
        (Some(p50), Some(p99)) => {
            format!("{} connections waited; p50 {p50} ms, p99 {p99} ms, worst {open} ms", waits.len())
        }
        _ => format!("no wait was noticed; worst {open} ms"),
    };
    let holds =
        at(50).is_some_and(|p50| p50 <= 3_000) && at(99).is_some_and(|p99| p99 <= 15_000) && open <= 15_000;
    run.level("running connections answer again, by the other PoP", "p50 ≤ 3 s, p99 ≤ 15 s", text, holds);
    let seen = run.seen(|_| true);
    let (cut, visits, failures) = (seen.cut(), seen.visits(), seen.failures());
    run.level("running connections cut", "0", cut.to_string(), cut == 0);
    let text =
        back.map_or("not all".to_owned(), |took| format!("all, after {:.1} s", took.as_secs_f64() + 2.0));
    run.level("clients that hold a session again", "all", text, back.is_some());
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level("new connections, first byte within 5 s", "≥ 99 %", text, visits.all > 0 && percent >= 99.0);
    Ok(())
}
