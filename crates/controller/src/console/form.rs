//! Forms: what was typed stays, each error stands at its field, and nothing is lost when a session ended meanwhile.

use super::{
    ask::Refused,
    look::{head, icon, note},
    shell::{Here, Viewer, encode},
    step_up,
    urlencoded::pairs,
};
use crate::{parts::Core, signin::session};
use axum::{
    extract::{FromRequest, MatchedPath, Request},
    response::{Html, IntoResponse, Response},
};
use http::StatusCode;
use maud::{DOCTYPE, Markup, html};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// The longest form: a hundred thousand emoji in a field are 1.2 MB on the wire, and are kept as they were typed.
pub(super) const MAX_FORM: usize = 2 * 1024 * 1024;
/// The longest of somebody who is not signed in, or not any more: what it says is only kept for them.
const MAX_STRANGERS_FORM: usize = 256 * 1024;
/// Longest value that comes back into a page when it was refused: it is longer than anything that is taken.
const MAX_SHOWN: usize = 200_000;

/// What a form carried, in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct Values(Vec<(String, String)>);

impl Values {
    pub(super) const fn new(all: Vec<(String, String)>) -> Self {
        Self(all)
    }

    pub(super) fn one(&self, name: &str) -> &str {
        self.0.iter().rev().find(|(key, _)| key == name).map_or("", |(_, value)| value.trim())
    }

    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.trim())
            .filter(|v| !v.is_empty())
            .collect()
    }

    /// One entry a line, or between commas.
    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let text = self.one(name);
        text.split(['\n', ',']).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_owned(), value.into()));
    }

    pub(super) fn remove(&mut self, name: &str, value: &str) {
        self.0.retain(|(key, held)| key != name || held != value);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        self.0.iter()
    }
}

/// A form that somebody sent, and who they are.
pub(super) struct Posted {
    pub(super) viewer: Viewer,
    pub(super) values: Values,
    /// It is of this very session: only then is anything done.
    genuine: bool,
}

impl Posted {
    /// What stands above a form that is shown again because it was of another session.
    pub(super) fn is_genuine(&self) -> bool {
        self.genuine
    }
}

impl FromRequest<Arc<Core>> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, core: &Arc<Core>) -> Result<Self, Response> {
        let (parts, body) = request.into_parts();
        let is_known = core.signed_in(&parts.headers).is_some();
        let most = if is_known { MAX_FORM } else { MAX_STRANGERS_FORM };
        let read = axum::body::to_bytes(body, most).await;
        // Who it is counts from when the form was whole: access may have been taken away while it arrived.
        let viewer = Viewer::of(core, &parts);
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                return Err(not_taken(viewer.ok().as_ref(), session::theme(&parts.headers), &error, most));
            }
        };
        let values = Values(pairs(&bytes));
        match viewer {
            Ok(viewer) => {
                let genuine = viewer.sent(values.one("form_token"));
                let template = parts.extensions.get::<MatchedPath>().map_or("", MatchedPath::as_str);
                if let Some(what) = step_up::asked(template) {
                    if !viewer.who.is_fresh(core) {
                        return Err(step_up::sign_in_again(&viewer, what, &viewer.path, &values));
                    }
                    if !genuine {
                        return Err(step_up::look_again(&viewer, what, &viewer.path, &values));
                    }
                }
                Ok(Self { viewer, values, genuine })
            }
            Err(super::shell::NotSignedIn::Redirect(path)) => {
                Err(keep(&path, session::theme(&parts.headers), &values))
            }
            Err(other) => Err(other.into_response()),
        }
    }
}

