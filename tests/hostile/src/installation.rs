//! The keys of an installation with some organizations, and what they sign.

use agent::StoredState;
use policy::{
    Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, Mode, PopEntry,
    PortRange, SliceResource,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use trust::{
    Audience, BundleKey, BundleStatement, CertificateRequest, Grant, GroupRef, Identity, KeyRole, OpenKey,
    Owner, PostureClass, RootHash, RotationStatement, SigningKey, Slice, SliceBody, SliceHeader,
    SliceVersion, TrustBundle, TrustChain, UnixMs, issue_certificate, sign_document,
};
use wire::{
    ConnectorId, ControllerId, DeviceId, GroupId, InstallationId, OrganizationId, PolicyId, PopId,
    ResourceId, SiteId, UserId,
};

/// When every world begins.
pub const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);
/// A second.
pub const SECOND: Duration = Duration::from_secs(1);
/// A minute.
pub const MINUTE: Duration = Duration::from_secs(60);
/// An hour.
pub const HOUR: Duration = Duration::from_secs(3600);
/// A day.
pub const DAY: Duration = Duration::from_secs(86_400);

/// A service that every member of an organization may reach.
pub const STANDARD: &str = "10.20.0.5:80";
/// A strict one.
pub const STRICT: &str = "10.20.0.6:80";
/// One that no policy gives to anybody here; a client that lies to itself has it in its slice.
pub const FORBIDDEN: &str = "10.20.0.7:80";
/// One that takes no connection and refuses none.
pub const HANGING: &str = "10.20.0.8:80";

/// The installation.
pub const INSTALLATION: InstallationId = InstallationId::from_bytes([1; 16]);
/// The controller.
pub const CONTROLLER: ControllerId = ControllerId::from_bytes([9; 16]);

fn bytes(kind: u8, number: usize) -> [u8; 16] {
    let mut bytes = [kind; 16];
    bytes[8..].copy_from_slice(&(number as u64).to_be_bytes());
    bytes
}

fn seed(kind: u8, number: usize) -> [u8; 32] {
    let mut seed = [kind; 32];
    seed[24..].copy_from_slice(&(number as u64).to_be_bytes());
    seed
}

/// An organization.
#[must_use]
pub fn organization(number: usize) -> OrganizationId {
    OrganizationId::from_bytes(bytes(2, number))
}

/// Its only site.
#[must_use]
pub fn site(organization: usize) -> SiteId {
    SiteId::from_bytes(bytes(5, organization))
}

/// Everybody in it.
#[must_use]
pub fn staff(organization: usize) -> GroupId {
    GroupId::from_bytes(bytes(7, organization))
}

/// A PoP, by its number.
#[must_use]
pub fn pop_id(number: usize) -> PopId {
    PopId::from_bytes(bytes(0x40, number))
}

/// A connector, by its number in the world.
#[must_use]
pub fn connector_id(number: usize) -> ConnectorId {
    ConnectorId::from_bytes(bytes(3, number))
}

/// A device, by its number in the world.
#[must_use]
pub fn device_id(number: usize) -> DeviceId {
    DeviceId::from_bytes(bytes(6, number))
}

/// Its owner.
#[must_use]
pub fn user_id(number: usize) -> UserId {
    UserId::from_bytes(bytes(8, number))
}

/// The key of a device.
#[must_use]
pub fn device_key(number: usize) -> SigningKey {
    SigningKey::from_seed(&seed(35, number))
}

/// The key of a connector.
#[must_use]
pub fn connector_key(number: usize) -> SigningKey {
    SigningKey::from_seed(&seed(34, number))
}

/// The key of a PoP.
#[must_use]
pub fn pop_key(number: usize) -> SigningKey {
    SigningKey::from_seed(&seed(90, number))
}

/// What a connector keeps secret besides its identity.
pub struct ConnectorKeys {
    /// What introductions are sealed to.
    pub seal: OpenKey,
    /// Its tunnels'.
    pub wireguard: OpenKey,
}

/// Whether a client's slice tells the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// It names what policy gives.
    Honest,
    /// It names everything, as a client that was patched would.
    Everything,
}

