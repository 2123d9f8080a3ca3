//! Who signed in, how, from where, and what came of it: bounded files of lines beside the database, so that sign-in
//! never waits for it and never fills it.

mod kept;
mod onwards;

pub(crate) use onwards::Piece as LogPiece;

use crate::{
    segments::{Page, Pages, Place, lines_back},
    signin::cookie::Method,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};
use tokio::sync::watch;
use trust::UnixMs;
use wire::{OrganizationId, UserId};

/// Where a file ends.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// Files kept: 32 MiB, some 100,000 entries.
const SEGMENTS: usize = 32;
/// Entries of one page.
pub(crate) const MAX_PAGE: usize = 1000;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Signed in, or proven again.
    SignedIn,
    /// The first of two factors.
    FirstFactor,
    /// Wrong passphrase, code, key or link.
    Wrong,
    /// Too many tries from there.
    Limited,
    /// Known, and not allowed: revoked, or no account.
    Refused,
    /// Signed out, by the person or by somebody who may.
    SignedOut,
    /// Another party did not answer, or not as it should.
    ProviderFailed,
}

impl Outcome {
    /// Every one of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::SignedIn,
        Self::FirstFactor,
        Self::Wrong,
        Self::Limited,
        Self::Refused,
        Self::SignedOut,
        Self::ProviderFailed,
    ];

    /// Its name in the API.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::SignedIn => "signed-in",
            Self::FirstFactor => "first-factor",
            Self::Wrong => "wrong",
            Self::Limited => "limited",
            Self::Refused => "refused",
            Self::SignedOut => "signed-out",
            Self::ProviderFailed => "provider-failed",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) at: UnixMs,
    pub(crate) organization: OrganizationId,
    /// Who, when it is known. What a stranger typed as a name is not kept: it may be a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<UserId>,
    pub(crate) method: String,
    pub(crate) outcome: Outcome,
    pub(crate) address: IpAddr,
    /// More, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

#[derive(Debug)]
struct State {
    /// Oldest first, by number.
    segments: VecDeque<u64>,
    current: Option<(File, u64)>,
}

/// The log of one controller.
#[derive(Debug)]
pub(crate) struct AuthenticationLog {
    directory: PathBuf,
    state: Mutex<State>,
    /// Counts entries, for who waits for the next.
    arrived: watch::Sender<u64>,
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl AuthenticationLog {
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut segments: Vec<u64> = fs::read_dir(directory)?
            .filter_map(Result::ok)
            .filter_map(|entry| entry.path().file_stem()?.to_str()?.parse().ok())
            .collect();
        segments.sort_unstable();
        let state = Mutex::new(State { segments: segments.into(), current: None });
        Ok(Self { directory: directory.to_owned(), state, arrived: watch::Sender::new(0) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the log")
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:012}.ndjson"))
    }

    /// Writes an entry. A disk that is full stops no sign-in: it is said in the process's log.
    pub(crate) fn write(&self, entry: &Entry) {
        if let Err(error) = self.append(entry) {
            tracing::error!(%error, "an entry of the authentication log was not written");
        }
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut state = self.state();
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if state.current.as_ref().is_none_or(|(_, written)| written + length > SEGMENT_BYTES) {
            // A file that this process did not begin may end in half a line.
            let number = state.segments.back().map_or(1, |last| last + 1);
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(number))?;
            state.segments.push_back(number);
            state.current = Some((file, 0));
            while state.segments.len() > SEGMENTS {
                if let Some(oldest) = state.segments.pop_front() {
                    remove(&self.path(oldest))?;
                }
            }
        }
        let Some((file, written)) = &mut state.current else { return Ok(()) };
        file.write_all(&line)?;
        *written += length;
        self.arrived.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The newest entries of one organization first: of those that stand before `after`, if that is given, and that
    /// `takes` takes. Reads files: for the blocking pool.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn read(
        &self,
        organization: OrganizationId,
        after: Option<Place>,
        limit: usize,
        takes: impl Fn(&Entry) -> bool,
    ) -> io::Result<Page<Entry>> {
        let segments: Vec<u64> = self.state().segments.iter().rev().copied().collect();
        let mut page = Pages::new(limit.min(MAX_PAGE));
        for segment in segments {
            let end = after.map_or(u64::MAX, |place| place.before_in(segment));
            if end == 0 {
                continue;
            }
            let text = match fs::read(self.path(segment)) {
                Ok(text) => text,
                // It made room meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for (offset, line) in lines_back(&text, end) {
                let Ok(entry) = serde_json::from_slice::<Entry>(line) else { continue };
                if entry.organization != organization || !takes(&entry) {
                    continue;
                }
                match page.take(entry, Place { segment, offset }) {
                    Ok(more) => page = more,
                    Err(full) => return Ok(full),
                }
            }
        }
        Ok(page.all())
    }
}

/// The name of the methods of one step.
pub(crate) fn named(methods: &[Method]) -> String {
    methods.iter().map(|method| method.name()).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn entry(at: u64, organization: u8) -> Entry {
        Entry {
            at: UnixMs::from_millis(at),
            organization: OrganizationId::from_bytes([organization; 16]),
            user: Some(UserId::from_bytes([9; 16])),
            method: named(&[Method::Passphrase, Method::Totp]),
            outcome: Outcome::SignedIn,
            address: IpAddr::from([203, 0, 113, 7]),
            detail: String::new(),
        }
    }

    #[test]
    fn entries_are_read_newest_first_by_organization_and_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthenticationLog::open(directory.path()).unwrap();
        for at in 1..=5 {
            log.write(&entry(at, 1));
            log.write(&entry(at, 2));
        }
        drop(log);
        let log = AuthenticationLog::open(directory.path()).unwrap();
        log.write(&entry(6, 1));
        let of_one = OrganizationId::from_bytes([1; 16]);
        let read = |after, limit| {
            let page = log.read(of_one, after, limit, |entry| entry.at.as_millis() != 2).unwrap();
            let at: Vec<u64> = page.items.iter().map(|entry| entry.at.as_millis()).collect();
            (at, page.next)
        };
        assert_eq!(read(None, 100), (vec![6, 5, 4, 3, 1], None));
        let (first, next) = read(None, 2);
        assert_eq!((first, read(next, 2).0), (vec![6, 5], vec![4, 3]));
    }

    #[test]
    fn entries_of_one_instant_are_all_found_page_by_page() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthenticationLog::open(directory.path()).unwrap();
        for number in 0..50 {
            log.write(&Entry { detail: number.to_string(), ..entry(7, 1) });
        }
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = log.read(OrganizationId::from_bytes([1; 16]), after, 7, |_| true).unwrap();
            found.extend(page.items.iter().map(|entry| entry.detail.parse::<u32>().unwrap()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, (0..50).rev().collect::<Vec<_>>());
    }

    #[test]
    fn the_log_is_bounded_and_the_oldest_file_makes_room() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthenticationLog::open(directory.path()).unwrap();
        let long = Entry { detail: "x".repeat(400 * 1024), ..entry(1, 1) };
        for at in 0..3 * SEGMENTS {
            log.write(&Entry { at: UnixMs::from_millis(u64::try_from(at).unwrap()), ..long.clone() });
        }
        let files = fs::read_dir(directory.path()).unwrap().count();
        assert_eq!(files, SEGMENTS);
        let newest = log.read(long.organization, None, 1, |_| true).unwrap().items;
        assert_eq!(newest[0].at.as_millis(), u64::try_from(3 * SEGMENTS - 1).unwrap());
    }
}
