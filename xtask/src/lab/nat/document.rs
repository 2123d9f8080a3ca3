//! docs/nat-matrix.md: what the lab saw last, in two parts that are written by the command that saw them.

use super::{
    expected::Expected,
    kind::{Cell, Kind},
    matrix::Row,
};
use crate::process::{Interrupt, run};
use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, process::Command, time::Duration};

const MATRIX: &str = "## The matrix";
const SCENARIOS: &str = "## While the network changes";

/// A scenario's line.
#[derive(Debug, Clone)]
pub struct ScenarioRow {
    /// What happened to the network.
    pub name: String,
    /// What was measured, or what failed.
    pub seen: String,
    /// Whether the figure to reach was reached.
    pub passed: bool,
}

/// Writes the matrix and leaves the scenarios as they are.
///
/// # Errors
/// The file cannot be written.
pub fn write_matrix(rows: &BTreeMap<Cell, Row>, expected: &Expected, interrupt: &Interrupt) -> Result<()> {
    let mut text = format!("{MATRIX}\n\n{}", stamp("cargo xtask lab nat --write", interrupt)?);
    let failed = rows.values().filter(|row| row.is_err()).count();
    let _ = writeln!(
        text,
        "{} of {} cells are as expected. Each: path · ms to the first byte of a client that was just started · \
         for direct paths, ms from that byte until packets went straight · Mbit/s of a download of 50 MB, whose \
         hash was compared.\n",
        rows.len() - failed,
        rows.len()
    );
    text.push_str("| client \\ connector |");
    for kind in Kind::ALL {
        let _ = write!(text, " {kind} |");
    }
    text.push_str("\n|");
    text.push_str(&" --- |".repeat(Kind::ALL.len() + 1));
    text.push('\n');
    for client in Kind::ALL {
        let _ = write!(text, "| {client} |");
        for connector in Kind::ALL {
            let cell = Cell::Apart { client, connector };
            let _ = write!(text, " {} |", shown(rows.get(&cell), cell, expected));
        }
        text.push('\n');
    }
    text.push_str("\nClient and connector on one LAN:\n\n| the LAN's router | path |\n| --- | --- |\n");
    for kind in Kind::LANS {
        let cell = Cell::Lan(kind);
        let _ = writeln!(text, "| {kind} | {} |", shown(rows.get(&cell), cell, expected));
    }
    text.push_str(
        "\nClient and connector in two networks behind one router:\n\n| the router | path |\n| --- | --- |\n",
    );
    let _ = writeln!(text, "| hairpin | {} |", shown(rows.get(&Cell::Rooms), Cell::Rooms, expected));
    let failures: Vec<(&Cell, &String)> =
        rows.iter().filter_map(|(cell, row)| row.as_ref().err().map(|error| (cell, error))).collect();
    if !failures.is_empty() {
        text.push_str("\nNot as expected:\n\n");
        for (cell, error) in failures {
            let _ = writeln!(text, "- `{cell}`: {}", one_line(error));
        }
    }
    write(&text, MATRIX)
}

/// Writes the scenarios that were run, and leaves the others' lines and the matrix as they are.
///
/// # Errors
/// The file cannot be written.
pub fn write_scenarios(
    rows: &[ScenarioRow],
    every: impl Iterator<Item = &'static str>,
    interrupt: &Interrupt,
) -> Result<()> {
    let before = fs::read_to_string(place()).unwrap_or_default();
    let every: Vec<&str> = every.collect();
    let now = stamp("cargo xtask lab nat-scenarios --write", interrupt)?;
    let mut text = format!("{SCENARIOS}\n\n");
    if rows.len() == every.len() {
        text.push_str(&now);
    } else {
        text.push_str(&stamped_again(&before, &now, rows));
    }
    text.push_str("| what happens | verdict | seen |\n| --- | --- | --- |\n");
    for name in every {
        if let Some(row) = rows.iter().find(|row| row.name == name) {
            let verdict = if row.passed { "holds" } else { "**does not hold**" };
            let _ = writeln!(text, "| {name} | {verdict} | {} |", one_line(&row.seen));
        } else if let Some(line) = before.lines().find(|line| line.starts_with(&format!("| {name} |"))) {
            let _ = writeln!(text, "{line}");
        }
    }
    write(&text, SCENARIOS)
}

