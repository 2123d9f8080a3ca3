//! A controller whose clock cannot be believed signs nothing, and is there all the same.

use super::{Reply, World, outage::Laptop, stranger};
use crate::{clock, control};
use axum::body::Body;
use http::{Method, Request};
use policy::enrolment::DeviceEnrolment;
use serde_json::json;
use std::time::Duration;
use wire::{ControlReply, Renew};

#[tokio::test]
async fn a_clock_that_jumps_stops_every_signature_and_set_right_it_signs_again() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let core = &world.controller.core;
    let beacon = || control::beacon(core, &core.snapshot(), None);
    assert!(beacon().is_ok());
    clock::later(Duration::from_secs(59));
    assert!(beacon().is_ok());
    clock::later(Duration::from_secs(61));
    assert!(beacon().is_err(), "agents become stale and say so");
    let reply = laptop.ask(&world, Renew { certificate: true }).await;
    assert!(matches!(reply, ControlReply::Refused(ref refused) if refused.retry_after_ms > 0), "{reply:?}");
    let status = world.get("/status").await.ok();
    assert!(status["not_signing"].as_str().unwrap().contains("the clock jumped by 61 s"), "{status}");
    clock::later(Duration::ZERO);
    // What was signed in the meantime, within the tolerance, is no reason to stop.
    assert!(beacon().is_ok());
    laptop.gets_a_grant(&world).await;
}

#[tokio::test]
async fn while_fenced_nothing_is_changed_that_nobody_could_be_told_of_and_reads_go_on() {
    let world = World::new().await;
    let f = world.furnish().await;
    let key =
        world.key(json!({"kind": "device", "name": "ada", "owner": f.user, "lifetime_seconds": 600})).await;
    let policy = json!({"name": "orders for nobody", "groups": [f.group], "resources": []});
    for jump in [Duration::from_secs(61), Duration::from_secs(24 * 3600)] {
        clock::later(jump);
        for (method, path, body) in [
            (Method::POST, "/groups".to_owned(), Some(json!({"name": "late"}))),
            (Method::PUT, format!("/policies/{}", f.policy), Some(policy.clone())),
            (Method::DELETE, format!("/policies/{}", f.policy), None),
        ] {
            let refused = world.call(method, &path, body).await;
            assert_eq!(refused.status, 503, "{}", refused.text);
            assert_eq!(refused.headers["retry-after"], "30");
            assert!(refused.text.contains("/problems/not-signing") && refused.text.contains("clock jumped"));
        }
        // Not that its key has expired, which only the wrong clock says; and the key is as good as before.
        let refused = enrol_device(&world, &key).await;
        assert_eq!(refused.status, 503, "{}", refused.text);
        assert!(refused.text.contains("clock jumped"), "{}", refused.text);
        assert_eq!(world.get("/groups").await.ok()["items"].as_array().unwrap().len(), 1);
        assert_eq!(world.get(&format!("/policies/{}", f.policy)).await.ok()["name"], "orders for engineers");
    }
    clock::later(Duration::ZERO);
    world.post("/groups", json!({"name": "late"})).await.made();
    enrol_device(&world, &key).await.ok();
}

#[tokio::test]
async fn a_fenced_controller_still_strikes_with_a_time_that_its_clock_did_not_make_up() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let core = &world.controller.core;
    let before = clock::wall();
    let minute = Duration::from_secs(60);
    clock::later(Duration::from_secs(24 * 3600));
    let struck = core.strikes.strike(&core.signer, laptop.id.parse().unwrap(), 1, |_| {}).unwrap();
    // Its line is kept in steps of its own: what counts is that the day ahead is not in it.
    assert!(struck.at > before.minus(minute) && struck.at < before.plus(minute), "{before}, {struck:?}");
    // Every node takes it, and keeps it for as long as any other.
    let entry = core.strikes.entries(before.minus(minute)).remove(0);
    assert_eq!(entry.revocation.keep_until, struck.at.plus(Duration::from_secs(30 * 24 * 3600 + 3600)));
    // A removal is enforced, and says that its row waits.
    let answer = world.delete(&format!("/groups/{}/members/{}", f.group, f.user)).await;
    assert_eq!(answer.status, 503);
    assert!(
        answer.text.contains("access was revoked") && answer.text.contains("clock jumped"),
        "{}",
        answer.text
    );
    let membership = trust::RevokedSubject::UserInGroup(f.user.parse().unwrap(), f.group.parse().unwrap());
    assert!(core.strikes.set().is_struck(membership, 1));
    clock::later(Duration::ZERO);
    let answer = world.post("/strikes", json!({"subject": f.user})).await.made();
    assert_eq!(answer["generation"], 1);
}

