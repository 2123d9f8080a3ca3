//! The search for a UPnP gateway (UPnP Device Architecture 1.1, section 1.3) and the one URL its answer names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Where searches go.
pub const PORT: u16 = 1900;
/// Who hears a search that is for everybody.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// No answer is longer than a datagram of an Ethernet.
pub const MAX_ANSWER: usize = 2048;

/// A device of version 2 has to answer a search for version 1 as well (section 1.3.2).
const TARGET: &str = "urn:schemas-upnp-org:device:InternetGatewayDevice:1";
const MAX_PATH: usize = 256;
const MAX_HEADERS: usize = 32;

/// A search; `host` is where it goes.
pub fn search(host: SocketAddr) -> Vec<u8> {
    // Only a multicast search has MX; a host asked alone answers at once (section 1.3.2).
    let wait = if host.ip().is_multicast() { "MX: 1\r\n" } else { "" };
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {host}\r\nMAN: \"ssdp:discover\"\r\n{wait}ST: {TARGET}\r\n\r\n")
        .into_bytes()
}

/// A URL of the gateway: its own address, a port and a path. It cannot name another host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayUrl {
    to: SocketAddr,
    path: String,
}

impl GatewayUrl {
    /// Where to connect.
    pub const fn to(&self) -> SocketAddr {
        self.to
    }

    /// What to ask for there: begins with a slash, and is of characters that a URL may have.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Reads an absolute `http` URL whose host is `gateway`, written as an address.
    ///
    /// # Errors
    /// It names another scheme, another host or a name, a port of another service, or is no such URL.
    pub fn absolute(url: &str, gateway: IpAddr) -> Result<Self, Malformed> {
        const SCHEME: &str = "http://";
        let (scheme, rest) = url.split_at_checked(SCHEME.len()).ok_or(Malformed::Url)?;
        if !scheme.eq_ignore_ascii_case(SCHEME) {
            return Err(Malformed::Url);
        }
        let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
        let to = authority
            .parse::<SocketAddr>()
            .or_else(|_| authority.parse::<Ipv4Addr>().map(|host| SocketAddr::new(host.into(), 80)))
            .map_err(|_| Malformed::Url)?;
        if to.ip() != gateway {
            return Err(Malformed::ForeignHost);
        }
        // Whoever forges the gateway's answer must not make us talk to its mail, shell or name service.
        if to.port() != 80 && to.port() < 1024 {
            return Err(Malformed::Port);
        }
        Ok(Self { to, path: checked_path(path)? })
    }

    /// A URL of a document that came from this one: absolute, or a path.
    ///
    /// # Errors
    /// As [`Self::absolute`].
    pub fn join(&self, url: &str) -> Result<Self, Malformed> {
        if url.contains("://") {
            return Self::absolute(url, self.to.ip());
        }
        if url.starts_with("//") {
            return Err(Malformed::Url);
        }
        if url.starts_with('/') {
            return Ok(Self { to: self.to, path: checked_path(url)? });
        }
        let folder = self.path.rfind('/').and_then(|slash| self.path.get(..=slash)).unwrap_or("/");
        Ok(Self { to: self.to, path: checked_path(&format!("{folder}{url}"))? })
    }
}

fn checked_path(path: &str) -> Result<String, Malformed> {
    // RFC 3986, section 3.3 and 3.4: what needs no escape, and the escape itself. No space, no control, no fragment.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@%?".contains(&byte);
    if path.len() > MAX_PATH || !path.starts_with('/') || !path.bytes().all(allowed) {
        return Err(Malformed::Url);
    }
    Ok(path.to_owned())
}

/// Why a datagram is no answer that we follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not an HTTP response with status 200.
    #[error("no answer")]
    NoAnswer,
    /// It answers another search, or names no location.
    #[error("target")]
    Target,
    /// Not a URL that we read.
    #[error("url")]
    Url,
    /// A URL of somebody else.
    #[error("foreign host")]
    ForeignHost,
    /// A port that is another service's.
    #[error("port")]
    Port,
}

