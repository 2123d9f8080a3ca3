//! `tidegate serve` as a service manager sees it: real processes, real signals.
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
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

struct Serve {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

fn free_port() -> u16 {
    ports::free().unwrap().port()
}

impl Serve {
    fn start(state: &Path, port: u16) -> Self {
        Self::start_with(state, port, &[])
    }

    fn start_with(state: &Path, port: u16, more: &[&Path]) -> Self {
        let address = format!("127.0.0.1:{port}");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args([
                "--json",
                "serve",
                "--listen",
                &address,
                "--advertise",
                &format!("localhost:{port}"),
                "--state",
            ])
            .arg(state)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The line with this event, or what was said instead.
    fn event(&mut self, event: &str) -> Value {
        let mut said = Vec::new();
        for line in self.lines.by_ref() {
            let value: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if value["event"] == event {
                return value;
            }
            said.push(value);
        }
        panic!("no {event}: {said:?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Ends it and gives whether it said that all is well.
    fn end(mut self, signal: Signal) -> bool {
        self.signal(signal);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return status.success(),
                None if Instant::now() > deadline => {
                    self.child.kill().unwrap();
                    panic!("it does not end");
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// Processes that still run on this state directory.
fn left(state: &Path) -> Vec<String> {
    let name = state.to_str().unwrap();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        // What ended and was not waited for has no command line any more.
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(name) {
            found.push(line);
        }
    }
    found
}

fn nobody_is_left(state: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !left(state).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", left(state));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn children_end_with_a_serve_that_is_killed_and_it_starts_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    assert!(serve.event("first_start")["first_start"]["recovery_phrase"].is_string());
    serve.event("ready");
    assert!(left(&state).len() >= 3, "{:?}", left(&state));
    serve.end(Signal::KILL);
    nobody_is_left(&state);
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    assert!(serve.end(Signal::TERM));
    nobody_is_left(&state);
}

#[test]
fn a_port_that_somebody_has_is_said_before_a_first_start_shows_anything() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("state");
    let theirs = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = theirs.local_addr().unwrap().port();
    let says = |protocol: &str| {
        let mut serve = Serve::start(&state, port);
        let said: Vec<String> = serve.lines.by_ref().map_while(Result::ok).collect();
        let said = said.join("\n");
        assert!(!said.contains("first_start"), "{said}");
        let what = format!("--listen 127.0.0.1:{port}: cannot be bound for {protocol}");
        assert!(said.contains(&what) && said.contains("another process is on this port"), "{said}");
        assert!(!serve.child.wait().unwrap().success());
        assert!(!state.join("controller").join("about.json").exists());
    };
    says("UDP");
    drop(theirs);
    let theirs = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    says("TCP");
    drop(theirs);
    let mut serve = Serve::start(&state, port);
    assert!(serve.event("first_start")["first_start"]["recovery_phrase"].is_string());
    serve.event("ready");
    assert!(serve.end(Signal::TERM));
}

#[test]
fn a_new_rotation_key_is_signed_for_by_the_exported_root_key_and_by_no_other() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    let first = serve.event("first_start");
    serve.event("ready");
    let (phrase, key) = (scratch.path().join("phrase"), scratch.path().join("root-key"));
    std::fs::write(&phrase, first["first_start"]["recovery_phrase"].as_str().unwrap()).unwrap();
    let (phrase, key) = (phrase.to_str().unwrap(), key.to_str().unwrap());
    let exported = admin(&state, &["root", "export", key, "--remove", "--phrase-file", phrase]);
    assert!(exported.0, "{exported:?}");
    let new = |more: &[&str]| {
        let (done, said, _) = admin(&state, &[&["root", "new-rotation-key"][..], more].concat());
        (done, said)
    };
    let (done, said) = new(&["--phrase-file", phrase]);
    assert!(!done);
    assert!(said["error"].as_str().unwrap().contains("no longer on this host"), "{said}");
    let wrong = scratch.path().join("wrong");
    std::fs::write(&wrong, "not the phrase").unwrap();
    let (done, said) = new(&["--root-key", key, "--phrase-file", wrong.to_str().unwrap()]);
    assert!(!done);
    let error = said["error"].as_str().unwrap();
    assert!(error.contains(wrong.to_str().unwrap()) && error.contains("expected"), "{error}");
    let end = |status: &Value| status["keys"]["rotation_key_end"].as_str().unwrap().to_owned();
    let status = || admin(&state, &["status"]).1;
    let before = status();
    let (done, said) = new(&["--root-key", key, "--phrase-file", phrase]);
    assert!(done && said["epoch"] == 2, "{said}");
    let after = status();
    assert!(end(&after) >= end(&before) && end(&after) == said["ends"].as_str().unwrap(), "{after}");
    assert_eq!(after["keys"]["alarm"], Value::Null);
    assert!(after["keys"]["serial"].as_u64() > before["keys"]["serial"].as_u64(), "{after}");
    // Another installation's root key signs nothing here.
    let (other, port) = (scratch.path().join("other"), free_port());
    let mut foreign = Serve::start(&other, port);
    let first = foreign.event("first_start");
    foreign.event("ready");
    let theirs = scratch.path().join("theirs");
    std::fs::write(&theirs, first["first_start"]["recovery_phrase"].as_str().unwrap()).unwrap();
    let root = other.join("controller/root.sealed");
    let (done, said) =
        new(&["--root-key", root.to_str().unwrap(), "--phrase-file", theirs.to_str().unwrap()]);
    assert!(!done);
    assert!(said["error"].as_str().unwrap().contains("nothing was signed"), "{said}");
    assert!(serve.end(Signal::TERM) && foreign.end(Signal::TERM));
}

#[test]
fn a_pop_that_was_enrolled_by_half_is_enrolled_by_the_next_start() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    assert!(serve.end(Signal::TERM));
    // Killed after the directory was made, before the certificate came; and once behind that.
    std::fs::remove_file(state.join("pop/certificate.der")).unwrap();
    for _ in 0..2 {
        let mut serve = Serve::start(&state, port);
        serve.event("ready");
        assert!(serve.end(Signal::TERM));
    }
    nobody_is_left(&state);
}

#[test]
fn a_signal_in_the_middle_of_the_start_ends_everything_and_the_next_start_says_what_to_do() {
    let scratch = tempfile::tempdir().unwrap();
    for (number, after) in [30_u64, 150, 400, 800, 1200].into_iter().enumerate() {
        let state = scratch.path().join(format!("state-{number}"));
        let serve = Serve::start(&state, free_port());
        std::thread::sleep(Duration::from_millis(after));
        serve.end(Signal::TERM);
        nobody_is_left(&state);
        let mut again = Serve::start(&state, free_port());
        let first = serde_json::from_str::<Value>(&again.lines.next().unwrap().unwrap()).unwrap();
        // It goes on, begins anew, or says plainly that nothing was enrolled yet.
        let plain = first["error"].as_str().is_some_and(|text| text.contains("remove this directory"));
        assert!(
            plain || ["first_start", "ready"].contains(&first["event"].as_str().unwrap_or_default()),
            "{first}"
        );
        again.end(Signal::TERM);
        nobody_is_left(&state);
    }
}

#[test]
fn a_first_start_with_a_certificate_of_somebody_elses_ca_enrols_its_pop() {
    let scratch = tempfile::tempdir().unwrap();
    let (chain, key) = (scratch.path().join("chain.pem"), scratch.path().join("key.pem"));
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(ca, rcgen::KeyPair::generate().unwrap());
    let leaf = rcgen::KeyPair::generate().unwrap();
    let named = rcgen::CertificateParams::new(vec!["tide.example.org".into()]).unwrap();
    std::fs::write(&chain, named.signed_by(&leaf, &issuer).unwrap().pem()).unwrap();
    std::fs::write(&key, leaf.serialize_pem()).unwrap();
    let state = scratch.path().join("state");
    let files = [Path::new("--tls-certificate"), &chain, Path::new("--tls-key"), &key];
    let mut serve = Serve::start_with(&state, free_port(), &files);
    serve.event("first_start");
    serve.event("ready");
    assert!(serve.end(Signal::TERM));
    nobody_is_left(&state);
}

/// What `tidegate --json admin` answers, and whether it did.
fn admin(state: &Path, arguments: &[&str]) -> (bool, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["--json", "admin", "--state"])
        .arg(state)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap_or_default(), words)
}

#[test]
fn why_somebody_does_not_reach_something_is_said_in_the_shell_and_by_the_exit_code() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    for words in [
        "create site --name office",
        "create resource --name wiki --site office --address wiki.office.internal --ports 443",
        "create group --name engineers",
        "create user --name ada --email ada@example.com --group engineers",
    ] {
        assert!(admin(&state, &words.split(' ').collect::<Vec<_>>()).0, "{words}");
    }
    let why = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["admin", "--state"]).arg(&state).args(["why", "ada@example.com", "wiki"]).args(more);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, said) = why(&[]);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.starts_with("ada does not reach wiki on"), "{said}");
    assert!(said.contains("\n  NO "), "{said}");
    let policy = ["create", "policy", "--name", "wiki", "--group", "engineers", "--resource", "wiki"];
    assert!(admin(&state, &policy).0);
    let allowed = admin(&state, &["why", "ada@example.com", "wiki", "--on", "443"]).1;
    assert_eq!(allowed["verdict"], "allow", "{allowed}");
    let other_port = admin(&state, &["why", "ada@example.com", "wiki", "--on", "80"]).1;
    assert_ne!(other_port["verdict"], "allow", "{other_port}");
    assert!(serve.end(Signal::TERM));
}

