//! The page of a person or a service account: their devices, their groups, what they reach, and the forms that change it.

use super::{
    accounts::sign_in_card,
    ask::{Api, send},
    devices::device_rows,
    form::{Errors, Field, Kind, Posted, Values, chosen, field, summary},
    keys::device_key_form,
    lists::Wanted,
    look::{
        Row, card, card_with_room, chips, counted, empty, facts, head, icon, plain_badge, small_table, table,
        thin, time, typed,
    },
    names::{Names, member_page},
    people::{missing, not_done, state},
    roles,
    shell::{Here, Viewer, encode},
    strikes::{buttons, struck_page},
    things::{Thing, done_note},
};
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use store::Member;
use trust::{RevokedSubject, UnixMs};
use wire::GroupId;

/// Devices that are shown on a member's page.
const MOST_DEVICES: usize = 50;

/// Groups of a member, by id.
fn groups_of(viewer: &Viewer, member: Member) -> Vec<GroupId> {
    viewer.data().memberships.iter().filter(|row| row.member == member).map(|row| row.group).collect()
}

/// What a member reaches, by the groups they are in.
fn reaches(viewer: &Viewer, names: &Names<'_>, groups: &[GroupId]) -> Markup {
    let policies: Vec<_> = viewer
        .data()
        .policies
        .iter()
        .filter(|policy| policy.groups.iter().any(|group| groups.contains(group)))
        .collect();
    let resources: BTreeSet<_> =
        policies.iter().flat_map(|policy| policy.resources.iter().copied()).collect();
    let rows: Vec<Row> = resources
        .iter()
        .take(100)
        .filter_map(|id| names.resources.get(id))
        .map(|row| {
            let through: Vec<(String, String)> = policies
                .iter()
                .filter(|policy| policy.resources.contains(&row.id))
                .map(|policy| (format!("/policies/{}", policy.id), policy.name.clone()))
                .collect();
            Row::new(
                html! { a href={ "/resources/" (row.id) } { (typed(&row.name)) } },
                vec![html! { span class="mono wrap-any" { (row.address) } }, chips(&through, 3)],
            )
        })
        .collect();
    card(
        "reaches",
        "What they may reach",
        html! { span class="sub" { (counted(resources.len(), "resource", "resources")) } },
        if rows.is_empty() {
            empty(
                "Nothing yet",
                "No policy names a group that they are in.",
                viewer.primary_link("/policies/new", "plus", "Write a policy"),
            )
        } else {
            html! {
                (small_table("Resources", &[("Resource", ""), ("Address", ""), ("Through", "")], &rows))
                @if resources.len() > rows.len() {
                    p class="card-foot" { "and " (thin((resources.len() - rows.len()) as u64)) " more; each policy has its own page with what it names" }
                }
            }
        },
    )
}

/// Forms that put a member into a group and take them out.
fn group_forms(
    viewer: &Viewer,
    names: &Names<'_>,
    member: Member,
    groups: &[GroupId],
    again: &Again,
) -> Markup {
    let (others, waits) = (other_groups(names, groups), viewer.changes_wait());
    card(
        "groups",
        "Groups",
        html! { span class="sub" { (groups.len()) } },
        html! {
            @if !groups.is_empty() {
                ul class="todo" {
                    @for group in groups {
                        li { (icon("people")) div class="inline" {
                            a href={ "/groups/" (group) } { (typed(names.group(*group))) }
                            @if viewer.offers(&format!("/groups/{group}/members/remove")) { form method="post" action={ "/groups/" (group) "/members/remove" } {
                                (viewer.token())
                                input type="hidden" name="member" value=(member.to_string());
                                input type="hidden" name="back" value=(member_page(member));
                                button class="btn btn--sm btn--danger" type="submit" aria-label={ "Take out of " (names.group(*group)) } { "Take out" }
                            } }
                        } }
                    }
                }
            }
            @if names.groups.is_empty() {
                p class="card-body sm" { "There is no group yet." @if viewer.offers("/groups/new") { " " a href="/groups/new" { "Add one" } "." } }
            } @else if !others.is_empty() && viewer.offers("/groups/members/add") {
                form class="card-body card-body--top" method="post" action="/groups/members/add" novalidate {
                    (viewer.token())
                    input type="hidden" name="member" value=(member.to_string());
                    (summary(&again.group_errors, &[("group", GROUP_LABEL)]))
                    (field(&Field { name: "group", label: GROUP_LABEL, kind: Kind::Choice(&others), hint: "", optional: false }, &again.group, &again.group_errors))
                    div class="actions mt-2" {
                        button class="btn btn--sm" type="submit" disabled[waits.is_some()] { "Put into this group" }
                        @if let Some(why) = &waits { span class="sm" { "This waits: " (why) "." } }
                    }
                }
            }
        },
    )
}

