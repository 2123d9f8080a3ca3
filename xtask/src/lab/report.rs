//! One line for each step: what, how long, what was seen.

use anyhow::Result;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// How the lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a step found: a value for the next steps, and fields to print.
#[derive(Debug)]
pub struct Seen<T> {
    value: T,
    fields: Map<String, Value>,
}

impl<T> Seen<T> {
    /// A value and nothing to print.
    pub fn new(value: T) -> Self {
        Self { value, fields: Map::new() }
    }

    /// Adds a field to the line.
    pub fn with(mut self, name: &str, field: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), field.into());
        self
    }
}

impl From<()> for Seen<()> {
    fn from((): ()) -> Self {
        Self::new(())
    }
}

/// The count of steps.
#[derive(Debug)]
pub struct Report {
    form: Form,
    about: String,
    began: Instant,
    passed: u32,
    failed: u32,
    /// What the last failed step said.
    last_failure: Option<String>,
}

impl Report {
    /// An empty report; its clock starts now.
    pub fn new(form: Form) -> Self {
        Self { form, about: String::new(), began: Instant::now(), passed: 0, failed: 0, last_failure: None }
    }

    /// Runs a step that later steps need: its failure is the caller's end.
    ///
    /// # Errors
    /// The step failed; it has been printed and counted.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<Seen<T>>) -> Result<T> {
        let started = Instant::now();
        match work() {
            Ok(seen) => {
                self.passed += 1;
                self.print(name, started, "passed", seen.fields);
                Ok(seen.value)
            }
            Err(error) => {
                self.failed += 1;
                self.last_failure = Some(format!("{error:#}"));
                let fields = Map::from_iter([("error".to_owned(), json!(format!("{error:#}")))]);
                self.print(name, started, "FAILED", fields);
                Err(error)
            }
        }
    }

    /// What the next steps are about, said in front of each; nothing more after an empty one.
    pub fn about(&mut self, what: &str) {
        what.clone_into(&mut self.about);
    }

    /// Runs a step that no other step needs: the run goes on whatever it says.
    pub fn check(&mut self, name: &str, work: impl FnOnce() -> Result<Seen<()>>) {
        // Printed and counted by `step`.
        let _ = self.step(name, work);
    }

    /// Takes how a sequence of steps ended: at its end, at a step that failed and has said so, or between two steps, which
    /// nobody has said or counted yet.
    pub fn ended<T>(&mut self, steps: Result<T>) -> Option<T> {
        match steps {
            Ok(value) => Some(value),
            Err(error) if self.last_failure.as_deref() == Some(&format!("{error:#}")) => None,
            Err(error) => {
                self.check("what stands between the steps", || Err(error));
                None
            }
        }
    }

    /// Whether every step passed, after printing the count.
    pub fn finish(self) -> Outcome {
        let (passed, failed) = (self.passed, self.failed);
        let took = self.began.elapsed();
        match self.form {
            Form::Text => {
                println!("lab: {passed} steps passed, {failed} failed in {:.1} s", took.as_secs_f64())
            }
            Form::Json => println!(
                "{}",
                json!({"summary": true, "passed": passed, "failed": failed, "ms": whole_ms(took)})
            ),
        }
        Outcome { passed, failed }
    }

    fn print(&self, name: &str, started: Instant, verdict: &str, fields: Map<String, Value>) {
        let took = started.elapsed();
        let name = if self.about.is_empty() { name.to_owned() } else { format!("{}: {name}", self.about) };
        match self.form {
            Form::Text => {
                let details: Vec<String> = fields
                    .iter()
                    .map(|(name, field)| match field {
                        Value::String(text) => format!("{name}={text}"),
                        other => format!("{name}={other}"),
                    })
                    .collect();
                println!("{verdict} {:>8.3} s  {name}  {}", took.as_secs_f64(), details.join(" "));
            }
            Form::Json => {
                let mut line = Map::from_iter([
                    ("step".to_owned(), json!(name)),
                    ("ok".to_owned(), json!(verdict == "passed")),
                    ("ms".to_owned(), json!(whole_ms(took))),
                ]);
                line.extend(fields);
                println!("{}", Value::Object(line));
            }
        }
    }
}

/// Milliseconds for JSON.
pub fn whole_ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The count at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Steps that passed.
    pub passed: u32,
    /// Steps that failed.
    pub failed: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_steps_are_counted_and_do_not_end_the_run() {
        let mut report = Report::new(Form::Json);
        report.check("fails", || anyhow::bail!("planted"));
        report.check("passes", || Ok(Seen::new(())));
        assert_eq!(report.finish(), Outcome { passed: 1, failed: 1 });
    }

    #[test]
    fn what_fails_between_two_steps_is_counted_and_what_a_step_has_said_is_not_counted_twice() {
        let mut report = Report::new(Form::Json);
        let ended: Result<()> = Err(anyhow::anyhow!("no binary"));
        assert!(report.ended(ended).is_none());
        let failed = report.step("fails", || -> Result<Seen<()>> { anyhow::bail!("planted") });
        assert!(report.ended(failed).is_none());
        assert_eq!(report.ended(Ok(7)), Some(7));
        assert_eq!(report.finish(), Outcome { passed: 0, failed: 2 });
    }
}
