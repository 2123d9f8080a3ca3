//! People, groups and service accounts: who they are, what they are in, and what follows from it.

use super::{
    accounts::sign_in_card,
    ask::{Api, Refused, send},
    devices::device_rows,
    form::Posted,
    keys::device_key_form,
    lists::{self, Listing, Wanted},
    look::{
        Row, badge, card, card_with_room, chips, counted, empty, facts, head, icon, plain_badge, small_table,
        thin, time, typed,
    },
    names::{Names, member_page},
    roles,
    shell::{Here, Viewer, encode},
    strikes::{buttons, struck_page},
    things::{Thing, done_note, nothing_there},
};
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::Method;
use maud::{Markup, html};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use store::Member;
use trust::{RevokedSubject, UnixMs};
use wire::{GroupId, ServiceAccountId, UserId};

/// Devices that are shown on a member's page.
const MOST_DEVICES: usize = 50;

/// Groups of a member, by id.
fn groups_of(viewer: &Viewer, member: Member) -> Vec<GroupId> {
    viewer.data().memberships.iter().filter(|row| row.member == member).map(|row| row.group).collect()
}

fn state(struck: bool) -> Markup {
    if struck { badge("denied", "strike", "revoked") } else { badge("ok", "check", "active") }
}

fn group_chips(names: &Names<'_>, groups: &[GroupId]) -> Markup {
    if groups.is_empty() {
        return html! { span class="quiet" { "no group" } };
    }
    let all: Vec<_> =
        groups.iter().map(|id| (format!("/groups/{id}"), names.group(*id).to_owned())).collect();
    chips(&all, 3)
}

fn by_member(viewer: &Viewer) -> (BTreeMap<Member, Vec<GroupId>>, BTreeMap<Member, usize>) {
    let (mut groups, mut devices): (BTreeMap<Member, Vec<GroupId>>, BTreeMap<Member, usize>) =
        Default::default();
    for row in &viewer.data().memberships {
        groups.entry(row.member).or_default().push(row.group);
    }
    for row in &viewer.data().devices {
        *devices.entry(row.owner).or_default() += 1;
    }
    (groups, devices)
}

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, names, search) = (viewer.data(), Names::of(viewer.data()), wanted.search());
    let (groups, devices) = by_member(&viewer);
    let struck = viewer.core.strikes.set();
    let mut rows: Vec<&store::User> = data
        .users
        .iter()
        .filter(|row| {
            search.is_empty() || row.name.to_lowercase().contains(&search) || row.email.contains(&search)
        })
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let add = viewer.primary_link("/people/new", "plus", "Add a person");
    let listing = Listing {
        here: Here::People,
        title: "People and groups",
        lede: "What a person reaches follows from their groups. Leaving a group takes effect within 5 s.",
        path: "/people",
        actions: html! { (viewer.link_button("/groups/new", "plus", "Add a group")) (add) },
        above: html! { (done_note(&viewer, &wanted)) div class="mb-4" { (group_card(&viewer, &names, &search)) } },
        search: "Name or e-mail",
        filters: html! {},
        columns: &[
            ("Name", ""),
            ("State", ""),
            ("Role", "low"),
            ("Groups", ""),
            ("Devices", "num"),
            ("Since", "nowrap low"),
        ],
        one: "person",
        many: "people",
        nothing: empty("No people yet", "A person has devices and is in groups; policies name groups.", add),
    };
    lists::page(&viewer, &wanted, &listing, data.users.len(), &rows, |row| {
        let member = Member::User(row.id);
        Row::new(
            html! { a href={ "/people/" (row.id) } { (typed(&row.name)) } span class="sub wrap-any" { (typed(&row.email)) } },
            vec![
                state(struck.is_struck(RevokedSubject::User(row.id), row.generation)),
                roles::shown(row.role),
                group_chips(&names, groups.get(&member).map_or(&[], Vec::as_slice)),
                html! { (devices.get(&member).copied().unwrap_or(0)) },
                time(UnixMs::from_millis(row.created_ms), viewer.now),
            ],
        )
    })
}