#[test]
fn what_is_applied_is_exported_again_differs_in_nothing_and_is_changed_and_shown_in_the_shell() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["admin", "--state"]).arg(&state).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
        (output.status.code().unwrap(), said)
    };
    let file = scratch.path().join("office.toml");
    std::fs::write(
        &file,
        "[[sites]]\nname = \"office\"\nprefixes = [\"10.0.2.0/24\"]\n\n[[resources]]\nname = \"wiki\"\nsite = \"office\"\n\
         address = \"wiki.office.internal\"\nports = [\"443\"]\n\n[[groups]]\nname = \"engineers\"\n\n[[policies]]\n\
         name = \"wiki for engineers\"\ngroups = [\"engineers\"]\nresources = [\"wiki\"]\n",
    )
    .unwrap();
    let path = file.to_str().unwrap();
    let (code, said) = run(&["diff", "-f", path]);
    assert_eq!(code, 1, "{said}");
    let (code, said) = run(&["apply", "-f", path]);
    assert!(code == 0 && said.contains("Applied."), "{said}");
    let (code, said) = run(&["diff", "-f", path]);
    assert_eq!(code, 0, "{said}");
    let exported = scratch.path().join("exported.toml");
    let (code, text) = run(&["export"]);
    assert_eq!(code, 0, "{text}");
    std::fs::write(&exported, &text).unwrap();
    let (code, said) = run(&["diff", "--prune", "-f", exported.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    let json = admin(&state, &["export"]).1;
    assert_eq!(json["resources"][0]["name"], "wiki", "{json}");

    let (code, said) = run(&["set", "resource", "wiki", "ports=443,8443", "alias=w"]);
    assert_eq!(code, 0, "{said}");
    let shown = admin(&state, &["get", "resource", "wiki"]).1;
    assert_eq!((&shown["ports"], &shown["alias"]), (&serde_json::json!(["443", "8443"]), &"w".into()));
    let (code, said) = run(&["diff", "-f", path]);
    assert!(code == 1 && said.contains("wiki"), "{said}");
    let (code, said) = run(&["set", "resource", "wiki", "colour=red"]);
    assert!(code == 2 && said.contains("expected one of site, name"), "{said}");
    let (_, table) = run(&["list", "resources", "--all"]);
    assert!(table.contains("wiki") && table.contains("443"), "{table}");
    let (_, table) = run(&["get", "resource", "wiki"]);
    assert!(table.contains("wiki.office.internal"), "{table}");
    let (code, said) = run(&["sign-ins"]);
    assert_eq!((code, said.as_str()), (0, ""), "nobody signed in");
    assert!(serve.end(Signal::TERM));
}

/// Holds SQLite's write lock, as a backup tool that hangs does, until its standard input ends.
const HOLD: &str = "import sqlite3, sys\n\
    db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n\
    db.execute('BEGIN IMMEDIATE')\n\
    print('held', flush=True)\n\
    sys.stdin.read()\n";

#[test]
fn what_has_to_wait_for_the_database_ends_with_the_code_that_says_try_again_and_reads_go_on() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    let mut command = Command::new("python3");
    command.args(["-c", HOLD]).arg(state.join("controller/tidegate.db"));
    let mut lock = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut held = String::new();
    BufReader::new(lock.stdout.take().unwrap()).read_line(&mut held).unwrap();
    assert_eq!(held, "held\n");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["admin", "--state"]).arg(&state).args(arguments);
        let output = command.stdin(Stdio::null()).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["create", "group", "--name", "later"]);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("wait"), "{said}");
    assert_eq!(run(&["list", "groups"]).0, 0);
    drop(lock.stdin.take());
    lock.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while run(&["create", "group", "--name", "later"]).0 != 0 {
        assert!(Instant::now() < deadline, "changes go on once the lock is gone");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(serve.end(Signal::TERM));
}

