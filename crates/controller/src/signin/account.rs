//! "Your account": how one signs in, and the sessions one has. Every change needs a sign-in that is not old.

use super::{
    Attempt,
    cookie::RoleSource,
    invitation::passphrase_errors,
    keys::Purpose,
    log::Outcome,
    page::{self, Field, error, field, icon, says, token},
    passkeys::{CEREMONY, MOST},
    passphrase,
    percent::percent,
    qr,
    sent::{Sent, Told},
    session::{self, Person, SignedIn, person_of},
    sign_in::{CEREMONY_COOKIE, address},
    totp::{TotpSecret, recovery_codes},
    webauthn::Made,
};
use crate::{
    api::{self, Origin, Peer, noted},
    clock, console,
    parts::Core,
};
use axum::{
    Extension, Json,
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderMap, StatusCode};
use maud::{Markup, PreEscaped, html};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use store::{Account, Change, Passkey, Scope, StoreError};
use trust::UnixMs;

/// A secret that was shown has to be confirmed within this.
const SETUP: Duration = Duration::from_secs(900);
/// Keeps it, sealed, while its person proves again who they are: it may be scanned already.
const SETUP_COOKIE: &str = "__Host-tidegate-totp";

/// Where who has to prove first who they are comes back to.
const NOT_DONE: &str = "/account?not=1";
/// Where a form leads that is not of this session.
const OTHER_SESSION: &str = "/account?not=form";

/// The account of who is signed in, as the snapshot has it.
struct Own {
    who: SignedIn,
    person: Person,
    account: Account,
    passkeys: Vec<Passkey>,
    organization: String,
    /// The console has pages for them: who has none would be led to a refusal.
    has_console: bool,
}

#[expect(clippy::result_large_err, reason = "the error is the page that is answered")]
fn own(core: &Core, headers: &HeaderMap) -> Result<Own, Response> {
    let who = core.signed_in(headers).ok_or_else(|| Redirect::to("/signin?next=/account").into_response())?;
    let snapshot = core.snapshot();
    let data = snapshot.organization(who.organization);
    let found = data.filter(|_| who.source == RoleSource::User).and_then(|data| {
        let (person, account) = person_of(data, who.user)?;
        let passkeys = data.sign_in.passkeys.iter().filter(|passkey| passkey.account == who.user).cloned();
        let organization = data.organization.name.clone();
        let caller = api::Caller::of_user(core, who.organization, who.user, Origin::of(None, headers));
        Some(Own {
            who: who.clone(),
            person,
            account: account.clone(),
            passkeys: passkeys.collect(),
            organization,
            has_console: caller.is_ok_and(|caller| console::shows_anything_to(&caller)),
        })
    });
    found.ok_or_else(|| {
        page::message(
            StatusCode::NOT_FOUND,
            headers,
            "No account of your own",
            "You signed in as an administrator from before there were accounts. tidegate admin owner-link makes a \
             link with which you set an account up.",
        )
    })
}

/// The account, by a form of this session and a sign-in that is not old.
#[expect(clippy::result_large_err, reason = "the error is the page that is answered")]
fn fresh(core: &Core, headers: &HeaderMap, form_token: &str) -> Result<Own, Response> {
    // Nothing of what was typed comes back into a page: it is said that nothing was done.
    fresh_for(core, headers, form_token, NOT_DONE)
}

/// As [`fresh`]; who has to sign in first comes back to this page.
#[expect(clippy::result_large_err, reason = "the error is the page that is answered")]
fn fresh_for(core: &Core, headers: &HeaderMap, form_token: &str, page: &str) -> Result<Own, Response> {
    let Some(who) = core.signed_in(headers) else {
        return Err(Redirect::to(&format!("/signin?next={}", percent(page))).into_response());
    };
    let own = own(core, headers)?;
    if !session::same(&own.who.form_token, form_token) {
        return Err(Redirect::to(OTHER_SESSION).into_response());
    }
    if !who.is_fresh(core) {
        return Err(Redirect::to(&format!("/signin?again=1&next={}", percent(page))).into_response());
    }
    Ok(own)
}

