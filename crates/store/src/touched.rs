//! Which rows a change touched: who holds the state before it reads these alone.
//!
//! Every statement that writes says its table by its own text, so that none is forgotten: one that names no row counts for
//! the whole table, one of a table that is not known here counts for everything. What is said too much costs time, and what
//! were said too little would be served stale: a row is named only by whoever writes that row alone.

use crate::statement::Statement;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// So many rows of one kind are named; of more, the whole kind is read.
const NAMED: usize = 200;

/// A kind of rows of an organization that is read by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    Sites,
    Connectors,
    Resources,
    Groups,
    Users,
    ServiceAccounts,
    /// Named by group and member, see [`membership`].
    Memberships,
    Devices,
    /// With their groups and resources, which count as rows of the policy.
    Policies,
    Tokens,
    EnrolmentKeys,
    /// Accounts and what belongs to them: never named row by row.
    SignIn,
}

impl Part {
    /// All of an organization.
    pub(crate) const ALL: [Self; 12] = [
        Self::Sites,
        Self::Connectors,
        Self::Resources,
        Self::Groups,
        Self::Users,
        Self::ServiceAccounts,
        Self::Memberships,
        Self::Devices,
        Self::Policies,
        Self::Tokens,
        Self::EnrolmentKeys,
        Self::SignIn,
    ];
}

/// Some rows of a kind, or all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Rows {
    Some(BTreeSet<String>),
    All,
}

/// What a change touched, as far as an organization's configuration has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Touched {
    /// These rows.
    Parts(BTreeMap<Part, Rows>),
    /// Nobody can say.
    Everything,
}

impl Default for Touched {
    fn default() -> Self {
        Self::Parts(BTreeMap::new())
    }
}

/// The name of a membership's row.
pub(crate) fn membership(group: impl std::fmt::Display, member: impl std::fmt::Display) -> String {
    format!("{group} {member}")
}

/// What a table is to the configuration of an organization.
#[derive(Debug, PartialEq, Eq)]
enum Table {
    /// Rows of a part.
    Of(Part),
    /// Read each time, or not in it at all.
    Elsewhere,
    Unknown,
}

fn table(name: &str) -> Table {
    Table::Of(match name {
        "sites" => Part::Sites,
        "connectors" => Part::Connectors,
        "resources" => Part::Resources,
        "user_groups" => Part::Groups,
        "users" => Part::Users,
        "service_accounts" => Part::ServiceAccounts,
        "memberships" => Part::Memberships,
        "devices" => Part::Devices,
        "policies" | "policy_groups" | "policy_resources" => Part::Policies,
        "tokens" => Part::Tokens,
        "enrolment_keys" => Part::EnrolmentKeys,
        "accounts" | "passkeys" | "recovery_codes" | "account_links" | "oidc_providers"
        | "oidc_identities" => Part::SignIn,
        "installation" | "organizations" | "pops" | "administrators" | "one_time_links"
        | "trust_documents" | "audit" | "audit_heads" | "kept_answers" | "struck_generations"
        | "ended_sessions" | "used_codes" | "touched_rows" => return Table::Elsewhere,
        _ => return Table::Unknown,
    })
}

/// The parts whose rows go, or lose something, with a row of a table that is deleted.
fn cascades(name: &str) -> &'static [Part] {
    match name {
        "sites" => &[Part::EnrolmentKeys],
        "user_groups" => &[Part::Memberships, Part::Policies],
        "resources" => &[Part::Policies],
        "users" => &[Part::SignIn],
        _ => &[],
    }
}

/// The table that a statement writes; nothing where its text does not say it plainly.
fn target(sql: &str) -> Option<(&str, bool)> {
    let mut words = sql.split_ascii_whitespace();
    let verb = words.next()?;
    let is_delete = verb.eq_ignore_ascii_case("delete");
    if is_delete || verb.eq_ignore_ascii_case("insert") {
        words.next().filter(|word| word.eq_ignore_ascii_case("into") || word.eq_ignore_ascii_case("from"))?;
    } else if !verb.eq_ignore_ascii_case("update") {
        return None;
    }
    let name = words.next()?;
    name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some((name, is_delete))
}

impl Touched {
    /// Takes note of a statement.
    pub(crate) fn saw(&mut self, statement: &Statement) {
        if !statement.is_write() {
            return;
        }
        let Some((name, is_delete)) = target(statement.sql()) else {
            *self = Self::Everything;
            return;
        };
        match table(name) {
            Table::Of(part) => self.add(part, statement.named()),
            Table::Elsewhere => return,
            Table::Unknown => *self = Self::Everything,
        }
        if is_delete && !planted::is("cascade-not-noted") {
            for part in cascades(name) {
                self.add(*part, None);
            }
        }
    }

    fn add(&mut self, part: Part, named: Option<&[String]>) {
        let Self::Parts(parts) = self else { return };
        let rows = parts.entry(part).or_insert_with(|| Rows::Some(BTreeSet::new()));
        match (&mut *rows, named) {
            (Rows::Some(ids), Some(named)) if part != Part::SignIn => {
                ids.extend(named.iter().cloned());
                if ids.len() > NAMED {
                    *rows = Rows::All;
                }
            }
            _ => *rows = Rows::All,
        }
    }

