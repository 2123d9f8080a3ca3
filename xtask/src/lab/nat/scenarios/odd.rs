//! Networks that no direct path can stand in: packets that pass one way only, a port for each packet, an address that does
//! not stay.

use super::{
    super::{
        super::router::Nat,
        bench::{Bench, Pair},
        kind::{Kind, Path},
        meter::{counter, declare},
        net::Role,
    },
    DIRECT, Figures, Scenario, during_download, gaps, pair,
};
use crate::{lab::report::whole_ms, process::wait_until};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    thread,
    time::{Duration, Instant},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "what the connector sends straight never comes through the client's router",
        run: one_way,
    },
    Scenario { name: "the client's router gives each UDP packet another port", run: per_packet },
    Scenario { name: "the client's router has another address each second, for ten seconds", run: restless },
];

/// Until a client has seen what its network is like.
const SEEN_WITHIN: Duration = Duration::from_secs(60);
const MINUTE: Duration = Duration::from_secs(60);
/// Probes to one address in a minute: five bursts (the figure), each with one probe.
const PROBES: u64 = 5;
const CHANGES: u32 = 10;
/// While it lasts nothing is promised but that the connection stays: the relay believes a new address when the one before
/// was silent for a second, and the TCP inside waits twice as long each time.
const RESTLESS: Duration = Duration::from_secs(CHANGES as u64 * 2);

fn one_way(bench: &mut Bench) -> Result<Figures> {
    let connector = bench.net.side(Role::Connector, Kind::Home)?;
    let client = bench.net.side(Role::Client, Kind::Home)?;
    let router = client.routers.first().context("the client's router")?.namespace();
    let peer = connector.public;
    declare(router, "ip odd", &["to_peer", "from_peer"])?;
    router.nft(&format!(
        "table ip odd {{
            chain out {{
                type filter hook forward priority -10; policy accept;
                ip daddr {peer} meta l4proto udp counter name to_peer
            }}
            chain in {{
                type filter hook prerouting priority -290; policy accept;
                iifname \"ext\" ip saddr {peer} meta l4proto udp counter name from_peer drop
            }}
        }}\n"
    ))?;
    let pair = bench.start(client, connector)?;
    bench.page(&pair).context("the first page")?;
    let began = Instant::now();
    let seen = wait_until("netcheck that says which way alone works", SEEN_WITHIN, &bench.interrupt, || {
        used(bench, &pair)?;
        let tried = tried(&netcheck(bench, &pair)?);
        Ok(tried.iter().any(|tried| tried["one_way"] == "from_here").then(|| began.elapsed()))
    })?;
    let why = bench.fleet.path()?["why"].clone();
    ensure!(why == "one_way", "status says why it goes by the relay: {why}, expected one_way");
    let router = pair.client.routers.first().context("the client's router")?.namespace();
    let read = |name: &str| anyhow::Ok(counter(router, "ip", "odd", name)?.packets);
    let before = read("to_peer")?;
    let until = Instant::now() + MINUTE;
    while Instant::now() < until {
        used(bench, &pair)?;
    }
    let probes = read("to_peer")? - before;
    ensure!(probes <= PROBES, "{probes} packets went straight in a minute of use, to reach: {PROBES}");
    ensure!(read("from_peer")? > 0, "the connector sent nothing straight: nothing was dropped");
    let path = bench.path()?;
    ensure!(path == Some(Path::Relay), "the client says {path:?}, expected the relay");
    bench.download(&pair).context("50 MB by the relay")?;
    Ok(vec![
        ("path", "relay".into()),
        ("netcheck_after_ms", whole_ms(seen).into()),
        ("probes_in_a_minute_of_use", probes.into()),
    ])
}

fn per_packet(bench: &mut Bench) -> Result<Figures> {
    let connector = bench.net.side(Role::Connector, Kind::Home)?;
    let client = bench.net.side(Role::Client, Kind::Home)?;
    let router = client.routers.first().context("the client's router")?;
    router.behave(Nat::PerPacket)?;
    let pair = bench.start(client, connector)?;
    let page = bench.page(&pair).context("the first page")?;
    let checked = netcheck(bench, &pair)?;
    let mapping = &checked["mapping"];
    ensure!(mapping == "per_packet", "netcheck says {mapping}, expected per_packet");
    for _ in 0..10 {
        used(bench, &pair)?;
    }
    bench.download(&pair).context("50 MB")?;
    let path = bench.path()?;
    ensure!(path != Some(Path::Direct), "the client says {path:?}, and no direct path can stand");
    Ok(vec![
        ("path", path.map_or("none", Path::name).into()),
        ("first_byte_ms", whole_ms(page.first).into()),
        ("netcheck", "per_packet".into()),
    ])
}

fn restless(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let watched = during_download(bench, &mut pair, RESTLESS, |bench, pair| {
        for _ in 0..CHANGES {
            let (_, public, _) = bench.net.public();
            pair.client.public = public.into();
            let router = pair.client.router()?.namespace();
            router.ip("address flush dev ext scope global")?;
            router.address("ext", public.into())?;
            router.run(Duration::from_secs(5), "conntrack", &["-F"])?;
            bench.interrupt.check()?;
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    })?;
    // Within the minute that it looks back.
    let seen = netcheck(bench, &pair)?["client"]["address_changes"].as_u64().unwrap_or_default();
    ensure!(seen >= 2, "netcheck saw {seen} changes of address in the last minute, of {CHANGES}");
    let mut figures = gaps(watched);
    figures.push(("netcheck_saw_changes", seen.into()));
    bench.page(&pair).context("a page afterwards")?;
    bench.wait_direct(&pair, DIRECT * 7).context("a direct path afterwards")?;
    figures.push(("path_afterwards", Path::Direct.name().into()));
    Ok(figures)
}

/// A page and a pause: somebody works.
fn used(bench: &Bench, pair: &Pair) -> Result<()> {
    bench.interrupt.check()?;
    bench.page(pair)?;
    thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// `tidegate netcheck`, on the client's machine.
fn netcheck(bench: &Bench, pair: &Pair) -> Result<Value> {
    let state = bench.fleet.state("client").display().to_string();
    let mut command = bench.fleet.tidegate(&pair.client.host, &["netcheck", "--state", &state]);
    let said = crate::process::run(&mut command, Duration::from_secs(30), &bench.interrupt)?;
    serde_json::from_str(said.stdout.trim())
        .with_context(|| format!("netcheck said {:?} {:?}", said.stdout, said.stderr))
}

fn tried(netcheck: &Value) -> Vec<Value> {
    let connectors = netcheck["client"]["connectors"].as_array().cloned().unwrap_or_default();
    connectors.iter().flat_map(|c| c["path"]["tried"].as_array().cloned().unwrap_or_default()).collect()
}
