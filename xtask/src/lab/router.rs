//! Routers between a private network and the lab's internet, by their NAT behaviour.

use super::namespace::{Namespace, veth};
use crate::process::Interrupt;
use anyhow::Result;
use std::net::Ipv4Addr;

/// How a router maps and filters, in the words of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    /// Endpoint-independent mapping, address- and port-dependent filtering: the common home router.
    Home,
    /// Address- and port-dependent mapping ("symmetric"): a new external port for each destination.
    Symmetric,
}

impl Nat {
    /// The rule set of this behaviour. The input chain must drop unsolicited packets on the outside:
    /// else a probe leaves a conntrack entry that forces a later outbound flow to another port.
    fn rules(self) -> String {
        let masquerade = match self {
            Self::Home => "masquerade",
            Self::Symmetric => "masquerade fully-random",
        };
        format!(
            "table ip lab {{
                chain postrouting {{
                    type nat hook postrouting priority 100; policy accept;
                    oifname \"ext\" {masquerade}
                }}
                chain input {{
                    type filter hook input priority 0; policy accept;
                    iifname \"ext\" ct state established,related accept
                    iifname \"ext\" drop
                }}
                chain forward {{
                    type filter hook forward priority 0; policy accept;
                    iifname \"ext\" ct state established,related accept
                    iifname \"ext\" drop
                }}
            }}"
        )
    }
}

/// A router with an outside (`ext`) on the internet and an inside (`lan`, a bridge) with hosts.
#[derive(Debug)]
pub struct Router {
    namespace: Namespace,
    inside: Ipv4Addr,
    ports: u8,
}

impl Router {
    /// Makes a router. The inside is a /24 whose gateway is `inside`.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn create(role: &str, inside: Ipv4Addr, nat: Nat, interrupt: &Interrupt) -> Result<Self> {
        let namespace = Namespace::create(role, interrupt)?;
        namespace.sysctl("net.ipv4.ip_forward=1")?;
        namespace.ip("link add lan type bridge")?;
        namespace.ip("link set lan up")?;
        namespace.ip(&format!("address add {inside}/24 dev lan"))?;
        namespace.nft(&nat.rules())?;
        Ok(Self { namespace, inside, ports: 0 })
    }

    /// The router's own namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Makes a host on the inside, with this router as its way out.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn host(&mut self, role: &str, address: Ipv4Addr, interrupt: &Interrupt) -> Result<Namespace> {
        let host = Namespace::create(role, interrupt)?;
        let port = format!("port{}", self.ports);
        self.ports += 1;
        veth((&self.namespace, &port), (&host, "eth0"))?;
        self.namespace.ip(&format!("link set {port} master lan"))?;
        host.ip(&format!("address add {address}/24 dev eth0"))?;
        host.ip(&format!("route add default via {}", self.inside))?;
        Ok(host)
    }
}
