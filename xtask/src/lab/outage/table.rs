//! What happens to whom, in one word a cell, and what docs/outage-expected.md says of it.

use anyhow::{Context as _, Result, ensure};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// What a person or program wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    RunningFlow,
    NewFlow,
    ClientRestarts,
    ConnectorRestarts,
    ClientRoams,
    EverybodyReconnects,
    NoValidGrant,
    GrantRenewal,
    Enrol,
    Reads,
    Writes,
    Revoke,
    RemoveFromGroup,
    Tighten,
    Strict,
}

impl Row {
    /// In the order of the document.
    pub const ALL: [Self; 15] = [
        Self::RunningFlow,
        Self::NewFlow,
        Self::ClientRestarts,
        Self::ConnectorRestarts,
        Self::ClientRoams,
        Self::EverybodyReconnects,
        Self::NoValidGrant,
        Self::GrantRenewal,
        Self::Enrol,
        Self::Reads,
        Self::Writes,
        Self::Revoke,
        Self::RemoveFromGroup,
        Self::Tighten,
        Self::Strict,
    ];

    /// As the document calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RunningFlow => "running flow",
            Self::NewFlow => "new flow",
            Self::ClientRestarts => "client restarts",
            Self::ConnectorRestarts => "connector restarts",
            Self::ClientRoams => "client roams",
            Self::EverybodyReconnects => "everybody reconnects at once",
            Self::NoValidGrant => "device without a valid grant",
            Self::GrantRenewal => "grant renewal",
            Self::Enrol => "enrol a new device",
            Self::Reads => "API reads",
            Self::Writes => "API writes",
            Self::Revoke => "revoke a device",
            Self::RemoveFromGroup => "remove a person from a group",
            Self::Tighten => "tighten a policy",
            Self::Strict => "strict resource",
        }
    }
}

/// What is laid out, and which table is about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Installation {
    /// Two zones: a controller, two PoPs, two connectors of one site.
    A,
    /// One host with `tidegate serve`, one connector.
    B,
}

impl Installation {
    /// Its columns, in the order of its document.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::A => &Column::OF_A,
            Self::B => &Column::OF_B,
        }
    }

    /// Its letter, as an argument has it.
    pub const fn letter(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The file in docs with what was seen last.
    pub const fn document(self) -> &'static str {
        match self {
            Self::A => "outage-matrix-a.md",
            Self::B => "outage-matrix.md",
        }
    }

    /// The file in docs with what should be seen, and what it says.
    pub const fn expected(self) -> (&'static str, &'static str) {
        match self {
            Self::A => ("outage-expected-a.md", include_str!("../../../../docs/outage-expected-a.md")),
            Self::B => ("outage-expected.md", include_str!("../../../../docs/outage-expected.md")),
        }
    }
}

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Column {
    DatabaseLocked,
    DatabaseGone,
    ControllerFrozen,
    ControllerDead,
    PopKilled,
    ServeDead,
    HostRebooted,
    HostDiskFull,
    ClientDiskFull,
    ConnectorDiskFull,
    UdpBlocked,
    SmallMtu,
    ClientAhead,
    ClientBehind,
    ConnectorAhead,
    ConnectorBehind,
    HostAhead,
    HostBehind,
    PopDead,
    PopBlackHole,
    PopGarbage,
    PopDiskFull,
    PopAhead,
    PopBehind,
    Lossy,
    HttpsHalfOpen,
    HttpsTrickles,
    HttpsLate,
}

impl Column {
    /// Of installation A, in the order of the document.
    pub const OF_A: [Self; 20] = [
        Self::ControllerDead,
        Self::PopDead,
        Self::PopBlackHole,
        Self::PopGarbage,
        Self::UdpBlocked,
        Self::SmallMtu,
        Self::Lossy,
        Self::ClientAhead,
        Self::ClientBehind,
        Self::ConnectorAhead,
        Self::ConnectorBehind,
        Self::PopAhead,
        Self::PopBehind,
        Self::HostDiskFull,
        Self::PopDiskFull,
        Self::ClientDiskFull,
        Self::ConnectorDiskFull,
        Self::HttpsHalfOpen,
        Self::HttpsTrickles,
        Self::HttpsLate,
    ];

