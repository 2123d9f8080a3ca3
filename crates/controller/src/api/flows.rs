//! The flow log: newest records, and an export as lines that goes on with what comes.

use super::{
    Problem,
    caller::Caller,
    following::{Following, lines},
    request::Params,
    tag::Tagged,
    types::{FlowExportParams, FlowParams, Flows},
};
use crate::{flows::FlowQuery, parts::Core, segments::Place};
use axum::{extract::State, response::Response};
use http::StatusCode;
use std::sync::Arc;
use trust::UnixMs;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Records in one piece of an export.
const PIECE: usize = 500;
/// What verdicts there are.
const VERDICTS: &[&str] = &["allowed", "denied", "withdrawn", "failed"];

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_flows)).routes(routes!(export_flows))
}

/// How many, from a query's number.
pub(super) fn limit(limit: Option<u32>) -> Result<usize, Problem> {
    super::list::limit(&limit.unwrap_or(200).to_string())
}

fn verdict(given: Option<String>) -> Result<Option<String>, Problem> {
    let Some(word) = given else { return Ok(None) };
    if VERDICTS.contains(&word.as_str()) {
        return Ok(Some(word));
    }
    let mut problem = Problem::invalid(
        "verdict",
        format!("one of: {}", VERDICTS.join(", ")),
        word.chars().take(120).collect::<String>(),
    );
    problem.status = StatusCode::BAD_REQUEST.as_u16();
    Err(problem)
}

/// A place in a log, from a query's text.
pub(super) fn place(text: &str, rule: &str) -> Result<Place, Problem> {
    text.parse::<Place>().map_err(|()| {
        let mut problem = Problem::invalid("after", rule, text.chars().take(120).collect::<String>());
        problem.status = StatusCode::BAD_REQUEST.as_u16();
        problem
    })
}

/// What `next` of a page is for.
pub(super) const NEXT: &str = "`next` of a page";

/// Lists flow records, newest first, denied ones included.
#[utoipa::path(get, path = "/flows", tag = "flows", params(FlowParams), responses((status = 200, description = "The newest records", body = Flows)))]
async fn list_flows(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(params): Params<FlowParams>,
) -> Result<Tagged, Problem> {
    let query = FlowQuery {
        limit: limit(params.limit)?,
        device: params.device,
        connector: params.connector,
        resource: params.resource,
        verdict: verdict(params.verdict)?,
        q: params.q.map(|q| q.to_lowercase()),
        from: core.flows_kept_from(caller.organization).max(params.from_ms.map(UnixMs::from_millis)),
        before: params.before_ms.map(UnixMs::from_millis),
        after: params.after.map(|text| place(&text, NEXT)).transpose()?,
    };
    let organization = caller.organization;
    let read = tokio::task::spawn_blocking(move || core.flows.read(organization, &query)).await;
    match read {
        Ok(Ok(page)) => {
            let next = page.next.map(|place| place.to_string());
            Ok(Tagged::page(&Flows { items: page.items, next }))
        }
        Ok(Err(error)) => Err(Problem::internal(format!("flow records cannot be read: {error}"))),
        Err(error) => Err(Problem::internal(error.to_string())),
    }
}

struct Export {
    following: Following,
    query: FlowQuery,
    organization: wire::OrganizationId,
    place: Place,
}

/// Exports flow records as lines of JSON, oldest first.
///
/// Each line has its `place`, from which a later export goes on.
#[utoipa::path(get, path = "/flows/export", tag = "flows", params(FlowExportParams), responses((status = 200, description = "One record a line", body = String, content_type = "application/x-ndjson")))]
async fn export_flows(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(params): Params<FlowExportParams>,
) -> Result<Response, Problem> {
    let place = params.after.map(|text| place(&text, "the `place` of a line that was exported"));
    let from = core.flows_kept_from(caller.organization);
    let query = FlowQuery { limit: PIECE, verdict: verdict(params.verdict)?, from, ..FlowQuery::default() };
    let arrivals = core.flows.arrivals();
    let organization = caller.organization;
    let following = Following::new(core, caller, params.follow == Some(true), arrivals);
    let export = Export { following, query, organization, place: place.transpose()?.unwrap_or_default() };
    Ok(lines(futures_util::stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        loop {
            let held = match export.following.begin_piece().await {
                Ok(held) => held,
                Err(error) => return Some((Err(error), None)),
            };
            let core = Arc::clone(&export.following.core);
            let (query, from) = (export.query.clone(), export.place);
            let organization = export.organization;
            let read =
                tokio::task::spawn_blocking(move || core.flows.read_on(organization, from, &query)).await;
            let piece = match read {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Some((Err(error), None)),
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            };
            drop(held);
            export.place = piece.place;
            if !piece.records.is_empty() {
                let mut text = Vec::new();
                for record in &piece.records {
                    text.extend_from_slice(record.to_string().as_bytes());
                    text.push(b'\n');
                }
                return Some((Ok(text), Some(export)));
            }
            if piece.is_all
                && let Err(error) = export.following.more().await?
            {
                return Some((Err(error), None));
            }
        }
    })))
}
