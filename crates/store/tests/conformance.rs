//! What every database behind the store interface must do, one behaviour a test.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures how long it waited"
)]

use std::time::{Duration, Instant};
use store::*;
use wire::*;

const NOW: u64 = 1_800_000_000_000;

struct Fixture {
    store: Store,
    organization: OrganizationId,
    directory: tempfile::TempDir,
}

fn organization(seed: u8, name: &str) -> Organization {
    Organization {
        id: OrganizationId::from_bytes([seed; 16]),
        name: name.into(),
        version: Version { incarnation: 1, version: 1 },
        grant_life_ms: 86_400_000,
        shrink_version: 0,
        old_grants_end_ms: 0,
        renew_after_ms: 14_400_000,
        created_ms: NOW,
    }
}

async fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("t.db"), Opening::CreateIfMissing).await.unwrap();
    let first = organization(1, "default");
    let installation = Installation {
        id: InstallationId::from_bytes([9; 16]),
        version: Version { incarnation: 1, version: 1 },
        created_ms: NOW,
    };
    store.bootstrap(&installation, &first, "test").await.unwrap();
    Fixture { store, organization: first.id, directory }
}

impl Fixture {
    async fn change(&self) -> Change {
        self.store.change(Scope::Organization(self.organization), "test", NOW).await.unwrap()
    }

    async fn data(&self) -> OrganizationData {
        let dataset = self.store.load().await.unwrap().unwrap();
        dataset.organizations.into_iter().find(|data| data.organization.id == self.organization).unwrap()
    }
}

fn site(seed: u8, name: &str) -> Site {
    Site {
        id: SiteId::from_bytes([seed; 16]),
        name: name.into(),
        prefixes: vec!["10.0.0.0/8".into()],
        regions: vec!["eu".into()],
        created_ms: NOW,
    }
}

fn user(seed: u8) -> User {
    User {
        id: UserId::from_bytes([seed; 16]),
        name: format!("user {seed}"),
        email: format!("u{seed}@example.com"),
        generation: 1,
        created_ms: NOW,
    }
}

fn group(seed: u8) -> Group {
    Group { id: GroupId::from_bytes([seed; 16]), name: format!("group {seed}"), created_ms: NOW }
}

fn resource(seed: u8, site: SiteId) -> Resource {
    Resource {
        id: ResourceId::from_bytes([seed; 16]),
        site,
        name: format!("resource {seed}"),
        alias: None,
        address: "10.1.2.3".into(),
        ports: vec![Ports::tcp(443, 443)],
        mode: ResourceMode::Strict,
        created_ms: NOW,
    }
}

fn device_key(seed: u8, owner: Member, cap: u64) -> EnrolmentKey {
    EnrolmentKey {
        id: EnrolmentKeyId::from_bytes([seed; 16]),
        organization: Some(OrganizationId::from_bytes([1; 16])),
        name: "laptop".into(),
        target: EnrolmentTarget::Device { owner },
        secret_hash: SecretHash::from_digest([seed; 32]),
        cap,
        uses: 0,
        expires_ms: NOW + 1000,
        created_ms: NOW,
    }
}

#[tokio::test]
async fn a_change_raises_the_version_by_one_and_leaves_an_audit_row() {
    let f = fixture().await;
    let before = f.data().await.organization.version;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    let version = change.commit("create", "site", "{}").await.unwrap();
    assert_eq!(version.version, before.version + 1);
    let data = f.data().await;
    assert_eq!(data.organization.version, version);
    assert_eq!(data.sites, vec![site(1, "hamburg")]);
    let page = AuditPage { before_ms: NOW + 1, limit: 10 };
    let audit = f.store.audit(AuditOf::OrganizationAndInstallation(f.organization), page).await.unwrap();
    assert!(audit.iter().any(|entry| entry.version == version && entry.actor == "test"));
}

#[tokio::test]
async fn a_change_that_is_dropped_never_happened() {
    let f = fixture().await;
    let before = f.data().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    drop(change);
    assert_eq!(f.data().await, before);
}

#[tokio::test]
async fn a_taken_name_is_a_conflict_that_names_the_field() {
    let f = fixture().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    let error = change.insert_site(&site(2, "hamburg")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Conflict { kind: "site", field } if field == "name"), "{error}");
}

