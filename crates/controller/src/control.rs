//! Sealed control frames: what agents ask, answered from memory.

use crate::{
    issue::{IssueError, Issuer},
    parts::Core,
    signer::SignError,
    snapshot::Snapshot,
};
use policy::{Explanation, Step, StepOutcome, explain_client};
use std::{collections::BTreeMap, sync::Arc};
use store::{Connector, Device, OrganizationData, Pop};
use trust::{
    Beacon, OrganizationTag, RevocationSet, RevokedSubject, Subject,
    control::{ControlError, OpenedRequest, open_request, sealed_to},
};
use wire::{
    Anchor, Anchored, Bounded, ControlRefused, ControlReply, ControlRequest, FlowsTaken, GetSlice, MAX_PATHS,
    PathsTaken, Refusal, Renew, Renewed, ShipFlows, SliceReply, TellPaths, Why, WhyReply,
};

/// Come back in so many milliseconds when this controller cannot sign right now.
const LATER_MS: u32 = 30_000;

/// Opens, answers and seals one frame. `None`: nobody could read an answer, so there is none.
pub(crate) async fn answer(core: &Arc<Core>, sealed: &[u8]) -> Option<Vec<u8>> {
    let opened = match open(core, sealed) {
        Ok(opened) => opened,
        Err(error) => {
            tracing::debug!(%error, "a control frame was refused");
            return None;
        }
    };
    let reply = match serve(core, &opened).await {
        Ok(reply) => reply,
        Err(refused) => refused.into(),
    };
    opened.seal_reply(&reply).ok()
}

fn open(core: &Core, sealed: &[u8]) -> Result<OpenedRequest, ControlError> {
    let wanted = sealed_to(sealed).ok_or(ControlError::Content)?;
    let keys = core.signer.open_keys();
    let key = keys.iter().find(|key| key.seal_key().key_id() == wanted).ok_or(ControlError::OtherKey)?;
    open_request(key, &core.signer.bundle(), crate::clock::wall(), sealed)
}

/// The subject of a certificate as the snapshot has it.
enum Known<'a> {
    Device(&'a OrganizationData, &'a Device),
    Connector(&'a OrganizationData, &'a Connector),
    Pop(&'a Pop),
}

const fn refused(reason: Refusal, retry_after_ms: u32) -> ControlRefused {
    ControlRefused { reason, retry_after_ms }
}

fn known<'a>(
    snapshot: &'a Snapshot,
    revocations: &RevocationSet,
    opened: &OpenedRequest,
) -> Result<Known<'a>, ControlRefused> {
    let agent = &opened.agent;
    let identity = agent.identity();
    let struck = refused(Refusal::Struck, 0);
    if revocations.is_struck(RevokedSubject::of(identity.subject()), agent.generation()) {
        return Err(struck);
    }
    let data = identity.organization().and_then(|id| snapshot.organization(id));
    let key = agent.public_key();
    // A subject that was removed has no generation any more: that is the same as struck.
    match (identity.subject(), data) {
        (Subject::Device(id), Some(data)) => {
            let device = data.devices.iter().find(|d| d.id == id && d.identity_key == *key.as_bytes());
            device.map(|device| Known::Device(data, device)).ok_or(struck)
        }
        (Subject::Connector(id), Some(data)) => {
            let connector = data.connectors.iter().find(|c| c.id == id && c.identity_key == *key.as_bytes());
            connector.map(|connector| Known::Connector(data, connector)).ok_or(struck)
        }
        (Subject::Pop(id), None) => {
            let pop = snapshot.dataset.pops.iter().find(|p| p.id == id && p.identity_key == *key.as_bytes());
            pop.map(Known::Pop).ok_or(struck)
        }
        _ => Err(refused(Refusal::WrongRole, 0)),
    }
}

