//! The machine's side of a running client: the interface's packets, what the guardian is asked for, and the resolver.

use super::{
    ClientError,
    driver::clock,
    names::{self, SharedResolver, lock},
};
use crate::{
    control::{TunDns, TunState, TunStatus},
    core::{ClientNode, SharedSlice, names_of},
};
use dns::{Names, Pool, Resolver, Settings};
use machine::{
    Applied, Coalescer, FromGuardian, FromWorker, GuardianSays, LinkError, Network, PacketBatch, Privileges,
    Seat, SeatFacts, Tun, WorkerVoice, take_seat,
};
use policy::{Address, ClientSlice, HostName, Prefix};
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
    task::JoinSet,
};
use trust::Subject;

/// Messages to the guardian that wait. Each replaces the one before; the last one is sent again when there is room.
const QUEUE: usize = 8;
/// Packets for the machine's programs that go together at the most.
const BURST: usize = 256;
/// Addresses of PoPs that are kept outside the tunnel: those of the slice, and what their names led to.
const MAX_POPS: usize = 200;
/// DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// What a client has of its machine.
#[derive(Debug, Default)]
pub enum MachineSide {
    /// Nothing, and nothing is missed: programs use the proxy.
    #[default]
    Proxy,
    /// Nothing, though an interface was asked for.
    Unavailable(String),
    /// A guardian offers an interface on standard input ([`machine::take_seat`]).
    Guardian {
        /// Domains that short names are tried in, behind the machine's own.
        search: Vec<HostName>,
    },
}

/// What the guardian last said it did.
pub(super) type AppliedWatch = watch::Receiver<Option<Applied>>;

/// The driver's part.
pub(super) enum Side {
    Proxy,
    Unavailable(String),
    Interface(Box<Machine>),
}

pub(super) struct Machine {
    tun: Tun,
    coalescer: Coalescer,
    /// What waits for the end of the driver's turn.
    to_machine: Vec<Vec<u8>>,
    facts: SeatFacts,
    resolver: SharedResolver,
    say: mpsc::Sender<FromWorker>,
    applied: AppliedWatch,
    end: watch::Sender<bool>,
    search: Vec<HostName>,
    privileges: Option<Privileges>,
    /// Of which slice names and routes are.
    slice: Option<SharedSlice>,
    /// What the names of PoPs led to.
    resolved: BTreeSet<IpAddr>,
    sent: Option<Network>,
    left_out: usize,
}

impl Side {
    /// Takes the sockets into use; the tasks that serve them go into `tasks`.
    pub async fn open(
        side: MachineSide,
        node: &ClientNode,
        seed: [u8; 32],
        end: &watch::Sender<bool>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Self, Option<AppliedWatch>), ClientError> {
        let search = match side {
            MachineSide::Proxy => return Ok((Self::Proxy, None)),
            MachineSide::Unavailable(reason) => return Ok((Self::Unavailable(reason), None)),
            MachineSide::Guardian { search } => search,
        };
        let Subject::Device(device) = node.agent().identity().subject() else {
            return Err(ClientError::Machine(io::Error::other("this is no device").into()));
        };
        let seat = take_seat(policy::inner_device_address(device)).await?;
        let Seat { facts, tun, dns_udp, dns_tcp, says, voice } = seat;
        let pool = Pool::new(facts.synthetic_v4, facts.synthetic_v6)
            .map_err(|error| LinkError::Io(io::Error::other(error)))?;
        let resolver = Arc::new(Mutex::new(Resolver::new(Settings::default(), pool, seed)));
        let udp = UdpSocket::from_std(dns_udp).map_err(LinkError::Io)?;
        let tcp = TcpListener::from_std(dns_tcp).map_err(LinkError::Io)?;
        tasks.spawn(names::serve(resolver.clone(), udp, tcp));
        let (say, queue) = mpsc::channel(QUEUE);
        let (tell, applied) = watch::channel(None);
        tasks.spawn(talk((says, voice), queue, resolver.clone(), tell, end.clone()));
        let machine = Machine {
            tun,
            coalescer: Coalescer::default(),
            to_machine: Vec::new(),
            facts,
            resolver,
            say,
            applied: applied.clone(),
            end: end.clone(),
            search,
            privileges: machine::privileges().ok(),
            slice: None,
            resolved: BTreeSet::new(),
            sent: None,
            left_out: 0,
        };
        Ok((Self::Interface(Box::new(machine)), Some(applied)))
    }

