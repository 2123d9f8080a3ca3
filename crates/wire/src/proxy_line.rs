//! The line in front of a console connection that a PoP hands to the controller of its host: who it is from.
//! The PROXY protocol, version 1 (its specification, section 2.1), and of it only what is said between the two.

use std::net::{IpAddr, SocketAddr};

/// The longest line, line break included.
pub const MAX_PROXY_LINE: usize = 107;

/// The line for a connection from `source` to `destination`, line break included.
#[must_use]
pub fn encode_proxy_line(source: SocketAddr, destination: SocketAddr) -> String {
    let (from, to) = match (source.ip().to_canonical(), destination.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (IpAddr::V4(from), IpAddr::V4(to)),
        (from, to) => (as_v6(from), as_v6(to)),
    };
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port())
}

fn as_v6(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        IpAddr::V6(_) => ip,
    }
}

/// Who a connection is from, by a whole line with its line break. An IPv4 address is one, whatever family the
/// line is of. Nothing else is taken: no `UNKNOWN`, no other spelling.
#[must_use]
pub fn parse_proxy_line(line: &[u8]) -> Option<SocketAddr> {
    if line.len() > MAX_PROXY_LINE {
        return None;
    }
    let mut words = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?.split(' ');
    let mut next = || words.next();
    let (protocol, family) = (next()?, next()?);
    let (source, destination): (IpAddr, IpAddr) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (port, other_port): (u16, u16) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let fits = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    let source = SocketAddr::new(source.to_canonical(), port);
    let destination = SocketAddr::new(destination.to_canonical(), other_port);
    let is_canonical = || encode_proxy_line(source, destination).as_bytes() == line;
    (protocol == "PROXY" && fits && next().is_none() && is_canonical()).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_source_comes_back_from_its_line() {
        for (source, destination) in [
            ("203.0.113.7:4000", "198.51.100.1:443"),
            ("[2001:db8::1]:4000", "[2001:db8::2]:443"),
            ("203.0.113.7:4000", "[2001:db8::2]:443"),
        ] {
            let source: SocketAddr = source.parse().expect("an address");
            let line = encode_proxy_line(source, destination.parse().expect("an address"));
            assert_eq!(parse_proxy_line(line.as_bytes()), Some(source), "{line}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 x y 1 2\r\n",
            "PROXY UNKNOWN\r\n",
            "PROXY TCP4 203.0.113.7 198.51.100.1 4000 443\n",
            "PROXY TCP4 203.0.113.7 198.51.100.1 4000 443 \r\n",
            "PROXY TCP4 203.0.113.7 198.51.100.1 04000 443\r\n",
            "PROXY TCP4 203.0.113.7 198.51.100.1 70000 443\r\n",
            "PROXY TCP4 2001:db8::1 2001:db8::2 4000 443\r\n",
            "PROXY TCP6 203.0.113.7 198.51.100.1 4000 443\r\n",
            "\r\n",
            "",
        ] {
            assert_eq!(parse_proxy_line(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_line_panics_and_what_parses_has_one_spelling(line in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse_proxy_line(&line);
        }
    }
}
