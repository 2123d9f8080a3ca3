//! What the core gives to its owner: things to do, and how it stands.

#[cfg(doc)]
use super::ConnectorCore;
use crate::core::datagrams::DatagramRequest;
use crate::core::passages::PassageId;
use crate::record::FlowRecord;
use flow::FlowId;
use std::net::SocketAddr;
use std::time::Instant;
use tunnel::{Count, Path, Traffic};
use wire::{FromAgent, PopId};

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// Send this datagram to the PoP of the path.
    Transmit {
        /// The path.
        path: Path,
        /// The whole UDP payload.
        bytes: Vec<u8>,
    },
    /// Say this on the session to a PoP.
    ToPop {
        /// The PoP.
        pop: PopId,
        /// The message.
        message: FromAgent,
    },
    /// Nothing comes back by a relay path: its PoP is worth a question.
    RelayQuiet,
    /// Resolve a name in the site, then call [`ConnectorCore::resolved`].
    Resolve {
        /// For which flow.
        flow: FlowId,
        /// The name.
        host: String,
    },
    /// Connect to the first of these that accepts, then call [`ConnectorCore::dialled`].
    Dial {
        /// For which flow.
        flow: FlowId,
        /// Where to, in order.
        addresses: Vec<SocketAddr>,
    },
    /// There is something to [`ConnectorCore::read`].
    Readable(FlowId),
    /// There is room to [`ConnectorCore::write`] again.
    Writable(FlowId),
    /// The flow is over; drop its connection to the target. A fault is passed on as a reset.
    Ended {
        /// Which.
        flow: FlowId,
        /// How.
        ending: Ending,
    },
    /// Resolve a name in the site, then call [`ConnectorCore::passage_resolved`].
    ResolvePassage {
        /// For which passage.
        passage: PassageId,
        /// The name.
        host: String,
    },
    /// Hand a packet to this machine's kernel.
    ToSite(Vec<u8>),
    /// Something of a UDP or ICMP conversation; [`ConnectorCore::datagram_news`] takes what becomes of it.
    Datagrams(DatagramRequest),
    /// A line for the flow log.
    Record(Box<FlowRecord>),
    /// Nothing more until then, or until something comes in.
    Timeout(Option<Timeout>),
}

/// How a flow ended, for the connection to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both sides finished.
    Finished,
    /// Something else: the target is reset.
    Cut,
}

/// When to call [`ConnectorCore::handle_timeout`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: &'static str,
}

/// Why a target was not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFault {
    /// It refused.
    Refused,
    /// It did not answer in time, or there is no way to it.
    Unreachable,
    /// This connector has too many connections.
    Full,
}

/// What people may see of the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct CoreStatus {
    /// Devices let in.
    pub sessions: usize,
    /// TCP flows open or being opened.
    pub flows: usize,
    /// UDP and ICMP conversations.
    #[serde(default)]
    pub datagram_flows: usize,
    /// How many of both pass through the kernel.
    #[serde(default)]
    pub kernel_flows: usize,
    /// Packets that the kernel had for this connector and that belonged to no flow.
    #[serde(default)]
    pub site_strays: u64,
    /// Packets, either way, that were no packets or had no hops left.
    #[serde(default)]
    pub site_unusable: u64,
    /// Datagrams that waited for a name or a socket and were too many.
    #[serde(default)]
    pub datagrams_no_room: u64,
    /// Packets in pieces that were not put together: too long, overlapping, or not complete.
    #[serde(default)]
    pub fragments_dropped: u64,
    /// Packets to an address that a client took for a name and that means none here; the client is asked to say it again.
    #[serde(default)]
    pub packets_of_no_name: u64,
    /// Names that clients wanted for addresses and did not get.
    #[serde(default)]
    pub bindings_refused: u64,
    /// Bindings of addresses in use that were too many in a second to be looked at; the client says them again.
    #[serde(default)]
    pub rebindings_put_off: u64,
    /// Introductions accepted since the start.
    pub introductions_accepted: u64,
    /// Introductions refused since the start.
    pub introductions_refused: u64,
    /// Packets whose source was not the device's.
    pub wrong_source: u64,
    /// Packets that no reader takes.
    pub malformed: u64,
    /// Refusals that were too many to log one by one.
    pub refusals_not_logged: u64,
    /// Devices whose packets go straight between the two machines now.
    pub direct: usize,
    /// How often packets took another way.
    pub moves: Moves,
    /// Packets by relays and straight, both directions, since the start.
    pub packets: ByPath,
    /// Their bytes.
    pub bytes: ByPath,
}

/// A count for each kind of path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct ByPath {
    /// Sent by relays.
    pub relay_sent: u64,
    /// Taken from relays.
    pub relay_received: u64,
    /// Sent straight to clients.
    pub direct_sent: u64,
    /// Taken straight from clients.
    pub direct_received: u64,
}

impl ByPath {
    pub(super) fn of(traffic: Traffic, part: impl Fn(Count) -> u64) -> Self {
        Self {
            relay_sent: part(traffic.relay_sent),
            relay_received: part(traffic.relay_received),
            direct_sent: part(traffic.direct_sent),
            direct_received: part(traffic.direct_received),
        }
    }
}

/// How often packets of any device took another way, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Moves {
    /// To an address that proved itself.
    pub to_direct: u64,
    /// Back to the relay.
    pub to_relay: u64,
}
