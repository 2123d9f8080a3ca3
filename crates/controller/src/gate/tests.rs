use super::*;
use crate::clock;
use crate::snapshot::SnapshotSource;
use store::{Dataset, Installation, Organization, OrganizationData, Version};
use trust::{Role, RootHash};
use wire::{EnrolmentKeyId, InstallationId, OrganizationId};

const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const CONTROLLER: ControllerId = ControllerId::from_bytes([3; 16]);
const A: PopId = PopId::from_bytes([10; 16]);
const B: PopId = PopId::from_bytes([11; 16]);
const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    directory: tempfile::TempDir,
    snapshot: Snapshot,
    heads: BTreeMap<ControllerId, Head>,
    started: Instant,
}

fn snapshot(pops: &[PopId], version: Version) -> Snapshot {
    let pops = pops.iter().map(|id| store::Pop {
        id: *id,
        name: id.to_string(),
        region: "eu".into(),
        zone: "a".into(),
        address: "127.0.0.1:443".into(),
        identity_key: [id.as_bytes()[0]; 32],
        generation: 1,
        enrolled_by: EnrolmentKeyId::from_bytes([1; 16]),
        created_ms: 1,
    });
    let organization = Organization {
        id: ORGANIZATION,
        name: "default".into(),
        version,
        grant_life_ms: 3_600_000,
        renew_after_ms: 60_000,
        shrink_version: 0,
        old_grants_end_ms: 0,
        approve_devices: false,
        audit_retention_days: 0,
        flow_retention_days: 0,
        sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
        closed_ms: 0,
        created_ms: 1,
    };
    let data = OrganizationData {
        organization,
        sites: vec![],
        connectors: vec![],
        resources: vec![],
        groups: vec![],
        users: vec![],
        service_accounts: vec![],
        memberships: vec![],
        devices: vec![],
        policies: vec![],
        tokens: vec![],
        enrolment_keys: vec![],
        sign_in: Default::default(),
    };
    let dataset = Dataset {
        installation: Installation { id: INSTALLATION, version, created_ms: 1 },
        organizations: vec![data],
        pops: pops.collect(),
        enrolment_keys: vec![],
        administrators: vec![],
        one_time_links: vec![],
    };
    Snapshot::new(dataset, SnapshotSource::Database, WALL, INSTALLATION).unwrap()
}

impl World {
    fn new(pops: &[PopId]) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            snapshot: snapshot(pops, Version { incarnation: 1, version: 7 }),
            heads: BTreeMap::new(),
            started: clock::now(),
        }
    }

    fn state(&self) -> Arc<StateDir> {
        let about = state::About::new(INSTALLATION, Role::Controller, RootHash::from_bytes([1; 32]));
        Arc::new(StateDir::create(self.directory.path(), &about).unwrap())
    }

    fn gate(&self, last_beacon: Option<UnixMs>, journal: JournalHealth, old: OldSnapshots) -> Gate {
        let state = self.state();
        if let Some(at) = last_beacon {
            state.write(LAST_BEACON, at.as_millis().to_string().as_bytes()).unwrap();
        }
        Gate::new(state, journal, old, self.started)
    }

    fn check(&self, gate: &Gate, after: Duration) -> Result<(), Withheld> {
        let revocations = RevocationSet::new();
        let held = Held { snapshot: &self.snapshot, revocations: &revocations, heads: &self.heads };
        gate.check(held, self.started + after, WALL)
    }
}

const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(1);
const LATE: Duration = Duration::from_secs(4);

#[test]
fn a_new_installation_issues_at_once() {
    let world = World::new(&[]);
    let gate = world.gate(None, JournalHealth::Incomplete, OldSnapshots::Refuse);
    assert_eq!(world.check(&gate, NOW), Ok(()));
}

#[test]
fn nothing_is_issued_before_the_union_of_every_pop_that_answers_was_taken() {
    let world = World::new(&[A, B]);
    let gate = world.gate(Some(WALL), JournalHealth::Whole, OldSnapshots::Refuse);
    assert!(matches!(world.check(&gate, NOW), Err(Withheld::Starting { pops: 2, .. })));
    gate.reached(A, world.started + SOON);
    gate.taken(A);
    assert!(matches!(world.check(&gate, SOON), Err(Withheld::Starting { pops: 1, .. })));
    // The second is reached late: it is waited for all the same.
    gate.reached(B, world.started + Duration::from_millis(2900));
    assert!(matches!(world.check(&gate, LATE), Err(Withheld::Starting { pops: 1, .. })));
    gate.taken(B);
    assert_eq!(world.check(&gate, LATE), Ok(()));
}

