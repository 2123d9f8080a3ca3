//! `cargo xtask bench tunnel`: what a tunnel into a site carries, beside plain forwarding and other programs' tunnels in the
//! same run.
//!
//! ```text
//!   client 10.9.0.1 ──veth── gateway 10.9.0.2 / 10.8.N.1 ──veth── target 10.8.N.2
//! ```
//!
//! Each way has an address of the target for itself. The gateway is the connector's machine, or the other tunnels' end; all
//! but the connector in userspace forward by the kernel and masquerade. Ways take turns, so that what else the machine does
//! hits all of them; figures of one run compare with each other.

use super::{
    daemon::Daemon,
    fleet::Fleet,
    namespace::{Namespace, veth},
    require_root,
};
use crate::{
    process::{Interrupt, on_path, wait_until},
    repository,
    test::fresh_release_binary,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const START: Duration = Duration::from_secs(30);
const CLIENT: &str = "10.9.0.1";
const GATEWAY: &str = "10.9.0.2";
/// Kernel's clock ticks a second, as /proc counts (USER_HZ, 100 on every Linux that runs this).
const TICKS: f64 = 100.0;
/// Bytes of a datagram: one that every tunnel here carries whole.
const DATAGRAM: &str = "1200";
/// The heading of the figures in docs/performance.md.
const HEADING: &str = "## Tunnels into a site";

/// How to measure.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; the middle one is reported, with the least and the greatest.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// The veth between client and gateway cuts long datagrams, as a network card does, and does not pass them whole.
    #[arg(long)]
    segmented: bool,
    /// The gotatun command line program to measure beside; `--install-gotatun` makes one.
    #[arg(long, value_name = "FILE")]
    gotatun: Option<PathBuf>,
    /// Builds the gotatun command line program from crates.io first, below the target directory.
    #[arg(long)]
    install_gotatun: bool,
    /// Only ways whose name contains this, and what is measured for them.
    #[arg(long)]
    only: Option<String>,
    /// Writes the table into docs/performance.md.
    #[arg(long)]
    write: bool,
}

/// One way from the client to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Kernel,
    Userspace,
    WireguardGo,
    Gotatun,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain veth, forwarded and masqueraded",
            Self::Kernel => "Tidegate, kernel mode",
            Self::Userspace => "Tidegate, userspace mode",
            Self::WireguardGo => "wireguard-go (Debian)",
            Self::Gotatun => "gotatun CLI",
        }
    }

    /// Which of the target's addresses is its own.
    const fn number(self) -> u8 {
        match self {
            Self::Plain => 1,
            Self::Kernel => 2,
            Self::Userspace => 3,
            Self::WireguardGo => 4,
            Self::Gotatun => 5,
        }
    }

    fn target(self) -> String {
        format!("10.8.{}.2", self.number())
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Up,
    Down,
    Four,
    Udp,
}

const KINDS: [Kind; 4] = [Kind::Up, Kind::Down, Kind::Four, Kind::Udp];

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Up => "TCP to the site",
            Self::Down => "TCP from the site",
            Self::Four => "TCP to the site, 4 streams",
            Self::Udp => "UDP delivered",
        }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Up => &[],
            Self::Down => &["-R"],
            Self::Four => &["-P", "4"],
            Self::Udp => &["-u", "-b", "0", "-l", DATAGRAM],
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    gigabits: f64,
    /// Processor seconds of the tunnel's processes, and of the whole machine, for each gigabit that arrived.
    daemons: f64,
    machine: f64,
}

struct Bench {
    fleet: Fleet,
    client: Namespace,
    gateway: Namespace,
    _target: Namespace,
    daemons: Vec<(Way, Daemon)>,
    _others: Vec<Daemon>,
}

