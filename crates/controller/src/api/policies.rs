//! Policies: these groups reach these resources.

use super::{
    Answer, Made, Problem, Removed, Views,
    caller::Caller,
    check, fresh, reads,
    request::{Body, Id, Params},
    shrink::ShrinkParams,
    types::{Page, PageQuery, Policy, PolicyInput},
};
use crate::{clock, parts::Core};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::json;
use std::sync::Arc;
use store::{Scope, StoreError};
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::PolicyId;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_policies, create_policy)).routes(routes!(
        get_policy,
        replace_policy,
        delete_policy
    ))
}

reads!(
    list_policies,
    get_policy,
    "/policies",
    "/policies/{id}",
    "policies",
    "policy",
    PolicyId,
    Policy,
    policies,
    policy
);

fn checked(id: PolicyId, created_ms: u64, input: PolicyInput) -> Result<store::Policy, Problem> {
    check::list_length("groups", input.groups.len())?;
    check::list_length("resources", input.resources.len())?;
    let name = check::name("name", &input.name)?;
    let (mut groups, mut resources) = (input.groups, input.resources);
    groups.sort();
    groups.dedup();
    resources.sort();
    resources.dedup();
    Ok(store::Policy { id, name, groups, resources, created_ms })
}

/// Groups and resources in the body are fields, not the object of the request.
fn unknown_part(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound { kind: "group", id } => {
            Problem::invalid("groups", "ids of groups of this organization", id)
        }
        StoreError::NotFound { kind: "resource", id } => {
            Problem::invalid("resources", "ids of resources of this organization", id)
        }
        other => other.into(),
    }
}

/// Makes a policy.
#[utoipa::path(post, path = "/policies", tag = "policies", request_body = PolicyInput, responses((status = 201, description = "Made", body = Policy)))]
async fn create_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<PolicyInput>,
) -> Made<Policy> {
    let policy = checked(fresh(PolicyId::from_time_and_random), clock::wall().as_millis(), input)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_policy(&policy).await.map_err(unknown_part)?;
    let detail = json!({"groups": policy.groups, "resources": policy.resources});
    core.commit(&store, change, "create policy", &policy.id.to_string(), &detail).await?;
    let snapshot = core.snapshot();
    Ok((StatusCode::CREATED, Json(Views::new(&core, caller.data(&snapshot)?).policy(&policy))))
}

/// Replaces a policy's values.
#[utoipa::path(put, path = "/policies/{id}", tag = "policies", params(("id" = String, Path, description = "Its id"), ShrinkParams), request_body = PolicyInput, responses((status = 200, description = "Replaced", body = Policy)))]
async fn replace_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<PolicyId>,
    Params(params): Params<ShrinkParams>,
    Body(input): Body<PolicyInput>,
) -> Answer<Policy> {
    let snapshot = core.snapshot();
    let old = caller.data(&snapshot)?.policies.iter().find(|policy| policy.id == id);
    let old = old.ok_or_else(|| Problem::not_found("policy", id.to_string()))?;
    let policy = checked(id, old.created_ms, input)?;
    let shrink = params.check(caller.data(&snapshot)?, |left| {
        left.policies.retain(|policy| policy.id != id);
        left.policies.push(policy.clone());
    })?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.update_policy(&policy).await.map_err(unknown_part)?;
    shrink.note(&mut change).await?;
    let detail = json!({"groups": policy.groups, "resources": policy.resources});
    core.commit(&store, change, "replace policy", &id.to_string(), &detail).await?;
    let snapshot = core.snapshot();
    Ok(Json(Views::new(&core, caller.data(&snapshot)?).policy(&policy)))
}

/// Removes a policy.
#[utoipa::path(delete, path = "/policies/{id}", tag = "policies", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 204, description = "Removed")))]
async fn delete_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<PolicyId>,
    Params(params): Params<ShrinkParams>,
) -> Removed {
    let snapshot = core.snapshot();
    let left = |left: &mut store::OrganizationData| left.policies.retain(|policy| policy.id != id);
    let shrink = params.check(caller.data(&snapshot)?, left)?;
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.delete_policy(id).await?;
    shrink.note(&mut change).await?;
    core.commit(&store, change, "delete policy", &id.to_string(), &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}
