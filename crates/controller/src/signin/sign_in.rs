//! Signing in: with a passkey, at a provider, or with a passphrase and a code; and signing out.

use super::{
    Attempt,
    cookie::{Method, Methods, RoleSource},
    keys::Purpose,
    known::Budget,
    log::{Outcome, named},
    page::{self, Field, error, field, icon, token},
    passkeys::CEREMONY,
    passphrase::{self, Line},
    percent::percent,
    sent::{Sent, Told},
    session::{self, Person, SignedIn, next_path, person_of},
    totp::{TotpSecret, recovery_hash},
    webauthn::Proof,
};
use crate::{
    api::{Origin, Peer, noted},
    clock,
    limiter::Try,
    parts::Core,
    snapshot::Snapshot,
};
use axum::{
    Extension, Json,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use maud::html;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{net::IpAddr, sync::Arc, time::Duration};
use store::{OrganizationData, Scope, StoreError};
use wire::{OrganizationId, UserId};

const SECOND_COOKIE: &str = "__Host-tidegate-second";
pub(super) const CEREMONY_COOKIE: &str = "__Host-tidegate-ceremony";
/// Between the two factors of a sign-in.
const SECOND_LIFE: Duration = Duration::from_secs(300);
/// For how long, and how often, a try looks whether others have made room.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
pub(super) const STALE_FORM: &str =
    "This form was open for too long, or cookies are off. Nothing was done; try again.";
const NOT_CALLED_SO: &str = "No organization here is called so.";
const WRONG: &str = "That passphrase does not match this name. Nothing is locked.";

/// What the first factor proved, while the second is asked for.
#[derive(Serialize, Deserialize)]
struct Second {
    organization: OrganizationId,
    user: UserId,
    next: String,
    /// Tells the ceremonies of one browser apart.
    id: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct SignInQuery {
    next: String,
    organization: String,
    /// The person is to prove again who they are.
    again: String,
}

/// The organization that a sign-in is for: the one that was named, by id or name; else that of the session, which may be as
/// old as it likes to be; else that of whoever signed in with this browser before; else the first.
fn organization<'a>(
    core: &Core,
    snapshot: &'a Snapshot,
    headers: &HeaderMap,
    named: &str,
) -> Option<&'a OrganizationData> {
    let open = |data: &&OrganizationData| !data.organization.is_closed();
    if !named.is_empty() {
        let all = || snapshot.dataset.organizations.iter().filter(open);
        if let Ok(id) = named.parse::<OrganizationId>() {
            return all().find(|data| data.organization.id == id);
        }
        // As it is written; else the only one that differs in capitals alone. Nobody gets to another by a name that is nearly it.
        let exact = all().find(|data| data.organization.name == named);
        return exact.or_else(|| {
            let mut like = all().filter(|data| data.organization.name.eq_ignore_ascii_case(named));
            like.next().filter(|_| like.next().is_none())
        });
    }
    let session = || core.signed_in(headers).and_then(|who| snapshot.organization(who.organization));
    let browser = || {
        let account = core.known_account(headers)?;
        snapshot.dataset.organizations.iter().find(|data| person_of(data, account).is_some())
    };
    session().or_else(browser).filter(open).or_else(|| snapshot.dataset.organizations.first())
}

/// What the page shows beside its forms.
#[derive(Default)]
struct Shown<'a> {
    next: &'a str,
    organization: &'a str,
    name: &'a str,
    error: &'a str,
    again: Option<&'a SignedIn>,
}

