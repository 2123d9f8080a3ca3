//! The audit log: pages for people, pieces for exports, and what its verification reads.

use crate::{
    AuditEntry, AuditHead, Chain, Scope, Store, StoreError, Version,
    change::{Entry, chained},
    row::{Row, hex32, integer, key, number, optional_number, optional_parsed, optional_text, text},
    statement::{Statement, query},
};
use wire::OrganizationId;

/// Which part of the audit log, newest first.
#[derive(Debug, Clone, Default)]
pub struct AuditPage {
    /// Entries before this time (Unix milliseconds).
    pub before_ms: u64,
    /// Entries from this time on.
    pub from_ms: u64,
    /// Entries behind this one in the page's order.
    pub after: Option<AuditPlace>,
    /// Whose actor has this text, whatever the case.
    pub actor: Option<String>,
    /// With this action.
    pub action: Option<String>,
    /// About this object.
    pub subject: Option<String>,
    /// At most this many.
    pub limit: u32,
}

/// A place in a page's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditPlace {
    /// The entry's time.
    pub at_ms: u64,
    /// Its version.
    pub version: u64,
    /// Its number; 0: it has none.
    pub seq: u64,
}

/// Whose audit entries. Entries of the installation name other organizations: they are for its
/// administrators only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditOf {
    /// One organization's own.
    Organization(OrganizationId),
    /// One organization's and the installation's.
    OrganizationAndInstallation(OrganizationId),
}

/// What the table of heads has of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEnds {
    /// Its end.
    pub head: AuditHead,
    /// The number of the first entry that is kept.
    pub first_seq: u64,
    /// The hash of the entry before that.
    pub before_first: [u8; 32],
}

const COLUMNS: &str = "organization, incarnation, version, at_ms, actor, action, subject, detail, seq, source, request, \
                       object_before, object_after, hash";

