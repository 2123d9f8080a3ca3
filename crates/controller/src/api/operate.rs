//! The one way by which anything is changed: permissions, `If-Match`, the idempotency key, the audit entry and the
//! change itself are one transaction. A caller that hangs up changes nothing about it.

use super::{
    Problem, Views, apply,
    bulk::Room,
    caller::Caller,
    idempotency::IdempotencyKey,
    left::{Left, Shrink},
    operation::{Applied, Operation},
    ownership,
    removal::{Found, Removal},
    request::Said,
    roles::SignIn,
    strikes::{self, outcome},
    tag::{IfMatch, Tagged},
    types::{BulkInput, BulkOperation, BulkOutcome, BulkResult},
};
use crate::{parts::Core, snapshot::Snapshot};
use axum::extract::FromRequestParts;
use http::{StatusCode, request::Parts};
use serde_json::Value;
use std::{pin::Pin, sync::Arc, time::Duration};
use store::{Change, Noted, OrganizationData, Scope, Size, Store, StoreError};

/// Most operations of a bulk.
const MAX_OPERATIONS: usize = 10_000;
/// With more of them a change may hold its lock for [`store::LONG_CHANGE`].
const FEW_OPERATIONS: usize = 500;
/// Most of them that strike: each is a write to the journal.
pub(super) const MAX_STRIKES: usize = 100;
/// How long a strike waits for the database to say whether it was made before.
const ASKED_BEFORE: Duration = Duration::from_secs(1);

/// What a change says besides what it changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Intent {
    if_match: Option<IfMatch>,
    key: Option<IdempotencyKey>,
    allow_shrink: Option<bool>,
}

impl Intent {
    /// The caller's key for this request.
    pub(super) const fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    /// Says whether much may go at once.
    pub(super) const fn allowing(mut self, allow_shrink: Option<bool>) -> Self {
        self.allow_shrink = allow_shrink;
        self
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Intent {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let said = parts.extensions.get::<Said>().cloned().unwrap_or_default();
        let place = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
        let what = format!("{} {place}", parts.method);
        let key = IdempotencyKey::read(&parts.headers, what, said)?;
        Ok(Self { if_match: IfMatch::read(&parts.headers)?, key, allow_shrink: None })
    }
}

/// An answer's body.
pub(super) fn value(answer: &impl serde::Serialize) -> Value {
    serde_json::to_value(answer).expect("what the API says always serializes")
}

/// An entry of the audit log to be.
pub(crate) fn noted(
    action: &str,
    subject: &str,
    before: Option<Value>,
    after: Option<Value>,
    detail: Value,
) -> Noted {
    Noted {
        action: action.to_owned(),
        subject: subject.to_owned(),
        before: before.map(|value| value.to_string()),
        after: after.map(|value| value.to_string()),
        detail: detail.to_string(),
    }
}

/// An open change, with what handlers look at.
pub(super) struct Work {
    pub(super) core: Arc<Core>,
    pub(super) caller: Caller,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) change: Change,
    pub(super) left: Left,
    pub(super) if_match: Option<IfMatch>,
    pub(super) strikes: Vec<(Removal, u64)>,
    store: Store,
}

impl Work {
    async fn begin(core: &Arc<Core>, caller: &Caller, scope: Scope) -> Result<Self, Problem> {
        Self::begin_for(core, caller, scope, Size::Usual).await
    }

    async fn begin_for(core: &Arc<Core>, caller: &Caller, scope: Scope, size: Size) -> Result<Self, Problem> {
        let snapshot = core.snapshot();
        let (store, mut change) = core.database.change_of(scope, &caller.actor, size).await?;
        change.came_from(&caller.origin.source(), &caller.origin.request);
        let left = Left::new(Arc::clone(&snapshot), caller.organization);
        Ok(Self {
            core: Arc::clone(core),
            caller: caller.clone(),
            snapshot,
            change,
            left,
            if_match: None,
            strikes: Vec::new(),
            store,
        })
    }

    pub(super) fn data(&self) -> Result<&OrganizationData, Problem> {
        self.caller.data(&self.snapshot)
    }

