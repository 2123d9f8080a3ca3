//! Which PoPs an agent is attached to, and when it tries which.

use crate::{
    clock::Freshness,
    core::Agent,
    kind::AgentSlice,
    order::pop_order,
    output::{AgentEvent, Output},
};
use session::{CloseCode, Event, LostReason, SessionId};
use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{FromAgent, Hello, Keepalive, PopId, SiteId};

/// A name that is not resolved by then counts as a failure.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// `Welcome` comes within this after the handshake, or the PoP is not working.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(8);
/// `Alive` comes within this: at 30 % loss and a second of delay QUIC's third retransmission is out.
pub(crate) const ALIVE_TIMEOUT: Duration = Duration::from_secs(8);
/// A PoP that was asked because nothing comes back through it, and has not answered by then, is doubted: what goes
/// through it is introduced anew at the next, before it is known to be dead.
const DOUBT_AFTER: Duration = Duration::from_secs(1);
/// A PoP that has not answered by then is given company by the next in the order.
const HEDGE_AFTER: Duration = Duration::from_millis(1500);
const BACKOFF_BASE: Duration = Duration::from_secs(1);
const BACKOFF_CAP: Duration = Duration::from_secs(60);
/// A session that lasted this long clears the failures before it.
const PROVEN_AFTER: Duration = Duration::from_secs(30);
/// Whatever a PoP asks for: one keepalive in this range.
/// A session that nothing goes through and that is none of the first is kept for as long: something may come back to it.
const SPARE_FOR: Duration = Duration::from_secs(300);
/// How often it is asked whether a struck PoP has been enrolled again.
const SHUNNED: Duration = Duration::from_secs(600);
const KEEPALIVE_MIN: Duration = Duration::from_secs(1);
const KEEPALIVE_MAX: Duration = Duration::from_secs(60);
/// A PoP cannot keep agents away for longer than this.
const WINDOW_MAX: Duration = Duration::from_secs(300);
/// Sessions at once, whatever sites want.
const MAX_LINKS: usize = 16;
/// Addresses taken of one name.
const MAX_ADDRESSES: usize = 8;

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

/// A PoP that has not answered by UDP within this is dialled by TCP as well.
const RACE_AFTER: Duration = Duration::from_secs(2);
/// And one that was reached by UDP when it has not answered a keepalive within this: its answer takes a round trip, and
/// who has roamed to a network without UDP waits for nothing else.
const RACE_ASKED: Duration = Duration::from_secs(1);
/// Another address of the same name is tried after this (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// The least time between two tries.
const RACE_PAUSE: Duration = Duration::from_millis(10);
/// Addresses of one PoP that are tried at once.
const ADDRESSES_AT_ONCE: usize = 4;
/// While a session goes by TCP, UDP is tried again after this, doubled up to the second.
const UDP_AGAIN: Duration = Duration::from_secs(30);
const UDP_AGAIN_LAST: Duration = Duration::from_secs(300);
/// Streams whose addresses are remembered: as many as sessions at once, and the ones before.
const MAX_STREAMS: usize = 256;

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

/// Where an agent stands with one PoP, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PopStatus {
    /// Which PoP.
    pub pop: PopId,
    /// How it stands.
    pub phase: PopPhaseWord,
    /// The session, when there is one.
    pub session: Option<SessionId>,
    /// The PoP's address in use.
    pub address: Option<SocketAddr>,
    /// What carries the session.
    pub transport: Option<Transport>,
    /// This agent's address as that PoP sees it; none by TCP.
    pub observed: Option<SocketAddr>,
    /// Failures in a row.
    pub failures: u32,
}

/// How an agent stands with a PoP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PopPhaseWord {
    /// Not in use.
    Idle,
    /// Its name is being looked up.
    Resolving,
    /// A session is being opened.
    Connecting,
    /// Registered.
    Registered,
    /// Registered, and the PoP asked to leave.
    Leaving,
}

impl PopPhaseWord {
    /// The word for people and `--json`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Registered => "registered",
            Self::Leaving => "leaving",
        }
    }
}

