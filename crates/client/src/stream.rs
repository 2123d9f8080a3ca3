//! A flow as a byte stream: two bounded buffers between a task and the driver that owns the node.

use flow::FlowId;
use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};

/// Bytes that wait in each direction: one window of the flow behind it.
pub(crate) const PIPE_CAPACITY: usize = 256 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Pipe {
    /// From the flow to the stream's reader.
    pub(crate) inbound: VecDeque<u8>,
    /// From the stream's writer to the flow.
    pub(crate) outbound: VecDeque<u8>,
    /// The far side has no more.
    pub(crate) inbound_ended: bool,
    /// The writer has no more.
    pub(crate) outbound_ended: bool,
    /// The flow was told so.
    pub(crate) end_was_sent: bool,
    /// The flow is gone before its end.
    pub(crate) broken: bool,
    /// Nobody holds the stream any more.
    pub(crate) dropped: bool,
    is_signalled: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    /// Whether both directions came to their ends.
    pub(crate) const fn is_finished(&self) -> bool {
        self.inbound_ended && self.outbound_ended
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    flow: FlowId,
    pipe: Mutex<Pipe>,
    /// At most one entry a flow: bounded by the number of flows.
    signals: mpsc::UnboundedSender<FlowId>,
}

impl Shared {
    pub(crate) fn pipe(&self) -> MutexGuard<'_, Pipe> {
        // A panic while it was held left bytes in order: nothing here is done half.
        self.pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The driver looks at this flow now; what happens from here on is a new signal.
    pub(crate) fn take_signal(&self) {
        self.pipe().is_signalled = false;
    }

    pub(crate) fn wake_reader(&self) {
        let waker = self.pipe().reader.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn wake_writer(&self) {
        let waker = self.pipe().writer.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn signal(&self, pipe: &mut Pipe) {
        if !pipe.is_signalled {
            pipe.is_signalled = true;
            // Without a driver there is nobody to tell; the streams are broken then.
            let _ = self.signals.send(self.flow);
        }
    }
}

/// One connection to a resource. Dropping it before both directions ended aborts it.
#[derive(Debug)]
pub struct FlowStream {
    shared: Arc<Shared>,
}

impl FlowStream {
    pub(crate) fn new(flow: FlowId, signals: mpsc::UnboundedSender<FlowId>) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared { flow, pipe: Mutex::new(Pipe::default()), signals });
        (Self { shared: shared.clone() }, shared)
    }
}

impl AsyncRead for FlowStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.shared.pipe();
        if pipe.inbound.is_empty() {
            if pipe.inbound_ended {
                return Poll::Ready(Ok(()));
            }
            if pipe.broken {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let before = pipe.inbound.len();
        let (front, _) = pipe.inbound.as_slices();
        let take = front.len().min(buffer.remaining());
        buffer.put_slice(&front[..take]);
        pipe.inbound.drain(..take);
        // The driver stopped reading the flow when the pipe was full; from half on it goes on.
        let half = PIPE_CAPACITY / 2;
        if before > half && before - take <= half {
            self.shared.signal(&mut pipe);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FlowStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.shared.pipe();
        if pipe.broken || pipe.outbound_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let take = data.len().min(PIPE_CAPACITY - pipe.outbound.len());
        if take == 0 && !data.is_empty() {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        pipe.outbound.extend(&data[..take]);
        self.shared.signal(&mut pipe);
        Poll::Ready(Ok(take))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver was told; TCP decides when bytes go.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.shared.pipe();
        pipe.outbound_ended = true;
        self.shared.signal(&mut pipe);
        Poll::Ready(Ok(()))
    }
}

impl Drop for FlowStream {
    fn drop(&mut self) {
        let mut pipe = self.shared.pipe();
        pipe.dropped = true;
        self.shared.signal(&mut pipe);
    }
}