fn group_card(viewer: &Viewer, names: &Names<'_>, search: &str) -> Markup {
    let data = viewer.data();
    let mut rows: Vec<&store::Group> = data
        .groups
        .iter()
        .filter(|row| search.is_empty() || row.name.to_lowercase().contains(search))
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let all = rows.len();
    let shown: Vec<Row> = rows
        .iter()
        .take(lists::PER_PAGE)
        .map(|row| {
            let policies = data.policies.iter().filter(|policy| policy.groups.contains(&row.id)).count();
            Row::new(html! { a href={ "/groups/" (row.id) } { (typed(&row.name)) } }, vec![
                html! { (counted(names.in_group.get(&row.id).map_or(0, BTreeSet::len), "member", "members")) },
                html! { @if policies == 0 { span class="quiet" { "no policy names it" } } @else { (counted(policies, "policy", "policies")) } },
            ])
        })
        .collect();
    let body = if data.groups.is_empty() {
        empty(
            "No groups yet",
            "Policies name groups. The first one could be everybody, or one team.",
            viewer.primary_link("/groups/new", "plus", "Add a group"),
        )
    } else if shown.is_empty() {
        html! { p class="card-body sm quiet" { "No group fits." } }
    } else {
        html! {
            (small_table("Groups", &[("Group", ""), ("Members", ""), ("Policies", "")], &shown))
            @if all > shown.len() { div class="card-foot" { "and " (all - shown.len()) " more; search to find one" } }
        }
    };
    card("groups", "Groups", html! { span class="sub" { (all) } }, body)
}

pub(super) fn missing(viewer: &Viewer, thing: Thing) -> Response {
    nothing_there(viewer, thing, &Refused { status: 404, ..Refused::default() })
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
            small_table("Resources", &[("Resource", ""), ("Address", ""), ("Through", "")], &rows)
        },
    )
}

/// Forms that put a member into a group and take them out.
fn group_forms(viewer: &Viewer, names: &Names<'_>, member: Member, groups: &[GroupId]) -> Markup {
    let mut others: Vec<_> = names.groups.iter().filter(|(id, _)| !groups.contains(id)).collect();
    others.sort_by_key(|(_, name)| name.to_lowercase());
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
                form class="card-foot" method="post" action="/groups/members/add" {
                    (viewer.token())
                    input type="hidden" name="member" value=(member.to_string());
                    input type="hidden" name="back" value=(member_page(member));
                    span class="select-wrap" {
                        select class="select" name="group" aria-label="Group" { @for (id, name) in others.iter().take(500) { option value=(id) { (name) } } }
                        (icon("chev"))
                    }
                    button class="btn btn--sm" type="submit" { "Put into this group" }
                }
            }
        },
    )
}

fn devices_card(viewer: &Viewer, member: Member) -> Markup {
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
                (super::look::table("Devices", &[("Device", ""), ("State", ""), ("Last heard of", "nowrap")], &rows))
                @if rows.len() < all {
                    p class="card-foot" { a href={ "/devices?q=" (encode(Names::of(viewer.data()).member(member))) } { "All " (thin(all as u64)) " devices" } }
                }
            }
            (device_key_form(viewer, member))
        },
    )
}

pub(super) async fn person(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let found = id.parse::<UserId>().ok();
    let Some(row) = found.and_then(|id| viewer.data().users.iter().find(|row| row.id == id)) else {
        return missing(&viewer, Thing::User);
    };
    let struck = viewer.core.strikes.set().is_struck(RevokedSubject::User(row.id), row.generation);
    let member = Member::User(row.id);
    member_answer(
        &viewer,
        &wanted,
        (Here::People, "/people", "People and groups"),
        &id,
        &row.name,
        html! { (state(struck)) (roles::said(row.role)) " " (typed(&row.email)) },
        member,
        struck,
        row.generation,
        row.created_ms,
        Some(row),
    )
}

pub(super) async fn account(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let found = id.parse::<ServiceAccountId>().ok();
    let Some(row) = found.and_then(|id| viewer.data().service_accounts.iter().find(|row| row.id == id))
    else {
        return missing(&viewer, Thing::ServiceAccount);
    };
    let struck = viewer.core.strikes.set().is_struck(RevokedSubject::ServiceAccount(row.id), row.generation);
    let member = Member::ServiceAccount(row.id);
    member_answer(
        &viewer,
        &wanted,
        (Here::ServiceAccounts, "/service-accounts", "Service accounts"),
        &id,
        &row.name,
        html! { (state(struck)) " " (plain_badge("service account")) },
        member,
        struck,
        row.generation,
        row.created_ms,
        None,
    )
}

