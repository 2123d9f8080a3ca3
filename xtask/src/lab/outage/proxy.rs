//! The lab's own fault proxy for TCP: people's way to the controller goes through it, and it delays, trickles or says
//! nothing at all. What it does is in a file, so that it changes while connections stand.

use super::super::{daemon::Daemon, namespace::Namespace, probe::this_program};
use crate::process::Interrupt;
use anyhow::{Context as _, Result};
use clap::ValueEnum;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How long a late connection waits for its first byte.
const LATE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(20);
const START: Duration = Duration::from_secs(10);

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// They pass.
    Pass,
    /// A connection is taken, and nothing of it goes anywhere.
    HalfOpen,
    /// One byte a second in each direction.
    Trickle,
    /// A new connection waits for two seconds.
    Late,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::HalfOpen => "half-open",
            Self::Trickle => "trickle",
            Self::Late => "late",
        }
    }

    /// What the file says; a file that is being written says nothing new.
    fn read(file: &Path) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        Self::value_variants().iter().copied().find(|mode| mode.word() == text.trim()).unwrap_or(Self::Pass)
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub struct FaultProxy {
    file: PathBuf,
    _daemon: Daemon,
}

impl FaultProxy {
    /// Starts one on a host, from `listen` to `to`; everything passes.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(
        host: &Namespace,
        listen: SocketAddr,
        to: SocketAddr,
        place: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let file = place.join("proxy.mode");
        fs::write(&file, Mode::Pass.word())?;
        let mut command = host.command(this_program());
        command.args(["lab", "fault-proxy", "--listen", &listen.to_string(), "--to", &to.to_string()]);
        command.arg("--mode-file").arg(&file);
        let mut daemon = Daemon::start(command, &place.join("proxy.log"))?;
        daemon.wait_line("the fault proxy", START, interrupt, |line| {
            line.starts_with("proxy on").then_some(())
        })?;
        Ok(Self { file, _daemon: daemon })
    }

    /// From now on, also for connections that stand.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set(&self, mode: Mode) -> Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, mode.word())?;
        fs::rename(new, &self.file).context("the proxy's mode")
    }
}

/// Inside a namespace: the proxy itself.
///
/// # Errors
/// The address cannot be bound, or the end.
pub fn serve(listen: SocketAddr, to: SocketAddr, mode: &Path, interrupt: &Interrupt) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    listener.set_nonblocking(true)?;
    println!("proxy on {listen}");
    loop {
        interrupt.check()?;
        match listener.accept() {
            // Ends with its connection.
            Ok((stream, _)) => {
                let mode = mode.to_owned();
                thread::spawn(move || carry(&stream, to, &mode));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn carry(client: &TcpStream, to: SocketAddr, mode: &Path) -> std::io::Result<()> {
    client.set_nonblocking(false)?;
    if Mode::read(mode) == Mode::Late {
        thread::sleep(LATE);
    }
    let server = TcpStream::connect(to)?;
    let there = (client.try_clone()?, server.try_clone()?);
    let back = (server.try_clone()?, client.try_clone()?);
    let file = mode.to_owned();
    let other = thread::spawn(move || one_way(there.0, there.1, &file));
    let ended = one_way(back.0, back.1, mode);
    // Whoever ends, ends both: no thread waits for ever.
    let _ = client.shutdown(Shutdown::Both);
    let _ = server.shutdown(Shutdown::Both);
    let _ = other.join();
    ended
}

fn one_way(mut from: TcpStream, mut to: TcpStream, mode: &Path) -> std::io::Result<()> {
    from.set_read_timeout(Some(Duration::from_millis(500)))?;
    to.set_nodelay(true)?;
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return Ok(());
            }
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut left = &buffer[..length];
        while !left.is_empty() {
            match Mode::read(mode) {
                Mode::Pass | Mode::Late => {
                    to.write_all(left)?;
                    left = &[];
                }
                // Kept, as by a middle box that forgot the connection; a peer that gave up is noticed.
                Mode::HalfOpen => {
                    thread::sleep(TICK);
                    if is_closed(&from) {
                        return Ok(());
                    }
                }
                Mode::Trickle => {
                    to.write_all(&left[..1])?;
                    left = &left[1..];
                    thread::sleep(Duration::from_secs(1));
                    if is_closed(&from) {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn is_closed(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let closed = match stream.peek(&mut [0; 1]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).is_err() || closed
}

/// Inside a namespace: answers whatever comes with as many bytes that mean nothing.
///
/// # Errors
/// The address cannot be bound, or the end.
pub fn garbage(listen: SocketAddr, interrupt: &Interrupt) -> Result<()> {
    let udp = UdpSocket::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    let tcp = TcpListener::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    tcp.set_nonblocking(true)?;
    udp.set_read_timeout(Some(TICK))?;
    println!("garbage on {listen}");
    // Any seed that is not zero: what comes out has to look like nothing, and like itself the next time.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut noise = |bytes: &mut [u8]| {
        for byte in bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state.to_le_bytes()[0];
        }
    };
    let mut buffer = [0; 2048];
    loop {
        interrupt.check()?;
        if let Ok((length, from)) = udp.recv_from(&mut buffer) {
            noise(&mut buffer[..length]);
            let _ = udp.send_to(&buffer[..length], from);
        }
        if let Ok((mut stream, _)) = tcp.accept() {
            let mut bytes = [0; 512];
            noise(&mut bytes);
            let _ = stream.write_all(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    /// A proxy in this process before an echo, and its mode's file.
    fn proxied() -> (SocketAddr, tempfile::TempDir, PathBuf) {
        let echo = TcpListener::bind("127.0.0.1:0").expect("binds");
        let to = echo.local_addr().expect("bound");
        thread::spawn(move || {
            for mut stream in echo.incoming().flatten() {
                thread::spawn(move || {
                    let mut buffer = [0; 64];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..length]);
                    }
                });
            }
        });
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("mode");
        let front = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = front.local_addr().expect("bound");
        let mode = file.clone();
        thread::spawn(move || {
            for stream in front.incoming().flatten() {
                let mode = mode.clone();
                thread::spawn(move || carry(&stream, to, &mode));
            }
        });
        (address, directory, file)
    }

    fn asked(stream: &mut TcpStream, within: Duration) -> usize {
        stream.set_read_timeout(Some(within)).expect("a timeout");
        stream.write_all(b"tide").expect("written");
        let mut buffer = [0; 4];
        stream.read(&mut buffer).unwrap_or(0)
    }

    #[test]
    fn a_connection_that_stood_goes_silent_and_comes_back_with_what_it_had_kept() {
        let (address, _directory, file) = proxied();
        let mut stream = TcpStream::connect(address).expect("connects");
        assert_eq!(asked(&mut stream, Duration::from_secs(5)), 4);
        fs::write(&file, "half-open").expect("written");
        assert_eq!(asked(&mut stream, Duration::from_millis(300)), 0);
        fs::write(&file, "pass").expect("written");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        assert_eq!(stream.read(&mut [0; 4]).expect("the kept bytes"), 4);
    }

    #[test]
    fn bytes_trickle_and_late_connections_are_late() {
        let (address, _directory, file) = proxied();
        fs::write(&file, "trickle").expect("written");
        let mut stream = TcpStream::connect(address).expect("connects");
        assert_eq!(asked(&mut stream, Duration::from_secs(5)), 1);
        fs::write(&file, "late").expect("written");
        let began = Instant::now();
        let mut stream = TcpStream::connect(address).expect("connects");
        assert_eq!(asked(&mut stream, Duration::from_secs(9)), 4);
        assert!(began.elapsed() >= LATE);
    }
}
