//! `cargo xtask test`: everything that must hold, on a fresh machine or an old one.
//!
//! Each step is a program; a failed step does not stop the next. The last line is the plain count.

mod count;
mod inputs;
mod suite;

use crate::{
    artifacts::{self, Of},
    layers,
    process::Interrupt,
    tools, vectors,
};
use anyhow::{Context as _, Result, ensure};
use count::Count;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Instant,
};
use suite::{Built, Earlier, Runs, Suite};

/// Seeds of each scenario of the simulation, each of its pairs of networks twice.
const SEEDS: &str = "104";
/// Behind those that the tests of `sim` have already run.
const FIRST_SEED: &str = "10000";
const MANY_SEEDS: &str = "2080";
/// The release binary's upper size.
const BINARY_LIMIT: u64 = 40_000_000;
/// Everything that the lints look at and the tests run: the same words each time, or cargo builds hundreds of crates again
/// for a package whose neighbours want other features of them.
const EVERYTHING: [&str; 3] = ["--workspace", "--all-targets", "--locked"];
const RELEASE: [&str; 5] = ["build", "--release", "--locked", "--package", "tidegate"];
const LINTS: &str = "lints, and the build of the tests";
const BUILD: &str = "build of the tests without lints";
/// What a step depends on that runs the built program from outside.
const PROGRAM: Runs<'_> = Runs::WithProgram(Built::Release, &["xtask"]);
const SIMULATION: Runs<'_> = Runs::WithProgram(Built::OfTests("sim"), &["xtask"]);
/// Built from the sources by the step itself.
const PLANTED: Runs<'_> = Runs::WhenChanged(&["sim", "xtask"]);

/// Which steps to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// Leaves out the release build, the demo, the drills and the lab.
    #[arg(long)]
    fast: bool,
    /// Leaves out the outage matrix and the drills, which need the machine for themselves for three minutes.
    #[arg(long, conflicts_with = "fast")]
    without_drills: bool,
    /// Also runs the steps that passed before with the same files.
    #[arg(long)]
    all: bool,
}

/// Runs everything, or everything that something has changed for.
///
/// # Errors
/// A step failed, or the person interrupts. The count is the last line of standard output.
pub fn run(options: Options, interrupt: &Interrupt) -> Result<()> {
    let began = Instant::now();
    keep_own_copy()?;
    let earlier = if options.all { Earlier::Forgotten } else { Earlier::Counts };
    let needs = if options.fast { tools::For::Checks } else { tools::For::Lab };
    let suite = Suite::new(interrupt, earlier);
    suite.step("tools", Runs::Always, || {
        let said = tools::ensure_all(needs, interrupt)?;
        crate::npm::modules("oidc", interrupt)?;
        Ok((Count::ONE_PASSED, said))
    });
    suite.program("format", Runs::Always, cargo(&["fmt", "--all", "--check"]), None);
    suite.step("layers", Runs::Always, || layers::run().map(|()| (Count::ONE_PASSED, String::new())));
    let build = || {
        let mut build = Of::Tests.cargo(&["nextest", "run"], &["--no-run"]);
        build.args(EVERYTHING);
        build
    };
    artifacts::write_settings()?;
    suite.program(LINTS, Runs::Always, linting(build()), None);
    if suite.has_failed(LINTS) {
        // What a lint found ends the build: the tests are to run all the same, and nothing that was built earlier.
        suite.program(BUILD, Runs::Always, build(), None);
    }
    if options.fast {
        checks(&suite, interrupt);
    } else {
        suite.program("release build", Runs::Always, cargo(&RELEASE), None);
        suite.step("binary size", Runs::Always, || binary_size().map(|said| (Count::ONE_PASSED, said)));
        suite.step("nothing of a test build", Runs::Always, || {
            nothing_of_a_test_build().map(|()| (Count::ONE_PASSED, String::new()))
        });
        judges(&suite, options.all, interrupt);
        // The lab mostly waits, the checks mostly compute.
        thread::scope(|lanes| {
            lanes.spawn(|| lab(&suite));
            checks(&suite, interrupt);
        });
        whole_network(&suite, options.all);
        if options.without_drills {
            suite.left_out("the outage matrix and the drills".to_owned());
        } else {
            drills(&suite);
        }
    }
    if options.all {
        let console = Runs::WhenChanged(&["tidegate", "browser", "xtask"]);
        suite.program(
            "console pages, judged by axe-core and Lighthouse",
            console,
            this(&["screenshots"]),
            None,
        );
    } else {
        suite.left_out(
            "the console's pages judged by axe-core and Lighthouse (`--all`, or `cargo xtask screenshots`)"
                .to_owned(),
        );
    }
    interrupt.check()?;
    suite.conclude(began)
}

