//! The running client: its state directory, its sockets, and the tasks between them.

mod disk;
mod driver;
mod names;
mod tun;
mod view;

#[cfg(test)]
mod tests;

pub use disk::load as stored_state;
pub use driver::Dialler;
pub use tun::MachineSide;

use crate::{
    control::{self, Forward, Listen, LocalAnswer, LocalRequest, ProxyStatus},
    core::{ClientNode, NodeParts, Unstartable},
    proxy::{Admission, Credential, ProxyLimits, serve_forward, serve_forward_unix, serve_tcp, serve_unix},
    target::Target,
};
use driver::{COMMAND_QUEUE, Command, Driver, clock, wall_clock};
use net::{BindError, UdpPort};
use state::{StateDir, StateError};
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinHandle, JoinSet},
};
use trust::Role;
use tunnel::WireGuardPrivateKey;

/// The control socket's name in the run directory.
pub(crate) const CONTROL_SOCKET: &str = "client.sock";
const PROXY_SOCKET: &str = "proxy.sock";
const PROXY_URL: &str = "proxy-url";
/// Forwarded ports of one client.
const MAX_FORWARDS: usize = 64;

/// How a client runs.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The state directory that enrolment wrote.
    pub state: PathBuf,
    /// Where sockets and the proxy's URL are; made with access for its owner only.
    pub run_dir: PathBuf,
    /// Where the proxy listens; a loopback address. Port 0 takes a free one.
    pub proxy: SocketAddr,
    /// Ports forwarded from the start.
    pub forwards: Vec<(SocketAddr, Target)>,
    /// How routers may be asked for a mapping of the UDP port, where there is a NAT.
    pub port_mapping: portmap::Protocols,
}

