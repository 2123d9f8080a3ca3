//! What goes on without a database, and what has to wait.

use super::{World, stranger};
use crate::{Controller, ControllerError, SnapshotSource, control::answer};
use axum::body::Body;
use http::{Request, header};
use policy::enrolment::DeviceEnrolment;
use serde_json::json;
use store::{Opening, Scope, Store};
use trust::{
    Beacon, Grant, JoinKey, SigningKey, Unverified,
    control::{PendingReply, seal_request},
    decode_base64url,
};
use wire::{Anchor, Bounded, ControlReply, ControlRequest, GetSlice, Refusal, Renew, ShipFlows, Why};

pub(crate) struct Laptop {
    key: SigningKey,
    certificate: Vec<u8>,
    pub(crate) id: String,
}

impl Laptop {
    /// Enrols a device through the router.
    pub(crate) async fn enrol(world: &World, owner: &str) -> Self {
        let join: JoinKey = world.key(json!({"kind": "device", "owner": owner})).await.parse().unwrap();
        let key = SigningKey::generate();
        let body = serde_json::to_string(&DeviceEnrolment::new(join.secret, &key, "laptop")).unwrap();
        let request = Request::post("/enrol/v1/device").header(header::CONTENT_TYPE, "application/json");
        let enrolled = world.send(stranger(), request.body(Body::from(body)).unwrap()).await.ok();
        let certificate = decode_base64url(enrolled["certificate"].as_str().unwrap()).unwrap();
        let id = enrolled["identity"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        Self { key, certificate, id }
    }

    /// Asks the controller with a sealed frame, as it comes from a PoP.
    pub(crate) async fn ask(&self, world: &World, request: impl Into<ControlRequest>) -> ControlReply {
        let core = &world.controller.core;
        let wall = crate::clock::wall();
        let request = request.into();
        let (sealed, pending): (Vec<u8>, PendingReply) =
            seal_request(&self.key, &self.certificate, &core.signer.bundle(), wall, 0, &request).unwrap();
        pending.open(&answer(core, &sealed).await.expect("an answer")).unwrap()
    }
}

impl Laptop {
    /// The groups in a fresh grant.
    pub(crate) async fn groups(&self, world: &World) -> usize {
        grant_of(world, &self.ask(world, Renew { certificate: false }).await).groups.len()
    }

    pub(crate) async fn gets_a_grant(&self, world: &World) {
        grant_of(world, &self.ask(world, Renew { certificate: true }).await);
    }

    pub(crate) async fn is_refused(&self, world: &World) {
        assert_eq!(refusal(&self.ask(world, Renew { certificate: true }).await), Refusal::Struck);
    }
}

fn grant_of(world: &World, reply: &ControlReply) -> Grant {
    let ControlReply::Renewed(renewed) = reply else { panic!("{reply:?}") };
    let text = renewed.grant.as_ref().unwrap().as_slice();
    let bundle = world.controller.core.signer.bundle();
    Unverified::<Grant>::parse_bytes(text).unwrap().verify(&bundle, crate::clock::wall()).unwrap()
}

fn refusal(reply: &ControlReply) -> Refusal {
    let ControlReply::Refused(refused) = reply else { panic!("{reply:?}") };
    refused.reason
}

async fn database_is_in_the_way(world: &World, f: &super::Furniture, laptop: &Laptop) {
    // Reads, renewals, slices and strikes go on.
    assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1);
    assert_eq!(grant_of(world, &laptop.ask(world, Renew { certificate: true }).await).groups.len(), 1);
    let slice = laptop.ask(world, GetSlice { incarnation: 0, version: 0 }).await;
    assert!(matches!(slice, ControlReply::SliceReply(ref reply) if reply.slice.is_some()), "{slice:?}");
    // Changes wait, and say until when.
    let reply = world.post("/groups", json!({"name": "later"})).await;
    assert_eq!(reply.problem(503)["type"], "/problems/database-unavailable");
    assert!(reply.headers.contains_key(header::RETRY_AFTER));
    assert_eq!(world.get("/status").await.ok()["database"]["usable"], false);
    // A person leaves a group: enforced at once, written later.
    let problem = world.delete(&format!("/groups/{}/members/{}", f.group, f.user)).await.problem(503);
    assert!(problem["detail"].as_str().unwrap().starts_with("access was revoked"), "{problem}");
    assert!(grant_of(world, &laptop.ask(world, Renew { certificate: false }).await).groups.is_empty());
    let outcome = world.post("/strikes", json!({"subject": laptop.id})).await.made();
    assert_eq!((&outcome["held"], &outcome["durable"]), (&json!("this node only"), &json!("this node only")));
    assert_eq!(refusal(&laptop.ask(world, Renew { certificate: false }).await), Refusal::Struck);
}

#[tokio::test]
async fn without_the_database_file_access_goes_on_and_changes_wait() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    std::fs::remove_file(world.state().join("tidegate.db")).unwrap();
    database_is_in_the_way(&world, &f, &laptop).await;
}

