//! From what a file says and what there is, to the changes between them.

use super::{
    declare::{COLLECTIONS, File, SERVICE_ACCOUNT, USER, key_of},
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
/// Most of them that revoke access, as the API takes them (`MAX_STRIKES` there): each is a write to its journal.
const BULK_STRIKES: usize = 100;
/// The API asks for `allow_shrink` when more than so many objects of a kind go with one request, and more than the
/// second's part of them.
const SHRINK_FREE: usize = 10;
const SHRINK_PART: usize = 5;

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

    /// What a file says for a member: plainly, unless that may be read as somebody else.
    fn member_name(&self, id: &str) -> Option<String> {
        let of = |collection, prefix| Some((self.key(collection, id)?, prefix));
        let (name, prefix) = of("users", USER).or_else(|| of("service_accounts", SERVICE_ACCOUNT))?;
        let read_as = member_texts(name);
        let read_as = read_as.into_iter().filter(|(of, name)| self.get(of, name).is_some());
        Some(if read_as.count() == 1 { name.to_owned() } else { format!("{prefix}{name}") })
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
            // An empty one as well: applied with --prune, it is empty again.
            file.insert(collection.into(), items.into());
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

/// What a text among the members of a group may mean: collection and key.
fn member_texts(text: &str) -> Vec<(&'static str, &str)> {
    let plain = [("users", text), ("service_accounts", text)].into_iter();
    let named =
        [("users", text.strip_prefix(USER)), ("service_accounts", text.strip_prefix(SERVICE_ACCOUNT))];
    plain.chain(named.into_iter().filter_map(|(of, name)| Some((of, name?)))).collect()
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

impl Step {
    /// Whether it revokes access: the removal of a person, of a service account, and of either from a group.
    fn strikes(&self) -> bool {
        let path = self.operation["path"].as_str().unwrap_or_default();
        let mut parts = path.split('/').skip(1);
        let (of, within) = (parts.next(), parts.nth(1));
        self.operation["method"] == "DELETE"
            && (matches!(of, Some("users" | "service-accounts")) || within == Some("members"))
    }
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
        let only_here = self.others == Others::Go && self.file.says(collection);
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

    /// A member of a group. What may mean two of them means neither: access is given to nobody by mistake.
    fn member(&self, text: &str, place: &str) -> Result<String, Failure> {
        let read_as = member_texts(text);
        let mut ids = read_as.iter().filter_map(|(of, name)| self.id(of, name, place, "members").ok());
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(Failure::say(
                Outcome::Usage,
                format_args!(
                    "{place}: members: expected one user or service account, got {text:?}, which may be either: \
                     write \"{USER}{text}\" or \"{SERVICE_ACCOUNT}{text}\""
                ),
            )),
            (None, _) => self.id("users", text, place, "members"),
        }
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
        for (index, group) in file.declared.groups.iter().flatten().enumerate() {
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
            let member = names.current.member_name(id).unwrap_or_else(|| id.clone());
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
            if !file.says(collection) {
                continue;
            }
            let wanted = file.objects(collection);
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
            let (mut bytes, mut strikes) = (0, 0);
            let fits = rest.iter().take(BULK).take_while(|step| {
                // An id is longer than the name that stands for it may be; and a comma.
                bytes += step.operation.to_string().len() + 64;
                strikes += usize::from(step.strikes());
                bytes <= BULK_BYTES && strikes <= BULK_STRIKES
            });
            let (some, others) = rest.split_at(fits.count().max(1));
            all.push(some);
            rest = others;
        }
        all
    }

    /// Whether little goes: the API counts what goes with each request, and people and service accounts go with several.
    /// It is counted here, before the first of them is made.
    ///
    /// # Errors
    /// Much would go.
    pub(super) fn shrinks_little(&self, current: &Current) -> Result<(), Failure> {
        if self.requests().len() <= 1 {
            return Ok(());
        }
        let removed = |of: &str, within: Option<&str>| {
            let goes = |step: &&Step| {
                let mut parts = step.operation["path"].as_str().unwrap_or_default().split('/').skip(1);
                step.operation["method"] == "DELETE" && parts.next() == Some(of) && parts.nth(1) == within
            };
            self.steps.iter().filter(goes).count()
        };
        let mut counts: Vec<(&str, usize, usize)> = current
            .objects
            .iter()
            .map(|(collection, all)| {
                let path = path_of(collection);
                (path, all.len(), removed(path, None))
            })
            .collect();
        let members = current.members.values().map(BTreeSet::len).sum();
        counts.push(("memberships", members, removed("groups", Some("members"))));
        for (what, before, removed) in counts {
            if removed > SHRINK_FREE && removed * SHRINK_PART > before {
                return Err(Failure::say(
                    Outcome::Failed,
                    format_args!(
                        "this removes {removed} of {before} {what}; if that is meant, say so: --allow-shrink"
                    ),
                ));
            }
        }
        Ok(())
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
        let mut done = 0;
        for chunk in requests {
            let mut steps = chunk.to_vec();
            for step in &mut steps {
                known(&made, &mut step.operation);
            }
            let answer = match self.send(api, &steps, allow_shrink, false).await {
                Ok(answer) => answer,
                Err(failure) if done == 0 => return Err(failure),
                Err(failure) => {
                    return Err(Failure::say(
                        failure.outcome,
                        format_args!(
                            "{done} of {} changes were made before this one, and stay made; none of the {} in this request was, \
                             nor what comes after them. When what it says is mended, run it again, and it makes what is left: {}",
                            self.steps.len(),
                            steps.len(),
                            failure.text()
                        ),
                    ));
                }
            };
            done += steps.len();
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
    fn what_revokes_access_is_asked_for_a_hundred_at_a_time() {
        let mut current = current();
        let ids: Vec<String> = (0..250).map(|index| format!("usr-{index}")).collect();
        let person = |id: &String| json!({"id": id, "email": format!("{id}@example.com"), "name": id, "role": "member"});
        current.take("users", ids.iter().map(person).collect());
        current.members = BTreeMap::from([("grp-1".to_owned(), ids.iter().cloned().collect())]);
        let strikes = |plan: &Plan| -> Vec<usize> {
            let all = plan.requests();
            all.iter().map(|steps| steps.iter().filter(|step| step.strikes()).count()).collect()
        };
        let file = declare::parse("f", "[[groups]]\nname = \"eng\"\nmembers = []\n").expect("reads");
        let plan = Plan::make(&file, &current, Others::Stay).expect("plans");
        assert_eq!(strikes(&plan), [100, 100, 50]);
        assert_eq!(plan.requests().concat().len(), 250);
        let said = plan.shrinks_little(&current).expect_err("refused").text();
        assert!(said.contains("250 of 250 memberships") && said.contains("--allow-shrink"), "{said}");

        // People who go are counted over all requests.
        let file = declare::parse("f", "users = []\n").expect("reads");
        let plan = Plan::make(&file, &current, Others::Go).expect("plans");
        assert_eq!(strikes(&plan), [100, 100, 50]);
        let said = plan.shrinks_little(&current).expect_err("refused").text();
        assert!(said.contains("250 of 250 users") && said.contains("--allow-shrink"), "{said}");
    }

    #[test]
    fn what_revokes_nothing_is_not_counted_as_if_it_did() {
        let step = |method: &str, path: &str| Step {
            sign: '-',
            what: String::new(),
            differs: Vec::new(),
            operation: json!({"method": method, "path": path}),
            place: String::new(),
        };
        for path in ["/users/usr-1", "/service-accounts/svc-1", "/groups/grp-1/members/usr-1"] {
            assert!(step("DELETE", path).strikes(), "{path}");
        }
        for path in ["/groups/grp-1", "/policies/pol-1", "/resources/res-1", "/sites/site-1"] {
            assert!(!step("DELETE", path).strikes(), "{path}");
        }
        assert!(!step("PUT", "/groups/grp-1/members/usr-1").strikes());
    }

    #[test]
    fn an_empty_list_empties_a_collection_and_an_absent_one_leaves_it() {
        let emptied = plan("resources = []\n", Others::Go);
        assert_eq!(emptied.steps.len(), 1, "{}", emptied.text());
        assert_eq!(emptied.steps[0].what, "resource \"old\"");
        assert!(plan("resources = []\n", Others::Stay).steps.is_empty());
        assert!(plan("policies = []\n", Others::Go).steps.is_empty());
        let exported = Current::default().export();
        for collection in COLLECTIONS {
            assert_eq!(exported[collection], json!([]), "{collection}");
        }
        let text = toml::to_string(&exported).unwrap();
        assert_eq!(plan(&text, Others::Go).steps.len(), 4, "{text}");
    }

    #[test]
    fn a_service_account_that_is_called_like_the_address_of_a_person_stays_itself() {
        let called = |names: &[&str]| {
            let mut current = current();
            let account = |(index, name)| json!({"id": format!("svc-{index}"), "name": name});
            current.take("service_accounts", names.iter().enumerate().map(account).collect());
            current.members = BTreeMap::from([("grp-1".to_owned(), BTreeSet::from(["svc-0".to_owned()]))]);
            current
        };
        let current = called(&["ada@example.com", "ci"]);
        let exported = current.export();
        assert_eq!(exported["groups"][0]["members"], json!(["service-account:ada@example.com"]));
        let text = toml::to_string(&exported).unwrap();
        let file = declare::parse("f", &text).expect("reads");
        assert!(Plan::make(&file, &current, Others::Go).expect("plans").steps.is_empty(), "{text}");

        let with = |member: &str| {
            let text = format!("[[groups]]\nname = \"eng\"\nmembers = [{member:?}]\n");
            Plan::make(&declare::parse("f", &text).expect("reads"), &current, Others::Stay)
        };
        let said = with("ada@example.com").expect_err("refused").text();
        assert!(said.contains("f:1: groups[0]: members: expected one user or service account"), "{said}");
        assert!(said.contains("\"user:ada@example.com\" or \"service-account:ada@example.com\""), "{said}");
        let paths = |plan: Plan| -> Vec<String> {
            plan.steps.iter().map(|step| step.operation["path"].as_str().unwrap().to_owned()).collect()
        };
        let of_ada = with("user:ada@example.com").expect("plans");
        assert_eq!(paths(of_ada), ["/groups/grp-1/members/usr-1", "/groups/grp-1/members/svc-0"]);
        assert_eq!(paths(with("ci").expect("plans"))[0], "/groups/grp-1/members/svc-1");

        // One that is called by what stands before a name is written with it once more.
        let current = called(&["service-account:ci", "ci"]);
        let exported = current.export();
        assert_eq!(exported["groups"][0]["members"], json!(["service-account:service-account:ci"]));
        let file = declare::parse("f", &toml::to_string(&exported).unwrap()).expect("reads");
        assert!(Plan::make(&file, &current, Others::Go).expect("plans").steps.is_empty());
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
