//! Running other programs: with a deadline, in a process group of their own, and ended when the
//! person presses Ctrl-C.

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    io::Read,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How often something that is waited for is looked at.
const POLL: Duration = Duration::from_millis(5);

/// Raised by Ctrl-C, SIGTERM or SIGHUP; every wait looks at it, so that clean-up code runs.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over the three signals for this process.
    ///
    /// # Errors
    /// The kernel refuses the handler.
    pub fn install() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("cannot install a signal handler")?;
        }
        Ok(Self(flag))
    }

    /// An interrupt that nobody raises.
    #[cfg(test)]
    pub fn never() -> Self {
        Self(Arc::new(AtomicBool::new(false)))
    }

    /// # Errors
    /// The person wants to stop.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// # Errors
    /// The program failed; the error carries what it said.
    pub fn success(self, what: &str) -> Result<Self> {
        if self.status.success() {
            return Ok(self);
        }
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        bail!("{what} failed ({}): {}", self.status, tail(said, 12));
    }
}

/// The last `lines` lines of a text, for error messages.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Runs a program and captures what it says.
///
/// # Errors
/// It cannot be started, does not end within `deadline`, or the person interrupts. Its exit status
/// is the caller's to judge.
pub fn run(command: &mut Command, deadline: Duration, interrupt: &Interrupt) -> Result<Finished> {
    let what = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, deadline, interrupt).with_context(|| what.clone());
    // After the group was ended the pipes are closed, so joining does not hang.
    let text = |reader: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&reader.join().unwrap_or_default()).into_owned()
    };
    Ok(Finished { status: status?, stdout: text(stdout), stderr: text(stderr) })
}

/// Runs a program that talks to the terminal itself.
///
/// # Errors
/// It cannot be started, does not end within `deadline`, or the person interrupts.
pub fn run_visible(command: &mut Command, deadline: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
    let what = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {what}"))?;
    wait(&mut child, deadline, interrupt).context(what)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // A read error ends the text like end of file does: the status tells the rest.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

fn wait(child: &mut Child, deadline: Duration, interrupt: &Interrupt) -> Result<ExitStatus> {
    let until = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        let stopped = interrupt.check();
        if stopped.is_err() || Instant::now() >= until {
            signal_group(child, libc::SIGKILL);
            child.wait()?;
            stopped?;
            bail!("not finished after {deadline:?}, ended");
        }
        thread::sleep(POLL);
    }
}

/// Waits until `look` finds something.
///
/// # Errors
/// `look` fails, nothing is found within `deadline`, or the person interrupts.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    interrupt: &Interrupt,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let until = Instant::now() + deadline;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        interrupt.check()?;
        ensure!(Instant::now() < until, "{what}: not within {deadline:?}");
        thread::sleep(POLL);
    }
}

/// Sends a signal to a child that leads a process group, and to the whole group.
pub fn signal_group(child: &Child, signal: i32) {
    let Ok(group) = i32::try_from(child.id()) else { return };
    send(-group, signal);
}

/// Sends a signal to one process.
pub fn signal_process(pid: u32, signal: i32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    send(pid, signal);
}

#[expect(unsafe_code, reason = "std can only kill a child, not stop it or signal its group")]
fn send(target: i32, signal: i32) {
    // 0, -1 and 1 would mean "my own group", "everything" and init.
    if (-1..=1).contains(&target) {
        return;
    }
    // SAFETY: kill(2) takes two integers and touches no memory of this process.
    unsafe {
        libc::kill(target, signal);
    }
}

/// The command line for messages.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether a program can be found.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended_at_its_deadline() {
        let started = Instant::now();
        let hung = run(Command::new("sleep").arg("60"), Duration::from_millis(50), &Interrupt::never());
        assert!(hung.is_err() && started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failed_program_s_words_are_in_the_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason >&2; exit 3"]);
        let finished = run(&mut command, Duration::from_secs(10), &Interrupt::never()).expect("sh starts");
        let error = finished.success("sh").expect_err("exit 3").to_string();
        assert!(error.contains("the reason"), "{error}");
    }

    #[test]
    fn an_interrupt_ends_a_wait() {
        let raised = Interrupt(Arc::new(AtomicBool::new(true)));
        let waited = wait_until("nothing", Duration::from_secs(60), &raised, || Ok(None::<()>));
        assert_eq!(waited.expect_err("interrupted").to_string(), "interrupted");
    }
}
