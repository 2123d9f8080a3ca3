//! One channel: two sides and what is known of each.

use std::{net::SocketAddr, time::Instant};
use wire::{ChannelId, ChannelSecret};

/// Whose side of a channel it is: one number per agent identity, given by the session core, so
/// that budgets outlive a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerId(u64);

impl OwnerId {
    /// Nobody: no agent has it.
    pub(super) const NOBODY: Self = Self(0);

    /// The session core's number of an agent; it counts from 1.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }
}

/// One side of a channel to install.
#[derive(Debug, Clone)]
pub struct SideSpec {
    /// The id this side was told.
    pub id: ChannelId,
    /// The secret this side was told.
    pub secret: ChannelSecret,
    /// Where its session is: proven by the session itself.
    pub address: SocketAddr,
    /// Where its session has moved since, which it has not proven yet.
    pub moved: Option<SocketAddr>,
    /// Whose it is.
    pub owner: OwnerId,
}

/// A channel to install.
#[derive(Debug, Clone)]
pub struct ChannelSpec {
    /// Client, then connector.
    pub sides: [SideSpec; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    A,
    B,
}

#[derive(Debug)]
pub(super) struct Channel {
    sides: [Side; 2],
    pub(super) last_used: Instant,
    /// When its idle deadline is set; later use moves it only when it is looked at.
    pub(super) idle_at: Instant,
    pub(super) bytes: u64,
}

impl Channel {
    pub(super) fn new(now: Instant, spec: &ChannelSpec, owners: [usize; 2]) -> Self {
        let [a, b] = &spec.sides;
        let side = |spec: &SideSpec, owner| Side {
            id: spec.id,
            secret: spec.secret.clone(),
            address: spec.address,
            owner,
            knock: None,
            asked_at: None,
            old_alive_at: None,
            trial: None,
            probe: None,
        };
        Self {
            sides: [side(a, owners[0]), side(b, owners[1])],
            last_used: now,
            idle_at: now + super::IDLE_AFTER,
            bytes: 0,
        }
    }

    pub(super) const fn side(&self, which: Which) -> &Side {
        match which {
            Which::A => &self.sides[0],
            Which::B => &self.sides[1],
        }
    }

    pub(super) const fn side_mut(&mut self, which: Which) -> &mut Side {
        match which {
            Which::A => &mut self.sides[0],
            Which::B => &mut self.sides[1],
        }
    }

    /// This side, then the other one.
    pub(super) const fn sides_mut(&mut self, which: Which) -> [&mut Side; 2] {
        let [a, b] = &mut self.sides;
        match which {
            Which::A => [a, b],
            Which::B => [b, a],
        }
    }
}

#[derive(Debug)]
pub(super) struct Side {
    pub(super) id: ChannelId,
    pub(super) secret: ChannelSecret,
    /// Where frames for this side go, and where its frames come from.
    pub(super) address: SocketAddr,
    /// Index of its owner in the relay.
    pub(super) owner: usize,
    /// The last address that knocked without proof, and how many of its bytes are unanswered.
    knock: Option<(SocketAddr, usize)>,
    /// The last round of challenges.
    pub(super) asked_at: Option<Instant>,
    /// The last answer from `address`.
    pub(super) old_alive_at: Option<Instant>,
    /// A new address that has answered, while the old one still has time to say that it lives.
    pub(super) trial: Option<Trial>,
    /// Questions to an agent that came back.
    pub(super) probe: Option<Probe>,
}

#[derive(Debug)]
pub(super) struct Trial {
    pub(super) candidate: SocketAddr,
    pub(super) old: SocketAddr,
    /// When the old address is asked again.
    pub(super) at: Instant,
    /// When its silence counts.
    pub(super) until: Instant,
}

#[derive(Debug)]
pub(super) struct Probe {
    pub(super) address: SocketAddr,
    pub(super) attempts: u8,
    pub(super) at: Instant,
    pub(super) cause: Cause,
    /// A frame came from there since.
    pub(super) was_heard: bool,
}

/// Why a side is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Its session moved.
    Moved,
    /// Its session ended.
    Lost,
    /// Its agent registered anew, at the address that is asked.
    Registered,
}

impl Cause {
    /// Whether a side that answers nowhere is closed.
    pub(super) const fn closes(self) -> bool {
        matches!(self, Self::Lost | Self::Registered)
    }

    /// Of a cause that comes while this one is under way. A probe that would close stays one: a roam behind it proves
    /// nothing about the process. But nobody registered where the roam leads.
    pub(super) const fn followed_by(self, later: Self) -> Self {
        match later {
            Self::Moved if self.closes() => Self::Lost,
            other => other,
        }
    }
}

impl Side {
    /// The proven address, or either of a trial's: both hold the secret, so their frames are taken; only ours go to one
    /// of them.
    pub(super) fn may_send_from(&self, source: SocketAddr) -> bool {
        let is_of = |trial: &Trial| trial.candidate == source || trial.old == source;
        source == self.address || self.trial.as_ref().is_some_and(is_of)
    }

    /// Unanswered bytes of `source`, with `received` more. One address at a time is remembered.
    pub(super) fn credit(&mut self, source: SocketAddr, received: usize) -> usize {
        let before = match self.knock {
            Some((address, credit)) if address == source => credit,
            _ => 0,
        };
        // Two frames' worth is enough: nobody is owed a burst.
        let credit = before.saturating_add(received).min(2 * super::CHALLENGE_FRAME_LEN);
        self.knock = Some((source, credit));
        credit
    }

    pub(super) const fn spend_credit(&mut self, bytes: usize) {
        if let Some((_, credit)) = &mut self.knock {
            *credit = credit.saturating_sub(bytes);
        }
    }

    /// Whether a source is where the session is said to be, and is heard from there for the first time since it is asked.
    pub(super) fn is_first_from_where_awaited(&mut self, source: SocketAddr) -> bool {
        self.probe
            .as_mut()
            .filter(|probe| probe.address == source)
            .is_some_and(|probe| !std::mem::replace(&mut probe.was_heard, true))
    }

    pub(super) fn asked_within(&self, now: Instant, interval: std::time::Duration) -> bool {
        self.asked_at.is_some_and(|at| now.saturating_duration_since(at) < interval)
    }

    pub(super) const fn move_to(&mut self, address: SocketAddr) {
        self.address = address;
        self.old_alive_at = None;
        self.knock = None;
        self.trial = None;
    }
}
