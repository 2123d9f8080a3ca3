//! A device that was let in, and its flows.

use crate::core::bindings::{Bindings, Meaning};
use crate::core::datagrams::DatagramId;
use crate::core::introduction::Admitted;
use crate::core::passages::PassageId;
use crate::core::rules::{FlowAge, Knowledge, Question, ResourceName, Rules, Ruling, Target};
use flow::{FlowId, LinkId};
use policy::{Destination, Place, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
use trust::{Grant, KeyId, KeyRole, UnixMs};
use tunnel::PeerId;
use wire::{DeviceId, PopId, Refusal};

/// Refusals of one device that are logged in a second; a client that hammers is counted, not logged line by
/// line: 20 lines of 700 bytes fill a segment in three seconds, 1,024 segments in an hour.
pub(crate) const LOGGED_REFUSALS_PER_SECOND: u32 = 20;

/// How often in a second addresses that are in use may come to mean something else: a client gives an address that programs
/// still use to another name only when it has no other left, and each time all flows to it are looked at.
pub(crate) const REBINDINGS_PER_SECOND: u32 = 64;

/// A flow of either kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FlowKey {
    /// TCP.
    Stream(FlowId),
    /// UDP or ICMP echo.
    Datagrams(DatagramId),
    /// Of any kind, through the kernel.
    Passage(PassageId),
}

/// One device, through one WireGuard key.
pub(crate) struct Session {
    pub peer: PeerId,
    pub grant: Grant,
    /// The key that signed it.
    pub signer: KeyId,
    /// The device's address inside, IPv6; the IPv4 one is the same in every tunnel.
    pub inner_v6: Ipv6Addr,
    /// The grant's hard end on the monotonic clock, as known when it was verified; looked at again then.
    pub deadline: Instant,
    pub pop: PopId,
    pub flows: BTreeSet<FlowId>,
    pub datagrams: BTreeSet<DatagramId>,
    pub passages: BTreeSet<PassageId>,
    /// The same, by the address inside that each goes to.
    users: BTreeMap<IpAddr, BTreeSet<FlowKey>>,
    /// What its client's synthetic addresses stand for.
    pub bindings: Bindings,
    window: Instant,
    logged: u32,
    rebinding_window: Instant,
    rebindings: u32,
}

impl Session {
    pub fn new(peer: PeerId, admitted: Admitted, pop: PopId, deadline: Instant, now: Instant) -> Self {
        let Admitted { grant, signer, .. } = admitted;
        let inner_v6 = policy::inner_device_address(grant.device);
        Self {
            peer,
            grant,
            signer,
            inner_v6,
            deadline,
            pop,
            flows: BTreeSet::new(),
            datagrams: BTreeSet::new(),
            passages: BTreeSet::new(),
            users: BTreeMap::new(),
            bindings: Bindings::default(),
            window: now,
            logged: 0,
            rebinding_window: now,
            rebindings: 0,
        }
    }

    /// The device's own addresses inside.
    pub fn own(&self) -> [IpAddr; 2] {
        [policy::INNER_V4.into(), self.inner_v6.into()]
    }

    /// What a packet to an address asks for, as things are bound now.
    pub fn wanted(&self, protocol: Protocol, address: SocketAddr) -> Wanted {
        Wanted { protocol, address, meaning: self.bindings.meaning(address.ip()).cloned() }
    }

    pub const fn link(&self) -> LinkId {
        LinkId(self.peer.number())
    }

    /// A flow to an address begins.
    pub fn begin(&mut self, flow: FlowKey, address: IpAddr) {
        match flow {
            FlowKey::Stream(flow) => self.flows.insert(flow),
            FlowKey::Datagrams(flow) => self.datagrams.insert(flow),
            FlowKey::Passage(flow) => self.passages.insert(flow),
        };
        self.users.entry(address).or_default().insert(flow);
    }

    /// It has ended.
    pub fn end(&mut self, flow: FlowKey, address: IpAddr) {
        match flow {
            FlowKey::Stream(flow) => self.flows.remove(&flow),
            FlowKey::Datagrams(flow) => self.datagrams.remove(&flow),
            FlowKey::Passage(flow) => self.passages.remove(&flow),
        };
        if let Some(users) = self.users.get_mut(&address) {
            users.remove(&flow);
            if users.is_empty() {
                self.users.remove(&address);
            }
        }
    }

