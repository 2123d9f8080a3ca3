//! Asks the gateway for a port that leads in from outside: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD 1 and 2.
//!
//! **Owns**: the formats of the three protocols, which of them is asked when, what it may cost (nine packets in a
//! network that answers none), renewal, the gateway's reboots, and giving the mapping back.
//!
//! **Refuses to know**: what a mapping is used for, who may use it, and every host but the gateway: an answer
//! from anywhere else counts for nothing, and no URL is followed to anywhere else.
//!
//! [`PortMapper`] is the core, without sockets or clocks; [`shell`] is the tokio task that moves its packets.
//!
//! ```
//! use portmap::{Network, Output, PortMapper, Protocols};
//! use std::time::Instant;
//!
//! let now = Instant::now();
//! let mut mapper = PortMapper::new([7; 32], Protocols::ALL, now);
//! let network =
//!     Network { gateway: [192, 168, 1, 1].into(), local: [192, 168, 1, 20].into(), port: 51820 };
//! mapper.set_network(now, Some(network));
//! let Output::Send { to, datagram } = mapper.poll_output() else { panic!("PCP is asked first") };
//! assert_eq!(to, "192.168.1.1:5351".parse().unwrap());
//! assert_eq!(datagram.len(), 60);
//! ```

pub mod epoch;
pub mod http;
mod keeper;
mod mapper;
pub mod mapping;
pub mod natpmp;
pub mod pcp;
pub mod route;
pub mod shell;
pub mod ssdp;
pub mod upnp;

pub use keeper::Keeper;
pub use mapper::{
    Event, HttpFailure, HttpToken, Network, Output, PortMapper, Refused, Timeout, TimeoutReason,
};
pub use mapping::{Mapping, Protocol, Protocols, Reach};
pub use shell::{Family, PortMap, Settings, run};
