//! Revocation, keys, status and diagnostics.

use super::{
    Problem, Views,
    caller::Caller,
    check,
    list::Wanted,
    listed::Strikes,
    once::{Unremembered, once},
    operate::{Intent, noted, once_in_store, operate},
    operation::{Applied, Operation},
    request::Body,
    roles::Permission,
    tag::Tagged,
    types::{
        AcceptedDatabase, Alarm, DatabaseDiagnostics, DatabaseStatus, Durable, KeysStatus, OwnerLink, Page,
        ReplicaStatus, Restored, SnapshotStatus, Status, Strike, StrikeInput, StrikeOutcome,
    },
    view::rfc3339,
};
use crate::{
    clock,
    parts::{Core, StrikeReport, StrikeRequest},
    signer::root_key_place,
    snapshot::{Snapshot, SnapshotError},
    strikes::OnDisk,
};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use store::{Member, OrganizationData, Scope};
use trust::{RevokedSubject, UnixMs};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The answer of a handler.
type Answer<T> = Result<Json<T>, Problem>;

/// An answer's body.
fn value(answer: &impl serde::Serialize) -> Value {
    serde_json::to_value(answer).expect("what the API says always serializes")
}

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_strikes, create_strike))
        .routes(routes!(create_restore))
        .routes(routes!(create_owner_link))
        .routes(routes!(accept_restored_database))
        .routes(routes!(get_status))
        .routes(routes!(get_database_diagnostics))
}

/// The newest generation of a subject that the caller may strike. Memory answers: a strike never
/// waits for the database.
fn generation(snapshot: &Snapshot, data: &OrganizationData, subject: RevokedSubject) -> Result<u64, Problem> {
    let membership = |member: Member, group| {
        let mut rows = data.memberships.iter();
        rows.find(|row| row.member == member && row.group == group).map(|row| row.generation)
    };
    let found = match subject {
        RevokedSubject::Device(id) => data.devices.iter().find(|row| row.id == id).map(|row| row.generation),
        RevokedSubject::User(id) => data.users.iter().find(|row| row.id == id).map(|row| row.generation),
        RevokedSubject::ServiceAccount(id) => {
            data.service_accounts.iter().find(|row| row.id == id).map(|row| row.generation)
        }
        RevokedSubject::Connector(id) => {
            data.connectors.iter().find(|row| row.id == id).map(|row| row.generation)
        }
        RevokedSubject::Token(id) => data.tokens.iter().find(|row| row.id == id).map(|_| 1),
        RevokedSubject::UserInGroup(id, group) => membership(Member::User(id), group),
        RevokedSubject::ServiceAccountInGroup(id, group) => membership(Member::ServiceAccount(id), group),
        RevokedSubject::Pop(id) => {
            snapshot.dataset.pops.iter().find(|row| row.id == id).map(|row| row.generation)
        }
        RevokedSubject::Controller(_) => {
            return Err(Problem::invalid(
                "subject",
                "a controller's keys are withdrawn by a new trust bundle, not by a strike",
                subject.to_string(),
            ));
        }
    };
    found.ok_or_else(|| {
        Problem::invalid("subject", "the id of an object of this organization", subject.to_string())
    })
}

/// Whether the caller may revoke this: nobody takes access from somebody whose role may do more than their own, nor a token
/// that may. Being in a group is no such access: whoever may change groups and policies takes it from anybody.
fn may_strike(caller: &Caller, data: &OrganizationData, subject: RevokedSubject) -> Result<(), Problem> {
    match subject {
        RevokedSubject::Device(_) => caller.need(Permission::StrikeDevices),
        RevokedSubject::Connector(_) => caller.need(Permission::StrikeNetwork),
        RevokedSubject::Pop(_) | RevokedSubject::Controller(_) => caller.need(Permission::Installation),
        RevokedSubject::User(id) => {
            caller.need(Permission::StrikePeople)?;
            match data.users.binary_search_by_key(&id, |user| user.id) {
                Ok(place) => caller.need_to_cover(data.users[place].role),
                Err(_) => Ok(()),
            }
        }
        RevokedSubject::Token(id) => {
            caller.need(Permission::StrikePeople)?;
            match data.tokens.binary_search_by_key(&id, |token| token.id) {
                Ok(place) => caller.need_to_hold(&data.tokens[place]),
                Err(_) => Ok(()),
            }
        }
        RevokedSubject::ServiceAccount(_)
        | RevokedSubject::UserInGroup(..)
        | RevokedSubject::ServiceAccountInGroup(..) => caller.need(Permission::StrikePeople),
    }
}

