//! A world with several of everything, put straight into the database: the order of ids, of names, of times and of whatever
//! else a list is sorted by differ, and whatever a list is narrowed by takes some and leaves some.

use super::World;
use crate::{clock, presence::Here};
use std::{collections::BTreeMap, time::Duration};
use store::{
    Change, Connector, Device, DeviceState, EnrolmentKey, EnrolmentTarget, Group, Member, Organization,
    Policy, Pop, Ports, Resource, ResourceMode, Role, Scope, SecretHash, ServiceAccount, Site, Store, Token,
    User, Version,
};
use trust::{Identity, RevokedSubject, UnixMs, sha256};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, OrganizationId, PolicyId, PopId, ResourceId,
    ServiceAccountId, SiteId, TokenId, UserId,
};

/// When everything was made, give or take: a whole second.
const LONG_AGO: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;

/// What stands in the world, by name: no two have the same.
pub(super) struct Filled {
    pub(super) world: World,
    ids: BTreeMap<&'static str, String>,
}

/// The `number`th id of its kind.
fn nth<T>(make: fn(u64, [u8; 10]) -> T, number: u8) -> T {
    make(LONG_AGO + u64::from(number), [number; 10])
}

fn bytes(of: &str) -> [u8; 32] {
    sha256(&[of.as_bytes()])
}

impl Filled {
    pub(super) async fn new() -> Self {
        let world = World::new().await;
        let core = &world.controller.core;
        let store = core.database.store().unwrap();
        let organization = core.snapshot().dataset.organizations[0].organization.id;
        let mut filling = Filling { organization, ids: BTreeMap::new() };
        filling.installation(&store).await;
        let mut change = store.change(Scope::Organization(organization), "a test", LONG_AGO).await.unwrap();
        filling.people(&mut change).await;
        filling.network(&mut change).await;
        filling.access(&mut change).await;
        filling.devices(&mut change).await;
        change.commit("fill", "everything", "{}").await.unwrap();
        core.refresh(&store).await.unwrap();
        let ids = filling.ids;
        assert_eq!(world.delete(&format!("/organizations/{}", ids["Old"])).await.status, 204);
        let filled = Self { world, ids };
        filled.strikes();
        filled.sessions();
        filled
    }

    pub(super) fn id(&self, name: &str) -> &str {
        self.ids.get(name).unwrap_or_else(|| panic!("nothing is called {name}"))
    }

    /// A text with ids in place of names in braces.
    pub(super) fn with_ids(&self, text: &str) -> String {
        let mut parts = text.split(['{', '}']);
        let first = parts.next().unwrap_or_default().to_owned();
        let mut is_name = true;
        parts.fold(first, |text, part| {
            let part = if is_name { self.id(part) } else { part };
            is_name = !is_name;
            text + part
        })
    }

    /// The name of what has this id.
    pub(super) fn name(&self, id: &str) -> &'static str {
        let found = self.ids.iter().find(|(_, known)| *known == id);
        found.unwrap_or_else(|| panic!("nobody made {id}")).0
    }

    /// Later ones with earlier times, as controllers with different clocks make them.
    fn strikes(&self) {
        let core = &self.world.controller.core;
        for (subject, seconds) in [("tok-b", 30), ("Dev-d", 10), ("Scraper", 20)] {
            let subject: RevokedSubject = self.id(subject).parse().unwrap();
            clock::later(Duration::from_secs(seconds));
            core.strikes.strike(&core.signer, subject, 1, drop).unwrap();
        }
        clock::later(Duration::ZERO);
    }

    /// Times whose fractions of a second are written with zero to three digits.
    fn sessions(&self) {
        let core = &self.world.controller.core;
        let (installation, organization) = (core.signer.installation(), self.id("default").parse().unwrap());
        let device =
            |name: &str| Identity::device(installation, organization, self.id(name).parse().unwrap());
        let connector =
            |name: &str| Identity::connector(installation, organization, self.id(name).parse().unwrap());
        for (pop, who, millis) in [
            ("Pop-c", connector("Gamma"), 0),
            ("pop-b", device("Dev-c"), 120),
            ("pop-b", connector("beta"), 123),
            ("Pop-c", device("Dev-c"), 500),
            ("Pop-c", device("dev-b"), 1000),
        ] {
            let here = Here { attached: vec![who], by_stream: Vec::new() };
            let pop: PopId = self.id(pop).parse().unwrap();
            core.presence().came(pop, &here, UnixMs::from_millis(LONG_AGO + millis));
        }
    }
}

struct Filling {
    organization: OrganizationId,
    ids: BTreeMap<&'static str, String>,
}

impl Filling {
    fn named(&mut self, name: &'static str, id: impl ToString) {
        let before = self.ids.insert(name, id.to_string());
        assert!(before.is_none(), "two are called {name}");
    }

