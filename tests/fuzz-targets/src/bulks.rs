//! Many changes in one request: the names that its operations give each other, their paths and their bodies.

use controller::api::{openapi_json, read_bulk, types::BulkInput, types::BulkMethod, types::BulkOperation};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, OrganizationId, PolicyId, PopId, ResourceId,
    ServiceAccountId, SiteId, TokenId, UserId,
};

/// The paths of the OpenAPI document, in parts, with their methods.
static PATHS: LazyLock<Vec<(Vec<String>, BTreeSet<String>)>> = LazyLock::new(|| {
    let document: Value = serde_json::from_str(&openapi_json()).expect("JSON");
    let paths = document["paths"].as_object().expect("paths");
    let of = |(path, methods): (&String, &Value)| {
        let path = path.strip_prefix("/api/v1/").expect("below the API's place");
        let methods = methods.as_object().expect("methods").keys().map(|name| name.to_uppercase());
        (path.split('/').map(ToOwned::to_owned).collect(), methods.collect())
    };
    paths.iter().map(of).collect()
});

/// Members that people type: whatever stands in them, it is nobody's id.
const TYPED: [&str; 9] =
    ["name", "email", "address", "alias", "ports", "prefixes", "regions", "region", "zone"];

/// A controller that makes whatever it is asked for, each with an id of its own.
pub(crate) fn made(asked: &BulkOperation, number: u32) -> Value {
    let mut bytes = [0; 16];
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    let path = parts(&asked.path);
    let id = match path.first().copied().unwrap_or_default() {
        "sites" => SiteId::from_bytes(bytes).to_string(),
        "connectors" => ConnectorId::from_bytes(bytes).to_string(),
        "resources" => ResourceId::from_bytes(bytes).to_string(),
        "groups" => GroupId::from_bytes(bytes).to_string(),
        "users" => UserId::from_bytes(bytes).to_string(),
        "service-accounts" => ServiceAccountId::from_bytes(bytes).to_string(),
        "devices" => DeviceId::from_bytes(bytes).to_string(),
        "policies" => PolicyId::from_bytes(bytes).to_string(),
        "pops" => PopId::from_bytes(bytes).to_string(),
        "enrolment-keys" => EnrolmentKeyId::from_bytes(bytes).to_string(),
        "tokens" => TokenId::from_bytes(bytes).to_string(),
        _ => OrganizationId::from_bytes(bytes).to_string(),
    };
    match asked.method {
        BulkMethod::Post if matches!(path[..], ["enrolment-keys"]) => {
            json!({"key": {"id": id}, "secret": "s"})
        }
        BulkMethod::Post | BulkMethod::Put | BulkMethod::Patch => json!({"id": id}),
        BulkMethod::Delete => Value::Null,
    }
}

fn parts(path: &str) -> Vec<&str> {
    let rest = path.strip_prefix("/api/v1").unwrap_or(path);
    rest.strip_prefix('/').unwrap_or(rest).split('/').collect()
}

const fn word(method: BulkMethod) -> &'static str {
    match method {
        BulkMethod::Post => "POST",
        BulkMethod::Put => "PUT",
        BulkMethod::Patch => "PATCH",
        BulkMethod::Delete => "DELETE",
    }
}

