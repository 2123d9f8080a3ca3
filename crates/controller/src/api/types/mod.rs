//! What the API says and takes: JSON without logic.

mod access;
mod bulk;
mod log;
mod organization;

pub use super::accounts::{EndWebSessionsInput, InvitationInput, NewUsers, OidcProviderInput};
pub use access::*;
pub use bulk::*;
pub use log::*;
pub use organization::*;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use wire::{
    ConnectorId, ControllerId, DeviceId, EnrolmentKeyId, GroupId, InstallationId, OrganizationId, PolicyId,
    PopId, ResourceId, ServiceAccountId, SiteId, TokenId, UserId,
};

/// One page of a collection.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The objects.
    pub items: Vec<T>,
    /// An opaque cursor: what to pass as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
}

/// Whether an agent has sessions now. From memory; a controller that was just started learns it from
/// PoPs within seconds.
#[derive(Debug, Serialize, ToSchema)]
pub struct Live {
    /// It has a session to at least one PoP.
    pub attached: bool,
    /// To which.
    #[schema(value_type = Vec<String>)]
    pub pops: Vec<PopId>,
    /// When a PoP last told this controller about it (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_seen: Option<String>,
}

/// A private network.
#[derive(Debug, Serialize, ToSchema)]
pub struct Site {
    /// `site-…`
    #[schema(value_type = String)]
    pub id: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// Prefixes that names of the site may resolve to.
    pub prefixes: Vec<String>,
    /// Regions of PoPs in order of preference; empty means all.
    pub regions: Vec<String>,
    /// RFC 3339.
    pub created: String,
}

/// Values of a site.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteInput {
    /// Unique in the organization.
    pub name: String,
    /// Prefixes like `10.0.2.0/24`.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// Regions of PoPs in order of preference; empty means all.
    #[serde(default)]
    pub regions: Vec<String>,
}

/// An agent in a site. It is made by enrolment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Connector {
    /// `con-…`
    #[schema(value_type = String)]
    pub id: ConnectorId,
    /// Its site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// Ed25519 (base64url).
    pub identity_key: String,
    /// X25519 (base64url).
    pub wireguard_key: String,
    /// Raised when access is given back.
    pub generation: u64,
    /// Its access was revoked.
    pub struck: bool,
    /// RFC 3339.
    pub created: String,
    /// Now.
    pub live: Live,
}

/// A point of presence. It is made by enrolment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pop {
    /// `pop-…`
    #[schema(value_type = String)]
    pub id: PopId,
    /// Unique in the installation.
    pub name: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
    /// `HOST:PORT` that agents dial.
    pub address: String,
    /// Raised when access is given back.
    pub generation: u64,
    /// It was revoked.
    pub struck: bool,
    /// RFC 3339.
    pub created: String,
    /// This controller has a session to it.
    pub attached: bool,
    /// Since when, or when it last had (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_seen: Option<String>,
}

/// Values of a PoP that can be changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PopInput {
    /// `HOST:PORT` that agents dial.
    pub address: String,
    /// Region.
    pub region: String,
    /// Zone.
    pub zone: String,
}

/// What isolation of its connector does to a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It goes on until the grant's hard expiry.
    #[default]
    Standard,
    /// It closes.
    Strict,
}

/// Something that policies give access to.
#[derive(Debug, Serialize, ToSchema)]
pub struct Resource {
    /// `res-…`
    #[schema(value_type = String)]
    pub id: ResourceId,
    /// Its site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// A short name, unique in the organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub alias: Option<String>,
    /// IP address, prefix, host name or wildcard like `*.corp.example`.
    pub address: String,
    /// Protocols and ports: `443` or `8000-8999` for TCP, `udp/53` for UDP, `icmp` for echo (ping).
    pub ports: Vec<String>,
    /// What isolation does.
    pub mode: Mode,
    /// RFC 3339.
    pub created: String,
}

/// Values of a resource.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceInput {
    /// Its site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// A short name, unique in the organization.
    #[serde(default)]
    pub alias: Option<String>,
    /// IP address, prefix, host name or wildcard like `*.corp.example`.
    pub address: String,
    /// Protocols and ports: `443` or `8000-8999` for TCP, `udp/53` for UDP, `icmp` for echo (ping); at least one.
    pub ports: Vec<String>,
    /// What isolation does.
    #[serde(default)]
    pub mode: Mode,
}

