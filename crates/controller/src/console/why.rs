//! Why somebody can or cannot reach something, as a page.

use super::{
    form::Errors,
    lists::Wanted,
    look::{Row, badge, card, card_with_room, code, empty, head, icon, sized_icon, typed},
    names::{Names, member_page},
    shell::{Here, Viewer},
};
use crate::access::{Asked, Asker, Check, NotAsked};
use axum::{extract::Query, response::Response};
use maud::{Markup, html};
use policy::{Decision, StepOutcome, Verdict};
use std::collections::BTreeMap;
use wire::{Refusal, ResourceId};

pub(super) async fn page(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (who, to, on) = (wanted.get("who"), wanted.get("to"), wanted.get("on"));
    let names = Names::of(viewer.data());
    let (answer, wrong) = if who.is_empty() || to.is_empty() {
        (html! {}, Errors::default())
    } else {
        answer(&viewer, &names, who, to, on)
    };
    let nothing_asked = answer.0.is_empty() && wrong.is_empty();
    let shown_to = to
        .parse::<ResourceId>()
        .ok()
        .and_then(|id| names.resources.get(&id))
        .map_or(to, |row| row.name.as_str());
    let found = viewer.scene().askers(who);
    let shown_who = match found.as_slice() {
        [only] => only.device.map_or(only.name, |device| device.name.as_str()),
        _ => who,
    };
    let body = html! {
        (head(&[], "Why can or can’t someone reach something?", "The answer comes from the same decision code that runs in the connector.", html! {}))
        form class="card card-body card-body--top mb-4" action="/why" {
            div class="ask ask--three" {
                div class="field" {
                    label for="who" { "Who or which device" }
                    input class="input" id="who" name="who" value=(shown_who) autocomplete="off" dir="auto" maxlength="200" list="people" placeholder="Name or e-mail" required
                        aria-invalid=[wrong.of("who").map(|_| "true")] aria-describedby=[wrong.of("who").map(|_| "who-error")];
                    (said(&wrong, "who"))
                    datalist id="people" { @for name in names.members.values().take(100) { option value=(name) {} } }
                }
                div class="field" {
                    label for="to" { "Reaches" }
                    input class="input" id="to" name="to" value=(shown_to) autocomplete="off" dir="auto" maxlength="253" list="things" placeholder="Resource, name or address" required
                        aria-invalid=[wrong.of("to").map(|_| "true")] aria-describedby=[wrong.of("to").map(|_| "to-error")];
                    (said(&wrong, "to"))
                    datalist id="things" { @for row in names.resources.values().take(100) { option value=(row.name) {} } }
                }
                div class="field" {
                    label for="on" { "On port " span class="opt" { "optional" } }
                    input class="input" id="on" name="on" value=(on) autocomplete="off" maxlength="20" placeholder="its first"
                        aria-invalid=[wrong.of("on").map(|_| "true")] aria-describedby=[wrong.of("on").map(|_| "on-error")];
                    (said(&wrong, "on"))
                }
                button class="btn btn--primary" type="submit" { "Explain" }
            }
        }
        @if nothing_asked {
            section class="card" { (empty("Ask about anybody and anything",
                "A person, a service account or one device; a resource, or any address and name. The answer is a chain of checks that ends at the first closed gate.", html! {})) }
        } @else { (answer) }
    };
    viewer.page(Here::Why, "Why?", body)
}

/// What is wrong with a field, below it.
fn said(wrong: &Errors, field: &str) -> Markup {
    html! { @if let Some(text) = wrong.of(field) { p class="error" id={ (field) "-error" } role="alert" { (icon("warn")) span { (text) } } } }
}

/// The answer, or what is wrong with the question.
fn answer(viewer: &Viewer, names: &Names<'_>, who: &str, to: &str, on: &str) -> (Markup, Errors) {
    let wrong = |field: &str, says: String| {
        let mut errors = Errors::default();
        errors.add(field, says);
        (html! {}, errors)
    };
    let found = viewer.scene().askers(who);
    let asker = match found.as_slice() {
        [only] => only,
        [] => {
            return wrong(
                "who",
                format!(
                    "Nobody is called “{who}”: expected the name, e-mail address or id of a person, service account or device."
                ),
            );
        }
        many => return (which(many, to, on), Errors::default()),
    };
    match viewer.scene().asked_about(to, on) {
        Ok(asked) => (explanation(viewer, names, asker, &asked), Errors::default()),
        Err(NotAsked { field, says }) => wrong(field, says),
    }
}

