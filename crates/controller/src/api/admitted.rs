//! A place for each request of the API, by its class, before its handler works ([`crate::admission`]).

use super::{
    bulk,
    caller::{Caller, InProcess, Who, is_read, strikes, template},
    problem::{MAX_BODY, Outcome, Problem},
    request,
};
use crate::{
    admission::{Class, Full, Party},
    parts::Core,
};
use axum::{
    body::{Body, HttpBody as _},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{Method, StatusCode};
use std::sync::Arc;

/// What reads the database or the disk, and much of it.
const LOGS: &[&str] = &[
    "/audit",
    "/audit/export",
    "/audit/verification",
    "/authentication-log",
    "/authentication-log/export",
    "/flows",
    "/flows/export",
];

/// The class of an endpoint; `template` is its path below `/api/v1`, parameters in braces.
fn class_of(method: &Method, template: &str) -> Class {
    if template == "/bulk" || template == "/restores" {
        Class::Bulk
    } else if LOGS.contains(&template) {
        Class::Exports
    } else if is_read(method, template) {
        Class::Reads
    } else if strikes(method, template) {
        Class::Strikes
    } else {
        Class::Changes
    }
}

/// A request that found no place.
pub(crate) fn busy(class: Class, full: Full) -> Problem {
    let word = class.word();
    let mut problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "More is asked than this controller serves at once",
        format!("more requests of the class {word} came than are served at once, and nothing was done"),
    );
    problem.retry_after = Some(full.retry_after.as_secs().max(1));
    problem.rule = Some(format!("a place among the {word}"));
    if matches!(class, Class::Strikes | Class::Enrolment | Class::Changes | Class::Bulk) {
        problem.outcome = Some(Outcome::NotDone);
    }
    problem
}

/// Reads a body of at most so many bytes before a place is taken: one that drips in holds none.
pub(crate) async fn whole(request: Request, most: usize) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    if matches!(parts.method, Method::GET | Method::HEAD) || body.is_end_stream() {
        return Ok(Request::from_parts(parts, body));
    }
    let bytes = axum::body::to_bytes(body, most).await;
    let bytes = bytes.map_err(|error| request::unread(&error, &parts.headers, most))?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Finds a place for a request, or says when to come back.
///
/// The host's own socket is not among those who wait: whoever operates the controller gets in. What the console asks in this
/// process has the place of its page.
pub(super) async fn admitted(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>() else { return next.run(request).await };
    let party = Party::Organization(caller.organization);
    let is_local = caller.who == Who::Local;
    let of_page = request.extensions().get::<InProcess>().is_some();
    let mut class = class_of(request.method(), template(&request));
    if is_local || (of_page && matches!(class, Class::Reads | Class::Exports)) {
        return next.run(request).await;
    }
    let is_long = request.body().size_hint().upper().is_none_or(|length| length > MAX_BODY as u64);
    let mut request = request;
    // A large bulk takes its place first, for its body takes memory.
    if class != Class::Bulk || !is_long {
        request = match whole(request, MAX_BODY).await {
            Ok(request) => request,
            Err(problem) => return problem.into_response(),
        };
    }
    if class == Class::Bulk && !is_long {
        let (parts, body) = request.into_parts();
        // It was read above, and is there.
        let bytes = axum::body::to_bytes(body, MAX_BODY).await.unwrap_or_default();
        if bulk::only_strikes(&bytes) {
            class = Class::Strikes;
        }
        request = Request::from_parts(parts, Body::from(bytes));
    }
    match core.admission.enter(class, party).await {
        Ok(_place) => next.run(request).await,
        Err(full) => busy(class, full).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_access_away_waits_behind_nothing_else() {
        for (method, path, expected) in [
            (Method::POST, "/strikes", Class::Strikes),
            (Method::DELETE, "/users/{id}", Class::Strikes),
            (Method::POST, "/devices/{id}/block", Class::Strikes),
            (Method::POST, "/devices/{id}/approve", Class::Changes),
            (Method::PUT, "/policies/{id}", Class::Changes),
            (Method::POST, "/policies/preview", Class::Reads),
            (Method::GET, "/policies", Class::Reads),
            (Method::GET, "/status", Class::Reads),
            (Method::POST, "/bulk", Class::Bulk),
            (Method::GET, "/audit", Class::Exports),
            (Method::GET, "/flows/export", Class::Exports),
        ] {
            assert_eq!(class_of(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn every_path_of_the_table_of_logs_is_one_of_the_api() {
        let document: serde_json::Value = serde_json::from_str(&super::super::openapi_json()).unwrap();
        for path in LOGS {
            assert!(document["paths"][format!("/api/v1{path}")]["get"].is_object(), "{path}");
        }
    }
}
