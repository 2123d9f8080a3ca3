//! The relay's thread.

use super::{Foreign, now, streams::Streams};
use crate::core::relay::{
    ChannelEnded, Handled, MAX_CHANNELS, OwnerId, Relay, RelayCommand, RelayCounters, RelayOutput,
};
use net::{RecvBatch, SendBatch, UdpPort};
use std::{
    io,
    net::SocketAddr,
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
use wire::{DatagramKind, classify};

/// What the session loop says.
pub(super) enum ToRelay {
    Command(RelayCommand),
    Counters(oneshot::Sender<RelayCounters>),
}

/// Moves of agents that wait for the session loop.
pub(super) const MOST_MOVES: usize = 4_096;

/// What the session loop is told.
pub(super) enum FromRelay {
    Ended(ChannelEnded),
    Proven { owner: OwnerId, address: SocketAddr },
}

pub(super) struct Channels {
    pub(super) commands: mpsc::Receiver<ToRelay>,
    pub(super) told: mpsc::Sender<FromRelay>,
    pub(super) foreign: mpsc::Receiver<Foreign>,
    pub(super) to_sessions: mpsc::Sender<Foreign>,
    pub(super) streams: Streams,
}

/// Datagrams of streams, or from the other socket, taken after each batch of the own one.
const HANDED_BURST: usize = 256;
/// When the core has nothing due.
const FAR: Duration = Duration::from_secs(3600);

pub(super) fn start(relay: Relay, port: UdpPort, channels: Channels) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("pop-relay".to_owned()).spawn(move || {
        runtime.block_on(async move {
            match port.into_current_runtime() {
                Ok(port) => Loop { relay, port, channels, out: SendBatch::new() }.run().await,
                Err(error) => tracing::error!(%error, "the relay's socket cannot be served"),
            }
        });
    })
}

struct Loop {
    relay: Relay,
    port: UdpPort,
    channels: Channels,
    out: SendBatch,
}

enum Woken {
    Received(io::Result<()>),
    Told(Option<ToRelay>),
    Handed(Foreign),
    Due,
}

impl Loop {
    async fn run(mut self) {
        let mut batch = RecvBatch::for_pop();
        let mut due = now() + FAR;
        loop {
            let woken = tokio::select! {
                biased;
                told = self.channels.commands.recv() => Woken::Told(told),
                received = self.port.recv_batch(&mut batch) => Woken::Received(received),
                Some(foreign) = self.channels.foreign.recv() => Woken::Handed(foreign),
                () = tokio::time::sleep_until(due.into()) => Woken::Due,
            };
            match woken {
                Woken::Told(Some(told)) => self.told(told),
                Woken::Told(None) => return,
                Woken::Received(Ok(())) => {
                    // A channel is installed before anybody knows its id: what was said before these
                    // datagrams came is heard before they are looked at.
                    while let Ok(told) = self.channels.commands.try_recv() {
                        self.told(told);
                    }
                    for datagram in batch.iter_mut() {
                        // No packet comes from an address that stands for a stream.
                        if wire::is_stream_address(datagram.from) {
                            self.channels.streams.claimed();
                            continue;
                        }
                        if classify(datagram.payload) == DatagramKind::Relay {
                            let streams = &self.channels.streams;
                            forward(&mut self.relay, &mut self.out, streams, datagram.from, datagram.payload);
                        } else {
                            let bytes = datagram.payload.to_vec();
                            // A full queue loses it, as a full socket would.
                            let _ =
                                self.channels.to_sessions.try_send(Foreign { source: datagram.from, bytes });
                        }
                    }
                    // A flood of the socket starves no stream.
                    for _ in 0..HANDED_BURST {
                        let Ok(Foreign { source, mut bytes }) = self.channels.foreign.try_recv() else {
                            break;
                        };
                        forward(&mut self.relay, &mut self.out, &self.channels.streams, source, &mut bytes);
                    }
                }
                Woken::Received(Err(error)) => {
                    tracing::error!(%error, "the relay's socket failed");
                    return;
                }
                Woken::Handed(Foreign { source, mut bytes }) => {
                    forward(&mut self.relay, &mut self.out, &self.channels.streams, source, &mut bytes);
                }
                Woken::Due => self.relay.handle_timeout(now()),
            }
            due = self.drain();
            let _ = self.port.try_send_batch(&mut self.out);
        }
    }

    fn told(&mut self, told: ToRelay) {
        match told {
            ToRelay::Command(command) => self.relay.handle_command(now(), command),
            ToRelay::Counters(asker) => {
                let _ = asker.send(self.relay.counters());
            }
        }
    }

    fn drain(&mut self) -> std::time::Instant {
        loop {
            match self.relay.poll_output() {
                RelayOutput::Transmit { to, frame } if wire::is_stream_address(to) => {
                    self.channels.streams.send(to, &frame);
                }
                RelayOutput::Transmit { to, frame } => self.out.push(to, &frame),
                RelayOutput::Ended(ended) => {
                    // Room for every channel there is; only an ended session loop does not take it.
                    let _ = self.channels.told.try_send(FromRelay::Ended(ended));
                }
                RelayOutput::Proven { owner, address } => {
                    // Untold, the agent is asked about its next channel. The ends of channels have their room.
                    if self.channels.told.capacity() > MAX_CHANNELS {
                        let _ = self.channels.told.try_send(FromRelay::Proven { owner, address });
                    }
                }
                RelayOutput::Timeout { at, .. } => return at.unwrap_or_else(|| now() + FAR),
            }
        }
    }
}

fn forward(
    relay: &mut Relay,
    out: &mut SendBatch,
    streams: &Streams,
    source: SocketAddr,
    datagram: &mut [u8],
) {
    match relay.handle_input(now(), source, datagram) {
        Handled::Forward(to) if wire::is_stream_address(to) => streams.send(to, datagram),
        Handled::Forward(to) => out.push(to, datagram),
        _ => {}
    }
}
