//! Lists: searched, filtered and turned page by page on the server, so that ten thousand rows are as quick as ten.

use super::{
    form::{MOST_OPTIONS, TypedChoice, typed_choice},
    look::{Column, Row, counted, empty, head, icon, table, thin, typed},
    shell::{Here, Viewer, encode},
};
use axum::response::Response;
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Rows of one page.
pub(super) const PER_PAGE: usize = 50;

/// What the address asks for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted(pub(super) BTreeMap<String, String>);

impl Wanted {
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", |value| value.trim())
    }

    /// The words that are searched for, in lower case.
    pub(super) fn search(&self) -> String {
        self.get("q").to_lowercase().chars().take(200).collect()
    }

    fn page(&self) -> usize {
        self.get("page").parse().unwrap_or(1).max(1)
    }

    /// The same question, for another page.
    fn address(&self, path: &str, page: usize) -> String {
        self.with(path, "page", &page.to_string())
    }

    /// The same question with another answer to one of its parts; an empty one leaves the part out.
    pub(super) fn with(&self, path: &str, part: &str, value: &str) -> String {
        let kept = self.0.iter().filter(|(key, value)| key.as_str() != part && !value.is_empty());
        let kept = kept.map(|(key, value)| (key.as_str(), value.as_str()));
        let all = kept.chain((!value.is_empty()).then_some((part, value)));
        let pairs: Vec<String> =
            all.map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }

    /// The same question with one part more.
    pub(super) fn and(&self, part: &str, value: &str) -> Self {
        let mut parts = self.0.clone();
        parts.insert(part.to_owned(), value.to_owned());
        Self(parts)
    }

    /// Whether something is looked for, and not just another page.
    pub(super) fn narrows(&self, turns: &[&str]) -> bool {
        self.0.iter().any(|(key, value)| !turns.contains(&key.as_str()) && !value.is_empty())
    }
}

/// A list as a page shows it.
pub(super) struct Listing<'a> {
    pub(super) here: Here,
    pub(super) title: &'a str,
    pub(super) lede: &'a str,
    pub(super) path: &'a str,
    pub(super) actions: Markup,
    /// What stands above the list: what happened, or other lists.
    pub(super) above: Markup,
    /// What the search field takes.
    pub(super) search: &'a str,
    pub(super) filters: Markup,
    pub(super) columns: &'a [Column],
    pub(super) one: &'a str,
    pub(super) many: &'a str,
    /// Stands where the table would when there is nothing at all.
    pub(super) nothing: Markup,
}

/// One page of a list. `rows` are those that fit, `all` how many there are before any filter.
pub(super) fn page<T>(
    viewer: &Viewer,
    wanted: &Wanted,
    listing: &Listing<'_>,
    all: usize,
    rows: &[T],
    show: impl FnMut(&T) -> Row,
) -> Response {
    let body = html! {
        (head(&[], listing.title, listing.lede, listing.actions.clone()))
        (listing.above)
        (table_of(wanted, listing, all, rows, show))
    };
    viewer.page(listing.here, listing.title, body)
}

/// The list alone, in its card.
pub(super) fn table_of<T>(
    wanted: &Wanted,
    listing: &Listing<'_>,
    all: usize,
    rows: &[T],
    show: impl FnMut(&T) -> Row,
) -> Markup {
    if all == 0 {
        return html! { section class="card" { (listing.nothing) } };
    }
    let pages = rows.len().div_ceil(PER_PAGE).max(1);
    let page = wanted.page().min(pages);
    let first = (page - 1) * PER_PAGE;
    let shown: Vec<Row> = rows.iter().skip(first).take(PER_PAGE).map(show).collect();
    let filtered = wanted.0.iter().any(|(key, value)| key != "page" && !value.is_empty());
    html! {
        section class="card card--clip" aria-label=(listing.title) {
            form class="filters" action=(listing.path) role="search" {
                input class="input" type="search" name="q" value=(wanted.get("q")) placeholder=(listing.search) aria-label=(listing.search) dir="auto" maxlength="200";
                (listing.filters)
                button class="btn btn--sm" type="submit" { "Filter" }
                @if filtered { a class="btn btn--quiet btn--sm" href=(listing.path) { "Clear" } }
                span class="count" {
                    @if rows.len() == all { (counted(all, listing.one, listing.many)) }
                    @else { (thin(rows.len() as u64)) " of " (counted(all, listing.one, listing.many)) }
                }
            }
            @if shown.is_empty() {
                (empty("Nothing fits", html! {
                        "None of " (counted(all, listing.one, listing.many)) " fits "
                        @if wanted.get("q").is_empty() { "this filter." } @else { "“" (typed(wanted.get("q"))) "”." }
                    },
                    html! { a class="btn" href=(listing.path) { "Show all" } }))
            } @else {
                (table(listing.title, listing.columns, &shown))
            }
            @if pages > 1 {
                div class="card-foot" {
                    span { (thin(first as u64 + 1)) "–" (thin((first + shown.len()) as u64)) " of " (thin(rows.len() as u64)) }
                    nav class="pager" aria-label="Pages" {
                        @if page > 1 { a class="btn btn--sm" rel="prev" href=(wanted.address(listing.path, page - 1)) { "Previous" } }
                        @if page < pages { a class="btn btn--sm" rel="next" href=(wanted.address(listing.path, page + 1)) { "Next" } }
                    }
                }
            }
        }
    }
}

