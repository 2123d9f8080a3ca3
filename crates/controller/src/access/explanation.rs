//! Why somebody can or cannot reach something: the connectors' own decision, with what stands before it.

use super::{OwnPlace, Scene, place_of};
use crate::snapshot::owner;
use policy::{
    ConnectorSlice, Decision, Destination, GrantFacts, HostName, Protocol, Step, StepOutcome, Verdict,
    decide, relevant_groups, resolve_resource, site_slice,
};
use std::net::IpAddr;
use store::{Device, DeviceState, Member};
use trust::RevokedSubject;
use wire::ResourceId;

/// Who asks: a person or service account, and one of their devices if one was named.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) member: Member,
    pub(crate) name: &'a str,
    pub(crate) device: Option<&'a Device>,
}

fn same(text: &str, asked: &str) -> bool {
    text.eq_ignore_ascii_case(asked)
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

/// Why a question has no answer.
#[derive(Debug)]
pub(crate) struct NotAsked {
    /// Which part of it: `to` or `on`.
    pub(crate) field: &'static str,
    pub(crate) says: String,
}

fn not_asked(field: &'static str, says: impl Into<String>) -> NotAsked {
    NotAsked { field, says: says.into() }
}

/// What was asked about, and in which site it would be.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) slice: ConnectorSlice,
    place: OwnPlace,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// What it is called.
    pub(crate) said: String,
}

/// A check: who makes it, and the step.
#[derive(Debug)]
pub(crate) struct Check {
    pub(crate) by: &'static str,
    pub(crate) step: Step,
}

fn held(by: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Check {
    Check { by, step: Step::new(what, StepOutcome::Held, detail) }
}

fn failed(by: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Check {
    Check { by, step: Step::new(what, StepOutcome::Failed, detail) }
}

/// The whole answer.
#[derive(Debug)]
pub(crate) struct Explained<'a> {
    pub(crate) decision: Decision<'a>,
    /// In order: what stands before the decision, then its own steps.
    pub(crate) checks: Vec<Check>,
    /// How many stand before it.
    pub(crate) before: usize,
}

impl Explained<'_> {
    /// Whether every gate is open.
    pub(crate) fn can(&self) -> bool {
        self.decision.verdict == Verdict::Allow && self.first_failed().is_none()
    }

    /// The first closed gate.
    pub(crate) fn first_failed(&self) -> Option<usize> {
        self.checks.iter().position(|check| check.step.outcome == StepOutcome::Failed)
    }
}