/// What needs no release build.
fn checks(suite: &Suite, interrupt: &Interrupt) {
    if suite.has_failed(BUILD) {
        return;
    }
    tests(suite);
    // Each computes on one core, and none has a clock to keep.
    thread::scope(|lanes| {
        lanes.spawn(|| {
            let seeds = ["--first", FIRST_SEED, "--seeds", SEEDS];
            suite.program("simulation", SIMULATION, built("sim", &seeds), None);
            many_seeds(suite, "steady");
        });
        small_checks(suite, interrupt);
        many_seeds(suite, "roam");
        many_seeds(suite, "faults");
        suite.program("simulation finds planted bugs", PLANTED, this(&["sim", "--planted"]), None);
    });
}

/// A scenario of which the tests run few seeds, since one costs ten milliseconds or more; the tests themselves run as many of others.
fn many_seeds(suite: &Suite, scenario: &str) {
    let arguments = ["--scenario", scenario, "--first", "20000", "--seeds", MANY_SEEDS];
    suite.program(&format!("simulation of {scenario}"), SIMULATION, built("sim", &arguments), None);
}

fn small_checks(suite: &Suite, interrupt: &Interrupt) {
    let doc = Of::Tests.cargo(&["test"], &["--workspace", "--doc", "--locked", "--no-fail-fast"]);
    // The binary's package depends on every other that has examples.
    let doc = as_built(suite, doc);
    suite.program("doc examples", Runs::WhenChanged(&["tidegate"]), doc, Some(count::libtest));
    suite.program(
        "fuzz corpus",
        Runs::WithProgram(Built::OfTests("replay"), &[]),
        built("replay", &[]),
        Some(count::plain),
    );
    suite.step("golden vectors", Runs::Always, || {
        vectors::run(interrupt).map(|said| (count::plain(&said).unwrap_or(Count::ONE_PASSED), said))
    });
    suite.step("no foreign crypto", Runs::Always, || {
        no_foreign_crypto().map(|()| (Count::ONE_PASSED, String::new()))
    });
}

/// The tests of the binaries that something has changed for.
fn tests(suite: &Suite) {
    const NAME: &str = "tests";
    let changed = listed(suite).and_then(|listed| suite.changed(NAME, &listed));
    if changed.as_ref().is_some_and(|changed| changed.binaries.is_empty()) {
        suite.left_out(NAME.to_owned());
        println!("── {NAME}: unchanged in every package");
        return;
    }
    let mut command = as_built(suite, Of::Tests.cargo(&["nextest", "run"], &["--no-fail-fast"]));
    command.args(EVERYTHING).args(["--test-threads", &at_once().to_string()]);
    if let Some(changed) = changed.as_ref().filter(|changed| changed.binaries.len() < changed.all) {
        // Built as ever, so that features are unified as ever; only what runs is chosen.
        let chosen: Vec<String> =
            changed.binaries.iter().map(|(binary, _)| format!("binary_id(={})", binary.id)).collect();
        command.args(["--no-tests", "pass", "--filterset", &chosen.join(" + ")]);
        println!("   {NAME}: of {} of {} test binaries", chosen.len(), changed.all);
    }
    let mut passed = false;
    suite.step(NAME, Runs::Always, || {
        let (count, said) = suite.counted(command, Some(count::nextest))?;
        passed = count.failed == 0;
        Ok((count, said))
    });
    let Some(changed) = changed.filter(|_| passed) else { return };
    suite.keep_parts(NAME, &changed);
    if changed.binaries.len() < changed.all {
        suite.left_out(format!("the tests of {} other binaries", changed.all - changed.binaries.len()));
    }
}

