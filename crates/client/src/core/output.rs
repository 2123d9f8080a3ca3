//! What the core wants done, and what people may see of it.

use super::ping::{PingReport, PingToken};
use flow::FlowId;
use policy::ClientSlice;
use std::time::{Duration, Instant};
use tunnel::{MoveReason, PairReport, Path};
use wire::{ConnectorId, PopId, Refusal, ResourceId, SiteId};

/// A connection that is being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DialId(pub(super) u64);

/// Names an introduction that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenToken(pub(super) u64);

/// Why a connection was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialFault {
    /// For programs.
    pub reason: Refusal,
    /// For people.
    pub detail: String,
    /// When trying again can help.
    pub retry_after: Option<Duration>,
}

impl DialFault {
    pub(super) fn new(reason: Refusal) -> Self {
        Self { reason, detail: reason.to_string(), retry_after: None }
    }
}

/// How an established flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Both sides finished.
    Finished,
    /// Something else: what was carried may be incomplete.
    Cut,
}

/// What the core wants done.
#[derive(Debug)]
pub enum Output {
    /// Ask for an introduction; [`ClientCore::opened`] or [`ClientCore::open_refused`] answers.
    Open {
        /// Comes back in the answer.
        token: OpenToken,
        /// To whom.
        connector: ConnectorId,
        /// In which site.
        site: SiteId,
        /// The part that only the connector reads.
        sealed: Vec<u8>,
        /// The WireGuard handshake initiation.
        initiation: Vec<u8>,
    },
    /// Give this path's channel back.
    GiveBack(Path),
    /// Send this datagram by a path.
    Transmit {
        /// The path.
        path: Path,
        /// The whole UDP payload.
        bytes: Vec<u8>,
    },
    /// Give this packet to the machine's own stack.
    Packet(Vec<u8>),
    /// Nothing comes back by this relay path: its PoP is worth a question.
    RelayQuiet(Path),
    /// A ping came to its end.
    Pinged {
        /// Which.
        token: PingToken,
        /// How long it took, or why there is no way.
        result: Result<PingReport, DialFault>,
    },
    /// A dial came to its end.
    Dialled {
        /// Which.
        dial: DialId,
        /// The flow, or why there is none.
        result: Result<FlowId, DialFault>,
    },
    /// There is something to [`ClientCore::read`].
    Readable(FlowId),
    /// There is room to [`ClientCore::write`] again.
    Writable(FlowId),
    /// The flow is over; its id means nothing any more.
    Ended {
        /// Which.
        flow: FlowId,
        /// How.
        ending: Ending,
    },
    /// Nothing more until then, or until something comes in.
    Timeout(Option<Timeout>),
}

/// When to call [`ClientCore::handle_timeout`], and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    /// When.
    pub at: Instant,
    /// Why.
    pub reason: &'static str,
}

/// How a connector is reached, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// The connector.
    pub connector: ConnectorId,
    /// Its name.
    pub connector_name: String,
    /// Its site.
    pub site: SiteId,
    /// The PoP whose relay is in use or kept warm; none while there is none.
    pub pop: Option<PopId>,
    /// By which way packets go; none without a tunnel.
    pub way: Option<Path>,
    /// Since when there is a way.
    pub up_since: Option<Instant>,
    /// When and why they last took another way.
    pub moved: Option<(Instant, MoveReason)>,
    /// The round trip of the last introduction.
    pub round_trip: Option<Duration>,
    /// The round trip of the direct path in use.
    pub direct_round_trip: Option<Duration>,
    /// The connector's addresses that were tried.
    pub pairs: Vec<PairReport>,
    /// Why the last introduction failed.
    pub refusal: Option<Refusal>,
    /// Flows inside.
    pub flows: usize,
}

/// How often packets took another way, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Moves {
    /// To an address that proved itself.
    pub to_direct: u64,
    /// Back to the relay.
    pub to_relay: u64,
}

/// The resources of a slice with the links that lead to them, for `status`.
#[must_use]
pub fn link_of(links: &[LinkReport], slice: &ClientSlice, resource: ResourceId) -> Option<LinkReport> {
    let site = slice.resources.iter().find(|known| known.id == resource)?.site;
    let of_site = links.iter().filter(|link| link.site == site);
    of_site.max_by_key(|link| (link.way.is_some(), link.flows)).cloned()
}
