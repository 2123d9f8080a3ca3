//! How long entries are kept: what is too old goes from the files, and every other entry stays where it is.

use super::{AuthenticationLog, Entry};
use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
};

impl AuthenticationLog {
    /// Overwrites the entries that are `too_old`, and removes files that have no other; gives how many went. Places of the
    /// log stay valid. Reads files: for the blocking pool.
    ///
    /// # Errors
    /// A file cannot be read or written; what was done before stays done.
    pub(crate) fn expire(&self, too_old: impl Fn(&Entry) -> bool) -> io::Result<usize> {
        let segments: Vec<u64> = self.state().segments.iter().copied().collect();
        let newest = segments.last().copied();
        let mut gone = 0;
        for segment in segments {
            let path = self.path(segment);
            let text = match fs::read(&path) {
                Ok(text) => text,
                // It made room meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let (mut offset, mut is_empty, mut file) = (0, true, None);
            for line in text.split_inclusive(|byte| *byte == b'\n') {
                let begin = offset;
                offset += line.len();
                let Some(line) = line.strip_suffix(b"\n") else {
                    // It is being written, or torn.
                    is_empty = false;
                    continue;
                };
                let entry = serde_json::from_slice::<Entry>(line);
                if !entry.is_ok_and(|entry| too_old(&entry)) {
                    // Nor is what another version wrote ours to remove.
                    // What begins with a space is what an earlier run overwrote, perhaps by half.
                    is_empty &= line.first().is_none_or(|byte| *byte == b' ');
                    continue;
                }
                let opened = match file.take() {
                    Some(opened) => opened,
                    None => match OpenOptions::new().write(true).open(&path) {
                        Ok(opened) => opened,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                        Err(error) => return Err(error),
                    },
                };
                opened.write_all_at(&vec![b' '; line.len()], begin as u64)?;
                file = Some(opened);
                gone += 1;
            }
            // The newest stays, for its number: places never mean something else.
            if is_empty && Some(segment) != newest {
                // Who makes room at the same time finds it in one place or the other.
                self.state().segments.retain(|kept| *kept != segment);
                super::remove(&path)?;
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{segments::Place, signin::log::tests::entry};
    use wire::OrganizationId;

    fn of(log: &AuthenticationLog, organization: u8, after: Option<Place>) -> Vec<u64> {
        let page = log.read(OrganizationId::from_bytes([organization; 16]), after, 100, |_| true).unwrap();
        page.items.iter().map(|entry| entry.at.as_millis()).collect()
    }

    #[test]
    fn what_is_too_old_goes_and_the_rest_stays_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthenticationLog::open(directory.path()).unwrap();
        for at in 1..=4 {
            log.write(&entry(at, 1));
            log.write(&entry(at, 2));
        }
        let place = log.read(OrganizationId::from_bytes([1; 16]), None, 1, |_| true).unwrap().next;
        let one = OrganizationId::from_bytes([1; 16]);
        assert_eq!(log.expire(|entry| entry.organization == one && entry.at.as_millis() < 3).unwrap(), 2);
        assert_eq!((of(&log, 1, None), of(&log, 2, None)), (vec![4, 3], vec![4, 3, 2, 1]));
        assert_eq!(of(&log, 1, place), [3]);
        // What is written now comes behind it, and nothing is found a second time.
        log.write(&entry(5, 1));
        assert_eq!(log.expire(|entry| entry.organization == one && entry.at.as_millis() < 3).unwrap(), 0);
        assert_eq!(of(&log, 1, None), [5, 4, 3]);
        let text = fs::read_to_string(log.path(1)).unwrap();
        assert_eq!(text.matches("\"at\":1,").count(), 1, "the other organization's alone: {text}");
    }

    #[test]
    fn a_file_whose_entries_are_all_too_old_goes_and_its_number_never_comes_again() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthenticationLog::open(directory.path()).unwrap();
        let long = |at| Entry { detail: "x".repeat(600 * 1024), ..entry(at, 1) };
        for at in 1..=3 {
            log.write(&long(at));
        }
        fs::write(log.path(2), "of a version to come\n").unwrap();
        assert_eq!(log.expire(|_| true).unwrap(), 2);
        assert_eq!(fs::read_to_string(log.path(2)).unwrap(), "of a version to come\n");
        fs::write(log.path(2), "   \n").unwrap();
        assert_eq!(log.expire(|_| true).unwrap(), 0);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(log);
        let log = AuthenticationLog::open(directory.path()).unwrap();
        log.write(&entry(9, 1));
        assert_eq!(log.state().segments, [3, 4]);
        assert_eq!(of(&log, 1, None), [9]);
    }
}
