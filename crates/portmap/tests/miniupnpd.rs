//! Against a real gateway: miniupnpd in a network namespace, with nftables, a host behind it and one outside.
//!
//! Needs root, `ip`, `nft` and miniupnpd (Debian: miniupnpd-nftables); without them it says so and passes,
//! unless `TIDEGATE_REQUIRE_MINIUPNPD=1`.
#![cfg(target_os = "linux")]
#![expect(clippy::disallowed_methods, reason = "deadlines of a test that watches real processes")]
#![expect(clippy::print_stdout, reason = "what was skipped, and what the host says to its parent")]
#![expect(clippy::unwrap_used, reason = "a failure here is the test's")]

use portmap::{Protocol, Protocols, Settings, shell::Family};
use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

const PORT: u16 = 40_123;
const EXTERNAL: &str = "5.6.7.1";
/// A search's slowest answer and a retried check, on a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(40);
/// What a line of the host begins with: the test harness prints lines of its own.
const MARK: &str = "portmap-host: ";

#[test]
fn pcp_maps_renews_after_a_reboot_and_deletes() {
    walk("pcp", Protocol::Pcp, "");
}

#[test]
fn nat_pmp_maps_renews_after_a_reboot_and_deletes() {
    walk("nat-pmp", Protocol::NatPmp, "");
}

#[test]
fn upnp_igd_2_maps_renews_after_a_reboot_and_deletes() {
    walk("upnp-igd", Protocol::Upnp, "");
}

#[test]
fn upnp_igd_1_maps_renews_after_a_reboot_and_deletes() {
    walk("upnp-igd", Protocol::Upnp, "force_igd_desc_v1=yes\n");
}

fn walk(word: &str, protocol: Protocol, more: &str) {
    let Some(lab) = Lab::open(&format!("{word}{}", more.len())) else { return };
    let mut daemon = lab.start_daemon(protocol, more);
    let mut host = lab.start_host(word);

    let told = host.wait("mapped ");
    assert_eq!(told, format!("mapped {EXTERNAL}:{PORT} {word} global"));
    lab.wait_for_rules("the mapping", |rules| rules.contains(&PORT.to_string()));
    lab.send_from_outside();
    let packet = host.wait("packet ");
    assert!(packet.starts_with("packet 5.6.7.2:"), "from outside, through the mapping: {packet}");

    // A reboot: no process, no rules. It lasts longer than the tolerance of RFC 6887, section 8.5 (2 s and a
    // sixteenth), so that an epoch that began again cannot be taken for one that went on.
    daemon.end();
    lab.router.nft(RULES);
    lab.wait_for_rules("no mapping", |rules| !rules.contains(&PORT.to_string()));
    let back = Instant::now() + Duration::from_secs(5);
    while Instant::now() < back {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut daemon = lab.start_daemon(protocol, more);
    lab.wait_for_rules("the mapping again", |rules| rules.contains(&PORT.to_string()));
    lab.send_from_outside();
    host.wait("packet ");

    host.ask_to_end();
    host.wait("closed");
    lab.wait_for_rules("the mapping deleted", |rules| !rules.contains(&PORT.to_string()));
    daemon.end();
}

/// The host behind the router: started by the tests above inside its namespace, not by hand.
#[test]
#[ignore = "runs inside a namespace that the other tests make"]
fn the_host_behind_the_router() {
    let Ok(word) = std::env::var("PORTMAP_TEST_PROTOCOL") else { return };
    let all = [Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp];
    let protocol = all.into_iter().find(|protocol| protocol.label() == word).expect("a protocol's word");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let receiver = tokio::net::UdpSocket::bind(("0.0.0.0", PORT)).await.unwrap();
        let settings = Settings {
            local_port: PORT,
            family: Family::Ipv4,
            protocols: Protocols::NONE.with(protocol),
            // PCP and NAT-PMP have to hear the reboot from the gateway's announcement; UPnP has none.
            check_every: (protocol == Protocol::Upnp).then(|| Duration::from_secs(3)),
            seed: [42; 32],
        };
        let mut map = portmap::run(settings, Arc::new(Notify::new()));
        let (end, mut ended) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = std::io::stdin().read(&mut [0]);
            let _ = end.send(());
        });
        let mut buffer = [0; 64];
        loop {
            tokio::select! {
                changed = map.mapping.changed() => {
                    changed.unwrap();
                    match *map.mapping.borrow_and_update() {
                        Some(mapping) => println!(
                            "{MARK}mapped {} {} {}", mapping.external, mapping.protocol.label(), mapping.reach.label()
                        ),
                        None => println!("{MARK}lost"),
                    }
                }
                received = receiver.recv_from(&mut buffer) => println!("{MARK}packet {}", received.unwrap().1),
                _ = &mut ended => break,
            }
        }
        map.shutdown().await;
        println!("{MARK}closed");
    });
}

