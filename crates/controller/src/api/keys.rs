//! Enrolment keys, API tokens, organizations and their settings: the endpoints. What they do is in [`super::apply`].

use super::{
    Problem, Views,
    caller::Caller,
    list::Wanted,
    listed::{CLOSED, EnrolmentKeys, Organizations, Tokens},
    operate::{Intent, operate},
    operation::Operation,
    reads,
    request::{Body, Id},
    roles::Permission,
    tag::Tagged,
    types::{
        EnrolmentKey, EnrolmentKeyCreated, EnrolmentKeyInput, Me, Organization, OrganizationInput,
        OrganizationPatch, Page, Settings, SettingsPatch, Token, TokenCreated, TokenInput,
    },
    view,
};
use crate::{parts::Core, snapshot::Snapshot};
use axum::extract::State;
use http::StatusCode;
use std::sync::Arc;
use store::OrganizationData;
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{EnrolmentKeyId, OrganizationId, TokenId};

/// A day (architecture).
pub(crate) const GRANT_LIFE_MS: u64 = 24 * 3600 * 1000;
/// Grants are renewed after four hours (architecture).
pub(crate) const RENEW_AFTER_MS: u64 = 4 * 3600 * 1000;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_enrolment_keys, create_enrolment_key))
        .routes(routes!(get_enrolment_key, delete_enrolment_key))
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(get_token, delete_token))
        .routes(routes!(list_organizations, create_organization))
        .routes(routes!(get_organization, change_organization, close_organization))
        .routes(routes!(get_settings, change_settings))
        .routes(routes!(get_me))
}

reads!(
    list_tokens,
    get_token,
    "/tokens",
    "/tokens/{id}",
    "tokens",
    "token",
    TokenId,
    Token,
    tokens,
    token,
    Tokens
);

/// Keys that the caller may see: those of its organization, and with the permission `installation` those for PoPs.
fn visible<'s>(
    caller: &Caller,
    snapshot: &'s Snapshot,
    data: &'s OrganizationData,
) -> impl Iterator<Item = &'s store::EnrolmentKey> {
    let of_installation = caller.may(Permission::Installation).then_some(&snapshot.dataset.enrolment_keys);
    data.enrolment_keys.iter().chain(of_installation.into_iter().flatten())
}

/// Lists every enrolment key; with the permission `installation` those for PoPs too.
#[utoipa::path(get, path = "/enrolment-keys", tag = "enrolment keys", params(Wanted<EnrolmentKeys>), responses((status = 200, description = "One page", body = Page<EnrolmentKey>)))]
async fn list_enrolment_keys(
    State(core): State<Arc<Core>>,
    caller: Caller,
    wanted: Wanted<EnrolmentKeys>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    let mut rows: Vec<_> = visible(&caller, &snapshot, views.data).collect();
    rows.sort_by_key(|key| key.id);
    Ok(wanted.page(rows.into_iter(), &views, |key| views.enrolment_key(key)))
}

/// Gets one enrolment key.
#[utoipa::path(get, path = "/enrolment-keys/{id}", tag = "enrolment keys", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = EnrolmentKey)))]
async fn get_enrolment_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<EnrolmentKeyId>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    let key = visible(&caller, &snapshot, views.data)
        .find(|key| key.id == id)
        .ok_or_else(|| Problem::not_found("enrolment key", id.to_string()))?;
    Ok(Tagged::object(StatusCode::OK, &views.enrolment_key(key)))
}

/// Makes an enrolment key. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/enrolment-keys", tag = "enrolment keys", request_body = EnrolmentKeyInput, responses((status = 201, description = "Made", body = EnrolmentKeyCreated)))]
async fn create_enrolment_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<EnrolmentKeyInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateEnrolmentKey(input)).await
}

/// Removes an enrolment key: it can no longer be used. What it enrolled stays.
#[utoipa::path(delete, path = "/enrolment-keys/{id}", tag = "enrolment keys", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Removed")))]
async fn delete_enrolment_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<EnrolmentKeyId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::DeleteEnrolmentKey(id)).await
}

