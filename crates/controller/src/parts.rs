//! What every part of the controller shares.

use crate::{
    admission::Admission,
    api::{AnswerSeal, Once, Origin, Rates},
    audit::{AuditHeads, Saved, Writers},
    clock,
    console::ConnectorImage,
    database::Database,
    flows::FlowLog,
    gate::{Gate, Held, Withheld},
    ledger::{self, Deed, Ledger},
    paths::Paths,
    presence::Presence,
    replicas::Replicas,
    signer::{CERTIFICATE_LIFE, Signer},
    signin::SignIn,
    snapshot::{Snapshot, SnapshotError, SnapshotSource, Snapshots},
    strikes::{Holders, OnDisk, StrikeError, Strikes, Struck},
};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use store::{Change, Noted, Store, StoreError, Version};
use tokio::sync::{Notify, mpsc};
use trust::{RevocationSet, RevokedSubject, Subject, UnixMs};
use wire::OrganizationId;

/// How long an answer waits for its own snapshot (architecture: ≤ 2 s).
const SNAPSHOT_WAIT: Duration = Duration::from_secs(2);
/// How long a strike's answer waits for PoPs; a second is many round trips to any of them.
const HOLDERS_WAIT: Duration = Duration::from_millis(1500);
/// How long an enrolment waits for a controller that has just started to know what is struck.
const ISSUING_WAIT: Duration = Duration::from_secs(5);
/// How often it looks.
const ISSUING_LOOK: Duration = Duration::from_millis(50);
/// Waits between two tries to get what is committed into memory, and what was done into the database.
const CATCH_UP_FIRST: Duration = Duration::from_millis(250);
const CATCH_UP_LONGEST: Duration = Duration::from_secs(30);
/// A look at a database that others write into is this recent, or what is served has an age: one look may fail.
const LOOKED_LATELY: Duration = Duration::from_secs(3);
/// A connector that was seen this recently still hears beacons: the words fresh, stale and isolated.
const ISOLATED_AFTER: Duration = Duration::from_secs(60);

/// The controller's parts.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) state: PathBuf,
    pub(crate) url: String,
    pub(crate) connector_image: Option<ConnectorImage>,
    pub(crate) signer: Signer,
    /// Held while this controller's keys change in the bundle that several share.
    pub(crate) settling: tokio::sync::Mutex<()>,
    pub(crate) database: Database,
    pub(crate) replicas: Replicas,
    pub(crate) snapshots: Snapshots,
    pub(crate) strikes: Strikes,
    pub(crate) gate: Gate,
    pub(crate) ledger: Ledger,
    pub(crate) presence: Mutex<Presence>,
    pub(crate) paths: Mutex<Paths>,
    pub(crate) flows: FlowLog,
    /// Places for requests, by their class.
    pub(crate) admission: Arc<Admission>,
    /// How often callers of the API ask.
    pub(crate) rates: Rates,
    /// Seals the answers that are kept for who asks again.
    pub(crate) answers: AnswerSeal,
    /// The same for requests that no transaction keeps.
    pub(crate) once: Once,
    /// The audit log's ends, outside the database.
    pub(crate) audit: AuditHeads,
    pub(crate) signin: SignIn,
    pub(crate) sync: mpsc::Sender<SyncCommand>,
    /// Something waits for [`Core::catch_up`].
    pub(crate) work: Notify,
    /// The database is to be looked at now, or told something.
    pub(crate) news: Notify,
    pub(crate) started: Instant,
}

/// What the sync task is told.
#[derive(Debug)]
pub(crate) enum SyncCommand {
    /// Spread this entry.
    Strike(Arc<str>),
    /// The bundle changed.
    Bundle,
    /// The union with what a PoP holds was made.
    Taken,
}

/// A strike as its maker is told of it.
#[derive(Debug)]
pub(crate) struct StrikeReport {
    pub(crate) subject: RevokedSubject,
    pub(crate) generation: u64,
    pub(crate) at: UnixMs,
    pub(crate) on_disk: OnDisk,
    pub(crate) holders: Holders,
    pub(crate) pops_attached: BTreeSet<wire::PopId>,
    pub(crate) reach: StrikeReach,
    pub(crate) latest_possible_end: UnixMs,
}

