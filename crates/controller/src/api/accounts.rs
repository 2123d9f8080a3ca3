//! How people sign in: OpenID providers, invitations, sessions of browsers, and the log of who signed in.

use super::{
    Problem,
    caller::Caller,
    check,
    flows::{NEXT, limit, place},
    operate::{Intent, noted, once_in_store, operate},
    operation::{Applied, Operation},
    request::{Body, Id, Params},
    rfc3339,
    tag::Tagged,
};
use crate::{
    clock,
    parts::Core,
    signin::{self, Entry, Outcome},
};
use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use store::{OrganizationData, Scope};
use trust::{UnixMs, encode_base64url, sha256};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use wire::{GroupId, UserId};

/// The answer of a handler.
type Answer<T> = Result<Json<T>, Problem>;

/// Longest value of a provider's claim that is mapped to a group: names of groups in directories have up to 256.
const MAX_CLAIM: usize = 256;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_oidc_providers))
        .routes(routes!(get_oidc_provider, put_oidc_provider, delete_oidc_provider))
        .routes(routes!(create_invitation))
        .routes(routes!(end_web_sessions))
        .routes(routes!(list_authentications))
}

/// What happens when a provider vouches for somebody whom nobody here knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewUsers {
    /// They are told to ask for an invitation.
    Refuse,
    /// A user is made.
    Make,
}

/// An OpenID provider. Its client secret is written and never read.
#[derive(Debug, Serialize, ToSchema)]
pub struct OidcProvider {
    /// Its name.
    pub id: String,
    /// Part of addresses; unique in the organization.
    pub name: String,
    /// What the button says.
    pub title: String,
    /// The issuer identifier, `https://…`.
    pub issuer: String,
    /// Who this installation is there.
    pub client_id: String,
    /// Whether there is a client secret.
    pub has_client_secret: bool,
    /// Another text with each client secret that is set, and nothing about it: tells an edit of it alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub client_secret_version: Option<String>,
    /// The address to register there as the redirect URI.
    pub redirect_uri: String,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// The claim that lists groups.
    pub groups_claim: String,
    /// From a value of that claim to the id of the group it means. People join and leave these groups with the claim.
    pub group_map: BTreeMap<String, String>,
    /// The provider's verified word about addresses under these domains is believed: such a person is the user with
    /// that address.
    pub domains: Vec<String>,
    /// What happens with people whom nobody knows.
    pub new_users: NewUsers,
    /// Certificates of CAs that its server may be signed by, besides those of the machine; PEM.
    pub ca_pem: String,
    /// RFC 3339.
    pub created: String,
}

/// Every provider.
#[derive(Debug, Serialize, ToSchema)]
pub struct OidcProviders {
    /// By name.
    pub items: Vec<OidcProvider>,
}

/// What an OpenID provider is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcProviderInput {
    /// What the button says.
    pub title: String,
    /// The issuer identifier, `https://…`, exactly as the provider writes it.
    pub issuer: String,
    /// Who this installation is there.
    pub client_id: String,
    /// The client secret; absent: the one that is held stays, or there is none.
    #[schema(nullable = false)]
    pub client_secret: Option<String>,
    /// What is asked for; `openid` is always asked for.
    #[schema(nullable = false)]
    pub scopes: Option<Vec<String>>,
    /// The claim that lists groups.
    #[schema(nullable = false, default = "groups")]
    pub groups_claim: Option<String>,
    /// From a value of that claim to the id of a group.
    #[serde(default)]
    pub group_map: BTreeMap<String, String>,
    /// Domains whose addresses the provider may speak for.
    #[serde(default)]
    pub domains: Vec<String>,
    /// What happens with people whom nobody knows.
    #[schema(nullable = false)]
    pub new_users: Option<NewUsers>,
    /// Certificates of CAs that its server may be signed by, besides those of the machine; PEM.
    #[serde(default)]
    pub ca_pem: String,
}

/// For whom an invitation is.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitationInput {
    /// The user's id.
    pub user: String,
}

/// A link that works once, shown in this answer only.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invitation {
    /// Opens a page on which that person sets a passphrase, also when there is an account already.
    pub link: String,
    /// RFC 3339.
    pub expires: String,
}

