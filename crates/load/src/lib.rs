//! Thousands of production clients in one thread: the honest load of the drills, and the dishonest.
//!
//! This crate owns: clients' sockets (one each, as on machines of their own), when each starts, dials, restarts and
//! ends, and what they saw ([`Report`]). It refuses to know what a drill wants to prove. The clients are
//! [`client::core::ClientNode`], the very core that `tidegate up` runs; what happens on schedule happens whether or
//! not what came before has ended (open loop), so that a slow system cannot slow its own measurement down.
//!
//! ```no_run
//! use load::{Fleet, Order};
//! let mut fleet = Fleet::open("/tmp/states".as_ref(), 0..100, "echo:7".parse()?, 42)?;
//! fleet.order(Order::Hold { from: 0, to: 100, per_second: 50 });
//! while fleet.up() < 100 {
//!     fleet.turn(std::time::Duration::from_millis(100))?;
//! }
//! println!("{:?}", fleet.report());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod errand;
mod fleet;
mod member;
mod order;
mod waits;

pub use fleet::{Fleet, FleetError};
pub use order::{LONG_WAIT_MS, Order, Report, Silences, Visit};
pub use waits::Waits;
