//! `tidegate ping` and `tidegate netcheck`: what the network does to packets, from the running client and from here.

mod stun;

use crate::{
    cli::{ClientArgs, PingArgs},
    output::{CommandResult, Failure, Format, Outcome, table},
    places,
};
use client::{ControlClient, ControlError, NetcheckAnswer, PingAnswer};
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use tokio::{
    net::{TcpStream, UdpSocket, lookup_host},
    time::{Instant, sleep_until, timeout},
};

const TCP_WITHIN: Duration = Duration::from_secs(2);
const LOOK_UP_WITHIN: Duration = Duration::from_secs(3);

/// Changes of address in a minute that are no roam any more.
const RESTLESS: usize = 2;

fn running(state: &Path) -> ControlClient {
    ControlClient::in_run_dir(state)
}

fn asked(error: ControlError) -> Failure {
    let outcome =
        if matches!(error, ControlError::NotRunning { .. }) { Outcome::NotRunning } else { Outcome::Failed };
    Failure::new(outcome, error)
}

/// `tidegate ping`.
pub async fn ping(args: &PingArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let client = running(&state);
    let mut times = Vec::new();
    let mut last = None;
    let mut next = Instant::now();
    for number in 1..=args.count {
        sleep_until(next).await;
        next += Duration::from_millis(args.interval_ms.max(10));
        let answer = client.ping(&args.resource).await.map_err(asked)?;
        if let Some(fault) = &answer.fault {
            return Err(Failure::say(Outcome::Denied, format_args!("no way to {}: {fault}", args.resource)));
        }
        format.print(&json!({"event": "ping", "number": number, "answer": answer}), || {
            line_of(number, &answer)
        });
        times.extend(answer.round_trip_ms);
        last = Some(answer);
    }
    times.sort_by(f64::total_cmp);
    let sent = args.count;
    let received = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let loss = 100.0 * f64::from(sent - received) / f64::from(sent.max(1));
    let median = times.get(times.len() / 2).copied();
    let summary = json!({
        "event": "summary", "sent": sent, "received": received, "loss_percent": loss,
        "min_ms": times.first(), "median_ms": median, "max_ms": times.last(),
        "kind": last.and_then(|answer| answer.kind),
    });
    format.print(&summary, || {
        let spread = match (times.first(), median, times.last()) {
            (Some(min), Some(median), Some(max)) => {
                format!("; round trip min {min:.1}, median {median:.1}, max {max:.1} ms")
            }
            _ => String::new(),
        };
        format!("{sent} sent, {received} answered, {loss:.0} % lost{spread}")
    });
    Ok(if received > 0 { Outcome::Done } else { Outcome::Failed })
}

fn way_of(kind: Option<&str>, remote: Option<SocketAddr>) -> String {
    match (kind, remote) {
        (Some("direct"), Some(remote)) => format!("directly at {remote}"),
        (Some("relay"), _) => "by the relay".to_owned(),
        (Some("tcp"), _) => "by the relay over TCP 443".to_owned(),
        _ => "by no way".to_owned(),
    }
}

fn line_of(number: u32, answer: &PingAnswer) -> String {
    let way = way_of(answer.kind.as_deref(), answer.remote);
    match answer.round_trip_ms {
        Some(ms) => format!("{number}: connector {} answered {way} after {ms:.1} ms", answer.connector),
        None => format!("{number}: connector {} did not answer {way} within 2 s", answer.connector),
    }
}

/// What this command found out with sockets of its own about one PoP.
#[derive(Debug, serde::Serialize)]
struct PopCheck {
    address: String,
    udp_v4: Option<Seen>,
    udp_v6: Option<Seen>,
    /// One socket asked twice, and the PoP saw two sources: a translator gives each packet another port.
    per_packet: bool,
    tcp_ms: Option<f64>,
}

#[derive(Debug, serde::Serialize)]
struct Seen {
    mapped: SocketAddr,
    round_trip_ms: f64,
}

/// How the machine's NAT maps, as far as it can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum Mapping {
    /// A PoP sees an address of this machine.
    None,
    /// One address for all destinations (RFC 4787 section 4.1).
    EndpointIndependent,
    /// Another one for each destination.
    AddressDependent,
    /// Another one for each packet to one destination: nothing that is said twice comes from one place.
    PerPacket,
    /// Too few have been asked.
    Unknown,
}

