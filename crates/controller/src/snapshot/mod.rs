//! What this controller serves and signs from: everything in memory, with a copy on disk.
//!
//! A read error, a value that does not parse, a database that went back, much that is suddenly gone, or a
//! version that crashed this process never replaces a snapshot: the last good one goes on, and an alarm says
//! why.

mod copy;
mod model;
mod poison;
mod replica;
mod shrink;
#[cfg(test)]
mod tests;
mod validate;

pub(crate) use model::port_range;
pub(crate) use shrink::large_shrink;

use crate::{clock, gate::Gate, parts::Core, replicas::Replicas};
use poison::{Digest, Memory, Served};
use policy::{OrganizationModel, PopEntry, client_slice, connector_slice, relevant_groups};
use state::{StateDir, StateError};
use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use store::{Dataset, Mark, Member, OrganizationData, Store, StoreError};
use tokio::sync::{Notify, watch};
use trust::{OrganizationTag, Owner, RevocationSet, RevokedSubject, SliceVersion, UnixMs};
use wire::{InstallationId, OrganizationId};

/// Agents of each organization whose slices are built once before a version is served.
const TRIED: usize = 64;

/// Why there is no (newer) snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database has no installation in it.
    #[error("the database is empty; restore it from a backup")]
    Empty,
    /// A value in the database is not what it may be.
    #[error("{object} {id}: {problem}")]
    Value {
        /// Which kind of object.
        object: &'static str,
        /// Which one.
        id: String,
        /// What is wrong.
        problem: String,
    },
    /// A copy on disk is damaged.
    #[error("the copy on disk is not usable: {problem}")]
    Copy {
        /// What is wrong.
        problem: String,
    },
    /// Somebody else's database.
    #[error(
        "the database is of installation {found}, and this controller's keys are of {expected}: put the right database \
         in its place, or the right state directory around it"
    )]
    Foreign {
        /// Whose it is.
        found: InstallationId,
        /// Whose it should be.
        expected: InstallationId,
    },
    /// The database is older than what was served.
    #[error(
        "the database is older than what this controller has served ({what}): it was restored from a copy. Nothing is \
         read from it and nothing is changed in it. If that copy is to be the truth from now on, say so with: tidegate \
         admin accept-restored-database"
    )]
    Restored {
        /// What is older.
        what: String,
    },
    /// Same version, other content.
    #[error(
        "the database has version {version} with another content than this controller has served: it was restored from a \
         copy and changed. Nothing is read from it and nothing is changed in it. If it is to be the truth from now on, \
         say so with: tidegate admin accept-restored-database"
    )]
    Diverged {
        /// The version that is there twice.
        version: String,
    },
    /// Much is gone at once.
    #[error(
        "{removed} of {before} {kind} are gone at once, and no change was allowed to remove so many (--allow-shrink); the \
         configuration before stays in use"
    )]
    Shrunk {
        /// Of what.
        kind: &'static str,
        /// How many there were.
        before: usize,
        /// How many are gone.
        removed: usize,
    },
    /// A replica has less than what is held.
    #[error("it has {found}, and {held} is held: it lags behind its primary")]
    Behind {
        /// What it has.
        found: String,
        /// What is held.
        held: String,
    },
    /// It crashed the process, or what reads it.
    #[error(
        "this version crashed the controller before and is not tried again; change something to make another one"
    )]
    Quarantined,
    /// What reads it panicked.
    #[error("this version makes the controller panic: {0}")]
    Panicked(String),
    /// Neither database nor disk copy.
    #[error("neither the database ({0}) nor a copy of the snapshot on disk can be read")]
    Nothing(String),
}

impl SnapshotError {
    /// The alarm's label.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Store(StoreError::Corrupt { .. }) => "corrupt",
            Self::Store(_) => "database",
            Self::State(_) => "state",
            Self::Empty => "empty",
            Self::Value { .. } => "value",
            Self::Copy { .. } => "copy",
            Self::Foreign { .. } => "foreign",
            Self::Restored { .. } => "restored",
            Self::Diverged { .. } => "diverged",
            Self::Shrunk { .. } => "shrunk",
            Self::Behind { .. } => "behind",
            Self::Quarantined => "quarantined",
            Self::Panicked(_) => "panicked",
            Self::Nothing(_) => "nothing",
        }
    }

    /// Whether the database is not this controller's, so that nothing may be written into it either.
    #[must_use]
    pub const fn is_another_database(&self) -> bool {
        matches!(self, Self::Foreign { .. } | Self::Restored { .. } | Self::Diverged { .. })
    }
}

