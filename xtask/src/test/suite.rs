//! Running steps, one after the other or in two lanes, and keeping what came of them.

use super::{
    count::Count,
    inputs::{Binary, Fingerprint, Graph, Inputs, Memory, Passed},
};
use crate::{
    artifacts::Of,
    process::{Interrupt, describe, tail},
};
use anyhow::{Context as _, Result, ensure};
use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// No step of this suite takes longer, on two cores from an empty target directory.
const STEP_DEADLINE: Duration = Duration::from_secs(20 * 60);

/// When a step has to run.
#[derive(Debug, Clone, Copy)]
pub enum Runs<'a> {
    /// Each time: it costs little, or cargo itself knows what has changed.
    Always,
    /// Unless it passed with the same inputs: these packages and what they depend on.
    WhenChanged(&'a [&'a str]),
    /// Unless it passed with the same program as it was built, and with the same inputs of these packages.
    WithProgram(Built, &'a [&'a str]),
}

/// A program that a step runs.
#[derive(Debug, Clone, Copy)]
pub enum Built {
    /// What ships.
    Release,
    /// A program of the tests' build.
    OfTests(&'static str),
}

impl Built {
    fn path(self) -> PathBuf {
        match self {
            Self::Release => super::release_binary(),
            Self::OfTests(name) => Of::Tests.program(name),
        }
    }
}

impl Runs<'_> {
    fn fingerprint(self, inputs: &Inputs<'_>) -> Option<Result<Fingerprint>> {
        match self {
            Self::Always => None,
            Self::WhenChanged(packages) => Some(inputs.fingerprint(packages)),
            Self::WithProgram(built, packages) => Some(inputs.of_program(&built.path(), packages)),
        }
    }
}

/// Whether what passed earlier counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// It does.
    Counts,
    /// Everything runs.
    Forgotten,
}

/// What has to run of a step that runs test binaries.
#[derive(Debug)]
pub struct Changed {
    /// How many binaries there are.
    pub all: usize,
    /// Those that have not passed as they are.
    pub binaries: Vec<(Binary, Fingerprint)>,
}

/// What has come of the steps so far.
#[derive(Debug, Default)]
struct Outcome {
    total: Count,
    failures: Vec<String>,
    unchanged: Vec<String>,
}

/// The steps of one run.
#[derive(Debug)]
pub struct Suite {
    interrupt: Interrupt,
    earlier: Earlier,
    /// Without it every step runs.
    graph: Option<Graph>,
    memory: Mutex<Memory>,
    outcome: Mutex<Outcome>,
}

impl Suite {
    /// Nothing has run yet.
    pub fn new(interrupt: &Interrupt, earlier: Earlier) -> Self {
        let graph = Graph::read()
            .inspect_err(|error| {
                println!("what depends on what cannot be read, so everything runs: {error:#}")
            })
            .ok();
        Self {
            interrupt: interrupt.clone(),
            earlier,
            graph,
            memory: Mutex::new(Memory::load()),
            outcome: Mutex::default(),
        }
    }

    /// Runs one step, prints its verdict and adds its count. Lines of a step in another lane stand between
    /// its own: each names its step where it matters.
    pub fn step(&self, name: &str, runs: Runs<'_>, work: impl FnOnce() -> Result<(Count, String)>) {
        if self.interrupt.check().is_err() {
            return;
        }
        let inputs = self.inputs(runs);
        if let Some(ago) = inputs.as_ref().and_then(|inputs| self.passed_before(name, inputs)) {
            println!("── {name}: unchanged, passed {ago}");
            lock(&self.outcome).unchanged.push(name.to_owned());
            return;
        }
        println!("── {name}");
        let started = Instant::now();
        let (count, said) = match work() {
            Ok((count, said)) => (count, said),
            Err(error) => (Count::ONE_FAILED, format!("{error:#}")),
        };
        let verdict = if count.failed == 0 { "passed" } else { "FAILED" };
        println!("   {name}: {verdict} in {:.1} s  {}", started.elapsed().as_secs_f64(), said.trim_end());
        let mut outcome = lock(&self.outcome);
        outcome.total = outcome.total.plus(count);
        if count.failed > 0 {
            outcome.failures.push(name.to_owned());
            return;
        }
        drop(outcome);
        if let Some(inputs) = inputs {
            self.keep(&[(name.to_owned(), inputs)], |after, _| runs.fingerprint(after).and_then(Result::ok));
        }
    }

    /// A step that is a program. With `counter`, its inner tests are counted; a program that fails
    /// without a failed inner test counts as one failure.
    pub fn program(
        &self,
        name: &str,
        runs: Runs<'_>,
        command: Command,
        counter: Option<fn(&str) -> Option<Count>>,
    ) {
        self.step(name, runs, || self.counted(command, counter));
    }

    /// Runs a program and counts what it says.
    pub fn counted(
        &self,
        command: Command,
        counter: Option<fn(&str) -> Option<Count>>,
    ) -> Result<(Count, String)> {
        let (ended_well, said) = stream(command, &self.interrupt)?;
        let counted = counter.and_then(|counter| counter(&said));
        let count = match (ended_well, counted) {
            (true, Some(count)) => count,
            (true, None) => {
                ensure!(counter.is_none(), "ended well without the count of what it ran");
                Count::ONE_PASSED
            }
            (false, Some(count)) if count.failed > 0 => count,
            (false, Some(count)) => count.plus(Count::ONE_FAILED),
            (false, None) => anyhow::bail!("failed; its last words:\n{}", tail(&said, 25)),
        };
        let detail = counted.map(|count| format!("{} passed, {} failed", count.passed, count.failed));
        Ok((count, detail.unwrap_or_default()))
    }

