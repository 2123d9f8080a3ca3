//! One small installation, as its owner has it: `serve` on a host, a connector and a few devices behind home
//! routers, each role on a disk of its own. Enrolled once; every column breaks it and gives it back.

use super::{
    super::{
        daemon::Daemon,
        fleet::Fleet,
        report::{Report, Seen},
        router::Nat,
        services::{PAGE, WebServer},
        topology::{self, Topology},
    },
    disk::Disk,
    flow::{self, Flow},
    table::Installation,
    zones::{BEHIND, Zones},
};
use crate::process::{Finished, Interrupt, run, signal_process, wait_until};
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Until a device that just started goes straight.
const DIRECT: Duration = Duration::from_secs(30);
/// Starts of roles, and whatever is not under test.
pub const START: Duration = Duration::from_secs(30);
/// A page of the private web server.
pub const WEB: &str = "http://web.lab.internal/";
/// The same server, by another resource: closed in isolation.
pub const STRICT: &str = "http://strict.lab.internal/";
/// The same server, by a resource that a policy can lose.
pub const EXTRA: &str = "http://extra.lab.internal/";
/// What never ends.
const TICKS: &str = "http://web.lab.internal:81/";
/// So long the host is watched, in which one flow brings 40 kB, and what sessions need is far less.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_BYTES: u64 = 12_000;
/// Grants are renewed after this ± 25 %.
const RENEW_AFTER_S: u64 = 5;
/// Numbers of the client's addresses: the first ones are the topology's.
const FIRST_NUMBER: u8 = 40;
const LAST_NUMBER: u8 = 240;

/// A machine with a clock and a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Machine {
    /// Where `serve` runs.
    Host,
    /// Where the devices' clients run.
    Client,
    /// Where the connector runs.
    Connector,
    /// Where A's second connector runs.
    Connector2,
    /// Where A's PoPs run.
    Pop1,
    /// See [`Machine::Pop1`].
    Pop2,
}

impl Machine {
    const fn of(installation: Installation) -> &'static [Self] {
        const ALL: [Machine; 6] = [
            Machine::Host,
            Machine::Client,
            Machine::Connector,
            Machine::Connector2,
            Machine::Pop1,
            Machine::Pop2,
        ];
        match installation {
            Installation::A => &ALL,
            Installation::B => ALL.first_chunk::<3>().expect("six are at least three"),
        }
    }

    /// The directory of its state, which is a disk.
    const fn place(self) -> &'static str {
        match self {
            Self::Host => "serve",
            Self::Client => "devices",
            Self::Connector => "connector",
            Self::Connector2 => "connector2",
            Self::Pop1 => "pop1",
            Self::Pop2 => "pop2",
        }
    }
}

/// A device of somebody: a state directory, and a client while it runs.
#[derive(Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// `dev-…`
    pub id: String,
    /// The client.
    pub process: Option<Daemon>,
}

impl Device {
    /// The device, with another value in its place that nobody runs.
    pub fn take(&mut self) -> Self {
        let empty = Self { name: self.name.clone(), id: self.id.clone(), process: None };
        std::mem::replace(self, empty)
    }
}

/// What came back from the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status; none when nobody answered.
    pub status: Option<u16>,
    /// The header of that name.
    pub retry_after: Option<String>,
    /// The body, or null.
    pub body: Value,
    /// How long it took.
    pub took: Duration,
    /// What curl said when nobody answered.
    pub error: String,
}

/// Everything.
pub struct Ground {
    // Processes end before the disks are unmounted that they write to.
    /// `tidegate serve`.
    pub serve: Option<Daemon>,
    /// The connector.
    pub connector: Option<Daemon>,
    /// The device that most rows are about.
    pub alice: Device,
    /// The device that loses its grant.
    pub grantless: Device,
    _ticker: Daemon,
    _web: WebServer,
    /// What A has besides.
    pub zones: Option<Zones>,
    /// The networks.
    pub net: Topology,
    disks: BTreeMap<Machine, Disk>,
    clocks: BTreeMap<Machine, PathBuf>,
    /// The state directories.
    pub fleet: Fleet,
    /// The program under test.
    pub binary: PathBuf,
    /// A token that reads and writes.
    token: String,
    /// The policy that can be tightened, and its values.
    pub policy: (String, Value),
    /// The group of who leaves.
    pub crew: String,
    number: u8,
    /// The person's Ctrl-C.
    pub interrupt: Interrupt,
}

