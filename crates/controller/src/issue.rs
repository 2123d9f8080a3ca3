//! Grants and slices, from memory alone.

use crate::{
    clock,
    gate::Withheld,
    parts::Core,
    signer::{SignError, Signer},
    snapshot::{Snapshot, owner, slice_version},
};
use policy::{
    ClientSlice, ConnectorSlice, OrganizationShare, PopSlice, client_slice, connector_slice, relevant_groups,
};
use std::time::Duration;
use store::{Device, OrganizationData};
use trust::{
    Audience, Grant, Identity, MAX_GRANT_GROUPS, MAX_SLICE_LIFE, Owner, PostureClass, RevocationSet,
    RevokedSubject, Slice, SliceHeader, SliceVersion, UnixMs, VerifyingKey,
};
use wire::{ConnectorId, InstallationId, OrganizationId, PopId};

/// Sessions a PoP takes (performance.md: 28.5 KiB each, 1.5 GB for so many).
const POP_MAX_SESSIONS: u32 = 50_000;
/// Registrations a PoP admits a second: a third of what a core does (performance.md).
const POP_ADMIT_RATE: u32 = 1_000;
/// What each of several organizations may have of a PoP: half of its sessions and introductions, so that no single one
/// has all of it.
const POP_SHARE: OrganizationShare =
    OrganizationShare { max_sessions: POP_MAX_SESSIONS / 2, introductions: POP_ADMIT_RATE / 2 };
/// Slices issued this long before now are still young: clocks of agents that are behind.
const BACKDATED: Duration = Duration::from_secs(5);

/// Nothing was issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssueError {
    /// Not signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Not yet.
    #[error(transparent)]
    Withheld(#[from] Withheld),
    /// Struck.
    #[error("access of this subject was revoked")]
    Struck,
    /// A device that nobody has approved yet.
    #[error("this device waits for approval")]
    Waiting,
    /// Not in the snapshot.
    #[error("the snapshot has no such subject")]
    Unknown,
    /// Too many groups.
    #[error("the owner is in {0} groups that policies name; a grant carries at most {MAX_GRANT_GROUPS}")]
    Groups(usize),
}

/// What issuing reads.
#[derive(Clone, Copy)]
pub(crate) struct Issuer<'a> {
    core: &'a Core,
    signer: &'a Signer,
    snapshot: &'a Snapshot,
    revocations: &'a RevocationSet,
}

impl<'a> Issuer<'a> {
    /// Issues from one state of everything.
    pub(crate) const fn new(core: &'a Core, snapshot: &'a Snapshot, revocations: &'a RevocationSet) -> Self {
        Self { core, signer: &core.signer, snapshot, revocations }
    }

    /// Nothing leaves this type before the gate is open, and nothing for a struck generation.
    fn may(&self, subject: RevokedSubject, generation: u64) -> Result<(), IssueError> {
        self.core.may_issue(self.snapshot, self.revocations)?;
        if self.revocations.is_struck(subject, generation) { Err(IssueError::Struck) } else { Ok(()) }
    }

    /// A certificate of 30 days for an agent.
    pub(crate) fn certificate(
        &self,
        identity: Identity,
        key: VerifyingKey,
        generation: u64,
    ) -> Result<Vec<u8>, IssueError> {
        self.may(RevokedSubject::of(identity.subject()), generation)?;
        Ok(self.signer.certificate(identity, key, generation)?)
    }

    fn installation(&self) -> InstallationId {
        self.snapshot.dataset.installation.id
    }

    /// The device's owner with the owner's generation and name, none of it struck.
    fn living_owner(
        &self,
        data: &OrganizationData,
        device: &Device,
    ) -> Result<(Owner, u64, String), IssueError> {
        let owner = owner(device.owner);
        if device.state == store::DeviceState::Pending {
            return Err(IssueError::Waiting);
        }
        let (generation, name) = match owner {
            Owner::User(id) => data.users.iter().find(|user| user.id == id).map(|u| (u.generation, &u.name)),
            Owner::ServiceAccount(id) => {
                data.service_accounts.iter().find(|account| account.id == id).map(|a| (a.generation, &a.name))
            }
        }
        .ok_or(IssueError::Unknown)?;
        let struck = |subject, generation| self.revocations.is_struck(subject, generation);
        if struck(RevokedSubject::Device(device.id), device.generation)
            || struck(RevokedSubject::owner(owner), generation)
        {
            return Err(IssueError::Struck);
        }
        Ok((owner, generation, name.clone()))
    }

