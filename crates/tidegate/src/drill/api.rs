//! People and scripts at the API while a drill runs: reads and writes on a clock of their own.

use crate::process;
use enrol::{ApiClient, ApiError};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::MissedTickBehavior,
};

const READ_EVERY: Duration = Duration::from_millis(200);
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// One call that has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it was made.
    pub at: Instant,
    /// The HTTP status, or what was wrong without one.
    pub outcome: Result<u16, String>,
    /// The problem's type when it was refused, without what all have in common.
    pub kind: Option<String>,
    /// How many things a read showed.
    pub items: Option<usize>,
    /// How long it took, in milliseconds.
    pub ms: u32,
    /// The name that a write wanted to store.
    pub name: Option<String>,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Calls {
    /// Reads.
    pub reads: Vec<Call>,
    /// Writes.
    pub writes: Vec<Call>,
}

/// Calls the API until dropped.
pub struct ApiUsers {
    calls: Arc<Mutex<Calls>>,
    /// Writes that are tried again until they are done.
    undone: Arc<AtomicUsize>,
    writer: Option<AbortHandle>,
    _tasks: JoinSet<()>,
}

impl Call {
    /// One that has come back now.
    pub fn ended(at: Instant, name: Option<String>, result: Result<Value, ApiError>) -> Self {
        let ms = millis(at.elapsed());
        let (mut kind, mut items) = (None, None);
        let outcome = match result {
            Ok(value) => {
                items = value["items"].as_array().map(Vec::len);
                Ok(200)
            }
            Err(ApiError::Refused { status, problem }) => {
                let full = problem.kind.unwrap_or_default();
                kind = full.rsplit('/').next().filter(|word| !word.is_empty()).map(str::to_owned);
                Ok(status.as_u16())
            }
            Err(other) => Err(other.to_string()),
        };
        Self { at, outcome, kind, items, ms, name }
    }

    /// Whether it may have been done although it was not acknowledged.
    pub fn is_unknown(&self) -> bool {
        self.outcome.is_err() || self.kind.as_deref() == Some("outcome-unknown")
    }
}

/// Does something on a clock of its own.
pub async fn every(period: Duration, mut call: impl FnMut()) {
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        tick.tick().await;
        call();
    }
}

/// Whether writes are made as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// They are, each once.
    Yes,
    /// They are, each with an idempotency key and again until it is done: what a script does that knows how.
    UntilDone,
    /// Reads only: nothing that would cause a database statement.
    No,
}

/// Between two tries of a write.
const AGAIN: Duration = Duration::from_secs(1);
/// After so many, it was not done.
const TRIES: usize = 90;

type Seen = Arc<Mutex<Calls>>;

fn seen(seen: &Seen) -> MutexGuard<'_, Calls> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_once(calls: Seen, client: ApiClient, name: String) {
    let at = process::now();
    let result = client.post("/api/v1/groups", &json!({"name": name})).await;
    seen(&calls).writes.push(Call::ended(at, Some(name), result));
}

/// Two enrolment keys may have one name: what is done twice is there twice.
async fn write_until_done(calls: Seen, client: ApiClient, name: String, owner: String) {
    let client = client.once(&name);
    let body = json!({"kind": "device", "owner": owner, "cap": 1, "name": name, "lifetime_seconds": 600});
    for _ in 0..TRIES {
        let at = process::now();
        let result = client.post("/api/v1/enrolment-keys", &body).await;
        let call = Call::ended(at, Some(name.clone()), result);
        let again = !matches!(call.outcome, Ok(200..=499));
        seen(&calls).writes.push(call);
        if !again {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

impl ApiUsers {
    /// Begins to read, and to write; what is made until it is done belongs to the user `owner`.
    pub fn start(api: &ApiClient, writes: Writes, owner: &str) -> Self {
        let (calls, undone) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let (read, client) = (Arc::clone(&calls), api.clone());
        tasks.spawn(every(READ_EVERY, move || {
            let (read, client, at) = (Arc::clone(&read), client.clone(), process::now());
            tokio::spawn(async move {
                let result = client.get("/api/v1/resources").await;
                seen(&read).reads.push(Call::ended(at, None, result));
            });
        }));
        let writer = (writes != Writes::No).then(|| {
            let (written, client, owner) = (Arc::clone(&calls), api.clone(), owner.to_owned());
            let (undone, number) = (Arc::clone(&undone), AtomicU64::new(0));
            tasks.spawn(every(WRITE_EVERY, move || {
                let (written, client, owner) = (Arc::clone(&written), client.clone(), owner.clone());
                let name = format!("drill-{}", number.fetch_add(1, Ordering::Relaxed));
                let undone = Arc::clone(&undone);
                undone.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    match writes {
                        Writes::UntilDone => write_until_done(written, client, name, owner).await,
                        Writes::Yes | Writes::No => write_once(written, client, name).await,
                    }
                    undone.fetch_sub(1, Ordering::Relaxed);
                });
            }))
        });
        Self { calls, undone, writer, _tasks: tasks }
    }

    /// Nothing more is written; what was begun goes on.
    pub fn no_more_writes(&self) {
        if let Some(writer) = &self.writer {
            writer.abort();
        }
    }

    /// Writes that have not come to their end.
    pub fn undone(&self) -> usize {
        self.undone.load(Ordering::Relaxed)
    }

    /// What came back since the last call.
    pub fn take(&self) -> Calls {
        std::mem::take(&mut *seen(&self.calls))
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// How long calls took, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Spread {
    /// The one in the middle.
    pub p50_ms: u32,
    /// 99 of 100 took no longer.
    pub p99_ms: u32,
    /// The slowest.
    pub slowest_ms: u32,
}

impl Spread {
    /// Of these calls, if there are any.
    pub fn of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Option<Self> {
        let mut all: Vec<u32> = calls.into_iter().map(|call| call.ms).collect();
        all.sort_unstable();
        let at =
            |percent: usize| all.get((all.len() * percent / 100).min(all.len().saturating_sub(1))).copied();
        Some(Self { p50_ms: at(50)?, p99_ms: at(99)?, slowest_ms: all.last().copied()? })
    }
}

/// Statuses and how often.
pub fn tally<'a>(calls: impl IntoIterator<Item = &'a Call>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for call in calls {
        let word = match &call.outcome {
            Ok(status) if call.is_unknown() => format!("{status} outcome unknown"),
            Ok(status) => status.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        *tally.entry(word).or_default() += 1;
    }
    tally
}

/// A tally as people read it.
pub fn words(tally: &BTreeMap<String, usize>) -> String {
    if tally.is_empty() {
        return "none".to_owned();
    }
    tally.iter().map(|(word, count)| format!("{count} × {word}")).collect::<Vec<_>>().join(", ")
}
