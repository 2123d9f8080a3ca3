//! One socket for thousands of addresses: what a machine of its own is to each agent, to the PoP.

use anyhow::{Context as _, Result};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, RawFd},
    time::Duration,
};

const BUFFERS: usize = quinn_udp::BATCH_SIZE;
const BUFFER_LEN: usize = 65_535;
/// Bursts of twenty thousand agents wait here while the one thread is at something else.
const KERNEL_BUFFER: libc::c_int = 64 * 1024 * 1024;

/// One datagram that came.
#[derive(Debug, Clone, Copy)]
pub struct Arrived<'a> {
    /// Which address it was for, as a number from the first.
    pub number: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// What.
    pub payload: &'a [u8],
}

/// A socket bound to every local address, which sends from each of a range and tells for which one a datagram was.
pub struct WideSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    first: u32,
    buffers: Vec<Vec<u8>>,
    metas: Vec<RecvMeta>,
}

impl WideSocket {
    /// Its addresses count from `first`; all of them are local here.
    ///
    /// # Errors
    /// The kernel gives no such socket.
    pub fn new(first: Ipv4Addr) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        force_buffers(socket.as_raw_fd());
        let socket: UdpSocket = socket.into();
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).context("socket options")?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            state,
            first: first.into(),
            buffers: vec![vec![0; BUFFER_LEN]; BUFFERS],
            metas: vec![RecvMeta::default(); BUFFERS],
        })
    }

    /// Sends one datagram from an address; says whether the kernel took it.
    pub fn send(&self, number: usize, to: SocketAddr, payload: &[u8]) -> bool {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: payload,
            segment_size: None,
            src_ip: Some(IpAddr::V4(Ipv4Addr::from(self.first.wrapping_add(number)))),
        };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit).is_ok()
    }

    /// Another handle on the same socket, for a thread that only sends.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn sender(&self) -> Result<WideSender> {
        let socket = self.socket.try_clone()?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).context("socket options")?;
        Ok(WideSender { socket, state, first: self.first })
    }

    /// Takes what is here and shows each datagram; says whether there was any.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn receive(&mut self, mut each: impl FnMut(Arrived<'_>)) -> io::Result<bool> {
        let mut slices: Vec<IoSliceMut<'_>> =
            self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let filled = match self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut self.metas) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            // ICMP of an earlier datagram.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            Err(error) => return Err(error),
        };
        for (meta, buffer) in self.metas[..filled].iter().zip(&self.buffers) {
            let Some(IpAddr::V4(to)) = meta.dst_ip else { continue };
            let number = usize::try_from(u32::from(to).wrapping_sub(self.first)).unwrap_or(usize::MAX);
            for payload in buffer[..meta.len].chunks(meta.stride.max(1)) {
                each(Arrived { number, from: meta.addr, payload });
            }
        }
        Ok(true)
    }

    /// Waits until something is here, at most so long.
    #[expect(unsafe_code, reason = "no safe wrapper of ppoll is among the dependencies")]
    pub fn wait(&self, longest: Duration) {
        let mut asked = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::timespec {
            tv_sec: i64::try_from(longest.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: longest.subsec_nanos().into(),
        };
        // SAFETY: one pollfd and one timespec of this frame, alive during the call; no signal mask.
        unsafe { libc::ppoll(&raw mut asked, 1, &raw const timeout, std::ptr::null()) };
    }
}

/// Sends by a [`WideSocket`], from another thread.
pub struct WideSender {
    socket: UdpSocket,
    state: UdpSocketState,
    first: u32,
}

impl WideSender {
    /// Sends datagrams of `segment` bytes, which the kernel cuts from `payload`; says whether it took them.
    pub fn send(&self, number: usize, to: SocketAddr, payload: &[u8], segment: usize) -> bool {
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: payload,
            segment_size: Some(segment),
            src_ip: Some(IpAddr::V4(Ipv4Addr::from(self.first.wrapping_add(number)))),
        };
        self.state.try_send(UdpSockRef::from(&self.socket), &transmit).is_ok()
    }
}

/// Beyond the machine's limit where we are root; a smaller buffer loses datagrams, which QUIC sends again.
#[expect(unsafe_code, reason = "no safe wrapper sets SO_RCVBUFFORCE")]
fn force_buffers(socket: RawFd) {
    for name in [libc::SO_RCVBUFFORCE, libc::SO_SNDBUFFORCE] {
        let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four bytes");
        let value = KERNEL_BUFFER;
        // SAFETY: the kernel reads one int that lives until the call returns.
        unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, name, (&raw const value).cast(), length) };
    }
}
