//! The one name a certificate carries: `tidegate://installation/organization/role/id`.

use std::{fmt, str::FromStr};
use wire::{ConnectorId, ControllerId, DeviceId, InstallationId, OrganizationId, PopId};

/// What kind of party holds a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person's or service account's machine.
    Device,
    /// An agent in a site.
    Connector,
    /// A point of presence.
    Pop,
    /// A controller.
    Controller,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Device, Self::Connector, Self::Pop, Self::Controller];

    /// The word in the URI.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Connector => "connector",
            Self::Pop => "pop",
            Self::Controller => "controller",
        }
    }
}

/// Whose key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A device.
    Device(DeviceId),
    /// A connector.
    Connector(ConnectorId),
    /// A PoP.
    Pop(PopId),
    /// A controller.
    Controller(ControllerId),
}

impl Subject {
    /// The role this subject has.
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Self::Device(_) => Role::Device,
            Self::Connector(_) => Role::Connector,
            Self::Pop(_) => Role::Pop,
            Self::Controller(_) => Role::Controller,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => id.fmt(f),
            Self::Connector(id) => id.fmt(f),
            Self::Pop(id) => id.fmt(f),
            Self::Controller(id) => id.fmt(f),
        }
    }
}

/// A full name. Devices and connectors belong to an organization; PoPs and controllers serve the
/// installation and have none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    installation: InstallationId,
    organization: Option<OrganizationId>,
    subject: Subject,
}

/// Why a text is not an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected tidegate://installation/organization/role/id, got {got:?}: {problem}")]
pub struct IdentityError {
    got: String,
    problem: &'static str,
}

impl Identity {
    /// A device of an organization.
    #[must_use]
    pub const fn device(installation: InstallationId, organization: OrganizationId, id: DeviceId) -> Self {
        Self { installation, organization: Some(organization), subject: Subject::Device(id) }
    }

    /// A connector of an organization.
    #[must_use]
    pub const fn connector(
        installation: InstallationId,
        organization: OrganizationId,
        id: ConnectorId,
    ) -> Self {
        Self { installation, organization: Some(organization), subject: Subject::Connector(id) }
    }

    /// A PoP of the installation.
    #[must_use]
    pub const fn pop(installation: InstallationId, id: PopId) -> Self {
        Self { installation, organization: None, subject: Subject::Pop(id) }
    }

    /// A controller of the installation.
    #[must_use]
    pub const fn controller(installation: InstallationId, id: ControllerId) -> Self {
        Self { installation, organization: None, subject: Subject::Controller(id) }
    }

    /// The installation.
    #[must_use]
    pub const fn installation(&self) -> InstallationId {
        self.installation
    }

    /// The organization; `None` for PoPs and controllers.
    #[must_use]
    pub const fn organization(&self) -> Option<OrganizationId> {
        self.organization
    }

    /// Whose it is.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        self.subject
    }

    /// The role.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.subject.role()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tidegate://{}/", self.installation)?;
        match self.organization {
            Some(organization) => write!(f, "{organization}/")?,
            None => f.write_str("-/")?,
        }
        write!(f, "{}/{}", self.role().word(), self.subject)
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let error = |problem| IdentityError { got: text.chars().take(160).collect(), problem };
        let rest = text.strip_prefix("tidegate://").ok_or_else(|| error("another scheme"))?;
        let parts: Vec<&str> = rest.splitn(5, '/').collect();
        let [installation, organization, role, id] = parts[..] else {
            return Err(error("not four parts"));
        };
        let installation = installation.parse().map_err(|_| error("no installation id"))?;
        let organization = match organization {
            "-" => None,
            text => Some(text.parse().map_err(|_| error("no organization id"))?),
        };
        match (role, organization) {
            ("device", Some(organization)) => {
                let id = id.parse().map_err(|_| error("no device id"))?;
                Ok(Self::device(installation, organization, id))
            }
            ("connector", Some(organization)) => {
                let id = id.parse().map_err(|_| error("no connector id"))?;
                Ok(Self::connector(installation, organization, id))
            }
            ("pop", None) => Ok(Self::pop(installation, id.parse().map_err(|_| error("no PoP id"))?)),
            ("controller", None) => {
                Ok(Self::controller(installation, id.parse().map_err(|_| error("no controller id"))?))
            }
            ("device" | "connector", None) => Err(error("this role belongs to an organization")),
            ("pop" | "controller", Some(_)) => Err(error("this role belongs to no organization")),
            _ => Err(error("unknown role")),
        }
    }
}

impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_survives_its_uri_and_only_with_the_right_organization() {
        let installation = InstallationId::from_bytes([1; 16]);
        let organization = OrganizationId::from_bytes([2; 16]);
        for identity in [
            Identity::device(installation, organization, DeviceId::from_bytes([3; 16])),
            Identity::connector(installation, organization, ConnectorId::from_bytes([3; 16])),
            Identity::pop(installation, PopId::from_bytes([3; 16])),
            Identity::controller(installation, ControllerId::from_bytes([3; 16])),
        ] {
            let text = identity.to_string();
            assert_eq!(text.parse::<Identity>(), Ok(identity));
            let swapped = match identity.organization() {
                Some(organization) => text.replace(&organization.to_string(), "-"),
                None => text.replace("/-/", &format!("/{organization}/")),
            };
            assert!(swapped.parse::<Identity>().is_err(), "{swapped}");
            assert!(format!("{text}/").parse::<Identity>().is_err());
            assert!(text.to_uppercase().parse::<Identity>().is_err());
        }
    }
}
