//! A real PoP, a real connector and a real client on this machine, from their state directories, with no
//! controller anywhere.

#![allow(clippy::disallowed_methods, reason = "a test of shells, which ask the machine for the time")]

mod inspection;
mod world;

use client::{Reachable, Target};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use world::{World, curl, curl_until_up, echo_server, exists, web_server};

fn pattern(length: usize) -> Vec<u8> {
    // A linear congruential generator: no two blocks are alike, so a block that is lost or swapped shows.
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u8::try_from(state >> 24).expect("eight bits")
    })
    .take(length)
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_reaches_a_resource_through_pop_and_connector_and_is_refused_what_policy_refuses() {
    let web = web_server(b"hello from the private side".to_vec()).await;
    let secret = web_server(b"never seen".to_vec()).await;
    let world = World::new(&[("wiki", web, true), ("payroll", secret, false)]);
    let pop = world.pop();
    let connector = world.connector();
    let (proxy, client) = world.client().await;
    let url = format!("http://wiki:{}/", web.port());
    let got = curl_until_up(&proxy, &url).await;
    assert_eq!(String::from_utf8_lossy(&got.body), "hello from the private side");

    let socks = proxy.replace("http://", "socks5h://");
    let got = curl(&socks, &[&format!("http://{web}/")]).await;
    assert_eq!(String::from_utf8_lossy(&got.body), "hello from the private side");

    let denied = curl(&proxy, &["-w", "%{http_code}", &format!("http://payroll:{}/", secret.port())]).await;
    let text = String::from_utf8_lossy(&denied.body).into_owned();
    assert!(text.ends_with("403") && !text.contains("never seen"), "{text}");

    let resources = world.control().resources().await.expect("answers");
    assert!(resources.iter().all(|resource| resource.reachable == Reachable::Yes && resource.path.is_some()));
    client.end().await;
    connector.end().await;
    pop.end().await;
    assert!(!exists(&world.dir.path().join("run").join("client.sock")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_megabytes_arrive_whole_in_both_directions() {
    let body = pattern(20_000_000);
    let (web, echo) = (web_server(body.clone()).await, echo_server().await);
    let world = World::new(&[("files", web, true), ("echo", echo, true)]);
    let pop = world.pop();
    let connector = world.connector();
    let (proxy, client) = world.client().await;
    let got = curl_until_up(&proxy, &format!("http://files:{}/", web.port())).await;
    assert!(got.code == 0 && got.body == body, "{} of {} bytes", got.body.len(), body.len());

    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let target: Target = format!("echo:{}", echo.port()).parse().expect("a target");
    let listen = world.control().forward_add(any, target).await.expect("forwards")[0].listen.clone();
    let (mut reader, mut writer) =
        TcpStream::connect(listen.to_string()).await.expect("connects").into_split();
    let sent = body.clone();
    let write = tokio::spawn(async move {
        writer.write_all(&sent).await.expect("writes");
        writer.shutdown().await.expect("shuts down");
    });
    let mut back = Vec::new();
    timeout(Duration::from_secs(60), reader.read_to_end(&mut back)).await.expect("in time").expect("reads");
    write.await.expect("no panic");
    assert!(back == body, "{} of {} bytes", back.len(), body.len());
    client.end().await;
    connector.end().await;
    pop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_flow_survives_a_restart_of_the_pop_and_a_new_client_needs_nobody_else() {
    let echo = echo_server().await;
    let web = web_server(b"again".to_vec()).await;
    let world = World::new(&[("echo", echo, true), ("wiki", web, true)]);
    let pop = world.pop();
    let connector = world.connector();
    let (proxy, client) = world.client().await;
    let url = format!("http://wiki:{}/", web.port());
    assert_eq!(curl_until_up(&proxy, &url).await.code, 0);

    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let target: Target = format!("echo:{}", echo.port()).parse().expect("a target");
    let listen = world.control().forward_add(any, target).await.expect("forwards")[0].listen.clone();
    let mut stream = TcpStream::connect(listen.to_string()).await.expect("connects");
    let mut buffer = [0; 6];
    stream.write_all(b"before").await.expect("writes");
    stream.read_exact(&mut buffer).await.expect("reads");
    pop.end().await;
    let pop = world.pop();
    stream.write_all(b"after!").await.expect("writes");
    let read = timeout(Duration::from_secs(60), stream.read_exact(&mut buffer)).await;
    read.expect("in time").expect("reads");
    assert_eq!(&buffer, b"after!");

    client.end().await;
    let (proxy, client) = world.client().await;
    assert_eq!(curl_until_up(&proxy, &url).await.body, b"again");
    client.end().await;
    connector.end().await;
    pop.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_register_and_work_through_a_proxy_that_breaks_tls_open_and_has_no_certificate_of_theirs() {
    let body = pattern(300_000);
    let web = web_server(body.clone()).await;
    let world = World::new(&[("wiki", web, true)]);
    // Where the slices say the PoP is, there is the proxy, by TCP alone; the PoP is on another port.
    let listener = tokio::net::TcpListener::bind(world.pop_address).await.expect("the port is free for TCP");
    let probe = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let elsewhere = probe.local_addr().expect("bound");
    drop(probe);
    let seen = inspection::inspect(listener, elsewhere);
    let pop = world.pop_at(elsewhere);
    let connector = world.connector();
    let (proxy, client) = world.client().await;
    let got = curl_until_up(&proxy, &format!("http://wiki:{}/", web.port())).await;
    assert_eq!(got.body, body);
    let status = world.control().status().await.expect("answers");
    let transports: Vec<_> = status.pops.iter().map(|pop| pop.transport.as_deref()).collect();
    assert_eq!(transports, [Some("tcp")]);
    // What is on one machine may find a way without the relay, even before the connector's first packet within the tunnel. The
    // handshake and the client's first packet have no way but the PoP, thus the streams that the proxy broke open.
    let (streams, traffic) = (status.streams.bytes_received, status.traffic);
    let (relay, direct) = (traffic.relay_bytes_received, traffic.direct_bytes_received);
    assert!(relay + direct >= 300_000, "{relay} bytes by relays and {direct} straight");
    assert!(traffic.relay_packets_sent > 0, "{traffic:?}");
    assert!(streams > relay, "{streams} bytes by TCP 443, {relay} of them relayed");
    let opened = seen.opened.load(std::sync::atomic::Ordering::Relaxed);
    assert!(opened >= 2, "client and connector came through it, and it broke {opened} open");
    assert!(seen.bytes.load(std::sync::atomic::Ordering::Relaxed) > 0);
    client.end().await;
    connector.end().await;
    pop.end().await;
}
