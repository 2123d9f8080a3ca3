//! What each step of the suite depends on, and the memory of what passed with it.
//!
//! A step whose inputs are byte for byte those with which it passed is not run again: its answer could
//! only differ by chance. Inputs are the files of the packages that it builds and runs, of everything in the
//! workspace that these depend on (for tests also by dev-dependencies), every file that belongs to no
//! package, and the compiler. The memory is a file below the target directory: an empty clone has none and
//! runs everything, and so does `--all`.

use crate::layers::Metadata;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

/// Whose directory is where, and who depends on whom: read once a run.
#[derive(Debug)]
pub struct Graph {
    directories: BTreeMap<PathBuf, String>,
    /// The workspace's packages that a package depends on, itself included.
    closure: BTreeMap<String, BTreeSet<String>>,
    compiler: String,
}

impl Graph {
    /// Asks cargo and rustc.
    ///
    /// # Errors
    /// They cannot be asked, or a manifest stands outside the repository.
    pub fn read() -> Result<Self> {
        let metadata = Metadata::load()?;
        let root = crate::repository().canonicalize()?;
        let mut directories = BTreeMap::new();
        for member in metadata.members() {
            let directory =
                Path::new(&member.manifest_path).parent().context("a manifest has a directory")?;
            let directory = directory
                .strip_prefix(&root)
                .with_context(|| format!("{} is outside {}", member.manifest_path, root.display()))?;
            directories.insert(directory.to_path_buf(), member.name.clone());
        }
        Ok(Self { directories, closure: closures(&metadata), compiler: compiler()? })
    }

    /// The workspace's packages.
    pub fn packages(&self) -> impl Iterator<Item = &str> {
        self.closure.keys().map(String::as_str)
    }
}

/// The contents of the checkout at one moment, as git's object ids.
#[derive(Debug)]
pub struct Inputs<'a> {
    graph: &'a Graph,
    /// Lines of `path id` by the package whose directory holds them.
    files: BTreeMap<String, String>,
    /// Lines of what belongs to no package, and the compiler.
    shared: String,
}

/// Equal when nothing that a step depends on differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(String);

impl<'a> Inputs<'a> {
    /// Reads the checkout: what git tracks, and what it does not ignore.
    ///
    /// # Errors
    /// Git cannot be asked.
    pub fn read(graph: &'a Graph) -> Result<Self> {
        let root = crate::repository();
        let listed = git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"], "")?;
        let paths: BTreeSet<&str> =
            listed.split('\0').filter(|path| !path.is_empty() && root.join(path).is_file()).collect();
        let mut asked = String::new();
        for path in &paths {
            ensure!(!path.contains('\n'), "a file's name has a line break: {path:?}");
            let _ = writeln!(asked, "{path}");
        }
        let ids = git(&["hash-object", "--stdin-paths"], &asked)?;
        ensure!(ids.lines().count() == paths.len(), "git gave another number of ids than it got paths");
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        let mut shared = graph.compiler.clone();
        for (path, id) in paths.iter().zip(ids.lines()) {
            let text = match owner(path, &graph.directories) {
                Owner::Package(name) => files.entry(name.to_owned()).or_default(),
                Owner::Nobody => &mut shared,
                Owner::Reader => continue,
            };
            let _ = writeln!(text, "{path} {id}");
        }
        Ok(Self { graph, files, shared })
    }

    /// What a step depends on that builds and runs `packages`.
    ///
    /// # Errors
    /// A package is not of this workspace, or git cannot be asked.
    pub fn fingerprint(&self, packages: &[&str]) -> Result<Fingerprint> {
        let mut all = BTreeSet::new();
        for package in packages {
            all.extend(
                self.graph.closure.get(*package).with_context(|| format!("no package {package} here"))?,
            );
        }
        let mut text = self.shared.clone();
        for package in all {
            text.push_str(self.files.get(package).map_or("", String::as_str));
        }
        Ok(Fingerprint(git(&["hash-object", "--stdin"], &text)?.trim().to_owned()))
    }
}

enum Owner<'a> {
    Package(&'a str),
    /// Every step depends on it.
    Nobody,
    /// Text for people that no program reads.
    Reader,
}

fn owner<'a>(path: &str, directories: &'a BTreeMap<PathBuf, String>) -> Owner<'a> {
    let path = Path::new(path);
    let deepest = path.ancestors().skip(1).find_map(|directory| directories.get(directory));
    if let Some(name) = deepest {
        return Owner::Package(name);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Of those, a test reads what is expected of the labs, and the table of roles, which the code prints.
    let is_read = name.ends_with("-expected.md") || path == Path::new("docs/roles.md");
    if name.ends_with(".md") && !is_read { Owner::Reader } else { Owner::Nobody }
}

fn closures(metadata: &Metadata) -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<&str, &str> =
        metadata.members().map(|member| (member.id.as_str(), member.name.as_str())).collect();
    let edges: BTreeMap<&str, Vec<&str>> = metadata
        .resolve
        .nodes
        .iter()
        .filter_map(|node| {
            let name = names.get(node.id.as_str())?;
            Some((*name, node.deps.iter().filter_map(|edge| names.get(edge.pkg.as_str()).copied()).collect()))
        })
        .collect();
    let mut closures = BTreeMap::new();
    for name in names.values() {
        let mut all = BTreeSet::new();
        let mut open = vec![*name];
        while let Some(next) = open.pop() {
            if all.insert(next.to_owned()) {
                open.extend(edges.get(next).into_iter().flatten());
            }
        }
        closures.insert((*name).to_owned(), all);
    }
    closures
}

