//! An installation for tests: keys, a trust chain, certificates, documents.

use crate::core::sessions::PopMaterial;
use session::LocalIdentity;
use state::names;
use std::{collections::BTreeMap, time::Duration};
use trust::{
    Audience, Beacon, BundleKey, BundleStatement, CertificateRequest, Document as _, Identity, KeyRole,
    OpenKey, Revocation, RevokedSubject, RootHash, RotationStatement, SigningKey, Slice, SliceHeader,
    SliceVersion, TrustBundle, TrustChain, UnixMs, issue_certificate, sign_document,
};
use wire::{Bounded, ConnectorId, ControllerId, DeviceId, Document, InstallationId, OrganizationId, PopId};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(crate) struct Installation {
    pub(crate) wall: UnixMs,
    root: SigningKey,
    rotation: SigningKey,
    keys: BTreeMap<KeyRole, SigningKey>,
    pub(crate) seal: OpenKey,
    pub(crate) chain: String,
    pub(crate) bundle: TrustBundle,
}

pub(crate) fn organization(byte: u8) -> OrganizationId {
    OrganizationId::from_bytes([byte; 16])
}

pub(crate) fn controller_id() -> ControllerId {
    ControllerId::from_bytes([9; 16])
}

/// Another controller, with a beacon key of its own in the bundle.
pub(crate) fn other_controller_id() -> ControllerId {
    ControllerId::from_bytes([3; 16])
}

fn other_beacon_key() -> SigningKey {
    SigningKey::from_seed(&[90; 32])
}

pub(crate) fn pop_id() -> PopId {
    PopId::from_bytes([8; 16])
}

pub(crate) const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);

pub(crate) fn device(organization_byte: u8, byte: u8) -> Identity {
    Identity::device(INSTALLATION, organization(organization_byte), DeviceId::from_bytes([byte; 16]))
}

pub(crate) fn connector(organization_byte: u8, byte: u8) -> Identity {
    Identity::connector(INSTALLATION, organization(organization_byte), ConnectorId::from_bytes([byte; 16]))
}

pub(crate) fn controller() -> Identity {
    Identity::controller(INSTALLATION, controller_id())
}

