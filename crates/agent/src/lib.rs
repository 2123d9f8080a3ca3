//! What a client and a connector have in common, sans-IO: being attached to PoPs and holding signed state.
//!
//! This crate owns: which PoPs an agent uses and when it tries them, registration and keepalives, the
//! documents an agent holds (certificate, grant, slice, trust chain, revocations, newest beacon), when each is
//! renewed and whether a new one is believed, how fresh the control plane is, and introductions as far as
//! both sides of them are alike. It refuses to know: sockets, DNS, files, clocks, WireGuard, and what a
//! policy allows.
//!
//! An [`Agent`] starts from what is on disk ([`StoredState`]) and needs no controller for it: everything it
//! holds stays in force until something newer that verifies takes its place, whatever errors come in between.
//!
//! One verb set: `handle_input`, `handle_timeout`, `poll_output` until it gives [`Output::Timeout`]. The shell
//! also answers two requests: [`Output::Resolve`] by [`Agent::handle_resolved`], and [`Output::Persist`] by
//! writing the bytes to the state directory atomically. PoP addresses are host names or IP addresses; only the
//! former are asked for, and the addresses of the last answer are used when an answer does not come.
//!
//! Time: `now` is a monotonic clock that counts the time asleep ([`Agent::resumed`]); the wall clock comes by
//! [`Agent::set_wall`], about once a second. What the agent takes for the time is what controllers sign for it,
//! within bounds that no single clock moves.
//!
//! ```
//! # fn run(mut agent: agent::ClientAgent, now: std::time::Instant) {
//! use agent::{AgentEvent, Output};
//! loop {
//!     match agent.poll_output(now) {
//!         Output::Transmit { to, payload } => println!("send {} bytes to {to}", payload.len()),
//!         Output::Persist { what, bytes } => println!("write {} bytes as {what:?}", bytes.len()),
//!         Output::Resolve { pop, name } => println!("look up {name} for {pop}"),
//!         Output::Event(AgentEvent::SliceChanged) => println!("{:?}", agent.slice().map(|s| &s.header)),
//!         Output::Event(event) => println!("{event:?}"),
//!         Output::Timeout { at, reason } => break println!("{reason} at {at:?}"),
//!     }
//! }
//! # }
//! ```

mod clock;
mod control;
mod core;
mod documents;
mod jitter;
mod kind;
mod links;
mod messages;
mod opens;
mod order;
mod output;
mod relay_link;
mod stored;
mod strikes;

pub use crate::core::{Agent, ClientAgent, ConnectorAgent};
pub use clock::Freshness;
pub use kind::AgentSlice;
pub use links::{Asked, PopPhaseWord, PopStatus, Transport};
pub use order::pop_order;
pub use output::{AgentEvent, AgentStats, OpenError, Output, Persisted, RequestError, RequestSeq};
pub use relay_link::{RelayInput, RelayLinks, RelayRefused};
pub use stored::{StartError, StoredState};
