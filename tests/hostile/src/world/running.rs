//! How time goes: packets arrive, timers fire, and everybody says what there is to say.

use super::{CONTROLLER_AT, LATENCY, Node, Packet, Reads, World, pop_address};
use crate::installation::{HANGING, HOUR, SECOND, address, pop_id};
use client::core::{NodeEvent, NodeOutput};
use connector::ConnectorOutput;
use flow::{FlowId, Read};
use hostile_pop::core::relay::{Handled, RelayOutput};
use hostile_pop::core::sessions::{SessionsOutput, Written};
use session::Event;
use std::time::{Duration, Instant};
use trust::{RevokedSubject, Subject, control};
use wire::{
    Bounded, ControlReply, ControlRequest, DatagramKind, FromSigner, SignerHello, ToSigner, classify,
};

impl World {
    /// Runs until `is_so`, or for so long; whether it became so.
    pub fn wait(&mut self, most: Duration, is_so: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        while !is_so(self) {
            let due = self.due.values().copied();
            let next = due.chain(self.wire.keys().next().map(|(at, _)| *at)).min().unwrap_or(end);
            if next > end {
                self.now = end;
                return is_so(self);
            }
            self.now = self.now.max(next);
            self.step();
        }
        true
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
        (0..self.pops.len())
            .map(Node::Pop)
            .chain([Node::Controller])
            .chain((0..self.connectors.len()).map(Node::Connector))
            .chain((0..self.clients.len()).map(Node::Client))
            .chain((0..self.raws.len()).map(Node::Raw))
            .collect()
    }

