//! How many failures an address may make: bounded tables of counts.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, Instant},
};
use trust::sha256;

/// Keys that are remembered at once in a table; when it is full the strangers share one count.
const MAX_KEYS: usize = 4096;
/// A neighbourhood may fail as often as so many of its parties: one of them does not keep the others out, and whoever
/// has all of its addresses does not get a budget for each.
const NEIGHBOURS: u32 = 20;

/// Failures by key, in windows of fixed length.
#[derive(Debug)]
struct Counts<K> {
    window: Duration,
    /// `None` is every stranger to a full table.
    counts: BTreeMap<Option<K>, (Instant, u32)>,
}

impl<K: Ord> Counts<K> {
    const fn new(window: Duration) -> Self {
        Self { window, counts: BTreeMap::new() }
    }

    /// The failures in this window, and how long it still goes on.
    fn of(&self, key: K, now: Instant) -> Option<(u32, Duration)> {
        let known = self.counts.get(&Some(key)).copied();
        let strangers = || self.counts.get(&None).filter(|_| self.counts.len() >= MAX_KEYS);
        // Many share that one count.
        let (since, failures) =
            known.or_else(|| strangers().map(|(since, all)| (*since, all / NEIGHBOURS)))?;
        let left = self.window.checked_sub(now.saturating_duration_since(since))?;
        (!left.is_zero()).then_some((failures, left))
    }

    fn add(&mut self, key: K, now: Instant) {
        let mut key = Some(key);
        if self.counts.len() >= MAX_KEYS && !self.counts.contains_key(&key) {
            self.counts.retain(|_, (since, _)| now.saturating_duration_since(*since) < self.window);
            if self.counts.len() >= MAX_KEYS {
                key = None;
            }
        }
        let count = self.counts.entry(key).or_insert((now, 0));
        if now.saturating_duration_since(count.0) >= self.window {
            *count = (now, 0);
        }
        count.1 = count.1.saturating_add(1);
    }

    /// Takes one back that was counted in this window.
    fn subtract(&mut self, key: K, now: Instant) {
        let mut key = Some(key);
        if !self.counts.contains_key(&key) {
            key = None;
        }
        if let Some((since, count)) = self.counts.get_mut(&key)
            && now.saturating_duration_since(*since) < self.window
        {
            *count = count.saturating_sub(1);
        }
    }
}

/// The part of an address that one party holds: an IPv4 address or an IPv6 /64 (RFC 6177).
pub(crate) fn party(address: IpAddr) -> [u8; 8] {
    match address.to_canonical() {
        // No global unicast IPv6 prefix begins with zeros (RFC 4291 section 2.5).
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0, 0, 0, 0, a, b, c, d]
        }
        IpAddr::V6(v6) => v6.octets()[..8].try_into().expect("8 of 16 bytes"),
    }
}

/// What is around it: an IPv4 /24, or the IPv6 /48 of a site.
fn neighbourhood(address: IpAddr) -> [u8; 8] {
    let mut prefix = party(address);
    let kept = if address.to_canonical().is_ipv4() { 7 } else { 6 };
    prefix[kept..].fill(0);
    prefix
}

/// Counts failures of addresses.
#[derive(Debug)]
pub(crate) struct FailureLimit {
    most: u32,
    counts: Mutex<Tables>,
}

#[derive(Debug)]
struct Tables {
    parties: Counts<[u8; 8]>,
    neighbourhoods: Counts<[u8; 8]>,
    /// Tries of which nobody knows yet what they were: no more than connections.
    trying: BTreeMap<[u8; 8], u32>,
}

/// A try that was taken. Dropped without a word it was a failure, once it was made.
#[derive(Debug)]
pub(crate) struct Try<'a> {
    limit: &'a FailureLimit,
    from: IpAddr,
    at: Instant,
    is_made: bool,
}

/// No try can be made now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotNow {
    /// Until the window ends.
    pub(crate) wait: Duration,
    /// Tries from there are under way that may turn out to be right.
    pub(crate) others_are_trying: bool,
}

impl Try<'_> {
    /// What was sent is looked at now.
    pub(crate) const fn is_made(&mut self) {
        self.is_made = true;
    }

    /// It was no failure.
    pub(crate) fn was_right(mut self) {
        self.is_made = false;
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let mut tables = self.limit.lock();
        if !self.is_made {
            tables.parties.subtract(party(self.from), self.at);
            tables.neighbourhoods.subtract(neighbourhood(self.from), self.at);
        }
        if let Some(count) = tables.trying.get_mut(&party(self.from)) {
            *count -= 1;
            if *count == 0 {
                tables.trying.remove(&party(self.from));
            }
        }
    }
}

