//! The strike journal: lines in a preallocated file outside the database, so that neither a frozen
//! database nor a full disk keeps a strike from being durable.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Room kept free behind the last entry: about 250 strikes on a full disk.
const RESERVE: u64 = 256 * 1024;
/// What a disk writes as a whole, usually.
const PAGE: usize = 4096;
/// How much is allocated at once.
const BLOCK: u64 = 1024 * 1024;

/// What a journal held when it was opened.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Whole lines, in order.
    pub(crate) lines: Vec<String>,
    /// Lines that are no text any more: bit rot, or somebody else wrote into the file.
    pub(crate) damaged: usize,
    /// There was no file.
    pub(crate) absent: bool,
}

/// An append-only file of lines, padded with zeros.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    end: u64,
    allocated: u64,
}

impl Journal {
    /// Opens the journal and gives its whole lines. A torn end (no line feed, or a hole in the last line)
    /// is cut off: it was never acknowledged.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, Replay)> {
        let absent = !path.exists();
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let mut replay = Replay { absent, ..Replay::default() };
        let mut whole = 0;
        let mut rest = &bytes[..];
        while let Some(length) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, behind) = (&rest[..length], &rest[length + 1..]);
            let holed = line.contains(&0);
            if holed && !behind.contains(&b'\n') {
                break;
            }
            match std::str::from_utf8(line) {
                Ok(text) if !holed => replay.lines.push(text.to_owned()),
                _ => replay.damaged += 1,
            }
            whole += length + 1;
            rest = behind;
        }
        let mut journal =
            Self { path: path.to_owned(), file, end: whole as u64, allocated: bytes.len() as u64 };
        // Everything behind the last whole line: what is left of a torn one must not end a later one.
        if bytes[whole..].iter().any(|byte| *byte != 0) {
            journal.file.write_all_at(&vec![0; bytes.len() - whole], whole as u64)?;
        }
        journal.reserve()?;
        journal.file.sync_all()?;
        Ok((journal, replay))
    }

    /// Appends lines and syncs them: all or none, but for a power failure, after which the first of them may be there.
    pub(crate) fn append(&mut self, lines: &str) -> io::Result<()> {
        debug_assert!(
            !lines.is_empty() && !lines.contains('\0') && !lines.ends_with('\n'),
            "tokens have no zeros"
        );
        let text = format!("{lines}\n");
        let mut at = self.end;
        // A page at a time: of a write of several any may be missing after a power failure, and a hole with whole lines
        // behind it is damage, where a torn end is none. A line that reaches into the next page goes alone.
        let room = PAGE - usize::try_from(at % PAGE as u64).unwrap_or(0);
        let written = some_lines(&text, room).try_for_each(|some| {
            self.file.write_all_at(some.as_bytes(), at)?;
            at += some.len() as u64;
            self.file.sync_data()
        });
        if let Err(error) = written {
            // What was written in part is taken back; if that fails too, the next opening cuts it off.
            let _ = self.file.write_all_at(&vec![0; text.len()], self.end);
            return Err(error);
        }
        self.end += text.len() as u64;
        // A failure here costs reserve, not durability: the entry is on disk.
        if let Err(error) = self.reserve() {
            tracing::warn!(%error, "the strike journal could not reserve more room");
        }
        Ok(())
    }

    /// Bytes in use.
    pub(crate) const fn used(&self) -> u64 {
        self.end
    }

    /// Puts these lines in the place of all others, at once: a crash leaves the old file or the new one.
    pub(crate) fn replace(&mut self, lines: &[String]) -> io::Result<()> {
        let temporary = self.path.with_extension("new");
        let mut text = lines.join("\n");
        if !text.is_empty() {
            text.push('\n');
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        let end = text.len() as u64;
        let mut next = Self { path: self.path.clone(), file, end, allocated: end };
        next.reserve()?;
        next.file.sync_all()?;
        std::fs::rename(&temporary, &self.path)?;
        if let Some(directory) = self.path.parent() {
            File::open(directory)?.sync_all()?;
        }
        *self = next;
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

/// The text in pieces of whole lines: what has room in a page, of which the first has so much left, or one line that has not.
fn some_lines(text: &str, room: usize) -> impl Iterator<Item = &str> {
    let (mut rest, mut room) = (text, room);
    std::iter::from_fn(move || {
        let most = rest.len().min(room);
        let end = rest.as_bytes()[..most].iter().rposition(|byte| *byte == b'\n');
        let end = end.or_else(|| rest.find('\n'))?;
        let (some, others) = rest.split_at(end + 1);
        rest = others;
        room = match some.len() {
            fits if fits < room => room - fits,
            reaches => PAGE - (reaches - room) % PAGE,
        };
        Some(some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_at(path: &Path, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }

    #[test]
    fn entries_survive_and_a_torn_one_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, replay) = Journal::open(&path).unwrap();
        assert!(replay.lines.is_empty() && replay.absent);
        journal.append("one").unwrap();
        journal.append("two").unwrap();
        drop(journal);
        // Torn: a write that did not reach its end before the power went.
        write_at(&path, 8, b"thr");
        let (mut journal, replay) = Journal::open(&path).unwrap();
        assert_eq!((replay.lines, replay.damaged), (vec!["one".to_owned(), "two".into()], 0));
        journal.append("four").unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1.lines, ["one", "two", "four"]);
        assert!(std::fs::metadata(&path).unwrap().len() >= RESERVE);
    }

    #[test]
    fn what_is_left_of_a_torn_entry_never_becomes_a_part_of_a_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append("one").unwrap();
        drop(journal);
        // The second page of an entry reached the disk, the first did not.
        write_at(&path, 4 + 5000, b"the end of an entry\n");
        let (mut journal, replay) = Journal::open(&path).unwrap();
        assert_eq!((replay.lines.len(), replay.damaged), (1, 0));
        journal.append(&"x".repeat(5000)).unwrap();
        drop(journal);
        let replay = Journal::open(&path).unwrap().1;
        assert_eq!(replay.lines, ["one".to_owned(), "x".repeat(5000)]);
    }

    #[test]
    fn many_lines_are_written_a_page_at_a_time_and_all_of_them() {
        let lines: Vec<String> = (0..100).map(|number| format!("{number:0>700}")).collect();
        let text = format!("{}\n{}\n", lines.join("\n"), "x".repeat(3 * PAGE));
        for room in [PAGE, 3000, 700, 1] {
            let pieces: Vec<&str> = some_lines(&text, room).collect();
            assert_eq!(pieces.concat(), text);
            // Several lines lie in one page of the file.
            let mut at = PAGE - room;
            for some in &pieces {
                let is_in_one = at / PAGE == (at + some.len() - 1) / PAGE;
                assert!(is_in_one || some.matches('\n').count() == 1, "{room}: {} bytes at {at}", some.len());
                at += some.len();
            }
            assert!((20..60).contains(&pieces.len()), "{}", pieces.len());
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(&lines.join("\n")).unwrap();
        journal.append("one more").unwrap();
        drop(journal);
        let replay = Journal::open(&path).unwrap().1;
        assert_eq!((replay.lines.len(), replay.damaged), (101, 0));
        assert_eq!(replay.lines[..100], lines);
    }

    #[test]
    fn a_rotten_line_costs_itself_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for line in ["one", "two", "three"] {
            journal.append(line).unwrap();
        }
        drop(journal);
        write_at(&path, 4, b"\xff\0");
        let replay = Journal::open(&path).unwrap().1;
        assert_eq!((replay.lines, replay.damaged), (vec!["one".to_owned(), "three".into()], 1));
    }

    #[test]
    fn replacing_keeps_what_it_is_told_and_goes_on_behind_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for line in ["one", "two", "three"] {
            journal.append(line).unwrap();
        }
        journal.replace(&["two".to_owned()]).unwrap();
        journal.append("four").unwrap();
        drop(journal);
        assert_eq!(Journal::open(&path).unwrap().1.lines, ["two", "four"]);
    }
}
