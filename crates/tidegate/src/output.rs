//! What the program says: text for people, JSON for programs, and its exit codes.
//!
//! This crate is the only one that prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the binary is what talks to people")]

use serde_json::Value;
use std::{fmt, io::Write as _, process::ExitCode};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For programs: one JSON value a line.
    Json,
}

/// Why the program ends. The numbers are documented in `tidegate --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Wrong usage (clap's own code as well).
    Usage,
    /// Not enrolled, or not running.
    NotRunning,
    /// Refused by policy, or revoked.
    Denied,
    /// Not possible right now.
    Later,
    /// What `tidegate run` ran ended so.
    Command(u8),
}

impl Outcome {
    const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotRunning => 3,
            Self::Denied => 4,
            Self::Later => 5,
            Self::Command(code) => code,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome.code())
    }
}

/// An error that knows its exit code.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub outcome: Outcome,
    /// What to say.
    pub error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let is_not_enrolled = error
            .chain()
            .any(|cause| matches!(cause.downcast_ref(), Some(state::StateError::NotEnrolled { .. })));
        let outcome = if is_not_enrolled { Outcome::NotRunning } else { Outcome::Failed };
        Self { outcome, error }
    }
}

/// An error and its causes, each said once: many an error's own words hold its cause already. Some repeat what stood in a
/// file or came from elsewhere, and what of that would change a terminal does not reach it.
fn said(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect()
}

impl Failure {
    /// With an exit code of its own.
    pub fn new(outcome: Outcome, error: impl Into<anyhow::Error>) -> Self {
        Self { outcome, error: error.into() }
    }

    /// From a sentence.
    pub fn say(outcome: Outcome, text: impl fmt::Display) -> Self {
        Self { outcome, error: anyhow::anyhow!("{text}") }
    }

    /// What is printed of it.
    pub fn text(&self) -> String {
        said(&self.error)
    }

    /// Prints itself and gives its code.
    pub fn report(self, format: Format) -> ExitCode {
        let text = self.text();
        match format {
            Format::Text => eprintln!("tidegate: {text}"),
            Format::Json => {
                print_line(&serde_json::json!({"error": text, "exit": self.outcome.code()}).to_string());
            }
        }
        self.outcome.into()
    }
}

/// What a command gives.
pub type CommandResult = Result<Outcome, Failure>;

/// Prints a line. A reader that went away (`| head`) ends the program's talking, not the program.
pub fn print_line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

/// Prints to standard error: progress and prompts.
pub fn note(text: &str) {
    eprintln!("{text}");
}

/// Shows where a long command is, on a terminal: the line is written over by the next one.
pub fn progress(text: &str) {
    eprint!("\r\x1b[2K{text}\r");
}

impl Format {
    /// Prints a value: JSON as it is, text as `text` renders it.
    pub fn print(self, value: &Value, text: impl FnOnce() -> String) {
        match self {
            Self::Json => print_line(&value.to_string()),
            Self::Text => {
                let text = text();
                if !text.is_empty() {
                    print_line(text.trim_end());
                }
            }
        }
    }
}

/// A table: headings and rows of cells, columns as wide as they need.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (cell, width) in cells.zip(&widths) {
            text.push_str(cell);
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
        }
        text.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        text.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    text
}

/// One JSON cell for a table.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "–".into(),
        Value::String(text) => text.chars().map(|c| if c.is_control() { '·' } else { c }).collect(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", cell(value))).collect::<Vec<_>>().join(" ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_table_lines_its_columns_up() {
        let rows = vec![vec!["wiki".into(), "10.0.0.1".into()], vec!["long-name".into(), "x".into()]];
        assert_eq!(
            table(&["NAME", "ADDRESS"], &rows),
            "NAME       ADDRESS\nwiki       10.0.0.1\nlong-name  x\n"
        );
    }

    #[test]
    fn control_characters_in_names_do_not_reach_the_terminal() {
        assert_eq!(cell(&Value::String("a\u{1b}[31mb".into())), "a·[31mb");
    }

    #[test]
    fn control_characters_in_what_went_wrong_do_not_reach_the_terminal() {
        let failure = Failure::say(Outcome::Usage, "net.toml:1: unknown field `\u{1b}]0;x\u{7}`\nline two");
        assert_eq!(failure.text(), "net.toml:1: unknown field `·]0;x·`\nline two");
    }

    #[test]
    fn a_cause_that_its_error_names_already_is_said_once() {
        let error: anyhow::Error = Err::<(), _>(std::io::Error::other("no such host"))
            .context("https://a.example cannot be reached: no such host")
            .context("the pop process")
            .unwrap_err();
        assert_eq!(said(&error), "the pop process: https://a.example cannot be reached: no such host");
    }

    #[test]
    fn a_directory_that_is_not_enrolled_has_its_own_exit_code_however_deep_it_is_said() {
        let scratch = tempfile::tempdir().unwrap();
        let error = state::StateDir::expect(scratch.path(), trust::Role::Device).unwrap_err();
        let failure = Failure::from(anyhow::Error::new(error).context("the client"));
        assert_eq!(failure.outcome, Outcome::NotRunning);
    }
}
