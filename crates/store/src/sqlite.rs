//! Opening the database: one writer connection, read-only readers, write-ahead log.

use crate::{
    Change, DatabaseCounters, Dataset, Installation, Organization, Scope, StoreError,
    row::integer,
    trace::{self, Counters},
};
use sqlx::{
    Connection as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The deadline of a connection, a lock and a statement: the architecture's 1 s for a write.
const DEADLINE: Duration = Duration::from_secs(1);
/// Reads are of history only (the rest is in memory), so that few readers are enough.
const READERS: u32 = 2;

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations/sqlite");

/// Whether an absent file is a first start or a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A first start: the file is made.
    CreateIfMissing,
    /// There was one before: an absent file is an error, never an empty database.
    MustExist,
}

/// The configuration database.
#[derive(Debug, Clone)]
pub struct Store {
    writer: SqlitePool,
    reader: SqlitePool,
    path: PathBuf,
    inode: u64,
    counters: Arc<Counters>,
}

impl Store {
    /// Opens the database and brings its schema to this build's state.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Unavailable`].
    pub async fn open(path: &Path, opening: Opening) -> Result<Self, StoreError> {
        if opening == Opening::MustExist && !path.exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let counters = Arc::new(Counters::default());
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(opening == Opening::CreateIfMissing)
            .journal_mode(SqliteJournalMode::Wal)
            // FULL: an acknowledged change survives a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous).
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(DEADLINE);
        let writer = pool(1, &counters).connect_lazy_with(options.clone());
        in_time(MIGRATOR.run(&writer)).await?.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let inode =
            std::fs::metadata(path).map_err(|error| StoreError::Unavailable(error.to_string()))?.ino();
        let reader =
            pool(READERS, &counters).connect_lazy_with(options.create_if_missing(false).read_only(true));
        Ok(Self { writer, reader, path: path.to_owned(), inode, counters })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    /// What the database did since it was opened, by its own trace.
    #[must_use]
    pub fn database_counters(&self) -> DatabaseCounters {
        self.counters.read()
    }

    /// Whether the open file is still the one at its path.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: it was removed or replaced; close and open again.
    pub fn is_usable(&self) -> Result<(), StoreError> {
        self.check_file()
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
        let mut tx = self.begin().await?;
        sqlx::query(
            "INSERT INTO installation (singleton, id, incarnation, version, created_ms) VALUES (1, $1, $2, $3, $4)",
        )
        .bind(installation.id.to_string())
        .bind(integer(installation.version.incarnation))
        .bind(integer(installation.version.version))
        .bind(integer(installation.created_ms))
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::from_sqlx("installation", error))?;
        tx.commit().await.map_err(|error| StoreError::from_sqlx("installation", error))?;
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
        Change::begin(self.begin().await?, scope, actor, at_ms).await
    }

    /// Everything, in one transaction; `None` before [`Store::bootstrap`].
    ///
    /// # Errors
    /// Any read error: never a smaller answer.
    pub async fn load(&self) -> Result<Option<Dataset>, StoreError> {
        self.check_file()?;
        let mut tx =
            in_time(self.reader.begin()).await?.map_err(|error| StoreError::from_sqlx("snapshot", error))?;
        in_time(crate::read::dataset(&mut tx)).await?
    }

    pub(crate) const fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    pub(crate) async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Sqlite>, StoreError> {
        self.check_file()?;
        // IMMEDIATE takes the write lock now: a lock that another process holds is said here, at
        // the deadline, and not at the commit.
        in_time(self.writer.begin_with("BEGIN IMMEDIATE"))
            .await?
            .map_err(|error| StoreError::from_sqlx("change", error))
    }

    /// An open file that was removed or replaced takes writes that nobody will ever read.
    pub(crate) fn check_file(&self) -> Result<(), StoreError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if metadata.ino() == self.inode => Ok(()),
            Ok(_) => Err(StoreError::Unavailable("the database file was replaced".into())),
            Err(error) => Err(StoreError::Unavailable(format!("the database file is gone: {error}"))),
        }
    }
}

fn pool(connections: u32, counters: &Arc<Counters>) -> SqlitePoolOptions {
    let counters = Arc::clone(counters);
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(DEADLINE)
        // Nothing wakes an idle pool: an idle installation costs no statement.
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        // A full disk makes SQLite end a transaction by itself. The driver's own count of it then stays, and each
        // transaction that follows on this connection would be refused for ever.
        .before_acquire(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
        .after_connect(move |connection, _| {
            let counters = Arc::clone(&counters);
            Box::pin(async move {
                trace::count(connection.lock_handle().await?.as_raw_handle(), counters);
                Ok(())
            })
        })
}

/// A deadline on every await that covers connect, lock and statement.
pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, StoreError> {
    tokio::time::timeout(2 * DEADLINE, work)
        .await
        .map_err(|_| StoreError::Unavailable("no answer from the database in time".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_was_full_is_written_again_when_there_is_room() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store =
            Store::open(&directory.path().join("t.db"), Opening::CreateIfMissing).await.expect("opens");
        // SQLite gives the same error as on a full disk, on this connection alone.
        let pages: i64 =
            sqlx::query_scalar("PRAGMA page_count").fetch_one(&store.writer).await.expect("a number");
        let limit = format!("PRAGMA max_page_count = {}", pages + 8);
        sqlx::query(sqlx::AssertSqlSafe(limit)).execute(&store.writer).await.expect("a limit");
        let mut change = store.begin().await.expect("begins");
        sqlx::query("CREATE TABLE filler (bytes BLOB)").execute(&mut *change).await.expect("a small change");
        let full = sqlx::query("INSERT INTO filler VALUES (zeroblob(1000000))").execute(&mut *change).await;
        assert!(full.expect_err("no room").to_string().contains("full"));
        drop(change);
        for _ in 0..2 {
            let change = store.begin().await.expect("there is room again");
            change.commit().await.expect("commits");
        }
    }
}
