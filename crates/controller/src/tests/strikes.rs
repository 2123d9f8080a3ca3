//! Strikes as their makers and everybody else see them.

use super::{LOCAL, World, outage::Laptop, stranger};
use crate::parts::SyncCommand;
use axum::body::Body;
use http::{Method, Request, header};
use policy::enrolment::DeviceEnrolment;
use serde_json::{Value, json};
use std::time::Duration;
use trust::{JoinKey, RevokedSubject, SigningKey};

/// Waits for a condition with a deadline, looking often.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = crate::clock::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(crate::clock::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn local(method: Method, path: &str, body: &Value) -> Request<Body> {
    let builder = Request::builder().method(method).uri(format!("/api/v1{path}"));
    let mut request =
        builder.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(LOCAL);
    request
}

fn outcome_holds(outcome: &Value) {
    assert_eq!(outcome["durable"], "this node only", "{outcome}");
    for (field, count) in [("enforced", 0), ("stale", 0), ("isolated", 0), ("held_by_pops", 0)] {
        assert_eq!(outcome[field], count, "{outcome}");
    }
    assert!(outcome["latest_possible_end"].as_str() >= outcome["at"].as_str(), "{outcome}");
}

#[tokio::test]
async fn everything_that_revokes_says_honestly_who_holds_it() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let other = Laptop::enrol(&world, &f.user).await;
    let account = world.post("/service-accounts", json!({"name": "backup"})).await.made();
    outcome_holds(&world.post("/strikes", json!({"subject": laptop.id})).await.made());
    for path in [
        format!("/devices/{}", other.id),
        format!("/groups/{}/members/{}", f.group, f.user),
        format!("/service-accounts/{}", account["id"].as_str().unwrap()),
        format!("/users/{}", f.user),
    ] {
        outcome_holds(&world.delete(&path).await.ok());
        world.get(&path).await.problem(if path.contains("members") { 405 } else { 404 });
    }
}

fn together(subjects: &[&str]) -> Value {
    let operations = subjects
        .iter()
        .map(|subject| json!({"method": "POST", "path": "/strikes", "body": {"subject": subject}}));
    json!({"operations": operations.collect::<Vec<_>>()})
}

#[tokio::test]
async fn many_are_struck_in_one_request_without_the_database_and_once_for_a_key() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let account = world.post("/service-accounts", json!({"name": "backup"})).await.made();
    let account = account["id"].as_str().unwrap();
    let subjects = [laptop.id.as_str(), account, f.user.as_str()];
    let mut tried = together(&subjects);
    tried["dry_run"] = true.into();
    let said = world.post("/bulk", tried).await.ok();
    assert_eq!((&said["dry_run"], &said["results"][2]["body"]["subject"]), (&json!(true), &json!(f.user)));
    assert!(world.controller.core.strikes.set().is_empty());
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    let ask = async || {
        let body = Body::from(together(&subjects).to_string());
        let request = Request::post("/api/v1/bulk").header(header::CONTENT_TYPE, "application/json");
        world.send(LOCAL, request.header("idempotency-key", "many").body(body).unwrap()).await.ok()
    };
    let answer = ask().await;
    let results = answer["results"].as_array().unwrap();
    for (result, subject) in results.iter().zip(subjects) {
        assert_eq!((&result["status"], &result["body"]["subject"]), (&json!(201), &json!(subject)));
        outcome_holds(&result["body"]);
    }
    assert_eq!(world.get("/strikes").await.ok()["items"].as_array().unwrap().len(), subjects.len());
    assert_eq!(ask().await, answer);
    assert_eq!(world.get("/strikes").await.ok()["items"].as_array().unwrap().len(), subjects.len());
}

