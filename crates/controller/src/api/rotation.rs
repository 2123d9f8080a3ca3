//! Keys of this installation: new ones of every role, and another rotation key, which the root signs for elsewhere.

use super::{
    Problem,
    caller::{Caller, Origin},
    check,
    once::{Unremembered, once},
    operate::Intent,
    request::Body,
    tag::Tagged,
    types::{KeyRotation, KeyRotationInput, RotationKey, RotationKeyInput, RotationKeyOffer},
    view::rfc3339,
};
use crate::{
    follow::SettleError,
    ledger::{self, Deed},
    parts::{Core, SyncCommand},
    signer::{KeyringError, Renewal, RotationError, SignError},
};
use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// An answer's body.
fn value(answer: &impl serde::Serialize) -> Value {
    serde_json::to_value(answer).expect("what the API says always serializes")
}

const DAY_S: u64 = 24 * 3600;
/// A signed statement is some 400 bytes.
const MAX_STATEMENT: usize = 4096;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(rotate_keys))
        .routes(routes!(offer_rotation_key))
        .routes(routes!(put_rotation_key))
}

/// Makes new signing keys of every role now: because one may have leaked, or to see that nothing depends on an old one.
///
/// They are published at once and sign a day later, or when the request says; what the keys of before have signed stays
/// good to its end.
#[utoipa::path(post, path = "/key-rotations", tag = "status", request_body = KeyRotationInput, responses((status = 201, description = "Made and published", body = KeyRotation)))]
async fn rotate_keys(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<KeyRotationInput>,
) -> Result<Tagged, Problem> {
    let seconds = input.use_after_seconds.unwrap_or(DAY_S);
    let seconds = check::within("use_after_seconds", seconds, 1..=7 * DAY_S)?;
    let published_for = std::time::Duration::from_secs(seconds);
    let make = rotated(Arc::clone(&core), (caller.actor.clone(), caller.origin.clone()), published_for);
    once(&core, &caller, &intent, Unremembered::Waits, make).await
}

async fn rotated(
    core: Arc<Core>,
    (actor, origin): (String, Origin),
    published_for: std::time::Duration,
) -> Result<(StatusCode, Value), Problem> {
    let not_rotated = |why: String| {
        let problem =
            Problem::new(StatusCode::CONFLICT, "keys-not-rotated", "The keys were not rotated", why);
        problem.about("keys", "a keyring that this controller can change", Value::Null)
    };
    // With other controllers the bundle changes in the database.
    let shared = if core.signer.is_one_of_several() {
        match core.settle_keys(Renewal::Now { published_for }).await {
            Ok(Some(serial)) => Some(serial),
            Ok(None) => return Err(not_rotated("this controller was removed from the installation".into())),
            Err(SettleError::Store(error)) => return Err(error.into()),
            Err(SettleError::Sign(SignError::Fenced(fenced))) => return Err(fenced.into()),
            Err(SettleError::Sign(error)) => return Err(not_rotated(error.to_string())),
        }
    } else {
        None
    };
    let made = tokio::task::spawn_blocking(move || {
        let serial = match shared {
            Some(serial) => serial,
            None => core.signer.rotate_now(published_for)?,
        };
        let now = core.signer.best_time();
        let deed = Deed::new(now, &actor, "rotate keys", serial).asked(&origin);
        if let Err(error) = ledger::write_down(&core.state, &deed) {
            tracing::warn!(%error, "a rotation of keys is not in the audit log");
        }
        // PoPs that this does not reach get it when they attach.
        let _ = core.sync.blocking_send(SyncCommand::Bundle);
        core.work.notify_one();
        Ok::<_, SignError>((serial, now.plus(published_for)))
    })
    .await
    .map_err(|error| Problem::internal(error.to_string()))?;
    let (serial, used_from) = match made {
        Ok(made) => made,
        Err(SignError::Fenced(fenced)) => return Err(fenced.into()),
        Err(error) => return Err(not_rotated(error.to_string())),
    };
    Ok((StatusCode::CREATED, value(&KeyRotation { serial, used_from: rfc3339(used_from) })))
}

