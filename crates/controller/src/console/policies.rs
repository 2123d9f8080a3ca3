//! Policies: these groups reach these resources. Nothing is saved before its effect was shown.

use super::{
    ask::{Api, Done, Refused, send},
    form::{Errors, Field, Kind, OTHER_SESSION, Posted, Values, chosen, conflict, field, summary},
    lists::{self, Listing, Wanted},
    look::{Row, card, card_with_room, chips, counted, empty, facts, head, icon, note, thin, time, typed},
    names::{Names, member_page},
    shell::{Here, Viewer},
    things::{Thing, done_note, nothing_there},
};
use crate::{
    access::{Changed, Preview},
    api::is_unchanged,
};
use axum::{
    Extension,
    extract::{Path, Query},
    response::{IntoResponse, Redirect, Response},
};
use http::{Method, StatusCode};
use maud::{Markup, html};
use policy::{Mode, PolicyModel};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use trust::UnixMs;
use wire::{GroupId, PolicyId, ResourceId};

/// People of a list who are named one by one.
const NAMED: usize = 12;
/// Choices of a list; more are found by their name.
const CHOICES: usize = 300;

pub(super) async fn list(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, names, search) = (viewer.data(), Names::of(viewer.data()), wanted.search());
    let mut rows: Vec<&store::Policy> = data
        .policies
        .iter()
        .filter(|row| {
            search.is_empty()
                || row.name.to_lowercase().contains(&search)
                || row.groups.iter().any(|group| names.group(*group).to_lowercase().contains(&search))
        })
        .collect();
    rows.sort_by_cached_key(|row| row.name.to_lowercase());
    let add = viewer.primary_link("/policies/new", "plus", "Write a policy");
    let listing = Listing {
        here: Here::Policies,
        title: "Policies",
        lede: "A policy says which groups reach which resources. What no policy opens is closed.",
        path: "/policies",
        actions: html! { (viewer.link_button("/access", "lock", "Access graph")) (add) },
        above: done_note(&viewer, &wanted),
        search: "Policy or group",
        filters: html! {},
        columns: &[("Policy", ""), ("Groups", ""), ("Resources", ""), ("Members", "num low")],
        one: "policy",
        many: "policies",
        nothing: empty(
            "No policies yet",
            "Everything is closed. A policy says which groups reach which resources, and shows who gains access before it is saved.",
            add,
        ),
    };
    lists::page(&viewer, &wanted, &listing, data.policies.len(), &rows, |row| {
        let groups: Vec<_> =
            row.groups.iter().map(|id| (format!("/groups/{id}"), names.group(*id).to_owned())).collect();
        let resources: Vec<_> = row
            .resources
            .iter()
            .map(|id| {
                (
                    format!("/resources/{id}"),
                    names.resources.get(id).map_or("removed", |row| &row.name).to_owned(),
                )
            })
            .collect();
        Row::new(
            html! { a href={ "/policies/" (row.id) } { (typed(&row.name)) } },
            vec![chips(&groups, 3), chips(&resources, 3), html! { (names.people(&row.groups).len()) }],
        )
    })
}

fn ids<T: std::str::FromStr + Ord>(values: &Values, name: &str) -> Vec<T> {
    let all: BTreeSet<T> = values.all(name).into_iter().filter_map(|text| text.parse().ok()).collect();
    all.into_iter().collect()
}

