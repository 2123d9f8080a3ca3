//! Snapshots that must not be taken, and what goes on instead.

use super::{copy, poison::Served, *};
use store::*;
use trust::{Role, RootHash};
use wire::*;

const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);

fn id<T>(make: fn([u8; 16]) -> T, number: u8) -> T {
    make([number; 16])
}

fn organization(number: u8, version: u64) -> OrganizationData {
    let row = Organization {
        id: id(OrganizationId::from_bytes, number),
        name: format!("organization {number}"),
        version: Version { incarnation: 1, version },
        grant_life_ms: 24 * 3_600_000,
        renew_after_ms: 4 * 3_600_000,
        shrink_version: 0,
        old_grants_end_ms: 0,
        approve_devices: false,
        audit_retention_days: 0,
        flow_retention_days: 0,
        sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
        closed_ms: 0,
        created_ms: 1,
    };
    let site = id(SiteId::from_bytes, number);
    let group = id(GroupId::from_bytes, number);
    let users = (0..60).map(|n| User {
        id: id(UserId::from_bytes, n),
        name: format!("user {n}"),
        email: format!("user{n}@example.com"),
        role: store::Role::Member,
        generation: 1,
        created_ms: 1,
    });
    let users: Vec<User> = users.collect();
    let memberships =
        users.iter().map(|user| Membership { group, member: Member::User(user.id), generation: 1 });
    let resources = (1..=2).map(|n| Resource {
        id: id(ResourceId::from_bytes, n),
        site,
        name: format!("resource {n}"),
        alias: Some(format!("r{n}")),
        address: format!("10.0.0.{n}"),
        ports: vec![Ports::tcp(443, 443)],
        mode: ResourceMode::Standard,
        created_ms: 1,
    });
    let device = |n: u8, owner: UserId| Device {
        id: id(DeviceId::from_bytes, n),
        owner: Member::User(owner),
        name: "laptop".into(),
        state: DeviceState::Active,
        identity_key: [100 * number + n; 32],
        generation: 1,
        enrolled_by: id(EnrolmentKeyId::from_bytes, 1),
        created_ms: 1,
    };
    OrganizationData {
        organization: row,
        sites: vec![Site {
            id: site,
            name: "hamburg".into(),
            prefixes: vec!["10.0.0.0/8".into()],
            regions: vec![],
            created_ms: 1,
        }],
        connectors: vec![Connector {
            id: id(ConnectorId::from_bytes, number),
            site,
            name: "hh-1".into(),
            identity_key: [100 * number; 32],
            wireguard_key: [8; 32],
            seal_key: [9; 32],
            generation: 1,
            enrolled_by: id(EnrolmentKeyId::from_bytes, 1),
            created_ms: 1,
        }],
        resources: resources.collect(),
        groups: vec![Group { id: group, name: "engineers".into(), created_ms: 1 }],
        memberships: memberships.collect(),
        devices: vec![device(1, users[0].id), device(2, users[1].id)],
        users,
        service_accounts: vec![ServiceAccount {
            id: id(ServiceAccountId::from_bytes, 1),
            name: "backup".into(),
            generation: 1,
            created_ms: 1,
        }],
        policies: vec![Policy {
            id: id(PolicyId::from_bytes, 1),
            name: "engineers".into(),
            groups: vec![group],
            resources: vec![id(ResourceId::from_bytes, 1), id(ResourceId::from_bytes, 2)],
            created_ms: 1,
        }],
        tokens: vec![Token {
            id: id(TokenId::from_bytes, 1),
            name: "t".into(),
            scopes: vec!["read".into()],
            secret_hash: SecretHash::from_digest([1; 32]),
            expires_ms: 2,
            created_ms: 1,
        }],
        sign_in: Default::default(),
        enrolment_keys: vec![EnrolmentKey {
            id: id(EnrolmentKeyId::from_bytes, number),
            organization: Some(id(OrganizationId::from_bytes, number)),
            name: "key".into(),
            target: EnrolmentTarget::Connector { site },
            approval: false,
            secret_hash: SecretHash::from_digest([2; 32]),
            cap: 2,
            uses: 1,
            expires_ms: 2,
            created_ms: 1,
        }],
    }
}

