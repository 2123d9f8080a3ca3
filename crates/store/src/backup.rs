//! A copy of everything in one file that either engine can be filled from.
//!
//! Lines of JSON: a head, then each table with its columns and its rows, a table after those that it refers to, and at
//! the end how many rows there were and the SHA-256 of all lines before. The tables are those that the database has, so
//! that none is forgotten. Private keys are in no table: they are in the controller's state directory.

use crate::{
    Scope, Store, StoreError, Version,
    engine::Transaction,
    row::{self, Row, integer},
    schema,
    statement::{Statement, Value, query},
};
use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, Write},
};

/// The form of the file.
const FORM: u32 = 1;
/// Rows of one `INSERT`. Both engines take far more parameters than this times the widest table.
const ROWS_AT_ONCE: usize = 100;
/// No line is longer: a row's largest value is a megabyte.
const LONGEST_LINE: u64 = 64 << 20;
/// What was struck stays struck, whatever the copy says.
const STRUCK: &str = "struck_generations";

/// Why there is no copy, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("the backup file: {0}")]
    Io(#[from] std::io::Error),
    /// Not one of ours, cut off, or changed.
    #[error("the backup file cannot be used: {0}")]
    File(String),
    /// Somebody lives there.
    #[error(
        "the database at the target is not empty: it has installation {found} with {rows} rows; nothing was changed. \
         To replace everything in it, say so (--dangerous-replace-everything)"
    )]
    NotEmpty {
        /// Whose.
        found: String,
        /// How many.
        rows: u64,
    },
    /// The database has nothing to copy.
    #[error("the database has no installation in it: there is nothing to copy")]
    Empty,
}

fn bad(detail: impl Into<String>) -> BackupError {
    BackupError::File(detail.into())
}

/// What happens to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Anything there is a reason to stop.
    Refuse,
    /// It is removed.
    DangerouslyReplace,
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupSummary {
    /// Whose it is.
    pub installation: String,
    /// The state when it was made; after a restore the one that it became.
    pub version: Version,
    /// Tables.
    pub tables: usize,
    /// Rows of all tables.
    pub rows: u64,
}

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    tidegate_backup: u32,
    installation: String,
    version: Version,
    at_ms: u64,
    /// The newest step of the schema.
    schema: i64,
}

