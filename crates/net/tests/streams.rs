//! An agent's streams against a TLS server of the test's own.

#![allow(clippy::disallowed_methods, reason = "a test of sockets waits by the real clock")]

use net::{StreamLinks, StreamTarget};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

const DEADLINE: Duration = Duration::from_secs(10);

/// A server that says back each byte it is told, and says when it has accepted somebody.
async fn server(alpn: &[u8]) -> (StreamTarget, mpsc::UnboundedReceiver<()>) {
    let made = rcgen::generate_simple_self_signed(vec!["pop.example".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("usable");
    config.alpn_protocols = vec![alpn.to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (tell, accepted) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = tell.send(());
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = [0; 4_096];
                while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..length]).await.is_err() || stream.flush().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (StreamTarget { address, host: "pop.example".to_owned() }, accepted)
}

fn stands_for() -> SocketAddr {
    wire::stream_address(1, 443)
}

#[tokio::test]
async fn datagrams_go_and_come_by_one_stream_in_order() {
    let (target, mut accepted) = server(wire::SESSION_ALPN).await;
    let mut links = StreamLinks::new();
    for number in 0..50_u8 {
        links.send(stands_for(), &target, vec![number; usize::from(number) * 20 + 1]);
    }
    for number in 0..50_u8 {
        let (from, datagram) = timeout(DEADLINE, links.recv()).await.expect("in time");
        assert_eq!((from, datagram), (stands_for(), vec![number; usize::from(number) * 20 + 1]));
    }
    assert!(accepted.try_recv().is_ok() && accepted.try_recv().is_err(), "one connection");
    assert_eq!((links.totals().opened, links.totals().dropped), (1, 0));
}

#[tokio::test]
async fn whoever_does_not_speak_our_protocol_gets_nothing_and_is_not_dialled_at_once() {
    let (target, mut accepted) = server(b"h2").await;
    let mut links = StreamLinks::new();
    links.send(stands_for(), &target, vec![1]);
    timeout(DEADLINE, accepted.recv()).await.expect("in time").expect("dialled");
    let began = tokio::time::Instant::now();
    let again = async {
        loop {
            links.send(stands_for(), &target, vec![1]);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if accepted.try_recv().is_ok() {
                return began.elapsed();
            }
        }
    };
    let again = timeout(DEADLINE, again).await.expect("it is dialled again some time");
    assert!(again >= Duration::from_millis(800), "again after {again:?}");
    assert!(links.totals().dropped > 10, "{:?}", links.totals());
    assert!(links.try_recv().is_none());
}

#[tokio::test]
async fn another_network_ends_every_stream_and_what_comes_after_goes_by_a_new_one() {
    let (target, mut accepted) = server(wire::SESSION_ALPN).await;
    let mut links = StreamLinks::new();
    links.send(stands_for(), &target, vec![1]);
    timeout(DEADLINE, links.recv()).await.expect("in time");
    links.reset();
    links.send(stands_for(), &target, vec![2]);
    assert_eq!(timeout(DEADLINE, links.recv()).await.expect("in time"), (stands_for(), vec![2]));
    assert!(accepted.try_recv().is_ok() && accepted.try_recv().is_ok(), "two connections");
}

#[tokio::test]
async fn what_waits_for_a_server_that_says_nothing_is_bounded() {
    // It accepts, and never begins TLS.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let target =
        StreamTarget { address: silent.local_addr().expect("an address"), host: "pop.example".to_owned() };
    let mut links = StreamLinks::new();
    for _ in 0..10_000 {
        links.send(stands_for(), &target, vec![7; 1_400]);
    }
    assert_eq!(links.totals().dropped, 10_000 - 512);
}
