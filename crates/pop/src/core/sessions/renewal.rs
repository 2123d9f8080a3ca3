//! The PoP's own certificate: renewed from a third of its life on, by whichever controller is attached.
//!
//! The request is the same sealed control frame that agents send; it travels as if an agent had sent it,
//! under a route that no session has.

use super::{Due, Record, Sessions, SessionsOutput, limits};
use session::LocalIdentity;
use std::time::{Duration, Instant};
use trust::{
    Certificate, SigningKey, UnixMs,
    control::{PendingReply, seal_request_to},
};
use wire::{Bounded, ControlReply, ControlRequest, Forward, Renew};

/// The session number of nobody: sessions count up from 0.
pub(super) const OWN_ROUTE: u64 = u64::MAX;

/// What renewing needs.
pub(super) struct Renewal {
    key: SigningKey,
    certificate: Vec<u8>,
    asked: Option<PendingReply>,
}

impl Renewal {
    pub(super) const fn new(key: SigningKey, certificate: Vec<u8>) -> Self {
        Self { key, certificate, asked: None }
    }

    pub(super) fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

/// How long until a certificate is due: from day 10 of 30, as agents do it.
pub(super) fn due_after(certificate: &Certificate, wall: UnixMs) -> Duration {
    let third = certificate.not_after().since(certificate.not_before()) / 3;
    third.saturating_sub(wall.since(certificate.not_before()))
}

impl Sessions {
    /// Timers stand still while the machine sleeps, and the certificate ends all the same.
    pub(super) fn renew_after_sleep(&mut self, now: Instant, wall: UnixMs) {
        self.hurry_renewal(now, wall, limits::RENEWAL_RETRY);
    }

    /// A controller is there: what is due waits for no pause that began when there was none. A night in which the
    /// certificate came due ends with sessions that are dead, and the next one may be long enough for it to end.
    pub(super) fn renew_with_a_controller(&mut self, now: Instant) {
        self.hurry_renewal(now, self.wall, Duration::ZERO);
    }

    fn hurry_renewal(&mut self, now: Instant, wall: UnixMs, pause: Duration) {
        let Ok(own) = Certificate::verify_at_any_time(&self.renewal.certificate, &self.bundle) else {
            return;
        };
        let is_late = |deadline: &&(Instant, Due)| deadline.1 == Due::Renewal && deadline.0 > now + pause;
        if due_after(&own, wall).is_zero()
            && let Some(late) = self.deadlines.iter().find(is_late).copied()
        {
            self.deadlines.remove(&late);
            self.deadlines.insert((now, Due::Renewal));
        }
    }

    /// Asks for a new certificate, and again later for as long as none has come.
    pub(super) fn renewal_due(&mut self, now: Instant) {
        self.deadlines.insert((now + limits::RENEWAL_RETRY, Due::Renewal));
        let pick = self.random.bits();
        // To one that is here: the bundle names those that are not, too.
        let here = u64::try_from(self.signers.len()).unwrap_or(u64::MAX);
        let owner =
            pick.checked_rem(here).and_then(|place| self.signers.keys().nth(usize::try_from(place).ok()?));
        let owner = owner.copied();
        let request = ControlRequest::from(Renew { certificate: true });
        let renewal = &mut self.renewal;
        let sealed = seal_request_to(
            &renewal.key,
            &renewal.certificate,
            &self.bundle,
            self.wall,
            (owner, pick),
            &request,
        );
        let Ok((sealed, pending)) = sealed else { return self.counters.refused.add("renewal_not_sealed") };
        let (Some(signer), Ok(sealed)) = (self.controller_for(&sealed), Bounded::new(sealed)) else {
            return self.counters.refused.add("renewal_without_controller");
        };
        self.renewal.asked = Some(pending);
        let forward = wire::ToSigner::from(Forward { route: OWN_ROUTE ^ self.route_mask, seq: 0, sealed });
        if let Err(error) = self.acceptor.send(signer, forward.frame_type(), &forward.encode_body()) {
            self.counters.not_sent.add(error.label());
        }
    }

    /// Takes the answer, if it is one: for this name and key, and later than what is held.
    pub(super) fn renewed(&mut self, now: Instant, sealed: &[u8]) {
        let reply = self.renewal.asked.as_ref().and_then(|pending| pending.open(sealed).ok());
        let Some(ControlReply::Renewed(renewed)) = reply else {
            return self.counters.refused.add("renewal_not_answered");
        };
        let der = renewed.certificate.map(Bounded::into_vec).unwrap_or_default();
        let held = Certificate::verify_at_any_time(&self.renewal.certificate, &self.bundle);
        let (Ok(new), Ok(held)) = (Certificate::verify(&der, &self.bundle, self.wall), held) else {
            return self.counters.refused.add("renewal_not_believed");
        };
        let same = new.identity() == held.identity() && new.public_key() == held.public_key();
        let local = LocalIdentity::new(&der, &self.renewal.key).ok().filter(|_| same);
        let Some(local) = local.filter(|_| new.not_after() > held.not_after()) else {
            return self.counters.refused.add("renewal_not_ours");
        };
        if self.acceptor.set_identity(&local).is_err() {
            return self.counters.refused.add("renewal_not_usable");
        }
        self.renewal.asked = None;
        self.renewal.certificate.clone_from(&der);
        self.deadlines.retain(|(_, due)| *due != Due::Renewal);
        self.deadlines.insert((now + due_after(&new, self.wall).max(limits::RENEWAL_RETRY), Due::Renewal));
        let id = self.next_write();
        self.out.push_back(SessionsOutput::Persist { id, record: Record::Certificate(der) });
    }
}