    /// Waits for packets of the machine's programs; for ever where there is no interface.
    pub async fn recv(&self, batch: &mut PacketBatch) -> io::Result<()> {
        match self {
            Self::Interface(machine) => machine.tun.recv(batch).await,
            Self::Proxy | Self::Unavailable(_) => std::future::pending().await,
        }
    }

    /// Gives the node what the machine's programs sent; `own_port` is the port that the tunnels themselves use.
    pub fn carry(&self, node: &mut ClientNode, batch: &PacketBatch, own_port: u16) {
        let Self::Interface(machine) = self else { return };
        let mut resolver = lock(&machine.resolver);
        let packets = batch.iter().filter(|packet| !is_from_udp_port(packet, own_port));
        node.handle_packets(clock(), resolver.pool(), packets);
    }

    /// A packet for the machine's programs; it goes with others at the next [`Self::flush`].
    pub fn deliver(&mut self, packet: Vec<u8>) {
        if let Self::Interface(machine) = self {
            machine.to_machine.push(packet);
            if machine.to_machine.len() >= BURST {
                self.flush();
            }
        }
    }

    /// Gives the machine's programs what is there for them.
    pub fn flush(&mut self) {
        if let Self::Interface(machine) = self
            && !machine.to_machine.is_empty()
        {
            let refused = machine.tun.send(&machine.to_machine, &mut machine.coalescer);
            machine.to_machine.clear();
            if refused > 0 {
                tracing::trace!(refused, "the machine did not take some packets");
            }
        }
    }

    /// Whether an address is the interface's: it leads nowhere from outside.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        match self {
            Self::Interface(machine) => machine.addresses().any(|own| own == ip),
            Self::Proxy | Self::Unavailable(_) => false,
        }
    }

    /// The name of a PoP was looked up: what it led to has to stay outside the tunnel.
    pub fn pop_resolved(&mut self, node: &ClientNode, addresses: &[SocketAddr]) {
        let Self::Interface(machine) = self else { return };
        machine.resolved.extend(addresses.iter().map(|address| address.ip().to_canonical()));
        while machine.resolved.len() > MAX_POPS {
            machine.resolved.pop_first();
        }
        machine.refresh(node);
    }

    /// Something changed: tells resolver and guardian if it concerns them.
    pub fn refresh(&mut self, node: &ClientNode) {
        if let Self::Interface(machine) = self {
            machine.refresh(node);
        }
    }

    /// The machine's network changed: routes that were free may be taken, and the other way round.
    pub fn network_changed(&mut self, node: &ClientNode) {
        if let Self::Interface(machine) = self {
            machine.sent = None;
            machine.refresh(node);
        }
    }

    /// The driver goes round.
    pub fn tick(&mut self, node: &ClientNode) {
        if let Self::Interface(machine) = self {
            let _ = machine.say.try_send(FromWorker::Alive {});
            if machine.sent.is_none() {
                machine.refresh(node);
            }
        }
    }

    /// The interface is gone: the client ends, so that the guardian gives the machine its resolver back.
    pub fn lost(&self, error: &io::Error) {
        if let Self::Interface(machine) = self {
            tracing::warn!(%error, interface = machine.facts.interface, "the interface is gone; the client ends");
            machine.end.send_replace(true);
        }
    }

    /// What `status` shows.
    pub fn status(&self) -> Option<TunStatus> {
        match self {
            Self::Proxy => None,
            Self::Unavailable(reason) => Some(TunStatus::unavailable(reason)),
            Self::Interface(machine) => Some(machine.status()),
        }
    }
}

