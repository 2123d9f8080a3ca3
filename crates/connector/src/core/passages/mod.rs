//! Kernel mode: flows whose packets pass through this machine's kernel into the site.
//!
//! The core stays the one who decides. A flow's first packet is judged as in userspace, its name resolved in the site, its
//! addresses held against the site's prefixes; only then does it get a *passage*: an entry that says which ends inside the
//! tunnel are which ends outside. A packet that has no passage reaches nothing, in either direction. What ends a flow
//! takes its passage away and says so to both sides.
//!
//! Clients all have the same IPv4 address inside their tunnels, and names have synthetic ones: so packets get other ends,
//! of another family where the target has one ([`flow::translate`]). From there on the kernel carries them, masquerades
//! them, and keeps nobody's addresses apart but ours.
//!
//! Some targets are not the kernel's to forward to: this machine's own addresses, those that only a literal resource may
//! name (loopback, link-local), and IPv6 where the kernel does not forward it. Flows to them are carried in userspace,
//! packet for packet as if this file were not there.

mod table;

pub use table::{PassageId, SiteSide};

pub(super) use table::Passages;

use super::datagrams::Ends;
use super::flows::Rulings;
use super::{ConnectorCore, Output, ranges};
use crate::core::lookups::Turn;
use crate::core::rules::{FlowAge, Knowledge, Rules, Target};
use crate::core::session::{FlowKey, Wanted};
use crate::record::Verdict;
use flow::ip::{IpPacket, Protocol as Inside};
use flow::{EchoKind, Fragment, INNER_MTU, LinkId, Unreachable, clamp_mss, translate, unreachable};
use policy::Protocol;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use table::{From, Notice, Outside, Passage, Stage};
use trust::UnixMs;
use tunnel::PeerId;
use wire::Refusal;

/// Packets of a site's hosts are no longer than this on the interface (machine's own constant; a longer one does not come).
const SITE_MTU: usize = 1_500;

/// The ends of a packet from a client, if it is of a kind that passes.
fn ends_of(peer: PeerId, packet: &IpPacket<'_>) -> Option<Ends> {
    let (protocol, client, resource) = match packet.protocol {
        Inside::Tcp => {
            let tuple = packet.tcp().ok()?.tuple;
            (Protocol::Tcp, tuple.src, tuple.dst)
        }
        Inside::Udp => {
            let tuple = packet.udp().ok()?.tuple;
            (Protocol::Udp, tuple.src, tuple.dst)
        }
        Inside::Icmp => {
            let echo = packet.echo().filter(|echo| echo.kind == EchoKind::Request)?;
            (Protocol::Icmp, SocketAddr::new(packet.src, echo.identifier), SocketAddr::new(packet.dst, 0))
        }
        Inside::Other(_) => return None,
    };
    Some(Ends { peer, protocol, client, resource })
}