/// Measures.
///
/// # Errors
/// The machine cannot hold it, or a tunnel does not come up.
pub fn bench(options: &Options, interrupt: &Interrupt) -> Result<()> {
    require_root()?;
    let gotatun = match (&options.gotatun, options.install_gotatun) {
        (Some(path), _) => Some(path.clone()),
        (None, true) => Some(install_gotatun()?),
        (None, false) => Some(gotatun_place().join("bin/gotatun")).filter(|path| path.exists()),
    };
    let mut ways = vec![Way::Plain, Way::Kernel, Way::Userspace];
    if on_path("wireguard-go") && on_path("wg") {
        ways.push(Way::WireguardGo);
    } else {
        println!("without wireguard-go: apt-get install wireguard-go wireguard-tools");
    }
    if gotatun.is_some() && on_path("wg") {
        ways.push(Way::Gotatun);
    } else {
        println!("without the gotatun CLI: --install-gotatun builds one");
    }
    if let Some(only) = &options.only {
        ways.retain(|way| way.name().contains(only.as_str()));
    }
    let bench = Bench::start(&ways, gotatun.as_deref(), options.segmented, interrupt)?;
    let mut samples: Vec<((Way, Kind), Vec<Sample>)> = Vec::new();
    for round in 0..options.rounds {
        for kind in KINDS {
            for way in &ways {
                interrupt.check()?;
                let sample = bench.measure(*way, kind, options.seconds)?;
                println!(
                    "round {}  {:<28} {:<40} {:>7.3} Gbit/s  {:>6.2} CPU-s/Gbit of the tunnel  {:>6.2} of the machine",
                    round + 1,
                    kind.name(),
                    way.name(),
                    sample.gigabits,
                    sample.daemons,
                    sample.machine
                );
                match samples.iter_mut().find(|(of, _)| *of == (*way, kind)) {
                    Some((_, all)) => all.push(sample),
                    None => samples.push(((*way, kind), vec![sample])),
                }
            }
        }
    }
    let table = table(&ways, &samples, options);
    println!("{table}");
    if options.write {
        write(&table)?;
    }
    Ok(())
}

fn gotatun_place() -> PathBuf {
    crate::target_directory().join("gotatun-cli")
}

fn install_gotatun() -> Result<PathBuf> {
    let place = gotatun_place();
    let binary = place.join("bin/gotatun");
    if !binary.exists() {
        let status = Command::new(env!("CARGO"))
            .args(["install", "gotatun-cli", "--version", "0.10.2", "--locked", "--root"])
            .arg(&place)
            .status()?;
        ensure!(status.success(), "cargo install gotatun-cli: {status}");
        let built = fs::read_dir(place.join("bin"))?.filter_map(Result::ok).map(|entry| entry.path()).next();
        let built = built.context("cargo install made no program")?;
        if built != binary {
            fs::rename(built, &binary)?;
        }
    }
    Ok(binary)
}

impl Bench {
    fn start(ways: &[Way], gotatun: Option<&Path>, segmented: bool, interrupt: &Interrupt) -> Result<Self> {
        let client = Namespace::create("client", interrupt)?;
        let gateway = Namespace::create("gateway", interrupt)?;
        let target = Namespace::create("target", interrupt)?;
        veth((&client, "eth0"), (&gateway, "eth0"))?;
        client.address("eth0", CLIENT.parse()?)?;
        gateway.address("eth0", GATEWAY.parse()?)?;
        veth((&gateway, "site"), (&target, "eth0"))?;
        gateway.sysctl("net.ipv4.ip_forward=1")?;
        let mut masquerade = String::new();
        for number in 1..=5 {
            gateway.address("site", format!("10.8.{number}.1").parse()?)?;
            target.address("eth0", format!("10.8.{number}.2").parse()?)?;
        }
        // Tidegate in kernel mode brings its own table.
        for range in ["10.9.0.0/24", "10.7.0.0/16"] {
            let _ = writeln!(masquerade, "ip saddr {range} oifname \"site\" masquerade");
        }
        gateway.nft(&format!(
            "table ip bench {{ chain post {{ type nat hook postrouting priority 100; policy accept;\n{masquerade}}}\n}}\n"
        ))?;
        client.ip(&format!("route add {} via {GATEWAY}", Way::Plain.target()))?;
        if segmented {
            for host in [&client, &gateway] {
                for setting in [
                    &["-K", "eth0", "tx-udp-segmentation", "off", "tso", "off", "gso", "on"][..],
                    &["-K", "eth0", "gro", "on", "rx-udp-gro-forwarding", "on"],
                ] {
                    host.run(START, "ethtool", setting)?;
                }
            }
        }
        let fleet = Fleet::new(fresh_release_binary()?, interrupt)?;
        let mut others = Vec::new();
        for number in 1..=5 {
            let mut server = target.command("iperf3");
            server.args(["--server", "--bind", &format!("10.8.{number}.2")]);
            others.push(Daemon::start(server, Path::new("/dev/null"))?);
        }
        let mut bench =
            Self { fleet, client, gateway, _target: target, daemons: Vec::new(), _others: others };
        if ways.iter().any(|way| matches!(way, Way::Kernel | Way::Userspace)) {
            bench.tidegate(interrupt)?;
        }
        for way in ways {
            match way {
                Way::WireguardGo => bench.wireguard(*way, Path::new("wireguard-go"), interrupt)?,
                Way::Gotatun => bench.wireguard(*way, gotatun.context("no gotatun")?, interrupt)?,
                Way::Plain | Way::Kernel | Way::Userspace => {}
            }
        }
        Ok(bench)
    }

