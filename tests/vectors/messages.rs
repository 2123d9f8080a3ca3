//! One message of each type, and what its body says, field by field: for the golden vectors, and for the fuzz corpus.

use serde_json::{Value, json};
use trust::encode_base64url;
use wire::{
    Accept, Alive, Anchor, Anchored, BeaconPush, Bounded, BundlePush, ChannelClosed, ChannelId,
    ChannelSecret, CloseChannel, ConnectorId, ControlRefused, ControlReply, ControlRequest, ControllerId,
    ControllerUnavailable, DeviceId, FlowsTaken, Forward, FromAgent, FromController, FromSigner,
    GetRevocations, GetSlice, GoAway, Hello, Introduce, Keepalive, Open, OpenRefused, Opened, PathTold,
    PathsTaken, PopId, Presence, PublishBeacon, PublishBundle, PublishSlice, Refusal, Refuse, Renew, Renewed,
    Reply, Revocations, ShipFlows, SignerHello, SignerWelcome, SliceReply, Strike, StrikesElsewhere,
    StrikesHeld, TellPaths, ToAgent, ToController, ToSigner, WG_INITIATION_LEN, WG_RESPONSE_LEN, Welcome,
    Why, WhyReply,
};

/// A message.
pub struct Example {
    /// Its name.
    pub name: &'static str,
    /// Its number in the frame.
    pub frame_type: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// What the body says: by field number; bytes as base64url, everything else as itself.
    pub fields: Value,
}

fn text(bytes: &[u8]) -> String {
    encode_base64url(bytes)
}

fn bounded<const MAX: usize>(bytes: &[u8]) -> Bounded<MAX> {
    Bounded::new(bytes.to_vec()).expect("an example is short")
}

