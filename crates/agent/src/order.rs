//! In which order a site's PoPs are tried: the same for its connectors and every client.

use policy::PopEntry;
use std::{cmp::Reverse, collections::BTreeMap};
use wire::{PopId, SiteId};

/// The PoPs of a site, best first: its regions in their order of preference (all when it names none, or
/// when no PoP stands in one of them), within a region by highest random weight of (site, PoP), and each from the
/// zone that was taken least before it: whichever of the first ones is dead, the next shares no fate with the one
/// before it where that can be.
///
/// Nothing is published about who is attached where: a connector is at the first two live ones, and a
/// client tries the same order.
#[must_use]
pub fn pop_order(site: SiteId, regions: &[String], pops: &[PopEntry]) -> Vec<PopId> {
    let rank = |pop: &PopEntry| regions.iter().position(|region| *region == pop.region);
    let anywhere = regions.is_empty() || !pops.iter().any(|pop| rank(pop).is_some());
    let mut ordered: Vec<(&PopEntry, usize)> = pops
        .iter()
        .filter_map(|pop| if anywhere { Some((pop, 0)) } else { Some((pop, rank(pop)?)) })
        .collect();
    ordered.sort_by_cached_key(|(pop, rank)| (*rank, Reverse(weight(site, pop.id))));
    // Each gets its turn within its zone; turns go round the zones.
    let mut taken: BTreeMap<(usize, &str), usize> = BTreeMap::new();
    let mut turns: Vec<(usize, usize, PopId)> = ordered
        .into_iter()
        .map(|(pop, rank)| {
            let turn = taken.entry((rank, pop.zone.as_str())).or_default();
            *turn += 1;
            (rank, *turn, pop.id)
        })
        .collect();
    // Stable: within a turn the weights decide.
    turns.sort_by_key(|(rank, turn, _)| (*rank, *turn));
    // Planted: who has a favourite stays with it.
    if planted::is("stays-at-its-pop") {
        turns.truncate(1);
    }
    turns.into_iter().map(|(_, _, id)| id).collect()
}

/// Highest random weight (Thaler, Ravishankar 1998), by SHA-256, so that nobody can aim an id at a place.
fn weight(site: SiteId, pop: PopId) -> [u8; 32] {
    trust::sha256(&[b"tidegate/pop-order/1", site.as_bytes(), pop.as_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pop(number: u8, region: &str, zone: &str) -> PopEntry {
        PopEntry {
            id: PopId::from_bytes([number; 16]),
            address: "203.0.113.1:443".into(),
            region: region.into(),
            zone: zone.into(),
        }
    }

    proptest! {
        #[test]
        fn losing_one_pop_moves_no_other(site: [u8; 16], gone in 0_usize..6) {
            let site = SiteId::from_bytes(site);
            let all: Vec<PopEntry> = (0..6).map(|n| pop(n, "r", "z")).collect();
            let mut fewer = all.clone();
            let removed = fewer.remove(gone).id;
            let mut expected = pop_order(site, &[], &all);
            expected.retain(|id| *id != removed);
            prop_assert_eq!(pop_order(site, &[], &fewer), expected);
        }

        #[test]
        fn the_second_choice_shares_no_fate_with_the_first_where_that_can_be(site: [u8; 16]) {
            let pops = [pop(1, "r", "a"), pop(2, "r", "a"), pop(3, "r", "a"), pop(4, "r", "b")];
            let order = pop_order(SiteId::from_bytes(site), &[], &pops);
            let zone = |id: PopId| &pops.iter().find(|pop| pop.id == id).expect("listed").zone;
            prop_assert_ne!(zone(order[0]), zone(order[1]));
        }

        #[test]
        fn whichever_pop_is_dead_the_first_two_live_ones_are_of_two_zones(site: [u8; 16], dead in 0_usize..6) {
            let pops: Vec<PopEntry> =
                (0..6).map(|n| pop(n, "r", ["a", "b", "c"][usize::from(n % 3)])).collect();
            let order = pop_order(SiteId::from_bytes(site), &[], &pops);
            let zone = |id: &PopId| &pops.iter().find(|pop| pop.id == *id).expect("listed").zone;
            let live: Vec<&String> = order.iter().filter(|id| **id != pops[dead].id).map(zone).collect();
            prop_assert_ne!(live[0], live[1]);
        }
    }

    #[test]
    fn regions_come_in_their_order_and_foreign_ones_only_when_nothing_else_is_there() {
        let pops = [pop(1, "east", "a"), pop(2, "west", "a"), pop(3, "north", "a")];
        let site = SiteId::from_bytes([9; 16]);
        let order = pop_order(site, &["west".into(), "east".into()], &pops);
        assert_eq!(order, [pops[1].id, pops[0].id]);
        assert_eq!(pop_order(site, &["south".into()], &pops).len(), 3);
    }
}