    /// A controller and a PoP at the gateway, a connector of each mode, a client in TUN mode.
    fn tidegate(&mut self, interrupt: &Interrupt) -> Result<()> {
        let Self { fleet, client, gateway, .. } = self;
        let state = |name: &str| fleet.state(name).display().to_string();
        let advertise = format!("{GATEWAY}:443");
        let arguments =
            ["serve", "--state", &state("serve"), "--listen", "0.0.0.0:443", "--advertise", &advertise];
        let mut serve = fleet.start(gateway, "serve", &arguments)?;
        fleet.ready(&mut serve, "serve")?;
        fleet.admin(gateway, &["create", "group", "--name", "staff"])?;
        fleet.admin(
            gateway,
            &["create", "user", "--name", "ann", "--email", "a@b.example", "--group", "staff"],
        )?;
        let mut policy = vec!["create", "policy", "--name", "all", "--group", "staff"];
        let modes = [(Way::Kernel, "kernel"), (Way::Userspace, "userspace")];
        for (way, mode) in modes {
            let number = way.number();
            let prefix = format!("10.8.{number}.0/24");
            fleet.admin(gateway, &["create", "site", "--name", mode, "--prefix", &prefix])?;
            let ports = "5201,udp/5201,icmp";
            let resource = ["create", "resource", "--site", mode, "--name", mode, "--address", &way.target()]
                .map(str::to_owned);
            let resource: Vec<&str> = resource.iter().map(String::as_str).chain(["--ports", ports]).collect();
            fleet.admin(gateway, &resource)?;
            policy.extend(["--resource", mode]);
        }
        fleet.admin(gateway, &policy)?;
        let mut connectors = Vec::new();
        for (way, mode) in modes {
            let key = fleet.key(gateway, &format!("{mode}.key"), &["--connector", "--site", mode])?;
            let state = state(mode);
            let arguments =
                ["connector", "--state", &state, "--name", mode, "--join-file", &key, "--mode", mode];
            let mut connector = fleet.start(gateway, mode, &arguments)?;
            fleet.ready(&mut connector, mode)?;
            connectors.push((way, connector));
        }
        let key = fleet.key(gateway, "client.key", &["--device", "--user", "ann"])?;
        let own = state("client");
        let mut login = fleet.tidegate(client, &["login", "--state", &own, "--key-file", &key]);
        crate::process::run(&mut login, START, interrupt)?.success("login")?;
        let mut up = fleet.start(client, "client", &["up", "--foreground", "--tun", "--state", &own])?;
        fleet.ready(&mut up, "client")?;
        for (way, _) in modes {
            let target = way.target();
            wait_until("an answer through the tunnel", START, interrupt, || {
                let said = client.attempt(START, "ping", &["-c", "1", "-W", "1", &target])?;
                Ok(said.status.success().then_some(()))
            })
            .with_context(|| up.last_words())?;
        }
        wait_until("direct paths", START, interrupt, || {
            let status = fleet.status()?;
            let resources = status["resources"].to_string();
            Ok((!resources.contains("\"relay\"") && resources.contains("direct")).then_some(()))
        })
        .with_context(|| format!("{}", fleet.status().unwrap_or_default()))?;
        self.daemons.extend(connectors);
        // Its processor time is both ways' at the client's end; they take turns.
        self.daemons.push((Way::Kernel, up));
        self._others.push(serve);
        Ok(())
    }

