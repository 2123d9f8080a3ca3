//! Revocation: state, not time. An entry strikes generations of a subject; the set is the union.

use crate::{
    bundle::KeyRole, document::Document, encoding, grant::Grant, grant::Owner, identity::Subject,
    time::UnixMs,
};
use std::{collections::BTreeMap, fmt, str::FromStr};
use wire::{
    ConnectorId, ControllerId, DeviceId, GroupId, InstallationId, PopId, ServiceAccountId, TokenId, UserId,
};

/// What a strike can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevokedSubject {
    /// A device.
    Device(DeviceId),
    /// A person, on every device.
    User(UserId),
    /// A service account, on every device.
    ServiceAccount(ServiceAccountId),
    /// A connector.
    Connector(ConnectorId),
    /// A PoP.
    Pop(PopId),
    /// A controller.
    Controller(ControllerId),
    /// An API token.
    Token(TokenId),
    /// A person's membership in a group.
    UserInGroup(UserId, GroupId),
    /// A service account's membership in a group.
    ServiceAccountInGroup(ServiceAccountId, GroupId),
}

impl RevokedSubject {
    /// The whole subject of a certificate.
    #[must_use]
    pub const fn of(subject: Subject) -> Self {
        match subject {
            Subject::Device(id) => Self::Device(id),
            Subject::Connector(id) => Self::Connector(id),
            Subject::Pop(id) => Self::Pop(id),
            Subject::Controller(id) => Self::Controller(id),
        }
    }

    /// The owner of a device.
    #[must_use]
    pub const fn owner(owner: Owner) -> Self {
        match owner {
            Owner::User(id) => Self::User(id),
            Owner::ServiceAccount(id) => Self::ServiceAccount(id),
        }
    }

    /// An owner's membership.
    #[must_use]
    pub const fn membership(owner: Owner, group: GroupId) -> Self {
        match owner {
            Owner::User(id) => Self::UserInGroup(id, group),
            Owner::ServiceAccount(id) => Self::ServiceAccountInGroup(id, group),
        }
    }
}

impl fmt::Display for RevokedSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => id.fmt(f),
            Self::User(id) => id.fmt(f),
            Self::ServiceAccount(id) => id.fmt(f),
            Self::Connector(id) => id.fmt(f),
            Self::Pop(id) => id.fmt(f),
            Self::Controller(id) => id.fmt(f),
            Self::Token(id) => id.fmt(f),
            Self::UserInGroup(id, group) => write!(f, "{id}/{group}"),
            Self::ServiceAccountInGroup(id, group) => write!(f, "{id}/{group}"),
        }
    }
}

/// The text names nothing that can be struck.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected the id of a device, user, service account, connector, PoP, controller or token, or a member and a group as \"usr-…/grp-…\"; got {0:?}"
)]
pub struct RevokedSubjectError(String);

impl FromStr for RevokedSubject {
    type Err = RevokedSubjectError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || RevokedSubjectError(text.chars().take(80).collect());
        if let Some((member, group)) = text.split_once('/') {
            let group: GroupId = group.parse().map_err(|_| error())?;
            return match member.split_once('-') {
                Some((UserId::PREFIX, _)) => {
                    member.parse().map(|id| Self::UserInGroup(id, group)).map_err(|_| error())
                }
                Some((ServiceAccountId::PREFIX, _)) => {
                    member.parse().map(|id| Self::ServiceAccountInGroup(id, group)).map_err(|_| error())
                }
                _ => Err(error()),
            };
        }
        let parsed = match text.split_once('-') {
            Some((DeviceId::PREFIX, _)) => text.parse().map(Self::Device),
            Some((UserId::PREFIX, _)) => text.parse().map(Self::User),
            Some((ServiceAccountId::PREFIX, _)) => text.parse().map(Self::ServiceAccount),
            Some((ConnectorId::PREFIX, _)) => text.parse().map(Self::Connector),
            Some((PopId::PREFIX, _)) => text.parse().map(Self::Pop),
            Some((ControllerId::PREFIX, _)) => text.parse().map(Self::Controller),
            Some((TokenId::PREFIX, _)) => text.parse().map(Self::Token),
            _ => return Err(error()),
        };
        parsed.map_err(|_| error())
    }
}

