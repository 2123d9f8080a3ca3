//! Changes of who there is: groups, members, users, service accounts, devices, generations.

use super::Change;
use crate::{
    Device, Group, Member, ServiceAccount, StoreError, User,
    row::{self, hex32, integer},
    statement::query,
    touched::membership,
};
use wire::{ConnectorId, DeviceId, GroupId, PopId, ServiceAccountId, UserId};

impl Change {
    /// Adds a group.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert_group(&mut self, group: &Group) -> Result<(), StoreError> {
        let statement =
            query("INSERT INTO user_groups (id, organization, name, created_ms) VALUES ($1, $2, $3, $4)")
                .bind(group.id.to_string())
                .bind(self.organization()?)
                .bind(group.name.clone())
                .bind(integer(group.created_ms));
        self.run("group", statement.of_row(group.id.to_string())).await.map(|_| ())
    }

    /// Gives a group another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn rename_group(&mut self, id: GroupId, name: &str) -> Result<(), StoreError> {
        let statement = query("UPDATE user_groups SET name = $1 WHERE id = $2 AND organization = $3")
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
        let statement = query("DELETE FROM user_groups WHERE id = $1 AND organization = $2")
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
        let statement = query(
            "INSERT INTO memberships (organization, user_group, member, generation, present) VALUES ($1, $2, $3, $4 + 1, 1) \
             ON CONFLICT (user_group, member) DO UPDATE SET present = 1, generation = \
             CASE WHEN memberships.generation <= $4 THEN $4 + 1 \
             WHEN memberships.present = 1 THEN memberships.generation ELSE memberships.generation + 1 END \
             RETURNING generation",
        )
        .bind(self.organization()?)
        .bind(group.to_string())
        .bind(member.to_string())
        .bind(integer(struck))
        .of_row(membership(group, member));
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
        let statement = query(
            "UPDATE memberships SET present = 0 WHERE user_group = $1 AND member = $2 AND organization = $3 AND present = 1",
        )
        .bind(group.to_string())
        .bind(member.to_string())
        .bind(self.organization()?)
        .of_row(membership(group, member));
        self.hit("membership", format!("{member} of {group}"), statement).await
    }

    /// Adds a person.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the address is taken.
    pub async fn insert_user(&mut self, user: &User) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO users (id, organization, name, email, generation, created_ms, role) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(user.id.to_string())
        .bind(self.organization()?)
        .bind(user.name.clone())
        .bind(user.email.clone())
        .bind(integer(user.generation))
        .bind(integer(user.created_ms))
        .bind(user.role.to_string());
        self.run("user", statement.of_row(user.id.to_string())).await.map(|_| ())
    }

    /// Changes a person's name and address.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Conflict`].
    pub async fn update_user(&mut self, id: UserId, name: &str, email: &str) -> Result<(), StoreError> {
        let statement = query("UPDATE users SET name = $1, email = $2 WHERE id = $3 AND organization = $4")
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
        let statement = query(
            "INSERT INTO service_accounts (id, organization, name, generation, created_ms) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(account.id.to_string())
        .bind(self.organization()?)
        .bind(account.name.clone())
        .bind(integer(account.generation))
        .bind(integer(account.created_ms));
        self.run("service account", statement.of_row(account.id.to_string())).await.map(|_| ())
    }

    /// Removes a person or service account with its devices, memberships and device keys.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_member(&mut self, member: Member) -> Result<(), StoreError> {
        let organization = self.organization()?;
        // Which rows: who holds the state before reads these alone.
        for (which, sql) in [
            (
                "SELECT id AS name FROM devices WHERE owner = $1 AND organization = $2",
                "DELETE FROM devices WHERE owner = $1 AND organization = $2",
            ),
            (
                "SELECT user_group || ' ' || member AS name FROM memberships WHERE member = $1 AND organization = $2",
                "DELETE FROM memberships WHERE member = $1 AND organization = $2",
            ),
            (
                "SELECT id AS name FROM enrolment_keys WHERE owner = $1 AND organization = $2",
                "DELETE FROM enrolment_keys WHERE owner = $1 AND organization = $2",
            ),
        ] {
            let of_member = |sql| query(sql).bind(member.to_string()).bind(organization.clone());
            let rows = self.tx.fetch_all("member", of_member(which)).await?;
            if rows.is_empty() {
                continue;
            }
            let names = rows.iter().map(|row| row::text(row, "name")).collect::<Result<_, _>>()?;
            self.run("member", of_member(sql).of_rows(names)).await?;
        }
        let (kind, sql) = match member {
            Member::User(_) => ("user", "DELETE FROM users WHERE id = $1 AND organization = $2"),
            Member::ServiceAccount(_) => {
                ("service account", "DELETE FROM service_accounts WHERE id = $1 AND organization = $2")
            }
        };
        self.hit(kind, member.to_string(), query(sql).bind(member.to_string()).bind(organization)).await
    }

    /// Adds a device.
    ///
    /// # Errors
    /// [`StoreError::Conflict`], [`StoreError::NotFound`] for the owner.
    pub async fn insert_device(&mut self, device: &Device) -> Result<(), StoreError> {
        self.own_member(device.owner).await?;
        let statement = query(
            "INSERT INTO devices (id, organization, owner, name, identity_key, generation, enrolled_by, created_ms, state) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(device.id.to_string())
        .bind(self.organization()?)
        .bind(device.owner.to_string())
        .bind(device.name.clone())
        .bind(hex32::encode(&device.identity_key))
        .bind(integer(device.generation))
        .bind(device.enrolled_by.to_string())
        .bind(integer(device.created_ms))
        .bind(device.state.to_string());
        self.run("device", statement.of_row(device.id.to_string())).await.map(|_| ())
    }

    /// Gives a device another name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn rename_device(&mut self, id: DeviceId, name: &str) -> Result<(), StoreError> {
        let statement = query("UPDATE devices SET name = $1 WHERE id = $2 AND organization = $3")
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
        let statement = query("DELETE FROM devices WHERE id = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("device", id.to_string(), statement).await
    }

    /// Gives access back: raises the generation above itself and above `struck`, which may be higher in a
    /// database that was restored. Gives the new generation.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn raise_generation(&mut self, subject: &Subject, struck: u64) -> Result<u64, StoreError> {
        let (kind, sql, id) = subject.raise();
        let mut statement = query(sql).bind(id.clone()).bind(integer(struck)).of_row(id.clone());
        if !matches!(subject, Subject::Pop(_)) {
            statement = statement.bind(self.organization()?);
        }
        let row = self.fetch(kind, statement).await?.ok_or(StoreError::NotFound { kind, id })?;
        row::number(&row, "generation")
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
                "UPDATE users SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3 RETURNING generation",
                id.to_string(),
            ),
            Self::ServiceAccount(id) => (
                "service account",
                "UPDATE service_accounts SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3 RETURNING generation",
                id.to_string(),
            ),
            Self::Device(id) => (
                "device",
                "UPDATE devices SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3 RETURNING generation",
                id.to_string(),
            ),
            Self::Connector(id) => (
                "connector",
                "UPDATE connectors SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 AND organization = $3 RETURNING generation",
                id.to_string(),
            ),
            Self::Pop(id) => (
                "PoP",
                "UPDATE pops SET generation = CASE WHEN generation < $2 THEN $2 ELSE generation END + 1 WHERE id = $1 RETURNING generation",
                id.to_string(),
            ),
        }
    }
}
