//! Signing in as a browser does it: passphrase, code, passkey, invitation, device code, and what ends a session.

use super::{
    Reply, World,
    console::{PASSPHRASE, cookies, form_token, get, owner, submit},
    stranger,
};
use crate::signin::{
    cookie::{LIFE, Methods, RoleSource, WebSession},
    totp::TotpSecret,
    webauthn::tests::Authenticator,
};
use axum::body::Body;
use http::{Request, header};
use serde_json::{Value, json};
use std::time::Duration;
use trust::decode_base64url;

async fn ask(world: &World, path: &str, cookies: &str, body: &Value) -> Reply {
    let request = Request::post(path)
        .header(header::COOKIE, cookies)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    world.send(stranger(), request).await
}

/// The owner's own id.
async fn owner_id(world: &World) -> String {
    world.get("/users").await.ok()["items"][0]["id"].as_str().unwrap().to_owned()
}

pub(super) async fn sign_in(world: &World, passphrase: &str) -> Reply {
    let page = get(world, "/signin", "").await;
    let token = form_token(&page);
    let fields = [("name", "lena@example.com"), ("passphrase", passphrase), ("form_token", token.as_str())];
    submit(world, "/signin", &cookies(&page), &fields).await
}

pub(super) async fn is_signed_in(world: &World, session: &str) -> bool {
    get(world, "/account", session).await.status == 200
}

/// Holds the database's write lock until it is dropped.
async fn locked(world: &World) -> store::Change {
    let path = world.state().join("tidegate.db");
    let other = store::Store::open(&path, store::Opening::MustExist).await.unwrap();
    let now = crate::clock::wall().as_millis();
    other.change(store::Scope::Installation, "somebody else", now).await.unwrap()
}

#[tokio::test]
async fn a_session_is_known_after_a_restart_and_with_the_database_locked_and_so_is_who_signs_in_then() {
    let world = World::new().await;
    let session = owner(&world).await;
    assert!(is_signed_in(&world, &session).await);
    let world = world.restarted().await;
    assert!(is_signed_in(&world, &session).await, "after a restart");
    let lock = locked(&world).await;
    world.post("/groups", json!({"name": "later"})).await.problem(503);
    assert!(is_signed_in(&world, &session).await, "with the database locked");
    let again = sign_in(&world, PASSPHRASE).await;
    assert_eq!(again.status, 303, "{}", again.text);
    assert!(is_signed_in(&world, &cookies(&again)).await);
    // What needs the database says so.
    let page = get(&world, "/account", &session).await;
    let fields = [
        ("passphrase", "another long passphrase"),
        ("again", "another long passphrase"),
        ("form_token", &form_token(&page)),
    ];
    let waits = submit(&world, "/account/passphrase", &session, &fields).await;
    assert_eq!(waits.status, 503);
    assert!(waits.text.contains("Nothing was changed"), "{}", waits.text);
    drop(lock);
}

#[tokio::test]
async fn signing_out_ends_the_session_for_every_copy_of_its_cookie_and_over_a_restart() {
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/account", &session).await;
    submit(&world, "/signout", &session, &[("form_token", &form_token(&page))]).await;
    assert!(!is_signed_in(&world, &session).await);
    let world = world.restarted().await;
    assert!(!is_signed_in(&world, &session).await);
}

#[tokio::test]
async fn a_strike_ends_every_session_at_once_with_the_database_gone_and_nobody_signs_in_anew() {
    let world = World::new().await;
    let session = owner(&world).await;
    let user = owner_id(&world).await;
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    let struck = world.post("/strikes", json!({"subject": user})).await;
    assert!(struck.status.is_success(), "{}", struck.text);
    assert!(!is_signed_in(&world, &session).await);
    let refused = sign_in(&world, PASSPHRASE).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("Access was revoked"), "{}", refused.text);
}

