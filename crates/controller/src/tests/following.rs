//! Exports that go on with what comes, over the controller's real local socket.

use super::World;
use crate::parts::Core;
use serde_json::{Value, json};
use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
    time::timeout,
};
use wire::{ConnectorId, OrganizationId};

/// Nothing here takes as long, on whatever machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A controller that serves, and what its tests look at.
struct Serving {
    core: Arc<Core>,
    organization: OrganizationId,
    socket: PathBuf,
    running: JoinHandle<()>,
    _directory: tempfile::TempDir,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Serving {
    async fn start() -> Self {
        let mut world = World::new().await;
        let core = Arc::clone(&world.controller.core);
        let organization = core.snapshot().dataset.organizations[0].organization.id;
        let socket = world.state().join("admin.sock");
        let directory = std::mem::replace(&mut world.directory, tempfile::tempdir().unwrap());
        let running = Box::pin(world.controller.run(pending()));
        let running = tokio::spawn(async move { running.await.unwrap() });
        Self { core, organization, socket, running, _directory: directory }
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Following {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        Following { stream, seen: String::new() }
    }

    /// How many hold the controller, when that has been the same for a while.
    async fn settled(&self) -> usize {
        let (mut held, mut same) = (0, 0);
        let deadline = crate::clock::now() + PATIENCE;
        while same < 10 {
            assert!(crate::clock::now() < deadline, "{held} hold it, and then others");
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = Arc::strong_count(&self.core);
            same = if now == held { same + 1 } else { 0 };
            held = now;
        }
        held
    }

    fn flow(&self, batch: u64, id: &str) {
        let record = json!({"id": id, "verdict": "allowed"}).to_string();
        let connector = ConnectorId::from_bytes([2; 16]);
        let now = crate::clock::wall();
        self.core.flows.take(self.organization, connector, batch, record.as_bytes(), now).unwrap();
    }
}

/// One answer, as it comes.
struct Following {
    stream: UnixStream,
    seen: String,
}

impl Following {
    /// Reads on until something was said.
    async fn reads(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let mut piece = [0; 4096];
            let read = timeout(PATIENCE, self.stream.read(&mut piece)).await;
            let read = read.unwrap_or_else(|_| panic!("{text:?} never came: {}", self.seen)).unwrap();
            assert!(read > 0, "the answer ended before {text:?}: {}", self.seen);
            self.seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    }

    /// Whether anything more comes while something else, which was asked for later, is answered.
    fn is_silent(&self) -> bool {
        let mut piece = [0; 1];
        self.stream.try_read(&mut piece).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

#[tokio::test]
async fn who_follows_the_audit_log_is_told_of_what_was_written_after_they_asked() {
    let serving = Serving::start().await;
    serving.ask("POST", "/groups", &json!({"name": "before"})).await.reads("201 Created").await;
    let mut following = serving.ask("GET", "/audit/export?follow=true", &Value::Null).await;
    following.reads("application/x-ndjson").await;
    following.reads("before").await;
    for name in ["engineers", "operators"] {
        serving.ask("POST", "/groups", &json!({"name": name})).await.reads("201 Created").await;
        following.reads(name).await;
    }
    // Without it the answer ends where the log does.
    let mut once = serving.ask("GET", "/audit/export", &Value::Null).await;
    once.reads("\r\n0\r\n\r\n").await;
    assert!(once.seen.contains("operators"));
    assert!(following.is_silent(), "everything is told once");
}

#[tokio::test]
async fn who_follows_the_flow_log_is_told_of_what_was_written_after_they_asked() {
    let serving = Serving::start().await;
    serving.flow(1, "flow-before");
    let mut following = serving.ask("GET", "/flows/export?follow=true", &Value::Null).await;
    following.reads("flow-before").await;
    for (batch, id) in [(2, "flow-second"), (3, "flow-third")] {
        serving.flow(batch, id);
        following.reads(id).await;
    }
    let mut once = serving.ask("GET", "/flows/export", &Value::Null).await;
    once.reads("\r\n0\r\n\r\n").await;
    assert!(once.seen.contains("flow-third"));
    assert!(following.is_silent(), "everything is told once");
}

#[tokio::test]
async fn who_follows_with_a_token_that_is_struck_is_told_nothing_more() {
    let serving = Serving::start().await;
    let token = json!({"name": "watcher", "scopes": ["read", "admin"]});
    let mut made = serving.ask("POST", "/tokens", &token).await;
    made.reads("\"token\":\"").await;
    let text = made.seen.split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let id = made.seen.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let router = crate::server::network_router(&serving.core);
    let mut bodies = Vec::new();
    for path in ["/audit/export", "/flows/export", "/authentication-log/export"] {
        let mut request = http::Request::get(format!("/api/v1{path}?follow=true"))
            .header("authorization", format!("Bearer {text}"))
            .body(axum::body::Body::empty())
            .unwrap();
        request.extensions_mut().insert(super::stranger());
        let answer = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        bodies.push((path, answer.into_body()));
    }
    serving.ask("POST", "/strikes", &json!({"subject": id})).await.reads("201 Created").await;
    for (path, body) in bodies {
        let end = timeout(PATIENCE, http_body_util::BodyExt::collect(body)).await;
        let end = end.unwrap_or_else(|_| panic!("{path} goes on"));
        assert!(end.is_err(), "{path}: it breaks off, and is not taken for whole");
    }
}

#[tokio::test]
async fn a_follower_that_goes_away_leaves_nothing_behind() {
    let serving = Serving::start().await;
    // Its listeners hold what they serve from the first answer on.
    serving.ask("GET", "/me", &Value::Null).await.reads("200 OK").await;
    for path in
        ["/audit/export?follow=true", "/flows/export?follow=true", "/authentication-log/export?follow=true"]
    {
        let before = serving.settled().await;
        let mut followers = Vec::new();
        for _ in 0..20 {
            let mut follower = serving.ask("GET", path, &Value::Null).await;
            follower.reads("200 OK").await;
            followers.push(follower);
        }
        assert!(Arc::strong_count(&serving.core) >= before + 20, "{path}: each of them is held");
        drop(followers);
        let after = serving.settled().await;
        assert!(after <= before + 5, "{path}: {before} holders before, {after} after");
    }
}
