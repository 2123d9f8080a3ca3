//! First enrolment by HTTPS: the only place where a stranger with a key becomes an agent.

use crate::{
    admission::{Class, Party},
    api::{self, Body, MaxBody, Origin, Params, Peer, Problem, noted},
    clock, control,
    gate::Withheld,
    issue::{IssueError, Issuer},
    limiter::{self, FailureLimit},
    parts::Core,
    snapshot::Snapshot,
};
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::StatusCode;
use policy::enrolment::{ConnectorEnrolment, DeviceEnrolment, Enrolled, PopEnrolment, TrustAnswer};
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, LazyLock},
    time::Duration,
};
use store::{EnrolmentKey, EnrolmentTarget, Scope, SecretHash, StoreError};
use trust::{Identity, JoinSecret, decode_base64url, encode_base64url};
use wire::{ConnectorId, DeviceId, OrganizationId, PopId};

/// Wrong secrets a minute of one address block. A secret has 256 bits: this keeps logs short.
static FAILURES: LazyLock<FailureLimit> = LazyLock::new(|| FailureLimit::new(30, Duration::from_secs(60)));
/// The largest request has some 600 bytes.
const MAX_REQUEST: usize = 8 * 1024;

pub(crate) fn router(core: &Arc<Core>) -> Router {
    Router::new()
        .route("/enrol/v1/trust", get(trust))
        .route("/enrol/v1/device", post(device))
        .route("/enrol/v1/connector", post(connector))
        .route("/enrol/v1/pop", post(pop))
        .method_not_allowed_fallback(api::method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(core), admitted))
        .layer(middleware::from_fn(api::complete))
        .layer(Extension(MaxBody(MAX_REQUEST)))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(Arc::clone(core))
}

/// Finds a place for a request of somebody who is not known yet: each address has its turn.
pub(crate) async fn admitted(State(core): State<Arc<Core>>, request: Request, next: Next) -> Response {
    let party = match request.extensions().get::<Peer>() {
        Some(Peer::Network(from)) => Party::Source(limiter::party(*from)),
        Some(Peer::Local { .. }) | None => return next.run(request).await,
    };
    let most = request.extensions().get::<MaxBody>().map_or(MAX_REQUEST, |most| most.0);
    let request = match api::whole(request, most).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    match core.admission.enter(Class::Enrolment, party).await {
        Ok(_place) => next.run(request).await,
        Err(full) => api::busy(Class::Enrolment, full).into_response(),
    }
}

/// What may stand behind `trust?`.
#[derive(Debug, serde::Deserialize)]
struct TrustQuery {
    /// 16 bytes that the asker made, in base64url.
    nonce: Option<String>,
}

/// The chain, and what time it is by a beacon with the asker's nonce: whoever enrols has no other time to go by
/// than a clock that may be off.
async fn trust(
    State(core): State<Arc<Core>>,
    Params(query): Params<TrustQuery>,
) -> Result<Json<TrustAnswer>, Problem> {
    let nonce = query.nonce.as_deref().map(|text| {
        let bytes = decode_base64url(text).ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        bytes.ok_or_else(|| Problem::invalid("nonce", "16 bytes in base64url", text))
    });
    // A fenced controller says nothing of the time.
    let beacon =
        nonce.transpose()?.and_then(|nonce| control::beacon(&core, &core.snapshot(), Some(nonce)).ok());
    Ok(Json(TrustAnswer { chain: core.signer.chain_text(), beacon }))
}