    /// Of installation B, in the order of the document.
    pub const OF_B: [Self; 18] = [
        Self::DatabaseLocked,
        Self::DatabaseGone,
        Self::ControllerFrozen,
        Self::ControllerDead,
        Self::PopKilled,
        Self::ServeDead,
        Self::HostRebooted,
        Self::HostDiskFull,
        Self::ClientDiskFull,
        Self::ConnectorDiskFull,
        Self::UdpBlocked,
        Self::SmallMtu,
        Self::ClientAhead,
        Self::ClientBehind,
        Self::ConnectorAhead,
        Self::ConnectorBehind,
        Self::HostAhead,
        Self::HostBehind,
    ];

    /// As the document calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DatabaseLocked => "database locked",
            Self::DatabaseGone => "database file gone",
            Self::ControllerFrozen => "controller frozen",
            Self::ControllerDead => "controller dead",
            Self::PopKilled => "PoP killed",
            Self::ServeDead => "serve dead",
            Self::HostRebooted => "host rebooted",
            Self::HostDiskFull => "host's disk full",
            Self::ClientDiskFull => "client's disk full",
            Self::ConnectorDiskFull => "connector's disk full",
            Self::UdpBlocked => "UDP blocked",
            Self::SmallMtu => "MTU 1280",
            Self::ClientAhead => "client's clock +1 day",
            Self::ClientBehind => "client's clock -1 day",
            Self::ConnectorAhead => "connector's clock +1 day",
            Self::ConnectorBehind => "connector's clock -1 day",
            Self::HostAhead => "host's clock +1 day",
            Self::HostBehind => "host's clock -1 day",
            Self::PopDead => "one PoP dead",
            Self::PopBlackHole => "one PoP black-holes UDP",
            Self::PopGarbage => "one PoP returns garbage",
            Self::PopDiskFull => "PoP's disk full",
            Self::PopAhead => "PoP's clock +1 day",
            Self::PopBehind => "PoP's clock -1 day",
            Self::Lossy => "30 % loss at the client",
            Self::HttpsHalfOpen => "HTTPS half-open",
            Self::HttpsTrickles => "HTTPS one byte a second",
            Self::HttpsLate => "HTTPS 2 s late",
        }
    }

    /// Whether no beacon is made while it lasts: then it takes time until a node is stale, and isolated.
    pub const fn silences(self) -> bool {
        matches!(
            self,
            Self::ControllerFrozen
                | Self::ControllerDead
                | Self::ServeDead
                | Self::HostAhead
                | Self::HostBehind
        )
    }

    /// About how many seconds it takes: lanes are made even by it.
    pub const fn weight(self) -> u32 {
        match self {
            // Each row waits in vain for as long as it may take.
            Self::ServeDead => 200,
            Self::ControllerFrozen => 130,
            Self::ControllerDead | Self::HostAhead | Self::HostBehind => 110,
            Self::HttpsHalfOpen | Self::HttpsTrickles | Self::Lossy => 60,
            _ => 30,
        }
    }

    /// Whether people's own way to the controller is broken, and nothing else.
    pub const fn is_https(self) -> bool {
        matches!(self, Self::HttpsHalfOpen | Self::HttpsTrickles | Self::HttpsLate)
    }

    /// The one row that `--cover` looks at: together every row and every column of installation B once, each where it
    /// takes little time.
    pub const fn covering(self) -> Row {
        match self {
            Self::DatabaseLocked => Row::RemoveFromGroup,
            Self::DatabaseGone | Self::HttpsLate => Row::Reads,
            Self::ControllerFrozen | Self::HostAhead => Row::Writes,
            Self::ControllerDead | Self::HostBehind => Row::Revoke,
            Self::PopKilled | Self::PopDead => Row::NewFlow,
            Self::ServeDead => Row::Tighten,
            Self::HostRebooted | Self::PopGarbage => Row::ConnectorRestarts,
            Self::HostDiskFull | Self::ClientBehind | Self::PopDiskFull => Row::Enrol,
            Self::ClientDiskFull | Self::PopAhead => Row::ClientRestarts,
            Self::ConnectorDiskFull | Self::PopBehind => Row::EverybodyReconnects,
            Self::UdpBlocked | Self::PopBlackHole => Row::RunningFlow,
            Self::SmallMtu => Row::ClientRoams,
            Self::ClientAhead => Row::NoValidGrant,
            Self::ConnectorAhead | Self::Lossy => Row::GrantRenewal,
            Self::ConnectorBehind => Row::Strict,
            Self::HttpsHalfOpen | Self::HttpsTrickles => Row::Writes,
        }
    }

    /// Whether it is over by itself in seconds.
    pub const fn passes(self) -> bool {
        matches!(self, Self::PopKilled | Self::HostRebooted | Self::DatabaseGone)
    }
}

