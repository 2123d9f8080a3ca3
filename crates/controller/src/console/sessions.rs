//! Who is connected now: what PoPs say of presence, what connectors last said of paths.

use super::{
    lists::Wanted,
    look::{Column, Row, badge, card, counted, empty, table, thin, typed},
    names::{Names, member_page, pop_name},
    shell::Viewer,
};
use maud::{Markup, html};
use trust::Subject;

/// Rows of a page.
const SHOWN: usize = 50;

const COLUMNS: &[Column] = &[
    ("Who and device", ""),
    ("State", ""),
    ("At PoP", ""),
    ("Last heard of", "nowrap low"),
    ("Actions", "row-actions"),
];

/// The part of an address that turns this card alone.
const PAGE: &str = "connected";

/// Devices with a session at a PoP, newest first, in a card.
pub(super) fn card_of(viewer: &Viewer, wanted: &Wanted) -> Markup {
    let search = &wanted.search();
    let data = viewer.data();
    let names = Names::of(data);
    let presence = viewer.core.presence();
    let mut attached: Vec<_> = data
        .devices
        .iter()
        .filter_map(|device| Some((device, presence.of(Subject::Device(device.id))?.clone())))
        .filter(|(_, seen)| !seen.attached.is_empty())
        .filter(|(device, _)| {
            search.is_empty()
                || device.name.to_lowercase().contains(search)
                || names.member(device.owner).to_lowercase().contains(search)
        })
        .collect();
    drop(presence);
    attached.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.last));
    let all = attached.len();
    let pages = all.div_ceil(SHOWN).max(1);
    let page = wanted.get(PAGE).parse().unwrap_or(1).clamp(1, pages);
    let first = (page - 1) * SHOWN;
    let rows: Vec<Row> = attached
        .iter()
        .skip(first)
        .take(SHOWN)
        .map(|(device, seen)| {
            let pops: Vec<String> = seen.attached.iter().map(|pop| pop_name(&viewer.snapshot.dataset, pop)).collect();
            Row::new(
                html! { a href={ "/devices/" (device.id) } { (typed(&device.name)) } span class="sub" { a href=(member_page(device.owner)) { (typed(names.member(device.owner))) } } },
                vec![
                    badge("fresh", "fresh", "attached"),
                    html! { (pops.join(", ")) },
                    super::look::time(seen.last, viewer.now),
                    html! { div { a class="btn btn--sm" href={ "/flows?device=" (device.id) } { "Flows" } } },
                ],
            )
        })
        .collect();
    let body = if rows.is_empty() {
        empty(
            if search.is_empty() { "Nobody is connected" } else { "Nobody who fits is connected" },
            "A device is here as soon as its client has a session at a PoP: tidegate up.",
            html! {},
        )
    } else {
        let turn = |page: usize| wanted.with("/flows", PAGE, &page.to_string());
        html! {
            (table("Connected devices", COLUMNS, &rows))
            @if pages > 1 {
                div class="card-foot" {
                    span { (thin(first as u64 + 1)) "–" (thin((first + rows.len()) as u64)) " of " (thin(all as u64)) }
                    nav class="pager" aria-label="Pages of connected devices" {
                        @if page > 1 { a class="btn btn--sm" rel="prev" href=(turn(page - 1)) { "Previous" } }
                        @if page < pages { a class="btn btn--sm" rel="next" href=(turn(page + 1)) { "Next" } }
                    }
                }
            }
        }
    };
    html! {
        div class="mb-4" id="sessions" data-live hx-get=(viewer.path) hx-select="#sessions" hx-trigger="live from:body" hx-swap="outerHTML" {
            (card("connected", "Connected now", html! { span class="sub" { (counted(all, "device", "devices")) ", updated as they change" } }, body))
        }
    }
}
