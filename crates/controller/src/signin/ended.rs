//! Sessions that were signed out: their cookies are good until they expire, and are not taken any more.
//!
//! Kept in memory and in one file of lines, `id expires`, so that a restart does not revive them. Whoever ends all
//! sessions of a person uses the account's own time instead, which every controller hears of.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};
use trust::UnixMs;

/// Sessions remembered; the one that would have expired first makes room.
const MAX: usize = 64 * 1024;
/// The file is written anew when it has so many lines more than it needs.
const SLACK: usize = 4096;
const FILE: &str = "web-sessions-ended";

#[derive(Debug, Default)]
struct State {
    ended: BTreeMap<[u8; 16], UnixMs>,
    lines: usize,
}

/// The sessions that are over before their time.
#[derive(Debug)]
pub(super) struct Ended {
    path: PathBuf,
    state: Mutex<State>,
}

fn hex(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn line(text: &str) -> Option<([u8; 16], UnixMs)> {
    let (id, expires) = text.split_once(' ')?;
    if id.len() != 32 {
        return None;
    }
    let id = u128::from_str_radix(id, 16).ok()?.to_be_bytes();
    Some((id, UnixMs::from_millis(expires.parse().ok()?)))
}

impl Ended {
    /// Reads what is still of use. A line that was cut off by a crash is skipped: its session was being ended.
    pub(super) fn open(directory: &Path, now: UnixMs) -> io::Result<Self> {
        let path = directory.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let lines = text.lines().count();
        let ended = text.lines().filter_map(line).filter(|(_, expires)| *expires > now).collect();
        let this = Self { path, state: Mutex::new(State { ended, lines }) };
        this.compact(now)?;
        Ok(this)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the ended sessions")
    }

    pub(super) fn has(&self, id: &[u8; 16]) -> bool {
        self.state().ended.contains_key(id)
    }

    /// Ends a session: at once in memory, then on disk.
    ///
    /// # Errors
    /// It is over, and a restart would revive it.
    pub(super) fn end(&self, id: [u8; 16], expires: UnixMs, now: UnixMs) -> io::Result<()> {
        let mut state = self.state();
        if state.ended.len() >= MAX {
            state.ended.retain(|_, expires| *expires > now);
        }
        if state.ended.len() >= MAX
            && let Some(first) = state.ended.iter().min_by_key(|(_, expires)| **expires).map(|(id, _)| *id)
        {
            state.ended.remove(&first);
        }
        state.ended.insert(id, expires);
        state.lines += 1;
        let excess = state.lines > state.ended.len() + SLACK;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        writeln!(file, "{} {}", hex(&id), expires.as_millis())?;
        file.sync_data()?;
        drop(state);
        if excess { self.compact(now) } else { Ok(()) }
    }

    fn compact(&self, now: UnixMs) -> io::Result<()> {
        let mut state = self.state();
        state.ended.retain(|_, expires| *expires > now);
        let text: String = state
            .ended
            .iter()
            .map(|(id, expires)| format!("{} {}\n", hex(id), expires.as_millis()))
            .collect();
        let temporary = self.path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        state.lines = state.ended.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> UnixMs {
        UnixMs::from_millis(ms)
    }

    #[test]
    fn an_ended_session_stays_ended_over_a_restart_and_is_forgotten_when_it_would_have_expired() {
        let directory = tempfile::tempdir().unwrap();
        let ended = Ended::open(directory.path(), at(0)).unwrap();
        ended.end([1; 16], at(100), at(0)).unwrap();
        ended.end([0; 16], at(200), at(0)).unwrap();
        assert!(ended.has(&[1; 16]) && ended.has(&[0; 16]) && !ended.has(&[2; 16]));
        // A crash in the middle of a line.
        let path = directory.path().join(FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("0202");
        fs::write(&path, text).unwrap();
        let again = Ended::open(directory.path(), at(150)).unwrap();
        assert!(again.has(&[0; 16]) && !again.has(&[1; 16]));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
