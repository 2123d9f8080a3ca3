//! What a stranger can do to the TCP port, and what it costs.

use super::*;
use crate::shell::streams::{MAX_WAITING, Streams, TlsIdentity, acceptor};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};
use trust::SigningKey;

/// A stranger judges nobody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

async fn tls<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> TlsStream<S> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![wire::SESSION_ALPN.to_vec()];
    let name = "pop.example".try_into().expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    timeout(DEADLINE, connecting).await.expect("in time").expect("TLS")
}

fn shown<S>(stream: &TlsStream<S>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
}

async fn until(running: &Running, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
    let wait = async {
        while !is_so(&status(running).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(DEADLINE, wait).await.is_ok(), "{what}: {}", status(running).await);
}

fn roomy(_: &std::path::Path) -> Option<TcpFrontOptions> {
    let listen = "127.0.0.1:0".parse().expect("address");
    Some(TcpFrontOptions { listen, console: None, max_connections: 1_024 })
}

async fn is_closed(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut buffer = [0; 64];
    let read = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("closed in time");
    matches!(read, Ok(0) | Err(_))
}

#[tokio::test]
async fn a_client_hello_of_one_byte_at_a_time_is_cut_off_and_keeps_nobody_out() {
    let running = start_with(roomy);
    let mut slow = TcpStream::connect(running.tcp.expect("a TCP port")).await.expect("connects");
    let hello = client_hello(&[wire::SESSION_ALPN]);
    let began = now();
    let dribble = async {
        let mut sent = 0;
        for byte in &hello {
            if slow.write_all(std::slice::from_ref(byte)).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        sent
    };
    let other = async {
        let agent = Peer::register_by_tcp(&running, device(1, 10)).await;
        until(&running, "cut off", |status| status["front"]["no_client_hello"] == 1).await;
        drop(agent);
    };
    let sent = tokio::select! {
        sent = dribble => sent,
        () = other => 0,
    };
    assert!(sent < hello.len(), "the whole of it was waited for");
    assert!(now() - began < Duration::from_secs(8));
}

#[tokio::test]
async fn a_source_that_says_nothing_takes_its_share_of_connections_and_no_more() {
    let running = start_with(roomy);
    let address = running.tcp.expect("a TCP port");
    let mut held = Vec::new();
    for _ in 0..256 {
        held.push(TcpStream::connect(address).await.expect("connects"));
    }
    let mut one_more = TcpStream::connect(address).await.expect("connects");
    assert!(is_closed(&mut one_more).await);
    until(&running, "counted", |status| status["streams"]["too_many"] == 1).await;
    // No handshake was paid for: nothing of TLS was tried.
    assert_eq!(status(&running).await["streams"]["tls_failed"], 0);
    drop(held);
    let again = async {
        loop {
            let again = Peer::register_by_tcp(&running, device(1, 10));
            if timeout(Duration::from_secs(1), again).await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, again).await.expect("its places are free again");
}

#[tokio::test]
async fn a_frame_longer_than_any_datagram_or_of_none_ends_the_stream() {
    let running = start_with(roomy);
    for (number, frame) in [[0xFF, 0xFF], [0x08, 0x01], [0, 0]].into_iter().enumerate() {
        let stream = TcpStream::connect(running.tcp.expect("a TCP port")).await.expect("connects");
        let mut stream = tls(stream).await;
        stream.write_all(&frame).await.expect("sent");
        stream.flush().await.expect("sent");
        assert!(is_closed(&mut stream).await, "{frame:?}");
        until(&running, "counted", |status| status["streams"]["malformed"] == number + 1).await;
    }
    until(&running, "gone", |status| status["streams"]["open"] == 0).await;
}

#[tokio::test]
async fn a_stream_that_says_nothing_of_ours_is_ended() {
    let running = start_with(roomy);
    let stream = TcpStream::connect(running.tcp.expect("a TCP port")).await.expect("connects");
    let mut stream = tls(stream).await;
    until(&running, "open", |status| status["streams"]["open"] == 1).await;
    let mut buffer = [0; 1];
    let read = timeout(DEADLINE + Duration::from_secs(5), stream.read(&mut buffer)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
}

#[tokio::test]
async fn a_stream_on_which_nobody_registers_is_ended_whatever_comes_on_it() {
    let running = start_with(roomy);
    let stream = TcpStream::connect(running.tcp.expect("a TCP port")).await.expect("connects");
    let (mut reader, mut writer) = tokio::io::split(tls(stream).await);
    // A QUIC packet of a session that nobody has, again and again (RFC 9000 section 17.3).
    let mut datagram = Vec::new();
    wire::encode_stream_datagram(&mut datagram, &[[0x40].as_slice(), &[7; 60]].concat());
    let says = async {
        while writer.write_all(&datagram).await.is_ok() && writer.flush().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut buffer = [0; 64];
    let ended = async { while !matches!(reader.read(&mut buffer).await, Ok(0) | Err(_)) {} };
    let (_, ended) = tokio::join!(says, timeout(DEADLINE + Duration::from_secs(5), ended));
    assert!(ended.is_ok());
    assert!(status(&running).await["streams"]["received"].as_u64() > Some(10));
}

#[tokio::test]
async fn whoever_is_registered_keeps_its_place_when_the_port_is_full_of_others() {
    let two = |_: &std::path::Path| {
        let listen = "0.0.0.0:0".parse().expect("address");
        Some(TcpFrontOptions { listen, console: None, max_connections: 2 })
    };
    let running = start_with(two);
    let port = running.tcp.expect("a TCP port").port();
    let from = async |last: u8| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, last], 0).into()).expect("an address of this machine");
        socket.connect(([127, 0, 0, 1], port).into()).await.expect("connects")
    };
    let mut agent = Peer::register_by_tcp(&running, device(1, 10)).await;
    let mut silent = from(2).await;
    let mut newer = from(3).await;
    assert!(is_closed(&mut silent).await, "the newer one has its place");
    let newest = from(4).await;
    assert!(is_closed(&mut newer).await, "and so on");
    until(&running, "counted", |status| status["front"]["full"] == 2).await;
    agent.say(&wire::Keepalive {}.into());
    agent.hear_agent(|message| matches!(message, ToAgent::Alive(_)).then_some(())).await;
    drop(newest);
}

#[test]
fn what_waits_for_all_streams_together_is_bounded_and_given_back() {
    let streams = Streams::default();
    let mut queues = Vec::new();
    // As many as the port takes, none of which reads.
    for number in 0..1_024 {
        let stands_for = wire::stream_address(number, 443);
        queues.push((stands_for, streams.insert_for_test(stands_for)));
    }
    for (to, _) in &queues {
        for _ in 0..600 {
            streams.send(*to, &[7; 1_400]);
        }
    }
    let full = streams.snapshot();
    assert!(full.waiting <= MAX_WAITING && full.waiting > MAX_WAITING - 4_096, "{full:?}");
    assert!(full.dropped > full.sent);
    // One that reads again makes room, and so does one that ends.
    let (to, queue) = &mut queues[0];
    queue.try_recv().expect("one waits");
    streams.send(*to, &[7; 1_400]);
    assert_eq!(streams.snapshot().sent, full.sent + 1);
    drop(queues);
    assert_eq!(streams.snapshot().waiting, 0);
}

#[tokio::test]
async fn the_tcp_port_shows_a_renewed_certificate_and_never_one_of_another_key() {
    let installation = Installation::new(wall());
    let key = SigningKey::from_seed(&[40; 32]);
    let pop = Identity::pop(crate::fixture::INSTALLATION, pop_id());
    let first = installation.certificate(pop, &key, 1);
    let (acceptor, identity): (_, Arc<TlsIdentity>) = acceptor(&first, &key).expect("usable");
    let streams = Streams::new(Arc::clone(&identity));
    let hello = async || {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (shown_now, _) = tokio::join!(async { shown(&tls(ours).await) }, acceptor.accept(theirs));
        shown_now
    };
    assert_eq!(hello().await, first);
    let newer = installation.certificate(pop, &key, 2);
    assert_ne!(newer, first);
    streams.set_certificate(&newer);
    assert_eq!(hello().await, newer);
    let foreign = installation.certificate(pop, &SigningKey::from_seed(&[41; 32]), 3);
    streams.set_certificate(&foreign);
    streams.set_certificate(b"no certificate");
    assert_eq!(hello().await, newer);
    assert_eq!(streams.snapshot().certificates, 1);
}
