//! What the command line asks a running client, over a Unix socket that only its user can open: one JSON
//! object a line each way, one request a connection.

mod client;
mod server;
mod tun;

pub use client::{ControlClient, ControlError};
pub(crate) use server::serve;
pub use tun::{TunDns, TunState, TunStatus};

use crate::target::Target;
use policy::{Explanation, Mode};
use std::{net::SocketAddr, path::PathBuf};
use trust::{Identity, UnixMs};
use wire::{ConnectorId, PopId, Refusal, ResourceId};

/// Longest line in either direction: 20,000 resources of 400 bytes.
pub(crate) const MAX_LINE: usize = 8 * 1024 * 1024;
/// Longest request.
pub(crate) const MAX_REQUEST: usize = 8 * 1024;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum LocalRequest {
    /// How everything stands.
    Status,
    /// What this device may reach.
    Resources,
    /// Why a resource can or cannot be reached.
    Why {
        /// As the person typed it.
        resource: String,
    },
    /// How long it takes to the connector of a resource and back, by the way that data takes now.
    Ping {
        /// As the person typed it.
        resource: String,
    },
    /// How this machine's network looks from here.
    Netcheck,
    /// Forward a local port.
    ForwardAdd {
        /// Where to listen; port 0 takes a free one.
        listen: Listen,
        /// Where connections go.
        target: Target,
    },
    /// Stop forwarding a local port.
    ForwardRemove {
        /// Where it listens.
        listen: Listen,
    },
    /// The ports that are forwarded.
    ForwardList,
    /// Ask for a new grant and certificate now.
    Renew,
    /// End the client.
    Down,
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum LocalAnswer {
    /// To [`LocalRequest::Status`].
    Status(Box<Status>),
    /// To [`LocalRequest::Resources`].
    Resources {
        /// Ordered by name.
        resources: Vec<ResourceStatus>,
    },
    /// To [`LocalRequest::Why`].
    Why(WhyAnswer),
    /// To [`LocalRequest::Ping`].
    Ping(PingAnswer),
    /// To [`LocalRequest::Netcheck`].
    Netcheck(Box<NetcheckAnswer>),
    /// To the three about forwards: what is forwarded now.
    Forwards {
        /// Ordered by address.
        forwards: Vec<Forward>,
    },
    /// Done, or begun.
    Done,
    /// Not done: the client is ending.
    Ending,
    /// Not done.
    Error {
        /// In a sentence.
        message: String,
    },
}

/// Where connections that are forwarded come in; in JSON its text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listen {
    /// A port on a loopback address: every user of this machine can connect to it.
    Tcp(SocketAddr),
    /// A Unix socket that only its owner can open, by its absolute path.
    Unix(PathBuf),
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl serde::Serialize for Listen {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tcp(address) => s.collect_str(address),
            Self::Unix(path) => path.serialize(s),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        if text.starts_with('/') {
            return Ok(Self::Unix(text.into()));
        }
        let expected = || serde::de::Error::custom(format!("expected ADDRESS:PORT or /PATH, got {text:?}"));
        text.parse().map(Self::Tcp).map_err(|_| expected())
    }
}

/// One forwarded port.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Forward {
    /// Where it listens.
    pub listen: Listen,
    /// Where connections go.
    pub target: Target,
}

