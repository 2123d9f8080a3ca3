//! What has to be put back, on disk before it is changed: whoever comes after a guardian that was killed reads it here.
//!
//! It lives below `/var/lib`, not `/run`: after a power failure `/etc/resolv.conf` is still ours, and `/run` is empty.

use crate::resolver::conf::Before;
use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

const NAME: &str = "resolver.json";
/// A journal holds two resolver files of at most 64 KiB in base64.
const MAX_BYTES: u64 = 256 * 1024;

/// A guardian that was killed a moment ago still holds its lock: the kernel takes a process apart step by step.
const RELEASED_WITHIN: Duration = Duration::from_millis(500);
const RELEASE_LOOK: Duration = Duration::from_millis(10);

/// What was changed, and how it was before.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// Who changed it.
    pub guardian: Process,
    /// The file.
    pub path: PathBuf,
    /// How it was.
    pub before: Before,
    /// What we wrote there.
    #[serde(with = "crate::resolver::conf::base64_bytes")]
    pub ours: Vec<u8>,
    /// Whether it was written over where it lies, and not replaced: it may be a mixture, then.
    pub in_place: bool,
}

/// A process, also when its number is given to another one.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Process {
    pub pid: u32,
    /// In clock ticks since boot.
    start: u64,
    boot: String,
}

impl Process {
    pub fn own() -> Self {
        let pid = std::process::id();
        Self { pid, start: start_of(pid).unwrap_or_default(), boot: boot_id() }
    }

    pub fn is_alive(&self) -> bool {
        self.boot == boot_id() && start_of(self.pid) == Some(self.start)
    }
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Field 22 of proc_pid_stat(5); none for a process that is gone or only waits to be collected.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The directory of the journal, locked: one guardian a machine.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
    _lock: File,
}

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("another guardian holds {}", .0.display())]
    Held(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Journal {
    /// Opens it, making its directory, for this process alone.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let error = |source| JournalError::Io { path: dir.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
        let lock = File::open(dir).map_err(error)?;
        let mut rest = RELEASED_WITHIN;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { dir: dir.to_owned(), _lock: lock }),
                Err(TryLockError::WouldBlock) if rest.is_zero() => {
                    return Err(JournalError::Held(dir.to_owned()));
                }
                Err(TryLockError::WouldBlock) => {
                    std::thread::sleep(RELEASE_LOOK);
                    rest = rest.saturating_sub(RELEASE_LOOK);
                }
                Err(TryLockError::Error(source)) => return Err(error(source)),
            }
        }
    }

    /// What is written in it. One that does not read is reported, never thrown away.
    pub fn read(&self) -> Result<Option<Entry>, JournalError> {
        let path = self.dir.join(NAME);
        let error = |source| JournalError::Io { path: path.clone(), source };
        match fs::metadata(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(error(source)),
            Ok(about) if about.len() > MAX_BYTES => {
                return Err(error(io::Error::other("longer than any journal")));
            }
            Ok(_) => {}
        }
        let bytes = fs::read(&path).map_err(error)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|problem| error(problem.into()))
    }

    /// Writes it, on disk when this returns.
    pub fn write(&self, entry: &Entry) -> Result<(), JournalError> {
        let path = self.dir.join(NAME);
        let write = || {
            let new = self.dir.join("resolver.json.new");
            let bytes = serde_json::to_vec(entry)?;
            let mut file =
                fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            self._lock.sync_all()
        };
        write().map_err(|source| JournalError::Io { path: path.clone(), source })
    }

    /// Everything is as it was.
    pub fn clear(&self) -> Result<(), JournalError> {
        let path = self.dir.join(NAME);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(JournalError::Io { path, source }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            guardian: Process::own(),
            path: "/etc/resolv.conf".into(),
            before: Before::Link { target: "../run/resolv.conf".into() },
            ours: b"nameserver 100.64.0.2\n".to_vec(),
            in_place: false,
        }
    }

    #[test]
    fn a_journal_is_read_as_it_was_written_and_one_process_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.read().unwrap(), None);
        journal.write(&entry()).unwrap();
        assert!(matches!(Journal::open(dir.path()), Err(JournalError::Held(_))));
        drop(journal);
        let journal = Journal::open(dir.path()).unwrap();
        assert_eq!(journal.read().unwrap(), Some(entry()));
        journal.clear().unwrap();
        assert_eq!(journal.read().unwrap(), None);
    }

    #[test]
    fn a_journal_that_does_not_read_is_an_error_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        for bytes in [&b"{"[..], b"", br#"{"version":9}"#] {
            fs::write(dir.path().join(NAME), bytes).unwrap();
            assert!(journal.read().is_err());
            assert!(dir.path().join(NAME).exists());
        }
    }

    #[test]
    fn a_process_is_alive_until_its_number_means_another_one() {
        let own = Process::own();
        assert!(own.is_alive());
        assert!(!Process { start: own.start + 1, ..own.clone() }.is_alive());
        assert!(!Process { boot: "another".into(), ..own }.is_alive());
    }
}
