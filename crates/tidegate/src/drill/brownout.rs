//! `database-brownout`: the database gets slow, then nothing comes back from it at all.

use super::{
    api::{self, Call, Spread, Writes},
    database::{Database, Fault},
    run::{Databases, Needs, Phase, Run, Visits, Weather},
    second_site::{BACK_WITHIN, SecondSite},
};
use crate::process;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::Yes, databases: Databases::Either };

/// A strike ends a running session within this.
const STRIKE_WITHIN: Duration = Duration::from_secs(5);
/// A refusal is quick once it is known that the database does not answer.
const QUICK_MS: u32 = 100;
/// It is known within this.
const KNOWN_WITHIN: Duration = Duration::from_secs(3);
/// Normal again within this after the cure.
const RECOVERY: Duration = Duration::from_secs(10);
/// How long answers of a slow database take.
const SLOW: Duration = Duration::from_secs(2);
/// Samples, two a second, over which statements are counted to see how many there are at once.
const WINDOW: usize = 10;

const SLOW_NAME: &str = "the database answers every 2 s only";
const FROZEN_NAME: &str = "the database does not answer at all";
const BETWEEN_NAME: &str = "the database is back for a while";
const BACK_NAME: &str = "the database is back";

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let database = Database::of(run)?;
    run.enter("as always", Weather::Fair);
    let mut second = SecondSite::build(&run.stage).await?;
    let mut restarts = Vec::new();
    run.go_on(run.part(0.15).max(Duration::from_secs(6))).await?;
    run.enter(SLOW_NAME, Weather::Fault);
    database.set(Fault::Slow(SLOW)).await?;
    go_on_and_restart(run, run.part(0.25), &mut second, &mut restarts).await?;
    run.enter(BETWEEN_NAME, Weather::Fair);
    database.set(Fault::None).await?;
    run.go_on(run.part(0.10).max(RECOVERY)).await?;
    run.enter(FROZEN_NAME, Weather::Fault);
    database.set(Fault::Frozen).await?;
    go_on_and_restart(run, run.part(0.20), &mut second, &mut restarts).await?;

    // A device is revoked while the database does not answer.
    let struck = run.crowd.held - 1;
    let device = run.devices.get(struck).context("a device")?.identity.subject().to_string();
    let at = process::now();
    let answer: Result<Value, _> = run.stage.api().post("/api/v1/strikes", &json!({"subject": device})).await;
    let acknowledged = at.elapsed();
    let ended = run.until(STRIKE_WITHIN * 2, |phase| phase.clients.lost.contains_key("struck")).await?;
    go_on_and_restart(run, run.part(0.20), &mut second, &mut restarts).await?;

    run.enter(BACK_NAME, Weather::Fair);
    database.set(Fault::None).await?;
    run.go_on(run.part(0.20).max(RECOVERY + Duration::from_secs(2))).await?;
    database.end().await;
    second.end().await;

    judge_clients(run);
    judge_restarts(run, &restarts);
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
    judge_reads_and_errors(run);
    // A file that is locked for two seconds again and again lets changes pass in between.
    if run.server.is_some() {
        judge_refusals(run, SLOW_NAME);
    }
    judge_refusals(run, FROZEN_NAME);
    judge_cures(run, &[BETWEEN_NAME, BACK_NAME]);
    judge_ledger(run).await
}

/// Goes on for `length`, in the middle of which the second site's connector is killed and started from its disk.
async fn go_on_and_restart(
    run: &mut Run<'_>,
    length: Duration,
    second: &mut SecondSite,
    restarts: &mut Vec<anyhow::Result<Duration>>,
) -> anyhow::Result<()> {
    let (went, restarted) = tokio::join!(run.go_on(length), second.restart());
    restarts.push(restarted);
    went
}

