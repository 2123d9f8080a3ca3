//! The session loop: QUIC and STUN datagrams, and everything the session core says.

use super::{
    Foreign, PopError, PopStatus,
    disk::Job,
    front::FrontCounters,
    now,
    relay_loop::{FromRelay, ToRelay},
    streams::Streams,
    wall,
};
use crate::core::{
    admission::{Class, Intake},
    sessions::{Record, Sessions, SessionsOutput, Took, WriteId, Written},
    stun,
};
use net::{RecvBatch, SendBatch, UdpPort};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, mpsc::SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use wire::{DatagramKind, classify};

/// Datagrams gathered before they are handed to the kernel.
const SEND_BATCH: usize = 64;
/// Datagrams that have their turn before the socket is looked at again: 3 ms of handshakes at the worst.
const TURNS: usize = 32;
/// How often the session core hears what the wall clock says.
const WALL_INTERVAL: Duration = Duration::from_secs(1);

/// What the loops themselves counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ShellCounters {
    /// Datagrams that nobody claims.
    pub foreign: u64,
    /// Relay frames that came to the session socket and found the relay's queue full.
    pub handover_full: u64,
    /// STUN requests answered.
    pub stun_answered: u64,
    /// STUN messages not answered, by reason.
    pub stun_refused: BTreeMap<&'static str, u64>,
    /// Datagrams that the kernel did not take.
    pub not_sent: u64,
}

pub(super) struct SessionLoop {
    pub(super) sessions: Sessions,
    pub(super) intake: Intake,
    pub(super) port: UdpPort,
    pub(super) commands: mpsc::Sender<ToRelay>,
    pub(super) told: mpsc::Receiver<FromRelay>,
    pub(super) foreign: mpsc::Receiver<Foreign>,
    pub(super) to_relay: mpsc::Sender<Foreign>,
    pub(super) jobs: SyncSender<Job>,
    pub(super) written: mpsc::Receiver<(WriteId, Written)>,
    pub(super) questions: mpsc::Receiver<oneshot::Sender<PopStatus>>,
    pub(super) front: Option<Arc<FrontCounters>>,
    pub(super) streams: Streams,
    pub(super) started: Instant,
}

enum Woken {
    Shutdown,
    Leave,
    Received(io::Result<()>),
    Handed(Foreign),
    Told(FromRelay),
    Written(WriteId, Written),
    Asked(oneshot::Sender<PopStatus>),
    Wall,
    Due,
    /// Something waits for its turn.
    Turn,
}

/// What the loop's thread can be asked for, once each. Dropping `stop` stops it as well.
pub(super) struct Asked {
    pub(super) leave: oneshot::Sender<()>,
    pub(super) stop: oneshot::Sender<()>,
}

/// The session loop at work.
pub(super) struct Running {
    pub(super) asked: Asked,
    pub(super) ended: oneshot::Receiver<Result<(), PopError>>,
    pub(super) thread: JoinHandle<()>,
}

impl SessionLoop {
    /// Starts it in a thread and runtime of its own: in a runtime with several threads each packet wakes one that looks
    /// at the socket, and that one wakes the loop.
    pub(super) fn start(mut self, within: Duration) -> io::Result<Running> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (leave, left) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("pop-sessions".to_owned()).spawn(move || {
            let result = runtime.block_on(async {
                self.port = self.port.into_current_runtime()?;
                let leave = async {
                    if left.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                let stop = async {
                    let _ = stopped.await;
                };
                Box::pin(self.run(leave, within, stop)).await
            });
            let _ = end.send(result);
        })?;
        Ok(Running { asked: Asked { leave, stop }, ended, thread })
    }

    async fn run(
        mut self,
        leave: impl Future<Output = ()>,
        within: Duration,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), PopError> {
        let (mut leave, mut shutdown) = (pin!(leave), pin!(shutdown));
        let mut batch = RecvBatch::for_pop();
        let mut out = SendBatch::new();
        let mut counters = ShellCounters::default();
        let mut wall_tick = tokio::time::interval(WALL_INTERVAL);
        wall_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = self.drain(&mut out, &mut counters).await?;
        loop {
            let woken = tokio::select! {
                () = &mut shutdown => Woken::Shutdown,
                () = &mut leave, if !self.sessions.is_draining() => Woken::Leave,
                received = self.port.recv_batch(&mut batch) => Woken::Received(received),
                Some(foreign) = self.foreign.recv() => Woken::Handed(foreign),
                Some(told) = self.told.recv() => Woken::Told(told),
                Some((id, written)) = self.written.recv() => Woken::Written(id, written),
                Some(asker) = self.questions.recv() => Woken::Asked(asker),
                _ = wall_tick.tick() => Woken::Wall,
                () = tokio::time::sleep_until(due.into()) => Woken::Due,
                () = std::future::ready(()), if !self.intake.is_empty() => Woken::Turn,
            };
            match woken {
                Woken::Shutdown => {
                    self.sessions.shut_down(now());
                    self.drain(&mut out, &mut counters).await?;
                    return Ok(());
                }
                Woken::Leave => self.sessions.drain(now(), within),
                Woken::Received(result) => {
                    result.map_err(PopError::Socket)?;
                    for datagram in batch.iter() {
                        // No packet comes from an address that stands for a stream.
                        if wire::is_stream_address(datagram.from) {
                            self.streams.claimed();
                            continue;
                        }
                        self.take_in(datagram.from, datagram.payload, &mut counters);
                    }
                    self.turns(&mut out, &mut counters);
                }
                Woken::Handed(Foreign { source, bytes }) => {
                    self.take_in(source, &bytes, &mut counters);
                    self.turns(&mut out, &mut counters);
                }
                Woken::Turn => self.turns(&mut out, &mut counters),
                Woken::Told(FromRelay::Ended(ended)) => self.sessions.handle_channel_ended(now(), ended),
                Woken::Told(FromRelay::Proven { owner, address }) => {
                    self.sessions.handle_side_proven(owner, address);
                }
                Woken::Written(id, written) => self.sessions.handle_written(now(), id, written),
                Woken::Asked(asker) => self.answer(asker, &counters).await,
                Woken::Wall => self.sessions.set_wall(now(), wall()),
                Woken::Due => self.sessions.handle_timeout(now()),
            }
            due = self.drain(&mut out, &mut counters).await?;
            if self.sessions.is_drained(now()) {
                self.sessions.shut_down(now());
                self.drain(&mut out, &mut counters).await?;
                return Ok(());
            }
        }
    }

