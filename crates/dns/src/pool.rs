//! Synthetic addresses: one IPv4 and one IPv6 address for each private name that somebody asked for.

use policy::{HostName, Prefix};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Names that have addresses at once. An entry is a name (≤ 253 bytes) twice and some words: below 12 MiB.
const MAX_NAMES: usize = 16_384;
/// Addresses at the range's beginning that no name gets: the network's own, the interface's, the resolver's.
const RESERVED: u32 = 4;
/// How long an address stays with its name after it was last asked for or used, when others need room: longer
/// than any program remembers an answer with our TTL, and than a person leaves a window open over lunch.
const HOLD: Duration = Duration::from_secs(2 * 3600);

/// The same for an address that was asked for and that no packet went to: longer than an answer may be remembered. A page
/// can ask for any number of names below a wildcard.
const HOLD_UNUSED: Duration = Duration::from_secs(2 * 60);

/// Why ranges cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not an IPv4 prefix of a usable size.
    #[error("expected an IPv4 prefix of length 8 to 28 for synthetic addresses, got {0}")]
    V4(Prefix),
    /// Not an IPv6 prefix of a usable size.
    #[error("expected an IPv6 prefix of length 32 to 96 for synthetic addresses, got {0}")]
    V6(Prefix),
}

/// The names with an address, both ways.
#[derive(Debug)]
pub struct Pool {
    v4: Prefix,
    v6: Prefix,
    base4: u32,
    base6: u128,
    /// Addresses of the IPv4 range; the IPv6 range is larger.
    size: u32,
    slots: BTreeMap<HostName, u32>,
    names: BTreeMap<u32, Slot>,
}

#[derive(Debug)]
struct Slot {
    name: HostName,
    used: Instant,
    /// Whether a packet ever went there.
    carried: bool,
}

impl Pool {
    /// An empty pool over two ranges that the machine does not use otherwise.
    ///
    /// # Errors
    /// [`PoolError`] when a range is of the wrong family or size.
    pub fn new(v4: Prefix, v6: Prefix) -> Result<Self, PoolError> {
        let (IpAddr::V4(base4), 8..=28) = (v4.address(), v4.length()) else { return Err(PoolError::V4(v4)) };
        let (IpAddr::V6(base6), 32..=96) = (v6.address(), v6.length()) else { return Err(PoolError::V6(v6)) };
        Ok(Self {
            v4,
            v6,
            base4: base4.into(),
            base6: base6.into(),
            size: 1 << (32 - u32::from(v4.length())),
            slots: BTreeMap::new(),
            names: BTreeMap::new(),
        })
    }

    /// The IPv4 range.
    #[must_use]
    pub const fn v4(&self) -> Prefix {
        self.v4
    }

    /// The IPv6 range.
    #[must_use]
    pub const fn v6(&self) -> Prefix {
        self.v6
    }