/// The installation.
pub struct Installation {
    /// The pinned root.
    pub root: RootHash,
    /// The trust chain.
    pub chain: String,
    /// What it says.
    pub bundle: TrustBundle,
    /// The controller's keys.
    pub keys: BTreeMap<KeyRole, SigningKey>,
    /// What control frames are sealed to.
    pub control: OpenKey,
    /// Of each connector.
    pub connectors: Vec<ConnectorKeys>,
    /// The PoPs.
    pub entries: Vec<PopEntry>,
    /// How long grants live.
    pub life: Duration,
    /// After what they are renewed.
    pub renew: Duration,
}

impl Installation {
    /// With keys for so many connectors.
    #[must_use]
    pub fn new(entries: Vec<PopEntry>, connectors: usize) -> Self {
        Self::under_root([1; 32], entries, connectors)
    }

    /// Of another root: what it signs is nothing here.
    #[must_use]
    pub fn under_root(root: [u8; 32], entries: Vec<PopEntry>, connectors: usize) -> Self {
        let (root, rotation) = (SigningKey::from_seed(&root), SigningKey::from_seed(&[root[0] + 1; 32]));
        let first = root.verifying_key().as_bytes()[0];
        let keys: BTreeMap<KeyRole, SigningKey> = KeyRole::ALL
            .into_iter()
            .filter(|role| !matches!(role, KeyRole::ConsoleCa | KeyRole::ControlSeal))
            .zip(10_u8..)
            .map(|(role, byte)| (role, SigningKey::from_seed(&[byte ^ first; 32])))
            .collect();
        let control = OpenKey::generate();
        let statement = RotationStatement {
            installation: INSTALLATION,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: WALL.minus(DAY),
            exp: WALL.plus(DAY * 300),
        };
        let key = |role, public: &[u8; 32]| BundleKey {
            role,
            owner: CONTROLLER,
            public: public.to_vec(),
            nbf: WALL.minus(DAY),
            exp: WALL.plus(DAY * 60),
        };
        let mut all: Vec<BundleKey> =
            keys.iter().map(|(role, signing)| key(*role, signing.verifying_key().as_bytes())).collect();
        all.push(key(KeyRole::ControlSeal, control.seal_key().as_bytes()));
        let bundle = BundleStatement { installation: INSTALLATION, serial: 1, iat: WALL, keys: all };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("signs");
        let root = RootHash::of(&root.verifying_key());
        let bundle = chain.verify(&root, WALL).expect("verifies");
        let connectors = (0..connectors)
            .map(|_| ConnectorKeys { seal: OpenKey::generate(), wireguard: OpenKey::generate() })
            .collect();
        let (life, renew) = (DAY, HOUR * 4);
        Self { root, chain: chain.to_text(), bundle, keys, control, connectors, entries, life, renew }
    }

