//! The console: server-rendered pages that work without script, from the memory snapshot and what is live now.

mod access;
mod accounts;
mod actions;
mod admitted;
mod ask;
mod assets;
mod audit;
mod connect;
mod devices;
mod events;
mod flows;
mod form;
mod keys;
mod lists;
mod look;
mod members;
mod names;
mod overview;
mod pages;
mod people;
mod policies;
mod providers;
mod removal;
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
mod tokens;
mod topology;
mod urlencoded;
mod why;

pub use connect::{ConnectorImage, NoImage};

use crate::{api, parts::Core, signin::session};
use askama::Template;
use axum::{
    Router,
    extract::{Request, State},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use maud::html;
pub(crate) use shell::shows_anything_to;
use shell::{Here, NotSignedIn, Viewer};
use std::sync::{Arc, LazyLock};

pub(crate) static STYLE_PATH: LazyLock<String> = LazyLock::new(|| assets::STYLE_SHEET.path.clone());

pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/join", get(join_page))
        .merge(pages::routes(core))
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(core), admitted::admitted))
        .layer(middleware::from_fn_with_state(Arc::clone(core), session::keep_alive))
        .layer(middleware::map_response(guarded))
        .with_state(Arc::clone(core))
}

/// An address that nothing has: a page for people, a problem for everybody else.
pub(crate) async fn no_such_address(core: Arc<Core>, request: Request) -> Response {
    let path = request.uri().path();
    let of_machines = ["/api/", "/enrol/"].iter().any(|start| path.starts_with(start));
    if of_machines || !asks_for_html(request.headers()) {
        return api::no_such_path(request.uri().clone()).await;
    }
    let (parts, _) = request.into_parts();
    let title = "There is no such page";
    let shown: String = parts.uri.path().chars().take(200).collect();
    let lede = html! { "Nothing is at " code class="wrap-any" { (look::typed(&shown)) } ". The address may be mistyped, or from another version." };
    let actions = html! { a class="btn btn--primary" href="/" { "Overview" } a class="btn" href="/search" { "Search" } };
    let answer = match Viewer::of(&core, &parts) {
        Ok(viewer) => {
            let body = look::head(&[], title, lede, actions);
            viewer.page_with(StatusCode::NOT_FOUND, Here::Elsewhere, title, html! {}, body)
        }
        // What there is, is for who is signed in: others are told the same for every address.
        Err(_) => form::bare_page(
            StatusCode::NOT_FOUND,
            title,
            session::theme(&parts.headers),
            look::head(&[], title, lede, html! { a class="btn btn--primary" href="/signin" { "Sign in" } }),
        ),
    };
    guarded(answer).await
}

/// An address that there is, asked in a way that it does not have: mostly one that takes a form, opened again by hand. What
/// it takes stands in `Allow` (RFC 9110 section 15.5.6), which the router adds.
pub(crate) async fn wrong_method(State(core): State<Arc<Core>>, request: Request) -> Response {
    if !asks_for_html(request.headers()) {
        return api::method_not_allowed(None, request.method().clone(), request.uri().clone()).await;
    }
    let (parts, _) = request.into_parts();
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    let title = if reads { "There is nothing to look at here" } else { "This page takes no form" };
    let shown: String = parts.uri.path().chars().take(200).collect();
    let lede = html! {
        code class="wrap-any" { (look::typed(&shown)) }
        @if reads { " only takes what a form sends. Nothing was done; what was shown here once is not kept." }
        @else { " is only read. Nothing was done." }
    };
    let page = if reads { page_of_form(&shown) } else { shown };
    let answer = match Viewer::of(&core, &parts) {
        Ok(viewer) => {
            let actions = html! { a class="btn btn--primary" href=(page) { "To the page with the form" } a class="btn" href="/" { "Overview" } };
            let body = look::head(&[], title, lede, actions);
            viewer.page_with(StatusCode::METHOD_NOT_ALLOWED, Here::Elsewhere, title, html! {}, body)
        }
        Err(refused @ NotSignedIn::Refused(_)) => refused.into_response(),
        Err(_) => form::bare_page(
            StatusCode::METHOD_NOT_ALLOWED,
            title,
            session::theme(&parts.headers),
            look::head(&[], title, lede, html! { a class="btn btn--primary" href="/signin" { "Sign in" } }),
        ),
    };
    guarded(answer).await
}

/// The page that has the form of an address which only takes one.
fn page_of_form(path: &str) -> String {
    match path {
        "/keys/pop" => "/pops".to_owned(),
        "/keys/device" | "/groups/members/add" => "/people".to_owned(),
        "/signout" | "/theme" => "/".to_owned(),
        _ if path.starts_with("/signin/") => "/signin".to_owned(),
        _ if path.starts_with("/account/") => "/account".to_owned(),
        "/settings/tokens" => "/settings".to_owned(),
        // What is done to one object stands on its page: /people/usr-…/invite.
        path => path.split('/').take(3).collect::<Vec<_>>().join("/"),
    }
}

/// A browser that goes somewhere names HTML; what fetches data does not (RFC 9110 section 12.5.1).
fn asks_for_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let media = range.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("text/html")
    })
}

/// The forms that ask for a fresh sign-in, for tests.
#[cfg(test)]
pub(crate) const fn step_up_forms() -> &'static [(&'static str, &'static str)] {
    step_up::ASKED
}

/// The addresses of all forms, for tests.
#[cfg(test)]
pub(crate) fn forms() -> impl Iterator<Item = &'static str> {
    actions::forms()
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
