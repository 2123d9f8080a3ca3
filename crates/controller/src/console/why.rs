//! Why somebody can or cannot reach something: the connectors' own decision, with what stands before it.

use super::{
    lists::Wanted,
    look::{Row, badge, card, card_with_room, code, empty, head, icon, sized_icon, typed},
    names::{Names, member_page},
    resources::live_sites,
    shell::{Here, Viewer},
};
use axum::{extract::Query, response::Response};
use maud::{Markup, html};
use policy::{
    Address, ConnectorSlice, Decision, Destination, GrantFacts, HostName, Place, Protocol, ResourceModel,
    Step, StepOutcome, Verdict, decide, relevant_groups, resolve_resource, site_slice,
};
use std::{collections::BTreeMap, net::IpAddr};
use store::{Device, Member};
use trust::RevokedSubject;
use wire::{Refusal, ResourceId};

/// Where a question leads, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OwnPlace {
    Address(IpAddr),
    Name(HostName),
}

impl OwnPlace {
    pub(super) const fn as_place(&self) -> Place<'_> {
        match self {
            Self::Address(address) => Place::Address(*address),
            Self::Name(name) => Place::Name(name),
        }
    }
}

/// One destination of a resource: its address, the first of a network, a name below a wildcard; at its first port.
pub(super) fn place_of(resource: &ResourceModel) -> Option<(OwnPlace, Protocol, u16)> {
    let place = match &resource.address {
        Address::Ip(ip) => OwnPlace::Address(*ip),
        Address::Host(name) => OwnPlace::Name(name.clone()),
        Address::Cidr(prefix) => OwnPlace::Address(prefix.to_string().split('/').next()?.parse().ok()?),
        Address::Wildcard(names) => OwnPlace::Name(format!("any.{}", names.suffix().as_str()).parse().ok()?),
    };
    let ports = resource.ports.first()?;
    Some((place, ports.protocol(), ports.first()))
}

/// Who asks: a person or service account, and one of their devices if one was named.
struct Asker<'a> {
    member: Member,
    name: &'a str,
    device: Option<&'a Device>,
}

fn same(text: &str, asked: &str) -> bool {
    text.eq_ignore_ascii_case(asked)
}

/// Everybody that a text may mean: a name, an e-mail address or an id, of a person, service account or device.
fn askers<'a>(viewer: &'a Viewer, names: &Names<'a>, asked: &str) -> Vec<Asker<'a>> {
    let data = viewer.data();
    let mut found = Vec::new();
    for user in &data.users {
        if same(&user.name, asked) || same(&user.email, asked) || user.id.to_string() == asked {
            found.push(Asker { member: Member::User(user.id), name: &user.name, device: None });
        }
    }
    for account in &data.service_accounts {
        if same(&account.name, asked) || account.id.to_string() == asked {
            found.push(Asker {
                member: Member::ServiceAccount(account.id),
                name: &account.name,
                device: None,
            });
        }
    }
    for device in &data.devices {
        if same(&device.name, asked) || device.id.to_string() == asked {
            found.push(Asker {
                member: device.owner,
                name: names.member(device.owner),
                device: Some(device),
            });
        }
    }
    found
}

/// `443`, `tcp 443`, `udp/53`, `icmp`.
fn port_of(text: &str) -> Option<(Protocol, u16)> {
    let text = text.trim().to_ascii_lowercase().replace(' ', "/");
    if text == "icmp" {
        return Some((Protocol::Icmp, 0));
    }
    let (protocol, port) = match text.split_once('/') {
        Some(("tcp", port)) => (Protocol::Tcp, port),
        Some(("udp", port)) => (Protocol::Udp, port),
        Some(_) => return None,
        None => (Protocol::Tcp, text.as_str()),
    };
    port.parse().ok().filter(|port| *port > 0).map(|port| (protocol, port))
}

/// What was asked about, and in which site it would be.
struct Asked {
    slice: ConnectorSlice,
    place: OwnPlace,
    protocol: Protocol,
    port: u16,
    /// What it is called.
    said: String,
}

