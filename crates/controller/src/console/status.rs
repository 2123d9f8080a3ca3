//! The status page for everybody: whether access works and whether changes can be saved, without a name of anything.

use super::{
    assets::{STYLE_SHEET, sprite},
    look::{badge, said, sized_icon, wave},
    shell::millis_between,
};
use crate::{api, clock, parts::Core, signin::session};
use axum::{
    Json,
    extract::State,
    response::{Html, IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use std::sync::Arc;

/// How one part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Works {
    #[serde(rename = "works")]
    Yes,
    Paused,
    Stopped,
}

#[derive(Debug, Serialize)]
struct Part {
    name: &'static str,
    about: &'static str,
    state: Works,
}

#[derive(Debug, Serialize)]
struct Status {
    /// The sentence.
    summary: &'static str,
    /// What people can do.
    access: Works,
    /// What administrators can do.
    changes: Works,
    components: Vec<Part>,
    /// When this was looked at.
    at: String,
    /// How old the configuration is that is served, in seconds; 0 when it is current.
    snapshot_age_seconds: u64,
}

fn status(core: &Core) -> Status {
    let saving = if core.database.trouble().is_some() || core.signer.signing_time().is_err() {
        Works::Paused
    } else {
        Works::Yes
    };
    let renewing = if core.withheld().is_some() || core.signer.signing_time().is_err() {
        Works::Paused
    } else {
        Works::Yes
    };
    let pops = core.snapshot().dataset.pops.len();
    let hears = core.presence().attached_pops().len();
    // What a PoP does goes on without this controller: it is not known from here, and not called broken.
    let registration = if pops > 0 && hears == 0 { Works::Stopped } else { Works::Yes };
    let access = registration;
    let summary = match (access, saving) {
        (Works::Yes, Works::Yes) => "Access works. So does everything else.",
        (Works::Yes, _) => "Access works. Saving changes is paused.",
        _ => "No PoP hears this controller.",
    };
    Status {
        summary,
        access,
        changes: saving,
        components: vec![
            Part {
                name: "Access",
                about: "running and new connections of devices that hold a grant",
                state: access,
            },
            Part {
                name: "Registration at PoPs",
                about: "as PoPs that hear this controller say",
                state: registration,
            },
            Part {
                name: "Renewal and sign-in of known devices",
                about: "from memory, without the database",
                state: renewing,
            },
            Part { name: "Console and API, reading", about: "from memory", state: Works::Yes },
            Part { name: "Console and API, saving", about: "needs the database", state: saving },
            Part { name: "Enrolment of new devices and people", about: "needs the database", state: saving },
            Part { name: "Revoking", about: "needs no database", state: Works::Yes },
        ],
        at: api::rfc3339(clock::wall()),
        snapshot_age_seconds: core.snapshot_age().as_secs(),
    }
}

fn shown_state(state: Works) -> Markup {
    match state {
        Works::Yes => badge("ok", "check", "works"),
        Works::Paused => badge("warn", "warn", "paused"),
        Works::Stopped => badge("bad", "cross", "not heard of"),
    }
}

pub(super) async fn json(State(core): State<Arc<Core>>) -> Response {
    let mut answer = Json(status(&core)).into_response();
    answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}

pub(super) async fn page(State(core): State<Arc<Core>>, headers: HeaderMap) -> Response {
    let status = status(&core);
    let now = clock::wall();
    let name = core
        .snapshot()
        .dataset
        .organizations
        .first()
        .map(|data| data.organization.name.clone())
        .unwrap_or_default();
    let class = match (status.access, status.changes) {
        (Works::Yes, Works::Yes) => "health",
        (Works::Yes, _) => "health health--stale",
        _ => "health health--bad",
    };
    let age = millis_between(now, core.snapshots.verified_at());
    let shown = html! {
        a class="skip" href="#main" { "Skip to content" }
        header class="public-head" { div {
            a class="brand" href="/status" { (sized_icon("mark", "mark")) (name) " access" }
            nav aria-label="Account" { a href="/signin" { "Sign in" } }
        } }
        main id="main" tabindex="-1" {
            div class=(class) {
                (sized_icon("health-gate", if status.access == Works::Stopped { "gate-shut" } else { "gate-open" }))
                div {
                    h1 { (status.summary) }
                    p { "If your device was connected before, it stays connected. Seen by this controller at " (said(now, now)) " UTC."
                        @if status.snapshot_age_seconds > 0 { " Its configuration is " (super::look::age(age)) " old." } }
                }
            }
            (wave("waterline", "wave"))
            section class="card card--clip" aria-labelledby="parts" {
                div class="card-head" { h2 id="parts" { "Components" } span class="sub" { "now" } }
                @for part in &status.components {
                    div class="uptime" { div class="uptime-head" { b { (part.name) } span { (part.about) } (shown_state(part.state)) } }
                }
            }
        }
        footer class="public-foot" {
            span { "This page is served from memory and needs no database. It says what this controller sees; it keeps no history." }
            a href="/status.json" { "JSON" }
        }
    }
    .into_string();
    let theme = session::theme(&headers);
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[(!theme.is_empty()).then_some(theme)] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="description" content="Whether access works right now";
                link rel="stylesheet" href=(STYLE_SHEET.path);
                link rel="icon" href="/favicon.svg" type="image/svg+xml";
                title { "Status · Tidegate" }
            }
            body class="public" { (PreEscaped(sprite(&shown))) (PreEscaped(shown)) }
        }
    };
    Html(page.into_string()).into_response()
}
