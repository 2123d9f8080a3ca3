//! `POST /bulk`: what a script would otherwise loop over, made all or not at all.

use super::{
    Problem,
    caller::Caller,
    operate::{self, Intent},
    problem::MAX_BODY,
    request::{Body, MaxBody},
    tag::Tagged,
    types::{BulkInput, BulkOperation, BulkOutcome},
};
use crate::parts::Core;
use axum::{
    Extension,
    extract::{DefaultBodyLimit, FromRequestParts, State},
};
use http::{StatusCode, header, request::Parts};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(make_bulk))
        .layer(Extension(MaxBody(MAX_BULK)))
        .layer(DefaultBodyLimit::max(MAX_BULK))
}

/// The longest body: ten thousand operations of some 400 bytes.
const MAX_BULK: usize = 4 * 1024 * 1024;
/// So many large ones are read and made at once: each takes some 60 MB while it is.
static LARGE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(2)));

/// Room for a bulk, taken before its body is read; a small one needs none.
pub(super) struct Room(#[expect(dead_code, reason = "it is held, and let go")] Option<OwnedSemaphorePermit>);

impl<S: Send + Sync> FromRequestParts<S> for Room {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let announced = parts.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
        let announced = announced.and_then(|value| value.parse::<usize>().ok());
        // A body of unknown length may be a long one.
        if announced.is_some_and(|length| length <= MAX_BODY) {
            return Ok(Self(None));
        }
        let taken = Arc::clone(&LARGE).try_acquire_owned();
        taken.map(|permit| Self(Some(permit))).map_err(|_| {
            let mut problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "busy",
                "Other large bulks are being made",
                "two bulks of more than 256 kB are made at once, and this would be another one: nothing was changed",
            );
            problem.retry_after = Some(2);
            problem
        })
    }
}

/// Makes many changes at once, all or none of them, in one transaction and one version.
///
/// Access that a removal ends is revoked before the transaction is committed. At most 4 MiB and 10,000 operations, of
/// which 100 may revoke; more than 500 have 10 s, in which other changes of the organization may be refused and are to
/// be sent again (503, Retry-After). Two bulks of more than 256 kB are made at once. An answer of more than a megabyte
/// is not kept for its Idempotency-Key: who asks again is told that it was made (409).
#[utoipa::path(post, path = "/bulk", tag = "bulk", request_body = BulkInput, responses((status = 200, description = "Every operation was made", body = BulkOutcome), (status = 404, description = "There is no such object", body = super::ProblemDocument, content_type = "application/problem+json")))]
async fn make_bulk(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    room: Room,
    Body(input): Body<BulkInput>,
) -> Result<Tagged, Problem> {
    operate::bulk(&core, &caller, intent, input, room).await
}

/// Longest name.
const MAX_NAME: usize = 64;

/// The ids of what the operations before made, by the names they were given.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// Puts ids in the places of names.
    pub(super) fn fill_in(&self, operation: &mut BulkOperation) -> Result<(), Problem> {
        if operation.path.contains('@') {
            let parts = operation.path.split('/').map(|part| match part.strip_prefix('@') {
                Some(name) => self.id("path", name).map(ToOwned::to_owned),
                None => Ok(part.to_owned()),
            });
            operation.path = parts.collect::<Result<Vec<_>, _>>()?.join("/");
        }
        match &mut operation.body {
            Some(body) => self.fill_value("body", body),
            None => Ok(()),
        }
    }

    fn id(&self, field: &str, name: &str) -> Result<&str, Problem> {
        let id = self.0.get(name).map(String::as_str);
        id.ok_or_else(|| {
            Problem::invalid(field, "the name (`as`) of an operation before this one", format!("@{name}"))
        })
    }

    /// Ids stand in members of the object, and in lists in them; names of people that begin with @ stay what they are.
    fn fill_value(&self, field: &str, value: &mut Value) -> Result<(), Problem> {
        match value {
            Value::String(text) => {
                if let Some(id) = text.strip_prefix('@').and_then(|name| self.0.get(name)) {
                    text.clone_from(id);
                }
                Ok(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.fill_value(field, item)),
            Value::Object(members) => {
                members.iter_mut().try_for_each(|(name, member)| {
                    // A name is typed by a person and is nobody's id.
                    if name == "name" { Ok(()) } else { self.fill_value(&format!("{field}.{name}"), member) }
                })
            }
            _ => Ok(()),
        }
    }

    /// Remembers what an operation made.
    pub(super) fn made(&mut self, name: Option<String>, body: &Value) -> Result<(), Problem> {
        let Some(name) = name else { return Ok(()) };
        let fits = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !fits || self.0.contains_key(&name) {
            let rule =
                format!("1 to {MAX_NAME} letters, digits, dashes, dots and underscores, each name once");
            return Err(Problem::invalid("as", rule, name.chars().take(120).collect::<String>()));
        }
        // What is made with a secret stands beside it.
        let id = ["/id", "/key/id", "/description/id"].iter().find_map(|place| body.pointer(place)?.as_str());
        let Some(id) = id else {
            return Err(Problem::invalid("as", "only on an operation that makes or changes an object", name));
        };
        self.0.insert(name, id.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_stands_for_the_id_of_what_was_made_before() {
        let mut names = Names::default();
        names.made(Some("s".into()), &json!({"id": "site-1"})).unwrap();
        let mut operation: BulkOperation = serde_json::from_value(json!({
            "method": "PUT", "path": "/sites/@s",
            "body": {"name": "@s", "site": "@s", "groups": ["@s", "grp-2"], "alias": "@other"},
        }))
        .unwrap();
        names.fill_in(&mut operation).unwrap();
        assert_eq!(operation.path, "/sites/site-1");
        let expected =
            json!({"name": "@s", "site": "site-1", "groups": ["site-1", "grp-2"], "alias": "@other"});
        assert_eq!(operation.body.unwrap(), expected);
        let mut unknown: BulkOperation =
            serde_json::from_value(json!({"method": "DELETE", "path": "/sites/@t"})).unwrap();
        assert_eq!(names.fill_in(&mut unknown).unwrap_err().field.as_deref(), Some("path"));
        assert!(names.made(Some("s".into()), &json!({"id": "site-2"})).is_err());
        assert!(names.made(Some("a b".into()), &json!({"id": "site-2"})).is_err());
        assert!(names.made(Some("n".into()), &Value::Null).is_err());
    }
}
