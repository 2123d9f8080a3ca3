//! The same request twice, where no transaction keeps its answer.

use super::{LOCAL, Reply, World};
use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};

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