/// Where a snapshot came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotSource {
    /// Read from the database by this process.
    Database,
    /// Read from a replica of it by this process.
    Replica,
    /// The copy on disk.
    DiskCopy,
}

/// Whom the builder asks.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// The server that takes writes.
    Primary,
    /// One that follows it, and whose state is as new as this, or newer.
    Replica(UnixMs),
}

impl Origin {
    const fn source(self) -> SnapshotSource {
        match self {
            Self::Primary => SnapshotSource::Database,
            Self::Replica(_) => SnapshotSource::Replica,
        }
    }
}

/// Everything at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) dataset: Dataset,
    pub(crate) models: BTreeMap<OrganizationId, OrganizationModel>,
    pub(crate) source: SnapshotSource,
    /// When it was read from the database, by the wall clock.
    pub(crate) read_at: UnixMs,
    /// Of this process: no two snapshots have the same.
    pub(crate) number: u64,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Snapshot {
    /// Judges a dataset.
    pub(crate) fn new(
        dataset: Dataset,
        source: SnapshotSource,
        read_at: UnixMs,
        installation: InstallationId,
    ) -> Result<Self, SnapshotError> {
        let models = validate::validate(&dataset, installation)?;
        Ok(Self::of(dataset, models, source, read_at))
    }

    /// A dataset that was judged.
    fn of(
        dataset: Dataset,
        models: BTreeMap<OrganizationId, OrganizationModel>,
        source: SnapshotSource,
        read_at: UnixMs,
    ) -> Self {
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Self { dataset, models, source, read_at, number }
    }

    /// How many organizations are in use.
    pub(crate) fn open_organizations(&self) -> usize {
        self.dataset.organizations.iter().filter(|data| !data.organization.is_closed()).count()
    }

    pub(crate) fn organization(&self, id: OrganizationId) -> Option<&OrganizationData> {
        self.dataset.organizations.iter().find(|data| data.organization.id == id)
    }

    /// The PoPs that agents may use.
    pub(crate) fn pops(&self, revocations: &RevocationSet) -> Vec<PopEntry> {
        self.dataset
            .pops
            .iter()
            .filter(|pop| !revocations.is_struck(RevokedSubject::Pop(pop.id), pop.generation))
            .map(|pop| PopEntry {
                id: pop.id,
                address: pop.address.clone(),
                region: pop.region.clone(),
                zone: pop.zone.clone(),
            })
            .collect()
    }

    /// Builds what would be built from it, for some agents of each organization: whatever panics on this
    /// version panics here.
    fn try_out(&self) -> Result<(), SnapshotError> {
        let work = || {
            let pops = self.pops(&RevocationSet::new());
            let mut bytes = 0;
            for data in &self.dataset.organizations {
                let Some(model) = self.models.get(&data.organization.id) else { continue };
                #[cfg(test)]
                assert!(data.organization.name != "panics", "a test says so");
                for connector in data.connectors.iter().take(TRIED) {
                    let slice = connector_slice(model, connector.id, &pops);
                    bytes += serde_json::to_vec(&slice).map_or(0, |text| text.len());
                }
                for device in data.devices.iter().take(TRIED) {
                    let owner = owner(device.owner);
                    let slice = client_slice(model, owner, &pops);
                    bytes += serde_json::to_vec(&slice).map_or(0, |text| text.len());
                    bytes += relevant_groups(model, owner).len();
                }
            }
            bytes
        };
        catch_unwind(AssertUnwindSafe(work)).map(|_| ()).map_err(|panic| {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            SnapshotError::Panicked(said.unwrap_or_default())
        })
    }
}

/// The same version for those who verify it.
/// Reads a copy on disk as a controller does that starts without its database: for trying it with other bytes.
///
/// # Errors
/// Why it would not be used.
pub fn check_snapshot_copy(bytes: &[u8], installation: InstallationId) -> Result<(), SnapshotError> {
    copy::decode(bytes, installation).map(drop)
}

pub(crate) const fn slice_version(version: store::Version) -> SliceVersion {
    SliceVersion { incarnation: version.incarnation, version: version.version }
}

pub(crate) const fn owner(member: Member) -> Owner {
    match member {
        Member::User(id) => Owner::User(id),
        Member::ServiceAccount(id) => Owner::ServiceAccount(id),
    }
}

