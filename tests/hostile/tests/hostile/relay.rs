//! A PoP that swaps, drops, repeats, reorders and copies packets of tunnels, and lies about addresses.

use crate::cheats::{Shared, Switch, instead, meddling, saying, to_agent};
use hostile::installation::{MINUTE, SECOND, STANDARD};
use hostile::world::{
    Node, Packet, Plan, Tenant, World, client_address, connector_address, pop_address, raw_address,
};
use hostile_pop::core::relay::RelayCommand;
use hostile_session::{Frame, Verdict};
use std::net::SocketAddr;
use std::time::Duration;
use wire::{DatagramKind, ToAgent, classify};

/// A stream of a seed, for tests that try many ways.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        // Knuth's constants (MMIX).
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What only the owners of a flow may see.
fn words(client: usize, number: usize) -> Vec<u8> {
    format!("<secret {number} of client {client}: low tide at 04:10>").into_bytes()
}

/// What reached each site and came back to each client is what was meant for it, in order and once.
fn check_everybody(world: &World, said: &[Vec<u8>], seed: u64) {
    for (number, client) in world.clients.iter().enumerate() {
        for echoed in client.echoed.values() {
            assert!(said[number].starts_with(echoed), "seed {seed}: client {number} heard something else");
        }
    }
    for (number, part) in world.connectors.iter().enumerate() {
        for heard in part.heard.values() {
            let is_somebodys = world.clients.iter().enumerate().any(|(client, own)| {
                own.organization == part.organization && said[client].starts_with(heard)
            });
            assert!(is_somebodys, "seed {seed}: connector {number}'s site heard something else");
        }
    }
}

/// Keeps: a tunnel's packets are opened under the keys of its peer, whatever channel brings them (`tunnel`).
#[test]
fn channels_swapped_between_clients_and_organizations_deliver_nothing_to_anybody_else() {
    let tenants = [Tenant { connectors: 1, clients: 2 }, Tenant { connectors: 1, clients: 1 }];
    // Which client's channel gets which other's connector side.
    for (first, second, seed) in [(0, 1, 30), (0, 2, 31)] {
        let mut world = Plan::new(seed).tenants(&tenants).build();
        let mut waiting: Option<Box<hostile_pop::core::relay::ChannelSpec>> = None;
        let swapped = Shared::<usize>::new();
        let count = swapped.clone();
        world.pops[0].relay_cheat = Some(Box::new(move |command| match command {
            RelayCommand::Install(mut spec) => match waiting.take() {
                None => {
                    waiting = Some(spec);
                    Vec::new()
                }
                Some(mut before) => {
                    std::mem::swap(&mut before.sides[1], &mut spec.sides[1]);
                    count.with(|count| *count += 1);
                    vec![RelayCommand::Install(before), RelayCommand::Install(spec)]
                }
            },
            other => vec![other],
        }));
        world.settle();
        let dials = [world.dial(first, STANDARD), world.dial(second, STANDARD)];
        world.pass(SECOND * 20);
        let mut said = vec![Vec::new(); 3];
        for (client, dial) in [first, second].into_iter().zip(dials) {
            if let Some(Ok(flow)) = world.clients[client].dialled.get(&dial).cloned() {
                for number in 0..10 {
                    let text = words(client, number);
                    world.say(client, flow, &text);
                    said[client].extend_from_slice(&text);
                    world.pass(SECOND);
                }
            }
        }
        world.pass(SECOND * 10);
        assert!(swapped.with(|count| *count) > 0, "seed {seed}: nothing was swapped");
        check_everybody(&world, &said, seed);
        if world.clients[first].organization != world.clients[second].organization {
            assert_eq!(world.connectors.iter().map(|part| part.bytes()).sum::<usize>(), 0);
        }
    }
}

