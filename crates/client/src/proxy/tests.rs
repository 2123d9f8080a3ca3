use super::*;
use crate::target::Host;
use proptest::prelude::*;
use std::{net::SocketAddr, path::Path, process::Stdio};
use tokio::process::Command;

/// Dials real local servers by name and refuses by name.
#[derive(Clone)]
struct FakeDialler {
    web: SocketAddr,
}

impl Dial for FakeDialler {
    type Stream = TcpStream;
    async fn dial(&self, target: Target) -> Result<TcpStream, DialError> {
        let refuse = |reason| Err(DialError::new(target.clone(), reason));
        let name = match &target.host {
            Host::Name(name) => name.as_str(),
            Host::Ip(address) if address.to_string() == "10.9.8.7" => "wiki",
            Host::Ip(_) => "nowhere",
        };
        match name {
            "wiki" => {
                TcpStream::connect(self.web).await.map_err(|_| DialError::new(target, Refusal::TargetRefused))
            }
            "denied" => refuse(Refusal::NoPolicy),
            "closed" => refuse(Refusal::TargetRefused),
            "slow" => refuse(Refusal::Timeout),
            "away" => Err(DialError {
                retry_after: Some(Duration::from_millis(1500)),
                ..DialError::new(target, Refusal::NotAttached)
            }),
            _ => refuse(Refusal::NoResource),
        }
    }
}

/// A web server that answers every request with what it was asked, then closes.
async fn web_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default().to_vec();
                let reply =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", line.len());
                let _ = stream.write_all(&[reply.as_bytes(), &line].concat()).await;
            });
        }
    });
    address
}

struct Proxy {
    address: SocketAddr,
    url: String,
    socket: std::path::PathBuf,
    _dir: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

async fn proxy() -> Proxy {
    proxy_with(ProxyLimits::default()).await
}

async fn proxy_with(limits: ProxyLimits) -> Proxy {
    let dialler = FakeDialler { web: web_server().await };
    let dir = tempfile::tempdir().expect("a directory");
    let credential = Credential::from_random([3; 16]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    let file = dir.path().join("proxy-url");
    credential.write_proxy_url(&file, address).expect("writes");
    let url = std::fs::read_to_string(&file).expect("reads").trim().to_owned();
    let socket = dir.path().join("proxy.sock");
    let unix = UnixListener::bind(&socket).expect("binds");
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(dir.path()).expect("is there"));
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_tcp(listener, Admission::Password(credential), dialler.clone(), limits.clone()));
    tasks.spawn(serve_unix(unix, uid, dialler, limits));
    Proxy { address, url, socket, _dir: dir, _tasks: tasks }
}

struct Curl {
    code: i32,
    out: String,
}

async fn curl(arguments: &[&str]) -> Curl {
    let output = Command::new("curl")
        .args(["-sS", "-m", "20", "--noproxy", ""])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("curl is installed");
    let out = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Curl { code: output.status.code().expect("exited"), out }
}

fn socks(url: &str) -> String {
    url.replace("http://", "socks5h://")
}

#[tokio::test]
async fn curl_reaches_a_resource_by_name_and_by_address_over_socks() {
    let proxy = proxy().await;
    for target in ["http://wiki/page", "http://WIKI:80/page", "http://10.9.8.7/page"] {
        let curl = curl(&["-x", &socks(&proxy.url), target]).await;
        assert_eq!((curl.code, curl.out.as_str()), (0, "GET /page HTTP/1.1"), "{target}");
    }
}

#[tokio::test]
async fn curl_reaches_a_resource_over_http_by_connect_and_by_plain_request() {
    let proxy = proxy().await;
    for extra in [&["--proxytunnel"][..], &[]] {
        let arguments = [extra, &["-x", &proxy.url, "http://wiki/page"]].concat();
        let curl = curl(&arguments).await;
        assert_eq!((curl.code, curl.out.as_str()), (0, "GET /page HTTP/1.1"), "{extra:?}");
    }
}

