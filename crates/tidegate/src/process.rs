//! Child processes of this very binary: started, waited for until they say they are ready, ended.

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use std::{
    ffi::OsString,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
};

/// How long a role may take until it says that it is ready.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a role may take to end after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Where the clocks of the roles are set, a file for each by its name. Test builds only.
#[cfg(feature = "test-clock")]
pub static CLOCKS: std::sync::OnceLock<std::path::PathBuf> = std::sync::OnceLock::new();

/// Says to a process which one started it and must outlive it.
pub const PARENT: &str = "TIDEGATE_PARENT";

/// Lets this process have as many descriptors as the system allows it at the most: services are started with a soft limit
/// of 1,024, which is for programs that still use select(2). A connector needs one for each flow.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of descriptors stays as low as it was");
    }
}

/// Ends this process when the one that started it ends, however that happens. For roles under `serve` and
/// `demo`; what is started to stay is not told.
pub fn end_with_parent() {
    let Some(parent) = std::env::var(PARENT).ok().and_then(|text| text.parse::<i32>().ok()) else { return };
    let term = Some(rustix::process::Signal::TERM);
    if let Err(error) = rustix::process::set_parent_process_death_signal(term) {
        tracing::warn!(%error, "this process does not hear when the one that started it ends");
    }
    // It may have ended before the line above.
    if rustix::process::getppid().map(rustix::process::Pid::as_raw_pid) != Some(parent) {
        tracing::info!("the process that started this one has ended");
        std::process::exit(0);
    }
}

/// The signals that ask this process to end, listened for from the moment this is made.
pub struct Shutdown(Option<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)>);

impl Shutdown {
    /// Listens from now on; without handlers the default action ends the process.
    pub fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        Self(match signals {
            (Ok(interrupt), Ok(terminate)) => Some((interrupt, terminate)),
            _ => None,
        })
    }

    /// Resolves when the process is asked to end (SIGINT, SIGTERM).
    pub async fn asked(&mut self) -> &'static str {
        match &mut self.0 {
            Some((interrupt, terminate)) => tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            },
            None => std::future::pending().await,
        }
    }
}

/// Resolves when the process is asked to end (SIGINT, SIGTERM).
pub async fn shutdown() -> &'static str {
    Shutdown::listen().asked().await
}

/// Whether a role goes when this process goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stays {
    WithParent,
    OnItsOwn,
}

/// A running role.
pub struct Role {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: tokio::io::Lines<BufReader<ChildStdout>>,
    seen: Vec<Value>,
}

impl Role {
    /// Starts `tidegate --json ARGS`, its log going to `log`. Secrets go through `environment`, never
    /// through `arguments`.
    ///
    /// It ends when this process ends, also when this one is killed.
    pub fn start(
        name: &str,
        arguments: &[OsString],
        environment: &[(&str, String)],
        log: Option<&Path>,
    ) -> anyhow::Result<Self> {
        Self::spawn(name, arguments, environment, log, (Stdio::null(), Stays::WithParent))
    }

    /// As [`Self::start`], for what goes on after this process: see [`Self::leave_running`].
    pub fn start_to_stay(name: &str, arguments: &[OsString], log: Option<&Path>) -> anyhow::Result<Self> {
        Self::spawn(name, arguments, &[], log, (Stdio::null(), Stays::OnItsOwn))
    }

    /// The same, for a role that takes lines on its standard input.
    pub fn start_listening(name: &str, arguments: &[OsString], log: Option<&Path>) -> anyhow::Result<Self> {
        Self::spawn(name, arguments, &[], log, (Stdio::piped(), Stays::WithParent))
    }

