//! The control plane: API, console, signer, and sessions to PoPs.
//!
//! This crate owns: the root key ceremony and every signing key of one controller, the snapshot that
//! everything is served and signed from, the strike journal, the flow log, the REST API with its
//! OpenAPI document, first enrolment, the console's pages, and the task that dials PoPs. It refuses
//! to know: packets, tunnels, and whether a flow may pass (that is the connector's, by
//! [`policy::decide`]).
//!
//! Reads, grants and slices need memory only. The database is asked when something is changed.
//!
//! ```no_run
//! # async fn example() -> Result<(), controller::ControllerError> {
//! use controller::{Controller, ControllerOptions, TlsSource};
//! let options = ControllerOptions {
//!     state: "/var/lib/tidegate/controller".into(),
//!     listen: Some("0.0.0.0:8443".parse().expect("an address")),
//!     unix: None,
//!     url: "https://tidegate.example.com:8443".into(),
//!     tls: TlsSource::Own,
//!     old_snapshots: controller::OldSnapshots::Refuse,
//!     connector_image: None,
//!     database: None,
//!     replicas: Vec::new(),
//!     join: None,
//! };
//! let (controller, first) = Controller::start(options).await?;
//! if let Some(first) = first {
//!     println!("{}\n{}", first.recovery_phrase.to_secret_text(), first.owner_link);
//!     controller::first_start_was_shown("/var/lib/tidegate/controller".as_ref())?;
//! }
//! controller.run(std::future::pending()).await
//! # }
//! ```

mod access;
mod admission;
pub mod api;
mod audit;
mod clock;
mod console;
mod control;
mod database;
mod enrolment;
mod flows;
mod follow;
mod gate;
mod issue;
mod journal;
mod ledger;
mod limiter;
mod parts;
mod paths;
mod presence;
mod replicas;
mod segments;
mod server;
mod several;
mod signer;
mod signin;
mod snapshot;
mod strikes;
mod sync;
#[cfg(test)]
mod tests;

pub use api::{openapi_json, roles_table};
pub use console::{ConnectorImage, NoImage};
pub use gate::{OldSnapshots, Withheld};
pub use server::{ListenError, TlsError, TlsSource};
pub use several::{
    Added, JoinFileError, SeveralError, add_controller, remove_controller, write_controller_file,
};
pub use signer::{
    AfterExport, KeyringError, PhraseError, RecoveryPhrase, RootError, RootKeyPlace, RootSealError,
    SignError, expect_root, export_root, first_start_was_shown, open_root_file, root_key_file,
    root_key_place,
};
pub use snapshot::{SnapshotError, SnapshotSource, check_snapshot_copy};
pub use strikes::StrikeError;

use crate::{
    audit::AuditHeads,
    database::Database,
    flows::FlowLog,
    follow::Following,
    gate::Gate,
    ledger::{Deed, Ledger},
    parts::{Core, SyncCommand},
    presence::Presence,
    replicas::Replicas,
    server::{Listeners, Shown},
    signer::{STARTED, Signer},
    signin::{SignIn, SignInError},
    snapshot::{Opened, Snapshots},
    strikes::Strikes,
};
use state::{StateDir, StateError};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use store::{
    Installation, Location, Opening, Organization, PostgresUrl, Progress, Store, StoreError, Version,
};
use tokio::sync::{Notify, mpsc, watch};
use trust::Role;
use wire::OrganizationId;

/// The SQLite file in the state directory.
pub const DATABASE: &str = "tidegate.db";
/// In the state directory: which kind of database this controller was first started with.
const DATABASE_KIND: &str = "database";
/// The console CA for people to import, and for `tidegate admin --ca`.
const CONSOLE_CA: &str = "console-ca.pem";
/// How often a database that cannot be used is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How often the console's certificate is looked after.
const TLS_EVERY: Duration = Duration::from_secs(3600);
/// Strikes and bundles that wait for the sync task.
const SYNC_QUEUE: usize = 1024;

