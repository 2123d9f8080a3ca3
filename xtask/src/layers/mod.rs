//! `cargo xtask layers`: the direction of imports, proven from the dependency graph.
//!
//! The data plane must go on when every database and controller is gone; what it cannot link it
//! cannot wait for. This check reads what cargo resolved, not what somebody intended.

mod architecture;
mod metadata;
mod sources;
mod table;

pub use metadata::Metadata;

use anyhow::{Result, bail};
use metadata::Follow;
use std::fmt;

/// One broken rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A workspace crate that has no place in the table.
    UnknownCrate { name: String },
    /// A crate names a workspace crate that it may not name.
    ForbiddenEdge { from: String, to: String },
    /// A crate reaches a package that it may not reach.
    ForbiddenReach { path: Vec<String> },
    /// A core names a package that does I/O.
    ForbiddenDirect { from: String, to: String },
    /// A core's source names something that does I/O.
    ForbiddenWord { file: String, line: usize, word: &'static str, why: &'static str },
    /// ARCHITECTURE.md names a file or crate that is not there.
    NamesNothing { line: usize, named: String },
    /// ARCHITECTURE.md has no row for a crate.
    NotDescribed { name: String },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCrate { name } => {
                write!(
                    f,
                    "crate `{name}` has no row in xtask/src/layers/table.rs: decide which crates it may name"
                )
            }
            Self::ForbiddenEdge { from, to } => {
                write!(f, "`{from}` depends on `{to}`, which its layer may not name")
            }
            Self::ForbiddenReach { path } => write!(f, "forbidden package reached: {}", path.join(" → ")),
            Self::ForbiddenDirect { from, to } => {
                write!(f, "`{from}` does no I/O, yet its manifest names `{to}`")
            }
            Self::ForbiddenWord { file, line, word, why } => {
                write!(f, "{file}:{line}: names `{word}`: {why}")
            }
            Self::NamesNothing { line, named } => {
                write!(f, "ARCHITECTURE.md:{line}: names `{named}`, which does not exist")
            }
            Self::NotDescribed { name } => {
                write!(f, "crate `{name}` has no row in the table of ARCHITECTURE.md: say what it owns")
            }
        }
    }
}

/// Runs the check on this workspace.
///
/// # Errors
/// A rule is broken; every violation has been printed.
pub fn run() -> Result<()> {
    let metadata = Metadata::load()?;
    let mut violations = check(&metadata);
    violations.extend(sources::check_workspace(&metadata)?);
    violations.extend(architecture::check_workspace(&metadata)?);
    for violation in &violations {
        println!("layers: {violation}");
    }
    if !violations.is_empty() {
        bail!("{} forbidden dependencies or names, or gaps in ARCHITECTURE.md", violations.len());
    }
    println!("layers: {} crates, every edge allowed", metadata.workspace_members.len());
    Ok(())
}

/// Everything that the graph alone can show.
pub fn check(metadata: &Metadata) -> Vec<Violation> {
    let mut violations = Vec::new();
    let members: Vec<&str> = metadata.members().map(|member| member.name.as_str()).collect();
    for member in metadata.members() {
        let allowed = table::ALLOWED_EDGES.iter().find(|(name, _)| *name == member.name);
        let Some((_, allowed)) = allowed else {
            violations.push(Violation::UnknownCrate { name: member.name.clone() });
            continue;
        };
        // What only tests use is not linked into anything that ships.
        for declared in member.dependencies.iter().filter(|declared| declared.kind.as_deref() != Some("dev"))
        {
            let to = declared.name.as_str();
            if members.contains(&to) && !allowed.contains(&to) {
                violations.push(Violation::ForbiddenEdge { from: member.name.clone(), to: to.to_owned() });
            }
            if table::SANS_IO.contains(&member.name.as_str())
                && table::matches(to, table::SANS_IO_FORBIDDEN_DIRECT)
            {
                violations.push(Violation::ForbiddenDirect { from: member.name.clone(), to: to.to_owned() });
            }
        }
        if table::DATA_PLANE.contains(&member.name.as_str()) {
            collect_reach(metadata, member, Follow::Normal, table::DATA_PLANE_FORBIDDEN, &mut violations);
        }
        collect_reach(metadata, member, Follow::NormalAndBuild, table::FORBIDDEN_EVERYWHERE, &mut violations);
    }
    violations
}