/// The lines after it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum Line {
    Table { name: String, columns: Vec<String> },
    Row(Vec<Field>),
    End { rows: u64, sha256: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Field {
    Absent(()),
    Integer(i64),
    Text(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
}

#[derive(Debug, Default)]
struct Table {
    columns: Vec<(String, Kind)>,
    refers_to: BTreeSet<String>,
}

impl Store {
    /// Writes everything, as it was at one moment, without stopping anybody.
    ///
    /// # Errors
    /// [`BackupError`]: the file is then of no use.
    pub async fn backup(&self, at_ms: u64, file: &mut impl Write) -> Result<BackupSummary, BackupError> {
        let mut tx = self.engine().read_for_long(Scope::Installation).await?;
        let tables = tables(&mut tx).await?;
        let (installation, version) = installation(&mut tx).await?.ok_or(BackupError::Empty)?;
        let mut out = Hashed { file, digest: Context::new(&SHA256) };
        let schema = schema::newest();
        let head = Head { tidegate_backup: FORM, installation: installation.clone(), version, at_ms, schema };
        out.line(&head)?;
        let mut rows = 0;
        for name in in_order(&tables) {
            let table = &tables[&name];
            let columns: Vec<String> = table.columns.iter().map(|(column, _)| column.clone()).collect();
            let statement = Statement::built(format!("SELECT {} FROM {name}", columns.join(", ")));
            out.line(&Line::Table { name, columns })?;
            let mut wrote = Ok(());
            let kinds: Vec<Kind> = table.columns.iter().map(|(_, kind)| *kind).collect();
            tx.each("backup", statement, |row| {
                let fields = kinds.iter().enumerate().map(|(at, kind)| field(row, at, *kind));
                let fields = fields.collect::<Result<Vec<_>, _>>()?;
                rows += 1;
                if wrote.is_ok() {
                    wrote = out.line(&Line::Row(fields));
                }
                Ok(())
            })
            .await?;
            wrote?;
        }
        tx.commit().await?;
        let sha256 = out.digest.clone().finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        out.line(&Line::End { rows, sha256 })?;
        out.file.flush()?;
        Ok(BackupSummary { installation, version, tables: tables.len(), rows })
    }

    /// Fills the database from a copy, in one transaction, and raises the incarnation above everything that copy and
    /// target have seen: whoever knows a later state of the installation takes this one for newer.
    ///
    /// # Errors
    /// [`BackupError`]: nothing was changed.
    pub async fn restore(
        &self,
        at_ms: u64,
        actor: &str,
        existing: Existing,
        file: &mut impl BufRead,
    ) -> Result<BackupSummary, BackupError> {
        let mut lines = Lines { file, digest: Context::new(&SHA256), number: 0 };
        let head: Head = lines.next()?.ok_or_else(|| bad("it is empty"))?;
        check_head(&head)?;
        let mut tx = self.engine().write_for_long(Scope::Installation).await?;
        let tables = tables(&mut tx).await?;
        let order = in_order(&tables);
        let there = installation(&mut tx).await?;
        if let Some((found, _)) = &there
            && existing == Existing::Refuse
        {
            return Err(BackupError::NotEmpty { found: found.clone(), rows: count(&mut tx, &order).await? });
        }
        for name in order.iter().rev().filter(|name| *name != STRUCK) {
            tx.execute("restore", Statement::built(format!("DELETE FROM {name}"))).await?;
        }
        let filled = fill(&mut tx, &mut lines, &tables).await?;
        let seen = there.map_or(0, |(_, version)| version.incarnation).max(head.version.incarnation);
        let incarnation = seen.checked_add(1).filter(|number| i64::try_from(*number).is_ok());
        let incarnation = incarnation.ok_or_else(|| bad("no incarnation is above the one it says"))?;
        let raise = "UPDATE installation SET incarnation = $1, version = version + 1";
        tx.execute("restore", query(raise).bind(integer(incarnation))).await?;
        // What is gone since is gone on purpose.
        let raise =
            "UPDATE organizations SET incarnation = $1, version = version + 1, shrink_version = version + 1";
        tx.execute("restore", query(raise).bind(integer(incarnation))).await?;
        let (installation, _) =
            installation(&mut tx).await?.ok_or_else(|| bad("it has no row of an installation"))?;
        if installation != head.installation {
            return Err(bad("its rows are of another installation than its head says"));
        }
        tx.commit().await?;
        let change = self.change(Scope::Installation, actor, at_ms).await?;
        let detail = serde_json::json!({"rows": filled.rows, "made_at_ms": head.at_ms}).to_string();
        let version = change.commit("restore", &installation, &detail).await?;
        Ok(BackupSummary { installation, version, tables: filled.tables, rows: filled.rows })
    }
}

fn check_head(head: &Head) -> Result<(), BackupError> {
    if head.tidegate_backup != FORM {
        return Err(bad(format!("its form is {}; this build reads form {FORM}", head.tidegate_backup)));
    }
    let newest = schema::newest();
    if head.schema > newest {
        return Err(bad(format!(
            "it was made by a newer version: its schema has step {}, this build knows steps up to {newest}",
            head.schema
        )));
    }
    Ok(())
}

struct Filled {
    tables: usize,
    rows: u64,
}

async fn fill(
    tx: &mut Transaction,
    lines: &mut Lines<'_, impl BufRead>,
    tables: &BTreeMap<String, Table>,
) -> Result<Filled, BackupError> {
    let mut filled = Filled { tables: 0, rows: 0 };
    let mut into: Option<Insert<'_>> = None;
    loop {
        let before = lines.digest.clone();
        let line: Line = lines.next()?.ok_or_else(|| bad("it ends before its end: it was cut off"))?;
        match line {
            Line::Table { name, columns } => {
                if let Some(into) = &mut into {
                    into.flush(tx).await?;
                }
                filled.tables += 1;
                into = Some(Insert::new(tables, name, columns)?);
            }
            Line::Row(fields) => {
                let into = into.as_mut().ok_or_else(|| bad("it has a row before its first table"))?;
                filled.rows += 1;
                into.push(fields, lines.number)?;
                if into.rows.len() == ROWS_AT_ONCE {
                    into.flush(tx).await?;
                }
            }
            Line::End { rows, sha256 } => {
                if let Some(into) = &mut into {
                    into.flush(tx).await?;
                }
                let found: String =
                    before.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                if rows != filled.rows || sha256 != found {
                    return Err(bad(format!(
                        "it was changed or damaged: {rows} rows with SHA-256 {sha256} were written, {} with {found} are \
                         there",
                        filled.rows
                    )));
                }
                if !lines.is_at_end()? {
                    return Err(bad("something follows its end"));
                }
                return Ok(filled);
            }
        }
    }
}

/// The rows that wait for their `INSERT`.
struct Insert<'t> {
    name: String,
    columns: Vec<&'t (String, Kind)>,
    rows: Vec<Vec<Field>>,
}

impl<'t> Insert<'t> {
    fn new(
        tables: &'t BTreeMap<String, Table>,
        name: String,
        columns: Vec<String>,
    ) -> Result<Self, BackupError> {
        // Names from the file go into SQL: only those that the schema has.
        let table =
            tables.get(&name).ok_or_else(|| bad(format!("it has a table {name:?}, which there is not")))?;
        let known = |column: &String| {
            let found = table.columns.iter().find(|(known, _)| known == column);
            found.ok_or_else(|| bad(format!("table {name} has no column {column:?}")))
        };
        let columns = columns.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { name, columns, rows: Vec::new() })
    }

    fn push(&mut self, fields: Vec<Field>, line: u64) -> Result<(), BackupError> {
        let fits = |(field, (_, kind)): (&Field, &&(String, Kind))| match field {
            Field::Absent(()) => true,
            Field::Integer(_) => *kind == Kind::Integer,
            Field::Text(_) => *kind == Kind::Text,
        };
        if fields.len() != self.columns.len() || !fields.iter().zip(&self.columns).all(fits) {
            return Err(bad(format!("line {line} is no row of {}", self.name)));
        }
        self.rows.push(fields);
        Ok(())
    }

    async fn flush(&mut self, tx: &mut Transaction) -> Result<(), BackupError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let columns: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
        let mut number = 0;
        let tuples: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let places: Vec<String> = row
                    .iter()
                    .map(|_| {
                        number += 1;
                        format!("${number}")
                    })
                    .collect();
                format!("({})", places.join(", "))
            })
            .collect();
        let mut sql =
            format!("INSERT INTO {} ({}) VALUES {}", self.name, columns.join(", "), tuples.join(", "));
        if self.name == STRUCK {
            sql.push_str(
                " ON CONFLICT (subject) DO UPDATE SET generation = excluded.generation \
                 WHERE excluded.generation > struck_generations.generation",
            );
        }
        let mut statement = Statement::built(sql);
        for (field, (_, kind)) in self.rows.drain(..).flat_map(|row| row.into_iter().zip(&self.columns)) {
            statement = statement.bind(match (field, kind) {
                (Field::Text(text), _) => Value::Text(Some(text)),
                (Field::Integer(number), _) => Value::Integer(Some(number)),
                (Field::Absent(()), Kind::Text) => Value::Text(None),
                (Field::Absent(()), Kind::Integer) => Value::Integer(None),
            });
        }
        tx.execute("restore", statement).await?;
        Ok(())
    }
}

