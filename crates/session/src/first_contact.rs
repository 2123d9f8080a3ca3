//! First contact: the Retry that an unproven source gets (RFC 9000 sections 8.1.2 and 17.2.5).
//!
//! The QUIC library derives an Initial's keys and opens it before it asks who sent it: half of what a Retry costs. A
//! Retry says nothing about what is inside the packet that it answers, so here the header alone is read, and the
//! answer written. The library takes the token back; its form is the library's own, which the tests hold this to.
//! Whatever is not plainly a first contact goes to the library, which decides the same way.

use crate::{
    connection_id::KeyedConnectionIds,
    transport::{QUIC_V1, TokenClock},
};
use aws_lc_rs::{aead, hkdf};
use quinn_proto::{
    ConnectionId, ConnectionIdGenerator as _, TimeSource as _,
    crypto::{AeadKey, CryptoError, HandshakeTokenKey, ServerConfig},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

/// Long header, fixed bit, type Initial (RFC 9000 section 17.2.2); the rest of the byte is protected.
const INITIAL: u8 = 0b1100_0000;
/// The same of a Retry; the rest of the byte means nothing.
const RETRY: u8 = 0b1111_0000;
/// RFC 9000 sections 7.2 and 17.2.
const SHORTEST_FIRST_ID: usize = 8;
const LONGEST_ID: usize = 20;
/// The least that header protection can be taken off of: four bytes of packet number and a sample of 16.
const SHORTEST_PROTECTED: usize = 20;

/// A first packet without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FirstPacket<'a> {
    destination: &'a [u8],
    source: &'a [u8],
}

impl<'a> FirstPacket<'a> {
    /// Reads the header of a datagram; `None` for everything that is not plainly a first contact.
    pub(crate) fn read(datagram: &'a [u8]) -> Option<Self> {
        let (first, rest) = datagram.split_first()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        if first & 0xF0 != INITIAL || u32::from_be_bytes(*version) != QUIC_V1 {
            return None;
        }
        let (destination, rest) = id(rest)?;
        let (source, rest) = id(rest)?;
        let [0, rest @ ..] = rest else { return None };
        let (length, rest) = varint(rest)?;
        let is_whole = (SHORTEST_PROTECTED..=rest.len()).contains(&length);
        (destination.len() >= SHORTEST_FIRST_ID && is_whole).then_some(Self { destination, source })
    }
}

fn id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let length = usize::from(*length);
    if length > LONGEST_ID { None } else { rest.split_at_checked(length) }
}

/// RFC 9000 section 16.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let value = number.iter().fold(0_u64, |value, byte| (value << 8) | u64::from(*byte));
    // The two bits that said how long it is.
    let value = value & (u64::MAX >> (64 - (8 * number.len() - 2)));
    Some((usize::try_from(value).ok()?, rest))
}

/// Writes Retry packets.
pub(crate) struct Retries {
    key: Arc<TokenKey>,
    ids: KeyedConnectionIds,
    clock: Arc<TokenClock>,
    /// The next token's nonce.
    next: u64,
}

impl Retries {
    pub(crate) const fn new(key: Arc<TokenKey>, ids: KeyedConnectionIds, clock: Arc<TokenClock>) -> Self {
        Self { key, ids, clock, next: 0 }
    }

    /// The answer to a first packet; `None` when the token cannot be sealed.
    pub(crate) fn answer(
        &mut self,
        crypto: &dyn ServerConfig,
        from: SocketAddr,
        packet: FirstPacket<'_>,
    ) -> Option<Vec<u8>> {
        let own = self.ids.generate_cid();
        let mut out = Vec::with_capacity(160);
        out.push(RETRY);
        out.extend(QUIC_V1.to_be_bytes());
        put_id(&mut out, packet.source);
        put_id(&mut out, &own);
        out.extend(self.token(from, packet.destination)?);
        let tag = crypto.retry_tag(QUIC_V1, &ConnectionId::new(packet.destination), &out);
        out.extend(tag);
        Some(out)
    }

    /// The library's own form: kind, address, the id that the client made up, when.
    fn token(&mut self, from: SocketAddr, destination: &[u8]) -> Option<Vec<u8>> {
        let mut token = Vec::with_capacity(96);
        token.push(0);
        match from.ip() {
            IpAddr::V4(ip) => {
                token.push(0);
                token.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                token.push(1);
                token.extend(ip.octets());
            }
        }
        token.extend(from.port().to_be_bytes());
        put_id(&mut token, destination);
        let issued = self.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        token.extend(issued.as_secs().to_be_bytes());
        let nonce = u128::from(self.next).to_le_bytes();
        self.next += 1;
        self.key.aead_from_hkdf(&nonce).seal(&mut token, &[]).ok()?;
        token.extend(nonce);
        Some(token)
    }
}

fn put_id(out: &mut Vec<u8>, id: &[u8]) {
    out.push(u8::try_from(id.len()).expect("an id has at most 20 bytes"));
    out.extend_from_slice(id);
}

