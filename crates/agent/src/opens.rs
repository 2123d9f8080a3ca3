//! Introductions that a client asks for: over which PoP, how long, and what then.

use crate::{
    core::Agent,
    kind::AgentSlice,
    output::{AgentEvent, OpenError},
};
use session::SessionId;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{Bounded, CloseChannel, ConnectorId, Open, PopId, Refusal, SiteId};

/// One PoP's turn: one round trip to it and on to the connector, with a loss or two.
const TURN: Duration = Duration::from_secs(3);
/// All turns together. The person waiting gets an answer by then.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Introductions at once.
const MAX_OPENS: usize = 256;
/// A connector is at the first two live PoPs of its site's order: with two of them dead it is at the
/// fourth.
const MAX_TURNS: usize = 4;

#[derive(Debug)]
pub(crate) struct PendingOpen {
    site: SiteId,
    connector: ConnectorId,
    sealed: Vec<u8>,
    initiation: Vec<u8>,
    deadline: Instant,
    tried: Vec<PopId>,
    /// The PoP whose turn it is, and until when.
    turn: Option<(PopId, Option<SessionId>, Instant)>,
    last: (Refusal, u32),
}

impl<B: AgentSlice> Agent<B> {
    /// Asks to be introduced to a connector of a site: through the first PoP of the site's order that this agent
    /// is registered at or can register at, then through the next. [`AgentEvent::Opened`] or
    /// [`AgentEvent::OpenRefused`] with the number given here follows within 10 s.
    ///
    /// # Errors
    /// No PoP is known, or too much is asked at once.
    pub fn open(
        &mut self,
        now: Instant,
        site: SiteId,
        connector: ConnectorId,
        sealed: Vec<u8>,
        initiation: Vec<u8>,
    ) -> Result<u64, OpenError> {
        if self.opens.len() >= MAX_OPENS {
            return Err(OpenError::Full);
        }
        if sealed.len() > wire::MAX_SEALED_OPEN || initiation.len() > wire::WG_INITIATION_LEN {
            return Err(OpenError::TooLong);
        }
        if self.order_of(Some(site)).is_empty() {
            return Err(OpenError::NoPop);
        }
        let seq = self.next_open;
        self.next_open += 1;
        self.opens.insert(
            seq,
            PendingOpen {
                site,
                connector,
                sealed,
                initiation,
                deadline: now + OPEN_TIMEOUT,
                tried: Vec::new(),
                turn: None,
                last: (Refusal::Timeout, 0),
            },
        );
        self.next_turn(now, seq);
        Ok(seq)
    }

    /// Forgets an introduction; an answer that still comes is given back to the PoP.
    pub fn cancel_open(&mut self, seq: u64) {
        self.opens.remove(&seq);
    }

    /// Whether an introduction is under way by a session.
    pub(crate) fn is_opening_by(&self, id: SessionId) -> bool {
        self.opens.values().any(|open| matches!(open.turn, Some((_, Some(session), _)) if session == id))
    }

    fn next_turn(&mut self, now: Instant, seq: u64) {
        let Some(open) = self.opens.get(&seq) else { return };
        let order = self.order_of(Some(open.site));
        let left: Vec<PopId> =
            order.into_iter().take(MAX_TURNS).filter(|pop| !open.tried.contains(pop)).collect();
        // The order's own first choice unless it is not up and a later one is: a standing session beats
        // a handshake, and either beats a PoP that has just failed or does not answer.
        let sure = || left.iter().copied().filter(|pop| !self.is_doubtful(*pop));
        let choice = sure()
            .find(|pop| self.up_at(*pop).is_some())
            .or_else(|| sure().next())
            .or_else(|| left.iter().copied().find(|pop| self.up_at(*pop).is_some()))
            .or(left.first().copied());
        let Some(pop) = choice else {
            if let Some(open) = self.opens.remove(&seq) {
                let (reason, retry_after_ms) = open.last;
                self.event(AgentEvent::OpenRefused { seq, reason, retry_after_ms });
            }
            return;
        };
        let session = self.up_at(pop);
        if session.is_none() {
            let _ = self.want(now, pop);
        }
        let Some(open) = self.opens.get_mut(&seq) else { return };
        open.turn = Some((pop, session, (now + TURN).min(open.deadline)));
        if let Some(session) = session {
            let message = Open {
                seq,
                connector: open.connector,
                sealed: Bounded::new(open.sealed.clone()).unwrap_or_default(),
                initiation: Bounded::new(open.initiation.clone()).unwrap_or_default(),
            };
            self.tell(now, session, message);
        }
    }