#[test]
fn a_pop_that_is_dead_or_says_nothing_is_waited_for_a_few_seconds_only() {
    let world = World::new(&[A, B]);
    let gate = world.gate(Some(WALL.minus(10 * DAY)), JournalHealth::Whole, OldSnapshots::Refuse);
    gate.taken(A);
    gate.reached(B, world.started + SOON);
    let refused = world.check(&gate, Duration::from_millis(3900)).unwrap_err();
    assert!(refused.retry_after() < Duration::from_secs(1), "{refused}");
    assert!(refused.to_string().contains("try again in 1 s"), "{refused}");
    // The first one's union is enough, however old the snapshot is.
    assert_eq!(world.check(&gate, Duration::from_secs(5)), Ok(()));
    gate.lost(A);
    assert_eq!(world.check(&gate, Duration::from_secs(6)), Ok(()));
}

#[test]
fn alone_it_issues_from_a_snapshot_of_a_day_and_from_an_older_one_only_when_told_to() {
    let world = World::new(&[A]);
    for (age, issues) in
        [(NOW, true), (DAY, true), (DAY + Duration::from_millis(1), false), (30 * DAY, false)]
    {
        let gate = world.gate(Some(WALL.minus(age)), JournalHealth::Whole, OldSnapshots::Refuse);
        assert!(matches!(world.check(&gate, SOON), Err(Withheld::Starting { .. })));
        assert_eq!(world.check(&gate, LATE).is_ok(), issues, "{age:?}");
        drop(gate);
    }
    let gate = world.gate(Some(WALL.minus(30 * DAY)), JournalHealth::Whole, OldSnapshots::Refuse);
    let refused = world.check(&gate, LATE).unwrap_err();
    assert!(refused.to_string().contains("last in use 720 h ago"), "{refused}");
    assert!(refused.to_string().contains("--dangerous-issue-from-old-snapshot"), "{refused}");
    // A PoP that comes back later ends it.
    gate.taken(A);
    assert_eq!(world.check(&gate, LATE), Ok(()));
    drop(gate);
    let gate = world.gate(None, JournalHealth::Whole, OldSnapshots::DangerouslyIssue);
    assert!(world.check(&gate, SOON).is_err(), "also then PoPs are asked first");
    assert_eq!(world.check(&gate, LATE), Ok(()));
}

#[test]
fn alone_it_issues_nothing_from_a_journal_or_a_time_that_lost_something() {
    let world = World::new(&[A]);
    let gate = world.gate(Some(WALL), JournalHealth::Incomplete, OldSnapshots::Refuse);
    assert!(matches!(world.check(&gate, LATE), Err(Withheld::Incomplete(_))));
    gate.taken(A);
    assert_eq!(world.check(&gate, LATE), Ok(()));
    drop(gate);
    for damage in [&b""[..], b"\xff", b"yesterday"] {
        world.state().write(LAST_BEACON, damage).unwrap();
        let gate = world.gate(None, JournalHealth::Whole, OldSnapshots::Refuse);
        assert!(matches!(world.check(&gate, LATE), Err(Withheld::Incomplete(_))));
    }
}

fn beacon(seq: u64, version: SliceVersion) -> Beacon {
    Beacon {
        installation: INSTALLATION,
        controller: CONTROLLER,
        time: WALL,
        versions: [(OrganizationTag::of(ORGANIZATION), version)].into(),
        heads: [(CONTROLLER, Head { seq, hash: [7; 32] })].into(),
        nonce: None,
        ext: None,
    }
}