fn compiler() -> Result<String> {
    let said = Command::new("rustc").arg("-vV").stdin(Stdio::null()).output().context("cannot run rustc")?;
    ensure!(said.status.success(), "`rustc -vV` failed: {}", said.status);
    Ok(String::from_utf8_lossy(&said.stdout).into_owned())
}

fn git(arguments: &[&str], input: &str) -> Result<String> {
    let mut child = Command::new("git")
        .current_dir(crate::repository())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .context("cannot run git")?;
    let mut stdin = child.stdin.take().context("git's input was asked for")?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    writer.join().map_err(|_| anyhow::anyhow!("the thread that writes to git ended early"))??;
    ensure!(output.status.success(), "`git {}` failed: {}", arguments.join(" "), output.status);
    Ok(String::from_utf8(output.stdout)?)
}

/// What passed, and with which inputs.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    passed: BTreeMap<String, Passed>,
}

/// One step that passed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Passed {
    inputs: Fingerprint,
    /// Seconds after 1970.
    at: u64,
}

impl Passed {
    /// How long ago, in words.
    pub fn ago(&self) -> String {
        match now().saturating_sub(self.at) {
            seconds @ 0..120 => format!("{seconds} s ago"),
            seconds @ 120..7_200 => format!("{} min ago", seconds / 60),
            seconds => format!("{} h ago", seconds / 3_600),
        }
    }
}

impl Memory {
    fn place() -> PathBuf {
        crate::target_directory().join("xtask-test/passed.json")
    }

    /// What the last runs left; nothing when there were none or their file cannot be read.
    pub fn load() -> Self {
        fs::read(Self::place()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Whether the step passed with these inputs.
    pub fn passed(&self, step: &str, inputs: &Fingerprint) -> Option<&Passed> {
        self.passed.get(step).filter(|passed| passed.inputs == *inputs)
    }

    /// Keeps that the step passed, at once on the disk: a run may be interrupted.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&mut self, step: &str, inputs: Fingerprint) -> Result<()> {
        self.passed.insert(step.to_owned(), Passed { inputs, at: now() });
        let place = Self::place();
        fs::create_dir_all(place.parent().context("the place has a directory")?)?;
        let partial = place.with_extension("partial");
        fs::write(&partial, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&partial, &place).with_context(|| format!("cannot write {}", place.display()))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> Graph {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        Graph {
            directories: BTreeMap::new(),
            closure: [("wire", set(&["wire"])), ("pop", set(&["pop", "wire"])), ("store", set(&["store"]))]
                .map(|(name, all)| (name.to_owned(), all))
                .into(),
            compiler: String::new(),
        }
    }

    fn inputs(graph: &Graph) -> Inputs<'_> {
        let files = [("wire", "wire/lib.rs 1\n"), ("pop", "pop/lib.rs 1\n"), ("store", "store/lib.rs 1\n")]
            .map(|(name, lines)| (name.to_owned(), lines.to_owned()))
            .into();
        Inputs { graph, files, shared: "Cargo.lock 1\n".to_owned() }
    }

    #[test]
    fn a_changed_dependency_changes_what_depends_on_it_and_nothing_else() {
        let graph = graph();
        let before = inputs(&graph);
        let mut after = inputs(&graph);
        after.files.insert("wire".to_owned(), "wire/lib.rs 2\n".to_owned());
        assert_ne!(before.fingerprint(&["pop"]).unwrap(), after.fingerprint(&["pop"]).unwrap());
        assert_eq!(before.fingerprint(&["store"]).unwrap(), after.fingerprint(&["store"]).unwrap());
    }

    #[test]
    fn what_belongs_to_no_package_changes_every_step() {
        let graph = graph();
        let before = inputs(&graph);
        let mut after = inputs(&graph);
        after.shared.push_str("docs/openapi.json 2\n");
        assert_ne!(before.fingerprint(&["store"]).unwrap(), after.fingerprint(&["store"]).unwrap());
    }

    #[test]
    fn text_for_people_is_nobody_s_input_and_expected_tables_are_everybody_s() {
        let directories = [(PathBuf::from("crates/pop"), "pop".to_owned())].into();
        assert!(matches!(owner("README.md", &directories), Owner::Reader));
        assert!(matches!(owner("docs/nat-expected.md", &directories), Owner::Nobody));
        assert!(
            matches!(owner("docs/roles.md", &directories), Owner::Nobody),
            "a test compares it with the code"
        );
        assert!(matches!(owner("tests/fuzz/corpus/a", &directories), Owner::Nobody));
        assert!(matches!(owner("crates/pop/README.md", &directories), Owner::Package("pop")));
        assert!(matches!(owner("crates/pop/src/core/mod.rs", &directories), Owner::Package("pop")));
    }

    #[test]
    fn a_step_counts_as_passed_only_with_the_inputs_it_passed_with() {
        let passed = Passed { inputs: Fingerprint("a".to_owned()), at: now() };
        let memory = Memory { passed: [("demo".to_owned(), passed)].into() };
        assert!(memory.passed("demo", &Fingerprint("a".to_owned())).is_some());
        assert!(memory.passed("demo", &Fingerprint("b".to_owned())).is_none());
        assert!(memory.passed("lab nat", &Fingerprint("a".to_owned())).is_none());
    }

    #[test]
    fn this_checkout_has_a_fingerprint_for_every_package() {
        let graph = Graph::read().unwrap();
        let inputs = Inputs::read(&graph).unwrap();
        for package in graph.packages() {
            inputs.fingerprint(&[package]).unwrap();
        }
        assert!(graph.closure["tidegate"].contains("wire"));
        assert!(!graph.closure["wire"].contains("tidegate"));
    }
}
