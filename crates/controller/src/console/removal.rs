//! Removing what an organization has: a page that says what goes with it, and one way for all of them, through the API.

use super::{
    ask::{Api, Refused, send},
    form::{ASKED_BEFORE, Posted, Values, trouble},
    look::{head, typed},
    shell::Viewer,
    strikes::{Way, struck_page},
    things::{Thing, nothing_there, one},
};
use axum::{
    Extension,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::html;

/// Asks before something goes. `sent` is what was asked for and not done, with why.
fn removal_page(viewer: &Viewer, thing: Thing, id: &str, name: &str, sent: Option<Sent<'_>>) -> Response {
    let title = format!("Remove {name}?");
    let status = sent.as_ref().map_or(StatusCode::OK, |sent| sent.status);
    let allowed = sent.as_ref().is_some_and(|sent| sent.values.one("allow_shrink") == "true");
    let shrink = allowed || sent.as_ref().is_some_and(|sent| sent.is_shrink);
    let back = format!("{}/{id}", thing.page());
    // What is struck first goes without the database.
    let waits = if Way::of(thing).is_empty() { viewer.changes_wait() } else { None };
    let body = html! {
        (head(&[(thing.list(), thing.many()), (&back, name)], html! { "Remove " (typed(name)) "?" }, thing.removal(), html! {}))
        (trouble("Nothing was removed.", sent.as_ref().map(|sent| sent.why.as_str())))
        form class="card" method="post" action={ (thing.page()) "/" (id) "/remove" } {
            (viewer.token())
            @if shrink {
                div class="card-body card-body--top" {
                    label class="check" { input type="checkbox" name="allow_shrink" value="true" checked[allowed]; span { "Yes, so much at once is meant" } }
                }
            }
            div class="card-foot" {
                a class="btn" href=(if thing == Thing::Key { thing.page() } else { &back }) { "Keep it" }
                button class="btn btn--danger" type="submit" disabled[waits.is_some()] { "Remove the " (thing.word()) }
                @if let Some(why) = &waits { span { "Removing waits: " (why) "." } }
            }
        }
    };
    viewer.page_with(status, thing.here(), &title, html! {}, body)
}

/// A removal that was asked for and not done.
struct Sent<'a> {
    values: &'a Values,
    why: String,
    is_shrink: bool,
    status: StatusCode,
}

async fn name_of(api: &Api, viewer: &Viewer, thing: Thing, id: &str) -> Result<String, Refused> {
    let done = send(api, viewer, Method::GET, &one(thing, id), None, None).await?;
    Ok(done.body["name"].as_str().unwrap_or(id).to_owned())
}

/// Asks before something goes.
pub(super) async fn remove_page(
    thing: Thing,
    api: Extension<Api>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Response {
    match name_of(&api, &viewer, thing, &id).await {
        Ok(name) => removal_page(&viewer, thing, &id, &name, None),
        Err(refused) => nothing_there(&viewer, thing, &refused),
    }
}

/// Removes one. What is revoked by it is answered with the honest count.
pub(super) async fn remove(
    thing: Thing,
    api: Extension<Api>,
    Path(id): Path<String>,
    posted: Posted,
) -> Response {
    let Posted { viewer, values, .. } = &posted;
    let name = match name_of(&api, viewer, thing, &id).await {
        Ok(name) => name,
        Err(refused) => return nothing_there(viewer, thing, &refused),
    };
    if !posted.is_genuine() {
        let sent =
            Sent { values, why: ASKED_BEFORE.to_owned(), is_shrink: false, status: StatusCode::CONFLICT };
        return removal_page(viewer, thing, &id, &name, Some(sent));
    }
    let query = if values.one("allow_shrink") == "true" { "?allow_shrink=true" } else { "" };
    match send(&api, viewer, Method::DELETE, &format!("{}{query}", one(thing, &id)), None, None).await {
        Ok(done) if done.body.get("enforced").is_some() => {
            struck_page(viewer, thing.here(), &format!("{name} was removed"), &done.body, thing.list())
        }
        Ok(_) => Redirect::to(&format!("{}?removed=1", thing.list())).into_response(),
        Err(refused) => {
            let (why, is_shrink) = (refused.sentence(), refused.is_shrink());
            let sent = Sent { values, why, is_shrink, status: refused.http_status() };
            removal_page(viewer, thing, &id, &name, Some(sent))
        }
    }
}
