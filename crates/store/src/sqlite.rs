//! The embedded engine: one writer connection, read-only readers, write-ahead log.

use crate::{
    Opening, StoreError,
    counters::DatabaseCounters,
    engine::DEADLINE,
    schema,
    trace::{self, Counters},
};
use sqlx::{
    Connection as _, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The lock's wait and the statement itself.
pub(crate) const STATEMENT_DEADLINE: Duration = Duration::from_secs(2);
/// The deadline of a commit, which waits for the disk: a busy one takes seconds, and not to know whether a change was
/// stored is a worse answer than a late one.
const COMMIT_DEADLINE: Duration = Duration::from_secs(6);
/// Reads are of history only (the rest is in memory), so that few readers are enough.
const READERS: u32 = 2;

/// An open database file.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    writer: SqlitePool,
    reader: SqlitePool,
    path: PathBuf,
    inode: u64,
    counters: Arc<Counters>,
}

impl Database {
    pub(crate) async fn open(path: &Path, opening: Opening) -> Result<Self, StoreError> {
        if opening == Opening::MustExist && !path.exists() {
            return Err(StoreError::Missing(path.display().to_string()));
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
        let migrated = async {
            let mut connection = writer.acquire().await?;
            schema::apply(schema::sqlite(), &mut *connection).await
        };
        tokio::time::timeout(STATEMENT_DEADLINE, migrated)
            .await
            .map_err(|_| StoreError::Unavailable("the database was not opened in time".into()))?
            .map_err(schema::refused)?;
        let inode =
            std::fs::metadata(path).map_err(|error| StoreError::Unavailable(error.to_string()))?.ino();
        let reader =
            pool(READERS, &counters).connect_lazy_with(options.create_if_missing(false).read_only(true));
        Ok(Self { writer, reader, path: path.to_owned(), inode, counters })
    }

    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    pub(crate) fn counters(&self) -> DatabaseCounters {
        self.counters.read()
    }

    pub(crate) async fn read(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.check_file()?;
        in_time(STATEMENT_DEADLINE, "snapshot", self.reader.begin()).await
    }

    pub(crate) async fn write(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.check_file()?;
        // IMMEDIATE takes the write lock now: a lock that another process holds is said here, at
        // the deadline, and not at the commit.
        in_time(STATEMENT_DEADLINE, "change", self.writer.begin_with("BEGIN IMMEDIATE")).await
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
pub(crate) async fn in_time<T>(
    limit: Duration,
    kind: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| StoreError::Unavailable("no answer from the database in time".into()))?
        .map_err(|error| StoreError::from_sqlx(kind, error))
}

/// Commits. An error that SQLite gives is one that it has taken the change back for; only silence leaves it open.
pub(crate) async fn commit(tx: Transaction<'static, Sqlite>) -> Result<(), StoreError> {
    tokio::time::timeout(COMMIT_DEADLINE, tx.commit())
        .await
        .map_err(|_| StoreError::OutcomeUnknown("the commit got no answer in time".into()))?
        .map_err(|error| StoreError::from_sqlx("change", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_was_full_is_written_again_when_there_is_room() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let database =
            Database::open(&directory.path().join("t.db"), Opening::CreateIfMissing).await.expect("opens");
        // SQLite gives the same error as on a full disk, on this connection alone.
        let pages: i64 =
            sqlx::query_scalar("PRAGMA page_count").fetch_one(&database.writer).await.expect("a number");
        let limit = format!("PRAGMA max_page_count = {}", pages + 8);
        sqlx::query(sqlx::AssertSqlSafe(limit)).execute(&database.writer).await.expect("a limit");
        let mut change = database.write().await.expect("begins");
        sqlx::query("CREATE TABLE filler (bytes BLOB)").execute(&mut *change).await.expect("a small change");
        let full = sqlx::query("INSERT INTO filler VALUES (zeroblob(1000000))").execute(&mut *change).await;
        assert!(full.expect_err("no room").to_string().contains("full"));
        drop(change);
        for _ in 0..2 {
            let change = database.write().await.expect("there is room again");
            change.commit().await.expect("commits");
        }
    }
}
