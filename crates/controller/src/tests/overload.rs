//! More is asked than is served at once.

use super::{
    World,
    console::{get, owner},
    stranger,
};
use crate::{
    admission::{Class, Party, Place},
    clock,
};
use axum::body::Body;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Method, Request, StatusCode, header};
use serde_json::json;
use std::time::Duration;

async fn token(world: &World) -> String {
    let text =
        world.post("/tokens", json!({"name": "script", "scopes": ["read", "write", "strike"]})).await.made();
    text["token"].as_str().unwrap().to_owned()
}

/// Takes every place of a class, as requests that never end would.
async fn fill(world: &World, class: Class) -> Vec<Place> {
    let admission = &world.controller.core.admission;
    let mut held = Vec::new();
    while let Some(place) = admission.enter(class, Party::Local).now_or_never() {
        held.push(place.unwrap());
    }
    held
}

fn asks(method: Method, path: &str, token: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn reads_that_find_no_place_are_told_when_to_come_back_and_a_strike_goes_on() {
    let world = World::new().await;
    let furniture = world.furnish().await;
    let (token, session) = (token(&world).await, owner(&world).await);
    let read = || asks(Method::GET, "/sites", &token, Body::empty());
    assert_eq!(world.send(stranger(), read()).await.status, StatusCode::OK);
    let held = fill(&world, Class::Reads).await;

    let refused = world.send(stranger(), read()).await;
    let problem = refused.problem(503);
    assert_eq!(problem["type"], "/problems/busy");
    assert!(refused.headers[header::RETRY_AFTER].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let page = get(&world, "/sites", &session).await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        page.text.contains("Busy for a moment") && page.text.contains("href=\"/sites\""),
        "{}",
        page.text
    );

    let strike = Body::from(json!({"subject": furniture.user}).to_string());
    let before = clock::now();
    let struck = world.send(stranger(), asks(Method::POST, "/strikes", &token, strike)).await;
    assert!(struck.status.is_success(), "{}", struck.text);
    assert!(before.elapsed() < Duration::from_secs(5));
    let site = Body::from(json!({"name": "kiel", "prefixes": ["10.4.0.0/16"]}).to_string());
    assert_eq!(world.send(stranger(), asks(Method::POST, "/sites", &token, site)).await.status, 201);
    // The host itself waits for nobody, and says what there is.
    let status = world.get("/status").await.ok();
    assert_eq!(status["requests"]["reads"]["served"], held.len());
    assert_eq!(status["requests"]["reads"]["sent_away"], 2);

    drop(held);
    assert_eq!(world.send(stranger(), read()).await.status, StatusCode::OK);
    assert_eq!(get(&world, "/sites", &session).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_bulk_that_only_strikes_does_not_wait_behind_other_bulks() {
    let world = World::new().await;
    let furniture = world.furnish().await;
    let token = token(&world).await;
    let held = fill(&world, Class::Bulk).await;
    let strikes = json!({"operations": [
        {"method": "POST", "path": "/strikes", "body": {"subject": furniture.user}},
    ]});
    let struck =
        world.send(stranger(), asks(Method::POST, "/bulk", &token, Body::from(strikes.to_string()))).await;
    assert_eq!(struck.status, StatusCode::OK, "{}", struck.text);
    let makes = json!({"operations": [{"method": "POST", "path": "/groups", "body": {"name": "of a bulk"}}]});
    let sent = asks(Method::POST, "/bulk", &token, Body::from(makes.to_string()));
    let refused = world.send(stranger(), sent).await.problem(503);
    assert_eq!((&refused["type"], &refused["outcome"]), (&json!("/problems/busy"), &json!("not_done")));
    drop(held);
}

#[tokio::test]
async fn a_body_that_drips_in_holds_no_place() {
    let world = World::new().await;
    let token = token(&world).await;
    let begun = futures_util::stream::once(async { Ok::<_, std::io::Error>("{\"name\": ") })
        .chain(futures_util::stream::pending());
    let dripping = world.send(stranger(), asks(Method::POST, "/sites", &token, Body::from_stream(begun)));
    assert!(tokio::time::timeout(Duration::from_millis(300), dripping).await.is_err());
    let request = Request::post("/enrol/v1/device").header(header::CONTENT_TYPE, "application/json");
    let request =
        request.body(Body::from_stream(futures_util::stream::pending::<Result<&str, std::io::Error>>()));
    let enrols = world.send(stranger(), request.unwrap());
    assert!(tokio::time::timeout(Duration::from_millis(300), enrols).await.is_err());
    let requests = &world.get("/status").await.ok()["requests"];
    for class in ["changes", "enrolment"] {
        assert_eq!(
            (&requests[class]["served"], &requests[class]["at_once"]),
            (&json!(0), &json!(0)),
            "{class}"
        );
    }
}

#[tokio::test]
async fn who_enrols_is_told_when_to_come_back_and_nobody_waits_for_logs() {
    let world = World::new().await;
    let token = token(&world).await;
    let held = fill(&world, Class::Exports).await;
    let logs = world.send(stranger(), asks(Method::GET, "/audit", &token, Body::empty())).await;
    assert_eq!(logs.problem(503)["type"], "/problems/busy");
    let trust = || {
        let mut request = Request::get("/enrol/v1/trust").body(Body::empty()).unwrap();
        request.extensions_mut().insert(stranger());
        request
    };
    assert_eq!(world.send(stranger(), trust()).await.status, StatusCode::OK);
    drop(held);
    let held = fill(&world, Class::Enrolment).await;
    let admission = &world.controller.core.admission;
    assert!(admission.enter(Class::Reads, Party::Local).await.is_ok());
    let sent = world.send(stranger(), trust());
    let refused = tokio::time::timeout(Duration::from_secs(10), sent).await.expect("an answer").problem(503);
    assert_eq!(refused["type"], "/problems/busy");
    drop(held);
    assert_eq!(world.send(stranger(), trust()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn an_export_that_has_begun_waits_for_its_next_piece_and_is_whole() {
    let world = World::new().await;
    for number in 0..3 {
        world.post("/groups", json!({"name": format!("group {number}")})).await.made();
    }
    let token = token(&world).await;
    let mut request = asks(Method::GET, "/audit/export", &token, Body::empty());
    request.extensions_mut().insert(stranger());
    let answer = tower::ServiceExt::oneshot(world.router.clone(), request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let held = fill(&world, Class::Exports).await;
    let mut lines = answer.into_body().into_data_stream();
    assert!(tokio::time::timeout(Duration::from_millis(300), lines.next()).await.is_err(), "no place yet");
    drop(held);
    let mut text = Vec::new();
    while let Some(piece) = lines.next().await {
        text.extend_from_slice(&piece.unwrap());
    }
    assert!(String::from_utf8(text).unwrap().lines().count() >= 4);
}
