//! Settings of the organization and of this installation, and the tokens that scripts use.

use super::{
    ask::{Api, Done, Refused, send},
    form::{Errors, Field, Kind, OTHER_SESSION, Posted, Values, conflict, field, summary},
    lists::Wanted,
    look::{
        Row, badge, card, card_with_room, code, counted, empty, facts, head, icon, note, parsed, plain_badge,
        said, table, thin, time, typed,
    },
    people::not_done,
    shell::{Here, Viewer},
    things::done_note,
};
use crate::{
    api::Permission,
    signer::{RootKeyPlace, root_key_place},
};
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderValue, Method, StatusCode, header};
use maud::{Markup, html};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use trust::{RevokedSubject, UnixMs};

const FIELDS: &[&str] = &["name", "grant_life_seconds", "renew_after_seconds", "sign_in_age_seconds"];
const SECONDS: [&str; 3] = ["grant_life_seconds", "renew_after_seconds", "sign_in_age_seconds"];
/// Tokens that are shown here.
const MOST_TOKENS: usize = 100;
const SCOPES: &[(&str, &str)] = &[
    ("read", "read everything of the organization"),
    ("write", "change what the organization has"),
    ("strike", "revoke"),
    ("enrol", "make enrolment keys"),
    ("installation", "change what the installation has: PoPs, tokens, organizations"),
];

