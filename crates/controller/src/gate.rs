//! Whether this controller may issue yet.
//!
//! Strikes live on the disks of controllers and PoPs, and a controller that starts may be an old copy of
//! itself. So it first takes the union of what every PoP it reaches holds; it serves reads meanwhile. Alone,
//! it goes on from a snapshot whose last beacon is at most a day old: what was struck since then is not known
//! here, and no grant that it could renew lives much longer than that.

use crate::snapshot::{Snapshot, slice_version};
use state::{StateDir, StateError};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use trust::{Beacon, Head, OrganizationTag, RevocationSet, SliceVersion, UnixMs};
use wire::{ControllerId, PopId};

use crate::strikes::JournalHealth;

/// How long a starting controller waits for PoPs before it takes itself for alone: a PoP that lives answers
/// within a few round trips; with one lost datagram within a second and a half (RFC 9002 section 6.2.2).
const ALONE_AFTER: Duration = Duration::from_secs(3);
/// How long a PoP that was reached may take to say what it holds.
const UNION_WITHIN: Duration = Duration::from_secs(3);
/// Architecture, "Revocation": a snapshot whose last beacon is ≤ 24 h old.
pub(crate) const SNAPSHOT_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often the time of the last beacon is written. It may be this much older than the truth.
const WRITE_EVERY: Duration = Duration::from_secs(600);
pub(crate) const LAST_BEACON: &str = "last-beacon";
/// What others have seen that is newer than what this directory served. A PoP forgets it with this
/// controller's next beacon; this controller must not.
const SEEN: &str = "seen";
/// When to ask again after a refusal that time alone does not end.
const LATER: Duration = Duration::from_secs(30);

/// What to do alone with an old snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OldSnapshots {
    /// Serve reads, issue nothing.
    #[default]
    Refuse,
    /// Issue all the same: what was struck elsewhere meanwhile may come back to life.
    DangerouslyIssue,
}

/// Why nothing is issued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Withheld {
    /// PoPs may still say what is struck.
    #[error("this controller is starting and takes what {pops} of its PoPs know to be revoked; try again in {} s", .again.as_secs() + 1)]
    Starting {
        /// How many have not answered.
        pops: usize,
        /// Until when they are waited for.
        again: Duration,
    },
    /// Alone, and what it has is old.
    #[error(
        "this controller reaches no PoP and its snapshot was last in use {} h ago, so that it does not know what was revoked \
         since; it issues again when it reaches one of its PoPs, or when it is started with \
         --dangerous-issue-from-old-snapshot", .0.as_secs() / 3600
    )]
    Old(Duration),
    /// Alone, and what it has is not whole.
    #[error(
        "this controller reaches no PoP and {0}, so that it does not know what was revoked; it issues again when it \
         reaches one of its PoPs, or when it is started with --dangerous-issue-from-old-snapshot"
    )]
    Incomplete(String),
    /// A beacon names a strike that nobody gave.
    #[error(
        "a PoP has seen strike {seen} of {signer}, and this controller holds {held}: it was restored from an older copy, \
         and the PoP does not keep that strike any more; start the controller that has it, or start this one with \
         --dangerous-issue-from-old-snapshot"
    )]
    OlderStrikes {
        /// Whose chain.
        signer: ControllerId,
        /// The newest known to exist.
        seen: u64,
        /// The newest held.
        held: u64,
    },
    /// Somebody has seen a newer configuration.
    #[error(
        "version {seen} of the configuration was served before and this controller has {held}: it was restored from an \
         older copy; bring its database back, or take the older one for good with: tidegate admin accept-restored-database"
    )]
    OlderSnapshot {
        /// What was seen.
        seen: String,
        /// What is held.
        held: String,
    },
}

impl Withheld {
    /// When to ask again.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Starting { again, .. } => *again + Duration::from_millis(500),
            _ => LATER,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Reached(Instant),
    Taken,
}

/// The newest of each chain and configuration that anybody has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    heads: BTreeMap<ControllerId, u64>,
    versions: BTreeMap<OrganizationTag, SliceVersion>,
}

impl Seen {
    fn head(&mut self, signer: ControllerId, seq: u64) {
        let seen = self.heads.entry(signer).or_default();
        *seen = seq.max(*seen);
    }

    fn version(&mut self, tag: OrganizationTag, version: SliceVersion) {
        let seen = self.versions.entry(tag).or_insert(version);
        *seen = version.max(*seen);
    }
}

