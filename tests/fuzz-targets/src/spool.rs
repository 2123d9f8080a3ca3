//! What a connector finds of its flow records on its disk.

use std::{fs, net::SocketAddr};
use trust::{Owner, UnixMs};
use wire::{ConnectorId, DeviceId, OrganizationId, UserId};

/// Its own source, which no crate exports.
#[path = "../../../crates/connector/src/spool.rs"]
#[allow(dead_code, missing_docs, unreachable_pub, reason = "shared with the connector, which documents it")]
mod source;

use source::{Appended, SEGMENT_BYTES, Spool};

/// Bytes of an input that are the other file's name.
const NAME: usize = 27;
const WALL: UnixMs = UnixMs::from_millis(1_800_000_000_000);

fn record() -> connector::FlowRecord {
    connector::FlowRecord {
        id: "1-1".to_owned(),
        organization: OrganizationId::from_bytes([2; 16]),
        connector: ConnectorId::from_bytes([6; 16]),
        device: DeviceId::from_bytes([5; 16]),
        device_name: "laptop".to_owned(),
        owner: Owner::User(UserId::from_bytes([4; 16])),
        owner_name: "Ann".to_owned(),
        resource: None,
        resource_name: None,
        protocol: "tcp".to_owned(),
        destination: SocketAddr::from(([100, 97, 0, 9], 443)),
        name: None,
        target: None,
        relay: None,
        verdict: connector::Verdict::Denied,
        reason: "no-policy".to_owned(),
        explanation: "no policy names it".to_owned(),
        bytes_up: 0,
        bytes_down: 0,
        started: WALL,
        ended: WALL,
    }
}

/// Segments under names that somebody chose: whole lines are shipped, each batch is at most one segment, and what is written
/// afterwards comes out behind them.
pub(crate) fn spool(bytes: &[u8]) {
    let place = crate::disk::place("spool");
    let _ = fs::remove_dir_all(&place);
    fs::create_dir_all(&place).expect("made");
    let (name, inside) = bytes.split_at(bytes.len().min(NAME));
    let name: String = name
        .iter()
        .map(|byte| char::from(*byte))
        .filter(|c| c.is_ascii_alphanumeric() || *c == '.')
        .collect();
    let _ = fs::write(place.join(name), inside);
    fs::write(place.join("00000000000000000007.ndjson"), inside).expect("written");
    let mut spool = Spool::open(&place).expect("a directory that is there");
    let kept = spool.append(&record(), WALL) == Appended::Kept;
    let mut batches: Vec<(u64, Vec<u8>)> = Vec::new();
    while let Some((batch, ndjson)) = spool.next_batch() {
        assert!(ndjson.len() <= SEGMENT_BYTES && ndjson.ends_with(b"\n"), "{} bytes", ndjson.len());
        assert!(batches.last().is_none_or(|(last, _)| *last < batch), "{batch} came behind a later one");
        spool.acknowledge(batch);
        batches.push((batch, ndjson));
        assert!(batches.len() <= 3, "three files were there");
    }
    let newest = batches.last().map(|(_, ndjson)| ndjson.clone());
    assert!(!kept || newest == Some(own()), "what was appended was not shipped, or not as it was");
    assert_eq!(spool.segments(), 0);
}

fn own() -> Vec<u8> {
    let mut line = serde_json::to_vec(&record()).expect("it serializes");
    line.push(b'\n');
    line
}

/// Genuine inputs: a name, and what is in the file.
pub(crate) fn genuine() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let name = b"00000001700000000000.ndjson";
    let torn = [&own()[..], b"{\"id\":"].concat();
    vec![
        ("spool", "segments", [&name[..], &own()].concat()),
        ("spool", "torn", [&name[..], &torn].concat()),
        ("spool", "later", [&b"00000001800000000001.ndjson"[..], &own()].concat()),
        ("spool", "last-number", [&b"18446744073709551615.ndjson"[..], &own()].concat()),
    ]
}
