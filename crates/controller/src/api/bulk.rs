//! `POST /bulk`: what a script would otherwise loop over, made all or not at all.

use super::{
    Problem,
    caller::Caller,
    operate::{self, Intent},
    operation::Operation,
    problem::MAX_BODY,
    request::{Body, MaxBody},
    roles::{Needs, SignIn},
    strikes,
    tag::{IfMatch, Tagged},
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
///
/// A bulk of `POST /strikes` alone, at most 100, goes without the database, too: all of them are looked at before the first is
/// struck, and none waits for another.
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

/// Reads the operations of a bulk as its handler does, each with ids in the places of names; `made` says what comes of
/// one, as its own endpoint would answer.
///
/// # Errors
/// A problem that names the operation, field, rule and value.
pub fn read_bulk(
    input: BulkInput,
    mut made: impl FnMut(&BulkOperation) -> Value,
) -> Result<Vec<BulkOperation>, Problem> {
    operate::count(&input)?;
    if strikes::read_together(&input)?.is_some() {
        return Ok(input.operations);
    }
    let mut names = Names::default();
    let mut read = Vec::with_capacity(input.operations.len());
    for (index, mut asked) in input.operations.into_iter().enumerate() {
        let at = |problem| operate::of_operation(index, problem);
        names.read(&mut asked).map_err(at)?;
        let seen = asked.if_match.as_deref().map(|text| IfMatch::parse("if_match", text));
        seen.transpose().map_err(at)?;
        names.made(asked.name.clone(), &made(&asked)).map_err(at)?;
        read.push(asked);
    }
    Ok(read)
}

/// Whether a bulk, as it was sent, strikes and does nothing else.
pub(super) fn only_strikes(body: &[u8]) -> bool {
    let input = super::request::read_body::<BulkInput>(body).ok();
    input.and_then(|input| strikes::read_together(&input).ok()?).is_some()
}

/// Longest name.
const MAX_NAME: usize = 64;
/// Members of bodies in which ids stand.
const OF_IDS: [&str; 6] = ["groups", "owner", "resources", "site", "subject", "user"];

/// The ids of what the operations before made, by the names they were given.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, String>);

impl Names {
    /// What an operation asks for, with ids in the places of names, and what its own endpoint needs.
    pub(super) fn read(&self, asked: &mut BulkOperation) -> Result<(Operation, Needs, SignIn), Problem> {
        self.fill_in(asked)?;
        Operation::parse(asked.method, &asked.path, asked.body.as_ref())
    }

    /// Puts ids in the places of names.
    fn fill_in(&self, operation: &mut BulkOperation) -> Result<(), Problem> {
        if operation.path.contains('@') {
            let parts = operation.path.split('/').map(|part| match part.strip_prefix('@') {
                Some(name) => self.id("path", name).map(ToOwned::to_owned),
                None => Ok(part.to_owned()),
            });
            operation.path = parts.collect::<Result<Vec<_>, _>>()?.join("/");
        }
        if let Some(body) = &mut operation.body {
            self.fill_value(body);
        }
        Ok(())
    }

    fn id(&self, field: &str, name: &str) -> Result<&str, Problem> {
        let id = self.0.get(name).map(String::as_str);
        id.ok_or_else(|| {
            let shown = name.chars().take(120).collect::<String>();
            Problem::invalid(field, "the name (`as`) of an operation before this one", format!("@{shown}"))
        })
    }

    /// Ids stand in some members of the object, and in lists in them. Every other one is typed by a person, and stays what it
    /// is where it begins with @: put in there, an id would be a name, a host or a region that is taken.
    fn fill_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(id) = text.strip_prefix('@').and_then(|name| self.0.get(name)) {
                    text.clone_from(id);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.fill_value(item)),
            Value::Object(members) => {
                let of_ids = members.iter_mut().filter(|(name, _)| OF_IDS.contains(&name.as_str()));
                of_ids.for_each(|(_, member)| self.fill_value(member));
            }
            _ => {}
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

    #[test]
    fn what_a_person_types_is_nobodys_id_even_where_it_begins_as_one() {
        let mut names = Names::default();
        names.made(Some("s".into()), &json!({"id": "site-1"})).unwrap();
        for member in ["name", "email", "address", "alias", "region"] {
            let mut body = json!({member: "@s", "prefixes": ["@s"], "regions": ["@s"]});
            let typed = body.clone();
            names.fill_value(&mut body);
            assert_eq!(body, typed);
        }
    }

    #[test]
    fn a_name_that_nobody_has_is_repeated_in_part() {
        let path = format!("/sites/@{}", "x".repeat(1000));
        let mut operation = serde_json::from_value(json!({"method": "DELETE", "path": path})).unwrap();
        let problem = Names::default().fill_in(&mut operation).unwrap_err();
        assert_eq!(problem.value.as_ref().and_then(|value| value.as_str()).map(str::len), Some(121));
    }
}