/// `tidegate netcheck`.
pub async fn netcheck(args: &ClientArgs, format: Format) -> CommandResult {
    let state = places::state_dir(args.state.as_deref(), "client")?;
    let answer = running(&state).netcheck().await.map_err(asked)?;
    let mut checks = Vec::new();
    for pop in &answer.pops {
        checks.push(check(&pop.address).await);
    }
    let mapping =
        if checks.iter().any(|check| check.per_packet) { Mapping::PerPacket } else { mapping_of(&answer) };
    let udp = checks.iter().any(|check| check.udp_v4.is_some() || check.udp_v6.is_some());
    format.print(&json!({"udp": udp, "mapping": mapping, "pops": checks, "client": answer}), || {
        text(&answer, &checks, mapping, udp)
    });
    Ok(if udp || checks.iter().any(|check| check.tcp_ms.is_some()) { Outcome::Done } else { Outcome::Failed })
}

async fn check(address: &str) -> PopCheck {
    let found = timeout(LOOK_UP_WITHIN, lookup_host(address)).await;
    let addresses: Vec<SocketAddr> =
        found.ok().and_then(Result::ok).map(Iterator::collect).unwrap_or_default();
    let mut check =
        PopCheck { address: address.to_owned(), udp_v4: None, udp_v6: None, per_packet: false, tcp_ms: None };
    for to in addresses {
        let from: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let place = if to.is_ipv4() { &mut check.udp_v4 } else { &mut check.udp_v6 };
        if place.is_none()
            && let Ok(socket) = UdpSocket::bind((from, 0)).await
            && let Some((mapped, again)) = ask_twice(&socket, to).await
        {
            let round_trip_ms = mapped.round_trip.as_secs_f64() * 1000.0;
            *place = Some(Seen { mapped: mapped.address, round_trip_ms });
            check.per_packet |= again.is_some_and(|again| again.address != mapped.address);
        }
        let began = Instant::now();
        if check.tcp_ms.is_none() && matches!(timeout(TCP_WITHIN, TcpStream::connect(to)).await, Ok(Ok(_))) {
            check.tcp_ms = Some(began.elapsed().as_secs_f64() * 1000.0);
        }
    }
    check
}

/// What a PoP sees of one socket, and sees again.
async fn ask_twice(socket: &UdpSocket, to: SocketAddr) -> Option<(stun::Mapped, Option<stun::Mapped>)> {
    let first = stun::ask(socket, to).await?;
    Some((first, stun::ask(socket, to).await))
}

/// Whoever sees the client's one socket under two addresses stands behind a NAT that maps each destination anew.
fn mapping_of(answer: &NetcheckAnswer) -> Mapping {
    let observed = answer.pops.iter().filter_map(|pop| pop.observed);
    let seen: BTreeSet<SocketAddr> = answer
        .connectors
        .iter()
        .flat_map(|connector| connector.sees.iter().copied())
        .chain(observed)
        .filter(|address| address.is_ipv4())
        .collect();
    // An address that is seen as it is here is told as seen, not as local.
    let outside: BTreeSet<&SocketAddr> =
        seen.iter().filter(|address| !answer.interfaces.contains(&address.ip())).collect();
    let addresses: BTreeSet<IpAddr> = outside.iter().map(|address| address.ip()).collect();
    let witnesses = answer.pops.iter().filter(|pop| pop.observed.is_some()).count()
        + answer.connectors.iter().filter(|connector| !connector.sees.is_empty()).count();
    match (seen.len(), outside.len(), witnesses) {
        (0, ..) | (_, _, 0) => Mapping::Unknown,
        (_, 0, _) => Mapping::None,
        // Two public addresses may be two ways out; one address with two ports is one NAT.
        (_, outside, _) if outside > addresses.len() => Mapping::AddressDependent,
        (_, 1, 1) => Mapping::Unknown,
        _ => Mapping::EndpointIndependent,
    }
}

