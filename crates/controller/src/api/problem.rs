//! Every error as `application/problem+json` (RFC 9457), naming field, rule and value.

use crate::server::BodyTooSlow;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request, rejection::BytesRejection},
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use store::StoreError;
use utoipa::ToSchema;

/// Largest request body. A policy with a thousand groups and resources has 64 kB.
pub(crate) const MAX_BODY: usize = 256 * 1024;

/// What went wrong, as an error of handlers.
#[derive(Debug, Clone)]
pub struct Problem(Box<ProblemDocument>);

impl std::ops::Deref for Problem {
    type Target = ProblemDocument;
    fn deref(&self) -> &ProblemDocument {
        &self.0
    }
}

impl std::ops::DerefMut for Problem {
    fn deref_mut(&mut self) -> &mut ProblemDocument {
        &mut self.0
    }
}

/// What went wrong, as it is sent.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem, description = "RFC 9457 problem. `field`, `rule` and `value` name what is wrong in the request.")]
pub struct ProblemDocument {
    /// A reference whose last part names the kind of problem and never changes.
    #[serde(rename = "type")]
    #[schema(rename = "type")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// This case in a sentence.
    pub detail: String,
    /// Which member of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub field: Option<String>,
    /// Which rule it breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rule: Option<String>,
    /// What was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub value: Option<Value>,
    /// When to come back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, word: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(Box::new(ProblemDocument {
            kind: format!("/problems/{word}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
            rule: None,
            value: None,
            retry_after: None,
        }))
    }

    /// A member of the request breaks a rule.
    pub(crate) fn invalid(field: &str, rule: impl Into<String>, value: impl Into<Value>) -> Self {
        let rule = rule.into();
        let detail = format!("{field}: {rule}");
        let mut problem =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "A field is not valid", detail);
        problem.field = Some(field.to_owned());
        problem.rule = Some(rule);
        problem.value = Some(value.into());
        problem
    }

    pub(crate) fn not_found(kind: &str, id: impl Into<String>) -> Self {
        let id = id.into();
        let mut problem = Self::new(
            StatusCode::NOT_FOUND,
            "not-found",
            "There is no such object",
            format!("no {kind} {id}"),
        );
        problem.value = Some(id.into());
        problem
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail)
    }

    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "The token does not allow this", detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database-unavailable",
            "Changes have to wait: the database cannot be used right now",
            detail,
        );
        problem.retry_after = Some(5);
        problem
    }

    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "This controller failed", detail)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let detail = error.to_string();
        match error {
            StoreError::NotFound { kind, id } => Self::not_found(kind, id),
            StoreError::Conflict { field, .. } => {
                let mut problem =
                    Self::new(StatusCode::CONFLICT, "conflict", "Another object has this value", detail);
                problem.field = Some(field);
                problem.rule = Some("unique".into());
                problem
            }
            StoreError::Reference { .. } => {
                Self::new(StatusCode::CONFLICT, "in-use", "Other objects are in the way", detail)
            }
            StoreError::KeySpent(_) => {
                Self::new(StatusCode::FORBIDDEN, "key-spent", "The enrolment key cannot be used", detail)
            }
            StoreError::Unavailable(_) | StoreError::Missing(_) => Self::unavailable(detail),
            StoreError::Corrupt { .. } => Self::internal(detail),
        }
    }
}

impl Problem {
    /// Nothing can be signed, so nobody would hear of what is changed.
    pub(crate) fn not_signing(detail: impl Into<String>) -> Self {
        let title = "This controller cannot sign right now";
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "not-signing", title, detail);
        problem.retry_after = Some(30);
        problem
    }
}

impl From<crate::clock::Fenced> for Problem {
    fn from(fenced: crate::clock::Fenced) -> Self {
        Self::not_signing(format!(
            "{fenced}; until then nothing is changed, since nobody could be told of it"
        ))
    }
}

