//! The store: an engine and what is done with it as a whole.

use crate::{
    Change, DatabaseCounters, Dataset, Installation, Location, Organization, PostgresUrl, Progress, Scope,
    Sighting, StoreError,
    engine::{Engine, LOAD_DEADLINE, Transaction, within},
    postgres,
    row::{Row, integer, number},
    sqlite,
    statement::{Statement, query},
};

/// Whether an absent database is a first start or a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A first start: the file, or the schema in the server's database, is made.
    CreateIfMissing,
    /// There was one before: an absent one is an error, never an empty database.
    MustExist,
}

/// The connections of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// `max_connections`: so many it takes of everybody.
    pub most: u64,
    /// So many one process holds at most.
    pub each: u64,
}

impl Connections {
    /// Of a server's connections, so many in a hundred may be ours: it has others to serve, and who looks after it.
    pub const SHARE: u64 = 60;

    /// How many the server would have to take, when it does not take enough for so many processes.
    #[must_use]
    pub const fn lacking(&self, processes: u64) -> Option<u64> {
        let needed = (self.each * processes * 100).div_ceil(Self::SHARE);
        if needed > self.most { Some(needed) } else { None }
    }
}

/// What is expected of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// A few rows.
    Usual,
    /// Thousands: it may hold its lock for [`LONG_CHANGE`], and whoever waits for that longer than a second is refused.
    Long,
}

/// How long a change of [`Size::Long`] may take at a server; a file's has this from who makes it.
pub const LONG_CHANGE: std::time::Duration = std::time::Duration::from_secs(10);

/// The configuration database.
#[derive(Debug, Clone)]
pub struct Store {
    engine: Engine,
}

impl Store {
    /// Opens the database and brings its schema to this build's state.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Schema`] or [`StoreError::Unavailable`].
    pub async fn open(location: impl Into<Location>, opening: Opening) -> Result<Self, StoreError> {
        Self::open_with(location.into(), opening, None).await
    }

