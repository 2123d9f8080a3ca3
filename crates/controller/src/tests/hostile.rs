//! What people and scripts type into fields: kept as it is, or refused at its field, and never a fault of the controller.

use super::{
    LOCAL, World,
    inventory::{Inventory, request},
};
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Texts, each of which has broken some product.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "'; DROP TABLE sites; --",
        "<script>alert(1)</script>",
        "\"><img/src=x>",
        "\u{202e}evil\u{202c}",
        "שלום",
        "👩‍👩‍👧‍👦",
        "a\0b",
        "a\u{1b}[31m",
        "{{7*7}}${7*7}%s%n",
        "../../etc/passwd",
        "a\r\nset-cookie: x=y",
        "-1",
        "",
        "  ",
    ]
    .map(str::to_owned)
    .into();
    texts.push("x".repeat(100_000));
    texts
}

/// One field of one operation: where it is, and a body that is right but for it.
struct Field {
    method: &'static str,
    path: String,
    /// A JSON pointer (RFC 6901); behind the last `/~key` is a member's name that is the text itself.
    at: &'static str,
    body: Value,
}

/// The name by which a problem tells of a pointer's field.
fn named(at: &str) -> &str {
    at.trim_start_matches('/').split('/').next().unwrap()
}

fn with(body: &Value, at: &str, text: &str) -> Value {
    let mut body = body.clone();
    if let Some(map) = at.strip_suffix("/~key") {
        let map = body.pointer_mut(map).unwrap().as_object_mut().unwrap();
        let value = map.values().next().unwrap().clone();
        *map = [(text.to_owned(), value)].into_iter().collect();
    } else {
        *body.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = text.into();
    }
    body
}

/// Whether a text stands anywhere in an answer, as a value or as a name.
fn has(answer: &Value, text: &str) -> bool {
    match answer {
        Value::String(found) => found.eq_ignore_ascii_case(text),
        Value::Array(all) => all.iter().any(|one| has(one, text)),
        Value::Object(all) => all.iter().any(|(name, one)| name == text || has(one, text)),
        _ => false,
    }
}