#[tokio::test]
async fn signing_out_everywhere_ends_all_sessions_and_an_owner_can_do_it_for_others() {
    let world = World::new().await;
    let first = owner(&world).await;
    let second = cookies(&sign_in(&world, PASSPHRASE).await);
    let page = get(&world, "/account", &first).await;
    let done = submit(&world, "/account/sessions/end", &first, &[("form_token", &form_token(&page))]).await;
    assert_eq!(done.headers[header::LOCATION], "/signin");
    assert!(!is_signed_in(&world, &first).await && !is_signed_in(&world, &second).await);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let third = cookies(&sign_in(&world, PASSPHRASE).await);
    assert!(is_signed_in(&world, &third).await);
    let user = owner_id(&world).await;
    let ended = world.post("/ended-web-sessions", json!({"user": user})).await;
    assert_eq!(ended.status, 204, "{}", ended.text);
    assert!(!is_signed_in(&world, &third).await);
}

#[tokio::test]
async fn many_people_are_signed_out_in_one_request_or_nobody_is() {
    let world = World::new().await;
    let session = owner(&world).await;
    let user = owner_id(&world).await;
    let f = world.furnish().await;
    let out = async |people: &[&str]| {
        let operations = people
            .iter()
            .map(|user| json!({"method": "POST", "path": "/ended-web-sessions", "body": {"user": user}}));
        world.post("/bulk", json!({"operations": operations.collect::<Vec<_>>()})).await
    };
    // That person never set an account up.
    let problem = out(&[&user, &f.user]).await.problem(404);
    assert!(problem["detail"].as_str().unwrap().contains("operation 1"), "{problem}");
    assert!(is_signed_in(&world, &session).await);
    assert_eq!(out(&[&user]).await.ok()["results"][0]["status"], 204);
    assert!(!is_signed_in(&world, &session).await);
}

/// A session like `session`, proven `ago`.
pub(super) fn proven(world: &World, session: &str, ago: Duration) -> String {
    let core = &world.controller.core;
    let (name, text) = session.split("; ").next().unwrap().split_once('=').unwrap();
    let now = core.signer.best_time();
    let read = WebSession::from_text(text, &core.signin.keys, now).unwrap();
    let older = WebSession { authenticated: now.minus(ago), ..read };
    format!("{name}={}", older.to_text(&core.signin.keys))
}

#[tokio::test]
async fn changing_how_one_signs_in_needs_a_proof_of_the_last_quarter_of_an_hour() {
    let world = World::new().await;
    // The account is as old as the session: the session must not begin before it.
    let session = owner(&world).await;
    let old = proven(&world, &session, Duration::from_secs(16 * 60));
    let page = get(&world, "/account", &old).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let fields = [
        ("passphrase", "another long passphrase"),
        ("again", "another long passphrase"),
        ("form_token", &form_token(&page)),
    ];
    let again = submit(&world, "/account/passphrase", &old, &fields).await;
    assert_eq!(again.headers[header::LOCATION], "/signin?again=1&next=%2Faccount%3Fnot%3D1");
    let told = get(&world, "/account?not=1", &session).await;
    assert!(told.text.contains("Nothing was changed: "), "{}", told.text);
    let prove = get(&world, "/signin?again=1&next=%2Faccount%3Fnot%3D1", &old).await;
    assert!(prove.text.contains("Prove that it is you"), "{}", prove.text);
    let token = form_token(&page);
    let refused = ask(&world, "/account/passkeys/options", &old, &json!({"form_token": token})).await;
    assert_eq!(refused.status, 403);
    let done = submit(&world, "/account/passphrase", &session, &fields).await;
    assert_eq!(done.headers[header::LOCATION], "/account?saved=1");
    assert!(get(&world, "/account?saved=1", &session).await.text.contains("Saved."));
    assert_eq!(sign_in(&world, PASSPHRASE).await.status, 403, "the old one");
    assert_eq!(sign_in(&world, "another long passphrase").await.status, 303);
}

