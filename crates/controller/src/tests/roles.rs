//! Who may do what, endpoint by endpoint, as the OpenAPI document has them.

use super::{
    LOCAL, World,
    inventory::{Inventory, request},
    stranger,
};
use crate::{
    api::{Peer, Permission},
    openapi_json, roles_table,
};
use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use std::path::Path;

pub(super) const ROLES: [&str; 6] = ["owner", "admin", "network_admin", "support", "auditor", "member"];

/// Every operation of the document: method, path, and the path's parameters filled with ids that nobody has.
pub(super) fn operations() -> Vec<(String, String, String)> {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let template = path.strip_prefix("/api/v1").unwrap().to_owned();
            let prefix = match template.split('/').nth(1).unwrap() {
                "sites" => "site",
                "connectors" => "con",
                "pops" => "pop",
                "resources" => "res",
                "groups" => "grp",
                "users" => "usr",
                "service-accounts" => "svc",
                "devices" => "dev",
                "policies" => "pol",
                "enrolment-keys" => "key",
                "tokens" => "tok",
                "organizations" => "org",
                _ => "x",
            };
            let id = format!("{prefix}-{}", "0".repeat(26));
            let filled = path.replace("{id}", &id).replace("{member}", &format!("usr-{}", "0".repeat(26)));
            all.push((method.to_uppercase(), template, filled));
        }
    }
    all
}

pub(super) async fn token(world: &World, role: &str) -> String {
    let made = world.post("/tokens", json!({"name": format!("as {role}"), "role": role})).await.made();
    assert_eq!(made["description"]["role"], role);
    made["token"].as_str().unwrap().to_owned()
}

pub(super) fn with(method: &str, path: &str, token: &str, body: &Value) -> Request<Body> {
    let builder = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json");
    builder.body(Body::from(body.to_string())).unwrap()
}

#[test]
fn the_table_of_endpoints_is_the_document_s() {
    let table = roles_table();
    let operations = operations();
    for (method, template, _) in &operations {
        assert!(table.contains(&format!("| {method} {template} |")), "{method} {template} has no row");
    }
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains(" /")).count();
    assert_eq!(rows, operations.len(), "the table has endpoints that the document does not have");
}

#[test]
fn the_table_of_roles_is_the_golden_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/roles.md");
    if std::env::var_os("TIDEGATE_WRITE_OPENAPI").is_some() {
        std::fs::write(&path, roles_table()).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        golden == roles_table(),
        "docs/roles.md is not what the code says; write it again with: cargo xtask openapi"
    );
}

/// Whether a role's row of an endpoint is marked in the table that people read.
fn marked(table: &str, method: &str, template: &str, role: usize) -> bool {
    let row = table.lines().find(|line| line.starts_with(&format!("| {method} {template} |"))).unwrap();
    row.split('|').nth(4 + role).unwrap().contains('●')
}

#[tokio::test]
async fn each_role_gets_in_where_the_table_says_and_nowhere_else() {
    let world = World::new().await;
    let table = roles_table();
    let (mut let_in, mut refused) = (0, 0);
    for (place, role) in ROLES.iter().enumerate() {
        // An owner of the operator's organization, where the first token lives, also has the installation: a token with
        // the role has the role alone.
        let token = token(&world, role).await;
        for (method, template, path) in operations() {
            let reply = world.send(stranger(), with(&method, &path, &token, &json!({}))).await;
            let expected = marked(&table, &method, &template, place) || template == "/me";
            let status = reply.status.as_u16();
            assert_ne!(status, 401, "{role}: {method} {template}");
            assert!(status < 500, "{role}: {method} {template}: {}", reply.text);
            assert_eq!(status != 403, expected, "{role}: {method} {template}: {status} {}", reply.text);
            if expected { let_in += 1 } else { refused += 1 }
        }
    }
    assert!(let_in > 150 && refused > 100, "{let_in} {refused}");
}

/// What an operation answers to an owner of another organization who knows this one's ids.
fn expected_of_a_foreigner(method: &str, template: &str, by_table: bool) -> &'static [u16] {
    let names_one_in_the_body = [
        "/resources",
        "/policies",
        "/policies/preview",
        "/enrolment-keys",
        "/strikes",
        "/restores",
        "/invitations",
        "/ended-web-sessions",
    ];
    match (method, template) {
        // PoPs are the installation's: everybody's packets go through them.
        ("GET", "/pops/{id}") => &[200],
        _ if !by_table => &[403],
        // A name is each organization's own: theirs is made, ours stays.
        (_, "/oidc-providers/{id}") => &[200, 204, 404],
        _ if template.contains("{id}") => &[404],
        ("POST", _) if names_one_in_the_body.contains(&template) => &[404, 422],
        // Nobody there has such a name.
        ("GET", "/access/explanation") => &[404],
        _ => &[200, 201, 204, 422],
    }
}