fn fields(inventory: &Inventory) -> Vec<Field> {
    let id = |collection: &str| inventory.id(collection).to_owned();
    let of = |collection: &str| format!("/{collection}/{}", inventory.id(collection));
    let mut all = Vec::new();
    let mut add = |method, path: &str, body: Value, fields: &[&'static str]| {
        for at in fields {
            all.push(Field { method, path: path.to_owned(), at, body: body.clone() });
        }
    };
    let site = json!({"name": "s", "prefixes": ["10.0.0.0/8"], "regions": ["eu"]});
    for (method, path) in [("POST", "/sites"), ("PUT", &of("sites")), ("PATCH", &of("sites"))] {
        add(method, path, site.clone(), &["/name", "/prefixes/0", "/regions/0"]);
    }
    let resource = json!({
        "name": "r", "site": id("sites"), "address": "10.0.0.9", "alias": "alias", "ports": ["1"], "mode": "strict",
    });
    let resource_fields = ["/name", "/site", "/address", "/alias", "/ports/0", "/mode"];
    for (method, path) in [("POST", "/resources"), ("PUT", &of("resources")), ("PATCH", &of("resources"))] {
        add(method, path, resource.clone(), &resource_fields);
    }
    let user = json!({"name": "u", "email": "u@example.com", "role": "member"});
    for (method, path) in [("POST", "/users"), ("PUT", &of("users")), ("PATCH", &of("users"))] {
        add(method, path, user.clone(), &["/name", "/email", "/role"]);
    }
    add("PUT", &format!("{}/role", of("users")), json!({"role": "member"}), &["/role"]);
    for collection in ["groups", "service-accounts", "devices", "connectors"] {
        add("PUT", &of(collection), json!({"name": "x"}), &["/name"]);
    }
    for path in ["/groups", "/service-accounts", "/organizations"] {
        add("POST", path, json!({"name": "y"}), &["/name"]);
    }
    add("PATCH", &of("groups"), json!({"name": "x"}), &["/name"]);
    add("PATCH", "/settings", json!({"name": "o"}), &["/name"]);
    let policy = json!({"name": "p", "groups": [id("groups")], "resources": [id("resources")]});
    for (method, path) in [("POST", "/policies"), ("PUT", &of("policies")), ("PATCH", &of("policies"))] {
        add(method, path, policy.clone(), &["/name", "/groups/0", "/resources/0"]);
    }
    let preview = json!({"policy": id("policies"), "groups": [id("groups")], "resources": [id("resources")]});
    add("POST", "/policies/preview", preview, &["/policy", "/groups/0", "/resources/0"]);
    let pop = json!({"address": "pop.example.com:443", "region": "eu", "zone": "a"});
    for method in ["PUT", "PATCH"] {
        add(method, &of("pops"), pop.clone(), &["/address", "/region", "/zone"]);
    }
    let key = json!({"kind": "connector", "name": "k", "site": id("sites")});
    add("POST", "/enrolment-keys", key, &["/kind", "/name", "/site"]);
    let key = json!({"kind": "pop", "name": "k", "region": "eu", "zone": "a"});
    add("POST", "/enrolment-keys", key, &["/region", "/zone"]);
    add("POST", "/enrolment-keys", json!({"kind": "device", "owner": id("users")}), &["/owner"]);
    add("POST", &format!("{}/keys", of("service-accounts")), json!({"name": "k"}), &["/name"]);
    add("POST", "/tokens", json!({"name": "t", "scopes": ["read"]}), &["/name", "/scopes/0"]);
    add("POST", "/tokens", json!({"name": "t", "role": "auditor"}), &["/role"]);
    add("PATCH", &of("organizations"), json!({"name": "o"}), &["/name"]);
    for path in ["/strikes", "/restores"] {
        add("POST", path, json!({"subject": id("devices")}), &["/subject"]);
    }
    for path in ["/invitations", "/ended-web-sessions"] {
        add("POST", path, json!({"user": id("users")}), &["/user"]);
    }
    let provider = json!({
        "title": "t", "issuer": "https://id.example.com", "client_id": "c", "client_secret": "s", "scopes": ["openid"],
        "groups_claim": "groups", "group_map": {"engineers": id("groups")}, "domains": ["example.com"],
        "new_users": "refuse", "ca_pem": "",
    });
    let provider_fields = [
        "/title",
        "/issuer",
        "/client_id",
        "/client_secret",
        "/scopes/0",
        "/groups_claim",
        "/group_map/engineers",
        "/group_map/~key",
        "/domains/0",
        "/new_users",
        "/ca_pem",
    ];
    add("PUT", &of("oidc-providers"), provider, &provider_fields);
    add("PUT", "/rotation-key", json!({"statement": "s"}), &["/statement"]);
    add("PUT", "/rotation-key", json!({"statement": "s", "without": ["c"]}), &["/without/0"]);
    let operation =
        json!({"method": "POST", "path": "/groups", "body": {"name": "z"}, "as": "z", "if_match": "*"});
    let operation_fields =
        ["/operations/0/method", "/operations/0/path", "/operations/0/as", "/operations/0/if_match"];
    add("POST", "/bulk", json!({"operations": [operation], "dry_run": true}), &operation_fields);
    // What is made keeps its name: whatever is renamed is tried before.
    all.sort_by_key(|field| field.method == "POST");
    all
}

#[tokio::test]
async fn hostile_text_in_every_field_of_every_body_is_kept_as_it_is_or_refused_at_that_field() {
    let world = World::new().await;
    let inventory = Inventory::make(&world).await;
    world.post("/rotation-key-offers", json!({})).await.made();
    let (mut kept, mut refused) = (0, 0);
    for Field { method, path, at, body } in fields(&inventory) {
        let field = named(at);
        for (number, text) in texts().into_iter().enumerate() {
            let before = body.clone();
            let mut body = body.clone();
            // What is unique already would be in the way of what is asked here.
            if at != "/name" && method == "POST" && body.get("name").is_some() {
                body["name"] = format!("{field} {number} {}", path.trim_matches('/')).into();
            }
            if at != "/email" && method == "POST" && body.get("email").is_some() {
                body["email"] = format!("{field}{number}@example.com").into();
            }
            if at != "/alias" && body.get("alias").is_some() {
                body.as_object_mut().unwrap().remove("alias");
            }
            let sent = with(&body, at, &text);
            let reply = world.send(LOCAL, request(method, &path, &[], &sent)).await;
            let shown: String = text.chars().take(40).collect();
            let context = format!("{method} {path} {at} {shown:?}: {}", reply.text);
            if matches!(reply.status, StatusCode::OK | StatusCode::CREATED) {
                kept += 1;
                // A secret is written and never read, and a name within a bulk is forgotten with it; nothing at all is what
                // was not given.
                let is_unsaid = matches!(at, "/client_secret" | "/operations/0/as");
                assert!(text.is_empty() || has(&reply.json(), &text) != is_unsaid, "{context}");
                if method != "POST" {
                    // No other object is to be in the way of the next.
                    world.send(LOCAL, request(method, &path, &[], &before)).await.ok();
                }
            } else {
                refused += 1;
                // What the root key is to have signed is held against the key that waits for it.
                let is_signed = at == "/statement" && reply.status == 409;
                let problem = reply.problem(if is_signed { 409 } else { 422 });
                let told = problem["field"].as_str().unwrap_or_default();
                assert!(
                    told == field
                        || told.starts_with(&format!("{field}["))
                        || told.starts_with(&format!("{field}.")),
                    "{context}"
                );
                assert!(problem["rule"].as_str().is_some_and(|rule| !rule.is_empty()), "{context}");
                assert!(problem.get("value").is_some(), "{context}");
                assert!(problem.to_string().len() < 2_000, "{context}");
            }
        }
    }
    assert!(kept > 100 && refused > 500, "{kept} {refused}");
    assert_eq!(world.get("/audit/verification").await.ok()["intact"], true);
}

