//! A download that is watched: when its bytes came, and what the longest silence between them was.

use super::super::{fleet::Fleet, namespace::Namespace, services};
use crate::process::{Interrupt, signal_group, wait_until};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs::File,
    io::{Read, Write as _},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// A running download.
pub struct Watch {
    curl: Child,
    arrivals: Arc<Mutex<Vec<(Instant, usize)>>>,
    reader: Option<JoinHandle<Result<()>>>,
    body: PathBuf,
    interrupt: Interrupt,
}

/// How a download went.
#[derive(Debug, Clone, Copy)]
pub struct Watched {
    /// The longest silence before the event.
    pub usual_gap: Duration,
    /// The longest silence that ended after the event.
    pub gap: Duration,
    /// All of it.
    pub took: Duration,
}

impl Watch {
    /// Starts curl on the client's host. It asks once and over one connection: what breaks it ends it.
    ///
    /// # Errors
    /// curl cannot be started.
    pub fn start(fleet: &Fleet, client: &Namespace, url: &str, interrupt: &Interrupt) -> Result<Self> {
        let body = fleet.place().join("watched");
        let mut command = fleet.curl(client)?;
        command.args(["--no-buffer", "--retry", "0", "--write-out", "%{stderr}%{num_connects}", url]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut curl = command.spawn().context("cannot start curl")?;
        let mut bytes = curl.stdout.take().context("curl's output")?;
        let mut file = File::create(&body)?;
        let arrivals = Arc::new(Mutex::new(vec![(Instant::now(), 0)]));
        let noted = Arc::clone(&arrivals);
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = bytes.read(&mut buffer)?;
                if length == 0 {
                    return Ok(());
                }
                noted.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), length));
                file.write_all(&buffer[..length])?;
            }
        });
        Ok(Self { curl, arrivals, reader: Some(reader), body, interrupt: interrupt.clone() })
    }

    /// Bytes so far.
    pub fn received(&self) -> usize {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, length)| length).sum()
    }

    /// Waits until this many bytes are here.
    ///
    /// # Errors
    /// They do not come in time.
    pub fn wait_bytes(&mut self, bytes: usize, deadline: Duration) -> Result<()> {
        let interrupt = self.interrupt.clone();
        wait_until(&format!("{bytes} bytes of the download"), deadline, &interrupt, || {
            if self.received() >= bytes {
                return Ok(Some(()));
            }
            let ended = self.curl.try_wait()?;
            ensure!(ended.is_none(), "curl ended after {} bytes", self.received());
            Ok(None)
        })
    }

    /// Waits for the end, compares the hash and says how long the silences were.
    ///
    /// # Errors
    /// curl failed, needed another connection, took too long, or the hash differs.
    pub fn finish(mut self, event: Instant, deadline: Duration, sha256: &str) -> Result<Watched> {
        let interrupt = self.interrupt.clone();
        let ended =
            wait_until("the end of the download", deadline, &interrupt, || Ok(self.curl.try_wait()?));
        let (usual_gap, gap, took) = self.gaps(event);
        let told = format!("{} bytes, longest silence {:.2} s", self.received(), gap.as_secs_f64());
        let status = ended.with_context(|| told.clone())?;
        let mut said = String::new();
        if let Some(mut words) = self.curl.stderr.take() {
            words.read_to_string(&mut said)?;
        }
        ensure!(status.success(), "curl: {status} {}; {told}", said.trim());
        ensure!(said.trim() == "1", "curl made {} connections", said.trim());
        if let Some(reader) = self.reader.take() {
            reader.join().ok().context("the reader panicked")??;
        }
        let hash = services::sha256(&self.body, &interrupt)?;
        ensure!(hash == sha256, "the hash differs; {told}");
        Ok(Watched { usual_gap, gap, took })
    }

    fn gaps(&self, event: Instant) -> (Duration, Duration, Duration) {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        // The first entry is the start of curl: what comes before the first byte is no silence in a download.
        let gaps = arrivals.windows(2).skip(1).map(|pair| (pair[1].0, pair[1].0 - pair[0].0));
        let longest = |after: bool| {
            let of = gaps.clone().filter(|(end, _)| (*end > event) == after).map(|(_, gap)| gap);
            of.max().unwrap_or_default()
        };
        let last = arrivals.last().map_or(event, |(at, _)| *at);
        (longest(false), longest(true), last - arrivals[0].0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if matches!(self.curl.try_wait(), Ok(None)) {
            signal_group(&self.curl, libc::SIGKILL);
            let _ = self.curl.wait();
        }
    }
}
