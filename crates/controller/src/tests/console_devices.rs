//! Devices in the console: one that waits is let in, and one whose access goes is kept where it is wanted.

use super::{
    World,
    console::{form_token, get, owner, submit},
};
use http::{Method, header};
use serde_json::json;
use store::{Device, DeviceState, EnrolmentKey, EnrolmentTarget, Member, Scope, SecretHash};
use trust::sha256;

/// A device of a person, put straight into the database as enrolment leaves it.
pub(super) async fn insert(world: &World, user: &str, name: &str, state: DeviceState) -> String {
    let core = &world.controller.core;
    let store = core.database.store().unwrap();
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let owner = Member::User(user.parse().unwrap());
    let now = crate::clock::wall().as_millis();
    let mut random = [0; 10];
    random.copy_from_slice(&sha256(&[b"device", name.as_bytes()])[..10]);
    let mut change = store.change(Scope::Organization(organization), "a test", now).await.unwrap();
    let key = EnrolmentKey {
        id: wire::EnrolmentKeyId::from_time_and_random(now, random),
        organization: Some(organization),
        name: format!("for {name}"),
        target: EnrolmentTarget::Device { owner },
        approval: state == DeviceState::Pending,
        secret_hash: SecretHash::from_digest(sha256(&[b"key", name.as_bytes()])),
        cap: 1,
        uses: 1,
        expires_ms: now + 3_600_000,
        created_ms: now,
    };
    change.insert_enrolment_key(&key).await.unwrap();
    let id = wire::DeviceId::from_time_and_random(now, random);
    let row = Device {
        id,
        owner,
        name: name.into(),
        state,
        identity_key: sha256(&[b"identity", name.as_bytes()]),
        generation: 1,
        enrolled_by: key.id,
        created_ms: now,
    };
    change.insert_device(&row).await.unwrap();
    change.commit("enrol", "device", "{}").await.unwrap();
    core.refresh(&store).await.unwrap();
    id.to_string()
}

#[tokio::test]
async fn a_device_that_waits_is_announced_on_the_overview_found_in_the_list_and_approved_from_its_page() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let calm = get(&world, "/", &session).await;
    assert!(!calm.text.contains("for approval"), "{}", calm.text);
    let waits = insert(&world, &f.user, "New laptop", DeviceState::Pending).await;
    insert(&world, &f.user, "Old laptop", DeviceState::Active).await;

    let overview = get(&world, "/", &session).await;
    assert!(
        overview.text.contains("<a href=\"/devices?state=waiting\">1 device waits for approval</a>"),
        "{}",
        overview.text
    );
    let list = get(&world, "/devices?state=waiting", &session).await;
    assert!(list.text.contains("New laptop") && !list.text.contains("Old laptop"), "{}", list.text);
    let place = format!("/devices/{waits}/approve");
    assert!(
        list.text.contains(&format!("href=\"{place}\" aria-label=\"Approve New laptop\"")),
        "{}",
        list.text
    );
    let page = get(&world, &format!("/devices/{waits}"), &session).await;
    assert!(page.text.contains("waits for approval") && page.text.contains(&place), "{}", page.text);
    assert!(!page.text.contains("not attached"), "it is not merely away: {}", page.text);

    let form = get(&world, &place, &session).await;
    for shown in ["Approve <bdi>New laptop</bdi>?", "Ada", "Identity key", "Approve the device"] {
        assert!(form.text.contains(shown), "{shown}: {}", form.text);
    }
    let forged = submit(&world, &place, &session, &[("form_token", "x")]).await;
    assert_eq!(forged.status, 409);
    assert!(forged.text.contains("before you signed in"), "{}", forged.text);
    let token = form_token(&form);
    let done = submit(&world, &place, &session, &[("form_token", &token)]).await;
    assert_eq!(done.headers[header::LOCATION], format!("/devices/{waits}?approved=1"), "{}", done.text);
    let page = get(&world, &format!("/devices/{waits}?approved=1"), &session).await;
    assert!(page.text.contains("Approved.") && page.text.contains("not attached"), "{}", page.text);
    assert_eq!(world.get(&format!("/devices/{waits}")).await.ok()["state"], "active");

    // It waits for nobody any more, and the page says so instead of asking again.
    let late = submit(&world, &place, &session, &[("form_token", &token)]).await;
    assert_eq!(late.status, 409);
    assert!(
        late.text.contains("It was not approved.") && !late.text.contains("Approve the device"),
        "{}",
        late.text
    );
}

