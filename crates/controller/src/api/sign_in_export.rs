//! The authentication log as lines, in the order it was written, that goes on with what comes.

use super::{
    Problem,
    accounts::shown_authentication,
    caller::Caller,
    following::{Following, lines},
    request::Params,
};
use crate::{parts::Core, segments::Place, signin::LogPiece};
use axum::{extract::State, response::Response};
use http::StatusCode;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::OrganizationId;

/// Entries in one piece of an export.
const PIECE: usize = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(export_authentications))
}

/// What may stand behind `authentication-log/export?`.
mod query {
    use serde::Deserialize;
    use utoipa::IntoParams;

    /// From where, and how far.
    #[derive(Debug, Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[into_params(parameter_in = Query)]
    pub struct AuthenticationExportParams {
        /// Behind this place: the `place` of the last line that was read.
        #[param(nullable = false)]
        pub after: Option<String>,
        /// Goes on with what comes, until the connection ends.
        #[param(nullable = false)]
        pub follow: Option<bool>,
    }
}
use query::AuthenticationExportParams;

struct Export {
    following: Following,
    organization: OrganizationId,
    place: Place,
}

/// One line.
#[derive(serde::Serialize)]
struct Line {
    /// From where a later export goes on.
    place: String,
    #[serde(flatten)]
    entry: super::accounts::Authentication,
}

fn text_of(export: &Export, piece: LogPiece) -> Vec<u8> {
    let snapshot = export.following.core.snapshot();
    let data = snapshot.organization(export.organization);
    let mut text = Vec::new();
    for (place, entry) in piece.entries {
        let line = Line { place: place.to_string(), entry: shown_authentication(data, entry) };
        serde_json::to_writer(&mut text, &line).expect("what the API says always serializes");
        text.push(b'\n');
    }
    text
}

/// Exports who signed in, how, and from where, as lines of JSON, the oldest first: of this controller.
///
/// Each line has its `place`, from which a later export goes on.
#[utoipa::path(get, path = "/authentication-log/export", tag = "sign-in", params(AuthenticationExportParams), responses((status = 200, description = "One entry a line", body = String, content_type = "application/x-ndjson")))]
async fn export_authentications(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(params): Params<AuthenticationExportParams>,
) -> Result<Response, Problem> {
    let place = params.after.as_deref().map(|text| {
        text.parse::<Place>().map_err(|()| {
            let rule = "the `place` of a line that was exported";
            let mut problem = Problem::invalid("after", rule, text.chars().take(120).collect::<String>());
            problem.status = StatusCode::BAD_REQUEST.as_u16();
            problem
        })
    });
    let arrivals = core.signin.log.arrivals();
    let organization = caller.organization;
    let following = Following::new(core, caller, params.follow == Some(true), arrivals);
    let export = Export { following, organization, place: place.transpose()?.unwrap_or_default() };
    Ok(lines(futures_util::stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        loop {
            let held = match export.following.begin_piece().await {
                Ok(held) => held,
                Err(error) => return Some((Err(error), None)),
            };
            let core = Arc::clone(&export.following.core);
            let (organization, place) = (export.organization, export.place);
            let read = move || core.signin.log.onwards(organization, place, PIECE);
            let piece = match tokio::task::spawn_blocking(read).await {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Some((Err(error), None)),
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            };
            drop(held);
            export.place = piece.place;
            let is_all = piece.is_all;
            if !piece.entries.is_empty() {
                return Some((Ok(text_of(&export, piece)), Some(export)));
            }
            if is_all && let Err(error) = export.following.more().await? {
                return Some((Err(error), None));
            }
        }
    })))
}
