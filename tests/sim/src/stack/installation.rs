//! The keys of an installation without a controller, and the documents that they sign.

use agent::StoredState;
use policy::{
    Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, Mode, PopEntry,
    PortRange, SliceResource,
};
use pop::PopMaterial;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use trust::{
    Audience, BundleKey, BundleStatement, CertificateRequest, Grant, GroupRef, Identity, KeyRole, OpenKey,
    Owner, PostureClass, RootHash, RotationStatement, SigningKey, Slice, SliceBody, SliceHeader,
    SliceVersion, TrustChain, UnixMs, issue_certificate, sign_document,
};
use wire::{
    ConnectorId, ControllerId, DeviceId, GroupId, InstallationId, OrganizationId, PolicyId, PopId,
    ResourceId, SiteId, UserId,
};

pub(super) const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);
const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
const ORGANIZATION: OrganizationId = OrganizationId::from_bytes([2; 16]);
const CONNECTOR: ConnectorId = ConnectorId::from_bytes([3; 16]);
const POP: PopId = PopId::from_bytes([4; 16]);
const SITE: SiteId = SiteId::from_bytes([5; 16]);
const DEVICE: DeviceId = DeviceId::from_bytes([6; 16]);
const STAFF: GroupId = GroupId::from_bytes([7; 16]);
const RESOURCE: ResourceId = ResourceId::from_bytes([8; 16]);
pub(super) const TARGET: &str = "10.20.0.5:80";
pub(super) const POP_AT: &str = "203.0.113.250:4433";

/// The keys of an installation and what they sign.
pub(super) struct Installation {
    root: RootHash,
    chain: String,
    keys: BTreeMap<KeyRole, SigningKey>,
    pub(super) seal: OpenKey,
    pub(super) wireguard: OpenKey,
}

