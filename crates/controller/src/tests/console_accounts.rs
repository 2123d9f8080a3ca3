//! How people get into their accounts, and out of them, by the console: invitation, recovery, the end of sessions, and the
//! log of who signed in.

use super::{
    World,
    console::{PASSPHRASE, cookies, form_token, get, owner, submit},
    signin::{is_signed_in, sign_in},
};
use http::{Method, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The path of the link that a page shows.
fn link_in(page: &str) -> String {
    let rest = page.split_once("https://localhost:8443/invitation/").expect("a link").1;
    format!("/invitation/{}", rest.split('<').next().unwrap().trim())
}

/// Sets a passphrase by a link, and gives the session that begins with it.
async fn take(world: &World, link: &str) -> String {
    let page = get(world, link, "").await;
    let token = form_token(&page);
    let fields = [("passphrase", PASSPHRASE), ("again", PASSPHRASE), ("form_token", token.as_str())];
    let taken = submit(world, link, &cookies(&page), &fields).await;
    assert_eq!(taken.status, 303, "{}", taken.text);
    cookies(&taken)
}

#[tokio::test]
async fn a_person_is_invited_by_a_link_that_is_shown_once_and_signed_out_everywhere_from_their_page() {
    let world = World::new().await;
    let f = world.furnish().await;
    let session = owner(&world).await;
    let place = format!("/people/{}", f.user);
    let page = get(&world, &place, &session).await;
    assert!(page.text.contains("Make an invitation") && !page.text.contains("Sign out everywhere"));
    let token = form_token(&page);
    let fields = [("form_token", token.as_str())];
    let made = submit(&world, &format!("{place}/invite"), &session, &fields).await;
    assert_eq!(made.status, 200, "{}", made.text);
    assert_eq!(made.headers[header::CACHE_CONTROL], "no-store");
    let link = link_in(&made.text);
    let ada = take(&world, &link).await;
    assert!(is_signed_in(&world, &ada).await);

    let page = get(&world, &place, &session).await;
    let secret = link.rsplit('/').next().unwrap();
    assert!(!page.text.contains(secret), "shown once");
    assert!(page.text.contains("Make a recovery link") && page.text.contains("Sign out everywhere"));
    let ended = submit(&world, &format!("{place}/end-sessions"), &session, &fields).await;
    assert_eq!(ended.headers[header::LOCATION], format!("{place}?ended=1"), "{}", ended.text);
    assert!(get(&world, &format!("{place}?ended=1"), &session).await.text.contains("Signed out everywhere."));
    assert!(!is_signed_in(&world, &ada).await && is_signed_in(&world, &session).await);

    let forged = submit(&world, &format!("{place}/invite"), &session, &[("form_token", "x")]).await;
    assert!(!forged.text.contains("/invitation/"), "{}", forged.text);
    let nobody = submit(&world, "/people/usr-x/invite", &session, &fields).await;
    assert_eq!(nobody.status, 404);
}

#[tokio::test]
async fn nobody_lets_themselves_into_the_account_of_somebody_who_may_do_more() {
    let world = World::new().await;
    let session = owner(&world).await;
    let olga = json!({"name": "Olga", "email": "olga@example.com", "role": "owner"});
    let olga = world.post("/users", olga).await.made()["id"].as_str().unwrap().to_owned();
    let users = world.get("/users").await.ok();
    let me = users["items"].as_array().unwrap().iter().find(|user| user["name"] == "Lena Brandt").unwrap();
    let me = format!("/users/{}/role", me["id"].as_str().unwrap());
    world.call(Method::PUT, &me, Some(json!({"role": "admin"}))).await.ok();
    let place = format!("/people/{olga}");
    let page = get(&world, &place, &session).await;
    assert!(!page.text.contains("/invite\"") && !page.text.contains("/end-sessions\""), "{}", page.text);
    let token = form_token(&page);
    for what in ["invite", "end-sessions"] {
        let fields = [("form_token", token.as_str())];
        let refused = submit(&world, &format!("{place}/{what}"), &session, &fields).await;
        assert_eq!(refused.status, 403, "{what}: {}", refused.text);
        assert!(!refused.text.contains("/invitation/"));
    }
}

/// Every entry, page by page.
async fn entries(world: &World, query: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.get(&format!("/authentication-log?{query}{after}")).await.ok();
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { return all };
        after = format!("&after={next}");
    }
}

#[tokio::test]
async fn the_authentication_log_is_turned_by_a_cursor_that_loses_no_entry_of_one_instant_and_is_searched() {
    let world = World::new().await;
    owner(&world).await;
    let core = &world.controller.core;
    let organization = core.snapshot().dataset.organizations[0].organization.id;
    let at = core.signer.best_time();
    for number in 0..25_u8 {
        core.signin.log.write(&crate::signin::Entry {
            at,
            organization,
            user: None,
            method: "passphrase".into(),
            outcome: crate::signin::Outcome::Wrong,
            address: [192, 0, 2, number].into(),
            detail: String::new(),
        });
    }
    let all = entries(&world, "limit=7").await;
    let addresses: BTreeSet<&str> = all.iter().map(|entry| entry["address"].as_str().unwrap()).collect();
    assert_eq!((all.len(), addresses.len()), (26, 26), "each once");
    assert_eq!(entries(&world, "limit=7&outcome=wrong").await.len(), 25);
    let of_lena = entries(&world, "q=BRANDT").await;
    assert_eq!(of_lena.len(), 1, "{of_lena:?}");
    assert_eq!(of_lena[0]["user_name"], "Lena Brandt");
    let user = of_lena[0]["user"].as_str().unwrap();
    assert_eq!(entries(&world, &format!("user={user}")).await.len(), 1);
    assert_eq!(entries(&world, "q=192.0.2.24").await.len(), 1);
    assert_eq!(entries(&world, &format!("before_ms={}&outcome=wrong", at.as_millis())).await.len(), 0);
    assert_eq!(entries(&world, &format!("from_ms={}&outcome=wrong", at.as_millis())).await.len(), 25);
    for wrong in ["outcome=right", "after=x", "after=1.2.3"] {
        let problem = world.get(&format!("/authentication-log?{wrong}")).await.problem(400);
        assert_eq!(problem["field"], wrong.split('=').next().unwrap());
    }
}

#[tokio::test]
async fn the_console_shows_who_signed_in_beside_the_audit_log() {
    let world = World::new().await;
    let session = owner(&world).await;
    sign_in(&world, "not the passphrase at all").await;
    let audit = get(&world, "/audit", &session).await;
    assert!(audit.text.contains("href=\"/audit/sign-ins\""), "{}", audit.text);
    let page = get(&world, "/audit/sign-ins", &session).await;
    for shown in ["Lena Brandt", "Signed in", "203.0.113.7", "one-time-link + passphrase"] {
        assert!(page.text.contains(shown), "{shown}: {}", page.text);
    }
    let wrong = get(&world, "/audit/sign-ins?outcome=wrong", &session).await;
    assert!(wrong.text.contains("badge--denied") && !wrong.text.contains("one-time-link"), "{}", wrong.text);
    let nothing = get(&world, "/audit/sign-ins?q=nobody+is+called+so", &session).await;
    assert!(nothing.text.contains("Nothing fits"), "{}", nothing.text);
}
