//! Links, addresses and routes, by rtnetlink(7).

use crate::plan::{KnownKind, KnownRoute};
use futures_util::TryStreamExt as _;
use policy::Prefix;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressHeaderFlags},
        link::LinkAttribute,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType},
    },
};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use tokio::task::AbortHandle;

/// Routes that are looked at. A router with the internet's whole table has a million; nobody runs this there.
const MAX_KNOWN: usize = 100_000;

/// A connection to the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    task: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, task: tokio::spawn(connection).abort_handle() })
    }

    /// The names of all interfaces, by their numbers.
    pub async fn links(&self) -> io::Result<BTreeMap<u32, String>> {
        let mut found = BTreeMap::new();
        let mut links = std::pin::pin!(self.handle.link().get().execute());
        while let Some(link) = links.try_next().await.map_err(error)? {
            let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            found.insert(link.header.index, name.unwrap_or_default());
        }
        Ok(found)
    }

    /// What the machine has by itself: the addresses and routes of every interface but `ours`, of all tables.
    pub async fn known(&self, ours: Option<u32>) -> io::Result<Vec<KnownRoute>> {
        let links = self.links().await?;
        let name = |index: Option<u32>| {
            index.and_then(|index| links.get(&index)).cloned().unwrap_or_else(|| "no interface".to_owned())
        };
        let mut known = Vec::new();
        let mut addresses = std::pin::pin!(self.handle.address().get().execute());
        while let Some(address) = addresses.try_next().await.map_err(error)? {
            let index = address.header.index;
            let ip = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let ip = ip.or_else(|| {
                address.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })
            });
            if let Some(ip) = ip.filter(|_| Some(index) != ours) {
                let prefix = Prefix::host(ip);
                known.push(KnownRoute { prefix, interface: name(Some(index)), kind: KnownKind::Own });
            }
        }
        for message in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let mut routes = std::pin::pin!(self.handle.route().get(message).execute());
            while let Some(route) = routes.try_next().await.map_err(error)? {
                if known.len() >= MAX_KNOWN {
                    break;
                }
                known.extend(known_route(&route, ours, &name));
            }
        }
        Ok(known)
    }

    pub async fn add_address(&self, index: u32, address: IpAddr) -> io::Result<()> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, length);
        // Nobody else can be on this link: the address can be used at once, not after it was looked for (RFC 4862).
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        request.execute().await.map_err(error)
    }

    pub async fn set_up(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(message).execute().await.map_err(error)
    }

    pub async fn add_route(&self, index: u32, prefix: Prefix, source: IpAddr) -> io::Result<()> {
        self.handle.route().add(route(index, prefix, source)).execute().await.map_err(error)
    }

    /// A route into an interface that has no address of its own.
    pub async fn add_plain_route(&self, index: u32, prefix: Prefix) -> io::Result<()> {
        let message = match prefix.address() {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, prefix.length())
                .output_interface(index)
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, prefix.length())
                .output_interface(index)
                .build(),
        };
        self.handle.route().add(message).execute().await.map_err(error)
    }

    pub async fn remove_route(&self, index: u32, prefix: Prefix, source: IpAddr) -> io::Result<()> {
        self.handle.route().del(route(index, prefix, source)).execute().await.map_err(error)
    }
}

/// A route into the interface, from its own address. Its scope is that of a link: there is no router behind it.
fn route(index: u32, prefix: Prefix, source: IpAddr) -> RouteMessage {
    match (prefix.address(), source) {
        (IpAddr::V4(to), IpAddr::V4(from)) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, prefix.length())
            .output_interface(index)
            .scope(RouteScope::Link)
            .pref_source(from)
            .build(),
        (IpAddr::V6(to), IpAddr::V6(from)) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, prefix.length())
            .output_interface(index)
            .pref_source(from)
            .build(),
        // Callers give a source of the prefix's family; without one the kernel picks.
        (IpAddr::V4(to), _) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(to, prefix.length())
            .output_interface(index)
            .build(),
        (IpAddr::V6(to), _) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(to, prefix.length())
            .output_interface(index)
            .build(),
    }
}

fn known_route(
    route: &RouteMessage,
    ours: Option<u32>,
    name: &impl Fn(Option<u32>) -> String,
) -> Option<KnownRoute> {
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        return None;
    }
    let mut address = None;
    let mut interface = None;
    let mut by_router = false;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => {
                by_router = true
            }
            _ => {}
        }
    }
    if interface.is_some() && interface == ours {
        return None;
    }
    let address = match (address, route.header.address_family) {
        (Some(address), _) => address,
        (None, AddressFamily::Inet) => Ipv4Addr::UNSPECIFIED.into(),
        (None, AddressFamily::Inet6) => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let prefix = Prefix::new(address, route.header.destination_prefix_length).ok()?;
    let kind = match route.header.kind {
        RouteType::Local => KnownKind::Own,
        _ if by_router => KnownKind::Routed,
        _ => KnownKind::Connected,
    };
    Some(KnownRoute { prefix, interface: name(interface), kind })
}
