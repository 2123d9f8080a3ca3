//! One object as it is inside the transaction that changes it: what its sender has seen is held against this, and it is
//! what the audit log has as before.

use super::{Change, Scope};
use crate::{
    Connector, Device, DeviceState, EnrolmentKey, Group, OidcProvider, Organization, Policy, Pop, Resource,
    Role, ServiceAccount, Site, StoreError, Token, User, read,
    row::{self, Row, integer},
    statement::query,
};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, OrganizationId, PolicyId, PopId, ResourceId,
    ServiceAccountId, SiteId, TokenId, UserId,
};

macro_rules! looks {
    ($($(#[$doc:meta])* $name:ident($id:ty) -> $row:ty = $table:literal, $kind:literal, $read:path;)*) => {
        impl Change {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// [`StoreError::Unavailable`].
                pub async fn $name(&mut self, id: $id) -> Result<Option<$row>, StoreError> {
                    let sql = concat!("SELECT * FROM ", $table, " WHERE id = $1 AND organization = $2");
                    let statement = query(sql).bind(id.to_string()).bind(self.organization()?);
                    self.fetch($kind, statement).await?.as_ref().map($read).transpose()
                }
            )*
        }
    };
}

looks! {
    /// A site.
    site(SiteId) -> Site = "sites", "site", read::site;
    /// A connector.
    connector(ConnectorId) -> Connector = "connectors", "connector", read::connector;
    /// A resource.
    resource(ResourceId) -> Resource = "resources", "resource", read::resource;
    /// A group.
    group(GroupId) -> Group = "user_groups", "group", read::group;
    /// A person.
    user(UserId) -> User = "users", "user", read::user;
    /// A service account.
    service_account(ServiceAccountId) -> ServiceAccount = "service_accounts", "service account", read::service_account;
    /// A device.
    device(DeviceId) -> Device = "devices", "device", read::device;
    /// A token.
    token(TokenId) -> Token = "tokens", "token", read::token;
}

impl Change {
    /// A PoP.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn pop(&mut self, id: PopId) -> Result<Option<Pop>, StoreError> {
        let statement = query("SELECT * FROM pops WHERE id = $1").bind(id.to_string());
        self.fetch("PoP", statement).await?.as_ref().map(read::pop).transpose()
    }

    /// An enrolment key of this change's organization, or of the installation.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn enrolment_key(&mut self, id: EnrolmentKeyId) -> Result<Option<EnrolmentKey>, StoreError> {
        let statement = match self.scope {
            Scope::Installation => {
                query("SELECT * FROM enrolment_keys WHERE id = $1 AND organization IS NULL")
                    .bind(id.to_string())
            }
            Scope::Organization(organization) => {
                query("SELECT * FROM enrolment_keys WHERE id = $1 AND organization = $2")
                    .bind(id.to_string())
                    .bind(organization.to_string())
            }
        };
        self.fetch("enrolment key", statement).await?.as_ref().map(read::enrolment_key).transpose()
    }

    /// An organization's own row.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn organization_row(&mut self, id: OrganizationId) -> Result<Option<Organization>, StoreError> {
        let statement = query("SELECT * FROM organizations WHERE id = $1").bind(id.to_string());
        self.fetch("organization", statement).await?.as_ref().map(read::organization).transpose()
    }

    /// A policy with its groups and resources.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn policy(&mut self, id: PolicyId) -> Result<Option<Policy>, StoreError> {
        let statement = query("SELECT * FROM policies WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        let Some(found) = self.fetch("policy", statement).await? else { return Ok(None) };
        let statement = query("SELECT user_group FROM policy_groups WHERE policy = $1 ORDER BY user_group");
        let groups = self.tx.fetch_all("policy", statement.bind(id.to_string())).await?;
        let statement = query("SELECT resource FROM policy_resources WHERE policy = $1 ORDER BY resource");
        let resources = self.tx.fetch_all("policy", statement.bind(id.to_string())).await?;
        Ok(Some(Policy {
            id: row::parsed(&found, "id")?,
            name: row::text(&found, "name")?,
            groups: groups.iter().map(|row| row::parsed(row, "user_group")).collect::<Result<_, _>>()?,
            resources: resources.iter().map(|row| row::parsed(row, "resource")).collect::<Result<_, _>>()?,
            created_ms: row::number(&found, "created_ms")?,
        }))
    }

    /// An OpenID provider.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn oidc_provider(&mut self, name: &str) -> Result<Option<OidcProvider>, StoreError> {
        let statement = query("SELECT * FROM oidc_providers WHERE name = $1 AND organization = $2")
            .bind(name.to_owned())
            .bind(self.organization()?);
        self.fetch("OpenID provider", statement).await?.as_ref().map(read::oidc_provider).transpose()
    }

    /// Every owner of the organization, with their generation.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn owners(&mut self) -> Result<Vec<(UserId, u64)>, StoreError> {
        let sql = "SELECT id, generation FROM users WHERE role = $1 AND organization = $2 ORDER BY id";
        let statement = query(sql).bind(Role::Owner.to_string()).bind(self.organization()?);
        let rows = self.tx.fetch_all("user", statement).await?;
        rows.iter().map(|row| Ok((row::parsed(row, "id")?, row::number(row, "generation")?))).collect()
    }

    /// Gives a connector another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn rename_connector(&mut self, id: ConnectorId, name: &str) -> Result<(), StoreError> {
        let statement = query("UPDATE connectors SET name = $1 WHERE id = $2 AND organization = $3")
            .bind(name)
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("connector", id.to_string(), statement).await
    }

    /// Gives a service account another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn rename_service_account(
        &mut self,
        id: ServiceAccountId,
        name: &str,
    ) -> Result<(), StoreError> {
        let statement = query("UPDATE service_accounts SET name = $1 WHERE id = $2 AND organization = $3")
            .bind(name)
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("service account", id.to_string(), statement).await
    }

    /// Gives a person a role.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_role(&mut self, id: UserId, role: Role) -> Result<(), StoreError> {
        let statement = query("UPDATE users SET role = $1 WHERE id = $2 AND organization = $3")
            .bind(role.to_string())
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("user", id.to_string(), statement).await
    }

    /// Sets whether a device may have access.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_device_state(&mut self, id: DeviceId, state: DeviceState) -> Result<(), StoreError> {
        let statement = query("UPDATE devices SET state = $1 WHERE id = $2 AND organization = $3")
            .bind(state.to_string())
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("device", id.to_string(), statement).await
    }

    /// Sets how an organization works: approval, retention, and how fresh a sign-in has to be.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_settings(&mut self, row: &Organization) -> Result<(), StoreError> {
        let statement = query(
            "UPDATE organizations SET approve_devices = $1, audit_retention_days = $2, flow_retention_days = $3, \
             sign_in_age_ms = $4 WHERE id = $5",
        )
        .bind(i64::from(row.approve_devices))
        .bind(integer(row.audit_retention_days))
        .bind(integer(row.flow_retention_days))
        .bind(integer(row.sign_in_age_ms))
        .bind(row.id.to_string());
        self.hit("organization", row.id.to_string(), statement).await
    }
}

/// Whether a column that holds 0 or 1 holds 1.
pub(crate) fn flag(row: &Row, column: &'static str) -> Result<bool, StoreError> {
    match row::number(row, column)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(row::corrupt(column, format!("expected 0 or 1, got {other}"))),
    }
}
