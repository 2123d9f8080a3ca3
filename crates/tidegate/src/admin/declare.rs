//! What a file says that an organization shall have: names in place of ids, TOML or JSON.

use crate::output::{Failure, Outcome};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::Path};

/// A file's content. A collection that is absent stays as it is; one that is there and empty has nothing in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Declared {
    /// How the organization works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settings: Option<Settings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sites: Option<Vec<Site>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) resources: Option<Vec<Resource>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) users: Option<Vec<User>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service_accounts: Option<Vec<ServiceAccount>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) groups: Option<Vec<Group>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) policies: Option<Vec<Policy>>,
}

/// How the organization works; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grant_life_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    renew_after_seconds: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    approve_devices: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audit_retention_days: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flow_retention_days: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sign_in_age_seconds: Option<u64>,
}

/// A site, known by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Site {
    pub(super) name: String,
    #[serde(default)]
    prefixes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    regions: Vec<String>,
}

/// A resource, known by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resource {
    pub(super) name: String,
    /// The site's name.
    pub(super) site: String,
    address: String,
    ports: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    #[serde(default = "standard")]
    mode: String,
}

fn standard() -> String {
    "standard".to_owned()
}

/// A person, known by their address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) email: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<String>,
}

/// A service account, known by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceAccount {
    pub(super) name: String,
}

/// A group, known by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) name: String,
    /// Addresses of people and names of service accounts, with [`USER`] or [`SERVICE_ACCOUNT`] before one that is both;
    /// absent: whoever is in it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) members: Option<Vec<String>>,
}

/// Before the address of a person among the members of a group.
pub(super) const USER: &str = "user:";
/// Before the name of a service account there, which may be any text, an address too.
pub(super) const SERVICE_ACCOUNT: &str = "service-account:";

/// A policy, known by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    pub(super) name: String,
    /// Names.
    pub(super) groups: Vec<String>,
    /// Names.
    pub(super) resources: Vec<String>,
}

/// The collections of a file in the order in which they are made.
pub(super) const COLLECTIONS: [&str; 6] =
    ["sites", "users", "service_accounts", "groups", "resources", "policies"];

/// A file that was read, and where each of its objects begins.
#[derive(Debug)]
pub(super) struct File {
    pub(super) name: String,
    pub(super) declared: Declared,
    lines: BTreeMap<(&'static str, usize), usize>,
}

impl File {
    /// Where an object is, for a message.
    pub(super) fn place(&self, collection: &str, index: usize) -> String {
        let line =
            self.lines.iter().find(|((of, at), _)| *of == collection && *at == index).map(|(_, line)| *line);
        match line {
            Some(line) => format!("{}:{line}: {collection}[{index}]", self.name),
            None => format!("{}: {collection}[{index}]", self.name),
        }
    }
}

fn wrong(text: impl std::fmt::Display) -> Failure {
    Failure::say(Outcome::Usage, text)
}

/// Reads a file; `-` is standard input.
///
/// # Errors
/// It cannot be read, or says something that it cannot say: the message has its line.
pub(super) fn read(path: &Path) -> Result<File, Failure> {
    let name = path.display().to_string();
    let text = if name == "-" {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(path).map_err(|error| wrong(format_args!("{name}: {error}")))?
    };
    parse(&name, &text)
}

/// Reads a file's text: JSON where it begins with a brace, else TOML.
pub(super) fn parse(name: &str, text: &str) -> Result<File, Failure> {
    if text.trim_start().starts_with('{') {
        return parse_json(name, text);
    }
    let declared: Declared = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        wrong(format_args!("{name}:{line}: {}", error.message().trim()))
    })?;
    let spans: Spans = toml::from_str(text).unwrap_or_default();
    let mut lines = BTreeMap::new();
    for collection in COLLECTIONS {
        for (index, item) in spans.0.get(collection).into_iter().flatten().enumerate() {
            lines.insert((collection, index), line_at(text, item.span().start));
        }
    }
    let file = File { name: name.to_owned(), declared, lines };
    file.check()?;
    Ok(file)
}

/// Where each table of each collection begins.
#[derive(Default)]
struct Spans(BTreeMap<String, Vec<toml::Spanned<toml::Value>>>);

impl<'de> Deserialize<'de> for Spans {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Collections {
            #[serde(default)]
            sites: Vec<toml::Spanned<toml::Value>>,
            #[serde(default)]
            users: Vec<toml::Spanned<toml::Value>>,
            #[serde(default)]
            service_accounts: Vec<toml::Spanned<toml::Value>>,
            #[serde(default)]
            groups: Vec<toml::Spanned<toml::Value>>,
            #[serde(default)]
            resources: Vec<toml::Spanned<toml::Value>>,
            #[serde(default)]
            policies: Vec<toml::Spanned<toml::Value>>,
        }
        let all = Collections::deserialize(deserializer)?;
        let lists = [
            ("sites", all.sites),
            ("users", all.users),
            ("service_accounts", all.service_accounts),
            ("groups", all.groups),
            ("resources", all.resources),
            ("policies", all.policies),
        ];
        Ok(Self(lists.into_iter().map(|(name, list)| (name.to_owned(), list)).collect()))
    }
}

