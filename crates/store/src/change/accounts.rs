//! Accounts, passkeys, recovery codes and OpenID providers of one organization.

use super::Change;
use crate::{
    Account, AccountLink, NewUsers, OidcIdentity, OidcProvider, Passkey, SecretHash, StoreError, User,
    row::{hex32, integer, json_text},
    statement::query,
};
use wire::{OrganizationId, UserId};

/// How new users are written.
pub(crate) const fn new_users(new_users: NewUsers) -> &'static str {
    match new_users {
        NewUsers::Refuse => "refuse",
        NewUsers::Make => "make",
    }
}

impl Change {
    /// Gives a user an account. Its recovery codes are set by [`Change::set_totp`].
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the user has one or the name is taken.
    pub async fn insert_account(&mut self, account: &Account) -> Result<(), StoreError> {
        let id = account.id.to_string();
        let sql = "SELECT 1 AS one FROM users WHERE id = $1 AND organization = $2";
        self.own("user", sql, id.clone()).await?;
        let statement = query(
            "INSERT INTO accounts (id, organization, sign_in_name, passphrase_hash, totp, sessions_from_ms, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(id)
        .bind(self.organization()?)
        .bind(account.sign_in_name.clone())
        .bind(account.passphrase_hash.clone())
        .bind(account.totp.clone())
        .bind(integer(account.sessions_from_ms))
        .bind(integer(account.created_ms));
        self.run("account", statement).await.map(|_| ())
    }

    /// Makes the user and the account of an owner, in a change of the installation: the link that lets an owner in is
    /// the installation's, and both happen or neither.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the address is taken.
    pub async fn insert_owner(
        &mut self,
        organization: OrganizationId,
        user: &User,
        account: &Account,
    ) -> Result<(), StoreError> {
        let statement = query(
            "INSERT INTO users (id, organization, name, email, generation, created_ms, role) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(user.id.to_string())
        .bind(organization.to_string())
        .bind(user.name.clone())
        .bind(user.email.clone())
        .bind(integer(user.generation))
        .bind(integer(user.created_ms))
        .bind(user.role.to_string());
        self.run("user", statement.of_row(user.id.to_string())).await?;
        let statement = query(
            "INSERT INTO accounts (id, organization, sign_in_name, passphrase_hash, totp, sessions_from_ms, created_ms) \
             VALUES ($1, $2, $3, $4, NULL, $5, $6)",
        )
        .bind(account.id.to_string())
        .bind(organization.to_string())
        .bind(account.sign_in_name.clone())
        .bind(account.passphrase_hash.clone())
        .bind(integer(account.sessions_from_ms))
        .bind(integer(account.created_ms));
        self.run("account", statement).await.map(|_| ())
    }

    /// Adds a link that works once, and forgets those that work no more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for the user.
    pub async fn insert_account_link(&mut self, link: &AccountLink) -> Result<(), StoreError> {
        let user = link.user.to_string();
        let sql = "SELECT 1 AS one FROM users WHERE id = $1 AND organization = $2";
        self.own("user", sql, user.clone()).await?;
        let statement = query("DELETE FROM account_links WHERE organization = $1 AND expires_ms <= $2")
            .bind(self.organization()?)
            .bind(integer(self.at_ms));
        self.run("account link", statement).await?;
        let statement = query(
            "INSERT INTO account_links (secret_hash, organization, owner, expires_ms) VALUES ($1, $2, $3, $4)",
        )
        .bind(hex32::encode(link.secret_hash.as_bytes()))
        .bind(self.organization()?)
        .bind(user)
        .bind(integer(link.expires_ms));
        self.run("account link", statement).await.map(|_| ())
    }

    /// Uses a link up. Of two tries at once, one gets [`StoreError::NotFound`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when it is unknown, used or expired.
    pub async fn take_account_link(&mut self, secret: SecretHash, user: UserId) -> Result<(), StoreError> {
        let statement = query(
            "DELETE FROM account_links WHERE secret_hash = $1 AND owner = $2 AND organization = $3 AND expires_ms > $4",
        )
        .bind(hex32::encode(secret.as_bytes()))
        .bind(user.to_string())
        .bind(self.organization()?)
        .bind(integer(self.at_ms));
        self.hit("account link", "(secret)".into(), statement).await
    }

    /// Sets or removes the passphrase.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_passphrase(&mut self, id: UserId, hash: Option<&str>) -> Result<(), StoreError> {
        let statement = query("UPDATE accounts SET passphrase_hash = $1 WHERE id = $2 AND organization = $3")
            .bind(hash.map(str::to_owned))
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("account", id.to_string(), statement).await
    }

    /// Sets or removes the sealed secret of the authenticator app, and with it all recovery codes.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn set_totp(
        &mut self,
        id: UserId,
        sealed: Option<&str>,
        recovery_codes: &[SecretHash],
    ) -> Result<(), StoreError> {
        let statement = query("UPDATE accounts SET totp = $1 WHERE id = $2 AND organization = $3")
            .bind(sealed.map(str::to_owned))
            .bind(id.to_string())
            .bind(self.organization()?);
        self.hit("account", id.to_string(), statement).await?;
        let statement = query("DELETE FROM recovery_codes WHERE account = $1 AND organization = $2")
            .bind(id.to_string())
            .bind(self.organization()?);
        self.run("recovery code", statement).await?;
        for code in recovery_codes {
            let statement =
                query("INSERT INTO recovery_codes (code_hash, organization, account) VALUES ($1, $2, $3)")
                    .bind(hex32::encode(code.as_bytes()))
                    .bind(self.organization()?)
                    .bind(id.to_string());
            self.run("recovery code", statement).await?;
        }
        Ok(())
    }

