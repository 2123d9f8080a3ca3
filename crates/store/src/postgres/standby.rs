//! Reading from a server that follows another one, and what has to be true of it before a row of it is believed.

use super::{applied, in_time, known, pool::Held};
use crate::{Cluster, Lsn, Progress, Sighting, StoreError, engine::DEADLINE, row::corrupt};
use sqlx::{PgConnection, Row as _};
use std::{
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::{Instant, sleep_until};

/// The first statement on a connection to a replica: it may have become a server that takes writes.
pub(super) const READ_ONLY: &str = "SET default_transaction_read_only = on";
/// The first statement where nothing is to be said.
pub(super) const NOTHING: &str = "SELECT";

/// Between two questions whether something was replayed by now.
const AGAIN: Duration = Duration::from_millis(25);

/// What every role may ask. `received_tli` is for `pg_read_all_stats` only, and the two timelines of the control file
/// follow a promotion late.
const SIGHT: &str = "SELECT (SELECT system_identifier FROM pg_control_system()) AS system, \
     CASE WHEN pg_is_in_recovery() THEN CAST(pg_last_wal_replay_lsn() AS TEXT) \
     ELSE CAST(pg_current_wal_flush_lsn() AS TEXT) END AS lsn, \
     CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_walfile_name(pg_current_wal_flush_lsn()) END AS file, \
     (SELECT timeline_id FROM pg_control_checkpoint()) AS checkpoint, \
     (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery, \
     (SELECT received_tli FROM pg_stat_wal_receiver) AS received, \
     CAST(EXTRACT(EPOCH FROM pg_postmaster_start_time()) * 1000000 AS BIGINT) AS started, \
     CASE WHEN pg_is_in_recovery() THEN CAST(EXTRACT(EPOCH FROM \
     clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000 AS BIGINT) END AS age";

/// A server's own start, and the highest timeline that it was seen on since.
type Reached = (i64, u32);

/// What is remembered of one replica.
#[derive(Debug)]
pub(super) struct Standby {
    progress: Progress,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    reached: Option<Reached>,
    last: Option<Sighting>,
}

impl Standby {
    pub(super) fn new(progress: Progress) -> Self {
        Self { progress, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nothing panics while it holds what was seen of a replica")
    }

    /// What it said last, also when it was refused.
    pub(super) fn last(&self) -> Option<Sighting> {
        self.seen().last
    }

    /// Looks whether what this connection leads to may be read from, and waits a little for what was acknowledged here.
    /// It comes before the transaction: a state is chosen by the first statement in it.
    pub(super) async fn believe(&self, held: &mut Held, until: Instant) -> Result<Sighting, StoreError> {
        let server = held.server();
        let refused = |why: String| StoreError::Replica(format!("{server}: {why}"));
        let mut seen = self.look(held, until).await?;
        if !planted::is("any-cluster-will-do") {
            same_cluster(self.progress.cluster(), seen.cluster).map_err(refused)?;
        }
        let steps = in_time(until, &server, "schema", applied(held.busy())).await;
        known_schema(&held.after(steps)?.unwrap_or_default()).map_err(refused)?;
        let Some(written) = self.progress.written().map_err(|error| refused(error.to_string()))? else {
            return Ok(seen);
        };
        // On a later timeline places are others: there the versions alone say what is older.
        while written.timeline == seen.cluster.timeline
            && seen.lsn < written.lsn
            && !planted::is("read-before-it-is-replayed")
        {
            if Instant::now() + AGAIN > until {
                return Err(refused(format!(
                    "it has replayed up to {}, and a change that was acknowledged here ends at {}: it lags behind its \
                     primary, or that change never reached it",
                    seen.lsn, written.lsn
                )));
            }
            sleep_until(Instant::now() + AGAIN).await;
            seen = self.look(held, until + DEADLINE / 4).await?;
        }
        Ok(seen)
    }

    async fn look(&self, held: &mut Held, until: Instant) -> Result<Sighting, StoreError> {
        let (mut sighting, started) = sight(held, until).await?;
        let mut seen = self.seen();
        // What a role may not see of a timeline now it may have seen before: no server goes back while it runs.
        let reached = seen.reached.filter(|(since, _)| *since == started).map_or(0, |(_, timeline)| timeline);
        sighting.cluster.timeline = sighting.cluster.timeline.max(reached);
        seen.reached = Some((started, sighting.cluster.timeline));
        seen.last = Some(sighting);
        Ok(sighting)
    }
}

/// What the server at the other end says of itself, and when it was started.
pub(super) async fn sight(held: &mut Held, until: Instant) -> Result<(Sighting, i64), StoreError> {
    let server = held.server();
    let asked = in_time(until, &server, "cluster", asked(held.busy())).await;
    held.after(asked)?
}

async fn asked(connection: &mut PgConnection) -> Result<Result<(Sighting, i64), StoreError>, sqlx::Error> {
    let row = sqlx::query(SIGHT).persistent(false).fetch_one(connection).await?;
    let timeline = |name| row.try_get::<Option<i32>, _>(name).map(|timeline| timeline.unwrap_or(0));
    let file: Option<String> = row.try_get("file")?;
    let of_file = file.as_deref().and_then(timeline_of).unwrap_or(0);
    let others = timeline("checkpoint")?.max(timeline("recovery")?).max(timeline("received")?);
    let lsn = row.try_get::<Option<String>, _>("lsn")?.map_or(Ok(Lsn::default()), |text| text.parse());
    // Whoever takes writes is as new as anything is.
    let age = if file.is_some() { Some(0) } else { row.try_get::<Option<i64>, _>("age")? };
    let cluster =
        Cluster { system: row.try_get("system")?, timeline: of_file.max(u32::try_from(others).unwrap_or(0)) };
    let started = row.try_get("started")?;
    Ok(lsn.map_err(|error| corrupt("lsn", error)).map(|lsn| {
        let age = age.map(|millis| Duration::from_millis(u64::try_from(millis).unwrap_or(0)));
        (Sighting { cluster, lsn, age }, started)
    }))
}

/// The first eight digits of a log file's name.
pub(super) fn timeline_of(file: &str) -> Option<u32> {
    u32::from_str_radix(file.get(..8)?, 16).ok()
}

fn same_cluster(known: Option<Cluster>, found: Cluster) -> Result<(), String> {
    let Some(known) = known else {
        return Err("which cluster the configuration is in is not known yet: this controller has not seen its primary \
                    since it was told of replicas"
            .into());
    };
    if found.system != known.system {
        return Err(format!(
            "it is of another cluster: its system identifier is {}, and the primary's is {}; a replica is made from the \
             primary by pg_basebackup",
            found.system, known.system
        ));
    }
    if found.timeline < known.timeline && !planted::is("any-timeline-will-do") {
        return Err(format!(
            "it is on timeline {} as far as this role may see, and the cluster is on timeline {}: it did not follow the \
             last failover, or it did and nobody may see that yet (GRANT pg_read_all_stats TO the role shows it at once)",
            found.timeline, known.timeline
        ));
    }
    Ok(())
}

/// Its steps are replayed one after the other, as everything is: an older schema is one that lags.
fn known_schema(steps: &[i64]) -> Result<(), String> {
    let known = known();
    if planted::is("any-schema-will-do") || steps == known {
        return Ok(());
    }
    let newest = known.last().copied().unwrap_or_default();
    Err(match steps.iter().find(|step| !known.contains(step)) {
        Some(step) => format!(
            "its schema has step {step}, which this build (up to step {newest}) does not know: a newer version of \
             Tidegate was here"
        ),
        None if steps.is_empty() => {
            "it has no schema of Tidegate: check the database's name in the URL".into()
        }
        None => format!(
            "its schema is at step {}, and this build needs step {newest}: it lags behind its primary",
            steps.last().copied().unwrap_or_default()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_copy_of_the_same_cluster_on_no_lower_timeline_is_believed() {
        let known = Cluster { system: 5, timeline: 3 };
        assert!(same_cluster(Some(known), known).is_ok());
        assert!(same_cluster(Some(known), Cluster { timeline: 4, ..known }).is_ok(), "it was promoted");
        let said = |found| same_cluster(Some(known), found).expect_err("refused");
        assert!(said(Cluster { system: 6, ..known }).contains("system identifier is 6"));
        assert!(said(Cluster { timeline: 2, ..known }).contains("timeline 2"));
        assert!(same_cluster(None, known).expect_err("refused").contains("not known yet"));
    }

    #[test]
    fn only_the_schema_of_this_build_is_read() {
        assert!(known_schema(&known()).is_ok());
        let mut newer = known();
        newer.push(9_999);
        assert!(known_schema(&newer).expect_err("refused").contains("step 9999"));
        let mut older = known();
        older.pop();
        assert!(known_schema(&older).expect_err("refused").contains("lags"));
        assert!(known_schema(&[]).expect_err("refused").contains("no schema"));
    }

    #[test]
    fn a_timeline_is_read_from_the_name_of_a_log_file() {
        assert_eq!(timeline_of("000000020000000000000003"), Some(2));
        assert_eq!(timeline_of("0000000"), None);
    }
}
