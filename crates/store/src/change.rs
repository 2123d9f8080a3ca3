//! The configuration transaction. The version row, the change and its audit row commit together.

use crate::{
    Administrator, Connector, Device, EnrolmentKey, EnrolmentTarget, Group, Member, OneTimeLink,
    Organization, Policy, Pop, Resource, ResourceMode, SecretHash, ServiceAccount, Site, StoreError, Token,
    User, Version,
    row::{self, hex32, integer, json_text},
    sqlite::in_time,
};
use sqlx::{
    Sqlite, Transaction,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, OrganizationId, PolicyId, PopId, ResourceId,
    ServiceAccountId, SiteId, TokenId, UserId,
};

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
    tx: Transaction<'static, Sqlite>,
    scope: Scope,
    actor: String,
    at_ms: u64,
    version: Version,
}

type Statement<'q> = Query<'q, Sqlite, SqliteArguments>;

impl Change {
    pub(crate) async fn begin(
        mut tx: Transaction<'static, Sqlite>,
        scope: Scope,
        actor: &str,
        at_ms: u64,
    ) -> Result<Self, StoreError> {
        let row = match scope {
            Scope::Installation => {
                let row = in_time(
                    sqlx::query(
                        "UPDATE installation SET version = version + 1 WHERE singleton = 1 RETURNING incarnation, version",
                    )
                    .fetch_optional(&mut *tx),
                )
                .await?;
                in_time(sqlx::query("UPDATE organizations SET version = version + 1").execute(&mut *tx))
                    .await?
                    .map_err(|error| StoreError::from_sqlx("organization", error))?;
                row
            }
            Scope::Organization(id) => {
                in_time(
                    sqlx::query(
                        "UPDATE organizations SET version = version + 1 WHERE id = $1 RETURNING incarnation, version",
                    )
                    .bind(id.to_string())
                    .fetch_optional(&mut *tx),
                )
                .await?
            }
        };
        let row = row.map_err(|error| StoreError::from_sqlx("organization", error))?.ok_or_else(|| {
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
        Ok(Self { tx, scope, actor: actor.to_owned(), at_ms, version })
    }

    /// Writes the audit row and commits.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: when it says so at the commit itself, the outcome is unknown.
    pub async fn commit(mut self, action: &str, subject: &str, detail: &str) -> Result<Version, StoreError> {
        let organization = match self.scope {
            Scope::Installation => None,
            Scope::Organization(id) => Some(id.to_string()),
        };
        let audit = sqlx::query(
            "INSERT INTO audit (organization, incarnation, version, at_ms, actor, action, subject, detail) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(organization)
        .bind(integer(self.version.incarnation))
        .bind(integer(self.version.version))
        .bind(integer(self.at_ms))
        .bind(self.actor.clone())
        .bind(action.to_owned())
        .bind(subject.to_owned())
        .bind(detail.to_owned());
        in_time(audit.execute(&mut *self.tx))
            .await?
            .map_err(|error| StoreError::from_sqlx("audit", error))?;
        in_time(self.tx.commit()).await?.map_err(|error| StoreError::from_sqlx("change", error))?;
        Ok(self.version)
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

    async fn run(&mut self, kind: &'static str, statement: Statement<'_>) -> Result<u64, StoreError> {
        in_time(statement.execute(&mut *self.tx))
            .await?
            .map(|done| done.rows_affected())
            .map_err(|error| StoreError::from_sqlx(kind, error))
    }

    async fn fetch(
        &mut self,
        kind: &'static str,
        statement: Statement<'_>,
    ) -> Result<Option<SqliteRow>, StoreError> {
        in_time(statement.fetch_optional(&mut *self.tx))
            .await?
            .map_err(|error| StoreError::from_sqlx(kind, error))
    }

    /// Runs a statement that must hit exactly one existing row.
    async fn hit(
        &mut self,
        kind: &'static str,
        id: String,
        statement: Statement<'_>,
    ) -> Result<(), StoreError> {
        if self.run(kind, statement).await? == 0 { Err(StoreError::NotFound { kind, id }) } else { Ok(()) }
    }

    /// Refuses a reference to an object of another organization, which the schema alone allows.
    async fn own(&mut self, kind: &'static str, sql: &'static str, id: String) -> Result<(), StoreError> {
        let organization = self.organization()?;
        let found = self.fetch(kind, sqlx::query(sql).bind(id.clone()).bind(organization)).await?;
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

    // ---- installation ---------------------------------------------------------------------------

    /// Adds an organization.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_organization(&mut self, organization: &Organization) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO organizations (id, name, incarnation, version, grant_life_ms, renew_after_ms, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(organization.id.to_string())
        .bind(organization.name.clone())
        .bind(integer(organization.version.incarnation))
        .bind(integer(organization.version.version))
        .bind(integer(organization.grant_life_ms))
        .bind(integer(organization.renew_after_ms))
        .bind(integer(organization.created_ms));
        self.run("organization", statement).await.map(|_| ())
    }

    /// Gives an organization another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn rename_organization(&mut self, id: OrganizationId, name: &str) -> Result<(), StoreError> {
        let statement = sqlx::query("UPDATE organizations SET name = $1 WHERE id = $2")
            .bind(name.to_owned())
            .bind(id.to_string());
        self.hit("organization", id.to_string(), statement).await
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
            sqlx::query(
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
            sqlx::query("UPDATE installation SET incarnation = $1 WHERE singleton = 1").bind(integer(to));
        self.run("installation", statement).await?;
        let statement = sqlx::query("UPDATE organizations SET incarnation = $1").bind(integer(to));
        self.run("organization", statement).await.map(|_| ())
    }

    /// Says that this change removes much at once on purpose: without it nobody believes the smaller state.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn allow_shrink(&mut self) -> Result<(), StoreError> {
        let statement = match self.scope {
            Scope::Installation => sqlx::query("UPDATE organizations SET shrink_version = version"),
            Scope::Organization(id) => {
                sqlx::query("UPDATE organizations SET shrink_version = version WHERE id = $1")
                    .bind(id.to_string())
            }
        };
        self.run("organization", statement).await.map(|_| ())
    }

    /// Adds a PoP.
    ///
    /// # Errors
    /// [`StoreError::Conflict`].
    pub async fn insert_pop(&mut self, pop: &Pop) -> Result<(), StoreError> {
        let statement = sqlx::query(
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
        let statement = sqlx::query("UPDATE pops SET address = $1, region = $2, zone = $3 WHERE id = $4")
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
        let statement = sqlx::query("UPDATE pops SET enrolled_by = $1 WHERE id = $2")
            .bind(key.to_string())
            .bind(id.to_string());
        self.hit("PoP", id.to_string(), statement).await
    }

    /// Removes a PoP.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_pop(&mut self, id: PopId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM pops WHERE id = $1").bind(id.to_string());
        self.hit("PoP", id.to_string(), statement).await
    }

    /// Adds an administrator.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_administrator(&mut self, administrator: &Administrator) -> Result<(), StoreError> {
        let statement = sqlx::query(
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
            sqlx::query("INSERT INTO one_time_links (secret_hash, purpose, expires_ms) VALUES ($1, $2, $3)")
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
        let statement = sqlx::query(
            "DELETE FROM one_time_links WHERE secret_hash = $1 AND purpose = $2 AND expires_ms > $3",
        )
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
        let statement = sqlx::query(
            "INSERT INTO trust_documents (name, document, updated_ms) VALUES ($1, $2, $3) \
             ON CONFLICT (name) DO UPDATE SET document = excluded.document, updated_ms = excluded.updated_ms",
        )
        .bind(name.to_owned())
        .bind(document.to_owned())
        .bind(integer(self.at_ms));
        self.run("trust document", statement).await.map(|_| ())
    }

    // ---- sites, connectors, resources -----------------------------------------------------------

    /// Adds a site.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_site(&mut self, site: &Site) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO sites (id, organization, name, prefixes, regions, created_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(site.id.to_string())
        .bind(self.organization()?)
        .bind(site.name.clone())
        .bind(json_text(&site.prefixes))
        .bind(json_text(&site.regions))
        .bind(integer(site.created_ms));
        self.run("site", statement).await.map(|_| ())
    }

    /// Replaces a site's values.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_site(&mut self, site: &Site) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "UPDATE sites SET name = $1, prefixes = $2, regions = $3 WHERE id = $4 AND organization = $5",
        )
        .bind(site.name.clone())
        .bind(json_text(&site.prefixes))
        .bind(json_text(&site.regions))
        .bind(site.id.to_string())
        .bind(self.organization()?);
        self.hit("site", site.id.to_string(), statement).await
    }