fn text(answer: &NetcheckAnswer, checks: &[PopCheck], mapping: Mapping, udp: bool) -> String {
    let mut text = String::new();
    text.push_str(match (udp, checks.iter().any(|check| check.tcp_ms.is_some())) {
        (true, _) => "UDP goes out.\n",
        (false, true) => "UDP is blocked; TCP 443 goes out and carries everything.\n",
        (false, false) => "Neither UDP nor TCP reaches any PoP from here.\n",
    });
    text.push_str(match mapping {
        Mapping::None => "No address translation: PoPs see this machine's own address.\n",
        Mapping::EndpointIndependent => {
            "The NAT keeps one outside address for all destinations: direct paths work with most networks.\n"
        }
        Mapping::AddressDependent => {
            "The NAT takes another outside port for each destination: direct paths work with open networks only.\n"
        }
        Mapping::PerPacket => {
            "The NAT takes another outside port for each packet, also to one destination: no direct path and no UDP session \
             can stand; TCP 443 carries everything.\n"
        }
        Mapping::Unknown => {
            "How the NAT maps cannot be told yet: one observer is not enough. Reach a resource and ask again.\n"
        }
    });
    if answer.address_changes >= RESTLESS {
        text.push_str(&format!(
            "PoPs saw this device at another address {} times in the last minute: the relay follows once one stays for more than a second, \
             direct paths are tried anew after each.\n",
            answer.address_changes
        ));
    }
    text.push('\n');
    let udp = |seen: &Option<Seen>| {
        seen.as_ref().map_or_else(|| "–".to_owned(), |seen| format!("{:.1} ms", seen.round_trip_ms))
    };
    let rows: Vec<Vec<String>> = checks
        .iter()
        .zip(&answer.pops)
        .map(|(check, pop)| {
            vec![
                check.address.clone(),
                udp(&check.udp_v4),
                udp(&check.udp_v6),
                check.tcp_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1} ms")),
                pop.session.clone(),
                pop.observed.map_or_else(|| "–".to_owned(), |address| address.to_string()),
            ]
        })
        .collect();
    text.push_str(&table(&["POP", "UDP IPV4", "UDP IPV6", "TCP", "SESSION", "SEES THIS DEVICE AS"], &rows));
    text.push_str("\nWhat connectors are told of this device\n");
    for (kind, address) in &answer.candidates {
        text.push_str(&format!("  {kind:<9} {address}\n"));
    }
    for connector in &answer.connectors {
        let Some(path) = &connector.path else { continue };
        text.push_str(&format!("\nConnector {}: {}", connector.name, way_of(Some(&path.kind), path.remote)));
        if let (Some(why), Some(since)) = (&path.why, path.since_ms) {
            text.push_str(&format!(", for {} s ({})", since / 1000, why_words(why)));
        }
        text.push('\n');
        for tried in &path.tried {
            let named = if tried.told { "named" } else { "seen" };
            let trip = tried.round_trip_ms.map(|ms| format!(", {ms:.1} ms")).unwrap_or_default();
            let one_way = one_way_words(tried.one_way.as_deref());
            text.push_str(&format!(
                "  {:<24} {named:<6} {} of {} probes answered{trip}{one_way}\n",
                tried.address.to_string(),
                tried.proofs,
                tried.probes
            ));
        }
        for seen in &connector.sees {
            text.push_str(&format!("  sees this device as {seen}\n"));
        }
    }
    let traffic = &answer.traffic;
    text.push_str(&format!(
        "\nPackets since the start: {} direct, {} relayed",
        traffic.direct_packets_sent + traffic.direct_packets_received,
        traffic.relay_packets_sent + traffic.relay_packets_received
    ));
    text
}

/// What was seen of an address that carries packets one way only.
fn one_way_words(one_way: Option<&str>) -> &'static str {
    match one_way {
        Some("to_here") => "; works one way only: heard from there, and what is sent there is not answered",
        Some("from_here") => "; works one way only: what is sent there arrives, and nothing comes back",
        _ => "",
    }
}