/// A set of users and service accounts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Group {
    /// `grp-…`
    #[schema(value_type = String)]
    pub id: GroupId,
    /// Unique in the organization.
    pub name: String,
    /// How many members it has.
    pub members: usize,
    /// RFC 3339.
    pub created: String,
}

/// Something that only has a name to set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NameInput {
    /// The name.
    pub name: String,
}

/// A member of a group.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupMember {
    /// `usr-…` or `svc-…`
    pub member: String,
    /// Its name.
    pub name: String,
    /// Raised each time it joins again.
    pub generation: u64,
    /// This membership was revoked.
    pub struck: bool,
}

/// A person.
#[derive(Debug, Serialize, ToSchema)]
pub struct User {
    /// `usr-…`
    #[schema(value_type = String)]
    pub id: UserId,
    /// For people.
    pub name: String,
    /// Unique in the organization.
    pub email: String,
    /// What they may do here, besides reaching resources.
    pub role: Role,
    /// Raised when access is given back.
    pub generation: u64,
    /// Access was revoked.
    pub struck: bool,
    /// RFC 3339.
    pub created: String,
}

/// Values of a person.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UserInput {
    /// For people.
    pub name: String,
    /// Unique in the organization.
    pub email: String,
    /// What they may do here; `member` for a new person when absent, and as it was for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
}

/// What a person or token may do in an organization; docs/roles.md has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, owners included.
    Owner,
    /// Everything but owners.
    Admin,
    /// Sites, connectors, resources, groups and policies.
    NetworkAdmin,
    /// Devices.
    Support,
    /// Reads everything and changes nothing.
    Auditor,
    /// Nothing here.
    Member,
}

/// A role to give.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleInput {
    /// Which.
    pub role: Role,
}

/// A role, and what it may do.
#[derive(Debug, Serialize, ToSchema)]
pub struct RoleView {
    /// Which.
    pub role: Role,
    /// What it may do, by the words of docs/roles.md.
    pub permissions: Vec<String>,
    /// How many people have it.
    pub people: usize,
}

/// Every role.
#[derive(Debug, Serialize, ToSchema)]
pub struct Roles {
    /// From the one that may do most.
    pub items: Vec<RoleView>,
}

/// Whether a device may have access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// It enrolled and waits for somebody to approve it: it has neither certificate nor grant.
    Pending,
    /// It has access as policies say.
    Active,
    /// Its access was revoked, until somebody gives it back (`POST /restores`).
    Blocked,
    /// Its access was revoked, and it is kept for the record only.
    Archived,
}

/// A headless subject.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceAccount {
    /// `svc-…`
    #[schema(value_type = String)]
    pub id: ServiceAccountId,
    /// Unique in the organization.
    pub name: String,
    /// Raised when access is given back.
    pub generation: u64,
    /// Access was revoked.
    pub struck: bool,
    /// RFC 3339.
    pub created: String,
}

/// An enrolled machine. It is made by enrolment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Device {
    /// `dev-…`
    #[schema(value_type = String)]
    pub id: DeviceId,
    /// `usr-…` or `svc-…`
    pub owner: String,
    /// The owner's name.
    pub owner_name: String,
    /// For people.
    pub name: String,
    /// Whether it may have access.
    pub state: DeviceState,
    /// Ed25519 (base64url).
    pub identity_key: String,
    /// Raised when access is given back.
    pub generation: u64,
    /// Its access was revoked.
    pub struck: bool,
    /// RFC 3339.
    pub created: String,
    /// Now.
    pub live: Live,
}

/// These groups reach these resources.
#[derive(Debug, Serialize, ToSchema)]
pub struct Policy {
    /// `pol-…`
    #[schema(value_type = String)]
    pub id: PolicyId,
    /// Unique in the organization.
    pub name: String,
    /// Who.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupId>,
    /// What.
    #[schema(value_type = Vec<String>)]
    pub resources: Vec<ResourceId>,
    /// RFC 3339.
    pub created: String,
}

