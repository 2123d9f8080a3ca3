//! Connections that are being made: which connector, and what when it is not the one.

use super::{ClientCore, DialFault, DialId, FlowEntry, MAX_DIALS, Output, Route, route};
use crate::target::Target;
use flow::{FlowError, FlowId, LinkId};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};
use wire::{ConnectorId, Refusal, RefusalClass, SiteId};

/// How long a connection may take to come about. A connector gives a target 10 s; the rest is for finding
/// another PoP and another connector.
pub(super) const DIAL_DEADLINE: Duration = Duration::from_secs(30);
/// A connection to a connector that is said to refuse this device comes about within this, or not at all.
const DOUBTED_DIAL: Duration = Duration::from_secs(3);
/// Local ports tried before a dial is given up: a port is taken for as long as its last flow lingers.
const PORT_TRIES: usize = 64;

pub(super) struct Dialling {
    pub(super) route: Route,
    /// Connectors still to be tried.
    pub(super) rest: VecDeque<ConnectorId>,
    pub(super) stage: DialStage,
    pub(super) fault: Option<DialFault>,
    pub(super) deadline: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DialStage {
    Link(ConnectorId),
    Flow(FlowId),
}

impl ClientCore {
    /// Begins a connection; [`Output::Dialled`] follows.
    pub fn dial(&mut self, now: Instant, target: &Target) -> DialId {
        let dial = DialId(self.next_dial);
        self.next_dial += 1;
        match self.begin(now, target) {
            Ok(dialling) => {
                self.deadlines.insert((dialling.deadline, dial));
                self.dials.insert(dial, dialling);
                self.advance_dial(now, dial);
            }
            Err(fault) => self.outputs.push_back(Output::Dialled { dial, result: Err(fault) }),
        }
        self.pump(now);
        dial
    }

    pub(super) fn begin(&mut self, now: Instant, target: &Target) -> Result<Dialling, DialFault> {
        if self.dials.len() >= MAX_DIALS {
            return Err(DialFault {
                retry_after: Some(Duration::from_secs(1)),
                detail: format!("{MAX_DIALS} connections are being made already"),
                ..DialFault::new(Refusal::Full)
            });
        }
        let mut route = route(&self.slice, target).map_err(|none| DialFault {
            reason: none.reason,
            detail: none.detail,
            retry_after: None,
        })?;
        if let Some(name) = &route.bind {
            let address = self.proxy_names.assign(now, name).ok_or_else(|| DialFault {
                retry_after: Some(Duration::from_secs(60)),
                detail: "too many names are in use".to_owned(),
                ..DialFault::new(Refusal::Full)
            })?;
            route.destination.set_ip(address.into());
        }
        let mut rest = VecDeque::from(self.connectors_of(route.site));
        let Some(first) = rest.pop_front() else {
            return Err(DialFault {
                detail: "no connector is enrolled in the resource's site".into(),
                ..DialFault::new(Refusal::NotAttached)
            });
        };
        let stage = DialStage::Link(first);
        Ok(Dialling { route, rest, stage, fault: None, deadline: now + DIAL_DEADLINE })
    }

    /// The connectors of a site in the order in which they are tried.
    pub(super) fn connectors_of(&self, site: SiteId) -> Vec<ConnectorId> {
        let site = self.slice.sites.iter().find(|known| known.id == site);
        let mut rest: Vec<ConnectorId> =
            site.into_iter().flat_map(|site| &site.connectors).map(|connector| connector.id).collect();
        // A tunnel that stands is shared; else devices spread over the connectors by their own keys, and one
        // that was refused last goes to the end.
        let own = self.identity.verifying_key();
        rest.sort_by_cached_key(|id| {
            let link = self.links.get(id);
            let is_up = link.is_some_and(|link| self.way_of(link).is_some());
            let was_refused = link.is_some_and(|link| link.refusal.is_some());
            (
                self.failover.is_suspect(*id),
                !is_up,
                was_refused,
                trust::sha256(&[b"tidegate/connector-choice/1", own.as_bytes(), id.as_bytes()]),
            )
        });
        rest
    }

    /// Nobody waits for this dial any more.
    pub fn cancel(&mut self, now: Instant, dial: DialId) {
        if let Some(dialling) = self.take_dial(dial)
            && let DialStage::Flow(flow) = dialling.stage
        {
            self.entries.remove(&flow);
            let _ = self.flows.abort(now, flow);
        }
        self.pump(now);
    }

