//! `bench-idle`: what idle clients cost the control plane.
//!
//! Real controller and PoP processes, and many clients of this very code base in one process: each enrols through
//! the HTTPS API with the same key, starts from its own state directory, registers, and then does nothing but its
//! keepalives. SQLite's own trace counts the statements and rows.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use client::{Client, ClientOptions};
use enrol::ApiClient;
use serde_json::{Value, json};
use std::{
    net::{TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use trust::JoinKey;

/// Idle clients and the database.
#[derive(Debug, Parser)]
struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// How many clients.
    #[arg(long, default_value_t = 1000)]
    clients: usize,
    /// How long they idle.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Enrolments at once.
const ENROLLING: usize = 8;
/// After the last registration: first slices are asked within two seconds, presence told within one.
const SETTLE: Duration = Duration::from_secs(20);

/// A role of the program under test; ends with this value.
struct Role(Child);

impl Role {
    async fn start(options: &Options, arguments: &[&str], secret: Option<&str>) -> Result<Self> {
        let mut command = Command::new(&options.tidegate);
        command.arg("--json").args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        if let Some(secret) = secret {
            command.env("TIDEGATE_JOIN", secret);
        }
        let mut child =
            command.spawn().with_context(|| format!("starting {}", options.tidegate.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if serde_json::from_str::<Value>(&line).is_ok_and(|value| value["event"] == "ready") {
                    return Ok(());
                }
            }
            bail!("{arguments:?} ended before it was ready")
        };
        tokio::time::timeout(Duration::from_secs(30), ready).await.context("not ready within 30 s")??;
        Ok(Self(child))
    }

    /// Seconds of processor time and bytes of resident memory, from proc(5).
    fn cost(&self) -> Result<(f64, u64)> {
        let pid = self.0.id().context("it ended")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("proc(5)")?.1.split_whitespace().collect();
        let field =
            |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok()).context("proc(5)");
        // utime and stime are fields 14 and 15, in ticks of 10 ms on every Linux; rss is field 24, in pages.
        Ok(((field(11)? + field(12)?) as f64 / 100.0, field(21)? * 4096))
    }
}

async fn pop_status(state: &Path) -> Result<Value> {
    let mut socket = tokio::net::UnixStream::connect(state.join(pop::STATUS_SOCKET)).await?;
    let mut text = String::new();
    socket.read_to_string(&mut text).await?;
    Ok(serde_json::from_str(&text)?)
}

/// Each client has a UDP socket or two, a proxy port and two Unix sockets.
#[expect(unsafe_code, reason = "the standard library does not set resource limits")]
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a whole rlimit of this frame and keep none.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

async fn enrol_all(options: &Options, key: &JoinKey, place: &Path) -> Result<()> {
    let gate = Arc::new(Semaphore::new(ENROLLING));
    let mut tasks = JoinSet::new();
    for number in 0..options.clients {
        let (gate, key, state) = (Arc::clone(&gate), key.clone(), place.join(format!("c{number}")));
        tasks.spawn(async move {
            let _permit = gate.acquire_owned().await?;
            enrol::enrol_device(&key, &state, &format!("bench {number}")).await?;
            anyhow::Ok(())
        });
    }
    let mut done = 0;
    while let Some(enrolled) = tasks.join_next().await {
        enrolled??;
        done += 1;
        if done % 100 == 0 {
            eprintln!("{done} of {} enrolled", options.clients);
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    raise_descriptor_limit();
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        bail!("another TLS provider is installed already");
    }
    let place = tempfile::Builder::new().prefix("tg-idle-").tempdir()?;
    let place = place.path();
    let https = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let (controller_state, pop_state) = (place.join("controller"), place.join("pop"));
    let (controller_dir, pop_dir) = (controller_state.display().to_string(), pop_state.display().to_string());
    let url = format!("https://localhost:{}", https.port());
    let controller = Role::start(
        &options,
        &["controller", "--state", &controller_dir, "--listen", &https.to_string(), "--url", &url],
        None,
    )
    .await?;
    let api = ApiClient::unix(controller_state.join("admin.sock"));
    let made: Value = api.post("/api/v1/enrolment-keys", &json!({"kind": "pop"})).await?;
    let pop_key = made["join_key"].as_str().context("a key")?;
    let pop = Role::start(
        &options,
        &["pop", "--state", &pop_dir, "--listen", &udp, "--advertise", &udp],
        Some(pop_key),
    )
    .await?;
    let user: Value =
        api.post("/api/v1/users", &json!({"name": "bench", "email": "bench@lab.example"})).await?;
    let body = json!({"kind": "device", "owner": user["id"], "cap": options.clients});
    let made: Value = api.post("/api/v1/enrolment-keys", &body).await?;
    let key: JoinKey = made["join_key"].as_str().context("a key")?.parse()?;
    let began = Instant::now();
    enrol_all(&options, &key, place).await?;
    eprintln!("{} clients enrolled with one key in {:.1} s", options.clients, began.elapsed().as_secs_f64());

    let (stop, stopped) = watch::channel(());
    let mut clients = JoinSet::new();
    for number in 0..options.clients {
        let state = place.join(format!("c{number}"));
        let proxy = "127.0.0.1:0".parse()?;
        let client = Client::start(ClientOptions {
            run_dir: state.clone(),
            state,
            proxy,
            forwards: Vec::new(),
            port_mapping: portmap::Protocols::NONE,
        })
        .await?;
        let mut stopped = stopped.clone();
        clients.spawn(client.wait(async move {
            let _ = stopped.changed().await;
        }));
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    let all = json!(options.clients);
    while pop_status(&pop_state).await?["sessions"]["devices"] != all {
        ensure!(Instant::now() < deadline, "not all clients registered within two minutes");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    eprintln!("all registered; they idle for {} minutes", options.minutes);
    tokio::time::sleep(SETTLE).await;

    let database = async || api.get::<Value>("/api/v1/diagnostics/database").await;
    let (before, sessions_before) = (database().await?, pop_status(&pop_state).await?);
    let (controller_before, pop_before) = (controller.cost()?, pop.cost()?);
    let end = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    while Instant::now() < end {
        let left = end.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(Duration::from_secs(30))).await;
        eprintln!("{} s left", end.saturating_duration_since(Instant::now()).as_secs());
    }
    let (after, sessions_after) = (database().await?, pop_status(&pop_state).await?);
    let (controller_after, pop_after) = (controller.cost()?, pop.cost()?);
    let number =
        |value: &Value, name: &str| value[name].as_u64().with_context(|| format!("{name} in {value}"));
    let statements = number(&after, "statements")? - number(&before, "statements")?;
    let rows = number(&after, "rows_written")? - number(&before, "rows_written")?;
    let registered = |status: &Value| number(&status["sessions"]["counters"], "registered");
    let again = registered(&sessions_after)? - registered(&sessions_before)?;
    let attached = number(&sessions_after["sessions"], "devices")?;
    let keepalives =
        |status: &Value| number(&status["sessions"]["counters"]["messages"], "Keepalive").unwrap_or(0);
    let result = json!({
        "clients": options.clients, "minutes": options.minutes, "statements": statements, "rows_written": rows,
        "attached": attached, "registered_again": again,
        "keepalives": keepalives(&sessions_after) - keepalives(&sessions_before),
        "controller_cpu_s": controller_after.0 - controller_before.0, "pop_cpu_s": pop_after.0 - pop_before.0,
        "pop_rss_kib_per_session": pop_after.1 / 1024 / options.clients as u64,
    });
    if options.json {
        println!("{result}");
    } else {
        println!(
            "{} idle clients for {} minutes: {statements} database statements, {rows} rows written; {attached} attached, \
             {again} registered again, {} keepalives; controller {:.1} s and PoP {:.1} s of processor time; PoP {} KiB a session",
            options.clients,
            options.minutes,
            result["keepalives"],
            controller_after.0 - controller_before.0,
            pop_after.0 - pop_before.0,
            result["pop_rss_kib_per_session"],
        );
    }
    drop(stop);
    while clients.join_next().await.is_some() {}
    ensure!(
        statements == 0 && rows == 0,
        "idle clients cost the database {statements} statements and {rows} rows"
    );
    ensure!(attached == options.clients as u64 && again == 0, "sessions were lost");
    Ok(())
}
