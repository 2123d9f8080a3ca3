//! The API as a caller sees it.

use super::{LOCAL, World, stranger};
use crate::openapi_json;
use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

fn with_token(method: &str, path: &str, token: &str) -> Request<Body> {
    let builder =
        Request::builder().method(method).uri(path).header(header::AUTHORIZATION, format!("Bearer {token}"));
    builder.header(header::CONTENT_TYPE, "application/json").body(Body::from("{}")).unwrap()
}

#[tokio::test]
async fn a_stranger_gets_401_on_every_route_of_the_document() {
    let world = World::new().await;
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{id}", "x").replace("{member}", "y");
            for token in [None, Some("tgt1.x.y"), Some("tgt1.tok-00000000000000000000000000.AAAA")] {
                let request = match token {
                    None => request(&method.to_uppercase(), &path),
                    Some(token) => with_token(&method.to_uppercase(), &path, token),
                };
                let reply = world.send(stranger(), request).await;
                reply.problem(401);
                assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer");
                asked += 1;
            }
        }
    }
    assert!(asked > 120, "{asked}");
}

#[tokio::test]
async fn every_kind_of_error_is_a_problem_that_names_field_rule_and_value() {
    let world = World::new().await;
    let json_body = |path: &str, body: &str| {
        let builder =
            Request::post(format!("/api/v1{path}")).header(header::CONTENT_TYPE, "application/json");
        builder.body(Body::from(body.to_owned())).unwrap()
    };
    world.get("/nothing").await.problem(404);
    world.send(LOCAL, request("GET", "/enrol/v1/nothing")).await.problem(404);
    world.send(LOCAL, request("GET", "/enrol/v1/device")).await.problem(405);
    assert_eq!(world.call(Method::PATCH, "/sites", None).await.problem(405)["value"], "PATCH");
    world.get("/sites/site-00000000000000000000000000").await.problem(404);
    let problem = world.get("/sites/dev-00000000000000000000000000").await.problem(400);
    assert_eq!(
        (&problem["field"], &problem["value"]),
        (&json!("id"), &json!("dev-00000000000000000000000000"))
    );
    let problem = world.get("/sites?limit=0").await.problem(400);
    assert_eq!(
        (&problem["field"], &problem["rule"], &problem["value"]),
        (&json!("limit"), &json!("1 to 1000"), &json!(0))
    );
    assert_eq!(world.get("/sites?colour=red").await.problem(400)["field"], "colour");
    assert_eq!(world.get("/sites?limit=many").await.problem(400)["field"], "limit");

    let no_type = Request::post("/api/v1/sites").body(Body::from("{}")).unwrap();
    assert_eq!(world.send(LOCAL, no_type).await.problem(415)["field"], "content-type");
    world.send(LOCAL, json_body("/sites", "{\"name\":")).await.problem(400);
    world.send(LOCAL, json_body("/sites", "{\"name\":\"a\"} trailing")).await.problem(400);
    assert_eq!(world.send(LOCAL, json_body("/sites", "{}")).await.problem(422)["field"], "name");
    let problem = world.send(LOCAL, json_body("/sites", "{\"name\":\"a\",\"colour\":1}")).await.problem(422);
    assert_eq!(problem["field"], "colour");
    let problem =
        world.send(LOCAL, json_body("/sites", "{\"name\":\"a\",\"prefixes\":[1]}")).await.problem(422);
    assert_eq!(problem["field"], "prefixes[0]");
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(300_000));
    assert_eq!(world.send(LOCAL, json_body("/sites", &large)).await.problem(413)["field"], "body");

    let problem = world.post("/sites", json!({"name": "a", "prefixes": ["10.0.0.1/8"]})).await.problem(422);
    assert_eq!((&problem["field"], &problem["value"]), (&json!("prefixes[0]"), &json!("10.0.0.1/8")));
    world.post("/sites", json!({"name": "a"})).await.made();
    let problem = world.post("/sites", json!({"name": "a"})).await.problem(409);
    assert_eq!((&problem["field"], &problem["rule"]), (&json!("name"), &json!("unique")));
    let resource = json!({"site": "site-00000000000000000000000000", "name": "r", "address": "10.0.0.1", "ports": ["1"]});
    assert_eq!(world.post("/resources", resource).await.problem(422)["field"], "site");
    let ports = json!({"site": "site-00000000000000000000000000", "name": "r", "address": "10.0.0.1", "ports": ["70000"]});
    let problem = world.post("/resources", ports).await.problem(422);
    assert_eq!((&problem["field"], &problem["value"]), (&json!("ports[0]"), &json!("70000")));
}

