//! What a change writes into the audit log: entries in a chain, each with the hash of the one before it.
//!
//! There is a chain for each organization and one for the installation. Whoever alters, inserts or removes an entry
//! breaks every hash behind it; the last hash is kept outside the database by whoever made the change.

use super::{Change, Scope};
use crate::{
    StoreError, Version,
    engine::Transaction,
    row::{self, hex32, integer},
    statement::{Statement, query},
};
use aws_lc_rs::digest;
use wire::OrganizationId;

/// One thing that a change did, for the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// What was done.
    pub action: String,
    /// To which object.
    pub subject: String,
    /// The object before, JSON.
    pub before: Option<String>,
    /// The object after, JSON.
    pub after: Option<String>,
    /// More, JSON.
    pub detail: String,
}

/// Whose chain of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// What all organizations share.
    Installation,
    /// One organization's.
    Organization(OrganizationId),
}

impl Chain {
    /// Of an entry that names its organization, or none.
    #[must_use]
    pub const fn of(organization: Option<OrganizationId>) -> Self {
        match organization {
            Some(id) => Self::Organization(id),
            None => Self::Installation,
        }
    }

    /// Its name in the table of heads.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Installation => "installation".to_owned(),
            Self::Organization(id) => id.to_string(),
        }
    }

    /// The organization, where it is one's.
    #[must_use]
    pub const fn organization(self) -> Option<OrganizationId> {
        match self {
            Self::Installation => None,
            Self::Organization(id) => Some(id),
        }
    }

    /// What sees it.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Installation => Scope::Installation,
            Self::Organization(id) => Scope::Organization(id),
        }
    }
}

/// The end of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditHead {
    /// Whose.
    pub chain: Chain,
    /// The number of its last entry; 0: it has none.
    pub seq: u64,
    /// The hash of its last entry; zeros before the first.
    pub hash: [u8; 32],
}

/// What was appended to a chain: from which end to which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    /// Number and hash of the entry before.
    pub before: (u64, [u8; 32]),
    /// The end now.
    pub head: AuditHead,
}

/// A change that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The state it made.
    pub version: Version,
    /// What it appended to the audit log.
    pub linked: Option<Linked>,
}

/// An entry as it goes into the chain.
#[derive(Debug, Clone)]
pub(crate) struct Entry<'a> {
    pub(crate) chain: Chain,
    pub(crate) version: Version,
    pub(crate) at_ms: u64,
    pub(crate) actor: &'a str,
    pub(crate) source: &'a str,
    pub(crate) request: &'a str,
    pub(crate) action: &'a str,
    pub(crate) subject: &'a str,
    pub(crate) before: Option<&'a str>,
    pub(crate) after: Option<&'a str>,
    pub(crate) detail: &'a str,
}

