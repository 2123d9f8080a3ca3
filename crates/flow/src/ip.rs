//! A small validated reader of IP and TCP headers: what it returns was checked, once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why bytes are not a packet this crate reads. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum IpError {
    /// Shorter than its header.
    #[error("the packet is shorter than its header")]
    TooShort,
    /// Neither version 4 nor 6.
    #[error("the packet is neither IPv4 nor IPv6")]
    Version,
    /// The IPv4 header length is below 20 or beyond the packet.
    #[error("the IPv4 header length is wrong")]
    HeaderLength,
    /// The length field and the bytes disagree.
    #[error("the packet's length field and its bytes disagree")]
    Length,
    /// A fragment; nothing here fragments, the MTU is known.
    #[error("the packet is a fragment")]
    Fragment,
    /// A source that is no unicast address (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7).
    #[error("the source is no unicast address")]
    Source,
    /// The TCP or UDP header is cut off or its length is wrong.
    #[error("the transport header is wrong")]
    Transport,
}

impl IpError {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::Version => "version",
            Self::HeaderLength => "header_length",
            Self::Length => "length",
            Self::Fragment => "fragment",
            Self::Source => "source",
            Self::Transport => "transport",
        }
    }
}

/// The protocol inside an IP packet. IPv6 extension headers are protocols of their own number: nothing
/// here needs to look behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// 6 (RFC 9293).
    Tcp,
    /// 17 (RFC 768).
    Udp,
    /// 1 (RFC 792) or 58 (RFC 4443), in the version it belongs to.
    Icmp,
    /// Any other.
    Other(u8),
}

/// An IP packet that passed the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpPacket<'a> {
    /// The source: a unicast address.
    pub src: IpAddr,
    /// The destination.
    pub dst: IpAddr,
    /// What is inside.
    pub protocol: Protocol,
    /// What is behind the IP header.
    pub payload: &'a [u8],
    /// The whole packet, cut to the length its header says.
    pub bytes: &'a [u8],
}

/// The two ends of a flow, as the packet says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// The protocol.
    pub protocol: Protocol,
    /// Where it comes from.
    pub src: SocketAddr,
    /// Where it goes.
    pub dst: SocketAddr,
}

/// TCP control bits (RFC 9293 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const ACK: u8 = 0x10;

    /// The sender has no more to send.
    #[must_use]
    pub const fn fin(self) -> bool {
        self.0 & Self::FIN != 0
    }
    /// The sender wants a connection.
    #[must_use]
    pub const fn syn(self) -> bool {
        self.0 & Self::SYN != 0
    }
    /// The sender knows no such connection.
    #[must_use]
    pub const fn rst(self) -> bool {
        self.0 & Self::RST != 0
    }
    /// The acknowledgement number means something.
    #[must_use]
    pub const fn ack(self) -> bool {
        self.0 & Self::ACK != 0
    }
    /// A connection attempt: SYN and nothing that contradicts it.
    #[must_use]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// A TCP header that passed the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpSegment {
    /// The two ends.
    pub tuple: FiveTuple,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Control bits.
    pub flags: TcpFlags,
    /// The window as written, not scaled.
    pub window: u16,
    /// Bytes of data.
    pub data_len: usize,
}

impl TcpSegment {
    /// How much sequence space the segment takes (RFC 9293 section 3.4).
    #[must_use]
    pub fn sequence_len(&self) -> u32 {
        u32::try_from(self.data_len).unwrap_or(0) + u32::from(self.flags.syn()) + u32::from(self.flags.fin())
    }
}

