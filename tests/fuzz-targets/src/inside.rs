//! Behind seals and signatures: mutation makes neither, so these targets make them around the mutated inside. A
//! compromised agent or PoP, and a controller with a bug, get as far.

use crate::HOME;
use crate::installation::NOW;
use policy::{ClientSlice, ConnectorSlice, Destination, GrantFacts, PopSlice, decide, explain_client};
use std::sync::LazyLock;
use trust::control::ControlError;
use trust::{
    BundleKey, BundleStatement, Document, Grant, KeyRole, OpenKey, Role, RootHash, RotationStatement, Slice,
    SliceBody, TrustBundle, TrustChain, Unverified, sign_document,
};
use wire::{ConnectorId, ControlRequest, OpenBody};

/// What a connector checks in an introduction: its own source, which no crate exports.
#[path = "../../../crates/connector/src/core/introduction.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the connector, which documents it")]
mod introduction;

const CONNECTOR: ConnectorId = ConnectorId::from_bytes([6; 16]);
/// `trust::control` seals requests for this (HPKE's `info`); a target that seals for anything else says so itself.
const REQUEST_INFO: &[u8] = b"tidegate/control-request/1";

fn open_key() -> OpenKey {
    OpenKey::from_private(&[7; 32]).expect("a key")
}

/// A bundle whose controller opens with a key that is known here.
static BUNDLE: LazyLock<TrustBundle> = LazyLock::new(|| {
    let rotation = RotationStatement {
        installation: HOME.id,
        root: HOME.root.verifying_key(),
        rotation: HOME.rotation.verifying_key(),
        epoch: 1,
        nbf: NOW.minus(DAY),
        exp: NOW.plus(DAY * 700),
    };
    let key = |role: KeyRole| BundleKey {
        role,
        owner: HOME.controller,
        public: match role {
            KeyRole::ConsoleCa => vec![4; 65],
            KeyRole::ControlSeal => open_key().seal_key().as_bytes().to_vec(),
            _ => HOME.key(role).verifying_key().as_bytes().to_vec(),
        },
        nbf: NOW.minus(DAY),
        exp: NOW.plus(DAY * 80),
    };
    let keys = KeyRole::ALL.into_iter().map(key).collect();
    let bundle = BundleStatement { installation: HOME.id, serial: 1, iat: NOW.minus(DAY), keys };
    let chain = TrustChain::sign(&HOME.root, &HOME.rotation, &rotation, &bundle).expect("keeps the rules");
    chain.verify(&RootHash::of(&HOME.root.verifying_key()), NOW).expect("own chain")
});
const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// The inside of a sealed control request, whatever it is: it opens, and is then refused for what it says.
pub(crate) fn control_inside(bytes: &[u8]) {
    let key = open_key();
    let mut sealed = key.seal_key().key_id().as_bytes().to_vec();
    sealed.extend_from_slice(&key.seal_key().seal(REQUEST_INFO, b"", bytes).expect("a usable key"));
    match trust::control::open_request(&key, &BUNDLE, NOW, &sealed) {
        Ok(opened) => {
            assert_eq!(opened.agent.identity(), HOME.identity(Role::Device), "nobody else has a key")
        }
        Err(ControlError::OtherKey | ControlError::Seal(_)) => panic!("the target seals to the wrong key"),
        Err(_) => {}
    }
}

/// A request of a genuine agent: the first two bytes are its type. What can be said arrives as it was said.
pub(crate) fn control_request(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first_chunk::<2>() else { return };
    let Ok(Some(request)) = ControlRequest::decode_body(u16::from_be_bytes(*kind), body) else { return };
    let certificate = HOME.certificate(Role::Device);
    let sealed = trust::control::seal_request(&HOME.device_key(), &certificate, &BUNDLE, NOW, 0, &request);
    let (sealed, _) = sealed.expect("the bundle has a seal key");
    let opened = trust::control::open_request(&open_key(), &BUNDLE, NOW, &sealed).expect("a genuine request");
    assert_eq!(opened.request, request);
}

