//! Programs in Python that judge: each with an environment of its own under the build directory.

use crate::process::{Interrupt, run};
use anyhow::Result;
use std::{path::PathBuf, process::Command, time::Duration};

const INSTALL: Duration = Duration::from_secs(5 * 60);

/// The interpreter of the environment with what `tests/NAME/requirements.txt` asks for, made at its first use.
///
/// # Errors
/// Python or the packages cannot be had.
pub fn environment(name: &str, interrupt: &Interrupt) -> Result<PathBuf> {
    let venv = crate::target_directory().join(format!("{name}-venv"));
    let python = venv.join("bin/python");
    let requirements = crate::repository().join("tests").join(name).join("requirements.txt");
    let wanted = std::fs::read(&requirements)?;
    // An interrupted installation is made again, and one for other requirements.
    if std::fs::read(venv.join("complete")).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv), INSTALL, interrupt)?
        .success("python3 -m venv")?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"])
        .arg(&requirements);
    run(&mut pip, INSTALL, interrupt)?.success("pip install")?;
    std::fs::write(venv.join("complete"), wanted)?;
    Ok(python)
}
