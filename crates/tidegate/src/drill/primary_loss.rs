//! `primary-loss`: the primary is killed under writes, a standby is promoted, and the old primary comes back.

use super::{
    api::{self, Call, Writes},
    brownout::{judge_clients, judge_reads_and_errors},
    run::{Databases, Needs, Phase, Run, Weather},
    zone::Zone,
};
use crate::process;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::UntilDone, databases: Databases::Zone };

/// So long a failover manager waits before it believes that a primary is dead.
const BELIEVED_DEAD: Duration = Duration::from_secs(5);
/// Writes are back within this of the primary's death.
const WRITES_BACK: Duration = Duration::from_secs(30);
/// A strike ends a running session within this.
const STRIKE_WITHIN: Duration = Duration::from_secs(5);
/// Whatever is tried until it is done has been done within this of the end.
const SETTLED: Duration = Duration::from_secs(30);

const REPLICA_NAME: &str = "a replica is killed";
const KILLED_NAME: &str = "the primary is killed";
const OLD_NAME: &str = "the old primary is back, as a standby";

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let zone = run.zone.take().context("the servers of the drill")?;
    run.enter("as always: a primary, two standbys", Weather::Fair);
    run.go_on(run.part(0.15).max(Duration::from_secs(5))).await?;
    run.enter(REPLICA_NAME, Weather::Fault);
    zone.kill(2).await?;
    run.go_on(run.part(0.15).max(Duration::from_secs(6))).await?;
    run.enter("the replica is started again", Weather::Fair);
    let (went, resumed) = tokio::join!(run.go_on(run.part(0.10).max(Duration::from_secs(5))), async {
        zone.resume(2).await?;
        zone.commit_to_standbys(0).await
    });
    went.and(resumed)?;

    run.enter(KILLED_NAME, Weather::Fault);
    let killed_s = run.elapsed_s();
    zone.kill(0).await?;
    let struck = run.crowd.held - 1;
    let device = run.devices.get(struck).context("a device")?.identity.subject().to_string();
    let at = process::now();
    let answer: Result<Value, _> = run.stage.api().post("/api/v1/strikes", &json!({"subject": device})).await;
    let acknowledged = at.elapsed();
    let ended = run.until(STRIKE_WITHIN * 2, |phase| phase.clients.lost.contains_key("struck")).await?;
    let since = Duration::from_secs_f64(run.elapsed_s() - killed_s);
    run.go_on(BELIEVED_DEAD.saturating_sub(since)).await?;

    run.enter("the standby that has most is promoted", Weather::Fault);
    let (went, promoted) = tokio::join!(run.go_on(run.part(0.10).max(Duration::from_secs(6))), async {
        let new = zone.promote_the_foremost(&[1, 2]).await?;
        let other = 3 - new;
        zone.kill(other).await?;
        zone.follow(other, new).await?;
        Ok::<_, anyhow::Error>(new)
    });
    went?;
    let new = promoted.context("the failover")?;
    let back = |phase: &Phase| phase.writes.iter().any(|call| call.outcome == Ok(200));
    run.until(WRITES_BACK, back).await?;
    run.go_on(run.part(0.10)).await?;

    run.enter(OLD_NAME, Weather::Fair);
    let (went, followed) = tokio::join!(run.go_on(run.part(0.20).max(Duration::from_secs(8))), async {
        zone.follow(0, new).await?;
        zone.commit_to_standbys(new).await
    });
    went.and(followed)?;
    run.no_more_writes();
    run.until_done(SETTLED).await?;

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
    run.level("a device revoked while there is no primary", "ends within 5 s", strike, holds);
    judge_reads_and_errors(run);
    let quiet = |run: &Run<'_>, name: &str| -> (usize, usize) {
        let seen = run.seen(|phase| phase.name == name);
        let calls: Vec<&Call> = seen.reads().into_iter().chain(seen.writes()).collect();
        (calls.iter().filter(|call| call.outcome != Ok(200)).count(), calls.len())
    };
    for (name, what) in [
        (REPLICA_NAME, "calls of the API that end in anything but done while a replica is dead"),
        (OLD_NAME, "calls of the API that end in anything but done while the old primary comes back"),
    ] {
        let (noticed, all) = quiet(run, name);
        run.level(what, "0", format!("{noticed} of {all}"), all > 0 && noticed == 0);
    }
    judge_writes(run, killed_s);
    judge_ledger(run, &zone, new).await
}

/// Writes that were refused or silent end this long after the primary's death, and others are done behind them.
fn judge_writes(run: &mut Run<'_>, killed_s: f64) {
    let calls: Vec<(f64, bool)> = run
        .seen(|_| true)
        .writes()
        .into_iter()
        .map(|call| (run.at_s(call.at) + f64::from(call.ms) / 1_000.0, call.outcome == Ok(200)))
        .filter(|(ended, _)| *ended >= killed_s)
        .collect();
    let last = calls.iter().filter(|(_, done)| !done).map(|(ended, _)| *ended - killed_s).reduce(f64::max);
    let first = calls.iter().filter(|(_, done)| *done).map(|(ended, _)| *ended - killed_s);
    let back = first.filter(|first| last.is_none_or(|last| *first >= last)).reduce(f64::min);
    let refused = calls.iter().filter(|(_, done)| !done).count();
    let text = back.map_or("never".to_owned(), |back| {
        format!(
            "{back:.1} s, of which {} s until the standby was promoted; {refused} calls refused until then",
            BELIEVED_DEAD.as_secs()
        )
    });
    let holds = back.is_some_and(|back| back <= WRITES_BACK.as_secs_f64());
    run.level("every write is done again after the primary's death", "≤ 30 s", text, holds);
}

/// Each thing that was to be made is there once: those that were acknowledged, and those that were not until they were
/// asked for again.
async fn judge_ledger(run: &mut Run<'_>, zone: &Zone, new: usize) -> anyhow::Result<()> {
    // Asked of the new primary itself, as its superuser: what the controller says of it could be its memory.
    let rows = zone.lines(new, "SELECT name FROM enrolment_keys").await?;
    let mut stored: BTreeMap<&str, usize> = BTreeMap::new();
    for name in rows.lines() {
        *stored.entry(name).or_default() += 1;
    }
    let writes: Vec<Call> = run.seen(|_| true).writes().into_iter().cloned().collect();
    let mut asked: BTreeMap<&str, (bool, usize)> = BTreeMap::new();
    for call in &writes {
        if let Some(name) = call.name.as_deref() {
            let entry = asked.entry(name).or_default();
            *entry = (entry.0 | (call.outcome == Ok(200)), entry.1 + 1);
        }
    }
    let there = |name: &str| stored.get(name).copied().unwrap_or_default();
    let acknowledged: Vec<&str> =
        asked.iter().filter(|(_, (done, _))| *done).map(|(name, _)| *name).collect();
    let lost = acknowledged.iter().filter(|name| there(name) == 0).count();
    let text = format!("{lost} of {} lost", acknowledged.len());
    run.level("acknowledged writes lost", "0", text, !acknowledged.is_empty() && lost == 0);
    let twice = asked.keys().filter(|name| there(name) > 1).count();
    let again = asked.values().filter(|(_, calls)| *calls > 1).count();
    let text =
        format!("{twice}; {again} were asked for more than once: {}", api::words(&api::tally(&writes)));
    run.level("writes done twice", "0", text, twice == 0);
    let never = asked.len() - acknowledged.len();
    run.level(
        "writes that were asked for again until they are done",
        "all",
        format!("{never} never were"),
        never == 0,
    );
    Ok(())
}
