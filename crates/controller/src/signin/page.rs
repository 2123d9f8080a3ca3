//! How the pages around sign-in look: the picture on the left, one thing to do on the right.

use super::session;
use crate::console::STYLE_PATH;
use axum::{
    Json,
    response::{Html, IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;
use std::sync::LazyLock;
use trust::{encode_base64url, sha256};

const ART: &str = include_str!("../../templates/art.html");
const SPRITE: &str = include_str!("../../templates/sprite_small.html");
pub(super) const SCRIPT: &str = include_str!("../../assets/signin.js");

/// The name changes with the content.
pub(super) static SCRIPT_PATH: LazyLock<String> = LazyLock::new(|| {
    let digest = encode_base64url(&sha256(&[SCRIPT.as_bytes()]));
    format!("/assets/signin-{}.js", &digest[..16])
});

const LOOK: &str = include_str!("../../assets/signin.css");

pub(super) static LOOK_PATH: LazyLock<String> = LazyLock::new(|| {
    let digest = encode_base64url(&sha256(&[LOOK.as_bytes()]));
    format!("/assets/signin-{}.css", &digest[..16])
});

pub(super) async fn look() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, LOOK)
}

pub(super) async fn script() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, "text/javascript; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, SCRIPT)
}

/// What every answer around sign-in carries: one script of our own, no frame, nothing from elsewhere, kept nowhere.
pub(super) async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// One of the signs of the sprite.
pub(super) fn icon(sign: &str) -> Markup {
    html! { svg class="icon" aria-hidden="true" { use href={ "#" (sign) } {} } }
}

/// An error in words, at its place; nothing when there is none.
pub(super) fn error(id: &str, text: &str) -> Markup {
    html! {
        @if !text.is_empty() {
            p class="error" id=(id) role="alert" { (icon("warn")) span { (text) } }
        }
    }
}

/// A field with its label, its hint and what is wrong with it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Field<'a> {
    pub(super) id: &'a str,
    pub(super) label: &'a str,
    pub(super) kind: &'a str,
    pub(super) autocomplete: &'a str,
    pub(super) value: &'a str,
    pub(super) hint: &'a str,
    pub(super) error: &'a str,
    pub(super) inputmode: &'a str,
}

/// A field of a form. It is required: a form asks for nothing that it does not need.
pub(super) fn field(f: Field<'_>) -> Markup {
    let (hint_id, error_id) = (format!("{}-hint", f.id), format!("{}-error", f.id));
    let described: Vec<&str> = [(f.hint, &hint_id), (f.error, &error_id)]
        .into_iter()
        .filter(|(text, _)| !text.is_empty())
        .map(|(_, id)| id.as_str())
        .collect();
    let described = described.join(" ");
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    html! {
        div class="field" {
            label for=(f.id) { (f.label) }
            input class="input" id=(f.id) name=(f.id) type=[some(f.kind)] autocomplete=[some(f.autocomplete)]
                inputmode=[some(f.inputmode)] value=(f.value) required
                aria-invalid=[(!f.error.is_empty()).then_some("true")] aria-describedby=[some(&described)];
            @if !f.hint.is_empty() { p class="hint" id=(hint_id) { (f.hint) } }
            (error(&error_id, f.error))
        }
    }
}

/// The field that proves that a form is ours.
pub(super) fn token(form_token: &str) -> Markup {
    html! { input type="hidden" name="form_token" value=(form_token); }
}

/// Where a passkey's form says what went wrong.
pub(super) fn says() -> Markup {
    html! { p class="error" data-says="" role="alert" hidden { (icon("warn")) span {} } }
}

/// A whole page.
pub(super) fn page(status: StatusCode, headers: &HeaderMap, title: &str, main: &Markup) -> Response {
    let theme = session::theme(headers);
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[(!theme.is_empty()).then_some(theme)] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="stylesheet" href=(*STYLE_PATH);
                link rel="stylesheet" href=(*LOOK_PATH);
                script src=(*SCRIPT_PATH) defer {}
                title { (title) " · Tidegate" }
            }
            body class="signin-page" {
                (PreEscaped(SPRITE))
                div class="signin" { (PreEscaped(ART)) main id="main" { (main) } }
            }
        }
    };
    (status, Html(page.into_string())).into_response()
}

/// With cookies.
pub(super) fn with_cookies(
    mut response: Response,
    cookies: impl IntoIterator<Item = HeaderValue>,
) -> Response {
    for cookie in cookies {
        response.headers_mut().append(header::SET_COOKIE, cookie);
    }
    response
}

/// A page that says one thing.
pub(super) fn message(status: StatusCode, headers: &HeaderMap, title: &str, text: &str) -> Response {
    let main = html! {
        h1 { (title) }
        p class="lede" { (text) }
        div class="actions" { a class="btn" href="/signin" { "Sign in" } }
    };
    page(status, headers, title, &main)
}

/// A page of the console that is not drawn now, and where it is to be asked for again.
pub(crate) fn busy_page(headers: &HeaderMap, text: &str, address: &str) -> Response {
    let title = "Busy for a moment";
    let main = html! {
        h1 { (title) }
        p class="lede" { (text) }
        div class="actions" { a class="btn" href=(address) { "Load again" } }
    };
    page(StatusCode::SERVICE_UNAVAILABLE, headers, title, &main)
}

/// An answer to the script.
pub(super) fn said(status: StatusCode, detail: &str) -> Response {
    (status, Json(json!({"detail": detail}))).into_response()
}
