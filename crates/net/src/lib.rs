//! UDP in batches: the I/O under every PoP, connector and client.
//!
//! This crate owns the system calls: binding, the pair of sockets that share a PoP's port, the
//! kernel's filter between them, segmentation offload in both directions. It refuses to know what
//! a datagram means beyond its first byte ([`wire::classify`]).
//!
//! One datagram is one item everywhere in the interface. That the kernel hands over up to 64 of them
//! in one buffer, and takes as many, is hidden in [`RecvBatch`] and [`SendBatch`]: batching system
//! calls alone gains a tenth, segmentation offload gains twenty times (`docs/adr/0002`).
//!
//! ```
//! use net::{RecvBatch, SendBatch, UdpPort};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let here = UdpPort::bind("127.0.0.1:0".parse()?)?;
//! let there = UdpPort::bind("127.0.0.1:0".parse()?)?;
//! let mut out = SendBatch::new();
//! out.push(there.local_addr(), b"ping");
//! assert_eq!(here.send_batch(&mut out).await.sent, 1);
//! let mut incoming = RecvBatch::for_agent();
//! there.recv_batch(&mut incoming).await?;
//! let datagram = incoming.iter().next().ok_or("one datagram")?;
//! assert_eq!((datagram.from, datagram.payload), (here.local_addr(), &b"ping"[..]));
//! # Ok(())
//! # }
//! ```

pub mod clock;
mod interfaces;
mod pair;
mod port;
mod recv;
mod send;
mod streams;

pub use interfaces::{InterfaceAddress, Interfaces, NetworkWatch};
pub use pair::{PortPair, bind_pair};
pub use port::{BindError, BindStep, UdpPort, bind_hint};
pub use recv::{Datagram, DatagramMut, RecvBatch};
pub use send::{SendBatch, SendReport};
pub use streams::{StreamLinks, StreamTarget, StreamTotals};