    /// An object as the API shows it.
    pub(super) fn show<V: serde::Serialize>(
        &self,
        view: impl FnOnce(&Views<'_>) -> V,
    ) -> Result<Value, Problem> {
        let views = Views::new(&self.core, self.data()?);
        Ok(serde_json::to_value(view(&views)).expect("what the API says always serializes"))
    }

    /// Holds the object as it is in this transaction against `If-Match`.
    pub(super) fn unchanged(&self, now: &Value, sent: &impl serde::Serialize) -> Result<(), Problem> {
        let Some(seen) = &self.if_match else { return Ok(()) };
        seen.check(now, &serde_json::to_value(sent).unwrap_or_default())
    }

    /// The answer of the same request before, where there was one.
    async fn replay(&mut self, key: Option<&IdempotencyKey>) -> Result<Option<Tagged>, Problem> {
        let Some(key) = key else { return Ok(None) };
        let digest = key.digest(&self.caller.actor, self.caller.organization);
        match self.change.kept(&digest).await? {
            Some(kept) => key.replay(&digest, &kept, &self.core.answers).map(Some),
            None => Ok(None),
        }
    }

    /// Keeps the answer, commits, and waits for memory.
    async fn finish(
        mut self,
        key: Option<&IdempotencyKey>,
        shrink: Shrink,
        applied: &Applied,
    ) -> Result<(), StoreError> {
        if shrink == Shrink::Allowed {
            self.change.allow_shrink().await?;
        }
        if let Some(key) = key {
            let digest = key.digest(&self.caller.actor, self.caller.organization);
            let kept = key.kept(&digest, applied.status, &applied.body, &self.core.answers);
            self.change.keep(&digest, &kept).await?;
        }
        self.core.finish(&self.store, self.change).await.map(|_| ())
    }
}

/// What a change of [`once_in_store`] writes: its rows, and what is said of them.
pub(super) type Writing<'a> = Pin<Box<dyn Future<Output = Result<(Applied, Noted), Problem>> + Send + 'a>>;

/// Makes a change that is no operation of a bulk: once for a key at every controller of the database, whose transaction
/// keeps the answer.
///
/// # Errors
/// Nothing was changed, unless the problem says otherwise.
pub(super) async fn once_in_store<F>(
    core: &Arc<Core>,
    caller: &Caller,
    intent: Intent,
    scope: Scope,
    write: F,
) -> Result<Tagged, Problem>
where
    F: for<'a> FnOnce(&'a mut Work) -> Writing<'a> + Send + 'static,
{
    let (core, caller) = (Arc::clone(core), caller.clone());
    let work = async move {
        let mut work = Work::begin(&core, &caller, scope).await?;
        if let Some(answer) = work.replay(intent.key.as_ref()).await? {
            return Ok(answer);
        }
        work.if_match = intent.if_match;
        let (applied, noted) = write(&mut work).await?;
        work.change.note(noted);
        work.finish(intent.key.as_ref(), Shrink::Small, &applied).await?;
        Ok(Tagged::value(applied.status, &applied.body))
    };
    tokio::spawn(work).await.map_err(ended)?
}

fn ended(error: tokio::task::JoinError) -> Problem {
    Problem::internal(format!("the change's task ended: {error}"))
}

/// Makes one change.
///
/// # Errors
/// Nothing was changed, unless the problem says otherwise.
pub(crate) async fn operate(
    core: &Arc<Core>,
    caller: &Caller,
    intent: Intent,
    operation: Operation,
) -> Result<Tagged, Problem> {
    let (core, caller) = (Arc::clone(core), caller.clone());
    let work = async move {
        match operation {
            Operation::Remove(removal) => remove(&core, &caller, intent, removal).await,
            other => one(&core, &caller, intent, other).await,
        }
    };
    tokio::spawn(work).await.map_err(ended)?
}

async fn one(
    core: &Arc<Core>,
    caller: &Caller,
    intent: Intent,
    operation: Operation,
) -> Result<Tagged, Problem> {
    let scope = operation.scope(caller, core)?;
    let mut work = Work::begin(core, caller, scope).await?;
    if let Some(answer) = work.replay(intent.key.as_ref()).await? {
        return Ok(answer);
    }
    work.if_match = intent.if_match;
    let applied = apply::apply(&mut work, operation).await?;
    let shrink = work.left.check(intent.allow_shrink)?;
    work.finish(intent.key.as_ref(), shrink, &applied).await?;
    Ok(Tagged::value(applied.status, &applied.body))
}

