//! Who calls, and what that caller may do: decided once, before any handler runs, from the tables of [`super::roles`].
//!
//! A token has scopes or a role; a person has the role of their row in the snapshot, looked up at each request, so that a
//! role that was taken away ends with the change. The local socket may do everything: who may open it is root or the
//! controller's own user.

use super::{
    bearer::{self, NoBearer},
    problem::Problem,
    rates::Class,
    roles::{self, Needs, Permission, SignIn},
    types::Scope,
};
use crate::{clock, limiter::FailureLimit, parts::Core, snapshot::Snapshot};
use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};
use store::{OrganizationData, Role, SecretHash};
use trust::{RevokedSubject, UnixMs, sha256};
use wire::{OrganizationId, TokenId, UserId};

/// The header by which a caller that may names another organization.
pub const ORGANIZATION_HEADER: &str = "tidegate-organization";
/// How old what was answered may be, in seconds: 0 when it is known to be what the database has.
const SNAPSHOT_AGE_HEADER: &str = "tidegate-snapshot-age";
/// Names a request in the audit log: the caller's own, or one that is made here.
const REQUEST_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Before the name of a role among a token's scopes.
const ROLE_PREFIX: &str = "role:";
/// Wrong tokens a minute of one address. A token has 256 bits: this keeps work and logs short.
static WRONG_TOKENS: LazyLock<FailureLimit> =
    LazyLock::new(|| FailureLimit::new(120, Duration::from_secs(60)));

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

/// From where and by which request something was asked: for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// None: the local socket.
    pub(crate) address: Option<IpAddr>,
    /// The request's id.
    pub(crate) request: String,
}

impl Origin {
    /// Of a request from somewhere: its own id when it has a good one, else a new one.
    pub(crate) fn of(peer: Option<&Peer>, headers: &HeaderMap) -> Self {
        let given = headers.get(REQUEST_HEADER).and_then(|value| value.to_str().ok());
        let given = given.filter(|text| {
            (1..=64).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        });
        let request =
            given.map_or_else(|| trust::encode_base64url(&clock::random::<12>()), ToOwned::to_owned);
        let address = match peer {
            Some(Peer::Network(address)) => Some(*address),
            Some(Peer::Local { .. }) | None => None,
        };
        Self { address, request }
    }

    /// What this controller does by itself.
    pub(crate) const fn own() -> Self {
        Self { address: None, request: String::new() }
    }

    /// From where, in words.
    pub(crate) fn source(&self) -> String {
        self.address.map_or_else(|| "local".to_owned(), |address| address.to_string())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Origin {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(parts.extensions.get::<Peer>(), &parts.headers))
    }
}

/// What the actor of an administrator begins with.
const ADMINISTRATOR: &str = "administrator ";

/// What a caller is.
#[allow(dead_code, reason = "the console makes people's callers")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// The local socket.
    Local,
    /// A token.
    Token(TokenId),
    /// A person who signed in.
    User(UserId),
    /// An administrator with a passphrase: an owner of the operator's organization.
    Administrator,
}

/// Put into a request by another part of this process that has identified the caller by itself (the console, by its
/// session). Nothing from the network can set it.
#[derive(Debug, Clone)]
pub(crate) struct InProcess(pub(crate) Caller);

/// A caller that was let in.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) actor: String,
    pub(crate) organization: OrganizationId,
    pub(crate) who: Who,
    pub(crate) origin: Origin,
    /// The role, where the caller has one.
    pub(crate) role: Option<Role>,
    /// When the person behind it last proved who they are; none for tokens and the local socket.
    pub(crate) authenticated_at: Option<UnixMs>,
    permissions: BTreeSet<Permission>,
}

#[allow(dead_code, reason = "the console makes people's callers")]
impl Caller {
    /// A person who is signed in: the role is the one in the snapshot now.
    ///
    /// # Errors
    /// The person is gone, or access was revoked.
    pub(crate) fn of_user(
        core: &Core,
        organization: OrganizationId,
        user: UserId,
        origin: Origin,
    ) -> Result<Self, Problem> {
        let gone = || Problem::unauthorized("this person is not known any more, or access was revoked");
        let snapshot = core.snapshot();
        let data = snapshot.organization(organization).ok_or_else(gone)?;
        let row = data.users.binary_search_by_key(&user, |row| row.id).map_err(|_| gone())?;
        let row = &data.users[row];
        if core.strikes.set().is_struck(RevokedSubject::User(user), row.generation) {
            return Err(gone());
        }
        Ok(Self {
            actor: format!("{} ({})", row.email, user),
            organization,
            who: Who::User(user),
            origin,
            role: Some(row.role),
            authenticated_at: None,
            permissions: permissions_of(row.role, organization, &snapshot),
        })
    }

