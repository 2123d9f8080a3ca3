//! What each step of the suite depends on, and the memory of what passed with it.
//!
//! A step whose inputs are byte for byte those with which it passed is not run again: its answer could
//! only differ by chance. Inputs are the files of the packages that it builds and runs, of everything in the
//! workspace that these depend on (for tests also by dev-dependencies), every file that belongs to no
//! package, and the compiler. Where what was built is at hand, its bytes stand for the sources: a test that was changed is in
//! one test binary, and in no program. The memory is a file below the target directory: an empty clone has none and
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
}

/// The contents of the checkout at one moment, as git's object ids.
#[derive(Debug)]
pub struct Inputs<'a> {
    graph: &'a Graph,
    /// Lines of `path id` by the package whose directory holds them.
    files: BTreeMap<String, String>,
    /// As `files`, without what the compiler reads: what a test may read while it runs.
    data: BTreeMap<String, String>,
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
        let mut data: BTreeMap<String, String> = BTreeMap::new();
        let mut shared = graph.compiler.clone();
        for (path, id) in paths.iter().zip(ids.lines()) {
            let text = match owner(path, &graph.directories) {
                Owner::Package(name) => {
                    if !is_source(path) {
                        let _ = writeln!(data.entry(name.to_owned()).or_default(), "{path} {id}");
                    }
                    files.entry(name.to_owned()).or_default()
                }
                Owner::Nobody => &mut shared,
                Owner::Reader => continue,
            };
            let _ = writeln!(text, "{path} {id}");
        }
        Ok(Self { graph, files, data, shared })
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
        digest(&text)
    }

    /// What runs a program from outside depends on: its bytes, and what `packages` are made of.
    ///
    /// # Errors
    /// As [`Inputs::fingerprint`], or there is no such program.
    pub fn of_program(&self, program: &Path, packages: &[&str]) -> Result<Fingerprint> {
        let ids = content_ids(&[program.to_path_buf()])?;
        digest(&format!("{}\n{}", self.fingerprint(packages)?.0, ids.join("\n")))
    }

    /// What the tests of one binary depend on, its own bytes and those of the programs that they may run given by their ids.
    ///
    /// # Errors
    /// The package is not of this workspace, or git cannot be asked.
    pub fn of_tests(&self, binary: &Binary) -> Result<Fingerprint> {
        let closure = self.graph.closure.get(&binary.package);
        let closure = closure.with_context(|| format!("no package {} here", binary.package))?;
        let mut text = format!("{}{}\n", self.shared, binary.content);
        for package in closure {
            text.push_str(self.data.get(package).map_or("", String::as_str));
        }
        digest(&text)
    }
}

/// One test binary, as it was built.
#[derive(Debug, Clone)]
pub struct Binary {
    /// By which `cargo nextest` knows it.
    pub id: String,
    /// Whose tests these are.
    pub package: String,
    /// Itself, and every program of the packages that it depends on.
    files: Vec<PathBuf>,
    /// Their bytes, as git's object ids.
    content: String,
}

impl Binary {
    /// Every test binary, from what `cargo nextest list --list-type binaries-only --message-format json` says.
    ///
    /// # Errors
    /// It says something else, or a file is not there.
    pub fn all(listed: &[u8], graph: &Graph) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Listed {
            rust_build_meta: Meta,
            rust_binaries: BTreeMap<String, One>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct Meta {
            target_directory: PathBuf,
            non_test_binaries: BTreeMap<String, Vec<Program>>,
        }
        #[derive(Deserialize)]
        struct Program {
            path: PathBuf,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case")]
        struct One {
            binary_id: String,
            binary_path: PathBuf,
        }
        let listed: Listed = serde_json::from_slice(listed).context("what nextest lists")?;
        let mut programs: Vec<(String, PathBuf)> = Vec::new();
        for (package, built) in &listed.rust_build_meta.non_test_binaries {
            let name = package_name(package);
            for Program { path } in built {
                programs.push((name.to_owned(), listed.rust_build_meta.target_directory.join(path)));
            }
        }
        let mut binaries = Vec::new();
        for one in listed.rust_binaries.into_values() {
            let package = one.binary_id.split("::").next().unwrap_or_default().to_owned();
            let closure = graph.closure.get(&package);
            let closure = closure.with_context(|| format!("{} is of no package here", one.binary_id))?;
            let run = programs.iter().filter(|(of, _)| closure.contains(of)).map(|(_, path)| path.clone());
            let files: Vec<PathBuf> = std::iter::once(one.binary_path).chain(run).collect();
            binaries.push(Self { id: one.binary_id, package, files, content: String::new() });
        }
        // Each file is read once, however many run it.
        let all: BTreeSet<PathBuf> = binaries.iter().flat_map(|binary| binary.files.clone()).collect();
        let all: Vec<PathBuf> = all.into_iter().collect();
        let ids: BTreeMap<&PathBuf, String> = all.iter().zip(content_ids(&all)?).collect();
        for binary in &mut binaries {
            binary.content = binary.files.iter().map(|file| ids[file].as_str()).collect::<Vec<_>>().join(" ");
        }
        Ok(binaries)
    }

    /// The same, with the bytes that its files have now.
    ///
    /// # Errors
    /// A file is gone.
    pub fn again(&self) -> Result<Self> {
        Ok(Self { content: content_ids(&self.files)?.join(" "), ..self.clone() })
    }
}

/// Of a package's id: `path+file:///…/crates/pop#0.1.0` or `…#pop@0.1.0`.
fn package_name(id: &str) -> &str {
    let (path, fragment) = id.rsplit_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => path.rsplit('/').next().unwrap_or(path),
    }
}