#[test]
fn a_person_is_made_with_role_and_groups_or_not_at_all_and_a_list_says_when_it_is_cut() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    for group in ["engineers", "operators"] {
        assert!(admin(&state, &["create", "group", "--name", group]).0);
    }
    let make = |more: &[&str]| {
        let email = ["create", "user", "--name", "ada", "--email", "ada@example.com"];
        admin(&state, &[&email, more].concat())
    };
    let (done, _, words) = make(&["--group", "engineers", "--role", "king"]);
    assert!(!done && words.contains("role"), "{words}");
    assert_eq!(admin(&state, &["list", "users"]).1["items"].as_array().unwrap().len(), 0);
    let (done, made, words) = make(&["--group", "engineers", "--group", "operators", "--role", "support"]);
    assert!(done, "{words}");
    assert_eq!(made["role"], "support");
    for group in ["engineers", "operators"] {
        let filter = format!("group={group}");
        let fit = admin(&state, &["list", "users", "--filter", &filter]).1;
        assert_eq!(fit["items"][0]["id"], made["id"], "{group}");
    }
    let (done, _, words) = admin(&state, &["list", "authentication-log", "--filter", "user=ada@example.com"]);
    assert!(done, "{words}");
    for (kind, filter) in [("flows", "device=nobody"), ("flows", "connector=nobody")] {
        let (done, _, words) = admin(&state, &["list", kind, "--filter", filter]);
        assert!(!done && words.contains("is called"), "{words}");
    }
    let user = ["create", "key", "--device", "--user", "ada", "--name", "her laptop"];
    let (done, key, words) = admin(&state, &user);
    assert!(done && key["description"]["name"] == "her laptop", "{words}");
    let (_, _, words) = admin(&state, &["list", "groups", "--limit", "1"]);
    assert!(words.contains("There are more than these 1: --all"), "{words}");
    let (_, _, words) = admin(&state, &["list", "groups"]);
    assert!(!words.contains("There are more"), "{words}");
    let (done, _, words) = admin(&state, &["get", "strikes", "x"]);
    assert!(!done && words.contains("possible values"), "{words}");
    let mut plain = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    plain.args(["admin", "--state"]).arg(&state).args(["list", "devices", "--filter", "state=pending"]);
    let said = plain.output().unwrap().stdout;
    assert_eq!(String::from_utf8(said).unwrap(), "No devices fit.\n");
    assert!(serve.end(Signal::TERM));
}

