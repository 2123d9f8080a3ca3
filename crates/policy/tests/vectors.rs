//! The golden vectors: what this version writes, signs and seals must be what `tests/vectors/vectors.json` holds, and that
//! file is judged by a decoder in another language (`cargo xtask vectors`). They are written here because this is the crate
//! that knows everything that is signed, the bodies of slices included.

#[path = "../../trust/tests/installation/mod.rs"]
mod installation;
#[path = "../../../tests/vectors/messages.rs"]
mod messages;

use installation::{Installation, NOW};
use policy::{
    Allow, ClientConnector, ClientResource, ClientSite, ClientSlice, ConnectorSlice, Mode, OrganizationShare,
    PopEntry, PopSlice, SliceResource,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fmt::Debug, path::Path, time::Duration};
use trust::{
    Audience, Beacon, BundleKey, BundleStatement, Document, Grant, JoinKey, JoinKind, JoinSecret, KeyRole,
    OpenKey, Revocation, Role, RootHash, SealKey, Slice, SliceBody, SliceHeader, TrustBundle, Unverified,
    control::{open_request, seal_request},
    decode_base64url, encode_base64url, seal_open, sha256, sign_document, sign_open, unseal_open,
};
use wire::{
    ChannelId, ConnectorId, ControlReply, ControlRequest, DeviceId, FromAgent, FromSigner, GetSlice, GroupId,
    PolicyId, PopId, RelayKind, ResourceId, SiteId, ToAgent, ToSigner,
};

const CONNECTOR: ConnectorId = ConnectorId::from_bytes([6; 16]);
const SITE: SiteId = SiteId::from_bytes([12; 16]);

fn document<D: Document>(home: &Installation, document: &D) -> Value {
    let key = home.key(D::ROLE);
    json!({
        "kind": D::KIND,
        "public_key": encode_base64url(key.verifying_key().as_bytes()),
        "kid": key.verifying_key().key_id().to_string(),
        "assertion": format!("tidegate/{}/1/{}", D::KIND, home.id),
        "claims": serde_json::to_value(document).expect("JSON"),
        "token": sign_document(&key, document).expect("keeps the rules"),
    })
}

fn slice<B: SliceBody>(home: &Installation, audience: Audience, body: B) -> Slice<B> {
    let organization = (!matches!(audience, Audience::Pop(_))).then_some(home.organization);
    Slice { header: SliceHeader { organization, audience, ..home.slice().header }, body, ext: None }
}

fn allow() -> Vec<Allow> {
    vec![Allow {
        group: GroupId::from_bytes([5; 16]),
        group_name: "eng".into(),
        policy: PolicyId::from_bytes([13; 16]),
        policy_name: "Büro".into(),
    }]
}

fn pops() -> Vec<PopEntry> {
    let pop = |number, address: &str, zone: &str| PopEntry {
        id: PopId::from_bytes([number; 16]),
        address: address.into(),
        region: "eu".into(),
        zone: zone.into(),
    };
    vec![pop(7, "203.0.113.1:443", "a"), pop(8, "pop.example:443", "b")]
}

fn ports(texts: &[&str]) -> Vec<policy::PortRange> {
    texts.iter().map(|text| text.parse().expect("ports")).collect()
}

fn for_a_connector() -> ConnectorSlice {
    let resource = |number, name: &str, address: &str, mode| SliceResource {
        id: ResourceId::from_bytes([number; 16]),
        name: name.into(),
        address: address.parse().expect("an address"),
        ports: ports(&["443", "5000-5010", "udp/53", "icmp"]),
        mode,
        allow: allow(),
    };
    ConnectorSlice {
        site: SITE,
        site_name: "Hamburg".into(),
        prefixes: vec!["10.0.2.0/24".parse().expect("a prefix"), "fd00:2::/64".parse().expect("a prefix")],
        resources: vec![
            resource(9, "db", "10.0.2.9", Mode::Standard),
            resource(10, "wiki", "*.lab.internal", Mode::Strict),
        ],
        pops: pops(),
        regions: vec!["eu".into()],
    }
}

