//! One bound UDP socket.

use crate::{
    recv::RecvBatch,
    send::{SendBatch, SendReport},
};
use quinn_udp::{UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicU8, Ordering},
};
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
            Self::Bind => "the address cannot be bound",
            Self::Filter => "the kernel refused the first-byte filter (SO_ATTACH_REUSEPORT_CBPF)",
            Self::Register => "the runtime refused the socket",
        }
    }
}

/// A UDP port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open UDP {address}: {}{}", step.words(), self.hint())]
pub struct BindError {
    /// The address wanted.
    pub address: SocketAddr,
    /// What failed.
    pub step: BindStep,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

impl BindError {
    fn hint(&self) -> &'static str {
        if self.step == BindStep::Bind { bind_hint(&self.source) } else { "" }
    }
}

/// What to do about an address that cannot be bound, UDP's or TCP's, to go behind what is wrong; nothing for what has no
/// remedy of its own.
#[must_use]
pub fn bind_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "; another process is on this port (ss -lptu says which): stop it, or choose another port"
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE: grant it, or choose a port above"
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: choose one of its own, or 0.0.0.0 for all"
        }
        _ => "",
    }
}

/// A bound, non-blocking UDP socket of one runtime.
#[derive(Debug)]
pub struct UdpPort {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    /// A [`Fragments`]: what the socket is set to.
    fragments: AtomicU8,
}

/// The longest payload that may be cut on its way: what a link of 1,280 bytes carries whole. Longer ones are sent by
/// those alone who ask the path how long they may be, and an answer that came in pieces would be none.
const MAY_BE_CUT: usize = 1_280 - 40 - 8;
/// Payloads up to this pass whole everywhere (576 bytes, RFC 791, less headers): the socket is left as it is.
const NEVER_CUT: usize = 512;

/// Whether the kernel and routers may cut a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Fragments {
    /// They may: a tunnel packet of the least size that IPv6 wants inside may not fit outside, and there is nobody to
    /// make it smaller.
    Allowed = 0,
    /// They may not, and the kernel does not believe what ICMP says of the path: what is too long is lost.
    Refused = 1,
}

impl Fragments {
    /// What a payload of this length wants; `None` when it does not matter.
    const fn wanted(length: usize) -> Option<Self> {
        if length <= NEVER_CUT {
            None
        } else if length <= MAY_BE_CUT {
            Some(Self::Allowed)
        } else {
            Some(Self::Refused)
        }
    }
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
        let Self { io, state, local, fragments } = self;
        let fail = |source| BindError { address: local, step: BindStep::Register, source };
        let io = tokio::net::UdpSocket::from_std(io.into_std().map_err(fail)?).map_err(fail)?;
        Ok(Self { io, state, local, fragments })
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
            self.fit(run.longest());
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
            self.fit(run.longest());
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

    /// Sets the socket for datagrams of this length. One task sends on a socket at a time; the option is one of the
    /// socket, because Linux has none of the message for IPv4.
    fn fit(&self, length: usize) {
        let Some(wanted) = Fragments::wanted(length) else { return };
        if self.fragments.load(Ordering::Relaxed) != wanted as u8
            && set_fragments(&self.io, self.local, wanted).is_ok()
        {
            self.fragments.store(wanted as u8, Ordering::Relaxed);
        }
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
        set_fragments(&socket, address, Fragments::Allowed).map_err(fail(BindStep::Options))?;
        let io = tokio::net::UdpSocket::from_std(socket.into()).map_err(fail(BindStep::Register))?;
        let local = io.local_addr().map_err(fail(BindStep::Register))?;
        Ok(Self { io, state, local, fragments: AtomicU8::new(Fragments::Allowed as u8) })
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

/// Sets whether datagrams may be cut; quinn-udp asks that none is, for the sake of QUIC's own search for the MTU, which
/// is off.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no safe wrapper sets IP_MTU_DISCOVER")]
fn set_fragments(socket: &impl AsRawFd, address: SocketAddr, fragments: Fragments) -> io::Result<()> {
    let set = |level: libc::c_int, name: libc::c_int, value: libc::c_int| {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
        // SAFETY: the descriptor is open for as long as `socket` is borrowed; the kernel reads one int that lives
        // until the call returns.
        let result =
            unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    let (v4, v6) = match fragments {
        Fragments::Allowed => (libc::IP_PMTUDISC_DONT, libc::IPV6_PMTUDISC_WANT),
        Fragments::Refused => (libc::IP_PMTUDISC_PROBE, libc::IPV6_PMTUDISC_PROBE),
    };
    if address.is_ipv6() {
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6)?;
        // For IPv4 through the same socket, where there is any.
        let _ = set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4);
        return Ok(());
    }
    set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4)
}

#[cfg(not(target_os = "linux"))]
fn set_fragments<S>(_socket: &S, _address: SocketAddr, _fragments: Fragments) -> io::Result<()> {
    Ok(())
}

/// Linux reports an ICMP error of an earlier send on the next receive of the socket.
fn concerns_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_a_link_of_1280_bytes_may_be_cut_and_nothing_longer() {
        assert_eq!(Fragments::wanted(100), None);
        // The longest packet of a flow that asked nobody, by the relay: 1,176 padded, WireGuard, the relay's header.
        assert_eq!(Fragments::wanted(1_184 + 32 + 12), Some(Fragments::Allowed));
        assert_eq!(Fragments::wanted(MAY_BE_CUT + 1), Some(Fragments::Refused));
    }

    #[tokio::test]
    async fn a_socket_is_set_for_what_is_sent_and_set_back() {
        for local in ["127.0.0.1:0", "[::]:0"] {
            let port = UdpPort::bind(local.parse().expect("an address")).expect("a free port");
            let there = UdpPort::bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
            let mut batch = SendBatch::new();
            for (length, wanted) in
                [(1_400, Fragments::Refused), (90, Fragments::Refused), (1_200, Fragments::Allowed)]
            {
                batch.push(there.local_addr(), &vec![7; length]);
                assert_eq!(port.send_batch(&mut batch).await.sent, 1);
                assert_eq!(port.fragments.load(Ordering::Relaxed), wanted as u8, "{length} from {local}");
            }
        }
    }
}
