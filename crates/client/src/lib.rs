//! The client: the agent on a person's or service's machine.
//!
//! This crate owns: which connector leads to a resource and when a tunnel to it is opened ([`core`], no
//! I/O), the SOCKS 5 and HTTP proxies and forwarded ports ([`proxy`]), and the daemon that holds them
//! together and answers the command line ([`Client`], [`ControlClient`]). It refuses to know how a device
//! was enrolled, and asks a controller nothing but through its agent: it starts and works from disk.
//!
//! ```
//! use client::Target;
//! let target: Target = "Wiki.Example.:443".parse().expect("a host and a port");
//! assert_eq!(target.to_string(), "wiki.example:443");
//! ```

mod control;
pub mod core;
mod daemon;
mod dial;
pub mod proxy;
mod stream;
mod target;

pub use control::{
    ConnectorView, ControlClient, ControlError, Forward, Listen, LocalAnswer, LocalRequest, NetcheckAnswer,
    PathCounts, PathView, PingAnswer, PopView, ProxyStatus, Reachable, ResourceStatus, SliceStatus, Status,
    TrafficView, TriedView, TunDns, TunState, TunStatus, WhyAnswer, WhySource,
};
pub use daemon::{Client, ClientError, ClientOptions, Dialler, MachineSide, stored_state};
pub use dial::{Dial, DialError};
pub use stream::FlowStream;
pub use target::{Host, Target, TargetError};
