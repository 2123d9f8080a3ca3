//! The networks of `docs/nat-expected.md`, and what that document expects between them.

use crate::{
    nat::Behaviour,
    random::Random,
    world::{Place, World},
};
use std::{net::SocketAddr, time::Duration};

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A public address.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// The common home router.
    Home,
    /// Another port for each destination.
    Symmetric,
    /// A home router behind a carrier's.
    Cgn,
    /// UDP does not go out.
    UdpBlocked,
    /// IPv6 behind a firewall, and nothing else.
    Ipv6Only,
}

/// Which way data is to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Straight.
    Direct,
    /// Through the PoP.
    Relay,
}

impl Kind {
    /// All, in the document's order.
    pub const ALL: [Self; 7] = [
        Self::Open,
        Self::FullCone,
        Self::Home,
        Self::Symmetric,
        Self::Cgn,
        Self::UdpBlocked,
        Self::Ipv6Only,
    ];

    /// What `docs/nat-expected.md` says of a client here and a connector there; `tcp` is a relay.
    #[must_use]
    pub fn expected(self, connector: Self) -> Expected {
        let word = TABLE[self as usize][connector as usize];
        if word == "direct" { Expected::Direct } else { Expected::Relay }
    }
}

/// The words of the table; a test compares them with the document.
pub const TABLE: [[&str; 7]; 7] = [
    ["direct", "direct", "direct", "direct", "direct", "tcp", "relay"],
    ["direct", "direct", "direct", "direct", "direct", "tcp", "relay"],
    ["direct", "direct", "direct", "relay", "direct", "tcp", "relay"],
    ["direct", "direct", "relay", "relay", "relay", "tcp", "relay"],
    ["direct", "direct", "direct", "relay", "direct", "tcp", "relay"],
    ["tcp", "tcp", "tcp", "tcp", "tcp", "tcp", "tcp"],
    ["relay", "relay", "relay", "relay", "relay", "tcp", "direct"],
];

/// Builds a network of a kind and says where a host in it is plugged in. `number` keeps addresses apart.
pub fn place(world: &mut World, random: &mut Random, kind: Kind, number: u8) -> Place {
    let delay = random.between(Duration::from_millis(2), Duration::from_millis(60));
    let port = 20_000 + u16::try_from(random.below(40_000)).unwrap_or(0);
    let public = |last: u8| SocketAddr::from(([203, 0, 113, last], port)).ip();
    // Timers of boxes differ: RFC 4787 wants two minutes at least, and some have thirty seconds.
    let lifetime = random.between(Duration::from_secs(30), Duration::from_secs(300));
    let inside = SocketAddr::from(([192, 168, number, 2], port));
    let translated = |world: &mut World, behaviour: Behaviour| {
        let nat = world.add_box(Behaviour { lifetime, ..behaviour }, public(number), None);
        Place { inside, nearest: Some(nat), udp: true, delay }
    };
    match kind {
        Kind::Open => {
            Place { inside: SocketAddr::new(public(number), port), nearest: None, udp: true, delay }
        }
        Kind::FullCone => translated(world, Behaviour::FULL_CONE),
        Kind::Home => translated(world, Behaviour::HOME),
        Kind::Symmetric => translated(world, Behaviour::SYMMETRIC),
        Kind::UdpBlocked => Place { udp: false, ..translated(world, Behaviour::HOME) },
        Kind::Cgn => {
            let carrier = world.add_box(Behaviour { lifetime, ..Behaviour::HOME }, public(number), None);
            let between = SocketAddr::from(([100, 64, number, 2], 0)).ip();
            let home = world.add_box(Behaviour { lifetime, ..Behaviour::HOME }, between, Some(carrier));
            Place { inside, nearest: Some(home), udp: true, delay }
        }
        Kind::Ipv6Only => {
            let firewall = world.add_box(Behaviour { lifetime, ..Behaviour::FIREWALL }, public(number), None);
            let inside = format!("[2001:db8:{number:x}::2]:{port}").parse().expect("an address");
            Place { inside, nearest: Some(firewall), udp: true, delay }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_documents() {
        let document = include_str!("../../../docs/nat-expected.md");
        let names = ["open", "full-cone", "home", "symmetric", "cgn", "udp-blocked", "ipv6-only"];
        for (name, row) in names.iter().zip(TABLE) {
            let line = format!("| {name} | {} |", row.join(" | "));
            assert!(document.contains(&line), "the document has no line {line:?}");
        }
    }
}
