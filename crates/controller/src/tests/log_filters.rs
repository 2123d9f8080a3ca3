//! What each log is narrowed by means what it says: each parameter of the document has a row that takes some and leaves some.

use super::World;
use crate::openapi_json;
use http::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, net::IpAddr};
use trust::UnixMs;
use wire::{ConnectorId, UserId};

const FLOWS: [&str; 4] = ["f-1", "f-2", "f-3", "f-4"];
const TRIES: [&str; 4] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::4"];

/// Log, what it is asked, and what is left, newest first. `{…}` is filled in.
const ROWS: &[(&str, &str, &[&str])] = &[
    ("/flows", "", &["f-4", "f-3", "f-2", "f-1"]),
    ("/flows", "device=dev-a", &["f-3", "f-1"]),
    ("/flows", "connector={second}", &["f-4", "f-3"]),
    ("/flows", "resource=res-b", &["f-4", "f-2"]),
    ("/flows", "verdict=allowed", &["f-4", "f-1"]),
    ("/flows", "verdict=denied", &["f-3", "f-2"]),
    ("/flows", "q=10.9.", &["f-2"]),
    ("/flows", "q=ADA", &["f-3", "f-1"]),
    ("/flows", "from_ms=3000", &["f-4", "f-3"]),
    ("/flows", "before_ms=3000", &["f-2", "f-1"]),
    ("/flows", "device=dev-a&verdict=denied", &["f-3"]),
    ("/authentication-log", "", &["2001:db8::4", "192.0.2.3", "192.0.2.2", "192.0.2.1"]),
    ("/authentication-log", "user={bea}", &["192.0.2.2"]),
    ("/authentication-log", "outcome=signed-in", &["192.0.2.1"]),
    ("/authentication-log", "outcome=first-factor", &["192.0.2.2"]),
    ("/authentication-log", "outcome=wrong", &["2001:db8::4", "192.0.2.3"]),
    ("/authentication-log", "q=2001:DB8", &["2001:db8::4"]),
    ("/authentication-log", "q=passKEY", &["192.0.2.1"]),
    ("/authentication-log", "from_ms={third}", &["2001:db8::4", "192.0.2.3"]),
    ("/authentication-log", "before_ms={third}", &["192.0.2.2", "192.0.2.1"]),
    ("/authentication-log", "q=192.&outcome=wrong", &["192.0.2.3"]),
];

/// A world whose logs have four entries each, and what the rows' words stand for.
async fn filled() -> (World, Vec<(&'static str, String)>) {
    let world = World::new().await;
    let core = &world.controller.core;
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let (first, second) = (ConnectorId::from_bytes([1; 16]), ConnectorId::from_bytes([2; 16]));
    for (number, (connector, device, owner, resource, verdict, to)) in [
        (first, "dev-a", "Ada", "res-a", "allowed", "10.1.2.3:443"),
        (first, "dev-b", "Bea", "res-b", "denied", "10.9.2.3:443"),
        (second, "dev-a", "Ada", "res-a", "denied", "10.1.2.3:443"),
        (second, "dev-b", "Bea", "res-b", "allowed", "10.1.2.3:22"),
    ]
    .into_iter()
    .enumerate()
    {
        let record = json!({
            "id": FLOWS[number], "device": device, "owner_name": owner, "resource": resource, "verdict": verdict,
            "destination": to, "ended": 1000 * (number + 1),
        });
        let batch = u64::try_from(number).unwrap() + 1;
        let line = record.to_string();
        core.flows.take(organization, connector, batch, line.as_bytes(), UnixMs::from_millis(9000)).unwrap();
    }
    let bea = UserId::from_bytes([7; 16]);
    let third = core.signer.best_time();
    for (number, (method, outcome, user)) in [
        ("passkey", crate::signin::Outcome::SignedIn, None),
        ("passphrase", crate::signin::Outcome::FirstFactor, Some(bea)),
        ("passphrase", crate::signin::Outcome::Wrong, None),
        ("totp", crate::signin::Outcome::Wrong, None),
    ]
    .into_iter()
    .enumerate()
    {
        let is_later = number >= 2;
        core.signin.log.write(&crate::signin::Entry {
            at: if is_later { third } else { UnixMs::from_millis(third.as_millis() - 5) },
            organization,
            user,
            method: method.into(),
            outcome,
            address: TRIES[number].parse::<IpAddr>().unwrap(),
            detail: String::new(),
        });
    }
    let words = vec![
        ("{second}", second.to_string()),
        ("{bea}", bea.to_string()),
        ("{third}", third.as_millis().to_string()),
    ];
    (world, words)
}

#[tokio::test]
async fn each_filter_of_the_flow_log_and_the_authentication_log_takes_what_it_says() {
    let (world, words) = filled().await;
    for (log, query, expected) in ROWS {
        let query = words.iter().fold((*query).to_owned(), |query, (word, value)| query.replace(word, value));
        let by = if *log == "/flows" { "id" } else { "address" };
        let page = world.get(&format!("{log}?{query}")).await.ok();
        let found: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|item| item[by].as_str().unwrap()).collect();
        assert_eq!(found, *expected, "{log}?{query}");
        // One at a time it is the same.
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = world.get(&format!("{log}?limit=1&{query}{after}")).await.ok();
            seen.extend(
                page["items"].as_array().unwrap().iter().map(|item| item[by].as_str().unwrap().to_owned()),
            );
            assert!(seen.len() <= expected.len(), "{log}?{query}: {seen:?}");
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(seen, *expected, "{log}?{query}, one at a time");
    }
}

