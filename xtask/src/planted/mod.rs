//! `cargo xtask planted`: the tests are tested. Each bug breaks one invariant, and the test, drill or simulation that is
//! named beside it has to go red. One build has all of them; the environment chooses.

mod table;

use crate::process::Interrupt;
use anyhow::{Context as _, Result, bail, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use table::{Notices, PLANTED, Planted};

/// What chooses the bug in a build that has them all.
const CHOICE: &str = "TIDEGATE_PLANTED";
/// The feature that builds them in.
const FEATURE: &str = "planted/bugs";
/// A test that a bug keeps from ending has noticed it.
const TEST_ENDS_WITHIN: Duration = Duration::from_secs(240);

/// Which bugs.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only where the bug, its invariant, or what notices it contains this.
    #[arg(long)]
    only: Option<String>,
    /// Only those that tests notice: no drill, no simulation.
    #[arg(long)]
    tests: bool,
    /// Leaves out the run of each test and drill without its bug.
    #[arg(long)]
    without_baseline: bool,
    /// One line of JSON for each bug.
    #[arg(long)]
    json: bool,
}

/// A test program: what runs it, and where.
struct Program {
    executable: PathBuf,
    directory: PathBuf,
}

/// Programs by package and target.
type Programs = BTreeMap<(String, String), Vec<Program>>;

/// What happened to one test, drill or simulation.
enum Outcome {
    Green,
    /// What went red.
    Red(String),
}

/// The bugs that the simulation has to find.
#[cfg(test)]
pub(crate) fn of_the_simulation() -> impl Iterator<Item = &'static str> {
    PLANTED.iter().filter(|planted| matches!(planted.notices, Notices::Sim)).map(|planted| planted.bug)
}

impl Planted {
    fn noticed_by(&self) -> String {
        match self.notices {
            Notices::Test(package, target, name) if package == target => format!("{package}: {name}"),
            Notices::Test(package, target, name) => format!("{package}/{target}: {name}"),
            Notices::Drill(drill, _, level) => format!("drill {drill}: {level}…"),
            Notices::Sim => "simulation".to_owned(),
        }
    }

    fn is_wanted(&self, options: &Options) -> bool {
        let named = |word: &String| {
            self.bug.contains(word.as_str())
                || self.invariant.contains(word.as_str())
                || self.noticed_by().contains(word.as_str())
        };
        let is_test = matches!(self.notices, Notices::Test(..));
        options.only.as_ref().is_none_or(named) && (is_test || !options.tests)
    }
}

/// Plants each bug and demands that it is noticed.
///
/// # Errors
/// A bug survived, or what should notice it is red without one.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let wanted: Vec<&Planted> = PLANTED.iter().filter(|planted| planted.is_wanted(options)).collect();
    ensure!(!wanted.is_empty(), "no planted bug has such a name");
    let programs = build_tests(&wanted)?;
    let place = tempfile::tempdir()?;
    let tidegate = build_tidegate(&wanted, place.path())?;
    let tested = |planted: &Planted, bug: Option<&str>| match planted.notices {
        Notices::Test(package, target, name) => test(&programs, package, target, name, bug),
        Notices::Drill(drill, clients, level) => {
            run_drill(&tidegate, place.path(), drill, clients, level, bug)
        }
        Notices::Sim => match bug {
            // `cargo xtask sim` holds it against no bug at all.
            None => Ok(Outcome::Green),
            Some(bug) => Ok(match crate::sim::seek(bug)? {
                Some((where_, wrong)) => Outcome::Red(format!("{where_}: {wrong}")),
                None => Outcome::Green,
            }),
        },
    };
    let mut held = BTreeSet::new();
    let mut survived = Vec::new();
    for planted in &wanted {
        interrupt.check()?;
        let key = format!("{:?}", planted.notices);
        if !options.without_baseline
            && held.insert(key)
            && let Outcome::Red(what) = tested(planted, None)?
        {
            bail!("nothing is planted, and {} does not hold: {what}", planted.noticed_by());
        }
        let outcome = tested(planted, Some(planted.bug))?;
        say(options, planted, &outcome);
        if matches!(outcome, Outcome::Green) {
            survived.push(planted.bug);
        }
    }
    let invariants: BTreeSet<&str> = wanted.iter().map(|planted| planted.invariant).collect();
    if !options.json {
        println!(
            "{} passed, {} failed; {} invariants",
            wanted.len() - survived.len(),
            survived.len(),
            invariants.len()
        );
    }
    ensure!(survived.is_empty(), "not noticed: {}", survived.join(", "));
    Ok(())
}

fn say(options: &Options, planted: &Planted, outcome: &Outcome) {
    if options.json {
        let red = match outcome {
            Outcome::Green => None,
            Outcome::Red(what) => Some(what),
        };
        let line = serde_json::json!({
            "bug": planted.bug, "invariant": planted.invariant, "noticed_by": planted.noticed_by(),
            "noticed": red.is_some(), "red": red,
        });
        return println!("{line}");
    }
    match outcome {
        Outcome::Red(what) => {
            println!("{} → {} → {}: {what}", planted.bug, planted.invariant, planted.noticed_by());
        }
        Outcome::Green => {
            println!("{} → {} → NOT NOTICED by {}", planted.bug, planted.invariant, planted.noticed_by());
        }
    }
}

