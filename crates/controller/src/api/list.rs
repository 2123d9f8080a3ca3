//! Lists: filters, sorting, and pages by an opaque cursor.
//!
//! A cursor names the last object of a page by what the list is sorted by and its id, so that objects that are made or
//! removed meanwhile neither repeat nor hide others.

use super::{
    Problem, Views, check,
    cursor::{BY_ID, Cursor, Direction, Key},
    tag::Tagged,
    types::Page,
};
use axum::extract::{FromRequestParts, Query};
use http::{StatusCode, Uri, request::Parts};
use serde::Serialize;
use std::{cmp::Ordering, collections::BTreeMap, marker::PhantomData};
use utoipa::{
    IntoParams,
    openapi::{
        RefOr, Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Schema, SchemaType, Type},
    },
};

/// How many objects a page has when nobody says.
const PAGE: u64 = 200;
/// Most objects of a page.
const MAX_PAGE: u64 = 1000;
/// Longest text of a filter in bytes: the longest name has 64 characters of four.
const MAX_TEXT: usize = 256;

/// A parameter by which a list is narrowed.
pub(crate) struct Filter {
    pub(crate) name: &'static str,
    pub(crate) says: &'static str,
    /// The words that may be given, where these are few.
    pub(crate) words: &'static [&'static str],
}

impl Filter {
    pub(crate) const fn text(name: &'static str, says: &'static str) -> Self {
        Self { name, says, words: &[] }
    }

    pub(crate) const fn word(name: &'static str, says: &'static str, words: &'static [&'static str]) -> Self {
        Self { name, says, words }
    }
}

/// A kind of list.
pub(crate) trait Listed: Sized + Send {
    /// What is listed.
    type Row;
    /// By what it can be sorted, besides `id`, which is the order when nobody says.
    const SORTS: &'static [&'static str];
    /// By what it can be narrowed, besides `q`.
    const FILTERS: &'static [Filter];

    /// Unique, and ascending in the rows as they come.
    fn id(row: &Self::Row) -> String;
    /// What it is sorted by.
    fn key<'r>(row: &'r Self::Row, views: &'r Views<'_>, sort: &str) -> Key<'r>;
    /// Whether a filter takes it.
    fn takes(row: &Self::Row, views: &Views<'_>, filter: &str, wanted: &str) -> bool;
    /// What `q` looks into.
    fn words<'r>(row: &'r Self::Row, views: &'r Views<'_>) -> Vec<&'r str>;
    /// Whether `q` is the id by which callers know it.
    fn is(row: &Self::Row, id: &str) -> bool {
        Self::id(row) == id
    }
}

/// What somebody wants of a list.
#[derive(Debug)]
pub(crate) struct Wanted<K> {
    limit: usize,
    sort: &'static str,
    direction: Direction,
    after: Option<Cursor>,
    filters: BTreeMap<&'static str, String>,
    /// In lower case.
    q: Option<String>,
    kind: PhantomData<fn() -> K>,
}

fn bad(name: &str, rule: impl Into<String>, value: &str) -> Problem {
    let shown: String = value.chars().take(120).collect();
    let (rule, name) = (rule.into(), name.chars().take(80).collect::<String>());
    let detail = format!("{name}: {rule}");
    let mut problem =
        Problem::new(StatusCode::BAD_REQUEST, "invalid-query", "The query string is not valid", detail);
    problem.field = Some(name);
    problem.rule = Some(rule);
    problem.value = Some(shown.into());
    problem
}

fn names<K: Listed>() -> String {
    let own = ["limit", "after", "sort", "q"].into_iter();
    let all: Vec<&str> = own.chain(K::FILTERS.iter().map(|filter| filter.name)).collect();
    format!("one of: {}", all.join(", "))
}

fn sorts<K: Listed>() -> Vec<String> {
    let all = std::iter::once(BY_ID).chain(K::SORTS.iter().copied());
    all.flat_map(|sort| [sort.to_owned(), format!("-{sort}")]).collect()
}

impl<K: Listed> Wanted<K> {
    /// The first page, as it is when nobody says anything.
    pub(crate) fn first(limit: usize) -> Self {
        Self {
            limit,
            sort: BY_ID,
            direction: Direction::Up,
            after: None,
            filters: BTreeMap::new(),
            q: None,
            kind: PhantomData,
        }
    }

