//! Guesses at once, failures that fill the log, and people of a second organization.

use super::{
    LOCAL, Reply, World,
    console::{PASSPHRASE, cookies, form_token, get, owner, submit},
    signin::{is_signed_in, proven, sign_in, with_app},
};
use crate::signin::cookie::WebSession;
use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use std::time::Duration;

/// A sign-in page's own form, sent.
async fn try_once(world: &World, page: &Reply, name: &str, passphrase: &str) -> Reply {
    let token = form_token(page);
    let fields = [("name", name), ("passphrase", passphrase), ("form_token", token.as_str())];
    submit(world, "/signin", &cookies(page), &fields).await
}

#[tokio::test]
async fn forty_guesses_at_once_are_no_more_than_ten_one_after_the_other() {
    let world = World::new().await;
    owner(&world).await;
    let page = get(&world, "/signin", "").await;
    let names: Vec<String> = (0..40).map(|number| format!("person{number}@example.com")).collect();
    let tries = names.iter().map(|name| try_once(&world, &page, name, "a guess"));
    let replies = futures_util::future::join_all(tries).await;
    let tried = replies.iter().filter(|reply| reply.status == 403).count();
    assert_eq!((tried, replies.iter().filter(|reply| reply.status == 429).count()), (10, 30));
}

#[tokio::test]
async fn twenty_people_behind_one_address_who_begin_their_day_at_once_all_get_in() {
    let world = World::new().await;
    owner(&world).await;
    let page = get(&world, "/signin", "").await;
    let tries = (0..20).map(|_| try_once(&world, &page, "lena@example.com", PASSPHRASE));
    let replies = futures_util::future::join_all(tries).await;
    for reply in replies {
        assert_eq!(reply.status, 303, "{}", reply.text);
    }
}

#[tokio::test]
async fn who_fails_all_the_time_does_not_push_out_of_the_log_what_was_done_before() {
    let world = World::new().await;
    owner(&world).await;
    let page = get(&world, "/signin", "").await;
    for _ in 0..60 {
        try_once(&world, &page, "lena@example.com", "a guess").await;
        let token = form_token(&page);
        let forged = Request::post("/signin/passkey")
            .header(header::COOKIE, cookies(&page))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(json!({"form_token": token, "answer": {"id": "x"}}).to_string()));
        world.send(super::stranger(), forged.unwrap()).await;
    }
    sign_in_known(&world).await;
    let log = world.get("/authentication-log?limit=1000").await.ok();
    let entries = log["items"].as_array().unwrap();
    let failed = entries.iter().filter(|entry| entry["outcome"] != "signed-in").count();
    assert_eq!(failed, 30, "{log}");
    assert!(log.to_string().contains("further failures from there are not written for"), "{log}");
    assert_eq!(entries.last().unwrap()["method"], "one-time-link+passphrase", "the first is still there");
}

/// The owner, in a browser that nobody else's guesses keep out.
async fn sign_in_known(world: &World) {
    let page = get(world, "/signin", "").await;
    assert_eq!(try_once(world, &page, "lena@example.com", PASSPHRASE).await.status, 429);
}

/// Somebody of another organization, by invitation: their id and the cookies of their browser.
async fn of_another_organization(world: &World) -> (String, String) {
    let other = world.post("/organizations", json!({"name": "Second Ltd"})).await.made()["id"].clone();
    let ask = |path: &str, body: Value| {
        let builder = Request::post(format!("/api/v1{path}"))
            .header("tidegate-organization", other.as_str().unwrap())
            .header(header::CONTENT_TYPE, "application/json");
        world.send(LOCAL, builder.body(Body::from(body.to_string())).unwrap())
    };
    let mara = json!({"name": "Mara", "email": "mara@example.org", "role": "owner"});
    let mara = ask("/users", mara).await.made()["id"].clone();
    let link = ask("/invitations", json!({"user": mara})).await.made()["link"].clone();
    let link = link.as_str().unwrap().strip_prefix("https://localhost:8443").unwrap();
    let page = get(world, link, "").await;
    let token = form_token(&page);
    let fields = [("passphrase", PASSPHRASE), ("again", PASSPHRASE), ("form_token", &token)];
    let done = submit(world, link, &cookies(&page), &fields).await;
    assert_eq!(done.status, 303, "{}", done.text);
    (other.as_str().unwrap().to_owned(), cookies(&done))
}