/// Every test program that is needed, in one build.
fn build_tests(wanted: &[&Planted]) -> Result<Programs> {
    let packages: BTreeSet<&str> = wanted
        .iter()
        .filter_map(|planted| match planted.notices {
            Notices::Test(package, ..) => Some(package),
            _ => None,
        })
        .collect();
    if packages.is_empty() {
        return Ok(Programs::new());
    }
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(crate::repository());
    build.args(["test", "--no-run", "--quiet", "--locked", "--package", "planted", "--features", FEATURE]);
    build.args(packages.iter().flat_map(|package| ["--package", package]));
    build.args(["--message-format", "json"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = build.output().context("starting cargo")?;
    ensure!(output.status.success(), "the build with {FEATURE} failed");
    let said = String::from_utf8_lossy(&output.stdout);
    let mut programs = Programs::new();
    for line in said.lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let (Some(executable), true) = (message["executable"].as_str(), message["profile"]["test"] == true)
        else {
            continue;
        };
        let manifest = Path::new(message["manifest_path"].as_str().context("cargo's messages")?);
        let directory = manifest.parent().context("a manifest has a directory")?.to_owned();
        let package = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let target = message["target"]["name"].as_str().unwrap_or_default().to_owned();
        let program = Program { executable: executable.into(), directory };
        programs.entry((package, target)).or_default().push(program);
    }
    Ok(programs)
}

/// One test, by its name alone. A package's own target and an integration test may have the same name.
fn test(programs: &Programs, package: &str, target: &str, name: &str, bug: Option<&str>) -> Result<Outcome> {
    let found = programs.get(&(package.to_owned(), target.to_owned()));
    let found = found.with_context(|| format!("{package} has no test target {target}"))?;
    for program in found {
        let listed = Command::new(&program.executable)
            .current_dir(&program.directory)
            .args(["--list", "--format", "terse", name])
            .output()
            .context("listing tests")?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let named = |line: &str| {
            let path = line.strip_suffix(": test")?;
            (path == name || path.ends_with(&format!("::{name}"))).then(|| path.to_owned())
        };
        let Some(path) = listed.lines().find_map(named) else { continue };
        return run_test(program, &path, bug);
    }
    bail!("{package}/{target} has no test {name}")
}

fn run_test(program: &Program, path: &str, bug: Option<&str>) -> Result<Outcome> {
    let log = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(&program.executable);
    command.current_dir(&program.directory).args(["--exact", path, "--test-threads", "1"]).env_remove(CHOICE);
    if let Some(bug) = bug {
        command.env(CHOICE, bug);
    }
    let (out, err) = (log.reopen()?, log.reopen()?);
    let mut child =
        command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().context("starting a test")?;
    let deadline = Instant::now() + TEST_ENDS_WITHIN;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Red(format!("did not end within {} s", TEST_ENDS_WITHIN.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if status.success() {
        return Ok(Outcome::Green);
    }
    let said = std::fs::read_to_string(log.path()).unwrap_or_default();
    let panicked = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
    Ok(Outcome::Red(panicked.map_or_else(|| status.to_string(), |line| shortened(line.trim()))))
}

fn shortened(line: &str) -> String {
    const LONGEST: usize = 160;
    if line.chars().count() <= LONGEST {
        return line.to_owned();
    }
    line.chars().take(LONGEST).collect::<String>() + "…"
}

/// The binary whose clocks can be set too, in a place where no other build replaces it.
fn build_tidegate(wanted: &[&Planted], place: &Path) -> Result<PathBuf> {
    let copy = place.join("tidegate");
    if !wanted.iter().any(|planted| matches!(planted.notices, Notices::Drill(..))) {
        return Ok(copy);
    }
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(crate::repository()).args(["build", "--quiet", "--locked", "--package", "tidegate"]);
    build.args(["--package", "planted", "--features"]).arg(format!("{FEATURE},tidegate/test-clock"));
    ensure!(build.status().context("starting cargo")?.success(), "the build with {FEATURE} failed");
    std::fs::copy(crate::target_directory().join("debug/tidegate"), &copy).context("copying the program")?;
    Ok(copy)
}

/// One drill; red when the pass level is not reached, or when the drill ends before it.
fn run_drill(
    tidegate: &Path,
    place: &Path,
    drill: &str,
    clients: &str,
    level: &str,
    bug: Option<&str>,
) -> Result<Outcome> {
    let mut command = Command::new(tidegate);
    command.current_dir(place).args(["--json", "drill", drill, "--clients", clients, "--duration", "40"]);
    command.env_remove(CHOICE).stdin(Stdio::null()).stderr(Stdio::null());
    if let Some(bug) = bug {
        command.env(CHOICE, bug);
    }
    let output = command.output().context("starting the drill")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<serde_json::Value> =
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let is_complete = lines.iter().any(|line| line["event"] == "verdict");
    let words = |line: &serde_json::Value| {
        let (what, measured) = (line["what"].as_str()?, line["measured"].as_str()?);
        (line["holds"] == false).then(|| shortened(&format!("{what}: {measured}")))
    };
    let red: Vec<String> = lines.iter().filter_map(words).collect();
    if !is_complete {
        let error = lines.iter().find_map(|line| line["error"].as_str()).unwrap_or("it gave no verdict");
        // With a bug in it, whatever ends a drill has noticed it; without one it is no verdict at all.
        ensure!(bug.is_some(), "{drill} ended with {} before its verdict: {error}", output.status);
        return Ok(Outcome::Red(shortened(error)));
    }
    Ok(match (bug, red.iter().find(|what| what.starts_with(level)), red.first()) {
        (Some(_), Some(what), _) | (None, _, Some(what)) => Outcome::Red(what.clone()),
        _ => Outcome::Green,
    })
}
