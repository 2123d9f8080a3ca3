//! What the flow log says of one flow.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use trust::{Owner, UnixMs};
use wire::{ConnectorId, DeviceId, OrganizationId, PopId, Refusal, ResourceId};

/// How a flow fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was carried until one side ended it.
    Allowed,
    /// It was not carried.
    Denied,
    /// It was carried and cut off: access was withdrawn.
    Withdrawn,
    /// It was allowed and the target could not be reached.
    Failed,
}

/// One flow, as one JSON object on one line. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Unique for this connector: when its process began, and a count.
    pub id: String,
    /// The organization.
    pub organization: OrganizationId,
    /// Who enforced.
    pub connector: ConnectorId,
    /// Whose flow it was.
    pub device: DeviceId,
    /// The device's name at the time.
    pub device_name: String,
    /// Who owns the device.
    pub owner: Owner,
    /// The owner's name at the time.
    pub owner_name: String,
    /// The resource that the destination belongs to, if any.
    pub resource: Option<ResourceId>,
    /// Its name at the time.
    pub resource_name: Option<String>,
    /// `tcp`, `udp`, `icmp`, or the number of a protocol that is not forwarded.
    pub protocol: String,
    /// What the client asked for, inside the tunnel; the port is 0 where the protocol has none.
    pub destination: SocketAddr,
    /// The name that the client asked for, where it bound one to the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the connector connected to.
    pub target: Option<SocketAddr>,
    /// The PoP that relayed.
    pub relay: Option<PopId>,
    /// How it fared.
    pub verdict: Verdict,
    /// Why: a [`Refusal`]'s label for what was not carried or cut off, else how it ended.
    pub reason: String,
    /// The same for people.
    pub explanation: String,
    /// Bytes from the client to the target.
    pub bytes_up: u64,
    /// Bytes from the target to the client.
    pub bytes_down: u64,
    /// When it began.
    pub started: UnixMs,
    /// When it ended.
    pub ended: UnixMs,
}

impl FlowRecord {
    /// Whether this record says that `refusal` was the reason.
    #[must_use]
    pub fn is_because_of(&self, refusal: Refusal) -> bool {
        self.reason == refusal.label()
    }
}
