//! PostgreSQL behind the store: small pools of our own, deadlines, and row-level security.
//!
//! A transaction says at its beginning whose it is (`tidegate.organization`), and the server shows and takes only rows
//! of that organization, whatever the statement forgot to say.

mod connect;
mod hints;
mod pool;
mod standby;
mod url;

pub(crate) use hints::Listener;
pub use url::{PostgresUrl, UrlError};

use crate::{
    LONG_CHANGE, Opening, Position, Progress, Scope, Sighting, StoreError,
    counters::DatabaseCounters,
    engine::{DEADLINE, LOAD_DEADLINE, LONG_DEADLINE},
    schema,
    statement::Statement,
};
use futures_util::TryStreamExt as _;
use pool::{Held, Pool};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};
use standby::Standby;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, error::Elapsed, timeout, timeout_at};

/// Changes of one organization follow each other anyway; a few organizations at once need no more than this.
const WRITERS: usize = 4;
/// The snapshot's builder, and history.
const READERS: usize = 2;
/// The look at the version row: neither a long read nor a waiting change keeps it back.
const WATCHERS: usize = 1;
/// All that one process holds at a server that it writes into: these, and the one that listens.
pub(crate) const CONNECTIONS: u64 = (WRITERS + READERS + WATCHERS) as u64 + 1;
/// A whole change, from its first statement to its commit: nobody waits for the lock of a change longer than this.
const CHANGE_DEADLINE: Duration = Duration::from_secs(3);
/// A migration rewrites tables.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(60);

/// A whole backup: longer than anybody waits for one.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// The commit's end is asked for with the commit, and is there with its answer or not at all.
const COMMIT_AND_WHERE: &str = "COMMIT; SELECT CAST(pg_current_wal_flush_lsn() AS TEXT) AS lsn, \
     pg_walfile_name(pg_current_wal_flush_lsn()) AS file";
const WHERE_DEADLINE: Duration = Duration::from_millis(200);

const ISOLATE: &str = include_str!("isolate.sql");

/// An open database of a server.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    writers: Pool,
    readers: Pool,
    watchers: Pool,
    url: PostgresUrl,
    counters: Arc<Counters>,
    part: Part,
}

/// What the server is to us.
#[derive(Debug, Clone)]
enum Part {
    /// The one that takes writes. Where there are replicas, it says how far it is.
    Primary(Option<Progress>),
    /// One that is read from, and nothing else.
    Replica(Arc<Standby>),
}

#[derive(Debug, Default)]
struct Counters {
    statements: AtomicU64,
    rows_written: AtomicU64,
}

impl Counters {
    fn sent(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    fn wrote(&self, rows: u64) {
        self.rows_written.fetch_add(rows, Ordering::Relaxed);
    }
}

impl Database {
    pub(crate) async fn open(
        url: PostgresUrl,
        opening: Opening,
        progress: Option<Progress>,
    ) -> Result<Self, StoreError> {
        let writers = Pool::new(url.clone(), WRITERS);
        let readers = Pool::new(url.clone(), READERS);
        let watchers = Pool::new(url.clone(), WATCHERS);
        let mut held = writers.take(Instant::now() + DEADLINE).await?;
        let server = held.server();
        match in_time(Instant::now() + 2 * DEADLINE, &server, "schema", applied(&mut held)).await? {
            // Nothing of ours is there.
            None if opening == Opening::MustExist => return Err(StoreError::Missing(url.to_string())),
            Some(steps) if steps == known() => {}
            _ => migrate(&mut held).await?,
        }
        let isolated = sqlx::raw_sql(ISOLATE).execute(&mut *held);
        in_time(Instant::now() + 2 * DEADLINE, &server, "schema", isolated).await?;
        let bypasses = sqlx::query(
            "SELECT rolsuper OR rolbypassrls AS bypasses FROM pg_roles WHERE rolname = current_user",
        );
        let bypasses = bypasses.persistent(false).fetch_one(&mut *held);
        let row = in_time(Instant::now() + DEADLINE, &server, "role", bypasses).await?;
        if row.try_get("bypasses").unwrap_or(false) {
            tracing::warn!(
                "the database role is a superuser or bypasses row-level security: the server does not keep \
                 organizations apart for it; give Tidegate a role of its own"
            );
        }
        held.give_back();
        let part = Part::Primary(progress);
        Ok(Self { writers, readers, watchers, url, counters: Arc::default(), part })
    }

