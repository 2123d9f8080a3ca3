//! `cargo xtask lab whole-network`: a client in TUN mode at home, a site of real servers, and programs that nobody here
//! wrote, which know names and nothing of Tidegate; with connectors in userspace mode, and in kernel mode. And what is left of
//! it on the client's machine and on the connectors': nothing.

mod branch;
mod leftovers;
mod machine;
mod site;

use super::{
    daemon::Daemon,
    fleet::Fleet,
    namespace::Namespace,
    report::{Form, Outcome, Report, Seen, whole_ms},
    router::Nat,
    services::{self, Database, PAGE, WebServer},
    topology::{self, Topology},
};
use crate::{
    process::{Interrupt, run as run_program, wait_until},
    python,
    test::{fresh_release_binary, release_binary},
};
use anyhow::{Context as _, Result, ensure};
use branch::Branch;
use machine::Snapshot;
use serde_json::Value;
use site::{FILE, Resolver, Servers};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

const START: Duration = Duration::from_secs(30);
/// The site's host with the other servers.
const SERVERS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 30);
/// The site's second connector.
const SECOND: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 6);
/// The resolver of the client's own network: a stranger on the internet.
const PUBLIC_RESOLVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);
/// What it says of `www.public.example`.
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 99);
/// Figure to reach: a guardian has put everything back within this.
const RESTORED: Duration = Duration::from_secs(2);
/// Figure to reach: from a connector's death to an answer by the other.
const FAILOVER: Duration = Duration::from_secs(5);
/// Questions for the figures of the resolver.
const QUESTIONS: usize = 200;

/// How to run it.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// The connectors' mode; both, one after the other, if it is not said.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
}

/// How the connectors carry flows into the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    Userspace,
    Kernel,
}

impl Mode {
    const fn word(self) -> &'static str {
        match self {
            Self::Userspace => "userspace",
            Self::Kernel => "kernel",
        }
    }
}

struct Lab {
    fleet: Fleet,
    net: Topology,
    resolver: Namespace,
    servers: Namespace,
    /// Where the site's second connector runs.
    second: Namespace,
    /// Another site, whose range is the same.
    branch: Branch,
    interrupt: Interrupt,
}

impl Lab {
    fn create(interrupt: &Interrupt) -> Result<Self> {
        let mut net = Topology::create(Nat::Home, Nat::Home, interrupt)?;
        let resolver = net.public_host("dns", PUBLIC_RESOLVER, interrupt)?;
        let servers = net.site_router.host("srv", SERVERS, interrupt)?;
        let second = net.site_router.host("conn2", SECOND, interrupt)?;
        // The connectors ask the site's resolver and know no name by themselves.
        for connector in [&net.connector, &second] {
            connector.hosts("")?;
            connector.etc_file("resolv.conf", &format!("nameserver {SERVERS}\n"))?;
        }
        net.client.etc_file(
            "resolv.conf",
            &format!("# of the network at home\nsearch home.example\nnameserver {PUBLIC_RESOLVER}\n"),
        )?;
        let branch = Branch::create(&mut net, interrupt)?;
        let fleet = Fleet::new(fresh_release_binary()?, interrupt)?;
        Ok(Self { fleet, net, resolver, servers, second, branch, interrupt: interrupt.clone() })
    }

    fn admin(&self, arguments: &[&str]) -> Result<Value> {
        self.fleet.admin(&self.net.server, arguments)
    }

    fn resource(&self, name: &str, address: &str, ports: &str) -> Result<()> {
        self.admin(&[
            "create",
            "resource",
            "--site",
            "lab",
            "--name",
            name,
            "--address",
            address,
            "--ports",
            ports,
        ])?;
        Ok(())
    }

    /// A program on the client's machine, which knows nothing of Tidegate.
    fn client(&self, seconds: u64, program: &str, arguments: &[&str]) -> Result<String> {
        Ok(self.net.client.run(Duration::from_secs(seconds), program, arguments)?.stdout)
    }

    fn dig(&self, arguments: &[&str]) -> Result<String> {
        let fixed = ["+time=3", "+tries=1", "+noall", "+answer", "+comments"];
        self.client(10, "dig", &[&fixed[..], arguments].concat())
    }

    /// The records that dig prints of a name, without their names and times.
    fn answers(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let said = self.client(10, "dig", &[&["+time=3", "+tries=1", "+short"][..], arguments].concat())?;
        Ok(said.lines().map(str::to_owned).collect())
    }