    fn of<T: std::str::FromStr<Err: std::fmt::Debug>>(&self, name: &str) -> T {
        self.ids[name].parse().unwrap()
    }

    /// Keys of PoPs, PoPs and organizations.
    async fn installation(&mut self, store: &Store) {
        let mut change = store.change(Scope::Installation, "a test", LONG_AGO).await.unwrap();
        let target = EnrolmentTarget::Pop { region: "eu".into(), zone: "a".into() };
        self.key(&mut change, 3, "key-a", target, 5, 30).await;
        for (number, name, region, zone, created) in
            [(1, "pop-b", "eu", "a", 10), (2, "Pop-c", "asia", "b", 30), (3, "pop-a", "us", "a", 20)]
        {
            let row = Pop {
                id: nth(PopId::from_time_and_random, number),
                name: name.into(),
                region: region.into(),
                zone: zone.into(),
                address: format!("{number}.pops.example.com:443"),
                identity_key: bytes(name),
                generation: 1,
                enrolled_by: self.of("key-a"),
                created_ms: LONG_AGO + created,
            };
            change.insert_pop(&row).await.unwrap();
            self.named(name, row.id);
        }
        self.named("default", self.organization);
        let incarnation = 1;
        // Younger than the one that is there, which answers when nobody says which.
        let now = clock::wall().as_millis();
        for (number, name, created) in [(1, "org-c", 20), (2, "Acme", 30), (3, "Old", 10)] {
            let row = Organization {
                id: nth(OrganizationId::from_time_and_random, number),
                name: name.into(),
                version: Version { incarnation, version: 1 },
                grant_life_ms: 24 * HOUR,
                renew_after_ms: HOUR,
                shrink_version: 0,
                old_grants_end_ms: 0,
                approve_devices: false,
                audit_retention_days: 0,
                flow_retention_days: 0,
                sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
                created_ms: now + created,
                closed_ms: 0,
            };
            change.insert_organization(&row).await.unwrap();
            self.named(name, row.id);
        }
        change.commit("fill", "the installation", "{}").await.unwrap();
    }

    async fn people(&mut self, change: &mut Change) {
        for (number, name, email, role, created) in [
            (1, "Bea", "m@example.com", Role::Auditor, 40),
            (2, "Cyd", "d@example.com", Role::Admin, 10),
            (3, "ada", "x@example.com", Role::Owner, 60),
            (4, "Eve", "b@example.com", Role::Member, 20),
            (5, "dan", "q@example.com", Role::Support, 50),
            (6, "Fay", "a@example.com", Role::NetworkAdmin, 30),
        ] {
            let row = User {
                id: nth(UserId::from_time_and_random, number),
                name: name.into(),
                email: email.into(),
                role,
                generation: 1,
                created_ms: LONG_AGO + created,
            };
            change.insert_user(&row).await.unwrap();
            self.named(name, row.id);
        }
        for (number, name, created) in [(1, "robot", 10), (2, "Scraper", 30), (3, "backup", 20)] {
            let id = nth(ServiceAccountId::from_time_and_random, number);
            let row = ServiceAccount { id, name: name.into(), generation: 1, created_ms: LONG_AGO + created };
            change.insert_service_account(&row).await.unwrap();
            self.named(name, id);
        }
        for (number, name, members, created) in [
            (1, "builders", &["Eve", "robot", "Bea", "backup"][..], 10),
            (2, "Curators", &["Cyd", "Scraper"], 30),
            (3, "admins", &[], 20),
        ] {
            let id = nth(GroupId::from_time_and_random, number);
            let row = Group { id, name: name.into(), created_ms: LONG_AGO + created };
            change.insert_group(&row).await.unwrap();
            for member in members {
                change.add_member(id, self.of(member), 0).await.unwrap();
            }
            self.named(name, id);
        }
    }