/// Makes an API token with scopes that its maker has, or a role that may do no more.
///
/// The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = TokenInput, responses((status = 201, description = "Made", body = TokenCreated)))]
async fn create_token(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<TokenInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateToken(input)).await
}

/// Removes an API token: it can no longer be used.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Removed")))]
async fn delete_token(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<TokenId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::DeleteToken(id)).await
}

/// Lists the caller's organization; with the permission `installation`, every one.
#[utoipa::path(get, path = "/organizations", tag = "organizations", params(Wanted<Organizations>), responses((status = 200, description = "One page", body = Page<Organization>)))]
async fn list_organizations(
    State(core): State<Arc<Core>>,
    caller: Caller,
    wanted: Wanted<Organizations>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let every = caller.may(Permission::Installation);
    let views = Views::new(&core, caller.data(&snapshot)?);
    let rows = snapshot.dataset.organizations.iter().map(|data| &data.organization);
    let closed = wanted.filter(CLOSED) == Some("true");
    let rows = rows.filter(|row| (every || row.id == caller.organization) && row.is_closed() == closed);
    Ok(wanted.page(rows, &views, view::organization))
}

/// Gets one organization.
#[utoipa::path(get, path = "/organizations/{id}", tag = "organizations", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = Organization)))]
async fn get_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<OrganizationId>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let visible = id == caller.organization || caller.may(Permission::Installation);
    let data = snapshot.organization(id).filter(|_| visible);
    let data = data.ok_or_else(|| Problem::not_found("organization", id.to_string()))?;
    Ok(Tagged::object(StatusCode::OK, &view::organization(&data.organization)))
}

/// Makes an organization.
#[utoipa::path(post, path = "/organizations", tag = "organizations", request_body = OrganizationInput, responses((status = 201, description = "Made", body = Organization)))]
async fn create_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<OrganizationInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateOrganization(input)).await
}

/// Changes an organization's name and how long grants live.
#[utoipa::path(patch, path = "/organizations/{id}", tag = "organizations", params(("id" = String, Path, description = "Its id")), request_body = OrganizationPatch, responses((status = 200, description = "Changed", body = Organization)))]
async fn change_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<OrganizationId>,
    Body(input): Body<OrganizationPatch>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ChangeOrganization(id, input)).await
}

/// Closes an organization that has no connectors, and no devices that may connect: everything else of it goes, and nobody signs in
/// there any more. Its audit log stays for as long as its settings say (`Tidegate-Organization` asks for it).
#[utoipa::path(delete, path = "/organizations/{id}", tag = "organizations", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Closed")))]
async fn close_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<OrganizationId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CloseOrganization(id)).await
}

/// Gets how the organization works.
#[utoipa::path(get, path = "/settings", tag = "settings", responses((status = 200, description = "Now", body = Settings)))]
async fn get_settings(State(core): State<Arc<Core>>, caller: Caller) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    Ok(Tagged::object(StatusCode::OK, &view::settings(&caller.data(&snapshot)?.organization)))
}

/// Changes how the organization works; what is absent stays.
#[utoipa::path(patch, path = "/settings", tag = "settings", request_body = SettingsPatch, responses((status = 200, description = "Changed", body = Settings)))]
async fn change_settings(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<SettingsPatch>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ChangeSettings(input)).await
}

/// Says who is asking, and what they may do.
#[utoipa::path(get, path = "/me", tag = "status", responses((status = 200, description = "The caller", body = Me)))]
async fn get_me(State(core): State<Arc<Core>>, caller: Caller) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let organization_name = caller.data(&snapshot)?.organization.name.clone();
    Ok(Tagged::page(&Me {
        actor: caller.actor.clone(),
        organization: caller.organization,
        organization_name,
        role: caller.role.map(view::role),
        permissions: caller.permissions().iter().map(|one| one.word().to_owned()).collect(),
    }))
}