    /// This and what another change touched.
    pub(crate) fn and(&mut self, other: Self) {
        let Self::Parts(others) = other else {
            *self = Self::Everything;
            return;
        };
        for (part, rows) in others {
            match rows {
                Rows::Some(ids) => self.add(part, Some(&ids.into_iter().collect::<Vec<_>>())),
                Rows::All => self.add(part, None),
            }
        }
    }

    /// As a row has it; nothing where there is nothing to say.
    pub(crate) fn text(&self) -> Option<String> {
        match self {
            Self::Parts(parts) => {
                Some(serde_json::to_string(parts).expect("names and lists of texts always serialize"))
            }
            Self::Everything => None,
        }
    }

    /// What a row says. What cannot be read, perhaps of a newer build, is everything.
    pub(crate) fn of_text(text: &str) -> Self {
        serde_json::from_str(text).map_or(Self::Everything, Self::Parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{schema, statement::query};
    use sqlx::{Connection as _, Row as _, SqliteConnection};

    fn noted(statements: &[Statement]) -> Touched {
        let mut touched = Touched::default();
        statements.iter().for_each(|statement| touched.saw(statement));
        touched
    }

    fn parts(of: &[(Part, Option<&[&str]>)]) -> Touched {
        let rows = |ids: &Option<&[&str]>| match ids {
            Some(ids) => Rows::Some(ids.iter().map(|id| (*id).to_owned()).collect()),
            None => Rows::All,
        };
        Touched::Parts(of.iter().map(|(part, ids)| (*part, rows(ids))).collect())
    }

    #[test]
    fn a_statement_that_names_no_row_touches_its_table_and_one_that_nobody_understands_everything() {
        let site = || query("UPDATE sites SET name = $1 WHERE id = $2");
        assert_eq!(noted(&[query("SELECT * FROM sites")]), Touched::default());
        assert_eq!(noted(&[site().of_row("a")]), parts(&[(Part::Sites, Some(&["a"]))]));
        assert_eq!(noted(&[site().of_row("a"), site()]), parts(&[(Part::Sites, None)]));
        assert_eq!(noted(&[site(), site().of_row("a")]), parts(&[(Part::Sites, None)]));
        let group = query("DELETE FROM user_groups WHERE id = $1").of_row("g");
        let gone = [(Part::Groups, Some(&["g"][..])), (Part::Memberships, None), (Part::Policies, None)];
        assert_eq!(noted(&[group]), parts(&gone));
        assert_eq!(
            noted(&[query("UPDATE accounts SET totp = $1").of_row("x")]),
            parts(&[(Part::SignIn, None)])
        );
        assert_eq!(noted(&[query("INSERT INTO audit (at_ms) VALUES (1)")]), Touched::default());
        for strange in ["UPDATE new_table SET a = 1", "WITH a AS (SELECT 1) DELETE FROM sites", "PRAGMA x"] {
            assert_eq!(noted(&[query(strange)]), Touched::Everything, "{strange}");
        }
    }

    #[test]
    fn what_is_written_down_is_read_as_it_was_and_too_much_of_a_kind_is_all_of_it() {
        let mut touched =
            noted(&[query("UPDATE sites SET name = $1").of_row("a"), query("DELETE FROM tokens")]);
        assert_eq!(Touched::of_text(&touched.text().unwrap()), touched);
        for text in ["", "[]", "{\"sites\":3}", "{\"of a newer build\":null}"] {
            assert_eq!(Touched::of_text(text), Touched::Everything, "{text}");
        }
        let many: Vec<String> = (0..NAMED).map(|number| format!("{number:03}")).collect();
        touched.and(noted(&[query("UPDATE sites SET name = $1").of_rows(many)]));
        assert_eq!(touched, parts(&[(Part::Sites, None), (Part::Tokens, None)]));
        touched.and(Touched::Everything);
        assert_eq!(touched.text(), None);
    }

    /// A table or a cascade that a migration adds is named above, or this fails.
    #[tokio::test]
    async fn every_table_is_known_and_so_is_what_goes_with_a_row_of_it() {
        let mut db = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        schema::apply(schema::sqlite(), &mut db).await.unwrap();
        let tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\' \
                      AND name NOT LIKE 'sqlite_%'";
        let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut db).await.unwrap();
        assert!(tables.len() > 20, "{tables:?}");
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for name in &tables {
            assert_ne!(table(name), Table::Unknown, "{name}");
            let keys = "SELECT \"table\", on_delete FROM pragma_foreign_key_list($1)";
            for key in sqlx::query(keys).bind(name).fetch_all(&mut db).await.unwrap() {
                let (of, rule): (String, String) = (key.get(0), key.get(1));
                match rule.as_str() {
                    "CASCADE" => drop(edges.entry(of).or_default().insert(name.clone())),
                    "NO ACTION" => {}
                    other => panic!("{name} has a rule that is not known here: {other}"),
                }
            }
        }
        for name in &tables {
            let Table::Of(own) = table(name) else {
                assert!(!edges.contains_key(name), "{name}");
                continue;
            };
            let (mut found, mut next) = (BTreeSet::new(), vec![name.clone()]);
            while let Some(from) = next.pop() {
                for to in edges.get(&from).into_iter().flatten() {
                    let Table::Of(part) = table(to) else { panic!("{to}") };
                    found.insert(part);
                    next.push(to.clone());
                }
            }
            // A policy's own links, and what belongs to an account, are of the same part; links are named by the policy.
            found.remove(&own);
            assert_eq!(found, cascades(name).iter().copied().collect(), "{name}");
        }
    }
}
