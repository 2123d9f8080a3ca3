//! The client's commands as a person types them: real processes, exit codes, words.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

#[path = "../src/demo/ports.rs"]
mod ports;

use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

fn tidegate(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .arg("--state")
        .arg(state)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn tidegate_run(state: &Path, command: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["run", "--state"])
        .arg(state)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn whoever_has_not_enrolled_is_told_so_by_every_command_and_gets_exit_code_3() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["there is no such directory", "."] {
        let state = scratch.path().join(name);
        for arguments in
            [&["up"][..], &["up", "--foreground"], &["status"], &["resources"], &["why", "web"], &["down"]]
        {
            let output = tidegate(&state, arguments);
            assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", words(&output));
            assert!(words(&output).contains("enrol first"), "{arguments:?}: {}", words(&output));
            assert!(words(&output).contains("tidegate login"), "{arguments:?}: {}", words(&output));
        }
        for arguments in [&["connector"][..], &["pop", "--listen", "127.0.0.1:0"]] {
            let output = tidegate(&state, arguments);
            assert_eq!(output.status.code(), Some(3), "{arguments:?}: {}", words(&output));
        }
    }
}

/// A small installation with one enrolled device.
struct Installation {
    serve: Child,
    client: PathBuf,
    scratch: tempfile::TempDir,
}

impl Installation {
    fn start() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let (state, client) = (scratch.path().join("serve"), scratch.path().join("client"));
        let port = ports::free().unwrap().port();
        let serve = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["--json", "serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--advertise", &format!("localhost:{port}"), "--state"])
            .arg(&state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // From here on it is ended whatever happens.
        let mut installation = Self { serve, client, scratch };
        let (scratch, client) = (installation.scratch.path().to_owned(), installation.client.clone());
        let mut lines = BufReader::new(installation.serve.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap()["event"] == "ready"));
        // What it says later is read and forgotten, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let admin = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
                .args(["--json", "admin", "--state"])
                .arg(&state)
                .args(arguments)
                .output()
                .unwrap();
            assert!(output.status.success(), "{arguments:?}: {}", words(&output));
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        admin(&["create", "user", "--name", "ann", "--email", "ann@example.org"]);
        let key = admin(&["create", "key", "--device", "--user", "ann"]);
        let file = scratch.join("key");
        std::fs::write(&file, key["key"].as_str().unwrap()).unwrap();
        let login = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["login", "--key-file"])
            .arg(&file)
            .arg("--state")
            .arg(&client)
            .output()
            .unwrap();
        assert!(login.status.success(), "{}", words(&login));
        installation
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        let _ = tidegate(&self.client, &["down"]);
        let pid = rustix::process::Pid::from_child(&self.serve);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.serve.wait();
    }
}

#[test]
fn a_client_that_was_ended_starts_again_at_once() {
    let installation = Installation::start();
    for _ in 0..6 {
        for command in ["up", "down"] {
            let output = tidegate(
                &installation.client,
                &[command, "--proxy", "127.0.0.1:0"][..if command == "up" { 3 } else { 1 }],
            );
            assert!(output.status.success(), "{command}: {}", words(&output));
        }
    }
    let output = tidegate(&installation.client, &["status"]);
    assert_eq!(output.status.code(), Some(3), "{}", words(&output));
    assert!(words(&output).contains("tidegate up"), "{}", words(&output));
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
fn a_client_that_is_registered_says_to_whoever_watches_that_it_is_ready() {
    let installation = Installation::start();
    let diagnostics = ports::free().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], diagnostics.port()));
    let up = tidegate(&installation.client, &["up", "--diagnostics", &address.to_string()]);
    assert!(up.status.success(), "{}", words(&up));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (status, body) = get(address, "/readyz");
        if status == 200 {
            break;
        }
        assert!(body.contains("registered at no PoP"), "{status} {body}");
        assert!(Instant::now() < deadline, "{status} {body}");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(get(address, "/livez").0, 200);
    assert!(get(address, "/metrics").1.contains("tidegate_client_pops 1"));
}

#[test]
fn a_port_for_diagnostics_that_somebody_has_is_said_and_no_client_stays() {
    let installation = Installation::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let up = tidegate(&installation.client, &["up", "--diagnostics", &address]);
    assert!(!up.status.success(), "{}", words(&up));
    let said = words(&up);
    assert!(said.contains(&address) && said.contains("choose a free port"), "{said}");
    assert_eq!(tidegate(&installation.client, &["status"]).status.code(), Some(3));
}

#[test]
fn a_port_that_somebody_has_is_said_with_what_to_do_by_every_command_that_listens() {
    let installation = Installation::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let is_said = |output: Output| {
        assert_eq!(output.status.code(), Some(1), "{}", words(&output));
        let said = words(&output);
        assert!(said.contains(&address) && said.contains("another process is on this port"), "{said}");
    };
    is_said(tidegate(&installation.client, &["up", "--foreground", "--proxy", &address]));
    is_said(tidegate(&installation.client, &["up", "--proxy", &address]));
    let up = tidegate(&installation.client, &["up"]);
    assert!(up.status.success(), "{}", words(&up));
    is_said(tidegate(&installation.client, &["forward", "web:80", "--listen", &address]));
    let controller = installation.scratch.path().join("controller");
    is_said(tidegate(&controller, &["controller", "--listen", &address, "--url", "https://localhost"]));
}

#[test]
fn whoever_has_no_access_is_told_so_with_exit_code_4() {
    let installation = Installation::start();
    let up = tidegate(&installation.client, &["up"]);
    assert!(up.status.success(), "{}", words(&up));
    let why = tidegate(&installation.client, &["why", "payroll"]);
    assert_eq!(why.status.code(), Some(4), "{}", words(&why));
}

#[test]
fn a_command_runs_with_a_proxy_of_its_own_and_its_own_exit_code_beside_no_client_and_beside_one() {
    let installation = Installation::start();
    let script = "test \"$HTTP_PROXY\" = \"$http_proxy\" && printf %s \"$ALL_PROXY\"; exit 7";
    let run = || tidegate_run(&installation.client, &["sh", "-c", script]);
    let alone = run();
    assert_eq!(alone.status.code(), Some(7), "{}", words(&alone));
    let told = String::from_utf8(alone.stdout).unwrap();
    assert!(told.starts_with("socks5h://") && told.contains("@127.0.0.1:"), "{told}");
    assert!(!installation.client.join("proxy-url").exists(), "its client ended with it");
    let up = tidegate(&installation.client, &["up"]);
    assert!(up.status.success(), "{}", words(&up));
    assert_eq!(run().status.code(), Some(7));
    let status = tidegate(&installation.client, &["status"]);
    assert!(status.status.success(), "the client that was there goes on: {}", words(&status));
}

#[test]
fn a_command_that_is_not_there_and_a_directory_without_enrolment_are_said() {
    let installation = Installation::start();
    let missing = tidegate_run(&installation.client, &["no-such-program"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(words(&missing).contains("no-such-program"), "{}", words(&missing));
    let nowhere = tidegate_run(&installation.client.join("elsewhere"), &["true"]);
    assert_eq!(nowhere.status.code(), Some(3), "{}", words(&nowhere));
    let killed = tidegate_run(&installation.client, &["sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.status.code(), Some(137), "{}", words(&killed));
}
