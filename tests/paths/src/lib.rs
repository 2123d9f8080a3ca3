//! A seeded virtual network that runs the production path core: NATs by RFC 4787, delay, loss, reordering,
//! duplication, one-way partitions, roaming, restarts. One seed decides everything, and the same seed gives the
//! same trace.
//!
//! Real: every decision of [`tunnel`]. Replaced: the cipher ([`engine`]), the clock, the network ([`nat`],
//! [`world`]). Modelled: the PoP, as a relay between proven addresses that tells both sides where it sees them
//! ([`world`]); its own core has tests of its own.

pub mod engine;
pub mod kinds;
pub mod nat;
pub mod random;
pub mod scenarios;
pub mod world;
