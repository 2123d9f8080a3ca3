//! What was done without waiting for the database: written down beside it first, recorded in it when it
//! can be written. Strikes, and what people do with break-glass commands.

use crate::api::Origin;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use store::{Happened, Linked, Store, StoreError, StruckGeneration, Version};
use trust::{RevokedSubject, UnixMs, encode_base64url};
use wire::OrganizationId;

const SPOOL: &str = "audit.spool";
/// Being recorded; a crash leaves it for the next try.
const RECORDING: &str = "audit.recording";
/// Beyond it nothing is written down any more, and a warning says so: some 200,000 strikes without a database.
const MAX_SPOOL: u64 = 64 * 1024 * 1024;

/// Something that was done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deed {
    /// Unique, so that it is recorded once.
    event: String,
    pub(crate) organization: Option<OrganizationId>,
    pub(crate) at: UnixMs,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) subject: String,
    pub(crate) detail: serde_json::Value,
    /// From which address, and by which request; empty when nobody outside asked.
    #[serde(default)]
    pub(crate) source: String,
    #[serde(default)]
    pub(crate) request: String,
    /// What is struck by it for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) struck: Option<(RevokedSubject, u64)>,
}

impl Deed {
    pub(crate) fn new(at: UnixMs, actor: &str, action: &str, subject: impl ToString) -> Self {
        Self {
            event: encode_base64url(&crate::clock::random::<16>()),
            organization: None,
            at,
            actor: actor.to_owned(),
            action: action.to_owned(),
            subject: subject.to_string(),
            detail: serde_json::json!({}),
            source: String::new(),
            request: String::new(),
            struck: None,
        }
    }

    /// As somebody asked for it.
    pub(crate) fn asked(mut self, origin: &Origin) -> Self {
        self.source = origin.source();
        self.request.clone_from(&origin.request);
        self
    }
}

/// Writes a deed down: it is on disk when this returns. Blocking. Works beside a running controller.
pub(crate) fn write_down(state: &Path, deed: &Deed) -> io::Result<()> {
    let mut line = serde_json::to_vec(deed).map_err(io::Error::from)?;
    line.push(b'\n');
    let path = state.join(SPOOL);
    // The recorder may take the file away between opening and locking it.
    for _ in 0..8 {
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
        file.lock()?;
        own_as(&file, state);
        if !std::fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|f| f.ino() == there.ino()))
        {
            continue;
        }
        let length = file.metadata()?.len();
        if length > MAX_SPOOL {
            return Err(io::Error::other("too much waits for the database already"));
        }
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            // A torn line would be read as nothing; take it away if possible.
            let _ = file.set_len(length);
        }
        return written;
    }
    Err(io::Error::other("the file is being replaced all the time"))
}

/// What root writes into a controller's directory, the controller's own user must be able to record.
fn own_as(file: &File, state: &Path) {
    let (Ok(own), Ok(directory)) = (file.metadata(), std::fs::metadata(state)) else { return };
    if own.uid() != directory.uid()
        && let Err(error) = std::os::unix::fs::fchown(file, Some(directory.uid()), Some(directory.gid()))
    {
        tracing::warn!(%error, "the audit spool is not the controller's own file");
    }
}

/// The recorder of one state directory.
#[derive(Debug)]
pub(crate) struct Ledger {
    state: PathBuf,
    recording: tokio::sync::Mutex<()>,
}

impl Ledger {
    pub(crate) fn new(state: &Path) -> Self {
        Self { state: state.to_owned(), recording: tokio::sync::Mutex::default() }
    }

    /// Whether anything waits.
    pub(crate) fn waits(&self) -> bool {
        let there = |name| std::fs::metadata(self.state.join(name)).is_ok_and(|file| file.len() > 0);
        there(SPOOL) || there(RECORDING)
    }

