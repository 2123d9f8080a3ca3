//! Nobody overwrites what they have not seen: each change that promises `If-Match` keeps the promise.

use super::{
    LOCAL, World,
    inventory::{Inventory, request},
};
use crate::{api::is_unchanged, openapi_json};
use http::header;
use serde_json::{Value, json};

/// An organization's version rises with each change that begins, also with one that is refused; nothing that is kept does.
fn settled(object: &Value) -> Value {
    let mut object = object.clone();
    object.as_object_mut().unwrap().remove("version");
    object
}

/// Where what a change is about is shown; a membership is shown in its list alone.
fn shown_at(path: &str) -> Option<String> {
    let segments: Vec<_> = path.split('/').skip(1).collect();
    match segments[..] {
        [collection] => Some(format!("/{collection}")),
        [collection, id] => Some(format!("/{collection}/{id}")),
        [collection, id, "approve" | "archive" | "block" | "role"] => Some(format!("/{collection}/{id}")),
        _ => None,
    }
}

#[tokio::test]
async fn each_change_that_promises_if_match_refuses_a_version_that_is_not_there_any_more() {
    let world = World::new().await;
    let inventory = Inventory::make(&world).await;
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let promises = operation["parameters"]
                .as_array()
                .is_some_and(|all| all.iter().any(|parameter| parameter["name"] == "If-Match"));
            if !promises {
                continue;
            }
            let (method, template) = (method.to_uppercase(), path.strip_prefix("/api/v1").unwrap());
            let (path, body) = (inventory.filled(template), inventory.body(&method, template));
            let sent = request(&method, &path, &[("if-match", "\"a-version-of-yesterday\"")], &body);
            let problem = world.send(LOCAL, sent).await;
            assert_eq!(problem.status, 412, "{method} {template}: {}", problem.text);
            let versions = &problem.json()["versions"];
            let tag = versions["current_etag"].as_str().unwrap();
            if let Some(shown) = shown_at(&path) {
                let shown = world.get(&shown).await;
                let seen = shown.headers[header::ETAG].to_str().unwrap();
                assert!(is_unchanged(seen, tag), "{method} {template}: {seen} {tag}");
                assert_eq!(settled(&versions["current"]), settled(&shown.ok()), "{method} {template}");
            } else {
                assert_eq!(versions["current"]["member"], inventory.id("users"), "{method} {template}");
            }
            // Of a change by members the whole object as it would be.
            let sent = &versions["sent"];
            let given = operation["requestBody"].is_object().then_some(&body).and_then(Value::as_object);
            assert_eq!(sent.is_null(), given.is_none(), "{method} {template}: {sent}");
            for (name, value) in given.into_iter().flatten() {
                assert_eq!(sent[name], *value, "{method} {template}: {sent}");
            }
            asked += 1;
        }
    }
    assert!(asked > 30, "{asked}");
    // Nothing was done by any of them.
    for (collection, id) in inventory.ids() {
        world.get(&format!("/{collection}/{id}")).await.ok();
    }
    assert_eq!(world.get("/strikes").await.ok()["items"], json!([]));
}

#[tokio::test]
async fn a_sign_in_provider_that_was_changed_meanwhile_is_not_overwritten_and_the_audit_log_has_both() {
    let world = World::new().await;
    world.furnish().await;
    let path = "/oidc-providers/main";
    let body = |title: &str, secret: Option<&str>| {
        let mut body = json!({"title": title, "issuer": "https://id.example.com", "client_id": "t"});
        if let Some(secret) = secret {
            body["client_secret"] = secret.into();
        }
        body
    };
    let put = async |headers: &[(&str, &str)], body: Value| {
        world.send(LOCAL, request("PUT", path, headers, &body)).await
    };
    let nobody_saw_one = put(&[("if-match", "*")], body("ID", None)).await.problem(412);
    assert_eq!(nobody_saw_one["versions"]["current"], Value::Null);
    put(&[], body("ID", Some("first secret"))).await.ok();
    let seen = world.get(path).await.headers[header::ETAG].to_str().unwrap().to_owned();
    // Somebody else sets a secret: nothing that can be read differs but the version.
    put(&[("if-match", &seen)], body("ID", Some("second secret"))).await.ok();
    let refused = put(&[("if-match", &seen)], body("Mine", Some("third secret"))).await;
    let problem = refused.problem(412);
    let (current, sent) = (&problem["versions"]["current"], &problem["versions"]["sent"]);
    assert_eq!((&current["title"], &sent["title"]), (&json!("ID"), &json!("Mine")));
    assert!(!refused.text.contains("third secret"), "{}", refused.text);
    let gone = |tag: &str| world.send(LOCAL, request("DELETE", path, &[("if-match", tag)], &Value::Null));
    gone(&seen).await.problem(412);
    let now = problem["versions"]["current_etag"].as_str().unwrap();
    let changed = put(&[("if-match", now)], body("Mine", None)).await;
    let newest = changed.headers[header::ETAG].to_str().unwrap().to_owned();
    assert_eq!(changed.ok()["has_client_secret"], true);
    assert_eq!(gone(&newest).await.status, 204);

    let log = world.get("/audit?limit=1000").await;
    assert!(!log.text.contains(" secret\""), "{}", log.text);
    let log = log.ok();
    let entries = log["items"].as_array().unwrap().iter();
    let titles: Vec<_> = entries
        .filter(|entry| entry["subject"] == "main")
        .map(|entry| (entry["before"]["title"].clone(), entry["after"]["title"].clone()))
        .collect();
    let (id, mine) = (json!("ID"), json!("Mine"));
    let expected =
        [(mine.clone(), Value::Null), (id.clone(), mine), (id.clone(), id.clone()), (Value::Null, id)];
    assert_eq!(titles, expected);
}
