//! The parts that pages are made of, as the design has them: shape, word and colour always together.

use crate::api;
use maud::{Markup, PreEscaped, Render, html};
use trust::UnixMs;

/// A sign of the sprite.
pub(super) fn icon(name: &'static str) -> Markup {
    sized_icon("icon", name)
}

/// A sign with a class of its own.
pub(super) fn sized_icon(class: &'static str, name: &'static str) -> Markup {
    PreEscaped(format!("<svg class=\"{class}\" aria-hidden=\"true\"><use href=\"#{name}\"/></svg>"))
}

/// A wave across the page.
pub(super) fn wave(class: &'static str, name: &'static str) -> Markup {
    PreEscaped(format!(
        "<svg class=\"{class}\" aria-hidden=\"true\"><use href=\"#{name}\" width=\"2000\" height=\"12\"/></svg>"
    ))
}

/// What somebody typed: in a direction of its own, so that it turns nothing around it.
pub(super) fn typed(text: &str) -> Markup {
    html! { bdi { (text) } }
}

pub(super) fn badge(kind: &'static str, sign: &'static str, text: impl Render) -> Markup {
    html! { span class={ "badge badge--" (kind) } { (icon(sign)) (text) } }
}

pub(super) fn plain_badge(text: impl Render) -> Markup {
    html! { span class="badge badge--plain" { (text) } }
}

pub(super) fn chip(href: &str, text: &str) -> Markup {
    html! { a class="chip" href=(href) { (typed(text)) } }
}

/// A few chips and how many more there are.
pub(super) fn chips(all: &[(String, String)], most: usize) -> Markup {
    html! {
        span class="chips" {
            @for (href, text) in all.iter().take(most) { (chip(href, text)) }
            @if all.len() > most { span class="chip" { "+" (all.len() - most) } }
        }
    }
}

/// The head of a page.
pub(super) fn head(
    crumbs: &[(&str, &str)],
    title: impl Render,
    lede: impl Render,
    actions: Markup,
) -> Markup {
    html! {
        div class="page-head" {
            div {
                @if !crumbs.is_empty() {
                    nav class="crumbs" aria-label="Breadcrumb" {
                        @for (index, (href, text)) in crumbs.iter().enumerate() {
                            @if index > 0 { span aria-hidden="true" { "/" } }
                            a href=(href) { (typed(text)) }
                        }
                    }
                }
                h1 { (title) }
                p class="lede" { (lede) }
            }
            @if !actions.0.is_empty() { div class="actions" { (actions) } }
        }
    }
}

/// A card with a heading.
pub(super) fn card(id: &'static str, title: &str, aside: Markup, body: Markup) -> Markup {
    html! {
        section class="card card--clip" aria-labelledby=(id) {
            div class="card-head" { h2 id=(id) { (title) } (aside) }
            (body)
        }
    }
}

/// A card whose content has room around it.
pub(super) fn card_with_room(id: &'static str, title: &str, body: Markup) -> Markup {
    card(id, title, html! {}, html! { div class="card-body" { (body) } })
}

pub(super) fn note(kind: &'static str, sign: &'static str, body: Markup) -> Markup {
    html! { div class={ "note " (kind) } { (icon(sign)) p { (body) } } }
}

/// What stands where a table would: what this is, why there is none, the next step.
pub(super) fn empty(title: &str, text: impl Render, actions: Markup) -> Markup {
    html! {
        div class="empty" {
            (PreEscaped(EMPTY))
            h3 { (title) }
            p { (text) }
            @if !actions.0.is_empty() { div class="actions" { (actions) } }
        }
    }
}

const EMPTY: &str = r#"<svg viewBox="0 0 72 48" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true"><path d="M18 4v16M36 4v12M54 4v16M6 8h60"/><path d="M2 34q5.6-6 11.3 0t11.3 0 11.3 0 11.3 0 11.3 0 11.3 0"/><path d="M12 43q4-4 8 0t8 0 8 0 8 0 8 0 8 0" opacity=".5"/></svg>"#;

/// A column: what it is called, and its class.
pub(super) type Column = (&'static str, &'static str);

/// A row: its name, the other cells, and its class.
pub(super) struct Row {
    pub(super) name: Markup,
    pub(super) cells: Vec<Markup>,
    pub(super) class: &'static str,
}

impl Row {
    pub(super) const fn new(name: Markup, cells: Vec<Markup>) -> Self {
        Self { name, cells, class: "" }
    }
}

/// A table that becomes cards on a phone: each cell knows what it is called.
pub(super) fn table(caption: &str, columns: &[Column], rows: &[Row]) -> Markup {
    table_of("table", caption, columns, rows)
}

/// One that stays a table where it is narrow.
pub(super) fn small_table(caption: &str, columns: &[Column], rows: &[Row]) -> Markup {
    table_of("table table--s", caption, columns, rows)
}

fn table_of(class: &'static str, caption: &str, columns: &[Column], rows: &[Row]) -> Markup {
    html! {
        table class=(class) role="table" {
            caption class="vh" { (caption) }
            thead role="rowgroup" {
                tr role="row" {
                    @for (label, class) in columns {
                        th scope="col" role="columnheader" class=[(!class.is_empty() && *class != "row-actions").then_some(*class)] {
                            @if *class == "row-actions" { span class="vh" { (label) } } @else { (label) }
                        }
                    }
                }
            }
            tbody role="rowgroup" {
                @for row in rows {
                    tr role="row" class=[(!row.class.is_empty()).then_some(row.class)] {
                        th scope="row" role="rowheader" { (row.name) }
                        @for (cell, (label, class)) in row.cells.iter().zip(columns.iter().skip(1)) {
                            td role="cell" class=[(!class.is_empty()).then_some(*class)] data-label=(label) { (cell) }
                        }
                    }
                }
            }
        }
    }
}