    /// Removes a site without connectors and resources.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Reference`] while something is in it.
    pub async fn delete_site(&mut self, id: SiteId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM sites WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("site", id.to_string(), statement).await
    }

    /// Adds a connector.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`] for the site.
    pub async fn insert_connector(&mut self, connector: &Connector) -> Result<(), StoreError> {
        self.own_site(connector.site).await?;
        let statement = sqlx::query(
            "INSERT INTO connectors (id, organization, site, name, identity_key, wireguard_key, seal_key, generation, \
             enrolled_by, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(connector.id.to_string())
        .bind(self.organization()?)
        .bind(connector.site.to_string())
        .bind(connector.name.clone())
        .bind(hex32::encode(&connector.identity_key))
        .bind(hex32::encode(&connector.wireguard_key))
        .bind(hex32::encode(&connector.seal_key))
        .bind(integer(connector.generation))
        .bind(connector.enrolled_by.to_string())
        .bind(integer(connector.created_ms));
        self.run("connector", statement).await.map(|_| ())
    }

    /// Removes a connector.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_connector(&mut self, id: ConnectorId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM connectors WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("connector", id.to_string(), statement).await
    }

    /// Adds a resource.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when name or alias is taken, [`StoreError::NotFound`] for the site.
    pub async fn insert_resource(&mut self, resource: &Resource) -> Result<(), StoreError> {
        self.own_site(resource.site).await?;
        let statement = sqlx::query(
            "INSERT INTO resources (id, organization, site, name, alias, address, ports, mode, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(resource.id.to_string())
        .bind(self.organization()?)
        .bind(resource.site.to_string())
        .bind(resource.name.clone())
        .bind(resource.alias.clone())
        .bind(resource.address.clone())
        .bind(json_text(&resource.ports))
        .bind(mode_text(resource.mode))
        .bind(integer(resource.created_ms));
        self.run("resource", statement).await.map(|_| ())
    }

    /// Replaces a resource's values.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_resource(&mut self, resource: &Resource) -> Result<(), StoreError> {
        self.own_site(resource.site).await?;
        let statement = sqlx::query(
            "UPDATE resources SET site = $1, name = $2, alias = $3, address = $4, ports = $5, mode = $6 \
             WHERE id = $7 AND organization = $8",
        )
        .bind(resource.site.to_string())
        .bind(resource.name.clone())
        .bind(resource.alias.clone())
        .bind(resource.address.clone())
        .bind(json_text(&resource.ports))
        .bind(mode_text(resource.mode))
        .bind(resource.id.to_string())
        .bind(self.organization()?);
        self.hit("resource", resource.id.to_string(), statement).await
    }

