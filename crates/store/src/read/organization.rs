//! One organization: everything of it, or what was touched since a state that is held.

use super::{
    connector, device, each, enrolment_key, group, oidc_provider, resource, service_account, site, token,
    user,
};
use crate::{
    Account, AccountLink, Membership, OidcIdentity, Organization, OrganizationData, Passkey, Policy,
    SecretHash, SignInData, StoreError,
    engine::Transaction,
    row::{Row, integer, key, number, optional_text, parsed, text},
    statement::{Statement, query},
    touched::{Part, Rows, Touched, membership},
};
use std::collections::BTreeMap;
use wire::{OrganizationId, PolicyId, UserId};

/// Of so many changes at once the notes are read.
const NOTES: u64 = 64;

/// An organization in the state of its row. `held` is it in another state, as it was read before.
pub(super) async fn data(
    db: &mut Transaction,
    organization: Organization,
    held: Option<&OrganizationData>,
) -> Result<OrganizationData, StoreError> {
    if let Some(held) = held
        && let Touched::Parts(parts) = touched_since(db, &organization, held).await?
    {
        let mut data = OrganizationData { organization, ..held.clone() };
        for (part, rows) in &parts {
            read(db, &mut data, *part, rows).await?;
        }
        return Ok(data);
    }
    let mut data = OrganizationData {
        organization,
        sites: Vec::new(),
        connectors: Vec::new(),
        resources: Vec::new(),
        groups: Vec::new(),
        users: Vec::new(),
        service_accounts: Vec::new(),
        memberships: Vec::new(),
        devices: Vec::new(),
        policies: Vec::new(),
        tokens: Vec::new(),
        enrolment_keys: Vec::new(),
        sign_in: SignInData::default(),
    };
    for part in Part::ALL {
        read(db, &mut data, part, &Rows::All).await?;
    }
    Ok(data)
}

/// What the changes between a state and the one of `row` touched, when each of them left a note.
async fn touched_since(
    db: &mut Transaction,
    row: &Organization,
    held: &OrganizationData,
) -> Result<Touched, StoreError> {
    let (now, before) = (row.version, held.organization.version);
    if now.incarnation != before.incarnation
        || now.version <= before.version
        || now.version - before.version > NOTES
    {
        return Ok(Touched::Everything);
    }
    let statement = query(
        "SELECT version, touched FROM touched_rows WHERE organization = $1 AND incarnation = $2 AND version > $3 \
         AND version <= $4 ORDER BY version",
    )
    .bind(row.id.to_string())
    .bind(integer(now.incarnation))
    .bind(integer(before.version))
    .bind(integer(now.version));
    let notes = db.fetch_all("touched rows", statement).await?;
    let mut touched = Touched::default();
    let mut version = before.version;
    for note in &notes {
        version += 1;
        if number(note, "version")? != version {
            return Ok(Touched::Everything);
        }
        touched.and(Touched::of_text(&text(note, "touched")?));
    }
    Ok(if version == now.version { touched } else { Touched::Everything })
}

/// Reads rows of one kind into the state before.
async fn read(
    db: &mut Transaction,
    data: &mut OrganizationData,
    part: Part,
    rows: &Rows,
) -> Result<(), StoreError> {
    let id = data.organization.id;
    macro_rules! by_id {
        ($field:ident, $kind:literal, $table:literal, $read:path) => {{
            let found = some_of(db, id, $kind, $table, rows).await?;
            take(&mut data.$field, rows, each(&found, $read)?, |row| row.id.to_string());
        }};
    }
    match part {
        Part::Sites => by_id!(sites, "site", "sites", site),
        Part::Connectors => by_id!(connectors, "connector", "connectors", connector),
        Part::Resources => by_id!(resources, "resource", "resources", resource),
        Part::Groups => by_id!(groups, "group", "user_groups", group),
        Part::Users => by_id!(users, "user", "users", user),
        Part::ServiceAccounts => {
            by_id!(service_accounts, "service account", "service_accounts", service_account);
        }
        Part::Memberships => {
            let found = memberships(db, id, rows).await?;
            take(&mut data.memberships, rows, found, |row| membership(row.group, row.member));
        }
        Part::Devices => by_id!(devices, "device", "devices", device),
        Part::Policies => {
            let found = policies(db, id, rows).await?;
            take(&mut data.policies, rows, found, |row| row.id.to_string());
        }
        Part::Tokens => by_id!(tokens, "token", "tokens", token),
        Part::EnrolmentKeys => by_id!(enrolment_keys, "enrolment key", "enrolment_keys", enrolment_key),
        Part::SignIn => data.sign_in = sign_in(db, id).await?,
    }
    Ok(())
}

