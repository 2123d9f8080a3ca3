//! `bench-api`: what the REST API and the console of a real controller answer in, over TLS on loopback, with ten thousand
//! resources and ten thousand devices, on SQLite or on a PostgreSQL of its own.
//!
//! The load is open: each request has its time, and its latency counts from then on, whether or not the ones before it
//! were answered. A controller that falls behind is charged for everybody who waits.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is a command-line program")]
#![expect(clippy::disallowed_methods, reason = "it measures real processes by the real clock")]

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use enrol::ApiClient;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use store::{
    Device, DeviceState, Location, Member, Opening, Ports, Resource, ResourceMode, Scope, Size, Store,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpSocket, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

/// Objects of each kind that one transaction makes.
const AT_ONCE: usize = 1000;
/// Connections at once: each has one request under way.
const CONNECTIONS: u64 = 48;

/// Reads, lists, writes and the console's pages.
#[derive(Debug, Parser)]
struct Options {
    /// The program under test.
    #[arg(long, default_value = "target/release/tidegate")]
    tidegate: PathBuf,
    /// How many resources, and how many devices.
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Reads of single objects a second.
    #[arg(long, default_value_t = 1000)]
    reads: u64,
    /// Seconds of each part.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Operations of one bulk at the end, each of which makes a group; 0 leaves it out.
    #[arg(long, default_value_t = 10_000)]
    bulk: usize,
    /// Connections of a crowd at the end that asks for lists without a pause, while strikes, changes and reads are timed
    /// beside it; 0 leaves it out.
    #[arg(long, default_value_t = 0)]
    crowd: usize,
    /// Is the crowd, of the controller at this port, with the token that comes in.
    #[arg(long, hide = true)]
    crowd_of: Option<u16>,
    /// The console's CA, for that.
    #[arg(long, hide = true)]
    ca: Option<PathBuf>,
    /// Where the configuration is.
    #[arg(long, value_enum, default_value_t = Database::Sqlite)]
    database: Database,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Database {
    /// A file of the controller's.
    Sqlite,
    /// A server that is started for this from the installed binaries.
    Postgres,
}

struct Controller {
    child: Child,
    state: PathBuf,
    port: u16,
    database: Location,
}

impl Controller {
    async fn start(program: &Path, state: &Path, port: u16, database: Option<&str>) -> Result<Self> {
        let mut command = Command::new(program);
        command.env_remove("TIDEGATE_DATABASE_URL");
        if let Some(url) = database {
            command.env("TIDEGATE_DATABASE_URL", url);
        }
        let mut child = command
            .args(["--json", "controller", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--url", &format!("https://localhost:{port}"), "--state"])
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("its output was asked for")?;
        let ready =
            BufReader::new(stdout).lines().next_line().await?.context("it ended before it was ready")?;
        ensure!(ready.contains("ready"), "not ready: {ready}");
        let location = match database {
            Some(url) => Location::Postgres(url.parse()?),
            None => state.join("tidegate.db").as_path().into(),
        };
        Ok(Self { child, state: state.to_owned(), port, database: location })
    }

    fn api(&self) -> ApiClient {
        ApiClient::unix(self.state.join("admin.sock"))
    }

    async fn stop(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }
}

fn id(number: usize) -> (u64, [u8; 10]) {
    let hash = trust::sha256(&[b"bench/api", &(number as u64).to_be_bytes()]);
    let mut random = [0; 10];
    random.copy_from_slice(&hash[..10]);
    (1_700_000_000_000 + number as u64, random)
}

/// Straight into the database: making each by itself would take a transaction each.
async fn furnish(controller: &Controller, objects: usize) -> Result<(Vec<String>, Vec<String>)> {
    let api = controller.api();
    let site: Value =
        api.post("/api/v1/sites", &json!({"name": "bench", "prefixes": ["10.0.0.0/8"]})).await?;
    let site = site["id"].as_str().context("a site")?.parse()?;
    let body = json!({"name": "Bench", "email": "bench@example.com"});
    let user: Value = api.post("/api/v1/users", &body).await?;
    let user = user["id"].as_str().context("a user")?;
    let key: Value = api.post("/api/v1/enrolment-keys", &json!({"kind": "device", "owner": user})).await?;
    let enrolled_by = key["key"]["id"].as_str().context("a key")?.parse()?;
    let owner: Member = user.parse()?;
    let store = Store::open(controller.database.clone(), Opening::MustExist).await?;
    let dataset = store.load().await?.context("a database")?;
    let organization = dataset.organizations.first().context("an organization")?.organization.id;
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let (mut resources, mut devices) = (Vec::new(), Vec::new());
    let scope = Scope::Organization(organization);
    let mut change = store.change_of(scope, "bench", now, Size::Long).await?;
    for number in 0..objects {
        // A server holds a transaction for ten seconds at most.
        if number > 0 && number % AT_ONCE == 0 {
            change.commit("furnish", "bench", "{}").await?;
            change = store.change_of(scope, "bench", now, Size::Long).await?;
        }
        let (at, random) = id(number);
        let resource = Resource {
            id: wire::ResourceId::from_time_and_random(at, random),
            site,
            name: format!("resource {number}"),
            alias: None,
            address: format!("10.{}.{}.{}", number / 65_536, number / 256 % 256, number % 256),
            ports: vec![Ports::tcp(443, 443)],
            mode: ResourceMode::Standard,
            created_ms: now,
        };
        change.insert_resource(&resource).await?;
        resources.push(resource.id.to_string());
        let device = Device {
            id: wire::DeviceId::from_time_and_random(at, random),
            owner,
            name: format!("device {number}"),
            state: DeviceState::Active,
            identity_key: trust::sha256(&[b"bench/device", &(number as u64).to_be_bytes()]),
            generation: 1,
            enrolled_by,
            created_ms: now,
        };
        change.insert_device(&device).await?;
        devices.push(device.id.to_string());
    }
    change.commit("furnish", "bench", "{}").await?;
    store.close().await;
    Ok((resources, devices))
}

/// One request and what it is for.
#[derive(Debug, Clone)]
struct Asked {
    method: Method,
    path: String,
    body: Option<Value>,
}

type Maker = Arc<dyn Fn(u64) -> Asked + Send + Sync>;

/// What a part came to.
#[derive(Debug)]
struct Came {
    name: &'static str,
    /// In microseconds, sorted.
    took: Vec<u64>,
    failed: u64,
    limit_ms: u64,
}

impl Came {
    fn p(&self, of_thousand: usize) -> f64 {
        let last = self.took.len().saturating_sub(1);
        let at = (self.took.len() * of_thousand / 1000).min(last);
        self.took.get(at).copied().unwrap_or(u64::MAX) as f64 / 1000.0
    }

    fn holds(&self) -> bool {
        self.failed == 0 && !self.took.is_empty() && self.p(990) <= self.limit_ms as f64
    }

    fn line(&self) -> String {
        format!(
            "{:<8} {:>6} answers  p50 {:>7.2} ms  p99 {:>7.2} ms  longest {:>8.2} ms  failed {}  (p99 ≤ {} ms: {})",
            self.name,
            self.took.len(),
            self.p(500),
            self.p(990),
            self.p(1000),
            self.failed,
            self.limit_ms,
            if self.holds() { "holds" } else { "DOES NOT HOLD" }
        )
    }
}

struct Target {
    port: u16,
    tls: TlsConnector,
    token: String,
    /// Of somebody who is signed in.
    cookies: String,
}

/// Every list of the console, and what it makes of all of them.
const PAGES: [&str; 12] = [
    "/",
    "/resources",
    "/devices",
    "/people",
    "/sites",
    "/policies",
    "/access",
    "/topology",
    "/flows",
    "/audit",
    "/search?q=resource+77",
    "/why?who=Bench&to=resource+77",
];

impl Target {
    async fn connect(&self) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>> {
        self.connect_from(None).await
    }

    async fn connect_from(
        &self,
        from: Option<IpAddr>,
    ) -> Result<hyper::client::conn::http1::SendRequest<Full<Bytes>>> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = from {
            socket.bind((from, 0).into())?;
        }
        let tcp: TcpStream = socket.connect(([127, 0, 0, 1], self.port).into()).await?;
        tcp.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from("localhost")?, tcp).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    fn request(&self, asked: &Asked) -> Result<Request<Full<Bytes>>> {
        let request = Request::builder()
            .method(asked.method.clone())
            .uri(&asked.path)
            .header(header::HOST, "localhost");
        if !asked.path.starts_with("/api/") {
            return Ok(request.header(header::COOKIE, &self.cookies).body(Full::default())?);
        }
        let body = asked.body.as_ref().map(Value::to_string).unwrap_or_default();
        Ok(request
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?)
    }

    /// Makes an owner by a link, as a browser does, and keeps their cookies.
    async fn sign_in(&mut self, link: &str) -> Result<()> {
        let path = link.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        let path = path.context("a link with a path")?;
        let mut sender = self.connect().await?;
        let form = Request::builder().uri(path).header(header::HOST, "localhost").body(Full::default())?;
        let form = sender.send_request(form).await?;
        let before = cookies(form.headers());
        let page = String::from_utf8(form.into_body().collect().await?.to_bytes().to_vec())?;
        let token =
            page.split_once("name=\"form_token\" value=\"").and_then(|(_, rest)| rest.split('"').next());
        let token = token.context("a form with a token")?;
        let body = format!(
            "name=Bench+owner&email=owner%40example.com&passphrase=correct+horse+battery+staple&again=correct+horse+battery+staple&form_token={token}"
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::COOKIE, before)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(body)))?;
        // The connection has to look once more before it takes the next request.
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        ensure!(answer.status().is_redirection(), "signing in: {}", answer.status());
        self.cookies = cookies(answer.headers());
        Ok(())
    }
}

/// Sends `rate` requests a second for so many seconds, each at its time.
async fn part(
    target: &Arc<Target>,
    name: &'static str,
    rate: u64,
    seconds: u64,
    limit_ms: u64,
    make: Maker,
) -> Result<Came> {
    let next = Arc::new(AtomicU64::new(0));
    let count = rate * seconds;
    let began = Instant::now() + Duration::from_millis(200);
    let mut workers = JoinSet::new();
    for _ in 0..CONNECTIONS.min(count) {
        let (target, next, make) = (Arc::clone(target), Arc::clone(&next), Arc::clone(&make));
        workers.spawn(async move {
            let mut sender = target.connect().await?;
            let (mut took, mut failed) = (Vec::new(), 0);
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return anyhow::Ok((took, failed));
                }
                let due = began + Duration::from_micros(number * 1_000_000 / rate);
                tokio::time::sleep_until(due.into()).await;
                if sender.ready().await.is_err() {
                    sender = target.connect().await?;
                }
                let asked = make(number);
                let answer = sender.send_request(target.request(&asked)?).await;
                let fine = match answer {
                    Ok(answer) => {
                        let fine = answer.status().is_success();
                        answer.into_body().collect().await.is_ok() && fine
                    }
                    Err(_) => false,
                };
                if fine { took.push(u64::try_from(due.elapsed().as_micros())?) } else { failed += 1 }
            }
        });
    }
    let mut came = Came { name, took: Vec::new(), failed: 0, limit_ms };
    while let Some(worker) = workers.join_next().await {
        let (took, failed) = worker??;
        came.took.extend(took);
        came.failed += failed;
    }
    came.took.sort_unstable();
    println!("{}", came.line());
    Ok(came)
}

