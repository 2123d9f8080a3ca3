//! `poison-snapshot`: what the controller reads is damaged, on its disk and in its database, one way after the other.

use super::{
    api::Writes,
    brownout::because,
    database::{DatabaseFault, Fault},
    run::{Databases, Needs, Run, Visits, Weather},
};
use crate::process;
use anyhow::Context as _;
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use std::{path::Path, time::Duration};

/// What it needs.
pub const NEEDS: Needs = Needs { pops: 1, writes: Writes::No, databases: Databases::File };

/// From the start of the controller to its first answer: a second of it is the deadline of a database that is locked.
const SERVES_WITHIN: Duration = Duration::from_secs(5);
/// What was refused is taken again within this after it was mended.
const MENDED_WITHIN: Duration = Duration::from_secs(15);
/// Larger than any installation's copy, and read at a start.
const OVERSIZED: usize = 32 << 20;

/// One way to damage the copy on disk, and the reason that must be given.
struct BadCopy {
    what: &'static str,
    reason: &'static str,
    make: fn(&[u8]) -> anyhow::Result<Vec<u8>>,
}

/// The copy is a check sum of 32 bytes and JSON.
fn reworked(good: &[u8], change: fn(&mut Value)) -> anyhow::Result<Vec<u8>> {
    let mut copy: Value = serde_json::from_slice(good.get(32..).context("a copy")?)?;
    change(&mut copy);
    let body = serde_json::to_vec(&copy)?;
    Ok([&trust::sha256(&[&body])[..], &body].concat())
}

const BAD_COPIES: &[BadCopy] = &[
    BadCopy { what: "an empty file", reason: "copy", make: |_| Ok(Vec::new()) },
    BadCopy {
        what: "the first half of the file",
        reason: "copy",
        make: |good| Ok(good.get(..good.len() / 2).context("a copy")?.to_vec()),
    },
    BadCopy {
        what: "one bit of it changed",
        reason: "copy",
        make: |good| {
            let mut bad = good.to_vec();
            *bad.get_mut(good.len() / 2).context("a copy")? ^= 1;
            Ok(bad)
        },
    },
    BadCopy { what: "zeroes of the same length", reason: "copy", make: |good| Ok(vec![0; good.len()]) },
    BadCopy {
        what: "a later version's format",
        reason: "copy",
        make: |good| reworked(good, |copy| copy["format"] = json!(999)),
    },
    BadCopy {
        what: "a device that is there twice",
        reason: "value",
        make: |good| {
            reworked(good, |copy| {
                if let Some(devices) = copy["dataset"]["organizations"][0]["devices"].as_array_mut() {
                    let first = devices.first().cloned();
                    devices.splice(0..0, first);
                }
            })
        },
    },
    BadCopy {
        what: "two devices with one key",
        reason: "value",
        make: |good| {
            reworked(good, |copy| {
                let devices = &mut copy["dataset"]["organizations"][0]["devices"];
                devices[1]["identity_key"] = devices[0]["identity_key"].clone();
            })
        },
    },
    BadCopy {
        what: "a name of 32 MiB",
        reason: "value",
        make: |good| {
            reworked(good, |copy| {
                copy["dataset"]["organizations"][0]["groups"][0]["name"] = "x".repeat(OVERSIZED).into();
            })
        },
    },
    BadCopy {
        what: "no organization in it",
        reason: "value",
        make: |good| reworked(good, |copy| copy["dataset"]["organizations"] = json!([])),
    },
    BadCopy {
        what: "a person without a generation",
        reason: "value",
        make: |good| {
            reworked(good, |copy| copy["dataset"]["organizations"][0]["users"][0]["generation"] = json!(0))
        },
    },
];

/// One way to damage the database from outside, the reason that must be given, and how it is taken back.
struct BadRows {
    what: &'static str,
    reason: &'static str,
    poison: &'static str,
    mend: &'static str,
}