/// Puts what was found in its place: a row that was named and not found is gone.
fn take<T>(held: &mut Vec<T>, rows: &Rows, found: Vec<T>, name: impl Fn(&T) -> String) {
    let Rows::Some(names) = rows else {
        *held = found;
        return;
    };
    let mut found: BTreeMap<String, T> = found.into_iter().map(|row| (name(&row), row)).collect();
    for named in names {
        match (held.binary_search_by(|row| name(row).as_str().cmp(named)), found.remove(named)) {
            (Ok(at), Some(row)) => held[at] = row,
            (Ok(at), None) => drop(held.remove(at)),
            (Err(at), Some(row)) => held.insert(at, row),
            (Err(_), None) => {}
        }
    }
}

async fn fetch(
    db: &mut Transaction,
    kind: &'static str,
    statement: Statement,
) -> Result<Vec<Row>, StoreError> {
    let rows = db.fetch_all(kind, statement).await;
    if planted::is("read-error-is-empty") {
        return Ok(rows.unwrap_or_default());
    }
    rows
}

async fn of(
    db: &mut Transaction,
    organization: OrganizationId,
    kind: &'static str,
    sql: &'static str,
) -> Result<Vec<Row>, StoreError> {
    fetch(db, kind, query(sql).bind(organization.to_string())).await
}

/// A condition on the named ones, as `$2` and following, and the statement with their values.
fn named(
    organization: OrganizationId,
    rows: &Rows,
    column: &str,
    sql: impl FnOnce(&str) -> String,
) -> Statement {
    let Rows::Some(names) = rows else {
        return Statement::built(sql("")).bind(organization.to_string());
    };
    let places: Vec<String> = (2..names.len() + 2).map(|place| format!("${place}")).collect();
    let statement = Statement::built(sql(&format!(" AND {column} IN ({})", places.join(", "))));
    names
        .iter()
        .fold(statement.bind(organization.to_string()), |statement, name| statement.bind(name.as_str()))
}

async fn some_of(
    db: &mut Transaction,
    organization: OrganizationId,
    kind: &'static str,
    table: &'static str,
    rows: &Rows,
) -> Result<Vec<Row>, StoreError> {
    let statement = named(organization, rows, "id", |condition| {
        format!("SELECT * FROM {table} WHERE organization = $1{condition} ORDER BY id")
    });
    fetch(db, kind, statement).await
}

async fn memberships(
    db: &mut Transaction,
    organization: OrganizationId,
    rows: &Rows,
) -> Result<Vec<Membership>, StoreError> {
    let sql = |condition: &str| {
        format!(
            "SELECT * FROM memberships WHERE organization = $1 AND present = 1{condition} ORDER BY user_group, member"
        )
    };
    let statement = match rows {
        Rows::All => Statement::built(sql("")).bind(organization.to_string()),
        Rows::Some(names) => {
            let pairs: Vec<_> = names.iter().filter_map(|name| name.split_once(' ')).collect();
            // Each of these groups with each of these members: what is too much is not taken.
            let place = |place: usize| format!("${place}");
            let groups: Vec<_> = (0..pairs.len()).map(|at| place(2 + 2 * at)).collect();
            let members: Vec<_> = (0..pairs.len()).map(|at| place(3 + 2 * at)).collect();
            let condition =
                format!(" AND user_group IN ({}) AND member IN ({})", groups.join(", "), members.join(", "));
            let statement = Statement::built(sql(&condition)).bind(organization.to_string());
            pairs.into_iter().fold(statement, |statement, (group, member)| statement.bind(group).bind(member))
        }
    };
    let found = fetch(db, "membership", statement).await?;
    each(&found, |row| {
        Ok(Membership {
            group: parsed(row, "user_group")?,
            member: parsed(row, "member")?,
            generation: number(row, "generation")?,
        })
    })
}