#[tokio::test]
async fn ports_of_every_protocol_come_back_as_they_were_and_those_of_tcp_are_written_as_ever() {
    let f = fixture().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "here")).await.unwrap();
    let mut resource = resource(2, SiteId::from_bytes([1; 16]));
    resource.ports = vec![
        Ports::tcp(443, 443),
        Ports { protocol: PortProtocol::Udp, first: 53, last: 54 },
        Ports { protocol: PortProtocol::Icmp, first: 0, last: 0 },
    ];
    change.insert_resource(&resource).await.unwrap();
    change.commit("create", "resource", "{}").await.unwrap();
    assert_eq!(f.data().await.resources, [resource.clone()]);
    let text = serde_json::to_string(&resource.ports).unwrap();
    assert_eq!(
        text,
        r#"[{"first":443,"last":443},{"protocol":"udp","range":[53,54]},{"protocol":"icmp","range":[0,0]}]"#
    );
    let mixed = r#"{"first":53,"last":53,"protocol":"udp"}"#;
    assert!(serde_json::from_str::<Ports>(mixed).is_err(), "read as TCP by a reader that looks at half");
}

#[tokio::test]
async fn two_resources_without_an_alias_do_not_conflict() {
    let f = fixture().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    for seed in [1, 2] {
        change.insert_resource(&resource(seed, SiteId::from_bytes([1; 16]))).await.unwrap();
    }
    change.commit("create", "resources", "{}").await.unwrap();
    assert_eq!(f.data().await.resources.len(), 2);
}

