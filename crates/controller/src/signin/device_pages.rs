//! Device codes: what terminals ask, and the page on which a person confirms.

use super::{
    cookie::RoleSource,
    device::{Asked, INTERVAL, LIFE, Poll, UserCode},
    page::{self, Field, error, field, icon, token},
    percent::percent,
    sent::Sent,
    session::{self, SignedIn},
    sign_in::address,
};
use crate::{
    api::{self, Body, MaxBody, Origin, Peer, Problem, noted},
    clock,
    parts::Core,
};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Query, State},
    middleware,
    response::{IntoResponse, Redirect, Response},
    routing::post,
};
use http::{HeaderMap, StatusCode};
use maud::html;
use policy::enrolment::{DeviceCodeAnswer, DeviceCodePoll, DeviceCodeRequest, DeviceCodeResult};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use store::{EnrolmentKey, EnrolmentTarget, Member, Scope, SecretHash, StoreError};
use trust::{JoinKey, JoinKind, JoinSecret, encode_base64url};
use wire::EnrolmentKeyId;

/// A request has a name or a code.
const MAX_REQUEST: usize = 4 * 1024;

pub(super) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/enrol/v1/device-code", post(begin))
        .route("/enrol/v1/device-code/token", post(poll))
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(core), crate::enrolment::admitted))
        .layer(middleware::from_fn(api::complete))
        .layer(Extension(MaxBody(MAX_REQUEST)))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Arc::clone(core))
}

/// A terminal begins (RFC 8628 section 3.1).
async fn begin(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DeviceCodeRequest>,
) -> Result<Json<DeviceCodeAnswer>, Problem> {
    let device = api::name("name", &request.name)?;
    let device_code = encode_base64url(&clock::random::<32>());
    let code = loop {
        if let Some(code) = UserCode::from_random(&clock::random()) {
            break code;
        }
    };
    let asked = Asked { device, from: address(peer), at: clock::now() };
    core.signin.device_codes().begin(&device_code, code, asked).map_err(|_| {
        let detail = "too many codes are open from this address, or altogether; they end after 10 minutes";
        let mut problem =
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-codes", "Too many codes are open", detail);
        problem.retry_after = Some(60);
        problem.about("name", "a code of which few are open at a time", serde_json::Value::Null)
    })?;
    let address = format!("{}/device", core.url.trim_end_matches('/'));
    Ok(Json(DeviceCodeAnswer {
        device_code,
        user_code: code.to_string(),
        verification_uri_complete: format!("{address}?code={code}"),
        verification_uri: address,
        expires_in: LIFE.as_secs(),
        interval: INTERVAL.as_secs(),
        root: core.signer.root().to_string(),
    }))
}

