/// What the database did since this process opened it.
///
/// SQLite counts for itself ([`crate::Store`]'s trace): statements that it started, `BEGIN` and `PRAGMA` included, and
/// rows that it changed, those of cascades included. For PostgreSQL it is what the driver sent and what the server
/// answered to it; what the server did in all is in its own `pg_stat_statements`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct DatabaseCounters {
    /// Statements.
    pub statements: u64,
    /// Rows inserted, changed or deleted.
    pub rows_written: u64,
}
