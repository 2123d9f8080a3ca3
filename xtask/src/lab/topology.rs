//! The lab's networks, in documentation ranges (RFC 5737) and private ones (RFC 1918):
//!
//! ```text
//!                        internet 203.0.113.0/24
//!        ┌───────────────────────┼────────────────────────┐
//!   server .10              client's router .20      site's router .30
//!                                │                        │
//!                        192.168.1.0/24             10.0.2.0/24
//!                          client .2        connector .5 · web .10 · database .20
//! ```

use super::{
    namespace::{Namespace, veth},
    router::{Nat, Router},
};
use crate::process::Interrupt;
use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr};

/// The server's address on the internet.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The client's router as the internet sees it.
pub const CLIENT_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
/// The site's router as the internet sees it.
pub const SITE_ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 30);
/// The client at home.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The connector in its site.
pub const CONNECTOR: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 5);
/// The private web server.
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 10);
/// The private database.
pub const DATABASE: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 20);

/// The whole lab. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    /// Where `tidegate serve` runs.
    pub server: Namespace,
    /// Where the client runs.
    pub client: Namespace,
    /// Where the connector runs.
    pub connector: Namespace,
    /// Where the web server runs.
    pub web: Namespace,
    /// Where PostgreSQL runs.
    pub database: Namespace,
    /// The client's router.
    pub client_router: Router,
    /// The site's router.
    pub site_router: Router,
    internet: Internet,
}

impl Topology {
    /// Builds it, with the client behind `client_nat` and the site behind `site_nat`.
    ///
    /// # Errors
    /// The kernel refuses a part of it; what was made is removed.
    pub fn create(client_nat: Nat, site_nat: Nat, interrupt: &Interrupt) -> Result<Self> {
        let mut internet = Internet::create(interrupt)?;
        let server = Namespace::create("server", interrupt)?;
        internet.attach(&server, "eth0", &[SERVER.into()])?;
        let mut client_router = Router::create("home", Ipv4Addr::new(192, 168, 1, 1), client_nat, interrupt)?;
        internet.attach(client_router.namespace(), "ext", &[CLIENT_ROUTER.into()])?;
        let client = client_router.host("client", CLIENT, interrupt)?;
        let mut site_router = Router::create("site", Ipv4Addr::new(10, 0, 2, 1), site_nat, interrupt)?;
        internet.attach(site_router.namespace(), "ext", &[SITE_ROUTER.into()])?;
        let connector = site_router.host("conn", CONNECTOR, interrupt)?;
        let web = site_router.host("web", WEB, interrupt)?;
        let database = site_router.host("db", DATABASE, interrupt)?;
        // The site's names are known in the site alone.
        connector.hosts(&format!("{WEB} web.lab.internal\n{DATABASE} db.lab.internal"))?;
        Ok(Self { server, client, connector, web, database, client_router, site_router, internet })
    }

    /// The internet's own namespace, with its ends of everybody's uplink.
    pub fn internet(&self) -> &Namespace {
        &self.internet.namespace
    }

    /// One more host with a public address.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn public_host(&mut self, role: &str, address: Ipv4Addr, interrupt: &Interrupt) -> Result<Namespace> {
        let host = Namespace::create(role, interrupt)?;
        self.internet.attach(&host, "eth0", &[address.into()])?;
        Ok(host)
    }

    /// Gives a router of another place its end of the internet.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn attach(&mut self, router: &Namespace, interface: &str, address: Ipv4Addr) -> Result<()> {
        self.internet.attach(router, interface, &[address.into()])?;
        Ok(())
    }

    /// Every namespace, for counting what is left.
    pub fn names(&self) -> Vec<String> {
        [
            &self.server,
            &self.client,
            &self.connector,
            &self.web,
            &self.database,
            self.client_router.namespace(),
            self.site_router.namespace(),
            &self.internet.namespace,
        ]
        .into_iter()
        .map(|namespace| namespace.name().to_owned())
        .collect()
    }
}

/// A bridge that everybody with a public address hangs on. It has no address and routes nothing.
#[derive(Debug)]
pub struct Internet {
    namespace: Namespace,
    ports: u16,
}

impl Internet {
    /// Makes the bridge.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn create(interrupt: &Interrupt) -> Result<Self> {
        let namespace = Namespace::create("inet", interrupt)?;
        namespace.ip("link add internet type bridge")?;
        namespace.ip("link set internet up")?;
        Ok(Self { namespace, ports: 0 })
    }

    /// The bridge's own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Gives a host an interface on the internet; the name of the bridge's end is returned.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn attach(&mut self, host: &Namespace, interface: &str, addresses: &[IpAddr]) -> Result<String> {
        let port = format!("port{}", self.ports);
        self.ports += 1;
        veth((&self.namespace, &port), (host, interface))?;
        self.namespace.ip(&format!("link set {port} master internet"))?;
        for address in addresses {
            host.address(interface, *address)?;
        }
        Ok(port)
    }
}