/// A form that did not come in: it is too long, or stopped on the way.
fn not_taken(viewer: Option<&Viewer>, theme: &str, error: &axum::Error, most: usize) -> Response {
    let is_too_long = std::error::Error::source(error)
        .is_some_and(|cause| cause.downcast_ref::<http_body_util::LengthLimitError>().is_some());
    let (status, title, text) = if is_too_long {
        let text = format!(
            "A form has at most {} kB; this one has more, and nothing of it was taken. What you typed is still in your browser: go back and shorten it.",
            most / 1024
        );
        (StatusCode::PAYLOAD_TOO_LARGE, "This form is too long", text)
    } else {
        let text = "It did not arrive whole, and nothing of it was taken. What you typed is still in your browser: go back and send it again.";
        (StatusCode::REQUEST_TIMEOUT, "This form did not arrive", text.to_owned())
    };
    match viewer {
        Some(viewer) => {
            viewer.page_with(status, Here::Elsewhere, title, html! {}, head(&[], title, text, html! {}))
        }
        None => bare_page(
            status,
            title,
            theme,
            html! { div class="page-head" { div { h1 { (title) } p class="lede" { (text) } } } },
        ),
    }
}

/// A page without anything of the organization's.
pub(super) fn bare_page(status: StatusCode, title: &str, theme: &str, body: Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" data-theme=[(!theme.is_empty()).then_some(theme)] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="stylesheet" href=(super::assets::STYLE_SHEET.path);
                title { (title) " · Tidegate" }
            }
            body {
                a class="skip" href="#main" { "Skip to content" }
                div class="shell" { main id="main" { (body) } }
            }
        }
    };
    (status, Html(page.into_string())).into_response()
}

/// The session ended while somebody typed: everything is kept in this page until they are signed in again.
fn keep(path: &str, theme: &str, values: &Values) -> Response {
    let body = html! {
        div class="page-head" { div {
            h1 { "You were signed out. Nothing is lost." }
            p class="lede" { "What you typed is kept in this page. Sign in in another tab, come back here, and go on; you will see it again before it is saved." }
        } }
        form class="card card-body card-body--top" action=(path) method="post" {
            @for (name, value) in values.iter().filter(|(name, _)| name != "form_token") {
                input type="hidden" name=(name) value=(value);
            }
            div class="actions" {
                a class="btn" href={ "/signin?next=" (encode("/")) } target="_blank" rel="noopener" { "1. Sign in in another tab" }
                button class="btn btn--primary" type="submit" { "2. Go on" }
            }
        }
    };
    bare_page(StatusCode::UNAUTHORIZED, "Signed out", theme, body)
}

/// What is wrong with a form, by field; the empty name is the form as a whole.
#[derive(Debug, Clone, Default)]
pub(super) struct Errors(BTreeMap<String, String>);

impl Errors {
    pub(super) fn add(&mut self, field: &str, text: impl Into<String>) {
        self.0.entry(field.to_owned()).or_insert_with(|| text.into());
    }