/// The client did not start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// What is in it.
    #[error("the state directory {}: {source}", path.display())]
    Start {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        source: Box<Unstartable>,
    },
    /// The UDP socket.
    #[error(transparent)]
    Udp(#[from] BindError),
    /// A port of this machine.
    #[error("cannot listen on {address}: {source}{}", net::bind_hint(source))]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The proxy would be open to the network.
    #[error(
        "expected a loopback address such as 127.0.0.1:1080, got {0}: other machines could reach this one"
    )]
    NotLoopback(SocketAddr),
    /// The run directory.
    #[error("{}: {source}", path.display())]
    RunDir {
        /// Where.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
    /// Another client serves this run directory.
    #[error("another client is running ({} answers); end it with `tidegate down`", .0.display())]
    Running(PathBuf),
    /// The guardian's sockets.
    #[error(transparent)]
    Machine(#[from] machine::LinkError),
    /// Too many forwards.
    #[error("at most {MAX_FORWARDS} ports can be forwarded")]
    TooManyForwards,
    /// Nothing is forwarded there.
    #[error("nothing is forwarded from {0}")]
    NoForward(Listen),
    /// A forward's socket.
    #[error("cannot make the socket {}: {source}; it must be new, in a directory that you may write", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What the control socket's requests reach.
pub(crate) struct Hub {
    dialler: Dialler,
    limits: ProxyLimits,
    forwards: Mutex<BTreeMap<Listen, (Target, AbortHandle)>>,
    /// Who may connect to Unix sockets.
    uid: u32,
    stop: watch::Sender<bool>,
}

/// A client with its sockets bound and its tasks running.
pub struct Client {
    /// Held until the last file is gone: who starts next finds the directory free only then, so that two
    /// clients never meet at one socket.
    state: Arc<StateDir>,
    hub: Arc<Hub>,
    proxy: ProxyStatus,
    control: PathBuf,
    driver: JoinHandle<()>,
    writer: JoinHandle<()>,
    servers: JoinSet<()>,
    stopped: watch::Receiver<bool>,
    applied: Option<tun::AppliedWatch>,
}

impl Client {
    /// Starts from the state directory: no PoP and no controller is needed for it. Everything that can be
    /// wrong here is said before anything runs.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start(options: ClientOptions) -> Result<Self, ClientError> {
        Self::start_with(options, MachineSide::Proxy).await
    }

    /// The same with an interface of the machine, if there is one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn start_with(options: ClientOptions, machine: MachineSide) -> Result<Self, ClientError> {
        if !options.proxy.ip().is_loopback() {
            return Err(ClientError::NotLoopback(options.proxy));
        }
        let state = Arc::new(StateDir::open(&options.state, Role::Device)?);
        let (now, wall) = (clock(), wall_clock());
        let parts = NodeParts {
            state: disk::load(&state, wall)?,
            wireguard_key: WireGuardPrivateKey::from_bytes(random()),
            seed: random(),
        };
        let node = ClientNode::new(parts, now, wall)
            .map_err(|source| ClientError::Start { path: options.state.clone(), source: Box::new(source) })?;
        let port = bind_udp()?;

        make_run_dir(&options.run_dir)?;
        let control = options.run_dir.join(CONTROL_SOCKET);
        let control_listener = bind_unix(&control).await?;
        let uid =
            own_uid().map_err(|source| ClientError::RunDir { path: options.run_dir.clone(), source })?;
        let socket = options.run_dir.join(PROXY_SOCKET);
        let proxy_listener = bind_unix(&socket).await?;
        let tcp = listen(options.proxy).await?;
        let address =
            tcp.local_addr().map_err(|source| ClientError::Listen { address: options.proxy, source })?;
        let credential = Credential::from_random(random());
        let url_file = options.run_dir.join(PROXY_URL);
        credential
            .write_proxy_url(&url_file, address)
            .map_err(|source| ClientError::RunDir { path: url_file.clone(), source })?;
        let proxy = ProxyStatus { address, url_file, socket };

        let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
        let (signals, signal_queue) = mpsc::unbounded_channel();
        let (documents, document_queue) = disk::documents();
        let (stop, stopped) = watch::channel(false);
        let mut servers = JoinSet::new();
        let (machine, applied) = tun::Side::open(machine, &node, random(), &stop, &mut servers).await?;
        let driver = Driver {
            node,
            port,
            tls: net::StreamLinks::new(),
            keeper: portmap::Keeper::new(options.port_mapping, random()),
            proxy: proxy.clone(),
            machine,
            documents,
            own_commands: commands.downgrade(),
            signals,
            dials: BTreeMap::new(),
            streams: BTreeMap::new(),
            pings: BTreeMap::new(),
            questions: BTreeMap::new(),
            waiting: Vec::new(),
        };
        let writer = tokio::spawn(disk::write_all(state.clone(), document_queue));
        let driver = tokio::spawn(driver.run(command_queue, signal_queue, stopped.clone()));
        let dialler = Dialler { commands };
        let limits = ProxyLimits::default();
        let hub = Arc::new(Hub {
            dialler: dialler.clone(),
            limits: limits.clone(),
            forwards: Mutex::new(BTreeMap::new()),
            uid,
            stop,
        });
        servers.spawn(control::serve(control_listener, uid, hub.clone()));
        servers.spawn(serve_tcp(tcp, Admission::Password(credential), dialler.clone(), limits.clone()));
        servers.spawn(serve_unix(proxy_listener, uid, dialler, limits));
        let client = Self { state, hub, proxy, control, driver, writer, servers, stopped, applied };
        for (listen, target) in options.forwards {
            client.hub.forward(Listen::Tcp(listen), target).await?;
        }
        Ok(client)
    }

    /// Starts, then runs until `shutdown` or `tidegate down`.
    ///
    /// # Errors
    /// [`ClientError`]; nothing fails once it runs.
    pub async fn run(options: ClientOptions, shutdown: impl Future<Output = ()>) -> Result<(), ClientError> {
        Self::start(options).await?.wait(shutdown).await;
        Ok(())
    }

    /// Where the proxies listen.
    #[must_use]
    pub const fn proxy(&self) -> &ProxyStatus {
        &self.proxy
    }

    /// The control socket.
    #[must_use]
    pub fn control_socket(&self) -> &Path {
        &self.control
    }

    /// Resolves when the machine's routes and resolver are set up; at once where there is no interface. `false` when
    /// the guardian is gone.
    pub async fn machine_is_ready(&self) -> bool {
        match self.applied.clone() {
            Some(mut applied) => applied.wait_for(Option::is_some).await.is_ok(),
            None => true,
        }
    }

    /// Makes connections without a proxy, for callers in this process.
    #[must_use]
    pub fn dialler(&self) -> Dialler {
        self.hub.dialler.clone()
    }

    /// Runs until `shutdown` or `tidegate down`, then says goodbye, writes what is to be written and removes
    /// the sockets.
    pub async fn wait(mut self, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            _ = self.stopped.changed() => {
                // The answer to `down` is on its way.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        }
        self.hub.stop.send_replace(true);
        let _ = (&mut self.driver).await;
        // The driver held the sender: the writer ends when everything is on disk.
        let _ = (&mut self.writer).await;
        self.hub.stop_forwards();
        self.servers.shutdown().await;
        for path in [&self.control, &self.proxy.socket, &self.proxy.url_file] {
            let _ = std::fs::remove_file(path);
        }
        drop(self.state);
    }
}

impl Hub {
    pub(crate) async fn answer(&self, request: LocalRequest) -> LocalAnswer {
        let ended = || LocalAnswer::Ending;
        let failed = |error: ClientError| LocalAnswer::Error { message: error.to_string() };
        match request {
            LocalRequest::Status => match self.ask(Command::Status).await {
                Some(mut status) => {
                    status.forwards = self.forwards();
                    LocalAnswer::Status(Box::new(status))
                }
                None => ended(),
            },
            LocalRequest::Resources => match self.ask(Command::Resources).await {
                Some(resources) => LocalAnswer::Resources { resources },
                None => ended(),
            },
            LocalRequest::Why { resource } => {
                match self.ask(|reply| Command::Why { asked: resource, reply }).await {
                    Some(why) => LocalAnswer::Why(why),
                    None => ended(),
                }
            }
            LocalRequest::Ping { resource } => {
                let Ok(host) = resource.trim().parse() else {
                    let message = format!(
                        "expected the name, alias or address of a resource, got {resource:?}; `tidegate resources` lists them"
                    );
                    return LocalAnswer::Error { message };
                };
                match self.ask(|reply| Command::Ping { host, reply }).await {
                    Some(answer) => LocalAnswer::Ping(answer),
                    None => ended(),
                }
            }
            LocalRequest::Netcheck => match self.ask(Command::Netcheck).await {
                Some(answer) => LocalAnswer::Netcheck(Box::new(answer)),
                None => ended(),
            },
            LocalRequest::ForwardAdd { listen, target } => match self.forward(listen, target).await {
                Ok(()) => LocalAnswer::Forwards { forwards: self.forwards() },
                Err(error) => failed(error),
            },
            LocalRequest::ForwardRemove { listen } => match self.unforward(&listen) {
                Ok(()) => LocalAnswer::Forwards { forwards: self.forwards() },
                Err(error) => failed(error),
            },
            LocalRequest::ForwardList => LocalAnswer::Forwards { forwards: self.forwards() },
            LocalRequest::Renew => match self.dialler.commands.send(Command::Renew).await {
                Ok(()) => LocalAnswer::Done,
                Err(_) => ended(),
            },
            LocalRequest::Down => {
                self.stop.send_replace(true);
                LocalAnswer::Done
            }
        }
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.dialler.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    async fn forward(&self, listen_on: Listen, target: Target) -> Result<(), ClientError> {
        if self.table().len() >= MAX_FORWARDS {
            return Err(ClientError::TooManyForwards);
        }
        let (dialler, limits) = (self.dialler.clone(), self.limits.clone());
        let (listen_on, task) = match listen_on {
            Listen::Tcp(address) if !address.ip().is_loopback() => {
                return Err(ClientError::NotLoopback(address));
            }
            Listen::Tcp(address) => {
                let listener = listen(address).await?;
                let bound =
                    listener.local_addr().map_err(|source| ClientError::Listen { address, source })?;
                let serve = serve_forward(listener, target.clone(), dialler, limits);
                (Listen::Tcp(bound), tokio::spawn(serve))
            }
            Listen::Unix(path) => {
                let listener = bind_new_unix(&path)?;
                let serve = serve_forward_unix(listener, self.uid, target.clone(), dialler, limits);
                (Listen::Unix(path), tokio::spawn(serve))
            }
        };
        self.table().insert(listen_on, (target, task.abort_handle()));
        Ok(())
    }

    fn unforward(&self, listen: &Listen) -> Result<(), ClientError> {
        let (_, task) = self.table().remove(listen).ok_or_else(|| ClientError::NoForward(listen.clone()))?;
        end_forward(listen, &task);
        Ok(())
    }

    fn stop_forwards(&self) {
        for (listen, (_, task)) in std::mem::take(&mut *self.table()) {
            end_forward(&listen, &task);
        }
    }

    fn forwards(&self) -> Vec<Forward> {
        self.table()
            .iter()
            .map(|(listen, (target, _))| Forward { listen: listen.clone(), target: target.clone() })
            .collect()
    }

    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<Listen, (Target, AbortHandle)>> {
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random source works");
    bytes
}

/// One socket for both families; IPv4 alone where the machine has no IPv6.
fn bind_udp() -> Result<UdpPort, BindError> {
    UdpPort::bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0))
        .or_else(|_| UdpPort::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ClientError> {
    TcpListener::bind(address).await.map_err(|source| ClientError::Listen { address, source })
}

fn make_run_dir(path: &Path) -> Result<(), ClientError> {
    let error = |source| ClientError::RunDir { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(error)
}

/// Binds a socket that only its owner can open. One that a dead client left is replaced; one that answers is
/// not.
async fn bind_unix(path: &Path) -> Result<UnixListener, ClientError> {
    let error = |source| ClientError::RunDir { path: path.to_owned(), source };
    if UnixStream::connect(path).await.is_ok() {
        return Err(ClientError::Running(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(error(source)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(error)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(error)?;
    Ok(listener)
}

fn end_forward(listen: &Listen, task: &AbortHandle) {
    task.abort();
    if let Listen::Unix(path) = listen {
        let _ = std::fs::remove_file(path);
    }
}

/// Binds a socket for a forward where nothing is yet: a path that somebody names is nobody's to replace. It is made
/// under another name in the same directory, closed to others, and only then shown under its own.
fn bind_new_unix(path: &Path) -> Result<UnixListener, ClientError> {
    let error = |source| ClientError::Socket { path: path.to_owned(), source };
    let nonce = u64::from_be_bytes(random());
    let hidden = path.with_file_name(format!(".tidegate-{nonce:016x}"));
    let bind = || {
        let listener = UnixListener::bind(&hidden)?;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
        // Fails where something is already, which a rename would replace.
        std::fs::hard_link(&hidden, path)?;
        Ok(listener)
    };
    let bound = bind();
    let _ = std::fs::remove_file(&hidden);
    bound.map_err(error)
}

/// This process's user, as a peer of a Unix socket sees it.
fn own_uid() -> io::Result<u32> {
    let (here, _there) = UnixStream::pair()?;
    Ok(here.peer_cred()?.uid())
}
