//! What PoPs say.

use crate::{
    core::Agent,
    kind::AgentSlice,
    links::{Link, LinkPhase},
    output::AgentEvent,
};
use session::{CloseCode, SessionId};
use std::time::{Duration, Instant};
use wire::{Accept, ChannelId, CloseChannel, Refuse, ToAgent};

impl<B: AgentSlice> Agent<B> {
    pub(crate) fn handle_frame(&mut self, now: Instant, id: SessionId, frame_type: u16, body: &[u8]) {
        let message = match ToAgent::decode_body(frame_type, body) {
            Ok(Some(message)) => message,
            Ok(None) => {
                self.stats.unknown_messages += 1;
                return;
            }
            Err(_) => return self.malformed(now, id),
        };
        let Some(link) = self.links.get(&id) else { return };
        match (&link.phase, message) {
            (LinkPhase::Greeting { .. }, ToAgent::Welcome(welcome)) => {
                self.welcomed(now, id, &welcome);
                self.learn_revocations(now, &welcome.revocations);
                if let Some(beacon) = &welcome.beacon {
                    self.learn_beacon(now, beacon);
                }
                self.registered_renewals(now);
            }
            (LinkPhase::Up(_), message) => {
                let relay = link.address;
                self.handle_message(now, id, relay, message);
            }
            // Nothing comes before Welcome, and only one of those.
            (LinkPhase::Dialling | LinkPhase::Greeting { .. }, _) => self.malformed(now, id),
        }
    }

    fn handle_message(&mut self, now: Instant, id: SessionId, relay: std::net::SocketAddr, message: ToAgent) {
        match message {
            ToAgent::Welcome(_) => self.malformed(now, id),
            ToAgent::Alive(alive) => {
                self.alive(now, id, &alive);
                if let Some(beacon) = &alive.beacon {
                    self.learn_beacon(now, beacon);
                }
            }
            ToAgent::BeaconPush(push) => self.learn_beacon(now, &push.beacon),
            ToAgent::Introduce(introduce) => {
                if B::ROLE == trust::Role::Connector {
                    self.event(AgentEvent::Introduce { session: id, relay, introduce });
                } else {
                    self.malformed(now, id);
                }
            }
            ToAgent::Opened(opened) => self.opened(now, id, relay, opened),
            ToAgent::OpenRefused(refused) => self.open_refused(now, id, &refused),
            ToAgent::FromController(reply) => self.control_reply(now, reply.seq, reply.sealed.as_slice()),
            ToAgent::ControllerUnavailable(gone) => self.controller_unavailable(now, id, &gone),
            ToAgent::Revocations(revocations) => self.learn_revocations(now, &revocations.entries),
            ToAgent::ChannelClosed(closed) => {
                self.event(AgentEvent::ChannelClosed {
                    session: id,
                    channel: closed.channel,
                    reason: closed.reason,
                });
            }
            ToAgent::GoAway(go) => self.go_away(now, id, Duration::from_millis(go.within_ms.into())),
            ToAgent::BundlePush(push) => self.learn_chain(now, &push.chain),
        }
    }

    fn malformed(&mut self, now: Instant, id: SessionId) {
        self.stats.malformed_messages += 1;
        self.dialler.close(now, id, CloseCode::Malformed);
    }

    /// Accepts an introduction.
    pub fn accept(&mut self, now: Instant, session: SessionId, accept: Accept) {
        if self.is_up(session) {
            self.tell(now, session, accept);
        }
    }

    /// Refuses an introduction.
    pub fn refuse(&mut self, now: Instant, session: SessionId, refuse: Refuse) {
        if self.is_up(session) {
            self.tell(now, session, refuse);
        }
    }

    /// Gives a channel back.
    pub fn close_channel(&mut self, now: Instant, session: SessionId, channel: ChannelId) {
        if self.is_up(session) {
            self.tell(now, session, CloseChannel { channel });
        }
    }

    fn is_up(&self, session: SessionId) -> bool {
        matches!(self.links.get(&session), Some(Link { phase: LinkPhase::Up(_), .. }))
    }
}