fn explanation(viewer: &Viewer, names: &Names<'_>, asker: &Asker<'_>, asked: &Asked) -> Markup {
    let explained = viewer.scene().explain(asker, asked);
    let (can, first_failed) = (explained.can(), explained.first_failed());
    let (checks, decision) = (&explained.checks, &explained.decision);
    let port = asked.protocol.describe(asked.port);
    let from = asker.device.map(|device| device.name.as_str());
    let reason = first_failed.map(|index| &checks[index].step);
    html! {
        section class=(if can { "verdict mb-4" } else { "verdict verdict--no mb-4" }) aria-labelledby="verdict" {
            (sized_icon("verdict-mark", if can { "gate-open" } else { "gate-shut" }))
            div {
                h2 id="verdict" {
                    @if can { "Yes: " } @else { "No: " }
                    (typed(asker.name)) @if can { " can reach " } @else { " can’t reach " } (typed(&asked.said)) " on " (port)
                    @if let Some(device) = from { " from " (typed(device)) } "."
                }
                @if let Some(step) = reason { p { "The first closed gate: " (typed(&step.what)) @if !step.detail.is_empty() { " — " (typed(&step.detail)) } "." } }
                @else { p { "Every gate is open." } }
                p class="meta" { "Decided from version " (super::look::thin(viewer.data().organization.version.version)) " of the configuration, as connectors decide." }
            }
        }
        div class="grid" {
            div class="col-8" { (chain(checks, first_failed)) }
            div class="stack stack--side col-4" {
                (what_would_help(viewer, names, asker, asked, decision, first_failed.is_some_and(|index| index < explained.before)))
                (others(viewer, names, asker, asked))
                (card_with_room("shell", "From the shell", html! {
                    (code("Command", html! { "tidegate why '" (asked.said.replace('\'', "")) "'" }))
                    p class="hint mt-2" { "On the device itself; prints what it may know. " code { "--json" } " for scripts." }
                }))
            }
        }
    }
}

fn which(many: &[Asker<'_>], to: &str, on: &str) -> Markup {
    let ask = |asker: &Asker<'_>| {
        let id = asker.device.map_or_else(|| asker.member.to_string(), |device| device.id.to_string());
        format!("/why?who={id}&to={}&on={}", super::shell::encode(to), super::shell::encode(on))
    };
    card(
        "which",
        "Who is meant?",
        html! {},
        html! {
            ul class="todo" {
                @for asker in many.iter().take(20) {
                    li { (icon(if asker.device.is_some() { "device" } else { "people" })) div {
                        a href=(ask(asker)) { @if let Some(device) = asker.device { (typed(&device.name)) } @else { (typed(asker.name)) } }
                        span { @if asker.device.is_some() { "device of " (typed(asker.name)) } @else { (asker.member.to_string()) } }
                    } }
                }
            }
        },
    )
}

