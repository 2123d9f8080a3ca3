//! What a fleet is told, and what it tells.

use crate::waits::Waits;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Something for a fleet to do. Members are numbered from 0 within their fleet; ranges exclude their end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// These members register and stay, `per_second` of them starting each second.
    Hold {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
        /// How many start in a second.
        per_second: u32,
    },
    /// These members, held already, each open one connection and send a line through it every `period_ms`.
    Flow {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
        /// Milliseconds between lines.
        period_ms: u32,
    },
    /// `per_second` times a second one of these members, in turn, starts from its disk, registers, opens a new
    /// connection, gets its first byte and leaves. 0 ends it.
    Visit {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
        /// Starts a second.
        per_second: u32,
    },
    /// These members are broken: each starts all over again every `period_ms`, with a new session and a new tunnel,
    /// and never says goodbye.
    Surge {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
        /// Milliseconds between starts of one member.
        period_ms: u32,
    },
    /// `per_second` times a second one of these members, held already, is in another network: another address of its
    /// own, and no word to anybody. 0 ends it.
    Roam {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
        /// Members that move in a second; may be a fraction.
        per_second: f64,
    },
    /// The networks of these members let nothing through but what goes to a PoP and comes from one: what goes on, goes on by
    /// relay.
    Relay {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
    },
    /// The machines of these members say that their network changed, all in one moment and each at the address it had, as
    /// when a building's uplink comes back: whoever has a session asks whether it lives.
    Notice {
        /// First member.
        from: usize,
        /// One behind the last.
        to: usize,
    },
    /// The broken ones are mended: they hold a session like everybody.
    Calm,
    /// Everybody leaves.
    Stop,
}

/// One visit, from the start of a client to its first byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Visit {
    /// Milliseconds from the client's start to its `Welcome`; none when none came.
    pub registered_ms: Option<u32>,
    /// Milliseconds from the client's start to the first byte through its connection.
    pub first_byte_ms: Option<u32>,
    /// Why it failed.
    pub failed: Option<String>,
}

/// A wait that a person notices.
pub const LONG_WAIT_MS: u32 = 250;

/// How long running connections waited for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Silences {
    /// Lines answered since the last report.
    pub answered: u64,
    /// The longest wait for one of them, or of one that is still waited for, in milliseconds.
    pub longest_ms: u32,
    /// The wait in the middle, in milliseconds.
    pub median_ms: u32,
    /// 99 of 100 waited no longer, in milliseconds.
    pub p99_ms: u32,
}

/// What a fleet saw since its last report; `held`, `up`, `flows` and `flows_open` are as of now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Members that shall hold a session.
    pub held: usize,
    /// Of these, members that do.
    pub up: usize,
    /// Members that shall have a running connection.
    pub flows: usize,
    /// Of these, members whose connection is open.
    pub flows_open: usize,
    /// Connections that were open and were cut.
    pub flows_cut: u64,
    /// Waits of running connections.
    pub silences: Silences,
    /// Waits of running connections that were longer than [`LONG_WAIT_MS`], in milliseconds.
    pub long_waits: Vec<u32>,
    /// Waits of running connections of members behind [`Order::Relay`].
    pub relayed_waits: Waits,
    /// Sessions of held members that were lost, by reason.
    pub lost: BTreeMap<String, u64>,
    /// `Welcome`s of held members.
    pub registered: u64,
    /// Sessions dialled by held members.
    pub dials: u64,
    /// Newer grants of held members: re-authentications that passed.
    pub renewed: u64,
    /// Control requests of held members sent for the first time.
    pub requests: u64,
    /// Control requests of held members sent again.
    pub retries: u64,
    /// Visits that came to their end.
    pub visits: Vec<Visit>,
    /// Members with a running connection that changed their network.
    pub roamed: u64,
    /// Of these, connections that were cut before they were answered again.
    pub roams_cut: u64,
    /// Milliseconds from such a change to the next answer on the same connection; a connection that was cut has none.
    pub roam_answers: Vec<u32>,
    /// Starts of broken members.
    pub surged: u64,
    /// Starts of broken members that got a session.
    pub surge_registered: u64,
    /// Datagrams that this machine did not send.
    pub not_sent: u64,
}