#[tokio::test]
async fn a_controller_boots_from_its_disk_copy_when_the_database_is_gone_and_stays_right_about_strikes() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let directory = world.stop().await;
    let database = directory.path().join("controller/tidegate.db");
    std::fs::rename(&database, directory.path().join("away")).unwrap();
    let world = World::in_directory(directory).await;
    assert!(world.first.is_none());
    assert!(!database.exists(), "no empty database takes its place");
    assert_eq!(world.get("/status").await.ok()["snapshot"]["source"], "disk_copy");
    database_is_in_the_way(&world, &f, &laptop).await;
    let world = world.restarted().await;
    assert_eq!(refusal(&laptop.ask(&world, Renew { certificate: false }).await), Refusal::Struck);
    // The database comes back: one prober finds it, and changes are possible again.
    std::fs::rename(world.directory.path().join("away"), &database).unwrap();
    let store = world.controller.core.database.reopen().await.expect("it is there again");
    world.controller.core.refresh(&store).await.unwrap();
    world.post("/groups", json!({"name": "later"})).await.made();
    assert_eq!(world.get("/status").await.ok()["snapshot"]["source"], "database");
}

#[tokio::test]
async fn a_controller_boots_from_its_disk_copy_when_the_database_is_locked() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let directory = world.stop().await;
    let other =
        Store::open(&directory.path().join("controller/tidegate.db"), Opening::MustExist).await.unwrap();
    let held = other.change(Scope::Installation, "somebody else", 1).await.unwrap();
    let world = World::in_directory(directory).await;
    database_is_in_the_way(&world, &f, &laptop).await;
    drop(held);
}

#[tokio::test]
async fn a_damaged_database_and_a_damaged_newest_copy_leave_the_older_copy() {
    let world = World::new().await;
    world.furnish().await;
    let directory = world.stop().await;
    let state = directory.path().join("controller");
    for name in ["tidegate.db", "snapshot"] {
        std::fs::write(state.join(name), vec![b'x'; 20_000]).unwrap();
    }
    for name in ["tidegate.db-wal", "tidegate.db-shm"] {
        let _ = std::fs::remove_file(state.join(name));
    }
    let world = World::in_directory(directory).await;
    let snapshot = world.controller.core.snapshot();
    assert_eq!(snapshot.source, SnapshotSource::DiskCopy);
    // The copy before the last change.
    assert_eq!(snapshot.dataset.organizations[0].resources.len(), 1);
    assert!(snapshot.dataset.organizations[0].policies.is_empty());
}

#[tokio::test]
async fn with_neither_database_nor_copy_nothing_starts_and_the_reason_is_said() {
    let world = World::new().await;
    let directory = world.stop().await;
    for name in ["tidegate.db", "snapshot", "snapshot.previous"] {
        std::fs::remove_file(directory.path().join("controller").join(name)).unwrap_or_default();
    }
    let error = Controller::start(World::options(&directory)).await.unwrap_err();
    assert!(matches!(error, ControllerError::Snapshot(_)), "{error}");
    assert!(error.to_string().contains("none is created in its place"), "{error}");
}

/// Takes the database away and puts these bytes there.
fn put_database(directory: &tempfile::TempDir, bytes: &[u8]) {
    let state = directory.path().join("controller");
    for name in ["tidegate.db-wal", "tidegate.db-shm"] {
        let _ = std::fs::remove_file(state.join(name));
    }
    std::fs::write(state.join("tidegate.db"), bytes).unwrap();
}

fn database(directory: &tempfile::TempDir) -> Vec<u8> {
    std::fs::read(directory.path().join("controller/tidegate.db")).unwrap()
}

#[tokio::test]
async fn a_restored_database_is_neither_read_nor_written_until_it_is_accepted_with_a_higher_incarnation() {
    let world = World::new().await;
    let before = world.get("/organizations").await.ok()["items"][0]["incarnation"].as_u64().unwrap();
    let directory = world.stop().await;
    let backup = database(&directory);
    let world = World::in_directory(directory).await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let directory = world.stop().await;
    put_database(&directory, &backup);
    let world = World::in_directory(directory).await;
    // What was served goes on; the plain words say what to do.
    let status = world.get("/status").await.ok();
    assert_eq!(status["snapshot"]["source"], "disk_copy");
    assert_eq!(status["snapshot"]["alarms"], json!([{"reason": "restored", "count": 1}]));
    let trouble = status["database"]["trouble"].as_str().unwrap();
    assert!(trouble.contains("tidegate admin accept-restored-database"), "{trouble}");
    assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1);
    world.post("/sites", json!({"name": "new"})).await.problem(503);
    assert!(matches!(laptop.ask(&world, Renew { certificate: true }).await, ControlReply::Renewed(_)));
    let world = world.restarted().await;
    assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1, "also after a restart");
    let accepted = world.post("/restored-database", json!({})).await.ok();
    assert_eq!(accepted["incarnation"].as_u64().unwrap(), before + 1);
    assert_eq!(world.get("/sites").await.ok()["items"], json!([]));
    world.post("/sites", json!({"name": "new"})).await.made();
    let audit = world.get("/audit").await.ok();
    let entries = audit["items"].as_array().unwrap();
    let accepted = entries.iter().find(|entry| entry["action"] == "accept restored database").unwrap();
    assert_eq!(accepted["actor"], "local uid 0");
    // The device is of the future that was given up.
    assert_eq!(refusal(&laptop.ask(&world, Renew { certificate: true }).await), Refusal::Struck);
    let world = world.restarted().await;
    assert_eq!(world.get("/status").await.ok()["snapshot"]["source"], "database");
    assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_restored_database_without_any_copy_of_what_was_served_issues_nothing_until_it_is_accepted() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let directory = world.stop().await;
    let backup = database(&directory);
    let world = World::in_directory(directory).await;
    world.post("/groups", json!({"name": "later"})).await.made();
    let directory = world.stop().await;
    put_database(&directory, &backup);
    for name in ["snapshot", "snapshot.previous"] {
        std::fs::remove_file(directory.path().join("controller").join(name)).unwrap();
    }
    let world = World::in_directory(directory).await;
    assert_eq!(world.get("/sites").await.ok()["items"].as_array().unwrap().len(), 1, "reads go on");
    world.post("/groups", json!({"name": "again"})).await.problem(503);
    assert_eq!(refusal(&laptop.ask(&world, Renew { certificate: true }).await), Refusal::NoController);
    let why = world.get("/status").await.ok()["not_issuing"].as_str().unwrap().to_owned();
    assert!(why.contains("accept-restored-database"), "{why}");
    world.post("/restored-database", json!({})).await.ok();
    assert!(matches!(laptop.ask(&world, Renew { certificate: true }).await, ControlReply::Renewed(_)));
    world.post("/groups", json!({"name": "again"})).await.made();
}

