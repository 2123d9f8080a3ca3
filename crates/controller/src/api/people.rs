//! Groups with their members, people, service accounts and devices.

use super::{
    Answer, Made, Problem, Removed, Views,
    caller::Caller,
    check, fresh, page, reads,
    removal::{Removal, strike_and_remove},
    request::{Body, Id, Params, TwoIds},
    shrink::{Shrink, ShrinkParams},
    types::{
        Device, Group, GroupMember, NameInput, Page, PageQuery, ServiceAccount, StrikeOutcome, User,
        UserInput,
    },
};
use crate::{clock, parts::Core, snapshot::owner};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;
use store::{Member, Scope};
use trust::RevokedSubject;
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{DeviceId, GroupId, ServiceAccountId, UserId};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_groups, create_group))
        .routes(routes!(get_group, rename_group, delete_group))
        .routes(routes!(list_members))
        .routes(routes!(add_member, remove_member))
        .routes(routes!(list_users, create_user))
        .routes(routes!(get_user, replace_user, delete_user))
        .routes(routes!(list_service_accounts, create_service_account))
        .routes(routes!(get_service_account, delete_service_account))
        .routes(routes!(list_devices))
        .routes(routes!(get_device, rename_device, delete_device))
}

reads!(list_groups, get_group, "/groups", "/groups/{id}", "groups", "group", GroupId, Group, groups, group);
reads!(list_users, get_user, "/users", "/users/{id}", "users", "user", UserId, User, users, user);
reads!(
    list_service_accounts,
    get_service_account,
    "/service-accounts",
    "/service-accounts/{id}",
    "service accounts",
    "service account",
    ServiceAccountId,
    ServiceAccount,
    service_accounts,
    service_account
);
reads!(
    list_devices,
    get_device,
    "/devices",
    "/devices/{id}",
    "devices",
    "device",
    DeviceId,
    Device,
    devices,
    device
);

/// Makes a group.
#[utoipa::path(post, path = "/groups", tag = "groups", request_body = NameInput, responses((status = 201, description = "Made", body = Group)))]
async fn create_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<NameInput>,
) -> Made<Group> {
    let id = fresh(GroupId::from_time_and_random);
    let name = check::name("name", &input.name)?;
    let group = store::Group { id, name, created_ms: clock::wall().as_millis() };
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_group(&group).await?;
    core.commit(&store, change, "create group", &id.to_string(), &json!({"name": group.name})).await?;
    let snapshot = core.snapshot();
    Ok((StatusCode::CREATED, Json(Views::new(&core, caller.data(&snapshot)?).group(&group))))
}

/// Gives a group another name.
#[utoipa::path(put, path = "/groups/{id}", tag = "groups", params(("id" = String, Path, description = "Its id")), request_body = NameInput, responses((status = 200, description = "Renamed", body = Group)))]
async fn rename_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<GroupId>,
    Body(input): Body<NameInput>,
) -> Answer<Group> {
    let name = check::name("name", &input.name)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.rename_group(id, &name).await?;
    core.commit(&store, change, "rename group", &id.to_string(), &json!({"name": name})).await?;
    get_group(State(core), caller, Id(id)).await
}

