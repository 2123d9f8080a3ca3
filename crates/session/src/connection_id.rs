//! Connection ids that this PoP recognises, also after a restart, and that do not meet by chance.
//!
//! The library's own recognisable generator has three random bytes. A PoP gives out five ids a session: with 20,000
//! sessions six registrations in a thousand were told an id, in their Retry, that some session had already. Their
//! packets went there and were dropped, and they stood still until the handshake's deadline.

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};
use std::time::Duration;

/// Random bytes: 100,000 ids in use meet a new one by chance once in 2.8 × 10⁹ times.
const NONCE: usize = 6;
/// Bytes that only who has the key can make: of invented packets one in 65,536 gets a stateless reset.
const TAG: usize = 2;

/// See the module.
pub(crate) struct KeyedConnectionIds {
    recognise: hmac::Key,
    random: hmac::Key,
    drawn: u64,
    pool: Vec<u8>,
}

impl KeyedConnectionIds {
    /// `recognise` outlives the process; `seed` does not.
    pub(crate) fn new(recognise: &[u8], seed: &[u8]) -> Self {
        let random = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), b"tidegate/pop/connection-id/1");
        Self {
            recognise: hmac::Key::new(hmac::HMAC_SHA256, recognise),
            random: hmac::Key::new(hmac::HMAC_SHA256, random.as_ref()),
            drawn: 0,
            pool: Vec::new(),
        }
    }

    fn tag(&self, nonce: &[u8]) -> [u8; TAG] {
        *hmac::sign(&self.recognise, nonce).as_ref().first_chunk().expect("a tag has 32 bytes")
    }
}

impl ConnectionIdGenerator for KeyedConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        if self.pool.len() < NONCE {
            self.drawn += 1;
            self.pool = hmac::sign(&self.random, &self.drawn.to_be_bytes()).as_ref().to_vec();
        }
        let nonce = self.pool.split_off(self.pool.len() - NONCE);
        ConnectionId::new(&[&nonce[..], &self.tag(&nonce)].concat())
    }

    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        match id.split_at_checked(NONCE) {
            Some((nonce, tag)) if tag == self.tag(nonce) => Ok(()),
            _ => Err(InvalidCid),
        }
    }

    fn cid_len(&self) -> usize {
        NONCE + TAG
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_are_recognised_by_the_key_whatever_the_seed() {
        let (mut before, after) = (KeyedConnectionIds::new(b"k", b"1"), KeyedConnectionIds::new(b"k", b"2"));
        let stranger = KeyedConnectionIds::new(b"other", b"1");
        let ids: Vec<ConnectionId> = (0..100).map(|_| before.generate_cid()).collect();
        assert!(ids.iter().all(|id| id.len() == before.cid_len() && after.validate(id).is_ok()));
        assert!(
            ids.iter().filter(|id| stranger.validate(id).is_ok()).count() <= 1,
            "one in 65,536 by chance"
        );
        for length in 0..8 {
            assert!(after.validate(&ConnectionId::new(&ids[0][..length])).is_err(), "{length}");
        }
    }

    #[test]
    fn a_hundred_thousand_ids_are_all_different() {
        let mut ids = KeyedConnectionIds::new(b"k", b"seed");
        let drawn: BTreeSet<Vec<u8>> = (0..100_000).map(|_| ids.generate_cid().to_vec()).collect();
        assert_eq!(drawn.len(), 100_000);
    }

    #[test]
    fn two_starts_draw_other_ids() {
        let (mut one, mut two) = (KeyedConnectionIds::new(b"k", b"1"), KeyedConnectionIds::new(b"k", b"2"));
        assert_ne!(one.generate_cid(), two.generate_cid());
    }
}
