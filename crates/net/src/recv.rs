//! What the kernel gave, cut into datagrams.

use quinn_udp::RecvMeta;
use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
};

/// Longest run of segments the kernel merges into one buffer (a UDP length field).
const BUFFER_LEN: usize = 65_535;
/// Buffers of a PoP's socket: 2 MiB, at most 64 × 32 datagrams a system call.
const POP_BUFFERS: usize = quinn_udp::BATCH_SIZE;
/// Buffers of an agent's socket: 512 KiB.
const AGENT_BUFFERS: usize = 8;

/// One received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Who sent it, IPv4 as IPv4 whatever the socket's family.
    pub from: SocketAddr,
    /// The local address it came to, where the system tells.
    pub to: Option<IpAddr>,
    /// Its bytes.
    pub payload: &'a [u8],
}

/// One received datagram that may be changed in place, as a relay does.
#[derive(Debug, PartialEq, Eq)]
pub struct DatagramMut<'a> {
    /// Who sent it, IPv4 as IPv4 whatever the socket's family.
    pub from: SocketAddr,
    /// The local address it came to, where the system tells.
    pub to: Option<IpAddr>,
    /// Its bytes.
    pub payload: &'a mut [u8],
}

/// Reusable buffers for receiving. Memory is fixed when it is made.
pub struct RecvBatch {
    buffers: Vec<Vec<u8>>,
    metas: Vec<RecvMeta>,
    filled: usize,
}

impl RecvBatch {
    /// Buffers for a PoP's socket (2 MiB).
    #[must_use]
    pub fn for_pop() -> Self {
        Self::with_buffers(POP_BUFFERS)
    }

    /// Buffers for an agent's socket (512 KiB).
    #[must_use]
    pub fn for_agent() -> Self {
        Self::with_buffers(AGENT_BUFFERS)
    }

    fn with_buffers(count: usize) -> Self {
        Self { buffers: vec![vec![0; BUFFER_LEN]; count], metas: vec![RecvMeta::default(); count], filled: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.filled = 0;
    }

    pub(crate) fn fill(
        &mut self,
        receive: impl FnOnce(&mut [IoSliceMut<'_>], &mut [RecvMeta]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.filled = 0;
        let mut slices: Vec<IoSliceMut<'_>> =
            self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        self.filled = receive(&mut slices, &mut self.metas)?;
        Ok(())
    }

    /// The datagrams, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = Datagram<'_>> {
        self.metas[..self.filled].iter().zip(&self.buffers).flat_map(|(meta, buffer)| {
            let (from, to) = addresses(meta);
            buffer[..meta.len.min(BUFFER_LEN)].chunks(stride(meta)).map(move |payload| Datagram {
                from,
                to,
                payload,
            })
        })
    }

    /// The datagrams, in the order they came, changeable in place.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = DatagramMut<'_>> {
        self.metas[..self.filled].iter().zip(&mut self.buffers).flat_map(|(meta, buffer)| {
            let (from, to) = addresses(meta);
            buffer[..meta.len.min(BUFFER_LEN)].chunks_mut(stride(meta)).map(move |payload| DatagramMut {
                from,
                to,
                payload,
            })
        })
    }
}

impl std::fmt::Debug for RecvBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecvBatch({} of {} buffers filled)", self.filled, self.buffers.len())
    }
}

/// An empty datagram has stride 0; it yields nothing, as nobody's protocol has one.
fn stride(meta: &RecvMeta) -> usize {
    meta.stride.max(1)
}

fn addresses(meta: &RecvMeta) -> (SocketAddr, Option<IpAddr>) {
    let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
    (from, meta.dst_ip.map(|ip| ip.to_canonical()))
}
