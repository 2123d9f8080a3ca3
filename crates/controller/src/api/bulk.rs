//! `POST /bulk`: what a script would otherwise loop over, made all or not at all.

use super::{
    Problem,
    caller::Caller,
    operate::{self, Intent},
    request::Body,
    tag::Tagged,
    types::{BulkInput, BulkOperation, BulkOutcome},
};
use crate::parts::Core;
use axum::extract::State;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(make_bulk))
}

/// Makes many changes at once, all or none of them, in one transaction and one version. Access that a removal ends is
/// revoked before the transaction is committed.
#[utoipa::path(post, path = "/bulk", tag = "bulk", request_body = BulkInput, responses((status = 200, description = "Every operation was made", body = BulkOutcome), (status = 404, description = "There is no such object", body = super::ProblemDocument, content_type = "application/problem+json")))]
async fn make_bulk(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<BulkInput>,
) -> Result<Tagged, Problem> {
    operate::bulk(&core, &caller, intent, input).await
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
