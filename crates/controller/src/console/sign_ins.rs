//! The authentication log: who signed in, how, from where, and what came of it. It is this controller's own.

use super::{
    ask::{Api, send},
    audit::tabs,
    lists::{Wanted, filter, log_foot},
    look::{Row, badge, counted, empty, exact_time, head, plain_badge, table, typed},
    shell::{Here, Viewer, encode},
};
use crate::signin::Outcome;
use axum::{Extension, extract::Query, response::Response};
use http::Method;
use maud::{Markup, html};
use serde_json::Value;
use std::collections::BTreeMap;
use trust::UnixMs;

/// Entries of a page.
const PER_PAGE: usize = 200;
pub(super) const PATH: &str = "/audit/sign-ins";

/// How an outcome is called where people read.
const fn title(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::SignedIn => "Signed in",
        Outcome::FirstFactor => "First factor",
        Outcome::Wrong => "Wrong",
        Outcome::Limited => "Too many tries",
        Outcome::Refused => "Refused",
        Outcome::SignedOut => "Signed out",
        Outcome::ProviderFailed => "Provider failed",
    }
}

fn shown(word: &str) -> Markup {
    let known = Outcome::ALL.into_iter().find(|outcome| outcome.word() == word);
    match known {
        Some(outcome @ Outcome::SignedIn) => badge("ok", "check", title(outcome)),
        Some(outcome @ (Outcome::Wrong | Outcome::Refused)) => badge("denied", "cross", title(outcome)),
        Some(outcome @ (Outcome::Limited | Outcome::ProviderFailed)) => badge("warn", "warn", title(outcome)),
        Some(outcome @ (Outcome::FirstFactor | Outcome::SignedOut)) => plain_badge(title(outcome)),
        None => plain_badge(word),
    }
}

fn row(viewer: &Viewer, entry: &Value) -> Row {
    let text = |name: &str| entry[name].as_str().unwrap_or_default();
    let at = UnixMs::from_millis(entry["at_ms"].as_u64().unwrap_or(0));
    let who = html! {
        @match (entry["user"].as_str(), entry["user_name"].as_str()) {
            (Some(id), Some(name)) => a href={ "/people/" (id) } { (typed(name)) },
            (Some(id), None) => { span class="quiet" { "removed" } span class="sub" { code { (id) } } },
            (None, _) => span class="quiet" { "nobody known" },
        }
    };
    let how = text("method").replace('+', " + ");
    Row::new(
        exact_time(at, viewer.now),
        vec![
            who,
            shown(text("outcome")),
            html! { (how) },
            html! { a href={ (PATH) "?q=" (encode(text("address"))) } { span class="mono wrap-any" { (text("address")) } } },
            html! { span class="wrap-any sm" { (typed(text("detail"))) } },
        ],
    )
}

pub(super) async fn page(
    api: Extension<Api>,
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let mut path = format!("/authentication-log?limit={PER_PAGE}");
    for name in ["q", "outcome", "user", "after"] {
        if !wanted.get(name).is_empty() {
            path.push_str(&format!("&{name}={}", encode(wanted.get(name))));
        }
    }
    let read = send(&api, &viewer, Method::GET, &path, None, None).await;
    let filtered = wanted.narrows(&["after"]);
    let mut outcomes = vec![(String::new(), "Every outcome".to_owned())];
    outcomes.extend(Outcome::ALL.map(|outcome| (outcome.word().to_owned(), title(outcome).to_owned())));
    let columns =
        &[("Time", "nowrap"), ("Who", ""), ("Outcome", ""), ("How", ""), ("From", ""), ("Details", "low")];
    let body = html! {
        (head(&[], "Sign-ins", "Who signed in, how, from where, and what came of it, newest first. It is the log of this controller and needs no database.", html! {}))
        (tabs(&viewer, PATH))
        section class="card card--clip" aria-label="Sign-ins" {
            form class="filters" action=(PATH) role="search" {
                input class="input" type="search" name="q" value=(wanted.get("q")) placeholder="Person, address or method" aria-label="Person, address or method" dir="auto" maxlength="200";
                (filter("outcome", "Outcome", wanted.get("outcome"), &outcomes))
                @if !wanted.get("user").is_empty() { input type="hidden" name="user" value=(wanted.get("user")); }
                button class="btn btn--sm" type="submit" { "Filter" }
                @if filtered { a class="btn btn--quiet btn--sm" href=(PATH) { "Clear" } }
            }
            @match &read {
                Err(refused) => (empty("The log cannot be read", refused.sentence_of_read(), html! {})),
                Ok(done) => {
                    @let rows: Vec<Row> = done.body["items"].as_array().into_iter().flatten().map(|entry| row(&viewer, entry)).collect();
                    @if rows.is_empty() {
                        @if filtered || !wanted.get("after").is_empty() {
                            (empty("Nothing fits", "Nothing of what this controller still has. The oldest entries make room for new ones.", html! { a class="btn" href=(PATH) { "Show all" } }))
                        } @else {
                            (empty("Nobody signed in yet", "Each try is here, also one that failed. What a stranger typed as a name is not kept.", html! {}))
                        }
                    } @else {
                        (table("Sign-ins", columns, &rows))
                        (log_foot(&wanted, PATH, &counted(rows.len(), "entry", "entries"), done.body["next"].as_str()))
                    }
                },
            }
        }
    };
    viewer.page(Here::Audit, "Sign-ins", body)
}