/// Values of a policy.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyInput {
    /// Unique in the organization.
    pub name: String,
    /// Who.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupId>,
    /// What.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub resources: Vec<ResourceId>,
}

/// What a key enrols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EnrolmentKind {
    /// A PoP.
    Pop,
    /// A connector of a site.
    Connector,
    /// A device of a user or service account.
    Device,
}

/// An enrolment key. Its secret is not kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolmentKey {
    /// `key-…`
    #[schema(value_type = String)]
    pub id: EnrolmentKeyId,
    /// What it enrols.
    pub kind: EnrolmentKind,
    /// For people.
    pub name: String,
    /// Connectors: of this site.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    pub site: Option<SiteId>,
    /// Devices: of this user or service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub owner: Option<String>,
    /// PoPs: in this region.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub region: Option<String>,
    /// PoPs: in this zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub zone: Option<String>,
    /// How often it can be used.
    pub cap: u64,
    /// How often it was used.
    pub uses: u64,
    /// Devices: somebody approves each before it gets access.
    pub approval: bool,
    /// RFC 3339.
    pub expires: String,
    /// RFC 3339.
    pub created: String,
}

/// A new enrolment key.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentKeyInput {
    /// What it enrols.
    pub kind: EnrolmentKind,
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// Connectors: of this site.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub site: Option<SiteId>,
    /// Devices: of this user or service account (`usr-…` or `svc-…`).
    #[serde(default)]
    pub owner: Option<String>,
    /// PoPs: in this region; `default` when absent.
    #[serde(default)]
    pub region: Option<String>,
    /// PoPs: in this zone; `default` when absent.
    #[serde(default)]
    pub zone: Option<String>,
    /// Devices: somebody approves each before it gets access. When absent, as the organization's settings say.
    #[serde(default)]
    pub approval: Option<bool>,
    /// How often it can be used (1 to 10000); once when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10000)]
    pub cap: Option<u64>,
    /// For how many seconds (60 to 31536000); one day when absent.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 31536000)]
    pub lifetime_seconds: Option<u64>,
}

/// A new enrolment key with its secret, shown in this answer only.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolmentKeyCreated {
    /// The key.
    pub key: EnrolmentKey,
    /// What to hand over: controller's address, root's hash and secret.
    pub join_key: String,
    /// The same as a link, which opens a page that says what to do with it: for `tidegate login LINK`. Devices
    /// only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub link: Option<String>,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read everything of its organization.
    Read,
    /// Change sites, resources, groups, people, devices and policies of its organization.
    Write,
    /// Revoke access.
    Strike,
    /// Make and remove enrolment keys.
    Enrol,
    /// Tokens, people's roles and settings of its organization.
    Admin,
    /// Change what all organizations share: PoPs, organizations, tokens.
    Installation,
}

/// An API token. Its secret is not kept.
#[derive(Debug, Serialize, ToSchema)]
pub struct Token {
    /// `tok-…`
    #[schema(value_type = String)]
    pub id: TokenId,
    /// Unique in the organization.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// The role it has instead of scopes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub role: Option<Role>,
    /// RFC 3339.
    pub expires: String,
    /// RFC 3339.
    pub created: String,
}

/// A new API token.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenInput {
    /// Unique in the organization.
    pub name: String,
    /// What it may do; at least one, unless it has a role.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// The role it has instead of scopes: one that may do no more than whoever makes the token.
    #[serde(default)]
    pub role: Option<Role>,
    /// For how many seconds (60 to 31536000); 90 days when absent.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 31536000)]
    pub lifetime_seconds: Option<u64>,
}

/// A new API token with its secret, shown in this answer only.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenCreated {
    /// The token's description.
    pub description: Token,
    /// What to send as `Authorization: Bearer …`.
    pub token: String,
}

