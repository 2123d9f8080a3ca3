//! The core: packets to flows and back.

use crate::craft::{self, Unreachable};
pub use crate::event::{
    CloseReason, DropReason, Event, FlowError, FlowId, LinkId, Output, Read, Timeout, TimeoutReason,
};
use crate::ip::{IpError, IpPacket, Protocol, TcpSegment};
use crate::limits::{
    BURST, CONNECT_TIMEOUT, FLOW_MTU, FlowLimits, HELD_LIFETIME, IDLE_TIMEOUT, LINGER, MAX_LINGERING,
    MAX_OUTPUTS, RESETS_PER_SECOND, USER_TIMEOUT,
};
use crate::recovery::{Again, Recovery, Shows};
use crate::socket::{Received, TcpStack};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant as StackInstant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Where a flow is: our end and theirs, on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    link: LinkId,
    local: SocketAddr,
    remote: SocketAddr,
}

/// A flow's life. Only an open one has a stack and its buffers.
enum Stage {
    /// The SYN waits for the owner's word.
    Held {
        syn: Vec<u8>,
    },
    Open(Box<Open>),
}

struct Open {
    stack: TcpStack,
    established: bool,
    /// `Readable` was said and nothing was found empty since.
    told_readable: bool,
    /// `write` took less than it was given.
    wants_room: bool,
    end_was_read: bool,
    /// The owner has nothing more to write, said before the connection stood.
    close_when_up: bool,
    /// Since when something is sent and not acknowledged.
    awaits_since: Option<Instant>,
    recovery: Recovery,
    fault: Option<CloseReason>,
}

struct Flow {
    ends: Ends,
    stage: Stage,
    since: Instant,
    last_input: Instant,
    dirty: bool,
    scheduled: Option<Instant>,
}

/// All TCP flows of a node.
pub struct Flows {
    limits: FlowLimits,
    epoch: Instant,
    now: Instant,
    seed: u64,
    next_flow: u64,
    flows: BTreeMap<FlowId, Flow>,
    by_ends: BTreeMap<Ends, FlowId>,
    by_link: BTreeMap<LinkId, BTreeSet<FlowId>>,
    /// Links that carry more than [`FLOW_MTU`].
    link_mtu: BTreeMap<LinkId, usize>,
    dirty: VecDeque<FlowId>,
    schedule: BTreeMap<(Instant, FlowId), TimeoutReason>,
    lingering: BTreeSet<Ends>,
    lingering_until: VecDeque<(Instant, Ends)>,
    reset_window: Instant,
    resets_left: u32,
    outputs: VecDeque<Output>,
    scratch: Vec<Vec<u8>>,
    drops: BTreeMap<DropReason, u64>,
}

impl Flows {
    /// No flows yet.
    #[must_use]
    pub fn new(limits: FlowLimits, seed: u64, now: Instant) -> Self {
        Self {
            limits,
            epoch: now,
            now,
            seed,
            next_flow: 0,
            flows: BTreeMap::new(),
            by_ends: BTreeMap::new(),
            by_link: BTreeMap::new(),
            link_mtu: BTreeMap::new(),
            dirty: VecDeque::new(),
            schedule: BTreeMap::new(),
            lingering: BTreeSet::new(),
            lingering_until: VecDeque::new(),
            reset_window: now,
            resets_left: RESETS_PER_SECOND,
            outputs: VecDeque::new(),
            scratch: Vec::new(),
            drops: BTreeMap::new(),
        }
    }

    /// How many flows there are, held ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// What went no further, by reason.
    #[must_use]
    pub const fn drops(&self) -> &BTreeMap<DropReason, u64> {
        &self.drops
    }

    /// Whether packets of a link between these ends belong to a flow here, held, open or over a moment ago.
    #[must_use]
    pub fn knows(&self, link: LinkId, local: SocketAddr, remote: SocketAddr) -> bool {
        let ends = Ends { link, local, remote };
        self.by_ends.contains_key(&ends) || self.lingering.contains(&ends)
    }

