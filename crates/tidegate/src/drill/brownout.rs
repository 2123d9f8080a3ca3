//! `database-brownout`: the database gets slow, then nothing comes back from it at all.

use super::{
    api::{self, Call, Writes},
    database::{DatabaseFault, Fault},
    run::{Needs, Run, Visits, Weather},
};
use crate::process;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::Yes };

/// A strike ends a running session within this.
const STRIKE_WITHIN: Duration = Duration::from_secs(5);
/// A refusal is quick once it is known that the database does not answer.
const QUICK_MS: u32 = 100;
/// Normal again within this after the cure.
const RECOVERY: Duration = Duration::from_secs(10);

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let database = DatabaseFault::prepare(&run.stage.controller_state())?;
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.15)).await?;
    run.enter("the database answers every 2 s only", Weather::Fault);
    database.set(Fault::Slow(Duration::from_secs(2)));
    run.go_on(run.part(0.25)).await?;
    run.enter("the database does not answer at all", Weather::Fault);
    database.set(Fault::Frozen);
    run.go_on(run.part(0.20)).await?;

    // A device is revoked while the database does not answer.
    let struck = run.crowd.held - 1;
    let device = run.devices.get(struck).context("a device")?.identity.subject().to_string();
    let at = process::now();
    let answer: Result<Value, _> = run.stage.api().post("/api/v1/strikes", &json!({"subject": device})).await;
    let acknowledged = at.elapsed();
    let ended = run.until(STRIKE_WITHIN * 2, |phase| phase.clients.lost.contains_key("struck")).await?;
    run.go_on(run.part(0.20)).await?;

    run.enter("the database is back", Weather::Fair);
    let cured = process::now();
    database.set(Fault::None);
    run.go_on(run.part(0.20).max(RECOVERY + Duration::from_secs(2))).await?;
    database.end().await;

    judge_clients(run);
    let strike = match (&answer, ended) {
        (Ok(_), Some(took)) => {
            format!(
                "acknowledged after {} ms, session gone within {} ms",
                acknowledged.as_millis(),
                took.as_millis()
            )
        }
        (Ok(_), None) => "acknowledged, and the session went on".to_owned(),
        (Err(error), _) => format!("refused: {error}"),
    };
    let holds = answer.is_ok() && ended.is_some_and(|took| took <= STRIKE_WITHIN);
    run.level("a device revoked while the database does not answer", "ends within 5 s", strike, holds);
    judge_api(run, cured);
    judge_ledger(run).await
}

fn judge_clients(run: &mut Run<'_>) {
    let all = run.seen(|_| true);
    let (lost, cut, renewed) = (all.lost(), all.cut(), all.renewed());
    let (longest, visits, failures) = (all.longest_wait_ms(), all.visits(), all.failures());
    let in_fault = run.seen(|phase| phase.weather == Weather::Fault).renewed();
    run.level("sessions dropped", "0", lost.to_string(), lost == 0);
    let text = format!("{cut} cut; longest wait for an answer {longest} ms");
    run.level("running connections cut", "0", text, cut == 0);
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level(
        "clients that start from disk, register and open a new connection, first byte within 5 s",
        "≥ 99.9 %",
        text,
        visits.all > 0 && percent >= 99.9,
    );
    let text = format!("{in_fault} of {renewed} while the database was slow or gone");
    run.level("re-authentications (grants renewed)", "they go on", text, in_fault > 0);
}

/// Why, if anything failed.
pub fn because(failures: &std::collections::BTreeMap<String, usize>) -> String {
    if failures.is_empty() { String::new() } else { format!(": {}", api::words(failures)) }
}

fn judge_api(run: &mut Run<'_>, cured: std::time::Instant) {
    let reads = run.seen(|_| true).reads().into_iter().cloned().collect::<Vec<Call>>();
    let good = reads.iter().filter(|call| call.outcome == Ok(200)).count();
    let percent = Visits::percent(good, reads.len());
    let slowest = reads.iter().map(|call| call.ms).max().unwrap_or_default();
    let text = format!("{percent:.2} % ({good} of {}), slowest {slowest} ms", reads.len());
    run.level("reads of the API", "≥ 99.9 %", text, !reads.is_empty() && percent >= 99.9);

    let writes = run.seen(|_| true).writes().into_iter().cloned().collect::<Vec<Call>>();
    let errors = writes.iter().filter(|call| !matches!(call.outcome, Ok(200 | 503))).count();
    let text = api::words(&api::tally(&writes));
    run.level("writes of the API that end in anything but done or 503", "0", text, errors == 0);
    let frozen = run.phases.iter().find(|phase| phase.name.contains("not answer")).map(|phase| phase.from_s);
    let refusals: Vec<&Call> = run
        .phases
        .iter()
        .filter(|phase| Some(phase.from_s) == frozen)
        .flat_map(|phase| &phase.writes)
        .filter(|call| call.outcome == Ok(503))
        .collect();
    // Those that were on their way when the first one came back waited for their deadline: by it, it is learnt that the
    // database is gone.
    let came_back = |call: &Call| call.at + Duration::from_millis(u64::from(call.ms));
    let learnt = refusals.iter().map(|call| came_back(call)).min();
    let knows = |call: &&&Call| learnt.is_some_and(|learnt| call.at >= learnt);
    let mut refused: Vec<u32> = refusals.iter().filter(knows).map(|call| call.ms).collect();
    let waited = refusals.len() - refused.len();
    refused.sort_unstable();
    let p99 = refused.get((refused.len() * 99 / 100).min(refused.len().saturating_sub(1))).copied();
    let text = match p99 {
        Some(p99) => format!(
            "{} refused, p99 {p99} ms ({waited} before them waited for their deadline)",
            refused.len()
        ),
        None => "none was quick".to_owned(),
    };
    run.level(
        "a refused write is refused quickly",
        "p99 ≤ 100 ms",
        text,
        p99.is_some_and(|p99| p99 <= QUICK_MS),
    );
    let normal =
        writes.iter().filter(|call| call.at >= cured && call.outcome == Ok(200)).map(|call| call.at).min();
    let took = normal.map(|at| at.saturating_duration_since(cured));
    let text = took.map_or("never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
    run.level("writes work again after the cure", "≤ 10 s", text, took.is_some_and(|took| took <= RECOVERY));
}

/// Whatever was acknowledged is there, once.
async fn judge_ledger(run: &mut Run<'_>) -> anyhow::Result<()> {
    let mut stored: Vec<String> = Vec::new();
    let mut after = String::new();
    loop {
        let page: Value = run.stage.api().get(&format!("/api/v1/groups?limit=1000{after}")).await?;
        let items = page["items"].as_array().context("groups")?;
        stored.extend(items.iter().filter_map(|item| item["name"].as_str()).map(str::to_owned));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let there: BTreeSet<&str> = stored.iter().map(String::as_str).collect();
    let writes: Vec<Call> = run.seen(|_| true).writes().into_iter().cloned().collect();
    let acknowledged =
        writes.iter().filter(|call| call.outcome == Ok(200)).filter_map(|call| call.name.as_deref());
    let (mut count, mut missing) = (0, 0);
    for name in acknowledged {
        count += 1;
        missing += usize::from(!there.contains(name));
    }
    let twice = stored.len() - there.len();
    let text = format!("{missing} of {count} lost, {twice} stored twice");
    run.level("acknowledged writes lost", "0", text, count > 0 && missing == 0 && twice == 0);
    Ok(())
}
