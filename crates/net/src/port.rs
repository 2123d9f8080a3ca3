//! One bound UDP socket.

use crate::{
    recv::RecvBatch,
    send::{SendBatch, SendReport},
};
use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd as _;
use std::{io, net::SocketAddr};
use tokio::io::Interest;

/// Socket buffers in bytes, both directions. One full burst of 64 segments is 64 × 1.5 kB = 96 kB;
/// this holds some forty of them, about 30 ms at 1 Gbit/s. The kernel caps it at
/// `net.core.{r,w}mem_max`, and a smaller buffer is no error.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// What was being done when binding failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindStep {
    /// Making the socket.
    Create,
    /// Setting options on it.
    Options,
    /// Binding it to its address.
    Bind,
    /// Attaching the filter between the two sockets of a port.
    Filter,
    /// Registering it with the runtime.
    Register,
}

impl BindStep {
    const fn words(self) -> &'static str {
        match self {
            Self::Create => "no UDP socket could be made",
            Self::Options => "its options could not be set",
            Self::Bind => "the address cannot be bound; is another process on this port?",
            Self::Filter => "the kernel refused the first-byte filter (SO_ATTACH_REUSEPORT_CBPF)",
            Self::Register => "the runtime refused the socket",
        }
    }
}

/// A UDP port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open UDP {address}: {}", step.words())]
pub struct BindError {
    /// The address wanted.
    pub address: SocketAddr,
    /// What failed.
    pub step: BindStep,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// A bound, non-blocking UDP socket of one runtime.
#[derive(Debug)]
pub struct UdpPort {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

/// Whether other sockets may join this one on its port.
#[derive(Clone, Copy)]
pub(crate) enum Sharing {
    Alone,
    Group,
}

impl UdpPort {
    /// Binds `address`; port 0 takes a free one. A wildcard IPv6 address takes IPv4 as well.
    ///
    /// # Errors
    /// Names the step that failed and the kernel's reason.
    pub fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let socket = open(address, Sharing::Alone)?;
        Self::register(socket, address)
    }

    /// The bound address.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Moves the socket to the runtime this is called in: the two sockets of a [`PortPair`](crate::PortPair)
    /// are served by threads of their own, and a busy one must not delay the other's wake-ups.
    ///
    /// # Errors
    /// The runtime refused the socket.
    pub fn into_current_runtime(self) -> Result<Self, BindError> {
        let Self { io, state, local } = self;
        let fail = |source| BindError { address: local, step: BindStep::Register, source };
        let io = tokio::net::UdpSocket::from_std(io.into_std().map_err(fail)?).map_err(fail)?;
        Ok(Self { io, state, local })
    }

    /// Waits until at least one datagram is here and takes what there is, up to the batch's size.
    ///
    /// # Errors
    /// What the kernel said; errors that concern one peer (ICMP) are skipped.
    pub async fn recv_batch(&self, batch: &mut RecvBatch) -> io::Result<()> {
        loop {
            let result = self.io.async_io(Interest::READABLE, || self.receive(batch)).await;
            match result {
                Err(error) if concerns_one_peer(&error) => {}
                other => return other,
            }
        }
    }

    /// Takes what is here without waiting; an empty batch when nothing is.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn try_recv_batch(&self, batch: &mut RecvBatch) -> io::Result<()> {
        match self.io.try_io(Interest::READABLE, || self.receive(batch)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || concerns_one_peer(&error) => {
                batch.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn receive(&self, batch: &mut RecvBatch) -> io::Result<()> {
        batch.fill(|buffers, metas| self.state.recv(UdpSockRef::from(&self.io), buffers, metas))
    }

    /// Sends a whole batch, waiting for room in the socket's buffer, and empties it. A datagram that the
    /// kernel refuses (too long for the path, no route) is counted and skipped, as if the network
    /// had lost it.
    pub async fn send_batch(&self, batch: &mut SendBatch) -> SendReport {
        let mut report = SendReport::default();
        for run in batch.runs(self.state.max_gso_segments()) {
            let whole = run.transmit(self.wire_address(run.to()));
            let result = self
                .io
                .async_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &whole))
                .await;
            match result {
                Ok(()) => report.sent += run.datagrams(),
                Err(_) if run.datagrams() > 1 => {
                    // The kernel or the driver took no batch: one by one, so that one bad datagram
                    // does not cost its neighbours.
                    for single in run.singles(self.wire_address(run.to())) {
                        let send = || self.state.try_send(UdpSockRef::from(&self.io), &single);
                        match self.io.async_io(Interest::WRITABLE, send).await {
                            Ok(()) => report.sent += 1,
                            Err(error) => report.refuse(&error),
                        }
                    }
                }
                Err(error) => report.refuse(&error),
            }
        }
        batch.clear();
        report
    }