/// Whatever a script sends: it is refused with the number of the operation, or each operation is one of the OpenAPI document
/// whose ids are ids.
pub(crate) fn bulk(bytes: &[u8]) {
    let Some(input) = crate::asked::body::<BulkInput>(bytes) else { return };
    let count = input.operations.len();
    let names: Vec<_> = input.operations.iter().filter_map(|asked| asked.name.clone()).collect();
    let (mut number, mut ids) = (0, BTreeMap::new());
    let read = read_bulk(input.clone(), |asked| {
        number += 1;
        let made = made(asked, number);
        let id = made["id"].as_str().or_else(|| made["key"]["id"].as_str()).unwrap_or_default().to_owned();
        ids.extend(asked.name.clone().map(|name| (name, id)));
        made
    });
    let read = match read {
        Ok(read) => read,
        Err(problem) => {
            assert_eq!(problem.status, 422, "{problem:?}");
            let (field, rule) = (problem.field.as_deref().unwrap_or_default(), problem.rule.as_deref());
            crate::asked::is_said_plainly(rule.expect("a rule"));
            let value = problem.value.as_ref().expect("a value");
            assert!(value.as_str().is_none_or(|value| value.chars().count() <= 121), "all of it comes back");
            let number =
                field.strip_prefix("operations[").and_then(|rest| rest.split_once(']')?.0.parse().ok());
            assert!(number.is_some_and(|number: usize| number < count) || field == "operations", "{field}");
            return;
        }
    };
    assert_eq!(read.len(), count);
    assert!((1..=10_000).contains(&count));
    let all: BTreeSet<&String> = names.iter().collect();
    assert_eq!(all.len(), names.len(), "two objects of one name");
    for name in &names {
        assert!((1..=64).contains(&name.len()) && !name.contains(['@', '/', ' ']), "{name:?}");
    }
    for (asked, given) in read.iter().zip(&input.operations) {
        assert_eq!(
            (asked.method, &asked.if_match, &asked.name),
            (given.method, &given.if_match, &given.name)
        );
        let path = parts(&asked.path);
        let is_one = PATHS.iter().any(|(known, methods)| {
            let fits = |(part, known): (&&str, &String)| known.starts_with('{') || part == known;
            known.len() == path.len()
                && methods.contains(word(asked.method))
                && path.iter().zip(known).all(fits)
        });
        assert!(is_one, "{} {} is no operation of the API", word(asked.method), asked.path);
        assert!(path.iter().all(|part| !part.is_empty() && !part.starts_with('@')), "{}", asked.path);
        if let (Some(now), Some(before)) = (&asked.body, &given.body) {
            is_filled_in(now, before, &ids, None);
        }
        assert_eq!(asked.body.is_some(), given.body.is_some());
        // By itself it says the same, with its whole path as well.
        for path in [asked.path.clone(), format!("/api/v1/{}", path.join("/"))] {
            let operations = vec![BulkOperation { path: path.clone(), name: None, ..asked.clone() }];
            let alone = BulkInput { operations, allow_shrink: None, dry_run: None };
            let again = read_bulk(alone, |_| Value::Null).expect("it was taken among others");
            assert_eq!(
                (&again[0].path, &again[0].body),
                (&path, &asked.body),
                "it changes each time it is read"
            );
        }
    }
}

/// Ids stand where their names stood, and nothing else is changed.
fn is_filled_in(now: &Value, before: &Value, ids: &BTreeMap<String, String>, member: Option<&str>) {
    match (now, before) {
        (Value::Array(now), Value::Array(before)) => {
            assert_eq!(now.len(), before.len());
            now.iter().zip(before).for_each(|(now, before)| is_filled_in(now, before, ids, member));
        }
        (Value::Object(now), Value::Object(before)) => {
            assert!(now.keys().eq(before.keys()));
            now.iter().for_each(|(name, now)| is_filled_in(now, &before[name], ids, Some(name)));
        }
        (Value::String(now), Value::String(before)) if now != before => {
            assert!(
                !member.is_some_and(|name| TYPED.contains(&name)),
                "{member:?} is typed by people: {before}"
            );
            let name = before.strip_prefix('@').expect("only a name is changed");
            assert_eq!(ids.get(name), Some(now), "{name}");
        }
        _ => assert_eq!(now, before),
    }
}

