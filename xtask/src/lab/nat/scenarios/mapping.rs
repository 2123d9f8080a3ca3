//! A router that gives its hosts a port when they ask for one: what the matrix relays goes straight.

use super::{
    super::{
        super::daemon::Daemon,
        bench::Bench,
        kind::{Kind, Path},
        net::Role,
    },
    DIRECT, Figures, Scenario,
};
use crate::lab::report::whole_ms;
use anyhow::{Context as _, Result, ensure};
use std::fs;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "a symmetric client reaches a port that the connector's router maps by PCP",
        run: |bench| mapped(bench, Protocol::Pcp),
    },
    Scenario {
        name: "a symmetric client reaches a port that the connector's router maps by UPnP",
        run: |bench| mapped(bench, Protocol::Upnp),
    },
];

/// No documentation address: miniupnpd maps nothing at such a one.
const OUTSIDE: &str = "5.6.7.1";
const OUTSIDE_NETWORK: &str = "5.6.7.0/24";

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Pcp,
    Upnp,
}

/// A home router as miniupnpd wants its tables.
const RULES: &str = "
table ip lab
delete table ip lab
table inet filter {
    chain input {
        type filter hook input priority 0; policy accept;
        iifname \"ext\" ct state established,related accept
        iifname \"ext\" drop
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established,related accept
        iifname \"lan\" accept
        jump miniupnpd
    }
    chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump postrouting_miniupnpd
        oifname \"ext\" masquerade
    }
    chain miniupnpd { }
    chain prerouting_miniupnpd { }
    chain postrouting_miniupnpd { }
}
";

fn mapped(bench: &mut Bench, protocol: Protocol) -> Result<Figures> {
    let connector = bench.net.side(Role::Connector, Kind::Home)?;
    let client = bench.net.side(Role::Client, Kind::Symmetric)?;
    let router = connector.routers.first().context("the connector's router")?.namespace();
    router.ip("address flush dev ext scope global")?;
    router.ip(&format!("address add {OUTSIDE}/24 dev ext"))?;
    router.ip("route replace 203.0.113.0/24 dev ext")?;
    router.nft(RULES)?;
    let way = format!("route replace {OUTSIDE_NETWORK} dev");
    bench.net.server.ip(&format!("{way} eth0"))?;
    client.routers.first().context("the client's router")?.namespace().ip(&format!("{way} ext"))?;

    let (upnp, pcp) = match protocol {
        Protocol::Pcp => ("no", "yes"),
        Protocol::Upnp => ("yes", "no"),
    };
    let configuration = bench.fleet.place().join("miniupnpd.conf");
    fs::write(
        &configuration,
        format!(
            "ext_ifname=ext\nlistening_ip=lan\nhttp_port=5000\nenable_upnp={upnp}\nenable_natpmp={pcp}\n\
             ipv6_disable=yes\nsecure_mode=yes\nuuid=68555350-3352-3883-2883-335030522881\nserial=1\n\
             model_number=1\nupnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n\
             allow 1024-65535 10.0.2.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        ),
    )?;
    let mut daemon = router.command("miniupnpd");
    daemon.arg("-d").arg("-f").arg(&configuration).arg("-P").arg(bench.fleet.place().join("miniupnpd.pid"));
    let daemon = Daemon::start(daemon, &bench.fleet.place().join("miniupnpd.log"))?;

    let pair = bench.start(client, connector)?;
    let page = bench.page(&pair).context("the first page")?;
    bench.wait_direct(&pair, DIRECT * 2).with_context(|| daemon.last_words())?;
    let after = page.at.elapsed();
    let says = bench.fleet.path()?;
    let remote = says["remote"].as_str().unwrap_or_default().to_owned();
    ensure!(
        remote.starts_with(OUTSIDE),
        "the client's packets go to {remote}, expected the mapped port at {OUTSIDE}"
    );
    bench.download(&pair).context("50 MB")?;
    Ok(vec![
        ("path", Path::Direct.name().into()),
        ("direct_after_ms", whole_ms(after).into()),
        ("first_byte_ms", whole_ms(page.first).into()),
    ])
}
