//! From rows, presence and strikes to what the API says.

use super::types as api;
use crate::{parts::Core, presence::Presence};
use std::sync::{Arc, MutexGuard};
use store::{EnrolmentTarget, Member, OrganizationData, ResourceMode};
use trust::{Owner, RevocationSet, RevokedSubject, Subject, UnixMs, encode_base64url};

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
            members: self.data.memberships.iter().filter(|membership| membership.group == group.id).count(),
            created: created(group.created_ms),
        }
    }

    pub(crate) fn member_name(&self, member: Member) -> String {
        let name = match member {
            Member::User(id) => self.data.users.iter().find(|user| user.id == id).map(|user| &user.name),
            Member::ServiceAccount(id) => self
                .data
                .service_accounts
                .iter()
                .find(|account| account.id == id)
                .map(|account| &account.name),
        };
        name.cloned().unwrap_or_default()
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
            expires: created(token.expires_ms),
            created: created(token.created_ms),
        }
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
    }
}
