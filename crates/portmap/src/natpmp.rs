//! NAT-PMP's datagrams (RFC 6886).

use std::net::Ipv4Addr;

const VERSION: u8 = 0;
const RESPONSE: u8 = 0x80;
const OPCODE_ADDRESS: u8 = 0;
const OPCODE_MAP_UDP: u8 = 1;

/// Asks for the external address (section 3.2).
pub const ADDRESS_REQUEST: [u8; 2] = [VERSION, OPCODE_ADDRESS];

/// Asks for a UDP mapping (section 3.3); with both `suggested` and `lifetime` zero for its end (section 3.4).
pub fn map_request(internal_port: u16, suggested: u16, lifetime: u32) -> Vec<u8> {
    let mut bytes = vec![VERSION, OPCODE_MAP_UDP, 0, 0];
    bytes.extend_from_slice(&internal_port.to_be_bytes());
    bytes.extend_from_slice(&suggested.to_be_bytes());
    bytes.extend_from_slice(&lifetime.to_be_bytes());
    bytes
}

/// What a gateway answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Its external address; also announced without being asked.
    Address {
        /// Seconds since its state began.
        epoch: u32,
        /// The address.
        external: Ipv4Addr,
    },
    /// A mapping.
    Map {
        /// Seconds since its state began.
        epoch: u32,
        /// Ours.
        internal_port: u16,
        /// The gateway's.
        external_port: u16,
        /// Seconds; 0: it is deleted.
        lifetime: u32,
    },
    /// It will not (section 3.5): 1 unsupported version, 2 not authorized, 3 network failure, 4 no resources, 5
    /// unsupported operation.
    Refused {
        /// Which.
        code: u16,
    },
}

/// Why a datagram is no NAT-PMP response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not the one length that it may have.
    #[error("length")]
    Length,
    /// Not version 0.
    #[error("version")]
    Version,
    /// A request.
    #[error("no response")]
    NoResponse,
    /// An operation that we never ask for.
    #[error("opcode")]
    Opcode,
}

/// Reads a response.
///
/// # Errors
/// It is none.
pub fn parse(datagram: &[u8]) -> Result<Response, Malformed> {
    let (head, body) = datagram.split_first_chunk::<4>().ok_or(Malformed::Length)?;
    let [version, opcode, r0, r1] = *head;
    if version != VERSION {
        return Err(Malformed::Version);
    }
    if opcode & RESPONSE == 0 {
        return Err(Malformed::NoResponse);
    }
    let code = u16::from_be_bytes([r0, r1]);
    if code != 0 {
        // An error may be as long as what was asked; the epoch is always there.
        return if (4..=crate::pcp::MAX_LENGTH).contains(&body.len()) {
            Ok(Response::Refused { code })
        } else {
            Err(Malformed::Length)
        };
    }
    match opcode & !RESPONSE {
        OPCODE_ADDRESS => {
            let [e0, e1, e2, e3, a, b, c, d] = body.try_into().map_err(|_| Malformed::Length)?;
            let epoch = u32::from_be_bytes([e0, e1, e2, e3]);
            Ok(Response::Address { epoch, external: Ipv4Addr::new(a, b, c, d) })
        }
        OPCODE_MAP_UDP => {
            let [e0, e1, e2, e3, i0, i1, p0, p1, l0, l1, l2, l3] =
                body.try_into().map_err(|_| Malformed::Length)?;
            Ok(Response::Map {
                epoch: u32::from_be_bytes([e0, e1, e2, e3]),
                internal_port: u16::from_be_bytes([i0, i1]),
                external_port: u16::from_be_bytes([p0, p1]),
                lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
            })
        }
        _ => Err(Malformed::Opcode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_asked_for_in_the_layout_of_section_3_3() {
        assert_eq!(map_request(0x1234, 0x5678, 7200), [0, 1, 0, 0, 0x12, 0x34, 0x56, 0x78, 0, 0, 0x1c, 0x20]);
    }

    #[test]
    fn answers_are_read_from_the_layouts_of_sections_3_2_and_3_3() {
        assert_eq!(
            parse(&[0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100, 7]),
            Ok(Response::Address { epoch: 9, external: Ipv4Addr::new(198, 51, 100, 7) })
        );
        assert_eq!(
            parse(&[0, 129, 0, 0, 0, 0, 0, 9, 0x12, 0x34, 0x56, 0x78, 0, 0, 0x1c, 0x20]),
            Ok(Response::Map { epoch: 9, internal_port: 0x1234, external_port: 0x5678, lifetime: 7200 })
        );
        assert_eq!(parse(&[0, 129, 0, 2, 0, 0, 0, 9]), Ok(Response::Refused { code: 2 }));
    }

    #[test]
    fn what_is_not_exactly_an_answer_is_refused() {
        assert_eq!(parse(&[0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100]), Err(Malformed::Length));
        assert_eq!(parse(&[0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100, 7, 0]), Err(Malformed::Length));
        assert_eq!(parse(&[0, 129, 0, 2, 0, 0]), Err(Malformed::Length));
        assert_eq!(parse(&[0, 0, 0, 0]), Err(Malformed::NoResponse));
        assert_eq!(parse(&[2, 129, 0, 0]), Err(Malformed::Version));
        assert_eq!(parse(&[0, 130, 0, 0, 0, 0, 0, 1]), Err(Malformed::Opcode));
    }
}