    /// The grant of a device.
    pub(crate) fn grant(&self, data: &OrganizationData, device: &Device) -> Result<String, IssueError> {
        self.may(RevokedSubject::Device(device.id), device.generation)?;
        let (owner, owner_generation, owner_name) = self.living_owner(data, device)?;
        let model = self.snapshot.models.get(&data.organization.id).ok_or(IssueError::Unknown)?;
        let mut groups = relevant_groups(model, owner);
        groups.retain(|group| {
            !self.revocations.is_struck(RevokedSubject::membership(owner, group.id), group.generation)
        });
        groups.sort();
        if groups.len() > MAX_GRANT_GROUPS {
            return Err(IssueError::Groups(groups.len()));
        }
        let now = self.signer.signing_time().map_err(SignError::from)?;
        let grant = Grant {
            installation: self.installation(),
            organization: data.organization.id,
            device: device.id,
            device_generation: device.generation,
            owner,
            owner_generation,
            device_name: device.name.clone(),
            owner_name,
            groups,
            posture: PostureClass::Unknown,
            key: VerifyingKey::from_bytes(device.identity_key),
            iat: now,
            nbf: now,
            exp: now.plus(Duration::from_millis(data.organization.grant_life_ms)),
            renew_after_ms: jittered(data.organization.renew_after_ms, clock::random()),
            ext: None,
        };
        Ok(self.signer.grant(&grant)?)
    }

    fn header(
        &self,
        organization: Option<OrganizationId>,
        audience: Audience,
    ) -> Result<SliceHeader, IssueError> {
        let now = self.signer.signing_time().map_err(SignError::from)?;
        let iat = now.minus(BACKDATED);
        Ok(SliceHeader {
            installation: self.installation(),
            organization,
            audience,
            version: self.version(organization).ok_or(IssueError::Unknown)?,
            iat,
            exp: iat.plus(MAX_SLICE_LIFE),
        })
    }

    /// The newest version of an organization's slices; of PoPs' slices for none.
    pub(crate) fn version(&self, organization: Option<OrganizationId>) -> Option<SliceVersion> {
        match organization {
            None => Some(slice_version(self.snapshot.dataset.installation.version)),
            Some(id) => self.snapshot.organization(id).map(|data| slice_version(data.organization.version)),
        }
    }

    /// The slice of a device's client.
    pub(crate) fn client(&self, data: &OrganizationData, device: &Device) -> Result<String, IssueError> {
        self.may(RevokedSubject::Device(device.id), device.generation)?;
        let body = self.client_body(data, device)?;
        let header = self.header(Some(data.organization.id), Audience::Device(device.id))?;
        Ok(self.signer.sign(&Slice { header, body, ext: None })?)
    }

    /// What a client may reach.
    pub(crate) fn client_body(
        &self,
        data: &OrganizationData,
        device: &Device,
    ) -> Result<ClientSlice, IssueError> {
        let (owner, ..) = self.living_owner(data, device)?;
        let model = self.snapshot.models.get(&data.organization.id).ok_or(IssueError::Unknown)?;
        let mut model = model.clone();
        // A struck membership is over at once, whatever the database still says.
        model.memberships.retain(|membership| {
            !self.revocations.is_struck(
                RevokedSubject::membership(membership.member, membership.group),
                membership.generation,
            )
        });
        Ok(client_slice(&model, owner, &self.snapshot.pops(self.revocations)))
    }

    /// The slice of a connector.
    pub(crate) fn connector(&self, data: &OrganizationData, id: ConnectorId) -> Result<String, IssueError> {
        let row = data.connectors.iter().find(|row| row.id == id).ok_or(IssueError::Unknown)?;
        self.may(RevokedSubject::Connector(id), row.generation)?;
        let model = self.snapshot.models.get(&data.organization.id).ok_or(IssueError::Unknown)?;
        let body: ConnectorSlice =
            connector_slice(model, id, &self.snapshot.pops(self.revocations)).ok_or(IssueError::Unknown)?;
        let header = self.header(Some(data.organization.id), Audience::Connector(id))?;
        Ok(self.signer.sign(&Slice { header, body, ext: None })?)
    }

    /// The slice of a PoP.
    pub(crate) fn pop(&self, id: PopId) -> Result<String, IssueError> {
        let row = self.snapshot.dataset.pops.iter().find(|row| row.id == id).ok_or(IssueError::Unknown)?;
        self.may(RevokedSubject::Pop(id), row.generation)?;
        let body = PopSlice {
            root: self.signer.root(),
            max_sessions: POP_MAX_SESSIONS,
            admit_rate: POP_ADMIT_RATE,
            pops: u32::try_from(self.snapshot.pops(self.revocations).len()).unwrap_or(u32::MAX),
            organization: (self.snapshot.open_organizations() > 1).then_some(POP_SHARE),
        };
        let header = self.header(None, Audience::Pop(id))?;
        Ok(self.signer.sign(&Slice { header, body, ext: None })?)
    }
}

/// ± 25 % (architecture: 4 h ± 25 %), so that devices that were enrolled together drift apart.
fn jittered(renew_after_ms: u64, random: [u8; 2]) -> u64 {
    let spread = renew_after_ms / 2;
    renew_after_ms - spread / 2 + spread * u64::from(u16::from_be_bytes(random)) / u64::from(u16::MAX)
}

/// A shorter reading for people: "until when would access last if this controller stopped now".
pub(crate) fn grants_end(data: &OrganizationData, now: UnixMs) -> UnixMs {
    now.plus(Duration::from_millis(data.organization.grant_life_ms))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_renewal_is_spread_by_a_quarter_each_way() {
        let four_hours = 4 * 3_600_000;
        assert_eq!(super::jittered(four_hours, [0; 2]), 3 * 3_600_000);
        assert_eq!(super::jittered(four_hours, [0xFF; 2]), 5 * 3_600_000);
    }
}
