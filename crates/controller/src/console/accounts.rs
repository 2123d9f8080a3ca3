//! How a person signs in: the link that sets an account up or gets somebody into it again, and the end of their sessions.

use super::{
    ask::{Api, send},
    form::Posted,
    keys::once,
    look::{card, code, head, icon, parsed, said, typed},
    people::{missing, not_done},
    roles,
    shell::{Here, Viewer},
    things::Thing,
};
use axum::{
    Extension,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::Method;
use maud::{Markup, html};
use serde_json::json;
use trust::UnixMs;
use wire::UserId;

fn person<'a>(viewer: &'a Viewer, id: &str) -> Option<&'a store::User> {
    let id: UserId = id.parse().ok()?;
    viewer.data().users.iter().find(|row| row.id == id)
}

fn has_account(viewer: &Viewer, id: UserId) -> bool {
    viewer.data().sign_in.accounts.iter().any(|account| account.id == id)
}

/// What can be done about a person's sign-in, for whoever may do it: their role has to cover the person's.
pub(super) fn sign_in_card(viewer: &Viewer, user: &store::User) -> Markup {
    let place = format!("/people/{}", user.id);
    let may_invite = viewer.offers(&format!("{place}/invite"));
    if !may_invite || !roles::may_change(&viewer.caller, user.role) {
        return html! {};
    }
    let known = has_account(viewer, user.id);
    let waits = viewer.changes_wait();
    let now = viewer.now.as_millis();
    let open =
        viewer.data().sign_in.links.iter().filter(|link| link.user == user.id && link.expires_ms > now);
    let open = open.map(|link| link.expires_ms).max().map(UnixMs::from_millis);
    card(
        "sign-in",
        "Signing in",
        html! {},
        html! {
            div class="card-body" {
                p class="sm" {
                    @if known { "There is an account. A recovery link lets them set another passphrase when they cannot get in; it ends their sessions, their authenticator app and what ties them to a sign-in provider, and their passkeys stay." }
                    @else { "There is no account yet. An invitation is a link that works once, with which they set a passphrase." }
                    @if let Some(open) = open { " A link that was made before works until " (said(open, viewer.now)) "." }
                }
                @if let Some(why) = &waits { p class="sm mt-2" { "This waits: " (why) "." } }
            }
            div class="card-foot" {
                form method="post" action={ (place) "/invite" } {
                    (viewer.token())
                    button class="btn btn--sm" type="submit" disabled[waits.is_some()] {
                        (icon("key")) @if known { "Make a recovery link" } @else { "Make an invitation" }
                    }
                }
                @if known {
                    form method="post" action={ (place) "/end-sessions" } {
                        (viewer.token())
                        button class="btn btn--sm btn--danger" type="submit" disabled[waits.is_some()] { (icon("cross")) "Sign out everywhere" }
                    }
                }
            }
        },
    )
}

/// Makes the link. It is in this one answer.
pub(super) async fn invite(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let Some(user) = person(&posted.viewer, &id).cloned() else {
        return missing(&posted.viewer, Thing::User);
    };
    let back = format!("/people/{}", user.id);
    if !posted.is_genuine() {
        return Redirect::to(&back).into_response();
    }
    let viewer = posted.viewer;
    let known = has_account(&viewer, user.id);
    let body = json!({"user": user.id.to_string()});
    let made = match send(&api, &viewer, Method::POST, "/invitations", Some(&body), None).await {
        Ok(made) => made.body,
        Err(refused) => return not_done(&viewer, "No link was made", &refused, &back),
    };
    let viewer = viewer.refreshed();
    let until = parsed(made["expires"].as_str().unwrap_or_default()).unwrap_or(viewer.now);
    let title = if known { "A recovery link" } else { "An invitation" };
    let page = html! {
        (head(&[("/people", "People and groups"), (&back, &user.name)], html! { (title) " for " (typed(&user.name)) }, html! {
            "It works once, until " (said(until, viewer.now)) ". It is shown only now; only its hash is kept."
        }, html! {}))
        section class="card card-body card-body--top" aria-label="Steps" {
            ol class="steps" {
                li {
                    h2 { "Send the link to " (typed(&user.name)) " alone" }
                    (code("Link", html! { (made["link"].as_str().unwrap_or_default()) }))
                    p class="hint mt-2" { "Whoever uses it first gets into this account. Nothing is sent from here: use a way on which you know who reads it." }
                }
                li {
                    h2 { "They open it and set a passphrase" }
                    p {
                        "From then on they sign in as " strong { (typed(&user.email)) } "."
                        @if known { " Their sessions, their authenticator app and what ties them to a sign-in provider end with it; passkeys stay." }
                    }
                    p class="hint mt-2" { a href=(back) { "Back to " (typed(&user.name)) } }
                }
            }
        }
    };
    once(&viewer, Here::People, title, page)
}

/// Ends every session that the person has in browsers.
pub(super) async fn end_sessions(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let viewer = &posted.viewer;
    let Some(user) = person(viewer, &id) else { return missing(viewer, Thing::User) };
    let back = format!("/people/{}", user.id);
    if !posted.is_genuine() {
        return Redirect::to(&back).into_response();
    }
    let body = json!({"user": user.id.to_string()});
    match send(&api, viewer, Method::POST, "/ended-web-sessions", Some(&body), None).await {
        Ok(_) => Redirect::to(&format!("{back}?ended=1")).into_response(),
        Err(refused) => not_done(viewer, "Nobody was signed out", &refused, &back),
    }
}
