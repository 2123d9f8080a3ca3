//! What watches a small installation sees, over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two free ports, one behind the other.
fn two_ports() -> SocketAddr {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        if let Some(next) = address.port().checked_add(1)
            && TcpListener::bind(("127.0.0.1", next)).is_ok()
        {
            return address;
        }
    }
    panic!("no two free ports in a row");
}

/// (status, body)
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn controller_and_pop_of_a_small_installation_say_that_they_live_are_ready_and_count() {
    let scratch = tempfile::tempdir().unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let diagnostics = two_ports();
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["--json", "serve", "--listen", &udp.to_string(), "--advertise"])
        .arg(format!("localhost:{}", udp.port()))
        .args(["--diagnostics", &diagnostics.to_string(), "--state"])
        .arg(scratch.path().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let _ends = Ends(child);
    let ready =
        |line: &String| serde_json::from_str::<Value>(line).is_ok_and(|value| value["event"] == "ready");
    assert!(lines.map_while(Result::ok).any(|line| ready(&line)), "it became ready");
    let pop = SocketAddr::new(diagnostics.ip(), diagnostics.port() + 1);
    for (address, metric) in
        [(diagnostics, "tidegate_controller_"), (pop, "tidegate_pop_sessions_controllers 1")]
    {
        let deadline = Instant::now() + Duration::from_secs(20);
        assert_eq!(get(address, "/livez").0, 200);
        loop {
            let (status, body) = get(address, "/metrics");
            if status == 200 && body.contains(metric) {
                break;
            }
            assert!(Instant::now() < deadline, "{metric} in {status} {body}");
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(get(address, "/readyz"), (200, "ready\n".to_owned()));
        assert_eq!(get(address, "/etc/passwd").0, 404);
    }
}