#[tokio::test]
async fn a_forged_or_foreign_session_is_nobody() {
    let (world, other) = (World::new().await, World::new().await);
    let session = owner(&world).await;
    owner(&other).await;
    assert!(!is_signed_in(&other, &session).await, "another installation's");
    let core = &world.controller.core;
    let (name, text) = session.split("; ").next().unwrap().split_once('=').unwrap();
    let now = core.signer.best_time();
    let read = WebSession::from_text(text, &core.signin.keys, now).unwrap();
    let of = |session: WebSession| format!("{name}={}", session.to_text(&core.signin.keys));
    for (what, forged) in [
        ("a user that nobody is", WebSession { user: wire::UserId::from_bytes([9; 16]), ..read }),
        (
            "another organization",
            WebSession { organization: wire::OrganizationId::from_bytes([9; 16]), ..read },
        ),
        ("an administrator that nobody is", WebSession { source: RoleSource::Administrator, ..read }),
        ("an older generation", WebSession { generation: 0, ..read }),
        ("over", WebSession { seen: now.minus(LIFE), ..read }),
    ] {
        assert!(!is_signed_in(&world, &of(forged)).await, "{what}");
    }
    assert!(is_signed_in(&world, &of(WebSession { methods: Methods::default(), ..read })).await);
}

fn secret_on(page: &Reply) -> TotpSecret {
    let text = page.text.split_once("<code class=\"wrap-any\">").unwrap().1.split('<').next().unwrap();
    let (mut held, mut bits, mut bytes) = (0_u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b' ') {
        held = (held << 5)
            | u32::try_from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".iter().position(|x| *x == c).unwrap())
                .unwrap();
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 255).unwrap());
        }
    }
    TotpSecret::from_bytes(&bytes).unwrap()
}

fn hidden<'a>(page: &'a Reply, name: &str) -> &'a str {
    let rest = page.text.split_once(&format!("name=\"{name}\" value=\"")).unwrap().1;
    rest.split('"').next().unwrap()
}

