//! Who reaches what: why somebody can or cannot, and what a change of a policy would do. Reads, from memory.

use super::{
    Problem,
    caller::Caller,
    check,
    request::{Body, Params},
    tag::Tagged,
    types::{
        AccessCheck, AccessExplanation, AccessExplanationParams, ChangedAccess, Checked, PolicyPreview,
        PolicyPreviewInput,
    },
};
use crate::{
    access::{Asker, Changed, Preview, Scene},
    parts::Core,
};
use axum::extract::State;
use http::StatusCode;
use policy::{PolicyModel, StepOutcome, Verdict};
use std::{collections::BTreeSet, fmt::Display, sync::Arc};
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::PolicyId;

/// Pairs of a member and a resource that one answer lists in each direction; the totals count all.
const MOST_PAIRS: usize = 1_000;
/// Of several that a name may mean, this many are told.
const MOST_MEANT: usize = 20;
/// The longest host name (RFC 1035 section 2.3.4) is longer than any name here.
const MAX_ASKED: usize = 253;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(explain_access)).routes(routes!(preview_policy))
}

fn scene<'a>(
    core: &'a Core,
    snapshot: &'a crate::snapshot::Snapshot,
    caller: &Caller,
) -> Result<Scene<'a>, Problem> {
    caller.data(snapshot)?;
    Scene::of(core, snapshot, caller.organization)
        .ok_or_else(|| Problem::internal("the snapshot has no model of this organization"))
}

/// Something in the query that does not do.
fn wrong(field: &str, rule: impl Into<String>, value: impl Into<serde_json::Value>) -> Problem {
    let mut problem = Problem::invalid(field, rule, value);
    problem.status = StatusCode::BAD_REQUEST.as_u16();
    problem
}

fn asked<'a>(field: &str, text: &'a str) -> Result<&'a str, Problem> {
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= MAX_ASKED && !text.chars().any(char::is_control);
    let rule = format!("1 to {MAX_ASKED} bytes without control characters");
    fits.then_some(text).ok_or_else(|| wrong(field, rule, text.chars().take(120).collect::<String>()))
}

/// Says whether somebody reaches something, and by which checks: the connectors' own decision.
#[utoipa::path(get, path = "/access/explanation", tag = "access", params(AccessExplanationParams), responses((status = 200, description = "The answer, check by check", body = AccessExplanation)))]
async fn explain_access(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(params): Params<AccessExplanationParams>,
) -> Result<Tagged, Problem> {
    let (who, to) = (asked("who", &params.who)?, asked("to", &params.to)?);
    let on = params.on.as_deref().map(|on| asked("on", on)).transpose()?.unwrap_or_default();
    let snapshot = core.snapshot();
    let scene = scene(&core, &snapshot, &caller)?;
    let asker = only(&scene.askers(who), who)?;
    let about = scene.asked_about(to, on).map_err(|not| {
        let value = if not.field == "on" { on } else { to };
        let rule = match not.field {
            "on" => "a port from 1 to 65535 like 443 or udp/53, or icmp",
            _ => "a resource of this organization, an address or a host name",
        };
        let mut problem = wrong(not.field, rule, value);
        problem.detail = not.says;
        problem
    })?;
    let explained = scene.explain(&asker, &about);
    let checks = explained.checks.iter().map(|check| AccessCheck {
        by: check.by.to_owned(),
        what: check.step.what.clone(),
        outcome: match check.step.outcome {
            StepOutcome::Held => Checked::Held,
            StepOutcome::Failed => Checked::Failed,
            StepOutcome::Unknown => Checked::Unknown,
        },
        detail: check.step.detail.clone(),
    });
    Ok(Tagged::page(&AccessExplanation {
        allowed: explained.can(),
        member: asker.member.to_string(),
        name: asker.name.to_owned(),
        device: asker.device.map(|device| device.id),
        to: about.said.clone(),
        resource: explained.decision.resource.map(|resource| resource.id),
        site: about.slice.site,
        on: about.protocol.describe(about.port),
        verdict: match explained.decision.verdict {
            Verdict::Allow => "allow".to_owned(),
            Verdict::Deny(refusal) => refusal.label().to_owned(),
        },
        closed: explained.first_failed(),
        checks: checks.collect(),
        version: scene.data.organization.version.version,
    }))
}

