//! The configuration transaction. The version row, the change and its audit row commit together.

mod accounts;
mod installation;
mod kept;
mod look;
mod network;
mod note;
mod people;
mod rules;
mod touched;

pub use kept::Kept;
pub(crate) use look::flag;
pub use note::{AuditHead, Chain, Committed, Linked, Noted};
pub(crate) use note::{Entry, append, chained};
pub use people::Subject;

use crate::{
    Member, StoreError, Version,
    engine::Transaction,
    row::{self, Row},
    statement::{Statement, query},
};
use wire::{GroupId, OrganizationId, SiteId};

/// What a change is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// PoPs, administrators, organizations: every organization's version is raised, because the
    /// PoP list is in every slice.
    Installation,
    /// Objects of one organization.
    Organization(OrganizationId),
}

/// An open configuration change; dropped without [`Change::commit`] it never happened.
pub struct Change {
    tx: Transaction,
    scope: Scope,
    actor: String,
    at_ms: u64,
    version: Version,
    source: String,
    request: String,
    noted: Vec<Noted>,
}

impl Change {
    pub(crate) async fn begin(
        mut tx: Transaction,
        scope: Scope,
        actor: &str,
        at_ms: u64,
    ) -> Result<Self, StoreError> {
        let raise = match scope {
            Scope::Installation => query(
                "UPDATE installation SET version = version + 1 WHERE singleton = 1 RETURNING incarnation, version",
            ),
            Scope::Organization(id) => query(
                "UPDATE organizations SET version = version + 1 WHERE id = $1 AND closed_ms = 0 RETURNING incarnation, version",
            )
            .bind(id.to_string()),
        };
        let row = tx.fetch_optional("organization", raise).await?;
        if scope == Scope::Installation {
            tx.execute("organization", query("UPDATE organizations SET version = version + 1")).await?;
        }
        let row = row.ok_or_else(|| {
            let id = match scope {
                Scope::Installation => "installation".to_owned(),
                Scope::Organization(id) => id.to_string(),
            };
            StoreError::NotFound { kind: "organization", id }
        })?;
        let version = Version {
            incarnation: row::number(&row, "incarnation")?,
            version: row::number(&row, "version")?,
        };
        Ok(Self {
            tx,
            scope,
            actor: actor.to_owned(),
            at_ms,
            version,
            source: String::new(),
            request: String::new(),
            noted: Vec::new(),
        })
    }

    /// Notes one thing and commits.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nothing is stored; [`StoreError::OutcomeUnknown`]: nobody answered to the commit.
    pub async fn commit(mut self, action: &str, subject: &str, detail: &str) -> Result<Version, StoreError> {
        self.note(Noted {
            action: action.to_owned(),
            subject: subject.to_owned(),
            before: None,
            after: None,
            detail: detail.to_owned(),
        });
        Ok(self.commit_noted().await?.version)
    }

    /// Writes the audit entries of everything noted and commits.
    ///
    /// # Errors
    /// As [`Change::commit`].
    pub async fn commit_noted(mut self) -> Result<Committed, StoreError> {
        let linked = self.write_noted().await?;
        self.write_touched().await?;
        self.tx.commit().await?;
        Ok(Committed { version: self.version, linked })
    }

    /// The state that this change makes.
    #[must_use]
    pub const fn version(&self) -> Version {
        self.version
    }

    /// What this change is about.
    #[must_use]
    pub const fn scope(&self) -> Scope {
        self.scope
    }

    fn organization(&self) -> Result<String, StoreError> {
        match self.scope {
            Scope::Organization(id) => Ok(id.to_string()),
            Scope::Installation => Err(StoreError::Reference {
                kind: "change",
                detail: "an object of an organization needs a change of that organization",
            }),
        }
    }

    async fn run(&mut self, kind: &'static str, statement: Statement) -> Result<u64, StoreError> {
        self.tx.execute(kind, statement).await
    }

    async fn fetch(&mut self, kind: &'static str, statement: Statement) -> Result<Option<Row>, StoreError> {
        self.tx.fetch_optional(kind, statement).await
    }

    /// Runs a statement that must hit exactly one existing row of its table, the one with this id, and touches no other.
    async fn hit(&mut self, kind: &'static str, id: String, statement: Statement) -> Result<(), StoreError> {
        let statement = if statement.named().is_none() { statement.of_row(id.clone()) } else { statement };
        if self.run(kind, statement).await? == 0 { Err(StoreError::NotFound { kind, id }) } else { Ok(()) }
    }

    /// Refuses a reference to an object of another organization, which the schema alone allows.
    async fn own(&mut self, kind: &'static str, sql: &'static str, id: String) -> Result<(), StoreError> {
        let organization = self.organization()?;
        let found = self.fetch(kind, query(sql).bind(id.clone()).bind(organization)).await?;
        found.map(|_| ()).ok_or(StoreError::NotFound { kind, id })
    }

    async fn own_site(&mut self, id: SiteId) -> Result<(), StoreError> {
        self.own("site", "SELECT 1 AS one FROM sites WHERE id = $1 AND organization = $2", id.to_string())
            .await
    }

    async fn own_group(&mut self, id: GroupId) -> Result<(), StoreError> {
        self.own(
            "group",
            "SELECT 1 AS one FROM user_groups WHERE id = $1 AND organization = $2",
            id.to_string(),
        )
        .await
    }

    async fn own_member(&mut self, member: Member) -> Result<(), StoreError> {
        let (kind, sql) = match member {
            Member::User(_) => ("user", "SELECT 1 AS one FROM users WHERE id = $1 AND organization = $2"),
            Member::ServiceAccount(_) => (
                "service account",
                "SELECT 1 AS one FROM service_accounts WHERE id = $1 AND organization = $2",
            ),
        };
        self.own(kind, sql, member.to_string()).await
    }
}
