//! Every parser of untrusted bytes as one function: it must not panic, whatever comes, and what it accepts
//! must keep its promises. The same functions are replayed over the committed corpus in CI and explored by
//! seeded mutation (`replay --target T --seconds N`).

#[path = "../../../crates/trust/tests/installation/mod.rs"]
#[allow(missing_docs, reason = "shared with the forgery suite, which documents it")]
mod installation;
#[path = "../../vectors/messages.rs"]
#[allow(missing_docs, dead_code, reason = "shared with the golden vectors, which hold its fields")]
mod messages;

/// Places in the controller's logs: what its flow log, shared by its source, finds in its own crate.
#[path = "../../../crates/controller/src/segments.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod segments;

mod admin;
mod answers;
mod asked;
mod backup;
mod bulks;
mod contact;
mod cookies;
mod disk;
mod inside;
mod lists;
mod location;
mod machine;
mod names;
mod packets;
mod provider;
mod requests;
mod signin;
mod spool;

/// How the program says what it says: what a reader of an operator's files, shared by its source, finds in its own crate.
#[path = "../../../crates/tidegate/src/output.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the binary, which documents it")]
mod output;

/// Kinds of objects, as the program's command line has them.
mod cli {
    #[derive(Debug, Clone, Copy)]
    pub(crate) enum Kind {
        Sites,
        Resources,
        Users,
        ServiceAccounts,
        Groups,
        Policies,
    }

    impl Kind {
        pub(crate) const fn path(self) -> &'static str {
            match self {
                Self::Sites => "sites",
                Self::Resources => "resources",
                Self::Users => "users",
                Self::ServiceAccounts => "service-accounts",
                Self::Groups => "groups",
                Self::Policies => "policies",
            }
        }
    }
}

/// What the connector's spool, which is shared by its source, finds in its own crate.
mod record {
    pub(crate) use connector::FlowRecord;
    #[cfg(test)]
    pub(crate) use connector::Verdict;
}

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
};
use trust::{Certificate, Document, Grant, TrustChain, Unverified};
use wire::{
    ControlReply, ControlRequest, DatagramKind, FrameReader, FromAgent, FromSigner, RelayKind, ToAgent,
    ToSigner, classify, parse_relay,
};

static HOME: LazyLock<installation::Installation> = LazyLock::new(|| installation::Installation::new(1));

/// A parser under test.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("first_byte", first_byte),
    ("relay", relay),
    ("frames", frames),
    ("messages", messages),
    ("stun", stun),
    ("stun_answer", stun_answer),
    ("ip", ip),
    ("fragments", fragments),
    ("grant", grant),
    ("documents", documents),
    ("chain", chain),
    ("certificate", certificate),
    ("control", control),
    ("join_key", join_key),
    ("texts", texts),
    ("proxy", proxy),
    ("proxy_line", proxy_line),
    ("path_message", path_message),
    ("bind_message", bind_message),
    ("stream", stream),
    ("gateway", gateway),
    ("ssdp", ssdp),
    ("upnp_description", upnp_description),
    ("upnp_answer", upnp_answer),
    ("control_inside", inside::control_inside),
    ("control_request", inside::control_request),
    ("introduction", inside::introduction),
    ("grant_body", inside::grant_body),
    ("beacon_body", inside::beacon_body),
    ("revocation_body", inside::revocation_body),
    ("connector_slice", inside::connector_slice),
    ("client_slice", inside::client_slice),
    ("pop_slice", inside::pop_slice),
    ("enrolment", asked::enrolment),
    ("api_body", asked::api_body),
    ("snapshot_copy", disk::snapshot_copy),
    ("strike_journal", disk::strike_journal),
    ("flow_batch", disk::flow_batch),
    ("flow_segment", disk::flow_segment),
    ("dns_question", names::dns_question),
    ("dns_answer", names::dns_answer),
    ("machine_worker_message", machine::worker_message),
    ("machine_resolver_file", machine::resolver_file),
    ("first_contact", contact::first_contact),
    ("local_request", contact::local_request),
    ("spool", spool::spool),
    ("passkey_made", signin::passkey_made),
    ("passkey_client_data", signin::passkey_client_data),
    ("passkey_proof", signin::passkey_proof),
    ("id_token", provider::id_token),
    ("key_set", provider::key_set),
    ("discovery", provider::discovery),
    ("id_claims", provider::id_claims),
    ("session_cookie", cookies::session_cookie),
    ("sealed_cookie", cookies::sealed_cookie),
    ("bearer_token", requests::bearer_token),
    ("entity_tags", requests::entity_tags),
    ("list_cursor", requests::list_cursor),
    ("log_cursor", requests::log_cursor),
    ("form", requests::form),
    ("enrolment_answer", answers::enrolment_answer),
    ("problem", answers::problem),
    ("local_answer", answers::local_answer),
    ("coalesced", packets::coalesced),
    ("long_packet", packets::long_packet),
    ("translated", packets::translated),
    ("restored", backup::restored),
    ("list_query", lists::list_query),
    ("log_query", lists::log_query),
    ("bulk", bulks::bulk),
    ("declared_file", admin::declared_file),
    ("database_url", location::database_url),
    ("left_behind", machine::left_behind),
];