#[tokio::test]
async fn a_bulk_of_strikes_that_cannot_all_be_made_names_the_operation_and_strikes_nobody() {
    let world = World::new().await;
    let f = world.furnish().await;
    let nobody = format!("usr-{}", "0".repeat(26));
    let refused = async |body: Value, field: &str| {
        let problem = world.post("/bulk", body).await.problem(422);
        assert_eq!(problem["field"], field, "{problem}");
        assert!(world.controller.core.strikes.set().is_empty());
    };
    refused(together(&[&f.user, &nobody]), "operations[1].body.subject").await;
    refused(together(&[&f.user, "ada"]), "operations[1].body.subject").await;
    let mut mixed = together(&[&f.user]);
    let site = json!({"method": "POST", "path": "/sites", "body": {"name": "hamburg"}});
    mixed["operations"].as_array_mut().unwrap().push(site);
    refused(mixed, "operations[1].path").await;
    let mut seen = together(&[&f.user]);
    seen["operations"][0]["if_match"] = "\"1\"".into();
    refused(seen, "operations[0].if_match").await;
    refused(together(&vec![f.user.as_str(); 101]), "operations").await;
}

#[tokio::test]
async fn a_token_that_may_strike_devices_alone_strikes_no_person_among_them() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let token = world.post("/tokens", json!({"name": "siem", "role": "support"})).await.made();
    let ask = async |subjects: &[&str]| {
        let request = Request::post("/api/v1/bulk")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", token["token"].as_str().unwrap()));
        world.send(stranger(), request.body(Body::from(together(subjects).to_string())).unwrap()).await
    };
    ask(&[&laptop.id, &f.user]).await.problem(403);
    assert!(world.controller.core.strikes.set().is_empty());
    outcome_holds(&ask(&[&laptop.id]).await.ok()["results"][0]["body"]);
}

#[tokio::test]
async fn a_strike_spreads_is_written_and_recorded_also_when_its_caller_hangs_up() {
    let mut world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let request = local(Method::POST, "/strikes", &json!({"subject": laptop.id}));
    let router = crate::server::network_router(&world.controller.core);
    // Hung up while the strike waits for its holders, or before.
    let called = tokio::spawn(tower::ServiceExt::oneshot(router, request));
    let core = std::sync::Arc::clone(&world.controller.core);
    until("the strike is applied", async || !core.strikes.set().is_empty()).await;
    called.abort();
    let told = tokio::time::timeout(Duration::from_secs(10), world.controller.commands.recv()).await;
    assert!(matches!(told.unwrap(), Some(SyncCommand::Strike(_))));
    until("the strike is in the audit log", async || {
        let audit = world.get("/audit").await.ok();
        audit["items"].as_array().unwrap().iter().any(|entry| entry["action"] == "strike")
    })
    .await;
}

#[tokio::test]
async fn a_change_whose_caller_hangs_up_still_comes_into_memory() {
    let world = World::new().await;
    let core = std::sync::Arc::clone(&world.controller.core);
    for number in 0..20_u64 {
        let name = format!("site {number}");
        let request = local(Method::POST, "/sites", &json!({"name": name}));
        let router = crate::server::network_router(&core);
        let called = tokio::spawn(tower::ServiceExt::oneshot(router, request));
        tokio::time::sleep(Duration::from_micros(200 * number)).await;
        called.abort();
        let _ = called.await;
    }
    until("memory has what the database has", async || {
        let store = core.database.store().unwrap();
        let loaded = store.load().await.unwrap().unwrap();
        loaded == core.snapshot().dataset && !core.snapshots.is_behind()
    })
    .await;
}

#[tokio::test]
async fn a_committed_change_comes_into_memory_however_often_reading_fails_and_its_age_is_said() {
    let world = World::new().await;
    let core = std::sync::Arc::clone(&world.controller.core);
    let reply = world.get("/sites").await;
    assert_eq!(reply.headers["tidegate-snapshot-age"], "0");
    core.snapshots.failing.store(3, std::sync::atomic::Ordering::Relaxed);
    world.post("/sites", json!({"name": "hamburg"})).await.made();
    assert!(core.snapshots.is_behind());
    assert_eq!(world.get("/status").await.ok()["snapshot"]["behind"], true);
    assert!(world.get("/status").await.ok()["snapshot"]["alarm"].is_string());
    until("the change is in memory", async || {
        world.get("/sites").await.ok()["items"].as_array().unwrap().len() == 1
    })
    .await;
    let status = world.get("/status").await.ok();
    assert_eq!(
        (&status["snapshot"]["behind"], &status["snapshot"]["age_seconds"]),
        (&json!(false), &json!(0))
    );
    assert_eq!(status["snapshot"]["alarms"], json!([{"reason": "database", "count": 3}]));
    assert!(status["snapshot"]["alarm"].is_null());
}

