//! The task that moves a [`PortMapper`]'s packets: one UDP socket to ask from, one that hears announcements, and a TCP
//! connection per HTTP exchange.
#![expect(clippy::disallowed_methods, reason = "a shell reads the clock and gives it to its core")]

use crate::{
    Event, HttpFailure, HttpToken, Mapping, Network, Output, PortMapper, Protocols, http, pcp, route,
    ssdp::{self, MAX_ANSWER},
};
use std::{
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
    time::{sleep_until, timeout},
};

/// An HTTP exchange with a gateway on the same link takes no longer.
const HTTP_DEADLINE: Duration = Duration::from_secs(3);
/// Giving back takes no longer: UPnP's exchange and some.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(4);
/// The core has one exchange at a time, and one deletion.
const EXCHANGES: usize = 4;
/// Where RFC 6887, section 14.1.2 announces to IPv4 hosts.
const ALL_HOSTS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
/// And to those of IPv6.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Which gateway is asked: that of IPv4 or that of IPv6. Each has a task of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// NAT: PCP, NAT-PMP, UPnP.
    Ipv4,
    /// A firewall that needs opening: PCP.
    Ipv6,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Our UDP port.
    pub local_port: u16,
    /// At which gateway.
    pub family: Family,
    /// By what; [`Protocols::NONE`] asks nobody.
    pub protocols: Protocols,
    /// How often a gateway is asked whether it forgot, other than each ten minutes.
    pub check_every: Option<Duration>,
    /// Unpredictable: PCP's nonces come from it.
    pub seed: [u8; 32],
}

/// A running task.
#[derive(Debug)]
pub struct PortMap {
    /// The mapping that holds now.
    pub mapping: watch::Receiver<Option<Mapping>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl PortMap {
    /// Gives the mapping back, within four seconds. Dropping the value does the same without waiting for it.
    pub async fn shutdown(self) {
        let _ = self.stop.send(());
        // It ends by itself within its own deadline; a task that panicked has nothing to give back.
        let _ = self.task.await;
    }
}

/// Keeps `settings.local_port` mapped at the default gateway. `network_changed` says that there may be another one,
/// or another address of ours; `notify_one` keeps what comes while the task is busy.
pub fn run(settings: Settings, network_changed: Arc<Notify>) -> PortMap {
    let (tell, mapping) = watch::channel(None);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(drive(settings, network_changed, tell, stopped));
    PortMap { mapping, stop, task }
}

/// What the network gives: the gateway's socket and the listener.
#[derive(Debug)]
struct Place {
    network: Network,
    scope: u32,
    socket: UdpSocket,
    /// Another program may have the port; the core's checks find a reboot too, later.
    announcements: Option<UdpSocket>,
}

struct Shell {
    core: PortMapper,
    place: Option<Place>,
    tell: watch::Sender<Option<Mapping>>,
    answers: mpsc::Sender<(HttpToken, Result<Vec<u8>, HttpFailure>)>,
    wake_at: Option<Instant>,
    is_closed: bool,
}

async fn drive(
    settings: Settings,
    network_changed: Arc<Notify>,
    tell: watch::Sender<Option<Mapping>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut core = PortMapper::new(settings.seed, settings.protocols, Instant::now());
    if let Some(interval) = settings.check_every {
        core.check_every(interval);
    }
    let (answers, mut answered) = mpsc::channel(EXCHANGES);
    let mut shell = Shell { core, place: None, tell, answers, wake_at: None, is_closed: false };
    shell.look_around(&settings).await;
    let mut buffer = [0; MAX_ANSWER];
    let mut heard = [0; MAX_ANSWER];
    let mut close_by = None;
    while !shell.is_closed {
        tokio::select! {
            _ = &mut stopped, if close_by.is_none() => {
                close_by = Some(Instant::now() + SHUTDOWN_DEADLINE);
                shell.core.shutdown(Instant::now());
            }
            () = network_changed.notified(), if close_by.is_none() => shell.look_around(&settings).await,
            () = sleep_to(close_by) => return,
            () = sleep_to(shell.wake_at) => shell.core.handle_timeout(Instant::now()),
            received = receive(shell.place.as_ref().map(|place| &place.socket), &mut buffer) => {
                shell.take(received, &buffer);
            }
            received = receive(shell.place.as_ref().and_then(|place| place.announcements.as_ref()), &mut heard) => {
                shell.take(received, &heard);
            }
            Some((token, response)) = answered.recv() => {
                shell.core.handle_http(Instant::now(), token, response.as_deref().map_err(|error| *error));
            }
        }
        shell.drain().await;
    }
}

impl Shell {
    /// Finds the gateway again. The old place hears the end of its mapping before its socket goes.
    async fn look_around(&mut self, settings: &Settings) {
        let found = find_network(settings).await;
        let before = self.place.as_ref().map(|place| (place.network, place.scope));
        if found == before {
            return;
        }
        self.core.set_network(Instant::now(), None);
        self.drain().await;
        self.place = None;
        let Some((network, scope)) = found else { return };
        match Place::open(network, scope) {
            Ok(place) => self.place = Some(place),
            Err(error) => {
                tracing::debug!(%error, "no socket towards the gateway");
                return;
            }
        }
        self.core.set_network(Instant::now(), Some(network));
        self.drain().await;
    }

    fn take(&mut self, received: io::Result<(usize, SocketAddr)>, buffer: &[u8]) {
        match received {
            Ok((length, from)) => {
                let datagram = buffer.get(..length).unwrap_or_default();
                if let Err(refused) = self.core.handle_input(Instant::now(), from, datagram) {
                    tracing::trace!(%from, why = refused.label(), "datagram refused");
                }
            }
            // ICMP's "port unreachable" of a gateway that maps nothing: its silence says the same.
            Err(error) => tracing::trace!(%error, "socket towards the gateway"),
        }
    }

