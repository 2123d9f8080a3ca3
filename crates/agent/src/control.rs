//! Sealed requests to a controller, through whichever session is there.

use crate::{
    core::Agent,
    jitter::Jitter,
    kind::AgentSlice,
    links::ALIVE_TIMEOUT,
    output::{AgentEvent, RequestError, RequestSeq},
};
use session::SessionId;
use std::time::{Duration, Instant};
use trust::control::{PendingReply, seal_request_to};
use wire::{Anchor, Bounded, ControlReply, ControlRequest, ControllerUnavailable, Refusal, ToController};

/// How long one attempt waits for its answer.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Attempts of one request, the first included.
const MAX_ATTEMPTS: u32 = 3;
/// Requests at once.
const MAX_PENDING: usize = 64;
/// Where the first attempt goes turns round after so many.
const MAX_WAYS: usize = 1 << 16;
/// Ten requests earn one retry, and this many are there at the start: retries stay near a tenth of first
/// attempts whatever happens.
pub(crate) const FIRST_RETRIES_TENTHS: u32 = 50;
const MOST_RETRIES_TENTHS: u32 = 100;
const RETRY_COST_TENTHS: u32 = 10;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Owner,
    Renew,
    Slice,
    Anchor,
}

#[derive(Debug)]
pub(crate) struct Pending {
    purpose: Purpose,
    request: ControlRequest,
    attempts: u32,
    reply: Option<PendingReply>,
    on: Option<SessionId>,
    sent: Instant,
    until: Instant,
    /// It waits for a sign of life of the session that took it.
    is_held: bool,
}

impl<B: AgentSlice> Agent<B> {
    /// Asks a controller. [`AgentEvent::ControlReply`] or [`AgentEvent::RequestFailed`] with this number
    /// follows: three attempts of 5 s, 5 s more for each that found no session and was made when one came up, and 9 s more
    /// for each whose session has to show first that it lives.
    ///
    /// # Errors
    /// Too much is asked at once.
    pub fn request(&mut self, now: Instant, request: ControlRequest) -> Result<RequestSeq, RequestError> {
        if self.pending.len() >= MAX_PENDING {
            return Err(RequestError::Full);
        }
        Ok(RequestSeq(self.ask(now, Purpose::Owner, request)))
    }

    /// The same, and asked once: what is not answered within 5 s has failed. For what is soon out of date, so that it
    /// spends nothing of the budget for trying again.
    ///
    /// # Errors
    /// Too much is asked at once.
    pub fn request_once(
        &mut self,
        now: Instant,
        request: ControlRequest,
    ) -> Result<RequestSeq, RequestError> {
        let seq = self.request(now, request)?;
        if let Some(pending) = self.pending.get_mut(&seq.0) {
            pending.attempts = MAX_ATTEMPTS;
        }
        Ok(seq)
    }

    pub(crate) fn is_asking(&self, purpose: Purpose) -> bool {
        self.pending.values().any(|pending| pending.purpose == purpose)
    }

    pub(crate) fn ask(&mut self, now: Instant, purpose: Purpose, request: ControlRequest) -> u64 {
        let seq = self.next_request;
        self.next_request += 1;
        self.stats.requests += 1;
        self.retry_tenths = (self.retry_tenths + 1).min(MOST_RETRIES_TENTHS);
        self.pending.insert(
            seq,
            Pending {
                purpose,
                request,
                attempts: 1,
                reply: None,
                on: None,
                sent: now,
                until: now + ATTEMPT,
                is_held: false,
            },
        );
        self.attempt(now, seq);
        seq
    }