fn day(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map(|time| time.strftime("%-d %b %Y").to_string()).unwrap_or_default()
}

/// What is wrong, at its place.
#[derive(Default)]
struct Wrong<'a> {
    /// With the page as a whole.
    page: &'a str,
    passphrase: &'a str,
    again: &'a str,
    /// What was done before this page.
    done: &'a str,
}

impl<'a> Wrong<'a> {
    fn page(text: &'a str) -> Self {
        Self { page: text, ..Self::default() }
    }
}

fn shown(core: &Core, headers: &HeaderMap, status: StatusCode, own: &Own, wrong: &Wrong<'_>) -> Response {
    let hidden = token(&own.who.form_token);
    let main = html! {
        h1 { "Your account" }
        p class="lede" { (own.who.name) ", " (own.account.sign_in_name) " · " (own.organization) }
        (error("problem", wrong.page))
        @if !wrong.done.is_empty() { div class="note" role="status" { p { (wrong.done) } } }
        h2 { "Passkeys" }
        @if own.passkeys.is_empty() { p class="quiet" { "None yet. A passkey signs you in by fingerprint, face or PIN, and cannot be phished." } }
        @for passkey in &own.passkeys {
            form class="held" action="/account/passkeys/remove" method="post" {
                (hidden)
                input type="hidden" name="credential" value=(passkey.credential);
                span { (icon("key")) " " (passkey.name) " " span class="quiet" { "since " (day(passkey.created_ms)) } } " "
                button class="btn btn--sm" type="submit" { "Remove" }
            }
        }
        @if core.signin.passkeys.is_available() {
            form class="mt-2" action="/account/passkeys" method="post" data-passkey="make" {
                (hidden)
                (field(Field { id: "name", label: "Name of the new passkey", value: "This device", ..Field::default() }))
                div class="mt-2" { button class="btn btn--primary" type="submit" { (icon("key")) "Add a passkey" } }
                (says())
            }
        }
        h2 { "Authenticator app" }
        @if own.account.totp.is_some() {
            p { "On. " (own.account.recovery_codes.len()) " recovery codes are left." }
            form class="mt-2" action="/account/totp/remove" method="post" {
                (hidden) button class="btn btn--sm" type="submit" { "Remove the app and its codes" }
            }
            p class="mt-2" { a href="/account/totp" { "Set another app up" } }
        } @else {
            p { "Off. With it, a passphrase alone does not sign anybody in." }
            p class="mt-2" { a class="btn" href="/account/totp" { "Set it up" } }
        }
        h2 { "Passphrase" }
        form action="/account/passphrase" method="post" {
            (hidden)
            input type="hidden" autocomplete="username" name="email" value=(own.account.sign_in_name);
            (field(Field { id: "passphrase", label: "New passphrase", kind: "password", autocomplete: "new-password", error: wrong.passphrase, ..Field::default() }))
            (field(Field { id: "again", label: "The same again", kind: "password", autocomplete: "new-password", error: wrong.again, ..Field::default() }))
            div class="mt-2" { button class="btn" type="submit" { "Change it" } }
        }
        h2 { "Sessions" }
        p { "This one began with: " (own.who.methods.names().join(", ")) "." }
        p class="quiet" { "A session ends after 2 h without use, and after 12 h in any case." }
        form class="mt-2" action="/account/sessions/end" method="post" {
            (hidden) button class="btn" type="submit" { "Sign out everywhere" }
        }
        form class="mt-2" action="/signout" method="post" {
            (hidden) button class="btn" type="submit" { "Sign out here" }
        }
        @if own.has_console { p class="fine" { a href="/" { "Back to the console" } } }
    };
    page::page(status, headers, "Your account", &main)
}

#[derive(Deserialize)]
pub(super) struct Before {
    #[serde(default)]
    saved: String,
    #[serde(default)]
    not: String,
}

