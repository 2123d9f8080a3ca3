//! Another program that holds every lock of the controller's SQLite file, and the limit of open files.

use anyhow::{Context as _, Result, ensure};
use std::{fs::File, os::fd::AsRawFd as _, path::Path, time::Duration};

/// In write-ahead-log mode every reader and writer takes one of these bytes of the shared-memory file (SQLite file
/// format, "WAL-index locks").
const FROM: libc::off_t = 120;
const COUNT: libc::off_t = 8;
const TRIES: u32 = 30_000;

/// The locks, until dropped.
pub struct Locks(#[expect(dead_code, reason = "closing it gives the locks back")] File);

impl Locks {
    /// Takes them as soon as whoever has them lets go.
    pub async fn take(database: &Path) -> Result<Self> {
        let path = format!("{}-shm", database.display());
        let file = File::options().read(true).write(true).open(&path).with_context(|| path.clone())?;
        for _ in 0..TRIES {
            if lock(&file) {
                return Ok(Self(file));
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        ensure!(false, "the locks of {path} are never all free");
        Ok(Self(file))
    }
}

#[expect(unsafe_code, reason = "the standard library locks whole files only")]
fn lock(file: &File) -> bool {
    // SAFETY: flock is plain data, for which all zeroes is a value.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = libc::c_short::try_from(libc::F_WRLCK).unwrap_or_default();
    range.l_whence = libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default();
    range.l_start = FROM;
    range.l_len = COUNT;
    // SAFETY: F_SETLK reads the struct that the pointer names, which lives past the call, and keeps nothing.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const range) == 0 }
}

/// Each connector has a socket.
#[expect(unsafe_code, reason = "the standard library does not set resource limits")]
pub fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls take a pointer to a whole rlimit of this frame and keep none.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}
