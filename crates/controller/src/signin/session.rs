//! Who is signed in, by the cookie alone and what is in memory; and the small cookies around it.

use super::{
    cookie::{self, FRESHEN_AFTER, LIFE, Methods, RoleSource, WebSession},
    keys::{Purpose, WebKeys},
};
use crate::{clock, parts::Core};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderValue, Method, header};
use std::{sync::Arc, time::Duration};
use store::{Account, OrganizationData};
use trust::{RevokedSubject, UnixMs, encode_base64url};
use wire::{OrganizationId, UserId};

/// `__Host-`: only over TLS, only this host, path `/` (RFC 6265bis section 4.1.3.2).
const SESSION_COOKIE: &str = "__Host-tidegate-session";
const FORM_COOKIE: &str = "__Host-tidegate-form";
const THEME_COOKIE: &str = "__Host-tidegate-theme";
/// A person who is signed in.
#[derive(Debug, Clone)]
pub(crate) struct SignedIn {
    /// For people.
    pub(crate) name: String,
    /// Goes into every form, and comes back with it.
    pub(crate) form_token: String,
    pub(crate) user: UserId,
    pub(crate) organization: OrganizationId,
    pub(crate) source: RoleSource,
    pub(crate) methods: Methods,
    /// When this person last proved who they are.
    pub(crate) authenticated: UnixMs,
    pub(crate) session: WebSession,
}

impl SignedIn {
    /// Whether a dangerous action may be done without proving again.
    pub(crate) fn is_fresh(&self, core: &Core) -> bool {
        core.signer.proof_time() < self.authenticated.plus(core.sign_in_age(self.organization))
    }

    /// The actor of audit rows.
    pub(crate) fn actor(&self) -> String {
        format!("{} ({})", self.user, self.name)
    }
}

/// Whom a session would be for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) organization: OrganizationId,
    pub(crate) source: RoleSource,
    pub(crate) name: String,
    pub(crate) generation: u64,
    /// Sessions that began before are over.
    sessions_from: UnixMs,
}

/// A user with an account, as the snapshot has both.
pub(crate) fn person_of(data: &OrganizationData, id: UserId) -> Option<(Person, &Account)> {
    let account = data.sign_in.accounts.iter().find(|account| account.id == id)?;
    let user = data.users.iter().find(|user| user.id == id)?;
    let person = Person {
        user: id,
        organization: data.organization.id,
        source: RoleSource::User,
        name: user.name.clone(),
        generation: user.generation,
        sessions_from: UnixMs::from_millis(account.sessions_from_ms),
    };
    Some((person, account))
}

impl Core {
    /// The person a session is about, as of now; `None` when there is no such person any more.
    pub(crate) fn person(
        &self,
        source: RoleSource,
        organization: OrganizationId,
        user: UserId,
    ) -> Option<Person> {
        let snapshot = self.snapshot();
        match source {
            RoleSource::User => {
                person_of(snapshot.organization(organization)?, user).map(|(person, _)| person)
            }
            RoleSource::Administrator => {
                let first = snapshot.dataset.organizations.first()?;
                let administrator = snapshot.dataset.administrators.iter().find(|row| row.id == user)?;
                Some(Person {
                    user,
                    organization: first.organization.id,
                    source,
                    name: administrator.name.clone(),
                    generation: 0,
                    sessions_from: UnixMs::from_millis(administrator.created_ms),
                })
            }
        }
    }

    /// How long ago a person of an organization may have proven who they are, for dangerous actions.
    pub(crate) fn sign_in_age(&self, organization: OrganizationId) -> Duration {
        let snapshot = self.snapshot();
        let set = snapshot.organization(organization).map(|data| data.organization.sign_in_age_ms);
        Duration::from_millis(set.unwrap_or(store::Organization::SIGN_IN_AGE_MS))
    }

    /// The same for people, in the largest unit that says it exactly.
    pub(crate) fn sign_in_age_in_words(&self, organization: OrganizationId) -> String {
        let seconds = self.sign_in_age(organization).as_secs();
        let (number, unit) = [(3600, "hour"), (60, "minute"), (1, "second")]
            .into_iter()
            .find(|(long, _)| seconds.is_multiple_of(*long))
            .map_or((seconds, "second"), |(long, unit)| (seconds / long, unit));
        let many = if number == 1 { "" } else { "s" };
        format!("{number} {unit}{many}")
    }

