//! UDP and ICMP echo: from a conversation's first packet to the record that it leaves.
//!
//! Neither says when it begins or ends. A conversation is all packets of a session between two addresses and ports (an
//! echo's identifier stands for the port of who asks). It is judged when its first packet comes and whenever something
//! in the knowledge changes, as a TCP flow is, and has one connected socket to one target. It ends when nothing came
//! either way for a while. All there is to wait for is a name's address and a socket; as much as fits a few bursts
//! waits with it, the rest is lost, as in any network.

mod table;
mod words;

pub use words::{DatagramFault, DatagramId, DatagramKind, DatagramNews, DatagramRequest, OpenFault};

pub(super) use table::{Datagrams, Ends};

use super::flows::Rulings;
use super::{ConnectorCore, MAX_ADDRESSES, Output};
use crate::core::lookups::Turn;
use crate::core::rules::{FlowAge, Knowledge, Rules, Ruling, Target};
use crate::core::session::{FlowKey, Wanted};
use crate::record::Verdict;
use flow::ip::IpPacket;
use flow::{Echo, EchoKind, Unreachable, too_big, udp, unreachable};
use policy::Protocol;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use table::{Conversation, Item, Stage};
use trust::UnixMs;
use wire::Refusal;

/// The shortest MTU that IPv6 allows (RFC 8200 section 5): what is said to who sent more than a target's network takes.
const SMALLEST_MTU: u16 = 1_280;