/// Reads an answer to a search.
///
/// # Errors
/// It is none, or names a place that is not the gateway's.
pub fn parse_answer(datagram: &[u8], gateway: IpAddr) -> Result<GatewayUrl, Malformed> {
    if datagram.len() > MAX_ANSWER {
        return Err(Malformed::NoAnswer);
    }
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(datagram).map_err(|_| Malformed::NoAnswer)?;
    if !parsed.is_complete() || response.code != Some(200) {
        return Err(Malformed::NoAnswer);
    }
    let header = |name: &str| {
        let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let value = found.next().and_then(|header| std::str::from_utf8(header.value).ok());
        // Twice the same header is nobody's honest answer.
        if found.next().is_some() { None } else { value.map(str::trim) }
    };
    if header("ST") != Some(TARGET) {
        return Err(Malformed::Target);
    }
    GatewayUrl::absolute(header("LOCATION").ok_or(Malformed::Target)?, gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));

    fn answer(location: &str) -> Vec<u8> {
        format!(
            "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\nST: {TARGET}\r\nUSN: uuid:1::{TARGET}\r\nEXT:\r\n\
             SERVER: Debian UPnP/1.1\r\nLOCATION: {location}\r\n\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn a_search_for_everybody_names_the_group_and_one_for_the_gateway_does_not() {
        let text = String::from_utf8(search(SocketAddr::new(GROUP.into(), PORT))).unwrap();
        assert!(text.starts_with("M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n"), "{text}");
        assert!(text.contains("MX: 1\r\n") && text.ends_with("\r\n\r\n"));
        let text = String::from_utf8(search(SocketAddr::new(GATEWAY, PORT))).unwrap();
        assert!(text.contains("HOST: 192.168.1.1:1900\r\n") && !text.contains("MX"));
    }

    #[test]
    fn the_gateways_own_location_is_read() {
        let url = parse_answer(&answer("http://192.168.1.1:5000/rootDesc.xml"), GATEWAY).unwrap();
        assert_eq!((url.to(), url.path()), ("192.168.1.1:5000".parse().unwrap(), "/rootDesc.xml"));
        let url = parse_answer(&answer("http://192.168.1.1"), GATEWAY).unwrap();
        assert_eq!((url.to(), url.path()), ("192.168.1.1:80".parse().unwrap(), "/"));
    }

    #[test]
    fn no_location_elsewhere_is_followed() {
        let of = |location: &str| parse_answer(&answer(location), GATEWAY).unwrap_err();
        assert_eq!(of("http://169.254.169.254/latest/meta-data"), Malformed::ForeignHost);
        assert_eq!(of("http://127.0.0.1:5000/x"), Malformed::ForeignHost);
        assert_eq!(of("http://192.168.1.1@10.0.0.1:80/x"), Malformed::Url);
        assert_eq!(of("http://router.example:5000/x"), Malformed::Url);
        assert_eq!(of("https://192.168.1.1:5000/x"), Malformed::Url);
        assert_eq!(of("http://192.168.1.1:25/x"), Malformed::Port);
        assert_eq!(of("http://192.168.1.1:5000/a b"), Malformed::Url);
        assert_eq!(of(&format!("http://192.168.1.1:5000/{}", "a".repeat(300))), Malformed::Url);
    }

    #[test]
    fn a_control_url_stays_at_the_gateway() {
        let base = GatewayUrl::absolute("http://192.168.1.1:5000/igd/root.xml", GATEWAY).unwrap();
        assert_eq!(base.join("/ctl/IPConn").unwrap().path(), "/ctl/IPConn");
        assert_eq!(base.join("ctl").unwrap().path(), "/igd/ctl");
        assert_eq!(base.join("http://192.168.1.1:6000/c").unwrap().to().port(), 6000);
        assert_eq!(base.join("http://10.0.0.1:6000/c"), Err(Malformed::ForeignHost));
        assert_eq!(base.join("//10.0.0.1/c"), Err(Malformed::Url));
        assert_eq!(base.join("/c\r\nX: y"), Err(Malformed::Url));
    }
}