#[expect(clippy::too_many_arguments, reason = "one page for two kinds of members, called twice above")]
fn member_answer(
    viewer: &Viewer,
    wanted: &Wanted,
    (here, page, list): (Here, &'static str, &'static str),
    id: &str,
    name: &str,
    lede: Markup,
    member: Member,
    struck: bool,
    generation: u64,
    created_ms: u64,
    user: Option<&store::User>,
) -> Response {
    let role = user.map(|user| user.role);
    let sign_in = user.map_or_else(|| html! {}, |user| sign_in_card(viewer, user));
    let names = Names::of(viewer.data());
    let groups = groups_of(viewer, member);
    let body = html! {
        (head(&[(page, list)], typed(name), lede, html! {
            (viewer.link_button(&format!("/why?who={id}"), "why", "Why can / can’t…"))
            @if here == Here::People { (viewer.link_button(&format!("{page}/{id}/edit"), "edit", "Edit")) }
            @if role.is_some_and(|role| roles::may_change(&viewer.caller, role)) { (viewer.link_button(&format!("{page}/{id}/role"), "people", "Role")) }
            (buttons(viewer, page, id, struck))
            (viewer.danger_link(&format!("{page}/{id}/remove"), "Remove", None))
        }))
        (done_note(viewer, wanted))
        div class="grid" {
            div class="stack col-8" { (devices_card(viewer, member)) (reaches(viewer, &names, &groups)) }
            div class="stack stack--side col-4" {
                (group_forms(viewer, &names, member, &groups))
                (sign_in)
                (card_with_room("facts", "Facts", facts(&[
                    ("Generation", html! { (generation) }),
                    ("Since", time(UnixMs::from_millis(created_ms), viewer.now)),
                    ("Id", html! { code { (id) } }),
                ])))
            }
        }
    };
    viewer.page(here, name, body)
}

pub(super) async fn accounts(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, names, search) = (viewer.data(), Names::of(viewer.data()), wanted.search());
    let (groups, devices) = by_member(&viewer);
    let struck = viewer.core.strikes.set();
    let mut rows: Vec<&store::ServiceAccount> = data
        .service_accounts
        .iter()
        .filter(|row| search.is_empty() || row.name.to_lowercase().contains(&search))
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let add = viewer.primary_link("/service-accounts/new", "plus", "Add a service account");
    let listing = Listing {
        here: Here::ServiceAccounts,
        title: "Service accounts",
        lede: "For machines without a person: a backup, a build, a sensor. They are in groups like people and enrol with a key.",
        path: "/service-accounts",
        actions: add.clone(),
        above: done_note(&viewer, &wanted),
        search: "Name",
        filters: html! {},
        columns: &[("Name", ""), ("State", ""), ("Groups", ""), ("Devices", "num")],
        one: "service account",
        many: "service accounts",
        nothing: empty(
            "No service accounts yet",
            "A service account gives a container, a timer or a build its own access, which ends with it.",
            add,
        ),
    };
    lists::page(&viewer, &wanted, &listing, data.service_accounts.len(), &rows, |row| {
        let member = Member::ServiceAccount(row.id);
        Row::new(
            html! { a href={ "/service-accounts/" (row.id) } { (typed(&row.name)) } },
            vec![
                state(struck.is_struck(RevokedSubject::ServiceAccount(row.id), row.generation)),
                group_chips(&names, groups.get(&member).map_or(&[], Vec::as_slice)),
                html! { (devices.get(&member).copied().unwrap_or(0)) },
            ],
        )
    })
}

