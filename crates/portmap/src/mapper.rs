//! The core: who is asked when, what an answer changes, when a mapping is renewed and given back.

use crate::{
    epoch::Epoch,
    http,
    mapping::{Mapping, Protocol, Protocols, Reach},
    natpmp,
    pcp::{self, MapRequest, Nonce},
    ssdp::GatewayUrl,
    upnp::{self, Answer, Control},
};
use aws_lc_rs::hmac;
use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

mod answers;
mod seek;
mod types;

use seek::Seek;
pub use types::{Event, HttpFailure, HttpToken, Network, Output, Refused, Timeout, TimeoutReason};

/// What is asked for, in seconds: RFC 6886, section 3.3 recommends two hours.
pub const LIFETIME: u32 = 2 * 60 * 60;
/// RFC 6887, section 15: a mapping of more than a day is taken as one of a day.
const LONGEST: u32 = 24 * 60 * 60;
/// A shorter lease would cost a packet each half minute or more: not worth having.
const SHORTEST: u32 = 60;
/// How long nothing is asked after nobody answered.
pub const QUIET: Duration = Duration::from_secs(60 * 60);
/// How often a gateway is asked whether it still knows: its announcement of a reboot can get lost.
const CHECK_EVERY: Duration = Duration::from_secs(10 * 60);
/// RFC 6887, section 8.1.1: IRT.
const PCP_FIRST_RETRY: Duration = Duration::from_secs(3);
/// RFC 6886, section 3.1.
const NATPMP_FIRST_RETRY: Duration = Duration::from_millis(250);
/// How often one request is sent at most; a renewal is begun again later (RFC 6887, section 11.2.1).
const ATTEMPTS: u32 = 4;
/// The shell ends a request after 3 s; one that tells nothing is given up by the core.
const HTTP_PATIENCE: Duration = Duration::from_secs(10);
/// Announcements can be forged by anybody on the link: they move us once in this time.
const HEED_EVERY: Duration = Duration::from_secs(60);
/// Other external ports that are tried when ours is taken.
const CONFLICTS: u8 = 3;

/// A mapping, and how it is kept.
#[derive(Debug)]
struct Held {
    mapping: Mapping,
    since: Instant,
    renew_at: Instant,
    check_at: Instant,
    control: Option<Control>,
}

/// What is going on.
#[derive(Debug)]
enum Activity {
    /// No network, or nothing allowed.
    Idle,
    /// Whoever answers is wanted.
    Seek(Seek),
    /// A mapping was asked for by PCP.
    Pcp { attempt: u32, at: Instant },
    /// Something was asked by NAT-PMP.
    NatPmp { asked: NatPmpAsked, attempt: u32, at: Instant },
    /// A gateway is talked to by HTTP.
    Upnp { asked: UpnpAsked, found: Found, token: HttpToken, at: Instant },
    /// The gateway was asked whether it still counts on.
    Check { attempt: u32, at: Instant },
    /// The mapping holds.
    Rest,
    /// Nobody answered.
    Quiet { at: Instant },
    /// The mapping is being given back.
    Closing { protocol: Protocol, token: Option<HttpToken>, attempt: u32, at: Instant },
    /// The end.
    Closed,
}

#[derive(Debug, Clone, Copy)]
enum NatPmpAsked {
    Address,
    Map(Ipv4Addr),
}

#[derive(Debug, Clone)]
enum UpnpAsked {
    Description(GatewayUrl),
    Address(Control),
    Add { control: Control, external: Ipv4Addr, request: upnp::Request, conflicts: u8 },
}

/// Where the control URL comes from: one that was kept may be outdated, and is looked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Now,
    Before,
}

/// How a protocol failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failure {
    Silent,
    Refused,
}

/// Keeps one UDP port mapped at one gateway. After every call that takes `now`, outputs are polled up to
/// [`Output::Timeout`].
#[derive(Debug)]
pub struct PortMapper {
    draws: hmac::Key,
    drawn: u64,
    allowed: Protocols,
    check_every: Duration,
    network: Option<Network>,
    nonce: Nonce,
    /// Those that were not refused since the search began.
    left: Protocols,
    activity: Activity,
    held: Option<Held>,
    pcp_epoch: Option<Epoch>,
    natpmp_epoch: Option<Epoch>,
    heeded: Option<Instant>,
    tokens: u64,
    out: VecDeque<Output>,
}

