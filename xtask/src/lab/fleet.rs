//! The release binary in its roles: state directories that stay, processes that come and go.

use super::{daemon::Daemon, directory, namespace::Namespace};
use crate::process::{Interrupt, run as run_program, wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const START: Duration = Duration::from_secs(30);
const FETCH: Duration = Duration::from_secs(120);

/// Where the client's proxy listens, in its own namespace.
const PROXY: &str = "127.0.0.1:1080";

/// The state directories of one installation, and the binary that works on them.
#[derive(Debug)]
pub struct Fleet {
    binary: PathBuf,
    place: tempfile::TempDir,
    interrupt: Interrupt,
}

/// What curl brought.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The file.
    pub body: PathBuf,
    /// Until the first byte.
    pub first: Duration,
    /// Until the last one.
    pub total: Duration,
}

impl Fleet {
    /// An installation without anything in it.
    ///
    /// # Errors
    /// The binary is missing, or there is no temporary directory.
    pub fn new(binary: PathBuf, interrupt: &Interrupt) -> Result<Self> {
        ensure!(binary.is_file(), "no binary at {}: cargo build --release", binary.display());
        Ok(Self { binary, place: directory()?, interrupt: interrupt.clone() })
    }

    /// The lab's directory.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// A role's state directory.
    pub fn state(&self, role: &str) -> PathBuf {
        self.place.path().join(role)
    }

    /// A command of the binary on a host.
    pub fn tidegate(&self, host: &Namespace, arguments: &[&str]) -> Command {
        let mut command = host.command(&self.binary);
        command.arg("--json").args(arguments);
        command
    }

    /// Starts a role on a host; its words go to `ROLE.log`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, host: &Namespace, role: &str, arguments: &[&str]) -> Result<Daemon> {
        Daemon::start(self.tidegate(host, arguments), &self.place.path().join(format!("{role}.log")))
    }

    /// Waits for the JSON line with `"event": "ready"`.
    ///
    /// # Errors
    /// It does not come.
    pub fn ready(&self, daemon: &mut Daemon, role: &str) -> Result<Value> {
        daemon.wait_line(&format!("{role} ready"), START, &self.interrupt, |line| {
            serde_json::from_str::<Value>(line).ok().filter(|value| value["event"] == "ready")
        })
    }

    /// Runs `tidegate admin` on the server.
    ///
    /// # Errors
    /// It fails, or what it says is no JSON.
    pub fn admin(&self, server: &Namespace, arguments: &[&str]) -> Result<Value> {
        let state = self.state("serve").display().to_string();
        let mut command = self.tidegate(server, &["admin", "--state", &state]);
        command.args(arguments);
        let said =
            run_program(&mut command, START, &self.interrupt)?.success(&format!("admin {arguments:?}"))?;
        serde_json::from_str(said.stdout.trim())
            .with_context(|| format!("admin {arguments:?} said {:?}", said.stdout))
    }

    /// Makes a join key and gives the file with it.
    ///
    /// # Errors
    /// As [`Fleet::admin`].
    pub fn key(&self, server: &Namespace, name: &str, arguments: &[&str]) -> Result<String> {
        let made = self.admin(server, &[&["create", "key"], arguments].concat())?;
        let file = self.place.path().join(name);
        fs::write(&file, made["key"].as_str().context("a key")?)?;
        Ok(file.display().to_string())
    }

    /// Starts the enrolled client and waits until it is up.
    ///
    /// # Errors
    /// It does not come up.
    pub fn client(&self, host: &Namespace) -> Result<Daemon> {
        let state = self.state("client").display().to_string();
        let mut client =
            self.start(host, "client", &["up", "--foreground", "--state", &state, "--socks", PROXY])?;
        self.ready(&mut client, "client")?;
        Ok(client)
    }

    /// Starts the enrolled connector and waits until it is registered at the PoP, by its own word.
    ///
    /// # Errors
    /// It does not get that far.
    pub fn connector(&self, host: &Namespace) -> Result<Daemon> {
        let state = self.state("connector");
        let mut connector =
            self.start(host, "connector", &["connector", "--state", &state.display().to_string()])?;
        self.ready(&mut connector, "connector")?;
        wait_until("the connector registered at the PoP", START, &self.interrupt, || {
            Ok(connector_status(&state).filter(|status| status["ready"] == true).map(|_| ()))
        })
        .with_context(|| connector.last_words())?;
        Ok(connector)
    }

    /// `tidegate status` of the client.
    ///
    /// # Errors
    /// The client does not answer.
    pub fn status(&self) -> Result<Value> {
        let state = self.state("client").display().to_string();
        // The client's socket is a file: it is asked from outside its namespace.
        let mut command = Command::new(&self.binary);
        command.args(["--json", "status", "--state", &state]);
        let said = run_program(&mut command, START, &self.interrupt)?;
        serde_json::from_str(said.stdout.trim())
            .with_context(|| format!("status said {:?} {:?}", said.stdout, said.stderr))
    }

    /// The way to the first resource that has one, as `tidegate status` says; null when none is in use.
    ///
    /// # Errors
    /// The client does not answer.
    pub fn path(&self) -> Result<Value> {
        let status = self.status()?;
        let resources = status["resources"].as_array().context("resources")?;
        let mut paths = resources.iter().map(|resource| resource["path"].clone());
        Ok(paths.find(|path| !path.is_null()).unwrap_or_default())
    }

    /// curl on the client's host, through the client's proxy.
    ///
    /// # Errors
    /// curl fails.
    pub fn fetch(&self, client: &Namespace, url: &str) -> Result<Fetched> {
        self.fetch_within(FETCH, client, url)
    }

    /// As [`Fleet::fetch`], with a deadline of its own.
    ///
    /// # Errors
    /// curl fails or is not done in time; the error says how much had come.
    pub fn fetch_within(&self, deadline: Duration, client: &Namespace, url: &str) -> Result<Fetched> {
        let body = self.place.path().join("fetched");
        let out = body.display().to_string();
        let mut command = self.curl(client)?;
        command.args(["--output", &out, "--write-out", "%{time_starttransfer} %{time_total}", url]);
        let _ = fs::remove_file(&body);
        let said = run_program(&mut command, deadline, &self.interrupt)
            .and_then(|said| said.success("curl"))
            .map_err(|error| error.context(format!("{} bytes had come", length(&body))))?;
        let mut figures = said.stdout.split_whitespace().map(str::parse::<f64>);
        let mut figure = || anyhow::Ok(Duration::from_secs_f64(figures.next().context("curl's figures")??));
        Ok(Fetched { body, first: figure()?, total: figure()? })
    }

    /// curl with the client's proxy, to which the caller adds what to fetch.
    ///
    /// # Errors
    /// The client has not said where its proxy is.
    pub fn curl(&self, client: &Namespace) -> Result<Command> {
        let proxy = fs::read_to_string(self.state("client").join("proxy-url"))
            .context("the client's proxy-url file")?;
        let config = self.place.path().join("curl.conf");
        // The proxy's credential stays out of the process list.
        fs::write(&config, format!("proxy = \"{}\"\n", proxy.trim()))?;
        let mut command = client.command("curl");
        command
            .args(["--disable", "--silent", "--show-error", "--fail", "--no-buffer", "--config"])
            .arg(config);
        Ok(command)
    }
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map(|data| data.len()).unwrap_or_default()
}

/// The one line that a connector's status socket says.
pub fn connector_status(state: &Path) -> Option<Value> {
    let stream = UnixStream::connect(state.join("status.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}
