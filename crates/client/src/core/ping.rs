//! How long it takes to the connector of a resource and back, by the way that data takes now.

use super::{ClientCore, DialFault, Output, find};
use crate::target::Host;
use std::time::{Duration, Instant};
use tunnel::{Path, PeerId, PingId};
use wire::{ConnectorId, Refusal};

/// Pings at once.
const MAX_PINGS: usize = 64;
/// A tunnel that does not come about within this is not waited for.
const OPEN_WITHIN: Duration = Duration::from_secs(12);
/// An answer that does not come within this was lost.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Names a ping that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PingToken(u64);

/// What came of a ping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PingReport {
    /// The connector that was asked.
    pub connector: ConnectorId,
    /// Its name.
    pub connector_name: String,
    /// By which way.
    pub way: Path,
    /// How long it took; none when no answer came.
    pub round_trip: Option<Duration>,
}

pub(super) struct Waiting {
    token: PingToken,
    connector: ConnectorId,
    deadline: Instant,
    sent: Option<(PeerId, PingId, Path)>,
}

impl ClientCore {
    /// Asks the connector of a resource for an answer, opening a tunnel if there is none; [`Output::Pinged`]
    /// follows.
    pub fn ping(&mut self, now: Instant, host: &Host) -> PingToken {
        let token = PingToken(self.next_ping);
        self.next_ping += 1;
        match self.connector_of(host) {
            Ok(connector) => {
                self.pings.push(Waiting { token, connector, deadline: now + OPEN_WITHIN, sent: None });
                self.ensure_link(now, connector);
                self.send_pings(now, connector);
            }
            Err(fault) => self.outputs.push_back(Output::Pinged { token, result: Err(fault) }),
        }
        self.pump(now);
        token
    }

    fn connector_of(&self, host: &Host) -> Result<ConnectorId, DialFault> {
        if self.pings.len() >= MAX_PINGS {
            return Err(DialFault::new(Refusal::Full));
        }
        let resource = find(&self.slice, host, None).ok_or_else(|| DialFault {
            detail: format!(
                "{host} is not a resource that a policy gives this device; `tidegate resources` lists those"
            ),
            ..DialFault::new(Refusal::NoResource)
        })?;
        self.connectors_of(resource.site).first().copied().ok_or_else(|| DialFault {
            detail: "no connector is enrolled in the resource's site".into(),
            ..DialFault::new(Refusal::NotAttached)
        })
    }

    /// Sends what waited for a way to a connector.
    pub(super) fn send_pings(&mut self, now: Instant, connector: ConnectorId) {
        let Some((peer, way)) =
            self.links.get(&connector).and_then(|link| Some((link.peer?, self.way_of(link)?)))
        else {
            return;
        };
        for waiting in self.pings.iter_mut().filter(|waiting| waiting.connector == connector) {
            if waiting.sent.is_none()
                && let Some(ping) = self.tunnels.ping(now, peer)
            {
                waiting.sent = Some((peer, ping, way));
                waiting.deadline = now + ANSWER_WITHIN;
            }
        }
    }

    /// A ping was answered.
    pub(super) fn pong(&mut self, peer: PeerId, ping: PingId, round_trip: Duration) {
        let of = |waiting: &Waiting| waiting.sent.is_some_and(|sent| (sent.0, sent.1) == (peer, ping));
        if let Some(at) = self.pings.iter().position(of) {
            let waiting = self.pings.swap_remove(at);
            self.pinged(waiting, Some(round_trip), DialFault::new(Refusal::Timeout));
        }
    }

    /// There is no way to a connector.
    pub(super) fn fail_pings(&mut self, connector: ConnectorId, fault: &DialFault) {
        let (failed, rest) = std::mem::take(&mut self.pings)
            .into_iter()
            .partition(|waiting| waiting.connector == connector && waiting.sent.is_none());
        self.pings = rest;
        for waiting in failed {
            self.pinged(waiting, None, fault.clone());
        }
    }

    pub(super) fn expire_pings(&mut self, now: Instant) {
        let (late, rest) =
            std::mem::take(&mut self.pings).into_iter().partition(|waiting| waiting.deadline <= now);
        self.pings = rest;
        for waiting in late {
            self.pinged(waiting, None, DialFault::new(Refusal::Timeout));
        }
    }

    pub(super) fn next_ping_timeout(&self) -> Option<Instant> {
        self.pings.iter().map(|waiting| waiting.deadline).min()
    }

    fn pinged(&mut self, waiting: Waiting, round_trip: Option<Duration>, fault: DialFault) {
        let Waiting { token, connector, sent, .. } = waiting;
        let connector_name =
            self.links.get(&connector).map(|link| link.connector.name.clone()).unwrap_or_default();
        let result = match sent {
            Some((.., way)) => Ok(PingReport { connector, connector_name, way, round_trip }),
            None => Err(fault),
        };
        self.outputs.push_back(Output::Pinged { token, result });
    }
}
