//! What every database behind the store interface must do, one behaviour a test, each on both engines.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test fails by panicking, and measures how long it waited"
)]

#[macro_use]
mod fixture;

use fixture::*;
use std::time::{Duration, Instant};
use store::*;
use wire::*;

on_both_engines! {
    a_change_raises_the_version_by_one_and_leaves_an_audit_row,
    a_change_that_is_dropped_never_happened,
    a_taken_name_is_a_conflict_that_names_the_field,
    ports_of_every_protocol_come_back_as_they_were_and_those_of_tcp_are_written_as_ever,
    two_resources_without_an_alias_do_not_conflict,
    nothing_refers_to_an_object_of_another_organization,
    joining_a_group_again_raises_the_generation_and_staying_does_not,
    an_enrolment_key_works_as_often_as_its_cap_and_not_after_its_expiry,
    a_one_time_link_opens_once,
    removing_a_person_removes_devices_memberships_and_keys,
    a_site_with_something_in_it_is_not_removed,
    a_policy_loses_a_group_and_a_resource_that_are_removed,
    the_database_counts_its_own_statements_and_rows_and_idling_costs_none,
    a_lock_held_by_another_process_is_said_within_the_deadline_and_reads_go_on,
    a_value_that_does_not_parse_is_an_error_and_not_an_absence,
    raising_the_incarnation_orders_every_later_state_behind_every_earlier_one,
    giving_access_back_raises_the_generation_above_what_is_struck_whatever_the_row_says,
    what_happened_outside_is_recorded_once_raises_no_version_and_stays_in_its_organization,
    a_fault_at_every_read_of_the_builder_is_an_error_and_never_a_smaller_answer,
    grants_of_before_are_remembered_when_their_life_is_made_shorter,
    a_change_that_met_an_error_of_the_database_stores_nothing_more,
    a_text_that_one_of_the_engines_does_not_take_is_refused_and_no_trouble_of_the_database,
    rows_come_in_the_order_of_their_bytes,
    changes_of_two_programs_at_once_commit_in_the_order_of_their_versions,
    a_database_of_a_newer_build_is_refused_and_nothing_is_written,
    a_database_is_an_installation_once,
    an_organization_without_agents_closes_keeps_its_log_and_is_never_changed_again,
    each_change_has_a_mark_of_its_own_and_reading_what_changed_gives_what_reading_everything_gives,
    what_controllers_tell_each_other_raises_a_number_and_no_version_and_expires,
    a_backup_of_either_engine_fills_either_engine_with_the_same_rows,
    a_backup_that_is_cut_off_or_changed_anywhere_restores_nothing,
    roles_states_and_settings_come_back_as_they_were_set,
    audit_entries_chain_and_an_altered_or_missing_one_breaks_the_chain,
    old_audit_entries_go_from_the_beginning_and_the_chain_goes_on,
    an_answer_is_kept_with_the_change_that_made_it_and_with_no_other,
    how_people_sign_in_is_read_back_is_used_up_once_and_goes_with_its_person,
}

async fn a_change_raises_the_version_by_one_and_leaves_an_audit_row(f: Fixture) {
    let before = f.data().await.organization.version;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    let version = change.commit("create", "site", "{}").await.unwrap();
    assert_eq!(version.version, before.version + 1);
    let data = f.data().await;
    assert_eq!(data.organization.version, version);
    assert_eq!(data.sites, vec![site(1, "hamburg")]);
    let page = AuditPage { before_ms: NOW + 1, limit: 10, ..AuditPage::default() };
    let audit = f.store.audit(AuditOf::OrganizationAndInstallation(f.organization), &page).await.unwrap();
    assert!(audit.iter().any(|entry| entry.version == version && entry.actor == "test"));
}

async fn a_change_that_is_dropped_never_happened(f: Fixture) {
    let before = f.data().await;
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    drop(change);
    assert_eq!(f.data().await, before);
}

async fn a_taken_name_is_a_conflict_that_names_the_field(f: Fixture) {
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    let error = change.insert_site(&site(2, "hamburg")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Conflict { kind: "site", field } if field == "name"), "{error}");
}