/// Revokes access at once: also when the database cannot be used.
#[utoipa::path(post, path = "/strikes", tag = "strikes", request_body = StrikeInput, responses((status = 201, description = "Struck", body = StrikeOutcome)))]
async fn create_strike(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<StrikeInput>,
) -> Result<Tagged, Problem> {
    let subject: RevokedSubject = check::parsed("subject", &input.subject)?;
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    may_strike(&caller, data, subject)?;
    let generation = generation(&snapshot, data, subject)?;
    let organization = Some(caller.organization);
    let organization = if matches!(subject, RevokedSubject::Pop(_)) { None } else { organization };
    let (source, request) = (caller.origin.source(), caller.origin.request.clone());
    let actor = caller.actor.clone();
    let asked = StrikeRequest { subject, generation, organization, actor, source, request };
    let striking = Arc::clone(&core);
    let make = async move {
        let report = striking.strike(asked).await?;
        Ok((StatusCode::CREATED, value(&outcome(&report))))
    };
    once(&core, &caller, &intent, Unremembered::Goes, make).await
}

/// What the maker of a strike is told: what is, and nothing that is hoped for.
pub(super) fn outcome(report: &StrikeReport) -> StrikeOutcome {
    let pops = report.holders.pops.len();
    let counted = |n: usize| if n == 1 { "1 PoP".to_owned() } else { format!("{n} PoPs") };
    let held = match (report.on_disk, pops) {
        (OnDisk::Yes, 0) => "this node only".to_owned(),
        (OnDisk::Yes, n) => format!("this controller and {}", counted(n)),
        (OnDisk::No, 0) => "this controller's memory only".to_owned(),
        (OnDisk::No, n) => format!("{}; this controller's disk refused it", counted(n)),
    };
    StrikeOutcome {
        subject: report.subject.to_string(),
        generation: report.generation,
        at: rfc3339(report.at),
        durable: match (report.on_disk, pops) {
            (OnDisk::Yes, 1..) | (OnDisk::No, 2..) => Durable::TwoHolders,
            (OnDisk::Yes, 0) => Durable::ThisNodeOnly,
            (OnDisk::No, 1) => Durable::OnePopOnly,
            (OnDisk::No, 0) => Durable::NoDisk,
        },
        held,
        held_by_pops: pops,
        pops_attached: report.pops_attached.len(),
        enforced: report.reach.enforced,
        stale: report.reach.stale,
        isolated: report.reach.isolated,
        latest_possible_end: rfc3339(report.latest_possible_end),
    }
}

/// Whether an entry is about something of this organization, as far as the snapshot knows it.
fn concerns(data: &OrganizationData, snapshot: &Snapshot, subject: RevokedSubject) -> bool {
    let user = |id| data.users.iter().any(|row| row.id == id);
    let account = |id| data.service_accounts.iter().any(|row| row.id == id);
    match subject {
        RevokedSubject::Device(id) => data.devices.iter().any(|row| row.id == id),
        RevokedSubject::User(id) | RevokedSubject::UserInGroup(id, _) => user(id),
        RevokedSubject::ServiceAccount(id) | RevokedSubject::ServiceAccountInGroup(id, _) => account(id),
        RevokedSubject::Connector(id) => data.connectors.iter().any(|row| row.id == id),
        RevokedSubject::Token(id) => data.tokens.iter().any(|row| row.id == id),
        RevokedSubject::Pop(id) => snapshot.dataset.pops.iter().any(|row| row.id == id),
        RevokedSubject::Controller(_) => true,
    }
}

/// Lists what is revoked. With the permission `installation` also what was removed since.
#[utoipa::path(get, path = "/strikes", tag = "strikes", params(Wanted<Strikes>), responses((status = 200, description = "One page, ordered by signer and number", body = Page<Strike>)))]
async fn list_strikes(
    State(core): State<Arc<Core>>,
    caller: Caller,
    wanted: Wanted<Strikes>,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    let every = caller.may(Permission::Installation);
    let entries = core.strikes.entries(clock::wall());
    let mut entries: Vec<_> = entries
        .into_iter()
        .map(|entry| entry.revocation)
        .filter(|entry| every || concerns(data, &snapshot, entry.subject))
        .collect();
    entries.sort_by_key(|entry| (entry.signer, entry.seq));
    let views = Views::new(&core, data);
    let view = |entry: &trust::Revocation| Strike {
        subject: entry.subject.to_string(),
        generation: entry.generation,
        at: rfc3339(entry.at),
        keep_until: rfc3339(entry.keep_until),
        signer: entry.signer,
        seq: entry.seq,
    };
    Ok(wanted.page(entries.iter(), &views, view))
}

/// Gives access back.
///
/// It raises the generation: certificates and grants of older generations stay revoked, so a device, connector or PoP
/// enrols again.
#[utoipa::path(post, path = "/restores", tag = "strikes", request_body = StrikeInput, responses((status = 201, description = "Given back", body = Restored)))]
async fn create_restore(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<StrikeInput>,
) -> Result<Tagged, Problem> {
    operate(&core, &caller, intent, Operation::Restore(input)).await
}

