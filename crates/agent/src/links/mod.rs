//! Which PoPs an agent is attached to, and when it tries which. `race` has the ways to one PoP, `life` whether it answers,
//! `status` what of it people see.

mod life;
mod race;
mod status;

pub(crate) use life::ALIVE_TIMEOUT;

pub use life::Asked;
pub use status::{PopPhaseWord, PopStatus};

use crate::{
    core::Agent,
    kind::AgentSlice,
    order::pop_order,
    output::{AgentEvent, Output},
};
use race::{Channels, families_in_turn};
use session::{CloseCode, Event, LostReason, SessionId};
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{FromAgent, Hello, PopId, SiteId};

/// A name that is not resolved by then counts as a failure.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// `Welcome` comes within this after the handshake, or the PoP is not working.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(8);
/// A PoP that has not answered by then is given company by the next in the order.
const HEDGE_AFTER: Duration = Duration::from_millis(1500);
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// A session that lasted this long clears the failures before it.
const PROVEN_AFTER: Duration = Duration::from_secs(30);
/// How often it is asked whether a struck PoP has been enrolled again.
const SHUNNED: Duration = Duration::from_secs(600);
/// Whatever a PoP asks for: one keepalive in this range.
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);
const KEEPALIVE_MAX: Duration = Duration::from_secs(60);
/// A PoP cannot keep agents away for longer than this.
const WINDOW_MAX: Duration = Duration::from_secs(300);

/// Over how long a reconnect is spread, as a PoP says it.
fn reconnect_window(ms: u32) -> Duration {
    Duration::from_millis(ms.into()).min(WINDOW_MAX)
}
/// Sessions at once, whatever sites want.
const MAX_LINKS: usize = 16;
/// Addresses taken of one name.
const MAX_ADDRESSES: usize = 8;
/// While a session goes by TCP, UDP is tried again after this, doubled up to the second.
const UDP_AGAIN: Duration = Duration::from_secs(30);

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// UDP.
    Udp,
    /// A TLS stream, TCP 443.
    Tcp,
}

impl Transport {
    /// The word for people and `--json`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// What is known about a PoP of the list.
#[derive(Debug)]
pub(crate) struct Place {
    name: String,
    addresses: Vec<SocketAddr>,
    phase: PlacePhase,
    /// The address that worked last: it is tried first.
    good: Option<SocketAddr>,
    /// What else is tried of this PoP, and when, until one of its sessions is welcomed.
    plan: VecDeque<(Instant, SocketAddr, Transport)>,
    /// When UDP is tried again while the session goes by TCP, and the pause after that.
    udp_again: Option<Instant>,
    udp_pause: Duration,
    failures: u32,
    not_before: Instant,
    /// A PoP of which some generation is struck is not dialled before: it may have been enrolled again since.
    shunned: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlacePhase {
    Down,
    Resolving { since: Instant },
    Linked(SessionId),
}

/// A session, from dialling to its end.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) pop: PopId,
    pub(crate) address: SocketAddr,
    transport: Transport,
    /// Another one was chosen; this one only says goodbye.
    is_given_up: bool,
    began: Instant,
    pub(crate) phase: LinkPhase,
}

#[derive(Debug)]
pub(crate) enum LinkPhase {
    Dialling,
    Greeting { until: Instant },
    Up(Standing),
}

/// A registered session.
#[derive(Debug)]
pub(crate) struct Standing {
    since: Instant,
    pub(crate) observed: SocketAddr,
    keepalive: Duration,
    window: Duration,
    next_keepalive: Instant,
    alive_by: Option<Instant>,
    /// When it answered last.
    answered_at: Option<Instant>,
    /// It was asked out of turn, and is doubted from then on if it does not answer.
    doubted_at: Option<Instant>,
    is_doubted: bool,
    leave_at: Option<Instant>,
}

impl Link {
    /// Whether it has shown since then that it lives.
    pub(crate) fn was_heard_since(&self, when: Instant) -> bool {
        match &self.phase {
            LinkPhase::Up(standing) => standing.answered_at.is_some_and(|at| at >= when),
            LinkPhase::Dialling | LinkPhase::Greeting { .. } => false,
        }
    }
}

impl<B: AgentSlice> Agent<B> {
    /// The shell's answer to [`Output::Resolve`]; an empty list when there is no address.
    pub fn handle_resolved(&mut self, now: Instant, pop: PopId, addresses: Vec<SocketAddr>) {
        let Some(place) = self.places.get_mut(&pop) else { return };
        if !matches!(place.phase, PlacePhase::Resolving { .. }) {
            return;
        }
        // A failed look-up keeps the addresses of the last one: no DNS is no reason not to try.
        if !addresses.is_empty() {
            place.addresses = families_in_turn(addresses);
            place.addresses.truncate(MAX_ADDRESSES);
        }
        place.phase = PlacePhase::Down;
        if place.addresses.is_empty() {
            self.failed(now, pop);
        } else {
            self.dial(now, pop);
        }
        self.maintain(now);
    }