fn judge_restarts(run: &mut Run<'_>, restarts: &[anyhow::Result<Duration>]) {
    let took: Vec<Duration> = restarts.iter().filter_map(|restart| restart.as_ref().ok().copied()).collect();
    let slowest = took.iter().max().copied().unwrap_or_default();
    let why =
        restarts.iter().filter_map(|restart| restart.as_ref().err()).map(|error| format!("; {error:#}"));
    let text = format!(
        "{} of {}, slowest {:.1} s{}",
        took.len(),
        restarts.len(),
        slowest.as_secs_f64(),
        why.collect::<String>()
    );
    let holds = took.len() == restarts.len() && slowest <= BACK_WITHIN;
    run.level(
        "connectors that start from disk while the database is slow or gone, first page through them",
        "all, ≤ 10 s",
        text,
        holds,
    );
}

pub fn judge_clients(run: &mut Run<'_>) {
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
    let text = format!("{in_fault} of {renewed} while something was broken");
    run.level("re-authentications (grants renewed)", "they go on", text, in_fault > 0);
}

/// Why, if anything failed.
pub fn because(failures: &std::collections::BTreeMap<String, usize>) -> String {
    if failures.is_empty() { String::new() } else { format!(": {}", api::words(failures)) }
}

/// What the API answered, in all.
pub fn judge_reads_and_errors(run: &mut Run<'_>) {
    let calls = |run: &Run<'_>, weather: Weather| -> Vec<Call> {
        run.seen(|phase| phase.weather == weather).reads().into_iter().cloned().collect()
    };
    let (fair, fault) = (calls(run, Weather::Fair), calls(run, Weather::Fault));
    let all = fair.len() + fault.len();
    let good = fair.iter().chain(&fault).filter(|call| call.outcome == Ok(200)).count();
    let percent = Visits::percent(good, all);
    let spread = |calls: &[Call]| {
        Spread::of(calls).map_or("none".to_owned(), |spread| format!("{} ms", spread.p99_ms))
    };
    let slowest = fair.iter().chain(&fault).map(|call| call.ms).max().unwrap_or_default();
    let text = format!(
        "{percent:.2} % ({good} of {all}), p99 {} ({} in fair weather), slowest {slowest} ms",
        spread(&fault),
        spread(&fair)
    );
    run.level("reads of the API", "≥ 99.9 %", text, all > 0 && percent >= 99.9);

    let writes = run.seen(|_| true).writes().into_iter().cloned().collect::<Vec<Call>>();
    let errors = writes.iter().filter(|call| !matches!(call.outcome, Ok(200 | 503))).count();
    let text = api::words(&api::tally(&writes));
    run.level("writes of the API that end in anything but done or 503", "0", text, errors == 0);
    let blamed = fair.iter().chain(&fault).chain(&writes);
    let blamed = blamed.filter(|call| matches!(call.outcome, Ok(500 | 502))).count();
    run.level("answers 500 or 502", "0", blamed.to_string(), blamed == 0);
}

/// In the stretch of this name nothing can be written: how soon that is known, and how quick refusals are then.
pub fn judge_refusals(run: &mut Run<'_>, name: &str) {
    let Some(phase) = run.phases.iter().find(|phase| phase.name == name) else { return };
    let from_s = phase.from_s;
    let refusals: Vec<Call> = phase.writes.iter().filter(|call| call.outcome == Ok(503)).cloned().collect();
    // Those that were on their way when the first one came back waited for their deadline: by it, it is learnt that the
    // database is gone.
    let came_back = |call: &Call| call.at + Duration::from_millis(u64::from(call.ms));
    let learnt = refusals.iter().map(came_back).min();
    let onset = learnt.map(|learnt| run.at_s(learnt) - from_s);
    let text = onset.map_or("never".to_owned(), |after| format!("{after:.1} s"));
    let holds = onset.is_some_and(|after| after <= KNOWN_WITHIN.as_secs_f64());
    run.level(&format!("{name}: the first write is refused"), "≤ 3 s after it began", text, holds);
    let refused: Vec<&Call> =
        refusals.iter().filter(|call| learnt.is_some_and(|learnt| call.at >= learnt)).collect();
    let waited = refusals.len() - refused.len();
    let p99 = Spread::of(refused.iter().copied()).map(|spread| spread.p99_ms);
    let text = match p99 {
        Some(p99) => format!(
            "{} refused, p99 {p99} ms ({waited} before them waited for their deadline)",
            refused.len()
        ),
        None => "none was quick".to_owned(),
    };
    let what = format!("{name}: a refused write is refused quickly");
    run.level(&what, "p99 ≤ 100 ms", text, p99.is_some_and(|p99| p99 <= QUICK_MS));
}

