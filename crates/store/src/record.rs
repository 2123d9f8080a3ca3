//! What was done while the database could not be asked, written afterwards.
//!
//! A strike is enforced first and recorded here when the database can be written. Nothing in this module
//! raises a version: no slice changes because somebody wrote down what was done.

use crate::{
    Chain, Linked, Scope, Store, StoreError, Version,
    change::{Entry, append},
    row,
    statement::query,
};
use wire::OrganizationId;

/// An audit entry of something that was done outside the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// Unique: the same entry again is not stored twice.
    pub event: String,
    /// None: of the installation.
    pub organization: Option<OrganizationId>,
    /// The state it happened in.
    pub version: Version,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To which object.
    pub subject: String,
    /// JSON.
    pub detail: String,
    /// From which address; empty when nobody outside asked.
    pub source: String,
    /// By which request.
    pub request: String,
}

/// A generation of a subject that is struck for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StruckGeneration {
    /// What, as the trust crate writes it.
    pub subject: String,
    /// This generation and all below it.
    pub generation: u64,
}

impl Store {
    /// Writes entries and struck generations in one transaction; each as often as wanted. Says what was appended to the
    /// audit log.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was written.
    pub async fn record(
        &self,
        happened: &[Happened],
        struck: &[StruckGeneration],
    ) -> Result<Vec<Linked>, StoreError> {
        let mut tx = self.begin(Scope::Installation).await?;
        let mut links = Vec::new();
        for entry in happened {
            let held = query("SELECT event FROM audit WHERE event = $1").bind(entry.event.clone());
            if tx.fetch_optional("audit", held).await?.is_some() {
                continue;
            }
            let chained = Entry {
                chain: Chain::of(entry.organization),
                version: entry.version,
                at_ms: entry.at_ms,
                actor: &entry.actor,
                source: &entry.source,
                request: &entry.request,
                action: &entry.action,
                subject: &entry.subject,
                before: None,
                after: None,
                detail: &entry.detail,
            };
            let chain = Chain::of(entry.organization);
            links.push(append(&mut tx, chain, &[chained], Some(&entry.event)).await?);
        }
        for entry in struck {
            let statement = query(
                "INSERT INTO struck_generations (subject, generation) VALUES ($1, $2) \
                 ON CONFLICT (subject) DO UPDATE SET generation = excluded.generation \
                 WHERE excluded.generation > struck_generations.generation",
            )
            .bind(entry.subject.clone())
            .bind(row::integer(entry.generation));
            tx.execute("struck generation", statement).await?;
        }
        if !struck.is_empty() {
            crate::watch::raise_notes(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(links)
    }

    /// Everything that was ever struck and recorded.
    ///
    /// # Errors
    /// Any read error: never a smaller answer.
    pub async fn struck_generations(&self) -> Result<Vec<StruckGeneration>, StoreError> {
        let statement = query("SELECT subject, generation FROM struck_generations ORDER BY subject");
        let rows = self.fetch_all(Scope::Installation, "struck generation", statement).await?;
        rows.iter()
            .map(|found| {
                let (subject, generation) = (row::text(found, "subject")?, row::number(found, "generation")?);
                Ok(StruckGeneration { subject, generation })
            })
            .collect()
    }
}
