//! Replicas of the database: looked at all the time, and read from when the primary does not answer.
//!
//! Whether a replica may be believed at all is the store's to say, before each read. Which of several is asked, and how far
//! behind each is, is said here. Nothing that a replica says or does not say changes what is known of the primary.

use crate::{clock, parts::Core};
use state::{StateDir, StateError};
use std::{
    cmp::Reverse,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use store::{Cluster, Look, Mark, PostgresUrl, Progress, Sighting, Store, StoreError};
use tokio::task::JoinSet;
use trust::UnixMs;

/// Between two looks while nobody needs them: a replica costs a few short statements in this time.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// A replica that lacks what the primary had longer ago than this is not read from.
const TOO_LATE: Duration = Duration::from_secs(60);
/// In the state directory: of which cluster the configuration was last read.
const FILE: &str = "database-cluster";

/// Every replica that this controller was told of.
#[derive(Debug)]
pub(crate) struct Replicas {
    nodes: Vec<Node>,
    progress: Progress,
    directory: Arc<StateDir>,
    /// One prober: whoever comes second waits for what the first finds.
    looking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Node {
    /// Its URL without the password.
    name: String,
    store: Store,
    found: Mutex<Found>,
}

/// What the last look at a replica gave.
#[derive(Debug, Clone, Default)]
struct Found {
    /// Of what it holds; none when it was not read.
    look: Option<Look>,
    /// Why it is not read from.
    trouble: Option<String>,
    lag: Option<Duration>,
}

/// A replica as others are told of it.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaState {
    pub(crate) name: String,
    /// Why it is not read from.
    pub(crate) trouble: Option<String>,
    /// For how long it has not had something that the primary had.
    pub(crate) lag: Option<Duration>,
}

/// A replica that may be read from now.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) name: String,
    pub(crate) store: Store,
    pub(crate) look: Look,
    /// Its state is as new as this, or newer; unknown where no server says it.
    pub(crate) as_of: Option<UnixMs>,
}

impl Node {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().expect("nothing panics while it holds what was found")
    }

    fn note(&self, looked: Result<Option<Look>, StoreError>, progress: &Progress) {
        let lag = |seen: &Sighting| progress.lag(seen, clock::now());
        let found = match looked {
            Ok(Some(look)) => {
                Found { look: Some(look), trouble: None, lag: look.seen.as_ref().and_then(lag) }
            }
            Ok(None) => Found { trouble: Some("it has no installation in it".into()), ..Found::default() },
            Err(error) => Found {
                look: None,
                trouble: Some(error.to_string()),
                // What was refused for being late says how late it is; who does not answer says nothing.
                lag: self
                    .store
                    .last_sighting()
                    .filter(|_| matches!(error, StoreError::Replica(_)))
                    .as_ref()
                    .and_then(lag),
            },
        };
        let found = if planted::is("lag-not-said") { Found { lag: None, ..found } } else { found };
        let found = match found.lag.filter(|lag| found.trouble.is_none() && *lag > TOO_LATE) {
            Some(lag) => {
                let (lag, most) = (lag.as_secs(), TOO_LATE.as_secs());
                let late = format!("it lags {lag} s behind the primary, and more than {most} s is too much");
                Found { trouble: Some(late), ..found }
            }
            None => found,
        };
        let before = std::mem::replace(&mut *self.found(), found.clone());
        match (&before.trouble, &found.trouble) {
            (None, Some(trouble)) => {
                tracing::info!(replica = self.name, trouble, "a replica is not read from")
            }
            (Some(_), None) => tracing::info!(replica = self.name, "the replica can be read from again"),
            _ => {}
        }
    }

    fn candidate(&self) -> Option<Candidate> {
        let found = self.found();
        let look = found.look.filter(|_| found.trouble.is_none())?;
        let age = look.seen.and_then(|seen| seen.age);
        let as_of = age.map(|age| clock::wall().minus(age));
        Some(Candidate { name: self.name.clone(), store: self.store.clone(), look, as_of })
    }
}

