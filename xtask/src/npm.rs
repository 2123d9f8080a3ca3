//! Programs from npm that judge: each with modules of its own under the build directory, as its lockfile in the
//! repository has them.

use crate::process::{Interrupt, run};
use anyhow::{Context as _, Result};
use std::{fs, path::PathBuf, process::Command, time::Duration};

const INSTALL: Duration = Duration::from_secs(5 * 60);

/// The folder of the judge `tests/judges/NAME` with its modules, made at its first use. No package runs a script of its
/// own while it is installed.
///
/// # Errors
/// The packages cannot be had.
pub fn modules(name: &str, interrupt: &Interrupt) -> Result<PathBuf> {
    let from = crate::repository().join("tests/judges").join(name);
    let place = crate::target_directory().join("judges").join(name);
    let wanted =
        fs::read(from.join("package-lock.json")).with_context(|| format!("the lockfile of {name}"))?;
    // An interrupted installation is made again, and one for other packages.
    if fs::read(place.join("complete")).is_ok_and(|made| made == wanted) {
        return Ok(place);
    }
    fs::create_dir_all(&place)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(from.join(file), place.join(file))?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&place);
    run(&mut npm, INSTALL, interrupt)?.success("npm ci")?;
    fs::write(place.join("complete"), wanted)?;
    Ok(place)
}
