//! Settings of the organization and of this installation, and the tokens that scripts use.

use super::{
    ask::{Api, Done, Refused, send},
    form::{Errors, Field, Kind, OTHER_SESSION, Posted, Values, field, summary},
    lists::Wanted,
    look::{
        Row, badge, card, card_with_room, code, counted, empty, facts, head, icon, note, parsed, plain_badge,
        said, table, time, typed,
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
const SCOPES: &[(&str, &str)] = &[
    ("read", "read everything of the organization"),
    ("write", "change what the organization has"),
    ("strike", "revoke"),
    ("enrol", "make enrolment keys"),
    ("installation", "change what the installation has: PoPs, tokens, organizations"),
];

pub(super) async fn page(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let row = &viewer.data().organization;
    let mut values = Values::default();
    values.set("name", row.name.clone());
    values.set("grant_life_seconds", (row.grant_life_ms / 1000).to_string());
    values.set("renew_after_seconds", (row.renew_after_ms / 1000).to_string());
    values.set("sign_in_age_seconds", (row.sign_in_age_ms / 1000).to_string());
    answer(&viewer, &Wanted(wanted), &values, &Errors::default(), StatusCode::OK)
}

fn answer(
    viewer: &Viewer,
    wanted: &Wanted,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
) -> Response {
    let waits = viewer.changes_wait();
    let fields = [
        Field {
            name: "name",
            label: "Organization",
            kind: Kind::Text,
            hint: "What people see above the navigation.",
            optional: false,
        },
        Field {
            name: "grant_life_seconds",
            label: "A grant lives, in seconds",
            kind: Kind::Number,
            hint: "3600 (1 h) to 259200 (72 h). So long access goes on without any controller.",
            optional: false,
        },
        Field {
            name: "renew_after_seconds",
            label: "A device renews its grant after, in seconds",
            kind: Kind::Number,
            hint: "At least 5, and well before the grant ends.",
            optional: false,
        },
        Field {
            name: "sign_in_age_seconds",
            label: "What takes access away asks for a sign-in not older than, in seconds",
            kind: Kind::Number,
            hint: "60 to 43200 (12 h). Tokens, roles and these settings ask for it too.",
            optional: false,
        },
    ];
    let labels: Vec<(&'static str, &str)> = fields.iter().map(|field| (field.name, field.label)).collect();
    let status_facts = status_facts(viewer);
    let body = html! {
        (head(&[], "Settings", "Of this organization, and of the controller that you look at.", html! {}))
        (done_note(viewer, wanted))
        div class="grid" {
            div class="stack col-7" {
                form class="card" action="/settings" method="post" novalidate {
                    (viewer.token())
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
                @if viewer.reads("/tokens") { (tokens(viewer)) }
            }
            div class="stack stack--side col-5" {
                (card_with_room("controller", "This controller", status_facts))
                (root(viewer))
            }
        }
    };
    viewer.page_with(status, Here::Settings, "Settings", html! {}, body)
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

fn tokens(viewer: &Viewer) -> Markup {
    let waits = viewer.changes_wait();
    let may_change = viewer.offers("/settings/tokens");
    let struck = viewer.core.strikes.set();
    let rows: Vec<Row> = viewer
        .data()
        .tokens
        .iter()
        .take(100)
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
        html! { span class="sub" { (rows.len()) } },
        html! {
            @if rows.is_empty() { (empty("No tokens yet", "A script signs in with a token. It has scopes, an end, and is shown once.", html! {})) }
            @else { (table("API tokens", &[("Token", ""), ("State", ""), ("Until", "nowrap"), ("Actions", "row-actions")], &rows)) }
            @if may_change { form class="card-body card-body--top" method="post" action="/settings/tokens" {
                (viewer.token())
                div class="field" { label for="token_name" { "Name of a new token" } input class="input" id="token_name" name="name" autocomplete="off" maxlength="64" required; }
                fieldset class="field" {
                    legend { "It may" }
                    @for (index, (scope, text)) in SCOPES.iter().enumerate() {
                        label class="check" { input type="checkbox" name="scopes" value=(scope) checked[index == 0]; span { (scope) span { (text) } } }
                    }
                }
                div class="actions mt-4" { button class="btn" type="submit" disabled[waits.is_some()] { (icon("key")) "Make a token" } }
            } }
        },
    )
}

pub(super) async fn save(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let (viewer, values) = (posted.viewer, posted.values);
    let none = Wanted::default();
    let mut errors = Errors::default();
    if !genuine {
        errors.add("", OTHER_SESSION);
        return answer(&viewer, &none, &values, &errors, StatusCode::CONFLICT);
    }
    let mut body = json!({"name": values.one("name")});
    for name in ["grant_life_seconds", "renew_after_seconds", "sign_in_age_seconds"] {
        if !values.has(name) {
            continue;
        }
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
        return answer(&viewer, &none, &values, &errors, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let sent = match send(&api, &viewer, Method::GET, "/settings", None, None).await {
        Ok(Done { version, .. }) => {
            send(&api, &viewer, Method::PATCH, "/settings", Some(&body), Some(&version)).await
        }
        Err(refused) => Err(refused),
    };
    match sent {
        Ok(_) => Redirect::to("/settings?saved=1").into_response(),
        Err(refused) => {
            answer(&viewer, &none, &values, &Errors::refused(&refused, FIELDS), refused.http_status())
        }
    }
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
        Err(refused) => return not_done(&viewer, "No token was made", &refused, "/settings"),
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