/// The test binaries as they were built, in nextest's own words. Where it cannot say, everything runs.
fn listed(suite: &Suite) -> Option<Vec<u8>> {
    let format = ["--list-type", "binaries-only", "--message-format", "json"];
    let mut command = as_built(suite, Of::Tests.cargo(&["nextest", "list"], &format));
    command.args(EVERYTHING).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|output| output.status.success());
    output.map(|output| output.stdout)
}

/// How many tests run at once: a third of the time of one is waiting for a deadline, a frozen server or a lost packet.
fn at_once() -> usize {
    let cores = thread::available_parallelism().map_or(2, usize::from);
    cores + cores / 2
}

/// The API, judged by programs that nobody here wrote; schemathesis, which asks for a quarter of an hour, with `--all`.
fn judges(suite: &Suite, is_all: bool, interrupt: &Interrupt) {
    use crate::judges;
    suite.step("redocly", Runs::WhenChanged(&["controller", "xtask"]), || {
        judges::redocly(interrupt).map(|said| (Count::ONE_PASSED, said))
    });
    suite.step("kubernetes", Runs::WhenChanged(&["controller", "xtask"]), || {
        judges::kubernetes(interrupt).map(|said| (Count::ONE_PASSED, said))
    });
    if !is_all {
        return suite.left_out("schemathesis (`--all`, or `cargo xtask judges`)".to_owned());
    }
    suite.step("schemathesis", PROGRAM, || {
        let depth = judges::Depth::Long;
        judges::schemathesis(&release_binary(), depth, None, interrupt).map(|said| (Count::ONE_PASSED, said))
    });
}

/// What runs the release binary beside other things: of its pass levels of time, none is shorter than a second.
fn lab(suite: &Suite) {
    let mut demo = Command::new(release_binary());
    demo.args(["demo", "--check"]);
    suite.program("demo", PROGRAM, demo, None);
    for name in ["self-check", "first-bytes"] {
        suite.program(&format!("lab {name}"), PROGRAM, this(&["lab", name]), Some(count::plain));
    }
    suite.program("lab nat", PROGRAM, this(&["lab", "nat", "--quick"]), Some(count::plain));
    // What is promised of a registered client's first byte, and of what the console shows of paths.
    for name in ["long uplink", "draws each path"] {
        let scenario = this(&["lab", "nat-scenarios", "--only", name]);
        suite.program(&format!("lab nat-scenarios, {name}"), PROGRAM, scenario, Some(count::plain));
    }
}

/// Alone on the machine: its resolver has figures to reach.
fn whole_network(suite: &Suite, is_all: bool) {
    let mut arguments = vec!["lab", "whole-network"];
    if !is_all {
        arguments.extend(["--mode", "userspace"]);
        suite.left_out("the whole network with a connector in kernel mode (`--all`)".to_owned());
    }
    suite.program("lab whole-network", PROGRAM, this(&arguments), Some(count::plain));
}

/// One cell of every row and column of the outage matrix, then the founding outages and the loss of a database's primary,
/// each time, smaller than a person would run them and with the same pass levels: alone on the machine, two at a time.
fn drills(suite: &Suite) {
    let cover = ["outage-matrix", "--cover", "--lanes", "4"];
    suite.program("outage matrix, each row and column once", PROGRAM, this(&cover), None);
    thread::scope(|lanes| {
        lanes.spawn(|| {
            drill(suite, "database-brownout", &[]);
            drill(suite, "holepunch-surge", &[]);
        });
        // The first on a server, too: a file and a server fail in different ways.
        drill(suite, "database-brownout", &["--database", "postgres"]);
        drill(suite, "primary-loss", &[]);
    });
}

