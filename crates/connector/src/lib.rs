//! The connector: the agent in a site, outbound only, and the policy enforcement point.
//!
//! This crate owns: verifying introductions, deciding each flow by the connector's own slice, ending what
//! is no longer allowed, the flow log, and carrying bytes between tunnels and the site. It refuses to
//! know: databases, HTTP, how a connector is enrolled. It believes a PoP in nothing and needs no
//! controller to start or to go on.
//!
//! `core` decides, sans-IO; `forward` and the shell move bytes.

mod core;
mod disk;
mod forward;
mod log;
mod node;
mod record;
mod shell;
mod ship;
mod spool;
mod status;
mod tell;

pub use crate::core::{
    ConnectorCore, CoreStatus, DatagramFault, DatagramId, DatagramKind, DatagramNews, DatagramRequest,
    DialFault, Ending, NotAConnector, OpenFault, Parts as ConnectorParts, PassageId, SiteSide,
};
pub use node::{Node as ConnectorNode, NodeStats, Output as ConnectorOutput};
pub use record::{FlowRecord, Verdict};
pub use shell::{Connector, ConnectorError, ConnectorOptions, Forwarding};
pub use spool::{MAX_SEGMENTS, SEGMENT_BYTES};
pub use status::{
    ConnectorStatus, ForwardingMode, ForwardingReport, PopReport, ResourceReport, STATUS_SOCKET, StatusError,
    StrictState, TrafficReport, ask_status,
};
