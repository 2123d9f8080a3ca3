//! Much that goes at once goes only when somebody says so.

use super::Problem;
use crate::snapshot::{Snapshot, large_shrink};
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;
use store::OrganizationData;
use utoipa::IntoParams;
use wire::OrganizationId;

/// Whether a change may remove much at once.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShrinkParams {
    /// Remove more than ten objects of a kind and more than a fifth of them in this one change.
    #[param(nullable = false)]
    pub(crate) allow_shrink: Option<bool>,
}

/// What a change does to how much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shrink {
    Small,
    Allowed,
}

/// What would be left of an organization after the removals of a change.
pub(super) struct Left {
    snapshot: Arc<Snapshot>,
    organization: OrganizationId,
    left: Option<OrganizationData>,
}

impl Left {
    pub(super) const fn new(snapshot: Arc<Snapshot>, organization: OrganizationId) -> Self {
        Self { snapshot, organization, left: None }
    }

    /// Takes something away.
    pub(super) fn without(&mut self, change: impl FnOnce(&mut OrganizationData)) {
        if self.left.is_none() {
            self.left = self.snapshot.organization(self.organization).cloned();
        }
        if let Some(left) = &mut self.left {
            change(left);
        }
    }

    /// Looks at what would be left.
    ///
    /// # Errors
    /// A conflict that names what would go, and how to say that it may.
    pub(super) fn check(&self, allow_shrink: Option<bool>) -> Result<Shrink, Problem> {
        let (Some(left), Some(data)) = (&self.left, self.snapshot.organization(self.organization)) else {
            return Ok(Shrink::Small);
        };
        let Some((kind, before, removed)) = large_shrink(data, left) else { return Ok(Shrink::Small) };
        if allow_shrink == Some(true) {
            return Ok(Shrink::Allowed);
        }
        let mut problem = Problem::new(
            StatusCode::CONFLICT,
            "large-shrink",
            "Much would go at once",
            format!(
                "this removes {removed} of {before} {kind}; if that is meant, say so: allow_shrink=true in the query, \
                 --allow-shrink on the command line"
            ),
        );
        problem.field = Some("allow_shrink".into());
        problem.rule = Some("true, where more than ten and more than a fifth of a kind go at once".into());
        problem.value = Some(json!(allow_shrink));
        Err(problem)
    }
}
