//! Sites, connectors, PoPs and resources: the endpoints. What they do is in [`super::apply`].

use super::{
    Problem, Views,
    caller::Caller,
    left::ShrinkParams,
    list::Wanted,
    listed::{Connectors, Pops, Resources, Sites},
    operate::{Intent, operate},
    operation::{Operation, Patched},
    reads,
    removal::Removal,
    request::{Body, Id, Params},
    tag::Tagged,
    types::{
        Connector, NameInput, Page, Pop, PopInput, PopPatch, Resource, ResourceInput, ResourcePatch, Site,
        SiteInput, SitePatch, StrikeOutcome,
    },
};
use crate::parts::Core;
use axum::extract::State;
use http::StatusCode;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{ConnectorId, PopId, ResourceId, SiteId};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_sites, create_site))
        .routes(routes!(get_site, replace_site, change_site, delete_site))
        .routes(routes!(list_connectors))
        .routes(routes!(get_connector, rename_connector, delete_connector))
        .routes(routes!(list_pops))
        .routes(routes!(get_pop, replace_pop, change_pop, delete_pop))
        .routes(routes!(list_resources, create_resource))
        .routes(routes!(get_resource, replace_resource, change_resource, delete_resource))
}

reads!(list_sites, get_site, "/sites", "/sites/{id}", "sites", "site", SiteId, Site, sites, site, Sites);
reads!(
    list_connectors,
    get_connector,
    "/connectors",
    "/connectors/{id}",
    "connectors",
    "connector",
    ConnectorId,
    Connector,
    connectors,
    connector,
    Connectors
);
reads!(
    list_resources,
    get_resource,
    "/resources",
    "/resources/{id}",
    "resources",
    "resource",
    ResourceId,
    Resource,
    resources,
    resource,
    Resources
);

/// Makes a site.
#[utoipa::path(post, path = "/sites", tag = "sites", request_body = SiteInput, responses((status = 201, description = "Made", body = Site)))]
async fn create_site(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<SiteInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateSite(input)).await
}

/// Replaces a site's values.
#[utoipa::path(put, path = "/sites/{id}", tag = "sites", params(("id" = String, Path, description = "Its id")), request_body = SiteInput, responses((status = 200, description = "Replaced", body = Site)))]
async fn replace_site(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<SiteId>,
    Body(input): Body<SiteInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ReplaceSite(id, input)).await
}

/// Changes the values given (RFC 7396).
#[utoipa::path(patch, path = "/sites/{id}", tag = "sites", params(("id" = String, Path, description = "Its id")), request_body = SitePatch, responses((status = 200, description = "Changed", body = Site)))]
async fn change_site(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<SiteId>,
    Body(members): Body<Map<String, Value>>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Patch(Patched::Site(id), members)).await
}

/// Removes a site without connectors and resources.
#[utoipa::path(delete, path = "/sites/{id}", tag = "sites", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Removed")))]
async fn delete_site(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<SiteId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::DeleteSite(id)).await
}

/// Gives a connector another name.
#[utoipa::path(put, path = "/connectors/{id}", tag = "connectors", params(("id" = String, Path, description = "Its id")), request_body = NameInput, responses((status = 200, description = "Renamed", body = Connector)))]
async fn rename_connector(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ConnectorId>,
    Body(input): Body<NameInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::RenameConnector(id, input)).await
}

/// Revokes a connector, then removes it.
#[utoipa::path(delete, path = "/connectors/{id}", tag = "connectors", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_connector(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ConnectorId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Remove(Removal::Connector(id))).await
}

/// Lists every PoP of the installation.
#[utoipa::path(get, path = "/pops", tag = "pops", params(Wanted<Pops>), responses((status = 200, description = "One page", body = Page<Pop>)))]
async fn list_pops(
    State(core): State<Arc<Core>>,
    caller: Caller,
    wanted: Wanted<Pops>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    Ok(wanted.page(snapshot.dataset.pops.iter(), &views, |pop| views.pop(pop)))
}

/// Gets one PoP.
#[utoipa::path(get, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = Pop)))]
async fn get_pop(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<PopId>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let pop = snapshot.dataset.pops.iter().find(|pop| pop.id == id);
    let pop = pop.ok_or_else(|| Problem::not_found("PoP", id.to_string()))?;
    let view = Views::new(&core, caller.data(&snapshot)?).pop(pop);
    Ok(Tagged::object(StatusCode::OK, &view))
}

/// Changes where a PoP is dialled, and its place.
#[utoipa::path(put, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), request_body = PopInput, responses((status = 200, description = "Replaced", body = Pop)))]
async fn replace_pop(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<PopId>,
    Body(input): Body<PopInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ReplacePop(id, input)).await
}

/// Changes the values given (RFC 7396).
#[utoipa::path(patch, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), request_body = PopPatch, responses((status = 200, description = "Changed", body = Pop)))]
async fn change_pop(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<PopId>,
    Body(members): Body<Map<String, Value>>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Patch(Patched::Pop(id), members)).await
}

/// Revokes a PoP, then removes it.
#[utoipa::path(delete, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_pop(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<PopId>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Remove(Removal::Pop(id))).await
}

/// Makes a resource.
#[utoipa::path(post, path = "/resources", tag = "resources", request_body = ResourceInput, responses((status = 201, description = "Made", body = Resource)))]
async fn create_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<ResourceInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateResource(input)).await
}

/// Replaces a resource's values.
#[utoipa::path(put, path = "/resources/{id}", tag = "resources", params(("id" = String, Path, description = "Its id")), request_body = ResourceInput, responses((status = 200, description = "Replaced", body = Resource)))]
async fn replace_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ResourceId>,
    Body(input): Body<ResourceInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::ReplaceResource(id, input)).await
}

/// Changes the values given (RFC 7396).
#[utoipa::path(patch, path = "/resources/{id}", tag = "resources", params(("id" = String, Path, description = "Its id")), request_body = ResourcePatch, responses((status = 200, description = "Changed", body = Resource)))]
async fn change_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ResourceId>,
    Body(members): Body<Map<String, Value>>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Patch(Patched::Resource(id), members)).await
}

/// Removes a resource, also from every policy.
#[utoipa::path(delete, path = "/resources/{id}", tag = "resources", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 204, description = "Removed")))]
async fn delete_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<ResourceId>,
    Params(params): Params<ShrinkParams>,
) -> Result<Tagged, Problem> {
    let intent = intent.allowing(params.allow_shrink);
    operate(&core, &caller, intent, Operation::DeleteResource(id)).await
}
