//! The networks of the matrix. The internet, the server and the web server stay; what is between them is
//! built for each cell:
//!
//! ```text
//!            internet 203.0.113.0/24, 2001:db8::/64
//!      ┌──────────────┼──────────────────┐
//!  server .10     client's side      connector's side
//!             192.168.1.0/24 or      10.0.2.0/24 or
//!             2001:db8:N::/64        2001:db8:1NN::/64, with the web server
//! ```
//!
//! Each side takes public addresses that nobody had before, so that neither a neighbour table nor the PoP
//! remembers anything of an earlier cell.

use super::{
    super::{
        namespace::Namespace,
        router::{LanPort, Nat, Router},
        topology::{self, Internet},
    },
    kind::Kind,
};
use crate::process::Interrupt;
use anyhow::{Context as _, Result, bail};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Under which name agents find the PoP: it has addresses of both families.
pub const POP_NAME: &str = "pop.lab.example";
/// The server's second IPv4 address: what looks at filtering needs one that was never asked.
pub const SERVER_TWO: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
/// The server's IPv6 address.
pub const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// What sites' IPv6 networks are cut from.
pub const SITES_V6: &str = "2001:db8:100::/40";

/// Numbers for public addresses: 203.0.113.20 and up.
const FIRST_NUMBER: u8 = 20;
const LAST_NUMBER: u8 = 250;

/// The client's address in an IPv4 network of its own.
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
/// The client's address when it is on the connector's LAN.
const CLIENT_ON_LAN: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 77);
/// The client's address, and its gateway's, in another room behind the connector's router.
const CLIENT_IN_ROOM: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 0, 3, 1), Ipv4Addr::new(10, 0, 3, 2));

/// Who a side is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The client.
    Client,
    /// The connector, with the private web server beside it.
    Connector,
}

/// A host with what stands between it and the internet.
#[derive(Debug)]
pub struct Side {
    /// The host.
    pub host: Namespace,
    /// Its address inside.
    pub inside: IpAddr,
    /// Its IPv6 address, which the internet sees as it is: `inside`, or one beside it.
    pub v6: Option<Ipv6Addr>,
    /// As whom the internet sees it.
    pub public: IpAddr,
    /// From the host outwards; none for `open`.
    pub routers: Vec<Router>,
    /// The internet's end of the uplink.
    pub uplink: String,
    /// Where the host is plugged in, when there is a router.
    pub lan_port: Option<LanPort>,
}

impl Side {
    /// The router next to the host.
    ///
    /// # Errors
    /// An open host has none.
    pub fn router(&mut self) -> Result<&mut Router> {
        self.routers.first_mut().context("an open host has no router")
    }
}

/// What stays between the cells.
#[derive(Debug)]
pub struct Net {
    /// The bridge that everybody public hangs on.
    pub internet: Internet,
    /// Where `tidegate serve` runs.
    pub server: Namespace,
    /// Where the private web server runs.
    pub web: Namespace,
    web_cable: Option<String>,
    web_cables: u16,
    number: u8,
    interrupt: Interrupt,
}

impl Net {
    /// Builds what stays.
    ///
    /// # Errors
    /// The kernel refuses a part of it; what was made is removed.
    pub fn create(interrupt: &Interrupt) -> Result<Self> {
        let mut internet = Internet::create(interrupt)?;
        let server = Namespace::create("server", interrupt)?;
        let addresses = [topology::SERVER.into(), SERVER_TWO.into(), SERVER_V6.into()];
        internet.attach(&server, "eth0", &addresses)?;
        server.hosts(&pop_names())?;
        let web = Namespace::create("web", interrupt)?;
        let interrupt = interrupt.clone();
        Ok(Self { internet, server, web, web_cable: None, web_cables: 0, number: FIRST_NUMBER, interrupt })
    }