fn for_a_client() -> ClientSlice {
    ClientSlice {
        organization_name: "Harbour".into(),
        resources: vec![ClientResource {
            id: ResourceId::from_bytes([9; 16]),
            name: "db".into(),
            alias: Some("orders".into()),
            address: "db.lab.internal".parse().expect("a name"),
            ports: ports(&["443"]),
            mode: Mode::Strict,
            site: SITE,
            allow: allow(),
        }],
        sites: vec![ClientSite {
            id: SITE,
            name: "Hamburg".into(),
            connectors: vec![ClientConnector {
                id: CONNECTOR,
                name: "hh-1".into(),
                wireguard_key: SealKey::from_bytes([14; 32]),
                seal_key: SealKey::from_bytes([15; 32]),
            }],
            regions: vec![],
        }],
        pops: pops(),
    }
}

fn for_a_pop(home: &Installation) -> PopSlice {
    PopSlice {
        root: RootHash::of(&home.root.verifying_key()),
        max_sessions: 20_000,
        admit_rate: 2_000,
        pops: 2,
        organization: Some(OrganizationShare { max_sessions: 5_000, introductions: 500 }),
    }
}

fn open_key() -> OpenKey {
    OpenKey::from_private(&[7; 32]).expect("a key")
}

/// The installation's bundle with a seal key whose private half is known.
fn bundle(home: &Installation) -> TrustBundle {
    let sealing = |key: &BundleKey| match key.role {
        KeyRole::ControlSeal => {
            BundleKey { public: open_key().seal_key().as_bytes().to_vec(), ..key.clone() }
        }
        _ => key.clone(),
    };
    let keys = home.bundle.all_keys().map(sealing).collect();
    let statement = BundleStatement { installation: home.id, serial: 2, iat: NOW, keys };
    let chain = home.chain.with_bundle(&home.rotation, &statement).expect("signed");
    chain.verify(&RootHash::of(&home.root.verifying_key()), NOW).expect("own chain")
}

fn request() -> ControlRequest {
    GetSlice { incarnation: 1, version: 9 }.into()
}

/// Whether a sealed request says what it said when the golden file was written.
fn says_the_request(home: &Installation, sealed: &[u8]) -> bool {
    let opened = open_request(&open_key(), &bundle(home), NOW, sealed);
    opened.is_ok_and(|opened| {
        opened.request == request() && opened.agent.identity() == home.identity(Role::Device)
    })
}

const INTRODUCTION: &[u8] = b"the part of an introduction that only the connector reads";

/// Sealing draws a key: what was sealed once stays in the file for as long as this version opens it.
fn sealed_once(held: &Value, opens: impl Fn(&[u8]) -> bool, seal: impl FnOnce() -> Vec<u8>) -> String {
    match held.as_str() {
        Some(text) if decode_base64url(text).is_ok_and(|bytes| opens(&bytes)) => text.to_owned(),
        _ => encode_base64url(&seal()),
    }
}

fn sealed(home: &Installation, held: &Value) -> Value {
    let certificate = home.certificate(Role::Device);
    let seal = || {
        let made = seal_request(&home.device_key(), &certificate, &bundle(home), NOW, 0, &request());
        made.expect("the bundle has a seal key").0
    };
    let asked = sealed_once(&held["request"]["sealed"], |bytes| says_the_request(home, bytes), seal);
    let opens =
        |bytes: &[u8]| unseal_open(&open_key(), CONNECTOR, bytes).is_ok_and(|inside| inside == INTRODUCTION);
    let seal = || seal_open(&open_key().seal_key(), CONNECTOR, INTRODUCTION).expect("a usable key");
    let introduced = sealed_once(&held["introduction"]["sealed"], opens, seal);
    json!({
        "private_key": encode_base64url(open_key().expose_private()),
        "public_key": encode_base64url(open_key().seal_key().as_bytes()),
        "request": {
            "sealed": asked,
            "certificate": encode_base64url(&certificate),
            "identity_key": encode_base64url(home.device_key().verifying_key().as_bytes()),
            "type": request().frame_type(),
            "body": encode_base64url(&request().encode_body()),
        },
        "introduction": {
            "sealed": introduced,
            "connector": encode_base64url(CONNECTOR.as_bytes()),
            "inside": encode_base64url(INTRODUCTION),
        },
    })
}