    /// A server that follows the primary. Nothing is dialled, and nothing is believed, before it is asked.
    pub(crate) fn replica(url: PostgresUrl, progress: Progress) -> Self {
        let url = url.for_reading();
        Self {
            writers: Pool::new(url.clone(), 0),
            readers: Pool::new(url.clone(), READERS),
            watchers: Pool::new(url.clone(), WATCHERS),
            url,
            counters: Arc::default(),
            part: Part::Replica(Arc::new(Standby::new(progress))),
        }
    }

    /// What a replica said last of itself, also when it was refused.
    pub(crate) fn last_sighting(&self) -> Option<Sighting> {
        match &self.part {
            Part::Replica(standby) => standby.last(),
            Part::Primary(_) => None,
        }
    }

    pub(crate) async fn write(&self, scope: Scope) -> Result<Open, StoreError> {
        let begin = format!("BEGIN; SET LOCAL tidegate.organization = '{}'", bound_to(scope));
        self.begin_writing(begin, CHANGE_DEADLINE, DEADLINE).await
    }

    pub(crate) async fn write_longer(&self, scope: Scope) -> Result<Open, StoreError> {
        let begin = format!("BEGIN; SET LOCAL tidegate.organization = '{}'", bound_to(scope));
        // The commit comes after it.
        self.begin_writing(begin, LONG_CHANGE + CHANGE_DEADLINE, DEADLINE).await
    }

    async fn begin_writing(
        &self,
        begin: String,
        whole: Duration,
        each: Duration,
    ) -> Result<Open, StoreError> {
        let Part::Primary(progress) = &self.part else {
            return Err(StoreError::Replica(format!("{}: nothing is written there", self.url)));
        };
        let mut open = self.begin(&self.writers, begin, whole, each).await?;
        open.progress.clone_from(progress);
        Ok(open)
    }

