//! From what a file says and what there is, to the changes between them.

use super::{
    declare::{COLLECTIONS, File, key_of},
    refused,
};
use crate::{
    cli::Kind,
    output::{Failure, Outcome, cell, note},
};
use enrol::{ApiClient, ApiError};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Most operations of one request, as the API takes them, and most bytes of theirs: its limit without the rest of the body.
const BULK: usize = 10_000;
const BULK_BYTES: usize = 4 * 1024 * 1024 - 4096;

/// What there is, by collection and key.
#[derive(Debug, Default)]
pub(super) struct Current {
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// By group id: its members' ids.
    members: BTreeMap<String, BTreeSet<String>>,
    settings: Value,
}

const fn kind(collection: &str) -> Kind {
    match collection.as_bytes() {
        b"sites" => Kind::Sites,
        b"resources" => Kind::Resources,
        b"users" => Kind::Users,
        b"service_accounts" => Kind::ServiceAccounts,
        b"groups" => Kind::Groups,
        _ => Kind::Policies,
    }
}

impl Current {
    /// Reads everything that a file can say something about.
    pub(super) async fn read(api: &ApiClient) -> Result<Self, Failure> {
        let mut current = Self::default();
        for collection in COLLECTIONS {
            current.take(collection, super::every(api, kind(collection).path(), None).await?);
        }
        let groups: Vec<String> = current.ids("groups").cloned().collect();
        for group in groups {
            let members = super::every(api, &format!("groups/{group}/members"), None).await?;
            current.take_members(group, &members);
        }
        current.take_settings(api.get("/api/v1/settings").await.map_err(refused)?);
        Ok(current)
    }

    /// The objects of a collection as the API lists them.
    pub(super) fn take(&mut self, collection: &'static str, items: Vec<Value>) {
        let key = key_of(collection);
        let named = items.into_iter().filter_map(|item| Some((item[key].as_str()?.to_owned(), item)));
        self.objects.insert(collection, named.collect());
    }

    /// The members of a group as the API lists them.
    pub(super) fn take_members(&mut self, group: String, members: &[Value]) {
        let ids = members.iter().filter_map(|member| Some(member["member"].as_str()?.to_owned()));
        self.members.insert(group, ids.collect());
    }

    /// The settings as the API has them.
    pub(super) fn take_settings(&mut self, settings: Value) {
        self.settings = settings;
    }

    fn ids(&self, collection: &str) -> impl Iterator<Item = &String> {
        let all = self.objects.get(collection).into_iter().flat_map(BTreeMap::values);
        all.filter_map(|item| match &item["id"] {
            Value::String(id) => Some(id),
            _ => None,
        })
    }

    fn get(&self, collection: &str, key: &str) -> Option<&Value> {
        self.objects.get(collection)?.get(key)
    }

    /// The key of an object by its id.
    fn key(&self, collection: &str, id: &str) -> Option<&str> {
        let all = self.objects.get(collection)?;
        all.iter().find(|(_, item)| item["id"] == id).map(|(key, _)| key.as_str())
    }

    fn member_name(&self, id: &str) -> Option<&str> {
        self.key("users", id).or_else(|| self.key("service_accounts", id))
    }

    /// The same as a file says it.
    pub(super) fn export(&self) -> Value {
        let mut file = Map::new();
        let settings = [
            "grant_life_seconds",
            "renew_after_seconds",
            "approve_devices",
            "audit_retention_days",
            "flow_retention_days",
            "sign_in_age_seconds",
        ];
        file.insert("settings".into(), chosen(&self.settings, &settings));
        for collection in COLLECTIONS {
            let items: Vec<Value> = self
                .objects
                .get(collection)
                .into_iter()
                .flat_map(BTreeMap::values)
                .map(|item| self.said(collection, item))
                .collect();
            if !items.is_empty() {
                file.insert(collection.into(), items.into());
            }
        }
        Value::Object(file)
    }

