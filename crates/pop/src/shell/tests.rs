mod streams;

use super::*;
use crate::fixture::{Installation, connector, controller, device, pop_id};
use net::{StreamLinks, StreamTarget};
use session::{Dialler, Event, Output, SessionId};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket, UnixListener, UnixStream},
    sync::oneshot,
    time::timeout,
};
use trust::Identity;
use wire::{
    Accept, Bounded, ChannelId, ConnectorId, FromAgent, FromSigner, Hello, Open, PublishBeacon, RelayKind,
    SignerHello, ToAgent, ToSigner, WG_INITIATION_LEN, WG_RESPONSE_LEN,
};

/// Everything here is on loopback: what takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(10);

struct Running {
    installation: Installation,
    directory: tempfile::TempDir,
    address: SocketAddr,
    tcp: Option<SocketAddr>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), PopError>>,
}

fn start_with(front: impl FnOnce(&std::path::Path) -> Option<TcpFrontOptions>) -> Running {
    let installation = Installation::new(wall());
    let directory = tempfile::tempdir().expect("directory");
    let mut options = PopOptions::new(directory.path().to_owned(), "127.0.0.1:0".parse().expect("address"));
    options.tcp_front = front(directory.path());
    installation.write_pop_state(directory.path());
    let pop = Pop::open(options).expect("opens");
    let (address, tcp) = (pop.local_addr(), pop.tcp_addr());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(pop.run(async move {
        let _ = stopped.await;
    }));
    Running { installation, directory, address, tcp, stop, task }
}

fn start() -> Running {
    start_with(|_| None)
}

/// What carries a peer's datagrams.
enum Carrier {
    Udp(UdpSocket),
    Tcp { links: StreamLinks, target: StreamTarget },
}

impl Carrier {
    async fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        match self {
            Self::Udp(socket) => {
                socket.send_to(bytes, to).await.expect("sent");
            }
            Self::Tcp { links, target } => links.send(to, target, bytes.to_vec()),
        }
    }

    async fn receive(&mut self) -> (SocketAddr, Vec<u8>) {
        match self {
            Self::Udp(socket) => {
                let mut buffer = [0; 2048];
                let (length, from) = socket.recv_from(&mut buffer).await.expect("received");
                (from, buffer[..length].to_vec())
            }
            Self::Tcp { links, .. } => links.recv().await,
        }
    }
}

/// A dialler on a socket of its own.
struct Peer {
    dialler: Dialler,
    carrier: Carrier,
    pop: SocketAddr,
    id: SessionId,
}

enum Heard {
    Connected,
    Frame(u16, Vec<u8>),
    Lost(session::LostReason),
}