async fn policies(
    db: &mut Transaction,
    organization: OrganizationId,
    rows: &Rows,
) -> Result<Vec<Policy>, StoreError> {
    let statement = named(organization, rows, "id", |condition| {
        format!("SELECT * FROM policies WHERE organization = $1{condition} ORDER BY id")
    });
    let found = fetch(db, "policy", statement).await?;
    let groups = named(organization, rows, "policies.id", |condition| {
        format!(
            "SELECT policy_groups.policy, policy_groups.user_group FROM policy_groups \
             JOIN policies ON policies.id = policy_groups.policy WHERE policies.organization = $1{condition} \
             ORDER BY policy_groups.policy, policy_groups.user_group"
        )
    });
    let groups = fetch(db, "policy", groups).await?;
    let resources = named(organization, rows, "policies.id", |condition| {
        format!(
            "SELECT policy_resources.policy, policy_resources.resource FROM policy_resources \
             JOIN policies ON policies.id = policy_resources.policy WHERE policies.organization = $1{condition} \
             ORDER BY policy_resources.policy, policy_resources.resource"
        )
    });
    let resources = fetch(db, "policy", resources).await?;
    let mut policies: BTreeMap<PolicyId, Policy> = BTreeMap::new();
    for row in &found {
        let policy = Policy {
            id: parsed(row, "id")?,
            name: text(row, "name")?,
            groups: Vec::new(),
            resources: Vec::new(),
            created_ms: number(row, "created_ms")?,
        };
        policies.insert(policy.id, policy);
    }
    for row in &groups {
        if let Some(policy) = policies.get_mut(&parsed(row, "policy")?) {
            policy.groups.push(parsed(row, "user_group")?);
        }
    }
    for row in &resources {
        if let Some(policy) = policies.get_mut(&parsed(row, "policy")?) {
            policy.resources.push(parsed(row, "resource")?);
        }
    }
    Ok(policies.into_values().collect())
}

/// How the people of one organization sign in.
async fn sign_in(db: &mut Transaction, id: OrganizationId) -> Result<SignInData, StoreError> {
    let accounts =
        of(db, id, "account", "SELECT * FROM accounts WHERE organization = $1 ORDER BY id").await?;
    let codes = of(
        db,
        id,
        "recovery code",
        "SELECT account, code_hash FROM recovery_codes WHERE organization = $1 ORDER BY account, code_hash",
    )
    .await?;
    let mut codes_of: BTreeMap<UserId, Vec<SecretHash>> = BTreeMap::new();
    for row in &codes {
        let code = SecretHash::from_digest(key(row, "code_hash")?);
        codes_of.entry(parsed(row, "account")?).or_default().push(code);
    }
    let passkeys =
        of(db, id, "passkey", "SELECT * FROM passkeys WHERE organization = $1 ORDER BY credential").await?;
    let links = of(
        db,
        id,
        "account link",
        "SELECT * FROM account_links WHERE organization = $1 ORDER BY secret_hash",
    )
    .await?;
    let providers =
        of(db, id, "OpenID provider", "SELECT * FROM oidc_providers WHERE organization = $1 ORDER BY name")
            .await?;
    let identities = of(
        db,
        id,
        "OpenID identity",
        "SELECT * FROM oidc_identities WHERE organization = $1 ORDER BY provider, subject",
    )
    .await?;
    let accounts = each(&accounts, |row| {
        let id = parsed(row, "id")?;
        Ok(Account {
            id,
            sign_in_name: text(row, "sign_in_name")?,
            passphrase_hash: optional_text(row, "passphrase_hash")?,
            totp: optional_text(row, "totp")?,
            recovery_codes: codes_of.get(&id).cloned().unwrap_or_default(),
            sessions_from_ms: number(row, "sessions_from_ms")?,
            created_ms: number(row, "created_ms")?,
        })
    })?;
    Ok(SignInData {
        accounts,
        passkeys: each(&passkeys, |row| {
            Ok(Passkey {
                credential: text(row, "credential")?,
                account: parsed(row, "account")?,
                name: text(row, "name")?,
                document: text(row, "document")?,
                created_ms: number(row, "created_ms")?,
            })
        })?,
        links: each(&links, |row| {
            Ok(AccountLink {
                secret_hash: SecretHash::from_digest(key(row, "secret_hash")?),
                user: parsed(row, "owner")?,
                expires_ms: number(row, "expires_ms")?,
            })
        })?,
        providers: each(&providers, oidc_provider)?,
        identities: each(&identities, |row| {
            Ok(OidcIdentity {
                provider: text(row, "provider")?,
                subject: text(row, "subject")?,
                account: parsed(row, "account")?,
            })
        })?,
    })
}
