//! A flow that goes on: a server that sends a little again and again, and whoever watches that it comes.

use super::super::{daemon::Daemon, namespace::Namespace, probe::this_program};
use crate::process::{Interrupt, signal_group};
use anyhow::{Context as _, Result};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Between two pieces of a flow: any silence beyond it is the network's.
const TICK: Duration = Duration::from_millis(50);
/// 40 kB/s: flows that are watched cost nothing.
const PIECE: [u8; 2048] = [b'~'; 2048];
/// The longest head that is read.
const HEAD: usize = 8 * 1024;
const START: Duration = Duration::from_secs(10);

/// Inside a namespace: answers each request with a body that never ends.
///
/// # Errors
/// The address cannot be bound, or the end.
pub fn serve(listen: SocketAddr, interrupt: &Interrupt) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    listener.set_nonblocking(true)?;
    println!("ticking on {listen}");
    loop {
        interrupt.check()?;
        match listener.accept() {
            // Ends with its connection.
            Ok((stream, _)) => drop(thread::spawn(move || tick(stream))),
            Err(_) => thread::sleep(TICK),
        }
    }
}

fn tick(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..length]);
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n")?;
    loop {
        stream.write_all(&PIECE)?;
        thread::sleep(TICK);
    }
}

/// Starts [`serve`] in a namespace.
///
/// # Errors
/// It does not come up.
pub fn start(host: &Namespace, listen: SocketAddr, log: &Path, interrupt: &Interrupt) -> Result<Daemon> {
    let mut command = host.command(this_program());
    command.args(["lab", "ticker", "--listen", &listen.to_string()]);
    let mut daemon = Daemon::start(command, log)?;
    daemon.wait_line("the ticking server", START, interrupt, |line| {
        line.starts_with("ticking").then_some(())
    })?;
    Ok(daemon)
}

/// curl, while it brings what never ends.
#[derive(Debug)]
pub struct Flow {
    curl: Child,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    last: Instant,
    bytes: usize,
    longest: Duration,
    ended: Option<Instant>,
}

impl Flow {
    /// Starts `curl`, which knows its proxy and gets the URL here.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut curl: Command, url: &str) -> Result<Self> {
        curl.args(["--no-buffer", "--retry", "0", url]);
        curl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let mut curl = curl.spawn().context("cannot start curl")?;
        let mut bytes = curl.stdout.take().context("curl's output")?;
        let seen = Arc::new(Mutex::new(Seen {
            last: Instant::now(),
            bytes: 0,
            longest: Duration::ZERO,
            ended: None,
        }));
        let noted = Arc::clone(&seen);
        // Ends with curl.
        thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            loop {
                let length = bytes.read(&mut buffer).unwrap_or(0);
                let now = Instant::now();
                let mut seen = noted.lock().unwrap_or_else(PoisonError::into_inner);
                if length == 0 {
                    seen.ended = Some(now);
                    return;
                }
                seen.longest = seen.longest.max(now - seen.last);
                seen.last = now;
                seen.bytes += length;
            }
        });
        Ok(Self { curl, seen })
    }

    fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.seen().bytes
    }

    /// From now on the longest silence is counted.
    pub fn mark(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).longest = Duration::ZERO;
    }

    /// The longest silence since the mark, the one that lasts included.
    pub fn longest_silence(&self) -> Duration {
        let seen = self.seen();
        seen.longest.max(seen.ended.unwrap_or_else(Instant::now) - seen.last)
    }

    /// How long nothing has come.
    pub fn silent_for(&self) -> Duration {
        self.seen().last.elapsed()
    }

    /// When curl saw the end.
    pub fn ended(&self) -> Option<Instant> {
        self.seen().ended
    }

    /// When the last byte came.
    pub fn last_byte(&self) -> Instant {
        self.seen().last
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if matches!(self.curl.try_wait(), Ok(None)) {
            signal_group(&self.curl, libc::SIGKILL);
        }
        let _ = self.curl.wait();
    }
}
