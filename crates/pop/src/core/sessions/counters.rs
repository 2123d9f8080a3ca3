//! What the session core counts.

use serde::Serialize;
use std::collections::BTreeMap;

/// Counts by label. Labels are fixed words of this program, so the number of keys is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    pub(super) fn add(&mut self, label: &'static str) {
        *self.0.entry(label).or_default() += 1;
    }

    /// How often `label` was counted.
    #[must_use]
    pub fn get(&self, label: &str) -> u64 {
        self.0.get(label).copied().unwrap_or(0)
    }
}

/// What happened so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct SessionCounters {
    /// Agents and controllers that registered.
    pub registered: u64,
    /// Messages taken, by name.
    pub messages: Tally,
    /// Why messages and documents were refused.
    pub refused: Tally,
    /// Introductions refused, by reason.
    pub introductions_refused: Tally,
    /// Introductions that became channels.
    pub introductions_opened: u64,
    /// Sessions closed by this PoP, by code.
    pub closed: Tally,
    /// Sessions lost, by reason.
    pub lost: Tally,
    /// Channels that ended, by reason.
    pub channels_ended: Tally,
    /// Frames that no session took, by reason.
    pub not_sent: Tally,
}

/// What there is right now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionsStatus {
    /// Sessions that are up, registered or not.
    pub sessions: usize,
    /// Devices registered.
    pub devices: usize,
    /// Connectors registered.
    pub connectors: usize,
    /// Controllers attached.
    pub controllers: usize,
    /// Channels installed.
    pub channels: usize,
    /// Introductions that wait for their connector.
    pub introductions: usize,
    /// Epoch and serial of the trust bundle.
    pub bundle: (u64, u64),
    /// Revocation entries held.
    pub revocations: usize,
    /// Incarnation and version of the PoP's own slice; none came yet.
    pub slice: Option<(u64, u64)>,
    /// It was asked to leave.
    pub draining: bool,
    /// The controller time in the beacon that came last, in milliseconds since 1970.
    pub newest_beacon_ms: Option<u64>,
    /// Retry packets sent to unproven sources.
    pub retries: u64,
    /// Proven sources turned away because a limit was reached.
    pub turned_away: u64,
    /// Handshakes given up for newer ones.
    pub given_up: u64,
    /// Counters since the start.
    pub counters: SessionCounters,
}
