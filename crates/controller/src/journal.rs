//! The strike journal: one signed entry a line in a preallocated file outside the database, so that
//! neither a frozen database nor a full disk keeps a strike from being durable.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

/// Room kept free behind the last entry: about 250 strikes on a full disk.
const RESERVE: u64 = 256 * 1024;
/// How much is allocated at once.
const BLOCK: u64 = 1024 * 1024;

/// An append-only file of lines, padded with zeros.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    end: u64,
    allocated: u64,
}

impl Journal {
    /// Opens the journal and gives its whole lines. A torn last line (no line feed before the zeros) is
    /// cut off: it was never acknowledged.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Vec<String>)> {
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let allocated = bytes.len() as u64;
        let written = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        let whole = bytes[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&bytes[..whole])
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the strike journal is not text"))?;
        let lines = text.lines().map(str::to_owned).collect();
        let mut journal = Self { file, end: whole as u64, allocated };
        if whole < written {
            journal.file.write_all_at(&vec![0; written - whole], whole as u64)?;
        }
        journal.reserve()?;
        journal.file.sync_all()?;
        Ok((journal, lines))
    }

    /// Appends a line and syncs it.
    pub(crate) fn append(&mut self, line: &str) -> io::Result<()> {
        debug_assert!(!line.contains(['\n', '\0']), "tokens have neither");
        self.file.seek(SeekFrom::Start(self.end))?;
        self.file.write_all(format!("{line}\n").as_bytes())?;
        self.file.sync_data()?;
        self.end += line.len() as u64 + 1;
        // A failure here costs reserve, not durability: the entry is on disk.
        if let Err(error) = self.reserve() {
            tracing::warn!(%error, "the strike journal could not reserve more room");
        }
        Ok(())
    }

    fn reserve(&mut self) -> io::Result<()> {
        if self.allocated >= self.end + RESERVE {
            return Ok(());
        }
        // Zeros that are written, not a hole: a hole needs room on the disk later.
        let zeros = vec![0; usize::try_from(BLOCK).expect("a megabyte fits")];
        self.file.write_all_at(&zeros, self.end.max(self.allocated))?;
        self.allocated = self.end.max(self.allocated) + BLOCK;
        self.file.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_and_a_torn_one_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, lines) = Journal::open(&path).unwrap();
        assert!(lines.is_empty());
        journal.append("one").unwrap();
        journal.append("two").unwrap();
        drop(journal);
        // Torn: a write that did not reach its end before the power went.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(b"thr", 8).unwrap();
        let (mut journal, lines) = Journal::open(&path).unwrap();
        assert_eq!(lines, ["one", "two"]);
        journal.append("four").unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1, ["one", "two", "four"]);
        assert!(std::fs::metadata(&path).unwrap().len() >= RESERVE);
    }
}
