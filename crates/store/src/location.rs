use crate::postgres::PostgresUrl;
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Where the configuration database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A file of this process, with SQLite.
    Sqlite(PathBuf),
    /// A PostgreSQL server, or several of which one takes writes.
    Postgres(PostgresUrl),
}

impl fmt::Display for Location {
    /// Without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::Sqlite(path)
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Sqlite(path.to_owned())
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        Self::Sqlite(path.clone())
    }
}

impl From<PostgresUrl> for Location {
    fn from(url: PostgresUrl) -> Self {
        Self::Postgres(url)
    }
}