/// Why packets take the way they take, for people.
pub fn why_words(why: &str) -> &str {
    match why {
        "proven" => "it answered",
        "better" => "it became the better path",
        "answered_again" => "it answers again",
        "doubtful" => "the direct path is silent and being asked",
        "silent" => "the direct path fell silent",
        "idle" => "not used for long",
        "network_changed" => "this device's network changed",
        "looking" => "looking for a direct path",
        "no_candidates" => "the connector names no address that may be tried",
        "unanswered" => "no address of the connector answers directly",
        "one_way" => "the direct path works one way only",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::{ConnectorView, PopView, TrafficView};

    fn answer(local: &str, observed: &[&str], sees: &[&str]) -> NetcheckAnswer {
        let address = |text: &&str| text.parse::<SocketAddr>().expect("an address");
        let pop = |observed: SocketAddr| PopView {
            id: wire::PopId::from_bytes([1; 16]),
            address: "pop.example:443".to_owned(),
            region: "r".to_owned(),
            session: "registered".to_owned(),
            transport: Some("udp".to_owned()),
            observed: Some(observed),
            failures: 0,
        };
        NetcheckAnswer {
            local: address(&local),
            interfaces: vec![address(&local).ip()],
            address_changes: 0,
            // What a PoP sees as it is here is told as what it sees.
            candidates: vec![("observed".to_owned(), address(&local))],
            pops: observed.iter().map(address).map(pop).collect(),
            connectors: vec![ConnectorView {
                name: "c".to_owned(),
                path: None,
                sees: sees.iter().map(address).collect(),
            }],
            traffic: TrafficView::default(),
        }
    }

    /// A PoP's STUN port behind a translator that gives each packet another port, or one that does not.
    async fn pop_behind(step: u16) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let at = socket.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            let mut port = 20_000_u16;
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                port += step;
                let seen = SocketAddr::from(([203, 0, 113, 7], port));
                let answer = stun::tests::answer(&buffer[..length], seen);
                socket.send_to(&answer, from).await.expect("sends");
            }
        });
        at
    }

    #[tokio::test]
    async fn a_translator_that_gives_each_packet_another_port_is_seen_by_asking_one_pop_twice() {
        for (step, per_packet) in [(0, false), (1, true)] {
            let at = pop_behind(step).await;
            let check = check(&at.to_string()).await;
            assert!(check.udp_v4.is_some(), "the PoP was not asked, so nothing was tested");
            assert_eq!(check.per_packet, per_packet);
        }
    }

    #[test]
    fn a_path_that_works_one_way_only_and_a_port_for_each_packet_are_said_in_words() {
        let mut answer = answer("192.168.1.2:4000", &["203.0.113.1:4000"], &[]);
        let tried = |one_way: &str| client::TriedView {
            address: "198.51.100.1:4000".parse().expect("an address"),
            told: true,
            probes: 9,
            proofs: 0,
            round_trip_ms: None,
            heard_ms: Some(10),
            one_way: Some(one_way.to_owned()),
        };
        answer.connectors[0].path = Some(client::PathView {
            kind: "relay".to_owned(),
            pop: None,
            remote: None,
            since_ms: Some(40_000),
            why: Some("one_way".to_owned()),
            tried: vec![tried("to_here"), tried("from_here")],
        });
        let text = text(&answer, &[], Mapping::PerPacket, true);
        for words in [
            "another outside port for each packet",
            "by the relay, for 40 s (the direct path works one way only)",
            "0 of 9 probes answered; works one way only: heard from there",
            "0 of 9 probes answered; works one way only: what is sent there arrives",
        ] {
            assert!(text.contains(words), "{words:?} in {text}");
        }
    }

    #[test]
    fn an_address_that_does_not_stay_is_said_and_a_roam_is_not() {
        let mut answer = answer("192.168.1.2:4000", &["203.0.113.1:4000"], &[]);
        for (changes, is_said) in [(0, false), (1, false), (2, true), (9, true)] {
            answer.address_changes = changes;
            let text = text(&answer, &[], Mapping::EndpointIndependent, true);
            assert_eq!(text.contains(&format!("another address {changes} times")), is_said, "{text}");
        }
    }

    #[test]
    fn the_mapping_is_told_from_who_sees_what() {
        let inside = "192.168.1.2:4000";
        let mapping = |observed: &[&str], sees: &[&str]| mapping_of(&answer(inside, observed, sees));
        assert_eq!(mapping(&[], &[]), Mapping::Unknown);
        assert_eq!(mapping(&["203.0.113.1:4000"], &[]), Mapping::Unknown);
        assert_eq!(mapping(&["203.0.113.1:4000"], &["203.0.113.1:4000"]), Mapping::EndpointIndependent);
        assert_eq!(mapping(&["203.0.113.1:4000"], &["203.0.113.1:5123"]), Mapping::AddressDependent);
        assert_eq!(mapping(&["203.0.113.1:4000", "203.0.113.1:4001"], &[]), Mapping::AddressDependent);
        assert_eq!(mapping(&[inside], &[]), Mapping::None);
    }
}
