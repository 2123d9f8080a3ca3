//! What asks for a fresh sign-in in the console: a person is led to sign in again, and finds what was typed as it was.
//!
//! The API refuses such a request by itself (`api::roles::FRESH`). These pages come before that, so that nobody reads a
//! refusal: the sign-in happens in another tab, with whatever proof it takes, and this one keeps the form. What comes back
//! carries another session's token, so it is shown once more and sent with the new one.

use super::{
    form::Values,
    look::{facts, icon, typed},
    shell::{Here, Viewer, encode},
};
use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use store::Member;
use wire::{ConnectorId, DeviceId, GroupId, PopId, TokenId};

/// Longest value that is shown of a form; all of it is kept.
const SHOWN: usize = 200;

/// Forms that ask for it, by their address, with what they do.
pub(super) const ASKED: &[(&str, &str)] = &[
    ("/devices/{id}/revoke", "Revoking a device"),
    ("/people/{id}/revoke", "Revoking a person’s access"),
    ("/service-accounts/{id}/revoke", "Revoking a service account"),
    ("/connectors/{id}/revoke", "Revoking a connector"),
    ("/pops/{id}/revoke", "Revoking a PoP"),
    ("/devices/{id}/restore", "Giving a device its access back"),
    ("/people/{id}/restore", "Giving a person access back"),
    ("/service-accounts/{id}/restore", "Giving a service account its access back"),
    ("/connectors/{id}/restore", "Giving a connector its place back"),
    ("/pops/{id}/restore", "Giving a PoP its place back"),
    ("/devices/{id}/block", "Blocking a device"),
    ("/devices/{id}/archive", "Archiving a device"),
    ("/devices/{id}/remove", "Removing a device"),
    ("/people/{id}/remove", "Removing a person"),
    ("/service-accounts/{id}/remove", "Removing a service account"),
    ("/connectors/{id}/remove", "Removing a connector"),
    ("/pops/{id}/remove", "Removing a PoP"),
    ("/groups/{id}/members/remove", "Taking somebody out of a group"),
    ("/people/{id}/role", "Giving a person a role"),
    ("/people/{id}/invite", "Making a link that lets a person in"),
    ("/people/{id}/end-sessions", "Signing a person out everywhere"),
    ("/settings", "Changing how the organization works"),
    ("/settings/providers/new", "Adding a sign-in provider"),
    ("/settings/providers/{id}/edit", "Changing a sign-in provider"),
    ("/settings/providers/{id}/remove", "Removing a sign-in provider"),
    ("/settings/tokens", "Making an API token"),
    ("/settings/tokens/{id}/remove", "Removing an API token"),
];

/// What a form does that asks for a fresh sign-in; `template` is the route that took it.
pub(super) fn asked(template: &str) -> Option<&'static str> {
    ASKED.iter().find(|(path, _)| *path == template).map(|(_, what)| *what)
}

fn fields(values: &Values) -> Markup {
    html! {
        @for (name, value) in values.iter().filter(|(name, _)| name != "form_token") {
            input type="hidden" name=(name) value=(value);
        }
    }
}

/// What it is about and what was typed, for people; what a page put into its form by itself says nothing to them.
fn typed_fields(viewer: &Viewer, action: &str, values: &Values) -> Markup {
    // A secret is kept in the form, and shown to nobody who looks over a shoulder.
    let shown =
        |name: &str| !matches!(name, "form_token" | "version" | "allow_shrink" | "client_secret" | "back");
    let about =
        action.split('/').filter_map(|part| name_of(viewer, part)).map(|name| ("about", typed(&name)));
    let fields =
        values.iter().filter(|(name, value)| shown(name) && !value.is_empty()).map(|(name, value)| {
            let short = || value.chars().take(SHOWN).collect::<String>();
            (name.as_str(), typed(&name_of(viewer, value).unwrap_or_else(short)))
        });
    let rows: Vec<(String, Markup)> = about.chain(fields).map(|(name, value)| (words(name), value)).collect();
    if rows.is_empty() {
        html! {}
    } else {
        facts(&rows.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>())
    }
}

