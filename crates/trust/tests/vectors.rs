//! The golden vectors: what this crate writes today must be what `tests/vectors/vectors.json` holds, and that
//! file is judged by a decoder in another language (`cargo xtask vectors`).

mod installation;

use installation::{Body, Installation, NOW};
use serde_json::json;
use std::path::Path;
use trust::{
    Beacon, Document, Grant, KeyRole, Revocation, Role, Slice, Unverified, encode_base64url, sha256,
    sign_document, sign_open,
};
use wire::{ConnectorId, FromAgent, Open, ToAgent};

fn document<D: Document>(home: &Installation, document: &D) -> serde_json::Value {
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

fn vectors() -> serde_json::Value {
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
    let connector = ConnectorId::from_bytes([6; 16]);
    let open = FromAgent::from(Open {
        seq: 7,
        connector,
        sealed: vec![1, 2, 3].try_into().expect("short"),
        initiation: vec![4; wire::WG_INITIATION_LEN].try_into().expect("fits"),
    });
    let alive = ToAgent::from(wire::GoAway { within_ms: 30_000 });
    let signature = sign_open(&home.device_key(), connector, &[5; 32], &[4; wire::WG_INITIATION_LEN]);
    json!({
        "documents": [
            document(&home, &home.grant()),
            document::<Slice<Body>>(&home, &home.slice()),
            document(&home, &home.beacon()),
            document(&home, &home.revocation()),
        ],
        "chain": {
            "text": home.chain.to_text(),
            "root_hash": home.bundle.root().to_string(),
            "bundle_keys": KeyRole::ALL.len(),
        },
        "certificates": certificates,
        "open_signature": {
            "public_key": encode_base64url(home.device_key().verifying_key().as_bytes()),
            "connector": encode_base64url(connector.as_bytes()),
            "client_key": encode_base64url(&[5; 32]),
            "initiation_sha256": encode_base64url(&sha256(&[&[4; wire::WG_INITIATION_LEN]])),
            "signature": encode_base64url(&signature),
        },
        "messages": [
            {"name": "Open", "type": open.frame_type(), "body": encode_base64url(&open.encode_body()),
             "fields": {"0": 7, "1": encode_base64url(connector.as_bytes()), "2": encode_base64url(&[1, 2, 3]),
                        "3": encode_base64url(&[4; wire::WG_INITIATION_LEN])}},
            {"name": "GoAway", "type": alive.frame_type(), "body": encode_base64url(&alive.encode_body()),
             "fields": {"0": 30_000}},
        ],
    })
}

#[test]
fn the_golden_vectors_are_what_this_version_writes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/vectors.json");
    let text = serde_json::to_string_pretty(&vectors()).expect("JSON") + "\n";
    if std::env::var_os("TIDEGATE_WRITE_VECTORS").is_some() {
        std::fs::write(&file, &text).expect("written");
    }
    let golden =
        std::fs::read_to_string(&file).expect("TIDEGATE_WRITE_VECTORS=1 cargo test -p trust writes it");
    assert_eq!(
        golden, text,
        "the format changed: neighbouring versions would no longer understand each other"
    );
}

#[test]
fn the_golden_documents_verify_years_of_code_later() {
    let home = Installation::new(1);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/vectors.json");
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(file).expect("read")).expect("JSON");
    let token = |at: usize| golden["documents"][at]["token"].as_str().expect("a token").to_owned();
    fn accept<D: Document>(home: &Installation, text: &str) {
        Unverified::<D>::parse(text).and_then(|d| d.verify(&home.bundle, NOW)).map(|_| ()).expect("accepted");
    }
    accept::<Grant>(&home, &token(0));
    accept::<Slice<Body>>(&home, &token(1));
    accept::<Beacon>(&home, &token(2));
    accept::<Revocation>(&home, &token(3));
}