async fn ports_of_every_protocol_come_back_as_they_were_and_those_of_tcp_are_written_as_ever(f: Fixture) {
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

async fn two_resources_without_an_alias_do_not_conflict(f: Fixture) {
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    for seed in [1, 2] {
        change.insert_resource(&resource(seed, SiteId::from_bytes([1; 16]))).await.unwrap();
    }
    change.commit("create", "resources", "{}").await.unwrap();
    assert_eq!(f.data().await.resources.len(), 2);
}

async fn nothing_refers_to_an_object_of_another_organization(f: Fixture) {
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

async fn joining_a_group_again_raises_the_generation_and_staying_does_not(f: Fixture) {
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

async fn an_enrolment_key_works_as_often_as_its_cap_and_not_after_its_expiry(f: Fixture) {
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

async fn a_one_time_link_opens_once(f: Fixture) {
    let secret_hash = SecretHash::from_digest([5; 32]);
    let link = OneTimeLink { secret_hash, purpose: "first-owner".into(), expires_ms: NOW + 1 };
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_one_time_link(&link).await.unwrap();
    assert!(change.take_one_time_link(secret_hash, "something else").await.is_err());
    change.take_one_time_link(secret_hash, "first-owner").await.unwrap();
    assert!(change.take_one_time_link(secret_hash, "first-owner").await.is_err());
}

async fn removing_a_person_removes_devices_memberships_and_keys(f: Fixture) {
    let owner = Member::User(UserId::from_bytes([1; 16]));
    let mut change = f.change().await;
    change.insert_user(&user(1)).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    change.add_member(GroupId::from_bytes([1; 16]), owner, 0).await.unwrap();
    change.insert_enrolment_key(&device_key(1, owner, 1)).await.unwrap();
    let device = device(1, owner);
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

async fn a_site_with_something_in_it_is_not_removed(f: Fixture) {
    let mut change = f.change().await;
    let site = site(1, "hamburg");
    change.insert_site(&site).await.unwrap();
    change.insert_resource(&resource(1, site.id)).await.unwrap();
    assert!(matches!(change.delete_site(site.id).await, Err(StoreError::Reference { .. })));
}

async fn a_policy_loses_a_group_and_a_resource_that_are_removed(f: Fixture) {
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

async fn the_database_counts_its_own_statements_and_rows_and_idling_costs_none(f: Fixture) {
    // The first entry of an audit log makes the row of its end.
    f.change().await.commit("begin", "log", "{}").await.unwrap();
    let before = f.store.database_counters();
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.commit("create", "site", "{}").await.unwrap();
    let after = f.store.database_counters();
    // BEGIN, version row, site, the audit log's end, audit row, the end's hash, what was touched, COMMIT; six rows.
    assert_eq!(after.statements - before.statements, 8);
    assert_eq!(after.rows_written - before.rows_written, 6);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(f.store.database_counters(), after);
    f.store.load().await.unwrap();
    assert!(f.store.database_counters().statements > after.statements);
    assert_eq!(f.store.database_counters().rows_written, after.rows_written);
}

async fn a_lock_held_by_another_process_is_said_within_the_deadline_and_reads_go_on(f: Fixture) {
    let other = f.other().await;
    let held = other.change(Scope::Organization(f.organization), "other", NOW).await.unwrap();
    let started = Instant::now();
    let refused = f.store.change(Scope::Organization(f.organization), "test", NOW).await;
    assert!(matches!(refused.err(), Some(StoreError::Unavailable(_))));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert!(f.store.load().await.unwrap().is_some());
    drop(held);
}

async fn a_value_that_does_not_parse_is_an_error_and_not_an_absence(f: Fixture) {
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.commit("create", "site", "{}").await.unwrap();
    f.place.raw("UPDATE sites SET prefixes = '[\"10.0'").await;
    assert!(matches!(f.store.load().await, Err(StoreError::Corrupt { column: "prefixes", .. })));
}

async fn raising_the_incarnation_orders_every_later_state_behind_every_earlier_one(f: Fixture) {
    let before = f.data().await.organization.version;
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.raise_incarnation(before.incarnation + 1).await.unwrap();
    change.commit("restore", "installation", "{}").await.unwrap();
    assert!(f.data().await.organization.version > before);
}

async fn giving_access_back_raises_the_generation_above_what_is_struck_whatever_the_row_says(f: Fixture) {
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

async fn what_happened_outside_is_recorded_once_raises_no_version_and_stays_in_its_organization(f: Fixture) {
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
        source: "local".into(),
        request: "r".into(),
    };
    let entries = [entry("a", Some(f.organization)), entry("b", Some(other.id)), entry("c", None)];
    let struck = |generation| [StruckGeneration { subject: "dev-a".into(), generation }];
    f.store.record(&entries, &struck(3)).await.unwrap();
    f.store.record(&entries, &struck(2)).await.unwrap();
    assert_eq!(f.data().await, before);
    assert_eq!(f.store.struck_generations().await.unwrap(), struck(3));
    let page = AuditPage { before_ms: u64::MAX, limit: 100, ..AuditPage::default() };
    let strikes = async |of| {
        let all = f.store.audit(of, &page).await.unwrap();
        let own: Vec<_> = all.iter().filter(|e| e.action == "strike").map(|e| e.subject.clone()).collect();
        (own, all.iter().any(|entry| entry.subject == "other"))
    };
    assert_eq!(strikes(AuditOf::Organization(f.organization)).await, (vec!["dev-a".to_owned()], false));
    assert_eq!(strikes(AuditOf::Organization(other.id)).await, (vec!["dev-b".to_owned()], false));
    let (own, installation) = strikes(AuditOf::OrganizationAndInstallation(other.id)).await;
    assert!(installation && own.contains(&"dev-c".to_owned()) && !own.contains(&"dev-a".to_owned()));
}

async fn a_fault_at_every_read_of_the_builder_is_an_error_and_never_a_smaller_answer(f: Fixture) {
    let f = f.furnished().await;
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
        "accounts",
        "passkeys",
        "recovery_codes",
        "account_links",
        "oidc_providers",
        "oidc_identities",
    ];
    for table in tables {
        for (from, to) in [(table, "away"), ("away", table)] {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            f.place.raw(&sql).await;
            let loaded = f.store.load().await;
            assert_eq!(loaded.is_err(), to == "away", "{table}: {loaded:?}");
        }
        assert_eq!(f.store.load().await.unwrap().unwrap(), whole, "{table}");
    }
}

async fn grants_of_before_are_remembered_when_their_life_is_made_shorter(f: Fixture) {
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

async fn a_change_that_met_an_error_of_the_database_stores_nothing_more(f: Fixture) {
    let mut change = f.change().await;
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    assert!(matches!(change.insert_site(&site(2, "hamburg")).await, Err(StoreError::Conflict { .. })));
    assert!(matches!(change.insert_site(&site(3, "bremen")).await, Err(StoreError::Spoilt { .. })));
    assert!(matches!(change.commit("create", "sites", "{}").await, Err(StoreError::Spoilt { .. })));
    assert!(f.data().await.sites.is_empty());
}

async fn a_text_that_one_of_the_engines_does_not_take_is_refused_and_no_trouble_of_the_database(f: Fixture) {
    let mut change = f.change().await;
    let refused = change.insert_site(&site(1, "ham\0burg")).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::Value { kind: "site", .. }) && !refused.is_unavailable(),
        "{refused}"
    );
    for (seed, name) in
        [(2, "ציוד 🛠 \u{202e}\u{2066}x"), (3, "'; DROP TABLE sites; --"), (4, "\u{1}\u{7f}\u{10ffff}")]
    {
        change.insert_site(&site(seed, name)).await.unwrap();
    }
    change.commit("create", "sites", "{}").await.unwrap();
    assert_eq!(f.data().await.sites[0].name, "ציוד 🛠 \u{202e}\u{2066}x");
}

async fn rows_come_in_the_order_of_their_bytes(f: Fixture) {
    let mut change = f.change().await;
    for seed in [0xFF, 0x00, 0x7F, 0x80, 0x0A, 0xA0] {
        change.insert_user(&user(seed)).await.unwrap();
    }
    change.commit("create", "people", "{}").await.unwrap();
    let ids: Vec<String> = f.data().await.users.iter().map(|user| user.id.to_string()).collect();
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(ids, sorted);
}

async fn changes_of_two_programs_at_once_commit_in_the_order_of_their_versions(f: Fixture) {
    let other = f.other().await;
    let scope = Scope::Organization(f.organization);
    let before = f.data().await.organization.version.version;
    let work = async |store: &Store, first: u8| {
        let mut versions = Vec::new();
        for seed in first..first + 10 {
            // Who has to wait too long says so; the next try is another change.
            loop {
                let Ok(mut change) = store.change(scope, "test", NOW).await else { continue };
                change.insert_site(&site(seed, &format!("site {seed}"))).await.unwrap();
                versions.push(change.commit("create", "site", "{}").await.unwrap().version);
                break;
            }
        }
        versions
    };
    let (ours, theirs) = tokio::join!(work(&f.store, 10), work(&other, 100));
    assert!(ours.is_sorted() && theirs.is_sorted());
    let mut all: Vec<u64> = ours.into_iter().chain(theirs).collect();
    all.sort_unstable();
    assert_eq!(all, (before + 1..=before + 20).collect::<Vec<_>>(), "each version once, none left out");
    assert_eq!(f.data().await.sites.len(), 20);
}

async fn a_database_of_a_newer_build_is_refused_and_nothing_is_written(f: Fixture) {
    f.place
        .raw(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             SELECT 9999, 'later', success, checksum, execution_time FROM _sqlx_migrations WHERE version = 1",
        )
        .await;
    let refused = Store::open(f.place.location(), Opening::MustExist).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Schema(why) if why.contains("9999")), "{refused}");
    assert!(f.store.load().await.unwrap().is_some());
}

async fn a_database_is_an_installation_once(f: Fixture) {
    let again = Installation {
        id: InstallationId::from_bytes([8; 16]),
        version: Version { incarnation: 1, version: 1 },
        created_ms: NOW,
    };
    let refused = f.store.bootstrap(&again, &organization(3, "second"), "test").await;
    assert!(matches!(refused, Err(StoreError::Conflict { kind: "installation", .. })), "{refused:?}");
    assert_eq!(f.store.load().await.unwrap().unwrap().installation.id, InstallationId::from_bytes([9; 16]));
}

async fn a_backup_of_either_engine_fills_either_engine_with_the_same_rows(f: Fixture) {
    let f = f.furnished().await;
    let entries = [Happened {
        event: "a".into(),
        organization: None,
        version: Version { incarnation: 1, version: 1 },
        at_ms: NOW,
        actor: "local".into(),
        action: "strike".into(),
        subject: "dev-a".into(),
        detail: "{}".into(),
        source: String::new(),
        request: String::new(),
    }];
    f.store.record(&entries, &[StruckGeneration { subject: "dev-a".into(), generation: 3 }]).await.unwrap();
    let (before, mut file) = (f.store.load().await.unwrap().unwrap(), Vec::new());
    let made = f.store.backup(NOW, &mut file).await.unwrap();
    assert_eq!(made.version, before.installation.version);
    assert!(!String::from_utf8_lossy(&file).contains("PRIVATE KEY"));
    for place in [Place::Sqlite(tempfile::tempdir().unwrap()), Place::Postgres(postgres_database().0)] {
        let target = Store::open(place.location(), Opening::CreateIfMissing).await.unwrap();
        // The target remembers a strike that the copy does not know.
        let struck = |subject: &str, generation| StruckGeneration { subject: subject.into(), generation };
        target.record(&[], &[struck("dev-a", 7), struck("dev-b", 1)]).await.unwrap();
        let restored = target.restore(NOW, "test", Existing::Refuse, &mut file.as_slice()).await.unwrap();
        assert_eq!(restored.rows, made.rows);
        let mut after = target.load().await.unwrap().unwrap();
        assert_eq!(after.installation.version.incarnation, 2);
        assert!(after.organizations.iter().all(|data| data.organization.version.incarnation == 2));
        assert_eq!(target.struck_generations().await.unwrap(), [struck("dev-a", 7), struck("dev-b", 1)]);
        // All else is as it was.
        after.installation.version = before.installation.version;
        for (data, old) in after.organizations.iter_mut().zip(&before.organizations) {
            data.organization.version = old.organization.version;
            data.organization.shrink_version = old.organization.shrink_version;
        }
        assert_eq!(after, before);
        let page = AuditPage { before_ms: u64::MAX, limit: 100, ..AuditPage::default() };
        let of = AuditOf::OrganizationAndInstallation(f.organization);
        let audit = target.audit(of, &page).await.unwrap();
        assert!(audit.len() == f.store.audit(of, &page).await.unwrap().len() + 1, "and the restore itself");
        // Again: it is not empty now, and nothing of it is touched.
        let held = target.load().await.unwrap();
        let refused = target.restore(NOW, "test", Existing::Refuse, &mut file.as_slice()).await;
        assert!(matches!(refused, Err(BackupError::NotEmpty { .. })), "{refused:?}");
        assert_eq!(target.load().await.unwrap(), held);
        let again =
            target.restore(NOW, "test", Existing::DangerouslyReplace, &mut file.as_slice()).await.unwrap();
        assert_eq!(again.version.incarnation, 3, "above what the target had, too");
        target.close().await;
    }
}

async fn a_backup_that_is_cut_off_or_changed_anywhere_restores_nothing(f: Fixture) {
    let f = f.furnished().await;
    let mut file = Vec::new();
    f.store.backup(NOW, &mut file).await.unwrap();
    let (held, mut refused) = (f.store.load().await.unwrap(), 0);
    let step = file.len() / 40;
    for at in (0..file.len()).step_by(step) {
        let mut changed = file.clone();
        changed[at] ^= 1;
        for bytes in [&file[..at], &changed[..]] {
            let restored = f.store.restore(NOW, "test", Existing::DangerouslyReplace, &mut &*bytes).await;
            assert!(restored.is_err(), "byte {at}");
            refused += 1;
        }
    }
    assert!(refused > 60);
    assert_eq!(f.store.load().await.unwrap(), held);
    let mut longer = file.clone();
    longer.extend_from_slice(b"{}\n");
    assert!(
        f.store.restore(NOW, "test", Existing::DangerouslyReplace, &mut longer.as_slice()).await.is_err()
    );
    let newer = String::from_utf8(file).unwrap().replacen("\"schema\":", "\"schema\":9", 1);
    let why =
        f.store.restore(NOW, "test", Existing::DangerouslyReplace, &mut newer.as_bytes()).await.unwrap_err();
    assert!(why.to_string().contains("newer version"), "{why}");
}

async fn how_people_sign_in_is_read_back_is_used_up_once_and_goes_with_its_person(f: Fixture) {
    let (ada, bob) = (user(21), user(22));
    let account = |id: UserId, name: &str| Account {
        id,
        sign_in_name: name.into(),
        passphrase_hash: Some("$argon2id$x".into()),
        totp: None,
        recovery_codes: vec![],
        sessions_from_ms: 0,
        created_ms: NOW,
    };
    let provider = OidcProvider {
        name: "main".into(),
        title: "Main".into(),
        issuer: "https://id.example.com".into(),
        client_id: "c".into(),
        client_secret: "sealed".into(),
        scopes: "openid".into(),
        groups_claim: "groups".into(),
        group_map: Default::default(),
        domains: vec!["example.com".into()],
        new_users: NewUsers::Make,
        ca_pem: String::new(),
        created_ms: NOW,
    };
    let identity = OidcIdentity { provider: "main".into(), subject: "s".into(), account: ada.id };
    let key = Passkey {
        credential: "cred".into(),
        account: ada.id,
        name: "laptop".into(),
        document: "{}".into(),
        created_ms: NOW,
    };
    let hash = |n: u8| SecretHash::from_digest([n; 32]);
    let link = AccountLink { secret_hash: hash(9), user: ada.id, expires_ms: NOW + 1 };
    let mut change = f.change().await;
    for person in [&ada, &bob] {
        change.insert_user(person).await.unwrap();
    }
    change.insert_account(&account(ada.id, "ada@example.com")).await.unwrap();
    change.insert_account(&account(bob.id, "bob@example.com")).await.unwrap();
    change.set_totp(ada.id, Some("sealed"), &[hash(1), hash(2)]).await.unwrap();
    change.insert_passkey(&key).await.unwrap();
    change.insert_account_link(&link).await.unwrap();
    change.put_oidc_provider(&provider).await.unwrap();
    change.insert_oidc_identity(&identity).await.unwrap();
    change.commit("create", "accounts", "{}").await.unwrap();
    let data = f.data().await.sign_in;
    let held = data.accounts.iter().find(|row| row.id == ada.id).unwrap();
    assert_eq!((held.totp.as_deref(), held.recovery_codes.len()), (Some("sealed"), 2));
    assert_eq!((data.accounts.len(), &data.passkeys, &data.links), (2, &vec![key], &vec![link]));
    assert_eq!((&data.providers, &data.identities), (&vec![provider.clone()], &vec![identity]));

    let mut change = f.change().await;
    let taken = change.insert_account(&account(ada.id, "other")).await;
    assert!(matches!(taken, Err(StoreError::Conflict { .. })), "{taken:?}");
    drop(change);
    let mut change = f.change().await;
    change.take_recovery_code(ada.id, hash(1)).await.unwrap();
    change.take_account_link(hash(9), ada.id).await.unwrap();
    change.end_sessions(ada.id, 5).await.unwrap();
    change.set_passphrase(ada.id, None).await.unwrap();
    // Under another issuer a subject is another person.
    change
        .put_oidc_provider(&OidcProvider { issuer: "https://other.example.com".into(), ..provider })
        .await
        .unwrap();
    change.commit("use", "codes", "{}").await.unwrap();
    let data = f.data().await.sign_in;
    let held = data.accounts.iter().find(|row| row.id == ada.id).unwrap();
    assert_eq!((held.sessions_from_ms, &held.passphrase_hash, held.recovery_codes.len()), (5, &None, 1));
    assert!(data.links.is_empty() && data.identities.is_empty());
    let mut change = f.change().await;
    for again in [
        change.take_recovery_code(ada.id, hash(1)).await,
        change.take_recovery_code(bob.id, hash(2)).await,
        change.take_account_link(hash(9), ada.id).await,
    ] {
        assert!(matches!(again, Err(StoreError::NotFound { .. })), "{again:?}");
    }
    change.delete_member(Member::User(ada.id)).await.unwrap();
    change.commit("delete", "user", "{}").await.unwrap();
    let data = f.data().await.sign_in;
    assert_eq!((data.accounts.len(), data.passkeys.len()), (1, 0));
}

async fn roles_states_and_settings_come_back_as_they_were_set(f: Fixture) {
    let (owner, user_id) = (Member::User(UserId::from_bytes([1; 16])), UserId::from_bytes([1; 16]));
    let mut change = f.change().await;
    change.insert_user(&user(1)).await.unwrap();
    change.insert_enrolment_key(&device_key(1, owner, 1)).await.unwrap();
    assert_eq!(change.user(user_id).await.unwrap(), Some(user(1)));
    change.set_role(user_id, Role::NetworkAdmin).await.unwrap();
    let mut settings = change.organization_row(f.organization).await.unwrap().unwrap();
    (settings.approve_devices, settings.audit_retention_days) = (false, 90);
    assert_ne!(settings.sign_in_age_ms, 60_000);
    settings.sign_in_age_ms = 60_000;
    change.set_settings(&settings).await.unwrap();
    assert!(change.set_role(UserId::from_bytes([9; 16]), Role::Owner).await.is_err());
    assert_eq!(change.owners().await.unwrap(), []);
    change.insert_user(&User { role: Role::Owner, ..user(2) }).await.unwrap();
    assert_eq!(change.owners().await.unwrap(), [(user(2).id, user(2).generation)]);
    change.commit("set", "role", "{}").await.unwrap();
    let data = f.data().await;
    assert_eq!(data.users[0].role, Role::NetworkAdmin);
    assert!(data.enrolment_keys[0].approval);
    let kept = (data.organization.approve_devices, data.organization.audit_retention_days);
    assert_eq!(kept, (false, 90));
    assert_eq!(data.organization.sign_in_age_ms, 60_000);
}

/// Whether a chain holds from its beginning to its end.
async fn holds(f: &Fixture, chain: Chain) -> bool {
    let ends = f.store.audit_ends(chain).await.unwrap().unwrap();
    let entries = f.store.audit_on(chain, 0, 1000).await.unwrap();
    let mut previous = ends.before_first;
    for (entry, number) in entries.iter().zip(ends.first_seq..) {
        let hash = entry.chained(&previous);
        if entry.seq != Some(number) || entry.written_hash() != Some(hash) {
            return false;
        }
        previous = hash;
    }
    previous == ends.head.hash && entries.last().and_then(|entry| entry.seq) == Some(ends.head.seq)
}

async fn audit_entries_chain_and_an_altered_or_missing_one_breaks_the_chain(f: Fixture) {
    let chain = Chain::Organization(f.organization);
    let mut last: Option<Linked> = None;
    for number in 1..=5 {
        let mut change = f.change().await;
        change.came_from("203.0.113.7", "r");
        change.insert_site(&site(number, &format!("s{number}"))).await.unwrap();
        for half in ["a", "b"] {
            change.note(Noted {
                action: "create site".into(),
                subject: format!("{number}{half}"),
                before: None,
                after: Some("{\"x\":1}".into()),
                detail: "{}".into(),
            });
        }
        let linked = change.commit_noted().await.unwrap().linked.unwrap();
        if let Some(last) = last {
            assert_eq!(linked.before, (last.head.seq, last.head.hash));
        }
        last = Some(linked);
    }
    assert!(holds(&f, chain).await);
    let page = AuditPage { before_ms: NOW + 1, limit: 3, actor: Some("TEST".into()), ..AuditPage::default() };
    let first = f.store.audit(AuditOf::Organization(f.organization), &page).await.unwrap();
    let place = first.last().unwrap();
    let after = AuditPlace { at_ms: place.at_ms, version: place.version.version, seq: place.seq.unwrap() };
    let second = AuditPage { after: Some(after), ..page };
    let second = f.store.audit(AuditOf::Organization(f.organization), &second).await.unwrap();
    assert_eq!((first[2].seq, second[0].seq), (Some(8), Some(7)));
    assert_eq!(second[0].after.as_deref(), Some("{\"x\":1}"));
    f.place.raw("UPDATE audit SET actor = 'nobody' WHERE subject = '3a'").await;
    assert!(!holds(&f, chain).await);
    f.place.raw("UPDATE audit SET actor = 'test' WHERE subject = '3a'").await;
    assert!(holds(&f, chain).await);
    f.place.raw("DELETE FROM audit WHERE subject = '5b'").await;
    assert!(!holds(&f, chain).await);
}

async fn old_audit_entries_go_from_the_beginning_and_the_chain_goes_on(f: Fixture) {
    let chain = Chain::Organization(f.organization);
    for (number, at) in [(1, NOW), (2, NOW + 10), (3, NOW + 20)] {
        let mut change = f.store.change(Scope::Organization(f.organization), "test", at).await.unwrap();
        change.insert_site(&site(number, &format!("s{number}"))).await.unwrap();
        change.commit("create site", "s", "{}").await.unwrap();
    }
    let all = f.store.audit_on(chain, 0, 100).await.unwrap().len();
    let removed = f.store.forget_audit(chain, NOW + 15, 100).await.unwrap();
    assert!(removed >= 2, "{removed}");
    let left = f.store.audit_on(chain, 0, 100).await.unwrap();
    assert_eq!(left.len() + usize::try_from(removed).unwrap(), all);
    assert!(holds(&f, chain).await);
    // The last one stays: the chain goes on from it.
    f.store.forget_audit(chain, u64::MAX, 100).await.unwrap();
    assert_eq!(f.store.audit_on(chain, 0, 100).await.unwrap().len(), 1);
    let mut change = f.change().await;
    change.insert_site(&site(9, "s9")).await.unwrap();
    change.commit("create site", "s", "{}").await.unwrap();
    assert!(holds(&f, chain).await);
}

async fn an_answer_is_kept_with_the_change_that_made_it_and_with_no_other(f: Fixture) {
    let kept = Kept { fingerprint: [2; 32], answer: Some("sealed".into()) };
    let mut change = f.change().await;
    change.keep(&[1; 32], &kept).await.unwrap();
    drop(change);
    let mut change = f.change().await;
    assert_eq!(change.kept(&[1; 32]).await.unwrap(), None);
    change.keep(&[1; 32], &kept).await.unwrap();
    change.commit("x", "y", "{}").await.unwrap();
    let mut change = f.change().await;
    assert_eq!(change.kept(&[1; 32]).await.unwrap(), Some(kept.clone()));
    drop(change);
    let later = NOW + 24 * 3_600_000 + 1;
    let mut change = f.store.change(Scope::Organization(f.organization), "test", later).await.unwrap();
    assert_eq!(change.kept(&[1; 32]).await.unwrap(), None);
    change.keep(&[1; 32], &kept).await.unwrap();
    change.commit("x", "y", "{}").await.unwrap();
}

async fn an_organization_without_agents_closes_keeps_its_log_and_is_never_changed_again(f: Fixture) {
    let other = organization(2, "other");
    let scope = Scope::Organization(other.id);
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_organization(&other).await.unwrap();
    change.commit("create", "organization", "{}").await.unwrap();
    let mut change = f.store.change(scope, "test", NOW).await.unwrap();
    change.insert_user(&user(1)).await.unwrap();
    change.insert_group(&group(1)).await.unwrap();
    change.insert_site(&site(1, "hamburg")).await.unwrap();
    change.insert_resource(&resource(1, SiteId::from_bytes([1; 16]))).await.unwrap();
    let owner = Member::User(user(1).id);
    let key = EnrolmentKey { organization: Some(other.id), ..device_key(1, owner, 1) };
    change.insert_enrolment_key(&key).await.unwrap();
    let device = device(1, owner);
    change.insert_device(&device).await.unwrap();
    change.commit("create", "several", "{}").await.unwrap();

    let mut change = f.store.change(scope, "test", NOW).await.unwrap();
    let error = change.close_organization().await.unwrap_err();
    assert!(error.to_string().contains("neither blocked nor archived"), "{error}");
    drop(change);
    let mut change = f.store.change(scope, "test", NOW).await.unwrap();
    change.set_device_state(device.id, DeviceState::Blocked).await.unwrap();
    change.close_organization().await.unwrap();
    change.commit("close", "organization", "{}").await.unwrap();

    let dataset = f.store.load().await.unwrap().unwrap();
    let closed = dataset.organizations.iter().find(|data| data.organization.id == other.id).unwrap();
    assert_eq!((closed.organization.closed_ms, &closed.organization.name), (NOW, &other.id.to_string()));
    let rows = [
        closed.users.len(),
        closed.groups.len(),
        closed.sites.len(),
        closed.resources.len(),
        closed.devices.len(),
    ];
    assert_eq!(rows, [0; 5]);
    let again = f.store.change(scope, "test", NOW).await;
    assert!(matches!(again, Err(StoreError::NotFound { kind: "organization", .. })));
    let page = AuditPage { before_ms: NOW + 1, limit: 10, ..AuditPage::default() };
    let audit = f.store.audit(AuditOf::Organization(other.id), &page).await.unwrap();
    assert!(audit.iter().any(|entry| entry.action == "close"), "its log can still be read");
    // Its name is free again.
    let mut change = f.store.change(Scope::Installation, "test", NOW).await.unwrap();
    change.insert_organization(&organization(3, "other")).await.unwrap();
    change.commit("create", "organization", "{}").await.unwrap();
}

async fn each_change_has_a_mark_of_its_own_and_reading_what_changed_gives_what_reading_everything_gives(
    f: Fixture,
) {
    let f = f.furnished().await;
    let other = organization(2, "other");
    let mut marks = Vec::new();
    let mut held = f.store.load().await.unwrap().unwrap();
    for step in 0..4_u8 {
        let scope = if step == 1 { Scope::Installation } else { Scope::Organization(f.organization) };
        let mut change = f.store.change(scope, "test", NOW).await.unwrap();
        if step == 1 {
            change.insert_organization(&other).await.unwrap();
        } else {
            change.insert_site(&site(100 + step, &format!("site {step}"))).await.unwrap();
        }
        change.commit("create", "something", "{}").await.unwrap();
        let everything = f.store.load().await.unwrap().unwrap();
        let mark = f.store.look().await.unwrap().unwrap().mark;
        assert_eq!(mark, Mark::of(&everything));
        assert!(!marks.contains(&mark), "{marks:?}");
        marks.push(mark);
        assert_eq!(f.store.load_after(&held).await.unwrap().unwrap(), everything);
        assert_eq!(f.store.load_after(&everything).await.unwrap().unwrap(), everything);
        held = everything;
    }
    // Of an organization with the same row nothing else is read.
    let mut before = held.clone();
    before.organizations[0].sites.clear();
    assert!(f.store.load_after(&before).await.unwrap().unwrap().organizations[0].sites.is_empty());
}

async fn what_controllers_tell_each_other_raises_a_number_and_no_version_and_expires(f: Fixture) {
    let f = f.furnished().await;
    let before = f.store.look().await.unwrap().unwrap();
    let ended = |id: u8, expires_ms| EndedSession { id: [id; 16], organization: f.organization, expires_ms };
    let used = |step| UsedCode { account: UserId::from_bytes([1; 16]), organization: f.organization, step };
    let first = SignInNotes { ended: vec![ended(1, NOW + 10), ended(2, NOW + 20)], used: vec![used(7)] };
    f.store.tell_sign_ins(&first, NOW).await.unwrap();
    assert_eq!(f.store.sign_in_notes(NOW).await.unwrap(), first);
    // Again, and an older code: nothing goes back.
    let again = SignInNotes { ended: vec![ended(1, NOW + 10)], used: vec![used(6)] };
    f.store.tell_sign_ins(&again, NOW).await.unwrap();
    assert_eq!(f.store.sign_in_notes(NOW).await.unwrap(), first);
    assert_eq!(f.store.sign_in_notes(NOW + 10).await.unwrap().ended, [ended(2, NOW + 20)]);
    f.store
        .tell_sign_ins(&SignInNotes { used: vec![used(8)], ..Default::default() }, NOW + 20)
        .await
        .unwrap();
    let left = f.store.sign_in_notes(0).await.unwrap();
    assert_eq!((left.ended.len(), left.used), (0, vec![used(8)]));
    let struck = StruckGeneration { subject: "usr-x".into(), generation: 2 };
    f.store.record(&[], &[struck]).await.unwrap();
    let after = f.store.look().await.unwrap().unwrap();
    assert_eq!((after.mark, after.notes), (before.mark, before.notes + 4));
}