impl Ground {
    /// Builds it.
    ///
    /// # Errors
    /// A step failed; it is in the report.
    pub fn create(
        report: &mut Report,
        of: Installation,
        binary: PathBuf,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (net, fleet, disks, zones) =
            report.step("two home routers, a site, and a disk for each role", || {
                let mut net = Topology::create(Nat::Home, Nat::Home, interrupt)?;
                let site =
                    ["web", "strict", "extra"].map(|name| format!("{} {name}.lab.internal", topology::WEB));
                net.connector.hosts(&site.join("\n"))?;
                let fleet = Fleet::new(binary.clone(), interrupt)?;
                let mut disks = BTreeMap::new();
                for machine in Machine::of(of).iter().copied() {
                    disks.insert(machine, Disk::create(&fleet.state(machine.place()), interrupt)?);
                }
                let zones = match of {
                    Installation::A => Some(Zones::create(&mut net, fleet.place(), interrupt)?),
                    Installation::B => None,
                };
                if let Some(zones) = &zones {
                    zones.connector2_host.hosts(&site.join("\n"))?;
                }
                Ok(Seen::new((net, fleet, disks, zones)))
            })?;
        let (web, ticker) = report.step("nginx and a server that never ends, inside the site", || {
            let web = WebServer::start(&net.web, &fleet.place().join("web"), 1, interrupt)?;
            let listen = SocketAddr::new(topology::WEB.into(), 81);
            let ticker = flow::start(&net.web, listen, &fleet.place().join("ticker.log"), interrupt)?;
            Ok(Seen::new((web, ticker)))
        })?;
        let device = |name: &str| Device { name: name.to_owned(), id: String::new(), process: None };
        let mut ground = Self {
            serve: None,
            connector: None,
            alice: device("alice"),
            grantless: device("grantless"),
            _ticker: ticker,
            _web: web,
            zones,
            net,
            disks,
            clocks: BTreeMap::new(),
            fleet,
            binary,
            token: String::new(),
            policy: (String::new(), Value::Null),
            crew: String::new(),
            number: FIRST_NUMBER,
            interrupt: interrupt.clone(),
        };
        let what = if of == Installation::A { "a controller on SQLite" } else { "tidegate serve on SQLite" };
        report.step(what, || {
            ground.start_serve()?;
            ground.wait_serve()?;
            Ok(Seen::new(()))
        })?;
        report.step("an organization whose grants are renewed each 5 s", || {
            ground.organize()?;
            Ok(Seen::new(()))
        })?;
        if of == Installation::A {
            report.step("two PoPs in two zones enrol", || {
                ground.enrol_pops()?;
                Ok(Seen::new(()))
            })?;
        }
        report.step("the connectors and two devices enrol", || {
            let cap = if of == Installation::A { "2" } else { "1" };
            let key = ["--connector", "--site", "lab", "--cap", cap];
            let key = ground.fleet.key(&ground.net.server, "connector.key", &key)?;
            ground.start_connector(Some(&key))?;
            wait_until("the connectors at the PoPs", START, interrupt, || {
                let connectors = ground.admin(&["list", "connectors"])?;
                let connectors = connectors["items"].as_array().context("connectors")?;
                Ok(connectors.iter().all(|item| item["live"]["attached"] == true).then_some(()))
            })?;
            ground.alice = ground.enrol("alice", "alice")?;
            ground.grantless = ground.enrol("grantless", "alice")?;
            Ok(Seen::new(()))
        })?;
        Ok(ground)
    }