    /// An administrator who signed in by a passphrase.
    ///
    /// # Errors
    /// Nobody has this name any more.
    pub(crate) fn of_administrator(core: &Core, name: &str, origin: Origin) -> Result<Self, Problem> {
        let gone = || Problem::unauthorized("this administrator is not known any more");
        let snapshot = core.snapshot();
        let known = snapshot.dataset.administrators.iter().any(|row| row.name.eq_ignore_ascii_case(name));
        let organization = operator(&snapshot).filter(|_| known).ok_or_else(gone)?;
        Ok(Self {
            actor: format!("{ADMINISTRATOR}{name}"),
            organization,
            who: Who::Administrator,
            origin,
            role: Some(Role::Owner),
            authenticated_at: None,
            permissions: permissions_of(Role::Owner, organization, &snapshot),
        })
    }

    fn local(uid: u32, snapshot: &Snapshot, origin: Origin) -> Result<Self, Problem> {
        let organization =
            operator(snapshot).ok_or_else(|| Problem::internal("the snapshot has no organization"))?;
        Ok(Self {
            actor: format!("local uid {uid}"),
            organization,
            who: Who::Local,
            origin,
            role: Some(Role::Owner),
            authenticated_at: None,
            permissions: permissions_of(Role::Owner, organization, snapshot),
        })
    }

    /// Whether somebody who was let in would be let in again, with no less than they had: for answers that last.
    pub(crate) fn is_still_let_in(&self, core: &Core) -> bool {
        let snapshot = core.snapshot();
        let held = match self.who {
            Who::Local => return true,
            Who::Token(id) => {
                let mut all = snapshot.dataset.organizations.iter();
                let token = all.find_map(|data| {
                    let place = data.tokens.binary_search_by_key(&id, |token| token.id).ok()?;
                    Some(&data.tokens[place])
                });
                let token = token.filter(|token| is_good(core, token));
                token.map(|token| of_token(&token.scopes).1)
            }
            Who::User(user) => {
                let mut all = snapshot.dataset.organizations.iter();
                let organization =
                    all.find(|data| data.users.binary_search_by_key(&user, |row| row.id).is_ok());
                let organization = organization.map(|data| data.organization.id);
                let caller =
                    organization.map(|organization| Self::of_user(core, organization, user, Origin::own()));
                caller.and_then(Result::ok).map(|caller| caller.permissions)
            }
            Who::Administrator => {
                let name = self.actor.strip_prefix(ADMINISTRATOR).unwrap_or_default();
                Self::of_administrator(core, name, Origin::own()).ok().map(|caller| caller.permissions)
            }
        };
        held.is_some_and(|held| self.permissions.is_subset(&held))
    }

    /// Whether this is allowed.
    pub(crate) fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// Whether an endpoint lets this caller in; `template` is its path below `/api/v1`, parameters in braces.
    pub(crate) fn may_call(&self, method: &Method, template: &str) -> bool {
        roles::suffices(&self.permissions, roles::needs(method, template))
    }

    /// Says when the person behind it proved who they are.
    pub(crate) const fn authenticated(mut self, at: UnixMs) -> Self {
        self.authenticated_at = Some(at);
        self
    }

    /// What is allowed.
    pub(crate) const fn permissions(&self) -> &BTreeSet<Permission> {
        &self.permissions
    }

    /// Refuses a caller without a permission that a handler asks for beyond the endpoint's own.
    pub(crate) fn need(&self, permission: Permission) -> Result<(), Problem> {
        if self.may(permission) { Ok(()) } else { Err(missing(&[permission])) }
    }

    /// Refuses a caller who has none of these.
    pub(crate) fn need_any(&self, needs: Needs) -> Result<(), Problem> {
        if roles::suffices(&self.permissions, needs) { Ok(()) } else { Err(missing(needs)) }
    }

