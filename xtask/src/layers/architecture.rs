//! What ARCHITECTURE.md names exists, and what there is has its row in it: a map of what was there last month leads
//! nobody.

use super::{Violation, metadata::Metadata};
use anyhow::{Context as _, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const DOCUMENT: &str = "ARCHITECTURE.md";
/// Where named files may be.
const ROOTS: &[&str] = &["crates", "tests", "docs", "xtask"];

/// Reads the document and looks for what it names.
///
/// # Errors
/// The document or a directory cannot be read.
pub fn check_workspace(metadata: &Metadata) -> Result<Vec<Violation>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join(DOCUMENT)).with_context(|| format!("cannot read {DOCUMENT}"))?;
    let mut files = BTreeSet::new();
    for directory in ROOTS {
        collect(&root, Path::new(directory), &mut files)?;
    }
    // The table is about what ships; tests and this program describe themselves.
    let crates = metadata.members().filter(|member| {
        let directory = Path::new(&member.manifest_path).parent().and_then(Path::parent);
        directory.is_some_and(|directory| directory.ends_with("crates"))
    });
    let crates: Vec<&str> = crates.map(|member| member.name.as_str()).collect();
    Ok(check(&text, &files, &crates))
}

/// Paths below the root, files and directories.
fn collect(root: &Path, directory: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let full = root.join(directory);
    files.insert(directory.to_owned());
    for entry in fs::read_dir(&full).with_context(|| format!("cannot list {}", full.display()))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

fn check(text: &str, files: &BTreeSet<PathBuf>, crates: &[&str]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut described = BTreeSet::new();
    let mut in_table = false;
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        for named in line.split('`').skip(1).step_by(2).filter(|named| is_path(named)) {
            if !files.iter().any(|file| file.ends_with(named.trim_end_matches('/'))) {
                violations.push(Violation::NamesNothing { line: line_number, named: named.to_owned() });
            }
        }
        in_table = line.starts_with("| crate ") || (in_table && line.starts_with('|'));
        let row = line.strip_prefix("| `").and_then(|rest| rest.split('`').next());
        if let Some(name) = row.filter(|_| in_table) {
            described.insert(name);
            if !crates.contains(&name) {
                violations.push(Violation::NamesNothing { line: line_number, named: name.to_owned() });
            }
        }
    }
    let missing = crates.iter().filter(|name| !described.contains(**name));
    violations.extend(missing.map(|name| Violation::NotDescribed { name: (*name).to_owned() }));
    violations
}

/// Whether a word in code quotes is a path of ours: `crate/src/file.rs`, the end of one, or a directory. A path of the
/// API begins with a slash.
fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    !word.starts_with('/') && word.chars().all(plain) && (word.contains('/') || word.ends_with(".rs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
| crate | owns |
| --- | --- |
| `wire` | ids |
| `gone` | nothing |

| what | where |
| `bound` | `wire/src/id.rs` |

`wire/src/relay.rs`, `id.rs` and `wire/src/` exist; `POST /api/v1/sites`, `/api/v1/sites` and `Hello` are no paths.
`wire/src/old.rs` and `d.rs` do not.
";

    #[test]
    fn a_file_that_is_not_there_and_a_crate_without_a_row_are_found() {
        let files = ["crates/wire/src", "crates/wire/src/relay.rs", "crates/wire/src/id.rs"];
        let found = check(TEXT, &files.iter().map(PathBuf::from).collect(), &["wire", "dns"]);
        let nothing = |line, named: &str| Violation::NamesNothing { line, named: named.to_owned() };
        assert_eq!(
            found,
            [
                nothing(4, "gone"),
                nothing(10, "wire/src/old.rs"),
                nothing(10, "d.rs"),
                Violation::NotDescribed { name: "dns".into() },
            ]
        );
    }
}