    async fn drain(&mut self) {
        loop {
            match self.core.poll_output() {
                Output::Send { to, datagram } => {
                    let Some(place) = &self.place else { continue };
                    if let Err(error) = place.socket.send_to(&datagram, place.with_scope(to)).await {
                        tracing::debug!(%error, "cannot ask the gateway");
                    }
                }
                Output::Http { to, request, token } => {
                    let answers = self.answers.clone();
                    tokio::spawn(async move {
                        let response = timeout(HTTP_DEADLINE, exchange(to, &request)).await;
                        let response = response.ok().and_then(Result::ok).ok_or(HttpFailure);
                        // Nobody waits for it any more when the task has ended.
                        let _ = answers.send((token, response)).await;
                    });
                }
                Output::Event(Event::Mapped(mapping)) => {
                    tracing::debug!(
                        protocol = mapping.protocol.label(),
                        reach = mapping.reach.label(),
                        "mapped"
                    );
                    self.tell.send_replace(Some(mapping));
                }
                Output::Event(Event::Lost) => {
                    tracing::debug!("mapping lost");
                    self.tell.send_replace(None);
                }
                Output::Event(Event::Closed) => self.is_closed = true,
                Output::Timeout(timeout) => {
                    self.wake_at = timeout.map(|timeout| timeout.at);
                    return;
                }
            }
        }
    }
}

impl Place {
    fn open(network: Network, scope: u32) -> io::Result<Self> {
        use socket2::{Domain, Protocol, Socket, Type};
        let domain = if network.local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        // The port is any; the address is the one that PCP has to be asked from (RFC 6887, section 8.1).
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(network.local, 0).into())?;
        if let IpAddr::V4(local) = network.local {
            socket.set_multicast_if_v4(&local)?;
            socket.set_multicast_ttl_v4(2)?; // UPnP Device Architecture 1.1, section 1.3.2
        }
        let listen = || -> io::Result<UdpSocket> {
            let listener = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            listener.set_nonblocking(true)?;
            // RFC 6886, section 3.2.1: several programs of a host listen.
            listener.set_reuse_address(true)?;
            match network.local {
                IpAddr::V4(local) => {
                    listener.bind(&SocketAddr::new(ALL_HOSTS.into(), pcp::CLIENT_PORT).into())?;
                    listener.join_multicast_v4(&ALL_HOSTS, &local)?;
                }
                IpAddr::V6(_) => {
                    listener.set_only_v6(true)?;
                    let group = SocketAddrV6::new(ALL_NODES, pcp::CLIENT_PORT, 0, scope);
                    listener.bind(&SocketAddr::V6(group).into())?;
                    listener.join_multicast_v6(&ALL_NODES, scope)?;
                }
            }
            UdpSocket::from_std(listener.into())
        };
        let announcements =
            listen().inspect_err(|error| tracing::debug!(%error, "announcements are not heard")).ok();
        Ok(Self { network, scope, socket: UdpSocket::from_std(socket.into())?, announcements })
    }

    /// A link-local address means nothing without its link.
    const fn with_scope(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V6(to) if to.ip().is_unicast_link_local() => {
                SocketAddr::V6(SocketAddrV6::new(*to.ip(), to.port(), 0, self.scope))
            }
            _ => to,
        }
    }
}

/// The default gateway, our address towards it, and the index of the interface that it is on (for link-local ones).
async fn find_network(settings: &Settings) -> Option<(Network, u32)> {
    let (gateway, scope) = match settings.family {
        Family::Ipv4 => (IpAddr::V4(route::parse_ipv4(&read_table("/proc/net/route").await?)?.address), 0),
        Family::Ipv6 => {
            let found = route::parse_ipv6(&read_table("/proc/net/ipv6_route").await?)?;
            let index = format!("/sys/class/net/{}/ifindex", found.interface);
            let index = tokio::fs::read_to_string(index).await.ok()?.trim().parse().ok()?;
            (IpAddr::V6(found.address), index)
        }
    };
    // Connecting a UDP socket sends nothing: it asks the kernel which address of ours it would use. For IPv6 that
    // is the one towards the world, since a mapping is of the address that PCP is asked from.
    let (any, towards): (IpAddr, SocketAddr) = match gateway {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), (gateway, ssdp::PORT).into()),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), ([0x2000, 0, 0, 0, 0, 0, 0, 1], ssdp::PORT).into()),
    };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(towards).await.ok()?;
    let local = socket.local_addr().ok()?.ip();
    Some((Network { gateway, local, port: settings.local_port }, scope))
}

async fn read_table(path: &str) -> Option<String> {
    let file = tokio::fs::File::open(path).await.ok()?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(route::MAX_TABLE).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut bytes).await.ok()?;
    String::from_utf8(bytes).ok()
}

async fn exchange(to: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request).await?;
    let mut response = Vec::new();
    let mut piece = [0; 4096];
    // One byte past the limit is enough for the core to see that it is too long.
    while response.len() <= http::MAX_RESPONSE && !http::is_decided(&response) {
        let read = stream.read(&mut piece).await?;
        if read == 0 {
            break;
        }
        response.extend_from_slice(piece.get(..read).unwrap_or_default());
    }
    Ok(response)
}

async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await,
        None => pending().await,
    }
}

async fn sleep_to(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => pending().await,
    }
}