impl<'a> IpPacket<'a> {
    /// Reads an IP header. Padding behind the packet is cut off.
    ///
    /// # Errors
    /// Names what is wrong; nothing is allocated and nothing panics.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, IpError> {
        let packet = Self::read(bytes)?;
        let unicast = match packet.src {
            IpAddr::V4(src) => !src.is_multicast() && !src.is_broadcast() && !src.is_unspecified(),
            IpAddr::V6(src) => !src.is_multicast() && !src.is_unspecified(),
        };
        if unicast { Ok(packet) } else { Err(IpError::Source) }
    }

    fn read(bytes: &'a [u8]) -> Result<Self, IpError> {
        match bytes.first().ok_or(IpError::TooShort)? >> 4 {
            4 => {
                let (bytes, header_len) = Self::v4_lengths(bytes)?;
                // More fragments, or an offset (RFC 791 section 3.1).
                if bytes[6] & 0x3F != 0 || bytes[7] != 0 {
                    return Err(IpError::Fragment);
                }
                Ok(Self::v4(bytes, header_len))
            }
            6 => {
                let header = bytes.first_chunk::<40>().ok_or(IpError::TooShort)?;
                let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                let bytes = bytes.get(..40 + payload_len).ok_or(IpError::Length)?;
                Ok(Self::v6(header, bytes))
            }
            _ => Err(IpError::Version),
        }
    }

    /// The whole packet and its header's length.
    fn v4_lengths(bytes: &[u8]) -> Result<(&[u8], usize), IpError> {
        if bytes.len() < 20 {
            return Err(IpError::TooShort);
        }
        let header_len = usize::from(bytes[0] & 0x0F) * 4;
        let total_len = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
        if header_len < 20 {
            return Err(IpError::HeaderLength);
        }
        if total_len < header_len {
            return Err(IpError::Length);
        }
        Ok((bytes.get(..total_len).ok_or(IpError::Length)?, header_len))
    }

    fn v4(bytes: &'a [u8], header_len: usize) -> Self {
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Self {
            src: IpAddr::V4(address(12)),
            dst: IpAddr::V4(address(16)),
            protocol: match bytes[9] {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                1 => Protocol::Icmp,
                other => Protocol::Other(other),
            },
            payload: &bytes[header_len..],
            bytes,
        }
    }

    fn v6(header: &[u8; 40], bytes: &'a [u8]) -> Self {
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&header[at..at + 16]);
            IpAddr::V6(Ipv6Addr::from(octets))
        };
        Self {
            src: address(8),
            dst: address(24),
            protocol: match header[6] {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                58 => Protocol::Icmp,
                other => Protocol::Other(other),
            },
            payload: &bytes[40..],
            bytes,
        }
    }

    /// Reads the packet that an ICMP error quotes: its header, and as much of the rest as was quoted.
    #[must_use]
    pub fn quoted(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header_len = usize::from(bytes[0] & 0x0F) * 4;
                (header_len >= 20 && bytes.len() >= header_len).then(|| Self::v4(bytes, header_len))
            }
            6 => Some(Self::v6(bytes.first_chunk::<40>()?, bytes)),
            _ => None,
        }
    }

    /// The ports of a TCP or UDP packet, with the addresses.
    #[must_use]
    pub fn tuple(&self) -> Option<FiveTuple> {
        if !matches!(self.protocol, Protocol::Tcp | Protocol::Udp) {
            return None;
        }
        let ports = self.payload.first_chunk::<4>()?;
        Some(FiveTuple {
            protocol: self.protocol,
            src: SocketAddr::new(self.src, u16::from_be_bytes([ports[0], ports[1]])),
            dst: SocketAddr::new(self.dst, u16::from_be_bytes([ports[2], ports[3]])),
        })
    }

    /// Reads the TCP header of a TCP packet.
    ///
    /// # Errors
    /// [`IpError::Transport`] when this is not TCP or its header is wrong.
    pub fn tcp(&self) -> Result<TcpSegment, IpError> {
        let tuple = self.tuple().filter(|tuple| tuple.protocol == Protocol::Tcp).ok_or(IpError::Transport)?;
        let header = self.payload.first_chunk::<20>().ok_or(IpError::Transport)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < 20
            || header_len > self.payload.len()
            || tuple.src.port() == 0
            || tuple.dst.port() == 0
        {
            return Err(IpError::Transport);
        }
        Ok(TcpSegment {
            tuple,
            seq: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            ack: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            flags: TcpFlags(header[13]),
            window: u16::from_be_bytes([header[14], header[15]]),
            data_len: self.payload.len() - header_len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft;
    use proptest::prelude::*;

    #[test]
    fn a_segment_that_was_made_here_reads_back() {
        for (src, dst) in [("10.0.0.1:40000", "10.0.0.2:80"), ("[fd00::1]:40000", "[fd00::2]:80")] {
            let (src, dst): (SocketAddr, SocketAddr) =
                (src.parse().expect("address"), dst.parse().expect("address"));
            let bytes = craft::segment(src, dst, 7, 9, TcpFlags::SYN | TcpFlags::ACK);
            let packet = IpPacket::parse(&bytes).expect("valid");
            let segment = packet.tcp().expect("valid");
            assert_eq!(segment.tuple, FiveTuple { protocol: Protocol::Tcp, src, dst });
            assert_eq!((segment.seq, segment.ack, segment.data_len), (7, 9, 0));
            assert!(segment.flags.syn() && segment.flags.ack() && !segment.flags.opens());
        }
    }

    #[test]
    fn each_wrong_field_has_its_own_name() {
        let good = craft::segment(
            "10.0.0.1:1".parse().expect("address"),
            "10.0.0.2:2".parse().expect("address"),
            0,
            0,
            TcpFlags::SYN,
        );
        let with = |at: usize, value: u8| {
            let mut bad = good.clone();
            bad[at] = value;
            IpPacket::parse(&bad).and_then(|packet| packet.tcp()).expect_err("refused")
        };
        assert_eq!(with(0, 0x55), IpError::Version);
        assert_eq!(with(0, 0x44), IpError::HeaderLength);
        assert_eq!(with(3, 10), IpError::Length);
        assert_eq!(with(3, 200), IpError::Length);
        assert_eq!(with(6, 0x20), IpError::Fragment);
        assert_eq!(with(7, 0x01), IpError::Fragment);
        assert_eq!(with(12, 224), IpError::Source);
        assert_eq!(with(9, 17), IpError::Transport);
        assert_eq!(with(32, 0x40), IpError::Transport);
        assert_eq!(with(32, 0xF0), IpError::Transport);
        assert_eq!(IpPacket::parse(&[]).expect_err("empty"), IpError::TooShort);
        assert_eq!(IpPacket::parse(&good[..19]).expect_err("cut"), IpError::TooShort);
        assert_eq!(IpPacket::parse(&[0x60; 39]).expect_err("cut"), IpError::TooShort);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0_u8..16) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = (version << 4) | (*first & 0x0F);
            }
            if let Ok(packet) = IpPacket::parse(&bytes) {
                prop_assert!(packet.bytes.len() <= bytes.len());
                let _ = packet.tcp();
                let _ = packet.tuple();
                let _ = crate::unreachable(&packet, crate::Unreachable::Prohibited);
            }
            let _ = IpPacket::quoted(&bytes);
        }
    }
}
