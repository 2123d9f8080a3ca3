//! Reads: the whole dataset in one transaction, and rows as types.

mod organization;

use crate::{
    Administrator, Connector, Dataset, Device, EnrolmentKey, EnrolmentTarget, Group, Installation, NewUsers,
    OidcProvider, OneTimeLink, Organization, Pop, Resource, ResourceMode, SecretHash, ServiceAccount, Site,
    Store, StoreError, Token, User, Version,
    change::{Scope, flag},
    engine::Transaction,
    row::{Row, corrupt, json, key, number, optional_parsed, optional_text, parsed, text},
    statement::query,
};
use std::collections::BTreeMap;

impl Store {
    /// Signed trust documents by name.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn trust_documents(&self) -> Result<BTreeMap<String, String>, StoreError> {
        let statement = query("SELECT name, document FROM trust_documents ORDER BY name");
        let rows = self.fetch_all(Scope::Installation, "trust document", statement).await?;
        rows.iter().map(|row| Ok((text(row, "name")?, text(row, "document")?))).collect()
    }
}

fn version(row: &Row) -> Result<Version, StoreError> {
    Ok(Version { incarnation: number(row, "incarnation")?, version: number(row, "version")? })
}

async fn all(db: &mut Transaction, kind: &'static str, sql: &'static str) -> Result<Vec<Row>, StoreError> {
    db.fetch_all(kind, query(sql)).await
}

fn each<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, StoreError>) -> Result<Vec<T>, StoreError> {
    rows.iter().map(read).collect()
}

pub(crate) async fn dataset(db: &mut Transaction) -> Result<Option<Dataset>, StoreError> {
    dataset_after(db, None).await
}

/// Organizations that `held` has in the same version are not read again, and of others only the rows that were touched
/// since, where every change left a note of them.
pub(crate) async fn dataset_after(
    db: &mut Transaction,
    held: Option<&Dataset>,
) -> Result<Option<Dataset>, StoreError> {
    let rows =
        all(db, "installation", "SELECT id, incarnation, version, created_ms FROM installation").await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let installation = Installation {
        id: parsed(row, "id")?,
        version: version(row)?,
        created_ms: number(row, "created_ms")?,
    };
    let pops = each(&all(db, "PoP", "SELECT * FROM pops ORDER BY id").await?, pop)?;
    let keys =
        all(db, "enrolment key", "SELECT * FROM enrolment_keys WHERE organization IS NULL ORDER BY id")
            .await?;
    let administrators =
        each(&all(db, "administrator", "SELECT * FROM administrators ORDER BY id").await?, |row| {
            Ok(Administrator {
                id: parsed(row, "id")?,
                name: text(row, "name")?,
                passphrase_hash: text(row, "passphrase_hash")?,
                created_ms: number(row, "created_ms")?,
            })
        })?;
    let one_time_links =
        each(&all(db, "one-time link", "SELECT * FROM one_time_links ORDER BY secret_hash").await?, |row| {
            Ok(OneTimeLink {
                secret_hash: SecretHash::from_digest(key(row, "secret_hash")?),
                purpose: text(row, "purpose")?,
                expires_ms: number(row, "expires_ms")?,
            })
        })?;
    let rows = all(db, "organization", "SELECT * FROM organizations ORDER BY id").await?;
    let held: BTreeMap<_, _> = held
        .into_iter()
        .flat_map(|held| &held.organizations)
        .map(|data| (data.organization.id, data))
        .collect();
    let mut organizations = Vec::with_capacity(rows.len());
    for row in &rows {
        let organization = organization(row)?;
        organizations.push(match held.get(&organization.id) {
            Some(data) if data.organization == organization => (*data).clone(),
            held => organization::data(db, organization, held.copied()).await?,
        });
    }
    Ok(Some(Dataset {
        installation,
        organizations,
        pops,
        enrolment_keys: each(&keys, enrolment_key)?,
        administrators,
        one_time_links,
    }))
}

