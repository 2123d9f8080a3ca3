//! The networks of docs/nat-expected.md, by their names there.

use anyhow::{Result, bail};
use std::{fmt, str::FromStr};

/// What stands between a host and the internet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing.
    Open,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address and port-dependent filtering.
    Home,
    /// Address and port-dependent mapping and filtering.
    Symmetric,
    /// Two of `home` in a row.
    Cgn,
    /// `home` without UDP.
    UdpBlocked,
    /// A stateful IPv6 firewall, and no IPv4.
    Ipv6Only,
    /// `symmetric` for IPv4, and beside it a stateful IPv6 firewall.
    DualStack,
}

impl Kind {
    /// In the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Open,
        Self::FullCone,
        Self::Home,
        Self::Symmetric,
        Self::Cgn,
        Self::UdpBlocked,
        Self::Ipv6Only,
        Self::DualStack,
    ];

    /// The routers that the table has a client and a connector on one LAN behind.
    pub const LANS: [Self; 3] = [Self::Home, Self::Symmetric, Self::UdpBlocked];

    /// Its name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::Home => "home",
            Self::Symmetric => "symmetric",
            Self::Cgn => "cgn",
            Self::UdpBlocked => "udp-blocked",
            Self::Ipv6Only => "ipv6-only",
            Self::DualStack => "dual-stack",
        }
    }

    /// Whether two hosts have an address family in common.
    pub fn can_address(self, other: Self) -> bool {
        (self == Self::Ipv6Only) == (other == Self::Ipv6Only)
            || self == Self::DualStack
            || other == Self::DualStack
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|kind| kind.name() == word) {
            Some(kind) => Ok(kind),
            None => bail!("unknown network {word:?}"),
        }
    }
}

/// Which way packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Between the two.
    Direct,
    /// Through the PoP, both by UDP.
    Relay,
    /// Through the PoP, at least one side by TCP 443.
    Tcp,
}

impl Path {
    /// Its word in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Path {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        match [Self::Direct, Self::Relay, Self::Tcp].into_iter().find(|path| path.name() == word) {
            Some(path) => Ok(path),
            None => bail!("unknown path {word:?}"),
        }
    }
}

/// A cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// Client and connector each in a network of their own.
    Apart {
        /// The client's network.
        client: Kind,
        /// The connector's network.
        connector: Kind,
    },
    /// Both behind one router.
    Lan(Kind),
    /// Each in a network of its own behind one router, which keeps the two apart and hairpins.
    Rooms,
}

impl Cell {
    /// Every cell, in the table's order.
    pub fn all() -> impl Iterator<Item = Self> {
        let apart = Kind::ALL
            .into_iter()
            .flat_map(|client| Kind::ALL.into_iter().map(move |connector| Self::Apart { client, connector }));
        apart.chain(Kind::LANS.into_iter().map(Self::Lan)).chain([Self::Rooms])
    }

    /// Whether this side of the relay has no UDP.
    pub fn blocked(self) -> Blocked {
        let (client, connector) = self.kinds();
        Blocked { client: client == Kind::UdpBlocked, connector: connector == Kind::UdpBlocked }
    }

    /// The client's network and the connector's.
    pub const fn kinds(self) -> (Kind, Kind) {
        match self {
            Self::Apart { client, connector } => (client, connector),
            Self::Lan(kind) => (kind, kind),
            Self::Rooms => (Kind::Home, Kind::Home),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart { client, connector } => write!(formatter, "client={client} connector={connector}"),
            Self::Lan(kind) => write!(formatter, "lan={kind}"),
            Self::Rooms => formatter.write_str("rooms=hairpin"),
        }
    }
}

/// Which sides have no UDP to the PoP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// The client.
    pub client: bool,
    /// The connector.
    pub connector: bool,
}
