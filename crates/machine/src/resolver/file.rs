//! Taking a resolver file over, and giving it back.

use super::conf::{Before, ResolvConf, is_left_over, render};
use crate::journal::{Entry, Journal, JournalError, Process};
use std::{
    fs::{self, File, FileTimes, OpenOptions, Permissions},
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Real ones have a few lines.
const MAX_BYTES: u64 = 64 * 1024;
/// Next to the file while it is written; the same name always, so that a killed process leaves at most one.
const NEW: &str = ".resolv.conf.tidegate-new";

/// Why the file was not taken over or given back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is still what an earlier client wrote, and no journal here says how it was before", .0.display())]
    LeftOver(PathBuf),
    #[error("the journal: {0}")]
    Journal(#[from] JournalError),
}

/// A resolver file that says what we want, until it is given back.
#[derive(Debug)]
pub(crate) struct HeldFile {
    entry: Entry,
    /// What the old file says; where it was a link, what its target says now.
    old: ResolvConf,
}

/// What a look at the file found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Ours.
    Ours,
    /// Somebody else wrote there.
    Foreign,
}

fn look_at(path: &Path) -> io::Result<Before> {
    let about = match fs::symlink_metadata(path) {
        Ok(about) => about,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::Missing),
        Err(error) => return Err(error),
    };
    if about.is_symlink() {
        return Ok(Before::Link { target: fs::read_link(path)? });
    }
    if !about.is_file() {
        return Err(io::Error::other("neither a file nor a link"));
    }
    if about.len() > MAX_BYTES {
        return Err(io::Error::other("longer than any resolver configuration"));
    }
    let nanos = u32::try_from(about.mtime_nsec()).unwrap_or_default();
    Ok(Before::File {
        bytes: fs::read(path)?,
        mode: about.mode() & 0o7777,
        uid: about.uid(),
        gid: about.gid(),
        modified: (about.mtime(), nanos),
    })
}

/// What programs read there: through a link, too. One that leads nowhere says nothing.
fn content(path: &Path) -> Vec<u8> {
    let is_short = fs::metadata(path).is_ok_and(|about| about.is_file() && about.len() <= MAX_BYTES);
    if is_short { fs::read(path).unwrap_or_default() } else { Vec::new() }
}

/// Whether the file is ours although nobody holds it.
pub(crate) fn is_nobodys(path: &Path, own: Ipv4Addr) -> bool {
    is_left_over(&content(path), own)
}

impl HeldFile {
    /// Writes down how the file is, then writes ours.
    pub fn take(
        journal: &Journal,
        path: &Path,
        own: Ipv4Addr,
        interface: &str,
        search: &[String],
    ) -> Result<Self, FileError> {
        let error = |source| FileError::Io { path: path.to_owned(), source };
        let before = look_at(path).map_err(error)?;
        let said = content(path);
        if is_left_over(&said, own) {
            return Err(FileError::LeftOver(path.to_owned()));
        }
        let old = ResolvConf::parse(&said);
        let ours = render(&old, own, interface, search);
        let mut entry =
            Entry { guardian: Process::own(), path: path.to_owned(), before, ours, in_place: false };
        if planted::is("changed-before-it-is-written-down") {
            replace(path, &fresh(&entry.ours)).map_err(error)?;
        }
        journal.write(&entry)?;
        let written = match replace(path, &fresh(&entry.ours)) {
            Err(source) if source.kind() == io::ErrorKind::ResourceBusy => {
                // A mount point, as in containers: it cannot be replaced, only written over.
                entry.in_place = true;
                journal.write(&entry)?;
                overwrite(path, &entry.ours)
            }
            written => written,
        };
        if let Err(source) = written {
            give_up(journal, &entry);
            return Err(error(source));
        }
        Ok(Self { entry, old })
    }

    /// Where the path was a link, its target's owner goes on writing there, on another network other servers: those are
    /// the old ones from then on. One that names nobody (half written, no network) changes nothing. Says whether there are
    /// others.
    pub fn follow(&mut self, own: Ipv4Addr) -> bool {
        let Before::Link { target } = &self.entry.before else { return false };
        let Some(dir) = self.entry.path.parent() else { return false };
        let now = ResolvConf::parse(&content(&dir.join(target)));
        let servers = now.upstreams(own);
        if now.nameservers.is_empty() || servers.is_empty() || servers == self.upstreams(own) {
            return false;
        }
        self.old = now;
        true
    }

