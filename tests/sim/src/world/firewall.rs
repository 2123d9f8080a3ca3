//! A stateful firewall without translation (RFC 6092): what was asked for may come in.

use super::Time;
use std::{collections::BTreeMap, net::SocketAddr};

/// Flows remembered before the expired ones are swept.
const SWEEP: usize = 4_096;

/// Address and port-dependent filtering, refreshed by both directions.
#[derive(Debug, Clone)]
pub struct Firewall {
    lifetime: Time,
    flows: BTreeMap<(SocketAddr, SocketAddr), Time>,
}

impl Firewall {
    /// A firewall that forgets a flow after this long.
    #[must_use]
    pub const fn new(lifetime: Time) -> Self {
        Self { lifetime, flows: BTreeMap::new() }
    }

    /// A datagram from inside.
    pub fn outbound(&mut self, now: Time, inner: SocketAddr, remote: SocketAddr) {
        if self.flows.len() >= SWEEP {
            let lifetime = self.lifetime;
            self.flows.retain(|_, used| now < *used + lifetime);
        }
        self.flows.insert((inner, remote), now);
    }

    /// Whether a datagram from outside may come in.
    pub fn admits(&mut self, now: Time, remote: SocketAddr, inner: SocketAddr) -> bool {
        match self.flows.get_mut(&(inner, remote)) {
            Some(used) if now < *used + self.lifetime => {
                *used = now;
                true
            }
            _ => false,
        }
    }

    /// Forgets everything.
    pub fn reboot(&mut self) {
        self.flows.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_firewall_admits_answers_alone_and_forgets_them_in_time() {
        let inner: SocketAddr = "[2001:db8:1::2]:4000".parse().expect("an address");
        let asked: SocketAddr = "[2001:db8:2::2]:4000".parse().expect("an address");
        let other: SocketAddr = "[2001:db8:2::2]:4001".parse().expect("an address");
        let second = Time::from_secs;
        let mut firewall = Firewall::new(second(60));
        assert!(!firewall.admits(second(0), asked, inner));
        firewall.outbound(second(0), inner, asked);
        assert!(firewall.admits(second(59), asked, inner));
        assert!(!firewall.admits(second(59), other, inner));
        assert!(firewall.admits(second(118), asked, inner), "an answer keeps the flow");
        assert!(!firewall.admits(second(178), asked, inner));
        firewall.outbound(second(200), inner, asked);
        firewall.reboot();
        assert!(!firewall.admits(second(200), asked, inner));
    }
}
