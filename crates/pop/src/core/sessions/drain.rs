//! Leaving: every agent is asked to go to its next PoP, a few at a time, and whoever is gone takes its flows along.
//!
//! The next PoPs take in who comes: so they are sent there no faster than a PoP admits. Each agent opens its next session
//! and moves what runs before it gives up the one here, so nothing stands still.

use super::{Due, Sessions, limits};
use std::time::{Duration, Instant};
use trust::{Role, Subject};
use wire::ToAgent;

/// A leave that is under way.
#[derive(Debug)]
pub(super) struct Draining {
    /// It is over at this time, whoever is still here.
    until: Instant,
    /// Who was asked: everybody up to here.
    asked: std::collections::BTreeSet<session::SessionId>,
}

impl Sessions {
    /// Begins to leave: asks agents to go, at a bounded rate, connectors first. It is over when [`Self::is_drained`].
    pub fn drain(&mut self, now: Instant, within: Duration) {
        // The only PoP has nobody to send anybody to: to wait would help no one.
        let within = if self.allowed.pops == 1 { Duration::ZERO } else { within };
        let until = now + within;
        match &mut self.draining {
            Some(draining) => draining.until = draining.until.min(until),
            None => self.draining = Some(Draining { until, asked: std::collections::BTreeSet::new() }),
        }
        self.drain_on(now);
    }

    /// Whether it was asked to leave.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.draining.is_some()
    }

    /// Whether everybody has left, or had the time to.
    #[must_use]
    pub fn is_drained(&self, now: Instant) -> bool {
        self.draining.as_ref().is_some_and(|draining| {
            now >= draining.until || self.agents.values().all(|agent| agent.session.is_none())
        })
    }

    /// The next few.
    pub(super) fn drain_on(&mut self, now: Instant) {
        let Some(draining) = &mut self.draining else { return };
        if now >= draining.until {
            return;
        }
        let at_once = limits::drained_at_once(self.allowed.admit_per_second);
        // Connectors first, so that a client finds them where it comes to.
        let is_connector = |subject: &Subject| subject.role() == Role::Connector;
        let here = |connectors: bool| {
            self.agents
                .iter()
                .filter(move |(subject, _)| is_connector(subject) == connectors)
                .filter_map(|(_, agent)| agent.session)
        };
        let next: Vec<_> = here(true)
            .chain(here(false))
            .filter(|session| !draining.asked.contains(session))
            .take(at_once)
            .collect();
        draining.asked.retain(|session| self.sessions.contains_key(session));
        draining.asked.extend(next.iter().copied());
        // Half of what is left: the other half is for whoever finds its next PoP on the second try.
        let left = draining.until.saturating_duration_since(now);
        let within = (left / 2).min(limits::LEAVE_WITHIN);
        let message = ToAgent::from(wire::GoAway { within_ms: limits::millis(within) });
        let body = message.encode_body();
        self.deadlines.insert((now + limits::DRAIN_PAUSE, Due::Drain));
        for session in next.into_iter().filter(|_| !planted::is("a-pop-that-leaves-asks-nobody")) {
            self.send_frame(now, session, message.frame_type(), &body);
        }
    }
}