    /// Removes a resource, also from every policy.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_resource(&mut self, id: ResourceId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM resources WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("resource", id.to_string(), statement).await
    }

    // ---- people ---------------------------------------------------------------------------------

    /// Adds a group.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_group(&mut self, group: &Group) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO user_groups (id, organization, name, created_ms) VALUES ($1, $2, $3, $4)",
        )
        .bind(group.id.to_string())
        .bind(self.organization()?)
        .bind(group.name.clone())
        .bind(integer(group.created_ms));
        self.run("group", statement).await.map(|_| ())
    }

    /// Gives a group another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn rename_group(&mut self, id: GroupId, name: &str) -> Result<(), StoreError> {
        let statement = sqlx::query("UPDATE user_groups SET name = $1 WHERE id = $2 AND organization = $3")
            .bind(name.to_owned())
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("group", id.to_string(), statement).await
    }

    /// Removes a group, its memberships, and its place in policies.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_group(&mut self, id: GroupId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM user_groups WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("group", id.to_string(), statement).await
    }

    /// Puts a member into a group; joining again raises the generation, and so does a generation that is
    /// struck (`struck` and all below it). Returns the generation.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for group or member.
    pub async fn add_member(
        &mut self,
        group: GroupId,
        member: Member,
        struck: u64,
    ) -> Result<u64, StoreError> {
        self.own_group(group).await?;
        self.own_member(member).await?;
        let statement = sqlx::query(
            "INSERT INTO memberships (organization, user_group, member, generation, present) VALUES ($1, $2, $3, $4 + 1, 1) \
             ON CONFLICT (user_group, member) DO UPDATE SET present = 1, generation = \
             CASE WHEN memberships.generation <= $4 THEN $4 + 1 \
             WHEN memberships.present = 1 THEN memberships.generation ELSE memberships.generation + 1 END \
             RETURNING generation",
        )
        .bind(self.organization()?)
        .bind(group.to_string())
        .bind(member.to_string())
        .bind(integer(struck));
        let row = self
            .fetch("membership", statement)
            .await?
            .ok_or_else(|| StoreError::NotFound { kind: "membership", id: format!("{member} of {group}") })?;
        row::number(&row, "generation")
    }

    /// Takes a member out of a group.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is not in it.
    pub async fn remove_member(&mut self, group: GroupId, member: Member) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "UPDATE memberships SET present = 0 WHERE user_group = $1 AND member = $2 AND organization = $3 AND present = 1",
        )
        .bind(group.to_string())
        .bind(member.to_string())
        .bind(self.organization()?);
        self.hit("membership", format!("{member} of {group}"), statement).await
    }

    /// Adds a person.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the address is taken.
    pub async fn insert_user(&mut self, user: &User) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO users (id, organization, name, email, generation, created_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(user.id.to_string())
        .bind(self.organization()?)
        .bind(user.name.clone())
        .bind(user.email.clone())
        .bind(integer(user.generation))
        .bind(integer(user.created_ms));
        self.run("user", statement).await.map(|_| ())
    }

    /// Changes a person's name and address.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_user(&mut self, id: UserId, name: &str, email: &str) -> Result<(), StoreError> {
        let statement =
            sqlx::query("UPDATE users SET name = $1, email = $2 WHERE id = $3 AND organization = $4")
                .bind(name.to_owned())
                .bind(email.to_owned())
                .bind(id.to_string())
                .bind(self.organization()?);
        self.hit("user", id.to_string(), statement).await
    }

    /// Adds a service account.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_service_account(&mut self, account: &ServiceAccount) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "INSERT INTO service_accounts (id, organization, name, generation, created_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(account.id.to_string())
        .bind(self.organization()?)
        .bind(account.name.clone())
        .bind(integer(account.generation))
        .bind(integer(account.created_ms));
        self.run("service account", statement).await.map(|_| ())
    }

    /// Removes a person or service account with its devices, memberships and device keys.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_member(&mut self, member: Member) -> Result<(), StoreError> {
        let organization = self.organization()?;
        for sql in [
            "DELETE FROM devices WHERE owner = $1 AND organization = $2",
            "DELETE FROM memberships WHERE member = $1 AND organization = $2",
            "DELETE FROM enrolment_keys WHERE owner = $1 AND organization = $2",
        ] {
            self.run("member", sqlx::query(sql).bind(member.to_string()).bind(organization.clone())).await?;
        }
        let (kind, sql) = match member {
            Member::User(_) => ("user", "DELETE FROM users WHERE id = $1 AND organization = $2"),
            Member::ServiceAccount(_) => {
                ("service account", "DELETE FROM service_accounts WHERE id = $1 AND organization = $2")
            }
        };
        self.hit(kind, member.to_string(), sqlx::query(sql).bind(member.to_string()).bind(organization)).await
    }

    /// Adds a device.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`] for the owner.
    pub async fn insert_device(&mut self, device: &Device) -> Result<(), StoreError> {
        self.own_member(device.owner).await?;
        let statement = sqlx::query(
            "INSERT INTO devices (id, organization, owner, name, identity_key, generation, enrolled_by, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(device.id.to_string())
        .bind(self.organization()?)
        .bind(device.owner.to_string())
        .bind(device.name.clone())
        .bind(hex32::encode(&device.identity_key))
        .bind(integer(device.generation))
        .bind(device.enrolled_by.to_string())
        .bind(integer(device.created_ms));
        self.run("device", statement).await.map(|_| ())
    }

    /// Gives a device another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn rename_device(&mut self, id: DeviceId, name: &str) -> Result<(), StoreError> {
        let statement = sqlx::query("UPDATE devices SET name = $1 WHERE id = $2 AND organization = $3")
            .bind(name.to_owned())
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("device", id.to_string(), statement).await
    }

    /// Removes a device.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_device(&mut self, id: DeviceId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM devices WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("device", id.to_string(), statement).await
    }

    /// Gives access back: raises the generation above itself and above `struck`, which may be higher in a
    /// database that was restored.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn raise_generation(&mut self, subject: &Subject, struck: u64) -> Result<(), StoreError> {
        let (kind, sql, id) = subject.raise();
        let mut statement = sqlx::query(sql).bind(id.clone()).bind(integer(struck));
        if !matches!(subject, Subject::Pop(_)) {
            statement = statement.bind(self.organization()?);
        }
        self.hit(kind, id, statement).await
    }

    // ---- policies, keys, tokens -----------------------------------------------------------------

    /// Adds a policy.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`] for groups and resources.
    pub async fn insert_policy(&mut self, policy: &Policy) -> Result<(), StoreError> {
        let statement =
            sqlx::query("INSERT INTO policies (id, organization, name, created_ms) VALUES ($1, $2, $3, $4)")
                .bind(policy.id.to_string())
                .bind(self.organization()?)
                .bind(policy.name.clone())
                .bind(integer(policy.created_ms));
        self.run("policy", statement).await?;
        self.link_policy(policy).await
    }

    /// Replaces a policy's values.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_policy(&mut self, policy: &Policy) -> Result<(), StoreError> {
        let id = policy.id.to_string();
        let statement = sqlx::query("UPDATE policies SET name = $1 WHERE id = $2 AND organization = $3")
            .bind(policy.name.clone())
            .bind(id.clone())
            .bind(self.organization()?);
        self.hit("policy", id.clone(), statement).await?;
        for sql in
            ["DELETE FROM policy_groups WHERE policy = $1", "DELETE FROM policy_resources WHERE policy = $1"]
        {
            self.run("policy", sqlx::query(sql).bind(id.clone())).await?;
        }
        self.link_policy(policy).await
    }

    async fn link_policy(&mut self, policy: &Policy) -> Result<(), StoreError> {
        for group in &policy.groups {
            self.own_group(*group).await?;
            let statement = sqlx::query(
                "INSERT INTO policy_groups (policy, user_group) VALUES ($1, $2) ON CONFLICT (policy, user_group) DO NOTHING",
            )
            .bind(policy.id.to_string())
            .bind(group.to_string());
            self.run("policy", statement).await?;
        }
        for resource in &policy.resources {
            let sql = "SELECT 1 AS one FROM resources WHERE id = $1 AND organization = $2";
            self.own("resource", sql, resource.to_string()).await?;
            let statement = sqlx::query(
                "INSERT INTO policy_resources (policy, resource) VALUES ($1, $2) ON CONFLICT (policy, resource) DO NOTHING",
            )
            .bind(policy.id.to_string())
            .bind(resource.to_string());
            self.run("policy", statement).await?;
        }
        Ok(())
    }

    /// Removes a policy.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_policy(&mut self, id: PolicyId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM policies WHERE id = $1 AND organization = $2")
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
        let statement = sqlx::query(
            "INSERT INTO enrolment_keys (id, organization, kind, name, secret_hash, cap, uses, expires_ms, site, owner, \
             region, zone, created_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
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
        .bind(integer(key.created_ms));
        self.run("enrolment key", statement).await.map(|_| ())
    }

    /// Uses an enrolment key once; the same transaction makes what it is for.
    ///
    /// # Errors
    /// [`StoreError::KeySpent`] when it is used up or has expired.
    pub async fn use_enrolment_key(&mut self, id: EnrolmentKeyId) -> Result<(), StoreError> {
        let statement = sqlx::query(
            "UPDATE enrolment_keys SET uses = uses + 1 WHERE id = $1 AND uses < cap AND expires_ms > $2",
        )
        .bind(id.to_string())
        .bind(integer(self.at_ms));
        if self.run("enrolment key", statement).await? == 1 {
            return Ok(());
        }
        let statement =
            sqlx::query("SELECT uses, cap FROM enrolment_keys WHERE id = $1").bind(id.to_string());
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
            Scope::Installation => {
                sqlx::query("DELETE FROM enrolment_keys WHERE id = $1 AND organization IS NULL")
                    .bind(id.to_string())
            }
            Scope::Organization(organization) => {
                sqlx::query("DELETE FROM enrolment_keys WHERE id = $1 AND organization = $2")
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
        let statement = sqlx::query(
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
        self.run("token", statement).await.map(|_| ())
    }

    /// Removes an API token.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_token(&mut self, id: TokenId) -> Result<(), StoreError> {
        let statement = sqlx::query("DELETE FROM tokens WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("token", id.to_string(), statement).await
    }
}

/// Whose generation is raised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A person.
    User(UserId),
    /// A headless subject.
    ServiceAccount(ServiceAccountId),
    /// A machine.
    Device(DeviceId),
    /// A connector.
    Connector(ConnectorId),
    /// A PoP.
    Pop(PopId),
}

impl Subject {
    fn raise(&self) -> (&'static str, &'static str, String) {
        match self {
            Self::User(id) => (
                "user",
                "UPDATE users SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3",
                id.to_string(),
            ),
            Self::ServiceAccount(id) => (
                "service account",
                "UPDATE service_accounts SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3",
                id.to_string(),
            ),
            Self::Device(id) => (
                "device",
                "UPDATE devices SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3",
                id.to_string(),
            ),
            Self::Connector(id) => (
                "connector",
                "UPDATE connectors SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3",
                id.to_string(),
            ),
            Self::Pop(id) => (
                "PoP",
                "UPDATE pops SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1",
                id.to_string(),
            ),
        }
    }
}

const fn mode_text(mode: ResourceMode) -> &'static str {
    match mode {
        ResourceMode::Standard => "standard",
        ResourceMode::Strict => "strict",
    }
}