fn answer(core: &Core, headers: &HeaderMap, status: StatusCode, shown: &Shown<'_>) -> Response {
    let snapshot = core.snapshot();
    let named = organization(core, &snapshot, headers, shown.organization);
    let unknown = if named.is_none() { NOT_CALLED_SO } else { "" };
    let Some(data) = named.or_else(|| organization(core, &snapshot, headers, "")) else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let several = snapshot.open_organizations() > 1;
    let (form_token, cookie) = session::form_token(headers);
    let next = next_path(shown.next);
    let hidden = || {
        html! {
            (token(&form_token))
            input type="hidden" name="next" value=(next);
            input type="hidden" name="organization" value=(data.organization.id);
        }
    };
    let providers = &data.sign_in.providers;
    let has_passkeys = core.signin.passkeys.is_available() && !data.sign_in.passkeys.is_empty();
    let again = if shown.again.is_some() { "&again=1" } else { "" };
    let main = html! {
        h1 { @if shown.again.is_some() { "Prove that it is you" } @else { "Sign in" } }
        p class="lede" {
            @if let Some(who) = shown.again {
                "This needs a sign-in that is not older than " (core.sign_in_age_in_words(who.organization)) ", " (who.name) ". You stay signed in either way."
            } @else {
                "to the console of " strong { (data.organization.name) }
            }
        }
        @if has_passkeys {
            form action="/signin/passkey" method="post" data-passkey="prove" {
                (hidden())
                button class="btn btn--primary btn--wide" type="submit" { (icon("key")) "Continue with a passkey" }
                (page::says())
            }
        }
        @for provider in providers {
            p class="mt-2" {
                a class="btn btn--wide" href={ "/signin/oidc/" (percent(&provider.name)) "?next=" (percent(next)) "&organization=" (data.organization.id) (again) } {
                    (icon("people")) "Continue with " (provider.title)
                }
            }
        }
        @if has_passkeys || !providers.is_empty() { div class="or" { "or with a passphrase" } }
        form action="/signin" method="post" {
            (hidden())
            (field(Field { id: "name", label: "Email or name", autocomplete: "username", value: shown.name, ..Field::default() }))
            (field(Field { id: "passphrase", label: "Passphrase", kind: "password", autocomplete: "current-password", error: shown.error, ..Field::default() }))
            div class="mt-5" {
                button class=(if has_passkeys { "btn btn--wide" } else { "btn btn--primary btn--wide" }) type="submit" { "Sign in" }
            }
        }
        @if several && shown.again.is_none() {
            details class="mt-5" open[!unknown.is_empty()] {
                summary { "Another organization" }
                form class="mt-2" action="/signin" method="get" {
                    input type="hidden" name="next" value=(next);
                    (field(Field {
                        id: "organization", label: "Its name", autocomplete: "organization", error: unknown,
                        value: if unknown.is_empty() { "" } else { shown.organization },
                        hint: "As it stands in your invitation. This browser remembers it once you are in.", ..Field::default()
                    }))
                    div class="mt-2" { button class="btn" type="submit" { "Go there" } }
                }
            }
        }
        p class="fine" {
            "No way in? An owner can send a recovery link. On the controller’s host, "
            code { "tidegate admin" } " needs no sign-in, and " code { "tidegate admin owner-link" }
            " makes a link that works once."
        }
    };
    page::with_cookies(page::page(status, headers, "Sign in", &main), [cookie])
}

pub(super) async fn sign_in_page(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Query(query): Query<SignInQuery>,
) -> Response {
    let who = core.signed_in(&headers);
    let again = who.as_ref().filter(|_| !query.again.is_empty());
    if who.is_some() && again.is_none() {
        return Redirect::to(next_path(&query.next)).into_response();
    }
    let shown = Shown { next: &query.next, organization: &query.organization, again, ..Shown::default() };
    answer(&core, &headers, StatusCode::OK, &shown)
}

#[derive(Deserialize)]
pub(super) struct SignInForm {
    name: String,
    passphrase: String,
    form_token: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    organization: String,
}

/// The answer to who tries too often.
pub(super) fn limited(mut answer: Response, wait: Duration) -> Response {
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
    answer
}