/// Strikes, then writes the row.
async fn remove(
    core: &Arc<Core>,
    caller: &Caller,
    intent: Intent,
    removal: Removal,
) -> Result<Tagged, Problem> {
    let snapshot = core.snapshot();
    let data = caller.data(&snapshot)?;
    let scope = removal.scope(caller);
    let Some(found) = removal.find(core, &snapshot, data) else {
        // Removed already, perhaps by this very request.
        if intent.key.is_some()
            && let Some(answer) = Work::begin(core, caller, scope).await?.replay(intent.key.as_ref()).await?
        {
            return Ok(answer);
        }
        return Err(removal.none());
    };
    removal.allowed(core, caller, data)?;
    if intent.key.is_some()
        && let Some(answer) = answered_before(core, caller, scope, &intent).await?
    {
        return Ok(answer);
    }
    if let Some(seen) = &intent.if_match {
        seen.check(&found.object, &Value::Null)?;
    }
    let mut left = Left::new(Arc::clone(&snapshot), caller.organization);
    removal.take_from(&mut left);
    let shrink = left.check(intent.allow_shrink)?;
    let report = core.strike(removal.request(caller, found.generation)).await?;
    let body = value(&outcome(&report));
    let applied = Applied::changed(body);
    // The strike stands whatever the clock; the row waits for one that can be believed.
    core.signer.signing_time().map_err(|fenced| but_not_written(Problem::from(fenced)))?;
    let written = async {
        let mut work = Work::begin(core, caller, scope).await?;
        if let Some(answer) = work.replay(intent.key.as_ref()).await? {
            return Ok(answer);
        }
        removal.write(&mut work.change, &found).await?;
        work.finish(intent.key.as_ref(), shrink, &applied).await?;
        Ok(Tagged::value(applied.status, &applied.body))
    };
    written.await.map_err(but_not_written)
}