impl<B: AgentSlice> Agent<B> {
    /// How this agent stands with each PoP of its list.
    pub fn pops(&self) -> impl Iterator<Item = PopStatus> {
        self.places.iter().map(|(pop, place)| {
            let link = match place.phase {
                PlacePhase::Linked(id) => self.links.get(&id).map(|link| (id, link)),
                PlacePhase::Down | PlacePhase::Resolving { .. } => None,
            };
            let phase = match (place.phase, link.map(|(_, link)| &link.phase)) {
                (PlacePhase::Resolving { .. }, _) => PopPhaseWord::Resolving,
                (_, Some(LinkPhase::Up(standing))) if standing.leave_at.is_some() => PopPhaseWord::Leaving,
                (_, Some(LinkPhase::Up(_))) => PopPhaseWord::Registered,
                (_, Some(_)) => PopPhaseWord::Connecting,
                (_, None) => PopPhaseWord::Idle,
            };
            PopStatus {
                pop: *pop,
                phase,
                session: link.map(|(id, _)| id),
                address: link.map(|(_, link)| link.address),
                transport: link.map(|(_, link)| link.transport),
                observed: link.and_then(|(_, link)| match &link.phase {
                    LinkPhase::Up(standing) => {
                        Some(standing.observed).filter(|_| link.transport == Transport::Udp)
                    }
                    LinkPhase::Dialling | LinkPhase::Greeting { .. } => None,
                }),
                failures: place.failures,
            }
        })
    }