/// A tenant.
#[derive(Debug, Serialize, ToSchema)]
pub struct Organization {
    /// `org-…`
    #[schema(value_type = String)]
    pub id: OrganizationId,
    /// Unique in the installation.
    pub name: String,
    /// Raised by a restore of the database.
    pub incarnation: u64,
    /// Raised by each change.
    pub version: u64,
    /// Hard life of grants, in seconds.
    pub grant_life_seconds: u64,
    /// When grants are renewed, in seconds after they were issued, ± 25 %.
    pub renew_after_seconds: u64,
    /// RFC 3339.
    pub created: String,
    /// When it was closed, RFC 3339; null while it is in use. Of a closed one there is its audit log.
    pub closed: Option<String>,
}

/// A new organization.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrganizationInput {
    /// Unique in the installation.
    pub name: String,
}

/// Values of an organization; absent ones stay.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OrganizationPatch {
    /// Unique in the installation.
    #[serde(default)]
    pub name: Option<String>,
    /// Hard life of grants (3600 to 259200).
    #[serde(default)]
    #[schema(minimum = 3600, maximum = 259200)]
    pub grant_life_seconds: Option<u64>,
    /// When grants are renewed (5 to half of their life).
    #[serde(default)]
    #[schema(minimum = 5)]
    pub renew_after_seconds: Option<u64>,
}

/// What to revoke, or to give back.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StrikeInput {
    /// The id of a device, user, service account, connector, PoP or token, or a membership as
    /// `usr-…/grp-…`.
    pub subject: String,
}

/// On how many disks a strike is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub enum Durable {
    /// On this controller's and at least one PoP's, or on two PoPs'.
    #[serde(rename = "two holders")]
    TwoHolders,
    /// On this controller's.
    #[serde(rename = "this node only")]
    ThisNodeOnly,
    /// On one PoP's; this controller's refused it and is tried again.
    #[serde(rename = "one PoP only")]
    OnePopOnly,
    /// On none yet: every disk refused it, and this controller's is tried again.
    #[serde(rename = "no disk")]
    NoDisk,
}

/// One strike, with the truth about who holds it.
#[derive(Debug, Serialize, ToSchema)]
pub struct StrikeOutcome {
    /// What was struck.
    pub subject: String,
    /// This generation and all below it.
    pub generation: u64,
    /// When (RFC 3339).
    pub at: String,
    /// Whether it survives the loss of any one node.
    pub durable: Durable,
    /// Who holds it, in words: `this controller and 2 PoPs`, `this node only`, …
    pub held: String,
    /// PoPs that have it on their disk.
    pub held_by_pops: usize,
    /// PoPs that are attached to this controller.
    pub pops_attached: usize,
    /// Connectors that enforce it: a PoP that holds it sent it to them.
    pub enforced: usize,
    /// Connectors that were seen within a minute and were not sent it yet: they learn of it with their next
    /// beacon.
    pub stale: usize,
    /// Connectors that no PoP has seen for a minute: access there ends with the lease.
    pub isolated: usize,
    /// After this nobody has access by what was struck, whoever heard of nothing (RFC 3339); the time of the
    /// strike when every PoP and connector has it.
    pub latest_possible_end: String,
}

/// What is struck.
#[derive(Debug, Serialize, ToSchema)]
pub struct Strike {
    /// What.
    pub subject: String,
    /// This generation and all below it.
    pub generation: u64,
    /// When (RFC 3339).
    pub at: String,
    /// Kept until (RFC 3339).
    pub keep_until: String,
    /// By which controller.
    #[schema(value_type = String)]
    pub signer: ControllerId,
    /// Its number in that controller's chain.
    pub seq: u64,
}

/// What was given back.
#[derive(Debug, Serialize, ToSchema)]
pub struct Restored {
    /// Whose access.
    pub subject: String,
    /// Its new generation; certificates and grants of older ones stay revoked.
    pub generation: u64,
}

/// A link for an owner, shown in this answer only.
#[derive(Debug, Serialize, ToSchema)]
pub struct OwnerLink {
    /// Opens a page to set a passphrase.
    pub link: String,
    /// RFC 3339.
    pub expires: String,
}

