//! What floods are made of.

use anyhow::{Context as _, Result};
use load_rig::{AgentKind, Crowd, Installation, lab::HONEST, wall};
use session::{Dialler, Output};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

/// First packets as real agents send them, no two of one connection.
pub fn initials(installation: &Installation, count: usize) -> Result<Vec<Vec<u8>>> {
    let agents = installation.agents(AgentKind::Devices, 1)?;
    let local = agents.identities.into_iter().next().context("one agent")?;
    let mut dialler = Dialler::new(local, installation.bundle(), wall(), [9; 32]);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
    let mut packets = Vec::with_capacity(count);
    for _ in 0..count {
        let now = Instant::now();
        dialler.dial(now, installation.pop(), to)?;
        let mut is_first = true;
        while let Output::Transmit { payload, .. } = dialler.poll_output(now) {
            // The second carries the rest of the same greeting.
            if std::mem::take(&mut is_first) {
                packets.push(payload);
            }
        }
    }
    Ok(packets)
}

/// A small generator of numbers (SplitMix64): the same seed, the same flood.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or(0)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// What no agent sends: broken first packets, invented tokens, other versions, invented sessions, channels and
/// questions, cut short and drawn long.
pub fn malformed(initials: &[Vec<u8>], count: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut numbers = Numbers(seed);
    (0..count)
        .map(|index| {
            let mut packet = initials[numbers.below(initials.len())].clone();
            match index % 10 {
                0 => {
                    for _ in 0..4 {
                        let place = numbers.below(40);
                        packet[place] = numbers.bytes(1)[0];
                    }
                }
                // Cut short.
                1 => packet.truncate(1 + numbers.below(1_199)),
                // Another version, long enough for an answer; and not.
                2 => packet[1..5].copy_from_slice(&numbers.bytes(4)),
                3 => {
                    packet[1..5].copy_from_slice(&numbers.bytes(4));
                    packet.truncate(20 + numbers.below(1_000));
                }
                // An invented token.
                4 => {
                    let ids = 7 + usize::from(packet[5]) + usize::from(packet[6 + usize::from(packet[5])]);
                    let mut made = packet[..ids].to_vec();
                    made.push(0x40);
                    made.push(104);
                    made.extend(numbers.bytes(104));
                    made.extend_from_slice(&packet[ids + 1..]);
                    made.truncate(1_200);
                    packet = made;
                }
                // A session that never was.
                5 => {
                    let length = 20 + numbers.below(1_200);
                    packet = numbers.bytes(length);
                    packet[0] = 0x40 | packet[0] & 0x3F;
                }
                // The middle of a handshake that never began.
                6 => packet[0] = 0xE0 | packet[0] & 0x0F,
                // A channel that never was.
                7 => {
                    let length = 12 + numbers.below(1_000);
                    packet = numbers.bytes(length);
                    packet[0] = 0x80 | packet[0] & 0x0F;
                }
                // Questions that are none.
                8 => {
                    let length = 28 + numbers.below(40);
                    packet = numbers.bytes(length);
                    packet[..2].copy_from_slice(&[0, 1]);
                    packet[4..8].copy_from_slice(&0x2112_A442_u32.to_be_bytes());
                }
                _ => {
                    let length = 1 + numbers.below(1_400);
                    packet = numbers.bytes(length);
                }
            }
            packet
        })
        .collect()
}

/// Everything that a real agent sent while it registered and after: tokens, certificates and keepalives among it.
pub fn recorded(installation: &Installation, pop: SocketAddr) -> Result<Vec<Vec<u8>>> {
    let first = Ipv4Addr::from(u32::from(HONEST) - 200);
    // Nobody else's identity: an agent's second session would end its first.
    let agents = installation.agents(AgentKind::Connectors, 32)?;
    let mut crowd = Crowd::new(installation, agents, first, pop, 21)?;
    crowd.record();
    for number in 0..crowd.len() {
        crowd.register(number);
    }
    crowd.turn(Duration::from_secs(3))?;
    anyhow::ensure!(crowd.up() == crowd.len(), "{} of {} registered to be recorded", crowd.up(), crowd.len());
    // Their sessions stay at the PoP while what they said comes again from everywhere.
    Ok(crowd.recorded())
}