fn dataset(version: u64) -> Dataset {
    let pops = (1..=2).map(|n| Pop {
        id: id(PopId::from_bytes, n),
        name: format!("pop-{n}"),
        region: "eu".into(),
        zone: "a".into(),
        address: "pop.example.com:443".into(),
        identity_key: [50 + n; 32],
        generation: 1,
        enrolled_by: id(EnrolmentKeyId::from_bytes, 9),
        created_ms: 1,
    });
    Dataset {
        installation: Installation {
            id: INSTALLATION,
            version: Version { incarnation: 1, version },
            created_ms: 1,
        },
        organizations: vec![organization(1, version), organization(2, version)],
        pops: pops.collect(),
        enrolment_keys: vec![],
        administrators: vec![],
        one_time_links: vec![],
    }
}

fn good(version: u64) -> Snapshot {
    Snapshot::new(dataset(version), SnapshotSource::Database, WALL, INSTALLATION).unwrap()
}

/// A dataset as it is, whatever is wrong with it.
fn unjudged(dataset: Dataset) -> Snapshot {
    let source = SnapshotSource::Database;
    Snapshot { dataset, models: BTreeMap::new(), source, read_at: WALL, number: 0 }
}

fn state(path: &std::path::Path) -> Arc<StateDir> {
    let about = state::About::new(INSTALLATION, Role::Controller, RootHash::from_bytes([1; 32]));
    Arc::new(StateDir::create(path, &about).unwrap())
}

fn gone() -> Result<Store, StoreError> {
    Err(StoreError::Unavailable("the test has none".into()))
}

type Damage = (&'static str, &'static str, fn(&mut Dataset));

