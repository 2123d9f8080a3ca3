//! What somebody asks to reach, as they wrote it.

use std::{fmt, net::IpAddr, str::FromStr};

/// Longest host name (RFC 1035 section 2.3.4, in text form).
const MAX_NAME: usize = 253;

/// A host as asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// A resource's name or alias, or a host name; lower case, without a dot at its end.
    Name(String),
    /// A literal address.
    Ip(IpAddr),
}

/// A host and a TCP port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Why a text is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected HOST:PORT (a resource's name, alias, host name or address, and a port from 1 to 65535), got {got:?}"
)]
pub struct TargetError {
    got: String,
}

impl TargetError {
    fn new(got: &str) -> Self {
        Self { got: got.chars().filter(|c| !c.is_control()).take(120).collect() }
    }
}

impl FromStr for Host {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            // ::ffff:a.b.c.d is the IPv4 resource to whoever asks for it (RFC 4291 section 2.5.5.2).
            return Ok(Self::Ip(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        // Resource names are free text that people chose; what can never be in one is refused here, and so is what would
        // mean something else without its last dot.
        let fits = !name.is_empty()
            && name.len() <= MAX_NAME
            && !name.ends_with('.')
            && name.parse::<IpAddr>().is_err()
            && !name.chars().any(|c| c.is_control() || c.is_whitespace() || "/\\@:[]\"<>".contains(c));
        if fits { Ok(Self::Name(name.to_lowercase())) } else { Err(TargetError::new(text)) }
    }
}

impl FromStr for Target {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let error = || TargetError::new(text);
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(error)?;
        // An IPv6 address needs its brackets, else its last group would be taken for the port.
        if host.contains(':') && !host.starts_with('[') {
            return Err(error());
        }
        Ok(Self { host: host.parse().map_err(|_| error())?, port })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_lose_case_and_final_dot_and_addresses_are_canonical() {
        let target = |text: &str| text.parse::<Target>().expect(text).to_string();
        assert_eq!(target("Wiki.Example.:443"), "wiki.example:443");
        assert_eq!(target("10.0.0.1:80"), "10.0.0.1:80");
        assert_eq!(target("[2001:DB8::1]:80"), "[2001:db8::1]:80");
        assert_eq!(target("[::ffff:10.0.0.1]:80"), "10.0.0.1:80");
    }

    #[test]
    fn what_is_no_host_and_port_says_what_was_expected() {
        for bad in [
            "",
            "wiki",
            "wiki:",
            "wiki:0",
            "wiki:+1",
            "wiki:65536",
            ":80",
            "2001:db8::1:80",
            "a b:80",
            "a\0:80",
        ] {
            let error = bad.parse::<Target>().expect_err(bad).to_string();
            assert!(error.contains("HOST:PORT"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_each_target_reads_back(text in "\\PC{0,80}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }
    }
}