/// The settings as they are stored, with their version.
async fn stored(api: &Api, viewer: &Viewer) -> Result<Values, Refused> {
    let Done { body, version } = send(api, viewer, Method::GET, "/settings", None, None).await?;
    let mut values = Values::default();
    values.set("name", body["name"].as_str().unwrap_or_default());
    for name in SECONDS {
        values.set(name, body[name].as_u64().map(|seconds| seconds.to_string()).unwrap_or_default());
    }
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

fn fields() -> [Field<'static>; 4] {
    let seconds = |name, label, hint| Field { name, label, kind: Kind::Number, hint, optional: false };
    [
        Field {
            name: "name",
            label: "Organization",
            kind: Kind::Text,
            hint: "What people see above the navigation.",
            optional: false,
        },
        seconds(
            "grant_life_seconds",
            "A grant lives, in seconds",
            "3600 (1 h) to 259200 (72 h). So long access goes on without any controller.",
        ),
        seconds(
            "renew_after_seconds",
            "A device renews its grant after, in seconds",
            "At least 5, and well before the grant ends.",
        ),
        seconds(
            "sign_in_age_seconds",
            "What takes access away asks for a sign-in not older than, in seconds",
            "60 to 43200 (12 h). Tokens, roles and these settings ask for it too.",
        ),
    ]
}

fn answer(viewer: &Viewer, shown: &Shown, status: StatusCode) -> Response {
    let Shown { wanted, values, errors, conflict, .. } = shown;
    let waits = viewer.changes_wait();
    let fields = fields();
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
                @if viewer.reads("/tokens") { (tokens(viewer, &shown.token, &shown.token_errors)) }
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
        ("API", html! { a href="/api/v1/openapi.json" { "OpenAPI document" } }),
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

fn tokens(viewer: &Viewer, typed_token: &Values, errors: &Errors) -> Markup {
    let may_change = viewer.offers("/settings/tokens");
    let struck = viewer.core.strikes.set();
    let all = viewer.data().tokens.len();
    let rows: Vec<Row> = viewer
        .data()
        .tokens
        .iter()
        .take(MOST_TOKENS)
        .map(|token| {
            let state = if struck.is_struck(RevokedSubject::Token(token.id), 1) {
                badge("denied", "strike", "revoked")
            } else if token.expires_ms <= viewer.now.as_millis() {
                plain_badge("expired")
            } else {
                badge("ok", "check", "works")
            };
            Row::new(html! { (typed(&token.name)) span class="sub" { (token.scopes.join(", ")) } }, vec![
                state,
                time(UnixMs::from_millis(token.expires_ms), viewer.now),
                html! { @if may_change { div { form method="post" action={ "/settings/tokens/" (token.id) "/remove" } { (viewer.token()) button class="btn btn--sm btn--danger" type="submit" aria-label={ "Remove the token " (token.name) } { "Remove" } } } } },
            ])
        })
        .collect();
    card(
        "tokens",
        "API tokens",
        html! { span class="sub" { (rows.len()) @if rows.len() < all { " of " (thin(all as u64)) } } },
        html! {
            @if rows.is_empty() { (empty("No tokens yet", "A script signs in with a token. It has scopes, an end, and is shown once.", html! {})) }
            @else { (table("API tokens", &[("Token", ""), ("State", ""), ("Until", "nowrap"), ("Actions", "row-actions")], &rows)) }
            @if rows.len() < all { p class="card-foot" { "All of them: " code { "tidegate admin list tokens --all" } } }
            @if may_change { (token_form(viewer, typed_token, errors)) }
        },
    )
}

/// The form for one more token. Its name has an id of its own: the organization's is on the same page.
fn token_form(viewer: &Viewer, values: &Values, errors: &Errors) -> Markup {
    let waits = viewer.changes_wait();
    let chosen = values.all("scopes");
    let is_first_time = values.iter().next().is_none();
    let wrong = |field: &str| errors.of(field).map(|text| (format!("{field}-error"), text.to_owned()));
    let (name_error, scopes_error) = (wrong("token_name"), wrong("scopes"));
    let said = |error: &Option<(String, String)>| {
        html! { @if let Some((id, text)) = error { p class="error" id=(id) { (icon("warn")) span { (text) } } } }
    };
    html! {
        form class="card-body card-body--top" method="post" action="/settings/tokens" novalidate {
            (viewer.token())
            (summary(errors, &[("token_name", "Name of a new token"), ("scopes", "It may")]))
            div class="field" {
                label for="token_name" { "Name of a new token" }
                input class="input" id="token_name" name="name" value=(values.one("name")) autocomplete="off" dir="auto" aria-invalid=[name_error.as_ref().map(|_| "true")] aria-describedby=[name_error.as_ref().map(|(id, _)| id)];
                (said(&name_error))
            }
            fieldset class="field" id="scopes" tabindex="-1" aria-describedby=[scopes_error.as_ref().map(|(id, _)| id)] {
                legend { "It may" }
                @for (index, (scope, text)) in SCOPES.iter().enumerate() {
                    label class="check" { input type="checkbox" name="scopes" value=(scope) checked[if is_first_time { index == 0 } else { chosen.contains(scope) }]; span { (scope) span { (text) } } }
                }
                (said(&scopes_error))
            }
            div class="actions mt-4" { button class="btn" type="submit" disabled[waits.is_some()] { (icon("key")) "Make a token" } }
        }
    }
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
    for name in SECONDS.into_iter().filter(|name| values.has(name)) {
        match values.one(name).parse::<u64>() {
            Ok(seconds) => body[name] = seconds.into(),
            Err(_) => errors.add(
                name,
                format!(
                    "Expected: a whole number of seconds; got “{}”.",
                    values.one(name).chars().take(80).collect::<String>()
                ),
            ),
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
    let rows: Vec<(&str, String, String)> = fields()
        .iter()
        .map(|field| (field.label, now.one(field.name).to_owned(), values.one(field.name).to_owned()))
        .collect();
    values.set("version", now.one("version"));
    let mut errors = Errors::default();
    errors.add("", "Somebody changed this while you were editing. Both versions are beside the form.");
    let shown = Shown { values, errors, conflict: conflict(&rows), ..Shown::default() };
    answer(viewer, &shown, StatusCode::PRECONDITION_FAILED)
}

/// What is wrong with a token's form, at the ids that its fields have on this page.
fn token_errors(refused: &Refused) -> Errors {
    let found = Errors::refused(refused, &["name", "scopes"]);
    let mut errors = Errors::default();
    for (field, here) in [("name", "token_name"), ("scopes", "scopes"), ("", "")] {
        if let Some(text) = found.of(field) {
            errors.add(here, text);
        }
    }
    errors
}

pub(super) async fn make_token(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let (viewer, values) = (posted.viewer, posted.values);
    if !genuine {
        return Redirect::to("/settings").into_response();
    }
    let body = json!({"name": values.one("name"), "scopes": values.all("scopes")});
    let made: Result<Value, Refused> =
        send(&api, &viewer, Method::POST, "/tokens", Some(&body), None).await.map(|done| done.body);
    let made = match made {
        Ok(made) => made,
        Err(refused) => {
            return match stored(&api, &viewer).await {
                Ok(settings) => {
                    let token_errors = token_errors(&refused);
                    let shown = Shown { values: settings, token: values, token_errors, ..Shown::default() };
                    answer(&viewer, &shown, refused.http_status())
                }
                Err(unread) => not_readable(&viewer, &unread),
            };
        }
    };
    let until = parsed(made["description"]["expires"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let page = html! {
        (head(&[("/settings", "Settings")], html! { "The token " (typed(values.one("name"))) }, html! { "It works until " (said(until, viewer.now)) ". It is shown only now; only its hash is kept." }, html! {}))
        (code("Token", html! { (made["token"].as_str().unwrap_or_default()) }))
        p class="hint mt-4" { "Send it as " code { "Authorization: Bearer …" } ", from a file or a secret store; not in a command’s arguments." }
        div class="actions mt-4" { a class="btn" href="/settings" { "I have stored it" } }
    };
    let mut answer = viewer.refreshed().page(Here::Settings, "A new token", page);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

pub(super) async fn remove_token(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    if !posted.is_genuine() {
        return Redirect::to("/settings").into_response();
    }
    let path = format!("/tokens/{}", super::shell::encode(&id).replace('/', "%2F"));
    match send(&api, &posted.viewer, Method::DELETE, &path, None, None).await {
        Ok(_) => Redirect::to("/settings?removed=1").into_response(),
        Err(refused) => not_done(&posted.viewer, "The token was not removed", &refused, "/settings"),
    }
}
