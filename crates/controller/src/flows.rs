//! Flow records as connectors ship them: bounded segment files, never the database.

use crate::segments::{Page, Pages, Place, lines_back};
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
/// Most segments: 64 × 4 MiB = 256 MiB, or one of each organization where there are more of those.
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

#[derive(Debug, Default)]
struct State {
    segments: BTreeMap<OrganizationId, BTreeMap<u64, PathBuf>>,
    /// Segments that this process began, with their lengths: only they are known to end with a whole line.
    current: BTreeMap<OrganizationId, (u64, u64)>,
    batches: BTreeMap<ConnectorId, BTreeSet<u64>>,
}

/// The flow log of this controller: a directory for each organization, so that no query of one reads what
/// belongs to another, and no flood of one pushes out what another has.
#[derive(Debug)]
pub(crate) struct FlowLog {
    directory: PathBuf,
    state: Mutex<State>,
    /// Counts batches, for who waits for the next.
    arrived: tokio::sync::watch::Sender<u64>,
}

/// What a reader wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowQuery {
    pub(crate) limit: usize,
    pub(crate) device: Option<String>,
    pub(crate) connector: Option<String>,
    pub(crate) resource: Option<String>,
    pub(crate) verdict: Option<String>,
    /// In one of the texts of a record; in lower case.
    pub(crate) q: Option<String>,
    /// That ended from this time on.
    pub(crate) from: Option<UnixMs>,
    /// That ended before this time.
    pub(crate) before: Option<UnixMs>,
    /// Of a page: older than what stands behind this place.
    pub(crate) after: Option<Place>,
}

/// A part of an organization's log, in the order it was written.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) records: Vec<serde_json::Value>,
    /// Behind it.
    pub(crate) place: Place,
    /// There is nothing behind it yet.
    pub(crate) is_all: bool,
}

impl FlowQuery {
    fn takes(&self, record: &serde_json::Value) -> bool {
        let fits = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_none_or(|wanted| record.get(field).and_then(|v| v.as_str()) == Some(wanted))
        };
        let ended = record["ended"].as_u64().or(record["received"].as_u64()).map(UnixMs::from_millis);
        let is_in_time = ended.is_none_or(|at| {
            self.from.is_none_or(|from| at >= from) && self.before.is_none_or(|before| at < before)
        });
        is_in_time
            && fits(&self.device, "device")
            && fits(&self.connector, "connector")
            && fits(&self.resource, "resource")
            && fits(&self.verdict, "verdict")
            && self.q.as_deref().is_none_or(|q| {
                let texts = record.as_object().into_iter().flat_map(|members| members.values());
                texts.filter_map(|value| value.as_str()).any(|text| text.to_lowercase().contains(q))
            })
    }
}

fn make(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

fn numbered(directory: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut segments = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| path.is_file()) {
            segments.insert(number, path);
        }
    }
    Ok(segments)
}

/// Segments of versions that kept every organization in one file: each line goes to its own.
fn separate(directory: &Path) -> io::Result<()> {
    for (number, path) in numbered(directory)? {
        let text = fs::read(&path)?;
        let mut of: BTreeMap<OrganizationId, Vec<u8>> = BTreeMap::new();
        for line in text.split(|byte| *byte == b'\n') {
            if let Ok(parsed) = serde_json::from_slice::<Line<'_>>(line) {
                let lines = of.entry(parsed.organization).or_default();
                lines.extend_from_slice(line);
                lines.push(b'\n');
            }
        }
        for (organization, lines) in of {
            let own = directory.join(organization.to_string());
            make(&own)?;
            // The same number: a crash in the middle writes the same file again.
            let temporary = own.join(format!("{number:012}.new"));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&lines)?;
            file.sync_all()?;
            fs::rename(&temporary, own.join(segment_name(number)))?;
            File::open(&own)?.sync_all()?;
        }
        fs::remove_file(path)?;
    }
    Ok(())
}

fn segment_name(number: u64) -> String {
    format!("{number:012}.ndjson")
}

