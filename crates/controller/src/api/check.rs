//! The rules of values that people type. Each refusal names field, rule and value.

use super::problem::Problem;
use policy::{Address, PortRange, Prefix, Protocol};
use std::{fmt::Display, str::FromStr};
use store::PortProtocol;

/// Longest name of anything.
const MAX_NAME: usize = 64;
/// And in bytes: the names of a device and its owner are in its grants, which have no longer ones.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// Most entries of a list in a request.
const MAX_LIST: usize = 1000;

fn shown(value: &str) -> String {
    value.chars().take(120).collect()
}

/// A name: 1 to 64 characters, no control characters, no spaces at its ends.
pub(crate) fn name(field: &str, value: &str) -> Result<String, Problem> {
    let count = value.chars().count();
    if count == 0 || count > MAX_NAME {
        return Err(Problem::invalid(field, format!("1 to {MAX_NAME} characters"), shown(value)));
    }
    if value.len() > MAX_NAME_BYTES {
        let rule = format!("1 to {MAX_NAME} characters, and at most {MAX_NAME_BYTES} bytes");
        return Err(Problem::invalid(field, rule, shown(value)));
    }
    if value.chars().any(char::is_control) {
        return Err(Problem::invalid(field, "no control characters", shown(value)));
    }
    if value.trim() != value {
        return Err(Problem::invalid(field, "no spaces at the beginning or end", shown(value)));
    }
    Ok(value.to_owned())
}

/// An address for mail, as far as it can be known without sending one.
pub(crate) fn email(field: &str, value: &str) -> Result<String, Problem> {
    let fits = value.len() <= 254
        && !value.chars().any(|c| c.is_control() || c.is_whitespace())
        && value.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if !fits {
        return Err(Problem::invalid(field, "an address like name@example.com", shown(value)));
    }
    Ok(value.to_ascii_lowercase())
}

/// A text that another type parses; the rule is what the parser says that it expects.
pub(crate) fn parsed<T: FromStr<Err: Display>>(field: &str, value: &str) -> Result<T, Problem> {
    value.parse().map_err(|error: T::Err| Problem::refused(field, &error.to_string(), shown(value)))
}

pub(crate) fn list_length(field: &str, length: usize) -> Result<(), Problem> {
    if length > MAX_LIST {
        return Err(Problem::invalid(field, format!("at most {MAX_LIST} entries"), length));
    }
    Ok(())
}

pub(crate) fn prefixes(values: &[String]) -> Result<Vec<String>, Problem> {
    list_length("prefixes", values.len())?;
    let each = values.iter().enumerate();
    each.map(|(index, value)| Ok(parsed::<Prefix>(&format!("prefixes[{index}]"), value)?.to_string()))
        .collect()
}

pub(crate) fn regions(values: &[String]) -> Result<Vec<String>, Problem> {
    list_length("regions", values.len())?;
    values.iter().enumerate().map(|(index, value)| place(&format!("regions[{index}]"), value)).collect()
}

/// A region or zone: lower case, digits and dashes.
pub(crate) fn place(field: &str, value: &str) -> Result<String, Problem> {
    let fits = (1..=32).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(value.to_owned())
    } else {
        Err(Problem::invalid(field, "1 to 32 lower-case letters, digits and dashes", shown(value)))
    }
}

pub(crate) fn address(value: &str) -> Result<String, Problem> {
    Ok(parsed::<Address>("address", value)?.to_string())
}

pub(crate) fn ports(values: &[String]) -> Result<Vec<store::Ports>, Problem> {
    if values.is_empty() {
        return Err(Problem::invalid(
            "ports",
            "at least one port like 443 or udp/53, or icmp",
            Vec::<String>::new(),
        ));
    }
    list_length("ports", values.len())?;
    let each = values.iter().enumerate().map(|(index, value)| {
        let range: PortRange = parsed(&format!("ports[{index}]"), value)?;
        let protocol = match range.protocol() {
            Protocol::Tcp => PortProtocol::Tcp,
            Protocol::Udp => PortProtocol::Udp,
            Protocol::Icmp => PortProtocol::Icmp,
        };
        Ok(store::Ports { protocol, first: range.first(), last: range.last() })
    });
    let mut ports = each.collect::<Result<Vec<_>, Problem>>()?;
    ports.sort();
    ports.dedup();
    Ok(ports)
}

/// `HOST:PORT`, as a PoP is dialled.
pub(crate) fn host_port(field: &str, value: &str) -> Result<String, Problem> {
    let rule = "HOST:PORT, with an IP address (IPv6 in brackets) or a host name, and a port from 1 to 65535";
    let wrong = || Problem::invalid(field, rule, shown(value));
    if let Ok(address) = value.parse::<std::net::SocketAddr>() {
        let usable = address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast();
        return if usable { Ok(address.to_string()) } else { Err(wrong()) };
    }
    let (host, port) = value.rsplit_once(':').ok_or_else(wrong)?;
    let host: policy::HostName = host.parse().map_err(|_| wrong())?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(port) if port > 0 && digits => Ok(format!("{host}:{port}")),
        _ => Err(wrong()),
    }
}

/// A number within bounds.
pub(crate) fn within(field: &str, value: u64, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, Problem> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(Problem::invalid(field, format!("{} to {}", bounds.start(), bounds.end()), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_of_pops_are_held_against_their_rules() {
        assert!(name("name", "Gdańsk plant").is_ok());
        for (character, most) in [("\u{6771}", 64), ("\u{1f30a}", 63)] {
            assert!(name("name", &character.repeat(most)).is_ok(), "{most} of {character}");
            assert!(name("name", &character.repeat(most + 1)).is_err());
        }
        for bad in ["", " a", "a\u{7}", &"x".repeat(65)] {
            assert_eq!(name("name", bad).unwrap_err().field.as_deref(), Some("name"), "{bad:?}");
        }
        for good in ["203.0.113.7:443", "[2001:db8::1]:443", "pop.example.com:443"] {
            assert_eq!(host_port("address", good).unwrap(), good);
        }
        for bad in [
            "203.0.113.7",
            "0.0.0.0:443",
            "host:0",
            "host:1-2",
            "host:udp/53",
            "host:+5",
            "a b:1",
            ":443",
            "203.0.113.7:0",
        ] {
            assert!(host_port("address", bad).is_err(), "{bad}");
        }
        assert_eq!(within("cap", 0, 1..=3).unwrap_err().rule.as_deref(), Some("1 to 3"));
    }
}
