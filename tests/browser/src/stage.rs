//! A small installation of the built binary: `tidegate serve`, connectors, clients and a private web site.

use crate::{PATIENCE, eventually};
use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    thread,
    time::{Duration, Instant},
};

#[path = "../../../crates/tidegate/src/demo/ports.rs"]
mod ports;

/// Longest end of a process before it is killed.
const END_WITHIN: Duration = Duration::from_secs(20);
/// Takes a write lock on a database and holds it until its standard input ends.
const HOLD: &str = "import sqlite3, sys\n\
    db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n\
    db.execute('BEGIN IMMEDIATE')\n\
    print('held', flush=True)\n\
    sys.stdin.read()\n\
    db.execute('ROLLBACK')\n";

/// The binary under test: `TIDEGATE_TEST_BINARY`, else the one beside this program.
///
/// # Errors
/// There is none; the message says how to build it.
pub fn binary() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("TIDEGATE_TEST_BINARY") {
        return Ok(named.into());
    }
    let own = std::env::current_exe()?;
    let found =
        own.ancestors().skip(1).take(3).map(|above| above.join("tidegate")).find(|path| path.is_file());
    found.with_context(|| format!("no tidegate beside {}: cargo build --package tidegate", own.display()))
}

/// A process that speaks JSON lines and ends by a signal.
struct Process {
    child: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Process {
    fn start(arguments: &[&str], environment: &[(&str, &str)], log: &Path) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("--json").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(File::options().create(true).append(true).open(log)?);
        command.envs(environment.iter().copied());
        let mut child = command.spawn().context("starting tidegate")?;
        let reader = BufReader::new(child.stdout.take().context("its output")?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines, log: log.to_owned() })
    }

    /// The line with this event.
    fn event(&self, event: &str) -> Result<Value> {
        let deadline = Instant::now() + 2 * PATIENCE;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                bail!("no {event:?}; it said {said:?} and logged {tail:?}");
            };
            let value: Value = serde_json::from_str(&line).with_context(|| format!("not JSON: {line}"))?;
            if value["event"] == event {
                return Ok(value);
            }
            said.push(value);
        }
    }

    fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let (Ok(None), Some(pid)) = (self.child.try_wait(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// `tidegate serve` in a temporary directory, just started for the first time.
pub struct Stage {
    // Ends before its directory goes.
    serve: Mutex<Process>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// The console's address.
    pub url: String,
    /// Lets the first owner in, once.
    pub owner_link: String,
    directory: tempfile::TempDir,
}

impl Stage {
    /// Starts it.
    ///
    /// # Errors
    /// It does not come up; its last words are in the error.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same with its configuration in a PostgreSQL at this address.
    ///
    /// # Errors
    /// As [`Stage::start`].
    pub fn start_on(database_url: &str) -> Result<Self> {
        Self::start_with(&[("TIDEGATE_DATABASE_URL", database_url)])
    }

    fn start_with(environment: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("tidegate-stage-").tempdir()?;
        let address = ports::free()?;
        let state = directory.path().join("serve");
        let state_text = state.to_str().context("a path in UTF-8")?;
        let advertise = format!("localhost:{}", address.port());
        let arguments =
            ["serve", "--listen", &address.to_string(), "--advertise", &advertise, "--state", state_text];
        let serve = Process::start(&arguments, environment, &directory.path().join("serve.log"))?;
        let first = serve.event("first_start")?;
        let owner_link = first["first_start"]["owner_link"].as_str().context("the owner's link")?.to_owned();
        serve.event("ready")?;
        let arguments = arguments.map(ToOwned::to_owned).to_vec();
        let environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (serve, url) = (Mutex::new(serve), format!("https://{advertise}"));
        Ok(Self { serve, arguments, environment, url, owner_link, directory })
    }

    /// Ends it, does something to its state directory, and starts it again.
    ///
    /// # Errors
    /// What was done fails, or it does not come up.
    pub fn restart_after(&self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut serve = self.serve.lock().unwrap_or_else(PoisonError::into_inner);
        serve.end();
        meanwhile()?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        *serve = Process::start(&arguments, &environment, &self.directory.path().join("serve.log"))?;
        serve.event("ready").map(drop)
    }

    /// Everything it writes is below this directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The controller's state directory.
    #[must_use]
    pub fn controller_state(&self) -> PathBuf {
        self.directory.path().join("serve/controller")
    }

    /// What a process with this name has logged (`serve`, or the name of a connector or client).
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// The system's.
    pub fn is_running(&mut self) -> Result<bool> {
        let serve = self.serve.get_mut().unwrap_or_else(PoisonError::into_inner);
        Ok(serve.child.try_wait()?.is_none())
    }

    /// Runs `tidegate admin --json …` over the controller's local socket and reads its answer.
    ///
    /// # Errors
    /// What it complains about.
    pub fn admin(&self, arguments: &[&str]) -> Result<Value> {
        let mut command = Command::new(binary()?);
        command.args(["--json", "admin", "--state"]).arg(self.controller_state()).args(arguments);
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "tidegate admin {arguments:?}: {} {said}",
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&said).with_context(|| format!("not JSON: {said}"))
    }

    /// Asks the API over the controller's local socket, by curl: for what a test prepares and does not show.
    ///
    /// # Errors
    /// No answer, or one that is not 2xx.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--max-time", "30", "--unix-socket"]);
        command.arg(self.controller_state().join("admin.sock")).args(["--request", method]);
        if body.is_some() {
            command.args(["--header", "content-type: application/json", "--data-binary", "@-"]);
        }
        command.arg(format!("http://localhost/api/v1{path}"));
        let mut asking =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // What has room for more than an argument: curl reads all of it before it says anything.
        let mut input = asking.stdin.take().context("its input")?;
        if let Some(body) = body {
            input.write_all(body.to_string().as_bytes())?;
        }
        drop(input);
        let output = asking.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{method} {path}: {said} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        if said.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&said)?) }
    }

    /// Starts a connector with a join key; it ends when dropped.
    ///
    /// # Errors
    /// It does not come up.
    pub fn connector(&self, name: &str, join_key: &str) -> Result<Connector> {
        let state = self.directory.path().join(name);
        let state = state.to_str().context("a path in UTF-8")?;
        let log = self.directory.path().join(format!("{name}.log"));
        let arguments = ["connector", "--state", state, "--name", name];
        let process = Process::start(&arguments, &[("TIDEGATE_JOIN", join_key)], &log)?;
        process.event("ready")?;
        Ok(Connector { _process: process })
    }

    /// Enrols a device by a key or a link, as `tidegate login` does, and starts its client.
    ///
    /// # Errors
    /// It is refused or does not come up.
    pub fn client(&self, name: &str, key_or_link: &str) -> Result<Client> {
        let state = self.directory.path().join(name);
        let text = state.to_str().context("a path in UTF-8")?.to_owned();
        let log = self.directory.path().join(format!("{name}.log"));
        let key = self.directory.path().join(format!("{name}.key"));
        std::fs::write(&key, key_or_link)?;
        let key_text = key.to_str().context("a path in UTF-8")?;
        let mut login =
            Process::start(&["login", "--state", &text, "--name", name, "--key-file", key_text], &[], &log)?;
        let enrolled = login.event("enrolled")?;
        login.end();
        std::fs::remove_file(&key)?;
        let device = enrolled["device"].as_str().context("a device id")?.to_owned();
        let process = Process::start(&["up", "--foreground", "--state", &text], &[], &log)?;
        process.event("ready")?;
        Ok(Client { _process: process, state, device })
    }

    /// Enrols a device with a key that makes it wait for approval, and gives its id.
    ///
    /// # Errors
    /// It is not among the devices that wait.
    pub fn waiting_device(&self, name: &str, key: &str) -> Result<String> {
        let state = self.directory.path().join(name);
        let file = self.directory.path().join(format!("{name}.key"));
        std::fs::write(&file, key)?;
        let mut command = Command::new(binary()?);
        command.args(["--json", "login", "--name", name, "--state"]).arg(&state).arg("--key-file").arg(&file);
        let output = command.stdin(Stdio::null()).output().context("tidegate login")?;
        std::fs::remove_file(&file)?;
        ensure!(!output.status.success(), "a device that waits for approval is enrolled at once");
        let waiting = self.api("GET", "/devices?state=pending", None)?;
        let all = waiting["items"].as_array().into_iter().flatten();
        let id = all.filter(|device| device["name"] == name).find_map(|device| device["id"].as_str());
        id.map(ToOwned::to_owned).with_context(|| {
            format!("no {name} among {waiting}: {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Takes the database's write lock, as a backup tool that hangs does. It is given back when dropped.
    ///
    /// # Errors
    /// It cannot be had.
    pub fn lock_database(&self) -> Result<DatabaseLock> {
        let database = self.controller_state().join("tidegate.db");
        let mut command = Command::new("python3");
        command.args(["-c", HOLD]).arg(database).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting python3")?;
        let mut line = String::new();
        let read = child.stdout.as_mut().map(|out| BufReader::new(out).read_line(&mut line));
        let lock = DatabaseLock(child);
        ensure!(matches!(read, Some(Ok(_))) && line.trim() == "held", "the lock was not had: {line:?}");
        Ok(lock)
    }
}

/// A running connector.
pub struct Connector {
    _process: Process,
}

/// A running client.
pub struct Client {
    _process: Process,
    state: PathBuf,
    /// Its device's id.
    pub device: String,
}

impl Client {
    /// Fetches a private page through the client's proxy, with curl.
    ///
    /// # Errors
    /// What curl says.
    pub fn fetch(&self, url: &str) -> Result<String> {
        let proxy = std::fs::read_to_string(self.state.join("proxy-url"))?;
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--fail",
            "--max-time",
            "10",
            "--proxy",
            proxy.trim(),
            url,
        ]);
        let output = command.stdin(Stdio::null()).output().context("curl")?;
        ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A download that goes on until it is cut: gives the process, whose end is the session's end.
    ///
    /// # Errors
    /// It does not begin.
    pub fn hold(&self, url: &str) -> Result<Held> {
        let proxy = std::fs::read_to_string(self.state.join("proxy-url"))?;
        let mut command = Command::new("curl");
        command.args(["--silent", "--no-buffer", "--proxy", proxy.trim(), url]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("curl")?;
        let mut first = [0; 1];
        let read = child.stdout.as_mut().map(|out| out.read_exact(&mut first));
        let held = Held(child);
        ensure!(matches!(read, Some(Ok(()))), "no first byte of {url}");
        Ok(held)
    }

    /// `tidegate status`, as the client says it.
    ///
    /// # Errors
    /// The client does not answer.
    pub fn status(&self) -> Result<Value> {
        let mut command = Command::new(binary()?);
        command.args(["--json", "status", "--state"]).arg(&self.state);
        let output = command.stdin(Stdio::null()).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// A download that runs.
pub struct Held(Child);

impl Held {
    /// Whether it still runs.
    ///
    /// # Errors
    /// The system's.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It goes on.
    pub fn ends_within(&mut self, within: Duration) -> Result<()> {
        // Read on, so that it does not stand still behind a full pipe.
        if let Some(mut out) = self.0.stdout.take() {
            thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        }
        eventually("the end of a download", within, || {
            ensure!(!self.is_running()?, "it goes on");
            Ok(())
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A database's write lock, held by another program.
pub struct DatabaseLock(Child);

impl Drop for DatabaseLock {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A private web site on a loopback address of its own. `/` is a short page, `/drip` never ends.
pub struct WebSite {
    /// Where it listens.
    pub address: SocketAddr,
}

impl WebSite {
    /// Starts it; it goes on to the end of this process.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start(address: &str, says: &'static str) -> Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || answer(stream, says));
            }
        });
        Ok(Self { address })
    }
}

fn answer(mut stream: std::net::TcpStream, says: &str) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
    }
    if request.contains(" /drip") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
        loop {
            stream.write_all(b"drip\n")?;
            thread::sleep(Duration::from_millis(100));
        }
    }
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{says}", says.len())
}