    /// An object with names in place of ids, and only what a file can say.
    fn said(&self, collection: &str, item: &Value) -> Value {
        let names = |of: &str, member: &str| -> Value {
            let ids = item[member].as_array().map(Vec::as_slice).unwrap_or_default();
            ids.iter().filter_map(|id| self.key(of, id.as_str()?)).collect::<Vec<_>>().into()
        };
        match collection {
            "sites" => chosen(item, &["name", "prefixes", "regions"]),
            "users" => chosen(item, &["email", "name", "role"]),
            "service_accounts" => chosen(item, &["name"]),
            "resources" => {
                let mut said = chosen(item, &["name", "address", "ports", "alias", "mode"]);
                said["site"] = item["site"].as_str().and_then(|id| self.key("sites", id)).into();
                said
            }
            "groups" => {
                let mut said = chosen(item, &["name"]);
                let members = item["id"].as_str().and_then(|id| self.members.get(id)).into_iter().flatten();
                said["members"] = members.filter_map(|id| self.member_name(id)).collect::<Vec<_>>().into();
                said
            }
            _ => {
                let mut said = chosen(item, &["name"]);
                said["groups"] = names("groups", "groups");
                said["resources"] = names("resources", "resources");
                said
            }
        }
    }
}

fn chosen(item: &Value, members: &[&str]) -> Value {
    let all = members.iter().filter_map(|name| Some(((*name).to_owned(), item.get(*name)?.clone())));
    Value::Object(all.filter(|(_, value)| !value.is_null()).collect())
}

/// One change that a plan makes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    /// `+`, `~` or `-`, and of what.
    pub(super) sign: char,
    pub(super) what: String,
    /// Member, before and after.
    pub(super) differs: Vec<(String, Value, Value)>,
    /// As the API takes it.
    operation: Value,
    /// Where the file says it.
    place: String,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

/// Whether objects that a file does not have are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    Stay,
    Go,
}

/// Looks names up, in the file and in what there is.
struct Names<'a> {
    file: &'a File,
    current: &'a Current,
    others: Others,
    /// By collection: where in the file an object is, by its key.
    places: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

impl<'a> Names<'a> {
    fn new(file: &'a File, current: &'a Current, others: Others) -> Self {
        let keys = |collection: &'static str| {
            let objects = file.objects(collection).into_iter().enumerate();
            objects
                .filter_map(|(index, object)| Some((object[key_of(collection)].as_str()?.to_owned(), index)))
                .collect()
        };
        let places = COLLECTIONS.into_iter().map(|collection| (collection, keys(collection))).collect();
        Self { file, current, others, places }
    }

    /// An id, or the name by which an earlier operation of the same request is known.
    fn id(&self, collection: &str, name: &str, place: &str, field: &str) -> Result<String, Failure> {
        let places = self.places.get(collection);
        let index = places.and_then(|places| places.get(name));
        // What this very file removes is not to be named in it.
        let only_here = self.others == Others::Go && places.is_some_and(|places| !places.is_empty());
        let stays = index.is_some() || !only_here;
        if let Some(item) = self.current.get(collection, name).filter(|_| stays) {
            return Ok(item["id"].as_str().unwrap_or_default().to_owned());
        }
        let (key, or) = (key_of(collection), if only_here { "" } else { " or of the organization" });
        index.map(|index| format!("@{collection}.{index}")).ok_or_else(|| {
            Failure::say(
                Outcome::Usage,
                format_args!(
                    "{place}: {field}: expected the {key} of one of the {collection} of this file{or}, got {name:?}"
                ),
            )
        })
    }

    fn member(&self, name: &str, place: &str) -> Result<String, Failure> {
        let of_users = self.id("users", name, place, "members");
        of_users.or_else(|error| self.id("service_accounts", name, place, "members").map_err(|_| error))
    }

    fn ids(&self, collection: &str, names: &Value, place: &str, field: &str) -> Result<Vec<String>, Failure> {
        let names = names.as_array().map(Vec::as_slice).unwrap_or_default();
        names
            .iter()
            .map(|name| self.id(collection, name.as_str().unwrap_or_default(), place, field))
            .collect()
    }

    /// What the API takes for an object of the file.
    fn body(
        &self,
        collection: &str,
        object: &Map<String, Value>,
        place: &str,
    ) -> Result<Map<String, Value>, Failure> {
        let mut body = object.clone();
        match collection {
            "resources" => {
                let site = object["site"].as_str().unwrap_or_default();
                body.insert("site".into(), self.id("sites", site, place, "site")?.into());
            }
            "groups" => {
                body.remove("members");
            }
            "policies" => {
                for of in ["groups", "resources"] {
                    body.insert(of.into(), self.ids(of, &object[of], place, of)?.into());
                }
            }
            _ => {}
        }
        Ok(body)
    }
}