/// These stretches begin with a cure.
pub fn judge_cures(run: &mut Run<'_>, names: &[&str]) {
    let is_cure = |phase: &&Phase| names.contains(&phase.name.as_str());
    let cures: Vec<f64> = run.phases.iter().filter(is_cure).map(|phase| phase.from_s).collect();
    let calls: Vec<(f64, f64, bool)> = run
        .seen(|_| true)
        .writes()
        .into_iter()
        .map(|call| {
            let began = run.at_s(call.at);
            (began, began + f64::from(call.ms) / 1_000.0, call.outcome == Ok(200))
        })
        .collect();
    // From the cure to the end of the last write that was not done: one that is lucky does not make it normal.
    let mut took = Vec::new();
    for (number, cured) in cures.iter().copied().enumerate() {
        let until = run.phases.iter().filter(is_cure).nth(number).map_or(cured, |phase| phase.to_s);
        let of_it = || calls.iter().filter(move |(began, ..)| (cured..until).contains(began));
        let normal =
            of_it().filter(|(.., done)| !done).map(|(_, ended, _)| ended - cured).fold(0.0, f64::max);
        let done = of_it().any(|(began, _, done)| *done && began - cured >= normal);
        took.push(done.then_some(normal));
    }
    let holds =
        !took.is_empty() && took.iter().all(|took| took.is_some_and(|took| took <= RECOVERY.as_secs_f64()));
    let words = took.iter().map(|took| took.map_or("never".to_owned(), |took| format!("{took:.1} s")));
    let text = words.collect::<Vec<_>>().join(", ");
    run.level("every write is done again after the cure", "≤ 10 s", text, holds);

    let rates = |from_s: f64, to_s: f64| -> Vec<f64> {
        let within = run.samples.iter().filter(|sample| (from_s..to_s).contains(&sample.at_s));
        within.filter_map(|sample| sample.values.get("statements_per_s").copied()).collect()
    };
    let busiest = |rates: &[f64]| {
        let means = rates.windows(WINDOW).map(|window| window.iter().sum::<f64>() / WINDOW as f64);
        means.fold(None, |most: Option<f64>, mean| Some(most.map_or(mean, |most| most.max(mean))))
    };
    let first = run.phases.first().map_or(0.0, |phase| phase.to_s);
    let before = busiest(&rates(0.0, first));
    let after = cures.iter().filter_map(|cured| busiest(&rates(*cured, cured + 10.0))).reduce(f64::max);
    let (text, holds) = match (before, after) {
        (Some(before), Some(after)) => {
            (format!("{after:.0} a second for 5 s, {before:.0} before"), after <= 2.0 * before.max(1.0))
        }
        _ => ("not counted".to_owned(), false),
    };
    run.level("database statements at their busiest after the cure, against before", "≤ 2 ×", text, holds);
}

/// Whatever was acknowledged is there, once.
pub async fn judge_ledger(run: &mut Run<'_>) -> anyhow::Result<()> {
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
    let refused = writes.iter().filter(|call| call.outcome != Ok(200) && !call.is_unknown());
    let half = refused.filter(|call| call.name.as_deref().is_some_and(|name| there.contains(name))).count();
    let unknown = writes.iter().filter(|call| call.outcome != Ok(200) && call.is_unknown()).count();
    let text = format!("{missing} of {count} lost, {twice} stored twice");
    run.level("acknowledged writes lost", "0", text, count > 0 && missing == 0 && twice == 0);
    let text = format!("{half} ({unknown} said that their outcome is unknown)");
    run.level("refused writes that were stored all the same", "0", text, half == 0);
    Ok(())
}