    /// Refuses to touch somebody whose role may do more than the caller.
    pub(crate) fn need_to_cover(&self, role: Role) -> Result<(), Problem> {
        if roles::covers(&self.permissions, role) {
            return Ok(());
        }
        let word = roles::word(role);
        let mut problem =
            Problem::forbidden(format!("this concerns the role {word}, which may do more than you may"));
        problem.field = Some("role".into());
        problem.rule = Some("a role that may do no more than the caller".into());
        problem.value = Some(word.into());
        Err(problem)
    }

    /// Refuses to touch a token that may do what the caller may not.
    pub(crate) fn need_to_hold(&self, token: &store::Token) -> Result<(), Problem> {
        let (_, held) = of_token(&token.scopes);
        match held.difference(&self.permissions).next() {
            None => Ok(()),
            Some(more) => {
                let detail = format!("this token has the permission {}, which you have not", more.word());
                let rule = "a token that may do no more than the caller";
                Err(Problem::forbidden(detail).about("subject", rule, more.word()))
            }
        }
    }

    /// Refuses everybody but who is on the controller's host: the way in when all others are lost is no way for who has
    /// stolen one of them.
    pub(crate) fn need_local(&self) -> Result<(), Problem> {
        if self.who == Who::Local {
            return Ok(());
        }
        let mut problem =
            Problem::forbidden("this is done on the controller's host alone: tidegate admin owner-link");
        problem.field = Some("caller".into());
        problem.rule = Some("the local socket of the controller's host".into());
        problem.value = Some("network".into());
        Err(problem)
    }

    /// Refuses a person who proved too long ago who they are. A token or the local socket has proven it with this request.
    pub(crate) fn need_fresh(&self, core: &Core) -> Result<(), Problem> {
        match self.who {
            Who::Local | Who::Token(_) => return Ok(()),
            Who::User(_) | Who::Administrator => {}
        }
        let age = core.sign_in_age(self.organization);
        let fresh = self.authenticated_at.is_some_and(|at| core.signer.proof_time() < at.plus(age));
        if fresh { Ok(()) } else { Err(Problem::sign_in_again(age)) }
    }

    /// The caller's organization as the snapshot has it.
    pub(crate) fn data<'a>(&self, snapshot: &'a Snapshot) -> Result<&'a OrganizationData, Problem> {
        let found = snapshot.organization(self.organization);
        found.ok_or_else(|| Problem::not_found("organization", self.organization.to_string()))
    }
}

/// The organization that was there first: whoever operates the installation.
pub(super) fn operator(snapshot: &Snapshot) -> Option<OrganizationId> {
    let all = snapshot.dataset.organizations.iter().map(|data| &data.organization);
    all.min_by_key(|row| (row.created_ms, row.id)).map(|row| row.id)
}

fn permissions_of(role: Role, organization: OrganizationId, snapshot: &Snapshot) -> BTreeSet<Permission> {
    let mut held: BTreeSet<Permission> = roles::of_role(role).iter().copied().collect();
    if role == Role::Owner && operator(snapshot) == Some(organization) {
        held.insert(Permission::Installation);
    }
    held
}

fn missing(needs: &[Permission]) -> Problem {
    let words: Vec<&str> = needs.iter().map(|one| one.word()).collect();
    let named = words.join(" or ");
    let mut problem =
        Problem::forbidden(format!("this needs the permission {named}; docs/roles.md says who has it"));
    problem.field = Some("permission".into());
    problem.rule = Some(format!("a role or token with {named}"));
    problem.value = words.first().map(|word| (*word).into());
    problem
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| Problem::unauthorized("send a token: Authorization: Bearer …"))
    }
}

/// Whether a request strikes before it changes anything, or may do nothing else: that needs no clock (see
/// [`super::operate`], where a bulk of anything else asks for one).
pub(super) fn strikes(method: &Method, template: &str) -> bool {
    match *method {
        Method::POST => {
            matches!(template, "/strikes" | "/bulk" | "/devices/{id}/block" | "/devices/{id}/archive")
        }
        Method::DELETE => matches!(
            template,
            "/users/{id}"
                | "/service-accounts/{id}"
                | "/devices/{id}"
                | "/connectors/{id}"
                | "/pops/{id}"
                | "/groups/{id}/members/{member}"
        ),
        _ => false,
    }
}