fn shown(row: Option<&Row>, cell: Cell, expected: &Expected) -> String {
    match row {
        None => "not run".to_owned(),
        Some(Err(_)) => format!("**not {}**", expected.of(cell)),
        Some(Ok(figures)) => {
            let direct =
                figures.direct_after.map(|after| format!(" · {}", after.as_millis())).unwrap_or_default();
            format!("{} · {}{direct} · {:.0}", figures.path, figures.first.as_millis(), figures.mbit_per_s)
        }
    }
}

/// In one line of a table; which command of the lab said it is in the run's own output.
fn one_line(text: &str) -> String {
    let text = text.split(": ip netns exec").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/")
}

/// When, on what, and how to have it again.
fn stamp(command: &str, interrupt: &Interrupt) -> Result<String> {
    let ask = |program: &str, argument: &str| {
        let said = run(Command::new(program).arg(argument), Duration::from_secs(10), interrupt)?;
        anyhow::Ok(said.success(program)?.stdout.trim().to_owned())
    };
    Ok(format!(
        "Written by `{command}` on {}, Linux {}, {} processors.\n\n",
        ask("date", "--iso-8601")?,
        ask("uname", "-r")?,
        ask("nproc", "--all")?
    ))
}

fn place() -> PathBuf {
    crate::repository().join("docs/nat-matrix.md")
}

/// The stamp of the last whole run stays, and says which lines were run alone since.
fn stamped_again(before: &str, now: &str, rows: &[ScenarioRow]) -> String {
    let part = before.split_once(SCENARIOS).map_or("", |(_, part)| part);
    let kept = part.lines().take_while(|line| !line.starts_with('|')).filter(|line| !line.is_empty());
    let mut text: String = kept.map(|line| format!("{line}\n\n")).collect();
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    let now = now.trim_end().trim_end_matches('.');
    let _ = write!(text, "{now}, these alone: {}.\n\n", names.join("; "));
    text
}

/// Replaces one part of the document.
fn write(part: &str, heading: &str) -> Result<()> {
    let before = fs::read_to_string(place()).unwrap_or_default();
    fs::write(place(), replaced(&before, part, heading)).context("docs/nat-matrix.md")
}

fn replaced(before: &str, part: &str, heading: &str) -> String {
    let kept = |wanted: &str| {
        let (_, rest) = before.split_once(&format!("{wanted}\n"))?;
        let end = rest.find("\n## ").map_or(rest.len(), |end| end + 1);
        Some(format!("{wanted}\n{}", &rest[..end]))
    };
    let mut text = String::from(
        "# Which path was found between which networks\n\n\
         What the lab saw last, with real processes in network namespaces. What should be seen is\n\
         [nat-expected.md](nat-expected.md). A program writes this file; what is changed by hand is lost.\n",
    );
    for name in [MATRIX, SCENARIOS] {
        let section = if name == heading { Some(part.to_owned()) } else { kept(name) };
        if let Some(section) = section {
            text.push('\n');
            text.push_str(section.trim_end());
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_that_were_run_alone_leave_the_stamp_of_the_whole_run() {
        let before = format!("{SCENARIOS}\n\nWritten by `x` on the first day.\n\n| what | seen |\n");
        let row = |name: &str| ScenarioRow { name: name.to_owned(), seen: String::new(), passed: true };
        let text =
            stamped_again(&before, "Written by `x` on the second day.\n\n", &[row("roam"), row("loss")]);
        assert_eq!(
            text,
            "Written by `x` on the first day.\n\nWritten by `x` on the second day, these alone: roam; loss.\n\n"
        );
    }

    #[test]
    fn writing_one_part_keeps_the_other() {
        let first = replaced("", "## The matrix\n\none\n", MATRIX);
        let both = replaced(&first, "## While the network changes\n\ntwo\n", SCENARIOS);
        assert!(both.contains("one\n") && both.contains("two\n"), "{both}");
        let again = replaced(&both, "## The matrix\n\nthree\n", MATRIX);
        assert!(again.contains("three\n") && again.contains("two\n") && !again.contains("one\n"), "{again}");
        assert_eq!(replaced(&again, "## The matrix\n\nthree\n", MATRIX), again);
    }
}