    /// Sites, resources, and connectors with their keys.
    async fn network(&mut self, change: &mut Change) {
        for (number, name, regions, created) in
            [(1, "bremen", &["eu", "us"][..], 10), (2, "Kiel", &["us"], 30), (3, "Aachen", &[], 20)]
        {
            let row = Site {
                id: nth(SiteId::from_time_and_random, number),
                name: name.into(),
                prefixes: vec![format!("10.{number}.0.0/16")],
                regions: regions.iter().map(ToString::to_string).collect(),
                created_ms: LONG_AGO + created,
            };
            change.insert_site(&row).await.unwrap();
            self.named(name, row.id);
        }
        for (number, name, site, address, alias, mode, created) in [
            (1, "billing", "bremen", "10.1.0.20", Some("money"), ResourceMode::Standard, 10),
            (2, "Crm", "Kiel", "10.1.0.10", Some("people"), ResourceMode::Strict, 30),
            (3, "archive", "bremen", "10.1.0.30", None, ResourceMode::Standard, 20),
        ] {
            let row = Resource {
                id: nth(ResourceId::from_time_and_random, number),
                site: self.of(site),
                name: name.into(),
                alias: alias.map(str::to_owned),
                address: address.into(),
                ports: vec![Ports::tcp(443, 443)],
                mode,
                created_ms: LONG_AGO + created,
            };
            change.insert_resource(&row).await.unwrap();
            self.named(name, row.id);
        }
        let target = EnrolmentTarget::Connector { site: self.of("bremen") };
        self.key(change, 1, "key-b", target, 3, 10).await;
        for (number, name, site, created) in
            [(1, "beta", "bremen", 10), (2, "Gamma", "Kiel", 30), (3, "alpha", "bremen", 20)]
        {
            let row = Connector {
                id: nth(ConnectorId::from_time_and_random, number),
                site: self.of(site),
                name: name.into(),
                identity_key: bytes(name),
                wireguard_key: sha256(&[b"wireguard", name.as_bytes()]),
                seal_key: sha256(&[b"seal", name.as_bytes()]),
                generation: 1,
                enrolled_by: self.of("key-b"),
                created_ms: LONG_AGO + created,
            };
            change.insert_connector(&row).await.unwrap();
            self.named(name, row.id);
        }
    }

    /// Policies and tokens.
    async fn access(&mut self, change: &mut Change) {
        for (number, name, groups, resources, created) in [
            (1, "pol-b", &["builders"][..], &["billing"][..], 10),
            (2, "Pol-c", &["builders", "Curators"], &["Crm"], 30),
            (3, "pol-a", &["admins"], &["billing", "archive"], 20),
        ] {
            let row = Policy {
                id: nth(PolicyId::from_time_and_random, number),
                name: name.into(),
                groups: groups.iter().map(|group| self.of(group)).collect(),
                resources: resources.iter().map(|resource| self.of(resource)).collect(),
                created_ms: LONG_AGO + created,
            };
            change.insert_policy(&row).await.unwrap();
            self.named(name, row.id);
        }
        let now = clock::wall().as_millis();
        for (number, name, hours, created) in [(1, "tok-b", 2, 10), (2, "Tok-c", 1, 30), (3, "tok-a", 3, 20)]
        {
            let row = Token {
                id: nth(TokenId::from_time_and_random, number),
                name: name.into(),
                scopes: vec!["read".into()],
                secret_hash: SecretHash::from_digest(bytes(name)),
                expires_ms: now + hours * HOUR,
                created_ms: LONG_AGO + created,
            };
            change.insert_token(&row).await.unwrap();
            self.named(name, row.id);
        }
    }

    /// Devices and their keys.
    async fn devices(&mut self, change: &mut Change) {
        for (number, name, owner, hours, created) in [
            (2, "Key-c", "Bea", 1, 60),
            (4, "key-e", "robot", 2, 50),
            (5, "Key-f", "robot", 6, 20),
            (6, "key-d", "robot", 4, 40),
        ] {
            let target = EnrolmentTarget::Device { owner: self.of(owner) };
            self.key(change, number, name, target, hours, created).await;
        }
        for (number, name, owner, state, created) in [
            (1, "dev-b", "robot", DeviceState::Pending, 40),
            (2, "Dev-c", "Bea", DeviceState::Active, 10),
            (3, "dev-a", "Cyd", DeviceState::Blocked, 50),
            (4, "dev-e", "Bea", DeviceState::Archived, 20),
            // It is struck later.
            (5, "Dev-d", "Eve", DeviceState::Active, 30),
        ] {
            let row = Device {
                id: nth(DeviceId::from_time_and_random, number),
                owner: self.of::<Member>(owner),
                name: name.into(),
                state,
                identity_key: bytes(name),
                generation: 1,
                enrolled_by: self.of("Key-c"),
                created_ms: LONG_AGO + created,
            };
            change.insert_device(&row).await.unwrap();
            self.named(name, row.id);
        }
    }

    async fn key(
        &mut self,
        change: &mut Change,
        number: u8,
        name: &'static str,
        target: EnrolmentTarget,
        hours: u64,
        created: u64,
    ) {
        let is_shared = matches!(target, EnrolmentTarget::Pop { .. });
        let row = EnrolmentKey {
            id: nth(EnrolmentKeyId::from_time_and_random, number),
            organization: (!is_shared).then_some(self.organization),
            name: name.into(),
            target,
            approval: false,
            secret_hash: SecretHash::from_digest(bytes(name)),
            cap: 5,
            uses: 1,
            expires_ms: clock::wall().as_millis() + hours * HOUR,
            created_ms: LONG_AGO + created,
        };
        change.insert_enrolment_key(&row).await.unwrap();
        self.named(name, row.id);
    }
}
