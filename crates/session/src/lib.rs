//! QUIC sessions between an agent or a controller (the dialler) and a PoP (the acceptor), sans-IO.
//!
//! This crate owns: QUIC (RFC 9000, by quinn-proto), the TLS handshake with certificates of both sides,
//! Retry on first contact, one bidirectional stream a session with frames on it, and the closing
//! codes. It refuses to know: sockets, clocks, what a frame says, and who may do what once the session
//! is up.
//!
//! Both sides have one verb set. After any call that changes something, call `poll_output` until it
//! gives [`Output::Timeout`]; hand each [`Output::Transmit`] to the socket; call `handle_timeout` at the
//! time named, or earlier.
//!
//! - [`Dialler::dial`] opens a session to one PoP, which must prove that it is that PoP.
//! - [`Acceptor`] takes sessions of devices, connectors and controllers. A source that has not proven
//!   its address gets one small Retry packet and leaves nothing behind.
//!
//! Wall time is only used to judge certificates and comes from [`Dialler::set_wall`] and
//! [`Acceptor::set_wall`]. Whether an address is fresh is decided by the monotonic clock.
//!
//! Randomness: connection ids of the acceptor and retry tokens come from the seed given. TLS key shares come
//! from the crypto provider, which takes them from the operating system; there is no seam for it.
//!
//! ```
//! # fn run(mut dialler: session::Dialler, now: std::time::Instant, pop: wire::PopId) -> Result<(), session::DialError> {
//! use session::{Event, Output};
//! let session = dialler.dial(now, pop, "203.0.113.7:443".parse().expect("an address"))?;
//! loop {
//!     match dialler.poll_output(now) {
//!         Output::Transmit { to, payload } => println!("{} bytes to {to}", payload.len()),
//!         Output::Event(Event::Connected { id, peer, .. }) => println!("{id:?} is {}", peer.identity()),
//!         Output::Event(event) => println!("{event:?}"),
//!         Output::Timeout { at, reason } => {
//!             println!("{session:?} waits for {reason} until {at:?}");
//!             break Ok(());
//!         }
//!     }
//! }
//! # }
//! ```

mod acceptor;
mod close;
mod connection_id;
mod dialler;
mod engine;
mod first_contact;
mod output;
mod tls;
mod transport;
mod vetting;

pub use acceptor::{Acceptor, AcceptorLimits, AcceptorStats};
pub use close::{CloseCode, LostReason};
pub use dialler::{DIAL_TIMEOUT, Dialler};
pub use output::{DialError, Event, Output, SendError, SessionId};
pub use tls::{IdentityError, LocalIdentity};
pub use transport::{IDLE_TIMEOUT, QUIC_V1};
pub use vetting::PeerRefused;
