//! One installation for all cells: enrolled once, then its client and connector are started wherever a cell
//! has them, from the same state directories.

use super::{
    super::{
        daemon::Daemon,
        fleet::Fleet,
        report::{Report, Seen},
        services::{self, PAGE, WebServer},
    },
    kind::{Blocked, Kind, Path},
    meter::Meter,
    net::{Net, POP_NAME, Role, SITES_V6, Side, introduce},
    picture::Picture,
};
use crate::{
    process::{Interrupt, run, signal_process, wait_until},
    test::fresh_release_binary,
};
use anyhow::{Context as _, Result, ensure};
use std::{
    fs,
    time::{Duration, Instant},
};

const START: Duration = Duration::from_secs(30);
/// Bytes of a cell's download.
pub const DOWNLOAD: u32 = 50_000_000;
/// It takes a second or less where nothing is lost.
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(30);
/// The page.
pub const URL: &str = "http://web.lab.internal/";
/// The file of [`DOWNLOAD`] bytes.
pub const BIG: &str = "http://web.lab.internal/big";
/// The same file, slowly.
pub const PACED: &str = "http://web.lab.internal/paced/big";
/// The file of a million bytes.
pub const SMALL: &str = "http://web.lab.internal/small";

/// Everything that stays between cells.
pub struct Bench {
    /// `tidegate serve`.
    pub serve: Daemon,
    /// The state directories.
    pub fleet: Fleet,
    /// The networks.
    pub net: Net,
    /// The web server inside the site.
    pub web: WebServer,
    /// The hash of the big file.
    pub big: String,
    /// The person's Ctrl-C.
    pub interrupt: Interrupt,
}

/// A running client and connector, each in its network.
pub struct Pair {
    /// The client's process.
    pub client_process: Daemon,
    /// The connector's process.
    pub connector_process: Daemon,
    /// The client's side.
    pub client: Side,
    /// The connector's side.
    pub connector: Side,
}

/// A page, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// From the request to the first byte.
    pub first: Duration,
    /// When the first byte came.
    pub at: Instant,
}

impl Bench {
    /// Starts `serve` and enrols the two agents, in open networks.
    ///
    /// # Errors
    /// A step failed; it is in the report.
    pub fn create(report: &mut Report, interrupt: &Interrupt) -> Result<Self> {
        let mut net = report.step("the internet, dual stack", || Ok(Seen::new(Net::create(interrupt)?)))?;
        let fleet = Fleet::new(fresh_release_binary()?, interrupt)?;
        let web = report.step("nginx answers inside the site", || {
            let web = WebServer::start(&net.web, &fleet.place().join("web"), DOWNLOAD as usize, interrupt)?;
            Ok(Seen::new(web))
        })?;
        let serve = report.step("tidegate serve on both families", || {
            Meter::install(&net.server)?;
            Ok(Seen::new(start_serve(&fleet, &net)?))
        })?;
        report
            .step("a site, a resource, a user and a policy", || organization(&fleet, &net).map(Seen::new))?;
        report.step("connector and device enrol, once for all cells", || {
            enrol(&fleet, &mut net, interrupt).map(Seen::new)
        })?;
        let big = web.big_file_sha256(interrupt)?;
        Ok(Self { serve, fleet, net, web, big, interrupt: interrupt.clone() })
    }

    /// Starts the pair, each in a network of its own.
    ///
    /// # Errors
    /// A network or a process does not come up.
    pub fn apart(&mut self, client: Kind, connector: Kind) -> Result<Pair> {
        let connector = self.net.side(Role::Connector, connector)?;
        let client = self.net.side(Role::Client, client)?;
        introduce(&client, &connector)?;
        self.start(client, connector)
    }

    /// Starts the pair behind one router.
    ///
    /// # Errors
    /// A network or a process does not come up.
    pub fn lan(&mut self, kind: Kind) -> Result<Pair> {
        let (client, connector) = self.net.lan(kind)?;
        self.start(client, connector)
    }

    /// Starts the pair in two rooms behind one router that hairpins.
    ///
    /// # Errors
    /// A network or a process does not come up.
    pub fn rooms(&mut self) -> Result<Pair> {
        let (client, connector) = self.net.rooms()?;
        self.start(client, connector)
    }