fn not_issued(error: &IssueError) -> ControlRefused {
    match error {
        IssueError::Struck | IssueError::Unknown | IssueError::Waiting => refused(Refusal::Struck, 0),
        IssueError::Withheld(withheld) => {
            tracing::debug!(%withheld, "a document was not issued");
            let after = u32::try_from(withheld.retry_after().as_millis()).unwrap_or(LATER_MS);
            refused(Refusal::NoController, after)
        }
        IssueError::Sign(SignError::Fenced(_)) => refused(Refusal::NoController, LATER_MS),
        IssueError::Sign(_) | IssueError::Groups(_) => {
            tracing::warn!(%error, "a document was not issued");
            refused(Refusal::NoController, LATER_MS)
        }
    }
}

fn too_long(kind: &'static str) -> ControlRefused {
    tracing::warn!(kind, "a document is longer than a reply may be");
    refused(Refusal::Full, LATER_MS)
}

async fn serve(core: &Arc<Core>, opened: &OpenedRequest) -> Result<ControlReply, ControlRefused> {
    let snapshot = core.snapshot();
    let revocations = core.strikes.set();
    let known = known(&snapshot, &revocations, opened)?;
    let issuer = Issuer::new(core, &snapshot, &revocations);
    match &opened.request {
        ControlRequest::Renew(request) => {
            // Planted: what the product exists for not doing.
            if planted::is("renewal-asks-database")
                && core.database.change(store::Scope::Installation, "renewal").await.is_err()
            {
                return Err(refused(Refusal::NoController, LATER_MS));
            }
            if planted::is("renewal-writes-a-row") {
                let deed = crate::ledger::Deed::new(crate::clock::wall(), "agent", "renew", "grant");
                let _ = crate::ledger::write_down(&core.state, &deed);
                core.work.notify_one();
            }
            renew(&issuer, &known, opened, request)
        }
        ControlRequest::GetSlice(request) => slice(&issuer, &known, request),
        ControlRequest::Why(request) => why(&issuer, &known, request),
        ControlRequest::ShipFlows(request) => ship(core, &known, request).await,
        ControlRequest::Anchor(request) => anchor(core, &snapshot, request),
        ControlRequest::TellPaths(report) => tell_paths(core, &known, report),
    }
}

fn renew(
    issuer: &Issuer<'_>,
    known: &Known<'_>,
    opened: &OpenedRequest,
    request: &Renew,
) -> Result<ControlReply, ControlRefused> {
    let (grant, generation) = match known {
        Known::Device(data, device) => {
            let text = issuer.grant(data, device).map_err(|error| not_issued(&error))?;
            let grant = Bounded::new(text.into_bytes()).map_err(|_| too_long("grant"))?;
            (Some(grant), device.generation)
        }
        Known::Connector(_, connector) => (None, connector.generation),
        Known::Pop(pop) => (None, pop.generation),
    };
    let certificate = if request.certificate {
        let agent = &opened.agent;
        let der = issuer.certificate(agent.identity(), agent.public_key(), generation);
        let der = der.map_err(|error| not_issued(&error))?;
        Some(Bounded::new(der).map_err(|_| too_long("certificate"))?)
    } else {
        None
    };
    Ok(Renewed { grant, certificate }.into())
}

fn slice(issuer: &Issuer<'_>, known: &Known<'_>, held: &GetSlice) -> Result<ControlReply, ControlRefused> {
    let organization = match known {
        Known::Device(data, _) | Known::Connector(data, _) => Some(data.organization.id),
        Known::Pop(_) => None,
    };
    let newest = issuer.version(organization);
    if newest.is_some_and(|v| (v.incarnation, v.version) == (held.incarnation, held.version)) {
        return Ok(SliceReply { slice: None }.into());
    }
    let text = match known {
        Known::Device(data, device) => issuer.client(data, device),
        Known::Connector(data, connector) => issuer.connector(data, connector.id),
        Known::Pop(pop) => issuer.pop(pop.id),
    };
    let text = text.map_err(|error| not_issued(&error))?;
    let slice = Bounded::new(text.into_bytes()).map_err(|_| too_long("slice"))?;
    Ok(SliceReply { slice: Some(slice) }.into())
}