    /// REPEATABLE READ: all statements of the transaction see the state of its first one.
    pub(crate) async fn read(&self, scope: Scope) -> Result<Open, StoreError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {}; \
             SET LOCAL tidegate.organization = '{}'",
            LOAD_DEADLINE.as_millis(),
            bound_to(scope)
        );
        self.begin(&self.readers, begin, LOAD_DEADLINE, LOAD_DEADLINE).await
    }

    /// For one row: it is there in time or not at all.
    pub(crate) async fn look(&self) -> Result<Open, StoreError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL tidegate.organization = '{}'",
            bound_to(Scope::Installation)
        );
        if let Part::Primary(None) | Part::Replica(_) = self.part {
            return self.begin(&self.watchers, begin, DEADLINE, DEADLINE).await;
        }
        // The primary says how far it is: what a replica lacks is told by it.
        let until = Instant::now() + DEADLINE;
        self.counters.sent();
        let mut held = self.watchers.begin(standby::NOTHING, until).await?;
        self.counters.sent();
        let seen = match standby::sight(&mut held, until).await {
            Ok((seen, _)) => Some(seen),
            // A role that may not ask: its replicas are not believed, and everything else goes on.
            Err(StoreError::Schema(why)) => {
                tracing::debug!(why, "the primary does not say of which cluster it is");
                None
            }
            Err(error) => return Err(error),
        };
        self.counters.sent();
        self.begin_on(held, begin, until, DEADLINE, seen).await
    }

    pub(crate) async fn listen(&self) -> Result<Listener, StoreError> {
        match self.part {
            Part::Primary(_) => Listener::open(&self.url).await,
            // A standby takes no LISTEN.
            Part::Replica(_) => Err(StoreError::Replica("nobody is listened to there".into())),
        }
    }

    pub(crate) async fn read_for_long(&self, scope: Scope) -> Result<Open, StoreError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {}; SET LOCAL tidegate.organization = '{}'",
            patient(),
            bound_to(scope)
        );
        self.begin(&self.readers, begin, FOREVER, LONG_DEADLINE).await
    }

    pub(crate) async fn write_for_long(&self, scope: Scope) -> Result<Open, StoreError> {
        let begin = format!("BEGIN; {}; SET LOCAL tidegate.organization = '{}'", patient(), bound_to(scope));
        self.begin_writing(begin, FOREVER, LONG_DEADLINE).await
    }

    async fn begin(
        &self,
        pool: &Pool,
        begin: String,
        whole: Duration,
        each: Duration,
    ) -> Result<Open, StoreError> {
        self.counters.sent();
        let until = Instant::now() + DEADLINE;
        let Part::Replica(standby) = &self.part else {
            let held = pool.begin(&begin, until).await?;
            return Ok(self.opened(held, Instant::now() + whole, each, None));
        };
        let mut held = pool.begin(standby::READ_ONLY, until).await?;
        let seen = standby.believe(&mut held, until).await?;
        self.begin_on(held, begin, Instant::now() + whole, each, Some(seen)).await
    }

    /// Begins on a connection that was looked at.
    async fn begin_on(
        &self,
        mut held: Held,
        begin: String,
        until: Instant,
        each: Duration,
        seen: Option<Sighting>,
    ) -> Result<Open, StoreError> {
        let server = held.server();
        let began = sqlx::raw_sql(AssertSqlSafe(begin)).execute(held.busy());
        let began = in_time(until.min(Instant::now() + each), &server, "beginning", began).await;
        held.after(began)?;
        Ok(self.opened(held, until, each, seen))
    }

    fn opened(&self, held: Held, until: Instant, each: Duration, seen: Option<Sighting>) -> Open {
        Open { held: Some(held), counters: Arc::clone(&self.counters), until, each, seen, progress: None }
    }

    pub(crate) fn counters(&self) -> DatabaseCounters {
        DatabaseCounters {
            statements: self.counters.statements.load(Ordering::Relaxed),
            rows_written: self.counters.rows_written.load(Ordering::Relaxed),
        }
    }

    pub(crate) async fn close(&self) {
        self.writers.close().await;
        self.readers.close().await;
        self.watchers.close().await;
    }
}

/// A statement of a backup takes as long as its table is large.
fn patient() -> String {
    let (statement, idle) = (FOREVER.as_millis(), LONG_DEADLINE.as_millis());
    format!(
        "SET LOCAL statement_timeout = {statement}; SET LOCAL lock_timeout = {idle}; \
         SET LOCAL idle_in_transaction_session_timeout = {idle}"
    )
}

/// An id is letters, digits and a hyphen by its type: nothing of it needs quoting.
fn bound_to(scope: Scope) -> String {
    match scope {
        Scope::Installation => "*".to_owned(),
        Scope::Organization(id) => id.to_string(),
    }
}

/// An open transaction. Dropped without a commit it is rolled back; with a statement under way its connection is closed.
pub(crate) struct Open {
    /// Taken out at the end only.
    held: Option<Held>,
    counters: Arc<Counters>,
    until: Instant,
    each: Duration,
    /// What the server said of itself before this began.
    seen: Option<Sighting>,
    /// Who is told where the commit ended.
    progress: Option<Progress>,
}

impl Open {
    pub(crate) const fn seen(&self) -> Option<Sighting> {
        self.seen
    }