    /// The machine changed its network: waits end, and standing sessions are asked for a sign of life.
    pub fn network_changed(&mut self, now: Instant) {
        // The network of a machine that starts with everybody else comes up with everybody else's.
        self.hold_until = self.start_at.max(now);
        self.tcp_first = false;
        for place in self.places.values_mut() {
            place.failures = 0;
            place.not_before = now;
            if place.udp_again.is_some() {
                place.udp_again = Some(now);
                place.udp_pause = UDP_AGAIN;
            }
        }
        self.probe(now);
        self.maintain(now);
    }

    pub(crate) fn order_of(&self, site: Option<SiteId>) -> Vec<PopId> {
        let Some(body) = self.slice.as_ref().map(|slice| &slice.body) else { return Vec::new() };
        let Some(site) = site.or_else(|| body.home()) else {
            // A client that can reach nothing yet still wants to hear of it when that changes: any PoP
            // will do, and its organization's order spreads such clients.
            let organization = self.identity().organization().map_or([0; 16], |id| *id.as_bytes());
            return pop_order(SiteId::from_bytes(organization), &[], body.pops());
        };
        pop_order(site, body.regions(site), body.pops())
    }

    /// Whether a PoP may be counted on for an introduction: not one that has just failed, is doubted or leaves.
    pub(crate) fn is_doubtful(&self, pop: PopId) -> bool {
        let Some(place) = self.places.get(&pop) else { return true };
        match place.phase {
            PlacePhase::Linked(id) => match self.standing(id) {
                Some(standing) => standing.is_doubted || standing.leave_at.is_some(),
                None => place.failures > 0,
            },
            PlacePhase::Down | PlacePhase::Resolving { .. } => place.failures > 0,
        }
    }

    pub(crate) fn up_at(&self, pop: PopId) -> Option<SessionId> {
        match self.places.get(&pop)?.phase {
            PlacePhase::Linked(id) if self.standing(id).is_some() => Some(id),
            _ => None,
        }
    }

    fn standing(&self, id: SessionId) -> Option<&Standing> {
        match &self.links.get(&id)?.phase {
            LinkPhase::Up(standing) => Some(standing),
            LinkPhase::Dialling | LinkPhase::Greeting { .. } => None,
        }
    }

    /// Sessions that carry messages.
    pub(crate) fn standing_sessions(&self) -> Vec<SessionId> {
        self.links.keys().copied().filter(|id| self.standing(*id).is_some()).collect()
    }