/// What a text means: a resource by name, alias or id, else an address or name that some site has.
fn asked_about(viewer: &Viewer, to: &str, on: &str) -> Result<Asked, String> {
    let model = viewer.model();
    let on = match on.trim() {
        "" => None,
        text => Some(port_of(text).ok_or_else(|| {
            format!("A port is a number between 1 and 65535, or like udp/53, or icmp; got {text}.")
        })?),
    };
    let id: Option<ResourceId> = to.parse().ok();
    let mut resources = model.resources.iter();
    let found = resources.find(|(this, resource)| {
        Some(**this) == id
            || same(&resource.name, to)
            || resource.alias.as_deref().is_some_and(|alias| same(alias, to))
            || same(&resource.address.to_string(), to)
    });
    if let Some((_, resource)) = found {
        let (place, protocol, port) = place_of(resource).ok_or("This resource has no port.")?;
        let (protocol, port) = on.unwrap_or((protocol, port));
        let slice = site_slice(model, resource.site, &[]).ok_or("This resource has no site.")?;
        return Ok(Asked { slice, place, protocol, port, said: resource.name.clone() });
    }
    let place = match (to.parse::<IpAddr>(), to.parse::<HostName>()) {
        (Ok(address), _) => OwnPlace::Address(address),
        (_, Ok(name)) => OwnPlace::Name(name),
        _ => return Err(format!("“{to}” is neither a resource nor an address nor a host name.")),
    };
    let (protocol, port) = on.unwrap_or((Protocol::Tcp, 443));
    let to_said = to.to_owned();
    let mut any = None;
    for site in model.sites.keys() {
        let Some(slice) = site_slice(model, *site, &[]) else { continue };
        let destination = Destination { place: place.as_place(), protocol, port };
        if resolve_resource(&slice, destination).is_some() {
            return Ok(Asked { slice, place, protocol, port, said: to_said });
        }
        any = Some(slice);
    }
    let slice = any.ok_or("There is no site yet, so there is nothing to reach.")?;
    Ok(Asked { slice, place, protocol, port, said: to_said })
}

/// A check as the page shows it: who makes it, and the step.
struct Check {
    by: &'static str,
    step: Step,
}

