//! Whom a connector asks whether a device is there: what the device says of that, and how often it may say it.

use super::{World, address};
use crate::core::Output;
use crate::core::tests::literal;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tunnel::{
    Candidate, CandidateKind, LocalAddress, Path, PathMessage, Surroundings, Tunnels, WireGuardPrivateKey,
};

const SECOND: Duration = Duration::from_secs(1);
const THIRD_PARTY: &str = "192.0.2.77:9000";
/// Of the connector's own network, of a private network that is not, and of others like these.
const INSIDE: [&str; 5] =
    ["192.168.1.77:9000", "10.99.0.1:9000", "172.16.5.5:9000", "100.64.9.9:9000", "[fd12:3456::9]:9000"];

/// A connector at home, behind 203.0.113.20.
fn at_home() -> World {
    let mut world = World::new(literal("10.0.0.5:443"));
    let surroundings = Surroundings {
        port: 50_000,
        local: vec![LocalAddress { ip: address("192.168.1.2:0").ip(), prefix: 24 }],
        observed: vec![address("203.0.113.20:50000")],
        mapped: vec![],
    };
    world.core.set_surroundings(world.now, surroundings);
    world
}

/// A device enters, which its PoP sees at an address, and says that it is at others.
fn enters_and_names(world: &mut World, seen: Option<&str>, list: &[&str]) {
    let intro = super::Intro { client_seen: seen.map(address), ..world.intro() };
    world.enter_as(intro);
    let candidate = |text: &&str| Candidate { kind: CandidateKind::Observed, address: address(text) };
    let mut list: Vec<Candidate> = list.iter().map(candidate).collect();
    list.sort_unstable();
    let message = PathMessage::Candidates { epoch: 7, sequence: 1, round: 0, list };
    world.send(&message.encode());
}

/// What went straight to an address since this was asked last, and when.
fn asked(world: &mut World, for_so_long: Duration) -> Vec<(Instant, SocketAddr)> {
    let end = world.now + for_so_long;
    let mut asked = Vec::new();
    loop {
        for output in std::mem::take(&mut world.asked) {
            if let Output::Transmit { path: Path::Direct { remote }, .. } = output {
                asked.push((world.now, remote));
            }
        }
        if world.now >= end {
            return asked;
        }
        world.advance(Duration::from_millis(250));
    }
}

#[test]
fn a_device_that_names_the_connectors_own_public_address_is_looked_for_in_no_private_network() {
    for seen in [None, Some("198.51.100.7:4000")] {
        let mut world = at_home();
        let mut list = vec!["203.0.113.20:50001", THIRD_PARTY];
        list.extend(INSIDE);
        enters_and_names(&mut world, seen, &list);
        let asked = asked(&mut world, SECOND * 60);
        let is_asked = |text: &str| asked.iter().any(|(_, to)| *to == address(text));
        assert!(is_asked(THIRD_PARTY), "the list was not taken, so nothing was tested");
        assert_eq!(INSIDE.map(is_asked), [false; 5], "seen at {seen:?}");
    }
}

#[test]
fn a_device_that_its_pop_sees_behind_the_connectors_router_is_looked_for_on_the_lan() {
    let mut world = at_home();
    enters_and_names(&mut world, Some("203.0.113.20:61000"), &["192.168.1.77:9000"]);
    assert!(asked(&mut world, SECOND * 2).iter().any(|(_, to)| *to == address("192.168.1.77:9000")));
}

#[test]
fn a_device_that_comes_again_and_again_with_new_keys_makes_a_connector_ask_five_times_a_minute() {
    let mut world = at_home();
    let mut sent = Vec::new();
    for run in 0..80_u8 {
        world.tunnels = Tunnels::new(&WireGuardPrivateKey::from_bytes([run + 1; 32]), run.into(), world.now);
        enters_and_names(&mut world, Some("198.51.100.7:4000"), &[THIRD_PARTY]);
        sent.extend(asked(&mut world, SECOND * 2));
    }
    let at: Vec<Instant> =
        sent.into_iter().filter(|(_, to)| *to == address(THIRD_PARTY)).map(|(at, _)| at).collect();
    assert!(at.len() >= 5, "nothing was tested");
    let crowd = at.windows(6).find(|six| six[5] < six[0] + SECOND * 60);
    assert_eq!(crowd, None, "{} in {} s", at.len(), 160);
}
