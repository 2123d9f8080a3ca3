//! A statement with its values, the same for every engine.
//!
//! The SQL is the subset that SQLite and PostgreSQL share: `$1` parameters (each may be used several times),
//! `RETURNING`, `ON CONFLICT`, `TEXT`, `BIGINT`. A value is text or a 64-bit integer, or absent.

use crate::StoreError;
use sqlx::{AssertSqlSafe, Postgres, Sqlite, postgres::PgArguments, query::Query, sqlite::SqliteArguments};
use std::borrow::Cow;

/// What a parameter may be.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `TEXT`.
    Text(Option<String>),
    /// `BIGINT`.
    Integer(Option<i64>),
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<String>> for Value {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Integer(Some(value))
    }
}

impl From<Option<i64>> for Value {
    fn from(value: Option<i64>) -> Self {
        Self::Integer(value)
    }
}

/// One statement and what its parameters are.
#[derive(Clone)]
pub(crate) struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
    named: Option<Vec<String>>,
}

impl std::fmt::Debug for Statement {
    /// Values may be hashes of secrets and names of people.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statement").field("sql", &self.sql).finish_non_exhaustive()
    }
}

/// A statement of fixed text.
pub(crate) const fn query(sql: &'static str) -> Statement {
    Statement { sql: Cow::Borrowed(sql), values: Vec::new(), named: None }
}

impl Statement {
    /// A statement whose text is put together from fixed parts, such as a filter that is there or not. What comes
    /// from outside goes into [`Statement::bind`] and never into `sql`.
    #[allow(dead_code, reason = "for tables with filters")]
    pub(crate) const fn built(sql: String) -> Self {
        Self { sql: Cow::Owned(sql), values: Vec::new(), named: None }
    }

    /// The same values under another text.
    #[must_use]
    pub(crate) fn saying(mut self, sql: String) -> Self {
        self.sql = Cow::Owned(sql);
        self
    }

    /// The next parameter's value.
    #[must_use]
    pub(crate) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Says that it writes this row of its table and no other: what only refers to the row is its table's cascade.
    #[must_use]
    pub(crate) fn of_row(self, id: impl Into<String>) -> Self {
        self.of_rows(vec![id.into()])
    }

    /// Says that it writes these rows of its table and no others.
    #[must_use]
    pub(crate) fn of_rows(mut self, ids: Vec<String>) -> Self {
        self.named = Some(ids);
        self
    }

    /// The rows that it writes, where somebody said which.
    pub(crate) fn named(&self) -> Option<&[String]> {
        self.named.as_deref()
    }

    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }

    /// Whether it changes rows, as far as its first word says.
    pub(crate) fn is_write(&self) -> bool {
        let word = self.sql.trim_start().get(..6).unwrap_or_default();
        !word.eq_ignore_ascii_case("select")
    }

    /// PostgreSQL takes no NUL in a text and SQLite does: refused alike, before anything is sent.
    pub(crate) fn check(&self, kind: &'static str) -> Result<(), StoreError> {
        let has_nul = |value: &Value| matches!(value, Value::Text(Some(text)) if text.contains('\0'));
        if self.values.iter().any(has_nul) {
            return Err(StoreError::Value { kind, detail: "a text contains the character U+0000".into() });
        }
        Ok(())
    }

    pub(crate) fn into_sqlite(self) -> Query<'static, Sqlite, SqliteArguments> {
        let query = sqlx::query(AssertSqlSafe(self.sql));
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Integer(number) => query.bind(number),
        })
    }

    pub(crate) fn into_postgres(self) -> Query<'static, Postgres, PgArguments> {
        let query = sqlx::query(AssertSqlSafe(self.sql));
        self.values.into_iter().fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Integer(number) => query.bind(number),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_says_whether_it_changes_rows() {
        assert!(!query("SELECT 1").is_write());
        assert!(!query("\n  select 1").is_write());
        assert!(query("UPDATE t SET a = 1").is_write());
        assert!(query("WITH a AS (SELECT 1) DELETE FROM t").is_write());
    }

    #[test]
    fn values_are_not_printed() {
        let shown = format!("{:?}", query("SELECT $1").bind("secret"));
        assert!(shown.contains("SELECT $1") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_text_with_nul_is_refused_before_it_is_sent() {
        assert!(matches!(
            query("SELECT $1").bind("a\0b").check("site"),
            Err(StoreError::Value { kind: "site", .. })
        ));
        assert!(query("SELECT $1").bind("ab").check("site").is_ok());
    }
}
