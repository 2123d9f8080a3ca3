//! The shell: one UDP socket, the connections into the site, timers, two threads for the disk. It moves values
//! and decides nothing.

use crate::core::{ConnectorCore, NotAConnector, Parts};
use crate::disk::{Disk, DiskWriter};
pub use crate::forward::kernel::Forwarding;
use crate::forward::kernel::Kernel;
use crate::forward::userspace::{SiteEvent, Userspace};
use crate::log::{Batch, FlowLog};
use crate::node::{Node, Output};
use crate::status::{ConnectorStatus, PathCounts, PopReport, ResourceReport, StatusSocket, StrictState};
use agent::{ConnectorAgent, PopPhaseWord};
use flow::FlowLimits;
use machine::PacketBatch;
use net::{BindError, Interfaces, NetworkWatch, RecvBatch, SendBatch, StreamLinks, StreamTarget, UdpPort};
use policy::Mode;
use portmap::{Family, Keeper, Protocols};
use state::StateError;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::lookup_host;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};
use trust::UnixMs;
use tunnel::{LocalAddress, Path};
use wire::PopId;

/// Where flow records wait, in the state directory.
const SPOOL: &str = "flows";
/// How often the cores are told the wall clock.
const WALL_TICK: Duration = Duration::from_secs(1);
/// Datagrams of one system call's batch, and of one turn of sending.
const SEND_BURST: usize = 256;
/// Site events taken in one turn.
const SITE_BURST: usize = 128;
/// How long a PoP's name may take to resolve; the agent gives up after 5 s by itself.
const POP_LOOKUP: Duration = Duration::from_secs(5);
/// Look-ups of PoPs under way: the agent asks once a PoP.
const POP_LOOKUPS: usize = 256;
/// Questions for status that wait.
const STATUS_QUESTIONS: usize = 16;

/// How to run a connector.
#[derive(Debug, Clone)]
pub struct ConnectorOptions {
    /// The directory that enrolment wrote.
    pub state_dir: PathBuf,
    /// The UDP address to send from; `None` takes any port, both families where there are two.
    pub listen: Option<SocketAddr>,
    /// Where else this process listens: nothing that a name or a range leads to.
    pub own_listeners: Vec<SocketAddr>,
    /// Bounds of the flows.
    pub limits: FlowLimits,
    /// How routers may be asked for a mapping of the UDP port, where there is a NAT.
    pub port_mapping: Protocols,
}

impl ConnectorOptions {
    /// The defaults around a state directory.
    #[must_use]
    pub const fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            listen: None,
            own_listeners: Vec::new(),
            limits: FlowLimits::CONNECTOR,
            port_mapping: Protocols::ALL,
        }
    }
}