impl ConnectorCore {
    /// A datagram or an echo from a client.
    pub(super) fn datagram<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        ends: Ends,
        packet: &IpPacket<'_>,
        (sequence, data): (u16, &[u8]),
    ) {
        let id = match self.datagrams.by_ends.get(&ends).copied() {
            Some(id) => id,
            None => match self.begin_conversation(now, knowledge, ends, packet) {
                Some(id) => id,
                None => return,
            },
        };
        let Datagrams { conversations, waiting_bytes, .. } = &mut self.datagrams;
        let Some(conversation) = conversations.get_mut(&id) else { return };
        conversation.used = now;
        let item = Item { sequence, data: data.to_vec() };
        let taken = match &mut conversation.stage {
            Stage::Resolving(waiting) | Stage::Opening { waiting, .. } => {
                Datagrams::wait(waiting, waiting_bytes, item)
            }
            Stage::Open(target) => {
                let target = *target;
                let bytes = outward(conversation, target, item);
                self.outputs.push_back(Output::Datagrams(DatagramRequest::Send { flow: id, bytes }));
                true
            }
        };
        if !taken {
            self.datagrams.no_room += 1;
        }
    }

    fn begin_conversation<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        ends: Ends,
        packet: &IpPacket<'_>,
    ) -> Option<DatagramId> {
        let session = self.sessions.get(&ends.peer)?;
        let device = session.grant.device;
        let wanted = session.wanted(ends.protocol, ends.resource);
        let ruling = session.ask(knowledge, &wanted, FlowAge::New);
        let refused = |error: Refusal| (Unreachable::Prohibited, error);
        let target = match &ruling.verdict {
            Err(refusal) => Err(refused(*refusal)),
            Ok(_) if self.datagrams.len() >= self.datagrams.most => Err((Unreachable::Host, Refusal::Full)),
            Ok(Target::Name(_)) if !self.lookups.has_room(device) => Err((Unreachable::Host, Refusal::Full)),
            Ok(Target::Name(_)) => ruling.verdict.clone().map_err(refused),
            Ok(target @ (Target::Literal(address) | Target::InRange(address))) => {
                let address = SocketAddr::new(*address, ends.resource.port());
                match self.address_fault(knowledge.rules, target, ends.protocol, address) {
                    Some(refusal) => Err(refused(refusal)),
                    None => Ok(target.clone()),
                }
            }
        };
        let target = match target {
            Ok(_) if self.takes_more_than_its_share(device) => {
                self.gives_back(device);
                Err((Unreachable::Host, Refusal::Full))
            }
            target => target,
        };
        let target = match target {
            Ok(target) => target,
            Err((told, refusal)) => {
                let explanation = match &ruling.verdict {
                    Err(_) => ruling.explanation.clone(),
                    Ok(_) => refusal.to_string(),
                };
                let ruling = Ruling { explanation, ..ruling };
                if self.log_denied(now, knowledge.wall, ends.peer, &wanted, refusal, ruling)
                    && let Some(answer) = unreachable(packet, told)
                {
                    let _ = self.tunnels.seal(now, ends.peer, &answer);
                }
                return None;
            }
        };
        let (stage, request) = match &target {
            Target::Name(host) => (Stage::Resolving(VecDeque::new()), Err(host.clone())),
            Target::Literal(address) | Target::InRange(address) => {
                let targets = vec![SocketAddr::new(*address, ends.resource.port())];
                (Stage::Opening { targets: targets.clone(), waiting: VecDeque::new() }, Ok(targets))
            }
        };
        if let Some(session) = self.sessions.get_mut(&ends.peer)
            && wanted.meaning.is_some()
        {
            session.bindings.hold(now, ends.resource.ip());
        }
        let kind = self.datagrams.kind(ends.protocol);
        let id = self.datagrams.insert(
            now,
            Conversation {
                kind,
                ends,
                device,
                wanted,
                resource: ruling.resource,
                target,
                stage,
                started: knowledge.wall,
                used: now,
                due: now,
                refused: false,
                bytes_up: 0,
                bytes_down: 0,
            },
        );
        if let Some(session) = self.sessions.get_mut(&ends.peer) {
            session.begin(FlowKey::Datagrams(id), ends.resource.ip());
        }
        let request = match request {
            Ok(targets) => Some(DatagramRequest::Open { flow: id, kind, targets }),
            Err(host) => match self.lookups.ask(device, FlowKey::Datagrams(id), &host) {
                Turn::Now => Some(DatagramRequest::Resolve { flow: id, host }),
                // There was room above.
                Turn::Later | Turn::Never => None,
            },
        };
        self.outputs.extend(request.map(Output::Datagrams));
        Some(id)
    }

    /// What became of a [`DatagramRequest`].
    pub fn datagram_news<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        news: DatagramNews,
    ) {
        match news {
            DatagramNews::Resolved { flow, addresses } => {
                self.datagram_resolved(now, knowledge, flow, &addresses)
            }
            DatagramNews::Overdue { flow } => self.datagram_overdue(now, knowledge.wall, flow),
            DatagramNews::Opened { flow, result } => self.datagram_opened(now, knowledge, flow, result),
            DatagramNews::Received { flow, datagrams } => self.datagrams_received(now, flow, datagrams),
            DatagramNews::Fault { flow, fault } => self.datagram_fault(now, flow, fault),
        }
    }

    fn datagram_resolved<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        id: DatagramId,
        addresses: &[IpAddr],
    ) {
        self.look_up_next(FlowKey::Datagrams(id));
        let Some(conversation) = self.datagrams.conversations.get(&id) else { return };
        let Stage::Resolving(_) = conversation.stage else { return };
        let (port, protocol) = (conversation.ends.resource.port(), conversation.ends.protocol);
        let kind = conversation.kind;
        let targets = match self.usable(knowledge.rules, (&conversation.target, protocol), addresses, port) {
            Ok(targets) => targets,
            Err(refusal) => return self.refuse_datagrams(now, knowledge.wall, id, refusal),
        };
        debug_assert!(targets.len() <= MAX_ADDRESSES, "usable() keeps to it");
        if let Some(conversation) = self.datagrams.conversations.get_mut(&id)
            && let Stage::Resolving(waiting) = &mut conversation.stage
        {
            let waiting = std::mem::take(waiting);
            conversation.stage = Stage::Opening { targets: targets.clone(), waiting };
        }
        self.outputs.push_back(Output::Datagrams(DatagramRequest::Open { flow: id, kind, targets }));
    }

    fn datagram_overdue(&mut self, now: Instant, wall: UnixMs, id: DatagramId) {
        let conversation = self.datagrams.conversations.get(&id);
        if conversation.is_some_and(|conversation| matches!(conversation.stage, Stage::Resolving(_))) {
            self.refuse_datagrams(now, wall, id, Refusal::NameNotResolved);
        }
    }

    fn datagram_opened<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        id: DatagramId,
        result: Result<SocketAddr, OpenFault>,
    ) {
        let close = Output::Datagrams(DatagramRequest::Close(id));
        let Some(conversation) = self.datagrams.conversations.get(&id) else {
            // It ended meanwhile.
            return self.outputs.push_back(close);
        };
        let Stage::Opening { targets, .. } = &conversation.stage else { return };
        let wall = knowledge.wall;
        let target = match result {
            Ok(target) if targets.contains(&target) => target,
            Ok(_) | Err(OpenFault::Unreachable) => {
                return self.refuse_datagrams(now, wall, id, Refusal::TargetUnreachable);
            }
            Err(OpenFault::Full) => return self.refuse_datagrams(now, wall, id, Refusal::Full),
            Err(OpenFault::NotPermitted) => {
                return self.refuse_datagrams(now, wall, id, Refusal::ProtocolNotForwarded);
            }
        };
        let protocol = conversation.ends.protocol;
        let fault = self.address_fault(knowledge.rules, &conversation.target, protocol, target);
        if let Some(refusal) = fault {
            // The socket is closed with it.
            return self.refuse_datagrams(now, wall, id, refusal);
        }
        let Some(conversation) = self.datagrams.conversations.get_mut(&id) else { return };
        let Stage::Opening { waiting, .. } = &mut conversation.stage else { return };
        let waiting = std::mem::take(waiting);
        conversation.stage = Stage::Open(target);
        for item in waiting {
            self.datagrams.waiting_bytes -= item.data.len();
            let bytes = outward(conversation, target, item);
            self.outputs.push_back(Output::Datagrams(DatagramRequest::Send { flow: id, bytes }));
        }
    }

    fn datagrams_received(&mut self, now: Instant, id: DatagramId, datagrams: Vec<(SocketAddr, Vec<u8>)>) {
        let Some(conversation) = self.datagrams.conversations.get_mut(&id) else { return };
        let Some(target) = conversation.open() else { return };
        let ends = conversation.ends;
        // After a sleep this may be the first that is done: what came before it came too late.
        let Some(session) = self.sessions.get(&ends.peer).filter(|session| session.deadline > now) else {
            return;
        };
        let link = session.link();
        conversation.used = now;
        let mut packets = Vec::with_capacity(datagrams.len());
        for (from, bytes) in datagrams {
            // The kernel looked already where it can: others' packets are not this conversation's.
            let is_from_target = match ends.protocol {
                Protocol::Icmp => from.ip().to_canonical() == target.ip().to_canonical(),
                Protocol::Udp | Protocol::Tcp => from == target,
            };
            if !is_from_target && !planted::is("anybody-answers-a-datagram") {
                self.status.wrong_source += 1;
                continue;
            }
            let (packet, length) = match ends.protocol {
                Protocol::Icmp => match Echo::parse(&bytes, target.is_ipv4()) {
                    Some(Echo { kind: EchoKind::Reply, sequence, data, .. }) => {
                        let (kind, identifier) = (EchoKind::Reply, ends.client.port());
                        let reply = Echo { kind, identifier, sequence, data };
                        (reply.packet(ends.resource.ip(), ends.client.ip()), data.len())
                    }
                    _ => continue,
                },
                Protocol::Udp | Protocol::Tcp => (udp(ends.resource, ends.client, &bytes), bytes.len()),
            };
            conversation.refused = false;
            conversation.bytes_down += u64::try_from(length).unwrap_or(0);
            packets.extend(packet);
        }
        let fitting: Vec<Vec<u8>> =
            packets.into_iter().flat_map(|packet| self.datagrams.fit(link, packet)).collect();
        let fitting: Vec<&[u8]> = fitting.iter().map(Vec::as_slice).collect();
        // A full queue is a lossy link.
        let _ = self.tunnels.seal_batch(now, ends.peer, &fitting);
    }

    fn datagram_fault(&mut self, now: Instant, id: DatagramId, fault: DatagramFault) {
        let Some(conversation) = self.datagrams.conversations.get_mut(&id) else { return };
        let peer = conversation.ends.peer;
        conversation.refused |= fault == DatagramFault::PortUnreachable;
        let Some(question) = conversation.question() else { return };
        let Ok(question) = IpPacket::parse(&question) else { return };
        let answer = match fault {
            DatagramFault::PortUnreachable => unreachable(&question, Unreachable::Port),
            DatagramFault::Unreachable => unreachable(&question, Unreachable::Host),
            DatagramFault::TooLong => too_big(&question, SMALLEST_MTU),
        };
        if let Some(answer) = answer {
            let _ = self.tunnels.seal(now, peer, &answer);
        }
    }

    /// An ICMP error of a client's own machine about what we sent it: whoever asked is gone. Whether it was about a
    /// conversation.
    pub(super) fn datagram_unwanted(&mut self, wall: UnixMs, ends: Ends) -> bool {
        let Some(id) = self.datagrams.by_ends.get(&ends).copied() else { return false };
        self.end_datagrams(
            id,
            wall,
            Verdict::Allowed,
            "client_gone",
            "nobody waits for answers at the client",
        );
        true
    }

    /// Ends a conversation that was allowed and cannot be, and says so to the client.
    fn refuse_datagrams(&mut self, now: Instant, wall: UnixMs, id: DatagramId, refusal: Refusal) {
        let (verdict, told) = match refusal {
            Refusal::TargetUnreachable | Refusal::NameNotResolved | Refusal::Full => {
                (Verdict::Failed, Unreachable::Host)
            }
            Refusal::ProtocolNotForwarded => (Verdict::Failed, Unreachable::Prohibited),
            _ => (Verdict::Denied, Unreachable::Prohibited),
        };
        self.tell_unreachable(now, id, told);
        let explanation = match refusal {
            Refusal::ProtocolNotForwarded => {
                "this connector may not send ICMP echo: net.ipv4.ping_group_range does not include its group, and it \
                 has no CAP_NET_RAW"
                    .to_owned()
            }
            other => other.to_string(),
        };
        self.end_datagrams(id, wall, verdict, refusal.label(), &explanation);
    }

    fn tell_unreachable(&mut self, now: Instant, id: DatagramId, why: Unreachable) {
        let Some(conversation) = self.datagrams.conversations.get(&id) else { return };
        let question = conversation.question();
        let answer = question.as_deref().and_then(|bytes| unreachable(&IpPacket::parse(bytes).ok()?, why));
        if let Some(answer) = answer {
            let _ = self.tunnels.seal(now, conversation.ends.peer, &answer);
        }
    }

    /// Logs a conversation that is over and forgets it.
    pub(super) fn end_datagrams(
        &mut self,
        id: DatagramId,
        wall: UnixMs,
        verdict: Verdict,
        reason: &str,
        explanation: &str,
    ) {
        let Some(conversation) = self.datagrams.remove(id) else { return };
        self.gives_back(conversation.device);
        if matches!(conversation.stage, Stage::Resolving(_)) {
            self.lookups.give_up(conversation.device, FlowKey::Datagrams(id));
        }
        let peer = conversation.ends.peer;
        if let Some(mut record) = self.record(peer, &conversation.wanted, wall, verdict, reason, explanation)
        {
            record.target = conversation.open();
            if let Some(resource) = conversation.resource {
                record.resource = Some(resource.id);
                record.resource_name = Some(resource.name);
            }
            record.started = conversation.started;
            record.bytes_up = conversation.bytes_up;
            record.bytes_down = conversation.bytes_down;
            self.log(Some(record));
        }
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.end(FlowKey::Datagrams(id), conversation.ends.resource.ip());
            if conversation.wanted.meaning.is_some() {
                session.bindings.release(conversation.ends.resource.ip());
            }
        }
        self.outputs.push_back(Output::Datagrams(DatagramRequest::Close(id)));
    }

    /// Judges every conversation again.
    pub(super) fn recheck_datagrams<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        rulings: &mut Rulings,
    ) {
        if planted::is("datagrams-outlive-their-policy") {
            return;
        }
        let faults: Vec<(DatagramId, Refusal, String)> = self
            .datagrams
            .conversations
            .iter()
            .filter_map(|(id, conversation)| {
                let Conversation { wanted, target, ends, .. } = conversation;
                let (refusal, explanation) =
                    self.flow_fault(knowledge, rulings, (ends.peer, wanted), target, conversation.open())?;
                Some((*id, refusal, explanation))
            })
            .collect();
        for (id, refusal, explanation) in faults {
            self.tell_unreachable(now, id, Unreachable::Prohibited);
            self.end_datagrams(id, knowledge.wall, Verdict::Withdrawn, refusal.label(), &explanation);
        }
    }

    /// Ends what nobody has used for long, and gives up pieces that wait for others.
    pub(super) fn datagrams_due(&mut self, now: Instant, wall: UnixMs) {
        self.datagrams.fragments.expire(now);
        for id in self.datagrams.idle(now) {
            let Some(conversation) = self.datagrams.conversations.get(&id) else { continue };
            if conversation.refused {
                let refusal = Refusal::TargetRefused;
                self.end_datagrams(id, wall, Verdict::Failed, refusal.label(), &refusal.to_string());
            } else {
                let explanation = format!("nothing was sent for {} s", conversation.idle().as_secs());
                self.end_datagrams(id, wall, Verdict::Allowed, "idle", &explanation);
            }
        }
    }

    /// What a conversation was begun for.
    pub(super) fn conversation_wants(&self, id: DatagramId) -> Option<&Wanted> {
        self.datagrams.conversations.get(&id).map(|conversation| &conversation.wanted)
    }
}

/// What is sent to the target, and counted.
fn outward(conversation: &mut Conversation, target: SocketAddr, item: Item) -> Vec<u8> {
    conversation.bytes_up += u64::try_from(item.data.len()).unwrap_or(0);
    match conversation.kind {
        DatagramKind::Echo { identifier } => {
            let echo =
                Echo { kind: EchoKind::Request, identifier, sequence: item.sequence, data: &item.data };
            echo.message(target.is_ipv4())
        }
        DatagramKind::Udp => item.data,
    }
}