    pub(super) fn of(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sorts a refusal to the field that it names. `known` are the form's own fields.
    pub(super) fn refused(refused: &Refused, known: &[&str]) -> Self {
        let mut errors = Self::default();
        let field = refused.field.as_deref().unwrap_or_default();
        let field = field.split(['[', '.']).next().unwrap_or_default();
        match known.iter().find(|known| **known == field) {
            Some(known) => errors.add(known, explained(refused)),
            None => errors.add("", refused.sentence_at_form()),
        }
        errors
    }

    /// What stands above a form that is shown again because it was of another session.
    pub(super) fn other_session() -> Self {
        let mut errors = Self::default();
        errors.add("", OTHER_SESSION);
        errors
    }
}

/// Expected this, got that.
fn explained(refused: &Refused) -> String {
    if refused.status == 409 {
        return match &refused.rule {
            Some(rule) if rule == "unique" => "Something else already has this. Choose another.".to_owned(),
            _ => refused.sentence(),
        };
    }
    match &refused.rule {
        Some(rule) => {
            let mut letters = rule.chars();
            let first: String = letters.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
            let expected = format!("{}{}", first.to_lowercase(), letters.as_str().trim_end_matches('.'));
            format!("{}Expected: {expected}{}.", entry(refused), got(refused))
        }
        None => refused.sentence(),
    }
}

/// Which of many, as `prefixes[17]` says it.
fn entry(refused: &Refused) -> String {
    let index =
        refused.field.as_deref().and_then(|field| field.split_once('[')?.1.split_once(']')?.0.parse().ok());
    index.map(|index: usize| format!("Entry {}. ", index + 1)).unwrap_or_default()
}

/// What came, where a few words say it. What is secret is said by nobody.
fn got(refused: &Refused) -> String {
    let field = refused.field.as_deref().unwrap_or_default();
    let shown = match &refused.value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let is_secret = ["secret", "pass", "token", "code"].iter().any(|word| field.contains(word));
    if shown.is_empty() || is_secret {
        return String::new();
    }
    let cut: String = shown.chars().take(MOST_SAID).collect();
    let more = if cut.len() < shown.len() { "…" } else { "" };
    format!("; got “{cut}{more}”")
}

/// Characters of a value that are said again.
const MOST_SAID: usize = 60;

/// The kinds of fields.
pub(super) enum Kind<'a> {
    Text,
    /// What never comes back into a page.
    Secret,
    Area,
    Number,
    /// Values and what they are called. Of more than [`MOST_OPTIONS`] the name is typed: [`chosen`] finds the value.
    Choice(&'a [(String, String)]),
}

/// A list to choose from that is longer is not looked through, and weighs more than the rest of its page.
pub(super) const MOST_OPTIONS: usize = 200;
/// What is proposed while somebody types.
const PROPOSED: usize = 100;

/// The value of what was chosen or typed; as it is, where nothing has this name.
pub(super) fn chosen<'a>(options: &'a [(String, String)], typed: &'a str) -> &'a str {
    let typed = typed.trim();
    if options.iter().any(|(value, _)| value == typed) {
        return typed;
    }
    if let Some((value, _)) = options.iter().find(|(_, name)| name == typed) {
        return value;
    }
    // Two names may differ in their letters' case alone: then it has to be the right one.
    let mut alike = options.iter().filter(|(_, name)| name.eq_ignore_ascii_case(typed));
    match (alike.next(), alike.next()) {
        (Some((value, _)), None) => value,
        _ => typed,
    }
}

/// What a value is called; as it is, where it is none.
pub(super) fn called<'a>(options: &'a [(String, String)], value: &'a str) -> &'a str {
    options.iter().find(|(of, _)| of == value).map_or(value, |(_, name)| name)
}

/// A field for the name of one of many.
pub(super) fn typed_choice(
    name: &str,
    options: &[(String, String)],
    value: &str,
    attributes: &TypedChoice<'_>,
) -> Markup {
    let list = format!("{name}-list");
    html! {
        input class="input" id=(name) name=(name) value=(called(options, value)) list=(list) placeholder=(attributes.placeholder) autocomplete="off" dir="auto" aria-label=[attributes.label] aria-invalid=[attributes.invalid] aria-describedby=[attributes.described];
        datalist id=(list) { @for (_, text) in options.iter().take(PROPOSED) { option value=(text) {} } }
    }
}

/// How such a field is shown.
#[derive(Debug, Default)]
pub(super) struct TypedChoice<'a> {
    pub(super) placeholder: &'a str,
    pub(super) label: Option<&'a str>,
    pub(super) invalid: Option<&'a str>,
    pub(super) described: Option<&'a str>,
}

/// One field of a form.
pub(super) struct Field<'a> {
    pub(super) name: &'static str,
    pub(super) label: &'a str,
    pub(super) kind: Kind<'a>,
    pub(super) hint: &'a str,
    pub(super) optional: bool,
}

