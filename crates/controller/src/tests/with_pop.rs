//! With a real PoP in the same process.

use super::{LOCAL, World};
use crate::{Controller, ControllerOptions, server::network_router};
use axum::body::Body;
use enrol::{enrol_device, enrol_pop};
use http::{Request, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{net::UdpSocket, path::Path, sync::Arc, time::Duration};
use tokio::sync::oneshot;
use tower::ServiceExt;
use trust::JoinKey;

async fn ask(core: &Arc<crate::parts::Core>, method: &str, path: &str, body: Value) -> Value {
    let builder = Request::builder().method(method).uri(format!("/api/v1{path}"));
    let mut request =
        builder.header(header::CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(LOCAL);
    let answer = network_router(core).oneshot(request).await.unwrap();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() }
}

/// Waits for a condition with a deadline, looking often.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = crate::clock::now() + Duration::from_secs(20);
    while !holds() {
        assert!(crate::clock::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn join(core: &Arc<crate::parts::Core>, port: u16, body: Value) -> JoinKey {
    let made = ask(core, "POST", "/enrolment-keys", body).await;
    let mut key: JoinKey = made["join_key"].as_str().unwrap().parse().unwrap();
    key.controller = format!("https://localhost:{port}");
    key
}

fn run_pop(state: &Path, listen: std::net::SocketAddr) -> (oneshot::Sender<()>, std::thread::JoinHandle<()>) {
    let options = pop::PopOptions::new(state.to_owned(), listen);
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pop = pop::Pop::open(options).unwrap();
            Box::pin(pop.run(async { stopped.await.unwrap_or_default() })).await.unwrap();
        });
    });
    (stop, thread)
}