#[tokio::test]
async fn each_filter_of_the_audit_log_takes_what_it_says() {
    let world = World::new().await;
    let early =
        world.post("/sites", json!({"name": "Early"})).await.made()["id"].as_str().unwrap().to_owned();
    let late = world.post("/sites", json!({"name": "Late"})).await.made()["id"].as_str().unwrap().to_owned();
    world.call(Method::PUT, &format!("/sites/{early}"), Some(json!({"name": "Renamed"}))).await.ok();
    let all = world.get("/audit?limit=1000").await.ok()["items"].as_array().unwrap().clone();
    let at_ms = |entry: &Value| {
        let at: jiff::Timestamp = entry["at"].as_str().unwrap().parse().unwrap();
        u64::try_from(at.as_millisecond()).unwrap()
    };
    let replaced = all.iter().find(|entry| entry["action"] == "replace site");
    let at = at_ms(replaced.expect("the change is in the log"));
    let actor = all[0]["actor"].as_str().unwrap();
    let actor = actor.split([' ', '(']).next().unwrap().to_owned();
    let holds = |query: &str, entry: &Value| {
        let text = |field: &str| entry[field].as_str().unwrap_or_default().to_lowercase();
        let ms = at_ms(entry);
        let (name, value) = query.split_once('=').unwrap();
        match name {
            "actor" => text(name).contains(&value.to_lowercase()),
            "action" | "subject" => text(name) == value,
            "from_ms" => ms >= value.parse().unwrap(),
            "before_ms" => ms < value.parse().unwrap(),
            other => panic!("{other} is no filter"),
        }
    };
    for (query, most) in [
        (format!("actor={actor}"), None),
        ("action=create site".to_owned(), Some(2)),
        (format!("subject={early}"), Some(2)),
        (format!("subject={late}"), Some(1)),
        (format!("from_ms={at}"), None),
        (format!("before_ms={at}"), None),
    ] {
        let page = world.get(&format!("/audit?limit=1000&{}", query.replace(' ', "%20"))).await.ok();
        let found = page["items"].as_array().unwrap();
        let expected: Vec<_> = all.iter().filter(|entry| holds(&query, entry)).collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{query}");
        assert!(most.is_none_or(|most| found.len() == most), "{query}: {found:?}");
    }
}

#[test]
fn every_filter_of_the_logs_that_the_document_has_is_in_a_row() {
    let document: Value = serde_json::from_str(&openapi_json()).unwrap();
    for log in ["/flows", "/authentication-log"] {
        let parameters = document["paths"][format!("/api/v1{log}")]["get"]["parameters"].as_array().unwrap();
        let documented: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .filter(|name| !["limit", "after"].contains(name))
            .collect();
        let in_rows: BTreeSet<_> = ROWS
            .iter()
            .filter(|(of, query, _)| *of == log && !query.is_empty())
            .flat_map(|(_, query, _)| query.split('&'))
            .map(|pair| pair.split('=').next().unwrap())
            .collect();
        assert_eq!(documented, in_rows, "{log}");
    }
}
