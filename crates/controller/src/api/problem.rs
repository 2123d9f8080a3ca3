//! Every error as `application/problem+json` (RFC 9457), naming field, rule and value.

use super::request::Said;
use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::Value;
use std::time::Duration;
use store::StoreError;
use utoipa::ToSchema;

/// The word of a problem that a fresh sign-in cures.
const SIGN_IN_AGAIN: &str = "sign-in-again";

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

/// Any JSON value: what was given may be a text as well as a list.
fn anything() -> utoipa::openapi::schema::Object {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
        .description(Some("What was given."))
        .build()
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
    #[schema(schema_with = anything)]
    pub value: Option<Value>,
    /// When to come back, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub retry_after: Option<u64>,
    /// How old a sign-in may be for this, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub max_age: Option<u64>,
    /// Of a change that met an error: `not_done`, or `unknown` when the database went away in the middle. The same
    /// request with the same Idempotency-Key then tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub outcome: Option<Outcome>,
    /// Both versions of an object that was changed meanwhile: `current`, `current_etag` and `sent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub versions: Option<Value>,
}

/// What became of a change that met an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing was changed.
    NotDone,
    /// It may be stored, or not.
    Unknown,
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
            max_age: None,
            outcome: None,
            versions: None,
        }))
    }

    /// What is sent of it.
    pub(crate) fn document(&self) -> &ProblemDocument {
        &self.0
    }

    /// Which part of the request it is about, and what that part has to be.
    pub(crate) fn about(mut self, field: &str, rule: impl Into<String>, value: impl Into<Value>) -> Self {
        self.field = Some(field.to_owned());
        self.rule = Some(rule.into());
        // A secret that came is not said again.
        self.value = Some(value.into()).filter(|value| !value.is_null());
        self
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

    /// A member of the request that a parser refused: the rule is what the parser expects, without what it got.
    pub(crate) fn refused(field: &str, message: &str, value: impl Into<Value>) -> Self {
        let mut problem = Self::invalid(field, rule_of(message), value);
        if message.starts_with("expected ") {
            problem.detail = format!("{field}: {message}");
        }
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
        problem.field = Some(if kind == "path" { "path" } else { "id" }.to_owned());
        problem.rule = Some(match kind {
            "path" => "a path of the OpenAPI document, /api/v1/openapi.json".to_owned(),
            "organization" => "the id of an organization that the caller may name".to_owned(),
            "PoP" => "the id of a PoP".to_owned(),
            kind => format!("the id of an existing {kind} of the caller's organization"),
        });
        problem.value = Some(id.into());
        problem
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        let rule = "Bearer and a token that was made here, has not expired and was not revoked";
        let problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail);
        problem.about("authorization", rule, Value::Null)
    }

    /// A person signed in too long ago for this (RFC 9470 is the same in HTTP's words).
    pub(crate) fn sign_in_again(age: Duration) -> Self {
        let seconds = age.as_secs();
        let mut problem = Self::new(
            StatusCode::UNAUTHORIZED,
            SIGN_IN_AGAIN,
            "A fresh sign-in is needed",
            format!("this needs a sign-in within the last {seconds} s; sign in again and repeat the request"),
        );
        problem.field = Some("sign-in".into());
        problem.rule = Some(format!("not older than {seconds} s"));
        problem.max_age = Some(seconds);
        problem
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
                let problem =
                    Self::new(StatusCode::CONFLICT, "in-use", "Other objects are in the way", detail);
                problem.about("id", "an object that no other refers to", Value::Null)
            }
            StoreError::KeySpent(_) => {
                let problem =
                    Self::new(StatusCode::FORBIDDEN, "key-spent", "The enrolment key cannot be used", detail);
                problem.about("secret", "of a key that has uses left and has not expired", Value::Null)
            }
            StoreError::Unavailable(_)
            | StoreError::Missing(_)
            | StoreError::Schema(_)
            | StoreError::Replica(_) => Self::unavailable(detail),
            StoreError::OutcomeUnknown(_) => {
                let title = "Whether this was stored is not known: look before you try again";
                let mut problem =
                    Self::new(StatusCode::SERVICE_UNAVAILABLE, "outcome-unknown", title, detail);
                problem.retry_after = Some(5);
                problem
            }
            StoreError::Value { .. } => {
                let title = "The database does not take a value of this";
                let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "value-refused", title, detail);
                problem.about("body", "texts that the database takes", Value::Null)
            }
            StoreError::Corrupt { .. } | StoreError::Spoilt { .. } => Self::internal(detail),
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
        // For who completes it on its way out ([`complete`]).
        let kept = self.clone();
        let body = serde_json::to_vec(&*self.0).expect("a problem always serializes");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            // RFC 6750 section 3; RFC 9470 section 3.
            let challenge = self.max_age.map(|age| {
                HeaderValue::from_str(&format!(
                    "Bearer error=\"insufficient_user_authentication\", max_age=\"{age}\""
                ))
                .expect("digits and our own words")
            });
            let challenge = challenge.unwrap_or(HeaderValue::from_static("Bearer"));
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response.extensions_mut().insert(kept);
        response
    }
}