impl Machine {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [Some(IpAddr::V4(self.facts.v4)), self.facts.v6.map(IpAddr::V6)].into_iter().flatten()
    }

    fn refresh(&mut self, node: &ClientNode) {
        let slice = node.slice();
        if !self.slice.as_ref().is_some_and(|known| Arc::ptr_eq(known, slice)) {
            lock(&self.resolver).set_names(private_names(slice));
            self.slice = Some(slice.clone());
            self.sent = None;
        }
        let mut avoid: BTreeSet<IpAddr> = self.resolved.clone();
        avoid.extend(pop_addresses(slice));
        avoid.extend(node.agent().pops().filter_map(|pop| pop.address).map(|at| at.ip().to_canonical()));
        // An address that stands for a stream leads nowhere by itself.
        avoid.retain(|ip| !wire::is_stream_address(SocketAddr::new(*ip, 0)));
        let avoid: Vec<IpAddr> = avoid.into_iter().collect();
        if self.sent.as_ref().is_some_and(|sent| sent.avoid == avoid) {
            return;
        }
        let mut wanted = Network {
            routes: routes(slice),
            avoid,
            domains: lock(&self.resolver).names().domains().cloned().collect(),
            every_domain: false,
            search: self.search.clone(),
        };
        self.left_out = wanted.bound();
        self.sent = match self.say.try_send(FromWorker::Network(wanted.clone())) {
            Ok(()) => Some(wanted),
            // The next tick tries again.
            Err(_) => None,
        };
    }

    fn status(&self) -> TunStatus {
        let applied = self.applied.borrow();
        let counters = lock(&self.resolver).counters();
        let dns = applied.as_ref().map(|applied| TunDns {
            mode: applied.dns.mode,
            address: SocketAddr::new(self.facts.v4.into(), DNS_PORT),
            upstreams: applied.dns.upstreams.clone(),
            search: applied.dns.search.clone(),
            rewritten: applied.dns.rewritten,
            note: applied.dns.note.clone(),
            answered: counters.private,
            passed_on: counters.forwarded,
            unanswered: counters.unanswered,
        });
        let mut notes = self.facts.notes.clone();
        if self.left_out > 0 {
            notes.push(format!(
                "{} more ranges are reached by the proxy only: too many for routes",
                self.left_out
            ));
        }
        TunStatus {
            state: if applied.is_some() { TunState::On } else { TunState::Starting },
            reason: None,
            interface: Some(self.facts.interface.clone()),
            guardian: Some(self.facts.guardian),
            addresses: self.addresses().collect(),
            synthetic: vec![self.facts.synthetic_v4, self.facts.synthetic_v6],
            routes: applied.as_ref().map(|applied| applied.routes.clone()).unwrap_or_default(),
            conflicts: applied.as_ref().map(|applied| applied.conflicts.clone()).unwrap_or_default(),
            dns,
            privileges: self.privileges.clone(),
            notes,
        }
    }
}

/// Carries messages between driver and guardian. Without a guardian nobody would put the machine right: the client
/// ends.
async fn talk(
    (mut says, mut voice): (GuardianSays, WorkerVoice),
    mut queue: mpsc::Receiver<FromWorker>,
    resolver: SharedResolver,
    tell: watch::Sender<Option<Applied>>,
    end: watch::Sender<bool>,
) {
    let lost = loop {
        tokio::select! {
            said = says.recv() => match said {
                Ok(FromGuardian::Applied(applied)) => {
                    lock(&resolver).set_upstreams(applied.dns.upstreams.clone());
                    tell.send_replace(Some(applied));
                }
                Ok(FromGuardian::Upstreams { servers }) => {
                    lock(&resolver).set_upstreams(servers);
                    if let Err(error) = voice.say(&FromWorker::Told {}).await {
                        break error;
                    }
                }
                // Once is enough.
                Ok(FromGuardian::Seat(_)) => {}
                Err(error) => break error,
            },
            message = queue.recv() => match message {
                Some(message) => {
                    if let Err(error) = voice.say(&message).await {
                        break error;
                    }
                }
                // The client ends, and this process with it: that is what the guardian waits for.
                None => return,
            },
        }
    };
    tracing::warn!(error = %lost, "the guardian is gone; the client ends");
    end.send_replace(true);
}

