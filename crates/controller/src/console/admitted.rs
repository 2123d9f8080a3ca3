//! A place for each page, by its class, before it is drawn ([`crate::admission`]). What a form changes has its place at the API.

use crate::{
    admission::{Class, Full, Party},
    api::{self, Peer},
    limiter,
    parts::Core,
    signin::{self, session},
};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use std::sync::Arc;

/// What reads the database or the disk, and much of it.
const LOGS: &[&str] = &["/audit", "/audit/sign-ins", "/flows"];
/// What costs nothing, or lasts.
const FREE: &[&str] = &["/events", "/favicon.ico", "/favicon.svg", "/banner"];

fn class_of(method: &Method, path: &str) -> Option<Class> {
    let is_file = path.starts_with("/assets/");
    if !matches!(*method, Method::GET | Method::HEAD) || FREE.contains(&path) || is_file {
        None
    } else if LOGS.contains(&path) {
        Some(Class::Exports)
    } else {
        Some(Class::Reads)
    }
}

pub(super) async fn admitted(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let Some(class) = class_of(request.method(), request.uri().path()) else {
        return next.run(request).await;
    };
    let organization = session::organization(&core, request.headers());
    let from = request.extensions().get::<Peer>().copied();
    let party = match (organization, from) {
        (Some(organization), _) => Party::Organization(organization),
        (None, Some(Peer::Network(from))) => Party::Source(limiter::party(from)),
        (None, Some(Peer::Local { .. }) | None) => Party::Local,
    };
    let (headers, address) = (request.headers().clone(), request.uri().clone());
    match core.admission.enter(class, party).await {
        Ok(_place) => next.run(request).await,
        Err(full) => busy(class, full, &headers, &address),
    }
}

fn busy(class: Class, full: Full, headers: &HeaderMap, address: &Uri) -> Response {
    let seconds = full.retry_after.as_secs().max(1);
    if address.path().ends_with(".json") {
        return api::busy(class, full).into_response();
    }
    let text = format!(
        "More is asked of this controller than it serves at once. Devices, connectors and revocations are not slowed by that; \
         this page is drawn when you load it again in {seconds} s."
    );
    let mut answer = signin::busy_page(headers, &text, &address.to_string());
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_places_logs_have_others_and_files_have_none() {
        for (method, path, expected) in [
            (Method::GET, "/", Some(Class::Reads)),
            (Method::GET, "/devices/dev-1", Some(Class::Reads)),
            (Method::GET, "/audit", Some(Class::Exports)),
            (Method::GET, "/flows", Some(Class::Exports)),
            (Method::POST, "/devices/dev-1/block", None),
            (Method::GET, "/events", None),
            (Method::GET, "/assets/console-0123.css", None),
        ] {
            assert_eq!(class_of(&method, path), expected, "{method} {path}");
        }
    }
}
