//! Every change as a value: what a request of its own, an operation of a bulk and a form of the console all become.

use super::{
    Problem,
    caller::Caller,
    check,
    removal::Removal,
    request::decoded,
    roles::{self, Needs, SignIn},
    types::{
        BulkMethod, EndWebSessionsInput, EnrolmentKeyInput, EnrolmentKind, InvitationInput, NameInput,
        OrganizationInput, OrganizationPatch, PolicyInput, PopInput, ResourceInput, Role, RoleInput,
        ServiceAccountKeyInput, SettingsPatch, SiteInput, StrikeInput, TokenInput, UserInput,
    },
};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{fmt::Display, str::FromStr};
use store::{Member, Scope};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, OrganizationId, PolicyId, PopId, ResourceId,
    ServiceAccountId, SiteId, TokenId, UserId,
};

/// What a change of some members is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patched {
    Site(SiteId),
    Resource(ResourceId),
    Group(GroupId),
    User(UserId),
    Policy(PolicyId),
    Pop(PopId),
}

/// One change.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    CreateSite(SiteInput),
    ReplaceSite(SiteId, SiteInput),
    DeleteSite(SiteId),
    RenameConnector(ConnectorId, NameInput),
    CreateResource(ResourceInput),
    ReplaceResource(ResourceId, ResourceInput),
    DeleteResource(ResourceId),
    CreateGroup(NameInput),
    RenameGroup(GroupId, NameInput),
    DeleteGroup(GroupId),
    AddMember(GroupId, Member),
    CreateUser(UserInput),
    ReplaceUser(UserId, UserInput),
    SetRole(UserId, Role),
    CreateServiceAccount(NameInput),
    RenameServiceAccount(ServiceAccountId, NameInput),
    RenameDevice(DeviceId, NameInput),
    ApproveDevice(DeviceId),
    CreatePolicy(PolicyInput),
    ReplacePolicy(PolicyId, PolicyInput),
    DeletePolicy(PolicyId),
    CreateEnrolmentKey(EnrolmentKeyInput),
    DeleteEnrolmentKey(EnrolmentKeyId),
    CreateToken(TokenInput),
    CreateInvitation(InvitationInput),
    DeleteToken(TokenId),
    ReplacePop(PopId, PopInput),
    CreateOrganization(OrganizationInput),
    ChangeOrganization(OrganizationId, OrganizationPatch),
    CloseOrganization(OrganizationId),
    ChangeSettings(SettingsPatch),
    Restore(StrikeInput),
    EndWebSessions(EndWebSessionsInput),
    /// JSON Merge Patch (RFC 7396) of what a `PUT` sets.
    Patch(Patched, Map<String, Value>),
    /// By a strike first.
    Remove(Removal),
}

impl ServiceAccountKeyInput {
    /// The key of one account.
    pub(crate) fn of(self, account: ServiceAccountId) -> EnrolmentKeyInput {
        EnrolmentKeyInput {
            kind: EnrolmentKind::Device,
            name: self.name,
            site: None,
            owner: Some(account.to_string()),
            region: None,
            zone: None,
            approval: self.approval,
            cap: self.cap,
            lifetime_seconds: self.lifetime_seconds,
        }
    }
}

/// The paths by which operations are asked for, and what each makes.
struct Path<'a> {
    method: BulkMethod,
    parts: Vec<&'a str>,
    body: Option<&'a Value>,
}

fn no_such(method: BulkMethod, path: &str) -> Problem {
    let shown: String = path.chars().take(120).collect();
    Problem::invalid(
        "path",
        format!(
            "what {} makes, changes or removes: an object of a list of the OpenAPI document, a member of a group, a role, an \
             invitation, a key of a service account, an approval, block or archiving of a device, /settings, /restores, /ended-web-sessions, or /strikes alone",
            http_method(method)
        ),
        shown,
    )
}

const fn http_method(method: BulkMethod) -> Method {
    match method {
        BulkMethod::Post => Method::POST,
        BulkMethod::Put => Method::PUT,
        BulkMethod::Patch => Method::PATCH,
        BulkMethod::Delete => Method::DELETE,
    }
}

/// What the body of an operation of a bulk says.
pub(super) fn of_body<T: DeserializeOwned>(body: Option<&Value>) -> Result<T, Problem> {
    let body = body.ok_or_else(|| Problem::invalid("body", "required", Value::Null))?;
    if !body.is_object() {
        return Err(Problem::invalid("body", "an object", super::problem::shown(body)));
    }
    decoded(body).map_err(|mut problem| {
        problem.field = problem.field.take().map(|field| format!("body.{field}"));
        problem
    })
}

