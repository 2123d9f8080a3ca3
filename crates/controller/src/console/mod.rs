//! The console: server-rendered pages that work without script, from the memory snapshot and what is live now.

mod access;
mod accounts;
mod actions;
mod ask;
mod assets;
mod audit;
mod devices;
mod events;
mod flows;
mod form;
mod keys;
mod lists;
mod look;
mod names;
mod overview;
mod pages;
mod people;
mod policies;
mod preview;
mod providers;
mod resources;
mod roles;
mod search;
mod sessions;
mod settings;
mod shell;
mod sign_ins;
mod sites;
mod status;
mod step_up;
mod strikes;
mod things;
mod topology;
mod why;

use crate::{parts::Core, signin::session};
use askama::Template;
use axum::{
    Router, middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::{Arc, LazyLock};

pub(crate) static STYLE_PATH: LazyLock<String> = LazyLock::new(|| assets::STYLE_SHEET.path.clone());

pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/join", get(join_page))
        .merge(pages::routes(core))
        .layer(middleware::from_fn_with_state(Arc::clone(core), session::keep_alive))
        .layer(middleware::map_response(guarded))
        .with_state(Arc::clone(core))
}

/// The forms that ask for a fresh sign-in, for tests.
#[cfg(test)]
pub(crate) const fn step_up_forms() -> &'static [(&'static str, &'static str)] {
    step_up::ASKED
}

/// What every page of the console carries: no script but our own files, no frame, nothing from elsewhere.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
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

fn render(status: StatusCode, page: &impl Template, cookies: &[HeaderValue]) -> Response {
    match page.render() {
        Ok(html) => {
            let mut response = (status, Html(html)).into_response();
            for cookie in cookies {
                response.headers_mut().append(header::SET_COOKIE, cookie.clone());
            }
            response
        }
        Err(error) => {
            tracing::error!(%error, "a page was not rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Template)]
#[template(path = "message.html")]
struct MessagePage<'a> {
    style: &'a str,
    theme: &'a str,
    title: &'a str,
    text: &'a str,
}

/// What a device's link opens. The key is behind its `#`, which no browser sends: this page is the same for
/// everybody.
async fn join_page(headers: HeaderMap) -> Response {
    let page = MessagePage {
        style: &STYLE_PATH,
        theme: session::theme(&headers),
        title: "This link enrols a device",
        text: "It works once. On the device, run tidegate login with the whole address of this page, then tidegate up.",
    };
    render(StatusCode::OK, &page, &[])
}