fn path_of(collection: &str) -> &'static str {
    kind(collection).path()
}

/// Lists say the same in any order where the API keeps them as sets.
fn same(collection: &str, name: &str, one: &Value, other: &Value) -> bool {
    let sets = matches!((collection, name), ("policies", "groups" | "resources") | ("resources", "ports"));
    match (one, other) {
        (Value::Array(a), Value::Array(b)) if sets => {
            let texts = |list: &[Value]| list.iter().map(Value::to_string).collect::<BTreeSet<_>>();
            texts(a) == texts(b)
        }
        _ => one == other,
    }
}

impl Plan {
    /// Compares.
    pub(super) fn make(file: &File, current: &Current, others: Others) -> Result<Self, Failure> {
        let names = Names::new(file, current, others);
        let mut plan = Self::default();
        if let Some(wanted) = file.settings() {
            plan.settings(file, current, &wanted);
        }
        for collection in COLLECTIONS {
            for (index, object) in file.objects(collection).iter().enumerate() {
                plan.object(&names, collection, index, object)?;
            }
        }
        for (index, group) in file.declared.groups.iter().enumerate() {
            if let Some(members) = &group.members {
                plan.members(&names, index, &group.name, members)?;
            }
        }
        if others == Others::Go {
            plan.others(file, current);
        }
        Ok(plan)
    }

    fn settings(&mut self, file: &File, current: &Current, wanted: &Map<String, Value>) {
        let differs: Vec<_> = wanted
            .iter()
            .filter(|(name, value)| current.settings[name.as_str()] != **value)
            .map(|(name, value)| (name.clone(), current.settings[name.as_str()].clone(), value.clone()))
            .collect();
        if differs.is_empty() {
            return;
        }
        let body: Map<String, Value> =
            differs.iter().map(|(name, _, value)| (name.clone(), value.clone())).collect();
        self.steps.push(Step {
            sign: '~',
            what: "settings".to_owned(),
            differs,
            operation: json!({"method": "PATCH", "path": "/settings", "body": body}),
            place: format!("{}: settings", file.name),
        });
    }

    fn object(
        &mut self,
        names: &Names<'_>,
        collection: &'static str,
        index: usize,
        object: &Map<String, Value>,
    ) -> Result<(), Failure> {
        let key = object[key_of(collection)].as_str().unwrap_or_default();
        let place = names.file.place(collection, index);
        let body = names.body(collection, object, &place)?;
        let path = path_of(collection);
        let what = format!("{} {key:?}", singular(collection));
        let Some(held) = names.current.get(collection, key) else {
            let differs =
                body.iter().map(|(name, value)| (name.clone(), Value::Null, value.clone())).collect();
            let operation = json!({"method": "POST", "path": format!("/{path}"), "body": body, "as": format!("{collection}.{index}")});
            self.steps.push(Step { sign: '+', what, differs, operation, place });
            return Ok(());
        };
        let mut differs: Vec<_> = body
            .iter()
            .filter(|(name, value)| !same(collection, name, &held[name.as_str()], value))
            .map(|(name, value)| (name.clone(), held[name.as_str()].clone(), value.clone()))
            .collect();
        let mut patch: Map<String, Value> =
            differs.iter().map(|(name, _, value)| (name.clone(), value.clone())).collect();
        // What the file leaves out, an object of the file does not have.
        if collection == "resources" && !body.contains_key("alias") && !held["alias"].is_null() {
            differs.push(("alias".into(), held["alias"].clone(), Value::Null));
            patch.insert("alias".into(), Value::Null);
        }
        if collection == "sites" && !body.contains_key("regions") && held["regions"] != json!([]) {
            differs.push(("regions".into(), held["regions"].clone(), json!([])));
            patch.insert("regions".into(), json!([]));
        }
        if !differs.is_empty() {
            let id = held["id"].as_str().unwrap_or_default();
            let operation = json!({"method": "PATCH", "path": format!("/{path}/{id}"), "body": patch});
            self.steps.push(Step { sign: '~', what, differs, operation, place });
        }
        Ok(())
    }

