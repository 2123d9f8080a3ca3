//! Fast worlds: the production tunnels and the production relay, an engine without ciphers, and a session of a few
//! lines, so that thousands of seeds and hours of virtual time cost seconds.

mod agent;
mod control;
mod engine;
mod place;
mod pop;
mod watch;

pub use agent::{Agent, Echo, Experience, Length, Part, Program, key_of};
pub use engine::{SimEngine, SimPeer};
pub use place::{Address, Place, Site};
pub use watch::{Kind, List, Move, Record, Sent, Trace, Watch, is_forbidden};

use self::pop::PopModel;
use crate::world::{HostId, LinkRules, Network, Random, Time};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Instant,
};
use tunnel::Event;
use wire::{DatagramKind, classify};

const POP_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 250));
const POP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1));
const POP_PORT: u16 = 4433;

/// Somebody on the way of one agent who sees what it sends to the PoP, and sends it again from elsewhere.
#[derive(Debug)]
struct Thief {
    host: HostId,
    victim: HostId,
    data: u64,
}

/// One PoP, agents, and the network between them.
pub struct World {
    /// The network.
    pub net: Network,
    /// Everybody who watches.
    pub watch: Watch,
    /// The world's own chance.
    pub random: Random,
    seed: u64,
    base: Instant,
    now: Time,
    pop: PopModel,
    pop_host: HostId,
    pop_epoch: u32,
    pop_due: Time,
    agents: Vec<Agent>,
    due: Vec<Time>,
    is_up: Vec<bool>,
    thief: Option<Thief>,
}

