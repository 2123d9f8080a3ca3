//! Tunnels to connectors: opened when somebody wants in, opened again while flows wait, shown newer grants, given up.

use super::link::{self, Inner, Link, Stage};
use super::{ClientCore, DialFault, OpenToken, Output};
use flow::{FlowId, LinkId};
use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};
use trust::{SealKey, seal_open, sign_open};
use tunnel::{Path, WireGuardPublicKey};
use wire::{Bounded, ConnectorId, OpenBody, Refusal, RefusalClass};

/// The agent answers within 10 s; later, the question was lost.
pub(super) const OPEN_DEADLINE: Duration = Duration::from_secs(12);
/// A device with many tunnels shows a newer grant to four connectors a second, below what PoPs take from one device.
const RENEW_PACE: Duration = Duration::from_millis(250);
/// A renewal that failed for now is tried again after this: hours are left.
const RENEW_AGAIN: Duration = Duration::from_secs(15);

impl ClientCore {
    /// Begins opening the link to a connector. There is none when the slice has no such connector.
    pub(super) fn ensure_link(&mut self, now: Instant, id: ConnectorId) {
        if !self.links.contains_key(&id) {
            let known = self.slice.sites.iter().find_map(|site| {
                let connector = site.connectors.iter().find(|connector| connector.id == id)?;
                Some((site.id, connector.clone()))
            });
            let Some((site, connector)) = known else { return };
            self.links.insert(id, Link::new(connector, site));
        }
        if self.links.get(&id).is_some_and(|link| matches!(link.stage, Stage::Idle | Stage::Backoff { .. })) {
            self.open_link(now, id);
        }
    }

    /// By which way packets go to a connector that let this device in; none while there is no way.
    pub(super) fn way_of(&self, link: &Link) -> Option<Path> {
        link.inner?;
        self.tunnels.way_of(link.peer?)
    }

    /// Shows the newer grant to the next connector that has not seen it. Packets go on as they go meanwhile.
    pub(super) fn renew_next(&mut self, now: Instant) {
        while let Some(id) = self.to_renew.pop_first() {
            let number = self.grant_number;
            let Some(link) = self.links.get_mut(&id).filter(|link| link.shown < number) else { continue };
            // One that is being opened by the older grant comes again when it is up; whoever is not let in is shown
            // the newer one when somebody wants in.
            if matches!(link.stage, Stage::Up { .. }) {
                self.renew(now, id);
                break;
            }
        }
        self.renew_at = (!self.to_renew.is_empty()).then_some(now + RENEW_PACE);
    }

    /// Is introduced to a connector once more; packets go on as they go meanwhile.
    pub(super) fn renew(&mut self, now: Instant, id: ConnectorId) {
        if let Some(link) = self.links.get_mut(&id)
            && let Stage::Up { path } = link.stage
        {
            link.renewing = Some(path);
            self.open_link(now, id);
        }
    }

    /// An introduction that was to renew failed for now: what runs by the older grant goes on running, and it is tried
    /// again. Whether that is what it was.
    pub(super) fn renewal_failed(
        &mut self,
        now: Instant,
        id: ConnectorId,
        reason: Refusal,
        after: Duration,
    ) -> bool {
        let is_up = self.links.get(&id).is_some_and(|link| self.way_of(link).is_some());
        let Some(link) = self.links.get_mut(&id) else { return false };
        let Some(path) = link.renewing.take() else { return false };
        if reason.class() != RefusalClass::Later || !is_up || !self.by_path.contains_key(&path) {
            return false;
        }
        link.stage = Stage::Up { path };
        link.shown = 0;
        self.to_renew.insert(id);
        let again = now + RENEW_AGAIN.max(after.min(link::LONGEST_PAUSE));
        self.renew_at = Some(self.renew_at.map_or(again, |at| at.max(again)));
        true
    }

    pub(super) fn open_link(&mut self, now: Instant, id: ConnectorId) {
        let Some(link) = self.links.get(&id) else { return };
        let (site, seal_key) = (link.site, link.connector.seal_key);
        let key = WireGuardPublicKey::from_bytes(*link.connector.wireguard_key.as_bytes());
        let Ok((peer, initiation)) = self.tunnels.connect(now, key) else {
            return self.link_failed(now, id, Refusal::Full, Duration::from_secs(1));
        };
        self.by_peer.insert(peer, id);
        let Some(sealed) = self.sealed_body(id, &seal_key, &initiation) else {
            return self.link_failed(now, id, Refusal::GrantInvalid, Duration::ZERO);
        };
        let token = OpenToken(self.next_token);
        self.next_token += 1;
        self.by_token.insert(token, id);
        let initiation = initiation.to_vec();
        self.outputs.push_back(Output::Open { token, connector: id, site, sealed, initiation });
        if let Some(link) = self.links.get_mut(&id) {
            link.peer = Some(peer);
            link.shown = self.grant_number;
            link.stage = Stage::Opening { token, peer, sent: now, until: now + OPEN_DEADLINE };
        }
    }