/// Lets callers in, or answers for the handlers.
pub(crate) async fn authenticate(
    State(core): State<Arc<Core>>,
    mut request: Request,
    next: Next,
) -> Response {
    let origin = Origin::of(request.extensions().get::<Peer>(), request.headers());
    let id = HeaderValue::from_str(&origin.request);
    let reads = is_read(request.method(), template(&request));
    let class = if reads { Class::Reads } else { Class::Changes };
    let mut rate = None;
    let mut answer = match identify(&core, &request, origin) {
        Ok(caller) => {
            // Whoever it is that asks is counted, also for what they may not.
            let taken = core.rates.take(&caller, class, clock::now());
            rate = taken.as_ref().map_or_else(|refused| refused.rate, |rate| *rate);
            let admitted = match taken {
                Ok(_) => other_organization(caller, &core.snapshot(), request.headers())
                    .and_then(|caller| admit(&core, &request, &caller).map(|()| caller)),
                Err(refused) => Err(refused.problem()),
            };
            match admitted {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                    next.run(request).await
                }
                Err(problem) => problem.into_response(),
            }
        }
        Err(problem) => problem.into_response(),
    };
    let age = HeaderValue::from(core.snapshot_age().as_secs());
    let headers = answer.headers_mut();
    headers.insert(SNAPSHOT_AGE_HEADER, age);
    if let Some(rate) = rate {
        rate.tell(headers);
    }
    if let Ok(id) = id {
        headers.insert(REQUEST_HEADER, id);
    }
    answer
}

/// Endpoints that change nothing although they take a body.
pub(super) const ONLY_LOOKS: &[&str] = &["/policies/preview"];

pub(super) fn is_read(method: &Method, template: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD) || ONLY_LOOKS.contains(&template)
}

/// An endpoint's path below `/api/v1`, its parameters in braces.
pub(super) fn template(request: &Request) -> &str {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    path.strip_prefix("/api/v1").unwrap_or(path)
}

/// Whether a caller gets in at this endpoint now.
fn admit(core: &Core, request: &Request, caller: &Caller) -> Result<(), Problem> {
    let template = template(request);
    caller.need_any(roles::needs(request.method(), template))?;
    if roles::sign_in(request.method(), template) == SignIn::Fresh {
        caller.need_fresh(core)?;
    }
    if !is_read(request.method(), template) && !strikes(request.method(), template) {
        core.signer.signing_time()?;
    }
    Ok(())
}

/// Who asks, in their own organization.
fn identify(core: &Core, request: &Request, origin: Origin) -> Result<Caller, Problem> {
    let snapshot = core.snapshot();
    if let Some(InProcess(caller)) = request.extensions().get::<InProcess>() {
        return Ok(caller.clone());
    }
    match request.extensions().get::<Peer>() {
        Some(Peer::Local { uid }) => Caller::local(*uid, &snapshot, origin),
        _ => {
            let address = origin.address;
            let given = credential(request.headers())?;
            // A right token is let in wherever others tried wrong ones: it has 256 bits, so nobody guesses it.
            token_caller(core, &snapshot, given, origin).map_err(|wrong| {
                let Some(from) = address else { return wrong };
                if let Err(wait) = WRONG_TOKENS.check(from, clock::now()) {
                    return too_many_wrong(wait);
                }
                WRONG_TOKENS.failed(from, clock::now());
                wrong
            })
        }
    }
}

fn too_many_wrong(wait: Duration) -> Problem {
    let detail = "too many wrong tokens came from this address";
    let mut problem =
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-failures", "Too many failures", detail);
    problem.retry_after = Some(wait.as_secs() + 1);
    problem.about(
        "authorization",
        "at most 120 wrong tokens a minute from one address",
        serde_json::Value::Null,
    )
}

fn unknown() -> Problem {
    Problem::unauthorized("the token is unknown, has expired or was revoked")
}

fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let value = value.ok_or_else(|| Problem::unauthorized("send a token: Authorization: Bearer …"))?;
    bearer::credential(value).map_err(|why| match why {
        NoBearer::OneWord => unknown(),
        NoBearer::OtherScheme => Problem::unauthorized("expected the scheme Bearer (RFC 6750)"),
    })
}

