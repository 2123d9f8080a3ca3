//! The sans-IO cores: everything a PoP decides, with time and randomness injected.

pub mod admission;
mod bucket;
mod random;
pub mod relay;
pub mod sessions;
pub mod stun;

pub use bucket::Allowance;
pub use random::Seed;
