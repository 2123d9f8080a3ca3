//! Lists: filters, sorting, cursors and entity tags.

use super::{LOCAL, World};
use axum::body::Body;
use http::{Request, StatusCode, header};
use serde_json::{Value, json};

fn names(page: &Value) -> Vec<String> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_list_is_narrowed_searched_and_sorted() {
    let world = World::new().await;
    let f = world.furnish().await;
    let other =
        world.post("/sites", json!({"name": "Bremen"})).await.made()["id"].as_str().unwrap().to_owned();
    for (name, site, address) in
        [("Wiki", &f.site, "wiki.corp.example"), ("beta", &other, "10.9.0.1"), ("Alpha", &other, "10.9.0.2")]
    {
        let body = json!({"name": name, "site": site, "address": address, "ports": ["443"]});
        world.post("/resources", body).await.made();
    }
    let list = async |query: &str| names(&world.get(&format!("/resources?{query}")).await.ok());
    assert_eq!(list("sort=name").await, ["Alpha", "beta", "orders", "Wiki"]);
    assert_eq!(list("sort=-name&limit=2").await, ["Wiki", "orders"]);
    assert_eq!(list(&format!("site={other}&sort=name")).await, ["Alpha", "beta"]);
    assert_eq!(list("q=CORP.EX").await, ["Wiki"]);
    assert_eq!(list(&format!("group={}", f.group)).await, ["orders"]);
    assert_eq!(list("name=beta").await, ["beta"]);
    assert_eq!(list("mode=strict").await, Vec::<String>::new());
    let users = world.get(&format!("/users?group={}&role=member", f.group)).await.ok();
    assert_eq!(names(&users), ["Ada"]);
    let problem = world.get("/resources?mode=lax").await.problem(400);
    assert_eq!((&problem["field"], &problem["rule"]), (&json!("mode"), &json!("one of: standard, strict")));
    let problem = world.get("/resources?sort=colour").await.problem(400);
    assert!(problem["rule"].as_str().unwrap().contains("-name"), "{problem}");
}

#[tokio::test]
async fn pages_in_any_order_follow_each_other_while_objects_come_and_go() {
    let world = World::new().await;
    for index in 0..9 {
        world.post("/groups", json!({"name": format!("g{}", (index * 4) % 9)})).await.made();
    }
    for sort in ["name", "-name", "id", "-id", "created"] {
        let (mut seen, mut after, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let page = world.get(&format!("/groups?limit=4&sort={sort}{after}")).await.ok();
            seen.extend(names(&page));
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
            if pages == 1 && sort == "name" {
                // What comes before the cursor moves nothing behind it.
                world.post("/groups", json!({"name": "a first one"})).await.made();
            }
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), seen.len(), "{sort}: {seen:?}");
        assert!(seen.len() >= 9 && pages == 3, "{sort}: {seen:?}");
        if sort == "-name" {
            assert!(seen.windows(2).all(|two| two[0] > two[1]), "{seen:?}");
        }
    }
    let page = world.get("/groups?limit=1&sort=name").await.ok();
    let next = page["next"].as_str().unwrap();
    let problem = world.get(&format!("/groups?limit=1&sort=-name&after={next}")).await.problem(400);
    assert_eq!(problem["field"], "after");
    assert_eq!(world.get("/groups?after=%00%01").await.problem(400)["field"], "after");
}

#[tokio::test]
async fn who_already_has_it_gets_304_until_it_changes() {
    let world = World::new().await;
    let f = world.furnish().await;
    let ask = async |path: &str, tag: &str| {
        let request = Request::get(format!("/api/v1{path}")).header(header::IF_NONE_MATCH, tag);
        world.send(LOCAL, request.body(Body::empty()).unwrap()).await
    };
    for path in [format!("/sites/{}", f.site), "/sites".to_owned(), "/settings".to_owned()] {
        let first = world.get(&path).await;
        let tag = first.headers[header::ETAG].to_str().unwrap().to_owned();
        let again = ask(&path, &tag).await;
        assert_eq!((again.status, again.text.as_str()), (StatusCode::NOT_MODIFIED, ""), "{path}");
        assert_eq!(ask(&path, &format!("\"x\", W/{tag}")).await.status, StatusCode::NOT_MODIFIED);
        assert_eq!(ask(&path, "\"other\"").await.status, StatusCode::OK);
    }
    let tag = world.get("/sites").await.headers[header::ETAG].to_str().unwrap().to_owned();
    world.post("/sites", json!({"name": "another"})).await.made();
    assert_eq!(ask("/sites", &tag).await.status, StatusCode::OK);
}

#[tokio::test]
async fn callers_are_told_how_often_they_may_ask() {
    let world = World::new().await;
    let made = world.post("/tokens", json!({"name": "t", "scopes": ["read"]})).await.made();
    let token = made["token"].as_str().unwrap();
    let request = Request::get("/api/v1/sites").header(header::AUTHORIZATION, format!("Bearer {token}"));
    let reply = world.send(super::stranger(), request.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.headers["ratelimit-policy"], "\"reads\";q=120000;w=60");
    assert!(reply.headers["ratelimit"].to_str().unwrap().starts_with("\"reads\";r=119999;t="));
    assert!(world.get("/sites").await.headers.get("ratelimit").is_none(), "the local socket is not counted");
    assert!(reply.headers["x-request-id"].len() >= 8);
}

#[tokio::test]
async fn who_asks_for_too_many_changes_is_told_when_to_come_back_and_reads_on_also_where_each_was_refused() {
    let world = World::new().await;
    let made = world.post("/tokens", json!({"name": "t", "scopes": ["read"]})).await.made();
    let token = made["token"].as_str().unwrap();
    let ask = async |method: &str| {
        let request = Request::builder().method(method).uri("/api/v1/sites");
        let request = request
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json");
        world.send(super::stranger(), request.body(Body::from("{}")).unwrap()).await
    };
    let first = ask("POST").await;
    assert_eq!(first.status, StatusCode::FORBIDDEN);
    assert_eq!(first.headers["ratelimit-policy"], "\"changes\";q=6000;w=60");
    assert!(first.headers["ratelimit"].to_str().unwrap().starts_with("\"changes\";r=5999;t="));
    // The window may end once meanwhile.
    let (mut asked, mut refused) = (1, ask("POST").await);
    while refused.status == StatusCode::FORBIDDEN && asked < 12_000 {
        (asked, refused) = (asked + 1, ask("POST").await);
    }
    assert!(asked >= 6_000, "{asked}");
    let problem = refused.problem(429);
    assert_eq!(problem["rule"], "at most 6000 changes in 60 s from one caller", "{problem}");
    let left = refused.headers["ratelimit"].to_str().unwrap().strip_prefix("\"changes\";r=0;t=").unwrap();
    let wait: u64 = refused.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert_eq!(wait, left.parse::<u64>().unwrap() + 1);
    assert_eq!(ask("GET").await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_reference_is_a_page_without_script() {
    let world = World::new().await;
    let reply = world.send(super::stranger(), Request::get("/api/").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let policy = reply.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(reply.text.contains("/api/v1/bulk") && !reply.text.contains("<script"));
}
