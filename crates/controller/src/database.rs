//! The database as the controller sees it: there, or not there right now.

use crate::clock;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};
use store::{
    Change, Connections, DatabaseCounters, Location, Opening, Progress, Scope, Size, Store, StoreError,
};
use trust::TrustBundle;

/// After a write that found the database unusable, later ones are refused at once, and one prober asks this often
/// whether it can be used again. Nobody's write is the probe: people are told at once.
const PROBE_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
struct State {
    store: Option<Store>,
    /// Writes are refused, and a prober runs.
    is_broken: bool,
    reason: String,
    /// It is another database than the one this controller serves from.
    refused: Option<String>,
    /// Looks at it fail: reads are refused, and who looks is their prober.
    unseen: Option<String>,
}

impl State {
    fn allowed(&self) -> Result<(), StoreError> {
        match &self.refused {
            Some(reason) => Err(StoreError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }

    fn seen(&self) -> Result<(), StoreError> {
        match &self.unseen {
            Some(reason) => Err(StoreError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }
}

/// The database behind a breaker.
#[derive(Debug)]
pub(crate) struct Database {
    location: Location,
    /// Who is told how far it is, where it has replicas.
    progress: Option<Progress>,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().expect("nothing panics while it holds the database's state")
}

impl Database {
    /// Takes the result of the first opening.
    pub(crate) fn new(
        location: Location,
        progress: Option<Progress>,
        opened: Result<Store, StoreError>,
    ) -> Self {
        let state = match opened {
            Ok(store) => State { store: Some(store), ..State::default() },
            Err(error) => State { reason: error.to_string(), ..State::default() },
        };
        Self { location, progress, state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The open database, at once refused while it is known not to answer.
    pub(crate) fn store(&self) -> Result<Store, StoreError> {
        let state = self.state();
        state.allowed()?;
        state.seen()?;
        state.store.clone().ok_or_else(|| StoreError::Unavailable(state.reason.clone()))
    }

    /// The open database, also when it is refused: for whoever accepts it.
    pub(crate) fn store_to_accept(&self) -> Result<Store, StoreError> {
        let state = self.state();
        state.store.clone().ok_or_else(|| StoreError::Unavailable(state.reason.clone()))
    }

    /// Whether it is a server's, which other controllers write into, too.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self.location, Location::Postgres(_))
    }

    /// Whether it is another one than this controller's.
    pub(crate) fn is_refused(&self) -> bool {
        self.state().refused.is_some()
    }

    /// What the last looks at it gave: this is the breaker of reads, and who looks is its one prober.
    pub(crate) fn looked(&self, trouble: Option<String>) {
        self.state().unseen = trouble;
    }

    /// Nothing is read from it or changed in it until somebody accepts it, or puts the right one there.
    pub(crate) fn refuse(&self, reason: String) {
        self.state().refused = Some(reason);
    }

    /// It was accepted.
    pub(crate) fn accept(&self) {
        self.state().refused = None;
    }

    /// Opens it again when it is not open. Says whether it was opened now.
    pub(crate) async fn reopen(&self) -> Option<Store> {
        let gone = {
            let mut state = self.state();
            if let Some(store) = &state.store
                && store.is_usable().is_err()
            {
                state.reason = "the database file was removed or replaced".into();
                state.store.take()
            } else {
                None
            }
        };
        if let Some(store) = gone {
            store.close().await;
        }
        if self.state().store.is_some() {
            return None;
        }
        let opened = Store::open_with(self.location.clone(), Opening::MustExist, self.progress.clone());
        match opened.await {
            Ok(store) => {
                let mut state = self.state();
                *state = State { store: Some(store.clone()), ..State::default() };
                Some(store)
            }
            Err(error) => {
                self.state().reason = error.to_string();
                None
            }
        }
    }

    /// Begins a change, at once refused while the breaker is open.
    pub(crate) async fn change(&self, scope: Scope, actor: &str) -> Result<(Store, Change), StoreError> {
        self.change_of(scope, actor, Size::Usual).await
    }

    /// The same, for a change of another size.
    pub(crate) async fn change_of(
        &self,
        scope: Scope,
        actor: &str,
        size: Size,
    ) -> Result<(Store, Change), StoreError> {
        let store = {
            let state = self.state();
            state.allowed()?;
            if state.is_broken {
                return Err(StoreError::Unavailable(state.reason.clone()));
            }
            state.store.clone().ok_or_else(|| StoreError::Unavailable(state.reason.clone()))?
        };
        match store.change_of(scope, actor, clock::wall().as_millis(), size).await {
            Ok(change) => Ok((store, change)),
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// Opens the breaker when `error` says that the database cannot be used.
    pub(crate) fn failed(&self, error: &StoreError) {
        let reason = match error {
            StoreError::Unavailable(reason) => reason.clone(),
            other if other.is_unavailable() => other.to_string(),
            _ => return,
        };
        let mut state = self.state();
        state.reason = reason;
        if !std::mem::replace(&mut state.is_broken, true) {
            tokio::spawn(probe(Arc::clone(&self.state)));
        }
    }

    /// Why it cannot be used, when it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.state();
        let refused = state.refused.clone();
        let changes = || (state.store.is_none() || state.is_broken).then(|| state.reason.clone());
        refused.or_else(changes).or_else(|| state.unseen.clone())
    }

    pub(crate) fn counters(&self) -> DatabaseCounters {
        self.state().store.as_ref().map(Store::database_counters).unwrap_or_default()
    }

    pub(crate) async fn close(&self) {
        let store = self.state().store.take();
        if let Some(store) = store {
            store.close().await;
        }
    }
}

/// Begins a change that nobody wants and takes it back, until one begins; or the database is closed.
async fn probe(state: Arc<Mutex<State>>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        // A store that is opened anew says by itself that it can be used.
        let Some(store) = lock(&state).store.clone() else {
            lock(&state).is_broken = false;
            return;
        };
        match store.change(Scope::Installation, "probe", clock::wall().as_millis()).await {
            Ok(_taken_back) => {
                lock(&state).is_broken = false;
                return;
            }
            Err(StoreError::Unavailable(reason)) => lock(&state).reason = reason,
            // It answers: what is wrong with the probe is wrong for other reasons.
            Err(_) => {
                lock(&state).is_broken = false;
                return;
            }
        }
    }
}

/// Says it when the pools of all controllers would be more than their part of the server.
pub(crate) async fn weigh_connections(store: &Store, bundle: &TrustBundle) {
    let controllers: BTreeSet<_> = bundle.all_keys().map(|key| key.owner).collect();
    let controllers = controllers.len() as u64;
    match store.connections().await {
        Ok(Some(connections)) => {
            if let Some(needed) = connections.lacking(controllers) {
                tracing::warn!(
                    max_connections = connections.most,
                    "{controllers} controllers hold up to {} connections to the database's server, which is more than {} % of its \
                     max_connections ({}): set max_connections = {needed} or more there, or others and the one who looks \
                     after it find no place",
                    connections.each * controllers,
                    Connections::SHARE,
                    connections.most
                );
            }
        }
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "how many connections the server takes was not read"),
    }
}
