use super::*;
use crate::{ChannelId, ChannelSecret, DeviceId, PopId};
use proptest::prelude::*;

#[test]
fn a_message_survives_encoding() {
    let welcome = ToAgent::from(Welcome {
        version: 1,
        observed: "[2001:db8::1]:443".parse().expect("address"),
        keepalive_ms: 25_000,
        reconnect_window_ms: 1_000,
        beacon: Some(Bounded::new(vec![1, 2, 3]).expect("short")),
        revocations: vec![],
        channels: 0,
    });
    let body = welcome.encode_body();
    let back = ToAgent::decode_body(welcome.frame_type(), &body).expect("valid");
    assert_eq!(back, Some(welcome));
}

#[test]
fn an_unknown_type_is_skipped_and_an_unknown_field_too() {
    assert_eq!(ToAgent::decode_body(31_000, &[0xFF]).expect("skipped"), None);
    // {0: 30000, 9: "new"}: field 9 is of a later version.
    let body = [0xA2, 0x00, 0x19, 0x75, 0x30, 0x09, 0x63, b'n', b'e', b'w'];
    let go_away = ToAgent::decode_body(42, &body).expect("field 9 is skipped");
    assert_eq!(go_away, Some(ToAgent::GoAway(GoAway { within_ms: 30_000 })));
}

#[test]
fn an_introduction_of_an_older_pop_says_nothing_of_where_the_client_is_and_is_taken() {
    let now = Introduce {
        intro: 7,
        channel: ChannelId::from_random(9),
        secret: ChannelSecret::from_random([3; 32]),
        sealed: Bounded::default(),
        initiation: Bounded::default(),
        client_seen: Some("203.0.113.9:4000".parse().expect("address")),
    };
    let before = Introduce { client_seen: None, ..now.clone() };
    // An absent optional field leaves no trace: this is what an older PoP sends.
    let body = ToAgent::from(before.clone()).encode_body();
    assert_eq!(body[0], 0xA5, "a map of five");
    assert_eq!(ToAgent::decode_body(35, &body).expect("valid"), Some(before.into()));
    let body = ToAgent::from(now.clone()).encode_body();
    assert_eq!(ToAgent::decode_body(35, &body).expect("valid"), Some(now.into()));
}

#[test]
fn the_longest_report_of_paths_fits_a_sealed_request_with_room_for_the_seal() {
    let told = |n: u8| PathTold {
        device: DeviceId::from_bytes([n; 16]),
        pop: Some(PopId::from_bytes([n; 16])),
        stream: true,
    };
    let paths: Vec<PathTold> = std::iter::repeat_with(|| told(0xFF)).take(MAX_PATHS).collect();
    let report = ControlRequest::from(TellPaths { afresh: true, paths, gone: Vec::new() });
    let body = report.encode_body();
    assert!(body.len() <= MAX_SEALED_REQUEST / 2, "{}", body.len());
    assert_eq!(ControlRequest::decode_body(133, &body).expect("valid"), Some(report));
}

#[test]
fn a_presence_of_an_older_pop_says_nothing_of_tcp_and_is_taken() {
    // {0: [], 1: []}
    let told = ToSigner::decode_body(99, &[0xA2, 0x00, 0x80, 0x01, 0x80]).expect("valid");
    let nobody = Presence { attached: vec![], detached: vec![], streams: vec![] };
    assert_eq!(told, Some(nobody.into()));
}

#[test]
fn bytes_behind_a_message_are_refused() {
    let mut body = FromAgent::from(Keepalive {}).encode_body();
    body.push(0);
    assert!(FromAgent::decode_body(2, &body).is_err());
}

#[test]
fn an_oversized_field_is_refused_before_it_is_copied() {
    let frame = ToController { seq: 1, sealed: Bounded::default() };
    let mut body = minicbor::to_vec(&frame).expect("encodes");
    body.pop();
    minicbor::Encoder::new(&mut body).bytes(&vec![0; MAX_SEALED_REQUEST + 1]).expect("encodes");
    assert!(FromAgent::decode_body(6, &body).is_err());
}

proptest! {
    #[test]
    fn no_body_panics_a_decoder(kind in 0_u16..200, body in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = FromAgent::decode_body(kind, &body);
        let _ = ToAgent::decode_body(kind, &body);
        let _ = FromSigner::decode_body(kind, &body);
        let _ = ToSigner::decode_body(kind, &body);
        let _ = ControlRequest::decode_body(kind, &body);
        let _ = ControlReply::decode_body(kind, &body);
    }
}
