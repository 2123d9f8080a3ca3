//! What the core asks its policy, and what it is told. `slice.rs` answers from the connector's slice.

use policy::Destination;
use std::net::IpAddr;
use trust::{Grant, RevocationSet, UnixMs};
use wire::{Refusal, ResourceId};

/// How old the newest word of a controller is. Only strict resources ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contact {
    /// A beacon of at most 60 s.
    Connected,
    /// None for longer: strict resources take no new flows.
    Isolated,
    /// None for the grace of running flows on top (15 min): strict resources carry nothing.
    IsolatedBeyondGrace,
}

/// Whether what is taken for the time may be wrong by far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeWord {
    /// It is as good as it gets.
    Known,
    /// The process has just started, and the first word of a controller is on its way.
    Awaited,
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowAge {
    /// A flow that wants to begin.
    New,
    /// One that was allowed before.
    Running,
}

/// May this device go there?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The device's grant, verified.
    pub grant: &'a Grant,
    /// What is struck; memberships in it do not count.
    pub revocations: &'a RevocationSet,
    /// Where to: a real address, one that is derived from a resource, or a name, and by which protocol.
    pub destination: Destination<'a>,
    /// Whether controllers are heard.
    pub contact: Contact,
    /// Whether it is carried already.
    pub age: FlowAge,
}

/// A resource, as the flow log names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceName {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: String,
}

/// What a destination stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An address that the resource names literally: nothing more is asked about it.
    Literal(IpAddr),
    /// An address out of a range that the resource names: not one of the refused ones.
    InRange(IpAddr),
    /// A name, resolved in the site, that reaches only the site's prefixes and nothing refused.
    Name(String),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// Which resource the destination belongs to, whether or not it may be reached.
    pub resource: Option<ResourceName>,
    /// What to connect to, or why not.
    pub verdict: Result<Target, Refusal>,
    /// For people.
    pub explanation: String,
}

/// A policy that can be asked.
pub trait Rules {
    /// Decides.
    fn decide(&self, question: &Question<'_>) -> Ruling;
    /// Whether an address is in the site's declared prefixes.
    fn in_site(&self, address: IpAddr) -> bool;
}

/// What the core knows at the moment of a call; the caller's, who keeps it current.
pub struct Knowledge<'a, R> {
    /// The keys that sign grants.
    pub bundle: &'a trust::TrustBundle,
    /// What is struck.
    pub revocations: &'a RevocationSet,
    /// The policy; none before a first valid slice.
    pub rules: Option<&'a R>,
    /// Wall time: max(floor + elapsed, clock) when isolated.
    pub wall: UnixMs,
    /// How good it is.
    pub time: TimeWord,
    /// Whether controllers are heard.
    pub contact: Contact,
}

impl<R> Clone for Knowledge<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Knowledge<'_, R> {}
