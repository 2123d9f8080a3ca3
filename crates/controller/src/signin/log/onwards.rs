//! The log in the order it was written: for an export, and for who waits for what comes.

use super::{AuthenticationLog, Entry};
use crate::segments::Place;
use std::{fs, io};
use tokio::sync::watch;
use wire::OrganizationId;

/// A part of the log.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    /// Each with the place behind it.
    pub(crate) entries: Vec<(Place, Entry)>,
    /// Behind everything that was looked at.
    pub(crate) place: Place,
    /// There was nothing more.
    pub(crate) is_all: bool,
}

impl AuthenticationLog {
    /// Tells of each entry.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrived.subscribe()
    }

    /// The entries of one organization behind a place, the oldest first. Reads files: for the blocking pool.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn onwards(
        &self,
        organization: OrganizationId,
        from: Place,
        limit: usize,
    ) -> io::Result<Piece> {
        let segments: Vec<u64> = self.state().segments.iter().copied().collect();
        let mut piece = Piece { place: from, ..Piece::default() };
        for segment in segments.into_iter().filter(|segment| *segment >= from.segment) {
            let text = match fs::read(self.path(segment)) {
                Ok(text) => text,
                // It made room meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let begin = if segment == from.segment { from.offset } else { 0 };
            let mut offset = usize::try_from(begin).unwrap_or(usize::MAX).min(text.len());
            // What stands behind the last line's end is being written, or torn.
            while let Some(length) = text[offset..].iter().position(|byte| *byte == b'\n') {
                let line = &text[offset..offset + length];
                offset += length + 1;
                piece.place = Place { segment, offset: offset as u64 };
                if let Ok(entry) = serde_json::from_slice::<Entry>(line)
                    && entry.organization == organization
                {
                    piece.entries.push((piece.place, entry));
                    if piece.entries.len() >= limit {
                        return Ok(piece);
                    }
                }
            }
        }
        piece.is_all = true;
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signin::log::tests::entry;

    #[test]
    fn entries_are_read_onwards_piece_by_piece_over_restarts_and_half_a_line_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let log = AuthenticationLog::open(directory.path()).unwrap();
        for at in 1..=3 {
            log.write(&entry(at, 1));
            log.write(&entry(at, 2));
        }
        drop(log);
        let log = AuthenticationLog::open(directory.path()).unwrap();
        log.write(&entry(4, 1));
        let of_one = OrganizationId::from_bytes([1; 16]);
        let (mut found, mut place) = (Vec::new(), Place::default());
        loop {
            let piece = log.onwards(of_one, place, 2).unwrap();
            found.extend(piece.entries.iter().map(|(_, entry)| entry.at.as_millis()));
            place = piece.place.to_string().parse().unwrap();
            if piece.is_all {
                break;
            }
        }
        assert_eq!(found, [1, 2, 3, 4]);
        let newest = log.path(*log.state().segments.back().unwrap());
        let mut text = fs::read(&newest).unwrap();
        text.extend_from_slice(b"{\"at\":5,");
        fs::write(&newest, text).unwrap();
        let piece = log.onwards(of_one, place, 2).unwrap();
        assert_eq!((piece.entries.len(), piece.place), (0, place));
    }
}
