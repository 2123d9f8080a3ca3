//! The audit log: pages, an export as lines that goes on with what comes, and its verification.

use super::{
    Problem,
    caller::Caller,
    cursor,
    flows::limit,
    following::{Following, lines},
    request::Params,
    roles::Permission,
    tag::Tagged,
    types::{Audit, AuditEntry, AuditExportParams, AuditParams, AuditVerification, ChainVerification},
    view::rfc3339,
};
use crate::parts::Core;
use axum::{extract::State, response::Response};
use http::StatusCode;
use serde_json::Value;
use std::sync::Arc;
use store::{AuditOf, AuditPage, AuditPlace, Chain};
use trust::UnixMs;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Entries in one piece of an export.
const PIECE: u32 = 500;

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new()
        .routes(routes!(list_audit))
        .routes(routes!(export_audit))
        .routes(routes!(verify_audit))
}

fn object(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn view(entry: store::AuditEntry) -> AuditEntry {
    AuditEntry {
        seq: entry.seq,
        chain: if entry.organization.is_some() { "organization" } else { "installation" }.to_owned(),
        at: rfc3339(UnixMs::from_millis(entry.at_ms)),
        actor: entry.actor,
        source: entry.source,
        request: entry.request,
        action: entry.action,
        subject: entry.subject,
        version: entry.version.version,
        before: entry.before.as_deref().map(object),
        after: entry.after.as_deref().map(object),
        detail: object(&entry.detail),
        hash: entry.hash,
    }
}

/// Where the page behind this entry begins.
fn behind(entry: &store::AuditEntry) -> String {
    let (version, seq) = (entry.version.version, entry.seq.unwrap_or_default());
    cursor::of_audit(AuditPlace { at_ms: entry.at_ms, version, seq })
}

fn place(text: &str) -> Result<AuditPlace, Problem> {
    cursor::audit_place(text).ok_or_else(|| {
        let shown = text.chars().take(120).collect::<String>();
        let mut problem = Problem::invalid("after", "`next` of a page", shown);
        problem.status = StatusCode::BAD_REQUEST.as_u16();
        problem
    })
}

/// Text that entries are compared with: no entry has a control character.
fn plain(field: &str, given: Option<String>) -> Result<Option<String>, Problem> {
    if let Some(text) = given.as_deref().filter(|text| text.chars().any(char::is_control)) {
        let shown: String = text.chars().take(120).collect();
        let mut problem = Problem::invalid(field, "no control characters", shown);
        problem.status = StatusCode::BAD_REQUEST.as_u16();
        return Err(problem);
    }
    Ok(given)
}

/// Lists changes, newest first. History is read from the database.
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditParams), responses((status = 200, description = "The newest entries", body = Audit), (status = 503, description = "The database cannot be used right now", body = super::ProblemDocument, content_type = "application/problem+json")))]
async fn list_audit(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(params): Params<AuditParams>,
) -> Result<Tagged, Problem> {
    let most = limit(params.limit)?;
    let page = AuditPage {
        before_ms: params.before_ms.unwrap_or(i64::MAX.unsigned_abs()),
        from_ms: params.from_ms.unwrap_or(0),
        after: params.after.as_deref().map(place).transpose()?,
        actor: plain("actor", params.actor)?,
        action: plain("action", params.action)?,
        subject: plain("subject", params.subject)?,
        limit: u32::try_from(most + 1).unwrap_or(u32::MAX),
    };
    let store = core.history()?;
    // What the installation does names other organizations.
    let of = if caller.may(Permission::Installation) {
        AuditOf::OrganizationAndInstallation(caller.organization)
    } else {
        AuditOf::Organization(caller.organization)
    };
    let mut entries = match store.audit(of, &page).await {
        Err(error) if error.is_unavailable() => core.history_elsewhere(error)?.audit(of, &page).await?,
        entries => entries?,
    };
    let more = entries.len() > most;
    entries.truncate(most);
    let next = entries.last().filter(|_| more).map(behind);
    Ok(Tagged::page(&Audit { items: entries.into_iter().map(view).collect(), next }))
}

struct Export {
    following: Following,
    chain: Chain,
    after: u64,
}

/// Exports entries of a chain as lines of JSON, in its order.
///
/// Each has its number, from which a later export goes on, and its hash.
#[utoipa::path(get, path = "/audit/export", tag = "audit", params(AuditExportParams), responses((status = 200, description = "One entry a line", body = String, content_type = "application/x-ndjson"), (status = 503, description = "The database cannot be used right now", body = super::ProblemDocument, content_type = "application/problem+json")))]
async fn export_audit(
    State(core): State<Arc<Core>>,
    caller: Caller,
    Params(params): Params<AuditExportParams>,
) -> Result<Response, Problem> {
    let chain = if params.installation == Some(true) {
        caller.need(Permission::Installation)?;
        Chain::Installation
    } else {
        Chain::Organization(caller.organization)
    };
    // A database that is away is said before the first line.
    core.history()?;
    let after = params.after.unwrap_or(0).min(i64::MAX.unsigned_abs());
    let changes = core.audit.changes();
    let following = Following::new(core, caller, params.follow == Some(true), changes);
    let export = Export { following, chain, after };
    Ok(lines(futures_util::stream::unfold(Some(export), |export| async move {
        let mut export = export?;
        loop {
            let held = match export.following.begin_piece().await {
                Ok(held) => held,
                Err(error) => return Some((Err(error), None)),
            };
            let read = match export.following.core.history() {
                Ok(store) => store.audit_on(export.chain, export.after, PIECE).await,
                Err(error) => Err(error),
            };
            let entries = match read {
                Ok(entries) => entries,
                Err(error) => return Some((Err(std::io::Error::other(error)), None)),
            };
            drop(held);
            if let Some(last) = entries.last() {
                export.after = last.seq.unwrap_or(export.after);
                let mut text = Vec::new();
                for entry in entries {
                    serde_json::to_writer(&mut text, &view(entry))
                        .expect("what the API says always serializes");
                    text.push(b'\n');
                }
                return Some((Ok(text), Some(export)));
            }
            if let Err(error) = export.following.more().await? {
                return Some((Err(error), None));
            }
        }
    })))
}

/// Reads the whole audit log and says whether every entry is as it was written, and whether any is missing.
#[utoipa::path(get, path = "/audit/verification", tag = "audit", responses((status = 200, description = "What was found", body = AuditVerification), (status = 503, description = "The database cannot be used right now", body = super::ProblemDocument, content_type = "application/problem+json")))]
async fn verify_audit(State(core): State<Arc<Core>>, caller: Caller) -> Result<Tagged, Problem> {
    let store = core.history()?;
    let mut chains = vec![(Chain::Organization(caller.organization), "organization")];
    if caller.may(Permission::Installation) {
        chains.push((Chain::Installation, "installation"));
    }
    let mut found = Vec::new();
    for (chain, name) in chains {
        let verdict = core.audit.verify(&store, chain, core.writers()).await?;
        found.push(ChainVerification {
            chain: name.to_owned(),
            intact: verdict.broken.is_empty(),
            entries: verdict.entries,
            first: verdict.first,
            last: verdict.last,
            head: verdict.head,
            remembered: verdict.remembered,
            findings: verdict.broken.into_iter().chain(verdict.doubts).collect(),
        });
    }
    let intact = found.iter().all(|chain| chain.intact);
    Ok(Tagged::page(&AuditVerification { intact, chains: found }))
}