const fn address(peer: Peer) -> IpAddr {
    match peer {
        Peer::Network(address) => address,
        Peer::Local { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

/// The key that a secret belongs to.
fn find_key(
    core: &Core,
    peer: Peer,
    secret: &JoinSecret,
    kind: &'static str,
) -> Result<EnrolmentKey, Problem> {
    let (from, now) = (address(peer), clock::now());
    if let Err(wait) = FAILURES.check(from, now) {
        let detail = "too many wrong keys came from this address";
        let mut problem =
            Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-failures", "Too many failures", detail);
        problem.retry_after = Some(wait.as_secs() + 1);
        let rule = "at most 30 wrong keys a minute from one address";
        return Err(problem.about("secret", rule, serde_json::Value::Null));
    }
    let hash = SecretHash::from_digest(secret.hash());
    let snapshot = core.snapshot();
    let of_organizations = snapshot.dataset.organizations.iter().flat_map(|data| &data.enrolment_keys);
    // Every key is compared, each in the same time: neither says how near a guess was.
    let mut found = None;
    for key in of_organizations.chain(&snapshot.dataset.enrolment_keys) {
        if key.secret_hash == hash {
            found = Some(key);
        }
    }
    match found {
        Some(key) if key.target.kind() == kind => Ok(key.clone()),
        Some(key) => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "key-of-another-kind",
            "The enrolment key is for something else",
            format!("expected a key for a {kind}, got one for a {}", key.target.kind()),
        )
        .about("secret", format!("of a key for a {kind}"), key.target.kind())),
        None => {
            FAILURES.failed(from, now);
            Err(Problem::new(
                StatusCode::FORBIDDEN,
                "key-unknown",
                "The enrolment key is not known",
                "it was removed or belongs to another installation; ask an administrator for a new one",
            )
            .about("secret", "of an enrolment key of this installation", serde_json::Value::Null))
        }
    }
}

/// Why a key cannot be used, in its own words.
fn key_problem(error: StoreError, key: &EnrolmentKey) -> Problem {
    let kind = key.target.kind();
    match error {
        StoreError::KeySpent("is used up") => Problem::new(
            StatusCode::FORBIDDEN,
            "key-used-up",
            "The enrolment key is used up",
            format!(
                "this key was made for {} {kind}{} and has enrolled as many; ask an administrator for a new one",
                key.cap,
                if key.cap == 1 { "" } else { "s" }
            ),
        )
        .about("secret", format!("of a key that has enrolled fewer than {}", key.cap), key.uses),
        StoreError::KeySpent(_) => Problem::new(
            StatusCode::FORBIDDEN,
            "key-expired",
            "The enrolment key has expired",
            format!(
                "it was good until {}; ask an administrator for a new one",
                api::rfc3339(trust::UnixMs::from_millis(key.expires_ms))
            ),
        )
        .about(
            "secret",
            "of a key that has not expired",
            api::rfc3339(trust::UnixMs::from_millis(key.expires_ms)),
        ),
        other => other.into(),
    }
}

fn not_proven() -> Problem {
    Problem::invalid(
        "proof",
        "a signature over this request by the identity key in it",
        serde_json::Value::Null,
    )
}

fn other_key() -> Problem {
    let mut problem = Problem::new(
        StatusCode::CONFLICT,
        "conflict",
        "The identity key is enrolled already",
        "this identity key was enrolled with another enrolment key; enrol with a fresh state directory",
    );
    problem.field = Some("identity_key".into());
    problem.rule = Some("unique".into());
    problem
}

fn not_issued(error: &IssueError) -> Problem {
    match error {
        IssueError::Struck => Problem::new(
            StatusCode::FORBIDDEN,
            "struck",
            "Access was revoked",
            "access of this subject was revoked; an administrator can give it back",
        )
        .about("identity_key", "of an agent whose access stands", "revoked"),
        IssueError::Unknown => {
            Problem::internal("the snapshot does not have what was just enrolled; try again")
        }
        IssueError::Waiting => {
            let mut problem = Problem::new(
                StatusCode::FORBIDDEN,
                "awaiting-approval",
                "The device waits for approval",
                "this device is known now; when an administrator has approved it, the same command enrols it",
            );
            problem.retry_after = Some(60);
            problem.about("identity_key", "of a device that was approved", "pending")
        }
        IssueError::Withheld(withheld) => withheld_problem(withheld),
        IssueError::Sign(_) | IssueError::Groups(_) => Problem::not_signing(error.to_string()),
    }
}

/// Nothing can be issued yet: said before anything is used up.
fn withheld_problem(withheld: &Withheld) -> Problem {
    let mut problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not-issuing",
        "This controller issues nothing right now",
        withheld.to_string(),
    );
    problem.retry_after = Some(withheld.retry_after().as_secs() + 1);
    problem
}

