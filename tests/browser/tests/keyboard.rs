//! The console by the keyboard alone: everything is reached, and is seen where one is.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use browser::{Chromium, Page, Screen, Stage, Theme, WebSite, eventually};
use serde_json::{Value, json};
use std::time::Duration;

const PASSPHRASE: &str = "correct horse battery staple";
/// More than any page has to reach: whoever presses so often goes in circles.
const MOST_STOPS: usize = 600;

/// Looks at a page before the first Tab: what has to be reached, and how it looks without the focus. Of radio buttons
/// of one name one is reached, and arrows walk among them.
const PREPARE: &str = r#"(() => {
  document.activeElement?.blur?.();
  const wanted = "a[href], button, input:not([type=hidden]), select, textarea, summary, [contenteditable], [tabindex]";
  const seen = (e) => e.checkVisibility({visibilityProperty: true}) && e.getClientRects().length > 0;
  const groups = new Set();
  const all = [...document.querySelectorAll(wanted)].filter((e) => {
    if (e.disabled || e.tabIndex < 0 || !seen(e)) return false;
    if (e.type !== "radio") return true;
    const group = [...document.querySelectorAll(`input[type=radio][name="${e.name}"]`)].filter((o) => o.form === e.form);
    const one = group.find((o) => o.checked) ?? group[0];
    groups.add(e.name);
    return e === one;
  });
  const chain = (e) => {
    const looks = [];
    for (let depth = 0; e && e !== document.body && depth < 4; depth += 1, e = e.parentElement) {
      const s = getComputedStyle(e);
      // What is there to take clicks alone shows nothing of its own.
      looks.push(s.opacity === "0" ? "none none" : [s.outlineStyle, s.outlineWidth, s.outlineColor, s.boxShadow].join(" "));
    }
    return looks;
  };
  const name = (e) => `${e.outerHTML.slice(0, 140).replace(/\s+/g, " ")}`;
  window.__walk = {all, chain, name, before: new Map(all.map((e) => [e, chain(e)])), reached: new Set()};
  return {wanted: all.length, forced: document.querySelectorAll("[tabindex]:not([tabindex='0']):not([tabindex='-1'])").length};
})()"#;

/// Says where the focus is: which of those, whether it is seen there, and whether something lies over it.
const STOP: &str = r#"(() => {
  const {all, chain, name, before, reached} = window.__walk;
  const e = document.activeElement;
  if (!e || e === document.body || e === document.documentElement) return {at: "page"};
  if (reached.has(e)) return {at: "again"};
  reached.add(e);
  const now = chain(e);
  const was = before.get(e);
  const shows = (look) => !/^none /.test(look) || !/ none$/.test(look);
  const marked = now.some((look, i) => shows(look) && (!was || look !== was[i]));
  const over = [...e.getClientRects()].flatMap((r) => [[.5, .5], [.1, .5], [.9, .5], [.5, .1], [.5, .9]].map(([x, y]) => [r.x + r.width * x, r.y + r.height * y]));
  const tiny = e.getBoundingClientRect().width <= 2;
  const found = over.some(([x, y]) => {
    const hit = document.elementFromPoint(x, y);
    return hit && (e === hit || e.contains(hit) || hit.contains(e) && hit !== document.body && hit.tagName !== "MAIN");
  });
  return {at: "stop", known: all.includes(e), marked, hidden: !found && !tiny, name: name(e)};
})()"#;

const LEFT: &str = "window.__walk.all.filter((e) => !window.__walk.reached.has(e)).map(window.__walk.name)";

fn id(made: &Value) -> String {
    made["id"].as_str().unwrap_or_else(|| panic!("no id in {made}")).to_owned()
}

/// What the pages are about.
struct World {
    /// Each with what its heading or its body says.
    pages: Vec<String>,
    _connector: browser::Connector,
    _client: browser::Client,
}