/// How everything stands.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Status {
    /// The process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The device's name in certificates.
    pub identity: Identity,
    /// The device's name for people, from the grant.
    pub device_name: Option<String>,
    /// Whom one is signed in as, from the grant.
    pub owner: Option<String>,
    /// The organization's name.
    pub organization: String,
    /// `fresh`, `stale` or `isolated`; stale is not unhealthy.
    pub freshness: String,
    /// How long ago a controller made the newest beacon heard; none in this run yet.
    pub control_last_heard_ms: Option<u64>,
    /// Until when access lasts if no controller is heard again: the earlier of grant and certificate.
    pub access_until: UnixMs,
    /// Whether that is over.
    pub access_expired: bool,
    /// Whether the PoP ended the last session because this device was revoked.
    #[serde(default)]
    pub revoked: bool,
    /// The client's own time.
    pub now: UnixMs,
    /// The slice in use; none before the first.
    pub slice: Option<SliceStatus>,
    /// The PoPs of the slice.
    pub pops: Vec<PopView>,
    /// Why the last session ended or could not be had, while none is registered.
    pub last_session_problem: Option<String>,
    /// The proxies.
    pub proxy: ProxyStatus,
    /// Forwarded ports.
    pub forwards: Vec<Forward>,
    /// What this device may reach, ordered by name.
    pub resources: Vec<ResourceStatus>,
    /// Connections that stand.
    pub flows: usize,
    /// Streams to PoPs by TCP 443.
    #[serde(default)]
    pub streams: net::StreamTotals,
    /// Tunnels that stand, by the kind of path that their packets take.
    #[serde(default)]
    pub paths: PathCounts,
    /// How often packets took another way.
    #[serde(default)]
    pub moves: crate::core::Moves,
    /// Packets and bytes by kind of path.
    #[serde(default)]
    pub traffic: TrafficView,
    /// The interface of TUN mode; none where nobody asked for it.
    #[serde(default)]
    pub tun: Option<TunStatus>,
}

/// Tunnels by the kind of path that packets take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct PathCounts {
    /// Straight to the connector.
    pub direct: usize,
    /// By a relay, over UDP.
    pub relay: usize,
    /// By a relay, over TCP 443.
    pub tcp: usize,
}

/// The slice in use.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SliceStatus {
    /// (incarnation, version).
    pub version: String,
    /// When a controller made it.
    pub made: UnixMs,
    /// Its hard end.
    pub expires: UnixMs,
}

/// A PoP, as this client stands with it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PopView {
    /// Which.
    pub id: PopId,
    /// `HOST:PORT` of the slice.
    pub address: String,
    /// Where it stands.
    pub region: String,
    /// `idle`, `resolving`, `connecting`, `registered` or `leaving`.
    pub session: String,
    /// `udp` or `tcp` (443); none without a session.
    pub transport: Option<String>,
    /// This device's address as the PoP sees it.
    pub observed: Option<SocketAddr>,
    /// Failures in a row.
    pub failures: u32,
}

/// Where the proxies listen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProxyStatus {
    /// SOCKS 5 and HTTP, with the credential.
    pub address: SocketAddr,
    /// The file with the proxy's URL and credential, which only its owner reads.
    pub url_file: PathBuf,
    /// SOCKS 5 and HTTP without a credential, for this user only.
    pub socket: PathBuf,
}

/// Whether a resource can be reached now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachable {
    /// A tunnel to its site stands.
    Yes,
    /// The last try failed.
    No,
    /// Nobody tried in this run, or the tunnel is being opened.
    Untried,
}

/// A resource and the way to it.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ResourceStatus {
    /// Its id.
    pub id: ResourceId,
    /// Its name.
    pub name: String,
    /// Its alias.
    pub alias: Option<String>,
    /// Where it is.
    pub address: String,
    /// Its TCP ports.
    pub ports: Vec<String>,
    /// Its site's name.
    pub site: String,
    /// What isolation of its connector does.
    pub mode: Mode,
    /// Whether it is strict and, as far as this device hears the control plane, its connector takes no new connection to
    /// it.
    #[serde(default)]
    pub closed_by_isolation: bool,
    /// Whether it can be reached now.
    pub reachable: Reachable,
    /// Why not, when the last try failed.
    pub reason: Option<String>,
    /// By which connector.
    pub connector: Option<ConnectorId>,
    /// By which way packets go.
    pub path: Option<PathView>,
    /// The round trip in milliseconds: of the direct path's last proofs, else of the last introduction through
    /// PoP and connector.
    pub round_trip_ms: Option<f64>,
    /// Until when access lasts if no controller is heard again.
    pub access_until: UnixMs,
}

/// A way.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PathView {
    /// `direct`, `relay` by UDP, or `tcp`: the relay by TCP 443.
    pub kind: String,
    /// The PoP whose relay is in use or kept warm.
    pub pop: Option<PopId>,
    /// Where the packets go, when they go straight to the connector.
    pub remote: Option<SocketAddr>,
    /// Since when, in milliseconds before now.
    pub since_ms: Option<u64>,
    /// Why this way: the last thing that changed it, or why packets never left the relay: `looking`, `no_candidates`,
    /// `unanswered`, `one_way`.
    pub why: Option<String>,
    /// What was tried to reach the connector directly.
    pub tried: Vec<TriedView>,
}