#[tokio::test]
async fn curl_needs_no_credential_on_the_users_own_socket() {
    let proxy = proxy().await;
    let path = proxy.socket.to_str().expect("text");
    // curl's form for SOCKS over a Unix socket.
    let curl = curl(&["-x", &format!("socks5h://localhost{path}"), "http://wiki/page"]).await;
    assert_eq!((curl.code, curl.out.as_str()), (0, "GET /page HTTP/1.1"));
}

#[tokio::test]
async fn a_wrong_or_missing_credential_is_refused_by_both_protocols() {
    let proxy = proxy().await;
    for user in ["", "tidegate:wrong@", "other:AwMDAwMDAwMDAwMDAwMDAw@"] {
        let http =
            curl(&["-x", &format!("http://{user}{}", proxy.address), "-w", "%{http_code}", "http://wiki/"])
                .await;
        assert!(http.out.contains("407") && http.out.contains("proxy-url"), "{user}: {}", http.out);
        let socks = curl(&["-x", &format!("socks5h://{user}{}", proxy.address), "http://wiki/"]).await;
        assert_eq!(socks.code, 97, "curl's code for a refused SOCKS handshake; {}", socks.out);
    }
}

#[tokio::test]
async fn each_refusal_has_its_own_http_status_and_says_why() {
    let proxy = proxy().await;
    for (target, status, words) in [
        ("denied", "403", "no policy gives"),
        ("unheard-of", "403", "not a resource"),
        ("closed", "502", "refused the connection"),
        ("slow", "504", "no answer in time"),
        ("away", "503", "no connector of the site"),
    ] {
        let curl = curl(&["-x", &proxy.url, "-i", &format!("http://{target}/")]).await;
        assert!(curl.out.starts_with(&format!("HTTP/1.1 {status} ")), "{target}: {}", curl.out);
        assert!(curl.out.contains(words), "{target}: {}", curl.out);
        assert_eq!(curl.out.contains("Retry-After: 2"), target == "away", "{}", curl.out);
    }
}

/// Speaks raw bytes to the proxy and gives all that came back.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut back = Vec::new();
    let read = timeout(Duration::from_secs(20), stream.read_to_end(&mut back)).await;
    let _ = read.expect("the proxy ends the connection");
    back
}

fn socks_request(command: u8, name: &str) -> Vec<u8> {
    let password = b"AwMDAwMDAwMDAwMDAwMDAw";
    let mut bytes = vec![5, 1, 2, 1, 8];
    bytes.extend_from_slice(b"tidegate");
    bytes.push(u8::try_from(password.len()).expect("short"));
    bytes.extend_from_slice(password);
    bytes.extend_from_slice(&[5, command, 0, 3, u8::try_from(name.len()).expect("short")]);
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(&[0, 80]);
    bytes
}

#[tokio::test]
async fn each_refusal_has_its_own_socks_reply() {
    let proxy = proxy().await;
    for (name, code) in [("denied", 2), ("closed", 5), ("slow", 4), ("away", 3), ("unheard-of", 2)] {
        let back = raw(proxy.address, &socks_request(1, name)).await;
        assert_eq!(back, [5, 2, 1, 0, 5, code, 0, 1, 0, 0, 0, 0, 0, 0], "{name}");
    }
}

#[tokio::test]
async fn bind_and_udp_associate_are_answered_as_not_supported() {
    let proxy = proxy().await;
    for command in [0, 2, 3, 9] {
        let back = raw(proxy.address, &socks_request(command, "wiki")).await;
        assert_eq!(back.get(4..6), Some(&[5, 7][..]), "{command}");
    }
}

