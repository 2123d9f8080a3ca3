//! From the handshake to `Welcome`, and from there to the end of a session.

use super::{Agent, Due, Session, Sessions, SessionsOutput, Stage, limits};
use crate::core::{
    bucket::Bucket,
    relay::{OwnerId, RelayCommand},
};
use session::{CloseCode, LostReason, SessionId};
use std::{net::SocketAddr, time::Instant};
use trust::{Certificate, Identity, Role, Subject};
use wire::{
    Alive, BundlePush, ControllerUnavailable, FromAgent, Hello, OLDEST_PROTOCOL_VERSION, OpenRefused,
    PROTOCOL_VERSION, Refusal, Welcome,
};

/// The newest version both speak.
pub(super) fn common_version(oldest: u16, newest: u16) -> Option<u16> {
    let version = newest.min(PROTOCOL_VERSION);
    (version >= oldest.max(OLDEST_PROTOCOL_VERSION)).then_some(version)
}

const fn allowance(role: Role) -> crate::core::Allowance {
    match role {
        Role::Device => limits::DEVICE_FRAMES,
        Role::Connector | Role::Pop => limits::CONNECTOR_FRAMES,
        Role::Controller => limits::CONTROLLER_FRAMES,
    }
}

impl Sessions {
    pub(super) fn connected(&mut self, now: Instant, id: SessionId, peer: &Certificate, remote: SocketAddr) {
        let until = now + limits::HELLO_TIMEOUT;
        let identity = peer.identity();
        let session = Session {
            identity,
            generation: peer.generation(),
            stage: Stage::AwaitingHello(until),
            proven: remote,
            moved: None,
            is_settling: false,
            frames: Bucket::full(allowance(identity.role()), now),
            over_budget: 0,
        };
        self.sessions.insert(id, session);
        self.deadlines.insert((until, Due::Hello(id)));
    }

