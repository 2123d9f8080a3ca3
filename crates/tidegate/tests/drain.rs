//! A PoP that is asked to end while a download goes through it: real processes, real signals, two PoPs.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

#[path = "../src/demo/ports.rs"]
mod ports;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What is downloaded, and how fast it is read: for longer than a PoP takes to be left.
const LENGTH: usize = 24 << 20;
const A_SECOND: usize = 2 << 20;
/// How long agents get.
const DRAIN: u64 = 6;

fn free_port() -> u16 {
    ports::free().unwrap().port()
}

/// A role that runs, killed when the test ends.
struct Role {
    name: &'static str,
    child: Child,
    said: std::sync::mpsc::Receiver<Value>,
}

impl Role {
    fn start(name: &'static str, arguments: &[&str], log: &Path) -> Self {
        let log = std::fs::File::create(log.join(format!("{name}.log"))).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("--json")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (sender, said) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for value in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()) {
                let _ = sender.send(value);
            }
        });
        Self { name, child, said }
    }

    fn event(&self, event: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut said = Vec::new();
        while let Ok(value) = self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if value["event"] == event {
                return value;
            }
            said.push(value);
        }
        panic!("{} said no {event}: {said:?}", self.name);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until it has ended by itself, and how long that took.
    fn ends_within(&mut self, most: Duration) -> Duration {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{}: {status}", self.name);
                return began.elapsed();
            }
            assert!(began.elapsed() < most, "{} does not end within {most:?}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One command, and what it says as JSON.
fn tidegate(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("--json").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {said} {}", String::from_utf8_lossy(&output.stderr));
    said.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap_or(Value::Null))
}

fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// An installation with two PoPs, a connector and a client, and a site with one file.
struct Stage {
    scratch: tempfile::TempDir,
    serve: Role,
    second: Role,
    _site: Role,
    _connector: Role,
    _client: Role,
    files: (u16, Role),
    echo: (u16, Role),
    /// The second PoP's id.
    second_id: String,
    file: Vec<u8>,
}

impl Stage {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| -> PathBuf { scratch.path().join(name) };
        let logs = scratch.path();
        // Bytes of which no two pieces are alike.
        let mut word = 1_u64;
        let file: Vec<u8> = (0..LENGTH / 8)
            .flat_map(|_| {
                word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                word.to_be_bytes()
            })
            .collect();
        std::fs::write(at("file"), &file).unwrap();
        let site = Role::start(
            "site",
            &["demo-site", "--web", "127.0.0.1:0", "--echo", "127.0.0.1:0", "--file", text(&at("file"))],
            logs,
        );
        let ready = site.event("ready");
        let port_of = |what: &str| ready[what].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        let (web_port, echo_port) = (port_of("web"), port_of("echo"));
        let (state, port) = (at("serve"), free_port());
        let address = format!("127.0.0.1:{port}");
        let serve = Role::start(
            "serve",
            &[
                "serve",
                "--listen",
                &address,
                "--advertise",
                &format!("localhost:{port}"),
                "--state",
                text(&state),
            ],
            logs,
        );
        serve.event("ready");
        let admin = |arguments: &[&str]| {
            let mut all = vec!["admin", "--state", text(&state)];
            all.extend_from_slice(arguments);
            tidegate(&all)
        };
        admin(&["create", "site", "--name", "harbour", "--prefix", "127.0.0.0/8"]);
        admin(&[
            "create",
            "resource",
            "--name",
            "files",
            "--site",
            "harbour",
            "--address",
            "127.0.0.1",
            "--ports",
            &format!("{web_port},{echo_port}"),
        ]);
        admin(&["create", "group", "--name", "crew"]);
        admin(&["create", "user", "--name", "ada", "--email", "ada@example.org", "--group", "crew"]);
        admin(&["create", "policy", "--name", "crew reads files", "--group", "crew", "--resource", "files"]);
        let key = |name: &str, arguments: &[&str]| {
            let mut all = vec!["create", "key"];
            all.extend_from_slice(arguments);
            let made = admin(&all);
            let path = at(name);
            std::fs::write(&path, made["key"].as_str().unwrap_or_else(|| panic!("{made}"))).unwrap();
            path
        };
        let pop_key = key("pop.key", &["--pop"]);
        let second_address = format!("127.0.0.1:{}", free_port());
        let second = Role::start(
            "second-pop",
            &[
                "pop",
                "--state",
                text(&at("pop")),
                "--join-file",
                text(&pop_key),
                "--listen",
                &second_address,
                "--advertise",
                &second_address,
                "--name",
                "second",
                "--drain",
                &DRAIN.to_string(),
            ],
            logs,
        );
        second.event("ready");
        let pops = admin(&["list", "pops"]);
        let second_id = pops["items"]
            .as_array()
            .and_then(|items| items.iter().find(|pop| pop["name"] == "second"))
            .unwrap_or_else(|| panic!("{pops}"))["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let connector_key = key("connector.key", &["--connector", "--site", "harbour"]);
        let connector = Role::start(
            "connector",
            &[
                "connector",
                "--state",
                text(&at("connector")),
                "--join-file",
                text(&connector_key),
                "--no-port-mapping",
            ],
            logs,
        );
        connector.event("ready");
        let device_key = key("device.key", &["--device", "--user", "ada"]);
        tidegate(&["login", "--state", text(&at("client")), "--key-file", text(&device_key)]);
        let client = Role::start(
            "client",
            &["up", "--foreground", "--state", text(&at("client")), "--no-port-mapping"],
            logs,
        );
        client.event("ready");
        let forwarded = |name, port: &str| {
            let local = free_port();
            let (target, listen) = (format!("files:{port}"), format!("127.0.0.1:{local}"));
            let state = at("client");
            let role =
                Role::start(name, &["forward", &target, "--listen", &listen, "--state", text(&state)], logs);
            (local, role)
        };
        let (files, echo) = (forwarded("files", &web_port), forwarded("echo", &echo_port));
        let stage = Self {
            serve,
            second,
            _site: site,
            _connector: connector,
            _client: client,
            files,
            echo,
            second_id,
            file,
            scratch,
        };
        // Both PoPs have their slice, and the connector is at both: only then is there somewhere to go.
        for pop in ["serve/pop", "pop"] {
            eventually("a connector at each PoP", || {
                let status = stage.pop_status(pop)?;
                (status["sessions"]["connectors"] == 1 && !status["sessions"]["slice"].is_null())
                    .then_some(())
            });
        }
        stage
    }

