//! `--diagnostics ADDR`: live, ready and metrics of one process, over HTTP for whoever watches it.
//!
//! Live says that the process runs, and depends on nothing. Ready says that it can do its job with what it holds; the
//! control plane's age is a gauge of its own and makes nothing unready.

use crate::output::{Failure, Outcome};
use anyhow::Context as _;
use bytes::Bytes;
use enrol::ApiClient;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::Value;
use std::{
    collections::BTreeSet, convert::Infallible, fmt::Write as _, net::SocketAddr, path::PathBuf, sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener, sync::Semaphore};

/// Whoever watches asks a few times a minute.
const CONNECTIONS: usize = 16;
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// A process that does not answer its own socket in this time is not ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Whose diagnostics, and where its state is.
#[derive(Debug, Clone)]
pub enum Watched {
    /// A controller.
    Controller(PathBuf),
    /// A PoP.
    Pop(PathBuf),
    /// A connector.
    Connector(PathBuf),
    /// A client.
    Client(PathBuf),
}

impl Watched {
    const fn role(&self) -> &'static str {
        match self {
            Self::Controller(_) => "controller",
            Self::Pop(_) => "pop",
            Self::Connector(_) => "connector",
            Self::Client(_) => "client",
        }
    }

    async fn status(&self) -> anyhow::Result<Value> {
        let of_socket = async |path: PathBuf| {
            let mut socket = tokio::net::UnixStream::connect(&path).await?;
            let mut text = String::new();
            socket.read_to_string(&mut text).await?;
            anyhow::Ok(serde_json::from_str(&text)?)
        };
        let asked = async {
            match self {
                Self::Controller(state) => {
                    Ok(ApiClient::unix(state.join("admin.sock")).get("/api/v1/status").await?)
                }
                Self::Pop(state) => of_socket(state.join(pop::STATUS_SOCKET)).await,
                Self::Connector(state) => of_socket(state.join(connector::STATUS_SOCKET)).await,
                Self::Client(state) => {
                    Ok(serde_json::to_value(client::ControlClient::in_run_dir(state).status().await?)?)
                }
            }
        };
        tokio::time::timeout(ANSWER_WITHIN, asked).await.context("no answer from its own socket in time")?
    }

    /// Why it is not ready, if it is not.
    fn fault(&self, status: &Value) -> Option<&'static str> {
        // As `client::PopView` says it.
        let registered = |status: &Value| {
            let pops = status["pops"].as_array();
            pops.is_some_and(|pops| pops.iter().any(|pop| pop["session"] == "registered"))
        };
        match self {
            Self::Controller(_) | Self::Pop(_) => None,
            Self::Connector(_) if planted::is("stale-is-unready") && status["control_plane"] != "fresh" => {
                Some("planted")
            }
            Self::Connector(_) if status["ready"] == true => None,
            Self::Connector(_) => Some("it is registered at no PoP, or has no valid slice"),
            Self::Client(_) if registered(status) => None,
            Self::Client(_) => Some("it is registered at no PoP"),
        }
    }
}

/// Opens the port and serves until the process ends.
pub async fn start(listen: Option<SocketAddr>, watched: Watched) -> Result<(), Failure> {
    let Some(listen) = listen else { return Ok(()) };
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Failure::say(
            Outcome::Failed,
            format_args!("--diagnostics {listen}: {error}; choose a free port, or leave it out"),
        )
    })?;
    let watched = Arc::new(watched);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let watched = Arc::clone(&watched);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let watched = Arc::clone(&watched);
                    async move { Ok::<_, Infallible>(answer(&request, &watched).await) }
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let connection = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                let _ = tokio::time::timeout(CONNECTION_LIFE, connection).await;
                drop(permit);
            });
        }
    });
    Ok(())
}

