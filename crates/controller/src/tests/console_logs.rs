//! The logs in the console, however long they are and however much of them is of one instant.

use super::{
    LOCAL, Reply, World,
    console::{form_token, get, owner, submit},
};
use axum::body::Body;
use http::{Method, Request, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use trust::UnixMs;
use wire::ConnectorId;

/// Where a page's link to older entries leads.
fn older(page: &Reply) -> Option<String> {
    let link =
        page.text.split("<a ").find(|link| link.contains("rel=\"next\"") && link.contains(">Older<"))?;
    let target = link.split_once("href=\"")?.1.split('"').next()?;
    Some(target.replace("&amp;", "&"))
}

/// Every page from this one on, by its links.
async fn pages(world: &World, path: &str, session: &str) -> Vec<Reply> {
    let mut all = vec![get(world, path, session).await];
    while let Some(next) = older(all.last().unwrap()) {
        let page = get(world, &next, session).await;
        assert_eq!(page.status, 200, "{next}: {}", page.text);
        all.push(page);
        assert!(all.len() < 100, "the pages have no end");
    }
    all
}

#[tokio::test]
async fn changes_of_one_instant_are_all_in_the_audit_log_page_by_page() {
    const MANY: usize = 650;
    let world = World::new().await;
    let session = owner(&world).await;
    let operations: Vec<Value> = (0..MANY)
        .map(|number| json!({"method": "POST", "path": "/groups", "body": {"name": format!("group-{number:04}.")}}))
        .collect();
    world.post("/bulk", json!({"operations": operations})).await.ok();
    let pages = pages(&world, "/audit?action=create+group", &session).await;
    assert_eq!(pages.len(), 4, "200 a page");
    let mut found = BTreeSet::new();
    for page in &pages {
        let names = page.text.split("group-").skip(1).filter_map(|rest| rest.get(..4)?.parse::<usize>().ok());
        found.extend(names);
        assert!(page.text.contains("value=\"create group\""), "the question stays");
    }
    assert_eq!(found.len(), MANY);
    assert!(pages[3].text.contains(">Newest<") && !pages[0].text.contains(">Newest<"));
}

#[tokio::test]
async fn the_audit_log_is_searched_as_a_whole_by_who_what_and_the_name_of_what_it_is_about() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let operations: Vec<Value> = (0..250)
        .map(|number| json!({"method": "POST", "path": "/groups", "body": {"name": format!("later {number}")}}))
        .collect();
    world.post("/bulk", json!({"operations": operations})).await.ok();
    // Older than a page of what came after it.
    let about = get(&world, "/audit?subject=Orders", &session).await;
    assert!(about.text.contains("create resource") && about.text.contains(&f.resource), "{}", about.text);
    assert!(!about.text.contains("later 1"));
    let what = get(&world, "/audit?action=create+site", &session).await;
    assert!(what.text.contains(&f.site) && !what.text.contains("later 1"), "{}", what.text);
    let who = get(&world, "/audit?actor=ONE-TIME", &session).await;
    assert!(who.text.contains("create owner") && !who.text.contains("later 1"), "{}", who.text);
    let nothing = get(&world, "/audit?subject=nothing+of+the+kind", &session).await;
    assert!(nothing.text.contains("Nothing fits"), "{}", nothing.text);
}

#[tokio::test]
async fn each_change_shows_the_id_of_the_request_that_made_it() {
    let world = World::new().await;
    let session = owner(&world).await;
    let request = Request::post("/api/v1/groups")
        .header(header::CONTENT_TYPE, "application/json")
        .header("x-request-id", "deploy-4711")
        .body(Body::from(json!({"name": "by a script"}).to_string()))
        .unwrap();
    world.send(LOCAL, request).await.made();
    let token = form_token(&get(&world, "/groups/new", &session).await);
    let fields = [("form_token", token.as_str()), ("name", "by hand")];
    assert_eq!(submit(&world, "/groups/new", &session, &fields).await.status, 303);
    let shown = get(&world, "/audit?action=create+group", &session).await;
    assert!(shown.text.contains("request <code><bdi>deploy-4711</bdi></code>"), "{}", shown.text);
    let all = world.get("/audit?action=create%20group").await.ok();
    let by_hand =
        all["items"].as_array().unwrap().iter().find(|one| one["after"]["name"] == "by hand").unwrap();
    let id = by_hand["request"].as_str().unwrap();
    assert!(!id.is_empty() && shown.text.contains(id), "{id}: {}", shown.text);
}

