//! The Port Control Protocol's datagrams (RFC 6887): MAP and ANNOUNCE.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The gateway's port, for NAT-PMP too (RFC 6887, section 19.1).
pub const SERVER_PORT: u16 = 5351;
/// Where hosts hear announcements (RFC 6887, section 14.1.2).
pub const CLIENT_PORT: u16 = 5350;
/// No datagram is longer (RFC 6887, section 7).
pub const MAX_LENGTH: usize = 1100;

const VERSION: u8 = 2;
const HEADER: usize = 24;
const MAP: usize = 36;
const RESPONSE: u8 = 0x80;
const OPCODE_ANNOUNCE: u8 = 0;
const OPCODE_MAP: u8 = 1;
const UDP: u8 = 17;

/// Says whose a mapping is: who does not know it cannot change the mapping (RFC 6887, section 11.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 12]);

/// A MAP request for a UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapRequest {
    /// Our own address as the gateway must see it.
    pub client: IpAddr,
    /// Whose mapping.
    pub nonce: Nonce,
    /// Our port.
    pub internal_port: u16,
    /// What we would like to get: what we had; before that an unspecified address of the same family.
    pub suggested: SocketAddr,
    /// Seconds; 0 deletes.
    pub lifetime: u32,
}

impl MapRequest {
    /// RFC 6887, sections 7.1 and 11.1.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = request_header(OPCODE_MAP, self.lifetime, self.client);
        bytes.extend_from_slice(&self.nonce.0);
        bytes.extend_from_slice(&[UDP, 0, 0, 0]);
        bytes.extend_from_slice(&self.internal_port.to_be_bytes());
        bytes.extend_from_slice(&self.suggested.port().to_be_bytes());
        bytes.extend_from_slice(&wide(self.suggested.ip()).octets());
        bytes
    }
}

/// An ANNOUNCE request: the answer tells the epoch (RFC 6887, section 14.1).
pub fn announce_request(client: IpAddr) -> Vec<u8> {
    request_header(OPCODE_ANNOUNCE, 0, client)
}

fn request_header(opcode: u8, lifetime: u32, client: IpAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + MAP);
    bytes.extend_from_slice(&[VERSION, opcode, 0, 0]);
    bytes.extend_from_slice(&lifetime.to_be_bytes());
    bytes.extend_from_slice(&wide(client).octets());
    bytes
}

/// Section 5: an IPv4 address travels as an IPv4-mapped IPv6 address.
const fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// What a gateway answered to what we asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Response {
    /// Seconds since the gateway's state began.
    pub epoch: u32,
    /// Seconds: of the mapping; of an error, how long it will last.
    pub lifetime: u32,
    /// What about it.
    pub body: Body,
}

/// What a response is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The gateway is there; nothing else.
    Announce,
    /// A mapping was made, renewed or (lifetime 0) deleted.
    Map(Map),
    /// The gateway speaks another version only (the one it names).
    UnsupportedVersion(u8),
    /// It will not.
    Refused(ResultCode),
}

/// The mapping of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// As in the request.
    pub nonce: Nonce,
    /// As in the request.
    pub internal_port: u16,
    /// Where others reach it.
    pub external: SocketAddr,
}

/// Why a gateway will not (RFC 6887, section 7.4). Codes that nobody assigned yet are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResultCode(pub u8);

impl ResultCode {
    /// A word for logs.
    pub const fn label(self) -> &'static str {
        match self.0 {
            0 => "success",
            1 => "unsupported-version",
            2 => "not-authorized",
            3 => "malformed-request",
            4 => "unsupported-opcode",
            5 => "unsupported-option",
            6 => "malformed-option",
            7 => "network-failure",
            8 => "no-resources",
            9 => "unsupported-protocol",
            10 => "user-exceeded-quota",
            11 => "cannot-provide-external",
            12 => "address-mismatch",
            13 => "excessive-remote-peers",
            _ => "unassigned",
        }
    }
}

/// Why a datagram is no PCP response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than what it must hold, longer than allowed, or not a multiple of four.
    #[error("length")]
    Length,
    /// Another version that says success.
    #[error("version")]
    Version,
    /// A request.
    #[error("no response")]
    NoResponse,
    /// An operation that we never ask for.
    #[error("opcode")]
    Opcode,
    /// A mapping of another transport.
    #[error("transport")]
    Transport,
    /// Options that do not add up to the length.
    #[error("options")]
    Options,
}

