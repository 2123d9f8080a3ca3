//! A whole controller in a temporary directory, asked through its real router.

mod access;
mod api;
mod audit;
mod changes;
mod clock;
mod console;
mod console_access;
mod console_accounts;
mod console_devices;
mod console_forms;
mod console_kept;
mod console_logs;
mod console_people;
mod console_roles;
mod documents;
mod enrolment;
mod filled;
mod filters;
mod following;
mod hostile;
mod inventory;
mod lists;
mod live;
mod log_filters;
mod many;
mod once;
mod outage;
mod overload;
mod paths;
mod providers;
mod removals;
mod replicas;
mod role_objects;
mod roles;
mod several;
mod signin;
mod signin_limits;
mod slow;
mod step_up;
mod strikes;
mod through_pop;
mod versions;
mod with_pop;

use crate::{
    Controller, ControllerError, ControllerOptions, FirstStart, TlsSource, api::Peer, server::network_router,
};
use axum::{Router, body::Body};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::{net::IpAddr, path::PathBuf};
use tower::ServiceExt;

pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) controller: Controller,
    pub(crate) first: Option<FirstStart>,
    router: Router,
    background: tokio::task::JoinHandle<()>,
}

pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of a problem; fails when it is none.
    pub(crate) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
        if (400..500).contains(&status) {
            for member in ["field", "rule"] {
                let said = problem[member].as_str().is_some_and(|text| !text.is_empty());
                assert!(said, "what is wrong in the request: {problem}");
            }
        }
        problem
    }

    pub(crate) fn made(&self) -> Value {
        assert_eq!(self.status, StatusCode::CREATED, "{}", self.text);
        self.json()
    }

    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text);
        self.json()
    }
}

pub(crate) const LOCAL: Peer = Peer::Local { uid: 0 };

pub(crate) fn stranger() -> Peer {
    Peer::Network(IpAddr::from([203, 0, 113, 7]))
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap()).await
    }

    pub(crate) fn options(directory: &tempfile::TempDir) -> ControllerOptions {
        ControllerOptions {
            state: directory.path().join("controller"),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            unix: None,
            url: "https://localhost:8443".into(),
            database: None,
            replicas: Vec::new(),
            join: None,
            tls: TlsSource::Own,
            old_snapshots: crate::OldSnapshots::Refuse,
            connector_image: None,
        }
    }

    pub(crate) async fn in_directory(directory: tempfile::TempDir) -> Self {
        let options = Self::options(&directory);
        Self::with(directory, options).await
    }

    pub(crate) async fn with(directory: tempfile::TempDir, options: ControllerOptions) -> Self {
        let (controller, first) = Self::started(options).await;
        crate::first_start_was_shown(&directory.path().join("controller")).unwrap();
        let router = network_router(&controller.core);
        let core = std::sync::Arc::clone(&controller.core);
        let background = tokio::spawn(async move {
            tokio::join!(
                std::sync::Arc::clone(&core).catch_up(),
                crate::follow::follow(&core),
                crate::replicas::watch(&core)
            );
        });
        Self { directory, controller, first, router, background }
    }

    /// A server that was started a moment ago on a busy machine may miss a deadline: it is asked again.
    async fn started(options: ControllerOptions) -> (Controller, Option<FirstStart>) {
        let deadline = crate::clock::now() + std::time::Duration::from_secs(30);
        loop {
            match Controller::start(options.clone()).await {
                Err(ControllerError::Store(error))
                    if options.database.is_some()
                        && error.is_unavailable()
                        && crate::clock::now() < deadline =>
                {
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                started => return started.unwrap(),
            }
        }
    }

    /// The same directory in a new controller, as after a restart.
    pub(crate) async fn restarted(self) -> Self {
        let directory = self.stop().await;
        Self::in_directory(directory).await
    }

    pub(crate) async fn stop(self) -> tempfile::TempDir {
        self.background.abort();
        // Gone with everything that it holds.
        let Self { directory, controller, router, background, .. } = self;
        let _ = background.await;
        controller.core.database.close().await;
        let held = std::sync::Arc::downgrade(&controller.core);
        drop((controller, router));
        // What it wrote last may still be on its way to the disk, and holds the state directory until it is there.
        let deadline = crate::clock::now() + std::time::Duration::from_secs(10);
        let state = directory.path().join("controller");
        let is_held = || held.strong_count() > 0 || state::StateDir::is_in_use(&state).unwrap_or(false);
        while is_held() && crate::clock::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        directory
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("controller")
    }

    pub(crate) async fn send(&self, peer: Peer, request: Request<Body>) -> Reply {
        let mut request = request;
        request.extensions_mut().insert(peer);
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Reply { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let builder = Request::builder().method(method).uri(format!("/api/v1{path}"));
        let request = match body {
            Some(body) => {
                builder.header("content-type", "application/json").body(Body::from(body.to_string()))
            }
            None => builder.body(Body::empty()),
        };
        self.send(LOCAL, request.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Reply {
        self.call(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.call(Method::DELETE, path, None).await
    }

    /// The version of the database that memory has.
    pub(crate) async fn version(&self) -> u64 {
        self.get("/status").await.ok()["snapshot"]["version"].as_u64().expect("a version")
    }

    /// A site, a resource, a group with a user, and a policy between them.
    pub(crate) async fn furnish(&self) -> Furniture {
        let id = |value: Value| value["id"].as_str().unwrap().to_owned();
        let site =
            id(self.post("/sites", json!({"name": "hamburg", "prefixes": ["10.0.0.0/8"]})).await.made());
        let resource = json!({"site": site, "name": "orders", "address": "10.1.2.3", "ports": ["5432"]});
        let resource = id(self.post("/resources", resource).await.made());
        let group = id(self.post("/groups", json!({"name": "engineers"})).await.made());
        let user = id(self.post("/users", json!({"name": "Ada", "email": "ada@example.com"})).await.made());
        let member = self.call(Method::PUT, &format!("/groups/{group}/members/{user}"), None).await;
        assert_eq!(member.ok()["generation"], 1);
        let policy = json!({"name": "orders for engineers", "groups": [group], "resources": [resource]});
        let policy = id(self.post("/policies", policy).await.made());
        Furniture { site, resource, group, user, policy }
    }

    /// A join key's text.
    pub(crate) async fn key(&self, body: Value) -> String {
        self.post("/enrolment-keys", body).await.made()["join_key"].as_str().unwrap().to_owned()
    }
}

pub(crate) struct Furniture {
    pub(crate) site: String,
    pub(crate) resource: String,
    pub(crate) group: String,
    pub(crate) user: String,
    pub(crate) policy: String,
}