/// How to run a controller.
#[derive(Debug, Clone)]
pub struct ControllerOptions {
    /// The state directory.
    pub state: PathBuf,
    /// TCP address of console and API.
    pub listen: Option<SocketAddr>,
    /// Unix socket on which a PoP of this host hands over TLS connections, each behind one PROXY line.
    pub unix: Option<PathBuf>,
    /// The address that people and agents use, `https://HOST[:PORT]`: it goes into join keys.
    pub url: String,
    /// The server that has the configuration; without one it is in a file of the state directory.
    pub database: Option<PostgresUrl>,
    /// Servers that follow that one: read from when it does not answer. Of use with `database` only.
    pub replicas: Vec<PostgresUrl>,
    /// What a further controller of an installation begins with (`tidegate admin add-controller`); of no use later.
    pub join: Option<PathBuf>,
    /// Where the console's certificate comes from.
    pub tls: TlsSource,
    /// What to do alone with a snapshot that is older than a day.
    pub old_snapshots: OldSnapshots,
    /// The container image that the console's commands start connectors from; they make one when there is none.
    pub connector_image: Option<ConnectorImage>,
}

/// What a first start made. Show it once, then say so by [`first_start_was_shown`]; it is kept nowhere.
#[derive(Debug)]
pub struct FirstStart {
    /// Opens the root key.
    pub recovery_phrase: RecoveryPhrase,
    /// Lets the first owner set a passphrase; works once, for 24 hours.
    pub owner_link: String,
}