/// Keeps: the counters of a tunnel's packets (its replay window), and TCP inside.
#[test]
fn packets_dropped_repeated_reordered_and_changed_reach_the_site_as_they_were_meant_or_not_at_all() {
    for seed in 40..48 {
        let mut world = Plan::new(seed).tenants(&[Tenant { connectors: 1, clients: 2 }]).build();
        world.settle();
        let flows = [world.connect(0, STANDARD), world.connect(1, STANDARD)];
        let mut dice = Dice(seed);
        let mut old: Vec<Packet> = Vec::new();
        world.tamper = Some(Box::new(move |packet, _| {
            let is_relayed =
                packet.from == pop_address(0) && classify(&packet.payload) == DatagramKind::Relay;
            if !is_relayed {
                return vec![(Duration::ZERO, packet)];
            }
            if old.len() < 500 {
                old.push(packet.clone());
            }
            let mut packets = Vec::new();
            match dice.below(10) {
                0 => {}
                1 => {
                    let mut changed = packet.clone();
                    let at = dice.below(changed.payload.len() as u64 - 12) as usize + 12;
                    changed.payload[at] ^= 1 << dice.below(8);
                    packets.push((Duration::ZERO, changed));
                }
                2 | 3 => packets.push((Duration::from_millis(dice.below(400)), packet)),
                4 => packets.extend(vec![(Duration::ZERO, packet); 5]),
                _ => packets.push((Duration::ZERO, packet)),
            }
            // And something of long ago.
            let again = old[dice.below(old.len() as u64) as usize].clone();
            packets.push((Duration::from_millis(dice.below(2_000)), again));
            packets
        }));
        let mut said = vec![Vec::new(); 2];
        for number in 0..40 {
            for client in [0, 1] {
                let text = words(client, number);
                let written = world.say(client, flows[client], &text);
                said[client].extend_from_slice(&text[..written]);
            }
            world.pass(Duration::from_millis(500));
        }
        world.tamper = None;
        world.pass(MINUTE);
        check_everybody(&world, &said, seed);
        for client in [0, 1] {
            let echoed = &world.clients[client].echoed[&flows[client]];
            assert_eq!(echoed, &said[client], "seed {seed}: all of it, once it lets them");
        }
    }
}

/// Keeps: what passes a PoP is sealed between client and connector, or between agent and controller.
#[test]
fn a_pop_that_writes_everything_down_reads_nothing() {
    let seen = Shared::<Vec<Vec<u8>>>::new();
    let (frames, packets) = (seen.clone(), seen.clone());
    let hostile = meddling(move |frame: &Frame, _| {
        frames.with(|seen| seen.push(frame.body.clone()));
        Verdict::Pass
    });
    let mut world = Plan::new(50).life(MINUTE * 20, MINUTE * 5).pops([hostile]).build();
    world.tamper = Some(Box::new(move |packet, _| {
        packets.with(|seen| seen.push(packet.payload.clone()));
        vec![(Duration::ZERO, packet)]
    }));
    world.settle();
    let flow = world.connect(0, STANDARD);
    for number in 0..20 {
        assert!(world.echo(0, flow, &words(0, number), SECOND));
    }
    world.pass(MINUTE * 10);
    assert!(world.controller.renewals > 0, "a grant has passed");
    let grant = world.installation.grant(0, 0, hostile::installation::WALL);
    let renewed = world.clients[0].node.agent().grant_text().expect("renewed").to_owned();
    assert_ne!(grant, renewed);
    let secrets: Vec<(&str, Vec<u8>)> = vec![
        ("the grant", grant.into_bytes()[..100].to_vec()),
        ("the renewed grant", renewed.into_bytes()[100..200].to_vec()),
        ("what was said", b"low tide at".to_vec()),
        ("the owner", b"person-0".to_vec()),
        ("the device's name", b"laptop-of-0".to_vec()),
        ("the resource", b"service 1".to_vec()),
        ("the policy", b"everything for staff".to_vec()),
    ];
    seen.with(|seen| {
        assert!(seen.len() > 200 && seen.iter().map(Vec::len).sum::<usize>() > 50_000);
        for (what, secret) in secrets {
            let found = seen.iter().any(|bytes| bytes.windows(secret.len()).any(|window| window == secret));
            assert!(!found, "{what}");
        }
    });
}