fn furnish(stage: &Stage, web: &WebSite) -> World {
    let post = |path: &str, body: Value| stage.api("POST", path, Some(&body)).unwrap();
    let site = id(&post("/sites", json!({"name": "Hamburg DC", "prefixes": ["127.0.0.0/8"]})));
    let (address, port) = (web.address.ip().to_string(), web.address.port().to_string());
    let wiki = json!({"name": "Wiki", "site": site, "address": address, "ports": [port]});
    let wiki = id(&post("/resources", wiki));
    let group = id(&post("/groups", json!({"name": "engineering"})));
    let user = id(&post("/users", json!({"name": "Mikkel Lund", "email": "mikkel@example.com"})));
    stage.api("PUT", &format!("/groups/{group}/members/{user}"), Some(&json!({}))).unwrap();
    let policy = id(&post("/policies", json!({"name": "Wiki", "groups": [group], "resources": [wiki]})));
    let key = post("/enrolment-keys", json!({"kind": "connector", "site": site}));
    let connector = stage.connector("hh-1", key["join_key"].as_str().unwrap()).unwrap();
    let arrived = id(&key["key"]);
    let key = post("/enrolment-keys", json!({"kind": "device", "owner": user}));
    let client = stage.client("mikkel-laptop", key["join_key"].as_str().unwrap()).unwrap();
    let fetched = || client.fetch(&format!("http://{}", web.address));
    eventually("a page through the tunnel", Duration::from_secs(60), fetched).unwrap();
    eventually("its record", Duration::from_secs(30), || {
        let flows = stage.api("GET", "/flows", None)?;
        anyhow::ensure!(flows["items"].as_array().is_some_and(|items| !items.is_empty()), "{flows}");
        Ok(())
    })
    .unwrap();
    let connector_id = id(&stage.api("GET", "/connectors", None).unwrap()["items"][0]);
    let device = &client.device;
    let pages = [
        "/",
        "/topology",
        "/resources",
        &format!("/resources/{wiki}"),
        "/resources/new",
        "/people",
        &format!("/people/{user}"),
        &format!("/people/{user}/role"),
        &format!("/groups/{group}"),
        "/devices",
        &format!("/devices/{device}"),
        &format!("/devices/{device}/revoke"),
        "/policies",
        &format!("/policies/{policy}"),
        &format!("/policies/{policy}/edit"),
        &format!("/policies/new?group={group}&resource={wiki}"),
        "/access",
        "/why",
        "/why?who=Mikkel+Lund&to=Wiki",
        "/flows",
        "/audit",
        "/audit/sign-ins",
        "/settings",
        "/settings/providers/new",
        "/sites",
        &format!("/sites/{site}"),
        &format!("/sites/{site}/connect"),
        &format!("/sites/{site}/waiting/{arrived}"),
        &format!("/connectors/{connector_id}"),
        "/service-accounts",
        "/pops",
        "/keys",
        "/search?q=e",
        "/account",
        "/device",
        "/status",
    ];
    World { pages: pages.map(ToOwned::to_owned).to_vec(), _connector: connector, _client: client }
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

/// Presses Tab, or Shift and Tab, from one end of the page that is open to the other; gives what is wrong.
fn walk(page: &Page<'_>, direction: Direction) -> Vec<String> {
    let prepared = page.evaluate(PREPARE).unwrap();
    let mut wrong = Vec::new();
    if prepared["forced"] != 0 {
        wrong.push("a tabindex puts something before what comes first".to_owned());
    }
    assert!(prepared["wanted"].as_u64().unwrap() > 0, "nothing to reach");
    for _ in 0..MOST_STOPS {
        match direction {
            Direction::Forwards => page.key("Tab").unwrap(),
            Direction::Backwards => page.shift("Tab").unwrap(),
        }
        let stop = page.evaluate(STOP).unwrap();
        if stop["at"] != "stop" {
            break;
        }
        for (is_wrong, what) in [
            (stop["marked"] != true, "is not marked while it has the focus"),
            (stop["hidden"] == true, "lies under something while it has the focus"),
        ] {
            if is_wrong {
                wrong.push(format!("{direction:?}: {what}: {}", stop["name"]));
            }
        }
    }
    for left in page.evaluate(LEFT).unwrap().as_array().unwrap() {
        wrong.push(format!("{direction:?}: never reached: {left}"));
    }
    wrong
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Forwards,
    Backwards,
}

#[test]
fn every_link_button_and_field_is_reached_by_tab_both_ways_and_is_seen_while_it_has_the_focus() {
    let web = WebSite::start("127.0.0.5", "hello from the wiki").unwrap();
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    // Nothing is still on its way from one look to the other.
    page.prefer(Theme::Light).unwrap();
    let mut wrong = Vec::new();
    for path in ["/signin", "/status"] {
        page.open(&format!("{}{path}", stage.url)).unwrap();
        wrong.extend(walk(&page, Direction::Forwards).iter().map(|what| format!("{path} (nobody): {what}")));
    }
    sign_in(&stage, &page);
    let world = furnish(&stage, &web);
    for path in &world.pages {
        for direction in [Direction::Forwards, Direction::Backwards] {
            page.open(&format!("{}{path}", stage.url)).unwrap();
            wrong.extend(walk(&page, direction).iter().map(|what| format!("{path}: {what}")));
        }
    }
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
}

/// What has the focus: its id, where it leads, or what it is called.
fn focused(page: &Page<'_>) -> String {
    let at = "(e => e.id || e.getAttribute('href') || e.tagName)(document.activeElement)";
    page.evaluate(at).unwrap().as_str().unwrap().to_owned()
}

fn is_open(page: &Page<'_>) -> bool {
    page.evaluate("document.querySelector('#palette').matches(':popover-open')").unwrap() == true
}

fn small_company(stage: &Stage) {
    for name in ["Wiki", "Wiki archive", "Labels"] {
        let site = json!({"name": name, "prefixes": ["10.0.0.0/8"]});
        stage.api("POST", "/sites", Some(&site)).unwrap();
    }
}

#[test]
fn the_palette_opens_by_key_and_button_finds_what_is_typed_and_gives_the_focus_back() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    small_company(&stage);
    page.open(&format!("{}/resources", stage.url)).unwrap();

    // From where somebody is, and back there.
    page.evaluate("document.querySelector('nav#nav a[href=\"/why\"]').focus()").unwrap();
    page.ctrl("k").unwrap();
    assert!(is_open(&page));
    assert_eq!(focused(&page), "palette-q");
    page.wait_for_text("#palette", "Connect a site").unwrap();
    page.key("Escape").unwrap();
    assert!(!is_open(&page));
    assert_eq!(focused(&page), "/why");
    page.key("/").unwrap();
    assert!(is_open(&page));
    page.ctrl("k").unwrap();
    assert!(!is_open(&page));
    assert_eq!(focused(&page), "/why");

    // By its button; what is typed there is looked for, and closing needs one key all the same.
    page.click("button.searchbox").unwrap();
    assert!(is_open(&page));
    page.fill("#palette-q", "wiki").unwrap();
    page.wait_for_text("#palette-found", "Wiki archive").unwrap();
    assert_eq!(page.count("#palette-found li a").unwrap(), 2, "{}", page.text("#palette-found").unwrap());
    page.fill("#palette-q", "arch").unwrap();
    eventually("one that fits", browser::PATIENCE, || {
        let found = page.text("#palette-found")?;
        anyhow::ensure!(page.count("#palette-found li a")? == 1 && found.contains("Wiki archive"), "{found}");
        Ok(())
    })
    .unwrap();
    page.fill("#palette-q", "nothing at all").unwrap();
    page.wait_for_text("#palette-found", "Nothing is called so").unwrap();
    page.key("Escape").unwrap();
    assert!(!is_open(&page));
    assert_eq!(page.evaluate("document.activeElement.matches('button.searchbox')").unwrap(), true);
    assert!(page.complaints().unwrap().is_empty(), "{:?}", page.complaints().unwrap());
}

