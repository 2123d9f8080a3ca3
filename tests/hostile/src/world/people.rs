//! Who is in the world, one part each.

use super::{client_address, connector_address, seed_of};
use crate::installation::{INSTALLATION, Installation, pop_id, pop_key};
use agent::{ConnectorAgent, StoredState};
use client::core::{ClientNode, DialId, NodeParts};
use connector::{ConnectorCore, ConnectorNode, ConnectorParts};
use flow::{FlowId, FlowLimits};
use hostile_pop::PopMaterial;
use hostile_pop::core::Seed;
use hostile_pop::core::relay::{Relay, RelayCommand, RelayLimits};
use hostile_pop::core::sessions::Sessions;
use hostile_session::{AcceptorLimits, Cheat};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;
use trust::{Identity, OpenKey, UnixMs};
use tunnel::WireGuardPrivateKey;

/// What a PoP tells its relay instead.
pub type RelayCheat = Box<dyn FnMut(RelayCommand) -> Vec<RelayCommand>>;

/// A PoP: the production cores, between hands that may cheat.
pub struct PopPart {
    /// Its sessions.
    pub sessions: Sessions,
    /// Its relay.
    pub relay: Relay,
    /// What its relay is told instead.
    pub relay_cheat: Option<RelayCheat>,
    /// Its packets go nowhere.
    pub is_dark: bool,
}

impl PopPart {
    pub(super) fn new(
        installation: &Installation,
        number: usize,
        seed: u64,
        now: Instant,
        wall: UnixMs,
        cheat: Cheat,
    ) -> Self {
        let limits = RelayLimits::default();
        let seed = Seed::from_random(seed_of(seed, 100, number));
        let key = pop_key(number);
        let certificate = installation.certificate(Identity::pop(INSTALLATION, pop_id(number)), &key);
        let material = PopMaterial {
            key,
            certificate,
            root: installation.root,
            chain: installation.chain.clone(),
            revocations: Vec::new(),
        };
        hostile_session::prepare(cheat);
        let sessions = Sessions::new(material, AcceptorLimits::default(), limits.channels, now, wall, &seed)
            .expect("good material");
        Self { sessions, relay: Relay::new(limits, now, &seed), relay_cheat: None, is_dark: false }
    }
}

/// A connector, and the site behind it.
pub struct ConnectorPart {
    /// The production node.
    pub node: ConnectorNode,
    /// Whose.
    pub organization: usize,
    /// Where it is.
    pub address: SocketAddr,
    /// What was dialled in the site.
    pub dials: Vec<SocketAddr>,
    /// What reached the site, flow by flow.
    pub heard: BTreeMap<FlowId, Vec<u8>>,
    pub(super) unsent: BTreeMap<FlowId, Vec<u8>>,
    /// Verdicts of flows, as the flow log has them.
    pub records: Vec<connector::FlowRecord>,
}

fn bytes_of(key: &OpenKey) -> [u8; 32] {
    key.expose_private().try_into().expect("an X25519 key has 32 bytes")
}

impl ConnectorPart {
    pub(super) fn new(
        installation: &Installation,
        organization: usize,
        number: usize,
        seed: u64,
        now: Instant,
        wall: UnixMs,
    ) -> Self {
        let state = installation.connector(organization, number);
        let agent = ConnectorAgent::new(state, now, wall, seed_of(seed, 4, number)).expect("good material");
        let keys = &installation.connectors[number];
        let parts = ConnectorParts {
            site: None,
            identity: agent.identity(),
            open_key: OpenKey::from_private(&bytes_of(&keys.seal)).expect("its own key"),
            wireguard_key: WireGuardPrivateKey::from_bytes(bytes_of(&keys.wireguard)),
            own_listeners: Vec::new(),
            limits: FlowLimits::DEFAULT,
        };
        let core = ConnectorCore::new(parts, seed + number as u64, now, wall).expect("a connector");
        Self {
            node: ConnectorNode::new(agent, core, now),
            organization,
            address: connector_address(number),
            dials: Vec::new(),
            heard: BTreeMap::new(),
            unsent: BTreeMap::new(),
            records: Vec::new(),
        }
    }

    /// Bytes that reached the site.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.heard.values().map(Vec::len).sum()
    }
}

/// Whether somebody takes what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// All of it.
    Everything,
    /// Nothing.
    Nothing,
}

/// A client.
pub struct ClientPart {
    /// The production node.
    pub node: ClientNode,
    /// Whose.
    pub organization: usize,
    /// Where it is.
    pub address: SocketAddr,
    /// How each dial ended.
    pub dialled: BTreeMap<DialId, Result<FlowId, String>>,
    /// Flows that are over.
    pub ended: Vec<FlowId>,
    /// What came back on each.
    pub echoed: BTreeMap<FlowId, Vec<u8>>,
    /// Whether its user takes what comes back.
    pub reads: Reads,
}

impl ClientPart {
    pub(super) fn new(
        state: StoredState,
        organization: usize,
        number: usize,
        seed: u64,
        now: Instant,
        wall: UnixMs,
    ) -> Self {
        let parts = NodeParts {
            state,
            wireguard_key: WireGuardPrivateKey::from_bytes(seed_of(seed, 5, number)),
            seed: seed_of(seed, 6, number),
        };
        Self {
            node: ClientNode::new(parts, now, wall).expect("good material"),
            organization,
            address: client_address(number),
            dialled: BTreeMap::new(),
            ended: Vec::new(),
            echoed: BTreeMap::new(),
            reads: Reads::Everything,
        }
    }
}
