//! Protocols and ports as administrators write them, parsed once.

use crate::address::{AddressError, serde_as_text, shorten};
use std::{fmt, str::FromStr};

/// A protocol that resources can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6, of which echo (ping) alone.
    Icmp,
}

impl Protocol {
    /// As it is written in front of ports, in logs and in the flow log.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// A port of it, for people.
    #[must_use]
    pub fn describe(self, port: u16) -> String {
        match self {
            Self::Tcp => format!("TCP port {port}"),
            Self::Udp => format!("UDP port {port}"),
            Self::Icmp => "ICMP echo".to_owned(),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Ports of a protocol, both ends included: `443`, `8000-8999` and `tcp/80-90` are TCP's, `udp/53` is UDP's, and `icmp`
/// has none.
// The protocol comes first: what was ordered before there was more than TCP stays in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    protocol: Protocol,
    first: u16,
    last: u16,
}

impl PortRange {
    /// ICMP echo.
    pub const ICMP: Self = Self { protocol: Protocol::Icmp, first: 0, last: 0 };

    /// Ports of TCP.
    ///
    /// # Errors
    /// Port 0, or the last below the first.
    pub fn new(first: u16, last: u16) -> Result<Self, AddressError> {
        Self::of(Protocol::Tcp, first, last)
    }

    /// Ports of a protocol. ICMP's are 0 to 0.
    ///
    /// # Errors
    /// Port 0 of a protocol that has ports, another one of ICMP, or the last below the first.
    pub fn of(protocol: Protocol, first: u16, last: u16) -> Result<Self, AddressError> {
        let fits = match protocol {
            Protocol::Tcp | Protocol::Udp => first != 0 && first <= last,
            Protocol::Icmp => first == 0 && last == 0,
        };
        if !fits {
            return Err(AddressError::Ports(format!("{protocol}/{first}-{last}")));
        }
        Ok(Self { protocol, first, last })
    }

    /// Whose ports.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// First port; 0 for ICMP.
    #[must_use]
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// Last port; 0 for ICMP.
    #[must_use]
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// Whether a port of a protocol is inside. ICMP has no ports: there the protocol alone counts.
    #[must_use]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        if planted::is("any-protocol-will-do") {
            return self.first <= port && port <= self.last;
        }
        self.protocol == protocol && (protocol == Protocol::Icmp || (self.first <= port && port <= self.last))
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Icmp => return f.write_str("icmp"),
            // As it was written when TCP was all there was: signed documents keep their bytes.
            Protocol::Tcp => {}
            Protocol::Udp => f.write_str("udp/")?,
        }
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError::Ports(shorten(text));
        if text == "icmp" {
            return Ok(Self::ICMP);
        }
        let (protocol, ports) = match text.split_once('/') {
            None => (Protocol::Tcp, text),
            Some(("tcp", ports)) => (Protocol::Tcp, ports),
            Some(("udp", ports)) => (Protocol::Udp, ports),
            Some(_) => return Err(error()),
        };
        let port = |text: &str| -> Result<u16, AddressError> {
            if text.is_empty() || text.len() > 5 || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(error());
            }
            text.parse().map_err(|_| error())
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        Self::of(protocol, port(first)?, port(last)?).map_err(|_| error())
    }
}

serde_as_text!(PortRange);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_written_for_tcp_alone_is_read_and_written_as_before() {
        for text in ["443", "8000-8999", "1-65535"] {
            let ports: PortRange = text.parse().expect("ports");
            assert_eq!((ports.protocol(), ports.to_string().as_str()), (Protocol::Tcp, text));
        }
        assert_eq!("tcp/80-90".parse::<PortRange>().expect("ports").to_string(), "80-90");
    }

    #[test]
    fn ports_of_one_protocol_are_not_those_of_another() {
        let dns: PortRange = "udp/53".parse().expect("ports");
        assert!(dns.contains(Protocol::Udp, 53) && !dns.contains(Protocol::Udp, 54));
        assert!(!dns.contains(Protocol::Tcp, 53) && !dns.contains(Protocol::Icmp, 0));
        let ping: PortRange = "icmp".parse().expect("ports");
        assert!(ping.contains(Protocol::Icmp, 0) && !ping.contains(Protocol::Tcp, 0));
        assert!(!"443".parse::<PortRange>().expect("ports").contains(Protocol::Udp, 443));
    }

    #[test]
    fn what_names_no_protocol_or_no_port_is_refused() {
        for text in [
            "",
            "0",
            "70000",
            "9-8",
            "udp/",
            "udp",
            "tcp",
            "icmp/8",
            "icmp/0",
            "icmp-",
            "UDP/53",
            "sctp/9",
            "udp/0",
            "udp/53/54",
            "/53",
            "+53",
            "1-2-3",
        ] {
            assert!(text.parse::<PortRange>().is_err(), "{text:?}");
        }
        assert!(PortRange::of(Protocol::Icmp, 0, 1).is_err() && PortRange::of(Protocol::Udp, 0, 1).is_err());
    }

    proptest! {
        #[test]
        fn every_range_survives_its_text(text in "(tcp/|udp/|icmp)?[0-9]{0,5}(-[0-9]{1,5})?") {
            if let Ok(ports) = text.parse::<PortRange>() {
                prop_assert_eq!(ports.to_string().parse::<PortRange>().expect("own text"), ports);
            }
        }
    }
}
