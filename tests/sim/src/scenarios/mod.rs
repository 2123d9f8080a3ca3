//! What must hold in every world: scenarios with a seed, and what they found wrong.

mod better;
mod hostile;
mod matrix;
mod narrow;
mod quiet;
mod translators;
mod trouble;
mod whole;

use crate::fast::{Kind, Trace, Watch, World};
use crate::stack::Datagram;
use crate::world::Time;
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};
use tunnel::{MoveReason, Path};

/// What a run showed.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its decisions.
    pub trace: Trace,
    /// How much virtual time passed.
    pub time: Time,
    /// What does not hold; nothing when all does.
    pub wrong: Vec<String>,
    /// What whole nodes sent.
    pub sent: Vec<Datagram>,
}

/// One kind of world and what must hold in it.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What holds.
    pub sentence: &'static str,
    /// Runs it.
    pub run: fn(u64) -> Report,
}

/// All of them.
pub const ALL: &[Scenario] = &[
    Scenario {
        name: "matrix",
        sentence: "a tunnel comes up between any two networks, and the expected path is found in bounded time",
        run: matrix::run,
    },
    Scenario {
        name: "homecoming",
        sentence: "who comes into its connector's LAN uses it, and asks no stranger at the same address before",
        run: matrix::homecoming,
    },
    Scenario {
        name: "better",
        sentence: "when another path becomes the better one, both sides take it in bounded time",
        run: better::run,
    },
    Scenario {
        name: "translators",
        sentence: "whatever a translator does, the tunnel carries, and goes straight where RFC 4787 lets it",
        run: translators::run,
    },
    Scenario {
        name: "steady",
        sentence: "a steady network sees a bounded number of path changes an hour, also at 10 and 30 % loss",
        run: quiet::steady,
    },
    Scenario {
        name: "idle",
        sentence: "an idle tunnel sends at most one packet in 20 s for a peer",
        run: quiet::idle,
    },
    Scenario {
        name: "roam",
        sentence: "one roam costs a bounded number of messages, at the peers of who roamed alone",
        run: quiet::roam,
    },
    Scenario {
        name: "one-way",
        sentence: "the relay carries on when a path works one way only",
        run: trouble::one_way,
    },
    Scenario {
        name: "restless",
        sentence: "an address that changes each second costs a bounded number of messages, and the tunnel comes back",
        run: trouble::restless,
    },
    Scenario {
        name: "port-per-packet",
        sentence: "the relay carries on behind a translator that gives each packet another port",
        run: trouble::port_per_packet,
    },
    Scenario {
        name: "faults",
        sentence: "after reboots, roams, sleeps, restarts and losses the tunnel carries again",
        run: trouble::faults,
    },
    Scenario {
        name: "narrow",
        sentence: "the longest packet that a way carries is found and never exceeded, and a black hole is left in seconds",
        run: narrow::narrow,
    },
    Scenario {
        name: "hostile-peer",
        sentence: "a peer that lies about where it is gets budgeted probes sent, and never to a forbidden address",
        run: hostile::lying_peer,
    },
    Scenario {
        name: "reopening-liar",
        sentence: "a device that comes again with new keys has one budget of probes for all of them",
        run: hostile::reopening_liar,
    },
    Scenario {
        name: "thief",
        sentence: "who sends captured relay frames from elsewhere is sent no data",
        run: hostile::thief,
    },
];

/// The one of whole nodes: its ciphers draw from the operating system, so that a seed gives the same world and the
/// same faults, but no trace.
pub const WHOLE: Scenario = Scenario {
    name: "whole",
    sentence: "a connection of whole nodes takes the expected path and survives roams and restarts of the PoP",
    run: whole::run,
};

/// The scenario of a name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().chain([&WHOLE]).find(|scenario| scenario.name == name)
}

impl Scenario {
    /// Runs one seed, and says by which line it can be run again when something does not hold.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self, seed: u64) -> Result<Report, String> {
        let report = (self.run)(seed);
        if report.wrong.is_empty() {
            return Ok(report);
        }
        let wrong = report.wrong.join("; ");
        // Whole nodes draw keys and numbers from the operating system.
        let is_exact = report.trace.decisions > 0;
        let much = if is_exact {
            ""
        } else {
            " (the same world and faults; not each packet again, as ciphers draw their own lots)"
        };
        Err(format!("{wrong}\n  again: cargo xtask sim --seed {seed} --scenario {}{much}", self.name))
    }
}

const SECOND: Time = Time::from_secs(1);
const MINUTE: Time = Time::from_secs(60);
const MS: fn(u64) -> Time = Time::from_millis;

/// Bursts to one peer in a minute.
const BURSTS_A_MINUTE: usize = 5;