    /// The grant and the proof of its key, for the connector's eyes; `None` without a grant.
    pub(super) fn sealed_body(&self, id: ConnectorId, to: &SealKey, initiation: &[u8]) -> Option<Vec<u8>> {
        let grant = Bounded::new(self.grant.clone()?).ok()?;
        let client_key = *self.public_key.as_bytes();
        let signature = sign_open(&self.identity, id, &client_key, initiation);
        let body = OpenBody { grant, client_key, signature };
        let body = minicbor::to_vec(&body).expect("writing CBOR to a Vec does not fail");
        seal_open(to, id, &body).ok()
    }

    /// No PoP leads to the connector, or it said no.
    pub(super) fn link_failed(&mut self, now: Instant, id: ConnectorId, reason: Refusal, after: Duration) {
        if self.renewal_failed(now, id, reason, after) {
            return;
        }
        let has_flows = self.is_wanted(now, id);
        // While packets go straight to the connector, the relay is wanted back and nobody waits for it; and a
        // PoP's word ends nothing that does not pass it. A connector that has really let go falls silent.
        let way = self.links.get(&id).and_then(|link| self.way_of(link));
        let is_direct = matches!(way, Some(Path::Direct { .. }));
        let Some(link) = self.links.get_mut(&id) else { return };
        link.refusal = Some(reason);
        link.stage = Stage::Idle;
        let is_denied = reason.class() == RefusalClass::Denied && !is_direct;
        if is_direct {
            self.doubt_dials(now, id, reason);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let mut cut = is_denied;
        if has_flows && !cut {
            match link.pause(after) {
                Some(pause) => link.stage = Stage::Backoff { until: now + pause },
                None if is_direct => link.stage = Stage::Backoff { until: now + link::LONGEST_PAUSE },
                None => cut = true,
            }
        }
        if cut {
            self.cut_flows(now, id);
        }
        if is_denied {
            self.forget_tunnel(id);
        }
        let fault = DialFault { retry_after: (!after.is_zero()).then_some(after), ..DialFault::new(reason) };
        self.packets_refused(now, id);
        self.fail_pings(id, &fault);
        for dial in self.waiting_for(id) {
            self.next_connector(now, dial, fault.clone());
        }
    }

    /// Ends every flow of a connector.
    pub(super) fn cut_flows(&mut self, now: Instant, id: ConnectorId) {
        self.forget_conversations(id);
        let flows: Vec<FlowId> =
            self.entries.iter().filter(|(_, entry)| entry.connector == id).map(|(flow, _)| *flow).collect();
        for flow in flows {
            let _ = self.flows.abort(now, flow);
            self.flow_ended(now, flow, Err(DialFault::new(Refusal::SessionLost)));
        }
    }

    pub(super) fn remove_link(&mut self, now: Instant, id: ConnectorId) {
        self.cut_flows(now, id);
        self.forget_tunnel(id);
        self.link_failed(now, id, Refusal::NoResource, Duration::ZERO);
        self.links.remove(&id);
        self.by_token.retain(|_, connector| *connector != id);
    }

    /// The connector does not let this device in: no way leads there, not even one that worked a moment ago.
    pub(super) fn forget_tunnel(&mut self, id: ConnectorId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.inner = None;
        let Some(peer) = link.peer.take() else { return };
        self.by_peer.remove(&peer);
        self.flows.drop_link(LinkId(peer.number()));
        let (paths, _) = self.tunnels.remove(peer);
        for path in paths {
            self.give_back(path);
        }
    }

    pub(super) fn give_back(&mut self, path: Path) {
        self.by_path.remove(&path);
        self.outputs.push_back(Output::GiveBack(path));
    }

    /// The connector accepted: it is reachable by `path`, and these are this device's addresses there.
    pub fn opened(
        &mut self,
        now: Instant,
        token: OpenToken,
        path: Path,
        response: &[u8],
        inner: (Ipv4Addr, Ipv6Addr),
    ) {
        let awaited = self.by_token.remove(&token).filter(|id| self.is_opening(*id, token));
        let Some((id, Stage::Opening { peer, sent, .. })) =
            awaited.and_then(|id| Some((id, self.take_stage(id)?)))
        else {
            // Too late: nobody waits for it.
            self.give_back(path);
            return self.pump(now);
        };
        match self.tunnels.accept_response(now, peer, response, path) {
            Ok(replaced) => {
                self.by_path.insert(path, id);
                if let Some(old) = replaced {
                    self.give_back(old);
                    // What was sent by the way before may be lost: it does not wait for its timers.
                    self.flows.link_moved(now, LinkId(peer.number()));
                }
                self.link_up(now, id, path, Inner { v4: inner.0, v6: inner.1 }, sent);
            }
            Err(error) => {
                tracing::debug!(reason = error.label(), "a connector's handshake response was not taken");
                self.give_back(path);
                self.link_failed(now, id, Refusal::HandshakeInvalid, Duration::ZERO);
            }
        }
        self.pump(now);
    }

    pub(super) fn is_opening(&self, id: ConnectorId, token: OpenToken) -> bool {
        let stage = self.links.get(&id).map(|link| &link.stage);
        matches!(stage, Some(Stage::Opening { token: awaited, .. }) if *awaited == token)
    }

    pub(super) fn link_up(&mut self, now: Instant, id: ConnectorId, path: Path, inner: Inner, sent: Instant) {
        let moved = self.links.get(&id).is_some_and(|link| link.inner.is_some_and(|old| old != inner));
        if moved {
            // The connector gave other addresses: it does not know the flows of the old ones.
            self.cut_flows(now, id);
        }
        let link = self.links.get(&id);
        if let Some(peer) = link.filter(|link| link.renewing.is_none()).and_then(|link| link.peer) {
            // The way was gone: perhaps the connector was, and knows nothing of these flows.
            self.flows.ask_link(now, LinkId(peer.number()));
        }
        let is_direct = self
            .links
            .get(&id)
            .and_then(|link| link.peer)
            .is_some_and(|peer| matches!(self.tunnels.way_of(peer), Some(Path::Direct { .. })));
        if let Some(link) = self.links.get_mut(&id) {
            link.stage = Stage::Up { path };
            // One that was never gone, as when a newer grant is shown or only the relay was, is the same way.
            if link.up_since.is_none() || link.renewing.is_none() && !is_direct {
                link.up_since = Some(now);
                link.moved = None;
            }
            link.inner = Some(inner);
            link.round_trip = Some(now.saturating_duration_since(sent));
            link.refusal = None;
            link.renewing = None;
            link.attempts = 0;
            if link.shown < self.grant_number {
                // A newer one came while this was being opened.
                self.to_renew.insert(id);
                self.renew_at.get_or_insert(now + RENEW_PACE);
            }
        }
        self.own_v6 = Some(inner.v6);
        self.failover.heard(id);
        // Perhaps another process answers there, which was told nothing.
        self.bound.forget(id);
        self.release_packets(now, id);
        self.send_pings(now, id);
        for dial in self.waiting_for(id) {
            self.advance_dial(now, dial);
        }
    }

    /// There will be no introduction.
    pub fn open_refused(&mut self, now: Instant, token: OpenToken, reason: Refusal, retry_after: Duration) {
        if let Some(id) = self.by_token.remove(&token).filter(|id| self.is_opening(*id, token)) {
            let is_first = self.links.get(&id).is_some_and(|link| link.refusal.is_none());
            if reason == Refusal::HandshakeInvalid && is_first {
                // The same initiation may have reached the connector by two PoPs, and the answer to the first was
                // lost: once more with a fresh one.
                if let Some(link) = self.links.get_mut(&id) {
                    link.refusal = Some(reason);
                }
                self.open_link(now, id);
            } else {
                self.link_failed(now, id, reason, retry_after);
            }
        }
        self.pump(now);
    }

    /// A channel is gone, because its session is or its PoP said so.
    pub fn path_lost(&mut self, now: Instant, path: Path, reason: Refusal) {
        if let Some(id) = self.by_path.remove(&path) {
            self.tunnels.drop_path(now, path);
            self.link_lost(now, id, path, reason);
        }
        self.pump(now);
    }

    /// A PoP wanted to know whether this device is where a channel's frames come from.
    pub fn asked_about(&mut self, now: Instant, path: Path) {
        self.tunnels.asked_about(now, path);
        self.pump(now);
    }

    /// Nothing comes back by a channel, and its PoP does not answer: another way is asked for while this one is still
    /// held on to.
    pub fn path_doubted(&mut self, now: Instant, path: Path) {
        let Some(id) = self.by_path.get(&path).copied() else { return };
        let is_by_it = self.links.get(&id).is_some_and(|link| self.way_of(link) == Some(path));
        if is_by_it && self.is_wanted(now, id) {
            self.renew(now, id);
        }
        self.pump(now);
    }

    pub(super) fn link_lost(&mut self, now: Instant, id: ConnectorId, path: Path, reason: Refusal) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.stage != (Stage::Up { path }) {
            return;
        }
        link.stage = Stage::Idle;
        if reason.class() == RefusalClass::Denied {
            self.link_failed(now, id, reason, Duration::ZERO);
        } else if self.is_wanted(now, id) {
            self.open_link(now, id);
        }
    }

    pub(super) fn take_stage(&mut self, id: ConnectorId) -> Option<Stage> {
        Some(std::mem::replace(&mut self.links.get_mut(&id)?.stage, Stage::Idle))
    }
}
