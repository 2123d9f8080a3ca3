//! What a choice gives out: messages to send, another way for data, and what people may see.

use super::PathMessage;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Which side keeps idle paths alive and asks for another try: the one that wanted the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It opened the tunnel.
    Asker,
    /// It was opened to.
    Answerer,
}

/// By which way a message of ours goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Relay,
    Direct(SocketAddr),
}

/// Why something goes straight to an address: by it the ledger knows what it is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// An answer, no longer than its question; or it goes by the relay.
    Answer,
    /// The address has proven itself.
    Proven,
    /// The peer named it, and it is tried with others.
    Burst,
    /// Something came from there, and nobody named it.
    Seen,
    /// The PoP that introduced the peer sees it there, so that nobody else is asked.
    Introduced,
}

/// A message to seal and send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Say {
    pub route: Route,
    pub message: PathMessage,
    pub cause: Cause,
}

/// What came of a call.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub say: Vec<Say>,
    /// The way that data takes is another: the new one.
    pub moved: Option<(Route, MoveReason)>,
    /// A ping was answered: which, and how long it took.
    pub pong: Option<(u64, Duration)>,
    /// What took data here may be gone with the network it came by: the session to the PoP is worth a question.
    pub is_quiet: bool,
}

impl Outcome {
    pub(super) fn say(&mut self, route: Route, message: PathMessage) {
        self.say.push(Say { route, message, cause: Cause::Answer });
    }

    pub(super) fn ask(&mut self, route: Route, message: PathMessage, cause: Cause) {
        self.say.push(Say { route, message, cause });
    }
}

/// Why data takes another way. Doubles as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MoveReason {
    /// An address proved itself.
    Proven,
    /// A better one did.
    Better,
    /// It answered again before it was given up.
    AnsweredAgain,
    /// Nothing comes back; it is being asked.
    Doubtful,
    /// It did not answer.
    Silent,
    /// Nobody needed it for long.
    Idle,
    /// This machine changed its network.
    NetworkChanged,
}

impl MoveReason {
    /// The metric label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Better => "better",
            Self::AnsweredAgain => "answered_again",
            Self::Doubtful => "doubtful",
            Self::Silent => "silent",
            Self::Idle => "idle",
            Self::NetworkChanged => "network_changed",
        }
    }
}

/// A path that carries packets one way only, and therefore no data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OneWay {
    /// The peer is heard from there, and answers nothing that is sent there.
    ToHere,
    /// What is sent there arrives, says the peer by the relay, and nothing comes back.
    FromHere,
}

impl OneWay {
    /// The word for people and `--json`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ToHere => "to_here",
            Self::FromHere => "from_here",
        }
    }
}

/// What people may see of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairReport {
    /// The address.
    pub address: SocketAddr,
    /// Whether the peer named it.
    pub told: bool,
    /// The round trip of its proofs.
    pub round_trip: Option<Duration>,
    /// Probes sent.
    pub probes: u64,
    /// Proofs that came.
    pub proofs: u64,
    /// When anything of the peer's last came from there.
    pub heard: Option<Instant>,
    /// Whether packets go one way only, and which.
    pub one_way: Option<OneWay>,
    /// Where the peer sees this side, as it says.
    pub seen: Option<SocketAddr>,
}