/// A controller cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The address.
    #[error("expected an address like https://HOST or https://HOST:PORT, got {0:?}")]
    Url(String),
    /// The first start did not come to its end.
    #[error(
        "the first start in {} was interrupted before its recovery phrase was shown; nothing was enrolled yet: remove \
         this directory and start again", .0.display()
    )]
    FirstStartInterrupted(PathBuf),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The root key ceremony.
    #[error(transparent)]
    Root(#[from] RootError),
    /// The signing keys.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The database at first start.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database at first start belongs to somebody.
    #[error(
        "the database {location} has installation {found} already, and this is the first start of another one: nothing \
         was changed in it; give this controller an empty database, or start the controller of {found} with its own \
         state directory"
    )]
    Taken {
        /// Which database.
        location: String,
        /// Whose it is.
        found: wire::InstallationId,
    },
    /// Another kind of database than ever.
    #[error(
        "the configuration of this controller is {was}, and it was told of {told}: to move it, write a backup with \
         `tidegate admin backup` and fill the other one with `tidegate admin restore-backup`, which notes the new place in {}",
        .file.display()
    )]
    OtherDatabase {
        /// Where it is.
        was: &'static str,
        /// What was said now.
        told: &'static str,
        /// Where the kind is kept.
        file: PathBuf,
    },
    /// A further controller's beginning.
    #[error(transparent)]
    Join(#[from] JoinFileError),
    /// Nothing to serve from.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The strike journal.
    #[error(transparent)]
    Strike(#[from] StrikeError),
    /// What sign-in keeps.
    #[error(transparent)]
    SignIn(#[from] SignInError),
    /// The audit spool.
    #[error("the audit spool cannot be written: {0}")]
    Audit(std::io::Error),
    /// The flow log.
    #[error("the flow log cannot be opened: {0}")]
    Flows(std::io::Error),
    /// The console's certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The sessions to PoPs.
    #[error("sessions to PoPs: {0}")]
    Sync(String),
    /// What serves the network.
    #[error("the threads that serve the network cannot be started: {0}")]
    Threads(std::io::Error),
}

/// A controller whose sockets are open.
pub struct Controller {
    core: Arc<Core>,
    listeners: Listeners,
    shown: Arc<Shown>,
    commands: mpsc::Receiver<SyncCommand>,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("url", &self.core.url).finish_non_exhaustive()
    }
}

impl Controller {
    /// Opens the state directory (making it at the first start), the snapshot and the sockets.
    ///
    /// # Errors
    /// [`ControllerError`]: nothing runs then.
    pub async fn start(options: ControllerOptions) -> Result<(Self, Option<FirstStart>), ControllerError> {
        // 20 kB of what it holds between its steps: not on the stack of whoever waits for it.
        Box::pin(Self::started(options)).await
    }

    async fn started(options: ControllerOptions) -> Result<(Self, Option<FirstStart>), ControllerError> {
        let rest =
            options.url.strip_prefix("https://").filter(|rest| !rest.is_empty() && !rest.contains(' '));
        rest.ok_or_else(|| ControllerError::Url(options.url.clone()))?;
        let url = options.url.trim_end_matches('/').to_owned();
        let path = options.state.clone();
        let joins = options.join.as_deref().filter(|_| !signer::is_complete(&path));
        if joins.is_some() && options.database.is_none() {
            return Err(JoinFileError::NoServer.into());
        }
        if let Some(server) = &options.database
            && joins.is_none()
            && !signer::is_complete(&path)
        {
            // Before the keys are made: what is wrong with the server is mended and tried again, with nothing to remove.
            vacant(&server.clone().into(), None).await?.close().await;
        }
        let (directory, phrase) = match joins {
            Some(file) => (several::join(&path, file)?, None),
            None => open_directory(&path).await?,
        };
        let directory = Arc::new(directory);
        let signer = Signer::open(Arc::clone(&directory))?;
        let location = location(&directory, &options, phrase.is_some())?;
        let replicas = Replicas::open(&directory, &options.replicas);
        let progress = replicas.progress();
        let (opened, owner_link) = match &phrase {
            Some(_) => {
                let (store, link) = bootstrap(&location, &url, &signer, progress.clone()).await?;
                (Ok(store), Some(link))
            }
            None => {
                let opened = Store::open_with(location.clone(), Opening::MustExist, progress.clone()).await;
                (opened, None)
            }
        };
        // Planted: a controller that starts from its database or not at all.
        if planted::is("start-asks-database")
            && let Err(error) = &opened
        {
            return Err(StoreError::Unavailable(error.to_string()).into());
        }
        let for_snapshot = match &opened {
            Ok(store) => Ok(store.clone()),
            Err(StoreError::Unavailable(reason)) => Err(StoreError::Unavailable(reason.clone())),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        };
        let Opened { snapshots, refused } =
            Snapshots::open(Arc::clone(&directory), signer.installation(), for_snapshot, &replicas).await?;
        let journal = path.join("strikes.journal");
        if phrase.is_some() {
            // There is nothing yet that could be missing.
            std::fs::write(&journal, b"").map_err(StrikeError::Journal)?;
        }
        let strikes = Strikes::open(&journal, &signer.bundle())?;
        let gate = Gate::new(Arc::clone(&directory), strikes.health(), options.old_snapshots, clock::now());
        if options.old_snapshots == OldSnapshots::DangerouslyIssue {
            let deed = Deed::new(clock::wall(), "command line", "issue from old snapshot", "controller");
            ledger::write_down(&path, &deed).map_err(ControllerError::Audit)?;
        }
        let signin = SignIn::open(&directory, &url)?;
        let flows = FlowLog::open(&path.join("flows")).map_err(ControllerError::Flows)?;
        let answers = api::AnswerSeal::open(&directory)?;
        let once = api::Once::open(Arc::clone(&directory))?;
        let (sync, commands) = mpsc::channel(SYNC_QUEUE);
        let shown = Shown::load(options.tls, &url, &signer)?;
        let ca = signer.console_certificate(&["localhost".to_owned()])?;
        directory.write(CONSOLE_CA, ca.ca_pem.as_bytes())?;
        let listeners =
            Listeners::open(options.listen, options.unix.as_deref(), &path.join("admin.sock")).await?;
        let opened_store = opened.as_ref().ok().filter(|_| refused.is_none()).cloned();
        let database = Database::new(location, progress, opened);
        if let Some(reason) = refused {
            database.refuse(reason);
        }
        snapshots.tell(&gate).await;
        if let Some(store) = &opened_store {
            database::weigh_connections(store, &signer.bundle()).await;
        }
        let core = Arc::new(Core {
            settling: tokio::sync::Mutex::default(),
            ledger: Ledger::new(&path),
            gate,
            work: Notify::new(),
            news: Notify::new(),
            state: path,
            url,
            connector_image: options.connector_image,
            signer,
            database,
            replicas,
            snapshots,
            strikes,
            presence: Mutex::new(Presence::default()),
            paths: Mutex::default(),
            flows,
            admission: admission::Admission::new(std::thread::available_parallelism().map_or(1, Into::into)),
            rates: api::Rates::default(),
            answers,
            once,
            audit: AuditHeads::open(Arc::clone(&directory))?,
            signin,
            sync,
            started: clock::now(),
        });
        core.strikes.absorb(&ledger::struck_waiting(&core.state));
        if let Some(store) = opened_store
            && let Err(error) = core.absorb_struck(&store).await
        {
            tracing::warn!(%error, "what the database remembers to be revoked was not read");
        }
        // Before the first look: everything that is shared is known when the first question comes.
        Following::default().look(&core).await;
        let first = phrase.zip(owner_link);
        let first = first.map(|(recovery_phrase, owner_link)| FirstStart { recovery_phrase, owner_link });
        Ok((Self { core, listeners, shown, commands }, first))
    }

    /// The bound TCP address.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.listeners.tcp_address()
    }

    /// Serves until `shutdown` is done.
    ///
    /// # Errors
    /// [`ControllerError::Sync`] when sessions to PoPs cannot be held at all.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ControllerError> {
        let Self { core, listeners, shown, commands } = self;
        let (stop, stopping) = watch::channel(false);
        // Until the database is closed: its connections may have been opened there.
        let apart = server::Apart::start().map_err(ControllerError::Threads)?;
        let mut sync = tokio::spawn(sync::run(Arc::clone(&core), commands, stopping));
        let ended = tokio::select! {
            () = shutdown => None,
            served = listeners.serve(&core, Arc::clone(&shown), &apart) => {
                served.map_err(ControllerError::Threads)?;
                None
            }
            () = probe(&core) => None,
            () = Arc::clone(&core).catch_up() => None,
            () = snapshot::copy_on(&core) => None,
            () = follow::follow(&core) => None,
            () = replicas::watch(&core) => None,
            () = renew(&core, &shown) => None,
            ended = &mut sync => Some(ended),
        };
        let _ = stop.send(true);
        core.snapshots.copy_what_waits();
        let ended = match ended {
            Some(ended) => ended,
            None => sync.await,
        };
        core.database.close().await;
        core.replicas.close().await;
        drop(apart);
        match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ControllerError::Sync(error.to_string())),
            Err(error) => Err(ControllerError::Sync(error.to_string())),
        }
    }
}

