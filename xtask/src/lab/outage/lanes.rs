//! Several installations at once, each in a process of its own that takes some of the columns: names of
//! namespaces carry the process id. What a lane saw comes back in a file.

use super::{
    document::{Cells, Cures},
    table::{Cell, Choice, Column, Row, Word},
};
use crate::process::Interrupt;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

const POLL: Duration = Duration::from_millis(50);

/// What the parent tells a lane: which one it is, and where its cells go.
#[derive(Debug, Clone, clap::Args)]
pub struct Lane {
    /// In a lane: its number.
    #[arg(long, hide = true, requires = "cells")]
    pub lane: Option<usize>,
    /// In a lane: the file for what it saw.
    #[arg(long, hide = true)]
    pub cells: Option<std::path::PathBuf>,
}

/// Runs this program once for each lane, and gives what they saw together.
///
/// # Errors
/// A lane cannot be started, or the person interrupts.
pub fn run(
    arguments: &[String],
    lanes: usize,
    directory: &Path,
    interrupt: &Interrupt,
) -> Result<(Cells, Cures)> {
    let mut running: Vec<Child> = Vec::new();
    for lane in 0..lanes {
        let mut command = Command::new(format!("/proc/{}/exe", std::process::id()));
        command.args(["lab", "outage", "--lanes", &lanes.to_string(), "--lane", &lane.to_string()]);
        command.arg("--cells").arg(directory.join(lane.to_string())).args(arguments).stdin(Stdio::null());
        running.push(command.spawn().context("cannot start a lane")?);
    }
    let mut told = false;
    while running.iter_mut().any(|lane| matches!(lane.try_wait(), Ok(None))) {
        if interrupt.check().is_err() && !told {
            told = true;
            // Each cleans up after itself.
            for lane in &running {
                crate::process::signal_process(lane.id(), libc::SIGTERM);
            }
        }
        thread::sleep(POLL);
    }
    interrupt.check()?;
    let (mut cells, mut cures) = (Cells::new(), Cures::new());
    for lane in 0..lanes {
        let text = fs::read_to_string(directory.join(lane.to_string())).context("a lane ended early")?;
        read(&serde_json::from_str(&text)?, &mut cells, &mut cures)?;
    }
    Ok((cells, cures))
}

/// Writes what a lane saw.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, cells: &Cells, cures: &Cures) -> Result<()> {
    let cells: Vec<Value> = cells
        .iter()
        .map(|((row, column), cell)| match cell {
            Ok(cell) => json!([row.name(), column.name(), cell.word.name(), cell.detail]),
            Err(error) => json!([row.name(), column.name(), null, error]),
        })
        .collect();
    let cures: Vec<Value> = cures
        .iter()
        .map(|(column, cure)| match cure {
            Ok(seen) => json!([column.name(), true, seen]),
            Err(error) => json!([column.name(), false, error]),
        })
        .collect();
    fs::write(file, json!({"cells": cells, "cures": cures}).to_string()).context("a lane's cells")
}

fn read(seen: &Value, cells: &mut Cells, cures: &mut Cures) -> Result<()> {
    let column = |name: &Value| {
        let mut all = Column::OF_A.into_iter().chain(Column::OF_B);
        all.find(|column| *name == column.name()).context("a column")
    };
    for cell in seen["cells"].as_array().context("cells")? {
        let row = Row::ALL.into_iter().find(|row| cell[0] == row.name()).context("a row")?;
        let detail = cell[3].as_str().unwrap_or_default().to_owned();
        let outcome = match cell[2].as_str() {
            Some(word) => Ok(Cell::new(word.parse::<Word>()?, detail)),
            None => Err(detail),
        };
        cells.insert((row, column(&cell[1])?), outcome);
    }
    for cure in seen["cures"].as_array().context("cures")? {
        let words = cure[2].as_str().unwrap_or_default().to_owned();
        cures.insert(column(&cure[0])?, if cure[1] == true { Ok(words) } else { Err(words) });
    }
    Ok(())
}

/// The arguments of a lane, which are its parent's.
pub fn arguments(words: Option<&str>, choice: &Choice, binary: &Path, is_json: Json) -> Vec<String> {
    let mut arguments = vec!["--binary".to_owned(), binary.display().to_string()];
    arguments.extend(["--installation".to_owned(), choice.installation().letter().to_owned()]);
    if let Some(words) = words {
        arguments.extend(["--only".to_owned(), words.to_owned()]);
    } else if *choice == Choice::cover(choice.installation()) {
        arguments.push("--cover".to_owned());
    }
    if is_json == Json::Yes {
        arguments.push("--json".to_owned());
    }
    arguments
}

/// Whether lanes print JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Json {
    /// They do.
    Yes,
    /// They print lines for people.
    No,
}

/// In a lane: its columns.
pub fn columns(choice: &Choice, lane: &Lane, lanes: usize) -> Vec<Column> {
    lane.lane.map_or_else(|| choice.columns().to_vec(), |lane| choice.lane(lane, lanes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lane_saw_comes_back() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("0");
        let cells = Cells::from([
            ((Row::Reads, Column::PopKilled), Ok(Cell::new(Word::On, "at once"))),
            ((Row::Writes, Column::PopKilled), Err("500".to_owned())),
        ]);
        let cures = Cures::from([(Column::PopKilled, Err("never".to_owned()))]);
        write(&file, &cells, &cures).expect("written");
        let text = fs::read_to_string(&file).expect("read");
        let (mut cells, mut cures) = (Cells::new(), Cures::new());
        read(&serde_json::from_str(&text).expect("JSON"), &mut cells, &mut cures).expect("cells");
        assert_eq!(cells[&(Row::Reads, Column::PopKilled)].as_ref().expect("a cell").word, Word::On);
        assert_eq!(cells[&(Row::Writes, Column::PopKilled)].as_ref().expect_err("none"), "500");
        assert_eq!(cures[&Column::PopKilled].as_ref().expect_err("not cured"), "never");
    }
}
