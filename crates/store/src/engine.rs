//! Which database it is, and a transaction on it. Everything above this module is the same for both.

use crate::{
    Scope, Sighting, StoreError, counters::DatabaseCounters, postgres, row::Row, sqlite,
    statement::Statement, touched::Touched,
};
use futures_util::TryStreamExt as _;
use std::time::Duration;

/// The deadline of a connection, a lock and a statement: the architecture's 1 s for a write.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);
/// The deadline of reading everything: 100,000 rows take about one second, and nobody waits for it.
pub(crate) const LOAD_DEADLINE: Duration = Duration::from_secs(10);

/// A step of a backup or a restore: a hundred rows, or the next row.
pub(crate) const LONG_DEADLINE: Duration = Duration::from_secs(30);

/// An open database.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    /// A file of this process.
    Sqlite(sqlite::Database),
    /// A server.
    Postgres(postgres::Database),
}

impl Engine {
    /// A transaction that may write. What it sees and takes is bound to `scope` where the engine can do that.
    pub(crate) async fn write(&self, scope: Scope) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => database.write().await.map(Inner::Sqlite),
            Self::Postgres(database) => database.write(scope).await.map(Inner::Postgres),
        }
        .map(Transaction::new)
    }

    /// As [`Engine::write`], for thousands of statements.
    pub(crate) async fn write_longer(&self, scope: Scope) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => database.write().await.map(Inner::Sqlite),
            Self::Postgres(database) => database.write_longer(scope).await.map(Inner::Postgres),
        }
        .map(Transaction::new)
    }

    /// A transaction that sees one state of the database and writes nothing.
    pub(crate) async fn read(&self, scope: Scope) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => database.read().await.map(Inner::Sqlite),
            Self::Postgres(database) => database.read(scope).await.map(Inner::Postgres),
        }
        .map(Transaction::new)
    }

    /// As [`Engine::read`], for one row and in a second: nothing else keeps it back.
    pub(crate) async fn look(&self) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => database.read().await.map(Inner::Sqlite),
            Self::Postgres(database) => database.look().await.map(Inner::Postgres),
        }
        .map(Transaction::new)
    }

    /// What a replica said last of itself, also when it was refused.
    pub(crate) fn last_sighting(&self) -> Option<Sighting> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(database) => database.last_sighting(),
        }
    }

    /// The most connections that this process holds at a server.
    pub(crate) const fn connections(&self) -> Option<u64> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(_) => Some(postgres::CONNECTIONS),
        }
    }

    pub(crate) async fn hints(&self) -> Result<Hints, StoreError> {
        match self {
            // Nobody else writes into a file of this process.
            Self::Sqlite(_) => Ok(Hints::Never),
            Self::Postgres(database) => database.listen().await.map(Hints::Of),
        }
    }

    /// As [`Engine::read`], for work that takes minutes: each step has a deadline, the whole has none.
    pub(crate) async fn read_for_long(&self, scope: Scope) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => database.read().await.map(Inner::Sqlite),
            Self::Postgres(database) => database.read_for_long(scope).await.map(Inner::Postgres),
        }
        .map(Transaction::for_long)
    }

    /// As [`Engine::write`], for work that takes minutes.
    pub(crate) async fn write_for_long(&self, scope: Scope) -> Result<Transaction, StoreError> {
        match self {
            Self::Sqlite(database) => database.write().await.map(Inner::Sqlite),
            Self::Postgres(database) => database.write_for_long(scope).await.map(Inner::Postgres),
        }
        .map(Transaction::for_long)
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(database) => database.check_file(),
            // A server that went away says so at the next statement.
            Self::Postgres(_) => Ok(()),
        }
    }

    pub(crate) fn counters(&self) -> DatabaseCounters {
        match self {
            Self::Sqlite(database) => database.counters(),
            Self::Postgres(database) => database.counters(),
        }
    }

    pub(crate) async fn close(&self) {
        match self {
            Self::Sqlite(database) => database.close().await,
            Self::Postgres(database) => database.close().await,
        }
    }
}

/// What says that somebody wrote something.
#[derive(Debug)]
pub(crate) enum Hints {
    Never,
    Of(postgres::Listener),
}

impl Hints {
    pub(crate) async fn next(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Never => std::future::pending().await,
            Self::Of(listener) => listener.next().await,
        }
    }
}

enum Inner {
    Sqlite(sqlx::Transaction<'static, sqlx::Sqlite>),
    Postgres(postgres::Open),
}

/// An open transaction. Dropped without [`Transaction::commit`] it never happened.
///
/// After an error of the database in it nothing more can be done with it, on either engine: PostgreSQL refuses each
/// later statement by itself and turns the commit into a rollback without saying so.
pub(crate) struct Transaction {
    inner: Inner,
    spoilt: Option<&'static str>,
    /// What its statements wrote.
    touched: Touched,
    /// Of one statement of SQLite's; a server's transaction has its own.
    each: Duration,
}

impl Transaction {
    fn new(inner: Inner) -> Self {
        Self { inner, spoilt: None, touched: Touched::default(), each: sqlite::STATEMENT_DEADLINE }
    }

    fn for_long(inner: Inner) -> Self {
        Self { each: LONG_DEADLINE, ..Self::new(inner) }
    }

    /// What its statements wrote.
    pub(crate) const fn touched(&self) -> &Touched {
        &self.touched
    }