/// Facts, one a line.
pub(super) fn facts(all: &[(&str, Markup)]) -> Markup {
    html! {
        dl class="facts" { @for (name, value) in all { div { dt { (name) } dd class="wrap-any" { (value) } } } }
    }
}

/// A command to copy.
pub(super) fn code(label: &str, body: Markup) -> Markup {
    html! {
        div class="code" {
            pre tabindex="0" role="region" aria-label=(label) { code { (body) } }
            button class="copy" type="button" data-copy { (icon("copy")) span { "Copy" } }
        }
    }
}

/// How many of what.
pub(super) fn counted(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {many}", thin(n as u64)) }
}

/// A number with thin spaces between its thousands.
pub(super) fn thin(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + 4);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Bytes in the unit that fits.
pub(super) fn bytes(n: u64) -> String {
    match n {
        0..1000 => format!("{n} B"),
        1000..1_000_000 => format!("{} kB", n / 1000),
        1_000_000..1_000_000_000 => format!("{:.1} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}

/// How long, in words.
pub(super) fn age(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn stamp(at: UnixMs) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_millisecond(i64::try_from(at.as_millis()).ok()?).ok()
}

/// A time as it is said: today by the clock, within a week by the day, else by the date. UTC: the server does not know
/// the reader's zone; the title says it in full.
pub(super) fn said(at: UnixMs, now: UnixMs) -> String {
    let (Some(then), Some(today)) = (stamp(at), stamp(now)) else { return "never".to_owned() };
    let day = |time: jiff::Timestamp| time.strftime("%Y-%m-%d").to_string();
    let apart = at.as_millis().abs_diff(now.as_millis());
    let format = if day(then) == day(today) {
        "%H:%M"
    } else if apart < 6 * 86_400_000 {
        "%a %H:%M"
    } else if apart < 300 * 86_400_000 {
        "%-d %b"
    } else {
        "%-d %b %Y"
    };
    then.strftime(format).to_string()
}

/// The same with its full form behind it.
pub(super) fn time(at: UnixMs, now: UnixMs) -> Markup {
    timed(at, said(at, now))
}

/// With seconds, for what happens many times a minute.
pub(super) fn exact_time(at: UnixMs, now: UnixMs) -> Markup {
    let said = said(at, now);
    let Some(then) = stamp(at) else { return html! { (said) } };
    let text = if said.len() == 5 { then.strftime("%H:%M:%S").to_string() } else { said };
    timed(at, text)
}

fn timed(at: UnixMs, text: String) -> Markup {
    let full = api::rfc3339(at);
    html! { time datetime=(full) title=(full) { (text) } }
}

/// A time of the API's documents.
pub(super) fn parsed(rfc3339: &str) -> Option<UnixMs> {
    let time: jiff::Timestamp = rfc3339.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(UnixMs::from_millis)
}

/// Up to two letters for a face.
pub(super) fn initials(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric()).filter_map(|word| word.chars().next());
    words.take(2).flat_map(char::to_uppercase).collect()
}

/// Where packets go, as who carries them has reported it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Path {
    Direct,
    Relay(String),
    /// A relay that the device reaches by TCP 443 alone.
    Tcp(String),
    Unknown,
}

impl Path {
    pub(super) fn show(&self) -> Markup {
        let (class, sign, text) = match self {
            Self::Direct => ("direct", "p-direct", "direct".to_owned()),
            Self::Relay(pop) => ("relay", "p-relay", format!("relay {pop}")),
            Self::Tcp(pop) => ("tcp", "p-tcp", format!("TCP 443, relay {pop}")),
            Self::Unknown => return html! { span class="quiet" { "not reported" } },
        };
        html! {
            span class={ "path path--" (class) } {
                (PreEscaped(format!("<svg aria-hidden=\"true\"><use href=\"#{sign}\"/></svg>")))
                span { (text) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_bytes_and_durations_are_said_as_the_design_says_them() {
        assert_eq!((thin(18_412).as_str(), thin(999).as_str()), ("18\u{202f}412", "999"));
        assert_eq!((bytes(310_000).as_str(), bytes(1_400_000).as_str()), ("310 kB", "1.4 MB"));
        assert_eq!((age(12_000).as_str(), age(31_440_000).as_str()), ("12 s", "8 h 44 min"));
        assert_eq!(initials("Lena Brandt-Meier"), "LB");
    }

    #[test]
    fn a_time_is_said_by_the_clock_today_by_the_day_this_week_and_by_the_date_before() {
        let now = parsed("2026-11-17T16:42:00Z").unwrap();
        for (at, expected) in [
            ("2026-11-17T04:05:00Z", "04:05"),
            ("2026-11-16T14:05:00Z", "Mon 14:05"),
            ("2026-09-30T14:05:00Z", "30 Sep"),
            ("2024-09-30T14:05:00Z", "30 Sep 2024"),
        ] {
            assert_eq!(said(parsed(at).unwrap(), now), expected);
        }
    }

    #[test]
    fn what_was_typed_is_text() {
        let shown = typed("<b onclick=\"x\">\u{202e}abc").into_string();
        assert!(shown.starts_with("<bdi>&lt;b onclick=&quot;x&quot;&gt;"), "{shown}");
    }
}