impl PortMapper {
    /// Knows no network yet. `seed` has to be unpredictable: nonces come from it.
    pub fn new(seed: [u8; 32], allowed: Protocols, _now: Instant) -> Self {
        Self {
            draws: hmac::Key::new(hmac::HMAC_SHA256, &seed),
            drawn: 0,
            allowed,
            check_every: CHECK_EVERY,
            network: None,
            nonce: Nonce([0; 12]),
            left: Protocols::NONE,
            activity: Activity::Idle,
            held: None,
            pcp_epoch: None,
            natpmp_epoch: None,
            heeded: None,
            tokens: 0,
            out: VecDeque::new(),
        }
    }

    /// Asks the gateway whether it forgot at another interval than ten minutes; never more often than each second.
    pub fn check_every(&mut self, interval: Duration) {
        self.check_every = interval.max(Duration::from_secs(1));
    }

    /// The mapping that holds.
    pub fn mapping(&self) -> Option<Mapping> {
        self.held.as_ref().map(|held| held.mapping)
    }

    /// The network is this one now. Another one than before gives the old mapping back, as far as the old
    /// gateway can still hear it, and asks anew.
    pub fn set_network(&mut self, now: Instant, network: Option<Network>) {
        if network == self.network || matches!(self.activity, Activity::Closing { .. } | Activity::Closed) {
            return;
        }
        if self.held.is_some() {
            self.send_deletion();
            self.lose();
        }
        self.network = network;
        self.pcp_epoch = None;
        self.natpmp_epoch = None;
        self.nonce = Nonce(self.draw());
        self.seek_all(now);
    }

    /// Gives the mapping back; [`Event::Closed`] says when that is done or was tried enough.
    pub fn shutdown(&mut self, now: Instant) {
        if matches!(self.activity, Activity::Closing { .. } | Activity::Closed) {
            return;
        }
        let Some(protocol) = self.mapping().map(|mapping| mapping.protocol) else {
            self.close();
            return;
        };
        let token = self.send_deletion();
        let wait = if protocol == Protocol::Upnp { HTTP_PATIENCE } else { NATPMP_FIRST_RETRY };
        self.activity = Activity::Closing { protocol, token, attempt: 0, at: now + wait };
    }

