//! The userspace mode's sockets for UDP and ICMP echo: one for each conversation, connected to its target.
//!
//! A connected socket hears its target alone, and hears of it when nobody listens there. What is sent goes out in the
//! loop's own call; what comes in is read by a task that sleeps until there is something, in batches. A socket that
//! nobody reads for a while loses datagrams in the kernel, as it should.
//!
//! Echoes need no privilege where `net.ipv4.ping_group_range` includes this process's group; elsewhere they need
//! `CAP_NET_RAW`. Which of the two it is shows when the first one is opened.

use crate::core::{DatagramFault, DatagramId, DatagramKind, DatagramNews, DatagramRequest, OpenFault};
use crate::forward::userspace::{SiteEvent, is_out_of_descriptors, look_up};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// The longest datagram that there is.
const LONGEST: usize = 65_536;
/// Datagrams that are handed over at once.
const BATCH: usize = 32;
/// No more are taken after this many bytes; a batch of an ordinary size has fewer.
const BATCH_BYTES: usize = 64 * 1024;
/// What one may come to: the last one may be of any length, and each has an address and a length of its own.
const MOST_AT_ONCE: usize = BATCH_BYTES + LONGEST + BATCH * size_of::<(SocketAddr, Vec<u8>)>();
/// What waits for the loop of all sockets; beyond it the kernel's buffers fill, and then datagrams are lost, as in any
/// network. The loop comes round within milliseconds: 16 of them at 8 Gbit/s.
const WAITING_BYTES: usize = 16 << 20;
const _: () = assert!(MOST_AT_ONCE * 64 <= WAITING_BYTES, "many sockets have room at once");
/// How long a socket is left alone after each error in a row but the first few: one that has nothing else to say must not
/// keep a thread busy.
const REST: Duration = Duration::from_millis(100);
const ERRORS: usize = 16;

thread_local! {
    /// What a datagram is read into before its length is known; one for each thread, not for each socket.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST]);
}

/// How a socket gives what it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The payload, or the ICMP message.
    Plain,
    /// ICMP messages of every program on this machine, with this identifier in ours.
    Raw { identifier: u16, v4: bool },
}