#[test]
fn access_of_several_people_is_ended_at_once_from_the_shell_or_of_none_of_them() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    let user = |name: &str| {
        let email = format!("{name}@example.com");
        let (done, made, words) = admin(&state, &["create", "user", "--name", name, "--email", &email]);
        assert!(done, "{words}");
        made["id"].as_str().unwrap().to_owned()
    };
    let (ada, bob) = (user("ada"), user("bob"));
    let struck = || admin(&state, &["list", "strikes"]).1["items"].as_array().unwrap().len();
    let (done, _, words) = admin(&state, &["strike", &ada, "carol"]);
    assert!(!done && words.contains("called") && words.contains("carol"), "{words}");
    assert_eq!(struck(), 0);
    let unknown = format!("usr-{}", "0".repeat(26));
    let (done, _, words) = admin(&state, &["strike", &ada, &unknown]);
    assert!(!done && words.contains("operation 1") && words.contains(&unknown), "{words}");
    assert_eq!(struck(), 0);
    // Neither ever signed in anywhere.
    let (done, _, words) = admin(&state, &["end-sessions", "ada", "bob@example.com"]);
    assert!(!done && words.contains("account"), "{words}");
    let (done, answer, words) = admin(&state, &["strike", &ada, "bob@example.com"]);
    assert!(done, "{words}");
    assert_eq!(answer["results"][1]["body"]["subject"], bob.as_str());
    assert_eq!(struck(), 2);
    let (done, answer, words) = admin(&state, &["restore", "bob@example.com"]);
    assert!(done && answer["subject"] == bob.as_str(), "{words}");
    // A name is no address: where both are somebody's, neither is meant.
    assert!(admin(&state, &["create", "user", "--name", "ada@example.com", "--email", "eve@example.com"]).0);
    let (done, _, words) = admin(&state, &["role", "--user", "ada@example.com", "--role", "admin"]);
    assert!(!done && words.contains("several users") && words.contains(&ada), "{words}");
    assert!(admin(&state, &["role", "--user", "ada", "--role", "auditor"]).0);
    let backup = scratch.path().join("backup");
    std::fs::write(&backup, "").unwrap();
    let (done, _, words) = admin(&state, &["restore", backup.to_str().unwrap()]);
    assert!(!done && words.contains("tidegate admin restore-backup"), "{words}");
    assert!(serve.end(Signal::TERM));
}