    /// The test binaries whose part of `step` has not passed as they are now, and how many there are; `None` when that cannot
    /// be known.
    pub fn changed(&self, step: &str, listed: &[u8]) -> Option<Changed> {
        let graph = self.graph.as_ref()?;
        let said = |error: &anyhow::Error| {
            println!("   what passed before is not known, so everything runs: {error:#}")
        };
        let inputs = Inputs::read(graph).inspect_err(said).ok()?;
        let binaries = Binary::all(listed, graph).inspect_err(said).ok()?;
        let memory = lock(&self.memory);
        let mut changed = Changed { all: binaries.len(), binaries: Vec::new() };
        for binary in binaries {
            let now = inputs.of_tests(&binary).ok()?;
            let passed = memory.passed(&part(step, &binary.id), &now).is_some();
            if self.earlier == Earlier::Forgotten || !passed {
                changed.binaries.push((binary, now));
            }
        }
        Some(changed)
    }

    /// Keeps that these binaries' parts of `step` passed.
    pub fn keep_parts(&self, step: &str, changed: &Changed) {
        let passed: Vec<_> = changed
            .binaries
            .iter()
            .map(|(binary, inputs)| (part(step, &binary.id), inputs.clone()))
            .collect();
        // What ran may have been built anew after it was listed.
        self.keep(&passed, |after, place| after.of_tests(&changed.binaries[place].0.again().ok()?).ok());
    }

    /// The inputs of a step that can be left out. Where they cannot be read, it runs.
    fn inputs(&self, runs: Runs<'_>) -> Option<Fingerprint> {
        let graph = self.graph.as_ref().filter(|_| !matches!(runs, Runs::Always))?;
        let read = Inputs::read(graph).and_then(|inputs| runs.fingerprint(&inputs).transpose());
        read.inspect_err(|error| println!("   its inputs cannot be read, so it runs: {error:#}"))
            .ok()
            .flatten()
    }

    fn passed_before(&self, name: &str, inputs: &Fingerprint) -> Option<String> {
        if self.earlier == Earlier::Forgotten {
            return None;
        }
        lock(&self.memory).passed(name, inputs).map(Passed::ago)
    }

    /// Keeps what passed, unless a file was changed while it ran: then nobody knows what it ran with. `again` gives the inputs of
    /// each by its place, as they are afterwards.
    fn keep(
        &self,
        passed: &[(String, Fingerprint)],
        again: impl Fn(&Inputs<'_>, usize) -> Option<Fingerprint>,
    ) {
        let after = self.graph.as_ref().and_then(|graph| Inputs::read(graph).ok());
        for (place, (step, before)) in passed.iter().enumerate() {
            let after = after.as_ref().and_then(|inputs| again(inputs, place));
            if after.as_ref() != Some(before) {
                println!("   {step}: files were changed while it ran; it will run again");
            } else if let Err(error) = lock(&self.memory).keep(step, before.clone()) {
                println!("   {step}: that it passed could not be kept: {error:#}");
            }
        }
    }

    /// Prints what failed and the plain count, which is the last line.
    ///
    /// # Errors
    /// Something failed.
    pub fn conclude(&self, began: Instant) -> Result<()> {
        let outcome = lock(&self.outcome);
        println!("\n{:.0} s in all", began.elapsed().as_secs_f64());
        if !outcome.unchanged.is_empty() {
            println!(
                "not run again, since nothing they depend on has changed: {} (--all runs them)",
                outcome.unchanged.join(", ")
            );
        }
        for failure in &outcome.failures {
            println!("failed: {failure}");
        }
        println!("{} passed, {} failed", outcome.total.passed, outcome.total.failed);
        ensure!(outcome.total.failed == 0, "{} failed", outcome.total.failed);
        Ok(())
    }

    /// Whether a step has run and failed.
    pub fn has_failed(&self, name: &str) -> bool {
        lock(&self.outcome).failures.iter().any(|failed| failed == name)
    }

    /// Says that parts of a step were left out.
    pub fn left_out(&self, what: String) {
        lock(&self.outcome).unchanged.push(what);
    }
}

fn part(step: &str, binary: &str) -> String {
    format!("{step} of {binary}")
}

/// A step that panicked has already said so; what the others found still counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a program, shows its lines as they come, and keeps them.
fn stream(mut command: Command, interrupt: &Interrupt) -> Result<(bool, String)> {
    let what = describe(&command);
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
    // As root everything that a test wants is installed: a test that would go without it fails.
    if crate::lab::is_root() {
        command.env("TIDEGATE_REQUIRE_MINIUPNPD", "1");
    }
    let lines = thread::spawn(move || {
        let mut said = String::new();
        for line in BufReader::new(reader).lines().map_while(Result::ok) {
            println!("   {line}");
            said.push_str(&line);
            said.push('\n');
        }
        said
    });
    let status = crate::process::run_visible(&mut command, STEP_DEADLINE, interrupt);
    // The command holds the pipe's writing end: without it the reader sees the end.
    drop(command);
    let said = lines.join().unwrap_or_default();
    let status = status.with_context(|| format!("{what}; its last words:\n{}", tail(&said, 25)))?;
    Ok((status.success(), said))
}
