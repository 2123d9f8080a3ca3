//! What is read from a replica, and what is not: real servers that stream from each other.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with a deadline"
)]

mod fixture;

use fixture::*;
use std::time::{Duration, Instant};
use store::*;
use wire::*;

const SCOPE: Scope = Scope::Organization(OrganizationId::from_bytes([1; 16]));

/// A primary, and the store that writes into it.
struct Stage {
    cluster: pgscratch::Cluster,
    store: Store,
    progress: Progress,
}

impl Stage {
    async fn start() -> Self {
        let cluster = pgscratch::Cluster::start().unwrap();
        let url: PostgresUrl = cluster.database("own").unwrap().parse().unwrap();
        let progress = Progress::default();
        let store =
            Store::open_with(url.into(), Opening::CreateIfMissing, Some(progress.clone())).await.unwrap();
        let installation = Installation {
            id: InstallationId::from_bytes([9; 16]),
            version: Version { incarnation: 1, version: 1 },
            created_ms: NOW,
        };
        store.bootstrap(&installation, &organization(1, "default"), "test").await.unwrap();
        let stage = Self { cluster, store, progress };
        stage.believe().await;
        stage
    }

    /// As a controller does it when it has taken the state.
    async fn believe(&self) -> Look {
        let look = self.store.look().await.unwrap().unwrap();
        self.progress.believe(&look.seen.unwrap(), Instant::now());
        look
    }

    async fn write(&self, seed: u8) {
        let mut change = self.store.change(SCOPE, "test", NOW).await.unwrap();
        change.insert_site(&site(seed, &format!("site {seed}"))).await.unwrap();
        change.commit("create", "site", "{}").await.unwrap();
    }

    fn replica(&self, standby: &pgscratch::Cluster) -> Store {
        Store::replica(standby.url("own").parse().unwrap(), self.progress.clone())
    }
}

fn refused<T: std::fmt::Debug>(read: Result<T, StoreError>) -> String {
    match read.unwrap_err() {
        StoreError::Replica(why) => why,
        other => panic!("{other:?}"),
    }
}