    /// Dials from `src` to `dst`. [`Event::Established`] or [`Event::Closed`] follows.
    ///
    /// # Errors
    /// [`FlowError::Full`], [`FlowError::Address`].
    pub fn dial(
        &mut self,
        now: Instant,
        link: LinkId,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Result<FlowId, FlowError> {
        self.advance(now);
        let ends = Ends { link, local: src, remote: dst };
        let unusable = src.is_ipv4() != dst.is_ipv4()
            || dst.ip().is_multicast()
            || self.by_ends.contains_key(&ends)
            || self.lingering.contains(&ends);
        if unusable {
            return Err(FlowError::Address);
        }
        self.has_room(link)?;
        let seed = self.next_seed();
        let buffer = self.limits.buffer_beside(self.flows.len());
        let stack = TcpStack::connecting(src, dst, buffer, seed, self.stack_now());
        let mut stack = stack.ok_or(FlowError::Address)?;
        stack.set_link_mtu(self.link_mtu(link));
        let flow = self.insert(ends, Stage::Open(Box::new(Open::new(stack))));
        self.touch(flow);
        Ok(flow)
    }

    /// Takes one IP packet that came by a link.
    ///
    /// # Errors
    /// The packet is malformed; nothing has changed. Packets that are well-formed and go nowhere are
    /// counted in [`Self::drops`].
    pub fn handle_input(&mut self, now: Instant, link: LinkId, packet: &[u8]) -> Result<(), IpError> {
        self.advance(now);
        let packet = IpPacket::parse(packet)?;
        match packet.protocol {
            Protocol::Tcp => {
                let segment = packet.tcp()?;
                self.segment(link, &packet, &segment);
            }
            Protocol::Icmp => self.icmp(link, &packet),
            Protocol::Udp | Protocol::Other(_) => self.count(DropReason::NotTcp),
        }
        Ok(())
    }

    /// Accepts a held flow: its SYN is answered now.
    ///
    /// # Errors
    /// [`FlowError::Unknown`], [`FlowError::State`].
    pub fn accept(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowError> {
        self.advance(now);
        let stack_now = self.stack_now();
        let seed = self.next_seed();
        // Itself is among them.
        let buffer = self.limits.buffer_beside(self.flows.len().saturating_sub(1));
        let link = self.flows.get(&flow).ok_or(FlowError::Unknown)?.ends.link;
        let link_mtu = self.link_mtu(link);
        let entry = self.flows.get_mut(&flow).ok_or(FlowError::Unknown)?;
        let Stage::Held { syn } = &mut entry.stage else {
            return Err(FlowError::State);
        };
        let syn = std::mem::take(syn);
        let stack = TcpStack::listening(entry.ends.local, buffer, seed, stack_now);
        let mut stack = stack.ok_or(FlowError::Address)?;
        stack.set_link_mtu(link_mtu);
        stack.input(stack_now, &syn, &mut self.scratch);
        entry.stage = Stage::Open(Box::new(Open::new(stack)));
        entry.since = self.now;
        entry.last_input = self.now;
        self.send_scratch(link);
        self.touch(flow);
        Ok(())
    }

    /// Rejects a held flow as a host does that has no listener: with a reset.
    ///
    /// # Errors
    /// [`FlowError::Unknown`], [`FlowError::State`].
    pub fn reject_reset(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowError> {
        self.reject(now, flow, |syn| craft::reset_for(&syn.tcp().ok()?))
    }

    /// Rejects a held flow as a gateway does: with an ICMP error.
    ///
    /// # Errors
    /// [`FlowError::Unknown`], [`FlowError::State`].
    pub fn reject_unreachable(
        &mut self,
        now: Instant,
        flow: FlowId,
        why: Unreachable,
    ) -> Result<(), FlowError> {
        self.reject(now, flow, |syn| craft::unreachable(syn, why))
    }

    fn reject(
        &mut self,
        now: Instant,
        flow: FlowId,
        answer: impl FnOnce(&IpPacket<'_>) -> Option<Vec<u8>>,
    ) -> Result<(), FlowError> {
        self.advance(now);
        let entry = self.flows.get(&flow).ok_or(FlowError::Unknown)?;
        let Stage::Held { syn } = &entry.stage else {
            return Err(FlowError::State);
        };
        let packet = IpPacket::parse(syn).ok().and_then(|syn| answer(&syn));
        let link = entry.ends.link;
        self.forget(flow);
        if let Some(bytes) = packet {
            self.outputs.push_back(Output::Packet { link, bytes });
        }
        Ok(())
    }

    /// Reads what came in.
    ///
    /// # Errors
    /// [`FlowError::Unknown`]; [`FlowError::State`] while held.
    pub fn read(&mut self, now: Instant, flow: FlowId, buffer: &mut [u8]) -> Result<Read, FlowError> {
        self.advance(now);
        let open = self.open_mut(flow)?;
        let read = match open.stack.receive(buffer) {
            Received::Bytes(read) => Read::Bytes(read),
            Received::Nothing => Read::Empty,
            Received::End => {
                open.end_was_read = true;
                Read::End
            }
        };
        if !open.stack.has_data() {
            open.told_readable = false;
        }
        // The window has grown, or the end was all that was waited for.
        self.touch(flow);
        Ok(read)
    }

    /// Writes what fits; [`Event::Writable`] follows when less was taken than given.
    ///
    /// # Errors
    /// [`FlowError::Unknown`]; [`FlowError::State`] while held and after [`Self::shutdown_write`].
    pub fn write(&mut self, now: Instant, flow: FlowId, data: &[u8]) -> Result<usize, FlowError> {
        self.advance(now);
        let open = self.open_mut(flow)?;
        if open.close_when_up {
            return Err(FlowError::State);
        }
        let written = open.stack.send(data).ok_or(FlowError::State)?;
        open.wants_room = written < data.len();
        self.touch(flow);
        Ok(written)
    }

    /// Says that nothing more will be written; reading goes on until the peer says the same.
    ///
    /// # Errors
    /// [`FlowError::Unknown`]; [`FlowError::State`] while held.
    pub fn shutdown_write(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowError> {
        self.advance(now);
        let open = self.open_mut(flow)?;
        open.wants_room = false;
        open.close_when_up = true;
        self.touch(flow);
        Ok(())
    }

    /// Ends a flow at once: a reset goes out, no event follows.
    ///
    /// # Errors
    /// [`FlowError::Unknown`].
    pub fn abort(&mut self, now: Instant, flow: FlowId) -> Result<(), FlowError> {
        self.advance(now);
        let entry = self.flows.get(&flow).ok_or(FlowError::Unknown)?;
        if matches!(entry.stage, Stage::Held { .. }) {
            return self.reject_reset(now, flow);
        }
        self.abort_open(flow);
        Ok(())
    }

    /// A link carries packets of so many bytes from now on; [`FLOW_MTU`] until this is said. Flows that run follow at
    /// once: what they send from now on, again or for the first time, is no longer.
    pub fn set_link_mtu(&mut self, now: Instant, link: LinkId, mtu: usize) {
        self.advance(now);
        let before = self.link_mtu(link);
        if mtu > FLOW_MTU {
            self.link_mtu.insert(link, mtu);
        } else {
            self.link_mtu.remove(&link);
        }
        for flow in self.by_link.get(&link).into_iter().flatten() {
            if let Some(Flow { stage: Stage::Open(open), .. }) = self.flows.get_mut(flow) {
                open.stack.set_link_mtu(mtu);
            }
        }
        if mtu < before {
            // What was longer than the way carries was lost, and does not wait for its timer.
            self.link_moved(now, link);
        }
    }

    /// Packets of a link take another way from now on: what has waited for its acknowledgement for longer than a round
    /// trip was lost on the old one, and goes again at once.
    pub fn link_moved(&mut self, now: Instant, link: LinkId) {
        self.advance(now);
        for flow in self.by_link.get(&link).cloned().unwrap_or_default() {
            if let Ok(open) = self.open_mut(flow) {
                open.recovery.hurry(now);
                self.touch(flow);
            }
        }
    }

    /// Whoever is at the other end of a link may have forgotten its flows: those that wait for an answer and have
    /// nothing to send would wait for ever, so each asks. A flow that is not known there is reset.
    pub fn ask_link(&mut self, now: Instant, link: LinkId) {
        self.advance(now);
        let stack_now = self.stack_now();
        for flow in self.by_link.get(&link).cloned().unwrap_or_default() {
            if let Some(Flow { stage: Stage::Open(open), .. }) = self.flows.get_mut(&flow) {
                open.stack.ask(stack_now, &mut self.scratch);
                self.send_scratch(link);
                self.touch(flow);
            }
        }
    }

    fn link_mtu(&self, link: LinkId) -> usize {
        self.link_mtu.get(&link).copied().unwrap_or(FLOW_MTU)
    }

    /// Ends all flows of a link without a word, because there is nobody left to say it to. Says which.
    pub fn drop_link(&mut self, link: LinkId) -> Vec<FlowId> {
        let flows: Vec<FlowId> = self.by_link.get(&link).into_iter().flatten().copied().collect();
        for flow in &flows {
            self.forget(*flow);
        }
        self.link_mtu.remove(&link);
        self.lingering.retain(|ends| ends.link != link);
        self.outputs.retain(|output| match output {
            Output::Packet { link: of, .. } | Output::Event { link: of, .. } => *of != link,
            Output::Timeout(_) => true,
        });
        flows
    }

    /// Takes the packets of a link that wait for [`Self::poll_output`]: the resets of flows just aborted, before
    /// the link is dropped.
    pub fn take_packets(&mut self, link: LinkId) -> Vec<Vec<u8>> {
        let mut taken = Vec::new();
        let mut others = VecDeque::with_capacity(self.outputs.len());
        for output in self.outputs.drain(..) {
            match output {
                Output::Packet { link: of, bytes } if of == link => taken.push(bytes),
                output => others.push_back(output),
            }
        }
        self.outputs = others;
        taken
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        while let Some((&(at, flow), _)) = self.schedule.first_key_value() {
            if at > self.now {
                break;
            }
            self.schedule.pop_first();
            if let Some(entry) = self.flows.get_mut(&flow) {
                entry.scheduled = None;
                self.due(flow);
            }
        }
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return output;
            }
            match self.dirty.pop_front() {
                Some(flow) => self.service(flow),
                None => {
                    return Output::Timeout(
                        self.schedule
                            .first_key_value()
                            .map(|((at, _), reason)| Timeout { at: *at, reason: *reason }),
                    );
                }
            }
        }
    }

    // ---- below: details --------------------------------------------------------------------------

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
        while self.lingering_until.front().is_some_and(|(until, _)| *until <= self.now) {
            if let Some((_, ends)) = self.lingering_until.pop_front() {
                self.lingering.remove(&ends);
            }
        }
    }

    fn stack_now(&self) -> StackInstant {
        let since = self.now.saturating_duration_since(self.epoch);
        StackInstant::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    fn instant_of(&self, at: StackInstant) -> Instant {
        self.epoch + Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0))
    }

    fn count(&mut self, reason: DropReason) {
        *self.drops.entry(reason).or_default() += 1;
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): a start for each stack's sequence numbers. They need to be
    /// apart from each other, not secret: only WireGuard peers can send here.
    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn has_room(&self, link: LinkId) -> Result<(), FlowError> {
        let of_link = self.by_link.get(&link).map_or(0, BTreeSet::len);
        if self.flows.len() >= self.limits.flows || of_link >= self.limits.flows_per_link {
            return Err(FlowError::Full);
        }
        Ok(())
    }

    fn insert(&mut self, ends: Ends, stage: Stage) -> FlowId {
        let flow = FlowId(self.next_flow);
        self.next_flow += 1;
        self.by_ends.insert(ends, flow);
        self.by_link.entry(ends.link).or_default().insert(flow);
        let (since, last_input) = (self.now, self.now);
        self.flows.insert(flow, Flow { ends, stage, since, last_input, dirty: false, scheduled: None });
        flow
    }

    fn forget(&mut self, flow: FlowId) -> Option<Flow> {
        let entry = self.flows.remove(&flow)?;
        self.by_ends.remove(&entry.ends);
        if let Some(of_link) = self.by_link.get_mut(&entry.ends.link) {
            of_link.remove(&flow);
            if of_link.is_empty() {
                self.by_link.remove(&entry.ends.link);
            }
        }
        if let Some(at) = entry.scheduled {
            self.schedule.remove(&(at, flow));
        }
        Some(entry)
    }

    fn open_mut(&mut self, flow: FlowId) -> Result<&mut Open, FlowError> {
        match &mut self.flows.get_mut(&flow).ok_or(FlowError::Unknown)?.stage {
            Stage::Open(open) => Ok(open),
            Stage::Held { .. } => Err(FlowError::State),
        }
    }

    /// Marks a flow as one with something to send or to tell.
    fn touch(&mut self, flow: FlowId) {
        if let Some(entry) = self.flows.get_mut(&flow)
            && !entry.dirty
        {
            entry.dirty = true;
            self.dirty.push_back(flow);
        }
    }

    fn send_scratch(&mut self, link: LinkId) {
        self.outputs.extend(self.scratch.drain(..).map(|bytes| Output::Packet { link, bytes }));
    }

    fn tell(&mut self, link: LinkId, flow: FlowId, event: Event) {
        self.outputs.push_back(Output::Event { link, flow, event });
    }

    fn segment(&mut self, link: LinkId, packet: &IpPacket<'_>, segment: &TcpSegment) {
        let ends = Ends { link, local: segment.tuple.dst, remote: segment.tuple.src };
        let Some(flow) = self.by_ends.get(&ends).copied() else {
            return self.segment_of_no_flow(ends, packet, segment);
        };
        let (now, stack_now) = (self.now, self.stack_now());
        let Some(entry) = self.flows.get_mut(&flow) else {
            return;
        };
        entry.last_input = now;
        let open = match &mut entry.stage {
            Stage::Open(open) => open,
            Stage::Held { .. } if segment.flags.rst() => {
                self.forget(flow);
                return self.tell(link, flow, Event::Closed(CloseReason::Reset));
            }
            Stage::Held { .. } => return self.count(DropReason::Held),
        };
        let before = open.stack.state();
        let shows = open.recovery.heard(now, segment);
        if shows == Shows::Nothing && !open.stack.has_unacknowledged_data() {
            // The stack would count it, and with its FIN alone under way forget the timer that sends it again.
            return;
        }
        open.stack.input(stack_now, packet.bytes, &mut self.scratch);
        if shows == Shows::NextLost && open.stack.has_unacknowledged_data() {
            for packet in open.recovery.first(ends.local, ends.remote) {
                open.stack.input(stack_now, &packet, &mut self.scratch);
            }
        }
        let after = open.stack.state();
        // A reset puts a stack that had answered a SYN back to listening.
        let gone = after == State::Listen || (after == State::Closed && segment.flags.rst());
        if gone && !matches!(before, State::Closed | State::TimeWait) {
            open.fault =
                Some(if before == State::SynSent { CloseReason::Refused } else { CloseReason::Reset });
        }
        self.send_scratch(link);
        self.touch(flow);
    }

    fn segment_of_no_flow(&mut self, ends: Ends, packet: &IpPacket<'_>, segment: &TcpSegment) {
        let link = ends.link;
        if segment.flags.opens() {
            // A new connection may take the place of one that has ended (RFC 6191).
            self.lingering.remove(&ends);
            if self.has_room(link).is_err() || self.outputs.len() >= MAX_OUTPUTS {
                // Silence: the peer sends its SYN again.
                return self.count(DropReason::Full);
            }
            let flow = self.insert(ends, Stage::Held { syn: packet.bytes.to_vec() });
            self.schedule_at(flow, self.now + HELD_LIFETIME, TimeoutReason::Held);
            return self.tell(link, flow, Event::Incoming { src: ends.remote, dst: ends.local });
        }
        if self.lingering.contains(&ends) {
            if segment.flags.fin() {
                let bytes = craft::acknowledge_again(segment);
                self.outputs.push_back(Output::Packet { link, bytes });
            }
            return;
        }
        if self.now.saturating_duration_since(self.reset_window) >= Duration::from_secs(1) {
            self.reset_window = self.now;
            self.resets_left = RESETS_PER_SECOND;
        }
        if self.resets_left == 0 || self.outputs.len() >= MAX_OUTPUTS {
            return self.count(DropReason::StrayUnanswered);
        }
        self.resets_left -= 1;
        self.count(DropReason::Stray);
        if let Some(bytes) = craft::reset_for(segment) {
            self.outputs.push_back(Output::Packet { link, bytes });
        }
    }

    /// An error about a SYN of ours ends the attempt; about anything later it is advice that RFC 5927
    /// section 5.2 says to leave alone.
    fn icmp(&mut self, link: LinkId, packet: &IpPacket<'_>) {
        let Some((quoted, why)) = craft::quoted_error(packet) else {
            return self.count(DropReason::NotTcp);
        };
        let Some(tuple) = quoted.tuple().filter(|tuple| tuple.protocol == Protocol::Tcp) else {
            return self.count(DropReason::NotTcp);
        };
        let ends = Ends { link, local: tuple.src, remote: tuple.dst };
        let Some(flow) = self.by_ends.get(&ends).copied() else {
            return self.count(DropReason::Stray);
        };
        if let Ok(open) = self.open_mut(flow)
            && open.stack.state() == State::SynSent
        {
            self.forget(flow);
            self.tell(link, flow, Event::Closed(CloseReason::Unreachable(why)));
        }
    }

    /// Ends a flow with a reset and without an event.
    fn abort_open(&mut self, flow: FlowId) {
        let stack_now = self.stack_now();
        let Some(mut entry) = self.forget(flow) else {
            return;
        };
        if let Stage::Open(open) = &mut entry.stage {
            open.stack.abort();
            open.stack.egress(stack_now, 1, &mut self.scratch);
            self.send_scratch(entry.ends.link);
        }
    }

    fn due(&mut self, flow: FlowId) {
        let Some(entry) = self.flows.get(&flow) else {
            return;
        };
        let link = entry.ends.link;
        if matches!(entry.stage, Stage::Held { .. }) {
            // The owner forgot it: the peer is told, and so is the owner.
            let _ = self.reject_reset(self.now, flow);
            return self.tell(link, flow, Event::Closed(CloseReason::TimedOut));
        }
        if entry.dead_at().is_some_and(|(at, _)| at <= self.now) {
            self.abort_open(flow);
            return self.tell(link, flow, Event::Closed(CloseReason::TimedOut));
        }
        self.recover(flow);
        self.touch(flow);
    }

    /// Lets the stack send again what waited for too long.
    fn recover(&mut self, flow: FlowId) {
        let stack_now = self.stack_now();
        let Some(entry) = self.flows.get_mut(&flow) else {
            return;
        };
        let Ends { link, local, remote } = entry.ends;
        if let Stage::Open(open) = &mut entry.stage
            && open.established
        {
            match open.recovery.fire(self.now, local, remote) {
                Again::Nothing => {}
                Again::First(packets) => {
                    for packet in packets {
                        open.stack.input(stack_now, &packet, &mut self.scratch);
                    }
                }
                Again::All(times) => open.stack.expire(stack_now, times, &mut self.scratch),
            }
            self.send_scratch(link);
        }
    }

    /// Gives one flow its turn: packets out, news to the owner, the next wake-up.
    fn service(&mut self, flow: FlowId) {
        let stack_now = self.stack_now();
        let Some(entry) = self.flows.get_mut(&flow) else {
            return;
        };
        entry.dirty = false;
        let link = entry.ends.link;
        let Stage::Open(open) = &mut entry.stage else {
            return;
        };
        // The stack would take a close before the connection stands as giving up.
        if open.close_when_up && !matches!(open.stack.state(), State::Listen | State::SynSent) {
            open.close_when_up = false;
            open.stack.close();
        }
        let more = open.stack.egress(stack_now, BURST, &mut self.scratch);
        let awaits = open.stack.awaits_acknowledgement();
        open.recovery.sent(self.now, &self.scratch);
        // A FIN alone is left to the stack: told that the first segment is missing it would forget its timer.
        open.recovery.awaits(self.now, open.stack.has_unacknowledged_data());
        open.awaits_since = awaits.then(|| open.awaits_since.unwrap_or(self.now));
        let news = open.news();
        self.send_scratch(link);
        for event in news.into_iter().flatten() {
            self.tell(link, flow, event);
        }
        if let Some(reason) = self.ended(flow) {
            let ends = self.forget(flow).map(|entry| entry.ends);
            if let (CloseReason::Finished, Some(ends)) = (reason, ends) {
                self.linger(ends);
            }
            return self.tell(link, flow, Event::Closed(reason));
        }
        if more {
            return self.touch(flow);
        }
        self.reschedule(flow);
    }

    /// Whether a flow is over and its owner has read what there is to read.
    fn ended(&self, flow: FlowId) -> Option<CloseReason> {
        let Stage::Open(open) = &self.flows.get(&flow)?.stage else {
            return None;
        };
        if open.fault.is_some() {
            return open.fault;
        }
        let over = matches!(open.stack.state(), State::Closed | State::TimeWait);
        (over && open.end_was_read).then_some(CloseReason::Finished)
    }

    /// Remembers a finished flow's ends without its buffers, to acknowledge a FIN that comes again.
    fn linger(&mut self, ends: Ends) {
        if self.lingering_until.len() >= MAX_LINGERING
            && let Some((_, oldest)) = self.lingering_until.pop_front()
        {
            self.lingering.remove(&oldest);
        }
        self.lingering.insert(ends);
        self.lingering_until.push_back((self.now + LINGER, ends));
    }

    fn reschedule(&mut self, flow: FlowId) {
        let stack_now = self.stack_now();
        let Some(entry) = self.flows.get_mut(&flow) else {
            return;
        };
        let dead = entry.dead_at();
        let again = match &entry.stage {
            Stage::Open(open) if open.established => open.recovery.deadline(),
            Stage::Open(_) | Stage::Held { .. } => None,
        };
        let again = again.map(|at| (at.max(self.now + Duration::from_millis(1)), TimeoutReason::Tcp));
        let tcp = match &mut entry.stage {
            Stage::Open(open) => open.stack.poll_at(stack_now),
            Stage::Held { .. } => None,
        };
        // Never "now": what could be sent was sent, so a stack that wants its turn at once gets it a
        // millisecond later instead of spinning.
        let tcp =
            tcp.map(|at| (self.instant_of(at).max(self.now + Duration::from_millis(1)), TimeoutReason::Tcp));
        if let Some((at, reason)) = dead.into_iter().chain(tcp).chain(again).min() {
            self.schedule_at(flow, at, reason);
        }
    }

    /// Keeps one entry a flow. A deadline that moved away stays until it fires and is looked at again, so
    /// that a packet does not cost a change of the schedule.
    fn schedule_at(&mut self, flow: FlowId, at: Instant, reason: TimeoutReason) {
        let Some(entry) = self.flows.get_mut(&flow) else {
            return;
        };
        match entry.scheduled {
            Some(scheduled) if scheduled <= at => return,
            Some(scheduled) => {
                self.schedule.remove(&(scheduled, flow));
            }
            None => {}
        }
        entry.scheduled = Some(at);
        self.schedule.insert((at, flow), reason);
    }
}

impl Flow {
    /// When this flow is to be given up if nothing comes in.
    fn dead_at(&self) -> Option<(Instant, TimeoutReason)> {
        let Stage::Open(open) = &self.stage else {
            return None;
        };
        Some(match open.stack.state() {
            State::Listen | State::SynSent | State::SynReceived => {
                (self.since + CONNECT_TIMEOUT, TimeoutReason::Connect)
            }
            _ => match open.awaits_since {
                Some(since) => (since.max(self.last_input) + USER_TIMEOUT, TimeoutReason::Dead),
                None => (self.last_input + IDLE_TIMEOUT, TimeoutReason::Dead),
            },
        })
    }
}

impl Open {
    const fn new(stack: TcpStack) -> Self {
        Self {
            stack,
            established: false,
            told_readable: false,
            wants_room: false,
            end_was_read: false,
            close_when_up: false,
            awaits_since: None,
            recovery: Recovery::new(),
            fault: None,
        }
    }

    /// What the owner has not been told yet.
    fn news(&mut self) -> [Option<Event>; 3] {
        let room = self.stack.send_capacity() / 4;
        let state = self.stack.state();
        let stands = !matches!(state, State::Listen | State::SynSent | State::SynReceived | State::Closed);
        let established = (stands && !self.established).then(|| {
            self.established = true;
            Event::Established
        });
        let something = self.stack.has_data() || (self.stack.at_end() && !self.end_was_read);
        let readable = (self.established && something && !self.told_readable).then(|| {
            self.told_readable = true;
            Event::Readable
        });
        let writable = (stands && self.wants_room && self.stack.free_to_send() >= room).then(|| {
            self.wants_room = false;
            Event::Writable
        });
        [established, readable, writable]
    }
}