    /// Takes a datagram that came from `from`.
    ///
    /// # Errors
    /// It counts for nothing, and why.
    pub fn handle_input(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Result<(), Refused> {
        let network = self.network.ok_or(Refused::NoNetwork)?;
        if from.ip().to_canonical() != network.gateway {
            return Err(Refused::ForeignSource);
        }
        if from.port() != pcp::SERVER_PORT {
            return self.handle_ssdp(now, network, datagram);
        }
        match datagram.first() {
            // Both version 0: NAT-PMP, and what a NAT-PMP gateway answers to PCP.
            Some(0) => {
                let response = natpmp::parse(datagram).map_err(|_| Refused::Malformed)?;
                self.handle_natpmp(now, network, response)
            }
            _ => {
                let response = pcp::parse(datagram).map_err(|_| Refused::Malformed)?;
                self.handle_pcp(now, network, response)
            }
        }
    }

    /// Takes what came of [`Output::Http`].
    pub fn handle_http(&mut self, now: Instant, token: HttpToken, response: Result<&[u8], HttpFailure>) {
        if let Activity::Closing { token: Some(expected), .. } = &self.activity
            && *expected == token
        {
            self.close();
            return;
        }
        let Some(network) = self.network else { return };
        let Activity::Upnp { asked, found, token: expected, .. } = &self.activity else { return };
        if *expected != token {
            return;
        }
        let (asked, found) = (asked.clone(), *found);
        match (asked, response) {
            (_, Err(HttpFailure)) => self.fail_upnp(now, found, Failure::Silent),
            (UpnpAsked::Description(location), Ok(bytes)) => {
                match upnp::parse_description(bytes, &location) {
                    Ok(control) => self.ask_upnp(now, UpnpAsked::Address(control), found),
                    Err(_) => self.fail_upnp(now, found, Failure::Refused),
                }
            }
            (UpnpAsked::Address(control), Ok(bytes)) => {
                let answer = upnp::parse_answer(bytes);
                let (Ok(Answer::Address(external)), Some(client)) = (answer, upnp::ipv4(network.local))
                else {
                    return self.fail_upnp(now, found, Failure::Refused);
                };
                let before = self.mapping().filter(|mapping| mapping.protocol == Protocol::Upnp);
                let request = upnp::Request {
                    client,
                    internal_port: network.port,
                    external_port: before.map_or(network.port, |mapping| mapping.external.port()),
                    lease: LIFETIME,
                };
                self.ask_upnp(now, UpnpAsked::Add { control, external, request, conflicts: 0 }, found);
            }
            (UpnpAsked::Add { control, external, request, conflicts }, Ok(bytes)) => {
                self.handle_added(now, (control, external, request, conflicts), found, bytes);
            }
        }
    }

    fn handle_added(
        &mut self,
        now: Instant,
        (control, external, mut request, conflicts): (Control, Ipv4Addr, upnp::Request, u8),
        found: Found,
        bytes: &[u8],
    ) {
        match upnp::parse_answer(bytes) {
            Ok(Answer::Added(port)) => {
                let external = SocketAddr::new(external.into(), port.unwrap_or(request.external_port));
                self.hold(now, external, LIFETIME, Protocol::Upnp, Some(control));
            }
            Ok(Answer::Fault(Answer::CONFLICT)) if conflicts < CONFLICTS => {
                // The ports that no service is known to use (RFC 6335, section 6).
                request.external_port = 49_152 | u16::from_be_bytes(self.draw::<2>());
                self.ask_upnp(
                    now,
                    UpnpAsked::Add { control, external, request, conflicts: conflicts + 1 },
                    found,
                );
            }
            Ok(Answer::Fault(Answer::ONLY_PERMANENT)) if request.lease != 0 => {
                request.lease = 0;
                self.ask_upnp(now, UpnpAsked::Add { control, external, request, conflicts }, found);
            }
            _ => self.fail_upnp(now, found, Failure::Refused),
        }
    }

    /// Time passed: what is due is done.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.held.as_ref().is_some_and(|held| held.mapping.until <= now)
            && !matches!(self.activity, Activity::Closing { .. })
        {
            self.lose();
            self.seek_all(now);
            return;
        }
        if self.activity_deadline().is_none_or(|timeout| timeout.at > now) {
            return;
        }
        match self.activity {
            Activity::Idle | Activity::Closed => {}
            Activity::Seek(_) => self.seek_on(now),
            Activity::Pcp { attempt, .. } if attempt + 1 < ATTEMPTS => self.ask_pcp(now, attempt + 1),
            Activity::Pcp { .. } => self.fail(now, Protocol::Pcp, Failure::Silent),
            Activity::NatPmp { asked, attempt, .. } if attempt + 1 < ATTEMPTS => {
                self.ask_natpmp(now, asked, attempt + 1);
            }
            Activity::NatPmp { .. } => self.fail(now, Protocol::NatPmp, Failure::Silent),
            Activity::Upnp { found, .. } => self.fail_upnp(now, found, Failure::Silent),
            Activity::Check { attempt, .. } if attempt + 1 < ATTEMPTS => self.check(now, attempt + 1),
            // A gateway that does not answer keeps what it gave until it ends.
            Activity::Check { .. } => self.rest(now),
            Activity::Rest => match &self.held {
                Some(held) if held.renew_at <= now => self.renew(now),
                Some(_) => self.check(now, 0),
                None => self.seek_all(now),
            },
            Activity::Quiet { .. } => self.seek_all(now),
            Activity::Closing { protocol, token, attempt, .. } => {
                if protocol == Protocol::Upnp || attempt + 1 >= ATTEMPTS {
                    return self.close();
                }
                self.send_deletion();
                let at = now + NATPMP_FIRST_RETRY * (2 << attempt);
                self.activity = Activity::Closing { protocol, token, attempt: attempt + 1, at };
            }
        }
    }

    /// The next thing to do; [`Output::Timeout`] when there is nothing more.
    pub fn poll_output(&mut self) -> Output {
        if let Some(output) = self.out.pop_front() {
            return output;
        }
        let expiry =
            self.held.as_ref().map(|held| Timeout { at: held.mapping.until, reason: TimeoutReason::Expiry });
        let expiry = expiry.filter(|_| !matches!(self.activity, Activity::Closing { .. } | Activity::Closed));
        Output::Timeout(
            [self.activity_deadline(), expiry].into_iter().flatten().min_by_key(|timeout| timeout.at),
        )
    }