#[tokio::test]
async fn objects_are_made_listed_changed_and_removed() {
    let world = World::new().await;
    let f = world.furnish().await;
    for collection in ["sites", "resources", "groups", "users", "policies", "organizations"] {
        let page = world.get(&format!("/{collection}")).await.ok();
        assert_eq!(page["items"].as_array().unwrap().len(), 1, "{collection}");
        let id = page["items"][0]["id"].as_str().unwrap();
        assert_eq!(world.get(&format!("/{collection}/{id}")).await.ok()["id"], id);
    }
    for collection in
        ["connectors", "pops", "devices", "service-accounts", "enrolment-keys", "tokens", "strikes", "flows"]
    {
        assert_eq!(world.get(&format!("/{collection}")).await.ok()["items"], json!([]), "{collection}");
    }
    let w = &world;
    let put = |path: String, body: Value| async move { w.call(Method::PUT, &path, Some(body)).await.ok() };
    let site = put(format!("/sites/{}", f.site), json!({"name": "Hamburg DC", "regions": ["eu"]})).await;
    assert_eq!((&site["name"], &site["prefixes"]), (&json!("Hamburg DC"), &json!([])));
    let resource = json!({"site": f.site, "name": "orders", "alias": "db", "address": "db.lab.internal.", "ports": ["443", "1-2", "443"], "mode": "strict"});
    let resource = put(format!("/resources/{}", f.resource), resource).await;
    assert_eq!(
        (&resource["address"], &resource["ports"]),
        (&json!("db.lab.internal"), &json!(["1-2", "443"]))
    );
    put(format!("/users/{}", f.user), json!({"name": "Ada L", "email": "ADA@example.com"})).await;
    put(format!("/groups/{}", f.group), json!({"name": "eng"})).await;
    put(format!("/policies/{}", f.policy), json!({"name": "p"})).await;
    assert_eq!(world.get(&format!("/policies/{}", f.policy)).await.ok()["groups"], json!([]));
    world.delete(&format!("/sites/{}", f.site)).await.problem(409);
    let ids = [
        ("resources", &f.resource),
        ("sites", &f.site),
        ("policies", &f.policy),
        ("groups", &f.group),
        ("users", &f.user),
    ];
    for (path, id) in ids {
        assert!(world.delete(&format!("/{path}/{id}")).await.status.is_success(), "{path}");
        world.get(&format!("/{path}/{id}")).await.problem(404);
    }
    let audit = world.get("/audit?limit=1000").await.ok();
    let actions: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    for action in ["create site", "delete user", "replace policy", "bootstrap"] {
        let found = actions
            .iter()
            .any(|seen| seen == action || (action == "delete user" && seen == "delete subject"));
        assert!(found, "{action} in {actions:?}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let world = World::new().await;
    for index in 0..7 {
        world.post("/groups", json!({"name": format!("g{index}")})).await.made();
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let query = if after.is_empty() { "?limit=3".to_owned() } else { format!("?limit=3&after={after}") };
        let page = world.get(&format!("/groups{query}")).await.ok();
        seen.extend(
            page["items"].as_array().unwrap().iter().map(|group| group["name"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, ["g0", "g1", "g2", "g3", "g4", "g5", "g6"]);
}

#[tokio::test]
async fn a_token_does_what_its_scopes_say_and_no_more() {
    let world = World::new().await;
    let f = world.furnish().await;
    let w = &world;
    let token = |scopes: Value| async move {
        let name = scopes.to_string();
        let made = w.post("/tokens", json!({"name": name, "scopes": scopes})).await.made();
        let id = made["description"]["id"].as_str().unwrap().to_owned();
        (id, made["token"].as_str().unwrap().to_owned())
    };
    let status = |method: &'static str, path: String, token: String| {
        let world = &world;
        async move { world.send(stranger(), with_token(method, &path, &token)).await.status.as_u16() }
    };
    let (read_id, read) = token(json!(["read"])).await;
    let (_, write) = token(json!(["write"])).await;
    let (_, strike) = token(json!(["strike"])).await;
    let (_, enrol) = token(json!(["enrol"])).await;
    assert_eq!(status("GET", "/api/v1/sites".into(), read.clone()).await, 200);
    assert_eq!(status("POST", "/api/v1/sites".into(), read.clone()).await, 403);
    assert_eq!(status("GET", "/api/v1/sites".into(), write.clone()).await, 403);
    // The body {} is refused by the handler: the caller was let in.
    assert_eq!(status("POST", "/api/v1/sites".into(), write.clone()).await, 422);
    assert_eq!(status("POST", "/api/v1/strikes".into(), write.clone()).await, 403);
    assert_eq!(status("POST", "/api/v1/tokens".into(), write.clone()).await, 403);
    assert_eq!(status("POST", "/api/v1/strikes".into(), strike.clone()).await, 422);
    assert_eq!(status("DELETE", format!("/api/v1/users/{}", f.user), strike).await, 403);
    assert_eq!(status("POST", "/api/v1/enrolment-keys".into(), enrol.clone()).await, 422);
    let body = Body::from(json!({"kind": "pop"}).to_string());
    let pop_key =
        Request::post("/api/v1/enrolment-keys").header(header::AUTHORIZATION, format!("Bearer {enrol}"));
    let pop_key = pop_key.header(header::CONTENT_TYPE, "application/json").body(body).unwrap();
    assert_eq!(world.send(stranger(), pop_key).await.problem(403)["value"], "installation");

    world.post("/strikes", json!({"subject": read_id})).await.made();
    assert_eq!(status("GET", "/api/v1/sites".into(), read.clone()).await, 401);
    let mut wrong = write.clone();
    wrong.replace_range(wrong.len() - 1.., if write.ends_with('A') { "B" } else { "A" });
    assert_eq!(status("POST", "/api/v1/sites".into(), wrong).await, 401);
}

#[tokio::test]
async fn nothing_of_another_organization_is_seen_or_changed() {
    let world = World::new().await;
    let f = world.furnish().await;
    let other = world.post("/organizations", json!({"name": "other"})).await.made();
    let other = other["id"].as_str().unwrap();
    let ask = |method: &str, path: &str, body: Value| {
        let builder = Request::builder().method(method).uri(format!("/api/v1{path}"));
        let builder =
            builder.header("tidegate-organization", other).header(header::CONTENT_TYPE, "application/json");
        let request = builder.body(Body::from(body.to_string())).unwrap();
        world.send(LOCAL, request)
    };
    assert_eq!(ask("GET", "/sites", Value::Null).await.ok()["items"], json!([]));
    for (path, id) in [
        ("sites", &f.site),
        ("resources", &f.resource),
        ("groups", &f.group),
        ("users", &f.user),
        ("policies", &f.policy),
    ] {
        ask("GET", &format!("/{path}/{id}"), Value::Null).await.problem(404);
        ask("DELETE", &format!("/{path}/{id}"), Value::Null).await.problem(404);
    }
    let key = json!({"kind": "device", "owner": f.user});
    assert_eq!(ask("POST", "/enrolment-keys", key).await.problem(422)["field"], "owner");
    let policy = json!({"name": "p", "groups": [f.group], "resources": []});
    assert_eq!(ask("POST", "/policies", policy).await.problem(422)["field"], "groups");
    assert_eq!(ask("POST", "/strikes", json!({"subject": f.user})).await.problem(422)["field"], "subject");
    let token = json!({"name": "t", "scopes": ["read", "write"]});
    let token = ask("POST", "/tokens", token).await.made()["token"].as_str().unwrap().to_owned();
    let organizations = world.send(stranger(), with_token("GET", "/api/v1/organizations", &token)).await.ok();
    assert_eq!(organizations["items"].as_array().unwrap().len(), 1);
    assert_eq!(organizations["items"][0]["id"], other);
    let first = world.get("/organizations").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    let named = Request::get("/api/v1/sites").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let named = named.header("tidegate-organization", first).body(Body::empty()).unwrap();
    world.send(stranger(), named).await.problem(403);
}

#[tokio::test]
async fn an_organization_sets_how_long_grants_live_within_bounds() {
    let world = World::new().await;
    let id = world.get("/organizations").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    let patch = |body: Value| {
        world.call(Method::PATCH, Box::leak(format!("/organizations/{id}").into_boxed_str()), Some(body))
    };
    let changed = patch(json!({"name": "Harbour", "renew_after_seconds": 5})).await.ok();
    assert_eq!(
        (&changed["renew_after_seconds"], &changed["grant_life_seconds"]),
        (&json!(5), &json!(86_400))
    );
    for (field, value) in [
        ("grant_life_seconds", 3599),
        ("grant_life_seconds", 259_201),
        ("renew_after_seconds", 4),
        ("renew_after_seconds", 43_201),
    ] {
        let problem = patch(json!({field: value})).await.problem(422);
        assert_eq!((&problem["field"], &problem["value"]), (&json!(field), &json!(value)));
    }
}

#[tokio::test]
async fn much_that_would_go_at_once_goes_only_when_somebody_says_so() {
    let world = World::new().await;
    let f = world.furnish().await;
    for number in 0..20 {
        let person = json!({"name": "P", "email": format!("p{number}@example.com")});
        let person = world.post("/users", person).await.made()["id"].as_str().unwrap().to_owned();
        let member = format!("/groups/{}/members/{person}", f.group);
        world.call(Method::PUT, &member, None).await.ok();
    }
    let problem = world.delete(&format!("/groups/{}", f.group)).await.problem(409);
    assert_eq!(problem["field"], "allow_shrink");
    assert!(problem["detail"].as_str().unwrap().contains("21 of 21 memberships"), "{problem}");
    assert_eq!(world.get("/groups").await.ok()["items"][0]["members"], 21);
    world.delete(&format!("/groups/{}?allow_shrink=maybe", f.group)).await.problem(400);
    assert_eq!(world.delete(&format!("/groups/{}?allow_shrink=true", f.group)).await.status, 204);
    // The smaller state is believed: by memory, and by the next start.
    let world = world.restarted().await;
    assert_eq!(world.get("/groups").await.ok()["items"], json!([]));
    let status = world.get("/status").await.ok();
    assert_eq!(
        (&status["snapshot"]["source"], &status["snapshot"]["alarms"]),
        (&json!("database"), &json!([]))
    );
}