/// The inside of an introduction, behind a handshake initiation of 148 bytes that the signature is bound to.
pub(crate) fn introduction(bytes: &[u8]) {
    let keeper =
        introduction::Doorkeeper::new(HOME.identity(Role::Connector), open_key()).expect("a connector");
    let sealed = trust::seal_open(&open_key().seal_key(), CONNECTOR, bytes).expect("a usable key");
    assert!(trust::unseal_open(&open_key(), CONNECTOR, &sealed).is_ok_and(|inside| inside == bytes));
    let revocations = trust::RevocationSet::new();
    let admitted = keeper.verify(&HOME.bundle, &revocations, NOW, &sealed, &INITIATION);
    if let Ok(admitted) = admitted {
        assert_eq!(admitted.grant, HOME.grant(), "a grant that nobody signed");
        assert!(
            keeper.verify(&HOME.bundle, &revocations, NOW, &sealed, &[1; 148]).is_err(),
            "not bound to it"
        );
    }
}

const INITIATION: [u8; 148] = [0; 148];

/// A body that decodes, signed with the right key: it verifies as what it is, or breaks a rule that its signer also
/// knows.
fn signed<D: Document + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<D> {
    let document: D = serde_json::from_slice(bytes).ok()?;
    let text = sign_document(&HOME.key(D::ROLE), &document).ok()?;
    let parsed = Unverified::<D>::parse(&text).expect("own text");
    let verified = parsed.verify(&HOME.bundle, NOW).ok()?;
    assert_eq!(verified, document, "a document is what was signed");
    assert!(verified.check().is_ok());
    Some(verified)
}

pub(crate) fn grant_body(bytes: &[u8]) {
    if let Some(grant) = signed::<Grant>(bytes) {
        let mut revocations = trust::RevocationSet::new();
        assert!(!revocations.strikes_grant(&grant));
        let facts = GrantFacts::of(&grant, &revocations);
        let _ = decide(&CONNECTOR_SLICE, &facts, DESTINATION);
        let subject = trust::RevokedSubject::Device(grant.device);
        revocations.insert(&trust::Revocation {
            subject,
            generation: grant.device_generation,
            ..HOME.revocation()
        });
        assert!(revocations.strikes_grant(&grant), "a struck device's grant");
    }
}

const DESTINATION: Destination<'_> =
    Destination::tcp(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 2, 9)), 443);

pub(crate) fn beacon_body(bytes: &[u8]) {
    let _ = signed::<trust::Beacon>(bytes);
}

pub(crate) fn revocation_body(bytes: &[u8]) {
    if let Some(entry) = signed::<trust::Revocation>(bytes) {
        assert_eq!(entry.subject.to_string().parse(), Ok(entry.subject));
    }
}

static CONNECTOR_SLICE: LazyLock<ConnectorSlice> =
    LazyLock::new(|| serde_json::from_str(CONNECTOR_BODY).expect("a slice"));

pub(crate) fn connector_slice(bytes: &[u8]) {
    if let Ok(slice) = serde_json::from_slice::<ConnectorSlice>(bytes)
        && slice.check().is_ok()
    {
        let facts = GrantFacts::of(&HOME.grant(), &trust::RevocationSet::new());
        let decision = decide(&slice, &facts, DESTINATION);
        if matches!(decision.verdict, policy::Verdict::Allow) {
            let resource = decision.resource.expect("what is allowed is a resource");
            assert!(!resource.allow.is_empty(), "allowed by no policy");
        }
        for resource in &slice.resources {
            let to = Destination::tcp(policy::inner_address(resource.id).into(), 443);
            let _ = decide(&slice, &facts, to);
        }
        let again = serde_json::to_vec(&slice).expect("own value");
        assert_eq!(serde_json::from_slice::<ConnectorSlice>(&again).expect("own JSON"), slice);
    }
    let _ = signed::<Slice<ConnectorSlice>>(bytes);
}