/// Adds what was typed into the fields for one more, by its name.
fn picked(names: &Names<'_>, values: &mut Values, errors: &mut Errors) {
    let (group, resource) = (values.one("add_group").to_owned(), values.one("add_resource").to_owned());
    // The one that is called so to the letter, else the only one that is nearly called so: nobody gets access by a name
    // that two have.
    let found = |options: Vec<(String, String)>, typed: &str| {
        let found = chosen(&options, typed).to_owned();
        options.iter().any(|(id, _)| *id == found).then_some(found)
    };
    let found_group =
        found(names.groups.iter().map(|(id, name)| (id.to_string(), (*name).to_owned())).collect(), &group);
    let all = || names.resources.values();
    let by_name = found(all().map(|row| (row.id.to_string(), row.name.clone())).collect(), &resource);
    let by_address = || {
        let mut there = all().filter(|row| row.address.eq_ignore_ascii_case(resource.trim()));
        there.next().filter(|_| there.next().is_none()).map(|row| row.id.to_string())
    };
    let found_resource = by_name.or_else(by_address);
    for (into, field, found, asked) in
        [("groups", "add_group", found_group, group), ("resources", "add_resource", found_resource, resource)]
    {
        if asked.is_empty() {
            continue;
        }
        match found {
            Some(id) => values.set(into, id),
            None => {
                let asked: String = asked.chars().take(80).collect();
                errors.add(
                    field,
                    format!("Expected the name of one that there is; “{asked}” is the name of none, or of several that differ in upper and lower case."),
                );
            }
        }
    }
}

fn body(values: &Values) -> Value {
    json!({"name": values.one("name"), "groups": values.all("groups"), "resources": values.all("resources")})
}

fn wanted_policy(values: &Values) -> PolicyModel {
    PolicyModel {
        name: values.one("name").to_owned(),
        groups: ids::<GroupId>(values, "groups").into_iter().collect(),
        resources: ids::<ResourceId>(values, "resources").into_iter().collect(),
    }
}

/// Of a policy that is not there yet: no policy has it.
const fn fresh() -> PolicyId {
    PolicyId::from_bytes([0; 16])
}

fn editor(
    viewer: &Viewer,
    id: Option<PolicyId>,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
    aside: Markup,
) -> Response {
    let names = Names::of(viewer.data());
    let (groups, resources): (Vec<GroupId>, Vec<ResourceId>) =
        (ids(values, "groups"), ids(values, "resources"));
    let shown = viewer.scene().preview(id.unwrap_or_else(fresh), Some(wanted_policy(values)));
    let action = id.map_or_else(|| "/policies/new".to_owned(), |id| format!("/policies/{id}/edit"));
    let back = id.map_or_else(|| "/policies".to_owned(), |id| format!("/policies/{id}"));
    let title = id.map_or_else(|| "Write a policy".to_owned(), |_| format!("Edit “{}”", values.one("name")));
    let waits = viewer.changes_wait();
    let was = id.and_then(|id| names.policies.get(&id));
    let mut group_choices: Vec<(&GroupId, &&str)> =
        names.groups.iter().filter(|(id, _)| !groups.contains(id)).collect();
    group_choices.sort_by_key(|(_, name)| name.to_lowercase());
    let mut resource_choices: Vec<_> =
        names.resources.values().filter(|row| !resources.contains(&row.id)).collect();
    resource_choices.sort_by_key(|row| row.name.to_lowercase());
    let save = match (shown.gain.len(), shown.lose.len()) {
        (0, 0) => "Save: nobody’s access changes".to_owned(),
        (gain, lose) => format!("Save: {} gain, {} lose", thin(gain as u64), thin(lose as u64)),
    };
    let shrink = errors.of("allow_shrink").is_some();
    let page = html! {
        (head(&[("/policies", "Policies")], typed(&title),
            html! { "Nothing changes until you save. The preview is computed from the people and devices of " (super::look::said(viewer.now, viewer.now)) ", by the connectors’ own decision." }, html! {}))
        div class="grid" {
            div class="stack col-5" {
                form class="card" action=(action) method="post" aria-label="Policy" novalidate {
                    (viewer.token())
                    // What Enter presses in a field is a form's first button: without this one it would take out a group.
                    button class="first-button" type="submit" name="do" value="enter" tabindex="-1" aria-hidden="true" { "Preview" }
                    @if values.has("version") { input type="hidden" name="version" value=(values.one("version")); }
                    div class="card-body card-body--top" {
                        (summary(errors, &[("name", "Name"), ("add_group", "Who"), ("add_resource", "May reach")]))
                        (field(&Field { name: "name", label: "Name", kind: Kind::Text, hint: "Say what it is for: Billing databases.", optional: false }, values, errors))
                        (picker("Who", "groups", "add_group", "Add a group", groups.iter().map(|id| (id.to_string(), names.group(*id).to_owned())).collect(),
                            group_choices.iter().map(|(_, name)| (**name).to_owned()).take(CHOICES).collect(),
                            was.map(|was| was.groups.iter().map(|id| names.group(*id)).collect::<Vec<_>>().join(", ")), errors))
                        (picker("May reach", "resources", "add_resource", "Add a resource", resources.iter().map(|id| (id.to_string(), names.resources.get(id).map_or("removed", |row| &row.name).to_owned())).collect(),
                            resource_choices.iter().map(|row| row.name.clone()).take(CHOICES).collect(),
                            was.map(|was| was.resources.iter().map(|id| names.resources.get(id).map_or("removed", |row| row.name.as_str())).collect::<Vec<_>>().join(", ")), errors))
                        @if shrink { label class="check" { input type="checkbox" name="allow_shrink" value="true"; span { "Yes, so much at once is meant" } } }
                    }
                    div class="card-foot" {
                        button class="btn" type="submit" name="do" value="preview" { "Preview" }
                        button class="btn btn--primary" type="submit" name="do" value="save" disabled[waits.is_some()] { (save) }
                        a class="btn btn--quiet" href=(back) { "Discard" }
                        @if let Some(why) = &waits { span { "Saving waits: " (why) ". What you typed stays here." } }
                    }
                }
                (aside)
            }
            div class="stack col-7" {
                (changes(viewer, &names, &shown))
                (strict_note(viewer, &resources))
                (note("", "info", html! {
                    "After saving, connectors enforce this within 5 s, and devices hear of it within 30 s. Nobody has to sign in again. Version "
                    (thin(viewer.data().organization.version.version)) " becomes " (thin(viewer.data().organization.version.version + 1))
                    "; if someone else saves first, you will see both versions."
                }))
            }
        }
    };
    let title = if errors.is_empty() { title } else { format!("Error: {title}") };
    viewer.page_with(status, Here::Policies, &title, html! {}, page)
}

