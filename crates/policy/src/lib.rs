//! Who may reach what: the organization's model, the slices cut from it, and the one decision.
//!
//! This crate owns: parsed addresses and ports, the model of an organization, the bodies of the three
//! slices, [`decide`] with its explanation, and the addresses that names have inside a tunnel. It
//! refuses to know: the database, signatures (see `trust`), sockets and clocks.
//!
//! One function decides, for the connector that enforces, for the client that explains and for the
//! controller that previews. Only a connector's verdict opens anything.
//!
//! ```
//! use policy::Address;
//! let address: Address = "10.0.2.0/24".parse().expect("a prefix");
//! assert!(matches!(address, Address::Cidr(_)));
//! ```

mod address;
mod build;
mod decide;
pub mod enrolment;
mod explain;
mod inner;
mod model;
mod ports;
mod slices;

pub use address::{Address, AddressError, HostName, Prefix, Wildcard};
pub use build::{client_slice, connector_slice, relevant_groups, site_slice};
pub use decide::{
    Decision, Destination, GrantFacts, Place, Verdict, decide, is_refused_range, resolve_resource,
};
pub use explain::{Explanation, Step, StepOutcome, explain_client};
pub use inner::{INNER_V4, inner_address, inner_device_address, is_inner_resource_address};
pub use model::{
    ConnectorModel, GroupModel, Member, MembershipModel, Mode, OrganizationModel, PolicyModel, ResourceModel,
    SiteModel,
};
pub use ports::{PortRange, Protocol};
pub use slices::{
    Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, OrganizationShare,
    PopEntry, PopSlice, SliceResource,
};