    fn organize(&mut self) -> Result<()> {
        let organization = self.admin(&["list", "organizations"])?["items"][0]["id"].clone();
        let organization = organization.as_str().context("the organization")?.to_owned();
        let token = ["create", "token", "--name", "lab", "--scope", "read,write,strike,enrol,installation"];
        self.token = self.admin(&token)?["token"].as_str().context("a token")?.to_owned();
        let renewal = json!({"renew_after_seconds": RENEW_AFTER_S});
        self.api("PATCH", &format!("organizations/{organization}"), Some(&renewal))?.done()?;
        self.admin(&["create", "site", "--name", "lab", "--prefix", "10.0.2.0/24"])?;
        let mut resources = BTreeMap::new();
        for (name, more) in
            [("web", &["--ports", "81"][..]), ("strict", &["--strict"][..]), ("extra", &[][..])]
        {
            let address = format!("{name}.lab.internal");
            let resource = [
                "create",
                "resource",
                "--name",
                name,
                "--site",
                "lab",
                "--address",
                &address,
                "--ports",
                "80",
            ];
            let made = self.admin(&[&resource[..], more].concat())?;
            resources.insert(name, made["id"].clone());
        }
        self.admin(&["create", "group", "--name", "ops"])?;
        let crew = self.admin(&["create", "group", "--name", "crew"])?;
        self.crew = crew["id"].as_str().context("the crew")?.to_owned();
        self.admin(&["create", "user", "--name", "alice", "--email", "alice@lab.example", "--group", "ops"])?;
        for (name, group, resource) in [
            ("ops reach strict", "ops", "strict"),
            ("ops reach web", "ops", "web"),
            ("crew reach web", "crew", "web"),
        ] {
            self.admin(&["create", "policy", "--name", name, "--group", group, "--resource", resource])?;
        }
        let ops = self.admin(&["get", "groups", "ops"])?;
        let values = json!({"name": "ops reach more", "groups": [ops["id"]], "resources": [resources["web"], resources["extra"]]});
        let made = self.api("POST", "policies", Some(&values))?.done()?;
        self.policy = (made["id"].as_str().context("the policy")?.to_owned(), values);
        Ok(())
    }

    /// `tidegate admin` on the host.
    ///
    /// # Errors
    /// It fails.
    pub fn admin(&self, arguments: &[&str]) -> Result<Value> {
        self.fleet.admin(&self.net.server, arguments)
    }

