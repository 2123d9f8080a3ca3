//! `bench-weather`: how soon a strike is enforced by a thousand connectors, with the controller's database alive,
//! locked and gone; and how soon a controller serves from its copy of ten thousand devices.
//!
//! Real controller and PoP processes. The connectors are [`agent::ConnectorAgent`], the very core that `tidegate
//! connector` runs, each with a socket of its own, all in one thread of this process. A strike counts as enforced by a
//! connector when its core's revocations have it: from then on no packet of it passes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

#[path = "weather/connectors.rs"]
mod connectors;
#[path = "weather/locks.rs"]
mod locks;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use connectors::{Enforced, Fleet};
use enrol::ApiClient;
use locks::Locks;
use serde_json::{Value, json};
use std::{
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use store::{Device, Member, Opening, Scope, Store};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::Semaphore,
    task::JoinSet,
};
use trust::{JoinKey, RevokedSubject};

/// A strike is enforced within this (guarantees).
const ENFORCED_WITHIN: Duration = Duration::from_secs(5);
/// A controller serves from its copy within this.
const SERVES_WITHIN: Duration = Duration::from_secs(2);
/// Enrolments at once.
const ENROLLING: usize = 8;
/// Between two strikes.
const APART: Duration = Duration::from_millis(500);

/// Strikes and cold starts.
#[derive(Debug, Parser)]
struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// How many connectors.
    #[arg(long, default_value_t = 1000, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=4000))]
    connectors: usize,
    /// Strikes in each state of the database.
    #[arg(long, default_value_t = 20, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=200))]
    strikes: usize,
    /// Devices in the copy that a controller starts from.
    #[arg(long, default_value_t = 10_000)]
    devices: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A role of the program under test; ends with this value.
struct Role(Child);

impl Role {
    async fn start(program: &Path, arguments: &[&str], secret: Option<&str>) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("--json").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        if let Some(secret) = secret {
            command.env("TIDEGATE_JOIN", secret);
        }
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if serde_json::from_str::<Value>(&line).is_ok_and(|value| value["event"] == "ready") {
                    return Ok(());
                }
            }
            bail!("{arguments:?} ended before it was ready")
        };
        tokio::time::timeout(Duration::from_secs(60), ready).await.context("not ready within 60 s")??;
        Ok(Self(child))
    }

    async fn kill(mut self) -> Result<()> {
        self.0.kill().await.context("a process that does not end")
    }
}

/// The controller, and how to start it again.
struct Controller {
    program: PathBuf,
    state: PathBuf,
    listen: String,
    role: Option<Role>,
}

impl Controller {
    async fn start(&mut self) -> Result<Duration> {
        let state = self.state.display().to_string();
        let port = self.listen.rsplit(':').next().context("a port")?;
        let url = format!("https://localhost:{port}");
        let began = Instant::now();
        let arguments = ["controller", "--state", &state, "--listen", &self.listen, "--url", &url];
        self.role = Some(Role::start(&self.program, &arguments, None).await?);
        // Ready is its word; an answer is the proof.
        let _: Value = self.api().get("/api/v1/groups").await?;
        Ok(began.elapsed())
    }

    async fn kill(&mut self) -> Result<()> {
        self.role.take().context("the controller runs")?.kill().await
    }

    fn api(&self) -> ApiClient {
        ApiClient::unix(self.state.join("admin.sock"))
    }

    fn database(&self) -> PathBuf {
        self.state.join("tidegate.db")
    }

