//! The documents an agent holds: when they are renewed, and which new ones are believed.
//!
//! Three rules for each of them: it must verify under the bundle; it must be for this agent and newer than
//! what is held; and whatever fails leaves what is held in force, counted.
//!
//! `nbf` is not asked of what a controller just sent, nor `exp` of what it sent in answer to our own
//! request: an agent whose clock is off by a day must still be able to renew. Whoever the document is shown
//! to asks both.

use crate::{
    clock::{Freshness, Moved},
    control::Purpose,
    core::Agent,
    kind::AgentSlice,
    output::{AgentEvent, Persisted},
};
use session::{CloseCode, LocalIdentity};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{
    Beacon, Certificate, Grant, KeyId, KeyRole, RevokedSubject, Slice, SliceVersion, Subject, TrustChain,
    UnixMs, Unverified,
};
use wire::{Anchor, ControlRequest, ControllerId, Document, GetSlice, Renew, Renewed, SliceReply};

/// A change reaches everyone of an organization in the same second; their questions spread over this.
const SLICE_SPREAD: Duration = Duration::from_secs(2);
/// A slice is asked for anew after this, changed or not: its signature lives 7 days.
const SLICE_REFRESH: Duration = Duration::from_secs(24 * 3600);
/// How long a controller may lag behind another's beacon before it is asked again, and how often.
const LAG_CHECK: Duration = Duration::from_secs(60);
const LAG_CHECKS: u32 = 3;
/// The time is asked for this often, and this soon when it is wanted (architecture: start, resume, hourly).
const ANCHOR_INTERVAL: Duration = Duration::from_secs(3600);
const ANCHOR_SPREAD: Duration = Duration::from_secs(1);
/// Haste is made this often at most: what is not cured by asking is not asked again and again.
const HURRY_PAUSE: Duration = Duration::from_secs(60);
const UNSETTLED_PAUSE: Duration = Duration::from_secs(10);
const ANCHOR_RETRY: Duration = Duration::from_secs(2);
const RETRY_BASE: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(600);
/// A strike that a beacon spoke of and that has not come is asked for after this, and again.
const STRIKES_SPREAD: Duration = Duration::from_secs(1);
const STRIKES_PAUSE: Duration = Duration::from_secs(1);
const STRIKES_LONGEST: Duration = Duration::from_secs(360);
/// Missing for this long it is as if the beacon had not come: 15 s and 60 s after it was made, with what it takes.
const WITHHELD_STALE: Duration = Duration::from_secs(9);
const WITHHELD_ISOLATED: Duration = Duration::from_secs(54);

/// What was due while there was no session to ask by.
#[derive(Debug, Clone, Copy, Default)]
struct Unasked {
    renew: bool,
    slice: bool,
    anchor: bool,
}

/// When what is asked for next.
#[derive(Debug, Default)]
pub(crate) struct Renewals {
    unasked: Unasked,
    renew_at: Option<Instant>,
    renew_failures: u32,
    /// When a newer grant was wanted last because of what a slice gives.
    grant_wanted: Option<Instant>,
    slice_at: Option<Instant>,
    slice_failures: u32,
    lag_checks: u32,
    has_asked_slice: bool,
    anchor_at: Option<Instant>,
    anchor_failures: u32,
    /// Whose clock is wanted.
    anchor_to: Option<ControllerId>,
    /// When haste was made last.
    hurried: Option<Instant>,
    /// When missing strikes are asked for, and how often that was.
    strikes_at: Option<Instant>,
    strikes_tries: u32,
    /// Since when a strike that was made in this run is missing.
    withheld_since: Option<Instant>,
}

impl Renewals {
    pub(crate) const fn anchor_to(&self) -> Option<ControllerId> {
        self.anchor_to
    }

    pub(crate) fn next(&self) -> Option<(Instant, &'static str)> {
        let renew = self.renew_at.map(|at| (at, "a renewal"));
        let slice = self.slice_at.map(|at| (at, "a newer slice"));
        let anchor = self.anchor_at.map(|at| (at, "a controller's word on the time"));
        let strikes = self.strikes_at.map(|at| (at, "strikes that are missing"));
        renew.into_iter().chain(slice).chain(anchor).chain(strikes).min()
    }

