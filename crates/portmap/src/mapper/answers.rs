//! What an answer or an announcement of a gateway changes.

use super::{Activity, Failure, Found, HEED_EVERY, NatPmpAsked, Network, PortMapper, Refused, UpnpAsked};
use crate::{
    epoch::{Epoch, Verdict},
    mapping::{Protocol, Reach},
    natpmp, pcp, ssdp,
};
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

/// RFC 6887, section 14.1.3: hosts answer an announcement within so long, spread.
const ANNOUNCEMENT_SPREAD: Duration = Duration::from_secs(5);

impl PortMapper {
    pub(super) fn handle_pcp(
        &mut self,
        now: Instant,
        network: Network,
        response: pcp::Response,
    ) -> Result<(), Refused> {
        let closing = matches!(self.activity, Activity::Closing { protocol: Protocol::Pcp, .. });
        let asking = match self.activity {
            Activity::Pcp { .. } => true,
            Activity::Seek(_) => self.left.contains(Protocol::Pcp),
            _ => false,
        };
        match response.body {
            pcp::Body::Announce => {
                let verdict = self.judge(now, Protocol::Pcp, response.epoch);
                self.pcp_epoch = Some(Epoch::new(response.epoch, now));
                self.hear(now, Protocol::Pcp, verdict);
                Ok(())
            }
            pcp::Body::Map(map) if map.nonce != self.nonce || map.internal_port != network.port => {
                Err(Refused::NotOurs)
            }
            pcp::Body::Map(_) if closing && response.lifetime == 0 => {
                self.close();
                Ok(())
            }
            pcp::Body::Map(map) if asking => {
                self.pcp_epoch = Some(Epoch::new(response.epoch, now));
                self.hold(now, map.external, response.lifetime, Protocol::Pcp, None);
                Ok(())
            }
            pcp::Body::Refused(_) if closing => {
                self.close();
                Ok(())
            }
            pcp::Body::UnsupportedVersion(_) if asking => {
                self.fail(now, Protocol::Pcp, Failure::Refused);
                Ok(())
            }
            pcp::Body::Refused(code) if asking => {
                // Network failure, no resources, quota: they pass (RFC 6887, section 7.4).
                let passes = matches!(code.0, 7 | 8 | 10);
                self.fail(now, Protocol::Pcp, if passes { Failure::Silent } else { Failure::Refused });
                Ok(())
            }
            _ => Err(Refused::Unexpected),
        }
    }

    pub(super) fn handle_natpmp(
        &mut self,
        now: Instant,
        network: Network,
        response: natpmp::Response,
    ) -> Result<(), Refused> {
        let seeks = matches!(self.activity, Activity::Seek(_));
        let asking_pcp =
            matches!(self.activity, Activity::Pcp { .. }) || seeks && self.left.contains(Protocol::Pcp);
        let closing = matches!(self.activity, Activity::Closing { protocol: Protocol::NatPmp, .. });
        let asked = match self.activity {
            Activity::NatPmp { asked, .. } => Some(asked),
            Activity::Seek(_) if self.left.contains(Protocol::NatPmp) => Some(NatPmpAsked::Address),
            _ => None,
        };
        match (response, asked) {
            (natpmp::Response::Refused { .. }, _) if closing => self.close(),
            (natpmp::Response::Map { lifetime: 0, internal_port, .. }, _)
                if closing && internal_port == network.port =>
            {
                self.close();
            }
            // RFC 6887, section 9 and appendix A: the gateway is older, and says so in its own words.
            (natpmp::Response::Refused { code: 1 }, _) if asking_pcp => {
                if self.held.is_none() && self.left.contains(Protocol::NatPmp) && network.gateway.is_ipv4() {
                    self.left = self.left.without(Protocol::Pcp);
                    self.ask_natpmp(now, NatPmpAsked::Address, 0);
                } else {
                    self.fail(now, Protocol::Pcp, Failure::Refused);
                }
            }
            (natpmp::Response::Refused { code }, Some(_)) => {
                let passes = matches!(code, 3 | 4); // network failure, no resources
                self.fail(now, Protocol::NatPmp, if passes { Failure::Silent } else { Failure::Refused });
            }
            (natpmp::Response::Address { epoch, external }, Some(NatPmpAsked::Address)) => {
                self.natpmp_epoch = Some(Epoch::new(epoch, now));
                if Reach::of(external.into()).is_none() {
                    self.fail(now, Protocol::NatPmp, Failure::Refused);
                } else {
                    self.ask_natpmp(now, NatPmpAsked::Map(external), 0);
                }
            }
            (
                natpmp::Response::Map { epoch, internal_port, external_port, lifetime },
                Some(NatPmpAsked::Map(address)),
            ) if internal_port == network.port => {
                self.natpmp_epoch = Some(Epoch::new(epoch, now));
                let external = SocketAddr::new(address.into(), external_port);
                self.hold(now, external, lifetime, Protocol::NatPmp, None);
            }
            (natpmp::Response::Address { epoch, external }, None) => {
                let mut verdict = self.judge(now, Protocol::NatPmp, epoch);
                self.natpmp_epoch = Some(Epoch::new(epoch, now));
                let held = self.mapping().filter(|mapping| mapping.protocol == Protocol::NatPmp);
                if held.is_some_and(|mapping| mapping.external.ip() != IpAddr::V4(external)) {
                    verdict = Verdict::Reset;
                }
                self.hear(now, Protocol::NatPmp, verdict);
            }
            _ => return Err(Refused::Unexpected),
        }
        Ok(())
    }

