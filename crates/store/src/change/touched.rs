//! What a change touched is written down with it, for controllers that hold the state before.

use super::{Change, Scope};
use crate::{StoreError, row::integer, statement::query};

/// The notes of so many versions are kept, and some more: who is further behind reads everything.
const KEPT: u64 = 64;
/// Older ones go with every so manieth version.
const FORGOTTEN_EVERY: u64 = 16;

impl Change {
    /// Writes the note, and forgets those that nobody asks for any more. A change that nobody can say this of has none.
    pub(super) async fn write_touched(&mut self) -> Result<(), StoreError> {
        let Some(touched) = self.tx.touched().text() else { return Ok(()) };
        let (note, forget) = match self.scope {
            Scope::Organization(id) => (
                query(
                    "INSERT INTO touched_rows (organization, incarnation, version, touched) VALUES ($1, $2, $3, $4) \
                     ON CONFLICT (organization, incarnation, version) DO UPDATE SET touched = excluded.touched",
                )
                .bind(id.to_string())
                .bind(integer(self.version.incarnation))
                .bind(integer(self.version.version))
                .bind(touched),
                query("DELETE FROM touched_rows WHERE organization = $1 AND (incarnation < $2 OR version <= $3)")
                    .bind(id.to_string())
                    .bind(integer(self.version.incarnation))
                    .bind(integer(self.version.version.saturating_sub(KEPT))),
            ),
            // Every organization's version was raised.
            Scope::Installation => (
                query(
                    "INSERT INTO touched_rows (organization, incarnation, version, touched) \
                     SELECT id, incarnation, version, $1 FROM organizations WHERE incarnation >= 0 \
                     ON CONFLICT (organization, incarnation, version) DO UPDATE SET touched = excluded.touched",
                )
                .bind(touched),
                query(
                    "DELETE FROM touched_rows WHERE EXISTS (SELECT 1 FROM organizations WHERE organizations.id = \
                     touched_rows.organization AND (touched_rows.incarnation < organizations.incarnation OR \
                     touched_rows.version <= organizations.version - $1))",
                )
                .bind(integer(KEPT)),
            ),
        };
        self.run("touched rows", note).await?;
        if self.version.version.is_multiple_of(FORGOTTEN_EVERY) {
            self.run("touched rows", forget).await?;
        }
        Ok(())
    }
}
