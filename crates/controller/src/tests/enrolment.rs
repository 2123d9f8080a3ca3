//! From a join key to an agent, over real TLS.

use super::{LOCAL, World, stranger};
use crate::clock;
use axum::body::Body;
use enrol::{EnrolError, enrol_connector, enrol_device, enrol_pop};
use http::{Request, header};
use policy::{ClientSlice, enrolment::DeviceEnrolment};
use serde_json::json;
use state::{StateDir, names};
use std::future::pending;
use trust::{Grant, JoinKey, Role, SigningKey, Slice, TrustChain, Unverified};

/// A join key aimed at where the controller really listens.
async fn aimed_key(world: &World, port: u16, body: serde_json::Value) -> JoinKey {
    let mut key: JoinKey = world.key(body).await.parse().unwrap();
    key.controller = format!("https://localhost:{port}");
    key
}

#[tokio::test]
async fn a_pop_a_connector_and_a_device_enrol_over_tls_and_a_used_key_is_refused_in_words() {
    let mut world = World::new().await;
    let f = world.furnish().await;
    let port = world.controller.tcp_address().unwrap().port();
    let keys = (
        aimed_key(&world, port, json!({"kind": "pop", "region": "eu"})).await,
        aimed_key(&world, port, json!({"kind": "connector", "site": f.site})).await,
        aimed_key(&world, port, json!({"kind": "device", "owner": f.user})).await,
    );
    let core = std::sync::Arc::clone(&world.controller.core);
    let directory = std::mem::replace(&mut world.directory, tempfile::tempdir().unwrap());
    let running = tokio::spawn(world.controller.run(pending()));
    let path = |name: &str| directory.path().join(name);

    enrol_pop(&keys.0, &path("pop"), "pop-1", "127.0.0.1:4433", None).await.unwrap();
    enrol_connector(&keys.1, &path("connector"), "hh-1").await.unwrap();
    let agent = enrol_device(&keys.2, &path("device"), "ada's laptop").await.unwrap();
    assert_eq!((agent.belongs_to.as_str(), agent.owner.as_deref()), ("default", Some("Ada")));

    // What is on the device's disk verifies under the root in the key, and lets it reach the resource.
    let state = StateDir::open(&path("device"), Role::Device).unwrap();
    let text = |name: &str| String::from_utf8(state.read(name).unwrap().unwrap()).unwrap();
    let bundle = TrustChain::parse(&text(names::CHAIN)).unwrap().verify(&keys.2.root, clock::wall()).unwrap();
    let grant =
        Unverified::<Grant>::parse(&text(names::GRANT)).unwrap().verify(&bundle, clock::wall()).unwrap();
    assert_eq!(grant.groups[0].id.to_string(), f.group);
    let slice = Unverified::<Slice<ClientSlice>>::parse(&text(names::SLICE)).unwrap();
    let slice = slice.verify(&bundle, clock::wall()).unwrap();
    assert_eq!(slice.body.resources[0].id.to_string(), f.resource);
    assert_eq!(slice.body.pops[0].address, "127.0.0.1:4433");
    assert_eq!(slice.body.sites[0].connectors[0].name, "hh-1");

    let again = enrol_device(&keys.2, &path("second"), "another").await.unwrap_err();
    assert!(again.to_string().contains("made for 1 device and has enrolled as many"), "{again}");
    let mut forged = keys.2.clone();
    forged.root = trust::RootHash::from_bytes([9; 32]);
    let refused = enrol_device(&forged, &path("third"), "another").await.unwrap_err();
    assert!(matches!(refused, EnrolError::OtherRoot { .. }), "{refused}");
    let snapshot = core.snapshot();
    assert_eq!(snapshot.dataset.organizations[0].devices.len(), 1);
    running.abort();
}

async fn post(world: &World, path: &str, body: String) -> super::Reply {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
    world.send(stranger(), request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn the_same_request_again_gives_the_same_identity_and_uses_the_key_once() {
    let world = World::new().await;
    let f = world.furnish().await;
    let key: JoinKey = world.key(json!({"kind": "device", "owner": f.user, "cap": 2})).await.parse().unwrap();
    let identity = SigningKey::generate();
    let request =
        serde_json::to_string(&DeviceEnrolment::new(key.secret.clone(), &identity, "laptop")).unwrap();
    let first = post(&world, "/enrol/v1/device", request.clone()).await.ok();
    let second = post(&world, "/enrol/v1/device", request).await.ok();
    assert_eq!(first["identity"], second["identity"]);
    assert_eq!(world.get("/enrolment-keys").await.ok()["items"][0]["uses"], 1);
    let other = world.key(json!({"kind": "device", "owner": f.user})).await.parse::<JoinKey>().unwrap();
    let request = DeviceEnrolment::new(other.secret, &identity, "laptop");
    let problem =
        post(&world, "/enrol/v1/device", serde_json::to_string(&request).unwrap()).await.problem(409);
    assert_eq!(problem["field"], "identity_key");
}

#[tokio::test]
async fn a_key_of_another_kind_an_unknown_secret_and_a_forged_proof_are_refused() {
    let world = World::new().await;
    let f = world.furnish().await;
    let key: JoinKey = world.key(json!({"kind": "connector", "site": f.site})).await.parse().unwrap();
    let identity = SigningKey::generate();
    let wrong_kind = DeviceEnrolment::new(key.secret.clone(), &identity, "laptop");
    let problem =
        post(&world, "/enrol/v1/device", serde_json::to_string(&wrong_kind).unwrap()).await.problem(403);
    assert_eq!(problem["type"], "/problems/key-of-another-kind");
    let guess = DeviceEnrolment::new(trust::JoinSecret::from_random([7; 32]), &identity, "laptop");
    let guess = serde_json::to_string(&guess).unwrap();
    assert_eq!(post(&world, "/enrol/v1/device", guess).await.problem(403)["type"], "/problems/key-unknown");
    let mut forged = wrong_kind;
    forged.name = "other".into();
    let problem =
        post(&world, "/enrol/v1/device", serde_json::to_string(&forged).unwrap()).await.problem(422);
    assert_eq!(problem["field"], "proof");
    assert_eq!(world.get("/devices").await.ok()["items"], json!([]));
    let chain =
        world.send(stranger(), Request::get("/enrol/v1/trust").body(Body::empty()).unwrap()).await.ok();
    assert!(chain["chain"].as_str().unwrap().contains("bundle "));
    assert!(
        world
            .send(LOCAL, Request::get("/api/v1/openapi.json").body(Body::empty()).unwrap())
            .await
            .status
            .is_success()
    );
}