/// Whom a name means, and what a passphrase is checked against.
fn candidate(core: &Core, data: &OrganizationData, name: &str) -> Option<(Person, Option<String>)> {
    let name = name.to_lowercase();
    let accounts = &data.sign_in.accounts;
    let by_address = || {
        let user = data.users.iter().find(|user| user.email.to_lowercase() == name)?;
        accounts.iter().find(|account| account.id == user.id)
    };
    if let Some(account) = accounts.iter().find(|account| account.sign_in_name == name).or_else(by_address) {
        let (person, account) = person_of(data, account.id)?;
        return Some((person, account.passphrase_hash.clone()));
    }
    // Administrators from before there were accounts, in the organization that was there first.
    let snapshot = core.snapshot();
    let first = snapshot.dataset.organizations.first()?;
    let mut administrators = snapshot.dataset.administrators.iter();
    let row = administrators
        .find(|row| row.name.to_lowercase() == name && first.organization.id == data.organization.id)?;
    let person = core.person(RoleSource::Administrator, data.organization.id, row.id)?;
    Some((person, Some(row.passphrase_hash.clone())))
}

pub(super) async fn sign_in(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Sent(form): Sent<SignInForm>,
) -> Response {
    let name: String = form.name.trim().chars().take(254).collect();
    let shown = |error| Shown {
        next: &form.next,
        organization: &form.organization,
        name: &form.name,
        error,
        again: None,
    };
    if !session::is_own_form(&headers, &form.form_token) {
        return answer(&core, &headers, StatusCode::FORBIDDEN, &shown(STALE_FORM));
    }
    let snapshot = core.snapshot();
    let Some(data) = organization(&core, &snapshot, &headers, &form.organization) else {
        return answer(&core, &headers, StatusCode::FORBIDDEN, &shown(WRONG));
    };
    let from = address(peer);
    let attempt = Attempt { core: &core, organization: data.organization.id, from };
    let methods = [Method::Passphrase];
    let found = candidate(&core, data, &name);
    let budget = match &found {
        Some((person, _)) => core.budget(&headers, Some(person.user), from),
        None => Budget::Address(from),
    };
    // Counted before it is made: tries at once are as many as tries one after the other.
    let budget = match budget {
        Budget::Browser(id) if core.browser_tries(&id).is_err() => Budget::Address(from),
        other => other,
    };
    let (line, mut counted) = match &budget {
        Budget::Browser(_) => (Line::Known, None),
        Budget::Address(from) => match taken(&core, *from).await {
            Ok(counted) => (Line::Strangers, Some(counted)),
            Err(wait) => {
                attempt.log(None, &methods, Outcome::Limited, "");
                let error = format!(
                    "Too many wrong passphrases came from this address. The next try is possible in {} s. Nothing is locked: a \
                     passkey works, and so does a browser in which you signed in before.",
                    wait.as_secs() + 1
                );
                return limited(answer(&core, &headers, StatusCode::TOO_MANY_REQUESTS, &shown(&error)), wait);
            }
        },
    };
    if counted.is_some() {
        tokio::time::sleep(core.signin.slowing.take(&name, clock::now())).await;
    }
    // From here on it is a guess: who hangs up before has made none.
    if let Some(counted) = &mut counted {
        counted.is_made();
    }
    let kept = found.as_ref().and_then(|(_, hash)| hash.clone());
    let long = form.passphrase.len() > passphrase::MAX_BYTES;
    if long || !passphrase::matches(form.passphrase.clone(), kept, line).await {
        attempt.log(found.map(|(person, _)| person.user), &methods, Outcome::Wrong, "");
        return answer(&core, &headers, StatusCode::FORBIDDEN, &shown(WRONG));
    }
    if let Budget::Browser(id) = &budget {
        core.browser_was_right(id);
    }
    if let Some(counted) = counted {
        counted.was_right();
        core.signin.slowing.was_right(&name, clock::now());
    }
    let Some((person, _)) = found else {
        return answer(&core, &headers, StatusCode::FORBIDDEN, &shown(WRONG));
    };
    let has_code = person_of(data, person.user)
        .is_some_and(|(_, account)| person.source == RoleSource::User && account.totp.is_some());
    if !has_code {
        return attempt.signed_in(&headers, &person, &methods, &form.next);
    }
    attempt.log(Some(person.user), &methods, Outcome::FirstFactor, "");
    let second = Second {
        organization: person.organization,
        user: person.user,
        next: next_path(&form.next).to_owned(),
        id: trust::encode_base64url(&clock::random::<16>()),
    };
    let now = core.signer.proof_time();
    let keys = &core.signin.keys;
    let cookie =
        session::sealed_cookie(keys, Purpose::SecondFactor, SECOND_COOKIE, &second, SECOND_LIFE, now);
    page::with_cookies(Redirect::to("/signin/code").into_response(), [cookie])
}