pub(super) async fn account_page(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Query(before): Query<Before>,
) -> Response {
    let wrong = if !before.saved.is_empty() {
        Wrong { done: "Saved.", ..Wrong::default() }
    } else if before.not == "form" {
        Wrong::page("Nothing was changed: that form belonged to another session. Please send it again.")
    } else if !before.not.is_empty() {
        Wrong::page("Nothing was changed: it had to be shown first who you are. Do it again now.")
    } else {
        Wrong::default()
    };
    match own(&core, &headers) {
        Ok(own) => shown(&core, &headers, StatusCode::OK, &own, &wrong),
        Err(answer) => answer,
    }
}

/// One change of this account, in the audit log: what there was before, and is now.
async fn change<F>(
    core: &Arc<Core>,
    own: &Own,
    origin: &Origin,
    (action, before, after): (&str, Value, Value),
    what: F,
) -> Result<(), StoreError>
where
    F: AsyncFnOnce(&mut Change) -> Result<(), StoreError>,
{
    let scope = Scope::Organization(own.person.organization);
    let (store, mut change) = core.database.change(scope, &own.who.actor()).await?;
    what(&mut change).await?;
    let noted = noted(action, &own.person.user.to_string(), Some(before), Some(after), json!({}));
    core.commit(&store, change, origin, noted).await?;
    Ok(())
}

/// What the passkeys of an account are called, but for one that goes.
fn passkeys<'a>(own: &'a Own, without: Option<&str>) -> Vec<&'a str> {
    let left = own.passkeys.iter().filter(|passkey| without.is_none_or(|gone| passkey.credential != gone));
    left.map(|passkey| passkey.name.as_str()).collect()
}

fn app(is_on: bool, recovery_codes: usize) -> Value {
    json!({"authenticator_app": is_on, "recovery_codes": recovery_codes})
}

/// The page again, or why the change did not happen.
fn changed(core: &Core, headers: &HeaderMap, own: &Own, done: Result<(), StoreError>) -> Response {
    match done {
        Ok(()) => Redirect::to("/account?saved=1").into_response(),
        Err(problem) => {
            let text = format!("Nothing was changed: {problem}.");
            shown(core, headers, StatusCode::SERVICE_UNAVAILABLE, own, &Wrong::page(&text))
        }
    }
}

#[derive(Deserialize)]
pub(super) struct NewPasskey {
    form_token: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    answer: Option<Value>,
}

/// What a script is told instead of a redirect.
fn prove_again(core: &Core, headers: &HeaderMap) -> Response {
    let age = core.signed_in(headers).map(|who| core.sign_in_age_in_words(who.organization));
    let text = age.map_or_else(
        || "You were signed out: sign in again first.".to_owned(),
        |age| format!("Sign in again first: this needs a sign-in that is not older than {age}."),
    );
    page::said(StatusCode::FORBIDDEN, &text)
}

pub(super) async fn passkey_options(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Told(form): Told<NewPasskey>,
) -> Response {
    let Ok(own) = fresh(&core, &headers, &form.form_token) else {
        return prove_again(&core, &headers);
    };
    if own.passkeys.len() >= MOST {
        let text = format!("An account has at most {MOST} passkeys; remove one first.");
        return page::said(StatusCode::CONFLICT, &text);
    }
    let held: Vec<&Passkey> = own.passkeys.iter().collect();
    let (keys, now) = (&core.signin.keys, core.signer.proof_time());
    let (user, account) = (own.person.user, &own.account.sign_in_name);
    match core.signin.passkeys.begin_registration(keys, user, account, &own.who.name, &held, now) {
        Ok((options, sealed)) => {
            let cookie = session::cookie(CEREMONY_COOKIE, &sealed, CEREMONY);
            page::with_cookies(Json(json!({"options": options})).into_response(), [cookie])
        }
        Err(problem) => page::said(StatusCode::CONFLICT, &problem.to_string()),
    }
}