#[test]
fn in_the_palette_arrows_walk_enter_goes_and_a_letter_goes_where_nothing_is_typed() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    small_company(&stage);
    let opened = || {
        page.open(&format!("{}/resources", stage.url)).unwrap();
        page.ctrl("k").unwrap();
        assert!(is_open(&page));
    };
    opened();
    page.fill("#palette-q", "wiki").unwrap();
    page.wait_for_text("#palette-found", "Wiki archive").unwrap();
    let found = "[...document.querySelectorAll('#palette-found a')].map(e => e.getAttribute('href'))";
    let found = page.evaluate(found).unwrap();
    page.key("ArrowDown").unwrap();
    assert_eq!(focused(&page), found[0]);
    page.key("ArrowDown").unwrap();
    assert_eq!(focused(&page), found[1]);
    page.key("ArrowUp").unwrap();
    assert_eq!(focused(&page), found[0]);
    page.key("ArrowUp").unwrap();
    assert_eq!(focused(&page), "palette-q");
    // Around its ends.
    page.key("ArrowUp").unwrap();
    assert_eq!(focused(&page), "/status");
    page.key("ArrowDown").unwrap();
    page.key("ArrowDown").unwrap();
    page.key("Enter").unwrap();
    page.wait_for_path(found[0].as_str().unwrap()).unwrap();

    // Enter in the field looks for it on a page of its own.
    opened();
    page.fill("#palette-q", "wiki").unwrap();
    page.key("Enter").unwrap();
    page.wait_for_path("/search?q=wiki").unwrap();

    // A letter that is typed is one; from an entry it leads away. Each leads somewhere else.
    opened();
    page.key("w").unwrap();
    assert_eq!(page.evaluate("document.querySelector('#palette-q').value").unwrap(), "w");
    page.wait_for_text("#palette-found", "Wiki").unwrap();
    page.key("ArrowUp").unwrap();
    page.key("w").unwrap();
    page.wait_for_path("/why").unwrap();
    for (letter, path) in [("c", "/sites"), ("r", "/devices"), ("p", "/people/new")] {
        opened();
        assert_eq!(page.text(&format!("#palette a[href='{path}'] kbd")).unwrap(), letter);
        page.key("ArrowDown").unwrap();
        page.key(letter).unwrap();
        page.wait_for_path(path).unwrap();
    }
    let letters = "[...document.querySelectorAll('#palette kbd')].map(e => e.textContent).sort().join('')";
    opened();
    assert_eq!(page.evaluate(letters).unwrap(), "acdoprsw");
    // With the palette closed, and with Ctrl held, a letter is none of ours.
    page.key("Escape").unwrap();
    page.key("w").unwrap();
    page.ctrl("k").unwrap();
    page.key("ArrowDown").unwrap();
    page.ctrl("c").unwrap();
    assert_eq!(page.path().unwrap(), "/resources");
}

