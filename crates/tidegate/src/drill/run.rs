//! One drill while it runs: the stage, the load, the phases, and what was seen in each second.

use super::{
    api::{ApiUsers, Call, Writes},
    clients::{self, Clients},
    cores,
    server::Server,
    verdict::Level,
    zone::Zone,
};
use crate::{
    cli::{DrillArgs, DrillDatabase},
    database,
    demo::stage::Stage,
    output::{Format, note},
    process,
};
use anyhow::{Context as _, ensure};
use enrol::EnrolledAgent;
use load::{LONG_WAIT_MS, Order, Report};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// What one enrolment key lets in at most.
const MOST_OF_ONE_KEY: usize = 10_000;
/// How often everything is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// How soon devices renew their grants in a drill: re-authentications all the time, instead of every few hours.
const RENEW_AFTER_S: u64 = 20;
/// Milliseconds between two lines of a running connection.
const LINE_EVERY_MS: u32 = 200;

/// Whether something is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing is.
    Fair,
    /// Something is.
    Fault,
}

/// A stretch of a drill, with all that was seen in it.
#[derive(Debug)]
pub struct Phase {
    /// Its name, for people.
    pub name: String,
    /// Whether something was broken.
    pub weather: Weather,
    /// When it began, in seconds since the load stood.
    pub from_s: f64,
    /// When it ended.
    pub to_s: f64,
    /// What the clients saw.
    pub clients: Report,
    /// Reads of the API that came back.
    pub reads: Vec<Call>,
    /// Writes of the API that came back.
    pub writes: Vec<Call>,
}

/// What was seen at one moment: values by the name of their series.
#[derive(Debug)]
pub struct Sample {
    /// Seconds since the load stood.
    pub at_s: f64,
    /// Values.
    pub values: BTreeMap<&'static str, f64>,
}

/// How the clients of a drill are divided. Members are numbered from 0.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Clients that hold a session: `0..held`.
    pub held: usize,
    /// The first of these have a running connection: `0..flows`.
    pub flows: usize,
    /// Behind them, clients that come for one visit each: `held..all`.
    pub all: usize,
    /// Visits a second.
    pub visits_per_second: u32,
}

impl Crowd {
    fn of(clients: usize) -> Self {
        let reserve = (clients / 5).clamp(20, 400);
        let held = clients.saturating_sub(reserve).max(1);
        // A visit takes at most 10 s before it has failed, so this many never run out of members.
        let visits_per_second = u32::try_from(reserve / 10).unwrap_or(1).clamp(1, 20);
        Self { held, flows: (held / 10).clamp(1, 50), all: held + reserve, visits_per_second }
    }
}

/// A drill that runs.
pub struct Run<'a> {
    /// What was asked.
    pub args: &'a DrillArgs,
    format: Format,
    /// The processes.
    pub stage: Stage,
    /// The database's server, unless the database is a file.
    pub server: Option<Arc<Server>>,
    /// Several of them, for a drill that takes them.
    pub zone: Option<Zone>,
    /// The clients.
    pub clients: Clients,
    /// How they are divided.
    pub crowd: Crowd,
    /// The devices, by member.
    pub devices: Vec<EnrolledAgent>,
    api: ApiUsers,
    began: Instant,
    sampled_at: Instant,
    statements: Option<u64>,
    /// What was seen.
    pub phases: Vec<Phase>,
    /// What was seen, moment by moment.
    pub samples: Vec<Sample>,
    /// What it comes to.
    pub levels: Vec<Level>,
    /// Things worth a line in the report.
    pub remarks: Vec<String>,
}

/// What a drill needs of its stage.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// PoPs.
    pub pops: usize,
    /// Whether people change things while it runs.
    pub writes: Writes,
    /// Where the configuration may be.
    pub databases: Databases,
}

/// What a controller has asked of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// Statements.
    pub statements: u64,
    /// Rows written.
    pub rows: u64,
}

/// Which databases a drill knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Databases {
    /// SQLite.
    File,
    /// SQLite, or PostgreSQL when that is asked for.
    Either,
    /// One PostgreSQL.
    Server,
    /// A PostgreSQL and its standbys.
    Zone,
}

