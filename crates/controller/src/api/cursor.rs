//! Cursors: the place in a list at which its next page goes on. To callers they are opaque, and each place has one text.

use std::borrow::Cow;
use store::AuditPlace;
use trust::{decode_base64url, encode_base64url};

/// Longest cursor.
const MAX_CURSOR: usize = 1024;
/// The order of a list when nobody says: what such a list's cursor names is the id alone.
pub(crate) const BY_ID: &str = "id";

/// What a list is sorted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key<'r> {
    /// Without regard to case.
    Text(Cow<'r, str>),
    Number(u64),
}

impl Key<'_> {
    /// A name.
    pub(crate) fn name(text: &str) -> Key<'static> {
        Key::Text(Cow::Owned(text.to_lowercase()))
    }

    pub(crate) fn owned(self) -> Key<'static> {
        match self {
            Self::Text(text) => Key::Text(Cow::Owned(text.into_owned())),
            Self::Number(number) => Key::Number(number),
        }
    }
}

/// Which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// The last object of a page: what the list is sorted by, where that is not the id, and the id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) key: Option<Key<'static>>,
    pub(crate) id: String,
}

impl Cursor {
    /// What the next page is asked with.
    pub(crate) fn text(&self, sort: &str, direction: Direction) -> String {
        let sign = if direction == Direction::Down { "-" } else { "" };
        let key = match &self.key {
            None => String::new(),
            Some(Key::Text(text)) => format!("t{text}"),
            Some(Key::Number(number)) => format!("n{number}"),
        };
        encode_base64url(format!("{sign}{sort}\n{}\n{key}", self.id).as_bytes())
    }

    /// Reads the cursor of a list that is sorted so. `None`: it is none, or of a list that is sorted otherwise.
    pub(crate) fn parse(text: &str, sort: &str, direction: Direction) -> Option<Self> {
        if text.len() > MAX_CURSOR {
            return None;
        }
        let inside = String::from_utf8(decode_base64url(text).ok()?).ok()?;
        let mut parts = inside.splitn(3, '\n');
        let (_, id, key) = (parts.next()?, parts.next()?, parts.next()?);
        let key = match key.split_at_checked(1) {
            Some(("t", text)) => Some(Key::Text(Cow::Owned(text.to_owned()))),
            Some(("n", number)) => Some(Key::Number(number.parse().ok()?)),
            _ => None,
        };
        let cursor = Self { key, id: id.to_owned() };
        // What is written again and is another text was not written here: another sort, a number with a sign.
        let fits = (sort == BY_ID) == cursor.key.is_none();
        (fits && cursor.text(sort, direction) == text).then_some(cursor)
    }
}

/// What the next page of the audit log is asked with.
pub(crate) fn of_audit(place: AuditPlace) -> String {
    encode_base64url(format!("{}.{}.{}", place.at_ms, place.version, place.seq).as_bytes())
}

/// Reads it.
pub(crate) fn audit_place(text: &str) -> Option<AuditPlace> {
    if text.len() > MAX_CURSOR {
        return None;
    }
    let inside = String::from_utf8(decode_base64url(text).ok()?).ok()?;
    let mut parts = inside.split('.').map(str::parse::<u64>);
    let (at_ms, version, seq) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    let place = AuditPlace { at_ms, version, seq };
    (of_audit(place) == text).then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_of_the_list_it_came_from_and_has_one_text() {
        let text = |inside: &str| encode_base64url(inside.as_bytes());
        let read = |inside: &str, sort| Cursor::parse(&text(inside), sort, Direction::Up);
        assert!(read("name\nsite-a\ntx", "name").is_some() && read("id\nsite-a\n", BY_ID).is_some());
        for (inside, sort) in [
            ("name\nsite-a\ntx", "created"),
            ("-name\nsite-a\ntx", "name"),
            // Without what the list is sorted by, or with it where there is none.
            ("name\nsite-a\n", "name"),
            ("id\nsite-a\ntx", BY_ID),
            // Neither a text nor a number.
            ("name\nsite-a\né", "name"),
            ("name\nsite-a\nx1", "name"),
            // Numbers that are written otherwise.
            ("created\nsite-a\nn+7", "created"),
            ("created\nsite-a\nn07", "created"),
            ("created\nsite-a", "created"),
        ] {
            assert_eq!(read(inside, sort), None, "{inside:?}");
        }
        let long = Cursor { key: Some(Key::name(&"x".repeat(MAX_CURSOR))), id: "site-a".into() };
        assert_eq!(Cursor::parse(&long.text("name", Direction::Up), "name", Direction::Up), None);
    }

    #[test]
    fn a_place_in_the_audit_log_has_one_text() {
        let place = AuditPlace { at_ms: 1, version: 2, seq: u64::MAX };
        assert_eq!(audit_place(&of_audit(place)), Some(place));
        for inside in ["1.2", "1.2.3.4", "+1.2.3", "01.2.3", "1.2.18446744073709551616", "", "1.2.é"] {
            assert_eq!(audit_place(&encode_base64url(inside.as_bytes())), None, "{inside}");
        }
    }
}