    /// `tidegate admin` on the host, whose failure is a finding.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn try_admin(&self, arguments: &[&str]) -> Result<Finished> {
        let state = self.fleet.state("serve").display().to_string();
        let mut command = self.command(Machine::Host, &["admin", "--state", &state]);
        command.args(arguments);
        run(&mut command, Duration::from_secs(40), &self.interrupt)
    }

    /// `tidegate admin` as people far away use it: by HTTPS and a token, from the client's network.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn try_admin_by_https(&self, arguments: &[&str]) -> Result<Finished> {
        let token = self.fleet.place().join("api.token");
        fs::write(&token, &self.token)?;
        let ca = self.fleet.state("serve").join("console-ca.pem");
        let url = format!("https://{}", topology::SERVER);
        let mut command = self.command(Machine::Client, &["admin", "--url", &url, "--token-file"]);
        command.arg(token).arg("--ca").arg(ca).args(arguments);
        run(&mut command, Duration::from_secs(60), &self.interrupt)
    }

    /// A command of the program under test on a machine, under the machine's clock.
    pub fn command(&self, machine: Machine, arguments: &[&str]) -> Command {
        let host = match machine {
            Machine::Host => &self.net.server,
            Machine::Client => &self.net.client,
            Machine::Connector => &self.net.connector,
            Machine::Connector2 | Machine::Pop1 | Machine::Pop2 => {
                let zones = self.zones.as_ref().expect("only installation A has these machines");
                match machine {
                    Machine::Pop1 => &zones.pops[0].host,
                    Machine::Pop2 => &zones.pops[1].host,
                    _ => &zones.connector2_host,
                }
            }
        };
        let mut command = host.command("env");
        if let Some(clock) = self.clocks.get(&machine) {
            command.arg(format!("LD_PRELOAD={}", faketime().unwrap_or_default().display()));
            command.arg(format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()));
            // Jumps are seen within a second; the boot-time clock is what it is.
            command.args([
                "FAKETIME_CACHE_DURATION=1",
                "DONT_FAKE_MONOTONIC=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
            ]);
        }
        command.arg(&self.binary).arg("--json").args(arguments);
        command
    }

    /// Starts a role on a machine.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&self, machine: Machine, log: &str, arguments: &[&str]) -> Result<Daemon> {
        Daemon::start(self.command(machine, arguments), &self.fleet.place().join(format!("{log}.log")))
    }

    /// Starts `serve`, and does not wait for it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_serve(&mut self) -> Result<()> {
        let state = self.fleet.state("serve").display().to_string();
        if self.zones.is_some() {
            let url = format!("https://{}", topology::SERVER);
            let controller = ["controller", "--state", &state, "--listen", BEHIND, "--url", &url];
            self.serve = Some(self.launch(Machine::Host, "serve", &controller)?);
            return Ok(());
        }
        let advertise = format!("{}:443", topology::SERVER);
        let serve = ["serve", "--state", &state, "--listen", "0.0.0.0:443", "--advertise", &advertise];
        self.serve = Some(self.launch(Machine::Host, "serve", &serve)?);
        Ok(())
    }

    /// Waits until `serve` says that it is ready.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_serve(&mut self) -> Result<()> {
        let serve = self.serve.as_mut().context("serve")?;
        self.fleet.ready(serve, "serve")?;
        Ok(())
    }

    /// Ends `serve` and all of it at once, as a power cut would.
    ///
    /// # Errors
    /// Its processes are not known, or do not end.
    pub fn kill_serve(&mut self) -> Result<()> {
        let Some(serve) = self.serve.take() else { return Ok(()) };
        let children = self.children(&serve, "")?;
        serve.signal(libc::SIGKILL);
        for pid in &children {
            signal_process(*pid, libc::SIGKILL);
        }
        drop(serve);
        wait_until("the end of what serve started", START, &self.interrupt, || {
            let left = children.iter().any(|pid| fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false));
            Ok((!left).then_some(()))
        })
    }

    /// The process of one of the roles that `serve` started.
    ///
    /// # Errors
    /// There is not exactly one.
    pub fn child(&self, role: &str) -> Result<u32> {
        let serve = self.serve.as_ref().context("serve")?;
        let found = self.children(serve, &format!(" {role} "))?;
        ensure!(found.len() == 1, "serve has {} processes of the role {role}", found.len());
        Ok(found[0])
    }

    fn children(&self, serve: &Daemon, having: &str) -> Result<Vec<u32>> {
        let parent = serve.pid().to_string();
        let said = self.net.server.attempt(START, "pgrep", &["-P", &parent, "-f", having])?.stdout;
        said.lines().map(|pid| Ok(pid.trim().parse()?)).collect()
    }

    /// Starts every connector and waits until each says that it runs; it may have no PoP.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_connector(&mut self, join: Option<&str>) -> Result<()> {
        self.end_connectors();
        self.connector = Some(self.one_connector(Machine::Connector, join)?);
        if self.zones.is_some() {
            let second = self.one_connector(Machine::Connector2, join)?;
            if let Some(zones) = &mut self.zones {
                zones.connector2 = Some(second);
            }
        }
        Ok(())
    }

    /// Ends every connector.
    pub fn end_connectors(&mut self) {
        self.connector = None;
        if let Some(zones) = &mut self.zones {
            zones.connector2 = None;
        }
    }

    fn one_connector(&self, machine: Machine, join: Option<&str>) -> Result<Daemon> {
        let state = self.fleet.state(machine.place()).display().to_string();
        let mut arguments = vec!["connector", "--state", &state];
        if let Some(join) = join {
            arguments.extend(["--join-file", join, "--name", machine.place()]);
        }
        let mut connector = self.launch(machine, machine.place(), &arguments)?;
        self.fleet.ready(&mut connector, "connector")?;
        Ok(connector)
    }

    /// The state directory of a device.
    pub fn state(&self, device: &str) -> PathBuf {
        self.fleet.state(Machine::Client.place()).join(device)
    }

    /// An enrolment key for a device of somebody, in a file.
    ///
    /// # Errors
    /// As [`Fleet::admin`].
    pub fn device_key(&self, device: &str, owner: &str) -> Result<String> {
        self.fleet.key(&self.net.server, &format!("{device}.key"), &["--device", "--user", owner])
    }

    /// Enrols a device.
    ///
    /// # Errors
    /// It is refused.
    pub fn enrol(&self, device: &str, owner: &str) -> Result<Device> {
        let key = self.device_key(device, owner)?;
        self.login(device, &key, START)?.success("login")?;
        let devices = self.admin(&["list", "devices"])?;
        let found =
            devices["items"].as_array().and_then(|items| items.iter().find(|item| item["name"] == device));
        let id = found.and_then(|item| item["id"].as_str()).context("the device's id")?.to_owned();
        Ok(Device { name: device.to_owned(), id, process: None })
    }

    /// `tidegate login` on the client's machine.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn login(&self, device: &str, key: &str, deadline: Duration) -> Result<Finished> {
        let state = self.state(device).display().to_string();
        let login = ["login", "--state", &state, "--key-file", key, "--name", device];
        run(&mut self.command(Machine::Client, &login), deadline, &self.interrupt)
    }

    /// Starts a device's client and waits until it says that it runs; it may have no PoP.
    ///
    /// # Errors
    /// It does not come up.
    pub fn up(&self, device: &mut Device) -> Result<()> {
        device.process = None;
        let state = self.state(&device.name).display().to_string();
        let mut client =
            self.launch(Machine::Client, &device.name, &["up", "--foreground", "--state", &state])?;
        self.fleet.ready(&mut client, "client")?;
        device.process = Some(client);
        Ok(())
    }

    /// Starts a flow of a device that never ends, and waits until it flows.
    ///
    /// # Errors
    /// It does not.
    pub fn flow(&self, device: &Device) -> Result<Flow> {
        let flow = Flow::start(self.curl(device)?, TICKS)?;
        wait_until("bytes of a flow", START, &self.interrupt, || {
            ensure!(flow.ended().is_none(), "curl ended");
            Ok((flow.bytes() > 0).then_some(()))
        })?;
        Ok(flow)
    }

    fn curl(&self, device: &Device) -> Result<Command> {
        let proxy = fs::read_to_string(self.state(&device.name).join("proxy-url")).context("proxy-url")?;
        let config = self.fleet.place().join(format!("{}.curl", device.name));
        // The proxy's credential stays out of the process list.
        fs::write(&config, format!("proxy = \"{}\"\n", proxy.trim()))?;
        let mut command = self.net.client.command("curl");
        command.args(["--disable", "--silent", "--show-error", "--fail", "--config"]).arg(config);
        Ok(command)
    }

    /// One page, over a connection of its own. The error is what curl said.
    ///
    /// # Errors
    /// curl cannot be run.
    pub fn page(&self, device: &Device, url: &str, within: Duration) -> Result<Result<Duration, String>> {
        let mut curl = self.curl(device)?;
        curl.args(["--max-time", &format!("{:.1}", within.as_secs_f64()), url]);
        let began = Instant::now();
        let said = run(&mut curl, within + START, &self.interrupt)?;
        if !said.status.success() {
            return Ok(Err(words(&said)));
        }
        ensure!(said.stdout == PAGE, "another page came: {:?}", said.stdout);
        Ok(Ok(began.elapsed()))
    }

    /// `tidegate status` of a device.
    ///
    /// # Errors
    /// Its client does not answer.
    pub fn status(&self, device: &Device) -> Result<Value> {
        let state = self.state(&device.name).display().to_string();
        // A socket in the file system: it is asked from outside the namespace.
        let mut command = Command::new(&self.binary);
        command.args(["--json", "status", "--state", &state]);
        let said = run(&mut command, START, &self.interrupt)?;
        serde_json::from_str(said.stdout.trim())
            .with_context(|| format!("status said {:?} {:?}", said.stdout, said.stderr))
    }

    /// What `tidegate why` says to a person.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn why(&self, device: &Device, resource: &str) -> Result<Finished> {
        let state = self.state(&device.name).display().to_string();
        let mut command = Command::new(&self.binary);
        command.args(["why", "--state", &state, resource]);
        run(&mut command, START, &self.interrupt)
    }

    /// Waits until packets of a device go straight to the connector, and those of everybody straight back: each
    /// side chooses its own way, so the client's word is not enough, and the host's own interface is asked. Flows
    /// run while it is.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_direct(&self, device: &Device) -> Result<()> {
        self.wait_own_path(device)?;
        wait_until("the connector's direct path, by the host's counters", START, &self.interrupt, || {
            let before = self.pops_received()?;
            std::thread::sleep(QUIET);
            Ok((self.pops_received()?.saturating_sub(before) < QUIET_BYTES).then_some(()))
        })
    }

    /// Waits until a device says that its packets go straight.
    ///
    /// # Errors
    /// They do not.
    pub fn wait_own_path(&self, device: &Device) -> Result<()> {
        wait_until("the direct path", DIRECT, &self.interrupt, || {
            let status = self.status(device)?;
            let resources = status["resources"].as_array().context("resources")?;
            Ok(resources.iter().any(|resource| resource["path"]["kind"] == "direct").then_some(()))
        })
    }

    /// The API as people reach it: HTTPS to the host's public address, from the client's network.
    ///
    /// # Errors
    /// curl cannot be run.
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let (head, out) = (self.fleet.place().join("api.head"), self.fleet.place().join("api.body"));
        let config = self.fleet.place().join("api.curl");
        fs::write(&config, format!("header = \"Authorization: Bearer {}\"\n", self.token))?;
        for file in [&head, &out] {
            let _ = fs::remove_file(file);
        }
        let mut curl = self.net.client.command("curl");
        curl.args(["--disable", "--silent", "--show-error", "--insecure", "--max-time", "6", "--config"]);
        curl.arg(&config).arg("--dump-header").arg(&head).arg("--output").arg(&out);
        curl.args(["--write-out", "%{http_code}", "--request", method]);
        if let Some(body) = body {
            curl.args(["--header", "Content-Type: application/json", "--data", &body.to_string()]);
        }
        curl.arg(format!("https://{}/api/v1/{path}", topology::SERVER));
        let began = Instant::now();
        let said = run(&mut curl, START, &self.interrupt)?;
        let took = began.elapsed();
        let status = said.stdout.trim().parse().ok().filter(|status| *status != 0);
        let headers = fs::read_to_string(&head).unwrap_or_default().to_lowercase();
        let retry_after = headers
            .lines()
            .find_map(|line| line.strip_prefix("retry-after:"))
            .map(|value| value.trim().to_owned());
        let body =
            fs::read(&out).ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        Ok(Answer {
            // A status without a whole answer is none.
            status: status.filter(|_| said.status.success()),
            retry_after,
            body,
            took,
            error: said.stderr.trim().to_owned(),
        })
    }

    /// The disk of a machine.
    ///
    /// # Errors
    /// None is mounted.
    pub fn disk(&self, machine: Machine) -> Result<&Disk> {
        self.disks.get(&machine).context("a disk")
    }

    /// From its next start a machine's processes have a clock that can jump, or the machine's own again.
    ///
    /// # Errors
    /// The file cannot be written, or libfaketime is not installed.
    pub fn own_clock(&mut self, machine: Machine, clock: Clock) -> Result<()> {
        match clock {
            Clock::Real => {
                self.clocks.remove(&machine);
            }
            Clock::Movable => {
                ensure!(faketime().is_some(), "libfaketime is missing: apt-get install libfaketime");
                let file = self.fleet.place().join(format!("{}.clock", machine.place()));
                self.clocks.insert(machine, file);
                self.jump(machine, "+0")?;
            }
        }
        Ok(())
    }

    /// Lets a machine's clock jump, in libfaketime's words: `+1d`.
    ///
    /// # Errors
    /// The machine has its own clock.
    pub fn jump(&self, machine: Machine, by: &str) -> Result<()> {
        let file = self.clocks.get(&machine).context("a clock that can jump")?;
        let new = file.with_extension("new");
        fs::write(&new, format!("{by}\n"))?;
        // Nobody reads half of it.
        fs::rename(new, file)?;
        Ok(())
    }

    /// The client's machine is in another home network: other addresses inside and outside.
    ///
    /// # Errors
    /// The kernel refuses a part of it.
    pub fn roam(&mut self) -> Result<()> {
        let number = self.number;
        self.number = if number == LAST_NUMBER { FIRST_NUMBER } else { number + 1 };
        let router = self.net.client_router.namespace();
        router.ip("address flush dev ext scope global")?;
        router.address("ext", Ipv4Addr::new(203, 0, 113, number).into())?;
        let client = &self.net.client;
        client.ip("address flush dev eth0 scope global")?;
        client.address("eth0", Ipv4Addr::new(192, 168, 1, number).into())?;
        self.net.client_router.route(client, "eth0")?;
        router.run(START, "conntrack", &["-F"])?;
        Ok(())
    }

    /// When the grant on a device's disk was made, in Unix milliseconds. Read from the file itself.
    ///
    /// # Errors
    /// There is none, or it is no grant.
    pub fn grant_issued(&self, device: &Device) -> Result<u64> {
        let text = fs::read_to_string(self.state(&device.name).join("grant")).context("the grant's file")?;
        issued(&text)
    }
}

