//! Who is connected now, as PoPs say, and by which way packets go, as connectors say.

use super::{
    Problem, Views,
    caller::Caller,
    list::Wanted,
    listed::Sessions,
    tag::Tagged,
    types::{Page, Session},
};
use crate::parts::Core;
use axum::extract::State;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_sessions))
}

/// Lists devices and connectors that have sessions to PoPs now.
///
/// From memory; a controller that was just started learns it from PoPs within seconds, and of the ways from connectors
/// within 35 s. A way that changes is told within 5 s.
#[utoipa::path(get, path = "/sessions", tag = "sessions", params(Wanted<Sessions>), responses((status = 200, description = "One page", body = Page<Session>)))]
async fn list_sessions(
    State(core): State<Arc<Core>>,
    caller: Caller,
    wanted: Wanted<Sessions>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let views = Views::new(&core, caller.data(&snapshot)?);
    // In the order of their ids: con-… before dev-….
    let connectors = views.data.connectors.iter().filter_map(|row| views.connector_session(row));
    let devices = views.data.devices.iter().filter_map(|row| views.device_session(row));
    let rows: Vec<Session> = connectors.chain(devices).collect();
    let (chosen, next) = wanted.choose(rows.iter(), &views);
    // Whoever holds both holds presence, which the views have, first.
    let (paths, now) = (core.paths(), crate::clock::wall());
    let items: Vec<Session> = chosen.into_iter().map(|row| views.with_paths(row, &paths, now)).collect();
    Ok(Tagged::page(&Page { items, next }))
}