/// It asks what became of it (sections 3.4 and 3.5).
async fn poll(State(core): State<Arc<Core>>, Body(request): Body<DeviceCodePoll>) -> Json<DeviceCodeResult> {
    Json(match core.signin.device_codes().poll(&request.device_code, clock::now()) {
        Poll::Pending => DeviceCodeResult::AuthorizationPending,
        Poll::SlowDown(interval) => DeviceCodeResult::SlowDown { interval: interval.as_secs() },
        Poll::Denied => DeviceCodeResult::AccessDenied,
        Poll::Expired => DeviceCodeResult::ExpiredToken,
        Poll::Confirmed(join_key) => DeviceCodeResult::Confirmed { join_key },
    })
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct DeviceQuery {
    code: String,
}

#[expect(clippy::result_large_err, reason = "the error is the page that is answered")]
fn signed_in(core: &Core, headers: &HeaderMap, code: &str) -> Result<SignedIn, Response> {
    let here = format!("/device?code={}", percent(code.get(..20).unwrap_or(code)));
    let who = core.signed_in(headers);
    let who = who.ok_or_else(|| Redirect::to(&format!("/signin?next={}", percent(&here))).into_response())?;
    if who.source == RoleSource::Administrator {
        let text =
            "You signed in as an administrator from before there were accounts: a device belongs to a user.";
        return Err(page::message(StatusCode::FORBIDDEN, headers, "No device for this account", text));
    }
    Ok(who)
}

fn enter(headers: &HeaderMap, status: StatusCode, who: &SignedIn, typed: &str, problem: &str) -> Response {
    let main = html! {
        h1 { "Sign a device in" }
        p class="lede" { "Type the code that the terminal shows. You are " strong { (who.name) } "." }
        form action="/device" method="post" {
            (token(&who.form_token))
            (field(Field { id: "code", label: "Code", autocomplete: "off", value: typed, error: problem, ..Field::default() }))
            div class="mt-5" { button class="btn btn--primary btn--wide" type="submit" name="decision" value="look" { "Next" } }
        }
    };
    page::page(status, headers, "Sign a device in", &main)
}

const NOT_OPEN: &str =
    "Nobody waits with this code. It ends after 10 minutes and works once; run tidegate login again.";

fn confirm_page(
    core: &Core,
    headers: &HeaderMap,
    status: StatusCode,
    who: &SignedIn,
    code: UserCode,
    asked: &Asked,
    problem: &str,
) -> Response {
    let root = core.signer.root().to_string();
    let main = html! {
        h1 { "Is this your device?" }
        p class="lede" { "It becomes a device of " strong { (who.name) } " and reaches what you may reach." }
        dl class="facts" {
            div { dt { "Device" } dd { (asked.device) } }
            div { dt { "Asked from" } dd { (asked.from) } }
            div { dt { "Code" } dd { code { (code) } } }
            div { dt { "Root" } dd { code { (root) } } }
        }
        p class="sm" { "The terminal shows the same code and the same root. If somebody sent you this link, refuse." }
        (error("problem", problem))
        form class="mt-5" action="/device" method="post" {
            (token(&who.form_token))
            input type="hidden" name="code" value=(code);
            button class="btn btn--primary btn--wide" type="submit" name="decision" value="confirm" { (icon("key")) "Yes, sign it in" }
            button class="btn btn--wide mt-2" type="submit" name="decision" value="refuse" { "No, refuse it" }
        }
    };
    page::page(status, headers, "Sign a device in", &main)
}

pub(super) async fn page(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Query(query): Query<DeviceQuery>,
) -> Response {
    let who = match signed_in(&core, &headers, &query.code) {
        Ok(who) => who,
        Err(answer) => return answer,
    };
    look(&core, &headers, &who, &query.code)
}

fn look(core: &Core, headers: &HeaderMap, who: &SignedIn, typed: &str) -> Response {
    if typed.is_empty() {
        return enter(headers, StatusCode::OK, who, "", "");
    }
    let typed: String = typed.chars().take(40).collect();
    let code = UserCode::parse(&typed);
    let asked = code.and_then(|code| Some((code, core.signin.device_codes().asked(code, clock::now())?)));
    match asked {
        Some((code, asked)) => confirm_page(core, headers, StatusCode::OK, who, code, &asked, ""),
        None => enter(headers, StatusCode::NOT_FOUND, who, &typed, NOT_OPEN),
    }
}

#[derive(Deserialize)]
pub(super) struct DeviceForm {
    form_token: String,
    code: String,
    decision: String,
}

pub(super) async fn decide(
    State(core): State<Arc<Core>>,
    origin: Origin,
    headers: HeaderMap,
    Sent(form): Sent<DeviceForm>,
) -> Response {
    let who = match signed_in(&core, &headers, &form.code) {
        Ok(who) => who,
        Err(answer) => return answer,
    };
    // Whoever is signed in tries few codes: 20^8 of them, and each wrong one counts.
    // Beside those of an authenticator app: whoever mistypes the one is not kept from the other.
    let account = format!("device codes of {}", who.user);
    if core.signin.codes.check(&account, clock::now()).is_err() {
        return enter(
            &headers,
            StatusCode::TOO_MANY_REQUESTS,
            &who,
            "",
            "Too many codes that nobody waits with; try again in five minutes.",
        );
    }
    if !session::same(&who.form_token, &form.form_token) {
        return look(&core, &headers, &who, &form.code);
    }
    let code = UserCode::parse(&form.code);
    let asked = code.and_then(|code| Some((code, core.signin.device_codes().asked(code, clock::now())?)));
    let Some((code, asked)) = asked else {
        core.signin.codes.failed(&account, clock::now());
        return look(&core, &headers, &who, &form.code);
    };
    match form.decision.as_str() {
        "confirm" => {}
        "refuse" => {
            core.signin.device_codes().deny(code, clock::now());
            let text = "The terminal is told. Nothing was made.";
            return done(&headers, "Refused", text);
        }
        _ => return look(&core, &headers, &who, &form.code),
    }
    match device_key(&core, &origin, &who, &asked.device).await {
        Ok(join_key) => {
            // Between the two it may have been confirmed elsewhere: the unused key ends in minutes.
            if core.signin.device_codes().confirm(code, who.user, join_key, clock::now()) {
                done(&headers, "The device is signed in", "Go back to the terminal; it goes on by itself.")
            } else {
                enter(&headers, StatusCode::NOT_FOUND, &who, "", NOT_OPEN)
            }
        }
        Err(problem) => {
            let text = format!(
                "A new device needs the database, and changes have to wait: {problem}. The code is still good."
            );
            confirm_page(&core, &headers, StatusCode::SERVICE_UNAVAILABLE, &who, code, &asked, &text)
        }
    }
}

fn done(headers: &HeaderMap, title: &str, text: &str) -> Response {
    let main = html! {
        h1 { (title) }
        p class="lede" { (text) }
        div class="actions" { a class="btn" href="/account" { "Your account" } }
    };
    page::page(StatusCode::OK, headers, title, &main)
}

/// A key that enrols one device of this person, soon.
async fn device_key(
    core: &Arc<Core>,
    origin: &Origin,
    who: &SignedIn,
    device: &str,
) -> Result<String, StoreError> {
    let secret = JoinSecret::from_random(clock::random());
    let now = clock::wall();
    let key = EnrolmentKey {
        id: EnrolmentKeyId::from_time_and_random(now.as_millis(), clock::random()),
        organization: Some(who.organization),
        name: format!("device code for {device}").chars().take(64).collect(),
        target: EnrolmentTarget::Device { owner: Member::User(who.user) },
        approval: core
            .snapshot()
            .organization(who.organization)
            .is_none_or(|data| data.organization.approve_devices),
        secret_hash: SecretHash::from_digest(secret.hash()),
        cap: 1,
        uses: 0,
        expires_ms: now.plus(LIFE).as_millis(),
        created_ms: now.as_millis(),
    };
    let (store, mut change) =
        core.database.change(Scope::Organization(who.organization), &who.actor()).await?;
    change.insert_enrolment_key(&key).await?;
    let noted = noted(
        "confirm device code",
        &key.id.to_string(),
        None,
        Some(json!({"device": device})),
        json!({"device": device}),
    );
    core.commit(&store, change, origin, noted).await?;
    let kind = JoinKind::Device;
    let join_key = JoinKey { kind, controller: core.url.clone(), root: core.signer.root(), secret };
    Ok(join_key.to_secret_text())
}