async fn installation(tx: &mut Transaction) -> Result<Option<(String, Version)>, StoreError> {
    let statement = query("SELECT id, incarnation, version FROM installation");
    let Some(found) = tx.fetch_optional("installation", statement).await? else { return Ok(None) };
    let version = Version {
        incarnation: row::number(&found, "incarnation")?,
        version: row::number(&found, "version")?,
    };
    Ok(Some((row::text(&found, "id")?, version)))
}

async fn count(tx: &mut Transaction, tables: &[String]) -> Result<u64, StoreError> {
    let mut rows = 0;
    for name in tables {
        let statement = Statement::built(format!("SELECT COUNT(*) AS n FROM {name}"));
        if let Some(found) = tx.fetch_optional("count", statement).await? {
            rows += row::number(&found, "n")?;
        }
    }
    Ok(rows)
}

/// What the database itself says that it has.
async fn tables(tx: &mut Transaction) -> Result<BTreeMap<String, Table>, StoreError> {
    let (columns, references) = tx.catalogue();
    let mut tables: BTreeMap<String, Table> = BTreeMap::new();
    for found in tx.fetch_all("catalogue", query(columns)).await? {
        let kind = row::text(&found, "kind")?;
        let kind = match kind.to_ascii_lowercase().as_str() {
            "text" => Kind::Text,
            "bigint" => Kind::Integer,
            _ => return Err(row::corrupt("kind", format!("expected TEXT or BIGINT, got {kind}"))),
        };
        let table = tables.entry(row::text(&found, "table_name")?).or_default();
        table.columns.push((row::text(&found, "column_name")?, kind));
    }
    for found in tx.fetch_all("catalogue", query(references)).await? {
        if let Some(table) = tables.get_mut(&row::text(&found, "table_name")?) {
            table.refers_to.insert(row::text(&found, "target")?);
        }
    }
    Ok(tables)
}

