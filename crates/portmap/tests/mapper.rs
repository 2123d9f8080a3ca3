//! The core against gateways made of the RFCs' layouts, and against noise.
#![expect(clippy::disallowed_methods, reason = "a test needs some instant to begin with")]
#![expect(clippy::unwrap_used, reason = "a failure here is the test's")]

use portmap::{
    Event, HttpFailure, HttpToken, Mapping, Network, Output, PortMapper, Protocol, Protocols, Reach, Refused,
    epoch, http, natpmp, pcp, route, ssdp, upnp,
};
use proptest::prelude::*;
use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

const GATEWAY: [u8; 4] = [192, 168, 1, 1];
const NETWORK: Network = Network {
    gateway: IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 1)),
    local: IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 20)),
    port: 51820,
};

/// A core with a clock, and what it said.
struct Bench {
    core: PortMapper,
    now: Instant,
    sent: Vec<(SocketAddr, Vec<u8>)>,
    http: Vec<(SocketAddr, String, HttpToken)>,
    events: Vec<Event>,
    wake: Option<Instant>,
}

impl Bench {
    fn new(protocols: Protocols) -> Self {
        let now = Instant::now();
        let core = PortMapper::new([3; 32], protocols, now);
        let mut bench = Self { core, now, sent: vec![], http: vec![], events: vec![], wake: None };
        bench.core.set_network(now, Some(NETWORK));
        bench.drain();
        bench
    }