    fn up(&self) -> Result<Daemon> {
        let state = self.fleet.state("client").display().to_string();
        let mut client = self.fleet.start(
            &self.net.client,
            "client",
            &["up", "--foreground", "--tun", "--state", &state],
        )?;
        self.fleet.ready(&mut client, "client")?;
        wait_until("TUN mode", START, &self.interrupt, || {
            Ok((self.fleet.status()?["tun"]["state"] == "on").then_some(()))
        })
        .with_context(|| client.last_words())?;
        Ok(client)
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.net.client)
    }

    /// How long it takes until everything is as it was.
    fn restored(&self, before: &Snapshot) -> Result<Duration> {
        restored(&self.net.client, before, &self.interrupt)
    }
}

/// How long it takes until everything of a machine is as it was.
fn restored(host: &Namespace, before: &Snapshot, interrupt: &Interrupt) -> Result<Duration> {
    let began = Instant::now();
    let mut differs = String::new();
    let found = wait_until("the machine as it was", Duration::from_secs(10), interrupt, || {
        let now = Snapshot::take(host)?;
        differs = before.differences(&now);
        Ok(differs.is_empty().then(|| began.elapsed()))
    });
    found.with_context(|| differs)
}

/// The process that does a guardian's work, without privileges.
fn worker(guardian: &Daemon) -> Result<u32> {
    let file = format!("/proc/{0}/task/{0}/children", guardian.pid());
    let children = fs::read_to_string(&file).with_context(|| file.clone())?;
    children.split_whitespace().next().and_then(|pid| pid.parse().ok()).context("the guardian's worker")
}

/// Runs the lab.
///
/// # Errors
/// The machine cannot hold it. Failed steps are counted in the outcome.
pub fn run(options: &Options, form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let mut report = Report::new(form);
    let modes = options.mode.map_or(vec![Mode::Userspace, Mode::Kernel], |mode| vec![mode]);
    let ended = steps(&mut report, &modes, interrupt);
    report.ended(ended);
    Ok(report.finish())
}

