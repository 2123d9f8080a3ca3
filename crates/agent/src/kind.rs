//! What tells a client from a connector here.

use policy::{ClientSlice, ConnectorSlice, PopEntry};
use trust::{Role, SliceBody};
use wire::SiteId;

/// The body of an agent's slice.
pub trait AgentSlice: SliceBody + Clone + std::fmt::Debug {
    /// The role of the agent that gets it.
    const ROLE: Role;
    /// How many sessions the agent keeps up without being asked.
    const SESSIONS: usize;

    /// The installation's PoPs.
    fn pops(&self) -> &[PopEntry];
    /// The site whose order of PoPs the agent follows when nothing else is wanted: a connector's own; a
    /// client's first, so that its standing session is one it will use.
    fn home(&self) -> Option<SiteId>;
    /// A site's regions, in order of preference.
    fn regions(&self, site: SiteId) -> &[String];
}

impl AgentSlice for ClientSlice {
    const ROLE: Role = Role::Device;
    const SESSIONS: usize = 1;

    fn pops(&self) -> &[PopEntry] {
        &self.pops
    }
    fn home(&self) -> Option<SiteId> {
        self.sites.first().map(|site| site.id)
    }
    fn regions(&self, site: SiteId) -> &[String] {
        self.sites.iter().find(|known| known.id == site).map_or(&[], |known| &known.regions)
    }
}

impl AgentSlice for ConnectorSlice {
    const ROLE: Role = Role::Connector;
    const SESSIONS: usize = 2;

    fn pops(&self) -> &[PopEntry] {
        &self.pops
    }
    fn home(&self) -> Option<SiteId> {
        Some(self.site)
    }
    fn regions(&self, _: SiteId) -> &[String] {
        &self.regions
    }
}
