//! Changes of what is allowed: policies, enrolment keys, tokens.

use super::{Change, Scope};
use crate::{
    EnrolmentKey, EnrolmentTarget, Policy, StoreError, Token,
    row::{self, hex32, integer, json_text},
    statement::query,
};
use wire::{EnrolmentKeyId, PolicyId, TokenId};

impl Change {
    /// Adds a policy.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`] for groups and resources.
    pub async fn insert_policy(&mut self, policy: &Policy) -> Result<(), StoreError> {
        let statement =
            query("INSERT INTO policies (id, organization, name, created_ms) VALUES ($1, $2, $3, $4)")
                .bind(policy.id.to_string())
                .bind(self.organization()?)
                .bind(policy.name.clone())
                .bind(integer(policy.created_ms));
        self.run("policy", statement.of_row(policy.id.to_string())).await?;
        self.link_policy(policy).await
    }

    /// Replaces a policy's values.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_policy(&mut self, policy: &Policy) -> Result<(), StoreError> {
        let id = policy.id.to_string();
        let statement = query("UPDATE policies SET name = $1 WHERE id = $2 AND organization = $3")
            .bind(policy.name.clone())
            .bind(id.clone())
            .bind(self.organization()?);
        self.hit("policy", id.clone(), statement).await?;
        for sql in
            ["DELETE FROM policy_groups WHERE policy = $1", "DELETE FROM policy_resources WHERE policy = $1"]
        {
            self.run("policy", query(sql).bind(id.clone()).of_row(id.clone())).await?;
        }
        self.link_policy(policy).await
    }

    async fn link_policy(&mut self, policy: &Policy) -> Result<(), StoreError> {
        for group in &policy.groups {
            self.own_group(*group).await?;
            let statement = query(
                "INSERT INTO policy_groups (policy, user_group) VALUES ($1, $2) ON CONFLICT (policy, user_group) DO NOTHING",
            )
            .bind(policy.id.to_string())
            .bind(group.to_string());
            self.run("policy", statement.of_row(policy.id.to_string())).await?;
        }
        for resource in &policy.resources {
            let sql = "SELECT 1 AS one FROM resources WHERE id = $1 AND organization = $2";
            self.own("resource", sql, resource.to_string()).await?;
            let statement = query(
                "INSERT INTO policy_resources (policy, resource) VALUES ($1, $2) ON CONFLICT (policy, resource) DO NOTHING",
            )
            .bind(policy.id.to_string())
            .bind(resource.to_string());
            self.run("policy", statement.of_row(policy.id.to_string())).await?;
        }
        Ok(())
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_policy(&mut self, id: PolicyId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM policies WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("policy", id.to_string(), statement).await
    }

    /// Adds an enrolment key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the site or owner.
    pub async fn insert_enrolment_key(&mut self, key: &EnrolmentKey) -> Result<(), StoreError> {
        let (mut site_id, mut owner_id, mut region_name, mut zone_name) = (None, None, None, None);
        let organization = match &key.target {
            EnrolmentTarget::Pop { region, zone } => {
                region_name = Some(region.clone());
                zone_name = Some(zone.clone());
                None
            }
            EnrolmentTarget::Connector { site } => {
                self.own_site(*site).await?;
                site_id = Some(site.to_string());
                Some(self.organization()?)
            }
            EnrolmentTarget::Device { owner } => {
                self.own_member(*owner).await?;
                owner_id = Some(owner.to_string());
                Some(self.organization()?)
            }
        };
        let statement = query(
            "INSERT INTO enrolment_keys (id, organization, kind, name, secret_hash, cap, uses, expires_ms, site, owner, \
             region, zone, created_ms, approval) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
        )
        .bind(key.id.to_string())
        .bind(organization)
        .bind(key.target.kind())
        .bind(key.name.clone())
        .bind(hex32::encode(key.secret_hash.as_bytes()))
        .bind(integer(key.cap))
        .bind(integer(key.uses))
        .bind(integer(key.expires_ms))
        .bind(site_id)
        .bind(owner_id)
        .bind(region_name)
        .bind(zone_name)
        .bind(integer(key.created_ms))
        .bind(i64::from(key.approval));
        self.run("enrolment key", statement.of_row(key.id.to_string())).await.map(|_| ())
    }

    /// Uses an enrolment key once; the same transaction makes what it is for.
    ///
    /// # Errors
    /// [`StoreError::KeySpent`] when it is used up or has expired.
    pub async fn use_enrolment_key(&mut self, id: EnrolmentKeyId) -> Result<(), StoreError> {
        let statement = query(
            "UPDATE enrolment_keys SET uses = uses + 1 WHERE id = $1 AND uses < cap AND expires_ms > $2",
        )
        .bind(id.to_string())
        .bind(integer(self.at_ms));
        if self.run("enrolment key", statement.of_row(id.to_string())).await? == 1 {
            return Ok(());
        }
        let statement = query("SELECT uses, cap FROM enrolment_keys WHERE id = $1").bind(id.to_string());
        let row = self
            .fetch("enrolment key", statement)
            .await?
            .ok_or_else(|| StoreError::NotFound { kind: "enrolment key", id: id.to_string() })?;
        let used_up = row::number(&row, "uses")? >= row::number(&row, "cap")?;
        Err(StoreError::KeySpent(if used_up { "is used up" } else { "has expired" }))
    }

    /// Removes an enrolment key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_enrolment_key(&mut self, id: EnrolmentKeyId) -> Result<(), StoreError> {
        let statement = match self.scope {
            Scope::Installation => query("DELETE FROM enrolment_keys WHERE id = $1 AND organization IS NULL")
                .bind(id.to_string()),
            Scope::Organization(organization) => {
                query("DELETE FROM enrolment_keys WHERE id = $1 AND organization = $2")
                    .bind(id.to_string())
                    .bind(organization.to_string())
            }
        };
        self.hit("enrolment key", id.to_string(), statement).await
    }

    /// Adds an API token.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_token(&mut self, token: &Token) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO tokens (id, organization, name, scopes, secret_hash, expires_ms, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(token.id.to_string())
        .bind(self.organization()?)
        .bind(token.name.clone())
        .bind(json_text(&token.scopes))
        .bind(hex32::encode(token.secret_hash.as_bytes()))
        .bind(integer(token.expires_ms))
        .bind(integer(token.created_ms));
        self.run("token", statement.of_row(token.id.to_string())).await.map(|_| ())
    }

    /// Removes an API token.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_token(&mut self, id: TokenId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM tokens WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("token", id.to_string(), statement).await
    }
}
