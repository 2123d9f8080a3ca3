//! Two controllers on one PostgreSQL, in one process.

use super::{
    World,
    console::{PASSPHRASE, cookies, form_token, get, owner, submit},
    signin::{is_signed_in, second, sign_in, with_app},
};
use crate::{
    ControllerOptions, follow::Following, several, signer::Renewal, signin::WebKeysError,
    snapshot::SnapshotSource,
};
use http::Method;
use serde_json::{Value, json};
use std::{sync::atomic::Ordering, time::Duration};
use store::{Opening, PostgresUrl, Store};
use trust::{KeyRole, MAX_ROTATION_LIFE, RotationStatement, TrustChain, VerifyingKey};

impl World {
    /// The root's statement for a rotation key that was offered, as whoever has the root key makes it.
    fn signed_by_root(&self, offer: &Value) -> String {
        let phrase = self.first.as_ref().unwrap().recovery_phrase.to_secret_text();
        let root = crate::open_root_file(&crate::root_key_file(&self.state()), &phrase).unwrap();
        let key = trust::decode_base64url(offer["rotation_key"].as_str().unwrap()).unwrap();
        let nbf = crate::clock::wall().minus(Duration::from_secs(60));
        let statement = RotationStatement {
            installation: offer["installation"].as_str().unwrap().parse().unwrap(),
            root: root.verifying_key(),
            rotation: VerifyingKey::from_bytes(key.try_into().unwrap()),
            epoch: offer["epoch"].as_u64().unwrap(),
            nbf,
            exp: nbf.plus(MAX_ROTATION_LIFE),
        };
        TrustChain::sign_rotation(&root, &statement).unwrap()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = crate::clock::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(crate::clock::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Two {
    first: World,
    second: World,
    url: PostgresUrl,
    cluster: pgscratch::Cluster,
}

impl Two {
    async fn start() -> Self {
        let cluster = pgscratch::Cluster::start().unwrap();
        let url: PostgresUrl = cluster.database("own").unwrap().parse().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let options = ControllerOptions { database: Some(url.clone()), ..World::options(&directory) };
        let first = World::with(directory, options).await;
        let second = Self::another(&first, &url).await;
        Self { first, second, url, cluster }
    }

    async fn another(first: &World, url: &PostgresUrl) -> World {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(url.clone(), Opening::MustExist).await.unwrap();
        let added = several::add_controller(&first.state(), &store, "test").await.unwrap();
        store.close().await;
        assert!(!format!("{added:?}").contains("keyring"));
        let file = directory.path().join("file");
        several::write_controller_file(&file, &added).unwrap();
        let join = Some(file);
        let options = ControllerOptions { database: Some(url.clone()), join, ..World::options(&directory) };
        World::with(directory, options).await
    }
}

#[tokio::test]
async fn a_controller_is_added_while_another_runs_and_one_bundle_names_the_keys_of_both() {
    let two = Two::start().await;
    let (first, second) = (&two.first.controller.core, &two.second.controller.core);
    assert_ne!(first.signer.controller(), second.signer.controller());
    assert_eq!(first.signer.installation(), second.signer.installation());
    until("the first one has the bundle", async || first.signer.bundle() == second.signer.bundle()).await;
    let bundle = first.signer.bundle();
    assert_eq!((bundle.serial(), bundle.all_keys().count()), (2, 2 * KeyRole::ALL.len()));
    assert!(first.signer.is_one_of_several() && second.signer.is_one_of_several());
    // No root key went over, and nothing of the file can be made of the database.
    assert_eq!(crate::root_key_place(&two.second.state()), crate::RootKeyPlace::Away);
    let sealed =
        two.cluster.sql("own", "SELECT document FROM trust_documents WHERE name = 'web-keys'").unwrap();
    assert!(matches!(crate::signin::opened_web_keys(&[0; 32], &sealed), Err(WebKeysError::Decode(_))));
    // Both replace their keys at once: each in its turn, and nobody's are lost.
    let now = Renewal::Now { published_for: Duration::from_secs(10) };
    let (one, other) = tokio::join!(first.settle_keys(now), second.settle_keys(now));
    let mut serials = [one.unwrap().unwrap(), other.unwrap().unwrap()];
    serials.sort_unstable();
    assert_eq!(serials, [3, 4]);
    until("both have the last bundle", async || {
        first.signer.bundle().serial() == 4 && first.signer.bundle() == second.signer.bundle()
    })
    .await;
    assert_eq!(first.signer.bundle().all_keys().count(), 4 * KeyRole::ALL.len());
    for core in [first, second] {
        assert!(core.signer.due(Renewal::WhenDue).unwrap().is_none(), "nothing is left to do");
    }
    // By the API, too, at either.
    let made = two.second.post("/key-rotations", json!({})).await.made();
    assert_eq!(made["serial"], 5, "{made}");
}

#[tokio::test]
async fn a_removed_controller_is_in_no_bundle_and_does_not_put_itself_back() {
    let two = Two::start().await;
    let removed = two.second.controller.core.signer.controller();
    let store = Store::open(two.url.clone(), Opening::MustExist).await.unwrap();
    let serial = several::remove_controller(&two.first.state(), &store, "test", removed).await.unwrap();
    let (first, second) = (&two.first.controller.core, &two.second.controller.core);
    until("both have the bundle", async || {
        first.signer.bundle().serial() == serial && first.signer.bundle() == second.signer.bundle()
    })
    .await;
    assert!(first.signer.bundle().all_keys().all(|key| key.owner != removed));
    assert!(second.settle_keys(Renewal::WhenDue).await.unwrap().is_none());
    assert!(!first.signer.is_one_of_several());
    let again = several::remove_controller(&two.first.state(), &store, "test", removed).await;
    assert!(matches!(again, Err(several::SeveralError::Unknown(_))));
    store.close().await;
    // Alone again, its keys are replaced without the database, under higher numbers than the shared ones.
    let made = two.first.post("/key-rotations", json!({})).await.made();
    assert_eq!(made["serial"], serial + 1, "{made}");
}

#[tokio::test]
async fn a_stolen_controller_is_left_out_of_the_next_rotation_key_and_what_it_knows_signs_nobody_in() {
    let two = Two::start().await;
    let third = Two::another(&two.first, &two.url).await;
    let cores = [&two.first.controller.core, &two.second.controller.core];
    let stolen = &third.controller.core;
    until("all have the bundle", async || {
        cores.iter().all(|core| core.signer.bundle() == stolen.signer.bundle())
    })
    .await;
    let session = owner(&two.first).await;
    until("the account is known at the other", async || is_signed_in(&two.second, &session).await).await;
    let before = cores[0].signer.bundle();
    let secret = stolen.signer.shared_secret().unwrap();

    let offer = two.first.post("/rotation-key-offers", json!({})).await.made();
    let statement = two.first.signed_by_root(&offer);
    let without = stolen.signer.controller();
    let body = json!({"statement": statement, "without": [without]});
    let put = two.first.call(Method::PUT, "/rotation-key", Some(body.clone())).await.ok();
    assert_eq!((&put["epoch"], &put["serial"]), (&json!(2), &json!(before.serial() + 1)), "{put}");
    until("the other has it", async || {
        cores[1].signer.bundle() == cores[0].signer.bundle()
            && cores[1].signer.shared_secret().ok() == cores[0].signer.shared_secret().ok()
    })
    .await;
    let after = cores[0].signer.bundle();
    assert!(after.all_keys().all(|key| key.owner != without));
    assert!(after.all_keys().eq(before.all_keys().filter(|key| key.owner != without)), "nobody else's went");
    assert_ne!(cores[0].signer.shared_secret().unwrap(), secret);
    // Both that stay go on replacing keys, under the new key.
    let now = Renewal::Now { published_for: Duration::from_secs(10) };
    assert_eq!(cores[1].settle_keys(now).await.unwrap(), Some(after.serial() + 1));
    until("the first one has that", async || cores[0].signer.bundle().serial() == after.serial() + 1).await;
    // Whoever was left out sees the chain and can sign none.
    until("it is told", async || stolen.signer.bundle().epoch() == 2).await;
    assert!(stolen.signer.shared_secret().is_err() && stolen.settle_keys(now).await.unwrap().is_none());
    // The cookie of before is nothing any more, at either: who has the secrets could have made it.
    until("everybody is signed out", async || {
        !is_signed_in(&two.first, &session).await && !is_signed_in(&two.second, &session).await
    })
    .await;
    let sealed =
        two.cluster.sql("own", "SELECT document FROM trust_documents WHERE name = 'web-keys'").unwrap();
    assert!(crate::signin::opened_web_keys(&secret, &sealed).is_err());
    assert!(
        crate::signin::opened_web_keys(&cores[1].signer.shared_secret().unwrap(), &sealed).is_ok(),
        "the other one reads what the first one sealed"
    );
    // The signature is used up.
    let again = two.first.call(Method::PUT, "/rotation-key", Some(body)).await;
    assert_eq!(again.problem(409)["type"], "/problems/no-rotation-key-offered");
    // A fourth one joins under the new key.
    let fourth = Two::another(&two.second, &two.url).await;
    assert_eq!(fourth.controller.core.signer.bundle().epoch(), 2);
    assert!(fourth.controller.core.signer.shared_secret().is_ok());
}

#[tokio::test]
async fn what_a_controller_wrote_itself_is_not_read_twice_and_what_another_wrote_is_read_once() {
    let two = Two::start().await;
    let (first, second) = (&two.first.controller.core, &two.second.controller.core);
    until("both are quiet", async || first.signer.bundle() == second.signer.bundle()).await;
    let cores = [first, second];
    let look_again = async || {
        let before = cores.map(|core| core.snapshots.looks.load(Ordering::Relaxed));
        until("each looked twice more", async || {
            let now = cores.map(|core| core.snapshots.looks.load(Ordering::Relaxed));
            before.iter().zip(now).all(|(before, now)| now >= before + 2)
        })
        .await;
    };
    look_again().await;
    let reads = || cores.map(|core| core.snapshots.reads.load(Ordering::Relaxed));
    let before = reads();
    for number in 0..5 {
        two.first.post("/sites", json!({"name": format!("site {number}")})).await.made();
        until("the other has it", async || {
            two.second.get("/sites").await.ok()["items"].as_array().unwrap().len() == number + 1
        })
        .await;
    }
    // Whatever another look would have found is read by now.
    look_again().await;
    let after = reads();
    assert_eq!(after[1] - before[1], 5, "what another wrote");
    // A look that was under way when a change was made is answered with the state before it, and read for nothing.
    let own = after[0] - before[0];
    assert!((5..8).contains(&own), "{own} readings of five own changes");
    assert_eq!(first.snapshot().dataset, second.snapshot().dataset);
    // Only what changed is read, and it is what reading everything gives.
    let everything = first.database.store().unwrap().load().await.unwrap().unwrap();
    assert_eq!(everything, second.snapshot().dataset);
    assert_eq!(two.second.get("/sites").await.headers["tidegate-snapshot-age"], "0");
}

#[tokio::test]
async fn a_reload_that_fails_keeps_what_is_held_counts_an_alarm_and_comes_through_later() {
    let two = Two::start().await;
    let second = &two.second.controller.core;
    until("both are quiet", async || second.signer.bundle() == two.first.controller.core.signer.bundle())
        .await;
    second.snapshots.failing.store(2, Ordering::Relaxed);
    two.first.post("/sites", json!({"name": "hamburg"})).await.made();
    until("it is told", async || !second.snapshots.alarms().counts.is_empty()).await;
    until("the site is there", async || {
        two.second.get("/sites").await.ok()["items"].as_array().unwrap().len() == 1
    })
    .await;
    assert_eq!(second.snapshots.alarms().counts.get("database"), Some(&2));
    assert!(second.snapshots.alarms().current.is_none());
    // A value that nobody could have written here: never served, and said as long as it is there.
    let held = second.snapshot();
    two.cluster.sql("own", "UPDATE sites SET prefixes = 'no list'").unwrap();
    two.cluster.sql("own", "UPDATE organizations SET version = version + 1").unwrap();
    until("it is told", async || second.snapshots.alarms().counts.contains_key("corrupt")).await;
    assert_eq!(second.snapshot().dataset, held.dataset);
    assert_eq!(second.snapshot().source, SnapshotSource::Database);
    let status = two.second.get("/status").await.ok();
    assert!(status["snapshot"]["alarm"].as_str().unwrap().contains("prefixes"), "{status}");
}

#[tokio::test]
async fn with_the_database_frozen_reads_go_on_and_say_how_old_they_are() {
    let two = Two::start().await;
    two.first.post("/sites", json!({"name": "hamburg"})).await.made();
    until("the other has it", async || {
        two.second.get("/sites").await.ok()["items"].as_array().unwrap().len() == 1
    })
    .await;
    two.cluster.freeze();
    until("an age is said", async || {
        let reply = two.second.get("/sites").await;
        assert_eq!(reply.ok()["items"].as_array().unwrap().len(), 1);
        reply.headers["tidegate-snapshot-age"] != "0"
    })
    .await;
    two.cluster.thaw();
    until("it is current again", async || {
        two.second.get("/sites").await.headers["tidegate-snapshot-age"] == "0"
    })
    .await;
}

#[tokio::test]
async fn who_is_signed_in_at_one_is_signed_in_at_the_other_without_the_database_and_signed_out_at_both() {
    let two = Two::start().await;
    let session = owner(&two.first).await;
    until("the account is known at the other", async || is_signed_in(&two.second, &session).await).await;
    let store = two.first.controller.core.database.store().unwrap();
    two.cluster.freeze();
    assert!(is_signed_in(&two.first, &session).await && is_signed_in(&two.second, &session).await);
    let there = cookies(&sign_in(&two.second, PASSPHRASE).await);
    assert!(is_signed_in(&two.first, &there).await);
    // Signed out while the database is away: there at once, everywhere when it can be told.
    let page = get(&two.first, "/account", &session).await;
    submit(&two.first, "/signout", &session, &[("form_token", &form_token(&page))]).await;
    assert!(!is_signed_in(&two.first, &session).await);
    two.cluster.thaw();
    until("it is over at the other", async || !is_signed_in(&two.second, &session).await).await;
    assert!(is_signed_in(&two.second, &there).await, "and no other session is");
    let notes = store.sign_in_notes(crate::clock::wall().as_millis()).await.unwrap();
    assert_eq!(notes.ended.len(), 1);
    let later = crate::clock::wall().plus(Duration::from_secs(13 * 3600)).as_millis();
    assert!(store.sign_in_notes(later).await.unwrap().ended.is_empty(), "what has expired is not read");
    // A new secret is everybody's: a session under it is known at both.
    let quarter = crate::clock::wall().plus(Duration::from_secs(91 * 24 * 3600));
    two.first.controller.core.look_after_shared_web_keys(quarter).await.unwrap();
    let new = cookies(&sign_in(&two.first, PASSPHRASE).await);
    until("the new secret is at the other", async || is_signed_in(&two.second, &new).await).await;
    assert!(is_signed_in(&two.second, &there).await, "the one before goes on");
}

#[tokio::test]
async fn a_code_that_was_used_at_one_controller_is_used_at_the_other() {
    let two = Two::start().await;
    let session = owner(&two.first).await;
    let (secret, _) = with_app(&two.first, &session).await;
    let half = sign_in(&two.first, PASSPHRASE).await;
    let jar = cookies(&half);
    let now = two.first.controller.core.signer.best_time();
    let ahead = now.plus(Duration::from_secs(30));
    let next = secret.code_at(ahead);
    assert_eq!(second(&two.first, &jar, &next).await.status, 303);
    let core = &two.second.controller.core;
    until("the account and its code are known at the other", async || {
        let told = core.database.store().unwrap().sign_in_notes(0).await.unwrap();
        // As the next look does it.
        Following::default().look(core).await;
        // The code that switched the app on was told before, and is an older one.
        let is_told = told.used.iter().any(|code| code.step == secret.step_of(&next, ahead).unwrap());
        is_told && is_signed_in(&two.second, &session).await
    })
    .await;
    let half = sign_in(&two.second, PASSPHRASE).await;
    assert_eq!(half.headers[http::header::LOCATION], "/signin/code", "{}", half.text);
    assert_eq!(second(&two.second, &cookies(&half), &next).await.status, 403, "used elsewhere");
}

#[tokio::test]
async fn an_idempotency_key_used_at_one_controller_gets_its_answer_at_the_other() {
    let two = Two::start().await;
    let ask = |world: &World| {
        let request = http::Request::post("/api/v1/sites")
            .header("content-type", "application/json")
            .header("idempotency-key", "the-same-key-at-both")
            .body(axum::body::Body::from(json!({"name": "hamburg"}).to_string()))
            .unwrap();
        let router = crate::server::network_router(&world.controller.core);
        async move {
            let mut request = request;
            request.extensions_mut().insert(super::LOCAL);
            let answer = tower::ServiceExt::oneshot(router, request).await.unwrap();
            let status = answer.status().as_u16();
            let bytes = http_body_util::BodyExt::collect(answer.into_body()).await.unwrap().to_bytes();
            (status, serde_json::from_slice::<Value>(&bytes).unwrap())
        }
    };
    let (status, made) = ask(&two.first).await;
    assert_eq!(status, 201, "{made}");
    let (status, again) = ask(&two.second).await;
    assert_eq!((status, &again["id"]), (201, &made["id"]), "{again}");
    let store = two.first.controller.core.database.store().unwrap();
    assert_eq!(store.load().await.unwrap().unwrap().organizations[0].sites.len(), 1);
}