impl<'a> Scene<'a> {
    /// Everybody that a text may mean: a name, an e-mail address or an id, of a person, service account or device.
    pub(crate) fn askers(&self, asked: &str) -> Vec<Asker<'a>> {
        let data = self.data;
        let (user_id, account_id, device_id) = (asked.parse().ok(), asked.parse().ok(), asked.parse().ok());
        let mut found = Vec::new();
        for user in &data.users {
            if same(&user.name, asked) || same(&user.email, asked) || Some(user.id) == user_id {
                found.push(Asker { member: Member::User(user.id), name: &user.name, device: None });
            }
        }
        for account in &data.service_accounts {
            if same(&account.name, asked) || Some(account.id) == account_id {
                found.push(Asker {
                    member: Member::ServiceAccount(account.id),
                    name: &account.name,
                    device: None,
                });
            }
        }
        for device in &data.devices {
            if same(&device.name, asked) || Some(device.id) == device_id {
                found.push(Asker {
                    member: device.owner,
                    name: self.member(device.owner),
                    device: Some(device),
                });
            }
        }
        found
    }

    /// What a text means: a resource by name, alias or id, else an address or name that some site has.
    ///
    /// # Errors
    /// It means nothing; in words.
    pub(crate) fn asked_about(&self, to: &str, on: &str) -> Result<Asked, NotAsked> {
        let model = self.model;
        let on = match on.trim() {
            "" => None,
            text => Some(port_of(text).ok_or_else(|| {
                let says = "A port is a number between 1 and 65535, or like udp/53, or icmp; got";
                not_asked("on", format!("{says} {text}."))
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
            let (place, protocol, port) =
                place_of(resource).ok_or_else(|| not_asked("to", "This resource has no port."))?;
            let (protocol, port) = on.unwrap_or((protocol, port));
            let slice = site_slice(model, resource.site, &[])
                .ok_or_else(|| not_asked("to", "This resource has no site."))?;
            return Ok(Asked { slice, place, protocol, port, said: resource.name.clone() });
        }
        let place = match (to.parse::<IpAddr>(), to.parse::<HostName>()) {
            (Ok(address), _) => OwnPlace::Address(address),
            (_, Ok(name)) => OwnPlace::Name(name),
            _ => {
                let says = format!("“{to}” is neither a resource nor an address nor a host name.");
                return Err(not_asked("to", says));
            }
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
        let slice =
            any.ok_or_else(|| not_asked("to", "There is no site yet, so there is nothing to reach."))?;
        Ok(Asked { slice, place, protocol, port, said: to_said })
    }

    /// What stands before the decision: nothing is struck, and a connector is there.
    fn before(&self, asker: &Asker<'_>, asked: &Asked) -> Vec<Check> {
        let struck = self.core.strikes.set();
        let data = self.data;
        let generation = match asker.member {
            Member::User(id) => data.users.iter().find(|row| row.id == id).map(|row| row.generation),
            Member::ServiceAccount(id) => {
                data.service_accounts.iter().find(|row| row.id == id).map(|row| row.generation)
            }
        };
        let owner = owner(asker.member);
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
            None => {
                checks.push(failed("controller", format!("{} is known", asker.name), "removed meanwhile"))
            }
        }
        if let Some(device) = asker.device {
            let is_struck = struck.is_struck(RevokedSubject::Device(device.id), device.generation);
            let make = if is_struck { failed } else { held };
            let detail =
                format!("generation {} is {}", device.generation, if is_struck { "struck" } else { "good" });
            checks.push(make(
                "every connector",
                format!("the device {} is not revoked", device.name),
                detail,
            ));
            let is_active = device.state == DeviceState::Active;
            let make = if is_active { held } else { failed };
            let state = match device.state {
                DeviceState::Active => "it is",
                DeviceState::Pending => "it waits for somebody who approves it",
                DeviceState::Blocked => "it is blocked",
                DeviceState::Archived => "it is archived",
            };
            checks.push(make(
                "controller",
                format!("the device {} is approved", device.name),
                state.to_owned(),
            ));
        } else {
            let own = || data.devices.iter().filter(|device| device.owner == asker.member);
            let count = own().filter(|device| device.state == DeviceState::Active).count();
            let detail = match count {
                0 if own().next().is_some() => {
                    "none that is approved: nothing can ask for anything".to_owned()
                }
                0 => "none is enrolled: nothing can ask for anything".to_owned(),
                1 => "one is enrolled".to_owned(),
                n => format!("{n} are enrolled"),
            };
            let make = if count == 0 { failed } else { held };
            checks.push(make("controller", format!("{} has a device", asker.name), detail));
        }
        let there = self.live_sites().contains(&asked.slice.site);
        let mut connectors: Vec<&str> = data
            .connectors
            .iter()
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

    /// What a connector would decide.
    pub(crate) fn decision<'b>(&self, asker: &Asker<'_>, asked: &'b Asked) -> Decision<'b> {
        let owner = owner(asker.member);
        let groups = relevant_groups(self.model, owner);
        let facts = GrantFacts::would_be(owner, groups, &self.core.strikes.set());
        let to = Destination { place: asked.place.as_place(), protocol: asked.protocol, port: asked.port };
        decide(&asked.slice, &facts, to)
    }

    /// The connectors' decision with what stands before it.
    pub(crate) fn explain<'b>(&self, asker: &Asker<'_>, asked: &'b Asked) -> Explained<'b> {
        let mut checks = self.before(asker, asked);
        let before = checks.len();
        let decision = self.decision(asker, asked);
        let id = owner(asker.member).to_string();
        checks.extend(decision.explanation.steps.iter().map(|step| {
            // The connector knows the owner by an id; here the name is known.
            let what = step.what.replace(&id, asker.name);
            Check { by: "connector", step: Step::new(what, step.outcome, step.detail.clone()) }
        }));
        Explained { decision, checks, before }
    }
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