    /// The servers that stood there.
    pub fn upstreams(&self, own: Ipv4Addr) -> Vec<SocketAddr> {
        self.old.upstreams(own)
    }

    /// The search domains in use.
    pub fn search(&self) -> Vec<String> {
        ResolvConf::parse(&self.entry.ours).search
    }

    /// Whether it still says what we wrote.
    pub fn look(&self) -> Look {
        match fs::symlink_metadata(&self.entry.path) {
            Ok(about) if about.is_file() && content(&self.entry.path) == self.entry.ours => Look::Ours,
            _ => Look::Foreign,
        }
    }

    /// Somebody else wrote the file: what they wrote is how it was, from now on, and ours goes in front of it again. Where
    /// they left nothing but our own server in it (an editor that added a line), how it was before stays.
    pub fn take_again(
        self,
        journal: &Journal,
        own: Ipv4Addr,
        interface: &str,
        search: &[String],
    ) -> Result<Self, FileError> {
        let path = self.entry.path.clone();
        let theirs = ResolvConf::parse(&content(&path));
        if theirs.nameservers.is_empty() || !theirs.upstreams(own).is_empty() {
            return Self::take(journal, &path, own, interface, search);
        }
        let done = if self.entry.in_place {
            overwrite(&path, &self.entry.ours)
        } else {
            replace(&path, &fresh(&self.entry.ours))
        };
        if let Err(source) = done {
            give_up(journal, &self.entry);
            return Err(FileError::Io { path, source });
        }
        Ok(self)
    }

    /// Gives it back as it was. What somebody else wrote meanwhile is theirs and stays.
    pub fn give_back(self, journal: &Journal) -> Result<(), FileError> {
        undo(journal, &self.entry)
    }
}

/// Puts back what an entry says; only then it is forgotten.
pub(crate) fn undo(journal: &Journal, entry: &Entry) -> Result<(), FileError> {
    put_back(entry)?;
    journal.clear()?;
    Ok(())
}

/// Writing ours failed. It may be there all the same: the last step is the directory's way to the disk. Where it cannot be
/// put back, the journal keeps the way back.
fn give_up(journal: &Journal, entry: &Entry) {
    if let Err(error) = undo(journal, entry) {
        tracing::warn!(%error, "the resolver file was not put back at once");
    }
}

/// What [`put_back`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum PutBack {
    /// The old one is there again.
    Restored,
    /// Ours was not there: nothing was touched.
    NotOurs,
}

/// Undoes what an entry says, if it is still done.
pub(crate) fn put_back(entry: &Entry) -> Result<PutBack, FileError> {
    let path = &entry.path;
    let error = |source| FileError::Io { path: path.clone(), source };
    if let Some(dir) = path.parent() {
        let _ = fs::remove_file(dir.join(NEW));
    }
    let now = look_at(path).map_err(error)?;
    if !is_ours(entry, &now) && !planted::is("puts-back-over-others") {
        return Ok(PutBack::NotOurs);
    }
    let done = match &entry.before {
        Before::File { bytes, modified, .. } if entry.in_place => {
            overwrite(path, bytes).and_then(|()| set_modified(path, *modified))
        }
        before => replace(path, before),
    };
    done.map_err(error)?;
    Ok(PutBack::Restored)
}

fn is_ours(entry: &Entry, now: &Before) -> bool {
    let Before::File { bytes, .. } = now else { return false };
    if *bytes == entry.ours {
        return true;
    }
    // Somebody changed a line of it and left the server that is gone when we are: no resolver at all.
    let (named, own) = (ResolvConf::parse(bytes).nameservers, ResolvConf::parse(&entry.ours).nameservers);
    if !named.is_empty() && named.iter().all(|server| own.contains(server)) {
        return true;
    }
    // Killed between the two steps of writing over: the new beginning, the old rest.
    let Before::File { bytes: old, .. } = &entry.before else { return false };
    let mixed = |front: &[u8], back: &[u8]| {
        bytes.len() == front.len().max(back.len())
            && bytes.starts_with(front)
            && back.get(front.len()..).is_none_or(|rest| bytes.ends_with(rest))
    };
    entry.in_place && bytes != old && (mixed(&entry.ours, old) || mixed(old, &entry.ours))
}

