//! What an operator writes down of an organization: the files of `admin apply`, the changes that come of them, and what a
//! controller makes of these.

/// Their own sources, which no crate exports.
#[path = "../../../crates/tidegate/src/admin/declare.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the binary, which documents it")]
mod declare;
#[path = "../../../crates/tidegate/src/admin/plan.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the binary, which documents it")]
mod plan;

use crate::output::{Failure, Outcome};
use controller::api::{
    read_bulk,
    types::{BulkInput, BulkMethod, BulkOperation},
};
use declare::{COLLECTIONS, File};
use enrol::{ApiClient, ApiError};
use plan::{Current, Others, Plan};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What their sources ask of the rest of the program: which speaks to a controller, as nothing here does.
fn refused(error: ApiError) -> Failure {
    Failure::new(Outcome::Failed, error)
}

#[expect(clippy::unused_async, reason = "as the program has it")]
async fn every(_: &ApiClient, path: &str, _: Option<&str>) -> Result<Vec<Value>, Failure> {
    Err(Failure::say(Outcome::Failed, format_args!("nobody lists {path} here")))
}

const NAME: &str = "net.toml";
/// A comment of TOML. What stands behind it is a later file of the same organization.
const LATER: &str = "\n#later\n";

/// What is printed changes no terminal.
fn is_shown(said: &str) {
    assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
}

/// Whatever stands in a file: it is refused with its place, or it says itself over again, each operation that comes of it
/// is one that a controller reads, and when they are made, nothing is left to do.
pub(crate) fn declared_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, later) = text.split_once(LATER).map_or((text, None), |(first, later)| (first, Some(later)));
    let mut made = Made::default();
    let Some(()) = applied(first, Others::Stay, &mut made) else { return };
    // What is there says itself as a file that changes nothing, whatever is removed that it does not have.
    let (current, export) = (made.current(), made.current().export());
    let exported = declare::parse("export.json", &export.to_string()).expect("its own file");
    let left = Plan::make(&exported, &current, Others::Go).expect("its own names");
    assert!(left.steps.is_empty(), "its own export changes it: {}", left.text());
    // TOML has no numbers above those of 64 bits with a sign.
    if let Ok(text) = toml::to_string(&export) {
        let of_toml = declare::parse("export.toml", &text).expect("its own file");
        assert_eq!(of_toml.declared, exported.declared);
    }
    if let Some(later) = later {
        let _ = applied(later, Others::Go, &mut made);
    }
}

/// Applies a file to what is there, when it can be.
fn applied(text: &str, others: Others, made: &mut Made) -> Option<()> {
    let file = match declare::parse(NAME, text) {
        Ok(file) => file,
        Err(failure) => {
            let said = failure.text();
            is_shown(&said);
            assert!(said.starts_with("net.toml:"), "{said}");
            return None;
        }
    };
    has_its_lines(&file, text);
    let again = serde_json::to_string(&file.declared).expect("it has a JSON form");
    assert_eq!(declare::parse("net.json", &again).expect("its own form").declared, file.declared);
    let wanted = planned(&file, &made.current(), others)?;
    assert!(others == Others::Go || wanted.steps.iter().all(|step| step.sign != '-'), "nothing was there");
    made.make(&wanted)?;
    let left = planned(&file, &made.current(), others).expect("what was planned once");
    assert!(left.steps.is_empty(), "applied again, it changes again: {}", left.text());
    Some(())
}

/// Each object of TOML knows its line, and they come in the order of the file.
fn has_its_lines(file: &File, text: &str) {
    let lines = text.lines().count() + 1;
    for collection in COLLECTIONS {
        let mut last = 1;
        for index in 0..file.objects(collection).len() {
            let place = file.place(collection, index);
            let line =
                place.strip_prefix("net.toml:").and_then(|rest| rest.split_once(": ")).map(|(line, _)| line);
            let Some(line) = line.and_then(|line| line.parse::<usize>().ok()) else {
                assert!(text.trim_start().starts_with('{'), "{place} has no line");
                continue;
            };
            assert!((last..=lines).contains(&line), "{place} of {lines} lines, behind {last}");
            last = line;
        }
    }
}

