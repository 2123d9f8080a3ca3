//! Signs of life: who is asked when, who is doubted, and which sessions are left.

use super::race::RACE_PAUSE;
use super::{HEDGE_AFTER, Link, LinkPhase, PlacePhase, RESOLVE_TIMEOUT, WINDOW_MAX, reconnect_window};
use crate::{
    clock::Freshness,
    core::Agent,
    kind::AgentSlice,
    output::{AgentEvent, Persisted},
};
use session::{CloseCode, SessionId};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use wire::{Alive, Keepalive, PopId};

/// `Alive` comes within this: at 30 % loss and a second of delay QUIC's third retransmission is out.
pub(crate) const ALIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// A PoP that was asked because nothing comes back through it, and has not answered by then, is doubted: what goes
/// through it is introduced anew at the next, before it is known to be dead.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// A session that nothing goes through and that is none of the first is kept for as long: something may come back to it.
const SPARE_FOR: Duration = Duration::from_secs(300);
/// Whoever looks at the status again and again asks a PoP no more often than this.
const ASKED_EVERY: Duration = Duration::from_secs(2);

/// Whether an answer is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is.
    Yes,
    /// Nothing has to be asked, or nobody is there to be asked.
    No,
}

impl<B: AgentSlice> Agent<B> {
    /// Asks every standing session for a sign of life now; one that gives none is lost within 8 s. For owners
    /// whose relayed packets find no answer.
    pub fn probe(&mut self, now: Instant) {
        for link in self.links.values_mut() {
            if let LinkPhase::Up(standing) = &mut link.phase {
                if standing.alive_by.is_none() {
                    standing.next_keepalive = now;
                }
                standing.doubted_at.get_or_insert(now + DOUBT_AFTER);
            }
        }
    }

    /// One session has to answer within 8 s now, or is lost.
    pub(crate) fn ask_sign_of_life(&mut self, now: Instant, id: SessionId) {
        if let Some(Link { phase: LinkPhase::Up(standing), .. }) = self.links.get_mut(&id)
            && standing.alive_by.is_none()
        {
            standing.next_keepalive = now;
        }
    }

    /// Somebody asks how fresh the control plane's word is, and it is older than it may be: each PoP is asked for its
    /// newest beacon now, and not with the next keepalive. A client hears one with those alone, 25 s apart. Says
    /// whether an answer is on its way; see [`Self::awaits_pop`].
    pub fn ask_beacon(&mut self, now: Instant) -> Asked {
        if self.freshness(now) == Freshness::Fresh {
            return Asked::No;
        }
        let mut asked = Asked::No;
        for link in self.links.values_mut() {
            let LinkPhase::Up(standing) = &mut link.phase else { continue };
            if standing.alive_by.is_none() && standing.answered_at.is_none_or(|at| at + ASKED_EVERY <= now) {
                standing.next_keepalive = now;
                asked = Asked::Yes;
            }
            if standing.alive_by.is_some() {
                asked = Asked::Yes;
            }
        }
        asked
    }

    /// Whether a PoP was asked for its newest beacon, or for a sign of life, and has not answered yet.
    #[must_use]
    pub fn awaits_pop(&self, now: Instant) -> bool {
        self.links.values().any(|link| match &link.phase {
            LinkPhase::Up(standing) => standing.alive_by.is_some() || standing.next_keepalive <= now,
            LinkPhase::Dialling | LinkPhase::Greeting { .. } => false,
        })
    }

    /// Closes what is left over from better times or worse: sessions that nothing goes through, to PoPs that are not among
    /// the first of the order. `used` are those that channels go through. Call it about once a minute.
    pub fn close_unused(&mut self, now: Instant, used: &BTreeSet<SessionId>) {
        let wanted: BTreeSet<SessionId> = self
            .order_of(None)
            .into_iter()
            .filter(|pop| !self.is_doubtful(*pop))
            .filter_map(|pop| self.up_at(pop))
            .take(B::SESSIONS)
            .collect();
        // Without its own full set of sessions an agent gives none away.
        if wanted.len() < B::SESSIONS {
            return;
        }
        let is_spare = |(id, link): &(&SessionId, &Link)| match &link.phase {
            LinkPhase::Up(standing) => {
                now >= standing.since + SPARE_FOR && !wanted.contains(*id) && !used.contains(*id)
            }
            LinkPhase::Dialling | LinkPhase::Greeting { .. } => false,
        };
        let waits = |id: &SessionId| self.is_opening_by(*id);
        let spare: Vec<SessionId> =
            self.links.iter().filter(is_spare).map(|(id, _)| *id).filter(|id| !waits(id)).collect();
        for id in spare {
            // Left on purpose: no failure of the PoP.
            if let Some(link) = self.links.get_mut(&id) {
                link.is_given_up = true;
                if let Some(place) = self.places.get_mut(&link.pop)
                    && place.phase == PlacePhase::Linked(id)
                {
                    place.phase = PlacePhase::Down;
                }
            }
            self.dialler.close(now, id, CloseCode::Done);
        }
    }

    pub(crate) fn alive(&mut self, now: Instant, id: SessionId, alive: &Alive) {
        let Some(Link { pop, phase: LinkPhase::Up(standing), .. }) = self.links.get_mut(&id) else { return };
        let (pop, observed) = (*pop, alive.observed);
        standing.alive_by = None;
        standing.answered_at = Some(now);
        standing.doubted_at = None;
        standing.is_doubted = false;
        if standing.observed != observed {
            standing.observed = observed;
            self.event(AgentEvent::ObservedChanged { session: id, pop, observed });
        }
        if let Some(window) = alive.reconnect_window_ms.map(reconnect_window)
            && let Some(Link { phase: LinkPhase::Up(standing), .. }) = self.links.get_mut(&id)
        {
            standing.window = window;
        }
        self.requests_go_on(now, id);
    }

