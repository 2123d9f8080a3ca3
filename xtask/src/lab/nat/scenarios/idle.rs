//! Nothing happens, for a while.

use super::{
    super::{
        bench::Bench,
        kind::{Kind, Path},
        meter::{counter, declare},
    },
    DIRECT, Figures, Scenario, pair,
};
use crate::lab::report::whole_ms;
use anyhow::{Context as _, Result, ensure};
use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "idle for 45 s behind routers that forget UDP after 20 s", run: expiry },
    Scenario { name: "idle: packets between the peers in a minute", run: packets },
];

/// After the last data WireGuard itself says something for ten seconds (its keepalive).
const CALM: Duration = Duration::from_secs(15);
const MINUTE: Duration = Duration::from_secs(60);
/// What the client's router counts.
const COUNTERS: [&str; 4] = ["to_peer", "from_peer", "to_pop", "from_pop"];
/// Figure to reach: one packet per 20 s and peer.
const PACKETS: u64 = 3;
/// "At once": the first byte after the pause, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(1);

fn expiry(bench: &mut Bench) -> Result<Figures> {
    let pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    for router in pair.client.routers.iter().chain(&pair.connector.routers) {
        // Mappings made from now on, and those that are refreshed, live this long.
        router.namespace().sysctl("net.netfilter.nf_conntrack_udp_timeout=20")?;
        router.namespace().sysctl("net.netfilter.nf_conntrack_udp_timeout_stream=20")?;
    }
    bench.page(&pair)?;
    wait(bench, Duration::from_secs(45))?;
    let page = bench.page(&pair).context("the page after the pause")?;
    ensure!(page.first <= AT_ONCE, "the first byte after the pause took {:?}", page.first);
    bench.wait_direct(&pair, DIRECT).context("direct again after the pause")?;
    let direct_after = page.at.elapsed();
    bench.download(&pair).context("50 MB after the pause")?;
    Ok(vec![
        ("first_byte_ms", whole_ms(page.first).into()),
        ("direct_after_ms", whole_ms(direct_after).into()),
    ])
}

fn packets(bench: &mut Bench) -> Result<Figures> {
    let pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let (IpAddr::V4(peer), IpAddr::V4(server)) = (pair.connector.public, crate::lab::topology::SERVER.into())
    else {
        anyhow::bail!("both are IPv4 networks");
    };
    let router = pair.client.routers.first().context("the client's router")?.namespace();
    declare(router, "ip idle", &COUNTERS)?;
    router.nft(&format!(
        "table ip idle {{
            chain forward {{
                type filter hook forward priority -10; policy accept;
                ip daddr {peer} counter name to_peer
                ip saddr {peer} counter name from_peer
                ip daddr {server} counter name to_pop
                ip saddr {server} counter name from_pop
            }}
        }}\n"
    ))?;
    let read = |name: &'static str| anyhow::Ok((name, counter(router, "ip", "idle", name)?.packets));
    let all = || COUNTERS.into_iter().map(read).collect::<Result<Vec<_>>>();
    wait(bench, CALM)?;
    let before = all()?;
    wait(bench, MINUTE)?;
    let after = all()?;
    let counted: Vec<(&'static str, u64)> =
        before.iter().zip(&after).map(|((name, before), (_, after))| (*name, after - before)).collect();
    let path = bench.path()?;
    ensure!(
        path == Some(Path::Direct),
        "the client says {path:?}: packets to the peer were counted for a direct path"
    );
    for (name, packets) in &counted[..2] {
        ensure!(*packets <= PACKETS, "{name}: {packets} packets in a minute, to reach: {PACKETS}");
    }
    // A counter that counts nothing would pass anything.
    bench.page(&pair)?;
    let woken = all()?;
    let moved = woken.iter().zip(&after).any(|((_, woken), (_, after))| woken > after);
    ensure!(moved, "the counters do not count");
    let mut figures: Figures = counted.into_iter().map(|(name, packets)| (name, packets.into())).collect();
    figures.push(("path", Path::Direct.name().into()));
    Ok(figures)
}

fn wait(bench: &Bench, how_long: Duration) -> Result<()> {
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        bench.interrupt.check()?;
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