impl Installation {
    pub(crate) fn new(wall: UnixMs) -> Self {
        let root = SigningKey::from_seed(&[1; 32]);
        let rotation = SigningKey::from_seed(&[2; 32]);
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .zip(10_u8..)
            .map(|(role, byte)| (role, SigningKey::from_seed(&[byte; 32])))
            .collect();
        let seal = OpenKey::generate();
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: wall.minus(DAY),
            exp: wall.plus(DAY * 300),
        };
        let bundle = statement_of(wall, 1, &keys, &seal);
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("chain");
        let verified = chain.verify(&RootHash::of(&root.verifying_key()), wall).expect("verifies");
        let chain = chain.to_text();
        Self { wall, root, rotation, keys, seal, chain, bundle: verified }
    }

    pub(crate) fn root_hash(&self) -> RootHash {
        RootHash::of(&self.root.verifying_key())
    }

    /// The chain with another bundle.
    pub(crate) fn chain_with_serial(&self, serial: u64) -> String {
        let statement = statement_of(self.wall, serial, &self.keys, &self.seal);
        let chain = TrustChain::parse(&self.chain).expect("own chain");
        chain.with_bundle(&self.rotation, &statement).expect("bundle").to_text()
    }

    /// The chain with a bundle that lacks the key of a role.
    pub(crate) fn chain_without(&self, role: KeyRole, serial: u64) -> String {
        let mut statement = statement_of(self.wall, serial, &self.keys, &self.seal);
        statement.keys.retain(|key| key.role != role);
        let chain = TrustChain::parse(&self.chain).expect("own chain");
        chain.with_bundle(&self.rotation, &statement).expect("bundle").to_text()
    }

    pub(crate) fn certificate(&self, identity: Identity, key: &SigningKey, generation: u64) -> Vec<u8> {
        self.certificate_for(identity, key.verifying_key(), generation)
    }

    pub(crate) fn certificate_for(
        &self,
        identity: Identity,
        public_key: trust::VerifyingKey,
        generation: u64,
    ) -> Vec<u8> {
        let role = match identity.role() {
            trust::Role::Device => KeyRole::DeviceIssuer,
            trust::Role::Connector => KeyRole::ConnectorIssuer,
            trust::Role::Pop => KeyRole::PopIssuer,
            trust::Role::Controller => KeyRole::ControllerIssuer,
        };
        let request = CertificateRequest {
            identity,
            public_key,
            generation,
            not_before: self.wall.minus(Duration::from_secs(600)),
            not_after: self.wall.plus(DAY * 20),
            serial_random: [5; 8],
        };
        issue_certificate(&self.keys[&role], &request).expect("certificate")
    }

    pub(crate) fn local(&self, identity: Identity) -> LocalIdentity {
        let key = SigningKey::generate();
        LocalIdentity::new(&self.certificate(identity, &key, 1), &key).expect("identity")
    }

    pub(crate) fn pop(&self) -> PopMaterial {
        let key = SigningKey::from_seed(&[3; 32]);
        let certificate = self.certificate(Identity::pop(INSTALLATION, pop_id()), &key, 1);
        let chain = self.chain.clone();
        PopMaterial { key, certificate, root: self.root_hash(), chain, revocations: Vec::new() }
    }

    /// What enrolment leaves behind.
    pub(crate) fn write_pop_state(&self, path: &std::path::Path) {
        let about = state::About::new(INSTALLATION, trust::Role::Pop, self.root_hash());
        let directory = state::StateDir::create(path, &about).expect("state directory");
        let material = self.pop();
        directory.write_secret(names::IDENTITY_KEY, material.key.expose_seed()).expect("written");
        directory.write(names::CERTIFICATE, &material.certificate).expect("written");
        directory.write(names::CHAIN, material.chain.as_bytes()).expect("written");
    }

    pub(crate) fn beacon(&self, time: UnixMs) -> Document {
        let beacon = Beacon {
            installation: INSTALLATION,
            controller: controller_id(),
            time,
            versions: BTreeMap::new(),
            heads: BTreeMap::new(),
            nonce: None,
            ext: None,
        };
        document(&sign_document(&self.keys[&KeyRole::Beacon], &beacon).expect("beacon"))
    }

    /// A PoP's slice of this version, for whom and under which key it is told.
    pub(crate) fn pop_slice(
        &self,
        version: u64,
        audience: Audience,
        signer: KeyRole,
        body: policy::PopSlice,
    ) -> String {
        let header = SliceHeader {
            installation: INSTALLATION,
            organization: None,
            audience,
            version: SliceVersion { incarnation: 1, version },
            iat: self.wall,
            exp: self.wall.plus(DAY * 7),
        };
        let key = &self.keys[&signer];
        sign_document(key, &Slice { header, body, ext: None }).expect("slice")
    }

    /// The chain that the root's successor begins.
    pub(crate) fn succeeded(&self) -> String {
        let next = SigningKey::from_seed(&[77; 32]);
        let chain = TrustChain::parse(&self.chain).expect("own chain");
        let statement = self.rotation_statement(&next, 2);
        chain.with_successor(&self.root, &next, &statement, self.wall).expect("signs").to_text()
    }

    /// What the root could still sign by itself.
    pub(crate) fn later_chain_of_the_root(&self) -> String {
        let bundle = statement_of(self.wall, 9, &self.keys, &self.seal);
        let statement = self.rotation_statement(&self.root, 9);
        TrustChain::sign(&self.root, &self.rotation, &statement, &bundle).expect("signs").to_text()
    }

    fn rotation_statement(&self, root: &SigningKey, epoch: u64) -> RotationStatement {
        RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: self.rotation.verifying_key(),
            epoch,
            nbf: self.wall.minus(DAY),
            exp: self.wall.plus(DAY * 300),
        }
    }

    pub(crate) fn strike(&self, subject: RevokedSubject, signer: KeyRole) -> Document {
        self.strike_number(1, subject, signer)
    }

    pub(crate) fn strike_number(&self, seq: u64, subject: RevokedSubject, signer: KeyRole) -> Document {
        let entry = Revocation {
            installation: INSTALLATION,
            signer: controller_id(),
            seq,
            previous: [0; 32],
            at: self.wall,
            subject,
            generation: 1,
            keep_until: self.wall.plus(DAY * 40),
            ext: None,
        };
        assert!(entry.check().is_ok());
        document(&sign_document(&self.keys[&signer], &entry).expect("revocation"))
    }

    /// An entry of either controller's chain, by its own key.
    pub(crate) fn sign_strike(&self, entry: &Revocation) -> Document {
        assert!(entry.check().is_ok());
        let other = other_beacon_key();
        let key = if entry.signer == other_controller_id() { &other } else { &self.keys[&KeyRole::Beacon] };
        document(&sign_document(key, entry).expect("revocation"))
    }
}

fn statement_of(
    wall: UnixMs,
    serial: u64,
    keys: &BTreeMap<KeyRole, SigningKey>,
    seal: &OpenKey,
) -> BundleStatement {
    let key = |role, public| BundleKey {
        role,
        owner: controller_id(),
        public,
        nbf: wall.minus(DAY),
        exp: wall.plus(DAY * 60),
    };
    let mut all: Vec<BundleKey> =
        keys.iter().map(|(role, signing)| key(*role, signing.verifying_key().as_bytes().to_vec())).collect();
    all.push(key(KeyRole::ControlSeal, seal.seal_key().as_bytes().to_vec()));
    let other = other_beacon_key().verifying_key().as_bytes().to_vec();
    all.push(BundleKey { owner: other_controller_id(), ..key(KeyRole::Beacon, other) });
    // Nobody has what opens it: what is sealed to the other controller reaches nobody.
    let lost = OpenKey::generate().seal_key().as_bytes().to_vec();
    all.push(BundleKey { owner: other_controller_id(), ..key(KeyRole::ControlSeal, lost) });
    BundleStatement { installation: INSTALLATION, serial, iat: wall, keys: all }
}

pub(crate) fn document(text: &str) -> Document {
    Bounded::new(text.as_bytes().to_vec()).expect("short")
}