/// What is wrong, a word of the reason, and how it is made.
const BAD_DATASETS: &[Damage] = &[
    ("no organization", "no organization", |d| d.organizations.clear()),
    ("no incarnation", "count from 1", |d| d.installation.version.incarnation = 0),
    ("no version", "count from 1", |d| d.organizations[0].organization.version.version = 0),
    ("an incarnation ahead", "higher than the installation", |d| {
        d.organizations[0].organization.version.incarnation = 2;
    }),
    ("an organization twice", "twice", |d| {
        let again = d.organizations[0].clone();
        d.organizations.insert(0, again);
    }),
    ("organizations out of order", "out of order", |d| d.organizations.reverse()),
    ("two of one name", "two have this name", |d| {
        d.organizations[1].organization.name = d.organizations[0].organization.name.clone();
    }),
    ("an empty name", "1 to 512 bytes", |d| d.organizations[0].sites[0].name.clear()),
    ("an endless name", "1 to 512 bytes", |d| d.organizations[0].groups[0].name = "x".repeat(513)),
    ("a control character", "control", |d| d.organizations[0].users[0].name = "a\u{7}".into()),
    ("a grant that lives for ever", "at most 72 h", |d| {
        d.organizations[0].organization.grant_life_ms = u64::MAX;
    }),
    ("a grant that does not live", "at most 72 h", |d| d.organizations[0].organization.grant_life_ms = 0),
    ("a renewal behind the end", "before they end", |d| {
        d.organizations[0].organization.renew_after_ms = 48 * 3_600_000;
    }),
    ("a shrink of the future", "later version", |d| d.organizations[0].organization.shrink_version = 1000),
    ("a duplicated user", "twice", |d| {
        let again = d.organizations[0].users[0].clone();
        d.organizations[0].users.insert(0, again);
    }),
    ("an address of two people", "two have this name", |d| {
        d.organizations[0].users[1].email = d.organizations[0].users[0].email.clone();
    }),
    ("a user without a generation", "count from 1", |d| d.organizations[0].users[0].generation = 0),
    ("a device without a generation", "count from 1", |d| d.organizations[0].devices[0].generation = 0),
    ("a membership without a generation", "count from 1", |d| {
        d.organizations[0].memberships[0].generation = 0;
    }),
    ("a PoP without a generation", "count from 1", |d| d.pops[0].generation = 0),
    ("an identity key of two devices", "same", |d| {
        d.organizations[0].devices[1].identity_key = d.organizations[0].devices[0].identity_key;
    }),
    ("an identity key of two organizations", "same", |d| {
        d.organizations[1].devices[0].identity_key = d.organizations[0].devices[0].identity_key;
    }),
    ("an identity key of nobody", "nobody's", |d| d.pops[0].identity_key = [0; 32]),
    ("a connector without keys", "no key", |d| d.organizations[0].connectors[0].wireguard_key = [0; 32]),
    ("a connector of another organization's site", "not of this organization", |d| {
        d.organizations[0].connectors[0].site = d.organizations[1].sites[0].id;
    }),
    ("a resource without its site", "not of this organization", |d| {
        d.organizations[0].resources[0].site = SiteId::from_bytes([77; 16]);
    }),
    ("a resource with an address that does not parse", "resource", |d| {
        d.organizations[0].resources[0].address = "10.0.0.300".into();
    }),
    ("ports of ping", "resource", |d| {
        d.organizations[0].resources[0].ports =
            vec![Ports { protocol: PortProtocol::Icmp, first: 7, last: 7 }];
    }),
    ("ports upside down", "resource", |d| {
        d.organizations[0].resources[0].ports = vec![Ports::tcp(9, 8)];
    }),
    ("a prefix that does not parse", "site", |d| {
        d.organizations[0].sites[0].prefixes = vec!["10.0.0.1/8".into()];
    }),
    ("one alias twice", "two have this name", |d| {
        d.organizations[0].resources[1].alias = d.organizations[0].resources[0].alias.clone();
    }),
    ("a device without its owner", "not of this organization", |d| {
        d.organizations[0].devices[0].owner = Member::User(UserId::from_bytes([99; 16]));
    }),
    ("a membership without its group", "not of this organization", |d| {
        d.organizations[0].memberships[0].group = GroupId::from_bytes([99; 16]);
    }),
    ("a membership twice", "twice", |d| {
        let again = d.organizations[0].memberships[0].clone();
        d.organizations[0].memberships.insert(0, again);
    }),
    ("a policy of another organization's group", "not of this organization", |d| {
        d.organizations[0].policies[0].groups = vec![d.organizations[1].groups[0].id];
    }),
    ("a policy with a resource twice", "twice", |d| {
        let again = d.organizations[0].policies[0].resources[0];
        d.organizations[0].policies[0].resources.insert(0, again);
    }),
    ("a PoP nowhere", "PoP", |d| d.pops[0].address = "0.0.0.0:443".into()),
    ("a PoP without a port", "PoP", |d| d.pops[0].address = "pop.example.com".into()),
    ("a token that may do nothing", "no scope", |d| d.organizations[0].tokens[0].scopes.clear()),
    ("a key used too often", "used 3 of 2", |d| d.organizations[0].enrolment_keys[0].uses = 3),
    ("a key of another organization", "not of this organization", |d| {
        d.organizations[0].enrolment_keys[0].organization = Some(d.organizations[1].organization.id);
    }),
    ("a connector's key of the installation", "not one of the installation", |d| {
        let key = d.organizations[0].enrolment_keys.remove(0);
        d.enrolment_keys.push(key);
    }),
];

#[test]
fn every_bad_snapshot_is_refused_with_its_reason_by_the_builder() {
    assert!(BAD_DATASETS.len() >= 30);
    for (what, reason, damage) in BAD_DATASETS {
        let mut bad = dataset(8);
        damage(&mut bad);
        let refused = Snapshot::new(bad, SnapshotSource::Database, WALL, INSTALLATION).unwrap_err();
        assert!(refused.to_string().contains(reason), "{what}: {refused}");
        assert_eq!(refused.label(), "value", "{what}");
    }
    let foreign =
        Snapshot::new(dataset(8), SnapshotSource::Database, WALL, InstallationId::from_bytes([2; 16]));
    assert_eq!(foreign.unwrap_err().label(), "foreign");
}