/// A copy of everything goes to somebody else, who says it again from its own address.
///
/// Keeps: a side of a relay channel moves when the new address has answered and the old one has not
/// (`pop::core::relay`), and a tunnel's path when its peer has answered there.
#[test]
fn packets_that_a_third_party_was_given_move_nothing_to_it() {
    let mut world = Plan::new(51).build();
    let third = raw_address(9);
    let (client, connector) = (client_address(0), connector_address(0));
    world.settle();
    let flow = world.connect(0, STANDARD);
    let thief_got = Shared::<usize>::new();
    let got = thief_got.clone();
    world.tamper = Some(Box::new(move |packet, _| {
        let mut packets = vec![(Duration::ZERO, packet.clone())];
        if packet.to == third {
            got.with(|got| {
                *got +=
                    usize::from(classify(&packet.payload) != DatagramKind::Relay || packet.payload.len() > 60)
            });
            return Vec::new();
        }
        let relayed = classify(&packet.payload) == DatagramKind::Relay;
        if relayed && [client, connector].contains(&packet.from) {
            // To the PoP, as if the agent had moved there.
            packets.push((Duration::from_millis(1), Packet { from: third, ..packet.clone() }));
        }
        if relayed && packet.from == pop_address(0) {
            // And the PoP's own, to the agents.
            packets.push((Duration::from_millis(1), Packet { from: third, ..packet }));
        }
        packets
    }));
    for number in 0..60 {
        assert!(world.echo(0, flow, &words(0, number), SECOND), "the owner has it, {number}");
        world.pass(SECOND);
    }
    assert_eq!(thief_got.with(|got| *got), 0, "packets of a tunnel went to the thief");
    for node in [Node::Client(0), Node::Connector(0)] {
        let sent = world.went_to.get(&(node, third)).copied().unwrap_or(0);
        assert_eq!(sent, 0, "{node:?} sent {sent} bytes to the thief");
    }
}

/// Where a PoP says that its agents are.
const LIES: [&str; 8] = [
    "127.0.0.1:22",
    "[::1]:22",
    "169.254.169.254:80",
    "[fe80::1]:9",
    "224.0.0.251:5353",
    "0.0.0.0:9000",
    "255.255.255.255:9",
    "198.51.100.77:9000",
];

/// Keeps: candidates are never of the forbidden ranges, and what is probed is probed within a budget
/// (`tunnel::direct`).
#[test]
fn lies_about_addresses_send_probes_within_a_budget_and_nothing_else() {
    let on = Switch::default();
    let switch = on.clone();
    let mut number = 0_usize;
    let hostile = meddling(move |frame, _| {
        let mut lie = || -> SocketAddr {
            number += 1;
            LIES[number % LIES.len()].parse().expect("an address")
        };
        match to_agent(frame) {
            Some(ToAgent::Welcome(welcome)) if switch.is_on() => {
                instead(saying(frame, wire::Welcome { observed: lie(), ..welcome }))
            }
            Some(ToAgent::Alive(alive)) if switch.is_on() => {
                instead(saying(frame, wire::Alive { observed: lie(), ..alive }))
            }
            _ => Verdict::Pass,
        }
    });
    on.on();
    let mut world = Plan::new(52).pops([hostile]).build();
    world.settle();
    let flow = world.connect(0, STANDARD);
    for number in 0..60 {
        assert!(world.echo(0, flow, &words(0, number), SECOND * 3), "{number}");
        world.pass(SECOND * 5);
    }
    let third: SocketAddr = LIES[7].parse().expect("an address");
    let forbidden: Vec<SocketAddr> = LIES[..7].iter().map(|lie| lie.parse().expect("an address")).collect();
    for ((node, to), bytes) in &world.went_to {
        assert!(!forbidden.contains(to), "{node:?} sent {bytes} bytes to {to}");
        if *to == third {
            // Five minutes of lies: bursts of probes of some hundred bytes, a few a minute.
            assert!(*bytes < 60_000, "{node:?} sent {bytes} bytes to a third party");
        }
    }
}
