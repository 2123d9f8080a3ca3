//! A controller with replicas of its database, which is frozen, killed, and led astray.

use super::World;
use crate::{Controller, ControllerOptions, replicas::Replicas, snapshot::SnapshotSource};
use http::header;
use pgscratch::Cluster;
use serde_json::{Value, json};
use state::StateDir;
use std::{sync::Arc, time::Duration};
use store::{Cluster as Of, Opening, PostgresUrl, Scope, Store};
use trust::Role;

async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = crate::clock::now() + Duration::from_secs(40);
    loop {
        if let Some(found) = holds().await {
            return found;
        }
        assert!(crate::clock::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn url(cluster: &Cluster) -> PostgresUrl {
    cluster.url("own").parse().unwrap()
}

fn options(directory: &tempfile::TempDir, primary: &Cluster, replicas: &[&Cluster]) -> ControllerOptions {
    ControllerOptions {
        database: Some(url(primary)),
        replicas: replicas.iter().map(|cluster| url(cluster)).collect(),
        ..World::options(directory)
    }
}

/// A controller, its database, and replicas of that.
struct Stage {
    world: World,
    primary: Cluster,
    replicas: Vec<Cluster>,
}

impl Stage {
    async fn start(replicas: usize) -> Self {
        let primary = Cluster::start().unwrap();
        primary.database("own").unwrap();
        let replicas: Vec<_> = (0..replicas).map(|_| primary.standby().unwrap()).collect();
        let directory = tempfile::tempdir().unwrap();
        let all: Vec<&Cluster> = replicas.iter().collect();
        let options = options(&directory, &primary, &all);
        let stage = Self { world: World::with(directory, options).await, primary, replicas };
        until("every replica can be read from", async || {
            (stage.database().await["replicas_usable"] == stage.replicas.len()).then_some(())
        })
        .await;
        stage
    }

    async fn database(&self) -> Value {
        self.world.get("/status").await.ok()["database"].clone()
    }

    async fn site(&self, name: &str) {
        // On a busy machine a change may be refused in time; one that is there is not made again.
        until("a site", async || {
            let status = self.world.post("/sites", json!({"name": name})).await.status.as_u16();
            matches!(status, 201 | 409).then_some(())
        })
        .await;
    }

    async fn sites(&self) -> usize {
        self.world.get("/sites").await.ok()["items"].as_array().unwrap().len()
    }

    /// What another controller writes.
    async fn written_by_another(&self, store: &Store) {
        let organization = self.world.controller.core.snapshot().dataset.organizations[0].organization.id;
        let scope = Scope::Organization(organization);
        let mut change = store.change(scope, "another", crate::clock::wall().as_millis()).await.unwrap();
        change.rename_organization(organization, "renamed").await.unwrap();
        change.commit("rename", &organization.to_string(), "{}").await.unwrap();
    }

    fn name(&self) -> String {
        self.world.controller.core.snapshot().dataset.organizations[0].organization.name.clone()
    }

    fn source(&self) -> SnapshotSource {
        self.world.controller.core.snapshot().source
    }
}

/// Waits until the replicas have received all that is written: a primary that is frozen or killed before sends nothing more.
async fn have_received(primary: &Cluster, replicas: &[Cluster]) {
    let written = primary.sql("postgres", "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint");
    let written: u64 = written.unwrap().parse().unwrap();
    for replica in replicas {
        until("a replica has received what is written", async || {
            replica.received().is_ok_and(|received| received >= written).then_some(())
        })
        .await;
    }
}

/// The same state directory, with nothing of the configuration in it.
fn without_copy(directory: &tempfile::TempDir) {
    for entry in std::fs::read_dir(directory.path().join("controller")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if ["snapshot", "snapshot.previous"].iter().any(|copy| name.starts_with(copy))
            && name != "snapshot.state"
            && name != "snapshot.trying"
        {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
}

#[tokio::test]
async fn with_the_primary_frozen_what_others_wrote_is_read_from_a_replica_and_changes_are_refused() {
    let stage = Stage::start(1).await;
    stage.site("hamburg").await;
    assert_eq!(stage.source(), SnapshotSource::Database);
    let core = &stage.world.controller.core;
    // Another controller writes, and this one cannot look at the primary any more: only the replica can tell it.
    let other = Store::open(url(&stage.primary), Opening::MustExist).await.unwrap();
    core.database.close().await;
    stage.written_by_another(&other).await;
    have_received(&stage.primary, &stage.replicas).await;
    stage.primary.freeze();
    until("the replica's state", async || (stage.name() == "renamed").then_some(())).await;
    assert_eq!((stage.source(), stage.sites().await), (SnapshotSource::Replica, 1));
    assert_eq!(stage.world.get("/status").await.ok()["snapshot"]["source"], "replica");
    let refused = stage.world.post("/sites", json!({"name": "kiel"})).await;
    assert_eq!(refused.problem(503)["type"], "/problems/database-unavailable");
    assert!(refused.headers.contains_key(header::RETRY_AFTER));
    // History, too.
    let audit = stage.world.get("/audit").await.ok();
    assert!(audit["items"].as_array().unwrap().iter().any(|entry| entry["action"] == "rename"), "{audit}");
    // The primary is back, and is the one that is read from and written into.
    stage.primary.thaw();
    until("the primary is opened again", async || core.database.reopen().await).await;
    until("it is read again", async || (stage.source() == SnapshotSource::Database).then_some(())).await;
    until("changes are taken", async || {
        (stage.world.post("/sites", json!({"name": "kiel"})).await.status == 201).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_dies_is_noticed_by_nobody_but_the_status() {
    let stage = Stage::start(2).await;
    stage.site("hamburg").await;
    stage.replicas[0].kill();
    stage.replicas[1].freeze();
    let database = until("both are said to be away", async || {
        let database = stage.database().await;
        (database["replicas_usable"] == 0 && database["usable"] == true).then_some(database)
    })
    .await;
    for replica in database["replicas"].as_array().unwrap() {
        assert!(replica["trouble"].as_str().unwrap().contains("127.0.0.1"), "{replica}");
        assert!(!replica.to_string().contains("scratch-password"), "{replica}");
    }
    for number in 0..5 {
        stage.site(&format!("site {number}")).await;
    }
    assert_eq!((stage.sites().await, stage.source()), (6, SnapshotSource::Database));
    until("it is current", async || {
        (stage.world.get("/sites").await.headers["tidegate-snapshot-age"] == "0").then_some(())
    })
    .await;
    stage.replicas[1].thaw();
    until("one is back", async || (stage.database().await["replicas_usable"] == 1).then_some(())).await;
}

#[tokio::test]
async fn a_controller_boots_from_a_replica_when_the_primary_is_dead_and_its_copy_is_gone_or_old() {
    let stage = Stage::start(1).await;
    stage.site("hamburg").await;
    let Stage { world, primary, replicas } = stage;
    let directory = world.stop().await;
    let old_copy = std::fs::read(directory.path().join("controller/snapshot")).unwrap();
    let again = options(&directory, &primary, &[&replicas[0]]);
    let world = World::with(directory, again).await;
    let stage = Stage { world, primary, replicas };
    stage.site("kiel").await;
    let Stage { world, primary, replicas } = stage;
    let directory = world.stop().await;
    have_received(&primary, &replicas).await;
    for copy in ["gone", "old"] {
        if copy == "gone" {
            primary.freeze();
        } else {
            primary.kill();
        }
        without_copy(&directory);
        if copy == "old" {
            std::fs::write(directory.path().join("controller/snapshot"), &old_copy).unwrap();
        }
        let options = options(&directory, &primary, &[&replicas[0]]);
        // A busy machine's replica may miss a deadline, and its controller then starts from what it has, or not.
        let controller = until("a start from the replica", async || {
            let (controller, _) = Controller::start(options.clone()).await.ok()?;
            (controller.core.snapshot().source == SnapshotSource::Replica).then_some(controller)
        })
        .await;
        let snapshot = controller.core.snapshot();
        assert_eq!(snapshot.dataset.organizations[0].sites.len(), 2, "{copy}");
        let scope = Scope::Installation;
        let refused = controller.core.database.change(scope, "test").await.map(|_| ()).unwrap_err();
        assert!(refused.is_unavailable(), "{refused}");
    }
}

#[tokio::test]
async fn nothing_older_than_what_is_held_or_was_ever_served_is_taken_from_a_replica() {
    let stage = Stage::start(1).await;
    stage.site("hamburg").await;
    let standby = &stage.replicas[0];
    until("it has the site", async || {
        let sites = standby.sql("own", "SELECT COUNT(*) FROM sites").unwrap();
        (sites == "1").then_some(())
    })
    .await;
    until("replay is paused", async || {
        standby.sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        let state = standby.sql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap();
        (state == "paused").then_some(())
    })
    .await;
    // Written by another controller and read by this one: no commit that was acknowledged here tells it.
    let other = Store::open(url(&stage.primary), Opening::MustExist).await.unwrap();
    stage.written_by_another(&other).await;
    until("it is read", async || (stage.name() == "renamed").then_some(())).await;
    let lag = until("its lag is said", async || {
        stage.database().await["replicas"][0]["lag_seconds"].as_u64().filter(|lag| *lag > 0)
    })
    .await;
    assert!(lag < 60, "{lag}");
    stage.primary.kill();
    until("two looks failed, each with one at the replica", async || {
        stage.world.controller.core.database.trouble()
    })
    .await;
    for _ in 0..3 {
        crate::follow::Following::default().look(&stage.world.controller.core).await;
        assert_eq!((stage.name().as_str(), stage.source()), ("renamed", SnapshotSource::Database));
    }
    // Nor at a start: what was served is remembered beside the copy.
    let Stage { world, primary, replicas } = stage;
    let directory = world.stop().await;
    without_copy(&directory);
    let refused = Controller::start(options(&directory, &primary, &[&replicas[0]])).await;
    let why = refused.map(|_| ()).unwrap_err().to_string();
    assert!(why.contains("neither the database"), "{why}");
    // It has caught up: it is what was served.
    replicas[0].sql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    let controller = until("a start", async || {
        Controller::start(options(&directory, &primary, &[&replicas[0]])).await.ok()
    })
    .await;
    let (controller, _) = controller;
    assert_eq!(controller.core.snapshot().dataset.organizations[0].organization.name, "renamed");
}

#[tokio::test]
async fn a_replica_of_another_cluster_is_refused_and_said_and_changes_nothing() {
    let stage = Stage::start(1).await;
    stage.site("hamburg").await;
    let Stage { world, primary, replicas } = stage;
    let directory = world.stop().await;
    // A database with a higher version of the same installation, in a cluster of its own.
    let stranger = Cluster::start().unwrap();
    let to = Store::open(
        stranger.database("own").unwrap().parse::<PostgresUrl>().unwrap(),
        Opening::CreateIfMissing,
    );
    let (from, to) = (Store::open(url(&primary), Opening::MustExist).await.unwrap(), to.await.unwrap());
    let mut backup = Vec::new();
    from.backup(crate::clock::wall().as_millis(), &mut backup).await.unwrap();
    to.restore(crate::clock::wall().as_millis(), "test", store::Existing::Refuse, &mut backup.as_slice())
        .await
        .unwrap();
    let again = options(&directory, &primary, &[&stranger]);
    let world = World::with(directory, again).await;
    let before = stranger.sql("own", "SELECT incarnation || '.' || version FROM installation").unwrap();
    let database = until("it is refused", async || {
        let database = world.get("/status").await.ok()["database"].clone();
        let trouble = database["replicas"][0]["trouble"].as_str()?.to_owned();
        trouble.contains("another cluster").then_some(database)
    })
    .await;
    assert_eq!(database["replicas_usable"], 0, "{database}");
    primary.kill();
    let core = Arc::clone(&world.controller.core);
    until("the primary is missed", async || core.database.trouble()).await;
    for _ in 0..3 {
        crate::follow::Following::default().look(&core).await;
    }
    assert_eq!(core.snapshot().source, SnapshotSource::Database);
    assert_eq!(core.snapshot().dataset.installation.version.incarnation, 1);
    assert_eq!(
        stranger.sql("own", "SELECT incarnation || '.' || version FROM installation").unwrap(),
        before,
        "nothing was written"
    );
    drop(replicas);
}

#[tokio::test]
async fn of_which_cluster_the_database_is_outlives_the_process() {
    let stage = Stage::start(1).await;
    let remembered = std::fs::read(stage.world.state().join("database-cluster")).unwrap();
    let of: Of = serde_json::from_slice(&remembered).unwrap();
    let system = stage.primary.sql("postgres", "SELECT system_identifier FROM pg_control_system()").unwrap();
    assert_eq!((of.system.to_string(), of.timeline), (system, 1));
}

#[tokio::test]
async fn a_replica_that_lags_more_than_a_minute_is_not_read_from_and_another_one_is() {
    let Stage { world, primary, replicas: clusters } = Stage::start(2).await;
    let directory = world.stop().await;
    let directory = StateDir::open(&directory.path().join("controller"), Role::Controller).unwrap();
    let urls: Vec<_> = clusters.iter().map(url).collect();
    let replicas = Replicas::open(&Arc::new(directory), &urls);
    assert_eq!(replicas.look().await.len(), 2);
    until("replay is paused", async || {
        clusters[0].sql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
        let state = clusters[0].sql("postgres", "SELECT pg_get_wal_replay_pause_state()").unwrap();
        (state == "paused").then_some(())
    })
    .await;
    let other = Store::open(url(&primary), Opening::MustExist).await.unwrap();
    let change = other.change(Scope::Installation, "another", 1).await.unwrap();
    change.commit("nothing", "installation", "{}").await.unwrap();
    let progress = replicas.progress().unwrap();
    let told =
        Store::open_with(url(&primary).into(), Opening::MustExist, Some(progress.clone())).await.unwrap();
    let seen = told.look().await.unwrap().unwrap().seen.unwrap();
    // As it was seen more than a minute ago.
    progress.believe(&seen, crate::clock::now() - Duration::from_secs(70));
    let left = until("the one that follows is left", async || {
        let found = replicas.look().await;
        (found.len() == 1).then_some(found)
    })
    .await;
    assert_eq!(left[0].name, urls[1].to_string());
    let states = replicas.states();
    let late = states[0].trouble.as_ref().unwrap();
    assert!(late.contains("lags 7") && late.contains("60 s"), "{late}");
    assert!(states[0].lag.unwrap() >= Duration::from_secs(70));
    assert_eq!((&states[1].trouble, states[1].lag), (&None, Some(Duration::ZERO)));
    clusters[0].sql("postgres", "SELECT pg_wal_replay_resume()").unwrap();
    until("both are of use", async || (replicas.look().await.len() == 2).then_some(())).await;
}