/// Reads a response; strict about lengths, options and reserved values that matter.
///
/// # Errors
/// It is none.
pub fn parse(datagram: &[u8]) -> Result<Response, Malformed> {
    // Section 8.3: a response shorter than the header, too long or not a multiple of four is dropped.
    if datagram.len() > MAX_LENGTH || !datagram.len().is_multiple_of(4) {
        return Err(Malformed::Length);
    }
    let (header, payload) = datagram.split_first_chunk::<HEADER>().ok_or(Malformed::Length)?;
    let [version, opcode, _, result, l0, l1, l2, l3, e0, e1, e2, e3, ..] = *header;
    if opcode & RESPONSE == 0 {
        return Err(Malformed::NoResponse);
    }
    let lifetime = u32::from_be_bytes([l0, l1, l2, l3]);
    let epoch = u32::from_be_bytes([e0, e1, e2, e3]);
    let respond = |body| Ok(Response { epoch, lifetime, body });
    if result == 1 {
        return respond(Body::UnsupportedVersion(version));
    }
    if version != VERSION {
        return Err(Malformed::Version);
    }
    let opcode = opcode & !RESPONSE;
    if opcode != OPCODE_ANNOUNCE && opcode != OPCODE_MAP {
        return Err(Malformed::Opcode);
    }
    if result != 0 {
        return respond(Body::Refused(ResultCode(result)));
    }
    if opcode == OPCODE_ANNOUNCE {
        check_options(payload)?;
        return respond(Body::Announce);
    }
    let (map, options) = payload.split_first_chunk::<MAP>().ok_or(Malformed::Length)?;
    check_options(options)?;
    let (nonce, rest) = map.split_first_chunk::<12>().ok_or(Malformed::Length)?;
    let (fixed, address) = rest.split_first_chunk::<8>().ok_or(Malformed::Length)?;
    let [transport, _, _, _, i0, i1, p0, p1] = *fixed;
    if transport != UDP {
        return Err(Malformed::Transport);
    }
    let address: [u8; 16] = address.try_into().map_err(|_| Malformed::Length)?;
    let external = SocketAddr::new(Ipv6Addr::from(address).to_canonical(), u16::from_be_bytes([p0, p1]));
    respond(Body::Map(Map { nonce: Nonce(*nonce), internal_port: u16::from_be_bytes([i0, i1]), external }))
}

/// Section 7.3: code, reserved, length, then data padded to four. What they say is not for us: we ask for none.
fn check_options(mut rest: &[u8]) -> Result<(), Malformed> {
    while let Some((head, data)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]])).next_multiple_of(4);
        rest = data.get(length..).ok_or(Malformed::Options)?;
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed::Options) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success() -> Vec<u8> {
        let mut bytes = vec![2, 0x81, 0, 0];
        bytes.extend_from_slice(&7200u32.to_be_bytes());
        bytes.extend_from_slice(&99u32.to_be_bytes());
        bytes.extend_from_slice(&[0; 12]);
        bytes.extend_from_slice(&[5; 12]);
        bytes.extend_from_slice(&[17, 0, 0, 0, 0xca, 0x6c, 0x30, 0x39]);
        bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7]);
        bytes
    }

    #[test]
    fn a_map_request_has_the_layout_of_section_11_1() {
        let request = MapRequest {
            client: "192.168.1.20".parse().unwrap(),
            nonce: Nonce([9; 12]),
            internal_port: 0xca6c,
            suggested: "0.0.0.0:51820".parse().unwrap(),
            lifetime: 7200,
        };
        let bytes = request.encode();
        assert_eq!(bytes.len(), 60);
        assert_eq!(&bytes[..8], &[2, 1, 0, 0, 0, 0, 0x1c, 0x20]);
        assert_eq!(&bytes[8..24], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 20]);
        assert_eq!(&bytes[24..36], &[9; 12]);
        assert_eq!(&bytes[36..44], &[17, 0, 0, 0, 0xca, 0x6c, 0xca, 0x6c]);
        assert_eq!(&bytes[44..60], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn a_map_response_is_read_from_the_layout_of_section_11_1() {
        let read = parse(&success()).unwrap();
        assert_eq!((read.lifetime, read.epoch), (7200, 99));
        let external = "198.51.100.7:12345".parse().unwrap();
        assert_eq!(read.body, Body::Map(Map { nonce: Nonce([5; 12]), internal_port: 51820, external }));
    }

    #[test]
    fn every_shortened_response_is_refused() {
        let whole = success();
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn options_must_add_up() {
        let mut bytes = success();
        bytes.extend_from_slice(&[3, 0, 0, 2, 1, 1, 0, 0]);
        assert!(parse(&bytes).is_ok());
        bytes.extend_from_slice(&[3, 0, 0, 8, 1, 1, 0, 0]);
        assert_eq!(parse(&bytes), Err(Malformed::Options));
    }

    #[test]
    fn requests_other_transports_and_other_versions_are_no_answer() {
        let changed = |at: usize, value: u8| {
            let mut bytes = success();
            bytes[at] = value;
            parse(&bytes)
        };
        assert_eq!(changed(1, 1), Err(Malformed::NoResponse));
        assert_eq!(changed(1, 0x82), Err(Malformed::Opcode));
        assert_eq!(changed(0, 3), Err(Malformed::Version));
        assert_eq!(changed(36, 6), Err(Malformed::Transport));
        assert_eq!(changed(3, 2).unwrap().body, Body::Refused(ResultCode(2)));
        assert_eq!(changed(3, 1).unwrap().body, Body::UnsupportedVersion(2));
    }
}
