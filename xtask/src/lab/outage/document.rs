//! docs/outage-matrix.md: what the lab saw last.

use super::table::{Cell, Choice, Column, Expected, Installation, Row};
use crate::process::{Interrupt, run};
use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, fmt::Write as _, fs, process::Command, time::Duration};

/// Cells, or what happened that fits no word.
pub type Cells = BTreeMap<(Row, Column), Result<Cell, String>>;
/// What was seen after each cure.
pub type Cures = BTreeMap<Column, Result<String, String>>;

/// Writes it. Only a whole run is written.
///
/// # Errors
/// The file cannot be written.
pub fn write(
    cells: &Cells,
    cures: &Cures,
    expected: &Expected,
    choice: &Choice,
    took: Duration,
    interrupt: &Interrupt,
) -> Result<()> {
    anyhow::ensure!(choice.is_all(), "only a whole run is written");
    let of = choice.installation();
    let text = text(of, cells, cures, expected, &stamp(of, took, interrupt)?)?;
    fs::write(crate::repository().join("docs").join(of.document()), text).context("the document")
}

fn text(of: Installation, cells: &Cells, cures: &Cures, expected: &Expected, stamp: &str) -> Result<String> {
    let (title, file) = match of {
        Installation::A => ("an installation in two zones", of.expected().0),
        Installation::B => ("a small installation", of.expected().0),
    };
    let mut text = format!(
        "# What each outage of {title} did to access\n\n\
         What the lab saw last, with real processes in network namespaces. What should be seen is\n\
         [{file}]({file}). A program writes this file; what is changed by hand is lost.\n\n\
         {stamp}\n"
    );
    let mut different = Vec::new();
    let mut table = String::from("| |");
    for column in of.columns() {
        let _ = write!(table, " {} |", column.name());
    }
    let _ = writeln!(table, "\n|{}", " --- |".repeat(of.columns().len() + 1));
    for row in Row::ALL {
        let _ = write!(table, "| {} |", row.name());
        for column in of.columns().iter().copied() {
            let wanted = expected.of(row, column)?;
            let shown = match cells.get(&(row, column)) {
                Some(Ok(cell)) if cell.word == wanted => cell.word.to_string(),
                Some(Ok(cell)) => {
                    different.push((
                        row,
                        column,
                        format!("{}, expected {wanted}: {}", cell.word, cell.detail),
                    ));
                    format!("**{}**", cell.word)
                }
                Some(Err(error)) => {
                    different.push((row, column, format!("none of the words, expected {wanted}: {error}")));
                    format!("**not {wanted}**")
                }
                None => "not run".to_owned(),
            };
            let _ = write!(table, " {shown} |");
        }
        table.push('\n');
    }
    let all = cells.len();
    let _ = writeln!(text, "{} of {all} cells are as expected.\n\n{table}", all - different.len());
    text.push_str("## Not as expected\n\n");
    if different.is_empty() && cures.values().all(Result::is_ok) {
        text.push_str("Nothing.\n");
    }
    for (row, column, what) in &different {
        let _ = writeln!(text, "- {} × {}: {}", column.name(), row.name(), one_line(what));
    }
    for (column, cure) in cures {
        if let Err(error) = cure {
            let _ = writeln!(text, "- {}, after the cure: {}", column.name(), one_line(error));
        }
    }
    text.push_str("\n## What was measured\n");
    for column in of.columns().iter().copied() {
        let _ = writeln!(text, "\n### {}\n\n| | | |\n| --- | --- | --- |", column.name());
        for row in Row::ALL {
            let (word, detail) = match cells.get(&(row, column)) {
                Some(Ok(cell)) => (cell.word.name(), cell.detail.as_str()),
                Some(Err(error)) => ("none", error.as_str()),
                None => ("not run", ""),
            };
            let _ = writeln!(text, "| {} | {word} | {} |", row.name(), one_line(detail));
        }
        if let Some(cure) = cures.get(&column) {
            let (Ok(cure) | Err(cure)) = cure;
            let _ = writeln!(text, "| after the cure | | {} |", one_line(cure));
        }
    }
    Ok(text)
}

/// In one line of a table, and not for ever.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    let mut short: String = line.chars().take(420).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// When, on what, and how to have it again.
fn stamp(of: Installation, took: Duration, interrupt: &Interrupt) -> Result<String> {
    Ok(format!(
        "Written by `cargo xtask outage-matrix --installation {} --write` on {}, in {:.1} min.\n",
        of.letter(),
        machine(interrupt)?,
        took.as_secs_f64() / 60.0
    ))
}

/// The day and the machine.
///
/// # Errors
/// A program that every Linux has is missing.
pub fn machine(interrupt: &Interrupt) -> Result<String> {
    let ask = |program: &str, argument: &str| {
        let said = run(Command::new(program).arg(argument), Duration::from_secs(10), interrupt)?;
        anyhow::Ok(said.success(program)?.stdout.trim().to_owned())
    };
    Ok(format!(
        "{}, Linux {}, {} processors",
        ask("date", "--iso-8601")?,
        ask("uname", "-r")?,
        ask("nproc", "--all")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::outage::table::Word;

    #[test]
    fn a_cell_that_differs_is_named_with_what_was_seen() {
        let expected = Expected::committed(Installation::B).expect("the table is whole");
        let (row, column) = (Row::Writes, Column::ControllerDead);
        let seen = |cell| {
            let cells = Cells::from([((row, column), cell)]);
            text(Installation::B, &cells, &Cures::new(), &expected, "stamp").expect("a document")
        };
        assert!(seen(Ok(Cell::new(Word::Gone, "quiet"))).contains("## Not as expected\n\nNothing."));
        let other = seen(Ok(Cell::new(Word::On, "it was written")));
        assert!(
            other.contains("- controller dead × API writes: on, expected gone: it was written"),
            "{other}"
        );
        let none = seen(Err("500".to_owned()));
        assert!(none.contains("none of the words, expected gone: 500"), "{none}");
    }
}
