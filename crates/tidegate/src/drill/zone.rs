//! Three PostgreSQL servers as in production: a primary and two standbys, each commit on the primary and on either of
//! them, and both read from. What a failover manager does, the drill does with the same steps.

use super::server::blocking;
use crate::database;
use anyhow::{Context as _, ensure};
use pgscratch::{Cluster, ScratchError};
use std::sync::Arc;

const NAME: &str = "drill";

/// The servers; the first is the primary when the drill begins.
pub struct Zone {
    servers: Vec<Arc<Cluster>>,
}

impl Zone {
    /// Makes them.
    pub async fn start() -> anyhow::Result<Self> {
        let made = tokio::task::spawn_blocking(|| {
            let primary = Cluster::start()?;
            primary.database(NAME)?;
            // Says of a server at once which timeline it is on.
            primary.sql("postgres", "GRANT pg_read_all_stats TO tidegate")?;
            let standbys = [primary.standby()?, primary.standby()?];
            primary.commit_to_any_of(standbys.len())?;
            Ok::<_, ScratchError>([primary].into_iter().chain(standbys).map(Arc::new).collect())
        });
        Ok(Self { servers: made.await.context("a task of the drill ended")?? })
    }

    /// What a controller is told: every server may be promoted, and both standbys are read from.
    pub fn told(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let first = self.servers.first().context("a primary")?.url(NAME);
        let (before, name) = first.rsplit_once('/').context("a URL")?;
        let others: Vec<String> =
            self.servers.iter().skip(1).map(|server| format!(",127.0.0.1:{}", server.port())).collect();
        let replicas: Vec<String> = self.servers.iter().skip(1).map(|server| server.url(NAME)).collect();
        Ok(vec![
            (database::URL, format!("{before}{}/{name}", others.concat())),
            (database::REPLICAS, replicas.join(" ")),
        ])
    }

    fn server(&self, number: usize) -> anyhow::Result<&Arc<Cluster>> {
        self.servers.get(number).context("a server of the drill")
    }

    /// Kills one with SIGKILL, all its processes.
    pub async fn kill(&self, number: usize) -> anyhow::Result<()> {
        blocking(self.server(number)?, Cluster::kill).await
    }

    /// Starts it again on its data.
    pub async fn resume(&self, number: usize) -> anyhow::Result<()> {
        Ok(blocking(self.server(number)?, Cluster::resume).await??)
    }

    /// Makes a primary of that standby which has received most, and says which.
    pub async fn promote_the_foremost(&self, standbys: &[usize]) -> anyhow::Result<usize> {
        let mut foremost = None;
        for number in standbys.iter().copied() {
            let received = blocking(self.server(number)?, Cluster::received).await??;
            if foremost.is_none_or(|(_, most)| received > most) {
                foremost = Some((number, received));
            }
        }
        let (number, _) = foremost.context("a standby")?;
        blocking(self.server(number)?, Cluster::promote).await??;
        Ok(number)
    }

    /// Makes a standby of `primary` of one that was killed, on its old port.
    pub async fn follow(&self, number: usize, primary: usize) -> anyhow::Result<()> {
        ensure!(number != primary, "a server does not follow itself");
        let primary = Arc::clone(self.server(primary)?);
        Ok(blocking(self.server(number)?, move |server| server.follow(&primary)).await??)
    }

    /// What a server says to a question, as its superuser: one line a row.
    pub async fn lines(&self, number: usize, sql: &'static str) -> anyhow::Result<String> {
        Ok(blocking(self.server(number)?, move |server| server.sql(NAME, sql)).await??)
    }

    /// From now on a commit waits for either standby again.
    pub async fn commit_to_standbys(&self, primary: usize) -> anyhow::Result<()> {
        let standbys = self.servers.len() - 1;
        Ok(blocking(self.server(primary)?, move |server| server.commit_to_any_of(standbys)).await??)
    }
}
