//! What a link does to datagrams.

use super::{Random, Time};

/// Most copies that one pass of a link makes.
const MOST: usize = 2;

/// How a link behaves, one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkRules {
    /// Every datagram takes this long.
    pub delay: Time,
    /// And up to this much longer.
    pub jitter: Time,
    /// Lost of a thousand.
    pub loss: u32,
    /// Held back for [`Self::HELD`] of a thousand, so that later ones overtake them.
    pub reorder: u32,
    /// Sent twice of a thousand.
    pub duplicate: u32,
    /// Longest UDP payload that goes through.
    pub longest: usize,
    /// Nothing goes through.
    pub is_cut: bool,
}

/// When the copies of a datagram come out: none, one or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copies {
    delays: [Time; MOST],
    count: usize,
}

impl Copies {
    /// The delays.
    pub fn iter(&self) -> impl Iterator<Item = Time> + '_ {
        self.delays.iter().take(self.count).copied()
    }
}

impl LinkRules {
    /// How long a reordered datagram is held back.
    pub const HELD: Time = Time::from_millis(30);

    /// A link that only takes time.
    #[must_use]
    pub const fn of_delay(delay: Time) -> Self {
        // 1,500 bytes less IPv6 and UDP.
        let longest = 1_452;
        Self { delay, jitter: Time::ZERO, loss: 0, reorder: 0, duplicate: 0, longest, is_cut: false }
    }

    /// A link that does nothing at all.
    pub const PERFECT: Self = Self::of_delay(Time::ZERO);

    /// What becomes of a datagram of this length.
    pub fn pass(&self, random: &mut Random, length: usize) -> Copies {
        let mut copies = Copies::default();
        if self.is_cut || length > self.longest || random.per_mille(self.loss) {
            return copies;
        }
        let count = if random.per_mille(self.duplicate) { 2 } else { 1 };
        for delay in copies.delays.iter_mut().take(count) {
            *delay = self.delay;
            if self.jitter > Time::ZERO {
                *delay += random.up_to(self.jitter);
            }
            if random.per_mille(self.reorder) {
                *delay += Self::HELD;
            }
        }
        copies.count = count;
        copies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(rules: LinkRules, length: usize) -> usize {
        let mut random = Random::new(7, "link");
        (0..10_000).map(|_| rules.pass(&mut random, length).iter().count()).sum()
    }

    #[test]
    fn a_link_loses_and_doubles_as_often_as_it_says() {
        let lossy = LinkRules { loss: 300, ..LinkRules::PERFECT };
        assert!((6_800..7_200).contains(&passes(lossy, 100)), "{}", passes(lossy, 100));
        let doubling = LinkRules { duplicate: 100, ..LinkRules::PERFECT };
        assert!((10_800..11_200).contains(&passes(doubling, 100)));
    }

    #[test]
    fn a_link_drops_what_is_longer_than_its_mtu_and_nothing_shorter() {
        let narrow = LinkRules { longest: 1_232, ..LinkRules::PERFECT };
        assert_eq!((passes(narrow, 1_232), passes(narrow, 1_233)), (10_000, 0));
    }

    #[test]
    fn a_cut_link_carries_nothing() {
        assert_eq!(passes(LinkRules { is_cut: true, ..LinkRules::PERFECT }, 1), 0);
    }

    #[test]
    fn a_link_takes_its_delay_and_at_most_its_jitter_more() {
        let ms = Time::from_millis;
        let rules = LinkRules { jitter: ms(5), ..LinkRules::of_delay(ms(20)) };
        let mut random = Random::new(1, "link");
        let delays: Vec<Time> =
            (0..1_000).flat_map(|_| rules.pass(&mut random, 9).iter().collect::<Vec<_>>()).collect();
        assert!(delays.iter().all(|delay| (ms(20)..=ms(25)).contains(delay)));
        assert!(delays.windows(2).any(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn a_held_datagram_is_overtaken() {
        let rules = LinkRules { reorder: 500, ..LinkRules::PERFECT };
        let mut random = Random::new(1, "link");
        let held = (0..1_000)
            .filter(|_| rules.pass(&mut random, 9).iter().any(|delay| delay == LinkRules::HELD))
            .count();
        assert!((400..600).contains(&held));
    }
}