/// What seals and opens tokens. A number of our own counting is the cipher's nonce, under one key for the life of the
/// process; the library's random numbers each get a key of their own, as the library does it.
pub(crate) struct TokenKey {
    counted: Arc<aead::LessSafeKey>,
    random: hkdf::Prk,
}

impl TokenKey {
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tidegate/pop/retry-token/1");
        let random = salt.extract(seed);
        let mut key = [0; 32];
        random
            .expand(&[b"counted"], hkdf::HKDF_SHA256)
            .and_then(|bytes| bytes.fill(&mut key))
            .expect("32 bytes are what one block of SHA-256 gives");
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &key).expect("the cipher's key has 32 bytes");
        Self { counted: Arc::new(aead::LessSafeKey::new(key)), random }
    }
}

impl HandshakeTokenKey for TokenKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        match (random_bytes.first_chunk::<8>(), random_bytes.get(8..)) {
            // Of 2⁶⁴ random numbers one looks like a counted one.
            (Some(number), Some([0, 0, 0, 0, 0, 0, 0, 0])) => {
                let mut nonce = [0; aead::NONCE_LEN];
                nonce[..8].copy_from_slice(number);
                Box::new(Counted { key: Arc::clone(&self.counted), nonce })
            }
            _ => self.random.aead_from_hkdf(random_bytes),
        }
    }
}

struct Counted {
    key: Arc<aead::LessSafeKey>,
    nonce: [u8; aead::NONCE_LEN],
}

impl AeadKey for Counted {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key(self.nonce);
        self.key
            .seal_in_place_append_tag(nonce, aead::Aad::from(additional_data), data)
            .map_err(|_| CryptoError)
    }

    fn open<'a>(&self, data: &'a mut [u8], additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key(self.nonce);
        self.key.open_in_place(nonce, aead::Aad::from(additional_data), data).map_err(|_| CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn first(destination: &[u8], source: &[u8], token: &[u8], length: u16) -> Vec<u8> {
        let mut out = vec![0xC3];
        out.extend(QUIC_V1.to_be_bytes());
        put_id(&mut out, destination);
        put_id(&mut out, source);
        out.push(u8::try_from(token.len()).expect("short"));
        out.extend_from_slice(token);
        out.extend((0x4000 | length).to_be_bytes());
        out.resize(1200, 0x5A);
        out
    }

    #[test]
    fn a_first_packet_is_known_by_its_header_alone() {
        let datagram = first(&[1; 8], &[2; 5], &[], 1000);
        assert_eq!(FirstPacket::read(&datagram), Some(FirstPacket { destination: &[1; 8], source: &[2; 5] }));
        assert!(FirstPacket::read(&first(&[1; 20], &[], &[], 1000)).is_some());
    }

    #[test]
    fn what_is_not_plainly_a_first_contact_goes_to_the_library() {
        let good = first(&[1; 8], &[2; 5], &[], 1000);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        for (why, datagram) in [
            ("a token", first(&[1; 8], &[2; 5], &[7; 30], 1000)),
            ("an id that is too short", first(&[1; 7], &[2; 5], &[], 1000)),
            ("longer than the datagram", first(&[1; 8], &[2; 5], &[], 1200)),
            ("nothing inside", first(&[1; 8], &[2; 5], &[], 19)),
            ("a short header", with(0, 0x43)),
            ("no fixed bit", with(0, 0x83)),
            ("a handshake packet", with(0, 0xE3)),
            ("another version", with(4, 2)),
            ("an id that is too long", with(5, 21)),
        ] {
            assert_eq!(FirstPacket::read(&datagram), None, "{why}");
        }
    }

    #[test]
    fn a_token_opens_under_its_own_number_and_no_other() {
        let key = TokenKey::new(&[9; 32]);
        for number in [0_u128, 1, u128::from(u64::MAX), u128::MAX] {
            let mut data = b"who and when".to_vec();
            key.aead_from_hkdf(&number.to_le_bytes()).seal(&mut data, &[]).expect("seals");
            let open = |key: &TokenKey, number: u128| {
                key.aead_from_hkdf(&number.to_le_bytes())
                    .open(&mut data.clone(), &[])
                    .map(|bytes| bytes.to_vec())
                    .ok()
            };
            assert_eq!(open(&key, number).as_deref(), Some(&b"who and when"[..]));
            assert_eq!(open(&key, number ^ 4), None);
            assert_eq!(open(&TokenKey::new(&[8; 32]), number), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_the_reader(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), plain in any::<bool>()) {
            if plain && bytes.len() > 5 {
                bytes[0] = INITIAL;
                bytes[1..5].copy_from_slice(&QUIC_V1.to_be_bytes());
            }
            if let Some(packet) = FirstPacket::read(&bytes) {
                prop_assert!(packet.destination.len() >= 8 && packet.source.len() <= 20);
            }
        }
    }
}