#[test]
fn a_sign_in_provider_is_made_changed_and_removed_from_the_shell() {
    let scratch = tempfile::tempdir().unwrap();
    let (state, port) = (scratch.path().join("state"), free_port());
    let mut serve = Serve::start(&state, port);
    serve.event("ready");
    assert!(admin(&state, &["create", "group", "--name", "engineers"]).0);
    let secret = scratch.path().join("secret");
    std::fs::write(&secret, "very-secret-indeed\n").unwrap();
    let set = |more: &[&str]| admin(&state, &[&["provider", "set", "corp"], more].concat());
    let (done, _, words) = set(&["--title", "Corporate", "--client-id", "tidegate"]);
    assert!(!done && words.contains("--issuer"), "{words}");
    let issuer = "https://id.example.com";
    let secret = secret.to_str().unwrap();
    let (done, made, words) = set(&[
        "--title",
        "Corporate",
        "--client-id",
        "tidegate",
        "--issuer",
        issuer,
        "--client-secret-file",
        secret,
        "--domain",
        "example.com",
        "--group",
        "engineering=engineers",
    ]);
    assert!(done, "{words}");
    assert!(made["redirect_uri"].as_str().unwrap().starts_with("https://localhost"), "{made}");
    assert!(!made.to_string().contains("very-secret"), "{made}");
    let (done, changed, words) = set(&["--new-users", "make"]);
    assert!(done, "{words}");
    for (member, value) in [("title", "Corporate"), ("issuer", issuer), ("new_users", "make")] {
        assert_eq!(changed[member], value);
    }
    assert_eq!(
        (&changed["has_client_secret"], changed["domains"][0].as_str()),
        (&true.into(), Some("example.com"))
    );
    assert_eq!(changed["group_map"], made["group_map"]);
    let (_, list, _) = admin(&state, &["provider", "list"]);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    assert!(!admin(&state, &["provider", "show", "../users"]).0);
    assert!(admin(&state, &["provider", "remove", "corp"]).0);
    assert!(!admin(&state, &["provider", "show", "corp"]).0);
    assert!(serve.end(Signal::TERM));
}
