//! N WireGuard peers and the paths to them, sans-IO.
//!
//! This crate owns: WireGuard keys, handshakes (inside an introduction and over a path), sessions and
//! their timers, which path a packet for a peer takes, and how much waits for a handshake.
//! It refuses to know: sockets, PoP addresses, grants, what the inner packets mean beyond their
//! length. Whether a peer may be here at all is decided before [`Tunnels::accept_initiation`].
//!
//! The Noise core and the ciphers are a kept crate behind the [`Engine`] trait (ADR 0001); every timer
//! is ours and runs on the caller's clock.
//!
//! ```
//! use std::time::Instant;
//! use tunnel::{Output, Path, Tunnels, WireGuardPrivateKey};
//! use wire::{ChannelId, PopId};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[allow(clippy::disallowed_methods)]
//! let now = Instant::now();
//! let mut client = Tunnels::new(&WireGuardPrivateKey::from_bytes([1; 32]), 1, now);
//! let mut connector = Tunnels::new(&WireGuardPrivateKey::from_bytes([2; 32]), 2, now);
//! let pop = PopId::from_bytes([0; 16]);
//! let near = Path::relay(pop, ChannelId::from_random(1));
//! let far = Path::relay(pop, ChannelId::from_random(2));
//!
//! // The two handshake messages travel inside `Open` and `Accept`.
//! let (to_connector, initiation) = client.connect(now, connector.public_key())?;
//! let accepted = connector.accept_initiation(now, client.public_key(), &initiation, far)?;
//! client.accept_response(now, to_connector, &accepted.response, near)?;
//!
//! // From here on everything is a `Transmit` with the datagram for that path.
//! let Output::Transmit(first) = client.poll_output() else { panic!("the first packet proves the key") };
//! assert_eq!(first.path, near);
//! # Ok(())
//! # }
//! ```

mod bind;
mod direct;
mod engine;
mod gotatun_engine;
mod inner;
mod key;
mod path;
mod peer;
mod timers;
mod tunnels;

pub use bind::{BindMessage, BoundPair, MAX_NAME_LEN, SYNTHETIC_V4, SYNTHETIC_V6};
pub use direct::{
    BASE_MTU, Candidate, CandidateKind, CandidateRefused, LocalAddress, MAX_CANDIDATES, MIN_PROBE_LEN,
    MessageError, MoveReason, OneWay, PairReport, PathMessage, Surroundings,
};
pub use engine::{Engine, Initiation, LocalIndex, OpenError, OpenSink, Response};
pub use gotatun_engine::GotatunEngine;
pub use key::{WireGuardPrivateKey, WireGuardPublicKey};
pub use path::Path;
pub use peer::PeerId;
pub use timers::TimeoutReason;
pub use tunnels::{
    Accepted, Count, DropReason, Event, MAX_INNER_PACKET, MAX_PEERS, MAX_PENDING_OUTPUTS, MAX_QUEUED_PACKETS,
    Output, PingId, SealError, Timeout, Traffic, Transmit, TunnelError, Tunnels,
};
