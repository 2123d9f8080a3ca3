//! LISTEN on a connection of its own. Nothing depends on it: who hears nothing looks a little later.

use super::url::{PostgresUrl, Wanted};
use crate::{StoreError, engine::DEADLINE};
use sqlx::{
    Row as _,
    postgres::{PgListener, PgPoolOptions},
};
use tokio::time::timeout;

const CHANNEL: &str = "SELECT 'tidegate_' || md5(current_schema()) AS channel";

/// A connection that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: PgListener,
    server: String,
}

impl Listener {
    /// Listens at the first host that takes it: a standby takes no LISTEN.
    pub(crate) async fn open(url: &PostgresUrl) -> Result<Self, StoreError> {
        let mut troubles = Vec::new();
        for host in url.hosts().iter().filter(|_| url.wanted() == Wanted::ReadWrite) {
            // The driver's listener wants a pool, which is this one connection and is never asked for another.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(DEADLINE)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .connect_lazy_with(url.options(host));
            let listening = async {
                let mut listener = PgListener::connect_with(&pool).await?;
                listener.ignore_pool_close_event(true);
                listener.eager_reconnect(false);
                let row = sqlx::query(CHANNEL).persistent(false).fetch_one(&mut listener).await?;
                listener.listen(row.try_get("channel")?).await?;
                Ok::<_, sqlx::Error>(listener)
            };
            match timeout(2 * DEADLINE, listening).await {
                Ok(Ok(listener)) => return Ok(Self { listener, server: host.to_string() }),
                Ok(Err(error)) => troubles.push(format!("{host}: {error}")),
                Err(_) => troubles.push(format!("{host}: no answer to LISTEN")),
            }
        }
        Err(StoreError::Unavailable(format!("nobody to listen to: {}", troubles.join("; "))))
    }

    pub(crate) async fn next(&mut self) -> Result<(), StoreError> {
        match self.listener.try_recv().await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(StoreError::Unavailable(format!("{}: the listening connection ended", self.server)))
            }
            Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", self.server))),
        }
    }
}
