//! How an agent stands with its PoPs, for people.

use super::{LinkPhase, PlacePhase, Transport};
use crate::{core::Agent, kind::AgentSlice};
use session::SessionId;
use std::net::SocketAddr;
use wire::PopId;

/// Where an agent stands with one PoP, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PopStatus {
    /// Which PoP.
    pub pop: PopId,
    /// How it stands.
    pub phase: PopPhaseWord,
    /// The session, when there is one.
    pub session: Option<SessionId>,
    /// The PoP's address in use.
    pub address: Option<SocketAddr>,
    /// What carries the session.
    pub transport: Option<Transport>,
    /// This agent's address as that PoP sees it; none by TCP.
    pub observed: Option<SocketAddr>,
    /// Failures in a row.
    pub failures: u32,
}

/// How an agent stands with a PoP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PopPhaseWord {
    /// Not in use.
    Idle,
    /// Its name is being looked up.
    Resolving,
    /// A session is being opened.
    Connecting,
    /// Registered.
    Registered,
    /// Registered, and the PoP asked to leave.
    Leaving,
}

impl PopPhaseWord {
    /// The word for people and `--json`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Resolving => "resolving",
            Self::Connecting => "connecting",
            Self::Registered => "registered",
            Self::Leaving => "leaving",
        }
    }
}

impl<B: AgentSlice> Agent<B> {
    /// Where every PoP that it knows of is, `HOST:PORT` each.
    pub fn pop_names(&self) -> impl Iterator<Item = &str> {
        self.places.values().map(|place| place.name.as_str())
    }

    /// How this agent stands with each PoP of its list.
    pub fn pops(&self) -> impl Iterator<Item = PopStatus> {
        self.places.iter().map(|(pop, place)| {
            let link = match place.phase {
                PlacePhase::Linked(id) => self.links.get(&id).map(|link| (id, link)),
                PlacePhase::Down | PlacePhase::Resolving { .. } => None,
            };
            let phase = match (place.phase, link.map(|(_, link)| &link.phase)) {
                (PlacePhase::Resolving { .. }, _) => PopPhaseWord::Resolving,
                (_, Some(LinkPhase::Up(standing))) if standing.leave_at.is_some() => PopPhaseWord::Leaving,
                (_, Some(LinkPhase::Up(_))) => PopPhaseWord::Registered,
                (_, Some(_)) => PopPhaseWord::Connecting,
                (_, None) => PopPhaseWord::Idle,
            };
            PopStatus {
                pop: *pop,
                phase,
                session: link.map(|(id, _)| id),
                address: link.map(|(_, link)| link.address),
                transport: link.map(|(_, link)| link.transport),
                observed: link.and_then(|(_, link)| match &link.phase {
                    LinkPhase::Up(standing) => {
                        Some(standing.observed).filter(|_| link.transport == Transport::Udp)
                    }
                    LinkPhase::Dialling | LinkPhase::Greeting { .. } => None,
                }),
                failures: place.failures,
            }
        })
    }
}