const RULES: &str = "
table inet filter
delete table inet filter
table inet filter {
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

struct Lab {
    router: Namespace,
    host: Namespace,
    outside: Namespace,
    files: tempfile::TempDir,
}

impl Lab {
    fn open(name: &str) -> Option<Self> {
        if let Err(missing) = requirements() {
            let required = std::env::var("TIDEGATE_REQUIRE_MINIUPNPD").is_ok_and(|value| value == "1");
            assert!(!required, "TIDEGATE_REQUIRE_MINIUPNPD=1, but {missing}");
            println!("skipped: {missing}");
            return None;
        }
        let [router, host, outside] = ["router", "host", "outside"].map(|role| Namespace::create(name, role));
        let link = |left: (&Namespace, &str), right: (&Namespace, &str)| {
            let mut command = Command::new("ip");
            command.args(["link", "add", left.1, "netns", &left.0.name, "type", "veth"]);
            succeed(command.args(["peer", "name", right.1, "netns", &right.0.name]));
        };
        link((&router, "lan"), (&host, "eth0"));
        link((&router, "ext"), (&outside, "eth0"));
        for (namespace, device, address) in [
            (&router, "lan", "192.168.77.1/24"),
            (&host, "eth0", "192.168.77.20/24"),
            (&router, "ext", "5.6.7.1/24"),
            (&outside, "eth0", "5.6.7.2/24"),
        ] {
            namespace.ip(&format!("address add {address} dev {device}"));
            namespace.ip(&format!("link set {device} up"));
        }
        host.ip("route add default via 192.168.77.1");
        succeed(router.command("sysctl").args(["-q", "-w", "net.ipv4.ip_forward=1"]));
        router.nft(RULES);
        Some(Self { router, host, outside, files: tempfile::tempdir().unwrap() })
    }

    fn start_daemon(&self, protocol: Protocol, more: &str) -> Process {
        let upnp = if protocol == Protocol::Upnp { "yes" } else { "no" };
        let pmp = if protocol == Protocol::Upnp { "no" } else { "yes" };
        let configuration = self.files.path().join("miniupnpd.conf");
        let text = format!(
            "ext_ifname=ext\nlistening_ip=lan\nhttp_port=5000\nenable_upnp={upnp}\nenable_natpmp={pmp}\n\
             ipv6_disable=yes\nsecure_mode=yes\nuuid=68555350-3352-3883-2883-335030522880\nserial=1\n\
             model_number=1\nupnp_table_name=filter\nupnp_nat_table_name=filter\nupnp_forward_chain=miniupnpd\n\
             upnp_nat_chain=prerouting_miniupnpd\nupnp_nat_postrouting_chain=postrouting_miniupnpd\n{more}\
             allow 1024-65535 192.168.77.0/24 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535\n"
        );
        fs::write(&configuration, text).unwrap();
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.router.command("miniupnpd");
        command.arg("-d").arg("-f").arg(&configuration).arg("-P").arg(self.files.path().join("pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Process(command.spawn().unwrap())
    }

    fn start_host(&self, word: &str) -> Host {
        let mut command = self.host.command(std::env::current_exe().unwrap());
        command.args(["--exact", "the_host_behind_the_router", "--ignored", "--nocapture"]);
        command.env("PORTMAP_TEST_PROTOCOL", word).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // The harness writes "test name ... " without a line's end in front of the first.
                let Some((_, line)) = line.split_once(MARK) else { continue };
                if tell.send(line.to_owned()).is_err() {
                    return;
                }
            }
        });
        Host { process: Process(child), told, log: self.log() }
    }

    fn log(&self) -> std::path::PathBuf {
        self.files.path().join("log")
    }

    fn send_from_outside(&self) {
        let mut command = self.outside.command("bash");
        succeed(command.arg("-c").arg(format!("echo hello > /dev/udp/{EXTERNAL}/{PORT}")));
    }

    fn wait_for_rules(&self, what: &str, holds: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listed = succeed(self.router.command("nft").args([
                "list",
                "chain",
                "inet",
                "filter",
                "prerouting_miniupnpd",
            ]));
            let rules = String::from_utf8_lossy(&listed.stdout).into_owned();
            if holds(&rules) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: not within {PATIENCE:?}\n{rules}\n{}",
                read(&self.log())
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Host {
    process: Process,
    told: mpsc::Receiver<String>,
    log: std::path::PathBuf,
}

impl Host {
    fn wait(&mut self, beginning: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left) {
                Ok(line) if line.starts_with(beginning) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no {beginning:?} within {PATIENCE:?}; seen {seen:?}\n{}", read(&self.log)),
            }
        }
    }

    fn ask_to_end(&mut self) {
        drop(self.process.0.stdin.take());
    }
}

/// A process that ends with its owner.
struct Process(Child);

impl Process {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

struct Namespace {
    name: String,
}

impl Namespace {
    fn create(test: &str, role: &str) -> Self {
        let name = format!("tgportmap-{}-{test}-{role}", std::process::id());
        succeed(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// `ip netns exec` becomes the program: ending the child ends it.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    fn ip(&self, arguments: &str) {
        succeed(Command::new("ip").args(["-netns", &self.name]).args(arguments.split_whitespace()));
    }

    fn nft(&self, rules: &str) {
        succeed(self.command("nft").arg(rules));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn requirements() -> Result<(), String> {
    let asked = Command::new("id").arg("-u").output().map_err(|error| format!("id: {error}"))?;
    if asked.stdout.trim_ascii() != b"0" {
        return Err("only root can make network namespaces".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in ["ip", "nft", "sysctl", "bash", "miniupnpd"] {
        if !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
            return Err(format!(
                "{program} is not installed (Debian: iproute2, nftables, procps, miniupnpd-nftables)"
            ));
        }
    }
    Ok(())
}
