//! API tokens: what scripts sign in with. What they may do, until when, and the one answer that shows the secret.

use super::{
    ask::{Api, Refused, send},
    form::{ASKED_BEFORE, Errors, Posted, Values, summary, trouble},
    look::{
        Row, badge, card, code, empty, facts, head, icon, parsed, plain_badge, said, table, thin, time, typed,
    },
    roles::{ROLES, may_change, title},
    settings,
    shell::{Here, Viewer},
};
use crate::api::{
    Permission,
    roles::{of_scope, word as role_word},
    types::Scope,
};
use axum::{
    Extension,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::{HeaderValue, Method, StatusCode, header};
use maud::{Markup, html};
use serde_json::json;
use trust::{RevokedSubject, UnixMs};
use wire::TokenId;

/// Tokens that are shown here.
const MOST_TOKENS: usize = 100;
/// What the API gives a token that says nothing, in days.
const LIFE: &str = "90";
/// The units of a life time, in seconds, the usual one first.
const UNITS: [(&str, u64); 3] = [("days", 86_400), ("hours", 3_600), ("minutes", 60)];
/// The scopes with what they allow, as the table of permissions has it.
const SCOPES: [(Scope, &str, &str); 6] = [
    (Scope::Read, "read", "read everything of the organization, the logs too"),
    (Scope::Write, "write", "make, change and remove sites, resources, groups, policies, people and devices"),
    (Scope::Strike, "strike", "revoke devices, people, service accounts, tokens and connectors"),
    (Scope::Enrol, "enrol", "make and remove enrolment keys for devices and connectors"),
    (Scope::Admin, "admin", "make and remove tokens, give people roles, change these settings"),
    (
        Scope::Installation,
        "installation",
        "what “admin” may, make owners, and change what all organizations share: PoPs, organizations, keys, the database",
    ),
];

/// What a token may do, in words.
fn may_do(scopes: &[String], role: Option<&str>) -> String {
    match role {
        Some(role) => format!("role {}", role.replace('_', " ")),
        None => scopes.join(", "),
    }
}

/// What one that there is may do, in words.
fn of_token(viewer: &Viewer, token: &store::Token) -> String {
    let role = viewer.views().token(token).role.and_then(|role| Some(json!(role).as_str()?.to_owned()));
    may_do(&token.scopes, role.as_deref())
}

fn state(viewer: &Viewer, token: &store::Token) -> Markup {
    if viewer.core.strikes.set().is_struck(RevokedSubject::Token(token.id), 1) {
        badge("denied", "strike", "revoked")
    } else if token.expires_ms <= viewer.now.as_millis() {
        plain_badge("expired")
    } else {
        badge("ok", "check", "works")
    }
}

/// The tokens that there are, and the form for one more.
pub(super) fn list(viewer: &Viewer, typed_token: &Values, errors: &Errors) -> Markup {
    let may_change = viewer.offers("/settings/tokens");
    let all = viewer.data().tokens.len();
    let rows: Vec<Row> = viewer
        .data()
        .tokens
        .iter()
        .take(MOST_TOKENS)
        .map(|token| {
            Row::new(html! { (typed(&token.name)) span class="sub" { (of_token(viewer, token)) } }, vec![
                state(viewer, token),
                time(UnixMs::from_millis(token.expires_ms), viewer.now),
                html! { div { (viewer.danger_link(&format!("/settings/tokens/{}/remove", token.id), "Remove", Some(&format!("the token {}", token.name)))) } },
            ])
        })
        .collect();
    card(
        "tokens",
        "API tokens",
        html! { span class="sub" { (rows.len()) @if rows.len() < all { " of " (thin(all as u64)) } } },
        html! {
            @if rows.is_empty() { (empty("No tokens yet", "A script signs in with a token. It has scopes or a role, an end, and is shown once.", html! {})) }
            @else { (table("API tokens", &[("Token", ""), ("State", ""), ("Until", "nowrap"), ("Actions", "row-actions")], &rows)) }
            @if rows.len() < all { p class="card-foot" { "All of them: " code { "tidegate admin list tokens --all" } } }
            @if may_change { (form(viewer, typed_token, errors)) }
        },
    )
}

/// The form for one more token. Its fields have ids of their own: the organization has a name on the same page, too.
fn form(viewer: &Viewer, values: &Values, errors: &Errors) -> Markup {
    let waits = viewer.changes_wait();
    let chosen = values.all("scopes");
    let is_first_time = values.iter().next().is_none();
    let wrong = |field: &str| errors.of(field).map(|text| (format!("{field}-error"), text.to_owned()));
    let (name_error, scopes_error) = (wrong("token_name"), wrong("scopes"));
    let (role_error, life_error) = (wrong("token_role"), wrong("token_life"));
    let said = |error: &Option<(String, String)>| {
        html! { @if let Some((id, text)) = error { p class="error" id=(id) { (icon("warn")) span { (text) } } } }
    };
    let invalid = |error: &Option<(String, String)>| error.as_ref().map(|_| "true");
    let described = |error: &Option<(String, String)>, hint: &str| match error {
        Some((id, _)) => format!("{id} {hint}"),
        None => hint.to_owned(),
    };
    // Nobody gives away more than they have.
    let scopes = SCOPES
        .into_iter()
        .filter(|(scope, ..)| of_scope(*scope).iter().all(|permission| viewer.caller.may(*permission)));
    let roles = ROLES.into_iter().filter(|role| may_change(&viewer.caller, *role));
    let life = if is_first_time { LIFE } else { values.one("life") };
    html! {
        form class="card-body card-body--top" method="post" action="/settings/tokens" novalidate {
            (viewer.token())
            (summary(errors, &LABELS))
            div class="field" {
                label for="token_name" { "Name of a new token" }
                input class="input" id="token_name" name="name" value=(values.one("name")) autocomplete="off" dir="auto" aria-invalid=[invalid(&name_error)] aria-describedby=[name_error.as_ref().map(|(id, _)| id)];
                (said(&name_error))
            }
            div class="field" {
                label for="token_role" { "It may" }
                span class="select-wrap" {
                    select class="select" id="token_role" name="role" aria-invalid=[invalid(&role_error)] aria-describedby=(described(&role_error, "token_role-hint")) {
                        option value="" { "what is ticked below" }
                        @for role in roles { option value=(role_word(role)) selected[values.one("role") == role_word(role)] { "what the role " (title(role)) " may" } }
                    }
                    (icon("chev"))
                }
                (said(&role_error))
                p class="hint" id="token_role-hint" { "With a role, what is ticked below does not count. You can give what you may do yourself." }
            }
            fieldset class="field" id="scopes" tabindex="-1" aria-describedby=(described(&scopes_error, "scopes-hint")) {
                legend { "Scopes" }
                @for (index, (_, scope, text)) in scopes.enumerate() {
                    label class="check" { input type="checkbox" name="scopes" value=(scope) checked[if is_first_time { index == 0 } else { chosen.contains(&scope) }]; span { (scope) span { (text) } } }
                }
                (said(&scopes_error))
                p class="hint" id="scopes-hint" { "Each stands alone: what changes things reads them only with “read”." }
            }
            div class="field" {
                label for="token_life" { "It works for" }
                div class="inline" {
                    input class="input" id="token_life" name="life" value=(life) inputmode="numeric" autocomplete="off" aria-invalid=[invalid(&life_error)] aria-describedby=(described(&life_error, "token_life-hint"));
                    span class="select-wrap" {
                        select class="select" name="life_unit" aria-label="Minutes, hours or days" {
                            @for (unit, _) in UNITS { option value=(unit) selected[values.one("life_unit") == unit] { (unit) } }
                        }
                        (icon("chev"))
                    }
                }
                (said(&life_error))
                p class="hint" id="token_life-hint" { "1 minute to 365 days. It ends by itself." }
            }
            div class="actions mt-4" {
                button class="btn" type="submit" disabled[waits.is_some()] { (icon("key")) "Make a token" }
                @if let Some(why) = &waits { span class="sm" { "Making one waits: " (why) ". What you typed stays here." } }
            }
        }
    }
}

/// The fields by the ids that they have on this page.
const LABELS: [(&str, &str); 4] = [
    ("token_name", "Name of a new token"),
    ("token_role", "It may"),
    ("scopes", "Scopes"),
    ("token_life", "It works for"),
];

/// What is wrong with a token's form, at the ids that its fields have on this page.
fn refused_at(refused: &Refused) -> Errors {
    let found = Errors::refused(refused, &["name", "scopes", "role", "lifetime_seconds"]);
    let mut errors = Errors::default();
    for (field, here) in [("name", "token_name"), ("scopes", "scopes"), ("role", "token_role"), ("", "")] {
        if let Some(text) = found.of(field) {
            errors.add(here, text);
        }
    }
    if found.of("lifetime_seconds").is_some() {
        errors.add("token_life", OUT_OF_LIFE);
    }
    errors
}

const OUT_OF_LIFE: &str = "Expected: 1 minute to 365 days.";

/// How long it lives, in seconds; nothing where the form says nothing.
fn life(values: &Values) -> Result<Option<u64>, String> {
    let typed = values.one("life");
    if typed.is_empty() && !values.has("life") {
        return Ok(None);
    }
    let unit = values.one("life_unit");
    let (_, seconds) = UNITS.into_iter().find(|(word, _)| *word == unit).unwrap_or(UNITS[0]);
    let shown: String = typed.chars().take(80).collect();
    let number: u64 = typed.parse().map_err(|_| format!("Expected: a whole number; got “{shown}”."))?;
    Ok(Some(number.saturating_mul(seconds)))
}

pub(super) async fn make(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let (viewer, values) = (posted.viewer, posted.values);
    if !genuine {
        return Redirect::to("/settings").into_response();
    }
    let life = match life(&values) {
        Ok(life) => life,
        Err(wrong) => {
            let mut errors = Errors::default();
            errors.add("token_life", wrong);
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            return settings::with_token(&api, &viewer, values, errors, status).await;
        }
    };
    let mut body = json!({"name": values.one("name")});
    match values.one("role") {
        "" => body["scopes"] = values.all("scopes").into(),
        role => body["role"] = role.into(),
    }
    if let Some(seconds) = life {
        body["lifetime_seconds"] = seconds.into();
    }
    let made = match send(&api, &viewer, Method::POST, "/tokens", Some(&body), None).await {
        Ok(made) => made.body,
        Err(refused) => {
            let errors = refused_at(&refused);
            return settings::with_token(&api, &viewer, values, errors, refused.http_status()).await;
        }
    };
    let description = &made["description"];
    let until = parsed(description["expires"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let scopes: Vec<String> = description["scopes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|scope| Some(scope.as_str()?.to_owned()))
        .collect();
    let page = html! {
        (head(&[("/settings", "Settings")], html! { "The token " (typed(values.one("name"))) }, html! {
            "It may: " (may_do(&scopes, description["role"].as_str())) ". It works until " (said(until, viewer.now)) ". It is shown only now; only its hash is kept."
        }, html! {}))
        (code("Token", html! { (made["token"].as_str().unwrap_or_default()) }))
        p class="hint mt-4" { "Send it as " code { "Authorization: Bearer …" } ", from a file or a secret store; not in a command’s arguments." }
        div class="actions mt-4" { a class="btn" href="/settings" { "I have stored it" } }
    };
    let mut answer = viewer.refreshed().page(Here::Settings, "A new token", page);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn find<'a>(viewer: &'a Viewer, id: &str) -> Option<&'a store::Token> {
    let id: TokenId = id.parse().ok()?;
    viewer.data().tokens.iter().find(|token| token.id == id)
}

fn gone(viewer: &Viewer) -> Response {
    let title = "There is no such token";
    let back = html! { a class="btn" href="/settings" { "Settings" } };
    let body = head(
        &[("/settings", "Settings")],
        title,
        "It may have been removed meanwhile. The audit log knows.",
        back,
    );
    viewer.page_with(StatusCode::NOT_FOUND, Here::Settings, title, html! {}, body)
}

/// Asks before a token goes: nobody sees from here what signs in with it.
pub(super) async fn remove_page(viewer: Viewer, Path(id): Path<String>) -> Response {
    match find(&viewer, &id) {
        Some(token) => ask_to_remove(&viewer, token, StatusCode::OK, None),
        None => gone(&viewer),
    }
}

fn ask_to_remove(viewer: &Viewer, token: &store::Token, status: StatusCode, why: Option<&str>) -> Response {
    let waits = viewer.changes_wait();
    // A token that got out is ended without the database; its row goes when changes can be made again.
    let is_over = viewer.core.strikes.set().is_struck(RevokedSubject::Token(token.id), 1);
    let may_end = viewer.caller.may(Permission::StrikePeople) && !is_over;
    let body = html! {
        (head(&[("/settings", "Settings")], html! { "Remove the token " (typed(&token.name)) "?" },
            "Every script that signs in with it is refused from then on. It cannot be given back; another one is made instead.", html! {}))
        (trouble("Nothing was removed.", why))
        form class="card" method="post" action={ "/settings/tokens/" (token.id) "/remove" } {
            (viewer.token())
            div class="card-body card-body--top" {
                (facts(&[
                    ("It may", html! { (of_token(viewer, token)) }),
                    ("State", state(viewer, token)),
                    ("Made", time(UnixMs::from_millis(token.created_ms), viewer.now)),
                    ("Until", time(UnixMs::from_millis(token.expires_ms), viewer.now)),
                    ("Id", html! { code { (token.id) } }),
                ]))
            }
            div class="card-foot" {
                a class="btn" href="/settings" { "Keep it" }
                button class="btn btn--danger" type="submit" disabled[waits.is_some()] { "Remove the token" }
                @if let Some(why) = &waits {
                    @if may_end { button class="btn btn--danger" type="submit" name="end" value="now" { "End it now" } }
                    span { "Removing waits: " (why) "." @if may_end { " Ending it does not." } }
                }
            }
        }
    };
    viewer.page_with(status, Here::Settings, &format!("Remove the token {}?", token.name), html! {}, body)
}

pub(super) async fn remove(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let viewer = &posted.viewer;
    let Some(token) = find(viewer, &id) else { return gone(viewer) };
    if !posted.is_genuine() {
        return ask_to_remove(viewer, token, StatusCode::CONFLICT, Some(ASKED_BEFORE));
    }
    if posted.values.one("end") == "now" {
        let subject = json!({"subject": token.id.to_string()});
        return match send(&api, viewer, Method::POST, "/strikes", Some(&subject), None).await {
            Ok(_) => Redirect::to("/settings?over=1").into_response(),
            Err(refused) => ask_to_remove(viewer, token, refused.http_status(), Some(&refused.sentence())),
        };
    }
    match send(&api, viewer, Method::DELETE, &format!("/tokens/{}", token.id), None, None).await {
        Ok(_) => Redirect::to("/settings?removed=1").into_response(),
        Err(refused) => ask_to_remove(viewer, token, refused.http_status(), Some(&refused.sentence())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_is_offered_and_none_is_said_to_do_what_the_table_does_not_have() {
        for (scope, word, text) in SCOPES {
            assert_eq!(json!(scope), word);
            let allows = |permission| of_scope(scope).contains(&permission);
            assert_eq!(text.contains("read "), allows(Permission::ReadNetwork), "{word}");
            assert_eq!(text.contains("revoke"), allows(Permission::StrikeDevices), "{word}");
            assert_eq!(text.contains("enrolment"), allows(Permission::EnrolDevices), "{word}");
            assert_eq!(text.contains("sites"), allows(Permission::Network), "{word}");
            assert_eq!(
                text.contains("admin") || text.contains("tokens, give"),
                allows(Permission::Tokens),
                "{word}"
            );
            assert_eq!(text.contains("PoPs"), allows(Permission::Installation), "{word}");
        }
    }
}