    /// Starts the pair in networks that are there.
    ///
    /// # Errors
    /// A process does not come up.
    pub fn start(&self, client: Side, connector: Side) -> Result<Pair> {
        let connector_process = self.fleet.connector(&connector.host).context("the connector")?;
        let client_process = self.fleet.client(&client.host).context("the client")?;
        Ok(Pair { client_process, connector_process, client, connector })
    }

    /// Fetches the page.
    ///
    /// # Errors
    /// It does not come, or another one does.
    pub fn page(&self, pair: &Pair) -> Result<Page> {
        let began = Instant::now();
        let fetched = self.fleet.fetch(&pair.client.host, URL)?;
        ensure!(fs::read_to_string(fetched.body)? == PAGE, "another page came");
        Ok(Page { first: fetched.first, at: began + fetched.first })
    }

    /// Downloads the big file and compares it by hash; gives the rate in Mbit/s.
    ///
    /// # Errors
    /// It does not come, or it differs.
    pub fn download(&self, pair: &Pair) -> Result<f64> {
        let fetched = self.fleet.fetch_within(DOWNLOAD_WITHIN, &pair.client.host, BIG)?;
        let hash = services::sha256(&fetched.body, &self.interrupt)?;
        ensure!(hash == self.big, "the hash differs");
        Ok(f64::from(DOWNLOAD) * 8e-6 / fetched.total.as_secs_f64())
    }

    /// The path that the client says it uses; none when it has no tunnel.
    ///
    /// # Errors
    /// The client does not answer, or has a word that nobody knows.
    pub fn path(&self) -> Result<Option<Path>> {
        let path = self.fleet.path()?;
        path["kind"].as_str().map(str::parse).transpose()
    }

    /// Waits until the client says that it uses this path.
    ///
    /// # Errors
    /// It does not within `deadline`; the error has what it says instead.
    pub fn wait_path(&self, path: Path, deadline: Duration) -> Result<Duration> {
        let began = Instant::now();
        let reached = wait_until(&format!("the path {path}"), deadline, &self.interrupt, || {
            Ok((self.path()? == Some(path)).then(|| began.elapsed()))
        });
        match reached {
            Ok(took) => Ok(took),
            Err(error) => {
                let instead = self.fleet.path()?;
                Err(error.context(format!("the client says {instead}")))
            }
        }
    }

    /// Waits until the client's status and the console's picture both have this path; gives after how long, from now.
    ///
    /// # Errors
    /// One of them does not within `deadline`, or the picture more than `late` after the client.
    pub fn follow(
        &self,
        picture: &Picture,
        path: Path,
        deadline: Duration,
        late: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        let drawn = || picture.path(&self.net.server);
        let (mut client, mut console) = (None, None);
        wait_until(
            &format!("the path {path} at the client and in the picture"),
            deadline,
            &self.interrupt,
            || {
                // The picture is asked last: what it has too early is the better for it.
                client = (self.path()? == Some(path)).then(|| client.unwrap_or_else(Instant::now));
                console = (drawn()? == Some(path)).then(|| console.unwrap_or_else(Instant::now));
                Ok((client.is_some() && console.is_some()).then_some(()))
            },
        )
        .with_context(|| format!("client {:?}, picture {:?}", self.path(), drawn()))?;
        let (client, console) =
            (client.context("the client's time")?, console.context("the picture's time")?);
        let behind = console.saturating_duration_since(client);
        ensure!(behind <= late, "the picture had the path {path} {behind:?} after the client");
        Ok(client.max(console).saturating_duration_since(began))
    }

    /// Waits until the client says that it goes direct **and** a megabyte came without the server's seeing
    /// it: each of the two chooses its own way, and a download is the connector's.
    ///
    /// # Errors
    /// One of them does not within `deadline`.
    pub fn wait_direct(&self, pair: &Pair, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        self.wait_path(Path::Direct, deadline)?;
        let nobody = Blocked { client: false, connector: false };
        let what = "the connector's direct path, by the server's counters";
        wait_until(what, until.saturating_duration_since(Instant::now()), &self.interrupt, || {
            let before = Meter::read(&self.net.server)?;
            self.fleet.fetch_within(deadline, &pair.client.host, SMALL)?;
            let carried = Meter::read(&self.net.server)? - before;
            // Half of a megabyte by each way fits no path, and is no failure before the deadline.
            let went = carried.path(services::SMALL as u64, nobody).ok();
            Ok((went == Some(Path::Direct) && self.path()? == Some(Path::Direct)).then_some(()))
        })
    }

