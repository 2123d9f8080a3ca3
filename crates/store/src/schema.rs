//! The numbered migrations of both engines.
//!
//! What both take is written once (`migrations/shared`); what only PostgreSQL knows, such as row-level security, stands
//! in a folder of its own. A number is used once over both folders. PostgreSQL gets every text column in byte order
//! (`COLLATE "C"`): the rows come in the order that SQLite and this program sort by.

use crate::StoreError;
use sqlx::{
    AssertSqlSafe, SqlSafeStr as _,
    migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator},
};
use std::sync::LazyLock;

/// The files of a folder, by name. `sqlx::migrate!` does the same, and compiles both drivers, SQLite and the TLS library a
/// second time to do it.
macro_rules! steps {
    ($folder:literal: $($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../migrations/", $folder, "/", $name, ".sql")))),+]
    };
}

type Steps = &'static [(&'static str, &'static str)];

const SHARED_STEPS: Steps = steps!("shared":
    "0001_objects",
    "0002_strikes",
    "0003_old_grants",
    "0020_api",
    "0030_accounts",
    "0050_step_up",
    "0060_several_controllers",
    "0070_touched_rows",
    "0080_closed_organizations",
);
const POSTGRES_STEPS: Steps = steps!("postgres":
    "0010_isolation",
    "0061_hints",
);

static SHARED: LazyLock<Migrator> = LazyLock::new(|| migrator(SHARED_STEPS));
static ONLY_POSTGRES: LazyLock<Migrator> = LazyLock::new(|| migrator(POSTGRES_STEPS));

fn migrator(steps: Steps) -> Migrator {
    let steps = steps.iter().map(|(name, sql)| {
        let (version, description) = number_and_words(name);
        let kind = MigrationType::Simple;
        Migration::new(version, description.into(), kind, AssertSqlSafe(*sql).into_sql_str(), false)
    });
    Migrator::with_migrations(steps.collect())
}

fn number_and_words(name: &str) -> (i64, String) {
    let (number, words) = name.split_once('_').expect("a test reads every name");
    (number.parse().expect("a test reads every name"), words.replace('_', " "))
}

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
    fn every_file_of_both_folders_is_a_step() {
        for (folder, steps) in [("shared", SHARED_STEPS), ("postgres", POSTGRES_STEPS)] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(folder);
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|file| file.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let named: Vec<String> = steps.iter().map(|(name, _)| format!("{name}.sql")).collect();
            assert_eq!(named, files, "migrations/{folder}");
            assert!(steps.iter().all(|(name, _)| number_and_words(name).0 > 0));
        }
    }

    #[test]
    fn a_step_is_recognised_by_its_bytes_as_the_driver_has_always_done() {
        let first = sqlite().iter().next().expect("a first step");
        let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA384, SHARED_STEPS[0].1.as_bytes());
        assert_eq!((first.version, &*first.description), (1, "objects"));
        assert_eq!(&*first.checksum, sum.as_ref());
    }

    #[test]
    fn no_number_is_used_twice() {
        let mut versions: Vec<_> = postgres().iter().map(|migration| migration.version).collect();
        let all = versions.len();
        versions.dedup();
        assert_eq!(versions.len(), all, "{versions:?}");
    }
}
