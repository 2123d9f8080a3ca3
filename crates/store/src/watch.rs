//! What a controller looks at again and again to see what another one has written: one row, and a hint when to look.

use crate::{
    Dataset, Scope, Sighting, Store, StoreError, Version,
    row::{corrupt, integer, number, parsed, signed, text},
    statement::query,
};
use wire::{OrganizationId, UserId};

/// One state of the configuration, told from every other by numbers that fit one row.
///
/// Each change raises the version of the installation or of an organization, and organizations come with a change of
/// the installation: no two states of one database have the same mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The installation's version.
    pub installation: Version,
    /// How many organizations there are.
    pub organizations: u64,
    /// The sum of their versions.
    pub versions: u64,
}

impl Mark {
    /// The mark of what was read.
    #[must_use]
    pub fn of(dataset: &Dataset) -> Self {
        let versions = dataset.organizations.iter().map(|data| data.organization.version.version);
        Self {
            installation: dataset.installation.version,
            organizations: dataset.organizations.len() as u64,
            versions: versions.fold(0, u64::wrapping_add),
        }
    }
}

/// What one look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Of the configuration.
    pub mark: Mark,
    /// Raised with whatever controllers tell each other beside it.
    pub notes: u64,
    /// What the server said of itself: a replica always, the primary where it has replicas.
    pub seen: Option<Sighting>,
}

/// A web session that was signed out before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedSession {
    /// Its id.
    pub id: [u8; 16],
    /// Whose it was.
    pub organization: OrganizationId,
    /// When its cookie ends anyway. Unix milliseconds.
    pub expires_ms: u64,
}

/// The newest one-time code that an account has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedCode {
    /// Whose.
    pub account: UserId,
    /// Of which organization.
    pub organization: OrganizationId,
    /// The code's number in time.
    pub step: u64,
}

/// What controllers tell each other about sign-ins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignInNotes {
    /// Sessions that are over.
    pub ended: Vec<EndedSession>,
    /// Codes that are used up.
    pub used: Vec<UsedCode>,
}

impl SignInNotes {
    /// Whether there is anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ended.is_empty() && self.used.is_empty()
    }
}

impl Store {
    /// Looks at the version row: three short statements, on a connection of their own, within a second; two more where the
    /// server says how far it is. `None` before [`Store::bootstrap`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn look(&self) -> Result<Option<Look>, StoreError> {
        let mut tx = self.engine().look().await?;
        let statement = query(
            "SELECT incarnation, version, notes, (SELECT COUNT(*) FROM organizations) AS organizations, \
             (SELECT CAST(COALESCE(SUM(version), 0) AS BIGINT) FROM organizations) AS versions FROM installation",
        );
        let seen = tx.seen();
        let row = tx.fetch_optional("version row", statement).await?;
        tx.commit().await?;
        row.map(|row| {
            let installation =
                Version { incarnation: number(&row, "incarnation")?, version: number(&row, "version")? };
            let (organizations, versions) = (number(&row, "organizations")?, signed(&row, "versions")?);
            let mark = Mark { installation, organizations, versions: versions.cast_unsigned() };
            Ok(Look { mark, notes: number(&row, "notes")?, seen })
        })
        .transpose()
    }

    /// Tells the other controllers about sign-ins; what has expired by `now_ms` goes away.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing was told.
    pub async fn tell_sign_ins(&self, notes: &SignInNotes, now_ms: u64) -> Result<(), StoreError> {
        let mut tx = self.begin(Scope::Installation).await?;
        let expired = query("DELETE FROM ended_sessions WHERE expires_ms <= $1").bind(integer(now_ms));
        tx.execute("ended session", expired).await?;
        for ended in &notes.ended {
            let statement = query(
                "INSERT INTO ended_sessions (id, organization, expires_ms) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING",
            )
            .bind(hex16(&ended.id))
            .bind(ended.organization.to_string())
            .bind(integer(ended.expires_ms));
            tx.execute("ended session", statement).await?;
        }
        for used in &notes.used {
            let statement = query(
                "INSERT INTO used_codes (account, organization, step) VALUES ($1, $2, $3) ON CONFLICT (account) \
                 DO UPDATE SET step = excluded.step WHERE excluded.step > used_codes.step",
            )
            .bind(used.account.to_string())
            .bind(used.organization.to_string())
            .bind(integer(used.step));
            tx.execute("used code", statement).await?;
        }
        raise_notes(&mut tx).await?;
        tx.commit().await
    }

    /// What every controller told about sign-ins, as far as it still matters.
    ///
    /// # Errors
    /// Any read error: never a smaller answer.
    pub async fn sign_in_notes(&self, now_ms: u64) -> Result<SignInNotes, StoreError> {
        let ended = query(
            "SELECT id, organization, expires_ms FROM ended_sessions WHERE expires_ms > $1 ORDER BY id",
        )
        .bind(integer(now_ms));
        let used = query("SELECT account, organization, step FROM used_codes ORDER BY account");
        let mut tx = self.engine().read(Scope::Installation).await?;
        let ended = tx.fetch_all("ended session", ended).await?;
        let used = tx.fetch_all("used code", used).await?;
        tx.commit().await?;
        let ended = ended.iter().map(|row| {
            Ok(EndedSession {
                id: of_hex16(&text(row, "id")?)?,
                organization: parsed(row, "organization")?,
                expires_ms: number(row, "expires_ms")?,
            })
        });
        let used = used.iter().map(|row| {
            Ok(UsedCode {
                account: parsed(row, "account")?,
                organization: parsed(row, "organization")?,
                step: number(row, "step")?,
            })
        });
        Ok(SignInNotes {
            ended: ended.collect::<Result<_, StoreError>>()?,
            used: used.collect::<Result<_, StoreError>>()?,
        })
    }

    /// Listens for hints that somebody wrote something. One may be missing or come for nothing: it says when to look, never
    /// what is there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nobody to listen to.
    pub async fn hints(&self) -> Result<Hints, StoreError> {
        self.engine().hints().await.map(Hints)
    }
}

/// Hints of one connection.
#[derive(Debug)]
pub struct Hints(crate::engine::Hints);

impl Hints {
    /// The next one.
    ///
    /// # Errors
    /// The connection is gone: make another.
    pub async fn next(&mut self) -> Result<(), StoreError> {
        self.0.next().await
    }
}

pub(crate) async fn raise_notes(tx: &mut crate::engine::Transaction) -> Result<(), StoreError> {
    let raise = query("UPDATE installation SET notes = notes + 1 WHERE singleton = 1");
    tx.execute("installation", raise).await.map(|_| ())
}

fn hex16(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

fn of_hex16(text: &str) -> Result<[u8; 16], StoreError> {
    let number = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten();
    number.map(u128::to_be_bytes).ok_or_else(|| corrupt("id", "expected 32 hexadecimal digits"))
}