pub(crate) fn client_slice(bytes: &[u8]) {
    if let Ok(slice) = serde_json::from_slice::<ClientSlice>(bytes)
        && slice.check().is_ok()
    {
        for resource in &slice.resources {
            let _ = explain_client(&slice, &resource.name);
            let _ = explain_client(&slice, &resource.address.to_string());
        }
        let again = serde_json::to_vec(&slice).expect("own value");
        assert_eq!(serde_json::from_slice::<ClientSlice>(&again).expect("own JSON"), slice);
    }
    let _ = signed::<Slice<ClientSlice>>(bytes);
}

pub(crate) fn pop_slice(bytes: &[u8]) {
    if let Ok(slice) = serde_json::from_slice::<PopSlice>(bytes)
        && slice.check().is_ok()
    {
        assert!(slice.max_sessions > 0 && slice.admit_rate > 0);
        assert!(slice.organization.is_none_or(|share| share.max_sessions > 0 && share.introductions > 0));
    }
    let _ = signed::<Slice<PopSlice>>(bytes);
}

/// Genuine insides.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let json = |value: serde_json::Value| value.to_string().into_bytes();
    let header = |audience: serde_json::Value, body: &str| {
        let organization = (audience.get("pop").is_none()).then_some(HOME.organization);
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let mut value = serde_json::to_value(HOME.slice()).expect("a slice");
        value["header"]["organization"] = serde_json::json!(organization);
        value["header"]["audience"] = audience;
        value["body"] = body;
        json(value)
    };
    let key = [8; 32];
    let grant = sign_document(&HOME.key(KeyRole::Grant), &HOME.grant()).expect("keeps the rules");
    let open = OpenBody {
        grant: wire::Bounded::new(grant.into_bytes()).expect("short"),
        client_key: key,
        signature: trust::sign_open(&HOME.device_key(), CONNECTOR, &key, &INITIATION),
    };
    let open = minicbor::to_vec(&open).expect("writing CBOR to a Vec does not fail");
    let mut list = vec![
        ("control_inside", "noise", vec![7; 96]),
        ("introduction", "genuine", open.clone()),
        ("introduction", "with-a-tail", [&open[..], &[0]].concat()),
        ("introduction", "half", open[..open.len() / 2].to_vec()),
        ("grant_body", "genuine", json(serde_json::to_value(HOME.grant()).expect("a grant"))),
        ("beacon_body", "genuine", json(serde_json::to_value(HOME.beacon()).expect("a beacon"))),
        ("revocation_body", "genuine", json(serde_json::to_value(HOME.revocation()).expect("an entry"))),
        ("connector_slice", "body", CONNECTOR_BODY.into()),
        ("connector_slice", "whole", header(serde_json::json!({"connector": CONNECTOR}), CONNECTOR_BODY)),
        ("client_slice", "body", CLIENT_BODY.into()),
        (
            "client_slice",
            "whole",
            header(serde_json::json!({"device": wire::DeviceId::from_bytes([3; 16])}), CLIENT_BODY),
        ),
        ("pop_slice", "body", pop_body().into_bytes()),
        (
            "pop_slice",
            "whole",
            header(serde_json::json!({"pop": wire::PopId::from_bytes([7; 16])}), &pop_body()),
        ),
    ];
    for (name, request) in requests() {
        let mut bytes = request.frame_type().to_be_bytes().to_vec();
        bytes.extend_from_slice(&request.encode_body());
        list.push(("control_request", name, bytes));
        let certificate = HOME.certificate(Role::Device);
        let sealed =
            trust::control::seal_request(&HOME.device_key(), &certificate, &BUNDLE, NOW, 0, &request);
        let (sealed, _) = sealed.expect("the bundle has a seal key");
        let inside = open_key()
            .open(REQUEST_INFO, b"", &sealed[open_key().seal_key().key_id().as_bytes().len()..])
            .expect("sealed to it");
        list.push(("control_inside", name, inside));
    }
    list
}

