//! Every cell of the table, one line each.

use super::{
    super::{
        probe::{at, stun_from},
        report::{Form, Outcome, Report, Seen, whole_ms},
        topology::SERVER,
    },
    bench::Bench,
    cell::{self, Figures},
    document,
    expected::Expected,
    kind::{Cell, Kind},
    net::Role,
};
use crate::process::Interrupt;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use std::{collections::BTreeMap, str::FromStr};

/// Which cells to run.
#[derive(Debug, Args)]
pub struct MatrixOptions {
    /// Only these cells: `client=home,connector=symmetric`, either alone, `lan=home`, or `rooms=hairpin`.
    #[arg(long, value_name = "FILTER", conflicts_with_all = ["quick", "write"])]
    only: Option<Filter>,
    /// Eleven cells that have every kind of network and of path once.
    #[arg(long, conflicts_with = "write")]
    quick: bool,
    /// Writes what was seen to docs/nat-matrix.md.
    #[arg(long)]
    write: bool,
    /// Downloads the 50 MB so often, and says what that cost of the two processors.
    #[arg(long, default_value_t = 1, conflicts_with = "write")]
    downloads: u32,
}

/// A choice of cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Filter {
    client: Option<Kind>,
    connector: Option<Kind>,
    lan: Option<Kind>,
    rooms: bool,
}

impl FromStr for Filter {
    type Err = anyhow::Error;

    fn from_str(words: &str) -> Result<Self> {
        let mut filter = Self::default();
        for word in words.split(',') {
            if word == "rooms=hairpin" {
                filter.rooms = true;
                continue;
            }
            let (name, kind) = word.split_once('=').context("expected NAME=NETWORK")?;
            let kind = Some(kind.parse()?);
            match name {
                "client" => filter.client = kind,
                "connector" => filter.connector = kind,
                "lan" => filter.lan = kind,
                other => bail!("{other:?}: expected client, connector or lan, or rooms=hairpin"),
            }
        }
        ensure!(
            u8::from(filter.lan.is_some())
                + u8::from(filter.rooms)
                + u8::from(filter.client.is_some() || filter.connector.is_some())
                == 1,
            "a cell is on one LAN, in two rooms, or client and connector are apart"
        );
        ensure!(Cell::all().any(|cell| filter.takes(cell)), "there is no such cell");
        Ok(filter)
    }
}

impl Filter {
    fn takes(self, cell: Cell) -> bool {
        match cell {
            Cell::Apart { client, connector } => {
                self.lan.is_none()
                    && !self.rooms
                    && self.client.is_none_or(|wanted| wanted == client)
                    && self.connector.is_none_or(|wanted| wanted == connector)
            }
            Cell::Lan(kind) => {
                self.client.is_none()
                    && self.connector.is_none()
                    && !self.rooms
                    && self.lan.is_none_or(|wanted| wanted == kind)
            }
            Cell::Rooms => self.rooms,
        }
    }
}

/// The cells of `--quick`.
const QUICK: [Cell; 11] = [
    apart(Kind::Open, Kind::Home),
    apart(Kind::Home, Kind::Home),
    apart(Kind::Symmetric, Kind::FullCone),
    apart(Kind::Home, Kind::Symmetric),
    apart(Kind::Cgn, Kind::Cgn),
    apart(Kind::UdpBlocked, Kind::Home),
    apart(Kind::Home, Kind::UdpBlocked),
    apart(Kind::Ipv6Only, Kind::Ipv6Only),
    apart(Kind::DualStack, Kind::DualStack),
    Cell::Lan(Kind::Home),
    Cell::Rooms,
];

const fn apart(client: Kind, connector: Kind) -> Cell {
    Cell::Apart { client, connector }
}

/// What a cell gave: figures, or why there are none.
pub type Row = Result<Figures, String>;

/// Runs the cells.
///
/// # Errors
/// The table cannot be read or the document not be written. Failed cells are counted in the outcome.
pub fn run(options: &MatrixOptions, form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let expected = Expected::committed().context("docs/nat-expected.md")?;
    let mut report = Report::new(form);
    let cells: Vec<Cell> = match options.only {
        Some(filter) => Cell::all().filter(|cell| filter.takes(*cell)).collect(),
        None if options.quick => QUICK.to_vec(),
        None => Cell::all().collect(),
    };
    let bench = Bench::create(&mut report, interrupt);
    if let Some(mut bench) = report.ended(bench) {
        report.check("the PoP's STUN tells hosts where they come from", || stun(&mut bench));
        let mut rows = BTreeMap::new();
        for cell in cells {
            interrupt.check()?;
            let row = one(&mut report, &mut bench, cell, &expected, options.downloads);
            rows.insert(cell, row.map_err(|error| format!("{error:#}")));
        }
        if options.write {
            document::write_matrix(&rows, &expected, interrupt)?;
        }
    }
    Ok(report.finish())
}

fn one(
    report: &mut Report,
    bench: &mut Bench,
    cell: Cell,
    expected: &Expected,
    downloads: u32,
) -> Result<Figures> {
    let expected = expected.of(cell);
    report.step(&cell.to_string(), || {
        let figures = cell::run(bench, cell, expected, downloads)?;
        let mut seen = Seen::new(figures)
            .with("path", figures.path.name())
            .with("first_byte_ms", whole_ms(figures.first))
            .with("mbit_per_s", figures.mbit_per_s.round());
        if downloads > 1 {
            seen = seen.with("processor_ms_per_download", whole_ms(figures.processor / downloads));
        }
        if let Some(after) = figures.direct_after {
            seen = seen.with("direct_after_ms", whole_ms(after));
        }
        Ok(seen)
    })
}

/// By the lab's own STUN client, from behind each NAT whose outside address the lab chose.
fn stun(bench: &mut Bench) -> Result<Seen<()>> {
    let mut seen = Seen::new(());
    for kind in [Kind::Open, Kind::Home, Kind::Symmetric, Kind::Cgn] {
        let side = bench.net.side(Role::Client, kind)?;
        let address = stun_from(&side.host, at(side.inside, 5000), at(SERVER, 443))?;
        ensure!(address.ip() == side.public, "{kind}: seen as {address}, is {}", side.public);
        let kept = address.port() == 5000;
        ensure!(kept == (kind != Kind::Symmetric), "{kind}: port 5000 is seen as {}", address.port());
        seen = seen.with(kind.name(), address.to_string());
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_the_cells_it_names() {
        let count = |words: &str| {
            let filter: Filter = words.parse().expect(words);
            Cell::all().filter(|cell| filter.takes(*cell)).count()
        };
        assert_eq!(count("client=home,connector=symmetric"), 1);
        assert_eq!(count("client=home"), 8);
        assert_eq!(count("lan=symmetric"), 1);
        assert_eq!(count("rooms=hairpin"), 1);
        for wrong in [
            "client=nowhere",
            "somebody=home",
            "lan=open",
            "lan=home,client=home",
            "rooms=hairpin,lan=home",
            "home",
        ] {
            wrong.parse::<Filter>().expect_err(wrong);
        }
    }

    #[test]
    fn the_quick_cells_have_every_network_and_path() {
        let expected = Expected::committed().expect("the table is whole");
        for kind in Kind::ALL {
            assert!(QUICK.iter().any(|cell| cell.kinds().0 == kind || cell.kinds().1 == kind), "{kind}");
        }
        for path in ["direct", "relay", "tcp"] {
            assert!(QUICK.iter().any(|cell| expected.of(*cell).name() == path), "{path}");
        }
    }
}