/// The places of texts in what a schema describes, as JSON pointers: `0` is an element, `*` a member of any name, and
/// `~key` that name.
fn places(schema: &Value, document: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = document.pointer(reference.trim_start_matches('#')).unwrap();
        return places(schema, document, at, found);
    }
    for choice in ["oneOf", "anyOf", "allOf"] {
        for schema in schema[choice].as_array().into_iter().flatten() {
            places(schema, document, at, found);
        }
    }
    let kind = &schema["type"];
    if kind == "string" || kind.as_array().is_some_and(|all| all.contains(&json!("string"))) {
        found.insert(at.to_owned());
    }
    if schema["items"].is_object() {
        places(&schema["items"], document, &format!("{at}/0"), found);
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        places(schema, document, &format!("{at}/{name}"), found);
    }
    if schema["additionalProperties"].is_object() {
        found.insert(format!("{at}/~key"));
        places(&schema["additionalProperties"], document, &format!("{at}/*"), found);
    }
}

/// Whether each segment is the other's, or stands for any.
fn fits(path: &str, template: &str) -> bool {
    let (path, template): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
    let any = |segment: &str| segment == "*" || segment.starts_with('{');
    path.len() == template.len()
        && path.iter().zip(template).all(|(own, other)| *own == other || (any(other) && *own != "~key"))
}

#[tokio::test]
async fn every_text_of_every_body_of_the_document_is_tried() {
    let world = World::new().await;
    let tried = fields(&Inventory::make(&world).await);
    let document: Value = serde_json::from_str(&crate::openapi_json()).unwrap();
    let (mut missing, mut count) = (Vec::new(), 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let (method, path) = (method.to_uppercase(), path.strip_prefix("/api/v1").unwrap());
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let mut found = BTreeSet::new();
            places(schema, &document, "", &mut found);
            count += found.len();
            let is_tried = |at: &str| {
                tried.iter().any(|one| one.method == method && fits(&one.path, path) && fits(one.at, at))
            };
            missing.extend(found.iter().filter(|at| !is_tried(at)).map(|at| format!("{method} {path} {at}")));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(count > 80, "{count}");
}

#[tokio::test]
async fn hostile_text_in_every_query_is_answered_or_refused() {
    let world = World::new().await;
    Inventory::make(&world).await;
    let document: Value = serde_json::from_str(&crate::openapi_json()).unwrap();
    let texts: Vec<String> = texts()
        .iter()
        .map(|text| text.chars().take(300).collect::<String>())
        .map(|text| text.bytes().map(|byte| format!("%{byte:02X}")).collect())
        .collect();
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let Some(parameters) = item["get"]["parameters"].as_array() else { continue };
        if path.contains('{') {
            continue;
        }
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let path = path.strip_prefix("/api/v1").unwrap();
            for text in &texts {
                let reply = world.get(&format!("{path}?{name}={text}")).await;
                let status = reply.status.as_u16();
                assert!(matches!(status, 200 | 400 | 404), "{path}?{name}={text}: {status} {}", reply.text);
                asked += 1;
            }
        }
    }
    assert!(asked > 500, "{asked}");
}
