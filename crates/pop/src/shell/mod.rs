//! The shell: sockets, threads, clocks and files around the cores. It moves values and decides
//! nothing.
//!
//! Three threads: the session loop and the relay, each with a runtime of its own, so that a flood of one does not
//! starve the other and no packet wakes two threads, and the disk. The TCP front, where there is one,
//! has a fourth.

mod disk;
mod front;
mod places;
mod relay_loop;
mod session_loop;
mod status;
mod streams;
#[cfg(test)]
mod tests;

pub use front::{FrontCounters, TcpFrontOptions};
pub use session_loop::ShellCounters;
pub use status::{PopStatus, STATUS_SOCKET};
pub use streams::StreamSnapshot;

use crate::core::{
    Seed,
    admission::Intake,
    relay::{MAX_CHANNELS, Relay, RelayLimits},
    sessions::{MaterialError, Sessions},
};
use net::{BindError, PortPair};
use session::AcceptorLimits;
use state::StateError;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use trust::UnixMs;

/// Relay commands that wait for the relay thread; the session loop waits behind them.
const COMMANDS: usize = 4_096;
/// Foreign segments that wait for the other loop, at most 64 kB each in theory and 1.5 kB on any
/// real path: 1.5 MB. More are dropped, as a full socket buffer would.
const FOREIGN: usize = 1_024;
/// Questions for status that wait.
const STATUS_QUESTIONS: usize = 16;

/// How to run a PoP.
#[derive(Debug, Clone)]
pub struct PopOptions {
    /// The directory that enrolment wrote.
    pub state_dir: PathBuf,
    /// The UDP address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The TCP port.
    pub tcp_front: Option<TcpFrontOptions>,
    /// How many sessions.
    pub sessions: AcceptorLimits,
    /// What the relay allows.
    pub relay: RelayLimits,
}

impl PopOptions {
    /// The defaults around a state directory and an address.
    #[must_use]
    pub fn new(state_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            state_dir,
            listen,
            tcp_front: None,
            sessions: AcceptorLimits::default(),
            relay: RelayLimits::default(),
        }
    }
}