/// The name of a field as words.
fn words(name: &str) -> String {
    let spaced = name.replace('_', " ");
    let mut letters = spaced.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// What an id is called, whatever it is the id of; nobody knows people by theirs.
fn name_of(viewer: &Viewer, id: &str) -> Option<String> {
    let data = viewer.data();
    if let Ok(id) = id.parse::<DeviceId>() {
        return data.devices.iter().find(|row| row.id == id).map(|row| row.name.clone());
    }
    if let Ok(id) = id.parse::<ConnectorId>() {
        return data.connectors.iter().find(|row| row.id == id).map(|row| row.name.clone());
    }
    if let Ok(id) = id.parse::<PopId>() {
        return viewer.snapshot.dataset.pops.iter().find(|row| row.id == id).map(|row| row.name.clone());
    }
    if let Ok(id) = id.parse::<TokenId>() {
        return data.tokens.iter().find(|row| row.id == id).map(|row| row.name.clone());
    }
    if let Ok(id) = id.parse::<GroupId>() {
        return data.groups.iter().find(|row| row.id == id).map(|row| row.name.clone());
    }
    match id.parse().ok()? {
        Member::User(id) => data.users.iter().find(|row| row.id == id).map(|row| row.name.clone()),
        Member::ServiceAccount(id) => {
            data.service_accounts.iter().find(|row| row.id == id).map(|row| row.name.clone())
        }
    }
}

/// A page of its own around a kept form.
fn page(status: StatusCode, title: &str, theme: &str, shown: Markup) -> Response {
    let style = &super::assets::STYLE_SHEET.path;
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[(!theme.is_empty()).then_some(theme)] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="stylesheet" href=(style);
                title { (title) " · Tidegate" }
            }
            body {
                (PreEscaped(super::assets::sprite(&shown.0)))
                (shown)
            }
        }
    };
    (status, Html(page.into_string())).into_response()
}

/// The sign-in is too old: it is renewed in another tab, and this one keeps what was typed.
pub(super) fn sign_in_again(viewer: &Viewer, what: &str, action: &str, values: &Values) -> Response {
    let age = viewer.core.sign_in_age_in_words(viewer.organization);
    let shown = html! {
        a class="skip" href="#main" { "Skip to content" }
        div class="shell" { main id="main" {
            div class="page-head" { div {
                h1 { "Prove once more that it is you." }
                p class="lede" { (what) " asks for a sign-in that is not older than " (age) ". Nothing was done yet, and what you typed is kept in this page." }
            } }
            form class="card card-body card-body--top" action=(action) method="post" {
                (fields(values))
                (typed_fields(viewer, action, values))
                div class="actions mt-4" {
                    a class="btn btn--primary" href={ "/signin?again=1&next=" (encode("/signed-in-again")) } target="_blank" rel="noopener" { "1. Sign in again in another tab" }
                    button class="btn" type="submit" { "2. Go on" }
                }
            }
        } }
    };
    page(StatusCode::UNAUTHORIZED, "Sign in again", viewer.theme, shown)
}

/// The same form from before the fresh sign-in: it is looked at once more, and sent with the session that there is now.
pub(super) fn look_again(viewer: &Viewer, what: &str, action: &str, values: &Values) -> Response {
    let shown = html! {
        a class="skip" href="#main" { "Skip to content" }
        div class="shell" { main id="main" {
            div class="page-head" { div {
                h1 { (what) }
                p class="lede" { "This was asked for before you signed in. Nothing was done yet; look at it once more." }
            } }
            form class="card card-body card-body--top" action=(action) method="post" {
                (fields(values))
                (viewer.token())
                (typed_fields(viewer, action, values))
                div class="actions mt-4" {
                    button class="btn btn--primary" type="submit" { "Go on" }
                    a class="btn" href="/" { "Do nothing" }
                }
            }
        } }
    };
    page(StatusCode::CONFLICT, what, viewer.theme, shown)
}

/// Where the other tab ends.
pub(super) async fn signed_in_again(viewer: Viewer) -> Response {
    let body = html! {
        div class="page-head" { div {
            h1 { (icon("check")) " You are signed in again." }
            p class="lede" { "Close this tab and go on in the one that you came from." }
        } }
        div class="actions" { a class="btn" href="/" { "Overview" } }
    };
    viewer.page(Here::Elsewhere, "Signed in again", body)
}
