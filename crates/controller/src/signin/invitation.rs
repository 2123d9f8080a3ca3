//! Links that work once: the first owner's, invitations to set an account up, and recovery of one.

use super::{
    Attempt,
    cookie::Method,
    page::{self, Field, error, field, token},
    passphrase,
    sent::Sent,
    session::{self, person_of},
    sign_in::{STALE_FORM, address},
};
use crate::{
    api::{self, Origin, Peer, noted},
    clock,
    parts::Core,
};
use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use maud::html;
use serde::Deserialize;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use store::{Account, AccountLink, OneTimeLink, Role, Scope, SecretHash, StoreError, User};
use trust::{encode_base64url, sha256};
use wire::{OrganizationId, UserId};

/// The purpose of the link that lets the first owner in.
const FIRST_OWNER: &str = "first-owner";
/// How long an owner's link works.
const OWNER_LINK_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How long an invitation works: over a weekend.
pub(super) const INVITATION_LIFE: Duration = Duration::from_secs(72 * 3600);

fn link_hash(secret: &str) -> SecretHash {
    SecretHash::from_digest(sha256(&[b"tidegate/one-time-link/1", secret.as_bytes()]))
}

fn fresh_link(url: &str, path: &str) -> (String, SecretHash) {
    let secret = encode_base64url(&clock::random::<32>());
    let hash = link_hash(&secret);
    (format!("{}/{path}/{secret}", url.trim_end_matches('/')), hash)
}

/// A new one-time link for an owner; its secret is in this answer and nowhere else.
pub(crate) fn owner_link(url: &str) -> (String, OneTimeLink) {
    let (link, secret_hash) = fresh_link(url, "first-owner");
    let expires_ms = clock::wall().plus(OWNER_LINK_LIFE).as_millis();
    (link, OneTimeLink { secret_hash, purpose: FIRST_OWNER.into(), expires_ms })
}

/// A link by which a user sets an account up, or gets into it again.
pub(crate) fn invitation_link(url: &str, user: UserId) -> (String, AccountLink) {
    let (link, secret_hash) = fresh_link(url, "invitation");
    let expires_ms = clock::wall().plus(INVITATION_LIFE).as_millis();
    (link, AccountLink { secret_hash, user, expires_ms })
}

fn is_open(core: &Core, secret: &str) -> bool {
    let (hash, now) = (link_hash(secret), clock::wall().as_millis());
    let snapshot = core.snapshot();
    let mut links = snapshot.dataset.one_time_links.iter();
    links.any(|link| link.secret_hash == hash && link.purpose == FIRST_OWNER && link.expires_ms > now)
}

/// Whose account an invitation is for.
fn invited(core: &Core, secret: &str) -> Option<(OrganizationId, User)> {
    let (hash, now) = (link_hash(secret), clock::wall().as_millis());
    let snapshot = core.snapshot();
    snapshot.dataset.organizations.iter().find_map(|data| {
        let mut links = data.sign_in.links.iter();
        let link = links.find(|link| link.secret_hash == hash && link.expires_ms > now)?;
        let user = data.users.iter().find(|user| user.id == link.user)?;
        Some((data.organization.id, user.clone()))
    })
}

fn closed(headers: &HeaderMap) -> Response {
    page::message(
        StatusCode::NOT_FOUND,
        headers,
        "This link does not work any more",
        "It works once, and for a limited time. An owner can send another; on the controller’s host, \
         tidegate admin owner-link makes one for an owner.",
    )
}

/// What is wrong with a form, each at its place.
#[derive(Default)]
struct Errors<'a> {
    name: &'a str,
    email: &'a str,
    passphrase: &'a str,
    again: &'a str,
    form: &'a str,
}

/// What is typed so far.
#[derive(Default, Clone, Copy)]
struct Typed<'a> {
    name: &'a str,
    email: &'a str,
}

