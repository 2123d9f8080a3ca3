//! The same request twice, where no transaction keeps its answer.

use super::{LOCAL, Reply, World, console::owner};
use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};
use std::time::Duration;
use trust::RevokedSubject;

async fn post(world: &World, path: &str, key: &str, body: &Value) -> Reply {
    let request = Request::post(format!("/api/v1{path}"))
        .header(header::CONTENT_TYPE, "application/json")
        .header("idempotency-key", key);
    world.send(LOCAL, request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test]
async fn an_owner_link_and_a_rotation_of_keys_are_made_once_for_a_key_also_after_a_restart() {
    let world = World::new().await;
    let none = json!({});
    let link = post(&world, "/owner-links", "a", &none).await.made();
    let keys = post(&world, "/key-rotations", "b", &none).await.made();
    assert_eq!(post(&world, "/owner-links", "a", &none).await.made(), link);
    let world = world.restarted().await;
    assert_eq!(post(&world, "/owner-links", "a", &none).await.made(), link);
    assert_eq!(post(&world, "/key-rotations", "b", &none).await.made(), keys);
    assert_ne!(post(&world, "/owner-links", "c", &none).await.made(), link);
    let other = post(&world, "/key-rotations", "b", &json!({"use_after_seconds": 5})).await.problem(422);
    assert_eq!(other["type"], "/problems/key-reused");
    let file = std::fs::read_to_string(world.state().join("answers")).unwrap();
    let secret = link["link"].as_str().unwrap().rsplit(['/', '#', '=']).next().unwrap().to_owned();
    assert!(secret.len() > 20 && !file.contains(&secret), "what is shown once is sealed");
}

#[tokio::test]
async fn a_strike_is_answered_the_same_and_one_that_was_refused_is_made_when_it_can_be() {
    let world = World::new().await;
    let f = world.furnish().await;
    let body = json!({"subject": f.user});
    let nobody = json!({"subject": format!("usr-{}", "0".repeat(26))});
    post(&world, "/strikes", "a", &nobody).await.problem(422);
    let struck = post(&world, "/strikes", "a", &body).await.made();
    assert_eq!(post(&world, "/strikes", "a", &body).await.made(), struck);
    assert_eq!(world.get("/strikes").await.ok()["items"].as_array().unwrap().len(), 1);
    post(&world, "/restores", "r", &body).await.made();
    // The key is of the strike of before: the person keeps what was given back.
    assert_eq!(post(&world, "/strikes", "a", &body).await.made(), struck);
    assert_eq!(world.get(&format!("/users/{}", f.user)).await.ok()["struck"], false);
}

#[tokio::test]
async fn a_restored_database_is_accepted_once_for_a_key() {
    let world = World::new().await;
    let first = post(&world, "/restored-database", "a", &json!({})).await.ok();
    assert_eq!(post(&world, "/restored-database", "a", &json!({})).await.ok(), first);
    let next = post(&world, "/restored-database", "b", &json!({})).await.ok();
    assert!(next["incarnation"].as_u64() > first["incarnation"].as_u64(), "{first} {next}");
}

#[tokio::test]
async fn an_invitation_an_ended_session_and_a_provider_are_made_once_for_a_key_and_stand_sealed_in_the_database()
 {
    let world = World::new().await;
    owner(&world).await;
    let users = world.get("/users").await.ok();
    let user = json!({"user": users["items"][0]["id"]});
    let made = post(&world, "/invitations", "i", &user).await.made();
    let ended = post(&world, "/ended-web-sessions", "e", &user).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    let ended_from = || {
        let snapshot = world.controller.core.snapshot();
        snapshot.dataset.organizations[0].sign_in.accounts[0].sessions_from_ms
    };
    let from = ended_from();
    assert_eq!(post(&world, "/ended-web-sessions", "e", &user).await.status, 204);
    assert_eq!(ended_from(), from, "whoever signed in meanwhile stays");
    let provider = json!({"title": "Corp", "issuer": "https://id.example.com", "client_id": "us", "client_secret": "hush-hush"});
    let put = |body: &Value| {
        let request = Request::put("/api/v1/oidc-providers/corp")
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", "p");
        request.body(Body::from(body.to_string())).unwrap()
    };
    let first = world.send(LOCAL, put(&provider)).await.ok();
    assert_eq!(world.send(LOCAL, put(&provider)).await.ok(), first);
    let other = json!({"title": "Other", "issuer": "https://id.example.com", "client_id": "us"});
    let refused = world.send(LOCAL, put(&other)).await.problem(422);
    assert_eq!(refused["type"], "/problems/key-reused");
    let mut database = Vec::new();
    world.controller.core.database.store().unwrap().backup(0, &mut database).await.unwrap();
    let rows = String::from_utf8(database).unwrap();
    let link = made["link"].as_str().unwrap();
    let secret = link.rsplit(['/', '#', '=']).next().unwrap().to_owned();
    for shown_once in [secret.as_str(), "hush-hush"] {
        assert!(shown_once.len() > 8 && !rows.contains(shown_once), "it is kept as a hash, or sealed");
    }
    let world = world.restarted().await;
    assert_eq!(post(&world, "/invitations", "i", &user).await.made(), made);
    let refused = post(&world, "/invitations", "i", &json!({"user": "usr-x"})).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
}

#[tokio::test]
async fn a_removal_that_is_asked_again_strikes_nobody_who_was_let_in_again_meanwhile() {
    let world = World::new().await;
    let f = world.furnish().await;
    let path = format!("/groups/{}/members/{}", f.group, f.user);
    let remove = async |path: &str| {
        let request = Request::delete(format!("/api/v1{path}")).header("idempotency-key", "k");
        world.send(LOCAL, request.body(Body::empty()).unwrap()).await
    };
    let first = remove(&path).await.ok();
    assert!(world.call(Method::PUT, &path, Some(json!({}))).await.status.is_success());
    assert_eq!(remove(&path).await.ok(), first);
    let core = &world.controller.core;
    let (user, group) = (f.user.parse().unwrap(), f.group.parse().unwrap());
    let data = core.snapshot().dataset.organizations[0].clone();
    let row = data.memberships.iter().find(|row| row.group == group).expect("the member is there");
    let member = RevokedSubject::UserInGroup(user, group);
    assert!(row.generation > 1 && !core.strikes.set().is_struck(member, row.generation));
    // Nor anybody else, whom another request means by the same key.
    let other = world.post("/users", json!({"name": "B", "email": "b@example.com"})).await.made();
    let other = other["id"].as_str().unwrap();
    assert_eq!(remove(&format!("/users/{other}")).await.problem(422)["type"], "/problems/key-reused");
    assert_eq!(world.get(&format!("/users/{other}")).await.ok()["struck"], false);
}

#[tokio::test]
async fn new_keys_and_a_restored_database_are_in_the_audit_log_with_who_asked_from_where() {
    let world = World::new().await;
    post(&world, "/key-rotations", "a", &json!({})).await.made();
    post(&world, "/restored-database", "b", &json!({})).await.ok();
    let deadline = crate::clock::now() + Duration::from_secs(10);
    for wanted in ["rotate keys", "accept restored database"] {
        let entry = loop {
            let log = world.get("/audit?limit=1000").await.ok();
            let mut all = log["items"].as_array().unwrap().iter();
            if let Some(entry) = all.find(|entry| entry["action"] == wanted) {
                break entry.clone();
            }
            assert!(crate::clock::now() < deadline, "no {wanted} in {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for name in ["actor", "source", "request"] {
            assert!(!entry[name].as_str().unwrap_or_default().is_empty(), "{name} of {entry}");
        }
    }
}
