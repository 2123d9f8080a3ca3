//! Flow records as connectors ship them: bounded segment files, never the database.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
};
use trust::UnixMs;
use wire::{ConnectorId, OrganizationId};

/// Where a segment ends.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;
/// Most segments: 64 × 4 MiB = 256 MiB; the oldest goes first.
const MAX_SEGMENTS: usize = 64;
/// Batches remembered of one connector: its own spool holds 1,024.
const MAX_BATCHES: usize = 2048;
/// Longest record.
const MAX_RECORD: usize = 8 * 1024;

/// A batch was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlowError {
    /// Not records.
    #[error("line {0} of the batch is not a JSON object of at most 8 kB")]
    Record(usize),
    /// The disk.
    #[error("flow records cannot be written: {0}")]
    Io(#[from] io::Error),
}

/// One record and where it came from: one line of a segment.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    organization: OrganizationId,
    connector: ConnectorId,
    batch: u64,
    /// Position from the end: the batch is whole when its 0 is there.
    left: usize,
    received: UnixMs,
    #[serde(borrow)]
    record: &'a RawValue,
}

#[derive(Debug)]
struct State {
    segments: BTreeMap<u64, PathBuf>,
    open: Option<(u64, File, u64)>,
    batches: BTreeMap<ConnectorId, BTreeSet<u64>>,
}

/// The flow log of this controller.
#[derive(Debug)]
pub(crate) struct FlowLog {
    directory: PathBuf,
    state: Mutex<State>,
}

/// What a reader wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowQuery {
    pub(crate) limit: usize,
    pub(crate) device: Option<String>,
    pub(crate) connector: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) verdict: Option<String>,
}

impl FlowQuery {
    fn takes(&self, record: &serde_json::Value) -> bool {
        let fits = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_none_or(|wanted| record.get(field).and_then(|v| v.as_str()) == Some(wanted))
        };
        fits(&self.device, "device")
            && fits(&self.connector, "connector")
            && fits(&self.resource, "resource")
            && fits(&self.verdict, "verdict")
    }
}

impl FlowLog {
    /// Opens the directory and remembers which batches are whole in it.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut segments = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            if let Some(number) = number {
                segments.insert(number, path);
            }
        }
        let mut batches: BTreeMap<ConnectorId, BTreeSet<u64>> = BTreeMap::new();
        for path in segments.values() {
            let text = fs::read(path)?;
            for line in text.split(|byte| *byte == b'\n') {
                if let Ok(Line { connector, batch, left: 0, .. }) = serde_json::from_slice::<Line<'_>>(line) {
                    remember(&mut batches, connector, batch);
                }
            }
        }
        let state = Mutex::new(State { segments, open: None, batches });
        Ok(Self { directory: directory.to_owned(), state })
    }

    /// Stores a batch once. Blocking: it syncs a file.
    pub(crate) fn take(
        &self,
        organization: OrganizationId,
        connector: ConnectorId,
        batch: u64,
        ndjson: &[u8],
        received: UnixMs,
    ) -> Result<(), FlowError> {
        let mut state = self.state.lock().expect("nothing panics while it holds the flow log");
        if state.batches.get(&connector).is_some_and(|held| held.contains(&batch)) {
            return Ok(());
        }
        let records: Vec<&[u8]> =
            ndjson.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
        let mut text = Vec::with_capacity(ndjson.len() + 160 * records.len());
        for (index, record) in records.iter().enumerate() {
            let record = object(record).ok_or(FlowError::Record(index + 1))?;
            let left = records.len() - 1 - index;
            let line = Line { organization, connector, batch, left, received, record };
            serde_json::to_writer(&mut text, &line).map_err(io::Error::from)?;
            text.push(b'\n');
        }
        self.append(&mut state, &text)?;
        remember(&mut state.batches, connector, batch);
        Ok(())
    }

    fn append(&self, state: &mut State, text: &[u8]) -> io::Result<()> {
        if state.open.as_ref().is_none_or(|(_, _, length)| *length >= SEGMENT_BYTES) {
            let number = state.segments.last_key_value().map_or(1, |(last, _)| last + 1);
            let path = self.directory.join(format!("{number:012}.ndjson"));
            let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&path)?;
            state.segments.insert(number, path);
            state.open = Some((number, file, 0));
            while state.segments.len() > MAX_SEGMENTS {
                if let Some((_, oldest)) = state.segments.pop_first() {
                    fs::remove_file(oldest)?;
                }
            }
        }
        let (_, file, length) = state.open.as_mut().expect("opened above");
        let written = file.write_all(text).and_then(|()| file.sync_data());
        if written.is_err() {
            // What is torn ends this segment: the next batch begins on a line of its own.
            state.open = None;
            return written;
        }
        *length += text.len() as u64;
        Ok(())
    }

    /// The newest records of an organization first. Blocking: it reads files.
    pub(crate) fn read(
        &self,
        organization: OrganizationId,
        query: &FlowQuery,
    ) -> io::Result<Vec<serde_json::Value>> {
        let paths: Vec<PathBuf> = {
            let state = self.state.lock().expect("nothing panics while it holds the flow log");
            state.segments.values().rev().cloned().collect()
        };
        let mut found = Vec::new();
        for path in paths {
            let text = match fs::read(&path) {
                Ok(text) => text,
                // Removed as the oldest between the listing and now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for line in text.rsplit(|byte| *byte == b'\n') {
                let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else { continue };
                if line.organization != organization {
                    continue;
                }
                let Ok(mut record) = serde_json::from_str::<serde_json::Value>(line.record.get()) else {
                    continue;
                };
                // Who shipped it is known from its certificate, whatever the record says.
                if let Some(fields) = record.as_object_mut() {
                    fields.insert("connector".into(), line.connector.to_string().into());
                    fields.insert("organization".into(), line.organization.to_string().into());
                    fields.insert("received".into(), line.received.as_millis().into());
                }
                if query.takes(&record) {
                    found.push(record);
                    if found.len() >= query.limit {
                        return Ok(found);
                    }
                }
            }
        }
        Ok(found)
    }
}

