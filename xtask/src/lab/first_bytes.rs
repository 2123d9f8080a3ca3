//! `cargo xtask lab first-bytes`: two real machines' worth of Tidegate. `serve` on the internet, a connector
//! and a client behind home routers, a real web server and a real PostgreSQL that only the site reaches.

use super::{
    fleet::{Fetched, Fleet},
    report::{Form, Outcome, Report, Seen, whole_ms},
    router::Nat,
    services::{self, Database, PAGE, WebServer},
    topology::{self, Topology},
};
use crate::{
    process::{Interrupt, run as run_program, wait_until},
    test::fresh_release_binary,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

const START: Duration = Duration::from_secs(30);
/// Figure to reach: 50 MB, compared by hash.
const DOWNLOAD: usize = 50_000_000;

struct Lab {
    fleet: Fleet,
    net: Topology,
}

impl Lab {
    fn admin(&self, arguments: &[&str]) -> Result<Value> {
        self.fleet.admin(&self.net.server, arguments)
    }

    fn fetch(&self, url: &str) -> Result<Fetched> {
        self.fleet.fetch(&self.net.client, url)
    }

    /// Bytes that came to the server's interface so far.
    fn server_received(&self) -> Result<u64> {
        let counter = "/sys/class/net/eth0/statistics/rx_bytes";
        let said = self.net.server.run(Duration::from_secs(5), "cat", &[counter])?.stdout;
        said.trim().parse().with_context(|| said.clone())
    }
}

/// Runs the lab.
///
/// # Errors
/// The machine cannot hold it. Failed steps are counted in the outcome.
pub fn run(form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let mut report = Report::new(form);
    let ended = steps(&mut report, interrupt);
    report.ended(ended);
    Ok(report.finish())
}

fn steps(report: &mut Report, interrupt: &Interrupt) -> Result<()> {
    let binary = fresh_release_binary()?;
    let lab = report.step("two home routers and a site, in namespaces", || {
        ensure!(binary.is_file(), "no binary at {}: cargo build --release", binary.display());
        let net = Topology::create(Nat::Home, Nat::Home, interrupt)?;
        let names = net.names().len();
        let fleet = Fleet::new(binary, interrupt)?;
        Ok(Seen::new(Lab { fleet, net }).with("namespaces", names))
    })?;
    let web = report.step("nginx answers inside the site", || {
        let web = WebServer::start(&lab.net.web, &lab.fleet.place().join("web"), DOWNLOAD, interrupt)?;
        Ok(Seen::new(web))
    })?;
    let _database = report.step("PostgreSQL answers inside the site", || {
        let database = Database::start(
            &lab.net.database,
            topology::DATABASE,
            &lab.fleet.place().join("database"),
            interrupt,
        )?;
        Ok(Seen::new(database))
    })?;
    report.check("neither can be reached from the client without Tidegate", || {
        let said = lab.net.client.attempt(
            Duration::from_secs(10),
            "curl",
            &["-s", "-m", "2", &format!("http://{}/", topology::WEB)],
        )?;
        ensure!(!said.status.success(), "the client reached the private web server by itself");
        Ok(Seen::new(()))
    });
    let (mut serve, ready) = report.step("tidegate serve starts for the first time", || {
        let state = lab.fleet.state("serve").display().to_string();
        let advertise = format!("{}:443", topology::SERVER);
        let mut serve = lab.fleet.start(
            &lab.net.server,
            "serve",
            &["serve", "--state", &state, "--listen", "0.0.0.0:443", "--advertise", &advertise],
        )?;
        let ready = lab.fleet.ready(&mut serve, "serve")?;
        Ok(Seen::new((serve, ready)))
    })?;
    report.step("site, resources, group, user and policy by tidegate admin", || {
        lab.admin(&["create", "site", "--name", "lab", "--prefix", "10.0.2.0/24"])?;
        lab.admin(&[
            "create",
            "resource",
            "--name",
            "web",
            "--site",
            "lab",
            "--address",
            "web.lab.internal",
            "--ports",
            "80",
        ])?;
        lab.admin(&[
            "create",
            "resource",
            "--name",
            "db",
            "--site",
            "lab",
            "--address",
            &topology::DATABASE.to_string(),
            "--ports",
            "5432",
        ])?;
        lab.admin(&["create", "group", "--name", "ops"])?;
        lab.admin(&["create", "user", "--name", "alice", "--email", "alice@lab.example", "--group", "ops"])?;
        lab.admin(&[
            "create",
            "policy",
            "--name",
            "ops reach the lab",
            "--group",
            "ops",
            "--resource",
            "web",
            "--resource",
            "db",
        ])?;
        Ok(Seen::new(()))
    })?;
    let _connector = report.step("the connector enrols behind its router, outbound only", || {
        let key = lab.fleet.key(&lab.net.server, "connector.key", &["--connector", "--site", "lab"])?;
        let state = lab.fleet.state("connector").display().to_string();
        let mut connector = lab.fleet.start(
            &lab.net.connector,
            "connector",
            &["connector", "--state", &state, "--join-file", &key],
        )?;
        lab.fleet.ready(&mut connector, "connector")?;
        wait_until("the connector at the PoP", START, interrupt, || {
            let connectors = lab.admin(&["list", "connectors"])?;
            Ok((connectors["items"][0]["live"]["attached"] == true).then_some(()))
        })?;
        Ok(Seen::new(connector))
    })?;
    let state = lab.fleet.state("client").display().to_string();
    let client = report.step("the device enrols and its client comes up behind its router", || {
        let key = lab.fleet.key(&lab.net.server, "client.key", &["--device", "--user", "alice"])?;
        let mut login =
            lab.fleet.tidegate(&lab.net.client, &["login", "--state", &state, "--key-file", &key]);
        run_program(&mut login, START, interrupt)?.success("login")?;
        Ok(Seen::new(lab.fleet.client(&lab.net.client)?))
    })?;
    report.step("curl reaches nginx by the name that only the site knows", || {
        let Fetched { body, first, .. } = lab.fetch("http://web.lab.internal/")?;
        ensure!(fs::read_to_string(body)? == PAGE, "another page came");
        ensure!(web.requests_from(topology::CONNECTOR) > 0, "nginx did not see the connector");
        Ok(Seen::new(()).with("first_byte_ms", (first.as_secs_f64() * 1e3).round()))
    })?;
    report.check("the next page over the tunnel that stands", || {
        // Of a registered client without a tunnel: `lab nat-scenarios --only "long uplink"`, where round trips are long.
        let Fetched { first, .. } = lab.fetch("http://web.lab.internal/")?;
        Ok(Seen::new(()).with("first_byte_ms", (first.as_secs_f64() * 1e4).round() / 10.0))
    });
    report.check(
        "packets go straight between the two home routers (to reach: 2 s after the first byte)",
        || {
            let began = Instant::now();
            let remote = wait_until("the direct path", START, interrupt, || {
                let path = lab.fleet.path()?;
                Ok((path["kind"] == "direct").then(|| path["remote"].clone()))
            })?;
            Ok(Seen::new(()).with("more_ms", whole_ms(began.elapsed())).with("remote", remote))
        },
    );
    report.check("50 MB by that path, equal by SHA-256", || {
        let expected = web.big_file_sha256(interrupt)?;
        let Fetched { body, total, .. } = lab.fetch("http://web.lab.internal/big")?;
        ensure!(services::sha256(&body, interrupt)? == expected, "the hash differs");
        let rate = DOWNLOAD as f64 * 8.0 / 1e6 / total.as_secs_f64();
        Ok(Seen::new(()).with("mbit_per_s", rate.round()))
    });
    report.check("50 MB over the relay, while the two routers do not reach each other", || {
        // Both directions at one router: nothing else of the client's is between these two.
        lab.net.client_router.namespace().nft(&format!(
            "table inet apart {{\n chain forward {{\n  type filter hook forward priority 10;\n  \
             ip daddr {site} udp dport 1-65535 drop\n  ip saddr {site} udp sport 1-65535 drop\n }}\n}}\n",
            site = topology::SITE_ROUTER
        ))?;
        wait_until("the relay", START, interrupt, || {
            Ok((lab.fleet.path()?["kind"] == "relay").then_some(()))
        })?;
        let expected = web.big_file_sha256(interrupt)?;
        let before = lab.server_received()?;
        let Fetched { body, total, .. } = lab.fetch("http://web.lab.internal/big")?;
        let relayed = lab.server_received()? - before;
        ensure!(services::sha256(&body, interrupt)? == expected, "the hash differs");
        // Counted by the kernel at the relay's own interface.
        ensure!(relayed > DOWNLOAD as u64, "only {relayed} bytes came to the relay");
        lab.net.client_router.namespace().nft("delete table inet apart")?;
        let rate = DOWNLOAD as f64 * 8.0 / 1e6 / total.as_secs_f64();
        Ok(Seen::new(()).with("mbit_per_s", rate.round()).with("relayed_mb", relayed / 1_000_000))
    });
    let _forward = report.step("psql asks a real PostgreSQL through a forwarded port", || {
        let mut forward = lab.fleet.start(
            &lab.net.client,
            "forward",
            &["forward", "--state", &state, "db:5432", "--listen", "127.0.0.1:15432"],
        )?;
        lab.fleet.ready(&mut forward, "forward")?;
        let answer =
            services::query(&lab.net.client, Ipv4Addr::LOCALHOST, 15432, "select inet_client_addr()")?;
        let seen: IpAddr =
            answer.split('/').next().unwrap_or_default().parse().with_context(|| answer.clone())?;
        ensure!(seen == IpAddr::from(topology::CONNECTOR), "PostgreSQL sees {seen}, not the connector");
        Ok(Seen::new(forward).with("postgresql_sees", seen.to_string()))
    })?;
    drop(_forward);
    report.step("the controller is frozen; a new client process reaches the site", || {
        let pid =
            ready["controller_pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).context("its pid")?;
        crate::process::signal_process(pid, libc::SIGSTOP);
        client.terminate(START, interrupt)?;
        let started = Instant::now();
        let again = lab.fleet.client(&lab.net.client)?;
        let Fetched { body, .. } = lab.fetch("http://web.lab.internal/")?;
        let took = started.elapsed();
        crate::process::signal_process(pid, libc::SIGCONT);
        ensure!(fs::read_to_string(body)? == PAGE, "another page came");
        drop(again);
        Ok(Seen::new(()).with("start_to_page_ms", whole_ms(took)))
    })?;
    report.check("serve ends at once and leaves its port free", || {
        serve.signal(libc::SIGTERM);
        wait_until("the end of serve", Duration::from_secs(15), interrupt, || {
            Ok(serve.has_ended()?.then_some(()))
        })?;
        let listening = lab.net.server.run(Duration::from_secs(5), "ss", &["-Hltun"])?.stdout;
        ensure!(listening.trim().is_empty(), "still listening: {listening}");
        Ok(Seen::new(()))
    });
    Ok(())
}
