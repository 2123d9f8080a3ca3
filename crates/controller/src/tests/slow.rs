//! Peers that take their time.

use super::{LOCAL, World};
use crate::server::{Patience, http1, local_router};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::timeout,
};

const SHORT: Patience = Patience {
    head: Duration::from_millis(300),
    body: Duration::from_millis(400),
    idle: Duration::from_millis(600),
    write: Duration::from_millis(300),
    life: Duration::from_secs(60),
    linger: Duration::from_millis(300),
};
/// Longer than any of these, and far from for ever.
const SOON: Duration = Duration::from_secs(5);

fn connect(world: &World, patience: Patience, buffer: usize) -> (DuplexStream, JoinHandle<()>) {
    let (client, server) = tokio::io::duplex(buffer);
    let router = local_router(&world.controller.core);
    (client, tokio::spawn(http1(server, LOCAL, router, patience)))
}

async fn ends(connection: JoinHandle<()>, what: &str) {
    timeout(SOON, connection).await.unwrap_or_else(|_| panic!("{what} holds a connection")).unwrap();
}

#[tokio::test]
async fn a_head_or_a_body_that_drips_and_a_peer_that_says_nothing_hold_no_connection() {
    let world = World::new().await;
    for (what, head) in
        [("a head that stops", "GET /api/v1/sites HTTP/1.1\r\nHost: x\r\n"), ("a peer that says nothing", "")]
    {
        let (mut client, connection) = connect(&world, SHORT, 65_536);
        client.write_all(head.as_bytes()).await.unwrap();
        ends(connection, what).await;
    }
    let (mut client, connection) = connect(&world, SHORT, 65_536);
    let head = "POST /api/v1/sites HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    // A byte now and then: never idle, never whole.
    let (mut answers, mut body) = tokio::io::split(client);
    let dripping = tokio::spawn(async move {
        while body.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = vec![0; 4096];
    let read = timeout(SOON, answers.read(&mut answer)).await.expect("an answer in time").unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("body-too-slow"), "{answer}");
    ends(connection, "a body that drips").await;
    dripping.abort();
}

#[tokio::test]
async fn a_kept_connection_that_is_idle_and_a_peer_that_reads_no_answer_are_let_go() {
    let world = World::new().await;
    let request = b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n";
    // Answered, and then nothing.
    let (mut client, connection) = connect(&world, SHORT, 1 << 20);
    client.write_all(request).await.unwrap();
    let mut byte = [0];
    client.read_exact(&mut byte).await.unwrap();
    ends(connection, "an idle peer").await;
    // The answer does not fit, and nobody takes it.
    let (mut client, connection) = connect(&world, SHORT, 512);
    client.write_all(request).await.unwrap();
    ends(connection, "a peer that reads nothing").await;
}

#[tokio::test]
async fn a_connection_ends_after_its_life_and_not_before_its_request() {
    let world = World::new().await;
    let patience = Patience { life: Duration::from_millis(200), linger: SHORT.linger, ..Patience::USUAL };
    let (mut client, connection) = connect(&world, patience, 1 << 20);
    client.write_all(b"GET /api/v1/sites HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    ends(connection, "an old connection").await;
}

#[tokio::test]
async fn who_sends_all_of_a_body_that_is_too_long_reads_why_and_who_goes_on_sending_is_let_go() {
    let world = World::new().await;
    let head = |length: usize| {
        format!(
            "POST /api/v1/sites HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    // Its buffer takes a small part: a peer that is not read from never gets to reading.
    let (mut client, connection) = connect(&world, SHORT, 65_536);
    client.write_all(head(3_000_000).as_bytes()).await.unwrap();
    timeout(SOON, client.write_all(&vec![b' '; 3_000_000])).await.expect("it is taken").unwrap();
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.expect("it ends").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer));
    drop(client);
    ends(connection, "a peer that has read its answer").await;

    let (mut client, connection) = connect(&world, SHORT, 65_536);
    client.write_all(head(1 << 40).as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move {
        let mut sent = 0_usize;
        while client.write_all(&[b' '; 4096]).await.is_ok() {
            sent += 4096;
        }
        sent
    });
    ends(connection, "a peer that goes on sending").await;
    let sent = timeout(SOON, sending).await.expect("it is told").unwrap();
    assert!((1 << 20..16 << 20).contains(&sent), "{sent} bytes");
}
