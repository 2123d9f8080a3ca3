//! Two controllers on one PostgreSQL, a PoP, a connector and a client: real processes, killed and frozen.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

#[path = "../src/demo/ports.rs"]
mod ports;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

const URL: &str = "TIDEGATE_DATABASE_URL";
/// One at a time: each measures how long something takes, and starts half a dozen servers for it.
static ONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn free_port() -> u16 {
    ports::free().unwrap().port()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A role that runs, killed when the test ends.
struct Role {
    name: String,
    child: Child,
    said: std::sync::mpsc::Receiver<Value>,
}

impl Role {
    fn start(name: &str, arguments: &[&str], database: Option<&str>, log: &Path) -> Self {
        let log = std::fs::File::options().append(true).create(true).open(log.join(format!("{name}.log")));
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("--json")
            .args(arguments)
            .env_remove(URL)
            .envs(database.map(|url| (URL, url)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        let (sender, said) = std::sync::mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for value in lines.map_while(Result::ok).filter_map(|line| serde_json::from_str(&line).ok()) {
                let _ = sender.send(value);
            }
        });
        Self { name: name.to_owned(), child, said }
    }

    fn ready(self) -> Self {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut said = Vec::new();
        while let Ok(value) = self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if value["event"] == "ready" {
                return self;
            }
            said.push(value);
        }
        panic!("{} is not ready: {said:?}", self.name);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str], database: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.env_remove(URL).envs(database.map(|url| (URL, url)));
    command.arg("--json").args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// One command that has to succeed, and what it says as JSON.
fn tidegate(arguments: &[&str], database: Option<&str>) -> Value {
    let output = run(arguments, database);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{arguments:?}: {said} {}", String::from_utf8_lossy(&output.stderr));
    said.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap_or(Value::Null))
}

