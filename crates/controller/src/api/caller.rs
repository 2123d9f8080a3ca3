//! Who calls, and what that caller may do: decided once, before any handler runs.
//!
//! | scope | may |
//! | --- | --- |
//! | `read` | every `GET` |
//! | `strike` | `POST /strikes` |
//! | `enrol` | `POST` and `DELETE` under `/enrolment-keys` |
//! | `write` | every other change of the token's own organization |
//! | `installation` | changes under `/pops`, `/organizations`, `/tokens`, `/owner-links`, `/restored-database`, `/key-rotations`, keys for PoPs, and naming another organization |
//!
//! Nothing of the installation as a whole is read without `installation`: keys for PoPs and the database's diagnostics.
//! A token is made with scopes that its maker has, and no others.
//!
//! The local socket may do everything: who may open it is root or the controller's own user.

use super::{problem::Problem, types::Scope};
use crate::{clock, parts::Core, snapshot::Snapshot};
use axum::{
    extract::{FromRequestParts, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use store::{OrganizationData, SecretHash};
use trust::{RevokedSubject, sha256};
use wire::{OrganizationId, TokenId};

/// The header by which a caller that may names another organization.
pub const ORGANIZATION_HEADER: &str = "tidegate-organization";
/// How old what was answered may be, in seconds: 0 when it is known to be what the database has.
const SNAPSHOT_AGE_HEADER: &str = "tidegate-snapshot-age";
const TOKEN_PREFIX: &str = "tgt1.";

/// Where a request came from; set by the listener, never by the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The local socket.
    Local {
        /// The peer's uid.
        uid: u32,
    },
    /// The network.
    Network(IpAddr),
}

/// A caller that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) actor: String,
    pub(crate) organization: OrganizationId,
    scopes: BTreeSet<Scope>,
}

impl Caller {
    /// Refuses a caller without a scope that a handler asks for beyond the table above.
    pub(crate) fn need(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            return Ok(());
        }
        Err(missing(scope))
    }

    /// The caller's organization as the snapshot has it.
    pub(crate) fn data<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a OrganizationData, Problem> {
        let found = snapshot.organization(self.organization);
        found.ok_or_else(|| Problem::not_found("organization", self.organization.to_string()))
    }
}

fn missing(scope: Scope) -> Problem {
    let name = serde_json::to_value(scope).unwrap_or_default();
    let mut problem = Problem::forbidden(format!("this needs a token with the scope {name}"));
    problem.field = Some("scopes".into());
    problem.rule = Some("the scope this needs".into());
    problem.value = Some(name);
    problem
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::unauthorized("send a token: Authorization: Bearer …"))
    }
}

/// The scope a request needs, by the table above.
fn needed(method: &Method, path: &str) -> Scope {
    let collection = path.split('/').find(|part| !part.is_empty() && !matches!(*part, "api" | "v1"));
    match (method, collection.unwrap_or_default()) {
        (&Method::GET | &Method::HEAD, "diagnostics") => Scope::Installation,
        (&Method::GET | &Method::HEAD, _) => Scope::Read,
        (_, "strikes") => Scope::Strike,
        (_, "enrolment-keys") => Scope::Enrol,
        (_, "pops" | "organizations" | "tokens" | "owner-links" | "restored-database" | "key-rotations") => {
            Scope::Installation
        }
        _ => Scope::Write,
    }
}

/// Whether a request strikes before it changes anything: that needs no clock (see [`super::removal`]).
fn strikes(method: &Method, path: &str) -> bool {
    let mut parts = path.split('/').filter(|part| !part.is_empty() && !matches!(*part, "api" | "v1"));
    match (method, parts.next()) {
        (&Method::POST, Some("strikes")) => true,
        (&Method::DELETE, Some("users" | "service-accounts" | "devices" | "connectors" | "pops")) => true,
        (&Method::DELETE, Some("groups")) => parts.any(|part| part == "members"),
        _ => false,
    }
}

/// Lets callers in, or answers for the handlers.
pub(crate) async fn authenticate(
    State(core): State<Arc<Core>>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = match identify(&core, &request) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    if let Err(problem) = caller.need(needed(request.method(), request.uri().path())) {
        return problem.into_response();
    }
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_read
        && !strikes(request.method(), request.uri().path())
        && let Err(fenced) = core.signer.signing_time()
    {
        return Problem::from(fenced).into_response();
    }
    request.extensions_mut().insert(caller);
    let mut answer = next.run(request).await;
    let age = HeaderValue::from(core.snapshot_age().as_secs());
    answer.headers_mut().insert(SNAPSHOT_AGE_HEADER, age);
    answer
}

