//! From rows, presence and strikes to what the API says.

use super::types as api;
use crate::{
    parts::Core,
    paths::{ConnectorSide, Paths, Way},
    presence::Presence,
};
use std::sync::{Arc, Mutex, MutexGuard};
use store::{EnrolmentTarget, Member, OrganizationData, ResourceMode};
use trust::{Owner, RevocationSet, RevokedSubject, Subject, UnixMs, encode_base64url};
use wire::{DeviceId, GroupId};

/// What the views read.
pub(crate) struct Views<'a> {
    pub(crate) data: &'a OrganizationData,
    pub(crate) revocations: Arc<RevocationSet>,
    presence: MutexGuard<'a, Presence>,
}

pub(crate) fn rfc3339(time: UnixMs) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map(|time| time.to_string()).unwrap_or_default()
}

fn created(ms: u64) -> String {
    rfc3339(UnixMs::from_millis(ms))
}

impl<'a> Views<'a> {
    pub(crate) fn new(core: &'a Core, data: &'a OrganizationData) -> Self {
        Self { data, revocations: core.strikes.set(), presence: core.presence() }
    }

    /// Of rows alone: nobody is connected, and nothing is struck.
    pub(crate) fn of_rows(data: &'a OrganizationData, nobody: &'a Mutex<Presence>) -> Self {
        let presence = nobody.lock().expect("nothing panics while it holds this");
        Self { data, revocations: Arc::default(), presence }
    }

    fn live(&self, subject: Subject) -> api::Live {
        let seen = self.presence.of(subject);
        api::Live {
            attached: seen.is_some_and(|seen| !seen.attached.is_empty()),
            pops: seen.map(|seen| seen.attached.iter().copied().collect()).unwrap_or_default(),
            last_seen: seen.map(|seen| rfc3339(seen.last)),
        }
    }

    fn struck(&self, subject: RevokedSubject, generation: u64) -> bool {
        self.revocations.is_struck(subject, generation)
    }

    pub(crate) fn site(&self, site: &store::Site) -> api::Site {
        api::Site {
            id: site.id,
            name: site.name.clone(),
            prefixes: site.prefixes.clone(),
            regions: site.regions.clone(),
            created: created(site.created_ms),
        }
    }

    pub(crate) fn connector(&self, connector: &store::Connector) -> api::Connector {
        api::Connector {
            id: connector.id,
            site: connector.site,
            name: connector.name.clone(),
            identity_key: encode_base64url(&connector.identity_key),
            wireguard_key: encode_base64url(&connector.wireguard_key),
            generation: connector.generation,
            struck: self.struck(RevokedSubject::Connector(connector.id), connector.generation),
            created: created(connector.created_ms),
            live: self.live(Subject::Connector(connector.id)),
        }
    }

    pub(crate) fn pop(&self, pop: &store::Pop) -> api::Pop {
        let seen = self.presence.pop(pop.id);
        api::Pop {
            id: pop.id,
            name: pop.name.clone(),
            region: pop.region.clone(),
            zone: pop.zone.clone(),
            address: pop.address.clone(),
            generation: pop.generation,
            struck: self.struck(RevokedSubject::Pop(pop.id), pop.generation),
            created: created(pop.created_ms),
            attached: seen.is_some_and(|seen| seen.since.is_some()),
            last_seen: seen.map(|seen| rfc3339(seen.last)),
        }
    }

    pub(crate) fn resource(&self, resource: &store::Resource) -> api::Resource {
        let ports = resource.ports.iter().map(|ports| match crate::snapshot::port_range(*ports) {
            Ok(range) => range.to_string(),
            // No snapshot with these is ever served.
            Err(_) => format!("{}-{}", ports.first, ports.last),
        });
        api::Resource {
            id: resource.id,
            site: resource.site,
            name: resource.name.clone(),
            alias: resource.alias.clone(),
            address: resource.address.clone(),
            ports: ports.collect(),
            mode: match resource.mode {
                ResourceMode::Standard => api::Mode::Standard,
                ResourceMode::Strict => api::Mode::Strict,
            },
            created: created(resource.created_ms),
        }
    }

    pub(crate) fn group(&self, group: &store::Group) -> api::Group {
        api::Group {
            id: group.id,
            name: group.name.clone(),
            members: self.members_of(group.id).len(),
            created: created(group.created_ms),
        }
    }

