//! Hosts in realms of addresses, gateways between the realms, and the queue of what is under way.

use super::{Firewall, Hairpin, LinkRules, Nat, Random, Time};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

/// A host of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// A realm of addresses: the internet, or what is behind one gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RealmId(usize);

/// What a gateway does with UDP that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    /// It goes out.
    Passes,
    /// It does not; TCP does.
    Blocked,
}

/// What stands between a realm and the one above it.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// For IPv4; without one no IPv4 passes.
    pub nat: Option<Nat>,
    /// For IPv6; without one no IPv6 passes.
    pub firewall: Option<Firewall>,
    /// Whether UDP leaves.
    pub udp: Udp,
    /// The uplink, each way.
    pub link: LinkRules,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Host(HostId),
    Gateway(RealmId),
}

#[derive(Debug)]
struct Realm {
    above: Option<RealmId>,
    gateway: Option<Gateway>,
    owners: BTreeMap<IpAddr, Owner>,
}

#[derive(Debug)]
struct Host {
    realm: RealmId,
    addresses: Vec<IpAddr>,
    port: u16,
    link: LinkRules,
    is_up: bool,
}

/// Where a datagram is.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Above the gateway or beside the host that has its destination.
    In(RealmId),
    /// In front of the host.
    At(HostId),
}

#[derive(Debug, Clone)]
struct Flight {
    stage: Stage,
    by: HostId,
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
}

/// A datagram that a host takes out of its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Whose socket.
    pub host: HostId,
    /// Who sent it in truth.
    pub by: HostId,
    /// The source it shows.
    pub from: SocketAddr,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Why a datagram went no further. Doubles as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// The sender has no address of that family.
    NoAddress,
    /// Nobody has the destination.
    Unreachable,
    /// A gateway lets no UDP out.
    UdpBlocked,
    /// A translator did not take it.
    Nat,
    /// A firewall did not take it.
    Firewall,
    /// A link lost it, or its MTU is smaller.
    Link,
    /// The two are cut off from each other this way.
    Cut,
    /// The host does not run.
    Down,
}

/// Which addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A stream that a host opened to the server by itself.
#[derive(Debug, Clone, Copy)]
struct Stream {
    /// The address that stands for it at the host.
    here: SocketAddr,
    /// And at the server.
    there: SocketAddr,
}

/// The whole network.
#[derive(Debug)]
pub struct Network {
    realms: Vec<Realm>,
    hosts: Vec<Host>,
    queue: BTreeMap<(Time, u64), Flight>,
    next: u64,
    random: Random,
    cuts: BTreeSet<(HostId, HostId)>,
    /// Sessions over TCP 443: the address that stands for each at the server.
    streams: BTreeMap<HostId, (HostId, SocketAddr)>,
    /// Who takes streams that hosts open by themselves.
    server: Option<HostId>,
    opened: BTreeMap<(HostId, SocketAddr), Stream>,
    next_stream: u32,
    slower: BTreeMap<Family, Time>,
    losses: BTreeMap<Loss, u64>,
    hops: u64,
}

