//! Sites, connectors, PoPs and resources.

use super::super::{
    Problem, check, fresh,
    operate::Work,
    operation::Applied,
    types::{Mode, NameInput, PopInput, ResourceInput, SiteInput},
};
use crate::clock;
use http::StatusCode;
use serde_json::{Value, json};
use store::{OrganizationData, ResourceMode, StoreError};
use wire::{ConnectorId, PopId, ResourceId, SiteId};

fn checked_site(id: SiteId, created_ms: u64, input: &SiteInput) -> Result<store::Site, Problem> {
    Ok(store::Site {
        id,
        name: check::name("name", &input.name)?,
        prefixes: check::prefixes(&input.prefixes)?,
        regions: check::regions(&input.regions)?,
        created_ms,
    })
}

async fn site_row(work: &mut Work, id: SiteId) -> Result<store::Site, Problem> {
    work.change.site(id).await?.ok_or_else(|| Problem::not_found("site", id.to_string()))
}

pub(super) async fn site(work: &mut Work, id: SiteId) -> Result<Value, Problem> {
    let row = site_row(work, id).await?;
    work.show(|views| views.site(&row))
}

pub(super) async fn create_site(work: &mut Work, input: &SiteInput) -> Result<Applied, Problem> {
    let row = checked_site(fresh(SiteId::from_time_and_random), clock::wall().as_millis(), input)?;
    work.change.insert_site(&row).await?;
    let after = work.show(|views| views.site(&row))?;
    work.noted("create site", &row.id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

pub(super) async fn replace_site(work: &mut Work, id: SiteId, input: &SiteInput) -> Result<Applied, Problem> {
    let old = site_row(work, id).await?;
    let before = work.show(|views| views.site(&old))?;
    work.unchanged(&before, input)?;
    let row = checked_site(id, old.created_ms, input)?;
    work.change.update_site(&row).await?;
    let after = work.show(|views| views.site(&row))?;
    work.noted("replace site", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

/// What refers to a site, by name.
fn site_in_use(data: &OrganizationData, id: SiteId) -> Problem {
    const SHOWN: usize = 20;
    let connectors = data.connectors.iter().filter(|connector| connector.site == id);
    let connectors: Vec<&str> = connectors.map(|connector| connector.name.as_str()).take(SHOWN).collect();
    let resources = data.resources.iter().filter(|resource| resource.site == id);
    let resources: Vec<&str> = resources.map(|resource| resource.name.as_str()).take(SHOWN).collect();
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

pub(super) async fn delete_site(work: &mut Work, id: SiteId) -> Result<Applied, Problem> {
    let before = site(work, id).await?;
    work.unchanged(&before, &Value::Null)?;
    if let Err(error) = work.change.delete_site(id).await {
        return Err(match error {
            StoreError::Reference { .. } => site_in_use(work.data()?, id),
            other => other.into(),
        });
    }
    work.noted("delete site", &id, Some(before), None);
    Ok(Applied::removed())
}

pub(super) async fn rename_connector(
    work: &mut Work,
    id: ConnectorId,
    input: &NameInput,
) -> Result<Applied, Problem> {
    let mut row =
        work.change.connector(id).await?.ok_or_else(|| Problem::not_found("connector", id.to_string()))?;
    let before = work.show(|views| views.connector(&row))?;
    work.unchanged(&before, input)?;
    row.name = check::name("name", &input.name)?;
    work.change.rename_connector(id, &row.name).await?;
    let after = work.show(|views| views.connector(&row))?;
    work.noted("rename connector", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

async fn pop_row(work: &mut Work, id: PopId) -> Result<store::Pop, Problem> {
    work.change.pop(id).await?.ok_or_else(|| Problem::not_found("PoP", id.to_string()))
}

pub(super) async fn pop(work: &mut Work, id: PopId) -> Result<Value, Problem> {
    let row = pop_row(work, id).await?;
    work.show(|views| views.pop(&row))
}

pub(super) async fn replace_pop(work: &mut Work, id: PopId, input: &PopInput) -> Result<Applied, Problem> {
    let mut row = pop_row(work, id).await?;
    let before = work.show(|views| views.pop(&row))?;
    work.unchanged(&before, input)?;
    row.address = check::host_port("address", &input.address)?;
    (row.region, row.zone) = (check::place("region", &input.region)?, check::place("zone", &input.zone)?);
    work.change.update_pop(id, &row.address, &row.region, &row.zone).await?;
    let after = work.show(|views| views.pop(&row))?;
    work.noted("replace pop", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
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

/// A site named in a body is a field, not the object of the request.
fn unknown_site(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound { kind: "site", id } => {
            Problem::invalid("site", "the id of a site of this organization", id)
        }
        other => other.into(),
    }
}

async fn resource_row(work: &mut Work, id: ResourceId) -> Result<store::Resource, Problem> {
    work.change.resource(id).await?.ok_or_else(|| Problem::not_found("resource", id.to_string()))
}

pub(super) async fn resource(work: &mut Work, id: ResourceId) -> Result<Value, Problem> {
    let row = resource_row(work, id).await?;
    work.show(|views| views.resource(&row))
}

pub(super) async fn create_resource(work: &mut Work, input: &ResourceInput) -> Result<Applied, Problem> {
    let id = fresh(ResourceId::from_time_and_random);
    let row = checked_resource(id, clock::wall().as_millis(), input)?;
    work.change.insert_resource(&row).await.map_err(unknown_site)?;
    let after = work.show(|views| views.resource(&row))?;
    work.noted("create resource", &id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

pub(super) async fn replace_resource(
    work: &mut Work,
    id: ResourceId,
    input: &ResourceInput,
) -> Result<Applied, Problem> {
    let old = resource_row(work, id).await?;
    let before = work.show(|views| views.resource(&old))?;
    work.unchanged(&before, input)?;
    let row = checked_resource(id, old.created_ms, input)?;
    work.change.update_resource(&row).await.map_err(unknown_site)?;
    let after = work.show(|views| views.resource(&row))?;
    work.noted("replace resource", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

pub(super) async fn delete_resource(work: &mut Work, id: ResourceId) -> Result<Applied, Problem> {
    let before = resource(work, id).await?;
    work.unchanged(&before, &Value::Null)?;
    work.left.without(|left| {
        left.resources.retain(|resource| resource.id != id);
        left.policies.iter_mut().for_each(|policy| policy.resources.retain(|resource| *resource != id));
    });
    work.change.delete_resource(id).await?;
    work.noted("delete resource", &id, Some(before), None);
    Ok(Applied::removed())
}
