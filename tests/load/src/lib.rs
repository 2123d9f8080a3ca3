//! A PoP process under load, and the load.
//!
//! This crate owns: an installation made on the spot (keys, chain, thousands of certificates), the production PoP
//! process in a state directory of that installation, what it costs (processor time, memory, descriptors), and many
//! agents' sessions on one socket ([`Crowd`]): the production dialler, and an address of its own for each. It refuses
//! to know pass levels: benches and flood tests have those.
//!
//! Agents here register and send keepalives and nothing else; whole clients are in the crate `load`.
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

mod cost;
mod crowd;
mod figure;
mod flood;
mod installation;
pub mod lab;
mod process;
mod socket;

pub use cost::{Cost, cost_of};
pub use crowd::{Crowd, Outcome, Tally};
pub use figure::{Figure, Goal};
pub use flood::{Flood, FloodPlan};
pub use installation::{AgentKind, Agents, Installation};
pub use process::{Place, PopProcess, keep_off};
pub use socket::{Arrived, WideSender, WideSocket};

use std::time::SystemTime;
use trust::UnixMs;

/// The wall clock.
#[must_use]
pub fn wall() -> UnixMs {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMs::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The middle of some measurements, the least and the greatest.
///
/// # Panics
/// Without measurements.
#[must_use]
pub fn median(of: &[f64]) -> (f64, f64, f64) {
    let mut sorted = of.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.last().copied().expect("something was measured");
    (sorted[sorted.len() / 2], sorted[0], last)
}