    fn members(
        &mut self,
        names: &Names<'_>,
        index: usize,
        name: &str,
        wanted: &[String],
    ) -> Result<(), Failure> {
        let place = names.file.place("groups", index);
        let group = names.id("groups", name, &place, "name")?;
        let held = names.current.members.get(&group).cloned().unwrap_or_default();
        let mut ids = BTreeMap::new();
        for member in wanted {
            ids.insert(names.member(member, &place)?, member.clone());
        }
        for (id, member) in ids.iter().filter(|(id, _)| !held.contains(*id)) {
            self.steps.push(Step {
                sign: '+',
                what: format!("member {member:?} of group {name:?}"),
                differs: Vec::new(),
                operation: json!({"method": "PUT", "path": format!("/groups/{group}/members/{id}")}),
                place: place.clone(),
            });
        }
        for id in held.iter().filter(|id| !ids.contains_key(*id)) {
            let member = names.current.member_name(id).unwrap_or(id);
            self.steps.push(Step {
                sign: '-',
                what: format!("member {member:?} of group {name:?}"),
                differs: Vec::new(),
                operation: json!({"method": "DELETE", "path": format!("/groups/{group}/members/{id}")}),
                place: place.clone(),
            });
        }
        Ok(())
    }

    /// What the file does not have goes, of the collections that it names: those that use others first.
    fn others(&mut self, file: &File, current: &Current) {
        for collection in COLLECTIONS.iter().rev() {
            let wanted = file.objects(collection);
            if wanted.is_empty() {
                continue;
            }
            let key = key_of(collection);
            let kept: BTreeSet<&str> = wanted.iter().filter_map(|object| object[key].as_str()).collect();
            for (name, item) in current.objects.get(collection).into_iter().flatten() {
                if !kept.contains(name.as_str()) {
                    let id = item["id"].as_str().unwrap_or_default();
                    self.steps.push(Step {
                        sign: '-',
                        what: format!("{} {name:?}", singular(collection)),
                        differs: Vec::new(),
                        operation: json!({"method": "DELETE", "path": format!("/{}/{id}", path_of(collection))}),
                        place: format!("{}: not in {collection}", file.name),
                    });
                }
            }
        }
    }