/// Puts together what holds in every world: nothing goes where nothing may go, and probes stay in their budget.
fn report(world: &World, mut wrong: Vec<String>) -> Report {
    if let Some((at, agent, to)) = world.watch.forbidden {
        wrong.push(format!("agent {agent} sent to {to} at {at:?}"));
    }
    if let Some((at, agent, to, kind)) = world.watch.unproven {
        wrong.push(format!("agent {agent} sent {kind:?} to {to} at {at:?}, which had not proven itself"));
    }
    wrong.extend(over_budget(&world.watch));
    Report { trace: world.watch.trace, time: world.now(), wrong, sent: Vec::new() }
}

/// A burst asks the addresses of a peer in one instant. Questions to the address that carries data, and to one that
/// said something in the same instant (a second proof, an address that nobody named), have bounds of their own.
fn over_budget(watch: &Watch) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut carrying: BTreeMap<(u16, u64), SocketAddr> = BTreeMap::new();
    let mut doubted: BTreeMap<(u16, u64), Time> = BTreeMap::new();
    // A device has one budget, however many tunnels it has or had; to where the PoP sees it, each tunnel has one (ADR 0020).
    let mut bursts: BTreeMap<(u16, Option<u16>, Option<u64>), VecDeque<Time>> = BTreeMap::new();
    let (mut moves, mut fresh) = (watch.moves.iter().peekable(), watch.fresh.iter().peekable());
    let mut forgotten = watch.forgotten.iter().peekable();
    for sent in watch.sent.iter().filter(|sent| sent.kind == Kind::Probe) {
        let Path::Direct { .. } = sent.path else { continue };
        while let Some(moved) = moves.next_if(|moved| moved.at <= sent.at) {
            let tunnel = (moved.agent, moved.tunnel);
            match (moved.path, moved.reason) {
                (Some(Path::Direct { remote }), _) => {
                    carrying.insert(tunnel, remote);
                }
                // It carries no data while it is asked, and is still the one in use. One that is proven and doubted in
                // the same call is told as doubted alone: it is the one asked in that instant.
                (_, MoveReason::Doubtful | MoveReason::NetworkChanged) => {
                    doubted.insert(tunnel, moved.at);
                }
                _ => {
                    carrying.remove(&tunnel);
                }
            }
        }
        while let Some((_, agent)) = fresh.next_if(|(at, _)| *at <= sent.at) {
            carrying.retain(|(of, _), _| of != agent);
            bursts.retain(|(of, ..), _| of != agent);
        }
        while let Some((_, agent, tunnel)) = forgotten.next_if(|(at, ..)| *at <= sent.at) {
            carrying.remove(&(*agent, *tunnel));
        }
        let of_tunnel = watch.introduced.contains(&(sent.agent, sent.to)).then_some(sent.tunnel);
        let (pair, tunnel) = ((sent.agent, sent.other, of_tunnel), (sent.agent, sent.tunnel));
        if doubted.get(&tunnel) == Some(&sent.at) {
            carrying.entry(tunnel).or_insert(sent.to);
        }
        if sent.is_prompted || carrying.get(&tunnel) == Some(&sent.to) {
            continue;
        }
        let minute = bursts.entry(pair).or_default();
        if minute.back() == Some(&sent.at) {
            continue;
        }
        while minute.front().is_some_and(|at| *at + MINUTE <= sent.at) {
            minute.pop_front();
        }
        minute.push_back(sent.at);
        if minute.len() > BURSTS_A_MINUTE {
            let (agent, other, _) = pair;
            wrong.push(format!("agent {agent} sent these bursts for {other:?} in a minute: {minute:?}"));
            break;
        }
    }
    wrong
}

/// Runs until `is_so` or for so long; when it became so.
fn wait(world: &mut World, most: Time, is_so: impl Fn(&World) -> bool) -> Option<Time> {
    let end = world.now() + most;
    loop {
        if is_so(world) {
            return Some(world.now());
        }
        if world.now() >= end {
            return None;
        }
        world.run_for(MS(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fast::{Record, Sent};

    fn bursts(at: &[u64], is_prompted: bool) -> Vec<String> {
        let mut world = World::new(1, Record::All);
        let to: SocketAddr = "203.0.113.7:40000".parse().expect("an address");
        // Two addresses are one burst.
        for (at, port) in at.iter().flat_map(|at| [(at, 40_000), (at, 40_001)]) {
            let to = SocketAddr::new(to.ip(), port);
            let (at, path, kind) =
                (SECOND * u32::try_from(*at).expect("small"), Path::direct(to), Kind::Probe);
            world.watch.sent.push(Sent {
                at,
                agent: 0,
                other: Some(1),
                tunnel: 0,
                to,
                path,
                kind,
                is_prompted,
            });
        }
        over_budget(&world.watch)
    }

    #[test]
    fn six_bursts_in_a_minute_are_told_and_five_are_not() {
        assert_eq!(bursts(&[0, 1, 2, 3, 59, 60], false), Vec::<String>::new());
        assert_eq!(bursts(&[0, 1, 2, 3, 4, 59], false).len(), 1);
        assert_eq!(bursts(&[0, 1, 2, 3, 4, 59], true), Vec::<String>::new());
    }
}