/// Each table after those that it refers to.
fn in_order(tables: &BTreeMap<String, Table>) -> Vec<String> {
    let mut order: Vec<String> = Vec::with_capacity(tables.len());
    while order.len() < tables.len() {
        let ready = |(name, table): &(&String, &Table)| {
            !order.contains(name)
                && table
                    .refers_to
                    .iter()
                    .all(|to| to == *name || order.contains(to) || !tables.contains_key(to))
        };
        let next: Vec<String> = tables.iter().filter(ready).map(|(name, _)| name.clone()).collect();
        if next.is_empty() {
            // Tables that refer to each other in a circle: the database will say which.
            let left: Vec<String> = tables.keys().filter(|name| !order.contains(name)).cloned().collect();
            order.extend(left);
        } else {
            order.extend(next);
        }
    }
    order
}

fn field(found: &Row, at: usize, kind: Kind) -> Result<Field, StoreError> {
    Ok(match kind {
        Kind::Text => row::text_at(found, at)?.map_or(Field::Absent(()), Field::Text),
        Kind::Integer => row::integer_at(found, at)?.map_or(Field::Absent(()), Field::Integer),
    })
}

struct Hashed<'f, W> {
    file: &'f mut W,
    digest: Context,
}

impl<W: Write> Hashed<'_, W> {
    fn line(&mut self, value: &impl Serialize) -> Result<(), std::io::Error> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.digest.update(&line);
        self.file.write_all(&line)
    }
}

struct Lines<'f, R> {
    file: &'f mut R,
    digest: Context,
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>, BackupError> {
        use std::io::Read as _;
        let mut line = Vec::new();
        self.file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        if line.pop() != Some(b'\n') {
            return Err(bad(format!("line {} is cut off", self.number)));
        }
        let value = serde_json::from_slice(&line)
            .map_err(|error| bad(format!("line {} is not what it should be: {error}", self.number)))?;
        line.push(b'\n');
        self.digest.update(&line);
        Ok(Some(value))
    }

    fn is_at_end(&mut self) -> Result<bool, BackupError> {
        Ok(self.file.fill_buf()?.is_empty())
    }
}
