//! The side that opens sessions: agents and controllers.

use crate::{
    close::CloseCode,
    engine::{Engine, Side},
    output::{DialError, Output, SendError, SessionId},
    tls::{LocalIdentity, SERVER_NAME, dialler_config},
    transport::{End, transport},
    vetting::{Expected, Vetting},
};
use quinn_proto::{ClientConfig, ConnectError, Endpoint, EndpointConfig};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use trust::{Certificate, TrustBundle, UnixMs};
use wire::PopId;

/// A PoP that has not completed the handshake by then is not there: Retry, two flights and a lost
/// packet or two at a delay of one second each way.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Sessions of one dialler, those that drain included. A controller dials every PoP.
const MAX_SESSIONS: usize = 4096;

/// Opens sessions to PoPs.
pub struct Dialler {
    engine: Engine,
    vetting: Arc<Vetting>,
    local: LocalIdentity,
    transport: Arc<quinn_proto::TransportConfig>,
}

impl Dialler {
    /// A dialler that shows `local`, believes `bundle` and draws its connection ids from `seed`.
    #[must_use]
    pub fn new(local: LocalIdentity, bundle: TrustBundle, wall: UnixMs, seed: [u8; 32]) -> Self {
        let vetting = Arc::new(Vetting::new(bundle, wall));
        let mut config = EndpointConfig::default();
        config
            .grease_quic_bit(false)
            .supported_versions(vec![crate::transport::QUIC_V1])
            .rng_seed(Some(seed));
        let endpoint = Endpoint::new(Arc::new(config), None, false, None);
        let engine = Engine::new(Side::Dialler, endpoint, Arc::clone(&vetting));
        Self { engine, vetting, local, transport: transport(End::Dialler) }
    }

    /// The wall clock for judging certificates. Call it often enough that minutes do not matter.
    pub fn set_wall(&mut self, wall: UnixMs) {
        self.vetting.set_wall(wall);
    }

    /// Believes another bundle from now on, also in handshakes that are under way.
    pub fn set_bundle(&mut self, bundle: TrustBundle) {
        self.vetting.set_bundle(bundle);
    }

    /// Refuses PoPs that these strike, from now on.
    pub fn set_revocations(&mut self, revocations: Arc<trust::RevocationSet>) {
        self.vetting.set_revocations(revocations);
    }

    /// Shows another certificate in sessions dialled from now on.
    pub fn set_identity(&mut self, local: LocalIdentity) {
        self.local = local;
    }

    /// Opens a session to exactly this PoP at this address.
    /// [`Event::Connected`](crate::Event::Connected) or [`Event::Lost`](crate::Event::Lost) follows, by
    /// [`DIAL_TIMEOUT`] at the latest.
    ///
    /// # Errors
    /// Nothing can be sent there, or there are too many sessions.
    pub fn dial(&mut self, now: Instant, pop: PopId, to: SocketAddr) -> Result<SessionId, DialError> {
        if self.engine.sessions() >= MAX_SESSIONS {
            return Err(DialError::Full);
        }
        let expected = Expected::Pop(pop);
        let crypto = dialler_config(&self.local, &self.vetting, expected).map_err(|_| DialError::Identity)?;
        let mut config = ClientConfig::new(crypto);
        config.transport_config(Arc::clone(&self.transport));
        let (handle, connection) =
            self.engine.endpoint().connect(now, config, to, SERVER_NAME).map_err(|error| match error {
                ConnectError::CidsExhausted => DialError::Full,
                ConnectError::InvalidRemoteAddress(address) => DialError::Address(address),
                _ => DialError::Identity,
            })?;
        Ok(self.engine.add(handle, connection, expected, now, now + DIAL_TIMEOUT))
    }

    /// Queues a frame.
    ///
    /// # Errors
    /// The session is not up, or its queue is full.
    pub fn send(&mut self, id: SessionId, frame_type: u16, body: &[u8]) -> Result<(), SendError> {
        self.engine.send(id, frame_type, body)
    }

    /// Ends a session. [`Event::Lost`](crate::Event::Lost) follows.
    pub fn close(&mut self, now: Instant, id: SessionId, code: CloseCode) {
        self.engine.close(now, id, code, None);
    }

    /// The peer of a session that is up.
    #[must_use]
    pub fn peer(&self, id: SessionId) -> Option<&Certificate> {
        self.engine.peer(id)
    }

    /// Where the peer of a session is.
    #[must_use]
    pub fn remote(&self, id: SessionId) -> Option<SocketAddr> {
        self.engine.remote(id)
    }

    /// Takes one datagram (one GRO segment) that [`wire::classify`] calls QUIC.
    pub fn handle_input(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        if let Some(incoming) = self.engine.handle_input(now, from, datagram) {
            self.engine.endpoint().ignore(incoming);
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self, now: Instant) -> Output {
        self.engine.poll(now).unwrap_or_else(|| self.engine.next_timeout(now))
    }
}

impl std::fmt::Debug for Dialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dialler({} sessions)", self.engine.sessions())
    }
}