/// Flow records that ended at one instant.
fn shipped(world: &World, batch: u64, from: usize, to: usize) {
    let core = &world.controller.core;
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let lines: String = (from..to)
        .map(|number| {
            let record = json!({
                "device": "dev-x", "device_name": format!("laptop-{number:04}."), "owner_name": "Ada",
                "protocol": "tcp", "destination": "10.1.2.3:443", "verdict": if number % 10 == 0 { "denied" } else { "allowed" },
                "explanation": "", "bytes_up": 1, "bytes_down": 1, "ended": 1_000_000 + u64::from(number >= 900),
            });
            format!("{record}\n")
        })
        .collect();
    let connector = ConnectorId::from_bytes([7; 16]);
    core.flows.take(organization, connector, batch, lines.as_bytes(), UnixMs::from_millis(5)).unwrap();
}

#[tokio::test]
async fn flow_records_that_are_kept_no_longer_are_shown_to_nobody_whatever_file_they_stand_in() {
    let world = World::new().await;
    let session = owner(&world).await;
    shipped(&world, 1, 0, 20);
    let count = async || world.get("/flows").await.ok()["items"].as_array().unwrap().len();
    assert_eq!(count().await, 20);
    world.call(Method::PATCH, "/settings", Some(json!({"flow_retention_days": 1}))).await.ok();
    assert_eq!(count().await, 0);
    assert!(!get(&world, "/flows", &session).await.text.contains("laptop-0001"));
    assert!(!world.get("/flows/export").await.text.contains("laptop-0001"));
}

#[tokio::test]
async fn flows_beyond_a_thousand_are_reached_by_the_apis_cursor_and_by_the_consoles_links() {
    const MANY: usize = 1250;
    let world = World::new().await;
    let session = owner(&world).await;
    shipped(&world, 1, 0, 700);
    shipped(&world, 2, 700, MANY);

    let (mut seen, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = world.get(&format!("/flows?limit=1000{after}")).await.ok();
        let items = page["items"].as_array().unwrap();
        seen.extend(items.iter().map(|record| record["device_name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(seen.len(), MANY);
    let later = world.get("/flows?from_ms=1000001&limit=1000").await.ok();
    assert_eq!(later["items"].as_array().unwrap().len(), MANY - 900);
    let earlier = world.get("/flows?before_ms=1000001&limit=1000").await.ok();
    assert_eq!((earlier["items"].as_array().unwrap().len(), &earlier["next"]), (900, &Value::Null));
    assert_eq!(world.get("/flows?after=there").await.problem(400)["field"], "after");

    let pages = pages(&world, "/flows?verdict=denied", &session).await;
    assert_eq!(pages.len(), 2, "125 denied, 100 a page");
    let mut found = BTreeSet::new();
    for page in &pages {
        let names =
            page.text.split("laptop-").skip(1).filter_map(|rest| rest.get(..4)?.parse::<usize>().ok());
        found.extend(names);
    }
    assert_eq!(found.len(), MANY / 10);
    // A search looks through all of them, and not through the newest alone.
    let oldest = get(&world, "/flows?q=laptop-0001", &session).await;
    assert!(oldest.text.contains("laptop-0001."), "{}", oldest.text);
}

#[tokio::test]
async fn a_page_of_flows_says_how_many_came_since_and_moves_nothing() {
    let world = World::new().await;
    let session = owner(&world).await;
    let core = &world.controller.core;
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let flow = |batch: u64, verdict: &str| {
        let record = json!({"id": format!("flow-{batch}"), "verdict": verdict}).to_string();
        let connector = ConnectorId::from_bytes([2; 16]);
        core.flows.take(organization, connector, batch, record.as_bytes(), crate::clock::wall()).unwrap();
    };
    flow(1, "allowed");
    let page = get(&world, "/flows", &session).await;
    let ask = page.text.split("hx-get=\"").find(|rest| rest.starts_with("/flows/newer")).unwrap();
    let ask = ask.split('"').next().unwrap().replace("&amp;", "&");
    assert!(ask.contains("first=flow-1"), "{ask}");
    let same = get(&world, &ask, &session).await;
    assert!(
        same.text.contains("as connectors reported them") && same.text.contains(&ask.replace('&', "&amp;"))
    );
    flow(2, "allowed");
    flow(3, "denied");
    let one = get(&world, &ask, &session).await;
    assert!(one.text.contains("2 came since: show them"), "{}", one.text);
    assert!(one.text.contains("href=\"/flows\""), "{}", one.text);
    // A page of older ones waits for nothing, and a search reads the log once, not every ten seconds.
    for path in ["/flows?after=1.0", "/flows?q=db"] {
        assert!(!get(&world, path, &session).await.text.contains("/flows/newer"), "{path}");
    }
}
