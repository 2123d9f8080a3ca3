//! `cargo xtask test`: everything that must hold, on a fresh machine or an old one.
//!
//! Each step is a program; a failed step does not stop the next. The last line is the plain count.

mod count;

use crate::{
    layers,
    process::{Interrupt, describe, tail},
    tools, vectors,
};
use anyhow::{Context as _, Result, ensure};
use count::Count;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// No step of this suite takes longer, on two cores from an empty target directory.
const STEP_DEADLINE: Duration = Duration::from_secs(20 * 60);
/// Seeds of each scenario of the simulation: each cell of the expected table twice, half a minute of one core.
const SEEDS: &str = "104";
/// The release binary's upper size.
const BINARY_LIMIT: u64 = 40 * 1024 * 1024;

/// Which steps to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// Leaves out the release build, the demo and the lab.
    #[arg(long)]
    fast: bool,
}

struct Suite<'a> {
    interrupt: &'a Interrupt,
    total: Count,
    failures: Vec<String>,
}

/// Runs everything.
///
/// # Errors
/// A step failed, or the person interrupts. The count is the last line of standard output.
pub fn run(options: Options, interrupt: &Interrupt) -> Result<()> {
    let began = Instant::now();
    let mut suite = Suite { interrupt, total: Count::default(), failures: Vec::new() };
    let needs = if options.fast { tools::For::Checks } else { tools::For::Lab };
    suite.step("tools", || tools::ensure_all(needs, interrupt).map(|said| (Count::ONE_PASSED, said)));
    suite.program("format", cargo(&["fmt", "--all", "--check"]), None);
    suite.step("layers", || layers::run().map(|()| (Count::ONE_PASSED, String::new())));
    suite.program(
        "lints",
        cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
        None,
    );
    suite.program(
        "tests",
        cargo(&["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]),
        Some(count::nextest),
    );
    suite.program(
        "doc examples",
        cargo(&["test", "--workspace", "--doc", "--locked", "--no-fail-fast"]),
        Some(count::libtest),
    );
    suite.program("fuzz corpus", cargo(REPLAY), Some(count::plain));
    suite.program("simulation", this(&["sim", "--seeds", SEEDS]), None);
    suite.step("golden vectors", || {
        vectors::run(interrupt).map(|said| (count::plain(&said).unwrap_or(Count::ONE_PASSED), said))
    });
    suite.step("no foreign crypto", || no_foreign_crypto().map(|()| (Count::ONE_PASSED, String::new())));
    if !options.fast {
        suite.program(
            "release build",
            cargo(&["build", "--release", "--locked", "--package", "tidegate"]),
            None,
        );
        suite.step("binary size", || binary_size().map(|said| (Count::ONE_PASSED, said)));
        let mut demo = Command::new(release_binary());
        demo.args(["demo", "--check"]);
        suite.program("demo", demo, None);
        // The founding outages, each time: smaller than a person would run them, with the same pass levels.
        for name in ["database-brownout", "holepunch-surge"] {
            let report = crate::target_directory().join(format!("drill-{name}.html"));
            let mut drill = Command::new(release_binary());
            drill.args(["drill", name, "--clients", "120", "--duration", "30", "--report"]).arg(report);
            suite.program(&format!("drill {name}"), drill, None);
        }
        suite.program("simulation finds planted bugs", this(&["sim", "--planted"]), None);
        suite.program("lab self-check", this(&["lab", "self-check"]), Some(count::plain));
        suite.program("lab first-bytes", this(&["lab", "first-bytes"]), Some(count::plain));
        suite.program("lab nat", this(&["lab", "nat", "--quick"]), Some(count::plain));
    }
    interrupt.check()?;
    println!("\n{:.0} s in all", began.elapsed().as_secs_f64());
    for failure in &suite.failures {
        println!("failed: {failure}");
    }
    println!("{} passed, {} failed", suite.total.passed, suite.total.failed);
    ensure!(suite.total.failed == 0, "{} failed", suite.total.failed);
    Ok(())
}

const REPLAY: &[&str] = &["run", "--quiet", "--locked", "--package", "fuzz-targets", "--bin", "replay"];

impl Suite<'_> {
    /// Runs one step, prints its verdict and adds its count.
    fn step(&mut self, name: &str, work: impl FnOnce() -> Result<(Count, String)>) {
        if self.interrupt.check().is_err() {
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
        if count.failed > 0 {
            self.failures.push(name.to_owned());
        }
        self.total = self.total.plus(count);
    }

    /// A step that is a program. With `counter`, its inner tests are counted; a program that fails
    /// without a failed inner test counts as one failure.
    fn program(&mut self, name: &str, command: Command, counter: Option<fn(&str) -> Option<Count>>) {
        let interrupt = self.interrupt.clone();
        self.step(name, || {
            let (ended_well, said) = stream(command, &interrupt)?;
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
        });
    }
}

/// Runs a program, shows its lines as they come, and keeps them.
fn stream(mut command: Command, interrupt: &Interrupt) -> Result<(bool, String)> {
    let what = describe(&command);
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never");
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

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    command
}

fn this(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| PathBuf::from("xtask")));
    command.args(arguments);
    command
}

/// Where cargo puts the release binary.
pub fn release_binary() -> PathBuf {
    crate::target_directory().join("release/tidegate")
}

fn binary_size() -> Result<String> {
    let binary = release_binary();
    let size = fs::metadata(&binary).with_context(|| format!("no binary at {}", binary.display()))?.len();
    ensure!(size <= BINARY_LIMIT, "{size} bytes, the limit is {BINARY_LIMIT}");
    Ok(format!("{:.1} MB", size as f64 / 1e6))
}

/// The same question as `cargo xtask layers` asks of the graph, put to `cargo tree` as a person would.
fn no_foreign_crypto() -> Result<()> {
    for package in ["ring", "openssl-sys"] {
        let asked = Command::new(env!("CARGO"))
            .args(["tree", "--workspace", "--locked", "--edges", "normal,build", "--invert", package])
            .stdin(Stdio::null())
            .output()
            .context("cannot run `cargo tree`")?;
        let said = String::from_utf8_lossy(&asked.stdout).into_owned();
        ensure!(said.trim().is_empty(), "`{package}` is built:\n{said}");
        let complaint = String::from_utf8_lossy(&asked.stderr).into_owned();
        let absent =
            complaint.contains("nothing to print") || complaint.contains("did not match any packages");
        ensure!(absent, "`cargo tree` neither lists `{package}` nor says that it is absent: {complaint}");
    }
    Ok(())
}
