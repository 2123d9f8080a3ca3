//! What is removed by a strike first: access ends at once, and the row follows.

use super::{Problem, caller::Caller, operations::outcome, shrink::Shrink, types::StrikeOutcome};
use crate::{
    parts::{Core, StrikeRequest},
    snapshot::owner,
};
use serde_json::json;
use std::sync::Arc;
use store::{Change, Member, Scope, StoreError};
use trust::RevokedSubject;
use wire::{ConnectorId, DeviceId, GroupId, PopId};

/// What is removed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Removal {
    Device(DeviceId),
    Member(Member, Shrink),
    Membership(GroupId, Member),
    Connector(ConnectorId),
    Pop(PopId),
}

impl Removal {
    const fn subject(self) -> RevokedSubject {
        match self {
            Self::Device(id) => RevokedSubject::Device(id),
            Self::Member(member, _) => RevokedSubject::owner(owner(member)),
            Self::Membership(group, member) => RevokedSubject::membership(owner(member), group),
            Self::Connector(id) => RevokedSubject::Connector(id),
            Self::Pop(id) => RevokedSubject::Pop(id),
        }
    }

    const fn action(self) -> &'static str {
        match self {
            Self::Device(_) => "delete device",
            Self::Member(Member::User(_), _) => "delete user",
            Self::Member(Member::ServiceAccount(_), _) => "delete service account",
            Self::Membership(..) => "remove member",
            Self::Connector(_) => "delete connector",
            Self::Pop(_) => "delete pop",
        }
    }

    async fn from(self, change: &mut Change) -> Result<(), StoreError> {
        match self {
            Self::Device(id) => change.delete_device(id).await,
            Self::Member(member, shrink) => {
                shrink.note(change).await?;
                change.delete_member(member).await
            }
            Self::Membership(group, member) => change.remove_member(group, member).await,
            Self::Connector(id) => change.delete_connector(id).await,
            Self::Pop(id) => change.delete_pop(id).await,
        }
    }
}

/// Strikes, then removes the row. Both happen also when the caller hangs up.
pub(super) async fn strike_and_remove(
    core: Arc<Core>,
    caller: Caller,
    removal: Removal,
    generation: u64,
) -> Result<StrikeOutcome, Problem> {
    let work = async move {
        let scope = match removal {
            Removal::Pop(_) => Scope::Installation,
            _ => Scope::Organization(caller.organization),
        };
        let organization = match scope {
            Scope::Installation => None,
            Scope::Organization(id) => Some(id),
        };
        let (subject, actor) = (removal.subject(), caller.actor);
        let request = StrikeRequest { subject, generation, organization, actor: actor.clone() };
        let report = core.strike(request).await?;
        // The strike stands whatever the clock; the row waits for one that can be believed.
        core.signer.signing_time().map_err(|fenced| but_not_written(Problem::from(fenced)))?;
        let removed = async {
            let (store, mut change) = core.database.change(scope, &actor).await?;
            removal.from(&mut change).await?;
            core.commit(&store, change, removal.action(), &subject.to_string(), &json!({})).await
        };
        removed.await.map_err(|error: StoreError| but_not_written(Problem::from(error)))?;
        Ok(outcome(&report))
    };
    let ended = |error| Problem::internal(format!("the removal's task ended: {error}"));
    tokio::spawn(work).await.map_err(ended)?
}

/// The strike is enforced; what is missing is said.
fn but_not_written(mut problem: Problem) -> Problem {
    problem.detail = format!("access was revoked; the row could not be removed yet: {}", problem.detail);
    problem
}
