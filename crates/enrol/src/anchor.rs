//! What time it is while somebody enrols: the machine's clock, or what a controller signed.

#![expect(clippy::disallowed_methods, reason = "enrolment is a shell: it asks the machine for the time")]

use crate::error::EnrolError;
use std::time::{Duration, Instant, SystemTime};
use trust::{Beacon, ChainError, RootHash, TrustBundle, TrustChain, UnixMs, Unverified};

/// A clock that is further ahead of the controller's than this is no reason to believe the controller: a key that
/// was stolen and has ended since would say the same (ADR 0011).
const MOST_AHEAD: Duration = Duration::from_secs(7 * 24 * 3600);

/// A time, and when it was that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Anchor {
    time: UnixMs,
    at: Instant,
}

impl Anchor {
    /// The machine's clock.
    pub(crate) fn machine() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = UnixMs::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Self { time, at: Instant::now() }
    }

    /// The time now.
    pub(crate) fn now(&self) -> UnixMs {
        self.time.plus(self.at.elapsed())
    }

    pub(crate) fn since_unix_epoch(&self) -> Duration {
        Duration::from_millis(self.now().as_millis())
    }
}

/// Fresh bytes.
pub(crate) fn nonce() -> [u8; 16] {
    let mut nonce = [0; 16];
    aws_lc_rs::rand::fill(&mut nonce).expect("the operating system's random source works");
    nonce
}

/// The time that a controller signed for our nonce, sent at `asked`, with the bundle that says so at that time;
/// `None` when what came proves nothing.
pub(crate) fn signed(
    chain: &TrustChain,
    root: &RootHash,
    beacon: Option<&str>,
    nonce: [u8; 16],
    asked: Instant,
) -> Option<(TrustBundle, Anchor)> {
    let beacon = Unverified::<Beacon>::parse(beacon?).ok()?;
    // The chain at the time that the beacon claims, the beacon under that chain, and the nonce: who signed it has
    // a key that was good at that time, and did it after we asked.
    let time = beacon.claimed_time()?;
    let bundle = chain.verify(root, time).ok()?;
    let beacon = beacon.verify(&bundle, time).ok()?;
    (beacon.nonce == Some(nonce)).then_some((bundle, Anchor { time: beacon.time, at: asked }))
}

/// Which of the two counts.
///
/// # Errors
/// The machine's clock is too far ahead for the controller to be believed.
pub(crate) fn judge(machine: UnixMs, signed: Anchor, address: &str) -> Result<Anchor, EnrolError> {
    let theirs = signed.now();
    if machine.since(theirs) <= MOST_AHEAD {
        return Ok(signed);
    }
    let source = ChainError::Rule("the controller's time is more than seven days behind this machine's");
    Err(EnrolError::Chain { address: address.to_owned(), source }.blame_clock(machine, Some(theirs)))
}
