//! Answers of lines that go on with what comes, for as long as whoever asked may read it.

use super::caller::Caller;
use crate::{
    admission::{Class, Party, Place},
    parts::Core,
};
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use std::{io, sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long after a token was struck, or a role was taken away, an answer may go on at most.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Who reads, and how they hear of what comes.
pub(super) struct Following {
    pub(super) core: Arc<Core>,
    caller: Caller,
    follow: bool,
    arrivals: watch::Receiver<u64>,
}

impl Following {
    pub(super) const fn new(
        core: Arc<Core>,
        caller: Caller,
        follow: bool,
        arrivals: watch::Receiver<u64>,
    ) -> Self {
        Self { core, caller, follow, arrivals }
    }

    /// Before each piece is read: what comes in between is waited for in vain no longer than for the next. Whoever has begun
    /// is not sent away any more, and has no more turns than others; the place is let go with the piece.
    ///
    /// # Errors
    /// The caller may not read this any more; the answer breaks off, so that nobody takes it for whole.
    pub(super) async fn begin_piece(&mut self) -> io::Result<Place> {
        let party = Party::Organization(self.caller.organization);
        let place = self.core.admission.enter_in_the_end(Class::Exports, party).await;
        self.arrivals.mark_unchanged();
        if self.caller.is_still_let_in(&self.core) { Ok(place) } else { Err(no_more()) }
    }

    /// Waits for what comes next. `None`: nothing does, and the answer is whole.
    pub(super) async fn more(&mut self) -> Option<io::Result<()>> {
        if !self.follow {
            return None;
        }
        loop {
            match tokio::time::timeout(LOOK_AGAIN, self.arrivals.changed()).await {
                Ok(Ok(())) => return Some(Ok(())),
                Ok(Err(_)) => return None,
                Err(_) if self.caller.is_still_let_in(&self.core) => {}
                Err(_) => return Some(Err(no_more())),
            }
        }
    }
}

fn no_more() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the caller may not read this any more")
}

/// An answer of lines, as they are made.
pub(super) fn lines(
    pieces: impl futures_util::Stream<Item = io::Result<Vec<u8>>> + Send + 'static,
) -> Response {
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
