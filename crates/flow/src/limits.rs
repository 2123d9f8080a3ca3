//! Bounds and times, with where they come from.

use std::time::Duration;

/// The longest packet a tunnel is sure to carry (architecture; RFC 8200 section 5).
pub const INNER_MTU: usize = 1_280;
/// The longest packet of a flow on a link of which nothing more is known: it needs no fragments where the outer path
/// carries 1,280 bytes and no more. 1,280 less IPv6 (40), UDP (8), the relay (12) and WireGuard (32) is 1,188, and
/// WireGuard pads to sixteen bytes.
pub const FLOW_MTU: usize = 1_176;
/// The longest packet of a flow on any link: a 1,500-byte link less WireGuard (32), UDP (8) and IPv6 (40). Each stack
/// announces the MSS that fits this one, because it can take such packets whatever the link carries at the moment, and
/// **sends** no longer ones than the link carries now ([`crate::Flows::set_link_mtu`]): so a flow may follow its link
/// up and down.
pub const MAX_FLOW_MTU: usize = 1_420;

/// What a [`crate::Flows`] may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowLimits {
    /// Most flows.
    pub flows: usize,
    /// Most flows of one link, so that one device cannot take them all.
    pub flows_per_link: usize,
    /// Bytes of receive buffer and of send buffer for each flow: its window.
    pub buffer: usize,
    /// How many flows may have that much. What is opened while there are more of them gets [`Self::small`].
    pub full: usize,
    /// Bytes of either buffer in a crowd.
    pub small: usize,
}

impl FlowLimits {
    /// 256 KiB a direction: 50 Mbit/s at a round trip of 40 ms (window ÷ round trip), and no more than a
    /// UDP socket's receive buffer takes in one burst. The pages are untouched until used, so an idle
    /// flow costs a few kB; the worst case is 2,048 × 512 KiB = 1 GiB, reached only when every flow's
    /// reader has stopped.
    pub const DEFAULT: Self =
        Self { flows: 2_048, flows_per_link: 512, buffer: 256 * 1024, full: 2_048, small: 256 * 1024 };

    /// A connector's: 10,240 flows in the same GiB. The first 1,024 have what any has; a crowd's have 28 KiB, twenty
    /// segments, or 5.7 Mbit/s at a round trip of 40 ms.
    pub const CONNECTOR: Self =
        Self { flows: 10_240, flows_per_link: 2_560, buffer: 256 * 1024, full: 1_024, small: 28 * 1024 };

    /// What a flow gets that is opened beside `open` others.
    #[must_use]
    pub const fn buffer_beside(self, open: usize) -> usize {
        if open < self.full { self.buffer } else { self.small }
    }

    /// Most bytes of buffers that all flows hold together: no more than `full` have large ones, because a flow gets one
    /// only while there are fewer flows than that.
    #[must_use]
    pub const fn worst_case_bytes(self) -> usize {
        let large = if self.full < self.flows { self.full } else { self.flows };
        2 * (large * self.buffer + (self.flows - large) * self.small)
    }
}

const _: () =
    assert!(FlowLimits::DEFAULT.worst_case_bytes() <= 1 << 30, "a GiB is the most a connector may take");
const _: () =
    assert!(FlowLimits::CONNECTOR.worst_case_bytes() <= 1 << 30, "a GiB is the most a connector may take");

/// Packets that one flow may send before the next flow's turn: a GSO batch.
pub(crate) const BURST: usize = 64;
/// Outputs that wait for the driver; more work is not begun before they are taken.
pub(crate) const MAX_OUTPUTS: usize = 4_096;

/// How long a SYN is held for an answer. Longer than any connect deadline of an acceptor, shorter than
/// [`CONNECT_TIMEOUT`], so that the dialler is told.
pub(crate) const HELD_LIFETIME: Duration = Duration::from_secs(45);
/// How long a handshake may take: an acceptor holds the SYN while it connects to the target.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Unacknowledged data without a sign of life ends a flow. RFC 9293 section 3.8.3 asks for 100 s at
/// least; the stack waits up to a minute between two tries after heavy loss, so we take what Linux takes
/// (tcp_retries2 = 15: 924.6 s). A peer that is really gone is noticed by its tunnel long before.
pub(crate) const USER_TIMEOUT: Duration = Duration::from_secs(925);
/// An established flow without a packet either way (RFC 5382 REQ-5: not below 2 h 4 min).
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// How long a finished flow's retransmitted FIN is still acknowledged. The stack's own TIME-WAIT; twice
/// a segment's life is not needed where both ends keep sequence numbers apart by a random start.
pub(crate) const LINGER: Duration = Duration::from_secs(10);
/// Finished flows remembered for [`LINGER`]; the oldest go first. 4,096 × about 100 bytes.
pub(crate) const MAX_LINGERING: usize = 4_096;
/// Resets a second for packets of unknown flows; the rest is dropped. RFC 9293 asks for a reset, Linux
/// limits what it answers the unknown by the same order (net.ipv4.icmp_msgs_per_sec: 1,000 a second).
pub(crate) const RESETS_PER_SECOND: u32 = 200;
