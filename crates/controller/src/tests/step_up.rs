//! What asks for a fresh sign-in: endpoint by endpoint, and as a browser meets it.

use super::{
    Reply, World,
    console::{form_token, get, owner, submit},
    roles::operations,
    signin::proven,
    stranger,
};
use crate::{
    api::{Caller, InProcess, Origin, Peer},
    console::step_up_forms,
    roles_table,
    signin::cookie::{Method as Proof, Methods, RoleSource},
};
use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};
use std::time::Duration;

const QUARTER: Duration = Duration::from_secs(15 * 60);
const AGAIN: &str = "/problems/sign-in-again";

/// When a person signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proven {
    Ago(Duration),
    /// Nobody said so.
    Never,
}

/// An owner of the operator's organization.
async fn person(world: &World) -> String {
    let olga = json!({"name": "Olga", "email": "olga@example.com", "role": "owner"});
    world.post("/users", olga).await.made()["id"].as_str().unwrap().to_owned()
}

async fn ask(world: &World, user: &str, when: Proven, method: &str, path: &str, body: &Value) -> Reply {
    let core = &world.controller.core;
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let origin = Origin::of(Some(&Peer::Network([192, 0, 2, 1].into())), &http::HeaderMap::new());
    let caller = Caller::of_user(core, organization, user.parse().unwrap(), origin).unwrap();
    let caller = match when {
        Proven::Ago(ago) => caller.authenticated(core.signer.best_time().minus(ago)),
        Proven::Never => caller,
    };
    let request =
        Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let mut request = request.body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(InProcess(caller));
    world.send(stranger(), request).await
}

fn asks_again(reply: &Reply) -> bool {
    reply.status == 401 && reply.json()["type"] == AGAIN
}

#[tokio::test]
async fn a_person_whose_sign_in_is_old_is_asked_to_sign_in_again_where_the_table_says_and_nowhere_else() {
    let world = World::new().await;
    let user = person(&world).await;
    let table = roles_table();
    let mut asked = 0;
    for (method, template, path) in operations() {
        if template == "/audit/export" || template == "/flows/export" {
            continue;
        }
        let row = table.lines().find(|line| line.starts_with(&format!("| {method} {template} |"))).unwrap();
        let expected = row.split('|').nth(3).unwrap().trim() == "fresh";
        asked += usize::from(expected);
        for when in [Proven::Ago(QUARTER), Proven::Never] {
            let reply = ask(&world, &user, when, &method, &path, &json!({})).await;
            assert_eq!(asks_again(&reply), expected, "{when:?} {method} {template}: {}", reply.text);
        }
        let reply = ask(&world, &user, Proven::Ago(Duration::ZERO), &method, &path, &json!({})).await;
        assert_ne!(reply.status, 401, "{method} {template}: {}", reply.text);
    }
    assert!(asked >= 20, "{asked}");
}

#[tokio::test]
async fn the_refusal_names_the_age_as_rfc_9470_does_and_the_organization_may_set_it() {
    let world = World::new().await;
    let user = person(&world).await;
    let token = async |name: &str, when| {
        let body = json!({"name": name, "role": "auditor"});
        ask(&world, &user, Proven::Ago(when), "POST", "/api/v1/tokens", &body).await
    };
    let refused = token("a", QUARTER).await;
    assert_eq!(refused.problem(401)["max_age"], 900);
    let challenge = refused.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
    assert_eq!(challenge, "Bearer error=\"insufficient_user_authentication\", max_age=\"900\"");
    token("b", Duration::from_secs(14 * 60)).await.made();
    let settings = async |seconds: u64| {
        world.call(Method::PATCH, "/settings", Some(json!({"sign_in_age_seconds": seconds}))).await
    };
    assert_eq!(settings(3_600).await.ok()["sign_in_age_seconds"], 3_600);
    token("c", QUARTER).await.made();
    assert_eq!(settings(60).await.ok()["sign_in_age_seconds"], 60);
    token("d", Duration::from_secs(14 * 60)).await.problem(401);
    settings(59).await.problem(422);
    settings(43_201).await.problem(422);
}

