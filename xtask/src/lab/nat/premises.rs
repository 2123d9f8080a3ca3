//! The table's premises: each network maps and filters as docs/nat-expected.md says. Measured by the lab's
//! own echoes, and judged by coturn's tools, which know nothing of the lab. Tidegate has no part in it.

use super::{
    super::{
        daemon::Daemon,
        probe::{self, SILENCE, at, question_from},
        report::{Report, Seen},
        services::WebServer,
        topology::SERVER,
    },
    kind::Kind,
    net::{Net, Role, SERVER_TWO, SERVER_V6, Side},
};
use crate::process::{Interrupt, on_path, wait_until};
use anyhow::{Context as _, Result, ensure};
use std::{net::IpAddr, path::Path, time::Duration};

const SHORT: Duration = Duration::from_secs(10);
/// coturn asks several questions, and waits for answers that a filter keeps away.
const JUDGE: Duration = Duration::from_secs(60);

/// A side's behaviour in the words of RFC 4787.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// Everybody gets in, whoever was asked first.
    Independent,
    /// Only who was asked gets in, from the port that was asked.
    Dependent,
}

/// Checks every network.
///
/// # Errors
/// The lab's own networks cannot be built. What a check finds is in the report.
pub fn check(report: &mut Report, directory: &Path, interrupt: &Interrupt) -> Result<()> {
    let mut lab = report.step("the matrix's internet, with echoes on two addresses of the server", || {
        Ok(Seen::new(Premises::create(directory, interrupt)?))
    })?;
    for kind in Kind::ALL {
        report.check(&format!("{kind} maps and filters as the table assumes"), || lab.network(kind));
    }
    report.check("a LAN's router does not hairpin, and its hosts reach each other", || lab.no_hairpin());
    report.check("a router of two rooms hairpins, and keeps them apart otherwise", || lab.hairpin());
    report.check("coturn's natdiscovery finds the same behaviours", || lab.judge());
    Ok(())
}

struct Premises<'a> {
    net: Net,
    directory: &'a Path,
    interrupt: &'a Interrupt,
    _echoes: Vec<Daemon>,
    _web: WebServer,
}

impl<'a> Premises<'a> {
    fn create(directory: &'a Path, interrupt: &'a Interrupt) -> Result<Self> {
        let net = Net::create(interrupt)?;
        let listens = [
            at(SERVER, 4000),
            at(SERVER, 4001),
            at(SERVER_TWO, 4000),
            at(SERVER_V6, 4000),
            at(SERVER_V6, 4001),
        ];
        let echoes: Result<Vec<Daemon>> = listens
            .iter()
            .map(|listen| probe::start(&net.server, *listen, None, directory, interrupt))
            .collect();
        let web = WebServer::start(&net.server, &directory.join("premises-web"), 1, interrupt)?;
        Ok(Self { _echoes: echoes?, net, directory, interrupt, _web: web })
    }

    fn network(&mut self, kind: Kind) -> Result<Seen<()>> {
        let side = self.net.side(Role::Client, kind)?;
        if kind != Kind::DualStack {
            let other: IpAddr = if kind == Kind::Ipv6Only { SERVER.into() } else { SERVER_V6.into() };
            let route = side.host.attempt(SHORT, "ip", &["route", "get", &other.to_string()])?;
            ensure!(!route.status.success(), "there is a route of the other family: {}", route.stdout.trim());
            return self.family(&side, kind);
        }
        self.family(&side, Kind::Symmetric).context("IPv4")?;
        let v6 = side.v6.context("a dual-stack host has an IPv6 address")?.into();
        self.family(&Side { inside: v6, public: v6, ..side }, Kind::Ipv6Only).context("IPv6")
    }

    /// What one family of a side does.
    fn family(&self, side: &Side, kind: Kind) -> Result<Seen<()>> {
        let six = kind == Kind::Ipv6Only;
        let server: IpAddr = if six { SERVER_V6.into() } else { SERVER.into() };
        let bracketed = if six { format!("[{server}]") } else { server.to_string() };
        side.host
            .run(SHORT, "curl", &["-sf", "-m", "5", &format!("http://{bracketed}/")])
            .context("TCP to the server")?;
        let mut echoes = vec![at(server, 4000), at(server, 4001)];
        if !six {
            echoes.push(at(SERVER_TWO, 4000));
        }
        let mapped = question_from(&side.host, at(side.inside, 5000), &echoes)?;
        let seen = mapped.join(" and ");
        if kind == Kind::UdpBlocked {
            ensure!(mapped.iter().all(|seen| seen == SILENCE), "UDP got out: {seen}");
            return Ok(Seen::new(()).with("udp", SILENCE));
        }
        let ours = format!("{}:", show(side.public));
        ensure!(mapped.iter().all(|seen| seen.starts_with(&ours)), "not {}: {seen}", side.public);
        let distinct = mapped.iter().collect::<std::collections::BTreeSet<_>>().len();
        match kind {
            Kind::Symmetric => ensure!(distinct == mapped.len(), "a mapping was used twice: {seen}"),
            _ => ensure!(distinct == 1, "several mappings: {seen}"),
        }
        let filtering = self.filtering(side, server)?;
        let expected = match kind {
            Kind::Open | Kind::FullCone => Behaviour::Independent,
            _ => Behaviour::Dependent,
        };
        ensure!(filtering == expected, "filtering is {filtering:?}, expected {expected:?}");
        Ok(Seen::new(()).with("mapped", seen).with("filtering", format!("{filtering:?}")))
    }