#[expect(clippy::too_many_arguments, reason = "one field, called twice above")]
fn picker(
    label: &str,
    name: &'static str,
    add: &'static str,
    placeholder: &str,
    chosen: Vec<(String, String)>,
    choices: Vec<String>,
    was: Option<String>,
    errors: &Errors,
) -> Markup {
    let error = errors.of(add);
    html! {
        div class="field" {
            label for=(add) { (label) }
            div class="picked" {
                @for (id, text) in &chosen {
                    span class="chip" {
                        (typed(text))
                        input type="hidden" name=(name) value=(id);
                        button type="submit" name="remove" value={ (name) " " (id) } aria-label={ "Remove " (text) } { (icon("cross")) }
                    }
                }
                input class="input" id=(add) name=(add) placeholder=(placeholder) list={ (add) "-list" } autocomplete="off" dir="auto" aria-invalid=[error.map(|_| "true")] aria-describedby=[error.map(|_| format!("{add}-error"))];
                datalist id={ (add) "-list" } { @for choice in &choices { option value=(choice) {} } }
            }
            @if let Some(error) = error { p class="error" id={ (add) "-error" } { (icon("warn")) span { (error) } } }
            @if let Some(was) = was { p class="hint" { "Was: " (typed(if was.is_empty() { "none" } else { &was })) } }
        }
    }
}

fn changes(viewer: &Viewer, names: &Names<'_>, shown: &Preview) -> Markup {
    let ending: usize = shown.lose.iter().map(|one| one.attached).sum();
    card(
        "preview",
        "Who gains and loses access",
        html! { span class="sub" { (counted(shown.unchanged, "member", "members")) " unchanged" } },
        html! {
            div class="delta" id="delta" {
                div class="gain" { b { "+" (thin(shown.gain.len() as u64)) } span { "gain" } }
                div class="lose" { b { "−" (thin(shown.lose.len() as u64)) } span { "lose" } }
                div { b { (thin(ending as u64)) } span { "of their devices are connected now" } }
            }
            @if shown.stopped {
                p class="card-body" { "This names more people and resources than can be decided one by one for a page. Saving is possible; look at it in smaller steps to see who is meant." }
            } @else if shown.gain.is_empty() && shown.lose.is_empty() {
                p class="card-body sm quiet" { "Nobody’s access changes by this." }
            }
            (side(viewer, names, "Lose access", "lose", "minus", &shown.lose))
            (side(viewer, names, "Gain access", "gain", "plus", &shown.gain))
        },
    )
}

