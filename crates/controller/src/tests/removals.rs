//! What is removed is gone: from its own path, from its list, and from whatever it opened.

use super::{
    LOCAL, World,
    inventory::{Inventory, request},
    stranger,
};
use crate::openapi_json;
use axum::body::Body;
use http::{Request, header};
use policy::enrolment::DeviceEnrolment;
use serde_json::{Value, json};
use std::time::Duration;
use trust::{JoinKey, SigningKey};

/// Every path of the document by which an object of a collection is removed.
fn removals() -> Vec<String> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let all = document["paths"].as_object().unwrap().iter();
    let removed = all.filter(|(_, item)| item["delete"].is_object());
    removed.map(|(path, _)| path.strip_prefix("/api/v1").unwrap().to_owned()).collect()
}

async fn is_in_its_list(world: &World, path: &str) -> bool {
    let (list, id) = path.rsplit_once('/').unwrap();
    let page = world.get(&format!("{list}?limit=1000")).await;
    // The list of providers has no pages.
    let page = if page.status == 400 { world.get(list).await.ok() } else { page.ok() };
    assert!(page["next"].is_null(), "{page}");
    let items = page["items"].as_array().or_else(|| page.as_array()).unwrap().iter();
    items.clone().any(|item| item["id"] == id || item["member"] == id)
}

#[tokio::test]
async fn each_object_that_can_be_removed_is_gone_from_its_path_and_its_list() {
    let world = World::new().await;
    let inventory = Inventory::make(&world).await;
    // The one that operates the installation stays.
    let made = world.post("/organizations", json!({"name": "other"})).await.made();
    let other = format!("/organizations/{}", made["id"].as_str().unwrap());
    let paths = removals().into_iter().map(|template| match template.as_str() {
        "/organizations/{id}" => other.clone(),
        _ => inventory.filled(&template),
    });
    let mut left: Vec<String> = paths.collect();
    // Members before their group.
    left.sort_by_key(|path| std::cmp::Reverse(path.split('/').count()));
    assert!(left.len() >= 14, "{left:?}");
    while !left.is_empty() {
        let mut stays = Vec::new();
        for path in &left {
            assert!(is_in_its_list(&world, path).await, "{path}");
            let reply = world.delete(path).await;
            // What others stand on goes after them.
            if reply.status == 409 {
                assert_eq!(reply.problem(409)["type"], "/problems/in-use", "{path}");
                assert!(is_in_its_list(&world, path).await, "{path}");
                stays.push(path.clone());
                continue;
            }
            assert!(matches!(reply.status.as_u16(), 200 | 204), "{path}: {}", reply.text);
            assert!(!is_in_its_list(&world, path).await, "{path}");
            // A membership is read in its list alone, and a closed organization can be read still.
            if path.contains("/members/") {
                world.delete(path).await.problem(404);
            } else if *path == other {
                assert!(world.get(path).await.ok()["closed"].is_string());
            } else {
                world.get(path).await.problem(404);
                world.delete(path).await.problem(404);
            }
        }
        assert!(stays.len() < left.len(), "nothing of these can be removed: {stays:?}");
        left = stays;
    }
}

#[tokio::test]
async fn a_key_that_was_removed_enrols_nobody_any_more() {
    let world = World::new().await;
    let f = world.furnish().await;
    let made =
        world.post("/enrolment-keys", json!({"kind": "device", "owner": f.user, "cap": 5})).await.made();
    let join: JoinKey = made["join_key"].as_str().unwrap().parse().unwrap();
    let enrol = async || {
        let body = DeviceEnrolment::new(join.secret.clone(), &SigningKey::generate(), "laptop");
        let request = Request::post("/enrol/v1/device").header(header::CONTENT_TYPE, "application/json");
        let body = Body::from(serde_json::to_string(&body).unwrap());
        world.send(stranger(), request.body(body).unwrap()).await
    };
    enrol().await.ok();
    let path = format!("/enrolment-keys/{}", made["key"]["id"].as_str().unwrap());
    assert_eq!(world.delete(&path).await.status, 204);
    assert_eq!(enrol().await.problem(403)["type"], "/problems/key-unknown");
    // What it enrolled before stays.
    assert_eq!(world.get("/devices").await.ok()["items"][0]["state"], "active");
}

#[tokio::test]
async fn a_token_that_was_removed_or_whose_time_has_passed_lets_nobody_in() {
    let world = World::new().await;
    let make = async |name: &str, seconds: u64| {
        let body = json!({"name": name, "scopes": ["read"], "lifetime_seconds": seconds});
        let made = world.post("/tokens", body).await.made();
        let id = made["description"]["id"].as_str().unwrap().to_owned();
        (id, made["token"].as_str().unwrap().to_owned())
    };
    let ((_, short), (_, long), (id, removed)) =
        (make("short", 60).await, make("long", 3600).await, make("removed", 3600).await);
    let ask = async |world: &World, token: &str| {
        let bearer = format!("Bearer {token}");
        let asked = request("GET", "/sites", &[("authorization", &bearer)], &Value::Null);
        world.send(stranger(), asked).await
    };
    for token in [&short, &long, &removed] {
        ask(&world, token).await.ok();
    }
    assert_eq!(
        world.send(LOCAL, request("DELETE", &format!("/tokens/{id}"), &[], &Value::Null)).await.status,
        204
    );
    ask(&world, &removed).await.problem(401);
    ask(&world, &short).await.ok();
    crate::clock::later(Duration::from_secs(61));
    // A minute in which no controller runs: one whose clock jumps while it runs believes it to say nothing.
    let world = world.restarted().await;
    ask(&world, &short).await.problem(401);
    ask(&world, &long).await.ok();
    crate::clock::later(Duration::ZERO);
}