pub(super) async fn add_passkey(
    State(core): State<Arc<Core>>,
    origin: Origin,
    headers: HeaderMap,
    Told(form): Told<NewPasskey>,
) -> Response {
    let Ok(own) = fresh(&core, &headers, &form.form_token) else {
        return prove_again(&core, &headers);
    };
    let Ok(name) = api::name("name", form.name.trim()) else {
        return page::said(StatusCode::UNPROCESSABLE_ENTITY, "A name has 1 to 64 characters.");
    };
    let made = form.answer.and_then(|answer| serde_json::from_value::<Made>(answer).ok());
    let Some((made, sealed)) = made.zip(session::read(&headers, CEREMONY_COOKIE)) else {
        return page::said(StatusCode::BAD_REQUEST, "expected the browser’s answer to a passkey question");
    };
    let (keys, now) = (&core.signin.keys, core.signer.proof_time());
    let (credential, document) =
        match core.signin.passkeys.finish_registration(keys, own.person.user, sealed, &made, now) {
            Ok(made) => made,
            Err(problem) => {
                let text = format!("The passkey was not added: {problem}.");
                return page::said(StatusCode::UNPROCESSABLE_ENTITY, &text);
            }
        };
    let created_ms = clock::wall().as_millis();
    let passkey = Passkey { credential, account: own.person.user, name, document, created_ms };
    let names = passkeys(&own, None);
    let more: Vec<&str> = names.iter().copied().chain([passkey.name.as_str()]).collect();
    let said = ("add passkey", json!({"passkeys": names}), json!({"passkeys": more}));
    let done = change(&core, &own, &origin, said, async |change| change.insert_passkey(&passkey).await).await;
    match done {
        Ok(()) => {
            let clear = session::cookie(CEREMONY_COOKIE, "", Duration::ZERO);
            page::with_cookies(Json(json!({"next": "/account"})).into_response(), [clear])
        }
        Err(StoreError::Conflict { .. }) => {
            page::said(StatusCode::CONFLICT, "This passkey is registered already.")
        }
        Err(problem) => {
            let text = format!("Changes have to wait: {problem}.");
            page::said(StatusCode::SERVICE_UNAVAILABLE, &text)
        }
    }
}

#[derive(Deserialize)]
pub(super) struct RemovePasskey {
    form_token: String,
    credential: String,
}

pub(super) async fn remove_passkey(
    State(core): State<Arc<Core>>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<RemovePasskey>,
) -> Response {
    let own = match fresh(&core, &headers, &form.form_token) {
        Ok(own) => own,
        Err(answer) => return answer,
    };
    let is_last_way = own.account.passphrase_hash.is_none() && own.passkeys.len() == 1;
    if is_last_way {
        let text = "This is the only way into your account: set a passphrase or add another passkey first.";
        return shown(&core, &headers, StatusCode::CONFLICT, &own, &Wrong::page(text));
    }
    let user = own.person.user;
    let (all, left) = (passkeys(&own, None), passkeys(&own, Some(&form.credential)));
    let said = ("remove passkey", json!({"passkeys": all}), json!({"passkeys": left}));
    let done = change(&core, &own, &origin, said, async |change| {
        change.delete_passkey(user, &form.credential).await
    });
    let done = done.await;
    changed(&core, &headers, &own, done)
}

fn totp_form(
    headers: &HeaderMap,
    status: StatusCode,
    own: &Own,
    sealed: &str,
    secret: &TotpSecret,
    problem: &str,
) -> Response {
    let issuer = format!("Tidegate {}", own.organization.replace(':', " "));
    let uri = secret.uri(&own.account.sign_in_name, &issuer);
    let main = html! {
        h1 { "Authenticator app" }
        p class="lede" { "Scan this with your app, then type the code it shows." }
        (PreEscaped(qr::svg(&uri, "QR code for the authenticator app")))
        p class="sm" { "Or type the secret: " code class="wrap-any" { (secret.shown()) } }
        form action="/account/totp" method="post" {
            (token(&own.who.form_token))
            input type="hidden" name="setup" value=(sealed);
            (field(Field { id: "code", label: "Code", autocomplete: "one-time-code", inputmode: "numeric", error: problem, ..Field::default() }))
            div class="mt-5" { button class="btn btn--primary btn--wide" type="submit" { "Switch it on" } }
        }
        p class="fine" { a href="/account" { "Not now" } }
    };
    page::page(status, headers, "Authenticator app", &main)
}

