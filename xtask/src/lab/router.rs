//! Routers between a private network and the lab's internet, by their NAT behaviour.

use super::namespace::{Namespace, veth};
use crate::process::Interrupt;
use anyhow::Result;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How a router maps and filters, in the words of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Endpoint-independent mapping, address- and port-dependent filtering: the common home router.
    Home,
    /// Endpoint-independent mapping and filtering: whatever UDP comes for a mapped port goes inside, to
    /// this one host.
    FullCone(Ipv4Addr),
    /// Address- and port-dependent mapping ("symmetric"): a new external port for each destination.
    Symmetric,
    /// A new external port for each UDP packet, also to one destination; answers to each come back.
    PerPacket,
    /// A home router that lets no UDP through, in silence; TCP goes.
    UdpBlocked,
    /// A stateful IPv6 firewall without translation (RFC 6092).
    Ipv6Firewall,
    /// [`Self::Home`] with this outside address, which hairpins: what a host inside sends to another's mapped address
    /// comes to that one, from the sender's own mapped address (RFC 4787, REQ-9). It forwards nothing else between its
    /// rooms.
    Hairpin(Ipv4Addr),
}

/// What makes the kernel drop what nobody inside asked for. The input chain must do so as well as the
/// forward chain: else a probe leaves a conntrack entry that forces a later outbound flow to another port.
const CLOSED: &str = "iifname \"ext\" ct state established,related accept
                    iifname \"ext\" drop";

impl Nat {
    /// The rule set of this behaviour, as one table that replaces the one before.
    fn rules(self) -> String {
        let (family, input, forward) = match self {
            // Neighbour discovery is how the IPv6 internet finds the router (RFC 6092, REC-4 lets ICMPv6 be).
            Self::Ipv6Firewall => ("ip6", "meta l4proto ipv6-icmp accept", ""),
            Self::FullCone(_) => ("ip", "", "ct status dnat accept"),
            // On the way out and in alone: where the kernel hands bridged frames to this chain, a LAN's
            // own UDP passes it too.
            Self::UdpBlocked => {
                ("ip", "", "oifname \"ext\" meta l4proto udp drop\niifname \"ext\" meta l4proto udp drop")
            }
            // What nobody has a mapping for is dropped before the kernel remembers it as a flow of the router's own.
            Self::Hairpin(_) => (
                "ip",
                "iifname { \"lan\", \"lan2\" } ip daddr != { 10.0.0.0/8 } meta l4proto udp drop",
                "iifname { \"lan\", \"lan2\" } oifname { \"lan\", \"lan2\" } ct status dnat accept
                    iifname { \"lan\", \"lan2\" } oifname { \"lan\", \"lan2\" } ct state established accept
                    iifname \"lan\" oifname \"lan2\" drop
                    iifname \"lan2\" oifname \"lan\" drop",
            ),
            Self::Home | Self::Symmetric | Self::PerPacket => ("ip", "", ""),
        };
        let translation = match self {
            Self::Ipv6Firewall => String::new(),
            Self::Home | Self::UdpBlocked => postrouting("masquerade"),
            Self::Symmetric => postrouting("masquerade fully-random"),
            // Each packet is a flow in a zone of its own on the way out; on the way in there is one zone.
            Self::PerPacket => format!(
                "{}
                chain prerouting {{
                    type filter hook prerouting priority -300; policy accept;
                    iifname \"lan\" meta l4proto udp ct original zone set numgen random mod 60000
                }}",
                postrouting("masquerade fully-random")
            ),
            // Ports are kept on the way out: who sends from a port last is whom its mapped address means.
            Self::Hairpin(public) => format!(
                "map holders {{
                    type inet_service : ipv4_addr; size 4096; flags dynamic,timeout; timeout 5m
                }}
                chain learn {{
                    type filter hook forward priority 10; policy accept;
                    oifname \"ext\" meta l4proto udp update @holders {{ udp sport : ip saddr }}
                }}
                chain prerouting {{
                    type nat hook prerouting priority -100; policy accept;
                    iifname {{ \"lan\", \"lan2\" }} ip daddr {public} meta l4proto udp dnat to udp dport map @holders
                }}
                chain postrouting {{
                    type nat hook postrouting priority 100; policy accept;
                    oifname \"ext\" masquerade
                    oifname {{ \"lan\", \"lan2\" }} ct status dnat snat to {public}
                }}"
            ),
            // Ports are kept on the way out, so that the port on the way in names the inside's.
            Self::FullCone(inside) => format!(
                "{}
                chain prerouting {{
                    type nat hook prerouting priority -100; policy accept;
                    iifname \"ext\" meta l4proto udp dnat to {inside}
                }}",
                postrouting("masquerade")
            ),
        };
        format!(
            "table {family} lab
            delete table {family} lab
            table {family} lab {{
                {translation}
                chain input {{
                    type filter hook input priority 0; policy accept;
                    {input}
                    {CLOSED}
                }}
                chain forward {{
                    type filter hook forward priority 0; policy accept;
                    {forward}
                    {CLOSED}
                }}
            }}\n"
        )
    }
}

fn postrouting(masquerade: &str) -> String {
    format!(
        "chain postrouting {{
                    type nat hook postrouting priority 100; policy accept;
                    oifname \"ext\" {masquerade}
                }}"
    )
}

/// A router with an outside (`ext`) on the internet and an inside (`lan`, a bridge) with hosts.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
    inside: IpAddr,
    ports: u8,
}