/// What stands below a page of a log: how many entries it has, and the way to older ones and back to the newest.
pub(super) fn log_foot(wanted: &Wanted, path: &str, shown: &str, next: Option<&str>) -> Markup {
    let is_later = !wanted.get("after").is_empty();
    html! {
        div class="card-foot" {
            span { (shown) @if next.is_none() { ", and nothing older that fits" } }
            nav class="pager" aria-label="Pages" {
                @if is_later { a class="btn btn--sm" href=(wanted.with(path, "after", "")) { "Newest" } }
                @if let Some(next) = next { a class="btn btn--sm" rel="next" href=(wanted.with(path, "after", next)) { "Older" } }
            }
        }
    }
}

/// A list of choices in a filter bar.
pub(super) fn filter(name: &str, label: &str, chosen: &str, options: &[(String, String)]) -> Markup {
    if options.iter().filter(|(value, _)| !value.is_empty()).count() > MOST_OPTIONS {
        let all = options.iter().find(|(value, _)| value.is_empty()).map_or("", |(_, text)| text);
        let shown = TypedChoice { placeholder: all, label: Some(label), ..TypedChoice::default() };
        let named: Vec<_> = options.iter().filter(|(value, _)| !value.is_empty()).cloned().collect();
        return typed_choice(name, &named, chosen, &shown);
    }
    html! {
        span class="select-wrap" {
            select class="select" name=(name) aria-label=(label) {
                @for (value, text) in options { option value=(value) selected[value == chosen] { (text) } }
            }
            (icon("chev"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_page_keeps_the_question() {
        let wanted = Wanted(BTreeMap::from([
            ("q".to_owned(), "a&b=\"c".to_owned()),
            ("page".to_owned(), "3".to_owned()),
            ("site".to_owned(), String::new()),
        ]));
        assert_eq!(wanted.address("/devices", 4), "/devices?q=a%26b%3D%22c&page=4");
        assert_eq!(wanted.with("/devices", "q", ""), "/devices?page=3");
        assert!(wanted.narrows(&["page"]) && !wanted.narrows(&["page", "q"]));
        assert_eq!((wanted.page(), Wanted::default().page()), (3, 1));
    }

    #[test]
    fn of_ten_thousand_rows_one_page_is_rendered_and_the_last_one_is_reached() {
        let rows: Vec<usize> = (1..=10_000).collect();
        let listing = Listing {
            here: Here::Devices,
            title: "Devices",
            lede: "",
            path: "/devices",
            actions: html! {},
            above: html! {},
            search: "Name",
            filters: html! {},
            columns: &[("Device", "")],
            one: "device",
            many: "devices",
            nothing: html! {},
        };
        let shown = |page: &str| {
            let wanted = Wanted(BTreeMap::from([("page".to_owned(), page.to_owned())]));
            let mut rendered = 0;
            let html = table_of(&wanted, &listing, rows.len(), &rows, |row| {
                rendered += 1;
                Row::new(html! { "device-" (row) "." }, Vec::new())
            });
            (rendered, html.into_string())
        };
        let (rendered, first) = shown("1");
        assert_eq!(rendered, PER_PAGE);
        assert!(
            first.contains("device-50.") && !first.contains("device-51.") && first.len() < 20_000,
            "{}",
            first.len()
        );
        for beyond in ["200", "99999", "18446744073709551615"] {
            let (rendered, last) = shown(beyond);
            assert_eq!(rendered, PER_PAGE, "{beyond}");
            assert!(last.contains("device-10000.") && !last.contains("rel=\"next\""), "{beyond}");
        }
    }
}