fn steps(report: &mut Report, modes: &[Mode], interrupt: &Interrupt) -> Result<()> {
    let lab = report.step("two home routers, a site, a resolver on the internet", || {
        Ok(Seen::new(Lab::create(interrupt)?))
    })?;
    let place = lab.fleet.place().to_owned();
    let web = report.step("nginx answers inside the site", || {
        Ok(Seen::new(WebServer::start(&lab.net.web, &place.join("web"), services::SMALL, interrupt)?))
    })?;
    let _database = report.step("PostgreSQL answers inside the site", || {
        let directory = place.join("database");
        Ok(Seen::new(Database::start(&lab.net.database, topology::DATABASE, &directory, interrupt)?))
    })?;
    let (site_names, public_names) = report.step("the site's resolver, and a stranger's on the internet", || {
        let records = format!(
            "address=/web.lab.internal/{}\naddress=/db.lab.internal/{}\naddress=/srv.lab.internal/{SERVERS}\n\
             address=/apps.lab.internal/{}\naddress=/rebound.lab.internal/169.254.169.254\n\
             address=/outside.lab.internal/{}\naddress=/ready.test/{SERVERS}",
            topology::WEB,
            topology::DATABASE,
            topology::WEB,
            topology::SERVER,
        );
        let site = Resolver::start(&lab.servers, SERVERS, &place.join("site-names"), &records, interrupt)?;
        let records = format!("address=/www.public.example/{PUBLIC}\naddress=/ready.test/{PUBLIC}");
        let directory = place.join("public-names");
        let public = Resolver::start(&lab.resolver, PUBLIC_RESOLVER, &directory, &records, interrupt)?;
        Ok(Seen::new((site, public)))
    })?;
    let servers =
        report.step("OpenSSH, Samba, iperf3 and an HTTP/3 server answer inside the site", || {
            let directory = place.join("servers");
            Ok(Seen::new(Servers::start(&lab.servers, SERVERS, "srv.lab.internal", &directory, interrupt)?))
        })?;
    let branch_web = report.step("nginx answers inside another site, whose range is the same", || {
        Ok(Seen::new(lab.branch.web(&place.join("branch-web"), interrupt)?))
    })?;
    let _serve = report.step("an installation with two sites and resources of every kind", || {
        Ok(Seen::new(install(&lab)?))
    })?;
    let before = lab.snapshot()?;
    let connectors_before = [Snapshot::take(&lab.net.connector)?, Snapshot::take(&lab.second)?];
    let client = report.step("tidegate up --tun", || {
        let began = Instant::now();
        let client = lab.up()?;
        let status = lab.fleet.status()?;
        let conflicts = status["tun"]["conflicts"].as_array().map_or(0, Vec::len);
        ensure!(conflicts == 0, "conflicts: {}", status["tun"]["conflicts"]);
        let privileges = status["tun"]["privileges"].clone();
        Ok(Seen::new(client).with("ms", whole_ms(began.elapsed())).with("privileges", privileges))
    })?;
    names(report, &lab, &public_names);
    for mode in modes {
        report.about(&format!("{} mode", mode.word()));
        let connectors = report.step("the sites' connectors", || Connectors::start(&lab, *mode))?;
        programs(report, &lab, &web, &servers, interrupt);
        branch::checks(report, &lab, &web, &branch_web);
        refusals(report, &lab, &site_names);
        failover(report, &lab, &web, &connectors);
        report.step("after the connectors' end, their machines are byte by byte as before", || {
            connectors.end(&lab)?;
            let hosts = [&lab.net.connector, &lab.second];
            let took =
                hosts.iter().zip(&connectors_before).map(|(host, before)| restored(host, before, interrupt));
            let took: Vec<Duration> = took.collect::<Result<_>>()?;
            Ok(Seen::new(()).with("ms", whole_ms(took.iter().sum())))
        })?;
    }
    if modes.contains(&Mode::Kernel) {
        leftovers::checks(report, &lab, &connectors_before[1], interrupt);
    }
    report.about("");
    let robots = report.step("a connector for what follows", || Connectors::start(&lab, Mode::Userspace))?;
    report.check("the stranger's resolver was asked for no private name, of any type", || {
        let leaked = public_names.questions("lab.internal");
        ensure!(leaked.is_empty(), "leaked: {}", leaked.join("; "));
        ensure!(!public_names.questions("www.public.example").is_empty(), "it was asked for nothing at all");
        Ok(Seen::new(()))
    });
    report.step("after its end, routes, rules, addresses and resolver are byte by byte as before", || {
        client.terminate(START, interrupt)?;
        Ok(Seen::new(()).with("ms", whole_ms(lab.restored(&before)?)))
    })?;
    report.check(
        "a service account's tidegate run -- curl, without an interface and without privileges",
        || {
            lab.admin(&["create", "service-account", "--name", "robot", "--group", "ops"])?;
            let key =
                lab.fleet.key(&lab.net.server, "robot.key", &["--device", "--service-account", "robot"])?;
            let state = lab.fleet.place().join("robot");
            let owner = ["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs"];
            fs::create_dir(&state)?;
            for path in [&state.display().to_string(), &key] {
                lab.client(5, "chown", &["nobody", path])?;
            }
            let binary = release_binary().display().to_string();
            let state = state.display().to_string();
            let run =
                ["run", "--state", &state, "--key-file", &key, "--", "curl", "-sS", "--fail", "-m", "20"];
            for url in ["http://web.lab.internal/", "http://shop.apps.lab.internal/"] {
                let page = lab.client(40, "setpriv", &[&owner[..], &[&binary], &run, &[url]].concat())?;
                ensure!(page == PAGE, "another page came");
            }
            ensure!(lab.restored(&before)? < RESTORED, "the machine is not as it was");
            Ok(Seen::new(()))
        },
    );
    drop(robots);
    let guardian = report.step("its worker is killed with SIGKILL: as before within 2 s", || {
        let guardian = lab.up()?;
        crate::process::signal_process(worker(&guardian)?, libc::SIGKILL);
        let took = lab.restored(&before)?;
        ensure!(took <= RESTORED, "it took {} ms", took.as_millis());
        Ok(Seen::new(guardian).with("ms", whole_ms(took)))
    })?;
    drop(guardian);
    report.check("worker and guardian are killed: as before after tidegate cleanup", || {
        let guardian = lab.up()?;
        let worker = worker(&guardian)?;
        for pid in [guardian.pid(), worker] {
            crate::process::signal_process(pid, libc::SIGKILL);
        }
        let mut cleanup = lab.fleet.tidegate(&lab.net.client, &["cleanup"]);
        wait_until("the end of both", START, interrupt, || {
            Ok((!std::path::Path::new(&format!("/proc/{worker}")).exists()).then_some(()))
        })?;
        run_program(&mut cleanup, START, interrupt)?.success("cleanup")?;
        Ok(Seen::new(()).with("ms", whole_ms(lab.restored(&before)?)))
    });
    Ok(())
}