    fn turn_over(&mut self, now: Instant, seq: u64, reason: Refusal, retry_after_ms: u32) {
        if let Some(open) = self.opens.get_mut(&seq) {
            if let Some((pop, _, _)) = open.turn.take() {
                open.tried.push(pop);
            }
            open.last = (reason, retry_after_ms);
            self.next_turn(now, seq);
        }
    }

    /// A PoP is there that an introduction waits for, or that it may use instead of the one it waits for.
    pub(crate) fn opens_up(&mut self, now: Instant, pop: PopId) {
        let may_use = |open: &PendingOpen| {
            !open.tried.contains(&pop)
                && self.order_of(Some(open.site)).into_iter().take(MAX_TURNS).any(|listed| listed == pop)
        };
        let waiting: Vec<u64> = self
            .opens
            .iter()
            .filter(|(_, open)| matches!(open.turn, Some((_, None, _))) && may_use(open))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in waiting {
            self.next_turn(now, seq);
        }
    }

    pub(crate) fn opens_lost(&mut self, now: Instant, id: SessionId) {
        let lost: Vec<u64> = self
            .opens
            .iter()
            .filter(|(_, open)| matches!(open.turn, Some((_, Some(session), _)) if session == id))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in lost {
            self.turn_over(now, seq, Refusal::SessionLost, 0);
        }
    }

    pub(crate) fn opened(&mut self, now: Instant, id: SessionId, relay: SocketAddr, opened: wire::Opened) {
        if self.opens.remove(&opened.seq).is_some() {
            self.event(AgentEvent::Opened { session: id, relay, opened });
        } else {
            // Cancelled, or another PoP was quicker.
            self.tell(now, id, CloseChannel { channel: opened.channel });
        }
    }

    pub(crate) fn open_refused(&mut self, now: Instant, id: SessionId, refused: &wire::OpenRefused) {
        let wire::OpenRefused { seq, reason, retry_after_ms } = *refused;
        let is_current = self
            .opens
            .get(&seq)
            .is_some_and(|open| matches!(open.turn, Some((_, Some(session), _)) if session == id));
        if !is_current {
            return;
        }
        // Only what another PoP may answer otherwise is asked again; a connector's own no is an answer.
        match reason {
            Refusal::NotAttached | Refusal::Full | Refusal::SessionLost | Refusal::ShuttingDown => {
                self.turn_over(now, seq, reason, retry_after_ms);
            }
            _ => {
                self.opens.remove(&seq);
                self.event(AgentEvent::OpenRefused { seq, reason, retry_after_ms });
            }
        }
    }

    pub(crate) fn tick_opens(&mut self, now: Instant) {
        let due: Vec<(u64, bool)> = self
            .opens
            .iter()
            .filter(|(_, open)| open.turn.is_none_or(|(_, _, until)| until <= now))
            .map(|(seq, open)| (*seq, open.deadline <= now))
            .collect();
        if due.is_empty() {
            return;
        }
        // Whoever keeps an introduction waiting may be dead altogether.
        self.probe(now);
        for (seq, is_over) in due {
            if is_over {
                self.opens.remove(&seq);
                self.event(AgentEvent::OpenRefused { seq, reason: Refusal::Timeout, retry_after_ms: 1000 });
            } else {
                self.turn_over(now, seq, Refusal::Timeout, 1000);
            }
        }
        self.tick_links(now);
    }

    pub(crate) fn next_open_timeout(&self) -> Option<(Instant, &'static str)> {
        self.opens
            .values()
            .map(|open| (open.turn.map_or(open.deadline, |(_, _, until)| until), "an introduction"))
            .min()
    }
}
