//! `holepunch-surge`: broken clients start all over again a hundred times as often, and the database is gone.

use super::{
    api::Writes,
    brownout::because,
    database::{DatabaseFault, Fault},
    run::{Databases, Needs, Run, Visits, Weather},
};
use load::Order;
use std::time::Duration;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::No, databases: Databases::File };

/// An honest client negotiates anew when its network changes: every hundred seconds is a lot. The broken ones do it
/// every second.
const BROKEN_EVERY_MS: u32 = 1_000;
/// Everybody is served again within this.
const RECOVERY: Duration = Duration::from_secs(60);
/// Attempts in one cell of the table.
const ATTEMPTS: usize = 20;

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let database = DatabaseFault::prepare(&run.stage.controller_state())?;
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.15)).await?;
    let statements = run.statements().await;

    let one_percent = (run.crowd.held / 100).max(1);
    // The last of those that hold a session: the first have running connections.
    let first = run.crowd.held - one_percent;
    run.clients.order(Order::Surge { from: first, to: run.crowd.held, period_ms: BROKEN_EVERY_MS }).await?;
    let mut cells = Vec::new();
    for (seconds, words) in
        [(0, "at once"), (2, "every 2 s only"), (4, "every 4 s only"), (10, "every 10 s only")]
    {
        run.enter(&format!("1 % of the clients are broken; the database answers {words}"), Weather::Fault);
        database.set(if seconds == 0 { Fault::None } else { Fault::Slow(Duration::from_secs(seconds)) });
        let enough = |phase: &super::run::Phase| phase.clients.visits.len() >= ATTEMPTS;
        run.until(run.part(0.1).max(Duration::from_secs(15)), enough).await?;
        let phase = run.phases.last();
        let attempts = phase.map(|phase| phase.clients.visits.iter().take(ATTEMPTS)).into_iter().flatten();
        let passed = attempts.filter(|visit| visit.registered_ms.is_some_and(|ms| ms < 5_000)).count();
        cells.push((seconds, passed));
    }
    let flows = run.crowd.flows;
    run.enter(
        "every client without a running connection is broken; the database does not answer",
        Weather::Fault,
    );
    database.set(Fault::Frozen);
    run.clients.order(Order::Surge { from: flows, to: run.crowd.held, period_ms: BROKEN_EVERY_MS }).await?;
    run.go_on(run.part(0.30)).await?;

    run.enter("the clients are mended", Weather::Fair);
    run.clients.order(Order::Calm).await?;
    let held = run.crowd.held;
    let back = run.until(RECOVERY, |phase| phase.clients.up >= held).await?;
    let after = run.statements().await;
    database.set(Fault::None);
    run.go_on(run.part(0.1)).await?;
    database.end().await;

    let pop = run.stage.pop_status().await?;
    let seen = run.seen(|_| true);
    let (visits, failures) = (seen.visits(), seen.failures());
    let (cut, longest) = (seen.cut(), seen.longest_wait_ms());
    let (surged, served) = run
        .phases
        .iter()
        .fold((0, 0), |sum, phase| (sum.0 + phase.clients.surged, sum.1 + phase.clients.surge_registered));
    let percent = Visits::percent(visits.registered, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.registered, visits.all, because(&failures));
    let holds = visits.all > 0 && percent >= 99.9;
    run.level("registrations of clients that are not broken, within 5 s", "≥ 99.9 %", text, holds);
    let table: Vec<String> =
        cells.iter().map(|(seconds, passed)| format!("{passed} at {seconds} s")).collect();
    let holds = cells.iter().all(|(_, passed)| *passed == ATTEMPTS);
    run.level(
        "registrations that pass, out of 20, with the database behind by 0, 2, 4 and 10 s",
        "20, 20, 20, 20",
        table.join(", "),
        holds,
    );
    let text = match (statements, after) {
        (Some(before), Some(after)) => (after.saturating_sub(before)).to_string(),
        _ => "the controller did not say".to_owned(),
    };
    run.level("database statements caused", "0", text, statements.is_some() && statements == after);
    run.level("running connections cut", "0", format!("{cut} cut; longest wait {longest} ms"), cut == 0);
    let text = back.map_or("not within a minute".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
    run.level("everybody is registered again after the surge", "< 60 s", text, back.is_some());
    run.remarks.push(format!(
        "The broken clients started over {surged} times and got a session {served} times: the others began anew before they were done."
    ));
    let count = |value: &serde_json::Value| value.as_u64().unwrap_or_default();
    let shed = pop["admission"]["shed"].as_object().cloned().unwrap_or_default();
    let shed: Vec<String> = shed.iter().map(|(class, number)| format!("{} {class}", count(number))).collect();
    run.remarks.push(format!(
        "The PoP's queues turned {} first packets around (newest first) and dropped {}; the longest wait in them was {} ms. \
         It gave up {} handshakes that were not done for newer ones, turned {} away, and closed {} sessions of agents \
         that registered too often.",
        count(&pop["admission"]["turned"]),
        if shed.is_empty() { "none".to_owned() } else { shed.join(", ") },
        count(&pop["admission"]["longest_wait_us"]) / 1_000,
        count(&pop["sessions"]["given_up"]),
        count(&pop["sessions"]["turned_away"]),
        count(&pop["sessions"]["counters"]["refused"]["too_often"]),
    ));
    Ok(())
}