impl ConnectorCore {
    /// Takes a packet of a client into its passage, or makes one. False where it belongs to userspace.
    pub(super) fn passes<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        peer: PeerId,
        packet: &IpPacket<'_>,
    ) -> bool {
        if self.passages.side.is_none() {
            return false;
        }
        let Some(ends) = ends_of(peer, packet) else { return false };
        let opens = packet.tcp().is_ok_and(|segment| segment.flags.opens());
        let known = match self.passages.at(&ends) {
            // The same ends again are another connection.
            Some(id) if opens && self.passages.passages.get(&id).is_some_and(|known| known.is_over) => {
                self.forget_passage(id);
                None
            }
            known => known,
        };
        let id = match known {
            Some(id) => id,
            None if ends.protocol == Protocol::Tcp && !opens => return false,
            None if self.is_in_userspace(&ends) => return false,
            None => match self.begin_passage(now, knowledge, ends) {
                Some(id) => id,
                None => return false,
            },
        };
        self.carry_in(now, knowledge.wall, id, packet);
        true
    }

    fn is_in_userspace(&self, ends: &Ends) -> bool {
        match ends.protocol {
            Protocol::Tcp => self.flows.knows(LinkId(ends.peer.number()), ends.resource, ends.client),
            Protocol::Udp | Protocol::Icmp => self.datagrams.at(ends).is_some(),
        }
    }

    /// Whether the kernel is the way to an address.
    fn is_forwarded(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.passages.side.is_some_and(|side| side.towards(ip).is_some() && !side.is_own(ip))
            && !ranges::is_refused(ip)
            && !self.own_addresses.contains(&ip)
    }

    /// A passage for a flow that policy allows and the kernel may carry. Everything else is userspace's to refuse, to
    /// log, or to carry.
    fn begin_passage<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        ends: Ends,
    ) -> Option<PassageId> {
        let session = self.sessions.get(&ends.peer)?;
        let device = session.grant.device;
        let wanted = session.wanted(ends.protocol, ends.resource);
        let ruling = session.ask(knowledge, &wanted, FlowAge::New);
        let target = ruling.verdict.ok()?;
        let all = self.active.len() + self.datagrams.len() + self.passages.len();
        let has_room = all < 2 * self.flows_most && !self.has_its_share(device);
        let (stage, host) = match &target {
            _ if !has_room => return None,
            Target::Literal(address) | Target::InRange(address) => {
                let address = SocketAddr::new(address.to_canonical(), ends.resource.port());
                let fault = self.address_fault(knowledge.rules, &target, ends.protocol, address);
                if fault.is_some() || !self.is_forwarded(address.ip()) {
                    return None;
                }
                (Stage::Open(self.passages.outside(ends, address)?), None)
            }
            Target::Name(_) if !self.lookups.has_room(device) => return None,
            Target::Name(host) => (Stage::Resolving(VecDeque::new()), Some(host.clone())),
        };
        self.takes_more_than_its_share(device);
        let is_bound = wanted.meaning.is_some();
        let passage = Passage::new(now, knowledge.wall, ends, device, wanted, ruling.resource, target, stage);
        let id = self.passages.insert(passage);
        if let Some(session) = self.sessions.get_mut(&ends.peer) {
            session.begin(FlowKey::Passage(id), ends.resource.ip());
            if is_bound {
                session.bindings.hold(now, ends.resource.ip());
            }
        }
        if let Some(host) = host
            && self.lookups.ask(device, FlowKey::Passage(id), &host) == Turn::Now
        {
            self.outputs.push_back(Output::ResolvePassage { passage: id, host });
        }
        Some(id)
    }

    /// One packet of a client, on its way.
    fn carry_in(&mut self, now: Instant, wall: UnixMs, id: PassageId, packet: &IpPacket<'_>) {
        let Some(passage) = self.passages.passages.get_mut(&id) else { return };
        let Stage::Open(_) = passage.stage else {
            if !self.passages.wait(id, packet.bytes) {
                self.datagrams.no_room += 1;
            }
            return;
        };
        let notice = passage.notice(now, packet, From::Client);
        let tries_on = passage.connection.is_ignored() && !passage.rest.is_empty();
        if tries_on {
            self.next_address(now, id);
        }
        self.send_to_site(id, packet);
        self.noticed(now, wall, id, notice, From::Client);
    }

    /// Gives a packet its outside ends and hands it to the kernel.
    fn send_to_site(&mut self, id: PassageId, packet: &IpPacket<'_>) {
        let Some(Passage { stage: Stage::Open(outside), ends, .. }) = self.passages.passages.get(&id) else {
            return;
        };
        let (outside, link) = (*outside, LinkId(ends.peer.number()));
        let source = self.passages.side.and_then(|side| side.towards(outside.target.ip()));
        let translated = source.and_then(|ip| {
            let source = SocketAddr::new(ip, outside.port);
            // What the client announces is in its own family's terms.
            if packet.tcp().is_ok_and(|segment| segment.flags.syn()) {
                let mut opening = packet.bytes.to_vec();
                clamp_mss(&mut opening, self.datagrams.link_mtu(link).max(INNER_MTU));
                translate(&IpPacket::parse(&opening).ok()?, source, outside.target)
            } else {
                translate(packet, source, outside.target)
            }
        });
        match translated {
            Some(bytes) if bytes.len() <= SITE_MTU => self.outputs.push_back(Output::ToSite(bytes)),
            Some(bytes) => {
                let pieces = self.datagrams.pieces(bytes, SITE_MTU);
                self.outputs.extend(pieces.into_iter().map(Output::ToSite));
            }
            None => self.passages.unusable += 1,
        }
    }

    /// What a segment meant for its connection.
    fn noticed(&mut self, now: Instant, wall: UnixMs, id: PassageId, notice: Notice, from: From) {
        let over = match (notice, from) {
            (Notice::Nothing, _) => return,
            (Notice::Finished, _) => (Verdict::Allowed, "finished", "both sides finished"),
            (Notice::Reset, From::Client) => (Verdict::Allowed, "reset", "the client reset the connection"),
            (Notice::Reset, From::Site) => {
                let passage = self.passages.passages.get(&id);
                if passage.is_some_and(|passage| passage.connection.is_answered) {
                    (Verdict::Allowed, "target_reset", "the target reset the connection")
                } else {
                    let refusal = Refusal::TargetRefused;
                    self.passage_over(id, wall, Verdict::Failed, refusal.label(), &refusal.to_string());
                    return self.passages.is_over_now(now, id);
                }
            }
        };
        self.passage_over(id, wall, over.0, over.1, over.2);
        self.passages.is_over_now(now, id);
    }

    /// The next address of a name is tried; false when there is none.
    fn next_address(&mut self, now: Instant, id: PassageId) -> bool {
        loop {
            let Some(passage) = self.passages.passages.get_mut(&id) else { return false };
            let Some(address) = passage.rest.pop_front() else { return false };
            passage.connection.begin_again();
            passage.used = now;
            if self.passages.lead(id, address).is_some() {
                return true;
            }
        }
    }

    /// The address does not answer: the next one gets what opened the connection, at once.
    fn tries_another(&mut self, now: Instant, id: PassageId) -> bool {
        let opening = match self.passages.passages.get(&id) {
            Some(passage) if !passage.connection.is_answered && !passage.rest.is_empty() => {
                passage.connection.opening.clone()
            }
            _ => return false,
        };
        if !self.next_address(now, id) {
            return false;
        }
        if let Some(opening) = opening
            && let Ok(packet) = IpPacket::parse(&opening)
        {
            self.send_to_site(id, &packet);
        }
        true
    }

    /// The system's resolver answered for a passage; an empty list when it did not.
    pub fn passage_resolved<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        id: PassageId,
        addresses: &[IpAddr],
    ) {
        self.look_up_next(FlowKey::Passage(id));
        let Some(passage) = self.passages.passages.get(&id) else { return };
        let Stage::Resolving(_) = passage.stage else { return };
        let (port, protocol, peer) = (passage.ends.resource.port(), passage.ends.protocol, passage.ends.peer);
        let usable = match self.usable(knowledge.rules, (&passage.target, protocol), addresses, port) {
            Ok(usable) => usable,
            Err(refusal) => return self.refuse_passage(now, knowledge.wall, id, refusal),
        };
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let mut forwarded: VecDeque<SocketAddr> =
            usable.into_iter().map(canonical).filter(|at| self.is_forwarded(at.ip())).collect();
        let waiting = forwarded.pop_front().and_then(|first| self.passages.lead(id, first));
        if let Some(waiting) = waiting {
            if let Some(passage) = self.passages.passages.get_mut(&id) {
                passage.rest = forwarded;
                if protocol == Protocol::Tcp && !passage.rest.is_empty() {
                    passage.connection.opening = waiting.front().cloned();
                }
            }
            for packet in waiting {
                if let Ok(packet) = IpPacket::parse(&packet) {
                    self.carry_in(now, knowledge.wall, id, &packet);
                }
            }
            return;
        }
        // Not the kernel's to forward to: as if it had been userspace's from the beginning.
        let Some(waiting) = self.forget_passage(id) else { return };
        for packet in waiting {
            if let Ok(packet) = IpPacket::parse(&packet) {
                self.in_userspace(now, knowledge, peer, &packet);
            }
        }
    }

    /// The system's resolver takes too long for a passage. [`Self::passage_resolved`] follows, and tells nothing any more.
    pub fn passage_overdue(&mut self, now: Instant, wall: UnixMs, id: PassageId) {
        let passage = self.passages.passages.get(&id);
        if passage.is_some_and(|passage| matches!(passage.stage, Stage::Resolving(_))) {
            self.refuse_passage(now, wall, id, Refusal::NameNotResolved);
        }
    }

    /// Takes packets that the kernel has for this connector's side.
    pub fn from_site<'p>(&mut self, now: Instant, wall: UnixMs, packets: impl Iterator<Item = &'p [u8]>) {
        let mut of: Option<PeerId> = None;
        let mut run: Vec<Vec<u8>> = Vec::new();
        for bytes in packets {
            let whole = match Fragment::parse(bytes) {
                Ok(Some(piece)) => match self.passages.pieces.push(now, link_of(piece.src), &piece) {
                    Some(whole) => Some(whole),
                    None => continue,
                },
                Ok(None) | Err(_) => None,
            };
            let bytes = whole.as_deref().unwrap_or(bytes);
            let Some((peer, packet)) = self.site_packet(now, wall, bytes) else { continue };
            if of != Some(peer) {
                self.seal_run(now, of, &mut run);
                of = Some(peer);
            }
            run.extend(self.datagrams.fit(LinkId(peer.number()), packet));
        }
        self.seal_run(now, of, &mut run);
    }

    fn seal_run(&mut self, now: Instant, of: Option<PeerId>, run: &mut Vec<Vec<u8>>) {
        if let Some(peer) = of
            && !run.is_empty()
        {
            let packets: Vec<&[u8]> = run.iter().map(Vec::as_slice).collect();
            // A full queue is a lossy link.
            let _ = self.tunnels.seal_batch(now, peer, &packets);
        }
        run.clear();
    }

    /// A packet of the site as its client gets it.
    fn site_packet(&mut self, now: Instant, wall: UnixMs, bytes: &[u8]) -> Option<(PeerId, Vec<u8>)> {
        let side = self.passages.side?;
        let Ok(packet) = IpPacket::parse(bytes) else {
            self.passages.unusable += 1;
            return None;
        };
        if !side.is_own(packet.dst) {
            self.passages.strays += 1;
            return None;
        }
        let outside = match packet.protocol {
            Inside::Tcp | Inside::Udp => packet.tuple().map(|tuple| Outside {
                protocol: if packet.protocol == Inside::Tcp { Protocol::Tcp } else { Protocol::Udp },
                port: tuple.dst.port(),
                target: tuple.src,
            }),
            Inside::Icmp => match packet.echo() {
                Some(echo) if echo.kind == EchoKind::Reply => Some(Outside {
                    protocol: Protocol::Icmp,
                    port: echo.identifier,
                    target: SocketAddr::new(packet.src, 0),
                }),
                Some(_) => None,
                None => return self.site_error(now, wall, &packet),
            },
            Inside::Other(_) => None,
        };
        let Some(id) = outside.and_then(|outside| self.passages.behind(&outside)) else {
            self.passages.strays += 1;
            // Whoever still speaks of a connection that has ended here hears so.
            let reset = packet.tcp().ok().and_then(|segment| flow::reset_for(&segment));
            self.outputs.extend(reset.map(Output::ToSite));
            return None;
        };
        let passage = self.passages.passages.get_mut(&id)?;
        let ends = passage.ends;
        // After a sleep this may be the first that is done: what came before it came too late.
        self.sessions.get(&ends.peer).filter(|session| session.deadline > now)?;
        let was_answered = passage.connection.is_answered;
        let notice = passage.notice(now, &packet, From::Site);
        if notice == Notice::Reset && !was_answered && self.tries_another(now, id) {
            return None;
        }
        let translated = translate(&packet, ends.resource, ends.client);
        if !was_answered && self.passages.passages.get(&id).is_some_and(|known| known.connection.is_answered)
        {
            self.passages.due_again(now, id);
        }
        self.noticed(now, wall, id, notice, From::Site);
        if translated.is_none() {
            self.passages.unusable += 1;
        }
        Some((ends.peer, translated?))
    }

    /// An ICMP error of the site about what passed.
    fn site_error(&mut self, now: Instant, wall: UnixMs, packet: &IpPacket<'_>) -> Option<(PeerId, Vec<u8>)> {
        let (header, quoted) = packet.payload.split_at_checked(8)?;
        let quoted = IpPacket::quoted(quoted)?;
        let outside = match quoted.protocol {
            Inside::Icmp => {
                let identifier = quoted.payload.get(4..6)?;
                let port = u16::from_be_bytes([identifier[0], identifier[1]]);
                Outside { protocol: Protocol::Icmp, port, target: SocketAddr::new(quoted.dst, 0) }
            }
            _ => {
                let tuple = quoted.tuple()?;
                let protocol = if quoted.protocol == Inside::Tcp { Protocol::Tcp } else { Protocol::Udp };
                Outside { protocol, port: tuple.src.port(), target: tuple.dst }
            }
        };
        let Some(id) = self.passages.behind(&outside) else {
            self.passages.strays += 1;
            return None;
        };
        let told = match (header[0], header[1], packet.src.is_ipv4()) {
            (3, 3, true) | (1, 4, false) => Unreachable::Port,
            // Longer than a way inside the site carries: the packets that TCP makes never are (the interface's MTU), and
            // what a program sends itself is cut by the kernel.
            (3, 4, true) | (2, _, false) => return None,
            (3, 9 | 10 | 13, true) | (1, 1, false) => Unreachable::Prohibited,
            (3, _, true) | (1, _, false) => Unreachable::Host,
            _ => return None,
        };
        let passage = self.passages.passages.get_mut(&id)?;
        let (ends, is_tcp) = (passage.ends, passage.ends.protocol == Protocol::Tcp);
        if is_tcp && passage.connection.is_answered {
            // TCP takes no such word for a connection that stands (RFC 1122 section 4.2.3.9: a hint).
            return None;
        }
        if is_tcp {
            if self.tries_another(now, id) {
                return None;
            }
            let refusal =
                if told == Unreachable::Port { Refusal::TargetRefused } else { Refusal::TargetUnreachable };
            self.refuse_passage(now, wall, id, refusal);
            return None;
        }
        passage.is_refused |= told == Unreachable::Port;
        let question = question(ends, quoted.payload)?;
        Some((ends.peer, unreachable(&IpPacket::parse(&question).ok()?, told)?))
    }

    /// An ICMP error of a client's own machine about what passed to it: whoever asked is gone. Whether it was about a
    /// passage.
    pub(super) fn passage_unwanted(&mut self, wall: UnixMs, ends: Ends) -> bool {
        let Some(id) = self.passages.at(&ends) else { return false };
        let why = "nobody waits for answers at the client";
        self.end_passage_quietly(id, wall, Verdict::Allowed, "client_gone", why);
        true
    }

    /// Ends a flow that was allowed and cannot be, and says so to the client.
    fn refuse_passage(&mut self, now: Instant, wall: UnixMs, id: PassageId, refusal: Refusal) {
        let Some(passage) = self.passages.passages.get(&id) else { return };
        let ends = passage.ends;
        let (verdict, told) = match refusal {
            Refusal::TargetRefused => (Verdict::Failed, Unreachable::Port),
            Refusal::TargetUnreachable | Refusal::NameNotResolved | Refusal::Full => {
                (Verdict::Failed, Unreachable::Host)
            }
            _ => (Verdict::Denied, Unreachable::Prohibited),
        };
        let opening = match &passage.stage {
            Stage::Resolving(waiting) => waiting.front().cloned(),
            Stage::Open(_) => None,
        };
        let question = opening.or_else(|| self.opening_of(id));
        let answer = question.and_then(|question| unreachable(&IpPacket::parse(&question).ok()?, told));
        if let Some(answer) = answer {
            let _ = self.tunnels.seal(now, ends.peer, &answer);
        }
        self.end_passage_quietly(id, wall, verdict, refusal.label(), &refusal.to_string());
    }

    /// A packet as the client sent it first, for an error to quote.
    fn opening_of(&self, id: PassageId) -> Option<Vec<u8>> {
        let passage = self.passages.passages.get(&id)?;
        let ends = passage.ends;
        match ends.protocol {
            Protocol::Tcp => {
                // What the target expects next of the client is one behind its SYN.
                let next = passage.connection.expected_by(From::Site)?;
                flow::reset(ends.client, ends.resource, next.wrapping_sub(1))
            }
            Protocol::Udp | Protocol::Icmp => question(ends, &[]),
        }
    }

    /// Takes the word for a flow that runs: both sides are told.
    pub(super) fn cut_passage(
        &mut self,
        now: Instant,
        id: PassageId,
        (wall, verdict): (UnixMs, Verdict),
        reason: &str,
        explanation: &str,
    ) {
        let Some(passage) = self.passages.passages.get(&id) else { return };
        let ends = passage.ends;
        let mut to_client = None;
        if ends.protocol == Protocol::Tcp {
            let connection = &passage.connection;
            to_client = match (connection.expected_by(From::Client), connection.expected_by(From::Site)) {
                (Some(expected), _) => flow::reset(ends.resource, ends.client, expected),
                (None, Some(next)) => flow::refusal(ends.resource, ends.client, next),
                (None, None) => None,
            };
            if let (Stage::Open(outside), Some(expected)) =
                (&passage.stage, connection.expected_by(From::Site))
            {
                let source = self.passages.side.and_then(|side| side.towards(outside.target.ip()));
                let source = source.map(|ip| SocketAddr::new(ip, outside.port));
                let reset = source.and_then(|source| flow::reset(source, outside.target, expected));
                self.outputs.extend(reset.map(Output::ToSite));
            }
        } else if let Some(question) = self.opening_of(id) {
            let question = IpPacket::parse(&question);
            to_client = question.ok().and_then(|question| unreachable(&question, Unreachable::Prohibited));
        }
        if let Some(packet) = to_client {
            let _ = self.tunnels.seal(now, ends.peer, &packet);
        }
        self.end_passage_quietly(id, wall, verdict, reason, explanation);
    }

    fn end_passage_quietly(
        &mut self,
        id: PassageId,
        wall: UnixMs,
        verdict: Verdict,
        reason: &str,
        explanation: &str,
    ) {
        self.passage_over(id, wall, verdict, reason, explanation);
        self.passages.remove(id);
    }

    /// Writes the record of a flow that is over; what is left of it is no flow any more.
    fn passage_over(
        &mut self,
        id: PassageId,
        wall: UnixMs,
        verdict: Verdict,
        reason: &str,
        explanation: &str,
    ) {
        let Some(passage) = self.passages.passages.get(&id).filter(|passage| !passage.is_over) else {
            return;
        };
        let (peer, device, resource) = (passage.ends.peer, passage.device, passage.resource.clone());
        let (target, started) = (passage.open(), passage.started);
        let (bytes_up, bytes_down) = (passage.bytes_up, passage.bytes_down);
        let wanted = passage.wanted.clone();
        if matches!(passage.stage, Stage::Resolving(_)) {
            self.lookups.give_up(device, FlowKey::Passage(id));
        }
        self.gives_back(device);
        if let Some(mut record) = self.record(peer, &wanted, wall, verdict, reason, explanation) {
            record.target = target;
            if let Some(resource) = resource {
                record.resource = Some(resource.id);
                record.resource_name = Some(resource.name);
            }
            record.started = started;
            record.bytes_up = bytes_up;
            record.bytes_down = bytes_down;
            self.log(Some(record));
        }
        self.leave_session(peer, id, &wanted);
    }

    fn leave_session(&mut self, peer: PeerId, id: PassageId, wanted: &Wanted) {
        if let Some(session) = self.sessions.get_mut(&peer) {
            session.end(FlowKey::Passage(id), wanted.address.ip());
            if wanted.meaning.is_some() {
                session.bindings.release(wanted.address.ip());
            }
        }
    }

    /// Forgets a passage that never was a flow, or is over; what waited for it.
    fn forget_passage(&mut self, id: PassageId) -> Option<VecDeque<Vec<u8>>> {
        let passage = self.passages.remove(id)?;
        if !passage.is_over {
            self.gives_back(passage.device);
            self.leave_session(passage.ends.peer, id, &passage.wanted);
        }
        match passage.stage {
            Stage::Resolving(waiting) => Some(waiting),
            Stage::Open(_) => None,
        }
    }

    /// Judges every passage again.
    pub(super) fn recheck_passages<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        rulings: &mut Rulings,
    ) {
        if planted::is("passages-outlive-their-policy") {
            return;
        }
        let faults: Vec<(PassageId, Refusal, String)> = self
            .passages
            .passages
            .iter()
            .filter(|(_, passage)| !passage.is_over)
            .filter_map(|(id, passage)| {
                let about = (passage.ends.peer, &passage.wanted);
                let (refusal, explanation) =
                    self.flow_fault(knowledge, rulings, about, &passage.target, passage.open())?;
                Some((*id, refusal, explanation))
            })
            .collect();
        for (id, refusal, explanation) in faults {
            let how = (knowledge.wall, Verdict::Withdrawn);
            self.cut_passage(now, id, how, refusal.label(), &explanation);
        }
    }

    /// Ends what nothing passed for long.
    pub(super) fn passages_due(&mut self, now: Instant, wall: UnixMs) {
        self.passages.pieces.expire(now);
        for id in self.passages.idle(now) {
            let Some(passage) = self.passages.passages.get(&id) else { continue };
            if passage.is_over {
                self.passages.remove(id);
            } else if passage.is_refused {
                let refusal = Refusal::TargetRefused;
                self.end_passage_quietly(id, wall, Verdict::Failed, refusal.label(), &refusal.to_string());
            } else if passage.ends.protocol == Protocol::Tcp && !passage.connection.is_answered {
                self.refuse_passage(now, wall, id, Refusal::TargetUnreachable);
            } else {
                let explanation = format!("nothing was sent for {} s", passage.idle().as_secs());
                self.end_passage_quietly(id, wall, Verdict::Allowed, "idle", &explanation);
            }
        }
    }

    /// What a passage was begun for.
    pub(super) fn passage_wants(&self, id: PassageId) -> Option<&Wanted> {
        self.passages.passages.get(&id).map(|passage| &passage.wanted)
    }
}

/// Who shares the room for pieces with whom: hosts of a site whose addresses end alike.
fn link_of(source: IpAddr) -> LinkId {
    LinkId(match source {
        IpAddr::V4(v4) => u64::from(v4.octets()[3]),
        IpAddr::V6(v6) => u64::from(v6.octets()[15]),
    })
}

/// A packet as the client sent it, as far as an error has to quote it.
fn question(ends: Ends, quoted: &[u8]) -> Option<Vec<u8>> {
    match ends.protocol {
        Protocol::Icmp => {
            let sequence = quoted.get(6..8).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
            let identifier = ends.client.port();
            flow::Echo { kind: EchoKind::Request, identifier, sequence, data: &[] }
                .packet(ends.client.ip(), ends.resource.ip())
        }
        Protocol::Udp | Protocol::Tcp => flow::udp(ends.client, ends.resource, &[]),
    }
}