    /// The flows to these addresses.
    pub fn users(&self, addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = FlowKey> {
        addresses.iter().filter_map(|address| self.users.get(address)).flatten().copied()
    }

    /// Whether there is any.
    pub fn is_used(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        addresses.iter().any(|address| self.users.contains_key(address))
    }

    /// Whether one more address that is in use may come to mean something else now.
    pub fn may_rebind(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.rebinding_window) >= Duration::from_secs(1) {
            self.rebinding_window = now;
            self.rebindings = 0;
        }
        self.rebindings < REBINDINGS_PER_SECOND
    }

    /// One did.
    pub const fn rebound(&mut self) {
        self.rebindings += 1;
    }

    /// Whether a packet may come from this source.
    pub fn owns(&self, source: IpAddr) -> bool {
        if planted::is("source-of-packet-unchecked") {
            return true;
        }
        match source {
            IpAddr::V4(source) => source == policy::INNER_V4,
            IpAddr::V6(source) => source == self.inner_v6,
        }
    }

    /// Why this device may not be here any more, if so.
    pub fn fault<R>(&self, knowledge: &Knowledge<'_, R>) -> Option<Refusal> {
        if self.grant.exp <= knowledge.wall && !planted::is("session-outlives-its-lease") {
            Some(Refusal::GrantExpired)
        } else if knowledge.revocations.strikes_grant(&self.grant) && !planted::is("strike-spares-who-is-in")
        {
            Some(Refusal::Struck)
        } else if knowledge.bundle.key(self.signer, KeyRole::Grant).is_none() {
            // Taken away before its time: whatever it signed is nobody's word any more.
            Some(Refusal::GrantInvalid)
        } else {
            None
        }
    }

    /// Asks the policy. Without one the answer is no, for now.
    pub fn ask<R: Rules>(&self, knowledge: &Knowledge<'_, R>, wanted: &Wanted, age: FlowAge) -> Ruling {
        let denied = |refusal: Refusal| Ruling {
            resource: None,
            verdict: Err(refusal),
            explanation: refusal.to_string(),
        };
        if let Some(fault) = self.fault(knowledge) {
            return denied(fault);
        }
        if planted::is("a-connector-believes-the-client") {
            return Ruling {
                resource: None,
                verdict: Ok(Target::Literal(wanted.address.ip())),
                explanation: String::new(),
            };
        }
        if planted::is("a-binding-is-a-permission")
            && let Some(name) = wanted.meaning.as_ref().and_then(Meaning::name)
        {
            let verdict = Ok(Target::Name(name.to_string()));
            return Ruling { resource: None, verdict, explanation: String::new() };
        }
        knowledge.rules.map_or_else(
            || denied(Refusal::NoSlice),
            |rules| {
                rules.decide(&Question {
                    grant: &self.grant,
                    revocations: knowledge.revocations,
                    destination: wanted.destination(),
                    contact: knowledge.contact,
                    age,
                })
            },
        )
    }

    /// Whether one more refusal of this device is logged.
    pub fn may_log(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.logged = 0;
        }
        self.logged += 1;
        self.logged <= LOGGED_REFUSALS_PER_SECOND
    }
}

/// What a flow was begun for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub protocol: Protocol,
    /// Inside the tunnel; the port is 0 where the protocol has none.
    pub address: SocketAddr,
    /// What the address was bound to then.
    pub meaning: Option<Meaning>,
}

impl Wanted {
    /// What policy is asked about.
    pub fn destination(&self) -> Destination<'_> {
        let place = self.meaning.as_ref().map_or(Place::Address(self.address.ip()), Meaning::place);
        Destination { place, protocol: self.protocol, port: self.address.port() }
    }
}

/// How far a flow has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The name is being resolved in the site.
    Resolving { port: u16 },
    /// The target is being connected to; the SYN is held.
    Dialling { addresses: Vec<SocketAddr> },
    /// The target accepted, and so did we.
    Open { target: SocketAddr },
}

/// A flow that the policy allowed.
pub(crate) struct Active {
    pub peer: PeerId,
    /// Whose, also when its session has ended.
    pub device: DeviceId,
    pub wanted: Wanted,
    pub resource: Option<ResourceName>,
    /// What the policy named: by name, an answer outside the site is refused, also later.
    pub target: Target,
    pub stage: Stage,
    pub started: UnixMs,
    pub bytes_up: u64,
    pub bytes_down: u64,
}