    pub(crate) async fn execute(
        &mut self,
        kind: &'static str,
        statement: Statement,
    ) -> Result<u64, StoreError> {
        let is_write = statement.is_write();
        let (deadline, counters) = (self.deadline(), Arc::clone(&self.counters));
        counters.sent();
        let held = self.held()?;
        let server = held.server();
        let work = statement.into_postgres().execute(held.busy());
        let done = in_time(deadline, &server, kind, work).await;
        let rows = held.after(done)?.rows_affected();
        if is_write {
            counters.wrote(rows);
        }
        Ok(rows)
    }

    pub(crate) async fn fetch_all(
        &mut self,
        kind: &'static str,
        statement: Statement,
    ) -> Result<Vec<PgRow>, StoreError> {
        let is_write = statement.is_write();
        let (deadline, counters) = (self.deadline(), Arc::clone(&self.counters));
        counters.sent();
        let held = self.held()?;
        let server = held.server();
        // Unnamed: a plan that is kept is refused for good when a newer build adds a column to what `*` stands for.
        let work = statement.into_postgres().persistent(false).fetch_all(held.busy());
        let done = in_time(deadline, &server, kind, work).await;
        let rows = held.after(done)?;
        if is_write {
            counters.wrote(rows.len() as u64);
        }
        Ok(rows)
    }

    pub(crate) async fn each(
        &mut self,
        kind: &'static str,
        statement: Statement,
        mut take: impl FnMut(PgRow) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (whole, each) = (self.until, self.each);
        self.counters.sent();
        let held = self.held()?;
        let server = held.server();
        let mut rows = statement.into_postgres().persistent(false).fetch(held.busy());
        loop {
            let deadline = whole.min(Instant::now() + each);
            match in_time(deadline, &server, kind, rows.try_next()).await? {
                Some(row) => take(row)?,
                None => break,
            }
        }
        drop(rows);
        held.idle();
        Ok(())
    }

    pub(crate) async fn commit(mut self) -> Result<(), StoreError> {
        self.counters.sent();
        let deadline = Instant::now() + self.each;
        let Some(mut held) = self.held.take() else { return Err(ended()) };
        let server = held.server();
        let started = Instant::now();
        match committed(&mut held, deadline, self.progress.as_ref()).await {
            Ok(Ok(())) => {
                held.give_back();
                Ok(())
            }
            // The server says that it did not: a deferred constraint, for example.
            Ok(Err(error @ sqlx::Error::Database(_))) => {
                let error = StoreError::from_sqlx("change", error);
                // An administrator's shutdown may arrive after the commit was written.
                Err(if error.is_unavailable() {
                    StoreError::OutcomeUnknown(format!("{server}: {error}"))
                } else {
                    error
                })
            }
            Ok(Err(error)) => Err(StoreError::OutcomeUnknown(format!(
                "{server}: the connection broke at the commit: {error}"
            ))),
            Err(_) => Err(StoreError::OutcomeUnknown(format!(
                "{server}: no answer to the commit within {} ms",
                started.elapsed().as_millis()
            ))),
        }
    }

    fn deadline(&self) -> Instant {
        self.until.min(Instant::now() + self.each)
    }

    fn held(&mut self) -> Result<&mut Held, StoreError> {
        self.held.as_mut().ok_or_else(ended)
    }
}