/// A try at a passphrase from an address. While others from there try, theirs may be right, and free a place again: an office
/// that begins its day is no attack.
async fn taken(core: &Core, from: IpAddr) -> Result<Try<'_>, Duration> {
    let until = clock::now() + WAIT_FOR_OTHERS;
    loop {
        match core.signin.failures.take(from, clock::now()) {
            Ok(counted) => return Ok(counted),
            Err(refused) if refused.others_are_trying && clock::now() < until => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(refused) => return Err(refused.wait),
        }
    }
}

/// Where a request came from.
pub(super) const fn address(peer: Peer) -> IpAddr {
    match peer {
        Peer::Network(address) => address,
        Peer::Local { .. } => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
    }
}

fn second_of(core: &Core, headers: &HeaderMap) -> Option<Second> {
    let sealed = session::read(headers, SECOND_COOKIE)?;
    core.signin.keys.open_until(Purpose::SecondFactor, sealed, core.signer.proof_time())
}

fn code_answer(headers: &HeaderMap, status: StatusCode, problem: &str) -> Response {
    let (form_token, cookie) = session::form_token(headers);
    let main = html! {
        h1 { "Your code" }
        p class="lede" { "The passphrase is right. The 6-digit code is in your authenticator app." }
        form action="/signin/code" method="post" {
            (token(&form_token))
            (field(Field {
                id: "code", label: "Code", autocomplete: "one-time-code", inputmode: "text", error: problem,
                hint: "A recovery code works here too, once.", ..Field::default()
            }))
            div class="mt-5" { button class="btn btn--primary btn--wide" type="submit" { "Sign in" } }
        }
        p class="fine" { a href="/signin" { "Start again" } }
    };
    page::with_cookies(page::page(status, headers, "Your code", &main), [cookie])
}

