//! To an OpenID provider and back.

use super::{
    Attempt,
    cookie::{Method, RoleSource},
    keys::Purpose,
    known::Budget,
    log::Outcome,
    oidc::{Client, ProviderError, address::HttpsUrl, people, protocol::Pending},
    page::{self, error},
    session::{self, next_path},
    sign_in::address,
};
use crate::{
    api::{Origin, Peer},
    clock,
    parts::Core,
};
use axum::{
    Extension,
    extract::{Path, Query, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode};
use maud::html;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};
use store::OidcProvider;
use wire::OrganizationId;

const PENDING_COOKIE: &str = "__Host-tidegate-provider";
/// How long somebody may be at the provider: people look for their second factor there.
const AWAY: Duration = Duration::from_secs(900);

/// When a provider that did not answer may be asked again.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Where providers send people back to: the address to register there.
pub(crate) fn redirect_uri(core: &Core) -> String {
    format!("{}/signin/oidc", core.url.trim_end_matches('/'))
}

/// Whether a text can be an issuer identifier (OpenID Connect Discovery section 3).
pub(crate) fn is_issuer(text: &str) -> bool {
    text.len() <= 512 && !text.contains('?') && HttpsUrl::parse(text).is_ok()
}

/// Whether a text has certificates and nothing that is none.
pub(crate) fn is_ca_pem(text: &str) -> bool {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    certificates.is_ok_and(|certificates| !certificates.is_empty())
}

/// A client secret as it is stored.
pub(crate) fn sealed_client_secret(core: &Core, secret: &str) -> String {
    core.signin.keys.seal(Purpose::ClientSecret, secret.as_bytes())
}

fn failed(headers: &HeaderMap, status: StatusCode, text: &str) -> Response {
    let main = html! {
        h1 { "You are not signed in" }
        div class="mt-2" { (error("problem", text)) }
        div class="actions mt-5" { a class="btn" href="/signin" { "Another way" } }
    };
    page::page(status, headers, "Not signed in", &main)
}

fn find(core: &Core, organization: OrganizationId, name: &str) -> Option<OidcProvider> {
    let snapshot = core.snapshot();
    let data = snapshot.organization(organization)?;
    data.sign_in.providers.iter().find(|provider| provider.name == name).cloned()
}