/// An address of the connector that was tried.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct TriedView {
    /// The address.
    pub address: SocketAddr,
    /// Whether the connector named it; else its packets came from there.
    pub told: bool,
    /// Probes sent.
    pub probes: u64,
    /// How many were answered.
    pub proofs: u64,
    /// The round trip of the answers, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// How long ago anything of the connector's came from there.
    #[serde(default)]
    pub heard_ms: Option<u64>,
    /// `to_here`: the connector is heard from there and answers nothing; `from_here`: it gets what is sent there, and its
    /// answers do not come. None when packets go both ways, or none is known to.
    #[serde(default)]
    pub one_way: Option<String>,
}

/// What came of one ping.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PingAnswer {
    /// The connector's name; empty when there is none.
    pub connector: String,
    /// `direct`, `relay` or `tcp`; none when there is no way.
    pub kind: Option<String>,
    /// Where the packets go, when they go straight to the connector.
    pub remote: Option<SocketAddr>,
    /// The round trip in milliseconds; none when no answer came within two seconds.
    pub round_trip_ms: Option<f64>,
    /// Why there is no way.
    pub fault: Option<String>,
}

/// What the running client knows of its network.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NetcheckAnswer {
    /// The UDP address that everything leaves by.
    pub local: SocketAddr,
    /// The addresses of this machine's interfaces.
    #[serde(default)]
    pub interfaces: Vec<std::net::IpAddr>,
    /// How often in the last minute PoPs have seen this device at another address than before.
    #[serde(default)]
    pub address_changes: usize,
    /// What it tells its peers: kind (`local`, `observed`, `mapped`) and address.
    pub candidates: Vec<(String, SocketAddr)>,
    /// The PoPs, and what they see.
    pub pops: Vec<PopView>,
    /// The connectors that tunnels stand to, and what they see.
    pub connectors: Vec<ConnectorView>,
    /// What went and came by each kind of path.
    pub traffic: TrafficView,
}

/// A connector that a tunnel stands to.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ConnectorView {
    /// Its name.
    pub name: String,
    /// The way to it.
    pub path: Option<PathView>,
    /// Where it sees this device, by its answers to direct probes.
    pub sees: Vec<SocketAddr>,
}

/// Packets and bytes by kind of path, since the client started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct TrafficView {
    /// Packets sent by relays.
    pub relay_packets_sent: u64,
    /// Their bytes.
    pub relay_bytes_sent: u64,
    /// Packets from relays.
    pub relay_packets_received: u64,
    /// Their bytes.
    pub relay_bytes_received: u64,
    /// Packets sent straight to connectors.
    pub direct_packets_sent: u64,
    /// Their bytes.
    pub direct_bytes_sent: u64,
    /// Packets straight from connectors.
    pub direct_packets_received: u64,
    /// Their bytes.
    pub direct_bytes_received: u64,
}

impl From<tunnel::Traffic> for TrafficView {
    fn from(traffic: tunnel::Traffic) -> Self {
        Self {
            relay_packets_sent: traffic.relay_sent.packets,
            relay_bytes_sent: traffic.relay_sent.bytes,
            relay_packets_received: traffic.relay_received.packets,
            relay_bytes_received: traffic.relay_received.bytes,
            direct_packets_sent: traffic.direct_sent.packets,
            direct_bytes_sent: traffic.direct_sent.bytes,
            direct_packets_received: traffic.direct_received.packets,
            direct_bytes_received: traffic.direct_received.bytes,
        }
    }
}

/// Who explains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhySource {
    /// This device's own slice.
    Slice,
    /// A controller.
    Controller,
    /// What can be known here, because no controller answered.
    Local,
}

/// Why a resource can or cannot be reached.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct WhyAnswer {
    /// As asked.
    pub asked: String,
    /// Who explains.
    pub source: WhySource,
    /// Whether every check held.
    pub holds: bool,
    /// The checks.
    pub explanation: Explanation,
    /// Why no controller answered, when it was asked and did not.
    pub controller: Option<Refusal>,
}