impl FailureLimit {
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        let (parties, neighbourhoods) = (Counts::new(window), Counts::new(window));
        let tables = Tables { parties, neighbourhoods, trying: BTreeMap::new() };
        Self { most, counts: Mutex::new(tables) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tables> {
        self.counts.lock().expect("nothing panics while it holds the counts")
    }

    /// Whether another try may be made; when not, how long to wait.
    pub(crate) fn check(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        self.check_in(&self.lock(), from, now)
    }

    /// As [`FailureLimit::check`], and counts the try as a failure until it says that it was right: of tries that are made at
    /// once no more come through than of those made one after the other.
    pub(crate) fn take(&self, from: IpAddr, now: Instant) -> Result<Try<'_>, NotNow> {
        let mut tables = self.lock();
        if let Err(wait) = self.check_in(&tables, from, now) {
            return Err(NotNow { wait, others_are_trying: tables.trying.contains_key(&party(from)) });
        }
        tables.parties.add(party(from), now);
        tables.neighbourhoods.add(neighbourhood(from), now);
        *tables.trying.entry(party(from)).or_insert(0) += 1;
        Ok(Try { limit: self, from, at: now, is_made: false })
    }

    fn check_in(&self, tables: &Tables, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let around = self.most.saturating_mul(NEIGHBOURS);
        let of_party = tables.parties.of(party(from), now).filter(|(failures, _)| *failures >= self.most);
        let of_others = tables.neighbourhoods.of(neighbourhood(from), now);
        let of_others = of_others.filter(|(failures, _)| *failures >= around);
        match of_party.max(of_others) {
            Some((_, wait)) => Err(wait),
            None => Ok(()),
        }
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, from: IpAddr, now: Instant) {
        let mut tables = self.lock();
        tables.parties.add(party(from), now);
        tables.neighbourhoods.add(neighbourhood(from), now);
    }
}

/// Slows tries at one account down, wherever they come from, and never refuses one: nobody is kept out of an account
/// by who guesses at it.
#[derive(Debug)]
pub(crate) struct Slowing {
    /// Failures that cost nothing.
    free: u32,
    counts: Mutex<Counts<[u8; 32]>>,
}

/// The first delay; it doubles with each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);
/// The longest: a person waits this long when somebody guesses all the time.
const LONGEST_DELAY: Duration = Duration::from_secs(4);