    /// A session is up: what was due while there was none is asked now.
    pub(crate) fn wake_unasked(&mut self, now: Instant) {
        let Unasked { renew, slice, anchor } = std::mem::take(&mut self.unasked);
        for (was_due, at) in
            [(renew, &mut self.renew_at), (slice, &mut self.slice_at), (anchor, &mut self.anchor_at)]
        {
            if was_due && at.is_some() {
                *at = Some(now);
            }
        }
    }

    /// How fresh one can be who knows of strikes and does not get them.
    pub(crate) fn withheld(&self, now: Instant) -> Freshness {
        match self.withheld_since.map(|since| now.saturating_duration_since(since)) {
            _ if planted::is("withheld-strikes-are-not-missed") => Freshness::Fresh,
            Some(missing) if missing >= WITHHELD_ISOLATED => Freshness::Isolated,
            Some(missing) if missing >= WITHHELD_STALE => Freshness::Stale,
            _ => Freshness::Fresh,
        }
    }

    pub(crate) fn next_withheld(&self, now: Instant) -> Option<Instant> {
        let since = self.withheld_since?;
        [since + WITHHELD_STALE, since + WITHHELD_ISOLATED].into_iter().find(|at| *at > now)
    }
}

impl<B: AgentSlice> Agent<B> {
    /// Believes what is on disk, as far as it verifies.
    pub(crate) fn load(
        &mut self,
        now: Instant,
        grant: Option<String>,
        slice: Option<String>,
        revocations: Option<&str>,
    ) {
        if let Some(text) = grant {
            match Unverified::<Grant>::parse(&text).and_then(|grant| grant.verify_at_any_time(&self.bundle)) {
                Ok(grant) if self.is_mine(&grant) => {
                    self.grant = Some(grant);
                    self.grant_text = Some(text);
                }
                _ => self.stats.grants_refused += 1,
            }
        }
        if let Some(text) = slice {
            match self.believe_slice(&text) {
                Some((slice, signer)) => self.hold_slice(slice, signer),
                None => {
                    self.stats.slices_refused += 1;
                    self.slice = self.pop_list_of(&text);
                    self.is_slice_void = self.slice.is_some();
                }
            }
        }
        let loaded = self.strikes.load(revocations.unwrap_or_default(), &self.bundle);
        self.stats.revocations_refused += loaded.refused;
        self.dialler.set_revocations(Arc::clone(self.strikes.set()));
        self.replace_places(now);
        self.schedule_renewal(now, Learned::FromDisk);
    }

    fn is_mine(&self, grant: &Grant) -> bool {
        Subject::Device(grant.device) == self.identity().subject()
            && Some(grant.organization) == self.identity().organization()
            && grant.key == self.identity_key.verifying_key()
    }

    fn believe_slice(&self, text: &str) -> Option<(Slice<B>, KeyId)> {
        let slice = Unverified::<Slice<B>>::parse(text).ok()?;
        let signer = slice.signer();
        let slice = slice.verify_at_any_time(&self.bundle).ok()?;
        self.is_my_slice(&slice).then_some((slice, signer))
    }

    fn is_my_slice(&self, slice: &Slice<B>) -> bool {
        slice.header.audience.is(self.identity().subject())
            && slice.header.organization == self.identity().organization()
    }

    /// A slice that was believed once and whose key has left the bundle since: the way to a PoP is taken from it, for
    /// a PoP is believed in nothing anyway, and without one there is no way to a newer slice.
    fn pop_list_of(&self, text: &str) -> Option<Slice<B>> {
        let slice = Unverified::<Slice<B>>::parse(text).ok()?;
        self.bundle.key(slice.signer(), KeyRole::Slice).is_none().then_some(())?;
        slice.verified_before(self.bundle.installation()).ok().filter(|slice| self.is_my_slice(slice))
    }

    fn hold_slice(&mut self, slice: Slice<B>, signer: KeyId) {
        self.slice = Some(slice);
        self.slice_signer = Some(signer);
        self.is_slice_void = false;
    }

    // ---- what PoPs push ------------------------------------------------------------------------

