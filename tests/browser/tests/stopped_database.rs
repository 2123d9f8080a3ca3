//! The console while its PostgreSQL is stopped: killed, not locked.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, and waits for conditions with deadlines")]

use browser::{Chromium, Page, Stage, WebSite, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const PASSPHRASE: &str = "correct horse battery staple";

fn id(made: &Value) -> String {
    made["id"].as_str().unwrap_or_else(|| panic!("no id in {made}")).to_owned()
}

/// A site with a running connector, and a client that reaches what is there.
fn furnish(stage: &Stage, web: &WebSite) -> (browser::Connector, browser::Client) {
    let post = |path: &str, body: Value| stage.api("POST", path, Some(&body)).unwrap();
    let site = id(&post("/sites", json!({"name": "Hamburg DC", "prefixes": ["127.0.0.0/8"]})));
    let address = (web.address.ip().to_string(), web.address.port().to_string());
    let wiki = json!({"name": "Wiki", "site": site, "address": address.0, "ports": [address.1]});
    let wiki = id(&post("/resources", wiki));
    let group = id(&post("/groups", json!({"name": "engineering"})));
    let user = id(&post("/users", json!({"name": "Mikkel Lund", "email": "mikkel@example.com"})));
    stage.api("PUT", &format!("/groups/{group}/members/{user}"), Some(&json!({}))).unwrap();
    post("/policies", json!({"name": "Wiki", "groups": [group], "resources": [wiki]}));
    let key = post("/enrolment-keys", json!({"kind": "connector", "site": site}));
    let connector = stage.connector("hh-1", key["join_key"].as_str().unwrap()).unwrap();
    let key = post("/enrolment-keys", json!({"kind": "device", "owner": user}));
    let client = stage.client("mikkel-laptop", key["join_key"].as_str().unwrap()).unwrap();
    (connector, client)
}

fn sign_in(stage: &Stage, page: &Page<'_>) {
    page.open(&stage.owner_link).unwrap();
    for (field, value) in [
        ("#name", "Lena Brandt"),
        ("#email", "lena@example.com"),
        ("#passphrase", PASSPHRASE),
        ("#again", PASSPHRASE),
    ] {
        page.fill(field, value).unwrap();
    }
    page.follow("main form[method=post] button[type=submit]").unwrap();
    page.wait_for_text(".who", "Lena Brandt").unwrap();
}

#[test]
fn with_its_postgresql_stopped_the_console_is_read_says_what_works_and_keeps_what_is_typed() {
    let cluster = pgscratch::Cluster::start().unwrap();
    let web = WebSite::start("127.0.0.4", "hello from the wiki").unwrap();
    let stage = Stage::start_on(&cluster.database("tidegate").unwrap()).unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    let (_connector, client) = furnish(&stage, &web);
    let address = format!("http://{}", web.address);
    eventually("a page through the tunnel", Duration::from_secs(60), || client.fetch(&address)).unwrap();

    // Another page that was opened before: nobody loads it anew.
    let open = page.behind().unwrap();
    open.open(&format!("{}/people", stage.url)).unwrap();
    open.wait_for_text("#gauge", "Configuration is current").unwrap();
    open.evaluate("document.documentElement.dataset.opened = 'before'").unwrap();
    let opened = || open.evaluate("document.documentElement.dataset.opened").unwrap();
    cluster.kill();
    page.open(&format!("{}/groups/new", stage.url)).unwrap();
    page.fill("#name", "support").unwrap();
    page.follow("main form .btn--primary").unwrap();
    page.wait_for_text("[role=alert]", "Nothing was saved").unwrap();
    assert_eq!(page.evaluate("document.querySelector('#name').value").unwrap(), "support");
    page.wait_for_text(".banner", "Access works. Changes have to wait").unwrap();
    for (path, shown) in [
        ("/", "What works now"),
        ("/resources", "Wiki"),
        ("/people", "Mikkel Lund"),
        ("/topology", "mikkel-laptop"),
        ("/why?who=mikkel-laptop&to=Wiki", "Mikkel Lund can reach Wiki"),
        ("/status", "Saving changes is paused"),
    ] {
        page.open(&format!("{}{path}", stage.url)).unwrap();
        page.wait_for_text("body", shown).unwrap();
    }
    assert_eq!(client.fetch(&address).unwrap(), "hello from the wiki");

    // Only a page that is seen listens; it asks at once when it is.
    open.bring_to_front().unwrap();
    open.wait_for_text("#banner", "Access works. Changes have to wait").unwrap();
    open.wait_for_text("#gauge", "Changes have to wait").unwrap();
    assert_eq!(opened(), "before");

    cluster.resume().unwrap();
    eventually("a change once the server is back", Duration::from_secs(60), || {
        stage.api("POST", "/groups", Some(&json!({"name": "support"})))
    })
    .unwrap();
    eventually("the open page without a banner", Duration::from_secs(30), || {
        anyhow::ensure!(open.count(".banner")? == 0, "{}", open.text(".banner")?);
        let gauge = open.text("#gauge")?;
        anyhow::ensure!(gauge.contains("Configuration is current"), "{gauge}");
        Ok(())
    })
    .unwrap();
    assert_eq!(opened(), "before");
}