#[tokio::test]
async fn a_forwarded_port_reaches_its_target_and_a_refused_one_resets() {
    let dialler = FakeDialler { web: web_server().await };
    let mut tasks = JoinSet::new();
    let mut open = async |target: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has an address");
        tasks.spawn(serve_forward(
            listener,
            target.parse().expect("a target"),
            dialler.clone(),
            ProxyLimits::default(),
        ));
        address
    };
    let good = open("wiki:80").await;
    let curl = curl(&[&format!("http://{good}/page")]).await;
    assert_eq!((curl.code, curl.out.as_str()), (0, "GET /page HTTP/1.1"));
    let bad = open("denied:80").await;
    let mut stream = TcpStream::connect(bad).await.expect("connects");
    let error = stream.read_u8().await.expect_err("refused");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn another_users_uid_gets_nothing_from_the_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("proxy.sock");
    let listener = UnixListener::bind(&path).expect("binds");
    let dialler = FakeDialler { web: web_server().await };
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_unix(listener, u32::MAX - 1, dialler, ProxyLimits::default()));
    let mut stream = UnixStream::connect(Path::new(&path)).await.expect("connects");
    let _ = stream.write_all(&[5, 1, 0]).await;
    let mut back = Vec::new();
    let _ = stream.read_to_end(&mut back).await;
    assert!(back.is_empty(), "{back:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_panic_the_proxy_and_every_client_gets_an_end(
        first in prop_oneof![Just(5_u8), Just(b'C'), any::<u8>()],
        rest in proptest::collection::vec(any::<u8>(), 0..200),
        open: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (near, mut test) = UnixStream::pair().expect("a pair");
            let dialler = FakeDialler { web: "127.0.0.1:1".parse().expect("address") };
            let admission = if open { Admission::Open } else { Admission::Password(Credential::from_random([3; 16])) };
            let bytes = [&[first], &rest[..]].concat();
            test.write_all(&bytes).await.expect("fits the socket's buffer");
            test.shutdown().await.expect("shuts down");
            let done = timeout(Duration::from_secs(5), serve_client(near, &admission, &dialler, &ProxyLimits::default(), Entry(Arc::default()))).await;
            prop_assert!(done.is_ok(), "the proxy waits for bytes that cannot come");
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn connections_that_show_no_credential_take_nothing_from_those_that_do() {
    let limits =
        ProxyLimits { connections: Arc::new(Semaphore::new(2)), forwarded: Arc::new(Semaphore::new(1)) };
    let proxy = proxy_with(limits.clone()).await;
    // Another user of the machine opens the port again and again, and says nothing.
    let mut idle = Vec::new();
    for _ in 0..(MAX_WAITING + 20) {
        idle.push(TcpStream::connect(proxy.address).await.expect("connects"));
    }
    let began = tokio::time::Instant::now();
    for _ in 0..3 {
        let got = curl(&["-x", &proxy.url, "http://wiki/page"]).await;
        assert_eq!((got.code, got.out.as_str()), (0, "GET /page HTTP/1.1"), "{}", got.out);
    }
    assert!(began.elapsed() < REQUEST_DEADLINE / 2);
    // The last one's permit comes back when both its ends have ended.
    let all = timeout(Duration::from_secs(5), limits.connections.acquire_many(2)).await;
    assert!(all.is_ok(), "those who wait hold none");
    // Of many the oldest have gone, and the newest still have their time.
    let end = timeout(Duration::from_secs(2), idle[0].read_u8()).await.expect("it was sent away");
    assert!(end.is_err());
    let newest = idle.last_mut().expect("many");
    assert!(timeout(Duration::from_millis(100), newest.read_u8()).await.is_err(), "it may still speak");
}

#[tokio::test]
async fn with_as_many_connections_as_there_may_be_the_next_is_told_so() {
    let limits =
        ProxyLimits { connections: Arc::new(Semaphore::new(0)), forwarded: Arc::new(Semaphore::new(0)) };
    let proxy = proxy_with(limits.clone()).await;
    let got = curl(&["-x", &proxy.url, "http://wiki/page"]).await;
    assert!(got.out.contains("table is full"), "{}", got.out);
    // A forwarded port has a share of its own.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has an address");
    let dialler = FakeDialler { web: web_server().await };
    limits.forwarded.add_permits(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve_forward(listener, "wiki:80".parse().expect("a target"), dialler, limits));
    let got = curl(&[&format!("http://{address}/by/the/port")]).await;
    assert!(got.out.contains("/by/the/port"), "{}", got.out);
}
