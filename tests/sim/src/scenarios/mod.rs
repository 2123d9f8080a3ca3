//! What must hold in every world: scenarios with a seed, and what they found wrong.

mod hostile;
mod matrix;
mod quiet;
mod trouble;

use crate::fast::{Kind, Trace, World};
use crate::world::Time;
use std::collections::BTreeMap;

/// What a run showed.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its decisions.
    pub trace: Trace,
    /// How much virtual time passed.
    pub time: Time,
    /// What does not hold; nothing when all does.
    pub wrong: Vec<String>,
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
        name: "hostile-peer",
        sentence: "a peer that lies about where it is gets budgeted probes sent, and never to a forbidden address",
        run: hostile::lying_peer,
    },
    Scenario {
        name: "thief",
        sentence: "who sends captured relay frames from elsewhere is sent no data",
        run: hostile::thief,
    },
];

/// The scenario of a name.
#[must_use]
pub fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
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
        Err(format!("{wrong}\n  again: cargo xtask sim --seed {seed} --scenario {}", self.name))
    }
}

const SECOND: Time = Time::from_secs(1);
const MINUTE: Time = Time::from_secs(60);
const MS: fn(u64) -> Time = Time::from_millis;

/// Probes of one burst: one to each candidate, of which there are at most 16 and four seen.
const BURST: usize = 20;
const BURSTS_A_MINUTE: usize = 5;

/// Puts together what holds in every world: nothing goes where nothing may go, and probes stay in their budget.
fn report(world: &World, mut wrong: Vec<String>) -> Report {
    if let Some((at, agent, to)) = world.watch.forbidden {
        wrong.push(format!("agent {agent} sent to {to} at {at:?}"));
    }
    wrong.extend(over_budget(world));
    Report { trace: world.watch.trace, time: world.now(), wrong }
}

/// A burst asks each candidate in one instant. Questions to an address in use and answers to probes from a new
/// address are no bursts, so an instant counts when it asks an address that does not carry data and was not seen.
fn over_budget(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut carrying: BTreeMap<(u16, Option<u16>), std::net::SocketAddr> = BTreeMap::new();
    let mut moves = world.watch.moves.iter().peekable();
    let mut instants: BTreeMap<(u16, Option<u16>), BTreeMap<Time, usize>> = BTreeMap::new();
    for sent in world.watch.sent.iter().filter(|sent| sent.kind == Kind::Probe) {
        while let Some(moved) = moves.next_if(|moved| moved.at <= sent.at) {
            if let Some(tunnel::Path::Direct { remote }) = moved.path {
                carrying.insert((moved.agent, moved.other), remote);
            }
        }
        let pair = (sent.agent, sent.other);
        if carrying.get(&pair) != Some(&sent.to) {
            *instants.entry(pair).or_default().entry(sent.at).or_default() += 1;
        }
    }
    for ((agent, other), instants) in instants {
        let probes: Vec<(Time, usize)> = instants.into_iter().collect();
        let mut first = 0;
        let mut sum = 0;
        for (index, (at, count)) in probes.iter().enumerate() {
            sum += count;
            while probes[first].0 + MINUTE <= *at {
                sum -= probes[first].1;
                first += 1;
            }
            if *count > BURST || sum > BURST * BURSTS_A_MINUTE {
                wrong.push(format!(
                    "agent {agent} sent {sum} probes for {other:?} in the minute before {:?}",
                    probes[index].0
                ));
                break;
            }
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
