//! What this program says about itself to shells and to `man`.

use crate::{
    cli::Cli,
    output::{CommandResult, Format, Outcome},
};
use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use serde_json::json;
use std::{io::Write as _, path::Path};

/// Prints a shell's completions.
pub fn completions(shell: Shell) -> CommandResult {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut text);
    // A reader that went away is no failure.
    let _ = std::io::stdout().lock().write_all(&text);
    Ok(Outcome::Done)
}

/// Writes a page for the program and for each of its commands.
pub fn man_pages(directory: &Path, format: Format) -> CommandResult {
    std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    clap_mangen::generate_to(Cli::command(), directory)
        .with_context(|| format!("the manual pages in {}", directory.display()))?;
    let count = std::fs::read_dir(directory)?.count();
    format.print(&json!({"directory": directory, "pages": count}), || {
        format!("{count} pages in {}", directory.display())
    });
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_the_commands_and_kinds_of_object() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut text);
            let text = String::from_utf8(text).unwrap();
            for word in ["netcheck", "apply"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
            // The generator knows no values of positional arguments in fish.
            assert!(shell == Shell::Fish || text.contains("service-accounts"), "{shell}: kinds of object");
        }
    }

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().unwrap();
        man_pages(directory.path(), Format::Json).ok().unwrap();
        for page in ["tidegate.1", "tidegate-admin.1", "tidegate-admin-apply.1"] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains(".SH"), "{page}");
        }
    }
}