impl Databases {
    /// The one to use; none when what was asked for does not go with the drill.
    pub const fn choose(self, asked: Option<DrillDatabase>) -> Option<DrillDatabase> {
        match (self, asked) {
            (Self::File | Self::Either, None) => Some(DrillDatabase::Sqlite),
            (Self::Server | Self::Zone, None) => Some(DrillDatabase::Postgres),
            (Self::File, Some(DrillDatabase::Postgres))
            | (Self::Server | Self::Zone, Some(DrillDatabase::Sqlite)) => None,
            (_, asked) => asked,
        }
    }
}

impl<'a> Run<'a> {
    /// Starts everything, enrols the devices as in a real installation, and waits until the load stands.
    pub async fn begin(
        args: &'a DrillArgs,
        needs: Needs,
        dir: &Path,
        format: Format,
    ) -> anyhow::Result<Self> {
        let crowd = Crowd::of(args.clients);
        note(&format!(
            "Setting the stage: a controller, {} PoP{}, a site and its connector, each a process of its own…",
            needs.pops,
            if needs.pops == 1 { "" } else { "s" }
        ));
        let nothing = dir.join("nothing");
        std::fs::write(&nothing, b"")?;
        let (mut server, mut zone, mut told) = (None, None, Vec::new());
        if needs.databases.choose(args.database) == Some(DrillDatabase::Postgres) {
            if needs.databases == Databases::Zone {
                note("  on three PostgreSQL servers of its own…");
                let made = Zone::start().await?;
                told = made.told()?;
                zone = Some(made);
            } else {
                note("  on a PostgreSQL of its own…");
                let made = Server::start().await?;
                told.push((database::URL, made.url()));
                server = Some(made);
            }
        }
        let mut stage = Stage::build_on(dir, &nothing, told).await?;
        for _ in 1..needs.pops {
            stage.add_pop().await?;
        }
        let api = stage.api();
        let organizations: Value = api.get("/api/v1/organizations").await?;
        let organization = organizations["items"][0]["id"].as_str().context("an organization")?.to_owned();
        let body = json!({"name": "Harbour", "renew_after_seconds": RENEW_AFTER_S});
        let _: Value = api.patch(&format!("/api/v1/organizations/{organization}"), &body).await?;
        let user: Value =
            api.post("/api/v1/users", &json!({"name": "crew", "email": "crew@harbour.example"})).await?;
        let (group, member) = (stage.crew().await?, user["id"].as_str().context("a user")?.to_owned());
        let _: Value = api.put(&format!("/api/v1/groups/{group}/members/{member}"), &json!({})).await?;
        let mut keys = Vec::new();
        for first in (0..crowd.all).step_by(MOST_OF_ONE_KEY) {
            let cap = (crowd.all - first).min(MOST_OF_ONE_KEY);
            let key = stage.key("crew", json!({"kind": "device", "owner": member, "cap": cap})).await?;
            keys.push((key.parse()?, cap));
        }
        note(&format!("Enrolling {} devices by the API…", crowd.all));
        let states = dir.join("clients");
        std::fs::create_dir(&states)?;
        let start = process::now();
        // Changes of one organization follow each other; at a server the fifth waits for a connection as well.
        let at_once = if stage.is_on_a_server() { 4 } else { 16 };
        let devices = clients::enrol(&states, &keys, at_once).await?;
        note(&format!(
            "  enrolled in {:.1} s; {} clients register",
            start.elapsed().as_secs_f64(),
            crowd.held
        ));
        let target = stage.echo.to_string();
        let log = dir.join("load.log");
        let mut clients =
            Clients::start(&states, &[crowd.flows, crowd.held, crowd.all], &target, args.seed, &log).await?;
        clients.order(Order::Hold { from: 0, to: crowd.held, per_second: 400 }).await?;
        let deadline =
            process::now() + Duration::from_secs(60) + Duration::from_millis(10) * u32::try_from(crowd.held)?;
        let mut sum = Report::default();
        while sum.up < crowd.held {
            ensure!(process::now() < deadline, "only {} of {} clients registered", sum.up, crowd.held);
            tokio::time::sleep(SAMPLE_EVERY).await;
            sum = clients.report()?;
        }
        clients.order(Order::Flow { from: 0, to: crowd.flows, period_ms: LINE_EVERY_MS }).await?;
        while sum.flows_open < crowd.flows {
            ensure!(
                process::now() < deadline,
                "only {} of {} connections opened",
                sum.flows_open,
                crowd.flows
            );
            tokio::time::sleep(SAMPLE_EVERY).await;
            sum = clients.report()?;
        }
        let (from, to, per_second) = (crowd.held, crowd.all, crowd.visits_per_second);
        clients.order(Order::Visit { from, to, per_second }).await?;
        let api = ApiUsers::start(&api, needs.writes, &member);
        note("  the load stands");
        let now = process::now();
        Ok(Self {
            args,
            format,
            stage,
            server,
            zone,
            clients,
            crowd,
            devices,
            api,
            began: now,
            sampled_at: now,
            statements: None,
            phases: Vec::new(),
            samples: Vec::new(),
            levels: Vec::new(),
            remarks: Vec::new(),
        })
    }

