//! The clients of a drill: several worker processes that look like one.

use crate::{output::note, process::Role};
use anyhow::{Context as _, bail};
use enrol::{ApiError, EnrolError, EnrolledAgent};
use load::{Order, Report};
use std::{
    ffi::OsString,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinSet};
use trust::JoinKey;

/// Clients in one worker; below the usual limit of descriptors and light enough for one core.
const IN_ONE_WORKER: usize = 5_000;
/// An enrolment that is refused because the database is busy is tried again after this, so often.
const ENROL_AGAIN: Duration = Duration::from_secs(2);
const ENROL_TRIES: usize = 10;

/// Enrols as many devices by the API with each key as stand beside it, `at_once` of them at once, as `tidegate login` does, into `states/c0`,
/// `states/c1`, …; gives their ids.
pub async fn enrol(
    states: &Path,
    keys: &[(JoinKey, usize)],
    at_once: usize,
) -> anyhow::Result<Vec<EnrolledAgent>> {
    let gate = Arc::new(Semaphore::new(at_once));
    let mut tasks = JoinSet::new();
    let all: Vec<&JoinKey> = keys.iter().flat_map(|(key, cap)| std::iter::repeat_n(key, *cap)).collect();
    let count = all.len();
    for (number, key) in all.into_iter().enumerate() {
        let (gate, key, state) = (Arc::clone(&gate), key.clone(), states.join(format!("c{number}")));
        tasks.spawn(async move {
            let _permit = gate.acquire_owned().await?;
            anyhow::Ok((number, enrol_one(&key, &state, &format!("drill {number}")).await?))
        });
    }
    let mut enrolled: Vec<Option<EnrolledAgent>> = (0..count).map(|_| None).collect();
    let mut done = 0;
    while let Some(result) = tasks.join_next().await {
        let (number, agent) = result??;
        enrolled[number] = Some(agent);
        done += 1;
        if done % 500 == 0 && done < count {
            note(&format!("  {done} of {count} devices enrolled"));
        }
    }
    enrolled.into_iter().map(|agent| agent.context("every device was enrolled")).collect()
}

async fn enrol_one(key: &JoinKey, state: &Path, name: &str) -> Result<EnrolledAgent, EnrolError> {
    let mut tries = 1;
    loop {
        match enrol::enrol_device(key, state, name).await {
            Err(EnrolError::Api(ApiError::Refused { status, .. }))
                if status.as_u16() == 503 && tries < ENROL_TRIES =>
            {
                tries += 1;
                tokio::time::sleep(ENROL_AGAIN).await;
            }
            ended => return ended,
        }
    }
}

struct Worker {
    input: tokio::process::ChildStdin,
    members: Range<usize>,
}

/// Many clients. Numbers of members are those of their state directories.
pub struct Clients {
    workers: Vec<Worker>,
    tasks: JoinSet<()>,
    seen: Arc<Mutex<Vec<(usize, Report)>>>,
    newest: Vec<Report>,
}

impl Clients {
    /// Starts as many worker processes as the clients need, all clients off. Clients of different kinds (`kinds` says
    /// where each kind ends) are never in one process: the broken ones must not slow the measuring of the others.
    pub async fn start(
        states: &Path,
        kinds: &[usize],
        target: &str,
        seed: u64,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut clients = Self { workers: Vec::new(), tasks: JoinSet::new(), seen, newest: Vec::new() };
        let mut ends = Vec::new();
        let mut from = 0;
        for end in kinds.iter().copied() {
            while from < end {
                let to = (from + IN_ONE_WORKER).min(end);
                ends.push(from..to);
                from = to;
            }
        }
        for members in ends {
            let arguments: Vec<OsString> = [
                "load-worker".to_owned(),
                "--states".to_owned(),
                states.display().to_string(),
                "--from".to_owned(),
                members.start.to_string(),
                "--to".to_owned(),
                members.end.to_string(),
                "--target".to_owned(),
                target.to_owned(),
                "--seed".to_owned(),
                seed.to_string(),
            ]
            .map(OsString::from)
            .to_vec();
            let mut role = Role::start_listening("load-worker", &arguments, Some(log))?;
            role.wait_for("ready").await?;
            let input = role.take_input().context("the worker's input")?;
            let (seen, index) = (Arc::clone(&clients.seen), clients.workers.len());
            clients.tasks.spawn(async move {
                while let Ok(Some(value)) = role.next_value().await {
                    if let Ok(report) = serde_json::from_value::<Report>(value) {
                        seen.lock().unwrap_or_else(PoisonError::into_inner).push((index, report));
                    }
                }
                role.ended().await;
            });
            clients.workers.push(Worker { input, members });
            clients.newest.push(Report::default());
        }
        Ok(clients)
    }

