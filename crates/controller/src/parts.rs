//! What every part of the controller shares.

use crate::{
    clock,
    console::Console,
    database::Database,
    flows::FlowLog,
    presence::Presence,
    signer::{CERTIFICATE_LIFE, Signer},
    snapshot::{Snapshot, Snapshots},
    strikes::{Holders, OnDisk, StrikeError, Strikes},
};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use store::{Change, Store, StoreError, Version};
use tokio::sync::mpsc;
use trust::{RevokedSubject, UnixMs};
use wire::OrganizationId;

/// How long an answer waits for its own snapshot (architecture: ≤ 2 s).
const SNAPSHOT_WAIT: Duration = Duration::from_secs(2);
/// How long a strike's answer waits for PoPs; a second is many round trips to any of them.
const HOLDERS_WAIT: Duration = Duration::from_millis(1500);

/// The controller's parts.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) state: PathBuf,
    pub(crate) url: String,
    pub(crate) signer: Signer,
    pub(crate) database: Database,
    pub(crate) snapshots: Snapshots,
    pub(crate) strikes: Strikes,
    pub(crate) presence: Mutex<Presence>,
    pub(crate) flows: FlowLog,
    pub(crate) console: Console,
    pub(crate) sync: mpsc::Sender<SyncCommand>,
    pub(crate) started: Instant,
}

/// What the sync task is told.
#[derive(Debug)]
pub(crate) enum SyncCommand {
    /// Spread this entry.
    Strike(Arc<str>),
    /// The bundle changed.
    Bundle,
}

/// A strike as its maker is told of it.
#[derive(Debug)]
pub(crate) struct StrikeReport {
    pub(crate) at: UnixMs,
    pub(crate) on_disk: OnDisk,
    pub(crate) holders: Holders,
    pub(crate) pops_attached: BTreeSet<wire::PopId>,
    pub(crate) latest_possible_end: UnixMs,
}

/// What is to be struck.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StrikeRequest {
    pub(crate) subject: RevokedSubject,
    pub(crate) generation: u64,
    pub(crate) organization: Option<OrganizationId>,
}

impl Core {
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.get()
    }

    pub(crate) fn presence(&self) -> MutexGuard<'_, Presence> {
        self.presence.lock().expect("nothing panics while it holds the presence")
    }

    /// Commits a change; the answer comes when the snapshot contains it, or after 2 s: it is stored.
    pub(crate) async fn commit(
        &self,
        store: &Store,
        change: Change,
        action: &str,
        subject: &str,
        detail: &serde_json::Value,
    ) -> Result<Version, StoreError> {
        let scope = change.scope();
        let committed = change.commit(action, subject, &detail.to_string()).await;
        let version = committed.inspect_err(|error| self.database.failed(error))?;
        match tokio::time::timeout(SNAPSHOT_WAIT, self.snapshots.contain(store, scope, version)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a change is stored and not yet in the snapshot"),
            Err(_) => tracing::warn!("a change is stored and the snapshot is late"),
        }
        Ok(version)
    }

    /// Strikes: applied, written, sent to PoPs, and the truth about who holds it.
    pub(crate) async fn strike(
        self: &Arc<Self>,
        request: StrikeRequest,
    ) -> Result<StrikeReport, StrikeError> {
        let core = Arc::clone(self);
        let StrikeRequest { subject, generation, organization } = request;
        let work = move || core.strikes.strike(&core.signer, subject, generation);
        let struck = tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| std::io::Error::other(format!("the strike's task ended: {error}")))??;
        // A PoP that attaches later gets every entry; a sync task that has ended has no PoP left.
        let _ = self.sync.send(SyncCommand::Strike(struck.text)).await;
        let pops_attached = self.presence().attached_pops();
        let holders = self.strikes.holders(struck.hash, &pops_attached, HOLDERS_WAIT).await;
        let lease = self.longest_lease(subject, organization);
        Ok(StrikeReport {
            at: struck.at,
            on_disk: struck.on_disk,
            holders,
            pops_attached,
            latest_possible_end: struck.at.plus(lease),
        })
    }

    /// After this nothing that was issued before a strike is valid any more, whoever missed it.
    fn longest_lease(&self, subject: RevokedSubject, organization: Option<OrganizationId>) -> Duration {
        let snapshot = self.snapshot();
        let grant = organization
            .and_then(|id| snapshot.organization(id))
            .map_or(trust::MAX_GRANT_LIFE, |data| Duration::from_millis(data.organization.grant_life_ms));
        match subject {
            RevokedSubject::Connector(_) | RevokedSubject::Pop(_) | RevokedSubject::Controller(_) => {
                CERTIFICATE_LIFE
            }
            RevokedSubject::Token(_) => Duration::ZERO,
            _ => grant,
        }
    }

    pub(crate) fn up_for(&self) -> Duration {
        clock::now().duration_since(self.started)
    }
}
