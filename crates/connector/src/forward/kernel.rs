//! The kernel mode's interface: packets to this machine's kernel and back, in batches. Which packets decides the core.

use crate::core::SiteSide;
use crate::status::{ForwardingMode, ForwardingReport};
use machine::{Coalescer, PacketBatch, SiteFacts, SiteSeat};
use std::io;
use std::net::IpAddr;

/// Packets that go to the kernel together at the most.
const BURST: usize = 256;

/// How flows get into the site.
#[derive(Debug)]
pub enum Forwarding {
    /// By this process itself.
    Userspace {
        /// Why, where the kernel was asked for.
        reason: Option<String>,
    },
    /// By the kernel, through the interface of this seat.
    Kernel(Box<SiteSeat>),
}

impl Forwarding {
    /// What the kernel knows the connector by.
    pub(crate) fn side(&self) -> Option<SiteSide> {
        match self {
            Self::Userspace { .. } => None,
            Self::Kernel(seat) => Some(SiteSide { v4: seat.facts.v4, v6: seat.facts.v6 }),
        }
    }
}

/// What waits to go to the kernel, and what did not.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    packets: Vec<Vec<u8>>,
    coalescer: Coalescer,
    refused: u64,
}

/// The shell's part.
pub(crate) struct Kernel {
    forwarding: Forwarding,
    outgoing: Outgoing,
}

impl Kernel {
    pub fn new(forwarding: Forwarding) -> Self {
        Self { forwarding, outgoing: Outgoing::default() }
    }

    /// Waits for packets of the site; for ever in userspace mode.
    ///
    /// # Errors
    /// The interface is gone, or its guardian.
    pub async fn recv(&mut self, batch: &mut PacketBatch) -> io::Result<()> {
        match &mut self.forwarding {
            Forwarding::Userspace { .. } => std::future::pending().await,
            Forwarding::Kernel(seat) => seat.recv(batch).await,
        }
    }

    /// A packet for the kernel; it goes with others at the next [`Self::flush`].
    pub fn push(&mut self, packet: Vec<u8>) {
        self.outgoing.packets.push(packet);
        if self.outgoing.packets.len() >= BURST {
            self.flush();
        }
    }

    /// Gives the kernel what is there for it. What it does not take is lost, as in any network.
    pub fn flush(&mut self) {
        let Outgoing { packets, coalescer, refused } = &mut self.outgoing;
        if packets.is_empty() {
            return;
        }
        if let Forwarding::Kernel(seat) = &self.forwarding {
            *refused += u64::try_from(seat.tun.send(packets, coalescer)).unwrap_or(u64::MAX);
        }
        packets.clear();
    }

    /// What `status` shows.
    pub fn report(&self) -> ForwardingReport {
        match &self.forwarding {
            Forwarding::Userspace { reason } => {
                ForwardingReport { reason: reason.clone(), ..ForwardingReport::default() }
            }
            Forwarding::Kernel(seat) => {
                let SiteFacts { interface, guardian, v4, v6, notes, .. } = seat.facts.clone();
                ForwardingReport {
                    mode: ForwardingMode::Kernel,
                    reason: None,
                    interface: Some(interface),
                    guardian: Some(guardian),
                    addresses: [Some(IpAddr::V4(v4)), v6.map(IpAddr::V6)].into_iter().flatten().collect(),
                    privileges: machine::privileges().ok(),
                    notes,
                    refused: self.outgoing.refused,
                }
            }
        }
    }
}
