//! How the suite builds: its tests in the profile `bench`, whose artifacts lie in the release build's directory, so that the 400
//! crates of others are compiled once for both (ADR 0027). Ours are compiled for the tests as in the profile for development.
//!
//! Cargo takes settings for a package by its name, and no pattern means "the members of this workspace": they are in a file that is
//! written from what `cargo metadata` says.

use anyhow::{Context as _, Result, ensure};
use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The settings of a member: those of the profile for development, whatever the release build has.
const AS_IN_DEVELOPMENT: &str = "debug = \"line-tables-only\"\nsplit-debuginfo = \"unpacked\"\nstrip = \"none\"\n\
     codegen-units = 256\ndebug-assertions = true\noverflow-checks = true\nincremental = true\n";
/// Hours of virtual time in seconds, as in the profile for development.
const OPTIMIZED: [&str; 2] = ["sim", "tunnel"];

/// Whose programs: each has its own, also where two have one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The tests.
    Tests,
    /// The simulation with bugs planted in it.
    PlantedBugs,
}

impl Of {
    fn directory(self) -> PathBuf {
        crate::target_directory().join(match self {
            Self::Tests => "tests",
            Self::PlantedBugs => "planted",
        })
    }

    /// Where a program of the workspace is, once it is built.
    pub fn program(self, name: &str) -> PathBuf {
        self.directory().join("release").join(name)
    }

    /// `cargo` with these words, the first of which are its subcommand. [`write_settings`] comes before it.
    pub fn cargo(self, subcommand: &[&str], arguments: &[&str]) -> Command {
        let profile = if subcommand.first() == Some(&"nextest") { "--cargo-profile" } else { "--profile" };
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(crate::repository()).args(subcommand).args([profile, "bench", "--config"]);
        command.arg(settings()).args(arguments);
        command.env("CARGO_BUILD_BUILD_DIR", crate::target_directory());
        command.env("CARGO_TARGET_DIR", self.directory());
        // What a test of another package than the program's own would find beside itself is the release build.
        command.env("TIDEGATE_TEST_BINARY", self.program("tidegate"));
        command
    }
}

fn settings() -> PathBuf {
    crate::target_directory().join("xtask-test/members.toml")
}

/// Writes the settings of every member of the workspace.
///
/// # Errors
/// `cargo metadata` fails, or the file cannot be written.
pub fn write_settings() -> Result<()> {
    let asked = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--locked", "--format-version", "1"])
        .current_dir(crate::repository())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting cargo")?;
    ensure!(asked.status.success(), "cargo metadata: {}", asked.status);
    let said: serde_json::Value =
        serde_json::from_slice(&asked.stdout).context("what cargo metadata says")?;
    let packages = said["packages"].as_array().context("cargo metadata without packages")?;
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    ensure!(!names.is_empty(), "cargo metadata names no member of the workspace");
    let file = settings();
    fs::create_dir_all(file.parent().context("the file has a directory")?)?;
    fs::write(&file, text(&names)).with_context(|| format!("cannot write {}", file.display()))
}

fn text(names: &[&str]) -> String {
    let mut text = String::from("# Written by `cargo xtask test`.\n");
    for name in names {
        let level = if OPTIMIZED.contains(name) { 2 } else { 0 };
        let _ = write!(text, "\n[profile.bench.package.{name}]\nopt-level = {level}\n{AS_IN_DEVELOPMENT}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_built_as_in_development_and_the_simulation_optimized() {
        let text = text(&["wire", "sim"]);
        assert!(
            text.contains("[profile.bench.package.wire]\nopt-level = 0\ndebug = \"line-tables-only\""),
            "{text}"
        );
        assert!(text.contains("[profile.bench.package.sim]\nopt-level = 2\n"), "{text}");
        assert_eq!(text.matches("debug-assertions = true\noverflow-checks = true").count(), 2);
    }
}
