//! Flow records on disk until a controller has them: segment files of at most one batch each.
//!
//! A segment's name is its batch number; shipping it twice stores it once, because the number says that it
//! is the same. When the spool is full new records are dropped and counted: traffic never waits for a log.

use crate::record::FlowRecord;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use trust::UnixMs;

/// Longest batch: the bound of `ShipFlows::ndjson`.
pub const SEGMENT_BYTES: usize = 40_960;
/// Most segments: 1,024 × 40 kB = 40 MB, some hundred thousand flows.
pub const MAX_SEGMENTS: usize = 1_024;

const SUFFIX: &str = "ndjson";

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is in a segment.
    Kept,
    /// The spool is full, the record too long, or the disk refused: counted.
    Dropped,
}

/// The records that wait.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    /// Segments that take no more records, by batch number.
    closed: BTreeMap<u64, PathBuf>,
    open: Option<OpenSegment>,
    last_batch: u64,
    dropped: u64,
    /// The last batch whose lines that are no records were counted.
    counted: Option<u64>,
}

#[derive(Debug)]
struct OpenSegment {
    batch: u64,
    path: PathBuf,
    file: File,
    bytes: usize,
}

impl Spool {
    /// Opens a directory and finds what an earlier process left.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let mut closed = BTreeMap::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let batch = path
                .file_stem()
                .and_then(|stem| stem.to_str()?.parse::<u64>().ok())
                .filter(|_| path.extension().is_some_and(|suffix| suffix == SUFFIX));
            if let Some(batch) = batch {
                closed.insert(batch, path);
            }
        }
        let last_batch = closed.keys().next_back().copied().unwrap_or(0);
        Ok(Self {
            directory: directory.to_owned(),
            closed,
            open: None,
            last_batch,
            dropped: 0,
            counted: None,
        })
    }

    /// Records dropped since this process began.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Segments that wait, the open one included.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.closed.len() + usize::from(self.open.is_some())
    }

    /// Adds a record.
    pub fn append(&mut self, record: &FlowRecord, wall: UnixMs) -> Appended {
        let appended = serde_json::to_vec(record)
            .map_err(io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                self.write(&line, wall)
            })
            .is_ok();
        if appended {
            Appended::Kept
        } else {
            self.dropped += 1;
            Appended::Dropped
        }
    }

    fn write(&mut self, line: &[u8], wall: UnixMs) -> io::Result<()> {
        if line.len() > SEGMENT_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record longer than a segment"));
        }
        if self.open.as_ref().is_some_and(|open| open.bytes + line.len() > SEGMENT_BYTES) {
            self.close();
        }
        if self.open.is_none() {
            self.begin(wall)?;
        }
        let open = self.open.as_mut().expect("just begun");
        let written = open.file.write_all(line);
        match written {
            Ok(()) => open.bytes += line.len(),
            // Half a line must not be joined by the next: cut it off, or end the segment there.
            Err(_) => {
                let length = u64::try_from(open.bytes).unwrap_or(u64::MAX);
                if open.file.set_len(length).is_err() {
                    self.close();
                }
            }
        }
        written
    }

    fn begin(&mut self, wall: UnixMs) -> io::Result<()> {
        if self.closed.len() >= MAX_SEGMENTS && !planted::is("spool-without-end") {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "the spool is full"));
        }
        // The clock makes numbers that no earlier process used, even when all its segments are gone.
        let next = self.last_batch.checked_add(1);
        let next =
            next.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a segment has the last number"))?;
        let batch = wall.as_millis().max(next);
        let path = self.directory.join(format!("{batch:020}.{SUFFIX}"));
        let file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        self.last_batch = batch;
        self.open = Some(OpenSegment { batch, path, file, bytes: 0 });
        Ok(())
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.closed.insert(open.batch, open.path);
        }
    }

    /// The oldest batch that waits; the open segment is closed for it when there is no other. The same
    /// batch comes again until [`Self::acknowledge`].
    pub fn next_batch(&mut self) -> Option<(u64, Vec<u8>)> {
        let mut after = 0;
        loop {
            // Also when all the others turned out to have nothing to ship now.
            let is_last = self.closed.range(after..).next().is_none();
            if is_last && self.open.as_ref().is_some_and(|open| open.bytes > 0) {
                self.close();
            }
            let (&batch, path) = self.closed.range(after..).next()?;
            match read(path) {
                Ok(bytes) => {
                    let (whole, lost) = whole_lines(&bytes);
                    // Once, however often it is shipped.
                    if self.counted.replace(batch) != Some(batch) {
                        self.dropped += lost;
                    }
                    if !whole.is_empty() {
                        return Some((batch, whole));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.dropped += 1,
                // No descriptor is free, or the disk has a bad moment: it waits, and the next one goes before it.
                Err(_) => {
                    after = batch.checked_add(1)?;
                    continue;
                }
            }
            // Nothing to ship, or taken away by somebody.
            self.acknowledge(batch);
        }
    }

    /// A controller has the batch on its disk.
    pub fn acknowledge(&mut self, batch: u64) {
        if let Some(path) = self.closed.remove(&batch) {
            let _ = fs::remove_file(path);
        }
    }
}

/// What a segment may have; somebody may have put a larger file here.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(SEGMENT_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The lines that are records, and how many are not: a crash may have torn the last one, and bytes rot. A controller refuses a batch
/// with one line that is none, and it would be asked again for ever.
fn whole_lines(bytes: &[u8]) -> (Vec<u8>, u64) {
    let (mut whole, mut lost) = (Vec::with_capacity(bytes.len()), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.ends_with(b"\n")
            && serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(line).is_ok()
        {
            whole.extend_from_slice(line);
        } else {
            lost += 1;
        }
    }
    (whole, lost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Verdict;
    use trust::Owner;
    use wire::{ConnectorId, DeviceId, OrganizationId, UserId};

    fn record(number: u64) -> FlowRecord {
        FlowRecord {
            id: number.to_string(),
            organization: OrganizationId::from_bytes([1; 16]),
            connector: ConnectorId::from_bytes([2; 16]),
            device: DeviceId::from_bytes([3; 16]),
            device_name: "laptop".into(),
            owner: Owner::User(UserId::from_bytes([4; 16])),
            owner_name: "ada".into(),
            resource: None,
            resource_name: None,
            protocol: "tcp".into(),
            destination: "10.0.0.1:80".parse().expect("address"),
            name: None,
            target: None,
            relay: None,
            verdict: Verdict::Denied,
            reason: "no_policy".into(),
            explanation: "no policy gives a group of this device access to the resource".into(),
            bytes_up: 0,
            bytes_down: 0,
            started: UnixMs::from_millis(1),
            ended: UnixMs::from_millis(1),
        }
    }

    fn ids(batch: &[u8]) -> Vec<u64> {
        batch
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice::<FlowRecord>(line).expect("a record").id.parse().expect("id"))
            .collect()
    }

    #[test]
    fn records_come_back_in_order_in_batches_that_fit() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut spool = Spool::open(directory.path()).expect("opens");
        let wall = UnixMs::from_millis(1_000);
        for number in 0..500 {
            assert_eq!(spool.append(&record(number), wall), Appended::Kept);
        }
        let mut seen = Vec::new();
        while let Some((batch, bytes)) = spool.next_batch() {
            assert!(bytes.len() <= SEGMENT_BYTES);
            assert_eq!(spool.next_batch().as_ref(), Some(&(batch, bytes.clone())), "until acknowledged");
            seen.extend(ids(&bytes));
            spool.acknowledge(batch);
        }
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(directory.path()).expect("readable").count(), 0);
    }

    #[test]
    fn what_was_not_acknowledged_survives_a_restart_under_its_number() {
        let directory = tempfile::tempdir().expect("a directory");
        let wall = UnixMs::from_millis(9_000);
        let first = {
            let mut spool = Spool::open(directory.path()).expect("opens");
            spool.append(&record(1), wall);
            spool.next_batch().expect("one batch")
        };
        // The clock was set back in between: the next number is larger all the same.
        let mut spool = Spool::open(directory.path()).expect("opens");
        spool.append(&record(2), UnixMs::from_millis(10));
        assert_eq!(spool.next_batch(), Some(first.clone()));
        spool.acknowledge(first.0);
        let (second, bytes) = spool.next_batch().expect("the other");
        assert!(second > first.0);
        assert_eq!(ids(&bytes), [2]);
    }

    #[test]
    fn a_torn_last_line_is_not_shipped() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut line = serde_json::to_vec(&record(1)).expect("encodes");
        line.push(b'\n');
        line.extend_from_slice(b"{\"id\":\"2\",\"orga");
        fs::write(directory.path().join("00000000000000000007.ndjson"), &line).expect("writes");
        let mut spool = Spool::open(directory.path()).expect("opens");
        let (batch, bytes) = spool.next_batch().expect("one batch");
        assert_eq!((batch, ids(&bytes)), (7, vec![1]));
    }

    #[test]
    fn segments_without_a_whole_line_keep_back_nothing_that_is_behind_them() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join("00000000000000000007.ndjson"), b"{\"id\":\"1").expect("written");
        let mut spool = Spool::open(directory.path()).expect("opens");
        assert_eq!(spool.append(&record(1), UnixMs::from_millis(9_000)), Appended::Kept);
        let (_, batch) = spool.next_batch().expect("the record, at the first question");
        assert_eq!(ids(&batch), [1]);
    }

    #[test]
    fn a_rotten_line_costs_itself_and_no_other() {
        let directory = tempfile::tempdir().expect("a directory");
        let line =
            |number| [serde_json::to_vec(&record(number)).expect("it serializes"), b"\n".to_vec()].concat();
        let rotten = [line(1), b"{\"id\":\"2\",\xFF\n".to_vec(), line(3)].concat();
        fs::write(directory.path().join("00000000000000000007.ndjson"), rotten).expect("written");
        let mut spool = Spool::open(directory.path()).expect("opens");
        let (batch, ndjson) = spool.next_batch().expect("what is left");
        assert_eq!((batch, ids(&ndjson)), (7, vec![1, 3]));
        assert_eq!(spool.next_batch(), Some((7, ndjson)), "until acknowledged");
        assert_eq!(spool.dropped(), 1);
    }

    #[test]
    fn a_segment_that_cannot_be_read_now_waits_and_the_next_one_goes_before_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |number: u64| directory.path().join(format!("{number:020}.ndjson"));
        // A directory opens and does not read.
        fs::create_dir(path(7)).expect("made");
        let line = [serde_json::to_vec(&record(8)).expect("it serializes"), b"\n".to_vec()].concat();
        fs::write(path(8), line).expect("written");
        let mut spool = Spool::open(directory.path()).expect("opens");
        let (batch, ndjson) = spool.next_batch().expect("the one that can be read");
        assert_eq!((batch, ids(&ndjson)), (8, vec![8]));
        spool.acknowledge(8);
        assert_eq!((spool.next_batch(), spool.segments(), spool.dropped()), (None, 1, 0));
    }

    #[test]
    fn numbers_that_are_used_up_drop_and_count() {
        let directory = tempfile::tempdir().expect("a directory");
        fs::write(directory.path().join(format!("{}.ndjson", u64::MAX)), b"{}\n").expect("written");
        let mut spool = Spool::open(directory.path()).expect("opens");
        assert_eq!(
            (spool.append(&record(1), UnixMs::from_millis(9_000)), spool.dropped()),
            (Appended::Dropped, 1)
        );
    }

    #[test]
    fn a_full_spool_drops_and_counts() {
        let directory = tempfile::tempdir().expect("a directory");
        for batch in 0..MAX_SEGMENTS {
            fs::write(directory.path().join(format!("{batch:020}.ndjson")), b"{}\n").expect("writes");
        }
        let mut spool = Spool::open(directory.path()).expect("opens");
        assert_eq!(spool.append(&record(1), UnixMs::from_millis(5_000)), Appended::Dropped);
        assert_eq!(spool.dropped(), 1);
        spool.acknowledge(0);
        assert_eq!(spool.append(&record(1), UnixMs::from_millis(5_000)), Appended::Kept);
    }
}