    /// Ends `serve` and all of it at once, as a power cut would.
    ///
    /// # Errors
    /// Its processes are not known, or do not end.
    pub fn kill_serve(&self) -> Result<()> {
        // Its children each lead a group of their own.
        let children = self.serve_children("")?;
        self.serve.signal(libc::SIGKILL);
        for pid in &children {
            signal_process(*pid, libc::SIGKILL);
        }
        wait_until("the end of what serve started", START, &self.interrupt, || {
            let left = children.iter().any(|pid| fs::exists(format!("/proc/{pid}/exe")).unwrap_or(false));
            Ok((!left).then_some(()))
        })
    }

    /// Starts `serve` again where it was.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart_serve(&mut self) -> Result<()> {
        self.serve = start_serve(&self.fleet, &self.net)?;
        Ok(())
    }

    /// Ends the PoP as a crash would; `serve` starts it again.
    ///
    /// # Errors
    /// Its process is not known.
    pub fn kill_pop(&self) -> Result<()> {
        let pops = self.serve_children(" pop ")?;
        ensure!(pops.len() == 1, "serve has {} PoPs", pops.len());
        signal_process(pops[0], libc::SIGKILL);
        Ok(())
    }

    /// The processes that `serve` started and whose command line has this in it.
    fn serve_children(&self, having: &str) -> Result<Vec<u32>> {
        let parent = self.serve.pid().to_string();
        let said = self.net.server.run(START, "pgrep", &["-P", &parent, "-f", having])?.stdout;
        said.lines().map(|pid| Ok(pid.trim().parse()?)).collect()
    }
}

fn start_serve(fleet: &Fleet, net: &Net) -> Result<Daemon> {
    let state = fleet.state("serve").display().to_string();
    let advertise = format!("{POP_NAME}:443");
    let mut serve = fleet.start(
        &net.server,
        "serve",
        &["serve", "--state", &state, "--listen", "[::]:443", "--advertise", &advertise],
    )?;
    fleet.ready(&mut serve, "serve")?;
    Ok(serve)
}

fn organization(fleet: &Fleet, net: &Net) -> Result<()> {
    let commands: [&[&str]; 5] = [
        &["create", "site", "--name", "lab", "--prefix", "10.0.2.0/24", "--prefix", SITES_V6],
        &[
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
        ],
        &["create", "group", "--name", "ops"],
        &["create", "user", "--name", "alice", "--email", "alice@lab.example", "--group", "ops"],
        &["create", "policy", "--name", "ops reach the lab", "--group", "ops", "--resource", "web"],
    ];
    for command in commands {
        fleet.admin(&net.server, command)?;
    }
    Ok(())
}

fn enrol(fleet: &Fleet, net: &mut Net, interrupt: &Interrupt) -> Result<()> {
    let connector = net.side(Role::Connector, Kind::Open)?;
    let client = net.side(Role::Client, Kind::Open)?;
    let key = fleet.key(&net.server, "connector.key", &["--connector", "--site", "lab"])?;
    let state = fleet.state("connector").display().to_string();
    let mut process =
        fleet.start(&connector.host, "connector", &["connector", "--state", &state, "--join-file", &key])?;
    fleet.ready(&mut process, "connector")?;
    // The device's slice names the connectors that a PoP has seen.
    wait_until("the connector at the PoP", START, interrupt, || {
        let connectors = fleet.admin(&net.server, &["list", "connectors"])?;
        Ok((connectors["items"][0]["live"]["attached"] == true).then_some(()))
    })?;
    let key = fleet.key(&net.server, "client.key", &["--device", "--user", "alice"])?;
    let state = fleet.state("client").display().to_string();
    let mut login = fleet.tidegate(&client.host, &["login", "--state", &state, "--key-file", &key]);
    run(&mut login, START, interrupt)?.success("login")?;
    // Once through, so that both hold what they need for the cells.
    let running = fleet.client(&client.host)?;
    let fetched = fleet.fetch(&client.host, URL)?;
    ensure!(fs::read_to_string(fetched.body)? == PAGE, "another page came");
    running.terminate(START, interrupt)?;
    process.terminate(START, interrupt)?;
    Ok(())
}
