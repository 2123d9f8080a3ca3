//! What questions to addresses that have proven nothing are charged to: the device that named them, however many keys it has
//! and however often it comes again, and the address they go to, whoever named it.

use super::numbers::{
    BURST_WINDOW, MAX_AT_ADDRESS, MAX_AT_HOST, MAX_BURSTS, MAX_INTRODUCED, MAX_SEEN_PROBES,
};
use super::{Cause, MAX_CANDIDATES};
use crate::{PeerId, WireGuardPublicKey};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use wire::DeviceId;

/// Who is remembered at once; twice as many as there are peers. 400 bytes each: 7 MB.
const MAX_OWNERS: usize = 16_384;
/// Addresses, and hosts. 150 bytes each: 10 MB.
const MAX_TARGETS: usize = 65_536;
/// What is full is swept this often at most.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Whose account a peer's probes are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// The device that proved itself; it may have as many keys as it likes.
    Device(DeviceId),
    /// A key that its owner keeps.
    Key(WireGuardPublicKey),
}

#[derive(Debug, Default)]
struct Spent {
    /// Bursts of a minute, one for each peer and instant.
    bursts: VecDeque<(Instant, PeerId)>,
    seen: VecDeque<Instant>,
    /// Probes to where PoPs see it.
    introduced: VecDeque<Instant>,
}

impl Spent {
    fn forget(&mut self, now: Instant) {
        while self.bursts.front().is_some_and(|(at, _)| now >= *at + BURST_WINDOW) {
            self.bursts.pop_front();
        }
        for times in [&mut self.seen, &mut self.introduced] {
            while times.front().is_some_and(|at| now >= *at + BURST_WINDOW) {
                times.pop_front();
            }
        }
    }

    fn take(&mut self, now: Instant, peer: PeerId, cause: Cause) -> bool {
        self.forget(now);
        match cause {
            Cause::Answer | Cause::Proven => true,
            Cause::Introduced if self.introduced.len() >= MAX_INTRODUCED => false,
            Cause::Introduced => {
                self.introduced.push_back(now);
                true
            }
            Cause::Burst if self.bursts.back() == Some(&(now, peer)) => true,
            Cause::Burst if self.bursts.len() >= MAX_BURSTS => false,
            Cause::Burst => {
                self.bursts.push_back((now, peer));
                true
            }
            Cause::Seen if self.seen.len() >= MAX_SEEN_PROBES => false,
            Cause::Seen => {
                self.seen.push_back(now);
                true
            }
        }
    }
}

/// See the module. What is refused is not sent, as if the network had lost it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    owners: BTreeMap<Owner, Spent>,
    addresses: BTreeMap<SocketAddr, VecDeque<Instant>>,
    hosts: BTreeMap<IpAddr, (Instant, u32)>,
    swept: Option<Instant>,
    refused: u64,
}

impl Ledger {
    /// Probes that were not sent.
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether a probe may be sent; if so, it is charged.
    pub fn charge(&mut self, now: Instant, owner: Owner, peer: PeerId, to: SocketAddr, cause: Cause) -> bool {
        if matches!(cause, Cause::Answer | Cause::Proven) || planted::is("budget-of-a-key") {
            return true;
        }
        self.make_room(now);
        let has_room = self.owners.len() < MAX_OWNERS || self.owners.contains_key(&owner);
        let is_free = has_room
            && self.has_room_at(now, to, cause)
            && self.owners.entry(owner).or_default().take(now, peer, cause);
        if is_free {
            self.addresses.entry(to).or_default().push_back(now);
            self.hosts.entry(to.ip()).or_insert((now, 0)).1 += 1;
        } else {
            self.refused += 1;
        }
        is_free
    }

    fn has_room_at(&mut self, now: Instant, to: SocketAddr, cause: Cause) -> bool {
        let most = if cause == Cause::Introduced { MAX_INTRODUCED } else { MAX_AT_ADDRESS };
        let at_address = match self.addresses.get_mut(&to) {
            Some(times) => {
                while times.front().is_some_and(|at| now >= *at + BURST_WINDOW) {
                    times.pop_front();
                }
                times.len() < most
            }
            None => self.addresses.len() < MAX_TARGETS,
        };
        at_address && self.host_has_room(now, to.ip())
    }

    fn host_has_room(&mut self, now: Instant, host: IpAddr) -> bool {
        match self.hosts.get_mut(&host) {
            Some((since, count)) => {
                if now >= *since + BURST_WINDOW {
                    (*since, *count) = (now, 0);
                }
                *count < MAX_AT_HOST
            }
            None => self.hosts.len() < MAX_TARGETS,
        }
    }

