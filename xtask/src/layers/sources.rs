//! The words a core may not say, looked for in its sources.

use super::{Violation, metadata::Metadata, table};
use anyhow::{Context as _, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Looks through every crate without I/O, and the `core/` modules of the others.
///
/// # Errors
/// A source file cannot be read.
pub fn check_workspace(metadata: &Metadata) -> Result<Vec<Violation>> {
    let mut violations = Vec::new();
    for member in metadata.members() {
        let root = Path::new(&member.manifest_path)
            .parent()
            .with_context(|| format!("the manifest of `{}` has no directory", member.name))?
            .join("src");
        let roots = if table::SANS_IO.contains(&member.name.as_str()) {
            vec![root]
        } else {
            [root.join("core"), root.join("core.rs")].into_iter().filter(|path| path.exists()).collect()
        };
        for file in roots.iter().map(|root| rust_files(root)).collect::<Result<Vec<_>>>()?.concat() {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            violations.extend(check_text(&file.display().to_string(), &text));
        }
    }
    Ok(violations)
}

fn rust_files(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot list {}", path.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && path.file_stem().is_some_and(|stem| stem != "tests")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Comments may explain what the code does not do; tests at the end of a file may ask the machine.
fn check_text(file: &str, text: &str) -> Vec<Violation> {
    let shipped = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    let mut violations = Vec::new();
    for (index, line) in shipped.enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for (word, why) in table::SANS_IO_FORBIDDEN_WORDS {
            if code.contains(word) {
                violations.push(Violation::ForbiddenWord {
                    file: file.to_owned(),
                    line: index + 1,
                    word,
                    why,
                });
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_clock_is_found_with_its_line() {
        let found = check_text("core.rs", "fn f() {\n    let now = Instant::now();\n}\n");
        assert!(
            matches!(found.as_slice(), [Violation::ForbiddenWord { line: 2, word: "Instant::now", .. }]),
            "{found:?}"
        );
    }

    #[test]
    fn comments_and_tests_may_name_what_the_core_may_not() {
        let text = "//! Names no tokio.\nfn f() {} // not Instant::now\n#[cfg(test)]\nmod tests { use tokio as _; }\n";
        assert_eq!(check_text("core.rs", text), []);
    }
}