/// What a crowd got: answers, refusals that say when to come back, and anything else.
#[derive(Debug, Default)]
struct Got {
    served: u64,
    sent_away: u64,
    failed: u64,
}

/// Clients that ask for lists as fast as they are answered, in a process of their own: what is timed beside them does not
/// wait for them in this one.
struct Crowd(Child);

impl Crowd {
    async fn gather(target: &Target, ca: &Path, count: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--crowd", &count.to_string(), "--crowd-of", &target.port.to_string(), "--ca"])
            .arg(ca)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdin = child.stdin.as_mut().context("its input was asked for")?;
        stdin.write_all(format!("{}\n", target.token).as_bytes()).await?;
        let stdout = child.stdout.as_mut().context("its output was asked for")?;
        let mut ready = [0; 6];
        stdout.read_exact(&mut ready).await.context("the crowd has not come together")?;
        Ok(Self(child))
    }

    async fn ends(mut self) -> Result<Got> {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().await?;
        let numbers: [u64; 3] = serde_json::from_slice(&output.stdout)?;
        let [served, sent_away, failed] = numbers;
        Ok(Got { served, sent_away, failed })
    }
}

/// The crowd, in its own process.
async fn crowd(port: u16, options: &Options) -> Result<()> {
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    let token = input.next_line().await?.context("a token")?;
    let ca = options.ca.as_ref().context("--ca")?;
    let target = Arc::new(Target { port, tls: tls(ca)?, token, cookies: String::new() });
    let is_over = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for number in 0..options.crowd {
        // From many addresses of this host, for one has a limit.
        let from = IpAddr::from([127, 0, 1, u8::try_from(1 + number / 64)?]);
        let mut sender = target.connect_from(Some(from)).await?;
        let (target, is_over) = (Arc::clone(&target), Arc::clone(&is_over));
        workers.spawn(async move {
            let (mut got, mut asks) = (Got::default(), number as u64);
            while !is_over.load(Ordering::Relaxed) {
                asks += 1;
                if sender.ready().await.is_err() {
                    sender = target.connect_from(Some(from)).await?;
                }
                let answer = sender.send_request(target.request(&list(asks))?).await;
                let Ok(answer) = answer else {
                    got.failed += 1;
                    continue;
                };
                let (status, told) = (answer.status(), answer.headers().contains_key(header::RETRY_AFTER));
                let whole = answer.into_body().collect().await.is_ok();
                match status.as_u16() {
                    200 if whole => got.served += 1,
                    503 | 429 if told => {
                        got.sent_away += 1;
                        // It comes again far sooner than it was told.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    _ => got.failed += 1,
                }
            }
            anyhow::Ok(got)
        });
    }
    println!("ready");
    let _ = input.next_line().await;
    is_over.store(true, Ordering::Relaxed);
    let mut all = Got::default();
    while let Some(worker) = workers.join_next().await {
        let got = worker??;
        all.served += got.served;
        all.sent_away += got.sent_away;
        all.failed += got.failed;
    }
    println!("{}", json!([all.served, all.sent_away, all.failed]));
    Ok(())
}

/// Lists of two hundred, in many orders.
fn list(number: u64) -> Asked {
    let path = match number % 4 {
        0 => "/api/v1/resources?limit=200".to_owned(),
        1 => "/api/v1/devices?limit=200&sort=name".to_owned(),
        2 => format!("/api/v1/resources?limit=200&q=resource%20{}", number % 97),
        _ => "/api/v1/devices?limit=200&sort=-created&state=active".to_owned(),
    };
    Asked { method: Method::GET, path, body: None }
}

fn tls(ca: &Path) -> Result<TlsConnector> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).context("the console's CA")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(tls)))
}