/// Makes a link that lets one more owner set a passphrase: it works once, for 24 hours.
#[utoipa::path(post, path = "/owner-links", tag = "owners", responses((status = 201, description = "Made", body = OwnerLink)))]
async fn create_owner_link(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
) -> Result<Tagged, Problem> {
    let (link, row) = crate::signin::owner_link(&core.url);
    let expires = rfc3339(UnixMs::from_millis(row.expires_ms));
    let answer = value(&OwnerLink { link, expires });
    once_in_store(&core, &caller, intent, Scope::Installation, move |work| {
        Box::pin(async move {
            work.change.insert_one_time_link(&row).await?;
            Ok((Applied::made(answer), noted("create owner link", "owner", None, None, json!({}))))
        })
    })
    .await
}

/// Takes a database that was restored from a copy for the truth.
///
/// Until then a controller that has served something newer neither reads nor changes it. What was revoked stays
/// revoked.
#[utoipa::path(post, path = "/restored-database", tag = "status", responses((status = 200, description = "Accepted", body = AcceptedDatabase)))]
async fn accept_restored_database(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
) -> Result<Tagged, Problem> {
    let (accepting, actor, origin) = (Arc::clone(&core), caller.actor.clone(), caller.origin.clone());
    let make = async move {
        match accepting.accept_restored(&actor, &origin).await {
            Ok(version) => {
                let (incarnation, version) = (version.incarnation, version.version);
                Ok((StatusCode::OK, value(&AcceptedDatabase { incarnation, version })))
            }
            Err(SnapshotError::Store(error)) => Err(error.into()),
            Err(error) => Err(Problem::new(
                StatusCode::CONFLICT,
                "database-not-usable",
                "This database cannot be accepted",
                error.to_string(),
            )
            .about("database", "one that this controller can serve", error.label())),
        }
    };
    once(&core, &caller, &intent, Unremembered::Waits, make).await
}

/// How this controller is.
#[utoipa::path(get, path = "/status", tag = "status", responses((status = 200, description = "Now", body = Status)))]
async fn get_status(State(core): State<Arc<Core>>, caller: Caller) -> Answer<Status> {
    let snapshot = core.snapshot();
    let version = caller.data(&snapshot)?.organization.version;
    let trouble = core.database.trouble();
    let alarms = core.snapshots.alarms();
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let views = Views::new(&core, caller.data(&snapshot)?);
    let struck = views.revocations.len();
    drop(views);
    let (keys_end, keys_alarm) = core.signer.keys_end();
    let (rotation_key_end, rotation_key_alarm) = core.signer.rotation_key_end();
    Ok(Json(Status {
        installation: snapshot.dataset.installation.id,
        controller: core.signer.controller(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        up_seconds: core.up_for().as_secs(),
        root_hash: core.signer.root().to_string(),
        root_key: word(json!(root_key_place(&core.state))),
        snapshot: SnapshotStatus {
            source: word(json!(snapshot.source)),
            read: rfc3339(snapshot.read_at),
            age_seconds: core.snapshot_age().as_secs(),
            behind: core.snapshots.is_behind(),
            alarm: alarms.current,
            alarms: alarms
                .counts
                .into_iter()
                .map(|(reason, count)| Alarm { reason: reason.to_owned(), count })
                .collect(),
            incarnation: version.incarnation,
            version: version.version,
        },
        keys: KeysStatus {
            serial: core.signer.bundle().serial(),
            end: rfc3339(keys_end),
            rotation_key_end: rfc3339(rotation_key_end),
            alarm: rotation_key_alarm.or(keys_alarm),
        },
        database: database_status(&core, trouble),
        not_signing: core.signer.signing_time().err().map(|error| error.to_string()),
        not_issuing: core.withheld().map(|withheld| withheld.to_string()),
        pops: snapshot.dataset.pops.len(),
        pops_attached: core.presence().attached_pops().len(),
        struck,
    }))
}

fn database_status(core: &Core, trouble: Option<String>) -> DatabaseStatus {
    let replicas = core.replicas.states().into_iter().map(|replica| ReplicaStatus {
        server: replica.name,
        usable: replica.trouble.is_none(),
        trouble: replica.trouble,
        lag_seconds: replica.lag.map(|lag| lag.as_secs()),
    });
    let replicas: Vec<_> = replicas.collect();
    DatabaseStatus {
        usable: trouble.is_none(),
        trouble,
        replicas_usable: replicas.iter().filter(|replica| replica.usable).count(),
        replica_lag_seconds: replicas.iter().filter_map(|replica| replica.lag_seconds).max(),
        replicas,
    }
}

/// What the database did since this controller opened it, counted by SQLite's own trace.
#[utoipa::path(get, path = "/diagnostics/database", tag = "diagnostics", responses((status = 200, description = "Now", body = DatabaseDiagnostics)))]
async fn get_database_diagnostics(
    State(core): State<Arc<Core>>,
    _caller: Caller,
) -> Answer<DatabaseDiagnostics> {
    let counters = core.database.counters();
    Ok(Json(DatabaseDiagnostics { statements: counters.statements, rows_written: counters.rows_written }))
}
