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

/// A shell's completions.
fn completed(shell: Shell) -> Vec<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut text);
    if shell == Shell::Fish {
        of_positions(&Cli::command(), &mut Vec::new(), &mut text);
    }
    text
}

/// What the first argument of a command may be, as in `admin list devices`: the generator knows no values of positional
/// arguments in fish.
fn of_positions(command: &clap::Command, path: &mut Vec<String>, text: &mut Vec<u8>) {
    for sub in command.get_subcommands() {
        path.push(sub.get_name().to_owned());
        let first = sub.get_positionals().next().map(clap::Arg::get_possible_values).unwrap_or_default();
        let words: Vec<_> =
            first.iter().filter(|value| !value.is_hide_set()).map(|value| value.get_name()).collect();
        if !words.is_empty() {
            let seen = path.iter().map(|name| format!("__fish_seen_subcommand_from {name}"));
            let seen = seen.collect::<Vec<_>>().join("; and ");
            let line = format!("complete -c tidegate -n \"{seen}\" -f -a \"{}\"\n", words.join(" "));
            text.extend_from_slice(line.as_bytes());
        }
        of_positions(sub, path, text);
        path.pop();
    }
}

/// Prints a shell's completions.
pub fn completions(shell: Shell) -> CommandResult {
    let text = completed(shell);
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
            let text = String::from_utf8(completed(shell)).unwrap();
            for word in ["netcheck", "apply", "service-accounts", "authentication-log"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
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
