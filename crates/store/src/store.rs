//! The store: an engine and what is done with it as a whole.

use crate::{
    Change, DatabaseCounters, Dataset, Installation, Location, Organization, Scope, StoreError,
    engine::{Engine, LOAD_DEADLINE, Transaction, within},
    postgres,
    row::{Row, integer},
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
        let engine = match location.into() {
            Location::Sqlite(path) => Engine::Sqlite(sqlite::Database::open(&path, opening).await?),
            Location::Postgres(url) => Engine::Postgres(postgres::Database::open(url, opening).await?),
        };
        Ok(Self { engine })
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
        Change::begin(self.begin(scope).await?, scope, actor, at_ms).await
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
