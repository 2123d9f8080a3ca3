//! A connector that does not answer: whoever waits for it goes by another of its site, at once.
//!
//! Silence alone says little: a connector answers a connection when its target has. So one that is silent is asked, inside
//! the tunnel, by the way that data takes; one that says nothing to that either is suspected. What waits for its first
//! answer moves on then, new connections go elsewhere first, and what runs stays: it cannot move, and its connector may
//! come back.

use super::{ClientCore, DialFault, dials::DialStage, link::Stage};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tunnel::PeerId;
use wire::{ConnectorId, Refusal};

/// A question is sent again after this, for it may have been lost.
const ASK_AGAIN: Duration = Duration::from_millis(400);
/// A connector that answered none of them within this is suspected: three questions, and a round trip of half a second.
const SUSPECTED_AFTER: Duration = Duration::from_millis(1_300);
/// An introduction that is not answered within this is not waited for alone; a PoP needs a round trip for it.
const OPENED_WITHIN: Duration = Duration::from_secs(2);
/// A suspect that nobody has heard of since is tried like any other again after this.
const SUSPECTED_FOR: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Instant,
    asked: Instant,
}

/// Connectors that do not answer.
#[derive(Debug, Default)]
pub(super) struct Failover {
    doubts: BTreeMap<ConnectorId, Doubt>,
    suspects: BTreeMap<ConnectorId, Instant>,
}

impl Failover {
    pub(super) fn is_suspect(&self, connector: ConnectorId) -> bool {
        self.suspects.contains_key(&connector)
    }

    /// Something came from a connector.
    pub(super) fn heard(&mut self, connector: ConnectorId) {
        if !self.doubts.is_empty() || !self.suspects.is_empty() {
            self.doubts.remove(&connector);
            self.suspects.remove(&connector);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let doubts =
            self.doubts.values().map(|doubt| (doubt.asked + ASK_AGAIN).min(doubt.since + SUSPECTED_AFTER));
        let suspects = self.suspects.values().map(|since| *since + SUSPECTED_FOR);
        doubts.chain(suspects).min()
    }
}

impl ClientCore {
    /// Nothing comes back from a connector, which may have nothing to say.
    pub(super) fn doubt(&mut self, now: Instant, peer: PeerId) {
        let Some(id) = self.by_peer.get(&peer).copied() else { return };
        let is_known = self.failover.doubts.contains_key(&id) || self.failover.is_suspect(id);
        if planted::is("silence-is-death") {
            self.failover.suspects.insert(id, now);
            self.move_dials(now, id);
        }
        if !is_known && self.has_another(id) && self.is_wanted(now, id) {
            self.failover.doubts.insert(id, Doubt { since: now, asked: now });
            let _ = self.tunnels.ping(now, peer);
        }
    }

    /// Whether the site of a connector has another that is not suspected.
    fn has_another(&self, id: ConnectorId) -> bool {
        self.slice
            .sites
            .iter()
            .filter(|site| site.connectors.iter().any(|connector| connector.id == id))
            .flat_map(|site| &site.connectors)
            .any(|connector| connector.id != id && !self.failover.is_suspect(connector.id))
    }

    /// Introductions that take too long to be waited for alone, and since when.
    fn slow_to_open(&self) -> impl Iterator<Item = (ConnectorId, Instant)> {
        self.links.iter().filter_map(|(id, link)| match link.stage {
            Stage::Opening { sent, .. }
                if link.renewing.is_none() && !self.failover.is_suspect(*id) && self.has_another(*id) =>
            {
                Some((*id, sent + OPENED_WITHIN))
            }
            _ => None,
        })
    }

    pub(super) fn failover_at(&self) -> Option<Instant> {
        self.failover.deadline().into_iter().chain(self.slow_to_open().map(|(_, at)| at)).min()
    }

    /// Asks again, and believes silence.
    pub(super) fn failover_due(&mut self, now: Instant) {
        self.failover.suspects.retain(|_, since| *since + SUSPECTED_FOR > now);
        let mut silent: Vec<ConnectorId> =
            self.slow_to_open().filter(|(_, at)| *at <= now).map(|(id, _)| id).collect();
        let mut again = Vec::new();
        self.failover.doubts.retain(|id, doubt| {
            if doubt.since + SUSPECTED_AFTER <= now {
                silent.push(*id);
                return false;
            }
            if doubt.asked + ASK_AGAIN <= now {
                doubt.asked = now;
                again.push(*id);
            }
            true
        });
        for id in again {
            if let Some(peer) = self.links.get(&id).and_then(|link| link.peer) {
                let _ = self.tunnels.ping(now, peer);
            }
        }
        if planted::is("silence-is-patience") {
            silent.clear();
        }
        for id in silent {
            self.failover.suspects.insert(id, now);
            tracing::info!(connector = %id, "a connector does not answer; others of its site are asked first");
            self.move_dials(now, id);
            self.move_conversations(now, id);
        }
    }

    /// Connections that a suspect has not answered go on with the next connector, if there is one.
    fn move_dials(&mut self, now: Instant, id: ConnectorId) {
        let waits = |stage: &DialStage| match stage {
            DialStage::Link(connector) => *connector == id,
            DialStage::Flow(flow) => self.entries.get(flow).is_some_and(|entry| entry.connector == id),
        };
        let waiting: Vec<_> = self
            .dials
            .iter()
            .filter(|(_, dialling)| !dialling.rest.is_empty() && waits(&dialling.stage))
            .map(|(dial, dialling)| (*dial, dialling.stage))
            .collect();
        for (dial, stage) in waiting {
            if let DialStage::Flow(flow) = stage {
                self.entries.remove(&flow);
                let _ = self.flows.abort(now, flow);
            }
            self.next_connector(now, dial, DialFault::new(Refusal::Timeout));
        }
    }
}