    pub(super) fn handle_ssdp(
        &mut self,
        now: Instant,
        network: Network,
        datagram: &[u8],
    ) -> Result<(), Refused> {
        if !matches!(self.activity, Activity::Seek(_)) || !self.left.contains(Protocol::Upnp) {
            return Err(Refused::Unexpected);
        }
        let location = ssdp::parse_answer(datagram, network.gateway).map_err(|error| match error {
            ssdp::Malformed::ForeignHost | ssdp::Malformed::Port => Refused::ForeignUrl,
            _ => Refused::Malformed,
        })?;
        self.ask_upnp(now, UpnpAsked::Description(location), Found::Now);
        Ok(())
    }

    fn judge(&self, now: Instant, protocol: Protocol, seconds: u32) -> Verdict {
        let known = match protocol {
            Protocol::Pcp => self.pcp_epoch.map(|epoch| epoch.judge_pcp(seconds, now)),
            Protocol::NatPmp => self.natpmp_epoch.map(|epoch| epoch.judge_natpmp(seconds, now)),
            Protocol::Upnp => None,
        };
        known.unwrap_or_else(|| {
            // Nothing to compare with, but a gateway that is younger than its mapping has forgotten it.
            let age = self.held.as_ref().map(|held| now.saturating_duration_since(held.since).as_secs());
            if age.is_some_and(|age| age > u64::from(seconds) + 2) {
                Verdict::Reset
            } else {
                Verdict::Continued
            }
        })
    }

    /// The gateway told its epoch: an answer to our check, or an announcement.
    fn hear(&mut self, now: Instant, protocol: Protocol, verdict: Verdict) {
        let checked = matches!(self.activity, Activity::Check { .. })
            && self.mapping().is_some_and(|mapping| mapping.protocol == protocol);
        match (&self.activity, verdict) {
            (Activity::Check { .. }, Verdict::Continued) if checked => self.rest(now),
            (Activity::Check { .. }, Verdict::Reset) if checked => self.renew(now),
            (Activity::Rest | Activity::Check { .. }, Verdict::Reset) => {
                let spread = self.heed(now).max(now + self.fraction(ANNOUNCEMENT_SPREAD));
                if let Some(held) = &mut self.held {
                    held.renew_at = held.renew_at.min(spread);
                }
            }
            // A gateway that was not there before.
            (Activity::Quiet { .. }, _) if self.heeded.is_none_or(|last| last + HEED_EVERY <= now) => {
                self.heed(now);
                self.seek_all(now);
            }
            _ => {}
        }
    }

    /// When an announcement may move us: now, unless one did just before.
    fn heed(&mut self, now: Instant) -> Instant {
        let earliest = self.heeded.map_or(now, |last| now.max(last + HEED_EVERY));
        self.heeded = Some(earliest);
        earliest
    }
}
