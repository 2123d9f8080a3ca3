//! What is struck: the union of everything heard, by generation, until nobody can need it any more.

mod installation;

use installation::{Installation, NOW};
use proptest::prelude::*;
use std::time::Duration;
use trust::{Changed, GroupRef, Revocation, RevocationSet, RevokedSubject};
use wire::{ConnectorId, ControllerId, DeviceId, GroupId, PopId, ServiceAccountId, TokenId, UserId};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn every_subject() -> [RevokedSubject; 9] {
    let group = GroupId::from_bytes([9; 16]);
    [
        RevokedSubject::Device(DeviceId::from_bytes([1; 16])),
        RevokedSubject::User(UserId::from_bytes([2; 16])),
        RevokedSubject::ServiceAccount(ServiceAccountId::from_bytes([3; 16])),
        RevokedSubject::Connector(ConnectorId::from_bytes([4; 16])),
        RevokedSubject::Pop(PopId::from_bytes([5; 16])),
        RevokedSubject::Controller(ControllerId::from_bytes([6; 16])),
        RevokedSubject::Token(TokenId::from_bytes([7; 16])),
        RevokedSubject::UserInGroup(UserId::from_bytes([2; 16]), group),
        RevokedSubject::ServiceAccountInGroup(ServiceAccountId::from_bytes([3; 16]), group),
    ]
}

fn entry(subject: RevokedSubject, generation: u64, days: u32) -> Revocation {
    Revocation { subject, generation, keep_until: NOW.plus(DAY * days), ..Installation::new(1).revocation() }
}

fn set(entries: &[Revocation]) -> RevocationSet {
    let mut set = RevocationSet::new();
    for entry in entries {
        set.insert(entry);
    }
    set
}

#[test]
fn everything_that_can_be_struck_reads_back_from_its_text_and_is_nothing_else() {
    for subject in every_subject() {
        assert_eq!(subject.to_string().parse(), Ok(subject));
    }
    for text in ["", "dev", "dev-", "org-00000000000000000000000000", "usr-x/grp-y", "dev-1/grp-1"] {
        assert!(text.parse::<RevokedSubject>().is_err(), "{text}");
    }
}

#[test]
fn a_strike_ends_its_generation_and_those_below_it_and_none_above() {
    for subject in every_subject() {
        let set = set(&[entry(subject, 3, 1)]);
        for generation in 0..=3 {
            assert!(set.is_struck(subject, generation));
        }
        assert!(!set.is_struck(subject, 4));
        assert_eq!(set.struck_generation(subject), Some(3));
        for other in every_subject().into_iter().filter(|other| *other != subject) {
            assert!(!set.is_struck(other, 0));
            assert_eq!(set.struck_generation(other), None);
        }
    }
}

#[test]
fn the_highest_generation_counts_and_a_lower_one_changes_nothing() {
    let subject = every_subject()[0];
    let mut set = RevocationSet::new();
    assert_eq!(set.insert(&entry(subject, 2, 1)), Changed::Yes);
    assert_eq!(set.insert(&entry(subject, 2, 1)), Changed::No);
    assert_eq!(set.insert(&entry(subject, 1, 1)), Changed::No);
    assert_eq!(set.insert(&entry(subject, 3, 1)), Changed::Yes);
    assert_eq!(set.struck_generation(subject), Some(3));
}

#[test]
fn a_grant_is_struck_by_its_device_or_by_its_owner_and_by_no_other() {
    let grant = Installation::new(1).grant();
    let device = RevokedSubject::Device(grant.device);
    let owner = RevokedSubject::owner(grant.owner);
    assert!(!RevocationSet::new().strikes_grant(&grant));
    assert!(set(&[entry(device, 1, 1)]).strikes_grant(&grant));
    assert!(set(&[entry(owner, 1, 1)]).strikes_grant(&grant));
    assert!(!set(&[entry(device, 0, 1)]).strikes_grant(&grant));
    assert!(
        !set(&[entry(RevokedSubject::Device(DeviceId::from_bytes([77; 16])), 9, 1)]).strikes_grant(&grant)
    );
    let GroupRef { id, .. } = grant.groups[0];
    assert!(!set(&[entry(RevokedSubject::membership(grant.owner, id), 9, 1)]).strikes_grant(&grant));
}

#[test]
fn what_is_forgotten_is_what_nobody_can_need_any_more() {
    let [short, long, ..] = every_subject();
    let mut set = set(&[entry(short, 1, 1), entry(long, 1, 2)]);
    set.forget_before(NOW.plus(DAY).minus(Duration::from_millis(1)));
    assert_eq!(set.len(), 2);
    set.forget_before(NOW.plus(DAY));
    assert_eq!(set.iter().collect::<Vec<_>>(), [(long, 1)]);
    set.forget_before(NOW.plus(DAY * 2));
    assert!(set.is_empty());
}

#[test]
fn an_entry_that_came_twice_is_kept_until_the_later_end() {
    let subject = every_subject()[0];
    for days in [[1, 2], [2, 1]] {
        let mut set = set(&days.map(|days| entry(subject, 1, days)));
        set.forget_before(NOW.plus(DAY));
        assert!(set.is_struck(subject, 1));
        let mut other = RevocationSet::new();
        for days in days {
            other.union(&self::set(&[entry(subject, 1, days)]));
        }
        other.forget_before(NOW.plus(DAY));
        assert!(other.is_struck(subject, 1));
    }
}

#[test]
fn a_union_says_whether_it_struck_more() {
    let [one, other, ..] = every_subject();
    let mut held = set(&[entry(one, 2, 1)]);
    assert_eq!(held.union(&RevocationSet::new()), Changed::No);
    assert_eq!(held.union(&set(&[entry(one, 1, 9)])), Changed::No);
    assert_eq!(held.union(&set(&[entry(one, 3, 1)])), Changed::Yes);
    assert_eq!(held.union(&set(&[entry(other, 1, 1)])), Changed::Yes);
    assert_eq!(held.iter().collect::<Vec<_>>().len(), 2);
    assert!(held.is_struck(one, 3) && held.is_struck(other, 1) && !held.is_empty());
}

proptest! {
    #[test]
    fn whatever_the_order_and_however_often_the_same_is_struck(
        heard in proptest::collection::vec((0_usize..9, 0_u64..5, 1_u32..5), 0..24),
        split in any::<prop::sample::Index>(),
    ) {
        let entries: Vec<Revocation> =
            heard.iter().map(|(subject, generation, days)| entry(every_subject()[*subject], *generation, *days)).collect();
        let whole = set(&entries);
        let reversed = set(&entries.iter().rev().cloned().collect::<Vec<_>>());
        prop_assert_eq!(&whole, &reversed);
        let at = split.index(entries.len() + 1);
        let (mut left, right) = (set(&entries[..at]), set(&entries[at..]));
        let mut other = right.clone();
        left.union(&right);
        other.union(&set(&entries[..at]));
        prop_assert_eq!(&left, &whole);
        prop_assert_eq!(&other, &whole);
        left.union(&whole);
        prop_assert_eq!(&left, &whole);
    }
}