/// Whole copies with a correct check sum, around what is damaged.
fn sealed(body: &[u8]) -> Vec<u8> {
    [&trust::sha256(&[body])[..], body].concat()
}

fn bad_copies() -> Vec<(String, Vec<u8>)> {
    let whole = copy::encoded(&good(8));
    let body = &whole[32..];
    let text = std::str::from_utf8(body).unwrap();
    let mut flipped = whole.clone();
    flipped[5000] ^= 1;
    let mut bad: Vec<(String, Vec<u8>)> = vec![
        ("empty".into(), vec![]),
        ("shorter than its check sum".into(), whole[..31].to_vec()),
        ("a check sum of nothing".into(), sealed(b"")),
        ("cut".into(), whole[..whole.len() / 2].to_vec()),
        ("one byte short".into(), whole[..whole.len() - 1].to_vec()),
        ("one byte long".into(), [&whole[..], b" "].concat()),
        ("a flipped bit".into(), flipped),
        ("zeros".into(), vec![0; whole.len()]),
        ("no JSON".into(), sealed(b"hello")),
        ("a list".into(), sealed(b"[]")),
        ("null".into(), sealed(b"null")),
        ("cut and sealed again".into(), sealed(&body[..body.len() / 2])),
        ("twice in one file".into(), sealed(&[body, body].concat())),
        ("a newer format".into(), sealed(text.replacen("\"format\":2", "\"format\":3", 1).as_bytes())),
        ("without its PoPs".into(), sealed(text.replace("\"pops\"", "\"stops\"").as_bytes())),
        ("with an id of another kind".into(), sealed(text.replace("\"site-", "\"grp-").as_bytes())),
        ("with a number as name".into(), sealed(text.replace("\"hamburg\"", "7").as_bytes())),
        ("of another installation".into(), {
            let mut other = dataset(8);
            other.installation.id = InstallationId::from_bytes([3; 16]);
            copy::encoded(&unjudged(other))
        }),
    ];
    bad.extend(BAD_DATASETS.iter().map(|(what, _, damage)| {
        let mut bad = dataset(8);
        damage(&mut bad);
        ((*what).to_owned(), copy::encoded(&unjudged(bad)))
    }));
    bad
}

#[tokio::test]
async fn every_bad_copy_on_disk_leaves_the_generation_before_in_use_and_is_counted() {
    for (what, bytes) in bad_copies() {
        let scratch = tempfile::tempdir().unwrap();
        let directory = state(scratch.path());
        directory.write_generation("snapshot", &copy::encoded(&good(7))).unwrap();
        directory.write_generation("snapshot", &bytes).unwrap();
        let opened =
            Snapshots::open(Arc::clone(&directory), INSTALLATION, gone(), &Replicas::open(&directory, &[]))
                .await;
        let snapshots = opened.unwrap_or_else(|error| panic!("{what}: {error}")).snapshots;
        assert_eq!(snapshots.get().dataset, dataset(7), "{what}");
        let alarms = snapshots.alarms();
        // The bad copy, and the database that is not there.
        assert_eq!(alarms.counts.values().sum::<u64>(), 2, "{what}: {alarms:?}");
        drop(snapshots);
        // Alone it is refused: there is nothing to go on from.
        directory.remove("snapshot.previous").unwrap();
        let refused =
            Snapshots::open(Arc::clone(&directory), INSTALLATION, gone(), &Replicas::open(&directory, &[]))
                .await;
        assert!(matches!(refused.err(), Some(SnapshotError::Nothing(_))), "{what}");
    }
}

#[test]
fn the_same_content_gives_the_same_bytes() {
    assert_eq!(copy::body(&dataset(7)), copy::body(&dataset(7).clone()));
    assert_eq!(copy::encoded(&good(7)), copy::encoded(&good(7)));
    let back = copy::decode(&copy::encoded(&good(7)), INSTALLATION).unwrap();
    assert_eq!(copy::body(&back.dataset), copy::body(&dataset(7)));
}

