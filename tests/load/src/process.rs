//! The production PoP as a process.

use crate::{Cost, Installation, cost_of};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};
use tempfile::TempDir;

const READY: Duration = Duration::from_secs(20);

/// Where a process runs.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The one core it may use.
    pub core: Option<usize>,
    /// A network namespace.
    pub namespace: Option<String>,
}

impl Place {
    /// A command that runs there. `ip netns exec` and `taskset` replace themselves: the child is the program.
    #[must_use]
    pub fn command(&self, program: &Path) -> Command {
        let mut words: Vec<String> = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend(["ip", "netns", "exec", namespace].map(str::to_owned));
        }
        if let Some(core) = self.core {
            words.extend(["taskset", "-c", &core.to_string()].map(str::to_owned));
        }
        words.push(program.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command
    }
}

/// Keeps this process, the load, off the PoP's core; the core it is on.
///
/// # Errors
/// There is one core only.
#[expect(unsafe_code, reason = "the standard library does not pin threads")]
pub fn keep_off(core: usize) -> Result<usize> {
    let cores = thread::available_parallelism()?.get();
    ensure!(
        cores >= 2 && core < cores,
        "expected a core for the PoP and one for the load, this machine has {cores}"
    );
    let mine = usize::from(core == 0);
    // SAFETY: a whole cpu_set_t of this frame, zeroed (a valid, empty set), filled and read before the call returns.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(mine, &mut set);
        if libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
    }
    Ok(mine)
}

/// A PoP that serves; ends with this value.
pub struct PopProcess {
    child: Child,
    state: TempDir,
    address: SocketAddr,
}

impl PopProcess {
    /// Starts one of this installation.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        program: &Path,
        installation: &Installation,
        place: &Place,
        listen: SocketAddr,
    ) -> Result<Self> {
        let state = tempfile::Builder::new().prefix("tg-load-").tempdir()?;
        installation.write_pop_state(state.path())?;
        let mut command = place.command(program);
        command.arg("--json").arg("pop").arg("--state").arg(state.path());
        command.args(["--listen", &listen.to_string(), "--no-tcp"]);
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting the PoP")?;
        let output = child.stdout.take().context("its output")?;
        let (sender, ready) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if serde_json::from_str::<Value>(&line).is_ok_and(|value| value["event"] == "ready") {
                    let _ = sender.send(());
                }
            }
        });
        let pop = Self { child, state, address: listen };
        if ready.recv_timeout(READY).is_err() {
            bail!("the PoP was not ready within {} s", READY.as_secs());
        }
        Ok(pop)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has cost so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cost(&self) -> Result<Cost> {
        cost_of(self.child.id())
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it lives.
    ///
    /// # Errors
    /// It has ended.
    pub fn check(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "the PoP ended: {ended:?}");
        Ok(())
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value> {
        let path: PathBuf = self.state.path().join(pop::STATUS_SOCKET);
        let mut socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut text = String::new();
        socket.read_to_string(&mut text)?;
        Ok(serde_json::from_str(&text)?)
    }
}

impl Drop for PopProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