    /// The memberships of a group: they stand together, in the order of their groups.
    pub(crate) fn members_of(&self, group: GroupId) -> &'a [store::Membership] {
        let all = &self.data.memberships;
        let start = all.partition_point(|row| row.group < group);
        let end = start + all[start..].partition_point(|row| row.group == group);
        &all[start..end]
    }

    /// Whether somebody is in a group.
    pub(crate) fn is_member(&self, member: Member, group: &str) -> bool {
        let Ok(group) = group.parse() else { return false };
        self.members_of(group).iter().any(|row| row.member == member)
    }

    fn name_of(&self, member: Member) -> Option<&'a str> {
        let data = self.data;
        match member {
            Member::User(id) => {
                let place = data.users.binary_search_by_key(&id, |row| row.id).ok()?;
                Some(&data.users[place].name)
            }
            Member::ServiceAccount(id) => {
                let place = data.service_accounts.binary_search_by_key(&id, |row| row.id).ok()?;
                Some(&data.service_accounts[place].name)
            }
        }
    }

    pub(crate) fn member_name(&self, member: Member) -> String {
        self.name_of(member).unwrap_or_default().to_owned()
    }

    /// The name as the snapshot has it.
    pub(crate) fn member_name_ref(&self, member: Member) -> &'a str {
        self.name_of(member).unwrap_or_default()
    }

    /// The state of a device as people see it: whatever its row says, what is struck has no access.
    pub(crate) fn device_state(&self, device: &store::Device) -> api::DeviceState {
        let struck = self.struck(RevokedSubject::Device(device.id), device.generation);
        match device.state {
            store::DeviceState::Archived => api::DeviceState::Archived,
            store::DeviceState::Blocked => api::DeviceState::Blocked,
            _ if struck => api::DeviceState::Blocked,
            store::DeviceState::Pending => api::DeviceState::Pending,
            store::DeviceState::Active => api::DeviceState::Active,
        }
    }

    pub(crate) fn membership(&self, membership: &store::Membership) -> api::GroupMember {
        let owner: Owner = crate::snapshot::owner(membership.member);
        let subject = RevokedSubject::membership(owner, membership.group);
        api::GroupMember {
            member: membership.member.to_string(),
            name: self.member_name(membership.member),
            generation: membership.generation,
            struck: self.struck(subject, membership.generation),
        }
    }

    pub(crate) fn user(&self, user: &store::User) -> api::User {
        api::User {
            id: user.id,
            name: user.name.clone(),
            email: user.email.clone(),
            role: role(user.role),
            generation: user.generation,
            struck: self.struck(RevokedSubject::User(user.id), user.generation),
            created: created(user.created_ms),
        }
    }

    pub(crate) fn service_account(&self, account: &store::ServiceAccount) -> api::ServiceAccount {
        api::ServiceAccount {
            id: account.id,
            name: account.name.clone(),
            generation: account.generation,
            struck: self.struck(RevokedSubject::ServiceAccount(account.id), account.generation),
            created: created(account.created_ms),
        }
    }

    pub(crate) fn device(&self, device: &store::Device) -> api::Device {
        api::Device {
            id: device.id,
            owner: device.owner.to_string(),
            owner_name: self.member_name(device.owner),
            name: device.name.clone(),
            state: self.device_state(device),
            identity_key: encode_base64url(&device.identity_key),
            generation: device.generation,
            struck: self.struck(RevokedSubject::Device(device.id), device.generation),
            created: created(device.created_ms),
            live: self.live(Subject::Device(device.id)),
        }
    }

    pub(crate) fn policy(&self, policy: &store::Policy) -> api::Policy {
        api::Policy {
            id: policy.id,
            name: policy.name.clone(),
            groups: policy.groups.clone(),
            resources: policy.resources.clone(),
            created: created(policy.created_ms),
        }
    }

    pub(crate) fn enrolment_key(&self, key: &store::EnrolmentKey) -> api::EnrolmentKey {
        let mut view = api::EnrolmentKey {
            id: key.id,
            kind: api::EnrolmentKind::Pop,
            name: key.name.clone(),
            site: None,
            owner: None,
            region: None,
            zone: None,
            cap: key.cap,
            uses: key.uses,
            approval: key.approval,
            expires: created(key.expires_ms),
            created: created(key.created_ms),
        };
        match &key.target {
            EnrolmentTarget::Pop { region, zone } => {
                view.region = Some(region.clone());
                view.zone = Some(zone.clone());
            }
            EnrolmentTarget::Connector { site } => {
                view.kind = api::EnrolmentKind::Connector;
                view.site = Some(*site);
            }
            EnrolmentTarget::Device { owner } => {
                view.kind = api::EnrolmentKind::Device;
                view.owner = Some(owner.to_string());
            }
        }
        view
    }

    pub(crate) fn token(&self, token: &store::Token) -> api::Token {
        let scopes =
            token.scopes.iter().filter_map(|scope| serde_json::from_value(scope.as_str().into()).ok());
        api::Token {
            id: token.id,
            name: token.name.clone(),
            scopes: scopes.collect(),
            role: super::caller::of_token(&token.scopes).0.map(role),
            expires: created(token.expires_ms),
            created: created(token.created_ms),
        }
    }

    /// The device as a session, when it has one; [`Self::with_paths`] adds the ways.
    pub(crate) fn device_session(&self, device: &store::Device) -> Option<api::Session> {
        let seen = self.attached(Subject::Device(device.id))?;
        Some(api::Session {
            id: device.id.to_string(),
            kind: api::SessionKind::Device,
            name: device.name.clone(),
            owner: Some(device.owner.to_string()),
            owner_name: Some(self.member_name(device.owner)),
            site: None,
            pops: seen.attached.iter().copied().collect(),
            pops_by_tcp: seen.by_stream.iter().copied().collect(),
            paths: None,
            path_counts: None,
            since: rfc3339(seen.since),
            last_seen: rfc3339(seen.last),
        })
    }

    /// The connector as a session, when it has one.
    pub(crate) fn connector_session(&self, connector: &store::Connector) -> Option<api::Session> {
        let seen = self.attached(Subject::Connector(connector.id))?;
        Some(api::Session {
            id: connector.id.to_string(),
            kind: api::SessionKind::Connector,
            name: connector.name.clone(),
            owner: None,
            owner_name: None,
            site: Some(connector.site.to_string()),
            pops: seen.attached.iter().copied().collect(),
            pops_by_tcp: seen.by_stream.iter().copied().collect(),
            paths: None,
            path_counts: None,
            since: rfc3339(seen.since),
            last_seen: rfc3339(seen.last),
        })
    }

    /// A session with the ways that packets go. Apart from the rest: only a page's own rows are looked up.
    pub(crate) fn with_paths(&self, session: &api::Session, paths: &Paths, now: UnixMs) -> api::Session {
        let mut session = session.clone();
        if let Ok(device) = session.id.parse() {
            let of = |row| self.path_of(row, device, paths, now);
            session.paths = Some(self.data.connectors.iter().filter_map(of).collect());
        } else if let Ok(connector) = session.id.parse() {
            let mut counts = api::SessionPathCounts::default();
            for path in paths.of_connector(connector, &self.presence, now) {
                match path.way {
                    Way::Direct => counts.direct += 1,
                    Way::Relay(_) => counts.relay += 1,
                    Way::Tcp(_) => counts.tcp += 1,
                }
            }
            session.path_counts = Some(counts);
        }
        session
    }

    fn path_of(
        &self,
        connector: &store::Connector,
        device: DeviceId,
        paths: &Paths,
        now: UnixMs,
    ) -> Option<api::SessionPath> {
        let path = paths.of(connector.id, device, &self.presence, now)?;
        let (kind, pop) = match path.way {
            Way::Direct => (api::PathKind::Direct, None),
            Way::Relay(pop) => (api::PathKind::Relay, Some(pop)),
            Way::Tcp(pop) => (api::PathKind::Tcp, Some(pop)),
        };
        let connector_transport = path.connector_side.map(|side| match side {
            ConnectorSide::Udp => api::PathTransport::Udp,
            ConnectorSide::Tcp => api::PathTransport::Tcp,
        });
        Some(api::SessionPath {
            connector: connector.id,
            connector_name: connector.name.clone(),
            kind,
            pop,
            connector_transport,
            since: rfc3339(path.at),
        })
    }

    fn attached(&self, subject: Subject) -> Option<&crate::presence::Seen> {
        self.presence.of(subject).filter(|seen| !seen.attached.is_empty())
    }
}

