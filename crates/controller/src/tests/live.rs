//! What an open page is told, and what it is answered when it asks.

use super::{
    World,
    console::{form_token, get, owner, submit},
    stranger,
};
use crate::{clock, presence::Here};
use axum::body::{Body, BodyDataStream};
use futures_util::StreamExt;
use http::{Method, Request, header};
use serde_json::json;
use std::time::Duration;
use tower::ServiceExt;
use wire::PopId;

/// A stream that is open.
async fn listen(world: &World, session: &str) -> BodyDataStream {
    let mut request = Request::get("/events").header(header::COOKIE, session).body(Body::empty()).unwrap();
    request.extensions_mut().insert(stranger());
    let answer = world.router.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().into_data_stream()
}

/// The names of the events that come until there is none for a while.
async fn told(stream: &mut BodyDataStream) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok(Some(frame)) = tokio::time::timeout(Duration::from_secs(2), stream.next()).await {
        let text = String::from_utf8(frame.unwrap().to_vec()).unwrap();
        names.extend(text.lines().filter_map(|line| line.strip_prefix("event: ")).map(str::to_owned));
    }
    names
}

#[tokio::test]
async fn who_comes_is_no_news_for_the_banner_and_a_pop_or_a_change_is() {
    let world = World::new().await;
    let session = owner(&world).await;
    let mut stream = listen(&world, &session).await;
    assert_eq!(told(&mut stream).await[..2], ["state", "standing"], "where a page begins");
    let pop = PopId::from_bytes([1; 16]);
    world.controller.core.presence().came(pop, &Here::default(), clock::wall());
    assert_eq!(told(&mut stream).await, ["state"]);
    world.controller.core.presence().pop_attached(pop, &Here::default(), clock::wall());
    assert_eq!(told(&mut stream).await, ["state", "standing"]);
    world.post("/groups", json!({"name": "later"})).await.made();
    let names = told(&mut stream).await;
    assert!(names.iter().any(|name| name == "standing"), "{names:?}");
}

#[tokio::test]
async fn a_part_of_a_page_whose_session_ended_is_not_led_to_the_sign_in() {
    let world = World::new().await;
    let ask = async |path: &str, by: Option<&str>| {
        let request = Request::get(path);
        let request = by.into_iter().fold(request, |request, by| request.header("hx-request", by));
        world.send(stranger(), request.body(Body::empty()).unwrap()).await
    };
    for path in ["/banner", "/topology", "/"] {
        let part = ask(path, Some("true")).await;
        assert_eq!((part.status.as_u16(), part.text.as_str()), (401, ""), "{path}");
        for by in [None, Some("false")] {
            assert_eq!(ask(path, by).await.status, 303, "{path}");
        }
    }
}

#[tokio::test]
async fn who_may_not_read_how_things_stand_has_pages_that_do_not_ask() {
    let world = World::new().await;
    let session = owner(&world).await;
    let nothing_there = async || {
        let request = Request::get("/nothing-there").header(header::COOKIE, &session);
        let request = request.header(header::ACCEPT, "text/html").body(Body::empty()).unwrap();
        world.send(stranger(), request).await.text
    };
    let page = nothing_there().await;
    assert!(page.contains("data-state=") && page.contains("hx-get=\"/banner\""), "{page}");
    let users = world.get("/users").await.ok();
    let me = users["items"].as_array().unwrap().iter().find(|user| user["role"] == "owner").unwrap();
    let place = format!("/users/{}/role", me["id"].as_str().unwrap());
    world.call(Method::PUT, &place, Some(json!({"role": "member"}))).await.ok();
    for path in ["/banner", "/events"] {
        assert_eq!(get(&world, path, &session).await.status, 403, "{path}");
    }
    for page in [nothing_there().await, get(&world, "/account", &session).await.text] {
        for asks in ["data-state=", "data-standing=", "data-live", "hx-get=\"/banner\""] {
            assert!(!page.contains(asks), "{asks}: {page}");
        }
    }
}

#[tokio::test]
async fn a_form_of_another_session_is_said_to_be_one() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/account", &session).await);
    let fields = [("passphrase", "another long passphrase"), ("again", "another long passphrase")];
    for path in ["/account/passphrase", "/account/totp/remove", "/account/sessions/end"] {
        let sent = [fields.as_slice(), &[("form_token", "of another session")]].concat();
        let reply = submit(&world, path, &session, &sent).await;
        assert_eq!(reply.headers[header::LOCATION], "/account?not=form", "{path}");
    }
    let page = get(&world, "/account?not=form", &session).await;
    assert!(page.text.contains("that form belonged to another session"), "{}", page.text);
    assert!(!page.text.contains("who you are"), "{}", page.text);
    assert_eq!(form_token(&page), token, "and the session goes on");
}
