//! Loopback ports for processes that are told where to listen and must find the same port again after a
//! restart. Used by the demo and, as a source file, by this crate's tests.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
};

/// Below Linux' ephemeral ports (`ip_local_port_range`, 32768 and up): the system gives none of these to a
/// connection that goes out or to a socket that asks for any port, so a port that is free now is free when
/// its process starts.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A loopback address whose port is free for UDP and for TCP. Neighbouring processes begin at different
/// places, and one process never gets the same port twice in a row.
///
/// # Errors
/// The last port's, when none is free.
pub fn free() -> io::Result<SocketAddr> {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    // A prime far from any power of two spreads consecutive process ids over the range.
    let start = std::process::id().wrapping_mul(7_919);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..COUNT {
        let step = start.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)) % u32::from(COUNT);
        let port = FIRST + u16::try_from(step).expect("the remainder is below a u16");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match UdpSocket::bind(address).and_then(|_udp| TcpListener::bind(address)) {
            Ok(_) => return Ok(address),
            Err(error) => last = error,
        }
    }
    Err(last)
}
