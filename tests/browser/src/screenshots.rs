//! `cargo xtask screenshots`: every page of the console, light and dark, on a desktop and a phone, into a folder that a
//! person can look through; with axe-core's and Lighthouse's judgement of each, and what the first page costs.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that reports to a person"
)]

mod lighthouse;
mod steps;

use anyhow::{Context as _, Result, ensure};
use browser::{Chromium, Page, Screen, Stage, Terminal, Theme, WebSite, eventually};
use lighthouse::Lighthouse;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// What the owner signs in with.
pub(crate) const PASSPHRASE: &str = "correct horse battery staple";
/// A tenth of what counts as good (web.dev's threshold of CLS is 0.1): nothing may move that a person would see.
const MOST_SHIFT: f64 = 0.01;
/// What the first page may cost (issue 6).
const MOST_BYTES: u64 = 150_000;
const LATEST_PAINT_MS: f64 = 1000.0;

/// A page: what its files are called, where it is, and what is done there before the picture is taken.
struct Shot {
    name: &'static str,
    path: String,
    steps: Option<steps::Steps>,
}

impl Shot {
    fn new(name: &'static str, path: impl Into<String>) -> Self {
        Self { name, path: path.into(), steps: None }
    }

    /// A page that only somebody who did something sees.
    fn after(name: &'static str, path: impl Into<String>, steps: steps::Steps) -> Self {
        Self { name, path: path.into(), steps: Some(steps) }
    }
}

/// Who looks at pages.
struct Visitor<'a> {
    page: Page<'a>,
    is_signed_in: bool,
}

/// The folder of pictures, and what was found on the way.
struct Album<'a> {
    stage: &'a Stage,
    folder: PathBuf,
    axe: Option<String>,
    lighthouse: Option<Lighthouse>,
    /// Where the browser lets Lighthouse in.
    port: u16,
    names: Vec<&'static str>,
    findings: Vec<String>,
    /// Of all pages.
    worst_shift: f64,
}

