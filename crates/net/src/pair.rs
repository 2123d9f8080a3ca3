//! The two sockets of a PoP's port, and the kernel's filter between them.

use crate::port::{BindError, BindStep, Sharing, UdpPort, open};
use socket2::Socket;
use std::{io, net::SocketAddr, os::fd::AsRawFd as _};
use wire::{RELAY_FIRST_BYTE_MASK, RELAY_FIRST_BYTE_VALUE};

/// Two sockets on one port. The kernel decides by the first byte of what arrives: relay frames go to
/// one, everything else to the other, so that a flood of either does not fill the other's buffer.
///
/// The kernel decides once for each buffer of merged datagrams, by its first byte: what one source
/// sent back to back may hold segments of the other socket's. Both readers classify each datagram
/// and hand over what is not theirs.
#[derive(Debug)]
pub struct PortPair {
    /// QUIC, STUN, and what nobody claims.
    pub session: UdpPort,
    /// Relay frames.
    pub relay: UdpPort,
}

/// Position of the session socket in the kernel's group: sockets count in the order they were bound.
const SESSION_INDEX: u32 = 0;
/// Position of the relay socket.
const RELAY_INDEX: u32 = 1;

/// Binds both sockets; port 0 takes a free port for both.
///
/// # Errors
/// Names the step that failed and the kernel's reason.
pub fn bind_pair(address: SocketAddr) -> Result<PortPair, BindError> {
    let fail = |step| move |source| BindError { address, step, source };
    // With SO_REUSEPORT a second process of the same user would silently take part of the traffic.
    // A plain socket first finds that out.
    let probe = open(address, Sharing::Alone)?;
    drop(probe);
    let session = open(address, Sharing::Group)?;
    let bound = session
        .local_addr()
        .and_then(|local| local.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into()))
        .map_err(fail(BindStep::Bind))?;
    // Until the second socket has joined, index 1 names nobody, and the kernel falls back to its hash
    // over one socket: no datagram is lost in between.
    attach_filter(&session).map_err(fail(BindStep::Filter))?;
    let relay = open(bound, Sharing::Group)?;
    Ok(PortPair { session: UdpPort::register(session, address)?, relay: UdpPort::register(relay, address)? })
}

/// Five instructions: load byte 0 of the payload, mask it, compare, answer with a socket's index.
const fn filter() -> [libc::sock_filter; 5] {
    const fn op(code: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
        assert!(code <= 0xFFFF, "classic BPF operation codes have 16 bits");
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        libc::sock_filter { code: code as u16, jt, jf, k }
    }
    [
        op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, RELAY_FIRST_BYTE_MASK as u32, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, RELAY_FIRST_BYTE_VALUE as u32, 0, 1),
        op(libc::BPF_RET | libc::BPF_K, RELAY_INDEX, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, SESSION_INDEX, 0, 0),
    ]
}

#[expect(unsafe_code, reason = "no safe wrapper sets SO_ATTACH_REUSEPORT_CBPF")]
fn attach_filter(socket: &Socket) -> io::Result<()> {
    let mut program = filter();
    let header = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("five instructions"),
        filter: program.as_mut_ptr(),
    };
    let header_len = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).expect("a struct of two words");
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; `header` and the program it
    // points to live until the call returns; the kernel copies both and writes to neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const header).cast(),
            header_len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