const CONNECTOR: [u8; 16] = [6; 16];
const CONTROLLER: [u8; 16] = [2; 16];
const DEVICE: [u8; 16] = [3; 16];
const POP: [u8; 16] = [7; 16];
const INITIATION: [u8; WG_INITIATION_LEN] = [4; WG_INITIATION_LEN];
const RESPONSE: [u8; WG_RESPONSE_LEN] = [5; WG_RESPONSE_LEN];
const SECRET: [u8; 32] = [8; 32];
const CHANNEL: u64 = 0xF0F1_F2F3_F4F5_F6F7;
const V4: [u8; 4] = [203, 0, 113, 9];
const V6: [u8; 16] = [0x20, 1, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
const DOCUMENT: &[u8] = b"v4.public.a.b";
const SEALED: &[u8] = &[0xA5; 40];
const URIS: [&[u8]; 2] = [b"spiffe://ins-a/one", b"spiffe://ins-a/two"];

/// Every message of this version, ordered by number.
#[must_use]
pub fn examples() -> Vec<Example> {
    let (v4, v6) = ((V4, 4000).into(), (V6, 443).into());
    let (seen_v4, seen_v6) = (json!([0, [text(&V4), 4000]]), json!([1, [text(&V6), 443]]));
    let secret = || ChannelSecret::from_random(SECRET);
    let channel = ChannelId::from_random(CHANNEL);
    let document = || bounded(DOCUMENT);
    let uris = || URIS.map(bounded).to_vec();
    macro_rules! example {
        ($set:ident::from($message:expr), $fields:tt) => {{
            let message = $set::from($message);
            Example {
                name: message.name(),
                frame_type: message.frame_type(),
                body: message.encode_body(),
                fields: json!($fields),
            }
        }};
    }
    vec![
        example!(FromAgent::from(Hello { oldest: 1, newest: 2, build: bounded(b"0.1.0") }),
            {"0": 1, "1": 2, "2": text(b"0.1.0")}),
        example!(FromAgent::from(Keepalive {}), {}),
        example!(FromAgent::from(Open {
            seq: 7,
            connector: ConnectorId::from_bytes(CONNECTOR),
            sealed: bounded(SEALED),
            initiation: bounded(&INITIATION),
        }), {"0": 7, "1": text(&CONNECTOR), "2": text(SEALED), "3": text(&INITIATION)}),
        example!(FromAgent::from(Accept {
            intro: u64::MAX,
            response: bounded(&RESPONSE),
            inner_v4: V4.into(),
            inner_v6: V6.into(),
        }), {"0": u64::MAX, "1": text(&RESPONSE), "2": text(&V4), "3": text(&V6)}),
        example!(FromAgent::from(Refuse { intro: 7, reason: Refusal::GrantExpired, retry_after_ms: 0 }),
            {"0": 7, "1": 6, "2": 0}),
        example!(FromAgent::from(ToController { seq: 300, sealed: bounded(SEALED) }),
            {"0": 300, "1": text(SEALED)}),
        example!(FromAgent::from(CloseChannel { channel }), {"0": CHANNEL}),
        example!(FromAgent::from(GetRevocations {
            signer: ControllerId::from_bytes(CONTROLLER),
            first: 1,
            last: 65_536,
        }), {"0": text(&CONTROLLER), "1": 1, "2": 65_536}),
        example!(ToAgent::from(Welcome {
            version: 1,
            observed: v6,
            keepalive_ms: 25_000,
            reconnect_window_ms: 1_000,
            beacon: Some(document()),
            revocations: vec![document(), bounded(b"second")],
            channels: 3,
        }), {"0": 1, "1": seen_v6, "2": 25_000, "3": 1_000, "4": text(DOCUMENT),
            "5": [text(DOCUMENT), text(b"second")], "6": 3}),
        example!(ToAgent::from(Alive { observed: v4, beacon: None, reconnect_window_ms: Some(7_400) }), {"0": seen_v4, "2": 7_400}),
        example!(ToAgent::from(BeaconPush { beacon: document() }), {"0": text(DOCUMENT)}),
        example!(ToAgent::from(Introduce {
            intro: 9,
            channel,
            secret: secret(),
            sealed: bounded(SEALED),
            initiation: bounded(&INITIATION),
            client_seen: Some(v4),
        }), {"0": 9, "1": CHANNEL, "2": text(&SECRET), "3": text(SEALED), "4": text(&INITIATION), "5": seen_v4}),
        example!(ToAgent::from(Opened {
            seq: 7,
            channel,
            secret: secret(),
            response: bounded(&RESPONSE),
            inner_v4: V4.into(),
            inner_v6: V6.into(),
            connector_seen: Some(v6),
        }), {"0": 7, "1": CHANNEL, "2": text(&SECRET), "3": text(&RESPONSE), "4": text(&V4), "5": text(&V6),
            "6": seen_v6}),
        example!(ToAgent::from(OpenRefused { seq: 7, reason: Refusal::NotAttached, retry_after_ms: 500 }),
            {"0": 7, "1": 1, "2": 500}),
        example!(ToAgent::from(FromController { seq: 300, sealed: bounded(SEALED) }),
            {"0": 300, "1": text(SEALED)}),
        example!(ToAgent::from(ControllerUnavailable {
            seq: 300,
            // What a newer version says arrives as its number.
            reason: Refusal::Unknown(60_000),
            retry_after_ms: u32::MAX,
        }), {"0": 300, "1": 60_000, "2": u32::MAX}),
        example!(ToAgent::from(Revocations { entries: vec![document()] }), {"0": [text(DOCUMENT)]}),
        example!(ToAgent::from(ChannelClosed { channel, reason: Refusal::Budget }), {"0": CHANNEL, "1": 2}),
        example!(ToAgent::from(GoAway { within_ms: 30_000 }), {"0": 30_000}),
        example!(ToAgent::from(BundlePush { chain: document() }), {"0": text(DOCUMENT)}),
        example!(FromSigner::from(SignerHello { oldest: 1, newest: 1 }), {"0": 1, "1": 1}),
        example!(FromSigner::from(PublishBeacon { beacon: document() }), {"0": text(DOCUMENT)}),
        example!(FromSigner::from(PublishBundle { chain: document() }), {"0": text(DOCUMENT)}),
        example!(FromSigner::from(Strike { entries: vec![document()] }), {"0": [text(DOCUMENT)]}),
        example!(FromSigner::from(Reply { route: 1 << 40, seq: 300, sealed: bounded(SEALED) }),
            {"0": 1_u64 << 40, "1": 300, "2": text(SEALED)}),
        example!(FromSigner::from(PublishSlice { slice: document() }), {"0": text(DOCUMENT)}),
        example!(ToSigner::from(SignerWelcome {
            version: 1,
            held: vec![document()],
            attached: uris(),
            beacons: vec![document()],
            streams: uris()[..1].to_vec(),
        }), {"0": 1, "1": [text(DOCUMENT)], "2": URIS.map(text), "3": [text(DOCUMENT)], "4": [text(URIS[0])]}),
        example!(ToSigner::from(Forward { route: 1 << 40, seq: 300, sealed: bounded(SEALED) }),
            {"0": 1_u64 << 40, "1": 300, "2": text(SEALED)}),
        example!(ToSigner::from(StrikesHeld {
            hashes: vec![bounded(&SECRET)],
            connectors: vec![ConnectorId::from_bytes(CONNECTOR)],
        }), {"0": [text(&SECRET)], "1": [text(&CONNECTOR)]}),
        example!(ToSigner::from(Presence { attached: uris(), detached: vec![], streams: uris()[1..].to_vec() }),
            {"0": URIS.map(text), "1": [], "2": [text(URIS[1])]}),
        example!(ToSigner::from(StrikesElsewhere { entries: vec![document()] }), {"0": [text(DOCUMENT)]}),
        example!(ControlRequest::from(Renew { certificate: true }), {"0": true}),
        example!(ControlRequest::from(GetSlice { incarnation: 1, version: 9 }), {"0": 1, "1": 9}),
        example!(ControlRequest::from(Why { resource: bounded(b"wiki") }), {"0": text(b"wiki")}),
        example!(ControlRequest::from(ShipFlows { batch: 7, ndjson: bounded(b"{\"id\":\"1\"}\n") }),
            {"0": 7, "1": text(b"{\"id\":\"1\"}\n")}),
        example!(ControlRequest::from(Anchor { nonce: [9; 16] }), {"0": text(&[9; 16])}),
        example!(ControlRequest::from(TellPaths {
            afresh: false,
            paths: vec![
                PathTold {
                    device: DeviceId::from_bytes(DEVICE),
                    pop: Some(PopId::from_bytes(POP)),
                    stream: true,
                },
                PathTold { device: DeviceId::from_bytes([10; 16]), pop: None, stream: false },
            ],
            gone: vec![DeviceId::from_bytes([11; 16])],
        }), {"0": false, "1": [{"0": text(&DEVICE), "1": text(&POP), "2": true}, {"0": text(&[10; 16]), "2": false}],
            "2": [text(&[11; 16])]}),
        example!(ControlReply::from(Renewed { grant: Some(bounded(DOCUMENT)), certificate: Some(bounded(&[0x30, 0])) }),
            {"0": text(DOCUMENT), "1": text(&[0x30, 0])}),
        example!(ControlReply::from(SliceReply { slice: None }), {}),
        example!(ControlReply::from(WhyReply { explanation: bounded(b"{}") }), {"0": text(b"{}")}),
        example!(ControlReply::from(FlowsTaken { batch: 7 }), {"0": 7}),
        example!(ControlReply::from(Anchored { beacon: document() }), {"0": text(DOCUMENT)}),
        example!(ControlReply::from(ControlRefused { reason: Refusal::Malformed, retry_after_ms: 0 }),
            {"0": 4, "1": 0}),
        example!(ControlReply::from(PathsTaken { held: 1_000 }), {"0": 1_000}),
    ]
}