impl Peer {
    async fn dial(running: &Running, identity: Identity) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
        Self::dial_by(running, identity, Carrier::Udp(socket), running.address).await
    }

    async fn dial_by(running: &Running, identity: Identity, carrier: Carrier, pop: SocketAddr) -> Self {
        let local = running.installation.local(identity);
        let bundle = running.installation.bundle.clone();
        let mut dialler = Dialler::new(local, bundle, wall(), [7; 32]);
        let id = dialler.dial(now(), pop_id(), pop).expect("dials");
        let mut peer = Self { dialler, carrier, pop, id };
        assert!(matches!(peer.hear().await, Heard::Connected));
        peer
    }

    async fn hear(&mut self) -> Heard {
        let hear = async {
            loop {
                match self.dialler.poll_output(now()) {
                    Output::Transmit { to, payload } => {
                        self.carrier.send(to, &payload).await;
                    }
                    Output::Event(Event::Connected { .. }) => return Heard::Connected,
                    Output::Event(Event::Frame { frame_type, body, .. }) => {
                        return Heard::Frame(frame_type, body);
                    }
                    Output::Event(Event::Lost { reason, .. }) => return Heard::Lost(reason),
                    Output::Event(_) => {}
                    Output::Timeout { at, .. } => {
                        tokio::select! {
                            (from, bytes) = self.carrier.receive() => {
                                self.dialler.handle_input(now(), from, &bytes);
                            }
                            () = tokio::time::sleep_until(at.into()) => self.dialler.handle_timeout(now()),
                        }
                    }
                }
            }
        };
        timeout(DEADLINE, hear).await.expect("heard in time")
    }

    async fn hear_agent<R>(&mut self, wanted: impl Fn(ToAgent) -> Option<R>) -> R {
        loop {
            let Heard::Frame(kind, body) = self.hear().await else { panic!("the session ended") };
            let message = ToAgent::decode_body(kind, &body).expect("valid").expect("known");
            if let Some(found) = wanted(message) {
                return found;
            }
        }
    }

    fn say(&mut self, message: &FromAgent) {
        self.dialler.send(self.id, message.frame_type(), &message.encode_body()).expect("queued");
    }

    fn say_signer(&mut self, message: &FromSigner) {
        self.dialler.send(self.id, message.frame_type(), &message.encode_body()).expect("queued");
    }

    async fn register(running: &Running, identity: Identity) -> Self {
        Self::dial(running, identity).await.greet().await
    }

    /// By TCP, as an agent does whose network lets no UDP out.
    async fn register_by_tcp(running: &Running, identity: Identity) -> Self {
        let target =
            StreamTarget { address: running.tcp.expect("a TCP port"), host: "pop.example".to_owned() };
        let carrier = Carrier::Tcp { links: StreamLinks::new(), target };
        let stands_for = wire::stream_address(1, 443);
        Self::dial_by(running, identity, carrier, stands_for).await.greet().await
    }

    async fn greet(mut self) -> Self {
        let peer = &mut self;
        peer.say(&Hello { oldest: 1, newest: 1, build: Bounded::default() }.into());
        peer.hear_agent(|message| matches!(message, ToAgent::Welcome(_)).then_some(())).await;
        self
    }

    async fn send_data(&mut self, channel: ChannelId, body: &[u8]) {
        let frame = [&wire::encode_relay_header(RelayKind::Data, channel)[..], body].concat();
        self.carrier.send(self.pop, &frame).await;
    }

    /// The next relay frame on this socket.
    async fn receive_data(&mut self) -> (ChannelId, Vec<u8>) {
        let receive = async {
            loop {
                let (from, bytes) = self.carrier.receive().await;
                if wire::classify(&bytes) == wire::DatagramKind::Relay {
                    let frame = wire::parse_relay(&bytes).expect("valid");
                    assert_eq!(from, self.pop);
                    return (frame.channel, frame.body.to_vec());
                }
                self.dialler.handle_input(now(), from, &bytes);
            }
        };
        timeout(DEADLINE, receive).await.expect("received in time")
    }

    /// Sends what is queued without waiting for anything.
    async fn flush(&mut self) {
        while let Output::Transmit { to, payload } = self.dialler.poll_output(now()) {
            self.carrier.send(to, &payload).await;
        }
    }
}

async fn status(running: &Running) -> serde_json::Value {
    let ask = async {
        let path = running.directory.path().join(STATUS_SOCKET);
        let mut stream = UnixStream::connect(path).await.expect("connects");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("reads");
        serde_json::from_str(&text).expect("JSON")
    };
    timeout(DEADLINE, ask).await.expect("answered")
}

#[tokio::test]
async fn packets_travel_between_two_agents_over_real_sockets() {
    let running = start();
    let connector = Peer::register(&running, connector(1, 20)).await;
    let client = Peer::register(&running, device(1, 10)).await;
    packets_travel(&running, client, connector).await;
}