impl Path<'_> {
    fn id<T: FromStr<Err: Display>>(&self, place: usize) -> Result<T, Problem> {
        check::parsed("path", self.parts.get(place).copied().unwrap_or_default())
    }

    fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        of_body(self.body)
    }

    fn members(&self) -> Result<Map<String, Value>, Problem> {
        self.body::<Map<String, Value>>()
    }
}

impl Operation {
    /// From an operation of a bulk. Gives also what its own endpoint needs.
    ///
    /// # Errors
    /// There is no such endpoint, or its body is not what it takes.
    pub(crate) fn parse(
        method: BulkMethod,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Self, Needs, SignIn), Problem> {
        use BulkMethod::{Delete, Patch, Post, Put};
        let rest = path.strip_prefix("/api/v1").unwrap_or(path);
        let rest = rest.strip_prefix('/').ok_or_else(|| no_such(method, path))?;
        let path_parts = Path { method, parts: rest.split('/').collect(), body };
        let at = &path_parts;
        let (operation, template) = match (at.method, at.parts.as_slice()) {
            (Post, ["sites"]) => (Self::CreateSite(at.body()?), "/sites"),
            (Put, ["sites", _]) => (Self::ReplaceSite(at.id(1)?, at.body()?), "/sites/{id}"),
            (Patch, ["sites", _]) => (Self::Patch(Patched::Site(at.id(1)?), at.members()?), "/sites/{id}"),
            (Delete, ["sites", _]) => (Self::DeleteSite(at.id(1)?), "/sites/{id}"),
            (Put, ["connectors", _]) => (Self::RenameConnector(at.id(1)?, at.body()?), "/connectors/{id}"),
            (Delete, ["connectors", _]) => (Self::Remove(Removal::Connector(at.id(1)?)), "/connectors/{id}"),
            (Post, ["resources"]) => (Self::CreateResource(at.body()?), "/resources"),
            (Put, ["resources", _]) => (Self::ReplaceResource(at.id(1)?, at.body()?), "/resources/{id}"),
            (Patch, ["resources", _]) => {
                (Self::Patch(Patched::Resource(at.id(1)?), at.members()?), "/resources/{id}")
            }
            (Delete, ["resources", _]) => (Self::DeleteResource(at.id(1)?), "/resources/{id}"),
            (Post, ["groups"]) => (Self::CreateGroup(at.body()?), "/groups"),
            (Put, ["groups", _]) => (Self::RenameGroup(at.id(1)?, at.body()?), "/groups/{id}"),
            (Patch, ["groups", _]) => (Self::Patch(Patched::Group(at.id(1)?), at.members()?), "/groups/{id}"),
            (Delete, ["groups", _]) => (Self::DeleteGroup(at.id(1)?), "/groups/{id}"),
            (Put, ["groups", _, "members", _]) => {
                (Self::AddMember(at.id(1)?, at.id(3)?), "/groups/{id}/members/{member}")
            }
            (Delete, ["groups", _, "members", _]) => {
                (Self::Remove(Removal::Membership(at.id(1)?, at.id(3)?)), "/groups/{id}/members/{member}")
            }
            (Post, ["users"]) => (Self::CreateUser(at.body()?), "/users"),
            (Put, ["users", _]) => (Self::ReplaceUser(at.id(1)?, at.body()?), "/users/{id}"),
            (Patch, ["users", _]) => (Self::Patch(Patched::User(at.id(1)?), at.members()?), "/users/{id}"),
            (Delete, ["users", _]) => (Self::Remove(Removal::Member(Member::User(at.id(1)?))), "/users/{id}"),
            (Put, ["users", _, "role"]) => {
                let RoleInput { role } = at.body()?;
                (Self::SetRole(at.id(1)?, role), "/users/{id}/role")
            }
            (Post, ["service-accounts"]) => (Self::CreateServiceAccount(at.body()?), "/service-accounts"),
            (Put, ["service-accounts", _]) => {
                (Self::RenameServiceAccount(at.id(1)?, at.body()?), "/service-accounts/{id}")
            }
            (Delete, ["service-accounts", _]) => {
                (Self::Remove(Removal::Member(Member::ServiceAccount(at.id(1)?))), "/service-accounts/{id}")
            }
            (Put, ["devices", _]) => (Self::RenameDevice(at.id(1)?, at.body()?), "/devices/{id}"),
            (Delete, ["devices", _]) => (Self::Remove(Removal::Device(at.id(1)?)), "/devices/{id}"),
            (Post, ["devices", _, "approve"]) => (Self::ApproveDevice(at.id(1)?), "/devices/{id}/approve"),
            (Post, ["devices", _, "block"]) => {
                (Self::Remove(Removal::Block(at.id(1)?)), "/devices/{id}/block")
            }
            (Post, ["devices", _, "archive"]) => {
                (Self::Remove(Removal::Archive(at.id(1)?)), "/devices/{id}/archive")
            }
            (Post, ["policies"]) => (Self::CreatePolicy(at.body()?), "/policies"),
            (Put, ["policies", _]) => (Self::ReplacePolicy(at.id(1)?, at.body()?), "/policies/{id}"),
            (Patch, ["policies", _]) => {
                (Self::Patch(Patched::Policy(at.id(1)?), at.members()?), "/policies/{id}")
            }
            (Delete, ["policies", _]) => (Self::DeletePolicy(at.id(1)?), "/policies/{id}"),
            (Post, ["enrolment-keys"]) => (Self::CreateEnrolmentKey(at.body()?), "/enrolment-keys"),
            (Delete, ["enrolment-keys", _]) => (Self::DeleteEnrolmentKey(at.id(1)?), "/enrolment-keys/{id}"),
            (Post, ["service-accounts", _, "keys"]) => {
                let input: ServiceAccountKeyInput = at.body()?;
                let input = input.of(at.id(1)?);
                (Self::CreateEnrolmentKey(input), "/service-accounts/{id}/keys")
            }
            (Post, ["invitations"]) => (Self::CreateInvitation(at.body()?), "/invitations"),
            (Post, ["tokens"]) => (Self::CreateToken(at.body()?), "/tokens"),
            (Delete, ["tokens", _]) => (Self::DeleteToken(at.id(1)?), "/tokens/{id}"),
            (Put, ["pops", _]) => (Self::ReplacePop(at.id(1)?, at.body()?), "/pops/{id}"),
            (Patch, ["pops", _]) => (Self::Patch(Patched::Pop(at.id(1)?), at.members()?), "/pops/{id}"),
            (Delete, ["pops", _]) => (Self::Remove(Removal::Pop(at.id(1)?)), "/pops/{id}"),
            (Post, ["organizations"]) => (Self::CreateOrganization(at.body()?), "/organizations"),
            (Patch, ["organizations", _]) => {
                (Self::ChangeOrganization(at.id(1)?, at.body()?), "/organizations/{id}")
            }
            (Delete, ["organizations", _]) => (Self::CloseOrganization(at.id(1)?), "/organizations/{id}"),
            (Patch, ["settings"]) => (Self::ChangeSettings(at.body()?), "/settings"),
            (Post, ["restores"]) => (Self::Restore(at.body()?), "/restores"),
            (Post, ["ended-web-sessions"]) => (Self::EndWebSessions(at.body()?), "/ended-web-sessions"),
            _ => return Err(no_such(method, path)),
        };
        let method = http_method(method);
        Ok((operation, roles::needs(&method, template), roles::sign_in(&method, template)))
    }