/// Opens the sockets of both protocols.
fn bind(
    listen: SocketAddr,
    front: Option<TcpFrontOptions>,
) -> Result<(PortPair, Option<front::Front>), PopError> {
    /// Where any port will do, it has to be free for both: the system knows of one protocol at a time.
    const TRIES: usize = 16;
    let mut tries = if listen.port() == 0 { TRIES } else { 1 };
    loop {
        let ports = net::bind_pair(listen)?;
        let Some(mut wanted) = front.clone() else { return Ok((ports, None)) };
        // Agents look for it under the number of the UDP port.
        let follows = wanted.listen.port() == 0 && wanted.console.is_none();
        if follows {
            wanted.listen.set_port(ports.session.local_addr().port());
        }
        tries -= 1;
        match front::Front::bind(wanted) {
            Ok(front) => return Ok((ports, Some(front))),
            Err(PopError::Tcp { source, .. })
                if follows && tries > 0 && source.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

/// Why a PoP does not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum PopError {
    /// The UDP port.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// The TCP port of the front.
    #[error("cannot listen on TCP {address}: {source}{}", net::bind_hint(source))]
    Tcp {
        /// The address wanted.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The certificate and key for the TCP port.
    #[error("the PoP's certificate and key cannot be used for TLS; enrol it again")]
    Tls(#[source] rustls::Error),
    /// What it starts from.
    #[error(transparent)]
    Material(#[from] MaterialError),
    /// The status socket.
    #[error(
        "cannot open the status socket {path:?}; is the state directory writable, and its path below 90 characters?"
    )]
    Status {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A thread or runtime.
    #[error("the system gives no thread or runtime")]
    Thread(#[source] io::Error),
    /// The operating system's random source.
    #[error("the operating system's random source does not work")]
    Random,
    /// A socket that worked stopped working.
    #[error("the UDP socket failed")]
    Socket(#[source] io::Error),
}

/// A PoP whose ports are open and whose threads have not begun.
pub struct Pop {
    ports: PortPair,
    front: Option<front::Front>,
    acceptor: tokio_rustls::TlsAcceptor,
    identity: Arc<streams::TlsIdentity>,
    status: status::StatusSocket,
    sessions: Sessions,
    intake: Intake,
    relay: Relay,
    disk: disk::Disk,
    started: Instant,
}

impl std::fmt::Debug for Pop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pop(UDP {}, TCP {:?})", self.local_addr(), self.tcp_addr())
    }
}

impl Pop {
    /// Opens the state directory that enrolment wrote, and the ports. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Says which file or port, and what to do.
    pub fn open(options: PopOptions) -> Result<Self, PopError> {
        let (now, wall) = (now(), wall());
        let disk = disk::Disk::open(&options.state_dir)?;
        let material = disk.material(wall)?;
        let seed = random_seed()?;
        let channels = options.relay.channels.min(MAX_CHANNELS);
        let (acceptor, identity) =
            streams::acceptor(&material.certificate, &material.key).map_err(PopError::Tls)?;
        let mut sessions = Sessions::new(material, options.sessions, channels, now, wall, &seed)?;
        // The older first: of the two, the newer one that is believed stays.
        for slice in disk.slices().iter().rev() {
            sessions.restore_slice(slice);
        }
        let intake = Intake::new(&seed, now);
        let relay = Relay::new(options.relay, now, &seed);
        let (ports, front) = bind(options.listen, options.tcp_front)?;
        let status = status::StatusSocket::bind(&options.state_dir)?;
        Ok(Self { ports, front, acceptor, identity, status, sessions, intake, relay, disk, started: now })
    }

    /// The UDP address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.ports.session.local_addr()
    }

    /// The TCP address of the front.
    #[must_use]
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.front.as_ref().map(front::Front::local_addr)
    }

    /// Serves until `shutdown` is done, then tells every session to go elsewhere.
    ///
    /// # Errors
    /// A socket or thread failed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), PopError> {
        self.run_until_left(std::future::pending(), Duration::ZERO, shutdown).await
    }

    /// Serves until `leave` is done, then asks every agent to go to its next PoP, and ends when all have gone, `within`
    /// this time, or when `shutdown` is done: that one ends it at once.
    ///
    /// # Errors
    /// A socket or thread failed.
    pub async fn run_until_left(
        self,
        leave: impl Future<Output = ()>,
        within: Duration,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), PopError> {
        let Self { ports, front, acceptor, identity, status, sessions, intake, relay, disk, started } = self;
        let streams = streams::Streams::new(identity);
        let (command_sender, commands) = mpsc::channel(COMMANDS);
        // Each channel ends once and is counted by the session core until it has heard of it: never
        // more than there are channels. What is told besides has room of its own.
        let (told_sender, told) = mpsc::channel(MAX_CHANNELS + relay_loop::MOST_MOVES);
        let (to_sessions, from_relay) = mpsc::channel(FOREIGN);
        let (to_relay, from_sessions) = mpsc::channel(FOREIGN);
        let (question_sender, questions) = mpsc::channel(STATUS_QUESTIONS);
        let disk::Writer { jobs, written, thread: disk_thread } = disk.start().map_err(PopError::Thread)?;
        let relay_thread = relay_loop::start(
            relay,
            ports.relay,
            relay_loop::Channels {
                commands,
                told: told_sender,
                foreign: from_sessions,
                to_sessions: to_sessions.clone(),
                streams: streams.clone(),
            },
        )
        .map_err(PopError::Thread)?;
        let front_counters = match front {
            Some(front) => {
                let side = streams::StreamSide::new(acceptor, streams.clone(), to_sessions, to_relay.clone());
                Some(front.start(side).map_err(PopError::Thread)?)
            }
            None => None,
        };
        let status_task = tokio::spawn(status.serve(question_sender));
        let session_loop = session_loop::SessionLoop {
            sessions,
            intake,
            port: ports.session,
            commands: command_sender,
            told,
            foreign: from_relay,
            to_relay,
            jobs,
            written,
            questions,
            front: front_counters,
            streams,
            started,
        };
        let session_loop::Running { asked, mut ended, thread: session_thread } =
            session_loop.start(within).map_err(PopError::Thread)?;
        let (mut leave, mut shutdown) = (pin!(leave), pin!(shutdown));
        let session_loop::Asked { leave: to_leave, stop: to_stop } = asked;
        let (mut to_leave, mut to_stop) = (Some(to_leave), Some(to_stop));
        let result = loop {
            tokio::select! {
                ended = &mut ended => {
                    break ended.unwrap_or_else(|_| Err(PopError::Socket(io::Error::other("the session loop has ended"))));
                }
                () = &mut leave, if to_leave.is_some() => drop(to_leave.take().map(|sender| sender.send(()))),
                () = &mut shutdown, if to_stop.is_some() => drop(to_stop.take().map(|sender| sender.send(()))),
            }
        };
        status_task.abort();
        // All end when the session loop has dropped its ends of the queues; who starts again in this
        // state directory and on this port then finds both free, and everything written.
        let joined = tokio::task::spawn_blocking(move || {
            let _ = session_thread.join();
            let _ = relay_thread.join();
            let _ = disk_thread.join();
        });
        let _ = joined.await;
        result
    }
}

/// A datagram that one loop received for the other.
#[derive(Debug)]
pub(crate) struct Foreign {
    pub(crate) source: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

fn random_seed() -> Result<Seed, PopError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PopError::Random)?;
    Ok(Seed::from_random(bytes))
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clocks for the cores")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

pub(crate) fn wall() -> UnixMs {
    UnixMs::from_millis(net::clock::wall_millis())
}
