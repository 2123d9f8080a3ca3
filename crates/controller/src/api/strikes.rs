//! Revocation: of one subject, or of many in one request. It never waits for the database.

use super::{
    Problem, Views,
    caller::Caller,
    check,
    list::Wanted,
    listed::Strikes,
    once::{Unremembered, once},
    operate::{self, Intent},
    operation::of_body,
    request::Body,
    roles::{self, Permission, SignIn},
    tag::Tagged,
    types::{
        BulkInput, BulkMethod, BulkOperation, BulkOutcome, BulkResult, Durable, Page, Strike, StrikeInput,
        StrikeOutcome,
    },
    view::rfc3339,
};
use crate::{
    clock,
    parts::{Core, StrikeReport, StrikeRequest},
    snapshot::Snapshot,
    strikes::OnDisk,
};
use axum::extract::State;
use http::{Method, StatusCode};
use serde_json::json;
use std::sync::Arc;
use store::{Member, OrganizationData};
use trust::RevokedSubject;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) fn routes() -> OpenApiRouter<Arc<Core>> {
    OpenApiRouter::new().routes(routes!(list_strikes, create_strike))
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

/// A strike as this caller asks for it.
fn request(caller: &Caller, subject: RevokedSubject, generation: u64) -> StrikeRequest {
    StrikeRequest {
        subject,
        generation,
        // A PoP is of no organization.
        organization: (!matches!(subject, RevokedSubject::Pop(_))).then_some(caller.organization),
        actor: caller.actor.clone(),
        source: caller.origin.source(),
        request: caller.origin.request.clone(),
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
    let (striking, asking) = (Arc::clone(&core), caller.clone());
    // What was struck before may be gone since: it is looked at only where the same was not done already.
    let make = async move {
        let snapshot = striking.snapshot();
        let data = asking.data(&snapshot)?;
        may_strike(&asking, data, subject)?;
        let generation = generation(&snapshot, data, subject)?;
        let report = striking.strike(request(&asking, subject, generation)).await?;
        Ok((StatusCode::CREATED, operate::value(&outcome(&report))))
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

const PATH: &str = "/strikes";

/// Whether an operation of a bulk is a strike.
fn is_strike(asked: &BulkOperation) -> bool {
    let path = asked.path.strip_prefix("/api/v1").unwrap_or(&asked.path);
    asked.method == BulkMethod::Post && path == PATH
}

/// What a bulk strikes, where it is of strikes: nothing else is in such a one, since its transaction would wait for a
/// database and strikes wait for none.
///
/// # Errors
/// A problem that names the operation, field, rule and value.
pub(super) fn read_together(input: &BulkInput) -> Result<Option<Vec<RevokedSubject>>, Problem> {
    let strikes = input.operations.iter().filter(|asked| is_strike(asked)).count();
    if strikes == 0 {
        return Ok(None);
    }
    let read = |(index, asked): (usize, &BulkOperation)| {
        one_of_many(asked).map_err(|problem| operate::of_operation(index, problem))
    };
    if strikes > operate::MAX_STRIKES {
        let rule = format!("at most {} strikes in a bulk", operate::MAX_STRIKES);
        return Err(Problem::invalid("operations", rule, strikes));
    }
    input.operations.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

fn one_of_many(asked: &BulkOperation) -> Result<RevokedSubject, Problem> {
    if !is_strike(asked) {
        let rule = "/strikes, as of every other operation: a bulk of strikes needs no database and holds nothing else";
        return Err(Problem::invalid("path", rule, asked.path.chars().take(120).collect::<String>()));
    }
    for (field, given) in [("if_match", &asked.if_match), ("as", &asked.name)] {
        if let Some(given) = given {
            let shown = given.chars().take(120).collect::<String>();
            return Err(Problem::invalid(field, "absent: a strike changes and makes no object", shown));
        }
    }
    let input: StrikeInput = of_body(asked.body.as_ref())?;
    check::parsed("body.subject", &input.subject)
}

/// Strikes many: each is looked at before the first is struck. All or none.
///
/// # Errors
/// Nothing was struck.
pub(super) async fn together(
    core: &Arc<Core>,
    caller: &Caller,
    intent: &Intent,
    subjects: Vec<RevokedSubject>,
    is_dry: bool,
) -> Result<Tagged, Problem> {
    caller.need_any(roles::needs(&Method::POST, PATH))?;
    if roles::sign_in(&Method::POST, PATH) == SignIn::Fresh {
        caller.need_fresh(core)?;
    }
    let looked = (Arc::clone(core), caller.clone());
    let requests = move || each(&looked.0, &looked.1, subjects);
    if is_dry {
        let requests = requests()?;
        let results = requests.iter().map(|request| BulkResult {
            status: StatusCode::CREATED.as_u16(),
            body: Some(json!({"subject": request.subject.to_string(), "generation": request.generation})),
        });
        let body = operate::value(&BulkOutcome { results: results.collect(), dry_run: true });
        return Ok(Tagged::value(StatusCode::OK, &body));
    }
    let striking = Arc::clone(core);
    // What was struck before may be gone since: it is looked at only where the same was not done already.
    let make = async move {
        let struck = striking.strike_each(requests()?).await?;
        let results = struck.iter().map(|report| BulkResult {
            status: StatusCode::CREATED.as_u16(),
            body: Some(operate::value(&outcome(report))),
        });
        Ok((StatusCode::OK, operate::value(&BulkOutcome { results: results.collect(), dry_run: false })))
    };
    once(core, caller, intent, Unremembered::Goes, make).await
}

/// What is to be struck, each looked at.
fn each(core: &Core, caller: &Caller, subjects: Vec<RevokedSubject>) -> Result<Vec<StrikeRequest>, Problem> {
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    let one = |(index, subject)| {
        let found = may_strike(caller, data, subject).and_then(|()| generation(&snapshot, data, subject));
        let generation = found.map_err(|mut problem| {
            // Only the subject is one of its members.
            if problem.field.as_deref() == Some("subject") {
                problem.field = Some("body.subject".into());
            }
            operate::of_operation(index, problem)
        })?;
        Ok(request(caller, subject, generation))
    };
    subjects.into_iter().enumerate().map(one).collect()
}
