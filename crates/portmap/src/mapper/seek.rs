//! The search for whoever maps ports: nine packets in ten seconds, then quiet.

use super::{Activity, PortMapper, QUIET};
use crate::{
    mapping::{Protocol, Protocols},
    natpmp, pcp, ssdp,
};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Pcp,
    NatPmp,
    SearchGateway,
    SearchGroup,
    GiveUp,
}

/// What is sent when, in milliseconds. PCP at once and by the retransmission times of RFC 6887, section 8.1.1
/// (3 s, doubled); the others only when it was silent for a second, so that a gateway of today costs one packet.
const STEPS: &[(u64, Step)] = &[
    (0, Step::Pcp),
    (1000, Step::SearchGateway),
    (1250, Step::SearchGroup),
    (3000, Step::Pcp),
    (4000, Step::NatPmp),
    (5000, Step::SearchGateway),
    (5250, Step::SearchGroup),
    (9000, Step::Pcp),
    (10_000, Step::NatPmp),
    (14_000, Step::GiveUp),
];

impl Step {
    const fn protocol(self) -> Option<Protocol> {
        match self {
            Self::Pcp => Some(Protocol::Pcp),
            Self::NatPmp => Some(Protocol::NatPmp),
            Self::SearchGateway | Self::SearchGroup => Some(Protocol::Upnp),
            Self::GiveUp => None,
        }
    }

    fn is_of(self, protocols: Protocols) -> bool {
        self.protocol().is_none_or(|protocol| protocols.contains(protocol))
    }
}

/// How far a search is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seek {
    began: Instant,
    next: usize,
    /// Per thousand: each search stretches its times by up to a tenth, so that hosts do not ask in step.
    stretch: u64,
    skipped: u64,
}

impl Seek {
    fn step(&self) -> (u64, Step) {
        STEPS.get(self.next).copied().unwrap_or((0, Step::GiveUp))
    }

    pub(super) fn at(&self) -> Instant {
        let millis = self.step().0.saturating_sub(self.skipped) * (1000 + self.stretch) / 1000;
        self.began + Duration::from_millis(millis)
    }
}

impl PortMapper {
    /// Asks everybody who may be asked here.
    pub(super) fn seek_all(&mut self, now: Instant) {
        let allowed = match self.network {
            Some(network) if network.gateway.is_ipv4() && network.local.is_ipv4() => self.allowed,
            // Neither NAT-PMP nor the UPnP service that we speak knows IPv6.
            Some(_) if self.allowed.contains(Protocol::Pcp) => Protocols::NONE.with(Protocol::Pcp),
            Some(_) | None => Protocols::NONE,
        };
        if allowed.is_empty() {
            self.left = allowed;
            self.activity = Activity::Idle;
            return;
        }
        self.seek(now, allowed);
    }

    pub(super) fn seek(&mut self, now: Instant, among: Protocols) {
        self.left = among;
        if among.is_empty() {
            self.activity = Activity::Quiet { at: now + QUIET };
            return;
        }
        // Whoever is asked first is asked at once.
        let skipped = STEPS.iter().find(|(_, step)| step.is_of(among)).map_or(0, |(at, _)| *at);
        let stretch = u64::from(self.draw::<1>()[0]) * 100 / 256;
        self.activity = Activity::Seek(Seek { began: now, next: 0, stretch, skipped });
        self.seek_on(now);
    }

    /// Sends what is due, and finds the next step of somebody who is still to be asked.
    pub(super) fn seek_on(&mut self, now: Instant) {
        while let Activity::Seek(mut seek) = self.activity {
            let (_, step) = seek.step();
            if step.is_of(self.left) {
                if seek.at() > now {
                    return;
                }
                match step {
                    Step::GiveUp => return self.give_up(now),
                    Step::Pcp => self.send_pcp(super::LIFETIME),
                    Step::NatPmp => self.send_to_gateway(pcp::SERVER_PORT, natpmp::ADDRESS_REQUEST.to_vec()),
                    Step::SearchGateway => {
                        if let Some(network) = self.network {
                            let search = ssdp::search((network.gateway, ssdp::PORT).into());
                            self.send_to_gateway(ssdp::PORT, search);
                        }
                    }
                    Step::SearchGroup => {
                        let search = ssdp::search((ssdp::GROUP, ssdp::PORT).into());
                        self.send(ssdp::GROUP.into(), ssdp::PORT, search);
                    }
                }
            }
            seek.next += 1;
            self.activity = Activity::Seek(seek);
        }
    }

    fn send_to_gateway(&mut self, port: u16, datagram: Vec<u8>) {
        if let Some(network) = self.network {
            self.send(network.gateway, port, datagram);
        }
    }

    fn give_up(&mut self, now: Instant) {
        match self.mapping() {
            // Only the gateway's control URL was looked for again: what it gave holds until its end.
            Some(mapping) => self.fail(now, mapping.protocol, super::Failure::Silent),
            None => self.activity = Activity::Quiet { at: now + QUIET },
        }
    }
}