impl Store {
    /// The newest audit entries first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn audit(&self, of: AuditOf, page: &AuditPage) -> Result<Vec<AuditEntry>, StoreError> {
        let (organization, scope, own) = match of {
            AuditOf::Organization(id) => (id, Scope::Organization(id), "organization = $1"),
            AuditOf::OrganizationAndInstallation(id) => {
                (id, Scope::Installation, "(organization = $1 OR organization IS NULL)")
            }
        };
        let mut sql = format!("SELECT {COLUMNS} FROM audit WHERE {own} AND at_ms < $2 AND at_ms >= $3");
        let mut values: Vec<String> = Vec::new();
        let mut numbers: Vec<i64> = Vec::new();
        if let Some(place) = page.after {
            sql.push_str(
                " AND (at_ms < $4 OR (at_ms = $4 AND (version < $5 OR (version = $5 AND COALESCE(seq, 0) < $6))))",
            );
            numbers.extend([integer(place.at_ms), integer(place.version), integer(place.seq)]);
        }
        let mut next = 4 + numbers.len();
        let mut also = |sql: &mut String, text: &str, value: &Option<String>| {
            if let Some(value) = value {
                sql.push_str(&text.replace('?', &format!("${next}")));
                values.push(value.clone());
                next += 1;
            }
        };
        let actor = page.actor.as_ref().map(|text| format!("%{}%", escaped(&text.to_lowercase())));
        also(&mut sql, " AND lower(actor) LIKE ? ESCAPE '!'", &actor);
        also(&mut sql, " AND action = ?", &page.action);
        also(&mut sql, " AND subject = ?", &page.subject);
        sql.push_str(&format!(" ORDER BY at_ms DESC, version DESC, COALESCE(seq, 0) DESC LIMIT ${next}"));
        let mut statement = Statement::built(sql)
            .bind(organization.to_string())
            .bind(integer(page.before_ms))
            .bind(integer(page.from_ms));
        statement = numbers.into_iter().fold(statement, Statement::bind);
        statement = values.into_iter().fold(statement, Statement::bind);
        let rows = self.fetch_all(scope, "audit", statement.bind(i64::from(page.limit))).await?;
        rows.iter().map(entry).collect()
    }

    /// Entries of a chain behind a number, in its order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn audit_on(
        &self,
        chain: Chain,
        after: u64,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let statement = match chain {
            Chain::Installation => Statement::built(format!(
                "SELECT {COLUMNS} FROM audit WHERE organization IS NULL AND seq > $1 ORDER BY seq LIMIT $2"
            ))
            .bind(integer(after))
            .bind(i64::from(limit)),
            Chain::Organization(id) => Statement::built(format!(
                "SELECT {COLUMNS} FROM audit WHERE organization = $1 AND seq > $2 ORDER BY seq LIMIT $3"
            ))
            .bind(id.to_string())
            .bind(integer(after))
            .bind(i64::from(limit)),
        };
        self.fetch_all(chain.scope(), "audit", statement).await?.iter().map(entry).collect()
    }

    /// The ends of a chain; `None` where nothing was ever written.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn audit_ends(&self, chain: Chain) -> Result<Option<AuditEnds>, StoreError> {
        let statement = query("SELECT seq, hash, first_seq, before_first FROM audit_heads WHERE chain = $1");
        let rows = self.fetch_all(chain.scope(), "audit", statement.bind(chain.name())).await?;
        rows.first()
            .map(|row| {
                Ok(AuditEnds {
                    head: AuditHead { chain, seq: number(row, "seq")?, hash: key(row, "hash")? },
                    first_seq: number(row, "first_seq")?,
                    before_first: key(row, "before_first")?,
                })
            })
            .transpose()
    }

    /// Removes entries of a chain from before a time, from its beginning on, at most `limit`: the chain then begins
    /// behind them. Says how many.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was removed.
    pub async fn forget_audit(&self, chain: Chain, before_ms: u64, limit: u32) -> Result<u64, StoreError> {
        let mut tx = self.begin(chain.scope()).await?;
        // The row first: whoever appends waits.
        let lock = query("UPDATE audit_heads SET seq = seq WHERE chain = $1 RETURNING seq, first_seq");
        let Some(head) = tx.fetch_optional("audit", lock.bind(chain.name())).await? else { return Ok(0) };
        let (seq, first) = (number(&head, "seq")?, number(&head, "first_seq")?);
        let own = match chain {
            Chain::Installation => "organization IS NULL",
            Chain::Organization(_) => "organization = $5",
        };
        let bound = |statement: Statement| match chain {
            Chain::Installation => statement,
            Chain::Organization(id) => statement.bind(id.to_string()),
        };
        // The last one stays: the chain goes on from it. The first that is young enough ends it, whatever is behind.
        let oldest = Statement::built(format!(
            "SELECT seq, hash FROM audit WHERE {own} AND seq >= $1 AND seq < $2 AND at_ms < $3 ORDER BY seq LIMIT $4"
        ))
        .bind(integer(first))
        .bind(integer(seq))
        .bind(integer(before_ms))
        .bind(i64::from(limit));
        let rows = tx.fetch_all("audit", bound(oldest)).await?;
        let mut last = None;
        for (row, expected) in rows.iter().zip(first..) {
            let number = number(row, "seq")?;
            if number != expected {
                break;
            }
            last = Some((number, key(row, "hash")?));
        }
        let Some((last, hash)) = last else { return Ok(0) };
        let gone = match chain {
            Chain::Installation => {
                query("DELETE FROM audit WHERE organization IS NULL AND seq <= $1").bind(integer(last))
            }
            Chain::Organization(id) => query("DELETE FROM audit WHERE organization = $1 AND seq <= $2")
                .bind(id.to_string())
                .bind(integer(last)),
        };
        let removed = tx.execute("audit", gone).await?;
        let begins = query("UPDATE audit_heads SET first_seq = $1, before_first = $2 WHERE chain = $3")
            .bind(integer(last + 1))
            .bind(hex32::encode(&hash))
            .bind(chain.name());
        tx.execute("audit", begins).await?;
        tx.commit().await?;
        Ok(removed)
    }
}

/// A text in which LIKE finds itself only.
fn escaped(text: &str) -> String {
    text.replace('!', "!!").replace('%', "!%").replace('_', "!_")
}

fn entry(row: &Row) -> Result<AuditEntry, StoreError> {
    Ok(AuditEntry {
        organization: optional_parsed(row, "organization")?,
        version: Version { incarnation: number(row, "incarnation")?, version: number(row, "version")? },
        at_ms: number(row, "at_ms")?,
        actor: text(row, "actor")?,
        action: text(row, "action")?,
        subject: text(row, "subject")?,
        detail: text(row, "detail")?,
        seq: optional_number(row, "seq")?,
        source: text(row, "source")?,
        request: text(row, "request")?,
        before: optional_text(row, "object_before")?,
        after: optional_text(row, "object_after")?,
        hash: text(row, "hash")?,
    })
}

impl AuditEntry {
    /// The hash that the entry has behind another one.
    #[must_use]
    pub fn chained(&self, previous: &[u8; 32]) -> [u8; 32] {
        let entry = Entry {
            chain: Chain::of(self.organization),
            version: self.version,
            at_ms: self.at_ms,
            actor: &self.actor,
            source: &self.source,
            request: &self.request,
            action: &self.action,
            subject: &self.subject,
            before: self.before.as_deref(),
            after: self.after.as_deref(),
            detail: &self.detail,
        };
        chained(previous, self.seq.unwrap_or_default(), &entry)
    }

    /// The hash that is written with it.
    #[must_use]
    pub fn written_hash(&self) -> Option<[u8; 32]> {
        hex32::decode(&self.hash)
    }
}
