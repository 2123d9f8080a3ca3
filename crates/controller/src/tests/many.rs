//! Ten thousand of everything: every list has them all, and no page of the console carries them all.

use super::{World, console};
use std::collections::BTreeSet;
use store::{
    Connector, Device, DeviceState, EnrolmentKey, EnrolmentTarget, Group, Member, Policy, Ports, Resource,
    ResourceMode, Role, Scope, SecretHash, ServiceAccount, Site, Token, User,
};
use trust::{Identity, sha256};

const MANY: usize = 10_000;
/// A page with more than this is not looked at, it is scrolled: the largest is the picker of a policy's form.
const MOST_BYTES: usize = 400_000;

fn random(number: usize) -> [u8; 10] {
    let mut random = [0; 10];
    random.copy_from_slice(&sha256(&[b"many", &number.to_be_bytes()])[..10]);
    random
}

/// Another 32 bytes for each number and use.
fn bytes(of: &str, number: usize) -> [u8; 32] {
    sha256(&[of.as_bytes(), &number.to_be_bytes()])
}

/// Straight into the database, in one transaction: what the lists show is asked about here, not how it came to be.
async fn fill(world: &World) {
    let store = world.controller.core.database.store().unwrap();
    let organization = world.controller.core.snapshot().dataset.organizations[0].organization.id;
    let now = crate::clock::wall().as_millis();
    let mut change = store.change(Scope::Organization(organization), "a test", now).await.unwrap();
    let first = wire::GroupId::from_time_and_random(now, random(0));
    for number in 0..MANY {
        one_of_each(&mut change, organization, number, now).await;
        if number > 0 {
            let user = wire::UserId::from_time_and_random(now + number as u64, random(number));
            change.add_member(first, Member::User(user), 0).await.unwrap();
        }
        change.note(store::Noted {
            action: "fill".into(),
            subject: format!("object {number:05}"),
            before: None,
            after: None,
            detail: "{}".into(),
        });
    }
    change.commit("fill", "everything", "{}").await.unwrap();
    world.controller.core.refresh(&store).await.unwrap();
    logs(world, organization);
}

/// As many flows as connectors send in batches, and as many sign-ins.
fn logs(world: &World, organization: wire::OrganizationId) {
    let (core, now) = (&world.controller.core, crate::clock::wall());
    let connector = wire::ConnectorId::from_bytes([2; 16]);
    for batch in 0..MANY / 100 {
        let records: Vec<String> = (0..100)
            .map(|number| {
                serde_json::json!({"id": format!("flow-{batch}-{number}"), "verdict": "allowed"}).to_string()
            })
            .collect();
        let (batch, text) = (batch as u64 + 1, records.join("\n"));
        core.flows.take(organization, connector, batch, text.as_bytes(), now).unwrap();
    }
    for number in 0..MANY {
        core.signin.log.write(&crate::signin::Entry {
            at: now,
            organization,
            user: None,
            method: format!("passphrase-{number:05}"),
            outcome: crate::signin::Outcome::SignedIn,
            address: [203, 0, 113, 7].into(),
            detail: String::new(),
        });
    }
}

/// Every entry of a list, page by page: what tells one from another.
async fn paged(world: &World, path: &str, by: &str) -> BTreeSet<String> {
    let (mut seen, mut after) = (BTreeSet::new(), String::new());
    loop {
        let page = world.get(&format!("{path}?limit=1000{after}")).await.ok();
        for item in page["items"].as_array().unwrap() {
            assert!(seen.insert(item[by].to_string()), "{path}: {item} twice");
        }
        let Some(next) = page["next"].as_str() else { return seen };
        after = format!("&after={next}");
    }
}