    fn activity_deadline(&self) -> Option<Timeout> {
        let (at, reason) = match &self.activity {
            Activity::Idle | Activity::Closed => return None,
            Activity::Seek(seek) => (seek.at(), TimeoutReason::Seek),
            Activity::Pcp { at, .. } | Activity::NatPmp { at, .. } | Activity::Check { at, .. } => {
                (*at, TimeoutReason::Retry)
            }
            Activity::Upnp { at, .. } => (*at, TimeoutReason::Http),
            Activity::Rest => {
                let held = self.held.as_ref()?;
                if held.renew_at <= held.check_at {
                    (held.renew_at, TimeoutReason::Renew)
                } else {
                    (held.check_at, TimeoutReason::Check)
                }
            }
            Activity::Quiet { at } => (*at, TimeoutReason::Quiet),
            Activity::Closing { at, .. } => (*at, TimeoutReason::Close),
        };
        Some(Timeout { at, reason })
    }

    fn hold(
        &mut self,
        now: Instant,
        external: SocketAddr,
        lifetime: u32,
        protocol: Protocol,
        control: Option<Control>,
    ) {
        let Some(reach) = Reach::of(external.ip()).filter(|_| external.port() != 0 && lifetime >= SHORTEST)
        else {
            return self.fail(now, protocol, Failure::Refused);
        };
        let lifetime = Duration::from_secs(lifetime.min(LONGEST).into());
        let mapping = Mapping { external, reach, protocol, until: now + lifetime };
        // RFC 6887, section 11.2.1: between a half and five eighths.
        let renew_at = now + lifetime / 2 + self.fraction(lifetime / 8);
        self.held = Some(Held { mapping, since: now, renew_at, check_at: now + self.check_every, control });
        self.activity = Activity::Rest;
        self.out.push_back(Output::Event(Event::Mapped(mapping)));
    }

    fn rest(&mut self, now: Instant) {
        if let Some(held) = &mut self.held {
            held.check_at = now + self.check_every;
            self.activity = Activity::Rest;
        }
    }

    fn renew(&mut self, now: Instant) {
        let Some(held) = &self.held else { return self.seek_all(now) };
        match (held.mapping.protocol, &held.control) {
            (Protocol::Pcp, _) => self.ask_pcp(now, 0),
            (Protocol::NatPmp, _) => self.ask_natpmp(now, NatPmpAsked::Address, 0),
            (Protocol::Upnp, Some(control)) => {
                self.ask_upnp(now, UpnpAsked::Address(control.clone()), Found::Before)
            }
            (Protocol::Upnp, None) => self.seek_all(now),
        }
    }

    fn check(&mut self, now: Instant, attempt: u32) {
        let (Some(network), Some(mapping)) = (self.network, self.mapping()) else { return };
        let datagram = match mapping.protocol {
            Protocol::Pcp => pcp::announce_request(network.local),
            Protocol::NatPmp => natpmp::ADDRESS_REQUEST.to_vec(),
            // UPnP has no epoch: asking for the mapping again is the question and the cure.
            Protocol::Upnp => return self.renew(now),
        };
        self.send(network.gateway, pcp::SERVER_PORT, datagram);
        let at = now + self.retry(PCP_FIRST_RETRY, attempt);
        self.activity = Activity::Check { attempt, at };
    }

    fn ask_pcp(&mut self, now: Instant, attempt: u32) {
        self.send_pcp(LIFETIME);
        let at = now + self.retry(PCP_FIRST_RETRY, attempt);
        self.activity = Activity::Pcp { attempt, at };
    }

    fn send_pcp(&mut self, lifetime: u32) {
        let Some(network) = self.network else { return };
        let none: IpAddr =
            if network.local.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let before = self.mapping().filter(|mapping| mapping.protocol == Protocol::Pcp);
        let suggested = before.map_or(SocketAddr::new(none, network.port), |mapping| mapping.external);
        let request = MapRequest {
            client: network.local,
            nonce: self.nonce,
            internal_port: network.port,
            suggested,
            lifetime,
        };
        self.send(network.gateway, pcp::SERVER_PORT, request.encode());
    }