pub(super) async fn totp_page(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    let own = match own(&core, &headers) {
        Ok(own) => own,
        Err(answer) => return answer,
    };
    let now = core.signer.proof_time();
    if !own.who.is_fresh(&core) {
        let again = format!("/signin?again=1&next={}", percent("/account/totp"));
        return Redirect::to(&again).into_response();
    }
    let begun = session::read(&headers, SETUP_COOKIE);
    if let Some((sealed, secret)) = begun.and_then(|sealed| Some((sealed, begun_setup(&core, &own, sealed)?)))
    {
        return totp_form(&headers, StatusCode::OK, &own, sealed, &secret, "");
    }
    let secret = TotpSecret::generate();
    let setup = (own.person.user, secret.as_bytes().to_vec());
    let sealed = core.signin.keys.seal_until(Purpose::TotpSetup, now.plus(SETUP), &setup);
    let kept = session::cookie(SETUP_COOKIE, &sealed, SETUP);
    page::with_cookies(totp_form(&headers, StatusCode::OK, &own, &sealed, &secret, ""), [kept])
}

/// The secret of a set-up that this person began and that is not too old.
fn begun_setup(core: &Core, own: &Own, sealed: &str) -> Option<TotpSecret> {
    let now = core.signer.proof_time();
    let (user, bytes) =
        core.signin.keys.open_until::<(wire::UserId, Vec<u8>)>(Purpose::TotpSetup, sealed, now)?;
    (user == own.person.user).then(|| TotpSecret::from_bytes(&bytes)).flatten()
}

#[derive(Deserialize)]
pub(super) struct TotpForm {
    form_token: String,
    setup: String,
    code: String,
}

pub(super) async fn set_totp(
    State(core): State<Arc<Core>>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<TotpForm>,
) -> Response {
    let own = match fresh_for(&core, &headers, &form.form_token, "/account/totp") {
        Ok(own) => own,
        Err(answer) => return answer,
    };
    let now = core.signer.proof_time();
    let Some(secret) = begun_setup(&core, &own, &form.setup) else {
        return Redirect::to("/account/totp").into_response();
    };
    let Some(step) = secret.step_of(&form.code, now) else {
        let text = "That is not the code of this secret right now. Is the phone’s clock right?";
        return totp_form(&headers, StatusCode::UNPROCESSABLE_ENTITY, &own, &form.setup, &secret, text);
    };
    let sealed = core.signin.keys.seal(Purpose::TotpSecret, secret.as_bytes());
    let (codes, hashes) = recovery_codes();
    let user = own.person.user;
    let had = own.account.totp.is_some();
    let said =
        ("set up authenticator app", app(had, own.account.recovery_codes.len()), app(true, hashes.len()));
    let done = change(&core, &own, &origin, said, async |change| {
        change.set_totp(user, Some(&sealed), &hashes).await
    });
    if let Err(problem) = done.await {
        let text = format!("Changes have to wait: {problem}. Try the next code in a moment.");
        return totp_form(&headers, StatusCode::SERVICE_UNAVAILABLE, &own, &form.setup, &secret, &text);
    }
    // The code that switched it on signs nobody in.
    core.signin.used_steps.take(user, step);
    core.tell_used(own.person.organization, user, step);
    let clear = session::cookie(SETUP_COOKIE, "", Duration::ZERO);
    page::with_cookies(recovery_page(&headers, &codes), [clear])
}

fn recovery_page(headers: &HeaderMap, codes: &[String]) -> Response {
    let list: Markup = html! { ol class="codes" { @for code in codes { li { code { (code) } } } } };
    let main = html! {
        h1 { "Your recovery codes" }
        p class="lede" { "Each signs you in once when the app is not at hand. They are shown now and never again: print them, or keep them where the phone is not." }
        (list)
        div class="actions" { a class="btn btn--primary" href="/account" { "I have kept them" } }
    };
    page::page(StatusCode::OK, headers, "Recovery codes", &main)
}

