//! What comes out of a tunnel: whose packet it is, and which part of the core it is for.

use super::{ConnectorCore, Ending, Output};
use crate::core::bindings::{self, Noted};
use crate::core::datagrams::Ends;
use crate::core::rules::{FlowAge, Knowledge, Rules};
use crate::core::session::{FlowKey, Wanted};
use crate::record::Verdict;
use flow::ip::{IpPacket, Protocol};
use flow::{EchoKind, Fragment, LinkId, Unreachable};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;
use trust::UnixMs;
use tunnel::{BindMessage, BoundPair, PeerId};
use wire::Refusal;

impl ConnectorCore {
    /// One inner packet of a client: a whole one, or a piece.
    pub(super) fn inner_packet<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        peer: PeerId,
        bytes: &[u8],
    ) {
        let Some(session) = self.sessions.get(&peer) else {
            return;
        };
        match Fragment::parse(bytes) {
            Err(_) => self.status.malformed += 1,
            Ok(None) => self.whole_packet(now, knowledge, peer, bytes),
            Ok(Some(piece)) if !session.owns(piece.src) => self.status.wrong_source += 1,
            Ok(Some(piece)) => {
                let link = session.link();
                if let Some(whole) = self.datagrams.fragments.push(now, link, &piece) {
                    self.whole_packet(now, knowledge, peer, &whole);
                }
            }
        }
    }

    fn whole_packet<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        peer: PeerId,
        bytes: &[u8],
    ) {
        let Some(session) = self.sessions.get(&peer) else {
            return;
        };
        let Ok(packet) = IpPacket::parse(bytes) else {
            self.status.malformed += 1;
            return;
        };
        if !session.owns(packet.src) {
            self.status.wrong_source += 1;
            return;
        }
        if self.means_nothing_yet(knowledge, peer, &packet) {
            return self.ask_for_binding(now, peer, packet.dst);
        }
        if !self.passes(now, knowledge, peer, &packet) {
            self.in_userspace(now, knowledge, peer, &packet);
        }
    }

    /// A packet of a flow that this process carries itself.
    pub(super) fn in_userspace<R: Rules>(
        &mut self,
        now: Instant,
        knowledge: &Knowledge<'_, R>,
        peer: PeerId,
        packet: &IpPacket<'_>,
    ) {
        match (packet.protocol, packet.echo()) {
            (Protocol::Udp, _) => match packet.udp() {
                Ok(datagram) => {
                    let (client, resource) = (datagram.tuple.src, datagram.tuple.dst);
                    let ends = Ends { peer, protocol: policy::Protocol::Udp, client, resource };
                    self.datagram(now, knowledge, ends, packet, (0, datagram.data));
                }
                Err(_) => self.status.malformed += 1,
            },
            (Protocol::Icmp, Some(echo)) if echo.kind == EchoKind::Request => {
                let client = SocketAddr::new(packet.src, echo.identifier);
                let resource = SocketAddr::new(packet.dst, 0);
                let ends = Ends { peer, protocol: policy::Protocol::Icmp, client, resource };
                self.datagram(now, knowledge, ends, packet, (echo.sequence, echo.data));
            }
            // Nobody here asks clients anything.
            (Protocol::Icmp, Some(_)) => {}
            (Protocol::Icmp, None) if self.is_about_a_datagram(knowledge.wall, peer, packet) => {}
            (Protocol::Tcp | Protocol::Icmp, _) => {
                let link = LinkId(peer.number());
                if self.flows.handle_input(now, link, packet.bytes).is_err() {
                    self.status.malformed += 1;
                }
            }
            (Protocol::Other(number), _) => {
                self.protocol_not_forwarded(now, knowledge.wall, peer, packet, number)
            }
        }
    }

    /// Whether a packet begins something at an address that clients bind names to, and this one is bound to none: the
    /// message that says what it means was lost, or forgotten here. A refusal would be believed.
    fn means_nothing_yet<R: Rules>(
        &self,
        knowledge: &Knowledge<'_, R>,
        peer: PeerId,
        packet: &IpPacket<'_>,
    ) -> bool {
        let Some(session) = self.sessions.get(&peer).filter(|_| bindings::is_synthetic(packet.dst)) else {
            return false;
        };
        let (protocol, port) = match packet.protocol {
            // What is no first segment belongs to a connection that is gone, and hears so.
            Protocol::Tcp => match packet.tcp() {
                Ok(segment) if segment.flags.opens() => (policy::Protocol::Tcp, segment.tuple.dst.port()),
                _ => return false,
            },
            Protocol::Udp => match packet.tuple() {
                Some(tuple) => (policy::Protocol::Udp, tuple.dst.port()),
                None => return false,
            },
            Protocol::Icmp if packet.echo().is_some() => (policy::Protocol::Icmp, 0),
            Protocol::Icmp | Protocol::Other(_) => return false,
        };
        let wanted = session.wanted(protocol, SocketAddr::new(packet.dst, port));
        wanted.meaning.is_none()
            && session.ask(knowledge, &wanted, FlowAge::New).verdict == Err(Refusal::NoResource)
    }

    fn ask_for_binding(&mut self, now: Instant, peer: PeerId, address: IpAddr) {
        self.status.packets_of_no_name += 1;
        let half = match address {
            IpAddr::V4(v4) => BoundPair { v4, v6: Ipv6Addr::UNSPECIFIED },
            IpAddr::V6(v6) => BoundPair { v4: Ipv4Addr::UNSPECIFIED, v6 },
        };
        // Lost, it is said again at the next packet.
        let _ = self.tunnels.send_bind(now, peer, &BindMessage::Unbound(half));
    }

    /// Whether an ICMP error of the client's machine is about something that UDP brought there, which ends then.
    fn is_about_a_datagram(&mut self, wall: UnixMs, peer: PeerId, packet: &IpPacket<'_>) -> bool {
        // Port unreachable, and nothing else: the other errors are about the way, and pass (RFC 1122 section 3.2.2.1).
        if !matches!((packet.payload, packet.src.is_ipv4()), ([3, 3, ..], true) | ([1, 4, ..], false)) {
            return false;
        }
        let quoted = packet.payload.get(8..).and_then(IpPacket::quoted).and_then(|quoted| quoted.tuple());
        let Some(tuple) = quoted.filter(|tuple| tuple.protocol == Protocol::Udp) else { return false };
        let ends = Ends { peer, protocol: policy::Protocol::Udp, client: tuple.dst, resource: tuple.src };
        self.datagram_unwanted(wall, ends) || self.passage_unwanted(wall, ends)
    }

    fn protocol_not_forwarded(
        &mut self,
        now: Instant,
        wall: UnixMs,
        peer: PeerId,
        packet: &IpPacket<'_>,
        number: u8,
    ) {
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        if !session.may_log(now) {
            self.status.refusals_not_logged += 1;
            return;
        }
        let refusal = Refusal::ProtocolNotForwarded;
        // Its ports, if it has any, are nothing that is known here.
        let wanted = session.wanted(policy::Protocol::Tcp, SocketAddr::new(packet.dst, 0));
        let mut record =
            self.record(peer, &wanted, wall, Verdict::Denied, refusal.label(), &refusal.to_string());
        if let Some(record) = &mut record {
            record.protocol = number.to_string();
        }
        self.log(record);
        if let Some(answer) = flow::unreachable(packet, Unreachable::Prohibited) {
            let _ = self.tunnels.seal(now, peer, &answer);
        }
    }

    /// A client says what two addresses mean from now on.
    pub(super) fn bind(&mut self, now: Instant, wall: UnixMs, peer: PeerId, message: &BindMessage) {
        // A connector binds nothing at its clients.
        let BindMessage::Bind { pair, name } = message else { return };
        let Some(session) = self.sessions.get_mut(&peer) else {
            return;
        };
        let own = session.own();
        let mut touched = session.bindings.touched(*pair);
        if session.is_used(&touched) && !session.may_rebind(now) {
            // As if it had been lost: the client says it again.
            self.status.rebindings_put_off += 1;
            return;
        }
        let answers = match session.bindings.bind(now, *pair, name, &own) {
            Ok(Noted::Already) => vec![BindMessage::Bound(*pair)],
            Ok(Noted::Anew { forgotten }) => {
                touched.extend(forgotten.iter().flat_map(|pair| bindings::addresses(*pair)));
                if session.is_used(&touched) {
                    session.rebound();
                    self.end_rebound(now, wall, peer, &touched);
                }
                let forgotten = forgotten.into_iter().map(BindMessage::Unbound);
                [BindMessage::Bound(*pair)].into_iter().chain(forgotten).collect()
            }
            Err(refused) => {
                tracing::debug!(reason = refused.label(), "a client's addresses are not bound");
                self.status.bindings_refused += 1;
                vec![BindMessage::Unbound(*pair)]
            }
        };
        for answer in &answers {
            // Lost, it is asked for again with the next packet.
            let _ = self.tunnels.send_bind(now, peer, answer);
        }
    }

    /// Ends what runs to those of these addresses of a session that mean something else now.
    fn end_rebound(&mut self, now: Instant, wall: UnixMs, peer: PeerId, touched: &BTreeSet<IpAddr>) {
        let Some(session) = self.sessions.get(&peer) else {
            return;
        };
        let is_other =
            |wanted: &Wanted| session.bindings.meaning(wanted.address.ip()) != wanted.meaning.as_ref();
        let wanted = |flow: FlowKey| match flow {
            FlowKey::Stream(flow) => self.active.get(&flow).map(|active| &active.wanted),
            FlowKey::Datagrams(flow) => self.conversation_wants(flow),
            FlowKey::Passage(flow) => self.passage_wants(flow),
        };
        let others: Vec<FlowKey> =
            session.users(touched).filter(|flow| wanted(*flow).is_some_and(is_other)).collect();
        let why = "the client uses the address for something else now";
        for flow in others {
            match flow {
                FlowKey::Stream(flow) => {
                    let _ = self.flows.abort(now, flow);
                    self.end_flow(flow, wall, Verdict::Allowed, "rebound", why);
                    self.outputs.push_back(Output::Ended { flow, ending: Ending::Cut });
                }
                FlowKey::Datagrams(id) => {
                    self.end_datagrams(id, wall, Verdict::Allowed, "rebound", why);
                }
                FlowKey::Passage(id) => {
                    self.cut_passage(now, id, (wall, Verdict::Allowed), "rebound", why);
                }
            }
        }
    }
}