fn remember(batches: &mut BTreeMap<ConnectorId, BTreeSet<u64>>, connector: ConnectorId, batch: u64) {
    let held = batches.entry(connector).or_default();
    held.insert(batch);
    while held.len() > MAX_BATCHES {
        held.pop_first();
    }
}

fn object(line: &[u8]) -> Option<&RawValue> {
    if line.len() > MAX_RECORD || !line.trim_ascii().starts_with(b"{") {
        return None;
    }
    serde_json::from_slice(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([1; 16]);
    const CONNECTOR: ConnectorId = ConnectorId::from_bytes([2; 16]);

    fn read(log: &FlowLog) -> Vec<serde_json::Value> {
        log.read(ORGANIZATION, &FlowQuery { limit: 10, ..FlowQuery::default() }).unwrap()
    }

    fn take(log: &FlowLog, batch: u64, text: &str) -> Result<(), FlowError> {
        log.take(ORGANIZATION, CONNECTOR, batch, text.as_bytes(), UnixMs::from_millis(5))
    }

    #[test]
    fn a_batch_shipped_twice_is_stored_once_also_across_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 7, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n").unwrap();
        take(&log, 7, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n").unwrap();
        drop(log);
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 7, "{\"id\":\"a\"}\n").unwrap();
        take(&log, 8, "{\"id\":\"c\"}\n").unwrap();
        let ids: Vec<_> = read(&log).iter().map(|record| record["id"].clone()).collect();
        assert_eq!(ids, ["c", "b", "a"]);
    }

    #[test]
    fn a_record_cannot_claim_another_connector_and_nothing_crosses_organizations() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 1, "{\"connector\":\"con-forged\",\"verdict\":\"denied\"}").unwrap();
        assert_eq!(read(&log)[0]["connector"], CONNECTOR.to_string());
        let other = OrganizationId::from_bytes([9; 16]);
        assert!(log.read(other, &FlowQuery { limit: 10, ..FlowQuery::default() }).unwrap().is_empty());
        let query = FlowQuery { limit: 10, verdict: Some("allowed".into()), ..FlowQuery::default() };
        assert!(log.read(ORGANIZATION, &query).unwrap().is_empty());
    }

    #[test]
    fn a_line_that_is_no_object_refuses_the_batch_and_names_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        let error = take(&log, 1, "{}\n[1]\n").unwrap_err();
        assert!(matches!(error, FlowError::Record(2)), "{error}");
        assert!(read(&log).is_empty());
    }
}