#[tokio::test]
async fn a_member_of_another_organization_finds_nothing_of_this_one_by_any_operation() {
    let world = World::new().await;
    let inventory = Inventory::make(&world).await;
    let other = world.post("/organizations", json!({"name": "other"})).await.made();
    let other = other["id"].as_str().unwrap().to_owned();
    let made = request(
        "POST",
        "/tokens",
        &[("tidegate-organization", &other)],
        &json!({"name": "t", "role": "owner"}),
    );
    let token = world.send(LOCAL, made).await.made()["token"].as_str().unwrap().to_owned();
    let everything = async || {
        let mut all = Vec::new();
        for (collection, id) in inventory.ids() {
            all.push(world.get(&format!("/{collection}/{id}")).await.ok());
        }
        all.push(world.get("/settings").await.ok()["audit_retention_days"].clone());
        all.push(world.get("/strikes").await.ok());
        all
    };
    let before = everything().await;
    let table = roles_table();
    let explanation = format!("?who={}&to={}", inventory.id("users"), inventory.id("resources"));
    for (method, template, _) in operations() {
        let by_table = marked(&table, &method, &template, 0) || template == "/me";
        let (path, body) = (inventory.filled(&template), inventory.body(&method, &template));
        let query = if template == "/access/explanation" { &explanation } else { "" };
        let asked = with(&method, &format!("/api/v1{path}{query}"), &token, &body);
        let reply = world.send(stranger(), asked).await;
        let expected = expected_of_a_foreigner(&method, &template, by_table);
        let status = reply.status.as_u16();
        assert!(expected.contains(&status), "{method} {template}: {status} {}", reply.text);
        if status == 200 && !template.starts_with("/pops") {
            for (collection, id) in inventory.ids().filter(|(of, _)| !["pops", "oidc-providers"].contains(of))
            {
                assert!(
                    !reply.text.contains(id),
                    "{method} {template} has one of {collection}: {}",
                    reply.text
                );
            }
        }
        // The same by way of a bulk, where each operation is asked for by itself.
        if method != "GET" && template.contains("{id}") {
            let mut operation = json!({"method": method, "path": path});
            if !body.is_null() {
                operation["body"] = body;
            }
            let bulk = json!({"operations": [operation]});
            let reply = world.send(stranger(), with("POST", "/api/v1/bulk", &token, &bulk)).await;
            assert!(matches!(reply.status.as_u16(), 403 | 404 | 422), "{method} {template}: {}", reply.text);
        }
    }
    let installation = with("GET", "/api/v1/audit/export?installation=true", &token, &json!(null));
    world.send(stranger(), installation).await.problem(403);
    assert_eq!(everything().await, before, "nothing of this one was changed");
}

#[tokio::test]
async fn nobody_gives_more_than_they_have_nor_changes_who_may_do_more() {
    let world = World::new().await;
    let owner = json!({"name": "Olga", "email": "olga@example.com", "role": "owner"});
    let owner = world.post("/users", owner).await.made()["id"].as_str().unwrap().to_owned();
    let ada = json!({"name": "Ada", "email": "ada@example.com"});
    let ada = world.post("/users", ada).await.made();
    assert_eq!(ada["role"], "member");
    let ada = ada["id"].as_str().unwrap().to_owned();
    let admin = token(&world, "admin").await;
    let ask = |method: &'static str, path: String, body: Value| {
        let (world, admin) = (&world, admin.clone());
        async move { world.send(stranger(), with(method, &format!("/api/v1{path}"), &admin, &body)).await }
    };
    for (method, path, body) in [
        ("PUT", format!("/users/{ada}/role"), json!({"role": "owner"})),
        ("PATCH", format!("/users/{ada}"), json!({"role": "owner"})),
        ("POST", "/users".into(), json!({"name": "x", "email": "x@example.com", "role": "owner"})),
        ("PUT", format!("/users/{owner}/role"), json!({"role": "member"})),
        ("PUT", format!("/users/{owner}"), json!({"name": "x", "email": "x@example.com"})),
        ("DELETE", format!("/users/{owner}"), json!({})),
        ("POST", "/strikes".into(), json!({"subject": owner})),
        ("POST", "/restores".into(), json!({"subject": owner})),
        ("POST", "/tokens".into(), json!({"name": "x", "role": "owner"})),
        ("POST", "/tokens".into(), json!({"name": "x", "scopes": ["installation"]})),
        (
            "POST",
            "/bulk".into(),
            json!({"operations": [{"method": "DELETE", "path": format!("/users/{owner}")}]}),
        ),
    ] {
        let problem = ask(method, path.clone(), body).await.problem(403);
        assert!(problem["rule"].is_string(), "{method} {path}: {problem}");
    }
    let given = ask("PUT", format!("/users/{ada}/role"), json!({"role": "admin"})).await.ok();
    assert_eq!(given["role"], "admin");
    assert_eq!(world.get(&format!("/users/{owner}")).await.ok()["struck"], false);
    let me = ask("GET", "/me".into(), json!({})).await.ok();
    assert_eq!(
        (&me["role"], me["permissions"].as_array().unwrap().len()),
        (&json!("admin"), Permission::ALL.len() - 2)
    );
    let roles = world.get("/roles").await.ok();
    assert_eq!(roles["items"][1]["people"], 1);
}