    fn drain(&mut self) {
        loop {
            match self.core.poll_output() {
                Output::Send { to, datagram } => self.sent.push((to, datagram)),
                Output::Http { to, request, token } => {
                    self.http.push((to, String::from_utf8(request).unwrap(), token));
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(timeout) => {
                    self.wake = timeout.map(|timeout| timeout.at);
                    return;
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        let mut wakes = 0;
        while let Some(at) = self.wake.filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.core.handle_timeout(self.now);
            self.drain();
            wakes += 1;
            assert!(wakes < 10_000, "it wakes without end");
        }
        self.now = until;
    }

    fn hear(&mut self, port: u16, datagram: &[u8]) -> Result<(), Refused> {
        let told = self.core.handle_input(self.now, (GATEWAY, port).into(), datagram);
        self.drain();
        told
    }

    fn answer_http(&mut self, status: u16, body: &str) {
        let token = self.http.last().unwrap().2;
        let response = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.core.handle_http(self.now, token, Ok(response.as_bytes()));
        self.drain();
    }

    fn last_sent(&self) -> &[u8] {
        &self.sent.last().expect("something was sent").1
    }

    fn last_mapping(&self) -> Mapping {
        match self.events.last() {
            Some(Event::Mapped(mapping)) => *mapping,
            other => panic!("no mapping but {other:?}"),
        }
    }

    fn map_by_pcp(&mut self) {
        let answer = pcp_answer(self.last_sent(), 7200, 5000, [8, 8, 4, 4], 40000);
        self.hear(5351, &answer).unwrap();
    }
}

/// What a PCP server says to a MAP request: RFC 6887, sections 7.2 and 11.1.
fn pcp_answer(request: &[u8], lifetime: u32, epoch: u32, external: [u8; 4], port: u16) -> Vec<u8> {
    assert_eq!((request.len(), request[0], request[1]), (60, 2, 1), "a MAP request");
    let mut answer = request.to_vec();
    answer[1] |= 0x80;
    answer[4..8].copy_from_slice(&lifetime.to_be_bytes());
    answer[8..12].copy_from_slice(&epoch.to_be_bytes());
    answer[12..24].fill(0);
    answer[42..44].copy_from_slice(&port.to_be_bytes());
    answer[44..60].copy_from_slice(&std::net::Ipv4Addr::from(external).to_ipv6_mapped().octets());
    answer
}

fn announcement(epoch: u32) -> Vec<u8> {
    let mut bytes = vec![2, 0x80, 0, 0, 0, 0, 0, 0];
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.extend_from_slice(&[0; 12]);
    bytes
}

#[test]
fn a_network_that_answers_nothing_costs_nine_packets_an_hour() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.pass(Duration::from_secs(3000));
    assert_eq!(bench.sent.len(), 9);
    assert!(bench.events.is_empty());
    bench.pass(Duration::from_secs(1000));
    assert_eq!(bench.sent.len(), 18, "an hour later it is asked again");
}

#[test]
fn a_protocol_that_is_off_is_not_spoken() {
    let mut bench = Bench::new(Protocols::ALL.without(Protocol::Upnp));
    bench.pass(Duration::from_secs(60));
    assert!(bench.sent.iter().all(|(to, _)| to.port() == 5351), "{:?}", bench.sent);
    let mut bench = Bench::new(Protocols::NONE);
    bench.pass(Duration::from_secs(7200));
    assert_eq!((bench.sent.len(), bench.wake), (0, None));
    let mut bench = Bench::new(Protocols::NONE.with(Protocol::Upnp));
    bench.pass(Duration::from_secs(60));
    assert!(!bench.sent.is_empty() && bench.sent.iter().all(|(to, _)| to.port() == 1900), "{:?}", bench.sent);
}

#[test]
fn a_pcp_mapping_is_told_and_renewed_from_half_its_life_with_the_same_nonce() {
    let mut bench = Bench::new(Protocols::ALL);
    let first = bench.last_sent().to_vec();
    bench.map_by_pcp();
    let mapping = bench.last_mapping();
    assert_eq!(mapping.external, "8.8.4.4:40000".parse().unwrap());
    assert_eq!((mapping.protocol, mapping.reach), (Protocol::Pcp, Reach::Global));
    assert_eq!(mapping.until, bench.now + Duration::from_secs(7200));
    let maps = |bench: &Bench| bench.sent.iter().filter(|(_, datagram)| datagram.len() == 60).count();
    let mut epoch = 5000;
    while maps(&bench) == 1 {
        bench.pass(Duration::from_secs(10));
        epoch += 10;
        // It asks whether the gateway still counts on; the gateway says so.
        if bench.last_sent().len() == 24 {
            let _ = bench.hear(5351, &announcement(epoch));
        }
        assert!(epoch < 5000 + 4600, "not renewed by five eighths");
    }
    assert!(epoch >= 5000 + 3600, "renewed before half: {epoch}");
    assert_eq!(bench.last_sent()[24..36], first[24..36], "the nonce");
    assert_eq!(bench.last_sent()[42..44], 40000u16.to_be_bytes(), "what it had is suggested");
    let renewed = pcp_answer(bench.last_sent(), 7200, epoch, [8, 8, 4, 4], 40000);
    bench.hear(5351, &renewed).unwrap();
    assert_eq!(bench.last_mapping().until, bench.now + Duration::from_secs(7200));
}

#[test]
fn an_answer_for_another_nonce_or_from_elsewhere_counts_for_nothing() {
    let mut bench = Bench::new(Protocols::ALL);
    let mut answer = pcp_answer(bench.last_sent(), 7200, 5000, [8, 8, 4, 4], 40000);
    let elsewhere = "192.168.1.66:5351".parse().unwrap();
    assert_eq!(bench.core.handle_input(bench.now, elsewhere, &answer), Err(Refused::ForeignSource));
    answer[24] ^= 1;
    assert_eq!(bench.hear(5351, &answer), Err(Refused::NotOurs));
    assert!(bench.events.is_empty());
}

#[test]
fn an_announced_reboot_renews_within_seconds_and_a_flood_of_them_once_a_minute() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.map_by_pcp();
    bench.pass(Duration::from_secs(100));
    bench.hear(5351, &announcement(0)).unwrap();
    let before = bench.sent.len();
    bench.pass(Duration::from_secs(6));
    assert_eq!(
        (bench.sent.len(), bench.last_sent().len()),
        (before + 1, 60),
        "the mapping is asked for again"
    );
    let answer = pcp_answer(bench.last_sent(), 7200, 6, [8, 8, 4, 4], 40000);
    bench.hear(5351, &answer).unwrap();
    for second in 0..50 {
        let _ = bench.hear(5351, &announcement(if second % 2 == 0 { 100_000 } else { 0 }));
        bench.pass(Duration::from_secs(1));
    }
    assert_eq!(bench.sent.len(), before + 1, "announcements can be forged");
}

#[test]
fn a_reboot_that_nobody_announced_is_found_by_the_check() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.map_by_pcp();
    bench.pass(Duration::from_secs(601));
    assert_eq!(bench.last_sent().len(), 24, "ANNOUNCE asks for the epoch");
    bench.hear(5351, &announcement(7)).unwrap();
    assert_eq!(bench.last_sent().len(), 60, "the mapping is asked for again");
}

