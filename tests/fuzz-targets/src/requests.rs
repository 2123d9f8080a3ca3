//! What callers write around bodies: tokens, tags, cursors and forms.

use trust::encode_base64url;
use wire::TokenId;

/// Their own sources, which no crate exports.
#[path = "../../../crates/controller/src/api/bearer.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod bearer;
#[path = "../../../crates/controller/src/api/cursor.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod cursor;
#[path = "../../../crates/controller/src/api/if_match.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod if_match;
#[path = "../../../crates/controller/src/console/urlencoded.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the controller, which documents it")]
mod urlencoded;

use cursor::{BY_ID, Cursor, Direction, Key};
use if_match::IfMatch;

/// The header of a token: what is taken is the scheme, a space and the token as it is written, in one way only.
pub(crate) fn bearer_token(bytes: &[u8]) {
    let Ok(header) = std::str::from_utf8(bytes) else { return };
    let Ok(token) = bearer::credential(header) else { return };
    assert!(header[..7].eq_ignore_ascii_case("bearer ") && header.contains(token));
    if let Some((id, secret)) = bearer::parts(token) {
        assert_eq!(bearer::text(id, secret), token, "two texts of one token");
        assert_eq!(bearer::parts(&bearer::text(id, secret)), Some((id, secret)));
    }
}

/// `If-Match` and `If-None-Match`: the tags that are read are those that are written, and no more than there are commas.
pub(crate) fn entity_tags(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match if_match::tags(text) {
        None => {}
        Some(IfMatch::Any) => assert_eq!(text.trim(), "*", "everything matches what is no asterisk"),
        Some(IfMatch::Tags(tags)) => {
            assert_eq!(tags.len(), text.split(',').count());
            let quoted: Vec<String> = tags.iter().map(|tag| format!("\"{tag}\"")).collect();
            assert!(quoted.iter().all(|tag| text.contains(tag) && tag.matches('"').count() == 2));
            assert_eq!(if_match::tags(&quoted.join(", ")), Some(IfMatch::Tags(tags)));
        }
    }
}

/// Cursors as they come, and their inside behind a base64 that is right: a cursor is of one list, and has one text.
pub(crate) fn list_cursor(bytes: &[u8]) {
    let inside = encode_base64url(bytes);
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &inside] {
        let mut lists = 0;
        for sort in [BY_ID, "name", "created"] {
            for direction in [Direction::Up, Direction::Down] {
                let Some(cursor) = Cursor::parse(text, sort, direction) else { continue };
                lists += 1;
                assert!(text.len() <= 1024 && !cursor.id.contains('\n'));
                assert_eq!(cursor.key.is_none(), sort == BY_ID);
                assert_eq!(cursor.text(sort, direction), text);
            }
        }
        assert!(lists <= 1, "a cursor of {lists} lists");
    }
}

/// Places in the audit log and in the flow log.
pub(crate) fn log_cursor(bytes: &[u8]) {
    let inside = encode_base64url(bytes);
    for text in [std::str::from_utf8(bytes).unwrap_or_default(), &inside] {
        if let Some(place) = cursor::audit_place(text) {
            assert_eq!(cursor::of_audit(place), text, "two texts of one place");
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        crate::disk::flow_place(text);
    }
}

/// A form of the console, held against another decoder of the same standard.
pub(crate) fn form(bytes: &[u8]) {
    let read = urlencoded::pairs(bytes);
    // A browser sends CR LF for each new line of a text field: that is undone, and nothing else.
    let lines = |text: &str| text.replace("\r\n", "\n");
    let expected: Vec<(String, String)> =
        form_urlencoded::parse(bytes).map(|(name, value)| (lines(&name), lines(&value))).collect();
    assert_eq!(read, expected);
    // A byte that is no text becomes one character of three bytes.
    let length: usize = read.iter().map(|(name, value)| name.len() + value.len()).sum();
    assert!(length <= 3 * bytes.len());
}

/// Genuine texts.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let id = "site-00000000000000000000000000".to_owned();
    let by = |key, sort, direction| Cursor { key, id: id.clone() }.text(sort, direction).into_bytes();
    let token = bearer::text(TokenId::from_bytes([6; 16]), &encode_base64url(&[7; 32]));
    vec![
        ("bearer_token", "token", format!("Bearer {token}").into_bytes()),
        ("bearer_token", "lower-case", format!("bearer   {token} ").into_bytes()),
        ("bearer_token", "basic", b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==".to_vec()),
        ("bearer_token", "no-id", b"Bearer tgt1..x".to_vec()),
        ("entity_tags", "one", b"\"Zm9vYmFyYmF6Cg.AAAA\"".to_vec()),
        ("entity_tags", "two", b"\"Zm9v\", W/\"YmFy\"".to_vec()),
        ("entity_tags", "any", b" * ".to_vec()),
        ("entity_tags", "empty", b"\"\"".to_vec()),
        ("list_cursor", "by-id", by(None, BY_ID, Direction::Up)),
        ("list_cursor", "by-name", by(Some(Key::name("Straße")), "name", Direction::Down)),
        ("list_cursor", "by-time", by(Some(Key::Number(1_795_219_200_000)), "created", Direction::Up)),
        ("list_cursor", "inside-by-id", format!("-id\n{id}\n").into_bytes()),
        ("list_cursor", "inside-by-name", format!("name\n{id}\ntb\u{fc}ro").into_bytes()),
        ("list_cursor", "inside-by-time", format!("created\n{id}\nn1795219200000").into_bytes()),
        ("log_cursor", "audit", encode_base64url(b"1795219200000.91.7").into_bytes()),
        ("log_cursor", "inside", b"1795219200000.91.0".to_vec()),
        ("log_cursor", "flows", b"12.4096".to_vec()),
        ("form", "fields", b"form_token=AAAA&name=Gda%C5%84sk+plant&list=a%0D%0Ab%2C+c&x=1&x=2".to_vec()),
        ("form", "odd", b"=&a&&=b&c=%&d=%4&e=%zz&f=%+f&g=%ff%C3&h==%3D".to_vec()),
        ("form", "lines", b"a=%0D%0D%0A%0A&b=\r\n".to_vec()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_text_is_read() {
        let of = |target: &str, name: &str| {
            let found = genuine().into_iter().find(|(of, called, _)| (*of, *called) == (target, name));
            String::from_utf8(found.expect("a seed").2).expect("text")
        };
        for name in ["token", "lower-case"] {
            let header = of("bearer_token", name);
            let token = bearer::credential(&header).expect("a token");
            assert_eq!(bearer::parts(token).expect("a token of ours").0, TokenId::from_bytes([6; 16]));
        }
        for name in ["one", "two", "any", "empty"] {
            assert!(if_match::tags(&of("entity_tags", name)).is_some(), "{name}");
        }
        for (name, sort, direction) in [
            ("by-id", BY_ID, Direction::Up),
            ("by-name", "name", Direction::Down),
            ("by-time", "created", Direction::Up),
        ] {
            assert!(Cursor::parse(&of("list_cursor", name), sort, direction).is_some(), "{name}");
        }
        for (name, sort, direction) in [
            ("inside-by-id", BY_ID, Direction::Down),
            ("inside-by-name", "name", Direction::Up),
            ("inside-by-time", "created", Direction::Up),
        ] {
            let text = encode_base64url(of("list_cursor", name).as_bytes());
            assert!(Cursor::parse(&text, sort, direction).is_some(), "{name}");
        }
        assert!(cursor::audit_place(&of("log_cursor", "audit")).is_some());
        assert_eq!(urlencoded::pairs(of("form", "fields").as_bytes()).len(), 5);
    }
}