impl Installation {
    pub(super) fn new() -> Self {
        let (root, rotation) = (SigningKey::from_seed(&[1; 32]), SigningKey::from_seed(&[2; 32]));
        let roles = [
            KeyRole::DeviceIssuer,
            KeyRole::ConnectorIssuer,
            KeyRole::PopIssuer,
            KeyRole::Grant,
            KeyRole::Slice,
            KeyRole::Beacon,
        ];
        let keys: BTreeMap<KeyRole, SigningKey> = roles
            .into_iter()
            .zip(10_u8..)
            .map(|(role, byte)| (role, SigningKey::from_seed(&[byte; 32])))
            .collect();
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: WALL.minus(DAY),
            exp: WALL.plus(DAY * 300),
        };
        let key = |(role, key): (&KeyRole, &SigningKey)| BundleKey {
            role: *role,
            owner: ControllerId::from_bytes([9; 16]),
            public: key.verifying_key().as_bytes().to_vec(),
            nbf: WALL.minus(DAY),
            exp: WALL.plus(DAY * 60),
        };
        let bundle = BundleStatement {
            installation: INSTALLATION,
            serial: 1,
            iat: WALL,
            keys: keys.iter().map(key).collect(),
        };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("signs").to_text();
        let (seal, wireguard) = (OpenKey::generate(), OpenKey::generate());
        Self { root: RootHash::of(&root.verifying_key()), chain, keys, seal, wireguard }
    }

    fn certificate(&self, identity: Identity, issuer: KeyRole, key: &SigningKey) -> Vec<u8> {
        let request = CertificateRequest {
            identity,
            public_key: key.verifying_key(),
            generation: 1,
            not_before: WALL.minus(Duration::from_secs(600)),
            not_after: WALL.plus(DAY * 20),
            serial_random: [5; 8],
        };
        issue_certificate(&self.keys[&issuer], &request).expect("issues")
    }

    fn slice<B: SliceBody>(&self, audience: Audience, body: B) -> String {
        let header = SliceHeader {
            installation: INSTALLATION,
            organization: Some(ORGANIZATION),
            audience,
            version: SliceVersion { incarnation: 1, version: 1 },
            iat: WALL,
            exp: WALL.plus(DAY * 7),
        };
        sign_document(&self.keys[&KeyRole::Slice], &Slice { header, body, ext: None }).expect("signs")
    }

    fn stored(&self, identity: Identity, issuer: KeyRole, byte: u8, slice: String) -> StoredState {
        let key = SigningKey::from_seed(&[byte; 32]);
        StoredState {
            root: self.root,
            chain: self.chain.clone(),
            certificate: self.certificate(identity, issuer, &key),
            identity_key: key,
            grant: None,
            slice: Some(slice),
            revocations: None,
            time_floor: None,
            reconnect_window: Duration::ZERO,
        }
    }

    pub(super) fn pop(&self) -> PopMaterial {
        let key = SigningKey::from_seed(&[33; 32]);
        let certificate = self.certificate(Identity::pop(INSTALLATION, POP), KeyRole::PopIssuer, &key);
        PopMaterial { key, certificate, root: self.root, chain: self.chain.clone(), revocations: Vec::new() }
    }

    pub(super) fn connector(&self) -> StoredState {
        let target: SocketAddr = TARGET.parse().expect("an address");
        let resource = SliceResource {
            id: RESOURCE,
            name: "service".into(),
            address: policy::Address::Ip(target.ip()),
            ports: ports(),
            mode: Mode::Standard,
            allow: allow(),
        };
        let body = ConnectorSlice {
            site: SITE,
            site_name: "site".into(),
            prefixes: vec![],
            resources: vec![resource],
            pops: pops(),
            regions: vec![],
        };
        let slice = self.slice(Audience::Connector(CONNECTOR), body);
        let identity = Identity::connector(INSTALLATION, ORGANIZATION, CONNECTOR);
        self.stored(identity, KeyRole::ConnectorIssuer, 34, slice)
    }

    pub(super) fn client(&self) -> StoredState {
        let target: SocketAddr = TARGET.parse().expect("an address");
        let resource = ClientResource {
            id: RESOURCE,
            name: "service".into(),
            alias: None,
            address: policy::Address::Ip(target.ip()),
            ports: ports(),
            mode: Mode::Standard,
            site: SITE,
            allow: allow(),
        };
        let connector = ClientConnector {
            id: CONNECTOR,
            name: "one".into(),
            wireguard_key: self.wireguard.seal_key(),
            seal_key: self.seal.seal_key(),
        };
        let site = ClientSite { id: SITE, name: "site".into(), connectors: vec![connector], regions: vec![] };
        let body = ClientSlice {
            organization_name: "organization".into(),
            resources: vec![resource],
            sites: vec![site],
            pops: pops(),
        };
        let slice = self.slice(Audience::Device(DEVICE), body);
        let identity = Identity::device(INSTALLATION, ORGANIZATION, DEVICE);
        let mut stored = self.stored(identity, KeyRole::DeviceIssuer, 35, slice);
        let grant = Grant {
            installation: INSTALLATION,
            organization: ORGANIZATION,
            device: DEVICE,
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([1; 16])),
            owner_generation: 1,
            device_name: "laptop".into(),
            owner_name: "ada".into(),
            groups: vec![GroupRef { id: STAFF, generation: 1 }],
            posture: PostureClass::Unknown,
            key: stored.identity_key.verifying_key(),
            iat: WALL,
            nbf: WALL,
            exp: WALL.plus(DAY),
            renew_after_ms: 14_400_000,
            ext: None,
        };
        stored.grant = Some(sign_document(&self.keys[&KeyRole::Grant], &grant).expect("signs"));
        stored
    }
}

fn ports() -> Vec<PortRange> {
    vec![PortRange::new(80, 80).expect("a port")]
}

fn pops() -> Vec<PopEntry> {
    vec![PopEntry { id: POP, address: POP_AT.into(), region: "r".into(), zone: "z".into() }]
}

fn allow() -> Vec<Allow> {
    vec![Allow {
        group: STAFF,
        group_name: "staff".into(),
        policy: PolicyId::from_bytes([1; 16]),
        policy_name: "web for staff".into(),
    }]
}
