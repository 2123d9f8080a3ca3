//! A controller whose configuration is in PostgreSQL: real processes, a real server, frozen and let go on.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures how long it waited"
)]

#[path = "../src/demo/ports.rs"]
mod ports;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const URL: &str = "TIDEGATE_DATABASE_URL";

struct Controller {
    child: Child,
    state: PathBuf,
}

struct Reply {
    status: u16,
    head: String,
    body: Value,
    took: Duration,
}

impl Controller {
    fn start(state: &Path, url: Option<&str>) -> Self {
        let port = ports::free().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["--json", "controller", "--listen", &format!("127.0.0.1:{port}")]);
        command.args(["--url", &format!("https://localhost:{port}"), "--state"]).arg(state);
        command.env_remove(URL).envs(url.map(|url| (URL, url)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        // From here on it is ended whatever happens.
        let mut controller = Self { child, state: state.to_owned() };
        let mut lines = BufReader::new(controller.child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("\"ready\"")), "it became ready");
        controller
    }

    fn call(&self, method: &str, path: &str, body: Option<Value>) -> Reply {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let started = Instant::now();
        let mut stream = UnixStream::connect(self.state.join("admin.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let took = started.elapsed();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        // Chunked or not, there is one JSON value in it.
        let json = body.find(['{', '[']).map_or("null", |from| &body[from..=body.rfind(['}', ']']).unwrap()]);
        Reply { status, head: head.to_ascii_lowercase(), body: serde_json::from_str(json).unwrap(), took }
    }

    fn makes_a_site(&self, name: &str) -> Reply {
        self.call("POST", "/sites", Some(json!({"name": name, "prefixes": ["10.0.0.0/8"]})))
    }

    fn names(&self, path: &str) -> Vec<String> {
        let reply = self.call("GET", path, None);
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert!(reply.took < Duration::from_secs(1), "a read took {:?}", reply.took);
        let items = reply.body["items"].as_array().unwrap();
        items.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn end(mut self) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused_for_the_database(reply: &Reply) {
    assert_eq!(reply.status, 503, "{}", reply.body);
    assert!(reply.head.contains("retry-after:"), "{}", reply.head);
    let kind = reply.body["type"].as_str().unwrap();
    assert!(["/problems/database-unavailable", "/problems/outcome-unknown"].contains(&kind), "{kind}");
}

fn tidegate(arguments: &[&str], url: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_remove(URL).envs(url.map(|url| (URL, url)));
    command.args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn with_its_server_frozen_a_controller_reads_and_strikes_refuses_changes_at_once_and_is_cured_afterwards() {
    let cluster = pgscratch::Cluster::start().unwrap();
    let url = cluster.database("own").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("controller");
    let controller = Controller::start(&state, Some(&url));
    assert_eq!(controller.makes_a_site("before").status, 201);
    let user = controller.call("POST", "/users", Some(json!({"name": "Ada", "email": "ada@example.com"})));
    let user = user.body["id"].as_str().unwrap().to_owned();
    assert!(!state.join("tidegate.db").exists(), "nothing is kept in a file");

    cluster.freeze();
    // The first one finds out, within the deadline; whoever comes after it is told at once.
    let first = controller.makes_a_site("first");
    refused_for_the_database(&first);
    assert!(first.took < Duration::from_millis(2500), "{:?}", first.took);
    for number in 0..5 {
        let next = controller.makes_a_site(&format!("next {number}"));
        refused_for_the_database(&next);
        assert!(next.took < Duration::from_millis(500), "{:?}", next.took);
    }
    assert_eq!(controller.names("/sites"), ["before"]);
    let struck = controller.call("POST", "/strikes", Some(json!({"subject": user})));
    assert_eq!(struck.status, 201, "{}", struck.body);
    // A restart in the middle of it: the copy on disk serves.
    controller.end();
    let started = Instant::now();
    let controller = Controller::start(&state, Some(&url));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(controller.names("/sites"), ["before"]);
    refused_for_the_database(&controller.makes_a_site("after a restart"));

    cluster.thaw();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let made = controller.makes_a_site("cured");
        if made.status == 201 {
            break;
        }
        refused_for_the_database(&made);
        assert!(Instant::now() < deadline, "{}", made.body);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(controller.names("/sites"), ["before", "cured"], "what was refused was not stored");
    // What was done meanwhile is in the server's audit log by now or soon.
    let strikes = || cluster.sql("own", "SELECT COUNT(*) FROM audit WHERE action = 'strike'").unwrap();
    while strikes() != "1" {
        assert!(Instant::now() < deadline, "{} strikes in the audit log", strikes());
        std::thread::sleep(Duration::from_millis(100));
    }
    controller.end();
}

#[test]
fn an_installation_moves_from_postgresql_to_a_file_by_a_backup_and_says_so_when_it_is_told_otherwise() {
    let cluster = pgscratch::Cluster::start().unwrap();
    let url = cluster.database("own").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (state, file) = (scratch.path().join("controller"), scratch.path().join("backup"));
    let (state_text, file_text) = (state.to_str().unwrap(), file.to_str().unwrap());
    let controller = Controller::start(&state, Some(&url));
    assert_eq!(controller.makes_a_site("hamburg").status, 201);
    // While it runs.
    let admin = ["admin", "--state", state_text];
    let made = tidegate(&[&admin[..], &["backup", file_text]].concat(), Some(&url));
    assert!(made.status.success(), "{}", said(&made));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("hamburg") && !text.contains("PRIVATE KEY") && !text.contains("scratch-password"));
    let again = tidegate(&[&admin[..], &["backup", file_text]].concat(), Some(&url));
    assert!(!again.status.success() && said(&again).contains("not replaced"), "{}", said(&again));
    let running = tidegate(&[&admin[..], &["restore-backup", file_text]].concat(), None);
    assert!(!running.status.success() && said(&running).contains("stop it first"), "{}", said(&running));
    controller.end();
    // Forgotten at the next start: refused, instead of an empty file.
    let forgotten =
        ["--json", "controller", "--state", state_text, "--listen", "127.0.0.1:0", "--url", "https://x"];
    let forgotten = tidegate(&forgotten, None);
    assert!(
        !forgotten.status.success() && said(&forgotten).contains("--database-url"),
        "{}",
        said(&forgotten)
    );
    assert!(!state.join("tidegate.db").exists());
    // Not empty: refused without the flag.
    let full = tidegate(&[&admin[..], &["restore-backup", file_text]].concat(), Some(&url));
    assert!(!full.status.success() && said(&full).contains("not empty"), "{}", said(&full));
    let moved = tidegate(&[&admin[..], &["restore-backup", file_text]].concat(), None);
    assert!(moved.status.success(), "{}", said(&moved));
    let controller = Controller::start(&state, None);
    assert_eq!(controller.names("/sites"), ["hamburg"]);
    let status = controller.call("GET", "/status", None).body;
    assert_eq!(status["snapshot"]["source"], "database", "{status}");
    assert_eq!(controller.makes_a_site("bremen").status, 201);
    controller.end();
}

#[test]
fn a_password_on_the_command_line_is_refused_and_so_is_a_database_that_belongs_to_somebody() {
    let cluster = pgscratch::Cluster::start().unwrap();
    let url = cluster.database("own").unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let start = |name: &str| {
        let state = scratch.path().join(name).to_str().unwrap().to_owned();
        ["--json", "controller", "--listen", "127.0.0.1:0", "--url", "https://x", "--state"]
            .map(str::to_owned)
            .into_iter()
            .chain([state])
            .collect::<Vec<_>>()
    };
    let mut arguments = start("argument");
    arguments.extend(["--database-url".to_owned(), url.clone()]);
    let refused = tidegate(&arguments.iter().map(String::as_str).collect::<Vec<_>>(), None);
    assert!(
        said(&refused).contains("--database-url-file") && !refused.status.success(),
        "{}",
        said(&refused)
    );
    assert!(!said(&refused).contains("scratch-password"));
    let first = Controller::start(&scratch.path().join("first"), Some(&url));
    assert!(first.names("/sites").is_empty());
    first.end();
    let second = start("second");
    let taken = tidegate(&second.iter().map(String::as_str).collect::<Vec<_>>(), Some(&url));
    assert!(said(&taken).contains("has installation") && !taken.status.success(), "{}", said(&taken));
}
