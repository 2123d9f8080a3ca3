//! The point of presence.
//!
//! This crate owns: proof of source addresses, registration, introduction, the relay and the
//! admission in front of them. It refuses to know: policies, grants, what is inside a tunnel or a
//! sealed frame, databases, DNS, HTTP. A PoP holds no truth: what it has on disk is signed by
//! others, and it may be killed at any time.

pub mod core;
#[cfg(test)]
mod fixture;
mod shell;

pub use core::sessions::{MaterialError, PopMaterial};
pub use shell::{
    FrontCounters, Pop, PopError, PopOptions, PopStatus, STATUS_SOCKET, ShellCounters, StreamSnapshot,
    TcpFrontOptions,
};