    /// Opens a mapping to one port of the server, and knocks on it from its other ports and addresses.
    fn filtering(&self, side: &Side, server: IpAddr) -> Result<Behaviour> {
        let greet = Some(at(server, 4000));
        let mut inside =
            probe::start(&side.host, at(side.inside, 5001), greet, self.directory, self.interrupt)?;
        let mapped = inside.wait_line("the mapping", SHORT, self.interrupt, |line| {
            line.strip_prefix("seen as ").and_then(|seen| seen.parse().ok())
        })?;
        let mut knocks = vec![at(server, 4002)];
        if server.is_ipv4() {
            knocks.push(at(SERVER_TWO, 4000 + 2));
        }
        let answers: Result<Vec<bool>> = knocks
            .iter()
            .map(|from| Ok(question_from(&self.net.server, *from, &[mapped])?[0] != SILENCE))
            .collect();
        match answers?.as_slice() {
            answers if answers.iter().all(|answered| *answered) => Ok(Behaviour::Independent),
            answers if answers.iter().all(|answered| !answered) => Ok(Behaviour::Dependent),
            answers => anyhow::bail!("some knocks were heard and some were not: {answers:?}"),
        }
    }

    fn no_hairpin(&mut self) -> Result<Seen<()>> {
        for kind in Kind::LANS {
            let (client, connector) = self.net.lan(kind)?;
            let greet = (kind != Kind::UdpBlocked).then_some(at(SERVER, 4000));
            let listen = at(connector.inside, 5001);
            let mut inside = probe::start(&connector.host, listen, greet, self.directory, self.interrupt)?;
            let beside = question_from(&client.host, at(client.inside, 5000), &[listen])?;
            ensure!(beside[0] == at(client.inside, 5000).to_string(), "{kind}: on the LAN: {beside:?}");
            if greet.is_some() {
                let mapped = inside.wait_line("the mapping", SHORT, self.interrupt, |line| {
                    line.strip_prefix("seen as ").and_then(|seen| seen.parse().ok())
                })?;
                let around = question_from(&client.host, at(client.inside, 5002), &[mapped])?;
                ensure!(around[0] == SILENCE, "{kind}: the router hairpins: {around:?}");
            }
        }
        Ok(Seen::new(()))
    }

    fn hairpin(&mut self) -> Result<Seen<()>> {
        let (client, connector) = self.net.rooms()?;
        let listen = at(connector.inside, 5001);
        let mut inside =
            probe::start(&connector.host, listen, Some(at(SERVER, 4000)), self.directory, self.interrupt)?;
        let mapped = inside.wait_line("the mapping", SHORT, self.interrupt, |line| {
            line.strip_prefix("seen as ").and_then(|seen| seen.parse().ok())
        })?;
        let asked = question_from(&client.host, at(client.inside, 5000), &[listen, mapped])?;
        ensure!(asked[0] == SILENCE, "the rooms are not apart: {asked:?}");
        let outside = at(connector.public, 5000).to_string();
        ensure!(asked[1] == outside, "not hairpinned from the mapped address {outside}: {asked:?}");
        let nobody = question_from(&client.host, at(client.inside, 5003), &[at(connector.public, 5999)])?;
        ensure!(nobody[0] == SILENCE, "a port that nobody has answers: {nobody:?}");
        Ok(Seen::new(()).with("around", asked[1].clone()))
    }

    /// RFC 5780's tests by coturn: its server has two addresses, its client sits in each network.
    fn judge(&mut self) -> Result<Seen<()>> {
        ensure!(on_path("turnutils_natdiscovery"), "coturn is missing: apt-get install coturn");
        let mut command = self.net.server.command("turnserver");
        command.args(["-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli", "--log-file", "stdout"]);
        command.args(["--listening-ip", &SERVER.to_string(), "--listening-ip", &SERVER_TWO.to_string()]);
        command.args(["--pidfile", &self.directory.join("turnserver.pid").display().to_string()]);
        command.arg("--db").arg(self.directory.join("turndb"));
        let turnserver = Daemon::start(command, &self.directory.join("turnserver.log"))?;
        wait_until("coturn on its port", SHORT, self.interrupt, || {
            let open = self.net.server.run(SHORT, "ss", &["-Hlun", "sport = :3478"])?.stdout;
            Ok(open.contains(&SERVER_TWO.to_string()).then_some(()))
        })
        .with_context(|| turnserver.last_words())?;
        let mut said = Seen::new(());
        for (kind, mapping, filtering) in JUDGED {
            let side = self.net.side(Role::Client, kind)?;
            let asked = side.host.attempt(
                JUDGE,
                "turnutils_natdiscovery",
                &["-m", "-f", "-L", &side.inside.to_string(), &SERVER.to_string()],
            )?;
            let words = format!("{}\n{}", asked.stdout, asked.stderr);
            for verdict in [mapping, filtering] {
                ensure!(words.contains(verdict), "{kind}: expected {verdict:?} of\n{words}");
            }
            said = said.with(kind.name(), format!("{mapping}, {filtering}"));
        }
        Ok(said)
    }
}

/// Which IPv4 networks coturn judges, and what it must say of mapping and filtering.
const JUDGED: [(Kind, &str, &str); 5] = [
    (Kind::Open, "No NAT", "Endpoint Independent Filtering"),
    (Kind::FullCone, "Endpoint Independent Mapping", "Endpoint Independent Filtering"),
    (Kind::Home, "Endpoint Independent Mapping", "Address and Port Dependent Filtering"),
    (Kind::Cgn, "Endpoint Independent Mapping", "Address and Port Dependent Filtering"),
    (Kind::Symmetric, "Address and Port Dependent Mapping", "Address and Port Dependent Filtering"),
];

fn show(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
