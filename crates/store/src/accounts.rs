//! How people sign in, as types. What they may do stands with the users; what a secret means, with the controller.

use crate::SecretHash;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};
use wire::{GroupId, UserId};

/// The account of one user: at most one each.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The user's id.
    pub id: UserId,
    /// What the person types at sign-in, in lower case. Unique in the organization.
    pub sign_in_name: String,
    /// PHC string (argon2id), when there is a passphrase.
    pub passphrase_hash: Option<String>,
    /// The secret of an authenticator app, sealed by the controller.
    pub totp: Option<String>,
    /// Hashes of the recovery codes that were not used yet.
    pub recovery_codes: Vec<SecretHash>,
    /// Sessions that began before are over (Unix milliseconds).
    pub sessions_from_ms: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account")
            .field("id", &self.id)
            .field("has_passphrase", &self.passphrase_hash.is_some())
            .field("has_totp", &self.totp.is_some())
            .field("recovery_codes", &self.recovery_codes.len())
            .finish_non_exhaustive()
    }
}

/// A passkey of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passkey {
    /// The credential's id in base64url.
    pub credential: String,
    /// Whose.
    pub account: UserId,
    /// For people.
    pub name: String,
    /// Public key and what else its check needs, as the controller wrote it.
    pub document: String,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// What happens when a provider vouches for somebody whom nobody here knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewUsers {
    /// They are told to ask for an invitation.
    Refuse,
    /// A user is made.
    Make,
}

/// An OpenID provider of one organization.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcProvider {
    /// Unique in the organization; part of addresses.
    pub name: String,
    /// For people.
    pub title: String,
    /// Its issuer identifier.
    pub issuer: String,
    /// Who we are there.
    pub client_id: String,
    /// Sealed by the controller; empty for a public client.
    pub client_secret: String,
    /// What is asked for, separated by spaces.
    pub scopes: String,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// From a value of that claim to the group it means.
    pub group_map: BTreeMap<String, GroupId>,
    /// Its word about addresses under these domains is believed: such a person is the user with that address.
    pub domains: Vec<String>,
    /// What happens with people whom nobody knows.
    pub new_users: NewUsers,
    /// Certificates that its server may be signed by, besides those that the machine believes; PEM.
    pub ca_pem: String,
    /// Unix milliseconds.
    pub created_ms: u64,
}

impl fmt::Debug for OidcProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OidcProvider")
            .field("name", &self.name)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Whom a provider knows under which subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcIdentity {
    /// The provider's name.
    pub provider: String,
    /// Its `sub` claim.
    pub subject: String,
    /// The account here.
    pub account: UserId,
}

/// A link by which a person sets an account up, or gets into it again. It works once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountLink {
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// Whose account.
    pub user: UserId,
    /// Unix milliseconds.
    pub expires_ms: u64,
}

/// How the people of one organization sign in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInData {
    /// By id.
    pub accounts: Vec<Account>,
    /// By credential.
    pub passkeys: Vec<Passkey>,
    /// By hash.
    pub links: Vec<AccountLink>,
    /// By name.
    pub providers: Vec<OidcProvider>,
    /// By provider and subject.
    pub identities: Vec<OidcIdentity>,
}
