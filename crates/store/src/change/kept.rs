//! Answers that are kept with the change that made them, for who asks again.

use super::{Change, Scope};
use crate::{
    StoreError,
    row::{self, hex32, integer},
    statement::query,
};

/// For how long an answer is kept: a day.
const KEPT_MS: u64 = 24 * 3600 * 1000;
/// How many old ones go with each new one: a table that nobody uses any more does not grow, and none is emptied at once.
const FORGOTTEN: i64 = 20;

/// What is kept of a request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The same for the same request.
    pub fingerprint: [u8; 32],
    /// Its answer, sealed; none when it was too large.
    pub answer: Option<String>,
}

impl Change {
    /// What was kept under a key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn kept(&mut self, key: &[u8; 32]) -> Result<Option<Kept>, StoreError> {
        let statement = query("SELECT fingerprint, answer FROM kept_answers WHERE key = $1 AND at_ms > $2")
            .bind(hex32::encode(key))
            .bind(integer(self.at_ms.saturating_sub(KEPT_MS)));
        let found = self.fetch("kept answer", statement).await?;
        found
            .map(|found| {
                let fingerprint = row::key(&found, "fingerprint")?;
                Ok(Kept { fingerprint, answer: row::optional_text(&found, "answer")? })
            })
            .transpose()
    }

    /// Keeps an answer under a key, and forgets some that are older than a day.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: another request of this key is being answered.
    pub async fn keep(&mut self, key: &[u8; 32], kept: &Kept) -> Result<(), StoreError> {
        let old = integer(self.at_ms.saturating_sub(KEPT_MS));
        let statement = query(
            "DELETE FROM kept_answers WHERE key IN (SELECT key FROM kept_answers WHERE at_ms <= $1 ORDER BY at_ms LIMIT $2) \
             OR (key = $3 AND at_ms <= $1)",
        )
        .bind(old)
        .bind(FORGOTTEN)
        .bind(hex32::encode(key));
        self.run("kept answer", statement).await?;
        let organization = match self.scope {
            Scope::Installation => None,
            Scope::Organization(id) => Some(id.to_string()),
        };
        let statement = query(
            "INSERT INTO kept_answers (key, organization, fingerprint, answer, at_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(hex32::encode(key))
        .bind(organization)
        .bind(hex32::encode(&kept.fingerprint))
        .bind(kept.answer.clone())
        .bind(integer(self.at_ms));
        self.run("kept answer", statement).await.map(|_| ())
    }
}