fn side(
    _viewer: &Viewer,
    names: &Names<'_>,
    title: &str,
    class: &'static str,
    sign: &'static str,
    all: &[Changed],
) -> Markup {
    html! {
        @if !all.is_empty() {
            div class="diff-title" { h3 { (title) } span class="quiet" { (counted(all.len(), "member", "members")) } }
            ul class="diff" {
                @for one in all.iter().take(NAMED) {
                    li class=(class) {
                        (icon(sign))
                        div {
                            a href=(member_page(one.member)) { (typed(names.member(one.member))) }
                            span class="sub" { @if one.attached > 0 { (counted(one.attached, "device is connected now", "devices are connected now")) } @else { "no device is connected now" } }
                        }
                        span class="sm quiet" {
                            @for (index, id) in one.resources.iter().take(3).enumerate() {
                                @if index > 0 { ", " } (typed(names.resources.get(id).map_or("removed", |row| &row.name)))
                            }
                            @if one.resources.len() > 3 { " and " (one.resources.len() - 3) " more" }
                        }
                    }
                }
                @if all.len() > NAMED { li class=(class) { (icon(sign)) div { "and " (thin((all.len() - NAMED) as u64)) " more" span class="sub" { "the numbers above count all of them" } } } }
            }
        }
    }
}

fn strict_note(viewer: &Viewer, resources: &[ResourceId]) -> Markup {
    let model = viewer.model();
    let strict: Vec<&str> = resources
        .iter()
        .filter_map(|id| model.resources.get(id))
        .filter(|resource| resource.mode == Mode::Strict)
        .map(|resource| resource.name.as_str())
        .collect();
    html! {
        @if !strict.is_empty() {
            (note("note--warn", "warn", html! {
                strong { (typed(strict[0])) @if strict.len() > 1 { " and " (strict.len() - 1) " more" } " is strict." }
                " When its connector hears no controller for 70 s, it closes for everybody, also for those who gain access here."
            }))
        }
    }
}

pub(super) async fn new_page(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let mut values = Values::default();
    for (from, into) in [("group", "groups"), ("resource", "resources")] {
        if let Some(id) = wanted.get(from) {
            values.set(into, id.clone());
        }
    }
    editor(&viewer, None, &values, &Errors::default(), StatusCode::OK, html! {})
}

fn stored(done: &Done) -> Values {
    let mut values = Values::default();
    values.set("name", done.body["name"].as_str().unwrap_or_default());
    for name in ["groups", "resources"] {
        for id in done.body[name].as_array().into_iter().flatten().filter_map(Value::as_str) {
            values.set(name, id);
        }
    }
    values.set("version", done.version.clone());
    values
}

pub(super) async fn edit_page(api: Extension<Api>, viewer: Viewer, Path(id): Path<String>) -> Response {
    let Ok(policy) = id.parse::<PolicyId>() else { return missing(&viewer) };
    match send(&api, &viewer, Method::GET, &format!("/policies/{policy}"), None, None).await {
        Ok(done) => {
            editor(&viewer, Some(policy), &stored(&done), &Errors::default(), StatusCode::OK, html! {})
        }
        Err(refused) => nothing_there(&viewer, Thing::Policy, &refused),
    }
}

fn missing(viewer: &Viewer) -> Response {
    nothing_there(viewer, Thing::Policy, &Refused { status: 404, ..Refused::default() })
}

pub(super) async fn create(api: Extension<Api>, posted: Posted) -> Response {
    save(api, None, posted).await
}

