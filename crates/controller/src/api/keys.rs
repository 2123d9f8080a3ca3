//! Enrolment keys, API tokens and organizations.

use super::{
    Answer, Made, Problem, Removed, Views,
    caller::{Caller, new_token},
    check, fresh, page, reads,
    request::{Body, Id, Params},
    types::{
        EnrolmentKey, EnrolmentKeyCreated, EnrolmentKeyInput, EnrolmentKind, Organization, OrganizationInput,
        OrganizationPatch, Page, PageQuery, Scope as ApiScope, Token, TokenCreated, TokenInput,
    },
    view,
};
use crate::{clock, parts::Core, snapshot::Snapshot};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::json;
use std::{collections::BTreeSet, sync::Arc};
use store::{EnrolmentTarget, Member, OrganizationData, Scope, SecretHash, StoreError, Version};
use trust::{JoinKey, JoinKind, JoinSecret};
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{EnrolmentKeyId, OrganizationId, TokenId};

/// Grants live a day unless the organization says otherwise (architecture).
pub(crate) const GRANT_LIFE_MS: u64 = 24 * 3600 * 1000;
/// Grants are renewed after four hours (architecture).
pub(crate) const RENEW_AFTER_MS: u64 = 4 * 3600 * 1000;
const YEAR_SECONDS: u64 = 365 * 24 * 3600;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_enrolment_keys, create_enrolment_key))
        .routes(routes!(get_enrolment_key, delete_enrolment_key))
        .routes(routes!(list_tokens, create_token))
        .routes(routes!(get_token, delete_token))
        .routes(routes!(list_organizations, create_organization))
        .routes(routes!(get_organization, change_organization))
}

reads!(list_tokens, get_token, "/tokens", "/tokens/{id}", "tokens", "token", TokenId, Token, tokens, token);

/// Keys that the caller may see: those of its organization, and with the scope `installation` those for PoPs.
fn visible<'s>(
    caller: &Caller,
    snapshot: &'s Snapshot,
    data: &'s OrganizationData,
) -> impl Iterator<Item = &'s store::EnrolmentKey> {
    let of_installation =
        caller.need(ApiScope::Installation).is_ok().then_some(&snapshot.dataset.enrolment_keys);
    data.enrolment_keys.iter().chain(of_installation.into_iter().flatten())
}

/// Lists every enrolment key; with the scope `installation` those for PoPs too.
#[utoipa::path(get, path = "/enrolment-keys", tag = "enrolment keys", params(PageQuery), responses((status = 200, description = "One page", body = Page<EnrolmentKey>)))]
async fn list_enrolment_keys(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Page<EnrolmentKey>> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    let mut rows: Vec<_> = visible(&caller, &snapshot, views.data).collect();
    rows.sort_by_key(|key| key.id);
    page(&rows, &query, |key| key.id.to_string(), |key| views.enrolment_key(key)).map(Json)
}

/// Gets one enrolment key.
#[utoipa::path(get, path = "/enrolment-keys/{id}", tag = "enrolment keys", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = EnrolmentKey)))]
async fn get_enrolment_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<EnrolmentKeyId>,
) -> Answer<EnrolmentKey> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    let key = visible(&caller, &snapshot, views.data)
        .find(|key| key.id == id)
        .ok_or_else(|| Problem::not_found("enrolment key", id.to_string()))?;
    Ok(Json(views.enrolment_key(key)))
}