    /// Puts a datagram where it belongs: with its class, with the relay, or nowhere.
    fn take_in(&mut self, source: SocketAddr, bytes: &[u8], counters: &mut ShellCounters) {
        let at = now();
        match classify(bytes) {
            DatagramKind::Quic => {
                let sessions = &self.sessions;
                let class = self.intake.classify(at, source, bytes, || sessions.is_handshaking(source));
                self.intake.offer(at, class, source, bytes);
            }
            DatagramKind::Stun => self.intake.offer(at, Class::Question, source, bytes),
            DatagramKind::Relay => {
                if self.to_relay.try_send(Foreign { source, bytes: bytes.to_vec() }).is_err() {
                    counters.handover_full += 1;
                }
            }
            DatagramKind::WireGuard | DatagramKind::Foreign => counters.foreign += 1,
        }
    }

    /// Lets those whose turn it is have it.
    fn turns(&mut self, out: &mut SendBatch, counters: &mut ShellCounters) {
        for _ in 0..TURNS {
            let Some((class, source, bytes)) = self.intake.take(now()) else { return };
            if class != Class::Question {
                if self.sessions.handle_input(now(), source, &bytes) == Took::Handshake {
                    self.intake.charge(now(), source);
                }
                continue;
            }
            match stun::answer(&bytes, source) {
                Ok(response) => {
                    counters.stun_answered += 1;
                    out.push(source, &response);
                }
                Err(refusal) => *counters.stun_refused.entry(refusal.label()).or_default() += 1,
            }
        }
    }

    /// Hands over everything the core has to say; the next time it is due.
    async fn drain(
        &mut self,
        out: &mut SendBatch,
        counters: &mut ShellCounters,
    ) -> Result<Instant, PopError> {
        loop {
            match self.sessions.poll_output(now()) {
                SessionsOutput::Transmit { to, payload } if wire::is_stream_address(to) => {
                    self.streams.send(to, &payload);
                }
                SessionsOutput::Transmit { to, payload } => {
                    out.push(to, &payload);
                    if out.len() >= SEND_BATCH {
                        self.flush(out, counters).await;
                    }
                }
                SessionsOutput::RegisteredBy { stream } => self.streams.registered(stream),
                SessionsOutput::Relay(command) => {
                    // Waits when the relay is behind: a client never hears of a channel before it.
                    if self.commands.send(ToRelay::Command(command)).await.is_err() {
                        return Err(PopError::Socket(io::Error::other("the relay thread has ended")));
                    }
                }
                SessionsOutput::Persist { id, record } => {
                    if let Record::Certificate(certificate) = &record {
                        self.streams.set_certificate(certificate);
                    }
                    if self.jobs.try_send(Job { id, record }).is_err() {
                        self.sessions.handle_written(now(), id, Written::Failed);
                    }
                }
                SessionsOutput::Timeout { at, .. } => {
                    self.flush(out, counters).await;
                    return Ok(at);
                }
            }
        }
    }

    async fn flush(&self, out: &mut SendBatch, counters: &mut ShellCounters) {
        let report = self.port.send_batch(out).await;
        counters.not_sent += (report.too_long + report.no_room + report.refused) as u64;
    }

    async fn answer(&self, asker: oneshot::Sender<PopStatus>, counters: &ShellCounters) {
        let (sender, relay) = oneshot::channel();
        if self.commands.send(ToRelay::Counters(sender)).await.is_err() {
            return;
        }
        let (sessions, shell, front) = (self.sessions.status(), counters.clone(), self.front.clone());
        let (listen, started, streams) = (self.port.local_addr(), self.started, self.streams.snapshot());
        let admission = self.intake.status();
        // The relay answers when it comes to it; the session loop does not wait.
        tokio::spawn(async move {
            let Ok(relay) = relay.await else { return };
            let uptime_ms =
                u64::try_from(now().saturating_duration_since(started).as_millis()).unwrap_or(u64::MAX);
            let version = env!("CARGO_PKG_VERSION");
            let front = front.map(|front| front.snapshot());
            let status =
                PopStatus { version, listen, uptime_ms, sessions, admission, relay, shell, front, streams };
            let _ = asker.send(status);
        });
    }
}