    /// Keeps over how long its PoPs spread a crowd, the longest of them, when that has changed much. Whoever calls it
    /// bounds how often: a PoP may say another one with each sign of life.
    pub(crate) fn keep_window(&mut self) {
        let windows = self.links.values().filter_map(|link| match &link.phase {
            LinkPhase::Up(standing) => Some(standing.window),
            _ => None,
        });
        let Some(window) = windows.max() else { return };
        if window > self.told_window * 2 || window * 2 < self.told_window {
            self.told_window = window;
            self.persist(Persisted::ReconnectWindow, window.as_millis().to_string().into_bytes());
        }
    }

    pub(crate) fn go_away(&mut self, now: Instant, id: SessionId, within: Duration) {
        let within = within.min(WINDOW_MAX);
        // Everyone at this PoP was told the same: the way to the next one is spread over most of the time given,
        // and this session carries on until its end.
        let spread = self.jitter.up_to(within * 3 / 4);
        if let Some(Link { phase: LinkPhase::Up(standing), .. }) = self.links.get_mut(&id)
            && standing.leave_at.is_none()
        {
            standing.leave_at = Some(now + within);
            self.hold_until = self.hold_until.max(now + spread);
        }
        self.maintain(now);
    }

    pub(crate) fn tick_links(&mut self, now: Instant) {
        let mut silent = Vec::new();
        let mut leaving = Vec::new();
        let mut due = Vec::new();
        let mut doubted = Vec::new();
        for (id, link) in &mut self.links {
            match &mut link.phase {
                LinkPhase::Dialling => {}
                LinkPhase::Greeting { until } if *until <= now => silent.push(*id),
                LinkPhase::Greeting { .. } => {}
                LinkPhase::Up(standing) => {
                    if standing.doubted_at.is_some_and(|at| at <= now) && !standing.is_doubted {
                        standing.is_doubted = true;
                        doubted.push((*id, link.pop, standing.window));
                    }
                    if standing.alive_by.is_some_and(|by| by <= now) {
                        silent.push(*id);
                    } else if standing.leave_at.is_some_and(|at| at <= now) {
                        leaving.push(*id);
                    } else if standing.next_keepalive <= now {
                        standing.next_keepalive = now + standing.keepalive;
                        standing.alive_by.get_or_insert(now + ALIVE_TIMEOUT);
                        due.push(*id);
                    }
                }
            }
        }
        for (session, pop, window) in doubted {
            // Everyone whose packets find no answer doubts it in this moment: they spread as they would after its loss.
            let spread = self.jitter.up_to(window);
            self.hold_until = self.hold_until.max(now + spread);
            self.event(AgentEvent::Doubted { session, pop });
        }
        for id in silent {
            self.dialler.close(now, id, CloseCode::Silent);
        }
        for id in leaving {
            self.dialler.close(now, id, CloseCode::Done);
        }
        for id in due {
            self.tell(now, id, Keepalive {});
        }
        self.tick_races(now);
        let unresolved: Vec<PopId> = self
            .places
            .iter()
            .filter(|(_, place)| {
                matches!(place.phase, PlacePhase::Resolving { since } if since + RESOLVE_TIMEOUT <= now)
            })
            .map(|(pop, _)| *pop)
            .collect();
        for pop in unresolved {
            self.handle_resolved(now, pop, Vec::new());
        }
        self.maintain(now);
    }

    /// Whether a moment came, or will come, after PoPs were last seen to. One that passed between that and the next
    /// question for a timeout is due, and not over.
    fn is_ahead(&self, at: Instant) -> bool {
        self.maintained_at < at
    }

    pub(crate) fn next_link_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        let links = self.links.values().flat_map(|link| match &link.phase {
            LinkPhase::Dialling => [
                self.is_ahead(link.began + HEDGE_AFTER)
                    .then(|| (link.began + HEDGE_AFTER, "a second PoP to try")),
                None,
                None,
            ],
            LinkPhase::Greeting { until } => [
                Some((*until, "a PoP's welcome")),
                self.is_ahead(link.began + HEDGE_AFTER)
                    .then(|| (link.began + HEDGE_AFTER, "a second PoP to try")),
                None,
            ],
            LinkPhase::Up(standing) => [
                standing.alive_by.map(|at| (at, "a PoP's sign of life")),
                Some((
                    standing.leave_at.map_or(standing.next_keepalive, |at| at.min(standing.next_keepalive)),
                    "a keepalive",
                )),
                standing.doubted_at.filter(|_| !standing.is_doubted).map(|at| (at, "a PoP to be doubted")),
            ],
        });
        let places = self.places.values().map(|place| match place.phase {
            PlacePhase::Resolving { since } if self.is_ahead(since + HEDGE_AFTER) => {
                Some((since + HEDGE_AFTER, "a second PoP to try"))
            }
            PlacePhase::Resolving { since } => Some((since + RESOLVE_TIMEOUT, "a name look-up")),
            // A PoP that nobody wants stays down; only those ahead of us in time can become wanted.
            PlacePhase::Down => {
                let at = place.not_before.max(self.hold_until);
                self.is_ahead(at).then_some((at, "a PoP to try again"))
            }
            PlacePhase::Linked(_) => None,
        });
        let races = self.places.iter().map(|(pop, place)| {
            // What could not be tried just now is not tried again in the same moment.
            self.race_due(*pop, place)
                .map(|(at, _)| (at.max(now + RACE_PAUSE), "a PoP to try in another way as well"))
        });
        if self.is_stopping {
            return None;
        }
        links.chain(places).chain(races).flatten().min()
    }
}