    pub(crate) fn learn_beacon(&mut self, now: Instant, document: &Document) {
        let beacon = Unverified::<Beacon>::parse_bytes(document.as_slice())
            .and_then(|beacon| beacon.verify_at_any_time(&self.bundle));
        let Ok(beacon) = beacon else {
            self.stats.beacons_refused += 1;
            return;
        };
        match self.clock.heard(now, beacon.controller, beacon.time) {
            Moved::No => return,
            Moved::Ahead => {
                // Its clock is off or ours: it, or another one, is asked to sign the time.
                self.stats.beacons_ahead += 1;
                return self.hurry_anchor(now, HURRY_PAUSE, None);
            }
            Moved::Newest => {}
        }
        // It is heard, and what it says is not the present; or its clock is not known exactly.
        if self.clock.freshness(now) != Freshness::Fresh || !self.clock.is_known(beacon.controller) {
            self.hurry_anchor(now, HURRY_PAUSE, Some(beacon.controller));
        }
        self.take_beacon(now, beacon);
    }

    fn take_beacon(&mut self, now: Instant, beacon: Beacon) {
        let newest = self.identity().organization().and_then(|organization| beacon.version_of(organization));
        self.strikes.heard(beacon.controller, &beacon.heads);
        self.beacon = Some(beacon);
        self.look_for_strikes(now);
        let known = self.held_version().max(self.asked_version);
        // After a failure its own back-off decides, not the beacons that go on coming.
        let may_hurry = self.renewals.slice_failures == 0 && self.renewals.slice_at.is_none_or(|at| at > now);
        if (newest.is_some_and(|newest| newest > known) || planted::is("slice-for-every-beacon")) && may_hurry
        {
            let at = now + self.jitter.up_to(SLICE_SPREAD);
            self.renewals.slice_at = Some(self.renewals.slice_at.map_or(at, |held| held.min(at)));
        }
        self.tell_freshness(now);
    }

    pub(crate) fn learn_chain(&mut self, now: Instant, document: &Document) {
        let wall = self.clock.wall(now);
        let learned = TrustChain::parse_bytes(document.as_slice())
            .and_then(|chain| Ok((chain.verify(&self.root, wall)?, chain.to_text())));
        let Ok((bundle, text)) = learned else {
            self.stats.chains_refused += 1;
            return;
        };
        if (bundle.epoch(), bundle.serial()) == (self.bundle.epoch(), self.bundle.serial()) {
            return;
        }
        if self.bundle.replace_with(bundle).is_err() {
            self.stats.chains_refused += 1;
            return;
        }
        // A root that has named its successor signs nothing here any more, nor after a restart: the chain that is
        // written leads on from it.
        self.root = self.bundle.root();
        self.chain_text.clone_from(&text);
        self.dialler.set_bundle(self.bundle.clone());
        self.persist(Persisted::Chain, text.into_bytes());
        self.recheck_held(now);
        self.event(AgentEvent::BundleChanged);
    }

    /// What is held, under another bundle than the one it was believed under. Keys that are rotated overlap for
    /// longer than the longest lease; one that is taken away before takes along what it signed. Strikes stay.
    fn recheck_held(&mut self, now: Instant) {
        let grant = self.grant_text.as_deref().map(Unverified::<Grant>::parse);
        let is_void = |grant: Unverified<Grant>| self.bundle.key(grant.signer(), KeyRole::Grant).is_none();
        if grant.is_some_and(|grant| grant.is_ok_and(is_void)) {
            self.grant = None;
            self.grant_text = None;
            self.renewals.renew_at = Some(now + self.jitter.up_to(SLICE_SPREAD));
        }
        if self.slice_signer.is_some_and(|signer| self.bundle.key(signer, KeyRole::Slice).is_none()) {
            self.is_slice_void = true;
            self.renewals.slice_at = Some(now + self.jitter.up_to(SLICE_SPREAD));
        }
        self.recheck_pops(now);
    }

    /// Ends sessions to PoPs that would not be let in now.
    fn recheck_pops(&mut self, now: Instant) {
        for id in self.standing_sessions() {
            let Some(peer) = self.dialler.peer(id) else { continue };
            let subject = peer.identity().subject();
            if self.strikes.set().is_struck(RevokedSubject::of(subject), peer.generation()) {
                if let Subject::Pop(pop) = subject {
                    self.shun(now, pop);
                }
                self.dialler.close(now, id, CloseCode::Struck);
            } else if Certificate::verify_at_any_time(peer.der(), &self.bundle).is_err() {
                self.dialler.close(now, id, CloseCode::NotTrusted);
            }
        }
    }

