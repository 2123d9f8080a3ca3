//! An organization keeps an owner. Nobody else can make one, so the last of them keeps the role; only at the controller's own
//! machine it can be taken, where another owner can be made as well. A strike is no business of this: access ends when somebody
//! says so, also the last owner's.
//!
//! A change looks at the owners in its own transaction. A removal alone strikes before it has one, also without the database: two
//! owners who remove each other in the same moment may both succeed, and the machine itself helps then.

use super::{
    Problem,
    caller::{Caller, Who},
};
use crate::parts::Core;
use http::StatusCode;
use store::Role;
use trust::RevokedSubject;
use wire::UserId;

/// Refuses what would leave the organization without an owner whose access stands. `owners` are all that there are, with their
/// generations, `leaving` among them.
///
/// # Errors
/// There is no other, and the caller is not at the machine itself.
pub(super) fn keep_one(
    core: &Core,
    caller: &Caller,
    leaving: UserId,
    owners: &[(UserId, u64)],
) -> Result<(), Problem> {
    let struck = core.strikes.set();
    let stays = |(id, generation): &(UserId, u64)| {
        *id != leaving && !struck.is_struck(RevokedSubject::User(*id), *generation)
    };
    if caller.who == Who::Local || owners.iter().any(stays) {
        return Ok(());
    }
    let mut problem = Problem::new(
        StatusCode::CONFLICT,
        "last-owner",
        "This is the last owner",
        "expected another owner whose access stands: make somebody else one first, or use `tidegate admin` at the controller's own \
         machine",
    );
    problem.field = Some("role".into());
    problem.rule = Some("an organization has an owner".into());
    problem.value = Some(leaving.to_string().into());
    Err(problem)
}

/// Whether a person with this role may be removed: nobody takes access from somebody whose role may do more than their own, and the
/// last owner stays.
///
/// # Errors
/// One of the two.
pub(super) fn may_go(
    core: &Core,
    caller: &Caller,
    person: UserId,
    role: Role,
    owners: &[(UserId, u64)],
) -> Result<(), Problem> {
    caller.need_to_cover(role)?;
    if role == Role::Owner { keep_one(core, caller, person, owners) } else { Ok(()) }
}