    /// Whether an address is in one of the two ranges, with a name or without.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.v4.contains(address) || self.v6.contains(address)
    }

    /// Whether a prefix lies inside one of the two ranges: a reverse question about it is ours.
    #[must_use]
    pub fn holds(&self, prefix: Prefix) -> bool {
        self.contains(prefix.address())
    }

    /// Whether a prefix is one address.
    #[must_use]
    pub const fn is_host(&self, prefix: Prefix) -> bool {
        matches!((prefix.address(), prefix.length()), (IpAddr::V4(_), 32) | (IpAddr::V6(_), 128))
    }

    /// The addresses of a name, new ones if it has none. The same name gets the same address again after a
    /// restart unless another name was there first, so that what programs remember stays right.
    ///
    /// `None` when every slot is taken by a name that was used within two hours.
    pub fn assign(&mut self, now: Instant, name: &HostName) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let slot = match self.slots.get(name) {
            Some(slot) => *slot,
            None => self.free_slot(now, name)?,
        };
        let entry =
            self.names.entry(slot).or_insert_with(|| Slot { name: name.clone(), used: now, carried: false });
        entry.used = now;
        self.slots.insert(name.clone(), slot);
        Some((Ipv4Addr::from(self.base4 | slot), Ipv6Addr::from(self.base6 | u128::from(slot))))
    }

    /// The name that an address stands for.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> Option<&HostName> {
        self.names.get(&self.slot(address)?).map(|slot| &slot.name)
    }

    /// Both addresses and the name that an address stands for, for a packet that goes there: the name keeps them.
    pub fn meaning(&mut self, now: Instant, address: IpAddr) -> Option<(Ipv4Addr, Ipv6Addr, &HostName)> {
        let slot = self.slot(address)?;
        let entry = self.names.get_mut(&slot)?;
        entry.used = now;
        entry.carried = true;
        let v6 = Ipv6Addr::from(self.base6 | u128::from(slot));
        Some((Ipv4Addr::from(self.base4 | slot), v6, &entry.name))
    }

    /// A packet was sent to or from the address: its name keeps it.
    pub fn touch(&mut self, now: Instant, address: IpAddr) {
        if let Some(slot) = self.slot(address).and_then(|slot| self.names.get_mut(&slot)) {
            slot.used = now;
            slot.carried = true;
        }
    }

    fn slot(&self, address: IpAddr) -> Option<u32> {
        if !self.contains(address) {
            return None;
        }
        match address.to_canonical() {
            IpAddr::V4(v4) => Some(u32::from(v4) - self.base4),
            IpAddr::V6(v6) => u32::try_from(u128::from(v6) - self.base6).ok(),
        }
    }

    /// Slots that names may have: all but the reserved ones and the range's last, its broadcast address.
    fn usable(&self) -> u32 {
        self.size - RESERVED - 1
    }

    fn free_slot(&mut self, now: Instant, name: &HostName) -> Option<u32> {
        let usable = self.usable();
        if self.names.len() >= MAX_NAMES.min(usable as usize) {
            self.give_up_oldest(now)?;
        }
        let digest = trust::sha256(&[b"tidegate/synthetic/1", name.as_str().as_bytes()]);
        let first = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % usable;
        // Fewer names than slots: the search ends.
        (0..usable)
            .map(|step| RESERVED + ((u64::from(first) + u64::from(step)) % u64::from(usable)) as u32)
            .find(|slot| !self.names.contains_key(slot))
    }

    fn give_up_oldest(&mut self, now: Instant) -> Option<()> {
        let until = |slot: &Slot| slot.used + if slot.carried { HOLD } else { HOLD_UNUSED };
        let (slot, oldest) = self.names.iter().min_by_key(|(_, slot)| until(slot))?;
        if until(oldest) > now {
            return None;
        }
        let (slot, name) = (*slot, oldest.name.clone());
        self.names.remove(&slot);
        self.slots.remove(&name);
        Some(())
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test needs one moment to count from")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> HostName {
        text.parse().unwrap()
    }

    fn pool(v4: &str) -> Pool {
        Pool::new(v4.parse().unwrap(), "fd7a:7467:6e61::/96".parse().unwrap()).unwrap()
    }

    #[test]
    fn a_name_has_the_same_addresses_as_long_as_it_is_known_and_after_a_restart() {
        let now = Instant::now();
        let mut first = pool("100.97.0.0/16");
        let addresses = first.assign(now, &name("db.example")).unwrap();
        assert_eq!(first.assign(now + Duration::from_secs(1), &name("db.example")), Some(addresses));
        assert_eq!(pool("100.97.0.0/16").assign(now, &name("db.example")), Some(addresses));
    }

    #[test]
    fn both_addresses_lead_back_to_the_name_and_others_to_none() {
        let now = Instant::now();
        let mut pool = pool("100.97.0.0/16");
        let (v4, v6) = pool.assign(now, &name("db.example")).unwrap();
        assert_eq!(pool.name(v4.into()), Some(&name("db.example")));
        assert_eq!(pool.name(v6.into()), Some(&name("db.example")));
        assert_eq!(pool.meaning(now, v4.into()), Some((v4, v6, &name("db.example"))));
        assert_eq!(pool.meaning(now, v6.into()), Some((v4, v6, &name("db.example"))));
        assert_eq!(pool.name("192.0.2.1".parse().unwrap()), None);
        assert_eq!(pool.meaning(now, "192.0.2.1".parse().unwrap()), None);
        assert_eq!(pool.name("fd7a:7467:6e61::1:0:0:1".parse().unwrap()), None);
    }

    #[test]
    fn a_full_pool_gives_up_what_nobody_used_for_long_and_nothing_else() {
        let now = Instant::now();
        let mut pool = pool("100.97.0.0/28");
        for index in 0..pool.usable() {
            let (v4, _) = pool.assign(now, &name(&format!("n{index}.example"))).unwrap();
            pool.touch(now, v4.into());
        }
        assert_eq!(pool.assign(now + HOLD_UNUSED, &name("late.example")), None);
        let later = now + HOLD;
        let used = pool.assign(later, &name("n3.example")).unwrap().0;
        for index in 0..pool.usable() - 1 {
            assert!(pool.assign(later, &name(&format!("late{index}.example"))).is_some());
        }
        assert_eq!(pool.name(used.into()), Some(&name("n3.example")));
        assert_eq!(pool.assign(later, &name("n4.example")), None);
    }

    #[test]
    fn names_that_were_only_asked_for_give_way_soon_and_those_in_use_do_not() {
        let now = Instant::now();
        let mut pool = pool("100.97.0.0/28");
        let (used, _) = pool.assign(now, &name("used.example")).unwrap();
        assert!(pool.meaning(now, used.into()).is_some());
        for index in 1..pool.usable() {
            assert!(pool.assign(now, &name(&format!("x{index}.example"))).is_some());
        }
        assert_eq!(pool.assign(now, &name("late.example")), None);
        let later = now + HOLD_UNUSED;
        for index in 1..pool.usable() {
            assert!(pool.assign(later, &name(&format!("y{index}.example"))).is_some());
        }
        assert_eq!(pool.name(used.into()), Some(&name("used.example")));
    }

    #[test]
    fn an_address_in_use_keeps_its_name() {
        let now = Instant::now();
        let mut pool = pool("100.97.0.0/28");
        let (v4, _) = pool.assign(now, &name("kept.example")).unwrap();
        for index in 1..pool.usable() {
            pool.assign(now, &name(&format!("n{index}.example"))).unwrap();
        }
        pool.touch(now + HOLD, v4.into());
        pool.assign(now + HOLD, &name("late.example")).unwrap();
        assert_eq!(pool.name(v4.into()), Some(&name("kept.example")));
    }

    #[test]
    fn ranges_of_the_wrong_family_or_size_are_refused() {
        let good: Prefix = "fd7a:7467:6e61::/96".parse().unwrap();
        for v4 in ["fd00::/64", "100.97.0.0/29", "0.0.0.0/0"] {
            assert!(Pool::new(v4.parse().unwrap(), good).is_err(), "{v4}");
        }
        assert!(Pool::new("100.97.0.0/16".parse().unwrap(), "fd00::/97".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn no_two_names_share_an_address_and_none_is_reserved(names in proptest::collection::btree_set("[a-z]{1,6}", 1..60)) {
            let now = Instant::now();
            let mut pool = pool("100.97.0.0/25");
            let mut seen = std::collections::BTreeSet::new();
            for text in &names {
                let (v4, v6) = pool.assign(now, &name(text)).unwrap();
                prop_assert!(seen.insert(v4) && pool.contains(v4.into()) && pool.contains(v6.into()));
                prop_assert!(v4.octets()[3] >= 4 && v4.octets()[3] < 127);
            }
        }
    }
}
