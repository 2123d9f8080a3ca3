//! How TUN mode stands.

use machine::{Conflict, DnsMode, Privileges};
use policy::Prefix;
use std::net::{IpAddr, SocketAddr};

/// Whether programs reach resources without a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TunState {
    /// They do.
    On,
    /// The guardian has not answered yet.
    Starting,
    /// They do not, though somebody asked for it: the proxy works.
    Unavailable,
}

/// How TUN mode stands.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TunStatus {
    /// In a word.
    pub state: TunState,
    /// Why it is not on.
    pub reason: Option<String>,
    /// The interface's name.
    pub interface: Option<String>,
    /// The privileged process that puts everything back.
    pub guardian: Option<u32>,
    /// The interface's addresses.
    pub addresses: Vec<IpAddr>,
    /// Where the addresses of private names are taken from.
    pub synthetic: Vec<Prefix>,
    /// What leads into the interface.
    pub routes: Vec<Prefix>,
    /// What does not, or takes something from another network, and why.
    pub conflicts: Vec<Conflict>,
    /// Names.
    pub dns: Option<TunDns>,
    /// What this process may do.
    pub privileges: Option<Privileges>,
    /// What is not as one might expect, in sentences.
    pub notes: Vec<String>,
}

/// How names are answered.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TunDns {
    /// How questions come in.
    pub mode: DnsMode,
    /// Where they come in.
    pub address: SocketAddr,
    /// Who is asked for everything that is not private.
    pub upstreams: Vec<SocketAddr>,
    /// Search domains in use.
    pub search: Vec<String>,
    /// How often another program wrote the settings while we ran, and ours were put back.
    pub rewritten: u32,
    /// What is not as it should be.
    pub note: Option<String>,
    /// Questions about private names answered.
    pub answered: u64,
    /// Questions passed on.
    pub passed_on: u64,
    /// Questions that no server answered in time.
    pub unanswered: u64,
}

impl TunStatus {
    /// Asked for, and not to be had.
    #[must_use]
    pub fn unavailable(reason: impl Into<String>) -> Self {
        Self {
            state: TunState::Unavailable,
            reason: Some(reason.into()),
            interface: None,
            guardian: None,
            addresses: Vec::new(),
            synthetic: Vec::new(),
            routes: Vec::new(),
            conflicts: Vec::new(),
            dns: None,
            privileges: None,
            notes: Vec::new(),
        }
    }
}