/// The answer that a request with this key had before: what was struck then may have been given back since. A strike does
/// not wait for a database that does not answer.
async fn answered_before(
    core: &Arc<Core>,
    caller: &Caller,
    scope: Scope,
    intent: &Intent,
) -> Result<Option<Tagged>, Problem> {
    let (core, caller, key) = (Arc::clone(core), caller.clone(), intent.key.clone());
    // Of its own: a transaction that was begun is ended in order.
    let asked = tokio::spawn(async move {
        let Ok(mut work) = Work::begin(&core, &caller, scope).await else { return Ok(None) };
        work.replay(key.as_ref()).await
    });
    match tokio::time::timeout(ASKED_BEFORE, asked).await {
        // The key was another request's.
        Ok(Ok(Err(problem))) if problem.status < 500 => Err(problem),
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// The strike is enforced; what is missing is said.
fn but_not_written(mut problem: Problem) -> Problem {
    problem.detail = format!("access was revoked; the row could not be written yet: {}", problem.detail);
    problem
}

/// Of which operation of a bulk something is said.
pub(super) fn of_operation(index: usize, mut problem: Problem) -> Problem {
    let field = problem.field.take().unwrap_or_default();
    let place = format!("operations[{index}]");
    problem.field = Some(if field.is_empty() { place } else { format!("{place}.{field}") });
    problem.detail = format!("operation {index}: {}; nothing was changed", problem.detail);
    problem
}

/// Makes many changes, all or none.
///
/// # Errors
/// Nothing was changed, unless the problem says otherwise.
pub(super) async fn bulk(
    core: &Arc<Core>,
    caller: &Caller,
    intent: Intent,
    input: BulkInput,
    room: Room,
) -> Result<Tagged, Problem> {
    let (core, caller) = (Arc::clone(core), caller.clone());
    let work = async move {
        let _room = room;
        every(&core, &caller, intent, input).await
    };
    tokio::spawn(work).await.map_err(ended)?
}

/// How many operations, when they are not too many.
pub(super) fn count(input: &BulkInput) -> Result<usize, Problem> {
    let count = input.operations.len();
    if count == 0 || count > MAX_OPERATIONS {
        return Err(Problem::invalid("operations", format!("1 to {MAX_OPERATIONS} of them"), count));
    }
    Ok(count)
}

/// What the operations of a bulk came to, before anything of it is struck or stored.
enum Tried {
    /// The same request was made before.
    Before(Tagged),
    Now(Box<Work>, Vec<BulkResult>),
}

async fn every(
    core: &Arc<Core>,
    caller: &Caller,
    intent: Intent,
    input: BulkInput,
) -> Result<Tagged, Problem> {
    let count = count(&input)?;
    let is_dry = input.dry_run == Some(true);
    if let Some(subjects) = strikes::read_together(&input)? {
        return strikes::together(core, caller, &intent, subjects, is_dry).await;
    }
    core.signer.signing_time()?;
    let tried = tokio::time::timeout(store::LONG_CHANGE, each(core, caller, &intent, input.operations)).await;
    let (work, results) = match tried.map_err(|_| too_long(count))?? {
        Tried::Before(answer) => return Ok(answer),
        Tried::Now(work, results) => (work, results),
    };
    let shrink = work.left.check(input.allow_shrink)?;
    let body = value(&BulkOutcome { results, dry_run: is_dry });
    let applied = Applied::changed(body);
    if !is_dry {
        let requests: Vec<_> =
            work.strikes.iter().map(|(removal, generation)| removal.request(caller, *generation)).collect();
        let struck = !requests.is_empty();
        core.strike_all(requests).await?;
        let finished = work.finish(intent.key.as_ref(), shrink, &applied).await;
        finished.map_err(|error| {
            let problem = Problem::from(error);
            if struck { but_not_written(problem) } else { problem }
        })?;
    }
    Ok(Tagged::value(applied.status, &applied.body))
}

/// A change keeps others waiting: one that takes too long is taken back.
fn too_long(count: usize) -> Problem {
    let seconds = store::LONG_CHANGE.as_secs();
    let mut problem = Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "too-long",
        "The bulk took too long",
        format!(
            "{count} operations were not made within {seconds} s, and nothing was changed: send fewer at once, or again \
             when the database has less to do"
        ),
    );
    problem.field = Some("operations".into());
    problem.rule = Some(format!("made within {seconds} s"));
    problem.value = Some(count.into());
    problem.retry_after = Some(seconds);
    problem
}

/// Makes the operations in an open change.
async fn each(
    core: &Arc<Core>,
    caller: &Caller,
    intent: &Intent,
    operations: Vec<BulkOperation>,
) -> Result<Tried, Problem> {
    let size = if operations.len() > FEW_OPERATIONS { Size::Long } else { Size::Usual };
    let mut work: Option<(Scope, Work)> = None;
    let mut names = super::bulk::Names::default();
    let mut results = Vec::with_capacity(operations.len());
    for (index, mut asked) in operations.into_iter().enumerate() {
        let at = |problem| of_operation(index, problem);
        let (operation, needs, sign_in) = names.read(&mut asked).map_err(at)?;
        caller.need_any(needs).map_err(at)?;
        if sign_in == SignIn::Fresh {
            caller.need_fresh(core).map_err(at)?;
        }
        let scope = operation.scope(caller, core).map_err(at)?;
        let work = match &mut work {
            Some((of, work)) if *of == scope => work,
            Some(_) => {
                let rule = "all of one organization, or all of the installation";
                return Err(at(Problem::invalid("path", rule, asked.path)));
            }
            none => {
                let begun = Work::begin_for(core, caller, scope, size).await?;
                &mut none.insert((scope, begun)).1
            }
        };
        if index == 0
            && let Some(answer) = work.replay(intent.key.as_ref()).await?
        {
            return Ok(Tried::Before(answer));
        }
        let seen = asked.if_match.as_deref().map(|text| IfMatch::parse("if_match", text));
        work.if_match = seen.transpose().map_err(at)?;
        let applied = match operation {
            Operation::Remove(removal) => remove_in(work, removal).await,
            other => apply::apply(work, other).await,
        };
        // What a handler says of a member is said of the operation's body.
        let applied = applied.map_err(|mut problem| {
            let member = problem.field.as_deref().and_then(|field| field.split(['.', '[']).next());
            let in_body =
                member.is_some_and(|name| asked.body.as_ref().is_some_and(|body| body.get(name).is_some()));
            if in_body {
                problem.field = problem.field.take().map(|field| format!("body.{field}"));
            }
            at(problem)
        })?;
        names.made(asked.name, &applied.body).map_err(at)?;
        let body = (!applied.body.is_null()).then_some(applied.body);
        results.push(BulkResult { status: applied.status.as_u16(), body });
    }
    let Some((_, work)) = work else { return Err(Problem::internal("a bulk without operations")) };
    Ok(Tried::Now(Box::new(work), results))
}

/// In a bulk everything is looked at before anything is struck.
async fn remove_in(work: &mut Work, removal: Removal) -> Result<Applied, Problem> {
    if work.strikes.len() >= MAX_STRIKES {
        let rule = format!("at most {MAX_STRIKES} operations of a bulk that revoke access");
        return Err(Problem::invalid("method", rule, "DELETE"));
    }
    let snapshot = Arc::clone(&work.snapshot);
    let data = work.caller.data(&snapshot)?;
    let found: Found = removal.find(&work.core, &snapshot, data).ok_or_else(|| removal.none())?;
    // Roles may have been given and owners have gone by this very bulk.
    if let Some(id) = removal.person()
        && let Some(row) = work.change.user(id).await?
    {
        let owners = work.change.owners().await?;
        ownership::may_go(&work.core, &work.caller, id, row.role, &owners)?;
    }
    work.unchanged(&found.object, &Value::Null)?;
    removal.take_from(&mut work.left);
    removal.write(&mut work.change, &found).await?;
    work.strikes.push((removal, found.generation));
    let body = serde_json::json!({"subject": removal.subject().to_string(), "generation": found.generation});
    Ok(Applied { status: StatusCode::OK, body })
}