async fn open_directory(path: &Path) -> Result<(StateDir, Option<RecoveryPhrase>), ControllerError> {
    if signer::is_complete(path) {
        let directory = StateDir::open(path, Role::Controller)?;
        if directory.read(STARTED)?.is_none() {
            return Err(ControllerError::FirstStartInterrupted(path.to_owned()));
        }
        return Ok((directory, None));
    }
    match StateDir::about(path)? {
        // Another role's directory says so by itself.
        Some(about) if about.role != Role::Controller => {
            StateDir::open(path, Role::Controller).map(|directory| (directory, None)).map_err(Into::into)
        }
        Some(_) => Err(ControllerError::FirstStartInterrupted(path.to_owned())),
        None => {
            let path = path.to_owned();
            // The ceremony stretches the phrase: half a second of a core.
            let made = tokio::task::spawn_blocking(move || signer::first_start(&path)).await;
            let made = made.map_err(|error| ControllerError::Sync(error.to_string()))??;
            Ok((made.directory, Some(made.phrase)))
        }
    }
}

/// Where the configuration is. A controller that forgets to say so at its second start would serve an old file, or miss one
/// that never was.
fn location(
    directory: &StateDir,
    options: &ControllerOptions,
    is_first_start: bool,
) -> Result<Location, ControllerError> {
    const SERVER: &str = "in PostgreSQL (--database-url)";
    const FILE: &str = "in a file of its state directory";
    let (told, location) = match &options.database {
        Some(url) => (SERVER, Location::from(url.clone())),
        None => (FILE, Location::from(options.state.join(DATABASE))),
    };
    let kept = match directory.read(DATABASE_KIND)?.as_deref() {
        Some(b"postgres") => Some(SERVER),
        // Before there was another kind, none was written down.
        Some(_) => Some(FILE),
        None => (!is_first_start && options.state.join(DATABASE).exists()).then_some(FILE),
    };
    if let Some(was) = kept.filter(|was| *was != told) {
        return Err(ControllerError::OtherDatabase { was, told, file: options.state.join(DATABASE_KIND) });
    }
    if kept.is_none() {
        directory.write(DATABASE_KIND, if told == SERVER { b"postgres" } else { b"sqlite" })?;
    }
    Ok(location)
}