pub(super) async fn code_page(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    match second_of(&core, &headers) {
        Some(_) => code_answer(&headers, StatusCode::OK, ""),
        None => Redirect::to("/signin").into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct CodeForm {
    code: String,
    form_token: String,
}

pub(super) async fn code(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<CodeForm>,
) -> Response {
    let Some(second) = second_of(&core, &headers) else { return Redirect::to("/signin").into_response() };
    if !session::is_own_form(&headers, &form.form_token) {
        return code_answer(&headers, StatusCode::FORBIDDEN, STALE_FORM);
    }
    let from = address(peer);
    let attempt = Attempt { core: &core, organization: second.organization, from };
    // Whoever has the passphrase alone keeps nobody out of a browser that signed in to this account before.
    let account_key = match core.budget(&headers, Some(second.user), from) {
        Budget::Browser(id) => format!("{} {id}", second.user),
        Budget::Address(_) => second.user.to_string(),
    };
    let methods = [Method::Passphrase, Method::Totp];
    let now = clock::now();
    // Who gets here knows the passphrase: what others did behind the same address is no matter.
    if let Err(wait) = core.signin.codes.check(&account_key, now) {
        attempt.log(Some(second.user), &methods, Outcome::Limited, "");
        let text = format!(
            "Too many wrong codes. The next try is possible in {} s. A passkey works all the time.",
            wait.as_secs() + 1
        );
        return limited(code_answer(&headers, StatusCode::TOO_MANY_REQUESTS, &text), wait);
    }
    let snapshot = core.snapshot();
    let found = snapshot.organization(second.organization).and_then(|data| person_of(data, second.user));
    let Some((person, account)) = found else { return Redirect::to("/signin").into_response() };
    let secret =
        account.totp.as_deref().and_then(|sealed| core.signin.keys.open_sealed(Purpose::TotpSecret, sealed));
    let secret = secret.and_then(|bytes| TotpSecret::from_bytes(&bytes));
    let step = secret.and_then(|secret| secret.step_of(&form.code, core.signer.proof_time()));
    let clear = session::cookie(SECOND_COOKIE, "", Duration::ZERO);
    if let Some(step) = step
        && core.signin.used_steps.take(second.user, step)
    {
        core.tell_used(second.organization, second.user, step);
        return page::with_cookies(attempt.signed_in(&headers, &person, &methods, &second.next), [clear]);
    }
    let hash = recovery_hash(&form.code);
    let methods = if account.recovery_codes.contains(&hash) {
        let methods = [Method::Passphrase, Method::RecoveryCode];
        // A code works once: the database has to say that it is gone.
        match take_recovery_code(&core, &person, hash, &origin).await {
            Ok(()) => {
                let answer = attempt.signed_in(&headers, &person, &methods, &second.next);
                return page::with_cookies(answer, [clear]);
            }
            Err(StoreError::NotFound { .. }) => methods,
            Err(error) => {
                let text = format!("A recovery code needs the database, and changes have to wait: {error}.");
                return code_answer(&headers, StatusCode::SERVICE_UNAVAILABLE, &text);
            }
        }
    } else {
        methods
    };
    core.signin.codes.failed(&account_key, now);
    attempt.log(Some(second.user), &methods, Outcome::Wrong, "");
    let text = "That code is not right, or was used already. A code is good for about a minute; is the phone’s clock right?";
    code_answer(&headers, StatusCode::FORBIDDEN, text)
}

async fn take_recovery_code(
    core: &Arc<Core>,
    person: &Person,
    hash: store::SecretHash,
    origin: &Origin,
) -> Result<(), StoreError> {
    let actor = format!("{} ({})", person.user, person.name);
    let (store, mut change) = core.database.change(Scope::Organization(person.organization), &actor).await?;
    change.take_recovery_code(person.user, hash).await?;
    let noted = noted("use recovery code", &person.user.to_string(), None, None, json!({}));
    core.commit(&store, change, origin, noted).await?;
    Ok(())
}

#[derive(Deserialize)]
pub(super) struct PasskeyForm {
    form_token: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    answer: Option<serde_json::Value>,
}

pub(super) async fn passkey_options(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Told(form): Told<PasskeyForm>,
) -> Response {
    if !session::is_own_form(&headers, &form.form_token) {
        return page::said(StatusCode::FORBIDDEN, STALE_FORM);
    }
    match core.signin.passkeys.begin_sign_in(&core.signin.keys, core.signer.proof_time()) {
        Ok((options, sealed)) => {
            let cookie = session::cookie(CEREMONY_COOKIE, &sealed, CEREMONY);
            page::with_cookies(Json(json!({"options": options})).into_response(), [cookie])
        }
        Err(error) => page::said(StatusCode::CONFLICT, &error.to_string()),
    }
}

pub(super) async fn passkey(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Told(form): Told<PasskeyForm>,
) -> Response {
    if !session::is_own_form(&headers, &form.form_token) {
        return page::said(StatusCode::FORBIDDEN, STALE_FORM);
    }
    // Nothing here can be guessed: nobody waits, however many failed behind the same address.
    let from = address(peer);
    let snapshot = core.snapshot();
    let proof = form.answer.and_then(|answer| serde_json::from_value::<Proof>(answer).ok());
    let Some((proof, sealed)) = proof.zip(session::read(&headers, CEREMONY_COOKIE)) else {
        return page::said(StatusCode::BAD_REQUEST, "expected the browser’s answer to a passkey question");
    };
    let find = |credential: &str| {
        snapshot.dataset.organizations.iter().find_map(|data| {
            let passkey = data.sign_in.passkeys.iter().find(|passkey| passkey.credential == credential)?;
            Some((data.organization.id, passkey.clone()))
        })
    };
    let claimed = find(&proof.id).map(|(organization, passkey)| (organization, passkey.account));
    let organization = claimed.map(|claimed| claimed.0).or(snapshot
        .dataset
        .organizations
        .first()
        .map(|data| data.organization.id));
    let Some(organization) = organization else {
        return page::said(StatusCode::SERVICE_UNAVAILABLE, "not ready");
    };
    let attempt = Attempt { core: &core, organization, from };
    let methods = [Method::Passkey];
    let now = core.signer.proof_time();
    let owner = match core.signin.passkeys.finish_sign_in(&core.signin.keys, sealed, &proof, find, now) {
        Ok(owner) => owner,
        Err(error) => {
            attempt.log(claimed.map(|claimed| claimed.1), &methods, Outcome::Wrong, &error.to_string());
            return page::said(StatusCode::FORBIDDEN, &format!("The passkey did not sign you in: {error}."));
        }
    };
    let Some(person) = core.person(RoleSource::User, owner.organization, owner.user) else {
        return page::said(StatusCode::FORBIDDEN, "The account of this passkey is gone.");
    };
    let clear = session::cookie(CEREMONY_COOKIE, "", Duration::ZERO);
    match attempt.begin(&headers, &person, &methods) {
        Ok([session, known]) => {
            let next = json!({"next": next_path(&form.next)});
            page::with_cookies(Json(next).into_response(), [session, known, clear])
        }
        Err(refused) => page::said(StatusCode::FORBIDDEN, refused),
    }
}

#[derive(Deserialize)]
pub(super) struct TokenForm {
    form_token: String,
    #[serde(default)]
    next: String,
}

pub(super) async fn sign_out(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Sent(form): Sent<TokenForm>,
) -> Response {
    let mut response = Redirect::to("/signin").into_response();
    let who = core.signed_in(&headers).filter(|who| session::same(&who.form_token, &form.form_token));
    if let Some(who) = who {
        core.end_session(&who);
        let attempt = Attempt { core: &core, organization: who.organization, from: address(peer) };
        attempt.log(Some(who.user), &[], Outcome::SignedOut, "");
        response.headers_mut().append(header::SET_COOKIE, session::no_session());
    }
    response
}

pub(super) async fn theme(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Sent(form): Sent<TokenForm>,
) -> Response {
    let mut response = Redirect::to(next_path(&form.next)).into_response();
    let own = core.signed_in(&headers).is_some_and(|who| session::same(&who.form_token, &form.form_token));
    if own {
        response.headers_mut().append(header::SET_COOKIE, session::other_theme(&headers));
    }
    response
}

impl Attempt<'_> {
    /// Begins a session, or says why this person gets none: its cookie, and the one by which this browser is known.
    pub(super) fn begin(
        &self,
        headers: &HeaderMap,
        person: &Person,
        methods: &[Method],
    ) -> Result<[HeaderValue; 2], &'static str> {
        if self.core.is_struck(person) {
            self.log(Some(person.user), methods, Outcome::Refused, "access was revoked");
            return Err("Access was revoked. An administrator can give it back.");
        }
        self.log(Some(person.user), methods, Outcome::SignedIn, "");
        tracing::info!(user = %person.user, method = named(methods), "a person signed in");
        let session = self.core.begin_session(headers, person, Methods::of(methods));
        Ok([session, self.core.known_browser_cookie(person)])
    }

    /// The same as an answer to a form.
    pub(super) fn signed_in(
        &self,
        headers: &HeaderMap,
        person: &Person,
        methods: &[Method],
        next: &str,
    ) -> Response {
        match self.begin(headers, person, methods) {
            Ok(cookies) => page::with_cookies(Redirect::to(next_path(next)).into_response(), cookies),
            Err(refused) => {
                let main = html! { h1 { "You are not signed in" } (error("refused", refused)) };
                page::page(StatusCode::FORBIDDEN, headers, "Not signed in", &main)
            }
        }
    }
}