#[derive(Debug)]
struct State {
    started: Instant,
    reach: BTreeMap<PopId, Reach>,
    open: bool,
    seen: Seen,
    written: Option<Instant>,
    /// The snapshot that was last found to be as new as anything seen.
    newest: Option<u64>,
}

/// What the gate looks at.
#[derive(Clone, Copy)]
pub(crate) struct Held<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) revocations: &'a RevocationSet,
    pub(crate) heads: &'a BTreeMap<ControllerId, Head>,
}

/// Keeps a controller from issuing before it knows what is struck.
#[derive(Debug)]
pub(crate) struct Gate {
    directory: Arc<StateDir>,
    /// When a beacon of this directory's snapshot last went to a PoP; `None`: none ever did.
    last_beacon: Result<Option<UnixMs>, String>,
    journal: JournalHealth,
    old: OldSnapshots,
    state: Mutex<State>,
}

fn read_last_beacon(directory: &StateDir) -> Result<Option<UnixMs>, String> {
    let wrong = |problem: &str| format!("the file {LAST_BEACON} of its state directory {problem}");
    match directory.read(LAST_BEACON) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => {
            let text = String::from_utf8(bytes).map_err(|_| wrong("is not text"))?;
            let millis = text.trim().parse().map_err(|_| wrong("is not a number of milliseconds"))?;
            Ok(Some(UnixMs::from_millis(millis)))
        }
        Err(error) => Err(wrong(&format!("cannot be read ({error})"))),
    }
}

