//! What ends access by a strike first: it ends at once, also while the database cannot be used, and the row follows.

use super::{Problem, Views, caller::Caller, left::Left, ownership};
use crate::{
    parts::{Core, StrikeRequest},
    snapshot::{Snapshot, owner},
};
use serde_json::{Value, json};
use store::{Change, DeviceState, Member, OrganizationData, Role, Scope};
use trust::RevokedSubject;
use wire::{ConnectorId, DeviceId, GroupId, PopId, UserId};

/// What is removed, or kept without access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removal {
    Device(DeviceId),
    Block(DeviceId),
    Archive(DeviceId),
    Member(Member),
    Membership(GroupId, Member),
    Connector(ConnectorId),
    Pop(PopId),
}

/// What is there of it now.
pub(super) struct Found {
    pub(super) generation: u64,
    /// As the API shows it.
    pub(super) object: Value,
}

fn value(view: &impl serde::Serialize) -> Value {
    serde_json::to_value(view).expect("what the API says always serializes")
}

impl Removal {
    pub(super) const fn subject(self) -> RevokedSubject {
        match self {
            Self::Device(id) | Self::Block(id) | Self::Archive(id) => RevokedSubject::Device(id),
            Self::Member(member) => RevokedSubject::owner(owner(member)),
            Self::Membership(group, member) => RevokedSubject::membership(owner(member), group),
            Self::Connector(id) => RevokedSubject::Connector(id),
            Self::Pop(id) => RevokedSubject::Pop(id),
        }
    }

    pub(super) const fn action(self) -> &'static str {
        match self {
            Self::Device(_) => "delete device",
            Self::Block(_) => "block device",
            Self::Archive(_) => "archive device",
            Self::Member(Member::User(_)) => "delete user",
            Self::Member(Member::ServiceAccount(_)) => "delete service account",
            Self::Membership(..) => "remove member",
            Self::Connector(_) => "delete connector",
            Self::Pop(_) => "delete pop",
        }
    }

    pub(super) const fn scope(self, caller: &Caller) -> Scope {
        match self {
            Self::Pop(_) => Scope::Installation,
            _ => Scope::Organization(caller.organization),
        }
    }

    /// The kind and id, for saying that there is none.
    pub(super) fn none(self) -> Problem {
        match self {
            Self::Device(id) | Self::Block(id) | Self::Archive(id) => {
                Problem::not_found("device", id.to_string())
            }
            Self::Member(Member::User(id)) => Problem::not_found("user", id.to_string()),
            Self::Member(Member::ServiceAccount(id)) => Problem::not_found("service account", id.to_string()),
            Self::Membership(group, member) => Problem::not_found("membership", format!("{member}/{group}")),
            Self::Connector(id) => Problem::not_found("connector", id.to_string()),
            Self::Pop(id) => Problem::not_found("PoP", id.to_string()),
        }
    }

    /// What memory has of it.
    pub(super) fn find(self, core: &Core, snapshot: &Snapshot, data: &OrganizationData) -> Option<Found> {
        let views = Views::new(core, data);
        match self {
            Self::Device(id) | Self::Block(id) | Self::Archive(id) => {
                let row = &data.devices[data.devices.binary_search_by_key(&id, |row| row.id).ok()?];
                Some(Found { generation: row.generation, object: value(&views.device(row)) })
            }
            Self::Member(Member::User(id)) => {
                let row = &data.users[data.users.binary_search_by_key(&id, |row| row.id).ok()?];
                Some(Found { generation: row.generation, object: value(&views.user(row)) })
            }
            Self::Member(Member::ServiceAccount(id)) => {
                let all = &data.service_accounts;
                let row = &all[all.binary_search_by_key(&id, |row| row.id).ok()?];
                Some(Found { generation: row.generation, object: value(&views.service_account(row)) })
            }
            Self::Membership(group, member) => {
                let row = views.members_of(group).iter().find(|row| row.member == member)?;
                Some(Found { generation: row.generation, object: value(&views.membership(row)) })
            }
            Self::Connector(id) => {
                let row = &data.connectors[data.connectors.binary_search_by_key(&id, |row| row.id).ok()?];
                Some(Found { generation: row.generation, object: value(&views.connector(row)) })
            }
            Self::Pop(id) => {
                let all = &snapshot.dataset.pops;
                let row = &all[all.binary_search_by_key(&id, |row| row.id).ok()?];
                Some(Found { generation: row.generation, object: value(&views.pop(row)) })
            }
        }
    }

    /// The person who goes, where it is one.
    pub(super) const fn person(self) -> Option<UserId> {
        match self {
            Self::Member(Member::User(id)) => Some(id),
            _ => None,
        }
    }

    /// Whether the caller may, by what memory has.
    pub(super) fn allowed(
        self,
        core: &Core,
        caller: &Caller,
        data: &OrganizationData,
    ) -> Result<(), Problem> {
        let Some(id) = self.person() else { return Ok(()) };
        let Ok(place) = data.users.binary_search_by_key(&id, |row| row.id) else { return Ok(()) };
        let owners = data.users.iter().filter(|row| row.role == Role::Owner);
        let owners: Vec<_> = owners.map(|row| (row.id, row.generation)).collect();
        ownership::may_go(core, caller, id, data.users[place].role, &owners)
    }

    /// Takes it from what is left: a person or service account goes with its devices and memberships. What is only kept
    /// without access stays, and PoPs are of no organization.
    pub(super) fn take_from(self, left: &mut Left) {
        left.without(|data| match self {
            Self::Device(id) => data.devices.retain(|row| row.id != id),
            Self::Connector(id) => data.connectors.retain(|row| row.id != id),
            Self::Membership(group, member) => {
                data.memberships.retain(|row| (row.group, row.member) != (group, member));
            }
            Self::Member(member) => {
                match member {
                    Member::User(id) => data.users.retain(|row| row.id != id),
                    Member::ServiceAccount(id) => data.service_accounts.retain(|row| row.id != id),
                }
                data.devices.retain(|device| device.owner != member);
                data.memberships.retain(|membership| membership.member != member);
            }
            Self::Block(_) | Self::Archive(_) | Self::Pop(_) => {}
        });
    }

    pub(super) fn request(self, caller: &Caller, generation: u64) -> StrikeRequest {
        let organization = match self.scope(caller) {
            Scope::Installation => None,
            Scope::Organization(id) => Some(id),
        };
        StrikeRequest {
            subject: self.subject(),
            generation,
            organization,
            actor: caller.actor.clone(),
            source: caller.origin.source(),
            request: caller.origin.request.clone(),
        }
    }

    /// Writes what is left of it.
    pub(super) async fn write(self, change: &mut Change, found: &Found) -> Result<(), Problem> {
        let before = found.object.clone();
        let mut after = None;
        match self {
            Self::Device(id) => change.delete_device(id).await?,
            Self::Block(id) | Self::Archive(id) => {
                let (state, word) = match self {
                    Self::Block(_) => (DeviceState::Blocked, "blocked"),
                    _ => (DeviceState::Archived, "archived"),
                };
                change.set_device_state(id, state).await?;
                let mut object = before.clone();
                object["state"] = word.into();
                after = Some(object);
            }
            Self::Member(member) => change.delete_member(member).await?,
            Self::Membership(group, member) => change.remove_member(group, member).await?,
            Self::Connector(id) => change.delete_connector(id).await?,
            Self::Pop(id) => change.delete_pop(id).await?,
        }
        let subject = self.subject().to_string();
        change.note(super::operate::noted(self.action(), &subject, Some(before), after, json!({})));
        Ok(())
    }
}