    /// The shell's answer to [`Output::Resolve`]; an empty list when there is no address.
    pub fn handle_resolved(&mut self, now: Instant, pop: PopId, addresses: Vec<SocketAddr>) {
        let Some(place) = self.places.get_mut(&pop) else { return };
        if !matches!(place.phase, PlacePhase::Resolving { .. }) {
            return;
        }
        // A failed look-up keeps the addresses of the last one: no DNS is no reason not to try.
        if !addresses.is_empty() {
            place.addresses = addresses;
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
        self.hold_until = now;
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

    /// Whether a session came too late: its PoP is reached already, and answers. UDP is never too late for TCP.
    fn is_late(&self, id: SessionId) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        self.others(link.pop, id).iter().filter_map(|other| self.links.get(other)).any(|other| {
            let is_better = link.transport == Transport::Udp && other.transport == Transport::Tcp;
            match &other.phase {
                LinkPhase::Up(standing) => !is_better && standing.alive_by.is_none(),
                LinkPhase::Greeting { .. } => !is_better,
                LinkPhase::Dialling => false,
            }
        })
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

    fn dial(&mut self, now: Instant, pop: PopId) {
        self.plan(now, pop);
        self.go_on(now, pop);
    }

    /// Which addresses of a PoP are tried by which transport, and when.
    fn plan(&mut self, now: Instant, pop: PopId) {
        let tcp_after = if self.tcp_first { Duration::ZERO } else { RACE_AFTER };
        let Some(place) = self.places.get_mut(&pop) else { return };
        // The one that worked first; each failure moves on among the rest.
        let mut order = place.addresses.clone();
        let turn = usize::try_from(place.failures).unwrap_or(0) % order.len().max(1);
        order.rotate_left(turn);
        if let Some(at) = order.iter().position(|address| Some(*address) == place.good) {
            let good = order.remove(at);
            order.insert(0, good);
        }
        order.truncate(ADDRESSES_AT_ONCE);
        place.plan.clear();
        let mut after = Duration::ZERO;
        for address in &order {
            place.plan.push_back((now + after, *address, Transport::Udp));
            after += NEXT_ADDRESS;
        }
        let mut after = tcp_after;
        for address in &order {
            place.plan.push_back((now + after, *address, Transport::Tcp));
            after += NEXT_ADDRESS;
        }
        place.plan.make_contiguous().sort_by_key(|(at, ..)| *at);
    }

    /// Tries what is next of a PoP's plan, whether or not it is due; without any the PoP has failed.
    fn go_on(&mut self, now: Instant, pop: PopId) {
        while let Some((_, address, transport)) =
            self.places.get_mut(&pop).and_then(|place| place.plan.pop_front())
        {
            if let Some(id) = self.dial_by(now, pop, address, transport) {
                if let Some(place) = self.places.get_mut(&pop)
                    && !matches!(place.phase, PlacePhase::Linked(_))
                {
                    place.phase = PlacePhase::Linked(id);
                }
                return;
            }
        }
        if !self.places.get(&pop).is_some_and(|place| matches!(place.phase, PlacePhase::Linked(_))) {
            self.failed(now, pop);
        }
    }

    /// The sessions to a PoP other than one, those given up left out.
    fn others(&self, pop: PopId, than: SessionId) -> Vec<SessionId> {
        let counts = |(id, link): &(&SessionId, &Link)| link.pop == pop && **id != than && !link.is_given_up;
        self.links.iter().filter(counts).map(|(id, _)| *id).collect()
    }

    fn dial_by(
        &mut self,
        now: Instant,
        pop: PopId,
        address: SocketAddr,
        transport: Transport,
    ) -> Option<SessionId> {
        let to = match transport {
            Transport::Udp => address,
            Transport::Tcp => self.stream_to(address),
        };
        self.stats.dials += 1;
        self.dialler.set_wall(self.clock.reach(now));
        let id = self.dialler.dial(now, pop, to).ok()?;
        let phase = LinkPhase::Dialling;
        self.links.insert(id, Link { pop, address: to, transport, is_given_up: false, began: now, phase });
        Some(id)
    }

    /// An address that stands for a new stream to a PoP's address: a stream that has died is never dialled over again.
    fn stream_to(&mut self, address: SocketAddr) -> SocketAddr {
        self.next_stream += 1;
        if self.streams.len() >= MAX_STREAMS {
            self.streams.pop_front();
        }
        let stands_for = wire::stream_address(self.next_stream, address.port());
        self.streams.push_back((stands_for, address));
        stands_for
    }

    /// Where the stream leads that an address stands for: the PoP's TCP address and its host, as the PoP list names
    /// it. For shells.
    #[must_use]
    pub fn stream_target(&self, stands_for: SocketAddr) -> Option<(SocketAddr, String)> {
        let (_, address) = self.streams.iter().find(|(known, _)| *known == stands_for)?;
        let place = self.places.values().find(|place| place.addresses.contains(address));
        let name = place.and_then(|place| place.name.rsplit_once(':')).map(|(host, _)| host.to_owned());
        let host = name.filter(|host| !host.starts_with('[')).unwrap_or_else(|| address.ip().to_string());
        Some((*address, host))
    }

    /// Tries a PoP that is reached by the other transport as well; the first that is welcomed carries on.
    fn race(&mut self, now: Instant, pop: PopId, transport: Transport) {
        let Some(PlacePhase::Linked(first)) = self.places.get(&pop).map(|place| place.phase) else { return };
        let Some(link) = self.links.get(&first) else { return };
        let address = match link.transport {
            Transport::Udp => Some(link.address),
            Transport::Tcp => self.stream_target(link.address).map(|(address, _)| address),
        };
        if let Some(address) = address
            && self.links.len() < 2 * MAX_LINKS
        {
            self.dial_by(now, pop, address, transport);
        }
    }

    /// What is due of the choice between addresses, and between UDP and TCP.
    fn tick_races(&mut self, now: Instant) {
        let due: Vec<(PopId, Race)> = self
            .places
            .iter()
            .filter_map(|(pop, place)| {
                let (at, race) = self.race_due(*pop, place)?;
                (at <= now).then_some((*pop, race))
            })
            .collect();
        for (pop, race) in due {
            match race {
                Race::Plan => self.go_on(now, pop),
                Race::Other(transport) => {
                    if transport == Transport::Udp
                        && let Some(place) = self.places.get_mut(&pop)
                    {
                        place.udp_again = Some(now + place.udp_pause);
                        place.udp_pause = (place.udp_pause * 2).min(UDP_AGAIN_LAST);
                    }
                    self.race(now, pop, transport);
                }
            }
        }
    }

    /// When a PoP is to be tried in another way as well.
    fn race_due(&self, pop: PopId, place: &Place) -> Option<(Instant, Race)> {
        let PlacePhase::Linked(id) = place.phase else { return None };
        let link = self.links.get(&id)?;
        let LinkPhase::Up(standing) = &link.phase else {
            return place.plan.front().map(|(at, ..)| (*at, Race::Plan));
        };
        if !self.others(pop, id).is_empty() {
            return None;
        }
        match link.transport {
            Transport::Udp => {
                Some((standing.alive_by? - (ALIVE_TIMEOUT - RACE_ASKED), Race::Other(Transport::Tcp)))
            }
            Transport::Tcp => Some((place.udp_again?, Race::Other(Transport::Udp))),
        }
    }

    /// A session was welcomed: of all to one PoP, this is the one that carries on. What another one carried is taken
    /// over: the PoP asks for a proof of the new address, and its channels stay.
    fn choose(&mut self, now: Instant, id: SessionId, pop: PopId, transport: Transport, channels: Channels) {
        let Some(address) = self.links.get(&id).map(|link| link.address) else { return };
        let others = self.others(pop, id);
        let Some(place) = self.places.get_mut(&pop) else { return };
        place.phase = PlacePhase::Linked(id);
        place.shunned = None;
        place.plan.clear();
        place.udp_again = (transport == Transport::Tcp).then_some(now + place.udp_pause);
        if transport == Transport::Udp {
            place.udp_pause = UDP_AGAIN;
            place.good = Some(address);
        }
        self.tcp_first = transport == Transport::Tcp;
        for before in others {
            // A PoP that holds none has restarted: the end of the old session takes them along.
            if channels == Channels::Kept && self.standing(before).is_some() {
                self.event(AgentEvent::Switched { from: before, to: id, pop, relay: address });
            }
            if let Some(link) = self.links.get_mut(&before) {
                link.is_given_up = true;
            }
            self.dialler.close(now, before, CloseCode::Done);
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
            place.not_before = now + delay;
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
            Event::Lost { id, reason } => self.lost(now, id, reason),
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
                    place.not_before = now + BACKOFF_BASE + self.jitter.up_to(standing.window);
                }
                LinkPhase::Up(standing) => {
                    // Everyone at this PoP lost it in this moment: the window it gave spreads them, whichever
                    // PoP they turn to.
                    let spread = self.jitter.up_to(standing.window);
                    self.hold_until = self.hold_until.max(now + spread);
                    // A reset says that the PoP is there, and has restarted.
                    if now >= standing.since + PROVEN_AFTER || reason == LostReason::Reset {
                        place.failures = 1;
                        place.not_before = now + spread;
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
        link.phase = LinkPhase::Up(Standing {
            since: now,
            observed,
            keepalive,
            window: Duration::from_millis(welcome.reconnect_window_ms.into()).min(WINDOW_MAX),
            next_keepalive: now + first,
            alive_by: None,
            answered_at: None,
            doubted_at: None,
            is_doubted: false,
            leave_at: None,
        });
        let (pop, transport) = (link.pop, link.transport);
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
    }

    pub(crate) fn alive(&mut self, now: Instant, id: SessionId, observed: SocketAddr) {
        let Some(Link { pop, phase: LinkPhase::Up(standing), .. }) = self.links.get_mut(&id) else { return };
        let pop = *pop;
        standing.alive_by = None;
        standing.answered_at = Some(now);
        standing.doubted_at = None;
        standing.is_doubted = false;
        if standing.observed != observed {
            standing.observed = observed;
            self.event(AgentEvent::ObservedChanged { session: id, pop, observed });
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

    pub(crate) fn next_link_timeout(&self, now: Instant) -> Option<(Instant, &'static str)> {
        let links = self.links.values().flat_map(|link| match &link.phase {
            LinkPhase::Dialling => [
                (now < link.began + HEDGE_AFTER).then(|| (link.began + HEDGE_AFTER, "a second PoP to try")),
                None,
                None,
            ],
            LinkPhase::Greeting { until } => [
                Some((*until, "a PoP's welcome")),
                (now < link.began + HEDGE_AFTER).then(|| (link.began + HEDGE_AFTER, "a second PoP to try")),
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
            PlacePhase::Resolving { since } if now < since + HEDGE_AFTER => {
                Some((since + HEDGE_AFTER, "a second PoP to try"))
            }
            PlacePhase::Resolving { since } => Some((since + RESOLVE_TIMEOUT, "a name look-up")),
            // A PoP that nobody wants stays down; only those ahead of us in time can become wanted.
            PlacePhase::Down => {
                let at = place.not_before.max(self.hold_until);
                (at > now).then_some((at, "a PoP to try again"))
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

/// Whether a PoP still holds the channels of an earlier session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channels {
    Kept,
    Gone,
}

/// In which way a PoP is to be tried as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Race {
    /// The next of its plan.
    Plan,
    /// By the other transport.
    Other(Transport),
}

/// Whether a PoP may be counted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prospect {
    Good,
    Poor,
}