/// Who enforces a strike, of the connectors that it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct StrikeReach {
    /// A PoP that holds it sent it to them, on a session that is up.
    pub(crate) enforced: usize,
    /// They hear of it with their next beacon, or know by its absence that they are stale.
    pub(crate) stale: usize,
    /// No PoP has seen them for a minute.
    pub(crate) isolated: usize,
}

/// What is to be struck.
#[derive(Debug, Clone)]
pub(crate) struct StrikeRequest {
    pub(crate) subject: RevokedSubject,
    pub(crate) generation: u64,
    pub(crate) organization: Option<OrganizationId>,
    pub(crate) actor: String,
    /// From which address, and by which request.
    pub(crate) source: String,
    pub(crate) request: String,
}

fn ended(error: tokio::task::JoinError) -> std::io::Error {
    std::io::Error::other(format!("the strike's task ended: {error}"))
}

/// Whether anything is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CaughtUp {
    Yes,
    NotYet,
}

impl Core {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.get()
    }

    /// Whoever needs both this and [`Core::paths`] takes this first: the other way round, two of them wait for each other
    /// for ever.
    pub(crate) fn presence(&self) -> MutexGuard<'_, Presence> {
        #[cfg(test)]
        self.is_taken_in_order();
        self.presence.lock().expect("nothing panics while it holds the presence")
    }

    pub(crate) fn paths(&self) -> MutexGuard<'_, Paths> {
        self.paths.lock().expect("nothing panics while it holds the paths")
    }

    /// Another thread lets go of the paths soon; this one, if it holds them, never does.
    #[cfg(test)]
    fn is_taken_in_order(&self) {
        let free = || self.paths.try_lock().is_ok();
        let mut tries = std::iter::repeat_with(|| std::thread::sleep(Duration::from_millis(1))).take(2_000);
        assert!(free() || tries.any(|()| free()), "who holds the paths asks for the presence");
    }

    /// Whether anything may be issued now.
    pub(crate) fn may_issue(&self, snapshot: &Snapshot, revocations: &RevocationSet) -> Result<(), Withheld> {
        let heads = self.strikes.heads();
        let held = Held { snapshot, revocations, heads: &heads };
        self.gate.check(held, clock::now(), clock::wall())
    }

    /// Why nothing is issued, when nothing is.
    pub(crate) fn withheld(&self) -> Option<Withheld> {
        self.may_issue(&self.snapshot(), &self.strikes.set()).err()
    }

    /// Waits a few seconds for a controller that has just started.
    pub(crate) async fn when_issuing(&self) -> Result<(), Withheld> {
        let deadline = clock::now() + ISSUING_WAIT;
        loop {
            match self.withheld() {
                None => return Ok(()),
                Some(Withheld::Starting { .. }) if clock::now() < deadline => {
                    tokio::time::sleep(ISSUING_LOOK).await;
                }
                Some(withheld) => return Err(withheld),
            }
        }
    }

    /// Notes one thing in a change, and from where it was asked for, and commits it.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        store: &Store,
        mut change: Change,
        origin: &Origin,
        noted: Noted,
    ) -> Result<Version, StoreError> {
        change.came_from(&origin.source(), &origin.request);
        change.note(noted);
        self.finish(store, change).await
    }

    /// Commits a change; the answer comes when the snapshot contains it, or after 2 s: it is stored. A caller
    /// that hangs up changes nothing about either.
    pub(crate) async fn finish(
        self: &Arc<Self>,
        store: &Store,
        change: Change,
    ) -> Result<Version, StoreError> {
        let (core, store) = (Arc::clone(self), store.clone());
        let work = async move {
            let scope = change.scope();
            let committed = match change.commit_noted().await {
                Ok(committed) => committed,
                Err(error) => {
                    core.database.failed(&error);
                    // It may be stored all the same: only reading again tells.
                    core.snapshots.want_whatever_there_is();
                    core.work.notify_one();
                    return Err(error);
                }
            };
            let version = committed.version;
            core.snapshots.want(scope, version);
            let contained =
                tokio::time::timeout(SNAPSHOT_WAIT, core.snapshots.contain(&store, scope, version));
            let remembered = core.remember_audit(committed.linked.into_iter().collect());
            let ((), contained) = tokio::join!(remembered, contained);
            match contained {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a change is stored and not yet in the snapshot");
                    core.look_at(&error);
                }
                Err(_) => tracing::warn!("a change is stored and the snapshot is late"),
            }
            if core.snapshots.is_behind() {
                core.work.notify_one();
            }
            Ok(version)
        };
        match tokio::spawn(work).await {
            Ok(outcome) => outcome,
            Err(error) => Err(StoreError::Unavailable(format!("the change's task ended: {error}"))),
        }
    }

    /// Who else writes the audit log.
    pub(crate) fn writers(&self) -> Writers {
        if self.signer.is_one_of_several() { Writers::Several } else { Writers::Alone }
    }

    /// Remembers the audit log's new ends, outside the database.
    pub(crate) async fn remember_audit(self: &Arc<Self>, links: Vec<store::Linked>) {
        if links.is_empty() {
            return;
        }
        self.audit.remember(&links, self.writers());
        let core = Arc::clone(self);
        // What is lost with a crash is said by the next verification.
        let _ = tokio::task::spawn_blocking(move || core.audit.save()).await;
    }

    /// Remembers where a chain of the audit log begins, and that this controller is about to remove so many from there. Where
    /// others remove some, too, nobody alone knows. Says whether that is on the disk: what was not, must not be removed.
    pub(crate) async fn audit_begins(
        self: &Arc<Self>,
        store: &Store,
        chain: store::Chain,
        removes: u64,
    ) -> Saved {
        if self.writers() == Writers::Several {
            self.audit.begins_anywhere(chain);
        } else {
            match store.audit_ends(chain).await {
                Ok(Some(ends)) => self.audit.begins(chain, ends.first_seq, ends.first_seq + removes),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "where the audit log begins is not known");
                    return Saved::No;
                }
            }
        }
        let core = Arc::clone(self);
        tokio::task::spawn_blocking(move || core.audit.save()).await.unwrap_or(Saved::No)
    }

    /// Brings what is committed into memory and what was done into the database, as often as it takes.
    pub(crate) async fn catch_up(self: Arc<Self>) {
        let mut wait = CATCH_UP_FIRST;
        loop {
            match self.catch_up_once().await {
                CaughtUp::Yes => {
                    wait = CATCH_UP_FIRST;
                    self.work.notified().await;
                }
                CaughtUp::NotYet => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(CATCH_UP_LONGEST);
                }
            }
        }
    }

    /// One try of [`Core::catch_up`].
    pub(crate) async fn catch_up_once(self: &Arc<Self>) -> CaughtUp {
        if !self.snapshots.is_behind() && !self.ledger.waits() {
            return CaughtUp::Yes;
        }
        let Ok(store) = self.database.store() else { return CaughtUp::NotYet };
        if self.snapshots.is_behind()
            && let Err(error) = self.refresh(&store).await
        {
            tracing::warn!(%error, "a change is stored and still not in the snapshot");
        }
        let version = self.snapshot().dataset.installation.version;
        match self.ledger.record(&store, version).await {
            Ok(links) => self.remember_audit(links).await,
            Err(error) => {
                tracing::warn!(%error, "what was done is written down and not yet in the audit log")
            }
        }
        if self.snapshots.is_behind() || self.ledger.waits() { CaughtUp::NotYet } else { CaughtUp::Yes }
    }

    /// Reads the database again. One that is not this controller's is neither read nor written from then on.
    pub(crate) async fn refresh(&self, store: &Store) -> Result<(), SnapshotError> {
        self.snapshots.refresh(store).await.inspect_err(|error| self.look_at(error))
    }

    pub(crate) fn look_at(&self, error: &SnapshotError) {
        if error.is_another_database() {
            self.database.refuse(error.to_string());
        }
    }

    /// Flow records that ended before this are kept no longer, whatever file they stand in.
    pub(crate) fn flows_kept_from(&self, organization: OrganizationId) -> Option<UnixMs> {
        let snapshot = self.snapshot();
        let days = snapshot.organization(organization)?.organization.flow_retention_days;
        let kept = Duration::from_secs(days.saturating_mul(24 * 3600));
        (days > 0).then(|| self.signer.best_time().minus(kept))
    }

    /// Takes a restored database for the truth: its incarnation is raised above everything that was ever
    /// seen, so that every node takes its states as newer.
    pub(crate) async fn accept_restored(
        self: &Arc<Self>,
        actor: &str,
        origin: &Origin,
    ) -> Result<Version, SnapshotError> {
        let store = self.database.store_to_accept()?;
        let dataset = store.load().await?.ok_or(SnapshotError::Empty)?;
        let (found, expected) = (dataset.installation.id, self.signer.installation());
        if found != expected {
            return Err(SnapshotError::Foreign { found, expected });
        }
        let seen = self.snapshots.highest_incarnation().await.max(self.gate.highest_incarnation());
        let from = dataset.installation.version.incarnation;
        let to = seen.max(from) + 1;
        let mut change = store.change(store::Scope::Installation, actor, clock::wall().as_millis()).await?;
        change.raise_incarnation(to).await?;
        change.came_from(&origin.source(), &origin.request);
        change.note(Noted {
            action: "accept restored database".to_owned(),
            subject: expected.to_string(),
            before: Some(serde_json::json!({"incarnation": from}).to_string()),
            after: Some(serde_json::json!({"incarnation": to}).to_string()),
            detail: "{}".to_owned(),
        });
        let committed = change.commit_noted().await?;
        let version = committed.version;
        // Its audit log is the one of the copy: what is remembered is of another.
        self.audit.forget();
        self.remember_audit(committed.linked.into_iter().collect()).await;
        self.absorb_struck(&store).await?;
        self.snapshots.refresh(&store).await?;
        self.database.accept();
        self.work.notify_one();
        Ok(version)
    }

    /// Where history is read from: the database, and a replica of it while that does not answer. Another database than this
    /// controller's is followed by others than its replicas.
    pub(crate) fn history(&self) -> Result<Store, StoreError> {
        self.database.store().or_else(|error| self.history_elsewhere(error))
    }

    /// Where history is read from after `error` of the database.
    pub(crate) fn history_elsewhere(&self, error: StoreError) -> Result<Store, StoreError> {
        let replica = if self.database.is_refused() { None } else { self.replicas.usable() };
        replica.ok_or(error)
    }

    /// How old what is served may be: nothing when memory is known to be what the database has.
    pub(crate) fn snapshot_age(&self) -> Duration {
        let age = clock::wall().since(self.snapshots.verified_at());
        let current = self.snapshot().source == SnapshotSource::Database
            && !self.snapshots.is_behind()
            && self.database.trouble().is_none()
            // What others write is seen by looking.
            && (!self.database.is_shared() || age <= LOOKED_LATELY);
        if current { Duration::ZERO } else { age }
    }

    /// Takes what the database remembers to be struck for good.
    pub(crate) async fn absorb_struck(self: &Arc<Self>, store: &Store) -> Result<(), StoreError> {
        let rows = store.struck_generations().await?;
        let struck: Vec<(RevokedSubject, u64)> =
            rows.iter().filter_map(|row| Some((row.subject.parse().ok()?, row.generation))).collect();
        let core = Arc::clone(self);
        let absorbed = tokio::task::spawn_blocking(move || core.strikes.absorb(&struck)).await;
        absorbed.map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    /// Strikes: applied, written, sent to PoPs, and the truth about who holds it. All of it happens also when
    /// nobody waits for the answer any more.
    pub(crate) async fn strike(
        self: &Arc<Self>,
        request: StrikeRequest,
    ) -> Result<StrikeReport, StrikeError> {
        let mut reports = self.strike_each(vec![request]).await?;
        Ok(reports.pop().expect("one for each that was asked for"))
    }

    /// Strikes each as [`Core::strike`] does, all of them at once: none waits for another's answer. All or none.
    pub(crate) async fn strike_each(
        self: &Arc<Self>,
        requests: Vec<StrikeRequest>,
    ) -> Result<Vec<StrikeReport>, StrikeError> {
        let core = Arc::clone(self);
        let work = async move {
            let requests = Arc::new(requests);
            let (here, asked) = (Arc::clone(&core), Arc::clone(&requests));
            let struck =
                tokio::task::spawn_blocking(move || here.strike_here(&asked)).await.map_err(ended)??;
            core.work.notify_one();
            let told = struck.iter().zip(requests.iter()).map(|(struck, request)| core.told(struck, request));
            Ok(futures_util::future::join_all(told).await)
        };
        tokio::spawn(work).await.map_err(ended)?
    }

    /// Strikes each, and waits for nobody: applied and written when this returns. All or none.
    pub(crate) async fn strike_all(
        self: &Arc<Self>,
        requests: Vec<StrikeRequest>,
    ) -> Result<(), StrikeError> {
        if requests.is_empty() {
            return Ok(());
        }
        let core = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || core.strike_here(&requests).map(drop)).await;
        self.work.notify_one();
        done.map_err(ended)?
    }

    /// Strikes on this controller, and sends it on its way. Blocking.
    fn strike_here(&self, requests: &[StrikeRequest]) -> Result<Vec<Struck>, StrikeError> {
        // A PoP that attaches later gets every entry; a sync task that has ended has no PoP left.
        let spread = |text| drop(self.sync.blocking_send(SyncCommand::Strike(text)));
        let asked: Vec<_> = requests.iter().map(|request| (request.subject, request.generation)).collect();
        let struck = self.strikes.strike_each(&self.signer, &asked, spread)?;
        for (struck, request) in struck.iter().zip(requests) {
            let StrikeRequest { subject, generation, organization, actor, source, request } = request;
            let mut deed = Deed::new(struck.at, actor, "strike", subject);
            deed.organization = *organization;
            deed.detail = serde_json::json!({"generation": generation});
            (deed.source, deed.request) = (source.clone(), request.clone());
            deed.struck = Some((*subject, *generation));
            if let Err(error) = ledger::write_down(&self.state, &deed) {
                tracing::error!(%error, %subject, generation, actor, "a strike was not written into the audit spool");
            }
        }
        Ok(struck)
    }

    /// Waits for who else holds a strike, and says the truth about it.
    async fn told(&self, struck: &Struck, request: &StrikeRequest) -> StrikeReport {
        let (subject, organization) = (request.subject, request.organization);
        let pops_attached = self.presence().attached_pops();
        let holders = self.strikes.holders(struck.hash, &pops_attached, HOLDERS_WAIT).await;
        let reach = self.reach(subject, organization, &holders);
        let snapshot = self.snapshot();
        let pops = snapshot.pops(&self.strikes.set());
        let everywhere =
            reach.stale + reach.isolated == 0 && pops.iter().all(|pop| holders.pops.contains(&pop.id));
        let latest_possible_end =
            if everywhere { struck.at } else { self.longest_lease(struck.at, subject, organization) };
        StrikeReport {
            subject,
            generation: request.generation,
            at: struck.at,
            on_disk: struck.on_disk,
            holders,
            pops_attached,
            reach,
            latest_possible_end,
        }
    }

    /// Where a strike has come so far.
    fn reach(
        &self,
        subject: RevokedSubject,
        organization: Option<OrganizationId>,
        holders: &Holders,
    ) -> StrikeReach {
        let mut reach = StrikeReach::default();
        if matches!(subject, RevokedSubject::Token(_)) {
            // Tokens are looked at here and nowhere else.
            return reach;
        }
        let (snapshot, revocations, wall) = (self.snapshot(), self.strikes.set(), clock::wall());
        let presence = self.presence();
        let concerned = snapshot
            .dataset
            .organizations
            .iter()
            .filter(|data| organization.is_none_or(|id| data.organization.id == id))
            .flat_map(|data| &data.connectors)
            .filter(|row| !revocations.is_struck(RevokedSubject::Connector(row.id), row.generation));
        for connector in concerned {
            let seen = presence.of(Subject::Connector(connector.id));
            let attached = seen.is_some_and(|seen| !seen.attached.is_empty());
            let lately = seen.is_some_and(|seen| wall.since(seen.last) <= ISOLATED_AFTER);
            if holders.connectors.contains(&connector.id) && attached {
                reach.enforced += 1;
            } else if attached || lately {
                reach.stale += 1;
            } else {
                reach.isolated += 1;
            }
        }
        reach
    }

    /// After this nothing that was issued before a strike is valid any more, whoever missed it.
    fn longest_lease(
        &self,
        at: UnixMs,
        subject: RevokedSubject,
        organization: Option<OrganizationId>,
    ) -> UnixMs {
        let snapshot = self.snapshot();
        match subject {
            RevokedSubject::Connector(_) | RevokedSubject::Pop(_) | RevokedSubject::Controller(_) => {
                at.plus(CERTIFICATE_LIFE)
            }
            RevokedSubject::Token(_) => at,
            _ => match organization.and_then(|id| snapshot.organization(id)) {
                Some(data) => {
                    let row = &data.organization;
                    let of_now = at.plus(Duration::from_millis(row.grant_life_ms));
                    of_now.max(UnixMs::from_millis(row.old_grants_end_ms))
                }
                None => at.plus(trust::MAX_GRANT_LIFE),
            },
        }
    }

    pub(crate) fn up_for(&self) -> Duration {
        clock::now().duration_since(self.started)
    }
}