pub(super) async fn replace(api: Extension<Api>, Path(id): Path<String>, posted: Posted) -> Response {
    match id.parse() {
        Ok(id) => save(api, Some(id), posted).await,
        Err(_) => missing(&posted.viewer),
    }
}

async fn save(api: Extension<Api>, id: Option<PolicyId>, posted: Posted) -> Response {
    let genuine = posted.is_genuine();
    let Posted { viewer, mut values, .. } = posted;
    let mut errors = Errors::default();
    picked(&Names::of(viewer.data()), &mut values, &mut errors);
    let removed = values.one("remove").to_owned();
    if let Some((name, id)) = removed.split_once(' ') {
        values.remove(name, id);
    }
    if !genuine {
        errors.add("", OTHER_SESSION);
        return editor(&viewer, id, &values, &errors, StatusCode::CONFLICT, html! {});
    }
    // Enter in a field previews: only the button saves.
    if values.one("do") != "save" || !errors.is_empty() {
        let status = if errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
        return editor(&viewer, id, &values, &errors, status, html! {});
    }
    let sent = match id {
        None => send(&api, &viewer, Method::POST, "/policies", Some(&body(&values)), None).await,
        Some(id) => {
            let path = format!("/policies/{id}");
            let now = match send(&api, &viewer, Method::GET, &path, None, None).await {
                Ok(now) => now,
                Err(refused) => return nothing_there(&viewer, Thing::Policy, &refused),
            };
            if !is_unchanged(values.one("version"), &now.version) {
                return outdated(&viewer, id, &values, &now);
            }
            let query = if values.one("allow_shrink") == "true" { "?allow_shrink=true" } else { "" };
            let sent = send(
                &api,
                &viewer,
                Method::PUT,
                &format!("{path}{query}"),
                Some(&body(&values)),
                Some(&now.version),
            )
            .await;
            match sent {
                Err(refused) if refused.is_outdated() => return outdated(&viewer, id, &values, &now),
                sent => sent,
            }
        }
    };
    match sent {
        Ok(done) => {
            Redirect::to(&format!("/policies/{}?saved=1", done.body["id"].as_str().unwrap_or_default()))
                .into_response()
        }
        Err(refused) => {
            let mut errors = Errors::refused(&refused, &["name"]);
            if refused.is_shrink() {
                errors.add("allow_shrink", refused.sentence());
            }
            editor(&viewer, id, &values, &errors, refused.http_status(), html! {})
        }
    }
}

fn outdated(viewer: &Viewer, id: PolicyId, values: &Values, now: &Done) -> Response {
    let names = Names::of(viewer.data());
    let stored = stored(now);
    let words = |values: &Values, name: &str| -> String {
        match name {
            "groups" => {
                ids::<GroupId>(values, name).iter().map(|id| names.group(*id)).collect::<Vec<_>>().join(", ")
            }
            "resources" => ids::<ResourceId>(values, name)
                .iter()
                .map(|id| names.resources.get(id).map_or("removed", |row| row.name.as_str()))
                .collect::<Vec<_>>()
                .join(", "),
            name => values.one(name).to_owned(),
        }
    };
    let rows: Vec<_> = [("Name", "name"), ("Who", "groups"), ("May reach", "resources")]
        .map(|(label, name)| (label, words(&stored, name), words(values, name)))
        .into();
    let mut kept = values.clone();
    kept.set("version", now.version.clone());
    let mut errors = Errors::default();
    errors.add("", "Somebody changed this while you were editing. Both versions are below the form.");
    editor(viewer, Some(id), &kept, &errors, StatusCode::PRECONDITION_FAILED, conflict(&rows))
}