/// A role as the API says it.
pub(crate) const fn role(role: store::Role) -> api::Role {
    match role {
        store::Role::Owner => api::Role::Owner,
        store::Role::Admin => api::Role::Admin,
        store::Role::NetworkAdmin => api::Role::NetworkAdmin,
        store::Role::Support => api::Role::Support,
        store::Role::Auditor => api::Role::Auditor,
        store::Role::Member => api::Role::Member,
    }
}

/// A role as it is kept.
pub(crate) const fn stored_role(role: api::Role) -> store::Role {
    match role {
        api::Role::Owner => store::Role::Owner,
        api::Role::Admin => store::Role::Admin,
        api::Role::NetworkAdmin => store::Role::NetworkAdmin,
        api::Role::Support => store::Role::Support,
        api::Role::Auditor => store::Role::Auditor,
        api::Role::Member => store::Role::Member,
    }
}

pub(crate) fn settings(row: &store::Organization) -> api::Settings {
    api::Settings {
        id: row.id,
        name: row.name.clone(),
        grant_life_seconds: row.grant_life_ms / 1000,
        renew_after_seconds: row.renew_after_ms / 1000,
        approve_devices: row.approve_devices,
        audit_retention_days: row.audit_retention_days,
        flow_retention_days: row.flow_retention_days,
        sign_in_age_seconds: row.sign_in_age_ms / 1000,
    }
}

pub(crate) fn organization(row: &store::Organization) -> api::Organization {
    api::Organization {
        id: row.id,
        name: row.name.clone(),
        incarnation: row.version.incarnation,
        version: row.version.version,
        grant_life_seconds: row.grant_life_ms / 1000,
        renew_after_seconds: row.renew_after_ms / 1000,
        created: created(row.created_ms),
        closed: row.is_closed().then(|| created(row.closed_ms)),
    }
}