#[tokio::test]
async fn the_last_owner_stays_one_except_at_the_machine_itself() {
    let world = World::new().await;
    let mut owners = Vec::new();
    for name in ["Olga", "Omar"] {
        let person = json!({"name": name, "email": format!("{name}@example.com"), "role": "owner"});
        owners.push(world.post("/users", person).await.made()["id"].as_str().unwrap().to_owned());
    }
    let [olga, omar] = [&owners[0], &owners[1]];
    let token = token(&world, "owner").await;
    let ask = |method: &'static str, path: String, body: Value| {
        let (world, token) = (&world, token.clone());
        async move { world.send(stranger(), with(method, &format!("/api/v1{path}"), &token, &body)).await }
    };
    // All of them in one bulk: the second operation would leave nobody, and the first is undone with it.
    let remove = |id: &str| json!({"method": "DELETE", "path": format!("/users/{id}")});
    let both = json!({"operations": [remove(olga), remove(omar)]});
    let problem = ask("POST", "/bulk".into(), both).await.problem(409);
    assert_eq!(problem["type"], "/problems/last-owner", "{problem}");
    assert_eq!(world.get(&format!("/users/{olga}")).await.ok()["struck"], false);
    // Who became an owner by the same bulk counts, and may not go by it when no other is left.
    let bob = json!({"name": "Bob", "email": "bob@example.com"});
    let bob = world.post("/users", bob).await.made()["id"].as_str().unwrap().to_owned();
    let give = |id: &str, role: &str| json!({"method": "PUT", "path": format!("/users/{id}/role"), "body": {"role": role}});
    let around = [give(&bob, "owner"), give(olga, "admin"), give(omar, "admin"), remove(&bob)];
    let problem = ask("POST", "/bulk".into(), json!({"operations": around})).await.problem(409);
    assert_eq!(problem["field"], "operations[3].role", "{problem}");
    let handed_on =
        json!({"operations": [give(&bob, "owner"), give(omar, "admin"), remove(olga)], "dry_run": true});
    ask("POST", "/bulk".into(), handed_on).await.ok();
    // Whose access was revoked is no owner to count on.
    ask("POST", "/strikes".into(), json!({"subject": omar})).await.made();
    let all = [
        ("PUT", format!("/users/{olga}/role"), json!({"role": "admin"})),
        ("PATCH", format!("/users/{olga}"), json!({"role": "member"})),
        ("PUT", format!("/users/{olga}"), json!({"name": "O", "email": "o@example.com", "role": "auditor"})),
        ("DELETE", format!("/users/{olga}"), json!({})),
        ("POST", "/bulk".into(), json!({"operations": [remove(olga)]})),
    ];
    for (method, path, body) in &all {
        let problem = ask(method, path.clone(), body.clone()).await.problem(409);
        assert_eq!(problem["type"], "/problems/last-owner", "{method} {path}: {problem}");
    }
    let held = world.get(&format!("/users/{olga}")).await.ok();
    assert_eq!((&held["role"], &held["struck"]), (&json!("owner"), &json!(false)));
    // With another one, the first may go.
    ask("POST", "/restores".into(), json!({"subject": omar})).await.made();
    ask("PUT", format!("/users/{olga}/role"), json!({"role": "admin"})).await.ok();
    ask("PUT", format!("/users/{omar}/role"), json!({"role": "admin"})).await.problem(409);
    let place = format!("/users/{omar}/role");
    let set = world.call(http::Method::PUT, &place, Some(json!({"role": "admin"}))).await;
    assert_eq!(set.ok()["role"], "admin", "at the machine itself another owner can be made as well");
}

#[tokio::test]
async fn a_role_that_was_taken_away_ends_with_the_change() {
    use crate::api::{Caller, Origin};
    let world = World::new().await;
    let f = world.furnish().await;
    world
        .call(http::Method::PUT, &format!("/users/{}/role", f.user), Some(json!({"role": "support"})))
        .await
        .ok();
    let core = &world.controller.core;
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let user = f.user.parse().unwrap();
    let caller = || {
        let origin = Origin::of(Some(&Peer::Network([192, 0, 2, 1].into())), &http::HeaderMap::new());
        Caller::of_user(core, organization, user, origin)
    };
    assert!(caller().unwrap().may(Permission::Devices));
    world
        .call(http::Method::PUT, &format!("/users/{}/role", f.user), Some(json!({"role": "member"})))
        .await
        .ok();
    assert!(!caller().unwrap().may(Permission::Devices));
    world.post("/strikes", json!({"subject": f.user})).await.made();
    assert_eq!(caller().unwrap_err().status, 401);
}
