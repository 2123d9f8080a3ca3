//! `tidegate drill` and `tidegate demo` from outside: what they refuse, and that they leave nothing behind. The drills
//! themselves, and the demo's check, are run by `cargo xtask test`, alone on the machine.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and waits for conditions with deadlines"
)]

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn drill(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("drill").args(arguments).stdin(Stdio::null());
    command
}

fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is in a directory, by the beginning of its name.
fn entry(directory: &Path, beginning: &str) -> Option<std::path::PathBuf> {
    let mut entries = fs::read_dir(directory).unwrap().filter_map(Result::ok);
    entries.find(|entry| entry.file_name().to_string_lossy().starts_with(beginning)).map(|entry| entry.path())
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_drill_is_refused_on_a_database_that_it_does_not_run_on_and_nothing_is_started() {
    let place = tempfile::tempdir().unwrap();
    for (name, engine) in
        [("primary-loss", "sqlite"), ("lock-blip", "sqlite"), ("poison-snapshot", "postgres")]
    {
        let output = drill(&[name, "--database", engine]).env("TMPDIR", place.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--database") && said.contains(name), "{said}");
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn a_drill_that_is_interrupted_ends_its_database_server_and_leaves_no_directory_and_no_process() {
    let place = tempfile::tempdir().unwrap();
    // The server runs as another user when this is root.
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let child = drill(&["database-brownout", "--database", "postgres", "--clients", "20"])
        .current_dir(place.path())
        .env("TMPDIR", place.path())
        // A database of the shell is never a drill's.
        .env("TIDEGATE_DATABASE_URL", "postgres://127.0.0.1:1/production")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut child = Ended(child);
    let server: i32 = eventually("the server", || {
        let directory = entry(place.path(), "pgscratch-")?;
        fs::read_to_string(directory.join("pid")).ok()?.trim().parse().ok()
    });
    eventually("the controller on it", || {
        assert_eq!(child.0.try_wait().unwrap(), None, "the drill ended by itself");
        let directory = entry(place.path(), "tidegate-drill-")?;
        fs::exists(directory.join("controller/admin.sock")).unwrap().then_some(())
    });
    kill_process(Pid::from_raw(child.0.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let status = eventually("its end", || child.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
    let left: Vec<_> =
        fs::read_dir(place.path()).unwrap().filter_map(Result::ok).map(|left| left.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(test_kill_process(Pid::from_raw(server).unwrap()).is_err(), "the server still runs");
}

/// Processes whose command line has this in it.
fn running(words: &Path) -> Vec<String> {
    let words = words.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(words))
        .collect()
}

#[test]
fn a_demo_that_is_interrupted_leaves_no_keys_and_no_process_wherever_it_was() {
    // The download, a controller's keys, the connector's, the client's: what is there when the signal comes.
    for (arguments, there) in [
        (&["--check"][..], "cargo-manifest.bin"),
        (&[], "controller/admin.sock"),
        (&["--check"], "connector/certificate.der"),
        (&[], "alice/proxy-url"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["demo", "--download", "4"])
            .args(arguments)
            .env("TMPDIR", place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut child = Ended(child);
        eventually(there, || {
            assert_eq!(child.0.try_wait().unwrap(), None, "the demo ended by itself");
            let directory = entry(place.path(), "tidegate-demo-")?;
            fs::exists(directory.join(there)).unwrap().then_some(())
        });
        kill_process(Pid::from_raw(child.0.id().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
        eventually("its end", || child.0.try_wait().unwrap());
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "{arguments:?} at {there}");
        eventually("the end of its processes", || running(place.path()).is_empty().then_some(()));
    }
}