pub(super) async fn group(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let found = id.parse::<GroupId>().ok();
    let Some(row) = found.and_then(|id| viewer.data().groups.iter().find(|row| row.id == id)) else {
        return missing(&viewer, Thing::Group);
    };
    let names = Names::of(viewer.data());
    let search = wanted.search();
    let members: Vec<Member> = names.in_group.get(&row.id).into_iter().flatten().copied().collect();
    let mut shown: Vec<Member> = members
        .iter()
        .copied()
        .filter(|member| names.member(*member).to_lowercase().contains(&search))
        .collect();
    shown.sort_by_cached_key(|member| names.member(*member).to_lowercase());
    let path = format!("/groups/{id}");
    let listing = Listing {
        here: Here::People,
        title: "Members",
        lede: "",
        path: &path,
        actions: html! {},
        above: html! {},
        search: "Name",
        filters: html! {},
        columns: &[("Name", ""), ("Kind", ""), ("Actions", "row-actions")],
        one: "member",
        many: "members",
        nothing: empty(
            "Nobody is in this group yet",
            "Open a person or service account and put them into it.",
            viewer.link_button("/people", "people", "People"),
        ),
    };
    let table = lists::table_of(&wanted, &listing, members.len(), &shown, |member| {
        Row::new(
            html! { a href=(member_page(*member)) { (typed(names.member(*member))) } },
            vec![
                html! { @match member { Member::User(_) => "person", Member::ServiceAccount(_) => "service account" } },
                html! { @if viewer.offers(&format!("/groups/{id}/members/remove")) { div { form method="post" action={ "/groups/" (id) "/members/remove" } {
                    (viewer.token())
                    input type="hidden" name="member" value=(member.to_string());
                    input type="hidden" name="back" value=(path);
                    button class="btn btn--sm btn--danger" type="submit" aria-label={ "Take out " (names.member(*member)) } { "Take out" }
                } } } },
            ],
        )
    });
    let policies: Vec<Row> = viewer
        .data()
        .policies
        .iter()
        .filter(|policy| policy.groups.contains(&row.id))
        .map(|policy| {
            Row::new(
                html! { a href={ "/policies/" (policy.id) } { (typed(&policy.name)) } },
                vec![html! { (counted(policy.resources.len(), "resource", "resources")) }],
            )
        })
        .collect();
    let body = html! {
        (head(&[("/people", "People and groups")], typed(&row.name), "Whoever is in it reaches what its policies name.", html! {
            (viewer.link_button(&format!("{path}/edit"), "edit", "Rename"))
            (viewer.danger_link(&format!("{path}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        div class="grid" {
            div class="col-8" { (table) }
            div class="stack stack--side col-4" {
                (card("policies", "Policies", html! {}, if policies.is_empty() {
                    html! { div class="card-body sm" { p class="quiet mb-2" { "No policy names this group: its members reach nothing by it." } (viewer.primary_link(&format!("/policies/new?group={id}"), "plus", "Write a policy")) } }
                } else { small_table("Policies", &[("Policy", ""), ("Reaches", "")], &policies) }))
            }
        }
    };
    viewer.page(Here::People, &row.name, body)
}

/// A page of this console to go back to, whatever a form says.
fn back(posted: &Posted) -> String {
    let wanted = posted.values.one("back");
    let own = wanted.starts_with('/') && !wanted.starts_with("//") && !wanted.contains('\\');
    if own { wanted.to_owned() } else { "/people".to_owned() }
}

pub(super) async fn add_member(api: Extension<Api>, posted: Posted) -> Response {
    let back = back(&posted);
    if !posted.is_genuine() {
        return Redirect::to(&back).into_response();
    }
    let path = format!(
        "/groups/{}/members/{}",
        encode(posted.values.one("group")),
        encode(posted.values.one("member"))
    );
    match send(&api, &posted.viewer, Method::PUT, &path, Some(&json!({})), None).await {
        Ok(_) => Redirect::to(&format!("{back}?saved=1")).into_response(),
        Err(refused) => not_done(&posted.viewer, "Nobody was put into a group", &refused, &back),
    }
}

pub(super) async fn remove_member(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    let back = back(&posted);
    if !posted.is_genuine() {
        return Redirect::to(&back).into_response();
    }
    let member = posted.values.one("member");
    let path = format!("/groups/{}/members/{}", encode(&id), encode(member));
    match send(&api, &posted.viewer, Method::DELETE, &path, None, None).await {
        Ok(done) => {
            let names = Names::of(posted.viewer.data());
            let name = member.parse().map_or("It", |member| names.member(member));
            let group = id.parse().map_or("the group", |group| names.group(group));
            struck_page(&posted.viewer, Here::People, &format!("{name} is out of {group}"), &done.body, &back)
        }
        Err(refused) => not_done(&posted.viewer, "Nobody was taken out", &refused, &back),
    }
}

pub(super) fn not_done(viewer: &Viewer, title: &str, refused: &Refused, back: &str) -> Response {
    let body =
        html! { (head(&[], title, refused.sentence(), html! { a class="btn" href=(back) { "Back" } })) };
    viewer.page_with(refused.http_status(), Here::People, title, html! {}, body)
}