/// Starts a connector, and enrols it the first time.
fn connector(lab: &Lab, host: &Namespace, site: &str, name: &str, mode: Mode) -> Result<Daemon> {
    let key = format!("{name}.key");
    let state = lab.fleet.state(name);
    let key = if state.exists() {
        lab.fleet.place().join(key).display().to_string()
    } else {
        lab.fleet.key(&lab.net.server, &key, &["--connector", "--site", site])?
    };
    let state = state.display().to_string();
    // Journals of one file system, for namespaces that are machines of their own.
    let interface = format!("tidesite-{name}");
    let interface = &interface[..interface.len().min(15)];
    let arguments = [
        "connector",
        "--state",
        &state,
        "--name",
        name,
        "--join-file",
        &key,
        "--mode",
        mode.word(),
        "--interface",
        interface,
    ];
    let mut connector = lab.fleet.start(host, name, &arguments)?;
    lab.fleet.ready(&mut connector, name)?;
    Ok(connector)
}

/// The sites' connectors, running.
struct Connectors {
    mode: Mode,
    /// The site's, by the address that servers see.
    of_site: [(Ipv4Addr, Daemon); 2],
    of_branch: Daemon,
}

impl Connectors {
    fn start(lab: &Lab, mode: Mode) -> Result<Seen<Self>> {
        let began = Instant::now();
        let of_site = [
            (topology::CONNECTOR, connector(lab, &lab.net.connector, "lab", "one", mode)?),
            (SECOND, connector(lab, &lab.second, "lab", "two", mode)?),
        ];
        let of_branch = connector(lab, &lab.branch.connector, "branch", "three", mode)?;
        wait_until("the connectors at the PoP", START, &lab.interrupt, || {
            let connectors = lab.admin(&["list", "connectors"])?;
            let items = connectors["items"].as_array().context("connectors")?;
            Ok(items.iter().all(|item| item["live"]["attached"] == true).then_some(()))
        })?;
        // A client that runs finds them again by itself.
        wait_until("a page by each site", START, &lab.interrupt, || {
            let fetch = |name: &str| {
                let url = format!("http://{name}/");
                lab.client(10, "curl", &["--disable", "-sS", "--fail", "-m", "5", &url]).is_ok()
            };
            // Where none runs, nobody answers; one that does asks for news of its sites before it answers.
            let is_up = lab.fleet.status().is_ok();
            Ok((!is_up || (fetch("web.lab.internal") && fetch("web.branch.internal"))).then_some(()))
        })?;
        let seen = Seen::new(Self { mode, of_site, of_branch });
        Ok(seen.with("ms", whole_ms(began.elapsed())))
    }

    /// The process that carries a connector's packets.
    fn worker(&self, number: usize) -> Result<u32> {
        let (_, daemon) = &self.of_site[number];
        match self.mode {
            Mode::Userspace => Ok(daemon.pid()),
            Mode::Kernel => worker(daemon),
        }
    }

    /// Ends them as a service manager does; those that were killed have ended.
    fn end(self, lab: &Lab) -> Result<()> {
        let [(_, one), (_, two)] = self.of_site;
        for mut daemon in [one, two, self.of_branch] {
            if !daemon.has_ended()? {
                daemon.terminate(START, &lab.interrupt)?;
            }
        }
        Ok(())
    }
}

