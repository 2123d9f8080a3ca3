//! One short word whenever something that pages show has changed, as server-sent events (WHATWG HTML, section 9.2).

use super::shell::Viewer;
use crate::{clock, parts::Core};
use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::stream;
use http::StatusCode;
use std::{convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// How often a stream looks. A comparison of a few numbers: what is shown is at most this much older than what is known.
const LOOK: Duration = Duration::from_millis(400);
/// Streams at once. Who gets none sees the page without motion.
static STREAMS: Semaphore = Semaphore::const_new(256);
/// A stream ends then and the browser asks again: its session may have ended meanwhile.
const LIFE: Duration = Duration::from_secs(300);

/// Everything that pages show as one text: it differs when they do.
pub(super) fn state(core: &Core) -> String {
    let presence = core.presence().changes();
    let paths = core.paths().changes();
    let troubled = core.database.trouble().is_some();
    let stopped = core.signer.signing_time().is_err() || core.withheld().is_some();
    format!("{}.{presence}.{paths}.{}.{}", core.snapshot().number, u8::from(troubled), u8::from(stopped))
}

pub(super) async fn events(viewer: Viewer) -> Response {
    let Ok(permit) = STREAMS.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many pages are open; they work without events.")
            .into_response();
    };
    let (core, ends) = (Arc::clone(&viewer.core), clock::now() + LIFE);
    let stream = stream::unfold((core, String::new(), permit), move |(core, told, permit)| async move {
        loop {
            let now = state(&core);
            if now != told {
                let event = Event::default().event("state").data(&now);
                return Some((Ok::<_, Infallible>(event), (core, now, permit)));
            }
            if clock::now() >= ends {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response()
}