fn fresh(bytes: &[u8]) -> Before {
    Before::File { bytes: bytes.to_vec(), mode: 0o644, uid: 0, gid: 0, modified: (0, 0) }
}

/// Makes the path what `what` says in one step.
fn replace(path: &Path, what: &Before) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("has no directory"))?;
    let new = dir.join(NEW);
    let _ = fs::remove_file(&new);
    let made = match what {
        Before::Missing => return fs::remove_file(path).and_then(|()| File::open(dir)?.sync_all()),
        Before::Link { target } => symlink(target, &new),
        Before::File { bytes, mode, uid, gid, modified } => (|| {
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            // The owner first: changing it takes set-user-ID bits away.
            std::os::unix::fs::fchown(&file, Some(*uid), Some(*gid))?;
            file.set_permissions(Permissions::from_mode(*mode))?;
            if let Some(time) = time(*modified).filter(|_| *modified != (0, 0)) {
                file.set_times(FileTimes::new().set_modified(time))?;
            }
            file.sync_all()
        })(),
    };
    let done = made.and_then(|()| fs::rename(&new, path)).and_then(|()| File::open(dir)?.sync_all());
    if done.is_err() {
        let _ = fs::remove_file(&new);
    }
    done
}

/// Writes over a file where it lies: first all new bytes, then its end, so that a reader never finds it empty.
fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()
}

fn set_modified(path: &Path, modified: (i64, u32)) -> io::Result<()> {
    let Some(time) = time(modified) else { return Ok(()) };
    OpenOptions::new().write(true).open(path)?.set_times(FileTimes::new().set_modified(time))
}