    /// Whether access of this person was revoked.
    pub(crate) fn is_struck(&self, person: &Person) -> bool {
        self.strikes.set().is_struck(RevokedSubject::User(person.user), person.generation)
    }

    /// Who sent these headers. Asks memory alone: the keys, the snapshot, the strikes, and what was signed out.
    pub(crate) fn signed_in(&self, headers: &HeaderMap) -> Option<SignedIn> {
        let text = read(headers, SESSION_COOKIE)?;
        let keys = &self.signin.keys;
        let session = WebSession::from_text(text, keys, self.signer.proof_time())?;
        let form_token = session.form_token(keys, cookie::claimed_key(text)?)?;
        if self.signin.ended.has(&session.id) {
            return None;
        }
        let person = self.person(session.source, session.organization, session.user)?;
        let is_old = session.generation < person.generation || session.authenticated < person.sessions_from;
        // The generation it began with: giving access back revives no session.
        let struck = self.strikes.set().is_struck(RevokedSubject::User(session.user), session.generation);
        if is_old || (struck && !planted::is("struck-sessions-live")) {
            return None;
        }
        Some(SignedIn {
            name: person.name,
            form_token,
            user: session.user,
            organization: session.organization,
            source: session.source,
            methods: session.methods,
            // Whom a provider remembered has proven nothing here: what asks for a fresh sign-in asks.
            authenticated: if session.methods.is_remembered() {
                UnixMs::from_millis(0)
            } else {
                session.authenticated
            },
            session,
        })
    }

    /// A new session's cookie. The session before it, if this browser has one, is over.
    pub(crate) fn begin_session(
        &self,
        headers: &HeaderMap,
        person: &Person,
        methods: Methods,
    ) -> HeaderValue {
        let now = self.signer.proof_time();
        if let Some(before) = self.signed_in(headers) {
            self.end_session(&before);
        }
        let session = WebSession {
            id: clock::random(),
            user: person.user,
            organization: person.organization,
            source: person.source,
            generation: person.generation,
            methods,
            authenticated: now,
            seen: now,
            expires: now.plus(LIFE),
        };
        cookie(SESSION_COOKIE, &session.to_text(&self.signin.keys), LIFE)
    }

    /// Ends a session before its time.
    pub(crate) fn end_session(&self, who: &SignedIn) {
        let SignedIn { session, .. } = who;
        if let Err(error) = self.signin.ended.end(session.id, session.expires, self.signer.best_time()) {
            tracing::error!(%error, "a session was signed out and a restart would revive it");
        }
        self.tell_ended(who.organization, session.id, session.expires);
    }
}

/// The cookie that removes the session's cookie.
pub(crate) fn no_session() -> HeaderValue {
    cookie(SESSION_COOKIE, "", Duration::ZERO)
}

/// Whether an open page asks by itself: nobody uses the session by that, however long the page stays open.
fn asks_by_itself(request: &Request) -> bool {
    request.uri().path() == "/events"
        || (request.method() == Method::GET && request.headers().contains_key("hx-request"))
}

/// Writes the cookie anew with an answer when it is some minutes old, so that a session in use does not become idle.
pub(crate) async fn keep_alive(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let now = core.signer.proof_time();
    let held = read(request.headers(), SESSION_COOKIE)
        .filter(|_| !asks_by_itself(&request))
        .and_then(|text| WebSession::from_text(text, &core.signin.keys, now))
        .filter(|session| session.seen.plus(FRESHEN_AFTER) <= now);
    let mut response = next.run(request).await;
    let sets_one = response
        .headers()
        .get_all(header::SET_COOKIE)
        .iter()
        .any(|value| value.to_str().is_ok_and(|value| value.starts_with(SESSION_COOKIE)));
    if let Some(session) = held.filter(|_| !sets_one) {
        let left = session.expires.since(now);
        let text = WebSession { seen: now, ..session }.to_text(&core.signin.keys);
        response.headers_mut().append(header::SET_COOKIE, cookie(SESSION_COOKIE, &text, left));
    }
    response
}

