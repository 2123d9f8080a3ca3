use sqlx::postgres::PgDatabaseError;

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
    /// Nobody answered to the commit: it may be stored. Only reading again tells.
    #[error("whether the change was stored is not known: {0}")]
    OutcomeUnknown(String),
    /// The database's schema is not one that this build can use.
    #[error("the database's schema cannot be used: {0}")]
    Schema(String),
    /// A replica that nothing is read from. Another server may be asked.
    #[error("the replica is not read from: {0}")]
    Replica(String),
    /// There is no database where one is expected.
    #[error("no database at {0}; it was there before, so none is created in its place")]
    Missing(String),
    /// The database takes no such value.
    #[error("{kind}: the database does not take a value: {detail}")]
    Value {
        /// The kind of object.
        kind: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// An earlier statement of the same change failed, so that nothing of it will be stored.
    #[error("{kind}: nothing of this change is stored, since an earlier part of it ({by}) failed")]
    Spoilt {
        /// What was to be done now.
        kind: &'static str,
        /// What failed before.
        by: &'static str,
    },
    /// A value in the database does not parse: never treated as absent.
    #[error("the value of {column} does not parse: {detail}")]
    Corrupt {
        /// Which column.
        column: &'static str,
        /// What is wrong.
        detail: String,
    },
}

// SQLite's extended result code (https://www.sqlite.org/rescode.html).
const SQLITE_CONSTRAINT_FOREIGNKEY: &str = "787";

impl StoreError {
    /// Whether it says that the database cannot be used, so that others need not try.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_)
                | Self::OutcomeUnknown(_)
                | Self::Missing(_)
                | Self::Schema(_)
                | Self::Replica(_)
        )
    }

    pub(crate) fn from_sqlx(kind: &'static str, error: sqlx::Error) -> Self {
        if let sqlx::Error::Database(database) = &error {
            if database.is_unique_violation() {
                let field = match database.try_downcast_ref::<PgDatabaseError>() {
                    Some(postgres) => conflicting_column(postgres),
                    None => conflicting_field(database.message()),
                };
                return Self::Conflict { kind, field };
            }
            if database.is_foreign_key_violation()
                || database.code().is_some_and(|code| code == SQLITE_CONSTRAINT_FOREIGNKEY)
            {
                return Self::Reference {
                    kind,
                    detail: "something it refers to does not exist, or something else still refers to it",
                };
            }
            if let Some(postgres) = database.try_downcast_ref::<PgDatabaseError>() {
                return from_postgres(kind, postgres);
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

/// By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html).
fn from_postgres(kind: &'static str, error: &PgDatabaseError) -> StoreError {
    let code = error.code();
    let said = error.message();
    match code {
        "55P03" => StoreError::Unavailable("another write held the lock until the deadline".into()),
        "57014" => {
            StoreError::Unavailable(format!("the server stopped the statement at its deadline: {said}"))
        }
        "25006" => {
            StoreError::Unavailable("the server takes no writes: it is a standby, or read-only".into())
        }
        "25P02" => StoreError::Spoilt { kind, by: "a statement" },
        // The server would refuse the same value again: the caller's matter, and no trouble of the database.
        _ if code.starts_with("22") || code.starts_with("23") || code.starts_with("54") => {
            StoreError::Value { kind, detail: said.to_owned() }
        }
        // Row-level security: of another organization. Its message is in the server's language, its routine is not.
        "42501" if error.routine() == Some("ExecWithCheckOptions") => {
            StoreError::Value { kind, detail: "it belongs to another organization than the change".into() }
        }
        "42501" => StoreError::Schema(format!("this role may not: {said}")),
        _ => StoreError::Unavailable(format!("{said} (SQLSTATE {code})")),
    }
}

/// Under row-level security PostgreSQL names no values and no columns, but the constraint: `sites_organization_name_key`
/// for `UNIQUE (organization, name)` of `sites`, `sites_pkey` for its primary key.
fn conflicting_column(error: &PgDatabaseError) -> String {
    let constraint = error.constraint().unwrap_or_default();
    column_of(error.table().unwrap_or_default(), constraint)
}

fn column_of(table: &str, constraint: &str) -> String {
    let columns =
        constraint.strip_prefix(table).and_then(|rest| rest.strip_prefix('_')).unwrap_or(constraint);
    let columns = match columns {
        "pkey" => "id",
        other => other.strip_suffix("_key").unwrap_or(other),
    };
    match columns.strip_prefix("organization_").unwrap_or(columns) {
        "" => "value".to_owned(),
        column => column.to_owned(),
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

    #[test]
    fn postgresql_s_name_of_a_constraint_names_its_column() {
        for (table, constraint, column) in [
            ("sites", "sites_organization_name_key", "name"),
            ("user_groups", "user_groups_organization_name_key", "name"),
            ("devices", "devices_identity_key_key", "identity_key"),
            ("organizations", "organizations_name_key", "name"),
            ("users", "users_pkey", "id"),
            ("audit", "audit_by_event", "by_event"),
            ("", "", "value"),
        ] {
            assert_eq!(super::column_of(table, constraint), column, "{constraint}");
        }
    }
}
