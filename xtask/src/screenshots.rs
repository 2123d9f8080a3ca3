//! `cargo xtask screenshots`: pictures of every page of the console, judged by axe-core and Lighthouse.

use crate::{
    npm,
    process::{Interrupt, run_visible},
};
use anyhow::{Context as _, Result, ensure};
use std::{ffi::OsString, fs, path::PathBuf, process::Command, time::Duration};

/// Four pictures of each of 140 pages, and Lighthouse beside them.
const LIMIT: Duration = Duration::from_secs(75 * 60);
const BUILD: Duration = Duration::from_secs(15 * 60);

/// Where the pictures go.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The folder; by default `screenshots` under the build directory.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Leaves out Lighthouse, which takes seven seconds a page.
    #[arg(long)]
    without_lighthouse: bool,
    /// The pages with this in their names alone, or with one of several between commas.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// Builds, takes the pictures and prints what was found.
///
/// # Errors
/// A page cannot be shown, a judge has findings, or the first page costs too much.
pub fn make(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked", "--package", "tidegate", "--package", "browser"]);
    ensure!(run_visible(&mut build, BUILD, interrupt)?.success(), "the build failed");
    let folder = options.folder.clone().unwrap_or_else(|| crate::target_directory().join("screenshots"));
    let axe = npm::modules("axe", interrupt)?.join("node_modules/axe-core/axe.min.js");
    let mut arguments: Vec<OsString> = vec![folder.into(), axe.into()];
    if !options.without_lighthouse {
        let place = npm::modules("lighthouse", interrupt)?;
        // Node looks for the modules of a script beside it.
        let script = crate::repository().join("tests/judges/lighthouse/judge.mjs");
        fs::copy(script, place.join("judge.mjs")).context("copying the judge to its modules")?;
        arguments.push(place.into());
    }
    let mut program = Command::new(crate::target_directory().join("debug/screenshots"));
    program.args(arguments).envs(options.only.as_ref().map(|only| ("TIDEGATE_ONLY_PAGES", only)));
    let status = run_visible(&mut program, LIMIT, interrupt)?;
    ensure!(status.success(), "the pages do not hold: {status}");
    Ok(())
}