fn chain(checks: &[Check], first_failed: Option<usize>) -> Markup {
    card(
        "chain",
        "The checks, in order",
        html! { span class="sub" { "the first closed gate ends the way" } },
        html! {
            ol class="chain" {
                @for (index, check) in checks.iter().enumerate() {
                    @let skipped = first_failed.is_some_and(|first| index > first);
                    @let fail = Some(index) == first_failed;
                    li class=[if fail { Some("fail") } else if skipped { Some("skipped") } else { None }] {
                        span class="link" { (icon(if fail { "cross" } else if skipped { "minus" } else { "check" })) }
                        div {
                            h3 {
                                span class="vh" { @if fail { "Closed: " } @else if skipped { "Not reached: " } @else { "Passed: " } }
                                (typed(&capital(&check.step.what)))
                                span class="by" { @if skipped { "not reached" } @else { (check.by) } }
                            }
                            p {
                                @if skipped { @if check.step.outcome == StepOutcome::Held { "Would pass" } @else { "Would not pass" } @if !check.step.detail.is_empty() { ": " } @else { "." } }
                                (typed(&check.step.detail))
                            }
                        }
                    }
                }
            }
        },
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first: String = letters.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    format!("{first}{}", letters.as_str())
}

fn what_would_help(
    viewer: &Viewer,
    names: &Names<'_>,
    asker: &Asker<'_>,
    asked: &Asked,
    decision: &Decision<'_>,
    closed_before: bool,
) -> Markup {
    let mut all: Vec<(&'static str, Markup, Markup)> = Vec::new();
    if closed_before {
        let page = asker
            .device
            .map_or_else(|| member_page(asker.member), |device| format!("/devices/{}", device.id));
        all.push((
            "device",
            html! { a href=(page) { "Look at " (typed(asker.device.map_or(asker.name, |d| &d.name))) } },
            html! { "Give access back, or make a key that enrols a device." },
        ));
        all.push((
            "site",
            html! { a href={ "/sites/" (asked.slice.site) } { "Look at " (typed(&asked.slice.site_name)) } },
            html! { "Its connectors, and the command that starts one." },
        ));
    }
    match decision.verdict {
        Verdict::Deny(Refusal::NoResource) => all.push((
            "plus",
            viewer.link_or_words(
                &format!("/resources/new?address={}", super::shell::encode(&asked.said)),
                &html! { "Make it a resource" },
            ),
            html! { "Nothing is reached that is no resource." },
        )),
        Verdict::Deny(Refusal::PortNotAllowed) => {
            if let Some(resource) = decision.resource {
                all.push(("edit", viewer.link_or_words(&format!("/resources/{}/edit", resource.id), &html! { "Add the port to " (typed(&resource.name)) }),
                html! { "It has " (resource.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) "." }));
            }
        }
        Verdict::Deny(_) => {
            if let Some(resource) = decision.resource {
                for allow in resource.allow.iter().take(4) {
                    all.push(("people", html! { a href={ "/groups/" (allow.group) } { "Put " (typed(asker.name)) " into " (typed(names.group(allow.group))) } },
                    html! { "Its members reach this by the policy " (typed(&allow.policy_name)) "." }));
                }
                all.push((
                    "policy",
                    viewer.link_or_words(
                        &format!("/policies/new?resource={}", resource.id),
                        &html! { "Write a policy" },
                    ),
                    html! { "With a preview of who gains access." },
                ));
            }
        }
        Verdict::Allow => {}
    }
    if all.is_empty() {
        return card(
            "help",
            "What would change the answer",
            html! {},
            html! {
                p class="card-body sm quiet" { "Revoking the person or device, leaving the group, or changing the policy closes it within 5 s." }
            },
        );
    }
    card(
        "help",
        "What would change the answer",
        html! {},
        html! {
            ul class="todo" { @for (sign, what, detail) in &all { li { (icon(sign)) div { (what) span { (detail) } } } } }
        },
    )
}

/// The same question for others: people of the same groups.
fn others(viewer: &Viewer, names: &Names<'_>, asker: &Asker<'_>, asked: &Asked) -> Markup {
    let mut rows = Vec::new();
    for (member, name) in names.members.iter().filter(|(member, _)| **member != asker.member).take(5) {
        let other = Asker { member: *member, name, device: None };
        let answer = match viewer.scene().decision(&other, asked).verdict {
            Verdict::Allow => badge("ok", "check", "policy allows"),
            Verdict::Deny(Refusal::NoPolicy) => badge("denied", "cross", "no policy"),
            Verdict::Deny(refusal) => badge("denied", "cross", refusal.label()),
        };
        rows.push(Row::new(html! { a href={ "/why?who=" (member.to_string()) "&to=" (super::shell::encode(&asked.said)) } { (typed(name)) } }, vec![answer]));
    }
    if rows.is_empty() {
        return html! {};
    }
    card(
        "others",
        "The same question for…",
        html! {},
        super::look::small_table("The same question for others", &[("Who", ""), ("Policy", "")], &rows),
    )
}
