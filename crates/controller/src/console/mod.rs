//! The console: server-rendered pages that work without script, from the memory snapshot and what is live now.

mod access;
mod ask;
mod assets;
mod audit;
mod devices;
mod events;
mod flows;
mod form;
mod keys;
mod lists;
mod look;
mod names;
mod overview;
mod pages;
mod passphrase;
mod people;
mod policies;
mod preview;
mod resources;
mod search;
mod session;
mod sessions;
mod settings;
mod shell;
mod sites;
mod status;
mod strikes;
mod things;
mod topology;
mod why;

use crate::{
    api::{self, Peer},
    clock,
    limiter::{FailureLimit, Slowing},
    parts::Core,
};
use askama::Template;
use axum::{
    Extension, Form, Router,
    extract::{DefaultBodyLimit, Path, State},
    middleware,
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use session::Sessions;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::Duration,
};
use store::{Administrator, OneTimeLink, Scope, SecretHash};
use trust::{encode_base64url, sha256};
use wire::UserId;

/// The purpose of the link that lets the first owner in.
const FIRST_OWNER: &str = "first-owner";
/// How long that link works.
const LINK_LIFE: Duration = Duration::from_secs(24 * 3600);
static STYLE_PATH: LazyLock<String> = LazyLock::new(|| assets::STYLE_SHEET.path.clone());
/// Wrong passphrases in five minutes: of one address, after which it waits, and for one account, after which every
/// try at it is slower.
const FAILURES: u32 = 10;
const FAILURE_WINDOW: Duration = Duration::from_secs(300);
/// A form has a name, two passphrases and a token.
const MAX_FORM: usize = 8 * 1024;

/// The console's own state.
#[derive(Debug)]
pub(crate) struct Console {
    sessions: Sessions,
    failures: FailureLimit,
    slowing: Slowing,
}

impl Console {
    pub(crate) fn new() -> Self {
        Self {
            sessions: Sessions::default(),
            failures: FailureLimit::new(FAILURES, FAILURE_WINDOW),
            slowing: Slowing::new(FAILURES, FAILURE_WINDOW),
        }
    }
}

pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/signin", get(sign_in_page).post(sign_in))
        .route("/signout", post(sign_out))
        .route("/theme", post(theme))
        .route("/first-owner/{secret}", get(first_owner_page).post(first_owner))
        .route("/join", get(join_page))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .merge(pages::routes(core))
        .layer(middleware::map_response(guarded))
        .with_state(Arc::clone(core))
}

