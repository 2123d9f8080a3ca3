//! Settings of the organization and of this installation, and the tokens that scripts use.

use super::{
    ask::{Api, Done, Refused, send},
    form::{Errors, Field, Kind, OTHER_SESSION, Posted, Values, called, conflict, field, summary},
    lists::Wanted,
    look::{badge, card, card_with_room, code, counted, facts, head, note, time},
    people::not_done,
    shell::{Here, Viewer},
    things::done_note,
    tokens,
};
use crate::{
    api::Permission,
    signer::{RootKeyPlace, root_key_place},
};
use axum::{
    Extension,
    extract::Query,
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::json;
use std::collections::BTreeMap;

const FIELDS: &[&str] = &[
    "name",
    "grant_life_seconds",
    "renew_after_seconds",
    "sign_in_age_seconds",
    "approve_devices",
    "audit_retention_days",
    "flow_retention_days",
];
/// Those that are a number, with what it counts.
const NUMBERS: [(&str, &str); 5] = [
    ("grant_life_seconds", "seconds"),
    ("renew_after_seconds", "seconds"),
    ("sign_in_age_seconds", "seconds"),
    ("audit_retention_days", "days"),
    ("flow_retention_days", "days"),
];

/// The settings as they are stored, with their version.
async fn stored(api: &Api, viewer: &Viewer) -> Result<Values, Refused> {
    let Done { body, version } = send(api, viewer, Method::GET, "/settings", None, None).await?;
    let mut values = Values::default();
    values.set("name", body["name"].as_str().unwrap_or_default());
    for (name, _) in NUMBERS {
        values.set(name, body[name].as_u64().map(|number| number.to_string()).unwrap_or_default());
    }
    values.set("approve_devices", body["approve_devices"].as_bool().unwrap_or_default().to_string());
    values.set("version", version);
    Ok(values)
}

fn not_readable(viewer: &Viewer, refused: &Refused) -> Response {
    not_done(viewer, "The settings cannot be read", refused, "/")
}

pub(super) async fn page(
    api: Extension<Api>,
    viewer: Viewer,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    match stored(&api, &viewer).await {
        Ok(values) => {
            let shown = Shown { wanted: Wanted(wanted), values, ..Shown::default() };
            answer(&viewer, &shown, StatusCode::OK)
        }
        Err(refused) => not_readable(&viewer, &refused),
    }
}

/// The page again, with the form for a token as it was sent and what is wrong with it.
pub(super) async fn with_token(
    api: &Api,
    viewer: &Viewer,
    token: Values,
    token_errors: Errors,
    status: StatusCode,
) -> Response {
    match stored(api, viewer).await {
        Ok(values) => answer(viewer, &Shown { values, token, token_errors, ..Shown::default() }, status),
        Err(refused) => not_readable(viewer, &refused),
    }
}

/// What the page shows besides what is so anyway.
struct Shown {
    wanted: Wanted,
    values: Values,
    errors: Errors,
    /// Both versions, when somebody else saved first.
    conflict: Markup,
    token: Values,
    token_errors: Errors,
}

impl Default for Shown {
    fn default() -> Self {
        Self {
            wanted: Wanted::default(),
            values: Values::default(),
            errors: Errors::default(),
            conflict: html! {},
            token: Values::default(),
            token_errors: Errors::default(),
        }
    }
}

/// What becomes of a device that enrols.
fn approval() -> [(String, String); 2] {
    [("false", "has access at once"), ("true", "waits until somebody approves it")]
        .map(|(value, text)| (value.to_owned(), text.to_owned()))
}

fn fields(approval: &[(String, String)]) -> [Field<'_>; 7] {
    let number = |name, label, hint| Field { name, label, kind: Kind::Number, hint, optional: false };
    [
        Field {
            name: "name",
            label: "Organization",
            kind: Kind::Text,
            hint: "What people see above the navigation.",
            optional: false,
        },
        number(
            "grant_life_seconds",
            "A grant lives, in seconds",
            "3600 (1 h) to 259200 (72 h). So long access goes on without any controller.",
        ),
        number(
            "renew_after_seconds",
            "A device renews its grant after, in seconds",
            "At least 5, and well before the grant ends.",
        ),
        number(
            "sign_in_age_seconds",
            "What takes access away asks for a sign-in not older than, in seconds",
            "60 to 43200 (12 h). Tokens, roles and these settings ask for it too.",
        ),
        Field {
            name: "approve_devices",
            label: "A device that enrols with a link or a code",
            kind: Kind::Choice(approval),
            hint: "It counts for links and codes that are made from now on. Devices that there are stay as they are.",
            optional: false,
        },
        number(
            "audit_retention_days",
            "Audit entries and sign-ins are kept, in days",
            "7 to 36500; 0 keeps audit entries for ever, and sign-ins for as long as there is room. What is older is removed for good: export it first.",
        ),
        number(
            "flow_retention_days",
            "Flow records are kept, in days",
            "1 to 36500; 0 keeps them for as long as there is room.",
        ),
    ]
}

fn answer(viewer: &Viewer, shown: &Shown, status: StatusCode) -> Response {
    let Shown { wanted, values, errors, conflict, .. } = shown;
    let waits = viewer.changes_wait();
    let approval = approval();
    let fields = fields(&approval);
    let labels: Vec<(&'static str, &str)> = fields.iter().map(|field| (field.name, field.label)).collect();
    let status_facts = status_facts(viewer);
    let body = html! {
        (head(&[], "Settings", "Of this organization, and of the controller that you look at.", html! {}))
        (done_note(viewer, wanted))
        div class="grid" {
            div class="stack col-7" {
                form class="card" action="/settings" method="post" novalidate {
                    (viewer.token())
                    input type="hidden" name="version" value=(values.one("version"));
                    div class="card-head" { h2 { "Organization" } }
                    div class="card-body" {
                        (summary(errors, &labels))
                        @for each in &fields { (field(each, values, errors)) }
                    }
                    div class="card-foot" {
                        @if viewer.caller.may(Permission::Settings) { button class="btn btn--primary" type="submit" disabled[waits.is_some()] { "Save" } }
                        @else { span { "Your role reads this and does not change it." } }
                        @if let Some(why) = &waits { span { "Saving waits: " (why) ". What you typed stays here." } }
                    }
                }
                @if viewer.reads("/oidc-providers") {
                    (card("providers", "Sign-in providers", html! { span class="sub" { (viewer.data().sign_in.providers.len()) } }, html! {
                        p class="card-body" { "Who else may say who somebody is: OpenID Connect. " a href="/settings/providers" { "Look at them" } "." }
                    }))
                }
                @if viewer.reads("/tokens") { (tokens::list(viewer, &shown.token, &shown.token_errors)) }
            }
            div class="stack stack--side col-5" {
                (conflict)
                (card_with_room("controller", "This controller", status_facts))
                (root(viewer))
            }
        }
    };
    let wrong = !errors.is_empty() || !shown.token_errors.is_empty();
    viewer.page_with(
        status,
        Here::Settings,
        if wrong { "Error: Settings" } else { "Settings" },
        html! {},
        body,
    )
}

fn status_facts(viewer: &Viewer) -> Markup {
    let core = &viewer.core;
    let (keys_end, alarm) = core.signer.keys_end();
    let trouble = core.database.trouble();
    facts(&[
        ("Address", html! { code { (core.url) } }),
        ("Build", html! { (env!("CARGO_PKG_VERSION")) }),
        (
            "Up for",
            html! { (super::look::age(u64::try_from(core.up_for().as_millis()).unwrap_or(u64::MAX))) },
        ),
        (
            "Database",
            html! { @if let Some(trouble) = &trouble { (badge("stale", "stale", "cannot be used")) " " (trouble) } @else { (badge("ok", "check", "answers")) } },
        ),
        (
            "Signing keys end",
            html! { (time(keys_end, viewer.now)) @if let Some(alarm) = alarm { " " (badge("warn", "warn", alarm)) } },
        ),
        ("Struck now", html! { (counted(core.strikes.set().len(), "subject", "subjects")) }),
        ("Root hash", html! { code { (core.signer.root().to_string()) } }),
        ("Controller", html! { code { (core.signer.controller().to_string()) } }),
        (
            "API",
            html! { a href="/api/" { "Reference" } " · " a href="/api/v1/openapi.json" { "OpenAPI document" } },
        ),
        (
            "Status for everybody",
            html! { a href="/status" { "Status page" } " · " a href="/status.json" { "JSON" } },
        ),
    ])
}

fn root(viewer: &Viewer) -> Markup {
    let place = root_key_place(&viewer.core.state);
    if place == RootKeyPlace::Away {
        return card_with_room(
            "root",
            "Root key",
            html! { p { (badge("ok", "check", "not on this host")) } },
        );
    }
    let exported = place == RootKeyPlace::ExportedAndOnThisHost;
    card_with_room(
        "root",
        "Root key",
        html! {
            (note("note--warn", "key", html! {
                strong { "The root key is " @if exported { "exported and still" } @else { "only" } " on this host." }
                " It is needed to replace signing keys and nothing else. Keep it offline:"
            }))
            div class="mt-2" { (code("Command", html! { "tidegate admin root export FILE --remove" })) }
        },
    )
}

pub(super) async fn save(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let (viewer, values) = (posted.viewer, posted.values);
    let mut errors = Errors::default();
    if !genuine {
        errors.add("", OTHER_SESSION);
        return answer(&viewer, &Shown { values, errors, ..Shown::default() }, StatusCode::CONFLICT);
    }
    let mut body = json!({"name": values.one("name")});
    let got = |name: &str| values.one(name).chars().take(80).collect::<String>();
    for (name, of) in NUMBERS.into_iter().filter(|(name, _)| values.has(name)) {
        match values.one(name).parse::<u64>() {
            Ok(number) => body[name] = number.into(),
            Err(_) => errors.add(name, format!("Expected: a whole number of {of}; got “{}”.", got(name))),
        }
    }
    if values.has("approve_devices") {
        match values.one("approve_devices").parse::<bool>() {
            Ok(waits) => body["approve_devices"] = waits.into(),
            Err(_) => errors.add("approve_devices", "Expected: one of the two."),
        }
    }
    if !errors.is_empty() {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        return answer(&viewer, &Shown { values, errors, ..Shown::default() }, status);
    }
    let now = match stored(&api, &viewer).await {
        Ok(now) => now,
        Err(refused) => return not_readable(&viewer, &refused),
    };
    // The form's version decides, not the one of this moment: what somebody saved meanwhile is seen before it is replaced.
    let version = values.one("version");
    if version != now.one("version") {
        return outdated(&viewer, &now, values);
    }
    match send(&api, &viewer, Method::PATCH, "/settings", Some(&body), Some(version)).await {
        Ok(_) => Redirect::to("/settings?saved=1").into_response(),
        Err(refused) if refused.is_outdated() => match stored(&api, &viewer).await {
            Ok(now) => outdated(&viewer, &now, values),
            Err(refused) => not_readable(&viewer, &refused),
        },
        Err(refused) => {
            let errors = Errors::refused(&refused, FIELDS);
            answer(&viewer, &Shown { values, errors, ..Shown::default() }, refused.http_status())
        }
    }
}

/// Somebody else saved first: what was typed stays, beside what is stored.
fn outdated(viewer: &Viewer, now: &Values, mut values: Values) -> Response {
    let approval = approval();
    let shown = |field: &Field<'_>, values: &Values| match &field.kind {
        Kind::Choice(options) => called(options, values.one(field.name)).to_owned(),
        _ => values.one(field.name).to_owned(),
    };
    let rows: Vec<(&str, String, String)> = fields(&approval)
        .iter()
        .map(|field| (field.label, shown(field, now), shown(field, &values)))
        .collect();
    values.set("version", now.one("version"));
    let mut errors = Errors::default();
    errors.add("", "Somebody changed this while you were editing. Both versions are beside the form.");
    let shown = Shown { values, errors, conflict: conflict(&rows), ..Shown::default() };
    answer(viewer, &shown, StatusCode::PRECONDITION_FAILED)
}
