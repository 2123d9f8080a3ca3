//! `cold-cache`: the controller starts again while its database does not answer.

use super::{
    api::Writes,
    brownout::because,
    database::{Database, Fault},
    run::{Databases, Needs, Run, Visits, Weather},
};
use crate::process;
use serde_json::Value;
use std::time::Duration;

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::No, databases: Databases::Either };

const READY_WITHIN: Duration = Duration::from_secs(2);

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let database = Database::of(run)?;
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.25)).await?;
    run.enter("the controller is killed, and the database does not answer", Weather::Fault);
    database.set(Fault::Frozen).await?;
    run.stage.kill_controller().await?;
    run.go_on(run.part(0.15)).await?;
    run.enter("the controller starts from its disk copy", Weather::Fault);
    let start = process::now();
    let status = match run.stage.start_controller().await {
        Ok(_) => run.stage.api().get::<Value>("/api/v1/resources").await.map_err(Into::into),
        Err(error) => Err(error),
    };
    let served = start.elapsed();
    run.go_on(run.part(0.35)).await?;
    run.enter("the database is back", Weather::Fair);
    database.set(Fault::None).await?;
    run.go_on(run.part(0.25)).await?;
    database.end().await;

    let text = match &status {
        Ok(_) => format!("{:.2} s, {} devices", served.as_secs_f64(), run.crowd.all),
        Err(error) => error.to_string(),
    };
    let holds = status.is_ok() && served <= READY_WITHIN;
    run.level(
        "from the start of the controller to its first answer, without a database",
        "≤ 2 s",
        text,
        holds,
    );
    let seen = run.seen(|_| true);
    let (lost, cut, visits, failures) = (seen.lost(), seen.cut(), seen.visits(), seen.failures());
    let registered: u64 = run.phases.iter().map(|phase| phase.clients.registered).sum();
    let renewed = run.seen(|phase| phase.name.contains("disk copy")).renewed();
    let text = format!("{lost} lost, {registered} made");
    run.level("sessions lost or made because of it", "0", text, lost == 0 && registered == 0);
    run.level("running connections cut", "0", cut.to_string(), cut == 0);
    run.level("re-authentications from the disk copy", "they go on", renewed.to_string(), renewed > 0);
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level("new connections, first byte within 5 s", "≥ 99.9 %", text, visits.all > 0 && percent >= 99.9);
    Ok(())
}