#[test]
fn a_gateway_that_went_silent_keeps_the_mapping_until_its_end() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.map_by_pcp();
    bench.pass(Duration::from_secs(7199));
    assert!(!bench.events.contains(&Event::Lost));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.events.last(), Some(&Event::Lost));
}

#[test]
fn a_gateway_that_speaks_nat_pmp_only_is_spoken_to_in_nat_pmp() {
    let mut bench = Bench::new(Protocols::ALL);
    // RFC 6886, section 3.5: unsupported version, in version 0.
    bench.hear(5351, &[0, 0x81, 0, 1, 0, 0, 0, 9]).unwrap();
    assert_eq!(bench.last_sent(), natpmp::ADDRESS_REQUEST);
    bench.hear(5351, &[0, 128, 0, 0, 0, 0, 0, 9, 100, 64, 0, 9]).unwrap();
    assert_eq!(bench.last_sent(), natpmp::map_request(51820, 51820, 7200));
    bench.hear(5351, &[0, 129, 0, 0, 0, 0, 0, 9, 0xca, 0x6c, 0x9c, 0x40, 0, 0, 0x1c, 0x20]).unwrap();
    let mapping = bench.last_mapping();
    assert_eq!((mapping.external, mapping.protocol), ("100.64.0.9:40000".parse().unwrap(), Protocol::NatPmp));
    assert_eq!(mapping.reach, Reach::CarrierGrade);
    // Its announcement of another address moves the mapping.
    bench.hear(5351, &[0, 128, 0, 0, 0, 0, 0, 9, 100, 64, 0, 10]).unwrap();
    bench.pass(Duration::from_secs(6));
    assert!(bench.sent.iter().rev().take(8).any(|(_, datagram)| datagram == &natpmp::ADDRESS_REQUEST));
}

#[test]
fn a_network_change_gives_the_old_mapping_back_and_asks_the_new_gateway() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.map_by_pcp();
    bench.sent.clear();
    let elsewhere = Network { gateway: [10, 0, 0, 1].into(), local: [10, 0, 0, 2].into(), port: 51820 };
    bench.core.set_network(bench.now, Some(elsewhere));
    bench.drain();
    assert_eq!(bench.events.last(), Some(&Event::Lost));
    assert_eq!(bench.sent[0].0, "192.168.1.1:5351".parse().unwrap());
    assert_eq!(bench.sent[0].1[4..8], [0; 4], "lifetime 0");
    assert_eq!(bench.sent[1].0, "10.0.0.1:5351".parse().unwrap());
    assert_ne!(bench.sent[0].1[24..36], bench.sent[1].1[24..36], "another nonce");
}

#[test]
fn shutdown_deletes_repeats_and_ends() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.map_by_pcp();
    bench.core.shutdown(bench.now);
    bench.drain();
    assert_eq!(bench.last_sent()[4..8], [0; 4], "lifetime 0");
    let before = bench.sent.len();
    bench.pass(Duration::from_millis(300));
    assert_eq!(bench.sent.len(), before + 1, "it may have been lost");
    let answer = pcp_answer(bench.last_sent(), 0, 5001, [8, 8, 4, 4], 40000);
    bench.hear(5351, &answer).unwrap();
    assert_eq!(bench.events[1..], [Event::Lost, Event::Closed]);
    assert_eq!(bench.wake, None);
}

#[test]
fn shutdown_ends_without_an_answer_too() {
    let mut bench = Bench::new(Protocols::ALL);
    bench.map_by_pcp();
    bench.core.shutdown(bench.now);
    bench.drain();
    bench.pass(Duration::from_secs(4));
    assert_eq!(bench.events.last(), Some(&Event::Closed));
}

const DESCRIPTION: &str = "<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList><service><serviceType>\
    urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL></service></serviceList>\
    </device></root>";

