//! Who reaches what, and why, as the API says it; and what a change of a policy would do.

use super::{World, console_devices::insert, inventory::Inventory};
use serde_json::{Value, json};
use store::DeviceState;

async fn why(world: &World, who: &str, to: &str, on: &str) -> super::Reply {
    let encode = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let on = if on.is_empty() { String::new() } else { format!("&on={}", encode(on)) };
    world.get(&format!("/access/explanation?who={}&to={}{on}", encode(who), encode(to))).await
}

#[tokio::test]
async fn why_somebody_reaches_something_is_said_check_by_check_by_the_connectors_own_decision() {
    let world = World::new().await;
    let inventory = Inventory::make(&world).await;
    let user = inventory.id("users").to_owned();
    let by_name = why(&world, "ada", "orders", "").await.ok();
    assert_eq!(
        (&by_name["member"], &by_name["name"], &by_name["resource"], &by_name["on"]),
        (&json!(user), &json!("Ada"), &json!(inventory.id("resources")), &json!("TCP port 5432"))
    );
    // The policy allows it; no connector of the site has a session anywhere.
    assert_eq!((&by_name["verdict"], &by_name["allowed"]), (&json!("allow"), &json!(false)), "{by_name}");
    let closed = usize::try_from(by_name["closed"].as_u64().unwrap()).unwrap();
    let gate = &by_name["checks"][closed];
    assert_eq!((&gate["by"], &gate["outcome"]), (&json!("PoPs"), &json!("failed")), "{by_name}");
    for (who, to) in [
        ("ada@example.com", "10.1.2.3"),
        (user.as_str(), inventory.id("resources")),
        (inventory.id("devices"), "Orders"),
    ] {
        let same = why(&world, who, to, "").await.ok();
        assert_eq!(same["verdict"], "allow", "{who} {to}: {same}");
        assert_eq!(same["device"].is_string(), who.starts_with("dev-"));
    }
    for (who, to, on, verdict) in [
        ("ada", "orders", "443", "port_not_allowed"),
        ("ada", "10.9.9.9", "", "no_resource"),
        ("ci", "orders", "tcp/5432", "no_policy"),
    ] {
        let not = why(&world, who, to, on).await.ok();
        assert_eq!((&not["verdict"], &not["allowed"]), (&json!(verdict), &json!(false)), "{not}");
    }
    world.post("/strikes", json!({"subject": user})).await.made();
    let struck = why(&world, &user, "orders", "").await.ok();
    assert_eq!((&struck["closed"], &struck["checks"][0]["by"]), (&json!(0), &json!("every connector")));
}

#[tokio::test]
async fn a_question_that_means_nobody_nothing_or_several_is_refused_at_its_field() {
    let world = World::new().await;
    let inventory = Inventory::make(&world).await;
    why(&world, "nobody at all", "orders", "").await.problem(404);
    why(&world, "usr-00000000000000000000000000", "orders", "").await.problem(404);
    let other = json!({"name": "Ada", "email": "other@example.com"});
    let other = world.post("/users", other).await.made()["id"].clone();
    let problem = why(&world, "Ada", "orders", "").await.problem(400);
    assert_eq!(
        (&problem["field"], &problem["value"]),
        (&json!("who"), &json!([inventory.id("users"), other]))
    );
    for (to, on, field) in
        [("not a name", "", "to"), ("orders", "70000", "on"), ("orders", "sctp/9", "on"), (" ", "", "to")]
    {
        let problem = why(&world, "ada@example.com", to, on).await.problem(400);
        assert_eq!(problem["field"], field, "{problem}");
    }
    world.get("/access/explanation?who=ada").await.problem(400);
}