#[tokio::test]
async fn strikes_and_what_is_done_on_the_host_are_audited_and_no_entry_crosses_organizations() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let other = world.post("/organizations", json!({"name": "other"})).await.made();
    let other = other["id"].as_str().unwrap().to_owned();
    let in_other = |method: Method, path: &str, body: Value| {
        let mut request = local(method, path, &body);
        request.headers_mut().insert("tidegate-organization", other.parse().unwrap());
        world.send(LOCAL, request)
    };
    let token = in_other(Method::POST, "/tokens", json!({"name": "t", "scopes": ["read", "write"]})).await;
    let token = token.made()["token"].as_str().unwrap().to_owned();
    // With the database away the strike is enforced, and recorded later.
    let database = world.state().join("tidegate.db");
    std::fs::rename(&database, world.state().join("away")).unwrap();
    world.post("/strikes", json!({"subject": laptop.id})).await.made();
    std::fs::rename(world.state().join("away"), &database).unwrap();
    until("the strike is in the audit log", async || {
        let audit = world.get("/audit").await.ok();
        let mut entries = audit["items"].as_array().unwrap().iter();
        entries.any(|entry| {
            entry["action"] == "strike" && entry["actor"] == "local uid 0" && entry["subject"] == laptop.id
        })
    })
    .await;
    let store = world.controller.core.database.store().unwrap();
    assert_eq!(store.struck_generations().await.unwrap()[0].subject, laptop.id);
    let asked = Request::get("/api/v1/audit").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let audit = world.send(stranger(), asked.body(Body::empty()).unwrap()).await.ok();
    let actions: Vec<_> = audit["items"].as_array().unwrap().iter().map(|e| e["action"].clone()).collect();
    assert_eq!(actions, ["create token"], "neither the other organization's nor the installation's entries");
}

#[tokio::test]
async fn a_generation_that_was_struck_once_is_never_issued_again_and_giving_back_goes_above_it() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let user: RevokedSubject = f.user.parse().unwrap();
    // Struck up to 6 by what another place remembers; the row says 1.
    world.controller.core.strikes.absorb(&[(user, 6)]);
    laptop.is_refused(&world).await;
    let restored = world.post("/restores", json!({"subject": f.user})).await.made();
    assert_eq!(restored["generation"], 7);
    laptop.gets_a_grant(&world).await;
    world.post("/strikes", json!({"subject": f.user})).await.made();
    laptop.is_refused(&world).await;
    let world = world.restarted().await;
    laptop.is_refused(&world).await;
    assert_eq!(world.post("/restores", json!({"subject": f.user})).await.made()["generation"], 8);
    laptop.gets_a_grant(&world).await;
    // A membership that was struck while its row could not be removed.
    let member = format!("/groups/{}/members/{}", f.group, f.user);
    world.post("/strikes", json!({"subject": format!("{}/{}", f.user, f.group)})).await.made();
    assert_eq!(laptop.groups(&world).await, 0);
    assert_eq!(world.call(Method::PUT, &member, None).await.ok()["generation"], 2);
    assert_eq!(laptop.groups(&world).await, 1);
}

#[tokio::test]
async fn a_key_that_has_expired_gives_nothing_also_to_a_device_that_it_enrolled_before() {
    let world = World::new().await;
    let f = world.furnish().await;
    let key = json!({"kind": "device", "owner": f.user, "cap": 2, "lifetime_seconds": 60});
    let join: JoinKey = world.key(key).await.parse().unwrap();
    let identity = SigningKey::generate();
    let body = serde_json::to_string(&DeviceEnrolment::new(join.secret, &identity, "laptop")).unwrap();
    let enrol = async |world: &World| {
        let request = Request::post("/enrol/v1/device").header(header::CONTENT_TYPE, "application/json");
        world.send(stranger(), request.body(Body::from(body.clone())).unwrap()).await
    };
    enrol(&world).await.ok();
    enrol(&world).await.ok();
    crate::clock::later(Duration::from_secs(61));
    // A minute in which no controller runs: one whose clock jumps while it runs believes it to say nothing.
    let world = world.restarted().await;
    assert_eq!(enrol(&world).await.problem(403)["type"], "/problems/key-expired");
    crate::clock::later(Duration::ZERO);
}