/// One policy: who, what, and who that is.
pub(super) async fn one(
    viewer: Viewer,
    Path(id): Path<String>,
    Query(wanted): Query<BTreeMap<String, String>>,
) -> Response {
    let wanted = Wanted(wanted);
    let names = Names::of(viewer.data());
    let Some(row) = id.parse::<PolicyId>().ok().and_then(|id| names.policies.get(&id).copied()) else {
        return missing(&viewer);
    };
    let resources: Vec<Row> = row
        .resources
        .iter()
        .filter_map(|id| names.resources.get(id))
        .take(200)
        .map(|resource| {
            Row::new(
                html! { a href={ "/resources/" (resource.id) } { (typed(&resource.name)) } },
                vec![
                    html! { span class="mono wrap-any" { (resource.address) } },
                    html! { span class="mono" { (super::resources::ports(resource)) } },
                    html! { (typed(names.site(resource.site))) },
                ],
            )
        })
        .collect();
    let groups: Vec<Row> = row
        .groups
        .iter()
        .map(|id| {
            Row::new(
                html! { a href={ "/groups/" (id) } { (typed(names.group(*id))) } },
                vec![
                    html! { (counted(names.in_group.get(id).map_or(0, BTreeSet::len), "member", "members")) },
                ],
            )
        })
        .collect();
    let people = names.people(&row.groups).len();
    let body = html! {
        (head(&[("/policies", "Policies")], typed(&row.name), html! {
            (counted(people, "member", "members")) " of " (counted(row.groups.len(), "group", "groups")) " may reach " (counted(row.resources.len(), "resource", "resources")) "."
        }, html! {
            (viewer.link_button(&format!("/policies/{id}/edit"), "edit", "Edit with preview"))
            (viewer.danger_link(&format!("/policies/{id}/remove"), "Remove", None))
        }))
        (done_note(&viewer, &wanted))
        div class="grid" {
            div class="stack col-8" {
                (card("res", "May reach", html! { span class="sub" { (row.resources.len()) } }, if resources.is_empty() {
                    empty("Nothing yet", "This policy names no resource.", viewer.link_button(&format!("/policies/{id}/edit"), "edit", "Edit"))
                } else { html! {
                    (super::look::table("Resources", &[("Resource", ""), ("Address", ""), ("Ports", ""), ("Site", "low")], &resources))
                    @if row.resources.len() > resources.len() { p class="card-foot" { "and " (thin((row.resources.len() - resources.len()) as u64)) " more, which its editor shows" } }
                } }))
            }
            div class="stack stack--side col-4" {
                (card("who", "Who", html! { span class="sub" { (row.groups.len()) } }, if groups.is_empty() {
                    html! { p class="card-body sm quiet" { "This policy names no group." } }
                } else { super::look::small_table("Groups", &[("Group", ""), ("Members", "")], &groups) }))
                (card_with_room("facts", "Facts", facts(&[
                    ("Made", time(UnixMs::from_millis(row.created_ms), viewer.now)),
                    ("Id", html! { code { (id) } }),
                ])))
            }
        }
    };
    viewer.page(Here::Policies, &row.name, body)
}

/// Before a policy goes: who loses what.
pub(super) async fn remove_page(api: Extension<Api>, viewer: Viewer, path: Path<String>) -> Response {
    let names = Names::of(viewer.data());
    let Some(row) = path.0.parse::<PolicyId>().ok().and_then(|id| names.policies.get(&id).copied()) else {
        return missing(&viewer);
    };
    let shown = viewer.scene().preview(row.id, None);
    if shown.lose.is_empty() {
        return super::removal::remove_page(Thing::Policy, api, viewer, path).await;
    }
    let (back, waits) = (format!("/policies/{}", row.id), viewer.changes_wait());
    let body = html! {
        (head(&[("/policies", "Policies"), (&back, &row.name)], html! { "Remove " (typed(&row.name)) "?" }, "Whoever reached something through it alone loses that, within 5 s. Running connections end.", html! {}))
        div class="grid" {
            div class="col-7" { (changes(&viewer, &names, &shown)) }
            div class="col-5" {
                form class="card" method="post" action={ (back) "/remove" } {
                    (viewer.token())
                    div class="card-foot" {
                        a class="btn" href=(back) { "Keep it" }
                        button class="btn btn--danger" type="submit" disabled[waits.is_some()] { "Remove it: " (shown.lose.len()) " lose" }
                        @if let Some(why) = &waits { span { "Removing waits: " (why) "." } }
                    }
                }
            }
        }
    };
    viewer.page(Here::Policies, "Remove a policy?", body)
}
