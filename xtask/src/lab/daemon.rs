//! A long-running process of the lab: its lines are kept in a file and can be waited for, and it ends with its value.

use crate::process::{Interrupt, describe, signal_group, tail, wait_until};
use anyhow::{Context as _, Result, bail};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// A running process.
#[derive(Debug)]
pub struct Daemon {
    what: String,
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in a process group of its own; `log` gets what it says.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let what = describe(&command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let file = Arc::new(Mutex::new(
            File::options()
                .create(true)
                .append(true)
                .open(log)
                .with_context(|| format!("cannot write {}", log.display()))?,
        ));
        let lines = Arc::new(Mutex::new(Vec::new()));
        follow(child.stdout.take(), Some(Arc::clone(&lines)), Arc::clone(&file));
        follow(child.stderr.take(), None, file);
        Ok(Self { what, child, lines, log: log.to_owned() })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of standard output that `pick` takes.
    ///
    /// # Errors
    /// The process ends, or no such line comes in time; the error carries its last words.
    pub fn wait_line<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        interrupt: &Interrupt,
        pick: impl Fn(&str) -> Option<T>,
    ) -> Result<T> {
        let lines = Arc::clone(&self.lines);
        let found = wait_until(what, deadline, interrupt, || {
            let picked =
                lines.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|line| pick(line));
            if picked.is_none()
                && let Some(status) = self.child.try_wait()?
            {
                bail!("{} ended: {status}", self.what);
            }
            Ok(picked)
        });
        found.with_context(|| format!("last words in {}:\n{}", self.log.display(), self.last_words()))
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// The system does not say.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        tail(&fs::read_to_string(&self.log).unwrap_or_default(), 15)
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) {
        crate::process::signal_process(self.pid(), signal);
    }

    /// Asks it to end as a service manager does, and says how long that took.
    ///
    /// # Errors
    /// It does not end within `deadline`; it is killed then.
    pub fn terminate(mut self, deadline: Duration, interrupt: &Interrupt) -> Result<Duration> {
        let started = Instant::now();
        self.signal(libc::SIGTERM);
        let child = &mut self.child;
        wait_until(&format!("the end of {}", self.what), deadline, interrupt, || Ok(child.try_wait()?))?;
        Ok(started.elapsed())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            signal_group(&self.child, libc::SIGTERM);
            let until = Instant::now() + Duration::from_secs(3);
            while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        // What is left of the group goes with it, also when its leader ended well.
        signal_group(&self.child, libc::SIGKILL);
        let _ = self.child.wait();
    }
}

fn follow(
    pipe: Option<impl Read + Send + 'static>,
    lines: Option<Arc<Mutex<Vec<String>>>>,
    file: Arc<Mutex<File>>,
) {
    let Some(pipe) = pipe else { return };
    // Ends with the pipe; nobody needs to join it.
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let _ = writeln!(file.lock().unwrap_or_else(PoisonError::into_inner), "{line}");
            if let Some(lines) = &lines {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_and_the_process_ends_with_its_value() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready 42; exec sleep 600"]);
        let mut daemon = Daemon::start(command, &directory.path().join("log")).expect("sh starts");
        let pid = daemon.pid();
        let seen = daemon
            .wait_line("the ready line", Duration::from_secs(10), &Interrupt::never(), |line| {
                line.strip_prefix("ready ").map(str::to_owned)
            })
            .expect("the line comes");
        assert_eq!(seen, "42");
        drop(daemon);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_process_that_ends_early_is_reported_with_its_last_words() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", "echo port taken >&2; exit 1"]);
        let mut daemon = Daemon::start(command, &directory.path().join("log")).expect("sh starts");
        let error = daemon
            .wait_line("the ready line", Duration::from_secs(10), &Interrupt::never(), |_| None::<()>)
            .expect_err("it ended");
        assert!(format!("{error:#}").contains("ended"), "{error:#}");
    }
}