    /// Seals the request afresh (a new reply key and nonce each time) and sends it, if a session is up; else it
    /// waits out its attempt.
    fn attempt(&mut self, now: Instant, seq: u64) {
        let sessions = self.standing_sessions();
        let Some(pending) = self.pending.get_mut(&seq) else { return };
        pending.sent = now;
        pending.until = now + ATTEMPT;
        pending.is_held = false;
        if pending.purpose == Purpose::Anchor {
            // Each attempt has a nonce of its own: an answer to one that was sent before is late.
            pending.request = Anchor { nonce: nonce(&mut self.jitter) }.into();
        }
        // A later attempt goes another way, if there is one.
        let turn = usize::try_from(pending.attempts - 1).unwrap_or(0) + self.first_way;
        let Some(session) = sessions.get(turn % sessions.len().max(1)).copied() else { return };
        let owner = self.renewals.anchor_to().filter(|_| pending.purpose == Purpose::Anchor);
        let sealed = seal_request_to(
            &self.identity_key,
            self.certificate.der(),
            &self.bundle,
            self.clock.reach(now),
            (owner, self.jitter.bits()),
            &pending.request,
        );
        let (sealed, reply) = match sealed.map(|(sealed, reply)| (Bounded::new(sealed), reply)) {
            Ok((Ok(sealed), reply)) => (sealed, reply),
            Ok((Err(_), _)) => return self.request_over(now, seq, Refusal::Malformed),
            Err(_) => return self.request_over(now, seq, Refusal::NoController),
        };
        pending.reply = Some(reply);
        pending.on = Some(session);
        self.tell(now, session, ToController { seq, sealed });
    }

    /// A session is up: what found none is asked now, and does not wait out its attempt; what waits for a sign of life of
    /// another one takes this way.
    pub(crate) fn ask_what_waits(&mut self, now: Instant) {
        let waits = |(seq, pending): (&u64, &Pending)| pending.on.is_none().then_some(*seq);
        for seq in self.pending.iter().filter_map(waits).collect::<Vec<_>>() {
            self.attempt(now, seq);
        }
        let held = |(seq, pending): (&u64, &Pending)| pending.is_held.then_some(*seq);
        for seq in self.pending.iter().filter_map(held).collect::<Vec<_>>() {
            self.again(now, seq, Refusal::Timeout);
        }
    }

    pub(crate) fn control_reply(&mut self, now: Instant, seq: u64, sealed: &[u8]) {
        let opened = self.pending.get(&seq).and_then(|pending| pending.reply.as_ref()?.open(sealed).ok());
        // What does not open does not end the request: a PoP could end any by noise.
        let Some(reply) = opened else {
            self.stats.replies_refused += 1;
            return;
        };
        let Some(pending) = self.pending.remove(&seq) else { return };
        match (pending.purpose, reply) {
            (purpose, ControlReply::Refused(refused)) => {
                let after = Duration::from_millis(refused.retry_after_ms.into());
                self.refused(now, purpose, seq, refused.reason, after);
            }
            (Purpose::Owner, reply) => self.event(AgentEvent::ControlReply { seq: RequestSeq(seq), reply }),
            (Purpose::Renew, ControlReply::Renewed(renewed)) => self.renewed(now, &renewed),
            (Purpose::Slice, ControlReply::SliceReply(reply)) => self.slice_replied(now, &reply),
            (Purpose::Anchor, ControlReply::Anchored(reply)) => {
                let nonce = match pending.request {
                    ControlRequest::Anchor(request) => request.nonce,
                    _ => return,
                };
                self.anchored(now, pending.sent, nonce, &reply.beacon);
            }
            (purpose @ (Purpose::Renew | Purpose::Slice | Purpose::Anchor), _) => {
                self.stats.replies_refused += 1;
                self.refused(now, purpose, seq, Refusal::Malformed, Duration::ZERO);
            }
        }
    }

    /// A PoP says of itself that a request does not reach a controller. No controller has signed that: it counts from the PoP
    /// that took the request, and one that says it of everything is not asked first for ever.
    pub(crate) fn controller_unavailable(
        &mut self,
        now: Instant,
        id: SessionId,
        gone: &ControllerUnavailable,
    ) {
        let ControllerUnavailable { seq, reason, retry_after_ms } = *gone;
        let Some(pending) = self.pending.get(&seq).filter(|pending| pending.on == Some(id)) else {
            self.stats.replies_refused += 1;
            return;
        };
        if reason == Refusal::Budget {
            self.first_way = self.first_way.wrapping_add(1) % MAX_WAYS;
        }
        // Another PoP may have a controller; with one PoP only time helps, and who asks too much asks nobody.
        if reason != Refusal::Budget && self.standing_sessions().len() > 1 && pending.attempts < MAX_ATTEMPTS
        {
            self.again(now, seq, reason);
        } else {
            let purpose = pending.purpose;
            self.pending.remove(&seq);
            self.refused(now, purpose, seq, reason, Duration::from_millis(retry_after_ms.into()));
        }
    }

