//! Places in logs that are numbered files of lines: where a reader goes on, forwards or backwards.
//!
//! Such a file only grows, so a place stays what it is while entries are appended, however many have the same time.

/// Behind so many bytes of a segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl Place {
    /// How much of a segment stands before this place.
    pub(crate) const fn before_in(self, segment: u64) -> u64 {
        if segment < self.segment {
            u64::MAX
        } else if segment == self.segment {
            self.offset
        } else {
            0
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.segment, self.offset)
    }
}

impl std::str::FromStr for Place {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let (segment, offset) = text.split_once('.').ok_or(())?;
        let place = Self { segment: segment.parse().map_err(drop)?, offset: offset.parse().map_err(drop)? };
        // A number with a sign or with zeros in front was not written here.
        if place.to_string() == text { Ok(place) } else { Err(()) }
    }
}

/// A page of a log, the newest first.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// Before it is what is older and fits; nothing when that was all.
    pub(crate) next: Option<Place>,
}

/// Gathers a page, and looks one entry further: a page that is full and the last one leads nowhere.
#[derive(Debug)]
pub(crate) struct Pages<T> {
    limit: usize,
    items: Vec<T>,
    last: Place,
}

impl<T> Pages<T> {
    pub(crate) const fn new(limit: usize) -> Self {
        Self { limit, items: Vec::new(), last: Place { segment: 0, offset: 0 } }
    }

    /// Takes an entry that begins at a place. When the page was full already, this is the page.
    pub(crate) fn take(mut self, item: T, at: Place) -> Result<Self, Page<T>> {
        if self.items.len() >= self.limit {
            return Err(Page { items: self.items, next: Some(self.last) });
        }
        self.items.push(item);
        self.last = at;
        Ok(self)
    }

    /// There is nothing older.
    pub(crate) fn all(self) -> Page<T> {
        Page { items: self.items, next: None }
    }
}

/// The whole lines of a segment that end within its first `end` bytes: the last one first, each with where it begins.
pub(crate) fn lines_back(text: &[u8], end: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let end = usize::try_from(end).unwrap_or(usize::MAX).min(text.len());
    // What stands behind the last line's end is being written, or torn.
    let mut end = behind_newline(&text[..end]);
    std::iter::from_fn(move || {
        let line_end = end.checked_sub(1)?;
        let begin = behind_newline(&text[..line_end]);
        end = begin;
        Some((begin as u64, &text[begin..line_end]))
    })
}

fn behind_newline(text: &[u8]) -> usize {
    text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back_whole_and_with_where_they_begin() {
        let text = b"one\ntwo\nthree\nhal";
        let read = |end| -> Vec<(u64, &[u8])> { lines_back(text, end).collect() };
        assert_eq!(read(u64::MAX), [(8, &text[8..13]), (4, &text[4..7]), (0, &text[..3])]);
        assert_eq!(read(8), [(4, &text[4..7]), (0, &text[..3])]);
        // In the middle of a line, and before everything.
        assert_eq!(read(6), [(0, &text[..3])]);
        assert!(read(0).is_empty() && lines_back(b"hal", 3).next().is_none());
    }

    #[test]
    fn a_page_that_is_full_and_the_last_one_leads_nowhere() {
        let at = |offset| Place { segment: 1, offset };
        let two = Pages::new(2).take("c", at(8)).unwrap().take("b", at(4)).unwrap();
        let page = two.take("a", at(0)).unwrap_err();
        assert_eq!((page.items, page.next), (vec!["c", "b"], Some(at(4))));
        let page = Pages::new(2).take("b", at(4)).unwrap().take("a", at(0)).unwrap().all();
        assert_eq!((page.items.len(), page.next), (2, None));
    }

    #[test]
    fn a_place_has_what_is_older_before_it() {
        let place = Place { segment: 3, offset: 40 };
        assert_eq!([2, 3, 4].map(|segment| place.before_in(segment)), [u64::MAX, 40, 0]);
        assert_eq!(place.to_string().parse(), Ok(place));
        assert!(
            ["", "1", "1.x", "1.2.3", "-1.0", "+1.0", "01.0"]
                .iter()
                .all(|text| text.parse::<Place>().is_err())
        );
    }
}