/// Makes a rotation key, for the root to sign for: what `PUT /rotation-key` is asked with.
///
/// Nothing is changed by this. The root key is kept away from controllers; whoever has it signs a statement with these
/// values (`tidegate admin root new-rotation-key` does all of it).
#[utoipa::path(post, path = "/rotation-key-offers", tag = "status", responses((status = 201, description = "Waits for the root's signature, in this controller's memory", body = RotationKeyOffer)))]
async fn offer_rotation_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
) -> Result<Tagged, Problem> {
    let offering = Arc::clone(&core);
    let make = async move {
        let offer = offering.signer.offer_rotation_key().map_err(refused)?;
        let offer = RotationKeyOffer {
            installation: offer.installation,
            root_hash: offer.root.to_string(),
            epoch: offer.epoch,
            rotation_key: trust::encode_base64url(offer.rotation.as_bytes()),
        };
        Ok((StatusCode::CREATED, value(&offer)))
    };
    once(&core, &caller, &intent, Unremembered::Waits, make).await
}

/// Puts the offered rotation key in place of the one held, by the root's signature: because that one ends (it lives two
/// years at most), or because somebody has it.
///
/// Nothing that the key of before signs is believed from then on; keys, certificates and grants stay good. With `without`,
/// the keys of controllers that were stolen are gone with it, and everybody is signed out.
#[utoipa::path(put, path = "/rotation-key", tag = "status", request_body = RotationKeyInput, responses((status = 200, description = "In place and published", body = RotationKey)))]
async fn put_rotation_key(
    State(core): State<Arc<Core>>,
    caller: Caller,
    intent: Intent,
    Body(input): Body<RotationKeyInput>,
) -> Result<Tagged, Problem> {
    if input.statement.len() > MAX_STATEMENT {
        let shown = input.statement.chars().take(120).collect::<String>();
        return Err(Problem::invalid("statement", format!("at most {MAX_STATEMENT} bytes"), shown));
    }
    check::list_length("without", input.without.len())?;
    let make = replaced(Arc::clone(&core), (caller.actor.clone(), caller.origin.clone()), input);
    once(&core, &caller, &intent, Unremembered::Waits, make).await
}

fn refused(error: SignError) -> Problem {
    let (kind, title) = match error {
        SignError::Fenced(fenced) => return fenced.into(),
        SignError::Rotation(RotationError::NoneOffered) => {
            ("no-rotation-key-offered", "No rotation key waits for this signature")
        }
        SignError::Keyring(KeyringError::Unknown(id)) => {
            return Problem::invalid(
                "without",
                "expected controllers that the trust bundle names",
                id.to_string(),
            );
        }
        SignError::Keyring(KeyringError::Itself(id)) => {
            return Problem::invalid(
                "without",
                "expected others than the controller that is asked",
                id.to_string(),
            );
        }
        _ => ("rotation-key-not-replaced", "The rotation key was not replaced"),
    };
    let problem = Problem::new(StatusCode::CONFLICT, kind, title, error.to_string());
    problem.about("statement", "what the root key signed of the key that was offered last", Value::Null)
}

async fn replaced(
    core: Arc<Core>,
    (actor, origin): (String, Origin),
    input: RotationKeyInput,
) -> Result<(StatusCode, Value), Problem> {
    let RotationKeyInput { statement, without } = input;
    let subject = without.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let ended = |error: tokio::task::JoinError| Problem::internal(error.to_string());
    let serial = if core.signer.is_one_of_several() {
        match core.share_rotation_key(statement, without).await {
            Ok(serial) => serial,
            Err(SettleError::Store(error)) => return Err(error.into()),
            Err(SettleError::Sign(error)) => return Err(refused(error)),
        }
    } else {
        let replacing = Arc::clone(&core);
        let replace = move || replacing.signer.replace_rotation_key(&statement, &without);
        tokio::task::spawn_blocking(replace).await.map_err(ended)?.map_err(refused)?
    };
    let written = Arc::clone(&core);
    let deed = Deed::new(core.signer.best_time(), &actor, "replace rotation key", subject).asked(&origin);
    let write = move || ledger::write_down(&written.state, &deed);
    if let Err(error) = tokio::task::spawn_blocking(write).await.map_err(ended)? {
        tracing::warn!(%error, "another rotation key is not in the audit log");
    }
    // PoPs that this does not reach get it when they attach.
    let _ = core.sync.send(SyncCommand::Bundle).await;
    core.work.notify_one();
    let bundle = core.signer.bundle();
    let ends = rfc3339(bundle.rotation_end());
    Ok((StatusCode::OK, value(&RotationKey { epoch: bundle.epoch(), serial, ends })))
}