#[tokio::test]
async fn a_role_given_among_other_things_asks_for_a_fresh_sign_in_and_the_rest_of_a_person_does_not() {
    let world = World::new().await;
    let user = person(&world).await;
    let f = world.furnish().await;
    let path = format!("/api/v1/users/{}", f.user);
    let old = async |method: &'static str, path: &str, body: Value| {
        ask(&world, &user, Proven::Ago(QUARTER), method, path, &body).await
    };
    let named = json!({"name": "Ada L", "email": "ada@example.com"});
    old("PUT", &path, named.clone()).await.ok();
    let mut with_role = named;
    with_role["role"] = "auditor".into();
    assert!(asks_again(&old("PUT", &path, with_role.clone()).await));
    assert!(asks_again(&old("PATCH", &path, json!({"role": "auditor"})).await));
    with_role["email"] = "other@example.com".into();
    assert!(asks_again(&old("POST", "/api/v1/users", with_role).await));
    let bulk = json!({"operations": [{"method": "DELETE", "path": format!("/users/{}", f.user)}]});
    assert!(asks_again(&old("POST", "/api/v1/bulk", bulk).await));
    let harmless = json!({"operations": [{"method": "POST", "path": "/groups", "body": {"name": "g"}}]});
    old("POST", "/api/v1/bulk", harmless).await.ok();
    assert_eq!(world.get(&format!("/users/{}", f.user)).await.ok()["role"], "member");
}

#[tokio::test]
async fn a_browser_is_led_to_sign_in_again_and_finds_what_was_typed() {
    let world = World::new().await;
    let session = owner(&world).await;
    let old = proven(&world, &session, QUARTER);
    let token = form_token(&get(&world, "/settings", &old).await);
    let fields =
        [("name", "nightly <b>"), ("scopes", "read"), ("scopes", "strike"), ("form_token", token.as_str())];
    let led = submit(&world, "/settings/tokens", &old, &fields).await;
    assert_eq!(led.status, 401);
    for shown in [
        "Prove once more that it is you",
        "15 minutes",
        "/signin?again=1&amp;next=/signed-in-again",
        "name=\"name\" value=\"nightly &lt;b&gt;\"",
        "name=\"scopes\" value=\"strike\"",
        "action=\"/settings/tokens\"",
    ] {
        assert!(led.text.contains(shown), "{shown}: {}", led.text);
    }
    assert!(!led.text.contains(&token), "the old session's token goes no further");
    assert_eq!(world.get("/tokens").await.ok()["items"].as_array().unwrap().len(), 0);
    // Signed in again elsewhere: what this page sends is of no session, and is looked at once more.
    assert!(get(&world, "/signed-in-again", &session).await.text.contains("You are signed in again"));
    let kept = [("name", "nightly <b>"), ("scopes", "read"), ("scopes", "strike")];
    let seen = submit(&world, "/settings/tokens", &session, &kept).await;
    assert_eq!(seen.status, 409);
    assert!(
        seen.text.contains("Making an API token") && seen.text.contains("nightly &lt;b&gt;"),
        "{}",
        seen.text
    );
    assert_eq!(world.get("/tokens").await.ok()["items"].as_array().unwrap().len(), 0);
    let token = form_token(&seen);
    let sent = [&kept[..], &[("form_token", token.as_str())]].concat();
    let made = submit(&world, "/settings/tokens", &session, &sent).await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert_eq!(world.get("/tokens").await.ok()["items"][0]["scopes"], json!(["read", "strike"]));
}

#[tokio::test]
async fn each_form_that_takes_access_away_or_gives_it_back_asks_and_an_ordinary_one_does_not() {
    let world = World::new().await;
    let session = owner(&world).await;
    let old = proven(&world, &session, QUARTER);
    let token = form_token(&get(&world, "/settings", &old).await);
    let fields = [("form_token", token.as_str()), ("name", "new")];
    for (template, what) in step_up_forms() {
        let path = template.replace("{id}", &format!("dev-{}", "0".repeat(26)));
        let led = submit(&world, &path, &old, &fields).await;
        assert_eq!(led.status, 401, "{path}");
        assert!(led.text.contains("Prove once more") && led.text.contains(what), "{path}: {}", led.text);
        let fresh = submit(&world, &path, &session, &fields).await;
        assert!(!fresh.text.contains("Prove once more"), "{path}");
    }
    let made = submit(&world, "/groups/new", &old, &fields).await;
    assert_eq!(made.status, 303, "{}", made.text);
}