    /// The steps, in as few requests as the API takes them in.
    fn requests(&self) -> Vec<&[Step]> {
        let (mut all, mut rest) = (Vec::new(), self.steps.as_slice());
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take(BULK).take_while(|step| {
                // An id is longer than the name that stands for it may be; and a comma.
                bytes += step.operation.to_string().len() + 64;
                bytes <= BULK_BYTES
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            all.push(some);
            rest = others;
        }
        all
    }

    /// Asks the controller what would come of it: every rule is its own, and what it writes in another way (an address
    /// in lower case) is no change.
    pub(super) async fn settle(mut self, api: &ApiClient, allow_shrink: bool) -> Result<Self, Failure> {
        // What takes several requests is not asked for at once: one may need what another makes.
        if self.requests().len() != 1 {
            return Ok(self);
        }
        let answer = self.send(api, &self.steps, allow_shrink, true).await?;
        let results = answer["results"].as_array().cloned().unwrap_or_default();
        let mut kept = Vec::new();
        for (step, result) in self.steps.into_iter().zip(results) {
            let body = &result["body"];
            let unchanged = step.sign == '~'
                && step.differs.iter().all(|(name, before, _)| {
                    let now = body.get(name.as_str()).unwrap_or(&Value::Null);
                    now == before
                });
            if !unchanged {
                kept.push(step);
            }
        }
        self.steps = kept;
        Ok(self)
    }

    async fn send(
        &self,
        api: &ApiClient,
        steps: &[Step],
        allow_shrink: bool,
        dry_run: bool,
    ) -> Result<Value, Failure> {
        api.post("/api/v1/bulk", &bulk(steps, allow_shrink, dry_run))
            .await
            .map_err(|error| at_place(steps, error))
    }

    /// Makes the changes: in one transaction, when they fit into one.
    pub(super) async fn apply(self, api: &ApiClient, allow_shrink: bool) -> Result<usize, Failure> {
        let requests = self.requests();
        if requests.len() > 1 {
            note(&format!(
                "{} changes are made in {} requests; each is made as a whole.",
                self.steps.len(),
                requests.len()
            ));
        }
        let mut made: BTreeMap<String, String> = BTreeMap::new();
        for chunk in requests {
            let mut steps = chunk.to_vec();
            for step in &mut steps {
                known(&made, &mut step.operation);
            }
            let answer = self.send(api, &steps, allow_shrink, false).await?;
            let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
            for (step, result) in steps.iter().zip(results) {
                if let (Some(name), Some(id)) = (step.operation["as"].as_str(), result["body"]["id"].as_str())
                {
                    made.insert(name.to_owned(), id.to_owned());
                }
            }
        }
        Ok(self.steps.len())
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            text.push_str(&format!("{} {}\n", step.sign, step.what));
            if step.sign == '~' {
                for (name, before, after) in &step.differs {
                    text.push_str(&format!("    {name}: {} → {}\n", cell(before), cell(after)));
                }
            }
        }
        let count = |sign: char| self.steps.iter().filter(|step| step.sign == sign).count();
        if self.steps.is_empty() {
            text.push_str("Nothing differs.");
        } else {
            text.push_str(&format!(
                "{} to make, {} to change, {} to remove",
                count('+'),
                count('~'),
                count('-')
            ));
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            let differs = step.differs.iter().map(|(name, before, after)| json!({"member": name, "before": before, "after": after}));
            json!({"change": step.sign.to_string(), "what": step.what, "differs": differs.collect::<Vec<_>>(), "at": step.place})
        });
        Value::Array(steps.collect())
    }
}

/// The steps as the API takes them.
pub(super) fn bulk(steps: &[Step], allow_shrink: bool, dry_run: bool) -> Value {
    let operations: Vec<&Value> = steps.iter().map(|step| &step.operation).collect();
    json!({"operations": operations, "allow_shrink": allow_shrink, "dry_run": dry_run})
}

/// Puts ids that are known by now into the places of names.
fn known(made: &BTreeMap<String, String>, operation: &mut Value) {
    match operation {
        Value::String(text) => {
            let parts = text.split('/').map(|part| {
                let id = part.strip_prefix('@').and_then(|name| made.get(name));
                id.map_or(part, String::as_str)
            });
            *text = parts.collect::<Vec<_>>().join("/");
        }
        Value::Array(items) => items.iter_mut().for_each(|item| known(made, item)),
        // What else there is was typed by a person, and is nobody's name.
        Value::Object(members) => members.iter_mut().for_each(|(name, member)| {
            if matches!(name.as_str(), "path" | "body" | "site" | "groups" | "resources") {
                known(made, member);
            }
        }),
        _ => {}
    }
}

fn singular(collection: &str) -> &'static str {
    match collection {
        "sites" => "site",
        "resources" => "resource",
        "users" => "user",
        "service_accounts" => "service account",
        "groups" => "group",
        _ => "policy",
    }
}