struct Open {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// The sockets.
pub(crate) struct DatagramSockets {
    events: mpsc::Sender<SiteEvent>,
    lookups: Arc<Semaphore>,
    room: Arc<Semaphore>,
    open: BTreeMap<DatagramId, Open>,
    unsent: u64,
}

impl DatagramSockets {
    pub fn new(events: mpsc::Sender<SiteEvent>, lookups: Arc<Semaphore>) -> Self {
        let room = Arc::new(Semaphore::new(WAITING_BYTES));
        Self { events, lookups, room, open: BTreeMap::new(), unsent: 0 }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Datagrams that the kernel had no room for.
    pub const fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Does what the core wants; what there is to say about it at once.
    pub fn handle(&mut self, request: DatagramRequest) -> Option<DatagramNews> {
        match request {
            DatagramRequest::Resolve { flow, host } => {
                let (events, lookups) = (self.events.clone(), Arc::clone(&self.lookups));
                tokio::spawn(async move {
                    let overdue = SiteEvent::from(DatagramNews::Overdue { flow });
                    let addresses = look_up(lookups, host, &events, overdue).await;
                    let news = DatagramNews::Resolved { flow, addresses };
                    let _ = events.send(news.into()).await;
                });
                None
            }
            DatagramRequest::Open { flow, kind, targets } => {
                let result = self.open_first(flow, kind, &targets);
                Some(DatagramNews::Opened { flow, result })
            }
            DatagramRequest::Send { flow, bytes } => {
                let fault = self.send(flow, &bytes)?;
                Some(DatagramNews::Fault { flow, fault })
            }
            DatagramRequest::Close(flow) => {
                self.open.remove(&flow);
                None
            }
        }
    }

    fn open_first(
        &mut self,
        flow: DatagramId,
        kind: DatagramKind,
        targets: &[SocketAddr],
    ) -> Result<SocketAddr, OpenFault> {
        let mut fault = OpenFault::Unreachable;
        for target in targets {
            let opened = match kind {
                DatagramKind::Udp => udp(*target).map(|socket| (socket, Shape::Plain)),
                DatagramKind::Echo { identifier } => echo(*target, identifier),
            };
            match opened.and_then(|(socket, shape)| Ok((UdpSocket::from_std(socket.into())?, shape))) {
                Ok((socket, shape)) => {
                    let socket = Arc::new(socket);
                    let reader = Reader {
                        flow,
                        socket: Arc::clone(&socket),
                        shape,
                        events: self.events.clone(),
                        room: Arc::clone(&self.room),
                    };
                    let reader = tokio::spawn(reader.run());
                    self.open.insert(flow, Open { socket, reader: reader.abort_handle() });
                    return Ok(*target);
                }
                Err(error) => fault = open_fault(&error, kind),
            }
        }
        Err(fault)
    }

    fn send(&mut self, flow: DatagramId, bytes: &[u8]) -> Option<DatagramFault> {
        let open = self.open.get(&flow)?;
        // Past tokio, which knows that a socket is writable only after it has waited for it once.
        let socket = SockRef::from(&*open.socket);
        let mut told = None;
        loop {
            let error = match socket.send(bytes) {
                Ok(_) => return told,
                Err(error) => error,
            };
            match fault(&error) {
                // About one that went before: this one has not been tried.
                Some(DatagramFault::PortUnreachable) if told.is_none() => {
                    told = Some(DatagramFault::PortUnreachable);
                }
                Some(fault) => return Some(fault),
                None => {
                    self.unsent += 1;
                    return told;
                }
            }
        }
    }
}

/// A socket that hears one target.
fn udp(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::DGRAM, Some(Protocol::UDP))?;
    connected(socket, target)
}

fn connected(socket: Socket, target: SocketAddr) -> io::Result<Socket> {
    socket.set_nonblocking(true)?;
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    socket.bind(&any.into())?;
    socket.connect(&target.into())?;
    Ok(socket)
}

fn echo(target: SocketAddr, identifier: u16) -> io::Result<(Socket, Shape)> {
    let protocol = if target.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let domain = Domain::for_address(target);
    // The kernel gives each of these an identifier of its own, and the answers to it alone.
    match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Ok(socket) => Ok((connected(socket, target)?, Shape::Plain)),
        Err(error) if is_not_permitted(&error) => {
            let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
            Ok((connected(socket, target)?, Shape::Raw { identifier, v4: target.is_ipv4() }))
        }
        Err(error) => Err(error),
    }
}

fn is_not_permitted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

fn open_fault(error: &io::Error, kind: DatagramKind) -> OpenFault {
    if is_out_of_descriptors(error) {
        OpenFault::Full
    } else if kind != DatagramKind::Udp && is_not_permitted(error) {
        OpenFault::NotPermitted
    } else {
        OpenFault::Unreachable
    }
}

/// What an error of a connected socket says about what was sent; none when there was just no room.
fn fault(error: &io::Error) -> Option<DatagramFault> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some(DatagramFault::PortUnreachable),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::OutOfMemory => None,
        _ => match error.raw_os_error() {
            Some(libc::EMSGSIZE) => Some(DatagramFault::TooLong),
            Some(libc::ENOBUFS) => None,
            _ => Some(DatagramFault::Unreachable),
        },
    }
}

struct Reader {
    flow: DatagramId,
    socket: Arc<UdpSocket>,
    shape: Shape,
    events: mpsc::Sender<SiteEvent>,
    /// Bytes that may wait for the loop, of all sockets.
    room: Arc<Semaphore>,
}