impl Album<'_> {
    fn shoot(&mut self, visitor: &Visitor<'_>, shots: &[Shot]) -> Result<()> {
        let only = std::env::var("TIDEGATE_ONLY_PAGES").unwrap_or_default();
        let shots: Vec<&Shot> = shots.iter().filter(|shot| shot.name.contains(&only)).collect();
        let origin = self.stage.url.clone();
        let cookie = match (&self.lighthouse, visitor.is_signed_in) {
            (Some(_), true) => Some(visitor.page.cookies(&origin)?),
            _ => None,
        };
        let plain: Vec<_> = shots
            .iter()
            .filter(|shot| shot.steps.is_none())
            .map(|shot| (shot.name, shot.path.as_str()))
            .collect();
        // Lighthouse has a browser of its own for pages that have an address: it judges while pictures are taken.
        let mut lighthouse = self.lighthouse.take();
        let judge = lighthouse.as_mut().filter(|_| !plain.is_empty());
        thread::scope(|scope| {
            let judging = judge.map(|judge| scope.spawn(|| judge.judge(&origin, cookie.as_deref(), &plain)));
            for shot in &shots {
                eprintln!("page {}: {}", self.names.len() + 1, shot.name);
                self.take(&visitor.page, shot).with_context(|| shot.name)?;
                self.names.push(shot.name);
            }
            judging.map_or(Ok(()), |judging| {
                judging.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))
            })
        })?;
        self.lighthouse = lighthouse;
        if let Some(lighthouse) = &mut self.lighthouse {
            // An address leads nowhere behind a form: it looks on while somebody gets there.
            for shot in &shots {
                let Some(steps) = shot.steps else { continue };
                let page = &visitor.page;
                page.open(&format!("{}{}", self.stage.url, shot.path))?;
                let judged = lighthouse.judge_after(shot.name, (self.port, page), || steps(self.stage, page));
                judged.with_context(|| shot.name)?;
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().context("usage: screenshots FOLDER [AXE.JS [LIGHTHOUSE]]")?;
    let axe = arguments.next().map(fs::read_to_string).transpose().context("axe-core's script")?;
    let lighthouse = arguments.next().map(|folder| Lighthouse::new(&folder));
    fs::create_dir_all(&folder)?;
    let web = WebSite::start("127.0.0.2", "hello")?;
    let stage = Stage::start()?;
    let chromium = Chromium::start_open()?;
    let guest = Visitor { page: chromium.page()?, is_signed_in: false };
    let owner = Visitor { page: chromium.page()?, is_signed_in: true };
    let mut album = Album {
        stage: &stage,
        folder,
        axe,
        lighthouse,
        port: chromium.port()?,
        names: Vec::new(),
        findings: Vec::new(),
        worst_shift: 0.0,
    };
    let first_owner = stage.owner_link.strip_prefix(stage.url.as_str()).context("a link to the console")?;
    album.shoot(&guest, &[Shot::new("first-owner", first_owner)])?;
    sign_in(&stage, &owner.page)?;
    album.shoot(
        &owner,
        &[
            Shot::new("empty-overview", "/"),
            Shot::new("empty-sites", "/sites"),
            Shot::new("empty-policies", "/policies"),
        ],
    )?;
    let world = furnish(&stage, &web)?;
    album.shoot(&owner, &world.shots)?;
    // However long the pictures above took: what asks for a fresh sign-in is let through, but for one page.
    let sign_in_age =
        |seconds: u64| stage.api("PATCH", "/settings", Some(&json!({"sign_in_age_seconds": seconds})));
    sign_in_age(43_200)?;
    album.shoot(&owner, &world.answers)?;
    sign_in_age(60)?;
    album.shoot(&owner, &[Shot::after("step-up", "/settings", steps::STEP_UP)])?;
    sign_in_age(43_200)?;
    album.shoot(
        &owner,
        &[
            Shot::new("totp-set-up", "/account/totp"),
            Shot::after("recovery-codes", "/account/totp", steps::RECOVERY_CODES),
        ],
    )?;
    let ca = stage.controller_state().join("console-ca.pem");
    let mut terminal = Terminal::login(&stage, "phone", &["--ca", ca.to_str().context("a path in UTF-8")?])?;
    let shown = terminal.says()?;
    let code = shown["address_with_code"].as_str().and_then(|link| link.strip_prefix(stage.url.as_str()));
    album.shoot(&owner, &[Shot::new("device-code-confirm", code.context("a link to the console")?)])?;
    drop(terminal);
    album.shoot(&guest, &world.guests)?;
    {
        let _lock = stage.lock_database()?;
        // The first write that is refused tells the console.
        let _ = stage.api("POST", "/groups", Some(&json!({"name": "later"})));
        album.shoot(
            &owner,
            &[
                Shot::new("degraded-overview", "/"),
                Shot::new("degraded-form", "/groups/new"),
                Shot::new("degraded-status", "/status"),
            ],
        )?;
    }
    index(&album.folder, &album.names)?;
    println!("{} pages, 4 pictures each, in {}", album.names.len(), album.folder.display());
    first_page(&chromium, &stage)?;
    album.conclude()
}

fn sign_in(stage: &Stage, page: &Page<'_>) -> Result<()> {
    page.open(&stage.owner_link)?;
    page.fill("#name, #n", "Lena Brandt")?;
    if page.count("#email")? == 1 {
        page.fill("#email", "lena@example.com")?;
    }
    page.fill("#passphrase, #p", PASSPHRASE)?;
    page.fill("#again, #a", PASSPHRASE)?;
    page.follow("main form[method=post] button[type=submit]")
}

struct World {
    shots: Vec<Shot>,
    /// What forms are answered with.
    answers: Vec<Shot>,
    /// For who is not signed in.
    guests: Vec<Shot>,
    _connector: browser::Connector,
    _client: browser::Client,
}

fn id(made: &Value) -> String {
    made["id"].as_str().unwrap_or_default().to_owned()
}

/// A small company: sites, resources, people, policies, one device that is connected and has been refused once.
fn furnish(stage: &Stage, web: &WebSite) -> Result<World> {
    let post = |path: &str, body: Value| stage.api("POST", path, Some(&body));
    let mut sites = Vec::new();
    for (name, prefix) in
        [("Hamburg DC", "127.0.0.0/8"), ("Rotterdam", "10.30.0.0/16"), ("Gdańsk plant", "10.40.0.0/16")]
    {
        sites.push(id(&post("/sites", json!({"name": name, "prefixes": [prefix]}))?));
    }
    let address = (web.address.ip().to_string(), web.address.port().to_string());
    let mut resources = Vec::new();
    for (name, site, address, ports, mode) in [
        ("Wiki", 0, address.0.as_str(), vec![address.1.as_str()], "standard"),
        ("Order database", 0, "orders-db.example.com", vec!["5432"], "strict"),
        ("Labels", 1, "labels.example.com", vec!["9100"], "standard"),
        ("Plant network", 2, "10.40.7.0/24", vec!["102", "502", "udp/161"], "strict"),
        ("Everything at the plant", 2, "*.plant.example.com", vec!["443"], "standard"),
        ("Build registry", 0, "registry.example.com", vec!["443", "22"], "standard"),
    ] {
        let body =
            json!({"name": name, "site": sites[site], "address": address, "ports": ports, "mode": mode});
        resources.push(id(&post("/resources", body)?));
    }
    let mut groups = Vec::new();
    for name in ["engineering", "support", "plant-maintenance"] {
        groups.push(id(&post("/groups", json!({"name": name}))?));
    }
    let mut people = Vec::new();
    for (index, name) in
        ["Mikkel Lund", "Adaeze Okafor", "Tomás Herrera", "Priya Raman", "Yuki Tanabe"].iter().enumerate()
    {
        let user = id(&post("/users", json!({"name": name, "email": format!("person{index}@example.com")}))?);
        stage.api("PUT", &format!("/groups/{}/members/{user}", groups[index % 3]), Some(&json!({})))?;
        people.push(user);
    }
    let account = id(&post("/service-accounts", json!({"name": "backup"}))?);
    let mut policies = Vec::new();
    for (name, group, reach) in [
        ("Engineers read the wiki", 0, vec![0, 5]),
        ("Orders", 1, vec![1]),
        ("Plant maintenance", 2, vec![3, 4]),
    ] {
        let reach: Vec<&String> = reach.into_iter().map(|index: usize| &resources[index]).collect();
        policies.push(id(&post(
            "/policies",
            json!({"name": name, "groups": [groups[group]], "resources": reach}),
        )?));
    }
    let brief = id(&post(
        "/policies",
        json!({"name": "Migration week", "groups": [groups[0]], "resources": [resources[1]]}),
    )?);
    let key = post("/enrolment-keys", json!({"kind": "connector", "site": sites[0], "name": "hh-1"}))?;
    let connector = stage.connector("hh-1", key["join_key"].as_str().context("a key")?)?;
    let key = post("/enrolment-keys", json!({"kind": "device", "owner": people[0]}))?;
    let client = stage.client("mikkel-laptop", key["join_key"].as_str().context("a key")?)?;
    eventually("a page through the tunnel", Duration::from_secs(30), || {
        client.fetch(&format!("http://{}", web.address))
    })?;
    // Access that was just taken away: its connector refuses what the device still believes it may do.
    stage.api("DELETE", &format!("/policies/{brief}"), None)?;
    let _ = client.fetch("http://orders-db.example.com:5432");
    eventually("flows in the log", Duration::from_secs(20), || {
        let flows = stage.api("GET", "/flows", None)?;
        ensure!(flows["items"].as_array().is_some_and(|items| !items.is_empty()), "{flows}");
        Ok(())
    })?;
    let device = &client.device;
    let shot = |name: &'static str, path: String| Shot::new(name, path);
    stage.api(
        "PUT",
        "/oidc-providers/corp",
        Some(&json!({"title": "Corporate account", "issuer": "https://id.example.com", "client_id": "tidegate"})),
    )?;
    let connectors = stage.api("GET", "/connectors", None)?;
    let connector_id = id(&connectors["items"][0]);
    let pops = stage.api("GET", "/pops", None)?;
    let pop_id = id(&pops["items"][0]);
    let keys = stage.api("GET", "/enrolment-keys", None)?;
    let token = id(&post("/tokens", json!({"name": "nightly export", "scopes": ["read"]}))?["description"]);
    let key = json!({"kind": "device", "owner": people[1], "approval": true});
    let waiting = post("/enrolment-keys", key)?;
    let waiting = stage.waiting_device("tablet", waiting["join_key"].as_str().context("a key")?)?;
    let for_rotterdam =
        post("/enrolment-keys", json!({"kind": "connector", "site": sites[1], "name": "rtm-1"}))?;
    let shots = vec![
        shot("overview", "/".into()),
        shot("topology", "/topology".into()),
        shot("flows", "/flows".into()),
        shot("resources", "/resources".into()),
        shot("resource", format!("/resources/{}", resources[0])),
        shot("resource-new", "/resources/new".into()),
        shot("resource-edit", format!("/resources/{}/edit", resources[0])),
        shot("resource-remove", format!("/resources/{}/remove", resources[0])),
        shot("policies", "/policies".into()),
        shot("policy", format!("/policies/{}", policies[0])),
        shot("policy-edit", format!("/policies/{}/edit", policies[0])),
        shot("policy-new-preview", format!("/policies/new?group={}&resource={}", groups[0], resources[1])),
        shot("policy-remove", format!("/policies/{}/remove", policies[0])),
        shot("access", "/access".into()),
        shot("why-empty", "/why".into()),
        shot("why-yes", "/why?who=Mikkel+Lund&to=Wiki".into()),
        shot("why-no", "/why?who=Mikkel+Lund&to=Order+database".into()),
        shot("sites", "/sites".into()),
        shot("site", format!("/sites/{}", sites[0])),
        shot("site-new", "/sites/new".into()),
        shot("site-edit", format!("/sites/{}/edit", sites[0])),
        shot("site-connect", format!("/sites/{}/connect", sites[1])),
        shot("site-remove", format!("/sites/{}/remove", sites[2])),
        shot("connector", format!("/connectors/{connector_id}")),
        shot("connector-revoke", format!("/connectors/{connector_id}/revoke")),
        shot("connector-remove", format!("/connectors/{connector_id}/remove")),
        shot("site-waiting", format!("/sites/{}/waiting/{}", sites[1], id(&for_rotterdam["key"]))),
        shot("people", "/people".into()),
        shot("person-new", "/people/new".into()),
        shot("person-remove", format!("/people/{}/remove", people[0])),
        shot("person", format!("/people/{}", people[0])),
        shot("person-revoke", format!("/people/{}/revoke", people[0])),
        shot("person-role", format!("/people/{}/role", people[0])),
        shot("person-edit", format!("/people/{}/edit", people[0])),
        shot("group", format!("/groups/{}", groups[0])),
        shot("group-new", "/groups/new".into()),
        shot("group-edit", format!("/groups/{}/edit", groups[0])),
        shot("group-remove", format!("/groups/{}/remove", groups[0])),
        shot("devices", "/devices".into()),
        shot("device", format!("/devices/{device}")),
        shot("device-revoke", format!("/devices/{device}/revoke")),
        shot("device-block", format!("/devices/{device}/block")),
        shot("device-archive", format!("/devices/{device}/archive")),
        shot("device-edit", format!("/devices/{device}/edit")),
        shot("device-remove", format!("/devices/{device}/remove")),
        shot("devices-waiting", "/devices?state=waiting".into()),
        shot("device-waiting", format!("/devices/{waiting}")),
        shot("device-approve", format!("/devices/{waiting}/approve")),
        shot("service-accounts", "/service-accounts".into()),
        shot("service-account-new", "/service-accounts/new".into()),
        shot("service-account", format!("/service-accounts/{account}")),
        shot("service-account-revoke", format!("/service-accounts/{account}/revoke")),
        shot("service-account-remove", format!("/service-accounts/{account}/remove")),
        shot("pops", "/pops".into()),
        shot("pop", format!("/pops/{pop_id}")),
        shot("pop-edit", format!("/pops/{pop_id}/edit")),
        shot("pop-revoke", format!("/pops/{pop_id}/revoke")),
        shot("pop-remove", format!("/pops/{pop_id}/remove")),
        shot("key-remove", format!("/keys/{}/remove", id(&keys["items"][0]))),
        shot("only-takes-a-form", "/keys/pop".into()),
        shot("keys", "/keys".into()),
        shot("audit", "/audit".into()),
        shot("audit-sign-ins", "/audit/sign-ins".into()),
        shot("settings", "/settings".into()),
        shot("providers", "/settings/providers".into()),
        shot("provider-new", "/settings/providers/new".into()),
        shot("provider-edit", "/settings/providers/corp/edit".into()),
        shot("provider-remove", "/settings/providers/corp/remove".into()),
        shot("token-remove", format!("/settings/tokens/{token}/remove")),
        shot("search", "/search?q=e".into()),
        shot("status", "/status".into()),
        shot("account", "/account".into()),
        shot("device-code", "/device".into()),
        shot("signed-in-again", "/signed-in-again".into()),
        shot("not-found", "/sites/nothing".into()),
        shot("no-such-page", "/recources".into()),
    ];
    let person = format!("/people/{}", people[0]);
    let answers = vec![
        Shot::after("form-errors", "/sites/new", steps::WRONG_SITE),
        Shot::after("form-outdated", format!("/sites/{}/edit", sites[1]), steps::OUTDATED_SITE),
        Shot::after("policy-outdated", format!("/policies/{}/edit", policies[1]), steps::OUTDATED_POLICY),
        Shot::after("struck", format!("/service-accounts/{account}/revoke"), steps::STRUCK),
        Shot::after("from-before-sign-in", "/settings", steps::FROM_BEFORE),
        Shot::after("connector-key-shown", format!("/sites/{}/connect", sites[2]), steps::CONNECTOR_KEY),
        Shot::after("pop-key-shown", "/pops", steps::POP_KEY),
        Shot::after("key-shown", person.as_str(), steps::DEVICE_KEY),
        Shot::after("invitation-shown", person.as_str(), steps::INVITATION),
        Shot::after("token-shown", "/settings", steps::TOKEN),
        Shot::after("token-errors", "/settings", steps::NAMELESS_TOKEN),
    ];
    let invited = post("/invitations", json!({"user": people[1]}))?;
    let invitation = invited["link"].as_str().and_then(|link| link.strip_prefix(stage.url.as_str()));
    let guests = vec![
        shot("sign-in", "/signin".into()),
        Shot::after("sign-in-error", "/signin", steps::WRONG_PASSPHRASE),
        Shot::after("sign-in-code", "/signin", steps::FIRST_FACTOR),
        shot("join", "/join".into()),
        shot("api-reference", "/api/".into()),
        shot("invitation", invitation.context("a link to the console")?.to_owned()),
        shot("link-used-up", "/invitation/nothing".into()),
    ];
    Ok(World { shots, answers, guests, _connector: connector, _client: client })
}

impl Album<'_> {
    /// Four pictures of a page, each judged.
    fn take(&mut self, page: &Page<'_>, shot: &Shot) -> Result<()> {
        for (theme, theme_name) in [(Theme::Light, "light"), (Theme::Dark, "dark")] {
            for (screen, screen_name) in [(Screen::DESKTOP, "1440"), (Screen::PHONE, "390")] {
                page.prefer(theme)?;
                page.screen(screen)?;
                page.open(&format!("{}{}", self.stage.url, shot.path))?;
                let shift = page.layout_shift()?;
                self.worst_shift = self.worst_shift.max(shift);
                if shift > MOST_SHIFT {
                    self.findings.push(format!(
                        "{} {theme_name} {screen_name}: parts moved by {shift:.3} while it loaded",
                        shot.name
                    ));
                }
                if let Some(steps) = shot.steps {
                    steps(self.stage, page)?;
                }
                let wide = page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth",
                )?;
                let file = format!("{}-{theme_name}-{screen_name}", shot.name);
                if wide.as_i64().unwrap_or(0) > 1 {
                    self.findings.push(format!("{file}: {wide} px wider than the screen"));
                }
                page.picture(&self.folder.join(format!("{file}.png")), screen)?;
                if let Some(axe) = &self.axe {
                    judge(page, &file, axe, &mut self.findings)?;
                }
            }
        }
        Ok(())
    }

    fn conclude(&self) -> Result<()> {
        println!(
            "cumulative layout shift while a page loads: {:.4} at most (≤ {MOST_SHIFT})",
            self.worst_shift
        );
        if self.axe.is_some() {
            for finding in &self.findings {
                println!("axe: {finding}");
            }
            println!(
                "axe-core: {} serious or critical findings on {} pages, light and dark, 1440 and 390 px",
                self.findings.len(),
                self.names.len()
            );
        }
        if let Some(lighthouse) = &self.lighthouse {
            lighthouse.conclude()?;
        }
        ensure!(self.findings.is_empty(), "the pages have findings");
        Ok(())
    }
}

