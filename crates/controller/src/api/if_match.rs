//! The values of `If-Match` and `If-None-Match`: `*`, or tags in quotes (RFC 9110 sections 8.8.3 and 13.1).

/// What a change says that it has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// `*`: whatever there is.
    Any,
    /// One of these.
    Tags(Vec<String>),
}

/// Reads a header's value; `None` when it is no list of tags.
pub(crate) fn tags(text: &str) -> Option<IfMatch> {
    if text.trim() == "*" {
        return Some(IfMatch::Any);
    }
    let tags = text.split(',').map(|one| {
        let one = one.trim();
        let one = one.strip_prefix("W/").unwrap_or(one);
        one.strip_prefix('"')?.strip_suffix('"').filter(|tag| !tag.contains('"')).map(ToOwned::to_owned)
    });
    tags.collect::<Option<Vec<_>>>().filter(|tags| !tags.is_empty()).map(IfMatch::Tags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_tags_is_read_strictly() {
        assert_eq!(tags("\"a\", W/\"b\""), Some(IfMatch::Tags(vec!["a".into(), "b".into()])));
        for bad in ["", "a", "\"a", "\"a\" \"b\"", "\"a\","] {
            assert_eq!(tags(bad), None, "{bad}");
        }
    }
}
