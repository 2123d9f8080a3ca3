//! How often the network around this device has shown another address of it.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// Changes that are remembered: more in a minute is no other answer.
const KEPT: usize = 64;
const MINUTE: Duration = Duration::from_secs(60);

/// When PoPs saw another address of this device, whichever port, by family. Two PoPs that see two addresses at a time count as
/// one change when the second one is heard of.
#[derive(Debug, Default)]
pub(super) struct AddressChanges {
    last: [Option<IpAddr>; 2],
    at: VecDeque<Instant>,
}

impl AddressChanges {
    pub(super) fn seen(&mut self, now: Instant, observed: SocketAddr) {
        if wire::is_stream_address(observed) {
            return;
        }
        let last = &mut self.last[usize::from(observed.is_ipv6())];
        if last.replace(observed.ip()).is_none_or(|last| last == observed.ip()) {
            return;
        }
        if self.at.len() == KEPT {
            self.at.pop_front();
        }
        self.at.push_back(now);
    }

    /// At most [`KEPT`].
    pub(super) fn in_a_minute(&self, now: Instant) -> usize {
        self.at.iter().filter(|at| now.saturating_duration_since(**at) <= MINUTE).count()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may begin at any moment")]
mod tests {
    use super::*;

    fn address(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, last], port))
    }

    #[test]
    fn another_address_counts_for_a_minute_and_another_port_or_family_does_not() {
        let now = Instant::now();
        let mut changes = AddressChanges::default();
        for seen in [address(1, 4000), address(1, 4001), "[2001:db8::1]:4000".parse().expect("an address")] {
            changes.seen(now, seen);
        }
        assert_eq!(changes.in_a_minute(now), 0);
        changes.seen(now, address(2, 4001));
        changes.seen(now + MINUTE / 2, address(1, 4000));
        assert_eq!(changes.in_a_minute(now + MINUTE), 2);
        assert_eq!(changes.in_a_minute(now + MINUTE + Duration::from_secs(1)), 1);
        assert_eq!(changes.in_a_minute(now + MINUTE * 2), 0);
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_the_newest_stays() {
        let now = Instant::now();
        let mut changes = AddressChanges::default();
        for second in 0..200_u8 {
            changes.seen(now + Duration::from_secs(second.into()), address(second, 4000));
        }
        assert_eq!(changes.in_a_minute(now + Duration::from_secs(199)), 61);
        assert_eq!(changes.at.len(), KEPT);
    }
}