    /// Whose version it raises.
    ///
    /// # Errors
    /// A subject that does not parse.
    pub(crate) fn scope(&self, caller: &Caller, core: &crate::parts::Core) -> Result<Scope, Problem> {
        let own = Scope::Organization(caller.organization);
        Ok(match self {
            Self::ReplacePop(..)
            | Self::CreateOrganization(_)
            | Self::Patch(Patched::Pop(_), _)
            | Self::Remove(Removal::Pop(_)) => Scope::Installation,
            Self::CreateEnrolmentKey(input) if input.kind == EnrolmentKind::Pop => Scope::Installation,
            Self::DeleteEnrolmentKey(id) => {
                let snapshot = core.snapshot();
                let shared = snapshot.dataset.enrolment_keys.iter().any(|key| key.id == *id);
                if shared { Scope::Installation } else { own }
            }
            Self::ChangeOrganization(id, _) | Self::CloseOrganization(id) => Scope::Organization(*id),
            Self::Restore(input) => match check::parsed("subject", &input.subject)? {
                trust::RevokedSubject::Pop(_) => Scope::Installation,
                _ => own,
            },
            _ => own,
        })
    }
}

/// What an operation made or changed.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
}

impl Applied {
    pub(crate) const fn made(body: Value) -> Self {
        Self { status: StatusCode::CREATED, body }
    }

    pub(crate) const fn changed(body: Value) -> Self {
        Self { status: StatusCode::OK, body }
    }

    pub(crate) const fn removed() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: Value::Null }
    }
}