fn drill(suite: &Suite, name: &str, more: &[&str]) {
    let words = [&[name], more].concat().join(" ");
    let report = crate::target_directory().join(format!("drill-{}.html", words.replace(' ', "-")));
    let mut drill = Command::new(release_binary());
    drill.arg("drill").arg(name).args(more);
    drill.args(["--clients", "120", "--duration", "30", "--report"]).arg(report);
    suite.program(&format!("drill {words}"), PROGRAM, drill, None);
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments);
    command
}

/// Clippy's driver is the compiler of the workspace's own crates: it lints what it builds, and 500 crates that `cargo clippy`
/// would only check are compiled once (ADR 0027).
fn linting(mut command: Command) -> Command {
    let beside = PathBuf::from(env!("CARGO")).with_file_name("clippy-driver");
    let driver = if beside.is_file() { beside } else { PathBuf::from("clippy-driver") };
    command.env("RUSTC_WORKSPACE_WRAPPER", driver);
    command.env("CLIPPY_ARGS", "-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__");
    command
}

/// Runs what the lints have built, or what was built without them.
fn as_built(suite: &Suite, command: Command) -> Command {
    if suite.has_failed(LINTS) { command } else { linting(command) }
}

/// A program of the workspace's own, as the tests' build left it.
fn built(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(Of::Tests.program(name));
    command.args(arguments).current_dir(crate::repository());
    command
}

/// Set for programs that a suite runs, which has built what they judge.
const OF_THE_SUITE: &str = "TIDEGATE_SUITE_HAS_BUILT";

/// This very program: the copy that `keep_own_copy` made, since a step may build it anew meanwhile.
fn this(arguments: &[&str]) -> Command {
    let mut command = Command::new(own_copy());
    command.args(arguments).env(OF_THE_SUITE, "1");
    command
}

fn own_copy() -> PathBuf {
    crate::target_directory().join("xtask-test/xtask")
}

fn keep_own_copy() -> Result<()> {
    let copy = own_copy();
    fs::create_dir_all(copy.parent().context("the copy has a directory")?)?;
    let partial = copy.with_extension("partial");
    fs::copy(std::env::current_exe()?, &partial).context("copying this program")?;
    fs::rename(&partial, &copy).with_context(|| format!("cannot write {}", copy.display()))
}

/// Where cargo puts the release binary.
pub fn release_binary() -> PathBuf {
    crate::target_directory().join("release/tidegate")
}

/// The release binary of the sources as they are: a judge of yesterday's program would find nothing of today's.
///
/// # Errors
/// It does not build.
pub fn fresh_release_binary() -> Result<PathBuf> {
    if std::env::var_os(OF_THE_SUITE).is_some() {
        return Ok(release_binary());
    }
    let status = cargo(&RELEASE).status().context("starting cargo")?;
    ensure!(status.success(), "cargo {}: {status}", RELEASE.join(" "));
    Ok(release_binary())
}

fn binary_size() -> Result<String> {
    let binary = release_binary();
    let size = fs::metadata(&binary).with_context(|| format!("no binary at {}", binary.display()))?.len();
    ensure!(size <= BINARY_LIMIT, "{size} bytes, the limit is {BINARY_LIMIT}");
    Ok(format!("{:.1} MB", size as f64 / 1e6))
}

/// Clocks that can be set and bugs on purpose are in no binary that ships.
fn nothing_of_a_test_build() -> Result<()> {
    let binary = fs::read(release_binary()).context("the release binary")?;
    for word in ["TIDEGATE_TEST_CLOCK", "TIDEGATE_PLANTED"] {
        ensure!(
            !binary.windows(word.len()).any(|window| window == word.as_bytes()),
            "{word} is in the release binary"
        );
    }
    Ok(())
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
