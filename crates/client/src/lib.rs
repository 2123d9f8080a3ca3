//! The client: the agent on a person's or service's machine.
mod dial;
pub mod proxy;
mod target;
pub use dial::{Dial, DialError};
pub use target::{Host, Target, TargetError};