/// Genuine requests.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let operations = |operations: Value| json!({"operations": operations}).to_string().into_bytes();
    let (group, user) = (GroupId::from_bytes([1; 16]), UserId::from_bytes([2; 16]));
    let site = SiteId::from_bytes([3; 16]);
    let network = operations(json!([
        {"method": "POST", "path": "/sites", "body": {"name": "@s", "prefixes": ["10.0.0.0/8"]}, "as": "s"},
        {"method": "POST", "path": "/resources", "as": "r.1", "body": {"site": "@s", "name": "wiki", "address": "10.0.0.1", "ports": ["443"], "mode": "strict"}},
        {"method": "POST", "path": "/groups", "body": {"name": "eng"}, "as": "g"},
        {"method": "POST", "path": "/policies", "body": {"name": "p", "groups": ["@g"], "resources": ["@r.1"]}},
        {"method": "PATCH", "path": "/sites/@s", "body": {"regions": ["eu"]}, "if_match": "\"AAAA\""},
    ]));
    let people = operations(json!([
        {"method": "POST", "path": "/api/v1/users", "body": {"name": "Ada", "email": "ada@example.com", "role": "member"}, "as": "ada"},
        {"method": "PUT", "path": format!("/groups/{group}/members/@ada")},
        {"method": "PUT", "path": "/users/@ada/role", "body": {"role": "auditor"}},
        {"method": "DELETE", "path": format!("/groups/{group}/members/{user}")},
        {"method": "POST", "path": "/service-accounts", "body": {"name": "ci"}, "as": "ci"},
        {"method": "POST", "path": "/enrolment-keys", "body": {"kind": "device", "owner": "@ci", "name": "k", "cap": 1, "lifetime_seconds": 60}, "as": "k"},
        {"method": "DELETE", "path": "/enrolment-keys/@k"},
    ]));
    let typed = operations(json!([
        {"method": "POST", "path": "/sites", "body": {"name": "a", "prefixes": []}, "as": "s"},
        {"method": "POST", "path": "/resources", "body": {"site": "@s", "name": "@s", "address": "@s", "alias": "@s", "ports": ["@s"]}},
        {"method": "POST", "path": "/users", "body": {"name": "@s", "email": "@s"}},
        {"method": "POST", "path": "/sites", "body": {"name": "b", "prefixes": ["@s"], "regions": ["@s"]}},
    ]));
    let named = |names: &[&str]| {
        let make = |name| json!({"method": "POST", "path": "/groups", "body": {"name": "g"}, "as": name});
        operations(names.iter().map(make).collect())
    };
    vec![
        ("bulk", "two-of-one-name", named(&["g", "g"])),
        ("bulk", "name-of-nothing", named(&[""])),
        ("bulk", "name-with-a-slash", named(&["g/members"])),
        ("bulk", "network", network),
        ("bulk", "people", people),
        ("bulk", "typed", typed),
        (
            "bulk",
            "settings",
            operations(json!([{"method": "PATCH", "path": "/settings", "body": {"approve_devices": true}}])),
        ),
        (
            "bulk",
            "strikes",
            operations(json!([
                {"method": "POST", "path": "/strikes", "body": {"subject": user}},
                {"method": "POST", "path": "/api/v1/strikes", "body": {"subject": format!("{user}/{group}")}},
            ])),
        ),
        (
            "bulk",
            "strike-among-others",
            operations(json!([
                {"method": "POST", "path": "/ended-web-sessions", "body": {"user": user}},
                {"method": "POST", "path": "/strikes", "body": {"subject": user}},
            ])),
        ),
        (
            "bulk",
            "ended-sessions",
            operations(json!([{"method": "POST", "path": "/ended-web-sessions", "body": {"user": user}}])),
        ),
        ("bulk", "unknown-name", operations(json!([{"method": "DELETE", "path": "/sites/@later"}]))),
        (
            "bulk",
            "long-name",
            operations(json!([{"method": "DELETE", "path": format!("/sites/@{}", "x".repeat(600))}])),
        ),
        (
            "bulk",
            "no-such-path",
            operations(json!([{"method": "DELETE", "path": format!("/sites/{site}/x")}])),
        ),
        ("bulk", "wrong-kind", operations(json!([{"method": "DELETE", "path": format!("/groups/{site}")}]))),
        ("bulk", "nothing", operations(json!([]))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_bulk_is_read_or_refused_for_what_is_wrong_with_it() {
        for (_, name, bytes) in genuine() {
            let input = crate::asked::body::<BulkInput>(&bytes).expect("a bulk");
            let mut number = 0;
            let read = read_bulk(input, |asked| {
                number += 1;
                made(asked, number)
            });
            let right = ["network", "people", "typed", "settings", "strikes", "ended-sessions"];
            let is_wrong = !right.contains(&name);
            assert_eq!(read.is_err(), is_wrong, "{name}: {read:?}");
        }
    }
}
