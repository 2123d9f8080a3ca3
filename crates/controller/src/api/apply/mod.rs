//! What each operation does inside its transaction: it reads the object as it is there, holds it against `If-Match` and
//! the rules, writes it, and notes before and after for the audit log.

mod access;
mod network;
mod people;
mod tenant;

use super::{
    Problem,
    operate::{Work, noted},
    operation::{Applied, Operation, Patched},
    request::decoded,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fmt::Display;

/// Makes one operation in an open change.
pub(super) async fn apply(work: &mut Work, operation: Operation) -> Result<Applied, Problem> {
    match operation {
        Operation::CreateSite(input) => network::create_site(work, &input).await,
        Operation::ReplaceSite(id, input) => network::replace_site(work, id, &input).await,
        Operation::DeleteSite(id) => network::delete_site(work, id).await,
        Operation::RenameConnector(id, input) => network::rename_connector(work, id, &input).await,
        Operation::CreateResource(input) => network::create_resource(work, &input).await,
        Operation::ReplaceResource(id, input) => network::replace_resource(work, id, &input).await,
        Operation::DeleteResource(id) => network::delete_resource(work, id).await,
        Operation::ReplacePop(id, input) => network::replace_pop(work, id, &input).await,
        Operation::CreateGroup(input) => people::create_group(work, &input).await,
        Operation::RenameGroup(id, input) => people::rename_group(work, id, &input).await,
        Operation::DeleteGroup(id) => people::delete_group(work, id).await,
        Operation::AddMember(group, member) => people::add_member(work, group, member).await,
        Operation::CreateUser(input) => people::create_user(work, &input).await,
        Operation::ReplaceUser(id, input) => people::replace_user(work, id, &input).await,
        Operation::SetRole(id, role) => people::set_role(work, id, role).await,
        Operation::CreateServiceAccount(input) => people::create_service_account(work, &input).await,
        Operation::RenameServiceAccount(id, input) => people::rename_service_account(work, id, &input).await,
        Operation::RenameDevice(id, input) => people::rename_device(work, id, &input).await,
        Operation::ApproveDevice(id) => people::approve_device(work, id).await,
        Operation::CreatePolicy(input) => access::create_policy(work, input).await,
        Operation::ReplacePolicy(id, input) => access::replace_policy(work, id, input).await,
        Operation::DeletePolicy(id) => access::delete_policy(work, id).await,
        Operation::CreateEnrolmentKey(input) => access::create_enrolment_key(work, &input).await,
        Operation::DeleteEnrolmentKey(id) => access::delete_enrolment_key(work, id).await,
        Operation::CreateToken(input) => access::create_token(work, &input).await,
        Operation::CreateInvitation(input) => people::create_invitation(work, &input).await,
        Operation::DeleteToken(id) => access::delete_token(work, id).await,
        Operation::CreateOrganization(input) => tenant::create_organization(work, &input).await,
        Operation::ChangeOrganization(id, input) => tenant::change_organization(work, id, &input).await,
        Operation::CloseOrganization(id) => tenant::close_organization(work, id).await,
        Operation::ChangeSettings(input) => tenant::change_settings(work, &input).await,
        Operation::Restore(input) => tenant::restore(work, &input).await,
        Operation::EndWebSessions(input) => people::end_web_sessions(work, &input).await,
        Operation::Patch(patched, members) => patch(work, patched, &members).await,
        // What a strike comes before has a way of its own (`operate`).
        Operation::Remove(_) => Err(Problem::internal("a removal is no operation of this kind")),
    }
}

/// JSON Merge Patch (RFC 7396) of what can be set: the object as it is, changed, is what a `PUT` would send.
async fn patch(work: &mut Work, patched: Patched, members: &Map<String, Value>) -> Result<Applied, Problem> {
    match patched {
        Patched::Site(id) => {
            let now = network::site(work, id).await?;
            let input = merged(&now, &["name", "prefixes", "regions"], members)?;
            network::replace_site(work, id, &input).await
        }
        Patched::Resource(id) => {
            let now = network::resource(work, id).await?;
            let can_be_set = ["site", "name", "alias", "address", "ports", "mode"];
            let input = merged(&now, &can_be_set, members)?;
            network::replace_resource(work, id, &input).await
        }
        Patched::Group(id) => {
            let now = people::group(work, id).await?;
            let input = merged(&now, &["name"], members)?;
            people::rename_group(work, id, &input).await
        }
        Patched::User(id) => {
            let now = people::user(work, id).await?;
            let input = merged(&now, &["name", "email", "role"], members)?;
            people::replace_user(work, id, &input).await
        }
        Patched::Policy(id) => {
            let now = access::policy(work, id).await?;
            let input = merged(&now, &["name", "groups", "resources"], members)?;
            access::replace_policy(work, id, input).await
        }
        Patched::Pop(id) => {
            let now = network::pop(work, id).await?;
            let input = merged(&now, &["address", "region", "zone"], members)?;
            network::replace_pop(work, id, &input).await
        }
    }
}

/// Every object that can be patched is flat: RFC 7396 has no more to say about these.
fn merged<T: DeserializeOwned>(
    now: &Value,
    can_be_set: &[&str],
    members: &Map<String, Value>,
) -> Result<T, Problem> {
    let mut object = Map::new();
    for name in can_be_set {
        if let Some(value) = now.get(*name) {
            object.insert((*name).to_owned(), value.clone());
        }
    }
    for (name, value) in members {
        if value.is_null() {
            object.remove(name);
        } else {
            object.insert(name.clone(), value.clone());
        }
    }
    decoded(&Value::Object(object))
}

impl Work {
    /// Notes what was done to an object.
    fn noted(&mut self, action: &str, subject: &impl Display, before: Option<Value>, after: Option<Value>) {
        self.change.note(noted(action, &subject.to_string(), before, after, json!({})));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ResourceInput;

    #[test]
    fn a_patch_changes_what_it_names_and_null_takes_away() {
        let now = json!({
            "id": "res-1", "site": "site-00000000000000000000000000", "name": "db", "alias": "d",
            "address": "10.0.0.1", "ports": ["443"], "mode": "strict", "created": "x",
        });
        let can_be_set = ["site", "name", "alias", "address", "ports", "mode"];
        let members = |value: Value| value.as_object().unwrap().clone();
        let patch = members(json!({"alias": null, "address": "10.0.0.2"}));
        let input: ResourceInput = merged(&now, &can_be_set, &patch).unwrap();
        assert_eq!((input.name.as_str(), input.address.as_str(), input.alias), ("db", "10.0.0.2", None));
        let patch = members(json!({"id": "res-2"}));
        let problem = merged::<ResourceInput>(&now, &can_be_set, &patch).unwrap_err();
        assert_eq!(problem.field.as_deref(), Some("id"));
        let patch = members(json!({"name": null}));
        assert_eq!(
            merged::<ResourceInput>(&now, &can_be_set, &patch).unwrap_err().rule.as_deref(),
            Some("required")
        );
    }
}