impl Slowing {
    pub(crate) const fn new(free: u32, window: Duration) -> Self {
        Self { free, counts: Mutex::new(Counts::new(window)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts<[u8; 32]>> {
        self.counts.lock().expect("nothing panics while it holds the counts")
    }

    /// How long the next try has to wait. Names that nobody has are counted too: the delay tells nothing. The try counts as a
    /// failure until [`Slowing::was_right`] says otherwise.
    pub(crate) fn take(&self, name: &str, now: Instant) -> Duration {
        let mut counts = self.lock();
        let failures = counts.of(account(name), now).map_or(0, |(failures, _)| failures);
        counts.add(account(name), now);
        match failures.checked_sub(self.free) {
            None => Duration::ZERO,
            Some(doublings) => FIRST_DELAY.saturating_mul(1 << doublings.min(16)).min(LONGEST_DELAY),
        }
    }

    /// A try that was taken was no failure.
    pub(crate) fn was_right(&self, name: &str, now: Instant) {
        self.lock().subtract(account(name), now);
    }
}

/// Counts failures of accounts, and stops them for the rest of the window. For what only somebody reaches who has
/// proven something already: a stranger would keep people out by it.
#[derive(Debug)]
pub(crate) struct AccountLimit {
    most: u32,
    counts: Mutex<Counts<[u8; 32]>>,
}

impl AccountLimit {
    pub(crate) const fn new(most: u32, window: Duration) -> Self {
        Self { most, counts: Mutex::new(Counts::new(window)) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts<[u8; 32]>> {
        self.counts.lock().expect("nothing panics while it holds the counts")
    }

    /// Whether another try may be made; when not, how long to wait.
    pub(crate) fn check(&self, name: &str, now: Instant) -> Result<(), Duration> {
        match self.lock().of(account(name), now) {
            Some((failures, wait)) if failures >= self.most => Err(wait),
            _ => Ok(()),
        }
    }

    /// As [`FailureLimit::take`].
    pub(crate) fn take(&self, name: &str, now: Instant) -> Result<(), Duration> {
        let mut counts = self.lock();
        if let Some((failures, wait)) = counts.of(account(name), now)
            && failures >= self.most
        {
            return Err(wait);
        }
        counts.add(account(name), now);
        Ok(())
    }

    /// A try that was taken was no failure.
    pub(crate) fn was_right(&self, name: &str, now: Instant) {
        self.lock().subtract(account(name), now);
    }

    /// Counts a failure.
    pub(crate) fn failed(&self, name: &str, now: Instant) {
        self.lock().add(account(name), now);
    }
}

fn account(name: &str) -> [u8; 32] {
    sha256(&[b"tidegate/console-account/1", name.to_lowercase().as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn failures_of_one_address_stop_that_address_for_the_rest_of_the_window_and_not_its_neighbours() {
        let limit = FailureLimit::new(3, Duration::from_secs(60));
        let start = crate::clock::now();
        for here in ["203.0.113.7", "2001:db8::7"] {
            for _ in 0..3 {
                assert_eq!(limit.check(at(here), start), Ok(()));
                limit.failed(at(here), start);
            }
            let later = start + Duration::from_secs(20);
            assert_eq!(limit.check(at(here), later), Err(Duration::from_secs(40)));
            assert_eq!(limit.check(at(here), start + Duration::from_secs(60)), Ok(()));
        }
        for neighbour in ["203.0.113.8", "198.51.100.7", "2001:db8:0:1::7", "2001:db8:1::7"] {
            assert_eq!(limit.check(at(neighbour), start), Ok(()), "{neighbour}");
        }
        // Whoever is behind one IPv6 host has all of its /64.
        assert!(limit.check(at("2001:db8::8"), start).is_err());
        assert!(limit.check(at("::ffff:203.0.113.7"), start).is_err());
    }

    #[test]
    fn tries_at_once_are_as_many_as_tries_one_after_the_other_and_right_ones_cost_nothing() {
        let limit = FailureLimit::new(3, Duration::from_secs(60));
        let (here, now) = (at("203.0.113.7"), crate::clock::now());
        let made = |mut one: Try<'_>| one.is_made();
        drop(limit.take(here, now).unwrap());
        let mut open: Vec<_> = (0..3).map(|_| limit.take(here, now).unwrap()).collect();
        let refused = limit.take(here, now).unwrap_err();
        assert!(refused.others_are_trying, "they may be right");
        open.pop().unwrap().was_right();
        open.push(limit.take(here, now).unwrap());
        open.into_iter().for_each(made);
        let refused = limit.take(here, now).unwrap_err();
        assert_eq!(refused, NotNow { wait: Duration::from_secs(60), others_are_trying: false });
        for _ in 0..20 {
            limit.take(at("203.0.113.8"), now).unwrap().was_right();
        }
        assert!(limit.lock().trying.is_empty());
    }

    #[test]
    fn who_has_a_whole_neighbourhood_does_not_get_a_budget_for_each_address() {
        let limit = FailureLimit::new(3, Duration::from_secs(60));
        let now = crate::clock::now();
        for last in 0..60 {
            limit.failed(IpAddr::from([203, 0, 113, last]), now);
            limit.failed(format!("2001:db8::{last}:0:0:0:1").parse().unwrap(), now);
        }
        assert!(limit.check(at("203.0.113.200"), now).is_err());
        assert!(limit.check(at("2001:db8:0:ff::1"), now).is_err());
        assert_eq!(limit.check(at("203.0.114.200"), now), Ok(()));
        assert_eq!(limit.check(at("2001:db8:1::1"), now), Ok(()));
    }

    #[test]
    fn the_tables_are_bounded_whoever_tries() {
        let limit = FailureLimit::new(3, Duration::from_secs(60));
        let slowing = Slowing::new(3, Duration::from_secs(60));
        let now = crate::clock::now();
        for index in 0..10_000_u32 {
            limit.failed(IpAddr::from((index << 8).to_be_bytes()), now);
            slowing.take(&index.to_string(), now);
        }
        assert!(limit.lock().parties.counts.len() <= MAX_KEYS + 1);
        assert!(limit.lock().neighbourhoods.counts.len() <= MAX_KEYS + 1);
        assert!(slowing.lock().counts.len() <= MAX_KEYS + 1);
        assert!(limit.check(at("255.1.1.1"), now).is_err());
    }

    #[test]
    fn guesses_at_an_account_slow_it_down_up_to_a_bound_and_no_other_account() {
        let slowing = Slowing::new(2, Duration::from_secs(60));
        let now = crate::clock::now();
        let mut delays = Vec::new();
        for _ in 0..40 {
            delays.push(slowing.take("Lena", now));
        }
        assert_eq!(delays[..4], [Duration::ZERO, Duration::ZERO, FIRST_DELAY, 2 * FIRST_DELAY]);
        assert_eq!(delays.last(), Some(&LONGEST_DELAY));
        assert_eq!(slowing.take("ada", now), Duration::ZERO);
        assert_eq!(slowing.take("lena", now + Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn wrong_codes_stop_their_account_for_the_rest_of_the_window_and_no_other() {
        let limit = AccountLimit::new(3, Duration::from_secs(60));
        let start = crate::clock::now();
        for _ in 0..3 {
            assert_eq!(limit.check("lena", start), Ok(()));
            limit.failed("lena", start);
        }
        assert_eq!(limit.check("lena", start + Duration::from_secs(20)), Err(Duration::from_secs(40)));
        assert_eq!(limit.check("ada", start), Ok(()));
        assert_eq!(limit.check("lena", start + Duration::from_secs(60)), Ok(()));
    }
}