impl FlowLog {
    /// Opens the directory and remembers which batches are whole in it.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        make(directory)?;
        separate(directory)?;
        let mut state = State::default();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let organization = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let Some(organization) = organization.filter(|_| path.is_dir()) else { continue };
            let segments = numbered(&path)?;
            for path in segments.values() {
                let text = fs::read(path)?;
                for line in text.split(|byte| *byte == b'\n') {
                    if let Ok(Line { connector, batch, left: 0, .. }) =
                        serde_json::from_slice::<Line<'_>>(line)
                    {
                        remember(&mut state.batches, connector, batch);
                    }
                }
            }
            state.segments.insert(organization, segments);
        }
        let arrived = tokio::sync::watch::Sender::new(0);
        Ok(Self { directory: directory.to_owned(), state: Mutex::new(state), arrived })
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
        self.append(&mut state, organization, &text)?;
        remember(&mut state.batches, connector, batch);
        self.arrived.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Tells of each batch that comes.
    pub(crate) fn arrivals(&self) -> tokio::sync::watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// Removes what is older than `before`: whole segments only, and never the one that is being written.
    pub(crate) fn expire(&self, organization: OrganizationId, before: UnixMs) -> io::Result<usize> {
        let mut state = self.state.lock().expect("nothing panics while it holds the flow log");
        let writing = state.current.get(&organization).map(|(number, _)| *number);
        let Some(segments) = state.segments.get_mut(&organization) else { return Ok(0) };
        let mut removed = 0;
        while let Some(oldest) = segments.first_entry() {
            let modified = match fs::metadata(oldest.get()) {
                Ok(metadata) => metadata.modified()?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    oldest.remove();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let age = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            if Some(*oldest.key()) == writing || age.as_millis() >= u128::from(before.as_millis()) {
                break;
            }
            fs::remove_file(oldest.get())?;
            oldest.remove();
            removed += 1;
        }
        Ok(removed)
    }

    fn append(&self, state: &mut State, organization: OrganizationId, text: &[u8]) -> io::Result<()> {
        let own = self.directory.join(organization.to_string());
        let (number, length) = match state.current.get(&organization) {
            Some((number, length)) if *length < SEGMENT_BYTES => (*number, *length),
            _ => {
                make(&own)?;
                let held = state.segments.entry(organization).or_default();
                let number = held.last_key_value().map_or(1, |(last, _)| last + 1);
                held.insert(number, own.join(segment_name(number)));
                (number, 0)
            }
        };
        let path = own.join(segment_name(number));
        let written = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_data()));
        if let Err(error) = written {
            // What is torn ends this segment: the next batch begins on a line of its own.
            state.current.remove(&organization);
            return Err(error);
        }
        state.current.insert(organization, (number, length + text.len() as u64));
        if length == 0 {
            make_room(state)?;
        }
        Ok(())
    }

    /// The newest records of an organization first. Blocking: it reads files.
    pub(crate) fn read(
        &self,
        organization: OrganizationId,
        query: &FlowQuery,
    ) -> io::Result<Page<serde_json::Value>> {
        let segments: Vec<(u64, PathBuf)> = {
            let state = self.state.lock().expect("nothing panics while it holds the flow log");
            let own = state.segments.get(&organization);
            let all = own.into_iter().flat_map(|segments| segments.iter().rev());
            all.map(|(number, path)| (*number, path.clone())).collect()
        };
        let mut page = Pages::new(query.limit);
        for (segment, path) in segments {
            let end = query.after.map_or(u64::MAX, |place| place.before_in(segment));
            if end == 0 {
                continue;
            }
            let text = match fs::read(&path) {
                Ok(text) => text,
                // Removed as the oldest between the listing and now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for (offset, line) in lines_back(&text, end) {
                let Some(record) = record_of(line, organization) else { continue };
                if !query.takes(&record) {
                    continue;
                }
                match page.take(record, Place { segment, offset }) {
                    Ok(more) => page = more,
                    Err(full) => return Ok(full),
                }
            }
        }
        Ok(page.all())
    }
}

impl FlowLog {
    /// Goes on from a place. Blocking: it reads a file.
    pub(crate) fn read_on(
        &self,
        organization: OrganizationId,
        from: Place,
        query: &FlowQuery,
    ) -> io::Result<Piece> {
        let (path, number, is_last) = {
            let state = self.state.lock().expect("nothing panics while it holds the flow log");
            let own = state.segments.get(&organization);
            let next = own.and_then(|segments| segments.range(from.segment..).next());
            let Some((number, path)) = next else {
                return Ok(Piece { records: Vec::new(), place: from, is_all: true });
            };
            let is_last = own.and_then(|all| all.last_key_value()).is_some_and(|(last, _)| last == number);
            (path.clone(), *number, is_last)
        };
        let mut place = if number == from.segment { from } else { Place { segment: number, offset: 0 } };
        let text = match fs::read(&path) {
            Ok(text) => text,
            // Removed as the oldest between the listing and now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let mut records = Vec::new();
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX).min(text.len());
        for line in text[start..].split_inclusive(|byte| *byte == b'\n') {
            if !line.ends_with(b"\n") {
                // Being written, or torn: in either case nothing to give out yet.
                break;
            }
            place.offset += line.len() as u64;
            if let Some(mut record) = record_of(line, organization)
                && query.takes(&record)
            {
                if let Some(members) = record.as_object_mut() {
                    members.insert("place".into(), place.to_string().into());
                }
                records.push(record);
                if records.len() >= query.limit {
                    return Ok(Piece { records, place, is_all: false });
                }
            }
        }
        if !is_last {
            place = Place { segment: number + 1, offset: 0 };
        }
        Ok(Piece { records, place, is_all: is_last })
    }
}

