//! Groups with their members, people, service accounts and devices: the endpoints. What they do is in [`super::apply`].

use super::{
    Problem, Views,
    caller::Caller,
    left::ShrinkParams,
    list::Wanted,
    listed::{Devices, EnrolmentKeys, Groups, Members, ServiceAccounts, Users},
    operate::{Intent, operate},
    operation::{Operation, Patched},
    reads,
    removal::Removal,
    request::{Body, Id, Params, TwoIds},
    roles,
    tag::Tagged,
    types::{
        Device, EnrolmentKey, EnrolmentKeyCreated, Group, GroupMember, NameInput, NamePatch, Page, RoleInput,
        RoleView, Roles, ServiceAccount, ServiceAccountKeyInput, StrikeOutcome, User, UserInput, UserPatch,
    },
    view,
};
use crate::parts::Core;
use axum::extract::State;
use serde_json::{Map, Value};
use std::sync::Arc;
use store::{EnrolmentTarget, Member};
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{DeviceId, GroupId, ServiceAccountId, UserId};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_groups, create_group))
        .routes(routes!(get_group, rename_group, change_group, delete_group))
        .routes(routes!(list_members))
        .routes(routes!(add_member, remove_member))
        .routes(routes!(list_users, create_user))
        .routes(routes!(get_user, replace_user, change_user, delete_user))
        .routes(routes!(set_role))
        .routes(routes!(list_roles))
        .routes(routes!(list_service_accounts, create_service_account))
        .routes(routes!(get_service_account, rename_service_account, delete_service_account))
        .routes(routes!(list_service_account_keys, create_service_account_key))
        .routes(routes!(list_devices))
        .routes(routes!(get_device, rename_device, delete_device))
        .routes(routes!(approve_device))
        .routes(routes!(block_device))
        .routes(routes!(archive_device))
}

reads!(
    list_groups,
    get_group,
    "/groups",
    "/groups/{id}",
    "groups",
    "group",
    GroupId,
    Group,
    groups,
    group,
    Groups
);
reads!(list_users, get_user, "/users", "/users/{id}", "users", "user", UserId, User, users, user, Users);
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
    service_account,
    ServiceAccounts
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
    device,
    Devices
);

/// Makes a group.
#[utoipa::path(post, path = "/groups", tag = "groups", request_body = NameInput, responses((status = 201, description = "Made", body = Group)))]
async fn create_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<NameInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateGroup(input)).await
}

/// Gives a group another name.
#[utoipa::path(put, path = "/groups/{id}", tag = "groups", params(("id" = String, Path, description = "Its id")), request_body = NameInput, responses((status = 200, description = "Renamed", body = Group)))]
async fn rename_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<GroupId>,
    Body(input): Body<NameInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::RenameGroup(id, input)).await
}

/// Changes the values given (RFC 7396).
#[utoipa::path(patch, path = "/groups/{id}", tag = "groups", params(("id" = String, Path, description = "Its id")), request_body = NamePatch, responses((status = 200, description = "Changed", body = Group)))]
async fn change_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<GroupId>,
    Body(members): Body<Map<String, Value>>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Patch(Patched::Group(id), members)).await
}

/// Removes a group: connectors get slices without it.
#[utoipa::path(delete, path = "/groups/{id}", tag = "groups", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 204, description = "Removed")))]
async fn delete_group(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<GroupId>,
    Params(params): Params<ShrinkParams>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent.allowing(params.allow_shrink), Operation::DeleteGroup(id)).await
}

/// Lists the members of a group.
#[utoipa::path(get, path = "/groups/{id}/members", tag = "groups", params(("id" = String, Path, description = "The group's id"), Wanted<Members>), responses((status = 200, description = "One page", body = Page<GroupMember>)))]
async fn list_members(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<GroupId>,
    wanted: Wanted<Members>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    if views.data.groups.binary_search_by_key(&id, |group| group.id).is_err() {
        return Err(Problem::not_found("group", id.to_string()));
    }
    Ok(wanted.page(views.members_of(id).iter(), &views, |row| views.membership(row)))
}

/// Puts a user or service account into a group. Joining again raises the membership's generation.
#[utoipa::path(put, path = "/groups/{id}/members/{member}", tag = "groups", params(("id" = String, Path, description = "The group's id"), ("member" = String, Path, description = "`usr-…` or `svc-…`")), responses((status = 200, description = "A member", body = GroupMember)))]
async fn add_member(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    TwoIds(id, member): TwoIds<GroupId, Member>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::AddMember(id, member)).await
}

/// Takes a user or service account out of a group.
///
/// The membership is revoked at once, also when the database cannot be written (then the answer is 503 and the row
/// follows with the next try).
#[utoipa::path(delete, path = "/groups/{id}/members/{member}", tag = "groups", params(("id" = String, Path, description = "The group's id"), ("member" = String, Path, description = "`usr-…` or `svc-…`")), responses((status = 200, description = "No member any more", body = StrikeOutcome)))]
async fn remove_member(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    TwoIds(id, member): TwoIds<GroupId, Member>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Remove(Removal::Membership(id, member))).await
}

/// Makes a person.
#[utoipa::path(post, path = "/users", tag = "users", request_body = UserInput, responses((status = 201, description = "Made", body = User)))]
async fn create_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<UserInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateUser(input)).await
}

/// Changes a person's name and address, and the role when it is given.
#[utoipa::path(put, path = "/users/{id}", tag = "users", params(("id" = String, Path, description = "Its id")), request_body = UserInput, responses((status = 200, description = "Replaced", body = User)))]
async fn replace_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<UserId>,
    Body(input): Body<UserInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ReplaceUser(id, input)).await
}