    /// Both ends of a WireGuard tunnel by a program that takes the usual control socket.
    fn wireguard(&mut self, way: Way, program: &Path, interrupt: &Interrupt) -> Result<()> {
        let number = way.number();
        let place = self.fleet.place().to_owned();
        let key = || -> Result<(String, String)> {
            let private = Command::new("wg").arg("genkey").output()?.stdout;
            let file = place.join("wg.key");
            fs::write(&file, &private)?;
            let public =
                Command::new("sh").arg("-c").arg(format!("wg pubkey < {}", file.display())).output()?;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
            Ok((text(private), text(public.stdout)))
        };
        let (ours, theirs) = (key()?, key()?);
        let ends = [
            (
                &self.client,
                "c",
                &ours.0,
                &theirs.1,
                format!("10.7.{number}.1"),
                format!("{}/32", way.target()),
            ),
            (
                &self.gateway,
                "g",
                &theirs.0,
                &ours.1,
                format!("10.7.{number}.2"),
                format!("10.7.{number}.1/32"),
            ),
        ];
        let mut daemons = Vec::new();
        for (host, letter, private, public, address, allowed) in ends {
            // The control socket is a file that all namespaces share.
            let interface = format!("bench{number}{letter}");
            let mut command = host.command(program);
            command.args(["--foreground", &interface]);
            command.env("LOG_LEVEL", "error").env("WG_PROCESS_FOREGROUND", "1");
            let daemon = Daemon::start(command, &place.join(format!("{interface}.log")))?;
            wait_until("the tunnel's interface", START, interrupt, || {
                let is_there = host.ip(&format!("link show {interface}")).is_ok();
                Ok((is_there && Path::new(&format!("/var/run/wireguard/{interface}.sock")).exists())
                    .then_some(()))
            })
            .with_context(|| daemon.last_words())?;
            let file = place.join(format!("{interface}.key"));
            fs::write(&file, format!("{private}\n"))?;
            let port = if letter == "c" { 51_000 } else { 52_000 } + u16::from(number);
            let peer = if letter == "c" { (GATEWAY, 52_000) } else { (CLIENT, 51_000) };
            let endpoint = format!("{}:{}", peer.0, peer.1 + u16::from(number));
            let (file, port) = (file.display().to_string(), port.to_string());
            host.run(
                START,
                "wg",
                &[
                    "set",
                    &interface,
                    "listen-port",
                    &port,
                    "private-key",
                    &file,
                    "peer",
                    public,
                    "allowed-ips",
                    &allowed,
                    "endpoint",
                    &endpoint,
                ],
            )?;
            host.ip(&format!("address add {address}/24 dev {interface}"))?;
            host.ip(&format!("link set {interface} mtu 1420 up"))?;
            if letter == "c" {
                host.ip(&format!("route add {} dev {interface}", way.target()))?;
            }
            daemons.push((way, daemon));
        }
        let target = way.target();
        wait_until("an answer through the tunnel", START, interrupt, || {
            let said = self.client.attempt(START, "ping", &["-c", "1", "-W", "1", &target])?;
            Ok(said.status.success().then_some(()))
        })
        .with_context(|| daemons.iter().map(|(_, daemon)| daemon.last_words()).collect::<String>())?;
        self.daemons.extend(daemons);
        Ok(())
    }

    /// Processor seconds of a way's processes, those that they started included.
    fn processor(&self, way: Way) -> f64 {
        let ours = |of: Way| of == way || (matches!(way, Way::Userspace | Way::Kernel) && of == Way::Kernel);
        self.daemons.iter().filter(|(of, _)| ours(*of)).map(|(_, daemon)| of_tree(daemon.pid())).sum()
    }