#[tokio::test]
async fn a_device_is_blocked_or_archived_with_the_honest_count_and_is_found_by_that_state() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    for (way, done, kept) in [("block", "was blocked", "blocked"), ("archive", "was archived", "archived")] {
        let id = insert(&world, &f.user, &format!("to {way}"), DeviceState::Active).await;
        let page = get(&world, &format!("/devices/{id}"), &session).await;
        let place = format!("/devices/{id}/{way}");
        assert!(page.text.contains(&format!("href=\"{place}\"")), "{way}: {}", page.text);
        let form = get(&world, &place, &session).await;
        assert!(
            form.text.contains("Keep it") && form.text.contains(&format!("action=\"{place}\"")),
            "{}",
            form.text
        );
        let token = form_token(&form);
        let struck = submit(&world, &place, &session, &[("form_token", &token)]).await;
        assert_eq!(struck.status, 200, "{}", struck.text);
        for shown in [done, "Enforced at", "Nothing passes after"] {
            assert!(struck.text.contains(shown), "{way}: {shown}: {}", struck.text);
        }
        assert_eq!(world.get(&format!("/devices/{id}")).await.ok()["state"], kept);
        let list = get(&world, &format!("/devices?state={kept}"), &session).await;
        assert!(list.text.contains(&format!("to {way}")), "{}", list.text);
        for other in ["waiting", "attached", "away", "revoked"] {
            let list = get(&world, &format!("/devices?state={other}"), &session).await;
            assert!(!list.text.contains(&format!("to {way}")), "{other}: {}", list.text);
        }
        // Its access is given back like any other's.
        let page = get(&world, &format!("/devices/{id}"), &session).await;
        assert!(page.text.contains("Give access back"), "{}", page.text);
        let back =
            submit(&world, &format!("/devices/{id}/restore"), &session, &[("form_token", &token)]).await;
        assert_eq!(back.status, 303, "{}", back.text);
        assert_eq!(world.get(&format!("/devices/{id}")).await.ok()["state"], "active");
    }
}

#[tokio::test]
async fn a_device_that_was_revoked_while_it_waited_is_shown_as_revoked_and_not_for_approval() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let id = insert(&world, &f.user, "New laptop", DeviceState::Pending).await;
    world.post("/strikes", json!({"subject": id})).await;
    let page = get(&world, &format!("/devices/{id}"), &session).await;
    assert!(page.text.contains("revoked") && !page.text.contains("/approve"), "{}", page.text);
    let overview = get(&world, "/", &session).await;
    assert!(!overview.text.contains("for approval"), "{}", overview.text);
}

#[tokio::test]
async fn whoever_may_not_let_devices_in_sees_that_one_waits_and_no_button() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let id = insert(&world, &f.user, "New laptop", DeviceState::Pending).await;
    let users = world.get("/users").await.ok();
    let me = users["items"].as_array().unwrap().iter().find(|user| user["name"] == "Lena Brandt").unwrap();
    let me = format!("/users/{}/role", me["id"].as_str().unwrap());
    for (role, may) in [("support", true), ("auditor", false)] {
        world.call(Method::PUT, &me, Some(json!({"role": role}))).await.ok();
        for page in ["/devices?state=waiting".to_owned(), format!("/devices/{id}")] {
            let page = get(&world, &page, &session).await;
            assert!(page.text.contains("waits for approval"), "{}", page.text);
            for way in ["approve", "block", "archive"] {
                let shown = page.text.contains(&format!("/devices/{id}/{way}\""));
                assert!(may || !shown, "{role} {way}");
            }
            assert_eq!(page.text.contains(&format!("/devices/{id}/approve\"")), may, "{role}");
        }
        for way in ["approve", "block", "archive"] {
            let status = get(&world, &format!("/devices/{id}/{way}"), &session).await.status;
            assert_eq!(status == 200, may, "{role} {way}: {status}");
        }
    }
}

#[tokio::test]
async fn an_address_of_another_kind_revokes_nothing() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let token = form_token(&get(&world, "/settings", &session).await);
    for page in ["devices", "service-accounts", "connectors", "pops"] {
        let place = format!("/{page}/{}/revoke", f.user);
        let reply = submit(&world, &place, &session, &[("form_token", &token)]).await;
        assert_eq!(reply.status, 404, "{place}");
        assert!(reply.text.contains("There is no such"), "{place}: {}", reply.text);
    }
    assert_eq!(world.get(&format!("/users/{}", f.user)).await.ok()["struck"], false);
}