/// How access fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word {
    /// As always.
    On,
    /// On last-known-good, and says so.
    Stale,
    /// A clear answer.
    Refused,
    /// Nobody answers, and the CLI says so.
    Gone,
}

impl Word {
    /// As the document calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Word {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        [Self::On, Self::Stale, Self::Refused, Self::Gone]
            .into_iter()
            .find(|known| known.name() == word)
            .with_context(|| format!("{word:?} is none of on, stale, refused, gone"))
    }
}

/// A word, and what was measured.
#[derive(Debug, Clone)]
pub struct Cell {
    /// The word.
    pub word: Word,
    /// The measurement.
    pub detail: String,
}

impl Cell {
    /// A cell.
    pub fn new(word: Word, detail: impl Into<String>) -> Self {
        Self { word, detail: detail.into() }
    }
}

/// What should happen.
#[derive(Debug)]
pub struct Expected(BTreeMap<(Row, Column), Word>);

impl Expected {
    /// What the committed table of an installation says.
    ///
    /// # Errors
    /// The table is not whole.
    pub fn committed(of: Installation) -> Result<Self> {
        Self::parse(of.expected().1, of.columns())
    }

    /// The word of a cell.
    ///
    /// # Errors
    /// It is not in the table.
    pub fn of(&self, row: Row, column: Column) -> Result<Word> {
        self.0.get(&(row, column)).copied().context("a cell of the expected table")
    }

    fn parse(document: &str, columns: &[Column]) -> Result<Self> {
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_start_matches('|').trim_end_matches('|').to_owned();
            inner.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let mut lines = document.lines().filter(|line| line.starts_with('|'));
        let head = cells(lines.next().context("a table")?);
        let names: Vec<&str> = head.iter().skip(1).map(String::as_str).collect();
        let expected: Vec<&str> = columns.iter().map(|column| column.name()).collect();
        ensure!(names == expected, "the table's columns are {names:?}");
        let mut words = BTreeMap::new();
        for (line, row) in lines.skip(1).zip(Row::ALL) {
            let line = cells(line);
            ensure!(line.first().is_some_and(|name| name == row.name()), "expected {}: {line:?}", row.name());
            ensure!(line.len() == columns.len() + 1, "{} has {} cells", row.name(), line.len() - 1);
            for (cell, column) in line.iter().skip(1).zip(columns) {
                words.insert((row, *column), cell.parse().with_context(|| row.name())?);
            }
        }
        ensure!(words.len() == Row::ALL.len() * columns.len(), "the table has {} cells", words.len());
        Ok(Self(words))
    }
}

/// Which rows of the chosen columns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rows {
    These(Vec<Row>),
    /// One of each column: [`Column::covering`].
    Cover,
}

/// Which cells to run: words of a column's or a row's name, or `COLUMN/ROW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    of: Installation,
    columns: Vec<Column>,
    rows: Rows,
}

impl Choice {
    /// Everything.
    pub fn all(of: Installation) -> Self {
        Self { of, columns: of.columns().to_vec(), rows: Rows::These(Row::ALL.to_vec()) }
    }

    /// Every row and every column once.
    pub fn cover(of: Installation) -> Self {
        Self { rows: Rows::Cover, ..Self::all(of) }
    }

    /// Whose cells.
    pub const fn installation(&self) -> Installation {
        self.of
    }

