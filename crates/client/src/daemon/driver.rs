//! The task that owns the node: moves datagrams, bytes, documents and answers, and decides nothing.

use super::{disk::Documents, tun::Side, view};
use crate::{
    control::{NetcheckAnswer, PingAnswer, ProxyStatus, ResourceStatus, Status, WhyAnswer, WhySource},
    core::{ClientNode, DialFault, DialId, Ending, NodeEvent, NodeOutput, PingToken, Timeout},
    dial::{Dial, DialError},
    stream::{FlowStream, PIPE_CAPACITY, Shared},
    target::{Host, Target},
};
use agent::RequestSeq;
use flow::{FlowId, Read};
use machine::PacketBatch;
use net::{Interfaces, NetworkWatch, RecvBatch, SendBatch, StreamLinks, StreamTarget, UdpPort};
use policy::Explanation;
use portmap::{Family, Keeper};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use trust::UnixMs;
use tunnel::LocalAddress;
use wire::{Bounded, ControlReply, ControlRequest, PopId, Refusal, Why};

/// Commands that wait; a caller waits for room.
pub(super) const COMMAND_QUEUE: usize = 256;
/// How often the wall clock is looked at.
const WALL_INTERVAL: Duration = Duration::from_secs(1);
/// Signals handled before the socket gets its turn again.
const SIGNAL_BATCH: usize = 64;
/// Datagrams of streams handled in one go.
const STREAM_BATCH: usize = 256;
const SCRATCH: usize = 64 * 1024;

pub(super) enum Command {
    Dial { target: Target, reply: oneshot::Sender<Result<FlowStream, DialError>> },
    Status(oneshot::Sender<Status>),
    Resources(oneshot::Sender<Vec<ResourceStatus>>),
    Why { asked: String, reply: oneshot::Sender<WhyAnswer> },
    Ping { host: Host, reply: oneshot::Sender<PingAnswer> },
    Netcheck(oneshot::Sender<NetcheckAnswer>),
    Renew,
    Resolved { pop: PopId, addresses: Vec<SocketAddr> },
}

/// Reaches the driver from everywhere.
#[derive(Clone)]
pub struct Dialler {
    pub(super) commands: mpsc::Sender<Command>,
}

impl Dial for Dialler {
    type Stream = FlowStream;

