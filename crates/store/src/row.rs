//! From a row to a type, without a way to lose a value silently.

use crate::StoreError;
use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};
use std::str::FromStr;

/// One row of an answer, of whichever engine.
pub(crate) enum Row {
    /// From SQLite.
    Sqlite(SqliteRow),
    /// From PostgreSQL.
    Postgres(PgRow),
}

pub(crate) fn text(row: &Row, column: &'static str) -> Result<String, StoreError> {
    let value = match row {
        Row::Sqlite(row) => row.try_get(column),
        Row::Postgres(row) => row.try_get(column),
    };
    value.map_err(|error| corrupt(column, error))
}

pub(crate) fn optional_text(row: &Row, column: &'static str) -> Result<Option<String>, StoreError> {
    let value = match row {
        Row::Sqlite(row) => row.try_get(column),
        Row::Postgres(row) => row.try_get(column),
    };
    value.map_err(|error| corrupt(column, error))
}

/// A text that may be absent, by its place in the row.
pub(crate) fn text_at(row: &Row, at: usize) -> Result<Option<String>, StoreError> {
    let value = match row {
        Row::Sqlite(row) => row.try_get(at),
        Row::Postgres(row) => row.try_get(at),
    };
    value.map_err(|error| corrupt("a text", error))
}

/// A number that may be absent, by its place in the row.
pub(crate) fn integer_at(row: &Row, at: usize) -> Result<Option<i64>, StoreError> {
    let value = match row {
        Row::Sqlite(row) => row.try_get(at),
        Row::Postgres(row) => row.try_get(at),
    };
    value.map_err(|error| corrupt("a number", error))
}

/// A `BIGINT` as it is. PostgreSQL's `COUNT` is one; its `SUM` is none without a `CAST(… AS BIGINT)`.
pub(crate) fn signed(row: &Row, column: &'static str) -> Result<i64, StoreError> {
    let value = match row {
        Row::Sqlite(row) => row.try_get(column),
        Row::Postgres(row) => row.try_get(column),
    };
    value.map_err(|error| corrupt(column, error))
}

/// A count or a time: never negative.
pub(crate) fn number(row: &Row, column: &'static str) -> Result<u64, StoreError> {
    u64::try_from(signed(row, column)?).map_err(|error| corrupt(column, error))
}

/// A count or a time that may be absent.
#[allow(dead_code, reason = "for tables with optional times")]
pub(crate) fn optional_number(row: &Row, column: &'static str) -> Result<Option<u64>, StoreError> {
    let value: Result<Option<i64>, _> = match row {
        Row::Sqlite(row) => row.try_get(column),
        Row::Postgres(row) => row.try_get(column),
    };
    let value = value.map_err(|error| corrupt(column, error))?;
    value.map(|value| u64::try_from(value).map_err(|error| corrupt(column, error))).transpose()
}

pub(crate) fn parsed<T>(row: &Row, column: &'static str) -> Result<T, StoreError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    text(row, column)?.parse().map_err(|error: T::Err| corrupt(column, error))
}

pub(crate) fn optional_parsed<T>(row: &Row, column: &'static str) -> Result<Option<T>, StoreError>
where
    T: FromStr<Err: std::fmt::Display>,
{
    optional_text(row, column)?
        .map(|text| text.parse().map_err(|error: T::Err| corrupt(column, error)))
        .transpose()
}

pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &Row, column: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(&text(row, column)?).map_err(|error| corrupt(column, error))
}

pub(crate) fn key(row: &Row, column: &'static str) -> Result<[u8; 32], StoreError> {
    hex32::decode(&text(row, column)?).ok_or_else(|| corrupt(column, "expected 64 hexadecimal digits"))
}

pub(crate) fn corrupt(column: &'static str, detail: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { column, detail: detail.to_string() }
}

/// A count or a time as the database's integer. Values above `i64::MAX` do not occur: counters
/// start at 0 and times are milliseconds.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) fn json_text<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of strings and numbers always serialize")
}

/// 32 bytes as 64 lower-case hexadecimal digits.
pub(crate) mod hex32 {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Write;

    pub(crate) fn encode(bytes: &[u8; 32]) -> String {
        bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String does not fail");
            text
        })
    }

    pub(crate) fn decode(text: &str) -> Option<[u8; 32]> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(bytes)
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(d)?;
        decode(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}
