//! UDP, ping and names through a real connector.

use super::*;
use flow::ip::IpPacket;
use flow::{Echo, EchoKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::net::UdpSocket;
use tunnel::{BindMessage, BoundPair};

/// A service that sends everything back, and its length in front.
pub async fn service() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let answer = [format!("{length} ").as_bytes(), &buffer[..length]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

impl Client {
    fn send(&mut self, packet: &[u8]) {
        let peer = self.peer.expect("open");
        self.tunnels.seal(Instant::now(), peer, packet).expect("room");
    }

    /// The first packet that `read` makes something of.
    async fn packet<T>(&mut self, what: &str, read: impl Fn(&IpPacket<'_>) -> Option<T>) -> T {
        self.until(what, |client| {
            let packets = std::mem::take(&mut client.packets);
            packets.iter().find_map(|bytes| read(&IpPacket::parse(bytes).ok()?))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_service_answers_through_the_tunnel_and_its_port_alone_may_be_reached() {
    let lab = Lab::new().await;
    let connector = lab.connector();
    lab.until_ready().await;
    let mut client = lab.client(staff());
    client.enter(&lab).await;
    let from = SocketAddr::new(client.inner.expect("inside").ip(), 5_000);
    for round in 0..20 {
        let data = vec![b'x'; round * 60];
        client.send(&flow::udp(from, lab.udp, &data).expect("one family"));
        let answer = client
            .packet("answer", |packet| packet.udp().ok().map(|read| (read.tuple.src, read.data.to_vec())))
            .await;
        assert_eq!(answer, (lab.udp, [format!("{} ", data.len()).as_bytes(), &data].concat()));
    }
    let status = lab.status().await.expect("status");
    assert_eq!((status.access.datagram_flows, status.datagram_sockets, status.datagrams_unsent), (1, 1, 0));
    // TCP to the port that is UDP's, and UDP to the one that is TCP's.
    let refused = client.dial(lab.udp);
    let prohibited = FlowEvent::Closed(CloseReason::Unreachable(Unreachable::Prohibited));
    client.until("refusal", |client| client.flow_events.contains(&(refused, prohibited)).then_some(())).await;
    client.packets.clear();
    client.send(&flow::udp(from, lab.target, b"?").expect("one family"));
    client.packet("refusal", |packet| (packet.payload[..2] == [3, 13]).then_some(())).await;
    connector.stop().await;
    let records = lab.records();
    let of = |protocol: &str, verdict| {
        let all = records.iter().filter(|record| record.protocol == protocol && record.verdict == verdict);
        all.count()
    };
    // What ran when the connector was stopped is recorded too.
    assert_eq!(
        (of("udp", Verdict::Withdrawn), of("udp", Verdict::Denied), of("tcp", Verdict::Denied)),
        (1, 1, 1),
        "{records:?}"
    );
    let up: u64 = records.iter().map(|record| record.bytes_up).sum();
    assert_eq!(up, (0..20).map(|round| round * 60).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_of_the_site_answers_ping_or_the_log_says_why_not() {
    let lab = Lab::new().await;
    let connector = lab.connector();
    lab.until_ready().await;
    let mut client = lab.client(staff());
    client.enter(&lab).await;
    let from = client.inner.expect("inside").ip();
    let mut answered = 0;
    for sequence in 0..5 {
        let echo = Echo { kind: EchoKind::Request, identifier: 7, sequence, data: &[9; 56] };
        client.send(&echo.packet(from, lab.target.ip()).expect("one family"));
        let reply = client
            .packet("answer", |packet| match packet.echo() {
                Some(echo) => Some(Some((echo.kind, echo.identifier, echo.sequence, echo.data.len()))),
                None => (packet.payload[..2] == [3, 13]).then_some(None),
            })
            .await;
        if let Some(reply) = reply {
            assert_eq!(reply, (EchoKind::Reply, 7, sequence, 56));
            answered += 1;
        }
    }
    connector.stop().await;
    let records = lab.records();
    // Who runs the tests may not be allowed to ping; then nobody was answered, and each try says why.
    if answered == 5 {
        assert_eq!((records.len(), records[0].protocol.as_str(), records[0].bytes_down), (1, "icmp", 5 * 56));
    } else {
        assert!(
            answered == 0 && records.iter().all(|record| record.explanation.contains("ping_group_range"))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_below_a_wildcard_is_resolved_in_the_site_and_a_name_of_nobody_is_refused() {
    let lab = Lab::new().await;
    let connector = lab.connector();
    lab.until_ready().await;
    let mut client = lab.client(staff());
    client.enter(&lab).await;
    let pair = |number| BoundPair {
        v4: Ipv4Addr::new(100, 97, 0, number),
        v6: Ipv6Addr::new(0xfd7a, 0, 0, 0, 0, 0, 0, number.into()),
    };
    for (number, name) in [(1, "pc7.lab.invalid"), (2, "pc7.elsewhere.invalid")] {
        let message = BindMessage::Bind { pair: pair(number), name: name.as_bytes().to_vec() };
        let peer = client.peer.expect("open");
        client.tunnels.send_bind(Instant::now(), peer, &message).expect("room");
        let bound = BindMessage::Bound(pair(number));
        client.until("binding", |client| client.told.contains(&bound).then_some(())).await;
    }
    // RFC 6761 section 6.4: no name in "invalid" has an address. That it was looked up at all took a policy.
    for (number, end) in [(1, Unreachable::Host), (2, Unreachable::Prohibited)] {
        let flow = client.dial(SocketAddr::new(IpAddr::V4(pair(number).v4), 80));
        let closed = (flow, FlowEvent::Closed(CloseReason::Unreachable(end)));
        client.until("refusal", |client| client.flow_events.contains(&closed).then_some(())).await;
    }
    connector.stop().await;
    let records = lab.records();
    let reason = |name: &str| {
        let record = records.iter().find(|record| record.name.as_deref() == Some(name));
        record.map(|record| (record.reason.as_str(), record.resource))
    };
    assert_eq!(reason("pc7.lab.invalid"), Some(("name_not_resolved", Some(NAMES))), "{records:?}");
    assert_eq!(reason("pc7.elsewhere.invalid"), Some(("no_resource", None)), "{records:?}");
}
