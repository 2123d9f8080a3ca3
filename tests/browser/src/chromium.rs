//! A browser process and its debugging protocol: JSON messages, each ended by a zero byte, over descriptors 3 and 4.

use crate::{PATIENCE, Page, eventually};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

/// Events that nobody has asked for yet; the oldest goes.
const KEPT_EVENTS: usize = 20_000;
/// Descriptors 3 and 4 are the pipe: a shell puts them there, since a child of this process gets 0, 1 and 2 alone.
const ONTO_THE_PIPE: &str = r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#;

/// A running browser with an empty profile. It ends when dropped.
pub struct Chromium {
    child: Child,
    wire: Mutex<Wire>,
    profile: tempfile::TempDir,
}

struct Wire {
    writer: ChildStdin,
    messages: Receiver<Value>,
    events: VecDeque<Value>,
    last: u64,
}

impl Chromium {
    /// Starts it. Certificates of an installation's own console CA are taken.
    ///
    /// # Errors
    /// There is no Chromium, or it does not answer.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// The same, and another program of this machine may come in over a port of loopback ([`Chromium::port`]).
    ///
    /// # Errors
    /// There is no Chromium, or it does not answer.
    pub fn start_open() -> Result<Self> {
        Self::start_with(&["--remote-debugging-port=0"])
    }

    fn start_with(more: &[&str]) -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("tidegate-browser-").tempdir()?;
        let mut command = Command::new("sh");
        command.args(["-c", ONTO_THE_PIPE, "sh"]);
        command.arg(std::env::var_os("TIDEGATE_TEST_CHROMIUM").unwrap_or_else(|| "chromium".into()));
        command.args([
            "--headless=new",
            "--remote-debugging-pipe",
            // Tests run as root in containers, where the sandbox cannot be made; the pages are our own.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-first-run",
            "--no-default-browser-check",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--disable-sync",
            "--disable-features=Translate,OptimizationHints,MediaRouter",
            "--force-color-profile=srgb",
            "--font-render-hinting=none",
            "--hide-scrollbars",
            "--lang=en",
            "--ignore-certificate-errors",
            // Nothing of the world outside is asked: pages of others (a provider's) name fonts there and wait for them.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        ]);
        command.args(more).arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("starting chromium (Debian package chromium)")?;
        let writer = child.stdin.take().context("the pipe to the browser")?;
        let mut reader = BufReader::new(child.stdout.take().context("the pipe from the browser")?);
        let (sender, messages) = channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            loop {
                message.clear();
                match reader.read_until(0, &mut message) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {
                        message.pop();
                        let Ok(value) = serde_json::from_slice(&message) else { continue };
                        if sender.send(value).is_err() {
                            return;
                        }
                    }
                }
            }
        });
        let wire = Wire { writer, messages, events: VecDeque::new(), last: 0 };
        let chromium = Self { child, wire: Mutex::new(wire), profile };
        chromium.call(None, "Browser.getVersion", json!({})).context("the browser's first answer")?;
        Ok(chromium)
    }

    /// The port where another program of this machine may come in.
    ///
    /// # Errors
    /// It was not started so.
    pub fn port(&self) -> Result<u16> {
        eventually("the port of the browser", PATIENCE, || {
            let said = std::fs::read_to_string(self.profile.path().join("DevToolsActivePort"))?;
            let port = said.lines().next().context("an empty file")?;
            port.parse().with_context(|| format!("{port:?} is no port"))
        })
    }

    /// A new page in a window of its own: its cookies are shared with no other page.
    ///
    /// # Errors
    /// The browser refuses.
    pub fn page(&self) -> Result<Page<'_>> {
        let context = self.call(None, "Target.createBrowserContext", json!({}))?;
        Page::make(self, &context["browserContextId"])
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One command of the protocol and its answer.
    ///
    /// # Errors
    /// The browser's own error, or no answer in time.
    pub fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value> {
        let mut wire = self.wire();
        wire.last += 1;
        let id = wire.last;
        let mut message = json!({"id": id, "method": method, "params": params});
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(0);
        wire.writer.write_all(&bytes).and_then(|()| wire.writer.flush()).context("the browser has ended")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "{method}: no answer within {PATIENCE:?}");
            match wire.messages.recv_timeout(left) {
                Ok(mut answer) if answer["id"] == id => {
                    if let Some(error) = answer.get("error") {
                        bail!("{method}: {error}");
                    }
                    return Ok(answer["result"].take());
                }
                Ok(event) => wire.keep(event),
                Err(RecvTimeoutError::Timeout) => bail!("{method}: no answer within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: the browser has ended"),
            }
        }
    }

    /// Takes the events of a page that have come so far and fit.
    pub(crate) fn take_events(&self, session: &str, fits: impl Fn(&str) -> bool) -> Vec<Value> {
        let mut wire = self.wire();
        while let Ok(event) = wire.messages.try_recv() {
            wire.keep(event);
        }
        let mine =
            |event: &Value| event["sessionId"] == session && event["method"].as_str().is_some_and(&fits);
        let all = std::mem::take(&mut wire.events);
        let (taken, left): (VecDeque<_>, VecDeque<_>) = all.into_iter().partition(mine);
        wire.events = left;
        taken.into()
    }
}

impl Wire {
    fn keep(&mut self, event: Value) {
        if event.get("method").is_none() {
            return;
        }
        if self.events.len() >= KEPT_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let _ = self.call(None, "Browser.close", json!({}));
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
