//! Many changes at once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Changes that are made all or not at all, in this order.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkInput {
    /// 1 to 10,000 of them, all of one organization or all of the installation.
    #[schema(min_items = 1, max_items = 10000)]
    pub operations: Vec<BulkOperation>,
    /// Remove more than ten objects of a kind and more than a fifth of them in this one change.
    #[serde(default)]
    pub allow_shrink: Option<bool>,
    /// Say what would come of it, and change nothing.
    #[serde(default)]
    pub dry_run: Option<bool>,
}

/// How an operation asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum BulkMethod {
    /// Make.
    #[serde(rename = "POST")]
    Post,
    /// Replace.
    #[serde(rename = "PUT")]
    Put,
    /// Change what is given (RFC 7396).
    #[serde(rename = "PATCH")]
    Patch,
    /// Remove.
    #[serde(rename = "DELETE")]
    Delete,
}

/// One change, as its own request would say it.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkOperation {
    /// How.
    pub method: BulkMethod,
    /// A path below `/api/v1`, as in `/sites` or `/sites/site-…`.
    pub path: String,
    /// What its own request has as its body.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub body: Option<serde_json::Value>,
    /// The ETag that the object must still have.
    #[serde(default)]
    pub if_match: Option<String>,
    /// A name for the object that is made: `@NAME` stands for its id in the paths and bodies behind it.
    #[serde(default, rename = "as")]
    pub name: Option<String>,
}

/// What came of each operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkOutcome {
    /// In the order of the operations.
    pub results: Vec<BulkResult>,
    /// Nothing was changed: it was asked for what would be.
    pub dry_run: bool,
}

/// What came of one operation.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkResult {
    /// The status its own request would have had.
    pub status: u16,
    /// What its own request would have answered; absent when that is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, nullable = false)]
    pub body: Option<serde_json::Value>,
}