/// What the key is for; a field that its kind does not have is refused.
fn target(input: &EnrolmentKeyInput) -> Result<EnrolmentTarget, Problem> {
    let none = |field: &str, given: bool| {
        let rule = "not for this kind of key";
        if given { Err(Problem::invalid(field, rule, serde_json::Value::Null)) } else { Ok(()) }
    };
    let places = input.region.is_some() || input.zone.is_some();
    let missing = |field: &str, rule: &str| Problem::invalid(field, rule, serde_json::Value::Null);
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

/// Makes an enrolment key. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/enrolment-keys", tag = "enrolment keys", request_body = EnrolmentKeyInput, responses((status = 201, description = "Made", body = EnrolmentKeyCreated)))]
async fn create_enrolment_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<EnrolmentKeyInput>,
) -> Made<EnrolmentKeyCreated> {
    let target = target(&input)?;
    let (scope, kind) = match target {
        EnrolmentTarget::Pop { .. } => {
            caller.need(ApiScope::Installation)?;
            (Scope::Installation, JoinKind::Pop)
        }
        EnrolmentTarget::Connector { .. } => (Scope::Organization(caller.organization), JoinKind::Connector),
        EnrolmentTarget::Device { .. } => (Scope::Organization(caller.organization), JoinKind::Device),
    };
    let cap = check::within("cap", input.cap.unwrap_or(1), 1..=10_000)?;
    let lifetime = input.lifetime_seconds.unwrap_or(24 * 3600);
    let lifetime = check::within("lifetime_seconds", lifetime, 60..=YEAR_SECONDS)?;
    let name = match &input.name {
        Some(name) => check::name("name", name)?,
        None => format!("{} key", target.kind()),
    };
    let secret = JoinSecret::from_random(clock::random());
    let now = clock::wall().as_millis();
    let key = store::EnrolmentKey {
        id: fresh(EnrolmentKeyId::from_time_and_random),
        organization: match scope {
            Scope::Installation => None,
            Scope::Organization(id) => Some(id),
        },
        name,
        target,
        secret_hash: SecretHash::from_digest(secret.hash()),
        cap,
        uses: 0,
        expires_ms: now + lifetime * 1000,
        created_ms: now,
    };
    let (store, mut change) = core.database.change(scope, &caller.actor).await?;
    change.insert_enrolment_key(&key).await.map_err(unknown_target)?;
    let detail = json!({"kind": key.target.kind(), "cap": cap});
    core.commit(&store, change, "create enrolment key", &key.id.to_string(), &detail).await?;
    let snapshot = core.snapshot();
    let view = Views::new(&core, caller.data(&snapshot)?).enrolment_key(&key);
    let join_key = JoinKey { kind, controller: core.url.clone(), root: core.signer.root(), secret };
    let join_key = join_key.to_secret_text();
    // Behind the '#': no browser sends that part anywhere.
    let link = (kind == JoinKind::Device).then(|| format!("{}/join#{join_key}", core.url));
    let created = EnrolmentKeyCreated { key: view, join_key, link };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Removes an enrolment key: it can no longer be used. What it enrolled stays.
#[utoipa::path(delete, path = "/enrolment-keys/{id}", tag = "enrolment keys", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Removed")))]
async fn delete_enrolment_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<EnrolmentKeyId>,
) -> Removed {
    let of_installation = core.snapshot().dataset.enrolment_keys.iter().any(|key| key.id == id);
    let scope = if of_installation {
        caller.need(ApiScope::Installation)?;
        Scope::Installation
    } else {
        Scope::Organization(caller.organization)
    };
    let (store, mut change) = core.database.change(scope, &caller.actor).await?;
    change.delete_enrolment_key(id).await?;
    core.commit(&store, change, "delete enrolment key", &id.to_string(), &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes an API token with scopes that its maker has. The secret is in this answer and nowhere else.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = TokenInput, responses((status = 201, description = "Made", body = TokenCreated)))]
async fn create_token(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<TokenInput>,
) -> Made<TokenCreated> {
    let name = check::name("name", &input.name)?;
    let scopes: BTreeSet<ApiScope> = input.scopes.into_iter().collect();
    if scopes.is_empty() {
        return Err(Problem::invalid(
            "scopes",
            "at least one of read, write, strike, enrol, installation",
            json!([]),
        ));
    }
    // Whoever may make tokens does not get by one what it was not given.
    scopes.iter().try_for_each(|scope| caller.need(*scope))?;
    let lifetime = input.lifetime_seconds.unwrap_or(90 * 24 * 3600);
    let lifetime = check::within("lifetime_seconds", lifetime, 60..=YEAR_SECONDS)?;
    let id = fresh(TokenId::from_time_and_random);
    let (text, secret_hash) = new_token(id);
    let now = clock::wall().as_millis();
    let names =
        scopes.iter().filter_map(|scope| Some(serde_json::to_value(scope).ok()?.as_str()?.to_owned()));
    let token = store::Token {
        id,
        name,
        scopes: names.collect(),
        secret_hash,
        expires_ms: now + lifetime * 1000,
        created_ms: now,
    };
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.insert_token(&token).await?;
    core.commit(&store, change, "create token", &id.to_string(), &json!({"scopes": token.scopes})).await?;
    let snapshot = core.snapshot();
    let description = Views::new(&core, caller.data(&snapshot)?).token(&token);
    Ok((StatusCode::CREATED, Json(TokenCreated { description, token: text })))
}

