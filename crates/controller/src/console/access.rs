//! The access graph: groups, policies and resources as a picture, and the same as a table.

use super::{
    lists::Wanted,
    look::{Row, card, counted, empty, head, table, typed},
    names::Names,
    shell::{Here, Viewer},
};
use axum::{extract::Query, response::Response};
use maud::{Markup, PreEscaped, html};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

/// Boxes in a column: more is no picture any more.
const BOXES: usize = 24;
const ROW: usize = 46;

fn clipped(text: &str, most: usize) -> String {
    let mut short: String = text.chars().filter(|c| !c.is_control()).take(most).collect();
    if text.chars().count() > most {
        short.push('…');
    }
    short
}

/// Text inside a picture.
pub(super) fn escaped(text: &str, most: usize) -> String {
    let clipped = clipped(text, most);
    let mut out = String::new();
    for c in clipped.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Marks of direction would turn what stands beside it.
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c => out.push(c),
        }
    }
    out
}

fn boxed(svg: &mut String, x: usize, index: usize, href: &str, name: &str, sub: &str) {
    let y = 30 + index * ROW;
    let _ = write!(
        svg,
        "<a href=\"{href}\"><rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"200\" height=\"36\" rx=\"6\"/><text class=\"t-name\" x=\"{}\" y=\"{}\">{}</text><text class=\"t-sub\" x=\"{}\" y=\"{}\">{}</text></a>",
        x + 12,
        y + 15,
        escaped(name, 24),
        x + 12,
        y + 29,
        escaped(sub, 30)
    );
}

fn wire(svg: &mut String, from: (usize, usize), to: (usize, usize)) {
    let (y1, y2) = (48 + from.1 * ROW, 48 + to.1 * ROW);
    let (x1, x2) = (from.0, to.0);
    let middle = usize::midpoint(x1, x2);
    let _ = write!(
        svg,
        "<path class=\"p p--direct\" stroke-width=\"2\" d=\"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}\"/>"
    );
}

/// What fits into a column, by name, and how many do not.
fn column<T: Copy + Ord>(all: impl Iterator<Item = T>, name: impl Fn(T) -> String) -> (Vec<T>, usize) {
    let mut all: Vec<T> = all.collect::<BTreeSet<_>>().into_iter().collect();
    all.sort_by_cached_key(|id| name(*id).to_lowercase());
    let more = all.len().saturating_sub(BOXES);
    all.truncate(BOXES);
    (all, more)
}

fn picture(policies: &[&store::Policy], names: &Names<'_>) -> Markup {
    let resource = |id| names.resources.get(&id).map_or("removed", |row| &row.name).to_owned();
    let groups = policies.iter().flat_map(|policy| policy.groups.iter().copied());
    let (groups, more_groups) = column(groups, |id| names.group(id).to_owned());
    let resources = policies.iter().flat_map(|policy| policy.resources.iter().copied());
    let (resources, more_resources) = column(resources, resource);
    let rows = groups.len().max(resources.len()).max(policies.len()).max(1);
    let height = 30 + rows * ROW + 10;
    let mut svg = format!(
        "<svg class=\"topo\" viewBox=\"0 0 780 {height}\" role=\"group\" aria-labelledby=\"ag-t\"><title id=\"ag-t\">Access: {} groups through {} policies to {} resources</title><rect class=\"sea\" x=\"0\" y=\"0\" width=\"780\" height=\"{height}\"/><text class=\"t-sub\" x=\"8\" y=\"18\">Groups</text><text class=\"t-sub\" x=\"290\" y=\"18\">Policies</text><text class=\"t-sub\" x=\"572\" y=\"18\">Resources</text>",
        groups.len() + more_groups,
        policies.len(),
        resources.len() + more_resources
    );
    for (row, policy) in policies.iter().enumerate() {
        for (index, _) in groups.iter().enumerate().filter(|(_, id)| policy.groups.contains(id)) {
            wire(&mut svg, (208, index), (290, row));
        }
        for (index, _) in resources.iter().enumerate().filter(|(_, id)| policy.resources.contains(id)) {
            wire(&mut svg, (490, row), (572, index));
        }
    }
    for (index, id) in groups.iter().enumerate() {
        let members = names.in_group.get(id).map_or(0, BTreeSet::len);
        boxed(
            &mut svg,
            8,
            index,
            &format!("/groups/{id}"),
            names.group(*id),
            &counted(members, "member", "members"),
        );
    }
    for (index, policy) in policies.iter().enumerate() {
        let sub = format!(
            "{} → {}",
            counted(policy.groups.len(), "group", "groups"),
            counted(policy.resources.len(), "resource", "resources")
        );
        boxed(&mut svg, 290, index, &format!("/policies/{}", policy.id), &policy.name, &sub);
    }
    for (index, id) in resources.iter().enumerate() {
        let row = names.resources.get(id);
        boxed(
            &mut svg,
            572,
            index,
            &format!("/resources/{id}"),
            row.map_or("removed", |row| &row.name),
            row.map_or("", |row| &row.address),
        );
    }
    svg.push_str("</svg>");
    html! {
        div class="scroll-x" { (PreEscaped(svg)) }
        @if more_groups + more_resources > 0 {
            p class="card-foot" {
                "Not drawn: "
                @if more_groups > 0 { (counted(more_groups, "more group", "more groups")) }
                @if more_groups > 0 && more_resources > 0 { " and " }
                @if more_resources > 0 { (counted(more_resources, "more resource", "more resources")) }
                ". The table below names them; filter to see them drawn."
            }
        }
    }
}