#[tokio::test]
async fn nothing_refers_to_an_object_of_another_organization() {
    let f = fixture().await;
    let other = organization(2, "other");
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_organization(&other).await.unwrap();
    change.commit("create", "organization", "{}").await.unwrap();
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    change.insert_user(&user(1)).await.unwrap();
    change.commit("create", "several", "{}").await.unwrap();

    let mut change = f.store.change(Scope::Organization(other.id), "test", NOW).await.unwrap();
    let foreign = SiteId::from_bytes([1; 16]);
    assert!(matches!(
        change.insert_resource(&resource(1, foreign)).await,
        Err(StoreError::NotFound { kind: "site", .. })
    ));
    assert!(matches!(change.delete_site(foreign).await, Err(StoreError::NotFound { .. })));
    let member = Member::User(UserId::from_bytes([1; 16]));
    assert!(matches!(
        change.add_member(GroupId::from_bytes([1; 16]), member, 0).await,
        Err(StoreError::NotFound { kind: "group", .. })
    ));
    assert!(matches!(change.delete_member(member).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn joining_a_group_again_raises_the_generation_and_staying_does_not() {
    let f = fixture().await;
    let (group_id, member) = (GroupId::from_bytes([1; 16]), Member::User(UserId::from_bytes([1; 16])));
    let mut change = f.change().await;
    change.insert_group(&group(1)).await.unwrap();
    change.insert_user(&user(1)).await.unwrap();
    assert_eq!(change.add_member(group_id, member, 0).await.unwrap(), 1);
    assert_eq!(change.add_member(group_id, member, 0).await.unwrap(), 1);
    change.remove_member(group_id, member).await.unwrap();
    assert!(matches!(change.remove_member(group_id, member).await, Err(StoreError::NotFound { .. })));
    assert_eq!(change.add_member(group_id, member, 0).await.unwrap(), 2);
    change.commit("members", "group", "{}").await.unwrap();
    assert_eq!(f.data().await.memberships, vec![Membership { group: group_id, member, generation: 2 }]);
}

#[tokio::test]
async fn an_enrolment_key_works_as_often_as_its_cap_and_not_after_its_expiry() {
    let f = fixture().await;
    let owner = Member::User(UserId::from_bytes([1; 16]));
    let id = EnrolmentKeyId::from_bytes([1; 16]);
    let mut change = f.change().await;
    change.insert_user(&user(1)).await.unwrap();
    change.insert_enrolment_key(&device_key(1, owner, 2)).await.unwrap();
    change.use_enrolment_key(id).await.unwrap();
    change.use_enrolment_key(id).await.unwrap();
    let spent = change.use_enrolment_key(id).await.unwrap_err();
    assert!(spent.to_string().contains("used up"), "{spent}");
    change.insert_enrolment_key(&device_key(2, owner, 2)).await.unwrap();
    change.commit("keys", "keys", "{}").await.unwrap();
    let scope = Scope::Organization(f.organization);
    let mut late = f.store.change(scope, "test", NOW + 1000).await.unwrap();
    let expired = late.use_enrolment_key(EnrolmentKeyId::from_bytes([2; 16])).await.unwrap_err();
    assert!(expired.to_string().contains("expired"), "{expired}");
}

#[tokio::test]
async fn a_one_time_link_opens_once() {
    let f = fixture().await;
    let secret_hash = SecretHash::from_digest([5; 32]);
    let link = OneTimeLink { secret_hash, purpose: "first-owner".into(), expires_ms: NOW + 1 };
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_one_time_link(&link).await.unwrap();
    assert!(change.take_one_time_link(secret_hash, "something else").await.is_err());
    change.take_one_time_link(secret_hash, "first-owner").await.unwrap();
    assert!(change.take_one_time_link(secret_hash, "first-owner").await.is_err());
}

#[tokio::test]
async fn removing_a_person_removes_devices_memberships_and_keys() {
    let f = fixture().await;
    let owner = Member::User(UserId::from_bytes([1; 16]));
    let mut change = f.change().await;
    change.insert_user(&user(1)).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    change.add_member(GroupId::from_bytes([1; 16]), owner, 0).await.unwrap();
    change.insert_enrolment_key(&device_key(1, owner, 1)).await.unwrap();
    let device = Device {
        id: DeviceId::from_bytes([1; 16]),
        owner,
        name: "laptop".into(),
        identity_key: [7; 32],
        generation: 1,
        enrolled_by: EnrolmentKeyId::from_bytes([1; 16]),
        created_ms: NOW,
    };
    change.insert_device(&device).await.unwrap();
    change.commit("create", "person", "{}").await.unwrap();
    assert_eq!(f.data().await.devices, vec![device]);
    let mut change = f.change().await;
    change.delete_member(owner).await.unwrap();
    change.commit("delete", "person", "{}").await.unwrap();
    let data = f.data().await;
    assert!(data.users.is_empty() && data.devices.is_empty() && data.memberships.is_empty());
    assert!(data.enrolment_keys.is_empty());
}

#[tokio::test]
async fn a_site_with_something_in_it_is_not_removed() {
    let f = fixture().await;
    let mut change = f.change().await;
    let site = site(1, "hamburg");
    change.insert_site(&site).await.unwrap();
    change.insert_resource(&resource(1, site.id)).await.unwrap();
    assert!(matches!(change.delete_site(site.id).await, Err(StoreError::Reference { .. })));
}

#[tokio::test]
async fn a_policy_loses_a_group_and_a_resource_that_are_removed() {
    let f = fixture().await;
    let mut change = f.change().await;
    let site = site(1, "hamburg");
    change.insert_site(&site).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    change.insert_resource(&resource(1, site.id)).await.unwrap();
    let policy = Policy {
        id: PolicyId::from_bytes([1; 16]),
        name: "p".into(),
        groups: vec![GroupId::from_bytes([1; 16])],
        resources: vec![ResourceId::from_bytes([1; 16])],
        created_ms: NOW,
    };
    change.insert_policy(&policy).await.unwrap();
    change.commit("create", "policy", "{}").await.unwrap();
    assert_eq!(f.data().await.policies, vec![policy]);
    let mut change = f.change().await;
    change.delete_group(GroupId::from_bytes([1; 16])).await.unwrap();
    change.delete_resource(ResourceId::from_bytes([1; 16])).await.unwrap();
    change.commit("delete", "both", "{}").await.unwrap();
    let left = &f.data().await.policies[0];
    assert!(left.groups.is_empty() && left.resources.is_empty());
}

#[tokio::test]
async fn the_database_counts_its_own_statements_and_rows_and_idling_costs_none() {
    let f = fixture().await;
    let before = f.store.database_counters();
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.commit("create", "site", "{}").await.unwrap();
    let after = f.store.database_counters();
    // BEGIN, version row, site, audit row, COMMIT; three rows.
    assert_eq!(after.statements - before.statements, 5);
    assert_eq!(after.rows_written - before.rows_written, 3);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(f.store.database_counters(), after);
    f.store.load().await.unwrap();
    assert!(f.store.database_counters().statements > after.statements);
    assert_eq!(f.store.database_counters().rows_written, after.rows_written);
}

#[tokio::test]
async fn a_lock_held_by_another_process_is_said_within_the_deadline_and_reads_go_on() {
    let f = fixture().await;
    let other = Store::open(&f.directory.path().join("t.db"), Opening::MustExist).await.unwrap();
    let held = other.change(Scope::Organization(f.organization), "other", NOW).await.unwrap();
    let started = Instant::now();
    let refused = f.store.change(Scope::Organization(f.organization), "test", NOW).await;
    assert!(matches!(refused.err(), Some(StoreError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(f.store.load().await.unwrap().is_some());
    drop(held);
}

#[tokio::test]
async fn a_database_that_was_removed_takes_no_write_and_gives_no_empty_answer() {
    let f = fixture().await;
    std::fs::remove_file(f.directory.path().join("t.db")).unwrap();
    assert!(matches!(
        f.store.change(Scope::Installation, "test", NOW).await.err(),
        Some(StoreError::Unavailable(_))
    ));
    assert!(matches!(f.store.load().await, Err(StoreError::Unavailable(_))));
    let path = f.directory.path().join("t.db");
    assert!(matches!(Store::open(&path, Opening::MustExist).await.err(), Some(StoreError::Missing(_))));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_value_that_does_not_parse_is_an_error_and_not_an_absence() {
    let f = fixture().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.commit("create", "site", "{}").await.unwrap();
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(f.directory.path().join("t.db"));
    let mut raw: sqlx::SqliteConnection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    sqlx::query("UPDATE sites SET prefixes = '[\"10.0'").execute(&mut raw).await.unwrap();
    assert!(matches!(f.store.load().await, Err(StoreError::Corrupt { column: "prefixes", .. })));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_said_to_be_unusable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.db");
    std::fs::write(&path, vec![b'x'; 8192]).unwrap();
    assert!(matches!(Store::open(&path, Opening::MustExist).await.err(), Some(StoreError::Unavailable(_))));
}

#[tokio::test]
async fn raising_the_incarnation_orders_every_later_state_behind_every_earlier_one() {
    let f = fixture().await;
    let before = f.data().await.organization.version;
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.raise_incarnation(before.incarnation + 1).await.unwrap();
    change.commit("restore", "installation", "{}").await.unwrap();
    assert!(f.data().await.organization.version > before);
}

#[tokio::test]
async fn giving_access_back_raises_the_generation_above_what_is_struck_whatever_the_row_says() {
    let f = fixture().await;
    let (user_id, group_id) = (UserId::from_bytes([1; 16]), GroupId::from_bytes([1; 16]));
    let member = Member::User(user_id);
    let mut change = f.change().await;
    change.insert_user(&user(1)).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    // A restored row knows of generation 1 only; 4 was struck meanwhile.
    change.raise_generation(&Subject::User(user_id), 4).await.unwrap();
    assert_eq!(change.add_member(group_id, member, 0).await.unwrap(), 1);
    // Struck while its row could not be removed: it is present, and still rises.
    assert_eq!(change.add_member(group_id, member, 1).await.unwrap(), 2);
    assert_eq!(change.add_member(group_id, member, 1).await.unwrap(), 2);
    change.remove_member(group_id, member).await.unwrap();
    assert_eq!(change.add_member(group_id, member, 7).await.unwrap(), 8);
    change.commit("restore", "user", "{}").await.unwrap();
    assert_eq!(f.data().await.users[0].generation, 5);
    let mut change = f.change().await;
    change.raise_generation(&Subject::User(user_id), 2).await.unwrap();
    change.commit("restore", "user", "{}").await.unwrap();
    assert_eq!(f.data().await.users[0].generation, 6);
}

#[tokio::test]
async fn what_happened_outside_is_recorded_once_raises_no_version_and_stays_in_its_organization() {
    let f = fixture().await;
    let other = organization(2, "other");
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_organization(&other).await.unwrap();
    change.commit("create organization", "other", "{}").await.unwrap();
    let before = f.data().await;
    let entry = |event: &str, organization| Happened {
        event: event.into(),
        organization,
        version: before.organization.version,
        at_ms: NOW + 5,
        actor: "local uid 0".into(),
        action: "strike".into(),
        subject: format!("dev-{event}"),
        detail: "{}".into(),
    };
    let entries = [entry("a", Some(f.organization)), entry("b", Some(other.id)), entry("c", None)];
    let struck = |generation| [StruckGeneration { subject: "dev-a".into(), generation }];
    f.store.record(&entries, &struck(3)).await.unwrap();
    f.store.record(&entries, &struck(2)).await.unwrap();
    assert_eq!(f.data().await, before);
    assert_eq!(f.store.struck_generations().await.unwrap(), struck(3));
    let page = AuditPage { before_ms: u64::MAX, limit: 100 };
    let strikes = async |of| {
        let all = f.store.audit(of, page).await.unwrap();
        let own: Vec<_> = all.iter().filter(|e| e.action == "strike").map(|e| e.subject.clone()).collect();
        (own, all.iter().any(|entry| entry.subject == "other"))
    };
    assert_eq!(strikes(AuditOf::Organization(f.organization)).await, (vec!["dev-a".to_owned()], false));
    assert_eq!(strikes(AuditOf::Organization(other.id)).await, (vec!["dev-b".to_owned()], false));
    let (own, installation) = strikes(AuditOf::OrganizationAndInstallation(other.id)).await;
    assert!(installation && own.contains(&"dev-c".to_owned()) && !own.contains(&"dev-a".to_owned()));
}

/// A fixture with rows in every table that the builder reads.
async fn furnished() -> Fixture {
    let f = fixture().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.insert_resource(&resource(1, SiteId::from_bytes([1; 16]))).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    for number in 1..=40 {
        change.insert_user(&user(number)).await.unwrap();
        let member = Member::User(UserId::from_bytes([number; 16]));
        change.add_member(GroupId::from_bytes([1; 16]), member, 0).await.unwrap();
        change.insert_enrolment_key(&device_key(number, member, 2)).await.unwrap();
        let device = Device {
            id: DeviceId::from_bytes([number; 16]),
            owner: member,
            name: "laptop".into(),
            identity_key: [number; 32],
            generation: 1,
            enrolled_by: EnrolmentKeyId::from_bytes([1; 16]),
            created_ms: NOW,
        };
        change.insert_device(&device).await.unwrap();
    }
    let policy = Policy {
        id: PolicyId::from_bytes([1; 16]),
        name: "p".into(),
        groups: vec![GroupId::from_bytes([1; 16])],
        resources: vec![ResourceId::from_bytes([1; 16])],
        created_ms: NOW,
    };
    change.insert_policy(&policy).await.unwrap();
    change.commit("create", "everything", "{}").await.unwrap();
    f
}

#[tokio::test]
async fn a_fault_at_every_read_of_the_builder_is_an_error_and_never_a_smaller_answer() {
    let f = furnished().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(f.directory.path().join("t.db"));
    let options = options.pragma("legacy_alter_table", "ON").foreign_keys(false);
    let mut raw: sqlx::SqliteConnection = sqlx::ConnectOptions::connect(&options).await.unwrap();
    let whole = f.store.load().await.unwrap().unwrap();
    let tables = [
        "installation",
        "pops",
        "enrolment_keys",
        "administrators",
        "one_time_links",
        "organizations",
        "sites",
        "connectors",
        "resources",
        "user_groups",
        "users",
        "service_accounts",
        "memberships",
        "devices",
        "policies",
        "policy_groups",
        "policy_resources",
        "tokens",
    ];
    for table in tables {
        for (from, to) in [(table, "away"), ("away", table)] {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut raw).await.unwrap();
            let loaded = f.store.load().await;
            assert_eq!(loaded.is_err(), to == "away", "{table}: {loaded:?}");
        }
        assert_eq!(f.store.load().await.unwrap().unwrap(), whole, "{table}");
    }
}

#[tokio::test]
async fn a_page_of_the_database_that_rots_is_an_error_or_changes_nothing() {
    let f = furnished().await;
    let whole = f.store.load().await.unwrap().unwrap();
    f.store.close().await;
    let file = std::fs::read(f.directory.path().join("t.db")).unwrap();
    assert!(!f.directory.path().join("t.db-wal").exists(), "everything is in the file");
    let page = usize::from(u16::from_be_bytes([file[16], file[17]]));
    let (mut refused, mut unharmed) = (0, 0);
    for number in 0..file.len() / page {
        for rot in [0x00, 0xFF] {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("t.db");
            let mut bytes = file.clone();
            bytes[number * page..(number + 1) * page].fill(rot);
            std::fs::write(&path, bytes).unwrap();
            let loaded = match Store::open(&path, Opening::MustExist).await {
                Ok(store) => store.load().await,
                Err(error) => Err(error),
            };
            match loaded {
                Ok(Some(dataset)) => {
                    assert_eq!(dataset, whole, "page {number} full of {rot:#x}");
                    unharmed += 1;
                }
                Ok(None) => panic!("page {number} full of {rot:#x}: an empty answer"),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 20 && unharmed > 0, "{refused} refused, {unharmed} unharmed");
}

#[tokio::test]
async fn grants_of_before_are_remembered_when_their_life_is_made_shorter() {
    let f = fixture().await;
    let set = async |life: u64, at: u64| {
        let mut change = f.store.change(Scope::Organization(f.organization), "test", at).await.unwrap();
        change.set_grant_times(f.organization, life, 1).await.unwrap();
        change.commit("set", "times", "{}").await.unwrap();
        f.data().await.organization.old_grants_end_ms
    };
    let hour = 3_600_000;
    set(24 * hour, NOW).await;
    let longer = set(72 * hour, NOW).await;
    assert!(longer < NOW + 72 * hour, "nothing was made shorter");
    assert_eq!(set(hour, NOW + 5).await, NOW + 5 + 72 * hour);
    // Shorter again: those of a minute ago end before those of yesterday.
    assert_eq!(set(hour / 2, NOW + 60_000).await, NOW + 5 + 72 * hour);
}
