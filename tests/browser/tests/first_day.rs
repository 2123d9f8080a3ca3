//! The administrator's first day in the browser alone: from the first start to a page that a client fetched.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

use browser::{Chromium, Page, Stage, WebSite, eventually};
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

const PASSPHRASE: &str = "correct horse battery staple";
const SAVE: &str = "main form .btn--primary";

/// Lets the first owner in by their link.
fn sign_in(stage: &Stage, page: &Page<'_>) {
    page.open(&stage.owner_link).unwrap();
    page.fill("#name, #n", "Lena Brandt").unwrap();
    if page.count("#email").unwrap() == 1 {
        page.fill("#email", "lena@example.com").unwrap();
    }
    page.fill("#passphrase, #p", PASSPHRASE).unwrap();
    page.fill("#again, #a", PASSPHRASE).unwrap();
    page.follow("main form[method=post] button[type=submit]").unwrap();
    page.open(&format!("{}/", stage.url)).unwrap();
    page.wait_for_text(".who", "Lena Brandt").unwrap();
}

fn clean(page: &Page<'_>) {
    let complaints = page.complaints().unwrap();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// Makes a site with a running connector, a resource, a person in a group and a policy, each by its form.
fn furnish(stage: &Stage, page: &Page<'_>, web: &WebSite) -> (browser::Connector, String) {
    let url = &stage.url;
    page.follow("ol.todo .btn--primary").unwrap();
    page.wait_for_path("/sites/new").unwrap();
    page.fill("#name", "Hamburg DC").unwrap();
    page.fill("#prefixes", "127.0.0.0/8").unwrap();
    page.follow(SAVE).unwrap();
    page.wait_for_text("h1", "Hamburg DC").unwrap();

    page.follow(".actions .btn--primary").unwrap();
    page.follow(SAVE).unwrap();
    page.wait_for_text("#arrive", "Waiting for the connector").unwrap();
    let key = page.text("[aria-label='Enrolment key'] code").unwrap();
    let connector = stage.connector("hamburg-dc-1", key.trim()).unwrap();
    page.wait_for_text("#arrive.arrive--there", "hamburg-dc-1 is connected").unwrap();
    page.follow("#arrive .btn--primary").unwrap();

    page.wait_for_path("/resources/new").unwrap();
    page.fill("#name", "Wiki").unwrap();
    page.fill("#address", &web.address.ip().to_string()).unwrap();
    page.fill("#ports", "70000").unwrap();
    page.follow(SAVE).unwrap();
    let error = page.wait_for_text("#ports-error", "port").unwrap();
    assert_eq!(page.evaluate("document.querySelector('#name').value").unwrap(), "Wiki", "{error}");
    page.fill("#ports", &web.address.port().to_string()).unwrap();
    page.follow(SAVE).unwrap();
    page.wait_for_text("main", "Closed for everybody").unwrap();

    page.open(&format!("{url}/people/new")).unwrap();
    page.fill("#name", "Mikkel Lund").unwrap();
    page.fill("#email", "mikkel@example.com").unwrap();
    page.follow(SAVE).unwrap();
    let person = page.wait_for_path("/people/").unwrap();
    let person = person.split('?').next().unwrap().to_owned();
    page.open(&format!("{url}/groups/new")).unwrap();
    page.fill("#name", "engineering").unwrap();
    page.follow(SAVE).unwrap();
    page.open(&format!("{url}{person}")).unwrap();
    page.follow("form[action='/groups/members/add'] button").unwrap();
    page.wait_for_text("main", "engineering").unwrap();
    (connector, person)
}

/// Writes the policy that opens the resource, looking at its preview first.
fn open_up(stage: &Stage, page: &Page<'_>) {
    page.open(&format!("{}/policies/new", stage.url)).unwrap();
    page.fill("#name", "Engineers read the wiki").unwrap();
    page.fill("#add_group", "engineering").unwrap();
    page.follow("button[value=preview]").unwrap();
    page.wait_for_text("#delta", "+0").unwrap();
    page.fill("#add_resource", "Wiki").unwrap();
    page.follow("button[value=preview]").unwrap();
    page.wait_for_text("#delta", "+1").unwrap();
    page.wait_for_text("main", "Mikkel Lund").unwrap();
    // Enter looks once more, and takes nothing out.
    page.fill("#name", "Engineers read the wiki").unwrap();
    page.evaluate("window.__left = false; void 0").unwrap();
    page.key("Enter").unwrap();
    eventually("the page that Enter asks for", browser::PATIENCE, || {
        let here = page.evaluate("window.__left === false")?;
        anyhow::ensure!(here == false, "still the same page");
        Ok(())
    })
    .unwrap();
    page.wait_for_text("#delta", "+1").unwrap();
    page.wait_for_text("button[value=save]", "1 gain, 0 lose").unwrap();
    page.follow("button[value=save]").unwrap();
    page.wait_for_text("main", "Saved.").unwrap();
}

/// Makes a link for a device and starts its client.
fn enrol(stage: &Stage, page: &Page<'_>, person: &str, name: &str) -> browser::Client {
    page.open(&format!("{}{person}", stage.url)).unwrap();
    page.follow("form[action='/keys/device'] button").unwrap();
    let link = page.text("[aria-label='Link'] code").unwrap();
    let client = stage.client(name, link.trim()).unwrap();
    assert!(!page.path().unwrap().contains("tg1"), "a secret is in no address");
    client
}

#[test]
fn from_the_first_start_to_the_first_resource_in_the_browser_alone_then_a_policy_a_revocation_and_an_outage()
{
    let web = WebSite::start("127.0.0.2", "hello from the wiki").unwrap();
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    page.wait_for_text("h1", "Nothing can be reached yet").unwrap();
    let (_connector, person) = furnish(&stage, &page, &web);
    let address = format!("http://{}", web.address);

    // Nothing is open before the policy.
    let client = enrol(&stage, &page, &person, "mikkel-laptop");
    client.fetch(&address).unwrap_err();
    page.open(&format!("{}/why?who=mikkel-laptop&to=Wiki", stage.url)).unwrap();
    page.wait_for_text("#verdict", "No: Mikkel Lund can’t reach Wiki").unwrap();
    open_up(&stage, &page);
    // A device hears of a new configuration with its next keepalive, every 25 s.
    let said = eventually("the page through the tunnel", Duration::from_secs(60), || client.fetch(&address))
        .unwrap();
    assert_eq!(said, "hello from the wiki");
    page.open(&format!("{}/why?who=mikkel-laptop&to=Wiki", stage.url)).unwrap();
    page.wait_for_text("#verdict", "Yes: Mikkel Lund can reach Wiki").unwrap();
    page.open(&format!("{}/", stage.url)).unwrap();
    page.wait_for_text("h1", "Every site can be reached").unwrap();

    path_as_the_device_says(&stage, &page, &client);

    // What was carried is in the log, and by which way.
    eventually("the flow in the log", Duration::from_secs(15), || {
        page.open(&format!("{}/flows", stage.url))?;
        let text = page.text("main")?;
        anyhow::ensure!(text.contains("Wiki") && text.contains("allowed"), "{text}");
        Ok(())
    })
    .unwrap();

    degraded(&stage, &page, &client, &address);
    revoked(&stage, &page, &client, &address);
    clean_but_for_refusals(&page);
}

/// API and picture have the way that the device itself says, within five seconds and without a flow that has ended.
fn path_as_the_device_says(stage: &Stage, page: &Page<'_>, client: &browser::Client) {
    let url = &stage.url;
    eventually("the path as the device says it", Duration::from_secs(5), || {
        let status = client.status()?;
        let own = &status["resources"][0]["path"]["kind"];
        let sessions = stage.api("GET", "/sessions?kind=device", None)?;
        let told = &sessions["items"][0]["paths"][0]["kind"];
        anyhow::ensure!(own.is_string() && own == told, "the device {own}, the API {told}");
        Ok(())
    })
    .unwrap();
    page.open(&format!("{url}/topology")).unwrap();
    page.wait_for_text("#topology", "mikkel-laptop").unwrap();
    let line = page.count("svg.topo path.p--relay, svg.topo path.p--direct, svg.topo path.p--tcp").unwrap();
    assert_eq!(line, 1, "{}", page.text("#topology").unwrap());
    the_picture_follows_what_happens(stage, page);
}

/// Who comes and who goes is seen by whoever looks at the picture, without loading it again.
fn the_picture_follows_what_happens(stage: &Stage, page: &Page<'_>) {
    page.evaluate("window.__same = true; void 0").unwrap();
    let people = stage.api("GET", "/users?q=mikkel", None).unwrap();
    let key = json!({"kind": "device", "owner": people["items"][0]["id"]});
    let key = stage.api("POST", "/enrolment-keys", Some(&key)).unwrap();
    let second = stage.client("mikkel-phone", key["join_key"].as_str().unwrap()).unwrap();
    page.wait_for_text("#topology", "mikkel-phone").unwrap();
    stage.api("POST", "/strikes", Some(&json!({"subject": second.device}))).unwrap();
    eventually("the picture without the device", Duration::from_secs(20), || {
        let text = page.text("#topology")?;
        anyhow::ensure!(!text.contains("mikkel-phone"), "{text}");
        Ok(())
    })
    .unwrap();
    assert_eq!(page.evaluate("window.__same === true").unwrap(), true, "the page was loaded again");
}

/// The database is locked by another program: access goes on, changes wait, nothing typed is lost.
fn degraded(stage: &Stage, page: &Page<'_>, client: &browser::Client, address: &str) {
    let lock = stage.lock_database().unwrap();
    page.open(&format!("{}/groups/new", stage.url)).unwrap();
    page.fill("#name", "support").unwrap();
    page.follow(SAVE).unwrap();
    page.wait_for_text("[role=alert]", "Nothing was saved").unwrap();
    assert_eq!(page.evaluate("document.querySelector('#name').value").unwrap(), "support");
    page.wait_for_text(".banner", "Access works. Changes have to wait").unwrap();
    page.open(&format!("{}/", stage.url)).unwrap();
    page.wait_for_text("h1", "Access works. Changes have to wait.").unwrap();
    page.wait_for_text("#overview", "What works now").unwrap();
    page.open(&format!("{}/status", stage.url)).unwrap();
    page.wait_for_text("h1", "Saving changes is paused").unwrap();
    client.fetch(address).unwrap();
    drop(lock);
    eventually("a console without a banner", Duration::from_secs(30), || {
        page.open(&format!("{}/", stage.url))?;
        anyhow::ensure!(page.count(".banner")? == 0, "{}", page.text(".banner")?);
        Ok(())
    })
    .unwrap();
}

/// A device is revoked in the browser, and its running download ends.
fn revoked(stage: &Stage, page: &Page<'_>, client: &browser::Client, address: &str) {
    let mut download = client.hold(&format!("{address}/drip")).unwrap();
    assert!(download.is_running().unwrap());
    page.open(&format!("{}/devices/{}", stage.url, client.device)).unwrap();
    page.follow("a.btn--danger[href$='/revoke']").unwrap();
    page.wait_for_text("h1", "Revoke mikkel-laptop?").unwrap();
    page.follow("button.btn--danger").unwrap();
    page.wait_for_text("main", "Enforced at 1 of 1 connector").unwrap();
    download.ends_within(Duration::from_secs(5)).unwrap();
    client.fetch(address).unwrap_err();
    page.open(&format!("{}/devices/{}", stage.url, client.device)).unwrap();
    page.wait_for_text("main", "revoked").unwrap();
}

#[test]
fn hostile_names_are_text_everywhere_and_no_page_grows_wider() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    let names = [
        "<img src=x onerror=alert(1)>",
        "'; DROP TABLE users; --",
        "\u{202e}gnirts desrever",
        "👩‍👩‍👧‍👦 صفحة عربية",
        "\"><script>alert(1)</script>",
    ];
    for (index, name) in names.iter().enumerate() {
        let site =
            stage.api("POST", "/sites", Some(&json!({"name": name, "prefixes": ["10.0.0.0/8"]}))).unwrap();
        let resource = json!({"name": name, "site": site["id"], "address": format!("10.0.0.{}", index + 1), "ports": ["443"], "mode": "standard"});
        stage.api("POST", "/resources", Some(&resource)).unwrap();
        stage.api("POST", "/groups", Some(&json!({"name": name}))).unwrap();
        let user = json!({"name": name, "email": format!("u{index}@example.com")});
        stage.api("POST", "/users", Some(&user)).unwrap();
    }
    for path in [
        "/",
        "/sites",
        "/resources",
        "/people",
        "/access",
        "/topology",
        "/audit",
        "/why",
        "/search?q=script",
        "/policies/new",
    ] {
        page.open(&format!("{}{path}", stage.url)).unwrap();
        let wide = page
            .evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            .unwrap();
        assert!(wide.as_i64().unwrap() <= 1, "{path} is {wide} px too wide");
        assert_eq!(page.count("img").unwrap(), 0, "{path}");
    }
    page.open(&format!("{}/sites/new", stage.url)).unwrap();
    page.fill("#name", &"x".repeat(100_000)).unwrap();
    page.follow(SAVE).unwrap();
    page.wait_for_text("#name-error", "64 characters").unwrap();
    assert_eq!(page.evaluate("document.querySelector('#name').value.length").unwrap(), 100_000);
    clean_but_for_refusals(&page);
}