fn passphrase_fields(errors: &Errors<'_>) -> maud::Markup {
    let hint = format!(
        "At least {} characters. Four or five unrelated words are easy to remember and hard to guess.",
        passphrase::MIN_CHARS
    );
    html! {
        (field(Field { id: "passphrase", label: "Passphrase", kind: "password", autocomplete: "new-password", hint: &hint, error: errors.passphrase, ..Field::default() }))
        (field(Field { id: "again", label: "The same again", kind: "password", autocomplete: "new-password", error: errors.again, ..Field::default() }))
    }
}

/// What is wrong with two passphrases: of the first, and of the second.
pub(super) fn passphrase_errors(first: &str, second: &str) -> (String, &'static str) {
    let length = first.chars().count();
    if length < passphrase::MIN_CHARS {
        let least = passphrase::MIN_CHARS;
        return (format!("A passphrase has at least {least} characters; this one has {length}."), "");
    }
    if first.len() > passphrase::MAX_BYTES {
        let (most, bytes) = (passphrase::MAX_BYTES, first.len());
        return (format!("A passphrase has at most {most} bytes; this one has {bytes}."), "");
    }
    if first == second { (String::new(), "") } else { (String::new(), "The two are not the same.") }
}

fn owner_form(
    core: &Core,
    headers: &HeaderMap,
    status: StatusCode,
    typed: Typed<'_>,
    errors: &Errors<'_>,
) -> Response {
    let (form_token, cookie) = session::form_token(headers);
    let snapshot = core.snapshot();
    let organization = snapshot.dataset.organizations.first().map(|data| data.organization.name.clone());
    let main = html! {
        h1 { "Set your passphrase" }
        p class="lede" {
            "You become an owner of " strong { (organization.unwrap_or_default()) } ". This link works once."
        }
        (error("form-error", errors.form))
        form method="post" {
            (token(&form_token))
            (field(Field { id: "name", label: "Name", autocomplete: "name", value: typed.name, error: errors.name, ..Field::default() }))
            (field(Field { id: "email", label: "Email", kind: "email", autocomplete: "username", value: typed.email, error: errors.email, hint: "You sign in with it. Nothing is sent there.", ..Field::default() }))
            (passphrase_fields(errors))
            div class="mt-5" { button class="btn btn--primary btn--wide" type="submit" { "Set passphrase and sign in" } }
        }
        p class="fine" {
            "The passphrase is kept as an argon2id hash. The recovery phrase of the root key is another thing: keep it away from this host."
        }
    };
    page::with_cookies(page::page(status, headers, "Set a passphrase", &main), [cookie])
}

pub(super) async fn first_owner_page(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Path(secret): Path<String>,
) -> Response {
    if !is_open(&core, &secret) {
        return closed(&headers);
    }
    owner_form(&core, &headers, StatusCode::OK, Typed::default(), &Errors::default())
}

#[derive(Deserialize)]
pub(super) struct OwnerForm {
    name: String,
    email: String,
    passphrase: String,
    again: String,
    form_token: String,
}