impl Network {
    /// An internet without hosts.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            realms: vec![Realm { above: None, gateway: None, owners: BTreeMap::new() }],
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            next: 0,
            random: Random::new(seed, "network"),
            cuts: BTreeSet::new(),
            streams: BTreeMap::new(),
            server: None,
            opened: BTreeMap::new(),
            next_stream: 0,
            slower: BTreeMap::new(),
            losses: BTreeMap::new(),
            hops: 0,
        }
    }

    /// The internet.
    pub const INTERNET: RealmId = RealmId(0);

    /// A realm behind a gateway.
    pub fn add_realm(&mut self, above: RealmId, gateway: Gateway) -> RealmId {
        let id = RealmId(self.realms.len());
        if let Some(nat) = &gateway.nat {
            self.realms[above.0].owners.insert(nat.external(), Owner::Gateway(id));
        }
        self.realms.push(Realm { above: Some(above), gateway: Some(gateway), owners: BTreeMap::new() });
        id
    }

    /// A host with one socket.
    pub fn add_host(&mut self, realm: RealmId, addresses: Vec<IpAddr>, port: u16, link: LinkRules) -> HostId {
        let id = HostId(self.hosts.len());
        self.hosts.push(Host { realm, addresses: Vec::new(), port, link, is_up: true });
        self.attach(id, realm, addresses);
        id
    }

    /// Moves a host into a realm, under these addresses. What was under way to the old ones is lost.
    pub fn attach(&mut self, host: HostId, realm: RealmId, addresses: Vec<IpAddr>) {
        let old = std::mem::take(&mut self.hosts[host.0].addresses);
        // A TCP connection does not survive its address.
        self.opened.retain(|(of, _), _| *of != host);
        for realm in &mut self.realms {
            realm
                .owners
                .retain(|ip, owner| *owner != Owner::Host(host) && !(ip.is_ipv6() && old.contains(ip)));
        }
        for ip in &addresses {
            self.realms[realm.0].owners.insert(*ip, Owner::Host(host));
            // IPv6 is routed down to it: every realm above knows behind which gateway it is.
            let mut below = realm;
            while let (true, Some(above)) = (ip.is_ipv6(), self.realms[below.0].above) {
                self.realms[above.0].owners.insert(*ip, Owner::Gateway(below));
                below = above;
            }
        }
        let host = &mut self.hosts[host.0];
        host.realm = realm;
        host.addresses = addresses;
    }

    /// A host's addresses.
    #[must_use]
    pub fn addresses(&self, host: HostId) -> &[IpAddr] {
        &self.hosts[host.0].addresses
    }

    /// A host's port.
    #[must_use]
    pub fn port(&self, host: HostId) -> u16 {
        self.hosts[host.0].port
    }

    /// A realm's gateway, to reboot it or to change its link.
    pub fn gateway_mut(&mut self, realm: RealmId) -> Option<&mut Gateway> {
        self.realms[realm.0].gateway.as_mut()
    }

    /// A translator's new external address; the mappings are gone.
    pub fn renumber(&mut self, realm: RealmId, external: Ipv4Addr) {
        let Some(above) = self.realms[realm.0].above else { return };
        let Some(nat) = self.realms[realm.0].gateway.as_mut().and_then(|gateway| gateway.nat.as_mut()) else {
            return;
        };
        let old = nat.external();
        nat.renumber(external.into());
        self.realms[above.0].owners.remove(&old);
        self.realms[above.0].owners.insert(external.into(), Owner::Gateway(realm));
    }

    /// A host's own link.
    pub fn link_mut(&mut self, host: HostId) -> &mut LinkRules {
        &mut self.hosts[host.0].link
    }

    /// Whether a host's socket takes anything.
    pub fn set_up(&mut self, host: HostId, is_up: bool) {
        self.hosts[host.0].is_up = is_up;
    }

    /// From now on nothing that `from` sends reaches `to`.
    pub fn cut(&mut self, from: HostId, to: HostId) {
        self.cuts.insert((from, to));
    }

    /// What crosses the internet by a family takes so much longer from now on: providers route the two apart.
    pub fn slow_down(&mut self, family: Family, by: Time) {
        self.slower.insert(family, by);
    }

    /// Ends a cut.
    pub fn mend(&mut self, from: HostId, to: HostId) {
        self.cuts.remove(&(from, to));
    }

    /// What `client` sends to `server` goes by TCP 443 from now on: past gateways that let no UDP out, under an
    /// address that stands for the stream.
    pub fn open_stream(&mut self, client: HostId, server: HostId) {
        let number = u32::try_from(client.0).expect("few hosts") + 1;
        let address = wire::stream_address_from(self.origin_of(client), number, 443);
        self.streams.insert(client, (server, address));
    }

    /// What `client` sends goes by UDP again.
    pub fn close_stream(&mut self, client: HostId) {
        self.streams.remove(&client);
    }

    /// What a server knows of where a host's streams come from: the router next to the internet, or the host itself.
    fn origin_of(&self, host: HostId) -> u32 {
        let mut realm = self.hosts[host.0].realm;
        if realm == Self::INTERNET {
            return 1 + u32::try_from(host.0).expect("few hosts");
        }
        while let Some(above) = self.realms[realm.0].above.filter(|above| *above != Self::INTERNET) {
            realm = above;
        }
        (1 << 16) + u32::try_from(realm.0).expect("few realms")
    }

    /// From now on this host takes TCP 443: whoever sends to an address that stands for a stream opens one to it.
    pub fn serve_streams(&mut self, server: HostId) {
        self.server = Some(server);
    }

    /// The server's process has ended, and its connections with it.
    pub fn end_streams(&mut self) {
        self.opened.clear();
    }

    /// Whether a host has opened a stream by itself.
    #[must_use]
    pub fn has_opened(&self, client: HostId) -> bool {
        self.opened.keys().any(|(of, _)| *of == client)
    }

    /// Whether a host has such a stream.
    #[must_use]
    pub fn has_stream(&self, client: HostId) -> bool {
        self.streams.contains_key(&client)
    }

    /// What was lost, by reason.
    #[must_use]
    pub const fn losses(&self) -> &BTreeMap<Loss, u64> {
        &self.losses
    }

    /// How many steps datagrams made.
    #[must_use]
    pub const fn hops(&self) -> u64 {
        self.hops
    }

    fn lost(&mut self, loss: Loss) {
        *self.losses.entry(loss).or_default() += 1;
    }

    /// A host sends a datagram from its socket.
    pub fn send(&mut self, now: Time, by: HostId, to: SocketAddr, payload: Vec<u8>) {
        if let Err(loss) = self.leave(now, by, to, payload) {
            self.lost(loss);
        }
    }

    /// Carries a datagram to the realm that has its destination.
    fn leave(&mut self, now: Time, by: HostId, to: SocketAddr, payload: Vec<u8>) -> Result<(), Loss> {
        let host = &self.hosts[by.0];
        if wire::is_stream_address(to) {
            return match self.server {
                Some(server) if server != by => self.opened_up(now, by, server, to, payload),
                Some(_) => self.opened_down(now, by, to, payload),
                None => self.stream_down(now, by, to, payload),
            };
        }
        if let Some((server, address)) = self.streams.get(&by).copied()
            && self.hosts[server.0].addresses.contains(&to.ip())
        {
            return self.stream_up(now, by, (server, address), to, payload);
        }
        let source = host.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).ok_or(Loss::NoAddress)?;
        let mut from = SocketAddr::new(*source, host.port);
        let mut to = to;
        let mut realm = host.realm;
        let mut at = now;
        // The second copy of a doubled datagram, how much later.
        let mut second = None;
        let link = host.link;
        self.pass(&link, payload.len(), &mut at, &mut second)?;
        loop {
            self.hops += 1;
            let here = &mut self.realms[realm.0];
            if here.owners.contains_key(&to.ip()) {
                break;
            }
            let (Some(gateway), Some(above)) = (here.gateway.as_mut(), here.above) else {
                return Err(Loss::Unreachable);
            };
            let link = gateway.link;
            if let Some(nat) = gateway.nat.as_mut()
                && nat.external() == to.ip()
            {
                if nat.hairpin() == Hairpin::No {
                    return Err(Loss::Nat);
                }
                let shown = nat.outbound(now, from, to).map_err(|_| Loss::Nat)?;
                to = nat.inbound(now, shown, to.port()).map_err(|_| Loss::Nat)?;
                from = shown;
                continue;
            }
            if gateway.udp == Udp::Blocked {
                return Err(Loss::UdpBlocked);
            }
            match (from.is_ipv4(), gateway.nat.as_mut(), gateway.firewall.as_mut()) {
                (true, Some(nat), _) => from = nat.outbound(now, from, to).map_err(|_| Loss::Nat)?,
                (false, _, Some(firewall)) => firewall.outbound(now, from, to),
                _ => return Err(Loss::Unreachable),
            }
            self.pass(&link, payload.len(), &mut at, &mut second)?;
            realm = above;
        }
        if realm == Self::INTERNET {
            let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
            at += self.slower.get(&family).copied().unwrap_or_default();
        }
        let flight = Flight { stage: Stage::In(realm), by, from, to, payload };
        if let Some(later) = second {
            self.push(later, flight.clone());
        }
        self.push(at, flight);
        Ok(())
    }

    /// TCP repeats what a link loses; that costs a round trip and no byte.
    fn stream_delay(&mut self, host: HostId) -> Time {
        let mut links = vec![self.hosts[host.0].link];
        let mut realm = self.hosts[host.0].realm;
        while let Some(above) = self.realms[realm.0].above {
            links.extend(self.realms[realm.0].gateway.as_ref().map(|gateway| gateway.link));
            realm = above;
        }
        let mut delay = Time::ZERO;
        for link in links {
            delay += link.delay;
            if self.random.per_mille(link.loss) {
                delay += link.delay * 2 + Time::from_millis(200);
            }
        }
        delay
    }

    /// By a stream that the host opens when it has none under this address: TCP's and TLS's round trips come first.
    fn opened_up(
        &mut self,
        now: Time,
        by: HostId,
        server: HostId,
        here: SocketAddr,
        payload: Vec<u8>,
    ) -> Result<(), Loss> {
        if self.hosts[by.0].link.is_cut || !self.hosts[server.0].is_up {
            return Err(Loss::Cut);
        }
        let mut at = now + self.stream_delay(by) + self.stream_delay(server);
        let known = self.opened.get(&(by, here)).copied();
        let stream = known.unwrap_or_else(|| {
            self.next_stream += 1;
            // A number that the host does not know, as the server's is.
            let there = wire::stream_address_from(self.origin_of(by), self.next_stream, here.port());
            Stream { here, there }
        });
        if known.is_none() {
            self.opened.insert((by, here), stream);
            at += (self.stream_delay(by) + self.stream_delay(server)) * 4;
        }
        self.push(at, Flight { stage: Stage::At(server), by, from: stream.there, to: here, payload });
        Ok(())
    }

    fn opened_down(&mut self, now: Time, by: HostId, to: SocketAddr, payload: Vec<u8>) -> Result<(), Loss> {
        let found = self.opened.iter().find(|(_, stream)| stream.there == to);
        let (client, stream) = found.map(|((host, _), stream)| (*host, *stream)).ok_or(Loss::Unreachable)?;
        let at = now + self.stream_delay(client) + self.stream_delay(by);
        self.push(at, Flight { stage: Stage::At(client), by, from: stream.here, to, payload });
        Ok(())
    }

    fn stream_up(
        &mut self,
        now: Time,
        by: HostId,
        (server, address): (HostId, SocketAddr),
        to: SocketAddr,
        payload: Vec<u8>,
    ) -> Result<(), Loss> {
        if self.hosts[by.0].link.is_cut {
            return Err(Loss::Cut);
        }
        let at = now + self.stream_delay(by) + self.stream_delay(server);
        self.push(at, Flight { stage: Stage::At(server), by, from: address, to, payload });
        Ok(())
    }

    fn stream_down(&mut self, now: Time, by: HostId, to: SocketAddr, payload: Vec<u8>) -> Result<(), Loss> {
        let found = self.streams.iter().find(|(_, (server, address))| *server == by && *address == to);
        let client = *found.ok_or(Loss::Unreachable)?.0;
        let from = SocketAddr::new(self.hosts[by.0].addresses[0], self.hosts[by.0].port);
        let at = now + self.stream_delay(client) + self.stream_delay(by);
        self.push(at, Flight { stage: Stage::At(client), by, from, to, payload });
        Ok(())
    }

    fn pass(
        &mut self,
        link: &LinkRules,
        length: usize,
        at: &mut Time,
        second: &mut Option<Time>,
    ) -> Result<(), Loss> {
        if *link == LinkRules::PERFECT {
            return Ok(());
        }
        let copies = link.pass(&mut self.random, length);
        let mut delays = copies.iter();
        let first = delays.next().ok_or(Loss::Link)?;
        if let Some(more) = delays.next() {
            *second = Some(*at + more);
        } else if let Some(second) = second {
            *second += first;
        }
        *at += first;
        Ok(())
    }

    fn push(&mut self, at: Time, flight: Flight) {
        self.queue.insert((at, self.next), flight);
        self.next += 1;
    }

    /// When something next happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Time> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next datagram that arrives by `now`.
    pub fn poll(&mut self, now: Time) -> Option<Arrival> {
        while self.next_at().is_some_and(|at| at <= now) {
            let ((at, _), flight) = self.queue.pop_first()?;
            match self.step(at, flight) {
                Ok(Some(arrival)) => return Some(arrival),
                Ok(None) => {}
                Err(loss) => self.lost(loss),
            }
        }
        None
    }

    fn step(&mut self, now: Time, mut flight: Flight) -> Result<Option<Arrival>, Loss> {
        loop {
            self.hops += 1;
            let realm = match flight.stage {
                Stage::In(realm) => realm,
                Stage::At(host) => return self.arrive(host, flight).map(Some),
            };
            let owner = self.realms[realm.0].owners.get(&flight.to.ip()).copied().ok_or(Loss::Unreachable)?;
            let link = match owner {
                Owner::Host(host) => {
                    flight.stage = Stage::At(host);
                    self.hosts[host.0].link
                }
                Owner::Gateway(inside) => {
                    let gateway = self.realms[inside.0].gateway.as_mut().ok_or(Loss::Unreachable)?;
                    if gateway.udp == Udp::Blocked {
                        return Err(Loss::UdpBlocked);
                    }
                    match (flight.to.is_ipv4(), gateway.nat.as_mut(), gateway.firewall.as_mut()) {
                        (true, Some(nat), _) => {
                            flight.to =
                                nat.inbound(now, flight.from, flight.to.port()).map_err(|_| Loss::Nat)?;
                        }
                        (false, _, Some(firewall)) => {
                            if !firewall.admits(now, flight.from, flight.to) {
                                return Err(Loss::Firewall);
                            }
                        }
                        _ => return Err(Loss::Unreachable),
                    }
                    flight.stage = Stage::In(inside);
                    gateway.link
                }
            };
            let (mut at, mut second) = (now, None);
            self.pass(&link, flight.payload.len(), &mut at, &mut second)?;
            if let Some(later) = second {
                self.push(later, flight.clone());
            }
            if at > now {
                self.push(at, flight);
                return Ok(None);
            }
        }
    }

    fn arrive(&mut self, host: HostId, flight: Flight) -> Result<Arrival, Loss> {
        if self.cuts.contains(&(flight.by, host)) {
            return Err(Loss::Cut);
        }
        let Flight { by, from, to, payload, .. } = flight;
        let socket = &self.hosts[host.0];
        if !socket.is_up {
            return Err(Loss::Down);
        }
        let is_stream = self.streams.contains_key(&host) || wire::is_stream_address(from);
        if !is_stream && (to.port() != socket.port || !socket.addresses.contains(&to.ip())) {
            return Err(Loss::Unreachable);
        }
        Ok(Arrival { host, by, from, payload })
    }
}

#[cfg(test)]
mod tests;
