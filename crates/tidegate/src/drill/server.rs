//! A real PostgreSQL of a drill's own, made from the installed programs, with the fault proxy before it.

use super::{
    database::Fault,
    proxy::{Answers, FaultProxy},
};
use anyhow::Context as _;
use pgscratch::Cluster;
use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

/// The controller's database there.
const NAME: &str = "drill";

/// A server, gone when the last one lets go of it.
pub struct Server {
    cluster: Arc<Cluster>,
    proxy: FaultProxy,
}

/// Starting, stopping and asking a server wait for its programs.
pub async fn blocking<T: Send + 'static>(
    cluster: &Arc<Cluster>,
    work: impl FnOnce(&Cluster) -> T + Send + 'static,
) -> anyhow::Result<T> {
    let cluster = Arc::clone(cluster);
    tokio::task::spawn_blocking(move || work(&cluster)).await.context("a task of the drill ended")
}

impl Server {
    /// Makes one.
    pub async fn start() -> anyhow::Result<Arc<Self>> {
        let made = tokio::task::spawn_blocking(move || {
            let cluster = Cluster::start()?;
            cluster.database(NAME)?;
            Ok::<_, pgscratch::ScratchError>(cluster)
        });
        let cluster = made.await.context("a task of the drill ended")??;
        let proxy = FaultProxy::start(SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port()))).await?;
        Ok(Arc::new(Self { cluster: Arc::new(cluster), proxy }))
    }

    /// What a controller is told, password and all: by the proxy.
    pub fn url(&self) -> String {
        self.url_of(NAME)
    }

    /// The same for another database there.
    pub fn url_of(&self, database: &str) -> String {
        self.cluster.url_behind(self.proxy.port(), database)
    }

    /// Makes another, empty database there.
    pub async fn create(&self, database: &'static str) -> anyhow::Result<()> {
        blocking(&self.cluster, move |cluster| cluster.database(database)).await??;
        Ok(())
    }

    /// Runs statements in the controller's database, as the superuser.
    pub async fn sql(&self, text: &'static str) -> anyhow::Result<()> {
        blocking(&self.cluster, move |cluster| cluster.sql(NAME, text)).await??;
        Ok(())
    }

    /// Connections of the controller right now.
    pub fn connections(&self) -> usize {
        self.proxy.open()
    }

    /// Begins or ends a fault.
    pub async fn set(&self, fault: Fault) -> anyhow::Result<()> {
        self.proxy.set(match fault {
            Fault::Slow(by) => Answers::Late(by),
            Fault::None | Fault::Frozen => Answers::Pass,
        });
        // Each of its processes is stopped where it stands, as by a hypervisor or a disk that hangs.
        match fault {
            Fault::Frozen => blocking(&self.cluster, Cluster::freeze).await,
            Fault::None | Fault::Slow(_) => blocking(&self.cluster, Cluster::thaw).await,
        }
    }
}

/// All tables, those that each change touches first before the others: whoever locks in another order than everybody
/// else only meets deadlocks of its own making.
const LOCK_EVERY_TABLE: &str = "DO $$ DECLARE name text; BEGIN \
     FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' \
         ORDER BY tablename NOT IN ('installation', 'organizations'), tablename \
     LOOP EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', name); END LOOP; \
     PERFORM pg_sleep(";

impl Server {
    /// A transaction of somebody else has every table for itself, for `hold` once it has them all.
    pub async fn lock_every_table(&self, hold: Duration) -> anyhow::Result<()> {
        let sql = format!("{LOCK_EVERY_TABLE}{}); END $$", hold.as_secs_f64());
        blocking(&self.cluster, move |cluster| cluster.sql(NAME, &sql)).await??;
        Ok(())
    }

    /// A transaction of somebody else has the table of groups for itself, and no other one, for `hold`.
    pub async fn lock_groups(&self, hold: Duration) -> anyhow::Result<()> {
        let sql = format!(
            "BEGIN; LOCK TABLE user_groups IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep({}); COMMIT",
            hold.as_secs_f64()
        );
        blocking(&self.cluster, move |cluster| cluster.sql(NAME, &sql)).await??;
        Ok(())
    }

    /// Somebody else, who takes every connection that can be had until dropped.
    pub async fn crowd(&self) -> anyhow::Result<Crowd> {
        let places = "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int";
        let places = blocking(&self.cluster, |cluster| cluster.sql("postgres", places)).await??;
        let crowd = Crowd::start(&self.cluster.url("postgres"), places.parse().context("a number")?)?;
        let full = async {
            // Refused once: everything that was free is taken.
            while !crowd.was_refused() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(CROWDED_WITHIN, full).await.context("taking every connection of the server")?;
        Ok(crowd)
    }

    /// Closes the controller's connections at the server.
    pub async fn close_the_controllers(&self) -> anyhow::Result<()> {
        let close = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {CONTROLLERS}");
        blocking(&self.cluster, move |cluster| cluster.sql("postgres", &close)).await??;
        Ok(())
    }
}

const CONTROLLERS: &str = "datname = 'drill' AND application_name = 'tidegate'";
/// Each connection takes the server a sign-in.
const CROWDED_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries when there is none to be had.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Connections that somebody else holds.
pub struct Crowd {
    held: Arc<AtomicUsize>,
    refused: Arc<AtomicBool>,
    /// All that there are for everybody but the superuser.
    places: usize,
    task: JoinHandle<()>,
}

impl Crowd {
    fn start(url: &str, places: usize) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url.parse().context("the server's address")?;
        let options = options.application_name("somebody else");
        let (held, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, told) = (Arc::clone(&held), Arc::clone(&refused));
        let task = tokio::spawn(async move {
            let mut connections = Vec::new();
            loop {
                match PgConnection::connect_with(&options).await {
                    Ok(connection) if connections.len() < places => {
                        connections.push(connection);
                        counted.store(connections.len(), Ordering::Relaxed);
                    }
                    _ => {
                        told.store(true, Ordering::Relaxed);
                        tokio::time::sleep(TRY_AGAIN).await;
                    }
                }
            }
        });
        Ok(Self { held, refused, places, task })
    }

    /// How many there are.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether nobody else has one, but for the superuser.
    pub fn has_every_place(&self) -> bool {
        self.held() == self.places
    }

    fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.task.abort();
    }
}