/// What is committed, as far as this process knows.
#[derive(Debug, Default)]
struct Wanted {
    installation: Option<store::Version>,
    organizations: BTreeMap<OrganizationId, store::Version>,
    /// Commits whose outcome is not known.
    unknown: u64,
}

/// What was refused so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Alarms {
    /// By label.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The last one in words; gone when a snapshot was taken after it.
    pub(crate) current: Option<String>,
}

/// The current snapshot and how it is replaced.
#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: Arc<StateDir>,
    installation: InstallationId,
    current: watch::Sender<Arc<Snapshot>>,
    /// One reader of the database at a time, and what survives a crash.
    memory: tokio::sync::Mutex<Memory>,
    wanted: Mutex<Wanted>,
    alarms: Mutex<Alarms>,
    copies: Copies,
    /// When memory and database were last seen to be the same.
    verified_at: Mutex<UnixMs>,
    /// Reads that fail, for tests.
    #[cfg(test)]
    pub(crate) failing: std::sync::atomic::AtomicU32,
    /// Reads of the database, for tests.
    #[cfg(test)]
    pub(crate) reads: std::sync::atomic::AtomicU32,
    /// Looks at the database for what others changed, and what they found is taken, for tests.
    #[cfg(test)]
    pub(crate) looks: std::sync::atomic::AtomicU32,
}

/// How much of the database is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All of it: it may be another database than the one read before.
    Everything,
    /// Organizations whose version is another than before.
    WhatChanged,
}

/// What starting from disk and database gave.
pub(crate) struct Opened {
    pub(crate) snapshots: Snapshots,
    /// Why the database may not be written, when it is not this controller's.
    pub(crate) refused: Option<String>,
}