/// Adds what a handler does not know: the value that is in the way of another object.
pub(crate) async fn complete(mut request: Request, next: Next) -> Response {
    let said = Said::default();
    request.extensions_mut().insert(said.clone());
    let mut answer = next.run(request).await;
    let Some(mut problem) = answer.extensions_mut().remove::<Problem>() else { return answer };
    if answer.status() != StatusCode::CONFLICT || problem.value.is_some() {
        return answer;
    }
    problem.value = problem.field.as_deref().and_then(|field| said.member(field));
    problem.into_response()
}

/// Longest text of a value that is shown again.
const MAX_SHOWN: usize = 120;

/// A value as a problem shows it: as it is, or the beginning of its text.
pub(super) fn shown(value: &Value) -> Value {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
        plain => return plain.clone(),
    };
    text.chars().take(MAX_SHOWN).collect::<String>().into()
}

/// What a parser's message says is expected, in words of the API: neither Rust's types nor what was given.
pub(super) fn rule_of(message: &str) -> String {
    if message.starts_with("missing field") {
        return "required".into();
    }
    if message.starts_with("duplicate field") {
        return "each member once".into();
    }
    if message.starts_with("unknown field") || message.starts_with("unknown variant") {
        // The first quoted word is what was given; the rest is what there is. What was given may itself have quotes.
        let rest = message.rsplit_once("`, expected ").map_or("", |(_, rest)| rest);
        let words: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        return if words.is_empty() {
            "no such member".into()
        } else {
            format!("one of: {}", words.join(", "))
        };
    }
    if message.starts_with("invalid type: ")
        || message.starts_with("invalid value: ")
        || message.starts_with("invalid length ")
    {
        let expected = message.rsplit_once(", expected ").map_or("", |(_, expected)| expected);
        return plainly(expected);
    }
    match message {
        "invalid digit found in string"
        | "cannot parse integer from empty string"
        | "number too small to fit in target type" => return WHOLE_NUMBER.into(),
        "number too large to fit in target type" => return "a smaller number".into(),
        "provided string was not `true` or `false`" => return "true or false".into(),
        _ => {}
    }
    let expected = message.strip_prefix("expected ").unwrap_or(message);
    let cut = [", got ", "; got "].iter().filter_map(|got| expected.find(got)).min();
    expected[..cut.unwrap_or(expected.len())].to_owned()
}

const WHOLE_NUMBER: &str = "a whole number, 0 or more";

/// serde's word for a type.
fn plainly(expected: &str) -> String {
    match expected {
        "u64" | "usize" => WHOLE_NUMBER.into(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u16" => format!("a whole number from 0 to {}", u16::MAX),
        "u8" => format!("a whole number from 0 to {}", u8::MAX),
        "i64" => "a whole number".into(),
        "a string" | "a borrowed string" | "str" | "string" => "a text".into(),
        "a sequence" => "a list".into(),
        "a boolean" => "true or false".into(),
        _ if expected.starts_with("struct ") || expected == "a map" => "an object".into(),
        other => other.to_owned(),
    }
}
