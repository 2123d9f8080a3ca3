//! `cargo xtask lab long-outage`: controller and database gone for an hour of real time, while clients restart, roam
//! and open connections, and connectors restart. What it measured is docs/outage-long.md.
//!
//! One network namespace with a loopback of its own: controller, two PoPs, two connectors of one site, hundreds of
//! clients of `tidegate load-worker` (the core that `tidegate up` runs) and one whole client of `tidegate up`.

use super::super::{
    daemon::Daemon,
    fleet::Fleet,
    namespace::Namespace,
    probe::this_program,
    report::{Form, Outcome, Report, Seen},
};
use super::{
    long_report::{Limits, Tally, Verdict},
    long_worker::{Kind, Worker},
};
use crate::process::{Interrupt, run, signal_process, wait_until};
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const START: Duration = Duration::from_secs(30);
const CONTROLLER: &str = "127.0.0.1:8443";
const POPS: [&str; 2] = ["127.0.0.1:7001", "127.0.0.1:7002"];
/// Loopback addresses are reached by resources that name them literally, and by no others.
const ECHO: &str = "127.0.0.3:7007";
const PAGE: &str = "127.0.0.2:7080";
const CONNECTORS: [&str; 2] = ["connector-1", "connector-2"];
/// Milliseconds between two lines of a running connection.
const LINE_EVERY_MS: u32 = 200;
/// Clients that start from their disk and open a new connection, each second.
const VISITS_PER_SECOND: u32 = 2;
/// Members for them: a visit takes at most 10 s before it has failed.
const VISITORS: usize = 30;
/// Running connections that change their network, each second.
const ROAMS_PER_SECOND: f64 = 0.5;
/// Between two restarts of a connector, by turns.
const CONNECTOR_EVERY: Duration = Duration::from_secs(120);
/// So long after it a running connection that is cut may have been one of its.
const CONNECTOR_SHADOW: Duration = Duration::from_secs(20);
/// Between two restarts of the whole client.
const CLIENT_EVERY: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How long, and with how many.
#[derive(Debug, Args)]
pub struct Options {
    /// Minutes without a controller.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Clients that hold a session; each tenth has a running connection.
    #[arg(long, default_value_t = 300, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(20..=4000))]
    clients: usize,
    /// The program under test; target/release/tidegate when absent.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Writes what was measured to docs/outage-long.md.
    #[arg(long)]
    write: bool,
}

/// Inside the namespace: sends each line back, for as long as the connection lasts.
///
/// # Errors
/// The address cannot be bound, or the end.
pub fn line_echo(listen: SocketAddr, interrupt: &Interrupt) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("cannot bind {listen}"))?;
    listener.set_nonblocking(true)?;
    println!("echo on {listen}");
    loop {
        interrupt.check()?;
        match listener.accept() {
            Ok((stream, _)) => drop(thread::spawn(move || send_back(stream))),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Whole lines need no buffer: what comes goes back in its order.
fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let mut buffer = [0; 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
    }
}

/// Runs it.
///
/// # Errors
/// The installation cannot be set up. What does not hold is counted in the outcome.
pub fn run_long(options: &Options, form: Form, interrupt: &Interrupt) -> Result<Outcome> {
    let binary = options.binary.clone().map_or_else(crate::test::fresh_release_binary, Ok)?;
    super::ground::require(&binary)?;
    let mut report = Report::new(form);
    let mut stage = report.step("a controller, two PoPs, two connectors, and the devices", || {
        Ok(Seen::new(Stage::set(binary, options.clients, interrupt)?))
    })?;
    let crowd = stage.crowd;
    report.step("every client holds its session and every connection runs", || {
        let took = stage.gather()?;
        Ok(Seen::new(())
            .with("clients", crowd.held)
            .with("connections", crowd.flows)
            .with("seconds", took.as_secs_f64()))
    })?;
    let tally = report.step("the controller is killed and its database taken away", || {
        stage.lose_controller()?;
        Ok(Seen::new(Tally::default()))
    })?;
    let outage = Duration::from_secs_f64(options.minutes * 60.0);
    let tally = report.step("the outage", || {
        let tally = stage.endure(outage, tally)?;
        Ok(Seen::new(tally))
    })?;
    let cure = report.step("the controller comes back", || {
        let cure = stage.cure()?;
        Ok(Seen::new(cure).with("reconnected", cure.registered))
    })?;
    let verdicts = Verdict::all(&tally, &cure, &Limits { connections: crowd.flows });
    for verdict in &verdicts {
        report.check(&verdict.what, || {
            ensure!(verdict.holds, "{} (to reach: {})", verdict.measured, verdict.to_reach);
            Ok(Seen::new(()).with("seen", verdict.measured.clone()))
        });
    }
    if options.write {
        super::long_report::write(&verdicts, &tally, options.minutes, crowd, interrupt)?;
    }
    Ok(report.finish())
}

/// How the clients are divided, as in the drills: members are numbered from 0.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// `0..flows` have a running connection; the first half of them roams.
    pub flows: usize,
    /// `0..held` hold a session.
    pub held: usize,
    /// `held..all` come for one connection each, by turns.
    pub all: usize,
}