const BAD_ROWS: &[BadRows] = &[
    BadRows {
        what: "a person without a generation",
        reason: "value",
        poison: "UPDATE users SET generation = 0",
        mend: "UPDATE users SET generation = 1",
    },
    BadRows {
        what: "half of the devices gone",
        reason: "shrunk",
        poison: "CREATE TABLE drilled AS SELECT * FROM devices WHERE rowid % 2 = 0; DELETE FROM devices WHERE rowid % 2 = 0",
        mend: "INSERT INTO devices SELECT * FROM drilled; DROP TABLE drilled",
    },
    BadRows {
        what: "a key that is no key",
        reason: "corrupt",
        poison: "CREATE TABLE drilled AS SELECT id, identity_key FROM devices LIMIT 1; \
                 UPDATE devices SET identity_key = 'nonsense' WHERE id = (SELECT id FROM drilled)",
        mend: "UPDATE devices SET identity_key = (SELECT identity_key FROM drilled) WHERE id = (SELECT id FROM drilled); \
               DROP TABLE drilled",
    },
    BadRows {
        what: "a resource's name of 1 MB",
        reason: "value",
        poison: "UPDATE resources SET name = hex(zeroblob(500000)) WHERE name = 'office'",
        mend: "UPDATE resources SET name = 'office' WHERE length(name) = 1000000",
    },
];

/// What became of the poisons.
#[derive(Default)]
struct Tally {
    accepted: Vec<String>,
    unsaid: Vec<String>,
    tried: usize,
}

impl Tally {
    fn judge(&mut self, what: &str, reason: &str, before: &Value, now: &Value, alarms_before: u64) {
        self.tried += 1;
        let version = |status: &Value| {
            (status["snapshot"]["incarnation"].as_u64(), status["snapshot"]["version"].as_u64())
        };
        if version(before) != version(now) {
            self.accepted.push(format!("{what} ({:?} became {:?})", version(before), version(now)));
        }
        let is_shown = now["snapshot"]["alarms"].as_array().is_some_and(|alarms| {
            alarms
                .iter()
                .any(|alarm| alarm["reason"] == reason && alarm["count"].as_u64() > Some(alarms_before))
        });
        if !is_shown {
            self.unsaid.push(format!("{what}: {}", now["snapshot"]["alarms"]));
        }
    }
}

fn alarms(status: &Value, reason: &str) -> u64 {
    let alarms = status["snapshot"]["alarms"].as_array();
    alarms
        .into_iter()
        .flatten()
        .filter(|alarm| alarm["reason"] == reason)
        .filter_map(|alarm| alarm["count"].as_u64())
        .sum()
}

async fn status(run: &Run<'_>) -> anyhow::Result<Value> {
    Ok(run.stage.api().get("/api/v1/status").await?)
}

/// As another program would: a backup tool, a script, somebody with a shell.
async fn tamper(state: &Path, statements: &str) -> anyhow::Result<()> {
    let mut connection: SqliteConnection = SqliteConnectOptions::new()
        .filename(state.join("tidegate.db"))
        .foreign_keys(false)
        .busy_timeout(Duration::from_secs(5))
        .connect()
        .await?;
    let mut change = connection.begin().await?;
    for statement in statements.split(';') {
        sqlx::query(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut *change)
            .await
            .with_context(|| statement.to_owned())?;
    }
    change.commit().await?;
    Ok(connection.close().await?)
}

/// Runs it.
pub async fn drill(run: &mut Run<'_>) -> anyhow::Result<()> {
    let state = run.stage.controller_state();
    run.enter("as always", Weather::Fair);
    run.go_on(run.part(0.1)).await?;
    let mut tally = Tally::default();
    let mut slowest = Duration::ZERO;
    let mut ended = Vec::new();
    on_disk(run, &state, &mut tally, &mut slowest, &mut ended).await?;
    let mended = in_database(run, &state, &mut tally).await?;

    run.enter("everything is mended", Weather::Fair);
    run.go_on(run.part(0.1)).await?;
    let last = status(run).await?;

    let all = tally.tried;
    let text = |list: &[String]| if list.is_empty() { format!("0 of {all}") } else { list.join("; ") };
    run.level("poisoned snapshots that were taken", "0", text(&tally.accepted), tally.accepted.is_empty());
    let shown = if tally.unsaid.is_empty() { format!("{all} of {all}") } else { tally.unsaid.join("; ") };
    run.level("each is counted, and its reason shown in the status", "all", shown, tally.unsaid.is_empty());
    let crashes = if ended.is_empty() { "0".to_owned() } else { ended.join("; ") };
    run.level("starts of the controller that did not come up", "0", crashes, ended.is_empty());
    let text = format!("{:.1} s at most", slowest.as_secs_f64());
    run.level("it serves the generation before, without a database", "≤ 5 s", text, slowest <= SERVES_WITHIN);
    let text = mended.map_or("not in time".to_owned(), |took| format!("{:.1} s at most", took.as_secs_f64()));
    run.level(
        "what was mended is read again, with no restart",
        "≤ 15 s",
        text,
        mended.is_some_and(|took| took <= MENDED_WITHIN),
    );
    let text = last["snapshot"]["alarm"].as_str().unwrap_or("none").to_owned();
    run.level("alarms that stay", "none", text.clone(), text == "none");
    judge_clients(run);
    Ok(())
}