    fn measure(&self, way: Way, kind: Kind, seconds: u64) -> Result<Sample> {
        let before = (self.processor(way), machine()?);
        let (target, time) = (way.target(), seconds.to_string());
        let fixed = ["-c", &target, "-t", &time, "-J"];
        let deadline = Duration::from_secs(seconds + 30);
        let arguments = [&fixed[..], kind.arguments()].concat();
        // A server that has just served somebody may need a moment.
        let began = Instant::now();
        let said = loop {
            let said = self.client.attempt(deadline, "iperf3", &arguments)?;
            if said.status.success() || began.elapsed() > deadline {
                break said.success(way.name())?;
            }
        };
        let after = (self.processor(way), machine()?);
        let said: Value = serde_json::from_str(&said.stdout)?;
        let end = &said["end"];
        let gigabits = match kind {
            Kind::Udp => {
                let sent = end["sum"]["bits_per_second"].as_f64().context("a rate")?;
                let lost = end["sum"]["lost_percent"].as_f64().context("a loss")?;
                sent * (100.0 - lost) / 100.0 / 1e9
            }
            _ => end["sum_received"]["bits_per_second"].as_f64().context("a rate")? / 1e9,
        };
        #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
        let carried = (gigabits * seconds as f64).max(f64::MIN_POSITIVE);
        Ok(Sample {
            gigabits,
            daemons: (after.0 - before.0) / carried,
            machine: (after.1 - before.1) / carried,
        })
    }
}

/// Processor seconds of a process and of those that it started.
fn of_tree(pid: u32) -> f64 {
    let own = fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| {
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // Fields 14 and 15 of proc_pid_stat(5).
        Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
    });
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    own.unwrap_or_default() / TICKS + children.map(of_tree).sum::<f64>()
}

/// Processor seconds that the machine worked.
fn machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .context("the first line of /proc/stat")?
        .split_ascii_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // User, nice, system; then idle and waiting; then interrupts of both kinds.
    let worked = fields.iter().take(3).chain(fields.iter().skip(5).take(2)).sum::<f64>();
    Ok(worked / TICKS)
}

fn middle(values: impl Iterator<Item = f64>) -> (f64, f64, f64) {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or_default();
    (at(values.len() / 2), at(0), at(values.len().saturating_sub(1)))
}

fn table(ways: &[Way], samples: &[((Way, Kind), Vec<Sample>)], options: &Options) -> String {
    let of = |way: Way, kind: Kind| {
        samples.iter().find(|(of, _)| *of == (way, kind)).map(|(_, all)| all.as_slice()).unwrap_or_default()
    };
    let profile = if options.segmented { ", datagrams cut by the veth as by a network card" } else { "" };
    let mut text = format!(
        "{HEADING}\n\n`cargo xtask bench tunnel{}`: client, gateway and target in three namespaces on the same two cores, \
         iperf3 for {} s, {} rounds in turn{profile}. The middle, with the least and the greatest; Gbit/s that arrived, \
         and the processor seconds of the tunnel's processes at both ends (of the whole machine) for each gigabit. \
         Tidegate's interface has an MTU of 1,280, the others 1,420; all but userspace mode forward and masquerade by the \
         kernel.\n\n",
        if options.segmented { " --segmented" } else { "" },
        options.seconds,
        options.rounds,
    );
    for kind in KINDS {
        let _ = writeln!(
            text,
            "| {} | Gbit/s | beside gotatun | CPU-s a gigabit |\n| --- | --- | --- | --- |",
            kind.name()
        );
        let reference = middle(of(Way::Gotatun, kind).iter().map(|sample| sample.gigabits)).0;
        for way in ways {
            let all = of(*way, kind);
            let (rate, least, greatest) = middle(all.iter().map(|sample| sample.gigabits));
            let daemons = middle(all.iter().map(|sample| sample.daemons)).0;
            let machine = middle(all.iter().map(|sample| sample.machine)).0;
            let ratio =
                if reference > 0.0 { format!("{:.2} ×", rate / reference) } else { "–".to_owned() };
            let _ = writeln!(
                text,
                "| {} | {rate:.2} [{least:.2}–{greatest:.2}] | {ratio} | {daemons:.2} ({machine:.2}) |",
                way.name()
            );
        }
        text.push('\n');
    }
    text
}

/// Puts the table in the place of the one before.
fn write(table: &str) -> Result<()> {
    let file = repository().join("docs/performance.md");
    let text = fs::read_to_string(&file)?;
    let (before, rest) = match text.split_once(HEADING) {
        Some((before, rest)) => (before, rest.split_once("\n## ").map_or("", |(_, after)| after)),
        None => {
            let last = text.rfind("\n## ").context("a section in docs/performance.md")? + 1;
            let (before, rest) = text.split_at(last);
            (before, rest.strip_prefix("## ").unwrap_or(rest))
        }
    };
    fs::write(&file, format!("{before}{table}## {rest}"))?;
    println!("wrote {}", file.display());
    Ok(())
}
