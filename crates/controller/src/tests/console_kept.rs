//! Nothing that somebody typed is lost: every form of the console, sent without a session, from another session, and while
//! the database cannot be written.

use super::{
    Furniture, Reply, World,
    console::{form_token, get, owner, submit},
    console_devices,
    signin::proven,
};
use crate::console::forms;
use http::Method;
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};
use store::{Connector, DeviceState, EnrolmentKey, EnrolmentTarget, Pop, Scope, SecretHash};
use trust::sha256;

type Fields = Vec<(&'static str, String)>;

/// A form as somebody filled it in.
struct Filled {
    template: &'static str,
    path: String,
    /// What a page carries for itself.
    carried: Fields,
    typed: Fields,
}

/// Never back in a page.
const SECRET: &str = "client_secret";

/// What enrols itself: put straight into the database.
async fn agents(world: &World, f: &Furniture) -> (String, String) {
    let core = &world.controller.core;
    let store = core.database.store().unwrap();
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let now = crate::clock::wall().as_millis();
    let site: wire::SiteId = f.site.parse().unwrap();
    let key = |organization, target, number: u8| EnrolmentKey {
        id: wire::EnrolmentKeyId::from_time_and_random(now, [number; 10]),
        organization,
        name: format!("key {number}"),
        target,
        approval: false,
        secret_hash: SecretHash::from_digest(sha256(&[b"key", &[number]])),
        cap: 5,
        uses: 1,
        expires_ms: now + 3_600_000,
        created_ms: now,
    };
    let mut change = store.change(Scope::Installation, "a test", now).await.unwrap();
    let of_pop = key(None, EnrolmentTarget::Pop { region: "eu".into(), zone: "a".into() }, 1);
    change.insert_enrolment_key(&of_pop).await.unwrap();
    let pop = Pop {
        id: wire::PopId::from_time_and_random(now, [1; 10]),
        name: "pop-1".into(),
        region: "eu".into(),
        zone: "a".into(),
        address: "pop.example.com:443".into(),
        identity_key: sha256(&[b"pop"]),
        generation: 1,
        enrolled_by: of_pop.id,
        created_ms: now,
    };
    change.insert_pop(&pop).await.unwrap();
    change.commit("enrol", "pop", "{}").await.unwrap();
    let mut change = store.change(Scope::Organization(organization), "a test", now).await.unwrap();
    let of_connector = key(Some(organization), EnrolmentTarget::Connector { site }, 2);
    change.insert_enrolment_key(&of_connector).await.unwrap();
    let connector = Connector {
        id: wire::ConnectorId::from_time_and_random(now, [1; 10]),
        site,
        name: "hh-1".into(),
        identity_key: sha256(&[b"connector"]),
        wireguard_key: sha256(&[b"wireguard"]),
        seal_key: sha256(&[b"seal"]),
        generation: 1,
        enrolled_by: of_connector.id,
        created_ms: now,
    };
    change.insert_connector(&connector).await.unwrap();
    change.commit("enrol", "connector", "{}").await.unwrap();
    core.refresh(&store).await.unwrap();
    (pop.id.to_string(), connector.id.to_string())
}

/// Every form, filled in.
async fn filled(world: &World, session: &str) -> Vec<Filled> {
    let f = world.furnish().await;
    let id = |reply: Reply| reply.made()["id"].as_str().unwrap().to_owned();
    let other = id(world.post("/groups", json!({"name": "night shift"})).await);
    let account = id(world.post("/service-accounts", json!({"name": "backup"})).await);
    let token = world.post("/tokens", json!({"name": "nightly", "scopes": ["read"]})).await.made();
    let token = token["description"]["id"].as_str().unwrap().to_owned();
    let key = world.post("/enrolment-keys", json!({"kind": "connector", "site": f.site})).await.made();
    let key = key["key"]["id"].as_str().unwrap().to_owned();
    let provider = json!({"title": "Corporate", "issuer": "https://id.example.com", "client_id": "tidegate"});
    world.call(Method::PUT, "/oidc-providers/corp", Some(provider)).await;
    let device = console_devices::insert(world, &f.user, "laptop", DeviceState::Active).await;
    let waiting = console_devices::insert(world, &f.user, "tablet", DeviceState::Pending).await;
    let (pop, connector) = agents(world, &f).await;

    let text = |all: &[(&'static str, &str)]| -> Fields {
        all.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
    };
    let site = text(&[("name", "Typed site"), ("prefixes", "10.77.0.0/16"), ("regions", "typed-region")]);
    let resource = text(&[
        ("name", "Typed resource"),
        ("site", &f.site),
        ("address", "10.9.8.7"),
        ("ports", "udp/5353"),
        ("alias", "typed-alias"),
        ("mode", "strict"),
    ]);
    let policy = text(&[("name", "Typed policy"), ("groups", &other), ("resources", &f.resource)]);
    let person = text(&[("name", "Typed person"), ("email", "typed@example.com")]);
    let provider = text(&[
        ("title", "Typed title"),
        ("issuer", "https://typed.example.com"),
        ("client_id", "typed-client"),
        (SECRET, "typed-secret"),
        ("domains", "typed.example.com"),
        ("new_users", "make"),
        ("groups_claim", "typed-claim"),
        ("group_map", "staff = night shift"),
        ("scopes", "typed-scope"),
        ("ca_pem", ""),
    ]);
    let named = text(&[("name", "Typed name")]);
    let typed: BTreeMap<&str, (String, Fields)> = [
        ("/sites/new", ("", site.clone())),
        ("/sites/{id}/edit", (f.site.as_str(), site)),
        ("/resources/new", ("", resource.clone())),
        ("/resources/{id}/edit", (&f.resource, resource)),
        ("/policies/new", ("", policy.clone())),
        ("/policies/{id}/edit", (&f.policy, policy)),
        ("/groups/new", ("", named.clone())),
        ("/groups/{id}/edit", (&f.group, named.clone())),
        ("/groups/members/add", ("", text(&[("group", &other)]))),
        ("/people/new", ("", person.clone())),
        ("/people/{id}/edit", (&f.user, person)),
        ("/people/{id}/role", (&f.user, text(&[("role", "support")]))),
        ("/service-accounts/new", ("", named.clone())),
        ("/service-accounts/{id}/edit", (&account, named.clone())),
        ("/connectors/{id}/edit", (&connector, named.clone())),
        ("/devices/{id}/edit", (&device, named)),
        (
            "/pops/{id}/edit",
            (&pop, text(&[("address", "typed.example.com:443"), ("region", "typed-r"), ("zone", "typed-z")])),
        ),
        ("/keys/pop", ("", text(&[("region", "typed-region"), ("zone", "typed-zone")]))),
        (
            "/settings",
            (
                "",
                text(&[
                    ("name", "Typed organization"),
                    ("grant_life_seconds", "7201"),
                    ("renew_after_seconds", "61"),
                    ("sign_in_age_seconds", "901"),
                    ("approve_devices", "true"),
                    ("audit_retention_days", "366"),
                    ("flow_retention_days", "31"),
                ]),
            ),
        ),
        (
            "/settings/tokens",
            (
                "",
                text(&[
                    ("name", "Typed token"),
                    ("role", "auditor"),
                    ("scopes", "strike"),
                    ("life", "17"),
                    ("life_unit", "hours"),
                ]),
            ),
        ),
        ("/settings/providers/new", ("", [text(&[("name", "typed-name")]), provider.clone()].concat())),
        ("/settings/providers/{id}/edit", ("corp", provider)),
    ]
    .into_iter()
    .map(|(template, (id, fields))| (template, (id.to_owned(), fields)))
    .collect();

    let mut all = Vec::new();
    for template in forms() {
        let kind = template.split('/').nth(1).unwrap();
        let (id, typed) = typed.get(template).cloned().unwrap_or_else(|| {
            let id = match kind {
                _ if template == "/devices/{id}/approve" => &waiting,
                _ if template.starts_with("/settings/providers") => "corp",
                _ if template.starts_with("/settings/tokens") => &token,
                "sites" => &f.site,
                "resources" => &f.resource,
                "policies" => &f.policy,
                "groups" => &f.group,
                "people" => &f.user,
                "service-accounts" => &account,
                "devices" => &device,
                "connectors" => &connector,
                "pops" => &pop,
                "keys" => &key,
                other => panic!("a form of {other}: fill it in here"),
            };
            (id.to_owned(), Vec::new())
        });
        let path = template.replace("{id}", &id);
        let mut carried = match template {
            "/groups/members/add" => text(&[("member", &f.user)]),
            "/groups/{id}/members/remove" => text(&[("member", &f.user), ("back", "/people")]),
            "/keys/device" => text(&[("owner", &f.user)]),
            _ if template.starts_with("/policies") => text(&[("do", "save")]),
            _ => Vec::new(),
        };
        let page = get(world, &path, session).await;
        if let Some((_, rest)) = page.text.split_once("name=\"version\" value=\"") {
            carried.push(("version", rest.split('"').next().unwrap().replace("&quot;", "\"")));
        }
        all.push(Filled { template, path, carried, typed });
    }
    for filled in typed.keys() {
        assert!(all.iter().any(|one| one.template == *filled), "{filled} is a form that there is");
    }
    all
}

impl Filled {
    async fn send(&self, world: &World, session: &str, token: &str) -> Reply {
        let own = [("form_token", token)];
        let all = self.carried.iter().chain(&self.typed).map(|(name, value)| (*name, value.as_str()));
        submit(world, &self.path, session, &own.into_iter().chain(all).collect::<Vec<_>>()).await
    }

    /// Whether each value is in a field of the page.
    fn assert_kept(&self, page: &str, how: &str) {
        for (name, value) in &self.typed {
            let value = value.replace('&', "&amp;");
            let is_secret = *name == SECRET;
            let kept = [
                format!("type=\"hidden\" name=\"{name}\" value=\"{value}\""),
                format!("id=\"{name}\" name=\"{name}\" value=\"{value}\""),
                format!("id=\"token_{name}\" name=\"{name}\" value=\"{value}\""),
                format!("type=\"checkbox\" name=\"{name}\" value=\"{value}\" checked"),
                format!("<option value=\"{value}\" selected>"),
                format!(">{value}</textarea>"),
            ];
            let is_kept = kept.iter().any(|kept| page.contains(kept));
            // A secret goes on in a kept form, and comes back to no page that shows fields.
            assert!(is_kept || (is_secret && !page.contains(&value)), "{how} {}: {name}: {page}", self.path);
        }
    }
}

/// What a page would send when it goes on.
fn hidden(page: &str) -> Vec<(String, String)> {
    let inputs = page.split("<input type=\"hidden\" name=\"").skip(1);
    inputs
        .map(|rest| {
            let (name, rest) = rest.split_once("\" value=\"").unwrap();
            let value = rest.split('"').next().unwrap().replace("&quot;", "\"").replace("&amp;", "&");
            (name.to_owned(), value)
        })
        .collect()
}

#[tokio::test]
async fn every_form_of_a_session_that_ended_or_of_another_one_comes_back_with_all_that_was_typed() {
    let world = World::new().await;
    let session = owner(&world).await;
    for form in filled(&world, &session).await {
        let ended = form.send(&world, "", "x").await;
        assert_eq!(ended.status, 401, "{}: {}", form.path, ended.text);
        assert!(ended.text.contains("Nothing is lost"), "{}: {}", form.path, ended.text);
        form.assert_kept(&ended.text, "signed out");
        // Signed in again, and on.
        let kept = hidden(&ended.text);
        let kept: Vec<(&str, &str)> =
            kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let on = submit(&world, &form.path, &session, &kept).await;
        let other = form.send(&world, &session, "x").await;
        for (reply, how) in [(on, "signed in again"), (other, "of another session")] {
            assert_eq!(reply.status, 409, "{how} {}: {}", form.path, reply.text);
            form.assert_kept(&reply.text, how);
            let action = format!("action=\"{}\"", form.path);
            assert!(
                reply.text.contains(&action),
                "{how} {}: the form is there again: {}",
                form.path,
                reply.text
            );
            let said = reply.text.contains("before you signed in");
            assert!(said, "{how} {}: the page says why: {}", form.path, reply.text);
        }
    }
}

#[tokio::test]
async fn every_form_that_cannot_be_saved_for_the_database_keeps_what_was_typed_and_no_page_promises_more() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/settings", &session).await);
    let mut forms = filled(&world, &session).await;
    // What is typed first: the rest takes away, which needs no database.
    forms.sort_by_key(|form| form.typed.is_empty());
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    world.post("/groups", json!({"name": "later"})).await.problem(503);
    for form in forms {
        let reply = form.send(&world, &session, &token).await;
        let promises = reply.text.contains("What you typed is still here");
        if form.typed.is_empty() {
            let struck = reply.status == 200 && reply.text.contains("Nothing passes after");
            let gone = reply.status == 404;
            let waits = reply.status == 503 && reply.text.contains("Changes have to wait");
            assert!(struck || gone || waits, "{}: {} {}", form.path, reply.status, reply.text);
            assert!(!promises, "{}: {}", form.path, reply.text);
        } else {
            assert_eq!(reply.status, 503, "{}: {}", form.path, reply.text);
            assert!(promises, "{}: {}", form.path, reply.text);
            form.assert_kept(&reply.text, "no database");
        }
    }
}

#[tokio::test]
async fn no_form_of_an_old_sign_in_ends_at_the_apis_refusal_instead_of_the_page_that_renews_it() {
    let world = World::new().await;
    let session = owner(&world).await;
    let mut forms = filled(&world, &session).await;
    forms.sort_by_key(|form| form.typed.is_empty());
    let old = proven(&world, &session, Duration::from_secs(15 * 60));
    let token = form_token(&get(&world, "/settings", &old).await);
    let mut led = 0;
    for form in forms {
        let reply = form.send(&world, &old, &token).await;
        let is_led = reply.text.contains("Prove once more");
        assert_eq!(reply.status == 401, is_led, "{}: {} {}", form.path, reply.status, reply.text);
        assert!(!reply.text.contains("sign-in-again"), "{}: {}", form.path, reply.text);
        if is_led {
            form.assert_kept(&reply.text, "an old sign-in");
            led += 1;
        }
    }
    assert!(led >= 25, "{led}");
}

#[tokio::test]
async fn what_needs_the_database_waits_with_its_reason_beside_the_button_and_what_takes_access_away_does_not()
{
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let device = console_devices::insert(&world, &f.user, "laptop", DeviceState::Active).await;
    let waiting = console_devices::insert(&world, &f.user, "tablet", DeviceState::Pending).await;
    let blocked = console_devices::insert(&world, &f.user, "phone", DeviceState::Blocked).await;
    let made = world.post("/tokens", json!({"name": "nightly", "scopes": ["read"]})).await.made();
    let token = made["description"]["id"].as_str().unwrap();
    world.post("/groups", json!({"name": "night shift"})).await.made();
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    world.post("/groups", json!({"name": "later"})).await.problem(503);
    for (path, button, waits) in [
        (format!("/devices/{waiting}/approve"), "Approve the device", "Approving waits: "),
        (format!("/devices/{blocked}"), "Give access back", "Giving it back waits: "),
        (format!("/sites/{}/remove", f.site), "Remove the site", "Removing waits: "),
        (format!("/policies/{}/remove", f.policy), "Remove it: ", "Removing waits: "),
        (format!("/settings/tokens/{token}/remove"), "Remove the token", "Removing waits: "),
        (format!("/people/{}", f.user), "Put into this group", "This waits: "),
        ("/pops".to_owned(), "Make its key", "Enrolling waits: "),
        ("/settings".to_owned(), "Make a token", "Making one waits: "),
    ] {
        let page = get(&world, &path, &session).await;
        let before = page.text.rsplit_once(button).expect("the button").0;
        let last = before.rsplit("<button").next().unwrap();
        assert!(last.contains(" disabled") && page.text.contains(waits), "{path}: {}", page.text);
    }
    for (path, button) in [
        (format!("/devices/{device}/revoke"), "Revoke the device"),
        (format!("/devices/{device}/block"), "Block the device"),
        (format!("/devices/{device}/archive"), "Archive the device"),
        (format!("/people/{}/remove", f.user), "Remove the person"),
    ] {
        let page = get(&world, &path, &session).await;
        let before = page.text.rsplit_once(button).expect("the button").0;
        assert!(!before.rsplit("<button").next().unwrap().contains("disabled"), "{path}: {}", page.text);
    }
    let audit = get(&world, "/audit", &session).await;
    assert!(audit.text.contains("The history cannot be read right now"), "{}", audit.text);
    assert!(!audit.text.contains("<p>Changes have to wait"), "{}", audit.text);
}

#[tokio::test]
async fn a_pops_key_that_is_refused_says_so_at_the_field_and_keeps_the_other() {
    let world = World::new().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/pops", &session).await);
    let fields = [("form_token", token.as_str()), ("region", "North Sea!"), ("zone", "quay-7")];
    let refused = submit(&world, "/keys/pop", &session, &fields).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    for shown in ["id=\"region-error\"", "href=\"#region\"", "value=\"North Sea!\"", "value=\"quay-7\""] {
        assert!(refused.text.contains(shown), "{shown}: {}", refused.text);
    }
    assert!(!refused.text.contains("id=\"zone-error\""), "{}", refused.text);
}