/// Whose sessions.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EndWebSessionsInput {
    /// The user's id.
    pub user: String,
}

/// What may stand behind `authentication-log?`.
mod query {
    use serde::Deserialize;
    use utoipa::IntoParams;

    /// Which entries.
    #[derive(Debug, Deserialize, IntoParams)]
    #[serde(deny_unknown_fields)]
    #[into_params(parameter_in = Query)]
    pub struct AuthenticationQuery {
        /// At most this many entries (1 to 1000).
        #[param(minimum = 1, maximum = 1000, default = 200, nullable = false)]
        pub limit: Option<u32>,
        /// Before this time, in milliseconds since 1970.
        #[param(nullable = false)]
        pub before_ms: Option<u64>,
        /// From this time on, in milliseconds since 1970.
        #[param(nullable = false)]
        pub from_ms: Option<u64>,
        /// `next` of the page before: an opaque cursor.
        #[param(nullable = false)]
        pub after: Option<String>,
        /// Of this user.
        #[param(nullable = false)]
        pub user: Option<String>,
        /// With this outcome.
        #[param(value_type = crate::signin::Outcome, inline, required = false)]
        pub outcome: Option<String>,
        /// Only what has this text in its method, outcome, address or detail, or in its user's name, address or id,
        /// whatever the case.
        #[param(nullable = false)]
        pub q: Option<String>,
    }
}
use query::AuthenticationQuery;

/// One try to sign in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Authentication {
    /// RFC 3339.
    pub at: String,
    /// The same in Unix milliseconds.
    pub at_ms: u64,
    /// Who, when it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub user: Option<String>,
    /// What that user is called now; absent when there is no such user any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub user_name: Option<String>,
    /// How: `passphrase`, `passphrase+totp`, `passkey`, `oidc`, …
    pub method: String,
    /// What came of it.
    #[schema(value_type = Outcome, inline)]
    pub outcome: String,
    /// From where.
    pub address: String,
    /// More, in words.
    pub detail: String,
}

/// The newest entries first: of this controller.
#[derive(Debug, Serialize, ToSchema)]
pub struct Authentications {
    /// The entries.
    pub items: Vec<Authentication>,
    /// An opaque cursor: what to pass as `after` for the page of older ones; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

fn value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).expect("what the API says always serializes")
}

fn shown(core: &Core, row: &store::OidcProvider) -> OidcProvider {
    // Of what is sealed, which differs with each sealing.
    let version =
        || encode_base64url(&sha256(&[b"tidegate/client-secret/1", row.client_secret.as_bytes()])[..9]);
    OidcProvider {
        id: row.name.clone(),
        name: row.name.clone(),
        title: row.title.clone(),
        issuer: row.issuer.clone(),
        client_id: row.client_id.clone(),
        has_client_secret: !row.client_secret.is_empty(),
        client_secret_version: (!row.client_secret.is_empty()).then(version),
        redirect_uri: signin::redirect_uri(core),
        scopes: row.scopes.split(' ').map(str::to_owned).collect(),
        groups_claim: row.groups_claim.clone(),
        group_map: row.group_map.iter().map(|(value, group)| (value.clone(), group.to_string())).collect(),
        domains: row.domains.clone(),
        new_users: match row.new_users {
            store::NewUsers::Refuse => NewUsers::Refuse,
            store::NewUsers::Make => NewUsers::Make,
        },
        ca_pem: row.ca_pem.clone(),
        created: rfc3339(UnixMs::from_millis(row.created_ms)),
    }
}

/// Lists every OpenID provider.
#[utoipa::path(get, path = "/oidc-providers", tag = "sign-in", responses((status = 200, description = "Every provider", body = OidcProviders)))]
async fn list_oidc_providers(State(core): State<Arc<Core>>, caller: Caller) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let rows = &caller.data(&snapshot)?.sign_in.providers;
    Ok(Tagged::page(&OidcProviders { items: rows.iter().map(|row| shown(&core, row)).collect() }))
}

