//! What the session core allows, with the arithmetic behind each number.

use crate::core::Allowance;
use std::time::Duration;

/// How often agents send `Keepalive`. Home routers forget a UDP mapping after 30 s at the earliest
/// (RFC 4787 asks for 2 min, its survey found 30 s).
pub const KEEPALIVE: Duration = Duration::from_secs(25);
/// And connectors: whoever wants in finds them gone for as long as they do not notice that a PoP has restarted.
/// There are few of them: a thousand at 2 s are 500 messages a second, and 800 a second were 1.5 % of a core (20,000
/// idle sessions at 25 s).
pub const CONNECTOR_KEEPALIVE: Duration = Duration::from_secs(2);
/// How long a session may be silent before its first message.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connector may take to answer an introduction.
pub const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How often connectors get beacons (architecture: every 5 s; fresh is ≤ 15 s).
pub const BEACON_INTERVAL: Duration = Duration::from_secs(5);
/// How long changes of presence are gathered.
pub const PRESENCE_INTERVAL: Duration = Duration::from_secs(1);
/// An address that QUIC has kept this long is worth a question about each channel. It is no proof: how long path validation
/// takes (RFC 9000 section 8.2.4) is also the peer's to say.
pub const STAYED_FOR: Duration = Duration::from_secs(3);

/// Registrations a second that one core serves in any weather: the floor of the guarantees ("class
/// isolation"). A reconnect is spread over sessions ÷ this.
pub const ADMIT_PER_SECOND: u64 = 500;

/// Introductions that wait for their connector: 300 bytes each and 256 in a B-tree's slack, 5 MiB.
pub const MAX_INTRODUCTIONS: usize = 8_192;
/// Introductions of one client that wait.
pub const MAX_INTRODUCTIONS_PER_CLIENT: usize = 32;
/// Introductions of one connector that wait.
pub const MAX_INTRODUCTIONS_PER_CONNECTOR: usize = 1_024;
/// Channels of one device: one for each connector it uses, and those that a restart left behind.
pub const MAX_CHANNELS_PER_DEVICE: usize = 256;
/// Channels of one connector: one for each device that uses it.
pub const MAX_CHANNELS_PER_CONNECTOR: usize = 16_384;

/// Revocation entries held, in bytes of text: they go out in one `Welcome` and one `SignerWelcome`,
/// and a session's send queue takes one sealed reply (1 MiB) behind another frame.
pub const MAX_HELD_BYTES: usize = 960 * 1024;
/// Subjects struck: 65,536 × 80 bytes = 5 MiB.
pub const MAX_STRUCK: usize = 65_536;
/// Strikes that wait for the disk.
pub const MAX_PENDING_WRITES: usize = 256;
/// How long after a write that failed it is tried again.
pub const REWRITE_AFTER: Duration = Duration::from_secs(10);
/// Controllers whose beacons are kept.
pub const MAX_SIGNERS: usize = 16;
/// URIs in one `Presence` or `SignerWelcome`: 4,096 × 130 bytes = 520 KiB.
pub const MAX_PRESENCE: usize = 4_096;
/// URIs in one page of what an attaching controller is told: 130 KiB, so that a page fits behind another frame. A test
/// has few agents.
pub const PRESENCE_PAGE: usize = if cfg!(test) { 2 } else { 1_024 };
/// How long a queue that is full gets to empty itself before the next page.
pub const PRESENCE_PAUSE: Duration = Duration::from_millis(50);

/// Registrations of one agent in ten to twenty seconds: an agent that races UDP and TCP over two addresses, loses the
/// winner and does so again needs eight. Beyond that it is broken, and its sessions are closed.
pub const MAX_REGISTRATIONS: u32 = 16;
/// Who is refused for what will pass is told to come back after this, and up to as long again: a count of registrations is
/// over by then, and a place may be free.
pub const REFUSED_FOR: Duration = Duration::from_secs(20);
/// Introductions of one organization's clients: twice what a core registers, and everybody at once after a storm.
pub const ORGANIZATION_INTRODUCTIONS: Allowance = Allowance { per_second: 1_000, burst: 10_000 };
/// Organizations whose introductions are counted: 4,096 × 64 bytes.
pub const MAX_ORGANIZATIONS: usize = 4_096;

/// Frames from a device: a person's clicks and a browser's burst of new connections.
pub const DEVICE_FRAMES: Allowance = Allowance { per_second: 20, burst: 100 };
/// Frames from a connector: an answer for each introduction, at the rate of `ADMIT_PER_SECOND`.
pub const CONNECTOR_FRAMES: Allowance = Allowance { per_second: 1_000, burst: 4_000 };
/// Frames over budget that a session may send beyond those within it: whoever says up to twice what it may is slowed for
/// as long as it likes, whoever says more than that is closed. Half a minute of a device's budget.
pub const PATIENCE: u32 = 600;
/// What a question for strikes costs, in frames: 15 a second of a connector.
pub const SEARCH_COST: u64 = 64;
/// Frames from a controller: answers to everybody's renewals, and strikes in bulk.
pub const CONTROLLER_FRAMES: Allowance = Allowance { per_second: 10_000, burst: 20_000 };

/// What "come back later" says when nothing better is known.
pub const RETRY_LATER: Duration = Duration::from_secs(2);
/// And when the connector is not attached: one that was left by a restart of either is back within its keepalive, and
/// clients double their own pause.
pub const RETRY_NOT_ATTACHED: Duration = Duration::from_millis(250);

/// How far a beacon may set the clock of a PoP forward that is behind.
pub const MOST_BEHIND: Duration = Duration::from_secs(2 * 24 * 3600);

/// How far a PoP follows its own clock ahead of what a controller has signed.
pub const MOST_AHEAD: Duration = MOST_BEHIND;

/// Over how long `sessions` agents spread a reconnect, when so many are admitted a second.
#[must_use]
pub fn reconnect_window(sessions: usize, admit_per_second: u64) -> Duration {
    let sessions = u64::try_from(sessions).unwrap_or(u64::MAX);
    Duration::from_millis((sessions.saturating_mul(1_000) / admit_per_second.max(1)).max(100))
}

/// How often more agents are asked to leave a PoP that drains.
pub const DRAIN_PAUSE: Duration = Duration::from_millis(100);
/// How long each of them gets: a handshake elsewhere, introductions there, and a second try of both.
pub const LEAVE_WITHIN: Duration = Duration::from_secs(10);

/// How many at once, so that their next PoP admits them as they come.
pub(super) fn drained_at_once(admit_per_second: u64) -> usize {
    let pauses = 1_000 / u64::try_from(DRAIN_PAUSE.as_millis()).unwrap_or(u64::MAX).max(1);
    usize::try_from(admit_per_second / pauses).unwrap_or(usize::MAX).max(1)
}

/// A duration as the wire carries it.
pub(super) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// How long to wait before the PoP's own certificate is asked for again; 20 days are left for it.
pub const RENEWAL_RETRY: Duration = Duration::from_secs(60);
