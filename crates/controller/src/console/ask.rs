//! The console is a client of the API like any other: what it changes goes through the same router, in this process, so
//! that checks, versions, audit rows and refusals can never differ.

use super::shell::Viewer;
use crate::{
    api::{self, Caller, InProcess, Origin, Peer, roles},
    parts::Core,
    signin::{cookie::RoleSource, session::SignedIn},
};
use axum::{Router, body::Body};
use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt as _;
use trust::{encode_base64url, sha256};

/// Longest answer that is read: a page of a thousand rows has less.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// The API as a service of this process, made once with the console's routes.
#[derive(Clone)]
pub(super) struct Api(pub(super) Router);

impl Api {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self(api::router(core))
    }
}

/// Who the API hears when a person of the console asks: their role is the one of this moment.
pub(super) fn caller(core: &Arc<Core>, who: &SignedIn, parts: &Parts) -> Result<Caller, api::Problem> {
    let origin = Origin::of(parts.extensions.get::<Peer>(), &parts.headers);
    let caller = match who.source {
        RoleSource::User => Caller::of_user(core, who.organization, who.user, origin)?,
        RoleSource::Administrator => Caller::of_administrator(core, &who.name, origin)?,
    };
    Ok(caller.authenticated(who.authenticated))
}

/// What their role is called.
pub(super) fn role_name(caller: &Caller) -> String {
    caller.role.map_or_else(|| "no role".to_owned(), |role| roles::word(role).replace('_', " "))
}

/// What came back from a request that was done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) body: Value,
    /// Which version of the object this is; to be sent back with a change.
    pub(super) version: String,
}

/// A request that was refused: a problem document as the API says it.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Refused {
    #[serde(default)]
    pub(super) status: u16,
    #[serde(default)]
    pub(super) title: String,
    #[serde(default)]
    pub(super) detail: String,
    #[serde(default)]
    pub(super) field: Option<String>,
    #[serde(default)]
    pub(super) rule: Option<String>,
    #[serde(default)]
    pub(super) value: Value,
}

impl Refused {
    /// Somebody else changed the object since the form was opened.
    pub(super) const fn is_outdated(&self) -> bool {
        self.status == StatusCode::PRECONDITION_FAILED.as_u16()
    }

    /// Much would be lost at once: the API wants an explicit word.
    pub(super) fn is_shrink(&self) -> bool {
        self.field.as_deref() == Some("allow_shrink")
    }

    pub(super) fn http_status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The same above a form that is shown again as it was sent.
    pub(super) fn sentence_at_form(&self) -> String {
        match self.status {
            503 => format!("{} What you typed is still here.", self.sentence()),
            _ => self.sentence(),
        }
    }

    /// The same where something was read and not changed.
    pub(super) fn sentence_of_read(&self) -> String {
        match self.status {
            503 => format!("{}. Try again in a few seconds.", self.detail.trim_end_matches('.')),
            _ => self.sentence(),
        }
    }

    /// In words for a person.
    pub(super) fn sentence(&self) -> String {
        let detail = self.detail.trim_end_matches('.');
        match self.status {
            503 => format!("Changes have to wait: {detail}. Try again in a few seconds."),
            _ if detail.is_empty() => format!("{}.", self.title),
            _ => format!("{detail}."),
        }
    }
}

/// Asks the API for what a person of the console wants.
pub(super) async fn send(
    api: &Api,
    viewer: &Viewer,
    method: Method,
    path: &str,
    body: Option<&Value>,
    version: Option<&str>,
) -> Result<Done, Refused> {
    let mut request = Request::builder().method(method).uri(format!("/api/v1{path}"));
    if body.is_some() {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    // Only what the API itself gave out means anything to it.
    if let Some(version) = version.filter(|version| version.starts_with('"') || version.starts_with("W/"))
        && let Ok(value) = HeaderValue::from_str(version)
    {
        request = request.header(header::IF_MATCH, value);
    }
    let text = body.map(Value::to_string);
    if let (Some(body), Some(text)) = (body, &text)
        && text.len() > api::MAX_BODY
    {
        return Err(too_long(body));
    }
    let body = text.map_or_else(Body::empty, Body::from);
    let mut request = request.body(body).map_err(|error| internal(&error.to_string()))?;
    request.extensions_mut().insert(InProcess(viewer.caller.clone()));
    request.extensions_mut().insert(Peer::Network(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)));
    let answer = api.0.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let (status, etag) = (answer.status(), answer.headers().get(header::ETAG).cloned());
    let limited = http_body_util::Limited::new(answer.into_body(), MAX_ANSWER);
    let bytes = limited.collect().await.map_err(|error| internal(&error.to_string()))?.to_bytes();
    if !status.is_success() {
        let mut refused: Refused = serde_json::from_slice(&bytes).unwrap_or_default();
        refused.status = status.as_u16();
        return Err(refused);
    }
    let version = match etag.as_ref().and_then(|etag| etag.to_str().ok()) {
        Some(etag) => etag.to_owned(),
        None => encode_base64url(&sha256(&[&bytes])),
    };
    let body =
        if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap_or_default() };
    Ok(Done { body, version })
}

/// What is longer than the API takes, said at the field that makes it so: the API itself sees no field of it.
fn too_long(body: &Value) -> Refused {
    let members = body.as_object().into_iter().flatten();
    let longest =
        members.map(|(name, value)| (name, value.to_string().len())).max_by_key(|(_, bytes)| *bytes);
    let most = api::MAX_BODY / 1024;
    Refused {
        status: StatusCode::UNPROCESSABLE_ENTITY.as_u16(),
        title: "The form is too long".into(),
        detail: format!("expected at most {most} kB in all"),
        field: longest.as_ref().map(|(name, _)| (*name).clone()),
        rule: longest
            .map(|(_, bytes)| format!("at most {most} kB in all; this field alone has {} kB", bytes / 1024)),
        value: Value::Null,
    }
}

fn internal(detail: &str) -> Refused {
    Refused {
        status: 500,
        title: "This controller failed".into(),
        detail: detail.to_owned(),
        ..Refused::default()
    }
}