    pub(super) fn hear_agent(&mut self, now: Instant, id: SessionId, message: FromAgent) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let allowed = allowance(session.identity.role());
        // A search and up to 64 documents for one frame.
        let cost = if matches!(message, FromAgent::GetRevocations(_)) { limits::SEARCH_COST } else { 1 };
        let budget = session.frames.take(allowed, now, cost);
        let (stage, subject) = (session.stage, session.identity.subject());
        if let Err(empty) = budget
            && !planted::is("no-budget-for-frames")
        {
            return self.over_budget(now, id, &message, limits::millis(empty.wait(allowed)).max(1));
        }
        session.over_budget = session.over_budget.saturating_sub(1);
        match (stage, subject, message) {
            (Stage::AwaitingHello(_), _, FromAgent::Hello(hello)) => self.hello(now, id, &hello),
            (Stage::Registered, _, FromAgent::Keepalive(_)) => self.alive(now, id),
            (Stage::Registered, _, FromAgent::ToController(frame)) => self.forward_sealed(now, id, frame),
            (Stage::Registered, _, FromAgent::CloseChannel(close)) => {
                if let Some(agent) = self.agent_of(id) {
                    let owner = agent.owner;
                    let reason = Refusal::SessionLost;
                    self.relay(RelayCommand::Close { channel: close.channel, owner, reason });
                }
            }
            (Stage::Registered, Subject::Device(device), FromAgent::Open(open)) => {
                self.open(now, id, device, open);
            }
            (Stage::Registered, Subject::Connector(_), FromAgent::Accept(accept)) => {
                self.accept(now, id, accept);
            }
            (Stage::Registered, Subject::Connector(_), FromAgent::Refuse(refuse)) => {
                self.connector_refused(now, id, &refuse);
            }
            (Stage::Registered, Subject::Connector(_), FromAgent::GetRevocations(asked)) => {
                self.give_revocations(now, id, &asked);
            }
            // A message of another role, a second hello, or anything before the first.
            _ => self.refuse_peer(now, id, "wrong_role", CloseCode::WrongRole),
        }
    }

    /// A message of a later version: not understood, and not free.
    pub(super) fn hear_unknown(&mut self, now: Instant, id: SessionId) {
        assert!(!planted::is("unknown-message-panics"), "planted");
        self.counters.refused.add("unknown_type");
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if session.frames.take(allowance(session.identity.role()), now, 1).is_err() {
            self.lose_patience(now, id);
        }
    }

    /// Whether a session that says more than it may goes on.
    fn lose_patience(&mut self, now: Instant, id: SessionId) -> bool {
        self.counters.refused.add("budget");
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        session.over_budget += 1;
        let goes_on = session.over_budget <= limits::PATIENCE || planted::is("patience-without-end");
        if !goes_on {
            self.refuse_for_now(now, id, "flooding", CloseCode::Flooding);
        }
        goes_on
    }

    /// Questions get an answer that says when to come back; the rest is dropped. Who does not hear it is closed.
    fn over_budget(&mut self, now: Instant, id: SessionId, message: &FromAgent, retry_after_ms: u32) {
        if !self.lose_patience(now, id) {
            return;
        }
        let reason = Refusal::Budget;
        match message {
            FromAgent::Open(open) => {
                self.counters.introductions_refused.add(reason.label());
                self.send(now, id, &OpenRefused { seq: open.seq, reason, retry_after_ms }.into());
            }
            FromAgent::ToController(frame) => {
                self.send(now, id, &ControllerUnavailable { seq: frame.seq, reason, retry_after_ms }.into());
            }
            _ => {}
        }
    }

    fn hello(&mut self, now: Instant, id: SessionId, hello: &Hello) {
        let Some(version) = common_version(hello.oldest, hello.newest) else {
            return self.refuse_peer(now, id, "version", CloseCode::Version);
        };
        let Some(session) = self.sessions.get(&id) else { return };
        let uri = session.identity.to_string();
        self.registrations.add(now, uri.as_bytes());
        if self.registrations.count(now, uri.as_bytes()) > limits::MAX_REGISTRATIONS
            && !planted::is("registers-as-often-as-it-likes")
        {
            return self.refuse_for_now(now, id, "too_often", CloseCode::TooOften);
        }
        let Some(session) = self.sessions.get(&id) else { return };
        if self.has_its_share(session.identity) {
            return self.refuse_for_now(now, id, "organization_full", CloseCode::Full);
        }
        // Planted: the outage of 14 May 2026. Whoever comes is believed only if somebody wrote something down lately.
        if planted::is("registration-waits-for-a-controller") && self.signers.is_empty() {
            return self.refuse_for_now(now, id, "unverified", CloseCode::Full);
        }
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.stage = Stage::Registered;
        let (identity, generation, observed) = (session.identity, session.generation, session.observed());
        let subject = identity.subject();
        self.counters.registered += 1;
        let (owner, before, channels) = self.attach(identity, id, generation);
        if let Some(before) = before {
            self.close(now, before, CloseCode::Replaced);
            self.end_introductions(now, subject, before);
        }
        if channels > 0 {
            // The same identity, but perhaps another process: only an answer says that it still
            // knows its channels.
            self.relay(RelayCommand::Reattached { owner, address: observed });
        }
        if wire::is_stream_address(observed) {
            self.out.push_back(SessionsOutput::RegisteredBy { stream: observed });
        }
        self.came(now, identity);
        let revocations = match subject {
            Subject::Connector(_) => self.revocations.documents(),
            _ => Vec::new(),
        };
        let keepalive = match subject {
            Subject::Connector(_) => limits::CONNECTOR_KEEPALIVE,
            _ => limits::KEEPALIVE,
        };
        let welcome = Welcome {
            version,
            observed,
            keepalive_ms: limits::millis(keepalive),
            reconnect_window_ms: self.reconnect_window_ms(),
            beacon: self.beacons.newest(),
            revocations,
            channels: u32::try_from(channels).unwrap_or(u32::MAX),
        };
        self.send(now, id, &welcome.into());
        self.send(now, id, &BundlePush { chain: self.chain.clone() }.into());
    }

    /// Whether its organization has as many agents here as it may, this one not among them.
    fn has_its_share(&self, identity: Identity) -> bool {
        let is_here = self.agents.get(&identity.subject()).is_some_and(|agent| agent.session.is_some());
        let Some(organization) = identity.organization() else { return false };
        let here = self.registered.get(&organization).copied().unwrap_or(0);
        !is_here && here >= self.allowed.organization_sessions
    }

    /// One agent less of its organization.
    fn one_less(&mut self, identity: Identity) {
        let Some(organization) = identity.organization() else { return };
        if let Some(here) = self.registered.get_mut(&organization) {
            *here = here.saturating_sub(1);
            if *here == 0 {
                self.registered.remove(&organization);
            }
        }
    }

    /// The agent's number, the session it had before, and how many channels it has.
    fn attach(
        &mut self,
        identity: Identity,
        id: SessionId,
        generation: u64,
    ) -> (OwnerId, Option<SessionId>, usize) {
        let subject = identity.subject();
        let is_here = self.agents.get(&subject).is_some_and(|agent| agent.session.is_some());
        if let Some(organization) = identity.organization().filter(|_| !is_here) {
            // As many as there are sessions at the most.
            *self.registered.entry(organization).or_default() += 1;
        }
        if let Some(agent) = self.agents.get_mut(&subject) {
            agent.generation = generation;
            return (agent.owner, agent.session.replace(id), agent.channels);
        }
        self.last_owner += 1;
        let owner = OwnerId::from_number(self.last_owner);
        let agent = Agent { generation, owner, session: Some(id), channels: 0, introductions: 0 };
        self.agents.insert(subject, agent);
        self.owners.insert(owner, subject);
        (owner, None, 0)
    }

    fn alive(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let alive = Alive {
            observed: session.observed(),
            beacon: self.beacons.newest(),
            reconnect_window_ms: Some(self.reconnect_window_ms()),
        };
        self.send(now, id, &alive.into());
    }

    /// Who came first was told of a crowd of one: how large it is now is said with each sign of life.
    fn reconnect_window_ms(&self) -> u32 {
        limits::millis(limits::reconnect_window(self.sessions.len(), self.allowed.admit_per_second))
    }

    pub(super) fn address_changed(&mut self, now: Instant, id: SessionId, remote: SocketAddr) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.moved = (remote != session.proven).then_some((remote, now));
        let is_agent = matches!(session.identity.role(), Role::Device | Role::Connector);
        if session.stage == Stage::Registered && is_agent {
            // The relay hears of it when QUIC has kept it: until then it is the source of one packet, and would be
            // asked about every channel. The agent says hello on each from there, and is challenged for as much as it
            // sends.
            if session.moved.is_some() && !std::mem::replace(&mut session.is_settling, true) {
                self.deadlines.insert((now + limits::STAYED_FOR, Due::Stayed(id)));
            }
            self.alive(now, id);
        }
    }

    /// An address may have stayed for as long as QUIC takes to prove or give it up: worth a question about each channel. It
    /// proves nothing here; only an answer to the relay does.
    pub(super) fn stayed(&mut self, now: Instant, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.is_settling = false;
        let Some((address, since)) = session.moved else { return };
        if now < since + limits::STAYED_FOR {
            session.is_settling = true;
            self.deadlines.insert((since + limits::STAYED_FOR, Due::Stayed(id)));
        } else if let Some(agent) = self.agent_of(id).filter(|agent| agent.channels > 0) {
            let owner = agent.owner;
            self.relay(RelayCommand::AddressChanged { owner, address });
        }
    }

    /// The relay has had an answer from where a session moved to.
    pub fn handle_side_proven(&mut self, owner: OwnerId, address: SocketAddr) {
        let agent = self.owners.get(&owner).and_then(|subject| self.agents.get(subject));
        let session = agent.and_then(|agent| agent.session).and_then(|id| self.sessions.get_mut(&id));
        if let Some(session) = session.filter(|session| session.observed() == address) {
            (session.proven, session.moved) = (address, None);
        }
    }

    pub(super) fn lost(&mut self, now: Instant, id: SessionId, reason: LostReason) {
        self.counters.lost.add(match reason {
            LostReason::ClosedHere(code) | LostReason::ClosedByPeer(code) => code.label(),
            other => other.label(),
        });
        let Some(session) = self.sessions.remove(&id) else { return };
        self.untold.remove(&id);
        if let Stage::AwaitingHello(until) = session.stage {
            self.deadlines.remove(&(until, Due::Hello(id)));
            return;
        }
        let subject = session.identity.subject();
        if let Subject::Controller(controller) = subject {
            if self.signers.get(&controller) == Some(&id) {
                self.signers.remove(&controller);
            }
            return;
        }
        self.end_introductions(now, subject, id);
        let Some(agent) = self.agents.get_mut(&subject) else { return };
        if agent.session != Some(id) {
            // A newer session has replaced this one: the agent is not gone.
            return;
        }
        agent.session = None;
        self.one_less(session.identity);
        let Some(agent) = self.agents.get_mut(&subject) else { return };
        let (owner, channels) = (agent.owner, agent.channels);
        if channels > 0 {
            match reason {
                LostReason::ClosedByPeer(CloseCode::Done | CloseCode::ShuttingDown) => {
                    self.close_channels(owner, Refusal::ShuttingDown);
                }
                LostReason::ClosedHere(CloseCode::Struck) => self.close_channels(owner, Refusal::Struck),
                // The certificate is not believed any more, so neither is who holds the secret.
                LostReason::ClosedHere(CloseCode::NotTrusted | CloseCode::Expired) => {
                    self.close_channels(owner, Refusal::SessionLost);
                }
                _ => self.relay(RelayCommand::Detached { owner, address: session.observed() }),
            }
        }
        self.went(now, session.identity);
        self.forget_if_gone(subject);
    }
}