fn collect_reach(
    metadata: &Metadata,
    member: &metadata::Package,
    follow: Follow,
    forbidden: &[&str],
    violations: &mut Vec<Violation>,
) {
    for (name, path) in metadata.reachable(member, follow) {
        if table::matches(name, forbidden) {
            violations
                .push(Violation::ForbiddenReach { path: path.into_iter().map(str::to_owned).collect() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A workspace of `members`, with `edges` (from, to, kind) between any packages.
    fn graph(members: &[&str], edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let mut names: std::collections::BTreeSet<&str> = members.iter().copied().collect();
        names.extend(edges.iter().flat_map(|(from, to, _)| [*from, *to]));
        let of = |name: &str| edges.iter().filter(move |(from, ..)| *from == name).collect::<Vec<_>>();
        let packages: Vec<Value> = names
            .iter()
            .map(|name| {
                let dependencies: Vec<Value> =
                    of(name).iter().map(|(_, to, kind)| json!({"name": to, "kind": kind})).collect();
                json!({"id": name, "name": name, "version": "1.0.0", "manifest_path": "", "dependencies": dependencies})
            })
            .collect();
        let nodes: Vec<Value> = names
            .iter()
            .map(|name| {
                let deps: Vec<Value> = of(name)
                    .iter()
                    .map(|(_, to, kind)| json!({"pkg": to, "dep_kinds": [{"kind": kind}]}))
                    .collect();
                json!({"id": name, "deps": deps})
            })
            .collect();
        serde_json::from_value(json!({
            "packages": packages, "workspace_members": members, "resolve": {"nodes": nodes},
        }))
        .expect("the shape that `cargo metadata` prints")
    }

    #[test]
    fn the_architecture_s_own_edges_pass() {
        let members: Vec<&str> = table::ALLOWED_EDGES.iter().map(|(name, _)| *name).collect();
        let edges: Vec<_> = table::ALLOWED_EDGES
            .iter()
            .flat_map(|(from, to)| to.iter().map(move |to| (*from, *to, None)))
            .collect();
        assert_eq!(check(&graph(&members, &edges)), []);
    }

    #[test]
    fn a_planted_edge_against_the_direction_is_found() {
        let found = check(&graph(&["wire", "trust"], &[("wire", "trust", None)]));
        assert_eq!(found, [Violation::ForbiddenEdge { from: "wire".into(), to: "trust".into() }]);
    }

    #[test]
    fn a_build_dependency_counts_as_an_edge_and_a_test_dependency_does_not() {
        let planted = |kind| check(&graph(&["wire", "trust"], &[("wire", "trust", Some(kind))]));
        assert_eq!(planted("build").len(), 1);
        assert_eq!(planted("dev"), []);
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        let found = check(&graph(&["wire", "newcomer"], &[]));
        assert_eq!(found, [Violation::UnknownCrate { name: "newcomer".into() }]);
    }

    #[test]
    fn a_database_driver_three_steps_behind_the_pop_is_found_with_its_path() {
        let found = check(&graph(
            &["pop"],
            &[("pop", "innocent", None), ("innocent", "helper", None), ("helper", "sqlx-core", None)],
        ));
        let path = ["pop", "innocent", "helper", "sqlx-core"].map(str::to_owned).to_vec();
        assert_eq!(found, [Violation::ForbiddenReach { path }]);
    }

    #[test]
    fn an_http_client_behind_the_client_is_found_and_behind_the_controller_allowed() {
        assert_eq!(check(&graph(&["client"], &[("client", "hyper", None)])).len(), 1);
        assert_eq!(check(&graph(&["controller"], &[("controller", "hyper", None)])), []);
    }

    #[test]
    fn what_only_runs_while_building_does_not_make_the_data_plane_reach_it() {
        assert_eq!(check(&graph(&["pop"], &[("pop", "ureq", Some("build"))])), []);
    }

    #[test]
    fn ring_is_found_wherever_it_hides() {
        let normal = check(&graph(&["controller"], &[("controller", "a", None), ("a", "ring", None)]));
        let build =
            check(&graph(&["controller"], &[("controller", "a", Some("build")), ("a", "ring", None)]));
        assert_eq!((normal.len(), build.len()), (1, 1));
    }

    #[test]
    fn a_core_that_names_a_runtime_is_found() {
        let found = check(&graph(&["agent"], &[("agent", "tokio", None)]));
        assert_eq!(found, [Violation::ForbiddenDirect { from: "agent".into(), to: "tokio".into() }]);
    }
}