    pub(crate) fn requests_lost(&mut self, now: Instant, id: SessionId) {
        let lost: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.on == Some(id)).map(|(seq, _)| *seq).collect();
        for seq in lost {
            self.again(now, seq, Refusal::SessionLost);
        }
    }

    fn again(&mut self, now: Instant, seq: u64, reason: Refusal) {
        let Some(pending) = self.pending.get_mut(&seq) else { return };
        // What found no session cost nobody anything.
        let was_sent = pending.on.is_some();
        if pending.attempts >= MAX_ATTEMPTS || (was_sent && self.retry_tenths < RETRY_COST_TENTHS) {
            return self.request_over(now, seq, reason);
        }
        pending.attempts += 1;
        pending.on = None;
        if was_sent {
            self.retry_tenths -= RETRY_COST_TENTHS;
            self.stats.retries += 1;
        }
        self.attempt(now, seq);
    }

    fn request_over(&mut self, now: Instant, seq: u64, reason: Refusal) {
        if let Some(pending) = self.pending.remove(&seq) {
            self.refused(now, pending.purpose, seq, reason, Duration::ZERO);
        }
    }

    fn refused(&mut self, now: Instant, purpose: Purpose, seq: u64, reason: Refusal, after: Duration) {
        if matches!(purpose, Purpose::Renew | Purpose::Slice) {
            self.last_control_refusal = Some(reason);
        }
        match purpose {
            Purpose::Owner => {
                self.event(AgentEvent::RequestFailed { seq: RequestSeq(seq), reason, retry_after: after })
            }
            Purpose::Renew => self.renewal_failed(now, after),
            Purpose::Slice => self.slice_failed(now, after),
            Purpose::Anchor => self.anchor_failed(now, after),
        }
    }

    pub(crate) fn tick_control(&mut self, now: Instant) {
        let due: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| pending.until <= now).map(|(seq, _)| *seq).collect();
        // No answer, and no word that there is no controller: the PoP itself may be gone, and nobody else asks it soon.
        let silent: Vec<SessionId> = due.iter().filter_map(|seq| self.pending.get(seq)?.on).collect();
        for session in silent {
            self.ask_sign_of_life(now, session);
        }
        for seq in due {
            if !self.holds_for_a_sign_of_life(now, seq) {
                self.again(now, seq, Refusal::Timeout);
            }
        }
    }

    /// What goes the same way once more reaches nobody if that session is dead: it waits until the session has shown
    /// which, once an attempt. What has another way takes that.
    fn holds_for_a_sign_of_life(&mut self, now: Instant, seq: u64) -> bool {
        let sessions = self.standing_sessions();
        let Some(pending) = self.pending.get_mut(&seq) else { return false };
        let Some(on) = pending.on.filter(|on| sessions == [*on]) else { return false };
        if pending.is_held
            || pending.attempts >= MAX_ATTEMPTS
            || self.links[&on].was_heard_since(pending.sent)
        {
            return false;
        }
        pending.is_held = true;
        // Its end is told before this.
        pending.until = now + ALIVE_TIMEOUT + Duration::from_secs(1);
        true
    }

    /// A session lives: what was asked through it, and waits for that, is asked again.
    pub(crate) fn requests_go_on(&mut self, now: Instant, id: SessionId) {
        let held = |pending: &Pending| pending.is_held && pending.on == Some(id);
        let seqs: Vec<u64> =
            self.pending.iter().filter(|(_, pending)| held(pending)).map(|(seq, _)| *seq).collect();
        for seq in seqs {
            self.again(now, seq, Refusal::Timeout);
        }
    }

    pub(crate) fn next_control_timeout(&self) -> Option<(Instant, &'static str)> {
        self.pending.values().map(|pending| (pending.until, "a controller's answer")).min()
    }
}

/// Not to be guessed by whoever is asked to sign it: it comes back sealed to this request alone.
fn nonce(jitter: &mut Jitter) -> [u8; 16] {
    let (high, low) = (u128::from(jitter.bits()), u128::from(jitter.bits()));
    (high << 64 | low).to_be_bytes()
}