/// A field with what was typed and what is wrong with it.
pub(super) fn field(field: &Field<'_>, values: &Values, errors: &Errors) -> Markup {
    let Field { name, label, kind, hint, optional } = field;
    let value: String = values.one(name).chars().take(MAX_SHOWN).collect();
    let error = errors.of(name);
    let invalid = error.map(|_| "true");
    let described = match (hint.is_empty(), error.is_some()) {
        (true, false) => None,
        (false, false) => Some(format!("{name}-hint")),
        (true, true) => Some(format!("{name}-error")),
        (false, true) => Some(format!("{name}-error {name}-hint")),
    };
    html! {
        div class="field" {
            label for=(name) { (label) @if *optional { " " span class="opt" { "optional" } } }
            @match kind {
                Kind::Text => input class="input" id=(name) name=(name) value=(value) autocomplete="off" dir="auto" aria-invalid=[invalid] aria-describedby=[described];,
                Kind::Secret => input class="input" id=(name) name=(name) type="password" autocomplete="off" aria-invalid=[invalid] aria-describedby=[described];,
                Kind::Number => input class="input" id=(name) name=(name) value=(value) inputmode="numeric" autocomplete="off" aria-invalid=[invalid] aria-describedby=[described];,
                Kind::Area => textarea class="textarea" id=(name) name=(name) rows="4" dir="auto" aria-invalid=[invalid] aria-describedby=[described] { (value) },
                Kind::Choice(options) if options.len() > MOST_OPTIONS => (typed_choice(name, options, &value, &TypedChoice {
                    placeholder: "Type its name",
                    label: None,
                    invalid,
                    described: described.as_deref(),
                })),
                Kind::Choice(options) => span class="select-wrap" {
                    select class="select" id=(name) name=(name) aria-invalid=[invalid] aria-describedby=[described] {
                        @for (key, text) in *options { option value=(key) selected[*key == value] { (text) } }
                    }
                    (icon("chev"))
                },
            }
            @if let Some(error) = error {
                p class="error" id={ (name) "-error" } { (icon("warn")) span { (error) } }
            }
            @if !hint.is_empty() { p class="hint" id={ (name) "-hint" } { (hint) } }
        }
    }
}

/// What stands above a form of which nothing was typed, when it was sent and not done: `nothing` says what did not happen.
pub(super) fn trouble(nothing: &str, why: Option<&str>) -> Markup {
    html! {
        @if let Some(why) = why {
            div class="note note--bad mb-4" role="alert" tabindex="-1" data-focus { (icon("warn")) p { strong { (nothing) } " " (why) } }
        }
    }
}

/// The words for one that came from another session of the same person.
pub(super) const ASKED_BEFORE: &str =
    "This was asked for before you signed in. If it is still meant, do it again.";