/// What a TLS stream to TCP 443 carries: cut anywhere, it gives the same datagrams, none of which is empty or long.
fn stream(bytes: &[u8]) {
    fn all(chunks: std::slice::Chunks<'_, u8>) -> (Vec<Vec<u8>>, Option<wire::StreamError>) {
        let (mut reader, mut found) = (wire::StreamReader::new(), Vec::new());
        for chunk in chunks {
            if let Err(error) = reader.push(chunk) {
                return (found, Some(error));
            }
            loop {
                match reader.next_datagram() {
                    Ok(Some(datagram)) => found.push(datagram.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    }
    let (found, error) = all(bytes.chunks(1_024));
    assert_eq!(all(bytes.chunks(7)), (found.clone(), error), "how it is cut changes what it says");
    let mut again = Vec::new();
    for datagram in &found {
        assert!((1..=wire::MAX_STREAM_DATAGRAM).contains(&datagram.len()));
        wire::encode_stream_datagram(&mut again, datagram);
    }
    assert!(bytes.starts_with(&again), "what came out is what went in");
}

/// The router that port mappings are asked of.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));

/// What answers on the gateway's port 5351, or claims to.
fn gateway(bytes: &[u8]) {
    if let Ok(portmap::natpmp::Response::Refused { code }) = portmap::natpmp::parse(bytes) {
        assert_ne!(code, 0, "a success that is refused");
    }
    if portmap::pcp::parse(bytes).is_ok() {
        assert!(bytes.len().is_multiple_of(4) && bytes.len() <= 1_100, "RFC 6887, section 8.3");
        assert!(portmap::natpmp::parse(bytes).is_err() || bytes[0] == 0, "two versions of one answer");
    }
}

/// Whoever answers a search on the local network leads nowhere but to the gateway, and to none of its other services.
fn is_the_gateways(url: &portmap::ssdp::GatewayUrl) {
    assert_eq!(url.to().ip(), GATEWAY);
    assert!(url.to().port() == 80 || url.to().port() >= 1_024);
    assert!(url.path().starts_with('/') && url.path().bytes().all(|byte| byte.is_ascii_graphic()));
}

fn ssdp(bytes: &[u8]) {
    if let Ok(url) = portmap::ssdp::parse_answer(bytes, GATEWAY) {
        is_the_gateways(&url);
    }
}

/// The first line is the location that the description came from, the rest the response.
fn upnp_description(bytes: &[u8]) {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(location) = std::str::from_utf8(&bytes[..end]) else { return };
    let Ok(location) = portmap::ssdp::GatewayUrl::absolute(location, GATEWAY) else { return };
    is_the_gateways(&location);
    if let Ok(control) = portmap::upnp::parse_description(&bytes[end + 1..], &location) {
        is_the_gateways(&control.url);
    }
}

fn upnp_answer(bytes: &[u8]) {
    let _ = portmap::http::is_decided(bytes);
    if let Ok(portmap::upnp::Answer::Added(Some(port))) = portmap::upnp::parse_answer(bytes) {
        assert!(
            portmap::http::parse_response(bytes).is_ok_and(|response| response.status == 200),
            "port {port}"
        );
    }
}

/// What a PoP tells the controller of its host in front of a console connection.
fn proxy_line(bytes: &[u8]) {
    if wire::parse_proxy_line(bytes).is_some() {
        assert!(bytes.len() <= wire::MAX_PROXY_LINE && bytes.ends_with(b"\r\n"));
    }
}

/// What peers say about paths inside their tunnel.
fn path_message(bytes: &[u8]) {
    if let Ok(message) = tunnel::PathMessage::parse(bytes) {
        assert!(bytes[0] >> 4 == 0, "an IP packet taken for a path message");
        let again = message.encode();
        assert!(again.len() <= bytes.len(), "longer than what came");
        assert_eq!(tunnel::PathMessage::parse(&again), Ok(message));
    }
}

/// What a client says about addresses inside its tunnel, and what its connector answers.
fn bind_message(bytes: &[u8]) {
    if let Ok(message) = tunnel::BindMessage::parse(bytes) {
        assert!(bytes[0] >> 4 == 1, "an IP packet taken for a word about addresses");
        assert!(tunnel::PathMessage::parse(bytes).is_err(), "claimed twice");
        let again = message.encode();
        assert!(bytes.starts_with(&again), "what it says is what came");
        assert_eq!(tunnel::BindMessage::parse(&again), Ok(message));
    }
}

/// No datagram is claimed twice: exactly one kind, and no other parser takes it.
fn first_byte(bytes: &[u8]) {
    let kind = classify(bytes);
    let is_relay =
        bytes.first().is_some_and(|byte| byte & wire::RELAY_FIRST_BYTE_MASK == wire::RELAY_FIRST_BYTE_VALUE);
    // RFC 9000 section 17: QUIC packets carry the fixed bit, which this port never greases.
    let is_quic = bytes.first().is_some_and(|byte| byte & 0x40 != 0);
    // WireGuard white paper, section 5.4: a type of 1 to 4, three zero bytes, at least a keepalive.
    let is_wireguard = bytes.len() >= 32 && (1..=4).contains(&bytes[0]) && bytes[1..4] == [0; 3];
    // RFC 8489 section 5: two zero bits, the magic cookie, 20 bytes of header; section 18.2: no method 0.
    let is_stun =
        bytes.len() >= 20 && bytes[0] & 0xFC == 0 && bytes[4..8] == [0x21, 0x12, 0xA4, 0x42] && !is_wireguard;
    let claims = [is_relay, is_quic, is_stun, is_wireguard].into_iter().filter(|claim| *claim).count();
    assert!(claims <= 1, "claimed twice");
    let expected = match (is_relay, is_quic, is_stun, is_wireguard) {
        (true, ..) => DatagramKind::Relay,
        (_, true, ..) => DatagramKind::Quic,
        (_, _, true, _) => DatagramKind::Stun,
        (.., true) => DatagramKind::WireGuard,
        _ => DatagramKind::Foreign,
    };
    assert_eq!(kind, expected);
    assert!(
        parse_relay(bytes).is_err() || kind == DatagramKind::Relay,
        "a relay frame outside the relay range"
    );
    // The libraries that would get it say so themselves.
    let source = "192.0.2.1:1".parse().expect("an address");
    assert!(pop::core::stun::answer(bytes, source).is_err() || kind == DatagramKind::Stun, "STUN elsewhere");
    let packet = gotatun::packet::Packet::from_bytes(bytes::BytesMut::from(bytes));
    // The library does not look at the three reserved bytes; what has others there is not WireGuard's (white paper, section
    // 5.4), and does not get to it.
    let reserved = bytes.get(1..4).is_some_and(|bytes| bytes != [0; 3]);
    assert!(
        packet.try_into_wg().is_err() || reserved || kind == DatagramKind::WireGuard,
        "WireGuard elsewhere"
    );
    let parser = quinn_proto::FixedLengthConnectionIdParser::new(8);
    let packet = quinn_proto::PartialDecode::new(bytes::BytesMut::from(bytes), &parser, &[1], false);
    // Version negotiation alone has no fixed bit (RFC 9000 section 17.2.1), and no peer of ours sends or heeds it.
    let negotiates = bytes.len() >= 5 && bytes[0] & 0x80 != 0 && bytes[1..5] == [0; 4];
    assert!(packet.is_err() || negotiates || kind == DatagramKind::Quic, "QUIC elsewhere");
}

fn relay(bytes: &[u8]) {
    if let Ok(frame) = parse_relay(bytes) {
        let again = [&wire::encode_relay_header(frame.kind, frame.channel)[..], frame.body].concat();
        assert_eq!(again, bytes, "a frame has one encoding");
        assert!(frame.kind == RelayKind::Data || frame.body.len() <= 2 * wire::CHALLENGE_LEN);
    }
}

fn frames(bytes: &[u8]) {
    let mut reader = FrameReader::new(4096);
    for chunk in bytes.chunks(7) {
        reader.push(chunk);
        loop {
            match reader.next_frame() {
                Ok(Some((_, body))) => assert!(body.len() <= 4096),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// The first two bytes are the type; what decodes must survive its own encoding.
fn messages(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first_chunk::<2>() else { return };
    let kind = u16::from_be_bytes(*kind);
    macro_rules! survives {
        ($($set:ident),*) => {$(
            if let Ok(Some(message)) = $set::decode_body(kind, body) {
                let again = $set::decode_body(message.frame_type(), &message.encode_body());
                assert_eq!(again.expect("own encoding"), Some(message));
            }
        )*};
    }
    survives!(FromAgent, ToAgent, FromSigner, ToSigner, ControlRequest, ControlReply);
}

fn stun(bytes: &[u8]) {
    for source in ["192.0.2.1:1", "[2001:db8::1]:1"] {
        if let Ok(answer) = pop::core::stun::answer(bytes, source.parse().expect("an address")) {
            assert!(answer.len() <= bytes.len(), "an answer longer than its request amplifies");
        }
    }
}

fn stun_answer(bytes: &[u8]) {
    // Whoever answers knows the transaction.
    let Some(transaction) = bytes.get(8..20).and_then(|of| of.try_into().ok()) else { return };
    if wire::stun_mapped_address(bytes, transaction).is_some() {
        let other = transaction.map(|byte| !byte);
        assert_eq!(wire::stun_mapped_address(bytes, other), None, "the answer to another question");
    }
}

fn ip(bytes: &[u8]) {
    if let Ok(packet) = flow::ip::IpPacket::parse(bytes) {
        assert!(packet.bytes.len() <= bytes.len() && packet.payload.len() <= packet.bytes.len());
        if let Ok(datagram) = packet.udp() {
            assert!(datagram.data.len() + 8 <= packet.payload.len());
            let again = flow::udp(datagram.tuple.src, datagram.tuple.dst, datagram.data).expect("fits again");
            let again = flow::ip::IpPacket::parse(&again).expect("own packet");
            assert_eq!(again.udp(), Ok(datagram));
        }
        if let Some(echo) = packet.echo() {
            let again = echo.packet(packet.src, packet.dst).expect("fits again");
            assert_eq!(flow::ip::IpPacket::parse(&again).expect("own packet").echo(), Some(echo));
        }
        for answer in [flow::unreachable(&packet, flow::Unreachable::Port), flow::too_big(&packet, 1_280)] {
            // To an address that may be nobody's, an answer is not always one that this reader takes.
            assert!(answer.is_none_or(|answer| answer.len() <= flow::INNER_MTU));
        }
    }
}

/// Pieces of packets, each with its length in front: what comes out whole is bounded, and what was cut here comes back.
fn fragments(bytes: &[u8]) {
    use flow::{Fragment, LinkId, MAX_WHOLE, Reassembly};
    #[allow(clippy::disallowed_methods, reason = "one moment to count from; nothing depends on which")]
    let now = std::time::Instant::now();
    let mut waiting = Reassembly::new();
    let mut rest = bytes;
    while let Some(([length, link], behind)) = rest.split_first_chunk::<2>() {
        let (piece, behind) = behind.split_at(behind.len().min(usize::from(*length)));
        rest = behind;
        if let Ok(Some(piece)) = Fragment::parse(piece)
            && let Some(whole) = waiting.push(now, LinkId(u64::from(*link)), &piece)
        {
            assert!(whole.len() <= MAX_WHOLE);
        }
    }
    let (src, dst) = (FRAGMENT_ENDS.0.parse().expect("address"), FRAGMENT_ENDS.1.parse().expect("address"));
    let data = &bytes[..bytes.len().min(8_000)];
    let whole = flow::udp(src, dst, data).expect("one family");
    let mut waiting = Reassembly::new();
    let pieces = flow::split(whole.clone(), 296, 7);
    if pieces.len() == 1 || pieces.len() > 32 {
        return;
    }
    let joined = pieces.iter().rev().find_map(|piece| {
        waiting.push(now, LinkId(1), &Fragment::parse(piece).expect("own piece").expect("a piece"))
    });
    let joined = joined.expect("all pieces came");
    assert_eq!(flow::ip::IpPacket::parse(&joined).expect("whole").udp().expect("a datagram").data, data);
}

const FRAGMENT_ENDS: (&str, &str) = ("[fd00::1]:9", "[fd00::2]:53");

/// Nobody can sign by mutation, so what verifies is the corpus's own genuine document.
fn verify<D: Document>(bytes: &[u8]) {
    let _ = Unverified::<D>::parse_bytes(bytes)
        .and_then(|document| document.verify(&HOME.bundle, installation::NOW));
}

fn grant(bytes: &[u8]) {
    verify::<Grant>(bytes);
}

fn documents(bytes: &[u8]) {
    verify::<trust::Beacon>(bytes);
    verify::<trust::Revocation>(bytes);
    verify::<trust::Slice<policy::ConnectorSlice>>(bytes);
    verify::<trust::Slice<policy::ClientSlice>>(bytes);
}

fn chain(bytes: &[u8]) {
    if let Ok(chain) = TrustChain::parse_bytes(bytes) {
        let root = trust::RootHash::of(&HOME.root.verifying_key());
        let _ = chain.verify(&root, installation::NOW);
        assert_eq!(TrustChain::parse(&chain.to_text()).as_ref(), Ok(&chain));
    }
}

fn certificate(bytes: &[u8]) {
    if let Ok(certificate) = Certificate::verify_at_any_time(bytes, &HOME.bundle) {
        assert_eq!(certificate.der(), bytes, "a certificate has one encoding");
    }
}

fn control(bytes: &[u8]) {
    static KEY: LazyLock<trust::OpenKey> =
        LazyLock::new(|| trust::OpenKey::from_private(&[7; 32]).expect("a key"));
    assert!(
        trust::control::open_request(&KEY, &HOME.bundle, installation::NOW, bytes).is_err(),
        "nobody sealed this"
    );
}

fn join_key(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(key) = text.parse::<trust::JoinKey>()
    {
        assert_eq!(key.to_secret_text().parse(), Ok(key));
    }
}

fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(address) = text.parse::<policy::Address>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(identity) = text.parse::<trust::Identity>() {
        assert_eq!(identity.to_string(), text);
    }
    if let Ok(subject) = text.parse::<trust::RevokedSubject>() {
        assert_eq!(subject.to_string(), text);
    }
    if let Ok(target) = text.parse::<client::Target>() {
        assert_eq!(target.to_string().parse(), Ok(target));
    }
    if let Ok(ports) = text.parse::<policy::PortRange>() {
        assert_eq!(ports.to_string().parse(), Ok(ports));
    }
    if let Ok(phrase) = text.parse::<controller::RecoveryPhrase>() {
        assert!(phrase.to_secret_text().parse() == Ok(phrase), "another phrase");
    }
    if let Ok(server) = text.parse::<enrol::ServerUrl>() {
        assert_eq!(server.to_string().parse().as_ref(), Ok(&server));
        let uri: http::Uri = text.parse().expect("it was taken as a URL");
        let authority = uri.authority().expect("it has a host");
        let port = authority.as_str().strip_prefix(authority.host()).expect("no user").strip_prefix(':');
        assert!(port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit())), "{text}");
        assert_eq!(port.map_or(Ok(443), str::parse), Ok(server.port()));
        assert_eq!(authority.host().trim_matches(['[', ']']), server.host());
    }
}

/// SOCKS 5 and HTTP, with and without a credential wanted.
fn proxy(bytes: &[u8]) {
    use client::proxy::{Admission, Credential, target_of};
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O needs nothing")
    });
    for admission in [Admission::Open, Admission::Password(Credential::from_random([7; 16]))] {
        let mut stream = tokio::io::join(bytes, tokio::io::sink());
        if let Ok(target) = RUNTIME.block_on(target_of(&mut stream, &admission)) {
            assert!(matches!(admission, Admission::Open), "a request without the credential was taken");
            assert_ne!(target.port, 0);
        }
    }
}

/// Seeds for the corpus: one genuine input for each target that has one.
#[must_use]
pub fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    use trust::{KeyRole, Role, sign_document};
    use tunnel::{Candidate, CandidateKind, PathMessage};
    let seen: std::net::SocketAddr = "203.0.113.20:40000".parse().expect("an address");
    let list = vec![
        Candidate { kind: CandidateKind::Local, address: "[2001:db8::7]:40000".parse().expect("an address") },
        Candidate { kind: CandidateKind::Observed, address: seen },
    ];
    let pair = tunnel::BoundPair {
        v4: Ipv4Addr::new(100, 97, 0, 9),
        v6: "fd7a:7467:6e61::9".parse().expect("an address"),
    };
    let candidates = PathMessage::Candidates { epoch: 7, sequence: 1, round: 0, list };
    let sign = |text: Result<String, trust::DocumentError>| text.expect("keeps the rules").into_bytes();
    let hello = FromAgent::from(wire::Hello { oldest: 1, newest: 1, build: wire::Bounded::default() });
    let mut data = wire::encode_relay_header(RelayKind::Data, wire::ChannelId::from_random(7)).to_vec();
    data.extend_from_slice(&[4; 32]);
    let mut binding = vec![0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42];
    binding.extend_from_slice(&[9; 12]);
    let syn = vec![
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 100, 64, 0, 2, 10, 0, 0, 1, 0x30, 0x39, 0, 80, 0, 0, 0, 1,
        0, 0, 0, 0, 0x50, 2, 0xFF, 0xFF, 0, 0, 0, 0,
    ];
    let mut list = vec![
        ("first_byte", "relay-data", data.clone()),
        ("first_byte", "stun-binding", binding.clone()),
        ("first_byte", "quic-initial", vec![0xC3, 0, 0, 0, 1, 8, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("relay", "data", data),
        (
            "relay",
            "hello",
            wire::encode_relay_header(RelayKind::Hello, wire::ChannelId::from_random(7)).to_vec(),
        ),
        ("frames", "hello", wire::encode_frame(hello.frame_type(), &hello.encode_body())),
        ("stun", "binding", binding),
        ("ip", "tcp-syn", syn),
        ("grant", "genuine", sign(sign_document(&HOME.key(KeyRole::Grant), &HOME.grant()))),
        ("documents", "beacon", sign(sign_document(&HOME.key(KeyRole::Beacon), &HOME.beacon()))),
        ("documents", "revocation", sign(sign_document(&HOME.key(KeyRole::Beacon), &HOME.revocation()))),
        ("chain", "genuine", HOME.chain.to_text().into_bytes()),
        ("certificate", "device", HOME.certificate(Role::Device)),
        ("certificate", "pop", HOME.certificate(Role::Pop)),
        ("control", "noise", vec![7; 96]),
        ("proxy_line", "tcp4", b"PROXY TCP4 203.0.113.7 198.51.100.1 4000 443\r\n".to_vec()),
        ("proxy_line", "tcp6", b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 443\r\n".to_vec()),
        ("path_message", "candidates", candidates.encode()),
        ("path_message", "heard", PathMessage::Heard { epoch: 7, sequence: 1 }.encode()),
        ("path_message", "probe", PathMessage::Probe { id: 9, length: tunnel::MIN_PROBE_LEN }.encode()),
        ("path_message", "proof", PathMessage::Proof { id: 9, seen }.encode()),
        ("bind_message", "bind", tunnel::BindMessage::Bind { pair, name: b"db.example".to_vec() }.encode()),
        ("bind_message", "bound", tunnel::BindMessage::Bound(pair).encode()),
        ("bind_message", "unbound", tunnel::BindMessage::Unbound(pair).encode()),
        ("stream", "two", [&[0, 3, 1, 2, 3, 0, 1][..], &[9]].concat()),
        ("stream", "longest", [&[0x08, 0][..], &[7; 2_048], &[0, 1, 5]].concat()),
        ("stream", "too-long", vec![0x08, 1, 7, 7]),
        ("stream", "empty", vec![0, 1, 7, 0, 0]),
        ("gateway", "natpmp-address", vec![0, 128, 0, 0, 0, 0, 0, 9, 198, 51, 100, 7]),
        ("gateway", "natpmp-map", vec![0, 129, 0, 0, 0, 0, 0, 9, 0x12, 0x34, 0x56, 0x78, 0, 0, 0x1C, 0x20]),
        ("gateway", "natpmp-refused", vec![0, 129, 0, 2, 0, 0, 0, 9]),
        ("gateway", "pcp-announce", [&[2, 0x80, 0, 0][..], &[0; 20]].concat()),
        ("gateway", "pcp-map", pcp_map()),
        ("ssdp", "answer", SSDP_ANSWER.as_bytes().to_vec()),
        ("upnp_description", "service", UPNP_DESCRIPTION.as_bytes().to_vec()),
        ("upnp_answer", "added", UPNP_ADDED.as_bytes().to_vec()),
        ("upnp_answer", "fault", UPNP_FAULT.as_bytes().to_vec()),
        ("first_byte", "wireguard-data", [&[4, 0, 0, 0][..], &[7; 28]].concat()),
        ("texts", "prefix", b"10.0.2.0/24".to_vec()),
        ("texts", "name", b"web.lab.internal".to_vec()),
        ("texts", "target", b"[2001:db8::1]:443".to_vec()),
        ("texts", "server", b"https://tidegate.example.org:8443".to_vec()),
        ("texts", "server-sign", b"https://a:+443".to_vec()),
        ("texts", "server-v6", b"https://[2001:db8::1]:8443/".to_vec()),
        ("texts", "recovery-phrase", b"0000-0000-0000-0000-0000-0000-0000-0000-gsde".to_vec()),
        ("texts", "identity", HOME.identity(Role::Device).to_string().into_bytes()),
        ("proxy", "socks5", [&[5, 1, 0, 5, 1, 0, 3, 4][..], b"wiki", &[0, 80]].concat()),
        ("proxy", "connect", b"CONNECT wiki.example:443 HTTP/1.1\r\nHost: wiki.example:443\r\n\r\n".to_vec()),
        ("proxy", "get", b"GET http://10.0.2.1/a HTTP/1.1\r\nHost: 10.0.2.1\r\n\r\n".to_vec()),
        ("join_key", "shape", b"tg1.AAAA".to_vec()),
    ];
    list.extend(more());
    list.extend(
        [inside::genuine(), asked::genuine(), disk::genuine(), names::genuine(), contact::genuine()].concat(),
    );
    list.extend([signin::genuine(), spool::genuine(), provider::genuine(), cookies::genuine()].concat());
    list.extend([requests::genuine(), answers::genuine(), packets::genuine(), backup::genuine()].concat());
    list.extend([lists::genuine(), bulks::genuine(), admin::genuine()].concat());
    list.extend([location::genuine(), machine::genuine()].concat());
    list.extend(messages::examples().into_iter().map(|example| {
        ("messages", kebab(example.name), [&example.frame_type.to_be_bytes()[..], &example.body].concat())
    }));
    list
}

/// The name of a message as that of a file.
fn kebab(name: &str) -> &'static str {
    let mut file = String::new();
    for (place, letter) in name.char_indices() {
        if place > 0 && letter.is_ascii_uppercase() {
            file.push('-');
        }
        file.push(letter.to_ascii_lowercase());
    }
    file.leak()
}

/// Further seeds: other kinds, bounds and odd forms of what is above.
fn more() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    use trust::{JoinKey, JoinKind, JoinSecret, Role};
    let root = trust::RootHash::of(&HOME.root.verifying_key());
    let join = |kind, controller: &str| {
        let secret = JoinSecret::from_random([5; 32]);
        let key = JoinKey { kind, controller: controller.to_owned(), root, secret };
        key.to_secret_text().to_string().into_bytes()
    };
    let whole = join(JoinKind::Device, "https://tidegate.example.com");
    let link = [b"https://tidegate.example.com/join#", &whole[..]].concat();
    let frame = |kind: u16, body: &[u8]| wire::encode_frame(kind, body);
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 100, 64, 0, 2, 10, 0, 0, 1];
    packet.extend_from_slice(&[0x30, 0x39, 0, 53, 0, 8, 0, 0]);
    let mut six = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
    six.extend_from_slice(&[0xFD; 32]);
    six.extend_from_slice(&[0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xFF, 0xFF, 0, 0, 0, 0]);
    let mut fragment = packet.clone();
    fragment[6] = 0x20;
    let mut padded = vec![0, 1, 0, 64, 0x21, 0x12, 0xA4, 0x42];
    padded.extend_from_slice(&[9; 12]);
    padded.extend_from_slice(&[0x80, 0x22, 0, 60]);
    padded.extend_from_slice(&[0x20; 60]);
    vec![
        ("join_key", "device", whole),
        ("join_key", "pop", join(JoinKind::Pop, "https://[2001:db8::1]:8443")),
        ("join_key", "connector", join(JoinKind::Connector, "https://localhost:8443")),
        ("join_key", "link", link),
        ("frames", "two", [frame(1, &[7; 30]), frame(2, &[])].concat()),
        ("frames", "longest", frame(3, &[7; 4094])),
        ("frames", "too-long", frame(3, &[7; 5000])),
        ("ip", "udp", packet),
        ("ip", "v6-tcp", six),
        ("ip", "fragment", fragment),
        ("stun", "padded", padded),
        ("first_byte", "wireguard-initiation", [&[1, 0, 0, 0][..], &[7; 144]].concat()),
        ("first_byte", "wireguard-response", [&[2, 0, 0, 0][..], &[7; 88]].concat()),
        ("first_byte", "quic-short", [&[0x40][..], &[7; 40]].concat()),
        ("first_byte", "quic-negotiation", [&[0x80, 0, 0, 0, 0, 0, 0][..], &[0, 0, 0, 1]].concat()),
        ("certificate", "connector", HOME.certificate(Role::Connector)),
        ("texts", "strike", b"usr-00000000000000000000000000/grp-00000000000000000000000000".to_vec()),
        ("texts", "ports", b"8000-8999".to_vec()),
        ("texts", "udp-ports", b"udp/500-600".to_vec()),
        ("texts", "icmp", b"icmp".to_vec()),
        ("texts", "wildcard", b"*.lab.internal".to_vec()),
        ("ip", "echo", echo_packet()),
        ("fragments", "two-of-one", two_fragments()),
    ]
}

fn echo_packet() -> Vec<u8> {
    let echo = flow::Echo { kind: flow::EchoKind::Request, identifier: 7, sequence: 1, data: b"abcdefgh" };
    let ends = [Ipv4Addr::new(100, 64, 0, 2), Ipv4Addr::new(10, 0, 2, 9)].map(IpAddr::V4);
    echo.packet(ends[0], ends[1]).expect("one family")
}

/// As the `fragments` target reads them.
fn two_fragments() -> Vec<u8> {
    let (src, dst) = (FRAGMENT_ENDS.0.parse().expect("address"), FRAGMENT_ENDS.1.parse().expect("address"));
    let whole = flow::udp(src, dst, &[7; 150]).expect("one family");
    let pieces = flow::split(whole, 136, 1);
    let framed =
        pieces.iter().map(|piece| [&[u8::try_from(piece.len()).expect("short"), 1], &piece[..]].concat());
    framed.flatten().collect()
}

/// RFC 6887, section 11.1: a mapping of port 4660 to 198.51.100.7:22136.
fn pcp_map() -> Vec<u8> {
    let mut bytes = vec![2, 0x81, 0, 0, 0, 0, 0x1C, 0x20, 0, 0, 0, 9];
    bytes.extend_from_slice(&[0; 12]);
    bytes.extend_from_slice(&[5; 12]);
    bytes.extend_from_slice(&[17, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
    bytes.extend_from_slice(&Ipv4Addr::new(198, 51, 100, 7).to_ipv6_mapped().octets());
    bytes
}

const SSDP_ANSWER: &str = "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n\
ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\nUSN: uuid:1::x\r\nEXT:\r\n\
LOCATION: http://192.168.1.1:5000/rootDesc.xml\r\n\r\n";

const UPNP_DESCRIPTION: &str = "http://192.168.1.1:5000/rootDesc.xml\n\
HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<?xml version=\"1.0\"?>\
<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList><service>\
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
<controlURL>/ctl/IPConn</controlURL></service></serviceList></device></root>";

const UPNP_ADDED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<?xml version=\"1.0\"?>\
<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
<u:AddAnyPortMappingResponse xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:2\">\
<NewReservedPort>51820</NewReservedPort></u:AddAnyPortMappingResponse></s:Body></s:Envelope>";

const UPNP_FAULT: &str = "HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\n\r\n\
<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault>\
<faultcode>s:Client</faultcode><detail><UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\">\
<errorCode>718</errorCode></UPnPError></detail></s:Fault></s:Body></s:Envelope>";

/// What shared sources ask the machine for.
mod clock {
    /// One moment: which one changes nothing here.
    pub(crate) const fn wall() -> trust::UnixMs {
        crate::installation::NOW
    }

    pub(crate) fn random<const N: usize>() -> [u8; N] {
        let mut bytes = [0; N];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
        bytes
    }
}

/// What the tests of shared sources ask for: a controller's state directory.
#[cfg(test)]
mod signer {
    use state::{About, StateDir, StateError};
    use std::path::Path;

    pub(crate) fn first_start(path: &Path) -> Result<StateDir, StateError> {
        let root = trust::RootHash::of(&crate::HOME.root.verifying_key());
        StateDir::create(path, &About::new(crate::HOME.id, trust::Role::Controller, root))
    }
}
