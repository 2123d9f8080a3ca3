//! The rows as types. Ids are typed, lists are lists, and a value that does not parse is an error.

use crate::{SecretHash, row::hex32};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use wire::{
    ConnectorId, DeviceId, EnrolmentKeyId, GroupId, IdError, InstallationId, OrganizationId, PolicyId, PopId,
    ResourceId, ServiceAccountId, SiteId, TokenId, UserId,
};

/// Orders the states of one organization: a restore raises the incarnation, a change the version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// Raised when a database is restored from a copy.
    pub incarnation: u64,
    /// Raised by each configuration change.
    pub version: u64,
}

/// The one row about the whole installation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installation {
    /// Its id.
    pub id: InstallationId,
    /// Raised by each change of installation-wide objects.
    pub version: Version,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Organization {
    /// Its id.
    pub id: OrganizationId,
    /// Unique in the installation.
    pub name: String,
    /// The state of its configuration.
    pub version: Version,
    /// Hard life of a grant, in milliseconds (1 to 72 h).
    pub grant_life_ms: u64,
    /// When a device renews its grant, in milliseconds after it was issued, before jitter.
    pub renew_after_ms: u64,
    /// The newest version whose change was allowed to remove much at once; 0: none was.
    #[serde(default)]
    pub shrink_version: u64,
    /// Until when grants live that were issued before their life was made shorter (Unix milliseconds).
    #[serde(default)]
    pub old_grants_end_ms: u64,
    /// Each new device waits until somebody approves it.
    #[serde(default)]
    pub approve_devices: bool,
    /// For how many days audit entries are kept; 0: for ever.
    #[serde(default)]
    pub audit_retention_days: u64,
    /// For how many days flow records are kept; 0: as long as there is room.
    #[serde(default)]
    pub flow_retention_days: u64,
    /// How long a person's sign-in counts as fresh for what asks for one, in milliseconds.
    #[serde(default = "sign_in_age_ms")]
    pub sign_in_age_ms: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
    /// When it was closed, in Unix milliseconds; 0: it is in use. Nothing belongs to a closed one but its audit log.
    #[serde(default)]
    pub closed_ms: u64,
}

/// As migration 0050 has it: what was written before says nothing of it.
const fn sign_in_age_ms() -> u64 {
    Organization::SIGN_IN_AGE_MS
}

impl Organization {
    /// How long a sign-in counts as fresh where nobody has set it: a quarter of an hour.
    pub const SIGN_IN_AGE_MS: u64 = 15 * 60 * 1000;

    /// Whether it was closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed_ms > 0
    }
}

/// A point of presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pop {
    /// Its id.
    pub id: PopId,
    /// Unique in the installation.
    pub name: String,
    /// Set by the administrator with the key.
    pub region: String,
    /// Set by the administrator with the key.
    pub zone: String,
    /// `HOST:PORT` that agents and controllers dial.
    pub address: String,
    /// Ed25519 public key.
    #[serde(with = "hex32")]
    pub identity_key: [u8; 32],
    /// Struck by a revocation of this or a higher generation.
    pub generation: u64,
    /// The key it enrolled with.
    pub enrolled_by: EnrolmentKeyId,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A private network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// CIDR prefixes that names of the site may resolve to.
    pub prefixes: Vec<String>,
    /// Regions in order of preference.
    pub regions: Vec<String>,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// An agent in a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connector {
    /// Its id.
    pub id: ConnectorId,
    /// Its site.
    pub site: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// Ed25519 public key.
    #[serde(with = "hex32")]
    pub identity_key: [u8; 32],
    /// X25519 public key of its tunnels.
    #[serde(with = "hex32")]
    pub wireguard_key: [u8; 32],
    /// X25519 public key that introductions are sealed to.
    #[serde(with = "hex32")]
    pub seal_key: [u8; 32],
    /// Struck by a revocation of this or a higher generation.
    pub generation: u64,
    /// The key it enrolled with.
    pub enrolled_by: EnrolmentKeyId,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A protocol that resources have ports of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortProtocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// ICMP echo, without ports.
    Icmp,
}

