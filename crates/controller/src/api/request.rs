//! What requests carry: bodies, query strings and ids in paths, decoded strictly. What does not fit is a problem that
//! names field, rule and value.

use super::problem::{MAX_BODY, Problem, rule_of, shown};
use crate::server::BodyTooSlow;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{HeaderMap, StatusCode, Uri, header, request::Parts};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_path_to_error::{Path as ErrorPath, Segment};
use std::{
    fmt,
    sync::{Arc, OnceLock},
};

/// What a request's body said, for whoever writes the answer: a row that is in the way knows its column and not what
/// was typed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Said(Arc<OnceLock<Value>>);

impl Said {
    /// The value of a member of the body, or of one of its members.
    pub(crate) fn member(&self, path: &str) -> Option<Value> {
        let mut value = self.0.get()?;
        for name in path.split(['.', '[']) {
            value = match name.strip_suffix(']') {
                Some(index) => value.get(index.parse::<usize>().ok()?)?,
                None => value.get(name)?,
            };
        }
        Some(shown(value))
    }

    /// The same for the same body, whatever the order of its members.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let text = self.0.get().map(Value::to_string).unwrap_or_default();
        trust::sha256(&[text.as_bytes()])
    }
}

/// The longest body of a route that takes less than [`MAX_BODY`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct MaxBody(pub(crate) usize);

/// A JSON object as the body.
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
        let announced = announced(request.headers());
        let said = request.extensions().get::<Said>().cloned();
        let MaxBody(most) = request.extensions().get().copied().unwrap_or(MaxBody(MAX_BODY));
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                too_large(most, announced)
            } else {
                not_read(&rejection)
            }
        })?;
        let value = object(&bytes)?;
        let body = decoded(&value)?;
        if let Some(said) = said {
            let _ = said.0.set(value);
        }
        Ok(Self(body))
    }
}

/// Reads a body as handlers do.
///
/// # Errors
/// A problem that names field, rule and value.
pub fn read_body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    decoded(&object(bytes)?)
}

/// Reads JSON whose members are each there once.
fn object(bytes: &[u8]) -> Result<Value, Problem> {
    let mut repeated = None;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strictly { repeated: &mut repeated, path: "" }.deserialize(&mut reader);
    let read = read.and_then(|value| reader.end().map(|()| value));
    if let Some((field, value)) = repeated {
        return Err(Problem::invalid(&field, "each member once", value));
    }
    let value = read.map_err(|error| malformed(&error, bytes))?;
    if !value.is_object() {
        return Err(Problem::invalid("body", "an object", shown(&value)));
    }
    Ok(value)
}

/// What the object says, as a type.
///
/// # Errors
/// A problem that names field, rule and value.
pub(super) fn decoded<T: DeserializeOwned>(value: &Value) -> Result<T, Problem> {
    let error = match serde_path_to_error::deserialize::<_, T>(value) {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    let message = error.inner().to_string();
    // serde names a missing or unknown member in its message and not always in its path.
    let named = |start: &str| message.strip_prefix(start).and_then(|rest| rest.split('`').next());
    let (missing, unknown) = (named("missing field `"), named("unknown field `"));
    let mut path = error.path().to_string();
    if let Some(name) = missing.or(unknown) {
        if path == "." {
            name.clone_into(&mut path);
        } else if path.rsplit('.').next() != Some(name) {
            path = format!("{path}.{name}");
        }
    } else if path == "." {
        "body".clone_into(&mut path);
    }
    let given = at(value, error.path());
    let given = match unknown {
        Some(name) => given.get(name).unwrap_or(given),
        None => given,
    };
    let given = if missing.is_some() { Value::Null } else { shown(given) };
    if message.ends_with("expected string or map") {
        // One of some words, which serde tells only to who gives a text.
        let mut other = value.clone();
        if let Some(place) = at_mut(&mut other, error.path()) {
            *place = Value::String(String::new());
        }
        if let Err(again) = serde_path_to_error::deserialize::<_, T>(&other)
            && again.path().to_string() == error.path().to_string()
        {
            return Err(Problem::invalid(&path, rule_of(&again.inner().to_string()), given));
        }
    }
    Err(Problem::refused(&path, &message, given))
}

/// The value that a path leads to, or the deepest one on the way that there is.
fn at<'v>(mut value: &'v Value, path: &ErrorPath) -> &'v Value {
    for segment in path {
        let inner = match segment {
            Segment::Map { key } => value.get(key),
            Segment::Seq { index } => value.get(index),
            Segment::Enum { .. } | Segment::Unknown => None,
        };
        let Some(inner) = inner else { break };
        value = inner;
    }
    value
}

