//! One installation from fixed seeds: the same keys and documents in every run.
#![allow(dead_code, reason = "each test program uses its own part")]

use std::time::Duration;
use trust::{
    Audience, Beacon, BundleKey, BundleStatement, CertificateRequest, Grant, GroupRef, Head, Identity,
    KeyRole, OrganizationTag, Owner, PostureClass, Revocation, RevokedSubject, Role, RootHash,
    RotationStatement, SigningKey, Slice, SliceBody, SliceHeader, SliceVersion, TrustBundle, TrustChain,
    UnixMs, issue_certificate,
};
use wire::{ConnectorId, ControllerId, DeviceId, GroupId, InstallationId, OrganizationId, PopId, UserId};

/// 2026-11-21T00:00:00Z.
pub const NOW: UnixMs = UnixMs::from_millis(1_795_219_200_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A body that only this test uses.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    pub word: String,
}

impl SliceBody for Body {
    const KIND: &'static str = "slice-test";
    fn check(&self) -> Result<(), &'static str> {
        Ok(())
    }
    fn is_for(audience: Audience) -> bool {
        matches!(audience, Audience::Connector(_))
    }
}

/// Everything an installation has.
pub struct Installation {
    pub id: InstallationId,
    pub organization: OrganizationId,
    pub controller: ControllerId,
    pub root: SigningKey,
    pub rotation: SigningKey,
    pub chain: TrustChain,
    pub bundle: TrustBundle,
    seed: u8,
}

impl Installation {
    pub fn new(seed: u8) -> Self {
        let id = InstallationId::from_bytes([seed; 16]);
        let controller = ControllerId::from_bytes([seed.wrapping_add(1); 16]);
        let root = SigningKey::from_seed(&[seed; 32]);
        let rotation = SigningKey::from_seed(&[seed.wrapping_add(100); 32]);
        let statement = RotationStatement {
            installation: id,
            root: root.verifying_key(),
            rotation: rotation.verifying_key(),
            epoch: 1,
            nbf: NOW.minus(DAY),
            exp: NOW.plus(DAY * 700),
        };
        let keys = KeyRole::ALL
            .into_iter()
            .map(|role| BundleKey {
                role,
                owner: controller,
                public: match role {
                    KeyRole::ConsoleCa => vec![4; 65],
                    _ => role_key(seed, role).verifying_key().as_bytes().to_vec(),
                },
                nbf: NOW.minus(DAY),
                exp: NOW.plus(DAY * 80),
            })
            .collect();
        let bundle = BundleStatement { installation: id, serial: 1, iat: NOW.minus(DAY), keys };
        let chain = TrustChain::sign(&root, &rotation, &statement, &bundle).expect("keeps the rules");
        let bundle = chain.verify(&RootHash::of(&root.verifying_key()), NOW).expect("own chain");
        let organization = OrganizationId::from_bytes([seed.wrapping_add(2); 16]);
        Self { id, organization, controller, root, rotation, chain, bundle, seed }
    }

    pub fn key(&self, role: KeyRole) -> SigningKey {
        role_key(self.seed, role)
    }

    pub fn device_key(&self) -> SigningKey {
        SigningKey::from_seed(&[self.seed.wrapping_add(7); 32])
    }

    pub fn grant(&self) -> Grant {
        Grant {
            installation: self.id,
            organization: self.organization,
            device: DeviceId::from_bytes([3; 16]),
            device_generation: 1,
            owner: Owner::User(UserId::from_bytes([4; 16])),
            owner_generation: 1,
            device_name: "laptop".into(),
            owner_name: "alice".into(),
            groups: vec![GroupRef { id: GroupId::from_bytes([5; 16]), generation: 1 }],
            posture: PostureClass::Unknown,
            key: self.device_key().verifying_key(),
            iat: NOW,
            nbf: NOW,
            exp: NOW.plus(DAY),
            renew_after_ms: 4 * 3600 * 1000,
            ext: None,
        }
    }

    pub fn slice(&self) -> Slice<Body> {
        Slice {
            header: SliceHeader {
                installation: self.id,
                organization: Some(self.organization),
                audience: Audience::Connector(ConnectorId::from_bytes([6; 16])),
                version: SliceVersion { incarnation: 1, version: 9 },
                iat: NOW,
                exp: NOW.plus(DAY * 7),
            },
            body: Body { word: "tide".into() },
            ext: None,
        }
    }

    pub fn beacon(&self) -> Beacon {
        let version = SliceVersion { incarnation: 1, version: 9 };
        Beacon {
            installation: self.id,
            controller: self.controller,
            time: NOW,
            versions: [(OrganizationTag::of(self.organization), version)].into(),
            heads: [(self.controller, Head { seq: 1, hash: [8; 32] })].into(),
            nonce: Some([9; 16]),
            ext: None,
        }
    }

    pub fn revocation(&self) -> Revocation {
        Revocation {
            installation: self.id,
            signer: self.controller,
            seq: 1,
            previous: [0; 32],
            at: NOW,
            subject: RevokedSubject::Device(DeviceId::from_bytes([3; 16])),
            generation: 1,
            keep_until: NOW.plus(DAY * 31),
            ext: None,
        }
    }

    pub fn identity(&self, role: Role) -> Identity {
        match role {
            Role::Device => Identity::device(self.id, self.organization, DeviceId::from_bytes([3; 16])),
            Role::Connector => {
                Identity::connector(self.id, self.organization, ConnectorId::from_bytes([6; 16]))
            }
            Role::Pop => Identity::pop(self.id, PopId::from_bytes([7; 16])),
            Role::Controller => Identity::controller(self.id, self.controller),
        }
    }

    pub fn request(&self, role: Role) -> CertificateRequest {
        CertificateRequest {
            identity: self.identity(role),
            public_key: self.device_key().verifying_key(),
            generation: 3,
            not_before: NOW.minus(Duration::from_secs(300)),
            not_after: NOW.plus(DAY * 30),
            serial_random: [1; 8],
        }
    }

    pub fn certificate(&self, role: Role) -> Vec<u8> {
        issue_certificate(&self.key(role.issuer()), &self.request(role)).expect("issued")
    }
}

fn role_key(seed: u8, role: KeyRole) -> SigningKey {
    let index = KeyRole::ALL.iter().position(|known| *known == role).expect("a known role");
    let mut bytes = [seed; 32];
    bytes[31] = u8::try_from(index).expect("nine roles") + 200;
    SigningKey::from_seed(&bytes)
}
