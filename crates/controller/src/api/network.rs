//! Sites, connectors, PoPs and resources.

use super::{
    Answer, Made, Problem, Removed, Views,
    caller::Caller,
    check, fresh, page, reads,
    removal::{Removal, strike_and_remove},
    request::{Body, Id, Params},
    shrink::ShrinkParams,
    types::{
        Connector, Mode, Page, PageQuery, Pop, PopInput, Resource, ResourceInput, Site, SiteInput,
        StrikeOutcome,
    },
};
use crate::{clock, parts::Core};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;
use store::{OrganizationData, ResourceMode, Scope, StoreError};
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{ConnectorId, PopId, ResourceId, SiteId};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_sites, create_site))
        .routes(routes!(get_site, replace_site, delete_site))
        .routes(routes!(list_connectors))
        .routes(routes!(get_connector, delete_connector))
        .routes(routes!(list_pops))
        .routes(routes!(get_pop, replace_pop, delete_pop))
        .routes(routes!(list_resources, create_resource))
        .routes(routes!(get_resource, replace_resource, delete_resource))
}

reads!(list_sites, get_site, "/sites", "/sites/{id}", "sites", "site", SiteId, Site, sites, site);
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
    connector
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
    resource
);

fn checked_site(id: SiteId, created_ms: u64, input: &SiteInput) -> Result<store::Site, Problem> {
    Ok(store::Site {
        id,
        name: check::name("name", &input.name)?,
        prefixes: check::prefixes(&input.prefixes)?,
        regions: check::regions(&input.regions)?,
        created_ms,
    })
}

/// Makes a site.
#[utoipa::path(post, path = "/sites", tag = "sites", request_body = SiteInput, responses((status = 201, description = "Made", body = Site)))]
async fn create_site(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<SiteInput>,
) -> Made<Site> {
    let site = checked_site(fresh(SiteId::from_time_and_random), clock::wall().as_millis(), &input)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_site(&site).await?;
    core.commit(&store, change, "create site", &site.id.to_string(), &json!({"name": site.name})).await?;
    let snapshot = core.snapshot();
    Ok((StatusCode::CREATED, Json(Views::new(&core, caller.data(&snapshot)?).site(&site))))
}

/// Replaces a site's values.
#[utoipa::path(put, path = "/sites/{id}", tag = "sites", params(("id" = String, Path, description = "Its id")), request_body = SiteInput, responses((status = 200, description = "Replaced", body = Site)))]
async fn replace_site(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<SiteId>,
    Body(input): Body<SiteInput>,
) -> Answer<Site> {
    let snapshot = core.snapshot();
    let old = caller.data(&snapshot)?.sites.iter().find(|site| site.id == id);
    let old = old.ok_or_else(|| Problem::not_found("site", id.to_string()))?;
    let site = checked_site(id, old.created_ms, &input)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.update_site(&site).await?;
    core.commit(&store, change, "replace site", &id.to_string(), &json!({"name": site.name})).await?;
    let snapshot = core.snapshot();
    Ok(Json(Views::new(&core, caller.data(&snapshot)?).site(&site)))
}

/// What refers to a site, by name.
fn site_in_use(data: &OrganizationData, id: SiteId) -> Problem {
    let connectors = data.connectors.iter().filter(|connector| connector.site == id);
    let connectors: Vec<&str> = connectors.map(|connector| connector.name.as_str()).collect();
    let resources = data.resources.iter().filter(|resource| resource.site == id);
    let resources: Vec<&str> = resources.map(|resource| resource.name.as_str()).collect();
    let detail = format!(
        "remove what is in the site first: connectors [{}], resources [{}]",
        connectors.join(", "),
        resources.join(", ")
    );
    let mut problem = Problem::new(StatusCode::CONFLICT, "in-use", "Other objects are in the way", detail);
    problem.field = Some("id".into());
    problem.rule = Some("a site without connectors and resources".into());
    problem.value = Some(json!({"connectors": connectors, "resources": resources}));
    problem
}