/// How this controller is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// The installation.
    #[schema(value_type = String)]
    pub installation: InstallationId,
    /// This controller.
    #[schema(value_type = String)]
    pub controller: ControllerId,
    /// This build.
    pub build: String,
    /// For how many seconds it runs.
    pub up_seconds: u64,
    /// The root's hash, as in every join key.
    pub root_hash: String,
    /// `on_this_host`, `exported_and_on_this_host` or `away`.
    pub root_key: String,
    /// What it serves from.
    pub snapshot: SnapshotStatus,
    /// What it signs with.
    pub keys: KeysStatus,
    /// Whether changes can be made now.
    pub database: DatabaseStatus,
    /// Whether it signs now; why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub not_signing: Option<String>,
    /// Whether it issues certificates, grants and slices now; why not. Strikes are always taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub not_issuing: Option<String>,
    /// PoPs known.
    pub pops: usize,
    /// PoPs attached to this controller.
    pub pops_attached: usize,
    /// Subjects struck.
    pub struck: usize,
    /// What it is asked, by class: `strikes`, `enrolment`, `changes`, `reads`, `bulk` and `exports`.
    pub requests: BTreeMap<&'static str, RequestsStatus>,
}

/// What is asked of one class.
#[derive(Debug, Serialize, ToSchema)]
pub struct RequestsStatus {
    /// Requests that are served now.
    pub served: usize,
    /// Requests that wait for a place now.
    pub waiting: usize,
    /// Requests that were served at once, since this controller started.
    pub at_once: u64,
    /// Requests that waited for a place.
    pub waited: u64,
    /// Requests that were sent away with 503 and the time to come back.
    pub sent_away: u64,
    /// Requests that waited until nobody was there any more for the answer.
    pub gone: u64,
}

/// What a controller serves from.
#[derive(Debug, Serialize, ToSchema)]
pub struct SnapshotStatus {
    /// `database`, `replica` or `disk_copy`.
    pub source: String,
    /// When it was read from the database (RFC 3339).
    pub read: String,
    /// How old it may be; 0 when it is known to be what the database has.
    pub age_seconds: u64,
    /// A change is stored, or may be, that is not in it yet.
    pub behind: bool,
    /// Why the newest state of the database was not taken, when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub alarm: Option<String>,
    /// What was not taken since this controller started.
    pub alarms: Vec<Alarm>,
    /// The organization's incarnation.
    pub incarnation: u64,
    /// The organization's version.
    pub version: u64,
}

/// The keys that a controller signs with.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeysStatus {
    /// Number of the trust bundle that names them.
    pub serial: u64,
    /// When the first of the newest keys ends (RFC 3339). They are replaced long before.
    pub end: String,
    /// When the rotation key ends (RFC 3339), which signs the bundles. Only the root replaces it (`PUT /rotation-key`).
    pub rotation_key_end: String,
    /// A key ends soon, and no newer one was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub alarm: Option<String>,
}

/// A rotation key that waits for the root's signature.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotationKeyOffer {
    /// The installation.
    #[schema(value_type = String)]
    pub installation: InstallationId,
    /// Hash of the root that has to sign.
    pub root_hash: String,
    /// The number that the key would have.
    pub epoch: u64,
    /// The key (Ed25519, base64url).
    pub rotation_key: String,
}

/// Another rotation key, signed for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationKeyInput {
    /// The root's signed statement for the key that this controller offered last (PASETO v4.public).
    #[schema(max_length = 4096)]
    pub statement: String,
    /// Controllers whose keys go with the rotation key of before: stolen ones.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub without: Vec<ControllerId>,
}

/// The rotation key that is in place.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotationKey {
    /// Its number.
    pub epoch: u64,
    /// Number of the trust bundle that it signed.
    pub serial: u64,
    /// When it ends (RFC 3339).
    pub ends: String,
}

/// Says that new keys shall be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyRotationInput {
    /// How long they are published before they sign, in seconds: agents that are off meanwhile get the newest bundle when
    /// they come back. A day if absent; 1 to 604800.
    #[serde(default)]
    pub use_after_seconds: Option<u64>,
}

/// New keys that were made.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyRotation {
    /// Number of the trust bundle that names them.
    pub serial: u64,
    /// When they begin to sign (RFC 3339).
    pub used_from: String,
}

/// How often something was not taken, and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alarm {
    /// In a word: `value`, `shrunk`, `restored`, …
    pub reason: String,
    /// Since this controller started.
    pub count: u64,
}