fn at_mut<'v>(mut value: &'v mut Value, path: &ErrorPath) -> Option<&'v mut Value> {
    for segment in path {
        value = match segment {
            Segment::Map { key } => value.get_mut(key)?,
            Segment::Seq { index } => value.get_mut(index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    Some(value)
}

/// Builds a value and refuses a member that is there twice: RFC 8259 section 4 leaves open which one counts.
struct Strictly<'a> {
    /// The member and its second value.
    repeated: &'a mut Option<(String, Value)>,
    path: &'a str,
}

impl<'de> DeserializeSeed<'de> for Strictly<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strictly<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let path = format!("{}[{}]", self.path, values.len());
            let seed = Strictly { repeated: self.repeated, path: &path };
            match sequence.next_element_seed(seed)? {
                Some(value) => values.push(value),
                None => return Ok(Value::Array(values)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            let value = members.next_value_seed(Strictly { repeated: self.repeated, path: &path })?;
            if map.contains_key(&name) {
                *self.repeated = Some((path.chars().take(200).collect(), shown(&value)));
                return Err(A::Error::custom("a member is there twice"));
            }
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// How much of a body is shown around the place where it stops being JSON.
const SHOWN_OF_MALFORMED: usize = 40;

fn malformed(error: &serde_json::Error, bytes: &[u8]) -> Problem {
    let mut problem = not_whole(&error.to_string());
    let before: usize = bytes
        .split(|byte| *byte == b'\n')
        .take(error.line().saturating_sub(1))
        .map(|line| line.len() + 1)
        .sum();
    let end = (before + error.column()).min(bytes.len());
    let near = &bytes[end.saturating_sub(SHOWN_OF_MALFORMED)..end];
    problem.value = Some(String::from_utf8_lossy(near).into_owned().into());
    problem
}

fn not_whole(detail: &str) -> Problem {
    let mut problem = Problem::new(StatusCode::BAD_REQUEST, "malformed", "The body is not JSON", detail);
    problem.field = Some("body".into());
    problem.rule = Some("JSON (RFC 8259)".into());
    problem
}

/// How long the body says that it is, in bytes.
pub(super) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Why a body of at most so many bytes was not read.
pub(super) fn unread(error: &axum::Error, headers: &HeaderMap, most: usize) -> Problem {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if error.is::<http_body_util::LengthLimitError>() {
            return too_large(most, announced(headers));
        }
        cause = error.source();
    }
    not_read(error)
}

fn too_large(most: usize, announced: Option<u64>) -> Problem {
    let mut problem = Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-large",
        "The body is too large",
        format!("expected at most {most} bytes"),
    );
    problem.field = Some("body".into());
    problem.rule = Some(format!("at most {most} bytes"));
    // In chunks nobody says beforehand how long it will be.
    problem.value = Some(announced.map_or_else(|| format!("more than {most}").into(), Value::from));
    problem
}

fn not_read(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut cause = Some(error);
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
    not_whole("the body did not arrive whole")
}

/// A query string, decoded strictly.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        read_query(&parts.uri).map(Self)
    }
}

/// Reads a query string as handlers do.
///
/// # Errors
/// A problem that names field, rule and value.
pub fn read_query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    match Query::<T>::try_from_uri(uri) {
        Ok(Query(value)) => Ok(value),
        Err(rejection) => {
            let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
            let pairs = pairs.map(|Query(pairs)| pairs).unwrap_or_default();
            Err(query_problem(&rejection.body_text(), &pairs))
        }
    }
}

/// How much of a decoder's message is repeated.
const MAX_DETAIL: usize = 300;

fn query_problem(text: &str, pairs: &[(String, String)]) -> Problem {
    let reason = text.split_once(": ").map_or(text, |(_, reason)| reason);
    // A value's message stands behind its name; that of a member as a whole names it in quotes.
    let (field, message) = match reason.split_once(": ") {
        Some((field, message)) if pairs.iter().any(|(name, _)| name == field) => (field, message),
        _ => (reason.split('`').nth(1).unwrap_or("query"), reason),
    };
    let value = pairs.iter().rev().find(|(name, _)| name == field).map(|(_, value)| value.as_str());
    // A name may be as long as the request's line.
    let detail: String = reason.chars().take(MAX_DETAIL).collect();
    let mut problem =
        Problem::new(StatusCode::BAD_REQUEST, "invalid-query", "The query string is not valid", detail);
    problem.field = Some(field.chars().take(80).collect());
    problem.rule = Some(rule_of(message));
    problem.value = Some(value.map_or(Value::Null, |value| shown(&value.into())));
    problem
}

/// The id in the path.
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T> FromRequestParts<S> for Id<T>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(text)) => text,
            Err(_) => return Err(bad_id("id", "UTF-8", parts.uri.path())),
        };
        text.parse().map(Self).map_err(|error: T::Err| bad_id("id", &error.to_string(), &text))
    }
}

/// The two ids in the path of a membership.
pub(crate) struct TwoIds<A, B>(pub(crate) A, pub(crate) B);