    pub(crate) fn learn_revocations(&mut self, now: Instant, documents: &[Document]) {
        let wall = self.clock.wall(now);
        let learned = self.strikes.learn(documents, &self.bundle, wall);
        self.stats.revocations_refused += learned.refused;
        if learned.taken == 0 {
            return;
        }
        // In force first, then written, then told.
        self.dialler.set_revocations(Arc::clone(self.strikes.set()));
        self.persist(Persisted::Revocations, self.strikes.text());
        self.event(AgentEvent::RevocationsChanged);
        self.recheck_pops(now);
        // It was of use to ask: what is still missing is asked for soon.
        self.renewals.strikes_tries = 0;
        self.renewals.strikes_at = None;
        self.look_for_strikes(now);
    }

    /// Holds the heads that beacons name against what is held. Connectors only: they enforce, and clients are told none.
    fn look_for_strikes(&mut self, now: Instant) {
        if B::ROLE != trust::Role::Connector || planted::is("heads-of-beacons-unread") {
            return;
        }
        let holes = self.strikes.holes();
        let is_withheld = holes.iter().any(|hole| hole.is_new);
        self.renewals.withheld_since = is_withheld.then(|| self.renewals.withheld_since.unwrap_or(now));
        if holes.is_empty() {
            self.renewals.strikes_at = None;
            self.renewals.strikes_tries = 0;
        } else if self.renewals.strikes_at.is_none() {
            // A strike goes to all connectors in the same moment as the beacon: it may be on its way.
            self.renewals.strikes_at = Some(now + self.jitter.up_to(STRIKES_SPREAD));
        }
    }

    fn ask_for_strikes(&mut self, now: Instant) {
        let holes = self.strikes.holes();
        let sessions = self.standing_sessions();
        let tries = self.renewals.strikes_tries;
        self.renewals.strikes_tries = tries.saturating_add(1);
        // Each PoP in its turn, and each hole: one PoP may lack what another holds.
        let turn = usize::try_from(tries).unwrap_or(0);
        let session = sessions.get(turn % sessions.len().max(1)).copied();
        let hole = holes.get(turn / sessions.len().max(1) % holes.len().max(1));
        if let (Some(session), Some(hole)) = (session, hole) {
            self.stats.revocations_asked += 1;
            self.tell(now, session, hole.asked);
        }
        // What is older than this run may have served its time, and then nobody has it any more.
        let longest =
            if holes.iter().any(|hole| hole.is_new) { STRIKES_LONGEST } else { STRIKES_LONGEST * 10 };
        let pause = self.jitter.backoff(STRIKES_PAUSE, tries, longest);
        self.renewals.strikes_at = (!holes.is_empty()).then(|| now + STRIKES_PAUSE + pause);
    }

    // ---- what controllers answer ---------------------------------------------------------------

    pub(crate) fn renewed(&mut self, now: Instant, renewed: &Renewed) {
        let grant = renewed.grant.as_ref().map(|grant| self.take_grant(grant.as_slice()));
        let certificate = renewed.certificate.as_ref().map(|der| self.take_certificate(der.as_slice()));
        let refused =
            [grant, certificate].into_iter().flatten().filter(|taken| *taken == Taken::Refused).count();
        self.stats.grants_refused += u64::try_from(refused).unwrap_or(0);
        if refused > 0 || (grant.is_none() && certificate.is_none()) {
            return self.renewal_failed(now, Duration::ZERO);
        }
        self.renewals.renew_failures = 0;
        self.last_control_refusal = None;
        self.schedule_renewal(now, Learned::JustNow);
        self.event(AgentEvent::GrantChanged);
    }

    fn take_grant(&mut self, text: &[u8]) -> Taken {
        let parsed = Unverified::<Grant>::parse_bytes(text).and_then(|unverified| {
            let text = unverified.text().to_owned();
            Ok((unverified.verify_at_any_time(&self.bundle)?, text))
        });
        match parsed {
            Ok((grant, text))
                if self.is_mine(&grant) && self.grant.as_ref().is_none_or(|held| grant.iat >= held.iat) =>
            {
                self.grant = Some(grant);
                self.grant_text = Some(text.clone());
                self.persist(Persisted::Grant, text.into_bytes());
                Taken::Yes
            }
            _ => Taken::Refused,
        }
    }