/// Removes a group: connectors get slices without it.
#[utoipa::path(delete, path = "/groups/{id}", tag = "groups", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 204, description = "Removed")))]
async fn delete_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<GroupId>,
    Params(params): Params<ShrinkParams>,
) -> Removed {
    let snapshot = core.snapshot();
    let shrink = params.check(caller.data(&snapshot)?, |left| {
        left.groups.retain(|group| group.id != id);
        left.memberships.retain(|membership| membership.group != id);
        left.policies.iter_mut().for_each(|policy| policy.groups.retain(|group| *group != id));
    })?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.delete_group(id).await?;
    shrink.note(&mut change).await?;
    core.commit(&store, change, "delete group", &id.to_string(), &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the members of a group.
#[utoipa::path(get, path = "/groups/{id}/members", tag = "groups", params(("id" = String, Path, description = "The group's id"), PageQuery), responses((status = 200, description = "One page", body = Page<GroupMember>)))]
async fn list_members(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<GroupId>,
    Params(query): Params<PageQuery>,
) -> Answer<Page<GroupMember>> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    if !views.data.groups.iter().any(|group| group.id == id) {
        return Err(Problem::not_found("group", id.to_string()));
    }
    let rows: Vec<_> = views.data.memberships.iter().filter(|membership| membership.group == id).collect();
    page(&rows, &query, |row| row.member.to_string(), |row| views.membership(row)).map(Json)
}

/// Puts a user or service account into a group. Joining again raises the membership's generation.
#[utoipa::path(put, path = "/groups/{id}/members/{member}", tag = "groups", params(("id" = String, Path, description = "The group's id"), ("member" = String, Path, description = "`usr-…` or `svc-…`")), responses((status = 200, description = "A member", body = GroupMember)))]
async fn add_member(
    State(core): State<Arc<Core>>,
    caller: Caller,
    TwoIds(id, member): TwoIds<GroupId, Member>,
) -> Answer<GroupMember> {
    let subject = format!("{member}/{id}");
    let revoked = RevokedSubject::membership(owner(member), id);
    let struck = core.strikes.set().struck_generation(revoked).unwrap_or(0);
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    let generation = change.add_member(id, member, struck).await?;
    core.commit(&store, change, "add member", &subject, &json!({"generation": generation})).await?;
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    Ok(Json(views.membership(&store::Membership { group: id, member, generation })))
}

/// Takes a user or service account out of a group: the membership is revoked at once, also when the
/// database cannot be written (then the answer is 503 and the row follows with the next try).
#[utoipa::path(delete, path = "/groups/{id}/members/{member}", tag = "groups", params(("id" = String, Path, description = "The group's id"), ("member" = String, Path, description = "`usr-…` or `svc-…`")), responses((status = 200, description = "No member any more", body = StrikeOutcome)))]
async fn remove_member(
    State(core): State<Arc<Core>>,
    caller: Caller,
    TwoIds(id, member): TwoIds<GroupId, Member>,
) -> Answer<StrikeOutcome> {
    let subject_text = format!("{member}/{id}");
    let snapshot = core.snapshot();
    let mut rows = caller.data(&snapshot)?.memberships.iter();
    let row = rows.find(|row| row.group == id && row.member == member);
    let generation = row.ok_or_else(|| Problem::not_found("membership", subject_text.as_str()))?.generation;
    strike_and_remove(core, caller, Removal::Membership(id, member), generation).await.map(Json)
}

/// Makes a person.
#[utoipa::path(post, path = "/users", tag = "users", request_body = UserInput, responses((status = 201, description = "Made", body = User)))]
async fn create_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<UserInput>,
) -> Made<User> {
    let user = store::User {
        id: fresh(UserId::from_time_and_random),
        name: check::name("name", &input.name)?,
        email: check::email("email", &input.email)?,
        generation: 1,
        created_ms: clock::wall().as_millis(),
    };
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_user(&user).await?;
    core.commit(&store, change, "create user", &user.id.to_string(), &json!({"email": user.email})).await?;
    let snapshot = core.snapshot();
    Ok((StatusCode::CREATED, Json(Views::new(&core, caller.data(&snapshot)?).user(&user))))
}

/// Changes a person's name and address.
#[utoipa::path(put, path = "/users/{id}", tag = "users", params(("id" = String, Path, description = "Its id")), request_body = UserInput, responses((status = 200, description = "Replaced", body = User)))]
async fn replace_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<UserId>,
    Body(input): Body<UserInput>,
) -> Answer<User> {
    let (name, email) = (check::name("name", &input.name)?, check::email("email", &input.email)?);
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.update_user(id, &name, &email).await?;
    core.commit(&store, change, "replace user", &id.to_string(), &json!({"email": email})).await?;
    get_user(State(core), caller, Id(id)).await
}

