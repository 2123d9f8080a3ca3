//! What a crowd of flows costs a connector. Measurements, not tests: nothing here is run unless it is asked for, in a
//! release build, with enough descriptors:
//!
//! ```text
//! ulimit -n 20000
//! cargo test --release -p connector --test end_to_end -- --ignored --nocapture crowd
//! ```
//!
//! The connector is a process of its own, so that its memory is its own. The clients, the PoP and the target share
//! another one, and both share the machine: times are upper bounds.

use super::*;
use std::collections::{BTreeSet, VecDeque};
use std::process::{Child, Command, Stdio};

const FLOWS: usize = 10_000;
const CLIENTS: usize = 8;
/// Of these, each has one echo a second on its way in the part that takes times.
const ECHOING: usize = 5_000;
const SECONDS: u32 = 20;

/// A TCP service that gives every byte back.
pub async fn service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let _ = stream.write_all(&buffer[..read]).await;
                }
            });
        }
    });
    address
}

/// The connector, until its standard input ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a process that the measurements start"]
async fn the_connector_of_a_crowd() {
    let Some(directory) = std::env::var_os("TIDEGATE_CROWD") else { return };
    let connector = Connector::open(ConnectorOptions::new(directory.into())).expect("a connector");
    let input = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    connector.run(async { drop(input.await) }).await.expect("the connector runs");
}

struct Process(Child);