async fn one_of_each(
    change: &mut store::Change,
    organization: wire::OrganizationId,
    number: usize,
    now: u64,
) {
    let (at, random) = (now + number as u64, random(number));
    let name = |kind: &str| format!("{kind} {number:05}");
    let site = wire::SiteId::from_time_and_random(at, random);
    let (group, user) =
        (wire::GroupId::from_time_and_random(at, random), wire::UserId::from_time_and_random(at, random));
    let resource = wire::ResourceId::from_time_and_random(at, random);
    let key = wire::EnrolmentKeyId::from_time_and_random(at, random);
    change
        .insert_site(&Site {
            id: site,
            name: name("site"),
            prefixes: vec!["10.0.0.0/8".into()],
            regions: Vec::new(),
            created_ms: now,
        })
        .await
        .unwrap();
    change
        .insert_enrolment_key(&EnrolmentKey {
            id: key,
            organization: Some(organization),
            name: name("key"),
            target: EnrolmentTarget::Connector { site },
            approval: false,
            secret_hash: SecretHash::from_digest(bytes("key", number)),
            cap: 5,
            uses: 1,
            expires_ms: now + 3_600_000,
            created_ms: now,
        })
        .await
        .unwrap();
    change
        .insert_connector(&Connector {
            id: wire::ConnectorId::from_time_and_random(at, random),
            site,
            name: name("connector"),
            identity_key: bytes("connector", number),
            wireguard_key: bytes("wireguard", number),
            seal_key: bytes("seal", number),
            generation: 1,
            enrolled_by: key,
            created_ms: now,
        })
        .await
        .unwrap();
    change
        .insert_resource(&Resource {
            id: resource,
            site,
            name: name("resource"),
            alias: None,
            address: format!("10.{}.{}.{}", number / 65_536, number / 256 % 256, number % 256),
            ports: vec![Ports::tcp(443, 443)],
            mode: ResourceMode::Standard,
            created_ms: now,
        })
        .await
        .unwrap();
    change.insert_group(&Group { id: group, name: name("group"), created_ms: now }).await.unwrap();
    let email = format!("user{number}@example.com");
    change
        .insert_user(&User {
            id: user,
            name: name("user"),
            email,
            role: Role::Member,
            generation: 1,
            created_ms: now,
        })
        .await
        .unwrap();
    change.add_member(group, Member::User(user), 0).await.unwrap();
    let account = wire::ServiceAccountId::from_time_and_random(at, random);
    change
        .insert_service_account(&ServiceAccount {
            id: account,
            name: name("account"),
            generation: 1,
            created_ms: now,
        })
        .await
        .unwrap();
    change
        .insert_device(&Device {
            id: wire::DeviceId::from_time_and_random(at, random),
            owner: Member::User(user),
            name: name("device"),
            state: DeviceState::Active,
            identity_key: bytes("device", number),
            generation: 1,
            enrolled_by: key,
            created_ms: now,
        })
        .await
        .unwrap();
    change
        .insert_policy(&Policy {
            id: wire::PolicyId::from_time_and_random(at, random),
            name: name("policy"),
            groups: vec![group],
            resources: vec![resource],
            created_ms: now,
        })
        .await
        .unwrap();
    change
        .insert_token(&Token {
            id: wire::TokenId::from_time_and_random(at, random),
            name: name("token"),
            scopes: vec!["read".into()],
            secret_hash: SecretHash::from_digest(bytes("token", number)),
            expires_ms: now + 3_600_000,
            created_ms: now,
        })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_of_everything_are_in_the_lists_and_the_consoles_pages_stay_pages() {
    let world = World::new().await;
    let session = console::owner(&world).await;
    fill(&world).await;
    let mut some = Vec::new();
    for kind in [
        "sites",
        "connectors",
        "resources",
        "groups",
        "users",
        "service-accounts",
        "devices",
        "policies",
        "tokens",
        "enrolment-keys",
    ] {
        let (mut seen, mut after) = (BTreeSet::new(), String::new());
        loop {
            let page = world.get(&format!("/{kind}?limit=1000&sort=-created{after}")).await.ok();
            let items = page["items"].as_array().unwrap();
            seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        // The owner is a user, too.
        assert!((MANY..=MANY + 1).contains(&seen.len()), "{kind}: {}", seen.len());
        some.push((kind, seen.into_iter().nth(MANY / 2).unwrap()));
    }
    let all = world.get("/groups?name=group%2000000").await.ok();
    let all = all["items"][0]["id"].as_str().unwrap();
    for (path, by, most) in [
        (format!("/groups/{all}/members"), "member", MANY),
        ("/flows".to_owned(), "id", MANY),
        ("/authentication-log".to_owned(), "method", MANY + 1),
    ] {
        let found = paged(&world, &path, by).await.len();
        assert!((MANY..=most).contains(&found), "{path}: {found}");
    }
    let audit = paged(&world, "/audit", "hash").await;
    assert!(audit.len() > MANY, "{}", audit.len());
    let id = |kind: &str| some.iter().find(|(of, _)| *of == kind).unwrap().1.clone();
    let mut pages: Vec<String> = [
        "/",
        "/topology",
        "/flows",
        "/resources",
        "/resources/new",
        "/policies",
        "/policies/new",
        "/access",
        "/why",
        "/why?who=user+00007&to=resource+00007",
        "/sites",
        "/people",
        "/devices",
        "/service-accounts",
        "/pops",
        "/keys",
        "/audit",
        "/audit/sign-ins",
        "/settings",
        "/search?q=0",
        "/status",
    ]
    .map(str::to_owned)
    .into();
    pages.push(format!("/policies/new?group={}&resource={}", id("groups"), id("resources")));
    pages.push(format!("/policies/{}/edit", id("policies")));
    pages.push(format!("/groups/{all}"));
    for (kind, place) in [
        ("sites", "sites"),
        ("connectors", "connectors"),
        ("resources", "resources"),
        ("groups", "groups"),
        ("users", "people"),
        ("service-accounts", "service-accounts"),
        ("devices", "devices"),
        ("policies", "policies"),
    ] {
        pages.push(format!("/{place}/{}", id(kind)));
    }
    let mut too_large = Vec::new();
    for path in pages {
        let page = console::get(&world, &path, &session).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        if page.text.len() > MOST_BYTES {
            too_large.push(format!("{path}: {} bytes", page.text.len()));
        }
    }
    assert!(too_large.is_empty(), "{too_large:#?}");
    a_site_is_typed_by_its_name(&world, &session).await;
    every_connected_device_is_on_one_of_the_pages(&world, &session).await;
    let topology = console::get(&world, "/topology", &session).await;
    assert!(topology.text.contains("200 of 10\u{202f}000 sites"), "what has no room is said");
    world.stop().await;
}

/// All of them connected at once.
async fn every_connected_device_is_on_one_of_the_pages(world: &World, session: &str) {
    let core = &world.controller.core;
    let snapshot = core.snapshot();
    let data = &snapshot.dataset.organizations[0];
    let identity = |id| Identity::device(core.signer.installation(), data.organization.id, id);
    let attached: Vec<Identity> = data.devices.iter().map(|device| identity(device.id)).collect();
    let here = crate::presence::Here { attached, by_stream: Vec::new() };
    core.presence().came(wire::PopId::from_bytes([1; 16]), &here, crate::clock::wall());
    let page = async |number: &str| {
        console::get(world, &format!("/flows?verdict=denied&connected={number}"), session).await.text
    };
    let first = page("1").await;
    assert!(
        first.contains("1–50 of 10\u{202f}000") && first.contains("verdict=denied&amp;connected=2"),
        "{first}"
    );
    let last = page("200").await;
    assert!(
        last.contains("9\u{202f}951–10\u{202f}000 of 10\u{202f}000") && last.contains("connected=199"),
        "{last}"
    );
    let beyond = page("18446744073709551615").await;
    assert!(beyond.contains("9\u{202f}951–10\u{202f}000 of 10\u{202f}000"), "{beyond}");
}

/// Ten thousand names are in no list to choose from.
async fn a_site_is_typed_by_its_name(world: &World, session: &str) {
    let listed = console::get(world, "/resources?site=SITE+00042", session).await;
    assert!(listed.text.contains("resource 00042") && !listed.text.contains("resource 00041"));
    let form = console::get(world, "/resources/new", session).await;
    let token = console::form_token(&form);
    let fields = |site: &'static str| {
        let token = token.clone();
        move |name: &str| match name {
            "site" => site.to_owned(),
            "form_token" => token.clone(),
            "name" => "of one among many".to_owned(),
            "address" => "10.1.2.3".to_owned(),
            "ports" => "443".to_owned(),
            _ => "standard".to_owned(),
        }
    };
    let send = async |site| {
        let value = fields(site);
        let values =
            ["name", "site", "address", "ports", "mode", "form_token"].map(|name| (name, value(name)));
        let values: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
        console::submit(world, "/resources/new", session, &values).await
    };
    let refused = send("site 424242").await;
    assert_eq!(refused.status, 422);
    for shown in ["none is called “site 424242”", "value=\"site 424242\"", "value=\"of one among many\""]
    {
        assert!(refused.text.contains(shown), "{shown}: {}", refused.text);
    }
    let made = send("Site 00042").await;
    assert_eq!(made.status, 303, "{}", made.text);
    let place = made.headers["location"].to_str().unwrap().split('?').next().unwrap().to_owned();
    // In a test each edition is held against a whole reading, and an answer waits only so long for its edition.
    let deadline = crate::clock::now() + std::time::Duration::from_secs(60);
    let mut read = world.get(&place).await;
    while read.status == 404 && crate::clock::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        read = world.get(&place).await;
    }
    let resource = read.ok();
    assert_eq!(resource["name"], "of one among many");
    let site = resource["site"].as_str().unwrap();
    let site = world.get(&format!("/sites/{site}")).await.ok();
    assert_eq!(site["name"], "site 00042");
}
