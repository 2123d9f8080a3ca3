//! Logs as lines of JSON: as they are sent, and on with what comes.

use super::{in_query, refused};
use crate::output::{CommandResult, Outcome, note, print_line};
use enrol::{ApiClient, ApiError};
use http::StatusCode;
use serde_json::Value;
use std::time::Duration;

/// How long to wait before an ended connection is made again.
const AGAIN: Duration = Duration::from_secs(2);
/// And how long at most, whatever the controller asks for: who follows a log waits for what comes.
const LONGEST: Duration = Duration::from_secs(30);

/// How long to wait before it is asked again; none where asking again brings nothing else.
fn pause(error: &ApiError) -> Option<Duration> {
    match error {
        // The controller starts again: what comes is not lost.
        ApiError::Http(_) => Some(AGAIN),
        // Its database does not answer now, it is asked too much, or a proxy in front of it waits for it: none is for long.
        ApiError::Refused { status, problem }
            if matches!(
                *status,
                StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::TOO_MANY_REQUESTS
                    | StatusCode::BAD_GATEWAY
                    | StatusCode::GATEWAY_TIMEOUT
            ) =>
        {
            Some(Duration::from_secs(problem.retry_after.unwrap_or_default()).clamp(AGAIN, LONGEST))
        }
        _ => None,
    }
}

/// Prints what a path gives until it ends; `take` learns from each line where the next export goes on.
async fn print(
    api: &ApiClient,
    path: impl Fn() -> String,
    mut take: impl FnMut(&Value),
    follow: bool,
) -> CommandResult {
    // Once for each time that nothing comes.
    let mut is_said = false;
    loop {
        let mut lines = match api.lines(&path()).await {
            Ok(lines) => lines,
            Err(error) => {
                let Some(pause) = pause(&error).filter(|_| follow) else { return Err(refused(error)) };
                if !is_said {
                    note(&format!("Nothing comes now, and it is asked for again until it does: {error}"));
                    is_said = true;
                }
                tokio::time::sleep(pause).await;
                continue;
            }
        };
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
                    is_said = false;
                    if let Ok(value) = serde_json::from_str(&line) {
                        take(&value);
                    }
                    print_line(&line);
                }
                Ok(None) => break,
                Err(_) if follow => break,
                Err(error) => return Err(refused(error.into())),
            }
        }
        if !follow {
            return Ok(Outcome::Done);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The audit log.
pub(super) async fn audit(api: &ApiClient, after: u64, installation: bool, follow: bool) -> CommandResult {
    let from = std::cell::Cell::new(after);
    let path =
        || format!("/api/v1/audit/export?after={}&installation={installation}&follow={follow}", from.get());
    print(api, path, |line| from.set(line["seq"].as_u64().unwrap_or(from.get())), follow).await
}

/// The flow log.
pub(super) async fn flows(
    api: &ApiClient,
    after: Option<String>,
    verdict: Option<&str>,
    follow: bool,
) -> CommandResult {
    let verdict = verdict.map(|verdict| format!("&verdict={}", in_query(verdict))).unwrap_or_default();
    from_place(api, &format!("/api/v1/flows/export?follow={follow}{verdict}"), after, follow).await
}

/// The log of sign-ins.
pub(super) async fn sign_ins(api: &ApiClient, after: Option<String>, follow: bool) -> CommandResult {
    from_place(api, &format!("/api/v1/authentication-log/export?follow={follow}"), after, follow).await
}

/// Lines that each say their place.
async fn from_place(api: &ApiClient, export: &str, after: Option<String>, follow: bool) -> CommandResult {
    let from = std::cell::RefCell::new(after);
    let path = || {
        let after =
            from.borrow().as_deref().map(|place| format!("&after={}", in_query(place))).unwrap_or_default();
        format!("{export}{after}")
    };
    let take = |line: &Value| {
        if let Some(place) = line["place"].as_str() {
            *from.borrow_mut() = Some(place.to_owned());
        }
    };
    print(api, path, take, follow).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use enrol::Problem;

    #[test]
    fn who_follows_a_log_waits_for_a_database_and_not_for_a_permission() {
        let refused = |status: StatusCode, retry_after: Option<u64>| {
            let problem = Box::new(Problem { retry_after, ..Problem::default() });
            pause(&ApiError::Refused { status, problem })
        };
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, None), Some(AGAIN));
        assert_eq!(refused(StatusCode::SERVICE_UNAVAILABLE, Some(5)), Some(Duration::from_secs(5)));
        assert_eq!(refused(StatusCode::TOO_MANY_REQUESTS, Some(86_400)), Some(LONGEST));
        assert_eq!(refused(StatusCode::FORBIDDEN, None), None);
        assert_eq!(refused(StatusCode::NOT_FOUND, Some(1)), None);
    }
}