/// Removes a site without connectors and resources.
#[utoipa::path(delete, path = "/sites/{id}", tag = "sites", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Removed")))]
async fn delete_site(State(core): State<Arc<Core>>, caller: Caller, Id(id): Id<SiteId>) -> Removed {
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    change.delete_site(id).await.map_err(|error| match error {
        StoreError::Reference { .. } => site_in_use(data, id),
        other => other.into(),
    })?;
    core.commit(&store, change, "delete site", &id.to_string(), &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revokes a connector, then removes it.
#[utoipa::path(delete, path = "/connectors/{id}", tag = "connectors", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_connector(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<ConnectorId>,
) -> Answer<StrikeOutcome> {
    let snapshot = core.snapshot();
    let row = caller.data(&snapshot)?.connectors.iter().find(|connector| connector.id == id);
    let generation = row.ok_or_else(|| Problem::not_found("connector", id.to_string()))?.generation;
    strike_and_remove(core, caller, Removal::Connector(id), generation).await.map(Json)
}

/// Lists every PoP of the installation.
#[utoipa::path(get, path = "/pops", tag = "pops", params(PageQuery), responses((status = 200, description = "One page", body = Page<Pop>)))]
async fn list_pops(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Page<Pop>> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    page(&snapshot.dataset.pops, &query, |pop| pop.id.to_string(), |pop| views.pop(pop)).map(Json)
}

/// Gets one PoP.
#[utoipa::path(get, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = Pop)))]
async fn get_pop(State(core): State<Arc<Core>>, caller: Caller, Id(id): Id<PopId>) -> Answer<Pop> {
    let snapshot = core.snapshot();
    let pop = snapshot.dataset.pops.iter().find(|pop| pop.id == id);
    let pop = pop.ok_or_else(|| Problem::not_found("PoP", id.to_string()))?;
    Ok(Json(Views::new(&core, caller.data(&snapshot)?).pop(pop)))
}

/// Changes where a PoP is dialled, and its place.
#[utoipa::path(put, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), request_body = PopInput, responses((status = 200, description = "Replaced", body = Pop)))]
async fn replace_pop(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<PopId>,
    Body(input): Body<PopInput>,
) -> Answer<Pop> {
    let address = check::host_port("address", &input.address)?;
    let (region, zone) = (check::place("region", &input.region)?, check::place("zone", &input.zone)?);
    let (store, mut change) = core.database.change(Scope::Installation, &caller.actor).await?;
    change.update_pop(id, &address, &region, &zone).await?;
    core.commit(&store, change, "replace pop", &id.to_string(), &json!({"address": address})).await?;
    get_pop(State(core), caller, Id(id)).await
}

/// Revokes a PoP, then removes it.
#[utoipa::path(delete, path = "/pops/{id}", tag = "pops", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "Revoked and removed", body = StrikeOutcome)))]
async fn delete_pop(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<PopId>,
) -> Answer<StrikeOutcome> {
    let snapshot = core.snapshot();
    let row = snapshot.dataset.pops.iter().find(|pop| pop.id == id);
    let generation = row.ok_or_else(|| Problem::not_found("PoP", id.to_string()))?.generation;
    strike_and_remove(core, caller, Removal::Pop(id), generation).await.map(Json)
}

fn checked_resource(
    id: ResourceId,
    created_ms: u64,
    input: &ResourceInput,
) -> Result<store::Resource, Problem> {
    let address = check::address(&input.address)?;
    if let (Some(alias), true) = (&input.alias, address.starts_with("*.")) {
        return Err(Problem::invalid("alias", "none for a wildcard, which is many hosts", alias.as_str()));
    }
    Ok(store::Resource {
        id,
        site: input.site,
        name: check::name("name", &input.name)?,
        alias: input.alias.as_deref().map(|alias| check::name("alias", alias)).transpose()?,
        address,
        ports: check::ports(&input.ports)?,
        mode: match input.mode {
            Mode::Standard => ResourceMode::Standard,
            Mode::Strict => ResourceMode::Strict,
        },
        created_ms,
    })
}

/// Makes a resource.
#[utoipa::path(post, path = "/resources", tag = "resources", request_body = ResourceInput, responses((status = 201, description = "Made", body = Resource)))]
async fn create_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<ResourceInput>,
) -> Made<Resource> {
    let id = fresh(ResourceId::from_time_and_random);
    let resource = checked_resource(id, clock::wall().as_millis(), &input)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_resource(&resource).await.map_err(unknown_site)?;
    core.commit(&store, change, "create resource", &id.to_string(), &json!({"name": resource.name})).await?;
    let snapshot = core.snapshot();
    Ok((StatusCode::CREATED, Json(Views::new(&core, caller.data(&snapshot)?).resource(&resource))))
}

/// A site named in a body is a field, not the object of the request.
fn unknown_site(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound { kind: "site", id } => {
            Problem::invalid("site", "the id of a site of this organization", id)
        }
        other => other.into(),
    }
}

/// Replaces a resource's values.
#[utoipa::path(put, path = "/resources/{id}", tag = "resources", params(("id" = String, Path, description = "Its id")), request_body = ResourceInput, responses((status = 200, description = "Replaced", body = Resource)))]
async fn replace_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<ResourceId>,
    Body(input): Body<ResourceInput>,
) -> Answer<Resource> {
    let snapshot = core.snapshot();
    let old = caller.data(&snapshot)?.resources.iter().find(|resource| resource.id == id);
    let old = old.ok_or_else(|| Problem::not_found("resource", id.to_string()))?;
    let resource = checked_resource(id, old.created_ms, &input)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.update_resource(&resource).await.map_err(unknown_site)?;
    core.commit(&store, change, "replace resource", &id.to_string(), &json!({"name": resource.name})).await?;
    let snapshot = core.snapshot();
    Ok(Json(Views::new(&core, caller.data(&snapshot)?).resource(&resource)))
}

/// Removes a resource, also from every policy.
#[utoipa::path(delete, path = "/resources/{id}", tag = "resources", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 204, description = "Removed")))]
async fn delete_resource(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<ResourceId>,
    Params(params): Params<ShrinkParams>,
) -> Removed {
    let snapshot = core.snapshot();
    let shrink = params.check(caller.data(&snapshot)?, |left| {
        left.resources.retain(|resource| resource.id != id);
        left.policies.iter_mut().for_each(|policy| policy.resources.retain(|resource| *resource != id));
    })?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.delete_resource(id).await?;
    shrink.note(&mut change).await?;
    core.commit(&store, change, "delete resource", &id.to_string(), &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}
