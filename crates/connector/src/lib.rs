//! The connector: the agent in a site, outbound only, and the policy enforcement point.
//!
//! This crate owns: verifying introductions, deciding each flow by the connector's own slice, ending what
//! is no longer allowed, the flow log, and carrying bytes between tunnels and the site. It refuses to
//! know: databases, HTTP, how a connector is enrolled. It believes a PoP in nothing and needs no
//! controller to start or to go on.
//!
//! `core` decides, sans-IO; `forward` and the shell move bytes.

mod core;
mod forward;
mod record;
mod spool;

pub use crate::core::{
    ConnectorCore, Contact, CoreStatus, DialFault, Ending, FlowAge, Knowledge, NotAConnector, Output, Parts,
    Question, ResourceName, Rules, Ruling, SliceRules, Target, Timeout,
};
pub use record::{FlowRecord, Verdict};
pub use spool::{Appended, MAX_SEGMENTS, SEGMENT_BYTES, Spool};