pub(super) async fn first_owner(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    headers: HeaderMap,
    Path(secret): Path<String>,
    Sent(form): Sent<OwnerForm>,
) -> Response {
    if !is_open(&core, &secret) {
        return closed(&headers);
    }
    let typed = Typed { name: &form.name, email: &form.email };
    let answer = |status, errors: &Errors<'_>| owner_form(&core, &headers, status, typed, errors);
    if !session::is_own_form(&headers, &form.form_token) {
        return answer(StatusCode::FORBIDDEN, &Errors { form: STALE_FORM, ..Errors::default() });
    }
    let (name, email) = (api::name("name", form.name.trim()), api::email("email", form.email.trim()));
    let (of_first, of_second) = passphrase_errors(&form.passphrase, &form.again);
    let (Ok(name), Ok(email), true, true) = (&name, &email, of_first.is_empty(), of_second.is_empty()) else {
        let errors = Errors {
            name: if name.is_err() { "A name has 1 to 64 characters." } else { "" },
            email: if email.is_err() { "An address looks like name@example.com." } else { "" },
            passphrase: &of_first,
            again: of_second,
            form: "",
        };
        return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
    };
    match make_owner(&core, &origin, &secret, (name, email), form.passphrase.clone()).await {
        Ok((organization, id)) => signed_in(&core, &headers, peer, organization, id),
        Err(StoreError::Conflict { .. }) => {
            let taken = "Somebody in this organization has this address already; an invitation lets them in.";
            answer(StatusCode::CONFLICT, &Errors { email: taken, ..Errors::default() })
        }
        Err(StoreError::NotFound { .. }) => closed(&headers),
        Err(problem) => {
            let text = waits(&problem);
            answer(StatusCode::SERVICE_UNAVAILABLE, &Errors { form: &text, ..Errors::default() })
        }
    }
}

fn waits(problem: &StoreError) -> String {
    format!("Changes have to wait: {problem}. The link still works; try again in a few seconds.")
}

fn signed_in(
    core: &Core,
    headers: &HeaderMap,
    peer: Peer,
    organization: OrganizationId,
    id: UserId,
) -> Response {
    let attempt = Attempt { core, organization, from: address(peer) };
    let snapshot = core.snapshot();
    let person = snapshot.organization(organization).and_then(|data| person_of(data, id));
    match person {
        Some((person, _)) => attempt.signed_in(headers, &person, &[Method::Link, Method::Passphrase], "/"),
        // Stored, and memory is a moment behind.
        None => axum::response::Redirect::to("/signin").into_response(),
    }
}

/// A fresh account of a user.
pub(super) fn new_account(id: UserId, sign_in_name: &str, passphrase_hash: Option<String>) -> Account {
    let now = clock::wall().as_millis();
    Account {
        id,
        sign_in_name: sign_in_name.to_lowercase(),
        passphrase_hash,
        totp: None,
        recovery_codes: Vec::new(),
        sessions_from_ms: 0,
        created_ms: now,
    }
}

async fn hashed(passphrase: String) -> Result<String, StoreError> {
    let unavailable = || StoreError::Unavailable("the passphrase was not hashed".into());
    passphrase::hashed(passphrase).await.ok_or_else(unavailable)
}

async fn make_owner(
    core: &Arc<Core>,
    origin: &Origin,
    secret: &str,
    (name, email): (&str, &str),
    passphrase: String,
) -> Result<(OrganizationId, UserId), StoreError> {
    let hash = hashed(passphrase).await?;
    let first = core.snapshot().dataset.organizations.first().map(|data| data.organization.id);
    let organization = first.ok_or_else(|| StoreError::Unavailable("there is no organization yet".into()))?;
    let created_ms = clock::wall().as_millis();
    let id = UserId::from_time_and_random(created_ms, clock::random());
    let user = User {
        id,
        name: name.to_owned(),
        email: email.to_owned(),
        role: Role::Owner,
        generation: 1,
        created_ms,
    };
    let (store, mut change) = core.database.change(Scope::Installation, "one-time link").await?;
    change.take_one_time_link(link_hash(secret), FIRST_OWNER).await?;
    change.insert_owner(organization, &user, &new_account(id, email, Some(hash))).await?;
    let after = json!({"id": id, "name": name, "email": email, "role": "owner"});
    let noted = noted("create owner", &id.to_string(), None, Some(after), json!({"name": name}));
    core.commit(&store, change, origin, noted).await?;
    Ok((organization, id))
}

