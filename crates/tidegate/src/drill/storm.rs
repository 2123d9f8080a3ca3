//! `reconnect-storm`: a PoP dies and comes back, and every client comes at once; then the controller does.

use super::{
    api::Writes,
    run::{Databases, Needs, Run, Weather},
};
use std::time::Duration;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::No, databases: Databases::File };

/// Down for this long: longer than any client waits before it tries again.
const DOWN: Duration = Duration::from_secs(5);

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let held = run.crowd.held;
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.2)).await?;
    let statements = run.statements().await;

    run.enter("the PoP is killed", Weather::Fault);
    let pop = run.stage.pops().first_mut().map(super::super::demo::stage::PopProcess::role);
    pop.transpose()?.ok_or_else(|| anyhow::anyhow!("the stage has a PoP"))?.kill().await?;
    run.go_on(DOWN).await?;
    run.enter("the PoP is back, and everybody comes", Weather::Fault);
    run.stage.start_pop(0).await?;
    let admit = u32::try_from(pop::core::sessions::limits::ADMIT_PER_SECOND).unwrap_or(u32::MAX);
    // A client that has nothing to send learns at its next keepalive that the PoP has forgotten it.
    let notice = pop::core::sessions::limits::KEEPALIVE + Duration::from_secs(5);
    let allowed = Duration::from_secs_f64(1.5 * held as f64 / f64::from(admit)).max(notice);
    // The PoP has forgotten everybody: each of them has to register anew, also who has not noticed yet.
    let all = u64::try_from(held)?;
    let back = run
        .until(Duration::from_secs(120), |phase| phase.clients.registered >= all && phase.clients.up >= held)
        .await?;
    let flows = run.crowd.flows;
    let open = run.until(Duration::from_secs(30), |phase| phase.clients.flows_open >= flows).await?;
    run.go_on(run.part(0.1)).await?;
    let after_pop = run.statements().await;

    run.enter("the controller is killed", Weather::Fault);
    run.stage.kill_controller().await?;
    run.go_on(run.part(0.2)).await?;
    run.enter("the controller is back", Weather::Fair);
    run.stage.start_controller().await?;
    run.go_on(run.part(0.2)).await?;

    // Most clients hear of it at their next keepalive and not when the PoP is back: a steady stream, and no storm, unless
    // they have something to send. Both bounds are told.
    let text = back
        .map_or("not within 2 minutes".to_owned(), |took| format!("{:.1} s for {held}", took.as_secs_f64()));
    let to_reach = format!(
        "≤ {:.1} s (1.5 × clients ÷ {admit} a second; at least a keepalive and 5 s: who has nothing to send hears then)",
        allowed.as_secs_f64()
    );
    run.level(
        "everybody is registered again after the PoP's death",
        &to_reach,
        text,
        back.is_some_and(|took| took <= allowed),
    );
    let cut = run.seen(|_| true).cut();
    let text = format!("{cut} cut{}", if open.is_some() { "" } else { "; not all open again" });
    run.level("running connections cut", "0", text, cut == 0 && open.is_some());
    let reconnects: u64 = run
        .phases
        .iter()
        .filter(|phase| phase.name.starts_with("the controller"))
        .map(|phase| phase.clients.registered + phase.clients.lost.values().sum::<u64>())
        .sum();
    run.level(
        "sessions lost or made because of the controller's death",
        "0",
        reconnects.to_string(),
        reconnects == 0,
    );
    let (dials, made) = run
        .phases
        .iter()
        .filter(|phase| phase.name.starts_with("the PoP"))
        .fold((0, 0), |sum, phase| (sum.0 + phase.clients.dials, sum.1 + phase.clients.registered));
    let (requests, retries) = run
        .phases
        .iter()
        .filter(|phase| phase.name.starts_with("the PoP"))
        .fold((0, 0), |sum, phase| (sum.0 + phase.clients.requests, sum.1 + phase.clients.retries));
    // A client that dials while nobody is there dials again: that one was made by the death, not by the storm.
    let again = (dials + retries).saturating_sub(made + requests);
    let share = 100.0 * again as f64 / (made + requests).max(1) as f64;
    run.level(
        "sessions dialled and requests sent again in the storm, of those sent first",
        "≤ 10 %",
        format!("{share:.1} % ({dials} dialled for {made} made; {retries} requests again for {requests})"),
        share <= 10.0,
    );
    let text = match (statements, after_pop) {
        (Some(before), Some(after)) => after.saturating_sub(before).to_string(),
        _ => "the controller did not say".to_owned(),
    };
    run.level(
        "database statements caused by the storm",
        "0",
        text,
        statements.is_some() && statements == after_pop,
    );
    Ok(())
}