impl Process {
    async fn start(lab: &Lab) -> Self {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "crowd::the_connector_of_a_crowd"])
            .env("TIDEGATE_CROWD", lab.directory.path().join("connector"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        let process = Self(child);
        lab.until_ready().await;
        process
    }

    /// Resident memory in KiB.
    fn resident(&self) -> usize {
        let path = format!("/proc/{}/status", self.0.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux says it");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Clients of devices of their own, in.
async fn clients(lab: &Lab) -> Vec<Client> {
    // Little memory here: what is measured is the other end.
    let limits = FlowLimits { flows: FLOWS, flows_per_link: FLOWS, buffer: 2_048, full: 0, small: 2_048 };
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let device = DeviceId::from_bytes([0x40 + u8::try_from(number).expect("few"); 16]);
        let mut client = lab.client_of(device, staff(), limits);
        client.enter(lab).await;
        clients.push(client);
    }
    clients
}

/// Runs the same with each client at once.
async fn each<T: Send + 'static, F>(clients: Vec<Client>, run: impl Fn(Client) -> F) -> Vec<(Client, T)>
where
    F: Future<Output = (Client, T)> + Send + 'static,
{
    let tasks: Vec<_> = clients.into_iter().map(|client| tokio::spawn(run(client))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.expect("no panic"));
    }
    results
}

fn report(what: &str, before: usize, after: usize) -> String {
    let each = (after - before) * 1024 / FLOWS;
    format!("{what}: {before} KiB before, {after} KiB with {FLOWS}: {each} bytes each")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes"]
async fn memory_of_a_crowd_of_tcp_flows_and_how_long_an_echo_takes() {
    let lab = Lab::new().await;
    let process = Process::start(&lab).await;
    let clients = clients(&lab).await;
    let before = process.resident();
    let to = lab.echo;
    let opened = each(clients, |mut client| async move {
        let mut flows: Vec<FlowId> = Vec::new();
        for _ in 0..FLOWS / CLIENTS / 50 {
            let batch: Vec<FlowId> = (0..50).map(|_| client.dial(to)).collect();
            let mut open = 0;
            client
                .until("connections", |client| {
                    for (flow, event) in client.flow_events.drain(..) {
                        assert!(!matches!(event, FlowEvent::Closed(_)), "{flow:?} {event:?}");
                        open += usize::from(event == FlowEvent::Established);
                    }
                    (open == batch.len()).then_some(())
                })
                .await;
            client.packets.clear();
            flows.extend(batch);
        }
        (client, flows)
    })
    .await;
    let status = lab.status().await.expect("status");
    assert_eq!((status.access.flows, status.targets), (FLOWS, FLOWS));
    println!("{}", report("TCP flows, idle", before, process.resident()));

    let (clients, flows): (Vec<Client>, Vec<Vec<FlowId>>) = opened.into_iter().unzip();
    let flows = std::sync::Mutex::new(VecDeque::from(flows));
    let timed = each(clients, |client| {
        let mut flows = flows.lock().expect("no panic").pop_front().expect("one each");
        flows.truncate(ECHOING / CLIENTS);
        echoes(client, flows)
    })
    .await;
    let mut times: Vec<Duration> = timed.iter().flat_map(|(_, (times, _))| times).copied().collect();
    let unanswered: usize = timed.iter().map(|(_, (_, unanswered))| unanswered).sum();
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 1000];
    println!(
        "1-byte echoes, {ECHOING} flows, one a second each, open loop, {SECONDS} s: {} answered, {unanswered} not; p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        times.len(),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    println!("{}", report("TCP flows, half of them used", before, process.resident()));
}

/// One byte a second on each flow, whether or not the last one has come back; how long each took from when it was due.
async fn echoes(mut client: Client, flows: Vec<FlowId>) -> (Client, (Vec<Duration>, usize)) {
    let count = u32::try_from(flows.len()).expect("few");
    let start = Instant::now() + Duration::from_millis(200);
    let total = count * SECONDS;
    let due_at = |turn: u32| start + Duration::from_secs(1) * turn / count;
    let mut waiting: BTreeMap<FlowId, VecDeque<Instant>> = BTreeMap::new();
    let (mut next, mut times) = (0, Vec::new());
    let mut buffer = [0; 256];
    let end = due_at(total) + Duration::from_secs(2);
    while Instant::now() < end {
        let now = Instant::now();
        while next < total && due_at(next) <= now {
            let flow = flows[usize::try_from(next % count).expect("few")];
            if client.flows.write(now, flow, b"x") == Ok(1) {
                waiting.entry(flow).or_default().push_back(due_at(next));
            }
            next += 1;
        }
        client.turn_before((next < total).then(|| due_at(next))).await;
        client.pump();
        client.packets.clear();
        let now = Instant::now();
        for (flow, event) in std::mem::take(&mut client.flow_events) {
            if event != FlowEvent::Readable {
                continue;
            }
            while let Ok(Read::Bytes(read)) = client.flows.read(now, flow, &mut buffer) {
                let due = waiting.entry(flow).or_default();
                times.extend(due.drain(..read.min(due.len())).map(|due| now.saturating_duration_since(due)));
            }
        }
    }
    let unanswered = waiting.values().map(VecDeque::len).sum();
    (client, (times, unanswered))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes"]
async fn memory_of_a_crowd_of_udp_conversations() {
    let lab = Lab::new().await;
    let process = Process::start(&lab).await;
    let clients = clients(&lab).await;
    let before = process.resident();
    let to = lab.udp;
    let answered = each(clients, |mut client| async move {
        let inner = client.inner.expect("inside").ip();
        let most = u16::try_from(FLOWS / CLIENTS).expect("few");
        let mut answered = 0;
        for batch in 0..most / 50 {
            let mut missing: BTreeSet<u16> = (0..50).map(|port| 10_000 + batch * 50 + port).collect();
            // Datagrams are lost where nobody has time for them; who wants an answer asks again.
            for _ in 0..20 {
                for port in &missing {
                    let peer = client.peer.expect("open");
                    let from = SocketAddr::new(inner, *port);
                    let packet = flow::udp(from, to, b"who is there?").expect("one family");
                    client.tunnels.seal(Instant::now(), peer, &packet).expect("room");
                }
                let again = Instant::now() + Duration::from_secs(1);
                while !missing.is_empty() && Instant::now() < again {
                    client.turn_before(Some(again)).await;
                    client.pump();
                    for bytes in std::mem::take(&mut client.packets) {
                        let packet = flow::ip::IpPacket::parse(&bytes).expect("a packet");
                        let port = packet.udp().map(|read| read.tuple.dst.port());
                        answered += usize::from(port.is_ok_and(|port| missing.remove(&port)));
                    }
                }
            }
        }
        (client, answered)
    })
    .await;
    let status = lab.status().await.expect("status");
    assert_eq!((status.access.datagram_flows, status.datagram_sockets), (FLOWS, FLOWS));
    assert_eq!(answered.iter().map(|(_, answered)| answered).sum::<usize>(), FLOWS);
    println!("{}", report("UDP conversations", before, process.resident()));
}
