//! Logs as lines of JSON: as they are sent, and on with what comes.

use super::{in_query, refused};
use crate::output::{CommandResult, Outcome, print_line};
use enrol::{ApiClient, ApiError};
use serde_json::Value;
use std::time::Duration;

/// How long to wait before an ended connection is made again.
const AGAIN: Duration = Duration::from_secs(2);

/// Prints what a path gives until it ends; `take` learns from each line where the next export goes on.
async fn print(
    api: &ApiClient,
    path: impl Fn() -> String,
    mut take: impl FnMut(&Value),
    follow: bool,
) -> CommandResult {
    loop {
        let mut lines = match api.lines(&path()).await {
            Ok(lines) => lines,
            // The controller starts again: what comes is not lost.
            Err(ApiError::Http(_)) if follow => {
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            Err(error) => return Err(refused(error)),
        };
        loop {
            match lines.next().await {
                Ok(Some(line)) => {
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
