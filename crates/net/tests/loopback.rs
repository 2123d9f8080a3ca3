//! Real sockets on loopback: the kernel's filter, merging and cutting.

use net::{PortPair, RecvBatch, SendBatch, UdpPort, bind_pair};
use std::{net::SocketAddr, time::Duration};
use wire::{DatagramKind, classify};

const DEADLINE: Duration = Duration::from_secs(5);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("an answer before the deadline")
}

async fn receive(port: &UdpPort, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut batch = RecvBatch::for_pop();
    let mut all = Vec::new();
    while all.len() < count {
        within(port.recv_batch(&mut batch)).await.expect("receives");
        all.extend(batch.iter().map(|datagram| (datagram.from, datagram.payload.to_vec())));
    }
    all
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

#[tokio::test]
async fn the_kernel_gives_each_first_byte_to_the_socket_that_the_table_names() {
    let PortPair { session, relay } = bind_pair(loopback()).expect("binds");
    assert_eq!(session.local_addr(), relay.local_addr());
    let sender = UdpPort::bind(loopback()).expect("binds");
    let mut batch = SendBatch::new();
    for byte in 0..=u8::MAX {
        // Different lengths, so that nothing is merged.
        batch.push(session.local_addr(), &vec![byte; 20 + usize::from(byte)]);
        assert_eq!(within(sender.send_batch(&mut batch)).await.sent, 1);
    }
    let relayed = receive(&relay, 16).await;
    let others = receive(&session, 240).await;
    assert_eq!((relayed.len(), others.len()), (16, 240));
    assert!(relayed.iter().all(|(_, payload)| classify(payload) == DatagramKind::Relay));
    assert!(others.iter().all(|(_, payload)| classify(payload) != DatagramKind::Relay));
    assert!(others.iter().all(|(from, _)| *from == sender.local_addr()));
}

#[tokio::test]
async fn merged_datagrams_come_apart_so_that_each_reader_can_hand_over_what_is_not_its_own() {
    let PortPair { session, relay } = bind_pair(loopback()).expect("binds");
    let sender = UdpPort::bind(loopback()).expect("binds");
    // Equal lengths to one destination: one system call and, on loopback, one buffer at the
    // receiver, which the filter judges by its first byte alone.
    let mut batch = SendBatch::new();
    for byte in [0x40, 0x80, 0xC0, 0x8F, 0x41] {
        batch.push(session.local_addr(), &[byte; 300]);
    }
    assert_eq!(within(sender.send_batch(&mut batch)).await.sent, 5);
    let mut mine = Vec::new();
    let mut foreign = Vec::new();
    let mut incoming = RecvBatch::for_pop();
    let mut strays = RecvBatch::for_pop();
    within(async {
        while mine.len() + foreign.len() < 5 {
            session.recv_batch(&mut incoming).await.expect("receives");
            // Where the kernel cut the run before delivery, the relay socket got its own directly.
            relay.try_recv_batch(&mut strays).expect("receives");
            for datagram in incoming.iter().chain(strays.iter()) {
                assert_eq!(datagram.payload.len(), 300);
                match classify(datagram.payload) {
                    DatagramKind::Relay => foreign.push(datagram.payload[0]),
                    _ => mine.push(datagram.payload[0]),
                }
            }
        }
    })
    .await;
    assert_eq!(mine, [0x40, 0xC0, 0x41]);
    assert_eq!(foreign, [0x80, 0x8F]);
}

#[tokio::test]
async fn a_long_run_of_equal_datagrams_arrives_complete_and_in_order() {
    let receiver = UdpPort::bind(loopback()).expect("binds");
    let sender = UdpPort::bind(loopback()).expect("binds");
    let mut batch = SendBatch::new();
    for index in 0..100_u8 {
        batch.push(receiver.local_addr(), &[index; 1200]);
    }
    batch.push_parts(receiver.local_addr(), &[&[100; 12], &[100; 7]]);
    assert_eq!(within(sender.send_batch(&mut batch)).await.sent, 101);
    assert!(batch.is_empty());
    let all = receive(&receiver, 101).await;
    for (index, (_, payload)) in all.iter().enumerate() {
        assert_eq!(usize::from(payload[0]), index);
        assert_eq!(payload.len(), if index == 100 { 19 } else { 1200 });
    }
}

#[tokio::test]
async fn a_dual_stack_socket_shows_ipv4_peers_as_ipv4_and_answers_them() {
    let Ok(dual) = UdpPort::bind("[::]:0".parse().expect("address")) else {
        eprintln!("skipped: this machine has no IPv6");
        return;
    };
    let v4 = UdpPort::bind(loopback()).expect("binds");
    let mut batch = SendBatch::new();
    batch.push(SocketAddr::from(([127, 0, 0, 1], dual.local_addr().port())), b"from four");
    assert_eq!(within(v4.send_batch(&mut batch)).await.sent, 1);
    let got = receive(&dual, 1).await;
    assert_eq!(got[0].0, v4.local_addr());
    batch.push(got[0].0, b"back");
    assert_eq!(within(dual.send_batch(&mut batch)).await.sent, 1);
    assert_eq!(receive(&v4, 1).await[0].1, b"back");
}

#[tokio::test]
async fn a_taken_port_is_refused_by_name_also_for_a_pair() {
    let first = bind_pair(loopback()).expect("binds");
    let address = first.session.local_addr();
    for error in [bind_pair(address).map(drop), UdpPort::bind(address).map(drop)] {
        let error = error.expect_err("taken");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(error.to_string().contains("another process"), "{error}");
    }
}

#[tokio::test]
async fn a_datagram_that_no_path_takes_costs_its_neighbours_nothing() {
    let receiver = UdpPort::bind(loopback()).expect("binds");
    let sender = UdpPort::bind(loopback()).expect("binds");
    let mut batch = SendBatch::new();
    batch.push(receiver.local_addr(), &[1; 100]);
    batch.push(receiver.local_addr(), &vec![2; 65_535]);
    batch.push(receiver.local_addr(), &[3; 100]);
    let report = within(sender.send_batch(&mut batch)).await;
    assert_eq!((report.sent, report.too_long), (2, 1));
    let all = receive(&receiver, 2).await;
    assert_eq!((all[0].1[0], all[1].1[0]), (1, 3));
}
