//! Changes of the installation: organizations, PoPs, administrators, one-time links, trust documents.

use super::{Change, Scope};
use crate::{
    Administrator, OneTimeLink, Organization, Pop, SecretHash, StoreError,
    row::{self, hex32, integer},
    statement::query,
};
use wire::{EnrolmentKeyId, OrganizationId, PopId};

impl Change {
    /// Adds an organization.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_organization(&mut self, organization: &Organization) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO organizations (id, name, incarnation, version, grant_life_ms, renew_after_ms, created_ms, \
             approve_devices, audit_retention_days, flow_retention_days, sign_in_age_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        )
        .bind(organization.id.to_string())
        .bind(organization.name.clone())
        .bind(integer(organization.version.incarnation))
        .bind(integer(organization.version.version))
        .bind(integer(organization.grant_life_ms))
        .bind(integer(organization.renew_after_ms))
        .bind(integer(organization.created_ms))
        .bind(i64::from(organization.approve_devices))
        .bind(integer(organization.audit_retention_days))
        .bind(integer(organization.flow_retention_days))
        .bind(integer(organization.sign_in_age_ms));
        self.run("organization", statement).await.map(|_| ())
    }

    /// Gives an organization another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn rename_organization(&mut self, id: OrganizationId, name: &str) -> Result<(), StoreError> {
        let statement = query("UPDATE organizations SET name = $1 WHERE id = $2")
            .bind(name.to_owned())
            .bind(id.to_string());
        self.hit("organization", id.to_string(), statement).await
    }

    /// Closes this change's organization: its objects go, and its name is free for another. Its row stays, and its audit log, and
    /// what was struck; no change of it is possible any more.
    ///
    /// # Errors
    /// [`StoreError::Reference`] while it has connectors, or devices that may connect: each of these is removed by a strike,
    /// which ends its access at once.
    pub async fn close_organization(&mut self) -> Result<(), StoreError> {
        let id = self.organization()?;
        let agents = query(
            "SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM connectors WHERE organization = $1) OR EXISTS (SELECT 1 FROM \
             devices WHERE organization = $1 AND state NOT IN ('blocked', 'archived'))",
        )
        .bind(id.clone());
        if self.fetch("organization", agents).await?.is_some() {
            return Err(StoreError::Reference {
                kind: "organization",
                detail: "it has connectors, or devices that are neither blocked nor archived",
            });
        }
        // In this order nothing refers to what is gone; the rest goes with these.
        for sql in [
            "DELETE FROM policies WHERE organization = $1",
            "DELETE FROM enrolment_keys WHERE organization = $1",
            "DELETE FROM tokens WHERE organization = $1",
            "DELETE FROM memberships WHERE organization = $1",
            "DELETE FROM devices WHERE organization = $1",
            "DELETE FROM resources WHERE organization = $1",
            "DELETE FROM sites WHERE organization = $1",
            "DELETE FROM user_groups WHERE organization = $1",
            "DELETE FROM oidc_providers WHERE organization = $1",
            "DELETE FROM used_codes WHERE organization = $1",
            "DELETE FROM users WHERE organization = $1",
            "DELETE FROM service_accounts WHERE organization = $1",
        ] {
            self.run("organization", query(sql).bind(id.clone())).await?;
        }
        self.allow_shrink().await?;
        let statement = query("UPDATE organizations SET closed_ms = $1, name = $2 WHERE id = $2")
            .bind(integer(self.at_ms.max(1)))
            .bind(id.clone());
        self.hit("organization", id, statement).await
    }

    /// Sets how long grants live and when they are renewed, and remembers how long those of before live.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_grant_times(
        &mut self,
        id: OrganizationId,
        grant_life_ms: u64,
        renew_after_ms: u64,
    ) -> Result<(), StoreError> {
        let statement =
            query(
                "UPDATE organizations SET grant_life_ms = $1, renew_after_ms = $2, old_grants_end_ms = \
                 CASE WHEN grant_life_ms > $1 AND old_grants_end_ms < $4 + grant_life_ms THEN $4 + grant_life_ms \
                 ELSE old_grants_end_ms END WHERE id = $3",
            )
            .bind(integer(grant_life_ms))
            .bind(integer(renew_after_ms))
            .bind(id.to_string())
            .bind(integer(self.at_ms));
        self.hit("organization", id.to_string(), statement).await
    }

    /// Raises every incarnation: this database was restored from a copy older than what nodes have
    /// already seen.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn raise_incarnation(&mut self, to: u64) -> Result<(), StoreError> {
        self.version.incarnation = to;
        let statement =
            query("UPDATE installation SET incarnation = $1 WHERE singleton = 1").bind(integer(to));
        self.run("installation", statement).await?;
        let statement = query("UPDATE organizations SET incarnation = $1").bind(integer(to));
        self.run("organization", statement).await.map(|_| ())
    }

    /// Says that this change removes much at once on purpose: without it nobody believes the smaller state.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn allow_shrink(&mut self) -> Result<(), StoreError> {
        let statement = match self.scope {
            Scope::Installation => query("UPDATE organizations SET shrink_version = version"),
            Scope::Organization(id) => {
                query("UPDATE organizations SET shrink_version = version WHERE id = $1").bind(id.to_string())
            }
        };
        self.run("organization", statement).await.map(|_| ())
    }

    /// Adds a PoP.
    ///
    /// # Errors
    /// [`StoreError::Conflict`].
    pub async fn insert_pop(&mut self, pop: &Pop) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO pops (id, name, region, zone, address, identity_key, generation, enrolled_by, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(pop.id.to_string())
        .bind(pop.name.clone())
        .bind(pop.region.clone())
        .bind(pop.zone.clone())
        .bind(pop.address.clone())
        .bind(hex32::encode(&pop.identity_key))
        .bind(integer(pop.generation))
        .bind(pop.enrolled_by.to_string())
        .bind(integer(pop.created_ms));
        self.run("PoP", statement).await.map(|_| ())
    }

    /// Sets where a PoP is dialled, and its place.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn update_pop(
        &mut self,
        id: PopId,
        address: &str,
        region: &str,
        zone: &str,
    ) -> Result<(), StoreError> {
        let statement = query("UPDATE pops SET address = $1, region = $2, zone = $3 WHERE id = $4")
            .bind(address.to_owned())
            .bind(region.to_owned())
            .bind(zone.to_owned())
            .bind(id.to_string());
        self.hit("PoP", id.to_string(), statement).await
    }

    /// Enrols a PoP again under another key: its certificate had ended while it was away.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn enrol_pop_again(&mut self, id: PopId, key: EnrolmentKeyId) -> Result<(), StoreError> {
        let statement = query("UPDATE pops SET enrolled_by = $1 WHERE id = $2")
            .bind(key.to_string())
            .bind(id.to_string());
        self.hit("PoP", id.to_string(), statement).await
    }

    /// Removes a PoP.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_pop(&mut self, id: PopId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM pops WHERE id = $1").bind(id.to_string());
        self.hit("PoP", id.to_string(), statement).await
    }

    /// Adds an administrator.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_administrator(&mut self, administrator: &Administrator) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO administrators (id, name, passphrase_hash, created_ms) VALUES ($1, $2, $3, $4)",
        )
        .bind(administrator.id.to_string())
        .bind(administrator.name.clone())
        .bind(administrator.passphrase_hash.clone())
        .bind(integer(administrator.created_ms));
        self.run("administrator", statement).await.map(|_| ())
    }

    /// Adds a link that works once.
    ///
    /// # Errors
    /// [`StoreError::Conflict`].
    pub async fn insert_one_time_link(&mut self, link: &OneTimeLink) -> Result<(), StoreError> {
        let statement =
            query("INSERT INTO one_time_links (secret_hash, purpose, expires_ms) VALUES ($1, $2, $3)")
                .bind(hex32::encode(link.secret_hash.as_bytes()))
                .bind(link.purpose.clone())
                .bind(integer(link.expires_ms));
        self.run("one-time link", statement).await.map(|_| ())
    }

    /// Uses a link up. Of two tries at once, one gets [`StoreError::NotFound`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is unknown, used or expired.
    pub async fn take_one_time_link(&mut self, secret: SecretHash, purpose: &str) -> Result<(), StoreError> {
        let statement =
            query("DELETE FROM one_time_links WHERE secret_hash = $1 AND purpose = $2 AND expires_ms > $3")
                .bind(hex32::encode(secret.as_bytes()))
                .bind(purpose.to_owned())
                .bind(integer(self.at_ms));
        self.hit("one-time link", "(secret)".into(), statement).await
    }

    /// Keeps a signed trust document under a name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn put_trust_document(&mut self, name: &str, document: &str) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO trust_documents (name, document, updated_ms) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_ms = excluded.updated_ms",
        )
        .bind(name.to_owned())
        .bind(document.to_owned())
        .bind(integer(self.at_ms));
        self.run("trust document", statement).await.map(|_| ())
    }

    /// A trust document as it is when nobody else can change it any more.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn trust_document(&mut self, name: &str) -> Result<Option<String>, StoreError> {
        let statement = query("SELECT document FROM trust_documents WHERE name = $1").bind(name.to_owned());
        let row = self.fetch("trust document", statement).await?;
        row.map(|row| row::text(&row, "document")).transpose()
    }
}