/// `None`: no clock shows it. A file without its time is better than none.
fn time((seconds, nanos): (i64, u32)) -> Option<SystemTime> {
    let (epoch, whole) = (SystemTime::UNIX_EPOCH, Duration::from_secs(seconds.unsigned_abs()));
    let base = if seconds < 0 { epoch.checked_sub(whole) } else { epoch.checked_add(whole) };
    base?.checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);

    struct Place {
        dir: tempfile::TempDir,
        journal: Journal,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("etc")).unwrap();
            let journal = Journal::open(&dir.path().join("journal")).unwrap();
            Self { dir, journal }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("etc/resolv.conf")
        }

        fn take(&self) -> HeldFile {
            // Only root can give a file to user 0; the tests of the whole run as root, these need not.
            HeldFile::take(&self.journal, &self.path(), OWN, "tidegate0", &[]).unwrap()
        }

        fn listing(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.dir.path().join("etc"))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_file_comes_back_with_its_bytes_mode_owner_and_time() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        fs::write(place.path(), b"nameserver 192.0.2.1\n\n#\xff end").unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(place.path(), Some(12), Some(34)).unwrap();
        set_modified(&place.path(), (1_234_567_890, 123_456_789)).unwrap();
        let before = look_at(&place.path()).unwrap();
        let held = place.take();
        assert_ne!(look_at(&place.path()).unwrap(), before);
        assert_eq!(held.look(), Look::Ours);
        assert_eq!(held.upstreams(OWN), ["192.0.2.1:53".parse().unwrap()]);
        held.give_back(&place.journal).unwrap();
        assert_eq!(look_at(&place.path()).unwrap(), before);
        assert_eq!(place.listing(), ["resolv.conf"]);
        assert_eq!(place.journal.read().unwrap(), None);
    }

    #[test]
    fn a_link_comes_back_as_a_link_and_its_target_is_never_touched() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let target = place.dir.path().join("target");
        fs::write(&target, "nameserver 192.0.2.7\n").unwrap();
        symlink("../target", place.path()).unwrap();
        let held = place.take();
        assert_eq!(held.upstreams(OWN), ["192.0.2.7:53".parse().unwrap()]);
        assert!(fs::symlink_metadata(place.path()).unwrap().is_file());
        held.give_back(&place.journal).unwrap();
        assert_eq!(fs::read_link(place.path()).unwrap(), Path::new("../target"));
        assert_eq!(fs::read(&target).unwrap(), b"nameserver 192.0.2.7\n");
    }

    #[test]
    fn a_file_is_not_touched_when_the_journal_cannot_be_written() {
        let place = Place::new();
        fs::write(place.path(), "nameserver 192.0.2.1\n").unwrap();
        let before = look_at(&place.path()).unwrap();
        fs::remove_dir_all(place.dir.path().join("journal")).unwrap();
        let refused = HeldFile::take(&place.journal, &place.path(), OWN, "tidegate0", &[]);
        assert!(matches!(refused, Err(FileError::Journal(_))), "{refused:?}");
        assert_eq!(look_at(&place.path()).unwrap(), before);
    }

    #[test]
    fn a_time_that_no_clock_shows_keeps_no_file_from_coming_back() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let modified = (i64::MAX, u32::MAX);
        for in_place in [false, true] {
            fs::write(place.path(), "ours").unwrap();
            let before = Before::File { bytes: b"old".to_vec(), mode: 0o644, uid: 0, gid: 0, modified };
            let (guardian, path) = (Process::own(), place.path());
            let entry = Entry { guardian, path, before, ours: b"ours".to_vec(), in_place };
            assert_eq!(put_back(&entry).unwrap(), PutBack::Restored);
            assert_eq!(fs::read(place.path()).unwrap(), b"old");
        }
    }

    #[test]
    fn where_nothing_was_nothing_is_afterwards() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let held = place.take();
        assert_eq!(held.upstreams(OWN), ["127.0.0.1:53".parse().unwrap()]);
        held.give_back(&place.journal).unwrap();
        assert!(place.listing().is_empty());
    }

    #[test]
    fn what_somebody_else_wrote_meanwhile_is_noticed_and_stays() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        fs::write(place.path(), "nameserver 192.0.2.1\n").unwrap();
        let held = place.take();
        fs::write(place.path(), "nameserver 192.0.2.2\n").unwrap();
        assert_eq!(held.look(), Look::Foreign);
        held.give_back(&place.journal).unwrap();
        assert_eq!(fs::read(place.path()).unwrap(), b"nameserver 192.0.2.2\n");
    }

    #[test]
    fn somebody_elses_file_is_the_old_one_from_then_on_unless_it_names_nobody_but_us() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        fs::write(place.path(), "nameserver 192.0.2.1\n").unwrap();
        let held = place.take();
        fs::write(place.path(), "nameserver 192.0.2.2\n").unwrap();
        let held = held.take_again(&place.journal, OWN, "tidegate0", &[]).unwrap();
        assert_eq!((held.look(), held.upstreams(OWN)), (Look::Ours, vec!["192.0.2.2:53".parse().unwrap()]));
        let mut edited = fs::read(place.path()).unwrap();
        edited.extend_from_slice(b"options ndots:3\n");
        fs::write(place.path(), edited).unwrap();
        let held = held.take_again(&place.journal, OWN, "tidegate0", &[]).unwrap();
        assert_eq!((held.look(), held.upstreams(OWN)), (Look::Ours, vec!["192.0.2.2:53".parse().unwrap()]));
        held.give_back(&place.journal).unwrap();
        assert_eq!(fs::read(place.path()).unwrap(), b"nameserver 192.0.2.2\n");
    }

    #[test]
    fn what_is_written_behind_a_link_meanwhile_is_asked_from_then_on() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let target = place.dir.path().join("target");
        fs::write(&target, "nameserver 192.0.2.7\n").unwrap();
        symlink("../target", place.path()).unwrap();
        let mut held = place.take();
        assert!(!held.follow(OWN));
        fs::write(&target, "search new.example\nnameserver 192.0.2.8\n").unwrap();
        assert!(held.follow(OWN));
        assert!(!held.follow(OWN), "said twice");
        assert_eq!((held.look(), held.upstreams(OWN)), (Look::Ours, vec!["192.0.2.8:53".parse().unwrap()]));
        // While it is written, and while there is no network, the last ones stay.
        for nobody in ["", "# Generated by a DHCP client\n", "nameserver 100.64.0.2\n"] {
            fs::write(&target, nobody).unwrap();
            assert!(!held.follow(OWN), "{nobody}");
        }
        fs::remove_file(&target).unwrap();
        assert!(!held.follow(OWN));
        assert_eq!(held.upstreams(OWN), ["192.0.2.8:53".parse().unwrap()]);
        held.give_back(&place.journal).unwrap();
        assert_eq!(fs::read_link(place.path()).unwrap(), Path::new("../target"));
    }

    #[test]
    fn the_way_back_is_forgotten_only_when_it_was_gone() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        fs::write(place.path(), "nameserver 192.0.2.1\n").unwrap();
        // As after a rename whose directory did not get to the disk: the file is ours, and writing it failed.
        let entry = place.take().entry;
        let aside = place.dir.path().join("aside");
        fs::rename(place.path(), &aside).unwrap();
        fs::create_dir(place.path()).unwrap();
        give_up(&place.journal, &entry);
        assert_eq!(place.journal.read().unwrap(), Some(entry.clone()));
        fs::remove_dir(place.path()).unwrap();
        fs::rename(&aside, place.path()).unwrap();
        give_up(&place.journal, &entry);
        assert_eq!(place.journal.read().unwrap(), None);
        assert_eq!(fs::read(place.path()).unwrap(), b"nameserver 192.0.2.1\n");
    }

    #[test]
    fn what_an_earlier_client_wrote_is_never_how_it_was_before() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        fs::write(place.path(), "nameserver 192.0.2.1\n").unwrap();
        drop(place.take());
        let ours = look_at(&place.path()).unwrap();
        let elsewhere = Journal::open(&place.dir.path().join("elsewhere")).unwrap();
        let refused = HeldFile::take(&elsewhere, &place.path(), OWN, "tidegate1", &[]);
        assert!(matches!(refused, Err(FileError::LeftOver(_))), "{refused:?}");
        assert!(is_nobodys(&place.path(), OWN));
        assert_eq!(look_at(&place.path()).unwrap(), ours);
        assert_eq!(elsewhere.read().unwrap(), None);
    }

    #[test]
    fn a_line_that_somebody_added_to_ours_does_not_leave_the_machine_without_a_server() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        fs::write(place.path(), "nameserver 192.0.2.1\n").unwrap();
        let held = place.take();
        let mut edited = fs::read(place.path()).unwrap();
        edited.extend_from_slice(b"options ndots:3\n");
        fs::write(place.path(), edited).unwrap();
        held.give_back(&place.journal).unwrap();
        assert_eq!(fs::read(place.path()).unwrap(), b"nameserver 192.0.2.1\n");
    }

    #[test]
    fn the_next_process_puts_back_what_a_killed_one_left_at_each_step() {
        if !is_root() {
            return;
        }
        let place = Place::new();
        let old = b"nameserver 192.0.2.1\n# a comment that makes the old file longer than what is written over it ....................................................................................................................................................................................................................................................................................................................................................................................................\n";
        fs::write(place.path(), old).unwrap();
        let before = look_at(&place.path()).unwrap();
        // Taken, and killed.
        let held = place.take();
        fs::write(place.dir.path().join("etc").join(NEW), "half written").unwrap();
        let entry = place.journal.read().unwrap().unwrap();
        drop(held);
        assert_eq!(put_back(&entry).unwrap(), PutBack::Restored);
        assert_eq!(look_at(&place.path()).unwrap(), before);
        assert_eq!(place.listing(), ["resolv.conf"]);
        // Killed between journal and file.
        assert_eq!(put_back(&entry).unwrap(), PutBack::NotOurs);
        // Written over in place, and killed between the two steps.
        let entry = Entry { in_place: true, ..entry };
        let mut mixed = entry.ours.clone();
        mixed.extend_from_slice(&old[entry.ours.len().min(old.len())..]);
        fs::write(place.path(), &mixed).unwrap();
        assert_eq!(put_back(&entry).unwrap(), PutBack::Restored);
        assert_eq!(fs::read(place.path()).unwrap(), old);
    }
}