/// Commits, and asks in the same message where that ended when somebody wants to know it: a replica that has not
/// replayed so much is not read from. What goes wrong behind the commit changes nothing about it.
async fn committed(
    held: &mut Held,
    deadline: Instant,
    wanted: Option<&Progress>,
) -> Result<Result<(), sqlx::Error>, Elapsed> {
    let Some(progress) = wanted else {
        let done = timeout_at(deadline, sqlx::raw_sql("COMMIT").execute(held.busy())).await?;
        return Ok(done.map(|_| held.idle()));
    };
    let mut answers = sqlx::raw_sql(COMMIT_AND_WHERE).fetch_many(held.busy());
    match timeout_at(deadline, answers.try_next()).await? {
        Ok(Some(_)) => {}
        Ok(None) => return Ok(Err(sqlx::Error::Protocol("no answer to the commit".into()))),
        Err(error) => return Ok(Err(error)),
    }
    let place = timeout(WHERE_DEADLINE, async {
        let mut place = None;
        while let Some(answer) = answers.try_next().await? {
            let Some(row) = answer.right() else { continue };
            let (lsn, file): (String, String) = (row.try_get("lsn")?, row.try_get("file")?);
            let timeline = standby::timeline_of(&file);
            place = lsn.parse().ok().zip(timeline).map(|(lsn, timeline)| Position { timeline, lsn });
        }
        Ok::<_, sqlx::Error>(place)
    });
    let place = place.await;
    drop(answers);
    // Else the connection stays busy, and is closed.
    if let Ok(Ok(_)) = place {
        held.idle();
    }
    progress.wrote(place.ok().and_then(Result::ok).flatten(), Instant::now().into_std());
    Ok(Ok(()))
}

fn ended() -> StoreError {
    StoreError::Spoilt { kind: "change", by: "its end" }
}

impl Drop for Open {
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        // With a statement under way nobody knows what the connection says next: closing it ends the transaction.
        if held.is_busy() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        self.counters.sent();
        runtime.spawn(async move {
            let rolled_back = timeout(DEADLINE, sqlx::raw_sql("ROLLBACK").execute(held.busy())).await;
            if matches!(rolled_back, Ok(Ok(_))) {
                held.idle();
                held.give_back();
            }
        });
    }
}

/// A deadline on every await.
async fn in_time<T>(
    deadline: Instant,
    server: &str,
    kind: &'static str,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, StoreError> {
    let started = Instant::now();
    match timeout_at(deadline, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(match StoreError::from_sqlx(kind, error) {
            StoreError::Unavailable(why) => StoreError::Unavailable(format!("{server}: {why}")),
            other => other,
        }),
        Err(_) => Err(StoreError::Unavailable(format!(
            "{server}: no answer to a statement ({kind}) within {} ms",
            started.elapsed().as_millis()
        ))),
    }
}

/// The steps that this build knows.
fn known() -> Vec<i64> {
    schema::postgres().iter().map(|migration| migration.version).collect()
}

/// The steps that were taken; `None` when none ever was.
async fn applied(connection: &mut PgConnection) -> Result<Option<Vec<i64>>, sqlx::Error> {
    let exists = sqlx::query("SELECT to_regclass('_sqlx_migrations') IS NOT NULL AS there").persistent(false);
    if !exists.fetch_one(&mut *connection).await?.try_get::<bool, _>("there")? {
        return Ok(None);
    }
    let steps =
        sqlx::query("SELECT version FROM _sqlx_migrations WHERE success ORDER BY version").persistent(false);
    let steps = steps.fetch_all(connection).await?;
    steps.iter().map(|row| row.try_get("version")).collect::<Result<Vec<_>, _>>().map(Some)
}

/// One at a time over all controllers: the driver holds a lock of the database.
async fn migrate(connection: &mut PgConnection) -> Result<(), StoreError> {
    let longer = format!(
        "SET statement_timeout = {0}; SET lock_timeout = {0}; SET idle_in_transaction_session_timeout = {0}",
        MIGRATION_DEADLINE.as_millis()
    );
    let work = async {
        sqlx::raw_sql(AssertSqlSafe(longer)).execute(&mut *connection).await?;
        schema::apply(schema::postgres(), &mut *connection).await?;
        sqlx::raw_sql(connect::SETTINGS).execute(&mut *connection).await?;
        Ok(())
    };
    timeout(MIGRATION_DEADLINE, work)
        .await
        .map_err(|_| {
            StoreError::Unavailable("the schema was not brought to this build's state in time".into())
        })?
        .map_err(schema::refused)
}
