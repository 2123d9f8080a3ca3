//! Random bytes from one injected seed: the same seed gives the same ids, tokens and secrets, so a
//! recorded run replays.

use aws_lc_rs::hmac;

/// 256 bits from the operating system, injected by the shell.
#[derive(Clone)]
pub struct Seed([u8; 32]);

impl Seed {
    /// Wraps 256 random bits.
    #[must_use]
    pub const fn from_random(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// A stream of pseudo-random blocks: HMAC-SHA256 over a counter (a PRF in counter mode,
/// NIST SP 800-108 section 4.1). The seed is never shown, so outputs tell nothing of one another.
#[derive(Debug)]
pub(crate) struct Random {
    key: hmac::Key,
    counter: u64,
}

impl Random {
    /// A stream for one purpose; two purposes of one seed share no block.
    pub(crate) fn new(seed: &Seed, purpose: &'static str) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, &seed.0);
        let key = hmac::sign(&root, purpose.as_bytes());
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()), counter: 0 }
    }

    /// The next 32 bytes.
    pub(crate) fn block(&mut self) -> [u8; 32] {
        self.counter += 1;
        let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
        tag.as_ref().try_into().expect("HMAC-SHA256 tags have 32 bytes")
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        let block = self.block();
        u64::from_be_bytes(block[..8].try_into().expect("a block has at least 8 bytes"))
    }
}
