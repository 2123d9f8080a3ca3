//! The console and API as people reach them on the host of a small installation: TLS through the PoP's TCP port.

use super::World;
use crate::{Controller, ControllerOptions};
use http::{Method, Request, header};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

/// On loopback, and with compilers beside it.
const SOON: Duration = Duration::from_secs(30);

async fn connect(to: SocketAddr, core: &crate::parts::Core) -> tokio_rustls::client::TlsStream<TcpStream> {
    let own = core.signer.console_certificate(&["localhost".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    // Any certificate of the chain is as good as another: this test is not about trust.
    roots.add(own.chain.last().unwrap().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(to).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_answered_in_words_through_a_pop_however_much_of_it_is_sent_first() {
    let directory = tempfile::tempdir().unwrap();
    let console = directory.path().join("console.sock");
    let usual = World::options(&tempfile::tempdir().unwrap());
    let state = directory.path().join("controller");
    let options = ControllerOptions { state: state.clone(), unix: Some(console.clone()), ..usual };
    let (controller, _) = Controller::start(options).await.unwrap();
    crate::first_start_was_shown(&state).unwrap();
    let core = Arc::clone(&controller.core);
    let port = controller.tcp_address().unwrap().port();
    let running = tokio::spawn(controller.run(std::future::pending()));

    let body = serde_json::json!({"kind": "pop"}).to_string();
    let mut request =
        Request::post("/api/v1/enrolment-keys").header(header::CONTENT_TYPE, "application/json");
    request.extensions_mut().unwrap().insert(super::LOCAL);
    let request = request.body(axum::body::Body::from(body)).unwrap();
    let answer = tower::ServiceExt::oneshot(crate::server::network_router(&core), request).await.unwrap();
    let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let made: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let mut key: trust::JoinKey = made["join_key"].as_str().unwrap().parse().unwrap();
    key.controller = format!("https://localhost:{port}");
    enrol::enrol_pop(&key, &directory.path().join("pop"), "pop-1", "127.0.0.1:4433", None).await.unwrap();
    let mut options = pop::PopOptions::new(directory.path().join("pop"), "127.0.0.1:0".parse().unwrap());
    let listen = "127.0.0.1:0".parse().unwrap();
    options.tcp_front = Some(pop::TcpFrontOptions { listen, console: Some(console), max_connections: 8 });
    let pop = pop::Pop::open(options).unwrap();
    let front = pop.tcp_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let pop = tokio::spawn(pop.run(async { stopped.await.unwrap_or_default() }));

    for length in [300_000, 3_000_000] {
        let mut stream = connect(front, &core).await;
        let head = format!(
            "{} /enrol/v1/device HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n",
            Method::POST
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        // As a simple client does: all of it before the first look at an answer.
        let sent = timeout(SOON, stream.write_all(&vec![b' '; length])).await.expect("it is taken");
        sent.unwrap_or_else(|error| panic!("{length} bytes: {error}"));
        stream.flush().await.unwrap();
        let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
        while !answer.ends_with(b"}") {
            let read = timeout(SOON, stream.read(&mut chunk)).await.expect("an answer");
            let read = read.unwrap_or_else(|error| panic!("{length} bytes: {error}"));
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&chunk[..read]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("at most 8192 bytes"), "{answer}");
    }
    stop.send(()).unwrap();
    pop.await.unwrap().unwrap();
    running.abort();
}