impl Snapshots {
    /// Starts from the database, or without one from the newest copy on disk that can be used.
    pub(crate) async fn open(
        directory: Arc<StateDir>,
        installation: InstallationId,
        database: Result<Store, StoreError>,
        replicas: &Replicas,
    ) -> Result<Opened, SnapshotError> {
        let mut memory = Memory::open(&directory);
        let mut alarms = Alarms::default();
        if let Some(problem) = &memory.damaged {
            alarms.raise("state", format!("what was served before cannot be read: {problem}"));
        }
        let mut copy = None;
        for read in copy::read(&directory, installation) {
            match read.and_then(|snapshot| trying(&directory, &mut memory, snapshot)) {
                Ok(snapshot) => {
                    copy = Some(snapshot);
                    break;
                }
                Err(error) => alarms.raise(error.label(), error.to_string()),
            }
        }
        let from_database = match database {
            Ok(store) => read(&store, installation, None, Origin::Primary).await,
            Err(error) => Err(error.into()),
        };
        let served = memory.served().cloned();
        let from_database = match from_database {
            Err(SnapshotError::Store(error))
                if error.is_unavailable() && !planted::is("start-asks-primary") =>
            {
                let held = copy.as_ref().map(|copy: &Snapshot| (&copy.dataset, copy.read_at));
                let elsewhere =
                    replica::boot(replicas, installation, held, served.as_ref(), &mut alarms).await;
                elsewhere.ok_or(SnapshotError::Store(error))
            }
            other => other,
        };
        let on_disk = copy.as_ref().map(|copy| copy.dataset.clone());
        let mut refused = None;
        let judged = match from_database {
            Ok(mut snapshot) => {
                let held = copy.as_ref().map(|copy| &copy.dataset);
                match judge(&snapshot, held, served.as_ref()) {
                    Ok(()) => trying(&directory, &mut memory, snapshot),
                    Err(error) if copy.is_none() && error.is_another_database() => {
                        // There is nothing else to look at. It is read like an old copy: nothing is issued
                        // from it, and nothing is written into it, until somebody accepts it.
                        alarms.raise(error.label(), error.to_string());
                        refused = Some(error.to_string());
                        snapshot.source = SnapshotSource::DiskCopy;
                        trying(&directory, &mut memory, snapshot)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        let snapshot = match (judged, copy) {
            (Ok(snapshot), _) => {
                // The same again would push the generation before out.
                if refused.is_none() && on_disk.as_ref() != Some(&snapshot.dataset) {
                    copy::write(&directory, &snapshot);
                }
                snapshot
            }
            (Err(error), Some(copy)) => {
                alarms.raise(error.label(), error.to_string());
                refused = error.is_another_database().then(|| error.to_string());
                copy
            }
            (Err(error), None) => return Err(SnapshotError::Nothing(error.to_string())),
        };
        let verified_at = Mutex::new(snapshot.read_at);
        let current = watch::Sender::new(Arc::new(snapshot));
        let snapshots = Self {
            directory,
            installation,
            current,
            memory: tokio::sync::Mutex::new(memory),
            wanted: Mutex::default(),
            alarms: Mutex::new(alarms),
            copies: Copies::default(),
            verified_at,
            #[cfg(test)]
            failing: std::sync::atomic::AtomicU32::new(0),
            #[cfg(test)]
            reads: std::sync::atomic::AtomicU32::new(0),
            #[cfg(test)]
            looks: std::sync::atomic::AtomicU32::new(0),
        };
        Ok(Opened { snapshots, refused })
    }

    pub(crate) fn get(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.borrow())
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }

    /// What was refused so far.
    pub(crate) fn alarms(&self) -> Alarms {
        self.alarms.lock().expect("nothing panics while it holds the alarms").clone()
    }

    /// When memory and database were last seen to be the same.
    pub(crate) fn verified_at(&self) -> UnixMs {
        *self.verified_at.lock().expect("nothing panics while it holds a time")
    }

    /// Tells the gate what was served before, so that an older state issues nothing.
    pub(crate) async fn tell(&self, gate: &Gate) {
        let memory = self.memory.lock().await;
        for (id, version) in memory.served().into_iter().flat_map(|served| &served.organizations) {
            gate.observe_version(OrganizationTag::of(*id), slice_version(*version));
        }
    }

    /// The highest incarnation that was served.
    pub(crate) async fn highest_incarnation(&self) -> u64 {
        let memory = self.memory.lock().await;
        let served = memory.served().map_or(0, |served| served.installation.incarnation);
        served.max(self.get().dataset.installation.version.incarnation)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().expect("nothing panics while it holds what is wanted")
    }

    /// This version is committed: memory has to come to it.
    pub(crate) fn want(&self, scope: store::Scope, version: store::Version) {
        let mut wanted = self.wanted();
        match scope {
            store::Scope::Installation => wanted.installation = wanted.installation.max(Some(version)),
            store::Scope::Organization(id) => {
                let held = wanted.organizations.entry(id).or_insert(version);
                *held = version.max(*held);
            }
        }
    }

    /// A commit's outcome is not known: memory has to be read again.
    pub(crate) fn want_whatever_there_is(&self) {
        self.wanted().unknown += 1;
    }

    /// Whether something is committed, or may be, that memory does not have.
    pub(crate) fn is_behind(&self) -> bool {
        let held = self.get();
        let wanted = self.wanted();
        wanted.unknown > 0
            || wanted.installation.is_some_and(|version| held.dataset.installation.version < version)
            || wanted.organizations.iter().any(|(id, version)| {
                let gone = held.dataset.installation.version.incarnation <= version.incarnation;
                held.organization(*id).map_or(gone, |data| data.organization.version < *version)
            })
    }

    /// Makes the snapshot contain a change. Of several changes at once, the first to come here reads for
    /// all that are committed by then.
    pub(crate) async fn contain(
        &self,
        store: &Store,
        scope: store::Scope,
        version: store::Version,
    ) -> Result<(), SnapshotError> {
        let mut memory = self.memory.lock().await;
        let held = self.get();
        let contained = match scope {
            store::Scope::Installation => held.dataset.installation.version >= version,
            store::Scope::Organization(id) => {
                held.organization(id).is_some_and(|data| data.organization.version >= version)
            }
        };
        if contained {
            return Ok(());
        }
        self.read_again(store, &held, &mut memory, Reading::WhatChanged, Origin::Primary).await
    }

    /// Comes to the state that a look at `at` found. What this controller wrote itself is here already and is not read
    /// again.
    pub(crate) async fn follow(
        &self,
        store: &Store,
        mark: Mark,
        at: UnixMs,
        reading: Reading,
    ) -> Result<(), SnapshotError> {
        let mut memory = self.memory.lock().await;
        let held = self.get();
        let is_here = held.source == SnapshotSource::Database && Mark::of(&held.dataset) == mark;
        if is_here && reading == Reading::WhatChanged {
            *self.verified_at.lock().expect("nothing panics while it holds a time") = at;
            return Ok(());
        }
        self.read_again(store, &held, &mut memory, reading, Origin::Primary).await
    }

    /// Reads the database again. On an error the snapshot held goes on.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), SnapshotError> {
        let mut memory = self.memory.lock().await;
        let held = self.get();
        self.read_again(store, &held, &mut memory, Reading::Everything, Origin::Primary).await
    }

    /// Writes the copy of the newest edition, if it is not written yet.
    pub(crate) fn copy_what_waits(&self) {
        self.copies.write(&self.directory);
    }

    async fn read_again(
        &self,
        store: &Store,
        held: &Snapshot,
        memory: &mut Memory,
        reading: Reading,
        origin: Origin,
    ) -> Result<(), SnapshotError> {
        let outcome = self.read_and_judge(store, held, memory, reading, origin).await;
        let mut alarms = self.alarms.lock().expect("nothing panics while it holds the alarms");
        match &outcome {
            Ok(()) => alarms.current = None,
            Err(error) => alarms.raise(error.label(), error.to_string()),
        }
        outcome
    }

    async fn read_and_judge(
        &self,
        store: &Store,
        held: &Snapshot,
        memory: &mut Memory,
        reading: Reading,
        origin: Origin,
    ) -> Result<(), SnapshotError> {
        let unknown = self.wanted().unknown;
        #[cfg(test)]
        {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let failing =
                self.failing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            if failing.is_ok() {
                return Err(StoreError::Unavailable("a test says so".into()).into());
            }
        }
        let known = held.source == SnapshotSource::Database && reading == Reading::WhatChanged;
        let known = known.then_some(&held.dataset);
        let snapshot = read(store, self.installation, known, origin).await?;
        let is_replica = matches!(origin, Origin::Replica(_));
        if !(is_replica && planted::is("replica-not-judged")) {
            judge(&snapshot, Some(&held.dataset), memory.served())?;
        }
        let same = snapshot.dataset == held.dataset;
        let read_at = snapshot.read_at;
        // What a replica says over again was read from the database, and is called so.
        let is_better = match origin {
            Origin::Primary => held.source != SnapshotSource::Database,
            Origin::Replica(_) => held.source == SnapshotSource::DiskCopy,
        };
        if !same || is_better {
            let began = clock::now();
            let snapshot = Arc::new(trying(&self.directory, memory, snapshot)?);
            self.current.send_replace(Arc::clone(&snapshot));
            if !same {
                self.copies.keep(&self.directory, snapshot);
            }
            tracing::debug!(tried = ?began.elapsed(), "an edition is served");
        }
        if is_replica {
            // Whether a change was stored that nobody answered to is the primary's to say.
            self.verified_since(read_at);
            return Ok(());
        }
        self.wanted().unknown -= unknown;
        *self.verified_at.lock().expect("nothing panics while it holds a time") = read_at;
        Ok(())
    }
}

/// The copy of the newest edition: nobody's answer waits for a disk to take megabytes of it.
#[derive(Default)]
struct Copies {
    waiting: Mutex<Option<Arc<Snapshot>>>,
    /// Held while one is written: an older one must not end after a newer one.
    writing: Mutex<()>,
    /// Whether somebody writes what waits; until then each is written at once.
    is_written_later: AtomicBool,
    news: Notify,
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copies").finish_non_exhaustive()
    }
}

impl Copies {
    fn keep(&self, directory: &StateDir, snapshot: Arc<Snapshot>) {
        *self.waiting.lock().expect("nothing panics while it holds a copy") = Some(snapshot);
        if self.is_written_later.load(Ordering::Acquire) {
            self.news.notify_one();
        } else {
            self.write(directory);
        }
    }

