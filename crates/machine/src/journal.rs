//! What has to be put back, on disk before it is changed: whoever comes after a guardian that was killed reads it here.
//!
//! It lives below `/var/lib`, not `/run`: after a power failure `/etc/resolv.conf` is still ours, and `/run` is empty.

use crate::resolver::conf::Before;
use rustix::fs::OFlags;
use std::{
    fs::{self, File, Metadata, Permissions, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
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
    #[error("{} {why}", path.display())]
    Untrusted { path: PathBuf, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Makes a directory for this process's user alone, and looks whose it is when it was there already: what is written in
/// it is believed, and a name in a directory of somebody else could be a link to anything.
///
/// # Errors
/// It cannot be made, or others may write in it.
pub fn private_directory(dir: &Path) -> io::Result<()> {
    open_directory(dir).map(drop).map_err(io::Error::other)
}

fn open_directory(dir: &Path) -> Result<File, JournalError> {
    let error = |source| JournalError::Io { path: dir.to_owned(), source };
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(error)?;
        // A worker of another user has its state beside this directory and has to get there.
        fs::set_permissions(parent, Permissions::from_mode(0o711)).map_err(error)?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error)?;
    let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed();
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags).open(dir).map_err(error)?;
    trust(dir, &opened.metadata().map_err(error)?)?;
    Ok(opened)
}

/// What anybody else could have written is not put back by this process.
fn trust(path: &Path, about: &Metadata) -> Result<(), JournalError> {
    let own = rustix::process::geteuid().as_raw();
    let why = if about.uid() != own {
        format!("belongs to user {}, not to user {own}", about.uid())
    } else if about.mode() & 0o022 != 0 {
        format!("may be written by others (mode {:o})", about.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(JournalError::Untrusted { path: path.to_owned(), why })
}

impl Journal {
    /// Opens it, making its directory, for this process alone.
    pub fn open(dir: &Path) -> Result<Self, JournalError> {
        let error = |source| JournalError::Io { path: dir.to_owned(), source };
        let lock = open_directory(dir)?;
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

    /// Its file.
    pub fn file(&self) -> PathBuf {
        self.dir.join(NAME)
    }

    /// What is written in it. One that does not read, or that others may have written, is reported, never thrown away.
    pub fn read(&self) -> Result<Option<Entry>, JournalError> {
        self.read_of(NAME)
    }

    /// Writes it, on disk when this returns.
    pub fn write(&self, entry: &Entry) -> Result<(), JournalError> {
        self.write_to(NAME, entry)
    }

    /// Everything is as it was.
    pub fn clear(&self) -> Result<(), JournalError> {
        self.clear_of(NAME)
    }

    /// As [`Self::read`], of another file of the same directory.
    pub fn read_of<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, JournalError> {
        let path = self.dir.join(name);
        let error = |source| JournalError::Io { path: path.clone(), source };
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(error)?,
        };
        trust(&path, &file.metadata().map_err(error)?)?;
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(error(io::Error::other("longer than any journal")));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|problem| error(problem.into()))
    }

    /// As [`Self::write`].
    pub fn write_to<T: serde::Serialize>(&self, name: &str, entry: &T) -> Result<(), JournalError> {
        let path = self.dir.join(name);
        let write = || {
            let new = self.dir.join(format!("{name}.new"));
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

    /// As [`Self::clear`].
    pub fn clear_of(&self, name: &str) -> Result<(), JournalError> {
        let path = self.dir.join(name);
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
    fn a_journal_that_others_may_have_written_is_refused_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (place, name) = (dir.path().join("journal"), dir.path().join("journal").join(NAME));
        Journal::open(&place).unwrap().write(&entry()).unwrap();
        let refused = || match Journal::open(&place).and_then(|journal| journal.read()) {
            Err(JournalError::Untrusted { path, why }) => (path, why),
            other => panic!("{other:?}"),
        };
        for mode in [0o620, 0o602, 0o666] {
            fs::set_permissions(&name, Permissions::from_mode(mode)).unwrap();
            assert_eq!(refused().0, name);
        }
        fs::set_permissions(&name, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(0o770)).unwrap();
        assert_eq!(refused().0, place);
        fs::set_permissions(&place, Permissions::from_mode(0o755)).unwrap();
        // A link, to a journal that would be believed where it is.
        let real = dir.path().join("real");
        fs::rename(&name, &real).unwrap();
        std::os::unix::fs::symlink(&real, &name).unwrap();
        assert!(Journal::open(&place).unwrap().read().is_err());
        fs::remove_file(&name).unwrap();
        fs::rename(&real, &name).unwrap();
        let linked = dir.path().join("linked");
        std::os::unix::fs::symlink(&place, &linked).unwrap();
        assert!(Journal::open(&linked).is_err());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&name, Some(12_345), None).unwrap();
            assert!(refused().1.contains("12345"));
            std::os::unix::fs::chown(&name, Some(0), None).unwrap();
            std::os::unix::fs::chown(&place, Some(12_345), None).unwrap();
            assert_eq!(refused().0, place);
            std::os::unix::fs::chown(&place, Some(0), None).unwrap();
        }
        assert_eq!(Journal::open(&place).unwrap().read().unwrap(), Some(entry()));
    }

    #[test]
    fn others_may_go_through_the_directory_around_it_and_not_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("tidegate/machine");
        private_directory(&place).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&place), mode(place.parent().unwrap())), (0o700, 0o711));
        // One that was there already is left as it is.
        fs::set_permissions(place.parent().unwrap(), Permissions::from_mode(0o700)).unwrap();
        private_directory(&place).unwrap();
        assert_eq!(mode(place.parent().unwrap()), 0o700);
    }

    #[test]
    fn a_process_is_alive_until_its_number_means_another_one() {
        let own = Process::own();
        assert!(own.is_alive());
        assert!(!Process { start: own.start + 1, ..own.clone() }.is_alive());
        assert!(!Process { boot: "another".into(), ..own }.is_alive());
    }
}
