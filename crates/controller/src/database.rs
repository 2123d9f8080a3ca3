//! The database as the controller sees it: there, or not there right now.

use crate::clock;
use std::{
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};
use store::{Change, DatabaseCounters, Opening, Scope, Store, StoreError};

/// After a write that found the database unusable, later ones are refused at once for this long; the
/// first one behind it is the probe.
const BREAKER: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    store: Option<Store>,
    open_until: Option<Instant>,
    reason: String,
    /// It is another database than the one this controller serves from.
    refused: Option<String>,
}

impl State {
    fn allowed(&self) -> Result<(), StoreError> {
        match &self.refused {
            Some(reason) => Err(StoreError::Unavailable(reason.clone())),
            None => Ok(()),
        }
    }
}

/// The database behind a breaker.
#[derive(Debug)]
pub(crate) struct Database {
    path: PathBuf,
    state: Mutex<State>,
}

impl Database {
    /// Takes the result of the first opening.
    pub(crate) fn new(path: PathBuf, opened: Result<Store, StoreError>) -> Self {
        let state = match opened {
            Ok(store) => State { store: Some(store), ..State::default() },
            Err(error) => State { reason: error.to_string(), ..State::default() },
        };
        Self { path, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the database's state")
    }

    /// The open database.
    pub(crate) fn store(&self) -> Result<Store, StoreError> {
        let state = self.state();
        state.allowed()?;
        state.store.clone().ok_or_else(|| StoreError::Unavailable(state.reason.clone()))
    }

    /// The open database, also when it is refused: for whoever accepts it.
    pub(crate) fn store_to_accept(&self) -> Result<Store, StoreError> {
        let state = self.state();
        state.store.clone().ok_or_else(|| StoreError::Unavailable(state.reason.clone()))
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
        match Store::open(&self.path, Opening::MustExist).await {
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
        let store = {
            let state = self.state();
            state.allowed()?;
            if state.open_until.is_some_and(|until| clock::now() < until) {
                return Err(StoreError::Unavailable(state.reason.clone()));
            }
            state.store.clone().ok_or_else(|| StoreError::Unavailable(state.reason.clone()))?
        };
        match store.change(scope, actor, clock::wall().as_millis()).await {
            Ok(change) => {
                self.state().open_until = None;
                Ok((store, change))
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    /// Opens the breaker when `error` says that the database cannot be used.
    pub(crate) fn failed(&self, error: &StoreError) {
        if let StoreError::Unavailable(reason) = error {
            let mut state = self.state();
            state.open_until = Some(clock::now() + BREAKER);
            state.reason = reason.clone();
        }
    }

    /// Why it cannot be used, when it cannot.
    pub(crate) fn trouble(&self) -> Option<String> {
        let state = self.state();
        let broken = state.open_until.is_some_and(|until| clock::now() < until);
        let refused = state.refused.clone();
        refused.or_else(|| (state.store.is_none() || broken).then(|| state.reason.clone()))
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