fn options(directory: &Path) -> ControllerOptions {
    ControllerOptions { state: directory.join("controller"), ..World::options(&tempfile::tempdir().unwrap()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_attaches_to_its_pop_a_strike_becomes_durable_there_and_outlives_the_controller_s_disk()
{
    let directory = tempfile::tempdir().unwrap();
    let (controller, _) = Controller::start(options(directory.path())).await.unwrap();
    crate::first_start_was_shown(&directory.path().join("controller")).unwrap();
    let core = Arc::clone(&controller.core);
    let port = controller.tcp_address().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(controller.run(async { stopped.await.unwrap_or_default() }));

    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let key = join(&core, port, json!({"kind": "pop"})).await;
    enrol_pop(&key, &directory.path().join("pop"), "pop-1", &free.to_string(), None).await.unwrap();
    let (stop_pop, pop_thread) = run_pop(&directory.path().join("pop"), free);
    until("the controller attaches to the PoP", || core.presence().attached_pops().len() == 1).await;

    let user = ask(&core, "POST", "/users", json!({"name": "Ada", "email": "ada@example.com"})).await;
    let key = join(&core, port, json!({"kind": "device", "owner": user["id"]})).await;
    let device = enrol_device(&key, &directory.path().join("device"), "laptop").await.unwrap();
    let device = device.identity.subject().to_string();
    let outcome = ask(&core, "POST", "/strikes", json!({"subject": device})).await;
    assert_eq!(outcome["durable"], "two holders", "{outcome}");
    // There is no connector that could have missed it.
    assert_eq!(outcome["latest_possible_end"], outcome["at"], "{outcome}");
    assert_eq!((&outcome["held_by_pops"], &outcome["pops_attached"]), (&json!(1), &json!(1)));
    assert_eq!(outcome["held"], "this controller and 1 PoP");

    stop.send(()).unwrap();
    running.await.unwrap().unwrap();
    drop(core);
    // The journal is lost with the controller's disk: the PoP still knows.
    std::fs::remove_file(directory.path().join("controller/strikes.journal")).unwrap();
    let (controller, _) = Controller::start(options(directory.path())).await.unwrap();
    let core = Arc::clone(&controller.core);
    // The database remembers that it is struck, and nobody but the PoP has the entry to spread.
    assert!(!core.strikes.set().is_empty() && core.strikes.entries(crate::clock::wall()).is_empty());
    let running = tokio::spawn(controller.run(std::future::pending()));
    until("the union is taken from the PoP", || !core.strikes.entries(crate::clock::wall()).is_empty()).await;
    let strikes = ask(&core, "GET", "/strikes", json!({})).await;
    assert_eq!(strikes["items"][0]["subject"], device);
    running.abort();
    stop_pop.send(()).unwrap();
    pop_thread.join().unwrap();
}

/// A device with its own key, which asks as through a PoP.
struct Asking {
    key: trust::SigningKey,
    certificate: Vec<u8>,
    id: String,
}

impl Asking {
    async fn enrol(core: &Arc<crate::parts::Core>, owner: &Value) -> Self {
        let made = ask(core, "POST", "/enrolment-keys", json!({"kind": "device", "owner": owner})).await;
        let join: JoinKey = made["join_key"].as_str().unwrap().parse().unwrap();
        let key = trust::SigningKey::generate();
        let body = policy::enrolment::DeviceEnrolment::new(join.secret, &key, "laptop");
        let request = Request::post("/enrol/v1/device").header(header::CONTENT_TYPE, "application/json");
        let mut request = request.body(Body::from(serde_json::to_string(&body).unwrap())).unwrap();
        request.extensions_mut().insert(super::stranger());
        let answer = network_router(core).oneshot(request).await.unwrap();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let enrolled: Value = serde_json::from_slice(&bytes).unwrap();
        let certificate = trust::decode_base64url(enrolled["certificate"].as_str().unwrap()).unwrap();
        let id = enrolled["identity"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
        Self { key, certificate, id }
    }

    async fn renew(&self, core: &Arc<crate::parts::Core>) -> wire::ControlReply {
        let (wall, bundle) = (crate::clock::wall(), core.signer.bundle());
        let request = wire::Renew { certificate: true }.into();
        let (sealed, pending) =
            trust::control::seal_request(&self.key, &self.certificate, &bundle, wall, 0, &request).unwrap();
        pending.open(&crate::control::answer(core, &sealed).await.expect("an answer")).unwrap()
    }

    /// Why nothing was renewed; fails when something was.
    async fn refused(&self, core: &Arc<crate::parts::Core>) -> wire::Refusal {
        match self.renew(core).await {
            wire::ControlReply::Refused(refused) => refused.reason,
            other => panic!("{other:?}"),
        }
    }
}

fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_directory(&path, &to);
        } else if path.is_file() {
            std::fs::copy(path, to).unwrap();
        }
    }
}

struct Running {
    core: Arc<crate::parts::Core>,
    port: u16,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<Result<(), crate::ControllerError>>,
}

impl Running {
    async fn start(options: ControllerOptions) -> Self {
        let (controller, first) = Controller::start(options.clone()).await.unwrap();
        if first.is_some() {
            crate::first_start_was_shown(&options.state).unwrap();
        }
        let (core, port) = (Arc::clone(&controller.core), controller.tcp_address().unwrap().port());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(controller.run(async { stopped.await.unwrap_or_default() }));
        Self { core, port, stop, running }
    }

    async fn stop(self) {
        let Self { core, stop, running, .. } = self;
        drop(core);
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_directory_copied_back_from_an_earlier_day_never_revives_a_struck_generation() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("controller");
    let first = Running::start(options(directory.path())).await;
    let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let key = join(&first.core, first.port, json!({"kind": "pop"})).await;
    enrol_pop(&key, &directory.path().join("pop"), "pop-1", &free.to_string(), None).await.unwrap();
    let (stop_pop, pop_thread) = run_pop(&directory.path().join("pop"), free);
    let core = &first.core;
    until("the controller attaches to the PoP", || core.presence().attached_pops().len() == 1).await;
    let user = ask(core, "POST", "/users", json!({"name": "Ada", "email": "ada@example.com"})).await;
    let struck = Asking::enrol(core, &user["id"]).await;
    let other = Asking::enrol(core, &user["id"]).await;
    assert!(matches!(struck.renew(core).await, wire::ControlReply::Renewed(_)));
    until("the time of a beacon is on disk", || state.join("last-beacon").exists()).await;
    first.stop().await;
    let backup = directory.path().join("backup");
    copy_directory(&state, &backup);

    // Struck, given back, and struck again: the copy knows of none of it.
    let second = Running::start(options(directory.path())).await;
    for _ in 0..2 {
        let outcome = ask(&second.core, "POST", "/strikes", json!({"subject": struck.id})).await;
        assert!(outcome["generation"].is_u64(), "{outcome}");
        ask(&second.core, "POST", "/restores", json!({"subject": struck.id})).await;
    }
    let last = ask(&second.core, "POST", "/strikes", json!({"subject": struck.id})).await;
    assert_eq!(last["generation"], 3, "{last}");
    let strikes = &second.core.strikes;
    until("the PoP has all of it", || strikes.heads().values().all(|head| head.seq == 3)).await;
    second.stop().await;

    std::fs::remove_dir_all(&state).unwrap();
    copy_directory(&backup, &state);
    let (controller, _) = Controller::start(options(directory.path())).await.unwrap();
    let core = Arc::clone(&controller.core);
    assert!(core.strikes.set().is_empty(), "the copy has never heard of it");
    // Before anything was heard from the PoP nothing is issued, to nobody.
    assert_eq!(struck.refused(&core).await, wire::Refusal::NoController);
    assert_eq!(other.refused(&core).await, wire::Refusal::NoController);
    let running = tokio::spawn(controller.run(std::future::pending()));
    let deadline = crate::clock::now() + Duration::from_secs(20);
    while struck.refused(&core).await != wire::Refusal::Struck {
        assert!(crate::clock::now() < deadline, "the union is taken from the PoP");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Its configuration is older than what the PoP has seen: that is said, and nothing is issued from it.
    let status = ask(&core, "GET", "/status", json!({})).await;
    assert!(status["not_issuing"].as_str().unwrap().contains("accept-restored-database"), "{status}");
    assert_eq!(other.refused(&core).await, wire::Refusal::NoController);
    let accepted = ask(&core, "POST", "/restored-database", json!({})).await;
    assert_eq!(accepted["incarnation"], 2, "{accepted}");
    assert!(matches!(other.renew(&core).await, wire::ControlReply::Renewed(_)));
    assert_eq!(struck.refused(&core).await, wire::Refusal::Struck);
    let restored = ask(&core, "POST", "/restores", json!({"subject": struck.id})).await;
    assert_eq!(restored["generation"], 4, "above every strike that the PoP remembered: {restored}");
    running.abort();
    stop_pop.send(()).unwrap();
    pop_thread.join().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alone_with_a_state_of_two_days_ago_nothing_is_issued_unless_it_is_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("controller");
    let first = Running::start(options(directory.path())).await;
    // A PoP that is enrolled and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let key = join(&first.core, first.port, json!({"kind": "pop"})).await;
    let address = silent.local_addr().unwrap().to_string();
    enrol_pop(&key, &directory.path().join("pop"), "pop-1", &address, None).await.unwrap();
    let user = ask(&first.core, "POST", "/users", json!({"name": "Ada", "email": "ada@example.com"})).await;
    let laptop = Asking::enrol(&first.core, &user["id"]).await;
    first.stop().await;
    let two_days_ago = crate::clock::wall().minus(Duration::from_secs(48 * 3600));
    for (old_snapshots, issues) in
        [(crate::OldSnapshots::Refuse, false), (crate::OldSnapshots::DangerouslyIssue, true)]
    {
        std::fs::write(state.join("last-beacon"), two_days_ago.as_millis().to_string()).unwrap();
        let options = ControllerOptions { old_snapshots, ..options(directory.path()) };
        let running = Running::start(options).await;
        let core = &running.core;
        assert_eq!(laptop.refused(core).await, wire::Refusal::NoController, "PoPs are asked first");
        until("it takes itself for alone", || {
            !matches!(core.withheld(), Some(crate::Withheld::Starting { .. }))
        })
        .await;
        assert_eq!(matches!(laptop.renew(core).await, wire::ControlReply::Renewed(_)), issues);
        let status = ask(core, "GET", "/status", json!({})).await;
        let why = status["not_issuing"].as_str().unwrap_or_default();
        assert_eq!(why.contains("--dangerous-issue-from-old-snapshot"), !issues, "{status}");
        running.stop().await;
    }
    let running = Running::start(options(directory.path())).await;
    let audit = ask(&running.core, "GET", "/audit", json!({})).await;
    let mut entries = audit["items"].as_array().unwrap().iter();
    assert!(entries.any(|entry| entry["action"] == "issue from old snapshot"), "{audit}");
    running.stop().await;
}