#[derive(Deserialize)]
pub(super) struct TokenForm {
    form_token: String,
}

pub(super) async fn remove_totp(
    State(core): State<Arc<Core>>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<TokenForm>,
) -> Response {
    let own = match fresh(&core, &headers, &form.form_token) {
        Ok(own) => own,
        Err(answer) => return answer,
    };
    let user = own.person.user;
    let had = own.account.totp.is_some();
    let said = ("remove authenticator app", app(had, own.account.recovery_codes.len()), app(false, 0));
    let done = change(&core, &own, &origin, said, async |change| change.set_totp(user, None, &[]).await);
    let done = done.await;
    changed(&core, &headers, &own, done)
}

#[derive(Deserialize)]
pub(super) struct PassphraseForm {
    form_token: String,
    passphrase: String,
    again: String,
}

pub(super) async fn set_passphrase(
    State(core): State<Arc<Core>>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<PassphraseForm>,
) -> Response {
    let own = match fresh(&core, &headers, &form.form_token) {
        Ok(own) => own,
        Err(answer) => return answer,
    };
    let (of_first, of_second) = passphrase_errors(&form.passphrase, &form.again);
    if !of_first.is_empty() || !of_second.is_empty() {
        let wrong = Wrong { passphrase: &of_first, again: of_second, ..Wrong::default() };
        return shown(&core, &headers, StatusCode::UNPROCESSABLE_ENTITY, &own, &wrong);
    }
    let Some(hash) = passphrase::hashed(form.passphrase).await else {
        let text = "The passphrase could not be hashed; nothing was changed.";
        return shown(&core, &headers, StatusCode::SERVICE_UNAVAILABLE, &own, &Wrong::page(text));
    };
    let user = own.person.user;
    // That there is one, and nothing of it.
    let had = own.account.passphrase_hash.is_some();
    let said = ("change passphrase", json!({"passphrase": had}), json!({"passphrase": true}));
    let done =
        change(&core, &own, &origin, said, async |change| change.set_passphrase(user, Some(&hash)).await);
    let done = done.await;
    changed(&core, &headers, &own, done)
}

pub(super) async fn end_sessions(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<TokenForm>,
) -> Response {
    let own = match own(&core, &headers) {
        Ok(own) if session::same(&own.who.form_token, &form.form_token) => own,
        Ok(_) => return Redirect::to(OTHER_SESSION).into_response(),
        Err(answer) => return answer,
    };
    // This one at once, wherever the database is.
    core.end_session(&own.who);
    let user = own.person.user;
    // Sessions that begin from the next millisecond on are new ones.
    let from = core.signer.best_time().as_millis() + 1;
    let said = ("end sessions", json!({}), json!({"sessions_from": api::rfc3339(UnixMs::from_millis(from))}));
    let done = change(&core, &own, &origin, said, async |change| change.end_sessions(user, from).await).await;
    let attempt = Attempt { core: &core, organization: own.person.organization, from: address(peer) };
    match done {
        Ok(()) => {
            attempt.log(Some(user), &[], Outcome::SignedOut, "everywhere");
            page::with_cookies(Redirect::to("/signin").into_response(), [session::no_session()])
        }
        Err(problem) => {
            attempt.log(Some(user), &[], Outcome::SignedOut, "");
            let text = format!(
                "This session is over. The others go on until they expire, at the latest in 12 h: changes have to wait \
                 ({problem}). Revoking your access ends them at once."
            );
            let main = html! { h1 { "Signed out here" } (error("problem", &text)) div class="actions" { a class="btn" href="/signin" { "Sign in" } } };
            let answer = page::page(StatusCode::SERVICE_UNAVAILABLE, &headers, "Signed out", &main);
            page::with_cookies(answer, [session::no_session()])
        }
    }
}
