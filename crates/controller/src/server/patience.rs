//! How long a connection may take for each of its parts, and how many one source may have.

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// How long each part of a connection may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// The TLS handshake, and the head of a request.
    pub(crate) head: Duration,
    /// The whole body of a request: 256 kB at 26 kB/s, and the 4 MiB of the largest bulk at 420 kB/s.
    pub(crate) body: Duration,
    /// Without a byte in or out, between requests too.
    pub(crate) idle: Duration,
    /// A peer that takes no byte of an answer.
    pub(crate) write: Duration,
    /// The connection as a whole; a request that is under way is finished first.
    pub(crate) life: Duration,
    /// What still comes after the last answer, so that its sender gets to reading the answer.
    pub(crate) linger: Duration,
}

impl Patience {
    /// What is promised to people with slow lines.
    pub(crate) const USUAL: Self = Self {
        head: Duration::from_secs(10),
        body: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        write: Duration::from_secs(20),
        life: Duration::from_secs(600),
        linger: Duration::from_secs(5),
    };
}

/// Most of what comes after the last answer that is read and thrown away: many times the longest body. A socket that is
/// closed with something unread resets the connection, and the peer loses the answer that says why (RFC 9112 section 9.6).
const MAX_LINGER: usize = 8 << 20;

/// How the end of a stream goes.
enum Closing {
    /// It is open.
    Not,
    /// Our side is closed; so much more may come.
    Lingering(usize, Pin<Box<Sleep>>),
}

/// A stream that ends when nothing moves, and that is closed so that the peer reads the last answer.
pub(super) struct Moving<S> {
    inner: S,
    patience: Patience,
    idle: Pin<Box<Sleep>>,
    write: Pin<Box<Sleep>>,
    writing: bool,
    /// The peer has said its last.
    ended: bool,
    closing: Closing,
}

impl<S> Moving<S> {
    pub(super) fn new(inner: S, patience: Patience) -> Self {
        let (idle, write) = (Box::pin(sleep(patience.idle)), Box::pin(sleep(patience.write)));
        Self { inner, patience, idle, write, writing: false, ended: false, closing: Closing::Not }
    }

    fn moved(&mut self) {
        self.idle.as_mut().reset(Instant::now() + self.patience.idle);
    }

    /// What a write gave; a peer that takes nothing for too long is an error.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.writing = false;
            self.moved();
            return outcome;
        }
        if !self.writing {
            self.writing = true;
            self.write.as_mut().reset(Instant::now() + self.patience.write);
        }
        ready!(self.write.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Moving<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (had, room) = (buf.filled().len(), buf.remaining());
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if let Poll::Ready(outcome) = read {
            self.ended |= outcome.is_err() || (room > 0 && buf.filled().len() == had);
            self.moved();
            return Poll::Ready(outcome);
        }
        ready!(self.idle.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Moving<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(cx);
        self.wrote(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if matches!(this.closing, Closing::Not) {
            let outcome = Pin::new(&mut this.inner).poll_shutdown(cx);
            ready!(this.wrote(cx, outcome))?;
            this.closing = Closing::Lingering(MAX_LINGER, Box::pin(sleep(this.patience.linger)));
        }
        let Closing::Lingering(left, until) = &mut this.closing else { return Poll::Ready(Ok(())) };
        while !this.ended && *left > 0 {
            let mut scratch = [0; 8192];
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.inner).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    *left = left.saturating_sub(buf.filled().len())
                }
                Poll::Ready(_) => this.ended = true,
                Poll::Pending => {
                    ready!(until.as_mut().poll(cx));
                    break;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The body took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body did not arrive within {} s", .0.as_secs())]
pub(crate) struct BodyTooSlow(pub(crate) Duration);

/// A body that must be whole by a time, however steadily it drips.
pub(super) struct Deadlined<B> {
    inner: B,
    deadline: Pin<Box<Sleep>>,
    within: Duration,
}

impl<B> Deadlined<B> {
    pub(super) fn new(inner: B, within: Duration) -> Self {
        Self { inner, deadline: Box::pin(sleep(within)), within }
    }
}

impl<B> HttpBody for Deadlined<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Some(Err(BodyTooSlow(self.within).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Connections of one source at once: an office of browsers behind one address at six each.
const MAX_OF_ONE_SOURCE: usize = 128;

/// Who has how many connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A connection that is counted as long as this lives.
#[derive(Debug)]
pub(super) struct Counted {
    sources: Sources,
    block: IpAddr,
}

/// An IPv6 host has a /64 to take addresses from (RFC 6177).
const fn block(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !((1 << 64) - 1))),
    }
}

impl Sources {
    /// One more, unless it has its share.
    pub(super) fn count(&self, address: IpAddr) -> Option<Counted> {
        let block = block(address.to_canonical());
        let mut sources = self.0.lock().expect("nothing panics while it holds the counts");
        let held = sources.entry(block).or_insert(0);
        if *held >= MAX_OF_ONE_SOURCE {
            return None;
        }
        *held += 1;
        drop(sources);
        Some(Counted { sources: self.clone(), block })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut sources = self.sources.0.lock().expect("nothing panics while it holds the counts");
        if let Some(held) = sources.get_mut(&self.block) {
            *held -= 1;
            if *held == 0 {
                sources.remove(&self.block);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_its_share_and_no_more_and_a_prefix_is_one_source() {
        let sources = Sources::default();
        let at = |last: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last));
        let held: Vec<_> = (0..128).map(|n| sources.count(at(n)).unwrap()).collect();
        assert!(sources.count(at(999)).is_none());
        assert!(sources.count(IpAddr::from([203, 0, 113, 7])).is_some());
        assert!(sources.count("::ffff:203.0.113.7".parse().unwrap()).is_some());
        drop(held);
        assert!(sources.count(at(999)).is_some());
        assert!(sources.0.lock().unwrap().is_empty(), "nobody is remembered for nothing");
    }
}
