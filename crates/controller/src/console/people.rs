//! People, groups and service accounts: who there is, and who is in what. A member's own page is in `members`.

use super::{
    ask::Refused,
    lists::{self, Listing, Wanted},
    look::{Row, badge, card, chips, counted, empty, head, small_table, time, typed},
    names::{Names, member_page},
    roles,
    shell::{Here, Viewer},
    things::{Thing, done_note, nothing_there},
};
use axum::{
    extract::{Path, Query},
    response::Response,
};
use maud::{Markup, html};
use std::collections::{BTreeMap, BTreeSet};
use store::Member;
use trust::{RevokedSubject, UnixMs};
use wire::GroupId;

pub(super) fn state(struck: bool) -> Markup {
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

/// A page that says why something was not done, where there is no form to say it at.
pub(super) fn not_done(viewer: &Viewer, title: &str, refused: &Refused, back: &str) -> Response {
    let here = if back.starts_with("/settings") { Here::Settings } else { Here::People };
    let body =
        html! { (head(&[], title, refused.sentence(), html! { a class="btn" href=(back) { "Back" } })) };
    viewer.page_with(refused.http_status(), here, title, html! {}, body)
}
