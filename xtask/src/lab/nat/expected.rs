//! docs/nat-expected.md, read strictly: what the table says is the only expectation there is.

use super::kind::{Cell, Kind, Path};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;

const DOCUMENT: &str = include_str!("../../../../docs/nat-expected.md");

/// The expected path of each cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected(BTreeMap<Cell, Path>);

impl Expected {
    /// The committed table.
    ///
    /// # Errors
    /// It has an unknown word, or a cell is missing or there twice.
    pub fn committed() -> Result<Self> {
        Self::parse(DOCUMENT)
    }

    fn parse(document: &str) -> Result<Self> {
        let (_, document) = document.split_once("## The table\n").context("no section `The table`")?;
        let tables = tables(document);
        ensure!(tables.len() == 3, "expected three tables, found {}", tables.len());
        let mut cells = BTreeMap::new();
        apart(&tables[0], &mut cells)?;
        lans(&tables[1], &mut cells)?;
        rooms(&tables[2], &mut cells)?;
        for cell in Cell::all() {
            ensure!(cells.contains_key(&cell), "{cell}: missing");
        }
        Ok(Self(cells))
    }

    /// What is expected in a cell.
    pub fn of(&self, cell: Cell) -> Path {
        // `parse` refuses a table without one of them.
        self.0[&cell]
    }
}

type Row<'a> = Vec<&'a str>;

/// Each table's rows, without the ruler below its head.
fn tables(document: &str) -> Vec<Vec<Row<'_>>> {
    let mut tables: Vec<Vec<Row<'_>>> = Vec::new();
    let mut inside = false;
    for line in document.lines() {
        let row = line.trim().strip_prefix('|').and_then(|row| row.strip_suffix('|'));
        if let Some(row) = row {
            if !inside {
                tables.push(Vec::new());
            }
            let cells: Row<'_> = row.split('|').map(str::trim).collect();
            let ruler = cells.iter().all(|cell| cell.chars().all(|sign| sign == '-') && !cell.is_empty());
            if let (false, Some(table)) = (ruler, tables.last_mut()) {
                table.push(cells);
            }
        }
        inside = row.is_some();
    }
    tables
}

fn apart(rows: &[Row<'_>], cells: &mut BTreeMap<Cell, Path>) -> Result<()> {
    let (head, rows) = rows.split_first().context("an empty table")?;
    ensure!(head.first() == Some(&"client \\ connector"), "another head: {head:?}");
    let columns: Vec<Kind> =
        head[1..].iter().map(|word| word.parse()).collect::<Result<_>>().context("the table's head")?;
    for row in rows {
        let client: Kind = row[0].parse()?;
        ensure!(row.len() == head.len(), "row {client}: {} cells, the head has {}", row.len(), head.len());
        for (connector, word) in columns.iter().zip(&row[1..]) {
            let cell = Cell::Apart { client, connector: *connector };
            insert(cells, cell, word)?;
        }
    }
    Ok(())
}

fn lans(rows: &[Row<'_>], cells: &mut BTreeMap<Cell, Path>) -> Result<()> {
    let (head, rows) = rows.split_first().context("an empty table")?;
    ensure!(head == &["the LAN's router", "path"], "another head: {head:?}");
    for row in rows {
        ensure!(row.len() == 2, "a row of {} cells", row.len());
        let kind: Kind = row[0].parse()?;
        ensure!(Kind::LANS.contains(&kind), "no lab for a LAN behind {kind}");
        insert(cells, Cell::Lan(kind), row[1])?;
    }
    Ok(())
}

fn rooms(rows: &[Row<'_>], cells: &mut BTreeMap<Cell, Path>) -> Result<()> {
    let [head, row] = rows else { bail!("{} rows, the only router of rooms hairpins", rows.len()) };
    ensure!(head == &["the router", "path"], "another head: {head:?}");
    ensure!(row.len() == 2 && row[0] == "hairpin", "no lab for rooms behind {row:?}");
    insert(cells, Cell::Rooms, row[1])
}

fn insert(cells: &mut BTreeMap<Cell, Path>, cell: Cell, word: &str) -> Result<()> {
    let path = word.parse().with_context(|| cell.to_string())?;
    ensure!(cells.insert(cell, path).is_none(), "{cell}: twice");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document's derivation, rule by rule: the table is what follows from it and nothing else.
    fn derived(client: Kind, connector: Kind) -> Path {
        let is = |kind| client == kind || connector == kind;
        let one_lets_everybody_in = is(Kind::Open) || is(Kind::FullCone);
        if is(Kind::UdpBlocked) {
            return Path::Tcp;
        }
        let has_v6 = |kind| kind == Kind::Ipv6Only || kind == Kind::DualStack;
        if has_v6(client) && has_v6(connector) {
            return Path::Direct;
        }
        if is(Kind::Ipv6Only) {
            return Path::Relay;
        }
        let is_symmetric = is(Kind::Symmetric) || is(Kind::DualStack);
        if is_symmetric && !one_lets_everybody_in { Path::Relay } else { Path::Direct }
    }

    #[test]
    fn the_committed_table_is_what_its_derivation_gives() {
        let expected = Expected::committed().expect("the table is whole");
        for cell in Cell::all() {
            match cell {
                Cell::Apart { client, connector } => {
                    assert_eq!(expected.of(cell), derived(client, connector), "{cell}")
                }
                Cell::Lan(_) | Cell::Rooms => assert_eq!(expected.of(cell), Path::Direct, "{cell}"),
            }
        }
        assert_eq!(Cell::all().count(), 68);
    }

    #[test]
    fn an_unknown_word_is_an_error() {
        for (from, to) in [
            ("| open | direct |", "| open | sometimes |"),
            ("| open | direct |", "| ajar | direct |"),
            ("| cgn | udp-blocked |", "| cgn | udp-free |"),
        ] {
            let changed = DOCUMENT.replacen(from, to, 1);
            assert_ne!(changed, DOCUMENT, "{from}");
            Expected::parse(&changed).expect_err(to);
        }
    }

    #[test]
    fn a_missing_or_doubled_row_is_an_error() {
        let row = DOCUMENT.lines().find(|line| line.starts_with("| symmetric | direct | direct |"));
        let row = format!("{}\n", row.expect("the row of symmetric"));
        let missing = Expected::parse(&DOCUMENT.replace(&row, "")).expect_err("a row is missing");
        assert!(missing.to_string().contains("missing"), "{missing}");
        Expected::parse(&DOCUMENT.replace(&row, &format!("{row}{row}"))).expect_err("a row is there twice");
        let short = DOCUMENT.replace(&row, &row.replacen(" relay |", "", 1));
        Expected::parse(&short).expect_err("a cell is missing");
    }
}