/// What every page of the console carries: no script but our own files, no frame, nothing from elsewhere.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn render(status: StatusCode, page: &impl Template, cookies: &[HeaderValue]) -> Response {
    match page.render() {
        Ok(html) => {
            let mut response = (status, Html(html)).into_response();
            for cookie in cookies {
                response.headers_mut().append(header::SET_COOKIE, cookie.clone());
            }
            response
        }
        Err(error) => {
            tracing::error!(%error, "a page was not rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "signin.html")]
struct SignInPage<'a> {
    style: &'a str,
    theme: &'a str,
    organization: &'a str,
    form_token: &'a str,
    name: &'a str,
    error: &'a str,
}

#[derive(Template)]
#[template(path = "first_owner.html")]
struct FirstOwnerPage<'a> {
    style: &'a str,
    theme: &'a str,
    organization: &'a str,
    form_token: &'a str,
    name: &'a str,
    name_error: &'a str,
    passphrase_error: &'a str,
    again_error: &'a str,
    error: &'a str,
    min_chars: usize,
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    style: &'a str,
    theme: &'a str,
    title: &'a str,
    text: &'a str,
}

fn organization_name(core: &Core) -> String {
    let snapshot = core.snapshot();
    snapshot.dataset.organizations.first().map(|data| data.organization.name.clone()).unwrap_or_default()
}

fn sign_in_answer(core: &Core, headers: &HeaderMap, status: StatusCode, name: &str, error: &str) -> Response {
    let (form_token, cookie) = session::form_token(headers);
    let page = SignInPage {
        style: &STYLE_PATH,
        theme: session::theme(headers),
        organization: &organization_name(core),
        form_token: &form_token,
        name,
        error,
    };
    render(status, &page, &[cookie])
}

async fn sign_in_page(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    if core.console.sessions.of(&headers).is_some() {
        return Redirect::to("/").into_response();
    }
    sign_in_answer(&core, &headers, StatusCode::OK, "", "")
}

#[derive(Deserialize)]
struct SignInForm {
    name: String,
    passphrase: String,
    form_token: String,
}

const fn address(peer: Peer) -> IpAddr {
    match peer {
        Peer::Network(address) => address,
        Peer::Local { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

const STALE_FORM: &str = "This form was open for too long, or cookies are off. Nothing was done; try again.";

async fn sign_in(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Form(form): Form<SignInForm>,
) -> Response {
    let name: String = form.name.trim().chars().take(64).collect();
    if !session::is_own_form(&headers, &form.form_token) {
        return sign_in_answer(&core, &headers, StatusCode::FORBIDDEN, &name, STALE_FORM);
    }
    let from = address(peer);
    if let Err(wait) = core.console.failures.check(from, clock::now()) {
        let error = format!(
            "Too many wrong passphrases came from this address. The next try is possible in {} s. Nothing is locked.",
            wait.as_secs() + 1
        );
        let mut answer = sign_in_answer(&core, &headers, StatusCode::TOO_MANY_REQUESTS, &name, &error);
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
        return answer;
    }
    tokio::time::sleep(core.console.slowing.delay(&name, clock::now())).await;
    let snapshot = core.snapshot();
    let administrator = snapshot.dataset.administrators.iter().find(|a| a.name.eq_ignore_ascii_case(&name));
    let kept = administrator.map(|administrator| administrator.passphrase_hash.clone());
    let long = form.passphrase.len() > passphrase::MAX_BYTES;
    if long || !passphrase::matches(form.passphrase, kept).await {
        core.console.failures.failed(from, clock::now());
        core.console.slowing.failed(&name, clock::now());
        let error = "That passphrase does not match this name. Nothing is locked.";
        return sign_in_answer(&core, &headers, StatusCode::FORBIDDEN, &name, error);
    }
    signed_in(&core, administrator.map_or(name.as_str(), |administrator| &administrator.name))
}

fn signed_in(core: &Core, name: &str) -> Response {
    tracing::info!(name, "an administrator signed in");
    let cookie = core.console.sessions.begin(name);
    let mut response = Redirect::to("/").into_response();
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response
}

#[derive(Deserialize)]
struct TokenForm {
    form_token: String,
}

async fn sign_out(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Form(form): Form<TokenForm>,
) -> Response {
    let mut response = Redirect::to("/signin").into_response();
    let own = core
        .console
        .sessions
        .of(&headers)
        .is_some_and(|who| session::same(&who.form_token, &form.form_token));
    if own {
        response.headers_mut().append(header::SET_COOKIE, core.console.sessions.end(&headers));
    }
    response
}

#[derive(Deserialize)]
struct ThemeForm {
    form_token: String,
    #[serde(default)]
    next: String,
}

async fn theme(State(core): State<Arc<Core>>, headers: HeaderMap, Form(form): Form<ThemeForm>) -> Response {
    // Back to the page that it was chosen on, when that is one of ours.
    let own = form.next.starts_with('/') && !form.next.starts_with("//") && !form.next.contains('\\');
    let back =
        if own && form.next.bytes().all(|byte| byte.is_ascii_graphic()) { form.next.as_str() } else { "/" };
    let mut response = Redirect::to(back).into_response();
    let own = core
        .console
        .sessions
        .of(&headers)
        .is_some_and(|who| session::same(&who.form_token, &form.form_token));
    if own {
        response.headers_mut().append(header::SET_COOKIE, session::other_theme(&headers));
    }
    response
}

fn link_hash(secret: &str) -> SecretHash {
    SecretHash::from_digest(sha256(&[b"tidegate/one-time-link/1", secret.as_bytes()]))
}

/// A new one-time link for an owner; its secret is in this answer and nowhere else.
pub(crate) fn owner_link(url: &str) -> (String, OneTimeLink) {
    let secret = encode_base64url(&clock::random::<32>());
    let expires_ms = clock::wall().plus(LINK_LIFE).as_millis();
    let link = OneTimeLink { secret_hash: link_hash(&secret), purpose: FIRST_OWNER.into(), expires_ms };
    (format!("{}/first-owner/{secret}", url.trim_end_matches('/')), link)
}

/// What a device's link opens. The key is behind its `#`, which no browser sends: this page is the same for
/// everybody.
async fn join_page(headers: HeaderMap) -> Response {
    let page = MessagePage {
        style: &STYLE_PATH,
        theme: session::theme(&headers),
        title: "This link enrols a device",
        text: "It works once. On the device, run tidegate login with the whole address of this page, then tidegate up.",
    };
    render(StatusCode::OK, &page, &[])
}

fn is_open(core: &Core, secret: &str) -> bool {
    let (hash, now) = (link_hash(secret), clock::wall().as_millis());
    let snapshot = core.snapshot();
    let mut links = snapshot.dataset.one_time_links.iter();
    links.any(|link| link.secret_hash == hash && link.purpose == FIRST_OWNER && link.expires_ms > now)
}

fn closed_link(headers: &HeaderMap) -> Response {
    let page = MessagePage {
        style: &STYLE_PATH,
        theme: session::theme(headers),
        title: "This link does not work any more",
        text: "It works once, for 24 hours. On the controller’s host, tidegate admin owner-link makes another.",
    };
    render(StatusCode::NOT_FOUND, &page, &[])
}

async fn first_owner_page(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Path(secret): Path<String>,
) -> Response {
    if !is_open(&core, &secret) {
        return closed_link(&headers);
    }
    first_owner_answer(&core, &headers, StatusCode::OK, &OwnerErrors::default())
}

#[derive(Default)]
struct OwnerErrors<'a> {
    name: &'a str,
    name_error: &'a str,
    passphrase_error: &'a str,
    again_error: &'a str,
    error: &'a str,
}

fn first_owner_answer(
    core: &Core,
    headers: &HeaderMap,
    status: StatusCode,
    errors: &OwnerErrors<'_>,
) -> Response {
    let (form_token, cookie) = session::form_token(headers);
    let page = FirstOwnerPage {
        style: &STYLE_PATH,
        theme: session::theme(headers),
        organization: &organization_name(core),
        form_token: &form_token,
        name: errors.name,
        name_error: errors.name_error,
        passphrase_error: errors.passphrase_error,
        again_error: errors.again_error,
        error: errors.error,
        min_chars: passphrase::MIN_CHARS,
    };
    render(status, &page, &[cookie])
}

#[derive(Deserialize)]
struct OwnerForm {
    name: String,
    passphrase: String,
    again: String,
    form_token: String,
}

async fn first_owner(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Path(secret): Path<String>,
    Form(form): Form<OwnerForm>,
) -> Response {
    if !is_open(&core, &secret) {
        return closed_link(&headers);
    }
    let mut errors = OwnerErrors { name: &form.name, ..OwnerErrors::default() };
    if !session::is_own_form(&headers, &form.form_token) {
        errors.error = STALE_FORM;
        return first_owner_answer(&core, &headers, StatusCode::FORBIDDEN, &errors);
    }
    let name = api::name("name", form.name.trim());
    if name.is_err() {
        errors.name_error = "A name has 1 to 64 characters.";
    }
    let length = format!(
        "A passphrase has at least {} characters; this one has {}.",
        passphrase::MIN_CHARS,
        form.passphrase.chars().count()
    );
    if form.passphrase.chars().count() < passphrase::MIN_CHARS
        || form.passphrase.len() > passphrase::MAX_BYTES
    {
        errors.passphrase_error = &length;
    } else if form.passphrase != form.again {
        errors.again_error = "The two are not the same.";
    }
    let Ok(name) = name else {
        return first_owner_answer(&core, &headers, StatusCode::UNPROCESSABLE_ENTITY, &errors);
    };
    if !errors.passphrase_error.is_empty() || !errors.again_error.is_empty() {
        return first_owner_answer(&core, &headers, StatusCode::UNPROCESSABLE_ENTITY, &errors);
    }
    match make_owner(&core, &secret, &name, form.passphrase).await {
        Ok(()) => signed_in(&core, &name),
        Err(store::StoreError::Conflict { .. }) => {
            errors.name_error = "An administrator already has this name.";
            first_owner_answer(&core, &headers, StatusCode::CONFLICT, &errors)
        }
        Err(store::StoreError::NotFound { .. }) => closed_link(&headers),
        Err(error) => {
            let text =
                format!("Changes have to wait: {error}. The link still works; try again in a few seconds.");
            errors.error = &text;
            first_owner_answer(&core, &headers, StatusCode::SERVICE_UNAVAILABLE, &errors)
        }
    }
}

async fn make_owner(
    core: &Arc<Core>,
    secret: &str,
    name: &str,
    passphrase: String,
) -> Result<(), store::StoreError> {
    let unavailable = || store::StoreError::Unavailable("the passphrase was not hashed".into());
    let passphrase_hash = passphrase::hashed(passphrase).await.ok_or_else(unavailable)?;
    let created_ms = clock::wall().as_millis();
    let id = UserId::from_time_and_random(created_ms, clock::random());
    let administrator = Administrator { id, name: name.to_owned(), passphrase_hash, created_ms };
    let (store, mut change) = core.database.change(Scope::Installation, "one-time link").await?;
    change.take_one_time_link(link_hash(secret), FIRST_OWNER).await?;
    change.insert_administrator(&administrator).await?;
    core.commit(&store, change, "create administrator", &id.to_string(), &json!({"name": name})).await?;
    Ok(())
}
