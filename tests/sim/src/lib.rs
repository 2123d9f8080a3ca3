//! A seeded virtual network that runs the production cores.
//!
//! This crate owns: virtual time, hosts, links, translators, and the properties that paths must have over many seeds.
//! It refuses to know: real sockets and clocks. One seed gives one run; a run that fails says how to replay it.
//!
//! [`world`] is the network, [`fast`] puts the production tunnels and the production relay into it, and
//! [`scenarios`] says what must hold.

pub mod fast;
pub mod scenarios;
pub mod stack;
pub mod throughput;
pub mod world;