/// Strikes and changes with a crowd beside them and without it.
async fn beside_a_crowd(
    target: &Arc<Target>,
    ca: &Path,
    options: &Options,
    [strikes, writes]: [&Maker; 2],
) -> Result<()> {
    println!("without a crowd:");
    part(target, "strikes", 5, options.seconds, 1000, Arc::clone(strikes)).await?;
    part(target, "writes", 10, options.seconds, 100, Arc::clone(writes)).await?;
    let crowd = Crowd::gather(target, ca, options.crowd).await?;
    println!("beside {} connections that ask for lists without a pause:", options.crowd);
    let began = Instant::now();
    part(target, "strikes", 5, options.seconds, 1000, Arc::clone(strikes)).await?;
    part(target, "writes", 10, options.seconds, 100, Arc::clone(writes)).await?;
    let took = began.elapsed().as_secs_f64();
    let got = crowd.ends().await?;
    println!(
        "crowd    {:>6} lists, {:.0} a second; {} refused and told when to come back; anything else: {}",
        got.served,
        got.served as f64 / took,
        got.sent_away,
        got.failed
    );
    Ok(())
}

/// What was set, as the next request sends it.
fn cookies(headers: &http::HeaderMap) -> String {
    let set = headers.get_all(header::SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    set.filter_map(|value| value.split(';').next()).collect::<Vec<_>>().join("; ")
}

/// One request that makes so many groups.
async fn bulk(target: &Target, count: usize) -> Result<()> {
    let operations: Vec<Value> = (0..count)
        .map(|number| json!({"method": "POST", "path": "/groups", "body": {"name": format!("group {number}")}}))
        .collect();
    let asked = Asked {
        method: Method::POST,
        path: "/api/v1/bulk".to_owned(),
        body: Some(json!({"operations": operations})),
    };
    let mut sender = target.connect().await?;
    let began = Instant::now();
    let answer = sender.send_request(target.request(&asked)?).await?;
    let (status, body) = (answer.status(), answer.into_body().collect().await?.to_bytes());
    ensure!(status.is_success(), "a bulk of {count}: {status} {}", String::from_utf8_lossy(&body));
    let body: Value = serde_json::from_slice(&body)?;
    let made = body["results"].as_array().map_or(0, Vec::len);
    ensure!(made == count, "a bulk of {count} made {made}");
    println!("bulk     {count:>6} operations in one request: {:.2} s", began.elapsed().as_secs_f64());
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(port) = options.crowd_of {
        return crowd(port, &options).await;
    }
    let server = match options.database {
        Database::Sqlite => None,
        Database::Postgres => Some(pgscratch::Cluster::start().context("a PostgreSQL of its own")?),
    };
    let url = server.as_ref().map(|server| server.database("bench")).transpose()?;
    let url = url.as_deref();
    let scratch = tempfile::tempdir()?;
    let state = scratch.path().join("controller");
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let controller = Controller::start(&options.tidegate, &state, port, url).await?;
    let (resources, devices) = furnish(&controller, options.objects).await?;
    controller.stop().await?;
    let controller = Controller::start(&options.tidegate, &state, port, url).await?;
    let token = json!({"name": "bench", "scopes": ["read", "write", "strike"]});
    let token: Value = controller.api().post("/api/v1/tokens", &token).await?;
    let token = token["token"].as_str().context("a token")?.to_owned();
    let ca = state.join("console-ca.pem");
    let mut target = Target { port: controller.port, tls: tls(&ca)?, token, cookies: String::new() };
    let link: Value = controller.api().post("/api/v1/owner-links", &json!({})).await?;
    target.sign_in(link["link"].as_str().context("a link")?).await?;
    let target = Arc::new(target);
    eprintln!("{} resources, {} devices; {CONNECTIONS} connections", resources.len(), devices.len());
    let get = |path: String| Asked { method: Method::GET, path, body: None };
    let (some_resources, some_devices) = (resources.clone(), devices.clone());
    let reads: Maker = Arc::new(move |number| {
        // Steps through everything in an order that no cache likes.
        let place = usize::try_from(number * 7_919).unwrap_or(0);
        get(match number % 4 {
            0 => format!("/api/v1/resources/{}", some_resources[place % some_resources.len()]),
            1 | 2 => format!("/api/v1/devices/{}", some_devices[place % some_devices.len()]),
            _ => "/api/v1/settings".to_owned(),
        })
    });
    let lists: Maker = Arc::new(list);
    let writes: Maker = Arc::new(move |number| Asked {
        method: Method::PATCH,
        path: format!(
            "/api/v1/resources/{}",
            resources[usize::try_from(number * 31).unwrap_or(0) % resources.len()]
        ),
        body: Some(json!({"name": format!("written {number}")})),
    });
    let mut all = vec![part(&target, "reads", options.reads, options.seconds, 10, reads).await?];
    all.push(part(&target, "lists", 20, options.seconds, 50, lists).await?);
    all.push(part(&target, "writes", 10, options.seconds, 100, Arc::clone(&writes)).await?);
    // A page is far more than an answer of the API: what people wait for, and not what scripts send.
    let pages: Maker =
        Arc::new(move |number| get(PAGES[usize::try_from(number).unwrap_or(0) % PAGES.len()].to_owned()));
    all.push(part(&target, "pages", 6, options.seconds, 50, pages).await?);
    if options.crowd > 0 {
        let next = AtomicU64::new(0);
        let strikes: Maker = Arc::new(move |_| {
            let place = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(0) % devices.len();
            let body = Some(json!({"subject": devices[place]}));
            Asked { method: Method::POST, path: "/api/v1/strikes".to_owned(), body }
        });
        beside_a_crowd(&target, &ca, &options, [&strikes, &writes]).await?;
    }
    if options.bulk > 0 {
        bulk(&target, options.bulk).await?;
    }
    controller.stop().await?;
    ensure!(all.iter().all(Came::holds), "not every figure was reached");
    Ok(())
}
