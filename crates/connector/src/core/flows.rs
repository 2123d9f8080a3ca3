//! Flows: from the first SYN to the record that they leave.

use super::{ConnectorCore, DatagramRequest, DialFault, Ending, MAX_ADDRESSES, Output};
use crate::core::lookups::Turn;
use crate::core::ranges;
use crate::core::rules::{FlowAge, Knowledge, Rules, Ruling, Target};
use crate::core::session::{Active, FlowKey, Stage, Wanted};
use crate::record::Verdict;
use flow::{CloseReason, FlowId, LinkId, Read, Unreachable};
use policy::Protocol;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use trust::UnixMs;
use tunnel::PeerId;
use wire::{DeviceId, Refusal};

/// What was decided while everything is judged again: flows to one place are judged once.
pub(super) type Rulings = BTreeMap<(PeerId, Protocol, SocketAddr), Ruling>;

impl ConnectorCore {
    /// Why a flow that was allowed would not be now; `open` is what it is connected to, if it is yet.
    pub(super) fn flow_fault<R: Rules>(
        &self,
        knowledge: &Knowledge<'_, R>,
        rulings: &mut Rulings,
        (peer, wanted): (PeerId, &Wanted),
        allowed: &Target,
        open: Option<SocketAddr>,
    ) -> Option<(Refusal, String)> {
        let Some(session) = self.sessions.get(&peer) else {
            return Some((Refusal::SessionLost, Refusal::SessionLost.to_string()));
        };
        // What an address means in a session is one thing: whatever meant another has ended.
        let same = (peer, wanted.protocol, wanted.address);
        let ruling = rulings.entry(same).or_insert_with(|| session.ask(knowledge, wanted, FlowAge::Running));
        match &ruling.verdict {
            Err(refusal) => Some((*refusal, ruling.explanation.clone())),
            // The same destination means something else now.
            Ok(target) if target != allowed => Some((Refusal::NoResource, Refusal::NoResource.to_string())),
            Ok(target) => {
                let refusal = self.address_fault(knowledge.rules, target, wanted.protocol, open?)?;
                Some((refusal, refusal.to_string()))
            }
        }
    }

    /// Why an address may not be connected to for a target that was allowed.
    pub(super) fn address_fault<R: Rules>(
        &self,
        rules: Option<&R>,
        target: &Target,
        protocol: Protocol,
        address: SocketAddr,
    ) -> Option<Refusal> {
        match target {
            Target::Literal(_) => None,
            Target::InRange(_) | Target::Name(_) if self.is_refused(protocol, address) => {
                Some(Refusal::RefusedRange)
            }
            Target::InRange(_) => None,
            Target::Name(_) if rules.is_some_and(|rules| rules.in_site(address.ip())) => None,
            Target::Name(_) => Some(Refusal::OutsideSite),
        }
    }

    /// Those of a name's addresses that may be connected to, or why none may.
    pub(super) fn usable<R: Rules>(
        &self,
        rules: Option<&R>,
        (target, protocol): (&Target, Protocol),
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<Vec<SocketAddr>, Refusal> {
        let mut fault = Refusal::NameNotResolved;
        let mut usable = Vec::new();
        for address in addresses {
            let address = SocketAddr::new(*address, port);
            match self.address_fault(rules, target, protocol, address) {
                None if usable.len() < MAX_ADDRESSES => usable.push(address),
                None => {}
                Some(refusal) => fault = refusal,
            }
        }
        if usable.is_empty() { Err(fault) } else { Ok(usable) }
    }

    fn is_refused(&self, protocol: Protocol, address: SocketAddr) -> bool {
        ranges::is_refused(address.ip())
            || self.listens_at(address)
            || (protocol == Protocol::Udp
                && self.own_port.contains(&SocketAddr::new(address.ip().to_canonical(), address.port())))
    }

    /// Whether this process listens there: at that very address, or at all that the machine has.
    fn listens_at(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        let is_there = |own: &SocketAddr| match own.ip().to_canonical() {
            // An IPv6 wildcard socket takes IPv4 as well.
            IpAddr::V6(any) if any.is_unspecified() => self.own_addresses.contains(&ip),
            IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4() && self.own_addresses.contains(&ip),
            own => own == ip,
        };
        self.own_listeners.iter().any(|own| own.port() == address.port() && is_there(own))
    }

    /// The system's resolver answered for a flow; an empty list when it did not.
    pub fn resolved<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        flow: FlowId,
        addresses: &[IpAddr],
    ) {
        self.look_up_next(FlowKey::Stream(flow));
        let Some(active) = self.active.get(&flow) else {
            return;
        };
        let Stage::Resolving { port } = active.stage else {
            return;
        };
        let usable = match self.usable(knowledge.rules, (&active.target, Protocol::Tcp), addresses, port) {
            Ok(usable) => usable,
            Err(fault) => return self.refuse(now, knowledge.wall, flow, fault),
        };
        if let Some(active) = self.active.get_mut(&flow) {
            active.stage = Stage::Dialling { addresses: usable.clone() };
        }
        self.outputs.push_back(Output::Dial { flow, addresses: usable });
    }