fn install(lab: &Lab) -> Result<Daemon> {
    let state = lab.fleet.state("serve").display().to_string();
    let advertise = format!("{}:443", topology::SERVER);
    let arguments = ["serve", "--state", &state, "--listen", "0.0.0.0:443", "--advertise", &advertise];
    let mut serve = lab.fleet.start(&lab.net.server, "serve", &arguments)?;
    lab.fleet.ready(&mut serve, "serve")?;
    lab.admin(&["create", "site", "--name", "lab", "--prefix", "10.0.2.0/24"])?;
    lab.admin(&["create", "site", "--name", "branch", "--prefix", "10.0.2.0/24"])?;
    lab.resource("web", "web.lab.internal", "80,icmp")?;
    lab.resource("db", "db.lab.internal", "5432")?;
    lab.resource("servers", "srv.lab.internal", "22,445,5201,udp/443,udp/5201,icmp")?;
    lab.resource("apps", "*.apps.lab.internal", "80")?;
    lab.resource("rebound", "rebound.lab.internal", "80")?;
    lab.resource("outside", "outside.lab.internal", "443")?;
    lab.resource("lan", "10.0.2.0/24", "80,icmp")?;
    let branch = [
        "--site",
        "branch",
        "--name",
        "branch-web",
        "--address",
        "web.branch.internal",
        "--ports",
        "80,icmp",
    ];
    lab.admin(&[&["create", "resource"][..], &branch].concat())?;
    lab.admin(&["create", "group", "--name", "ops"])?;
    lab.admin(&["create", "user", "--name", "alice", "--email", "alice@lab.example", "--group", "ops"])?;
    let mut policy = vec!["create", "policy", "--name", "ops reach the lab", "--group", "ops"];
    for resource in ["web", "db", "servers", "apps", "rebound", "outside", "lan", "branch-web"] {
        policy.extend(["--resource", resource]);
    }
    lab.admin(&policy)?;
    let key = lab.fleet.key(&lab.net.server, "client.key", &["--device", "--user", "alice"])?;
    let state = lab.fleet.state("client").display().to_string();
    let mut login = lab.fleet.tidegate(&lab.net.client, &["login", "--state", &state, "--key-file", &key]);
    run_program(&mut login, START, &lab.interrupt)?.success("login")?;
    Ok(serve)
}

/// The connectors as servers see them.
const CONNECTORS: [Ipv4Addr; 2] = [topology::CONNECTOR, SECOND];

fn is_a_connector(said: &str) -> bool {
    CONNECTORS.iter().any(|address| said.starts_with(&address.to_string()))
}

/// What dig sees.
fn names(report: &mut Report, lab: &Lab, public_names: &Resolver) {
    report.check("dig: A, AAAA and PTR of a private name, over UDP and TCP, in any capitals", || {
        let v4 = lab.answers(&["web.lab.internal", "A"])?;
        let v6 = lab.answers(&["web.lab.internal", "AAAA"])?;
        ensure!(v4.len() == 1 && v6.len() == 1, "{v4:?} {v6:?}");
        ensure!(lab.answers(&["+tcp", "WEB.lab.Internal", "A"])? == v4, "over TCP another answer");
        ensure!(lab.answers(&["-x", &v4[0]])? == ["web.lab.internal."], "the address leads back to no name");
        ensure!(lab.answers(&["anything.apps.lab.internal", "A"])?.len() == 1, "below the wildcard");
        ensure!(
            lab.answers(&["_http._tcp.web.lab.internal", "SRV"])?.is_empty(),
            "a service of a private name"
        );
        ensure!(
            lab.answers(&["web.lab.internal", "MX"])?.is_empty(),
            "a record of a type that it has none of"
        );
        Ok(Seen::new(()).with("a", v4[0].clone()).with("aaaa", v6[0].clone()))
    });
    report.check("dig: a public name, and one that nobody has, as the stranger's resolver says it", || {
        ensure!(lab.answers(&["www.public.example", "A"])? == [PUBLIC.to_string()], "another address");
        let direct = lab.dig(&[&format!("@{PUBLIC_RESOLVER}"), "nobody.example"])?;
        let ours = lab.dig(&["nobody.example"])?;
        let status = |said: &str| {
            said.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_owned)
        };
        ensure!(status(&direct) == status(&ours), "{:?}, and by us {:?}", status(&direct), status(&ours));
        ensure!(!public_names.questions("nobody.example").is_empty(), "it was not asked");
        Ok(Seen::new(()))
    });
    report.check(
        "figures of the resolver: a private name p99 ≤ 2 ms; a public one ≤ 0.2 ms more",
        || {
            let ours =
                lab.fleet.status()?["tun"]["dns"]["address"].as_str().context("its address")?.to_owned();
            let ours: std::net::SocketAddr = ours.parse()?;
            let own = machine::ask_often(&lab.net.client, ours.ip(), "web.lab.internal", QUESTIONS)?;
            let through = machine::ask_often(&lab.net.client, ours.ip(), "www.public.example", QUESTIONS)?;
            let direct = machine::ask_often(
                &lab.net.client,
                IpAddr::V4(PUBLIC_RESOLVER),
                "www.public.example",
                QUESTIONS,
            )?;
            let micros = |of: &[Duration], per_cent: usize| of[(of.len() - 1) * per_cent / 100].as_micros();
            let added = micros(&through, 50).saturating_sub(micros(&direct, 50));
            ensure!(micros(&own, 99) <= 2_000, "p99 of a private name is {} µs", micros(&own, 99));
            ensure!(added <= 200, "{added} µs more for a public name");
            let seen = Seen::new(()).with("private_p50_us", u64::try_from(micros(&own, 50))?);
            Ok(seen
                .with("private_p99_us", u64::try_from(micros(&own, 99))?)
                .with("public_added_p50_us", u64::try_from(added)?))
        },
    );
}