/// A person or service account goes with its devices and memberships.
fn without_member(
    params: &ShrinkParams,
    data: &store::OrganizationData,
    member: Member,
) -> Result<Shrink, Problem> {
    params.check(data, |left| {
        left.devices.retain(|device| device.owner != member);
        left.memberships.retain(|membership| membership.member != member);
    })
}

/// Revokes a person, then removes it with its devices, memberships and keys.
#[utoipa::path(delete, path = "/users/{id}", tag = "users", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<UserId>,
    Params(params): Params<ShrinkParams>,
) -> Answer<StrikeOutcome> {
    let snapshot = core.snapshot();
    let shrink = without_member(&params, caller.data(&snapshot)?, Member::User(id))?;
    let row = caller.data(&snapshot)?.users.iter().find(|user| user.id == id);
    let generation = row.ok_or_else(|| Problem::not_found("user", id.to_string()))?.generation;
    strike_and_remove(core, caller, Removal::Member(Member::User(id), shrink), generation).await.map(Json)
}

/// Makes a service account.
#[utoipa::path(post, path = "/service-accounts", tag = "service accounts", request_body = NameInput, responses((status = 201, description = "Made", body = ServiceAccount)))]
async fn create_service_account(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<NameInput>,
) -> Made<ServiceAccount> {
    let account = store::ServiceAccount {
        id: fresh(ServiceAccountId::from_time_and_random),
        name: check::name("name", &input.name)?,
        generation: 1,
        created_ms: clock::wall().as_millis(),
    };
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_service_account(&account).await?;
    let detail = json!({"name": account.name});
    core.commit(&store, change, "create service account", &account.id.to_string(), &detail).await?;
    let snapshot = core.snapshot();
    Ok((StatusCode::CREATED, Json(Views::new(&core, caller.data(&snapshot)?).service_account(&account))))
}

/// Revokes a service account, then removes it with its devices, memberships and keys.
#[utoipa::path(delete, path = "/service-accounts/{id}", tag = "service accounts", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_service_account(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<ServiceAccountId>,
    Params(params): Params<ShrinkParams>,
) -> Answer<StrikeOutcome> {
    let snapshot = core.snapshot();
    let shrink = without_member(&params, caller.data(&snapshot)?, Member::ServiceAccount(id))?;
    let row = caller.data(&snapshot)?.service_accounts.iter().find(|account| account.id == id);
    let generation = row.ok_or_else(|| Problem::not_found("service account", id.to_string()))?.generation;
    let removal = Removal::Member(Member::ServiceAccount(id), shrink);
    strike_and_remove(core, caller, removal, generation).await.map(Json)
}

/// Gives a device another name.
#[utoipa::path(put, path = "/devices/{id}", tag = "devices", params(("id" = String, Path, description = "Its id")), request_body = NameInput, responses((status = 200, description = "Renamed", body = Device)))]
async fn rename_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<DeviceId>,
    Body(input): Body<NameInput>,
) -> Answer<Device> {
    let name = check::name("name", &input.name)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.rename_device(id, &name).await?;
    core.commit(&store, change, "rename device", &id.to_string(), &json!({"name": name})).await?;
    get_device(State(core), caller, Id(id)).await
}

/// Revokes a device, then removes it.
#[utoipa::path(delete, path = "/devices/{id}", tag = "devices", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<DeviceId>,
) -> Answer<StrikeOutcome> {
    let snapshot = core.snapshot();
    let row = caller.data(&snapshot)?.devices.iter().find(|device| device.id == id);
    let generation = row.ok_or_else(|| Problem::not_found("device", id.to_string()))?.generation;
    strike_and_remove(core, caller, Removal::Device(id), generation).await.map(Json)
}