#[test]
fn what_replaces_itself_takes_the_focus_from_nobody() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    small_company(&stage);
    let replaced = |name: &str| {
        page.evaluate("document.querySelector('[data-live]').dataset.old = ''; void 0").unwrap();
        stage.api("POST", "/sites", Some(&json!({"name": name, "prefixes": ["10.0.0.0/8"]}))).unwrap();
        eventually("a part that asked again", browser::PATIENCE, || {
            anyhow::ensure!(page.count("[data-live]:not([data-old])")? == 1, "it is the old one");
            Ok(())
        })
        .unwrap();
    };
    page.open(&format!("{}/topology", stage.url)).unwrap();
    page.evaluate("document.querySelector('#topology table a[href^=\"/sites/\"]').focus()").unwrap();
    page.key("Tab").unwrap();
    let on = page.evaluate("document.activeElement.getAttribute('href')").unwrap();
    assert!(on.as_str().is_some_and(|on| on.starts_with("/sites/")), "{on}");
    replaced("Antwerp");
    assert_eq!(page.evaluate("document.activeElement.getAttribute('href')").unwrap(), on);
    assert_eq!(page.evaluate("document.activeElement.matches(':focus-visible')").unwrap(), true);
    // Who is elsewhere stays there.
    page.evaluate("document.querySelector('button.searchbox').focus()").unwrap();
    replaced("Bremen");
    assert_eq!(page.evaluate("document.activeElement.matches('button.searchbox')").unwrap(), true);
}

#[test]
fn the_skip_link_leads_past_the_navigation_and_a_phone_s_menu_opens_and_closes_by_keys() {
    let stage = Stage::start().unwrap();
    let chromium = Chromium::start().unwrap();
    let page = chromium.page().unwrap();
    sign_in(&stage, &page);
    page.open(&format!("{}/resources", stage.url)).unwrap();
    page.key("Tab").unwrap();
    assert_eq!(focused(&page), "#main");
    page.key("Enter").unwrap();
    page.key("Tab").unwrap();
    let inside = "document.querySelector('#main').contains(document.activeElement)";
    assert_eq!(page.evaluate(inside).unwrap(), true, "{}", focused(&page));

    page.screen(Screen::PHONE).unwrap();
    page.open(&format!("{}/resources", stage.url)).unwrap();
    assert_eq!(walk(&page, Direction::Forwards), Vec::<String>::new());
    page.evaluate("document.querySelector('button[popovertarget=nav]').focus()").unwrap();
    page.key("Enter").unwrap();
    let is_open = || page.evaluate("document.querySelector('#nav').matches(':popover-open')").unwrap();
    assert_eq!(is_open(), true);
    page.key("Tab").unwrap();
    let inside = "document.querySelector('#nav').contains(document.activeElement)";
    assert_eq!(page.evaluate(inside).unwrap(), true, "{}", focused(&page));
    page.key("Escape").unwrap();
    assert_eq!(is_open(), false);
    assert_eq!(page.evaluate("document.activeElement.matches('[popovertarget=nav]')").unwrap(), true);
}