    /// The columns of one of some lanes of about the same length: the longest first, each to the lane that has
    /// least.
    pub fn lane(&self, lane: usize, lanes: usize) -> Vec<Column> {
        let mut all = self.columns.clone();
        all.sort_by_key(|column| std::cmp::Reverse(column.weight()));
        let mut filled: Vec<(u32, Vec<Column>)> = vec![(0, Vec::new()); lanes.max(1)];
        for column in all {
            if let Some(least) = filled.iter_mut().min_by_key(|(weight, _)| *weight) {
                least.0 += column.weight();
                least.1.push(column);
            }
        }
        let mut columns = filled.into_iter().nth(lane).map(|(_, columns)| columns).unwrap_or_default();
        columns.sort();
        columns
    }

    /// The columns, in the document's order.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether a cell is chosen.
    pub fn takes(&self, column: Column, row: Row) -> bool {
        match &self.rows {
            Rows::These(rows) => rows.contains(&row),
            Rows::Cover => column.covering() == row,
        }
    }

    /// Whether it is everything.
    pub fn is_all(&self) -> bool {
        *self == Self::all(self.of)
    }

    /// What these words name.
    ///
    /// # Errors
    /// Nothing.
    pub fn named(of: Installation, words: &str) -> Result<Self> {
        let columns = |word: &str| -> Vec<Column> {
            of.columns().iter().copied().filter(|column| column.name().contains(word)).collect()
        };
        let rows = |word: &str| -> Vec<Row> {
            Row::ALL.into_iter().filter(|row| row.name().contains(word)).collect()
        };
        let (columns, rows) = match words.split_once('/') {
            Some((column, row)) => (columns(column), rows(row)),
            None if !columns(words).is_empty() => (columns(words), Row::ALL.to_vec()),
            None => (of.columns().to_vec(), rows(words)),
        };
        ensure!(
            !columns.is_empty() && !rows.is_empty(),
            "{words:?} is in no column's and no row's name of installation {}",
            of.letter()
        );
        Ok(Self { of, columns, rows: Rows::These(rows) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Installation::{A, B};

    #[test]
    fn the_committed_tables_are_whole() {
        let expected = Expected::committed(B).expect("the table is whole");
        assert_eq!(expected.of(Row::Writes, Column::ControllerDead).expect("a cell"), Word::Gone);
        let expected = Expected::committed(A).expect("the table is whole");
        assert_eq!(expected.of(Row::Strict, Column::ControllerDead).expect("a cell"), Word::Refused);
    }

    #[test]
    fn a_table_without_a_row_is_refused() {
        for of in [A, B] {
            let document = of.expected().1;
            let short: Vec<&str> =
                document.lines().filter(|line| !line.starts_with("| API reads ")).collect();
            Expected::parse(&short.join("\n"), of.columns()).expect_err("a row is missing");
            Expected::parse(&document.replace("| refused |", "| perhaps |"), of.columns())
                .expect_err("no word");
        }
    }

    #[test]
    fn lanes_have_every_column_once() {
        let mut all: Vec<Column> = (0..3).flat_map(|lane| Choice::all(B).lane(lane, 3)).collect();
        all.sort();
        assert_eq!(all, Column::OF_B);
    }

    #[test]
    fn the_cover_has_every_row_and_every_column() {
        let cover = Choice::cover(B);
        assert_eq!(cover.columns(), Column::OF_B);
        for row in Row::ALL {
            assert!(cover.columns().iter().any(|column| cover.takes(*column, row)), "{}", row.name());
        }
        for column in cover.columns() {
            let rows = Row::ALL.into_iter().filter(|row| cover.takes(*column, *row)).count();
            assert_eq!(rows, 1, "{}", column.name());
        }
    }

    #[test]
    fn a_choice_names_columns_or_rows_or_both() {
        let count = |words: &str| {
            let choice = Choice::named(B, words).expect(words);
            let rows = Row::ALL.into_iter().filter(|row| choice.takes(choice.columns()[0], *row)).count();
            (choice.columns().len(), rows)
        };
        assert_eq!(count("clock"), (6, 15));
        assert_eq!(count("strict"), (18, 1));
        assert_eq!(count("database locked/API writes"), (1, 1));
        Choice::named(B, "nothing like it").expect_err("no such name");
        Choice::named(A, "database locked").expect_err("B's");
    }
}
