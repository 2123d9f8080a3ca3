//! `cargo xtask screenshots`: pictures of every page of the console, judged by axe-core.

use crate::process::{Interrupt, run};
use anyhow::{Result, ensure};
use std::{fs, path::PathBuf, process::Command, time::Duration};

const INSTALL: Duration = Duration::from_secs(5 * 60);

/// Where the pictures go.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder; by default `screenshots` under the build directory.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// axe-core from npm, as the lockfile in `tests/judges/axe` names it.
fn axe(interrupt: &Interrupt) -> Result<PathBuf> {
    let source = crate::repository().join("tests/judges/axe");
    let place = crate::target_directory().join("judges/axe");
    fs::create_dir_all(&place)?;
    let script = place.join("node_modules/axe-core/axe.min.js");
    let lock = fs::read(source.join("package-lock.json"))?;
    if script.is_file() && fs::read(place.join("package-lock.json")).is_ok_and(|held| held == lock) {
        return Ok(script);
    }
    for name in ["package.json", "package-lock.json"] {
        fs::copy(source.join(name), place.join(name))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&place);
    run(&mut npm, INSTALL, interrupt)?.success("npm ci")?;
    Ok(script)
}

/// Builds, takes the pictures and prints what was found.
///
/// # Errors
/// A page cannot be shown, axe-core has serious findings, or the first page costs too much.
pub fn make(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let build = ["build", "--quiet", "--locked", "--package", "tidegate", "--package", "browser"];
    ensure!(Command::new(env!("CARGO")).args(build).status()?.success(), "the build failed");
    let folder = options.folder.clone().unwrap_or_else(|| crate::target_directory().join("screenshots"));
    let program = crate::target_directory().join("debug/screenshots");
    let status = Command::new(program).arg(folder).arg(axe(interrupt)?).status()?;
    ensure!(status.success(), "the pages do not hold: {status}");
    Ok(())
}