/// The router's end of the cable to a host inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LanPort(String);

impl Router {
    /// Makes a router. The inside is a /24, or a /64, whose gateway is `inside`.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn create(role: &str, inside: impl Into<IpAddr>, nat: Nat, interrupt: &Interrupt) -> Result<Self> {
        let inside = inside.into();
        let namespace = Namespace::create(role, interrupt)?;
        match inside {
            IpAddr::V4(_) => namespace.sysctl("net.ipv4.ip_forward=1")?,
            IpAddr::V6(_) => namespace.sysctl("net.ipv6.conf.all.forwarding=1")?,
        }
        namespace.ip("link add lan type bridge")?;
        namespace.ip("link set lan up")?;
        namespace.address("lan", inside)?;
        namespace.nft(&nat.rules())?;
        Ok(Self { namespace, inside, ports: 0 })
    }

    /// The router's own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Behaves otherwise from now on. Mappings that exist stay until the kernel forgets them.
    ///
    /// # Errors
    /// `nft` refuses the rules.
    pub fn behave(&self, nat: Nat) -> Result<()> {
        self.namespace.nft(&nat.rules())
    }

    /// Makes a host on the inside, with this router as its way out.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn host(&mut self, role: &str, address: Ipv4Addr, interrupt: &Interrupt) -> Result<Namespace> {
        let host = Namespace::create(role, interrupt)?;
        self.attach(&host, "eth0", address.into())?;
        self.route(&host, "eth0")?;
        Ok(host)
    }

    /// Gives a host an interface on the inside, without a route to anywhere else.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn attach(&mut self, host: &Namespace, interface: &str, address: IpAddr) -> Result<LanPort> {
        self.plug("lan", host, interface, address)
    }

    /// Makes a second network inside, with a gateway of its own, and a host in it whose way out this is.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn room(&mut self, gateway: Ipv4Addr, host: &Namespace, address: Ipv4Addr) -> Result<LanPort> {
        self.namespace.ip("link add lan2 type bridge")?;
        self.namespace.ip("link set lan2 up")?;
        self.namespace.address("lan2", gateway.into())?;
        let port = self.plug("lan2", host, "eth0", address.into())?;
        host.ip(&format!("route replace default via {gateway} dev eth0"))?;
        Ok(port)
    }

    /// Carries IPv6 too, through a stateful firewall. The inside is a /64, whose gateway is `inside`.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn carry_v6(&self, inside: Ipv6Addr) -> Result<()> {
        self.namespace.sysctl("net.ipv6.conf.all.forwarding=1")?;
        self.namespace.address("lan", inside.into())?;
        self.namespace.nft(&Nat::Ipv6Firewall.rules())
    }

    fn plug(&mut self, bridge: &str, host: &Namespace, interface: &str, address: IpAddr) -> Result<LanPort> {
        let port = self.port();
        veth((&self.namespace, &port.0), (host, interface))?;
        self.namespace.ip(&format!("link set {} master {bridge}", port.0))?;
        host.address(interface, address)?;
        Ok(port)
    }

    /// Makes this router a host's way out.
    ///
    /// # Errors
    /// The kernel refuses the route.
    pub fn route(&self, host: &Namespace, interface: &str) -> Result<()> {
        host.ip(&format!("route replace default via {} dev {interface}", self.inside))?;
        Ok(())
    }

    /// Pulls a host's cable and plugs it into another router; the host still has its old address.
    ///
    /// # Errors
    /// The kernel refuses the move.
    pub fn hand_over(&mut self, port: &LanPort, to: &mut Self) -> Result<LanPort> {
        let new = to.port();
        let target = to.namespace.name();
        self.namespace.ip(&format!("link set {} down", port.0))?;
        self.namespace.ip(&format!("link set {} nomaster", port.0))?;
        self.namespace.ip(&format!("link set {} netns {target} name {}", port.0, new.0))?;
        to.namespace.ip(&format!("link set {} master lan", new.0))?;
        to.namespace.ip(&format!("link set {} up", new.0))?;
        Ok(new)
    }

    fn port(&mut self) -> LanPort {
        let port = LanPort(format!("port{}", self.ports));
        self.ports += 1;
        port
    }
}