#[tokio::test]
async fn whom_a_provider_remembered_is_signed_in_and_proves_who_they_are_before_anything_that_asks_for_it() {
    let world = World::new().await;
    owner(&world).await;
    let core = &world.controller.core;
    let snapshot = core.snapshot();
    let data = &snapshot.dataset.organizations[0];
    let person = core.person(RoleSource::User, data.organization.id, data.users[0].id).unwrap();
    for (method, is_led) in [(Proof::Remembered, true), (Proof::Provider, false)] {
        let cookie = core.begin_session(&http::HeaderMap::new(), &person, Methods::of(&[method]));
        let cookie = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        let page = get(&world, "/settings", &cookie).await;
        assert!(page.text.contains("Lena"), "signed in");
        let token = form_token(&page);
        let asked =
            submit(&world, "/settings/tokens", &cookie, &[("form_token", &token), ("name", "x")]).await;
        assert_eq!(asked.text.contains("Prove once more"), is_led, "{method:?}: {}", asked.text);
    }
}

#[tokio::test]
async fn what_passes_by_while_a_form_is_open_is_nobody_elses_edit() {
    let world = World::new().await;
    let session = owner(&world).await;
    let f = world.furnish().await;
    let edit = format!("/groups/{}/edit", f.group);
    let save = async |version: &str, token: &str, name: &str| {
        let fields = [("name", name), ("version", version), ("form_token", token)];
        submit(&world, &edit, &session, &fields).await.status
    };
    let hidden = |page: &Reply| {
        let rest = page.text.split_once("name=\"version\" value=\"").unwrap().1;
        rest.split('"').next().unwrap().replace("&quot;", "\"")
    };
    let page = get(&world, &edit, &session).await;
    let (version, token) = (hidden(&page), form_token(&page));
    // Somebody joins: the group's count is another, the group is not.
    let bob = world.post("/users", json!({"name": "Bob", "email": "bob@example.com"})).await.made();
    let path = format!("/groups/{}/members/{}", f.group, bob["id"].as_str().unwrap());
    assert!(world.call(Method::PUT, &path, Some(json!({}))).await.status.is_success());
    assert_ne!(hidden(&get(&world, &edit, &session).await), version);
    assert_eq!(save(&version, &token, "platform").await, 303);
    // Somebody renames it.
    assert_eq!(save(&version, &token, "platforms").await, 412);
}

#[tokio::test]
async fn every_answer_of_the_api_is_guarded() {
    let world = World::new().await;
    let mut answers =
        vec![world.get("/sites").await, world.get("/nothing").await, world.post("/sites", json!(1)).await];
    for path in ["/api/v1/sites", "/api/v1/openapi.json", "/api/"] {
        answers.push(get(&world, path, "").await);
    }
    let seen: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(seen, [200, 404, 422, 401, 200, 200]);
    for answer in answers {
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{}", answer.status);
        assert!(answer.headers.contains_key("strict-transport-security"), "{}", answer.status);
    }
}

#[tokio::test]
async fn an_owner_of_the_installation_who_has_just_proven_it_makes_no_link_for_one_more_from_a_browser() {
    let world = World::new().await;
    let olga = person(&world).await;
    let proven = Proven::Ago(Duration::ZERO);
    let link = ask(&world, &olga, proven, "POST", "/api/v1/owner-links", &json!({})).await.problem(403);
    assert_eq!(link["rule"], "the local socket of the controller's host", "{link}");
    let keys = ask(&world, &olga, proven, "POST", "/api/v1/key-rotations", &json!({})).await;
    assert!(keys.status.is_success(), "what the installation's owners do otherwise: {}", keys.text);
}