async fn answer(request: &Request<Incoming>, watched: &Watched) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/livez" => (StatusCode::OK, "live\n".to_owned()),
        "/readyz" => match watched.status().await {
            Ok(status) => match watched.fault(&status) {
                None => (StatusCode::OK, "ready\n".to_owned()),
                Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {fault}\n")),
            },
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error:#}\n")),
        },
        "/metrics" => match watched.status().await {
            Ok(status) => (StatusCode::OK, metrics(watched.role(), &status)),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
        },
        _ => (StatusCode::NOT_FOUND, "expected /livez, /readyz or /metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Every number of a status, named by its place in it (`tidegate_pop_sessions_devices`), in the text format of
/// Prometheus. Words that say a state become a gauge each: `tidegate_connector_control_plane{is="fresh"} 1`.
fn metrics(role: &str, status: &Value) -> String {
    let mut text = String::new();
    flatten(&mut text, &format!("tidegate_{role}"), status);
    text
}

/// Words worth a gauge: states, never names or addresses of people's things.
const STATES: &[&str] = &["control_plane", "strict", "freshness"];

fn flatten(text: &mut String, name: &str, value: &Value) {
    match value {
        Value::Number(number) => {
            let _ = writeln!(text, "{name} {number}");
        }
        Value::Bool(is) => {
            let _ = writeln!(text, "{name} {}", u8::from(*is));
        }
        Value::Object(members) => {
            for (key, member) in members {
                if let (Some(word), true) = (member.as_str(), STATES.contains(&key.as_str())) {
                    let _ = writeln!(text, "{name}_{key}{{is=\"{word}\"}} 1");
                    continue;
                }
                let key: String = key
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
                    .collect();
                flatten(text, &format!("{name}_{key}"), member);
            }
        }
        // How many there are; each by itself is `status`'s affair, but for servers of the operator's own.
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
            let _ = writeln!(text, "{name} {}", items.len());
            let mut seen = BTreeSet::new();
            for item in items {
                // Two that differ in nothing but how one signs in are one server; a series has one value.
                if let Some(server) =
                    item["server"].as_str().map(host_of).filter(|server| seen.insert(*server))
                {
                    each(text, name, server, item);
                }
            }
        }
        Value::Array(_) | Value::String(_) | Value::Null => {}
    }
}

/// Where a server is, of a connection string: who signs in there is nobody's affair here.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or_default();
    rest.rsplit_once('@').map_or(rest, |(_, host)| host)
}

/// The numbers of one server, by where it is.
fn each(text: &mut String, name: &str, server: &str, item: &Value) {
    let Some(members) = item.as_object() else { return };
    let server = server.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    for (key, member) in members {
        let number = match member {
            Value::Number(number) => number.to_string(),
            Value::Bool(is) => u8::from(*is).to_string(),
            _ => continue,
        };
        let _ = writeln!(text, "{name}_each_{key}{{server=\"{server}\"}} {number}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_get_names_by_their_place_and_names_of_things_stay_out() {
        let status = json!({
            "sessions": {"devices": 3, "counters": {"refused": {"too_often": 2}}}, "ready": true, "control_plane": "stale",
            "resources": [{"name": "payroll"}], "site": "harbour",
        });
        let text = metrics("connector", &status);
        for line in [
            "tidegate_connector_sessions_devices 3",
            "tidegate_connector_sessions_counters_refused_too_often 2",
            "tidegate_connector_ready 1",
            "tidegate_connector_control_plane{is=\"stale\"} 1",
            "tidegate_connector_resources 1",
        ] {
            assert!(text.lines().any(|got| got == line), "{line} in\n{text}");
        }
        assert!(!text.contains("payroll") && !text.contains("harbour"), "{text}");
    }

    #[test]
    fn each_server_of_the_operators_own_has_its_numbers_under_its_name() {
        let replicas = json!([
            {"server": "postgres://tidegate@db2.example:5432/tidegate", "usable": true, "lag_seconds": 7},
            {"server": "postgres://other@db2.example:5432/tidegate", "usable": true, "lag_seconds": 8},
            {"server": "odd\"name", "usable": false, "trouble": "no answer"},
        ]);
        let text = metrics("controller", &json!({"database": {"replicas": replicas}}));
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            [
                "tidegate_controller_database_replicas 3",
                "tidegate_controller_database_replicas_each_lag_seconds{server=\"db2.example:5432\"} 7",
                "tidegate_controller_database_replicas_each_usable{server=\"db2.example:5432\"} 1",
                "tidegate_controller_database_replicas_each_usable{server=\"odd\\\"name\"} 0",
            ]
        );
    }

    #[test]
    fn a_stale_control_plane_makes_nothing_unready() {
        let connector = Watched::Connector(PathBuf::new());
        assert_eq!(connector.fault(&json!({"ready": true, "control_plane": "isolated"})), None);
        assert!(connector.fault(&json!({"ready": false, "control_plane": "fresh"})).is_some());
        let client = Watched::Client(PathBuf::new());
        let pop = |session: &str| client::PopView {
            id: wire::PopId::from_bytes([1; 16]),
            address: "pop.example:443".into(),
            region: "eu".into(),
            session: session.into(),
            transport: None,
            observed: None,
            failures: 0,
        };
        assert!(client.fault(&json!({"pops": [pop("connecting")], "control_plane": "fresh"})).is_some());
        let one_of_two = json!({"pops": [pop("connecting"), pop("registered")], "control_plane": "isolated"});
        assert_eq!(client.fault(&one_of_two), None);
    }
}