/// Damaged copies, each put where the newest one is, with the good one as the generation before: as if it had been
/// written. The database does not answer meanwhile, so that nothing but the disk is there to start from.
async fn on_disk(
    run: &mut Run<'_>,
    state: &Path,
    tally: &mut Tally,
    slowest: &mut Duration,
    ended: &mut Vec<String>,
) -> anyhow::Result<()> {
    let database = DatabaseFault::prepare(state)?;
    let good = std::fs::read(state.join("snapshot"))?;
    let before = status(run).await?;
    for bad in BAD_COPIES {
        run.enter(&format!("the newest copy on disk is bad: {}", bad.what), Weather::Fault);
        database.set(Fault::Frozen);
        run.stage.kill_controller().await?;
        std::fs::write(state.join("snapshot.previous"), &good)?;
        std::fs::write(state.join("snapshot"), (bad.make)(&good)?)?;
        let start = process::now();
        match run.stage.start_controller().await {
            Ok(_) => {
                let now = status(run).await?;
                *slowest = (*slowest).max(start.elapsed());
                tally.judge(bad.what, bad.reason, &before, &now, 0);
            }
            Err(error) => {
                ended.push(format!("{}: {error}", bad.what));
                // The drill goes on with a controller that starts from what is whole.
                std::fs::write(state.join("snapshot"), &good)?;
                run.stage.start_controller().await?;
            }
        }
        run.go_on(run.part(0.03).max(Duration::from_millis(1500))).await?;
    }
    std::fs::write(state.join("snapshot"), &good)?;
    database.set(Fault::None);
    database.end().await;
    run.enter("the database is back", Weather::Fair);
    let deadline = process::now() + MENDED_WITHIN;
    while status(run).await?["snapshot"]["source"] != "database" && process::now() < deadline {
        run.go_on(Duration::from_millis(500)).await?;
    }
    Ok(())
}

/// Somebody writes into the database past the controller, and then a change through it makes it read all of it.
async fn in_database(run: &mut Run<'_>, state: &Path, tally: &mut Tally) -> anyhow::Result<Option<Duration>> {
    let mut longest = Duration::ZERO;
    let mut all_mended = true;
    for bad in BAD_ROWS {
        let before = status(run).await?;
        let counted = alarms(&before, bad.reason);
        run.enter(&format!("bad rows in the database: {}", bad.what), Weather::Fault);
        tamper(state, bad.poison).await?;
        let name = json!({"name": format!("after {}", bad.what)});
        // Stored, and not in the snapshot: nothing else may come of it. Its answer may be late.
        let _: Result<Value, _> = run.stage.api().post("/api/v1/groups", &name).await;
        run.go_on(run.part(0.04).max(Duration::from_secs(2))).await?;
        let now = status(run).await?;
        tally.judge(bad.what, bad.reason, &before, &now, counted);
        tamper(state, bad.mend).await?;
        let cured = process::now();
        let mut mended = false;
        while !mended && cured.elapsed() <= MENDED_WITHIN {
            run.go_on(Duration::from_millis(500)).await?;
            let now = status(run).await?;
            mended = now["snapshot"]["alarm"].is_null() && now["snapshot"]["behind"] == false;
        }
        all_mended &= mended;
        longest = longest.max(cured.elapsed());
    }
    Ok(all_mended.then_some(longest))
}

fn judge_clients(run: &mut Run<'_>) {
    let seen = run.seen(|_| true);
    let (lost, cut, visits, failures) = (seen.lost(), seen.cut(), seen.visits(), seen.failures());
    let registered: u64 = run.phases.iter().map(|phase| phase.clients.registered).sum();
    let renewed = run.seen(|phase| phase.weather == Weather::Fault).renewed();
    let text = format!("{lost} lost, {registered} made");
    run.level("sessions lost or made because of it", "0", text, lost == 0 && registered == 0);
    run.level("running connections cut", "0", cut.to_string(), cut == 0);
    let text = format!("{renewed} while something was poisoned");
    run.level("re-authentications (grants renewed)", "they go on", text, renewed > 0);
    let percent = Visits::percent(visits.in_time, visits.all);
    let text = format!("{percent:.2} % ({} of {}){}", visits.in_time, visits.all, because(&failures));
    run.level("new connections, first byte within 5 s", "≥ 99.9 %", text, visits.all > 0 && percent >= 99.9);
}