    /// As [`Store::open`], for a database that has replicas: `progress` is told where each commit ended, and what a look
    /// finds says how far the server is. A file has none.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_with(
        location: Location,
        opening: Opening,
        progress: Option<Progress>,
    ) -> Result<Self, StoreError> {
        let engine = match location {
            Location::Sqlite(path) => Engine::Sqlite(sqlite::Database::open(&path, opening).await?),
            Location::Postgres(url) => {
                Engine::Postgres(postgres::Database::open(url, opening, progress).await?)
            }
        };
        Ok(Self { engine })
    }

    /// A server that follows the one that takes writes. Nothing is dialled yet, and nothing is ever written there.
    ///
    /// Each transaction first asks what is at the other end: another cluster than that of `progress`, a lower timeline,
    /// another schema than this build's, or one that lacks a change that was acknowledged to this process after a second
    /// is [`StoreError::Replica`], and no row is read.
    #[must_use]
    pub fn replica(url: PostgresUrl, progress: Progress) -> Self {
        Self { engine: Engine::Postgres(postgres::Database::replica(url, progress)) }
    }

    /// What a replica said last of itself, also when it was refused.
    #[must_use]
    pub fn last_sighting(&self) -> Option<Sighting> {
        self.engine.last_sighting()
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.engine.close().await;
    }

    /// What the database did since it was opened.
    #[must_use]
    pub fn database_counters(&self) -> DatabaseCounters {
        self.engine.counters()
    }

    /// Whether an open file is still the one at its path. A server is as usable as its last answer said.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it was removed or replaced; close and open again.
    pub fn is_usable(&self) -> Result<(), StoreError> {
        self.engine.check()
    }

    /// Writes the first rows.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the database already has an installation.
    pub async fn bootstrap(
        &self,
        installation: &Installation,
        organization: &Organization,
        actor: &str,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin(Scope::Installation).await?;
        let first = query(
            "INSERT INTO installation (singleton, id, incarnation, version, created_ms) VALUES (1, $1, $2, $3, $4)",
        )
        .bind(installation.id.to_string())
        .bind(integer(installation.version.incarnation))
        .bind(integer(installation.version.version))
        .bind(integer(installation.created_ms));
        tx.execute("installation", first).await?;
        tx.commit().await?;
        let mut change = self.change(Scope::Installation, actor, installation.created_ms).await?;
        change.insert_organization(organization).await?;
        change.commit("bootstrap", &organization.id.to_string(), "{}").await?;
        Ok(())
    }

    /// Begins a configuration change. The version row is raised first: its row lock is the commit
    /// order.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for an unknown organization, [`StoreError::Unavailable`] at the
    /// deadline.
    pub async fn change(&self, scope: Scope, actor: &str, at_ms: u64) -> Result<Change, StoreError> {
        self.change_of(scope, actor, at_ms, Size::Usual).await
    }

    /// As [`Store::change`], for a change of another size.
    ///
    /// # Errors
    /// As [`Store::change`].
    pub async fn change_of(
        &self,
        scope: Scope,
        actor: &str,
        at_ms: u64,
        size: Size,
    ) -> Result<Change, StoreError> {
        let tx = match size {
            Size::Usual => self.begin(scope).await?,
            Size::Long => self.engine.write_longer(scope).await?,
        };
        Change::begin(tx, scope, actor, at_ms).await
    }

    /// Everything, in one transaction; `None` before [`Store::bootstrap`].
    ///
    /// # Errors
    /// Any read error: never a smaller answer.
    pub async fn load(&self) -> Result<Option<Dataset>, StoreError> {
        within(LOAD_DEADLINE, async {
            let mut tx = self.engine.read(Scope::Installation).await?;
            let dataset = crate::read::dataset(&mut tx).await?;
            tx.commit().await?;
            Ok(dataset)
        })
        .await
    }

    /// Everything, in one transaction, where `held` is what was read before: organizations whose version is the same are
    /// taken from it. A database that was replaced by a copy of itself is not noticed by that: after each opening
    /// [`Store::load`] is for it.
    ///
    /// # Errors
    /// Any read error: never a smaller answer.
    pub async fn load_after(&self, held: &Dataset) -> Result<Option<Dataset>, StoreError> {
        within(LOAD_DEADLINE, async {
            let mut tx = self.engine.read(Scope::Installation).await?;
            let dataset = crate::read::dataset_after(&mut tx, Some(held)).await?;
            tx.commit().await?;
            Ok(dataset)
        })
        .await
    }

    /// Whether others may write into it: a server's database has several controllers, a file has one.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.engine, Engine::Postgres(_))
    }

    /// How many connections a server takes, and a process holds; a file has none.
    ///
    /// # Errors
    /// Any read error.
    pub async fn connections(&self) -> Result<Option<Connections>, StoreError> {
        let Some(each) = self.engine.connections() else { return Ok(None) };
        let asked = query("SELECT CAST(current_setting('max_connections') AS BIGINT) AS most");
        let mut tx = self.engine.look().await?;
        let row = tx.fetch_optional("max_connections", asked).await?;
        tx.commit().await?;
        row.map(|row| Ok(Connections { most: number(&row, "most")?, each })).transpose()
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Begins a transaction that raises no version.
    pub(crate) async fn begin(&self, scope: Scope) -> Result<Transaction, StoreError> {
        self.engine.write(scope).await
    }

    /// Reads rows of history, bound to `scope`.
    pub(crate) async fn fetch_all(
        &self,
        scope: Scope,
        kind: &'static str,
        statement: Statement,
    ) -> Result<Vec<Row>, StoreError> {
        let mut tx = self.engine.read(scope).await?;
        let rows = tx.fetch_all(kind, statement).await?;
        tx.commit().await?;
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{path::PathBuf, pin::Pin};

    #[test]
    fn the_connections_of_all_processes_are_at_most_three_fifths_of_the_servers() {
        let connections = |most| Connections { most, each: 8 };
        assert_eq!(connections(27).lacking(2), None);
        assert_eq!(connections(26).lacking(2), Some(27));
        assert_eq!(connections(100).lacking(7), None);
        assert_eq!(connections(100).lacking(8), Some(107));
    }

    type Sent<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

    /// Whoever spawns a task needs this, and is told far away from here when it is not so.
    #[test]
    fn all_that_the_store_does_can_be_done_in_a_task() {
        let _open = |path: &'static PathBuf| -> Sent<'_, _> {
            Box::pin(async move { Store::open(path, Opening::MustExist).await })
        };
        fn _open_of<'a>(path: &'a PathBuf) -> Sent<'a, Result<Store, StoreError>> {
            Box::pin(async move { Store::open(path, Opening::MustExist).await })
        }
        fn _load<'a>(store: &'a Store) -> Sent<'a, Result<Option<Dataset>, StoreError>> {
            Box::pin(async move { store.load().await })
        }
        fn _change<'a>(store: &'a Store) -> Sent<'a, Result<Change, StoreError>> {
            Box::pin(async move { store.change(Scope::Installation, "test", 0).await })
        }
        fn _commit<'a>(change: Change) -> Sent<'a, Result<crate::Version, StoreError>> {
            Box::pin(async move { change.commit("a", "b", "c").await })
        }
        fn _record<'a>(store: &'a Store) -> Sent<'a, Result<Vec<crate::Linked>, StoreError>> {
            Box::pin(async move { store.record(&[], &[]).await })
        }
        fn _close<'a>(store: &'a Store) -> Sent<'a, ()> {
            Box::pin(async move { store.close().await })
        }
    }
}