const GROUP_LABEL: &str = "Put into a group";

/// The groups that a member is not in, by id and name.
fn other_groups(names: &Names<'_>, groups: &[GroupId]) -> Vec<(String, String)> {
    let others = names.groups.iter().filter(|(id, _)| !groups.contains(id));
    let mut others: Vec<_> = others.map(|(id, name)| (id.to_string(), (*name).to_owned())).collect();
    others.sort_by_cached_key(|(_, name)| name.to_lowercase());
    others
}

fn devices_card(viewer: &Viewer, member: Member, again: &Again) -> Markup {
    let of_member = || viewer.data().devices.iter().filter(|row| row.owner == member);
    let (rows, all) = (device_rows(viewer, of_member().take(MOST_DEVICES)), of_member().count());
    card(
        "devices",
        "Devices",
        html! { span class="sub" { (rows.len()) @if rows.len() < all { " of " (thin(all as u64)) } } },
        html! {
            @if rows.is_empty() {
                (empty("No device yet", "A device enrols with a link that works once. Make it here and send it to its owner.", html! {}))
            } @else {
                (table("Devices", &[("Device", ""), ("State", ""), ("Last heard of", "nowrap")], &rows))
                @if rows.len() < all {
                    p class="card-foot" { a href={ "/devices?q=" (encode(Names::of(viewer.data()).member(member))) } { "All " (thin(all as u64)) " devices" } }
                }
            }
            (device_key_form(viewer, member, again.no_link.as_deref()))
        },
    )
}

/// What a member's page shows again, because it was sent and not done.
#[derive(Default)]
struct Again {
    group: Values,
    group_errors: Errors,
    /// Why no link for a device was made.
    no_link: Option<String>,
    status: StatusCode,
}

/// A member's page, when the link for a device that was asked for was not made.
pub(super) fn without_link(viewer: &Viewer, member: Member, why: &str, status: StatusCode) -> Response {
    let again = Again { no_link: Some(why.to_owned()), status, ..Again::default() };
    member_answer(viewer, &Wanted::default(), member, &again)
}

pub(super) async fn person(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    match id.parse() {
        Ok(id) => member_answer(&viewer, &Wanted(wanted), Member::User(id), &Again::default()),
        Err(_) => missing(&viewer, Thing::User),
    }
}

pub(super) async fn account(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    match id.parse() {
        Ok(id) => member_answer(&viewer, &Wanted(wanted), Member::ServiceAccount(id), &Again::default()),
        Err(_) => missing(&viewer, Thing::ServiceAccount),
    }
}

/// What the pages of the two kinds of members have of their own.
struct About<'a> {
    thing: Thing,
    name: &'a str,
    lede: Markup,
    struck: bool,
    generation: u64,
    created_ms: u64,
    user: Option<&'a store::User>,
}

fn about(viewer: &Viewer, member: Member) -> Option<About<'_>> {
    let strikes = viewer.core.strikes.set();
    match member {
        Member::User(id) => {
            let row = viewer.data().users.iter().find(|row| row.id == id)?;
            let struck = strikes.is_struck(RevokedSubject::User(id), row.generation);
            Some(About {
                thing: Thing::User,
                name: &row.name,
                lede: html! { (state(struck)) (roles::said(row.role)) " " (typed(&row.email)) },
                struck,
                generation: row.generation,
                created_ms: row.created_ms,
                user: Some(row),
            })
        }
        Member::ServiceAccount(id) => {
            let row = viewer.data().service_accounts.iter().find(|row| row.id == id)?;
            let struck = strikes.is_struck(RevokedSubject::ServiceAccount(id), row.generation);
            Some(About {
                thing: Thing::ServiceAccount,
                name: &row.name,
                lede: html! { (state(struck)) " " (plain_badge("service account")) },
                struck,
                generation: row.generation,
                created_ms: row.created_ms,
                user: None,
            })
        }
    }
}