#[tokio::test]
async fn a_fenced_controller_strikes_many_in_one_request_and_makes_no_other_bulk() {
    let world = World::new().await;
    let f = world.furnish().await;
    let account = world.post("/service-accounts", json!({"name": "ci"})).await.made();
    clock::later(Duration::from_secs(24 * 3600));
    let group = json!({"method": "POST", "path": "/groups", "body": {"name": "late"}});
    let refused = world.post("/bulk", json!({"operations": [group]})).await.problem(503);
    assert!(refused["detail"].as_str().unwrap().contains("clock jumped"), "{refused}");
    let strike = |subject: &str| json!({"method": "POST", "path": "/strikes", "body": {"subject": subject}});
    let both = json!({"operations": [strike(&f.user), strike(account["id"].as_str().unwrap())]});
    // Of this test's clock; what strikes does so on another thread, which has the real one.
    assert!(
        world.controller.core.signer.strike_time().unwrap()
            < clock::wall().minus(Duration::from_secs(23 * 3600))
    );
    assert_eq!(world.post("/bulk", both).await.ok()["results"][1]["status"], 201);
    clock::later(Duration::ZERO);
    assert_eq!(world.get("/strikes").await.ok()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_page_of_a_fenced_controller_says_that_it_signs_nothing_and_can_be_read() {
    let world = World::new().await;
    let session = super::console::owner(&world).await;
    clock::later(Duration::from_secs(24 * 3600));
    for path in ["/", "/people", "/settings"] {
        let page = super::console::get(&world, path, &session).await;
        assert_eq!(page.status, 200, "{path}");
        let banner = page.text.split_once("class=\"banner banner--bad\"").expect("a banner").1;
        assert!(banner.contains("This controller signs nothing: "), "{path}");
        assert!(banner.contains("Nothing can be changed here; revoking works."), "{path}");
    }
    clock::later(Duration::ZERO);
    let page = super::console::get(&world, "/", &session).await;
    assert!(!page.text.contains("banner--bad"), "once the clock is right");
}

#[tokio::test]
async fn a_controller_that_starts_with_a_clock_behind_its_line_or_without_one_serves_reads_and_signs_nothing()
{
    let world = World::new().await;
    world.furnish().await;
    let directory = world.stop().await;
    let floor = directory.path().join("controller/floor");
    let ahead = clock::wall().plus(Duration::from_secs(24 * 3600)).as_millis().to_string();
    let mut directory = Some(directory);
    for (line, said) in [(ahead.as_bytes(), "is 86"), (b"", "cannot be read"), (b"soon", "cannot be read")] {
        std::fs::write(&floor, line).unwrap();
        let world = World::in_directory(directory.take().unwrap()).await;
        assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1);
        let status = world.get("/status").await.ok();
        let why = status["not_signing"].as_str().unwrap();
        assert!(why.contains(said) && why.contains("date +%s000 > "), "{why}");
        directory = Some(world.stop().await);
    }
    // It goes on running, and ends when it is told to.
    let starting = crate::Controller::start(World::options(directory.as_ref().unwrap()));
    let controller = Box::pin(starting).await.unwrap().0;
    Box::pin(controller.run(tokio::time::sleep(Duration::from_millis(300)))).await.unwrap();
    // Downtime is no jump: the line of four weeks ago is no obstacle.
    let weeks = clock::wall().minus(Duration::from_secs(28 * 24 * 3600)).as_millis().to_string();
    std::fs::write(&floor, weeks).unwrap();
    let world = World::in_directory(directory.take().unwrap()).await;
    assert!(world.get("/status").await.ok()["not_signing"].is_null());
}

#[tokio::test]
async fn a_start_with_a_clock_a_year_ahead_keeps_every_key_and_set_right_it_signs_again() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let before = world.controller.core.signer.chain_text();
    let token = world
        .post("/tokens", json!({"name": "a month", "role": "auditor", "lifetime_seconds": 30 * 24 * 3600}));
    let token = token.await.made()["token"].as_str().unwrap().to_owned();
    let by_token = async |world: &World| {
        let request = Request::get("/api/v1/sites").header("authorization", format!("Bearer {token}"));
        world.send(stranger(), request.body(Body::empty()).unwrap()).await.status.as_u16()
    };
    assert_eq!(by_token(&world).await, 200);
    let directory = world.stop().await;
    clock::later(Duration::from_secs(365 * 24 * 3600 + 60));
    let world = World::in_directory(directory).await;
    let status = world.get("/status").await.ok();
    assert!(status["not_signing"].as_str().unwrap().contains("is 365 days after"), "{status}");
    assert!(world.controller.core.signer.rotate_if_due().is_err());
    assert_eq!(world.post("/groups", json!({"name": "late"})).await.status, 503);
    assert_eq!(world.controller.core.signer.chain_text(), before);
    assert!(world.controller.core.signer.strike_time().is_err());
    // Perhaps it was away for a year: what ended meanwhile is over.
    assert_eq!(by_token(&world).await, 401);
    // Part of the way back is no way back.
    clock::later(Duration::from_secs(100 * 24 * 3600));
    assert!(matches!(world.controller.core.signer.strike_time(), Err(clock::Fenced::Ahead { .. })));
    // Set right while it runs it goes on as after a start, and what it strikes has a time that is right.
    clock::later(Duration::ZERO);
    world.post("/groups", json!({"name": "on time"})).await.made();
    assert_eq!(by_token(&world).await, 200);
    let struck = world.post("/strikes", json!({"subject": f.user})).await.made();
    assert!(struck["at"].as_str().unwrap() <= crate::api::rfc3339(clock::wall()).as_str(), "{struck}");
    world.post("/restores", json!({"subject": f.user})).await.made();
    let directory = world.stop().await;
    let world = World::in_directory(directory).await;
    assert_eq!(world.controller.core.signer.chain_text(), before);
    laptop.gets_a_grant(&world).await;
}

/// A laptop asks to be enrolled with this key.
async fn enrol_device(world: &World, key: &str) -> Reply {
    let join: trust::JoinKey = key.parse().unwrap();
    let body = DeviceEnrolment::new(join.secret, &trust::SigningKey::generate(), "laptop");
    let request = Request::post("/enrol/v1/device").header("content-type", "application/json");
    let body = Body::from(serde_json::to_string(&body).unwrap());
    world.send(stranger(), request.body(body).unwrap()).await
}