    /// From what was asked for.
    pub(crate) fn asked(uri: &Uri) -> Result<Self, Problem> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Query(pairs) = pairs.map_err(|_| bad("query", "names and values (form encoded)", ""))?;
        Self::read(&pairs)
    }

    /// From the pairs of a query string.
    pub(crate) fn read(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut wanted = Self::first(usize::try_from(PAGE).unwrap_or(usize::MAX));
        let mut seen: Vec<&str> = Vec::new();
        let mut after = None;
        for (name, value) in pairs {
            if seen.contains(&name.as_str()) {
                return Err(bad(name, "each member once", value));
            }
            seen.push(name);
            match name.as_str() {
                "limit" => wanted.limit = limit(value)?,
                "after" => after = Some(value),
                "sort" => (wanted.sort, wanted.direction) = Self::sort(value)?,
                "q" => wanted.q = Some(text("q", value)?.to_lowercase()),
                other => {
                    let filter = K::FILTERS.iter().find(|filter| filter.name == other);
                    let filter = filter.ok_or_else(|| bad(other, names::<K>(), value))?;
                    if !filter.words.is_empty() && !filter.words.contains(&value.as_str()) {
                        return Err(bad(other, format!("one of: {}", filter.words.join(", ")), value));
                    }
                    wanted.filters.insert(filter.name, text(other, value)?.to_owned());
                }
            }
        }
        if let Some(value) = after {
            let cursor = Cursor::parse(value, wanted.sort, wanted.direction);
            let rule = "`next` of a page with the same sort";
            wanted.after = Some(cursor.ok_or_else(|| bad("after", rule, value))?);
        }
        Ok(wanted)
    }

    /// What a filter was given, for what the list itself leaves out when nobody asks for it.
    pub(crate) fn filter(&self, name: &str) -> Option<&str> {
        self.filters.get(name).map(String::as_str)
    }

    fn sort(value: &str) -> Result<(&'static str, Direction), Problem> {
        let (name, direction) = match value.strip_prefix('-') {
            Some(name) => (name, Direction::Down),
            None => (value, Direction::Up),
        };
        let known = std::iter::once(BY_ID).chain(K::SORTS.iter().copied()).find(|sort| *sort == name);
        let known =
            known.ok_or_else(|| bad("sort", format!("one of: {}", sorts::<K>().join(", ")), value))?;
        Ok((known, direction))
    }

    fn takes(&self, row: &K::Row, views: &Views<'_>) -> bool {
        self.filters.iter().all(|(name, wanted)| K::takes(row, views, name, wanted))
            && self.q.as_ref().is_none_or(|q| {
                K::words(row, views).iter().any(|word| word.to_lowercase().contains(q)) || K::is(row, q)
            })
    }

    /// One page of rows that are ordered by id, as an answer.
    pub(crate) fn page<'r, V: Serialize>(
        &self,
        rows: impl DoubleEndedIterator<Item = &'r K::Row>,
        views: &'r Views<'_>,
        view: impl Fn(&K::Row) -> V,
    ) -> Tagged
    where
        K::Row: 'r,
    {
        let (rows, next) = self.choose(rows, views);
        Tagged::page(&Page { items: rows.into_iter().map(view).collect(), next })
    }

    /// The rows of one page, and the cursor of the next.
    pub(crate) fn choose<'r>(
        &self,
        rows: impl DoubleEndedIterator<Item = &'r K::Row>,
        views: &'r Views<'_>,
    ) -> (Vec<&'r K::Row>, Option<String>)
    where
        K::Row: 'r,
    {
        let (taken, more) = if self.sort == BY_ID {
            match self.direction {
                Direction::Up => self.by_id(rows, views),
                Direction::Down => self.by_id(rows.rev(), views),
            }
        } else {
            self.by_key(rows, views)
        };
        let next = taken.last().filter(|_| more).map(|row| {
            let key = (self.sort != BY_ID).then(|| K::key(row, views, self.sort).owned());
            Cursor { key, id: K::id(row) }.text(self.sort, self.direction)
        });
        (taken, next)
    }

    fn directed(&self, order: Ordering) -> Ordering {
        if self.direction == Direction::Down { order.reverse() } else { order }
    }

    fn by_id<'r>(
        &self,
        rows: impl Iterator<Item = &'r K::Row>,
        views: &Views<'_>,
    ) -> (Vec<&'r K::Row>, bool) {
        let behind = |row: &&K::Row| {
            self.after
                .as_ref()
                .is_none_or(|after| self.directed(K::id(row).cmp(&after.id)) == Ordering::Greater)
        };
        let mut rows = rows.filter(behind).filter(|row| self.takes(row, views));
        let taken = rows.by_ref().take(self.limit).collect();
        (taken, rows.next().is_some())
    }

    fn by_key<'r>(
        &self,
        rows: impl Iterator<Item = &'r K::Row>,
        views: &'r Views<'_>,
    ) -> (Vec<&'r K::Row>, bool) {
        let mut keyed: Vec<(Key<'r>, usize, &K::Row)> = rows
            .filter(|row| self.takes(row, views))
            .enumerate()
            .map(|(place, row)| (K::key(row, views, self.sort), place, row))
            .collect();
        // Equal keys stand in the order of their ids, which is that of their places.
        keyed.sort_by(|a, b| self.directed(a.0.cmp(&b.0).then(a.1.cmp(&b.1))));
        let start = self.after.as_ref().map_or(0, |after| {
            keyed.partition_point(|(key, _, row)| {
                let of_key = after.key.as_ref().map_or(Ordering::Equal, |held| key.cmp(held));
                let order = of_key.then_with(|| K::id(row).cmp(&after.id));
                self.directed(order) != Ordering::Greater
            })
        });
        let more = keyed.len() > start + self.limit;
        (keyed.into_iter().skip(start).take(self.limit).map(|(_, _, row)| row).collect(), more)
    }
}