/// Which clock the processes of a machine have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The machine's.
    Real,
    /// One that can jump.
    Movable,
}

impl Answer {
    /// The body of a good answer.
    ///
    /// # Errors
    /// It is another one.
    pub fn done(self) -> Result<Value> {
        ensure!(self.is_done(), "{}", self.words());
        Ok(self.body)
    }

    /// Whether it was done.
    pub fn is_done(&self) -> bool {
        self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// In one line.
    pub fn words(&self) -> String {
        let took = self.took.as_millis();
        match self.status {
            None => format!("no answer after {took} ms: {}", self.error),
            Some(status) => {
                let title = self.body["detail"].as_str().or_else(|| self.body["title"].as_str());
                let retry = self.retry_after.as_ref().map(|retry| format!(", Retry-After {retry}"));
                format!("{status} after {took} ms{} {}", retry.unwrap_or_default(), title.unwrap_or_default())
                    .trim()
                    .to_owned()
            }
        }
    }
}

/// What a program said, in one line.
pub fn words(said: &Finished) -> String {
    let text = if said.stderr.trim().is_empty() { &said.stdout } else { &said.stderr };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Debian keeps the library out of the linker's way.
pub fn faketime() -> Option<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    architectures.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
}

/// `iat` of a signed document: the payload of a PASETO v4.public token is the base64url of JSON and 64 bytes
/// of signature.
fn issued(token: &str) -> Result<u64> {
    let payload = token.trim().split('.').nth(2).context("a token has a payload")?;
    let bytes = base64url(payload)?;
    let claims: Value = serde_json::from_slice(&bytes[..bytes.len().saturating_sub(64)])?;
    match &claims["iat"] {
        Value::Number(number) => number.as_u64().context("iat"),
        other => bail!("iat is {other}"),
    }
}

fn base64url(text: &str) -> Result<Vec<u8>> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes() {
        let value = ALPHABET.iter().position(|known| *known == letter).context("base64url")?;
        bits = (bits << 6) | u32::try_from(value)?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from((bits >> count) & 0xff)?);
        }
    }
    Ok(bytes)
}

/// A file that exists.
pub fn require(binary: &Path) -> Result<()> {
    ensure!(binary.is_file(), "no binary at {}: cargo build --release, or --binary", binary.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_a_grant_is_read_from_its_text() {
        // {"iat":1700} and 64 bytes of signature, by python's base64.urlsafe_b64encode.
        let payload = format!("eyJpYXQiOjE3MDB9{}", "A".repeat(86));
        assert_eq!(issued(&format!("v4.public.{payload}")).expect("a grant"), 1700);
        issued("v4.public").expect_err("no payload");
        issued("v4.public.?").expect_err("no base64url");
    }
}