impl<S: Send + Sync, A, B> FromRequestParts<S> for TwoIds<A, B>
where
    A: std::str::FromStr<Err: fmt::Display>,
    B: std::str::FromStr<Err: fmt::Display>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (a, b) = match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path(both)) => both,
            Err(_) => return Err(bad_id("id", "UTF-8", parts.uri.path())),
        };
        let first = a.parse().map_err(|error: A::Err| bad_id("id", &error.to_string(), &a))?;
        let second = b.parse().map_err(|error: B::Err| bad_id("member", &error.to_string(), &b))?;
        Ok(Self(first, second))
    }
}

fn bad_id(field: &str, message: &str, value: &str) -> Problem {
    let mut problem = Problem::refused(field, message, shown(&value.into()));
    problem.status = StatusCode::BAD_REQUEST.as_u16();
    problem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{ResourceInput, SiteInput};
    use serde_json::json;

    fn refused<T: DeserializeOwned>(body: &str) -> (Option<String>, Option<String>, Option<Value>) {
        let Err(problem) = object(body.as_bytes()).and_then(|value| decoded::<T>(&value)) else {
            panic!("taken: {body}")
        };
        (problem.field.clone(), problem.rule.clone(), problem.value.clone())
    }

    fn named(field: &str, rule: &str, value: Value) -> (Option<String>, Option<String>, Option<Value>) {
        (Some(field.into()), Some(rule.into()), Some(value))
    }

    #[test]
    fn what_is_wrong_with_a_body_is_said_in_words_of_the_api_and_with_what_was_given() {
        for (body, field, rule, value) in [
            (r#"["arr",["10.0.0.0/8"],[]]"#, "body", "an object", json!(r#"["arr",["10.0.0.0/8"],[]]"#)),
            (r#""a""#, "body", "an object", json!("a")),
            (r#"{"name":"a","colour":1}"#, "colour", "one of: name, prefixes, regions", json!(1)),
            (r#"{"name":"a","name":"b"}"#, "name", "each member once", json!("b")),
            (r#"{"name":5}"#, "name", "a text", json!(5)),
            (r#"{"name":"a","prefixes":"x"}"#, "prefixes", "a list", json!("x")),
            (r#"{"name":"a","prefixes":["10.0.0.0/8",7]}"#, "prefixes[1]", "a text", json!(7)),
            (r#"{"prefixes":[]}"#, "name", "required", Value::Null),
            ("{\"name\":\n \"a\" x", "body", "JSON (RFC 8259)", json!("{\"name\":\n \"a\" x")),
        ] {
            assert_eq!(refused::<SiteInput>(body), named(field, rule, value), "{body}");
        }
    }

    #[test]
    fn a_word_that_is_not_one_of_the_words_and_an_id_of_another_kind_are_told_what_is_expected() {
        let site = "site-00000000000000000000000000";
        let with = |mode: Value| json!({"site": site, "name": "r", "address": "10.0.0.1", "ports": ["1"], "mode": mode});
        for mode in [json!("lax"), json!(5), Value::Null] {
            let expected = named("mode", "one of: standard, strict", mode.clone());
            assert_eq!(refused::<ResourceInput>(&with(mode).to_string()), expected);
        }
        let mut other = with(json!("strict"));
        other["site"] = "dev-00000000000000000000000000".into();
        let (field, rule, value) = refused::<ResourceInput>(&other.to_string());
        assert_eq!((field.as_deref(), value), (Some("site"), Some(other["site"].clone())));
        let rule = rule.expect("a rule");
        assert!(rule.starts_with("an id like \"site-\"") && !rule.contains("dev-"), "{rule}");
    }

    #[test]
    fn a_query_names_the_parameter_its_rule_and_what_was_given() {
        let pairs = [("limit".to_owned(), "many".to_owned()), ("colour".to_owned(), "red".to_owned())];
        let problem =
            query_problem("Failed to deserialize query string: limit: invalid digit found in string", &pairs);
        assert_eq!(
            (problem.field.as_deref(), problem.rule.as_deref()),
            (Some("limit"), Some("a whole number, 0 or more"))
        );
        assert_eq!(problem.value, Some("many".into()));
        let unknown =
            "Failed to deserialize query string: unknown field `colour`, expected `limit` or `after`";
        let problem = query_problem(unknown, &pairs);
        assert_eq!(
            (problem.field.as_deref(), problem.rule.as_deref()),
            (Some("colour"), Some("one of: limit, after"))
        );
        assert_eq!(problem.value, Some("red".into()));
    }

    #[test]
    fn of_a_long_name_in_a_query_the_beginning_is_repeated() {
        let name = "x".repeat(5000);
        let text = format!("Failed to deserialize query string: unknown field `{name}`, expected `limit`");
        let problem = query_problem(&text, &[(name, "1".to_owned())]);
        assert_eq!(problem.detail.len(), MAX_DETAIL);
        assert_eq!(problem.field.as_deref().map(str::len), Some(80));
        assert_eq!(problem.rule.as_deref(), Some("one of: limit"));
    }
}
