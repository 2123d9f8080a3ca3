//! `bad-rollout`: a newer version changes the database, loses rows, and does not come up. The older one goes back into
//! service with commands that ask no API.

use super::{
    api::{Call, Writes},
    brownout::judge_clients,
    run::{Databases, Needs, Run, Weather},
};
use crate::{database, process};
use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use std::{process::Stdio, sync::Arc, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::Yes, databases: Databases::Server };

/// A command that goes beside the API ends within this.
const COMMAND_WITHIN: Duration = Duration::from_secs(60);
/// From the decision to go back to the first read, and to a change that is done.
const BACK_WITHIN: Duration = Duration::from_secs(60);
/// The database of the older version: an empty one beside the one that cannot be used.
const FRESH: &str = "rolled_back";

/// A step of the schema that this build does not know, and rows that went with it.
const NEWER_VERSION: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
     VALUES (999999, 'a newer version', true, decode('00', 'hex'), 0); \
     DELETE FROM policy_groups; DELETE FROM policy_resources; DELETE FROM policies";

/// Runs `tidegate admin …` on the controller's state directory, with its database by the environment.
async fn admin(run: &Run<'_>, arguments: &[&str], url: &str) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut command = tokio::process::Command::new(program);
    command.args(["--json", "admin", "--state"]).arg(run.stage.controller_state()).args(arguments);
    for name in database::SECRETS {
        command.env_remove(name);
    }
    command.env(database::URL, url).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(COMMAND_WITHIN, command.output()).await;
    let output = ended.with_context(|| format!("tidegate admin {arguments:?} did not end"))??;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "tidegate admin {arguments:?}: {}",
        String::from_utf8_lossy(&said).trim()
    );
    Ok(())
}

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let server = Arc::clone(run.server.as_ref().context("a server")?);
    let (url, fresh) = (server.url(), server.url_of(FRESH));
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.10).max(Duration::from_secs(5))).await?;
    run.enter("a backup is written, as before each rollout", Weather::Fair);
    let backup = run.stage.dir().join("before-the-rollout").display().to_string();
    let api = run.stage.api();
    let policies: Value = api.get("/api/v1/policies").await?;
    admin(run, &["backup", &backup], &url).await?;
    run.go_on(run.part(0.05).max(Duration::from_secs(2))).await?;
    // After the backup: what was revoked must stay revoked all the same.
    let struck = run.crowd.held - 1;
    let device = run.devices.get(struck).context("a device")?.identity.subject().to_string();
    let _: Value = api.post("/api/v1/strikes", &json!({"subject": device})).await?;
    run.until(Duration::from_secs(10), |phase| phase.clients.lost.contains_key("struck")).await?;

    run.enter(
        "a newer version changes the database, loses every policy, and does not come up",
        Weather::Fault,
    );
    run.no_more_writes();
    run.stage.kill_controller().await?;
    server.sql(NEWER_VERSION).await?;
    run.go_on(run.part(0.20).max(Duration::from_secs(5))).await?;

    run.enter("the older version is started: it does not know that database", Weather::Fault);
    let back = process::now();
    run.stage.start_controller().await.context("the older version on the newer database")?;
    let served: Value = api.get("/api/v1/policies").await?;
    let first_read = back.elapsed();
    let refused = api.post::<Value>("/api/v1/groups", &json!({"name": "too early"})).await;
    run.go_on(run.part(0.15).max(Duration::from_secs(5))).await?;
    let later: Value = api.get("/api/v1/policies").await?;

    run.enter("the backup is restored into an empty database, with no controller running", Weather::Fault);
    let began = process::now();
    run.stage.kill_controller().await?;
    server.create(FRESH).await?;
    admin(run, &["restore-backup", &backup], &fresh).await?;
    run.stage.use_database(vec![(database::URL, fresh)]);
    run.stage.start_controller().await.context("the older version on the restored database")?;
    let mut changed = None;
    while changed.is_none() && began.elapsed() < BACK_WITHIN {
        let made = api.post::<Value>("/api/v1/groups", &json!({"name": "after the rollback"})).await;
        changed = made.is_ok().then(|| began.elapsed());
        run.go_on(Duration::from_millis(500)).await?;
    }
    run.enter("as before the rollout", Weather::Fair);
    run.go_on(run.part(0.25).max(Duration::from_secs(8))).await?;
    let restored: Value = api.get("/api/v1/policies").await?;
    let strikes: Value = api.get("/api/v1/strikes").await?;

    judge_clients(run);
    judge_reads(run);
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().into_iter().flatten();
        items.filter_map(|item| item["id"].as_str()).map(str::to_owned).collect()
    };
    let before = ids(&policies);
    let kept = ids(&served) == before && ids(&later) == before;
    let text = format!(
        "{} of {}, first read after {:.1} s",
        ids(&later).len(),
        before.len(),
        first_read.as_secs_f64()
    );
    run.level(
        "policies that the older version serves, from its copy",
        "all",
        text,
        kept && !before.is_empty(),
    );
    let text = match &refused {
        Ok(_) => "done".to_owned(),
        Err(error) => error.to_string(),
    };
    let is_503 = matches!(&refused, Err(enrol::ApiError::Refused { status, .. }) if status.as_u16() == 503);
    run.level("a change on a database that it does not know", "503, and says why", text, is_503);
    let text = changed.map_or("never".to_owned(), |took| format!("{:.1} s", took.as_secs_f64()));
    run.level(
        "from the decision to restore to the first change that is done",
        "≤ 60 s",
        text,
        changed.is_some_and(|took| took <= BACK_WITHIN),
    );
    let there = ids(&restored);
    let text = format!("{} of {}", there.len(), before.len());
    run.level("policies after the rollback", "all", text, there == before);
    let items = strikes["items"].as_array().into_iter().flatten();
    let holds = items.filter_map(|item| item["subject"].as_str()).any(|subject| subject == device);
    let up = run.phases.last().map_or(0, |phase| phase.clients.up);
    let text = format!(
        "{}, {up} of {} clients hold a session",
        if holds { "it is" } else { "it is not" },
        run.crowd.held
    );
    // All but the one that was struck.
    run.level("what was revoked after the backup is revoked", "it is", text, holds && up == struck);
    Ok(())
}

/// While a controller runs it answers; while none does, nobody can.
fn judge_reads(run: &mut Run<'_>) {
    let wrong: Vec<Call> = run
        .seen(|_| true)
        .reads()
        .into_iter()
        .filter(|call| matches!(call.outcome, Ok(status) if status != 200))
        .cloned()
        .collect();
    let silent = run.seen(|_| true).reads().into_iter().filter(|call| call.outcome.is_err()).count();
    let all = run.seen(|_| true).reads().len();
    let text = format!("{} of {all}; {silent} while no controller ran", wrong.len());
    run.level(
        "reads of the API that end in an error of a controller",
        "0",
        text,
        all > 0 && wrong.is_empty(),
    );
}
