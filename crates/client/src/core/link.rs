//! The way to one connector: opened on demand, opened again while flows wait for it.

use super::{MAX_REOPENS, OpenToken};
use policy::ClientConnector;
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use tunnel::{MoveReason, Path, PeerId};
use wire::{Refusal, SiteId};

/// First local port of a tunnel's flows, and how many there are (RFC 6335 section 6: the dynamic range).
const FIRST_PORT: u16 = 49_152;
const PORTS: u16 = u16::MAX - FIRST_PORT + 1;
/// The longest pause before another introduction.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How far a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nobody needs it.
    Idle,
    /// An introduction was asked for.
    Opening { token: OpenToken, peer: PeerId, sent: Instant, until: Instant },
    /// Packets flow.
    Up { path: Path },
    /// Was refused for now, and flows wait.
    Backoff { until: Instant },
}

/// The addresses inside the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

impl Inner {
    pub(super) const fn for_family_of(self, destination: IpAddr) -> IpAddr {
        match destination {
            IpAddr::V4(_) => IpAddr::V4(self.v4),
            IpAddr::V6(_) => IpAddr::V6(self.v6),
        }
    }
}

/// One connector and the way to it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connector: ClientConnector,
    pub(super) site: SiteId,
    pub(super) stage: Stage,
    pub(super) peer: Option<PeerId>,
    pub(super) inner: Option<Inner>,
    /// Since when there is a way.
    pub(super) up_since: Option<Instant>,
    /// When and why packets last took another way.
    pub(super) moved: Option<(Instant, MoveReason)>,
    /// How long the last introduction took: one round trip through PoP and connector.
    pub(super) round_trip: Option<Duration>,
    /// The last refusal, until an introduction succeeds.
    pub(super) refusal: Option<Refusal>,
    /// Which grant the connector was shown last.
    pub(super) shown: u64,
    /// The way that goes on working while the connector is shown a newer grant.
    pub(super) renewing: Option<Path>,
    /// Refusals since the last success, for the pause between two tries.
    pub(super) attempts: u32,
    next_port: u16,
}

impl Link {
    pub(super) const fn new(connector: ClientConnector, site: SiteId) -> Self {
        Self {
            connector,
            site,
            stage: Stage::Idle,
            peer: None,
            inner: None,
            up_since: None,
            moved: None,
            round_trip: None,
            refusal: None,
            shown: 0,
            renewing: None,
            attempts: 0,
            next_port: 0,
        }
    }

    /// A local port; comes again after 16,384 others.
    pub(super) const fn take_port(&mut self) -> u16 {
        let port = FIRST_PORT + self.next_port % PORTS;
        self.next_port = self.next_port.wrapping_add(1);
        port
    }

    pub(super) const fn deadline(&self) -> Option<(Instant, &'static str)> {
        match &self.stage {
            Stage::Opening { until, .. } => Some((*until, "an introduction")),
            Stage::Backoff { until } => Some((*until, "the next introduction")),
            Stage::Idle | Stage::Up { .. } => None,
        }
    }

    /// The pause before the next try: 0.25 s, doubled with every second try up to 2 s, because a connector that was left
    /// by a restart of its PoP is back within two seconds; and never before the time that was asked for; `None`
    /// when flows have waited long enough.
    pub(super) fn pause(&mut self, asked: Duration) -> Option<Duration> {
        self.attempts += 1;
        if self.attempts > MAX_REOPENS {
            return None;
        }
        let doubled = Duration::from_millis(250 << (self.attempts / 2).min(3));
        Some(doubled.max(asked.min(LONGEST_PAUSE)))
    }
}