/// The changes, unless the file names somebody who is not there.
fn planned(file: &File, current: &Current, others: Others) -> Option<Plan> {
    match Plan::make(file, current, others) {
        Ok(plan) => {
            is_shown(&plan.text());
            Some(plan)
        }
        Err(failure) => {
            let said = failure.text();
            is_shown(&said);
            assert!(said.starts_with("net.toml") && said.contains("expected"), "{said}");
            None
        }
    }
}

/// What a controller has when it made everything that it was asked for.
#[derive(Default)]
struct Made {
    /// By collection and id.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// By group.
    members: BTreeMap<String, BTreeSet<String>>,
    settings: Map<String, Value>,
    /// The last id's.
    number: u32,
    /// Something went that others still name: a controller refuses that.
    in_use: bool,
}

impl Made {
    fn current(&self) -> Current {
        let mut current = Current::default();
        for (collection, objects) in &self.objects {
            current.take(collection, objects.values().cloned().collect());
        }
        for (group, members) in &self.members {
            let members: Vec<Value> = members.iter().map(|member| json!({"member": member})).collect();
            current.take_members(group.clone(), &members);
        }
        current.take_settings(self.settings.clone().into());
        current
    }

    fn take(&mut self, asked: &BulkOperation, answer: &Value) {
        let path: Vec<String> =
            asked.path.split('/').skip(1).map(|part| part.replace("service-", "service_")).collect();
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut body = asked.body.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        let collection = COLLECTIONS.into_iter().find(|known| *known == path[0]);
        match (asked.method, &path[1..]) {
            (BulkMethod::Put, [group, "members", member]) => {
                self.members.entry((*group).to_owned()).or_default().insert((*member).to_owned());
            }
            (BulkMethod::Delete, [group, "members", member]) => {
                let was = self.members.get_mut(*group).is_some_and(|members| members.remove(*member));
                assert!(was, "{member} was in no group {group}");
            }
            (BulkMethod::Patch, []) => self.settings.append(&mut body),
            (BulkMethod::Post, []) => {
                // As a controller shows them: also what nobody said.
                let mut object = json!({"regions": [], "alias": null, "id": answer["id"]});
                object.as_object_mut().expect("an object").append(&mut body);
                let id = answer["id"].as_str().expect("an id").to_owned();
                self.objects
                    .entry(collection.expect("a collection of files"))
                    .or_default()
                    .insert(id, object);
            }
            (BulkMethod::Patch, [id]) => {
                let held = self.objects.get_mut(collection.expect("a collection of files"));
                let held = held.and_then(|held| held.get_mut(*id)).expect("it is there");
                held.as_object_mut().expect("an object").append(&mut body);
            }
            (BulkMethod::Delete, [id]) => self.remove(collection.expect("a collection of files"), id),
            other => panic!("nobody asks for {other:?} {}", asked.path),
        }
    }

    fn remove(&mut self, collection: &str, id: &str) {
        let was = self.objects.get_mut(collection).and_then(|held| held.remove(id));
        assert!(was.is_some(), "{id} was not there");
        self.members.remove(id);
        self.members.values_mut().for_each(|members| members.retain(|member| member != id));
        let mut others = self.objects.values().flat_map(BTreeMap::values);
        self.in_use |= others.any(|other| other.to_string().contains(id));
    }

    /// Has a controller read the operations. Words that it alone knows may be wrong; everything else is as it takes it.
    fn make(&mut self, plan: &Plan) -> Option<()> {
        let body = plan::bulk(&plan.steps, false, false).to_string();
        let input = crate::asked::body::<BulkInput>(body.as_bytes()).expect("a bulk");
        if input.operations.is_empty() {
            return Some(());
        }
        let read = read_bulk(input, |asked| {
            self.number += 1;
            let answer = crate::bulks::made(asked, self.number);
            self.take(asked, &answer);
            answer
        });
        if let Err(problem) = read {
            let field = problem.field.clone().unwrap_or_default();
            assert!(field.ends_with(".body.role") || field.ends_with(".body.mode"), "{problem:?}");
            return None;
        }
        (!self.in_use).then_some(())
    }
}

