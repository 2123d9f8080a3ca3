//! The network: hosts, links, translators, firewalls, and one queue of what is under way.

mod firewall;
mod link;
mod nat;
mod network;
mod random;

pub use firewall::Firewall;
pub use link::{Copies, LinkRules};
pub use nat::{Behaviour, Hairpin, Mapping, Nat, NatDrop, NatRules, Ports, Refresh};
pub use network::{Arrival, Family, Gateway, HostId, Loss, Network, RealmId, Udp};
pub use random::Random;

/// Virtual time, from the start of the world.
pub type Time = std::time::Duration;