/// Waits for a controller that has just started; then says why it does not issue.
async fn when_issuing(core: &Core) -> Result<(), Problem> {
    // Before anything is stored or used up, and before a clock that nobody believes says that a key has expired.
    core.signer.signing_time()?;
    core.when_issuing().await.map_err(|withheld| withheld_problem(&withheld))
}

/// An agent that asks again because the answer was lost gets it as long as its key is good.
fn still_good(key: &EnrolmentKey) -> Result<(), Problem> {
    if key.expires_ms > clock::wall().as_millis() {
        return Ok(());
    }
    Err(key_problem(StoreError::KeySpent("has expired"), key))
}

fn organization_of(key: &EnrolmentKey) -> Result<OrganizationId, Problem> {
    key.organization.ok_or_else(|| Problem::internal("a key of this kind belongs to an organization"))
}

/// An object that was made, as the API shows it.
fn made_in(
    core: &Core,
    organization: OrganizationId,
    view: impl FnOnce(&api::Views<'_>) -> serde_json::Value,
) -> Option<serde_json::Value> {
    let snapshot = core.snapshot();
    let data = snapshot.organization(organization)?;
    Some(view(&api::Views::new(core, data)))
}

fn actor(key: &EnrolmentKey) -> String {
    format!("enrolment key {}", key.id)
}

async fn device(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    Body(request): Body<DeviceEnrolment>,
) -> Result<Json<Enrolled>, Problem> {
    request.check_proof().map_err(|_| not_proven())?;
    when_issuing(&core).await?;
    let name = api::name("name", &request.name)?;
    let key = find_key(&core, peer, &request.secret.0, "device")?;
    let EnrolmentTarget::Device { owner } = key.target else { return Err(not_proven()) };
    let organization = organization_of(&key)?;
    let identity_key = *request.identity_key.as_bytes();
    let snapshot = core.snapshot();
    let held = snapshot
        .organization(organization)
        .and_then(|data| data.devices.iter().find(|device| device.identity_key == identity_key));
    let id = match held {
        Some(device) if device.enrolled_by == key.id => {
            still_good(&key)?;
            device.id
        }
        Some(_) => return Err(other_key()),
        None => {
            let created_ms = clock::wall().as_millis();
            let device = store::Device {
                id: DeviceId::from_time_and_random(created_ms, clock::random()),
                owner,
                name,
                identity_key,
                state: if key.approval { store::DeviceState::Pending } else { store::DeviceState::Active },
                generation: 1,
                enrolled_by: key.id,
                created_ms,
            };
            let (store, mut change) =
                core.database.change(Scope::Organization(organization), &actor(&key)).await?;
            change.use_enrolment_key(key.id).await.map_err(|error| key_problem(error, &key))?;
            change.insert_device(&device).await?;
            let made = made_in(&core, organization, |views| json!(views.device(&device)));
            let noted = noted("enrol device", &device.id.to_string(), None, made, json!({"owner": owner}));
            core.commit(&store, change, &origin, noted).await?;
            device.id
        }
    };
    enrolled_device(&core, organization, id).map(Json)
}

fn enrolled_device(core: &Core, organization: OrganizationId, id: DeviceId) -> Result<Enrolled, Problem> {
    let (snapshot, revocations) = (core.snapshot(), core.strikes.set());
    let issuer = Issuer::new(core, &snapshot, &revocations);
    let gone = || not_issued(&IssueError::Unknown);
    let data = snapshot.organization(organization).ok_or_else(gone)?;
    let device = data.devices.iter().find(|device| device.id == id).ok_or_else(gone)?;
    let grant = issuer.grant(data, device).map_err(|error| not_issued(&error))?;
    let slice = issuer.client(data, device).map_err(|error| not_issued(&error))?;
    let identity = Identity::device(snapshot.dataset.installation.id, organization, id);
    let key = trust::VerifyingKey::from_bytes(device.identity_key);
    let owner_name = api::Views::new(core, data).member_name(device.owner);
    Ok(Enrolled {
        identity,
        name: device.name.clone(),
        belongs_to: data.organization.name.clone(),
        owner: Some(owner_name),
        certificate: certificate(&issuer, identity, key, device.generation)?,
        grant: Some(grant),
        slice,
        chain: core.signer.chain_text(),
    })
}

fn certificate(
    issuer: &Issuer<'_>,
    identity: Identity,
    key: trust::VerifyingKey,
    generation: u64,
) -> Result<String, Problem> {
    let der = issuer.certificate(identity, key, generation).map_err(|error| not_issued(&error))?;
    Ok(encode_base64url(&der))
}

async fn connector(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    Body(request): Body<ConnectorEnrolment>,
) -> Result<Json<Enrolled>, Problem> {
    request.check_proof().map_err(|_| not_proven())?;
    when_issuing(&core).await?;
    let name = api::name("name", &request.name)?;
    let key = find_key(&core, peer, &request.secret.0, "connector")?;
    let EnrolmentTarget::Connector { site } = key.target else { return Err(not_proven()) };
    let organization = organization_of(&key)?;
    let identity_key = *request.identity_key.as_bytes();
    let snapshot = core.snapshot();
    let held = snapshot
        .organization(organization)
        .and_then(|data| data.connectors.iter().find(|connector| connector.identity_key == identity_key));
    let id = match held {
        Some(connector) if connector.enrolled_by == key.id => {
            still_good(&key)?;
            connector.id
        }
        Some(_) => return Err(other_key()),
        None => {
            let created_ms = clock::wall().as_millis();
            let connector = store::Connector {
                id: ConnectorId::from_time_and_random(created_ms, clock::random()),
                site,
                name,
                identity_key,
                wireguard_key: *request.wireguard_key.as_bytes(),
                seal_key: *request.seal_key.as_bytes(),
                generation: 1,
                enrolled_by: key.id,
                created_ms,
            };
            let (store, mut change) =
                core.database.change(Scope::Organization(organization), &actor(&key)).await?;
            change.use_enrolment_key(key.id).await.map_err(|error| key_problem(error, &key))?;
            change.insert_connector(&connector).await?;
            let made = made_in(&core, organization, |views| json!(views.connector(&connector)));
            let id = connector.id.to_string();
            let noted = noted("enrol connector", &id, None, made, json!({"site": site}));
            core.commit(&store, change, &origin, noted).await?;
            connector.id
        }
    };
    enrolled_connector(&core, organization, id).map(Json)
}

fn enrolled_connector(
    core: &Core,
    organization: OrganizationId,
    id: ConnectorId,
) -> Result<Enrolled, Problem> {
    let (snapshot, revocations) = (core.snapshot(), core.strikes.set());
    let issuer = Issuer::new(core, &snapshot, &revocations);
    let gone = || not_issued(&IssueError::Unknown);
    let data = snapshot.organization(organization).ok_or_else(gone)?;
    let connector = data.connectors.iter().find(|connector| connector.id == id).ok_or_else(gone)?;
    let subject = trust::RevokedSubject::Connector(id);
    if revocations.is_struck(subject, connector.generation) {
        return Err(not_issued(&IssueError::Struck));
    }
    let identity = Identity::connector(snapshot.dataset.installation.id, organization, id);
    let key = trust::VerifyingKey::from_bytes(connector.identity_key);
    Ok(Enrolled {
        identity,
        name: connector.name.clone(),
        belongs_to: data.organization.name.clone(),
        owner: None,
        certificate: certificate(&issuer, identity, key, connector.generation)?,
        grant: None,
        slice: issuer.connector(data, id).map_err(|error| not_issued(&error))?,
        chain: core.signer.chain_text(),
    })
}

async fn pop(
    State(core): State<Arc<Core>>,
    Extension(peer): Extension<Peer>,
    origin: Origin,
    Body(request): Body<PopEnrolment>,
) -> Result<Json<Enrolled>, Problem> {
    request.check_proof().map_err(|_| not_proven())?;
    when_issuing(&core).await?;
    let name = api::name("name", &request.name)?;
    let address = api::host_port("advertise", &request.advertise)?;
    let key = find_key(&core, peer, &request.secret.0, "pop")?;
    let EnrolmentTarget::Pop { region, zone } = key.target.clone() else { return Err(not_proven()) };
    let identity_key = *request.identity_key.as_bytes();
    let snapshot = core.snapshot();
    let held = snapshot.dataset.pops.iter().find(|pop| pop.identity_key == identity_key);
    let id = match held {
        Some(pop) if pop.enrolled_by == key.id => {
            still_good(&key)?;
            pop.id
        }
        // It proved that it has the identity key, and a PoP's key is good for any PoP.
        Some(pop) => {
            let (store, mut change) = core.database.change(Scope::Installation, &actor(&key)).await?;
            change.use_enrolment_key(key.id).await.map_err(|error| key_problem(error, &key))?;
            change.enrol_pop_again(pop.id, key.id).await?;
            change.update_pop(pop.id, &address, &region, &zone).await?;
            let before = json!({"address": pop.address, "region": pop.region, "zone": pop.zone});
            let after = json!({"address": address, "region": region, "zone": zone});
            let (id, detail) = (pop.id.to_string(), json!({"address": address}));
            let noted = noted("enrol pop again", &id, Some(before), Some(after), detail);
            core.commit(&store, change, &origin, noted).await?;
            pop.id
        }
        None => {
            let created_ms = clock::wall().as_millis();
            let pop = store::Pop {
                id: PopId::from_time_and_random(created_ms, clock::random()),
                name,
                region,
                zone,
                address,
                identity_key,
                generation: 1,
                enrolled_by: key.id,
                created_ms,
            };
            let (store, mut change) = core.database.change(Scope::Installation, &actor(&key)).await?;
            change.use_enrolment_key(key.id).await.map_err(|error| key_problem(error, &key))?;
            change.insert_pop(&pop).await?;
            let after =
                json!({"name": pop.name, "address": pop.address, "region": pop.region, "zone": pop.zone});
            let detail = json!({"address": pop.address});
            let noted = noted("enrol pop", &pop.id.to_string(), None, Some(after), detail);
            core.commit(&store, change, &origin, noted).await?;
            pop.id
        }
    };
    enrolled_pop(&core, &core.snapshot(), id).map(Json)
}

fn enrolled_pop(core: &Core, snapshot: &Snapshot, id: PopId) -> Result<Enrolled, Problem> {
    let revocations = core.strikes.set();
    let issuer = Issuer::new(core, snapshot, &revocations);
    let pop = snapshot.dataset.pops.iter().find(|pop| pop.id == id);
    let pop = pop.ok_or_else(|| not_issued(&IssueError::Unknown))?;
    if revocations.is_struck(trust::RevokedSubject::Pop(id), pop.generation) {
        return Err(not_issued(&IssueError::Struck));
    }
    let identity = Identity::pop(snapshot.dataset.installation.id, id);
    let key = trust::VerifyingKey::from_bytes(pop.identity_key);
    Ok(Enrolled {
        identity,
        name: pop.name.clone(),
        belongs_to: snapshot.dataset.installation.id.to_string(),
        owner: None,
        certificate: certificate(&issuer, identity, key, pop.generation)?,
        grant: None,
        slice: issuer.pop(id).map_err(|error| not_issued(&error))?,
        chain: core.signer.chain_text(),
    })
}