/// A database that belongs to nobody yet.
async fn vacant(location: &Location, progress: Option<Progress>) -> Result<Store, ControllerError> {
    let store = Store::open_with(location.clone(), Opening::CreateIfMissing, progress).await?;
    match store.load().await? {
        None => Ok(store),
        Some(found) => {
            store.close().await;
            Err(ControllerError::Taken { location: location.to_string(), found: found.installation.id })
        }
    }
}

/// Notes in a controller's state directory where its configuration is from now on. Says whether there is one.
///
/// # Errors
/// [`ControllerError::State`].
pub fn moved_to(state: &Path, location: &Location) -> Result<bool, ControllerError> {
    if !signer::is_complete(state) {
        return Ok(false);
    }
    let kind: &[u8] = match location {
        Location::Postgres(_) => b"postgres",
        Location::Sqlite(_) => b"sqlite",
    };
    StateDir::open(state, Role::Controller)?.write(DATABASE_KIND, kind)?;
    Ok(true)
}

/// The first rows: installation, default organization, and the first owner's link.
async fn bootstrap(
    location: &Location,
    url: &str,
    signer: &Signer,
    progress: Option<Progress>,
) -> Result<(Store, String), ControllerError> {
    let store = vacant(location, progress).await?;
    let created_ms = clock::wall().as_millis();
    let version = Version { incarnation: 1, version: 1 };
    let installation = Installation { id: signer.installation(), version, created_ms };
    let organization = Organization {
        id: OrganizationId::from_time_and_random(created_ms, clock::random()),
        name: "default".into(),
        version,
        grant_life_ms: api::GRANT_LIFE_MS,
        renew_after_ms: api::RENEW_AFTER_MS,
        shrink_version: 0,
        old_grants_end_ms: 0,
        approve_devices: false,
        audit_retention_days: 0,
        flow_retention_days: 0,
        sign_in_age_ms: Organization::SIGN_IN_AGE_MS,
        closed_ms: 0,
        created_ms,
    };
    store.bootstrap(&installation, &organization, "first start").await?;
    let (owner_link, link) = signin::owner_link(url);
    let mut change = store.change(store::Scope::Installation, "first start", created_ms).await?;
    change.insert_one_time_link(&link).await?;
    change.put_trust_document("chain", &signer.chain_text()).await?;
    change.commit("create owner link", "first owner", "{}").await?;
    Ok((store, owner_link))
}

/// Tries a database that cannot be used again; one prober, whatever waits.
async fn probe(core: &Arc<Core>) {
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        if let Some(store) = core.database.reopen().await {
            if let Err(error) = core.absorb_struck(&store).await {
                tracing::warn!(%error, "what the database remembers to be revoked was not read");
            }
            core.work.notify_one();
            match core.refresh(&store).await {
                Ok(()) => tracing::info!("the database can be used again"),
                Err(error) => tracing::warn!(%error, "the database was opened and cannot be read"),
            }
        }
    }
}

/// Audit entries that go in one step: a tenth of a second of a writer.
const FORGOTTEN: u32 = 5_000;