/// What stands above a form with errors: it gets the focus and leads to the fields.
pub(super) fn summary(errors: &Errors, labels: &[(&'static str, &str)]) -> Markup {
    if errors.is_empty() {
        return html! {};
    }
    let named: Vec<_> = labels.iter().filter(|(name, _)| errors.of(name).is_some()).collect();
    html! {
        div class="note note--bad mb-4" role="alert" tabindex="-1" data-focus {
            (icon("warn"))
            p {
                strong { "Nothing was saved." } " "
                @if let Some(whole) = errors.of("") { (whole) " " }
                @if !named.is_empty() {
                    @if named.len() == 1 { "One field needs a change: " } @else { (named.len()) " fields need a change: " }
                    @for (index, (name, label)) in named.iter().enumerate() {
                        @if index > 0 { ", " }
                        a href={ "#" (name) } { (label) }
                    }
                    "."
                }
            }
        }
    }
}

/// A whole page with one form.
pub(super) struct FormPage<'a> {
    pub(super) here: Here,
    pub(super) head: Markup,
    pub(super) title: &'a str,
    pub(super) action: &'a str,
    pub(super) fields: Vec<Field<'a>>,
    pub(super) save: &'a str,
    pub(super) back: &'a str,
    /// What stands between the fields and the buttons.
    pub(super) more: Markup,
    /// What stands beside the form.
    pub(super) aside: Markup,
}

/// Shows a form; with errors its status is theirs.
pub(super) fn show(
    viewer: &Viewer,
    page: &FormPage<'_>,
    values: &Values,
    errors: &Errors,
    status: StatusCode,
) -> Response {
    let labels: Vec<(&'static str, &str)> =
        page.fields.iter().map(|field| (field.name, field.label)).collect();
    let waits = viewer.changes_wait();
    let body = html! {
        (page.head)
        div class="grid" {
            div class="col-7" {
                form class="card" action=(page.action) method="post" novalidate {
                    (viewer.token())
                    @if values.has("version") { input type="hidden" name="version" value=(values.one("version")); }
                    div class="card-body card-body--top" {
                        (summary(errors, &labels))
                        @for each in &page.fields { (field(each, values, errors)) }
                        (page.more)
                    }
                    div class="card-foot" {
                        button class="btn btn--primary" type="submit" disabled[waits.is_some()] { (page.save) }
                        a class="btn btn--quiet" href=(page.back) { "Discard" }
                        @if let Some(why) = &waits { span { "Saving waits: " (why) ". What you typed stays here." } }
                    }
                }
            }
            div class="stack col-5" { (page.aside) }
        }
    };
    let title = if errors.is_empty() { page.title.to_owned() } else { format!("Error: {}", page.title) };
    viewer.page_with(status, page.here, &title, html! {}, body)
}

/// The words for a form that came from another session of the same person.
pub(super) const OTHER_SESSION: &str =
    "This form was opened before you signed in. Everything you typed is below; look at it and save again.";

/// Both versions side by side: what is stored now, and what was typed.
pub(super) fn conflict(rows: &[(&str, String, String)]) -> Markup {
    html! {
        section class="card card--clip" aria-labelledby="both" {
            div class="card-head" { h2 id="both" { "Somebody else saved first" } span class="sub" { "nothing of yours was saved yet" } }
            (super::look::small_table("Both versions", &[("Field", ""), ("Stored now", ""), ("What you typed", "")],
                &rows.iter().map(|(label, stored, mine)| {
                    let differs = stored != mine;
                    super::look::Row::new(html! { (label) }, vec![
                        html! { span class="wrap-any" { (super::look::typed(stored)) } },
                        html! { @if differs { strong class="wrap-any" { (super::look::typed(mine)) } } @else { span class="quiet" { "the same" } } },
                    ])
                }).collect::<Vec<_>>()))
            div class="card-body card-body--top" {
                (note("", "info", html! { "The form keeps what you typed. Saving again replaces what is stored now." }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_decoded_as_a_browser_sends_it_and_what_is_broken_stays_text() {
        let values = Values(pairs(b"name=Gda%C5%84sk+plant&list=a%0D%0Ab%2C+c&odd=100%&empty&x=1&x=2"));
        assert_eq!(values.one("name"), "Gdańsk plant");
        assert_eq!(values.list("list"), ["a", "b", "c"]);
        assert_eq!((values.one("odd"), values.one("empty"), values.one("x")), ("100%", "", "2"));
        assert_eq!(values.all("x"), ["1", "2"]);
    }

    #[test]
    fn a_refusal_goes_to_the_field_that_it_names_and_else_to_the_form() {
        let refused = Refused {
            status: 422,
            field: Some("prefixes[1]".into()),
            rule: Some("An address like 10.0.0.0/8".into()),
            ..Refused::default()
        };
        let errors = Errors::refused(&refused, &["name", "prefixes"]);
        assert_eq!(errors.of("prefixes"), Some("Entry 2. Expected: an address like 10.0.0.0/8."));
        let other = Errors::refused(
            &Refused { field: Some("id".into()), detail: "no site x".into(), ..refused },
            &["name"],
        );
        assert_eq!(other.of(""), Some("no site x."));
    }

    #[test]
    fn a_name_is_found_whatever_its_letters_case_unless_two_differ_in_nothing_else() {
        let options = [("1", "Berlin"), ("2", "berlin"), ("3", "Gdańsk"), ("4", "2")]
            .map(|(value, name)| (value.to_owned(), name.to_owned()));
        for (typed, found) in [
            ("3", "3"),
            (" gdańsk ", "3"),
            ("berlin", "2"),
            ("Berlin", "1"),
            ("BERLIN", "BERLIN"),
            ("2", "2"),
        ] {
            assert_eq!(chosen(&options, typed), found, "{typed}");
        }
    }
}