fn identify(core: &Core, request: &Request) -> Result<Caller, Problem> {
    let snapshot = core.snapshot();
    let caller = match request.extensions().get::<Peer>() {
        Some(Peer::Local { uid }) => {
            let first = snapshot.dataset.organizations.first();
            let first = first.ok_or_else(|| Problem::internal("the snapshot has no organization"))?;
            let scopes = [Scope::Read, Scope::Write, Scope::Strike, Scope::Enrol, Scope::Installation];
            Caller {
                actor: format!("local uid {uid}"),
                organization: first.organization.id,
                scopes: scopes.into(),
            }
        }
        _ => token_caller(core, &snapshot, request.headers())?,
    };
    other_organization(caller, &snapshot, request.headers())
}

fn token_caller(core: &Core, snapshot: &Snapshot, headers: &HeaderMap) -> Result<Caller, Problem> {
    let unknown = || Problem::unauthorized("the token is unknown, has expired or was revoked");
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let value = value.ok_or_else(|| Problem::unauthorized("send a token: Authorization: Bearer …"))?;
    let (scheme, text) = value.split_once(' ').ok_or_else(unknown)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Problem::unauthorized("expected the scheme Bearer (RFC 6750)"));
    }
    let rest = text.trim().strip_prefix(TOKEN_PREFIX).ok_or_else(unknown)?;
    let (id, secret) = rest.split_once('.').ok_or_else(unknown)?;
    let id: TokenId = id.parse().map_err(|_| unknown())?;
    let given = hash_token(secret);
    let (organization, token) = snapshot
        .dataset
        .organizations
        .iter()
        .find_map(|data| Some((data.organization.id, data.tokens.iter().find(|token| token.id == id)?)))
        .ok_or_else(unknown)?;
    // Equality of hashes takes the same time wherever they differ.
    let valid = token.secret_hash == given
        && token.expires_ms > core.signer.best_time().as_millis()
        && !core.strikes.set().is_struck(RevokedSubject::Token(id), 1);
    if !valid {
        return Err(unknown());
    }
    let scopes = token.scopes.iter().filter_map(|scope| serde_json::from_value(scope.as_str().into()).ok());
    Ok(Caller { actor: format!("token {id} ({})", token.name), organization, scopes: scopes.collect() })
}

fn other_organization(
    mut caller: Caller,
    snapshot: &Snapshot,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let Some(value) = headers.get(ORGANIZATION_HEADER) else { return Ok(caller) };
    let text = value.to_str().unwrap_or_default();
    let id: OrganizationId = text
        .parse()
        .map_err(|error: wire::IdError| Problem::refused(ORGANIZATION_HEADER, &error.to_string(), text))?;
    if id != caller.organization {
        if !planted::is("token-crosses-organizations") {
            caller.need(Scope::Installation)?;
        }
        let known = snapshot.organization(id).is_some();
        known.then_some(()).ok_or_else(|| Problem::not_found("organization", text))?;
        caller.organization = id;
    }
    Ok(caller)
}

fn hash_token(secret: &str) -> SecretHash {
    SecretHash::from_digest(sha256(&[b"tidegate/api-token/1", secret.as_bytes()]))
}

/// A fresh token's text and what is kept of it.
pub(crate) fn new_token(id: TokenId) -> (String, SecretHash) {
    let secret = trust::encode_base64url(&clock::random::<32>());
    let hash = hash_token(&secret);
    (format!("{TOKEN_PREFIX}{id}.{secret}"), hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_action_needs_the_scope_of_the_table() {
        for (method, path, scope) in [
            (Method::GET, "/api/v1/sites", Scope::Read),
            (Method::GET, "/api/v1/enrolment-keys", Scope::Read),
            (Method::POST, "/api/v1/sites", Scope::Write),
            (Method::DELETE, "/api/v1/groups/a/members/b", Scope::Write),
            (Method::POST, "/api/v1/strikes", Scope::Strike),
            (Method::POST, "/api/v1/restores", Scope::Write),
            (Method::DELETE, "/api/v1/enrolment-keys/a", Scope::Enrol),
            (Method::POST, "/api/v1/tokens", Scope::Installation),
            (Method::DELETE, "/api/v1/pops/a", Scope::Installation),
            (Method::PATCH, "/api/v1/organizations/a", Scope::Installation),
            (Method::POST, "/sites", Scope::Write),
            (Method::GET, "/api/v1/diagnostics/database", Scope::Installation),
            (Method::POST, "/api/v1/restored-database", Scope::Installation),
        ] {
            assert_eq!(needed(&method, path), scope, "{method} {path}");
        }
    }

    #[test]
    fn what_takes_access_away_by_a_strike_needs_no_clock_and_everything_else_does() {
        for (method, path, expected) in [
            (Method::POST, "/api/v1/strikes", true),
            (Method::DELETE, "/api/v1/devices/a", true),
            (Method::DELETE, "/api/v1/groups/a/members/b", true),
            (Method::DELETE, "/api/v1/groups/a", false),
            (Method::PUT, "/api/v1/groups/a/members/b", false),
            (Method::PUT, "/api/v1/policies/a", false),
            (Method::POST, "/api/v1/restores", false),
        ] {
            assert_eq!(strikes(&method, path), expected, "{method} {path}");
        }
    }
}