impl Gate {
    /// A controller starts.
    pub(crate) fn new(
        directory: Arc<StateDir>,
        journal: JournalHealth,
        old: OldSnapshots,
        now: Instant,
    ) -> Self {
        let last_beacon = read_last_beacon(&directory);
        if old == OldSnapshots::DangerouslyIssue
            && let Err(error) = directory.remove(SEEN)
        {
            // Told once is enough: what was lost for good must not need the word at each start.
            tracing::warn!(%error, "what others have seen is still written down");
        }
        let seen = directory.read(SEEN).ok().flatten();
        let seen = seen.map(|bytes| serde_json::from_slice(&bytes)).transpose().unwrap_or_else(|error| {
            tracing::warn!(%error, "what others have seen is not known any more; PoPs are asked again");
            None
        });
        let state = State {
            started: now,
            reach: BTreeMap::new(),
            open: false,
            seen: seen.unwrap_or_default(),
            written: None,
            newest: None,
        };
        Self { directory, last_beacon, journal, old, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the gate")
    }

    /// A session with a PoP is up; what it holds is on its way.
    pub(crate) fn reached(&self, pop: PopId, now: Instant) {
        self.state().reach.entry(pop).or_insert(Reach::Reached(now));
    }

    /// The session ended before the PoP said what it holds.
    pub(crate) fn lost(&self, pop: PopId) {
        self.state().reach.retain(|id, reach| *id != pop || *reach == Reach::Taken);
    }

    /// The union with what a PoP holds was made.
    pub(crate) fn taken(&self, pop: PopId) {
        self.state().reach.insert(pop, Reach::Taken);
    }

    /// A verified beacon: what it names exists. Blocking: what is new is written.
    pub(crate) fn observe(&self, beacon: &Beacon) {
        let seen = {
            let mut state = self.state();
            let before = state.seen.clone();
            for (signer, head) in &beacon.heads {
                state.seen.head(*signer, head.seq);
            }
            for (tag, version) in &beacon.versions {
                state.seen.version(*tag, *version);
            }
            if state.seen == before {
                return;
            }
            state.newest = None;
            state.seen.clone()
        };
        let text = serde_json::to_vec(&seen).expect("ids and versions always serialize");
        if let Err(error) = self.directory.write(SEEN, &text) {
            tracing::warn!(%error, "what others have seen is not written down");
        }
    }

    /// A configuration that was served before, by this directory's own memory.
    pub(crate) fn observe_version(&self, tag: OrganizationTag, version: SliceVersion) {
        let mut state = self.state();
        state.seen.version(tag, version);
        state.newest = None;
    }

    /// The highest incarnation that anybody has seen.
    pub(crate) fn highest_incarnation(&self) -> u64 {
        self.state().seen.versions.values().map(|version| version.incarnation).max().unwrap_or(0)
    }

    /// A beacon went to a PoP. Says whether the time is to be written now.
    pub(crate) fn beaconed(&self, now: Instant) -> ToWrite {
        let mut state = self.state();
        let due = state.written.is_none_or(|at| now.saturating_duration_since(at) >= WRITE_EVERY);
        if !state.open || !due {
            return ToWrite::Nothing;
        }
        state.written = Some(now);
        ToWrite::LastBeacon
    }

    /// Writes when the last beacon went out. Blocking.
    pub(crate) fn write_last_beacon(&self, wall: UnixMs) -> Result<(), StateError> {
        self.directory.write(LAST_BEACON, wall.as_millis().to_string().as_bytes())
    }

    /// Whether something may be issued now.
    ///
    /// # Errors
    /// [`Withheld`]: why not, and when to ask again.
    pub(crate) fn check(&self, held: Held<'_>, now: Instant, wall: UnixMs) -> Result<(), Withheld> {
        let mut state = self.state();
        if self.old == OldSnapshots::Refuse {
            nothing_newer(&mut state, held)?;
        }
        if state.open {
            return Ok(());
        }
        let pops = held.snapshot.pops(held.revocations);
        let waits = pops.iter().filter_map(|pop| {
            let until = match state.reach.get(&pop.id) {
                Some(Reach::Taken) => return None,
                Some(Reach::Reached(at)) => *at + UNION_WITHIN,
                None => state.started + ALONE_AFTER,
            };
            let left = until.saturating_duration_since(now);
            (!left.is_zero()).then_some(left)
        });
        let waits: Vec<Duration> =
            if planted::is("issues-before-the-union") { Vec::new() } else { waits.collect() };
        if let Some(again) = waits.iter().max() {
            return Err(Withheld::Starting { pops: waits.len(), again: *again });
        }
        let united = state.reach.values().any(|reach| *reach == Reach::Taken);
        if !united && self.old == OldSnapshots::Refuse {
            self.alone(wall)?;
        }
        state.open = true;
        Ok(())
    }

    /// Nobody can say what was struck: only a recent state of a whole directory knows.
    fn alone(&self, wall: UnixMs) -> Result<(), Withheld> {
        match &self.last_beacon {
            // No PoP ever had a beacon of this installation: nobody else can know anything.
            Ok(None) => Ok(()),
            Ok(Some(_)) if self.journal == JournalHealth::Incomplete => {
                Err(Withheld::Incomplete("its strike journal is not whole".into()))
            }
            Ok(Some(at)) if wall.since(*at) <= SNAPSHOT_LIFE => Ok(()),
            Ok(Some(at)) => Err(Withheld::Old(wall.since(*at))),
            Err(problem) => Err(Withheld::Incomplete(problem.clone())),
        }
    }
}

/// What [`Gate::beaconed`] wants written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ToWrite {
    Nothing,
    LastBeacon,
}

fn nothing_newer(state: &mut State, held: Held<'_>) -> Result<(), Withheld> {
    for (signer, seen) in &state.seen.heads {
        let own = held.heads.get(signer).map_or(0, |head| head.seq);
        if own < *seen {
            return Err(Withheld::OlderStrikes { signer: *signer, seen: *seen, held: own });
        }
    }
    // Asked for each document: the same snapshot is looked at once.
    if state.seen.versions.is_empty() || state.newest == Some(held.snapshot.number) {
        return Ok(());
    }
    let organizations = &held.snapshot.dataset.organizations;
    let own: BTreeMap<OrganizationTag, SliceVersion> = organizations
        .iter()
        .map(|data| (OrganizationTag::of(data.organization.id), slice_version(data.organization.version)))
        .collect();
    // A restore that was accepted raised every incarnation: what was lost with it stays lost.
    let incarnation = held.snapshot.dataset.installation.version.incarnation;
    for (tag, seen) in &state.seen.versions {
        let text = |version: SliceVersion| format!("{}.{}", version.incarnation, version.version);
        match own.get(tag) {
            Some(version) if version >= seen => {}
            None if incarnation > seen.incarnation => {}
            own => {
                let held = own.map_or_else(|| "none of it".to_owned(), |version| text(*version));
                return Err(Withheld::OlderSnapshot { seen: text(*seen), held });
            }
        }
    }
    state.newest = Some(held.snapshot.number);
    Ok(())
}

#[cfg(test)]
mod tests;