#[test]
fn a_copy_of_the_first_format_is_still_read() {
    let text = String::from_utf8(copy::encoded(&good(7))[32..].to_vec()).unwrap();
    let old =
        text.replacen("\"format\":2,", "", 1).replace(",\"shrink_version\":0,\"old_grants_end_ms\":0", "");
    assert!(!old.contains("shrink_version") && !old.contains("format"));
    assert_eq!(copy::decode(&sealed(old.as_bytes()), INSTALLATION).unwrap().dataset, dataset(7));
}

#[test]
fn what_is_older_other_or_suddenly_small_is_not_taken() {
    let held = dataset(7);
    let served = Served::of(&held);
    let refused = |new: Dataset| {
        let snapshot = Snapshot::new(new, SnapshotSource::Database, WALL, INSTALLATION).unwrap();
        judge(&snapshot, Some(&held), Some(&served)).err().map(|error| error.label())
    };
    assert_eq!(refused(dataset(7)), None);
    assert_eq!(refused(dataset(8)), None);
    assert_eq!(refused(dataset(6)), Some("restored"));
    let mut one_back = dataset(8);
    one_back.organizations[1].organization.version.version = 6;
    assert_eq!(refused(one_back), Some("restored"));
    let mut one_back = dataset(8);
    one_back.organizations[1].organization.version.version = 6;
    let said = served.newer_than(&one_back).unwrap();
    assert!(said.starts_with("version 1.6 of org-") && said.ends_with(" where 1.7 was served"), "{said}");
    let mut other = dataset(7);
    other.organizations[0].sites[0].name = "bremen".into();
    assert_eq!(refused(other), Some("diverged"));
    let mut other = dataset(7);
    other.pops[0].region = "us".into();
    assert_eq!(refused(other), Some("diverged"));
    let mut lost = dataset(8);
    lost.organizations.remove(1);
    assert_eq!(refused(lost), Some("restored"), "organizations are never removed");
    // Served by this directory, whatever the copy says.
    let newer = Served::of(&dataset(9));
    let snapshot = good(8);
    assert_eq!(judge(&snapshot, None, Some(&newer)).unwrap_err().label(), "restored");
}

#[tokio::test]
async fn a_start_does_not_push_the_generation_before_out() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = state(scratch.path());
    let path = scratch.path().join("t.db");
    let store = Store::open(&path, Opening::CreateIfMissing).await.unwrap();
    let data = organization(1, 1);
    let installation = dataset(1).installation;
    store.bootstrap(&installation, &data.organization, "test").await.unwrap();
    let open = async || {
        Snapshots::open(
            Arc::clone(&directory),
            INSTALLATION,
            Ok(store.clone()),
            &Replicas::open(&directory, &[]),
        )
        .await
        .unwrap()
    };
    open().await;
    let mut change = store.change(Scope::Installation, "test", 1).await.unwrap();
    change.rename_organization(data.organization.id, "renamed").await.unwrap();
    change.commit("rename", "organization", "{}").await.unwrap();
    for _ in 0..3 {
        assert!(open().await.refused.is_none());
    }
    let names: Vec<_> = copy::read(&directory, INSTALLATION)
        .into_iter()
        .map(|copy| copy.unwrap().dataset.organizations[0].organization.name.clone())
        .collect();
    assert_eq!(names, ["renamed", "organization 1"]);
}

#[test]
fn a_large_shrink_needs_a_word_and_many_small_changes_do_not() {
    let held = dataset(7);
    let without = |count: usize, version: u64, allowed: u64| {
        let mut new = dataset(version);
        for data in &mut new.organizations {
            data.organization.shrink_version = allowed;
        }
        let users = &mut new.organizations[0];
        users.memberships.truncate(60 - count);
        let snapshot = Snapshot::new(new, SnapshotSource::Database, WALL, INSTALLATION).unwrap();
        judge(&snapshot, Some(&held), None).err().map(|error| error.to_string())
    };
    assert_eq!(without(10, 8, 0), None);
    assert_eq!(without(12, 8, 0), None, "a fifth");
    let refused = without(13, 8, 0).unwrap();
    assert!(refused.contains("13 of 60 memberships") && refused.contains("--allow-shrink"), "{refused}");
    assert!(without(60, 8, 0).is_some());
    assert_eq!(without(60, 8, 8), None, "somebody allowed it");
    assert!(without(60, 9, 7).is_some(), "what was allowed before is no word for this");
    assert_eq!(without(60, 13, 0), None, "six changes of ten");
    let mut restored = dataset(1);
    restored.installation.version.incarnation = 2;
    for data in &mut restored.organizations {
        data.organization.version.incarnation = 2;
        data.memberships.clear();
    }
    let snapshot = Snapshot::new(restored, SnapshotSource::Database, WALL, INSTALLATION).unwrap();
    judge(&snapshot, Some(&held), Some(&Served::of(&held))).unwrap();
}