fn soap(inner: &str) -> String {
    format!(
        "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{inner}</s:Body></s:Envelope>"
    )
}

fn fault(code: u16) -> String {
    soap(&format!(
        "<s:Fault><detail><UPnPError xmlns=\"e\"><errorCode>{code}</errorCode></UPnPError></detail></s:Fault>"
    ))
}

const LOCATED: &str = "HTTP/1.1 200 OK\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\
    LOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n";

fn upnp_up_to_adding(bench: &mut Bench) {
    bench.pass(Duration::from_secs(2));
    bench.hear(1900, LOCATED.as_bytes()).unwrap();
    assert!(bench.http.last().unwrap().1.starts_with("GET /root.xml "));
    bench.answer_http(200, DESCRIPTION);
    assert!(bench.http.last().unwrap().1.contains("#GetExternalIPAddress\""));
    bench.answer_http(
        200,
        &soap(
            "<u:GetExternalIPAddressResponse xmlns:u=\"u\"><NewExternalIPAddress>192.168.0.2</NewExternalIPAddress>\
             </u:GetExternalIPAddressResponse>",
        ),
    );
    assert!(bench.http.last().unwrap().1.contains("<NewExternalPort>51820</NewExternalPort>"));
}

#[test]
fn a_upnp_gateway_gives_another_port_when_ours_is_taken_and_a_permanent_lease_when_it_knows_no_other() {
    let mut bench = Bench::new(Protocols::ALL);
    upnp_up_to_adding(&mut bench);
    bench.answer_http(500, &fault(718));
    assert!(!bench.http.last().unwrap().1.contains("<NewExternalPort>51820</NewExternalPort>"));
    bench.answer_http(500, &fault(725));
    assert!(bench.http.last().unwrap().1.contains("<NewLeaseDuration>0</NewLeaseDuration>"));
    bench.answer_http(200, &soap("<u:AddPortMappingResponse xmlns:u=\"u\"/>"));
    let mapping = bench.last_mapping();
    assert_eq!((mapping.protocol, mapping.reach), (Protocol::Upnp, Reach::Private));
    assert!(mapping.external.port() >= 49152);
    bench.core.shutdown(bench.now);
    bench.drain();
    let (to, request, _) = bench.http.last().unwrap();
    assert_eq!(*to, "192.168.1.1:5000".parse().unwrap());
    assert!(
        request.contains("#DeletePortMapping\"") && request.contains(&mapping.external.port().to_string())
    );
    bench.answer_http(200, &soap("<u:DeletePortMappingResponse xmlns:u=\"u\"/>"));
    assert_eq!(bench.events.last(), Some(&Event::Closed));
}

#[test]
fn a_upnp_gateway_that_always_refuses_is_left_alone() {
    let mut bench = Bench::new(Protocols::ALL);
    upnp_up_to_adding(&mut bench);
    for _ in 0..10 {
        bench.answer_http(500, &fault(718));
    }
    bench.pass(Duration::from_secs(3000));
    assert_eq!(bench.http.len(), 3 + 3, "the description, the address, the port and three others");
    assert!(bench.sent.len() <= 14, "{}", bench.sent.len());
    assert!(bench.events.is_empty());
}