    /// Seconds since the load stood.
    pub fn elapsed_s(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Seconds from when the load stood to `at`.
    pub fn at_s(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.began).as_secs_f64()
    }

    /// A part of the drill's length.
    pub fn part(&self, part: f64) -> Duration {
        Duration::from_secs_f64(f64::from(self.args.duration) * part)
    }

    /// Begins a stretch; the one before ends.
    pub fn enter(&mut self, name: &str, weather: Weather) {
        let from_s = self.elapsed_s();
        if let Some(phase) = self.phases.last_mut() {
            phase.to_s = from_s;
        }
        note(&format!("{from_s:>6.1} s  {name}"));
        let (clients, reads, writes) = (Report::default(), Vec::new(), Vec::new());
        self.phases.push(Phase {
            name: name.to_owned(),
            weather,
            from_s,
            to_s: from_s,
            clients,
            reads,
            writes,
        });
    }

    /// Looks at everything for `length`.
    pub async fn go_on(&mut self, length: Duration) -> anyhow::Result<()> {
        self.until(length, |_| false).await.map(|_| ())
    }

    /// Looks at everything until `done` says so, for `longest` at most; gives how long it took, if it came.
    pub async fn until(
        &mut self,
        longest: Duration,
        mut done: impl FnMut(&Phase) -> bool,
    ) -> anyhow::Result<Option<Duration>> {
        let start = process::now();
        loop {
            let step = SAMPLE_EVERY.min(longest.saturating_sub(start.elapsed()));
            tokio::time::sleep(step).await;
            self.sample().await?;
            if self.phases.last().is_some_and(&mut done) {
                return Ok(Some(start.elapsed()));
            }
            if start.elapsed() >= longest {
                return Ok(None);
            }
        }
    }

    /// Nothing more is written; what is tried again until it is done goes on.
    pub fn no_more_writes(&self) {
        self.api.no_more_writes();
    }

    /// Goes on until every write has come to its end, for `longest` at most.
    pub async fn until_done(&mut self, longest: Duration) -> anyhow::Result<()> {
        let start = process::now();
        while self.api.undone() > 0 && start.elapsed() < longest {
            self.go_on(SAMPLE_EVERY).await?;
        }
        self.sample().await
    }

