//! `cargo xtask outage-matrix`: what each outage of a one-host installation does to access, with real processes,
//! compared with the table that was there before the code (docs/outage-expected.md).

mod disk;
mod document;
mod fault;
mod flow;
mod ground;
mod lanes;
mod long;
mod long_report;
mod long_worker;
mod proxy;
mod rows;
mod sqlite;
mod table;
mod zones;

pub use disk::clean_leftovers;
pub use flow::serve as ticker;
pub use long::{Options as LongOptions, line_echo, run_long};
pub use proxy::{garbage, serve as fault_proxy};

use super::report::{Form, Outcome, Report, Seen};
use crate::{process::Interrupt, test::fresh_release_binary};
use anyhow::{Result, bail};
use clap::Args;
use document::{Cells, Cures};
use fault::Fault;
use ground::Ground;
use rows::Scene;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use table::{Choice, Column, Expected, Installation, Row};

/// After each fault a write and a page work within this.
const CURED_WITHIN: Duration = Duration::from_secs(30);

/// Which cells to run.
#[derive(Debug, Args)]
pub struct Options {
    /// Only columns, or rows, with this in their name; or COLUMN/ROW.
    #[arg(long, value_name = "WORD", conflicts_with = "write")]
    only: Option<String>,
    /// Which installation: a in two zones, b on one host.
    #[arg(long, value_enum, default_value_t = Installation::B)]
    installation: Installation,
    /// Every row and every column once, instead of every cell.
    #[arg(long, conflicts_with_all = ["only", "write"])]
    cover: bool,
    /// Writes what was seen to docs/outage-matrix.md, or docs/outage-matrix-a.md.
    #[arg(long)]
    write: bool,
    /// The program under test; target/release/tidegate when absent.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// So many installations at once, each with some of the columns.
    #[arg(long, default_value_t = 2, value_name = "NUMBER")]
    lanes: usize,
    #[command(flatten)]
    lane: lanes::Lane,
}

/// Whether the `libfaketime` that the clock columns need is installed.
pub fn has_faketime() -> bool {
    ground::faketime().is_some()
}

/// Runs the cells.
///
/// # Errors
/// The table cannot be read or the document not be written. Cells that are not as expected are counted in the
/// outcome.
pub fn run(options: &Options, form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let of = options.installation;
    let expected = Expected::committed(of)?;
    let choice = match &options.only {
        Some(words) => Choice::named(of, words)?,
        None if options.cover => Choice::cover(of),
        None => Choice::all(of),
    };
    let binary = options.binary.clone().map_or_else(fresh_release_binary, Ok)?;
    ground::require(&binary)?;
    let began = Instant::now();
    let lanes = options.lanes.clamp(1, choice.columns().len());
    if options.lane.lane.is_none() && lanes > 1 {
        let json = if form == Form::Json { lanes::Json::Yes } else { lanes::Json::No };
        let arguments = lanes::arguments(options.only.as_deref(), &choice, &binary, json);
        let directory = super::directory()?;
        let (cells, cures) = lanes::run(&arguments, lanes, directory.path(), interrupt)?;
        let outcome = judge(&expected, &choice, &cells, &cures)?;
        if options.write {
            document::write(&cells, &cures, &expected, &choice, began.elapsed(), interrupt)?;
        }
        return Ok(outcome);
    }
    let mut report = Report::new(form);
    let mut matrix = Matrix { expected, choice, cells: Cells::new(), cures: Cures::new() };
    // A ground that does not come back is built anew for the next column.
    let mut kept: Option<Ground> = None;
    for (number, column) in (0_u32..).zip(lanes::columns(&matrix.choice, &options.lane, options.lanes)) {
        interrupt.check()?;
        let mut ground = match kept.take() {
            Some(ground) => ground,
            None => {
                let ground = Ground::create(&mut report, of, binary.clone(), interrupt);
                match report.ended(ground) {
                    Some(ground) => ground,
                    None => break,
                }
            }
        };
        let ended = matrix.column(&mut report, &mut ground, column, number);
        if report.ended(ended).is_some() {
            kept = Some(ground);
        }
    }
    drop(kept);
    interrupt.check()?;
    let outcome = report.finish();
    if let Some(file) = &options.lane.cells {
        lanes::write(file, &matrix.cells, &matrix.cures)?;
    }
    if options.write {
        let Matrix { expected, choice, cells, cures } = &matrix;
        document::write(cells, cures, expected, choice, began.elapsed(), interrupt)?;
    }
    Ok(outcome)
}

/// How many chosen cells are as expected; one that did not run is not.
fn judge(expected: &Expected, choice: &Choice, cells: &Cells, cures: &Cures) -> Result<Outcome> {
    let mut outcome = Outcome { passed: 0, failed: 0 };
    let mut count = |holds: bool| if holds { outcome.passed += 1 } else { outcome.failed += 1 };
    for column in choice.columns() {
        for row in Row::ALL.into_iter().filter(|row| choice.takes(*column, *row)) {
            let wanted = expected.of(row, *column)?;
            count(matches!(cells.get(&(row, *column)), Some(Ok(cell)) if cell.word == wanted));
        }
        count(matches!(cures.get(column), Some(Ok(_))));
    }
    println!("outage matrix: {} cells and cures as expected, {} not", outcome.passed, outcome.failed);
    Ok(outcome)
}

struct Matrix {
    expected: Expected,
    choice: Choice,
    cells: Cells,
    cures: Cures,
}

impl Matrix {
    /// One fault, and every chosen row while it lasts.
    ///
    /// # Errors
    /// The ground is not as it was before.
    fn column(
        &mut self,
        report: &mut Report,
        ground: &mut Ground,
        column: Column,
        number: u32,
    ) -> Result<()> {
        let name = column.name();
        let choice = self.choice.clone();
        let mut scene = report.step(&format!("{name}: everything works before"), || {
            fault::make_ready(ground, column)?;
            Ok(Seen::new(Scene::set(ground, column, number, |row| choice.takes(column, row))?))
        })?;
        scene.mark();
        let fault =
            report.step(&format!("{name}: begins"), || Ok(Seen::new(Fault::begin(ground, column)?)))?;
        for row in Scene::order(column) {
            if !choice.takes(column, row) {
                continue;
            }
            ground.interrupt.check()?;
            let wanted = self.expected.of(row, column)?;
            let mut seen = None;
            report.check(&format!("{name}: {}", row.name()), || match scene.look(ground, &fault, row) {
                Ok(cell) => {
                    seen = Some(Ok(cell.clone()));
                    if cell.word != wanted {
                        bail!("{}, expected {wanted}: {}", cell.word, cell.detail);
                    }
                    Ok(Seen::new(()).with("word", cell.word.name()).with("seen", cell.detail))
                }
                Err(error) => {
                    seen = Some(Err(format!("{error:#}")));
                    Err(error.context(format!("expected {wanted}")))
                }
            });
            if let Some(seen) = seen {
                self.cells.insert((row, column), seen);
            }
        }
        let cured = report.step(&format!("{name}: cured"), || {
            fault.cure(ground)?;
            let words = scene.cured(ground, CURED_WITHIN)?;
            Ok(Seen::new(words.clone()).with("seen", words))
        });
        let done = cured.as_ref().map(|_| ()).map_err(|error| anyhow::anyhow!("{error:#}"));
        self.cures.insert(column, cured.map_err(|error| format!("{error:#}")));
        done?;
        // Flows and devices of this column end here.
        drop(scene);
        fault::put_back(ground, column)
    }
}