/// The record of a line, when it is one of the organization's.
fn record_of(line: &[u8], organization: OrganizationId) -> Option<serde_json::Value> {
    let line = serde_json::from_slice::<Line<'_>>(line).ok()?;
    if line.organization != organization {
        // Somebody copied files around.
        return None;
    }
    let mut record = serde_json::from_str::<serde_json::Value>(line.record.get()).ok()?;
    // Who shipped it is known from its certificate, whatever the record says.
    if let Some(fields) = record.as_object_mut() {
        fields.insert("connector".into(), line.connector.to_string().into());
        fields.insert("organization".into(), line.organization.to_string().into());
        fields.insert("received".into(), line.received.as_millis().into());
    }
    Some(record)
}

/// The oldest segment goes, of whoever has most.
fn make_room(state: &mut State) -> io::Result<()> {
    loop {
        let all: usize = state.segments.values().map(BTreeMap::len).sum();
        let most = state.segments.values_mut().max_by_key(|segments| segments.len());
        let Some(most) = most.filter(|most| all > MAX_SEGMENTS && most.len() > 1) else { return Ok(()) };
        if let Some((_, oldest)) = most.pop_first() {
            fs::remove_file(oldest)?;
        }
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
        log.read(ORGANIZATION, &FlowQuery { limit: 10, ..FlowQuery::default() }).unwrap().items
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
        assert!(log.read(other, &FlowQuery { limit: 10, ..FlowQuery::default() }).unwrap().items.is_empty());
        let query = FlowQuery { limit: 10, verdict: Some("allowed".into()), ..FlowQuery::default() };
        assert!(log.read(ORGANIZATION, &query).unwrap().items.is_empty());
    }

    #[test]
    fn a_line_that_is_no_object_refuses_the_batch_and_names_the_line() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        let error = take(&log, 1, "{}\n[1]\n").unwrap_err();
        assert!(matches!(error, FlowError::Record(2)), "{error}");
        assert!(read(&log).is_empty());
    }

    #[test]
    fn an_export_goes_on_where_it_ended_and_waits_for_what_comes() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        let query = FlowQuery { limit: 2, ..FlowQuery::default() };
        assert!(log.read_on(ORGANIZATION, Place::default(), &query).unwrap().is_all);
        take(&log, 1, "{\"id\":\"a\"}\n{\"id\":\"b\"}\n{\"id\":\"c\"}\n").unwrap();
        let first = log.read_on(ORGANIZATION, Place::default(), &query).unwrap();
        let ids = |piece: &Piece| piece.records.iter().map(|record| record["id"].clone()).collect::<Vec<_>>();
        assert_eq!((ids(&first), first.is_all), (vec!["a".into(), "b".into()], false));
        assert_eq!(first.records[1]["place"], first.place.to_string());
        let place: Place = first.place.to_string().parse().unwrap();
        let second = log.read_on(ORGANIZATION, place, &query).unwrap();
        assert_eq!((ids(&second), second.is_all), (vec!["c".into()], true));
        // A restart begins another segment.
        drop(log);
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 2, "{\"id\":\"d\"}").unwrap();
        let third = log.read_on(ORGANIZATION, second.place, &query).unwrap();
        let third = if ids(&third).is_empty() {
            log.read_on(ORGANIZATION, third.place, &query).unwrap()
        } else {
            third
        };
        assert_eq!((ids(&third), third.is_all), (vec!["d".into()], true));
    }

    #[test]
    fn records_of_one_instant_are_all_found_page_by_page_also_across_a_restart_and_new_ones() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        let batch = |from: u32| -> String {
            (from..from + 60).map(|id| format!("{{\"id\":\"{id}\",\"ended\":7}}\n")).collect()
        };
        take(&log, 1, &batch(0)).unwrap();
        drop(log);
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 2, &batch(60)).unwrap();
        let mut query = FlowQuery { limit: 25, ..FlowQuery::default() };
        let mut found = Vec::new();
        loop {
            let page = log.read(ORGANIZATION, &query).unwrap();
            found.extend(
                page.items.iter().map(|record| record["id"].as_str().unwrap().parse::<u32>().unwrap()),
            );
            // What comes meanwhile moves nothing.
            take(&log, 100 + found.len() as u64, "{\"id\":\"1000\",\"ended\":7}").unwrap();
            query.after = page.next;
            if query.after.is_none() {
                break;
            }
        }
        assert_eq!(found, (0..120).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_time_range_takes_what_ended_in_it_and_a_record_without_an_end_by_when_it_came() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 1, "{\"id\":\"a\",\"ended\":100}\n{\"id\":\"b\",\"ended\":200}\n{\"id\":\"c\"}").unwrap();
        let of = |from, before| -> Vec<String> {
            let query = FlowQuery {
                limit: 10,
                from: Some(UnixMs::from_millis(from)),
                before: Some(UnixMs::from_millis(before)),
                ..FlowQuery::default()
            };
            let found = log.read(ORGANIZATION, &query).unwrap().items;
            found.iter().map(|record| record["id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(of(100, 200), ["a"]);
        assert_eq!(of(101, 201), ["b"]);
        // It came at 5.
        assert_eq!(of(5, 6), ["c"]);
    }

    #[test]
    fn old_segments_go_and_the_one_that_is_written_stays() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 1, "{\"id\":\"a\"}").unwrap();
        drop(log);
        let log = FlowLog::open(directory.path()).unwrap();
        take(&log, 2, "{\"id\":\"b\"}").unwrap();
        let future = UnixMs::from_millis(u64::MAX / 2);
        assert_eq!(log.expire(ORGANIZATION, UnixMs::from_millis(1)).unwrap(), 0);
        assert_eq!(log.expire(ORGANIZATION, future).unwrap(), 1);
        let ids: Vec<_> = read(&log).iter().map(|record| record["id"].clone()).collect();
        assert_eq!(ids, ["b"]);
    }

    fn files(directory: &Path) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for own in fs::read_dir(directory).unwrap() {
            let own = own.unwrap().path();
            let name = own.file_name().unwrap().to_str().unwrap().to_owned();
            for file in fs::read_dir(own).unwrap() {
                found.push((name.clone(), fs::read_to_string(file.unwrap().path()).unwrap()));
            }
        }
        found
    }

    #[test]
    fn no_file_holds_records_of_two_organizations_and_none_floods_another_out() {
        let directory = tempfile::tempdir().unwrap();
        let log = FlowLog::open(directory.path()).unwrap();
        let other = OrganizationId::from_bytes([9; 16]);
        take(&log, 1, "{\"id\":\"mine\"}").unwrap();
        let large = format!("{{\"id\":\"theirs\",\"pad\":\"{}\"}}", "x".repeat(7000));
        let batch = vec![large; 600].join("\n");
        for number in 0..80 {
            log.take(other, ConnectorId::from_bytes([3; 16]), number, batch.as_bytes(), UnixMs::default())
                .unwrap();
        }
        let files = files(directory.path());
        assert!(files.len() <= MAX_SEGMENTS, "{}", files.len());
        for (organization, text) in &files {
            assert!(text.lines().all(|line| line.contains(organization)), "{organization}");
        }
        assert_eq!(read(&log)[0]["id"], "mine");
    }

    #[test]
    fn segments_of_the_time_when_all_shared_one_file_are_separated() {
        let directory = tempfile::tempdir().unwrap();
        let line = |organization: u8, batch: u64, record: &str| {
            let organization = OrganizationId::from_bytes([organization; 16]);
            format!(
                "{{\"organization\":\"{organization}\",\"connector\":\"{CONNECTOR}\",\"batch\":{batch},\"left\":0,\"received\":5,\"record\":{record}}}\n"
            )
        };
        let text = [line(1, 1, "{\"id\":\"a\"}"), line(9, 2, "{\"id\":\"b\"}"), line(1, 3, "{\"id\":\"c\"}")]
            .concat();
        fs::write(directory.path().join(segment_name(7)), text).unwrap();
        for _ in 0..2 {
            let log = FlowLog::open(directory.path()).unwrap();
            let ids: Vec<_> = read(&log).iter().map(|record| record["id"].clone()).collect();
            assert_eq!(ids, ["c", "a"]);
            // What was stored is still known.
            take(&log, 3, "{\"id\":\"again\"}").unwrap();
        }
        for (organization, text) in files(directory.path()) {
            assert!(text.lines().all(|line| line.contains(&organization)), "{organization}: {text}");
        }
    }
}