/// Ports from `first` to `last` of a protocol, both included; 0 to 0 where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "StoredPorts", from = "StoredPorts")]
pub struct Ports {
    /// Whose.
    pub protocol: PortProtocol,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl Ports {
    /// Ports of TCP.
    #[must_use]
    pub const fn tcp(first: u16, last: u16) -> Self {
        Self { protocol: PortProtocol::Tcp, first, last }
    }
}

/// As they are written. TCP's are written as they were when there was nothing else; a version that knows nothing else
/// finds no `first` in the others and refuses them, where it would take `udp/53` for TCP's 53 otherwise.
#[derive(Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum StoredPorts {
    Tcp { first: u16, last: u16 },
    Of { protocol: PortProtocol, range: (u16, u16) },
}

impl From<Ports> for StoredPorts {
    fn from(ports: Ports) -> Self {
        let Ports { protocol, first, last } = ports;
        match protocol {
            PortProtocol::Tcp => Self::Tcp { first, last },
            PortProtocol::Udp | PortProtocol::Icmp => Self::Of { protocol, range: (first, last) },
        }
    }
}

impl From<StoredPorts> for Ports {
    fn from(stored: StoredPorts) -> Self {
        match stored {
            StoredPorts::Tcp { first, last } => Self::tcp(first, last),
            StoredPorts::Of { protocol, range: (first, last) } => Self { protocol, first, last },
        }
    }
}

/// What happens to a resource when its connector is isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResourceMode {
    /// Goes on until the grant's hard expiry.
    Standard,
    /// Closes.
    Strict,
}

/// Something that policies give access to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Its site.
    pub site: SiteId,
    /// Unique in the organization.
    pub name: String,
    /// A short name for people, unique in the organization.
    pub alias: Option<String>,
    /// Host name, wildcard, IP address or CIDR prefix; parsed by the policy crate.
    pub address: String,
    /// Protocols and their ports.
    pub ports: Vec<Ports>,
    /// What isolation does.
    pub mode: ResourceMode,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A set of users and service accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Unique in the organization.
    pub name: String,
    /// Unix milliseconds.
    pub created_ms: u64,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident: $what:literal, $default:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self::$default
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word,)* })
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    other => Err(format!(concat!("expected ", $what, ", got {:?}"), other)),
                }
            }
        }
    };
}

words! {
    /// What a person may do in an organization, besides reaching resources.
    Role: "a role", Member {
        /// Everything.
        Owner = "owner",
        /// Everything but owners.
        Admin = "admin",
        /// Sites, connectors, resources, groups, policies.
        NetworkAdmin = "network_admin",
        /// Devices.
        Support = "support",
        /// Reads.
        Auditor = "auditor",
        /// Nothing.
        Member = "member",
    }
}

words! {
    /// Whether a device may have access.
    DeviceState: "pending, active, blocked or archived", Active {
        /// It waits for approval.
        Pending = "pending",
        /// It may.
        Active = "active",
        /// It was struck, and is kept.
        Blocked = "blocked",
        /// It was struck, and is kept for the record.
        Archived = "archived",
    }
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// For people.
    pub name: String,
    /// Unique in the organization.
    pub email: String,
    /// What they may do.
    #[serde(default)]
    pub role: Role,
    /// Struck by a revocation of this or a higher generation.
    pub generation: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A headless subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// Its id.
    pub id: ServiceAccountId,
    /// Unique in the organization.
    pub name: String,
    /// Struck by a revocation of this or a higher generation.
    pub generation: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// Who owns a device and may be in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A person.
    User(UserId),
    /// A headless subject.
    ServiceAccount(ServiceAccountId),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => id.fmt(f),
            Self::ServiceAccount(id) => id.fmt(f),
        }
    }
}

impl FromStr for Member {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.starts_with("svc-") {
            text.parse().map(Self::ServiceAccount)
        } else {
            text.parse().map(Self::User)
        }
    }
}

impl Serialize for Member {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One member of one group, with the generation of this stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: Member,
    /// Raised each time the member joins again.
    pub generation: u64,
}