    /// Records what waits.
    ///
    /// # Errors
    /// Nothing is lost: it is tried again.
    pub(crate) async fn record(&self, store: &Store, version: Version) -> Result<Vec<Linked>, StoreError> {
        let _one = self.recording.lock().await;
        let io_error = |error: io::Error| StoreError::Unavailable(format!("the audit spool: {error}"));
        let mut links = Vec::new();
        // What was being recorded when the process ended, then what came since.
        for _ in 0..2 {
            let state = self.state.clone();
            let deeds = tokio::task::spawn_blocking(move || take(&state)).await;
            let deeds = deeds.map_err(|error| io_error(io::Error::other(error)))?.map_err(io_error)?;
            if deeds.is_empty() {
                return Ok(links);
            }
            let happened: Vec<Happened> = deeds.iter().map(|deed| happened(deed, version)).collect();
            let struck: Vec<StruckGeneration> = deeds
                .iter()
                .filter_map(|deed| deed.struck)
                .map(|(subject, generation)| StruckGeneration { subject: subject.to_string(), generation })
                .collect();
            links.extend(store.record(&happened, &struck).await?);
            std::fs::remove_file(self.state.join(RECORDING)).map_err(io_error)?;
        }
        Ok(links)
    }
}

/// What is struck by deeds that wait for the database. Blocking.
pub(crate) fn struck_waiting(state: &Path) -> Vec<(RevokedSubject, u64)> {
    let files = [RECORDING, SPOOL].into_iter().filter_map(|name| std::fs::read(state.join(name)).ok());
    files
        .flat_map(|text| {
            let lines = text.split(|byte| *byte == b'\n');
            lines.filter_map(|line| serde_json::from_slice::<Deed>(line).ok()?.struck).collect::<Vec<_>>()
        })
        .collect()
}

fn happened(deed: &Deed, version: Version) -> Happened {
    Happened {
        event: deed.event.clone(),
        organization: deed.organization,
        version,
        at_ms: deed.at.as_millis(),
        actor: deed.actor.clone(),
        action: deed.action.clone(),
        subject: deed.subject.clone(),
        detail: deed.detail.to_string(),
        source: deed.source.clone(),
        request: deed.request.clone(),
    }
}

/// What is to be recorded now: the file that a try before left, or the spool.
fn take(state: &Path) -> io::Result<Vec<Deed>> {
    let (spool, recording) = (state.join(SPOOL), state.join(RECORDING));
    if !recording.exists() {
        let file = match File::open(&spool) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.lock()?;
        std::fs::rename(&spool, &recording)?;
    }
    let mut text = Vec::new();
    File::open(&recording)?.read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let deeds: Vec<Deed> = lines
        .filter_map(|line| match serde_json::from_slice(line) {
            Ok(deed) => Some(deed),
            Err(error) => {
                tracing::warn!(%error, "a line of the audit spool is damaged");
                None
            }
        })
        .collect();
    if deeds.is_empty() {
        std::fs::remove_file(&recording)?;
    }
    Ok(deeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deeds_wait_on_disk_in_order_and_what_comes_while_they_are_recorded_waits_too() {
        let scratch = tempfile::tempdir().unwrap();
        let state = scratch.path();
        let deed = |subject: &str| Deed::new(UnixMs::from_millis(5), "local uid 0", "strike", subject);
        assert!(!Ledger::new(state).waits() && take(state).unwrap().is_empty());
        let subject = RevokedSubject::Device(wire::DeviceId::from_bytes([1; 16]));
        write_down(state, &Deed { struck: Some((subject, 3)), ..deed("a") }).unwrap();
        write_down(state, &deed("b")).unwrap();
        let subjects = |deeds: &[Deed]| deeds.iter().map(|deed| deed.subject.clone()).collect::<Vec<_>>();
        assert_eq!(subjects(&take(state).unwrap()), ["a", "b"]);
        write_down(state, &deed("c")).unwrap();
        assert_eq!(struck_waiting(state), [(subject, 3)], "known also before it is recorded");
        // Not recorded yet: the same again, as after a crash.
        assert_eq!(subjects(&take(state).unwrap()), ["a", "b"]);
        std::fs::remove_file(state.join(RECORDING)).unwrap();
        assert!(Ledger::new(state).waits());
        assert_eq!(subjects(&take(state).unwrap()), ["c"]);
    }
}