/// What is newer comes later.
fn order(mark: &Mark) -> (u64, u64, u64, u64) {
    let Mark { installation, organizations, versions } = *mark;
    (installation.incarnation, installation.version, organizations, versions)
}

impl Replicas {
    /// Dials nobody.
    pub(crate) fn open(directory: &Arc<StateDir>, urls: &[PostgresUrl]) -> Self {
        let cluster = match remembered(directory) {
            Ok(cluster) => cluster,
            Err(error) => {
                tracing::warn!(error, "of which cluster the database is has to be seen again");
                None
            }
        };
        let progress = Progress::of(cluster);
        let nodes = urls.iter().map(|url| Node {
            name: url.to_string(),
            store: Store::replica(url.clone(), progress.clone()),
            found: Mutex::new(Found { trouble: Some("it was not looked at yet".into()), ..Found::default() }),
        });
        let nodes = nodes.collect();
        Self { nodes, progress, directory: Arc::clone(directory), looking: tokio::sync::Mutex::default() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What the store of the primary is to tell; without replicas nobody wants to know it.
    pub(crate) fn progress(&self) -> Option<Progress> {
        (!self.is_empty()).then(|| self.progress.clone())
    }

    /// The primary, asked at `at`, said this of itself, and its state was taken.
    pub(crate) fn saw_primary(&self, seen: &Sighting, at: Instant) {
        let Some(cluster) = self.progress.believe(seen, at) else { return };
        let text = serde_json::to_vec(&cluster).expect("two numbers always serialize");
        // A full disk costs a start without the primary, and nothing now.
        if let Err(error) = self.directory.write(FILE, &text) {
            tracing::warn!(%error, "of which cluster the database is was not written down");
        }
    }

    /// Looks at all of them at once. Those that may be read from, the newest first.
    pub(crate) async fn look(&self) -> Vec<Candidate> {
        let _one_at_a_time = self.looking.lock().await;
        let mut looks = JoinSet::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let store = node.store.clone();
            looks.spawn(async move { (number, store.look().await) });
        }
        while let Some(ended) = looks.join_next().await {
            if let Ok((number, looked)) = ended {
                self.nodes[number].note(looked, &self.progress);
            }
        }
        let mut candidates: Vec<_> = self.nodes.iter().filter_map(Node::candidate).collect();
        candidates.sort_by_key(|candidate| Reverse(order(&candidate.look.mark)));
        candidates
    }

    /// One that could be read from when it was last looked at.
    pub(crate) fn usable(&self) -> Option<Store> {
        let mut candidates: Vec<_> = self.nodes.iter().filter_map(Node::candidate).collect();
        candidates.sort_by_key(|candidate| Reverse(order(&candidate.look.mark)));
        candidates.into_iter().next().map(|candidate| candidate.store)
    }

    /// Each of them, in the order in which they were given.
    pub(crate) fn states(&self) -> Vec<ReplicaState> {
        let state = |node: &Node| {
            let Found { trouble, lag, .. } = node.found().clone();
            ReplicaState { name: node.name.clone(), trouble, lag }
        };
        self.nodes.iter().map(state).collect()
    }

    pub(crate) async fn close(&self) {
        for node in &self.nodes {
            node.store.close().await;
        }
    }
}

fn remembered(directory: &StateDir) -> Result<Option<Cluster>, String> {
    let read = directory.read(FILE).map_err(|error: StateError| error.to_string())?;
    read.map(|bytes| serde_json::from_slice(&bytes)).transpose().map_err(|error| error.to_string())
}

/// Looks at them as long as the controller runs, so that each is known to be of use before it is needed.
pub(crate) async fn watch(core: &Arc<Core>) {
    if core.replicas.is_empty() {
        return std::future::pending().await;
    }
    loop {
        core.replicas.look().await;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