impl serde::Serialize for RevokedSubject {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for RevokedSubject {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// One link of a signer's chain.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// The installation.
    pub installation: InstallationId,
    /// Which controller strikes.
    pub signer: ControllerId,
    /// Its number in this signer's chain, from 1.
    pub seq: u64,
    /// SHA-256 of the text of the link before; zeros for the first.
    #[serde(with = "encoding::fixed")]
    pub previous: [u8; 32],
    /// When.
    pub at: UnixMs,
    /// What.
    pub subject: RevokedSubject,
    /// This generation and all below it.
    pub generation: u64,
    /// When the last certificate or grant of that generation has expired: until then the entry stays.
    pub keep_until: UnixMs,
    /// Room for later versions; ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ext: Option<serde_json::Value>,
}

impl Document for Revocation {
    const KIND: &'static str = "revocation";
    const ROLE: KeyRole = KeyRole::Beacon;
    const MAX_TEXT: usize = 4096;

    fn installation(&self) -> InstallationId {
        self.installation
    }
    fn not_before(&self) -> UnixMs {
        self.at
    }
    fn expires(&self) -> Option<UnixMs> {
        None
    }
    fn speaker(&self) -> Option<ControllerId> {
        Some(self.signer)
    }
    fn check(&self) -> Result<(), &'static str> {
        if self.seq == 0 {
            return Err("a chain of revocations counts from 1");
        }
        if self.keep_until < self.at {
            return Err("a revocation is kept at least until it is made");
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Struck {
    generation: u64,
    keep_until: UnixMs,
}

/// The union of everything struck. Adding is commutative, associative and idempotent, so nodes that
/// have seen the same entries in any order hold the same set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RevocationSet {
    struck: BTreeMap<RevokedSubject, Struck>,
}

impl RevocationSet {
    /// Nothing struck.
    #[must_use]
    pub const fn new() -> Self {
        Self { struck: BTreeMap::new() }
    }

    /// Adds an entry. Says whether the set struck less before.
    pub fn insert(&mut self, entry: &Revocation) -> Changed {
        let Revocation { subject, generation, keep_until, .. } = *entry;
        match self.struck.get_mut(&subject) {
            None => {
                self.struck.insert(subject, Struck { generation, keep_until });
                Changed::Yes
            }
            Some(held) => {
                held.keep_until = held.keep_until.max(keep_until);
                if generation > held.generation {
                    held.generation = generation;
                    Changed::Yes
                } else {
                    Changed::No
                }
            }
        }
    }

    /// Adds everything another set strikes.
    pub fn union(&mut self, other: &Self) -> Changed {
        let mut changed = Changed::No;
        for (subject, struck) in &other.struck {
            let held = self.struck.entry(*subject).or_insert_with(|| {
                changed = Changed::Yes;
                *struck
            });
            held.keep_until = held.keep_until.max(struck.keep_until);
            if struck.generation > held.generation {
                held.generation = struck.generation;
                changed = Changed::Yes;
            }
        }
        changed
    }

    /// Whether this generation of a subject is struck.
    #[must_use]
    pub fn is_struck(&self, subject: RevokedSubject, generation: u64) -> bool {
        self.struck.get(&subject).is_some_and(|struck| generation <= struck.generation)
    }

    /// Whether a grant's device or owner is struck. Memberships are another question:
    /// [`Self::is_struck`] with [`RevokedSubject::membership`] for each group.
    #[must_use]
    pub fn strikes_grant(&self, grant: &Grant) -> bool {
        self.is_struck(RevokedSubject::Device(grant.device), grant.device_generation)
            || self.is_struck(RevokedSubject::owner(grant.owner), grant.owner_generation)
    }

    /// The highest struck generation of a subject.
    #[must_use]
    pub fn struck_generation(&self, subject: RevokedSubject) -> Option<u64> {
        self.struck.get(&subject).map(|struck| struck.generation)
    }

    /// Drops what no living certificate or grant can need any more.
    pub fn forget_before(&mut self, wall: UnixMs) {
        self.struck.retain(|_, struck| struck.keep_until > wall);
    }

    /// How many subjects are struck.
    #[must_use]
    pub fn len(&self) -> usize {
        self.struck.len()
    }

    /// Whether nothing is struck.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.struck.is_empty()
    }

    /// Everything struck, in order.
    pub fn iter(&self) -> impl Iterator<Item = (RevokedSubject, u64)> {
        self.struck.iter().map(|(subject, struck)| (*subject, struck.generation))
    }
}

/// Whether a union changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// More is struck than before.
    Yes,
    /// The same is struck as before.
    No,
}