    pub(super) fn take_dial(&mut self, dial: DialId) -> Option<Dialling> {
        let dialling = self.dials.remove(&dial)?;
        self.deadlines.remove(&(dialling.deadline, dial));
        Some(dialling)
    }

    pub(super) fn finish_dial(&mut self, dial: DialId, result: Result<FlowId, DialFault>) {
        if self.take_dial(dial).is_some() {
            self.outputs.push_back(Output::Dialled { dial, result });
        }
    }

    /// Takes a dial as far as it goes without waiting.
    pub(super) fn advance_dial(&mut self, now: Instant, dial: DialId) {
        let Some(dialling) = self.dials.get(&dial) else { return };
        let DialStage::Link(connector) = dialling.stage else { return };
        let destination = dialling.route.destination;
        self.ensure_link(now, connector);
        let Some(link) = self.links.get(&connector) else {
            return self.next_connector(now, dial, DialFault::new(Refusal::NoResource));
        };
        let refusal = link.refusal;
        let (Some(_), Some(peer), Some(inner)) = (self.way_of(link), link.peer, link.inner) else {
            return;
        };
        let source = inner.for_family_of(destination.ip());
        for _ in 0..PORT_TRIES {
            let Some(link) = self.links.get_mut(&connector) else { return };
            let source = SocketAddr::new(source, link.take_port());
            match self.flows.dial(now, LinkId(peer.number()), source, destination) {
                Ok(flow) => {
                    self.entries.insert(flow, FlowEntry { connector, dial: Some(dial) });
                    if let Some(dialling) = self.dials.get_mut(&dial) {
                        dialling.stage = DialStage::Flow(flow);
                    }
                    if let Some(reason) = refusal {
                        self.doubt_dial(now, dial, reason);
                    }
                    return;
                }
                Err(FlowError::Address) => {}
                Err(_) => break,
            }
        }
        let fault = DialFault { retry_after: Some(Duration::from_secs(1)), ..DialFault::new(Refusal::Full) };
        self.finish_dial(dial, Err(fault));
    }

    /// Packets go straight to a connector, and a PoP says that it refuses this device. The word of a PoP ends nothing that
    /// does not pass it; but if it is true, nobody answers any more, and nobody has to wait for that for long.
    fn doubt_dial(&mut self, now: Instant, dial: DialId, reason: Refusal) {
        let until = now + DOUBTED_DIAL;
        if reason.class() == RefusalClass::Denied
            && let Some(dialling) = self.dials.get_mut(&dial).filter(|dialling| until < dialling.deadline)
        {
            self.deadlines.remove(&(dialling.deadline, dial));
            dialling.deadline = until;
            dialling.fault.get_or_insert_with(|| DialFault::new(reason));
            self.deadlines.insert((until, dial));
        }
    }

    pub(super) fn doubt_dials(&mut self, now: Instant, connector: ConnectorId, reason: Refusal) {
        let is_to = |dialling: &Dialling| match dialling.stage {
            DialStage::Flow(flow) => {
                self.entries.get(&flow).is_some_and(|entry| entry.connector == connector)
            }
            DialStage::Link(_) => false,
        };
        let doubted: Vec<DialId> =
            self.dials.iter().filter(|(_, dialling)| is_to(dialling)).map(|(dial, _)| *dial).collect();
        for dial in doubted {
            self.doubt_dial(now, dial, reason);
        }
    }

    /// Goes on with the next connector of the site, or ends with the refusal that says most.
    pub(super) fn next_connector(&mut self, now: Instant, dial: DialId, fault: DialFault) {
        let Some(dialling) = self.dials.get_mut(&dial) else { return };
        // A "no" says more than a "not now" of another connector.
        let denied = |fault: &DialFault| fault.reason.class() == RefusalClass::Denied;
        if !dialling.fault.as_ref().is_some_and(denied) || denied(&fault) {
            dialling.fault = Some(fault);
        }
        match dialling.rest.pop_front() {
            Some(next) => {
                dialling.stage = DialStage::Link(next);
                self.advance_dial(now, dial);
            }
            None => {
                let fault = dialling.fault.take().unwrap_or_else(|| DialFault::new(Refusal::NotAttached));
                self.finish_dial(dial, Err(fault));
            }
        }
    }

    pub(super) fn waiting_for(&self, id: ConnectorId) -> Vec<DialId> {
        let waits = |dialling: &Dialling| dialling.stage == DialStage::Link(id);
        self.dials.iter().filter(|(_, dialling)| waits(dialling)).map(|(dial, _)| *dial).collect()
    }
}