    fn step(&mut self) {
        let (now, wall) = (self.now, self.wall());
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= now
        {
            let packet = entry.remove();
            self.deliver(packet);
        }
        for node in self.nodes() {
            if self.due.get(&node).is_some_and(|at| *at > now) {
                continue;
            }
            match node {
                Node::Pop(number) => {
                    let pop = &mut self.pops[number];
                    pop.sessions.set_wall(now, wall);
                    pop.sessions.handle_timeout(now);
                    pop.relay.handle_timeout(now);
                }
                Node::Controller => {
                    self.controller.dialler.set_wall(wall);
                    self.controller.dialler.handle_timeout(now);
                    self.beacon();
                }
                Node::Connector(number) => {
                    let node = &mut self.connectors[number].node;
                    node.set_wall(now, wall);
                    node.handle_timeout(now);
                }
                Node::Client(number) => {
                    let node = &mut self.clients[number].node;
                    node.set_wall(now, wall);
                    node.handle_timeout(now);
                }
                Node::Raw(number) => {
                    let raw = &mut self.raws[number];
                    raw.dialler.set_wall(wall);
                    raw.dialler.handle_timeout(now);
                }
            }
            self.drain(node);
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let now = self.now;
        let Packet { from, to, mut payload } = packet;
        if let Some(number) = (0..self.pops.len()).find(|number| pop_address(*number) == to) {
            let pop = &mut self.pops[number];
            if pop.is_dark {
                return;
            }
            match classify(&payload) {
                DatagramKind::Quic => {
                    let _ = pop.sessions.handle_input(now, from, &payload);
                }
                DatagramKind::Relay => {
                    if let Handled::Forward(to) = pop.relay.handle_input(now, from, &mut payload) {
                        self.post(Node::Pop(number), to, payload);
                    }
                }
                _ => {}
            }
            self.drain(Node::Pop(number));
        } else if let Some(number) = self.connectors.iter().position(|part| part.address == to) {
            let mut answers = Vec::new();
            let node = &mut self.connectors[number].node;
            node.handle_datagrams(now, [(from, payload.as_slice())].into_iter(), &mut answers);
            for (to, payload) in answers {
                self.post(Node::Connector(number), to, payload);
            }
            self.drain(Node::Connector(number));
        } else if let Some(number) = self.clients.iter().position(|part| part.address == to) {
            self.clients[number].node.handle_input(now, [(from, payload.as_slice())].into_iter());
            self.drain(Node::Client(number));
        } else if let Some(number) = self.raws.iter().position(|raw| raw.address == to) {
            let raw = &mut self.raws[number];
            if classify(&payload) == DatagramKind::Quic {
                raw.dialler.handle_input(now, from, &payload);
            } else {
                raw.heard.push((from, payload));
            }
            self.drain(Node::Raw(number));
        } else if to == CONTROLLER_AT && !self.controller.is_dead {
            self.controller.dialler.handle_input(now, from, &payload);
            self.drain(Node::Controller);
        }
    }

    fn post(&mut self, node: Node, to: std::net::SocketAddr, payload: Vec<u8>) {
        let from = match node {
            Node::Pop(number) if self.pops[number].is_dark => return,
            Node::Pop(number) => pop_address(number),
            Node::Controller => CONTROLLER_AT,
            Node::Connector(number) => self.connectors[number].address,
            Node::Client(number) => self.clients[number].address,
            Node::Raw(number) => self.raws[number].address,
        };
        *self.went_to.entry((node, to)).or_default() += payload.len();
        let packet = Packet { from, to, payload };
        let packets = match &mut self.tamper {
            Some(tamper) => tamper(packet, self.now),
            None => vec![(Duration::ZERO, packet)],
        };
        for (after, packet) in packets {
            self.sent += 1;
            self.wire.insert((self.now + LATENCY + after, self.sent), packet);
        }
    }

    pub(super) fn drain(&mut self, node: Node) {
        let due = match node {
            Node::Pop(number) => self.drain_pop(number),
            Node::Controller => self.drain_controller(),
            Node::Connector(number) => self.drain_connector(number),
            Node::Client(number) => self.drain_client(number),
            Node::Raw(number) => {
                let (packets, due) = self.raws[number].drain(self.now);
                for (to, payload) in packets {
                    self.post(node, to, payload);
                }
                due
            }
        };
        // The wall clock is looked at now and then, and no node is asked twice in one instant for nothing.
        let due = due.min(self.now + SECOND * 10).max(self.now + Duration::from_micros(10));
        self.due.insert(node, due);
    }

    fn drain_pop(&mut self, number: usize) -> Instant {
        let now = self.now;
        loop {
            let sessions = loop {
                match self.pops[number].sessions.poll_output(now) {
                    SessionsOutput::Transmit { to, payload } => self.post(Node::Pop(number), to, payload),
                    SessionsOutput::Relay(command) => {
                        let pop = &mut self.pops[number];
                        let commands = match &mut pop.relay_cheat {
                            Some(cheat) => cheat(command),
                            None => vec![command],
                        };
                        for command in commands {
                            pop.relay.handle_command(now, command);
                        }
                    }
                    SessionsOutput::Persist { id, .. } => {
                        self.pops[number].sessions.handle_written(now, id, Written::Durable);
                    }
                    SessionsOutput::RegisteredBy { .. } => {}
                    SessionsOutput::Timeout { at, .. } => break at,
                }
            };
            let mut has_ended = false;
            let relay = loop {
                match self.pops[number].relay.poll_output() {
                    RelayOutput::Transmit { to, frame } => {
                        self.post(Node::Pop(number), to, frame.to_vec());
                    }
                    RelayOutput::Proven { owner, address } => {
                        self.pops[number].sessions.handle_side_proven(owner, address);
                    }
                    RelayOutput::Ended(ended) => {
                        has_ended = true;
                        self.pops[number].sessions.handle_channel_ended(now, ended);
                    }
                    RelayOutput::Timeout { at, .. } => break at,
                }
            };
            if !has_ended {
                return relay.map_or(sessions, |at| at.min(sessions));
            }
        }
    }

    pub(super) fn controller_dials(&mut self, number: usize) {
        let dialled = self.controller.dialler.dial(self.now, pop_id(number), pop_address(number));
        self.controller.sessions.insert(number, dialled.expect("room"));
        self.drain(Node::Controller);
    }

    fn drain_controller(&mut self) -> Instant {
        if self.controller.is_dead {
            return self.now + HOUR;
        }
        loop {
            match self.controller.dialler.poll_output(self.now) {
                session::Output::Transmit { to, payload } => self.post(Node::Controller, to, payload),
                session::Output::Event(Event::Connected { id, .. }) => {
                    let hello = FromSigner::from(SignerHello { oldest: 1, newest: 1 });
                    let _ = self.controller.dialler.send(id, hello.frame_type(), &hello.encode_body());
                }
                session::Output::Event(Event::Frame { id, frame_type, body }) => {
                    if let Ok(Some(ToSigner::Forward(forward))) = ToSigner::decode_body(frame_type, &body)
                        && let Some(sealed) = self.answer(forward.sealed.as_slice())
                    {
                        let sealed = Bounded::new(sealed).expect("fits");
                        let reply: FromSigner =
                            wire::Reply { route: forward.route, seq: forward.seq, sealed }.into();
                        let _ = self.controller.dialler.send(id, reply.frame_type(), &reply.encode_body());
                    }
                }
                session::Output::Event(_) => {}
                session::Output::Timeout { at, .. } => return at.min(self.controller.next_beacon),
            }
        }
    }

    /// What a controller says to a sealed frame; nothing when it does not open.
    fn answer(&mut self, sealed: &[u8]) -> Option<Vec<u8>> {
        let wall = self.wall();
        let installation = &self.installation;
        let Ok(opened) = control::open_request(&installation.control, &installation.bundle, wall, sealed)
        else {
            self.controller.refused += 1;
            return None;
        };
        let subject = opened.agent.identity().subject();
        let refused = wire::ControlRefused { reason: wire::Refusal::Struck, retry_after_ms: 0 };
        let reply: ControlReply = match &opened.request {
            _ if self.is_struck(RevokedSubject::of(subject)) => refused.into(),
            ControlRequest::Anchor(anchor) => {
                let versions = self.versions();
                let beacon = self.controller.journal.beacon(installation, versions, wall, Some(anchor.nonce));
                wire::Anchored { beacon }.into()
            }
            ControlRequest::Renew(_) => {
                let grant = match subject {
                    Subject::Device(id) => {
                        let number = self.number_of_device(id)?;
                        let grant = installation.grant(self.clients[number].organization, number, wall);
                        Some(Bounded::new(grant.into_bytes()).expect("short"))
                    }
                    _ => None,
                };
                self.controller.renewals += u64::from(grant.is_some());
                wire::Renewed { grant, certificate: None }.into()
            }
            ControlRequest::GetSlice(_) => {
                let slice = match subject {
                    Subject::Connector(id) if self.controller.version > 1 => {
                        let number = self.number_of_connector(id)?;
                        let of = self.connectors[number].organization;
                        let text = installation.connector_slice(of, number, self.controller.version);
                        Some(Bounded::new(text.into_bytes()).expect("short"))
                    }
                    _ => None,
                };
                wire::SliceReply { slice }.into()
            }
            _ => wire::ControlRefused { reason: wire::Refusal::NoController, retry_after_ms: 0 }.into(),
        };
        Some(opened.seal_reply(&reply).expect("seals"))
    }

    fn drain_client(&mut self, number: usize) -> Instant {
        let now = self.now;
        loop {
            let part = &mut self.clients[number];
            match part.node.poll_output(now) {
                NodeOutput::Transmit { to, payload } => self.post(Node::Client(number), to, payload),
                NodeOutput::Resolve { pop, name } => {
                    part.node.handle_resolved(now, pop, name.parse().into_iter().collect());
                }
                NodeOutput::Event(NodeEvent::Dialled { dial, result }) => {
                    part.dialled.insert(dial, result.map_err(|fault| format!("{:?}", fault.reason)));
                }
                NodeOutput::Event(NodeEvent::Readable(_)) if part.reads == Reads::Nothing => {}
                NodeOutput::Event(NodeEvent::Readable(flow)) => {
                    let mut buffer = [0; 4096];
                    while let Ok(Read::Bytes(count)) = part.node.read(now, flow, &mut buffer) {
                        part.echoed.entry(flow).or_default().extend_from_slice(&buffer[..count]);
                    }
                    part.node.flush(now);
                }
                NodeOutput::Event(NodeEvent::Ended { flow, .. }) => part.ended.push(flow),
                NodeOutput::Event(_) | NodeOutput::Persist { .. } => {}
                // Nobody here is a machine with a network stack of its own.
                NodeOutput::Packet(_) => {}
                NodeOutput::Timeout(timeout) => return timeout.at,
            }
        }
    }

    /// The site: every dial succeeds but one that hangs, and services say again what they are told.
    fn drain_connector(&mut self, number: usize) -> Instant {
        let now = self.now;
        loop {
            let part = &mut self.connectors[number];
            match part.node.poll_output(now) {
                ConnectorOutput::Transmit { to, payload } => self.post(Node::Connector(number), to, payload),
                ConnectorOutput::ResolvePop { pop, name } => {
                    part.node.pop_resolved(now, pop, name.parse().into_iter().collect());
                }
                ConnectorOutput::Dial { flow, addresses } => {
                    part.dials.extend(addresses.first());
                    if addresses.first() != Some(&address(HANGING)) {
                        let first = addresses.first().copied();
                        part.node.dialled(now, flow, first.ok_or(connector::DialFault::Unreachable));
                    }
                }
                ConnectorOutput::Readable(flow) | ConnectorOutput::Writable(flow) => {
                    self.serve(now, number, flow);
                }
                ConnectorOutput::Ended { flow, .. } => {
                    part.unsent.remove(&flow);
                }
                ConnectorOutput::ReadBatch => part.node.batch_read(now, None),
                ConnectorOutput::Record { record, .. } => part.records.push(*record),
                ConnectorOutput::Resolve { .. }
                | ConnectorOutput::Datagrams(_)
                | ConnectorOutput::Persist { .. }
                | ConnectorOutput::ResolvePassage { .. }
                | ConnectorOutput::ToSite(_)
                | ConnectorOutput::ForgetBatch(_) => {}
                ConnectorOutput::Timeout { at, .. } => return at,
            }
        }
    }

    fn serve(&mut self, now: Instant, number: usize, flow: FlowId) {
        let part = &mut self.connectors[number];
        let waiting = part.unsent.entry(flow).or_default();
        let heard = part.heard.entry(flow).or_default();
        let mut buffer = [0; 4096];
        let core = part.node.core();
        while let Read::Bytes(count) = core.read(now, flow, &mut buffer) {
            heard.extend_from_slice(&buffer[..count]);
            waiting.extend_from_slice(&buffer[..count]);
        }
        let written = core.write(now, flow, waiting);
        waiting.drain(..written);
    }
}