/// The names that are answered here: the slice's, without those of PoPs.
fn private_names(slice: &ClientSlice) -> Names {
    let pops = slice.pops.iter().filter_map(|pop| pop.address.rsplit_once(':')?.0.parse::<HostName>().ok());
    names_of(slice).without(pops)
}

fn pop_addresses(slice: &ClientSlice) -> impl Iterator<Item = IpAddr> {
    slice
        .pops
        .iter()
        .filter_map(|pop| pop.address.parse::<SocketAddr>().ok())
        .map(|address| address.ip().to_canonical())
        .take(MAX_POPS)
}

/// What resources are reached at by their own addresses.
fn routes(slice: &ClientSlice) -> Vec<Prefix> {
    let prefixes: BTreeSet<Prefix> = slice
        .resources
        .iter()
        .filter_map(|resource| match &resource.address {
            Address::Ip(ip) => Some(Prefix::host(*ip)),
            Address::Cidr(prefix) => Some(*prefix),
            Address::Host(_) | Address::Wildcard(_) => None,
        })
        .collect();
    prefixes.into_iter().collect()
}

/// Whether a packet is a UDP datagram that this client's own socket sent: a connector that is at an address inside a
/// range of its own resources must not be reached through the tunnel that leads to it.
fn is_from_udp_port(packet: &[u8], port: u16) -> bool {
    const UDP: u8 = 17;
    let port = port.to_be_bytes();
    let source = match packet.first().map(|byte| byte >> 4) {
        // RFC 791: the header's length in words, the fragment's place, the protocol.
        Some(4) => {
            let header = usize::from(packet[0] & 0xf) * 4;
            let is_first = packet.get(6..8).is_some_and(|bytes| bytes[0] & 0x1f == 0 && bytes[1] == 0);
            let is_udp = packet.get(9) == Some(&UDP);
            (is_first && is_udp).then(|| packet.get(header..header + 2)).flatten()
        }
        // RFC 8200; the kernel puts no extension header before a datagram of this socket.
        Some(6) => (packet.get(6) == Some(&UDP)).then(|| packet.get(40..42)).flatten(),
        _ => None,
    };
    source == Some(port.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_datagrams_of_the_tunnels_own_port_are_kept_out() {
        let mut v4 = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 100, 64, 0, 2, 10, 0, 0, 1];
        v4.extend_from_slice(&[0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        assert!(is_from_udp_port(&v4, 0x1234));
        assert!(!is_from_udp_port(&v4, 0x1235));
        let mut tcp = v4.clone();
        tcp[9] = 6;
        assert!(!is_from_udp_port(&tcp, 0x1234));
        let mut later_fragment = v4.clone();
        later_fragment[7] = 1;
        assert!(!is_from_udp_port(&later_fragment, 0x1234));
        let mut v6 = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
        v6.extend_from_slice(&[0; 32]);
        v6.extend_from_slice(&[0x12, 0x34, 0, 53, 0, 8, 0, 0]);
        assert!(is_from_udp_port(&v6, 0x1234));
        for cut in 0..v6.len().min(41) {
            assert!(!is_from_udp_port(&v6[..cut], 0x1234));
        }
        for cut in 0..21 {
            assert!(!is_from_udp_port(&v4[..cut], 0x1234));
        }
    }
}