    /// The system's resolver takes too long for a flow. [`Self::resolved`] is to follow when it is done, and tells nothing
    /// any more: until then the look-up is one of the device's share.
    pub fn look_up_overdue(&mut self, now: Instant, wall: UnixMs, flow: FlowId) {
        if self.active.get(&flow).is_some_and(|active| matches!(active.stage, Stage::Resolving { .. })) {
            self.refuse(now, wall, flow, Refusal::NameNotResolved);
        }
    }

    /// A look-up has ended: the next one of its device begins.
    pub(super) fn look_up_next(&mut self, ended: FlowKey) {
        self.outputs.extend(self.lookups.ended(ended).map(|(next, host)| match next {
            FlowKey::Stream(flow) => Output::Resolve { flow, host },
            FlowKey::Datagrams(flow) => Output::Datagrams(DatagramRequest::Resolve { flow, host }),
            FlowKey::Passage(passage) => Output::ResolvePassage { passage, host },
        }));
    }

    /// The target accepted, or did not. On success the client's SYN is answered; false when the flow has
    /// ended meanwhile, or the address may not be connected to any more, and the connection is to be dropped.
    pub fn dialled<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        flow: FlowId,
        result: Result<SocketAddr, DialFault>,
    ) -> bool {
        let wall = knowledge.wall;
        let Some(active) = self.active.get(&flow) else {
            return false;
        };
        let Stage::Dialling { addresses } = &active.stage else {
            return false;
        };
        match result {
            Ok(target) if addresses.contains(&target) => {
                // Connecting took a while: what the address was allowed by may be gone.
                let fault = self.address_fault(knowledge.rules, &active.target, Protocol::Tcp, target);
                if let Some(refusal) = fault {
                    self.refuse(now, wall, flow, refusal);
                    return false;
                }
                if let Some(active) = self.active.get_mut(&flow) {
                    active.stage = Stage::Open { target };
                }
                if self.flows.accept(now, flow).is_err() {
                    self.end_flow(flow, wall, Verdict::Failed, "client_gone", "the client gave up meanwhile");
                    return false;
                }
                true
            }
            Ok(_) => {
                self.refuse(now, wall, flow, Refusal::TargetUnreachable);
                false
            }
            Err(DialFault::Refused) => {
                self.refuse(now, wall, flow, Refusal::TargetRefused);
                false
            }
            Err(DialFault::Unreachable) => {
                self.refuse(now, wall, flow, Refusal::TargetUnreachable);
                false
            }
            Err(DialFault::Full) => {
                self.refuse(now, wall, flow, Refusal::Full);
                false
            }
        }
    }

    /// Reads what the client sent on an open flow.
    pub fn read(&mut self, now: Instant, flow: FlowId, buffer: &mut [u8]) -> Read {
        // After a sleep this may be the first that is done: what came before it came too late.
        let ended =
            |active: &Active| self.sessions.get(&active.peer).is_none_or(|session| session.deadline <= now);
        if self.active.get(&flow).is_some_and(ended) {
            return Read::Empty;
        }
        let read = self.flows.read(now, flow, buffer).unwrap_or(Read::Empty);
        if let (Read::Bytes(bytes), Some(active)) = (read, self.active.get_mut(&flow)) {
            active.bytes_up += u64::try_from(bytes).unwrap_or(0);
        }
        read
    }

    /// Writes what the target sent; how much was taken. [`Output::Writable`] follows when not all was.
    pub fn write(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> usize {
        let written = self.flows.write(now, flow, data).unwrap_or(0);
        if let Some(active) = self.active.get_mut(&flow) {
            active.bytes_down += u64::try_from(written).unwrap_or(0);
        }
        written
    }

    /// The target has no more to send.
    pub fn target_finished(&mut self, now: Instant, flow: FlowId) {
        let _ = self.flows.shutdown_write(now, flow);
    }

    /// The connection to the target broke.
    pub fn target_lost(&mut self, now: Instant, wall: UnixMs, flow: FlowId) {
        if self.active.contains_key(&flow) {
            let _ = self.flows.abort(now, flow);
            self.end_flow(flow, wall, Verdict::Allowed, "target_reset", "the target reset the connection");
        }
    }

    pub(super) fn flow_event<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        link: LinkId,
        flow: FlowId,
        event: flow::Event,
    ) {
        match event {
            flow::Event::Incoming { dst, .. } => self.incoming(now, knowledge, link, flow, dst),
            flow::Event::Established => {}
            flow::Event::Readable => self.outputs.push_back(Output::Readable(flow)),
            flow::Event::Writable => self.outputs.push_back(Output::Writable(flow)),
            flow::Event::Closed(reason) => {
                let ending = if reason == CloseReason::Finished { Ending::Finished } else { Ending::Cut };
                let explanation = match reason {
                    CloseReason::Finished => "both sides finished",
                    CloseReason::Reset | CloseReason::Refused => "the client reset the connection",
                    CloseReason::Unreachable(_) | CloseReason::TimedOut => "the client stopped answering",
                };
                self.end_flow(flow, knowledge.wall, Verdict::Allowed, reason.label(), explanation);
                self.outputs.push_back(Output::Ended { flow, ending });
            }
        }
    }

    /// A client wants a connection. The SYN waits until the target has accepted.
    pub(super) fn incoming<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        link: LinkId,
        flow: FlowId,
        destination: SocketAddr,
    ) {
        let Some(session) = self.by_link.get(&link).and_then(|peer| self.sessions.get_mut(peer)) else {
            let _ = self.flows.reject_reset(now, flow);
            return;
        };
        let peer = session.peer;
        let wanted = session.wanted(Protocol::Tcp, destination);
        let ruling = session.ask(knowledge, &wanted, FlowAge::New);
        let target = match ruling.verdict {
            Ok(target) => target,
            Err(refusal) => {
                self.log_denied(now, knowledge.wall, peer, &wanted, refusal, ruling);
                let _ = self.flows.reject_unreachable(now, flow, Unreachable::Prohibited);
                return;
            }
        };
        session.begin(FlowKey::Stream(flow), destination.ip());
        let device = session.grant.device;
        if wanted.meaning.is_some() {
            session.bindings.hold(now, destination.ip());
        }
        let has_its_share = self.takes_more_than_its_share(device);
        let (stage, next) = match &target {
            Target::Literal(address) | Target::InRange(address) => {
                let addresses = vec![SocketAddr::new(*address, destination.port())];
                (Stage::Dialling { addresses: addresses.clone() }, Output::Dial { flow, addresses })
            }
            Target::Name(host) => {
                (Stage::Resolving { port: destination.port() }, Output::Resolve { flow, host: host.clone() })
            }
        };
        let (refused, next) = match next {
            _ if has_its_share => (Some(Refusal::Full), None),
            Output::Dial { ref addresses, .. } => {
                let fault = |address| self.address_fault(knowledge.rules, &target, Protocol::Tcp, address);
                (addresses.first().copied().and_then(fault), Some(next))
            }
            Output::Resolve { ref host, .. } => match self.lookups.ask(device, FlowKey::Stream(flow), host) {
                Turn::Now => (None, Some(next)),
                Turn::Later => (None, None),
                Turn::Never => (Some(Refusal::Full), None),
            },
            next => (None, Some(next)),
        };
        self.active.insert(
            flow,
            Active {
                peer,
                device,
                wanted,
                resource: ruling.resource,
                target,
                stage,
                started: knowledge.wall,
                bytes_up: 0,
                bytes_down: 0,
            },
        );
        match refused {
            Some(refusal) => self.refuse(now, knowledge.wall, flow, refusal),
            None => self.outputs.extend(next),
        }
    }

    /// One more flow of a device; whether it has too many now.
    pub(super) fn takes_more_than_its_share(&mut self, device: DeviceId) -> bool {
        let own = self.flows_of.entry(device).or_default();
        *own += 1;
        *own > self.flows_per_device && !planted::is("a-device-takes-every-flow")
    }

    /// Whether a device has as many flows as it may have.
    pub(super) fn has_its_share(&self, device: DeviceId) -> bool {
        self.flows_of.get(&device).is_some_and(|own| *own >= self.flows_per_device)
    }

    /// One flow of a device less.
    pub(super) fn gives_back(&mut self, device: DeviceId) {
        if let Some(own) = self.flows_of.get_mut(&device) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.flows_of.remove(&device);
            }
        }
    }

    /// A line for a flow that policy does not allow, unless there were too many; whether there is one.
    pub(super) fn log_denied(
        &mut self,
        now: Instant,
        wall: UnixMs,
        peer: PeerId,
        wanted: &Wanted,
        refusal: Refusal,
        ruling: Ruling,
    ) -> bool {
        if !self.sessions.get_mut(&peer).is_some_and(|session| session.may_log(now)) {
            self.status.refusals_not_logged += 1;
            return false;
        }
        let verdict = if refusal == Refusal::Full { Verdict::Failed } else { Verdict::Denied };
        let mut record = self.record(peer, wanted, wall, verdict, refusal.label(), &ruling.explanation);
        if let (Some(record), Some(resource)) = (&mut record, ruling.resource) {
            record.resource = Some(resource.id);
            record.resource_name = Some(resource.name);
        }
        self.log(record);
        true
    }

    /// Rejects a flow whose SYN is held, in the way that tells the client most.
    pub(super) fn refuse(&mut self, now: Instant, wall: UnixMs, flow: FlowId, refusal: Refusal) {
        let (verdict, rejected) = match refusal {
            Refusal::TargetRefused => (Verdict::Failed, self.flows.reject_reset(now, flow)),
            Refusal::TargetUnreachable | Refusal::NameNotResolved | Refusal::Full => {
                (Verdict::Failed, self.flows.reject_unreachable(now, flow, Unreachable::Host))
            }
            _ => (Verdict::Denied, self.flows.reject_unreachable(now, flow, Unreachable::Prohibited)),
        };
        // An error means that the client has given up meanwhile; the record is the same.
        let _ = rejected;
        self.end_flow(flow, wall, verdict, refusal.label(), &refusal.to_string());
    }

    /// Logs a flow that is over and forgets it.
    pub(super) fn end_flow(
        &mut self,
        flow: FlowId,
        wall: UnixMs,
        verdict: Verdict,
        reason: &str,
        explanation: &str,
    ) {
        let Some(active) = self.active.remove(&flow) else {
            return;
        };
        self.gives_back(active.device);
        if matches!(active.stage, Stage::Resolving { .. }) {
            self.lookups.give_up(active.device, FlowKey::Stream(flow));
        }
        let record = self.record(active.peer, &active.wanted, wall, verdict, reason, explanation);
        if let Some(mut record) = record {
            if let Some(resource) = active.resource {
                record.resource = Some(resource.id);
                record.resource_name = Some(resource.name);
            }
            if let Stage::Open { target } = active.stage {
                record.target = Some(target);
            }
            record.started = active.started;
            record.bytes_up = active.bytes_up;
            record.bytes_down = active.bytes_down;
            self.log(Some(record));
        }
        if let Some(session) = self.sessions.get_mut(&active.peer) {
            session.end(FlowKey::Stream(flow), active.wanted.address.ip());
            if active.wanted.meaning.is_some() {
                session.bindings.release(active.wanted.address.ip());
            }
        }
    }
}
