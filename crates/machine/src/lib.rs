//! The machine side of TUN mode: one interface, its addresses and routes, the machine's resolver settings, and the
//! process that takes all of it back.
//!
//! This crate owns: making the interface, which routes may lead into it, what `/etc/resolv.conf` says meanwhile, the
//! journal from which it is restored, and the small privileged process, the *guardian*, that does these things on
//! behalf of a worker without privileges. It refuses to know: tunnels, resources, policy, and what a packet or a
//! question means.
//!
//! Two processes:
//!
//! ```text
//! guardian (privileged) ──starts──► worker (the client; no capability, no new privileges)
//!     │  Unix socket: seat (interface and DNS sockets as descriptors) ──►
//!     │                              ◄── which routes and domains are wanted
//!     │                                  what came of it ──►
//!     └─ routes, resolv.conf, journal
//! ```
//!
//! A connector in kernel mode has the same two processes ([`prepare_site`]): its guardian makes the interface, one table of
//! nftables that masquerades what comes out of it, and IPv4 forwarding where it is off, and takes all of it back.
//!
//! The interface lives as long as the worker holds its descriptor: routes and addresses go with it, whoever dies. What
//! does not go by itself is `/etc/resolv.conf`: the guardian puts it back when the worker is gone, and if the guardian
//! is killed too, the next start or [`cleanup`] does, from the journal.

mod confine;
mod error;
mod guardian;
mod journal;
mod link;
mod message;
mod netlink;
mod offload;
mod plan;
mod resolver;
mod site;
mod tun;

pub use confine::{Privileges, confine, may_administer, privileges, restrain};
pub use error::{GuardianError, Unavailable};
pub use guardian::{Cleaned, Ended, Options, Prepared, cleanup, prepare};
pub use journal::private_directory;
pub use link::{GuardianSays, LinkError, Seat, SiteSeat, WorkerVoice, take_seat, take_site_seat};
pub use message::{
    Applied, Conflict, DnsMode, DnsStanding, FromGuardian, FromWorker, MAX_FRAME, MessageError, Network,
    SeatFacts,
};
pub use offload::{Coalescer, Offload};
pub use plan::{KnownKind, KnownRoute, Plan, choose_range, plan};
pub use resolver::conf::{ResolvConf, render};
pub use site::{PreparedSite, SiteFacts, SiteOptions, cleanup_sites, prepare_site};
pub use tun::{PacketBatch, Tun};