impl From<crate::strikes::StrikeError> for Problem {
    fn from(error: crate::strikes::StrikeError) -> Self {
        Self::not_signing(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&*self.0).expect("a problem always serializes");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750 section 3.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body, decoded strictly.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = content_type.and_then(|value| value.split(';').next()).map(str::trim).unwrap_or_default();
        if !media.eq_ignore_ascii_case("application/json") {
            let mut problem = Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "media-type",
                "The body is not JSON",
                "expected the header content-type: application/json",
            );
            problem.field = Some("content-type".into());
            problem.rule = Some("application/json".into());
            problem.value = Some(media.chars().take(80).collect::<String>().into());
            return Err(problem);
        }
        let bytes = Bytes::from_request(request, state).await.map_err(bytes_problem)?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| body_problem(&error))?;
        reader.end().map_err(|error| malformed(&error.to_string()))?;
        Ok(Self(value))
    }
}

fn malformed(detail: &str) -> Problem {
    let mut problem = Problem::new(StatusCode::BAD_REQUEST, "malformed", "The body is not JSON", detail);
    problem.field = Some("body".into());
    problem.rule = Some("JSON (RFC 8259)".into());
    problem
}

fn body_problem(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    if !inner.is_data() {
        return malformed(&inner.to_string());
    }
    let message = inner.to_string();
    let rule = message.split(" at line ").next().unwrap_or(&message).to_owned();
    // serde names a missing or unknown member in its message and not in its path.
    let quoted = ["missing field `", "unknown field `"]
        .iter()
        .find_map(|start| rule.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    let path = error.path().to_string();
    let field = match (path.as_str(), quoted) {
        (".", Some(name)) => name.to_owned(),
        (path, Some(name)) if !path.ends_with(name) => format!("{path}.{name}"),
        (".", None) => "body".to_owned(),
        (path, _) => path.to_owned(),
    };
    let mut problem = Problem::invalid(&field, rule, Value::Null);
    problem.value = None;
    problem
}

fn bytes_problem(rejection: BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let mut problem = Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            "The body is too large",
            format!("expected at most {MAX_BODY} bytes"),
        );
        problem.field = Some("body".into());
        problem.rule = Some(format!("at most {MAX_BODY} bytes"));
        return problem;
    }
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&rejection);
    while let Some(error) = cause {
        if let Some(slow) = error.downcast_ref::<BodyTooSlow>() {
            let mut problem = Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body-too-slow",
                "The body took too long",
                slow.to_string(),
            );
            problem.field = Some("body".into());
            problem.rule = Some(format!("whole within {} s", slow.0.as_secs()));
            return problem;
        }
        cause = error.source();
    }
    malformed("the body did not arrive whole")
}

/// A query string, decoded strictly.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason).to_owned();
                let field = reason
                    .split_once(": ")
                    .map(|(field, _)| field)
                    .or_else(|| reason.split('`').nth(1))
                    .unwrap_or("query")
                    .to_owned();
                let mut problem = Problem::new(
                    StatusCode::BAD_REQUEST,
                    "invalid-query",
                    "The query string is not valid",
                    &reason,
                );
                problem.field = Some(field);
                problem.rule = Some(reason);
                problem.value =
                    parts.uri.query().map(|query| query.chars().take(200).collect::<String>().into());
                Err(problem)
            }
        }
    }
}

/// The id in the path.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T> FromRequestParts<S> for Id<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => text,
            Err(rejection) => return Err(bad_id("id", rejection.body_text(), "")),
        };
        text.parse().map(Self).map_err(|error: T::Err| bad_id("id", error.to_string(), &text))
    }
}

/// The two ids in the path of a membership.
pub(crate) struct TwoIds<A, B>(pub(crate) A, pub(crate) B);

impl<S: Send + Sync, A, B> FromRequestParts<S> for TwoIds<A, B>
where
    A: std::str::FromStr<Err: std::fmt::Display>,
    B: std::str::FromStr<Err: std::fmt::Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (a, b) = match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path(both)) => both,
            Err(rejection) => return Err(bad_id("id", rejection.body_text(), "")),
        };
        let first = a.parse().map_err(|error: A::Err| bad_id("id", error.to_string(), &a))?;
        let second = b.parse().map_err(|error: B::Err| bad_id("member", error.to_string(), &b))?;
        Ok(Self(first, second))
    }
}

fn bad_id(field: &str, rule: String, value: &str) -> Problem {
    let value: String = value.chars().take(80).collect();
    let mut problem = Problem::invalid(field, rule, value);
    problem.status = StatusCode::BAD_REQUEST.as_u16();
    problem
}