/// The hash of an entry behind another one.
pub(crate) fn chained(previous: &[u8; 32], seq: u64, entry: &Entry<'_>) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"tidegate/audit/1");
    context.update(previous);
    context.update(&seq.to_be_bytes());
    context.update(&entry.version.incarnation.to_be_bytes());
    context.update(&entry.version.version.to_be_bytes());
    context.update(&entry.at_ms.to_be_bytes());
    let chain = entry.chain.name();
    let texts = [
        Some(chain.as_str()),
        Some(entry.actor),
        Some(entry.source),
        Some(entry.request),
        Some(entry.action),
        Some(entry.subject),
        entry.before,
        entry.after,
        Some(entry.detail),
    ];
    for text in texts {
        // Absent is not empty: a length that no text has.
        let length = text.map_or(u64::MAX, |text| text.len() as u64);
        context.update(&length.to_be_bytes());
        context.update(text.unwrap_or_default().as_bytes());
    }
    let digest = context.finish();
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// Entries of one `INSERT`. Both engines take far more parameters than this times the columns.
const AT_ONCE: usize = 40;

/// Appends entries to their chain, all of one. The chain's row is locked first: entries of one chain wait for each other.
/// `event` tells an entry from every other one, where it was written down elsewhere first.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub(crate) async fn append(
    tx: &mut Transaction,
    chain: Chain,
    entries: &[Entry<'_>],
    event: Option<&str>,
) -> Result<Linked, StoreError> {
    let name = chain.name();
    let organization = chain.organization().map(|id| id.to_string());
    let count = entries.len() as u64;
    let next = || {
        query("UPDATE audit_heads SET seq = seq + $2 WHERE chain = $1 RETURNING seq, hash")
            .bind(name.clone())
            .bind(integer(count))
    };
    let mut head = tx.fetch_optional("audit", next()).await?;
    if head.is_none() {
        let zeros = hex32::encode(&[0; 32]);
        let first = query(
            "INSERT INTO audit_heads (chain, organization, seq, hash, first_seq, before_first) \
             VALUES ($1, $2, 0, $3, 1, $3) ON CONFLICT (chain) DO NOTHING",
        )
        .bind(name.clone())
        .bind(organization.clone())
        .bind(zeros);
        tx.execute("audit", first).await?;
        head = tx.fetch_optional("audit", next()).await?;
    }
    let head = head.ok_or(StoreError::NotFound { kind: "audit chain", id: name.clone() })?;
    let (last, previous) = (row::number(&head, "seq")?, row::key(&head, "hash")?);
    let before = (last.saturating_sub(count), previous);
    let (mut seq, mut hash) = before;
    for some in entries.chunks(AT_ONCE) {
        let mut values = Vec::with_capacity(some.len());
        let mut insert = Statement::built(String::new());
        for (index, entry) in some.iter().enumerate() {
            seq += 1;
            hash = chained(&hash, seq, entry);
            let places = (1..=COLUMNS).map(|place| format!("${}", index * COLUMNS + place));
            values.push(format!("({})", places.collect::<Vec<_>>().join(", ")));
            insert = bound(insert, entry, organization.as_deref(), event, seq, &hash);
        }
        let sql = format!(
            "INSERT INTO audit (organization, incarnation, version, at_ms, actor, action, subject, detail, event, seq, \
             source, request, object_before, object_after, hash) VALUES {}",
            values.join(", ")
        );
        tx.execute("audit", insert.saying(sql)).await?;
    }
    let moved =
        query("UPDATE audit_heads SET hash = $1 WHERE chain = $2").bind(hex32::encode(&hash)).bind(name);
    tx.execute("audit", moved).await?;
    Ok(Linked { before, head: AuditHead { chain, seq, hash } })
}

/// Columns of an entry.
const COLUMNS: usize = 15;

fn bound(
    insert: Statement,
    entry: &Entry<'_>,
    organization: Option<&str>,
    event: Option<&str>,
    seq: u64,
    hash: &[u8; 32],
) -> Statement {
    insert
        .bind(organization.map(ToOwned::to_owned))
        .bind(integer(entry.version.incarnation))
        .bind(integer(entry.version.version))
        .bind(integer(entry.at_ms))
        .bind(entry.actor)
        .bind(entry.action)
        .bind(entry.subject)
        .bind(entry.detail)
        .bind(event.map(ToOwned::to_owned))
        .bind(integer(seq))
        .bind(entry.source)
        .bind(entry.request)
        .bind(entry.before.map(ToOwned::to_owned))
        .bind(entry.after.map(ToOwned::to_owned))
        .bind(hex32::encode(hash))
}

impl Change {
    /// Says from where and by which request it is made.
    pub fn came_from(&mut self, source: &str, request: &str) {
        source.clone_into(&mut self.source);
        request.clone_into(&mut self.request);
    }

    /// Writes down what was done, for the entries that are written with the commit.
    pub fn note(&mut self, noted: Noted) {
        self.noted.push(noted);
    }

    /// Writes the entries of everything noted.
    pub(super) async fn write_noted(&mut self) -> Result<Option<Linked>, StoreError> {
        let chain = match self.scope {
            Scope::Installation => Chain::Installation,
            Scope::Organization(id) => Chain::Organization(id),
        };
        let noted = std::mem::take(&mut self.noted);
        if noted.is_empty() {
            return Ok(None);
        }
        let entries: Vec<Entry<'_>> = noted
            .iter()
            .map(|noted| Entry {
                chain,
                version: self.version,
                at_ms: self.at_ms,
                actor: &self.actor,
                source: &self.source,
                request: &self.request,
                action: &noted.action,
                subject: &noted.subject,
                before: noted.before.as_deref(),
                after: noted.after.as_deref(),
                detail: &noted.detail,
            })
            .collect();
        append(&mut self.tx, chain, &entries, None).await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            chain: Chain::Installation,
            version: Version { incarnation: 1, version: 2 },
            at_ms: 3,
            actor: "a",
            source: "s",
            request: "r",
            action: "x",
            subject: "y",
            before: None,
            after: Some("{}"),
            detail: "{}",
        }
    }

    #[test]
    fn every_part_of_an_entry_is_in_its_hash() {
        let hash = chained(&[0; 32], 1, &entry());
        let other = |change: fn(&mut Entry<'static>)| {
            let mut entry = entry();
            change(&mut entry);
            chained(&[0; 32], 1, &entry)
        };
        let others = [
            chained(&[1; 32], 1, &entry()),
            chained(&[0; 32], 2, &entry()),
            other(|entry| entry.chain = Chain::Organization(OrganizationId::from_bytes([1; 16]))),
            other(|entry| entry.version.incarnation = 2),
            other(|entry| entry.version.version = 3),
            other(|entry| entry.at_ms = 4),
            other(|entry| entry.actor = "b"),
            other(|entry| entry.source = ""),
            other(|entry| entry.request = "q"),
            other(|entry| entry.action = "z"),
            other(|entry| entry.subject = "z"),
            other(|entry| entry.before = Some("")),
            other(|entry| entry.after = None),
            other(|entry| entry.detail = "{ }"),
            // Nothing moves from one part into the next.
            other(|entry| (entry.source, entry.request) = ("sr", "")),
        ];
        for (number, other) in others.iter().enumerate() {
            assert_ne!(hash, *other, "{number}");
        }
    }
}