fn text<'v>(name: &str, value: &'v str) -> Result<&'v str, Problem> {
    if value.len() > MAX_TEXT {
        return Err(bad(name, format!("at most {MAX_TEXT} bytes"), value));
    }
    Ok(value)
}

/// How many objects of a page.
///
/// # Errors
/// It is no number, or not one from 1 to 1000.
pub(crate) fn limit(value: &str) -> Result<usize, Problem> {
    let number: u64 = value.parse().map_err(|_| bad("limit", "a whole number, 0 or more", value))?;
    let checked = check::within("limit", number, 1..=MAX_PAGE).map_err(|mut problem| {
        problem.status = StatusCode::BAD_REQUEST.as_u16();
        problem
    })?;
    Ok(usize::try_from(checked).unwrap_or(usize::MAX))
}

impl<S: Send + Sync, K: Listed> FromRequestParts<S> for Wanted<K> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Self::asked(&parts.uri)
    }
}

fn parameter(name: &str, says: &str, schema: ObjectBuilder) -> Parameter {
    let schema: RefOr<Schema> = RefOr::T(Schema::Object(schema.build()));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Query)
        .required(Required::False)
        .description(Some(says))
        .schema(Some(schema))
        .build()
}

fn of_type(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

impl<K: Listed> IntoParams for Wanted<K> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let number =
            of_type(Type::Integer).minimum(Some(1.0)).maximum(Some(1000.0)).default(Some(PAGE.into()));
        let mut all = vec![
            parameter("limit", "At most this many objects (1 to 1000).", number),
            parameter("after", "`next` of the page before: an opaque cursor.", of_type(Type::String)),
            parameter(
                "sort",
                "By what, `-` before it for the other way round.",
                of_type(Type::String).enum_values(Some(sorts::<K>())).default(Some(BY_ID.into())),
            ),
            parameter(
                "q",
                "Only what has this text in its name, address or id, whatever the case.",
                of_type(Type::String).max_length(Some(MAX_TEXT)),
            ),
        ];
        all.extend(K::FILTERS.iter().map(|filter| {
            let schema = of_type(Type::String);
            let schema = if filter.words.is_empty() {
                schema.max_length(Some(MAX_TEXT))
            } else {
                schema.enum_values(Some(filter.words.iter().copied()))
            };
            parameter(filter.name, filter.says, schema)
        }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_name_that_no_list_knows_the_beginning_is_repeated() {
        let problem = bad(&"x".repeat(5000), "one of: limit", &"y".repeat(5000));
        assert_eq!(problem.field.as_deref().map(str::len), Some(80));
        assert_eq!(problem.value.as_ref().and_then(|value| value.as_str()).map(str::len), Some(120));
        assert_eq!(problem.detail.len(), 80 + ": one of: limit".len());
    }
}