/// Removes an API token: it can no longer be used.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = String, Path, description = "Its id")), responses((status = 204, description = "Removed")))]
async fn delete_token(State(core): State<Arc<Core>>, caller: Caller, Id(id): Id<TokenId>) -> Removed {
    let (store, mut change) =
        core.database.change(Scope::Organization(caller.organization), &caller.actor).await?;
    change.delete_token(id).await?;
    core.commit(&store, change, "delete token", &id.to_string(), &json!({})).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lists the caller's organization; with the scope `installation`, every one.
#[utoipa::path(get, path = "/organizations", tag = "organizations", params(PageQuery), responses((status = 200, description = "One page", body = Page<Organization>)))]
async fn list_organizations(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(query): Params<PageQuery>,
) -> Answer<Page<Organization>> {
    let snapshot = core.snapshot();
    let every = caller.need(ApiScope::Installation).is_ok();
    let rows = snapshot.dataset.organizations.iter().map(|data| &data.organization);
    let rows: Vec<_> = rows.filter(|row| every || row.id == caller.organization).collect();
    page(&rows, &query, |row| row.id.to_string(), |row| view::organization(row)).map(Json)
}

/// Gets one organization.
#[utoipa::path(get, path = "/organizations/{id}", tag = "organizations", params(("id" = String, Path, description = "Its id")), responses((status = 200, description = "The object", body = Organization)))]
async fn get_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<OrganizationId>,
) -> Answer<Organization> {
    let snapshot = core.snapshot();
    let visible = id == caller.organization || caller.need(ApiScope::Installation).is_ok();
    let data = snapshot.organization(id).filter(|_| visible);
    let data = data.ok_or_else(|| Problem::not_found("organization", id.to_string()))?;
    Ok(Json(view::organization(&data.organization)))
}

/// Makes an organization.
#[utoipa::path(post, path = "/organizations", tag = "organizations", request_body = OrganizationInput, responses((status = 201, description = "Made", body = Organization)))]
async fn create_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Body(input): Body<OrganizationInput>,
) -> Made<Organization> {
    let organization = store::Organization {
        id: fresh(OrganizationId::from_time_and_random),
        name: check::name("name", &input.name)?,
        version: Version {
            incarnation: core.snapshot().dataset.installation.version.incarnation,
            version: 1,
        },
        grant_life_ms: GRANT_LIFE_MS,
        renew_after_ms: RENEW_AFTER_MS,
        shrink_version: 0,
        old_grants_end_ms: 0,
        created_ms: clock::wall().as_millis(),
    };
    let (store, mut change) = core.database.change(Scope::Installation, &caller.actor).await?;
    change.insert_organization(&organization).await?;
    let detail = json!({"name": organization.name});
    core.commit(&store, change, "create organization", &organization.id.to_string(), &detail).await?;
    Ok((StatusCode::CREATED, Json(view::organization(&organization))))
}

/// Changes an organization's name and how long grants live.
#[utoipa::path(patch, path = "/organizations/{id}", tag = "organizations", params(("id" = String, Path, description = "Its id")), request_body = OrganizationPatch, responses((status = 200, description = "Changed", body = Organization)))]
async fn change_organization(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(id): Id<OrganizationId>,
    Body(input): Body<OrganizationPatch>,
) -> Answer<Organization> {
    let snapshot = core.snapshot();
    let old = snapshot.organization(id).ok_or_else(|| Problem::not_found("organization", id.to_string()))?;
    let old = &old.organization;
    let name = input.name.as_deref().map(|name| check::name("name", name)).transpose()?;
    let life = input.grant_life_seconds.unwrap_or(old.grant_life_ms / 1000);
    let life = check::within("grant_life_seconds", life, 3600..=72 * 3600)?;
    let renew = input.renew_after_seconds.unwrap_or((old.renew_after_ms / 1000).min(life / 2));
    let renew = check::within("renew_after_seconds", renew, 5..=life / 2)?;
    let (store, mut change) = core.database.change(Scope::Organization(id), &caller.actor).await?;
    if let Some(name) = &name {
        change.rename_organization(id, name).await?;
    }
    change.set_grant_times(id, life * 1000, renew * 1000).await?;
    let detail = json!({"name": name, "grant_life_seconds": life, "renew_after_seconds": renew});
    core.commit(&store, change, "change organization", &id.to_string(), &detail).await?;
    get_organization(State(core), caller, Id(id)).await
}
