//! The client's way to the internet changes: another network, a router that forgot, UDP taken and given back.

use super::{
    super::{
        super::router::Nat,
        bench::{Bench, Pair},
        kind::{Kind, Path},
        picture::Picture,
    },
    DIRECT, Figures, GAP, Scenario, during_download, gaps, pair,
};
use crate::lab::report::whole_ms;
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "direct, the client moves to another home router", run: roam_direct },
    Scenario { name: "relayed, the client moves to another home router", run: roam_relayed },
    Scenario { name: "direct, the client's router forgets its mappings", run: reboot_direct },
    Scenario { name: "direct, the client's router comes back with another address", run: readdress_direct },
    Scenario { name: "relayed, the client's router forgets its mappings", run: reboot_relayed },
    Scenario { name: "direct, the client's router takes UDP away and gives it back", run: block },
    Scenario { name: "UDP taken and given back, and the console draws each path", run: told },
];

/// The console's picture and the device's own status have the new path so soon after UDP was cut (issue 6).
const TOLD_WITHIN: Duration = Duration::from_secs(5);

/// TCP 443 is found within this by racing (issue 3).
const TCP_WITHIN: Duration = Duration::from_secs(5);
/// How long UDP may be back before it is used again.
const UDP_AGAIN_WITHIN: Duration = Duration::from_secs(60);

fn roam_direct(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let watched = during_download(bench, &mut pair, GAP, roam)?;
    let mut figures = gaps(watched);
    bench.wait_direct(&pair, DIRECT).context("a direct path from the new network")?;
    figures.push(("path_afterwards", Path::Direct.name().into()));
    Ok(figures)
}

fn roam_relayed(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Symmetric, Path::Relay)?;
    Ok(gaps(during_download(bench, &mut pair, GAP, roam)?))
}

/// The cable goes to another router; the host gets an address there, as DHCP would give it one.
fn roam(bench: &mut Bench, pair: &mut Pair) -> Result<()> {
    let (mut new, address) = bench.net.another_home()?;
    let port = pair.client.lan_port.clone().context("the client's cable")?;
    let port = pair.client.router()?.hand_over(&port, &mut new)?;
    let host = &pair.client.host;
    host.ip("address flush dev eth0 scope global")?;
    host.address("eth0", address.into())?;
    new.route(host, "eth0")?;
    pair.client.inside = address.into();
    pair.client.lan_port = Some(port);
    pair.client.routers.insert(0, new);
    Ok(())
}

fn reboot_direct(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    Ok(gaps(during_download(bench, &mut pair, GAP, |_, pair| forget(pair))?))
}

fn reboot_relayed(bench: &mut Bench) -> Result<Figures> {
    // A symmetric router gives other ports after it forgot the first ones.
    let mut pair = pair(bench, Kind::Symmetric, Kind::Symmetric, Path::Relay)?;
    Ok(gaps(during_download(bench, &mut pair, GAP, |_, pair| forget(pair))?))
}

fn forget(pair: &mut Pair) -> Result<()> {
    let router = pair.client.router()?.namespace();
    router.run(Duration::from_secs(5), "conntrack", &["-F"])?;
    Ok(())
}

fn readdress_direct(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let watched = during_download(bench, &mut pair, GAP, |bench, pair| {
        let (_, public, _) = bench.net.public();
        let router = pair.client.router()?.namespace();
        router.ip("address flush dev ext scope global")?;
        router.address("ext", public.into())?;
        pair.client.public = public.into();
        forget(pair)
    })?;
    let mut figures = gaps(watched);
    bench.wait_direct(&pair, DIRECT).context("a direct path from the new address")?;
    figures.push(("path_afterwards", Path::Direct.name().into()));
    Ok(figures)
}

fn block(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    // Finding TCP is a race of its own: its figure is five seconds.
    let watched = during_download(bench, &mut pair, TCP_WITHIN, |_, pair| {
        pair.client.router()?.behave(Nat::UdpBlocked)
    })?;
    bench.wait_path(Path::Tcp, Duration::from_secs(10))?;
    pair.client.router()?.behave(Nat::Home)?;
    let given_back = Instant::now();
    bench.page(&pair).context("a page while UDP is back")?;
    let back = crate::process::wait_until("UDP again", UDP_AGAIN_WITHIN, &bench.interrupt, || {
        Ok(bench.path()?.filter(|path| *path != Path::Tcp))
    })?;
    let mut figures = gaps(watched);
    figures.push(("udp_again_after_ms", whole_ms(given_back.elapsed()).into()));
    figures.push(("path_afterwards", back.name().into()));
    ensure!(back != Path::Tcp, "still by TCP");
    Ok(figures)
}

fn told(bench: &mut Bench) -> Result<Figures> {
    let mut pair = pair(bench, Kind::Home, Kind::Home, Path::Direct)?;
    let picture = Picture::sign_in(&bench.fleet, &bench.net.server, &bench.interrupt)?;
    let direct = bench.follow(&picture, Path::Direct, DIRECT, TOLD_WITHIN)?;
    let mut by_tcp = Duration::ZERO;
    during_download(bench, &mut pair, TCP_WITHIN, |bench, pair| {
        pair.client.router()?.behave(Nat::UdpBlocked)?;
        // From the moment at which UDP is cut.
        by_tcp = bench.follow(&picture, Path::Tcp, TOLD_WITHIN, TOLD_WITHIN)?;
        Ok(())
    })?;
    pair.client.router()?.behave(Nat::Home)?;
    bench.page(&pair).context("a page while UDP is back")?;
    let again = bench.follow(&picture, Path::Direct, UDP_AGAIN_WITHIN, TOLD_WITHIN)?;
    Ok(vec![
        ("direct_drawn_after_ms", whole_ms(direct).into()),
        ("tcp_drawn_after_the_cut_ms", whole_ms(by_tcp).into()),
        ("direct_again_drawn_after_ms", whole_ms(again).into()),
    ])
}
