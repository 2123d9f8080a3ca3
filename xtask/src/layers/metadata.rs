//! The part of `cargo metadata --format-version 1` that the check reads.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    process::{Command, Stdio},
};

/// The resolved graph.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// Every package of the graph.
    pub packages: Vec<Package>,
    /// Ids of the workspace's own packages.
    pub workspace_members: Vec<String>,
    /// Who depends on whom.
    pub resolve: Resolve,
}

/// One package.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Cargo's id of the package.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where its manifest is.
    pub manifest_path: String,
    /// What its manifest names.
    pub dependencies: Vec<Declared>,
}

/// One line of a manifest's dependency tables.
#[derive(Debug, Deserialize)]
pub struct Declared {
    /// The package's name.
    pub name: String,
    /// `None` is a normal dependency.
    pub kind: Option<String>,
}

/// The resolved edges.
#[derive(Debug, Deserialize)]
pub struct Resolve {
    /// One node for each package.
    pub nodes: Vec<Node>,
}

/// One package and what it depends on.
#[derive(Debug, Deserialize)]
pub struct Node {
    /// Whose node.
    pub id: String,
    /// Its edges.
    pub deps: Vec<Edge>,
}

/// One edge.
#[derive(Debug, Deserialize)]
pub struct Edge {
    /// The id of the package depended on.
    pub pkg: String,
    /// The kinds of this edge.
    pub dep_kinds: Vec<EdgeKind>,
}

/// The kind of an edge.
#[derive(Debug, Deserialize)]
pub struct EdgeKind {
    /// `None` is a normal dependency, else `build` or `dev`.
    pub kind: Option<String>,
}

/// Which kinds of edges to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// What is linked into the result.
    Normal,
    /// What is linked, and what runs while building.
    NormalAndBuild,
}

impl Follow {
    fn takes(self, kind: Option<&str>) -> bool {
        match kind {
            None => true,
            Some("build") => self == Self::NormalAndBuild,
            Some(_) => false,
        }
    }
}

impl Metadata {
    /// Asks cargo, for Linux: other platforms' dependencies are never built here.
    ///
    /// # Errors
    /// Cargo fails, or says something that is not the documented format.
    pub fn load() -> Result<Self> {
        let output = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version",
                "1",
                "--locked",
                "--filter-platform",
                "x86_64-unknown-linux-gnu",
            ])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run `cargo metadata`")?;
        ensure!(output.status.success(), "`cargo metadata` failed: {}", output.status);
        let mut metadata: Self = serde_json::from_slice(&output.stdout)
            .context("`cargo metadata` printed something unexpected")?;
        metadata.keep_built(&built_packages()?);
        Ok(metadata)
    }

    /// `cargo metadata` also lists edges of features that nobody switched on (rustls-webpki's to
    /// ring, for one); `cargo tree` resolves features as a build does. Packages that no build
    /// contains are dropped, so what is left errs on the strict side.
    fn keep_built(&mut self, built: &BTreeSet<(String, String)>) {
        let members = self.workspace_members.clone();
        self.packages.retain(|package| {
            members.contains(&package.id) || built.contains(&(package.name.clone(), package.version.clone()))
        });
    }

    /// The workspace's own packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Everything reachable from `start`, each with the shortest path of names that leads there.
    pub fn reachable<'a>(&'a self, start: &'a Package, follow: Follow) -> BTreeMap<&'a str, Vec<&'a str>> {
        let names: BTreeMap<&str, &str> =
            self.packages.iter().map(|package| (package.id.as_str(), package.name.as_str())).collect();
        let nodes: BTreeMap<&str, &Node> =
            self.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
        let mut paths: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([(start.id.as_str(), vec![start.name.as_str()])]);
        let mut seen = BTreeSet::from([start.id.as_str()]);
        while let Some((id, path)) = queue.pop_front() {
            let Some(node) = nodes.get(id) else { continue };
            for edge in &node.deps {
                if !edge.dep_kinds.iter().any(|kind| follow.takes(kind.kind.as_deref())) {
                    continue;
                }
                // A package that was dropped is built by nobody.
                let Some(name) = names.get(edge.pkg.as_str()) else { continue };
                if !seen.insert(edge.pkg.as_str()) {
                    continue;
                }
                let mut longer = path.clone();
                longer.push(name);
                paths.entry(name).or_insert_with(|| longer.clone());
                queue.push_back((edge.pkg.as_str(), longer));
            }
        }
        paths
    }
}

/// Name and version of everything that a build of the whole workspace on Linux contains.
fn built_packages() -> Result<BTreeSet<(String, String)>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--workspace",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--locked",
        ])
        .args(["--target", "x86_64-unknown-linux-gnu"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run `cargo tree`")?;
    ensure!(output.status.success(), "`cargo tree` failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let built: BTreeSet<(String, String)> = text.lines().filter_map(name_and_version).collect();
    ensure!(!built.is_empty(), "`cargo tree` listed nothing");
    Ok(built)
}

/// `serde v1.0.0 (proc-macro)` → `serde`, `1.0.0`.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let version = words.next()?.strip_prefix('v')?;
    Some((name.to_owned(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_cargo_tree_gives_name_and_version() {
        let parsed = name_and_version("serde_derive v1.0.229 (proc-macro)");
        assert_eq!(parsed, Some(("serde_derive".into(), "1.0.229".into())));
        assert_eq!(name_and_version(""), None);
    }
}