#[tokio::test]
async fn packets_travel_between_an_agent_by_tcp_and_one_by_udp() {
    let running = start_with(tcp_alone);
    let connector = Peer::register(&running, connector(1, 20)).await;
    let client = Peer::register_by_tcp(&running, device(1, 10)).await;
    packets_travel(&running, client, connector).await;
    let status = status(&running).await;
    assert_eq!((&status["streams"]["opened"], &status["streams"]["dropped"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn packets_travel_between_two_agents_by_tcp() {
    let running = start_with(tcp_alone);
    let connector = Peer::register_by_tcp(&running, connector(1, 20)).await;
    let client = Peer::register_by_tcp(&running, device(1, 10)).await;
    packets_travel(&running, client, connector).await;
}

fn tcp_alone(_: &std::path::Path) -> Option<TcpFrontOptions> {
    let listen = "127.0.0.1:0".parse().expect("address");
    Some(TcpFrontOptions { listen, console: None, max_connections: 8 })
}

#[tokio::test]
async fn a_stream_of_anything_else_is_ended_and_counted() {
    let running = start_with(tcp_alone);
    let mut links = StreamLinks::new();
    let target = StreamTarget { address: running.tcp.expect("a TCP port"), host: "127.0.0.1".to_owned() };
    links.send(wire::stream_address(1, 443), &target, vec![0x05; 40]);
    let counted = async {
        while status(&running).await["streams"]["foreign"] != 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, counted).await.expect("counted");
}

#[tokio::test]
async fn more_streams_than_there_are_slots_are_closed_and_counted() {
    let running = start_with(tcp_alone);
    let address = running.tcp.expect("a TCP port");
    let mut held = Vec::new();
    for _ in 0..12 {
        held.push(TcpStream::connect(address).await.expect("connects"));
    }
    let counted = async {
        while status(&running).await["front"]["full"] != 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, counted).await.expect("counted");
    drop(held);
    // The slots are free again.
    let freed = async {
        loop {
            let again = Peer::register_by_tcp(&running, device(1, 10));
            if timeout(Duration::from_secs(1), again).await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, freed).await.expect("freed");
}

async fn packets_travel(running: &Running, mut client: Peer, mut connector: Peer) {
    let open = Open {
        seq: 1,
        connector: ConnectorId::from_bytes([20; 16]),
        sealed: Bounded::new(vec![1; 600]).expect("short"),
        initiation: Bounded::new(vec![2; WG_INITIATION_LEN]).expect("fits"),
    };
    client.say(&open.into());
    client.flush().await;
    let introduce = connector
        .hear_agent(|message| match message {
            ToAgent::Introduce(introduce) => Some(introduce),
            _ => None,
        })
        .await;
    let accept = Accept {
        intro: introduce.intro,
        response: Bounded::new(vec![3; WG_RESPONSE_LEN]).expect("fits"),
        inner_v4: std::net::Ipv4Addr::LOCALHOST,
        inner_v6: std::net::Ipv6Addr::LOCALHOST,
    };
    connector.say(&accept.into());
    connector.flush().await;
    let opened = client
        .hear_agent(|message| match message {
            ToAgent::Opened(opened) => Some(opened),
            _ => None,
        })
        .await;
    client.send_data(opened.channel, &[0x11; 1200]).await;
    assert_eq!(connector.receive_data().await, (introduce.channel, vec![0x11; 1200]));
    connector.send_data(introduce.channel, &[0x22; 64]).await;
    assert_eq!(client.receive_data().await, (opened.channel, vec![0x22; 64]));
    let status = status(running).await;
    assert_eq!(status["sessions"]["channels"], 1);
    assert_eq!(status["sessions"]["connectors"], 1);
    assert_eq!(status["relay"]["forwarded_frames"], 2);
}

#[tokio::test]
async fn a_strike_is_on_disk_when_it_is_acknowledged_and_holds_after_a_restart() {
    let running = start();
    let mut signer = Peer::dial(&running, controller()).await;
    signer.say_signer(&SignerHello { oldest: 1, newest: 1 }.into());
    let beacon = running.installation.beacon(wall());
    signer.say_signer(&PublishBeacon { beacon }.into());
    let trust::Subject::Device(id) = device(1, 10).subject() else { panic!("a device") };
    let entry = running.installation.strike(trust::RevokedSubject::Device(id), trust::KeyRole::Beacon);
    signer.say_signer(&wire::Strike { entries: vec![entry.clone()] }.into());
    loop {
        let Heard::Frame(kind, body) = signer.hear().await else { panic!("the session ended") };
        if let Some(ToSigner::StrikesHeld(held)) = ToSigner::decode_body(kind, &body).expect("valid") {
            assert_eq!(held.hashes[0].as_slice(), trust::sha256(&[entry.as_slice()]));
            break;
        }
    }
    running.stop.send(()).expect("running");
    timeout(DEADLINE, running.task).await.expect("ends").expect("no panic").expect("no error");
    let Heard::Lost(reason) = signer.hear().await else { panic!("told that the PoP ends") };
    assert_eq!(reason, session::LostReason::ClosedByPeer(session::CloseCode::ShuttingDown));
    let options =
        PopOptions::new(running.directory.path().to_owned(), "127.0.0.1:0".parse().expect("address"));
    let again = Pop::open(options).expect("opens");
    assert_eq!(again.sessions.status().revocations, 1);
}

#[tokio::test]
async fn a_taken_port_is_named_and_says_what_to_do() {
    let running = start();
    let other = tempfile::tempdir().expect("directory");
    let options = PopOptions::new(other.path().to_owned(), running.address);
    running.installation.write_pop_state(other.path());
    let error = Pop::open(options).expect_err("taken").to_string();
    assert!(error.contains(&running.address.to_string()) && error.contains("choose another port"), "{error}");
}

#[tokio::test]
async fn a_padded_stun_request_is_answered_with_the_address_it_came_from() {
    let running = start();
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let mut request = vec![0, 1, 0, 24, 0x21, 0x12, 0xA4, 0x42];
    request.extend_from_slice(&[9; 12]);
    request.extend_from_slice(&[0x00, 0x26, 0, 20]);
    request.resize(44, 0);
    socket.send_to(&request, running.address).await.expect("sent");
    let mut buffer = [0; 128];
    let length = timeout(DEADLINE, socket.recv(&mut buffer)).await.expect("answered").expect("received");
    assert_eq!(length, 32);
    let port = u16::from_be_bytes([buffer[26], buffer[27]]) ^ 0x2112;
    assert_eq!(port, socket.local_addr().expect("address").port());
}

/// The bytes of a real ClientHello.
fn client_hello(alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = "console.example".try_into().expect("name");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).expect("connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("written");
    bytes
}

fn front(directory: &std::path::Path) -> Option<TcpFrontOptions> {
    let listen = "127.0.0.1:0".parse().expect("address");
    Some(TcpFrontOptions { listen, console: Some(directory.join("console.sock")), max_connections: 8 })
}

#[tokio::test]
async fn a_browsers_connection_reaches_the_console_unchanged_behind_one_line() {
    let running = start_with(front);
    let console = UnixListener::bind(running.directory.path().join("console.sock")).expect("console");
    let mut browser = TcpStream::connect(running.tcp.expect("front")).await.expect("connects");
    let from = browser.local_addr().expect("address");
    let hello = client_hello(&[b"h2", b"http/1.1"]);
    // In two pieces: the front must wait for the whole.
    browser.write_all(&hello[..50]).await.expect("sent");
    browser.flush().await.expect("sent");
    browser.write_all(&hello[50..]).await.expect("sent");
    let (mut inner, _) = timeout(DEADLINE, console.accept()).await.expect("passed on").expect("accepted");
    let expected =
        format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), running.tcp.expect("front").port());
    let mut got = vec![0; expected.len() + hello.len()];
    timeout(DEADLINE, inner.read_exact(&mut got)).await.expect("in time").expect("read");
    assert_eq!(got, [expected.as_bytes(), &hello].concat());
    inner.write_all(b"answer").await.expect("sent");
    let mut answer = [0; 6];
    timeout(DEADLINE, browser.read_exact(&mut answer)).await.expect("in time").expect("read");
    assert_eq!(&answer, b"answer");
}

#[tokio::test]
async fn what_the_console_said_before_it_closed_arrives_also_at_a_browser_that_is_still_sending() {
    let running = start_with(front);
    let console = UnixListener::bind(running.directory.path().join("console.sock")).expect("console");
    let mut browser = TcpStream::connect(running.tcp.expect("front")).await.expect("connects");
    browser.write_all(&client_hello(&[b"http/1.1"])).await.expect("sent");
    let (mut inner, _) = timeout(DEADLINE, console.accept()).await.expect("passed on").expect("accepted");
    let mut some = [0; 100];
    inner.read_exact(&mut some).await.expect("read");
    // It answers, and is gone with most of what was sent unread.
    inner.write_all(&[7; 5000]).await.expect("sent");
    drop(inner);
    let sent = timeout(DEADLINE, browser.write_all(&vec![9; 3_000_000])).await.expect("it is taken");
    sent.expect("not reset");
    let mut answer = Vec::new();
    timeout(DEADLINE, browser.read_to_end(&mut answer)).await.expect("in time").expect("not reset");
    assert_eq!(answer, [7; 5000]);
}

#[tokio::test]
async fn what_the_front_does_not_pass_is_closed_and_counted() {
    let running = start_with(front);
    let web = client_hello(&[]);
    for (bytes, label) in [(&b"GET / HTTP/1.1\r\n\r\n"[..], "not_tls"), (&web[..], "console_down")] {
        let mut stream = TcpStream::connect(running.tcp.expect("front")).await.expect("connects");
        stream.write_all(bytes).await.expect("sent");
        let mut buffer = [0; 64];
        let end = timeout(DEADLINE, stream.read(&mut buffer)).await.expect("closed in time");
        assert!(matches!(end, Ok(0) | Err(_)), "{label}: {end:?}");
        assert_eq!(status(&running).await["front"][label], 1, "{label}");
    }
}

#[tokio::test]
async fn a_pushed_trust_chain_outlives_a_restart_and_a_directory_has_one_process() {
    let running = start();
    let mut signer = Peer::dial(&running, controller()).await;
    signer.say_signer(&SignerHello { oldest: 1, newest: 1 }.into());
    let chain = crate::fixture::document(&running.installation.chain_with_serial(5));
    signer.say_signer(&wire::PublishBundle { chain }.into());
    signer.flush().await;
    let options =
        PopOptions::new(running.directory.path().to_owned(), "127.0.0.1:0".parse().expect("address"));
    assert!(matches!(Pop::open(options.clone()), Err(PopError::State(StateError::InUse { .. }))));
    let pushed = async {
        while status(&running).await["sessions"]["bundle"][1] != 5 {
            signer.flush().await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, pushed).await.expect("taken");
    running.stop.send(()).expect("running");
    timeout(DEADLINE, running.task).await.expect("ends").expect("no panic").expect("no error");
    let again = Pop::open(options).expect("opens");
    assert_eq!(again.sessions.status().bundle, (1, 5));
}
