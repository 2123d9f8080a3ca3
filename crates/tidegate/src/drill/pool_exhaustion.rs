//! `pool-exhaustion`: somebody else takes every connection that the database's server gives.

use super::{
    api::Writes,
    brownout::{judge_clients, judge_cures, judge_ledger, judge_reads_and_errors, judge_refusals},
    run::{Databases, Needs, Run, Weather},
};
use anyhow::Context as _;
use std::{sync::Arc, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::Yes, databases: Databases::Server };

const FREE_NAME: &str = "somebody else has every connection that was free";
const ALL_NAME: &str = "somebody else has the controller's connections too";
const BACK_NAME: &str = "somebody else has let go";
/// The controller has lost its connections within this.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let server = Arc::clone(run.server.as_ref().context("a server")?);
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.15).max(Duration::from_secs(6))).await?;

    run.enter(FREE_NAME, Weather::Fault);
    let crowd = server.crowd().await?;
    run.go_on(run.part(0.25).max(Duration::from_secs(6))).await?;
    let taken = crowd.held();

    // As by a firewall that forgets connections, or by somebody who clears up at the wrong place.
    run.enter(ALL_NAME, Weather::Fault);
    let closed = async {
        let tries = CLOSED_WITHIN.as_millis() / LOOK.as_millis();
        for _ in 0..tries {
            server.close_the_controllers().await?;
            tokio::time::sleep(LOOK).await;
            // The controller may have been quicker than the crowd, and is closed again.
            if crowd.has_every_place() {
                return Ok(true);
            }
        }
        anyhow::Ok(false)
    };
    let (went, closed) = tokio::join!(run.go_on(run.part(0.35).max(Duration::from_secs(8))), closed);
    went?;
    anyhow::ensure!(closed?, "the controller kept a connection that was to be taken from it");
    let all = crowd.held();
    drop(crowd);
    run.enter(BACK_NAME, Weather::Fair);
    run.go_on(run.part(0.25).max(Duration::from_secs(12))).await?;

    run.remarks.push(format!(
        "Somebody else had {taken} connections beside the controller's, then {all}; the server keeps three more for its superuser."
    ));
    judge_clients(run);
    judge_reads_and_errors(run);
    let kept = run.seen(|phase| phase.name == FREE_NAME);
    let (done, asked) =
        (kept.writes().iter().filter(|call| call.outcome == Ok(200)).count(), kept.writes().len());
    let text = format!("{done} of {asked}");
    run.level(
        "writes that are done on the connections that the controller has kept",
        "all",
        text,
        asked > 0 && done == asked,
    );
    judge_refusals(run, ALL_NAME);
    judge_cures(run, &[BACK_NAME]);
    judge_ledger(run).await
}
