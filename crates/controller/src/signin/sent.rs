//! What a browser sends around sign-in. What does not fit is answered as the page that a person reads, or in words for the
//! page's script.

use super::{MAX_FORM, page};
use axum::{
    Form, Json,
    extract::{FromRequest, Request},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, Uri};
use maud::html;
use serde::de::DeserializeOwned;

/// A form.
pub(super) struct Sent<T>(pub(super) T);

/// What the page's script sends.
pub(super) struct Told<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let (headers, uri) = (request.headers().clone(), request.uri().clone());
        match Form::<T>::from_request(request, state).await {
            Ok(Form(form)) => Ok(Self(form)),
            Err(rejection) => Err(refused(rejection.into_response().status(), &headers, &uri)),
        }
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Told<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(told)) => Ok(Self(told)),
            Err(rejection) => {
                let status = rejection.status();
                Err(page::said(status, words(status).1.as_str()))
            }
        }
    }
}

/// What is wrong, and what helps.
fn words(status: StatusCode) -> (&'static str, String) {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let most = MAX_FORM / 1024;
            let text = format!(
                "A form here has at most {most} kB. Nothing of it was taken; go back and shorten it."
            );
            ("This form is too long", text)
        }
        _ => {
            let text =
                "A field that belongs to it did not arrive. Open the page again and send it from there.";
            ("This form is not whole", text.to_owned())
        }
    }
}

/// The page that a form is on: some are sent to an address that shows nothing.
fn page_of(path: &str) -> &str {
    match path {
        "/signout" | "/theme" => "/",
        _ if path.starts_with("/account") => "/account",
        _ => path,
    }
}

fn refused(status: StatusCode, headers: &HeaderMap, uri: &Uri) -> Response {
    let (title, text) = words(status);
    let main = html! {
        h1 { (title) }
        p class="lede" { (text) }
        div class="actions" { a class="btn" href=(page_of(uri.path())) { "Open the page again" } }
    };
    page::page(status, headers, title, &main)
}
