//! An installation made on the spot: what a controller would have signed.

use crate::wall;
use anyhow::{Context as _, Result};
use session::LocalIdentity;
use state::names;
use std::{collections::BTreeMap, path::Path, time::Duration};
use trust::{
    BundleKey, BundleStatement, CertificateRequest, Identity, KeyRole, OpenKey, Role, RootHash,
    RotationStatement, SigningKey, TrustBundle, TrustChain, UnixMs, issue_certificate,
};
use wire::{ConnectorId, ControllerId, DeviceId, InstallationId, OrganizationId, PopId};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CONTROLLER: ControllerId = ControllerId::from_bytes([9; 16]);
const POP: PopId = PopId::from_bytes([8; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([7; 16]);

/// Which kind of agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentKind {
    /// Devices.
    Devices,
    /// Connectors.
    Connectors,
}

/// Identities of some agents.
pub struct Agents {
    /// What each shows.
    pub identities: Vec<LocalIdentity>,
    /// Of connectors: how they are named in an `Open`.
    pub connectors: Vec<ConnectorId>,
}

/// Keys of each role, the chain over them.
pub struct Installation {
    id: InstallationId,
    wall: UnixMs,
    root: RootHash,
    keys: BTreeMap<KeyRole, SigningKey>,
    chain: String,
    bundle: TrustBundle,
}

impl Installation {
    /// A new one.
    ///
    /// # Errors
    /// The chain does not verify.
    pub fn new() -> Result<Self> {
        let wall = wall();
        let id = InstallationId::from_bytes([1; 16]);
        let (root, rotation) = (SigningKey::generate(), SigningKey::generate());
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .map(|role| (role, SigningKey::generate()))
            .collect();
        let rotation_statement = RotationStatement {
            installation: id,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: wall.minus(DAY),
            exp: wall.plus(DAY * 300),
        };
        let key = |role, public| BundleKey {
            role,
            owner: CONTROLLER,
            public,
            nbf: wall.minus(DAY),
            exp: wall.plus(DAY * 60),
        };
        let mut all: Vec<BundleKey> = keys
            .iter()
            .map(|(role, signing)| key(*role, signing.verifying_key().as_bytes().to_vec()))
            .collect();
        all.push(key(KeyRole::ControlSeal, OpenKey::generate().seal_key().as_bytes().to_vec()));
        let statement = BundleStatement { installation: id, serial: 1, iat: wall, keys: all };
        let chain = TrustChain::sign(&root, &rotation, &rotation_statement, &statement)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let hash = RootHash::of(&root.verifying_key());
        let bundle = chain.verify(&hash, wall).context("the chain made here")?;
        Ok(Self { id, wall, root: hash, keys, chain: chain.to_text(), bundle })
    }

    /// The bundle that its agents believe.
    #[must_use]
    pub fn bundle(&self) -> TrustBundle {
        self.bundle.clone()
    }

    /// The PoP.
    #[must_use]
    pub const fn pop(&self) -> PopId {
        POP
    }

    fn certificate(&self, identity: Identity, key: &SigningKey) -> Result<Vec<u8>> {
        let role = match identity.role() {
            Role::Device => KeyRole::DeviceIssuer,
            Role::Connector => KeyRole::ConnectorIssuer,
            Role::Pop => KeyRole::PopIssuer,
            Role::Controller => KeyRole::ControllerIssuer,
        };
        let request = CertificateRequest {
            identity,
            public_key: key.verifying_key(),
            generation: 1,
            not_before: self.wall.minus(Duration::from_secs(600)),
            not_after: self.wall.plus(DAY * 29),
            serial_random: [5; 8],
        };
        let issuer = self.keys.get(&role).context("a key of each role")?;
        issue_certificate(issuer, &request).map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    /// What enrolment leaves behind for the PoP.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_pop_state(&self, path: &Path) -> Result<()> {
        let about = state::About::new(self.id, Role::Pop, self.root);
        let directory = state::StateDir::create(path, &about)?;
        let key = SigningKey::generate();
        directory.write_secret(names::IDENTITY_KEY, key.expose_seed())?;
        directory.write(names::CERTIFICATE, &self.certificate(Identity::pop(self.id, POP), &key)?)?;
        directory.write(names::CHAIN, self.chain.as_bytes())?;
        Ok(())
    }

    /// New agents.
    ///
    /// # Errors
    /// A certificate cannot be made.
    pub fn agents(&self, kind: AgentKind, count: usize) -> Result<Agents> {
        let mut agents = Agents { identities: Vec::with_capacity(count), connectors: Vec::new() };
        for number in 1..=count {
            let mut bytes = [0; 16];
            bytes[8..].copy_from_slice(&u64::try_from(number)?.to_be_bytes());
            let identity = match kind {
                AgentKind::Devices => Identity::device(self.id, ORGANIZATION, DeviceId::from_bytes(bytes)),
                AgentKind::Connectors => {
                    let connector = ConnectorId::from_bytes(bytes);
                    agents.connectors.push(connector);
                    Identity::connector(self.id, ORGANIZATION, connector)
                }
            };
            let key = SigningKey::generate();
            let local = LocalIdentity::new(&self.certificate(identity, &key)?, &key)?;
            agents.identities.push(local);
        }
        Ok(agents)
    }
}
