//! A PoP and clients that cheat, used by production clients and connectors.
//!
//! [`world`] is a whole installation in simulated time: the production cores of clients, connectors and PoPs with real
//! TLS, QUIC and ciphers, a controller that signs, and a network that is a queue. Each PoP is the production one
//! compiled against a session layer that may cheat (`hostile-session`), so that a test says only what is different.
//!
//! This crate owns: what may be different, and what is looked at. It refuses to know: real sockets and clocks.

pub mod documents;
pub mod installation;
pub mod raw;
pub mod world;
