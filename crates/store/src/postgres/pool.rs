//! A few connections, dialled on demand and kept.
//!
//! A connection whose state is not known is closed and never kept, and a place is free again as soon as its user lets
//! go: a server that went away without a word blocks nobody for longer than a deadline.

use super::{connect, url::PostgresUrl};
use crate::StoreError;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

/// Saying goodbye is a courtesy.
const GOODBYE: Duration = Duration::from_millis(200);

#[derive(Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("url", &self.shared.url).field("size", &self.shared.size).finish()
    }
}

struct Shared {
    url: PostgresUrl,
    size: usize,
    places: Arc<Semaphore>,
    kept: Mutex<Vec<Kept>>,
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().expect("nothing panics while it holds the pool")
    }
}

/// A connection, and which server it goes to.
pub(super) struct Kept {
    pub(super) connection: PgConnection,
    pub(super) server: Arc<str>,
}

/// A connection in use.
pub(super) struct Held {
    kept: Kept,
    /// It was used before: the server may have closed it since.
    is_old: bool,
    /// A statement is under way.
    is_busy: bool,
    shared: Arc<Shared>,
    place: OwnedSemaphorePermit,
}

impl Pool {
    pub(super) fn new(url: PostgresUrl, size: usize) -> Self {
        let places = Arc::new(Semaphore::new(size));
        Self { shared: Arc::new(Shared { url, size, places, kept: Mutex::default() }) }
    }

    /// A connection to a server that may be used.
    pub(super) async fn take(&self, deadline: Instant) -> Result<Held, StoreError> {
        let place = timeout_at(deadline, Arc::clone(&self.shared.places).acquire_owned()).await;
        let place = place.map_err(|_| {
            let size = self.shared.size;
            StoreError::Unavailable(format!(
                "{}: no connection was free in time: all {size} are in use, by changes that wait for each other or for \
                 the server",
                self.shared.url
            ))
        })?;
        let place = place.map_err(|_| StoreError::Unavailable("the database was closed".into()))?;
        let kept = self.shared.kept().pop();
        let (kept, is_old) = match kept {
            Some(kept) => (kept, true),
            None => (connect::connect(&self.shared.url, deadline).await?, false),
        };
        Ok(Held { kept, is_old, is_busy: false, shared: Arc::clone(&self.shared), place })
    }

    /// Begins a transaction. A connection that was closed meanwhile is replaced, and with it all that were kept.
    pub(super) async fn begin(&self, sql: &str, deadline: Instant) -> Result<Held, StoreError> {
        let mut held = self.take(deadline).await?;
        loop {
            let started = Instant::now();
            let begin = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(held.busy());
            match timeout_at(deadline, begin).await {
                Ok(Ok(_)) => {
                    held.idle();
                    return Ok(held);
                }
                Ok(Err(error)) if held.is_old => {
                    tracing::debug!(%error, "a kept connection to the database is closed; another is made");
                    self.shared.kept().clear();
                    let Held { shared, place, .. } = held;
                    let kept = connect::connect(&shared.url, deadline).await?;
                    held = Held { kept, is_old: false, is_busy: false, shared, place };
                }
                Ok(Err(error)) => {
                    return Err(StoreError::Unavailable(format!("{}: {error}", held.server())));
                }
                Err(_) => {
                    self.shared.kept().clear();
                    return Err(StoreError::Unavailable(format!(
                        "{}: no answer to the first statement of a change within {} ms: frozen, overloaded, or the way \
                         to it is cut",
                        held.server(),
                        started.elapsed().as_millis()
                    )));
                }
            }
        }
    }

    pub(super) async fn close(&self) {
        self.shared.places.close();
        let kept = std::mem::take(&mut *self.shared.kept());
        for kept in kept {
            let _ = timeout(GOODBYE, kept.connection.close()).await;
        }
    }
}

impl Held {
    /// Which server it is, for messages.
    pub(super) fn server(&self) -> Arc<str> {
        Arc::clone(&self.kept.server)
    }

    pub(super) const fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The connection for one statement: until [`Held::idle`] it is not to be used again.
    pub(super) const fn busy(&mut self) -> &mut PgConnection {
        self.is_busy = true;
        &mut self.kept.connection
    }

    pub(super) const fn idle(&mut self) {
        self.is_busy = false;
    }

    /// What a statement's end says about the connection. An answer, also a refusal, leaves it as it was. Anything else
    /// leaves it busy, to be closed, and those that are kept are as old as it is: a server that went away, or takes no
    /// writes any more, is not asked again by each of them.
    pub(super) fn after<T>(&mut self, done: Result<T, StoreError>) -> Result<T, StoreError> {
        match &done {
            Err(error) if error.is_unavailable() => self.shared.kept().clear(),
            _ => self.idle(),
        }
        done
    }

    /// Keeps it for the next one.
    pub(super) fn give_back(self) {
        if !self.is_busy && !self.shared.places.is_closed() {
            let Self { kept, shared, .. } = self;
            shared.kept().push(kept);
        }
    }
}

impl Deref for Held {
    type Target = PgConnection;
    fn deref(&self) -> &PgConnection {
        &self.kept.connection
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.kept.connection
    }
}