#[tokio::test]
async fn a_version_that_ended_the_process_twice_is_not_tried_again_and_the_one_before_is_used() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = state(scratch.path());
    directory.write_generation("snapshot", &copy::encoded(&good(7))).unwrap();
    directory.write_generation("snapshot", &copy::encoded(&good(8))).unwrap();
    let digest = Digest::of(&dataset(8));
    let open = async || {
        Snapshots::open(Arc::clone(&directory), INSTALLATION, gone(), &Replicas::open(&directory, &[]))
            .await
            .unwrap()
            .snapshots
    };
    // The process ends in the middle of a try: the note is there, and nothing behind it.
    Memory::open(&directory).begin(&directory, &digest).unwrap();
    assert_eq!(open().await.get().dataset, dataset(8), "once may be anybody's fault");
    for _ in 0..2 {
        Memory::open(&directory).begin(&directory, &digest).unwrap();
    }
    let snapshots = open().await;
    assert_eq!(snapshots.get().dataset, dataset(7));
    assert_eq!(snapshots.alarms().counts["quarantined"], 1);
    // It stays out, and every other version is taken.
    assert_eq!(open().await.get().dataset, dataset(7));
    directory.write_generation("snapshot", &copy::encoded(&good(9))).unwrap();
    assert_eq!(open().await.get().dataset, dataset(9));
}

#[tokio::test]
async fn an_older_generation_is_served_and_the_gate_is_told_what_was_served_before() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = state(scratch.path());
    directory.write_generation("snapshot", &copy::encoded(&good(7))).unwrap();
    Memory::open(&directory).passed(&directory, Served::of(&dataset(8))).unwrap();
    let open =
        Snapshots::open(Arc::clone(&directory), INSTALLATION, gone(), &Replicas::open(&directory, &[]))
            .await
            .unwrap();
    assert_eq!(open.snapshots.get().dataset, dataset(7));
    let gate = Gate::new(
        Arc::clone(&directory),
        crate::strikes::JournalHealth::Whole,
        crate::gate::OldSnapshots::Refuse,
        clock::now(),
    );
    open.snapshots.tell(&gate).await;
    let (snapshot, revocations, heads) = (open.snapshots.get(), RevocationSet::new(), BTreeMap::new());
    let held = crate::gate::Held { snapshot: &snapshot, revocations: &revocations, heads: &heads };
    let refused = gate.check(held, clock::now(), WALL).unwrap_err();
    assert!(refused.to_string().contains("version 1.8"), "{refused}");
}

#[test]
fn a_panic_while_a_version_is_tried_refuses_it_for_good_and_leaves_the_process_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let directory = state(scratch.path());
    let mut memory = Memory::open(&directory);
    let mut poisonous = dataset(8);
    poisonous.organizations[1].organization.name = "panics".into();
    let snapshot = || Snapshot::new(poisonous.clone(), SnapshotSource::Database, WALL, INSTALLATION).unwrap();
    let refused = trying(&directory, &mut memory, snapshot()).unwrap_err();
    assert_eq!((refused.label(), refused.to_string().contains("a test says so")), ("panicked", true));
    assert_eq!(trying(&directory, &mut memory, snapshot()).unwrap_err().label(), "quarantined");
    let mut memory = Memory::open(&directory);
    assert_eq!(trying(&directory, &mut memory, snapshot()).unwrap_err().label(), "quarantined");
    assert!(memory.served().is_none(), "it was never served");
}