/// The provider's secret, opened; empty for a public client.
fn secret(core: &Core, provider: &OidcProvider) -> Option<String> {
    if provider.client_secret.is_empty() {
        return Some(String::new());
    }
    let bytes = core.signin.keys.open_sealed(Purpose::ClientSecret, &provider.client_secret)?;
    String::from_utf8(bytes).ok()
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct BeginQuery {
    next: String,
    organization: String,
    again: String,
}

pub(super) async fn begin(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Path(name): Path<String>,
    Query(query): Query<BeginQuery>,
) -> Response {
    let organization = match query.organization.parse() {
        Ok(organization) => Some(organization),
        Err(_) => core.snapshot().dataset.organizations.first().map(|data| data.organization.id),
    };
    let found = organization.and_then(|id| Some((id, find(&core, id, &name)?)));
    let Some((organization, provider)) = found else {
        return failed(&headers, StatusCode::NOT_FOUND, "This organization has no such provider.");
    };
    let Some(secret) = secret(&core, &provider) else {
        let text = "The provider’s client secret cannot be opened with this controller’s keys; set it again.";
        return failed(&headers, StatusCode::INTERNAL_SERVER_ERROR, text);
    };
    let again_as = core.signed_in(&headers).filter(|_| !query.again.is_empty()).map(|who| who.user);
    let pending = Pending::new(name, next_path(&query.next).to_owned(), again_as);
    let redirect = redirect_uri(&core);
    let client = Client { organization, provider: &provider, secret: &secret, redirect: &redirect };
    match core.signin.providers.authorization(&client, &pending).await {
        Ok(address) => {
            let (keys, now) = (&core.signin.keys, core.signer.proof_time());
            let kept = (organization, pending);
            let cookie = session::sealed_cookie(keys, Purpose::Provider, PENDING_COOKIE, &kept, AWAY, now);
            page::with_cookies(Redirect::to(&address).into_response(), [cookie])
        }
        Err(problem) => unanswered(&headers, &provider, &problem),
    }
}

fn unanswered(headers: &HeaderMap, provider: &OidcProvider, problem: &ProviderError) -> Response {
    let text = format!(
        "{} did not sign you in: {problem}. Other ways to sign in, and everything that is running, go on.",
        provider.title
    );
    match problem {
        // The trouble of somebody else is never a 500 or 502 of ours: those say that a controller is broken, and who
        // balances load would take it away.
        ProviderError::Fetch(_) => {
            let refused = failed(headers, StatusCode::SERVICE_UNAVAILABLE, &text);
            super::sign_in::limited(refused, ASK_AGAIN)
        }
        ProviderError::Protocol(_) => failed(headers, StatusCode::FORBIDDEN, &text),
    }
}

/// What comes back in the address (RFC 6749 sections 4.1.2 and 4.1.2.1, RFC 9207).
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct BackQuery {
    code: String,
    state: String,
    error: String,
    iss: Option<String>,
}

pub(super) async fn back(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    headers: HeaderMap,
    Query(query): Query<BackQuery>,
) -> Response {
    let now = core.signer.proof_time();
    let kept = session::read(&headers, PENDING_COOKIE).and_then(|sealed| {
        core.signin.keys.open_until::<(OrganizationId, Pending)>(Purpose::Provider, sealed, now)
    });
    let clear = session::cookie(PENDING_COOKIE, "", Duration::ZERO);
    let Some((organization, pending)) =
        kept.filter(|(_, pending)| session::same(&pending.state, &query.state))
    else {
        let text = "This answer belongs to no sign-in of this browser, or it took longer than 15 minutes. Begin again.";
        return page::with_cookies(failed(&headers, StatusCode::FORBIDDEN, text), [clear]);
    };
    let from = address(peer);
    let attempt = Attempt { core: &core, organization, from };
    let answer = match find(&core, organization, &pending.provider) {
        None => failed(&headers, StatusCode::NOT_FOUND, "This organization has no such provider any more."),
        Some(provider) => finish(&core, &headers, (&attempt, &origin), &provider, &pending, &query).await,
    };
    page::with_cookies(answer, [clear])
}

async fn finish(
    core: &Arc<Core>,
    headers: &HeaderMap,
    (attempt, origin): (&Attempt<'_>, &Origin),
    provider: &OidcProvider,
    pending: &Pending,
    query: &BackQuery,
) -> Response {
    let methods = [Method::Provider];
    let name = &provider.name;
    let budget = core.budget(headers, None, attempt.from);
    if let Budget::Address(from) = budget
        && let Err(wait) = core.signin.provider_failures.check(from, clock::now())
    {
        attempt.log(None, &methods, Outcome::Limited, name);
        let text =
            format!("Too many failures came from this address; try again in {} s.", wait.as_secs() + 1);
        return super::sign_in::limited(failed(headers, StatusCode::TOO_MANY_REQUESTS, &text), wait);
    }
    let wrong = |detail: &str| {
        match &budget {
            Budget::Browser(id) => core.browser_failed(id),
            Budget::Address(from) => core.signin.provider_failures.failed(*from, clock::now()),
        }
        attempt.log(None, &methods, Outcome::Wrong, &format!("{name}: {detail}"));
    };
    if query.iss.as_ref().is_some_and(|iss| *iss != provider.issuer) {
        wrong("another issuer answered");
        return failed(
            headers,
            StatusCode::FORBIDDEN,
            "Another provider answered than the one that was asked.",
        );
    }
    if !query.error.is_empty() || query.code.is_empty() {
        let said: String =
            query.error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(60).collect();
        attempt.log(None, &methods, Outcome::Refused, &format!("{name}: {said}"));
        return failed(headers, StatusCode::FORBIDDEN, &format!("{} said no ({said}).", provider.title));
    }
    let Some(secret) = secret(core, provider) else {
        let text = "The provider’s client secret cannot be opened with this controller’s keys; set it again.";
        return failed(headers, StatusCode::INTERNAL_SERVER_ERROR, text);
    };
    let redirect = redirect_uri(core);
    let client =
        Client { organization: attempt.organization, provider, secret: &secret, redirect: &redirect };
    let brought = (query.code.as_str(), query.iss.as_deref());
    let claims = match core.signin.providers.claims(&client, pending, brought, core.signer.proof_time()).await
    {
        Ok(claims) => claims,
        Err(problem) => {
            let outcome = match problem {
                ProviderError::Fetch(_) => Outcome::ProviderFailed,
                ProviderError::Protocol(_) => Outcome::Wrong,
            };
            attempt.log(None, &methods, outcome, &format!("{name}: {problem}"));
            return unanswered(headers, provider, &problem);
        }
    };
    match people::take(core, attempt.organization, provider, &claims, origin).await {
        Ok(person) => {
            let another = pending.again_as.is_some_and(|user| user != person.user);
            if another || person.source != RoleSource::User {
                wrong("proven again as somebody else");
                let text = "You are somebody else at the provider than here. Sign out there first.";
                return failed(headers, StatusCode::FORBIDDEN, text);
            }
            let method = if claims.is_proven { Method::Provider } else { Method::Remembered };
            attempt.signed_in(headers, &person, &[method], &pending.next)
        }
        Err(problem) => {
            attempt.log(None, &methods, Outcome::Refused, &format!("{name}: {problem}"));
            let status = match problem {
                people::NotTaken::Unknown(_) => StatusCode::FORBIDDEN,
                people::NotTaken::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            failed(
                headers,
                status,
                &format!("{} knows you, and you are not signed in here: {problem}.", provider.title),
            )
        }
    }
}