/// Says where in the file the operation stands that the controller refused.
fn at_place(steps: &[Step], error: ApiError) -> Failure {
    let field = error.problem().and_then(|problem| problem.field.clone()).unwrap_or_default();
    let index =
        field.strip_prefix("operations[").and_then(|rest| rest.split(']').next()?.parse::<usize>().ok());
    let place = index.and_then(|index| steps.get(index)).map(|step| step.place.clone());
    let failure = refused(error);
    match place {
        Some(place) => Failure { outcome: failure.outcome, error: failure.error.context(place) },
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::declare;

    fn current() -> Current {
        let by = |key: &str, items: Vec<Value>| {
            items
                .into_iter()
                .map(|item| (item[key].as_str().unwrap().to_owned(), item))
                .collect::<BTreeMap<_, _>>()
        };
        let objects = BTreeMap::from([
            (
                "sites",
                by(
                    "name",
                    vec![
                        json!({"id": "site-1", "name": "hamburg", "prefixes": ["10.0.0.0/8"], "regions": []}),
                    ],
                ),
            ),
            (
                "users",
                by(
                    "email",
                    vec![json!({"id": "usr-1", "email": "ada@example.com", "name": "Ada", "role": "member"})],
                ),
            ),
            ("groups", by("name", vec![json!({"id": "grp-1", "name": "eng", "members": 1})])),
            (
                "resources",
                by(
                    "name",
                    vec![
                        json!({"id": "res-1", "name": "old", "site": "site-1", "address": "10.0.0.9", "ports": ["1"], "alias": "o", "mode": "standard"}),
                    ],
                ),
            ),
        ]);
        Current {
            objects,
            members: BTreeMap::from([("grp-1".to_owned(), BTreeSet::from(["usr-1".to_owned()]))]),
            settings: json!({"approve_devices": false}),
        }
    }

    fn plan(text: &str, others: Others) -> Plan {
        let file = declare::parse("f", text).expect("reads");
        Plan::make(&file, &current(), others).expect("plans")
    }

    #[test]
    fn what_is_exported_differs_in_nothing() {
        let text = toml::to_string(&current().export()).unwrap();
        assert!(plan(&text, Others::Go).steps.is_empty(), "{text}");
    }

    #[test]
    fn new_objects_name_each_other_and_old_ones_change_in_what_differs() {
        let text = r#"
[settings]
approve_devices = true
[[sites]]
name = "bremen"
[[sites]]
name = "hamburg"
prefixes = ["10.0.0.0/8", "10.9.0.0/16"]
[[resources]]
name = "wiki"
site = "bremen"
address = "10.2.0.1"
ports = ["443"]
[[resources]]
name = "old"
site = "hamburg"
address = "10.0.0.9"
ports = ["1"]
[[groups]]
name = "eng"
members = []
"#;
        let plan = plan(text, Others::Stay);
        let said = plan.text();
        for line in [
            "+ site \"bremen\"",
            "~ site \"hamburg\"",
            "~ settings",
            "+ resource \"wiki\"",
            "alias: o → –",
            "- member \"ada@example.com\" of group \"eng\"",
            "2 to make, 3 to change, 1 to remove",
        ] {
            assert!(said.contains(line), "{line} in {said}");
        }
        let wiki = plan.steps.iter().find(|step| step.what.contains("wiki")).unwrap();
        assert_eq!(wiki.operation["body"]["site"], "@sites.0");
    }

    #[test]
    fn what_a_file_removes_is_not_named_in_it() {
        let text = "[[users]]\nemail = \"grace@example.com\"\nname = \"Grace\"\n\
                    [[groups]]\nname = \"eng\"\nmembers = [\"ada@example.com\"]\n";
        let file = declare::parse("f", text).expect("reads");
        let error = Plan::make(&file, &current(), Others::Go).expect_err("refused");
        let said = error.error.to_string();
        assert!(said.ends_with("one of the users of this file, got \"ada@example.com\""), "{said}");
        // Where nobody goes, she is there.
        assert!(Plan::make(&file, &current(), Others::Stay).is_ok());
    }

    #[test]
    fn ids_of_an_earlier_request_stand_where_its_names_stood_and_nowhere_else() {
        let made = BTreeMap::from([("sites.0".to_owned(), "site-1".to_owned())]);
        let operation = |place: &str| {
            json!({
                "method": "POST", "path": format!("/sites/{place}/x"), "as": "@sites.0",
                "body": {"site": place, "groups": [place], "name": "@sites.0", "alias": "@sites.0", "ports": ["@sites.0"]},
            })
        };
        let mut asked = operation("@sites.0");
        known(&made, &mut asked);
        assert_eq!(asked, operation("site-1"));
    }

    #[test]
    fn a_name_that_nobody_has_says_where_it_stands() {
        let file =
            declare::parse("net.toml", "[[policies]]\nname = \"p\"\ngroups = [\"ops\"]\nresources = []\n");
        let error = Plan::make(&file.expect("reads"), &current(), Others::Stay).expect_err("refused");
        let said = error.error.to_string();
        assert!(
            said.starts_with("net.toml:1: policies[0]: groups: expected") && said.contains("\"ops\""),
            "{said}"
        );
    }
}