    /// Sends what the socket's buffer takes now and drops the rest: for relays, where a queue in
    /// front of a full socket only adds delay.
    pub fn try_send_batch(&self, batch: &mut SendBatch) -> SendReport {
        let mut report = SendReport::default();
        for run in batch.runs(self.state.max_gso_segments()) {
            let whole = run.transmit(self.wire_address(run.to()));
            match self
                .io
                .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io), &whole))
            {
                Ok(()) => report.sent += run.datagrams(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => report.no_room += run.datagrams(),
                Err(_) if run.datagrams() > 1 => {
                    for single in run.singles(self.wire_address(run.to())) {
                        let send = || self.state.try_send(UdpSockRef::from(&self.io), &single);
                        match self.io.try_io(Interest::WRITABLE, send) {
                            Ok(()) => report.sent += 1,
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => report.no_room += 1,
                            Err(error) => report.refuse(&error),
                        }
                    }
                }
                Err(error) => report.refuse(&error),
            }
        }
        batch.clear();
        report
    }

    /// An IPv6 socket reaches IPv4 by mapped addresses (RFC 4291 section 2.5.5.2).
    fn wire_address(&self, to: SocketAddr) -> SocketAddr {
        match (self.local, to) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            _ => to,
        }
    }

    pub(crate) fn register(socket: Socket, address: SocketAddr) -> Result<Self, BindError> {
        let fail = |step| move |source| BindError { address, step, source };
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).map_err(fail(BindStep::Options))?;
        allow_fragments(&socket, address).map_err(fail(BindStep::Options))?;
        let io = tokio::net::UdpSocket::from_std(socket.into()).map_err(fail(BindStep::Register))?;
        let local = io.local_addr().map_err(fail(BindStep::Register))?;
        Ok(Self { io, state, local })
    }
}

/// A bound socket, not yet in a runtime.
pub(crate) fn open(address: SocketAddr, sharing: Sharing) -> Result<Socket, BindError> {
    let fail = |step| move |source| BindError { address, step, source };
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .map_err(fail(BindStep::Create))?;
    let options = || {
        socket.set_nonblocking(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        match sharing {
            Sharing::Group => socket.set_reuse_port(true)?,
            Sharing::Alone => {}
        }
        Ok(())
    };
    options().map_err(fail(BindStep::Options))?;
    // A smaller buffer than wished for loses packets earlier; it is no reason not to start.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into()).map_err(fail(BindStep::Bind))?;
    Ok(socket)
}

/// Lets the kernel and the routers cut a datagram that is longer than a link takes. A tunnel packet of the least
/// size that IPv6 wants inside does not fit a link of 1,280 bytes outside, and there is nobody to make it
/// smaller; quinn-udp asks for the opposite, for the sake of QUIC's own search for the MTU, which is off.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe wrapper sets IP_MTU_DISCOVER")]
fn allow_fragments(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let set = |level: libc::c_int, name: libc::c_int, value: libc::c_int| {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
        // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads one int that lives
        // until the call returns.
        let result =
            unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    if address.is_ipv6() {
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT)?;
        // For IPv4 through the same socket, where there is any.
        let _ = set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
        return Ok(());
    }
    set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)
}

#[cfg(not(target_os = "linux"))]
fn allow_fragments(_socket: &Socket, _address: SocketAddr) -> io::Result<()> {
    Ok(())
}

/// Linux reports an ICMP error of an earlier send on the next receive of the socket.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}
