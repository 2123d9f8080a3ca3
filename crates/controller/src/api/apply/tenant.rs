//! Organizations, their settings, and access that is given back.

use super::super::{
    Problem,
    caller::operator,
    check, fresh,
    keys::{GRANT_LIFE_MS, RENEW_AFTER_MS},
    operate::Work,
    operation::Applied,
    roles::Permission,
    types::{OrganizationInput, OrganizationPatch, Restored, SettingsPatch, StrikeInput},
    view,
};
use crate::clock;
use http::StatusCode;
use serde_json::{Value, json};
use store::{DeviceState, StoreError, Subject as Generations, Version};
use trust::RevokedSubject;
use wire::OrganizationId;

/// A hundred years; a week is the least that an audit log is good for.
const RETENTION: std::ops::RangeInclusive<u64> = 7..=36_500;

fn value(view: &impl serde::Serialize) -> Value {
    serde_json::to_value(view).expect("what the API says always serializes")
}

pub(super) async fn create_organization(
    work: &mut Work,
    input: &OrganizationInput,
) -> Result<Applied, Problem> {
    let row = store::Organization {
        id: fresh(OrganizationId::from_time_and_random),
        name: check::name("name", &input.name)?,
        version: Version { incarnation: work.snapshot.dataset.installation.version.incarnation, version: 1 },
        grant_life_ms: GRANT_LIFE_MS,
        renew_after_ms: RENEW_AFTER_MS,
        shrink_version: 0,
        old_grants_end_ms: 0,
        approve_devices: false,
        audit_retention_days: 0,
        flow_retention_days: 0,
        sign_in_age_ms: store::Organization::SIGN_IN_AGE_MS,
        closed_ms: 0,
        created_ms: clock::wall().as_millis(),
    };
    work.change.insert_organization(&row).await?;
    let after = value(&view::organization(&row));
    work.noted("create organization", &row.id, None, Some(after.clone()));
    Ok(Applied::made(after))
}

async fn organization_row(work: &mut Work, id: OrganizationId) -> Result<store::Organization, Problem> {
    let row = work.change.organization_row(id).await?;
    row.ok_or_else(|| Problem::not_found("organization", id.to_string()))
}

/// Name and times, as they would be.
async fn name_and_times(
    work: &mut Work,
    row: &mut store::Organization,
    name: Option<&str>,
    life: Option<u64>,
    renew: Option<u64>,
) -> Result<(), Problem> {
    let life = life.unwrap_or(row.grant_life_ms / 1000);
    let life = check::within("grant_life_seconds", life, 3600..=72 * 3600)?;
    let renew = renew.unwrap_or((row.renew_after_ms / 1000).min(life / 2));
    let renew = check::within("renew_after_seconds", renew, 5..=life / 2)?;
    if let Some(name) = name {
        row.name = check::name("name", name)?;
        work.change.rename_organization(row.id, &row.name).await?;
    }
    (row.grant_life_ms, row.renew_after_ms) = (life * 1000, renew * 1000);
    Ok(work.change.set_grant_times(row.id, row.grant_life_ms, row.renew_after_ms).await?)
}

pub(super) async fn change_organization(
    work: &mut Work,
    id: OrganizationId,
    input: &OrganizationPatch,
) -> Result<Applied, Problem> {
    let mut row = organization_row(work, id).await?;
    let before = value(&view::organization(&row));
    work.unchanged(&before, &json!({"name": input.name, "grant_life_seconds": input.grant_life_seconds, "renew_after_seconds": input.renew_after_seconds}))?;
    let (life, renew) = (input.grant_life_seconds, input.renew_after_seconds);
    name_and_times(work, &mut row, input.name.as_deref(), life, renew).await?;
    let after = value(&view::organization(&row));
    work.noted("change organization", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

/// Closes an organization: see [`store::Change::close_organization`].
pub(super) async fn close_organization(work: &mut Work, id: OrganizationId) -> Result<Applied, Problem> {
    let row = organization_row(work, id).await?;
    let before = value(&view::organization(&row));
    work.unchanged(&before, &Value::Null)?;
    if operator(&work.snapshot) == Some(id) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "in-use",
            "This organization operates the installation",
            "its owners look after what all organizations share: it cannot be closed",
        )
        .about("id", "an organization that does not operate the installation", id.to_string()));
    }
    if let Err(error) = work.change.close_organization().await {
        return Err(match error {
            StoreError::Reference { .. } => agents_left(work, id),
            other => other.into(),
        });
    }
    work.noted("close organization", &id, Some(before), None);
    Ok(Applied::removed())
}