    /// Tells every worker its part of an order.
    pub async fn order(&mut self, order: Order) -> anyhow::Result<()> {
        use tokio::io::AsyncWriteExt as _;
        let range = match &order {
            Order::Hold { from, to, .. }
            | Order::Flow { from, to, .. }
            | Order::Visit { from, to, .. }
            | Order::Roam { from, to, .. }
            | Order::Relay { from, to }
            | Order::Notice { from, to }
            | Order::Surge { from, to, .. } => *from..*to,
            Order::Calm | Order::Stop => 0..usize::MAX,
        };
        let whole = u32::try_from(range.len()).unwrap_or(u32::MAX).max(1);
        for worker in &mut self.workers {
            let start = range.start.max(worker.members.start);
            let end = range.end.min(worker.members.end);
            if start >= end {
                continue;
            }
            let (first, last) = (start - worker.members.start, end - worker.members.start);
            // Each worker starts its share of a rate.
            let share = |rate: u32| {
                let part = u32::try_from(end - start).unwrap_or(u32::MAX);
                u32::try_from(u64::from(rate) * u64::from(part) / u64::from(whole)).unwrap_or(u32::MAX)
            };
            let part = match &order {
                Order::Hold { per_second, .. } => {
                    Order::Hold { from: first, to: last, per_second: share(*per_second).max(1) }
                }
                Order::Flow { period_ms, .. } => Order::Flow { from: first, to: last, period_ms: *period_ms },
                Order::Visit { per_second, .. } => {
                    Order::Visit { from: first, to: last, per_second: share(*per_second) }
                }
                Order::Surge { period_ms, .. } => {
                    Order::Surge { from: first, to: last, period_ms: *period_ms }
                }
                Order::Roam { per_second, .. } => {
                    let part = (end - start) as f64 / f64::from(whole);
                    Order::Roam { from: first, to: last, per_second: per_second * part }
                }
                Order::Relay { .. } => Order::Relay { from: first, to: last },
                Order::Notice { .. } => Order::Notice { from: first, to: last },
                Order::Calm => Order::Calm,
                Order::Stop => Order::Stop,
            };
            let line = serde_json::to_string(&part)? + "\n";
            worker.input.write_all(line.as_bytes()).await.context("a load worker has ended")?;
        }
        Ok(())
    }

    /// What was seen since the last call; counts of now are the newest told.
    pub fn report(&mut self) -> anyhow::Result<Report> {
        if self.tasks.try_join_next().is_some() {
            bail!("a load worker ended; its log is in the drill's directory");
        }
        let came = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let mut sum: Report = came.iter().map(|(_, report)| report.clone()).sum();
        for (index, report) in came {
            self.newest[index] = report;
        }
        let now: Report = self.newest.iter().cloned().sum();
        (sum.held, sum.up, sum.flows, sum.flows_open) = (now.held, now.up, now.flows, now.flows_open);
        Ok(sum)
    }

    /// Ends every worker.
    pub async fn end(mut self) {
        let _ = self.order(Order::Stop).await;
        self.workers.clear();
        while self.tasks.join_next().await.is_some() {}
    }
}