fn token_caller(core: &Core, snapshot: &Snapshot, text: &str, origin: Origin) -> Result<Caller, Problem> {
    let (id, secret) = bearer::parts(text).ok_or_else(unknown)?;
    let given = hash_token(secret);
    let (organization, token) = snapshot
        .dataset
        .organizations
        .iter()
        .find_map(|data| {
            let place = data.tokens.binary_search_by_key(&id, |token| token.id).ok()?;
            Some((data.organization.id, &data.tokens[place]))
        })
        .ok_or_else(unknown)?;
    // Equality of hashes takes the same time wherever they differ.
    if token.secret_hash != given || !is_good(core, token) {
        return Err(unknown());
    }
    let (role, permissions) = of_token(&token.scopes);
    Ok(Caller {
        actor: format!("token {id} ({})", token.name),
        organization,
        who: Who::Token(id),
        origin,
        role,
        authenticated_at: None,
        permissions,
    })
}

/// Whether a token is neither over nor struck.
fn is_good(core: &Core, token: &store::Token) -> bool {
    token.expires_ms > core.signer.proof_time().as_millis()
        && !core.strikes.set().is_struck(RevokedSubject::Token(token.id), 1)
}

/// What a token's stored scopes allow. A word that this version does not know allows nothing.
pub(crate) fn of_token(scopes: &[String]) -> (Option<Role>, BTreeSet<Permission>) {
    let mut held = BTreeSet::new();
    let mut role = None;
    for text in scopes {
        if let Some(name) = text.strip_prefix(ROLE_PREFIX) {
            role = name.parse().ok();
            held.extend(role.map(roles::of_role).unwrap_or_default());
        } else if let Ok(scope) = serde_json::from_value::<Scope>(text.as_str().into()) {
            held.extend(roles::of_scope(scope));
        }
    }
    (role, held)
}

/// How a token's role stands among its scopes.
pub(crate) fn stored_role(role: Role) -> String {
    format!("{ROLE_PREFIX}{role}")
}

fn other_organization(
    mut caller: Caller,
    snapshot: &Snapshot,
    headers: &HeaderMap,
) -> Result<Caller, Problem> {
    let Some(value) = headers.get(ORGANIZATION_HEADER) else { return Ok(caller) };
    let text = value.to_str().unwrap_or_default();
    let id: OrganizationId = text.parse().map_err(|error: wire::IdError| {
        let mut problem = Problem::refused(ORGANIZATION_HEADER, &error.to_string(), text);
        problem.status = StatusCode::BAD_REQUEST.as_u16();
        problem
    })?;
    if id != caller.organization {
        if !planted::is("token-crosses-organizations") {
            caller.need(Permission::Installation)?;
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
    (bearer::text(id, &secret), hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_access_away_by_a_strike_needs_no_clock_and_everything_else_does() {
        for (method, path, expected) in [
            (Method::POST, "/strikes", true),
            (Method::POST, "/devices/{id}/block", true),
            (Method::POST, "/devices/{id}/approve", false),
            (Method::DELETE, "/devices/{id}", true),
            (Method::DELETE, "/groups/{id}/members/{member}", true),
            (Method::DELETE, "/groups/{id}", false),
            (Method::PUT, "/groups/{id}/members/{member}", false),
            (Method::PUT, "/policies/{id}", false),
            (Method::POST, "/restores", false),
            (Method::POST, "/bulk", true),
        ] {
            assert_eq!(strikes(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_scope_or_role_that_nobody_knows_allows_nothing() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert!(of_token(&words(&["everything", "role:king", "role:"])).1.is_empty());
        let (role, held) = of_token(&words(&["role:auditor"]));
        assert_eq!(role, Some(Role::Auditor));
        assert_eq!(held, roles::of_role(Role::Auditor).iter().copied().collect());
        assert!(of_token(&words(&["read"])).1.contains(&Permission::ReadAudit));
    }

    #[test]
    fn a_request_keeps_its_own_id_when_it_is_a_good_one() {
        let with = |text: &'static str| {
            let headers = HeaderMap::from_iter([(REQUEST_HEADER, HeaderValue::from_static(text))]);
            Origin::of(None, &headers).request
        };
        assert_eq!(with("run-7.a_b"), "run-7.a_b");
        for bad in ["", "a b", "<x>"] {
            assert_ne!(with(bad), bad);
        }
        let long: &'static str = Box::leak("x".repeat(65).into_boxed_str());
        assert_ne!(with(long), long);
    }
}