fn within<T>(most: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> (T, Duration) {
    let began = Instant::now();
    loop {
        if let Some(value) = check() {
            return (value, began.elapsed());
        }
        assert!(began.elapsed() < most, "{what} did not come within {most:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(Duration::from_secs(40), what, check).0
}

/// Asks a controller by its local socket.
fn call(state: &Path, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    call_once(state, method, path, body, None)
}

/// The same with an idempotency key.
fn call_once(
    state: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    key: Option<&str>,
) -> (u16, Value) {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut stream = UnixStream::connect(state.join("admin.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(
        stream,
        "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         {key}Connection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}"));
    let json = body.find(['{', '[']).map_or("null", |from| &body[from..=body.rfind(['}', ']']).unwrap()]);
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(json).unwrap())
}

fn names(state: &Path, path: &str) -> Vec<String> {
    let (status, body) = call(state, "GET", path, None);
    assert_eq!(status, 200, "{body}");
    let items = body["items"].as_array().unwrap();
    items.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Two controllers, and what is needed to use what they give.
struct Stage {
    first: Option<Role>,
    second: Option<Role>,
    roles: Vec<Role>,
    /// Where the forwarded echo listens.
    echo: u16,
    device: String,
    url: String,
    scratch: tempfile::TempDir,
    cluster: pgscratch::Cluster,
}

impl Stage {
    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn controller(scratch: &Path, name: &str, url: &str, file: Option<&Path>) -> Role {
        let more: Vec<&str> = file.into_iter().flat_map(|file| ["--controller-file", text(file)]).collect();
        Self::controller_with(scratch, name, url, &more)
    }

    fn controller_with(scratch: &Path, name: &str, url: &str, more: &[&str]) -> Role {
        let port = free_port();
        let (listen, public) = (format!("127.0.0.1:{port}"), format!("https://localhost:{port}"));
        let state = scratch.join(name);
        let mut arguments =
            vec!["controller", "--listen", &listen, "--url", &public, "--state", text(&state)];
        arguments.extend_from_slice(more);
        Role::start(name, &arguments, Some(url), scratch).ready()
    }

    /// One controller, and another one that was added to it.
    fn controllers() -> Self {
        let cluster = pgscratch::Cluster::start().unwrap();
        let url = cluster.database("own").unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        let first = Self::controller(scratch.path(), "first", &url, None);
        let (first_state, file) = (at("first"), at("second.controller"));
        let add = ["admin", "--state", text(&first_state), "add-controller", text(&file)];
        let added = tidegate(&add, Some(&url));
        assert_eq!(added["bundle"], 2, "{added}");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it has private keys");
        let second = Self::controller(scratch.path(), "second", &url, Some(&file));
        let (_, status) = call(&at("second"), "GET", "/status", None);
        assert_eq!(status["controller"], added["controller"], "{status}");
        Self {
            first: Some(first),
            second: Some(second),
            roles: Vec::new(),
            echo: 0,
            device: String::new(),
            url,
            scratch,
            cluster,
        }
    }

    fn admin(&self, state: &str, arguments: &[&str]) -> Value {
        let state = self.at(state);
        let mut all = vec!["admin", "--state", text(&state)];
        all.extend_from_slice(arguments);
        tidegate(&all, None)
    }

    fn role(&mut self, name: &str, arguments: &[&str]) {
        let role = Role::start(name, arguments, None, self.scratch.path());
        self.roles.push(role);
    }

    fn key(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let made = self.admin("first", &[&["create", "key"], arguments].concat());
        let path = self.at(name);
        std::fs::write(&path, made["key"].as_str().unwrap_or_else(|| panic!("{made}"))).unwrap();
        path
    }

    /// A PoP, a site with an echo, its connector, and a client that forwards to it.
    fn furnished() -> Self {
        let mut stage = Self::controllers();
        let pop_key = stage.key("pop.key", &["--pop"]);
        let (pop_state, address) = (stage.at("pop"), format!("127.0.0.1:{}", free_port()));
        let join =
            ["--join-file", text(&pop_key), "--listen", &address, "--advertise", &address, "--name", "pop"];
        stage.role("pop", &[&["pop", "--state", text(&pop_state)][..], &join].concat());
        let both = |stage: &Self| {
            ["first", "second"].iter().all(|controller| {
                let (_, status) = call(&stage.at(controller), "GET", "/status", None);
                status["pops_attached"] == 1 && status["not_issuing"].is_null()
            })
        };
        eventually("both controllers at the PoP", || both(&stage).then_some(()));

        let site = Role::start(
            "site",
            &["demo-site", "--web", "127.0.0.1:0", "--echo", "127.0.0.1:0"],
            None,
            stage.scratch.path(),
        );
        let ready = loop {
            let said = site.said.recv_timeout(Duration::from_secs(30)).unwrap();
            if said["event"] == "ready" {
                break said;
            }
        };
        stage.roles.push(site);
        let port = ready["echo"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
        let admin = |arguments: &[&str]| stage.admin("first", arguments);
        admin(&["create", "site", "--name", "harbour", "--prefix", "127.0.0.0/8"]);
        let resource =
            ["create", "resource", "--name", "echo", "--site", "harbour", "--address", "127.0.0.1"];
        admin(&[&resource[..], &["--ports", &port]].concat());
        admin(&["create", "group", "--name", "crew"]);
        let user = ["create", "user", "--name", "ada", "--email", "ada@example.org", "--group", "crew"];
        admin(&user);
        stage
            .admin("first", &["create", "policy", "--name", "crew", "--group", "crew", "--resource", "echo"]);
        let connector_key = stage.key("connector.key", &["--connector", "--site", "harbour"]);
        let connector = stage.at("connector");
        let arguments = ["--join-file", text(&connector_key), "--no-port-mapping"];
        stage.role("connector", &[&["connector", "--state", text(&connector)][..], &arguments].concat());
        let device_key = stage.key("device.key", &["--device", "--user", "ada"]);
        let client = stage.at("client");
        tidegate(&["login", "--state", text(&client), "--key-file", text(&device_key)], None);
        let devices = call(&stage.at("first"), "GET", "/devices", None).1;
        stage.device = devices["items"][0]["id"].as_str().unwrap().to_owned();
        stage.role("client", &["up", "--foreground", "--state", text(&client), "--no-port-mapping"]);
        stage.echo = free_port();
        let (target, listen) = (format!("echo:{port}"), format!("127.0.0.1:{}", stage.echo));
        eventually("the client's resource", || {
            let shown = run(&["resources", "--state", text(&client)], None);
            String::from_utf8_lossy(&shown.stdout).contains("echo").then_some(())
        });
        stage.role("forward", &["forward", &target, "--listen", &listen, "--state", text(&client)]);
        stage
    }

    /// A new flow that is answered.
    fn new_flow(&self) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.echo)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        answers(&mut stream).then_some(stream)
    }
}

/// Whether what is said comes back.
fn answers(stream: &mut TcpStream) -> bool {
    let mut back = [0; 5];
    stream.write_all(b"ahoy\n").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ahoy\n"
}

#[test]
fn what_is_made_at_one_controller_is_served_by_the_other_within_two_seconds_and_both_ways() {
    let _alone = alone();
    let stage = Stage::controllers();
    let (first, second) = (stage.at("first"), stage.at("second"));
    let two = Duration::from_secs(2);
    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let (from, to) = if number % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let name = format!("site {number}");
        let site = json!({"name": name, "prefixes": ["10.0.0.0/8"]});
        let (status, made) = call(from, "POST", "/sites", Some(&site));
        assert_eq!(status, 201, "{made}");
        let (_, took) = within(two, "the other's site", || names(to, "/sites").contains(&name).then_some(()));
        slowest = slowest.max(took);
    }
    println!("slowest of 10: {slowest:?}");
    // Without hints, by looking alone: a second and a fifth between two looks, and what each of them takes.
    let three = Duration::from_secs(3);
    for table in ["installation", "organizations"] {
        let sql = format!("ALTER TABLE {table} DISABLE TRIGGER tidegate_hint");
        stage.cluster.sql("own", &sql).unwrap();
    }
    let mut slowest = Duration::ZERO;
    for number in 10..15 {
        let name = format!("site {number}");
        let site = json!({"name": name, "prefixes": ["10.0.0.0/8"]});
        assert_eq!(call(&first, "POST", "/sites", Some(&site)).0, 201);
        let (_, took) =
            within(three, "the other's site", || names(&second, "/sites").contains(&name).then_some(()));
        slowest = slowest.max(took);
    }
    println!("slowest of 5 without hints: {slowest:?}");
    // A change that both make at once is made by both.
    std::thread::scope(|scope| {
        for (state, name) in [(&first, "left"), (&second, "right")] {
            scope.spawn(move || {
                let group = json!({"name": name});
                assert_eq!(call(state, "POST", "/groups", Some(&group)).0, 201);
            });
        }
    });
    for state in [&first, &second] {
        within(two, "both groups", || (names(state, "/groups").len() == 2).then_some(()));
    }
}

#[test]
fn a_file_for_a_controller_that_others_can_read_or_that_is_none_is_refused_and_nothing_is_made() {
    let _alone = alone();
    let stage = Stage::controllers();
    let file = stage.at("second.controller");
    let start = |state: &Path, file: &Path, url: Option<&str>| {
        let arguments = ["controller", "--listen", "127.0.0.1:0", "--url", "https://x", "--state"];
        let output = run(&[&arguments[..], &[text(state), "--controller-file", text(file)]].concat(), url);
        assert!(!output.status.success());
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let third = stage.at("third");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(start(&third, &file, Some(&stage.url)).contains("chmod 600"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(start(&third, &file, None).contains("--database-url-file"));
    std::fs::write(&file, b"{}").unwrap();
    assert!(start(&third, &file, Some(&stage.url)).contains("add-controller"));
    assert!(!third.exists());
    // One that was removed is believed nowhere, and does not come back by itself.
    let (_, status) = call(&stage.at("second"), "GET", "/status", None);
    let second = status["controller"].as_str().unwrap();
    let first = stage.at("first");
    let admin = ["admin", "--state", text(&first)];
    let own = call(&first, "GET", "/status", None).1["controller"].as_str().unwrap().to_owned();
    let itself = run(&[&admin[..], &["remove-controller", &own]].concat(), Some(&stage.url));
    assert!(!itself.status.success());
    let removed = tidegate(&[&admin[..], &["remove-controller", second]].concat(), Some(&stage.url));
    assert_eq!(removed["bundle"], 3, "{removed}");
    let again = run(&[&admin[..], &["remove-controller", second]].concat(), Some(&stage.url));
    assert!(!again.status.success());
}

#[test]
fn a_controller_that_is_killed_or_frozen_is_not_noticed_by_agents_and_what_is_struck_at_either_holds() {
    let _alone = alone();
    let mut stage = Stage::furnished();
    let (first, second) = (stage.at("first"), stage.at("second"));
    let mut flow = eventually("a first flow", || stage.new_flow());

    // Frozen: its sessions stay open and nobody answers on them.
    stage.first.as_ref().unwrap().signal(Signal::STOP);
    for _ in 0..20 {
        assert!(answers(&mut flow), "a running flow goes on");
        assert!(stage.new_flow().is_some(), "a new flow is let through");
        std::thread::sleep(Duration::from_millis(200));
    }
    // What is made meanwhile at the other is served when it goes on.
    let site = json!({"name": "made meanwhile", "prefixes": ["10.0.0.0/8"]});
    let (status, made) = call(&second, "POST", "/sites", Some(&site));
    assert_eq!(status, 201, "{made}");
    stage.first.as_ref().unwrap().signal(Signal::CONT);
    let there = || names(&first, "/sites").contains(&"made meanwhile".to_owned()).then_some(());
    within(Duration::from_secs(10), "what was made meanwhile", there);

    // Killed without a word.
    drop(stage.first.take());
    for _ in 0..20 {
        assert!(answers(&mut flow), "a running flow goes on");
        assert!(stage.new_flow().is_some(), "a new flow is let through");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(call(&second, "POST", "/groups", Some(&json!({"name": "later"}))).0, 201);
    let began = Instant::now();
    stage.first = Some(Stage::controller(stage.scratch.path(), "first", &stage.url, None));
    assert!(began.elapsed() < Duration::from_secs(15));
    assert!(names(&first, "/groups").contains(&"later".to_owned()));
    eventually("the first controller at the PoP again", || {
        (call(&first, "GET", "/status", None).1["pops_attached"] == 1).then_some(())
    });

    // Both strike at once, with the database frozen: neither needs it, and each hears of the other's.
    let gone = call(&first, "POST", "/users", Some(&json!({"name": "Eve", "email": "eve@example.org"}))).1;
    let gone = gone["id"].as_str().unwrap().to_owned();
    within(Duration::from_secs(2), "the new user at the other", || {
        call(&second, "GET", &format!("/users/{gone}"), None).0.eq(&200).then_some(())
    });
    stage.cluster.freeze();
    std::thread::scope(|scope| {
        for (state, subject) in [(&first, &stage.device), (&second, &gone)] {
            scope.spawn(move || {
                let (status, struck) = call(state, "POST", "/strikes", Some(&json!({"subject": subject})));
                assert_eq!(status, 201, "{struck}");
                assert_eq!(struck["durable"], "two holders", "{struck}");
            });
        }
    });
    for state in [&first, &second] {
        within(Duration::from_secs(5), "both strikes", || {
            let (_, strikes) = call(state, "GET", "/strikes", None);
            let items = strikes["items"].as_array()?;
            let has = |subject: &str| items.iter().any(|item| item["subject"] == subject);
            (has(&stage.device) && has(&gone)).then_some(())
        });
    }
    within(Duration::from_secs(5), "the end of the struck device's flow", || {
        (!answers(&mut flow)).then_some(())
    });
    assert!(stage.new_flow().is_none());
    stage.cluster.thaw();
    // Recorded by each that made one, behind it.
    let recorded = || stage.cluster.sql("own", "SELECT COUNT(*) FROM struck_generations").unwrap();
    eventually("both in the database", || (recorded() == "2").then_some(()));
    drop(stage.second.take());
}

#[test]
fn a_primary_that_is_killed_under_writes_costs_none_that_was_acknowledged_and_a_standby_takes_over_within_30_s()
 {
    let _alone = alone();
    let primary = pgscratch::Cluster::start().unwrap();
    let single = primary.database("own").unwrap();
    let standby = primary.standby().unwrap();
    primary.commit_to_a_standby().unwrap();
    let (before, database) = single.rsplit_once('/').unwrap();
    let url = format!("{before},127.0.0.1:{}/{database}", standby.port());
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("first");
    let _controller = Stage::controller(scratch.path(), "first", &url, None);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (mut acknowledged, mut refused, mut back) = (Vec::new(), 0, Duration::ZERO);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (mut acknowledged, mut refused) = (Vec::new(), 0_u32);
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let name = format!("group {number}");
                // Whatever the answer, the same again until it is there: once.
                loop {
                    let body = json!({"name": name});
                    let (status, said) =
                        call_once(&state, "POST", "/groups", Some(&body), Some(&name.replace(' ', "-")));
                    match status {
                        201 => break,
                        503 => refused += 1,
                        other => panic!("{other}: {said}"),
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
                acknowledged.push((name, Instant::now()));
            }
            (acknowledged, refused)
        });
        std::thread::sleep(Duration::from_secs(2));
        let killed = Instant::now();
        primary.kill();
        std::thread::sleep(Duration::from_secs(3));
        standby.promote().unwrap();
        std::thread::sleep(Duration::from_secs(12));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (names, count) = writer.join().unwrap();
        let first = names.iter().find(|(_, at)| *at > killed + Duration::from_secs(3)).expect("writes go on");
        back = first.1 - killed;
        refused = count;
        acknowledged = names.into_iter().map(|(name, _)| name).collect();
    });
    println!("{} acknowledged, {refused} refused, writes back after {back:?}", acknowledged.len());
    assert!(back < Duration::from_secs(30), "{back:?}");
    assert!(refused > 0 && acknowledged.len() > 20);
    let stored = standby.sql("own", "SELECT name FROM user_groups ORDER BY name").unwrap();
    let mut stored: Vec<&str> = stored.lines().collect();
    stored.sort_unstable();
    let mut expected = acknowledged.clone();
    expected.sort_unstable();
    assert_eq!(stored, expected, "none is lost and none is there twice");
    assert_eq!(call(&state, "GET", "/groups?limit=1", None).0, 200);
}

#[test]
fn with_the_primary_frozen_or_dead_changes_wait_reads_go_on_and_a_controller_boots_from_a_replica() {
    let _alone = alone();
    let primary = pgscratch::Cluster::start().unwrap();
    let url = primary.database("own").unwrap();
    let replicas = [primary.standby().unwrap(), primary.standby().unwrap()];
    let scratch = tempfile::tempdir().unwrap();
    let (state, file) = (scratch.path().join("first"), scratch.path().join("replicas"));
    let urls: Vec<String> = replicas.iter().map(|replica| replica.url("own")).collect();
    std::fs::write(&file, urls.join("\n")).unwrap();
    let more = ["--replica-url-file", text(&file)];
    let start = || Stage::controller_with(scratch.path(), "first", &url, &more);
    let first = start();
    let database = || call(&state, "GET", "/status", None).1["database"].clone();
    let usable = |count: usize| {
        eventually("as many replicas", || (database()["replicas_usable"] == count).then_some(()));
    };
    let write = |name: &str| call(&state, "POST", "/groups", Some(&json!({"name": name}))).0;
    // A busy machine's database may miss a deadline; what is there is not made again.
    let made = |name: &str| eventually("a group", || matches!(write(name), 201 | 409).then_some(()));
    made("crew");
    usable(2);

    // A replica's death is seen by whoever asks for it, and by nobody else.
    replicas[0].kill();
    usable(1);
    made("mates");
    assert_eq!(database()["usable"], true);

    // A frozen primary: reads go on, history too; changes are refused, at once from the second on.
    primary.freeze();
    eventually("a change that is refused", || (write("later") == 503).then_some(()));
    let began = Instant::now();
    assert_eq!(write("later"), 503);
    println!("refused in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(names(&state, "/groups").len(), 2);
    eventually("the audit log, from the replica", || {
        let (status, audit) = call(&state, "GET", "/audit?limit=5", None);
        (status == 200).then(|| assert!(audit["items"].as_array().unwrap().len() > 2, "{audit}"))
    });

    // Dead, and a controller that has nothing of its own any more.
    let shown = std::fs::read(format!("/proc/{}/cmdline", first.child.id())).unwrap();
    assert!(!String::from_utf8_lossy(&shown).contains("scratch-password"));
    drop(first);
    primary.kill();
    for copy in ["snapshot", "snapshot.previous"] {
        let _ = std::fs::remove_file(state.join(copy));
    }
    let _first = start();
    let (_, status) = call(&state, "GET", "/status", None);
    assert_eq!(status["snapshot"]["source"], "replica", "{status}");
    let mut there = names(&state, "/groups");
    there.sort_unstable();
    assert_eq!(there, ["crew", "mates"]);
    assert_eq!(write("later"), 503);

    // It comes back, and everything is as before; the change that was refused was never made.
    primary.resume().unwrap();
    made("back");
    eventually("the primary's state", || {
        (call(&state, "GET", "/status", None).1["snapshot"]["source"] == "database").then_some(())
    });
    assert_eq!(primary.sql("own", "SELECT COUNT(*) FROM user_groups WHERE name = 'later'").unwrap(), "0");
    let log = std::fs::read_to_string(scratch.path().join("first.log")).unwrap();
    assert!(!log.contains("scratch-password"), "{log}");
}

#[test]
fn what_is_said_of_replicas_is_refused_when_it_shows_a_password_or_follows_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("first");
    let refused = |more: &[&str], url: Option<&str>| {
        let arguments =
            ["controller", "--listen", "127.0.0.1:0", "--url", "https://x", "--state", text(&state)];
        let output = run(&[&arguments[..], more].concat(), url);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!said.contains("hunter2"), "{said}");
        said
    };
    let database = Some("postgres://db/own");
    let secret = refused(&["--replica-url", "postgres://t:hunter2@db2/own"], database);
    assert!(secret.contains("--replica-url-file") && secret.contains("TIDEGATE_REPLICA_URL"), "{secret}");
    let second = ["--replica-url", "postgres://db2/own", "--replica-url", "postgres://db3"];
    assert!(refused(&second, database).contains("replica 2"));
    assert!(refused(&["--replica-url", "postgres://db2/own"], None).contains("--database-url"));
    assert!(!state.exists());
}