fn judge(page: &Page<'_>, file: &str, axe: &str, findings: &mut Vec<String>) -> Result<()> {
    page.evaluate(&format!("{axe};void 0"))?;
    let run = "axe.run(document, {resultTypes: ['violations']}).then(r => JSON.stringify(r.violations.map(v => \
               ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.slice(0, 3).map(n => n.html.slice(0, 160) + ' — ' + (n.failureSummary || '').slice(0, 200))}))))";
    let found: Value = serde_json::from_str(page.evaluate(run)?.as_str().context("axe's answer")?)?;
    for violation in found.as_array().into_iter().flatten() {
        if matches!(violation["impact"].as_str(), Some("serious" | "critical")) {
            findings.push(format!(
                "{file}: {} {} {} {}",
                violation["impact"], violation["id"], violation["help"], violation["nodes"]
            ));
        }
    }
    Ok(())
}

/// What the first page costs somebody who comes for the first time.
fn first_page(chromium: &Chromium, stage: &Stage) -> Result<()> {
    // The database was locked a moment ago: the next change is let through when it was found to be back.
    let link = eventually("a change once the lock is gone", Duration::from_secs(30), || {
        stage.api("POST", "/owner-links", Some(&json!({})))
    })?;
    let page = chromium.page()?;
    page.open(link["link"].as_str().context("a link")?)?;
    page.fill("#name, #n", "Tomás Herrera")?;
    if page.count("#email")? == 1 {
        page.fill("#email", "tomas@example.org")?;
    }
    page.fill("#passphrase, #p", PASSPHRASE)?;
    page.fill("#again, #a", PASSPHRASE)?;
    page.follow("main form[method=post] button[type=submit]")?;
    page.call("Network.clearBrowserCache", json!({}))?;
    page.bytes()?;
    page.open(&format!("{}/", stage.url))?;
    let paint = eventually("the first paint", Duration::from_secs(10), || {
        let paint =
            page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null")?;
        paint.as_f64().context("not painted yet")
    })?;
    let bytes = page.bytes()?;
    println!(
        "first page, cold: first contentful paint {paint:.0} ms (≤ {LATEST_PAINT_MS:.0}), {bytes} bytes transferred (≤ {MOST_BYTES})"
    );
    ensure!(bytes <= MOST_BYTES && bytes > 10_000, "{bytes} bytes");
    ensure!(paint <= LATEST_PAINT_MS, "{paint} ms");
    Ok(())
}

fn index(folder: &Path, names: &[&str]) -> Result<()> {
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tidegate console</title><style>body{font:14px system-ui;margin:2rem}section{margin-bottom:3rem}img{border:1px solid #ccc;vertical-align:top;margin:.25rem}.d{width:36rem}.p{width:10rem}</style><h1>Tidegate console</h1>",
    );
    for name in names {
        let _ = write!(html, "<section><h2>{name}</h2>");
        for theme in ["light", "dark"] {
            for (screen, class) in [("1440", "d"), ("390", "p")] {
                let file = format!("{name}-{theme}-{screen}.png");
                let _ = write!(
                    html,
                    "<a href=\"{file}\"><img class=\"{class}\" loading=\"lazy\" src=\"{file}\" alt=\"{name}, {theme}, {screen} px\"></a>"
                );
            }
        }
        html.push_str("</section>");
    }
    fs::write(folder.join("index.html"), html).context("the index")
}
