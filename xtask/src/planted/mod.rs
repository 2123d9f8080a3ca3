//! `cargo xtask planted`: each drill goes red on the bug that was planted for it.

use crate::process::Interrupt;
use anyhow::{Context as _, Result, bail, ensure};
use std::process::{Command, Stdio};

/// A bug, and what has to notice it.
struct Planted {
    feature: &'static str,
    drill: &'static str,
    clients: &'static str,
    /// Begins the pass level that goes red; other levels may.
    level: &'static str,
}

const PLANTED: &[Planted] = &[
    Planted {
        feature: "planted-renewal-asks-database",
        drill: "database-brownout",
        clients: "60",
        level: "re-authentications",
    },
    Planted {
        feature: "planted-one-queue",
        drill: "holepunch-surge",
        clients: "1500",
        level: "registrations of clients that are not broken",
    },
    Planted {
        feature: "planted-forgets-its-reset-key",
        drill: "reconnect-storm",
        clients: "60",
        level: "everybody is registered again",
    },
    Planted {
        feature: "planted-start-asks-database",
        drill: "cold-cache",
        clients: "60",
        level: "from the start of the controller",
    },
    Planted {
        feature: "planted-stays-at-its-pop",
        drill: "black-hole-relay",
        clients: "60",
        level: "running connections answer again",
    },
];

/// Which bugs.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only bugs and drills whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Leaves out the run of each drill without its bug.
    #[arg(long)]
    without_baseline: bool,
}

/// Plants each bug in a test build and runs its drill; without the bug the drill holds, with it the level is red.
///
/// # Errors
/// A bug was not noticed, or a drill does not hold without one.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let wanted = |planted: &&Planted| {
        options
            .only
            .as_ref()
            .is_none_or(|word| planted.feature.contains(word) || planted.drill.contains(word))
    };
    let mut noticed = 0;
    for planted in PLANTED.iter().filter(wanted) {
        interrupt.check()?;
        if !options.without_baseline {
            let red = drill(None, planted)?;
            ensure!(red.is_empty(), "nothing is planted, and {} does not hold: {red:?}", planted.drill);
            println!("nothing planted: {} holds", planted.drill);
        }
        let red = drill(Some(planted.feature), planted)?;
        match red.iter().find(|what| what.starts_with(planted.level)) {
            Some(level) => println!("{}: noticed by {}: {level}", planted.feature, planted.drill),
            None => bail!("{} was not noticed by {}: {red:?} is red", planted.feature, planted.drill),
        }
        noticed += 1;
    }
    ensure!(noticed > 0, "no planted bug has such a name");
    println!("{noticed} passed, 0 failed");
    Ok(())
}

/// The pass levels that are not reached; a drill that ends before its verdict has its error as the only one.
fn drill(feature: Option<&str>, planted: &Planted) -> Result<Vec<String>> {
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(crate::repository()).args(["build", "--quiet", "--locked", "--package", "tidegate"]);
    build.args(feature.map(|feature| ["--features", feature]).into_iter().flatten());
    ensure!(build.status().context("starting cargo")?.success(), "the build with {feature:?} failed");
    let place = tempfile::tempdir()?;
    let mut drill = Command::new(crate::target_directory().join("debug/tidegate"));
    drill.current_dir(place.path()).args(["--json", "drill", planted.drill, "--clients", planted.clients]);
    drill.args(["--duration", "40"]).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = drill.output().context("starting the drill")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let lines = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut red = Vec::new();
    let mut is_complete = false;
    for line in lines {
        is_complete |= line["event"] == "verdict";
        if line["holds"] == false
            && let Some(what) = line["what"].as_str()
        {
            red.push(what.to_owned());
        }
        if let Some(error) = line["error"].as_str()
            && !is_complete
        {
            red.push(error.to_owned());
        }
    }
    ensure!(
        output.status.success() == red.is_empty(),
        "{} ended with {} and said {said}",
        planted.drill,
        output.status
    );
    Ok(red)
}