#[tokio::test]
async fn a_device_that_waits_or_is_blocked_reaches_nothing_whatever_its_owner_may() {
    let world = World::new().await;
    let f = world.furnish().await;
    // What the controller finds wrong with them.
    let wrong = async |who: &str| -> Vec<String> {
        let answer = why(&world, who, "orders", "").await.ok();
        let checks = answer["checks"].as_array().unwrap().iter();
        let wrong = checks.filter(|check| check["by"] == "controller" && check["outcome"] == "failed");
        wrong.map(|check| format!("{}: {}", check["what"], check["detail"])).collect()
    };
    for (name, state, said) in [
        ("tablet", DeviceState::Pending, "waits for somebody"),
        ("phone", DeviceState::Blocked, "is blocked"),
    ] {
        insert(&world, &f.user, name, state).await;
        let wrong = wrong(name).await;
        assert!(wrong.len() == 1 && wrong[0].contains("is approved") && wrong[0].contains(said), "{wrong:?}");
    }
    let none = wrong("ada@example.com").await;
    assert!(none.len() == 1 && none[0].contains("none that is approved"), "{none:?}");
    insert(&world, &f.user, "laptop", DeviceState::Active).await;
    assert_eq!((wrong("laptop").await, wrong("ada@example.com").await), (vec![], vec![]));
}

#[tokio::test]
async fn a_preview_says_who_would_gain_and_who_would_lose_and_changes_nothing() {
    let world = World::new().await;
    let f = world.furnish().await;
    let resource = json!({"site": f.site, "name": "wiki", "address": "10.1.2.4", "ports": ["443"]});
    let wiki = world.post("/resources", resource).await.made()["id"].as_str().unwrap().to_owned();
    let version = world.version().await;
    let preview = async |body: Value| world.post("/policies/preview", body).await;
    let new = preview(json!({"groups": [f.group], "resources": [f.resource, wiki]})).await.ok();
    // She reaches the orders by another policy already.
    assert_eq!(
        (&new["gained_total"], &new["lost_total"], &new["complete"]),
        (&json!(1), &json!(0), &json!(true))
    );
    assert_eq!(
        new["gained"],
        json!([{"member": f.user, "name": "Ada", "resources": [wiki], "devices_attached": 0}])
    );
    let moved = preview(json!({"policy": f.policy, "resources": [wiki]})).await.ok();
    assert_eq!(
        (&moved["gained"][0]["resources"], &moved["lost"][0]["resources"]),
        (&json!([wiki]), &json!([f.resource]))
    );
    let gone = preview(json!({"policy": f.policy, "remove": true})).await.ok();
    assert_eq!((&gone["gained_total"], &gone["lost_total"]), (&json!(0), &json!(1)));
    let same = preview(json!({"policy": f.policy})).await.ok();
    assert_eq!((&same["unchanged"], &same["gained"], &same["lost"]), (&json!(1), &json!([]), &json!([])));
    assert_eq!(world.version().await, version);
    let nobody = format!("grp-{}", "0".repeat(26));
    assert_eq!(preview(json!({"groups": [nobody]})).await.problem(422)["field"], "groups");
    assert_eq!(preview(json!({"remove": true})).await.problem(422)["field"], "policy");
    preview(json!({"policy": format!("pol-{}", "0".repeat(26))})).await.problem(404);
}

#[tokio::test]
async fn a_preview_of_much_lists_a_thousand_pairs_and_counts_all() {
    let world = World::new().await;
    let f = world.furnish().await;
    let mut operations = Vec::new();
    for number in 0..600 {
        let address = format!("10.2.{}.{}", number / 250, number % 250 + 1);
        let body =
            json!({"name": format!("r{number}"), "site": f.site, "address": address, "ports": ["443"]});
        operations.push(json!({"method": "POST", "path": "/resources", "body": body}));
    }
    let body = json!({"name": "Zoe", "email": "zoe@example.com"});
    operations.push(json!({"method": "POST", "path": "/users", "as": "zoe", "body": body}));
    operations.push(json!({"method": "PUT", "path": format!("/groups/{}/members/@zoe", f.group)}));
    let made = world.post("/bulk", json!({"operations": operations})).await.ok();
    let made = made["results"].as_array().unwrap().iter();
    let resources: Vec<&Value> = made.take(600).map(|result| &result["body"]["id"]).collect();
    let much =
        world.post("/policies/preview", json!({"groups": [f.group], "resources": resources})).await.ok();
    assert_eq!(much["gained_total"], 1_200);
    let gained = much["gained"].as_array().unwrap();
    let listed: Vec<_> = gained.iter().map(|one| one["resources"].as_array().unwrap().len()).collect();
    assert_eq!((listed, &gained[1]["name"]), (vec![600, 400], &json!("Zoe")));
}
