//! The one module that knows gotatun. See ADR 0001 for what it is given and what is kept from it.

use crate::engine::{Engine, Initiation, LocalIndex, OpenError, OpenSink, Response};
use crate::{TunnelError, WireGuardPrivateKey, WireGuardPublicKey};
use bytes::BytesMut;
use gotatun::noise::{
    TimerParams, Tunn, TunnResult, errors::WireGuardError, index_table::IndexTable, rate_limiter::RateLimiter,
};
use gotatun::packet::{Packet, WgKind};
use gotatun::x25519::{PublicKey, StaticSecret};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use wire::{WG_INITIATION_LEN, WG_RESPONSE_LEN};

/// Offset and length of the sender index in both handshake messages (white paper, sections 5.4.2, 5.4.3).
const SENDER_INDEX: std::ops::Range<usize> = 4..8;

/// Longer than any process lives: gotatun's own timers never fire, ours do (`timers.rs`).
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// All handshakes reach us through a PoP, so there is no source address to count by: one stands for all,
/// and the limit is off. Admission is the PoP's and the introduction's budget (ADR 0001).
const EVERYBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

pub(crate) fn public_key_of(private: &WireGuardPrivateKey) -> WireGuardPublicKey {
    WireGuardPublicKey::from_bytes(*PublicKey::from(&StaticSecret::from(*private.expose())).as_bytes())
}

/// gotatun's Noise core.
pub struct GotatunEngine {
    private: StaticSecret,
    public: WireGuardPublicKey,
    indices: IndexTable,
    // Used for the first MAC only (white paper, section 5.4.4).
    mac: Arc<RateLimiter>,
}

impl GotatunEngine {
    /// An engine for one static key.
    #[must_use]
    pub fn new(private: &WireGuardPrivateKey) -> Self {
        let secret = StaticSecret::from(*private.expose());
        let public = PublicKey::from(&secret);
        Self {
            mac: Arc::new(RateLimiter::new(&public, u64::MAX)),
            public: WireGuardPublicKey::from_bytes(*public.as_bytes()),
            private: secret,
            indices: IndexTable::from_os_rng(),
        }
    }

    /// Parses a handshake message and checks its first MAC.
    fn handshake(&self, message: &[u8]) -> Result<WgKind, TunnelError> {
        self.mac.verify_packet(EVERYBODY, packet(message)).map_err(|_| TunnelError::Malformed)
    }
}

/// What gotatun keeps for one peer: 18 kB, so it lives on the heap.
pub struct GotatunPeer(Box<Tunn>);

impl GotatunPeer {
    /// Lets gotatun read its own clock and forget what is past its life, so that the times it stamps
    /// on the sessions it is about to make are in order. What it wants sent is ours to decide.
    fn tick(&mut self) {
        let _ = self.0.update_timers();
    }
}

fn packet(bytes: &[u8]) -> Packet {
    Packet::from_bytes(BytesMut::from(bytes))
}

fn index_at_sender(message: &[u8]) -> LocalIndex {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&message[SENDER_INDEX]);
    LocalIndex(u32::from_le_bytes(bytes))
}

fn handshake_error(error: &WireGuardError) -> TunnelError {
    match error {
        WireGuardError::WrongTai64nTimestamp => TunnelError::Replayed,
        WireGuardError::WrongKey => TunnelError::WrongKey,
        WireGuardError::InvalidAeadTag | WireGuardError::InvalidMac => TunnelError::Forged,
        WireGuardError::UnexpectedPacket | WireGuardError::WrongIndex => TunnelError::NotAwaited,
        _ => TunnelError::Malformed,
    }
}

impl Engine for GotatunEngine {
    type Peer = GotatunPeer;

    fn public_key(&self) -> WireGuardPublicKey {
        self.public
    }

    fn new_peer(&self, key: &WireGuardPublicKey) -> GotatunPeer {
        let mut tunn = Box::new(Tunn::new(
            self.private.clone(),
            PublicKey::from(*key.as_bytes()),
            None,
            None,
            self.indices.clone(),
            Arc::clone(&self.mac),
        ));
        tunn.dangerously_set_timer_params(TimerParams {
            keepalive_timeout: NEVER..=NEVER,
            new_handshake_timeout: NEVER..=NEVER,
            rekey_timeout: NEVER..=NEVER,
            rekey_after_time: NEVER..=NEVER,
        });
        GotatunPeer(tunn)
    }

    fn initiate(&self, peer: &mut GotatunPeer) -> Initiation {
        peer.tick();
        let message = peer
            .0
            .format_handshake_initiation(true)
            .expect("a forced initiation is always made")
            .into_bytes();
        let mut bytes = [0; WG_INITIATION_LEN];
        bytes.copy_from_slice(&message);
        Initiation { index: index_at_sender(&bytes), bytes }
    }

    fn respond(&self, peer: &mut GotatunPeer, initiation: &[u8]) -> Result<Response, TunnelError> {
        let message = self.handshake(initiation)?;
        if !matches!(message, WgKind::HandshakeInit(_)) {
            return Err(TunnelError::Malformed);
        }
        peer.tick();
        match peer.0.handle_incoming_packet(message) {
            TunnResult::WriteToNetwork(WgKind::HandshakeResp(response)) => {
                let mut bytes = [0; WG_RESPONSE_LEN];
                bytes.copy_from_slice(&response.into_bytes());
                Ok(Response { index: index_at_sender(&bytes), bytes })
            }
            TunnResult::Err(error) => Err(handshake_error(&error)),
            _ => Err(TunnelError::Malformed),
        }
    }

    fn finish(&self, peer: &mut GotatunPeer, response: &[u8]) -> Result<LocalIndex, TunnelError> {
        let message = self.handshake(response)?;
        let WgKind::HandshakeResp(response) = message else {
            return Err(TunnelError::Malformed);
        };
        let index = LocalIndex(response.receiver_idx.get());
        peer.tick();
        match peer.0.handle_incoming_packet(WgKind::HandshakeResp(response)) {
            // The packet it wants sent is a keepalive; the caller knows whether there is data to send
            // instead, which proves the key as well.
            TunnResult::WriteToNetwork(WgKind::Data(_)) => Ok(index),
            TunnResult::Err(error) => Err(handshake_error(&error)),
            _ => Err(TunnelError::Malformed),
        }
    }

    fn seal(&self, peer: &mut GotatunPeer, packets: &[&[u8]], out: &mut dyn FnMut(&[u8])) -> usize {
        for (done, inner) in packets.iter().enumerate() {
            match peer.0.encapsulate_with_session(packet(inner)) {
                Ok(sealed) => out(&sealed.into_bytes()),
                Err(_) => return done,
            }
        }
        packets.len()
    }

    fn open(&self, peer: &mut GotatunPeer, packets: &[&[u8]], out: &mut OpenSink<'_>) {
        let mut opened = Vec::new();
        for sealed in packets {
            let Ok(WgKind::Data(data)) = packet(sealed).try_into_wg() else {
                out(Err(OpenError::Forged));
                continue;
            };
            match peer.0.decapsulate_with_session(data) {
                Ok(inner) => {
                    opened.clear();
                    opened.extend_from_slice(&inner);
                    out(Ok(&mut opened));
                }
                Err(error) => out(Err(match error {
                    WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter => OpenError::Replayed,
                    WireGuardError::NoCurrentSession | WireGuardError::ConnectionExpired => {
                        OpenError::NoSession
                    }
                    _ => OpenError::Forged,
                })),
            }
        }
    }
}