    fn write(&self, directory: &StateDir) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.waiting.lock().expect("nothing panics while it holds a copy").take();
        if let Some(snapshot) = waiting {
            copy::write(directory, &snapshot);
        }
    }
}

/// Writes the copies of editions behind the answers that waited for them: of several at once the newest. A controller that
/// falls in between starts from the one before, and knows that it has served a newer one.
pub(crate) async fn copy_on(core: &Arc<Core>) {
    core.snapshots.copies.is_written_later.store(true, Ordering::Release);
    loop {
        core.snapshots.copies.news.notified().await;
        let core = Arc::clone(core);
        // What it meets it says by itself.
        let _ = tokio::task::spawn_blocking(move || core.snapshots.copy_what_waits()).await;
    }
}

impl Alarms {
    fn raise(&mut self, label: &'static str, text: String) {
        tracing::warn!(reason = label, "a snapshot was not taken: {text}");
        *self.counts.entry(label).or_default() += 1;
        self.current = Some(text);
    }
}

/// Reads everything in one transaction, or what is new beside `known`, and judges it by itself.
async fn read(
    store: &Store,
    installation: InstallationId,
    known: Option<&Dataset>,
    origin: Origin,
) -> Result<Snapshot, SnapshotError> {
    let wall = clock::wall();
    let began = clock::now();
    let dataset = match known {
        Some(known) => store.load_after(known).await?,
        None => store.load().await?,
    };
    let dataset = dataset.ok_or(SnapshotError::Empty)?;
    let loaded = began.elapsed();
    #[cfg(test)]
    held_against_everything(store, &dataset).await;
    let read_at = match origin {
        Origin::Primary => wall,
        Origin::Replica(as_of) => as_of,
    };
    // Tens of thousands of rows are judged elsewhere than where requests are answered.
    let work = move || Snapshot::new(dataset, origin.source(), read_at, installation);
    let judged = tokio::task::spawn_blocking(work).await;
    let judged = judged.unwrap_or_else(|error| Err(SnapshotError::Panicked(error.to_string())));
    tracing::debug!(loaded = ?loaded, judged = ?began.elapsed().saturating_sub(loaded), "an edition was read");
    judged
}