/// An enrolled machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// Whose it is.
    pub owner: Member,
    /// For people.
    pub name: String,
    /// Whether it may have access.
    #[serde(default)]
    pub state: DeviceState,
    /// Ed25519 public key.
    #[serde(with = "hex32")]
    pub identity_key: [u8; 32],
    /// Struck by a revocation of this or a higher generation.
    pub generation: u64,
    /// The key it enrolled with.
    pub enrolled_by: EnrolmentKeyId,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// These groups reach these resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its id.
    pub id: PolicyId,
    /// Unique in the organization.
    pub name: String,
    /// Who.
    pub groups: Vec<GroupId>,
    /// What.
    pub resources: Vec<ResourceId>,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// What an enrolment key makes, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum EnrolmentTarget {
    /// A PoP of the installation.
    Pop {
        /// Its region.
        region: String,
        /// Its zone.
        zone: String,
    },
    /// A connector of a site.
    Connector {
        /// The site.
        site: SiteId,
    },
    /// A device of a user or service account.
    Device {
        /// Whose it will be.
        owner: Member,
    },
}

impl EnrolmentTarget {
    /// `pop`, `connector` or `device`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Pop { .. } => "pop",
            Self::Connector { .. } => "connector",
            Self::Device { .. } => "device",
        }
    }
}

/// An enrolment key or one-time link. The secret itself is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentKey {
    /// Its id.
    pub id: EnrolmentKeyId,
    /// None for keys of the installation.
    pub organization: Option<OrganizationId>,
    /// For people.
    pub name: String,
    /// What it makes.
    pub target: EnrolmentTarget,
    /// Somebody approves each device that it makes.
    #[serde(default)]
    pub approval: bool,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// How often it can be used.
    pub cap: u64,
    /// How often it was used.
    pub uses: u64,
    /// Unix milliseconds.
    pub expires_ms: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// An API token. The secret itself is stored nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: TokenId,
    /// Unique in the organization.
    pub name: String,
    /// What it may do, by name.
    pub scopes: Vec<String>,
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// Unix milliseconds.
    pub expires_ms: u64,
    /// Unix milliseconds.
    pub created_ms: u64,
}

/// A person who administers the installation by the console.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Administrator {
    /// Its id.
    pub id: UserId,
    /// What the person types at sign-in.
    pub name: String,
    /// PHC string (argon2id).
    pub passphrase_hash: String,
    /// Unix milliseconds.
    pub created_ms: u64,
}

impl fmt::Debug for Administrator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Administrator")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A link that works once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeLink {
    /// SHA-256 of the secret.
    pub secret_hash: SecretHash,
    /// What it opens.
    pub purpose: String,
    /// Unix milliseconds.
    pub expires_ms: u64,
}

/// Everything of one organization, read in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrganizationData {
    /// The row itself, with the version of this state.
    pub organization: Organization,
    /// By id.
    pub sites: Vec<Site>,
    /// By id.
    pub connectors: Vec<Connector>,
    /// By id.
    pub resources: Vec<Resource>,
    /// By id.
    pub groups: Vec<Group>,
    /// By id.
    pub users: Vec<User>,
    /// By id.
    pub service_accounts: Vec<ServiceAccount>,
    /// By group and member; only those present.
    pub memberships: Vec<Membership>,
    /// By id.
    pub devices: Vec<Device>,
    /// By id.
    pub policies: Vec<Policy>,
    /// By id.
    pub tokens: Vec<Token>,
    /// By id.
    pub enrolment_keys: Vec<EnrolmentKey>,
    /// How its people sign in.
    #[serde(default)]
    pub sign_in: crate::SignInData,
}

/// Everything, read in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// The row itself, with the version of this state.
    pub installation: Installation,
    /// By id.
    pub organizations: Vec<OrganizationData>,
    /// By id.
    pub pops: Vec<Pop>,
    /// Keys of the installation, by id.
    pub enrolment_keys: Vec<EnrolmentKey>,
    /// By id.
    pub administrators: Vec<Administrator>,
    /// By hash.
    pub one_time_links: Vec<OneTimeLink>,
}

/// One line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// None for changes of the installation.
    pub organization: Option<OrganizationId>,
    /// The state this change made.
    pub version: Version,
    /// Unix milliseconds.
    pub at_ms: u64,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To which object.
    pub subject: String,
    /// JSON.
    pub detail: String,
    /// Its number in its chain; none from before there was a chain.
    pub seq: Option<u64>,
    /// From which address.
    pub source: String,
    /// By which request.
    pub request: String,
    /// The object before, JSON.
    pub before: Option<String>,
    /// The object after, JSON.
    pub after: Option<String>,
    /// Hexadecimal; empty from before there was a chain.
    pub hash: String,
}
