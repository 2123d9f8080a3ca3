//! The rules that hold whoever signed: each document at the edge of each of its bounds, and one step beyond.

mod installation;

use installation::{Installation, NOW};
use std::{collections::BTreeMap, time::Duration};
use trust::{
    Audience, BundleStatement, ChainError, Document as _, Grant, GroupRef, Head, KeyRole, MAX_GRANT_GROUPS,
    MAX_GRANT_LIFE, MAX_KEY_LIFE, MAX_ROTATION_LIFE, MAX_SLICE_LIFE, OrganizationTag, RootHash,
    RotationStatement, SliceVersion, Subject, TrustChain, UnixMs, sign_document,
};
use wire::{ConnectorId, ControllerId, DeviceId, GroupId, OrganizationId, PopId};

const STEP: Duration = Duration::from_millis(1);

fn id(number: u16) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    bytes
}

fn grant(change: impl FnOnce(&mut Grant)) -> Result<(), &'static str> {
    let mut grant = Installation::new(1).grant();
    change(&mut grant);
    grant.check()
}

#[test]
fn a_grant_lives_at_most_72_hours_from_its_making_and_from_its_beginning() {
    assert_eq!(grant(|grant| grant.exp = NOW.plus(MAX_GRANT_LIFE)), Ok(()));
    assert!(grant(|grant| grant.exp = NOW.plus(MAX_GRANT_LIFE + STEP)).is_err());
    // Made later than it begins: from its beginning it would live too long.
    let early = |by| {
        move |grant: &mut Grant| {
            grant.nbf = NOW.minus(by);
            grant.exp = NOW.plus(MAX_GRANT_LIFE - Duration::from_secs(3600));
        }
    };
    assert_eq!(grant(early(Duration::from_secs(3600))), Ok(()));
    assert!(grant(early(Duration::from_secs(3600) + STEP)).is_err());
    // Made earlier than it begins: from its making it would.
    let late = |by| {
        move |grant: &mut Grant| {
            grant.iat = NOW.minus(by);
            grant.exp = NOW.plus(MAX_GRANT_LIFE - Duration::from_secs(3600));
        }
    };
    assert_eq!(grant(late(Duration::from_secs(3600))), Ok(()));
    assert!(grant(late(Duration::from_secs(3600) + STEP)).is_err());
}

#[test]
fn a_grant_ends_after_it_begins_and_after_it_was_made() {
    assert!(grant(|grant| grant.exp = grant.nbf).is_err());
    assert_eq!(grant(|grant| grant.exp = grant.nbf.plus(STEP)), Ok(()));
    assert!(grant(|grant| grant.iat = grant.exp.plus(STEP)).is_err());
    assert_eq!(grant(|grant| grant.iat = grant.exp), Ok(()));
}

#[test]
fn a_grant_carries_at_most_128_groups_in_order_each_once() {
    let groups = |count: u16| -> Vec<GroupRef> {
        (0..count).map(|number| GroupRef { id: GroupId::from_bytes(id(number)), generation: 1 }).collect()
    };
    let most = u16::try_from(MAX_GRANT_GROUPS).unwrap();
    assert_eq!(grant(|grant| grant.groups = groups(most)), Ok(()));
    assert!(grant(|grant| grant.groups = groups(most + 1)).is_err());
    assert!(grant(|grant| grant.groups = groups(2).into_iter().rev().collect()).is_err());
    assert!(grant(|grant| grant.groups = [groups(1), groups(1)].concat()).is_err());
}

#[test]
fn names_in_a_grant_have_at_most_255_bytes() {
    assert_eq!(grant(|grant| grant.device_name = "n".repeat(255)), Ok(()));
    assert_eq!(grant(|grant| grant.owner_name = "n".repeat(255)), Ok(()));
    assert!(grant(|grant| grant.device_name = "n".repeat(256)).is_err());
    assert!(grant(|grant| grant.owner_name = "n".repeat(256)).is_err());
}