    async fn sample(&mut self) -> anyhow::Result<()> {
        let report = self.clients.report()?;
        let calls = self.api.take();
        let now = process::now();
        let seconds = now.saturating_duration_since(self.sampled_at).as_secs_f64().max(0.001);
        self.sampled_at = now;
        let at_s = self.elapsed_s();
        let mut values = BTreeMap::new();
        values.insert("up", report.up as f64);
        values.insert("held", report.held as f64);
        values.insert("flows_open", report.flows_open as f64);
        values.insert("longest_wait_ms", f64::from(report.silences.longest_ms));
        values.insert("registered_per_s", (report.registered + report.surge_registered) as f64 / seconds);
        values.insert("renewed_per_s", report.renewed as f64 / seconds);
        values.insert("surged_per_s", report.surged as f64 / seconds);
        let mut first: Vec<u32> = report.visits.iter().filter_map(|visit| visit.first_byte_ms).collect();
        first.sort_unstable();
        if let (Some(middle), Some(worst)) = (first.get(first.len() / 2), first.last()) {
            values.insert("first_byte_ms", f64::from(*middle));
            values.insert("first_byte_worst_ms", f64::from(*worst));
        }
        let failed = report.visits.iter().filter(|visit| visit.failed.is_some()).count();
        values.insert("visits_failed", failed as f64);
        let slowest = |calls: &[Call]| calls.iter().map(|call| call.ms).max().map(f64::from);
        if let Some(ms) = slowest(&calls.reads) {
            values.insert("read_ms", ms);
        }
        let ended = |outcome: u16| calls.writes.iter().filter(move |call| call.outcome == Ok(outcome));
        let (ok, refused) = (ended(200).count(), ended(503).count());
        values.insert("writes_ok", ok as f64 / seconds);
        values.insert("writes_refused", refused as f64 / seconds);
        values.insert("writes_else", (calls.writes.len() - ok - refused) as f64 / seconds);
        for (key, outcome) in [("write_ms", 200), ("refusal_ms", 503)] {
            if let Some(ms) = ended(outcome).map(|call| call.ms).max() {
                values.insert(key, f64::from(ms));
            }
        }
        if let Some(server) = &self.server {
            values.insert("connections", server.connections() as f64);
        }
        if let Some(controller) = self.stage.controller() {
            if let Ok((_, bytes)) = controller.cost() {
                values.insert("controller_mib", bytes as f64 / 1_048_576.0);
            }
            if let Ok(count) = controller.descriptors() {
                values.insert("controller_descriptors", count as f64);
            }
        }
        if let Some(bytes) = self
            .stage
            .pops()
            .iter_mut()
            .filter_map(|pop| pop.role().ok()?.cost().ok())
            .map(|cost| cost.1)
            .max()
        {
            values.insert("pop_mib", bytes as f64 / 1_048_576.0);
        }
        if let Some(statements) = self.statements().await {
            let before = self.statements.replace(statements).unwrap_or(statements);
            values.insert("statements_per_s", statements.saturating_sub(before) as f64 / seconds);
        }
        if self.format == Format::Text && std::io::IsTerminal::is_terminal(&std::io::stderr()) {
            crate::output::progress(&format!(
                "{at_s:>6.1} s  {} of {} clients up, {} of {} connections open, longest wait {} ms",
                report.up, report.held, report.flows_open, report.flows, report.silences.longest_ms
            ));
        }
        self.samples.push(Sample { at_s, values });
        if let Some(phase) = self.phases.last_mut() {
            phase.to_s = at_s;
            let sum = [std::mem::take(&mut phase.clients), report];
            let newest = (sum[1].held, sum[1].up, sum[1].flows, sum[1].flows_open);
            phase.clients = sum.into_iter().sum();
            (phase.clients.held, phase.clients.up, phase.clients.flows, phase.clients.flows_open) = newest;
            phase.reads.extend(calls.reads);
            phase.writes.extend(calls.writes);
        }
        Ok(())
    }

    /// Statements since the controller opened its database: of SQLite by its own trace, of PostgreSQL what was sent.
    pub async fn statements(&self) -> Option<u64> {
        Some(self.costs().await?.statements)
    }

    /// What the controller has asked of its database since it opened it.
    pub async fn costs(&self) -> Option<Costs> {
        let asked = self.stage.api();
        let answer = tokio::time::timeout(
            Duration::from_millis(300),
            asked.get::<Value>("/api/v1/diagnostics/database"),
        );
        let answer = answer.await.ok()?.ok()?;
        Some(Costs { statements: answer["statements"].as_u64()?, rows: answer["rows_written"].as_u64()? })
    }

    /// Gives the PoPs the last core for themselves, and everything else the others; false on a machine with one core.
    pub fn divide_cores(&mut self) -> anyhow::Result<bool> {
        let pops: Vec<u32> = self.stage.pops().iter_mut().filter_map(|pop| pop.role().ok()?.pid()).collect();
        cores::divide(&pops)
    }

    /// Goes on until no running connection waits longer than a person notices, for `longest` at most.
    pub async fn until_answered(&mut self, longest: Duration) -> anyhow::Result<bool> {
        let start = process::now();
        loop {
            self.go_on(SAMPLE_EVERY).await?;
            let waits = self.samples.last().and_then(|sample| sample.values.get("longest_wait_ms").copied());
            if waits.is_some_and(|waits| waits < f64::from(LONG_WAIT_MS)) {
                return Ok(true);
            }
            if start.elapsed() >= longest {
                return Ok(false);
            }
        }
    }