fn member_answer(viewer: &Viewer, wanted: &Wanted, member: Member, again: &Again) -> Response {
    let Some(About { thing, name, lede, struck, generation, created_ms, user }) = about(viewer, member)
    else {
        return missing(viewer, thing_of(member));
    };
    let (page, id) = (thing.page(), member.to_string());
    let role = user.map(|user| user.role);
    let sign_in = user.map_or_else(|| html! {}, |user| sign_in_card(viewer, user));
    let names = Names::of(viewer.data());
    let groups = groups_of(viewer, member);
    let body = html! {
        (head(&[(page, thing.many())], typed(name), lede, html! {
            (viewer.link_button(&format!("/why?who={id}"), "why", "Why can / can’t…"))
            (viewer.link_button(&format!("{page}/{id}/edit"), "edit", if user.is_some() { "Edit" } else { "Rename" }))
            @if role.is_some_and(|role| roles::may_change(&viewer.caller, role)) { (viewer.link_button(&format!("{page}/{id}/role"), "people", "Role")) }
            (buttons(viewer, page, &id, struck))
            (viewer.danger_link(&format!("{page}/{id}/remove"), "Remove", None))
        }))
        (done_note(viewer, wanted))
        div class="grid" {
            div class="stack col-8" { (devices_card(viewer, member, again)) (reaches(viewer, &names, &groups)) }
            div class="stack stack--side col-4" {
                (group_forms(viewer, &names, member, &groups, again))
                (sign_in)
                (card_with_room("facts", "Facts", facts(&[
                    ("Generation", html! { (generation) }),
                    ("Since", time(UnixMs::from_millis(created_ms), viewer.now)),
                    ("Id", html! { code { (id) } }),
                ])))
            }
        }
    };
    let title = if again.status.is_success() { name.to_owned() } else { format!("Error: {name}") };
    viewer.page_with(again.status, thing.here(), &title, html! {}, body)
}

const fn thing_of(member: Member) -> Thing {
    match member {
        Member::User(_) => Thing::User,
        Member::ServiceAccount(_) => Thing::ServiceAccount,
    }
}

/// A page of this console to go back to, whatever a form says.
fn back(posted: &Posted) -> String {
    let wanted = posted.values.one("back");
    let own = wanted.starts_with('/') && !wanted.starts_with("//") && !wanted.contains('\\');
    if own { wanted.to_owned() } else { "/people".to_owned() }
}

pub(super) async fn add_member(api: Extension<Api>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let Posted { viewer, values, .. } = posted;
    let Ok(member) = values.one("member").parse::<Member>() else { return missing(&viewer, Thing::User) };
    let again = |group_errors: Errors, status: StatusCode| {
        let again = Again { group: values.clone(), group_errors, status, ..Again::default() };
        member_answer(&viewer, &Wanted::default(), member, &again)
    };
    if !genuine {
        return again(Errors::other_session(), StatusCode::CONFLICT);
    }
    let names = Names::of(viewer.data());
    let typed = values.one("group");
    let others = other_groups(&names, &groups_of(&viewer, member));
    let group = chosen(&others, typed);
    if group.parse::<GroupId>().is_err() {
        let shown: String = typed.chars().take(80).collect();
        let mut errors = Errors::default();
        let is_in = groups_of(&viewer, member).iter().any(|id| names.group(*id).eq_ignore_ascii_case(typed));
        errors.add(
            "group",
            match typed {
                "" => "Expected the name of a group.".to_owned(),
                _ if is_in => format!("Expected another group; “{shown}” has this member already."),
                _ => format!("Expected the name of a group; none is called “{shown}”."),
            },
        );
        return again(errors, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let path = format!("/groups/{}/members/{}", encode(group), encode(&member.to_string()));
    match send(&api, &viewer, Method::PUT, &path, Some(&json!({})), None).await {
        Ok(_) => Redirect::to(&format!("{}?saved=1", member_page(member))).into_response(),
        Err(refused) => again(Errors::refused(&refused, &[]), refused.http_status()),
    }
}

/// Takes somebody out. A form that is not of this session never comes here: it was asked about before.
pub(super) async fn remove_member(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let back = back(&posted);
    let viewer = &posted.viewer;
    let names = Names::of(viewer.data());
    let (Ok(group), Ok(member)) = (id.parse::<GroupId>(), posted.values.one("member").parse::<Member>())
    else {
        return missing(viewer, Thing::Group);
    };
    let (group_name, name) = (names.group(group), names.member(member));
    if !posted.is_genuine() {
        return Redirect::to(&back).into_response();
    }
    let path = format!("/groups/{group}/members/{member}");
    match send(&api, viewer, Method::DELETE, &path, None, None).await {
        Ok(done) => {
            struck_page(viewer, Here::People, &format!("{name} is out of {group_name}"), &done.body, &back)
        }
        Err(refused) => not_done(viewer, "Nobody was taken out", &refused, &back),
    }
}
