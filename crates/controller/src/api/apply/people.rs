//! Groups with their members, people with their roles, service accounts and devices.

use super::super::{
    Problem,
    accounts::{EndWebSessionsInput, Invitation, InvitationInput},
    check, fresh,
    operate::Work,
    operation::Applied,
    ownership,
    types::{NameInput, Role, UserInput},
    view::{rfc3339, stored_role},
};
use crate::{clock, signin, snapshot::owner};
use http::StatusCode;
use serde_json::Value;
use store::{DeviceState, Member, StoreError};
use trust::{RevokedSubject, UnixMs};
use wire::{DeviceId, GroupId, ServiceAccountId, UserId};

async fn group_row(work: &mut Work, id: GroupId) -> Result<store::Group, Problem> {
    work.change.group(id).await?.ok_or_else(|| Problem::not_found("group", id.to_string()))
}

pub(super) async fn group(work: &mut Work, id: GroupId) -> Result<Value, Problem> {
    let row = group_row(work, id).await?;
    work.show(|views| views.group(&row))
}

pub(super) async fn create_group(work: &mut Work, input: &NameInput) -> Result<Applied, Problem> {
    let id = fresh(GroupId::from_time_and_random);
    let row =
        store::Group { id, name: check::name("name", &input.name)?, created_ms: clock::wall().as_millis() };
    work.change.insert_group(&row).await?;
    let after = work.show(|views| views.group(&row))?;
    work.noted("create group", &id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

pub(super) async fn rename_group(
    work: &mut Work,
    id: GroupId,
    input: &NameInput,
) -> Result<Applied, Problem> {
    let mut row = group_row(work, id).await?;
    let before = work.show(|views| views.group(&row))?;
    work.unchanged(&before, input)?;
    row.name = check::name("name", &input.name)?;
    work.change.rename_group(id, &row.name).await?;
    let after = work.show(|views| views.group(&row))?;
    work.noted("rename group", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

pub(super) async fn delete_group(work: &mut Work, id: GroupId) -> Result<Applied, Problem> {
    let before = group(work, id).await?;
    work.unchanged(&before, &Value::Null)?;
    work.left.without(|left| {
        left.groups.retain(|group| group.id != id);
        left.memberships.retain(|membership| membership.group != id);
        left.policies.iter_mut().for_each(|policy| policy.groups.retain(|group| *group != id));
    });
    work.change.delete_group(id).await?;
    work.noted("delete group", &id, Some(before), None);
    Ok(Applied::removed())
}

pub(super) async fn add_member(work: &mut Work, group: GroupId, member: Member) -> Result<Applied, Problem> {
    let revoked = RevokedSubject::membership(owner(member), group);
    let struck = work.core.strikes.set().struck_generation(revoked).unwrap_or(0);
    let generation = work.change.add_member(group, member, struck).await?;
    let after = work.show(|views| views.membership(&store::Membership { group, member, generation }))?;
    work.noted("add member", &format!("{member}/{group}"), None, Some(after.clone()));
    Ok(Applied::changed(after))
}

async fn user_row(work: &mut Work, id: UserId) -> Result<store::User, Problem> {
    work.change.user(id).await?.ok_or_else(|| Problem::not_found("user", id.to_string()))
}

pub(super) async fn user(work: &mut Work, id: UserId) -> Result<Value, Problem> {
    let row = user_row(work, id).await?;
    work.show(|views| views.user(&row))
}

/// Whoever gives a role has it, and may give roles.
fn may_give(work: &Work, role: store::Role) -> Result<(), Problem> {
    if role == store::Role::Member {
        return Ok(());
    }
    work.caller.need(super::super::roles::Permission::Roles)?;
    work.caller.need_fresh(&work.core)?;
    work.caller.need_to_cover(role)
}

pub(super) async fn create_user(work: &mut Work, input: &UserInput) -> Result<Applied, Problem> {
    let role = input.role.map_or(store::Role::Member, stored_role);
    may_give(work, role)?;
    let row = store::User {
        id: fresh(UserId::from_time_and_random),
        name: check::name("name", &input.name)?,
        email: check::email("email", &input.email)?,
        role,
        generation: 1,
        created_ms: clock::wall().as_millis(),
    };
    work.change.insert_user(&row).await?;
    let after = work.show(|views| views.user(&row))?;
    work.noted("create user", &row.id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

pub(super) async fn replace_user(work: &mut Work, id: UserId, input: &UserInput) -> Result<Applied, Problem> {
    let mut row = user_row(work, id).await?;
    work.caller.need_to_cover(row.role)?;
    let before = work.show(|views| views.user(&row))?;
    work.unchanged(&before, input)?;
    (row.name, row.email) = (check::name("name", &input.name)?, check::email("email", &input.email)?);
    work.change.update_user(id, &row.name, &row.email).await?;
    if let Some(role) = input.role.map(stored_role).filter(|role| *role != row.role) {
        change_role(work, &mut row, role).await?;
    }
    let after = work.show(|views| views.user(&row))?;
    work.noted("replace user", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

async fn change_role(work: &mut Work, row: &mut store::User, role: store::Role) -> Result<(), Problem> {
    work.caller.need(super::super::roles::Permission::Roles)?;
    work.caller.need_fresh(&work.core)?;
    may_give(work, role)?;
    if row.role == store::Role::Owner && role != store::Role::Owner {
        let owners = work.change.owners().await?;
        ownership::keep_one(&work.core, &work.caller, row.id, &owners)?;
    }
    row.role = role;
    Ok(work.change.set_role(row.id, role).await?)
}

pub(super) async fn set_role(work: &mut Work, id: UserId, role: Role) -> Result<Applied, Problem> {
    let mut row = user_row(work, id).await?;
    work.caller.need_to_cover(row.role)?;
    let before = work.show(|views| views.user(&row))?;
    work.unchanged(&before, &serde_json::json!({"role": role}))?;
    change_role(work, &mut row, stored_role(role)).await?;
    let after = work.show(|views| views.user(&row))?;
    work.noted("set role", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

pub(super) async fn create_service_account(work: &mut Work, input: &NameInput) -> Result<Applied, Problem> {
    let row = store::ServiceAccount {
        id: fresh(ServiceAccountId::from_time_and_random),
        name: check::name("name", &input.name)?,
        generation: 1,
        created_ms: clock::wall().as_millis(),
    };
    work.change.insert_service_account(&row).await?;
    let after = work.show(|views| views.service_account(&row))?;
    work.noted("create service account", &row.id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

pub(super) async fn rename_service_account(
    work: &mut Work,
    id: ServiceAccountId,
    input: &NameInput,
) -> Result<Applied, Problem> {
    let row = work.change.service_account(id).await?;
    let mut row = row.ok_or_else(|| Problem::not_found("service account", id.to_string()))?;
    let before = work.show(|views| views.service_account(&row))?;
    work.unchanged(&before, input)?;
    row.name = check::name("name", &input.name)?;
    work.change.rename_service_account(id, &row.name).await?;
    let after = work.show(|views| views.service_account(&row))?;
    work.noted("rename service account", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

async fn device_row(work: &mut Work, id: DeviceId) -> Result<store::Device, Problem> {
    work.change.device(id).await?.ok_or_else(|| Problem::not_found("device", id.to_string()))
}

pub(super) async fn rename_device(
    work: &mut Work,
    id: DeviceId,
    input: &NameInput,
) -> Result<Applied, Problem> {
    let mut row = device_row(work, id).await?;
    let before = work.show(|views| views.device(&row))?;
    work.unchanged(&before, input)?;
    row.name = check::name("name", &input.name)?;
    work.change.rename_device(id, &row.name).await?;
    let after = work.show(|views| views.device(&row))?;
    work.noted("rename device", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

/// A link into an account: whoever gets in may do what its person may.
/// Whose account it is about. Who gets into an account may do what its person may.
async fn account_of(work: &mut Work, text: &str) -> Result<UserId, Problem> {
    let id: UserId = check::parsed("user", text)?;
    let row = work.change.user(id).await?;
    let unknown = || Problem::invalid("user", "the id of a user of this organization", text);
    work.caller.need_to_cover(row.ok_or_else(unknown)?.role)?;
    Ok(id)
}

pub(super) async fn create_invitation(work: &mut Work, input: &InvitationInput) -> Result<Applied, Problem> {
    let id = account_of(work, &input.user).await?;
    let (link, row) = signin::invitation_link(&work.core.url, id);
    work.change.insert_account_link(&row).await?;
    work.noted("create invitation", &id, None, None);
    let expires = rfc3339(UnixMs::from_millis(row.expires_ms));
    Ok(Applied::made(
        serde_json::to_value(Invitation { link, expires }).expect("what the API says always serializes"),
    ))
}

pub(super) async fn end_web_sessions(
    work: &mut Work,
    input: &EndWebSessionsInput,
) -> Result<Applied, Problem> {
    let id = account_of(work, &input.user).await?;
    let from_ms = work.core.signer.best_time().as_millis() + 1;
    let ended = work.change.end_sessions(id, from_ms).await;
    if let Err(StoreError::NotFound { .. }) = ended {
        return Err(Problem::not_found("account", id.to_string()));
    }
    ended?;
    work.noted("end web sessions", &id, None, None);
    Ok(Applied::removed())
}

pub(super) async fn approve_device(work: &mut Work, id: DeviceId) -> Result<Applied, Problem> {
    let mut row = device_row(work, id).await?;
    let before = work.show(|views| views.device(&row))?;
    work.unchanged(&before, &Value::Null)?;
    if row.state != DeviceState::Pending {
        let word = before["state"].clone();
        let mut problem = Problem::new(
            StatusCode::CONFLICT,
            "not-pending",
            "The device waits for nobody",
            "expected a device that waits for approval; access that was revoked is given back by POST /restores",
        );
        problem.field = Some("state".into());
        problem.rule = Some("pending".into());
        problem.value = Some(word);
        return Err(problem);
    }
    row.state = DeviceState::Active;
    work.change.set_device_state(id, row.state).await?;
    let after = work.show(|views| views.device(&row))?;
    work.noted("approve device", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}
