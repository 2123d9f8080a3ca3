//! The userspace mode's sockets for UDP and ICMP echo: one for each conversation, connected to its target.
//!
//! A connected socket hears its target alone, and hears of it when nobody listens there. What is sent goes out in the
//! loop's own call; what comes in is read by a task that sleeps until there is something, in batches. A socket that
//! nobody reads for a while loses datagrams in the kernel, as it should.
//!
//! Echoes need no privilege where `net.ipv4.ping_group_range` includes this process's group; elsewhere they need
//! `CAP_NET_RAW`. Which of the two it is shows when the first one is opened.

use crate::core::{DatagramFault, DatagramId, DatagramKind, DatagramNews, DatagramRequest, OpenFault};
use crate::forward::userspace::{SiteEvent, is_out_of_descriptors, lookup};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

/// The longest datagram that there is.
const LONGEST: usize = 65_536;
/// Datagrams that are handed over at once.
const BATCH: usize = 32;
/// Errors in a row, with nothing read between, after which a socket is left alone.
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
    open: BTreeMap<DatagramId, Open>,
    unsent: u64,
}

impl DatagramSockets {
    pub const fn new(events: mpsc::Sender<SiteEvent>, lookups: Arc<Semaphore>) -> Self {
        Self { events, lookups, open: BTreeMap::new(), unsent: 0 }
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
                    let addresses = lookup(&lookups, &host).await;
                    let news = DatagramNews::Resolved { flow, addresses };
                    let _ = events.send(SiteEvent::Datagrams(news)).await;
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
                DatagramKind::Echo => echo(*target, flow.echo_identifier()),
            };
            match opened.and_then(|(socket, shape)| Ok((UdpSocket::from_std(socket.into())?, shape))) {
                Ok((socket, shape)) => {
                    let socket = Arc::new(socket);
                    let reader = tokio::spawn(read(flow, Arc::clone(&socket), shape, self.events.clone()));
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
    } else if kind == DatagramKind::Echo && is_not_permitted(error) {
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

/// Hands over what comes in, until the socket is closed.
async fn read(flow: DatagramId, socket: Arc<UdpSocket>, shape: Shape, events: mpsc::Sender<SiteEvent>) {
    let mut errors = 0;
    while errors < ERRORS && socket.readable().await.is_ok() {
        let (datagrams, found) = take(&socket, shape);
        if !datagrams.is_empty() {
            errors = 0;
            let news = DatagramNews::Received { flow, datagrams };
            if events.send(SiteEvent::Datagrams(news)).await.is_err() {
                return;
            }
        }
        if let Some(fault) = found {
            errors += 1;
            if events.send(SiteEvent::Datagrams(DatagramNews::Fault { flow, fault })).await.is_err() {
                return;
            }
        }
    }
}

/// What is there now, and what is wrong.
fn take(socket: &UdpSocket, shape: Shape) -> (Vec<(SocketAddr, Vec<u8>)>, Option<DatagramFault>) {
    SCRATCH.with_borrow_mut(|buffer| {
        let mut datagrams = Vec::new();
        for _ in 0..BATCH {
            match socket.try_recv_from(buffer) {
                Ok((length, from)) => {
                    let bytes = strip(&buffer[..length], shape);
                    datagrams.extend(bytes.map(|bytes| (from, bytes.to_vec())));
                }
                Err(error) => return (datagrams, fault(&error)),
            }
        }
        (datagrams, None)
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