#[test]
fn a_beacon_speaks_of_256_organizations_and_256_signers_at_most() {
    let versions = |count: u16| -> BTreeMap<OrganizationTag, SliceVersion> {
        let tag = |number| OrganizationTag::of(OrganizationId::from_bytes(id(number)));
        (0..count).map(|number| (tag(number), SliceVersion::default())).collect()
    };
    let heads = |count: u16| -> BTreeMap<ControllerId, Head> {
        (0..count)
            .map(|number| (ControllerId::from_bytes(id(number)), Head { seq: 1, hash: [0; 32] }))
            .collect()
    };
    let beacon = |organizations, signers| {
        let mut beacon = Installation::new(1).beacon();
        (beacon.versions, beacon.heads) = (versions(organizations), heads(signers));
        beacon.check()
    };
    assert_eq!(beacon(256, 256), Ok(()));
    assert!(beacon(257, 1).is_err() && beacon(1, 257).is_err());
}

#[test]
fn a_beacon_tells_an_organization_its_version_and_nobody_else_s() {
    let installation = Installation::new(1);
    let beacon = installation.beacon();
    let version = beacon.version_of(installation.organization);
    assert_eq!(version, Some(SliceVersion { incarnation: 1, version: 9 }));
    assert_eq!(version.unwrap().to_string(), "1.9");
    assert_eq!(beacon.version_of(OrganizationId::from_bytes([99; 16])), None);
}

#[test]
fn a_revocation_counts_from_one_and_is_kept_at_least_until_it_is_made() {
    let entry = Installation::new(1).revocation();
    let mut zero = entry.clone();
    zero.seq = 0;
    assert!(zero.check().is_err());
    let mut at_once = entry.clone();
    at_once.keep_until = entry.at;
    assert_eq!(at_once.check(), Ok(()));
    at_once.keep_until = entry.at.minus(STEP);
    assert!(at_once.check().is_err());
}

#[test]
fn a_slice_lives_at_most_seven_days_and_ends_after_it_begins() {
    let slice = |exp: UnixMs| {
        let mut slice = Installation::new(1).slice();
        slice.header.exp = exp;
        slice.check()
    };
    assert_eq!(slice(NOW.plus(MAX_SLICE_LIFE)), Ok(()));
    assert!(slice(NOW.plus(MAX_SLICE_LIFE + STEP)).is_err());
    assert!(slice(NOW).is_err());
    assert_eq!(slice(NOW.plus(STEP)), Ok(()));
}

#[test]
fn a_slice_is_for_the_audience_of_its_kind_and_an_audience_is_one_subject() {
    let mut slice = Installation::new(1).slice();
    slice.header.audience = Audience::Device(DeviceId::from_bytes([6; 16]));
    assert!(slice.check().is_err());
    let pairs = [
        (Audience::Device(DeviceId::from_bytes([1; 16])), Subject::Device(DeviceId::from_bytes([1; 16]))),
        (
            Audience::Connector(ConnectorId::from_bytes([1; 16])),
            Subject::Connector(ConnectorId::from_bytes([1; 16])),
        ),
        (Audience::Pop(PopId::from_bytes([1; 16])), Subject::Pop(PopId::from_bytes([1; 16]))),
    ];
    for (place, (audience, _)) in pairs.iter().enumerate() {
        for (other, (_, subject)) in pairs.iter().enumerate() {
            assert_eq!(audience.is(*subject), place == other, "{audience:?} {subject:?}");
        }
    }
    assert!(!pairs[0].0.is(Subject::Device(DeviceId::from_bytes([2; 16]))));
    assert!(!pairs[1].0.is(Subject::Connector(ConnectorId::from_bytes([2; 16]))));
    assert!(!pairs[2].0.is(Subject::Pop(PopId::from_bytes([2; 16]))));
}

#[test]
fn a_document_that_breaks_a_rule_is_signed_by_nobody_and_believed_by_nobody() {
    let installation = Installation::new(1);
    let mut grant = installation.grant();
    grant.exp = grant.nbf;
    assert!(sign_document(&installation.key(KeyRole::Grant), &grant).is_err());
}