/// Turns a list page by page to its end by its own link; gives what stands first in each row of each page.
fn turned(page: &Page<'_>) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    loop {
        let rows = page.evaluate(
            "[...document.querySelectorAll('main table tbody tr')].map(row => row.cells[0].querySelector('a')?.innerText ?? row.cells[0].innerText)",
        );
        let rows =
            rows.unwrap().as_array().unwrap().iter().map(|row| row.as_str().unwrap().to_owned()).collect();
        pages.push(rows);
        assert!(pages.len() <= 100, "it never ends");
        if page.count("a[rel=next]").unwrap() == 0 {
            return pages;
        }
        page.follow("a[rel=next]").unwrap();
    }
}

#[test]
fn a_list_of_a_thousand_is_turned_page_by_page_to_its_end_and_shows_each_of_them_once() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    let wanted: BTreeSet<String> = (0..1000).map(|number| format!("Person {number:04}")).collect();
    let operations: Vec<_> = wanted
        .iter()
        .map(|name| {
            let email = format!("{}@example.com", name.replace(' ', "-"));
            json!({"method": "POST", "path": "/users", "body": {"name": name, "email": email}})
        })
        .collect();
    stage.api("POST", "/bulk", Some(&json!({"operations": operations}))).unwrap();

    page.open(&format!("{}/people", stage.url)).unwrap();
    page.wait_for_text(".count", "1\u{202f}001 people").unwrap();
    let pages = turned(&page);
    let sizes: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!((sizes.len(), sizes[20]), (21, 1), "{sizes:?}");
    assert!(sizes[..20].iter().all(|size| *size == 50), "{sizes:?}");
    let mut shown: BTreeSet<String> = pages.into_iter().flatten().collect();
    assert_eq!(shown.len(), 1001, "somebody is there twice");
    assert!(shown.remove("Lena Brandt") && shown == wanted);
    page.follow("a[rel=prev]").unwrap();
    page.wait_for_text(".card-foot", "951–1\u{202f}000 of 1\u{202f}001").unwrap();

    // What is searched for stays from page to page.
    page.open(&format!("{}/people", stage.url)).unwrap();
    page.fill(".filters input[name=q]", "person 01").unwrap();
    page.follow(".filters button[type=submit]").unwrap();
    page.wait_for_text(".count", "100 of 1\u{202f}001 people").unwrap();
    let found: Vec<String> = turned(&page).concat();
    assert_eq!(found.len(), 100);
    assert!(found.iter().all(|name| name.starts_with("Person 01")), "{found:?}");

    // The log says each of them, too, and ends.
    page.open(&format!("{}/audit", stage.url)).unwrap();
    let pages = turned(&page);
    let entries: usize = pages.iter().map(Vec::len).sum();
    assert!(pages.len() > 1 && entries >= 1000, "{entries} entries on {} pages", pages.len());
    page.wait_for_text(".card-foot", "nothing older that fits").unwrap();
    clean(&page);
}

/// A form that was refused is an answer of 4xx, which the browser notes.
fn clean_but_for_refusals(page: &Page<'_>) {
    let complaints = page.complaints().unwrap();
    let others: Vec<_> = complaints
        .iter()
        .filter(|text| !text.contains("status of 4") && !text.contains("status of 5"))
        .collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn what_moves_while_a_page_loads_is_measured() {
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    let calm = "data:text/html,<div id=a></div><p>text</p>";
    page.open(calm).unwrap();
    assert!(page.layout_shift().unwrap().0 < 0.001);
    page.open(&format!(
        "{calm}<script>setTimeout(() => {{ document.getElementById('a').style.height = '300px' }}, 100)</script>"
    ))
    .unwrap();
    let moved = page.layout_shift().unwrap().0;
    assert!(moved > 0.001, "{moved}");
}