/// Genuine files.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let json = json!({
        "sites": [{"name": "hamburg", "prefixes": ["10.0.0.0/8"], "regions": ["eu"]}],
        "groups": [{"name": "eng", "members": ["ci"]}],
        "service_accounts": [{"name": "ci"}],
        "policies": [{"name": "p", "groups": ["eng"], "resources": []}],
    });
    vec![
        ("declared_file", "toml", TOML.into()),
        ("declared_file", "json", json.to_string().into_bytes()),
        ("declared_file", "inline", INLINE.into()),
        ("declared_file", "later", [TOML, LATER, LATER_TOML].concat().into()),
        ("declared_file", "later-without", [TOML, LATER, WITHOUT].concat().into()),
        ("declared_file", "typed", TYPED.into()),
        ("declared_file", "empty", Vec::new()),
        ("declared_file", "twice", b"[[sites]]\nname = \"a\"\n\n[[sites]]\nname = \"a\"\n".to_vec()),
        (
            "declared_file",
            "unknown-member",
            b"[[sites]]\nname = \"a\"\n\"\\u001B]0;x\\u0007\" = 1\n".to_vec(),
        ),
        ("declared_file", "unknown-member-json", b"{\"sites\": [{\"\\u001b[2J\": 1}]}".to_vec()),
        (
            "declared_file",
            "nobody",
            b"[[policies]]\nname = \"p\"\ngroups = [\"ops\"]\nresources = []\n".to_vec(),
        ),
        (
            "declared_file",
            "large-number",
            b"{\"settings\": {\"grant_life_seconds\": 18446744073709551615}}".to_vec(),
        ),
    ]
}

const TOML: &str = r#"[settings]
name = "Harbour"
approve_devices = true
grant_life_seconds = 86400

[[sites]]
name = "hamburg"
prefixes = ["10.0.0.0/8"]
regions = ["eu"]

[[resources]]
name = "orders"
site = "hamburg"
address = "10.1.2.3"
ports = ["5432", "udp/53"]
alias = "db"
mode = "strict"

[[users]]
email = "ada@example.com"
name = "Ada"
role = "auditor"

[[service_accounts]]
name = "ci"

[[groups]]
name = "eng"
members = ["ada@example.com", "ci"]

[[policies]]
name = "eng to orders"
groups = ["eng"]
resources = ["orders"]
"#;

/// Others in the place of some, and less in that of others.
const LATER_TOML: &str = r#"[settings]
approve_devices = false

[[sites]]
name = "hamburg"
prefixes = ["10.0.0.0/8", "10.9.0.0/16"]

[[sites]]
name = "bremen"

[[resources]]
name = "orders"
site = "bremen"
address = "10.1.2.4"
ports = ["5432"]

[[users]]
email = "ada@example.com"
name = "Ada L."

[[users]]
email = "grace@example.com"
name = "Grace"

[[groups]]
name = "eng"
members = ["grace@example.com"]

[[policies]]
name = "all"
groups = ["eng"]
resources = ["orders"]
"#;

/// It names somebody whom it does not have any more.
const WITHOUT: &str = r#"[[users]]
email = "grace@example.com"
name = "Grace"

[[groups]]
name = "eng"
members = ["ada@example.com"]
"#;

const INLINE: &str = r#"sites = [{ name = "a" }, { name = "b", prefixes = [] }]
groups = [
  { name = "g", members = [] },
  { name = "h" },
]
"#;

/// Names and texts that look like what stands for an id.
const TYPED: &str = r#"[[sites]]
name = "@sites.0"

[[resources]]
name = "@resources.0"
site = "@sites.0"
address = "@sites.0"
ports = ["@sites.0"]
alias = "@sites.0"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_file_is_read_but_for_those_that_are_wrong() {
        for (_, name, text) in genuine() {
            let text = std::str::from_utf8(&text).expect("text");
            let read = declare::parse(NAME, text.split_once(LATER).map_or(text, |(first, _)| first));
            let is_wrong = matches!(name, "twice" | "unknown-member" | "unknown-member-json");
            assert_eq!(read.is_err(), is_wrong, "{name}: {read:?}");
        }
    }

    #[test]
    fn a_whole_file_and_a_later_one_are_made_by_a_controller() {
        let mut made = Made::default();
        let count = |made: &Made| made.members.values().map(BTreeSet::len).sum::<usize>();
        applied(TOML, Others::Stay, &mut made).expect("every operation is read");
        assert_eq!((made.objects.len(), count(&made)), (COLLECTIONS.len(), 2));
        applied(LATER_TOML, Others::Go, &mut made).expect("every operation is read");
        let of = |collection| made.objects.get(collection).map(BTreeMap::len);
        assert_eq!((of("sites"), of("users"), of("policies"), count(&made)), (Some(2), Some(2), Some(1), 1));
    }
}
