use std::path::PathBuf;

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object does not exist (or belongs to another organization, which is the same answer).
    #[error("no {kind} {id}")]
    NotFound {
        /// The kind of object.
        kind: &'static str,
        /// What was asked for.
        id: String,
    },
    /// Another object already has this value.
    #[error("another {kind} already has this {field}")]
    Conflict {
        /// The kind of object.
        kind: &'static str,
        /// The field whose value is taken.
        field: String,
    },
    /// Something that this change removes or refers to is used by, or missing in, another table.
    #[error("{kind}: {detail}")]
    Reference {
        /// The kind of object.
        kind: &'static str,
        /// What is in the way.
        detail: &'static str,
    },
    /// An enrolment key is used up or has expired.
    #[error("the enrolment key {0}")]
    KeySpent(&'static str),
    /// The database cannot be used right now: locked, gone, full, or not answering in time.
    #[error("the database cannot be used right now: {0}")]
    Unavailable(String),
    /// There is no database file where one is expected.
    #[error("no database at {0}; it was there before, so none is created in its place")]
    Missing(PathBuf),
    /// A value in the database does not parse: never treated as absent.
    #[error("the value of {column} does not parse: {detail}")]
    Corrupt {
        /// Which column.
        column: &'static str,
        /// What is wrong.
        detail: String,
    },
}

// SQLite's primary result codes (https://www.sqlite.org/rescode.html); extended codes carry them
// in the low byte.
const SQLITE_CONSTRAINT_FOREIGNKEY: &str = "787";

impl StoreError {
    pub(crate) fn from_sqlx(kind: &'static str, error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(database) = &error {
            if database.is_unique_violation() {
                return Self::Conflict { kind, field: conflicting_field(database.message()) };
            }
            if database.is_foreign_key_violation()
                || database.code().is_some_and(|code| code == SQLITE_CONSTRAINT_FOREIGNKEY)
            {
                return Self::Reference {
                    kind,
                    detail: "something it refers to does not exist, or something else still refers to it",
                };
            }
        }
        match error {
            sqlx::Error::PoolTimedOut => {
                Self::Unavailable("no connection within the deadline: another write holds it".into())
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// SQLite says `UNIQUE constraint failed: sites.organization, sites.name`: the last column is the
/// one a person typed.
fn conflicting_field(message: &str) -> String {
    message
        .rsplit([',', ':'])
        .next()
        .and_then(|column| column.trim().rsplit('.').next())
        .unwrap_or("value")
        .to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_field_of_a_conflict_is_the_last_column_named() {
        let message = "UNIQUE constraint failed: sites.organization, sites.name";
        assert_eq!(super::conflicting_field(message), "name");
    }
}