#[tokio::test]
async fn the_database_of_another_installation_is_refused_in_plain_words() {
    let other = World::new().await;
    other.furnish().await;
    let other = database(&other.stop().await);
    let world = World::new().await;
    world.furnish().await;
    let directory = world.stop().await;
    let own = database(&directory);
    put_database(&directory, &other);
    let world = World::in_directory(directory).await;
    let status = world.get("/status").await.ok();
    let trouble = status["database"]["trouble"].as_str().unwrap();
    assert!(trouble.contains("put the right database"), "{trouble}");
    world.post("/sites", json!({"name": "new"})).await.problem(503);
    let problem = world.post("/restored-database", json!({})).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("is of installation"), "{problem}");
    let directory = world.stop().await;
    put_database(&directory, &own);
    let world = World::in_directory(directory).await;
    world.post("/sites", json!({"name": "new"})).await.made();
}

#[tokio::test]
async fn an_interrupted_first_start_is_said_plainly() {
    // Killed between making the phrase and showing it.
    let directory = tempfile::tempdir().unwrap();
    let (controller, first) = Controller::start(World::options(&directory)).await.unwrap();
    assert!(first.is_some());
    drop(controller);
    let error = Controller::start(World::options(&directory)).await.unwrap_err();
    assert!(matches!(error, ControllerError::FirstStartInterrupted(_)), "{error}");
}

#[tokio::test]
async fn an_agent_gets_slices_anchors_and_explanations_and_only_connectors_ship_flows() {
    let world = World::new().await;
    let f = world.furnish().await;
    let laptop = Laptop::enrol(&world, &f.user).await;
    let statements = world.get("/diagnostics/database").await.ok();
    let ControlReply::Anchored(anchored) = laptop.ask(&world, Anchor { nonce: [7; 16] }).await else {
        panic!()
    };
    let bundle = world.controller.core.signer.bundle();
    let beacon = Unverified::<Beacon>::parse_bytes(anchored.beacon.as_slice()).unwrap();
    let beacon = beacon.verify(&bundle, crate::clock::wall()).unwrap();
    assert_eq!(beacon.nonce, Some([7; 16]));
    let data = &world.controller.core.snapshot().dataset.organizations[0].organization;
    let version = beacon.version_of(data.id).unwrap();
    assert_eq!(version.version, data.version.version);
    let held = GetSlice { incarnation: version.incarnation, version: version.version };
    let ControlReply::SliceReply(reply) = laptop.ask(&world, held).await else { panic!() };
    assert!(reply.slice.is_none(), "the newest is held already");
    for (asked, holds) in [("orders", true), ("ORDERS", true), ("payroll", false)] {
        let resource = Bounded::new(asked.as_bytes().to_vec()).unwrap();
        let ControlReply::WhyReply(reply) = laptop.ask(&world, Why { resource }).await else { panic!() };
        let explanation: policy::Explanation = serde_json::from_slice(reply.explanation.as_slice()).unwrap();
        let allowed = explanation.steps.iter().all(|step| step.outcome == policy::StepOutcome::Held);
        // The resource is known; its site has no connector yet.
        assert_eq!(explanation.steps.len() > 1 && !allowed, holds, "{asked}: {explanation:?}");
    }
    let ship = ShipFlows { batch: 1, ndjson: Bounded::new(b"{}".to_vec()).unwrap() };
    assert_eq!(refusal(&laptop.ask(&world, ship).await), Refusal::WrongRole);
    assert_eq!(world.get("/diagnostics/database").await.ok(), statements, "no agent costs a statement");
}