#[test]
fn a_upnp_gateway_that_moved_its_control_url_is_looked_for_again() {
    let mut bench = Bench::new(Protocols::NONE.with(Protocol::Upnp));
    upnp_up_to_adding(&mut bench);
    bench.answer_http(200, &soap("<u:AddPortMappingResponse xmlns:u=\"u\"/>"));
    bench.pass(Duration::from_secs(601));
    let token = bench.http.last().unwrap().2;
    let searches = bench.sent.len();
    bench.core.handle_http(bench.now, token, Err(HttpFailure));
    bench.drain();
    assert!(bench.sent.len() > searches, "searched at once");
    bench.hear(1900, LOCATED.replace("5000", "6000").as_bytes()).unwrap();
    assert_eq!(bench.http.last().unwrap().0.port(), 6000);
    assert!(!bench.events.contains(&Event::Lost));
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1200), text in "\\PC{0,300}") {
        every_parser(&bytes);
        every_parser(text.as_bytes());
        let framed = [b"HTTP/1.1 200 OK\r\n\r\n", text.as_bytes()].concat();
        every_parser(&framed);
        let document = format!("HTTP/1.1 200 OK\r\n\r\n<root><service><controlURL>{text}</controlURL></service></root>");
        every_parser(document.as_bytes());
    }

    #[test]
    fn a_url_that_is_taken_is_the_gateways(text in "(http://)?[0-9a-z.:@/%\\[\\]]{0,40}") {
        let base = ssdp::GatewayUrl::absolute("http://192.168.1.1:5000/a/b", NETWORK.gateway).unwrap();
        for url in [ssdp::GatewayUrl::absolute(&text, NETWORK.gateway), base.join(&text)].into_iter().flatten() {
            prop_assert_eq!(url.to().ip(), NETWORK.gateway);
            prop_assert!(url.path().starts_with('/'));
        }
    }

    #[test]
    fn whatever_comes_in_only_the_gateway_is_talked_to_and_packets_are_bounded(
        steps in proptest::collection::vec((0u8..7, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..80)), 1..120)
    ) {
        let mut bench = Bench::new(Protocols::ALL);
        let began = bench.now;
        for (kind, number, noise) in &steps {
            match kind {
                0 => bench.pass(Duration::from_millis(u64::from(number % 600_000))),
                1 => { let _ = bench.hear(5351, noise); }
                2 => { let _ = bench.hear(5351, &announcement(*number)); }
                3 => {
                    let map = bench.sent.iter().rev().find(|(_, datagram)| datagram.len() == 60).cloned();
                    if let Some((_, request)) = map {
                        let answer = pcp_answer(&request, number % 10_000, *number, number.to_be_bytes(), 5);
                        let _ = bench.hear(5351, &answer);
                    }
                }
                4 => { let _ = bench.hear(1900, LOCATED.as_bytes()); }
                5 if !bench.http.is_empty() => {
                    bench.answer_http(if number % 2 == 0 { 200 } else { 500 }, if number % 3 == 0 { DESCRIPTION } else { "" });
                }
                _ => { let _ = bench.hear(5351, &[0, 128, 0, 0, 0, 0, 0, 9, 9, 9, 9, (number % 256) as u8]); }
            }
        }
        for (to, _) in &bench.sent {
            prop_assert!(to.ip() == NETWORK.gateway || to.to_string() == "239.255.255.250:1900");
        }
        prop_assert!(bench.http.iter().all(|(to, _, _)| to.ip() == NETWORK.gateway));
        let minutes = (bench.now - began).as_secs() / 60;
        let bound = 20 * (steps.len() as u64 + 1) + 10 * minutes;
        prop_assert!((bench.sent.len() as u64) < bound, "{} packets, {minutes} minutes", bench.sent.len());
    }

    #[test]
    fn epochs_of_any_value_are_judged(first in any::<u32>(), second in any::<u32>(), passed in any::<u32>()) {
        let now = Instant::now();
        let later = now + Duration::from_secs(passed.into());
        let told = epoch::Epoch::new(first, now);
        let expected = u64::from(first) + u64::from(passed);
        let went_on = u64::from(second) == expected;
        if went_on {
            prop_assert_eq!(told.judge_pcp(second, later), epoch::Verdict::Continued);
            prop_assert_eq!(told.judge_natpmp(second, later), epoch::Verdict::Continued);
        }
        if u64::from(second) + u64::from(first / 8) + 60 < expected / 2 {
            prop_assert_eq!(told.judge_natpmp(second, later), epoch::Verdict::Reset);
            prop_assert_eq!(told.judge_pcp(second, later), epoch::Verdict::Reset);
        }
    }
}

fn every_parser(bytes: &[u8]) {
    let location = ssdp::GatewayUrl::absolute("http://192.168.1.1:5000/a", NETWORK.gateway).unwrap();
    let _ = pcp::parse(bytes);
    let _ = natpmp::parse(bytes);
    let _ = ssdp::parse_answer(bytes, NETWORK.gateway);
    let _ = http::parse_response(bytes);
    let _ = http::is_decided(bytes);
    let _ = upnp::parse_description(bytes, &location);
    let _ = upnp::parse_answer(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = route::parse_ipv4(&text);
    let _ = route::parse_ipv6(&text);
}