fn is_source(path: &str) -> bool {
    path.ends_with(".rs")
}

fn digest(text: &str) -> Result<Fingerprint> {
    Ok(Fingerprint(git(&["hash-object", "--stdin"], text)?.trim().to_owned()))
}

/// Git's ids of files wherever they are, in their order.
fn content_ids(paths: &[PathBuf]) -> Result<Vec<String>> {
    let mut asked = String::new();
    for path in paths {
        ensure!(path.is_file(), "{} is not there", path.display());
        let _ = writeln!(asked, "{}", path.display());
    }
    let ids: Vec<String> =
        git(&["hash-object", "--no-filters", "--stdin-paths"], &asked)?.lines().map(str::to_owned).collect();
    ensure!(ids.len() == paths.len(), "git gave another number of ids than it got paths");
    Ok(ids)
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
    // No edge says it: these tests run the program that TIDEGATE_TEST_BINARY names.
    if let Some(program) = closures.get("tidegate").cloned()
        && let Some(browser) = closures.get_mut("browser")
    {
        browser.extend(program);
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
        let data = [("wire".to_owned(), "wire/vectors.json 1\n".to_owned())].into();
        Inputs { graph, files, data, shared: "Cargo.lock 1\n".to_owned() }
    }

    #[test]
    fn tests_run_again_when_their_binary_or_what_they_may_read_changed_and_not_for_the_sources_of_others() {
        let graph = graph();
        let binary = |content: &str| Binary {
            id: "pop::floods".to_owned(),
            package: "pop".to_owned(),
            files: Vec::new(),
            content: content.to_owned(),
        };
        let before = inputs(&graph).of_tests(&binary("1")).unwrap();
        let mut after = inputs(&graph);
        after.files.insert("wire".to_owned(), "wire/tests/a.rs 2\n".to_owned());
        assert_eq!(after.of_tests(&binary("1")).unwrap(), before);
        assert_ne!(after.of_tests(&binary("2")).unwrap(), before);
        after.data.insert("wire".to_owned(), "wire/vectors.json 2\n".to_owned());
        assert_ne!(after.of_tests(&binary("1")).unwrap(), before);
    }

    #[test]
    fn a_program_is_of_the_package_that_its_id_names() {
        assert_eq!(package_name("path+file:///a/crates/pop#0.1.0"), "pop");
        assert_eq!(package_name("path+file:///a/tests/fuzz#fuzz-targets@0.1.0"), "fuzz-targets");
    }

    #[test]
    fn what_a_test_binary_holds_is_its_own_bytes_and_those_of_the_programs_of_its_package() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["floods", "replay", "tidegate"] {
            fs::write(directory.path().join(name), name).unwrap();
        }
        let at = |name: &str| directory.path().join(name).display().to_string();
        let listed = serde_json::json!({
            "rust-build-meta": {
                "target-directory": directory.path(),
                "non-test-binaries": {
                    "path+file:///a/crates/pop#0.1.0": [{"name": "replay", "kind": "bin-exe", "path": "replay"}],
                    "path+file:///a/crates/store#0.1.0": [{"name": "tidegate", "kind": "bin-exe", "path": "tidegate"}],
                },
            },
            "rust-binaries": {"pop::floods": {"binary-id": "pop::floods", "binary-path": at("floods")}},
        });
        let read = || Binary::all(listed.to_string().as_bytes(), &graph()).unwrap().remove(0);
        let before = read();
        assert_eq!((before.id.as_str(), before.package.as_str()), ("pop::floods", "pop"));
        fs::write(directory.path().join("tidegate"), "changed").unwrap();
        assert_eq!(read().content, before.content, "no program of its own");
        fs::write(directory.path().join("replay"), "changed").unwrap();
        assert_ne!(read().content, before.content);
        assert_eq!(before.again().unwrap().content, read().content, "as the files are now");
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
        for package in graph.closure.keys() {
            inputs.fingerprint(&[package]).unwrap();
        }
        assert!(graph.closure["tidegate"].contains("wire"));
        assert!(graph.closure["browser"].contains("controller"), "its tests run the program");
        assert!(!graph.closure["wire"].contains("tidegate"));
    }
}