/// What is removed first, and by whom its access ends.
fn agents_left(work: &Work, id: OrganizationId) -> Problem {
    let data = work.snapshot.organization(id);
    let connectors = data.map_or(0, |data| data.connectors.len());
    let is_out =
        |device: &&store::Device| matches!(device.state, DeviceState::Blocked | DeviceState::Archived);
    let devices = data.map_or(0, |data| data.devices.iter().filter(|device| !is_out(device)).count());
    let mut problem = Problem::new(
        StatusCode::CONFLICT,
        "in-use",
        "Other objects are in the way",
        format!(
            "it has {connectors} connectors and {devices} devices that are neither blocked nor archived: remove these first, \
             and the access of each ends at once"
        ),
    );
    problem.field = Some("id".into());
    problem.rule = Some("no connectors, and no devices that may connect".into());
    problem.value = Some(json!({"connectors": connectors, "devices": devices}));
    problem
}

/// A minute leaves time for the form; a session lives 12 h.
const SIGN_IN_AGE: std::ops::RangeInclusive<u64> = 60..=43_200;

fn days(field: &str, value: u64, least: u64) -> Result<u64, Problem> {
    if value == 0 { Ok(0) } else { check::within(field, value, least..=*RETENTION.end()) }
}

pub(super) async fn change_settings(work: &mut Work, input: &SettingsPatch) -> Result<Applied, Problem> {
    let id = work.caller.organization;
    let mut row = organization_row(work, id).await?;
    let before = value(&view::settings(&row));
    work.unchanged(&before, &json!({
        "name": input.name, "grant_life_seconds": input.grant_life_seconds,
        "renew_after_seconds": input.renew_after_seconds, "approve_devices": input.approve_devices,
        "audit_retention_days": input.audit_retention_days, "flow_retention_days": input.flow_retention_days,
        "sign_in_age_seconds": input.sign_in_age_seconds,
    }))?;
    let (life, renew) = (input.grant_life_seconds, input.renew_after_seconds);
    name_and_times(work, &mut row, input.name.as_deref(), life, renew).await?;
    row.approve_devices = input.approve_devices.unwrap_or(row.approve_devices);
    if let Some(kept) = input.audit_retention_days {
        row.audit_retention_days = days("audit_retention_days", kept, *RETENTION.start())?;
    }
    if let Some(kept) = input.flow_retention_days {
        row.flow_retention_days = days("flow_retention_days", kept, 1)?;
    }
    if let Some(age) = input.sign_in_age_seconds {
        row.sign_in_age_ms = check::within("sign_in_age_seconds", age, SIGN_IN_AGE)? * 1000;
    }
    work.change.set_settings(&row).await?;
    let after = value(&view::settings(&row));
    work.noted("change settings", &id, Some(before), Some(after.clone()));
    Ok(Applied::changed(after))
}

/// Gives access back: raises the generation above whatever is struck.
pub(super) async fn restore(work: &mut Work, input: &StrikeInput) -> Result<Applied, Problem> {
    let subject: RevokedSubject = check::parsed("subject", &input.subject)?;
    let (raised, permission) = match subject {
        RevokedSubject::Device(id) => (Generations::Device(id), Permission::Devices),
        RevokedSubject::User(id) => (Generations::User(id), Permission::People),
        RevokedSubject::ServiceAccount(id) => (Generations::ServiceAccount(id), Permission::People),
        RevokedSubject::Connector(id) => (Generations::Connector(id), Permission::Network),
        RevokedSubject::Pop(id) => (Generations::Pop(id), Permission::Installation),
        RevokedSubject::UserInGroup(..) | RevokedSubject::ServiceAccountInGroup(..) => {
            let rule = "a membership is given back by PUT /groups/{id}/members/{member} after it was removed";
            return Err(Problem::invalid("subject", rule, input.subject.as_str()));
        }
        RevokedSubject::Token(_) | RevokedSubject::Controller(_) => {
            let rule = "a revoked token or controller is replaced, not given back";
            return Err(Problem::invalid("subject", rule, input.subject.as_str()));
        }
    };
    work.caller.need(permission)?;
    if let RevokedSubject::User(id) = subject
        && let Some(user) = work.change.user(id).await?
    {
        work.caller.need_to_cover(user.role)?;
    }
    // Above whatever is struck: a database that was restored may know of an older generation.
    let struck = work.core.strikes.set().struck_generation(subject).unwrap_or(0);
    let generation = work.change.raise_generation(&raised, struck).await?;
    if let RevokedSubject::Device(id) = subject
        && let Some(device) = work.change.device(id).await?
        && device.state != DeviceState::Pending
    {
        work.change.set_device_state(id, DeviceState::Active).await?;
    }
    let restored = value(&Restored { subject: subject.to_string(), generation });
    work.noted("restore", &subject, None, Some(restored.clone()));
    Ok(Applied::made(restored))
}