fn join_key(home: &Installation) -> Value {
    let root = RootHash::of(&home.root.verifying_key());
    let controller = "https://tidegate.example.org:8443";
    let keys = [JoinKind::Pop, JoinKind::Connector, JoinKind::Device].map(|kind| {
        let secret = JoinSecret::from_random([5; 32]);
        let key = JoinKey { kind, controller: controller.to_owned(), root, secret };
        json!({"kind": kind, "text": key.to_secret_text()})
    });
    json!({
        "controller": controller,
        "root": encode_base64url(root.as_bytes()),
        "secret": encode_base64url(&[5; 32]),
        "keys": keys,
    })
}

fn relay() -> Value {
    let channel = 0xF0F1_F2F3_F4F5_F6F7;
    let kinds = [RelayKind::Data, RelayKind::Challenge, RelayKind::Answer, RelayKind::Hello].map(|kind| {
        let header = wire::encode_relay_header(kind, ChannelId::from_random(channel));
        json!({"first": kind as u8, "header": encode_base64url(&header)})
    });
    json!({"channel": channel, "kinds": kinds})
}

fn vectors(held: &Value) -> Value {
    let home = Installation::new(1);
    let certificates: Vec<_> = Role::ALL
        .into_iter()
        .map(|role| {
            json!({
                "role": role.word(),
                "uri": home.identity(role).to_string(),
                "issuer_key": encode_base64url(home.key(role.issuer()).verifying_key().as_bytes()),
                "subject_key": encode_base64url(home.device_key().verifying_key().as_bytes()),
                "generation": 3,
                "client_auth": matches!(role, Role::Device | Role::Connector),
                "der": encode_base64url(&home.certificate(role)),
            })
        })
        .collect();
    let signature = sign_open(&home.device_key(), CONNECTOR, &[5; 32], &[4; wire::WG_INITIATION_LEN]);
    let messages: Vec<_> = messages::examples()
        .into_iter()
        .map(|example| {
            json!({
                "name": example.name,
                "type": example.frame_type,
                "frame": encode_base64url(&wire::encode_frame(example.frame_type, &example.body)),
                "fields": example.fields,
            })
        })
        .collect();
    json!({
        "documents": [
            document(&home, &home.grant()),
            document(&home, &home.beacon()),
            document(&home, &home.revocation()),
            document(&home, &slice(&home, Audience::Connector(CONNECTOR), for_a_connector())),
            document(&home, &slice(&home, Audience::Device(DeviceId::from_bytes([3; 16])), for_a_client())),
            document(&home, &slice(&home, Audience::Pop(PopId::from_bytes([7; 16])), for_a_pop(&home))),
        ],
        "chain": {
            "text": home.chain.to_text(),
            "root_hash": home.bundle.root().to_string(),
            "bundle_keys": KeyRole::ALL.len(),
        },
        "certificates": certificates,
        "open_signature": {
            "public_key": encode_base64url(home.device_key().verifying_key().as_bytes()),
            "connector": encode_base64url(CONNECTOR.as_bytes()),
            "client_key": encode_base64url(&[5; 32]),
            "initiation_sha256": encode_base64url(&sha256(&[&[4; wire::WG_INITIATION_LEN]])),
            "signature": encode_base64url(&signature),
        },
        "sealed": sealed(&home, &held["sealed"]),
        "join_keys": join_key(&home),
        "relay": relay(),
        "messages": messages,
    })
}

fn golden() -> (std::path::PathBuf, Option<String>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/vectors.json");
    let text = std::fs::read_to_string(&file).ok();
    (file, text)
}