    /// Notes whether a pass level is reached.
    pub fn level(&mut self, what: &str, to_reach: &str, measured: impl Into<String>, holds: bool) {
        let level =
            Level { what: what.to_owned(), to_reach: to_reach.to_owned(), measured: measured.into(), holds };
        level.print(self.format);
        self.levels.push(level);
    }

    /// Everything seen in the phases that `which` picks.
    pub fn seen(&self, which: impl Fn(&Phase) -> bool) -> Seen<'_> {
        Seen { phases: self.phases.iter().filter(|phase| which(phase)).collect() }
    }

    /// Ends every process.
    pub async fn end(self) -> Outcome {
        self.clients.end().await;
        self.stage.end(Vec::new()).await;
        Outcome {
            phases: self.phases,
            samples: self.samples,
            levels: self.levels,
            remarks: self.remarks,
            crowd: self.crowd,
        }
    }
}

/// What is left of a drill when its processes have ended.
pub struct Outcome {
    /// The stretches.
    pub phases: Vec<Phase>,
    /// The moments.
    pub samples: Vec<Sample>,
    /// The verdict.
    pub levels: Vec<Level>,
    /// Things worth a line in the report.
    pub remarks: Vec<String>,
    /// How many clients there were.
    pub crowd: Crowd,
}

/// Some phases, summed up.
pub struct Seen<'r> {
    phases: Vec<&'r Phase>,
}

/// Visits, summed up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Visits {
    /// All.
    pub all: usize,
    /// Those whose first byte came within 5 s.
    pub in_time: usize,
    /// Those that were registered within 5 s.
    pub registered: usize,
}

impl Visits {
    /// Of 100.
    pub fn percent(part: usize, all: usize) -> f64 {
        if all == 0 { 0.0 } else { 100.0 * part as f64 / all as f64 }
    }
}

const IN_TIME_MS: u32 = 5_000;

impl Seen<'_> {
    /// Clients that came from their disk for one connection.
    pub fn visits(&self) -> Visits {
        let visits = || self.phases.iter().flat_map(|phase| &phase.clients.visits);
        let within = |ms: Option<u32>| ms.is_some_and(|ms| ms <= IN_TIME_MS);
        Visits {
            all: visits().count(),
            in_time: visits().filter(|visit| within(visit.first_byte_ms)).count(),
            registered: visits().filter(|visit| within(visit.registered_ms)).count(),
        }
    }

    /// Why visits failed, and how often.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        let mut failures = BTreeMap::new();
        for visit in self.phases.iter().flat_map(|phase| &phase.clients.visits) {
            if let Some(reason) = &visit.failed {
                *failures.entry(reason.clone()).or_default() += 1;
            }
        }
        failures
    }

    /// Sessions lost, leaving out those that were struck.
    pub fn lost(&self) -> u64 {
        let lost = self.phases.iter().flat_map(|phase| &phase.clients.lost);
        lost.filter(|(reason, _)| *reason != "struck").map(|(_, count)| count).sum()
    }

    /// Running connections that were cut.
    pub fn cut(&self) -> u64 {
        self.phases.iter().map(|phase| phase.clients.flows_cut).sum()
    }

    /// Newer grants.
    pub fn renewed(&self) -> u64 {
        self.phases.iter().map(|phase| phase.clients.renewed).sum()
    }

    /// The longest that a running connection waited for an answer, in milliseconds.
    pub fn longest_wait_ms(&self) -> u32 {
        self.phases.iter().map(|phase| phase.clients.silences.longest_ms).max().unwrap_or_default()
    }

    /// Waits of running connections beyond a quarter of a second, sorted, in milliseconds.
    pub fn long_waits(&self) -> Vec<u32> {
        let mut waits: Vec<u32> =
            self.phases.iter().flat_map(|phase| phase.clients.long_waits.iter().copied()).collect();
        waits.sort_unstable();
        waits
    }

    /// Reads of the API.
    pub fn reads(&self) -> Vec<&Call> {
        self.phases.iter().flat_map(|phase| &phase.reads).collect()
    }

    /// Writes of the API.
    pub fn writes(&self) -> Vec<&Call> {
        self.phases.iter().flat_map(|phase| &phase.writes).collect()
    }
}
