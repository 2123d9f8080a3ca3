//! Who can reach what, as the console draws and lists it.

use super::{
    World,
    console::{get, owner},
    outage::Laptop,
};
use http::Method;
use serde_json::{Value, json};

fn id(made: &Value) -> String {
    made["id"].as_str().unwrap().to_owned()
}

/// What stands in the boxes of a picture: the line above and the line below.
fn boxes(page: &str) -> Vec<(String, String)> {
    let text = |part: &str| part.split_once('>').unwrap().1.split_once('<').unwrap().0.to_owned();
    let mut all = Vec::new();
    for part in page.split("class=\"t-name\"").skip(1) {
        let below = part.split_once("class=\"t-sub\"").unwrap().1;
        all.push((text(part), text(below)));
    }
    all
}

fn pair(above: &str, below: &str) -> (String, String) {
    (above.to_owned(), below.to_owned())
}

async fn resource(world: &World, site: &str, name: &str, address: &str) -> String {
    let body = json!({"site": site, "name": name, "address": address, "ports": ["443"]});
    id(&world.post("/resources", body).await.made())
}

#[tokio::test]
async fn the_access_graph_joins_each_group_by_its_policy_with_what_it_reaches_and_nothing_else() {
    let world = World::new().await;
    // Ada is an engineer; engineers reach the orders.
    let f = world.furnish().await;
    let wiki = resource(&world, &f.site, "wiki", "10.1.2.4").await;
    resource(&world, &f.site, "nobody's", "10.1.2.5").await;
    let (sales, both) = (
        id(&world.post("/groups", json!({"name": "sales"})).await.made()),
        json!({"name": "wiki for all", "groups": [], "resources": [wiki]}),
    );
    let bob = id(&world.post("/users", json!({"name": "Bob", "email": "bob@example.com"})).await.made());
    for person in [&bob, &f.user] {
        world.call(Method::PUT, &format!("/groups/{sales}/members/{person}"), None).await.ok();
    }
    let mut both = both;
    both["groups"] = json!([f.group, sales]);
    world.post("/policies", both).await.made();
    let session = owner(&world).await;
    let page = get(&world, "/access", &session).await;
    assert_eq!(
        boxes(&page.text),
        [
            pair("engineers", "1 member"),
            pair("sales", "2 members"),
            pair("orders for engineers", "1 group → 1 resource"),
            pair("wiki for all", "2 groups → 1 resource"),
            pair("orders", "10.1.2.3"),
            pair("wiki", "10.1.2.4"),
        ]
    );
    // engineers and orders, engineers and wiki, sales and wiki: a wire to each policy and one from it.
    assert_eq!(page.text.matches("<path class=\"p p--direct\"").count(), 5);
    let table = page.text.split_once("The same as a table").unwrap().1;
    let row = table.split("<tr").find(|row| row.contains("wiki for all")).unwrap();
    for word in ["engineers", "sales", "wiki"] {
        assert!(row.contains(word), "{row}");
    }
    // Ada is in both groups and counts once.
    assert!(row.contains(">2<"), "{row}");
    assert!(
        !table.contains("nobody&#39;s") && !table.contains("nobody's"),
        "what no policy names is not there"
    );
    let found = get(&world, "/access?q=sales", &session).await;
    assert!(!found.text.contains("orders for engineers") && found.text.contains("wiki for all"));
}

#[tokio::test]
async fn more_than_the_access_graph_has_room_for_is_counted_and_never_left_out_without_a_word() {
    let world = World::new().await;
    let f = world.furnish().await;
    let make = |n: usize| {
        let address = format!("10.2.0.{n}");
        let body = json!({"site": f.site, "name": format!("r{n:02}"), "address": address, "ports": ["443"]});
        json!({"method": "POST", "path": "/resources", "as": format!("r{n}"), "body": body})
    };
    let mut operations: Vec<Value> = (0..30).map(make).collect();
    let names: Vec<String> = (0..30).map(|n| format!("@r{n}")).collect();
    let policy = json!({"name": "many", "groups": [f.group], "resources": names});
    operations.push(json!({"method": "POST", "path": "/policies", "body": policy}));
    world.post("/bulk", json!({"operations": operations})).await.ok();
    let session = owner(&world).await;
    let page = get(&world, "/access", &session).await;
    assert!(page.text.contains("through 2 policies to 31 resources"), "{}", page.text);
    assert!(page.text.contains("Not drawn: 7 more resources."), "{}", page.text);
}

#[tokio::test]
async fn a_resource_s_page_counts_the_people_and_the_devices_that_can_use_it() {
    let world = World::new().await;
    let f = world.furnish().await;
    let (laptop, lost) = (Laptop::enrol(&world, &f.user).await, Laptop::enrol(&world, &f.user).await);
    let session = owner(&world).await;
    let page = async || get(&world, &format!("/resources/{}", f.resource), &session).await.text;
    let counted = |page: &str| {
        let reach = page.split_once("class=\"reach\"").unwrap().1.split_once("</ul>").unwrap().0.to_owned();
        ["1 member", "1 device<", "2 devices<", "orders for engineers", "0 attached now"]
            .map(|word| reach.contains(word))
    };
    assert_eq!(counted(&page().await), [true, false, true, true, true]);
    world.post("/strikes", json!({"subject": lost.id})).await.made();
    assert_eq!(counted(&page().await), [true, true, false, true, true]);
    world.post(&format!("/devices/{}/block", laptop.id), json!({})).await.ok();
    assert_eq!(counted(&page().await), [true, false, false, true, true]);
}