    fn take_certificate(&mut self, der: &[u8]) -> Taken {
        let Ok(certificate) = Certificate::verify_at_any_time(der, &self.bundle) else {
            return Taken::Refused;
        };
        if certificate.identity() != self.identity() || certificate.not_after() < self.certificate.not_after()
        {
            return Taken::Refused;
        }
        let Ok(local) = LocalIdentity::new(der, &self.identity_key) else { return Taken::Refused };
        self.dialler.set_identity(local);
        self.certificate = certificate;
        self.persist(Persisted::Certificate, der.to_vec());
        Taken::Yes
    }

    pub(crate) fn slice_replied(&mut self, now: Instant, reply: &SliceReply) {
        self.renewals.slice_failures = 0;
        if let Some(text) = &reply.slice {
            let text = std::str::from_utf8(text.as_slice()).unwrap_or_default();
            // Of one that counts no more, nothing is a reason to refuse another.
            let held = self.slice().map(|slice| (slice.header.version, slice.header.iat));
            match self.believe_slice(text) {
                Some((slice, signer))
                    if held.is_none_or(|held| (slice.header.version, slice.header.iat) > held)
                        || planted::is("older-slice-taken") =>
                {
                    self.hold_slice(slice, signer);
                    self.persist(Persisted::Slice, text.as_bytes().to_vec());
                    self.replace_places(now);
                    self.event(AgentEvent::SliceChanged);
                    self.maintain(now);
                }
                // The one that is held, word for word, is no fault.
                Some((slice, _)) if held == Some((slice.header.version, slice.header.iat)) => {}
                _ => {
                    self.stats.slices_refused += 1;
                    return self.slice_failed(now, Duration::ZERO);
                }
            }
        }
        self.last_control_refusal = None;
        // A controller may lag behind the one whose beacon came; or the change does not concern this agent.
        // Which of the two cannot be told, so it is asked a few times more and then not before tomorrow.
        let next = if self.held_version() < self.asked_version && self.renewals.lag_checks < LAG_CHECKS {
            self.renewals.lag_checks += 1;
            LAG_CHECK
        } else {
            self.renewals.lag_checks = 0;
            SLICE_REFRESH
        };
        self.renewals.slice_at = Some(now + self.jitter.quarter(next));
    }

    // ---- when ----------------------------------------------------------------------------------

    fn held_version(&self) -> SliceVersion {
        self.slice().map(|slice| slice.header.version).unwrap_or_default()
    }

    /// Asks for a new grant and certificate now, whenever they are due.
    pub fn force_renew(&mut self, now: Instant) {
        self.renewals.renew_at = Some(now);
        self.tick_renewals(now);
    }

    /// A slice gives what the grant does not show: a group that no policy named when the grant was made, or that this
    /// device's owner has joined since. Asks for a newer one, once a minute at most, spread as everybody's questions about
    /// one change.
    pub fn want_grant(&mut self, now: Instant) {
        if self.renewals.grant_wanted.is_some_and(|wanted| wanted > now) {
            return;
        }
        let not_before = self.renewals.grant_wanted.map_or(now, |last| (last + HURRY_PAUSE).max(now));
        let at = not_before + self.jitter.up_to(SLICE_SPREAD);
        self.renewals.grant_wanted = Some(not_before);
        self.renewals.renew_at = Some(self.renewals.renew_at.map_or(at, |due| due.min(at)));
    }

    /// A session is up: what could not be asked before is asked.
    pub(crate) fn registered_renewals(&mut self, now: Instant) {
        if !self.renewals.has_asked_slice {
            // At start, once, whatever the beacon says: a PoP may have none.
            self.renewals.has_asked_slice = true;
            let at = now + self.jitter.up_to(SLICE_SPREAD);
            self.renewals.slice_at = Some(at);
        }
        if self.renewals.anchor_at.is_none() && self.stats.anchors == 0 {
            self.renewals.anchor_at = Some(now + self.anchor_spread());
        }
    }

    // ---- time ----------------------------------------------------------------------------------