    /// What the server said of itself before this began, where it was asked.
    pub(crate) const fn seen(&self) -> Option<Sighting> {
        match &self.inner {
            Inner::Sqlite(_) => None,
            Inner::Postgres(open) => open.seen(),
        }
    }

    fn ready(&mut self, kind: &'static str, statement: &Statement) -> Result<(), StoreError> {
        self.touched.saw(statement);
        match self.spoilt {
            Some(by) => Err(StoreError::Spoilt { kind, by }),
            None => statement.check(kind),
        }
    }

    /// Runs a statement; the number of rows that it changed.
    pub(crate) async fn execute(
        &mut self,
        kind: &'static str,
        statement: Statement,
    ) -> Result<u64, StoreError> {
        self.ready(kind, &statement)?;
        let each = self.each;
        let done = match &mut self.inner {
            Inner::Sqlite(tx) => {
                sqlite::in_time(each, kind, async {
                    statement.into_sqlite().execute(&mut **tx).await.map(|done| done.rows_affected())
                })
                .await
            }
            Inner::Postgres(open) => open.execute(kind, statement).await,
        };
        self.spoils(kind, done)
    }

    /// Runs a statement; its first row.
    pub(crate) async fn fetch_optional(
        &mut self,
        kind: &'static str,
        statement: Statement,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(kind, statement).await?.into_iter().next())
    }

    /// Runs a statement; all its rows.
    pub(crate) async fn fetch_all(
        &mut self,
        kind: &'static str,
        statement: Statement,
    ) -> Result<Vec<Row>, StoreError> {
        self.ready(kind, &statement)?;
        let each = self.each;
        let rows = match &mut self.inner {
            Inner::Sqlite(tx) => sqlite::in_time(each, kind, statement.into_sqlite().fetch_all(&mut **tx))
                .await
                .map(|rows| rows.into_iter().map(Row::Sqlite).collect()),
            Inner::Postgres(open) => open
                .fetch_all(kind, statement)
                .await
                .map(|rows| rows.into_iter().map(Row::Postgres).collect()),
        };
        self.spoils(kind, rows)
    }

    /// Runs a statement and hands over its rows one after the other, however many there are.
    pub(crate) async fn each(
        &mut self,
        kind: &'static str,
        statement: Statement,
        mut take: impl FnMut(&Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.ready(kind, &statement)?;
        let each = self.each;
        let done = match &mut self.inner {
            Inner::Sqlite(tx) => {
                let mut rows = statement.into_sqlite().fetch(&mut **tx);
                loop {
                    match sqlite::in_time(each, kind, rows.try_next()).await {
                        Ok(Some(row)) => {
                            if let Err(error) = take(&Row::Sqlite(row)) {
                                break Err(error);
                            }
                        }
                        Ok(None) => break Ok(()),
                        Err(error) => break Err(error),
                    }
                }
            }
            Inner::Postgres(open) => open.each(kind, statement, |row| take(&Row::Postgres(row))).await,
        };
        self.spoils(kind, done)
    }

    /// How this engine is asked for the tables that we made, their columns in order, and what they refer to.
    pub(crate) const fn catalogue(&self) -> (&'static str, &'static str) {
        match &self.inner {
            Inner::Sqlite(_) => (
                "SELECT m.name AS table_name, c.name AS column_name, c.type AS kind FROM sqlite_master AS m \
                 JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%' \
                 AND m.name <> '_sqlx_migrations' ORDER BY m.name, c.cid",
                "SELECT m.name AS table_name, f.\"table\" AS target FROM sqlite_master AS m \
                 JOIN pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table'",
            ),
            Inner::Postgres(_) => (
                "SELECT CAST(c.table_name AS TEXT) AS table_name, CAST(c.column_name AS TEXT) AS column_name, \
                 CAST(c.data_type AS TEXT) AS kind FROM information_schema.columns AS c \
                 JOIN information_schema.tables AS t USING (table_schema, table_name) \
                 WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE' \
                 AND c.table_name <> '_sqlx_migrations' ORDER BY c.table_name, c.ordinal_position",
                "SELECT CAST(a.relname AS TEXT) AS table_name, CAST(b.relname AS TEXT) AS target FROM pg_constraint AS f \
                 JOIN pg_class AS a ON a.oid = f.conrelid JOIN pg_class AS b ON b.oid = f.confrelid \
                 JOIN pg_namespace AS n ON n.oid = a.relnamespace WHERE f.contype = 'f' AND n.nspname = current_schema()",
            ),
        }
    }

    fn spoils<T>(&mut self, kind: &'static str, done: Result<T, StoreError>) -> Result<T, StoreError> {
        if done.is_err() {
            self.spoilt = Some(kind);
        }
        done
    }

    /// Makes it happen.
    ///
    /// # Errors
    /// [`StoreError::OutcomeUnknown`] when nobody answered: only reading again tells.
    pub(crate) async fn commit(self) -> Result<(), StoreError> {
        if let Some(by) = self.spoilt {
            return Err(StoreError::Spoilt { kind: "change", by });
        }
        match self.inner {
            Inner::Sqlite(tx) => sqlite::commit(tx).await,
            Inner::Postgres(open) => open.commit().await,
        }
    }
}

/// Bounds work that consists of many statements.
pub(crate) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        Err(StoreError::Unavailable(format!("not everything was read within {} s", limit.as_secs())))
    })
}