    fn pop_status(&self, state: &str) -> Option<Value> {
        let socket = self.scratch.path().join(state).join("status.sock");
        let mut line = String::new();
        std::os::unix::net::UnixStream::connect(socket).ok()?.read_to_string(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    /// The PoP that carries the client's packets.
    fn relay(&self) -> Option<String> {
        let status = tidegate(&["status", "--state", text(&self.scratch.path().join("client"))]);
        let path = &status["resources"][0]["path"];
        assert!(path["remote"].is_null(), "the test is about the relay, and this goes straight: {path}");
        path["pop"].as_str().map(str::to_owned)
    }
}

/// A download in a thread, and what came.
fn download(port: u16) -> std::thread::JoinHandle<Vec<u8>> {
    let mut stream = eventually("the forwarded port", || TcpStream::connect(("127.0.0.1", port)).ok());
    std::thread::spawn(move || {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"GET /download HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n").unwrap();
        let mut all = Vec::new();
        let began = Instant::now();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(error) => panic!("after {} bytes: {error}", all.len()),
            }
            // No faster than that, so that it is under way for as long as it is to be.
            let due = Duration::from_secs_f64(all.len() as f64 / A_SECOND as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        let head = all.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer") + 4;
        all.split_off(head)
    })
}

/// What has come by a relay when a download is under way: some seconds of it are still to come.
const UNDER_WAY: u64 = 1 << 20;

/// Somebody who types, and sees each line again: until told to stop, and how long the slowest answer took.
fn typing(port: u16, stop: std::sync::mpsc::Receiver<()>) -> std::thread::JoinHandle<Duration> {
    let stream = eventually("the forwarded port", || TcpStream::connect(("127.0.0.1", port)).ok());
    std::thread::spawn(move || {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let (mut writer, mut slowest, mut number) = (stream, Duration::ZERO, 0_u64);
        loop {
            let (asked, mut answer) = (Instant::now(), String::new());
            number += 1;
            writer.write_all(format!("line {number}\n").as_bytes()).unwrap();
            lines.read_line(&mut answer).unwrap();
            assert!(answer.contains(&format!("line {number}")), "{answer:?}");
            if number > 1 {
                // The first waits for the tunnel.
                slowest = slowest.max(asked.elapsed());
            }
            if stop.recv_timeout(Duration::from_millis(20)).is_ok() {
                return slowest;
            }
        }
    })
}

/// Runs a test again in a network of its own, where there is nothing but loopback: so two agents have no way to each other
/// but a PoP. Says whether this already is that network.
fn is_alone(test: &str) -> bool {
    const INSIDE: &str = "TIDEGATE_TEST_ALONE";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = r#"ip link set lo up && exec "$0" --exact "$1" --nocapture"#;
    let program = std::env::current_exe().unwrap();
    // With a user namespace where one is allowed, as root otherwise.
    for unshare in ["-rn", "-n"] {
        let can =
            Command::new("unshare").args([unshare, "true"]).status().is_ok_and(|status| status.success());
        if !can {
            continue;
        }
        let status = Command::new("unshare")
            .args([unshare, "sh", "-c", script])
            .arg(&program)
            .arg(test)
            .env(INSIDE, "1")
            .status()
            .unwrap();
        assert!(status.success(), "in a network of its own: {status}");
        return false;
    }
    panic!("this test needs a network namespace: unshare -rn, or root");
}

#[test]
fn a_download_loses_nothing_when_its_pop_is_asked_to_end_and_the_pop_ends_when_it_is_empty() {
    if !is_alone("a_download_loses_nothing_when_its_pop_is_asked_to_end_and_the_pop_ends_when_it_is_empty") {
        return;
    }
    let mut stage = Stage::new();
    let running = download(stage.files.0);
    let (stop, stopped) = std::sync::mpsc::channel();
    let typing = typing(stage.echo.0, stopped);
    let relay = eventually("a tunnel by a relay", || stage.relay());
    eventually("the download under way by the relay", || {
        let relayed = |pop| stage.pop_status(pop)?["relay"]["forwarded_bytes"].as_u64();
        (relayed("serve/pop")? + relayed("pop")? > UNDER_WAY).then_some(())
    });
    let asked = Instant::now();
    let is_second = relay == stage.second_id;
    if is_second {
        stage.second.signal(Signal::TERM);
        stage.second.event("leaving");
        // Asked at once, they have left by half of the time; whoever is not asked is here to the end of it.
        let took = stage.second.ends_within(Duration::from_secs(DRAIN - 1));
        println!("the PoP was left within {took:?}");
    } else {
        // The supervisor starts it again, as after any end.
        let ready = stage.pop_status("serve/pop").expect("it runs");
        assert_eq!(ready["sessions"]["draining"], false);
        let line = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let pop = format!(" pop --state {}", text(&stage.scratch.path().join("serve/pop")));
            line.contains(&pop).then(|| entry.file_name().to_string_lossy().parse::<i32>().ok())?
        });
        kill_process(Pid::from_raw(line.expect("its process")).unwrap(), Signal::TERM).unwrap();
        let ended = stage.serve.event("restart");
        assert_eq!(ended["role"], "pop", "{ended}");
        println!("the PoP was left within {:?}", asked.elapsed());
        // It gives 20 s unless told otherwise, and is empty by half of it.
        assert!(asked.elapsed() < Duration::from_secs(16));
    }
    let came = running.join().expect("the download");
    stop.send(()).unwrap();
    let slowest = typing.join().expect("the lines");
    println!("the slowest answer to a line took {slowest:?}");
    assert!(came == stage.file, "{} of {} bytes, or other ones", came.len(), stage.file.len());
    // Without asking first it is a reconnect and an introduction, and what was on its way comes by TCP's timers.
    assert!(slowest < Duration::from_millis(700), "the connection stood still for {slowest:?}");
}

#[test]
fn a_second_signal_ends_a_pop_at_once_and_the_only_one_of_an_installation_waits_for_nobody() {
    let mut stage = Stage::new();
    // The device and the connector are somewhere; one of the two is here.
    stage.second.signal(Signal::TERM);
    stage.second.event("leaving");
    stage.second.signal(Signal::TERM);
    let took = stage.second.ends_within(Duration::from_secs(DRAIN));
    assert!(took < Duration::from_secs(2), "{took:?}");
    // Now the other is the only one, and knows it.
    let state = stage.scratch.path().join("serve");
    let versions = || stage.pop_status("serve/pop").map(|status| status["sessions"]["slice"].clone());
    let before = versions();
    tidegate(&["admin", "--state", text(&state), "delete", "pops", &stage.second_id]);
    eventually("a slice that says so", || (versions() != before).then_some(()));
    stage.serve.signal(Signal::TERM);
    let took = stage.serve.ends_within(Duration::from_secs(20));
    assert!(took < Duration::from_secs(8), "{took:?}");
}