fn parse_json(name: &str, text: &str) -> Result<File, Failure> {
    let declared = serde_json::from_str(text).map_err(|error: serde_json::Error| {
        wrong(format_args!("{name}:{}:{}: {error}", error.line(), error.column()))
    })?;
    let file = File { name: name.to_owned(), declared, lines: BTreeMap::new() };
    file.check()?;
    Ok(file)
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn object(item: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(item) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn objects(items: Option<&[impl Serialize]>) -> Vec<Map<String, Value>> {
    items.unwrap_or_default().iter().map(object).collect()
}

impl File {
    /// The objects of a collection as the file has them.
    pub(super) fn objects(&self, collection: &str) -> Vec<Map<String, Value>> {
        let all = &self.declared;
        match collection {
            "sites" => objects(all.sites.as_deref()),
            "resources" => objects(all.resources.as_deref()),
            "users" => objects(all.users.as_deref()),
            "service_accounts" => objects(all.service_accounts.as_deref()),
            "groups" => objects(all.groups.as_deref()),
            "policies" => objects(all.policies.as_deref()),
            _ => Vec::new(),
        }
    }

    /// Whether the file says what is in a collection, be it nothing.
    pub(super) fn says(&self, collection: &str) -> bool {
        let all = &self.declared;
        match collection {
            "sites" => all.sites.is_some(),
            "resources" => all.resources.is_some(),
            "users" => all.users.is_some(),
            "service_accounts" => all.service_accounts.is_some(),
            "groups" => all.groups.is_some(),
            "policies" => all.policies.is_some(),
            _ => false,
        }
    }

    /// The settings as the file has them.
    pub(super) fn settings(&self) -> Option<Map<String, Value>> {
        self.declared.settings.as_ref().map(object)
    }

    /// Two objects of a collection are not called the same.
    fn check(&self) -> Result<(), Failure> {
        for collection in COLLECTIONS {
            let key = key_of(collection);
            let mut seen = BTreeMap::new();
            for (index, object) in self.objects(collection).into_iter().enumerate() {
                let name = object[key].as_str().unwrap_or_default().to_owned();
                if let Some(first) = seen.insert(name.clone(), index) {
                    return Err(wrong(format_args!(
                        "{}: {key}: each one once; {name:?} is also at {}",
                        self.place(collection, index),
                        self.place(collection, first)
                    )));
                }
            }
        }
        Ok(())
    }
}

/// By which member the objects of a collection are known.
pub(super) fn key_of(collection: &str) -> &'static str {
    if collection == "users" { "email" } else { "name" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
[settings]
approve_devices = true

[[sites]]
name = "hamburg"
prefixes = ["10.0.0.0/8"]

[[resources]]
name = "orders"
site = "hamburg"
address = "10.1.2.3"
ports = ["5432"]
"#;

    fn message(result: Result<File, Failure>) -> String {
        format!("{:#}", result.expect_err("a failure").error)
    }

    #[test]
    fn a_file_is_read_as_toml_and_as_json_and_each_object_knows_its_line() {
        let file = parse("net.toml", FILE).expect("reads");
        assert_eq!(file.place("resources", 0), "net.toml:9: resources[0]");
        let json = serde_json::to_string(&file.declared).unwrap();
        assert_eq!(parse("net.json", &json).expect("reads").declared, file.declared);
    }

    #[test]
    fn a_collection_that_is_there_and_empty_is_told_from_one_that_is_absent() {
        for (name, text) in [("net.toml", "policies = []\n"), ("net.json", "{\"policies\": []}")] {
            let file = parse(name, text).expect("reads");
            assert!(file.says("policies") && !file.says("sites"), "{name}");
            let again = serde_json::to_string(&file.declared).unwrap();
            assert_eq!(again, "{\"policies\":[]}");
        }
    }

    #[test]
    fn a_file_that_is_wrong_says_in_which_line() {
        let wrong = FILE.replace("ports = [\"5432\"]", "prots = [\"5432\"]");
        let said = message(parse("net.toml", &wrong));
        assert!(said.starts_with("net.toml:") && said.contains("prots"), "{said}");
        let said = message(parse("net.json", "{\n \"sites\": [{\"name\": 5}]}"));
        assert!(said.starts_with("net.json:2:") && said.contains("string"), "{said}");
        let twice = format!("{FILE}\n[[sites]]\nname = \"hamburg\"\n");
        let said = message(parse("net.toml", &twice));
        assert!(said.contains("net.toml:15: sites[1]") && said.contains("net.toml:5: sites[0]"), "{said}");
    }
}