    fn make_room(&mut self, now: Instant) {
        // Room for one list at least, without a look at all of it for each probe.
        let is_full = self.owners.len() >= MAX_OWNERS
            || self.addresses.len() + MAX_CANDIDATES > MAX_TARGETS
            || self.hosts.len() + MAX_CANDIDATES > MAX_TARGETS;
        if !is_full || self.swept.is_some_and(|at| now < at + SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.owners.retain(|_, spent| {
            spent.forget(now);
            !spent.bursts.is_empty() || !spent.seen.is_empty() || !spent.introduced.is_empty()
        });
        self.addresses.retain(|_, times| times.back().is_some_and(|at| now < *at + BURST_WINDOW));
        self.hosts.retain(|_, (since, _)| now < *since + BURST_WINDOW);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test reads the clock once, as the start of its virtual time")]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn device(number: u8) -> Owner {
        Owner::Device(DeviceId::from_bytes([number; 16]))
    }

    fn peer(number: u64) -> PeerId {
        PeerId(number)
    }

    fn to(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, host], port))
    }

    #[test]
    fn a_device_has_five_bursts_a_minute_with_all_its_keys_together() {
        let (start, mut ledger) = (Instant::now(), Ledger::default());
        let sent: Vec<usize> = (0..120_u32)
            .map(|second| {
                let (now, key) = (start + SECOND * second, peer(second.into()));
                let port = 2_000 + u16::try_from(second).expect("few");
                (1..=16)
                    .filter(|host| ledger.charge(now, device(1), key, to(*host, port), Cause::Burst))
                    .count()
            })
            .collect();
        assert_eq!(sent.iter().filter(|sent| **sent == 16).count(), 10, "{sent:?}");
        assert_eq!(sent.iter().sum::<usize>(), 160, "{sent:?}");
        // Another device is not in its way.
        assert!(ledger.charge(start + SECOND * 119, device(2), peer(999), to(1, 9), Cause::Burst));
    }

    #[test]
    fn two_keys_of_a_device_in_one_instant_are_two_bursts() {
        let (now, mut ledger) = (Instant::now(), Ledger::default());
        let sent = (0..8).filter(|key| ledger.charge(now, device(1), peer(*key), to(1, 2_000), Cause::Burst));
        assert_eq!(sent.count(), MAX_BURSTS);
    }

    #[test]
    fn an_address_is_asked_ten_times_a_minute_however_many_devices_name_it() {
        let (start, mut ledger) = (Instant::now(), Ledger::default());
        let mut sent = Vec::new();
        for number in 0..200_u8 {
            let now = start + SECOND * u32::from(number) / 2;
            if ledger.charge(now, device(number), peer(number.into()), to(1, 2_000), Cause::Burst) {
                sent.push(now);
            }
        }
        assert!(!sent.is_empty());
        let crowd =
            sent.windows(MAX_AT_ADDRESS + 1).find(|some| some[MAX_AT_ADDRESS] < some[0] + SECOND * 60);
        assert_eq!(crowd, None);
    }

    #[test]
    fn a_host_is_asked_six_hundred_times_in_a_minute_at_whichever_ports() {
        let (now, mut ledger) = (Instant::now(), Ledger::default());
        let sent = (0..2_000_u16).filter(|number| {
            let owner =
                Owner::Key(WireGuardPublicKey::from_bytes([u8::try_from(number % 250).expect("small"); 32]));
            let key = peer((*number).into());
            ledger.charge(now, owner, key, to(1, 2_000 + number), Cause::Burst)
        });
        assert_eq!(sent.count(), usize::try_from(MAX_AT_HOST).expect("small"));
    }

    #[test]
    fn where_a_pop_sees_the_device_is_asked_for_a_dozen_starts_a_minute_and_not_for_more() {
        let (now, mut ledger) = (Instant::now(), Ledger::default());
        let mut sent = |number: u8, port: u16, cause: Cause| {
            let key =
                (0..200).filter(|key| ledger.charge(now, device(number), peer(*key), to(1, port), cause));
            key.count()
        };
        assert_eq!(sent(1, 2_000, Cause::Introduced), MAX_INTRODUCED);
        assert_eq!(sent(1, 2_001, Cause::Introduced), 0, "one device, wherever it is said to be");
        assert_eq!(sent(2, 2_000, Cause::Introduced), 0, "one address, whoever is said to be there");
        // What it names itself has its own account still.
        assert_eq!(sent(1, 2_002, Cause::Burst), MAX_BURSTS);
        assert_eq!(sent(2, 2_000, Cause::Burst), 0, "and the address counts all of it");
    }

    #[test]
    fn hosts_are_forgotten_after_a_minute_also_where_only_introductions_led_there() {
        let (start, mut ledger) = (Instant::now(), Ledger::default());
        let target = |number: u32| SocketAddr::new(IpAddr::from(number.to_be_bytes()), 2_000);
        for number in 0..70_000_u32 {
            let now = start + SECOND * (number / 200);
            let owner = device(u8::try_from(number % 200).expect("small"));
            ledger.charge(now, owner, peer(number.into()), target(number), Cause::Introduced);
            assert!(ledger.hosts.len() <= MAX_TARGETS && ledger.addresses.len() <= MAX_TARGETS);
        }
        let later = start + SECOND * 500;
        assert!(ledger.charge(later, device(201), peer(1), target(90_000), Cause::Introduced));
        assert!(ledger.charge(later, device(202), peer(2), target(90_001), Cause::Burst));
    }

    #[test]
    fn what_has_proven_itself_costs_nothing() {
        let (now, mut ledger) = (Instant::now(), Ledger::default());
        for _ in 0..1_000 {
            assert!(ledger.charge(now, device(1), peer(1), to(1, 2_000), Cause::Proven));
        }
        assert_eq!((ledger.refused(), ledger.owners.len()), (0, 0));
    }

    #[test]
    fn the_ledger_is_bounded_and_forgets_what_is_older_than_a_minute() {
        let (start, mut ledger) = (Instant::now(), Ledger::default());
        let key = |number: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Owner::Key(WireGuardPublicKey::from_bytes(bytes))
        };
        let target = |number: u32| SocketAddr::new(IpAddr::from(number.to_be_bytes()), 2_000);
        for number in 0..40_000_u32 {
            ledger.charge(start, key(number), peer(number.into()), target(number), Cause::Burst);
        }
        assert_eq!(ledger.owners.len(), MAX_OWNERS);
        assert_eq!(ledger.refused(), 40_000 - MAX_OWNERS as u64);
        assert!(ledger.charge(start + SECOND * 60, key(90_000), peer(90_000), target(90_000), Cause::Burst));
        assert_eq!((ledger.owners.len(), ledger.addresses.len(), ledger.hosts.len()), (1, 1, 1));
    }
}