pub(super) async fn page(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (data, names, search) = (viewer.data(), Names::of(viewer.data()), wanted.search());
    let mut policies: Vec<&store::Policy> = data
        .policies
        .iter()
        .filter(|policy| {
            search.is_empty()
                || policy.name.to_lowercase().contains(&search)
                || policy.groups.iter().any(|id| names.group(*id).to_lowercase().contains(&search))
                || policy.resources.iter().any(|id| {
                    names.resources.get(id).is_some_and(|row| row.name.to_lowercase().contains(&search))
                })
        })
        .collect();
    policies.sort_by_cached_key(|policy| policy.name.to_lowercase());
    let all = policies.len();
    policies.truncate(BOXES);
    let rows: Vec<Row> = policies
        .iter()
        .map(|policy| {
            let groups: Vec<_> = policy
                .groups
                .iter()
                .map(|id| (format!("/groups/{id}"), names.group(*id).to_owned()))
                .collect();
            let resources: Vec<_> = policy
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
                html! { a href={ "/policies/" (policy.id) } { (typed(&policy.name)) } },
                vec![
                    super::look::chips(&groups, 6),
                    html! { (names.people(&policy.groups).len()) },
                    super::look::chips(&resources, 6),
                ],
            )
        })
        .collect();
    let body = html! {
        (head(&[], "Access graph", "Groups on the left reach resources on the right through the policies between them.", viewer.link_button("/why", "why", "Why can / can’t…")))
        @if data.policies.is_empty() {
            section class="card" { (empty("No policies yet", "Nothing is open to anybody. A policy joins groups to resources.", viewer.primary_link("/policies/new", "plus", "Write a policy"))) }
        } @else {
            section class="card card--clip mb-4" aria-label="Access graph" {
                form class="filters" action="/access" role="search" {
                    input class="input" type="search" name="q" value=(wanted.get("q")) placeholder="Group, policy or resource" aria-label="Group, policy or resource" dir="auto" maxlength="200";
                    button class="btn btn--sm" type="submit" { "Filter" }
                    span class="count" { (policies.len()) " of " (counted(all, "policy", "policies")) @if all > BOXES { "; filter to see others" } }
                }
                @if policies.is_empty() { (empty("Nothing fits", "No policy, group or resource is called so.", html! { a class="btn" href="/access" { "Show all" } })) }
                @else { (picture(&policies, &names)) }
            }
            @if !policies.is_empty() {
                (card("same", "The same as a table", html! {}, table("Access", &[("Policy", ""), ("Groups", ""), ("Members", "num"), ("Resources", "")], &rows)))
            }
        }
    };
    viewer.page(Here::Access, "Access graph", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_picture_is_text_and_turns_nothing_around() {
        assert_eq!(escaped("<script>\u{202e}x\"&", 20), "&lt;script&gt;x&quot;&amp;");
        assert_eq!(escaped("a very long name of a thing", 6), "a very…");
    }
}
