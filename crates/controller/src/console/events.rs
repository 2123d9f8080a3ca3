//! A short word whenever something that pages show has changed, as server-sent events (WHATWG HTML, section 9.2): `state`
//! for what is on one page or another, `standing` for what is around all of them.

use super::shell::Viewer;
use crate::{clock, parts::Core};
use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use futures_util::stream;
use http::StatusCode;
use std::{convert::Infallible, mem, sync::Arc, time::Duration};
use tokio::sync::Semaphore;
use trust::{encode_base64url, sha256};

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

/// What the banner and the gauge say as one text. Who comes, goes or takes another way is nothing to them.
pub(super) fn standing(core: &Core) -> String {
    let snapshot = core.snapshot();
    // Of these the kind: their words count seconds.
    let fenced = core.signer.signing_time().err().as_ref().map(mem::discriminant);
    let withheld = core.withheld().as_ref().map(mem::discriminant);
    let trouble = core.database.trouble();
    let is_stale = !core.snapshot_age().is_zero();
    let pops = core.presence().attached_pops().len();
    let (number, source) = (snapshot.number, snapshot.source);
    let all = format!("{number} {source:?} {fenced:?} {withheld:?} {trouble:?} {is_stale} {pops}");
    // Short, and one line whatever a database's error says.
    encode_base64url(&sha256(&[all.as_bytes()]))[..16].to_owned()
}

pub(super) async fn events(viewer: Viewer) -> Response {
    let Ok(permit) = STREAMS.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "Too many pages are open; they work without events.")
            .into_response();
    };
    let (core, ends) = (Arc::clone(&viewer.core), clock::now() + LIFE);
    let told = [String::new(), String::new()];
    let stream = stream::unfold((core, told, permit), move |(core, mut told, permit)| async move {
        loop {
            let now = [("state", state(&core)), ("standing", standing(&core))];
            let news = now.into_iter().zip(&mut told).find(|((_, now), last)| *now != **last);
            if let Some(((name, now), last)) = news {
                let event = Event::default().event(name).data(&now);
                *last = now;
                return Some((Ok::<_, Infallible>(event), (core, told, permit)));
            }
            if clock::now() >= ends {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response()
}
