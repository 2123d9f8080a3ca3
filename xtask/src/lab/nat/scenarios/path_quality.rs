//! Small packets and lost ones.

use super::{
    super::{
        super::{
            daemon::Daemon,
            namespace::{Namespace, veth},
            probe::this_program,
            report::whole_ms,
            services,
            topology::SERVER,
        },
        bench::{Bench, DOWNLOAD, Pair, SMALL},
        kind::{Blocked, Kind, Path},
        meter::Meter,
        net::{Role, Side},
    },
    Figures, Scenario, pair,
};
use crate::process::wait_until;
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "direct, MTU 1400 on the client's uplink",
        run: |bench| small_mtu(bench, 1400, Path::Direct),
    },
    Scenario {
        name: "direct, MTU 1280 on the client's uplink",
        run: |bench| small_mtu(bench, 1280, Path::Direct),
    },
    Scenario {
        name: "relayed, MTU 1400 on the client's uplink",
        run: |bench| small_mtu(bench, 1400, Path::Relay),
    },
    Scenario {
        name: "relayed, MTU 1280 on the client's uplink",
        run: |bench| small_mtu(bench, 1280, Path::Relay),
    },
    Scenario { name: "1 % of the client's packets lost each way", run: |bench| lossy(bench, 1) },
    Scenario { name: "10 % of the client's packets lost each way", run: |bench| lossy(bench, 10) },
    Scenario { name: "30 % of the client's packets lost each way", run: |bench| lossy(bench, 30) },
    Scenario { name: "first byte of a registered client over a long uplink", run: long_uplink },
];

const SHORT: Duration = Duration::from_secs(10);
/// A megabyte that takes longer is as good as lost.
const MEGABYTE_WITHIN: Duration = Duration::from_secs(30);
/// What decides which packets are lost.
const SEED: u64 = 20_261_121;

/// The provider's end of the cable drops what is too large without a word, as many do: no ICMP helps. The
/// router's own end tells its hosts.
fn small_mtu(bench: &mut Bench, mtu: u16, path: Path) -> Result<Figures> {
    let connector = if path == Path::Direct { Kind::Home } else { Kind::Symmetric };
    let connector_side = connector;
    let mut pair = {
        // The cable is narrow before the client starts: it finds the path as it is.
        let connector = bench.net.side(Role::Connector, connector_side)?;
        let client = bench.net.side(Role::Client, Kind::Home)?;
        let router = client.routers.first().context("the client's router")?.namespace();
        for (host, interface) in [(bench.net.internet.namespace(), client.uplink.as_str()), (router, "ext")] {
            // A bundle of packets passes whatever its packets' size: here each is looked at by itself.
            host.ip(&format!("link set {interface} mtu {mtu} gso_max_segs 1"))?;
        }
        narrow(&client, mtu)?;
        bench.start(client, connector)?
    };
    let page = bench.page(&pair).context("the first page")?;
    if path == Path::Direct {
        bench.wait_direct(&pair, super::DIRECT)?;
    }
    let before = Meter::read(&bench.net.server)?;
    let rate = bench.download(&pair).context("50 MB")?;
    let carried = Meter::read(&bench.net.server)? - before;
    let went = carried.path(u64::from(DOWNLOAD), Blocked { client: false, connector: false })?;
    ensure!(went == path, "50 MB went by {went}, the scenario is about {path}");
    uplink_carried(&mut pair)?;
    Ok(vec![
        ("path", went.name().into()),
        ("first_byte_ms", whole_ms(page.first).into()),
        ("mbit_per_s", rate.round().into()),
    ])
}

/// The cable is as narrow as was said, and the router tells its hosts so.
fn narrow(client: &Side, mtu: u16) -> Result<()> {
    for (size, passes) in [(mtu, true), (mtu + 1, false)] {
        // Without the headers of IPv4 and ICMP; never in fragments.
        let payload = (size - 28).to_string();
        let server = SERVER.to_string();
        let said = client.host.attempt(SHORT, "ping", &["-c1", "-W1", "-Mdo", "-s", &payload, &server])?;
        ensure!(said.status.success() == passes, "a packet of {size} bytes: {}", said.stdout.trim());
    }
    Ok(())
}

/// The download really used the narrow cable.
fn uplink_carried(pair: &mut Pair) -> Result<()> {
    let router = pair.client.router()?.namespace();
    let said = router.run(SHORT, "cat", &["/sys/class/net/ext/statistics/rx_bytes"])?.stdout;
    let bytes: u64 = said.trim().parse().with_context(|| said.clone())?;
    ensure!(bytes > u64::from(DOWNLOAD), "{bytes} bytes came by the uplink");
    Ok(())
}

fn lossy(bench: &mut Bench, percent: u8) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let link = LossyCable::insert(bench, &mut pair, percent, Duration::ZERO)?;
    let by_kernel = kernel_tcp(bench, &pair)?;
    let expected = bench.web.small_file_sha256(&bench.interrupt)?;
    // The connection is opened, and the path kept or found, in spite of the loss.
    let fetched = bench
        .fleet
        .fetch_within(MEGABYTE_WITHIN, &pair.client.host, SMALL)
        .with_context(|| format!("the kernel's TCP took {by_kernel} ms over this cable"))?;
    ensure!(services::sha256(&fetched.body, &bench.interrupt)? == expected, "the hash differs");
    let path = bench.path()?.map_or("none", Path::name);
    let lost = link.counted(bench)?;
    ensure!(percent < 10 || !lost.starts_with("lost 0 "), "nothing was lost: {lost}");
    Ok(vec![
        ("first_byte_ms", whole_ms(fetched.first).into()),
        ("one_megabyte_ms", whole_ms(fetched.total).into()),
        ("kernel_tcp_ms", by_kernel.into()),
        ("path", path.into()),
        ("packets", lost.into()),
    ])
}