#[test]
fn the_golden_vectors_are_what_this_version_writes() {
    let (file, held) = golden();
    let value = held.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let text = serde_json::to_string_pretty(&vectors(&value)).expect("JSON") + "\n";
    if std::env::var_os("TIDEGATE_WRITE_VECTORS").is_some() {
        std::fs::write(&file, &text).expect("written");
        return;
    }
    let held = held.expect("TIDEGATE_WRITE_VECTORS=1 cargo test -p policy --test vectors writes it");
    assert_eq!(held, text, "the format changed: neighbouring versions would no longer understand each other");
}

#[test]
fn the_golden_documents_verify_years_of_code_later() {
    fn accept<D: Document + PartialEq + Debug>(home: &Installation, golden: &Value) {
        let token = golden["token"].as_str().expect("a token");
        let read = Unverified::<D>::parse(token).and_then(|document| document.verify(&home.bundle, NOW));
        let said: D = serde_json::from_value(golden["claims"].clone()).expect("its claims");
        assert_eq!(read, Ok(said), "{}", golden["kind"]);
    }
    let home = Installation::new(1);
    let golden: Value = serde_json::from_str(&golden().1.expect("read")).expect("JSON");
    let documents = &golden["documents"];
    accept::<Grant>(&home, &documents[0]);
    accept::<Beacon>(&home, &documents[1]);
    accept::<Revocation>(&home, &documents[2]);
    accept::<Slice<ConnectorSlice>>(&home, &documents[3]);
    accept::<Slice<ClientSlice>>(&home, &documents[4]);
    accept::<Slice<PopSlice>>(&home, &documents[5]);
    assert_eq!(documents.as_array().map(Vec::len), Some(6));
}

#[test]
fn each_message_of_this_version_has_a_golden_vector_that_decodes_to_what_wrote_it() {
    macro_rules! known {
        ($kind:expr, $body:expr, $($set:ident),*) => {{
            // `Ok(None)` is a type that a set does not have.
            let mut again = None;
            let mut is_known = false;
            $(match $set::decode_body($kind, $body) {
                Ok(None) => {}
                Ok(Some(message)) => (is_known, again) = (true, Some((message.name(), message.encode_body()))),
                Err(_) => is_known = true,
            })*
            (is_known, again)
        }};
    }
    let examples = messages::examples();
    let mut numbers = BTreeSet::new();
    for example in &examples {
        assert!(numbers.insert(example.frame_type), "two examples of {}", example.name);
        let (_, again) = known!(
            example.frame_type,
            &example.body,
            FromAgent,
            ToAgent,
            FromSigner,
            ToSigner,
            ControlRequest,
            ControlReply
        );
        assert_eq!(again, Some((example.name, example.body.clone())));
    }
    for number in 0..=u16::MAX {
        let (is_known, _) =
            known!(number, &[0xFF], FromAgent, ToAgent, FromSigner, ToSigner, ControlRequest, ControlReply);
        assert_eq!(is_known, numbers.contains(&number), "message {number}");
    }
}

#[test]
fn what_was_sealed_when_the_golden_file_was_written_opens_and_nothing_else_does() {
    let home = Installation::new(1);
    let golden: Value = serde_json::from_str(&golden().1.expect("read")).expect("JSON");
    let sealed = |name: &str| {
        let text = golden["sealed"][name]["sealed"].as_str().expect("a text");
        decode_base64url(text).expect("base64url")
    };
    let (request, introduction) = (sealed("request"), sealed("introduction"));
    assert!(says_the_request(&home, &request));
    assert_eq!(unseal_open(&open_key(), CONNECTOR, &introduction).as_deref(), Ok(INTRODUCTION));
    // Held before its certificate was valid, or by another controller, it is nothing.
    let early = NOW.minus(Duration::from_secs(24 * 3600));
    assert!(open_request(&open_key(), &bundle(&home), early, &request).is_err());
    assert!(open_request(&OpenKey::generate(), &bundle(&home), NOW, &request).is_err());
    assert!(unseal_open(&open_key(), ConnectorId::from_bytes([9; 16]), &introduction).is_err());
    assert!(unseal_open(&open_key(), CONNECTOR, &request).is_err());
}