/// Whose session a request says that it is: enough to share turns by, and for nothing else.
pub(crate) fn organization(core: &Core, headers: &HeaderMap) -> Option<OrganizationId> {
    let text = read(headers, SESSION_COOKIE)?;
    let session = WebSession::from_text(text, &core.signin.keys, core.signer.proof_time())?;
    Some(session.organization)
}

/// One of our cookies: for this host and TLS alone, and for no script.
pub(super) fn cookie(name: &str, value: &str, life: Duration) -> HeaderValue {
    let text = format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age={}", life.as_secs());
    HeaderValue::from_str(&text).expect("names and values are ours: letters, digits, dots, - and _")
}

/// A cookie of a request.
pub(super) fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(key, value)| (key == name).then_some(value))
}

/// Something sealed that a browser brings back within `life`.
pub(super) fn sealed_cookie<T: serde::Serialize>(
    keys: &WebKeys,
    purpose: Purpose,
    name: &str,
    what: &T,
    life: Duration,
    now: UnixMs,
) -> HeaderValue {
    cookie(name, &keys.seal_until(purpose, now.plus(life), what), life)
}

/// The token of forms before anybody is signed in: in a cookie and in the form (double submit). Gives the
/// token and the cookie to set.
pub(crate) fn form_token(headers: &HeaderMap) -> (String, HeaderValue) {
    let held = read(headers, FORM_COOKIE).filter(|token| token.len() == 43).map(str::to_owned);
    let token = held.unwrap_or_else(|| encode_base64url(&clock::random::<32>()));
    let set = cookie(FORM_COOKIE, &token, Duration::from_secs(3600));
    (token, set)
}

/// Whether a form before sign-in came from a page of ours.
pub(crate) fn is_own_form(headers: &HeaderMap, token: &str) -> bool {
    read(headers, FORM_COOKIE).is_some_and(|held| same(held, token))
}

/// Equality in the same time wherever the first difference is.
pub(crate) fn same(a: &str, b: &str) -> bool {
    let equal = a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0;
    std::hint::black_box(equal)
}

/// Where to go after sign-in: a path of this host, or the overview. `//host` and `/\host` are other hosts to a
/// browser.
pub(crate) fn next_path(text: &str) -> &str {
    let own = text.starts_with('/')
        && !text.starts_with("//")
        && text.len() <= 1024
        && text.chars().all(|c| c.is_ascii_graphic() && c != '\\');
    if own { text } else { "/" }
}

/// The theme a person chose: `light`, `dark` or nothing.
pub(crate) fn theme(headers: &HeaderMap) -> &'static str {
    match read(headers, THEME_COOKIE) {
        Some("light") => "light",
        Some("dark") => "dark",
        _ => "",
    }
}

/// The cookie that keeps the other theme.
pub(crate) fn other_theme(headers: &HeaderMap) -> HeaderValue {
    let next = if theme(headers) == "dark" { "light" } else { "dark" };
    cookie(THEME_COOKIE, next, Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(&format!("x=y; {pair}")).unwrap())])
    }

    #[test]
    fn a_form_from_elsewhere_does_not_have_the_cookie_s_token() {
        let (token, cookie) = form_token(&HeaderMap::new());
        assert!(is_own_form(&headers(&cookie), &token));
        assert!(!is_own_form(&headers(&cookie), "x"));
        assert!(!is_own_form(&HeaderMap::new(), ""));
    }

    #[test]
    fn after_sign_in_nobody_is_sent_to_another_host() {
        for own in ["/", "/resources/res-1?after=x", "/device?code=BCDF"] {
            assert_eq!(next_path(own), own);
        }
        for other in [
            "",
            "https://evil.example/",
            "//evil.example",
            "/\\evil.example",
            "\\/evil",
            "/a\nb",
            "/ä",
            "javascript:x",
        ] {
            assert_eq!(next_path(other), "/", "{other}");
        }
    }
}