    /// The next public addresses.
    pub fn public(&mut self) -> (u8, Ipv4Addr, Ipv6Addr) {
        let number = self.number;
        self.number = if number == LAST_NUMBER { FIRST_NUMBER } else { number + 1 };
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xffff, u16::from(number));
        (number, Ipv4Addr::new(203, 0, 113, number), v6)
    }

    /// Builds one side.
    ///
    /// # Errors
    /// The kernel refuses a part of it; what was made is removed.
    pub fn side(&mut self, role: Role, kind: Kind) -> Result<Side> {
        let host = Namespace::create(role.host(), &self.interrupt)?;
        let mut side = match kind {
            Kind::Open => self.open(host)?,
            Kind::Ipv6Only => self.ipv6(role, host)?,
            Kind::FullCone | Kind::Home | Kind::Symmetric | Kind::UdpBlocked | Kind::Cgn => {
                self.translated(role, kind, host)?
            }
            Kind::DualStack => {
                let mut side = self.translated(role, Kind::Symmetric, host)?;
                self.also_v6(role, &mut side)?;
                side
            }
        };
        if role == Role::Connector {
            self.plug_web(&mut side)?;
        }
        side.host.hosts(&names(role, side.inside))?;
        Ok(side)
    }

    /// Client and connector behind one router. The client's side has the routers.
    ///
    /// # Errors
    /// The kernel refuses a part of it; what was made is removed.
    pub fn lan(&mut self, kind: Kind) -> Result<(Side, Side)> {
        let connector = self.side(Role::Connector, kind)?;
        let Side { host, inside, v6, public, mut routers, uplink, lan_port } = connector;
        let client = Namespace::create(Role::Client.host(), &self.interrupt)?;
        let router = routers.first_mut().context("a LAN has a router")?;
        let port = router.attach(&client, "eth0", CLIENT_ON_LAN.into())?;
        router.route(&client, "eth0")?;
        let client = Side {
            host: client,
            inside: CLIENT_ON_LAN.into(),
            v6: None,
            public,
            routers,
            uplink: uplink.clone(),
            lan_port: Some(port),
        };
        client.host.hosts(&names(Role::Client, client.inside))?;
        Ok((client, Side { host, inside, v6, public, routers: Vec::new(), uplink, lan_port }))
    }

    /// Client and connector in two rooms behind one router that hairpins. The client's side has the router.
    ///
    /// # Errors
    /// The kernel refuses a part of it; what was made is removed.
    pub fn rooms(&mut self) -> Result<(Side, Side)> {
        let mut connector = self.side(Role::Connector, Kind::Home)?;
        let mut routers = std::mem::take(&mut connector.routers);
        let router = routers.first_mut().context("rooms have a router")?;
        let IpAddr::V4(public) = connector.public else { bail!("rooms have an IPv4 address outside") };
        router.behave(Nat::Hairpin(public))?;
        let host = Namespace::create(Role::Client.host(), &self.interrupt)?;
        let (gateway, address) = CLIENT_IN_ROOM;
        let port = router.room(gateway, &host, address)?;
        let client = Side {
            host,
            inside: address.into(),
            v6: None,
            public: connector.public,
            routers,
            uplink: connector.uplink.clone(),
            lan_port: Some(port),
        };
        client.host.hosts(&names(Role::Client, client.inside))?;
        Ok((client, connector))
    }

    /// A home router on the internet with another inside than the client's first one, for it to move to.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn another_home(&mut self) -> Result<(Router, Ipv4Addr)> {
        let (_, public, _) = self.public();
        let router = Router::create("home2", Ipv4Addr::new(192, 168, 7, 1), Nat::Home, &self.interrupt)?;
        self.internet.attach(router.namespace(), "ext", &[public.into()])?;
        Ok((router, Ipv4Addr::new(192, 168, 7, 9)))
    }

    fn open(&mut self, host: Namespace) -> Result<Side> {
        let (_, public, _) = self.public();
        let uplink = self.internet.attach(&host, "eth0", &[public.into()])?;
        let public = public.into();
        Ok(Side { host, inside: public, v6: None, public, routers: Vec::new(), uplink, lan_port: None })
    }

    fn translated(&mut self, role: Role, kind: Kind, host: Namespace) -> Result<Side> {
        let (gateway, address) = role.network();
        let nat = match kind {
            Kind::FullCone => Nat::FullCone(address),
            Kind::Symmetric => Nat::Symmetric,
            Kind::UdpBlocked => Nat::UdpBlocked,
            Kind::Home | Kind::Cgn | Kind::Open | Kind::Ipv6Only | Kind::DualStack => Nat::Home,
        };
        let mut router = Router::create(role.router(), gateway, nat, &self.interrupt)?;
        let (_, public, _) = self.public();
        let mut outer = Vec::new();
        let uplink = if kind == Kind::Cgn {
            // RFC 6598: what is between a provider's customers and its translator.
            let gateway = Ipv4Addr::new(100, 64, 0, 1);
            let mut provider = Router::create(role.provider(), gateway, Nat::Home, &self.interrupt)?;
            let uplink = self.internet.attach(provider.namespace(), "ext", &[public.into()])?;
            provider.attach(router.namespace(), "ext", Ipv4Addr::new(100, 64, 0, 2).into())?;
            provider.route(router.namespace(), "ext")?;
            outer.push(provider);
            uplink
        } else {
            self.internet.attach(router.namespace(), "ext", &[public.into()])?
        };
        let port = router.attach(&host, "eth0", address.into())?;
        router.route(&host, "eth0")?;
        let mut routers = vec![router];
        routers.append(&mut outer);
        let (inside, public) = (address.into(), public.into());
        Ok(Side { host, inside, v6: None, public, routers, uplink, lan_port: Some(port) })
    }

    fn ipv6(&mut self, role: Role, host: Namespace) -> Result<Side> {
        let network = self.v6_network(role);
        let mut router = Router::create(role.router(), network.gateway, Nat::Ipv6Firewall, &self.interrupt)?;
        let uplink = self.internet.attach(router.namespace(), "ext", &[network.public.into()])?;
        let (inside, public) = (network.address.into(), network.address.into());
        let port = router.attach(&host, "eth0", inside)?;
        let (routers, v6, lan_port) = (vec![router], Some(network.address), Some(port));
        let side = Side { host, inside, v6, public, routers, uplink, lan_port };
        self.route_v6(&side, network)?;
        Ok(side)
    }

    /// An IPv6 network beside the IPv4 one that a side has.
    fn also_v6(&mut self, role: Role, side: &mut Side) -> Result<()> {
        let network = self.v6_network(role);
        let router = side.router()?;
        router.namespace().address("ext", network.public.into())?;
        router.carry_v6(network.gateway)?;
        side.host.address("eth0", network.address.into())?;
        side.v6 = Some(network.address);
        self.route_v6(side, network)
    }

    fn v6_network(&mut self, role: Role) -> V6Network {
        let (number, _, public) = self.public();
        let network = match role {
            Role::Client => u16::from(number),
            Role::Connector => 0x100 + u16::from(number),
        };
        let at = |last| Ipv6Addr::new(0x2001, 0xdb8, network, 0, 0, 0, 0, last);
        V6Network { public, gateway: at(1), address: at(5) }
    }

    fn route_v6(&self, side: &Side, network: V6Network) -> Result<()> {
        let V6Network { public, gateway, address } = network;
        side.host.ip(&format!("-6 route replace default via {gateway} dev eth0"))?;
        // The internet is one bridge without a router of its own: whoever is on it learns the way. All of
        // 2001:db8::/32 that is not on the bridge is behind the routers of the two sides.
        self.server.ip(&format!("-6 route replace {}/48 via {public}", with_last(address, 0)))?;
        Ok(())
    }

    /// The web server on the connector's network; its cable to the last one is pulled.
    fn plug_web(&mut self, side: &mut Side) -> Result<()> {
        self.unplug_web();
        let cable = format!("site{}", self.web_cables);
        self.web_cables += 1;
        let web = web_beside(side.inside);
        match side.routers.first_mut() {
            Some(router) => {
                router.attach(&self.web, &cable, web)?;
            }
            None => {
                super::super::namespace::veth((&side.host, "lan0"), (&self.web, &cable))?;
                side.host.address("lan0", topology::CONNECTOR.into())?;
                self.web.address(&cable, web)?;
            }
        }
        self.web_cable = Some(cable);
        Ok(())
    }

    fn unplug_web(&mut self) {
        if let Some(cable) = self.web_cable.take() {
            // Gone with its other end, most often.
            let _ = self.web.ip(&format!("link del {cable}"));
        }
    }
}