    /// Takes over the PoP list of a new slice.
    pub(crate) fn replace_places(&mut self, now: Instant) {
        let listed: Vec<_> = self
            .slice
            .as_ref()
            .map(|slice| slice.body.pops().iter().map(|pop| (pop.id, pop.address.clone())).collect())
            .unwrap_or_default();
        let ids: BTreeSet<PopId> = listed.iter().map(|(id, _)| *id).collect();
        let gone: Vec<SessionId> =
            self.links.iter().filter(|(_, link)| !ids.contains(&link.pop)).map(|(id, _)| *id).collect();
        self.places.retain(|id, _| ids.contains(id));
        for (id, name) in listed {
            let place = self.places.entry(id).or_insert_with(|| Place {
                name: name.clone(),
                addresses: Vec::new(),
                phase: PlacePhase::Down,
                good: None,
                plan: VecDeque::new(),
                udp_again: None,
                udp_pause: UDP_AGAIN,
                failures: 0,
                not_before: now,
                shunned: None,
            });
            if place.name != name {
                place.name = name;
                place.addresses.clear();
                place.failures = 0;
                place.not_before = now;
            }
        }
        for id in gone {
            self.dialler.close(now, id, CloseCode::Done);
        }
    }

    /// Sees to it that the wanted sessions are up or on their way. Only counts of the list decide here, so
    /// calling it too often changes nothing.
    pub(crate) fn maintain(&mut self, now: Instant) {
        self.maintained_at = now;
        if self.is_stopping {
            return;
        }
        let mut good = 0;
        for pop in self.order_of(None) {
            if good >= B::SESSIONS {
                break;
            }
            good += usize::from(self.want(now, pop) == Prospect::Good);
        }
    }

    /// Tries a PoP if now is the time for it, and says whether it may be counted on.
    pub(crate) fn want(&mut self, now: Instant, pop: PopId) -> Prospect {
        let Some(place) = self.places.get(&pop) else { return Prospect::Poor };
        match place.phase {
            PlacePhase::Linked(id) => match self.links.get(&id) {
                Some(Link { phase: LinkPhase::Up(standing), .. })
                    if standing.leave_at.is_none() && !standing.is_doubted =>
                {
                    Prospect::Good
                }
                Some(Link { phase: LinkPhase::Dialling | LinkPhase::Greeting { .. }, began, .. })
                    if now < *began + HEDGE_AFTER =>
                {
                    Prospect::Good
                }
                _ => Prospect::Poor,
            },
            PlacePhase::Resolving { since } if now < since + HEDGE_AFTER => Prospect::Good,
            PlacePhase::Resolving { .. } => Prospect::Poor,
            PlacePhase::Down => {
                let failures = place.failures;
                if now < place.not_before.max(self.hold_until) || self.links.len() >= MAX_LINKS {
                    // While everyone is held back after a loss, the first choice keeps its place.
                    return if failures == 0 { Prospect::Good } else { Prospect::Poor };
                }
                if self.is_shunned(now, pop) {
                    return Prospect::Poor;
                }
                self.start(now, pop);
                if failures == 0 { Prospect::Good } else { Prospect::Poor }
            }
        }
    }

    /// Whether a PoP is not to be dialled because it was struck. Which generation it has shows only in a handshake, so
    /// once in a while there is one.
    fn is_shunned(&mut self, now: Instant, pop: PopId) -> bool {
        let is_struck = self.strikes.set().struck_generation(trust::RevokedSubject::Pop(pop)).is_some();
        let Some(place) = self.places.get_mut(&pop).filter(|_| is_struck) else { return false };
        if place.shunned.is_some_and(|until| now < until) {
            return true;
        }
        place.shunned = Some(now + SHUNNED);
        false
    }

    /// Its session ended because it was struck: the generation is known.
    pub(crate) fn shun(&mut self, now: Instant, pop: PopId) {
        if let Some(place) = self.places.get_mut(&pop) {
            place.shunned = Some(now + SHUNNED);
        }
    }

    fn start(&mut self, now: Instant, pop: PopId) {
        let Some(place) = self.places.get_mut(&pop) else { return };
        if let Ok(address) = place.name.parse() {
            place.addresses = vec![address];
            self.dial(now, pop);
        } else {
            place.phase = PlacePhase::Resolving { since: now };
            let name = place.name.clone();
            self.out.push_back(Output::Resolve { pop, name });
        }
    }