pub(crate) fn pop(row: &Row) -> Result<Pop, StoreError> {
    Ok(Pop {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        region: text(row, "region")?,
        zone: text(row, "zone")?,
        address: text(row, "address")?,
        identity_key: key(row, "identity_key")?,
        generation: number(row, "generation")?,
        enrolled_by: parsed(row, "enrolled_by")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn organization(row: &Row) -> Result<Organization, StoreError> {
    Ok(Organization {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        version: version(row)?,
        grant_life_ms: number(row, "grant_life_ms")?,
        renew_after_ms: number(row, "renew_after_ms")?,
        shrink_version: number(row, "shrink_version")?,
        old_grants_end_ms: number(row, "old_grants_end_ms")?,
        approve_devices: flag(row, "approve_devices")?,
        audit_retention_days: number(row, "audit_retention_days")?,
        flow_retention_days: number(row, "flow_retention_days")?,
        sign_in_age_ms: number(row, "sign_in_age_ms")?,
        created_ms: number(row, "created_ms")?,
        closed_ms: number(row, "closed_ms")?,
    })
}

pub(crate) fn group(row: &Row) -> Result<Group, StoreError> {
    Ok(Group { id: parsed(row, "id")?, name: text(row, "name")?, created_ms: number(row, "created_ms")? })
}

pub(crate) fn user(row: &Row) -> Result<User, StoreError> {
    Ok(User {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        email: text(row, "email")?,
        role: parsed(row, "role")?,
        generation: number(row, "generation")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn service_account(row: &Row) -> Result<ServiceAccount, StoreError> {
    Ok(ServiceAccount {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        generation: number(row, "generation")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn device(row: &Row) -> Result<Device, StoreError> {
    Ok(Device {
        id: parsed(row, "id")?,
        owner: parsed(row, "owner")?,
        name: text(row, "name")?,
        state: parsed(row, "state")?,
        identity_key: key(row, "identity_key")?,
        generation: number(row, "generation")?,
        enrolled_by: parsed(row, "enrolled_by")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn token(row: &Row) -> Result<Token, StoreError> {
    Ok(Token {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        scopes: json(row, "scopes")?,
        secret_hash: SecretHash::from_digest(key(row, "secret_hash")?),
        expires_ms: number(row, "expires_ms")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn site(row: &Row) -> Result<Site, StoreError> {
    Ok(Site {
        id: parsed(row, "id")?,
        name: text(row, "name")?,
        prefixes: json(row, "prefixes")?,
        regions: json(row, "regions")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn connector(row: &Row) -> Result<Connector, StoreError> {
    Ok(Connector {
        id: parsed(row, "id")?,
        site: parsed(row, "site")?,
        name: text(row, "name")?,
        identity_key: key(row, "identity_key")?,
        wireguard_key: key(row, "wireguard_key")?,
        seal_key: key(row, "seal_key")?,
        generation: number(row, "generation")?,
        enrolled_by: parsed(row, "enrolled_by")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn resource(row: &Row) -> Result<Resource, StoreError> {
    Ok(Resource {
        id: parsed(row, "id")?,
        site: parsed(row, "site")?,
        name: text(row, "name")?,
        alias: optional_text(row, "alias")?,
        address: text(row, "address")?,
        ports: json(row, "ports")?,
        mode: match text(row, "mode")?.as_str() {
            "standard" => ResourceMode::Standard,
            "strict" => ResourceMode::Strict,
            other => return Err(corrupt("mode", format!("expected standard or strict, got {other:?}"))),
        },
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn enrolment_key(row: &Row) -> Result<EnrolmentKey, StoreError> {
    let missing = |column| corrupt(column, "a value of this kind of key is missing");
    let target = match text(row, "kind")?.as_str() {
        "pop" => EnrolmentTarget::Pop {
            region: optional_text(row, "region")?.ok_or_else(|| missing("region"))?,
            zone: optional_text(row, "zone")?.ok_or_else(|| missing("zone"))?,
        },
        "connector" => {
            EnrolmentTarget::Connector { site: optional_parsed(row, "site")?.ok_or_else(|| missing("site"))? }
        }
        "device" => {
            EnrolmentTarget::Device { owner: optional_parsed(row, "owner")?.ok_or_else(|| missing("owner"))? }
        }
        other => return Err(corrupt("kind", format!("expected pop, connector or device, got {other:?}"))),
    };
    Ok(EnrolmentKey {
        id: parsed(row, "id")?,
        organization: optional_parsed(row, "organization")?,
        name: text(row, "name")?,
        target,
        approval: flag(row, "approval")?,
        secret_hash: SecretHash::from_digest(key(row, "secret_hash")?),
        cap: number(row, "cap")?,
        uses: number(row, "uses")?,
        expires_ms: number(row, "expires_ms")?,
        created_ms: number(row, "created_ms")?,
    })
}

pub(crate) fn oidc_provider(row: &Row) -> Result<OidcProvider, StoreError> {
    Ok(OidcProvider {
        name: text(row, "name")?,
        title: text(row, "title")?,
        issuer: text(row, "issuer")?,
        client_id: text(row, "client_id")?,
        client_secret: text(row, "client_secret")?,
        scopes: text(row, "scopes")?,
        groups_claim: text(row, "groups_claim")?,
        group_map: json(row, "group_map")?,
        domains: json(row, "domains")?,
        new_users: match text(row, "new_users")?.as_str() {
            "refuse" => NewUsers::Refuse,
            "make" => NewUsers::Make,
            other => return Err(corrupt("new_users", format!("expected refuse or make, got {other:?}"))),
        },
        ca_pem: text(row, "ca_pem")?,
        created_ms: number(row, "created_ms")?,
    })
}