fn invitation_form(
    headers: &HeaderMap,
    status: StatusCode,
    user: &User,
    known: bool,
    errors: &Errors<'_>,
) -> Response {
    let (form_token, cookie) = session::form_token(headers);
    let main = html! {
        h1 { @if known { "Get into your account again" } @else { "Set up your account" } }
        p class="lede" {
            (user.name) ", you sign in as " strong { (user.email) } "."
            @if known { " Your passkeys stay; your authenticator app, every open session and what ties you to a sign-in provider end." }
        }
        (error("form-error", errors.form))
        form method="post" {
            (token(&form_token))
            input type="hidden" autocomplete="username" name="email" value=(user.email);
            (passphrase_fields(errors))
            div class="mt-5" { button class="btn btn--primary btn--wide" type="submit" { "Set passphrase and sign in" } }
        }
        p class="fine" { "This link works once. A passkey and an authenticator app can be added afterwards, under your account." }
    };
    page::with_cookies(page::page(status, headers, "Your account", &main), [cookie])
}

fn has_account(core: &Core, organization: OrganizationId, id: UserId) -> bool {
    let snapshot = core.snapshot();
    snapshot.organization(organization).is_some_and(|data| person_of(data, id).is_some())
}

pub(super) async fn page(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Path(secret): Path<String>,
) -> Response {
    let Some((organization, user)) = invited(&core, &secret) else { return closed(&headers) };
    let known = has_account(&core, organization, user.id);
    invitation_form(&headers, StatusCode::OK, &user, known, &Errors::default())
}

#[derive(Deserialize)]
pub(super) struct InvitationForm {
    passphrase: String,
    again: String,
    form_token: String,
}

pub(super) async fn take(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    headers: HeaderMap,
    Path(secret): Path<String>,
    Sent(form): Sent<InvitationForm>,
) -> Response {
    let Some((organization, user)) = invited(&core, &secret) else { return closed(&headers) };
    let known = has_account(&core, organization, user.id);
    let answer = |status, errors: &Errors<'_>| invitation_form(&headers, status, &user, known, errors);
    if !session::is_own_form(&headers, &form.form_token) {
        return answer(StatusCode::FORBIDDEN, &Errors { form: STALE_FORM, ..Errors::default() });
    }
    let (of_first, of_second) = passphrase_errors(&form.passphrase, &form.again);
    if !of_first.is_empty() || !of_second.is_empty() {
        let errors = Errors { passphrase: &of_first, again: of_second, ..Errors::default() };
        return answer(StatusCode::UNPROCESSABLE_ENTITY, &errors);
    }
    let taken = set_up(&core, &origin, &secret, (organization, &user, known), form.passphrase.clone()).await;
    match taken {
        Ok(()) => signed_in(&core, &headers, peer, organization, user.id),
        Err(StoreError::NotFound { .. }) => closed(&headers),
        Err(problem) => {
            let text = waits(&problem);
            answer(StatusCode::SERVICE_UNAVAILABLE, &Errors { form: &text, ..Errors::default() })
        }
    }
}

async fn set_up(
    core: &Arc<Core>,
    origin: &Origin,
    secret: &str,
    (organization, user, known): (OrganizationId, &User, bool),
    passphrase: String,
) -> Result<(), StoreError> {
    let hash = hashed(passphrase).await?;
    let (store, mut change) =
        core.database.change(Scope::Organization(organization), "one-time link").await?;
    change.take_account_link(link_hash(secret), user.id).await?;
    let action = if known {
        change.set_passphrase(user.id, Some(&hash)).await?;
        change.set_totp(user.id, None, &[]).await?;
        // Whom a provider meant is found anew by the address, where it is believed about that.
        change.delete_oidc_identities(user.id).await?;
        // What begins now is not older than this.
        change.end_sessions(user.id, core.signer.best_time().as_millis()).await?;
        "recover account"
    } else {
        change.insert_account(&new_account(user.id, &user.email, Some(hash))).await?;
        "create account"
    };
    let noted = noted(
        action,
        &user.id.to_string(),
        None,
        Some(json!({"sign_in_name": user.email})),
        json!({"name": user.name}),
    );
    core.commit(&store, change, origin, noted).await?;
    Ok(())
}