    fn failed(&mut self, now: Instant, pop: PopId) {
        let delay = match self.places.get(&pop) {
            Some(place) => self.jitter.backoff(BACKOFF_BASE, place.failures + 1, BACKOFF_CAP),
            None => return,
        };
        if let Some(place) = self.places.get_mut(&pop) {
            place.phase = PlacePhase::Down;
            place.failures = place.failures.saturating_add(1);
            place.not_before = place.not_before.max(now + delay);
        }
    }

    pub(crate) fn handle_session_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Connected { id, .. } => {
                if self.is_late(id) {
                    return self.dialler.close(now, id, CloseCode::Done);
                }
                let Some(link) = self.links.get_mut(&id) else { return };
                link.phase = LinkPhase::Greeting { until: now + WELCOME_TIMEOUT };
                let build = concat!("tidegate/", env!("CARGO_PKG_VERSION")).as_bytes().to_vec();
                let hello = Hello {
                    oldest: wire::OLDEST_PROTOCOL_VERSION,
                    newest: wire::PROTOCOL_VERSION,
                    build: build.try_into().unwrap_or_default(),
                };
                self.tell(now, id, hello);
            }
            Event::Frame { id, frame_type, body } => self.handle_frame(now, id, frame_type, &body),
            Event::AddressChanged { .. } => {}
            Event::Lost { id, reason, retry_after } => {
                self.stay_away(now, id, retry_after);
                self.lost(now, id, reason);
            }
        }
    }

    /// A PoP said when to come back: not before, by no address, and nobody keeps an agent away for longer than a window. It
    /// counts from one whose certificate was seen: before that anybody on the way could say so.
    fn stay_away(&mut self, now: Instant, id: SessionId, retry_after: Option<Duration>) {
        let (Some(link), Some(after)) = (self.links.get(&id), retry_after) else { return };
        if matches!(link.phase, LinkPhase::Dialling) {
            return;
        }
        if let Some(place) = self.places.get_mut(&link.pop) {
            place.not_before = place.not_before.max(now + after.min(WINDOW_MAX));
            // It is not the better one while it sends us away.
            place.failures = place.failures.max(1);
            place.plan.clear();
        }
    }

    /// Sends what an agent must be able to say; a session that does not take it is given up.
    pub(crate) fn tell(&mut self, now: Instant, id: SessionId, message: impl Into<FromAgent>) {
        let message = message.into();
        if self.dialler.send(id, message.frame_type(), &message.encode_body()).is_err() {
            self.dialler.close(now, id, CloseCode::TooSlow);
        }
    }

    fn lost(&mut self, now: Instant, id: SessionId, reason: LostReason) {
        let Some(link) = self.links.remove(&id) else { return };
        let pop = link.pop;
        let others = self.others(pop, id);
        let is_first = self.places.get(&pop).is_some_and(|place| place.phase == PlacePhase::Linked(id));
        let was_up = matches!(link.phase, LinkPhase::Up(_));
        if !is_first || !others.is_empty() {
            // One of several, or one that was given up: another one carries on.
            if is_first && let Some(place) = self.places.get_mut(&pop) {
                let up = others.iter().copied().find(|other| {
                    self.links.get(other).is_some_and(|link| matches!(link.phase, LinkPhase::Up(_)))
                });
                if let Some(next) = up.or(others.first().copied()) {
                    place.phase = PlacePhase::Linked(next);
                }
                if was_up && up.is_none() {
                    // What was tried beside a session that stood is all there is now, by one address and one
                    // transport: the others get their turn too.
                    self.plan(now, pop);
                    let tried: Vec<SocketAddr> =
                        others.iter().filter_map(|id| Some(self.links.get(id)?.address)).collect();
                    if let Some(place) = self.places.get_mut(&pop) {
                        place.plan.retain(|(_, address, transport)| {
                            *transport == Transport::Tcp || !tried.contains(address)
                        });
                    }
                }
            }
            if was_up {
                self.event(AgentEvent::Lost { session: id, pop, reason });
            }
            self.requests_lost(now, id);
            self.maintain(now);
            return self.opens_lost(now, id);
        }
        if !was_up && self.places.get(&pop).is_some_and(|place| !place.plan.is_empty()) {
            // Nothing else is under way and there is more to try: at once.
            if let Some(place) = self.places.get_mut(&pop) {
                place.phase = PlacePhase::Down;
            }
            self.last_lost = Some(reason);
            return self.go_on(now, pop);
        }
        let place = self.places.get_mut(&pop);
        self.last_lost = Some(reason);
        if let Some(place) = place {
            place.phase = PlacePhase::Down;
            place.udp_again = None;
            match link.phase {
                LinkPhase::Up(standing) if standing.leave_at.is_some() => {
                    // It asked; it may be back after its restart.
                    let back = now + BACKOFF_BASE + self.jitter.up_to(standing.window);
                    place.not_before = place.not_before.max(back);
                }
                LinkPhase::Up(standing) => {
                    // Everyone at this PoP lost it in this moment: the window it gave spreads them, whichever
                    // PoP they turn to.
                    let spread = self.jitter.up_to(standing.window);
                    self.hold_until = self.hold_until.max(now + spread);
                    // A reset says that the PoP is there, and has restarted.
                    if now >= standing.since + PROVEN_AFTER || reason == LostReason::Reset {
                        place.failures = 1;
                        place.not_before = place.not_before.max(now + spread);
                    } else {
                        self.failed(now, pop);
                    }
                }
                LinkPhase::Dialling | LinkPhase::Greeting { .. } => self.failed(now, pop),
            }
        }
        self.event(AgentEvent::Lost { session: id, pop, reason });
        self.requests_lost(now, id);
        self.maintain(now);
        self.opens_lost(now, id);
    }

    pub(crate) fn welcomed(&mut self, now: Instant, id: SessionId, welcome: &wire::Welcome) {
        let spoken = wire::OLDEST_PROTOCOL_VERSION..=wire::PROTOCOL_VERSION;
        if !spoken.contains(&welcome.version) {
            return self.dialler.close(now, id, CloseCode::Version);
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        let keepalive =
            Duration::from_millis(welcome.keepalive_ms.into()).clamp(KEEPALIVE_MIN, KEEPALIVE_MAX);
        // The first one is earlier, anywhere in the interval: what registered together does not stay together.
        let first = KEEPALIVE_MIN + self.jitter.up_to(keepalive - KEEPALIVE_MIN);
        let observed = welcome.observed;
        let window = reconnect_window(welcome.reconnect_window_ms);
        link.phase = LinkPhase::Up(Standing {
            since: now,
            observed,
            keepalive,
            window,
            next_keepalive: now + first,
            alive_by: None,
            answered_at: None,
            doubted_at: None,
            is_doubted: false,
            leave_at: None,
        });
        let (pop, transport) = (link.pop, link.transport);
        if self.told_window.is_zero() {
            self.keep_window();
        }
        self.stats.registrations += 1;
        self.event(AgentEvent::Registered { session: id, pop, observed });
        let kept = if welcome.channels > 0 { Channels::Kept } else { Channels::Gone };
        self.choose(now, id, pop, transport, kept);
        // There is another way now for what goes through a PoP that drains.
        let leaves = |link: &Link| matches!(&link.phase, LinkPhase::Up(other) if other.leave_at.is_some());
        let leaving: Vec<(SessionId, PopId)> =
            self.links.iter().filter(|(_, link)| leaves(link)).map(|(id, link)| (*id, link.pop)).collect();
        for (session, pop) in leaving {
            self.event(AgentEvent::Doubted { session, pop });
        }
        self.maintain(now);
        self.opens_up(now, pop);
        self.ask_what_waits(now);
        self.renewals.wake_unasked(now);
    }
}

/// Whether a PoP may be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prospect {
    Good,
    Poor,
}