/// Changes the values given (RFC 7396).
#[utoipa::path(patch, path = "/users/{id}", tag = "users", params(("id" = String, Path, description = "Its id")), request_body = UserPatch, responses((status = 200, description = "Changed", body = User)))]
async fn change_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<UserId>,
    Body(members): Body<Map<String, Value>>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Patch(Patched::User(id), members)).await
}

/// Revokes a person, then removes it with its devices, memberships and keys.
#[utoipa::path(delete, path = "/users/{id}", tag = "users", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_user(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<UserId>,
    Params(params): Params<ShrinkParams>,
) -> Result<Tagged, Problem> {
    let removal = Removal::Member(Member::User(id));
    operate(&core, &caller, intent.allowing(params.allow_shrink), Operation::Remove(removal)).await
}

/// Gives a person a role: one that may do no more than the caller, and nobody whose role may do more is changed.
#[utoipa::path(put, path = "/users/{id}/role", tag = "roles", params(("id" = String, Path, description = "The person's id")), request_body = RoleInput, responses((status = 200, description = "Given", body = User)))]
async fn set_role(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<UserId>,
    Body(input): Body<RoleInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::SetRole(id, input.role)).await
}

/// Lists the roles with what each may do.
#[utoipa::path(get, path = "/roles", tag = "roles", responses((status = 200, description = "Every role", body = Roles)))]
async fn list_roles(State(core): State<Arc<Core>>, caller: Caller) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    let items = roles::ROLES.iter().map(|(role, permissions)| RoleView {
        role: view::role(*role),
        permissions: permissions.iter().map(|one| one.word().to_owned()).collect(),
        people: data.users.iter().filter(|user| user.role == *role).count(),
    });
    Ok(Tagged::page(&Roles { items: items.collect() }))
}

/// Makes a service account.
#[utoipa::path(post, path = "/service-accounts", tag = "service accounts", request_body = NameInput, responses((status = 201, description = "Made", body = ServiceAccount)))]
async fn create_service_account(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<NameInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateServiceAccount(input)).await
}

/// Gives a service account another name.
#[utoipa::path(put, path = "/service-accounts/{id}", tag = "service accounts", params(("id" = String, Path, description = "Its id")), request_body = NameInput, responses((status = 200, description = "Renamed", body = ServiceAccount)))]
async fn rename_service_account(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ServiceAccountId>,
    Body(input): Body<NameInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::RenameServiceAccount(id, input)).await
}

/// Revokes a service account, then removes it with its devices, memberships and keys.
#[utoipa::path(delete, path = "/service-accounts/{id}", tag = "service accounts", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_service_account(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ServiceAccountId>,
    Params(params): Params<ShrinkParams>,
) -> Result<Tagged, Problem> {
    let removal = Removal::Member(Member::ServiceAccount(id));
    operate(&core, &caller, intent.allowing(params.allow_shrink), Operation::Remove(removal)).await
}

/// Lists the keys by which devices enrol as a service account.
#[utoipa::path(get, path = "/service-accounts/{id}/keys", tag = "service accounts", params(("id" = String, Path, description = "The account's id"), Wanted<EnrolmentKeys>), responses((status = 200, description = "One page", body = Page<EnrolmentKey>)))]
async fn list_service_account_keys(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<ServiceAccountId>,
    wanted: Wanted<EnrolmentKeys>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    if views.data.service_accounts.binary_search_by_key(&id, |account| account.id).is_err() {
        return Err(Problem::not_found("service account", id.to_string()));
    }
    let own = EnrolmentTarget::Device { owner: Member::ServiceAccount(id) };
    let rows = views.data.enrolment_keys.iter().filter(|key| key.target == own);
    Ok(wanted.page(rows, &views, |key| views.enrolment_key(key)))
}

/// Makes a key by which devices enrol as a service account. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/service-accounts/{id}/keys", tag = "service accounts", params(("id" = String, Path, description = "The account's id")), request_body = ServiceAccountKeyInput, responses((status = 201, description = "Made", body = EnrolmentKeyCreated)))]
async fn create_service_account_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ServiceAccountId>,
    Body(input): Body<ServiceAccountKeyInput>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let accounts = &caller.data(&snapshot)?.service_accounts;
    if accounts.binary_search_by_key(&id, |account| account.id).is_err() {
        return Err(Problem::not_found("service account", id.to_string()));
    }
    operate(&core, &caller, intent, Operation::CreateEnrolmentKey(input.of(id))).await
}

/// Gives a device another name.
#[utoipa::path(put, path = "/devices/{id}", tag = "devices", params(("id" = String, Path, description = "Its id")), request_body = NameInput, responses((status = 200, description = "Renamed", body = Device)))]
async fn rename_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<DeviceId>,
    Body(input): Body<NameInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::RenameDevice(id, input)).await
}

/// Lets a device that waits for approval have access: it gets its certificate when it asks again.
#[utoipa::path(post, path = "/devices/{id}/approve", tag = "devices", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Approved", body = Device)))]
async fn approve_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<DeviceId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ApproveDevice(id)).await
}

/// Revokes a device's access, now, and keeps it. `POST /restores` gives it back.
#[utoipa::path(post, path = "/devices/{id}/block", tag = "devices", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked", body = StrikeOutcome)))]
async fn block_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<DeviceId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Remove(Removal::Block(id))).await
}

/// Revokes a device's access, now, and keeps it for the record.
#[utoipa::path(post, path = "/devices/{id}/archive", tag = "devices", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and archived", body = StrikeOutcome)))]
async fn archive_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<DeviceId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Remove(Removal::Archive(id))).await
}

/// Revokes a device, then removes it.
#[utoipa::path(delete, path = "/devices/{id}", tag = "devices", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_device(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<DeviceId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Remove(Removal::Device(id))).await
}