async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_replica_has_what_was_acknowledged_takes_no_change_and_answers_when_its_primary_is_frozen_or_dead()
{
    let stage = Stage::start().await;
    let standby = stage.cluster.standby().unwrap();
    let replica = stage.replica(&standby);
    for seed in 1..6 {
        stage.write(seed).await;
        // At once: what was acknowledged is waited for.
        let read = replica.load().await.unwrap().unwrap();
        assert_eq!(read.organizations[0].sites.len(), usize::from(seed));
    }
    let there = stage.believe().await;
    // Whatever else the primary wrote has arrived, too.
    until("it has everything", async || {
        let seen = replica.look().await.unwrap().unwrap().seen.unwrap();
        (stage.progress.lag(&seen, Instant::now()) == Some(Duration::ZERO)).then_some(())
    })
    .await;
    stage.cluster.freeze();
    let look = replica.look().await.unwrap().unwrap();
    assert_eq!(look.mark, there.mark);
    let seen = look.seen.unwrap();
    assert_eq!(stage.progress.lag(&seen, Instant::now()), Some(Duration::ZERO));
    assert!(seen.age.is_some_and(|age| age < Duration::from_secs(60)), "{seen:?}");
    stage.cluster.kill();
    assert_eq!(replica.load().await.unwrap().unwrap().organizations[0].sites.len(), 5);
    assert!(refused(replica.change(SCOPE, "test", NOW).await.map(|_| ())).contains("nothing is written"));
    assert!(replica.hints().await.is_err(), "a standby takes no LISTEN");
    // A replica that is killed or frozen is an error within a second, and no more.
    standby.freeze();
    let began = Instant::now();
    assert!(matches!(replica.look().await, Err(StoreError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    standby.thaw();
    until("it answers again", async || replica.look().await.ok()).await;
}

#[tokio::test]
async fn a_replica_that_lacks_what_was_acknowledged_here_is_waited_for_and_then_refused() {
    // What the primary was seen to have before the pause may be missing too.
    let began = Instant::now();
    let stage = Stage::start().await;
    let standby = stage.cluster.standby().unwrap();
    let replica = stage.replica(&standby);
    until("it has the beginning", async || replica.load().await.ok()).await;
    until("replay is paused", async || {
        standby.sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        let state = standby.sql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap();
        (state == "paused").then_some(())
    })
    .await;
    stage.write(1).await;
    stage.believe().await;
    let why = refused(replica.load().await);
    assert!(why.contains("acknowledged here") && why.contains("127.0.0.1"), "{why}");
    // How late it is, is said also of one that is refused.
    until("a lag", async || {
        let _ = replica.look().await;
        let lag = stage.progress.lag(&replica.last_sighting()?, Instant::now())?;
        assert!(lag <= began.elapsed());
        (lag > Duration::from_secs(1)).then_some(())
    })
    .await;
    // Replay goes on while a read waits for it.
    let before = standby.sql("postgres", "SELECT clock_timestamp()").unwrap();
    let asked = format!(
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = 'own' AND query LIKE '%pg_control_system%' \
         AND query_start > '{before}'"
    );
    let (read, ()) = tokio::join!(replica.load(), async {
        until("the read asks what was replayed", async || {
            (standby.sql("postgres", &asked).unwrap() != "0").then_some(())
        })
        .await;
        standby.sql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    });
    assert_eq!(read.unwrap().unwrap().organizations[0].sites.len(), 1);
    let look = replica.look().await.unwrap().unwrap();
    assert_eq!(stage.progress.lag(&look.seen.unwrap(), Instant::now()), Some(Duration::ZERO));
}

#[tokio::test]
async fn a_server_of_another_cluster_is_no_replica_whatever_is_in_it() {
    let stage = Stage::start().await;
    let other = Stage::start().await;
    let why = refused(stage.replica(&other.cluster).load().await);
    assert!(why.contains("another cluster") && why.contains("system identifier"), "{why}");
    // Nothing was seen of a primary: nothing is believed.
    let blind = Store::replica(stage.cluster.url("own").parse().unwrap(), Progress::default());
    assert!(refused(blind.load().await).contains("has not seen its primary"));
    // A database of the same cluster that is none of ours.
    stage.cluster.database("empty").unwrap();
    let empty = Store::replica(stage.cluster.url("empty").parse().unwrap(), stage.progress.clone());
    assert!(refused(empty.load().await).contains("no schema of Tidegate"));
}

#[tokio::test]
async fn a_replica_that_stayed_behind_at_a_failover_is_refused_and_one_that_followed_is_read() {
    let stage = Stage::start().await;
    let next = stage.cluster.standby().unwrap();
    let left_behind = stage.cluster.standby().unwrap();
    let followed = next.standby().unwrap();
    let (old, new) = (stage.replica(&left_behind), stage.replica(&followed));
    for replica in [&old, &new] {
        until("it is there", async || replica.load().await.ok()).await;
    }
    next.promote().unwrap();
    let url: PostgresUrl = next.url("own").parse().unwrap();
    let store = Store::open_with(url.into(), Opening::MustExist, Some(stage.progress.clone())).await.unwrap();
    let stage = Stage { cluster: next, store, progress: stage.progress.clone() };
    let seen = stage.believe().await.seen.unwrap();
    assert_eq!(seen.cluster.timeline, 2);
    stage.write(1).await;
    let why = refused(old.load().await);
    assert!(
        why.contains("timeline 1") && why.contains("timeline 2") && why.contains("pg_read_all_stats"),
        "{why}"
    );
    // The one that streams from the new primary shows it to who may see it.
    stage.cluster.sql("postgres", "GRANT pg_read_all_stats TO tidegate").unwrap();
    let read = until("it followed", async || new.load().await.ok().flatten()).await;
    assert_eq!(read.organizations[0].sites.len(), 1);
    // And is remembered to have followed when its primary is gone, and nobody streams to it any more.
    stage.cluster.kill();
    until("the stream has ended", async || {
        let streams = followed.sql("postgres", "SELECT COUNT(*) FROM pg_stat_wal_receiver").unwrap();
        (streams == "0").then_some(())
    })
    .await;
    assert_eq!(new.load().await.unwrap().unwrap().organizations[0].sites.len(), 1);
}

#[tokio::test]
async fn a_replica_with_a_schema_that_is_newer_or_older_than_the_build_is_refused() {
    let stage = Stage::start().await;
    let standby = stage.cluster.standby().unwrap();
    let replica = stage.replica(&standby);
    until("it is there", async || replica.load().await.ok()).await;
    let newest = "SELECT MAX(version) FROM _sqlx_migrations";
    let newest: i64 = stage.cluster.sql("own", newest).unwrap().parse().unwrap();
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                  VALUES (9999, 'later', true, '', 0)";
    stage.cluster.sql("own", insert).unwrap();
    until("newer", async || match replica.load().await {
        Err(StoreError::Replica(why)) => {
            assert!(why.contains("step 9999") && why.contains(&newest.to_string()), "{why}");
            Some(())
        }
        read => {
            assert!(read.is_ok());
            None
        }
    })
    .await;
    let older = format!("DELETE FROM _sqlx_migrations WHERE version >= {newest}");
    stage.cluster.sql("own", &older).unwrap();
    until("older", async || match replica.look().await {
        Err(StoreError::Replica(why)) if why.contains("9999") => None,
        Err(StoreError::Replica(why)) => {
            assert!(why.contains("lags behind"), "{why}");
            Some(())
        }
        other => panic!("{other:?}"),
    })
    .await;
}

#[tokio::test]
async fn how_many_connections_the_server_takes_is_asked_of_it() {
    let settings = pgscratch::Settings { server: vec!["max_connections=13".into()], ..Default::default() };
    let cluster = pgscratch::Cluster::start_with(settings).unwrap();
    let url: PostgresUrl = cluster.database("own").unwrap().parse().unwrap();
    let store = Store::open(url, Opening::CreateIfMissing).await.unwrap();
    let connections = store.connections().await.unwrap().unwrap();
    assert_eq!(connections, Connections { most: 13, each: 8 });
    assert_eq!(connections.lacking(1), Some(14));
}