impl World {
    /// A world with a PoP and nobody else.
    #[must_use]
    pub fn new(seed: u64, record: Record) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an arbitrary start; only differences to it are used")]
        let base = Instant::now();
        let mut net = Network::new(seed);
        let link = LinkRules::of_delay(Time::from_millis(2));
        let pop_host = net.add_host(Network::INTERNET, vec![POP_V4, POP_V6], POP_PORT, link);
        Self {
            net,
            watch: Watch::new(record),
            random: Random::new(seed, "world"),
            seed,
            base,
            now: Time::ZERO,
            pop: PopModel::new(seed, 1, base, Time::ZERO),
            pop_host,
            pop_epoch: 1,
            pop_due: Time::MAX,
            agents: Vec::new(),
            due: Vec::new(),
            is_up: Vec::new(),
            thief: None,
        }
    }

    /// What time it is.
    #[must_use]
    pub const fn now(&self) -> Time {
        self.now
    }

    /// The PoP's host.
    #[must_use]
    pub const fn pop_host(&self) -> HostId {
        self.pop_host
    }

    /// An agent.
    #[must_use]
    pub fn agent(&self, number: u16) -> &Agent {
        &self.agents[usize::from(number)]
    }

    /// How many agents there are.
    #[must_use]
    pub fn len(&self) -> u16 {
        u16::try_from(self.agents.len()).expect("few agents")
    }

    /// Whether there is no agent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.agents.is_empty()
    }

    fn pop_address(&self, addresses: &[IpAddr]) -> SocketAddr {
        let ip = if addresses.iter().any(IpAddr::is_ipv4) { POP_V4 } else { POP_V6 };
        SocketAddr::new(ip, POP_PORT)
    }

    /// Adds an agent at a place.
    pub fn add(&mut self, part: Part, at: &Address) -> u16 {
        let number = self.len();
        let port = at.port.unwrap_or(40_000 + number);
        let host = self.net.add_host(at.realm, at.addresses.clone(), port, at.link);
        let pop = self.pop_address(&at.addresses);
        let mut agent = Agent::new(part, number, host, pop, self.seed, self.base, self.now);
        agent.set_addresses(self.now, port, &at.addresses, pop);
        self.agents.push(agent);
        self.due.push(self.now);
        self.is_up.push(true);
        if at.needs_stream {
            self.net.open_stream(host, self.pop_host);
        }
        number
    }

    /// Does something to an agent, and sends what came of it.
    pub fn with<T>(&mut self, number: u16, act: impl FnOnce(&mut Agent, Time) -> T) -> T {
        let done = act(&mut self.agents[usize::from(number)], self.now);
        self.drain_agent(usize::from(number));
        done
    }

    /// An agent is at another place from now on.
    pub fn roam(&mut self, number: u16, at: &Address) {
        let host = self.agents[usize::from(number)].host;
        self.net.attach(host, at.realm, at.addresses.clone());
        *self.net.link_mut(host) = at.link;
        if at.needs_stream {
            self.net.open_stream(host, self.pop_host);
        } else {
            self.net.close_stream(host);
        }
        let (port, pop) = (self.net.port(host), self.pop_address(&at.addresses));
        self.with(number, |agent, now| agent.set_addresses(now, port, &at.addresses, pop));
    }

    /// An agent's machine sleeps.
    pub fn suspend(&mut self, number: u16) {
        let index = usize::from(number);
        self.is_up[index] = false;
        self.due[index] = Time::MAX;
        self.net.set_up(self.agents[index].host, false);
    }

    /// And wakes up; its clock has gone on.
    pub fn resume(&mut self, number: u16) {
        let index = usize::from(number);
        self.is_up[index] = true;
        self.net.set_up(self.agents[index].host, true);
        self.with(number, |agent, now| agent.handle_timeout(now));
    }

    /// An agent's process ends and starts again.
    pub fn restart(&mut self, number: u16) {
        self.watch.restarted(self.now, number);
        self.with(number, |agent, now| agent.restart(now));
    }

    /// The PoP's process ends and starts again; its memory is gone.
    pub fn restart_pop(&mut self) {
        self.pop_epoch += 1;
        self.pop = PopModel::new(self.seed, self.pop_epoch, self.base, self.now);
        self.drain_pop();
    }

    /// From now on somebody sends again, from elsewhere, what an agent sends to the PoP.
    pub fn let_steal_from(&mut self, victim: u16) {
        let address = vec![IpAddr::V4(Ipv4Addr::new(198, 51, 100, 200))];
        let host = self.net.add_host(Network::INTERNET, address, 45_000, LinkRules::PERFECT);
        self.thief = Some(Thief { host, victim: self.agents[usize::from(victim)].host, data: 0 });
    }

    /// How much data the thief was sent.
    #[must_use]
    pub fn stolen(&self) -> u64 {
        self.thief.as_ref().map_or(0, |thief| thief.data)
    }

    /// Whether an agent reaches the PoP by TCP 443.
    #[must_use]
    pub fn is_by_stream(&self, number: u16) -> bool {
        self.net.has_stream(self.agents[usize::from(number)].host)
    }

    /// How often the relay moved a side to another address.
    #[must_use]
    pub fn relay_moves(&self) -> u64 {
        self.pop.relay().counters().moves
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Time) {
        self.run_until(self.now + time);
    }

    /// Lets time pass until then.
    pub fn run_until(&mut self, end: Time) {
        loop {
            let next = self
                .due
                .iter()
                .copied()
                .chain([self.pop_due])
                .chain(self.net.next_at())
                .min()
                .unwrap_or(Time::MAX);
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        while let Some(arrival) = self.net.poll(self.now) {
            if arrival.host == self.pop_host {
                self.pop.handle_input(self.now, arrival.from, arrival.payload);
                self.drain_pop();
            } else if let Some(index) = self.agents.iter().position(|agent| agent.host == arrival.host) {
                let number = self.agents[index].number;
                self.watch.arrived(self.now, number, arrival.from, &arrival.payload);
                self.agents[index].handle_input(self.now, arrival.from, &arrival.payload);
                self.drain_agent(index);
            } else if let Some(thief) = self.thief.as_mut().filter(|thief| thief.host == arrival.host)
                && wire::parse_relay(&arrival.payload).is_ok_and(|frame| frame.kind == wire::RelayKind::Data)
            {
                thief.data += 1;
            }
        }
        for index in 0..self.agents.len() {
            if self.due[index] <= self.now {
                self.agents[index].handle_timeout(self.now);
                self.drain_agent(index);
            }
        }
        if self.pop_due <= self.now {
            self.pop.handle_timeout(self.now);
            self.drain_pop();
        }
    }

    fn drain_pop(&mut self) {
        let (out, due) = self.pop.drain(self.now);
        for (to, payload) in out {
            self.net.send(self.now, self.pop_host, to, payload);
        }
        self.pop_due = due.unwrap_or(Time::MAX);
    }

    fn drain_agent(&mut self, index: usize) {
        if !self.is_up[index] {
            return;
        }
        let agents = self.len();
        let agent = &mut self.agents[index];
        let drained = agent.drain(self.now);
        self.due[index] = drained.due;
        let (number, host) = (agent.number, agent.host);
        self.watch.introduced.extend(drained.told_of.iter().map(|at| (number, *at)));
        for event in &drained.events {
            if let Event::Moved { peer, path, reason } = event {
                let other = agent.number_of(*peer, agents);
                let (path, reason, tunnel) = (*path, *reason, peer.number());
                self.watch.moved(Move { at: self.now, agent: number, other, tunnel, path, reason });
            } else {
                self.watch.happened(self.now, number, event);
            }
        }
        for (to, payload) in drained.session {
            self.watch.session(self.now, number, to);
            self.transmit(host, to, payload);
        }
        for (to, transmit) in drained.sealed {
            let other = self.agents[index].number_of(transmit.peer, agents);
            self.watch.sealed(self.now, number, other, to, &transmit);
            self.transmit(host, to, transmit.bytes);
        }
    }

    fn transmit(&mut self, host: HostId, to: SocketAddr, payload: Vec<u8>) {
        if let Some(thief) = self.thief.as_ref().filter(|thief| thief.victim == host)
            && classify(&payload) == DatagramKind::Relay
        {
            let by = thief.host;
            self.net.send(self.now, by, to, payload.clone());
        }
        self.net.send(self.now, host, to, payload);
    }
}