/// A chain of this installation whose rotation key and bundle were changed; whether it is believed now.
fn chain(change: impl FnOnce(&mut RotationStatement, &mut BundleStatement)) -> Result<(), ChainError> {
    let installation = Installation::new(1);
    let mut rotation = RotationStatement {
        installation: installation.id,
        root: installation.root.verifying_key(),
        rotation: installation.rotation.verifying_key(),
        epoch: 1,
        nbf: NOW,
        exp: NOW.plus(Duration::from_secs(3600)),
    };
    let mut bundle = BundleStatement {
        installation: installation.id,
        serial: 1,
        iat: NOW,
        keys: installation.bundle.all_keys().cloned().collect(),
    };
    change(&mut rotation, &mut bundle);
    let chain = TrustChain::sign(&installation.root, &installation.rotation, &rotation, &bundle)?;
    chain.verify(&RootHash::of(&installation.root.verifying_key()), NOW).map(|_| ())
}

#[test]
fn a_rotation_key_lives_at_most_two_years_and_ends_after_it_begins() {
    assert_eq!(chain(|rotation, _| rotation.exp = NOW.plus(MAX_ROTATION_LIFE)), Ok(()));
    assert!(chain(|rotation, _| rotation.exp = NOW.plus(MAX_ROTATION_LIFE + STEP)).is_err());
    assert!(chain(|rotation, _| rotation.exp = NOW).is_err());
}

#[test]
fn a_rotation_key_holds_from_its_beginning_with_some_slack_until_its_end() {
    let slack = trust::MAX_CLOCK_SKEW;
    let from = |nbf: UnixMs| chain(|rotation, _| (rotation.nbf, rotation.exp) = (nbf, nbf.plus(STEP * 1000)));
    assert_eq!(from(NOW.plus(slack)), Ok(()));
    assert!(matches!(from(NOW.plus(slack + STEP)), Err(ChainError::RotationNotValid { .. })));
    let until =
        |exp: UnixMs| chain(|rotation, _| (rotation.nbf, rotation.exp) = (exp.minus(STEP * 1000), exp));
    assert_eq!(until(NOW.plus(STEP)), Ok(()));
    assert!(matches!(until(NOW), Err(ChainError::RotationNotValid { .. })));
}

#[test]
fn a_key_in_a_bundle_lives_at_most_90_days_and_ends_after_it_begins() {
    let key = |exp: UnixMs| chain(|_, bundle| (bundle.keys[0].nbf, bundle.keys[0].exp) = (NOW, exp));
    assert_eq!(key(NOW.plus(MAX_KEY_LIFE)), Ok(()));
    assert!(key(NOW.plus(MAX_KEY_LIFE + STEP)).is_err());
    assert!(key(NOW).is_err());
    assert_eq!(key(NOW.plus(STEP)), Ok(()));
}

#[test]
fn a_key_of_a_bundle_is_valid_from_its_beginning_with_some_slack_until_just_before_its_end() {
    let installation = Installation::new(1);
    for key in installation.bundle.all_keys() {
        let first = key.nbf.minus(trust::MAX_CLOCK_SKEW);
        assert!(!key.is_valid_at(first.minus(STEP)) && key.is_valid_at(first));
        assert!(key.is_valid_at(key.exp.minus(STEP)) && !key.is_valid_at(key.exp));
    }
    assert_eq!(installation.bundle.all_keys().count(), KeyRole::ALL.len());
    for role in KeyRole::ALL {
        assert!(installation.bundle.keys(role).all(|key| key.role == role));
        assert_eq!(installation.bundle.keys(role).count(), 1);
    }
}

#[test]
fn a_key_with_two_roles_or_of_the_wrong_length_and_a_hundred_and_twenty_nine_keys_are_refused() {
    assert!(chain(|_, bundle| bundle.keys[1].public = bundle.keys[0].public.clone()).is_err());
    assert!(chain(|_, bundle| bundle.keys[0].public.push(0)).is_err());
    let many = |count: usize| {
        chain(|_, bundle| {
            let pattern = bundle.keys[0].clone();
            bundle.keys = (0..count)
                .map(|number| {
                    let mut key = pattern.clone();
                    key.public[..8].copy_from_slice(&(number as u64).to_be_bytes());
                    key
                })
                .collect();
        })
    };
    assert_eq!(many(128), Ok(()));
    assert!(many(129).is_err());
}

#[test]
fn two_bundles_with_different_keys_have_different_fingerprints() {
    let (one, other) = (Installation::new(1).bundle, Installation::new(2).bundle);
    assert_ne!(one.fingerprint(), other.fingerprint());
    assert_eq!(one.fingerprint(), Installation::new(1).bundle.fingerprint());
}
