//! Changes: versions, keys, many at once, what the audit log has of them, and bad input.

use super::{LOCAL, World};
use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

fn change(method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Request<Body> {
    let builder = Request::builder()
        .method(method)
        .uri(format!("/api/v1{path}"))
        .header(header::CONTENT_TYPE, "application/json");
    let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
    builder.body(Body::from(body.to_string())).unwrap()
}

#[tokio::test]
async fn of_two_edits_at_once_the_second_is_told_both_versions() {
    let world = World::new().await;
    let f = world.furnish().await;
    let path = format!("/sites/{}", f.site);
    let tag = world.get(&path).await.headers[header::ETAG].to_str().unwrap().to_owned();
    let put = async |name: &str, tag: &str| {
        world.send(LOCAL, change("PUT", &path, &[("if-match", tag)], &json!({"name": name}))).await
    };
    let first = put("first", &tag).await;
    let new = first.headers[header::ETAG].to_str().unwrap().to_owned();
    assert_eq!(first.ok()["name"], "first");
    let problem = put("second", &tag).await.problem(412);
    let versions = &problem["versions"];
    assert_eq!(
        (&versions["current"]["name"], &versions["sent"]["name"]),
        (&json!("first"), &json!("second"))
    );
    assert_eq!(versions["current_etag"], new);
    assert_eq!(put("second", &new).await.ok()["name"], "second");
    assert_eq!(put("third", "*").await.ok()["name"], "third");
    put("fourth", "nonsense").await.problem(400);
    let gone = change("DELETE", &format!("/users/{}", f.user), &[("if-match", "\"x\"")], &json!({}));
    world.send(LOCAL, gone).await.problem(412);
    assert_eq!(world.get(&format!("/users/{}", f.user)).await.ok()["struck"], false, "nothing was struck");
}

#[tokio::test]
async fn of_many_edits_at_once_with_the_same_version_one_is_made() {
    let world = World::new().await;
    let f = world.furnish().await;
    let path = format!("/groups/{}", f.group);
    let tag = world.get(&path).await.headers[header::ETAG].to_str().unwrap().to_owned();
    let mut made = 0;
    let edits = (0..6).map(|number| {
        let body = json!({"name": format!("name {number}")});
        world.send(LOCAL, change("PUT", &path, &[("if-match", &tag)], &body))
    });
    for reply in futures_util::future::join_all(edits).await {
        match reply.status.as_u16() {
            200 => made += 1,
            412 => {}
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn the_same_request_with_the_same_key_is_made_once_and_answered_the_same() {
    let world = World::new().await;
    let key = [("idempotency-key", "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"")];
    let token = json!({"name": "deploy", "scopes": ["read"]});
    let first = world.send(LOCAL, change("POST", "/tokens", &key, &token)).await.made();
    let again = world.send(LOCAL, change("POST", "/tokens", &key, &token)).await.made();
    assert_eq!(first, again);
    assert_eq!(world.get("/tokens").await.ok()["items"].as_array().unwrap().len(), 1);
    let other = json!({"name": "deploy", "scopes": ["write"]});
    let problem = world.send(LOCAL, change("POST", "/tokens", &key, &other)).await.problem(422);
    assert_eq!(
        (&problem["field"], &problem["type"]),
        (&json!("idempotency-key"), &json!("/problems/key-reused"))
    );
    world.send(LOCAL, change("POST", "/sites", &key, &json!({"name": "a"}))).await.problem(422);
    // A restart forgets nothing: the answer is in the database, sealed.
    let world = world.restarted().await;
    assert_eq!(world.send(LOCAL, change("POST", "/tokens", &key, &token)).await.made(), first);
    let database = std::fs::read(world.state().join("tidegate.db")).unwrap();
    let secret = first["token"].as_str().unwrap().rsplit('.').next().unwrap();
    assert!(!database.windows(secret.len()).any(|window| window == secret.as_bytes()));
    // A removal that is asked again has its first answer.
    let id = world.post("/users", json!({"name": "A", "email": "a@example.com"})).await.made()["id"].clone();
    let path = format!("/users/{}", id.as_str().unwrap());
    let key = [("idempotency-key", "gone")];
    let first = world.send(LOCAL, change("DELETE", &path, &key, &json!({}))).await.ok();
    assert_eq!(world.send(LOCAL, change("DELETE", &path, &key, &json!({}))).await.ok(), first);
    world.delete(&path).await.problem(404);
    world.send(LOCAL, change("POST", "/sites", &[("idempotency-key", "")], &json!({}))).await.problem(400);
}

#[tokio::test]
async fn a_bulk_is_made_all_or_not_at_all_and_names_stand_for_ids() {
    let world = World::new().await;
    let operations = json!([
        {"method": "POST", "path": "/sites", "as": "s", "body": {"name": "hamburg"}},
        {"method": "POST", "path": "/resources", "as": "r", "body": {"name": "db", "site": "@s", "address": "10.0.0.1", "ports": ["5432"]}},
        {"method": "POST", "path": "/users", "as": "u", "body": {"name": "Ada", "email": "ada@example.com"}},
        {"method": "POST", "path": "/groups", "as": "g", "body": {"name": "eng"}},
        {"method": "PUT", "path": "/groups/@g/members/@u"},
        {"method": "POST", "path": "/policies", "body": {"name": "p", "groups": ["@g"], "resources": ["@r"]}},
    ]);
    let dry = world.post("/bulk", json!({"operations": operations, "dry_run": true})).await.ok();
    assert_eq!((dry["results"].as_array().unwrap().len(), &dry["dry_run"]), (6, &json!(true)));
    assert_eq!(world.get("/sites").await.ok()["items"], json!([]));
    let made = world.post("/bulk", json!({"operations": operations})).await.ok();
    assert_eq!(made["results"][5]["status"], 201);
    assert_eq!(world.get("/policies").await.ok()["items"][0]["groups"].as_array().unwrap().len(), 1);
    let site = made["results"][0]["body"]["id"].as_str().unwrap();
    // The last one fails: the first is not made either.
    let operations = json!([
        {"method": "PUT", "path": format!("/sites/{site}"), "body": {"name": "renamed"}},
        {"method": "POST", "path": "/groups", "body": {"name": "eng"}},
    ]);
    let problem = world.post("/bulk", json!({"operations": operations})).await.problem(409);
    assert_eq!((&problem["field"], &problem["value"]), (&json!("operations[1].body.name"), &json!("eng")));
    assert_eq!(world.get(&format!("/sites/{site}")).await.ok()["name"], "hamburg");
    for (operation, field) in [
        (json!({"method": "POST", "path": "/nothing"}), "operations[0].path"),
        (json!({"method": "POST", "path": "/sites", "body": {"colour": 1}}), "operations[0].body.colour"),
        (json!({"method": "DELETE", "path": "/sites/@x"}), "operations[0].path"),
        (
            json!({"method": "PUT", "path": format!("/sites/{site}"), "if_match": "x", "body": {"name": "a"}}),
            "operations[0].if_match",
        ),
    ] {
        let problem = world.post("/bulk", json!({"operations": [operation]})).await.problem(422);
        assert_eq!(problem["field"], field, "{problem}");
    }
    assert_eq!(world.post("/bulk", json!({"operations": []})).await.problem(422)["field"], "operations");
    // Removals strike.
    let user = made["results"][2]["body"]["id"].as_str().unwrap();
    let gone = json!({"operations": [{"method": "DELETE", "path": format!("/users/{user}")}]});
    world.post("/bulk", gone).await.ok();
    let strikes = world.get("/strikes").await.ok();
    assert!(strikes["items"].as_array().unwrap().iter().any(|strike| strike["subject"] == user), "{strikes}");
}

/// So many resources of one site, as operations of a bulk.
fn resources(site: &str, numbers: std::ops::Range<usize>) -> Vec<Value> {
    let resource = |number: usize| {
        let address = format!("10.{}.{}.{}", number / 65_536, number / 256 % 256, number % 256);
        let body =
            json!({"name": format!("resource {number}"), "site": site, "address": address, "ports": ["443"]});
        json!({"method": "POST", "path": "/resources", "body": body})
    };
    numbers.map(resource).collect()
}

#[tokio::test]
async fn a_bulk_of_thousands_is_one_change_and_the_one_that_fails_is_named() {
    let world = World::new().await;
    let site =
        world.post("/sites", json!({"name": "hamburg"})).await.made()["id"].as_str().unwrap().to_owned();
    let before = world.version().await;
    let mut operations = resources(&site, 0..2_000);
    operations[1_900]["body"]["name"] = "resource 7".into();
    assert!(
        json!({"operations": operations}).to_string().len() > 256 * 1024,
        "more than other requests may have"
    );
    let problem = world.post("/bulk", json!({"operations": operations})).await.problem(409);
    assert_eq!(problem["field"], "operations[1900].body.name", "{problem}");
    let left = world.get("/resources").await.ok()["items"].clone();
    assert_eq!((left, world.version().await), (json!([]), before));
    let key = [("idempotency-key", "thousands")];
    let body = json!({"operations": resources(&site, 0..2_000)});
    let made = world.send(LOCAL, change("POST", "/bulk", &key, &body)).await.ok();
    assert_eq!(made["results"].as_array().unwrap().len(), 2_000);
    assert_eq!(world.version().await, before + 1);
    let again = world.send(LOCAL, change("POST", "/bulk", &key, &body)).await.ok();
    assert_eq!(again, made);
    let log = world.get("/audit?limit=1000").await.ok();
    let entries = log["items"].as_array().unwrap();
    assert_eq!(entries.len(), 1_000);
    assert!(entries.iter().all(|entry| entry["version"] == entries[0]["version"]), "one version");
    assert_eq!(world.get("/audit/verification").await.ok()["intact"], true);
}

#[tokio::test]
async fn a_bulk_that_is_too_large_is_refused_and_says_what_it_may_have() {
    let world = World::new().await;
    let operation = json!({"method": "DELETE", "path": "/sites/x"});
    let problem = world.post("/bulk", json!({"operations": vec![operation; 10_001]})).await.problem(422);
    assert_eq!((&problem["field"], &problem["value"]), (&json!("operations"), &json!(10_001)));
    let long =
        json!({"operations": [{"method": "POST", "path": "/sites", "body": {"name": "x".repeat(4 << 20)}}]});
    let problem = world.post("/bulk", long.clone()).await.problem(413);
    assert_eq!(problem["rule"], "at most 4194304 bytes", "{problem}");
    // No other request may be that long.
    let problem = world.post("/sites", json!({"name": "x".repeat(256 << 10)})).await.problem(413);
    assert_eq!(problem["rule"], "at most 262144 bytes", "{problem}");
}

#[tokio::test]
async fn a_patch_changes_what_it_names() {
    let world = World::new().await;
    let f = world.furnish().await;
    let patch = async |path: String, body: Value| world.call(Method::PATCH, &path, Some(body)).await;
    let site = patch(format!("/sites/{}", f.site), json!({"regions": ["eu"]})).await.ok();
    assert_eq!((&site["name"], &site["prefixes"]), (&json!("hamburg"), &json!(["10.0.0.0/8"])));
    let resource =
        patch(format!("/resources/{}", f.resource), json!({"alias": "db", "mode": "strict"})).await.ok();
    assert_eq!((&resource["alias"], &resource["ports"]), (&json!("db"), &json!(["5432"])));
    let resource = patch(format!("/resources/{}", f.resource), json!({"alias": null})).await.ok();
    assert!(resource.get("alias").is_none());
    let problem = patch(format!("/sites/{}", f.site), json!({"id": "site-x"})).await.problem(422);
    assert_eq!(problem["field"], "id");
    let settings = world.call(
        Method::PATCH,
        "/settings",
        Some(json!({"audit_retention_days": 90, "approve_devices": true})),
    );
    assert_eq!(settings.await.ok()["audit_retention_days"], 90);
    let problem =
        world.call(Method::PATCH, "/settings", Some(json!({"audit_retention_days": 3}))).await.problem(422);
    assert_eq!(problem["rule"], "7 to 36500");
}

#[tokio::test]
async fn the_audit_log_has_before_and_after_and_no_secret_and_says_when_it_was_altered() {
    let world = World::new().await;
    let f = world.furnish().await;
    let headers = [("x-request-id", "run-7")];
    let renamed = change("PUT", &format!("/sites/{}", f.site), &headers, &json!({"name": "Hamburg"}));
    world.send(LOCAL, renamed).await.ok();
    let token = world.post("/tokens", json!({"name": "t", "scopes": ["read"]})).await.made();
    let secret = token["token"].as_str().unwrap().rsplit('.').next().unwrap().to_owned();
    let key = world.key(json!({"kind": "device", "owner": f.user})).await;
    let audit = world.get("/audit?action=replace%20site").await.ok();
    let entry = &audit["items"][0];
    assert_eq!((&entry["before"]["name"], &entry["after"]["name"]), (&json!("hamburg"), &json!("Hamburg")));
    assert_eq!((&entry["request"], &entry["source"]), (&json!("run-7"), &json!("local")));
    let all = world.get("/audit?limit=1000").await.text;
    assert!(!all.contains(&secret) && !all.contains(key.rsplit('.').next().unwrap()));
    let (mut seen, mut after) = (0, String::new());
    loop {
        let page = world.get(&format!("/audit?limit=4{after}")).await.ok();
        seen += page["items"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen, serde_json::from_str::<Value>(&all).unwrap()["items"].as_array().unwrap().len());
    let export = world.get("/audit/export").await;
    assert_eq!(export.headers[header::CONTENT_TYPE], "application/x-ndjson");
    let lines: Vec<Value> = export.text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines.len() > 5
            && lines.windows(2).all(|two| two[1]["seq"].as_u64() == two[0]["seq"].as_u64().map(|n| n + 1))
    );
    let whole = world.get("/audit/verification").await.ok();
    assert_eq!((&whole["intact"], &whole["chains"][0]["findings"]), (&json!(true), &json!([])), "{whole}");
    assert_eq!(whole["chains"][0]["last"], whole["chains"][0]["remembered"]);

    // Somebody with the database's own tools.
    let database = world.state().join("tidegate.db");
    let alter = |sql: &str| {
        let done = std::process::Command::new("python3")
            .args([
                "-c",
                "import sqlite3,sys; c=sqlite3.connect(sys.argv[1]); c.execute(sys.argv[2]); c.commit()",
            ])
            .arg(&database)
            .arg(sql)
            .status();
        assert!(done.unwrap().success(), "{sql}");
    };
    alter("UPDATE audit SET actor = 'nobody' WHERE action = 'replace site'");
    let altered = world.get("/audit/verification").await.ok();
    assert_eq!(altered["intact"], false);
    assert!(altered.to_string().contains("(replace site) is not as it was written"), "{altered}");
    alter("UPDATE audit SET actor = 'local uid 0' WHERE action = 'replace site'");
    assert_eq!(world.get("/audit/verification").await.ok()["intact"], true);
    // The beginning is cut off, and the database says that it always began there.
    crate::learn_where_audit_begins(&world.controller.core).await;
    alter("CREATE TABLE away AS SELECT * FROM audit WHERE organization IS NOT NULL AND seq < 3");
    alter("CREATE TABLE was AS SELECT * FROM audit_heads");
    alter(
        "UPDATE audit_heads SET first_seq = 3, before_first = (SELECT hash FROM away WHERE seq = 2) WHERE chain IN (SELECT chain FROM audit_heads WHERE chain LIKE '%org-%')",
    );
    alter("DELETE FROM audit WHERE organization IS NOT NULL AND seq < 3");
    let cut = world.get("/audit/verification").await.ok();
    assert!(
        cut["intact"] == false && cut.to_string().contains("entries 1 to 2 are missing at the beginning"),
        "{cut}"
    );
    // With several controllers nobody knows alone where it begins, and nobody says that it does not begin there.
    let core = &world.controller.core;
    let chain = store::Chain::Organization(core.snapshot().dataset.organizations[0].organization.id);
    let verify = async |writers| {
        let store = core.database.store().unwrap();
        core.audit.verify(&store, chain, writers).await.unwrap().broken
    };
    assert_eq!(verify(crate::audit::Writers::Alone).await.len(), 1);
    assert_eq!(verify(crate::audit::Writers::Several).await, [""; 0]);
    assert_eq!(verify(crate::audit::Writers::Alone).await, [""; 0], "nor does it when it is alone again");
    // What is removed by the retention that is set says nothing; and what was cut off stays found.
    alter("INSERT INTO audit SELECT * FROM away");
    alter("DELETE FROM audit_heads");
    alter("INSERT INTO audit_heads SELECT * FROM was");
    assert_eq!(world.get("/audit/verification").await.ok()["intact"], true);
    alter("UPDATE audit SET at_ms = at_ms - 8 * 86400000 WHERE organization IS NOT NULL AND seq < 3");
    world.call(Method::PATCH, "/settings", Some(json!({"audit_retention_days": 7}))).await.ok();
    crate::expire_logs(&world.controller.core).await;
    let kept = world.get("/audit/verification").await.ok();
    assert_eq!((&kept["intact"], &kept["chains"][0]["first"]), (&json!(true), &json!(3)), "{kept}");
    // The end is cut off together with what the database knows of it: the controller remembers.
    alter(
        "DELETE FROM audit WHERE organization IS NOT NULL AND seq = (SELECT MAX(seq) FROM audit WHERE organization IS NOT NULL)",
    );
    alter("UPDATE audit_heads SET seq = seq - 1 WHERE organization IS NOT NULL");
    let cut = world.get("/audit/verification").await.ok();
    assert_eq!(cut["intact"], false, "{cut}");
    assert!(cut.to_string().contains("remembers, is missing"), "{cut}");
}

#[tokio::test]
async fn a_device_that_waits_for_approval_gets_nothing_until_somebody_approves_it() {
    let world = World::new().await;
    let f = world.furnish().await;
    let made = world
        .post("/enrolment-keys", json!({"kind": "device", "owner": f.user, "approval": true}))
        .await
        .made();
    assert_eq!(made["key"]["approval"], true);
    assert_eq!(
        world.post("/enrolment-keys", json!({"kind": "pop", "approval": true})).await.problem(422)["field"],
        "approval"
    );
    world.call(Method::PATCH, "/settings", Some(json!({"approve_devices": true}))).await.ok();
    let made = world.post("/enrolment-keys", json!({"kind": "device", "owner": f.user})).await.made();
    assert_eq!(made["key"]["approval"], true, "as the settings say");
}

#[tokio::test]
async fn hostile_text_in_every_field_is_kept_as_it_is_or_refused_by_its_rule() {
    let world = World::new().await;
    let long = "x".repeat(100_000);
    let texts = [
        ("'; DROP TABLE sites; --", true),
        ("<script>alert(1)</script>", true),
        ("\u{202e}evil\u{202c} שלום مرحبا", true),
        ("👩‍👩‍👧‍👦 Ünïcødé", true),
        ("a\0b", false),
        ("a\u{1b}[31m", false),
        ("  ", false),
        (long.as_str(), false),
    ];
    for (text, fits) in texts {
        for (path, body) in [
            ("/sites", json!({"name": text})),
            ("/groups", json!({"name": text})),
            ("/service-accounts", json!({"name": text})),
            ("/users", json!({"name": text, "email": format!("{}@example.com", text.len())})),
            ("/organizations", json!({"name": text})),
            ("/tokens", json!({"name": text, "scopes": ["read"]})),
        ] {
            let reply = world.post(path, body).await;
            if fits {
                assert_eq!(reply.status, StatusCode::CREATED, "{path} {text:?}: {}", reply.text);
                let made = reply.json();
                let name = made.get("name").or_else(|| made["description"].get("name")).unwrap();
                assert_eq!(name, text);
            } else {
                let problem = reply.problem(422);
                assert_eq!(problem["field"], "name", "{path} {text:?}");
                assert!(problem["value"].as_str().unwrap().len() < 500);
            }
        }
        let query: String =
            text.chars().take(60).collect::<String>().bytes().map(|b| format!("%{b:02X}")).collect();
        assert!(world.get(&format!("/sites?q={query}")).await.status.is_success());
    }
    for body in ["{\"name\":\"\\ud800\"}", "{\"name\": 1e999}", "[]", "nul", "{\"name\":{\"name\":{}}}"] {
        let request = Request::post("/api/v1/sites").header(header::CONTENT_TYPE, "application/json");
        let reply = world.send(LOCAL, request.body(Body::from(body)).unwrap()).await;
        assert!(matches!(reply.status.as_u16(), 400 | 422), "{body}: {}", reply.text);
    }
}
