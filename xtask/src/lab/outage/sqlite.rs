//! The fault of a database that does not answer: somebody else holds every lock of the SQLite file.

use crate::process::{Interrupt, wait_until};
use anyhow::{Context as _, Result};
use std::{fs::File, os::fd::AsRawFd as _, path::Path, time::Duration};

/// In write-ahead-log mode every reader and writer takes one of these bytes of the shared-memory file (SQLite
/// file format, "WAL-index locks"): whoever holds them all stops everybody.
const WAL_LOCKS_FROM: libc::off_t = 120;
const WAL_LOCKS: libc::off_t = 8;
/// A transaction of the controller is over sooner.
const TAKE: Duration = Duration::from_secs(10);

/// Every lock of a database, given back when dropped: the kernel does it when the file is closed.
#[derive(Debug)]
pub struct HeldLocks(#[expect(dead_code, reason = "held open")] File);

impl HeldLocks {
    /// Takes them as soon as whoever has one lets go.
    ///
    /// # Errors
    /// The database is not in use, or is never free.
    pub fn take(controller_state: &Path, interrupt: &Interrupt) -> Result<Self> {
        let path = controller_state.join("tidegate.db-shm");
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("expected the controller's database in use: {}", path.display()))?;
        wait_until("the locks of the database", TAKE, interrupt, || Ok(lock(&file).then_some(())))?;
        Ok(Self(file))
    }
}

#[expect(unsafe_code, reason = "the standard library locks whole files only")]
fn lock(file: &File) -> bool {
    // SAFETY: flock is plain data, for which all zeroes is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default();
    range.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    range.l_start = WAL_LOCKS_FROM;
    range.l_len = WAL_LOCKS;
    // SAFETY: F_SETLK reads the struct that the pointer names, which lives past the call, and keeps nothing.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const range) == 0 }
}
