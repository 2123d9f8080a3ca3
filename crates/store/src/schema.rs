//! The numbered migrations of both engines.
//!
//! What both take is written once (`migrations/shared`); what only PostgreSQL knows, such as row-level security, stands
//! in a folder of its own. A number is used once over both folders. PostgreSQL gets every text column in byte order
//! (`COLLATE "C"`): the rows come in the order that SQLite and this program sort by.

use crate::StoreError;
use sqlx::{
    AssertSqlSafe, SqlSafeStr as _,
    migrate::{Migrate, MigrateError, Migration, Migrator},
};
use std::sync::LazyLock;

static SHARED: Migrator = sqlx::migrate!("./migrations/shared");
static ONLY_POSTGRES: Migrator = sqlx::migrate!("./migrations/postgres");

static POSTGRES: LazyLock<Migrator> = LazyLock::new(|| {
    let shared = SHARED.iter().map(|migration| {
        let sql = in_byte_order(migration.sql.as_str());
        Migration::new(
            migration.version,
            migration.description.clone(),
            migration.migration_type,
            AssertSqlSafe(sql).into_sql_str(),
            migration.no_tx,
        )
    });
    Migrator::with_migrations(shared.chain(ONLY_POSTGRES.iter().cloned()).collect())
});

pub(crate) fn sqlite() -> &'static Migrator {
    &SHARED
}

pub(crate) fn postgres() -> &'static Migrator {
    &POSTGRES
}

/// Takes the steps that are missing. The driver's own `run` takes anything that gives a connection, which makes of each
/// caller's future one that cannot be sent to another thread.
pub(crate) async fn apply<C: Migrate>(migrator: &Migrator, connection: &mut C) -> Result<(), MigrateError> {
    migrator.run_direct(None, connection, false).await
}

/// The newest step that this build knows.
pub(crate) fn newest() -> i64 {
    SHARED.iter().chain(ONLY_POSTGRES.iter()).map(|migration| migration.version).max().unwrap_or_default()
}

/// The type `TEXT` is written in capitals, and nothing else is.
fn in_byte_order(sql: &str) -> String {
    let lines = sql.lines().map(|line| match line.split_once("--") {
        Some((sql, comment)) => format!("{}--{comment}", typed(sql)),
        None => typed(line),
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn typed(sql: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '"' || c == '\'';
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(at) = rest.find("TEXT") {
        let (before, from) = rest.split_at(at);
        let after = &from["TEXT".len()..];
        out.push_str(before);
        out.push_str("TEXT");
        if !before.ends_with(is_word) && !after.starts_with(is_word) {
            out.push_str(" COLLATE \"C\"");
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Why a schema was not brought to this build's state.
pub(crate) fn refused(error: MigrateError) -> StoreError {
    let newest = newest();
    match error {
        MigrateError::VersionMissing(found) => StoreError::Schema(format!(
            "it has step {found}, which this build (up to step {newest}) does not know: a newer version of Tidegate \
             was here; use that one, or restore a backup"
        )),
        MigrateError::VersionMismatch(found) => StoreError::Schema(format!(
            "its step {found} is not the one of this build: another program wrote it, or it was changed by hand"
        )),
        MigrateError::Execute(sqlx::Error::Database(error))
        | MigrateError::ExecuteMigration(sqlx::Error::Database(error), _)
            if error.code().as_deref() == Some("42501") =>
        {
            StoreError::Schema(format!(
                "this role may not make tables: {error}; make it the owner of the database (ALTER DATABASE … OWNER TO …)"
            ))
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_type_text_gets_an_order() {
        assert_eq!(
            in_byte_order("id TEXT PRIMARY KEY, -- JSON as TEXT\nCONTEXT text 'TEXT' TEXT)"),
            "id TEXT COLLATE \"C\" PRIMARY KEY, -- JSON as TEXT\nCONTEXT text 'TEXT' TEXT COLLATE \"C\")"
        );
    }

    #[test]
    fn no_number_is_used_twice() {
        let mut versions: Vec<_> = postgres().iter().map(|migration| migration.version).collect();
        let all = versions.len();
        versions.dedup();
        assert_eq!(versions.len(), all, "{versions:?}");
    }
}