    fn ask_natpmp(&mut self, now: Instant, asked: NatPmpAsked, attempt: u32) {
        let Some(network) = self.network else { return };
        let before = self.mapping().filter(|mapping| mapping.protocol == Protocol::NatPmp);
        let datagram = match asked {
            NatPmpAsked::Address => natpmp::ADDRESS_REQUEST.to_vec(),
            NatPmpAsked::Map(_) => {
                let suggested = before.map_or(network.port, |mapping| mapping.external.port());
                natpmp::map_request(network.port, suggested, LIFETIME)
            }
        };
        self.send(network.gateway, pcp::SERVER_PORT, datagram);
        let at = now + self.retry(NATPMP_FIRST_RETRY, attempt);
        self.activity = Activity::NatPmp { asked, attempt, at };
    }

    fn ask_upnp(&mut self, now: Instant, asked: UpnpAsked, found: Found) {
        let (to, request) = match &asked {
            UpnpAsked::Description(location) => (location.to(), http::get(location)),
            UpnpAsked::Address(control) => (control.url.to(), control.get_address()),
            UpnpAsked::Add { control, request, .. } => (control.url.to(), control.add(*request)),
        };
        let token = self.send_http(to, request);
        self.activity = Activity::Upnp { asked, found, token, at: now + HTTP_PATIENCE };
    }

    fn fail_upnp(&mut self, now: Instant, found: Found, failure: Failure) {
        if found == Found::Before && self.held.is_some() {
            // A gateway that began again may listen elsewhere.
            return self.seek(now, Protocols::NONE.with(Protocol::Upnp));
        }
        self.fail(now, Protocol::Upnp, failure);
    }

    /// A protocol gave nothing: the others go on, or what we have is kept until its end.
    fn fail(&mut self, now: Instant, protocol: Protocol, failure: Failure) {
        let ours = self.mapping().is_some_and(|mapping| mapping.protocol == protocol);
        if ours && failure == Failure::Refused {
            self.lose();
        }
        self.left = self.left.without(protocol);
        if let Some(held) = &mut self.held {
            // RFC 6887, section 11.2.1: again after half of what is left; the last try is no later than 4 s before.
            let half = held.mapping.until.saturating_duration_since(now) / 2;
            held.renew_at = now + half.max(Duration::from_secs(4));
            self.rest(now);
        } else if !matches!(self.activity, Activity::Seek(_)) || self.left.is_empty() {
            self.seek(now, self.left);
        }
    }

    fn lose(&mut self) {
        if self.held.take().is_some() {
            self.out.push_back(Output::Event(Event::Lost));
        }
    }

    fn close(&mut self) {
        self.lose();
        self.activity = Activity::Closed;
        self.out.push_back(Output::Event(Event::Closed));
    }

    /// Tells the gateway once that the mapping is not needed any more.
    fn send_deletion(&mut self) -> Option<HttpToken> {
        let (network, held) = (self.network?, self.held.as_ref()?);
        let port = held.mapping.external.port();
        match (held.mapping.protocol, held.control.clone()) {
            (Protocol::Pcp, _) => self.send_pcp(0),
            (Protocol::NatPmp, _) => {
                self.send(network.gateway, pcp::SERVER_PORT, natpmp::map_request(network.port, 0, 0));
            }
            (Protocol::Upnp, Some(control)) => {
                return Some(self.send_http(control.url.to(), control.delete(port)));
            }
            (Protocol::Upnp, None) => {}
        }
        None
    }

    fn send(&mut self, to: IpAddr, port: u16, datagram: Vec<u8>) {
        self.out.push_back(Output::Send { to: SocketAddr::new(to, port), datagram });
    }

    fn send_http(&mut self, to: SocketAddr, request: Vec<u8>) -> HttpToken {
        self.tokens += 1;
        let token = HttpToken(self.tokens);
        self.out.push_back(Output::Http { to, request, token });
        token
    }

    /// RFC 6887, section 8.1.1: doubled each time, with a tenth of randomness either way.
    fn retry(&mut self, first: Duration, attempt: u32) -> Duration {
        let plain = first * (1 << attempt.min(8));
        plain - plain / 10 + self.fraction(plain / 5)
    }

    /// Somewhere between nothing and `whole`.
    fn fraction(&mut self, whole: Duration) -> Duration {
        let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(u64::from_be_bytes(self.draw()) % millis.saturating_add(1).max(1))
    }

    fn draw<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 32, "one HMAC-SHA256 is enough") };
        self.drawn += 1;
        let tag = hmac::sign(&self.draws, &self.drawn.to_be_bytes());
        let mut bytes = [0; N];
        bytes.copy_from_slice(tag.as_ref().get(..N).expect("SHA-256 has 32 bytes and N is no more"));
        bytes
    }
}