fn why(issuer: &Issuer<'_>, known: &Known<'_>, request: &Why) -> Result<ControlReply, ControlRefused> {
    let Known::Device(data, device) = known else { return Err(refused(Refusal::WrongRole, 0)) };
    let asked =
        std::str::from_utf8(request.resource.as_slice()).map_err(|_| refused(Refusal::Malformed, 0))?;
    let body = issuer.client_body(data, device).map_err(|error| not_issued(&error))?;
    // Nothing hidden is named: what is not in the slice may exist or not.
    let explanation = explain_client(&body, asked).unwrap_or_else(|| {
        let shown: String = asked.chars().filter(|c| !c.is_control()).take(120).collect();
        Explanation::new(vec![Step::new(
            format!("a policy gives a group of this device's owner access to {shown}"),
            StepOutcome::Failed,
            "no policy gives your groups access",
        )])
    });
    let text = serde_json::to_vec(&explanation).map_err(|_| refused(Refusal::Malformed, 0))?;
    Ok(WhyReply { explanation: Bounded::new(text).map_err(|_| too_long("explanation"))? }.into())
}

async fn ship(
    core: &Arc<Core>,
    known: &Known<'_>,
    request: &ShipFlows,
) -> Result<ControlReply, ControlRefused> {
    let Known::Connector(data, connector) = known else { return Err(refused(Refusal::WrongRole, 0)) };
    let (organization, connector) = (data.organization.id, connector.id);
    let (batch, ndjson) = (request.batch, request.ndjson.clone());
    let core = Arc::clone(core);
    let work = move || {
        core.flows.take(organization, connector, batch, ndjson.as_slice(), crate::clock::wall())?;
        core.paths().take(connector, ndjson.as_slice(), crate::clock::wall());
        Ok(())
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ok(FlowsTaken { batch }.into()),
        Ok(Err(error @ crate::flows::FlowError::Record(_))) => {
            tracing::warn!(%connector, %error, "flow records were refused");
            Err(refused(Refusal::Malformed, 0))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "flow records were not written");
            Err(refused(Refusal::Full, LATER_MS))
        }
        Err(_) => Err(refused(Refusal::ShuttingDown, LATER_MS)),
    }
}

fn tell_paths(core: &Core, known: &Known<'_>, report: &TellPaths) -> Result<ControlReply, ControlRefused> {
    let Known::Connector(_, connector) = known else { return Err(refused(Refusal::WrongRole, 0)) };
    if report.paths.len() + report.gone.len() > MAX_PATHS {
        return Err(refused(Refusal::Malformed, 0));
    }
    let held = core.paths().tell(connector.id, report, crate::clock::wall());
    Ok(PathsTaken { held }.into())
}

fn anchor(core: &Core, snapshot: &Snapshot, request: &Anchor) -> Result<ControlReply, ControlRefused> {
    let text = beacon(core, snapshot, Some(request.nonce)).map_err(|error| not_issued(&error.into()))?;
    let beacon = Bounded::new(text.into_bytes()).map_err(|_| too_long("beacon"))?;
    Ok(Anchored { beacon }.into())
}

/// The newest beacon's text; with a nonce it answers one agent.
pub(crate) fn beacon(core: &Core, snapshot: &Snapshot, nonce: Option<[u8; 16]>) -> Result<String, SignError> {
    let versions: BTreeMap<_, _> = snapshot
        .dataset
        .organizations
        .iter()
        .map(|data| {
            let version = crate::snapshot::slice_version(data.organization.version);
            (OrganizationTag::of(data.organization.id), version)
        })
        .collect();
    core.signer.beacon(&Beacon {
        installation: snapshot.dataset.installation.id,
        controller: core.signer.controller(),
        time: core.signer.signing_time()?,
        versions,
        heads: core.strikes.heads(),
        nonce,
        ext: None,
    })
}
