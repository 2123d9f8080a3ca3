//! Access given back, the installation's database, status and diagnostics.

use super::{
    Problem, Views,
    caller::Caller,
    once::{Unremembered, once},
    operate::{Intent, noted, once_in_store, operate, value},
    operation::{Applied, Operation},
    request::Body,
    tag::Tagged,
    types::{
        AcceptedDatabase, Alarm, DatabaseDiagnostics, DatabaseStatus, KeysStatus, OwnerLink, ReplicaStatus,
        Restored, SnapshotStatus, Status, StrikeInput,
    },
    view::rfc3339,
};
use crate::{parts::Core, signer::root_key_place, snapshot::SnapshotError};
use axum::{Json, extract::State};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use store::Scope;
use trust::UnixMs;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The answer of a handler.
type Answer<T> = Result<Json<T>, Problem>;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(create_restore))
        .routes(routes!(create_owner_link))
        .routes(routes!(accept_restored_database))
        .routes(routes!(get_status))
        .routes(routes!(get_database_diagnostics))
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
///
/// By the local socket of the controller's host alone (`tidegate admin owner-link` there): no token and no session of a
/// browser gets one, whatever it may do.
#[utoipa::path(post, path = "/owner-links", tag = "owners", responses((status = 201, description = "Made", body = OwnerLink)))]
async fn create_owner_link(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
) -> Result<Tagged, Problem> {
    caller.need_local()?;
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
        requests: core.admission.load(),
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