/// What was sent, to stand beside what is there: all but the secret.
fn shown_input(input: &OidcProviderInput) -> Value {
    json!({
        "title": input.title,
        "issuer": input.issuer,
        "client_id": input.client_id,
        "scopes": input.scopes,
        "groups_claim": input.groups_claim,
        "group_map": input.group_map,
        "domains": input.domains,
        "new_users": input.new_users,
        "ca_pem": input.ca_pem,
    })
}

fn provider_name(value: &str) -> Result<String, Problem> {
    let fits = (1..=32).contains(&value.len())
        && value.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let rule = "1 to 32 of a-z, 0-9 and -";
    fits.then(|| value.to_owned())
        .ok_or_else(|| Problem::invalid("id", rule, value.chars().take(64).collect::<String>()))
}

/// Gets one OpenID provider.
#[utoipa::path(get, path = "/oidc-providers/{id}", tag = "sign-in", params(("id" = String, Path, description = "Its name")), responses((status = 200, description = "The provider", body = OidcProvider)))]
async fn get_oidc_provider(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(name): Id<String>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let mut rows = caller.data(&snapshot)?.sign_in.providers.iter();
    let row = rows.find(|row| row.name == name).ok_or_else(|| no_provider(&name))?;
    Ok(Tagged::object(StatusCode::OK, &shown(&core, row)))
}

fn no_provider(name: &str) -> Problem {
    Problem::not_found("OpenID provider", name.to_owned())
}

