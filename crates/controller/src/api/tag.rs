//! Entity tags: what a reader already has is not sent again, and nobody overwrites what they have not seen.
//!
//! The tag of an object has two parts: what can be set, and what only passes by (who is connected, how often a key was
//! used). A reader's `If-None-Match` compares both; a change's `If-Match` compares the first, so that a laptop that comes
//! and goes is in nobody's way. To the caller a tag is opaque.

pub(crate) use super::if_match::IfMatch;
use super::{if_match::tags, problem::Problem};
use axum::{
    body::Body,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use serde_json::{Map, Value};
use trust::{encode_base64url, sha256};

/// Members that change without anybody changing the object.
const PASSING: &[&str] = &["live", "attached", "last_seen", "struck", "members", "uses", "version"];

fn digest(bytes: &[u8]) -> String {
    encode_base64url(&sha256(&[b"tidegate/etag/1", bytes])[..12])
}

/// The tag of an object, without quotes.
pub(crate) fn of(object: &Value) -> String {
    let Value::Object(members) = object else { return digest(object.to_string().as_bytes()) };
    let passes = |name: &str| PASSING.contains(&name);
    let part = |wanted: bool| {
        let part: Map<String, Value> = members
            .iter()
            .filter(|(name, _)| passes(name) == wanted)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        (!part.is_empty()).then(|| digest(Value::Object(part).to_string().as_bytes()))
    };
    let settled = part(false).unwrap_or_default();
    part(true).map_or_else(|| settled.clone(), |passing| format!("{settled}.{passing}"))
}

/// The part of a tag that a change is held against.
fn settled(tag: &str) -> &str {
    tag.split('.').next().unwrap_or(tag)
}

/// Whether nobody changed an object between these two tags of it, in quotes or without: what passes by is no change.
pub(crate) fn is_unchanged(before: &str, now: &str) -> bool {
    let part = |tag: &'_ str| settled(tag.trim_matches('"')).to_owned();
    part(before) == part(now)
}

impl IfMatch {
    /// Reads the header.
    ///
    /// # Errors
    /// It is not a list of tags.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
        let text = value.to_str().unwrap_or_default();
        Self::parse("if-match", text).map(Some).map_err(|mut problem| {
            problem.status = StatusCode::BAD_REQUEST.as_u16();
            problem
        })
    }

    /// From a text that names the field it came from.
    ///
    /// # Errors
    /// It is not a list of tags.
    pub(crate) fn parse(field: &str, text: &str) -> Result<Self, Problem> {
        let shown: String = text.chars().take(120).collect();
        tags(text).ok_or_else(|| {
            Problem::invalid(field, "* or tags in quotes, as ETag had them (RFC 9110 section 13.1.1)", shown)
        })
    }

    /// Holds it against the object as it is now.
    ///
    /// # Errors
    /// 412 with both versions: the one that is there, and the one that was sent.
    pub(crate) fn check(&self, now: &Value, sent: &Value) -> Result<(), Problem> {
        let current = of(now);
        let seen = match self {
            // `*` asks for an object that is there (RFC 9110 section 13.1.1).
            Self::Any if now.is_null() => "*".to_owned(),
            Self::Any => return Ok(()),
            Self::Tags(seen) if seen.iter().any(|tag| settled(tag) == settled(&current)) => return Ok(()),
            Self::Tags(seen) => seen.join(", "),
        };
        let mut problem = Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "changed-meanwhile",
            "The object was changed meanwhile",
            "expected the version in If-Match; `versions` has the one that is there now and the one that was sent: \
             look at both, and send again with the tag of the one that is there",
        );
        problem.field = Some("if-match".into());
        problem.rule = Some("the ETag of the object as it is now".into());
        problem.value = Some(seen.into());
        problem.versions = Some(serde_json::json!({
            "current": now, "current_etag": format!("\"{current}\""), "sent": sent,
        }));
        Err(problem)
    }
}

/// A page or an object as an answer, with its tag.
#[derive(Debug)]
pub(crate) struct Tagged {
    status: StatusCode,
    body: Vec<u8>,
    tag: Option<String>,
}

impl Tagged {
    /// One object.
    pub(crate) fn object(status: StatusCode, object: &impl Serialize) -> Self {
        let value = serde_json::to_value(object).expect("what the API says always serializes");
        Self::value(status, &value)
    }

    /// One object that is a value already.
    pub(crate) fn value(status: StatusCode, value: &Value) -> Self {
        let tag = value.get("id").is_some().then(|| of(value));
        Self { status, body: value.to_string().into_bytes(), tag }
    }

    /// A page: its tag is of all its bytes.
    pub(crate) fn page(page: &impl Serialize) -> Self {
        let body = serde_json::to_vec(page).expect("what the API says always serializes");
        let tag = Some(digest(&body));
        Self { status: StatusCode::OK, body, tag }
    }
}

impl IntoResponse for Tagged {
    fn into_response(self) -> Response {
        let body = if self.status == StatusCode::NO_CONTENT { Vec::new() } else { self.body };
        let is_empty = body.is_empty();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        if is_empty {
            headers.remove(header::CONTENT_TYPE);
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        if let Some(tag) = self.tag
            && let Ok(value) = HeaderValue::from_str(&format!("\"{tag}\""))
        {
            headers.insert(header::ETAG, value);
        }
        response
    }
}

/// Answers 304 to whoever already has what a `GET` would send.
pub(crate) async fn conditional(request: Request, next: Next) -> Response {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let held = request.headers().get(header::IF_NONE_MATCH).filter(|_| is_read).cloned();
    let mut answer = next.run(request).await;
    let Some(held) = held else { return answer };
    if answer.status() != StatusCode::OK {
        return answer;
    }
    let current = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let current = current.map(|tag| tag.trim_matches('"').to_owned());
    let same = match (tags(held.to_str().unwrap_or_default()), current) {
        (Some(IfMatch::Any), Some(_)) => true,
        (Some(IfMatch::Tags(tags)), Some(current)) => tags.contains(&current),
        _ => false,
    };
    if same {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().remove(header::CONTENT_TYPE);
        answer.headers_mut().remove(header::CONTENT_LENGTH);
        *answer.body_mut() = Body::empty();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_passes_by_changes_the_tag_of_a_reader_and_not_that_of_a_change() {
        let object =
            |name: &str, attached: bool| json!({"id": "con-a", "name": name, "live": {"attached": attached}});
        let (here, gone, renamed) = (of(&object("a", true)), of(&object("a", false)), of(&object("b", true)));
        assert_ne!(here, gone);
        let seen = IfMatch::Tags(vec![gone]);
        assert!(seen.check(&object("a", true), &json!({})).is_ok());
        assert!(IfMatch::Tags(vec![renamed]).check(&object("a", true), &json!({})).is_err());
    }

    #[test]
    fn a_change_of_what_was_changed_meanwhile_is_refused_with_both_versions() {
        let now = json!({"id": "site-a", "name": "Hamburg"});
        let problem = IfMatch::Tags(vec!["old".into()]).check(&now, &json!({"name": "Bremen"})).unwrap_err();
        assert_eq!(problem.status, 412);
        let versions = problem.versions.clone().unwrap();
        assert_eq!((&versions["current"], &versions["sent"]["name"]), (&now, &json!("Bremen")));
        let tag = versions["current_etag"].as_str().unwrap().to_owned();
        assert!(IfMatch::parse("if-match", &tag).unwrap().check(&now, &json!({})).is_ok());
        assert!(IfMatch::parse("if-match", "*").unwrap().check(&now, &json!({})).is_ok());
    }
}