#[tokio::test]
async fn people_of_a_second_organization_sign_in_and_prove_themselves_again_where_they_are_sent() {
    let world = World::new().await;
    owner(&world).await;
    let (other, browser) = of_another_organization(&world).await;
    // A step-up, by the address that every page sends to.
    let session = browser.split("; ").find(|cookie| cookie.contains("session")).unwrap();
    let old = proven(&world, session, Duration::from_secs(16 * 60));
    let again = get(&world, "/signin?again=1&next=/account", &old).await;
    assert!(again.text.contains("Prove that it is you") && again.text.contains(&other), "{}", again.text);
    let jar = format!("{old}; {}", cookies(&again));
    let token = form_token(&again);
    let fields = [
        ("name", "mara@example.org"),
        ("passphrase", PASSPHRASE),
        ("form_token", token.as_str()),
        ("organization", other.as_str()),
        ("next", "/account"),
    ];
    let done = submit(&world, "/signin", &jar, &fields).await;
    assert_eq!(done.headers.get(header::LOCATION).unwrap(), "/account", "{}", done.text);
    // Signed out, in the browser that remembers: nothing in the address says which organization it is.
    let remembered = browser.split("; ").find(|cookie| cookie.contains("known")).unwrap();
    let page = get(&world, "/signin", remembered).await;
    assert!(page.text.contains("Second Ltd") && page.text.contains(&other), "{}", page.text);
    // In a new browser the page is the first organization's, and leads to the others by name.
    let stranger = get(&world, "/signin", "").await;
    assert!(!stranger.text.contains("Second Ltd"), "strangers are not told what there is");
    let named = get(&world, "/signin?organization=second+ltd", "").await;
    assert!(named.text.contains("Second Ltd"), "{}", named.text);
    let token = form_token(&named);
    let fields = [
        ("name", "mara@example.org"),
        ("passphrase", PASSPHRASE),
        ("form_token", token.as_str()),
        ("organization", other.as_str()),
    ];
    let done = submit(&world, "/signin", &cookies(&named), &fields).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(is_signed_in(&world, &cookies(&done)).await);
    // An older one that is called nearly so leads nobody astray.
    let own = world.get("/organizations").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    let rename = |name: &str| {
        let request = Request::patch(format!("/api/v1/organizations/{own}"));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        world.send(LOCAL, request.body(Body::from(json!({"name": name}).to_string())).unwrap())
    };
    rename("SECOND LTD").await.ok();
    let exact = get(&world, "/signin?organization=Second+Ltd", "").await;
    assert!(exact.text.contains(&other), "{}", exact.text);
    let either = get(&world, "/signin?organization=second+ltd", "").await;
    assert!(either.text.contains("No organization here is called so"), "{}", either.text);
    rename("default").await.ok();
    let unknown = get(&world, "/signin?organization=third", "").await;
    assert!(unknown.text.contains("No organization here is called so"), "{}", unknown.text);
}

#[tokio::test]
async fn every_entry_of_the_audit_log_says_from_where_it_was_asked_for_and_by_which_request() {
    let world = World::new().await;
    let session = owner(&world).await;
    let (other, _) = of_another_organization(&world).await;
    with_app(&world, &session).await;
    let page = get(&world, "/account", &session).await;
    let token = form_token(&page);
    let passphrase =
        [("passphrase", "another long one!"), ("again", "another long one!"), ("form_token", &token)];
    assert_eq!(submit(&world, "/account/passphrase", &session, &passphrase).await.status, 303);
    submit(&world, "/account/totp/remove", &session, &[("form_token", &token)]).await;
    assert_eq!(sign_in(&world, "another long one!").await.status, 303);
    submit(&world, "/account/sessions/end", &session, &[("form_token", &token)]).await;
    let mut seen = Vec::new();
    for organization in [None, Some(other)] {
        let mut request = Request::get("/api/v1/audit?limit=1000");
        if let Some(id) = organization {
            request = request.header("tidegate-organization", id);
        }
        let log = world.send(LOCAL, request.body(Body::empty()).unwrap()).await.ok();
        for entry in log["items"].as_array().unwrap() {
            let word = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let own = ["controller", "first start"].contains(&word("actor").as_str());
            assert!(own || !word("source").is_empty() && !word("request").is_empty(), "{entry}");
            seen.push((word("action"), word("source"), !entry["after"].is_null()));
        }
    }
    let from_outside = |action: &str| (action.to_owned(), "203.0.113.7".to_owned());
    for (action, has_after) in [
        ("create owner", true),
        ("create account", true),
        ("set up authenticator app", true),
        ("change passphrase", true),
        ("remove authenticator app", true),
        ("end sessions", true),
    ] {
        let (action, source) = from_outside(action);
        assert!(seen.contains(&(action.clone(), source, has_after)), "{action}: {seen:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_left_open_does_not_keep_its_session_in_use() {
    let world = World::new().await;
    let session = owner(&world).await;
    let core = &world.controller.core;
    let (name, text) = session.split("; ").next().unwrap().split_once('=').unwrap();
    let now = core.signer.best_time();
    let read = WebSession::from_text(text, &core.signin.keys, now).unwrap();
    let older = WebSession { seen: now.minus(Duration::from_secs(30 * 60)), ..read };
    let jar = format!("{name}={}", older.to_text(&core.signin.keys));
    let renews = async |request: http::request::Builder| {
        let request = request.header(header::COOKIE, &jar).body(Body::empty()).unwrap();
        let reply = world.send(super::stranger(), request).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.headers.get_all(header::SET_COOKIE).iter().any(|set| set.to_str().unwrap().starts_with(name))
    };
    assert!(!renews(Request::get("/topology").header("hx-request", "true")).await, "the page asks by itself");
    assert!(renews(Request::get("/topology")).await, "somebody looks");
}