/// In tests each reading of some rows is held against one of all: none was missed.
#[cfg(test)]
async fn held_against_everything(store: &Store, dataset: &Dataset) {
    // Where it does not answer a second time there is nothing to compare.
    let Ok(Some(whole)) = store.load().await else { return };
    if Mark::of(&whole) == Mark::of(dataset) {
        assert!(whole == *dataset, "a row that a change touched was not read again");
    }
}

/// Holds what was read against what is held and what was ever served.
fn judge(new: &Snapshot, held: Option<&Dataset>, served: Option<&Served>) -> Result<(), SnapshotError> {
    if planted::is("older-snapshot-served") {
        return Ok(());
    }
    let restored = |served: &Served| match served.newer_than(&new.dataset) {
        Some(what) => Err(SnapshotError::Restored { what }),
        None => Ok(()),
    };
    served.map_or(Ok(()), restored)?;
    let Some(held) = held else { return Ok(()) };
    restored(&Served::of(held))?;
    diverged(&new.dataset, held)?;
    shrink::guard(&new.dataset, held)
}

/// The same version has the same content, always.
fn diverged(new: &Dataset, held: &Dataset) -> Result<(), SnapshotError> {
    let text = |version: store::Version| format!("{}.{}", version.incarnation, version.version);
    let same_installation = new.installation.version == held.installation.version;
    let is_shared_same = new.pops == held.pops
        && new.enrolment_keys == held.enrolment_keys
        && new.administrators == held.administrators
        && new.one_time_links == held.one_time_links
        && new.installation == held.installation;
    if same_installation && !is_shared_same {
        return Err(SnapshotError::Diverged { version: text(new.installation.version) });
    }
    for old in &held.organizations {
        let found = new.organizations.iter().find(|data| data.organization.id == old.organization.id);
        if let Some(data) = found
            && data.organization.version == old.organization.version
            && data != old
        {
            return Err(SnapshotError::Diverged { version: text(data.organization.version) });
        }
    }
    Ok(())
}

/// Tries a version out, with a note on disk that outlives the process if the try does not end.
fn trying(directory: &StateDir, memory: &mut Memory, snapshot: Snapshot) -> Result<Snapshot, SnapshotError> {
    let digest = Digest::of(&snapshot.dataset);
    // What is on disk was served by whoever wrote it there, and perhaps something newer since.
    let served = match (snapshot.source, memory.served()) {
        (SnapshotSource::DiskCopy, Some(served)) => served.clone(),
        _ => Served::of(&snapshot.dataset),
    };
    if memory.is_quarantined(&digest) {
        return Err(SnapshotError::Quarantined);
    }
    // A full disk costs this protection and nothing else.
    let unnoted = |error: StateError| tracing::warn!(%error, "a try of a snapshot is not noted on disk");
    memory.begin(directory, &digest).unwrap_or_else(unnoted);
    match snapshot.try_out() {
        Ok(()) => {
            memory.passed(directory, served).unwrap_or_else(unnoted);
            Ok(snapshot)
        }
        Err(error) => {
            memory.failed(directory, digest).unwrap_or_else(unnoted);
            Err(error)
        }
    }
}