    /// Uses a recovery code up. Of two tries at once, one gets [`StoreError::NotFound`].
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn take_recovery_code(&mut self, id: UserId, code: SecretHash) -> Result<(), StoreError> {
        let statement =
            query("DELETE FROM recovery_codes WHERE code_hash = $1 AND account = $2 AND organization = $3")
                .bind(hex32::encode(code.as_bytes()))
                .bind(id.to_string())
                .bind(self.organization()?);
        self.hit("recovery code", "(secret)".into(), statement).await
    }

    /// Ends every session of an account that began before `from_ms`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn end_sessions(&mut self, id: UserId, from_ms: u64) -> Result<(), StoreError> {
        let statement =
            query("UPDATE accounts SET sessions_from_ms = $1 WHERE id = $2 AND organization = $3")
                .bind(integer(from_ms))
                .bind(id.to_string())
                .bind(self.organization()?);
        self.hit("account", id.to_string(), statement).await
    }

    /// Adds a passkey.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the credential is registered already.
    pub async fn insert_passkey(&mut self, passkey: &Passkey) -> Result<(), StoreError> {
        let sql = "SELECT 1 AS one FROM accounts WHERE id = $1 AND organization = $2";
        self.own("account", sql, passkey.account.to_string()).await?;
        let statement = query(
            "INSERT INTO passkeys (credential, organization, account, name, document, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(passkey.credential.clone())
        .bind(self.organization()?)
        .bind(passkey.account.to_string())
        .bind(passkey.name.clone())
        .bind(passkey.document.clone())
        .bind(integer(passkey.created_ms));
        self.run("passkey", statement).await.map(|_| ())
    }

    /// Removes a passkey of an account.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_passkey(&mut self, account: UserId, credential: &str) -> Result<(), StoreError> {
        let statement =
            query("DELETE FROM passkeys WHERE credential = $1 AND account = $2 AND organization = $3")
                .bind(credential)
                .bind(account.to_string())
                .bind(self.organization()?);
        self.hit("passkey", credential.to_owned(), statement).await
    }

    /// Adds a provider, or replaces what is known of it. Under another issuer a subject is another person: whom the
    /// old one knew is forgotten.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn put_oidc_provider(&mut self, provider: &OidcProvider) -> Result<(), StoreError> {
        let statement = query(
            "DELETE FROM oidc_identities WHERE organization = $1 AND provider = $2 AND NOT EXISTS \
             (SELECT 1 FROM oidc_providers WHERE organization = $1 AND name = $2 AND issuer = $3)",
        )
        .bind(self.organization()?)
        .bind(provider.name.clone())
        .bind(provider.issuer.clone());
        self.run("OpenID identity", statement).await?;
        let statement = query(
            "INSERT INTO oidc_providers (organization, name, title, issuer, client_id, client_secret, scopes, \
             groups_claim, group_map, domains, new_users, ca_pem, created_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) \
             ON CONFLICT (organization, name) DO UPDATE SET title = excluded.title, issuer = excluded.issuer, \
             client_id = excluded.client_id, client_secret = excluded.client_secret, scopes = excluded.scopes, \
             groups_claim = excluded.groups_claim, group_map = excluded.group_map, domains = excluded.domains, \
             new_users = excluded.new_users, ca_pem = excluded.ca_pem",
        )
        .bind(self.organization()?)
        .bind(provider.name.clone())
        .bind(provider.title.clone())
        .bind(provider.issuer.clone())
        .bind(provider.client_id.clone())
        .bind(provider.client_secret.clone())
        .bind(provider.scopes.clone())
        .bind(provider.groups_claim.clone())
        .bind(json_text(&provider.group_map))
        .bind(json_text(&provider.domains))
        .bind(new_users(provider.new_users))
        .bind(provider.ca_pem.clone())
        .bind(integer(provider.created_ms));
        self.run("OpenID provider", statement).await.map(|_| ())
    }

    /// Removes a provider and whom it knows.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub async fn delete_oidc_provider(&mut self, name: &str) -> Result<(), StoreError> {
        let statement = query("DELETE FROM oidc_providers WHERE name = $1 AND organization = $2")
            .bind(name)
            .bind(self.organization()?);
        self.hit("OpenID provider", name.to_owned(), statement).await
    }

    /// Forgets by which subjects providers know an account.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete_oidc_identities(&mut self, account: UserId) -> Result<(), StoreError> {
        let statement = query("DELETE FROM oidc_identities WHERE organization = $1 AND account = $2")
            .bind(self.organization()?)
            .bind(account.to_string());
        self.run("OpenID identity", statement).await.map(|_| ())
    }

    /// Remembers whom a provider means by a subject.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when somebody else is known by it.
    pub async fn insert_oidc_identity(&mut self, identity: &OidcIdentity) -> Result<(), StoreError> {
        let sql = "SELECT 1 AS one FROM accounts WHERE id = $1 AND organization = $2";
        self.own("account", sql, identity.account.to_string()).await?;
        let statement = query(
            "INSERT INTO oidc_identities (organization, provider, subject, account) VALUES ($1, $2, $3, $4)",
        )
        .bind(self.organization()?)
        .bind(identity.provider.clone())
        .bind(identity.subject.clone())
        .bind(identity.account.to_string());
        self.run("OpenID identity", statement).await.map(|_| ())
    }
}
