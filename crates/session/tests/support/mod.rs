//! A small installation for tests: a root, keys of each role, certificates, signed documents.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{collections::BTreeMap, time::Duration};
use trust::{
    BundleKey, BundleStatement, CertificateRequest, Document, Identity, KeyRole, OpenKey, Role, RootHash,
    RotationStatement, SigningKey, TrustBundle, TrustChain, UnixMs, issue_certificate, sign_document,
};
use wire::{ConnectorId, ControllerId, DeviceId, InstallationId, OrganizationId, PopId};

pub const DAY: Duration = Duration::from_secs(24 * 3600);
/// 2026-11-21.
pub const WALL: UnixMs = UnixMs::from_millis(1_795_219_200_000);
pub const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([7; 16]);
pub const CONTROLLER: ControllerId = ControllerId::from_bytes([9; 16]);

pub struct Installation {
    pub id: InstallationId,
    root: SigningKey,
    rotation: SigningKey,
    keys: BTreeMap<KeyRole, SigningKey>,
    pub seal: OpenKey,
    pub chain: TrustChain,
    pub bundle: TrustBundle,
}

impl Installation {
    /// Installations of different numbers share nothing.
    pub fn new(number: u8) -> Self {
        let id = InstallationId::from_bytes([number; 16]);
        let root = SigningKey::from_seed(&[number; 32]);
        let rotation = SigningKey::from_seed(&[number + 100; 32]);
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .zip(0_u8..)
            .map(|(role, byte)| {
                let mut seed = [byte; 32];
                seed[0] = number;
                (role, SigningKey::from_seed(&seed))
            })
            .collect();
        let seal = OpenKey::generate();
        let rotation_statement = RotationStatement {
            installation: id,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: WALL.minus(DAY * 20),
            exp: WALL.plus(DAY * 300),
        };
        let statement = statement(id, 1, &keys, &seal);
        let chain = TrustChain::sign(&root, &rotation, &rotation_statement, &statement).expect("a chain");
        let bundle = chain.verify(&RootHash::of(&root.verifying_key()), WALL).expect("own chain");
        Self { id, root, rotation, keys, seal, chain, bundle }
    }

    pub fn root_hash(&self) -> RootHash {
        RootHash::of(&self.root.verifying_key())
    }

    pub fn chain_with_serial(&self, serial: u64) -> TrustChain {
        let statement = statement(self.id, serial, &self.keys, &self.seal);
        self.chain.with_bundle(&self.rotation, &statement).expect("a bundle")
    }

    /// Another key takes the place of a role's: the next chain, and what this installation signs from now on.
    pub fn replace_key(&mut self, role: KeyRole, serial: u64) -> TrustChain {
        let seed = [u8::try_from(serial).expect("small"); 32];
        self.keys.insert(role, SigningKey::from_seed(&seed));
        self.chain = self.chain_with_serial(serial);
        self.bundle = self.chain.verify(&self.root_hash(), WALL).expect("own chain");
        self.chain.clone()
    }

    /// The chain that the root's successor begins.
    pub fn succeeded(&self) -> TrustChain {
        let next = SigningKey::from_seed(&[222; 32]);
        let statement = self.rotation_statement(&next, 2);
        self.chain.with_successor(&self.root, &next, &statement, WALL).expect("a chain")
    }

    /// What the root could still sign by itself.
    pub fn later_chain_of_the_root(&self) -> TrustChain {
        let keys = statement(self.id, 99, &self.keys, &self.seal);
        TrustChain::sign(&self.root, &self.rotation, &self.rotation_statement(&self.root, 99), &keys)
            .expect("a chain")
    }

    fn rotation_statement(&self, root: &SigningKey, epoch: u64) -> RotationStatement {
        RotationStatement {
            installation: self.id,
            root: root.verifying_key(),
            rotation: self.rotation.verifying_key(),
            epoch,
            nbf: WALL.minus(DAY * 20),
            exp: WALL.plus(DAY * 300),
        }
    }

    pub fn device(&self, byte: u8) -> Identity {
        Identity::device(self.id, ORGANIZATION, DeviceId::from_bytes([byte; 16]))
    }

    pub fn connector(&self, byte: u8) -> Identity {
        Identity::connector(self.id, ORGANIZATION, ConnectorId::from_bytes([byte; 16]))
    }

    pub fn pop(&self, byte: u8) -> Identity {
        Identity::pop(self.id, PopId::from_bytes([byte; 16]))
    }

    pub fn controller(&self) -> Identity {
        Identity::controller(self.id, CONTROLLER)
    }

    pub fn certificate(&self, identity: Identity, key: &SigningKey) -> Vec<u8> {
        self.certificate_between(identity, key, WALL.minus(Duration::from_secs(600)), WALL.plus(DAY * 29))
    }

    pub fn certificate_between(
        &self,
        identity: Identity,
        key: &SigningKey,
        not_before: UnixMs,
        not_after: UnixMs,
    ) -> Vec<u8> {
        let role = match identity.role() {
            Role::Device => KeyRole::DeviceIssuer,
            Role::Connector => KeyRole::ConnectorIssuer,
            Role::Pop => KeyRole::PopIssuer,
            Role::Controller => KeyRole::ControllerIssuer,
        };
        let public_key = key.verifying_key();
        let request = CertificateRequest {
            identity,
            public_key,
            generation: 1,
            not_before,
            not_after,
            serial_random: [3; 8],
        };
        issue_certificate(&self.keys[&role], &request).expect("a certificate")
    }

    pub fn sign<D: Document>(&self, document: &D) -> String {
        sign_document(&self.keys[&D::ROLE], document).expect("a signed document")
    }
}

fn statement(
    installation: InstallationId,
    serial: u64,
    keys: &BTreeMap<KeyRole, SigningKey>,
    seal: &OpenKey,
) -> BundleStatement {
    let key = |role, public: &[u8; 32]| BundleKey {
        role,
        owner: CONTROLLER,
        public: public.to_vec(),
        nbf: WALL.minus(DAY * 20),
        exp: WALL.plus(DAY * 60),
    };
    let mut keys: Vec<BundleKey> =
        keys.iter().map(|(role, signing)| key(*role, signing.verifying_key().as_bytes())).collect();
    keys.push(key(KeyRole::ControlSeal, seal.seal_key().as_bytes()));
    BundleStatement { installation, serial, iat: WALL, keys }
}