/// A side's IPv6 network: its router outside and inside, and the host.
#[derive(Debug, Clone, Copy)]
struct V6Network {
    public: Ipv6Addr,
    gateway: Ipv6Addr,
    address: Ipv6Addr,
}

/// Two IPv6 networks learn of each other: the internet's bridge routes nothing.
///
/// # Errors
/// The kernel refuses a route.
pub fn introduce(one: &Side, other: &Side) -> Result<()> {
    for (from, to) in [(one, other), (other, one)] {
        if let (Some(inside), Some(router), Some(gateway)) = (to.v6, from.routers.first(), to.routers.first())
            && from.v6.is_some()
        {
            let said = gateway.namespace().ip("-6 -o address show dev ext scope global")?.stdout;
            let via = said.split_whitespace().nth(3).and_then(|word| word.split('/').next());
            let via = via.context("the other router's address")?.to_owned();
            let network = with_last(inside, 0);
            router.namespace().ip(&format!("-6 route replace {network}/64 via {via} dev ext"))?;
        }
    }
    Ok(())
}

fn with_last(address: Ipv6Addr, last: u16) -> Ipv6Addr {
    let mut words = address.segments();
    words[7] = last;
    Ipv6Addr::from(words)
}

/// The names that a host knows: the PoP's in both families, and the site's own in the site alone.
fn names(role: Role, inside: IpAddr) -> String {
    let pop = pop_names();
    match role {
        Role::Client => pop,
        Role::Connector => format!("{pop}{} web.lab.internal", web_beside(inside)),
    }
}

/// The lines of `/etc/hosts` that name the PoP.
pub fn pop_names() -> String {
    format!("{} {POP_NAME}\n{SERVER_V6} {POP_NAME}\n", topology::SERVER)
}

/// The web server's address in the network of a connector.
fn web_beside(connector: IpAddr) -> IpAddr {
    match connector {
        IpAddr::V4(_) => topology::WEB.into(),
        IpAddr::V6(inside) => with_last(inside, 0x10).into(),
    }
}

impl Role {
    const fn host(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Connector => "conn",
        }
    }

    const fn router(self) -> &'static str {
        match self {
            Self::Client => "home",
            Self::Connector => "site",
        }
    }

    const fn provider(self) -> &'static str {
        match self {
            Self::Client => "cgn-home",
            Self::Connector => "cgn-site",
        }
    }

    /// The gateway and the host.
    const fn network(self) -> (Ipv4Addr, Ipv4Addr) {
        match self {
            Self::Client => (Ipv4Addr::new(192, 168, 1, 1), CLIENT),
            Self::Connector => (Ipv4Addr::new(10, 0, 2, 1), topology::CONNECTOR),
        }
    }
}