    /// The database's files get another name, or theirs back.
    fn rename_database(&self, from: &str, to: &str) -> Result<()> {
        for part in ["", "-wal", "-shm"] {
            let name = |end: &str| PathBuf::from(format!("{}{part}{end}", self.database().display()));
            match std::fs::rename(name(from), name(to)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound || part.is_empty() => {
                    bail!("{}: {error}", name(from).display());
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn attached(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let status: Value = self.api().get("/api/v1/status").await?;
            if status["pops_attached"] == 1 {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the PoP is not attached: {status}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Every connector gets its identity as `tidegate connector --join` does.
async fn enrol_all(count: usize, key: &JoinKey, place: &Path) -> Result<()> {
    let gate = Arc::new(Semaphore::new(ENROLLING));
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let (gate, key, state) = (Arc::clone(&gate), key.clone(), place.join(format!("k{number}")));
        tasks.spawn(async move {
            let _permit = gate.acquire_owned().await?;
            enrol::enrol_connector(&key, &state, &format!("bench {number}")).await?;
            anyhow::Ok(())
        });
    }
    let mut done = 0;
    while let Some(enrolled) = tasks.join_next().await {
        enrolled??;
        done += 1;
        if done % 200 == 0 {
            eprintln!("{done} of {count} connectors enrolled");
        }
    }
    Ok(())
}

/// What strikes came to in one state of the database.
#[derive(Debug)]
struct Struck {
    state: &'static str,
    /// From the request to each connector's core, sorted, in milliseconds.
    enforced: Vec<u64>,
    /// Of so many that should have.
    of: usize,
    /// From the request to its answer, the longest, in milliseconds.
    answered: u64,
}

impl Struck {
    fn p(&self, of_thousand: usize) -> u64 {
        let last = self.enforced.len().saturating_sub(1);
        self.enforced.get((self.enforced.len() * of_thousand / 1000).min(last)).copied().unwrap_or(u64::MAX)
    }

    fn holds(&self) -> bool {
        self.enforced.len() == self.of && u128::from(self.p(990)) <= ENFORCED_WITHIN.as_millis()
    }
}

async fn strike_all(state: &'static str, api: &ApiClient, fleet: &Fleet, users: &[String]) -> Result<Struck> {
    let mut struck = Struck { state, enforced: Vec::new(), of: users.len() * fleet.count(), answered: 0 };
    let mut asked = Vec::new();
    for user in users {
        let subject: RevokedSubject = user.parse().context("a user's id")?;
        fleet.watch(subject);
        let began = Instant::now();
        let outcome: Value = api.post("/api/v1/strikes", &json!({"subject": user})).await?;
        let took = u64::try_from(began.elapsed().as_millis())?;
        struck.answered = struck.answered.max(took);
        ensure!(outcome["durable"] == "two holders", "{state}: {outcome}");
        asked.push((subject, began));
        tokio::time::sleep(APART).await;
    }
    let end = Instant::now() + ENFORCED_WITHIN * 3;
    let mut seen: Vec<Enforced> = Vec::new();
    while seen.len() < struck.of && Instant::now() < end {
        seen.extend(fleet.take());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for enforced in seen {
        let began = asked.iter().find(|(subject, _)| *subject == enforced.subject).context("a subject")?.1;
        struck.enforced.push(u64::try_from(enforced.at.saturating_duration_since(began).as_millis())?);
    }
    struck.enforced.sort_unstable();
    eprintln!(
        "{state}: {} of {} enforced, p50 {} ms, p99 {} ms, longest {} ms; answered within {} ms",
        struck.enforced.len(),
        struck.of,
        struck.p(500),
        struck.p(990),
        struck.enforced.last().copied().unwrap_or(0),
        struck.answered
    );
    Ok(struck)
}

/// Devices straight into the database, as a restore brings them: enrolling each takes a transaction of its own.
async fn add_devices(controller: &Controller, owner: &str, enrolled_by: &str, count: usize) -> Result<()> {
    let store = Store::open(&controller.database(), Opening::MustExist).await?;
    let dataset = store.load().await?.context("a dataset")?;
    let organization = dataset.organizations.first().context("an organization")?.organization.id;
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let mut change = store.change(Scope::Organization(organization), "bench", now).await?;
    let (owner, enrolled_by) = (Member::User(owner.parse()?), enrolled_by.parse()?);
    for number in 0..count {
        let hash = trust::sha256(&[b"bench/device", &u64::try_from(number)?.to_be_bytes()]);
        let mut random = [0; 10];
        random.copy_from_slice(&hash[..10]);
        let device = Device {
            id: wire::DeviceId::from_time_and_random(now, random),
            owner,
            name: format!("bench {number}"),
            state: store::DeviceState::Active,
            identity_key: hash,
            generation: 1,
            enrolled_by,
            created_ms: now,
        };
        change.insert_device(&device).await?;
    }
    change.commit("restore devices", "bench", "{}").await?;
    store.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    locks::raise_descriptor_limit();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let place = tempfile::Builder::new().prefix("tg-weather-").tempdir()?;
    let place = place.path();
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let state = place.join("controller");
    let mut controller = Controller { program: options.tidegate.clone(), state, listen, role: None };
    controller.start().await?;
    let api = controller.api();
    let made: Value = api.post("/api/v1/enrolment-keys", &json!({"kind": "pop"})).await?;
    let pop_key = made["join_key"].as_str().context("a key")?;
    let pop_state = place.join("pop").display().to_string();
    let pop = ["pop", "--state", &pop_state, "--listen", &udp, "--advertise", &udp];
    let pop = Role::start(&options.tidegate, &pop, Some(pop_key)).await?;
    let site: Value =
        api.post("/api/v1/sites", &json!({"name": "bench", "prefixes": ["10.0.0.0/8"]})).await?;
    let mut users = Vec::new();
    for number in 0..options.strikes * 3 {
        let body = json!({"name": format!("user {number}"), "email": format!("u{number}@lab.example")});
        let user: Value = api.post("/api/v1/users", &body).await?;
        users.push(user["id"].as_str().context("a user")?.to_owned());
    }
    let body = json!({"kind": "connector", "site": site["id"], "cap": options.connectors});
    let made: Value = api.post("/api/v1/enrolment-keys", &body).await?;
    let key: JoinKey = made["join_key"].as_str().context("a key")?.parse()?;
    let began = Instant::now();
    enrol_all(options.connectors, &key, place).await?;
    eprintln!("{} connectors enrolled in {:.1} s", options.connectors, began.elapsed().as_secs_f64());
    let fleet = Fleet::start(place, options.connectors)?;
    let end = Instant::now() + Duration::from_secs(120);
    while fleet.fresh() < options.connectors {
        ensure!(
            Instant::now() < end,
            "only {} of {} connectors are fresh",
            fleet.fresh(),
            options.connectors
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    controller.attached().await?;
    // PoPs tell who is attached once a second.
    tokio::time::sleep(Duration::from_secs(3)).await;

    let mut phases = users.chunks(options.strikes);
    let mut next = || phases.next().context("users for every phase");
    let alive = strike_all("database alive", &controller.api(), &fleet, next()?).await?;
    let locks = Locks::take(&controller.database()).await?;
    let locked = strike_all("database locked", &controller.api(), &fleet, next()?).await?;
    drop(locks);
    controller.kill().await?;
    controller.rename_database("", ".away")?;
    controller.start().await?;
    controller.attached().await?;
    let gone = strike_all("database gone", &controller.api(), &fleet, next()?).await?;
    drop((fleet, pop));

    // Ten thousand devices, seen once from the database, then from the copy alone.
    controller.kill().await?;
    controller.rename_database(".away", "")?;
    controller.start().await?;
    let owner = users.last().context("a user")?;
    let body = json!({"kind": "device", "owner": owner});
    let made: Value = controller.api().post("/api/v1/enrolment-keys", &body).await?;
    let key_id = made["key"]["id"].as_str().context("the key's id")?.to_owned();
    controller.kill().await?;
    add_devices(&controller, owner, &key_id, options.devices).await?;
    controller.start().await?;
    let listed: Value = controller.api().get("/api/v1/devices?limit=1000").await?;
    ensure!(listed["items"].as_array().is_some_and(|items| !items.is_empty()), "no devices: {listed}");
    controller.kill().await?;
    controller.rename_database("", ".away")?;
    let mut cold = Vec::new();
    for _ in 0..5 {
        cold.push(controller.start().await?);
        let status: Value = controller.api().get("/api/v1/status").await?;
        ensure!(status["snapshot"]["source"] == "disk_copy", "it did not start from its copy: {status}");
        controller.kill().await?;
    }
    cold.sort_unstable();
    let (middle, worst) = (cold[cold.len() / 2], cold[cold.len() - 1]);

    let phases = [&alive, &locked, &gone];
    if options.json {
        let strikes: Vec<Value> = phases
            .iter()
            .map(|it| json!({"state": it.state, "enforced": it.enforced.len(), "of": it.of, "p50_ms": it.p(500), "p99_ms": it.p(990), "longest_ms": it.enforced.last(), "answered_ms": it.answered}))
            .collect();
        println!(
            "{}",
            json!({"connectors": options.connectors, "strikes": strikes, "devices": options.devices, "cold_start_ms": middle.as_millis(), "cold_start_worst_ms": worst.as_millis()})
        );
    } else {
        for it in phases {
            println!(
                "{}: {} strikes at {} connectors, enforced p50 {} ms, p99 {} ms, longest {} ms ({} of {}); answered within {} ms",
                it.state,
                options.strikes,
                options.connectors,
                it.p(500),
                it.p(990),
                it.enforced.last().copied().unwrap_or(0),
                it.enforced.len(),
                it.of,
                it.answered
            );
        }
        println!(
            "controller with {} devices and no database, from exec to its first answer: p50 {} ms, longest {} ms of {}",
            options.devices,
            middle.as_millis(),
            worst.as_millis(),
            cold.len()
        );
    }
    for it in phases {
        ensure!(it.holds(), "{}: p99 {} ms, {} of {}", it.state, it.p(990), it.enforced.len(), it.of);
    }
    ensure!(worst <= SERVES_WITHIN, "a cold start took {} ms", worst.as_millis());
    Ok(())
}