fn checked_provider(
    core: &Core,
    name: String,
    held: Option<&store::OidcProvider>,
    groups: &[store::Group],
    input: &OidcProviderInput,
) -> Result<store::OidcProvider, Problem> {
    check::list_length("domains", input.domains.len())?;
    check::list_length("group_map", input.group_map.len())?;
    if !signin::is_issuer(&input.issuer) {
        let rule = "an address like https://id.example.com, without query and fragment";
        return Err(Problem::invalid("issuer", rule, input.issuer.chars().take(120).collect::<String>()));
    }
    let plain = |field: &str, value: &str, most: usize| {
        let fits = !value.is_empty()
            && value.len() <= most
            && !value.chars().any(|c| c.is_control() || c.is_whitespace());
        let rule = format!("1 to {most} characters without spaces");
        if fits {
            Ok(value.to_owned())
        } else {
            Err(Problem::invalid(field, rule, value.chars().take(120).collect::<String>()))
        }
    };
    let mut scopes = vec!["openid".to_owned()];
    let asked = input.scopes.clone().unwrap_or_else(|| ["profile", "email"].map(str::to_owned).to_vec());
    check::list_length("scopes", asked.len())?;
    for (index, scope) in asked.iter().enumerate() {
        let scope = plain(&format!("scopes[{index}]"), scope, 64)?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    let mut group_map = BTreeMap::new();
    for (value, group) in &input.group_map {
        let shown: String = value.chars().take(40).collect();
        if !(1..=MAX_CLAIM).contains(&value.chars().count()) || value.chars().any(char::is_control) {
            let rule = format!(
                "values of the claim of 1 to {MAX_CLAIM} characters, none of them a control character"
            );
            return Err(Problem::invalid("group_map", rule, shown));
        }
        let field = format!("group_map.{shown}");
        let id: GroupId = check::parsed(&field, group)?;
        if !groups.iter().any(|group| group.id == id) {
            return Err(Problem::invalid(&field, "the id of a group of this organization", group.clone()));
        }
        group_map.insert(value.clone(), id);
    }
    let domains = input.domains.iter().enumerate().map(|(index, domain)| {
        let field = format!("domains[{index}]");
        plain(&field, domain, 253).and_then(|domain| {
            let fits = domain.contains('.') && domain.parse::<policy::HostName>().is_ok();
            if fits {
                Ok(domain.to_lowercase())
            } else {
                Err(Problem::invalid(&field, "a domain like example.com", domain))
            }
        })
    });
    if input.ca_pem.len() > 64 * 1024 || (!input.ca_pem.is_empty() && !signin::is_ca_pem(&input.ca_pem)) {
        return Err(Problem::invalid("ca_pem", "certificates in PEM, at most 64 KiB", Value::Null));
    }
    let client_secret = match (&input.client_secret, held) {
        (Some(secret), _) if secret.is_empty() => String::new(),
        (Some(secret), _) if secret.len() > 1024 => {
            return Err(Problem::invalid("client_secret", "at most 1024 bytes", Value::Null));
        }
        (Some(secret), _) => signin::sealed_client_secret(core, secret),
        (None, Some(held)) => held.client_secret.clone(),
        (None, None) => String::new(),
    };
    Ok(store::OidcProvider {
        name,
        title: check::name("title", &input.title)?,
        issuer: input.issuer.clone(),
        client_id: plain("client_id", &input.client_id, 256)?,
        client_secret,
        scopes: scopes.join(" "),
        groups_claim: plain("groups_claim", input.groups_claim.as_deref().unwrap_or("groups"), 64)?,
        group_map,
        domains: domains.collect::<Result<_, _>>()?,
        new_users: match input.new_users {
            Some(NewUsers::Make) => store::NewUsers::Make,
            Some(NewUsers::Refuse) | None => store::NewUsers::Refuse,
        },
        ca_pem: input.ca_pem.clone(),
        created_ms: held.map_or_else(|| clock::wall().as_millis(), |held| held.created_ms),
    })
}

/// Makes an OpenID provider, or replaces what is known of it.
#[utoipa::path(put, path = "/oidc-providers/{id}", tag = "sign-in", params(("id" = String, Path, description = "Its name: 1 to 32 of a-z, 0-9 and -")), request_body = OidcProviderInput, responses((status = 200, description = "Made or replaced", body = OidcProvider)))]
async fn put_oidc_provider(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(name): Id<String>,
    intent: Intent,
    Body(input): Body<OidcProviderInput>,
) -> Result<Tagged, Problem> {
    let name = provider_name(&name)?;
    let scope = Scope::Organization(caller.organization);
    once_in_store(&core, &caller, intent, scope, move |work| {
        Box::pin(async move {
            let held = work.change.oidc_provider(&name).await?;
            let before = held.as_ref().map(|held| value(&shown(&work.core, held)));
            // Of something that is not there yet nobody has seen a version.
            work.unchanged(before.as_ref().unwrap_or(&Value::Null), &shown_input(&input))?;
            let row = checked_provider(&work.core, name, held.as_ref(), &work.data()?.groups, &input)?;
            work.change.put_oidc_provider(&row).await?;
            let after = value(&shown(&work.core, &row));
            let noted = noted("put OpenID provider", &row.name, before, Some(after.clone()), json!({}));
            Ok((Applied::changed(after), noted))
        })
    })
    .await
}

/// Removes an OpenID provider, and whom it knows. Their accounts stay.
#[utoipa::path(delete, path = "/oidc-providers/{id}", tag = "sign-in", params(("id" = String, Path, description = "Its name")), responses((status = 204, description = "Removed")))]
async fn delete_oidc_provider(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Id(name): Id<String>,
    intent: Intent,
) -> Result<Tagged, Problem> {
    let scope = Scope::Organization(caller.organization);
    once_in_store(&core, &caller, intent, scope, move |work| {
        Box::pin(async move {
            let held = work.change.oidc_provider(&name).await?.ok_or_else(|| no_provider(&name))?;
            let before = value(&shown(&work.core, &held));
            work.unchanged(&before, &Value::Null)?;
            work.change.delete_oidc_provider(&name).await?;
            Ok((Applied::removed(), noted("delete OpenID provider", &name, Some(before), None, json!({}))))
        })
    })
    .await
}

/// Makes a link by which a person sets an account up, or gets into it again: it works once, for 72 hours.
///
/// Used for an account that there is, it ends its sessions, its authenticator app and what ties it to sign-in providers;
/// its passkeys stay.
#[utoipa::path(post, path = "/invitations", tag = "sign-in", request_body = InvitationInput, responses((status = 201, description = "Made", body = Invitation)))]
async fn create_invitation(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<InvitationInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::CreateInvitation(input)).await
}

/// Ends every session that a person has in browsers. Revoking the person does so too, and needs no database.
#[utoipa::path(post, path = "/ended-web-sessions", tag = "sign-in", request_body = EndWebSessionsInput, responses((status = 204, description = "Ended")))]
async fn end_web_sessions(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<EndWebSessionsInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::EndWebSessions(input)).await
}