    fn spawn(
        name: &str,
        arguments: &[OsString],
        environment: &[(&str, String)],
        log: Option<&Path>,
        (stdin, stays): (Stdio, Stays),
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("the path of this program")?;
        let stderr = match log {
            Some(path) => Stdio::from(
                std::fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("the log file {}", path.display()))?,
            ),
            None => Stdio::inherit(),
        };
        let mut command = Command::new(program);
        command.arg("--json").args(arguments).stdin(stdin).stdout(Stdio::piped()).stderr(stderr);
        // Who has nothing to do with the database does not know its password, and a drill's controller never uses the
        // database of the shell that it was started from: who is to have one is told.
        for name in crate::database::SECRETS {
            command.env_remove(name);
        }
        command.envs(environment.iter().map(|(key, value)| (*key, value)));
        match stays {
            Stays::WithParent => command.env(PARENT, std::process::id().to_string()),
            Stays::OnItsOwn => command.env_remove(PARENT),
        };
        #[cfg(feature = "test-clock")]
        if let Some(clocks) = CLOCKS.get() {
            command.env("TIDEGATE_TEST_CLOCK", clocks.join(name));
        }
        // A group of its own: Ctrl-C reaches the supervisor, which ends its children in order.
        command.process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting the {name} process"))?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("the {name} process has no output"))?;
        let stdin = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            seen: Vec::new(),
        })
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for a line with this `event`.
    pub async fn wait_for(&mut self, event: &str) -> anyhow::Result<Value> {
        if let Some(seen) = self.seen.iter().find(|value| value["event"] == event) {
            return Ok(seen.clone());
        }
        let wait = async {
            while let Some(line) = self.stdout.next_line().await? {
                let Ok(value) = serde_json::from_str::<Value>(&line) else { continue };
                let found = value["event"] == event;
                let error = value.get("error").and_then(Value::as_str).map(str::to_owned);
                // Roles say little; what they said first is what a later waiter may want.
                if self.seen.len() < 32 {
                    self.seen.push(value.clone());
                }
                if found {
                    return Ok(value);
                }
                if let Some(error) = error {
                    bail!("the {} process: {error}", self.name);
                }
            }
            let status = self.child.wait().await?;
            bail!("the {} process ended ({status}) before it was ready", self.name)
        };
        match tokio::time::timeout(READY_WITHIN, wait).await {
            Ok(outcome) => outcome,
            Err(_) => {
                bail!("the {} process said no \"{event}\" within {} s", self.name, READY_WITHIN.as_secs())
            }
        }
    }

    /// Reads on and drops what it says, until it ends; gives how it ended.
    pub async fn ended(&mut self) -> String {
        while let Ok(Some(_)) = self.stdout.next_line().await {}
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Lets it go on after this process ends.
    pub fn leave_running(self) {
        // Dropping the child would kill it; forgetting it leaks a descriptor until this process ends, which
        // it is about to do.
        std::mem::forget(self.child);
    }

    /// Ends it at once, as a crash would.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing the {} process", self.name))
    }

    /// Stops it where it stands (SIGSTOP), or lets it go on (SIGCONT).
    pub fn freeze(&self, frozen: Frozen) -> anyhow::Result<()> {
        let pid = self.child.id().ok_or_else(|| anyhow!("the {} process has ended", self.name))?;
        signal(pid, if frozen == Frozen::Yes { libc::SIGSTOP } else { libc::SIGCONT });
        Ok(())
    }

    /// Its input, for a role that was started with [`Self::start_listening`].
    pub const fn take_input(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// The next line that it says, as JSON; `None` when it has ended.
    pub async fn next_value(&mut self) -> anyhow::Result<Option<Value>> {
        match self.stdout.next_line().await? {
            Some(line) => Ok(Some(
                serde_json::from_str(&line).with_context(|| format!("from the {} process", self.name))?,
            )),
            None => Ok(None),
        }
    }

    /// Processor time used (seconds) and resident memory (bytes) so far, from proc(5).
    pub fn cost(&self) -> anyhow::Result<(f64, u64)> {
        let pid = self.child.id().ok_or_else(|| anyhow!("the {} process has ended", self.name))?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("proc(5)")?.1.split_whitespace().collect();
        let field =
            |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).context("proc(5)");
        // utime and stime are fields 14 and 15, in ticks of 10 ms on every Linux; rss is field 24, in pages.
        Ok(((field(11)? + field(12)?) as f64 / 100.0, field(21)? * 4096))
    }

    /// Descriptors that it has open, from proc(5).
    pub fn descriptors(&self) -> anyhow::Result<usize> {
        let pid = self.child.id().ok_or_else(|| anyhow!("the {} process has ended", self.name))?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// Ends it as a service manager would: SIGTERM, and SIGKILL when that does not help.
    pub async fn stop(&mut self) {
        self.stop_within(END_WITHIN).await;
    }

    /// The same, for a role that has to say goodbye to others.
    pub async fn stop_within(&mut self, within: Duration) {
        if let Some(pid) = self.child.id() {
            signal(pid, libc::SIGTERM);
            if tokio::time::timeout(within, self.child.wait()).await.is_err() {
                tracing::warn!(role = self.name, "did not end by itself and was killed");
                let _ = self.child.kill().await;
            }
        }
    }
}

/// Whether a process runs; one that has ended and only waits to be collected does not (proc_pid_stat(5)).
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// Whether a process stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frozen {
    /// It does.
    Yes,
    /// It goes on.
    No,
}

#[expect(unsafe_code, reason = "the standard library sends SIGKILL only")]
fn signal(pid: u32, number: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: kill(2) takes two integers and touches no memory. The pid is of a child that has not
    // been waited for, so it cannot have been given to another process.
    unsafe { libc::kill(pid, number) };
}

/// Runs `check` until it gives something or the deadline passes.
pub async fn eventually<T>(
    what: &str,
    within: Duration,
    mut check: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = now() + within;
    loop {
        let error = match check().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if now() >= deadline {
            return Err(error.context(format!("{what} did not happen within {} s", within.as_secs())));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The machine's monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the binary is where the clock is read")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, for what is written down.
#[expect(clippy::disallowed_methods, reason = "the binary asks the machine")]
pub fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