    async fn dial(&self, target: Target) -> Result<FlowStream, DialError> {
        let (reply, answer) = oneshot::channel();
        let gone = || DialError::new(target.clone(), Refusal::ShuttingDown);
        self.commands.send(Command::Dial { target: target.clone(), reply }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

pub(super) struct Driver {
    pub(super) node: ClientNode,
    pub(super) port: UdpPort,
    pub(super) tls: StreamLinks,
    pub(super) keeper: Keeper,
    pub(super) proxy: ProxyStatus,
    /// The machine's own programs.
    pub(super) machine: Side,
    pub(super) documents: Documents,
    pub(super) own_commands: mpsc::WeakSender<Command>,
    pub(super) signals: mpsc::UnboundedSender<FlowId>,
    pub(super) dials: BTreeMap<DialId, (Target, oneshot::Sender<Result<FlowStream, DialError>>)>,
    pub(super) streams: BTreeMap<FlowId, Arc<Shared>>,
    pub(super) pings: BTreeMap<PingToken, oneshot::Sender<PingAnswer>>,
    pub(super) questions: BTreeMap<RequestSeq, (String, oneshot::Sender<WhyAnswer>)>,
    /// Questions about how it stands, until the newest beacon is here or does not come.
    pub(super) waiting: Vec<(Instant, Command)>,
}

/// A round trip to a PoP, and a retransmission. The control socket takes 32 questions at once.
const BEACON_WAIT: Duration = Duration::from_secs(1);

pub(super) fn clock() -> Instant {
    net::clock::now()
}

pub(super) fn wall_clock() -> UnixMs {
    UnixMs::from_millis(net::clock::wall_millis())
}

impl Driver {
    fn tell_local(&mut self, interfaces: &Interfaces) {
        let at = self.port.local_addr();
        let local = interfaces
            .of_socket(at)
            .filter(|local| !self.machine.is_own(local.ip))
            .map(|local| LocalAddress { ip: local.ip, prefix: local.prefix })
            .collect();
        self.node.set_local(clock(), at.port(), local);
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut signals: mpsc::UnboundedReceiver<FlowId>,
        mut stop: tokio::sync::watch::Receiver<bool>,
    ) {
        let mut incoming = RecvBatch::for_agent();
        let mut outgoing = SendBatch::new();
        let mut scratch = vec![0; SCRATCH];
        let mut packets = PacketBatch::new();
        let mut wall = tokio::time::interval(WALL_INTERVAL);
        wall.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut signalled = Vec::with_capacity(SIGNAL_BATCH);
        let mut slept = net::clock::asleep();
        let mut network = NetworkWatch::new();
        self.tell_local(network.known());
        self.machine.refresh(&self.node);
        loop {
            self.answer_waiting();
            let timeout = self.drain(&mut outgoing, &mut scratch);
            let waits = self.waiting.first().map(|(until, _)| *until);
            let report = self.port.send_batch(&mut outgoing).await;
            if report.refused > 0 {
                tracing::trace!(refused = report.refused, "the machine did not send some datagrams");
            }
            tokio::select! {
                received = self.port.recv_batch(&mut incoming) => match received {
                    Ok(()) => {
                        // No packet comes from an address that stands for a stream.
                        let claims =
                            incoming.iter().filter(|datagram| wire::is_stream_address(datagram.from));
                        self.tls.claimed(claims.count() as u64);
                        let datagrams = incoming
                            .iter()
                            .filter(|datagram| !wire::is_stream_address(datagram.from))
                            .map(|datagram| (datagram.from, datagram.payload));
                        self.node.handle_input(clock(), datagrams);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the UDP socket gave an error");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                (from, datagram) = self.tls.recv() => {
                    let mut came = vec![(from, datagram)];
                    while came.len() < STREAM_BATCH && let Some(more) = self.tls.try_recv() {
                        came.push(more);
                    }
                    let datagrams = came.iter().map(|(from, datagram)| (*from, datagram.as_slice()));
                    self.node.handle_input(clock(), datagrams);
                }
                received = self.machine.recv(&mut packets) => match received {
                    Ok(()) => self.machine.carry(&mut self.node, &packets, self.port.local_addr().port()),
                    Err(error) => {
                        self.machine.lost(&error);
                        break;
                    }
                },
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                count = signals.recv_many(&mut signalled, SIGNAL_BATCH) => {
                    if count > 0 {
                        for flow in signalled.drain(..) {
                            self.pump(flow, &mut scratch);
                        }
                        self.node.flush(clock());
                    }
                }
                () = tokio::time::sleep_until(net::clock::until(waits.unwrap_or(timeout.at)).into()),
                    if waits.is_some_and(|until| until < timeout.at) => {}
                () = tokio::time::sleep_until(net::clock::until(timeout.at).into()) => {
                    tracing::trace!(reason = timeout.reason, "woke");
                    self.node.handle_timeout(clock());
                }
                found = network.changed() => {
                    tracing::info!("this machine's network changed");
                    self.tls.reset();
                    self.keeper.network_changed();
                    self.node.network_changed(clock());
                    self.tell_local(found);
                    self.machine.network_changed(&self.node);
                }
                mapped = self.keeper.changed() => self.node.set_mapped(clock(), mapped),
                _ = wall.tick() => {
                    let asleep = net::clock::asleep();
                    if std::mem::replace(&mut slept, asleep) < asleep {
                        tracing::info!("this machine was asleep");
                        self.node.resumed(clock());
                    }
                    self.node.set_wall(clock(), wall_clock());
                    self.machine.tick(&self.node);
                    if self.node.is_behind_nat() {
                        let at = self.port.local_addr();
                        let families: &[Family] =
                            if at.is_ipv4() { &[Family::Ipv4] } else { &[Family::Ipv4, Family::Ipv6] };
                        self.keeper.begin(at.port(), families);
                    }
                }
                _ = stop.changed() => break,
            }
        }
        self.node.shutdown(clock());
        self.drain(&mut outgoing, &mut scratch);
        // The goodbyes; a PoP that gets none notices by itself.
        let _ = self.port.send_batch(&mut outgoing).await;
        for shared in self.streams.values() {
            break_stream(shared);
        }
        self.keeper.shutdown().await;
    }

    /// Does what the node wants done, until it only waits.
    fn drain(&mut self, outgoing: &mut SendBatch, scratch: &mut [u8]) -> Timeout {
        loop {
            match self.node.poll_output(clock()) {
                NodeOutput::Transmit { to, payload } if wire::is_stream_address(to) => {
                    if let Some((address, host)) = self.node.agent().stream_target(to) {
                        self.tls.send(to, &StreamTarget { address, host }, payload);
                    }
                }
                NodeOutput::Transmit { to, payload } => outgoing.push(to, &payload),
                NodeOutput::Persist { what, bytes } => {
                    // The writer outlives the driver.
                    self.documents.put(what, bytes);
                }
                NodeOutput::Resolve { pop, name } => self.resolve(pop, name),
                NodeOutput::Event(event) => self.event(event, scratch),
                NodeOutput::Packet(packet) => self.machine.deliver(packet),
                NodeOutput::Timeout(timeout) => {
                    self.machine.flush();
                    return timeout;
                }
            }
        }
    }

    fn resolve(&self, pop: PopId, name: String) {
        let commands = self.own_commands.clone();
        tokio::spawn(async move {
            let addresses = match tokio::net::lookup_host(&name).await {
                Ok(addresses) => addresses.collect(),
                Err(error) => {
                    tracing::info!(%error, %pop, "the PoP's name was not resolved");
                    Vec::new()
                }
            };
            if let Some(commands) = commands.upgrade() {
                let _ = commands.send(Command::Resolved { pop, addresses }).await;
            }
        });
    }

    fn event(&mut self, event: NodeEvent, scratch: &mut [u8]) {
        match event {
            NodeEvent::Dialled { dial, result } => self.dialled(dial, result),
            NodeEvent::Readable(flow) | NodeEvent::Writable(flow) => {
                self.pump(flow, scratch);
                self.node.flush(clock());
            }
            NodeEvent::Ended { flow, ending } => self.ended(flow, ending),
            NodeEvent::Answered { request, result } => self.answered(request, result),
            NodeEvent::Pinged { token, result } => {
                if let Some(reply) = self.pings.remove(&token) {
                    let _ = reply.send(view::ping(&self.node, result));
                }
            }
            NodeEvent::Changed => self.machine.refresh(&self.node),
        }
    }

    fn command(&mut self, command: Command) {
        let is_about_it = matches!(command, Command::Status(_) | Command::Resources(_) | Command::Why { .. });
        // What a person is told is no older than it has to be: a client hears of the control plane with keepalives alone.
        if is_about_it && self.node.ask_beacon(clock()) == agent::Asked::Yes {
            self.waiting.push((clock() + BEACON_WAIT, command));
        } else {
            self.carry_out(command);
        }
    }

    fn answer_waiting(&mut self) {
        let now = clock();
        let is_here = !self.node.agent().awaits_pop(now);
        while self.waiting.first().is_some_and(|(until, _)| is_here || *until <= now) {
            let (_, command) = self.waiting.remove(0);
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: Command) {
        let now = clock();
        match command {
            Command::Dial { target, reply } => {
                let dial = self.node.dial(now, &target);
                self.dials.insert(dial, (target, reply));
            }
            Command::Status(reply) => {
                let (flows, streams) = (self.streams.len(), self.tls.totals());
                let mut status = view::status(&self.node, now, &self.proxy, flows, streams);
                status.tun = self.machine.status();
                let _ = reply.send(status);
            }
            Command::Resources(reply) => {
                let _ = reply.send(view::resources(&self.node, clock()));
            }
            Command::Ping { host, reply } => {
                let token = self.node.ping(now, &host);
                self.pings.insert(token, reply);
            }
            Command::Netcheck(reply) => {
                let _ = reply.send(view::netcheck(&self.node, now, self.port.local_addr()));
            }
            Command::Why { asked, reply } => self.why(now, asked, reply),
            Command::Renew => self.node.force_renew(now),
            Command::Resolved { pop, addresses } => {
                self.machine.pop_resolved(&self.node, &addresses);
                self.node.handle_resolved(now, pop, addresses);
            }
        }
    }

    fn dialled(&mut self, dial: DialId, result: Result<FlowId, DialFault>) {
        let Some((target, reply)) = self.dials.remove(&dial) else { return };
        let answer = match result {
            Ok(flow) => {
                let (stream, shared) = FlowStream::new(flow, self.signals.clone());
                self.streams.insert(flow, shared);
                Ok(stream)
            }
            Err(DialFault { reason, detail, retry_after }) => {
                Err(DialError { target, reason, detail, retry_after })
            }
        };
        // When nobody waits any more, the stream is dropped here, and its signal ends the flow.
        let _ = reply.send(answer);
    }

    /// Carries bytes between a flow and its stream, as far as both take them.
    fn pump(&mut self, flow: FlowId, scratch: &mut [u8]) {
        let Some(shared) = self.streams.get(&flow).cloned() else { return };
        shared.take_signal();
        let now = clock();
        let (mut woke_reader, mut woke_writer, mut is_over) = (false, false, false);
        {
            let mut pipe = shared.pipe();
            if pipe.dropped && !pipe.is_finished() {
                is_over = true;
            }
            while !is_over && !pipe.inbound_ended && pipe.inbound.len() < PIPE_CAPACITY {
                let room = (PIPE_CAPACITY - pipe.inbound.len()).min(scratch.len());
                match self.node.read(now, flow, &mut scratch[..room]) {
                    Ok(Read::Bytes(count)) => {
                        pipe.inbound.extend(&scratch[..count]);
                        woke_reader = true;
                    }
                    Ok(Read::End) => {
                        pipe.inbound_ended = true;
                        woke_reader = true;
                    }
                    Ok(Read::Empty) | Err(_) => break,
                }
            }
            while !is_over && !pipe.outbound.is_empty() {
                let (front, _) = pipe.outbound.as_slices();
                let offered = front.len();
                let Ok(taken) = self.node.write(now, flow, front) else { break };
                pipe.outbound.drain(..taken);
                woke_writer |= taken > 0;
                if taken < offered {
                    break;
                }
            }
            if !is_over && pipe.outbound.is_empty() && pipe.outbound_ended && !pipe.end_was_sent {
                pipe.end_was_sent = self.node.shutdown_write(now, flow).is_ok();
            }
        }
        if woke_reader {
            shared.wake_reader();
        }
        if woke_writer {
            shared.wake_writer();
        }
        if is_over {
            self.node.abort(now, flow);
            self.streams.remove(&flow);
        }
    }

    fn ended(&mut self, flow: FlowId, ending: Ending) {
        let Some(shared) = self.streams.remove(&flow) else { return };
        match ending {
            Ending::Finished => {
                shared.pipe().inbound_ended = true;
                shared.wake_reader();
                shared.wake_writer();
            }
            Ending::Cut => break_stream(&shared),
        }
    }

    fn why(&mut self, now: Instant, asked: String, reply: oneshot::Sender<WhyAnswer>) {
        if let Some(answer) = view::why_here(&self.node, now, &asked) {
            let _ = reply.send(answer);
            return;
        }
        // Without a session no controller can be asked: nobody waits for a time-out to learn that.
        let is_registered = self.node.agent().pops().any(|pop| pop.phase == agent::PopPhaseWord::Registered);
        let refusal = match Bounded::new(asked.clone().into_bytes()) {
            Ok(_) if !is_registered => Refusal::SessionLost,
            Ok(resource) => match self.node.request(now, ControlRequest::from(Why { resource })) {
                Ok(request) => {
                    self.questions.insert(request, (asked, reply));
                    return;
                }
                Err(_) => Refusal::Full,
            },
            Err(_) => Refusal::Malformed,
        };
        let _ = reply.send(view::why_without_controller(&self.node, now, &asked, refusal));
    }

    fn answered(&mut self, request: RequestSeq, result: Result<ControlReply, Refusal>) {
        let Some((asked, reply)) = self.questions.remove(&request) else { return };
        let explanation = match result {
            Ok(ControlReply::WhyReply(why)) => {
                serde_json::from_slice::<Explanation>(why.explanation.as_slice())
                    .map_err(|_| Refusal::Version)
            }
            Ok(_) => Err(Refusal::Malformed),
            Err(refusal) => Err(refusal),
        };
        let _ = reply.send(match explanation {
            Ok(explanation) => WhyAnswer {
                asked,
                source: WhySource::Controller,
                holds: explanation.holds(),
                explanation,
                controller: None,
            },
            Err(refusal) => view::why_without_controller(&self.node, clock(), &asked, refusal),
        });
    }
}

fn break_stream(shared: &Shared) {
    shared.pipe().broken = true;
    shared.wake_reader();
    shared.wake_writer();
}