/// Programs that know names and nothing else.
fn programs(report: &mut Report, lab: &Lab, web: &WebServer, servers: &Servers, interrupt: &Interrupt) {
    let out = lab.fleet.place().join("brought").display().to_string();
    let same = |from: &std::path::Path| -> Result<()> {
        let brought = services::sha256(std::path::Path::new(&out), interrupt)?;
        ensure!(brought == services::sha256(from, interrupt)?, "the hash differs");
        fs::remove_file(&out)?;
        Ok(())
    };
    report.check("curl, by a name, by a name below the wildcard and by an address of the range", || {
        let mut first = Duration::ZERO;
        for url in ["http://web.lab.internal/", "http://shop.apps.lab.internal/", "http://10.0.2.10/"] {
            let began = Instant::now();
            let page = lab.client(20, "curl", &["--disable", "-sS", "--fail", "-m", "15", url])?;
            ensure!(page == PAGE, "{url}: another page came");
            first = first.max(began.elapsed());
        }
        let seen: usize = CONNECTORS.map(|address| web.requests_from(address)).iter().sum();
        ensure!(seen >= 3, "nginx did not see the connector");
        Ok(Seen::new(()).with("longest_ms", whole_ms(first)))
    });
    report.check("psql, by a name", || {
        let address = lab.answers(&["db.lab.internal", "A"])?;
        let address = address.first().context("its address")?.parse()?;
        let answer = services::query(&lab.net.client, address, 5432, "select inet_client_addr()")?;
        ensure!(is_a_connector(&answer), "PostgreSQL sees {answer}");
        let by_name = "host=db.lab.internal user=lab dbname=postgres connect_timeout=10 sslmode=disable";
        let password = format!("PGPASSWORD={}", services::DATABASE_PASSWORD);
        let said =
            lab.client(20, "env", &[&password, "psql", "-XtA", "-d", by_name, "-c", "select 6 * 7"])?;
        ensure!(said.trim() == "42", "psql said {said:?}");
        Ok(Seen::new(()))
    });
    report.check("ping, by a name, by an address, IPv4 and IPv6, and in pieces", || {
        let mut lost = 0;
        for words in [
            &["-4", "web.lab.internal"][..],
            &["-6", "web.lab.internal"],
            &["10.0.2.10"],
            &["-s", "3000", "10.0.2.10"],
        ] {
            let said = lab.client(20, "ping", &[&["-c", "5", "-i", "0.2", "-W", "2"][..], words].concat())?;
            lost += usize::from(!said.contains(" 0% packet loss"));
        }
        ensure!(lost == 0, "packets were lost");
        Ok(Seen::new(()))
    });
    report.check("ssh and scp of 5 MB, equal by SHA-256", || {
        let (key, known) = servers.ssh_keys();
        let (key, known) = (key.display().to_string(), format!("UserKnownHostsFile={}", known.display()));
        let options =
            ["-F", "none", "-i", &key, "-o", &known, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"];
        let said = lab.client(
            30,
            "ssh",
            &[&options[..], &["root@srv.lab.internal", "echo", "$SSH_CONNECTION"]].concat(),
        )?;
        ensure!(is_a_connector(&said), "sshd sees {said:?}");
        let from = format!("root@srv.lab.internal:{}", servers.file().display());
        lab.client(60, "scp", &[&options[..], &["-q", &from, &out]].concat())?;
        same(&servers.file())?;
        Ok(Seen::new(()).with("bytes", FILE))
    });
    report.check("smbclient gets 5 MB from Samba, equal by SHA-256", || {
        let get = format!("get file {out}");
        let share =
            ["//srv.lab.internal/share", "--no-pass", "--port=445", "--option=client min protocol=SMB3"];
        lab.client(60, "smbclient", &[&share[..], &["--command", &get]].concat())?;
        same(&servers.file())?;
        Ok(Seen::new(()))
    });
    report.check("an HTTP/3 client, with the server's own certificate", || {
        let python = python::environment("http3", interrupt)?.display().to_string();
        let fetch = crate::repository().join("tests/http3/fetch.py").display().to_string();
        let certificate = servers.certificate().display().to_string();
        let port = site::HTTP3.to_string();
        lab.client(30, &python, &[&fetch, "srv.lab.internal", &port, &certificate, &out])?;
        same(&servers.page())?;
        Ok(Seen::new(()))
    });
    report.check("iperf3: 20 Mbit/s of UDP for three seconds", || {
        let arguments = ["-c", "srv.lab.internal", "-u", "-b", "20M", "-l", "1000", "-t", "3", "-J"];
        let said: Value = serde_json::from_str(&lab.client(40, "iperf3", &arguments)?)?;
        let sum = &said["end"]["sum"];
        let lost = sum["lost_percent"].as_f64().context("its loss")?;
        ensure!(lost <= 1.0, "{lost} % were lost");
        Ok(Seen::new(()).with("lost_per_cent", lost).with("jitter_ms", sum["jitter_ms"].clone()))
    });
}

/// What must not work, and says so.
fn refusals(report: &mut Report, lab: &Lab, site_names: &Resolver) {
    report.check("a port without a policy is refused at once, not after a time-out", || {
        let began = Instant::now();
        let said = lab.net.client.attempt(
            Duration::from_secs(20),
            "curl",
            &["--disable", "-sS", "-m", "15", "http://web.lab.internal:81/"],
        )?;
        ensure!(!said.status.success(), "it was allowed");
        ensure!(began.elapsed() < Duration::from_secs(2), "it took {} ms", began.elapsed().as_millis());
        Ok(Seen::new(()).with("ms", whole_ms(began.elapsed())))
    });
    report.check(
        "names that the site leads to its metadata service, or out of its range, are refused",
        || {
            for (url, name) in
                [("http://rebound.lab.internal/", "rebound"), ("https://outside.lab.internal/", "outside")]
            {
                let said = lab.net.client.attempt(
                    Duration::from_secs(20),
                    "curl",
                    &["--disable", "-ksS", "-m", "10", url],
                )?;
                ensure!(!said.status.success(), "{url} was reached");
                ensure!(!site_names.questions(name).is_empty(), "the site was not asked for {name}");
            }
            Ok(Seen::new(()))
        },
    );
}

/// The connector in use goes, in two ways.
fn failover(report: &mut Report, lab: &Lab, web: &WebServer, connectors: &Connectors) {
    let fetch = |seconds: u64| {
        lab.client(
            seconds + 5,
            "curl",
            &["--disable", "-sS", "--fail", "-m", &seconds.to_string(), "http://web.lab.internal/"],
        )
    };
    for (what, signal) in [("stopped with SIGSTOP", libc::SIGSTOP), ("killed with SIGKILL", libc::SIGKILL)] {
        report.check(
            &format!("the connector in use is {what}: the next connection goes by the other within 5 s"),
            || {
                let before = CONNECTORS.map(|address| web.requests_from(address));
                fetch(15)?;
                let after = CONNECTORS.map(|address| web.requests_from(address));
                let used = usize::from(after[1] > before[1]);
                let worker = connectors.worker(used)?;
                crate::process::signal_process(worker, signal);
                let began = Instant::now();
                let page = fetch(40);
                let took = began.elapsed();
                let began = Instant::now();
                let next = fetch(40);
                let next_took = began.elapsed();
                crate::process::signal_process(worker, libc::SIGCONT);
                ensure!(page? == PAGE && next? == PAGE, "another page came");
                let now = CONNECTORS.map(|address| web.requests_from(address));
                ensure!(now[1 - used] >= after[1 - used] + 2, "the other connector was not used");
                ensure!(
                    took <= FAILOVER,
                    "it took {} ms, the next {} ms",
                    took.as_millis(),
                    next_took.as_millis()
                );
                Ok(Seen::new(()).with("ms", whole_ms(took)).with("the_next_ms", whole_ms(next_took)))
            },
        );
    }
}
