//! Policies: these groups reach these resources.

use super::{
    Problem,
    caller::Caller,
    left::ShrinkParams,
    listed::Policies,
    operate::{Intent, operate},
    operation::{Operation, Patched},
    reads,
    request::{Body, Id, Params},
    tag::Tagged,
    types::{Page, Policy, PolicyInput, PolicyPatch},
};
use crate::parts::Core;
use axum::extract::State;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::PolicyId;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_policies, create_policy)).routes(routes!(
        get_policy,
        replace_policy,
        change_policy,
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
    policy,
    Policies
);

/// Makes a policy.
#[utoipa::path(post, path = "/policies", tag = "policies", request_body = PolicyInput, responses((status = 201, description = "Made", body = Policy)))]
async fn create_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<PolicyInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreatePolicy(input)).await
}

/// Replaces a policy's values.
#[utoipa::path(put, path = "/policies/{id}", tag = "policies", params(("id" = String, Path, description = "Its id"), ShrinkParams), request_body = PolicyInput, responses((status = 200, description = "Replaced", body = Policy)))]
async fn replace_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<PolicyId>,
    Params(params): Params<ShrinkParams>,
    Body(input): Body<PolicyInput>,
) -> Result<Tagged, Problem> {
    let intent = intent.allowing(params.allow_shrink);
    operate(&core, &caller, intent, Operation::ReplacePolicy(id, input)).await
}

/// Changes the values given (RFC 7396).
#[utoipa::path(patch, path = "/policies/{id}", tag = "policies", params(("id" = String, Path, description = "Its id"), ShrinkParams), request_body = PolicyPatch, responses((status = 200, description = "Changed", body = Policy)))]
async fn change_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<PolicyId>,
    Params(params): Params<ShrinkParams>,
    Body(members): Body<Map<String, Value>>,
) -> Result<Tagged, Problem> {
    let intent = intent.allowing(params.allow_shrink);
    operate(&core, &caller, intent, Operation::Patch(Patched::Policy(id), members)).await
}

/// Removes a policy.
#[utoipa::path(delete, path = "/policies/{id}", tag = "policies", params(("id" = String, Path, description = "Its id"), ShrinkParams), responses((status = 204, description = "Removed")))]
async fn delete_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Id(id): Id<PolicyId>,
    Params(params): Params<ShrinkParams>,
) -> Result<Tagged, Problem> {
    let intent = intent.allowing(params.allow_shrink);
    operate(&core, &caller, intent, Operation::DeletePolicy(id)).await
}