/// Switches an authenticator app on; gives its secret and the recovery codes.
pub(super) async fn with_app(world: &World, session: &str) -> (TotpSecret, Vec<String>) {
    let page = get(world, "/account/totp", session).await;
    assert!(page.text.contains("<svg class=\"qr\""), "{}", page.text);
    let secret = secret_on(&page);
    let now = world.controller.core.signer.best_time();
    let (token, setup) = (form_token(&page), hidden(&page, "setup").to_owned());
    let wrong = [("code", "000000"), ("setup", setup.as_str()), ("form_token", token.as_str())];
    assert_eq!(submit(world, "/account/totp", session, &wrong).await.status, 422);
    let code = secret.code_at(now);
    let right = [("code", code.as_str()), ("setup", setup.as_str()), ("form_token", token.as_str())];
    let done = submit(world, "/account/totp", session, &right).await;
    assert_eq!(done.status, 200, "{}", done.text);
    let codes = done.text.split("<li><code>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
    (secret, codes.collect())
}

pub(super) async fn second(world: &World, jar: &str, code: &str) -> Reply {
    let page = get(world, "/signin/code", jar).await;
    assert_eq!(page.status, 200, "{}", page.text);
    let token = form_token(&page);
    let jar = format!("{jar}; {}", cookies(&page));
    submit(world, "/signin/code", &jar, &[("code", code), ("form_token", &token)]).await
}

#[tokio::test]
async fn with_an_authenticator_app_a_passphrase_is_half_a_sign_in_and_each_code_works_once() {
    let world = World::new().await;
    let session = owner(&world).await;
    let (secret, codes) = with_app(&world, &session).await;
    assert_eq!(codes.len(), 10);
    let half = sign_in(&world, PASSPHRASE).await;
    assert_eq!(half.headers[header::LOCATION], "/signin/code");
    let jar = cookies(&half);
    assert!(!is_signed_in(&world, &jar).await);
    let now = world.controller.core.signer.best_time();
    let used = second(&world, &jar, &secret.code_at(now)).await;
    assert_eq!(used.status, 403, "the code that switched it on signs nobody in");
    let next = secret.code_at(now.plus(Duration::from_secs(30)));
    let done = second(&world, &jar, &next).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(is_signed_in(&world, &cookies(&done)).await);
    assert_eq!(second(&world, &jar, &next).await.status, 403, "used");
    // A recovery code, once, and not while the database is away.
    let lock = locked(&world).await;
    assert_eq!(second(&world, &jar, &codes[0]).await.status, 503);
    drop(lock);
    let deadline = crate::clock::now() + Duration::from_secs(10);
    while world.post("/groups", json!({"name": "probe"})).await.status == 503 {
        assert!(crate::clock::now() < deadline, "the database comes back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(second(&world, &jar, &codes[0]).await.status, 303);
    assert_eq!(second(&world, &jar, &codes[0]).await.status, 403, "used");
    // What is in the database opens for nobody without the controller's keys.
    let database = std::fs::read(world.state().join("tidegate.db")).unwrap();
    let raw = secret.as_bytes();
    assert!(!database.windows(raw.len()).any(|window| window == raw));
    assert!(!database.windows(17).any(|window| window == codes[1].as_bytes()));
}

#[tokio::test]
async fn who_knows_the_passphrase_and_guesses_codes_keeps_nobody_out_of_a_browser_that_signed_in_before() {
    let world = World::new().await;
    let session = owner(&world).await;
    let browser = known(&sign_in(&world, PASSPHRASE).await);
    let (secret, _) = with_app(&world, &session).await;
    let thief = cookies(&sign_in(&world, PASSPHRASE).await);
    let mut tried = 0;
    while second(&world, &thief, "000000").await.status == 403 {
        tried += 1;
        assert!(tried < 50, "the thief waits");
    }
    assert!(tried >= 3, "{tried}");
    let now = world.controller.core.signer.best_time();
    let code = secret.code_at(now.plus(Duration::from_secs(30)));
    assert_eq!(second(&world, &thief, &code).await.status, 429, "also with the right one");
    let half = try_in(&world, &browser, "lena@example.com", PASSPHRASE).await;
    let jar = format!("{browser}; {}", cookies(&half));
    let done = second(&world, &jar, &code).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(is_signed_in(&world, &cookies(&done)).await);
}

#[tokio::test]
async fn a_secret_that_was_scanned_is_still_the_one_after_its_person_signed_in_again() {
    let world = World::new().await;
    let session = owner(&world).await;
    let page = get(&world, "/account/totp", &session).await;
    let secret = secret_on(&page);
    let (token, setup) = (form_token(&page), hidden(&page, "setup").to_owned());
    let kept = cookies(&page).split("; ").find(|cookie| cookie.contains("totp")).unwrap().to_owned();
    // The page was open for longer than a sign-in is fresh.
    let old = proven(&world, &session, Duration::from_secs(16 * 60));
    let code = secret.code_at(world.controller.core.signer.best_time());
    let fields = [("code", code.as_str()), ("setup", setup.as_str()), ("form_token", token.as_str())];
    let again = submit(&world, "/account/totp", &format!("{old}; {kept}"), &fields).await;
    assert_eq!(again.headers[header::LOCATION], "/signin?again=1&next=%2Faccount%2Ftotp");
    let page = get(&world, "/account/totp", &format!("{session}; {kept}")).await;
    let now = world.controller.core.signer.best_time();
    assert_eq!(secret_on(&page).code_at(now), secret.code_at(now), "what is in the phone already");
    let done = submit(&world, "/account/totp", &format!("{session}; {kept}"), &fields).await;
    assert_eq!(done.status, 200, "{}", done.text);
    let next = get(&world, "/account/totp", &session).await;
    assert_ne!(secret_on(&next).code_at(now), secret.code_at(now), "another app has another secret");
}

#[tokio::test]
async fn guessed_codes_stop_code_entry_for_that_account_and_no_passkey() {
    let world = World::new().await;
    let session = owner(&world).await;
    with_app(&world, &session).await;
    let key = with_passkey(&world, &session).await;
    let half = sign_in(&world, PASSPHRASE).await;
    let (jar, mut statuses) = (cookies(&half), Vec::new());
    for _ in 0..22 {
        statuses.push(second(&world, &jar, "000000").await.status.as_u16());
    }
    assert_eq!((statuses[0], statuses[19], statuses[20]), (403, 403, 429));
    let (challenge, jar, token) = question(&world).await;
    let answer = json!({"form_token": token, "answer": key.prove_json(&challenge)});
    let done = ask(&world, "/signin/passkey", &jar, &answer).await;
    assert_eq!(done.status, 200, "{}", done.text);
    assert!(is_signed_in(&world, &cookies(&done)).await);
}

/// Tries a passphrase in a browser that has these cookies.
async fn try_in(world: &World, browser: &str, name: &str, passphrase: &str) -> Reply {
    let page = get(world, "/signin", "").await;
    let token = form_token(&page);
    let jar = format!("{}; {browser}", cookies(&page));
    let fields = [("name", name), ("passphrase", passphrase), ("form_token", token.as_str())];
    submit(world, "/signin", &jar, &fields).await
}

/// The cookie by which a browser is known for one account, of all that an answer set.
fn known(reply: &Reply) -> String {
    let all = cookies(reply);
    let mut all = all.split("; ");
    all.find(|cookie| cookie.starts_with("__Host-tidegate-known=")).unwrap().to_owned()
}

#[tokio::test]
async fn who_guesses_behind_an_address_is_bounded_and_keeps_nobody_out_of_a_browser_that_signed_in_before() {
    let world = World::new().await;
    owner(&world).await;
    let browser = known(&sign_in(&world, PASSPHRASE).await);
    let mut tried = 0;
    for guess in 0..40 {
        // Another name each time: what is counted here is the address.
        let reply = try_in(&world, "", &format!("person{guess}@example.com"), "a guess").await;
        match reply.status.as_u16() {
            403 => tried += 1,
            429 => assert!(reply.headers.contains_key(header::RETRY_AFTER)),
            other => panic!("{other}: {}", reply.text),
        }
    }
    assert_eq!(tried, 10, "the guesser waits");
    assert_eq!(
        try_in(&world, "", "lena@example.com", PASSPHRASE).await.status,
        429,
        "nobody knows this browser"
    );
    let done = try_in(&world, &browser, "lena@example.com", PASSPHRASE).await;
    assert_eq!(done.status, 303, "{}", done.text);
    assert!(is_signed_in(&world, &cookies(&done)).await);
    // It is known for one account, and is no licence to guess at others.
    assert_eq!(try_in(&world, &browser, "ada@example.com", "a guess").await.status, 429);
}

#[tokio::test]
async fn a_known_browser_has_ten_wrong_passphrases_and_is_one_like_any_other_then() {
    let world = World::new().await;
    owner(&world).await;
    let browser = known(&sign_in(&world, PASSPHRASE).await);
    for _ in 0..10 {
        assert_eq!(try_in(&world, &browser, "lena@example.com", "a typing error").await.status, 403);
    }
    // Its address has a budget of its own still, which those ten did not use.
    for guess in 0..10 {
        let reply = try_in(&world, "", &format!("person{guess}@example.com"), "a guess").await;
        assert_eq!(reply.status, 403, "{}", reply.text);
    }
    assert_eq!(try_in(&world, &browser, "lena@example.com", PASSPHRASE).await.status, 429);
    let forged = browser.replace(&browser[40..44], "AAAA");
    assert_eq!(try_in(&world, &forged, "lena@example.com", PASSPHRASE).await.status, 429, "a forged cookie");
}

#[tokio::test]
async fn passkeys_are_asked_for_no_matter_how_often_others_failed_behind_the_same_address() {
    let world = World::new().await;
    let session = owner(&world).await;
    let key = with_passkey(&world, &session).await;
    let stranger = Authenticator::p256("localhost", ORIGIN);
    for guess in 0..12 {
        try_in(&world, "", &format!("person{guess}@example.com"), "a guess").await;
        let (challenge, jar, token) = question(&world).await;
        let unknown = json!({"form_token": token, "answer": stranger.prove_json(&challenge)});
        assert_eq!(ask(&world, "/signin/passkey", &jar, &unknown).await.status, 403);
    }
    assert_eq!(try_in(&world, "", "lena@example.com", PASSPHRASE).await.status, 429);
    let (challenge, jar, token) = question(&world).await;
    let answer = json!({"form_token": token, "answer": key.prove_json(&challenge)});
    let done = ask(&world, "/signin/passkey", &jar, &answer).await;
    assert_eq!(done.status, 200, "{}", done.text);
}

/// The origin of the tests' console.
const ORIGIN: &str = "https://localhost:8443";

/// Registers a passkey in software.
async fn with_passkey(world: &World, session: &str) -> Authenticator {
    let page = get(world, "/account", session).await;
    let token = form_token(&page);
    let asked = ask(world, "/account/passkeys/options", session, &json!({"form_token": token})).await;
    let options = asked.ok()["options"].clone();
    assert_eq!(options["rp"]["id"], "localhost");
    assert_eq!(options["authenticatorSelection"]["residentKey"], "required");
    let challenge = decode_base64url(options["challenge"].as_str().unwrap()).unwrap();
    let mut key = Authenticator::p256("localhost", ORIGIN);
    key.user = decode_base64url(options["user"]["id"].as_str().unwrap()).unwrap();
    let jar = format!("{session}; {}", cookies(&asked));
    let body = json!({"form_token": token, "name": "laptop", "answer": key.make_json(&challenge)});
    let made = ask(world, "/account/passkeys", &jar, &body).await;
    assert_eq!(made.ok()["next"], "/account");
    assert_eq!(ask(world, "/account/passkeys", &jar, &body).await.status, 422, "once");
    key
}

/// The answers to a passkey question: its challenge, and the cookies and token to answer with.
async fn question(world: &World) -> (Vec<u8>, String, String) {
    let page = get(world, "/signin", "").await;
    let (jar, token) = (cookies(&page), form_token(&page));
    let asked = ask(world, "/signin/passkey/options", &jar, &json!({"form_token": token})).await;
    let options = asked.ok()["options"].clone();
    assert!(options.get("allowCredentials").is_none(), "whoever it is");
    let challenge = decode_base64url(options["challenge"].as_str().unwrap()).unwrap();
    (challenge, format!("{jar}; {}", cookies(&asked)), token)
}

#[tokio::test]
async fn a_passkey_signs_in_without_a_name_and_with_the_database_gone_and_each_proof_works_once() {
    let world = World::new().await;
    let session = owner(&world).await;
    let key = with_passkey(&world, &session).await;
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    let (challenge, jar, token) = question(&world).await;
    let answer = json!({"form_token": token, "next": "/resources", "answer": key.prove_json(&challenge)});
    let done = ask(&world, "/signin/passkey", &jar, &answer).await;
    assert_eq!(done.ok()["next"], "/resources");
    assert!(is_signed_in(&world, &cookies(&done)).await);
    assert_eq!(ask(&world, "/signin/passkey", &jar, &answer).await.status, 403, "a proof works once");
    let (other, ..) = question(&world).await;
    let (_, jar, token) = question(&world).await;
    let elsewhere = json!({"form_token": token, "answer": key.prove_json(&other)});
    assert_eq!(ask(&world, "/signin/passkey", &jar, &elsewhere).await.status, 403, "another challenge");
    let stranger = Authenticator::p256("localhost", ORIGIN);
    let (challenge, jar, token) = question(&world).await;
    let unknown = json!({"form_token": token, "answer": stranger.prove_json(&challenge)});
    let refused = ask(&world, "/signin/passkey", &jar, &unknown).await;
    assert!(refused.text.contains("nobody here has this passkey"), "{}", refused.text);
    let forged = json!({"form_token": "x", "answer": key.prove_json(&challenge)});
    assert_eq!(ask(&world, "/signin/passkey", &jar, &forged).await.status, 403);
}

#[tokio::test]
async fn an_invitation_makes_an_account_once_and_recovery_ends_what_was_open() {
    let world = World::new().await;
    owner(&world).await;
    let ada = world.post("/users", json!({"name": "Ada", "email": "ada@example.com"})).await.made();
    let ada = ada["id"].as_str().unwrap();
    let invite = async || {
        let made = world.post("/invitations", json!({"user": ada})).await.made();
        made["link"].as_str().unwrap().strip_prefix("https://localhost:8443").unwrap().to_owned()
    };
    let take = async |link: &str| {
        let page = get(&world, link, "").await;
        assert_eq!(page.status, 200, "{}", page.text);
        let token = form_token(&page);
        let fields = [
            ("passphrase", "ada's long passphrase"),
            ("again", "ada's long passphrase"),
            ("form_token", &token),
        ];
        submit(&world, link, &cookies(&page), &fields).await
    };
    let (link, spare) = (invite().await, invite().await);
    let first = take(&link).await;
    assert_eq!(first.status, 303, "{}", first.text);
    let session = cookies(&first);
    assert!(is_signed_in(&world, &session).await);
    assert_eq!(get(&world, &link, "").await.status, 404, "works once");
    with_app(&world, &session).await;
    let again = get(&world, &spare, "").await;
    assert!(again.text.contains("Get into your account again"), "{}", again.text);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let second = take(&spare).await;
    assert_eq!(second.status, 303, "{}", second.text);
    assert!(!is_signed_in(&world, &session).await, "what was open is over");
    let session = cookies(&second);
    assert!(get(&world, "/account", &session).await.text.contains("Off. With it"), "and the app");
    world.post("/invitations", json!({"user": "usr-00000000000000000000000000"})).await.problem(422);
}

#[tokio::test]
async fn a_terminal_s_code_is_confirmed_by_a_person_and_becomes_a_key_for_one_device_of_theirs() {
    let world = World::new().await;
    let session = owner(&world).await;
    let begun = ask(&world, "/enrol/v1/device-code", "", &json!({"name": "laptop"})).await.ok();
    let (device_code, user_code) =
        (begun["device_code"].as_str().unwrap(), begun["user_code"].as_str().unwrap());
    assert_eq!(begun["root"], world.controller.core.signer.root().to_string());
    let poll = async || {
        ask(&world, "/enrol/v1/device-code/token", "", &json!({"device_code": device_code})).await.ok()
    };
    assert_eq!(poll().await["status"], "slow_down", "at once is too often");
    let link =
        begun["verification_uri_complete"].as_str().unwrap().strip_prefix("https://localhost:8443").unwrap();
    let nobody = get(&world, link, "").await;
    assert!(nobody.headers[header::LOCATION].to_str().unwrap().starts_with("/signin?next=%2Fdevice"));
    let page = get(&world, link, &session).await;
    for shown in ["laptop", "203.0.113.7", user_code, begun["root"].as_str().unwrap()] {
        assert!(page.text.contains(shown), "{shown}");
    }
    let token = form_token(&page);
    let forged = [("code", user_code), ("decision", "confirm"), ("form_token", "x")];
    submit(&world, "/device", &session, &forged).await;
    let confirm = [("code", user_code), ("decision", "confirm"), ("form_token", &token)];
    let done = submit(&world, "/device", &session, &confirm).await;
    assert!(done.text.contains("The device is signed in"), "{}", done.text);
    let twice = submit(&world, "/device", &session, &confirm).await;
    assert_eq!(twice.status, 404);
    let keys = world.get("/enrolment-keys").await.ok();
    assert_eq!((keys["items"].as_array().unwrap().len(), &keys["items"][0]["cap"]), (1, &json!(1)));
    assert_eq!(keys["items"][0]["owner"], json!(owner_id(&world).await));
}

#[tokio::test]
async fn who_signed_in_how_and_from_where_is_in_the_log_and_what_strangers_typed_is_not() {
    let world = World::new().await;
    owner(&world).await;
    sign_in(&world, "not the passphrase at all").await;
    let page = get(&world, "/signin", "").await;
    let token = form_token(&page);
    let fields = [("name", "my secret passphrase"), ("passphrase", "x"), ("form_token", token.as_str())];
    submit(&world, "/signin", &cookies(&page), &fields).await;
    sign_in(&world, PASSPHRASE).await;
    let log = world.get("/authentication-log").await.ok();
    let entries: Vec<(&str, &str, bool)> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            assert_eq!(entry["address"], "203.0.113.7");
            (
                entry["method"].as_str().unwrap(),
                entry["outcome"].as_str().unwrap(),
                entry.get("user").is_some(),
            )
        })
        .collect();
    assert_eq!(
        entries,
        [
            ("passphrase", "signed-in", true),
            ("passphrase", "wrong", false),
            ("passphrase", "wrong", true),
            ("one-time-link+passphrase", "signed-in", true),
        ]
    );
    assert!(!log.to_string().contains("my secret"));
    assert_eq!(world.get("/authentication-log?limit=1").await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn sign_in_leads_back_to_where_one_was_and_never_to_another_host() {
    let world = World::new().await;
    owner(&world).await;
    let to = async |next: &str| {
        let page = get(&world, "/signin", "").await;
        let token = form_token(&page);
        let fields = [
            ("name", "lena@example.com"),
            ("passphrase", PASSPHRASE),
            ("form_token", token.as_str()),
            ("next", next),
        ];
        let done = submit(&world, "/signin", &cookies(&page), &fields).await;
        done.headers[header::LOCATION].to_str().unwrap().to_owned()
    };
    assert_eq!(to("/resources?after=res-1").await, "/resources?after=res-1");
    assert_eq!(to("//evil.example/").await, "/");
    assert_eq!(to("https://evil.example/").await, "/");
}

#[tokio::test]
async fn a_provider_is_configured_by_the_api_and_its_secret_is_written_and_never_read() {
    let world = World::new().await;
    let f = world.furnish().await;
    let put = async |body: Value| world.call(http::Method::PUT, "/oidc-providers/main", Some(body)).await;
    let mut body = json!({
        "title": "Example ID", "issuer": "https://id.example.com", "client_id": "tidegate",
        "client_secret": "very secret indeed", "group_map": {"eng": f.group}, "domains": ["Example.com"], "new_users": "make",
    });
    let made = put(body.clone()).await.ok();
    assert_eq!(made["redirect_uri"], "https://localhost:8443/signin/oidc");
    assert_eq!((&made["has_client_secret"], &made["domains"][0]), (&json!(true), &json!("example.com")));
    assert_eq!(made["scopes"], json!(["openid", "profile", "email"]));
    body.as_object_mut().unwrap().remove("client_secret");
    assert_eq!(put(body.clone()).await.ok()["has_client_secret"], true, "the one that is held stays");
    for (field, value) in [
        ("issuer", json!("http://id.example.com")),
        ("group_map", json!({"x": "grp-00000000000000000000000000"})),
        ("domains", json!(["@example.com"])),
        ("ca_pem", json!("no certificate")),
        ("client_id", json!("")),
    ] {
        let mut wrong = body.clone();
        wrong[field] = value;
        let problem = put(wrong).await.problem(422);
        assert!(problem["field"].as_str().unwrap().starts_with(field), "{problem}");
    }
    assert!(!world.get("/oidc-providers").await.text.contains("very secret"));
    let database = std::fs::read(world.state().join("tidegate.db")).unwrap();
    assert!(!database.windows(18).any(|window| window == b"very secret indeed"));
    let page = get(&world, "/signin", "").await;
    assert!(
        page.text.contains("Continue with Example ID") && page.text.contains("/signin/oidc/main?next=%2F"),
        "{}",
        page.text
    );
    let back = get(&world, "/signin/oidc?code=x&state=y", "").await;
    assert_eq!(back.status, 403, "an answer that nobody asked for");
    assert_eq!(world.delete("/oidc-providers/main").await.status, 204);
    world.get("/oidc-providers/main").await.problem(404);
}

#[tokio::test]
async fn a_provider_that_cannot_be_asked_is_told_with_503_and_when_to_come_back_and_never_as_a_fault_of_the_controller()
 {
    let world = World::new().await;
    world.furnish().await;
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let body = json!({"title": "Example ID", "issuer": format!("https://{gone}"), "client_id": "tidegate"});
    world.call(http::Method::PUT, "/oidc-providers/main", Some(body)).await.ok();
    let told = get(&world, "/signin/oidc/main", "").await;
    assert_eq!((told.status.as_u16(), told.headers[header::RETRY_AFTER].to_str().unwrap()), (503, "31"));
    assert!(told.text.contains("Other ways to sign in"), "{}", told.text);
}
