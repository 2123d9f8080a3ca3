//! What the relay counts.

use serde::{Serialize, Serializer, ser::SerializeMap};
use wire::RelayError;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a datagram was dropped. Doubles as a metric label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum DropReason { $($(#[$doc])* $name,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The metric label.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than the header.
    TooShort = "too_short",
    /// An unknown kind byte.
    UnknownKind = "unknown_kind",
    /// Reserved bytes were set.
    ReservedNotZero = "reserved_not_zero",
    /// The body does not fit the kind.
    WrongLength = "wrong_length",
    /// No channel has this id.
    UnknownChannel = "unknown_channel",
    /// The id is right, the address not proven.
    UnprovenSource = "unproven_source",
    /// The agent's budget of bytes is used up.
    Budget = "budget",
    /// A challenge from an agent: only PoPs ask.
    ChallengeFromAgent = "challenge_from_agent",
    /// An answer to a token that is not ours, too old, or of another address.
    NotOurToken = "not_our_token",
    /// An answer without the session's secret.
    WrongSecret = "wrong_secret",
    /// A right answer from a new address while the old one lives.
    OldAddressLives = "old_address_lives",
}

impl From<RelayError> for DropReason {
    fn from(error: RelayError) -> Self {
        match error {
            RelayError::TooShort => Self::TooShort,
            RelayError::UnknownKind => Self::UnknownKind,
            RelayError::ReservedNotZero => Self::ReservedNotZero,
            RelayError::WrongLength => Self::WrongLength,
        }
    }
}

/// One number per reason; an array, because a flood counts each packet here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl DropCounters {
    pub(super) const fn add(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// How many were dropped for `reason`.
    #[must_use]
    pub const fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }
}

impl Serialize for DropCounters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for reason in DropReason::ALL {
            map.serialize_entry(reason.label(), &self.get(*reason))?;
        }
        map.end()
    }
}

/// What the relay did so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct RelayCounters {
    /// Channels right now.
    pub channels: usize,
    /// Frames forwarded.
    pub forwarded_frames: u64,
    /// Bytes forwarded, with the relay header.
    pub forwarded_bytes: u64,
    /// Of these, frames to agents that are reached over TCP 443.
    pub stream_frames: u64,
    /// Their bytes.
    pub stream_bytes: u64,
    /// Challenges sent.
    pub challenges: u64,
    /// Challenges not sent because too many waited.
    pub challenges_not_queued: u64,
    /// Sides that moved to a new address.
    pub moves: u64,
    /// New addresses that answered and were refused because the old one answered too.
    pub moves_refused: u64,
    /// Of these, sides that had moved with their agent's registration, and went back.
    pub moves_undone: u64,
    /// Frames dropped, by reason.
    pub dropped: DropCounters,
}
