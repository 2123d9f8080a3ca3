//! What other controllers write into the database, seen here.
//!
//! The truth is one row, looked at about once a second on a connection of its own; a notification of the server brings the
//! next look forward and says nothing else. Whatever goes wrong leaves what is held as it is, and is counted.

use crate::{
    api::{Origin, noted},
    clock,
    parts::{Core, SyncCommand},
    replicas::Candidate,
    several::{CHAIN, WEB_KEYS},
    signer::{ROTATION_COPIES, Renewal, Rotated, SignError, Signer},
    signin,
    snapshot::{Reading, SnapshotError},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{Change, Look, Mark, Scope, Store, StoreError, Version};
use trust::UnixMs;
use wire::ControllerId;

/// Between two looks, on average: what is made at one controller is served by the others within two seconds, and a
/// look costs the server three short statements.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So much earlier or later, so that controllers that were started together do not look together.
const JITTER_MS: u64 = 200;
/// Hints bring no two looks closer together than this.
const APART: Duration = Duration::from_millis(50);
/// Between two tries to listen.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);
/// A silent database is looked at this much less often at most: it has other things to do when it comes back.
const SELDOM: u32 = 5;
/// So many looks fail in a row before reads are refused without asking: one may fail by chance.
const UNSEEN_AFTER: u32 = 2;
/// The longest wait before the same state is tried again that could not be taken.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// Keys could not be changed in the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    /// Signing.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs as long as the controller; for a database that is a file there is nothing to follow.
pub(crate) async fn follow(core: &Arc<Core>) {
    if !core.database.is_shared() {
        return std::future::pending().await;
    }
    tokio::select! {
        () = listen(core) => {}
        () = look_on(core) => {}
    }
}

/// Hears hints.
async fn listen(core: &Arc<Core>) {
    loop {
        if let Ok(store) = core.database.store() {
            match store.hints().await {
                Ok(mut hints) => {
                    while hints.next().await.is_ok() {
                        core.news.notify_one();
                    }
                }
                Err(error) => tracing::debug!(%error, "changes of other controllers are seen without hints"),
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

async fn look_on(core: &Arc<Core>) {
    let mut following = Following::default();
    loop {
        let [random] = clock::random::<1>();
        let jitter = Duration::from_millis(2 * JITTER_MS * u64::from(random) / 255);
        let next = LOOK_EVERY - Duration::from_millis(JITTER_MS) + jitter;
        let next = next * (1 + following.failed).min(SELDOM);
        tokio::time::sleep(APART).await;
        tokio::select! {
            () = tokio::time::sleep(next - APART) => {}
            () = core.news.notified() => {}
        }
        following.look(core).await;
        #[cfg(test)]
        core.snapshots.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Following {
    /// Looks that failed since the last that did not.
    failed: u32,
    notes: Option<u64>,
    documents: Option<Version>,
    /// A state that could not be taken, when it is tried again, and the wait after that.
    untaken: Option<(Mark, Instant, Duration)>,
    is_refused: bool,
}

impl Following {
    /// One look, and whatever it takes.
    pub(crate) async fn look(&mut self, core: &Arc<Core>) {
        let Ok(store) = core.database.store_to_accept() else {
            // It was never opened, or is gone: who opens it again is another.
            self.failed = self.failed.saturating_add(1);
            return self.look_elsewhere(core).await;
        };
        if !store.is_shared() {
            return;
        }
        let (at, asked) = (clock::wall(), clock::now());
        let Look { mark, notes, seen } = match store.look().await {
            Ok(Some(look)) => look,
            // The reload says by itself that it is empty.
            Ok(None) => Look {
                mark: Mark {
                    installation: Version { incarnation: 0, version: 0 },
                    organizations: 0,
                    versions: 0,
                },
                notes: 0,
                seen: None,
            },
            Err(error) => {
                if self.failed == 0 {
                    tracing::warn!(%error, "what other controllers change is not seen right now");
                }
                self.failed = self.failed.saturating_add(1);
                if self.failed >= UNSEEN_AFTER {
                    core.database.looked(Some(error.to_string()));
                }
                return self.look_elsewhere(core).await;
            }
        };
        let is_refused = core.database.is_refused();
        // After a silence, and where the database was not believed, everything is looked at: it may be another one.
        let reading = if self.failed > 0 || is_refused || self.is_refused {
            Reading::Everything
        } else {
            Reading::WhatChanged
        };
        if self.failed > 0 {
            // What a replica's state was refused for meanwhile holds nothing up here.
            self.untaken = None;
        }
        self.failed = 0;
        core.database.looked(None);
        self.is_refused = is_refused;
        if !self.take(core, &store, mark, at, reading).await {
            return;
        }
        if is_refused {
            tracing::info!("the database is believed again: somebody accepted it");
            core.database.accept();
        }
        if let Some(seen) = seen {
            core.replicas.saw_primary(&seen, asked);
        }
        let told = async {
            self.hear(core, &store, mark, notes).await?;
            if core.signin.untold.is_empty() { Ok(()) } else { core.tell_sign_ins(&store).await }
        };
        if let Err(error) = told.await {
            tracing::warn!(%error, "what other controllers told was not read");
        }
    }

    /// The primary does not answer: what its replicas have that is not older than what is held.
    async fn look_elsewhere(&mut self, core: &Arc<Core>) {
        for replica in core.replicas.look().await {
            match self.take_from(core, &replica).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::info!(replica = replica.name, %error, "what a replica has was not taken");
                }
            }
        }
    }

    /// Nothing that goes wrong here says anything about the primary.
    async fn take_from(&mut self, core: &Arc<Core>, replica: &Candidate) -> Result<(), SnapshotError> {
        let Look { mark, notes, .. } = replica.look;
        // What was not taken from one is the same at the others.
        let Some(wait) = self.due(mark) else { return Ok(()) };
        let followed = core.snapshots.follow_replica(replica).await;
        self.untaken = followed.is_err().then(|| (mark, clock::now() + wait, wait));
        followed?;
        Ok(self.hear(core, &replica.store, mark, notes).await?)
    }

    /// How long to wait when a state cannot be taken; nothing while that is waited for.
    fn due(&self, mark: Mark) -> Option<Duration> {
        match self.untaken {
            Some((before, again, _)) if before == mark && clock::now() < again => None,
            Some((before, _, wait)) if before == mark => Some((2 * wait).min(TRY_AGAIN)),
            _ => Some(LOOK_EVERY),
        }
    }

    /// Brings the snapshot to a state. Says whether it is there.
    async fn take(
        &mut self,
        core: &Arc<Core>,
        store: &Store,
        mark: Mark,
        at: UnixMs,
        reading: Reading,
    ) -> bool {
        let Some(wait) = self.due(mark) else { return false };
        match core.snapshots.follow(store, mark, at, reading).await {
            Ok(()) => {
                self.untaken = None;
                true
            }
            Err(error) => {
                core.look_at(&error);
                self.untaken = Some((mark, clock::now() + wait, wait));
                false
            }
        }
    }

    /// What is told beside the configuration.
    async fn hear(
        &mut self,
        core: &Arc<Core>,
        store: &Store,
        mark: Mark,
        notes: u64,
    ) -> Result<(), StoreError> {
        if self.documents != Some(mark.installation) {
            core.take_documents(store).await?;
            self.documents = Some(mark.installation);
        }
        if self.notes != Some(notes) {
            core.absorb_struck(store).await?;
            core.hear_sign_ins(store).await?;
            self.notes = Some(notes);
        }
        Ok(())
    }
}

/// The end of a change of keys, however it ends.
struct Settled<'a>(&'a Signer);

impl Drop for Settled<'_> {
    fn drop(&mut self) {
        self.0.settled();
    }
}

impl Core {
    /// Takes the chain and the web sessions' keys as the controllers share them.
    pub(crate) async fn take_documents(self: &Arc<Self>, store: &Store) -> Result<(), StoreError> {
        let documents = store.trust_documents().await?;
        let core = Arc::clone(self);
        let work = move || {
            if let Some(chain) = documents.get(CHAIN) {
                match core.signer.adopt(chain, documents.get(ROTATION_COPIES).map(String::as_str)) {
                    Ok(Rotated::Yes) => {
                        tracing::info!(serial = core.signer.bundle().serial(), "the trust bundle changed");
                        // PoPs that this does not reach get it when they attach.
                        let _ = core.sync.blocking_send(SyncCommand::Bundle);
                    }
                    Ok(Rotated::No) => {}
                    Err(error) => tracing::error!(%error, "the database's trust chain was not taken"),
                }
            }
            if let Some(sealed) = documents.get(WEB_KEYS) {
                let adopted =
                    core.signer.shared_secret().map_err(|error| error.to_string()).and_then(|secret| {
                        let ring = signin::opened_web_keys(&secret, sealed);
                        let adopted = ring.and_then(|ring| core.signin.keys.adopt(&ring));
                        adopted.map_err(|error| error.to_string())
                    });
                match adopted {
                    Ok(true) => tracing::info!("web sessions have the keys that the controllers share"),
                    Ok(false) => {}
                    Err(error) => tracing::error!(error, "the keys of web sessions were not taken"),
                }
            }
        };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| StoreError::Unavailable(format!("the task ended: {error}")))
    }

    /// Changes this controller's keys in the bundle that several controllers share: in the database, where the version
    /// row's lock makes one order of it. Says the bundle's new number; `None`: nothing was due.
    pub(crate) async fn settle_keys(self: &Arc<Self>, renewal: Renewal) -> Result<Option<u64>, SettleError> {
        let _one_at_a_time = self.settling.lock().await;
        // Also when who asked has gone in the middle of it.
        let _settled = Settled(&self.signer);
        self.settle_keys_now(renewal).await
    }

    async fn settle_keys_now(self: &Arc<Self>, renewal: Renewal) -> Result<Option<u64>, SettleError> {
        let (store, mut change) = self.database.change(Scope::Installation, "controller").await?;
        let chain = change.trust_document(CHAIN).await?;
        let copies = change.trust_document(ROTATION_COPIES).await?;
        let core = Arc::clone(self);
        let prepared = tokio::task::spawn_blocking(move || {
            if let Some(chain) = chain {
                core.signer.adopt(&chain, copies.as_deref())?;
            }
            let due = core.signer.due(renewal)?;
            due.as_ref().map_or(Ok(()), |due| core.signer.prepare(due))?;
            Ok::<_, SignError>(due)
        });
        let ended = |error| StoreError::Unavailable(format!("the task ended: {error}"));
        let Some(due) = prepared.await.map_err(ended)?? else { return Ok(None) };
        change.put_trust_document(CHAIN, &due.chain_text()).await?;
        self.commit_own(&store, change, "replace keys", serde_json::json!({})).await?;
        let core = Arc::clone(self);
        let installed = tokio::task::spawn_blocking(move || {
            let serial = core.signer.install(due)?;
            // PoPs that this does not reach get it when they attach.
            let _ = core.sync.blocking_send(SyncCommand::Bundle);
            Ok::<_, SignError>(serial)
        });
        Ok(Some(installed.await.map_err(ended)??))
    }

    /// Commits what this controller does by itself.
    async fn commit_own(
        self: &Arc<Self>,
        store: &Store,
        change: Change,
        action: &str,
        detail: serde_json::Value,
    ) -> Result<Version, StoreError> {
        let controller = self.signer.controller().to_string();
        self.commit(store, change, &Origin::own(), noted(action, &controller, None, None, detail)).await
    }

    /// Puts the rotation key that was offered in place of the one that several controllers share, without the controllers
    /// in `without`, and seals what controllers alone may read with the new one. Says the bundle's new number.
    pub(crate) async fn share_rotation_key(
        self: &Arc<Self>,
        signed: String,
        without: Vec<ControllerId>,
    ) -> Result<u64, SettleError> {
        let _one_at_a_time = self.settling.lock().await;
        let _settled = Settled(&self.signer);
        let (store, mut change) = self.database.change(Scope::Installation, "controller").await?;
        let chain = change.trust_document(CHAIN).await?;
        let copies = change.trust_document(ROTATION_COPIES).await?;
        let web_keys = change.trust_document(WEB_KEYS).await?;
        let (core, left_out) = (Arc::clone(self), without.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            if let Some(chain) = chain {
                core.signer.adopt(&chain, copies.as_deref())?;
            }
            if let Some(sealed) = web_keys {
                let secret = core.signer.shared_secret()?;
                let ring = signin::opened_web_keys(&secret, &sealed);
                if let Err(error) = ring.and_then(|ring| core.signin.keys.adopt(&ring)) {
                    tracing::error!(%error, "the keys of web sessions were not taken");
                }
            }
            let replacing = core.signer.under_rotation(&signed, &left_out)?;
            core.signer.prepare(&replacing.due)?;
            Ok::<_, SignError>(replacing)
        });
        let ended = |error| StoreError::Unavailable(format!("the task ended: {error}"));
        let replacing = prepared.await.map_err(ended)??;
        // Whoever was taken out knows the secrets of web sessions, too: nothing that they sign is believed any more.
        let ring = if without.is_empty() {
            self.signin.keys.as_they_are()
        } else {
            self.signin.keys.with_all_retired(self.signer.best_time())
        };
        change.put_trust_document(CHAIN, &replacing.due.chain_text()).await?;
        change.put_trust_document(ROTATION_COPIES, &replacing.copies).await?;
        change.put_trust_document(WEB_KEYS, &signin::sealed_web_keys(&replacing.secret, &ring)).await?;
        let without = serde_json::json!({ "without": without });
        self.commit_own(&store, change, "replace rotation key", without).await?;
        let core = Arc::clone(self);
        let installed = tokio::task::spawn_blocking(move || {
            let serial = core.signer.install(replacing.due)?;
            core.signer.rotation_key_is_used();
            if let Err(error) = core.signin.keys.adopt(&ring) {
                tracing::error!(%error, "the keys of web sessions were not taken");
            }
            // PoPs that this does not reach get it when they attach.
            let _ = core.sync.blocking_send(SyncCommand::Bundle);
            Ok::<_, SignError>(serial)
        });
        Ok(installed.await.map_err(ended)??)
    }

    /// Looks after keys that several controllers' bundle names.
    pub(crate) async fn look_after_shared_keys(self: &Arc<Self>) {
        match self.signer.due(Renewal::WhenDue) {
            Ok(None) => return,
            Ok(Some(_)) => {}
            Err(error) => return tracing::warn!(%error, "keys were not looked at"),
        }
        match self.settle_keys(Renewal::WhenDue).await {
            Ok(Some(serial)) => tracing::info!(serial, "keys were replaced"),
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "keys are to be replaced, and were not"),
        }
    }

    /// A new secret for web sessions when the newest is old, for every controller at once.
    pub(crate) async fn look_after_shared_web_keys(
        self: &Arc<Self>,
        wall: UnixMs,
    ) -> Result<(), SettleError> {
        if !self.signin.keys.is_due(wall) {
            return Ok(());
        }
        let secret = self.signer.shared_secret()?;
        let (store, mut change) = self.database.change(Scope::Installation, "controller").await?;
        let refused = |error: signin::WebKeysError| StoreError::Unavailable(error.to_string());
        if let Some(sealed) = change.trust_document(WEB_KEYS).await? {
            let ring = signin::opened_web_keys(&secret, &sealed).map_err(refused)?;
            self.signin.keys.adopt(&ring).map_err(refused)?;
        }
        // Another controller may have been first.
        if !self.signin.keys.is_due(wall) {
            return Ok(());
        }
        let ring = self.signin.keys.with_one_more(wall);
        change.put_trust_document(WEB_KEYS, &signin::sealed_web_keys(&secret, &ring)).await?;
        self.commit_own(&store, change, "replace web keys", serde_json::json!({})).await?;
        self.signin.keys.adopt(&ring).map_err(refused)?;
        Ok(())
    }
}
