//! Much that goes at once goes only when somebody says so.

use super::Problem;
use crate::snapshot::large_shrink;
use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use store::{Change, OrganizationData, StoreError};
use utoipa::IntoParams;

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

impl Shrink {
    /// Notes in the change that much may go, so that the smaller state is believed.
    pub(super) async fn note(self, change: &mut Change) -> Result<(), StoreError> {
        match self {
            Self::Small => Ok(()),
            Self::Allowed => change.allow_shrink().await,
        }
    }
}

impl ShrinkParams {
    /// Looks at what would be left.
    ///
    /// # Errors
    /// A conflict that names what would go, and how to say that it may.
    pub(super) fn check(
        &self,
        data: &OrganizationData,
        change: impl FnOnce(&mut OrganizationData),
    ) -> Result<Shrink, Problem> {
        let mut left = data.clone();
        change(&mut left);
        let Some((kind, before, removed)) = large_shrink(data, &left) else { return Ok(Shrink::Small) };
        if self.allow_shrink == Some(true) {
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
        problem.value = Some(json!(self.allow_shrink));
        Err(problem)
    }
}