#[test]
fn one_that_sees_a_newer_head_than_its_own_refuses_until_it_has_it() {
    let mut world = World::new(&[A]);
    let gate = world.gate(Some(WALL), JournalHealth::Whole, OldSnapshots::Refuse);
    gate.observe(&beacon(5, SliceVersion { incarnation: 1, version: 7 }));
    gate.taken(A);
    let refused = world.check(&gate, NOW).unwrap_err();
    assert!(matches!(refused, Withheld::OlderStrikes { seen: 5, held: 0, .. }), "{refused}");
    world.heads.insert(CONTROLLER, Head { seq: 5, hash: [7; 32] });
    assert_eq!(world.check(&gate, NOW), Ok(()));
}

#[test]
fn one_that_sees_a_newer_configuration_refuses_until_it_has_it_or_a_restore_was_accepted() {
    let mut world = World::new(&[A]);
    let gate = world.gate(Some(WALL), JournalHealth::Whole, OldSnapshots::Refuse);
    gate.taken(A);
    assert_eq!(world.check(&gate, NOW), Ok(()));
    gate.observe(&beacon(0, SliceVersion { incarnation: 1, version: 8 }));
    let refused = world.check(&gate, NOW).unwrap_err();
    assert!(refused.to_string().contains("version 1.8"), "{refused}");
    assert_eq!(gate.highest_incarnation(), 1);
    for (version, issues) in [((1, 8), true), ((2, 1), true), ((1, 7), false)] {
        world.snapshot = snapshot(&[A], Version { incarnation: version.0, version: version.1 });
        assert_eq!(world.check(&gate, NOW).is_ok(), issues, "{version:?}");
    }
    // An organization that this controller has never heard of was made after its copy.
    world.snapshot = snapshot(&[A], Version { incarnation: 1, version: 9 });
    let other = OrganizationTag::of(OrganizationId::from_bytes([9; 16]));
    gate.observe_version(other, SliceVersion { incarnation: 1, version: 1 });
    assert!(world.check(&gate, NOW).is_err());
    world.snapshot = snapshot(&[A], Version { incarnation: 2, version: 9 });
    assert_eq!(world.check(&gate, NOW), Ok(()));
}

#[test]
fn the_time_of_a_beacon_is_written_when_it_went_out_and_seldom() {
    let world = World::new(&[A]);
    let gate = world.gate(Some(WALL), JournalHealth::Whole, OldSnapshots::Refuse);
    assert_eq!(gate.beaconed(world.started), ToWrite::Nothing, "it does not issue yet");
    gate.taken(A);
    world.check(&gate, NOW).unwrap();
    assert_eq!(gate.beaconed(world.started), ToWrite::LastBeacon);
    assert_eq!(gate.beaconed(world.started + SOON), ToWrite::Nothing);
    assert_eq!(gate.beaconed(world.started + WRITE_EVERY), ToWrite::LastBeacon);
    gate.write_last_beacon(WALL.plus(DAY)).unwrap();
    drop(gate);
    let gate = Gate::new(world.state(), JournalHealth::Whole, OldSnapshots::Refuse, world.started);
    assert_eq!(gate.last_beacon, Ok(Some(WALL.plus(DAY))));
}

#[test]
fn what_a_pop_has_seen_is_remembered_when_the_pop_has_forgotten_it() {
    let world = World::new(&[A]);
    let gate = world.gate(Some(WALL), JournalHealth::Whole, OldSnapshots::Refuse);
    gate.observe(&beacon(5, SliceVersion { incarnation: 1, version: 9 }));
    drop(gate);
    // Started again: the PoP has this controller's own, older beacon by now.
    let mut world = world;
    let gate = Gate::new(world.state(), JournalHealth::Whole, OldSnapshots::Refuse, world.started);
    gate.observe(&beacon(0, SliceVersion { incarnation: 1, version: 7 }));
    gate.taken(A);
    assert!(matches!(world.check(&gate, NOW), Err(Withheld::OlderStrikes { seen: 5, .. })));
    world.heads.insert(CONTROLLER, Head { seq: 5, hash: [7; 32] });
    assert!(matches!(world.check(&gate, NOW), Err(Withheld::OlderSnapshot { .. })));
    world.heads.clear();
    drop(gate);
    // What is lost for good needs the dangerous word once, and not at each start.
    for old in [OldSnapshots::DangerouslyIssue, OldSnapshots::Refuse] {
        let gate = Gate::new(world.state(), JournalHealth::Whole, old, world.started);
        gate.taken(A);
        assert_eq!(world.check(&gate, NOW), Ok(()));
    }
}
