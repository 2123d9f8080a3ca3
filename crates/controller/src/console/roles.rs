//! What a person may do here: the form that gives them a role.

use super::{
    ask::{Api, Refused, send},
    form::{Errors, Field, FormPage, Kind, OTHER_SESSION, Posted, Values, show},
    look::{card, facts, head, plain_badge, typed},
    people::not_done,
    shell::{Here, Viewer, encode},
};
use crate::api::{Caller, is_unchanged, roles::word as role_word};
use axum::{
    Extension,
    extract::Path,
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::json;
use store::Role;

/// From the one that may do most to the one that may do nothing.
pub(super) const ROLES: [Role; 6] =
    [Role::Owner, Role::Admin, Role::NetworkAdmin, Role::Support, Role::Auditor, Role::Member];

/// How a role is called where people read.
pub(super) const fn title(role: Role) -> &'static str {
    match role {
        Role::Owner => "Owner",
        Role::Admin => "Admin",
        Role::NetworkAdmin => "Network admin",
        Role::Support => "Support",
        Role::Auditor => "Auditor",
        Role::Member => "Member",
    }
}

/// What a role is for. The whole table is in the API's `/roles`.
const fn purpose(role: Role) -> &'static str {
    match role {
        Role::Owner => "Everything, also owners and sign-in providers. An organization keeps one.",
        Role::Admin => "Everything but owners and sign-in providers.",
        Role::NetworkAdmin => {
            "Sites, connectors, resources, groups and policies. Reads the rest, but for the audit log."
        }
        Role::Support => "Approves, blocks and revokes devices. Reads the network, people and flows.",
        Role::Auditor => "Reads everything, the audit log too. Changes nothing.",
        Role::Member => "Nothing here but their own account. What they reach follows from groups alone.",
    }
}

/// Whether somebody may give roles to a person who has this one.
pub(super) fn may_change(caller: &Caller, role: Role) -> bool {
    caller.need_to_cover(role).is_ok()
}

fn path(id: &str) -> String {
    format!("/users/{}", encode(id).replace('/', "%2F"))
}

fn form(
    viewer: &Viewer,
    id: &str,
    name: &str,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
) -> Response {
    // The one that is held stands there even where the viewer may not give it: no other is to look chosen.
    let held = values.one("role");
    let own = ROLES.into_iter().filter(|role| may_change(&viewer.caller, *role) || role_word(*role) == held);
    let choices: Vec<(String, String)> =
        own.map(|role| (role_word(role).to_owned(), title(role).to_owned())).collect();
    let person = format!("/people/{id}");
    let action = format!("{person}/role");
    let rows: Vec<(&str, Markup)> =
        ROLES.into_iter().map(|role| (title(role), html! { (purpose(role)) })).collect();
    let page = FormPage {
        here: Here::People,
        head: head(
            &[("/people", "People and groups"), (&person, name)],
            html! { "Role of " (typed(name)) },
            "What they may do in this console and in the API. What they reach in the network follows from their groups, not from this.",
            html! {},
        ),
        title: "Role",
        action: &action,
        fields: vec![Field {
            name: "role",
            label: "Role",
            kind: Kind::Choice(&choices),
            hint: "It counts from their next request on. You can give what you may do yourself.",
            optional: false,
        }],
        save: "Save the role",
        back: &person,
        more: html! {},
        aside: card(
            "roles",
            "What each may do",
            html! {},
            html! { div class="card-body" { (facts(&rows)) } },
        ),
    };
    show(viewer, &page, values, errors, status)
}

fn nobody(viewer: &Viewer, refused: &Refused) -> Response {
    let is_gone = matches!(refused.status, 400 | 404);
    not_done(
        viewer,
        if is_gone { "There is no such person" } else { "The role cannot be read" },
        refused,
        "/people",
    )
}

/// The form with the role that the person has.
pub(super) async fn role_page(api: Extension<Api>, viewer: Viewer, Path(id): Path<String>) -> Response {
    match send(&api, &viewer, Method::GET, &path(&id), None, None).await {
        Ok(done) => {
            let mut values = Values::default();
            values.set("role", done.body["role"].as_str().unwrap_or_default());
            values.set("version", done.version);
            let name = done.body["name"].as_str().unwrap_or_default();
            form(&viewer, &id, name, &values, &Errors::default(), StatusCode::OK)
        }
        Err(refused) => nobody(&viewer, &refused),
    }
}

/// Gives it.
pub(super) async fn give_role(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let Posted { viewer, values, .. } = &posted;
    let held = match send(&api, viewer, Method::GET, &path(&id), None, None).await {
        Ok(held) => held,
        Err(refused) => return nobody(viewer, &refused),
    };
    let name = held.body["name"].as_str().unwrap_or_default();
    let mut kept = values.clone();
    kept.set("version", held.version.clone());
    let outdated = || {
        let mut errors = Errors::default();
        let now = held.body["role"].as_str().unwrap_or_default().replace('_', " ");
        errors.add("", format!("Somebody changed this person meanwhile; the role is {now} now. Save again if it is still meant."));
        form(viewer, &id, name, &kept, &errors, StatusCode::PRECONDITION_FAILED)
    };
    if !posted.is_genuine() {
        let mut errors = Errors::default();
        errors.add("", OTHER_SESSION);
        return form(viewer, &id, name, &kept, &errors, StatusCode::CONFLICT);
    }
    if !is_unchanged(values.one("version"), &held.version) {
        return outdated();
    }
    let wanted = json!({"role": values.one("role")});
    match send(&api, viewer, Method::PUT, &format!("{}/role", path(&id)), Some(&wanted), Some(&held.version))
        .await
    {
        Ok(_) => Redirect::to(&format!("/people/{}?saved=1", encode(&id))).into_response(),
        Err(refused) if refused.is_outdated() => outdated(),
        Err(refused) => {
            let errors = Errors::refused(&refused, &["role"]);
            form(viewer, &id, name, &kept, &errors, refused.http_status())
        }
    }
}

/// What stands in the list of people and on a person's page.
pub(super) fn shown(role: Role) -> Markup {
    if role == Role::Member {
        html! { span class="quiet" { "Member" } }
    } else {
        html! { (title(role)) }
    }
}

/// What stands above a person whose role is more than a member's.
pub(super) fn said(role: Role) -> Markup {
    html! { @if role != Role::Member { " " (plain_badge(title(role))) } }
}
