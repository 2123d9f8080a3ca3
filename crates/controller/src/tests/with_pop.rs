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
            pop.run(async { stopped.await.unwrap_or_default() }).await.unwrap();
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
    enrol_pop(&key, &directory.path().join("pop"), "pop-1", &free.to_string()).await.unwrap();
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