fn held(by: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Check {
    Check { by, step: Step::new(what, StepOutcome::Held, detail) }
}

fn failed(by: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Check {
    Check { by, step: Step::new(what, StepOutcome::Failed, detail) }
}

/// What stands before the decision: nothing is struck, and a connector is there.
fn before(viewer: &Viewer, names: &Names<'_>, asker: &Asker<'_>, asked: &Asked) -> Vec<Check> {
    let struck = viewer.core.strikes.set();
    let data = viewer.data();
    let generation = match asker.member {
        Member::User(id) => data.users.iter().find(|row| row.id == id).map(|row| row.generation),
        Member::ServiceAccount(id) => {
            data.service_accounts.iter().find(|row| row.id == id).map(|row| row.generation)
        }
    };
    let owner = crate::snapshot::owner(asker.member);
    let mut checks = Vec::new();
    match generation {
        Some(generation) if struck.is_struck(RevokedSubject::owner(owner), generation) => {
            checks.push(failed(
                "every connector",
                format!("{} is not revoked", asker.name),
                format!("generation {generation} is struck"),
            ));
        }
        Some(generation) => {
            checks.push(held(
                "every connector",
                format!("{} is not revoked", asker.name),
                format!("generation {generation} is good"),
            ));
        }
        None => checks.push(failed("controller", format!("{} is known", asker.name), "removed meanwhile")),
    }
    if let Some(device) = asker.device {
        let is_struck = struck.is_struck(RevokedSubject::Device(device.id), device.generation);
        let make = if is_struck { failed } else { held };
        let detail =
            format!("generation {} is {}", device.generation, if is_struck { "struck" } else { "good" });
        checks.push(make("every connector", format!("the device {} is not revoked", device.name), detail));
    } else {
        let count = data.devices.iter().filter(|device| device.owner == asker.member).count();
        let detail = match count {
            0 => "none is enrolled: nothing can ask for anything".to_owned(),
            1 => "one is enrolled".to_owned(),
            n => format!("{n} are enrolled"),
        };
        let make = if count == 0 { failed } else { held };
        checks.push(make("controller", format!("{} has a device", asker.name), detail));
    }
    let there = live_sites(viewer).contains(&asked.slice.site);
    let mut connectors: Vec<&str> = names
        .connectors
        .values()
        .filter(|row| row.site == asked.slice.site)
        .map(|row| row.name.as_str())
        .collect();
    connectors.truncate(5);
    let what = format!("a connector of {} can be reached", asked.slice.site_name);
    checks.push(if there {
        held("PoPs", what, format!("{} in this site; at least one has a session", connectors.join(", ")))
    } else if connectors.is_empty() {
        failed("PoPs", what, "the site has no connector yet")
    } else {
        failed("PoPs", what, format!("none of {} has a session at a PoP", connectors.join(", ")))
    });
    checks
}

fn decision<'a>(viewer: &Viewer, asker: &Asker<'_>, asked: &'a Asked) -> Decision<'a> {
    let owner = crate::snapshot::owner(asker.member);
    let groups = relevant_groups(viewer.model(), owner);
    let facts = GrantFacts::would_be(owner, groups, &viewer.core.strikes.set());
    let to = Destination { place: asked.place.as_place(), protocol: asked.protocol, port: asked.port };
    decide(&asked.slice, &facts, to)
}

pub(super) async fn page(viewer: Viewer, Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let wanted = Wanted(wanted);
    let (who, to, on) = (wanted.get("who"), wanted.get("to"), wanted.get("on"));
    let names = Names::of(viewer.data());
    let answer = if who.is_empty() || to.is_empty() {
        html! {}
    } else {
        answer(&viewer, &names, who, to, on)
    };
    let nothing_asked = answer.0.is_empty();
    let shown_to = to
        .parse::<ResourceId>()
        .ok()
        .and_then(|id| names.resources.get(&id))
        .map_or(to, |row| row.name.as_str());
    let found = askers(&viewer, &names, who);
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
                    input class="input" id="who" name="who" value=(shown_who) autocomplete="off" dir="auto" maxlength="200" list="people" placeholder="Name or e-mail" required;
                    datalist id="people" { @for name in names.members.values().take(100) { option value=(name) {} } }
                }
                div class="field" {
                    label for="to" { "Reaches" }
                    input class="input" id="to" name="to" value=(shown_to) autocomplete="off" dir="auto" maxlength="253" list="things" placeholder="Resource, name or address" required;
                    datalist id="things" { @for row in names.resources.values().take(100) { option value=(row.name) {} } }
                }
                div class="field" {
                    label for="on" { "On port " span class="opt" { "optional" } }
                    input class="input" id="on" name="on" value=(on) autocomplete="off" maxlength="20" placeholder="its first";
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

fn answer(viewer: &Viewer, names: &Names<'_>, who: &str, to: &str, on: &str) -> Markup {
    let found = askers(viewer, names, who);
    let asker = match found.as_slice() {
        [only] => only,
        [] => {
            return trouble(
                html! { "Nobody is called “" (typed(who)) "”: expected the name, e-mail address or id of a person, service account or device." },
            );
        }
        many => return which(many, to, on),
    };
    let asked = match asked_about(viewer, to, on) {
        Ok(asked) => asked,
        Err(problem) => return trouble(html! { (problem) }),
    };
    let mut checks = before(viewer, names, asker, &asked);
    let decision = decision(viewer, asker, &asked);
    let id = crate::snapshot::owner(asker.member).to_string();
    checks.extend(decision.explanation.steps.iter().map(|step| {
        // The connector knows the owner by an id; here the name is known.
        let what = step.what.replace(&id, asker.name);
        Check { by: "connector", step: Step::new(what, step.outcome, step.detail.clone()) }
    }));
    let can = decision.verdict == Verdict::Allow
        && checks.iter().all(|check| check.step.outcome == StepOutcome::Held);
    let first_failed = checks.iter().position(|check| check.step.outcome == StepOutcome::Failed);
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
            div class="col-8" { (chain(&checks, first_failed)) }
            div class="stack stack--side col-4" {
                (what_would_help(viewer, names, asker, &asked, &decision, first_failed.is_some_and(|index| index < checks.len() - decision.explanation.steps.len())))
                (others(viewer, names, asker, &asked))
                (card_with_room("shell", "From the shell", html! {
                    (code("Command", html! { "tidegate why '" (asked.said.replace('\'', "")) "'" }))
                    p class="hint mt-2" { "On the device itself; prints what it may know. " code { "--json" } " for scripts." }
                }))
            }
        }
    }
}

fn trouble(text: Markup) -> Markup {
    html! { div class="note note--warn" role="status" { (icon("info")) p { (text) } } }
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
        let answer = match decision(viewer, &other, asked).verdict {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_read_as_people_write_it() {
        assert_eq!(port_of("443"), Some((Protocol::Tcp, 443)));
        assert_eq!(port_of("tcp 5432"), Some((Protocol::Tcp, 5432)));
        assert_eq!(port_of("UDP/53"), Some((Protocol::Udp, 53)));
        assert_eq!(port_of("icmp"), Some((Protocol::Icmp, 0)));
        for wrong in ["0", "70000", "sctp/9", "x"] {
            assert_eq!(port_of(wrong), None, "{wrong}");
        }
    }
}