/// Which entries of the authentication log somebody wants.
struct WantedEntries {
    from: UnixMs,
    before: UnixMs,
    user: Option<String>,
    outcome: Option<Outcome>,
    /// In lower case, with the users whose name or address has it.
    text: Option<(String, BTreeSet<UserId>)>,
}

impl WantedEntries {
    fn of(query: &AuthenticationQuery, data: &OrganizationData) -> Result<Self, Problem> {
        let text = query.q.as_ref().map(|text| text.to_lowercase()).map(|text| {
            let has = |of: &str| of.to_lowercase().contains(&text);
            let users = data.users.iter().filter(|user| has(&user.name) || has(&user.email));
            let users = users.map(|user| user.id).collect();
            (text, users)
        });
        Ok(Self {
            from: UnixMs::from_millis(query.from_ms.unwrap_or(0)),
            before: UnixMs::from_millis(query.before_ms.unwrap_or(u64::MAX)),
            user: query.user.clone(),
            outcome: query.outcome.as_deref().map(outcome).transpose()?,
            text,
        })
    }

    fn takes(&self, entry: &Entry) -> bool {
        let user = entry.user.map(|user| user.to_string());
        let has_text = |text: &str, users: &BTreeSet<UserId>| {
            entry.user.is_some_and(|user| users.contains(&user))
                || [entry.method.as_str(), &entry.detail, &entry.address.to_string(), entry.outcome.word()]
                    .into_iter()
                    .chain(user.as_deref())
                    .any(|of| of.to_lowercase().contains(text))
        };
        entry.at >= self.from
            && entry.at < self.before
            && (self.user.is_none() || self.user == user)
            && self.outcome.is_none_or(|outcome| outcome == entry.outcome)
            && self.text.as_ref().is_none_or(|(text, users)| has_text(text, users))
    }
}

fn outcome(word: &str) -> Result<Outcome, Problem> {
    Outcome::ALL.into_iter().find(|outcome| outcome.word() == word).ok_or_else(|| {
        let rule = format!("one of: {}", Outcome::ALL.map(Outcome::word).join(", "));
        let mut problem = Problem::invalid("outcome", rule, word.chars().take(120).collect::<String>());
        problem.status = StatusCode::BAD_REQUEST.as_u16();
        problem
    })
}

/// Lists who signed in, how, from where, and what came of it: the newest first, of this controller.
#[utoipa::path(get, path = "/authentication-log", tag = "sign-in", params(AuthenticationQuery), responses((status = 200, description = "The newest entries", body = Authentications)))]
async fn list_authentications(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(query): Params<AuthenticationQuery>,
) -> Answer<Authentications> {
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    let wanted = WantedEntries::of(&query, data)?;
    let after = query.after.map(|text| place(&text, NEXT)).transpose()?;
    let (limit, organization) = (limit(query.limit)?, caller.organization);
    let read = tokio::task::spawn_blocking(move || {
        core.signin.log.read(organization, after, limit, |entry| wanted.takes(entry))
    });
    let page = read
        .await
        .map_err(|error| Problem::internal(error.to_string()))?
        .map_err(|error| Problem::internal(format!("the authentication log cannot be read: {error}")))?;
    let items = page.items.into_iter().map(|entry| shown_authentication(Some(data), entry));
    Ok(Json(Authentications { items: items.collect(), next: page.next.map(|place| place.to_string()) }))
}

/// An entry as the API shows it, with the name that its user has by now.
pub(super) fn shown_authentication(data: Option<&OrganizationData>, entry: Entry) -> Authentication {
    let name = |id: UserId| {
        let data = data?;
        let place = data.users.binary_search_by_key(&id, |user| user.id).ok()?;
        Some(data.users[place].name.clone())
    };
    Authentication {
        at: rfc3339(entry.at),
        at_ms: entry.at.as_millis(),
        user: entry.user.map(|user| user.to_string()),
        user_name: entry.user.and_then(name),
        method: entry.method,
        outcome: entry.outcome.word().to_owned(),
        address: entry.address.to_string(),
        detail: entry.detail,
    }
}