/// Why a connector does not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The UDP port.
    #[error("{0}. Choose another address with --listen, or leave it out")]
    Udp(#[from] BindError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// What is in it.
    #[error(transparent)]
    Start(#[from] agent::StartError),
    /// It is not a connector's.
    #[error(transparent)]
    NotAConnector(#[from] NotAConnector),
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
    /// The flow log.
    #[error("cannot keep flow records in {path:?}; is the state directory writable?")]
    FlowLog {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread.
    #[error("the system gives no thread")]
    Thread(#[source] io::Error),
    /// The operating system's random source.
    #[error("the operating system's random source does not work")]
    Random,
    /// The socket stopped working.
    #[error("the UDP socket failed")]
    Socket(#[source] io::Error),
    /// The interface of kernel mode did, or its guardian ended.
    #[error("the interface into the site failed: {0}")]
    Interface(#[source] io::Error),
}

/// A connector that has read its state and opened its socket, and has not begun.
pub struct Connector {
    node: Node,
    port: UdpPort,
    keeper: Keeper,
    status: StatusSocket,
    disk: Disk,
    spool: PathBuf,
    started: Instant,
    forwarding: Forwarding,
}

impl Connector {
    /// Opens the state directory that enrolment wrote and a UDP socket. Needs no controller and no PoP.
    /// Call it inside a tokio runtime.
    ///
    /// # Errors
    /// Says which file or port, and what to do.
    pub fn open(options: ConnectorOptions) -> Result<Self, ConnectorError> {
        Self::open_forwarding(options, Forwarding::Userspace { reason: None })
    }

    /// As [`Self::open`], for a connector that may have an interface into its site.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_forwarding(
        options: ConnectorOptions,
        forwarding: Forwarding,
    ) -> Result<Self, ConnectorError> {
        let (now, wall) = (now(), wall());
        let disk = Disk::open(&options.state_dir)?;
        let material = disk.material(wall)?;
        let mut seed = [0; 32];
        aws_lc_rs::rand::fill(&mut seed).map_err(|_| ConnectorError::Random)?;
        let agent = ConnectorAgent::new(material.stored, now, wall, seed)?;
        let parts = Parts {
            identity: agent.identity(),
            open_key: material.open_key,
            wireguard_key: material.wireguard_key,
            // Its own are a Unix socket, and UDP, which the core learns with the machine's addresses.
            own_listeners: options.own_listeners,
            limits: options.limits,
            site: forwarding.side(),
        };
        let mapper_seed = trust::sha256(&[b"tidegate/connector-port-mapping/1", &seed]);
        let core_seed = trust::sha256(&[b"tidegate/connector-seed/1", &seed]);
        let core_seed = u64::from_be_bytes(*core_seed.first_chunk().expect("32 bytes hold 8"));
        let core = ConnectorCore::new(parts, core_seed, now, wall)?;
        let port = bind(options.listen)?;
        let status = StatusSocket::bind(disk.path())
            .map_err(|(path, source)| ConnectorError::Status { path, source })?;
        let spool = disk.path().join(SPOOL);
        let keeper = Keeper::new(options.port_mapping, mapper_seed);
        let node = Node::new(agent, core, now);
        Ok(Self { node, port, keeper, status, disk, spool, started: now, forwarding })
    }

    /// The UDP address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.port.local_addr()
    }

    /// Runs until `shutdown` is done, then resets the flows, says goodbye and writes what is to be kept.
    ///
    /// # Errors
    /// A socket or thread failed.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ConnectorError> {
        let Self { node, port, keeper, status, disk, spool, started, forwarding } = self;
        let (log, batches, log_thread) = FlowLog::start(spool.clone())
            .map_err(|source| ConnectorError::FlowLog { path: spool, source })?;
        let (disk, disk_thread) = disk.start().map_err(ConnectorError::Thread)?;
        let (question_sender, questions) = mpsc::channel(STATUS_QUESTIONS);
        let status_task = tokio::spawn(status.serve(question_sender));
        let (userspace, site) = Userspace::new();
        let (pop_sender, pops) = mpsc::channel(POP_LOOKUPS);
        let mut shell = Shell {
            node,
            port,
            streams: StreamLinks::new(),
            keeper,
            userspace,
            kernel: Kernel::new(forwarding),
            log,
            disk,
            pop_sender,
            started,
            slept: net::clock::asleep(),
            batch: SendBatch::new(),
        };
        let result = Box::pin(shell.serve(Sources { site, pops, batches, questions }, shutdown)).await;
        // Its socket is gone before the directory is free, so that it never takes a successor's away.
        status_task.abort();
        let _ = status_task.await;
        // Both threads write what is queued and end.
        let keeper = shell.keeper;
        drop((shell.log, shell.disk));
        keeper.shutdown().await;
        join(log_thread).await;
        join(disk_thread).await;
        result
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Connector({} on {})", self.node.agent().identity(), self.local_addr())
    }
}

async fn join(thread: JoinHandle<()>) {
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
}

/// Both families on one socket where the machine has two.
fn bind(listen: Option<SocketAddr>) -> Result<UdpPort, BindError> {
    match listen {
        Some(address) => UdpPort::bind(address),
        None => UdpPort::bind((Ipv6Addr::UNSPECIFIED, 0).into())
            .or_else(|_| UdpPort::bind((Ipv4Addr::UNSPECIFIED, 0).into())),
    }
}

/// The families of gateways that can map a socket's port.
const fn families(local: SocketAddr) -> &'static [Family] {
    match local {
        SocketAddr::V4(_) => &[Family::Ipv4],
        SocketAddr::V6(_) => &[Family::Ipv4, Family::Ipv6],
    }
}

/// Where things come from, apart from the network.
struct Sources {
    site: mpsc::Receiver<SiteEvent>,
    pops: mpsc::Receiver<(PopId, Vec<SocketAddr>)>,
    batches: mpsc::Receiver<Batch>,
    questions: mpsc::Receiver<oneshot::Sender<ConnectorStatus>>,
}

struct Shell {
    node: Node,
    port: UdpPort,
    streams: StreamLinks,
    keeper: Keeper,
    userspace: Userspace,
    kernel: Kernel,
    log: FlowLog,
    disk: DiskWriter,
    pop_sender: mpsc::Sender<(PopId, Vec<SocketAddr>)>,
    started: Instant,
    slept: Duration,
    batch: SendBatch,
}

impl Shell {
    async fn serve(
        &mut self,
        mut sources: Sources,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ConnectorError> {
        let mut incoming = RecvBatch::for_agent();
        let mut packets = PacketBatch::new();
        let mut answers = Vec::new();
        let mut next_tick = self.started;
        let mut network = NetworkWatch::new();
        self.tell_local(network.known());
        tokio::pin!(shutdown);
        loop {
            if now() >= next_tick {
                if self.woke_up() {
                    tracing::info!("this machine was asleep");
                    self.node.resumed(now());
                }
                self.node.set_wall(now(), wall());
                if self.node.is_behind_nat() {
                    let at = self.port.local_addr();
                    self.keeper.begin(at.port(), families(at));
                }
                next_tick = now() + WALL_TICK;
            }
            let wake = self.drain(now()).await.min(next_tick);
            tokio::select! {
                received = self.port.recv_batch(&mut incoming) => {
                    received.map_err(ConnectorError::Socket)?;
                    // No packet comes from an address that stands for a stream.
                    let claims = incoming.iter().filter(|datagram| wire::is_stream_address(datagram.from));
                    self.streams.claimed(claims.count() as u64);
                    let datagrams = incoming
                        .iter()
                        .filter(|datagram| !wire::is_stream_address(datagram.from))
                        .map(|datagram| (datagram.from, datagram.payload));
                    self.node.handle_datagrams(now(), datagrams, &mut answers);
                    self.answer(&mut answers);
                }
                (from, datagram) = self.streams.recv() => {
                    let mut came = vec![(from, datagram)];
                    while came.len() < SEND_BURST && let Some(more) = self.streams.try_recv() {
                        came.push(more);
                    }
                    let datagrams = came.iter().map(|(from, datagram)| (*from, datagram.as_slice()));
                    self.node.handle_datagrams(now(), datagrams, &mut answers);
                    self.answer(&mut answers);
                }
                received = self.kernel.recv(&mut packets) => {
                    received.map_err(ConnectorError::Interface)?;
                    self.node.from_site(now(), packets.iter());
                }
                Some(event) = sources.site.recv() => {
                    self.site_event(now(), event);
                    for _ in 0..SITE_BURST {
                        let Ok(event) = sources.site.try_recv() else { break };
                        self.site_event(now(), event);
                    }
                }
                Some((pop, addresses)) = sources.pops.recv() => self.node.pop_resolved(now(), pop, addresses),
                Some(batch) = sources.batches.recv() => self.node.batch_read(now(), batch),
                Some(asker) = sources.questions.recv() => {
                    let _ = asker.send(self.status(now()));
                }
                mapped = self.keeper.changed() => self.node.set_mapped(now(), mapped),
                found = network.changed() => {
                    tracing::info!("this machine's network changed");
                    self.streams.reset();
                    self.keeper.network_changed();
                    self.node.network_changed(now());
                    self.tell_local(found);
                }
                () = sleep_until(net::clock::until(wake).into()) => self.node.handle_timeout(now()),
                () = &mut shutdown => break,
            }
        }
        self.node.shut_down(now());
        self.drain(now()).await;
        Ok(())
    }

    /// Whether the machine slept since this was asked last.
    fn woke_up(&mut self) -> bool {
        let slept = net::clock::asleep();
        std::mem::replace(&mut self.slept, slept) < slept
    }

    fn answer(&mut self, answers: &mut Vec<(SocketAddr, Vec<u8>)>) {
        for (to, payload) in answers.drain(..) {
            self.transmit(to, payload);
        }
    }

    fn transmit(&mut self, to: SocketAddr, payload: Vec<u8>) {
        if !wire::is_stream_address(to) {
            self.batch.push(to, &payload);
        } else if let Some((address, host)) = self.node.agent().stream_target(to) {
            self.streams.send(to, &StreamTarget { address, host }, payload);
        }
    }

    fn tell_local(&mut self, interfaces: &Interfaces) {
        self.node.core().set_own_addresses(interfaces.addresses.iter().map(|own| own.ip).collect());
        let at = self.port.local_addr();
        let local = interfaces.of_socket(at).map(|local| LocalAddress { ip: local.ip, prefix: local.prefix });
        self.node.set_local(now(), at.port(), local.collect());
    }

    /// Does everything the node wants, and says when it wants to be called again.
    async fn drain(&mut self, now: Instant) -> Instant {
        loop {
            let wake = self.node_outputs(now);
            self.kernel.flush();
            if !self.batch.is_empty() {
                let report = self.port.send_batch(&mut self.batch).await;
                if report.refused + report.too_long > 0 {
                    tracing::debug!(?report, "datagrams that the network did not take");
                }
            }
            if let Some(wake) = wake {
                return wake;
            }
        }
    }

    /// Until the node has nothing more (then when to come back), or enough to send.
    fn node_outputs(&mut self, now: Instant) -> Option<Instant> {
        while self.batch.len() < SEND_BURST {
            match self.node.poll_output(now) {
                Output::Transmit { to, payload } => self.transmit(to, payload),
                Output::Persist { what, bytes } => self.disk.persist(what, bytes),
                Output::ResolvePop { pop, name } => self.resolve_pop(pop, name),
                Output::Resolve { flow, host } => self.userspace.resolve(flow, host),
                Output::Dial { flow, addresses } => self.userspace.dial(flow, addresses),
                Output::Readable(flow) => self.userspace.client_to_target(self.node.core(), now, flow),
                Output::Writable(flow) => self.userspace.target_to_client(self.node.core(), now, flow),
                Output::Ended { flow, ending } => self.userspace.end(flow, ending),
                Output::Datagrams(request) => {
                    if let Some(news) = self.userspace.datagrams.handle(request) {
                        self.node.datagram_news(now, news);
                    }
                }
                Output::ResolvePassage { passage, host } => self.userspace.resolve_passage(passage, host),
                Output::ToSite(packet) => self.kernel.push(packet),
                Output::Record { record, wall } => self.log.append(record, wall),
                Output::ReadBatch => {
                    if !self.log.ask_next() {
                        self.node.batch_not_read(now);
                    }
                }
                Output::ForgetBatch(batch) => self.log.acknowledge(batch),
                Output::Timeout { at, reason } => {
                    tracing::trace!(reason, "waiting");
                    return Some(at);
                }
            }
        }
        None
    }

    fn site_event(&mut self, now: Instant, event: SiteEvent) {
        match event {
            SiteEvent::Resolved { flow, addresses } => self.node.resolved(now, flow, &addresses),
            SiteEvent::Overdue { flow } => self.node.look_up_overdue(now, flow),
            SiteEvent::PassageResolved { passage, addresses } => {
                self.node.passage_resolved(now, passage, &addresses);
            }
            SiteEvent::PassageOverdue { passage } => self.node.passage_overdue(now, passage),
            SiteEvent::Dialled { flow, result: Ok((address, stream)) } => {
                if self.node.dialled(now, flow, Ok(address)) {
                    self.userspace.open(flow, stream);
                }
            }
            SiteEvent::Dialled { flow, result: Err(fault) } => {
                self.node.dialled(now, flow, Err(fault));
            }
            SiteEvent::Datagrams { news, held: _held } => self.node.datagram_news(now, news),
            event => {
                let wall = self.node.wall(now);
                self.userspace.take_from_target(self.node.core(), now, wall, event);
            }
        }
    }

    fn resolve_pop(&self, pop: PopId, name: String) {
        let sender = self.pop_sender.clone();
        tokio::spawn(async move {
            let found = timeout(POP_LOOKUP, lookup_host(name)).await;
            let addresses = found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
            let _ = sender.send((pop, addresses)).await;
        });
    }

    fn status(&self, now: Instant) -> ConnectorStatus {
        let agent = self.node.agent();
        let slice = agent.slice();
        let pops: Vec<PopReport> = agent
            .pops()
            .map(|pop| PopReport {
                pop: pop.pop,
                phase: pop.phase.label().to_owned(),
                address: pop.address,
                observed: pop.observed,
                transport: pop
                    .transport
                    .filter(|_| pop.phase == PopPhaseWord::Registered)
                    .map(|transport| transport.label().to_owned()),
                failures: pop.failures,
            })
            .collect();
        let mut paths = PathCounts::default();
        for way in self.node.ways() {
            let is_by_tcp =
                |pop| pops.iter().any(|known| known.pop == pop && known.transport.as_deref() == Some("tcp"));
            match way {
                Path::Direct { .. } => paths.direct += 1,
                Path::Relay { pop, .. } if is_by_tcp(pop) => paths.tcp += 1,
                _ => paths.relay += 1,
            }
        }
        let registered = pops.iter().any(|pop| pop.transport.is_some());
        let (wall, certificate_until) = (agent.wall(now), agent.certificate().not_after());
        let is_closed = self.node.strict(now) != StrictState::Open;
        let mut resources: Vec<ResourceReport> = slice
            .iter()
            .flat_map(|slice| &slice.body.resources)
            .map(|resource| ResourceReport {
                id: resource.id,
                name: resource.name.clone(),
                mode: resource.mode,
                closed_by_isolation: is_closed && resource.mode == Mode::Strict,
            })
            .collect();
        resources.sort_by(|one, other| (&one.name, one.id).cmp(&(&other.name, other.id)));
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        ConnectorStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            identity: agent.identity(),
            site: slice.map(|slice| slice.body.site_name.clone()),
            slice: slice.map(|slice| slice.header.version.to_string()),
            slice_until: slice.map(|slice| slice.header.exp),
            ready: registered && slice.is_some_and(|slice| slice.header.exp > agent.wall(now)),
            control_plane: agent.freshness(now).label().to_owned(),
            control_last_heard_ms: agent.control_last_heard(now).map(millis),
            now: wall,
            access_until: slice.map_or(UnixMs::default(), |slice| slice.header.exp.min(certificate_until)),
            certificate_until,
            strict: self.node.strict(now),
            strict_closes_in_ms: self
                .node
                .strict_closes_at(now)
                .map(|at| millis(at.saturating_duration_since(now))),
            resources,
            struck: agent.revocations().len(),
            local: self.port.local_addr(),
            uptime_ms: millis(now.saturating_duration_since(self.started)),
            pops,
            access: self.node.core_status(),
            paths,
            traffic: self.node.traffic(),
            dropped: self.node.stats(),
            forwarding: self.kernel.report(),
            targets: self.userspace.len(),
            datagram_sockets: self.userspace.datagrams.len(),
            datagrams_unsent: self.userspace.datagrams.unsent(),
            streams: self.streams.totals(),
            flow_segments_waiting: self.log.waiting(),
            flow_records_dropped: self.log.dropped(),
            flow_batches_shipped: self.node.batches_shipped(),
        }
    }
}

fn now() -> Instant {
    net::clock::now()
}

fn wall() -> UnixMs {
    UnixMs::from_millis(net::clock::wall_millis())
}
