//! A peer that says whatever it likes on a session that it may have: a device, a connector or a controller whose software
//! is its owner's own.

use session::{Dialler, Event, LocalIdentity, LostReason, Output, SendError, SessionId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;
use trust::{Certificate, Identity, SigningKey, TrustBundle, UnixMs};
use wire::{FromAgent, Hello, PopId, ToAgent};

/// One.
pub struct Raw {
    /// Where it is.
    pub address: SocketAddr,
    /// Its sessions.
    pub dialler: Dialler,
    /// Which are up.
    pub up: Vec<SessionId>,
    /// Who answered.
    pub answered: BTreeMap<SessionId, Identity>,
    /// What it was told, as a device or connector.
    pub told: Vec<(SessionId, ToAgent)>,
    /// Every frame that came, undecoded.
    pub frames: Vec<(SessionId, u16, Vec<u8>)>,
    /// How sessions ended.
    pub lost: BTreeMap<SessionId, LostReason>,
    /// Datagrams that are not QUIC's.
    pub heard: Vec<(SocketAddr, Vec<u8>)>,
}

impl Raw {
    /// With this certificate and key.
    ///
    /// # Panics
    /// They do not belong together.
    #[must_use]
    pub fn new(
        certificate: &[u8],
        key: &SigningKey,
        bundle: TrustBundle,
        wall: UnixMs,
        address: SocketAddr,
        seed: [u8; 32],
    ) -> Self {
        let local = LocalIdentity::new(certificate, key).expect("belongs together");
        Self {
            address,
            dialler: Dialler::new(local, bundle, wall, seed),
            up: Vec::new(),
            answered: BTreeMap::new(),
            told: Vec::new(),
            frames: Vec::new(),
            lost: BTreeMap::new(),
            heard: Vec::new(),
        }
    }

    /// Opens a session.
    ///
    /// # Panics
    /// There is no room for one.
    pub fn dial(&mut self, now: Instant, pop: PopId, to: SocketAddr) -> SessionId {
        self.dialler.dial(now, pop, to).expect("room")
    }

    /// Says something.
    ///
    /// # Errors
    /// The session is not up, or its queue is full.
    pub fn say(&mut self, id: SessionId, message: &FromAgent) -> Result<(), SendError> {
        self.dialler.send(id, message.frame_type(), &message.encode_body())
    }

    /// The first message of an agent.
    #[must_use]
    pub fn hello() -> FromAgent {
        Hello { oldest: 1, newest: 1, build: wire::Bounded::new(b"hostile".to_vec()).expect("short") }.into()
    }

    /// Handles what came of the core; datagrams to send and when to come back.
    pub(crate) fn drain(&mut self, now: Instant) -> (Vec<(SocketAddr, Vec<u8>)>, Instant) {
        let mut out = Vec::new();
        loop {
            match self.dialler.poll_output(now) {
                Output::Transmit { to, payload } => out.push((to, payload)),
                Output::Event(Event::Connected { id, peer, .. }) => {
                    self.up.push(id);
                    self.answered.insert(id, identity_of(&peer));
                }
                Output::Event(Event::Frame { id, frame_type, body }) => {
                    if let Ok(Some(message)) = ToAgent::decode_body(frame_type, &body) {
                        self.told.push((id, message));
                    }
                    self.frames.push((id, frame_type, body));
                }
                Output::Event(Event::Lost { id, reason, .. }) => {
                    self.up.retain(|up| *up != id);
                    self.lost.insert(id, reason);
                }
                Output::Event(Event::AddressChanged { .. }) => {}
                Output::Timeout { at, .. } => return (out, at),
            }
        }
    }
}

fn identity_of(certificate: &Certificate) -> Identity {
    certificate.identity()
}
