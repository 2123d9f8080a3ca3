//! People and scripts at the API while a drill runs: reads and writes on a clock of their own.

use crate::process;
use enrol::{ApiClient, ApiError};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::MissedTickBehavior};

const READ_EVERY: Duration = Duration::from_millis(200);
const WRITE_EVERY: Duration = Duration::from_millis(500);

/// One call that has come back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// When it was made.
    pub at: Instant,
    /// The HTTP status, or what was wrong without one.
    pub outcome: Result<u16, String>,
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
    _tasks: JoinSet<()>,
}

fn outcome(result: Result<Value, ApiError>) -> Result<u16, String> {
    match result {
        Ok(_) => Ok(200),
        Err(ApiError::Refused { status, .. }) => Ok(status.as_u16()),
        Err(other) => Err(other.to_string()),
    }
}

async fn every(period: Duration, mut call: impl FnMut()) {
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
    /// They are.
    Yes,
    /// Reads only: nothing that would cause a database statement.
    No,
}

impl ApiUsers {
    /// Begins to read, and to write.
    pub fn start(api: &ApiClient, writes: Writes) -> Self {
        let calls = Arc::new(Mutex::new(Calls::default()));
        let mut tasks = JoinSet::new();
        let (seen, client) = (Arc::clone(&calls), api.clone());
        tasks.spawn(every(READ_EVERY, move || {
            let (seen, client, at) = (Arc::clone(&seen), client.clone(), process::now());
            tokio::spawn(async move {
                let result = client.get("/api/v1/resources").await;
                let call = Call { at, outcome: outcome(result), ms: millis(at.elapsed()), name: None };
                seen.lock().unwrap_or_else(PoisonError::into_inner).reads.push(call);
            });
        }));
        if writes == Writes::Yes {
            let (seen, client, number) = (Arc::clone(&calls), api.clone(), AtomicU64::new(0));
            tasks.spawn(every(WRITE_EVERY, move || {
                let (seen, client, at) = (Arc::clone(&seen), client.clone(), process::now());
                let name = format!("drill-{}", number.fetch_add(1, Ordering::Relaxed));
                tokio::spawn(async move {
                    let result = client.post("/api/v1/groups", &json!({"name": name})).await;
                    let call =
                        Call { at, outcome: outcome(result), ms: millis(at.elapsed()), name: Some(name) };
                    seen.lock().unwrap_or_else(PoisonError::into_inner).writes.push(call);
                });
            }));
        }
        Self { calls, _tasks: tasks }
    }

    /// What came back since the last call.
    pub fn take(&self) -> Calls {
        std::mem::take(&mut *self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// Statuses and how often.
pub fn tally<'a>(calls: impl IntoIterator<Item = &'a Call>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for call in calls {
        let word = match &call.outcome {
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
