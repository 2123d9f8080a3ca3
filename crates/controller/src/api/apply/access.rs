//! Policies, enrolment keys and tokens.

use super::super::{
    Problem,
    caller::{new_token, of_token, stored_role as stored_role_of_token},
    check, fresh,
    operate::Work,
    operation::Applied,
    roles::{self, Permission},
    types::{
        EnrolmentKeyCreated, EnrolmentKeyInput, EnrolmentKind, PolicyInput, Scope as ApiScope, TokenCreated,
        TokenInput,
    },
    view::stored_role,
};
use crate::clock;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use store::{EnrolmentTarget, Member, SecretHash, StoreError};
use trust::{JoinKey, JoinKind, JoinSecret};
use wire::{EnrolmentKeyId, PolicyId, TokenId};

const YEAR_SECONDS: u64 = 365 * 24 * 3600;

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

async fn policy_row(work: &mut Work, id: PolicyId) -> Result<store::Policy, Problem> {
    work.change.policy(id).await?.ok_or_else(|| Problem::not_found("policy", id.to_string()))
}

pub(super) async fn policy(work: &mut Work, id: PolicyId) -> Result<Value, Problem> {
    let row = policy_row(work, id).await?;
    work.show(|views| views.policy(&row))
}

pub(super) async fn create_policy(work: &mut Work, input: PolicyInput) -> Result<Applied, Problem> {
    let row = checked(fresh(PolicyId::from_time_and_random), clock::wall().as_millis(), input)?;
    work.change.insert_policy(&row).await.map_err(unknown_part)?;
    let after = work.show(|views| views.policy(&row))?;
    work.noted("create policy", &row.id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

pub(super) async fn replace_policy(
    work: &mut Work,
    id: PolicyId,
    input: PolicyInput,
) -> Result<Applied, Problem> {
    let old = policy_row(work, id).await?;
    let before = work.show(|views| views.policy(&old))?;
    work.unchanged(&before, &input)?;
    let row = checked(id, old.created_ms, input)?;
    let new = row.clone();
    work.left.without(|left| {
        left.policies.retain(|policy| policy.id != id);
        left.policies.push(new);
    });
    work.change.update_policy(&row).await.map_err(unknown_part)?;
    let after = work.show(|views| views.policy(&row))?;
    work.noted("replace policy", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

pub(super) async fn delete_policy(work: &mut Work, id: PolicyId) -> Result<Applied, Problem> {
    let before = policy(work, id).await?;
    work.unchanged(&before, &Value::Null)?;
    work.left.without(|left| left.policies.retain(|policy| policy.id != id));
    work.change.delete_policy(id).await?;
    work.noted("delete policy", &id, Some(before), None);
    Ok(Applied::removed())
}

/// What the key is for; a field that its kind does not have is refused.
fn target(input: &EnrolmentKeyInput) -> Result<EnrolmentTarget, Problem> {
    let none = |field: &str, given: bool| {
        let rule = "not for this kind of key";
        if given { Err(Problem::invalid(field, rule, Value::Null)) } else { Ok(()) }
    };
    let places = input.region.is_some() || input.zone.is_some();
    let missing = |field: &str, rule: &str| Problem::invalid(field, rule, Value::Null);
    if input.kind != EnrolmentKind::Device {
        none("approval", input.approval.is_some())?;
    }
    match input.kind {
        EnrolmentKind::Pop => {
            none("site", input.site.is_some())?;
            none("owner", input.owner.is_some())?;
            let region = check::place("region", input.region.as_deref().unwrap_or("default"))?;
            let zone = check::place("zone", input.zone.as_deref().unwrap_or("default"))?;
            Ok(EnrolmentTarget::Pop { region, zone })
        }
        EnrolmentKind::Connector => {
            none("owner", input.owner.is_some())?;
            none("region", places)?;
            let site = input.site.ok_or_else(|| missing("site", "the id of the connector's site"))?;
            Ok(EnrolmentTarget::Connector { site })
        }
        EnrolmentKind::Device => {
            none("site", input.site.is_some())?;
            none("region", places)?;
            let rule = "the id of the user or service account whose device it will be";
            let owner = input.owner.as_deref().ok_or_else(|| missing("owner", rule))?;
            Ok(EnrolmentTarget::Device { owner: check::parsed::<Member>("owner", owner)? })
        }
    }
}

fn unknown_target(error: StoreError) -> Problem {
    match error {
        StoreError::NotFound { kind: "site", id } => {
            Problem::invalid("site", "the id of a site of this organization", id)
        }
        StoreError::NotFound { kind: "user" | "service account", id } => {
            Problem::invalid("owner", "the id of a user or service account of this organization", id)
        }
        other => other.into(),
    }
}

/// Whoever makes a key for something may enrol that.
fn may_enrol(work: &Work, target: &EnrolmentTarget) -> Result<JoinKind, Problem> {
    match target {
        EnrolmentTarget::Pop { .. } => {
            work.caller.need(Permission::Installation)?;
            Ok(JoinKind::Pop)
        }
        EnrolmentTarget::Connector { .. } => {
            work.caller.need(Permission::EnrolConnectors)?;
            Ok(JoinKind::Connector)
        }
        EnrolmentTarget::Device { .. } => {
            work.caller.need(Permission::EnrolDevices)?;
            Ok(JoinKind::Device)
        }
    }
}

pub(super) async fn create_enrolment_key(
    work: &mut Work,
    input: &EnrolmentKeyInput,
) -> Result<Applied, Problem> {
    let target = target(input)?;
    let kind = may_enrol(work, &target)?;
    let cap = check::within("cap", input.cap.unwrap_or(1), 1..=10_000)?;
    let lifetime = input.lifetime_seconds.unwrap_or(24 * 3600);
    let lifetime = check::within("lifetime_seconds", lifetime, 60..=YEAR_SECONDS)?;
    let name = match &input.name {
        Some(name) => check::name("name", name)?,
        None => format!("{} key", target.kind()),
    };
    let of_settings = work.data()?.organization.approve_devices;
    let secret = JoinSecret::from_random(clock::random());
    let now = clock::wall().as_millis();
    let row = store::EnrolmentKey {
        id: fresh(EnrolmentKeyId::from_time_and_random),
        organization: (kind != JoinKind::Pop).then_some(work.caller.organization),
        name,
        approval: kind == JoinKind::Device && input.approval.unwrap_or(of_settings),
        target,
        secret_hash: SecretHash::from_digest(secret.hash()),
        cap,
        uses: 0,
        expires_ms: now + lifetime * 1000,
        created_ms: now,
    };
    work.change.insert_enrolment_key(&row).await.map_err(unknown_target)?;
    let after = work.show(|views| views.enrolment_key(&row))?;
    work.noted("create enrolment key", &row.id, None, Some(after));
    let url = work.core.url.clone();
    let join_key =
        JoinKey { kind, controller: url.clone(), root: work.core.signer.root(), secret }.to_secret_text();
    // Behind the '#': no browser sends that part anywhere.
    let link = (kind == JoinKind::Device).then(|| format!("{url}/join#{join_key}"));
    let body = work.show(|views| EnrolmentKeyCreated { key: views.enrolment_key(&row), join_key, link })?;
    Ok(Applied::made(body))
}

pub(super) async fn delete_enrolment_key(work: &mut Work, id: EnrolmentKeyId) -> Result<Applied, Problem> {
    let row = work.change.enrolment_key(id).await?;
    let row = row.ok_or_else(|| Problem::not_found("enrolment key", id.to_string()))?;
    may_enrol(work, &row.target)?;
    let before = work.show(|views| views.enrolment_key(&row))?;
    work.unchanged(&before, &Value::Null)?;
    work.change.delete_enrolment_key(id).await?;
    work.noted("delete enrolment key", &id, Some(before), None);
    Ok(Applied::removed())
}

/// What a token is to do, as it is stored: no more than its maker may.
fn scopes(work: &Work, input: &TokenInput) -> Result<Vec<String>, Problem> {
    if let Some(role) = input.role {
        if !input.scopes.is_empty() {
            return Err(Problem::invalid("role", "a role or scopes, not both", json!(role)));
        }
        let role = stored_role(role);
        work.caller.need_to_cover(role)?;
        return Ok(vec![stored_role_of_token(role)]);
    }
    let scopes: BTreeSet<ApiScope> = input.scopes.iter().copied().collect();
    if scopes.is_empty() {
        let rule = "at least one of read, write, strike, enrol, admin, installation";
        return Err(Problem::invalid("scopes", rule, json!([])));
    }
    for scope in &scopes {
        if !roles::of_scope(*scope).iter().all(|permission| work.caller.may(*permission)) {
            let word = json!(scope);
            let mut problem =
                Problem::forbidden(format!("whoever makes a token with the scope {word} may do all of it"));
            problem.field = Some("scopes".into());
            problem.rule = Some("scopes that allow no more than their maker has".into());
            problem.value = Some(word);
            return Err(problem);
        }
    }
    Ok(scopes.iter().filter_map(|scope| Some(json!(scope).as_str()?.to_owned())).collect())
}

pub(super) async fn create_token(work: &mut Work, input: &TokenInput) -> Result<Applied, Problem> {
    let name = check::name("name", &input.name)?;
    let scopes = scopes(work, input)?;
    let lifetime = input.lifetime_seconds.unwrap_or(90 * 24 * 3600);
    let lifetime = check::within("lifetime_seconds", lifetime, 60..=YEAR_SECONDS)?;
    let id = fresh(TokenId::from_time_and_random);
    let (token, secret_hash) = new_token(id);
    let now = clock::wall().as_millis();
    let row =
        store::Token { id, name, scopes, secret_hash, expires_ms: now + lifetime * 1000, created_ms: now };
    work.change.insert_token(&row).await?;
    let after = work.show(|views| views.token(&row))?;
    work.noted("create token", &id, None, Some(after));
    Ok(Applied::made(work.show(|views| TokenCreated { description: views.token(&row), token })?))
}

pub(super) async fn delete_token(work: &mut Work, id: TokenId) -> Result<Applied, Problem> {
    let row = work.change.token(id).await?;
    let row = row.ok_or_else(|| Problem::not_found("token", id.to_string()))?;
    // A token that may do more is somebody's who may do more.
    let may_do_less = of_token(&row.scopes).1.is_subset(work.caller.permissions());
    if !may_do_less {
        let mut problem = Problem::forbidden("this token may do more than you may".to_owned());
        problem.field = Some("id".into());
        problem.rule = Some("a token that may do no more than the caller".into());
        problem.value = Some(id.to_string().into());
        return Err(problem);
    }
    let before = work.show(|views| views.token(&row))?;
    work.unchanged(&before, &Value::Null)?;
    work.change.delete_token(id).await?;
    work.noted("delete token", &id, Some(before), None);
    Ok(Applied::removed())
}
