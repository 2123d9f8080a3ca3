//! QUIC's settings, each with its reason.

use quinn_proto::{IdleTimeout, TimeSource, TransportConfig, VarInt};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// A session on which nothing came for this long is over: three keepalive intervals of the longest
/// kind (25 s) and 15 s for their delay.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// What one stream may have in flight towards this side. Frames are taken out as they come, so that the
/// memory of a session is its one partial frame, not this.
const STREAM_WINDOW: u32 = 32 * 1024;
/// What may wait here for the peer's acknowledgement.
const SEND_WINDOW: u64 = 64 * 1024;
/// RFC 9000 section 14: every path carries this; no discovery, because control frames are few and
/// each probe is a packet that wakes an idle phone.
const MTU: u16 = 1200;

/// RFC 9000.
pub const QUIC_V1: u32 = 1;

/// Which end of a session.
#[derive(Clone, Copy)]
pub(crate) enum End {
    Dialler,
    Acceptor,
}

pub(crate) fn transport(end: End) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    // The dialler opens the one stream; nobody else opens anything.
    let streams_from_peer = match end {
        End::Dialler => 0_u32,
        End::Acceptor => 1,
    };
    config
        .max_concurrent_bidi_streams(streams_from_peer.into())
        .max_concurrent_uni_streams(0_u32.into())
        .max_idle_timeout(Some(idle_timeout()))
        .keep_alive_interval(None)
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(STREAM_WINDOW.into())
        .send_window(SEND_WINDOW)
        .datagram_receive_buffer_size(None)
        .initial_mtu(MTU)
        .min_mtu(MTU)
        .mtu_discovery_config(None)
        // Sessions send single packets; cutting is left to the shell's batches.
        .enable_segmentation_offload(false)
        .send_fairness(false)
        .allow_spin(false);
    Arc::new(config)
}

fn idle_timeout() -> IdleTimeout {
    let millis = u32::try_from(IDLE_TIMEOUT.as_millis()).expect("a constant of seconds");
    IdleTimeout::from(VarInt::from_u32(millis))
}

/// The time in retry tokens: the monotonic clock, counted from the acceptor's start. No wall clock
/// decides whether an address is fresh, and a token of an earlier process fails by its key.
#[derive(Debug)]
pub(crate) struct TokenClock {
    start: Instant,
    elapsed_ms: AtomicU64,
}

/// Tokens are judged as `issued + lifetime < now`; an origin in the past keeps that from the epoch's edge.
const TOKEN_ORIGIN: Duration = Duration::from_secs(3600);

impl TokenClock {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, elapsed_ms: AtomicU64::new(0) }
    }

    pub(crate) fn advance(&self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.start).as_millis();
        self.elapsed_ms.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl TimeSource for TokenClock {
    fn now(&self) -> SystemTime {
        let elapsed = Duration::from_millis(self.elapsed_ms.load(Ordering::Relaxed));
        SystemTime::UNIX_EPOCH + TOKEN_ORIGIN + elapsed
    }
}