fn requests() -> Vec<(&'static str, ControlRequest)> {
    let flows = wire::Bounded::new(b"{\"id\":\"1\"}\n{\"id\":\"2\"}\n".to_vec()).expect("short");
    vec![
        ("get-slice", wire::GetSlice { incarnation: 1, version: 9 }.into()),
        ("why", wire::Why { resource: wire::Bounded::new(b"wiki".to_vec()).expect("short") }.into()),
        ("ship-flows", wire::ShipFlows { batch: 7, ndjson: flows }.into()),
        ("anchor", wire::Anchor { nonce: [9; 16] }.into()),
    ]
}

fn pop_body() -> String {
    let root = RootHash::of(&HOME.root.verifying_key());
    serde_json::json!({
        "root": root, "max_sessions": 20_000, "admit_rate": 2_000, "pops": 2,
        "organization": {"max_sessions": 5_000, "introductions": 500},
    })
    .to_string()
}

const CONNECTOR_BODY: &str = r#"{"site":"site-060r30c1g60r30c1g60r30c1g6","site_name":"Hamburg","prefixes":["10.0.2.0/24"],"resources":[{"id":"res-09144gj289144gj289144gj289","name":"db","address":"10.0.2.9","ports":["443","5000-5010","udp/53","icmp"],"mode":"standard","allow":[{"group":"grp-050m2ga1850m2ga1850m2ga185","group_name":"eng","policy":"pol-050m2ga1850m2ga1850m2ga185","policy_name":"p"}]}],"pops":[{"id":"pop-070w3ge1r70w3ge1r70w3ge1r7","address":"203.0.113.1:443","region":"eu","zone":"a"}],"regions":["eu"]}"#;

const CLIENT_BODY: &str = r#"{"organization_name":"Harbour","resources":[{"id":"res-09144gj289144gj289144gj289","name":"db","alias":"orders","address":"db.lab.internal","ports":["443"],"mode":"strict","site":"site-060r30c1g60r30c1g60r30c1g6","allow":[{"group":"grp-050m2ga1850m2ga1850m2ga185","group_name":"eng","policy":"pol-050m2ga1850m2ga1850m2ga185","policy_name":"p"}]}],"sites":[{"id":"site-060r30c1g60r30c1g60r30c1g6","name":"Hamburg","connectors":[],"regions":[]}],"pops":[{"id":"pop-070w3ge1r70w3ge1r70w3ge1r7","address":"pop.example:443","region":"eu","zone":"a"}]}"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_genuine_inside_gets_to_the_end_of_its_target() {
        let of =
            |target: &str| genuine().into_iter().filter(|(name, ..)| *name == target).collect::<Vec<_>>();
        assert!(signed::<Grant>(&of("grant_body")[0].2).is_some());
        assert!(signed::<trust::Beacon>(&of("beacon_body")[0].2).is_some());
        assert!(signed::<trust::Revocation>(&of("revocation_body")[0].2).is_some());
        assert!(signed::<Slice<ConnectorSlice>>(&of("connector_slice")[1].2).is_some());
        assert!(signed::<Slice<ClientSlice>>(&of("client_slice")[1].2).is_some());
        assert!(signed::<Slice<PopSlice>>(&of("pop_slice")[1].2).is_some());
        let keeper = introduction::Doorkeeper::new(HOME.identity(Role::Connector), open_key()).expect("one");
        let sealed =
            trust::seal_open(&open_key().seal_key(), CONNECTOR, &of("introduction")[0].2).expect("sealed");
        let revocations = trust::RevocationSet::new();
        assert!(keeper.verify(&HOME.bundle, &revocations, NOW, &sealed, &INITIATION).is_ok());
        for (_, name, inside) in of("control_inside").into_iter().filter(|(_, name, _)| *name != "noise") {
            let key = open_key();
            let mut sealed = key.seal_key().key_id().as_bytes().to_vec();
            sealed.extend_from_slice(&key.seal_key().seal(REQUEST_INFO, b"", &inside).expect("sealed"));
            assert!(trust::control::open_request(&key, &BUNDLE, NOW, &sealed).is_ok(), "{name}");
        }
    }
}