    /// Whether the first word on the time is on its way: what seems expired until then may not be.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        self.stats.anchors == 0
            && self.renewals.anchor_failures == 0
            && (self.renewals.anchor_at.is_some() || self.is_asking(Purpose::Anchor))
    }

    /// Devices that start together do not ask together; connectors are few, and somebody waits for them.
    fn anchor_spread(&mut self) -> Duration {
        let spread = if B::ROLE == trust::Role::Device { ANCHOR_SPREAD } else { ANCHOR_SPREAD / 10 };
        self.jitter.up_to(spread)
    }

    /// The machine slept or its clock stepped.
    pub(crate) fn unsettle(&mut self, now: Instant) {
        self.clock.unsettle();
        self.renewals.anchor_failures = 0;
        // Soon after the last time it is asked later, and not never: nobody else would say that it is settled.
        let pause_ends = self.renewals.hurried.map_or(now, |at| now.max(at + UNSETTLED_PAUSE));
        self.hurry_anchor(now, UNSETTLED_PAUSE, None);
        if pause_ends > now {
            let held = self.renewals.anchor_at;
            self.renewals.anchor_at = Some(held.map_or(pause_ends, |held| held.min(pause_ends)));
        }
        self.tell_freshness(now);
    }

    /// Asks for the time soon, unless that is failing: then its own back-off decides.
    fn hurry_anchor(&mut self, now: Instant, pause: Duration, to: Option<ControllerId>) {
        let is_early = self.renewals.hurried.is_some_and(|at| now < at + pause);
        if !is_early && self.renewals.anchor_failures == 0 && !self.is_asking(Purpose::Anchor) {
            self.renewals.hurried = Some(now);
            self.renewals.anchor_to = to;
            let at = now + self.anchor_spread();
            self.renewals.anchor_at = Some(self.renewals.anchor_at.map_or(at, |held| held.min(at)));
        }
    }

    /// A controller signed a nonce that was sent at `sent`.
    pub(crate) fn anchored(&mut self, now: Instant, sent: Instant, nonce: [u8; 16], document: &Document) {
        let beacon = Unverified::<Beacon>::parse_bytes(document.as_slice())
            .and_then(|beacon| beacon.verify_at_any_time(&self.bundle));
        let believed = match beacon {
            Ok(beacon) if beacon.nonce == Some(nonce) => {
                self.clock.anchored(sent, now, beacon.controller, beacon.time).then_some(beacon)
            }
            _ => None,
        };
        let Some(beacon) = believed else {
            self.stats.anchors_refused += 1;
            return self.anchor_failed(now, Duration::ZERO);
        };
        self.stats.anchors += 1;
        self.renewals.anchor_failures = 0;
        self.renewals.anchor_to = None;
        self.renewals.anchor_at = Some(now + self.jitter.quarter(ANCHOR_INTERVAL));
        self.dialler.set_wall(self.clock.reach(now));
        self.event(AgentEvent::TimeAnchored);
        self.take_beacon(now, beacon);
    }

    pub(crate) fn anchor_failed(&mut self, now: Instant, after: Duration) {
        let delay = self.jitter.backoff(ANCHOR_RETRY, self.renewals.anchor_failures, RETRY_CAP);
        self.renewals.anchor_failures = self.renewals.anchor_failures.saturating_add(1);
        self.renewals.anchor_to = None;
        self.renewals.anchor_at = Some(now + ANCHOR_RETRY + delay.max(after.min(RETRY_CAP)));
    }

    fn schedule_renewal(&mut self, now: Instant, learned: Learned) {
        let wall = self.clock.wall(now);
        // What came just now counts from now, by the monotonic clock; only what was on disk needs the wall
        // clock to know its age.
        let age = |iat: UnixMs| match learned {
            Learned::JustNow => Duration::ZERO,
            Learned::FromDisk => wall.since(iat),
        };
        let grant = self.grant.as_ref().map(|grant| (Duration::from_millis(grant.renew_after_ms), grant.iat));
        let mut next = grant.map(|(after, iat)| self.jitter.quarter(after).saturating_sub(age(iat)));
        let begin = self.certificate.not_before();
        // Day 10 of 30.
        let third = self.certificate.not_after().since(begin) / 3;
        let certificate = third.saturating_sub(wall.since(begin)).max(match learned {
            Learned::JustNow => Duration::from_secs(60),
            Learned::FromDisk => Duration::ZERO,
        });
        if self.grant.is_none() {
            next = Some(certificate);
        }
        if B::ROLE == trust::Role::Device && self.grant.is_none() {
            next = Some(Duration::ZERO);
        }
        self.renewals.renew_at = next.map(|after| now + after);
    }

    fn is_certificate_due(&self, now: Instant) -> bool {
        let begin = self.certificate.not_before();
        let third = self.certificate.not_after().since(begin) / 3;
        self.clock.wall(now).since(begin) >= third
    }

    pub(crate) fn renewal_failed(&mut self, now: Instant, after: Duration) {
        if planted::is("failed-renewal-drops-the-grant") {
            (self.grant, self.grant_text) = (None, None);
        }
        let delay = self.jitter.backoff(RETRY_BASE, self.renewals.renew_failures, RETRY_CAP);
        self.renewals.renew_failures = self.renewals.renew_failures.saturating_add(1);
        self.renewals.renew_at = Some(now + RETRY_BASE + delay.max(after.min(RETRY_CAP)));
    }

    pub(crate) fn slice_failed(&mut self, now: Instant, after: Duration) {
        if planted::is("slice-asked-for-without-pause") {
            self.renewals.slice_at = Some(now);
            return;
        }
        let delay = self.jitter.backoff(RETRY_BASE, self.renewals.slice_failures, RETRY_CAP);
        self.renewals.slice_failures = self.renewals.slice_failures.saturating_add(1);
        self.renewals.slice_at = Some(now + RETRY_BASE + delay.max(after.min(RETRY_CAP)));
    }

    pub(crate) fn tick_renewals(&mut self, now: Instant) {
        // With no session there is nobody to ask; the next registration wakes what is due.
        let can_ask = !self.standing_sessions().is_empty();
        if self.renewals.renew_at.is_some_and(|at| at <= now) {
            self.renewals.renew_at = Some(now + RETRY_BASE);
            self.renewals.unasked.renew = !can_ask;
            if can_ask && !self.is_asking(Purpose::Renew) {
                let certificate = B::ROLE == trust::Role::Connector || self.is_certificate_due(now);
                self.renewals.renew_at = None;
                self.ask(now, Purpose::Renew, ControlRequest::from(Renew { certificate }));
            }
        }
        if self.renewals.slice_at.is_some_and(|at| at <= now) {
            self.renewals.slice_at = Some(now + RETRY_BASE);
            self.renewals.unasked.slice = !can_ask;
            if can_ask && !self.is_asking(Purpose::Slice) {
                self.renewals.slice_at = None;
                self.ask_slice(now);
            }
        }
        if self.renewals.strikes_at.is_some_and(|at| at <= now) {
            self.ask_for_strikes(now);
        }
        if self.renewals.anchor_at.is_some_and(|at| at <= now) {
            self.renewals.anchor_at = Some(now + ANCHOR_RETRY);
            self.renewals.unasked.anchor = !can_ask;
            if can_ask && !self.is_asking(Purpose::Anchor) {
                self.renewals.anchor_at = None;
                // The nonce is drawn with each attempt.
                self.ask(now, Purpose::Anchor, ControlRequest::from(Anchor { nonce: [0; 16] }));
            }
        }
    }

    fn ask_slice(&mut self, now: Instant) {
        let held = self.held_version();
        let organization = self.identity().organization();
        let told = self.beacon.as_ref().zip(organization).and_then(|(beacon, id)| beacon.version_of(id));
        self.asked_version = self.asked_version.max(told.unwrap_or(held)).max(held);
        let is_old = self
            .slice()
            .is_none_or(|slice| self.clock.wall(now).since(slice.header.iat) >= SLICE_REFRESH / 2);
        // "None held" makes the controller sign the same version again.
        let SliceVersion { incarnation, version } = if is_old { SliceVersion::default() } else { held };
        self.ask(now, Purpose::Slice, ControlRequest::from(GetSlice { incarnation, version }));
    }
}

#[derive(Clone, Copy)]
enum Learned {
    FromDisk,
    JustNow,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    Yes,
    Refused,
}
