//! Userspace TCP, sans-IO: the inside of a tunnel as flows of bytes; and UDP, ICMP echo and fragments as packets.
//!
//! This crate owns: reading and making packets, which IP packet belongs to which TCP flow, the TCP state of each (a kept stack, one
//! small interface a flow, so that a packet costs a look-up and never a scan), held SYNs, half-closes,
//! buffers and their bounds. It refuses to know: sockets, names, policy, who a link is. A connector
//! accepts flows here, a client dials them.
//!
//! A SYN of an unknown flow is held until its owner says [`Flows::accept`] or rejects it, so that the
//! other side learns the truth: a connection means that the target accepted.
//!
//! ```
//! use flow::{Event, FlowLimits, Flows, LinkId, Output, Read};
//! use std::time::Instant;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[allow(clippy::disallowed_methods)]
//! let now = Instant::now();
//! let mut client = Flows::new(FlowLimits::DEFAULT, 1, now);
//! let mut connector = Flows::new(FlowLimits::DEFAULT, 2, now);
//! let link = LinkId(1);
//! client.dial(now, link, "100.64.0.2:40000".parse()?, "10.0.0.5:80".parse()?)?;
//! let mut got = Vec::new();
//! while got.is_empty() {
//!     loop {
//!         match client.poll_output() {
//!             Output::Packet { bytes, .. } => connector.handle_input(now, link, &bytes)?,
//!             Output::Event { flow, event: Event::Established, .. } => {
//!                 client.write(now, flow, b"hello")?;
//!             }
//!             Output::Event { .. } => {}
//!             Output::Timeout(_) => break,
//!         }
//!     }
//!     loop {
//!         match connector.poll_output() {
//!             Output::Packet { bytes, .. } => client.handle_input(now, link, &bytes)?,
//!             // Here a connector asks its policy and connects to the target.
//!             Output::Event { flow, event: Event::Incoming { .. }, .. } => connector.accept(now, flow)?,
//!             Output::Event { flow, event: Event::Readable, .. } => {
//!                 let mut buffer = [0; 64];
//!                 while let Read::Bytes(read) = connector.read(now, flow, &mut buffer)? {
//!                     got.extend_from_slice(&buffer[..read]);
//!                 }
//!             }
//!             Output::Event { .. } => {}
//!             Output::Timeout(_) => break,
//!         }
//!     }
//! }
//! assert_eq!(got, b"hello");
//! # Ok(())
//! # }
//! ```

mod craft;
mod datagram;
mod device;
mod echo;
mod event;
mod flows;
mod fragment;
pub mod ip;
mod limits;
mod recovery;
mod socket;
mod translate;

pub use craft::{Unreachable, too_big, unreachable};
pub use datagram::{Datagram, udp};
pub use echo::{Echo, EchoKind};
pub use flows::{
    CloseReason, DropReason, Event, FlowError, FlowId, Flows, LinkId, Output, Read, Timeout, TimeoutReason,
};
pub use fragment::{Fragment, FragmentDrop, MAX_WHOLE, Reassembly, split};
pub use limits::{FLOW_MTU, FlowLimits, INNER_MTU, MAX_FLOW_MTU};
pub use translate::{clamp_mss, refusal, reset, reset_for, translate};
