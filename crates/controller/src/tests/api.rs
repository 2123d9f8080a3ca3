//! The API as a caller sees it.

use super::{LOCAL, World, stranger};
use crate::{api::Peer, openapi_json};
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
            // Wrong tokens of one address are counted: each round comes from another.
            for token in [None, Some("tgt1.x.y"), Some("tgt1.tok-00000000000000000000000000.AAAA")] {
                let request = match token {
                    None => request(&method.to_uppercase(), &path),
                    Some(token) => with_token(&method.to_uppercase(), &path, token),
                };
                let from = Peer::Network([198, 51, 100, u8::try_from(asked % 250).unwrap()].into());
                let reply = world.send(from, request).await;
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
    let named = |problem: &Value, field: &str, rule: &str, value: Value| {
        assert_eq!((&problem["field"], &problem["rule"]), (&json!(field), &json!(rule)), "{problem}");
        assert_eq!(problem.get("value"), Some(&value), "{problem}");
    };
    let path = "a path of the OpenAPI document, /api/v1/openapi.json";
    named(&world.get("/nothing").await.problem(404), "path", path, json!("/api/v1/nothing"));
    let enrol = |method: &'static str, path: &'static str| world.send(LOCAL, request(method, path));
    named(&enrol("GET", "/enrol/v1/nothing").await.problem(404), "path", path, json!("/enrol/v1/nothing"));
    named(&enrol("GET", "/enrol/v1/device").await.problem(405), "method", "one of: POST", json!("GET"));
    named(
        &enrol("PUT", "/api/v1/openapi.json").await.problem(405),
        "method",
        "one of: GET, HEAD",
        json!("PUT"),
    );
    let patched = world.call(Method::PATCH, "/sites", None).await;
    named(&patched.problem(405), "method", "one of: GET, HEAD, POST", json!("PATCH"));
    assert_eq!(patched.headers[header::ALLOW], "GET,HEAD,POST");
    let nobody = "site-00000000000000000000000000";
    let missing = world.get(&format!("/sites/{nobody}")).await.problem(404);
    named(&missing, "id", "the id of an existing site of the caller's organization", json!(nobody));
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
    let query = |query: &'static str| world.get(query);
    let rule = "one of: limit, after, sort, q, name, region";
    named(&query("/sites?colour=red").await.problem(400), "colour", rule, json!("red"));
    let whole = "a whole number, 0 or more";
    named(&query("/sites?limit=ma%20ny").await.problem(400), "limit", whole, json!("ma ny"));
    named(&query("/sites?limit=1&limit=2").await.problem(400), "limit", "each member once", json!("2"));

    let no_type = Request::post("/api/v1/sites").body(Body::from("{}")).unwrap();
    assert_eq!(world.send(LOCAL, no_type).await.problem(415)["field"], "content-type");
    world.send(LOCAL, json_body("/sites", "{\"name\":")).await.problem(400);
    world.send(LOCAL, json_body("/sites", "{\"name\":\"a\"} trailing")).await.problem(400);
    let sites = |body: &'static str| world.send(LOCAL, json_body("/sites", body));
    named(&sites("{}").await.problem(422), "name", "required", Value::Null);
    let array = r#"["arr",["10.0.0.0/8"],[]]"#;
    named(&sites(r#"["arr",["10.0.0.0/8"],[]]"#).await.problem(422), "body", "an object", json!(array));
    let rule = "one of: name, prefixes, regions";
    named(&sites(r#"{"name":"a","colour":1}"#).await.problem(422), "colour", rule, json!(1));
    let rule = "each member once";
    named(&sites(r#"{"name":"a","name":"b"}"#).await.problem(422), "name", rule, json!("b"));
    named(&sites(r#"{"name":"a","prefixes":[1]}"#).await.problem(422), "prefixes[0]", "a text", json!(1));
    for (path, limit) in
        [("/api/v1/sites", "at most 262144 bytes"), ("/enrol/v1/device", "at most 8192 bytes")]
    {
        let large = format!("{{\"name\":\"{}\"}}", "x".repeat(300_000));
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        let request = request.header(header::CONTENT_LENGTH, large.len()).body(Body::from(large)).unwrap();
        named(&world.send(LOCAL, request).await.problem(413), "body", limit, json!(300_011));
    }

    let problem = world.post("/sites", json!({"name": "a", "prefixes": ["10.0.0.1/8"]})).await.problem(422);
    let rule = "an IP address, a prefix like 10.0.2.0/24, a host name or a wildcard like *.corp.example";
    named(&problem, "prefixes[0]", rule, json!("10.0.0.1/8"));
    assert!(problem["detail"].as_str().unwrap().contains("bits behind the prefix length"), "{problem}");
    world.post("/sites", json!({"name": "a"})).await.made();
    named(&world.post("/sites", json!({"name": "a"})).await.problem(409), "name", "unique", json!("a"));
    let resource = json!({"site": "site-00000000000000000000000000", "name": "r", "address": "10.0.0.1", "ports": ["1"]});
    assert_eq!(world.post("/resources", resource).await.problem(422)["field"], "site");
    let ports = json!({"site": "site-00000000000000000000000000", "name": "r", "address": "10.0.0.1", "ports": ["70000"]});
    let problem = world.post("/resources", ports).await.problem(422);
    named(
        &problem,
        "ports[0]",
        "ports from 1 to 65535 like 443 or 8000-8999, udp/53 for UDP, or icmp",
        json!("70000"),
    );
    let alias = json!({"site": "site-00000000000000000000000000", "name": "r", "alias": "all", "address": "*.corp.example", "ports": ["1"]});
    let problem = world.post("/resources", alias).await.problem(422);
    named(&problem, "alias", "none for a wildcard, which is many hosts", json!("all"));
    let problem = world.post("/strikes", json!({"subject": "nobody"})).await.problem(422);
    let rule = "the id of a device, user, service account, connector, PoP, controller or token, or a member and a group as \"usr-…/grp-…\"";
    named(&problem, "subject", rule, json!("nobody"));
    let enrolment = world.post("/enrolment-keys", json!({"kind": "router"})).await.problem(422);
    named(&enrolment, "kind", "one of: pop, connector, device", json!("router"));
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
    let many = json!({"site": f.site, "name": "lab", "address": "*.Lab.internal", "ports": ["icmp", "udp/53", "tcp/80", "udp/500-600", "443"]});
    let many = put(format!("/resources/{}", f.resource), many).await;
    assert_eq!(
        (&many["address"], &many["ports"]),
        (&json!("*.lab.internal"), &json!(["80", "443", "udp/53", "udp/500-600", "icmp"]))
    );
    put(format!("/users/{}", f.user), json!({"name": "Ada L", "email": "ADA@example.com"})).await;
    put(format!("/groups/{}", f.group), json!({"name": "eng"})).await;
    put(format!("/policies/{}", f.policy), json!({"name": "p"})).await;
    assert_eq!(world.get(&format!("/policies/{}", f.policy)).await.ok()["groups"], json!([]));
    let in_use = world.delete(&format!("/sites/{}", f.site)).await.problem(409);
    assert_eq!(in_use["value"], json!({"connectors": [], "resources": ["lab"]}));
    assert!(in_use["detail"].as_str().unwrap().contains("resources [lab]"), "{in_use}");
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

    // Who may make tokens gives no scope that it does not have.
    let (_, maker) = token(json!(["installation", "read"])).await;
    let make = |scopes: Value| {
        let body = Body::from(json!({"name": scopes.to_string() + " again", "scopes": scopes}).to_string());
        let request =
            Request::post("/api/v1/tokens").header(header::AUTHORIZATION, format!("Bearer {maker}"));
        world.send(stranger(), request.header(header::CONTENT_TYPE, "application/json").body(body).unwrap())
    };
    for scope in ["write", "strike", "enrol"] {
        assert_eq!(make(json!(["read", scope])).await.problem(403)["value"], scope);
    }
    make(json!(["read"])).await.made();
    make(json!(["read", "installation"])).await.made();

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
    // What the installation has is no organization's: neither its keys nor what its database does.
    let pop_key = world.post("/enrolment-keys", json!({"kind": "pop"})).await.made()["key"].clone();
    let by_token = |path: String| {
        let request = with_token("GET", &format!("/api/v1{path}"), &token);
        world.send(stranger(), request)
    };
    assert_eq!(by_token("/enrolment-keys".into()).await.ok()["items"], json!([]));
    by_token(format!("/enrolment-keys/{}", pop_key["id"].as_str().unwrap())).await.problem(404);
    assert_eq!(by_token("/diagnostics/database".into()).await.problem(403)["value"], "installation");
    assert_eq!(world.get("/enrolment-keys").await.ok()["items"][0]["id"], pop_key["id"]);
    let organizations = world.send(stranger(), with_token("GET", "/api/v1/organizations", &token)).await.ok();
    assert_eq!(organizations["items"].as_array().unwrap().len(), 1);
    assert_eq!(organizations["items"][0]["id"], other);
    let first = world.get("/organizations").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    let named = Request::get("/api/v1/sites").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let named = named.header("tidegate-organization", first).body(Body::empty()).unwrap();
    world.send(stranger(), named).await.problem(403);
}

#[tokio::test]
async fn a_bulk_invites_people_and_makes_keys_of_accounts_and_says_what_it_takes() {
    let world = World::new().await;
    let operation = |method: &str, path: &str, body: Value, name: Option<&str>| {
        let mut operation = json!({"method": method, "path": path, "body": body});
        if let Some(name) = name {
            operation["as"] = name.into();
        }
        operation
    };
    let user = json!({"name": "Ada", "email": "ada@example.com"});
    let operations = [
        operation("POST", "/users", user, Some("ada")),
        operation("POST", "/invitations", json!({"user": "@ada"}), None),
        operation("POST", "/service-accounts", json!({"name": "ci"}), Some("ci")),
        operation("POST", "/service-accounts/@ci/keys", json!({"cap": 3}), None),
    ];
    let made = world.post("/bulk", json!({"operations": operations})).await.ok();
    let of = |place: usize, pointer: &str| made["results"][place]["body"].pointer(pointer).cloned();
    assert!(of(1, "/link").is_some_and(|link| link.as_str().unwrap().contains("/invitation/")), "{made}");
    assert_eq!(of(3, "/key/cap"), Some(json!(3)), "{made}");
    let other = [operation("POST", "/owner-links", json!({}), None)];
    let refused = world.post("/bulk", json!({"operations": other})).await.problem(422);
    assert!(refused["rule"].as_str().unwrap().contains("an invitation"), "{refused}");
}

#[tokio::test]
async fn nobody_revokes_a_token_that_may_do_what_they_may_not() {
    let world = World::new().await;
    let token = async |name: &str, body: Value| {
        let mut body = body;
        body["name"] = name.into();
        let made = world.post("/tokens", body).await.made();
        (made["description"]["id"].clone(), made["token"].as_str().unwrap().to_owned())
    };
    let (above, _) = token("deploy", json!({"scopes": ["read", "installation"]})).await;
    let (beside, _) = token("watch", json!({"scopes": ["read"]})).await;
    let (_, admin) = token("security", json!({"role": "admin"})).await;
    let strike = |subject: &Value| {
        let request = Request::post("/api/v1/strikes")
            .header(header::AUTHORIZATION, format!("Bearer {admin}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(json!({"subject": subject}).to_string()));
        world.send(stranger(), request.unwrap())
    };
    let refused = strike(&above).await.problem(403);
    assert_eq!(refused["rule"], "a token that may do no more than the caller", "{refused}");
    assert_eq!(strike(&beside).await.status, 201);
}

#[tokio::test]
async fn an_organization_is_closed_when_nothing_of_it_can_connect_and_its_log_stays() {
    let world = World::new().await;
    let other = world.post("/organizations", json!({"name": "other"})).await.made()["id"].clone();
    let other = other.as_str().unwrap();
    let of_other = |method: &str, path: &str, body: Value| {
        let builder = Request::builder().method(method).uri(format!("/api/v1{path}"));
        let builder =
            builder.header("tidegate-organization", other).header(header::CONTENT_TYPE, "application/json");
        world.send(LOCAL, builder.body(Body::from(body.to_string())).unwrap())
    };
    of_other("POST", "/sites", json!({"name": "there"})).await.made();
    let token = of_other("POST", "/tokens", json!({"name": "t", "scopes": ["read", "write"]})).await.made();
    let token = token["token"].as_str().unwrap().to_owned();
    let close = |id: &str| {
        let request = Request::delete(format!("/api/v1/organizations/{id}")).body(Body::empty()).unwrap();
        world.send(LOCAL, request)
    };
    let own = world.get("/organizations").await.ok()["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(close(&own).await.problem(409)["type"], "/problems/in-use", "it operates the installation");
    let by_token = with_token("DELETE", &format!("/api/v1/organizations/{other}"), &token);
    assert_eq!(world.send(stranger(), by_token).await.problem(403)["value"], "installation");

    assert_eq!(close(other).await.status, 204);
    close(other).await.problem(404);
    let listed = world.get("/organizations").await.ok();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let closed = world.get("/organizations?closed=true").await.ok();
    assert_eq!((&closed["items"][0]["id"], closed["items"].as_array().unwrap().len()), (&json!(other), 1));
    assert!(closed["items"][0]["closed"].is_string(), "{closed}");
    world.send(stranger(), with_token("GET", "/api/v1/sites", &token)).await.problem(401);
    of_other("POST", "/sites", json!({"name": "again"})).await.problem(404);
    let audit = of_other("GET", "/audit", Value::Null).await.ok();
    assert_eq!(audit["items"][0]["action"], "close organization", "{audit}");
    assert_eq!(audit["items"][0]["before"]["name"], "other");
    assert_eq!(of_other("GET", "/audit/verification", Value::Null).await.ok()["intact"], true);
    world.post("/organizations", json!({"name": "other"})).await.made();
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
async fn a_bulk_of_removals_counts_members_and_people_and_what_it_is_allowed_is_believed() {
    let world = World::new().await;
    let f = world.furnish().await;
    let mut people = Vec::new();
    for number in 0..20 {
        let person = json!({"name": "P", "email": format!("p{number}@example.com")});
        let person = world.post("/users", person).await.made()["id"].as_str().unwrap().to_owned();
        let member = format!("/groups/{}/members/{person}", f.group);
        world.call(Method::PUT, &member, None).await.ok();
        people.push(person);
    }
    let removals = |path: &dyn Fn(&String) -> String, allowed: Option<bool>| {
        let operations: Vec<Value> =
            people.iter().map(|person| json!({"method": "DELETE", "path": path(person)})).collect();
        let mut body = json!({"operations": operations});
        if let Some(allowed) = allowed {
            body["allow_shrink"] = allowed.into();
        }
        body
    };
    let member = |person: &String| format!("/groups/{}/members/{person}", f.group);
    let of_itself = |person: &String| format!("/users/{person}");
    let version = |status: &Value| status["snapshot"]["version"].clone();
    for (path, kind) in [(&member as &dyn Fn(&String) -> String, "memberships"), (&of_itself, "users")] {
        let problem = world.post("/bulk", removals(path, None)).await.problem(409);
        assert!(problem["detail"].as_str().unwrap().contains(kind), "{problem}");
        let before = version(&world.get("/status").await.ok());
        world.post("/bulk", removals(path, Some(true))).await.ok();
        let status = world.get("/status").await.ok();
        assert_ne!(version(&status), before, "what was allowed is believed");
        assert_eq!(status["snapshot"]["alarms"], json!([]), "{status}");
    }
    assert_eq!(world.get("/groups").await.ok()["items"][0]["members"], 1);
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

#[tokio::test]
async fn a_right_token_is_let_in_where_others_try_wrong_ones() {
    let world = World::new().await;
    let made = world.post("/tokens", json!({"name": "t", "scopes": ["read"]})).await.made();
    let right = made["token"].as_str().unwrap();
    let wrong = format!("{right}A");
    let office = || Peer::Network([192, 0, 2, 99].into());
    let mut last = 0;
    for _ in 0..130 {
        last = world.send(office(), with_token("GET", "/api/v1/sites", &wrong)).await.status.as_u16();
    }
    assert_eq!(last, 429);
    world.send(office(), with_token("GET", "/api/v1/sites", right)).await.ok();
}
