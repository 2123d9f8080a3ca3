//! Address challenges: stateless tokens, and answers that prove the session's secret.

use crate::core::random::Random;
use aws_lc_rs::{constant_time::verify_slices_are_equal, hmac};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use wire::{
    CHALLENGE_LEN, ChallengeToken, ChannelId, ChannelSecret, RELAY_HEADER_LEN, RelayKind, encode_relay_header,
};

/// Length of a challenge frame in bytes.
pub(crate) const CHALLENGE_FRAME_LEN: usize = RELAY_HEADER_LEN + CHALLENGE_LEN;

/// How long one token is handed out. A token is taken in its slot and the one after it: between
/// one and two slots, several times the longest round trip of the failure model (1 s each way).
const TOKEN_SLOT: Duration = Duration::from_secs(4);

/// A challenge as it goes to the wire.
pub type ChallengeFrame = [u8; CHALLENGE_FRAME_LEN];

/// This process's key for challenge tokens. Never stored: a restarted relay has no channels.
#[derive(Debug)]
pub(crate) struct ProofKey {
    key: hmac::Key,
    epoch: Instant,
}

impl ProofKey {
    pub(crate) fn new(random: &mut Random, epoch: Instant) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, &random.block()), epoch }
    }

    fn slot(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() / TOKEN_SLOT.as_secs()
    }

    fn token(&self, channel: ChannelId, address: SocketAddr, slot: u64) -> ChallengeToken {
        // Fixed width and the family in front: two addresses never give the same input.
        let mut input = [0_u8; 8 + 1 + 16 + 2 + 8];
        input[..8].copy_from_slice(&channel.bits().to_be_bytes());
        match address.ip() {
            IpAddr::V4(ip) => {
                input[8] = 4;
                input[9..13].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                input[8] = 6;
                input[9..25].copy_from_slice(&ip.octets());
            }
        }
        input[25..27].copy_from_slice(&address.port().to_be_bytes());
        input[27..].copy_from_slice(&slot.to_be_bytes());
        truncate(&hmac::sign(&self.key, &input))
    }

    /// The frame that asks `address` to prove itself.
    pub(crate) fn challenge(&self, now: Instant, channel: ChannelId, address: SocketAddr) -> ChallengeFrame {
        let mut frame = [0; CHALLENGE_FRAME_LEN];
        frame[..RELAY_HEADER_LEN].copy_from_slice(&encode_relay_header(RelayKind::Challenge, channel));
        frame[RELAY_HEADER_LEN..].copy_from_slice(&self.token(channel, address, self.slot(now)));
        frame
    }

    /// Whether `body` answers one of our challenges to `address` with the key of its session.
    pub(crate) fn check(
        &self,
        now: Instant,
        channel: ChannelId,
        address: SocketAddr,
        secret: &ChannelSecret,
        body: &[u8],
    ) -> Result<(), ProofError> {
        let (token, answer) = body.split_at_checked(CHALLENGE_LEN).ok_or(ProofError::NotOurToken)?;
        let slot = self.slot(now);
        let ours = [slot, slot.saturating_sub(1)]
            .into_iter()
            .any(|slot| verify_slices_are_equal(&self.token(channel, address, slot), token).is_ok());
        if !ours {
            return Err(ProofError::NotOurToken);
        }
        verify_slices_are_equal(&answer_of(secret, token), answer).map_err(|_| ProofError::WrongSecret)
    }
}

/// Why an answer proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProofError {
    NotOurToken,
    WrongSecret,
}

/// What the holder of a channel's secret answers to `token`.
#[must_use]
pub fn answer_of(secret: &ChannelSecret, token: &[u8]) -> [u8; CHALLENGE_LEN] {
    truncate(&hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.expose()), token))
}

fn truncate(tag: &hmac::Tag) -> [u8; CHALLENGE_LEN] {
    tag.as_ref()[..CHALLENGE_LEN].try_into().expect("HMAC-SHA256 tags have 32 bytes")
}