    /// A certificate from the issuer of the identity's role.
    #[must_use]
    pub fn certificate(&self, identity: Identity, key: &SigningKey) -> Vec<u8> {
        let issuer = match identity.role() {
            trust::Role::Device => KeyRole::DeviceIssuer,
            trust::Role::Connector => KeyRole::ConnectorIssuer,
            trust::Role::Pop => KeyRole::PopIssuer,
            trust::Role::Controller => KeyRole::ControllerIssuer,
        };
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

    /// A slice of this version.
    pub fn slice<B: SliceBody>(
        &self,
        organization: Option<OrganizationId>,
        audience: Audience,
        version: u64,
        body: B,
    ) -> String {
        let header = SliceHeader {
            installation: INSTALLATION,
            organization,
            audience,
            version: SliceVersion { incarnation: 1, version },
            iat: WALL,
            exp: WALL.plus(DAY * 7),
        };
        sign_document(&self.keys[&KeyRole::Slice], &Slice { header, body, ext: None }).expect("signs")
    }

    fn stored(&self, identity: Identity, identity_key: SigningKey, slice: String) -> StoredState {
        StoredState {
            root: self.root,
            chain: self.chain.clone(),
            certificate: self.certificate(identity, &identity_key),
            identity_key,
            grant: None,
            slice: Some(slice),
            revocations: None,
            time_floor: None,
            reconnect_window: Duration::ZERO,
        }
    }

    /// What a connector starts from. It lets staff reach everything but [`FORBIDDEN`].
    #[must_use]
    pub fn connector(&self, organization_number: usize, number: usize) -> StoredState {
        let slice = self.connector_slice(organization_number, number, 1);
        let identity =
            Identity::connector(INSTALLATION, organization(organization_number), connector_id(number));
        self.stored(identity, connector_key(number), slice)
    }

    /// Its slice.
    #[must_use]
    pub fn connector_slice(&self, of: usize, number: usize, version: u64) -> String {
        let resource = |byte: usize, at: &str, mode, allow| SliceResource {
            id: ResourceId::from_bytes(bytes(11, byte)),
            name: format!("service {byte}"),
            address: policy::Address::Ip(address(at).ip()),
            ports: ports(),
            mode,
            allow,
        };
        let resources = vec![
            resource(1, STANDARD, Mode::Standard, allow(of)),
            resource(2, STRICT, Mode::Strict, allow(of)),
            resource(3, FORBIDDEN, Mode::Standard, Vec::new()),
            resource(4, HANGING, Mode::Standard, allow(of)),
        ];
        let body = ConnectorSlice {
            site: site(of),
            site_name: "site".into(),
            prefixes: vec![],
            resources,
            pops: self.entries.clone(),
            regions: vec![],
        };
        self.slice(Some(organization(of)), Audience::Connector(connector_id(number)), version, body)
    }

    /// What a client starts from: its organization's connectors, as they are numbered in the world.
    #[must_use]
    pub fn client(&self, of: usize, number: usize, connectors: &[usize], claims: Claims) -> StoredState {
        let resource = |byte: usize, at: &str, mode, ports| ClientResource {
            id: ResourceId::from_bytes(bytes(11, byte)),
            name: format!("service {byte}"),
            alias: None,
            address: policy::Address::Ip(address(at).ip()),
            ports,
            mode,
            site: site(of),
            allow: allow(of),
        };
        let mut resources = vec![
            resource(1, STANDARD, Mode::Standard, ports()),
            resource(2, STRICT, Mode::Strict, ports()),
            resource(4, HANGING, Mode::Standard, ports()),
        ];
        if claims == Claims::Everything {
            let every = vec![PortRange::new(1, u16::MAX).expect("ports")];
            resources[0].ports.clone_from(&every);
            resources.insert(2, resource(3, FORBIDDEN, Mode::Standard, every));
        }
        let connectors = connectors.iter().map(|number| ClientConnector {
            id: connector_id(*number),
            name: format!("connector {number}"),
            wireguard_key: self.connectors[*number].wireguard.seal_key(),
            seal_key: self.connectors[*number].seal.seal_key(),
        });
        let site = ClientSite {
            id: site(of),
            name: "site".into(),
            connectors: connectors.collect(),
            regions: vec![],
        };
        let body = ClientSlice {
            organization_name: "organization".into(),
            resources,
            sites: vec![site],
            pops: self.entries.clone(),
        };
        let slice = self.slice(Some(organization(of)), Audience::Device(device_id(number)), 1, body);
        let identity = Identity::device(INSTALLATION, organization(of), device_id(number));
        let mut stored = self.stored(identity, device_key(number), slice);
        stored.grant = Some(self.grant(of, number, WALL));
        stored
    }

    /// A device's grant.
    #[must_use]
    pub fn grant(&self, of: usize, number: usize, iat: UnixMs) -> String {
        let grant = Grant {
            installation: INSTALLATION,
            organization: organization(of),
            device: device_id(number),
            device_generation: 1,
            owner: Owner::User(user_id(number)),
            owner_generation: 1,
            device_name: format!("laptop-of-{number}"),
            owner_name: format!("person-{number}"),
            groups: vec![GroupRef { id: staff(of), generation: 1 }],
            posture: PostureClass::Unknown,
            key: device_key(number).verifying_key(),
            iat,
            nbf: iat,
            exp: iat.plus(self.life),
            renew_after_ms: u64::try_from(self.renew.as_millis()).expect("fits"),
            ext: None,
        };
        sign_document(&self.keys[&KeyRole::Grant], &grant).expect("signs")
    }
}

/// An address from its text.
#[must_use]
pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn ports() -> Vec<PortRange> {
    vec![PortRange::new(80, 80).expect("a port")]
}

fn allow(of: usize) -> Vec<Allow> {
    vec![Allow {
        group: staff(of),
        group_name: "staff".into(),
        policy: PolicyId::from_bytes(bytes(12, of)),
        policy_name: "everything for staff".into(),
    }]
}