/// The one whom a text means.
fn only<'a>(found: &[Asker<'a>], who: &str) -> Result<Asker<'a>, Problem> {
    match found {
        [one] => Ok(*one),
        [] => Err(Problem::not_found("person, service account or device", who.to_owned())),
        many => {
            let id = |asker: &Asker<'_>| {
                asker.device.map_or_else(|| asker.member.to_string(), |device| device.id.to_string())
            };
            let ids: Vec<String> = many.iter().take(MOST_MEANT).map(id).collect();
            Err(wrong("who", "an id, for several are called so: one of the value's", ids))
        }
    }
}

/// Says who would gain and who would lose access by a change of a policy. Nothing is changed.
///
/// What is not named stays as it is in `policy`, or is empty where that is absent: a new policy then.
#[utoipa::path(post, path = "/policies/preview", tag = "policies", request_body = PolicyPreviewInput, responses((status = 200, description = "Who and what", body = PolicyPreview)))]
async fn preview_policy(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<PolicyPreviewInput>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let scene = scene(&core, &snapshot, &caller)?;
    let known = |id: PolicyId| {
        let policy = scene.model.policies.get(&id);
        policy.cloned().map(|policy| (id, policy)).ok_or_else(|| Problem::not_found("policy", id.to_string()))
    };
    let held = input.policy.map(known).transpose()?;
    let id = held.as_ref().map_or_else(|| super::fresh(PolicyId::from_time_and_random), |(id, _)| *id);
    let remove = input.remove == Some(true);
    if remove && held.is_none() {
        return Err(Problem::invalid("policy", "the policy that is to be removed", serde_json::Value::Null));
    }
    let before = held.map(|(_, policy)| policy);
    let (groups, resources) = before.map(|policy| (policy.groups, policy.resources)).unwrap_or_default();
    let groups = named("groups", input.groups, groups, |id| scene.model.groups.contains_key(id))?;
    let resources =
        named("resources", input.resources, resources, |id| scene.model.resources.contains_key(id))?;
    let after = (!remove).then(|| PolicyModel { name: String::new(), groups, resources });
    let Preview { gain, lose, unchanged, stopped } = scene.preview(id, after);
    Ok(Tagged::page(&PolicyPreview {
        complete: !stopped,
        gained_total: pairs(&gain),
        lost_total: pairs(&lose),
        gained: listed(&scene, gain),
        lost: listed(&scene, lose),
        unchanged,
        as_of: super::rfc3339(crate::clock::wall()),
    }))
}

/// Ids of a field: those that were sent, else those that are there.
fn named<T: Ord + Copy + Display>(
    field: &str,
    sent: Option<Vec<T>>,
    held: BTreeSet<T>,
    is_known: impl Fn(&T) -> bool,
) -> Result<BTreeSet<T>, Problem> {
    let Some(sent) = sent else { return Ok(held) };
    check::list_length(field, sent.len())?;
    if let Some(unknown) = sent.iter().find(|id| !is_known(id)) {
        return Err(Problem::invalid(
            field,
            format!("ids of {field} of this organization"),
            unknown.to_string(),
        ));
    }
    Ok(sent.into_iter().collect())
}

fn pairs(changed: &[Changed]) -> usize {
    changed.iter().map(|one| one.resources.len()).sum()
}

fn listed(scene: &Scene<'_>, changed: Vec<Changed>) -> Vec<ChangedAccess> {
    let mut left = MOST_PAIRS;
    let mut all = Vec::new();
    for mut one in changed {
        if left == 0 {
            break;
        }
        one.resources.truncate(left);
        left -= one.resources.len();
        all.push(ChangedAccess {
            member: one.member.to_string(),
            name: scene.member(one.member).to_owned(),
            resources: one.resources,
            devices_attached: one.attached,
        });
    }
    all
}