/// After the outage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cure {
    /// Sessions that were made.
    pub registered: u64,
    /// From a strike to the end of the session of who was struck; none when it did not end.
    pub struck: Option<Duration>,
    /// From the start of the controller to its ready line.
    pub ready: Duration,
}

struct Stage {
    workers: Vec<Worker>,
    client: Option<Daemon>,
    connectors: Vec<Option<Daemon>>,
    _pops: Vec<Daemon>,
    _echo: Daemon,
    _site: Daemon,
    controller: Option<Daemon>,
    host: Namespace,
    fleet: Fleet,
    crowd: Crowd,
    restarts: usize,
    interrupt: Interrupt,
}

impl Stage {
    fn set(binary: PathBuf, clients: usize, interrupt: &Interrupt) -> Result<Self> {
        let flows = (clients / 10).max(10);
        let crowd = Crowd { flows, held: clients, all: clients + VISITORS };
        let host = Namespace::create("long", interrupt)?;
        host.ip("link set lo up")?;
        let fleet = Fleet::new(binary, interrupt)?;
        let site = fleet.start(&host, "site", &["demo-site", "--web", PAGE, "--echo", "127.0.0.4:7008"])?;
        let mut echo = host.command(this_program());
        echo.args(["lab", "line-echo", "--listen", ECHO]);
        let echo = Daemon::start(echo, &fleet.place().join("echo.log"))?;
        let mut controller = start_controller(&fleet, &host)?;
        fleet.ready(&mut controller, "controller")?;
        let mut stage = Self {
            workers: Vec::new(),
            client: None,
            connectors: Vec::new(),
            _pops: Vec::new(),
            _echo: echo,
            _site: site,
            controller: Some(controller),
            host,
            fleet,
            crowd,
            restarts: 0,
            interrupt: interrupt.clone(),
        };
        stage.organize()?;
        for (name, address) in [("pop-1", POPS[0]), ("pop-2", POPS[1])] {
            let key = stage.key(name, &["--pop"])?;
            let state = stage.fleet.state(name).display().to_string();
            let arguments = ["pop", "--state", &state, "--join-file", &key, "--listen", address];
            let arguments = [&arguments[..], &["--advertise", address, "--name", name]].concat();
            let mut pop = stage.fleet.start(&stage.host, name, &arguments)?;
            stage.fleet.ready(&mut pop, name)?;
            stage._pops.push(pop);
        }
        for (index, name) in CONNECTORS.iter().enumerate() {
            let key = stage.key(name, &["--connector", "--site", "lab"])?;
            stage.connectors.push(None);
            stage.start_connector(index, Some(&key))?;
        }
        stage.enrol()?;
        Ok(stage)
    }

    fn admin(&self, arguments: &[&str]) -> Result<Value> {
        self.fleet.admin(&self.host, arguments)
    }

    fn key(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.fleet.key(&self.host, &format!("{name}.key"), arguments)
    }

    fn organize(&self) -> Result<()> {
        self.admin(&["create", "site", "--name", "lab", "--prefix", "127.0.0.0/8"])?;
        for (name, address) in [("echo", ECHO), ("page", PAGE)] {
            let (host, port) = address.split_once(':').context("an address has a port")?;
            let resource = ["create", "resource", "--name", name, "--site", "lab", "--address", host];
            self.admin(&[&resource[..], &["--ports", port]].concat())?;
        }
        self.admin(&["create", "group", "--name", "crew"])?;
        self.admin(&["create", "user", "--name", "crew", "--email", "crew@lab.example", "--group", "crew"])?;
        let policy = ["create", "policy", "--name", "the crew reaches the site", "--group", "crew"];
        self.admin(&[&policy[..], &["--resource", "echo", "--resource", "page"]].concat())?;
        Ok(())
    }