/// How long a packet takes over the long uplink, each way: three round trips stand out from everything else.
const UPLINK: Duration = Duration::from_millis(50);
/// What the figure allows beside the three round trips.
const BESIDE: Duration = Duration::from_millis(50);

/// A registered client that has no tunnel yet: from its first packet to the first byte it takes three round trips at
/// most, one for the introduction, one for the connection, one for the request.
fn long_uplink(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let _cable = LossyCable::insert(bench, &mut pair, 0, UPLINK)?;
    let said =
        pair.client.host.run(SHORT, "ping", &["-c", "5", "-i", "0.2", "-q", &SERVER.to_string()])?.stdout;
    // rtt min/avg/max/mdev = 100.1/100.3/…: the least, since what else the machine does must not loosen the limit.
    let least = said
        .rsplit_once("= ")
        .and_then(|(_, figures)| figures.split('/').next())
        .context("ping's figures")?;
    let round_trip = Duration::from_secs_f64(least.parse::<f64>()? / 1e3);
    let mut took = Vec::new();
    for _ in 0..5 {
        pair.client_process.terminate(SHORT, &bench.interrupt)?;
        pair.client_process = bench.fleet.client(&pair.client.host)?;
        wait_until("the client's registration", SHORT, &bench.interrupt, || {
            let status = bench.fleet.status()?;
            let pops = status["pops"].as_array().context("pops")?;
            Ok(pops.iter().any(|pop| pop["session"] == "registered").then_some(()))
        })
        .with_context(|| {
            let status = bench.fleet.status().unwrap_or_default();
            format!("{}; {}", status["pops"], pair.client_process.last_words())
        })?;
        took.push(bench.fleet.fetch_within(MEGABYTE_WITHIN, &pair.client.host, SMALL)?.first);
    }
    took.sort_unstable();
    let median = took[took.len() / 2];
    let limit = round_trip * 3 + BESIDE;
    ensure!(
        median <= limit,
        "{} ms, and three round trips of {} ms and 50 ms are {} ms",
        whole_ms(median),
        whole_ms(round_trip),
        whole_ms(limit)
    );
    Ok(vec![
        ("round_trip_ms", whole_ms(round_trip).into()),
        ("first_byte_ms", whole_ms(median).into()),
        ("limit_ms", whole_ms(limit).into()),
    ])
}

/// What the kernel's own TCP takes for a megabyte over the same cable, from the server: the measure of what
/// can be had there at all.
fn kernel_tcp(bench: &Bench, pair: &Pair) -> Result<u64> {
    let directory = bench.fleet.place().join("kernel-tcp");
    let _web = services::WebServer::start(&bench.net.server, &directory, 1, &bench.interrupt)?;
    let began = Instant::now();
    let url = format!("http://{}/small", SERVER);
    pair.client.host.run(Duration::from_secs(120), "curl", &["-sf", "-o", "/dev/null", &url])?;
    Ok(whole_ms(began.elapsed()))
}

/// A namespace in the middle of the client's uplink, with the process that loses packets.
struct LossyCable {
    process: Daemon,
    _namespace: Namespace,
}

impl LossyCable {
    fn insert(bench: &mut Bench, pair: &mut Pair, percent: u8, delay: Duration) -> Result<Self> {
        let wire = Namespace::create("wire", &bench.interrupt)?;
        let internet = bench.net.internet.namespace();
        let router = pair.client.router()?.namespace();
        // The old cable's ends become the new cables' ends: router – one, other – internet.
        let said = router.ip("-4 -o address show dev ext scope global")?.stdout;
        let address = said.split_whitespace().nth(3).context("the router's address")?.to_owned();
        router.ip("link del ext")?;
        veth((router, "ext"), (&wire, "one"))?;
        let port = "lossy";
        // One that is left over from an earlier scenario is gone with its namespace, sooner or later.
        let _ = internet.ip(&format!("link del {port}"));
        veth((internet, port), (&wire, "other"))?;
        internet.ip(&format!("link set {port} master internet"))?;
        router.ip(&format!("address add {address} dev ext"))?;
        for (host, interface) in [(router, "ext"), (internet, port), (&wire, "one"), (&wire, "other")] {
            // Packets, not bundles of packets: each is lost by itself.
            host.ip(&format!("link set {interface} gso_max_segs 1"))?;
        }
        wire.ip("link set one promisc on")?;
        wire.ip("link set other promisc on")?;
        // A new card has a new hardware address, which the neighbours learn when they are asked anew.
        bench.net.server.ip("neigh flush all")?;
        for router in &pair.connector.routers {
            router.namespace().ip("neigh flush all")?;
        }
        let mut command = wire.command(this_program());
        command.args(["lab", "lossy-link", "--one", "one", "--other", "other"]);
        command.args(["--percent", &percent.to_string(), "--seed", &SEED.to_string()]);
        command.args(["--delay-ms", &whole_ms(delay).to_string()]);
        let mut process = Daemon::start(command, &bench.fleet.place().join("lossy.log"))?;
        process.wait_line("the link", SHORT, &bench.interrupt, |line| (line == "link up").then_some(()))?;
        Ok(Self { process, _namespace: wire })
    }

    /// Ends the link and gives what it counted.
    fn counted(mut self, bench: &Bench) -> Result<String> {
        self.process.signal(libc::SIGTERM);
        self.process.wait_line("the link's count", SHORT, &bench.interrupt, |line| {
            line.starts_with("lost ").then(|| line.to_owned())
        })
    }
}