/// A restored database that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub struct AcceptedDatabase {
    /// The new incarnation.
    pub incarnation: u64,
    /// The installation's version in it.
    pub version: u64,
}

/// Whether changes can be made.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatabaseStatus {
    /// It can be used.
    pub usable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub trouble: Option<String>,
    /// Servers that follow it, and are read from when it does not answer.
    pub replicas: Vec<ReplicaStatus>,
    /// How many of them can be read from.
    pub replicas_usable: usize,
    /// The longest of their lags, of those that are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub replica_lag_seconds: Option<u64>,
}

/// A replica of the database.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplicaStatus {
    /// Where it is, without the password.
    pub server: String,
    /// It can be read from.
    pub usable: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub trouble: Option<String>,
    /// For how long it has not had something that the primary had; absent where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lag_seconds: Option<u64>,
}

/// What the database did since this controller opened it, counted by its own trace.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatabaseDiagnostics {
    /// Statements it started.
    pub statements: u64,
    /// Rows it inserted, changed or deleted.
    pub rows_written: u64,
}

/// Changes of a site (RFC 7396): absent members stay.
#[derive(Debug, Serialize, ToSchema)]
pub struct SitePatch {
    /// Unique in the organization.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// Prefixes like `10.0.2.0/24`.
    pub prefixes: Option<Vec<String>>,
    /// Regions of PoPs in order of preference; empty means all.
    pub regions: Option<Vec<String>>,
}

/// Changes of a PoP (RFC 7396): absent members stay.
#[derive(Debug, Serialize, ToSchema)]
pub struct PopPatch {
    /// `HOST:PORT` that agents dial.
    #[schema(nullable = false)]
    pub address: Option<String>,
    /// Region.
    #[schema(nullable = false)]
    pub region: Option<String>,
    /// Zone.
    #[schema(nullable = false)]
    pub zone: Option<String>,
}

/// Changes of a resource (RFC 7396): absent members stay, `null` takes the alias away.
#[derive(Debug, Serialize, ToSchema)]
pub struct ResourcePatch {
    /// Its site.
    #[schema(value_type = Option<String>, nullable = false)]
    pub site: Option<SiteId>,
    /// Unique in the organization.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// A short name, unique in the organization.
    pub alias: Option<String>,
    /// IP address, prefix, host name or wildcard like `*.corp.example`.
    #[schema(nullable = false)]
    pub address: Option<String>,
    /// Protocols and ports; at least one.
    #[schema(nullable = false)]
    pub ports: Option<Vec<String>>,
    /// What isolation does.
    pub mode: Option<Mode>,
}

/// A change of a name (RFC 7396).
#[derive(Debug, Serialize, ToSchema)]
pub struct NamePatch {
    /// The name.
    #[schema(nullable = false)]
    pub name: Option<String>,
}

/// Changes of a person (RFC 7396): absent members stay.
#[derive(Debug, Serialize, ToSchema)]
pub struct UserPatch {
    /// For people.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// Unique in the organization.
    #[schema(nullable = false)]
    pub email: Option<String>,
    /// What they may do here.
    pub role: Option<Role>,
}

/// Changes of a policy (RFC 7396): absent members stay.
#[derive(Debug, Serialize, ToSchema)]
pub struct PolicyPatch {
    /// Unique in the organization.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// Who.
    #[schema(value_type = Option<Vec<String>>)]
    pub groups: Option<Vec<GroupId>>,
    /// What.
    #[schema(value_type = Option<Vec<String>>)]
    pub resources: Option<Vec<ResourceId>>,
}

/// A new key of a service account.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountKeyInput {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// Somebody approves each device before it gets access. When absent, as the organization's settings say.
    #[serde(default)]
    pub approval: Option<bool>,
    /// How often it can be used (1 to 10000); once when absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 10000)]
    pub cap: Option<u64>,
    /// For how many seconds (60 to 31536000); one day when absent.
    #[serde(default)]
    #[schema(minimum = 60, maximum = 31536000)]
    pub lifetime_seconds: Option<u64>,
}