    /// Devices enrol as people's do, by `tidegate login`; four at once.
    fn enrol(&self) -> Result<()> {
        let cap = (self.crowd.all + 1).to_string();
        let key = self.key("device", &["--device", "--user", "crew", "--cap", &cap])?;
        let states = self.fleet.place().join("clients");
        fs::create_dir(&states)?;
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let (fleet, host, interrupt, last) = (&self.fleet, &self.host, &self.interrupt, self.crowd.all);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        // One more than the crowd: the whole client.
                        if number > last {
                            return;
                        }
                        let state = states.join(format!("c{number}")).display().to_string();
                        let name = format!("lab {number}");
                        let login = ["login", "--state", &state, "--key-file", &key, "--name", &name];
                        let said = run(&mut fleet.tidegate(host, &login), START, interrupt)
                            .and_then(|said| said.success("login"));
                        if let Err(error) = said {
                            *failed.lock().expect("nothing panics while it holds the error") = Some(error);
                            return;
                        }
                    }
                });
            }
        });
        failed.into_inner().expect("nobody panicked").map_or(Ok(()), Err)
    }

    /// Starts a connector and waits for its session.
    fn start_connector(&mut self, index: usize, key: Option<&str>) -> Result<()> {
        let name = CONNECTORS[index];
        self.connectors[index] = None;
        let state = self.fleet.state(name).display().to_string();
        let mut arguments = vec!["connector", "--state", &state, "--name", name];
        if let Some(key) = key {
            arguments.extend(["--join-file", key]);
        }
        let mut connector = self.fleet.start(&self.host, name, &arguments)?;
        self.fleet.ready(&mut connector, name)?;
        let status = self.fleet.state(name);
        wait_until("the connector registered at a PoP", START, &self.interrupt, || {
            Ok(super::super::fleet::connector_status(&status)
                .filter(|status| status["ready"] == true)
                .map(|_| ()))
        })?;
        self.connectors[index] = Some(connector);
        Ok(())
    }

    fn client_state(&self) -> PathBuf {
        self.fleet.place().join("clients").join(format!("c{}", self.crowd.all))
    }

    /// The whole client starts anew, and its first page comes; how long that took.
    fn restart_client(&mut self) -> Result<Duration> {
        self.client = None;
        let began = Instant::now();
        let state = self.client_state();
        let arguments = ["up", "--foreground", "--no-port-mapping", "--state", &state.display().to_string()];
        let mut client = self.fleet.start(&self.host, "client", &arguments)?;
        self.fleet.ready(&mut client, "client")?;
        self.client = Some(client);
        wait_until("a page", Duration::from_secs(15), &self.interrupt, || {
            Ok(self.page(&state)?.then_some(()))
        })?;
        Ok(began.elapsed())
    }

    fn page(&self, state: &Path) -> Result<bool> {
        let proxy = fs::read_to_string(state.join("proxy-url")).context("proxy-url")?;
        let config = self.fleet.place().join("client.curl");
        fs::write(&config, format!("proxy = \"{}\"\n", proxy.trim()))?;
        let mut curl = self.host.command("curl");
        curl.args([
            "--disable",
            "--silent",
            "--fail",
            "--max-time",
            "5",
            "--output",
            "/dev/null",
            "--config",
        ]);
        curl.arg(config).arg(format!("http://{PAGE}/"));
        Ok(run(&mut curl, START, &self.interrupt)?.status.success())
    }

    /// Clients register, connections open, visits and roams begin.
    fn gather(&mut self) -> Result<Duration> {
        let began = Instant::now();
        let Crowd { flows, held, all } = self.crowd;
        let states = self.fleet.place().join("clients");
        for (kind, members) in
            [(Kind::Flows, 0..flows), (Kind::Held, flows..held), (Kind::Visitors, held..all)]
        {
            let mut command =
                self.fleet.tidegate(&self.host, &["load-worker", "--target", ECHO, "--seed", "1"]);
            command.arg("--states").arg(&states);
            command.args(["--from", &members.start.to_string(), "--to", &members.end.to_string()]);
            self.workers.push(Worker::start(
                command,
                kind,
                members.len(),
                &self.fleet.place().join("load.log"),
            )?);
        }
        for worker in &mut self.workers {
            if worker.kind != Kind::Visitors {
                let to = worker.members;
                worker.order(&json!({"order": "hold", "from": 0, "to": to, "per_second": 100}))?;
            }
        }
        self.wait_workers("every session", |up, _| up == held)?;
        for worker in &mut self.workers {
            let to = worker.members;
            match worker.kind {
                Kind::Flows => {
                    worker
                        .order(&json!({"order": "flow", "from": 0, "to": to, "period_ms": LINE_EVERY_MS}))?;
                }
                Kind::Visitors => {
                    let rate = VISITS_PER_SECOND;
                    worker.order(&json!({"order": "visit", "from": 0, "to": to, "per_second": rate}))?;
                }
                Kind::Held => {}
            }
        }
        self.wait_workers("every connection", |_, open| open == flows)?;
        for worker in self.workers.iter_mut().filter(|worker| worker.kind == Kind::Flows) {
            let (to, rate) = (flows / 2, ROAMS_PER_SECOND);
            worker.order(&json!({"order": "roam", "from": 0, "to": to, "per_second": rate}))?;
        }
        self.restart_client()?;
        // A minute of fair weather: what is counted later is not the beginning.
        thread::sleep(Duration::from_secs(5));
        for worker in &mut self.workers {
            worker.take()?;
        }
        Ok(began.elapsed())
    }

    fn wait_workers(&mut self, what: &str, done: impl Fn(usize, usize) -> bool) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(120);
        loop {
            self.interrupt.check()?;
            let (mut up, mut open) = (0, 0);
            for worker in &mut self.workers {
                worker.take()?;
                up += worker.up;
                open += worker.open;
            }
            if done(up, open) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{what}: {up} sessions, {open} connections");
            thread::sleep(Duration::from_millis(100));
        }
    }

    fn database(&self) -> PathBuf {
        self.fleet.state("serve").join("tidegate.db")
    }

    fn lose_controller(&mut self) -> Result<()> {
        let controller = self.controller.take().context("the controller")?;
        signal_process(controller.pid(), libc::SIGKILL);
        drop(controller);
        self.move_database("", ".away")?;
        let mut probe = self.host.command("curl");
        probe.args(["--silent", "--insecure", "--max-time", "2", &format!("https://{CONTROLLER}/livez")]);
        let said = run(&mut probe, START, &self.interrupt)?;
        // 7: nobody takes the connection.
        ensure!(said.status.code() == Some(7), "the controller's port still answers");
        Ok(())
    }

    fn move_database(&self, from: &str, to: &str) -> Result<()> {
        let database = self.database();
        for part in ["", "-wal", "-shm"] {
            let name = |end: &str| PathBuf::from(format!("{}{part}{end}", database.display()));
            match fs::rename(name(from), name(to)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound || part.is_empty() => {
                    bail!("{} cannot be moved: {error}", name(from).display());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The outage itself.
    fn endure(&mut self, outage: Duration, mut tally: Tally) -> Result<Tally> {
        let began = Instant::now();
        let (mut connector_at, mut client_at) = (began + CONNECTOR_EVERY / 2, began + CLIENT_EVERY / 2);
        let (mut said_at, mut shadow) = (began, None::<Instant>);
        while began.elapsed() < outage {
            self.interrupt.check()?;
            thread::sleep(LOOK_EVERY);
            self.count(&mut tally, shadow)?;
            if Instant::now() >= connector_at {
                connector_at += CONNECTOR_EVERY;
                let index = self.restarts % CONNECTORS.len();
                self.restarts += 1;
                shadow = Some(Instant::now() + CONNECTOR_SHADOW);
                let start = Instant::now();
                // As a crash ends it: nobody is told.
                if let Some(connector) = self.connectors[index].take() {
                    signal_process(connector.pid(), libc::SIGKILL);
                }
                match self.start_connector(index, None) {
                    Ok(()) => tally.connector_restarts.push(start.elapsed()),
                    Err(error) => tally.failed(format!("a connector's restart: {error:#}")),
                }
            }
            if Instant::now() >= client_at {
                client_at += CLIENT_EVERY;
                match self.restart_client() {
                    Ok(took) => tally.client_restarts.push(took),
                    Err(error) => tally.failed(format!("the whole client's restart: {error:#}")),
                }
            }
            if Instant::now() >= said_at {
                said_at += SAY_EVERY;
                eprintln!("{:>5.1} min  {}", began.elapsed().as_secs_f64() / 60.0, tally.line());
            }
        }
        // What is under way is waited for.
        for worker in self.workers.iter_mut().filter(|worker| worker.kind == Kind::Visitors) {
            worker.order(&json!({"order": "visit", "from": 0, "to": 0, "per_second": 0}))?;
        }
        for worker in self.workers.iter_mut().filter(|worker| worker.kind == Kind::Flows) {
            worker.order(&json!({"order": "roam", "from": 0, "to": 0, "per_second": 0.0}))?;
        }
        let end = Instant::now() + Duration::from_secs(12);
        while Instant::now() < end {
            self.interrupt.check()?;
            thread::sleep(LOOK_EVERY);
            self.count(&mut tally, shadow)?;
        }
        tally.length = began.elapsed();
        tally.status = self.whole_client_says()?;
        Ok(tally)
    }

    fn count(&mut self, tally: &mut Tally, shadow: Option<Instant>) -> Result<()> {
        let in_shadow = shadow.is_some_and(|until| Instant::now() < until);
        (tally.up, tally.open) = (0, 0);
        for worker in &mut self.workers {
            for seen in worker.take()? {
                tally.add(&seen, in_shadow);
            }
            tally.up += worker.up;
            tally.open += worker.open;
        }
        Ok(())
    }

    /// What a person would read at the end of the outage.
    fn whole_client_says(&self) -> Result<Value> {
        let state = self.client_state().display().to_string();
        let said = run(
            &mut self.fleet.tidegate(&self.host, &["status", "--state", &state]),
            START,
            &self.interrupt,
        )?;
        serde_json::from_str(said.stdout.trim()).context("status")
    }

    /// The controller comes back with its database; for a minute nobody should reconnect; then somebody is struck.
    fn cure(&mut self) -> Result<Cure> {
        self.move_database(".away", "")?;
        let start = Instant::now();
        let mut controller = start_controller(&self.fleet, &self.host)?;
        self.fleet.ready(&mut controller, "controller")?;
        let ready = start.elapsed();
        self.controller = Some(controller);
        let (mut after, until) = (Tally::default(), Instant::now() + Duration::from_secs(60));
        while Instant::now() < until {
            self.interrupt.check()?;
            thread::sleep(LOOK_EVERY);
            self.count(&mut after, None)?;
        }
        let struck = self.strike()?;
        Ok(Cure { registered: after.registered, struck, ready })
    }

    /// Strikes the last client that holds a session, and waits for the end of it.
    fn strike(&mut self) -> Result<Option<Duration>> {
        let member = self.crowd.held - 1;
        let enrolled = self.fleet.place().join("clients").join(format!("c{member}")).join("enrolled.json");
        let enrolled: Value = serde_json::from_str(&fs::read_to_string(enrolled)?)?;
        let identity = enrolled["identity"].as_str().context("an identity")?;
        let device = identity.rsplit('/').next().context("a device's id")?.to_owned();
        let mut after = Tally::default();
        self.count(&mut after, None)?;
        let start = Instant::now();
        self.admin(&["strike", &device])?;
        while start.elapsed() < Duration::from_secs(15) {
            self.interrupt.check()?;
            thread::sleep(Duration::from_millis(50));
            self.count(&mut after, None)?;
            if after.lost.contains_key("struck") {
                return Ok(Some(start.elapsed()));
            }
        }
        Ok(None)
    }
}

fn start_controller(fleet: &Fleet, host: &Namespace) -> Result<Daemon> {
    let (state, url) = (fleet.state("serve").display().to_string(), format!("https://{CONTROLLER}"));
    let arguments = ["controller", "--state", &state, "--listen", CONTROLLER, "--url", &url];
    fleet.start(host, "controller", &arguments)
}