impl Reader {
    /// Hands over what comes in, until the socket is closed.
    async fn run(self) {
        let Self { flow, socket, shape, events, room } = self;
        let mut errors = 0;
        // What is told of what was sent makes a socket no readable one.
        let interest = Interest::READABLE | Interest::ERROR;
        loop {
            if errors > ERRORS {
                sleep(REST).await;
            }
            // Room is taken before anything is read, and not while there is nothing to read.
            let Ok(ready) = socket.ready(interest).await else { return };
            let Ok(mut held) = Arc::clone(&room).acquire_many_owned(permits(MOST_AT_ONCE)).await else {
                return;
            };
            // What is read clears that there is something to read; what was told has to be cleared here.
            let taken = if ready.is_error() {
                socket.try_io(Interest::ERROR, || take(&socket, shape))
            } else {
                take(&socket, shape)
            };
            let (datagrams, found) = match taken {
                Ok(taken) => taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            if !datagrams.is_empty() {
                errors = 0;
                let bytes =
                    datagrams.iter().map(|(_, bytes)| size_of::<(SocketAddr, Vec<u8>)>() + bytes.len());
                drop(held.split(MOST_AT_ONCE.saturating_sub(bytes.sum())));
                let news = DatagramNews::Received { flow, datagrams };
                if events.send(SiteEvent::Datagrams { news, held: Some(held) }).await.is_err() {
                    return;
                }
            } else {
                drop(held);
            }
            if let Some(fault) = found {
                errors += 1;
                if events.send(DatagramNews::Fault { flow, fault }.into()).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a few hundred KiB")
}

/// What a socket had, and what is wrong with what was sent.
type Taken = (Vec<(SocketAddr, Vec<u8>)>, Option<DatagramFault>);

/// Takes what is there now.
///
/// # Errors
/// Nothing is.
fn take(socket: &UdpSocket, shape: Shape) -> io::Result<Taken> {
    SCRATCH.with_borrow_mut(|buffer| {
        let mut datagrams = Vec::new();
        let mut bytes_taken = 0;
        for read in 0..BATCH {
            if bytes_taken >= BATCH_BYTES {
                break;
            }
            let error = match socket.try_recv_from(buffer) {
                Ok((length, from)) => {
                    let bytes = strip(&buffer[..length], shape);
                    bytes_taken += bytes.map_or(0, <[u8]>::len);
                    datagrams.extend(bytes.map(|bytes| (from, bytes.to_vec())));
                    continue;
                }
                Err(error) => error,
            };
            let is_empty = error.kind() == io::ErrorKind::WouldBlock;
            let error = if is_empty { socket.take_error()? } else { Some(error) };
            return match error.as_ref().and_then(fault) {
                None if is_empty && read == 0 => Err(io::ErrorKind::WouldBlock.into()),
                found => Ok((datagrams, found)),
            };
        }
        Ok((datagrams, None))
    })
}

/// The message in what a socket gave; none when it is another program's.
fn strip(bytes: &[u8], shape: Shape) -> Option<&[u8]> {
    let Shape::Raw { identifier, v4 } = shape else { return Some(bytes) };
    let message = if v4 {
        // Raw IPv4 sockets give the header too (raw(7)).
        let header = usize::from(bytes.first()? & 0x0F) * 4;
        bytes.get(header..)?
    } else {
        bytes
    };
    (message.get(4..6)? == identifier.to_be_bytes()).then_some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tests::{World, allowing};
    use crate::core::{Output, Target};
    use flow::ip::IpPacket;
    use flow::{Echo, EchoKind};
    use std::net::IpAddr;
    use std::time::Instant;
    use tokio::time::timeout;

    /// The world of the core's tests with real sockets into a real site.
    struct Site {
        world: World,
        sockets: DatagramSockets,
        news: mpsc::Receiver<SiteEvent>,
    }

    impl Site {
        fn new(allowed: &str, target: IpAddr) -> Self {
            let (events, news) = mpsc::channel(1_024);
            let sockets = DatagramSockets::new(events, Arc::new(Semaphore::new(1)));
            let mut world = World::new(allowing(allowed, Target::Literal(target)));
            world.enter();
            Self { world, sockets, news }
        }

        /// Does everything that is due, then waits for the site a little.
        async fn turn(&mut self) {
            #[allow(clippy::disallowed_methods, reason = "the sockets are real, so is the clock")]
            let now = Instant::now();
            self.world.advance(now.saturating_duration_since(self.world.now));
            loop {
                let asked = std::mem::take(&mut self.world.asked);
                if asked.is_empty() {
                    break;
                }
                for output in asked {
                    let request = match output {
                        Output::Datagrams(request) => request,
                        Output::RelayQuiet => continue,
                        other => panic!("{other:?}"),
                    };
                    if let Some(news) = self.sockets.handle(request) {
                        self.world.news(news);
                    }
                }
            }
            if let Ok(Some(SiteEvent::Datagrams { news, held: _held })) =
                timeout(Duration::from_millis(5), self.news.recv()).await
            {
                self.world.news(news);
            }
        }

        async fn until<T>(&mut self, what: &str, mut found: impl FnMut(&mut World) -> Option<T>) -> T {
            let waited = timeout(Duration::from_secs(20), async {
                loop {
                    if let Some(found) = found(&mut self.world) {
                        return found;
                    }
                    self.turn().await;
                }
            });
            waited.await.unwrap_or_else(|_| panic!("no {what}: {:?}", self.world.records))
        }

        fn ask(&mut self, from: u16, to: SocketAddr, data: &[u8]) {
            let from = SocketAddr::new(policy::INNER_V4.into(), from);
            self.world.send(&flow::udp(from, to, data).expect("one family"));
        }
    }

    /// The first packet that the client was sent and `read` makes something of.
    fn packet<T>(world: &mut World, read: impl Fn(&IpPacket<'_>) -> Option<T>) -> Option<T> {
        let inner = std::mem::take(&mut world.inner);
        inner.iter().find_map(|bytes| read(&IpPacket::parse(bytes).ok()?))
    }

    fn answer(world: &mut World) -> Option<Vec<u8>> {
        packet(world, |packet| packet.udp().ok().map(|datagram| datagram.data.to_vec()))
    }

    #[tokio::test]
    async fn datagrams_go_to_a_real_server_and_come_back_each_program_by_its_own_socket() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let target = server.local_addr().expect("bound");
        let mut site = Site::new(&format!("udp://{}:{}", target.ip(), target.port()), target.ip());
        let mut sources = Vec::new();
        for (from, length) in [(1_000, 10), (1_001, 1_200), (1_000, 0)] {
            let data = vec![7; length];
            site.ask(from, target, &data);
            site.turn().await;
            let mut buffer = [0; 2_000];
            let (read, source) = server.recv_from(&mut buffer).await.expect("a datagram");
            assert_eq!(buffer[..read], data);
            server.send_to(&[data.as_slice(), b"!"].concat(), source).await.expect("sends");
            let back = site.until("answer", answer).await;
            assert_eq!(back.len(), length + 1);
            sources.push(source);
        }
        assert!(sources[0] == sources[2] && sources[0] != sources[1]);
        assert_eq!(site.sockets.len(), 2);
        // A stranger in the site does not get in.
        let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        stranger.send_to(b"forged", sources[0]).await.expect("sends");
        server.send_to(b"true", sources[0]).await.expect("sends");
        assert_eq!(site.until("answer", answer).await, b"true");
        let now = site.world.now + Duration::from_secs(301);
        site.world.advance(now - site.world.now);
        site.turn().await;
        assert_eq!((site.sockets.len(), site.world.records.len()), (0, 2));
    }

    #[tokio::test]
    async fn what_waits_for_a_loop_that_does_not_come_is_bounded_in_bytes_and_all_room_comes_back() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let target = server.local_addr().expect("bound");
        let mut site = Site::new(&format!("udp://{}:{}", target.ip(), target.port()), target.ip());
        site.ask(1_000, target, b"?");
        site.turn().await;
        let (_, source) = server.recv_from(&mut [0; 8]).await.expect("a datagram");
        // Twice as much as may wait.
        let long = vec![7; 60_000];
        for _ in 0..2 * WAITING_BYTES / long.len() {
            server.send_to(&long, source).await.expect("sends");
            tokio::task::yield_now().await;
        }
        let mut waiting = 0;
        let mut count = |site: &mut Site| {
            while let Ok(event) = site.news.try_recv() {
                let SiteEvent::Datagrams { news: DatagramNews::Received { datagrams, .. }, .. } = event
                else {
                    panic!("{event:?}")
                };
                let bytes: usize = datagrams.iter().map(|(_, bytes)| bytes.len()).sum();
                assert!(bytes <= MOST_AT_ONCE, "{bytes}");
                waiting += bytes;
            }
            waiting
        };
        let held = count(&mut site);
        assert!(held <= WAITING_BYTES && held > WAITING_BYTES / 2, "{held}");
        // What the kernel kept comes now.
        let all_is_back = timeout(Duration::from_secs(20), async {
            loop {
                sleep(Duration::from_millis(2)).await;
                let before = count(&mut site);
                if site.sockets.room.available_permits() == WAITING_BYTES && count(&mut site) == before {
                    break;
                }
            }
        });
        all_is_back.await.expect("in time");
        assert!(waiting > held, "{waiting}");
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_at_is_told_to_the_client() {
        let server = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let target = server.local_addr().expect("bound");
        drop(server);
        let mut site = Site::new(&format!("udp://{}:{}", target.ip(), target.port()), target.ip());
        site.ask(1_000, target, b"?");
        let told = site
            .until("error", |world| {
                packet(world, |packet| (packet.payload[..2] == [3, 3]).then_some(packet.dst))
            })
            .await;
        assert_eq!(told, IpAddr::from(policy::INNER_V4));
    }

    /// Whether this process may ping, as the kernel's own words have it (icmp(7), capabilities(7)).
    fn may_ping() -> bool {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).expect("Linux says it");
            line[name.len()..].split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let capabilities = u64::from_str_radix(&field("CapEff:")[0], 16).expect("hexadecimal");
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").expect("Linux");
        let range: Vec<u32> = range.split_whitespace().map(|text| text.parse().expect("a number")).collect();
        let groups = [field("Gid:")[1].clone()].into_iter().chain(field("Groups:"));
        let mut groups = groups.map(|text| text.parse::<u32>().expect("a number"));
        capabilities >> 13 & 1 == 1 || groups.any(|group| (range[0]..=range[1]).contains(&group))
    }

    #[tokio::test]
    async fn a_real_kernel_answers_ping_or_says_that_nobody_may_ask() {
        ping("127.0.0.1", policy::INNER_V4.into()).await;
        // A machine without IPv6 has no loopback of it either.
        if UdpSocket::bind("[::1]:0").await.is_ok() {
            ping("::1", policy::inner_device_address(crate::core::tests::DEVICE).into()).await;
        }
    }

    async fn ping(target: &str, from: IpAddr) {
        let mut site = Site::new(&format!("icmp://{target}:0"), target.parse().expect("address"));
        let target: IpAddr = target.parse().expect("address");
        let prohibited: [u8; 2] = if target.is_ipv4() { [3, 13] } else { [1, 1] };
        for sequence in 1..=3 {
            let echo = Echo { kind: EchoKind::Request, identifier: 99, sequence, data: b"are you there" };
            site.world.send(&echo.packet(from, target).expect("one family"));
            let read = |packet: &IpPacket<'_>| match packet.echo() {
                Some(echo) => Some(Ok((echo.kind, echo.identifier, echo.sequence, echo.data.to_vec()))),
                None => (packet.payload[..2] == prohibited).then_some(Err(())),
            };
            match site.until("answer", |world| packet(world, read)).await {
                Ok(answer) => {
                    assert_eq!(answer, (EchoKind::Reply, 99, sequence, b"are you there".to_vec()));
                    assert!(may_ping());
                }
                // Without the right to it, the reason is in the log.
                Err(()) => {
                    assert!(site.world.records[0].explanation.contains("ping_group_range") && !may_ping());
                }
            }
        }
    }

    #[test]
    fn another_programs_echoes_are_left_alone() {
        let v4 = Shape::Raw { identifier: 0x0102, v4: true };
        let mut packet = vec![0x46; 24];
        packet.extend_from_slice(&[0, 0, 9, 9, 1, 2, 0, 1, 7]);
        assert_eq!(strip(&packet, v4), Some(&packet[24..]));
        assert_eq!(strip(&packet[24..], Shape::Raw { identifier: 0x0102, v4: false }), Some(&packet[24..]));
        packet[28] = 9;
        assert_eq!(strip(&packet, v4), None);
        for length in 0..30 {
            assert_eq!(strip(&packet[..length], v4), None, "{length}");
        }
        assert_eq!(strip(b"ab", Shape::Plain), Some(&b"ab"[..]));
    }
}