/// Removes what organizations keep no longer.
async fn expire_logs(core: &Arc<Core>) {
    let snapshot = core.snapshot();
    let now = core.signer.best_time();
    let before = |days: u64| now.minus(Duration::from_secs(days * 24 * 3600));
    let organizations = snapshot.dataset.organizations.iter().map(|data| &data.organization);
    let kept = organizations.clone().filter(|row| row.audit_retention_days > 0);
    let kept: BTreeMap<_, _> = kept.map(|row| (row.id, before(row.audit_retention_days))).collect();
    if !kept.is_empty() {
        let core = Arc::clone(core);
        // All of them in one reading of the log.
        let too_old =
            move |entry: &signin::Entry| kept.get(&entry.organization).is_some_and(|from| entry.at < *from);
        let expired = tokio::task::spawn_blocking(move || core.signin.log.expire(too_old)).await;
        if let Ok(Err(error)) = expired {
            tracing::warn!(%error, "old entries of the log of sign-ins were not removed");
        }
    }
    for row in organizations {
        if row.flow_retention_days > 0 {
            let (core, id, before) = (Arc::clone(core), row.id, before(row.flow_retention_days));
            let expired = tokio::task::spawn_blocking(move || core.flows.expire(id, before)).await;
            if let Ok(Err(error)) = expired {
                tracing::warn!(%error, "old flow records were not removed");
            }
        }
        if row.audit_retention_days > 0
            && let Ok(store) = core.database.store()
        {
            let before = before(row.audit_retention_days).as_millis();
            let chain = store::Chain::Organization(row.id);
            if core.audit_begins(&store, chain, u64::from(FORGOTTEN)).await == audit::Saved::No {
                continue;
            }
            match store.forget_audit(chain, before, FORGOTTEN).await {
                Ok(_) => drop(core.audit_begins(&store, chain, 0).await),
                // They may be gone all the same, as soon as a standby answers.
                Err(error) => tracing::warn!(%error, "old audit entries were not removed"),
            }
        }
    }
}

/// Learns where the chains of the audit log begin that nothing is known of yet: a first time, or after an earlier version.
async fn learn_where_audit_begins(core: &Arc<Core>) {
    let Ok(store) = core.database.store() else { return };
    let snapshot = core.snapshot();
    let own =
        snapshot.dataset.organizations.iter().map(|data| store::Chain::Organization(data.organization.id));
    for chain in own.chain([store::Chain::Installation]) {
        if core.writers() == audit::Writers::Alone && core.audit.begins_somewhere(chain) {
            let _ = core.audit_begins(&store, chain, 0).await;
        }
    }
}

async fn renew(core: &Arc<Core>, shown: &Shown) {
    loop {
        learn_where_audit_begins(core).await;
        tokio::time::sleep(TLS_EVERY).await;
        shown.refresh(&core.signer);
        // Only by a clock that is believed, and when nothing of the journal may be missing.
        let Ok(wall) = core.signer.signing_time() else { continue };
        let rotated = if core.signer.is_one_of_several() {
            let looked = core.look_after_shared_web_keys(wall).await;
            looked.map(|()| false).map_err(|error| error.to_string())
        } else {
            core.signin.keys.rotate_if_due(wall).map_err(|error| error.to_string())
        };
        match rotated {
            Ok(true) => tracing::info!("web sessions are signed with a new key"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "web sessions go on with the old key"),
        }
        if core.withheld().is_some() {
            continue;
        }
        learn_where_audit_begins(core).await;
        expire_logs(core).await;
        let core = Arc::clone(core);
        let compacted = tokio::task::spawn_blocking(move || core.strikes.compact(wall)).await;
        match compacted {
            Ok(Ok(0)) => {}
            Ok(Ok(lapsed)) => tracing::info!(lapsed, "the strike journal was written anew"),
            Ok(Err(error)) => tracing::warn!(%error, "the strike journal was not written anew"),
            Err(error) => tracing::warn!(%error, "the strike journal was not written anew"),
        }
    }
}
