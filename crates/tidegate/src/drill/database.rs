//! Faults of the database. Of a file: another program that holds the locks of SQLite. Of a server: the proxy before it,
//! or its processes stopped.

use super::{run::Run, server::Server};
use anyhow::Context as _;
use std::{fs::File, os::fd::AsRawFd as _, path::Path, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle};

/// In write-ahead-log mode every reader and writer takes one of these bytes of the shared-memory file: one for
/// writing, one for checkpoints, one for recovery, five for reading (SQLite file format, "WAL-index locks"). Whoever
/// holds them all stops everybody, as a backup tool gone wrong or a stuck network disk does.
const WAL_LOCKS_FROM: libc::off_t = 120;
const WAL_LOCKS: libc::off_t = 8;

/// The database of a drill, whichever it is.
pub enum Database {
    /// SQLite.
    File(DatabaseFault),
    /// PostgreSQL.
    Server(Arc<Server>),
}

impl Database {
    /// The one that the drill's controller uses.
    pub fn of(run: &Run<'_>) -> anyhow::Result<Self> {
        Ok(match &run.server {
            Some(server) => Self::Server(Arc::clone(server)),
            None => Self::File(DatabaseFault::prepare(&run.stage.controller_state())?),
        })
    }

    /// Begins or ends a fault.
    pub async fn set(&self, fault: Fault) -> anyhow::Result<()> {
        match self {
            Self::File(file) => file.set(fault),
            Self::Server(server) => server.set(fault).await?,
        }
        Ok(())
    }

    /// Gives everything back.
    pub async fn end(self) {
        if let Self::File(file) = self {
            file.end().await;
        }
    }
}

/// Holds or gives back every lock of a database until dropped.
pub struct DatabaseFault {
    hold: watch::Sender<Fault>,
    task: JoinHandle<()>,
}

/// How the database fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// As always.
    None,
    /// Everything waits for up to this long, again and again.
    Slow(Duration),
    /// Nothing comes back at all.
    Frozen,
}

/// Room between two holds of a slow database.
const BREATH: Duration = Duration::from_millis(60);

impl DatabaseFault {
    /// Prepares faults of the database in a controller's state directory.
    pub fn prepare(controller_state: &Path) -> anyhow::Result<Self> {
        let path = controller_state.join("tidegate.db-shm");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("expected the controller's database in use: {}", path.display()))?;
        let (hold, mut told) = watch::channel(Fault::None);
        let task = tokio::spawn(async move {
            loop {
                let fault = *told.borrow_and_update();
                match fault {
                    Fault::None => {
                        lock(&file, Lock::Give);
                        if told.changed().await.is_err() {
                            return;
                        }
                    }
                    Fault::Frozen => {
                        take(&file).await;
                        if told.changed().await.is_err() {
                            lock(&file, Lock::Give);
                            return;
                        }
                    }
                    Fault::Slow(each) => {
                        take(&file).await;
                        let _ = tokio::time::timeout(each, told.changed()).await;
                        lock(&file, Lock::Give);
                        tokio::time::sleep(BREATH).await;
                        if told.has_changed().is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Self { hold, task })
    }

    /// Begins or ends a fault.
    pub fn set(&self, fault: Fault) {
        let _ = self.hold.send(fault);
    }

    /// Gives everything back.
    pub async fn end(self) {
        drop(self.hold);
        let _ = self.task.await;
    }
}

/// Takes all locks as soon as whoever has them lets go.
async fn take(file: &File) {
    while !lock(file, Lock::Take) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[derive(Clone, Copy)]
enum Lock {
    Take,
    Give,
}

#[expect(unsafe_code, reason = "the standard library locks whole files only")]
fn lock(file: &File, what: Lock) -> bool {
    let kind = match what {
        Lock::Take => libc::F_WRLCK,
        Lock::Give => libc::F_UNLCK,
    };
    // SAFETY: flock is plain data, for which all zeroes is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(kind).unwrap_or_default();
    range.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    range.l_start = WAL_LOCKS_FROM;
    range.l_len = WAL_LOCKS;
    // SAFETY: F_SETLK reads the struct that the pointer names, which lives past the call, and keeps nothing.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const range) == 0 }
}
