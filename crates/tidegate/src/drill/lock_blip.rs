//! `lock-blip`: somebody else's transaction has every table locked, for 30 ms again and again, then for long.

use super::{
    api::{self, Call, Writes},
    brownout::{judge_clients, judge_cures, judge_ledger, judge_reads_and_errors, judge_refusals},
    run::{Databases, Needs, Run, Weather},
};
use crate::process;
use anyhow::Context as _;
use std::{sync::Arc, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::Yes, databases: Databases::Server };

/// How long a short lock is held, and the pause to the next.
const BLIP: Duration = Duration::from_millis(30);
const PAUSE: Duration = Duration::from_millis(220);
/// The longest that a lock is held, whatever the drill's length.
const LONGEST: Duration = Duration::from_secs(600);

/// Who meets a lock is told within a change's deadline.
const TOLD_WITHIN_MS: u32 = 3_000;

const BLIPS_NAME: &str = "every table is locked for 30 ms, again and again";
const ONE_NAME: &str = "one table that is written is locked, and no other one";
const FREE_NAME: &str = "no table is locked for a while";
const LOCKED_NAME: &str = "every table is locked and stays locked";
const BACK_NAME: &str = "the lock is gone";

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let server = Arc::clone(run.server.as_ref().context("a server")?);
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.15).max(Duration::from_secs(6))).await?;

    run.enter(BLIPS_NAME, Weather::Fault);
    let length = run.part(0.25);
    let until = process::now() + length;
    let locking = async {
        let mut blips = 0_usize;
        while process::now() < until {
            server.lock_every_table(BLIP).await?;
            blips += 1;
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::Ok(blips)
    };
    let (went, blips) = tokio::join!(run.go_on(length), locking);
    went?;
    let blips = blips?;

    run.enter(ONE_NAME, Weather::Fault);
    let hold = run.part(0.15).clamp(Duration::from_secs(6), LONGEST);
    let (went, locked) = tokio::join!(run.go_on(hold), server.lock_groups(hold));
    went.and(locked)?;
    run.enter(FREE_NAME, Weather::Fair);
    run.go_on(Duration::from_secs(12)).await?;

    run.enter(LOCKED_NAME, Weather::Fault);
    let hold = run.part(0.25).clamp(Duration::from_secs(8), LONGEST);
    let (went, locked) = tokio::join!(run.go_on(hold), server.lock_every_table(hold));
    went.and(locked)?;
    run.enter(BACK_NAME, Weather::Fair);
    run.go_on(run.part(0.25).max(Duration::from_secs(12))).await?;

    judge_clients(run);
    judge_reads_and_errors(run);
    judge_shrunk(run);
    let short: Vec<Call> = run.seen(|phase| phase.name == BLIPS_NAME).writes().into_iter().cloned().collect();
    let refused = short.iter().filter(|call| call.outcome != Ok(200)).count();
    let text = format!("{refused} of {}, beside {blips} locks", short.len());
    run.level(
        "writes that are not done while every table is locked for 30 ms, again and again",
        "0",
        text,
        !short.is_empty() && blips > 0 && refused == 0,
    );
    // Everything else is answered, so that only who meets the lock can know of it: each waits its second.
    let one: Vec<Call> = run.seen(|phase| phase.name == ONE_NAME).writes().into_iter().cloned().collect();
    let slowest = one.iter().map(|call| call.ms).max().unwrap_or_default();
    let text = format!("{}, slowest {slowest} ms", api::words(&api::tally(&one)));
    run.level(
        "writes that meet the lock of one table are told",
        "≤ 3 s",
        text,
        !one.is_empty() && slowest <= TOLD_WITHIN_MS,
    );
    judge_refusals(run, LOCKED_NAME);
    judge_cures(run, &[FREE_NAME, BACK_NAME]);
    judge_ledger(run).await
}

/// Nobody reads fewer resources than there are, however much of the database could be read.
fn judge_shrunk(run: &mut Run<'_>) {
    let reads: Vec<Option<usize>> = run
        .seen(|_| true)
        .reads()
        .into_iter()
        .filter(|call| call.outcome == Ok(200))
        .map(|call| call.items)
        .collect();
    let most = reads.iter().flatten().max().copied().unwrap_or_default();
    let fewer = reads.iter().filter(|items| items.is_none_or(|items| items < most)).count();
    let text = format!("{fewer} of {}; there are {most}", reads.len());
    run.level("reads that showed fewer resources than there are", "0", text, most > 0 && fewer == 0);
}
