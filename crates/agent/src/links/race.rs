//! Which of a PoP's addresses is tried when, by UDP and by TCP 443 (RFC 8305): all race, and one session stays.

use super::life::ALIVE_TIMEOUT;
use super::{Link, LinkPhase, MAX_LINKS, Place, PlacePhase, Transport, UDP_AGAIN};
use crate::{core::Agent, kind::AgentSlice, output::AgentEvent};
use session::{CloseCode, SessionId};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::PopId;

/// A PoP that has not answered by UDP within this is dialled by TCP as well.
const RACE_AFTER: Duration = Duration::from_secs(2);
/// And one that was reached by UDP when it has not answered a keepalive within this: its answer takes a round trip, and
/// who has roamed to a network without UDP waits for nothing else.
const RACE_ASKED: Duration = Duration::from_secs(1);
/// Another address of the same name is tried after this (RFC 8305, section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// The least time between two tries.
pub(super) const RACE_PAUSE: Duration = Duration::from_millis(10);
/// Addresses of one PoP that are tried at once.
const ADDRESSES_AT_ONCE: usize = 4;
const UDP_AGAIN_LAST: Duration = Duration::from_secs(300);
/// Streams whose addresses are remembered: as many as sessions at once, and the ones before.
const MAX_STREAMS: usize = 256;

/// Whether a PoP still holds the channels of an earlier session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Kept,
    Gone,
}

/// In which way a PoP is to be tried as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Race {
    /// The next of its plan.
    Plan,
    /// By the other transport.
    Other(Transport),
}

/// The resolver's order, but a family after the other (RFC 8305, section 4): many addresses of one that does not work
/// keep nobody from the other.
pub(super) fn families_in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if planted::is("one-family-after-the-other") {
        return addresses;
    }
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_v4);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut order = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return order;
        }
        order.extend(pair.into_iter().flatten());
    }
}

impl<B: AgentSlice> Agent<B> {
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

    pub(super) fn dial(&mut self, now: Instant, pop: PopId) {
        self.plan(now, pop);
        self.go_on(now, pop);
    }

    /// Which addresses of a PoP are tried by which transport, and when.
    pub(super) fn plan(&mut self, now: Instant, pop: PopId) {
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
            after += if planted::is("addresses-do-not-race") { RACE_AFTER * 8 } else { NEXT_ADDRESS };
        }
        let mut after = tcp_after;
        for address in &order {
            place.plan.push_back((now + after, *address, Transport::Tcp));
            after += NEXT_ADDRESS;
        }
        place.plan.make_contiguous().sort_by_key(|(at, ..)| *at);
    }

    /// Tries what is next of a PoP's plan, whether or not it is due; without any the PoP has failed.
    pub(super) fn go_on(&mut self, now: Instant, pop: PopId) {
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
    pub(super) fn others(&self, pop: PopId, than: SessionId) -> Vec<SessionId> {
        let counts = |(id, link): &(&SessionId, &Link)| link.pop == pop && **id != than && !link.is_given_up;
        self.links.iter().filter(counts).map(|(id, _)| *id).collect()
    }

    /// Whether a session came too late: its PoP is reached already, and answers. UDP is never too late for TCP.
    pub(super) fn is_late(&self, id: SessionId) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        self.others(link.pop, id).iter().filter_map(|other| self.links.get(other)).any(|other| {
            let is_better = link.transport == Transport::Udp && other.transport == Transport::Tcp;
            match &other.phase {
                _ if planted::is("a-late-session-stays") => false,
                LinkPhase::Up(standing) => !is_better && standing.alive_by.is_none(),
                LinkPhase::Greeting { .. } => !is_better,
                LinkPhase::Dialling => false,
            }
        })
    }

    /// A session was welcomed: of all to one PoP, this is the one that carries on. What another one carried is taken
    /// over: the PoP asks for a proof of the new address, and its channels stay.
    pub(super) fn choose(
        &mut self,
        now: Instant,
        id: SessionId,
        pop: PopId,
        transport: Transport,
        channels: Channels,
    ) {
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

    /// What is due of the choice between addresses, and between UDP and TCP.
    pub(super) fn tick_races(&mut self, now: Instant) {
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
    pub(super) fn race_due(&self, pop: PopId, place: &Place) -> Option<(Instant, Race)> {
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
}
